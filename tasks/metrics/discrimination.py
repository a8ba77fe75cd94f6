"""Do those with the event get the higher scores? AUC and average precision from the cells as they are."""

from __future__ import annotations

import numpy as np

from tasks.metrics.estimate import Figure, figure
from tasks.metrics.histogram import LEAST_MASS, Floats


def auc(zeros: Floats, ones: Floats, noise_std: float) -> tuple[Figure, float]:
    """The Mann-Whitney statistic, ties in a bin counted half, and its resolution: the unbinned AUC is no further away than that.

    Negative cells are used as they are: clamping each at 0 would add the noise's positive half to every one.
    """
    n_zeros, n_ones = float(zeros.sum()), float(ones.sum())
    beaten = (np.cumsum(zeros) - zeros / 2) / n_zeros  # per bin: share of label 0 that a label 1 there beats
    beating = (np.cumsum(ones[::-1])[::-1] - ones / 2) / n_ones
    value = float(ones @ beaten) / n_ones
    slopes = np.stack([(beating - value) / n_zeros, (beaten - value) / n_ones])
    ties = float(ones @ zeros) / (2 * n_ones * n_zeros)
    found = figure(value, slopes, np.stack([zeros, ones]), noise_std, least=0.0, most=1.0, logit=True)
    return found, max(ties, 0.0)


def average_precision(zeros: Floats, ones: Floats, noise_std: float) -> tuple[Figure, float]:
    """Mean over those with the event of the share with the event among all that score as high; and its resolution.

    Within a bin the two labels are taken to be mixed evenly: the j-th of o events stands in the middle of what the bin holds for
    j = (o + 1) / 2. (Counting a whole bin as one tie is off by 0.03 at 16 bins, this by 0.01.) Where noise is of the size of all
    that scores as high, the share leans towards that of all patients, by as many patients as the noise makes up.
    """
    total_ones, total = float(ones.sum()), float(ones.sum() + zeros.sum())
    ones_above, zeros_above = _above(ones), _above(zeros)
    hits = np.maximum(ones_above + (ones + 1.0) / 2.0, 0.0)
    misses = np.maximum(zeros_above + zeros / 2.0, 0.0)
    lean = noise_std * np.sqrt(2.0 * np.arange(len(ones), 0, -1))
    known = np.maximum(hits + misses + lean, LEAST_MASS)
    precision = (hits + lean * min(max(total_ones / total, 0.0), 1.0)) / known
    weights = ones / total_ones
    value = float(weights @ precision)
    by_hits, by_misses = weights * (1.0 - precision) / known, -weights * precision / known
    slopes = np.stack([_reach(by_misses), (precision - value) / total_ones + _reach(by_hits)])
    found = figure(value, slopes, np.stack([zeros, ones]), noise_std, least=0.0, most=1.0, logit=True)
    return found, _resolution(zeros, ones, found.value)


def _above(counts: Floats) -> Floats:
    """How many score in a higher bin."""
    return np.asarray(np.cumsum(counts[::-1])[::-1] - counts)


def _reach(by_bin: Floats) -> Floats:
    """A patient counts fully in every lower bin, and by half in his own."""
    return np.asarray(np.cumsum(by_bin) - by_bin / 2.0)


def _resolution(zeros: Floats, ones: Floats, value: float) -> float:
    """How far the unbinned one can be: in each bin all events first, or all last."""
    zeros, ones = np.maximum(zeros, 0.0), np.maximum(ones, 0.0)
    total = float(ones.sum())
    if total <= LEAST_MASS:
        return 1.0
    above, wrong = _above(ones), _above(zeros)
    middle = above + (ones + 1.0) / 2.0
    best = float(ones @ (middle / (middle + wrong))) / total
    late = wrong + zeros
    before = np.maximum(above + late, LEAST_MASS)
    worst = float(np.sum(ones - late * np.log1p(ones / before))) / total
    return min(max(best - value, value - worst, 0.0), 1.0)
