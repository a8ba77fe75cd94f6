"""The score a year later: of this task the only module that reads what comes after the day of prediction, for the label alone."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from tasks.cognition_prom.measures import Measure
from tasks.cognition_prom.scores import scores_of
from tasks.episodes.outcomes import Outcome
from tasks.episodes.past import Episodes, Tables

YEAR_D: Final = 365
EARLIEST_D: Final = 274  # nine months
LATEST_D: Final = 456  # fifteen
UNSEEN: Final = "no score nine to fifteen months after the day of prediction"


def outcome_of(tables: Tables, episodes: Episodes, measure: Measure) -> Outcome:
    """(n, 2): the score nearest to a year after t0 among those nine to fifteen months after it (of two equally near, the earlier),
    and the last one up to t0. `events`: whether it got worse by `measure.step` or more.

    Nobody is imputed: without a score in these months there is no label.
    """
    scores = scores_of(tables, measure)
    wanted = pd.DataFrame({"patient_id": episodes.patients, "t0": episodes.days, "episode": np.arange(len(episodes))})
    pairs = wanted.merge(scores.assign(patient_id=scores["patient_id"].astype(str)), on="patient_id")
    after = pairs["day"] - pairs["t0"]
    later = pairs[after.between(EARLIEST_D, LATEST_D)].assign(off=(after - YEAR_D).abs())
    found = later.sort_values(["off", "day"]).groupby("episode")["score"].first()
    last = pairs[after <= 0].sort_values("day").groupby("episode")["score"].last()
    labels = np.column_stack([column.reindex(range(len(episodes))).to_numpy(np.float64) for column in (found, last)])
    unknown = np.isnan(labels).any(axis=1)
    change = (labels[:, 0] - labels[:, 1]) * (-1.0 if measure.falls else 1.0)
    return Outcome(labels, {UNSEEN: int(unknown.sum())}, events=np.where(unknown, np.nan, change >= measure.step))
