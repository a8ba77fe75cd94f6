"""What a plan fixes about one harmonisation: batches, covariates, measures, scans of a patient; every shape follows from it.

All scales and bounds are public constants; none was learnt from patients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from tasks.errors import ContractError
from tasks.harmonise import MRI_MEASURES, HarmoniseError, Plan
from tasks.harmonise import longitudinal as mixed
from tasks.mri_harmonisation.scans import COVARIATES, MEASURES, PROTECTS, SEPARATOR, Floats, batch_number
from tasks.sums import Choice, NamedShape

NAME: Final = "mri_harmonisation"
COMBAT: Final = "combat"
LONGITUDINAL: Final = "longitudinal"
BATCHES: Final = "batches"
SCANS: Final = "scans"
MOST_SCANS: Final = 8  # of one patient; a plan takes as many or fewer
MOST_BATCHES: Final = 200
BLANKS: Final = 32  # numbers to which nobody adds anything: what they open to is the noise, so that its size is known everywhere
UNIT: Final = {"age": 2.0, "male": 1.0, "duration": 2.0, "edss": 2.0}  # what counts as 1 in a vector, in units of the design
Y_UNIT: Final = 2.0  # the same of a measure, in spreads
TYPICAL_X: Final = 0.35  # square of a covariate, in those units, for which the bound has room
TYPICAL_Y: Final = 0.35  # the same of a measure
ROOM: Final = 1.3  # factor on the norm of such a scan
STRETCH: Final = 4.0  # covariates and measures about a patient's own mean, in the longitudinal fit: years, not decades
FULL_RESIDUAL: Final = 1.5  # spreads; when all residuals of a patient are so large, the second vector has the norm of the bound


@dataclass(frozen=True)
class Frame:
    """`plan`: measures, batches, covariates; `scans`: at most so many of one patient count, the last ones."""

    plan: Plan
    scans: int
    longitudinal: bool

    @cached_property
    def numbers(self) -> Floats:
        """`batch_number` of each batch, (n_batches,)."""
        return np.array([batch_number(name) for name in self.plan.batches])

    @cached_property
    def x_unit(self) -> Floats:
        """(n_covariates,)"""
        return np.array([UNIT.get(name, 1.0) for name in self.plan.covariates])

    @cached_property
    def stretch(self) -> Floats:
        """(n_batches + n_covariates + n_measures,): a change of scanner is as large within a patient as it is."""
        rest = self.plan.n_covariates + self.plan.n_measures
        return np.concatenate([np.ones(self.plan.n_batches), np.full(rest, STRETCH)])

    @property
    def width(self) -> int:
        """Columns of x in the longitudinal fit: batches and covariates."""
        return self.plan.n_batches + self.plan.n_covariates

    @property
    def stages(self) -> tuple[tuple[NamedShape, ...], ...]:
        """One stage for the longitudinal model, two for the other."""
        b, q, g = self.plan.n_batches, self.plan.n_covariates, self.plan.n_measures
        blank = ("blank", (BLANKS,))
        if self.longitudinal:
            names = zip(("xx", "xy", "yy"), mixed.shapes(self.width, g, self.scans), strict=True)
            return ((*names, blank),)
        first = (("scans", (b,)), ("x", (b, q)), ("y", (b, g)), ("xx", (q * (q + 1) // 2,)), ("xy", (q, g)), blank)
        return first, (("squares", (g,)), ("counted", (1,)))

    @property
    def bound(self) -> float:
        """L2 norm to which a patient's vector is cut in a private mode: that of `scans` scans that are rather far from typical."""
        x, y = TYPICAL_X * self.plan.n_covariates, TYPICAL_Y * self.plan.n_measures
        return round(self.scans * ROOM * math.sqrt((1 + x) * (1 + y) + x * x), 4)

    @property
    def square_unit(self) -> float:
        """What a residual of one spread, squared, counts in the second vector; a scan counts as much."""
        return self.bound / (self.scans * math.sqrt(self.plan.n_measures) * FULL_RESIDUAL**2)

    def split(self, stage: int, vector: Floats) -> dict[str, Floats]:
        """The parts of a stage's sum by name."""
        ends = np.cumsum([math.prod(shape) for _, shape in self.stages[stage]])[:-1]
        parts = np.split(vector, ends)
        return {name: part.reshape(shape) for part, (name, shape) in zip(parts, self.stages[stage], strict=True)}


def frame_of(choice: Choice) -> Frame:
    """The frame of a plan; `ContractError` for a model, option or column that there is not, or that says nothing."""
    if choice.model not in (COMBAT, LONGITUDINAL):
        raise ContractError(f"task {NAME} has no model {choice.model!r}; it has {COMBAT}, {LONGITUDINAL}")
    if unknown := sorted(set(choice.options) - {BATCHES, SCANS}):
        raise ContractError(f"task {NAME}: option {unknown[0]!r} is unknown; known: {BATCHES}, {SCANS}")
    if unknown := [name for name in choice.columns if name not in (*COVARIATES, *MEASURES)]:
        raise ContractError(f"task {NAME} has no column {unknown[0]!r}; it has {', '.join((*COVARIATES, *MEASURES))}")
    try:
        plan = Plan(
            measures=tuple(measure for measure in MRI_MEASURES if measure.name in choice.columns),
            batches=_batches(choice.options),
            phenotypes=("CIS", "SPMS", "PPMS") if "phenotype" in choice.columns else (),
            protected=tuple(PROTECTS[name] for name in COVARIATES if name in choice.columns and name in PROTECTS),
        )
    except HarmoniseError as error:
        raise ContractError(f"task {NAME}: {error}") from error
    found = Frame(plan, _scans(choice.options, choice.model), choice.model == LONGITUDINAL)
    if len(set(found.numbers.tolist())) < plan.n_batches:
        raise ContractError(f"task {NAME}: two names of batches have the same number: rename one of the scanners")
    return found


def _batches(options: Mapping[str, str | int | float]) -> tuple[str, ...]:
    names = [name.strip() for name in str(options.get(BATCHES, "")).split(",") if name.strip()]
    if not names:
        raise ContractError(
            f"task {NAME}: task.options.{BATCHES} is empty. Ask every site for its scanners and protocols, and write them as "
            f"'scanner{SEPARATOR}protocol,scanner{SEPARATOR}protocol'"
        )
    if len(names) > MOST_BATCHES:
        raise ContractError(f"task {NAME}: {len(names)} batches, at most {MOST_BATCHES} fit")
    for name in names:
        if len(parts := name.split(SEPARATOR)) != 2 or not all(parts):
            raise ContractError(f"task {NAME}: batch {name!r} is not of the form scanner{SEPARATOR}protocol")
    if len(set(names)) < len(names):
        raise ContractError(f"task {NAME}: a batch is listed twice; two sites may not use one name for two scanners")
    return tuple(sorted(names))


def _scans(options: Mapping[str, str | int | float], model: str) -> int:
    wanted = options.get(SCANS, MOST_SCANS)
    least = 2 if model == LONGITUDINAL else 1
    if not isinstance(wanted, int) or isinstance(wanted, bool) or not least <= wanted <= MOST_SCANS:
        raise ContractError(f"task {NAME}: {SCANS} is {wanted!r}, for the model {model} it must be {least} to {MOST_SCANS}")
    return wanted
