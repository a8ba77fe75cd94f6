"""result.json of a run, read strictly: whoever harmonises with it gets the parameters of that run or an error, never others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tasks.errors import DataError
from tasks.harmonise import MRI_MEASURES, HarmoniseError, Plan, Shared
from tasks.mri_harmonisation.frame import COMBAT, LONGITUDINAL, MOST_SCANS, NAME
from tasks.mri_harmonisation.result import FORMAT
from tasks.mri_harmonisation.scans import MEASURES, NAME_DIGITS, Floats
from tasks.result_file import read_part

KNOWN_VERSIONS: Final = ("1",)
LARGEST: Final = 1e6  # of any parameter on the model's scale
SMALLEST_SIGMA: Final = 1e-7  # the fit refuses a measure long before


@dataclass(frozen=True)
class Reference:
    """What a run published; `spread`: whether batches' spreads are made equal too, or shifts taken out alone.

    Of the longitudinal model alone: `location` (n_batches, n_measures), NaN where unknown, and `ratio` (n_measures,).
    """

    plan: Plan
    scans: int
    longitudinal: bool
    spread: bool
    shared: Shared
    location: Floats
    ratio: Floats


def load_reference(path: Path) -> Reference:
    """From an exported result.json. `DataError` says what it is not."""
    part = read_part(path, task=NAME, holds="reference of MRI measures", written_as=FORMAT, versions=KNOWN_VERSIONS)
    try:
        return reference_of(part)
    except (HarmoniseError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: its reference contradicts itself. Export the run again") from error


def reference_of(part: Mapping[str, Any]) -> Reference:
    """The `reference` of a result; `HarmoniseError`, `KeyError`, `OverflowError`, `TypeError` or `ValueError` if not."""
    known = {measure.name: measure for measure in MRI_MEASURES}
    names = [part[name] for name in ("measures", "batches", "phenotypes", "protected")]
    scans, model = part["scans"], part["model"]
    if not all(isinstance(each, list) for each in names) or not isinstance(scans, int) or isinstance(scans, bool):
        raise TypeError("names that are no list, or a number of scans that is not whole")
    if model not in (COMBAT, LONGITUDINAL):
        raise ValueError("a model that there is not")
    plan = Plan(tuple(known[name] for name in names[0]), *(tuple(map(str, each)) for each in names[1:]))
    longitudinal = model == LONGITUDINAL
    g = plan.n_measures
    shared = Shared(
        _array(part["beta"], (plan.n_covariates, g)), _array(part["grand_mean"], (g,)), _array(part["sigma"], (g,))
    )  # fmt: skip
    location, ratio = np.full((plan.n_batches, g), np.nan), np.zeros(g)
    if longitudinal:
        empty = [None] * g
        rows = [empty if row is None else row for row in part["location"]]
        location, ratio = _array(rows, (plan.n_batches, g), gaps=True), _array(part["ratio"], (g,))
    if not (shared.sigma >= SMALLEST_SIGMA).all() or (ratio < 0).any() or not 1 <= scans <= MOST_SCANS:
        raise HarmoniseError("a spread that is next to nothing, a ratio below 0, or a number of scans that cannot be")
    if not isinstance(part["spread"], bool):
        raise TypeError("spread is neither true nor false")
    return Reference(plan, scans, longitudinal, part["spread"], shared, location, ratio)


def name_of(reference: Reference) -> str:
    """By which plans and tables name these parameters: h, two hexadecimal digits for the measures, ten of a digest."""
    plan, shared = reference.plan, reference.shared
    words = [
        [measure.name for measure in plan.measures], plan.batches, plan.phenotypes, plan.protected,
        [reference.scans, reference.longitudinal, reference.spread],
    ]  # fmt: skip
    arrays = (shared.beta, shared.grand_mean, shared.sigma, reference.location, reference.ratio)
    numbers = [[None if np.isnan(each) else each for each in (array + 0.0).ravel().tolist()] for array in arrays]  # no -0.0
    digest = hashlib.sha256(b"wardround/mri reference/1" + json.dumps([words, numbers], allow_nan=False).encode()).hexdigest()
    which = sum(1 << MEASURES.index(measure.name) for measure in plan.measures)
    return f"h{which:02x}{digest[: NAME_DIGITS - 2]}"


def _array(found: Any, shape: tuple[int, ...], *, gaps: bool = False) -> Floats:
    numbers = np.array(found, dtype=np.float64)  # None becomes NaN
    sound = np.abs(numbers) <= LARGEST
    if numbers.shape != shape or not (sound | np.isnan(numbers) if gaps else sound).all():
        raise ValueError(f"numbers of shape {numbers.shape}, expected {shape}, all finite")
    return numbers
