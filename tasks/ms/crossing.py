"""What must hold between rows, and between tables: references, overlaps, gaps, jumps, what comes after death.

Every function sees only rows that are right in themselves, so that one wrong cell is found once, at its own row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.ms.cells import Fault
from tasks.ms.rules import LEAST_EDSS, LEAST_EDSS_A_YEAR, SHORTEST_GAP_D
from tasks.ms.schema import Table

DAYS_A_YEAR: Final = 365.25
DAYS_A_WEEK: Final = 7
ROUNDING: Final = 1e-9  # 17 of 20 is 15 % less, and a little more in binary
SCANNER: Final = ("scanner_id", "vendor", "field_t")  # a change of any is a change of the scanner

Frames = Mapping[str, pd.DataFrame]  # right rows only; the index is the position among the rows that fit the header
Positions = NDArray[np.intp]


def strangers(frame: pd.DataFrame, patients: frozenset[str]) -> list[Fault]:
    """Rows whose patient is not in the table of patients."""
    return _fault("no_such_patient", "patient_id", frame.index[~frame["patient_id"].isin(patients)])


def sequence_faults(table: Table, frame: pd.DataFrame) -> list[Fault]:
    """The rules about rows of one patient in one table."""
    if table.name == "treatments":
        return _overlaps(frame)
    if table.name == "relapses":
        return _gaps(frame)
    steady = {column.name: column.steady for column in table.columns if column.steady is not None}
    return [fault for name, largest in steady.items() for fault in _jumps(frame, name, largest)]


def _overlaps(frame: pd.DataFrame) -> list[Fault]:
    """Each therapy that begins while an earlier one of its class goes on; an open end lasts for ever.

    The earlier one stays: what is written later must not take away what was known before, or inputs would know the future.
    """
    found: list[int] = []
    taken = frame[frame["dmt_class"].notna()]
    taken = taken.assign(end_day=taken["end_day"].fillna(np.inf)).sort_values(["start_day", "end_day", "drug"], kind="stable")
    for _, rows in taken.groupby(["patient_id", "dmt_class"], sort=False):
        last_end = -np.inf
        for position, start, end in zip(rows.index, rows["start_day"], rows["end_day"], strict=True):
            if start < last_end:
                found.append(int(position))
            else:
                last_end = end
    return _fault("dmt_overlap", "start_day", sorted(found))


def _gaps(frame: pd.DataFrame) -> list[Fault]:
    """Each relapse that begins too soon after the last one that did not."""
    found: list[int] = []
    rows = frame.sort_values(["patient_id", "onset_day"], kind="stable")
    patient, last = None, -np.inf
    for position, name, day in zip(rows.index, rows["patient_id"], rows["onset_day"], strict=True):
        if name == patient and day - last < SHORTEST_GAP_D:
            found.append(int(position))
            continue
        patient, last = name, day
    return _fault("relapse_gap", "onset_day", sorted(found))


def _jumps(frame: pd.DataFrame, name: str, largest: float) -> list[Fault]:
    rows = frame[frame[name].notna()].sort_values(["patient_id", "day"], kind="stable")
    before = rows.groupby("patient_id", sort=False).shift(1)
    changed = np.zeros(len(rows), dtype=bool)
    for column in SCANNER:
        known = rows[column].notna() & before[column].notna()
        changed |= (known & (rows[column] != before[column])).to_numpy(dtype=bool)
    jump = ((rows[name] / before[name] - 1).abs() > largest + ROUNDING).to_numpy(dtype=bool)
    return _fault("volume_jump", name, np.sort(rows.index[jump & ~changed]))


def after_death(table: Table, frame: pd.DataFrame, patients: pd.DataFrame) -> list[Fault]:
    """Rows later than their patient's day of death."""
    name = next((column.name for column in table.columns if column.key and (column.kind == "day" or column.name == "week")), None)
    if name is None:
        return []
    death = frame["patient_id"].map(patients.set_index("patient_id")["death_day"])
    day = frame[name] * DAYS_A_WEEK if name == "week" else frame[name]
    return _fault("after_death", name, frame.index[(day > death).to_numpy(dtype=bool)])


def without_label(patients: pd.DataFrame, visits: pd.DataFrame) -> list[Fault]:
    """Patients whose EDSS scores are too few or too rare to judge progression."""
    scored = visits[visits["edss"].notna()].groupby("patient_id")["day"].agg(["count", "min", "max"])
    years = (scored["max"] - scored["min"]) / DAYS_A_YEAR
    enough = scored.index[(scored["count"] >= LEAST_EDSS) & (scored["count"] >= years * LEAST_EDSS_A_YEAR)]
    return _fault("few_edss", "patient_id", patients.index[~patients["patient_id"].isin(enough)])


def _fault(rule: str, column: str, positions: object) -> list[Fault]:
    found = np.asarray(positions, dtype=np.intp)
    return [Fault(rule, column, found)] if found.size else []
