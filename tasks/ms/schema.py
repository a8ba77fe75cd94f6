"""What a declaration of tables can say, and that it contradicts itself nowhere. No data, no framework, no file.

`tasks.ms.contract` declares the eleven tables with these classes; everything else is derived from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from tasks.errors import ContractError

Kind = Literal["id", "label", "code", "codes", "flag", "day", "integer", "number"]
NUMERIC: frozenset[Kind] = frozenset({"flag", "day", "integer", "number"})
WHOLE: frozenset[Kind] = frozenset({"flag", "day", "integer"})
CODED: frozenset[Kind] = frozenset({"code", "codes"})
KIND_WORDS: Mapping[Kind, str] = {
    "id": "pseudonym: letters, digits and . _ - without blanks; never a name, a date of birth or a hospital number",
    "label": "short name of a device, person's role or batch: letters, digits and . _ / + - blanks; never a patient's name",
    "code": "one of the listed codes",
    "codes": "any of the listed codes, joined by |",
    "flag": "0 = no, 1 = yes",
    "day": "whole number of days; 0 = index date, negative = before",
    "integer": "whole number",
    "number": "number with a decimal point",
}
PATTERNS: Mapping[Kind, str] = {"id": r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", "label": r"[\w][\w ./+:-]{0,63}"}
SEPARATOR = "|"  # between the codes of one cell


@dataclass(frozen=True)
class Limits:
    """Inclusive range; `unit` where it depends on another column."""

    low: float
    high: float
    unit: str = ""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ContractError(f"a range from {self.low:g} to {self.high:g}: the lower end must be below the upper")


@dataclass(frozen=True)
class LimitsBy:
    """A range for each code of the column `column`; with `only`, just in rows whose column `only[0]` is `only[1]`.

    `unit_column` holds the unit of each row, which must be that of the range.
    """

    column: str
    limits: Mapping[str, Limits]
    only: tuple[str, str] | None = None
    unit_column: str = ""


@dataclass(frozen=True)
class Column:
    """One column of a table, as every site must fill it in.

    `limits` are hard: a value outside is an error. `usual` are soft: a warning. Values are multiples of `step` if it is
    given, and never one of `without`; `values` lists the only numbers that exist. `steady`: largest relative change from
    the patient's previous value. `missing_reason`: an empty cell is explained by the row's column of that name. `source`:
    where the definition comes from. `since`: version of the contract that brought it.
    """

    name: str
    kind: Kind
    description: str
    unit: str = ""
    limits: Limits | None = None
    usual: Limits | None = None
    limits_by: LimitsBy | None = None
    step: float | None = None
    without: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    vocabulary: Mapping[str, str] = field(default_factory=dict)  # code -> meaning
    pattern: str = ""  # of a label; the kind's own if empty
    key: bool = False
    nullable: bool = True
    steady: float | None = None
    missing_reason: bool = False
    source: str = ""
    since: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ContractError(f"column name {self.name!r}: use lower case letters, digits and _")
        if problem := self._contradiction():
            raise ContractError(f"column {self.name}: {problem}")

    def _contradiction(self) -> str:
        bounded = bool(self.limits or self.limits_by or self.values)
        if not self.description:
            return "say what it holds"
        if self.kind in NUMERIC and not bounded:
            return "a column of numbers needs a range"
        if self.kind not in NUMERIC and (bounded or self.usual or self.step or self.steady):
            return "only a column of numbers has a range, a step or a largest change"
        if (self.kind in CODED) != bool(self.vocabulary):
            return "a vocabulary belongs to a column of codes"
        if strange := [code for code in self.vocabulary if not re.fullmatch(r"[A-Za-z0-9_.-]+", code)]:
            return f"the code {strange[0]!r} has other characters than letters, digits and . _ -"
        if self.limits and self.usual and not self.limits.low <= self.usual.low < self.usual.high <= self.limits.high:
            return "the usual range must lie within the range"
        if self.key and self.nullable:
            return "a part of the key cannot be empty"
        return ""

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.kind in NUMERIC

    @property
    def text_pattern(self) -> str:
        """Regular expression of a whole cell of an id or a label."""
        return self.pattern or PATTERNS[self.kind]


@dataclass(frozen=True)
class Table:
    """One table: a row for each value of its key."""

    name: str
    title: str
    description: str  # what one row is
    modality: str  # kind of data, as plans and policies name it
    columns: tuple[Column, ...]
    standard: str = ""  # where its content stands in other models
    since: int = 1

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ContractError(f"table {self.name}: columns listed twice: {', '.join(repeated)}")
        if not self.key:
            raise ContractError(f"table {self.name}: no column is a key")
        for column in self.columns:
            self._check_limits_by(column)

    def _check_limits_by(self, column: Column) -> None:
        if (by := column.limits_by) is None:
            return
        if set(self.column(by.column).vocabulary) != set(by.limits):
            raise ContractError(f"table {self.name}: {column.name} needs a range for each code of {by.column}")
        for name in (by.only[0] if by.only else "", by.unit_column):
            if name:
                self.column(name)

    @property
    def key(self) -> tuple[str, ...]:
        """Columns that together name one row."""
        return tuple(column.name for column in self.columns if column.key)

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that the file must have."""
        return tuple(column.name for column in self.columns if not column.nullable)

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, in the order of the contract."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column called `name`; `ContractError` if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise ContractError(f"table {self.name} has no column {name!r}; it has {', '.join(self.names)}")


@dataclass(frozen=True)
class DataContract:
    """All tables of one version; every table but the first belongs to patients of the first."""

    version: int
    dated: str
    tables: tuple[Table, ...]

    def __post_init__(self) -> None:
        for table in self.tables:
            if "patient_id" not in table.key:
                raise ContractError(f"table {table.name}: patient_id is not in its key")
            late = [column.name for column in table.columns if not 1 <= column.since <= self.version]
            if late or not 1 <= table.since <= self.version:
                raise ContractError(f"table {table.name}: {', '.join(late) or 'it'} is newer than the contract, {self.version}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tables."""
        return tuple(table.name for table in self.tables)

    def table(self, name: str) -> Table:
        """The table called `name`; `ContractError` if there is none."""
        for table in self.tables:
            if table.name == name:
                return table
        raise ContractError(f"the contract has no table {name!r}; it has {', '.join(self.names)}")

    def at(self, version: int) -> DataContract:
        """The contract as it was in `version`: without what came later."""
        if not 1 <= version <= self.version:
            raise ContractError(f"contract version {version} is not known here: versions 1 to {self.version} are")
        kept = [
            replace(table, columns=tuple(column for column in table.columns if column.since <= version))
            for table in self.tables
            if table.since <= version
        ]
        return replace(self, version=version, tables=tuple(kept))
