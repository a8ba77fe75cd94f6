"""From a site's accepted tables to what the label engine reads: visits, relapses and brain scans by number of patient.

Two values of one outcome on one day that differ tell nothing: both count as missing, and are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.labels.history import History, Relapses, Scans, Visits
from tasks.ms.contract import FUNCTIONAL_SYSTEMS

FS_COLUMNS: Final = tuple(f"fs_{name}" for name in FUNCTIONAL_SYSTEMS)
OUTCOMES: Final = {"edss": "edss", "t25fw_s": "t25fw_s", "nhpt_s": "nhpt_dom_s", "sdmt_n": "sdmt_n"}
Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Numbered:
    """`patients`: pseudonyms in the order of the numbers in `history`. `contradictions`: values that another of the same day and
    outcome contradicts, by column."""

    patients: tuple[str, ...] = field(repr=False)
    history: History = field(repr=False)
    contradictions: Mapping[str, int]

    @property
    def places(self) -> dict[str, int]:
        """Number of each patient."""
        return {name: at for at, name in enumerate(self.patients)}


def history_of(tables: Tables) -> Numbered:
    """Everybody in the table `patients`, in its order; tables that the site does not have count as empty.

    A visit without a value keeps its place with NaN. Scans of the cord alone are left out. The pegs are those of the
    dominant hand.
    """
    patients = tuple(str(name) for name in tables["patients"]["patient_id"])
    places = {name: at for at, name in enumerate(patients)}
    visits, contradictions = _visits(tables.get("visits"), places)
    return Numbered(patients, History(len(patients), visits, _relapses(tables.get("relapses"), places), _scans(tables, places)),
                    contradictions)  # fmt: skip


def _owners(rows: pd.DataFrame, places: Mapping[str, int]) -> NDArray[np.int64]:
    return np.array([places[str(name)] for name in rows["patient_id"]], dtype=np.int64)


def _whole(rows: pd.DataFrame, name: str) -> NDArray[np.int64]:
    return np.asarray(rows[name].to_numpy(dtype=np.float64), dtype=np.int64)


def _numbers(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    if name not in rows:
        return np.full(len(rows), np.nan)
    return np.asarray(pd.to_numeric(rows[name]).to_numpy(dtype=np.float64, na_value=np.nan))


def _visits(rows: pd.DataFrame | None, places: Mapping[str, int]) -> tuple[Visits, Mapping[str, int]]:
    if rows is None:
        none: NDArray[Any] = np.zeros(0, dtype=np.int64)
        return Visits(none, none, np.zeros(0), fs=np.zeros((0, len(FS_COLUMNS)))), {}
    owner, day = _owners(rows, places), _whole(rows, "day")
    found: dict[str, NDArray[np.float64]] = {}
    contradictions: dict[str, int] = {}
    for outcome, column in OUTCOMES.items():
        found[outcome], twice = _one_a_day(owner, day, _numbers(rows, column))
        contradictions |= {column: twice} if twice else {}
    fs = np.stack([_numbers(rows, name) for name in FS_COLUMNS], axis=1)
    return Visits(owner, day, found["edss"], fs=fs, t25fw_s=found["t25fw_s"], nhpt_s=found["nhpt_s"], sdmt_n=found["sdmt_n"]), (
        contradictions
    )


def _one_a_day(owner: NDArray[np.int64], day: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """`values` with one a day at most for each patient: of equal ones the first stays, of different ones none."""
    known = np.flatnonzero(~np.isnan(values))
    frame = pd.DataFrame({"owner": owner[known], "day": day[known], "value": values[known]})
    groups = frame.groupby(["owner", "day"])["value"]
    differ = (groups.transform("nunique") > 1).to_numpy(bool)
    repeated = frame.duplicated(["owner", "day"]).to_numpy(bool)
    cleaned = values.copy()
    cleaned[known[differ | repeated]] = np.nan
    return cleaned, int(differ.sum())


def _relapses(rows: pd.DataFrame | None, places: Mapping[str, int]) -> Relapses:
    if rows is None:
        return Relapses(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    return Relapses(_owners(rows, places), _whole(rows, "onset_day"), _numbers(rows, "end_day"))


def _scans(tables: Tables, places: Mapping[str, int]) -> Scans | None:
    if "mri" not in tables:
        return None
    rows = tables["mri"]
    rows = rows[(rows["region"] != "cord").to_numpy(bool)]
    counts = {name: _numbers(rows, name) for name in ("new_t2", "enlarging_t2", "gd_count", "pbvc_pct_y")}
    return Scans(_owners(rows, places), _whole(rows, "day"), **counts)
