"""Time in quarters of a year after the day of prediction, and what visits say of an event on that grid.

A label is `[clean, seen, cause]`: the event was in one of the quarters `clean` + 1 .. `seen` and is of that cause, 1, 2 ..; or,
with cause 0, nothing happened in the quarters up to `clean`, after which nobody could tell (`seen` is then equal to `clean`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ContractError

QUARTER_D: Final = 365.25 / 4
QUARTERS_A_YEAR: Final = 4
LONGEST_YEARS: Final = 20
LABEL_NUMBERS: Final = 3
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """So many whole years after the day of prediction, in quarters."""

    years: int

    def __post_init__(self) -> None:
        if not 1 <= self.years <= LONGEST_YEARS:
            raise ContractError(f"a grid of {self.years} years: from 1 to {LONGEST_YEARS}")

    @property
    def bins(self) -> int:
        """Quarters."""
        return QUARTERS_A_YEAR * self.years

    @property
    def end_day(self) -> int:
        """The last day that counts, after the day of prediction: 730 for two years, 1826 for five."""
        return int(np.rint(self.bins * QUARTER_D))

    def labels(self, clean_day: Floats, seen_day: Floats, cause: Ints) -> Floats:
        """Labels (n, 3) for events that were not there on `clean_day` and were on `seen_day`, days after the day of prediction.

        A day counts as the nearest end of a quarter, so that the visits of a person are neither all early nor all late. Where both
        are nearest to the same end, the event is in the quarter of `seen_day`. With cause 0, or `seen_day` after the last quarter,
        the label says that nothing happened up to `clean_day`. All (n,); `clean_day` below 0 counts as 0.
        """
        clean = self._nearest(clean_day)
        happened = (cause > 0) & (seen_day <= self.end_day)
        day = np.where(happened, seen_day, 0.0)
        seen = self._nearest(day)
        within = np.clip(np.ceil(day / QUARTER_D), 1, self.bins)
        close = happened & (seen <= clean)
        seen, clean = np.where(close, within, seen), np.where(close, within - 1, clean)
        return np.stack([clean, np.where(happened, seen, clean), np.where(happened, cause, 0)], axis=1)

    def _nearest(self, day: Floats) -> Floats:
        return np.asarray(np.clip(np.rint(day / QUARTER_D), 0, self.bins), dtype=np.float64)
