"""A past with the ways to look at it that all inputs share: counts, newest and worst values of each episode."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pandas as pd

from tasks.episodes.past import Floats, Ints, Past, numbers
from tasks.episodes.routine import LOOKBACK_D
from tasks.labels.history import History
from tasks.ms.histories import history_of

Named = Mapping[str, Floats]  # of each column, (n_episodes,)


class Known:
    """A past with the ways to look at it: each measure is of one episode, (n_episodes,)."""

    def __init__(self, past: Past) -> None:
        self.past, self.n = past, len(past)

    @cached_property
    def t0(self) -> Floats:
        return np.asarray(self.past.days, dtype=np.float64)

    @cached_property
    def history(self) -> History:
        """As the label engine reads it, with episodes for patients."""
        return history_of(self.past.tables).history

    def rows(self, table: str) -> pd.DataFrame | None:
        return self.past.tables.get(table)

    def owner(self, rows: pd.DataFrame) -> Ints:
        return np.asarray(rows["patient_id"].to_numpy(dtype=np.int64))

    def ago(self, rows: pd.DataFrame, day: str = "day") -> Floats:
        """Days from each row to its episode's t0."""
        return np.asarray(self.t0[self.owner(rows)] - numbers(rows, day))

    def count(self, owner: Ints) -> Floats:
        return np.bincount(owner, minlength=self.n).astype(np.float64)

    def any(self, owner: Ints) -> Floats:
        return (self.count(owner) > 0).astype(np.float64)

    def least(self, owner: Ints, values: Floats) -> Floats:
        found = np.full(self.n, np.nan)
        np.fmin.at(found, owner, values)
        return found

    def most(self, owner: Ints, values: Floats) -> Floats:
        found = np.full(self.n, np.nan)
        np.fmax.at(found, owner, values)
        return found

    def newest(self, owner: Ints, ago: Floats, values: Floats) -> Floats:
        """The last value of the lookback; of two on one day the higher, so that the order of rows has no say."""
        kept = ~np.isnan(values) & (ago < LOOKBACK_D)
        order = np.lexsort((values[kept], -ago[kept], owner[kept]))
        found = np.full(self.n, np.nan)
        found[owner[kept][order]] = values[kept][order]  # of several, the last one assigned stays
        return found

    def nothing(self) -> Floats:
        return np.full(self.n, np.nan)
