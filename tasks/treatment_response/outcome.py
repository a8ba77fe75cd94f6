"""What became of each start: the arm, the outcome within two years, and the patient's fold.

Of this task the only module that reads what comes after the day of the start, for the label alone. Outcomes are those of the tasks
`cdp_2y` and `relapse_activity`, whatever was taken later: the effect is that of the decision (intention to treat).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tasks.cdp_2y.outcome import outcome_of as confirmed_worsening
from tasks.effects.folds import folds_of
from tasks.episodes.outcomes import Outcome
from tasks.episodes.past import Episodes, Floats, Tables
from tasks.relapse_activity.outcome import outcome_of as relapses_while_watched
from tasks.treatment_response.starts import HIGH, classes_of

UNWATCHED: Final = "not seen two years later: left out with a relapse or without"


def worsening(tables: Tables, episodes: Episodes) -> Outcome:
    """Labels (n_episodes, 3): high efficacy 1 or platform 0; a confirmed worsening began within two years or not; fold."""
    found = confirmed_worsening(tables, episodes)
    return _labelled(tables, episodes, np.asarray(found.labels, dtype=np.float64), dict(found.left_out))


def relapse(tables: Tables, episodes: Episodes) -> Outcome:
    """The same, with any relapse within two years. Who was not watched to their end is left out, relapse or not: kept with one
    and left out without, the lost would make an arm look bad that loses many."""
    found = relapses_while_watched(tables, episodes)
    short = found.known & (found.labels[:, 1] < 1.0)
    events = np.where(short, np.nan, found.labels[:, 0])
    return _labelled(tables, episodes, events, {**found.left_out, UNWATCHED: int(short.sum())})


def _labelled(tables: Tables, episodes: Episodes, events: Floats, left_out: dict[str, int]) -> Outcome:
    treated = (classes_of(tables, episodes) == HIGH).astype(np.float64)
    labels = np.stack([treated, events, folds_of(episodes.patients)], axis=1)
    labels[np.isnan(events)] = np.nan
    return Outcome(labels, left_out, events=events)
