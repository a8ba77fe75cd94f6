"""How right predicted effects were on test patients: a line through what was seen, with an interval from patients and noise.

The effect in patients predicted x is a + b x. Within a stratum of the propensity the outcome is regressed on treatment less its
expected share, which is the R-learner's equation on strata (Robinson 1988; Nie and Wager 2021): every stratum and bin counts by its
overlap, as Mantel and Haenszel's weights have it. Unlike differences of shares, its sums are linear in the cells, so noise stays
noise where a bin holds fewer patients than noise. A weak prior leaves the model as it is where little can be said.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tasks.effects.cells import ARMS, STRATA, Floats, middles
from tasks.effects.learners import OVERLAP
from tasks.predicting.calibrate import Recalibration
from tasks.predicting.told import EFFECT_INTERVAL

POINTS: Final = 100.0  # effects are foretold in percentage points
# Mean and standard deviation, in risks: the risk in each stratum, its slope in x, then a and b. All are weak: three in ten is the
# widest effect that bins tell apart, and a prediction may be worth nothing (b = 0) or twice as much.
PRIOR: Final = ((0.3, 0.5),) * STRATA + ((0.0, 2.0), (0.0, 0.3), (1.0, 1.0))
STEPS: Final = 4  # of the errors' size, which the solution settles
LEAST: Final = 1e-9  # keeps what no patient speaks of solvable; the prior answers there


def line(cells: Floats, noise_std: float) -> Recalibration:
    """a and b, for effects in percentage points, from `cells` (bins, STRATA, ARMS) with noise of `noise_std` on each."""
    found, covariance = _fitted(cells, noise_std)
    scale = np.array([POINTS, 1.0])
    a, b = found[-2:] * scale
    furthest = POINTS * float(np.abs(middles(len(cells))).max())
    return Recalibration(float(a), float(b), covariance[-2:, -2:] * np.outer(scale, scale), EFFECT_INTERVAL, furthest)


def _fitted(cells: Floats, noise_std: float) -> tuple[Floats, Floats]:
    """The parameters of `PRIOR` and their covariance: generalised moments (Hansen 1982) with the prior as further ones."""
    inputs, outcome = _regressors(len(cells))
    counts, trust = cells.reshape(-1), _trust(cells, noise_std).reshape(-1)
    seen = inputs.T @ (trust * counts * outcome)
    slopes = inputs.T @ ((trust * counts)[:, None] * inputs)
    centre, sd = np.array(PRIOR).T
    prior, theta = np.diag(sd**-2), centre
    unseen = 1.0 / (max(float(cells.sum()), 0.0) + 2.0)  # as one more patient adds (Laplace): few of one fate make nothing certain
    for _ in range(STEPS):
        rest = outcome - inputs @ theta
        spread = trust**2 * np.maximum(counts + noise_std**2, 0.0) * (rest**2 + unseen)
        errors = inputs.T @ (spread[:, None] * inputs) + LEAST * np.eye(len(theta))
        weighed = np.linalg.solve(errors, slopes)  # both are symmetric
        precision = slopes @ weighed + prior
        theta = np.linalg.solve(precision, weighed.T @ seen + prior @ centre)
    return theta, np.asarray(np.linalg.inv(precision))


def _regressors(bins: int) -> tuple[Floats, Floats]:
    """For each cell, flat: (n, parameters) and the outcome (n,), 0 or 1. Treatment is less its share in the stratum's middle."""
    effect, stratum, arm = (part.reshape(-1) for part in np.indices((bins, STRATA, ARMS)))
    expected = OVERLAP[0] + (OVERLAP[1] - OVERLAP[0]) * (stratum + 0.5) / STRATA
    x, treated, happened = middles(bins)[effect], arm // 2, arm % 2
    columns = [*(np.eye(STRATA)[stratum].T), x, treated - expected, (treated - expected) * x]
    return np.stack(columns, axis=1).astype(np.float64), happened.astype(np.float64)


def _trust(cells: Floats, noise_std: float) -> Floats:
    """What a cell counts, (like cells), from 0 to 1: the share of patients in its variance; 1 without noise.

    How many patients a bin has is told by the other strata, whose noise is not the cell's own: chosen by their own counts, cells
    that noise filled would count more than those that it emptied.
    """
    if noise_std <= 0:
        return np.ones_like(cells)
    patients = cells.sum(-1)
    others = (patients.sum(1, keepdims=True) - patients) / (STRATA - 1) / ARMS
    share = np.maximum(others, 0.0)
    return np.broadcast_to((share / (share + noise_std**2))[..., None], cells.shape)
