"""How one column of the contract is filled from a hospital's columns: every way that a mapping can declare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

from tasks.importing.native_dates import DateFormats
from tasks.ms.schema import Column, Table


@dataclass(frozen=True)
class Constant:
    """The same value in every row."""

    value: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """The cell as it stands, behind `prefix`, unless it is a day in `dates`; with `hidden` its keyed pseudonym, as for raters."""

    source: str
    missing: frozenset[str]
    dates: DateFormats | None
    prefix: str = ""
    hidden: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Number:
    """Contract value = number * factor + offset."""

    source: str
    missing: frozenset[str]
    factor: Decimal
    offset: Decimal

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Codes:
    """One code of the source means one value of the contract; with a `separator` a cell may list several."""

    source: str
    missing: frozenset[str]
    codes: Mapping[str, str]
    separator: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)


@dataclass(frozen=True)
class YesNo:
    """0 or 1 from words of the mapping's language."""

    source: str
    missing: frozenset[str]
    language: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)


@dataclass(frozen=True)
class SetOf:
    """Several yes-or-no columns, each naming one code of a set; the codes whose column says yes, none if all say no."""

    of: Mapping[str, str]  # source column -> code of the contract
    missing: frozenset[str]
    yes: frozenset[str]
    no: frozenset[str]

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(self.of)


@dataclass(frozen=True)
class Day:
    """Days (or weeks) from the patient's index date, of a date that is known to `at_most_d` days; `plus_d` days are added."""

    source: str
    missing: frozenset[str]
    formats: DateFormats
    at_most_d: int
    plus_d: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Year:
    """The year of a date: of birth, from the whole date."""

    source: str
    missing: frozenset[str]
    formats: DateFormats

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)


@dataclass(frozen=True)
class BirthYear:
    """The likeliest year of birth of somebody who was so old on a date, or in a year: half a year before the birthday's end."""

    source: str
    missing: frozenset[str]
    on: str  # source column with the date, "" if `year`
    year: int
    formats: DateFormats | None  # of `on`

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source, self.on) if self.on else (self.source,)


@dataclass(frozen=True)
class AgeDay:
    """Days since the patient's first age in the file that the mapping's index names; ages in years."""

    source: str
    missing: frozenset[str]

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Drug:
    """A drug's name in free text, through the vocabulary and what reviewers decided; with `dmt_class` its first class."""

    source: str
    missing: frozenset[str]
    dmt_class: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)


Filling: TypeAlias = "Constant | Text | Number | Codes | YesNo | SetOf | Day | Year | BirthYear | AgeDay | Drug"


def precision_column(table: Table, column: Column) -> str:
    """The column that says how closely `column` is known, "" if the contract has none."""
    name = f"{column.name.removesuffix('_day')}_precision_d"
    return name if column.kind == "day" and name in table.names else ""


def precision_limit(table: Table, column: Column) -> int:
    """To how many days a day must be known unless the mapping says otherwise."""
    limits = table.column(name).limits if (name := precision_column(table, column)) else None
    return int(limits.high) if limits else 0
