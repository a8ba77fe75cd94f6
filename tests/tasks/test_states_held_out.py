"""Figures of held-out patients: bounded vectors, forecasts against a plain loop, and sums that open to what they should."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from tasks.labels.rule import edss_step
from tasks.states.forecast import ahead_of, filtered, filtered_chain, steps_in, strata_of_states, worsening_chance
from tasks.states.held_out import BINS, CELLS, figures, next_strata, year_pairs
from tasks.states.held_out import test_vectors as vectors_of
from tasks.states.sequences import FIRST_MEASURE, Sequences, sequences_of
from tasks.states.structure import STRATA_CUTS
from tests.shared.states_rows import ALL, drawn, start


def some(patients: int = 50, seed: int = 1) -> Sequences:
    values, owners, _ = drawn(ALL, start(), patients, seed)
    return sequences_of(ALL, values, owners, patients)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0, 100), missing=st.floats(0, 1))
def test_a_patients_vector_is_never_longer_than_1(seed: int, spread: float, missing: float) -> None:
    values, owners, _ = drawn(ALL, start(), 5, seed)
    rng = np.random.default_rng(seed)
    values[:, FIRST_MEASURE:] += spread * rng.standard_normal(values[:, FIRST_MEASURE:].shape)
    values[:, FIRST_MEASURE:][rng.random(values[:, FIRST_MEASURE:].shape) < missing] = np.nan
    found = vectors_of(ALL, start(), sequences_of(ALL, values, owners, 5))
    assert found.shape == (5, CELLS)
    assert CELLS % 2 == 0
    assert (np.linalg.norm(found, axis=1) <= 1 + 1e-12).all()


def test_a_held_out_patients_vector_is_the_same_whoever_else_is_there() -> None:
    """To the last bit: patients of many lengths, each alone and beside longer ones."""
    values, owners, _ = drawn(ALL, start(), 30, 5)
    kept = np.arange(len(owners)) - np.searchsorted(owners, owners) < 3 + owners  # the longer, the later the patient stands
    values, owners = values[kept], owners[kept]
    together = vectors_of(ALL, start(), sequences_of(ALL, values, owners, 30))
    for patient in range(30):
        rows = owners == patient
        alone = vectors_of(ALL, start(), sequences_of(ALL, values[rows], np.zeros(int(rows.sum()), np.intp), 1))
        assert np.array_equal(alone[0], together[patient])
    assert np.abs(together[:, 4]).max() < 0.32  # the mean log density is not cut off everywhere, where equality says nothing


def test_the_chain_foretells_by_the_power_of_its_matrix() -> None:
    sequences = some()
    rows, (_, _, theirs) = next_strata(ALL, start(), sequences, filtered(start(), sequences), filtered_chain(start(), sequences))
    checked = 0
    for row, log in zip(rows, theirs, strict=True):
        before = [n for n in range(row) if sequences.owner[n] == sequences.owner[row] and sequences.stratum[n] >= 0][-1]
        gap = int(sequences.at[row] - sequences.at[before])
        matrix = np.linalg.matrix_power(start().chain, gap)
        assert log == pytest.approx(np.log(matrix[sequences.stratum[before], sequences.stratum[row]]))
        checked += 1
    assert checked > 100


def test_forecasts_use_no_row_of_the_day_that_they_are_for() -> None:
    sequences = some(20)
    rows, (ours, alone, _) = next_strata(ALL, start(), sequences, filtered(start(), sequences), filtered_chain(start(), sequences))
    y = sequences.y.copy()
    last = np.flatnonzero(np.append(np.diff(sequences.owner) != 0, True))
    y[last, 1:] = 3.0  # everything but the score itself, on each patient's last row
    other = replace(sequences, y=y)
    at = np.isin(rows, last)
    again = next_strata(ALL, start(), other, filtered(start(), other), filtered_chain(start(), other))[1]
    assert np.array_equal(ours[at], again[0][at])
    assert np.array_equal(alone[at], again[1][at])


def test_strata_of_the_states_are_parts_of_their_normal_distributions() -> None:
    parameters, found = start(), strata_of_states(ALL, start())
    for k in range(8):
        mean = 2.5 + 2 * parameters.mean[k, 0]
        sd = 2 * np.sqrt(parameters.covariance[k, 0, 0] + parameters.noise[0])
        below = [0.0, *norm(mean, sd).cdf(STRATA_CUTS), 1.0]
        assert np.allclose(found[k], np.diff(below))


def test_summed_vectors_give_the_means_over_patients() -> None:
    sequences = some(80)
    states, chain = filtered(start(), sequences), filtered_chain(start(), sequences)
    rows, (ours, alone, theirs) = next_strata(ALL, start(), sequences, states, chain)
    gains, logs, others = [], [], []
    for patient in range(80):
        mine = sequences.owner[rows] == patient
        if mine.any():
            logs.append(np.maximum(ours[mine], -5).mean())
            gains.append(np.clip(logs[-1] - np.maximum(theirs[mine], -5).mean(), -1, 1))
            others.append(np.clip(np.maximum(alone[mine], -5).mean() - np.maximum(theirs[mine], -5).mean(), -1, 1))
    found = figures(vectors_of(ALL, start(), sequences).sum(axis=0), 0.0)
    assert found["patients"] == pytest.approx(len(gains))
    assert found["log_likelihood"] == pytest.approx(np.mean(logs))
    assert found["log_likelihood_gain"] == pytest.approx(np.mean(gains))
    assert found["log_likelihood_gain_states_alone"] == pytest.approx(np.mean(others))
    assert found["log_likelihood_gain_sampling_se"] == pytest.approx(np.std(gains) / np.sqrt(len(gains)))
    assert found["log_likelihood_chain"] == pytest.approx(np.mean(logs) - np.mean(gains))
    assert found["noise_dominates"] == 0.0


def test_pairs_of_scores_are_about_a_year_apart_and_the_nearest() -> None:
    sequences = some(60, 4)
    now, then = year_pairs(sequences)
    assert len(now) > 20
    assert (sequences.owner[now] == sequences.owner[then]).all()
    apart = sequences.at[then] - sequences.at[now]
    assert np.isin(apart, [3, 4, 5]).all()
    for row, later in zip(now, then, strict=True):
        rest = (sequences.owner == sequences.owner[row]) & ~np.isnan(sequences.edss)
        nearest = np.abs(sequences.at[rest] - sequences.at[row] - 4).min()
        assert abs(sequences.at[later] - sequences.at[row] - 4) == nearest


def test_the_auc_is_that_of_the_pairs() -> None:
    sequences = some(400, 5)
    now, then = year_pairs(sequences)
    states = filtered(start(), sequences).now[sequences.owner[now], sequences.at[now]]
    chance = worsening_chance(ALL, start(), ahead_of(start(), states, sequences.cell[now], steps_in(1.0)), sequences.edss[now])
    came = sequences.edss[then] >= sequences.edss[now] + edss_step(sequences.edss[now], "A")
    weight = 1.0 / np.bincount(sequences.owner[now])[sequences.owner[now]]
    found = figures(vectors_of(ALL, start(), sequences).sum(axis=0), 0.0)
    assert found["auc"] == pytest.approx(roc_auc_score(came, chance, sample_weight=weight), abs=0.02)  # 16 bins
    assert 0.6 < found["auc"] < 1.0


@pytest.mark.parametrize("noise", [0.5, 1000.0])
def test_figures_under_noise_are_finite_and_say_when_noise_is_of_their_size(noise: float) -> None:
    total = vectors_of(ALL, start(), some(300)).sum(axis=0)
    rng = np.random.default_rng(3)
    found = figures(total + noise * rng.standard_normal(CELLS), noise)
    assert np.isfinite(list(found.values())).all()
    assert found["noise_dominates"] == float(noise > 100)
    if noise < 100:
        assert found["log_likelihood_gain_noise_se"] > 0
        assert found["log_likelihood_gain_low"] < found["log_likelihood_gain"] < found["log_likelihood_gain_high"]


def test_nobody_gives_no_figures() -> None:
    assert figures(np.zeros(CELLS), 0.0) == {"patients": 0.0, "noise_dominates": 1.0}
    assert BINS == 16
