"""Cells and rows of one table against their declarations, by pandera schemas that are made from the contract.

pandera's own errors quote the cells they are about, so they never leave this module: what leaves is rule, column and
position. A cell that breaks a rule counts as empty for every rule that comes after.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray

from tasks.ms.reading import TextTable
from tasks.ms.schema import SEPARATOR, WHOLE, Column, Limits, Table

NUMBER: Final = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
GRID_TOLERANCE: Final = 1e-6
NULL_CHECK: Final = "not_nullable"  # pandera's name of it


@dataclass(frozen=True)
class Fault:
    """A rule that rows of one table break; `column` is empty if it concerns the whole row."""

    rule: str
    column: str
    positions: NDArray[np.intp]  # among the rows that fit the header


def decode(text: TextTable, table: Table) -> tuple[pd.DataFrame, list[Fault]]:
    """Typed columns of the whole contract (float64, or object with None), and the cells that are not even of the right kind."""
    columns: dict[str, pd.Series] = {}
    faults: list[Fault] = []
    for column in table.columns:
        cells = text.columns.get(column.name, ("",) * len(text.numbers))
        if not column.numeric:
            columns[column.name] = pd.Series([cell or None for cell in cells], dtype=object)
            continue
        values, problems = _numbers(cells, column)
        columns[column.name] = pd.Series(values)
        faults += [Fault(rule, column.name, np.array(at, dtype=np.intp)) for rule, at in problems.items()]
    return pd.DataFrame(columns, index=pd.RangeIndex(len(text.numbers))), faults


def _numbers(cells: Sequence[str], column: Column) -> tuple[NDArray[np.float64], dict[str, list[int]]]:
    known: dict[str, float] = {"": math.nan}
    problems: dict[str, list[int]] = {}
    values = np.empty(len(cells))
    for position, cell in enumerate(cells):
        value = known.get(cell)
        if value is None:
            value = known[cell] = float(cell) if NUMBER.fullmatch(cell) else math.inf
        if not math.isfinite(value) and cell:
            problems.setdefault("not_a_number", []).append(position)
            value = math.nan
        elif column.kind in WHOLE and cell and not value.is_integer():
            problems.setdefault("not_whole", []).append(position)
            value = math.nan
        values[position] = value
    return values, problems


def cell_faults(frame: pd.DataFrame, table: Table, known: Sequence[Fault]) -> list[Fault]:
    """Cells that break what is declared of their column alone, but for those `known` to be wrong already."""
    schema = pa.DataFrameSchema({column.name: _cell_schema(column) for column in table.columns})
    wrong: dict[str, set[int]] = {}
    for fault in known:
        wrong.setdefault(fault.column, set()).update(fault.positions.tolist())
    found = []
    for (column, rule), positions in _failures(schema, frame).items():
        if left := sorted(positions - wrong.get(column, set())):
            found.append(Fault(rule, column, np.array(left, dtype=np.intp)))
    return found


def without(frame: pd.DataFrame, faults: Sequence[Fault]) -> pd.DataFrame:
    """`frame` with the cells of `faults` empty."""
    frame = frame.copy()
    for fault in faults:
        if fault.column:
            empty = math.nan if frame[fault.column].dtype == np.float64 else None
            frame.loc[frame.index[fault.positions], fault.column] = empty
    return frame


def row_faults(holds: Mapping[str, tuple[str, NDArray[np.bool_]]]) -> list[Fault]:
    """Rows that break a rule about several of their cells; `holds`: rule -> (column it is shown at, whether it holds)."""
    if not holds:
        return []
    frame = pd.DataFrame({rule: kept for rule, (_, kept) in holds.items()})
    schema = pa.DataFrameSchema({rule: pa.Column(bool, pa.Check(lambda kept: kept, name=rule, error=rule)) for rule in holds})
    return [
        Fault(rule, holds[rule][0], np.array(sorted(positions), dtype=np.intp))
        for (_, rule), positions in _failures(schema, frame).items()
    ]


def _failures(schema: pa.DataFrameSchema, frame: pd.DataFrame) -> dict[tuple[str, str], set[int]]:
    """(column, rule) -> positions of the rows that fail."""
    cases = _failure_cases(schema, frame)
    found: dict[tuple[str, str], set[int]] = {}
    if cases is not None:
        for column, check, index in zip(cases["column"], cases["check"], cases["index"], strict=True):
            rule = "required" if check == NULL_CHECK else str(check)
            found.setdefault((str(column), rule), set()).add(int(index))
    return found


def _failure_cases(schema: pa.DataFrameSchema, frame: pd.DataFrame) -> pd.DataFrame | None:
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:  # it quotes cells: nothing may be raised from it
        return error.failure_cases
    return None


def _cell_schema(column: Column) -> pa.Column:
    checks = [pa.Check(holds, name=rule, error=rule) for rule, holds in _cell_checks(column).items()]
    return pa.Column(float if column.numeric else None, checks, nullable=column.nullable)


Holds = Callable[["pd.Series"], "pd.Series"]


def _cell_checks(column: Column) -> dict[str, Holds]:
    """Rule -> test of all filled cells of the column."""
    if column.kind == "code":
        return {"vocabulary": lambda cells: cells.isin(list(column.vocabulary))}
    if column.kind == "codes":
        return {"vocabulary": lambda cells: _each(cells, lambda cell: set(cell.split(SEPARATOR)) <= column.vocabulary.keys())}
    if not column.numeric:
        pattern = re.compile(column.text_pattern)
        return {"pattern": lambda cells: _each(cells, lambda cell: pattern.fullmatch(cell) is not None)}
    return _number_checks(column)


def _number_checks(column: Column) -> dict[str, Holds]:
    checks: dict[str, Holds] = {}
    limits, usual = column.limits, column.usual
    if limits is not None:
        checks["range"] = lambda cells: _within(cells, limits)
    if usual is not None and limits is not None:
        checks["unusual"] = lambda cells: _within(cells, usual) | ~_within(cells, limits)
    if column.values:
        checks["grid"] = lambda cells: cells.isin(column.values)
    if column.step is not None:
        checks["grid"] = lambda cells: _on_grid(cells, column) | (False if limits is None else ~_within(cells, limits))
    return checks


def _each(cells: pd.Series, holds: Callable[[str], bool]) -> pd.Series:
    known = {cell: holds(cell) for cell in cells.unique()}
    return cells.map(known).astype(bool)


def _within(cells: pd.Series, limits: Limits) -> pd.Series:
    return cells.between(limits.low, limits.high)


def _on_grid(cells: pd.Series, column: Column) -> pd.Series:
    steps = cells / (column.step or 1)
    return ((steps - steps.round()).abs() < GRID_TOLERANCE) & ~cells.isin(column.without)
