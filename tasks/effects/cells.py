"""Cells of predicted effect, propensity, treatment and outcome, and the Mantel-Haenszel differences of risks that they add up to.

Within a stratum of the propensity score the arms are alike as far as the score knows (Rosenbaum and Rubin 1984); between strata
differences of risk are weighed by n1 n0 / n, which is the patients' overlap (Mantel and Haenszel 1959; Li, Morgan and Zaslavsky
2018): the weight that varies least, and none where one arm is empty. In terms of patients: each counts by the inverse of his arm's
share in his stratum, times the overlap there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.effects.learners import OVERLAP

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STRATA: Final = 6  # of equal width within the overlap
ARMS: Final = 4  # (platform, no event), (platform, event), (high, no event), (high, event)
WIDEST: Final = 0.3  # predicted effects beyond +-this share the outermost bins


def edges(bins: int) -> Floats:
    """Bounds of the bins of predicted effects, (bins - 1,): narrow near 0, where effects are, and 0 is one of them."""
    u = np.linspace(-1.0, 1.0, bins + 1)[1:-1]
    return np.asarray(WIDEST * np.sign(u) * u**2)


def middles(bins: int) -> Floats:
    """What a bin's predicted effect counts as, (bins,)."""
    bounds = np.concatenate([[-WIDEST], edges(bins), [WIDEST]])
    return np.asarray((bounds[:-1] + bounds[1:]) / 2.0)


def strata_of(propensity: Floats) -> Ints:
    """Stratum of each, (n,): 0 to STRATA - 1, or STRATA outside the overlap and where it is not a number."""
    inside = (propensity >= OVERLAP[0]) & (propensity <= OVERLAP[1])
    width = (OVERLAP[1] - OVERLAP[0]) / STRATA
    scaled = np.where(inside, (propensity - OVERLAP[0]) / width, 0.0)
    return np.where(inside, np.minimum(scaled.astype(np.int64), STRATA - 1), STRATA).astype(np.int64)


@dataclass(frozen=True)
class Difference:
    """Sum of weighed differences of risk, of the weights, and of the variances of what is summed, (...,).

    The ratio of the first two is the difference, NaN without overlap. The variance is that of lots drawn within a stratum with its
    events given (hypergeometric; Cochran 1954, Mantel and Haenszel 1959): right for strata of two patients as well, where a
    variance from each arm's own share would be 0.
    """

    total: Floats
    weight: Floats
    variance: Floats

    @property
    def value(self) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(self.weight > 0, self.total / self.weight, np.nan))


def difference(cells: Floats) -> Difference:
    """High minus platform, from cells (..., STRATA, ARMS); strata with an arm of none or less (noise) say nothing."""
    none_low, event_low, none_high, event_high = np.moveaxis(cells, -1, 0)
    low, high = none_low + event_low, none_high + event_high
    use = (low > 0) & (high > 0)
    both = np.where(use, low + high, 2.0)
    total = np.where(use, (event_high * low - event_low * high) / both, 0.0)
    weight = np.where(use, low * high / both, 0.0)
    events = np.clip(event_low + event_high, 0.0, both)  # noise may leave more events than patients
    lots = np.where(use, low * high * events * (both - events) / (both**2 * np.maximum(both - 1.0, 1.0)), 0.0)
    return Difference(total.sum(-1), weight.sum(-1), lots.sum(-1))
