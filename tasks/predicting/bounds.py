"""When a model should not be asked: far from the patients it was trained on, or with too little known.

All that is known of the training patients is what the run released: mean and standard deviation of each numeric input, over all
hospitals and with noise. A single far value is enough: a model of many inputs is worth nothing where it never saw anybody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.base import Column, Values
from tasks.features import Design

FAR: Final = 5.0  # standard deviations from the training mean: beyond it are fewer than 1 in 25, however skewed counts may be
DOUBTED: Final = 1.5  # standard error of a variance, in those of a mean
LEAST_KNOWN: Final = 0.5  # of the routine inputs in use
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrainingRange:
    """`mean`, `scale`: the model's buffers, (n_numeric,) each, in the contract's units.

    `doubt`: standard error that noise added to a mean, as a share of the public range. Where it is large, little is known of the
    range, and few are refused: by a mean and a spread that are mostly noise the model would be silent about ordinary patients.
    """

    design: Design
    mean: Floats
    scale: Floats
    doubt: float = 0.0

    @property
    def blind(self) -> bool:
        """Whether noise leaves so little known of the range that nobody can be found outside of it."""
        return FAR * math.sqrt(DOUBTED * self.doubt) >= 1.0

    def abstain(self, values: Values) -> list[str]:
        """For each record why no prediction is given, or "" where one is: (n_records,) from values of the whole contract."""
        known = 1.0 - np.isnan(values[:, self._routine()]).mean(axis=1)
        far = self._far(values)
        reasons = []
        for record in range(len(values)):
            if known[record] < LEAST_KNOWN:
                missing = round(100 * (1 - known[record]))
                reasons.append(
                    f"too little is known: {missing} % of the inputs are missing, the limit is {round(100 * (1 - LEAST_KNOWN))} %"
                )
            elif far[record]:
                reasons.append("outside the training range: " + "; ".join(far[record]))
            else:
                reasons.append("")
        return reasons

    def _routine(self) -> list[int]:
        """Places of what nearly everybody has: clinical columns; visits one by one and other kinds of data may be missing."""
        pairs = list(zip(self.design.columns, self.design.positions, strict=True))
        usual = [at for column, at in pairs if column.modality == "clinical" and column.standard is None]
        return usual or [at for _, at in pairs]

    def _ranges(self) -> list[tuple[Column, float, float]]:
        """Numeric columns with mean and spread: those that the run released, or the public ones by which a column is normalised."""
        released = zip(self.design.numeric, self.mean, self.scale, strict=True)
        found = [(column, float(mean), self._spread(column, float(scale))) for column, mean, scale in released]
        return found + [(column, *column.standard) for column in self.design.columns if column.standard is not None]

    def _spread(self, column: Column, scale: float) -> float:
        """What the true spread is probably below: a standard error of the mean and of the variance on top of what was released.

        On the unit range a variance errs by `DOUBTED` times as much as a mean (`Design.statistics_to_buffers`), and no released
        spread is below its floor, so that even an unlucky one is at least about half of the true one.
        """
        low, high = column.limits
        above = math.sqrt((scale / (high - low)) ** 2 + DOUBTED * self.doubt) + self.doubt / FAR
        return (high - low) * above if self.doubt else scale

    def _far(self, values: Values) -> list[list[str]]:
        found: list[list[str]] = [[] for _ in values]
        names = self.design.contract.column_names
        for column, mean, scale in self._ranges():
            low, high = mean - FAR * scale, mean + FAR * scale
            numbers = values[:, names.index(column.name)]
            with np.errstate(invalid="ignore"):
                outside = np.flatnonzero((numbers < low) | (numbers > high))
            unit = "" if column.unit == "count" else column.unit
            limits = f"{max(low, column.limits[0]):.3g} to {min(high, column.limits[1]):.3g} {unit}".rstrip()
            for record in outside:
                found[record].append(f"{column.name} (trained on {limits})")
        return found
