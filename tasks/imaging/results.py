"""What a segmenter's masks amount to over many sessions: overlap, lesions found by size, volumes; of all, by scanner, by load.

Intervals are of 95 % and hold for a new sample of patients: sessions and lesions of one patient are taken as alike as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from scipy.special import stdtrit

from tasks.imaging.outlines import Picture
from tasks.imaging.segmentation_scores import SIZES_ML, ScanScores
from tasks.imaging.task import LOAD_CUTS_ML, load_words

SIZES: Final = (f"below {SIZES_ML[0]:g} mL", f"{SIZES_ML[0]:g} to {SIZES_ML[1]:g} mL", f"from {SIZES_ML[1]:g} mL")
NO_LESIONS: Final = "no lesions"
Cuts = tuple[float, float]  # in mL, between small, medium and large loads
NOT_NAMED: Final = "not named"
ROUNDING: Final = 1e-9  # of a mean of numbers that are all the same


@dataclass(frozen=True)
class Segmented:
    """What was found in one scan. `scores` are against an empty mask where nobody has drawn one."""

    scores: ScanScores
    drawn: bool
    pictures: tuple[Picture, ...] = field(default=(), repr=False)  # slices with outlines

    @property
    def lesion_ml(self) -> float:
        return self.scores.predicted_ml

    @property
    def lesions(self) -> int:
        """Of at least 3 mm3."""
        return self.scores.predicted_lesions

    @property
    def dice(self) -> float | None:
        return self.scores.dice if self.drawn else None

    @property
    def drawn_ml(self) -> float | None:
        return self.scores.true_ml if self.drawn else None


@dataclass(frozen=True)
class Session:
    """One segmented session as tables and pages name it; `scanner` as the store knows it, "" where nothing names it.

    What follows a colon in a scanner's name is told in tables alone; names from side files have none.
    """

    name: str
    patient: str
    scanner: str
    found: Segmented

    @property
    def scores(self) -> ScanScores:
        return self.found.scores


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; no interval of one patient, or where all are alike."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Size:
    """Single lesions of one size: how many there are, how many of them are found."""

    name: str
    there: int
    found: int
    share: Estimate | None  # None without any


@dataclass(frozen=True)
class Row:
    """Sessions with a drawn mask, taken together."""

    name: str
    patients: int
    sessions: int
    dice: Estimate | None  # mean of sessions with lesions
    f1: Estimate | None  # lesion-wise, mean of sessions with lesions in either mask
    sizes: tuple[Size, ...]  # (3,)
    false_lesions: Estimate | None  # a session
    bias_ml: Estimate | None  # found minus drawn, a session

    def json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "name": self.name,
            "patients": self.patients,
            "sessions": self.sessions,
            "dice": _plain(self.dice),
            "lesion_f1": _plain(self.f1),
            "lesions_by_size": [
                {"size": size.name, "lesions": size.there, "found": size.found, "share": _plain(size.share)} for size in self.sizes
            ],
            "false_lesions_a_session": _plain(self.false_lesions),
            "volume_bias_ml": _plain(self.bias_ml),
        }


def _plain(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    parts = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: None if value is None else round(value, 4) for name, value in parts.items()}


def estimate_words(estimate: Estimate | None, digits: int = 2, *, signed: bool = False) -> str:
    """Such as "0.71 (0.62 to 0.80)"."""
    if estimate is None:
        return "–"
    said = f"{estimate.value:+.{digits}f}" if signed else f"{estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return said
    return f"{said} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"


def short(scanner: str) -> str:
    """A scanner's name where there is little room."""
    return scanner.partition(":")[0]


def drawn_of(sessions: Sequence[Session]) -> list[Session]:
    """Those with a mask to compare with."""
    return [session for session in sessions if session.found.drawn]


def row_of(name: str, sessions: Sequence[Session]) -> Row:
    """The drawn ones of `sessions` together."""
    drawn = drawn_of(sessions)
    ill = [session for session in drawn if session.scores.true_ml > 0]
    marked = [session for session in drawn if session.scores.f1 is not None]
    return Row(
        name,
        len({session.patient for session in drawn}),
        len(drawn),
        _mean(ill, lambda scores: scores.dice, 0.0, 1.0),
        _mean(marked, lambda scores: scores.f1 or 0.0, 0.0, 1.0),
        tuple(_size(number, drawn) for number in range(len(SIZES))),
        _mean(drawn, lambda scores: float(scores.predicted_lesions - scores.right_lesions), 0.0, math.inf),
        _mean(drawn, lambda scores: scores.predicted_ml - scores.true_ml, -math.inf, math.inf),
    )


