"""What became of episodes: the label engine started anew on each day of prediction. The only reading of what comes after it.

Labels alone are made here; inputs come from a `Past` and never meet this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.episodes.past import Bools, Episodes, Floats, Ints
from tasks.labels.history import History, Relapses, Series, Visits

LONGER_THAN_ANY_D: Final = 10_000_000  # between the days of two patients on one clock


@dataclass(frozen=True)
class Outcome:
    """`labels`: (n_episodes, *label_shape), NaN where not known. `left_out`: how many are not known, by reason.

    `events` (n_episodes,): 1 where what the task is about happened, 0 where not: for the leak check and the report's counts.
    """

    labels: NDArray[Any] = field(repr=False)
    left_out: Mapping[str, int]
    events: Floats | None = field(default=None, repr=False)

    @property
    def known(self) -> Bools:
        """Episodes that have a label, (n_episodes,)."""
        missing = np.isnan(self.labels)
        return np.asarray(~missing.any(axis=tuple(range(1, missing.ndim))))

    @property
    def happened(self) -> Floats:
        """`events`, or the labels themselves where they are 0 and 1."""
        return np.asarray(self.labels if self.events is None else self.events, dtype=np.float64)


def since(history: History, scores: Series, owner: Ints, days: Ints) -> History:
    """Each episode's scores from the last one up to its day on, and all relapses; `owner` says whose episode it is."""
    first = np.maximum(places(scores, owner, days) - 1, scores.start[owner])
    row, episode = ranges(first, scores.start[owner] + scores.count[owner])
    relapses = history.relapses
    place, of = ranges(*(np.searchsorted(relapses.patient, owner, side=side) for side in ("left", "right")))
    return History(
        len(owner),
        Visits(episode, scores.day[row], scores.value[row]),
        Relapses(of, relapses.onset_day[place], None if relapses.end_day is None else relapses.end_day[place]),
    )


def places(scores: Series, owner: Ints, days: Ints) -> Ints:
    """How many scores there are up to these days of these patients, those of patients before them included, (n_episodes,)."""
    clock = scores.patient * LONGER_THAN_ANY_D + scores.day
    return np.asarray(np.searchsorted(clock, owner * LONGER_THAN_ANY_D + days, side="right"), dtype=np.int64)


def ranges(first: Ints, end: Ints) -> tuple[Ints, Ints]:
    """All places in [first, end) of each episode, and the episode of each."""
    length = end - first
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return np.repeat(first, length) + within, np.repeat(np.arange(len(first)), length)


def owners_of(places_of: Mapping[str, int], episodes: Episodes) -> Ints:
    """Number of each episode's patient, (n_episodes,)."""
    return np.array([places_of[name] for name in episodes.patients], dtype=np.int64)
