"""From the opened, noised sum to what a consortium may read. Few and none look alike, and so do nearly all and all.

Everything here is post-processing: it costs no privacy, and gives none back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from tasks.cohort_description.columns import ROW_WORDS, Described, Floats
from tasks.cohort_description.vectors import HEAD, unscaled
from tasks.disclosure import HIDDEN, Sharpness

QUANTILES: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
Row = dict[str, object]


def table_rows(parts: dict[str, Floats], sharp: Sharpness) -> list[Row]:
    """One row for each table: patients with rows, and how many rows they have."""
    found = []
    for name, part in parts.items():
        counts = {f"patients with {words}": float(count) for words, count in zip(ROW_WORDS, part[1:HEAD], strict=True)}
        classes: Row = {**sharp.groups(counts)}  # together they are all who have rows
        found.append({"table": name, "patients": sharp.patients(part[0]), **classes})
    return found


def column_rows(column: Described, part: Floats, patients: float, sharp: Sharpness) -> Iterator[Row]:
    """One row for a numeric column, one for each code of a coded one."""
    known = float(part[1] + part[2]) if not column.codes else float(part[1:].sum())
    head: Row = {"column": column.name, "unit": column.unit, "patients": sharp.patients(known)}
    head["filled"] = _share(float(part[0]), patients, sharp)
    if column.codes:
        masses = {code: float(mass) for code, mass in zip(column.codes, part[1:], strict=True)}
        # Where a cell has one code, the shares add up to all: what is not shown could be subtracted.
        shown = sharp.groups(masses) if not column.several else {}
        for code, mass in masses.items():
            hidden = shown.get(code) == HIDDEN
            yield head | {"code": code, "share": HIDDEN if hidden else _share(mass, known, sharp)}
    else:
        yield head | _numbers(column, part, known, sharp)


def _share(part: float, whole: float, sharp: Sharpness) -> float | str:
    """A share of patients to two digits; suppressed at both ends, since the whole is shown beside it."""
    if whole < sharp.floor:
        return sharp.few
    if part < sharp.floor:
        return f"less than {sharp.floor / whole:.2f}, or none"
    if whole - part < sharp.floor:
        return f"more than {max(0.0, 1.0 - sharp.floor / whole):.2f}, or all"
    return round(part / whole, 2)


def _numbers(column: Described, part: Floats, known: float, sharp: Sharpness) -> Row:
    """Mean of the patients' means, and quantiles of their values, each patient counting once."""
    label = "geometric mean" if column.logarithmic else "mean"
    if known < sharp.floor:
        return {"mean_kind": label, **dict.fromkeys(("mean", "mean_noise_se", *map(_quantile_name, QUANTILES)), sharp.few)}
    x = min(max(float(part[1]) / known, 0.0), 1.0)
    noise = math.sqrt(x * x + (1.0 - x) ** 2) * sharp.noise / known
    mean = unscaled(column, x)
    spread = max(unscaled(column, min(x + noise, 1.0)) - mean, mean - unscaled(column, max(x - noise, 0.0)))
    found: Row = {"mean_kind": label, "mean": _digits(column, mean), "mean_noise_se": _digits(column, spread)}
    for q, value in zip(QUANTILES, quantiles(column, part[3:]), strict=True):
        found[_quantile_name(q)] = _digits(column, value)
    return found


def quantiles(column: Described, mass: Floats) -> list[float]:
    """`QUANTILES` by linear interpolation within bins. Bins that noise made negative count as empty of mass once it is added up."""
    edges = column.edges[:: (len(column.edges) - 1) // len(mass)]
    total = np.maximum.accumulate(np.maximum(np.concatenate([[0.0], np.cumsum(mass)]), 0.0))
    if total[-1] <= 0.0:
        return [float(edges[0])] * len(QUANTILES)
    found = []
    for q in QUANTILES:
        target = q * total[-1]
        at = min(max(int(np.searchsorted(total, target, side="left")), 1), len(mass))
        inside = (target - total[at - 1]) / max(total[at] - total[at - 1], 1e-12)
        found.append(float(edges[at - 1] + min(max(inside, 0.0), 1.0) * (edges[at] - edges[at - 1])))
    return found


def _quantile_name(q: float) -> str:
    return f"p{round(100 * q)}"


def _digits(column: Described, value: float) -> float:
    """To a thousandth of the range, or three significant digits on a logarithmic scale: more would be noise."""
    if column.logarithmic:
        return float(f"{value:.3g}")
    width = float(column.edges[-1] - column.edges[0])
    return round(value, max(0, 3 - math.ceil(math.log10(width))))


def notes(sharp: Sharpness, columns: Sequence[Described]) -> list[str]:
    """What a reader must know to read it rightly."""
    found = [
        "Patients on the training side of the split, of the sites in the sum; the held-out side is not described.",
        "Every patient counts once: means, quantiles and shares are of patients, not of rows.",
        f"Fewer than {sharp.floor:g} patients and none look alike, and so do all but so few and all.",
    ]
    if sharp.noise:
        found.append(
            f"Noise of {sharp.noise:.1f} patients (standard deviation) is in every count; mean_noise_se: its part in a mean."
        )
    else:
        found.append("NOT PRIVATE: no noise was added.")
    if any(column.limits for column in columns):
        found.append("Quantiles are interpolated within a bin: of scores and counts they are no value that anybody has.")
    if any(column.logarithmic for column in columns):
        found.append("A geometric mean is that of 1 + the distance from the lower end of the range.")
    return found
