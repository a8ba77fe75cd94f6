"""Measures as cells of the table `mri`: what a person or another program wrote stays, unless it is to be replaced.

Every other cell stays as it stands in the file. A value outside the range of the contract is not written: it would put the whole
row, and all else in it, into quarantine.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tasks.imaging.layout import Key
from tasks.imaging.measures import VERSION
from tasks.imaging.measures_session import Measured
from tasks.imaging.sidecars import vendor_of
from tasks.imaging.store import Scan
from tasks.ms.contract import MRI
from tasks.ms.reading import TextTable
from tasks.ms.schema import PATTERNS

TOOL: Final = "wardround"
MEASURES: Final = (
    "t2_vol_ml",
    "t2_count",
    "new_t2",
    "enlarging_t2",
    "interval_d_to_prev",
    "thalamus_ml",
    "lat_ventricle_ml",
    "bpf",
    "nbv_ml",
    "pbvc_pct_y",
)
COMPARED: Final = ("new_t2", "enlarging_t2", "interval_d_to_prev")  # one comparison: all of it is ours, or none
SEQUENCES: Final = {"FLAIR": "flair", "T1w": "t1w", "T2w": "t2w", "T1w_ce": "t1w_gd"}
FIELD_OFF: Final = 0.05  # a magnet of 3 T says 2.89
SAME: Final = 2e-3  # relative; volumes in a report are rounded
LONGEST_TOOL: Final = 64
Row = dict[str, str]


@dataclass
class Merged:
    """The table with measures in it, and how many cells and rows were concerned; no value of a patient."""

    header: list[str]
    rows: list[Row] = field(repr=False)
    new_rows: int = 0
    filled: Counter[str] = field(default_factory=Counter)  # by column
    same: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)  # another value stays
    replaced: Counter[str] = field(default_factory=Counter)
    out_of_range: Counter[str] = field(default_factory=Counter)
    several_rows: int = 0  # sessions that two or more rows of one day could be about

    def to_csv(self) -> str:
        """The table as the contract wants it in a file."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()


def merge(
    table: TextTable | None,
    found: Sequence[Measured],
    recorded: Mapping[str, str],
    *,
    scaling: Mapping[tuple[str, str], float] | None = None,
    replace: bool = False,
) -> tuple[Merged, dict[Key, Row]]:
    """`table` (None: there is none yet) with `found` in it, and the row of each session.

    A session's row is the one that names its folder; else the only one of its patient and day that is about a brain and names no
    folder; else a new one, with the `recorded` of its patient as source. `scaling`: factor to the size of a template by subject and
    session, for the normalised brain volume.
    """
    given = [] if table is None else [dict(zip(table.header, table.cells(at), strict=True)) for at in range(len(table.numbers))]
    header = list(table.header) if table is not None else [name for name in MRI.names if name in MRI.required or name in MRI.key]
    merged = Merged(header, given)
    sessions = Counter(each.scan.subject for each in found)
    rows: dict[Key, Row] = {}
    for each in found:
        if each.scan.day is None:
            continue
        row = _row(merged, each.scan, recorded, only=sessions[each.scan.subject] == 1)
        if row is None:
            merged.several_rows += 1
            continue
        rows[each.scan.subject, each.scan.session] = row
        _fill(merged, row, each, (scaling or {}).get((each.scan.subject, each.scan.session)), replace=replace)
    used = {name for row in merged.rows for name, cell in row.items() if cell}
    merged.header += [name for name in MRI.names if name in used and name not in merged.header]
    return merged, rows


def _row(merged: Merged, scan: Scan, recorded: Mapping[str, str], *, only: bool) -> Row | None:
    """The row about `scan`, made if there is none; None if several could be meant."""
    named = [
        row
        for row in merged.rows
        if row.get("bids_sub") == scan.subject and (row.get("bids_ses", "") == scan.session or (only and not row.get("bids_ses")))
    ]
    if not named:
        named = [
            row
            for row in merged.rows
            if (row["patient_id"], row["day"]) == (scan.patient, str(scan.day))
            and row.get("region") in ("brain", "both")
            and not row.get("bids_sub")
        ]
    if len(named) > 1:
        return None
    if named:
        return named[0]
    row = {"patient_id": scan.patient, "day": str(scan.day), "scan_id": _free_name(merged, scan), "region": "brain"}
    row["source"] = recorded[scan.patient]
    merged.rows.append(row)
    merged.new_rows += 1
    return row


