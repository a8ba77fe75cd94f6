"""Forward-backward against every path written out, with steps that say nothing, gaps and covariates."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.states.chain import forward, smooth

S = 3


def chances(rng: np.random.Generator, *shape: int) -> np.ndarray:
    found = rng.random(shape) + 0.05
    return found / found.sum(axis=-1, keepdims=True)


def every_path(initial, transitions, cell, log_density, length):  # type: ignore[no-untyped-def]
    """Likelihood, states and moves of one patient by summing over all s^length paths."""
    total, state = 0.0, np.zeros((length, S))
    moves = np.zeros(transitions.shape)
    for path in itertools.product(range(S), repeat=length):
        weight = initial[path[0]] * np.exp(log_density[0, path[0]])
        for at in range(1, length):
            weight *= transitions[cell[at - 1], path[at - 1], path[at]] * np.exp(log_density[at, path[at]])
        total += weight
        for at in range(length):
            state[at, path[at]] += weight
        for at in range(1, length):
            moves[cell[at - 1], path[at - 1], path[at]] += weight
    return np.log(total), state / total, moves / total


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_states_and_moves_are_those_of_all_paths(seed: int, lengths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    initial, transitions = chances(rng, S), chances(rng, 2, S, S)
    steps = max(lengths)
    cell = rng.integers(0, 2, (len(lengths), steps))
    density = rng.normal(0, 3, (len(lengths), steps, S))
    density[rng.random((len(lengths), steps)) < 0.4] = 0.0  # steps without an observation
    found = smooth(initial, transitions, cell, density, np.array(lengths))
    for n, length in enumerate(lengths):
        log_likelihood, state, moves = every_path(initial, transitions, cell[n], density[n], length)
        assert found.log_likelihood[n] == pytest.approx(log_likelihood, rel=1e-10)
        assert np.allclose(found.state[n, :length], state, atol=1e-12)
        assert np.allclose(found.moves[n], moves, atol=1e-12)
        assert not found.state[n, length:].any()


@pytest.mark.parametrize("gap", [1, 2, 7])
def test_a_gap_is_the_power_of_the_matrix(gap: int) -> None:
    rng = np.random.default_rng(gap)
    initial, matrix = chances(rng, S), chances(rng, S, S)
    density = np.zeros((1, gap + 1, S))
    density[0, 0], density[0, -1] = rng.normal(0, 2, S), rng.normal(0, 2, S)
    found = smooth(initial, matrix[None], np.zeros((1, gap + 1), np.intp), density, np.array([gap + 1]))
    both = (initial * np.exp(density[0, 0]))[:, None] * np.linalg.matrix_power(matrix, gap) * np.exp(density[0, -1])
    assert found.log_likelihood[0] == pytest.approx(np.log(both.sum()))
    assert np.allclose(found.state[0, 0], both.sum(axis=1) / both.sum())
    assert found.moves.sum() == pytest.approx(gap)


def test_forward_alone_knows_no_later_step() -> None:
    rng = np.random.default_rng(3)
    initial, matrix = chances(rng, S), chances(rng, 1, S, S)
    density, cell = rng.normal(0, 1, (1, 5, S)), np.zeros((1, 5), np.intp)
    whole = forward(initial, matrix, cell, density, np.array([5]))
    short = forward(initial, matrix, cell[:, :3], density[:, :3], np.array([3]))
    assert np.array_equal(whole.now[:, :3], short.now)
    assert np.allclose(whole.ahead[0, 3], short.now[0, 2] @ matrix[0])


def test_states_that_are_seen_exactly_are_counted_exactly() -> None:
    density = np.full((1, 4, S), -np.inf)
    for at, state in enumerate((0, 0, 2, 1)):
        density[0, at, state] = 0.0
    matrix = np.full((1, S, S), 1 / S)
    found = smooth(np.full(S, 1 / S), matrix, np.zeros((1, 4), np.intp), density, np.array([4]))
    expected = np.zeros((S, S))
    expected[0, 0] = expected[0, 2] = expected[2, 1] = 1.0
    assert np.array_equal(found.moves[0, 0], expected)
    assert found.log_likelihood[0] == pytest.approx(4 * np.log(1 / S))


def test_a_patient_without_a_row_adds_nothing_and_long_histories_do_not_underflow() -> None:
    rng = np.random.default_rng(5)
    density = rng.normal(-400, 50, (2, 130, S))
    found = smooth(chances(rng, S), chances(rng, 1, S, S), np.zeros((2, 130), np.intp), density, np.array([130, 0]))
    assert np.isfinite(found.log_likelihood).all()
    assert found.log_likelihood[1] == 0.0
    assert not found.state[1].any()
    assert not found.moves[1].any()
    assert np.allclose(found.state[0].sum(axis=1), 1.0)
