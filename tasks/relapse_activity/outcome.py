"""Relapses that followed each episode: of this task the only module that reads what comes after the day of prediction.

Everybody counts for as long as he was watched, so nobody is left out for having moved away, and nobody is taken for well then.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from tasks.episodes.outcomes import Outcome, owners_of, since
from tasks.episodes.past import Episodes, Floats, Ints, Tables, measured, numbers
from tasks.labels.history import series
from tasks.labels.relapse_rate import relapse_counts
from tasks.ms.histories import history_of
from tasks.relapse_activity.task import HORIZON_D

SHORTEST_D: Final = 90
UNRECORDED: Final = "the hospital has no table relapses: that somebody had none cannot be told"
SHORT: Final = f"no visit {SHORTEST_D} days after the day of prediction or later"


def outcome_of(tables: Tables, episodes: Episodes) -> Outcome:
    """(n, 2): whether a relapse began in (t0, end], and the watched share (end - t0) / 2 years, in (0, 1].

    The end is two years after t0, or the last visit where that is earlier.
    """
    seen = _last_visit(tables, episodes)
    short = ~(seen >= episodes.days + SHORTEST_D)
    unrecorded = np.full(len(episodes), "relapses" not in tables)
    end = np.clip(np.where(short, 0.0, seen), episodes.days, episodes.days + HORIZON_D)
    relapsed = _relapses(tables, episodes, end) > 0
    labels = np.column_stack([relapsed, (end - episodes.days) / HORIZON_D])
    labels[short | unrecorded] = np.nan
    left_out = {UNRECORDED: int(unrecorded.sum()), SHORT: int((short & ~unrecorded).sum())}
    return Outcome(labels, left_out, events=labels[:, 0])


def _last_visit(tables: Tables, episodes: Episodes) -> Floats:
    """Day of the last visit of each episode's patient, (n,)."""
    rows = measured(tables["visits"])
    days = pd.Series(numbers(rows, "day"), index=rows["patient_id"].astype(str)).groupby(level=0).max()
    return np.asarray(days.reindex(list(episodes.patients)).to_numpy(dtype=np.float64))


def _relapses(tables: Tables, episodes: Episodes, end: Floats) -> Ints:
    """Relapses of each episode after its day and up to `end`, (n,); two rows with one onset are one."""
    kept = {name: measured(rows) if name == "relapses" else rows for name, rows in tables.items()}
    numbered = history_of(kept)
    owner = owners_of(numbered.places, episodes)
    mine = since(numbered.history, series(numbered.history, "edss"), owner, episodes.days)
    counts, _ = relapse_counts(mine, episodes.days.astype(np.float64), end)
    return counts
