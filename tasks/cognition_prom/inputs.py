"""What was known on the day about the measure itself, from a `Past` alone: this module reads no table and knows no label."""

from __future__ import annotations

import numpy as np

from tasks.cognition_prom.measures import Measure
from tasks.cognition_prom.scores import scores_of
from tasks.episodes.known import Known, Named
from tasks.episodes.past import Past, numbers
from tasks.episodes.people import DAYS_A_YEAR
from tasks.episodes.routine import LOOKBACK_D


def score_values(past: Past, measure: Measure) -> Named:
    """The columns of `score_columns` by name, (n_episodes,) each, NaN = not known."""
    of, rows = Known(past), scores_of(past.tables, measure)
    owner, ago, score = of.owner(rows), of.ago(rows), numbers(rows, "score")
    recent = ago < LOOKBACK_D
    mine, years, value = owner[recent], -ago[recent] / DAYS_A_YEAR, score[recent]
    n = of.count(mine)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, centre = np.bincount(mine, value, of.n) / n, np.bincount(mine, years, of.n) / n
        off = years - centre[mine]
        slope = np.bincount(mine, (value - mean[mine]) * off, of.n) / np.bincount(mine, off**2, of.n)
    views = {
        "last": of.newest(owner, ago, score),
        "mean": mean,
        "slope": np.where(n >= 2, slope, np.nan),
        "count": of.count(owner),
        "months_since": of.least(mine, -years * 12),
    }
    return {f"{measure.short}_{view}": values for view, values in views.items()}
