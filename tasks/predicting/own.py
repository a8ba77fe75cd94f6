"""Where one patient's own number will lie, from counted errors of test patients: a shift, and an interval with a stated chance.

The errors of all test patients are one histogram: how far the model is off on average is told by it, whether it is off more for
some predictions is not. So every patient's value is moved by the same shift, and every interval is as wide.

Without noise an interval holds the value of the next patient in at least `Interval.level` of cases, averaged over runs, whatever
the errors' distribution (split conformal prediction: Vovk et al. 2005, Lei et al. 2018). With noise each end is moved out until
one standard deviation of the noise on what lies beyond it could not hide too many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tasks.predicting.told import OWN_INTERVAL, Interval, Told

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
DOUBT: Final = 1.0  # standard deviations of noise: on average intervals hold as often as they say, and in nine runs of ten too
SHIFT_SD: Final = 0.1  # of a shift around 0, before anything is measured, in reaches


@dataclass(frozen=True)
class Own:
    """`shift`: what is taken from a prediction; errors (prediction less truth) lie from `least` to `most`. All in the unit."""

    shift: float
    least: float
    most: float
    interval: Interval = OWN_INTERVAL

    def told(self, score: Tensor) -> Told:
        """Moved by the shift, with the interval of the patient's own value."""
        return Told(score - self.shift, score - max(self.most, self.shift), score - min(self.least, self.shift))


def own(counts: Floats, edges: Floats, noise: float) -> Own | None:
    """From errors counted in bins, (bins,) between `edges` (bins + 1,), in patients, with noise of standard deviation `noise`.

    None where the histogram cannot say: an end would lie in an outermost bin, where errors of any size count, or noise left nobody.
    """
    if counts.sum() < 1.0:
        return None
    tail = (1.0 - OWN_INTERVAL.level) / 2.0
    most = _end(counts, edges, noise, tail)
    least = _end(counts[::-1], -edges[::-1], noise, tail)
    return None if most is None or least is None else Own(_shift(counts, edges, noise), -least, most)


def _end(counts: Floats, edges: Floats, noise: float, tail: float) -> float | None:
    """The error above which, surely enough, at most a share `tail` of patients lies.

    `over` is, for each edge, by how many patients more than that share lie above; it is linear in the cells, so that negative ones
    are as good as others. From the outermost edge inwards it grows; where noise makes it fall again is not looked at.
    """
    bins = len(counts)
    above = np.concatenate([np.cumsum(counts[::-1])[::-1], [0.0]])
    beyond = bins - np.arange(bins + 1.0)  # cells
    doubt = DOUBT * noise * np.sqrt(beyond * (1.0 - tail) ** 2 + (bins - beyond) * tail**2)
    over = above + 1.0 - tail * (counts.sum() + 1.0) + doubt  # the next patient, too, may lie above
    too_many = np.flatnonzero(over > 0.0)
    if not len(too_many) or (last := int(too_many[-1])) >= bins - 1:
        return None
    part = over[last] / (over[last] - over[last + 1])
    return float(edges[last] + part * (edges[last + 1] - edges[last]))


def _shift(counts: Floats, edges: Floats, noise: float) -> float:
    """The mean error, drawn to 0 where it is not known better than it is thought to be before: patients' chance and noise."""
    total, middle = float(counts.sum()), (edges[:-1] + edges[1:]) / 2.0
    mean = float(counts @ middle) / total
    off = middle - mean
    variance = (max(float(counts @ off**2), 0.0) + noise**2 * float(off @ off)) / total**2
    before = (SHIFT_SD * float(edges[-1])) ** 2
    return mean * before / (before + variance) if math.isfinite(mean) else 0.0
