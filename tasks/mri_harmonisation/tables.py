"""Harmonised measures in the table `mri`, for tasks that read tables: a new folder, the given one stays as it is.

A scan that is not harmonised keeps its measures as they were, and its `tool` does not say that they are.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from tasks.errors import DataError
from tasks.mri_harmonisation.scans import TOOL, measure_limits
from tasks.ms.cells import NUMBER
from tasks.ms.reading import TextTable

if TYPE_CHECKING:
    from tasks.mri_harmonisation.apply import Harmonised

LONGEST_LABEL: Final = 64
FIXED: Final = 5  # columns of `Harmonised.scans` before the measures
Row = dict[str, str]


@dataclass(frozen=True)
class Written:
    """The table as a file, how many rows it has, and how many scans got other measures, or did not since they left the range."""

    text: str
    rows: int
    harmonised: int
    out_of_range: int


def harmonised_table(table: TextTable, found: Harmonised, name: str) -> Written:
    """The texts of `table` with the measures of `found`, signed with the `name` of the reference."""
    header = [*table.header, *(column for column in ("tool", "tool_version") if column not in table.header)]
    rows = [dict(zip(table.header, table.cells(at), strict=True)) for at in range(len(table.numbers))]
    ready, beyond = _cells(found)
    changed = 0
    for row in rows:
        key = (row["patient_id"], _whole(row["day"]), row["scan_id"])
        if key in ready:
            row.update(ready[key])
            _sign(row, name)
            changed += 1
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return Written(text.getvalue(), len(rows), changed, beyond)


def write_tables(folder: Path, out: Path, found: Harmonised, name: str) -> Written:
    """`out` holds the tables of `folder` with harmonised measures. `DataError` if it cannot."""
    from tasks.imaging.measures_folder import read_mri, write_beside  # here: nibabel is for those who have images

    table = read_mri(folder)
    if table is None:
        raise DataError(f"{folder} holds no table mri")
    written = harmonised_table(table, found, name)
    write_beside(folder, out, {"mri.csv": written.text}, rows=written.rows)
    return written


def refuse_harmonised(table: TextTable) -> None:
    """`DataError` if the table has harmonised measures: others beside them, under their signature, nobody could tell apart."""
    if any(TOOL in cell.split("+") for cell in table.columns.get("tool", ())):
        raise DataError("the table mri holds harmonised measures: name the folder with those that were measured")


def _whole(cell: str) -> str:
    """A whole number as the scans' keys have it: the contract takes 12.0 and +12 for 12."""
    whole = NUMBER.fullmatch(cell) and float(cell).is_integer()
    return str(int(float(cell))) if whole else cell


def _cells(found: Harmonised) -> tuple[dict[tuple[str, str, str], Row], int]:
    """Cells by the scan's key, and how many harmonised scans have a measure beyond the contract's range: they stay as they are."""
    names = [str(name) for name in found.scans.columns[FIXED:]]
    limits = np.array([measure_limits(name) for name in names]).reshape(-1, 2)
    done = found.scans[found.scans["state"] == "harmonised"]
    values = done[names].to_numpy(np.float64)
    inside = (np.isnan(values) | ((values >= limits[:, 0]) & (values <= limits[:, 1]))).all(axis=1)
    keys = zip(done["patient_id"], done["day"], done["scan_id"], strict=True)
    ready = {
        (str(patient), str(int(day)), str(scan)): {
            column: f"{value:.4f}" for column, value in zip(names, row, strict=True) if np.isfinite(value)
        }
        for (patient, day, scan), row, ok in zip(keys, values, inside, strict=True)
        if ok
    }
    return ready, int((~inside).sum())


def _sign(row: Row, name: str) -> None:
    """Who measured stays, as far as the label's length allows; the last word says what became of it."""
    tool, version = (
        f"{row[column]}+{word}" if row.get(column) else word for column, word in (("tool", TOOL), ("tool_version", name))
    )
    fits = max(len(tool), len(version)) <= LONGEST_LABEL
    row["tool"], row["tool_version"] = (tool, version) if fits else (TOOL, name)
