"""From a hospital's own table to the contract, with every row and value that was not usable counted and listed.

Rules, in this order. A row is *excluded* when it is blank or does not fit the header, has no patient id, shares its id
with a different row, has no or an unknown label, or lacks a required value. Of identical rows with one id the first
stays. A value that is no number, out of range or an unknown code is *set missing* if the contract allows missing
values in that column; otherwise its row is excluded.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks import leaks
from tasks.base import Cohort, Column, Contract, Labels, Values
from tasks.errors import DataError, MappingError
from tasks.mapping import MAPPING_FILE, AbsentSource, CodedSource, NumericSource, TableMapping, read_mapping
from tasks.report import Action, ColumnSummary, DataReport, Finding
from tasks.table import Row, Table, read_table

NUMBER = {
    ".": re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII),
    ",": re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?", re.ASCII),
}


@dataclass
class _Findings:
    """Collects the findings while the rows are sifted, in the order of the rules."""

    found: list[Finding] = field(default_factory=list)

    def add(self, rule: str, rows: Iterable[int], *, where: tuple[str, str], action: Action, remedy: str) -> None:
        """Note `rule` for `rows`, if there are any; `where` = (contract column, source column)."""
        if numbers := tuple(rows):
            self.found.append(Finding(rule, *where, action, numbers, remedy))


@dataclass(frozen=True)
class _Broken:
    """A rule that one cell breaks."""

    rule: str
    remedy: str


@dataclass(frozen=True)
class _Intake:
    """One table on its way in: what it is, what it should become, and what was found."""

    table: Table
    mapping: TableMapping
    contract: Contract
    findings: _Findings = field(default_factory=_Findings)

    def cells(self, source: str, rows: Sequence[Row]) -> list[str]:
        """The texts of one source column."""
        position = self.table.position(source)
        return [row.cells[position] for row in rows]

    def number(self, text: str) -> float | None:
        """`text` as a finite number with the table's decimal sign, or None."""
        decimal = self.mapping.table.decimal
        if not NUMBER[decimal].fullmatch(text):
            return None
        number = float(text.replace(",", "."))
        return number if math.isfinite(number) else None


def load_cohort(folder: Path, contract: Contract) -> Cohort:
    """The site's patients from `folder` (mapping.yaml and the table it names), in the table's order.

    `MappingError`: the mapping does not fit the contract, or feeds a column that gives the answer away.
    `DataError`: the table does not fit the mapping, or no patient is left.
    """
    mapping = read_mapping(folder / MAPPING_FILE, contract)
    intake = _Intake(read_table(folder, mapping.table), mapping, contract)
    for source in mapping.read:
        intake.table.position(source)
    rows, labels = _labelled(intake, _with_one_id(intake))
    _refuse_leaking_inputs(intake, rows, labels)
    values, complete = _values(intake, rows)
    kept = [row for row, keep in zip(rows, complete, strict=True) if keep]
    if not kept:
        raise DataError(_nobody_left(intake))
    values, labels = values[complete], labels[complete]
    ids = tuple(intake.cells(mapping.id_source, kept))
    return Cohort(ids, values, labels, _report(intake, kept, values, labels))


def _with_one_id(intake: _Intake) -> list[Row]:
    """Rows that are one patient each; of identical rows the first, of differing rows with one id none."""
    table, mapping, findings = intake.table, intake.mapping, intake.findings
    whole_row, id_column = ("row", ""), ("patient id", mapping.id_source)
    exclude: Action = "row excluded"
    findings.add("blank row", table.blank, where=whole_row, action=exclude, remedy="Nothing to do.")
    findings.add(
        "more or fewer cells than the header", table.malformed, where=whole_row, action=exclude,
        remedy="Look for an unquoted delimiter in the export.",
    )  # fmt: skip
    position = table.position(mapping.id_source)
    by_id: dict[str, list[Row]] = defaultdict(list)
    unnamed = []
    for row in table.rows:
        if row.cells[position] in mapping.missing:
            unnamed.append(row.number)
        else:
            by_id[row.cells[position]].append(row)
    findings.add("no patient id", unnamed, where=id_column, action=exclude, remedy="Fill in the id.")
    kept, repeated, differing = [], [], []
    for rows in by_id.values():
        if len({row.cells for row in rows}) > 1:
            differing += [row.number for row in rows]
        else:
            kept.append(rows[0])
            repeated += [row.number for row in rows[1:]]
    findings.add(
        "the same row again", sorted(repeated), where=id_column, action=exclude,
        remedy="The first of them is kept; export each patient once.",
    )  # fmt: skip
    findings.add(
        "different rows with one patient id", sorted(differing), where=id_column, action=exclude,
        remedy="None is kept: correct the id, or export one row per patient.",
    )  # fmt: skip
    return sorted(kept, key=lambda row: row.number)


def _labelled(intake: _Intake, rows: Sequence[Row]) -> tuple[list[Row], Labels]:
    """Rows whose label is known, and their labels."""
    label = intake.mapping.label
    kept, labels, missing, unknown = [], [], [], []
    for row, cell in zip(rows, intake.cells(label.source, rows), strict=True):
        if cell in label.missing:
            missing.append(row.number)
        elif cell not in label.codes:
            unknown.append(row.number)
        else:
            kept.append(row)
            labels.append(label.codes[cell])
    where = ("label", label.source)
    remedy = "Nothing to do if the outcome is not known yet."
    intake.findings.add("no label", missing, where=where, action="row excluded", remedy=remedy)
    remedy = "Add the code to label.codes or label.missing, or correct the cell."
    intake.findings.add("unknown label code", unknown, where=where, action="row excluded", remedy=remedy)
    return kept, np.array(labels, dtype=np.int8)