def by_scanner(sessions: Sequence[Session]) -> list[Row]:
    """A row for each scanner with a drawn mask, by name; those that nothing names come last."""
    drawn = drawn_of(sessions)
    names = sorted({session.scanner for session in drawn}, key=lambda name: (not name, name))
    return [row_of(name or NOT_NAMED, [session for session in drawn if session.scanner == name]) for name in names]


def by_load(sessions: Sequence[Session], cuts_ml: Cuts = LOAD_CUTS_ML) -> list[Row]:
    """A row for each class of lesion load that there is: none, small, medium, large."""
    rows = []
    for at, name in enumerate((NO_LESIONS, *load_words(cuts_ml))):
        if part := [each for each in drawn_of(sessions) if load_of(each.scores, cuts_ml) == at]:
            right = sum(not each.scores.predicted_lesions for each in part)
            rows.append(row_of(name if at else f"{name}; none found in {right} of {len(part)}", part))
    return rows


def load_of(scores: ScanScores, cuts_ml: Cuts = LOAD_CUTS_ML) -> int:
    """0 without lesions, 1 to 3: small, medium, large."""
    return 1 + int(np.searchsorted(cuts_ml, scores.true_ml, side="right")) if scores.true_ml > 0 else 0


def results_of(sessions: Sequence[Session], cuts_ml: Cuts = LOAD_CUTS_ML) -> dict[str, object]:
    """All of it as plain values; nothing where no mask is drawn."""
    if not (drawn := drawn_of(sessions)):
        return {}
    parts = {"by_scanner": by_scanner(drawn), "by_load": by_load(drawn, cuts_ml)}
    return {"all": row_of("all", drawn).json(), **{name: [row.json() for row in rows] for name, rows in parts.items()}}


def scanner_lines(sessions: Sequence[Session]) -> list[dict[str, object]]:
    """By scanner in words, for a table of few columns."""
    return [
        {
            "scanner": row.name,
            "sessions": row.sessions,
            "Dice": estimate_words(row.dice),
            **{f"found {size.name}": f"{size.found} of {size.there}" for size in row.sizes},
            "volume bias, mL": estimate_words(row.bias_ml, signed=True),
        }
        for row in by_scanner(sessions)
    ]


def _size(number: int, drawn: Sequence[Session]) -> Size:
    there = [session.scores.true_lesions[number] for session in drawn]
    found = [session.scores.found_lesions[number] for session in drawn]
    share = ratio(found, there, [session.patient for session in drawn], least=0.0, most=1.0)
    return Size(SIZES[number], sum(there), sum(found), share)


def _mean(sessions: Sequence[Session], value: Callable[[ScanScores], float], least: float, most: float) -> Estimate | None:
    values, patients = [value(session.scores) for session in sessions], [session.patient for session in sessions]
    return ratio(values, [1.0] * len(values), patients, least=least, most=most)


def ratio(
    parts: Sequence[float], wholes: Sequence[float], patients: Sequence[str], *, least: float, most: float
) -> Estimate | None:
    """Sum of `parts` over that of `wholes`, (n,) each, cut to [least, most]; None where the wholes add up to nothing.

    Interval: the ratio of patients' totals, linearised, with Student's t (Cochran 1977, Sampling Techniques, 6.3).
    """
    names, owner = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    part, whole = (np.bincount(owner, weights=np.asarray(of, np.float64), minlength=len(names)) for of in (parts, wholes))
    part, whole = part[whole > 0], whole[whole > 0]
    n = len(whole)
    if not n:
        return None
    value = float(part.sum() / whole.sum())
    if n < 2:
        return Estimate(value)
    error = math.sqrt(n / (n - 1) * float(((part - value * whole) ** 2).sum())) / float(whole.sum())
    if error <= ROUNDING * max(1.0, abs(value)):
        return Estimate(value)
    reach = float(stdtrit(n - 1, 0.975)) * error
    return Estimate(value, max(value - reach, least), min(value + reach, most))
