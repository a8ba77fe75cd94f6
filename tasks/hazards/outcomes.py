"""When an event was seen, when it was not there yet, and until when it would have been noticed: for labels alone.

An event needs a later visit that confirms it. So whoever has none yet is known to be free of it up to the last visit that a later
one could still confirm, not up to the last visit: a worsening that began at the last one would not count either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd

from tasks.base import Column
from tasks.episodes.inputs import episode_values
from tasks.episodes.outcomes import LONGER_THAN_ANY_D, Outcome, owners_of, since
from tasks.episodes.past import Bools, Episodes, Floats, Ints, past_of
from tasks.hazards.grid import Grid
from tasks.labels.engine import label
from tasks.labels.history import Relapses, Series, series
from tasks.labels.relapse_times import key, relapse_times
from tasks.labels.rule import LabelRule
from tasks.ms.histories import history_of

Tables = Mapping[str, pd.DataFrame]
UNWATCHED: Final = "no event, and no visit in the first quarter or later that another one could confirm"


@dataclass(frozen=True)
class Seen:
    """Of each episode (n_episodes,): days after the day of prediction, on its patient's clock.

    `event`: the visit at which the event was first there, inf if there is none. `clean`: the last visit before it, or of all, at
    which an event would have been noticed; 0 or less if there is none. `cause`: 1, 2 .. of the event, 0 without.
    """

    event: Floats = field(repr=False)
    clean: Floats = field(repr=False)
    cause: Ints = field(repr=False)

    def outcome(self, grid: Grid) -> Outcome:
        """Labels of the `grid`. Nobody is imputed: who has no event and was watched for less than half a quarter has no label."""
        in_time = (self.event > 0) & (self.event <= grid.end_day)
        labels = grid.labels(self.clean, self.event, np.where(in_time, self.cause, 0))
        unwatched = ~in_time & (labels[:, 0] < 1)
        labels[unwatched] = np.nan
        return Outcome(labels, {UNWATCHED: int(unwatched.sum())}, events=in_time.astype(np.float64))


def first_worsening(tables: Tables, episodes: Episodes, rule: LabelRule, names: Sequence[str]) -> Seen:
    """The first event of the `names`, cause 1, 2 .. in their order, by the engine started anew on each episode's day."""
    numbered = history_of(tables)
    scores = series(numbered.history, "edss")
    started = since(numbered.history, scores, owners_of(numbered.places, episodes), episodes.days)
    events = label(started, rule).events
    days = np.stack([events.first_day(name, len(episodes)) for name in names])
    first = np.fmin.reduce(days)
    cause = np.where(np.isnan(first), 0, np.nanargmin(np.where(np.isnan(days), np.inf, days), axis=0) + 1)
    own, mine = series(started, "edss"), np.arange(len(episodes))
    return seen(own, mine, confirmable(own, started.relapses, rule), days=episodes.days, event=first, cause=cause)


def seen(scores: Series, owner: Ints, shows: Bools, *, days: Ints, event: Floats, cause: Ints) -> Seen:
    """`event` (n_episodes,): its day on the clock of the patient `owner`, NaN without; `shows` (n_scores,): see `confirmable`.

    With a day and cause 0 nobody can say what it was: the patient is lost before it.
    """
    patient, day = scores.patient[shows], scores.day[shows]
    end = np.where(np.isnan(event), LONGER_THAN_ANY_D // 2, event).astype(np.int64)
    at = np.searchsorted(patient * LONGER_THAN_ANY_D + day, owner * LONGER_THAN_ANY_D + end, side="left") - 1
    mine = (at >= 0) & (np.append(patient, -1)[at] == owner)
    clean = np.where(mine, np.append(day, 0)[at] - days, 0.0)
    return Seen(event=np.where(cause > 0, event - days, np.inf), clean=clean, cause=cause)


def confirmable(scores: Series, relapses: Relapses, rule: LabelRule) -> Bools:
    """Whether an event that began at each score could be confirmed: by a later one, in time and not shielded by a relapse."""
    times = relapse_times(relapses, rule)
    usable = key(scores.patient, scores.day)[~times.shielded(scores.patient, scores.day)]
    earliest = key(scores.patient, scores.day + rule.confirm_days - rule.confirm_early_days)
    latest = key(scores.patient, scores.day + rule.confirm_days + rule.confirm_late_days)
    found = np.searchsorted(usable, latest, side="right") > np.searchsorted(usable, earliest, side="left")
    return np.asarray(found, dtype=np.bool_)


def known_on_the_day(tables: Tables, episodes: Episodes, columns: Sequence[Column]) -> Floats:
    """Inputs of each episode from people and visits, (n_episodes, n_columns), by which a task may choose its episodes."""
    return np.asarray(episode_values(past_of(tables, episodes, ("patients", "visits")), columns))
