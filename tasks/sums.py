"""What a task supplies whose rounds are sums of patients' vectors instead of gradients: descriptions, harmonisation.

A plan of such a task has a few *stages*, one training round each. In stage k every site sums one bounded vector for each of
its training patients; the opened sum of stage k is public to all sites in stage k + 1. The path is that of a gradient, to
the letter: the same clip, grid, noise, masks, ledger entry and manifest.

The model vector of such a plan is: the number of stages done, then the sum of each stage, divided by the declared patients of the
sites in it (zeros before the stage is done).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tasks.base import Contract, Options
from tasks.errors import ContractError
from tasks.report import DataReport

if TYPE_CHECKING:
    import pandas as pd

    from tasks.base import Cohort

Floats = NDArray[np.float64]
NamedShape: TypeAlias = tuple[str, tuple[int, ...]]
STAGES_DONE: Final = "stages_done"


@dataclass(frozen=True)
class Records:
    """One side of a site's split: `values` (n_records, width) as the task's cohort has them; `owners` (n_records,): which of the
    `patients` each record belongs to, ascending from 0."""

    values: Floats
    owners: NDArray[np.intp]
    patients: int


@dataclass(frozen=True)
class Opened:
    """The opened sum of one stage: over the training patients of all sites in it, not divided by anything.

    `noise`: standard deviation of the noise in each number; 0 in mode none.
    """

    total: Floats
    noise: float


@dataclass(frozen=True)
class Choice:
    """What a plan fixes about a task: which of its models, with which options, and the contract's columns in use."""

    model: str
    options: Options
    columns: tuple[str, ...]


@runtime_checkable
class SumsTask(Protocol):
    """All that such a task supplies. Everything but `cohort_of` runs where there is no patient data too."""

    @property
    def name(self) -> str:
        """Name in plans and in the registry."""
        ...

    @property
    def version(self) -> str:
        """Changes with the columns, the layout or the meaning of a vector; a plan binds it."""
        ...

    @property
    def contract(self) -> Contract:
        """Columns that a plan may choose from."""
        ...

    @property
    def model_names(self) -> tuple[str, ...]:
        """Models that `stages` knows."""
        ...

    @property
    def records(self) -> int:
        """At most so many rows of a cohort are one patient's."""
        ...

    def cohort_of(self, tables: Mapping[str, pd.DataFrame]) -> Cohort:
        """The site's patients from accepted tables of the data contract; labels are zeros."""
        ...

    def stages(self, choice: Choice) -> tuple[tuple[NamedShape, ...], ...]:
        """Name and shape of what each stage's vector holds, in order. `ContractError` for an unknown model, option or column."""
        ...

    def bound(self, choice: Choice) -> float:
        """L2 norm to which each patient's vector is clipped, in every stage: a public constant."""
        ...

    def vectors(self, choice: Choice, before: Sequence[Floats], records: Records) -> Floats:
        """One vector for each patient, (patients, size of stage `len(before)`).

        `before`: the sums of the stages done, each divided by the declared patients of its sites: whatever a coordinator sends.
        Each row follows from its own patient's records, `before` and public constants alone. A row that is not finite counts as
        zero: refusing would tell that there is such a patient.
        """
        ...

    def result(self, choice: Choice, opened: Sequence[Opened]) -> Mapping[str, object]:
        """What the run found, ready for JSON: `title`, `notes` (sentences) and `tables` (name -> list of flat rows)."""
        ...


@runtime_checkable
class TestedSums(SumsTask, Protocol):
    """A task of sums that says on held-out patients how good it is: one more bounded vector of each, summed when all stages are."""

    __test__: ClassVar[bool] = False  # of pytest, which takes it for a test

    @property
    def primary(self) -> str:
        """The figure by which runs are compared, a key of `figures`."""
        ...

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller primary figure is the better one."""
        ...

    def test_cells(self, choice: Choice) -> int:
        """Length of a held-out patient's vector; even."""
        ...

    def test_vectors(self, choice: Choice, stages: Sequence[Floats], records: Records) -> Floats:
        """One vector for each held-out patient, (patients, test_cells), of L2 norm at most 1 (longer ones are clipped).

        `stages`: as `vectors` has them, all of them.
        """
        ...

    def figures(self, choice: Choice, total: Floats, *, noise_std: float = 0.0) -> Mapping[str, float]:
        """Figures by name from the summed vectors; `noise_dominates` is always there."""
        ...


def report_of(task: str, version: str, table: str, *, rows: int, patients: int) -> DataReport:
    """The data report of a task that predicts nothing: what was read, and whose."""
    return DataReport(
        task=task, version=version, table=table, rows_read=rows, patients=patients, label="none", label_counts=(patients, 0),
        columns=(), findings=(), not_read=(), withheld=(), suspects=(), leak_check="nothing is predicted",
    )  # fmt: skip


def size(shapes: Sequence[NamedShape]) -> int:
    """Numbers in one stage."""
    return sum(math.prod(shape) for _, shape in shapes)


def layout(task: SumsTask, choice: Choice) -> tuple[NamedShape, ...]:
    """The plan's parameters: stages done, then every stage's parts; names are unique."""
    stages = task.stages(choice)
    if not stages or not all(size(shapes) for shapes in stages):
        raise ContractError(f"task {task.name}: a plan needs at least one stage, and none that is empty")
    return (STAGES_DONE, (1,)), *(part for shapes in stages for part in shapes)


def stage_sizes(task: SumsTask, choice: Choice) -> tuple[int, ...]:
    """Numbers in each stage."""
    return tuple(size(shapes) for shapes in task.stages(choice))


def stages_done(sizes: Sequence[int], state: Floats) -> tuple[Floats, ...]:
    """The stages that the model vector `state` holds, (1 + sum of sizes,); `ContractError` if it is none of such a plan."""
    if state.shape != (1 + sum(sizes),):
        raise ContractError(f"a model of {state.size} numbers, this task's has {1 + sum(sizes)}")
    done = float(state[0])
    if done not in range(len(sizes) + 1):
        raise ContractError(f"the model says that {done:g} stages are done, there are {len(sizes)}")
    ends = 1 + np.cumsum(sizes)
    return tuple(state[end - length : end] for end, length in list(zip(ends, sizes, strict=True))[: int(done)])


def stage_vectors(task: SumsTask, choice: Choice, state: Floats, records: Records) -> Floats:
    """Each patient's contribution to the next stage, at its place in the whole model vector: (patients, 1 + sum of sizes)."""
    sizes = stage_sizes(task, choice)
    before = stages_done(sizes, state)
    at = len(before)
    if at == len(sizes):
        raise ContractError(f"all {at} stages are done: nothing is left to sum")
    rows = task.vectors(choice, before, records)
    if rows.shape != (records.patients, sizes[at]):
        raise ContractError(f"task {task.name}: vectors of shape {rows.shape}, expected ({records.patients}, {sizes[at]})")
    start = 1 + sum(sizes[:at])
    whole = np.zeros((records.patients, 1 + sum(sizes)))
    whole[:, start : start + sizes[at]] = rows
    return whole
