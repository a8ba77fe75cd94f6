"""From labels and predicted probabilities to counts in cells, and back from a cell to the probability in its middle.

A histogram has 2 * bins cells: the bins of label 0, then those of label 1. Bins are of equal width on a public *scale*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ContractError

DOUBT: Final = 3.0  # standard deviations of noise by which a variance may be too small
HISTOGRAM_BOUND: Final = 1.0  # L2 (and L1) change when one patient is added or removed
LEAST_MASS: Final = 1e-6  # patients; noise that leaves less than this leaves none, and nothing is divided by it

Floats = NDArray[np.float64]
Counts = NDArray[np.int64] | NDArray[np.float64]
Scale = Literal["probability", "root_odds"]


def on_scale(probabilities: Floats, scale: Scale) -> Floats:
    """Where probabilities lie on the scale, both in [0, 1].

    root_odds: s / (1 + s) with s the square root of the odds. Its 16 bins end at 0.4, 2, 5, 10, 17, 27, 38, 50 ... %: an event of
    5 % fills eight of them, and three on the scale of the probability itself.
    """
    if scale == "probability":
        return probabilities
    event, none = np.sqrt(probabilities), np.sqrt(1.0 - probabilities)
    return np.asarray(event / (event + none))


def off_scale(places: Floats, scale: Scale) -> Floats:
    """The probabilities at places of the scale."""
    if scale == "probability":
        return places
    return np.asarray(places**2 / (places**2 + (1.0 - places) ** 2))


def centres(bins: int, scale: Scale = "probability") -> Floats:
    """The probability that stands for each bin, (bins,): in its middle on the scale."""
    return off_scale((np.arange(bins) + 0.5) / bins, scale)


def mean_places(counts: Floats, noise_std: float = 0.0) -> Floats:
    """Where the patients of each of equally wide bins are on average, (bins,) on a scale from 0 to 1.

    Most of a bin's patients are on the side of the crowd: its middle is too far out, and a slope over middles too flat. Sheppard's
    (1898) correction for a normal crowd: w^2 / 12 / variance of the way to the mean; at most a twelfth, as few values in few bins
    are no such crowd, and never out of the bin. `counts` (bins,), each with noise of `noise_std`: the less the variance is known,
    the less is moved.
    """
    bins = len(counts)
    middles, width = (np.arange(bins) + 0.5) / bins, 1.0 / bins
    total = float(counts.sum())
    if total <= 0.0:
        return middles
    off = middles - min(max(float(counts @ middles) / total, 0.0), 1.0)
    variance = (float(counts @ off**2) + DOUBT * noise_std * math.sqrt(float((off**4).sum()))) / total - width**2 / 12.0
    moved = width**2 / 12.0 / max(variance, width**2) * off
    return np.asarray(middles - np.clip(moved, -width / 2.0, width / 2.0), dtype=np.float64)


def edges(bins: int, scale: Scale = "probability") -> Floats:
    """Where the bins begin, and 1: (bins + 1,) probabilities."""
    return off_scale(np.arange(bins + 1) / bins, scale)


def score_histogram(
    labels: Sequence[int] | NDArray[np.int8], probabilities: Floats, bins: int, scale: Scale = "probability"
) -> NDArray[np.int64]:
    """Counts (2 * bins,) of patients by label and probability; exactly one cell per patient."""
    return np.bincount(score_cells(labels, probabilities, bins, scale), minlength=2 * bins)


def score_cells(
    labels: Sequence[int] | NDArray[np.int8], probabilities: Floats, bins: int, scale: Scale = "probability"
) -> NDArray[np.int64]:
    """Each one's cell of a histogram (2 * bins,), (n,): label 0 in the first half, 1 in the second."""
    if bins < 2:
        raise ContractError(f"{bins} bins: at least 2 are needed")
    truth = np.asarray(labels, dtype=np.int64)
    scores = np.asarray(probabilities, dtype=np.float64)
    if truth.shape != scores.shape or truth.ndim != 1 or np.any((truth != 0) & (truth != 1)):
        raise ContractError(f"labels {truth.shape} and probabilities {scores.shape} must be equally long, labels 0 or 1")
    # A model gone astray gives NaN; its patients count as probability 1/2, so that every patient is in one cell.
    place = on_scale(np.clip(np.nan_to_num(scores, nan=0.5), 0.0, 1.0), scale)
    cell = np.floor(place * bins).astype(np.int64)
    return np.asarray(truth * bins + np.minimum(cell, bins - 1), dtype=np.int64)


def halves(histogram: Counts) -> tuple[Floats, Floats]:
    """Label 0 and label 1 by bin, (bins,) each. Raises `ContractError` for what is no histogram."""
    cells = np.asarray(histogram, dtype=np.float64)
    if cells.ndim != 1 or len(cells) < 4 or len(cells) % 2:
        raise ContractError(f"a histogram has 2 * bins cells, got shape {cells.shape}")
    zeros, ones = cells.reshape(2, -1)
    return zeros, ones
