"""How good a model is on patients that it has not seen: one bounded vector of each, and figures of their sum.

What is compared: the stratum of the EDSS (0, 1 to 3.5, 4 to 6, 6.5 and more) at a visit, foretold from everything before that
visit, by the model of states and by the chain of strata that EM fitted in the same sums. Both give chances of the same four
outcomes on the same visits: every scored visit that has an earlier scored one. The chain knows the stratum of the last score and
the time since; so does the model (`Parameters.scores`), beside its states. What its states alone would foretell, by their normal
densities, is a figure of its own. A patient counts once, with the mean of his visits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from tasks.errors import ContractError
from tasks.labels.rule import edss_step
from tasks.metrics import Z95, pooled_metrics, score_cells
from tasks.scoring.names import NOISE_DOMINATES
from tasks.states.chain import Filtered
from tasks.states.forecast import ahead_of, filtered, filtered_chain, steps_in, strata_ahead, strata_of_states, worsening_chance
from tasks.states.frame import Frame
from tasks.states.measures import Floats, Ints
from tasks.states.parameters import Parameters
from tasks.states.sequences import Sequences

BINS: Final = 16
SCALE: Final = "root_odds"  # a worsening in a year is rare
MOST_LOG: Final = 5.0  # nats: a visit foretold with less than e^-5 counts as e^-5
MOST_GAIN: Final = 1.0  # nats, of a patient's mean
MOST_DENSITY: Final = 15.0  # nats, of a patient's mean log density of a step
FIGURES_WEIGHT: Final = 0.32  # of six numbers within [-1, 1] (`_likelihoods`): norm at most .79
HISTOGRAM_WEIGHT: Final = 0.6  # of a patient's histogram, which sums to 1
HEAD: Final = 6
CELLS: Final = HEAD + 2 * BINS
LATER: Final = (-1, 1)  # steps about a year later in which the next score is looked for
NOISE_LIMIT: Final = 0.03  # nats: standard error of the gain from noise alone, above which the flag is raised


def test_vectors(frame: Frame, parameters: Parameters, sequences: Sequences) -> Floats:
    """(patients, CELLS), each of L2 norm at most 1; zeros for a patient of whom nothing can be foretold."""
    states, chain = filtered(parameters, sequences), filtered_chain(parameters, sequences)
    found = np.zeros((sequences.patients, CELLS))
    found[:, :HEAD] = FIGURES_WEIGHT * _likelihoods(frame, parameters, sequences, states, chain)
    found[:, HEAD:] = HISTOGRAM_WEIGHT * _histogram(frame, parameters, sequences, states)
    return found


def next_strata(
    frame: Frame, parameters: Parameters, sequences: Sequences, states: Filtered, chain: Filtered
) -> tuple[Ints, tuple[Floats, Floats, Floats]]:
    """Rows with a score that is not the patient's first, and the log chance of its stratum, (m,) each: by states and last score,
    by states alone, by the chain."""
    rows, last = sequences.rescored
    place, stratum = (sequences.owner[rows], sequences.at[rows]), sequences.stratum[rows]
    ahead = states.ahead[place]
    by_states = strata_ahead(parameters, ahead, sequences.stratum[last])
    alone = np.einsum("nk,ks->ns", ahead, strata_of_states(frame, parameters))
    each, least = np.arange(len(rows)), np.finfo(float).tiny
    ours, without, theirs = (np.log(np.maximum(by[each, stratum], least)) for by in (by_states, alone, chain.ahead[place]))
    return rows, (ours, without, theirs)


def _likelihoods(frame: Frame, parameters: Parameters, sequences: Sequences, states: Filtered, chain: Filtered) -> Floats:
    """(patients, HEAD): 1, mean log chance, gain, its square, mean log density of a step, gain of states alone; each in [-1, 1]."""
    rows, logs = next_strata(frame, parameters, sequences, states, chain)
    owner = sequences.owner[rows]
    n = np.bincount(owner, minlength=sequences.patients)
    ours, alone, theirs = (_means(np.maximum(log, -MOST_LOG), owner, n) for log in logs)
    gain, gain_alone = (np.clip((log - theirs) / MOST_GAIN, -1.0, 1.0) for log in (ours, alone))
    observed = np.bincount(sequences.owner, minlength=sequences.patients)
    density = np.clip(states.log_likelihood / np.maximum(observed, 1) / MOST_DENSITY, -1.0, 1.0)
    found = np.stack([np.ones(len(n)), ours / MOST_LOG, gain, gain**2, density, gain_alone], axis=1)
    return np.where(n[:, None] > 0, found, 0.0)


def _means(values: Floats, owner: Ints, n: Ints) -> Floats:
    return np.bincount(owner, values, minlength=len(n)) / np.maximum(n, 1)


def _histogram(frame: Frame, parameters: Parameters, sequences: Sequences, states: Filtered) -> Floats:
    """(patients, 2 BINS): chance of a worse score in a year by whether it came, parted among a patient's pairs of scores."""
    now, then = year_pairs(sequences)
    place = sequences.owner[now], sequences.at[now]
    ahead = ahead_of(parameters, states.now[place], sequences.cell[now], steps_in(1.0))
    chance = worsening_chance(frame, parameters, ahead, sequences.edss[now])
    came = sequences.edss[then] >= sequences.edss[now] + edss_step(sequences.edss[now], "A")
    cell = score_cells(came.astype(np.int8), chance, BINS, SCALE)
    found = np.zeros((sequences.patients, 2 * BINS))
    owner = sequences.owner[now]
    pairs = np.bincount(owner, minlength=sequences.patients)
    np.add.at(found, (owner, cell), 1.0 / pairs[owner])
    return found


