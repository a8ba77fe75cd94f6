"""What a clinical task is: a contract for the columns, a model and a loss per patient.

A contract is public. Its ranges, categories and refusals are fixed by the task's version, never learnt from data, so
that clipping with them costs no privacy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ContractError

if TYPE_CHECKING:  # torch takes a second to import; reading and checking tables must not need it
    from torch import Tensor, nn

    from tasks.imaging.store import Scan
    from tasks.report import DataReport
    from tasks.scoring.base import Scoring

Values = NDArray[np.float64]  # (n_patients, n_columns); NaN = missing; binary 0/1; categorical = index of the category
Labels = NDArray[np.int8]  # (n_patients,); 0 or 1
Targets = NDArray[Any]  # (n_records, *label_shape) of the task: int8 classes, or float32
Kind = Literal["numeric", "binary", "categorical"]
Options = Mapping[str, str | int | float]
WIDEST = 20  # an input of the model is at most so many deviations from 0


@dataclass(frozen=True)
class Column:
    """One input of a task, in the contract's own unit and codes.

    `low` and `high` (numeric only, inclusive) are the public range: a value outside is an error of the table, and
    statistics are computed within it. A required column (`nullable=False`) excludes the patient when it is missing.
    `modality`: the kind of data it comes from, as plans state and site policies allow it.
    `masked` (nullable only): whether an input says that it is missing; without it, missing is 0, the mean, and nothing else.
    `centre` and `spread` (numeric only): what it is standardised with, in `unit`; none = by the mean and deviation of all sites.
    """

    name: str
    kind: Kind
    description: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()
    nullable: bool = True
    modality: str = "clinical"
    masked: bool = True
    centre: float | None = None
    spread: float | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ContractError(f"column name {self.name!r}: use lower case letters, digits and _")
        ranged = self.low is not None and self.high is not None and self.low < self.high
        if self.kind == "numeric" and not ranged:
            raise ContractError(f"column {self.name}: a numeric column needs low < high, got {self.low} and {self.high}")
        if self.kind != "numeric" and (self.low is not None or self.high is not None):
            raise ContractError(f"column {self.name}: only a numeric column has a range")
        if (self.kind == "categorical") != (len(self.categories) >= 2):
            raise ContractError(f"column {self.name}: categories belong to a categorical column, at least two of them")
        if len(set(self.categories)) != len(self.categories):
            raise ContractError(f"column {self.name}: a category is listed twice")
        self._check_standard()

    def _check_standard(self) -> None:
        if self.centre is None and self.spread is None:
            return
        if self.kind != "numeric" or self.centre is None or self.spread is None:
            raise ContractError(f"column {self.name}: centre and spread belong together, to a numeric column")
        low, high = self.limits
        if not (low <= self.centre <= high and (high - low) / WIDEST <= self.spread <= high - low):
            raise ContractError(
                f"column {self.name}: centre {self.centre} within {low} to {high}, spread {self.spread} from a {WIDEST}th of that "
                f"to all of it: inputs stay within +-{WIDEST}"
            )

    @property
    def standard(self) -> tuple[float, float] | None:
        """The public (centre, spread) of a numeric column that has them."""
        return None if self.centre is None or self.spread is None else (self.centre, self.spread)

    @property
    def limits(self) -> tuple[float, float]:
        """Public range of a numeric column, in `unit`."""
        if self.low is None or self.high is None:
            raise ContractError(f"column {self.name} is {self.kind}: it has no range")
        return self.low, self.high


@dataclass(frozen=True)
class Label:
    """What the model predicts; 1 = the event named by `meaning`."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Refusal:
    """Source columns whose name matches `pattern` (any case, anywhere in the name) may never feed an input."""

    pattern: str
    reason: str

    def matches(self, source: str) -> bool:
        """Whether the hospital's column called `source` is refused."""
        return re.search(self.pattern, source, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Contract:
    """The table every site brings its own to: inputs, label, and what may never be an input."""

    task: str
    version: str
    columns: tuple[Column, ...]
    label: Label
    refused: tuple[Refusal, ...] = ()

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if not names:
            raise ContractError(f"task {self.task}: a contract needs at least one column")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ContractError(f"task {self.task}: columns listed twice: {', '.join(repeated)}")
        if self.label.name in names:
            raise ContractError(f"task {self.task}: the label {self.label.name} is also an input")

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of `Cohort.values`."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The input called `name`; `ContractError` if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise ContractError(f"task {self.task} has no column {name!r}; it has {', '.join(self.column_names)}")

    def modalities(self, names: Sequence[str]) -> tuple[str, ...]:
        """The kinds of data that the inputs called `names` come from, in order, each once."""
        return tuple(sorted({self.column(name).modality for name in names}))

    def refusal(self, source: str) -> str | None:
        """Reason why the hospital's column `source` may not be an input, or None."""
        return next((rule.reason for rule in self.refused if rule.matches(source)), None)


@dataclass(frozen=True)
class Cohort:
    """One site's patients after mapping, a row for each record (visit, episode). Never leaves the site.

    The unit of privacy is the patient, whose rows all bear the same id: `Task.records` of them at most, in the order of time.
    """

    patient_ids: tuple[str, ...] = field(repr=False)  # of each row
    values: Values = field(repr=False)
    labels: Targets = field(repr=False)
    report: DataReport = field(repr=False)
    years: NDArray[np.float64] | None = field(default=None, repr=False)  # calendar year of each row's day, NaN = unknown
    scans: tuple[Scan, ...] = field(default=(), repr=False)  # of each row, where a task reads images; none otherwise

    @property
    def size(self) -> int:
        """Number of patients."""
        return len(set(self.patient_ids))

    @property
    def owners(self) -> NDArray[np.intp]:
        """Which patient each row belongs to, (n_rows,), counted from 0 in the order of the first rows."""
        seen: dict[str, int] = {}
        return np.array([seen.setdefault(name, len(seen)) for name in self.patient_ids], dtype=np.intp)


@runtime_checkable
class Task(Protocol):
    """All that a new clinical task supplies; `tasks.tabular.TabularTask` is the ready-made one."""

    @property
    def name(self) -> str:
        """Name in plans and in the registry."""
        ...

    @property
    def version(self) -> str:
        """Changes with the contract, the models or the loss; a plan binds it."""
        ...

    @property
    def contract(self) -> Contract:
        """Columns, label, refusals."""
        ...

    @property
    def model_names(self) -> tuple[str, ...]:
        """Models that `build_model` knows."""
        ...

    @property
    def records(self) -> int:
        """At most so many rows of a cohort are one patient's: a constant of the version, never taken from data."""
        ...

    def build_model(self, name: str, options: Options, columns: Sequence[str] | None = None) -> nn.Module:
        """Model from (batch, n_inputs) or (n_inputs,) float32 to outputs (batch, ...) or (...); no layer mixes patients.

        `columns` are the contract's columns in use (all if None). `ContractError` for an unknown name or option.
        """
        ...

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of one record's label: () for one number, (k,) for k of them; a constant of the version."""
        ...

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss per record, (batch,) from (batch, ...) and (batch, *label_shape), never reduced; a patient's is the mean over the
        records. Finite for every finite output, whatever numbers the labels are: engines are tried on labels of 0 and 1."""
        ...

    def scoring(self, bins: int, by: Sequence[str] = ()) -> Scoring:
        """How held-out records are counted, with so many bins of a score, and for groups `by` (`tasks.run_options.GROUPINGS`).

        `ContractError` for bins or groups that the task cannot serve.
        """
        ...


@runtime_checkable
class Described(Protocol):
    """A task that says in a sentence whose patients it is for."""

    @property
    def population(self) -> str:
        """One sentence for cards, such as "Adults with relapsing MS who start a therapy."."""
        ...
