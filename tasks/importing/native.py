"""A hospital's own tables become tables of the contract, by a mapping. Every row read is written, merged or reported as left out.

Order: the files, each patient's pseudonym and day 0, each cell, each row, equal keys. A cell that breaks a rule is a
problem at its row and empty from then on; a row without a cell that the contract requires is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tasks.importing.base import Action, Imported, Review
from tasks.importing.dating import year_band
from tasks.importing.drugs import suggestion
from tasks.importing.native_cells import as_text
from tasks.importing.native_mapping import NativeMapping, RowRule
from tasks.importing.native_people import People, read_index, read_people
from tasks.importing.native_problems import EMPTIED, FOR_REVIEW, LEFT_OUT, Problems
from tasks.importing.native_rows import Filler, Row, Setting, Value
from tasks.importing.native_source import SourceTable, read_sources
from tasks.ms.contract import CONTRACT
from tasks.ms.schema import Table

if TYPE_CHECKING:
    import pandas as pd

NO_DECISIONS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True)
class Counts:
    """What became of the rows that a table's rules took: `taken` = `written` + `merged` + `left_out`."""

    taken: int
    written: int
    merged: int
    left_out: int


@dataclass(frozen=True)
class Conversion:
    """What was imported, from where each row came, and the count of each table."""

    imported: Imported
    rows: Mapping[str, Sequence[Row]] = field(repr=False)  # as written, in the order of the tables
    counts: Mapping[str, Counts]
    sources: Mapping[str, SourceTable] = field(repr=False)


def read_native(
    mapping: NativeMapping,
    place: Path | Mapping[str, Path],
    key: bytes,
    *,
    today: date | None = None,
    reviewed: Mapping[str, str] = NO_DECISIONS,
) -> Imported:
    """The tables in `place` (a folder, one file, or a path for each key of the mapping's files) as the contract wants them.

    `key`: the site's, for pseudonyms. `today`: the last day that can have come. `reviewed`: what reviewers decided about
    drugs' names (`read_reviewed`). `ImportRefused`: a file is not what the mapping says.
    """
    return convert(mapping, read_sources(mapping, place), key, today=today or date.today(), reviewed=reviewed).imported


def convert(
    mapping: NativeMapping,
    sources: Mapping[str, SourceTable],
    key: bytes,
    *,
    today: date,
    reviewed: Mapping[str, str] = NO_DECISIONS,
) -> Conversion:
    """As `read_native`, from tables that were read, with the origin of every row."""
    problems = Problems()
    for name, source in sources.items():
        problems.add(name, "", "", "malformed_row", LEFT_OUT, source.malformed)
    people = read_people(mapping, sources, key, problems)
    setting = Setting(today, key, read_index(mapping, sources, people, today, problems), reviewed)
    run = _Run(mapping, sources, people, setting, problems)
    rows: dict[str, list[Row]] = {}
    counts: dict[str, Counts] = {}
    for table in CONTRACT.tables:
        if any(rule.table.name == table.name for rule in mapping.rules):
            rows[table.name], counts[table.name] = run.table(table)
    run.report_unread()
    imported = Imported(
        tables={name: _frame(CONTRACT.table(name), each) for name, each in rows.items()},
        problems=problems.all(),
        review=tuple(
            Review("drug", source, column, text, times, suggestion(text))
            for (source, column, text), times in sorted(run.open_texts.items())
        ),
        read={name: source.rows_read for name, source in sources.items()},
    )
    return Conversion(imported, rows, counts, sources)


