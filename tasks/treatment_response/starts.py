"""Whose start of a therapy is an episode: chosen by what was known on that day, and by no row of the future.

A target trial with an active comparator (Hernán and Robins 2016): time zero is the day of the first dose, both arms must have been
open to the patient on it, and somebody who had a therapy lately is in neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from tasks.episodes.past import Bools, Episodes, Ints, Tables, imputed, measured, numbers, texts
from tasks.episodes.people import DAYS_A_YEAR, age_at_entry
from tasks.episodes.routine import NO_THERAPY
from tasks.errors import DataError
from tasks.labels.history import series
from tasks.ms.histories import history_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLATFORM, HIGH = "platform", "high"
WASHOUT_D: Final = 182  # six months without any therapy
FRESH_D: Final = 182  # the reference EDSS is no older
ADULT_YEARS: Final = 18.0
NOT_MS: Final = "RIS"
NEEDED: Final = ("patients", "visits", "treatments")


def new_starts(tables: Tables, most: int) -> Episodes:
    """The first `most` eligible starts of each patient, t0 = day of the start, in the order of the table `patients`.

    A start counts if it is of one of the two classes alone, no therapy was taken in the six months before, EDSS was scored in these
    months or on the day, the patient is 18 or older and the course at entry is not RIS. `DataError` where a table is missing.
    """
    if missing := [name for name in NEEDED if name not in tables or tables[name].empty]:
        raise DataError(f"the table {missing[0]} has no rows that can be used: see `wardround-site data validate`")
    patients = tables["patients"].reset_index(drop=True)
    places = pd.Index(patients["patient_id"].astype(str))
    if not places.is_unique:
        raise DataError("table patients: episodes need exactly one row for each patient; see `wardround-site data validate`")
    rows = therapies(tables["treatments"])
    owner = np.asarray(places.get_indexer(pd.Index(rows["patient_id"].astype(str))), dtype=np.int64)
    known = (owner >= 0) & ~np.isnan(numbers(rows, "start_day"))
    rows, owner = rows[known].reset_index(drop=True), owner[known]
    day = numbers(rows, "start_day").astype(np.int64)
    fit = np.isin(texts(rows, "dmt_class"), (PLATFORM, HIGH)) & _untreated(rows, day)
    fit &= _adult_with_ms(patients, owner, day) & _scored(tables, owner, day)
    return _first(places, owner[fit], day[fit], most)


def therapies(treatments: pd.DataFrame) -> pd.DataFrame:
    """Rows of real therapies that somebody recorded, numbered anew."""
    rows = measured(treatments)
    return rows[~rows["drug"].isin(NO_THERAPY)].reset_index(drop=True)


def classes_of(tables: Tables, episodes: Episodes) -> NDArray[np.object_]:
    """The class begun on each episode's day, (n_episodes,); such a row exists for every episode of `new_starts`."""
    rows = therapies(tables["treatments"])
    begun = pd.MultiIndex.from_arrays([rows["patient_id"].astype(str), numbers(rows, "start_day")])
    known = pd.Series(texts(rows, "dmt_class"), index=begun)
    wanted = pd.MultiIndex.from_arrays([episodes.patients, episodes.days.astype(np.float64)])
    return np.asarray(known[~known.index.duplicated()].reindex(wanted).to_numpy(dtype=object))


def untreated_on(tables: Tables, episodes: Episodes) -> Bools:
    """Whether no therapy was taken on each day or in the six months before it, (n_episodes,)."""
    if "treatments" not in tables:
        return np.zeros(len(episodes), dtype=np.bool_)  # nothing is known of therapies
    rows = therapies(tables["treatments"])
    at = pd.DataFrame({"patient": episodes.patients, "day": episodes.days, "number": np.arange(len(episodes))})
    return _free(rows, at)


def _untreated(rows: pd.DataFrame, day: Ints) -> Bools:
    """The same on the day of each row, the row itself apart."""
    at = pd.DataFrame({"patient": rows["patient_id"].astype(str), "day": day, "number": np.arange(len(rows))})
    return _free(rows, at, itself=True)


def _free(rows: pd.DataFrame, at: pd.DataFrame, *, itself: bool = False) -> Bools:
    """Whether each of `at` (patient, day, number) is without therapy. A therapy without an end goes on: nobody knew better then."""
    begun = pd.DataFrame(
        {
            "patient": rows["patient_id"].astype(str).to_numpy(),
            "start": numbers(rows, "start_day"),
            "end": numbers(rows, "end_day"),
            "row": np.arange(len(rows)),
        }
    )
    pairs = at.merge(begun, on="patient")
    taken = (pairs["start"] <= pairs["day"]) & ~(pairs["end"] <= pairs["day"] - WASHOUT_D)
    if itself:
        taken &= pairs["row"] != pairs["number"]
    free = np.ones(len(at), dtype=np.bool_)
    free[pairs.loc[taken, "number"].to_numpy(dtype=np.int64)] = False
    return free


def _adult_with_ms(patients: pd.DataFrame, owner: Ints, day: Ints) -> Bools:
    age = age_at_entry(patients)[owner] + day / DAYS_A_YEAR
    entry = np.where(imputed(patients), "", texts(patients, "phenotype_entry"))[owner]  # a rule may have looked ahead
    return np.asarray((age >= ADULT_YEARS) & ((entry != NOT_MS) | (day < 0)))


def _scored(tables: Tables, owner: Ints, day: Ints) -> Bools:
    """Whether EDSS was scored in the six months up to the day."""
    scores = series(history_of({**tables, "visits": measured(tables["visits"])}).history, "edss")
    clock = scores.patient * 10_000_000 + scores.day
    now = owner * 10_000_000 + day
    return np.asarray(np.searchsorted(clock, now, side="right") > np.searchsorted(clock, now - FRESH_D, side="left"))


def _first(places: pd.Index, owner: Ints, day: Ints, most: int) -> Episodes:
    found = pd.DataFrame({"owner": owner, "day": day}).sort_values(["owner", "day"])
    found = found.groupby("owner").head(most)
    names = places.to_numpy(dtype=object)[found["owner"].to_numpy(dtype=np.int64)]
    return Episodes(tuple(names), found["day"].to_numpy(dtype=np.int64))
