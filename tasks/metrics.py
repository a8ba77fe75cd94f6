"""Pooled metrics from summed score histograms: what one hospital holding all patients would have computed.

A site gives, per held-out patient, one count in one of 2 * bins cells (label 0 bins, then label 1 bins; bins of equal
width on the probability). Cells of all sites are summed, with or without noise, and AUC, Brier and calibration follow
from the sum. A site with one class adds to its half only; site metrics are never averaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ContractError

HISTOGRAM_BOUND = 1.0  # L2 (and L1) change when one patient is added or removed
GROUPS = 10  # of the calibration table
MASS_LIMIT = 3.0  # a class smaller than this many standard deviations of its noise counts as drowned
LEAST_MASS = 1e-6  # patients; noise that leaves less than this leaves none, and nothing is divided by it
NOISE_LIMIT = 0.05  # standard error of the AUC from noise alone, above which the flag is raised

Floats = NDArray[np.float64]
Counts = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationGroup:
    """Patients whose predicted probability lies in [low, high)."""

    low: float
    high: float
    patients: float  # estimated count, not below 0
    predicted: float | None  # mean, from bin centres
    observed: float | None  # share with label 1, in [0, 1]


@dataclass(frozen=True)
class PooledMetrics:
    """What the summed histogram tells. None where a class has no mass; counts are estimates under noise."""

    patients: float
    events: float
    auc: float | None
    auc_bin_bound: float | None  # the unbinned AUC is within this of `auc` (without noise)
    auc_sampling_se: float | None  # standard error from the number of patients
    auc_noise_se: float | None  # standard error from the noise alone
    brier: float | None  # from bin centres, within 1 / bins of the unbinned
    ece: float | None  # expected calibration error over `calibration`
    calibration: tuple[CalibrationGroup, ...]
    noise_dominates: bool  # do not read the figures: noise is of their size

    def to_dict(self) -> dict[str, object]:
        """For `--json` and tracking: numbers, None, lists."""
        return asdict(self)


def score_histogram(labels: Sequence[int] | NDArray[np.int8], probabilities: Floats, bins: int) -> NDArray[np.int64]:
    """Counts (2 * bins,) of patients by label and probability; exactly one cell per patient."""
    return np.bincount(score_cells(labels, probabilities, bins), minlength=2 * bins)


def score_cells(labels: Sequence[int] | NDArray[np.int8], probabilities: Floats, bins: int) -> NDArray[np.int64]:
    """Each one's cell of a histogram (2 * bins,), (n,): label 0 in the first half, 1 in the second."""
    if bins < 2:
        raise ContractError(f"{bins} bins: at least 2 are needed")
    truth = np.asarray(labels, dtype=np.int64)
    scores = np.asarray(probabilities, dtype=np.float64)
    if truth.shape != scores.shape or truth.ndim != 1 or np.any((truth != 0) & (truth != 1)):
        raise ContractError(f"labels {truth.shape} and probabilities {scores.shape} must be equally long, labels 0 or 1")
    # A model gone astray gives NaN; its patients count as probability 1/2, so that every patient is in one cell.
    cell = np.floor(np.clip(np.nan_to_num(scores, nan=0.5), 0.0, 1.0) * bins).astype(np.int64)
    return np.asarray(truth * bins + np.minimum(cell, bins - 1), dtype=np.int64)


def pooled_metrics(histogram: Counts, *, noise_std: float = 0.0) -> PooledMetrics:
    """Metrics of the summed `histogram` (2 * bins,); `noise_std` is the noise in each cell of the sum.

    AUC and Brier are computed from the cells as they are, negative ones too: clamping each cell at 0 would add the
    noise's positive half to every one. Only results are clamped. AUC counts ties in a bin half (Mann-Whitney).
    """
    cells = np.asarray(histogram, dtype=np.float64)
    if cells.ndim != 1 or len(cells) < 4 or len(cells) % 2:
        raise ContractError(f"a histogram has 2 * bins cells, got shape {cells.shape}")
    zeros, ones = cells.reshape(2, -1)
    bins = len(zeros)
    mass = min(float(zeros.sum()), float(ones.sum()))
    auc, bin_bound, sampling_se, noise_se = _auc(zeros, ones, noise_std) if mass > LEAST_MASS else (None, None, None, None)
    calibration = _calibration(zeros, ones)
    drowned = noise_std > 0 and mass < MASS_LIMIT * noise_std * math.sqrt(bins)
    return PooledMetrics(
        patients=float(cells.sum()),
        events=float(ones.sum()),
        auc=auc,
        auc_bin_bound=bin_bound,
        auc_sampling_se=sampling_se,
        auc_noise_se=noise_se,
        brier=_brier(zeros, ones),
        ece=_ece(calibration),
        calibration=calibration,
        noise_dominates=drowned or (noise_se or 0.0) > NOISE_LIMIT,
    )


def _auc(zeros: Floats, ones: Floats, noise_std: float) -> tuple[float, float, float, float]:
    """(auc, bin bound, sampling se, noise se). Variances: DeLong et al. 1988 on binned scores; delta method."""
    n_zeros, n_ones = float(zeros.sum()), float(ones.sum())
    beaten = (np.cumsum(zeros) - zeros / 2) / n_zeros  # per bin: share of label 0 that a label 1 there beats
    beating = (np.cumsum(ones[::-1])[::-1] - ones / 2) / n_ones
    auc = float(ones @ beaten) / n_ones
    slope_ones, slope_zeros = (beaten - auc) / n_ones, (beating - auc) / n_zeros
    sampling = float(ones @ slope_ones**2 + zeros @ slope_zeros**2)
    noise = noise_std * math.sqrt(float(slope_ones @ slope_ones + slope_zeros @ slope_zeros))
    ties = float(ones @ zeros) / (2 * n_ones * n_zeros)
    return min(max(auc, 0.0), 1.0), max(ties, 0.0), math.sqrt(max(sampling, 0.0)), noise


def _centres(bins: int) -> Floats:
    return (np.arange(bins) + 0.5) / bins


def _brier(zeros: Floats, ones: Floats) -> float | None:
    total = float(zeros.sum() + ones.sum())
    if total <= LEAST_MASS:
        return None
    centres = _centres(len(zeros))
    return min(max(float(zeros @ centres**2 + ones @ (1 - centres) ** 2) / total, 0.0), 1.0)


def _calibration(zeros: Floats, ones: Floats) -> tuple[CalibrationGroup, ...]:
    bins = len(zeros)
    groups = []
    for part in np.array_split(np.arange(bins), min(GROUPS, bins)):
        weights = np.maximum(zeros[part] + ones[part], 0.0)
        patients = max(float(zeros[part].sum() + ones[part].sum()), 0.0)
        predicted = float(weights @ _centres(bins)[part] / weights.sum()) if patients > LEAST_MASS else None
        observed = min(max(float(ones[part].sum()) / patients, 0.0), 1.0) if patients > LEAST_MASS else None
        groups.append(CalibrationGroup(float(part[0]) / bins, float(part[-1] + 1) / bins, patients, predicted, observed))
    return tuple(groups)


def _ece(groups: Sequence[CalibrationGroup]) -> float | None:
    total = sum(group.patients for group in groups)
    if total <= LEAST_MASS:
        return None
    gaps = (
        group.patients * abs(group.predicted - group.observed)
        for group in groups
        if group.predicted is not None and group.observed is not None
    )
    return sum(gaps) / total
