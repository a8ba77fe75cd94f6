"""Inputs of the eye, the nerves, blood, questionnaires, devices, scans and genes, from a `Past` alone; `extras.py` declares them.

As in `features.py`: no table is read here, no label is known, and the order of rows has no say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from tasks.episodes.extras import EVOKED, GENETICS, LAST_WEEKS, OCT, QUESTIONNAIRES, WEARABLES
from tasks.episodes.known import Known, Named
from tasks.episodes.past import DAYS_A_WEEK, Floats, Ints, numbers, texts
from tasks.episodes.people import DAYS_A_YEAR
from tasks.episodes.routine import LOOKBACK_D

SIDES: Final = ("L", "R")
LEAST_SPREAD_Y2: Final = 0.125  # of the days about their means: two examinations half a year apart have it


def extra_inputs(of: Known) -> Named:
    """Every input of `extras.MODALITIES` that `features.py` does not have, (n_episodes,) each, NaN where it is not known."""
    found: dict[str, Floats] = {}
    for make in (_scans, _eyes, _evoked, _gfap, _questionnaires, _devices, _genes):
        found |= make(of)
    return found


def _absent(of: Known, names: Sequence[str]) -> Named:
    """A table that the hospital does not have."""
    return {name: of.nothing() for name in names}


def _mean(sides: Sequence[Floats]) -> Floats:
    """Of those that are known."""
    both = np.stack(sides)
    count = np.sum(~np.isnan(both), axis=0)
    return np.where(count > 0, np.nansum(both, axis=0) / np.maximum(count, 1), np.nan)


def _worse(sides: Sequence[Floats]) -> Floats:
    return np.asarray(np.fmax.reduce(sides))


def _scans(of: Known) -> Named:
    columns = {"thalamus_ml_last": "thalamus_ml", "brain_change_pct_y_last": "pbvc_pct_y"}
    rows = of.rows("mri")
    if rows is None:
        return _absent(of, tuple(columns))
    rows = rows[(texts(rows, "region") != "cord") & (texts(rows, "qc") != "fail")]
    return {name: of.newest(of.owner(rows), of.ago(rows), numbers(rows, column)) for name, column in columns.items()}


def _of_sides(of: Known, rows: pd.DataFrame, side: str, column: str) -> list[Floats]:
    """The newest value of the left and of the right, (n_episodes,) each."""
    parts = [rows[texts(rows, side) == each] for each in SIDES]
    return [of.newest(of.owner(part), of.ago(part), numbers(part, column)) for part in parts]


def _eyes(of: Known) -> Named:
    rows = of.rows("oct")
    if rows is None:
        return _absent(of, [column.name for column in OCT])
    rows = rows[texts(rows, "oscar_ib") != "fail"]
    left, right = cells = _of_sides(of, rows, "eye", "gcipl_um")
    return {
        "prnfl_um_last": _mean(_of_sides(of, rows, "eye", "prnfl_um")),
        "gcipl_um_last": _mean(cells),
        "gcipl_gap_um": np.abs(left - right),
        "gcipl_um_y": _slope_within(of, rows, "gcipl_um", ("eye", "device")),
    }


def _slope_within(of: Known, rows: pd.DataFrame, column: str, level: Sequence[str]) -> Floats:
    """Change a year over the lookback, one slope of an episode, a level for each of its groups: two devices differ by 10 um."""
    owner, when, value = of.owner(rows), -of.ago(rows) / DAYS_A_YEAR, numbers(rows, column)
    kept = ~np.isnan(value) & (of.ago(rows) < LOOKBACK_D)
    label = pd.Series(owner.astype(str), index=rows.index).str.cat([rows[name].astype("string").fillna("") for name in level], "/")
    groups = pd.factorize(label[kept], sort=True)[0]
    order = np.lexsort((value[kept], when[kept], groups))  # sums in one order, whatever that of the rows is
    owner, when, value, groups = owner[kept][order], when[kept][order], value[kept][order], groups[order]
    count = np.maximum(np.bincount(groups), 1)
    x, y = (each - (np.bincount(groups, each, len(count)) / count)[groups] for each in (when, value))
    spread = np.bincount(owner, x * x, of.n)
    enough = spread >= LEAST_SPREAD_Y2
    return np.where(enough, np.bincount(owner, x * y, of.n) / np.where(enough, spread, 1.0), np.nan)


def _evoked(of: Known) -> Named:
    rows = of.rows("evoked_potentials")
    if rows is None:
        return _absent(of, [column.name for column in EVOKED])
    eyes, legs = (rows[texts(rows, "modality") == name] for name in ("VEP", "MEP_leg"))
    return {
        "vep_p100_ms_last": _worse(_of_sides(of, eyes, "side", "latency_ms")),
        "vep_absent_last": _worse(_of_sides(of, eyes, "side", "absent")),
        "mep_leg_cct_ms_last": _worse(_of_sides(of, legs, "side", "cct_ms")),
        "mep_leg_absent_last": _worse(_of_sides(of, legs, "side", "absent")),
    }


def _gfap(of: Known) -> Named:
    rows = of.rows("biomarkers")
    if rows is None:
        return {"gfap_z_last": of.nothing()}
    rows = rows[texts(rows, "analyte") == "gfap"]
    return {"gfap_z_last": of.newest(of.owner(rows), of.ago(rows), numbers(rows, "z_age_bmi"))}


def _questionnaires(of: Known) -> Named:
    rows = of.rows("proms")
    if rows is None:
        return _absent(of, tuple(QUESTIONNAIRES))
    rows = rows[texts(rows, "item") == "total"]
    asked = {name: rows[texts(rows, "instrument") == code] for name, code in QUESTIONNAIRES.items()}
    return {name: of.newest(of.owner(part), of.ago(part), numbers(part, "score")) for name, part in asked.items()}


def _devices(of: Known) -> Named:
    rows = of.rows("wearables")
    if rows is None:
        return _absent(of, [column.name for column in WEARABLES])
    rows = rows[~np.isnan(numbers(rows, "value"))]
    ever = of.any(of.owner(rows)) > 0
    end = DAYS_A_WEEK * numbers(rows, "week") + (DAYS_A_WEEK - 1)
    late = rows[of.t0[of.owner(rows)] - end < DAYS_A_WEEK * LAST_WEEKS]
    weeks = late.drop_duplicates(["patient_id", "week"])
    return {
        "gait_speed_ms_12w": _median(of, late[texts(late, "feature") == "gait_speed_ms"]),
        "steps_day_12w": _median(of, late[texts(late, "feature") == "steps_day"]),
        "wearable_weeks_12w": np.where(ever, of.count(of.owner(weeks)) / LAST_WEEKS, np.nan),
    }


def _median(of: Known, rows: pd.DataFrame) -> Floats:
    found = of.nothing()
    medians = pd.Series(numbers(rows, "value")).groupby(of.owner(rows)).median()
    found[np.asarray(medians.index, dtype=np.int64)] = medians.to_numpy(dtype=np.float64)
    return found


def _genes(of: Known) -> Named:
    rows = of.rows("genetics")
    names = [column.name for column in GENETICS]
    if rows is None:
        return _absent(of, names)
    owner: Ints = of.owner(rows)
    return {name: of.most(owner, numbers(rows, name)) for name in names}
