"""Empirical Bayes for one batch: its raw shifts and spreads drawn towards each other, the more so the fewer its scans.

The priors come from the batch itself, across its measures (Johnson 2007, sec. 3.2); no other batch is in them. That is why Chen
2022 can do this step at the site, and why a late batch changes nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from tasks.harmonise.combine import BatchStatistics, Shared
from tasks.harmonise.errors import HarmoniseError
from tasks.harmonise.plan import Floats

TOLERANCE: Final = 1e-10  # change between two steps: of the shift against 1 + itself, of the spread against itself
MAX_STEPS: Final = 10_000


@dataclass(frozen=True)
class Effect:
    """What one batch does to each measure; arrays (n_measures,), NaN for a measure of which the batch had no training scan.

    `shift` (gamma*) in units of sigma; `scale` (delta*), the ratio of variances, without unit.
    """

    batch: str
    shift: Floats
    scale: Floats


@dataclass(frozen=True)
class Prior:
    """Normal for shifts (mean, variance), inverse gamma for spreads (shape, rate); by moments across measures."""

    mean: float
    variance: float
    shape: float
    rate: float
    point: float | None  # the spreads' common value, if they do not differ at all


def effect_of(shared: Shared, batch: BatchStatistics) -> Effect:
    """The batch's parametric empirical Bayes estimates.

    A measure with one scan gets a shift and the spread that prior and shift imply; it takes no part in the prior of spreads.
    """
    known = batch.scans > 0
    n, sigma = batch.scans[known], shared.sigma[known]
    shift, squares = batch.offset[known] / sigma, batch.squares[known] / sigma**2
    prior = _prior(batch.name, n, shift, squares)
    found = _iterate(batch.name, prior, n, shift, squares)
    whole = np.full((2, batch.scans.size), np.nan)
    whole[:, known] = found
    return Effect(batch.name, whole[0], whole[1])


def _prior(name: str, n: Floats, shift: Floats, squares: Floats) -> Prior:
    several = n > 1
    if several.sum() < 2:
        raise HarmoniseError(
            f"batch {name}: fewer than 2 measures have 2 training scans or more, so that its spread is unknown; "
            "leave its scans out, or pool it with another"
        )
    spread = squares[several] / (n[several] - 1)
    mean, variance = float(spread.mean()), float(spread.var(ddof=1))
    if mean <= 1e-12:
        raise HarmoniseError(f"batch {name}: no measure varies beyond the covariates; look for copied rows, or leave its scans out")
    shifts = float(shift.mean()), float(shift.var(ddof=1))
    if variance <= 1e-12 * mean**2:
        return Prior(*shifts, np.inf, np.inf, mean)
    return Prior(*shifts, (2 * variance + mean**2) / variance, (mean * variance + mean**3) / variance, None)


def _iterate(name: str, prior: Prior, n: Floats, shift: Floats, squares: Floats) -> Floats:
    """(2, n_known): conditional posterior means of shift and spread in turn, until neither moves."""
    gamma = shift
    delta = np.maximum(squares / np.maximum(n - 1, 1), 1e-12)
    for _ in range(MAX_STEPS):
        new_gamma = (n * prior.variance * shift + delta * prior.mean) / (n * prior.variance + delta)
        about = squares + n * (shift - new_gamma) ** 2
        if prior.point is None:
            new_delta = (about / 2 + prior.rate) / (n / 2 + prior.shape - 1)
        else:
            new_delta = np.full_like(delta, prior.point)
        moved = np.abs(new_gamma - gamma) / (1 + np.abs(gamma))
        change = max(float(moved.max()), float(np.abs(new_delta / delta - 1).max()))
        gamma, delta = new_gamma, new_delta
        if change < TOLERANCE:
            return np.stack((gamma, delta))
    raise HarmoniseError(f"batch {name}: empirical Bayes did not settle in {MAX_STEPS} steps; leave its scans out, or pool it")
