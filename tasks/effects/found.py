"""Whether a summed histogram shows an effect, or an order of patients: 5 % of runs at most say so where there is nothing.

Both tests add up, over strata of the propensity, w (d a - b c): a, b platform without and with the event, c, d high. Without noise
w is 1 / n, which is the Mantel-Haenszel test. Cells carry independent noise of one spread s, so that

- d a - b c is right on average whatever the noise is, where a difference of risks, a ratio of noisy counts, is not;
- its variance by noise is s^2 (a^2 + b^2 + c^2 + d^2) + 2 s^4, which the noisy cells tell (each square is s^2 too large);
- w = 1 / (n + 4 s^2) is, for equal cells, what an effect adds for each unit of variance: the best weight of a stratum.

Strata, and chances of treatment learnt from few patients or with noise, leave some confounding, and the more patients are tested
the more surely it shows. So nothing is declared that a difference of risks of `MARGIN` explains: for an effect the same one for
everybody, for an order one that leans whichever way in each bin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from tasks.effects.cells import Floats, middles

# Two things may be declared found: an effect, and that it differs. Each has a chance of 2.5 % where there is nothing, so both 5 %.
Z_EFFECT: Final = 2.241403  # two-sided
Z_ORDER: Final = 1.959964  # one-sided: an order worse than chance is no finding
MARGIN: Final = 0.02  # of risk, 2 points: confounding by indication that may be left (README)
NOISE_WEIGHT: Final = 4.0
NOBODY: Final = 1e-6  # patients


@dataclass(frozen=True)
class Evidence:
    """`total`: sum of w (d a - b c) in its stratum; `overlap`: of w (a + b) (c + d), what an effect of 1 would add; (...,)."""

    total: Floats
    overlap: Floats
    variance: Floats


def evidence(cells: Floats, noise_std: float) -> Evidence:
    """Of each stratum, from cells (..., ARMS) with noise of `noise_std` in each; never less than 0 patients."""
    none_low, event_low, none_high, event_high = np.moveaxis(cells, -1, 0)
    noise = noise_std**2
    least = np.maximum(cells, 0.0)
    low, high, events = least[..., 0] + least[..., 1], least[..., 2] + least[..., 3], least[..., 1] + least[..., 3]
    both = low + high
    below = np.maximum(cells.sum(-1), 0.0) + NOISE_WEIGHT * noise
    weight = np.where(below > NOBODY, 1.0 / np.maximum(below, NOBODY), 0.0)
    lots = low * high * events * (both - events) / np.maximum(both - 1.0, 1.0)  # hypergeometric, as in `cells`
    drawn = noise * (np.maximum((cells**2).sum(-1) - 4.0 * noise, 0.0) + 2.0 * noise)
    arms = np.maximum((none_low + event_low) * (none_high + event_high), 0.0)
    return Evidence(weight * (event_high * none_low - event_low * none_high), weight * arms, weight**2 * (lots + drawn))


def effect_found(cells: Floats, noise_std: float = 0.0) -> bool:
    """Whether there is an average effect, from cells (bins, STRATA, ARMS)."""
    found = evidence(cells.sum(0), noise_std * math.sqrt(len(cells)))
    beyond = abs(float(found.total.sum())) - MARGIN * float(found.overlap.sum())
    return beyond > Z_EFFECT * math.sqrt(float(found.variance.sum()))


def order_found(cells: Floats, noise_std: float = 0.0) -> bool:
    """Whether patients predicted to gain more do: the score test of a slope of the effect on the predicted one."""
    found = evidence(cells, noise_std)
    overlap = found.overlap.sum(-1)
    if not overlap.any():
        return False
    off = middles(len(cells)) - np.average(middles(len(cells)), weights=overlap)
    beyond = float(np.sum(off * found.total.sum(-1))) - MARGIN * float(np.sum(np.abs(off) * overlap))
    return beyond > Z_ORDER * math.sqrt(float(np.sum(off**2 * found.variance.sum(-1))))
