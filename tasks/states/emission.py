"""What a row says: its density in each state with missing measures left out exactly, and the factors given row and state.

y_o | k ~ N(nu_o + L_o mean_k, L_o C_k L_o' + Psi_o) for the observed measures o (Rosti and Gales 2004, factor-analysed HMM;
missing entries are marginalised by leaving their rows out of nu, L and Psi). Through the posterior of the factors, whose
covariance V depends on which measures are there and not on their values: one small inverse for each pattern and state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.states.measures import Bools, Floats, Ints
from tasks.states.parameters import Parameters


@dataclass(frozen=True)
class Evidence:
    """`log_density` (n, 8); `mean` (n, 8, 4): of the factors given row and state.

    `covariance` (patterns, 8, 4, 4) of the same, `pattern` (n,): which of them is a row's.
    """

    log_density: Floats
    mean: Floats
    covariance: Floats
    pattern: Ints


def evidence(parameters: Parameters, y: Floats) -> Evidence:
    """For rows (n, measures), NaN where missing; a row without any measure has log density 0 everywhere."""
    seen = ~np.isnan(y)
    patterns, pattern = _patterns(seen)
    slopes, precision = parameters.loadings[:, 1:], 1.0 / parameters.noise
    inverse = np.linalg.inv(parameters.covariance)
    information = np.einsum("pd,d,df,dg->pfg", patterns.astype(float), precision, slopes, slopes)
    covariance = np.linalg.inv(inverse[None] + information[:, None])
    centred = np.where(seen, y - parameters.loadings[:, 0], 0.0)
    pull = np.einsum("kfg,kg->kf", inverse, parameters.mean)
    towards = pull[None] + np.einsum("nd,d,df->nf", centred, precision, slopes)[:, None]
    mean = np.einsum("nkfg,nkg->nkf", covariance[pattern], towards)
    constant = (
        -np.einsum("pd,d->p", patterns.astype(float), np.log(2 * np.pi * parameters.noise))[:, None]
        - np.linalg.slogdet(parameters.covariance)[1]
        + np.linalg.slogdet(covariance)[1]
        - np.einsum("kf,kf->k", pull, parameters.mean)
    )
    square = np.einsum("nd,d->n", centred**2, precision)
    log_density = 0.5 * (constant[pattern] - square[:, None] + np.einsum("nkf,nkf->nk", mean, towards))
    return Evidence(log_density, mean, covariance, pattern)


def _patterns(seen: Bools) -> tuple[Bools, Ints]:
    """Every pattern (2^measures, measures) of what may be seen together, and which is a row's, for `seen` (n, measures).

    All of them, whoever is there: so no patient's rounding depends on which patterns others have.
    """
    bits = np.arange(seen.shape[1])
    patterns = (np.arange(1 << seen.shape[1])[:, None] >> bits) & 1 > 0
    return patterns, np.where(seen, 1 << bits, 0).sum(axis=1).astype(np.intp)
