"""What an import would do, row by row: the hospital's cells beside the contract's. It shows patients' data and stays here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from privacy.report_html import Cell, Html, code, element, paragraph, table
from tasks.importing.base import Imported, Problem
from tasks.importing.native import Conversion
from tasks.importing.native_cells import as_text
from tasks.importing.native_columns import Constant
from tasks.importing.native_mapping import NativeMapping, RowRule
from tasks.importing.native_rows import Row
from tasks.importing.native_source import SourceTable
from tasks.importing.writing import cell_text
from tasks.ms.contract import CONTRACT
from tasks.ms.pages import page, section

LOCAL: Final = "This shows cells of patients' records as they stand. It is for the hospital's own eyes and does not leave it."
DERIVED: Final = "from other cells or rows"
NOT_BROUGHT: Final = "empty: see the problems"
ROWS_SHOWN: Final = 12  # numbers of rows in one line


@dataclass(frozen=True)
class Line:
    """One column of the contract: which cells it comes from, and what they become."""

    column: str
    before: str = field(repr=False)
    after: str = field(repr=False)


@dataclass(frozen=True)
class Shown:
    """One row before and after; `outcome` is "written", or the rules that left it out."""

    table: str
    source: str
    row: int
    outcome: str
    lines: tuple[Line, ...] = field(repr=False)

    def to_dict(self) -> dict[str, object]:
        return {**vars(self), "lines": [vars(line) for line in self.lines]}


def preview(conversion: Conversion, mapping: NativeMapping, rows: int) -> tuple[Shown, ...]:
    """The first `rows` rows of each table, in the order of the source, then as many of each file that are left out."""
    found: list[Shown] = []
    for name, written in conversion.rows.items():
        rules = [rule for rule in mapping.rules if rule.table.name == name]
        for row in sorted(written, key=lambda row: (row.origin.file, row.origin.number))[:rows]:
            found.append(_shown(name, row, rules, conversion.sources[row.origin.file]))
    for name, source in conversion.sources.items():
        found += list(_left_out(source, conversion.imported.problems, name))[:rows]
    return tuple(found)


def _shown(name: str, row: Row, rules: Sequence[RowRule], source: SourceTable) -> Shown:
    columns = rules[row.rule].columns
    lines = []
    for column in CONTRACT.table(name).columns:
        if column.name in row.values:
            filling = columns.get(column.name)
            names = (source.file.patient,) if column.name == "patient_id" else getattr(filling, "sources", ())
            before = "always" if isinstance(filling, Constant) else _cells(source, names, row.origin.position)
            after = NOT_BROUGHT if column.name in row.faulty else cell_text(row.values[column.name])
            lines.append(Line(column.name, before or DERIVED, after))
    return Shown(name, row.origin.file, row.origin.number, "written", tuple(lines))


def _cells(source: SourceTable, names: Sequence[str], position: int) -> str:
    return ", ".join(f"{name} = {as_text(source.columns[name][position])}" for name in names)


def _left_out(source: SourceTable, problems: Sequence[Problem], name: str) -> Iterator[Shown]:
    """Rows that some table does not get, with their cells in the columns that are read."""
    reasons: dict[int, dict[str, str]] = {}
    for problem in problems:
        if problem.source == name and problem.action != "value left empty":
            for number in problem.rows:
                reasons.setdefault(number, {})[f"{problem.rule} ({problem.column or 'row'})"] = problem.table
    positions = {number: position for position, number in enumerate(source.numbers)}
    for number, why in sorted(reasons.items()):
        position = positions.get(number)
        cells = [] if position is None else [Line(column, as_text(each[position]), "") for column, each in source.columns.items()]
        yield Shown(
            ", ".join(sorted({each for each in why.values() if each})) or "any",
            name,
            number,
            "left out: " + ", ".join(why),
            tuple(cells),
        )


def after_only(imported: Imported, rows: int) -> tuple[Shown, ...]:
    """The first rows of each table, for sources that are not tables themselves (FHIR, OMOP)."""
    found = []
    for name, frame in imported.tables.items():
        for number, values in enumerate(frame.head(rows).to_dict("records"), 1):
            lines = [Line(str(column), "", cell_text(value)) for column, value in values.items()]
            found.append(Shown(name, "", number, "written", tuple(lines)))
    return tuple(found)


def rows_in_words(rows: Sequence[int]) -> str:
    """Row numbers, the first few of many."""
    shown = ", ".join(map(str, rows[:ROWS_SHOWN]))
    return f"{shown} and {len(rows) - ROWS_SHOWN} more" if len(rows) > ROWS_SHOWN else shown


def problem_text(problems: Sequence[Problem]) -> str:
    """Problems for people, each in three lines. They hold no cell."""
    return "".join(
        f"{_place(each)}: {each.rule}, {each.action}\n    {each.remedy}\n"
        f"    {'row' if len(each.rows) == 1 else f'{len(each.rows)} rows'}: {rows_in_words(each.rows)}\n"
        for each in problems
    )


def _place(problem: Problem) -> str:
    column = f": {problem.column}" if problem.column else ""
    return f"{problem.source}{column}{f' -> {problem.table}' if problem.table else ''}"


def preview_page(shown: Sequence[Shown], problems: Sequence[Problem], made: str) -> str:
    """The dry run as one HTML page; `made`: when, as people read it."""
    body = [element("h1", "Import, tried out"), paragraph(made, class_="sub"), paragraph(LOCAL, class_="local")]
    found: list[Sequence[Cell]] = [
        (each.source, each.table, each.column, each.rule, rows_in_words(each.rows), each.action, each.remedy) for each in problems
    ]
    names = ("source", "table", "column", "rule", "rows", "what was done", "what to do")
    body.append(
        section("problems", "What cannot be brought over", table("Problems", names, found) if found else paragraph("Nothing."))
    )
    body.append(section("rows", "Before and after", *(_row(each) for each in shown)))
    return page("Import, tried out", body)


def _row(each: Shown) -> Html:
    lines: list[Sequence[Cell]] = [(code(line.column), line.before, line.after) for line in each.lines]
    return table(
        f"{each.table}: row {each.row} of {each.source or 'the source'}: {each.outcome}", ("column", "before", "after"), lines
    )
