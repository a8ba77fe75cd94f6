"""EM by sums: it climbs, sums over sites are the sum over everybody, and no noise breaks it."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.states import maximisation
from tasks.states.expectation import UNKNOWN, log_likelihood, smoothed_states, vectors
from tasks.states.frame import PAIRS, Frame
from tasks.states.maximisation import VARIANCES, fitted, log_prior, maximised, prior_weights
from tasks.states.moments import moments_of, noise_of
from tasks.states.parameters import Parameters, public_start
from tasks.states.sequences import Sequences, sequences_of
from tasks.states.structure import N_FACTORS, N_STATES, prior_means
from tests.shared.states_rows import ALL, drawn, start

POOLED = replace(ALL, by_dmt=False, by_age=False)
FRAMES = {"all": ALL, "without covariates": POOLED, "few measures": replace(ALL, measures=(0, 3, 4, 8))}


def everybody(frame: Frame, patients: int = 60, seed: int = 1) -> Sequences:
    values, owners, _ = drawn(ALL, shifted(start()), patients, seed)
    return sequences_of(frame, values, owners, patients)


def shifted(parameters: Parameters) -> Parameters:
    """Truth that is not the public start."""
    rng = np.random.default_rng(7)
    return replace(parameters, mean=parameters.mean + rng.normal(0, 0.15, parameters.mean.shape), noise=1.3 * parameters.noise)


@pytest.mark.parametrize("name", FRAMES)
def test_em_without_noise_never_lowers_the_penalised_likelihood(name: str) -> None:
    frame = FRAMES[name]
    sequences = everybody(frame)
    parameters, sums, reached = public_start(frame), [], []
    for _ in range(12):
        total = vectors(frame, parameters, sequences).sum(axis=0)
        weights = prior_weights(frame, moments_of(frame, parameters, total))
        reached.append(float(log_likelihood(parameters, sequences).sum()) + log_prior(frame, weights, parameters))
        sums.append(total)
        parameters = fitted(frame, sums)
    assert (np.diff(reached) > -1e-7 * abs(reached[0])).all()
    assert reached[-1] > reached[0] + 10


def test_states_that_are_told_are_taken_and_bring_the_fit_nearer_to_the_truth() -> None:
    """Of a third of the rows the state is told, of the others nothing; telling what is not known changes no bit."""
    truth = shifted(start())
    values, owners, states = drawn(ALL, truth, 200, 3)
    sequences = sequences_of(ALL, values, owners, 200)
    known = np.where(np.arange(len(states)) % 3 == 0, states, UNKNOWN)
    told, _ = smoothed_states(start(), sequences, known)
    share = told.state[sequences.owner, sequences.at]
    assert share[known != UNKNOWN, states[known != UNKNOWN]] == pytest.approx(1.0)
    assert not np.isclose(share[known == UNKNOWN].max(axis=1), 1.0).all()
    blind = np.full(len(states), UNKNOWN)
    assert np.array_equal(vectors(ALL, start(), sequences, blind), vectors(ALL, start(), sequences))
    apart = [
        np.abs(fitted(ALL, [vectors(ALL, start(), sequences, each).sum(axis=0)]).mean - truth.mean).mean()
        for each in (states, blind)
    ]
    assert apart[0] < apart[1]


def test_weights_of_the_prior_are_the_same_in_every_iteration() -> None:
    sequences = everybody(ALL)
    first = vectors(ALL, start(), sequences).sum(axis=0)
    after = fitted(ALL, [first])
    second = vectors(ALL, after, sequences).sum(axis=0)
    one, two = prior_weights(ALL, moments_of(ALL, start(), first)), prior_weights(ALL, moments_of(ALL, after, second))
    for field in fields(one):
        assert np.allclose(getattr(one, field.name), getattr(two, field.name), rtol=1e-10)


def test_moments_are_those_of_a_plain_loop() -> None:
    sequences, parameters = everybody(ALL, 8), shifted(start())
    found = moments_of(ALL, parameters, vectors(ALL, parameters, sequences).sum(axis=0))
    smoothed, said = smoothed_states(parameters, sequences)
    occupancy, shift = np.zeros(N_STATES), np.zeros((N_STATES, N_FACTORS))
    square = np.zeros((N_STATES, N_FACTORS, N_FACTORS))
    xx, xt, rest = np.zeros((9, 5, 5)), np.zeros((9, 5)), np.zeros(9)
    for n, (owner, at) in enumerate(zip(sequences.owner, sequences.at, strict=True)):
        for k in range(N_STATES):
            share, mean = smoothed.state[owner, at, k], said.mean[n, k]
            spread = said.covariance[said.pattern[n], k]
            apart = mean - prior_means()[k]
            occupancy[k] += share
            shift[k] += share * apart
            square[k] += share * (np.outer(apart, apart) + spread)
            x = np.array([1.0, *mean])
            products = np.outer(x, x)
            products[1:, 1:] += spread
            for d in np.flatnonzero(~np.isnan(sequences.y[n])):
                free = ALL.free[d]
                fixed = parameters.loadings[d].copy()
                fixed[free] = 0.0
                rest[d] += share * (sequences.y[n, d] ** 2 - 2 * sequences.y[n, d] * fixed @ x + fixed @ products @ fixed)
                xx[d][np.ix_(free, free)] += share * products[np.ix_(free, free)]
                xt[d, free] += share * (sequences.y[n, d] * x - products @ fixed)[free]
    for mine, theirs in ((occupancy, found.occupancy), (shift, found.shift), (square, found.square), (xx, found.xx), (xt, found.xt),
                         (rest, found.rest)):  # fmt: skip
        assert np.allclose(mine, theirs, atol=1e-9)
    assert found.transitions.sum() == pytest.approx(float((sequences.length - 1).sum()))
    assert found.chain.sum() == pytest.approx(float((sequences.length - 1).sum()))
    assert found.scores.sum() == pytest.approx(len(sequences.rescored[0]))
    assert np.allclose(found.initial.sum(), sequences.patients)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_no_other_parameters_do_better_in_one_m_step(seed: int) -> None:
    """The expected complete log likelihood with the prior, written out from the moments, has its maximum at the M-step."""
    sequences = everybody(POOLED, 25, seed)
    moments = moments_of(POOLED, public_start(POOLED), vectors(POOLED, public_start(POOLED), sequences).sum(axis=0))
    best, weights = maximised(POOLED, moments), prior_weights(POOLED, moments)

    def objective(at: Parameters) -> float:
        found = log_prior(POOLED, weights, at) + float(np.sum(moments.transitions * np.log(at.transitions)))
        found += float(moments.initial @ np.log(at.initial))
        for k in range(N_STATES):
            d = at.mean[k] - prior_means()[k]
            scatter = moments.square[k] - np.outer(moments.shift[k], d) - np.outer(d, moments.shift[k])
            scatter += moments.occupancy[k] * np.outer(d, d)
            found -= 0.5 * np.trace(np.linalg.solve(at.covariance[k], scatter))
            found -= 0.5 * moments.occupancy[k] * np.linalg.slogdet(at.covariance[k])[1]
        for d, free in enumerate(POOLED.free):
            beta = at.loadings[d, free]
            squares = moments.rest[d] - 2 * beta @ moments.xt[d, free] + beta @ moments.xx[d][np.ix_(free, free)] @ beta
            found -= 0.5 * (squares / at.noise[d] + moments.counted[d] * np.log(at.noise[d]))
        return found

    rng, top = np.random.default_rng(seed), objective(best)
    for size in (1e-3, 1e-2, 0.1):
        root = np.eye(N_FACTORS) + size * rng.normal(0, 1, (N_STATES, N_FACTORS, N_FACTORS))
        covariance = maximisation._limited(root @ best.covariance @ root.transpose(0, 2, 1))
        loadings = best.loadings.copy()
        for d, free in enumerate(POOLED.free):
            loadings[d, free] += size * rng.normal(0, 1, len(free))
        noise = np.clip(best.noise * np.exp(size * rng.normal(0, 1, 9)), *VARIANCES)
        tilted = best.transitions * np.exp(size * rng.normal(0, 1, best.transitions.shape))
        other = replace(
            best, covariance=covariance, loadings=loadings, noise=noise, mean=best.mean + size * rng.normal(0, 1, best.mean.shape),
            transitions=tilted / tilted.sum(axis=-1, keepdims=True),
        )  # fmt: skip
        assert objective(other) <= top + 1e-9 * abs(top)


def test_em_over_sites_is_em_over_everybody_in_any_order() -> None:
    values, owners, _ = drawn(ALL, shifted(start()), 40, 3)
    pooled_sums: list[np.ndarray] = []
    site_sums: list[np.ndarray] = []
    order = np.random.default_rng(0).permutation(40)
    for _ in range(5):
        pooled = sequences_of(ALL, values, owners, 40)
        pooled_sums.append(vectors(ALL, fitted(ALL, pooled_sums), pooled).sum(axis=0))
        total = np.zeros(ALL.size)
        for part in (order[:9], order[9:33], order[33:]):  # three sites, patients in another order
            rows = np.concatenate([np.flatnonzero(owners == patient) for patient in part])
            mine = np.repeat(np.arange(len(part)), [int((owners == patient).sum()) for patient in part])
            total += vectors(ALL, fitted(ALL, site_sums), sequences_of(ALL, values[rows], mine, len(part))).sum(axis=0)
        site_sums.append(total / 40.0)  # as sites see it: divided by who was declared
    one, other = fitted(ALL, pooled_sums), fitted(ALL, site_sums)
    for field in fields(one):
        assert np.abs(getattr(one, field.name) - getattr(other, field.name)).max() < 1e-6


def test_a_patients_vector_is_the_same_whoever_else_is_there() -> None:
    values, owners, _ = drawn(ALL, start(), 30, 5)
    together = vectors(ALL, shifted(start()), sequences_of(ALL, values, owners, 30))
    for patient in (0, 13, 29):
        rows = owners == patient
        alone = vectors(ALL, shifted(start()), sequences_of(ALL, values[rows], np.zeros(int(rows.sum()), np.intp), 1))
        assert np.array_equal(alone[0], together[patient])


@settings(max_examples=40, deadline=None)
@given(
    frame=st.sampled_from(list(FRAMES.values())),
    size=st.floats(1e-3, 1e6),
    seed=st.integers(0, 10_000),
    iterations=st.integers(1, 4),
)
def test_whatever_sums_are_parameters_are_within_public_limits(frame: Frame, size: float, seed: int, iterations: int) -> None:
    rng = np.random.default_rng(seed)
    found = fitted(frame, [size * rng.standard_normal(frame.size) for _ in range(iterations)])
    for field in fields(found):
        assert np.isfinite(getattr(found, field.name)).all()
    for chances in (found.initial, found.transitions, found.chain_initial, found.chain, found.scores):
        assert (chances >= 0).all()
        assert np.allclose(chances.sum(axis=-1), 1)
    values = np.linalg.eigvalsh(found.covariance)
    assert values.min() >= VARIANCES[0] * 0.999
    assert values.max() <= VARIANCES[1] * 1.001
    assert np.abs(found.mean - prior_means()).max() <= maximisation.FARTHEST + 1e-9


@settings(max_examples=10, deadline=None)
@given(total=arrays(np.float64, ALL.size, elements=st.sampled_from([0.0, -3e38, 3e38, -1e9, 1e9, 1e-300])))
def test_hostile_sums_give_finite_vectors(total: np.ndarray) -> None:
    sequences = everybody(ALL, 6)
    assert np.isfinite(vectors(ALL, fitted(ALL, [total]), sequences)).all()


def test_blanks_tell_the_noise_and_exact_sums_have_none() -> None:
    total = vectors(ALL, start(), everybody(ALL)).sum(axis=0)
    assert noise_of(ALL, total) == 0.0
    noised = total + 3.0 * np.random.default_rng(2).standard_normal(ALL.size)
    assert noise_of(ALL, noised) == pytest.approx(3.0, rel=0.4)


def test_much_noise_leaves_about_the_public_start_and_a_little_leaves_what_was_fitted() -> None:
    sequences = everybody(POOLED, 200)
    rng = np.random.default_rng(4)
    total = vectors(POOLED, public_start(POOLED), sequences).sum(axis=0)
    exact = fitted(POOLED, [total])
    near = fitted(POOLED, [total + 1e-3 * rng.standard_normal(POOLED.size)])
    far = fitted(POOLED, [total + 1e4 * rng.standard_normal(POOLED.size)])
    public = public_start(POOLED)
    assert np.abs(near.mean - exact.mean).max() < 0.05
    assert np.abs(far.mean - public.mean).max() < 0.05
    assert np.abs(far.transitions - public.transitions).max() < 0.05


def test_the_weight_of_a_noised_count_has_the_least_error() -> None:
    weight = maximisation.noise_weight(20.0, 500.0, 0.05)
    error = [((w * 0.05) ** 2 + 20.0**2) / (500.0 + w) ** 2 for w in (0.9 * weight, weight, 1.1 * weight)]
    assert min(error) == error[1]


def test_pairs_of_factors_are_all_of_them_once() -> None:
    assert len(PAIRS[0]) == N_FACTORS * (N_FACTORS + 1) // 2
