"""A figure with how sure it is: from the number of patients, and from the noise that privacy put on the cells.

Every figure is a smooth function of the cells, so one rule serves all (the delta method). With slopes d = d figure / d cell, noise
of standard deviation s on each cell adds s * |d|; patients that are a sample of more add the square root of the sum of cell * d^2,
which for the AUC is DeLong's variance (DeLong et al. 1988, on binned scores). A patient with several records counts in cells as one
patient, so the error is that of records that agree fully: not too small, whatever they have in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Z95: Final = 1.959964  # of a two-sided interval of 95 %


@dataclass(frozen=True)
class Figure:
    """A value, its standard errors, and an interval of 95 % with both; no interval where none can be said."""

    value: float
    sampling_se: float
    noise_se: float
    low: float | None
    high: float | None

    @property
    def se(self) -> float:
        """Of both together."""
        return math.hypot(self.sampling_se, self.noise_se)


def figure(
    value: float,
    slopes: Floats,
    cells: Floats,
    noise_std: float,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    logit: bool = False,
) -> Figure:
    """The figure `value` with what `slopes` (like `cells`) make of the spread of `cells`; kept within [least, most].

    `logit`: for figures in [0, 1] the interval is symmetric on the scale of their logit, so it never leaves (0, 1); at 0 and at 1
    the delta method says nothing, and there is no interval.
    """
    sampling = math.sqrt(max(float(np.sum(cells * slopes**2)), 0.0))
    noise = noise_std * math.sqrt(float(np.sum(slopes**2)))
    kept = min(max(value, least), most)
    error = Z95 * math.hypot(sampling, noise)
    if not math.isfinite(error):
        return Figure(kept, 0.0, 0.0, None, None)
    if logit:
        return Figure(kept, sampling, noise, *_logit_interval(kept, error))
    return Figure(kept, sampling, noise, max(kept - error, least), min(kept + error, most))


def _logit_interval(value: float, error: float) -> tuple[float, float] | tuple[None, None]:
    if not 0.0 < value < 1.0:
        return None, None
    middle, reach = math.log(value / (1.0 - value)), error / (value * (1.0 - value))
    return _sigmoid(middle - reach), _sigmoid(middle + reach)


def _sigmoid(value: float) -> float:
    small = math.exp(-min(abs(value), 700.0))
    return 1.0 / (1.0 + small) if value >= 0 else small / (1.0 + small)
