"""What the model says before a visit: chances of the states, of the EDSS, and of a worsening, from the past alone."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.special import ndtr

from tasks.labels.rule import edss_step
from tasks.states.chain import Filtered, forward
from tasks.states.emission import evidence
from tasks.states.expectation import strata_on_grid
from tasks.states.frame import Frame
from tasks.states.measures import EDSS, MEASURES, Floats, Ints
from tasks.states.parameters import Parameters
from tasks.states.sequences import Sequences
from tasks.states.structure import STRATA_CUTS

STEPS_A_YEAR: Final = 365.25 / 84
HALF_POINT: Final = 0.25  # a score is what rounds to it
_SCALE: Final = MEASURES[EDSS]


def filtered(parameters: Parameters, sequences: Sequences) -> Filtered:
    """States of each step from what was seen up to it."""
    grid = sequences.on_grid(evidence(parameters, sequences.y).log_density, 0.0)
    return forward(parameters.initial, parameters.transitions, sequences.cells_on_grid(), grid, sequences.length)


def filtered_chain(parameters: Parameters, sequences: Sequences) -> Filtered:
    """The same of the chain of EDSS strata."""
    grid = strata_on_grid(sequences)
    cell = np.zeros(grid.shape[:2], dtype=np.intp)
    return forward(parameters.chain_initial, parameters.chain[None], cell, grid, sequences.length)


def edss_of_states(frame: Frame, parameters: Parameters) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the EDSS in each state, (8,) each, in points."""
    at = frame.edss
    slope = parameters.loadings[at, 1:]
    mean = parameters.loadings[at, 0] + np.einsum("kf,f->k", parameters.mean, slope)
    variance = np.einsum("f,kfg,g->k", slope, parameters.covariance, slope) + parameters.noise[at]
    return _SCALE.centre + _SCALE.spread * mean, _SCALE.spread * np.sqrt(variance)


def chance_below(frame: Frame, parameters: Parameters, cut: Floats) -> Floats:
    """Chance in each state that the EDSS rounds to less than `cut` (...,): (..., 8)."""
    mean, sd = edss_of_states(frame, parameters)
    return np.asarray(ndtr((np.asarray(cut)[..., None] - mean) / sd))


def strata_of_states(frame: Frame, parameters: Parameters) -> Floats:
    """(8, 4): chance of each stratum of the EDSS in each state; rows sum to 1."""
    below = chance_below(frame, parameters, np.array(STRATA_CUTS)).T  # (8, 3)
    return np.diff(below, axis=1, prepend=0.0, append=1.0)


def strata_ahead(parameters: Parameters, ahead: Floats, last: Ints) -> Floats:
    """Chance of each stratum of the next score, (n, 4); `ahead` (n, 8): states of that visit, `last` (n,): stratum before."""
    return np.asarray(np.einsum("nk,kns->ns", ahead, parameters.scores[:, last]))


def ahead_of(parameters: Parameters, now: Floats, cell: Ints, steps: int) -> Floats:
    """Chances of the states `steps` later, (n, 8), from `now` (n, 8), with the covariates of `cell` (n,) all the while."""
    power = np.linalg.matrix_power(parameters.transitions, steps)
    return np.asarray(np.einsum("ni,nij->nj", now, power[cell]))


def worsening_chance(frame: Frame, parameters: Parameters, ahead: Floats, edss: Floats) -> Floats:
    """Chance that a score is worse than `edss` (n,) by rule A of the label engine, (n,); `ahead` (n, 8): states of that visit."""
    threshold = edss + edss_step(edss, "A")
    return np.asarray(1.0 - np.einsum("nk,nk->n", ahead, chance_below(frame, parameters, threshold - HALF_POINT)))


def steps_in(years: float) -> int:
    """Whole steps in so many years, the nearest number."""
    return round(years * STEPS_A_YEAR)
