"""What became of each episode: of this task the only module that reads what comes after the day of prediction, for the label alone.

The label engine is started anew on each t0: the reference is the last EDSS known then, so a worsening is one from that day on.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tasks.cdp_2y.task import HORIZON_D, RULE
from tasks.episodes.outcomes import Outcome, owners_of, places, since
from tasks.episodes.past import Episodes, Tables
from tasks.labels.engine import label
from tasks.labels.history import series
from tasks.ms.histories import history_of
from tasks.ms.rules import LEAST_EDSS

FOLLOWED_D: Final = 913  # 30 months: two years, and 24 weeks to confirm what begins at their end
FEW: Final = f"fewer than {LEAST_EDSS} EDSS scores"
SHORT: Final = "no event, and not followed for 30 months"
UNSEEN: Final = "no event, and no EDSS within the two years"


def outcome_of(tables: Tables, episodes: Episodes) -> Outcome:
    """1 if a worsening confirmed by `RULE` began in (t0, t0 + 2 y]; 0 if none did, there was an EDSS in these two years and one
    30 months after t0 or later. Nobody is imputed: who had no event and was not followed so long has no label."""
    numbered = history_of(tables)
    scores = series(numbered.history, "edss")
    owner = owners_of(numbered.places, episodes)
    began = label(since(numbered.history, scores, owner, episodes.days), RULE).events.first_day("CDP", len(episodes))
    end = episodes.days + HORIZON_D
    worse = began <= end  # and after t0: nothing begins at the reference
    few = scores.count[owner] < LEAST_EDSS
    short = ~(scores.last_day[owner] >= episodes.days + FOLLOWED_D)
    unseen = places(scores, owner, end) == places(scores, owner, episodes.days)
    labels = np.select([few, worse, short | unseen], [np.nan, 1.0, np.nan], default=0.0)
    left_out = {FEW: few, SHORT: ~few & ~worse & short, UNSEEN: ~few & ~worse & ~short & unseen}
    return Outcome(labels, {reason: int(chosen.sum()) for reason, chosen in left_out.items()})
