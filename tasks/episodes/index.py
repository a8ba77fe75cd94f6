"""Which visits are days of prediction: by what was known on them, so that neither a label nor the future has a say.

The first eligible visit, then the next one at least a year later, and so on: at most so many a patient. Later rows can neither
take such a visit away nor move it (a property test).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from tasks.episodes.past import Bools, Episodes, Ints, Tables, imputed, measured, numbers, texts
from tasks.episodes.people import DAYS_A_YEAR, age_at_entry
from tasks.episodes.routine import LOOKBACK_D
from tasks.errors import DataError
from tasks.labels.history import series
from tasks.ms.histories import history_of

LEAST_SCORES: Final = 2  # days with EDSS in the lookback
FRESH_D: Final = 90  # the last of them is no older
APART_D: Final = 365
ADULT_YEARS: Final = 18.0
NOT_MS: Final = "RIS"


def index_visits(tables: Tables, most: int) -> Episodes:
    """At most `most` days of each patient, in the order of the table `patients`. `DataError` without patients or visits.

    A day counts if there is a visit on it, EDSS on two days of the 36 months before it (itself included) and on one of the last
    90 days, the patient is 18 or older, and the course recorded at the visit, or at entry, is not RIS.
    """
    patients, owner, day = _eligible(tables)
    return _spaced(patients, owner, day, most)


def latest_visits(tables: Tables) -> Episodes:
    """The last such day of each patient who has one: where a prediction is made for those who are there now. Raises as above."""
    patients, owner, day = _eligible(tables)
    last = pd.DataFrame({"owner": owner, "day": day}).groupby("owner")["day"].max()
    names = patients["patient_id"].astype(str).to_numpy(dtype=object)
    return Episodes(tuple(names[last.index.to_numpy(dtype=np.int64)]), last.to_numpy(dtype=np.int64))


def _eligible(tables: Tables) -> tuple[pd.DataFrame, Ints, Ints]:
    """The table of patients, and of every day that counts the patient's place in it and the day."""
    if missing := [name for name in ("patients", "visits") if name not in tables or tables[name].empty]:
        raise DataError(f"the table {missing[0]} has no rows that can be used: see `wardround-site data validate`")
    patients, visits = tables["patients"].reset_index(drop=True), measured(tables["visits"])
    places = pd.Index(patients["patient_id"].astype(str))
    if not places.is_unique:
        raise DataError("table patients: episodes need exactly one row for each patient; see `wardround-site data validate`")
    owner = np.asarray(places.get_indexer(pd.Index(visits["patient_id"].astype(str))), dtype=np.int64)
    day = numbers(visits, "day").astype(np.int64)
    eligible = (owner >= 0) & _adult_with_ms(patients, visits, owner, day)
    owner, day = owner[eligible], day[eligible]
    scored = _followed({**tables, "visits": visits}, owner, day)
    return patients, owner[scored], day[scored]


def _adult_with_ms(patients: pd.DataFrame, visits: pd.DataFrame, owner: Ints, day: Ints) -> Bools:
    age = age_at_entry(patients)[owner] + day / DAYS_A_YEAR
    entry = np.where(imputed(patients), "", texts(patients, "phenotype_entry"))[owner]  # a rule may have looked ahead
    course = texts(visits, "phenotype")
    course = np.where((course == "") & (day >= 0), entry, course)
    return np.asarray((age >= ADULT_YEARS) & (course != NOT_MS))


def _followed(tables: Tables, owner: Ints, day: Ints) -> Bools:
    """Whether EDSS was scored often and lately enough on each day."""
    scores = series(history_of(tables).history, "edss")
    when = _clock(scores.patient, scores.day)
    now = np.searchsorted(when, _clock(owner, day), side="right")
    since = np.searchsorted(when, _clock(owner, day - LOOKBACK_D), side="right")
    lately = np.searchsorted(when, _clock(owner, day - FRESH_D), side="left")
    return np.asarray((now - since >= LEAST_SCORES) & (now > lately))


def _clock(owner: Ints, day: Ints) -> Ints:
    """One ascending number for patient and day: days of two patients are further apart than any window."""
    return np.asarray(owner * 10_000_000 + day, dtype=np.int64)


def _spaced(patients: pd.DataFrame, owner: Ints, day: Ints, most: int) -> Episodes:
    names = patients["patient_id"].astype(str).to_numpy(dtype=object)
    found: list[pd.DataFrame] = []
    left = pd.DataFrame({"owner": owner, "day": day}).drop_duplicates()
    for _ in range(most):
        first = left.groupby("owner", as_index=False)["day"].min()
        found.append(first)
        last = first.set_index("owner")["day"]
        left = left[left["day"].to_numpy() >= left["owner"].map(last).to_numpy() + APART_D]
    chosen = pd.concat(found).sort_values(["owner", "day"])
    return Episodes(tuple(names[chosen["owner"].to_numpy(dtype=np.int64)]), chosen["day"].to_numpy(dtype=np.int64))
