"""What became of each episode: of this task the only module that reads what comes after the day of prediction, for the label alone.

The label engine is started anew on each t0: the reference is the last EDSS known then, so a worsening is one from that day on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from tasks.cdp_2y.task import HORIZON_D, RULE
from tasks.episodes.past import Bools, Episodes, Floats, Ints, Tables
from tasks.labels.engine import label
from tasks.labels.history import History, Relapses, Series, Visits, series
from tasks.ms.histories import history_of
from tasks.ms.rules import LEAST_EDSS

FOLLOWED_D: Final = 913  # 30 months: two years, and 24 weeks to confirm what begins at their end
LONGER_THAN_ANY_D: Final = 10_000_000  # between the days of two patients on one clock
FEW: Final = f"fewer than {LEAST_EDSS} EDSS scores"
SHORT: Final = "no event, and not followed for 30 months"
UNSEEN: Final = "no event, and no EDSS within the two years"


@dataclass(frozen=True)
class Outcome:
    """`labels`: 1.0 worse within two years, 0.0 not, NaN not known, (n_episodes,). `left_out`: those not known, by reason."""

    labels: Floats = field(repr=False)
    left_out: Mapping[str, int]

    @property
    def known(self) -> Bools:
        """Episodes that have a label, (n_episodes,)."""
        return ~np.isnan(self.labels)


def outcome_of(tables: Tables, episodes: Episodes) -> Outcome:
    """1 if a worsening confirmed by `RULE` began in (t0, t0 + 2 y]; 0 if none did, there was an EDSS in these two years and one
    30 months after t0 or later. Nobody is imputed: who had no event and was not followed so long has no label."""
    numbered = history_of(tables)
    scores = series(numbered.history, "edss")
    places = numbered.places
    owner = np.array([places[name] for name in episodes.patients], dtype=np.int64)
    began = label(_since(numbered.history, scores, owner, episodes.days), RULE).events.first_day("CDP", len(episodes))
    end = episodes.days + HORIZON_D
    worse = began <= end  # and after t0: nothing begins at the reference
    few = scores.count[owner] < LEAST_EDSS
    short = ~(scores.last_day[owner] >= episodes.days + FOLLOWED_D)
    unseen = _places(scores, owner, end) == _places(scores, owner, episodes.days)
    labels = np.select([few, worse, short | unseen], [np.nan, 1.0, np.nan], default=0.0)
    left_out = {FEW: few, SHORT: ~few & ~worse & short, UNSEEN: ~few & ~worse & ~short & unseen}
    return Outcome(labels, {reason: int(chosen.sum()) for reason, chosen in left_out.items()})


def _since(history: History, scores: Series, owner: Ints, days: Ints) -> History:
    """Each episode's scores from the last one up to t0 on, and all relapses; episodes stand for patients, `owner` says whose."""
    first = np.maximum(_places(scores, owner, days) - 1, scores.start[owner])
    row, episode = _ranges(first, scores.start[owner] + scores.count[owner])
    relapses = history.relapses
    place, of = _ranges(*(np.searchsorted(relapses.patient, owner, side=side) for side in ("left", "right")))
    return History(
        len(owner),
        Visits(episode, scores.day[row], scores.value[row]),
        Relapses(of, relapses.onset_day[place], None if relapses.end_day is None else relapses.end_day[place]),
    )


def _places(scores: Series, owner: Ints, days: Ints) -> Ints:
    """How many scores there are up to these days of these patients, those of patients before them included, (n_episodes,)."""
    clock = scores.patient * LONGER_THAN_ANY_D + scores.day
    return np.asarray(np.searchsorted(clock, owner * LONGER_THAN_ANY_D + days, side="right"), dtype=np.int64)


def _ranges(first: Ints, end: Ints) -> tuple[Ints, Ints]:
    """All places in [first, end) of each episode, and the episode of each."""
    length = end - first
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return np.repeat(first, length) + within, np.repeat(np.arange(len(first)), length)
