"""Columns of a hospital's tables that tell a label too well to have been known before it: found on the data, not by name.

A column of many rows a patient is looked at in several ways: its first and its last filled cell, its lowest and highest number,
and whether a code ever occurs. Each is measured as `tasks.leaks` does (Youden's J of the best rule on it alone, 0.95 or more).
The number of rows that a patient has in a table is looked at too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError
from tasks.leaks import MAX_CODES, Cell, gives_away, testable
from tasks.ms.contract import CONTRACT
from tasks.ms.schema import Table

if TYPE_CHECKING:
    import pandas as pd

ROWS: Final = "rows"  # stands for the number of rows of a patient
TIMES: Final = ("day", "onset_day", "start_day", "week")
Tables = Mapping[str, "pd.DataFrame"]
Cells = list[Cell]


@dataclass(frozen=True)
class Suspect:
    """A column that gives a label away. Names of tables, columns and codes only; no patient, no value."""

    table: str
    column: str
    of: str  # which of a long table's measurements, such as "analyte=nfl"; "" for all rows
    view: str  # "first", "last", "lowest", "highest", "ever CODE" or "number"
    why: str

    @property
    def sentence(self) -> str:
        """For a report."""
        which = f" ({self.of})" if self.of else ""
        return f"{self.table}.{self.column}{which}, {self.view}: {self.why}"


def suspects(tables: Tables, labels: Mapping[str, int]) -> tuple[Suspect, ...]:
    """Every column of the accepted `tables` that gives `labels` (0 or 1 by pseudonym) away; patients without a label are not asked.

    All rows count, whatever their day: a task that reads rows up to a day gives the rows up to that day. Nothing is found with
    fewer than 10 patients of a class (`enough_labels`). `DataError` for a label that is neither 0 nor 1.
    """
    if any(label not in (0, 1) for label in labels.values()):
        raise DataError("a label is neither 0 nor 1: give one of them for each patient, or leave the patient out")
    names = [str(name) for name in tables["patients"]["patient_id"] if str(name) in labels] if "patients" in tables else []
    truth = np.array([labels[name] for name in names], dtype=np.int8)
    found: list[Suspect] = []
    for name, rows in tables.items():
        for of, part in _parts(rows[rows["patient_id"].isin(names)], CONTRACT.table(name)):
            found += _in_table(part, CONTRACT.table(name), of, names, truth)
    return tuple(found)


def enough_labels(labels: Mapping[str, int]) -> bool:
    """Whether both classes have enough patients for `suspects` to find anything."""
    return testable(np.array(list(labels.values()), dtype=np.int8))


def _parts(rows: pd.DataFrame, table: Table) -> Iterator[tuple[str, pd.DataFrame]]:
    """The whole table, or one part for each thing measured where a row is one measurement (analyte, instrument, eye)."""
    kinds = [column.name for column in table.columns if column.key and column.kind in ("code", "label") and column.name != "drug"]
    if not kinds:
        yield "", rows
        return
    for values, part in rows.groupby(kinds, sort=True, dropna=False):
        yield ", ".join(f"{kind}={value}" for kind, value in zip(kinds, values, strict=True) if _shown(table, kind)), part


def _shown(table: Table, kind: str) -> bool:
    return bool(table.column(kind).vocabulary)  # free labels may hold anything: they are not repeated


def _in_table(rows: pd.DataFrame, table: Table, of: str, names: list[str], truth: NDArray[np.int8]) -> Iterator[Suspect]:
    time = next((name for name in TIMES if name in table.names and table.column(name).key), None)
    if time is not None:
        rows = rows.sort_values([time, *(name for name in table.key if name != time)], kind="stable")
        counts = rows["patient_id"].value_counts()
        yield from _tested(table.name, ROWS, of, {"number": [float(counts.get(name, 0)) for name in names]}, truth)
    for column in table.columns:
        if column.name in rows and column.kind != "id":
            views = _views(rows, column.name, numeric=column.numeric, times=time is not None, names=names)
            yield from _tested(table.name, column.name, of, views, truth)


def _tested(table: str, column: str, of: str, views: Mapping[str, Cells], truth: NDArray[np.int8]) -> Iterator[Suspect]:
    """At most one finding for each column: the first view that gives the label away."""
    for view, cells in views.items():
        if why := gives_away(cells, truth):
            yield Suspect(table, column, of, view, why)
            return


def _views(rows: pd.DataFrame, column: str, *, numeric: bool, times: bool, names: list[str]) -> dict[str, Cells]:
    known = rows[rows[column].notna()]
    groups = known.groupby("patient_id", sort=False)[column]
    views = {"first": _one_each(groups.first(), names, numeric)}
    if not times:
        return views
    views["last"] = _one_each(groups.last(), names, numeric)
    if numeric:
        views |= {"lowest": _one_each(groups.min(), names, True), "highest": _one_each(groups.max(), names, True)}
    elif known[column].nunique() <= MAX_CODES:
        having = set(known["patient_id"])
        for code in sorted(known[column].unique()):
            with_it = set(known.loc[known[column] == code, "patient_id"])
            views[f"ever {code}"] = [float(name in with_it) if name in having else None for name in names]
    return views


def _one_each(cells: pd.Series, names: list[str], numeric: bool) -> Cells:
    found = cells.to_dict()
    return [None if name not in found else float(found[name]) if numeric else str(found[name]) for name in names]
