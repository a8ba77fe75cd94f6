"""The routine inputs of each episode, from a `Past` alone: this module reads no table and knows no label, as a test makes sure.

NaN where something is not known; a table that the hospital does not have makes its inputs missing, a patient without rows in one
that it has makes counts 0. No result depends on the order of rows, nor on another episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd

from tasks.episodes.known import Known, Named
from tasks.episodes.past import Bools, Floats, Ints, numbers, texts
from tasks.episodes.people import DAYS_A_YEAR, age_at_entry
from tasks.episodes.routine import DMT_CLASSES, LOOKBACK_D, NO_THERAPY, PHENOTYPES, TOPOGRAPHIES, YEAR_D
from tasks.labels.engine import label
from tasks.labels.history import FUNCTIONAL_SYSTEMS, series
from tasks.labels.rule import LabelRule
from tasks.ms.schema import SEPARATOR

SHORTEST_SPAN_Y: Final = 0.25  # below, two visits would be very many a year


def routine_inputs(of: Known) -> Named:
    """Every input of `routine.CORE` and `routine.EXTRAS`, (n_episodes,) each, in its unit and codes."""
    found: dict[str, Floats] = {}
    for make in (_person, _edss, _systems, _relapses, _therapies, _progression, _scans, _fluids):
        found |= make(of)
    return found


def _months(days: Floats) -> Floats:
    return np.asarray(days / DAYS_A_YEAR * 12)


def _person(of: Known) -> Named:
    patients = of.past.tables["patients"]
    sex = texts(patients, "sex")
    onset = numbers(patients, "onset_day")
    age = age_at_entry(patients)
    return {
        "female": np.select([sex == "F", sex == "M"], [1.0, 0.0], default=np.nan),
        "age_years": age + of.t0 / DAYS_A_YEAR,
        "onset_age_years": age + onset / DAYS_A_YEAR,
        "duration_years": (of.t0 - onset) / DAYS_A_YEAR,
        "phenotype": _phenotype(of, patients),
    }


def _phenotype(of: Known, patients: pd.DataFrame) -> Floats:
    """What the last visit that says it says, else what was recorded at entry; a course outside the categories is missing."""
    codes = {name: float(at) for at, name in enumerate(PHENOTYPES)}
    entry = _codes(patients, "phenotype_entry", codes)
    rows = of.rows("visits")
    if rows is None:
        return entry
    seen = _codes(rows, "phenotype", codes)
    owner, ago = of.owner(rows), of.ago(rows)
    kept = ~np.isnan(seen)
    order = np.lexsort((seen[kept], -ago[kept], owner[kept]))
    found = entry.copy()
    found[owner[kept][order]] = seen[kept][order]
    return found


def _codes(rows: pd.DataFrame, name: str, codes: Mapping[str, float]) -> Floats:
    return np.array([codes.get(text, np.nan) for text in texts(rows, name)], dtype=np.float64)


def _edss(of: Known) -> Named:
    scores = series(of.history, "edss")
    ago = of.t0[scores.patient] - scores.day
    recent = ago < LOOKBACK_D
    owner, ago, value = scores.patient[recent], ago[recent], scores.value[recent]
    n = of.count(owner)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(owner, value, of.n) / n
        centre = np.bincount(owner, -ago, of.n) / n
        off, when = value - mean[owner], (-ago - centre[owner]) / DAYS_A_YEAR
        sd = np.sqrt(np.bincount(owner, off**2, of.n) / (n - 1))
        slope = np.bincount(owner, off * when, of.n) / np.bincount(owner, when**2, of.n)
    return {
        "edss_last": of.newest(owner, ago, value),
        "edss_mean": mean,
        "edss_max": of.most(owner, value),
        "edss_min": of.least(owner, value),
        "edss_sd": np.where(n >= 2, sd, np.nan),
        "edss_slope": np.where(n >= 2, slope, np.nan),
        "edss_first": of.newest(owner, LOOKBACK_D - 1 - ago, value),
        "edss_months_since": _months(of.least(owner, ago)),
    }


def _systems(of: Known) -> Named:
    names = {f"fs_{name}_last": f"fs_{name}" for name in FUNCTIONAL_SYSTEMS} | {"ambulation_m_last": "ambulation_m"}
    rows = of.rows("visits")
    if rows is None:
        return {name: of.nothing() for name in (*names, "visits_per_year")}
    owner, ago = of.owner(rows), of.ago(rows)
    found = {name: of.newest(owner, ago, numbers(rows, column)) for name, column in names.items()}
    return {**found, "visits_per_year": _visits_a_year(of, owner, ago)}


def _visits_a_year(of: Known, owner: Ints, ago: Floats) -> Floats:
    """Days with a visit after the first of the lookback, by the years since that first."""
    days = pd.DataFrame({"owner": owner, "ago": ago})[ago < LOOKBACK_D].drop_duplicates()
    places, since = days["owner"].to_numpy(), days["ago"].to_numpy()
    years = np.maximum(of.most(places, since) / DAYS_A_YEAR, SHORTEST_SPAN_Y)
    return np.asarray((of.count(places) - 1) / years)


def _relapses(of: Known) -> Named:
    names = ("relapses_1y", "relapses_3y", "relapse_months_since", *(f"relapse_{name}_3y" for name in TOPOGRAPHIES))
    rows = of.rows("relapses")
    if rows is None:
        return {name: of.nothing() for name in names}
    owner, ago = of.owner(rows), of.ago(rows, "onset_day")
    recent = ago < LOOKBACK_D
    systems = "|" + pd.Series(texts(rows, "fs_affected"), dtype="string").str.replace(SEPARATOR, "|", regex=False) + "|"
    affected = {name: systems.str.contains("|".join(rf"\|{each}\|" for each in which), regex=True).to_numpy(dtype=bool)
                for name, which in TOPOGRAPHIES.items()}  # fmt: skip
    return {
        "relapses_1y": of.count(owner[ago < YEAR_D]),
        "relapses_3y": of.count(owner[recent]),
        "relapse_months_since": _months(of.least(owner, ago)),
        **{f"relapse_{name}_3y": of.any(owner[recent & where]) for name, where in affected.items()},
    }


def _therapies(of: Known) -> Named:
    rows = of.rows("treatments")
    if rows is None:
        names = (*(f"dmt_{name}" for name in DMT_CLASSES), "dmt_months", "dmt_past_count", "dmt_ever_high")
        return {name: of.nothing() for name in names}
    rows = rows[~rows["drug"].isin(NO_THERAPY)]
    owner, ago, classes = of.owner(rows), of.ago(rows, "start_day"), texts(rows, "dmt_class")
    now: Bools = np.isnan(numbers(rows, "end_day"))  # an end that is not over yet is not in a past
    ended = rows[~now].drop_duplicates(["patient_id", "drug"])
    return {
        **{f"dmt_{name}": of.any(owner[now & (classes == name)]) for name in DMT_CLASSES},
        "dmt_months": _months(of.least(owner[now], ago[now])),
        "dmt_past_count": of.count(of.owner(ended)),
        "dmt_ever_high": of.any(owner[np.isin(classes, ("high", "induction"))]),
    }


def _progression(of: Known) -> Named:
    """Worsening that was confirmed by t0, as the label engine finds it in the rows of the past."""
    events = label(of.history, LabelRule()).events.only("CDP")
    owner = events.patient
    return {
        "progressed": of.any(owner),
        "progression_months_since": _months(of.least(owner, of.t0[owner] - events.event_day)),
    }


def _scans(of: Known) -> Named:
    names = {"gd_count_last": "gd_count", "t2_volume_ml_last": "t2_vol_ml", "brain_volume_ml_last": "nbv_ml"}
    rows = of.rows("mri")
    if rows is None:
        return {name: of.nothing() for name in (*names, "new_t2_1y")}
    rows = rows[(texts(rows, "region") != "cord") & (texts(rows, "qc") != "fail")]
    owner, ago, new = of.owner(rows), of.ago(rows), numbers(rows, "new_t2")
    read = ~np.isnan(new) & (ago < YEAR_D)
    added = np.bincount(owner[read], new[read], of.n)
    return {
        **{name: of.newest(owner, ago, numbers(rows, column)) for name, column in names.items()},
        "new_t2_1y": np.where(of.count(owner[read]) > 0, added, np.nan),
    }


def _fluids(of: Known) -> Named:
    rows = of.rows("biomarkers")
    if rows is None:
        return {"nfl_z_last": of.nothing()}
    rows = rows[texts(rows, "analyte") == "nfl"]
    return {"nfl_z_last": of.newest(of.owner(rows), of.ago(rows), numbers(rows, "z_age_bmi"))}
