"""The M-step: public arithmetic on an opened sum, in closed form. Exact sums give MAP-EM; noised ones always finite parameters.

The prior is centred on the public start and counts as a fixed share of the rows (`SHARE`), whatever the sum was divided by; the
number of rows is the same in every iteration, so EM climbs log likelihood + `log_prior`. It is conjugate: Dirichlet for chances,
normal-inverse-Wishart for factors, normal-inverse-gamma for measures. All variances are kept within public limits, which for
these densities is the exact constrained maximum (limits on eigenvalues).

With noise, of a size that the blanks show: the prior counts for as much more as noise asks for; iterations are averaged
(stochastic approximation EM, Delyon et al. 1999); cells of the transitions are drawn to the matrix of all cells together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tasks.states.frame import UNITS, Frame
from tasks.states.measures import Floats
from tasks.states.moments import Moments, moments_of, noise_of
from tasks.states.parameters import Parameters, public_start
from tasks.states.structure import N_STATES, N_STRATA, prior_covariances, prior_means

SHARE: Final = 0.05  # of the rows: weight of the prior of all states together
TRANSITION_SHARE: Final = 0.005  # of the steps
VARIANCES: Final = (0.01, 4.0)  # limits of every variance and eigenvalue, in spreads squared
FARTHEST: Final = 2.0  # a state's mean stays within so many spreads of the public one
LARGEST_LOADING: Final = 3.0
KEPT: Final = 0.35  # weight of the newest iteration when there is noise
# How far from the truth the public start is thought to be, where noise makes one choose between it and the sums: in spreads of a
# factor or measure; in chances of a transition; in chances of a score's stratum.
DOUBT: Final = 0.05
DOUBT_STEP: Final = 0.02
DOUBT_SCORE: Final = 0.05
LEAST: Final = 1e-12
LARGEST_SUM: Final = 1e12  # more than all people there are; a hostile sum beyond it would overflow


@dataclass(frozen=True)
class Weights:
    """What the prior counts: `state` rows in each state, `measure` rows of each measure, and in each row of a table of chances
    `row` steps (transitions), `chain` steps, `scores` scores."""

    state: float
    measure: float
    row: float
    chain: float
    scores: float


def prior_weights(frame: Frame, moments: Moments) -> Weights:
    """Without noise: fixed shares of rows and steps, so the same in every iteration."""
    rows, steps = float(moments.occupancy.sum()), float(moments.transitions.sum())
    return Weights(
        state=max(SHARE * rows / N_STATES, LEAST),
        measure=max(SHARE * rows / N_STATES, LEAST),
        row=max(TRANSITION_SHARE * steps / (N_STATES * frame.cells), LEAST),
        chain=max(TRANSITION_SHARE * float(moments.chain.sum()) / len(moments.chain), LEAST),
        scores=max(SHARE * rows / N_STATES / N_STRATA, LEAST),
    )


def fitted(frame: Frame, sums: Sequence[Floats]) -> Parameters:
    """Parameters after the iterations whose opened sums, (frame.size,) each, these are; the public start for none."""
    parameters, kept, size = public_start(frame), None, 0.0
    for total in (np.clip(total, -LARGEST_SUM, LARGEST_SUM) for total in sums):
        fresh, noise = moments_of(frame, parameters, total), noise_of(frame, total)
        share = KEPT if noise and kept is not None else 1.0
        kept = fresh if kept is None else kept.towards(fresh, share)
        size = float(np.hypot((1 - share) * size, share * noise))
        parameters = maximised(frame, kept, size)
    return parameters


def maximised(frame: Frame, moments: Moments, noise: float = 0.0) -> Parameters:
    """One M-step. `noise`: standard deviation in each number of the vector, before its scale is taken off."""
    weights = prior_weights(frame, moments)
    if noise:
        weights = _with_noise(frame, moments, weights, noise)
    mean, covariance = _factors(moments, weights.state)
    loadings, residual = _measures(frame, moments, weights.measure)
    start = public_start(frame)
    return Parameters(
        initial=_chances(moments.initial[None], start.initial[None], weights.state)[0],
        transitions=_pooled(frame, moments, weights, noise) if noise else _each(moments, start.transitions, weights.row),
        mean=mean,
        covariance=covariance,
        loadings=loadings,
        noise=residual,
        chain_initial=_chances(moments.chain_initial[None], start.chain_initial[None], weights.state)[0],
        chain=_chances(moments.chain, start.chain, weights.chain),
        scores=_chances(moments.scores, start.scores, weights.scores),
    )


def _with_noise(frame: Frame, moments: Moments, weights: Weights, noise: float) -> Weights:
    """The prior's weights raised to what noise asks for (`noise_weight`)."""
    rows, steps, states = float(moments.occupancy.sum()), float(moments.transitions.sum()), N_STATES
    counted, scored = float(moments.counted.mean()), float(moments.scores.sum())
    return Weights(
        state=weights.state + noise_weight(noise / UNITS["mean"], rows / states, DOUBT),
        measure=weights.measure + noise_weight(noise / UNITS["counted"], counted, DOUBT),
        row=weights.row + noise_weight(noise / UNITS["moves"], steps / states / frame.cells, DOUBT_STEP),
        chain=weights.chain + noise_weight(noise / UNITS["chain_moves"], float(moments.chain.sum()) / N_STRATA, DOUBT_STEP),
        scores=weights.scores + noise_weight(noise / UNITS["scores"], scored / states / N_STRATA, DOUBT_SCORE),
    )


