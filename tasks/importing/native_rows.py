"""One row of a hospital's table as one row of the contract: each cell by its declared way, faults beside it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Final, TypeAlias

from tasks.importing.dating import DATED_NAMES, CalendarDay, days_since
from tasks.importing.drugs import SET_ASIDE, drug_class, drug_code
from tasks.importing.native_cells import (
    Cell,
    Fault,
    Marks,
    as_text,
    converted,
    read_code,
    read_number,
    read_set,
    read_text,
    read_yes_no,
)
from tasks.importing.native_columns import (
    AgeDay,
    BirthYear,
    Codes,
    Constant,
    Day,
    Drug,
    Filling,
    Number,
    SetOf,
    Text,
    Year,
    YesNo,
    precision_column,
)
from tasks.importing.native_dates import is_day, read_day
from tasks.importing.native_mapping import RowRule
from tasks.importing.native_source import SourceTable
from tasks.ms.schema import SEPARATOR, WHOLE, Column

Value: TypeAlias = "str | float"
Result: TypeAlias = "Value | CalendarDay | Decimal | Fault | None"
DAYS_A_YEAR: Final = Decimal("365.25")
DAYS_A_WEEK: Final = 7
OLDEST: Final = 120  # years
HALF_A_YEAR_D: Final = 183


@dataclass(frozen=True)
class Origin:
    """Where a row came from."""

    file: str
    number: int
    position: int  # among the rows that fit the header


@dataclass
class Row:
    """A row on its way: its values by column (None = empty), and the columns whose cell broke a rule."""

    patient: str
    origin: Origin
    rule: int  # which of the table's rules made it
    values: dict[str, Value | None] = field(repr=False)
    faulty: set[str]


@dataclass(frozen=True)
class Setting:
    """What is the same for all rows of an import."""

    today: date
    key: bytes = field(repr=False)
    index: Mapping[str, date | Decimal] = field(repr=False)
    reviewed: Mapping[str, str] = field(repr=False)


def age_of(cell: Cell, marks: Marks) -> Decimal | Fault:
    """An age in years."""
    age = read_number(cell, marks)
    if isinstance(age, Fault):
        return age
    return age if 0 <= age <= OLDEST else Fault("negative_age")


class Filler:
    """Makes rows by one rule; `faults` and `unknown` fill up on the way."""

    def __init__(self, rule: RowRule, source: SourceTable, setting: Setting) -> None:
        self.rule, self.source, self._setting = rule, source, setting
        self.faults: list[tuple[str, str, str, int]] = []  # contract column, source column, rule, position
        self.unknown: list[tuple[str, str]] = []  # source column, text of a drug that nobody knows
        self._known: dict[str, dict[Cell, Result]] = {name: {} for name in rule.columns}
        self._columns = [(rule.table.column(name), filling) for name, filling in rule.columns.items()]

    def selected(self) -> Iterator[int]:
        """Positions of the rows that the rule means."""
        missing = self.source.file.missing
        wheres = [(self.source.columns[name], allowed) for name, allowed in self.rule.where.items()]
        filled = [self.source.columns[name] for name in self.rule.filled]
        for position in range(len(self.source.numbers)):
            if all(as_text(cells[position]) in allowed for cells, allowed in wheres) and (
                not filled or any(as_text(cells[position]) not in missing for cells in filled)
            ):
                yield position

    def row(self, position: int, patient: str, number: int) -> Row:
        """The row at `position`, of the rule with this `number`."""
        values: dict[str, Value | None] = {"patient_id": patient}
        row = Row(patient, Origin(self.source.file.key, self.source.numbers[position], position), number, values, set())
        for column, filling in self._columns:
            values[column.name] = self._value(column, filling, position, row)
        return row

    def _value(self, column: Column, filling: Filling, position: int, row: Row) -> Value | None:
        if isinstance(filling, Constant):
            return float(filling.value) if column.numeric else filling.value
        if isinstance(filling, SetOf):
            return self._set_of(column, filling, position, row)
        cell = self.source.columns[filling.source][position]
        known = self._known[column.name]
        if cell not in known:
            known[cell] = None if as_text(cell) in filling.missing else self._read(column, filling, cell)
        found = known[cell]
        if isinstance(found, CalendarDay):
            found = self._days(column, filling, found, row)
        elif isinstance(found, Decimal):
            found = self._from_age(filling, found, position, row)
        if isinstance(found, Fault):
            self._fault(column, filling, found, position, row)
            return None
        return found

    def _fault(self, column: Column, filling: Filling, fault: Fault, position: int, row: Row) -> None:
        name = filling.sources[0]
        row.faulty.add(column.name)
        if fault.rule == "unknown_drug":
            if column.name != "drug":
                return  # the column of the drug itself says it
            self.unknown.append((name, as_text(self.source.columns[name][position])))
        self.faults.append((column.name, name, fault.rule, position))

    def _read(self, column: Column, filling: Filling, cell: Cell) -> Result:
        """What the cell alone says: a value, or a day or an age that the patient's day 0 makes one."""
        marks = self.source.file.marks
        if isinstance(filling, Text):
            if filling.hidden:
                return self._hidden(column, cell)
            if column.name not in DATED_NAMES and (is_day(cell, filling.dates) or is_day(f"{filling.prefix}{as_text(cell)}", None)):
                return Fault("date_in_text")
            return read_text(cell, column.text_pattern, filling.prefix)
        if isinstance(filling, Number):
            number = read_number(cell, marks)
            return (
                number
                if isinstance(number, Fault)
                else converted(number, filling.factor, filling.offset, whole=column.kind in WHOLE)
            )
        if isinstance(filling, Codes):
            return _coded(column, filling, cell)
        if isinstance(filling, YesNo):
            return read_yes_no(cell, filling.language)
        if isinstance(filling, Day):
            return read_day(cell, filling.formats, self._setting.today, filling.at_most_d)
        if isinstance(filling, Year):
            day = read_day(cell, filling.formats, self._setting.today, HALF_A_YEAR_D)
            return day if isinstance(day, Fault) else float(day.day.year)
        if isinstance(filling, AgeDay | BirthYear):
            return age_of(cell, marks)
        if isinstance(filling, Drug):
            return self._drug(filling, cell)
        raise TypeError(f"{type(filling).__name__} is not read from one cell")

    def _hidden(self, column: Column, cell: Cell) -> str:
        """The keyed pseudonym of a name that is no patient's, such as a rater's: another one in each column."""
        content = f"{column.name}\0{as_text(cell)}".encode()
        return "n" + hmac.new(self._setting.key, content, hashlib.sha256).hexdigest()[:16]

    def _drug(self, filling: Drug, cell: Cell) -> Value | Fault | None:
        code = drug_code(as_text(cell), self._setting.reviewed)
        if code is None:
            return Fault("unknown_drug")
        if code == SET_ASIDE:
            return None if filling.dmt_class else Fault("drug_set_aside")
        return drug_class(code) if filling.dmt_class else code

    def _days(self, column: Column, filling: Filling, day: CalendarDay, row: Row) -> float | Fault:
        index = self._setting.index.get(row.patient)
        if not isinstance(index, date):
            return Fault("no_index_date")
        if precision := precision_column(self.rule.table, column):
            row.values.setdefault(precision, float(day.precision_d))
        days = days_since(index, day.day) + (filling.plus_d if isinstance(filling, Day) else 0)
        return float(days // DAYS_A_WEEK if column.name == "week" else days)

    def _from_age(self, filling: Filling, age: Decimal, position: int, row: Row) -> float | Fault:
        if isinstance(filling, AgeDay):
            first = self._setting.index.get(row.patient)
            return float(round((age - first) * DAYS_A_YEAR)) if isinstance(first, Decimal) else Fault("no_index_date")
        if not isinstance(filling, BirthYear):
            raise TypeError(f"{type(filling).__name__} does not begin with an age")
        if filling.formats is None:
            return float(filling.year - int(age))
        on = read_day(self.source.columns[filling.on][position], filling.formats, self._setting.today, HALF_A_YEAR_D)
        if isinstance(on, Fault):
            return Fault("no_reference")
        lived = int(age) * DAYS_A_YEAR + HALF_A_YEAR_D if age == int(age) else age * DAYS_A_YEAR
        return float((on.day - timedelta(days=int(lived))).year)

    def _set_of(self, column: Column, filling: SetOf, position: int, row: Row) -> str | None:
        """The codes whose column says yes; None if no column says anything, or one says what nobody knows."""
        found, known = set(), False
        for name, code in filling.of.items():
            text = as_text(self.source.columns[name][position])
            if text in filling.missing:
                continue
            if text not in filling.yes | filling.no:
                row.faulty.add(column.name)
                self.faults.append((column.name, name, "unknown_code", position))
            known = True
            if text in filling.yes:
                found.add(code)
        return joined(column, sorted(found)) if known and column.name not in row.faulty else None


def _coded(column: Column, filling: Codes, cell: Cell) -> Value | Fault | None:
    if filling.separator:
        several = read_set(cell, filling.separator, filling.codes)
        return several if isinstance(several, Fault) else joined(column, several)
    meaning = read_code(cell, filling.codes)
    return float(meaning) if column.numeric and isinstance(meaning, str) else meaning


def joined(column: Column, codes: Sequence[str]) -> str | None:
    """A set as one cell of the contract, in the contract's order; None if it is empty."""
    return SEPARATOR.join(code for code in column.vocabulary if code in codes) or None
