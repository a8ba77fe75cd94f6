"""From a hospital's tables to rows: one for each 12-week step in which anything of a patient was seen, in published units.

Steps count from day 0 of the patient's own clock. A measure is its last value in the step (counts of lesions are summed).
`relapse` is known on each step with a visit, and is 1 if one began in the 84 days up to the step's last contact; a relapse without
a visit is a row of its own. Nothing later than a row's step is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd

from tasks.episodes.past import measured, numbers, texts
from tasks.episodes.people import DAYS_A_YEAR, age_at_entry
from tasks.errors import DataError
from tasks.states.measures import NAMES, Floats, Ints
from tasks.states.sequences import AGE, DMT, FIRST_MEASURE, STEP, STEP_D, WIDTH
from tasks.states.structure import DMT_CLASSES

LEAST_VISITS: Final = 3
VISIT_MEASURES: Final = {"edss": "edss", "t25fw_s": "t25fw_s", "nhpt_dom_s": "nhpt_s", "sdmt_n": "sdmt_n"}
SCAN_LAST: Final = ("t2_vol_ml", "nbv_ml")
SCAN_SUM: Final = ("new_t2", "gd_count")
CLASS_PLACES: Final = {"platform": 1.0, "moderate": 2.0, "high": 3.0, "induction": 3.0}
NO_DRUG: Final = ("none", "washout")


def rows_of(tables: Mapping[str, pd.DataFrame]) -> tuple[tuple[str, ...], Floats]:
    """Patients of the rows and rows (n_rows, WIDTH), by patient in the order of time; patients with `LEAST_VISITS` visits."""
    if "patients" not in tables or "visits" not in tables:
        raise DataError("the tables patients and visits are needed: see `wardround-site data profile`")
    people = tables["patients"].drop_duplicates("patient_id")
    ids = people["patient_id"].astype(str).to_numpy()
    contacts = _contacts(tables, ids)
    visits = contacts[contacts["table"] == "visits"].groupby("owner")["day"].nunique()
    enough = np.zeros(len(ids), dtype=bool)
    enough[visits.index[visits >= LEAST_VISITS]] = True
    contacts = contacts[enough[contacts["owner"].to_numpy(dtype=np.intp)]]
    if contacts.empty:
        raise DataError(f"no patient has {LEAST_VISITS} visits: the task follows people in time")
    steps = contacts.groupby(["owner", "step"], sort=True)["day"].max().reset_index()
    owner, step, day = (steps[name].to_numpy(dtype=np.intp) for name in ("owner", "step", "day"))
    values = np.full((len(steps), WIDTH), np.nan)
    values[:, STEP] = step
    values[:, DMT] = _class_on(tables.get("treatments"), ids, owner, day)
    values[:, AGE] = age_at_entry(people)[owner] + day / DAYS_A_YEAR
    at = pd.MultiIndex.from_arrays([owner, step])
    for name, found in (_of_visits(tables, ids) | _of_scans(tables, ids)).items():
        values[:, FIRST_MEASURE + NAMES.index(name)] = found.reindex(at).to_numpy(dtype=np.float64)
    seen = contacts[contacts["table"] != "mri"].groupby(["owner", "step"]).size().reindex(at).notna().to_numpy()
    values[:, FIRST_MEASURE + NAMES.index("relapse")] = np.where(seen, _relapse(tables.get("relapses"), ids, owner, day), np.nan)
    return tuple(ids[owner]), values


def _dated(table: pd.DataFrame | None, ids: np.ndarray, day: str = "day") -> pd.DataFrame:
    """Rows that somebody measured, with `owner` and `step`, in the order of days; none before day 0 or of no patient."""
    if table is None or table.empty:
        return pd.DataFrame({"owner": np.zeros(0, np.intp), "step": np.zeros(0, np.intp), "day": np.zeros(0)})
    found = measured(table)
    owner, days = pd.Index(ids).get_indexer(pd.Index(found["patient_id"].astype(str))), numbers(found, day)
    found = found.assign(owner=owner, day=days)[(owner >= 0) & (days >= 0)]
    return found.assign(step=(found["day"] // STEP_D).astype(np.intp)).sort_values("day", kind="stable")


def _contacts(tables: Mapping[str, pd.DataFrame], ids: np.ndarray) -> pd.DataFrame:
    """Owner, step, day and table of whatever was seen."""
    days = {"visits": "day", "relapses": "onset_day", "mri": "day"}
    parts = {name: _dated(tables.get(name), ids, day) for name, day in days.items()}
    return pd.concat([part[["owner", "step", "day"]].assign(table=name) for name, part in parts.items()], ignore_index=True)


def _of_visits(tables: Mapping[str, pd.DataFrame], ids: np.ndarray) -> dict[str, pd.Series]:
    rows = _dated(tables["visits"], ids)
    return {name: _last(rows, numbers(rows, column)) for column, name in VISIT_MEASURES.items()}


def _of_scans(tables: Mapping[str, pd.DataFrame], ids: np.ndarray) -> dict[str, pd.Series]:
    rows = _dated(tables.get("mri"), ids)
    rows = rows[(texts(rows, "region") != "cord") & (texts(rows, "qc") != "fail")]
    found = {name: _last(rows, numbers(rows, name)) for name in SCAN_LAST}
    for name in SCAN_SUM:
        value = pd.Series(numbers(rows, name), index=rows.index)
        found[name] = value[value.notna()].groupby([rows["owner"], rows["step"]]).sum()
    return found


def _last(rows: pd.DataFrame, value: Floats) -> pd.Series:
    known = pd.Series(value, index=rows.index)
    return known[known.notna()].groupby([rows["owner"], rows["step"]]).last()


def _relapse(table: pd.DataFrame | None, ids: np.ndarray, owner: Ints, day: Ints) -> Floats:
    """Whether a relapse began in the 84 days up to `day`, (n,); NaN at a site without the table."""
    if table is None:
        return np.full(len(owner), np.nan)
    rows = measured(table)
    who, onset = pd.Index(ids).get_indexer(pd.Index(rows["patient_id"].astype(str))), numbers(rows, "onset_day")
    known = (who >= 0) & ~np.isnan(onset)
    found = _latest(who[known], onset[known], owner, day)
    return (day - found < STEP_D).astype(np.float64)


def _latest(who: Ints, start: Floats, owner: Ints, day: Ints) -> Floats:
    """The latest start of the same person that is not after `day`, (n,); -inf for none."""
    order = np.lexsort((start, who))
    far = 1e7  # days: no clock reaches it
    keys = who[order] * far + start[order]
    place = np.searchsorted(keys, owner * far + day, side="right") - 1
    of = np.where(place >= 0, who[order][np.maximum(place, 0)] if len(who) else -1, -1)
    return np.where(of == owner, start[order][np.maximum(place, 0)] if len(who) else -np.inf, -np.inf)


def _class_on(table: pd.DataFrame | None, ids: np.ndarray, owner: Ints, day: Ints) -> Floats:
    """Place in `structure.DMT_CLASSES` of the strongest therapy that is being taken on `day`, (n,); 0 is none or unknown."""
    found = np.zeros(len(owner))
    if table is None or table.empty:
        return found
    rows = measured(table)
    rows = rows[~rows["drug"].isin(NO_DRUG)] if "drug" in rows else rows
    place = np.array([CLASS_PLACES.get(str(name), 0.0) for name in texts(rows, "dmt_class")])
    who = pd.Index(ids).get_indexer(pd.Index(rows["patient_id"].astype(str)))
    start, end = numbers(rows, "start_day"), numbers(rows, "end_day")
    pairs = pd.DataFrame({"owner": owner, "day": day, "row": np.arange(len(owner))}).merge(
        pd.DataFrame({"owner": who, "start": start, "end": end, "place": place}), on="owner"
    )
    on = pairs[(pairs["start"] <= pairs["day"]) & (pairs["end"].isna() | (pairs["end"] > pairs["day"]))]
    best = on.groupby("row")["place"].max()
    found[best.index] = best
    return found


assert len(DMT_CLASSES) == 1 + max(CLASS_PLACES.values()), "a class of therapy has no place"  # noqa: S101 - constants
