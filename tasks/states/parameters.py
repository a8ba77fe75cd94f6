"""The parameters of the model and of the chain that it has to beat, on the model's scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.states import structure
from tasks.states.frame import Frame
from tasks.states.measures import Floats


@dataclass(frozen=True)
class Parameters:
    """z | state k ~ N(mean_k, covariance_k); measure d = intercept_d + loading_d z + residual of variance noise_d.

    `initial` (8,), `transitions` (cells, 8, 8) of 12 weeks, rows sum to 1; `mean` (8, 4); `covariance` (8, 4, 4);
    `loadings` (measures, 5): intercept first; `noise` (measures,). `chain_initial` (4,), `chain` (4, 4): strata of EDSS.
    `scores` (8, 4, 4): chance of the next score's stratum given state then and stratum of the last score; for forecasts alone.
    """

    initial: Floats
    transitions: Floats
    mean: Floats
    covariance: Floats
    loadings: Floats
    noise: Floats
    chain_initial: Floats
    chain: Floats
    scores: Floats


def public_start(frame: Frame) -> Parameters:
    """Where EM begins: public constants alone."""
    initial, chain = np.array(structure.INITIAL), np.array(structure.STRATA_TRANSITIONS)
    chain_initial = np.array(structure.STRATA_INITIAL)
    return Parameters(
        initial=initial / initial.sum(),
        transitions=frame.prior_transitions,
        mean=structure.prior_means(),
        covariance=structure.prior_covariances(),
        loadings=frame.prior_loadings,
        noise=frame.prior_noise,
        chain_initial=chain_initial / chain_initial.sum(),
        chain=chain / chain.sum(axis=1, keepdims=True),
        scores=structure.prior_scores(),
    )
