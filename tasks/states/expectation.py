"""The E-step: from one patient's rows to one bounded-by-clipping vector of expected sufficient statistics, scaled by constants.

Moments of the factors are about the state's mean and covariance, those of the residuals about the regression that the E-step
was made with: so they are small when the model fits, and the clip has little to cut. `maximisation` puts them back.
"""

from __future__ import annotations

import numpy as np

from tasks.states.chain import Smoothed, smooth
from tasks.states.emission import Evidence, evidence
from tasks.states.frame import BLANKS, PAIRS, Frame
from tasks.states.measures import Floats, Ints
from tasks.states.parameters import Parameters
from tasks.states.sequences import NO_STRATUM, Sequences
from tasks.states.structure import N_STATES, N_STRATA

UNKNOWN = -1  # the state of a row, where states are told


def smoothed_states(parameters: Parameters, sequences: Sequences, known: Ints | None = None) -> tuple[Smoothed, Evidence]:
    """States and transitions given all rows, and what each row says.

    `known` (n,): the state of each row from elsewhere, such as a simulator's truth, or `UNKNOWN`.
    """
    found = evidence(parameters, sequences.y)
    density = found.log_density
    if known is not None:
        density = np.where((known == UNKNOWN)[:, None] | (known[:, None] == np.arange(N_STATES)), density, -np.inf)
    grid = sequences.on_grid(density, 0.0)
    return smooth(parameters.initial, parameters.transitions, sequences.cells_on_grid(), grid, sequences.length), found


def smoothed_chain(parameters: Parameters, sequences: Sequences) -> Smoothed:
    """The same of the chain of EDSS strata, which is seen exactly where EDSS was scored."""
    grid = strata_on_grid(sequences)
    cell = np.zeros(grid.shape[:2], dtype=np.intp)
    return smooth(parameters.chain_initial, parameters.chain[None], cell, grid, sequences.length)


def strata_on_grid(sequences: Sequences) -> Floats:
    """Log density of each stratum, (patients, steps, 4): 0 where EDSS was not scored, else 0 for its stratum and -inf."""
    rows = np.where(np.eye(N_STRATA, dtype=bool)[np.maximum(sequences.stratum, 0)], 0.0, -np.inf)
    rows[sequences.stratum == NO_STRATUM] = 0.0
    return sequences.on_grid(rows, 0.0)


def vectors(frame: Frame, parameters: Parameters, sequences: Sequences, known: Ints | None = None) -> Floats:
    """(patients, frame.size); a patient without rows has zeros. `known`: see `smoothed_states`."""
    smoothed, found = smoothed_states(parameters, sequences, known)
    chain = smoothed_chain(parameters, sequences)
    share = smoothed.state[sequences.owner, sequences.at]  # (n, 8): chance of each state, of each row
    parts = _factor_parts(parameters, found, share) | _measure_parts(frame, parameters, found, share, sequences.y)
    by_patient = {name: _sums(rows, sequences.owner, sequences.patients) for name, rows in parts.items()}
    first = sequences.length > 0
    by_patient["initial"] = np.where(first[:, None], smoothed.state[:, :1].sum(axis=1), 0.0)
    by_patient["moves"], by_patient["stays"] = _off_and_on(smoothed.moves)
    by_patient["chain_initial"] = np.where(first[:, None], chain.state[:, :1].sum(axis=1), 0.0)
    by_patient["chain_moves"], by_patient["chain_stays"] = _off_and_on(chain.moves)
    by_patient["scores"] = _score_part(parameters, sequences, smoothed)
    by_patient["blank"] = np.zeros((sequences.patients, BLANKS))
    flat = [by_patient[name].reshape(sequences.patients, -1) for name, _ in frame.shapes]
    return np.asarray(np.concatenate(flat, axis=1) * frame.scale)


def _factor_parts(parameters: Parameters, found: Evidence, share: Floats) -> dict[str, Floats]:
    """Rows (n, ...): state, factors about its mean, and their products about its covariance."""
    apart = found.mean - parameters.mean
    beyond = found.covariance - parameters.covariance[None]
    square = (apart[..., :, None] * apart[..., None, :] + beyond[found.pattern])[..., PAIRS[0], PAIRS[1]]
    return {"occupancy": share, "mean": share[..., None] * apart, "spread": share[..., None] * square}


def _measure_parts(frame: Frame, parameters: Parameters, found: Evidence, share: Floats, y: Floats) -> dict[str, Floats]:
    """Rows (n, ...) for each measure's regression on [1, factors]: x x', x r and r r less its expectation, where it was seen."""
    mean = np.einsum("nk,nkf->nf", share, found.mean)
    second = np.einsum("nk,nkfg->nfg", share, found.mean[..., :, None] * found.mean[..., None, :] + found.covariance[found.pattern])
    one = np.ones((len(y), 1))
    x = np.concatenate([one, mean], axis=1)  # (n, 5)
    xx = np.concatenate([x[:, None, :], np.concatenate([mean[:, :, None], second], axis=2)], axis=1)  # (n, 5, 5)
    seen = ~np.isnan(y)
    xr_parts, xx_parts, rr = [], [], np.zeros(y.shape)
    for d, free in enumerate(frame.free):
        value, beta, there = np.where(seen[:, d], y[:, d], 0.0), parameters.loadings[d], seen[:, d].astype(float)
        fitted = np.einsum("nab,b->na", xx, beta)
        xr = (x * value[:, None] - fitted) * there[:, None]
        square = value**2 - 2 * value * np.einsum("na,a->n", x, beta) + np.einsum("na,a->n", fitted, beta)
        rr[:, d] = there * (square - parameters.noise[d])
        xr_parts.append(xr[:, free])
        up = np.triu_indices(len(free))
        xx_parts.append((xx[:, free][:, :, free] * there[:, None, None])[:, up[0], up[1]][:, 1:])
    return {"counted": seen.astype(float), "xx": np.concatenate(xx_parts, 1), "xr": np.concatenate(xr_parts, 1), "rr": rr}


def _score_part(parameters: Parameters, sequences: Sequences, smoothed: Smoothed) -> Floats:
    """(patients, 8, 4, 4): scores by last stratum and stratum, parted among the states by what was foretold and what came."""
    rows, last = sequences.rescored
    before, now = sequences.stratum[last], sequences.stratum[rows]
    ahead = smoothed.filtered.ahead[sequences.owner[rows], sequences.at[rows]]
    share = ahead * parameters.scores[:, before, now].T
    total = share.sum(axis=1, keepdims=True)
    found = np.zeros((sequences.patients, N_STRATA * N_STRATA, N_STATES))
    np.add.at(found, (sequences.owner[rows], before * N_STRATA + now), share / np.maximum(total, np.finfo(float).tiny))
    return found.transpose(0, 2, 1)


def _off_and_on(moves: Floats) -> tuple[Floats, Floats]:
    """Transitions (patients, cells, s, s) parted into moves (patients, cells, s (s - 1)) and stays (patients, cells, s)."""
    s = moves.shape[-1]
    off = ~np.eye(s, dtype=bool)
    return moves[..., off], np.asarray(np.diagonal(moves, axis1=2, axis2=3))


def _sums(rows: Floats, owner: Ints, patients: int) -> Floats:
    found = np.zeros((patients, *rows.shape[1:]))
    np.add.at(found, owner, rows)
    return found


def log_likelihood(parameters: Parameters, sequences: Sequences) -> Floats:
    """Log density of each patient's rows, (patients,), on the model's scale."""
    return smoothed_states(parameters, sequences)[0].log_likelihood
