"""What a run of harmonisation publishes: parameters that every site needs and none is named in, readable and machine-readable.

`reference` in result.json is what `apply.py` reads, at full precision; the tables beside it are for people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from tasks.harmonise import MIN_SCANS, Shared
from tasks.mri_harmonisation.fit import Fitted, coefficients, mixed_of, shared_of
from tasks.mri_harmonisation.frame import COMBAT, LONGITUDINAL, NAME, Frame
from tasks.mri_harmonisation.scans import Floats
from tasks.sums import Opened

FORMAT: Final = "wardround/mri-reference/1"
NOISES: Final = 3.0  # a count below so many standard deviations of noise is not shown
Row = dict[str, object]


def result_of(frame: Frame, version: str, opened: Sequence[Opened]) -> Mapping[str, object]:
    """Title, notes, tables, reference. `HarmoniseError` if exact sums do not determine the parameters."""
    parts = frame.split(0, opened[0].total)
    location = ratio = None
    if frame.longitudinal:
        found, scans, _ = mixed_of(frame, parts)
        shared, ratio = found.shared, found.ratio
        known = (scans >= MIN_SCANS) & (not opened[0].noise)  # a noised intercept is worse than the one a site finds itself
        location = np.where(known[:, None], found.location, np.nan)
    else:
        fitted: Fitted = coefficients(frame, parts)
        shared, scans = shared_of(frame, fitted, frame.split(1, opened[1].total)), fitted.scans
    return {
        "title": "Harmonisation of MRI measures",
        "notes": notes(frame, shared, opened[0].noise),
        "tables": {
            "measures": _measures(frame, shared, ratio),
            "effects": _effects(frame, shared),
            "batches": _batches(frame, scans, opened[0].noise),
        },
        "reference": _reference(frame, version, shared, location, ratio) | {"spread": not (frame.longitudinal and opened[0].noise)},
    }


def _reference(frame: Frame, version: str, shared: Shared, location: Floats | None, ratio: Floats | None) -> Row:
    found: Row = {
        "format": FORMAT,
        "task": NAME,
        "version": version,
        "model": LONGITUDINAL if frame.longitudinal else COMBAT,
        "measures": [measure.name for measure in frame.plan.measures],
        "protected": list(frame.plan.protected),
        "phenotypes": list(frame.plan.phenotypes),
        "batches": list(frame.plan.batches),
        "scans": frame.scans,
        "beta": shared.beta.tolist(),
        "grand_mean": shared.grand_mean.tolist(),
        "sigma": shared.sigma.tolist(),
    }
    if location is not None and ratio is not None:
        found["location"] = [None if np.isnan(row).any() else row.tolist() for row in location]
        found["ratio"] = ratio.tolist()
    return found


def _measures(frame: Frame, shared: Shared, ratio: Floats | None) -> list[Row]:
    """Grand mean and spread of each measure; on the scale of its logarithm where it has one."""
    found = []
    for at, measure in enumerate(frame.plan.measures):
        row: Row = {
            "measure": measure.name,
            "scale": "as measured" if measure.log_offset is None else f"ln(value + {measure.log_offset:g})",
            "grand_mean": _short(measure.centre + measure.spread * float(shared.grand_mean[at])),
            "sigma": _short(measure.spread * float(shared.sigma[at])),
        }
        if ratio is not None:
            row["share_of_patients"] = round(float(ratio[at] / (1 + ratio[at])), 3)
        found.append(row)
    return found


def _effects(frame: Frame, shared: Shared) -> list[Row]:
    """What is protected: change of a measure for a unit of each covariate."""
    words = {"age": "a decade of age", "male": "male", "duration": "a decade of disease", "edss": "2 points of EDSS"}
    return [
        {
            "measure": measure.name,
            **{
                words.get(name, name): _short(measure.spread * float(shared.beta[row, at]))
                for row, name in enumerate(frame.plan.covariates)
            },
        }
        for at, measure in enumerate(frame.plan.measures)
    ]


def _batches(frame: Frame, scans: Floats, noise: float) -> list[Row]:
    floor = max(MIN_SCANS, math.ceil(NOISES * noise))
    few = f"fewer than {floor}, or none"
    return [
        {"batch": name, "scans": few if n < floor else float(round(float(n)))}
        for name, n in zip(frame.plan.batches, scans, strict=True)
    ]


def notes(frame: Frame, shared: Shared, noise: float) -> list[str]:
    """What a reader must know to read it rightly."""
    found = [
        f"Of each patient on the training side at most {frame.scans} scans, the last ones, of the listed batches and complete.",
        "Each site harmonises its own scans, those of unlisted scanners too: wardround-site data harmonise RESULT --out FILE.",
    ]
    if still := [name for name, row in zip(frame.plan.covariates, shared.beta, strict=True) if not row.any()]:
        found.append(f"Not protected, for within batches nobody differs in it: {', '.join(still)}.")
    if frame.longitudinal:
        found.append("sigma is the error within patients; share_of_patients: the part of the variance that is their own level.")
    if noise and frame.longitudinal:
        found.append(
            "The error within patients is too small a part of a noised sum: scanners' shifts are taken out, their spreads stay."
        )
    if noise:
        found.append(f"Noise of {noise:.1f} (standard deviation) is in every number of the first sum, in units of scans.")
    else:
        found.append("NOT PRIVATE: no noise was added.")
    return found


def _short(value: float) -> float:
    return float(f"{value:.4g}")