def _refuse_leaking_inputs(intake: _Intake, rows: Sequence[Row], labels: Labels) -> None:
    """The data-driven half of the leak check; `tasks.mapping` did the names."""
    for source in intake.mapping.columns:
        if isinstance(source, AbsentSource):
            continue
        if reason := _leak(intake, source.source, source.missing, rows, labels):
            raise MappingError(
                f"{intake.table.name}: the source column {source.source!r} may not be an input: {reason}, "
                f"in {len(rows)} rows. It was probably filled in after the outcome was known: list it under leaks "
                "and declare the input absent"
            )


def _leak(intake: _Intake, source: str, missing: frozenset[str], rows: Sequence[Row], labels: Labels) -> str | None:
    texts = [None if text in missing else text for text in intake.cells(source, rows)]
    numbers = [None if text is None else intake.number(text) for text in texts]
    all_numbers = sum(text is None for text in texts) == sum(number is None for number in numbers)
    return leaks.gives_away(numbers if all_numbers else texts, labels)


def _values(intake: _Intake, rows: Sequence[Row]) -> tuple[Values, NDArray[np.bool_]]:
    """Values (n_rows, n_columns), and which rows have all required ones (n_rows,)."""
    columns = intake.contract.columns
    values = np.full((len(rows), len(columns)), np.nan)
    complete = np.ones(len(rows), dtype=np.bool_)
    for index, (column, source) in enumerate(zip(columns, intake.mapping.columns, strict=True)):
        if isinstance(source, AbsentSource):
            continue
        values[:, index] = _decode(intake, column, source, rows)
        if not column.nullable:
            complete &= ~np.isnan(values[:, index])
    return values, complete


def _decode(intake: _Intake, column: Column, source: CodedSource | NumericSource, rows: Sequence[Row]) -> list[float]:
    """One column's values in the contract's codes and unit; NaN = missing or against a rule (then a finding)."""
    missing: list[int] = []
    broken: dict[_Broken, list[int]] = defaultdict(list)
    values = []
    for row, cell in zip(rows, intake.cells(source.source, rows), strict=True):
        value = _value(intake, column, source, cell)
        if value is None:
            missing.append(row.number)
        elif isinstance(value, _Broken):
            broken[value].append(row.number)
        values.append(value if isinstance(value, float) else math.nan)
    filled = len(rows) - len(missing)
    if filled and sum(len(numbers) for numbers in broken.values()) == filled:
        raise DataError(
            f"{intake.table.name}: no cell of {source.source!r} fits the contract's column {column.name} "
            f"({next(iter(broken)).rule}, {filled} rows): correct codes, unit, scale or table.decimal in the mapping"
        )
    if not column.nullable and missing:
        broken[_Broken("required value missing", "Fill it in.")] = missing
    action: Action = "value set missing" if column.nullable else "row excluded"
    for problem, numbers in broken.items():
        where = (column.name, source.source)
        intake.findings.add(problem.rule, numbers, where=where, action=action, remedy=problem.remedy)
    return values


def _value(intake: _Intake, column: Column, source: CodedSource | NumericSource, cell: str) -> float | _Broken | None:
    """The contract's value of one `cell`; None = missing."""
    if cell in source.missing:
        return None
    if isinstance(source, CodedSource):
        unknown = _Broken("unknown code", "Add it to codes or missing in the mapping, or correct the cell.")
        return source.codes.get(cell, unknown)
    number = intake.number(cell)
    if number is None:
        sign = intake.mapping.table.decimal
        return _Broken("not a number", f"Correct the cell; the decimal sign of this table is {sign!r}.")
    if any(intake.number(text) == number for text in source.missing):  # `0` as missing also means `0.0`
        return None
    low, high = column.limits
    if not low <= number * source.scale <= high:
        rule = f"outside {low:g} to {high:g} {column.unit}".rstrip()
        return _Broken(rule, "Correct the cell, or the unit in the mapping.")
    return number * source.scale


def _report(intake: _Intake, rows: Sequence[Row], values: Values, labels: Labels) -> DataReport:
    table, mapping, contract = intake.table, intake.mapping, intake.contract
    named = {**mapping.ignored, **mapping.leaks}
    unread = [name for name in table.header if name and name not in mapping.read]
    undeclared = [name for name in unread if name not in mapping.leaks]
    suspects = [name for name in undeclared if _leak(intake, name, mapping.missing, rows, labels)]
    present = np.sum(~np.isnan(values), axis=0)
    return DataReport(
        task=contract.task,
        version=contract.version,
        table=table.name,
        rows_read=table.rows_read,
        patients=len(rows),
        label=contract.label.name,
        label_counts=(int(np.sum(labels == 0)), int(np.sum(labels == 1))),
        columns=tuple(
            ColumnSummary(column.name, source.source, int(count), len(rows) - int(count))
            for column, source, count in zip(contract.columns, mapping.columns, present, strict=True)
        ),
        findings=tuple(intake.findings.found),
        not_read=tuple(name for name in unread if name not in named),
        withheld=tuple((name, named[name]) for name in unread if name in named),
        suspects=tuple(suspects),
        leak_check=_leak_check(labels),
    )


def _leak_check(labels: Labels) -> str:
    if leaks.testable(labels):
        return f"no input alone separates the label (limit: Youden's J {leaks.J_LIMIT})"
    return f"not possible: it needs {leaks.MIN_PER_CLASS} patients with and without the event; only names were checked"


def _nobody_left(intake: _Intake) -> str:
    reasons = "; ".join(f"{finding.rule} ({finding.column}): {finding.count}" for finding in intake.findings.found)
    table = intake.table
    return f"{table.name}: no patient is left of {table.rows_read} rows: {reasons or 'the table has no rows'}"
