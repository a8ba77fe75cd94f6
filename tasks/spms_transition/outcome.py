"""Which days count, by what was known on them, and what became of them: the only reading of what comes later, for labels alone.

The rule asks for a pyramidal score of 2 or more, which many visits do not have. A rise of EDSS that fits but for a score nobody
took may have been the transition: the patient is lost before it, neither an event nor free of one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from tasks.episodes.outcomes import Outcome, owners_of
from tasks.episodes.past import Bools, Episodes, Floats, Tables, past_of
from tasks.episodes.routine import PHENOTYPES
from tasks.hazards.outcomes import confirmable, known_on_the_day, seen
from tasks.labels.engine import label
from tasks.labels.history import FS_MAX, PYRAMIDAL, History, series
from tasks.ms.histories import history_of
from tasks.spms_transition.task import CONTRACT, GRID, HIGHEST_EDSS, RULE

BEGUN: Final = "the transition had begun, or may have, as a later visit confirmed"


def at_risk(tables: Tables, episodes: Episodes) -> Bools:
    """Days in RRMS with EDSS of `HIGHEST_EDSS` or less, and without what may have been a transition, confirmed by then."""
    known = known_on_the_day(tables, episodes, (CONTRACT.column("phenotype"), CONTRACT.column("edss_last")))
    able = (known[:, 0] == PHENOTYPES.index("RRMS")) & (known[:, 1] <= HIGHEST_EDSS)
    past = history_of(past_of(tables, episodes, ("patients", "visits", "relapses")).tables).history
    return np.asarray(able & np.isnan(_first_day(_benefit_of_doubt(past))))


def outcome_of(tables: Tables, episodes: Episodes) -> Outcome:
    """When the transition of `RULE` in the whole history began."""
    numbered = history_of(tables)
    history, owner = numbered.history, owners_of(numbered.places, episodes)
    scores = series(history, "edss")
    possible = _first_day(_benefit_of_doubt(history))[owner]
    cause = (possible == _first_day(history)[owner]).astype(np.int64)
    shows = confirmable(scores, history.relapses, RULE)
    outcome = seen(scores, owner, shows, days=episodes.days, event=possible, cause=cause).outcome(GRID)
    begun = possible <= episodes.days
    unwatched = np.isnan(outcome.labels[:, 0]) & ~begun
    (reason,) = outcome.left_out
    labels = np.where(begun[:, None], np.nan, outcome.labels)
    return Outcome(labels, {BEGUN: int(begun.sum()), reason: int(unwatched.sum())}, events=outcome.events)


def _first_day(history: History) -> Floats:
    return label(history, RULE).events.first_day("SPMS", history.n_patients)


def _benefit_of_doubt(history: History) -> History:
    """With every pyramidal score that was not taken as high as it can be."""
    fs = np.array(history.visits.fs, dtype=np.float64)
    fs[:, PYRAMIDAL] = np.where(np.isnan(fs[:, PYRAMIDAL]), FS_MAX[PYRAMIDAL], fs[:, PYRAMIDAL])
    return replace(history, visits=replace(history.visits, fs=fs))
