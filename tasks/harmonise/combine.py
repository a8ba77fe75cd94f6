"""From summed vectors to the parameters that all share. Whoever does this sees no scan, and needs none.

Johnson, Li and Rabinovic 2007, sec. 3; distributed form: Chen et al. 2022, doi 10.1016/j.neuroimage.2021.118822, sec. 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from tasks.harmonise.errors import HarmoniseError
from tasks.harmonise.plan import Floats, Plan

COLLINEAR: Final = 1e-9  # smallest share of its variance that a covariate must have to itself
MIN_VARIANCE: Final = 1e-12  # of residuals, in units of the plan's spread


@dataclass(frozen=True)
class Coefficients:
    """Least squares over all sites, on the model's scale: all that round 2 needs.

    `scans` (n_batches, n_measures): training scans. `location` (n_batches, n_measures): the batch's own intercept, NaN without
    scans. `beta` (n_covariates, n_measures): effects that are protected.
    """

    scans: Floats
    location: Floats
    beta: Floats


@dataclass(frozen=True)
class Shared:
    """What every site gets, a late one too: no batch is in it. On the model's scale.

    `beta` (n_covariates, n_measures); `grand_mean` (n_measures,): mean of the batches' intercepts, weighted by scans; `sigma`
    (n_measures,): root of residual sum of squares over number of scans.
    """

    beta: Floats
    grand_mean: Floats
    sigma: Floats


@dataclass(frozen=True)
class BatchStatistics:
    """What empirical Bayes needs of one batch; arrays (n_measures,).

    `scans`: number; `offset`: its intercept less the grand mean, NaN without scans; `squares`: residual sum of squares about its
    own intercept. On the model's scale.
    """

    name: str
    scans: Floats
    offset: Floats
    squares: Floats


@dataclass(frozen=True)
class Fit:
    """The result of both rounds: what is shared, and one entry for each batch of the plan, in its order."""

    shared: Shared
    batches: tuple[BatchStatistics, ...]


def combine_one(plan: Plan, summed: Floats) -> Coefficients:
    """Least-squares coefficients from the sum of all sites' round 1 vectors, (plan.round_one_size,).

    Batches are swept out first (Frisch-Waugh), which is the same solution as that of the whole X'X and needs only a system of
    n_covariates for each measure.
    """
    n, y, x, xx, xy = _parts(plan, summed)
    if (n < 0).any():
        raise HarmoniseError("round 1 has a negative count")
    weight = np.where(n > 0, 1 / np.where(n > 0, n, 1.0), 0.0)
    within_xx = _symmetric(plan, xx) - np.einsum("bgi,bgj,bg->gij", x, x, weight)
    within_xy = xy - np.einsum("bgi,bg,bg->gi", x, y, weight)
    beta = np.stack([_solve(plan, at, within_xx[at], within_xy[at]) for at in range(plan.n_measures)], axis=1)
    location = np.where(n > 0, (y - np.einsum("bgi,ig->bg", x, beta)) * weight, np.nan)
    return Coefficients(n, location, beta)


def combine_two(plan: Plan, coefficients: Coefficients, summed: Floats) -> Fit:
    """Shared parameters and batch statistics from the sum of all sites' round 2 vectors, (plan.round_two_size,)."""
    squares = _checked(summed, plan.round_two_size, "round 2").reshape(plan.n_batches, plan.n_measures)
    if (squares < 0).any():
        raise HarmoniseError("round 2 has a negative sum of squares")
    n = coefficients.scans
    total = n.sum(axis=0)
    variance = squares.sum(axis=0) / total
    if (flat := variance < MIN_VARIANCE).any():
        names = [measure.name for measure, constant in zip(plan.measures, flat, strict=True) if constant]
        raise HarmoniseError(f"{', '.join(names)}: nothing varies beyond batch and covariates; leave the measure out of the plan")
    location = np.where(n > 0, coefficients.location, 0.0)
    grand_mean = (n * location).sum(axis=0) / total
    shared = Shared(coefficients.beta, grand_mean, np.sqrt(variance))
    offset = coefficients.location - grand_mean
    rows = zip(plan.batches, n, offset, squares, strict=True)
    return Fit(shared, tuple(BatchStatistics(*row) for row in rows))


def _solve(plan: Plan, at: int, xx: Floats, xy: Floats) -> Floats:
    """Coefficients of one measure, (n_covariates,), if the scans determine them."""
    scale = np.sqrt(np.maximum(np.diag(xx), 0.0))
    constant = [name for name, size in zip(plan.covariates, scale, strict=True) if size < COLLINEAR]
    if constant:
        raise HarmoniseError(
            f"{plan.measures[at].name}: {', '.join(constant)} does not vary within any batch; leave the phenotype or the measure "
            "out of the plan, or pool batches"
        )
    unit = xx / np.outer(scale, scale)
    if np.linalg.eigvalsh(unit)[0] < COLLINEAR:
        raise HarmoniseError(
            f"{plan.measures[at].name}: its scans cannot tell the covariates apart ({', '.join(plan.covariates)}); "
            "leave a phenotype or the measure out of the plan"
        )
    return np.asarray(np.linalg.solve(unit, xy / scale) / scale)


def _parts(plan: Plan, summed: Floats) -> list[Floats]:
    flat = _checked(summed, plan.round_one_size, "round 1")
    ends = np.cumsum([math.prod(shape) for shape in plan.round_one_shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), plan.round_one_shapes, strict=True)]


def _symmetric(plan: Plan, upper: Floats) -> Floats:
    """(n_measures, n_covariates, n_covariates) from upper triangles."""
    rows, columns = np.triu_indices(plan.n_covariates)
    whole = np.zeros((plan.n_measures, plan.n_covariates, plan.n_covariates))
    whole[:, rows, columns] = upper
    whole[:, columns, rows] = upper
    return whole


def _checked(summed: Floats, size: int, name: str) -> Floats:
    flat = np.asarray(summed, dtype=np.float64)
    if flat.shape != (size,):
        raise HarmoniseError(f"{name} has shape {flat.shape}, the plan says ({size},): was it made with another plan?")
    if not np.isfinite(flat).all():
        raise HarmoniseError(f"{name} holds a number that is not finite")
    return flat
