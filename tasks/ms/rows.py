"""What must hold within one row, and among the rows of one table that share a key. Values in, truth values out.

Each function answers for every row of a typed frame whether the rule holds; a rule holds wherever a cell it needs is empty.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.ms.contract import DRUGS, FUNCTIONAL_SYSTEMS
from tasks.ms.reading import TextTable
from tasks.ms.rules import FS_HIGHEST_EDSS, FS_TOLERANCE
from tasks.ms.schema import LimitsBy, Table

Holds = NDArray[np.bool_]  # (n_rows,)
# Neurostatus-EDSS: raw visual and bowel/bladder scores are converted before the EDSS is read off
CONVERTED: Final = {"visual": np.array([0, 1, 2, 2, 3, 3, 4]), "bowel_bladder": np.array([0, 1, 2, 3, 3, 4, 5])}
ORDERED: Final = {
    "patients": ("onset_day", "diagnosis_day"),
    "relapses": ("onset_day", "end_day"),
    "treatments": ("start_day", "end_day"),
}


def row_rules(frame: pd.DataFrame, table: Table) -> dict[str, tuple[str, Holds]]:
    """Rule -> (column to show it at, whether it holds), for the rules that concern this table."""
    rules: dict[str, tuple[str, Holds]] = {}
    for column in table.columns:
        if (by := column.limits_by) is not None:
            rules["range"] = (column.name, _within_by(frame, column.name, by))
            if by.unit_column:
                rules["unit"] = (by.unit_column, _right_unit(frame, by))
    if table.name in ORDERED:
        first, last = ORDERED[table.name]
        rules["order"] = (last, ~(frame[last] < frame[first]).to_numpy())
    if any(column.missing_reason for column in table.columns):
        rules["reason_without_gap"] = ("missing_reason", _reason_has_gap(frame, table))
    if table.name == "treatments":
        rules["drug_class"] = ("dmt_class", _right_class(frame))
    if table.name == "visits":
        rules["fs_edss"] = ("edss", _edss_follows(frame))
    return rules


def key_rules(text: TextTable, frame: pd.DataFrame, table: Table) -> dict[str, tuple[str, Holds]]:
    """Whether each row is alone with its key; of equal rows the first is, of different ones none."""
    key = list(table.key)
    shown = ", ".join(key)
    alone = {"duplicate_row": (shown, np.ones(len(frame), dtype=bool)), "duplicate_key": (shown, np.ones(len(frame), dtype=bool))}
    shared = frame.duplicated(key, keep=False) & frame[key].notna().all(axis=1)
    if not shared.any():
        return {}
    for positions in frame.loc[shared, key].groupby(key, sort=False).indices.values():
        rows = np.flatnonzero(shared.to_numpy())[positions]
        if len({text.cells(int(row)) for row in rows}) == 1:
            alone["duplicate_row"][1][rows[1:]] = False
        else:
            alone["duplicate_key"][1][rows] = False
    return alone


def _within_by(frame: pd.DataFrame, name: str, by: LimitsBy) -> Holds:
    low = frame[by.column].map({code: limits.low for code, limits in by.limits.items()}).to_numpy(dtype=float)
    high = frame[by.column].map({code: limits.high for code, limits in by.limits.items()}).to_numpy(dtype=float)
    values = frame[name].to_numpy(dtype=float)
    outside = (values < low) | (values > high)
    if by.only is not None:
        outside &= (frame[by.only[0]] == by.only[1]).to_numpy(dtype=bool)
    return np.asarray(~outside)


def _right_unit(frame: pd.DataFrame, by: LimitsBy) -> Holds:
    wanted = frame[by.column].map({code: limits.unit for code, limits in by.limits.items()})
    unit = frame[by.unit_column]
    return np.asarray((unit == wanted) | unit.isna() | wanted.isna(), dtype=bool)


def _reason_has_gap(frame: pd.DataFrame, table: Table) -> Holds:
    explained = [column.name for column in table.columns if column.missing_reason]
    return np.asarray(frame["missing_reason"].isna() | frame[explained].isna().any(axis=1), dtype=bool)


def _right_class(frame: pd.DataFrame) -> Holds:
    allowed = {(drug, dmt_class) for drug, (_, classes) in DRUGS.items() for dmt_class in classes}
    known = (frame["drug"].notna() & frame["dmt_class"].notna()).to_numpy(dtype=bool)
    right = np.array([pair in allowed for pair in zip(frame["drug"], frame["dmt_class"], strict=True)], dtype=bool)
    return np.asarray(right | ~known)


def _edss_follows(frame: pd.DataFrame) -> Holds:
    """EDSS up to 3.5 is reproducible from the seven functional systems, within the tolerance."""
    scores = functional_scores(frame)
    edss = frame["edss"].to_numpy(dtype=float)
    known = ~np.isnan(scores).any(axis=1) & (edss <= FS_HIGHEST_EDSS)
    expected = np.full(len(frame), np.nan)
    expected[known] = edss_from_scores(scores[known].astype(int))
    return np.asarray(~(np.abs(expected - edss) > FS_TOLERANCE))


def functional_scores(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Converted scores of the seven systems, (n_rows, 7); NaN = missing."""
    scores: NDArray[np.float64] = frame[[f"fs_{name}" for name in FUNCTIONAL_SYSTEMS]].to_numpy(dtype=float, copy=True)
    for index, name in enumerate(FUNCTIONAL_SYSTEMS):
        if (table := CONVERTED.get(name)) is not None:
            known = ~np.isnan(scores[:, index])
            scores[known, index] = table[scores[known, index].astype(int)]
    return scores


def edss_from_scores(scores: NDArray[np.int_]) -> NDArray[np.float64]:
    """EDSS of a patient who walks without restriction, from converted scores (n_rows, 7); 4.0 stands for 4.0 or more.

    Kurtzke 1983 as tabled by Neurostatus: the highest grade and how many systems have it decide.
    """
    ones, twos, threes = ((scores == grade).sum(axis=1) for grade in (1, 2, 3))
    conditions = [
        ((scores >= 4).any(axis=1), 4.0),
        ((threes >= 3) | ((threes == 2) & (twos >= 1)) | ((threes == 1) & (twos >= 3)) | (twos >= 6), 4.0),
        ((threes == 2) | ((threes == 1) & (twos >= 1)) | (twos == 5), 3.5),
        ((threes == 1) | (twos >= 3), 3.0),
        (twos == 2, 2.5),
        (twos == 1, 2.0),
        (ones >= 2, 1.5),
        (ones == 1, 1.0),
    ]
    return np.select([condition for condition, _ in conditions], [edss for _, edss in conditions], default=0.0)