def _free_name(merged: Merged, scan: Scan) -> str:
    taken = {row["scan_id"] for row in merged.rows if (row["patient_id"], row["day"]) == (scan.patient, str(scan.day))}
    wanted = scan.session if re.fullmatch(PATTERNS["id"], scan.session) else "scan"
    number = 1
    while (name := wanted if number == 1 else f"{wanted[:36]}-{number}") in taken:
        number += 1
    return name


def _fill(merged: Merged, row: Row, found: Measured, scaling: float | None, *, replace: bool) -> None:
    cells = measure_cells(found, scaling)
    written = False
    theirs = not replace and any(row.get(name) for name in COMPARED)
    for name, value in cells.items():
        limits = MRI.column(name).limits
        if limits is not None and not limits.low <= float(value) <= limits.high:
            merged.out_of_range[name] += 1
        elif not row.get(name) and name in COMPARED and theirs:
            merged.kept[name] += 1
        elif not row.get(name):
            row[name], written = value, True
            merged.filled[name] += 1
        elif _same(row[name], value):
            merged.same[name] += 1
        elif replace:
            row[name], written = value, True
            merged.replaced[name] += 1
        else:
            merged.kept[name] += 1
    if written:
        _sign(row)
    for name, value in _facts(found.scan).items():
        if not row.get(name) and (MRI.column(name).kind != "id" or re.fullmatch(PATTERNS["id"], value)):
            row[name] = value


def measure_cells(found: Measured, scaling: float | None = None) -> Row:
    """The measures of one session as cells; what is not known is not there."""
    lesions, change, brain = found.lesions, found.change, found.brain
    values: dict[str, float | int | None] = {
        "t2_vol_ml": lesions.volume_ml if lesions else None,
        "t2_count": lesions.count if lesions else None,
        "new_t2": change.new if change else None,
        "enlarging_t2": change.enlarging if change else None,
        "interval_d_to_prev": found.interval_d,
        "thalamus_ml": brain.thalamus_ml,
        "lat_ventricle_ml": brain.lateral_ventricles_ml,
        "bpf": brain.parenchymal_fraction,
        "nbv_ml": brain.brain_ml * scaling if brain.brain_ml is not None and scaling is not None else None,
        "pbvc_pct_y": found.brain_change_pct_y,
    }
    return {name: str(value) if isinstance(value, int) else f"{value:.4f}" for name, value in values.items() if value is not None}


def _same(one: str, other: str) -> bool:
    try:
        return abs(float(one) - float(other)) <= SAME * max(abs(float(one)), abs(float(other)))
    except ValueError:
        return False


def _sign(row: Row) -> None:
    """Who measured: this program, beside whoever is named already."""
    if TOOL in (before := row.get("tool", "")).split("+"):
        return
    tool = f"{before}+{TOOL}" if before else TOOL
    version = f"{row['tool_version']}+{VERSION}" if before and row.get("tool_version") else VERSION
    if max(len(tool), len(version)) <= LONGEST_TOOL:
        row["tool"], row["tool_version"] = tool, version


def _facts(scan: Scan) -> Row:
    """Which folder, which scanner, which sequences."""
    facts = {"bids_sub": scan.subject, "bids_ses": scan.session, "scanner_id": scan.scanner}
    facts["sequences"] = "|".join(SEQUENCES[name] for name in SEQUENCES if name in scan.images)
    facts["vendor"] = vendor_of(scan.scanner)
    if match := re.search(r" (\d+(?:\.\d+)?)T$", scan.scanner):
        near = [value for value in MRI.column("field_t").values if abs(float(match[1]) / value - 1) <= FIELD_OFF]
        facts["field_t"] = f"{near[0]:g}" if near else ""
    return {name: value for name, value in facts.items() if value}
