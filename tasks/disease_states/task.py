"""The task that plans name: a factor-analysis hidden Markov model of eight states, one EM iteration a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from tasks.base import Cohort, Column, Contract, Label
from tasks.disease_states.result import result_of
from tasks.errors import ContractError
from tasks.states import expectation, held_out
from tasks.states.frame import BOUND, MOST_ITERATIONS, Frame
from tasks.states.maximisation import fitted
from tasks.states.measures import MEASURES, NAMES, Floats
from tasks.states.records import rows_of
from tasks.states.sequences import MOST_RECORDS, sequences_of
from tasks.states.structure import DMT_CLASSES
from tasks.sums import Choice, NamedShape, Opened, Records, report_of

if TYPE_CHECKING:
    import pandas as pd

NAME: Final = "disease_states"
VERSION: Final = "1"
MODEL: Final = "fahmm"
ITERATIONS: Final = "iterations"
DEFAULT_ITERATIONS: Final = 10
TABLES: Final = "patients, visits, relapses, treatments, mri"
DMT_COLUMN, AGE_COLUMN = "dmt_class", "age_years"


class DiseaseStates:
    """`tasks.sums.TestedSums`: states over visits, relapses and scans."""

    name, version, model_names, records = NAME, VERSION, (MODEL,), MOST_RECORDS
    primary, lower_is_better = "log_likelihood_gain", False
    __test__ = False  # of pytest

    @cached_property
    def contract(self) -> Contract:
        """Measures of the states, and two covariates of the transitions; the label is a formality that no vector holds."""
        measures = [
            Column(each.name, "numeric", each.description, unit=each.unit, low=each.low, high=each.high, modality=each.modality)
            for each in MEASURES
        ]
        covariates = (
            Column(DMT_COLUMN, "categorical", "Strongest class of therapy on the day; high with induction", categories=DMT_CLASSES),
            Column(AGE_COLUMN, "numeric", "Age on the day, to a year and a half", unit="years", low=0.0, high=120.0),
        )
        return Contract(NAME, VERSION, (*measures, *covariates), Label("nothing", "states are not observed"))

    def cohort_of(self, tables: Mapping[str, pd.DataFrame]) -> Cohort:
        """One row for each 12-week step in which anything was seen of a patient with three visits or more."""
        patients, values = rows_of(tables)
        n = len(set(patients))
        report = report_of(NAME, VERSION, TABLES, rows=len(values), patients=n)
        return Cohort(patients, values, np.zeros(len(values), np.int8), report)

    def stages(self, choice: Choice) -> tuple[tuple[NamedShape, ...], ...]:
        """As many equal ones as EM has iterations, with the number of the iteration in each name."""
        frame = frame_of(choice)
        return tuple(tuple((f"{name}_{at}", shape) for name, shape in frame.shapes) for at in range(1, frame.iterations + 1))

    def bound(self, choice: Choice) -> float:
        """Not wide enough for long histories: those are scaled down. Without noise nothing is cut."""
        frame_of(choice)
        return BOUND

    def vectors(self, choice: Choice, before: Sequence[Floats], records: Records) -> Floats:
        """Expected sufficient statistics under the parameters that the sums before give."""
        frame = frame_of(choice)
        sequences = sequences_of(frame, records.values, records.owners, records.patients)
        return expectation.vectors(frame, fitted(frame, before), sequences)

    def result(self, choice: Choice, opened: Sequence[Opened]) -> Mapping[str, object]:
        """States, transitions, and the model with which a site looks at its own patients."""
        return result_of(frame_of(choice), opened)

    def test_cells(self, choice: Choice) -> int:
        """The same for every plan."""
        frame_of(choice)
        return held_out.CELLS

    def test_vectors(self, choice: Choice, stages: Sequence[Floats], records: Records) -> Floats:
        """Forecasts of a patient's scores against what came; norm at most 1."""
        frame = frame_of(choice)
        sequences = sequences_of(frame, records.values, records.owners, records.patients)
        return held_out.test_vectors(frame, fitted(frame, stages), sequences)

    def figures(self, choice: Choice, total: Floats, *, noise_std: float = 0.0) -> Mapping[str, float]:
        """Log likelihood of the next score against the chain, log density, AUC of a worse score in a year."""
        frame_of(choice)
        return held_out.figures(total, noise_std)


def frame_of(choice: Choice) -> Frame:
    """The frame of a plan; `ContractError` for a model, option or column that there is not."""
    if choice.model != MODEL:
        raise ContractError(f"task {NAME} has no model {choice.model!r}; it has {MODEL}")
    if unknown := sorted(set(choice.options) - {ITERATIONS}):
        raise ContractError(f"task {NAME}: option {unknown[0]!r} is unknown; known: {ITERATIONS}")
    if unknown := [name for name in choice.columns if name not in (*NAMES, DMT_COLUMN, AGE_COLUMN)]:
        raise ContractError(f"task {NAME} has no column {unknown[0]!r}; it has {', '.join((*NAMES, DMT_COLUMN, AGE_COLUMN))}")
    if "edss" not in choice.columns:
        raise ContractError(f"task {NAME}: task.columns lacks edss, which the chain to beat is made of: add it")
    iterations = choice.options.get(ITERATIONS, DEFAULT_ITERATIONS)
    if not isinstance(iterations, int) or isinstance(iterations, bool) or not 1 <= iterations <= MOST_ITERATIONS:
        raise ContractError(f"task {NAME}: {ITERATIONS} is {iterations!r}, must be a whole number from 1 to {MOST_ITERATIONS}")
    measures = tuple(at for at, name in enumerate(NAMES) if name in choice.columns)
    return Frame(measures, DMT_COLUMN in choice.columns, AGE_COLUMN in choice.columns, iterations)


TASK: Final = DiseaseStates()