class _Run:
    """One import on its way: which rows each rule took, and the texts that nobody knows."""

    def __init__(
        self, mapping: NativeMapping, sources: Mapping[str, SourceTable], people: People, setting: Setting, problems: Problems
    ) -> None:
        self._mapping, self._sources, self._people = mapping, sources, people
        self._setting, self._problems = setting, problems
        self._taken: list[tuple[RowRule, set[int]]] = []  # positions
        self.open_texts: dict[tuple[str, str, str], int] = {}  # file, column, text -> times

    def table(self, table: Table) -> tuple[list[Row], Counts]:
        """The rows of one table from all its rules, and their count."""
        rules = [rule for rule in self._mapping.rules if rule.table.name == table.name]
        single: list[Row] = []
        to_merge: list[Row] = []
        taken = 0
        for number, rule in enumerate(rules):
            made, count = self._rows(rule, number)
            taken += count
            (to_merge if rule.merge else single).extend(made)
        merged = _merged(rules, to_merge, self._problems)
        complete = [row for row in [*single, *merged] if not _incomplete(table, row, rules, self._problems)]
        if table.name == "patients":
            _fill_year_band(complete, self._setting)
        kept = _alone(table, complete, self._problems)
        kept.sort(key=lambda row: tuple(row.values[name] for name in table.key))
        gone = len(to_merge) - len(merged)
        return kept, Counts(taken, len(kept), gone, taken - len(kept) - gone)

    def _rows(self, rule: RowRule, number: int) -> tuple[list[Row], int]:
        """What the rule makes of the rows that it takes, and how many it took."""
        filler = Filler(rule, self._sources[rule.file], self._setting)
        positions = list(filler.selected())
        self._taken.append((rule, set(positions)))
        people = self._people[rule.file]
        rows = [filler.row(position, people[position], number) for position in positions if people[position]]
        _report_cells(filler, self._problems)
        for column, text in filler.unknown:
            place = (rule.file, column, text)
            self.open_texts[place] = self.open_texts.get(place, 0) + 1
        return rows, len(positions)

    def report_unread(self) -> None:
        """Rows that no rule takes, and cells of the other rows that only rules read which do not take that row."""
        for name, source in self._sources.items():
            rules = [(rule, positions) for rule, positions in self._taken if rule.file == name]
            if not rules:
                continue  # read for the index alone
            somebody = {position for position, patient in enumerate(self._people[name]) if patient}
            taken = set().union(*(positions for _, positions in rules)) & somebody
            self._report(source, "", "not_selected", LEFT_OUT, somebody - taken)
            values = [column for rule, _ in rules for filling in rule.columns.values() for column in filling.sources]
            for column in dict.fromkeys(values):  # a column that only selects rows holds no value
                covered = set().union(*(positions for rule, positions in rules if column in rule.sources))
                cells = source.columns[column]
                lost = [position for position in taken - covered if as_text(cells[position]) not in source.file.missing]
                self._report(source, column, "cell_not_taken", EMPTIED, lost)

    def _report(self, source: SourceTable, column: str, rule: str, action: Action, positions: Iterable[int]) -> None:
        self._problems.add(source.file.key, "", column, rule, action, [source.numbers[position] for position in positions])


def _report_cells(filler: Filler, problems: Problems) -> None:
    rule, source = filler.rule, filler.source
    for column, name, fault, position in filler.faults:
        action: Action = EMPTIED
        if fault in {"unknown_drug"}:
            action = FOR_REVIEW
        elif rule.table.column(column).key or not rule.table.column(column).nullable:
            action = EMPTIED if rule.merge else LEFT_OUT
        problems.add(source.file.key, rule.table.name, name, fault, action, [source.numbers[position]])


def _merged(rules: Sequence[RowRule], rows: Sequence[Row], problems: Problems) -> list[Row]:
    """One row for each patient from rows that agree; a value about which they do not is empty and reported at each of them."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.patient, []).append(row)
    found = []
    for group in groups.values():
        first = group[0]
        first.faulty = set().union(*(row.faulty for row in group))
        values: dict[str, Value | None] = {}
        for column in dict.fromkeys(column for row in group for column in row.values):
            said = {row.values[column] for row in group if row.values.get(column) is not None}
            values[column] = said.pop() if len(said) == 1 else None
            if said and values[column] is None:
                first.faulty.add(column)
                for row in group:
                    if row.values.get(column) is not None:
                        named = ", ".join(rules[row.rule].columns[column].sources)
                        table = rules[row.rule].table.name
                        problems.add(row.origin.file, table, named, "differs", EMPTIED, [row.origin.number])
        first.values = values
        found.append(first)
    return found


def _incomplete(table: Table, row: Row, rules: Sequence[RowRule], problems: Problems) -> bool:
    """Whether the row lacks what the contract requires; an empty cell of the source is reported here, a wrong one was before."""
    lacking = [name for name in table.required if row.values.get(name) is None]
    for name in lacking:
        if name not in row.faulty:
            filling = rules[row.rule].columns.get(name)
            column = ", ".join(filling.sources) if filling else name
            problems.add(row.origin.file, table.name, column, "required", LEFT_OUT, [row.origin.number])
    return bool(lacking)


def _fill_year_band(rows: Iterable[Row], setting: Setting) -> None:
    """All that the contract keeps of the index date: three calendar years."""
    for row in rows:
        if isinstance(day := setting.index.get(row.patient), date):
            row.values.setdefault("year_band", year_band(day))


def _alone(table: Table, rows: Sequence[Row], problems: Problems) -> list[Row]:
    """Of equal rows the first, of different rows with one key none."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.values[name] for name in table.key), []).append(row)
    kept = []
    for group in groups.values():
        equal = all(row.values == group[0].values for row in group)
        kept += group[:1] if equal else []
        for row in group[1:] if equal else group:
            problems.add(
                row.origin.file, table.name, "", "duplicate_row" if equal else "duplicate_key", LEFT_OUT, [row.origin.number]
            )
    return kept


def _frame(table: Table, rows: Sequence[Row]) -> pd.DataFrame:
    """The rows with every column that any of them has, in the contract's order."""
    import pandas as pd  # here: a mapping can be checked without it

    used = {name for row in rows for name in row.values} | set(table.required)
    columns: dict[str, pd.Series] = {}
    for column in table.columns:
        if column.name in used:
            cells = [row.values.get(column.name) for row in rows]
            columns[column.name] = pd.Series(cells, dtype="float64" if column.numeric else object)
    return pd.DataFrame(columns, index=pd.RangeIndex(len(rows)))
