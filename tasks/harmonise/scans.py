"""The scans of one site as the fit reads them, checked when made. Messages name the scan by its place (0 is the first), the column
and the rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from tasks.harmonise.columns import flags, numbers, texts
from tasks.harmonise.errors import HarmoniseError
from tasks.harmonise.plan import (
    AGE_CENTRE,
    DURATION_CENTRE,
    EDSS_CENTRE,
    EDSS_UNIT,
    MALE,
    REFERENCE_PHENOTYPE,
    YEARS_A_UNIT,
    Bools,
    Floats,
    Plan,
    Texts,
)

RANGES: Final = {"age_years": (0.0, 120.0), "duration_years": (-5.0, 100.0), "edss": (0.0, 10.0)}
READ: Final[tuple[Callable[[str, Any], Any], ...]] = (numbers, numbers, texts, numbers, texts, numbers, texts, flags)


@dataclass(frozen=True)
class Scans:
    """Scans of one site, one a row; the order never matters.

    `values` (n_scans, n_measures): in the contract's units, in the plan's order of measures, NaN = this measure is absent.
    The rest (n_scans,): covariates on the day of the scan, none missing; `batch` from `batch_names`; `training`: whether the
    patient is on the training side of the split, for only those enter a sum.
    """

    values: Floats
    age_years: Floats
    sex: Texts  # F, M, X
    duration_years: Floats  # since onset; a scan may be a little earlier
    phenotype: Texts
    edss: Floats
    batch: Texts
    training: Bools

    def __post_init__(self) -> None:
        for column, read in zip(fields(self), READ, strict=True):
            object.__setattr__(self, column.name, read(column.name, getattr(self, column.name)))
        if self.values.ndim != 2:
            raise HarmoniseError(f"values has {self.values.ndim} dimensions, expected 2: scans and measures")
        for column in fields(self)[1:]:
            if (shape := getattr(self, column.name).shape) != (self.n,):
                raise HarmoniseError(f"column {column.name} has shape {shape}, expected ({self.n},)")
        _refuse(np.asarray(np.isinf(self.values).any(axis=1)), "a measure is infinite: leave it empty")
        for name, (low, high) in RANGES.items():
            column_values = getattr(self, name)
            rule = f"{name} is missing or not in {low:g} to {high:g}: give it or leave the scan out"
            _refuse(~((column_values >= low) & (column_values <= high)), rule)
        _refuse(~np.isin(self.sex, list(MALE)), f"sex is not one of {', '.join(MALE)}")
        _refuse(self.batch == "", "the batch has no name")

    @property
    def n(self) -> int:
        return int(self.values.shape[0])

    def take(self, rows: Bools) -> Scans:
        """The scans for which `rows` (n_scans,) is true."""
        return Scans(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})


def design(plan: Plan, scans: Scans) -> Floats:
    """Protected covariates on public scales, (n_scans, n_covariates).

    Age in decades from 40 years, male, duration in decades from 10 years, EDSS in steps of 2 points from 3, phenotypes.
    """
    known = (REFERENCE_PHENOTYPE, *plan.phenotypes)
    _refuse(~np.isin(scans.phenotype, known), f"phenotype is not one of the plan's: {', '.join(known)}")
    columns = {
        "age": (scans.age_years - AGE_CENTRE) / YEARS_A_UNIT,
        "male": np.array([MALE[sex] for sex in scans.sex.tolist()], dtype=np.float64),
        "duration": (scans.duration_years - DURATION_CENTRE) / YEARS_A_UNIT,
        "edss": (scans.edss - EDSS_CENTRE) / EDSS_UNIT,
    }
    kinds = [(scans.phenotype == name).astype(np.float64) for name in plan.phenotypes]
    return np.stack([columns[name] for name in plan.protected] + kinds, axis=1)


def to_model_scale(plan: Plan, scans: Scans) -> Floats:
    """Values as the model sees them, (n_scans, n_measures), about 0 +- 1, NaN where absent."""
    if scans.values.shape[1] != plan.n_measures:
        raise HarmoniseError(f"values has {scans.values.shape[1]} measures, the plan {plan.n_measures}")
    found = scans.values.copy()
    for at, measure in enumerate(plan.measures):
        if measure.log_offset is not None:
            _refuse(found[:, at] < 0, f"{measure.name} is below 0 and has no logarithm")
            found[:, at] = np.log(found[:, at] + measure.log_offset)
        found[:, at] = (found[:, at] - measure.centre) / measure.spread
    return found


def from_model_scale(plan: Plan, found: Floats) -> Floats:
    """The inverse of `to_model_scale`; a volume on the log scale that would fall below 0 becomes 0."""
    values = np.empty_like(found)
    for at, measure in enumerate(plan.measures):
        values[:, at] = found[:, at] * measure.spread + measure.centre
        if measure.log_offset is not None:
            values[:, at] = np.maximum(np.exp(values[:, at]) - measure.log_offset, 0.0)
    return values


def _refuse(wrong: Bools, rule: str) -> None:
    if wrong.any():
        raise HarmoniseError(f"scan {int(np.argmax(wrong))} and {int(wrong.sum()) - 1} more: {rule}")
