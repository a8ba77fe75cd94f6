"""From a model's score to a calibrated risk with its interval, from what the run released about held-out patients.

Logistic recalibration (Cox 1958; Steyerberg 2019): the logit of the risk is a + b times that of the prediction, fitted to groups
of the calibration table by weighted least squares on their observed shares. The interval is that of the calibrated risk of patients
with this score, from the number of held-out patients and from the noise. It says nothing about what else differs between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tasks.predicting.told import RISK_INTERVAL, Interval, Told

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Z95: Final = 1.959964
ONLY: Final = ""  # name of what is foretold where a task foretells one thing
LEAST_GROUPS: Final = 3
STEPS: Final = 50
PRIOR_SD: Final = (2.0, 0.5)  # of a around 0 and of b around 1: what is not measured is left as the model says it
EDGE: Final = 1e-4  # probabilities are kept this far from 0 and 1
FURTHEST_LOGIT: Final = math.log1p(-EDGE) - math.log(EDGE)


@dataclass(frozen=True)
class Group:
    """Held-out patients of similar prediction. `events` may be below 0 under noise; `noise`: standard deviation in `events`, and
    independently in the patients without event."""

    predicted: float
    patients: float
    events: float
    noise: float = 0.0


@dataclass(frozen=True)
class Recalibration:
    """The line a + b x on a score, `covariance` (2, 2) of both; `interval`: what its interval is of.

    `furthest`: scores beyond +- this count as that, as in the cells that the line was fitted to.
    """

    a: float
    b: float
    covariance: Floats
    interval: Interval = RISK_INTERVAL
    furthest: float = FURTHEST_LOGIT

    def told(self, score: Tensor) -> Told:
        """On the score's own scale, (n,); log-odds of a risk."""
        x = score.clamp(-self.furthest, self.furthest)
        (aa, ab), (_, bb) = self.covariance.tolist()
        spread = Z95 * (aa + 2.0 * ab * x + bb * x**2).clamp(min=0.0).sqrt()
        middle = self.a + self.b * x
        return Told(middle, middle - spread, middle + spread)

    def risks(self, predicted: Floats) -> tuple[Floats, Floats, Floats]:
        """(risk, low, high), (n,) each in (0, 1): the calibrated risk and its 95 % interval."""
        import torch  # plans import this module and need none

        told = self.told(torch.from_numpy(_logit(predicted)))
        risk, low, high = (_logistic(part.numpy()) for part in (told.score, told.low, told.high))
        return risk, low, high


def recalibration(groups: Sequence[Group]) -> Recalibration | None:
    """The fit to the groups' counts, binomial likelihood widened by the noise; None where fewer than three groups have patients.

    Groups come in the order of what was predicted. All count, those too that noise made negative: choosing or cutting by the noisy
    counts would make every risk too high. What a group weighs is told by its neighbours, whose noise is not its own, so that the
    equations are right on average whatever the noise is. A weak prior (`PRIOR_SD`) keeps the slope near 1 and positive where noise
    leaves little to fit.
    """
    used = [group for group in groups if math.isfinite(group.predicted) and (group.noise > 0 or group.patients > 1.0)]
    if sum(group.patients > max(1.0, 2.0 * group.noise) for group in used) < LEAST_GROUPS:
        return None
    x = _logit(np.array([group.predicted for group in used]))
    n, events, noise = (np.array(values) for values in zip(*((one.patients, one.events, one.noise) for one in used), strict=True))
    size = np.where(noise > 0, _neighbours(n), n)
    design = np.stack([np.ones_like(x), x], axis=1)
    prior, centre = np.diag([1.0 / sd**2 for sd in PRIOR_SD]), np.array([0.0, 1.0])
    theta = centre.copy()
    for _ in range(STEPS):
        p = _logistic(design @ theta)
        binomial = np.maximum(size * p * (1.0 - p), EDGE)
        # One (n p (1 - p))^2 over the variance of the counts: noise of events and non-events at this p widens it.
        weight = binomial**2 / (binomial + noise**2 * ((1.0 - p) ** 2 + p**2))
        slope = design.T @ (weight / binomial * (events - n * p)) - prior @ (theta - centre)
        information = design.T @ (weight[:, None] * design) + prior
        step = np.linalg.solve(information, slope)
        theta = theta + step * min(1.0, 1.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-9:
            break
    return Recalibration(float(theta[0]), float(theta[1]), np.asarray(np.linalg.inv(information), dtype=np.float64))


def _neighbours(counts: Floats) -> Floats:
    """Mean of the (at most) two counts on either side of each, not below 0; (n,) of three or more."""
    sides = np.array([1.0, 1.0, 0.0, 1.0, 1.0])
    total, many = (np.convolve(np.pad(values, 2), sides, "valid") for values in (counts, np.ones_like(counts)))
    return np.asarray(np.maximum(total / many, 0.0), dtype=np.float64)


def _logit(p: Floats) -> Floats:
    inside = np.clip(p, EDGE, 1.0 - EDGE)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _logistic(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0))))
