"""Are the predicted probabilities right? Brier score, table, expected error, intercept and slope; bins stand for their centres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tasks.metrics.estimate import Figure, figure
from tasks.metrics.histogram import LEAST_MASS, Floats, Scale, centres, edges

GROUPS: Final = 10  # of the calibration table
STEPS: Final = 60  # of Newton's method
FURTHEST: Final = 20.0  # intercept or slope; beyond it there is none (labels that scores separate)
EVEN: Final = 1e-6  # least ratio of the information matrix' eigenvalues
SLOPE_NOISE: Final = 0.5  # standard error from noise above which a slope is none: the delta method ends there


@dataclass(frozen=True)
class CalibrationGroup:
    """Patients whose predicted probability lies in [low, high)."""

    low: float
    high: float
    patients: float  # estimated count, not below 0
    predicted: float | None  # mean, from bin centres
    observed: float | None  # share with label 1, in [0, 1]


def brier(zeros: Floats, ones: Floats, noise_std: float, scale: Scale = "probability") -> Figure | None:
    """Mean squared error of the probability; off by at most the width of a bin."""
    total = float(zeros.sum() + ones.sum())
    if total <= LEAST_MASS:
        return None
    middle = centres(len(zeros), scale)
    errors = np.stack([middle**2, (1.0 - middle) ** 2])
    cells = np.stack([zeros, ones])
    value = float(np.sum(cells * errors)) / total
    return figure(value, (errors - value) / total, cells, noise_std, least=0.0, most=1.0)


def calibration_groups(zeros: Floats, ones: Floats, scale: Scale = "probability") -> tuple[CalibrationGroup, ...]:
    """The bins in `GROUPS` groups of equally many."""
    bins = len(zeros)
    middle, limits = centres(bins, scale), edges(bins, scale)
    groups = []
    for part in np.array_split(np.arange(bins), min(GROUPS, bins)):
        weights = np.maximum(zeros[part] + ones[part], 0.0)
        patients = max(float(zeros[part].sum() + ones[part].sum()), 0.0)
        predicted = float(weights @ middle[part] / weights.sum()) if patients > LEAST_MASS else None
        observed = min(max(float(ones[part].sum()) / patients, 0.0), 1.0) if patients > LEAST_MASS else None
        groups.append(CalibrationGroup(float(limits[part[0]]), float(limits[part[-1] + 1]), patients, predicted, observed))
    return tuple(groups)


def expected_error(groups: Sequence[CalibrationGroup]) -> float | None:
    """Mean over patients of |predicted - observed| of their group (Naeini et al. 2015); noise makes it larger."""
    total = sum(group.patients for group in groups)
    if total <= LEAST_MASS:
        return None
    gaps = (
        group.patients * abs(group.predicted - group.observed)
        for group in groups
        if group.predicted is not None and group.observed is not None
    )
    return sum(gaps) / total


def error_of_noise(zeros: Floats, ones: Floats, noise_std: float, scale: Scale = "probability") -> float | None:
    """The expected calibration error that noise alone would show of a perfect model: what lies below it says nothing."""
    total = float(zeros.sum() + ones.sum())
    if total <= LEAST_MASS:
        return None
    middle = centres(len(zeros), scale)
    parts = np.array_split(middle**2 + (1.0 - middle) ** 2, min(GROUPS, len(zeros)))
    return min(noise_std * math.sqrt(2.0 / math.pi) * sum(math.sqrt(float(part.sum())) for part in parts) / total, 1.0)


def intercept_and_slope(
    zeros: Floats, ones: Floats, noise_std: float, scale: Scale = "probability"
) -> tuple[Figure | None, Figure | None]:
    """Calibration-in-the-large (logits off by this much, 0 is right) and slope (1 is right, below 1: too extreme).

    Cox 1958; Van Calster et al. 2019: a logistic regression of the label on the logit of the bin's centre, for the intercept with
    the slope held at 1. Its score equations are linear in the cells, so noise leaves their expectation as it is, and negative cells
    stay. None where the cells have no such fit: one class, separated classes, an information matrix that noise has turned over.
    """
    cells = np.stack([zeros, ones])
    logits = np.log(centres(len(zeros), scale)) - np.log1p(-centres(len(zeros), scale))
    level = np.ones((len(logits), 1))
    large = _fit(cells, level, logits, np.zeros(1), noise_std)
    slope = _fit(cells, np.column_stack([np.ones_like(logits), logits]), np.zeros_like(logits), np.array([0.0, 1.0]), noise_std)
    return large, slope if slope is not None and slope.noise_se <= SLOPE_NOISE else None


def _fit(cells: Floats, design: Floats, offset: Floats, start: Floats, noise_std: float) -> Figure | None:
    """The last coefficient of a logistic regression of the label on `design` (bins, k) with `offset`, by Newton's method."""
    totals, found = cells.sum(axis=0), start
    for _ in range(STEPS):
        chances = _sigmoid(design @ found + offset)
        information = (design.T * (totals * chances * (1.0 - chances))) @ design
        sizes = np.linalg.eigvalsh(information)
        if sizes[0] <= max(EVEN * sizes[-1], LEAST_MASS):
            return None
        step = np.linalg.solve(information, design.T @ (cells[1] - totals * chances))
        found = found + step * min(1.0, 2.0 / float(np.max(np.abs(step)) + LEAST_MASS))
        if np.max(np.abs(found)) > FURTHEST:
            return None
        if np.max(np.abs(step)) < 1e-10:
            weights = np.linalg.solve(information, design.T)[-1]
            slopes = np.stack([-weights * chances, weights * (1.0 - chances)])
            return figure(float(found[-1]), slopes, cells, noise_std)
    return None


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))