def year_pairs(sequences: Sequences) -> tuple[Ints, Ints]:
    """Rows with a score, and for each the row of the score nearest to a year later, within a step; others are left out."""
    scored = np.flatnonzero(~np.isnan(sequences.edss))
    far = sequences.steps + steps_in(1.0) + LATER[1] + 1
    keys = sequences.owner[scored] * far + sequences.at[scored]
    found = np.full(len(scored), -1)
    for shift in sorted(range(LATER[0], LATER[1] + 1), key=abs, reverse=True):  # the nearest last, so that it stays
        wanted = keys + steps_in(1.0) + shift
        place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        found = np.where(keys[place] == wanted, place, found) if len(keys) else found
    kept = found >= 0
    return scored[kept], scored[found[kept]]


def figures(total: Floats, noise_std: float) -> Mapping[str, float]:
    """From the sum (CELLS,) of test vectors; `noise_std`: of the noise in each number of it."""
    if total.shape != (CELLS,):
        raise ContractError(f"a sum of shape {total.shape}, figures are made of ({CELLS},)")
    n, ours, gain, square, density, alone = total[:HEAD] / FIGURES_WEIGHT
    noise = noise_std / FIGURES_WEIGHT
    histogram = pooled_metrics(total[HEAD:] / HISTOGRAM_WEIGHT, noise_std=noise_std / HISTOGRAM_WEIGHT, scale=SCALE)
    found = {"patients": float(n)}
    drowned = True
    if n > max(3.0 * noise, 0.5):
        mean = float(np.clip(gain / n, -1.0, 1.0))
        spread = math.sqrt(max(float(square / n) - mean**2, 0.0) / n)
        from_noise = noise * math.hypot(1.0, mean) / n
        error = Z95 * math.hypot(spread, from_noise)
        log = float(np.clip(ours / n, -1.0, 0.0))
        found |= {
            "log_likelihood_gain": MOST_GAIN * mean,
            "log_likelihood_gain_low": MOST_GAIN * (mean - error),
            "log_likelihood_gain_high": MOST_GAIN * (mean + error),
            "log_likelihood_gain_sampling_se": MOST_GAIN * spread,
            "log_likelihood_gain_noise_se": MOST_GAIN * float(from_noise),
            "log_likelihood": MOST_LOG * log,
            "log_likelihood_chain": MOST_LOG * log - MOST_GAIN * mean,
            "log_likelihood_gain_states_alone": MOST_GAIN * float(np.clip(alone / n, -1.0, 1.0)),
            "log_density": MOST_DENSITY * float(np.clip(density / n, -1.0, 1.0)),
        }
        drowned = MOST_GAIN * from_noise > NOISE_LIMIT
    if (ranked := histogram.figures.get("auc")) is not None and not histogram.noise_dominates:
        ends = {"auc": ranked.value, "auc_low": ranked.low, "auc_high": ranked.high}
        found |= {name: value for name, value in ends.items() if value is not None}
    return found | {NOISE_DOMINATES: float(drowned)}