def noise_weight(noise: float, n: float, doubt: float) -> float:
    """Rows that a prior counts beside `n` rows with a sum of noise `noise`, if it is off by `doubt` a row.

    It has the least mean squared error: (weight^2 doubt^2 + noise^2) / (n + weight)^2 is smallest at noise^2 / (n doubt^2).
    """
    return noise**2 / (max(n, noise) * doubt**2)


def _chances(counts: Floats, centre: Floats, weight: float) -> Floats:
    """Rows of counts (..., s) with a Dirichlet prior of `weight` about `centre`: its mode. Noise never makes a chance 0."""
    found = np.maximum(counts + weight * centre, 0.1 * weight * centre)
    return np.asarray(found / found.sum(axis=-1, keepdims=True))


def _each(moments: Moments, centre: Floats, weight: float) -> Floats:
    return _chances(moments.transitions, centre, weight)


def _pooled(frame: Frame, moments: Moments, weights: Weights, noise: float) -> Floats:
    """First one matrix of all cells, then each cell's about that one tilted as the public start's are."""
    step = noise / UNITS["moves"]
    public = frame.prior_transitions
    counts = moments.transitions.sum(axis=0)
    by_cell = np.maximum(moments.transitions.sum(axis=2), step)  # (cells, 8): steps spent in each state
    usual = np.einsum("ci,cij->ij", by_cell / by_cell.sum(axis=0), public)
    weight = noise_weight(step * np.sqrt(frame.cells), float(counts.sum()) / N_STATES, DOUBT_STEP)
    together = _chances(counts, usual, weight)
    if frame.cells == 1:
        return together[None]
    centre = together[None] * public / usual
    centre /= centre.sum(axis=2, keepdims=True)
    return _chances(moments.transitions, centre, weights.row)


def _factors(moments: Moments, weight: float) -> tuple[Floats, Floats]:
    """Means (8, 4) and covariances (8, 4, 4) of the states."""
    n = np.maximum(moments.occupancy, 0.0)
    apart = np.clip(moments.shift / (n + weight)[:, None], -FARTHEST, FARTHEST)
    cross = moments.shift[:, :, None] * apart[:, None, :]
    outer = apart[:, :, None] * apart[:, None, :]
    scatter = moments.square - cross - cross.transpose(0, 2, 1) + (n + weight)[:, None, None] * outer
    covariance = (scatter + weight * prior_covariances()) / (n + weight)[:, None, None]
    return prior_means() + apart, _limited(covariance)


def _limited(covariance: Floats) -> Floats:
    """Symmetric, with eigenvalues within `VARIANCES`: what a likelihood has its maximum at under these limits."""
    values, axes = np.linalg.eigh((covariance + np.swapaxes(covariance, -1, -2)) / 2)
    return np.asarray((axes * np.clip(values, *VARIANCES)[..., None, :]) @ np.swapaxes(axes, -1, -2))


def _measures(frame: Frame, moments: Moments, weight: float) -> tuple[Floats, Floats]:
    """Intercepts and loadings (measures, 5), and residual variances (measures,)."""
    loadings, rest = frame.prior_loadings.copy(), moments.rest.copy()
    n = np.maximum(moments.counted, 0.0)
    for d, free in enumerate(frame.free):
        if not len(free):
            continue
        start = loadings[d, free]
        xx, xt = moments.xx[d][np.ix_(free, free)], moments.xt[d, free]
        values, axes = np.linalg.eigh(xx)
        values = np.maximum(values, 0.0)
        xx = (axes * values) @ axes.T
        # The floor is for hostile sums, where rounding would leave nothing to divide by.
        beta = start + (axes / np.maximum(values + weight, LEAST * values.max())) @ (axes.T @ (xt - xx @ start))
        beta = np.clip(beta, -LARGEST_LOADING, LARGEST_LOADING)
        rest[d] += beta @ xx @ beta - 2 * beta @ xt + weight * float(np.sum((beta - start) ** 2))
        loadings[d, free] = beta
    residual = (rest + weight * frame.prior_noise) / (n + weight)
    return loadings, np.clip(residual, *VARIANCES)


def log_prior(frame: Frame, weights: Weights, parameters: Parameters) -> float:
    """What EM adds to the log likelihood, up to a constant; chain of strata not included. Same units as a sum over patients."""
    start = public_start(frame)
    found = weights.state * float(start.initial @ np.log(parameters.initial))
    found += weights.row * float(np.sum(start.transitions * np.log(parameters.transitions)))
    apart = parameters.mean - start.mean
    inverse = np.linalg.inv(parameters.covariance)
    found -= 0.5 * weights.state * float(np.sum(np.linalg.slogdet(parameters.covariance)[1]))
    found -= 0.5 * weights.state * float(np.einsum("kfg,kgf->", inverse, start.covariance))
    found -= 0.5 * weights.state * float(np.einsum("kf,kfg,kg->", apart, inverse, apart))
    slope = np.sum((parameters.loadings - start.loadings) ** 2, axis=1)
    residual = np.log(parameters.noise) + (start.noise + slope) / parameters.noise
    return found - 0.5 * weights.measure * float(residual.sum())
