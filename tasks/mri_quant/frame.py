"""What a plan fixes about the rates: measures, covariates, whose volumes, the trial that is planned; shapes and bound follow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from tasks.errors import ContractError
from tasks.mri_harmonisation.scans import AS_MEASURED, harmonised_measures, reference_number
from tasks.mri_quant.measures import RATE_MEASURES, RateMeasure
from tasks.sums import Choice, Floats, NamedShape

NAME: Final = "mri_quant"
MODEL: Final = "rates"
COVARIATES: Final = ("age_years", "sex", "duration_years")
MEASURES: Final = tuple(measure.name for measure in RATE_MEASURES)
CENTRE: Final = {"age_years": 45.0, "sex": 1.0, "duration_years": 15.0}  # sex: F 0, X 1, M 2
UNIT: Final = {"age_years": 30.0, "sex": 2.0, "duration_years": 20.0}  # what counts as 1; further away counts as 1 too
REFERENCE: Final = "reference"
SLOWING: Final = "slowing_pct"
YEARS: Final = "trial_years"
SCANS: Final = "trial_scans"
MOST_SCANS: Final = 12  # of one patient: the last ones
FREEDOM: Final = 6.0  # a patient's scans tell the error of a scan with so many degrees of freedom at most
LARGEST_ERROR: Final = 4.0  # times what is publicly known, in variance: what a patient's scans say beyond counts as this
ROOM: Final = 2.0  # so many degrees more are believed: one alone is often four times its mean, and cutting it there would bias that
SCALES: Final = {"ww": 0.25, "patients": 0.5, "below": 0.5, "squares": 0.5, "freedom": 0.5}
"""What these parts are multiplied with in a vector: means and spreads need them less exactly; shorter ones are noised less."""
BOUND: Final = (1.7, 0.1)  # of one measure: without covariates, and for each


@dataclass(frozen=True)
class Trial:
    """The trial whose size is reported: slowing of the loss by `slowing`, seen by `scans` scans in equal steps over `years`."""

    slowing: float
    years: float
    scans: int

    @property
    def spread(self) -> float:
        """Sum of squares of the days of scans about their mean, in years."""
        return float(np.sum((np.linspace(0.0, self.years, self.scans) - self.years / 2) ** 2))


@dataclass(frozen=True)
class Frame:
    """`reference`: the name of the harmonisation whose volumes count; "" for volumes as measured, and no others."""

    measures: tuple[RateMeasure, ...]
    covariates: tuple[str, ...]
    reference: str
    trial: Trial

    @property
    def width(self) -> int:
        """Coefficients of one measure."""
        return 1 + len(self.covariates)

    @property
    def number(self) -> float:
        """That of the reference, as scans bear it."""
        return reference_number(self.reference) if self.reference else AS_MEASURED

    def shift(self, measure: RateMeasure) -> float:
        """Standard deviation of what a change of scanner does to a volume, %."""
        return measure.left if self.reference else measure.shift

    @property
    def stages(self) -> tuple[tuple[NamedShape, ...], ...]:
        """One stage; of each measure the weighted products that least squares and the variances need."""
        q = self.width
        upper = q * (q + 1) // 2
        parts = (("xx", upper), ("ww", upper), ("xy", q), ("yy", 1), ("patients", 1), ("below", 1), ("squares", 1), ("freedom", 1))
        return (tuple((f"{each.name}.{name}", (length,)) for each in self.measures for name, length in parts),)

    @property
    def bound(self) -> float:
        """L2 norm to which a patient's vector is cut in a private mode: that of a patient rather far from typical."""
        one = BOUND[0] + BOUND[1] * len(self.covariates)
        return round(one * math.sqrt(len(self.measures)), 4)

    def split(self, vector: Floats) -> dict[str, dict[str, Floats]]:
        """The parts of a sum by measure and name, as if nothing had been scaled."""
        ends = np.cumsum([math.prod(shape) for _, shape in self.stages[0]])[:-1]
        found: dict[str, dict[str, Floats]] = {}
        for part, (name, _) in zip(np.split(vector, ends), self.stages[0], strict=True):
            measure, _, kind = name.partition(".")
            found.setdefault(measure, {})[kind] = part / SCALES.get(kind, 1.0)
        return found


def frame_of(choice: Choice) -> Frame:
    """The frame of a plan; `ContractError` for a model, option or column that there is not, or that cannot be."""
    if choice.model != MODEL:
        raise ContractError(f"task {NAME} has no model {choice.model!r}; it has {MODEL}")
    known = (REFERENCE, SLOWING, YEARS, SCANS)
    if unknown := sorted(set(choice.options) - set(known)):
        raise ContractError(f"task {NAME}: option {unknown[0]!r} is unknown; known: {', '.join(known)}")
    if unknown := [name for name in choice.columns if name not in (*COVARIATES, *MEASURES)]:
        raise ContractError(f"task {NAME} has no column {unknown[0]!r}; it has {', '.join((*COVARIATES, *MEASURES))}")
    measures = tuple(measure for measure in RATE_MEASURES if measure.name in choice.columns)
    if not measures:
        raise ContractError(f"task {NAME}: no measure is among the columns; choose from {', '.join(MEASURES)}")
    covariates = tuple(name for name in COVARIATES if name in choice.columns)
    return Frame(measures, covariates, _reference(choice.options, measures), _trial(choice.options))


def _reference(options: Mapping[str, str | int | float], measures: tuple[RateMeasure, ...]) -> str:
    name = options.get(REFERENCE, "")
    if name == "":
        return ""
    if not isinstance(name, str) or math.isnan(reference_number(name)):
        raise ContractError(
            f"task {NAME}: {REFERENCE} is {name!r}, which is no name of a harmonisation: `wardround-lead result` of its run says "
            "it, an h and 12 hexadecimal digits"
        )
    if missing := [each.name for each in measures if each.name not in harmonised_measures(name)]:
        raise ContractError(f"task {NAME}: the harmonisation {name} is not of {', '.join(missing)}: leave that column out")
    return name


def _trial(options: Mapping[str, str | int | float]) -> Trial:
    slowing = _number(options, SLOWING, 30.0, (1.0, 100.0))
    years = _number(options, YEARS, 2.0, (0.5, 10.0))
    scans = _number(options, SCANS, 3.0, (2.0, 40.0))
    if scans != int(scans):
        raise ContractError(f"task {NAME}: {SCANS} is {scans:g}, it must be a whole number")
    return Trial(slowing / 100.0, years, int(scans))


def _number(options: Mapping[str, str | int | float], name: str, default: float, limits: tuple[float, float]) -> float:
    value = options.get(name, default)
    if isinstance(value, str | bool) or not limits[0] <= value <= limits[1]:
        raise ContractError(f"task {NAME}: {name} is {value!r}, it must be {limits[0]:g} to {limits[1]:g}")
    return float(value)
