"""The opened sum of one iteration as moments about public constants: what iterations have in common, so that they can be averaged.

A vector's moments are about the parameters that it was made with; here they are moved to the public start's means and to
regressions without their free part. The sum may be divided by anything: nothing here depends on its scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from tasks.states.frame import PAIRS, Frame
from tasks.states.measures import Floats
from tasks.states.parameters import Parameters
from tasks.states.structure import N_FACTORS, N_STATES, N_STRATA, prior_means

EXACT = 1e-7  # of the observed steps: less noise than this is rounding


@dataclass(frozen=True)
class Moments:
    """Expected counts and moments of all rows.

    `initial` (8,), `occupancy` (8,), `shift` (8, 4) and `square` (8, 4, 4) of factors less the public mean of their state;
    `counted` (measures,), `rest` (measures,): squares of a measure less what its fixed loadings explain.
    `xx` (measures, 5, 5), `xt` (measures, 5): of [1, factors] among themselves and with that rest; 0 where nothing is free.
    `transitions` (cells, 8, 8), `chain_initial` (4,), `chain` (4, 4), `scores` (8, 4, 4).
    """

    initial: Floats
    occupancy: Floats
    shift: Floats
    square: Floats
    counted: Floats
    rest: Floats
    xx: Floats
    xt: Floats
    transitions: Floats
    chain_initial: Floats
    chain: Floats
    scores: Floats

    def towards(self, other: Moments, share: float) -> Moments:
        """`share` of `other`, the rest of this."""
        return Moments(*((1 - share) * getattr(self, field.name) + share * getattr(other, field.name) for field in fields(self)))


def moments_of(frame: Frame, made_with: Parameters, total: Floats) -> Moments:
    """From the sum (frame.size,) of vectors that were made with those parameters."""
    parts = frame.split(total)
    occupancy, apart = parts["occupancy"], made_with.mean - prior_means()
    shift = parts["mean"] + occupancy[:, None] * apart
    square = np.zeros((N_STATES, N_FACTORS, N_FACTORS))
    square[:, PAIRS[0], PAIRS[1]] = parts["spread"]
    square[:, PAIRS[1], PAIRS[0]] = parts["spread"]
    cross = parts["mean"][:, :, None] * apart[:, None, :]
    square += cross + cross.transpose(0, 2, 1)
    square += occupancy[:, None, None] * (apart[:, :, None] * apart[:, None, :] + made_with.covariance)
    xx, xt, rest = _regressions(frame, made_with, parts)
    return Moments(
        parts["initial"], occupancy, shift, square, parts["counted"], rest, xx, xt,
        _together(parts["moves"], parts["stays"], N_STATES), parts["chain_initial"],
        _together(parts["chain_moves"][None], parts["chain_stays"][None], N_STRATA)[0], parts["scores"],
    )  # fmt: skip


def _regressions(frame: Frame, made_with: Parameters, parts: dict[str, Floats]) -> tuple[Floats, Floats, Floats]:
    d, width = frame.n_measures, 1 + N_FACTORS
    xx, xt = np.zeros((d, width, width)), np.zeros((d, width))
    rest = parts["rr"] + parts["counted"] * made_with.noise
    products, with_rest = iter(_cut(parts["xx"], frame.free, products=True)), iter(_cut(parts["xr"], frame.free, products=False))
    for at, free in enumerate(frame.free):
        own, residual = next(products), next(with_rest)
        if not len(free):
            continue
        up = np.triu_indices(len(free))
        block = np.zeros((len(free), len(free)))
        block[up] = np.concatenate([parts["counted"][at : at + 1], own])
        block = block + block.T - np.diag(np.diag(block))
        beta = made_with.loadings[at, free]
        xx[at][np.ix_(free, free)] = block
        xt[at, free] = residual + block @ beta
        rest[at] += 2 * beta @ residual + beta @ block @ beta
    return xx, xt, rest


def _cut(flat: Floats, free: Sequence[np.ndarray], *, products: bool) -> list[Floats]:
    widths = [max(len(each) * (len(each) + 1) // 2 - 1, 0) if products else len(each) for each in free]
    return np.split(flat, np.cumsum(widths)[:-1])


def _together(moves: Floats, stays: Floats, s: int) -> Floats:
    """Moves (cells, s (s - 1)) and stays (cells, s) as (cells, s, s)."""
    found = np.zeros((len(moves), s, s))
    found[:, ~np.eye(s, dtype=bool)] = moves
    found[:, np.eye(s, dtype=bool)] = stays
    return found


def noise_of(frame: Frame, total: Floats) -> float:
    """Standard deviation of the noise in each number of a sum, as the blanks show it; 0 for what is but rounding."""
    blank = frame.split(total)["blank"]
    found = float(np.sqrt(np.mean(blank**2)))
    return found if found > EXACT * float(np.abs(frame.split(total)["counted"]).max(initial=0.0)) else 0.0
