"""Three accountants agree; epsilon never sinks when something is added; no question is too dear to answer."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accountant import ENFORCE_INTERVAL, epsilon, rows
from privacy.check import Bracket, bracket, gaussian_delta, gaussian_epsilon
from privacy.errors import AccountingError
from privacy.events import (
    POPULATIONS,
    Event,
    GaussianEvent,
    NonPrivateEvent,
    PoissonGaussianEvent,
    SharedGaussianEvent,
    SharedPoissonGaussianEvent,
    Spend,
    as_charged,
    as_exposed,
)
from privacy.renyi import FRACTIONS, Bound, log_moment, log_moment_whole, renyi_bound, to_epsilon

SMALL = 1 / 400**1.1
LARGE = 1 / 7500**1.1

# noise multiplier, sample rate, steps, delta, epsilon (privacy-loss distributions, grid 1e-4; confirmed by two other codes), RDP
# (opacus, whose orders are coarser)
REFERENCE_TABLE = [
    (1.0, 0.02, 500, SMALL, 1.717, 2.058),
    (2.0, 0.10, 1000, SMALL, 5.949, 6.702),
    (4.0, 0.50, 300, SMALL, 8.355, 9.318),
    (8.0, 1.0, 100, SMALL, 4.020, 4.529),
    (1.0, 0.02, 500, LARGE, 2.432, 2.791),
    (2.0, 0.10, 1000, LARGE, 7.551, 8.240),
    (2.0, 0.25, 400, LARGE, 13.318, 14.463),
    (0.7, 0.02, 3000, LARGE, 14.643, 16.224),
]
MIXTURES = 200


def event(noise: float, rate: float) -> Event:
    return GaussianEvent(noise) if rate == 1.0 else PoissonGaussianEvent(noise, rate)


@pytest.mark.parametrize(("noise", "rate", "steps", "delta", "expected", "rdp"), REFERENCE_TABLE)
def test_the_accountants_give_the_published_value(
    noise: float, rate: float, steps: int, delta: float, expected: float, rdp: float
) -> None:
    spends = [Spend(event(noise, rate), "train", steps)]
    certified = epsilon(spends, delta)
    assert certified == pytest.approx(expected, abs=1e-3)
    assert certified <= epsilon(spends, delta, interval=ENFORCE_INTERVAL) + 1e-6 <= certified + 2e-3
    independent = bracket(spends, delta)
    assert independent.upper - independent.lower < 0.02
    assert independent.distance(certified) == pytest.approx(0.0, abs=1e-6)
    assert abs(independent.middle - certified) < 0.02
    assert rdp - 0.01 < renyi_bound(spends, delta).epsilon < rdp + 0.001


def random_mechanism(draw: random.Random) -> Event:
    """Noise log-uniform in [0.6, 30], sampling log-uniform in [0.002, 0.9], shares of 2 to 12 sites."""
    noise = math.exp(draw.uniform(math.log(0.6), math.log(30.0)))
    rate = math.exp(draw.uniform(math.log(0.002), math.log(0.9)))
    contributors = draw.randint(2, 12)
    return draw.choice(
        [
            GaussianEvent(noise),
            PoissonGaussianEvent(noise, rate),
            SharedGaussianEvent(noise / math.sqrt(contributors), contributors),
            SharedPoissonGaussianEvent(noise / math.sqrt(contributors), rate, contributors),
        ]
    )


def random_mixture(number: int) -> tuple[list[Spend], float]:
    """One to three mechanisms, each up to 500 times, on any population; delta log-uniform in [1e-7, 1e-3]; epsilon below 12."""
    draw = random.Random(number)
    while True:
        counts = [math.ceil(math.exp(draw.uniform(0.0, math.log(500.0)))) for _ in range(draw.randint(1, 3))]
        spends = [Spend(random_mechanism(draw), draw.choice(POPULATIONS), count) for count in counts]
        delta = 10.0 ** draw.uniform(-7.0, -3.0)
        if renyi_bound(spends, delta).epsilon < 12.0:
            return spends, delta


@pytest.mark.no_cover  # traced, the millions of calls within the reference accountant take twice as long; others cover the lines
@pytest.mark.parametrize("tenth", range(10))
def test_three_accountants_agree_on_two_hundred_random_mixtures(tenth: int) -> None:
    for number in range(tenth, MIXTURES, 10):
        spends, delta = random_mixture(number)
        reference, independent = epsilon(spends, delta), bracket(spends, delta)
        assert independent.distance(reference) < 0.02, (number, spends, delta)
        assert renyi_bound(spends, delta).epsilon >= independent.lower, (number, spends, delta)
        assert epsilon(as_charged(spends), delta) == pytest.approx(reference, abs=1e-9), (number, spends, delta)
        assert epsilon(as_exposed(spends), delta, interval=ENFORCE_INTERVAL) >= reference - 2e-3, (number, spends, delta)


@given(st.floats(0.05, 20.0), st.sampled_from([1e-7, 1e-5, 1e-3]))
def test_the_closed_form_inverts_itself(mu: float, delta: float) -> None:
    value = gaussian_epsilon(mu, delta)
    assert gaussian_delta(mu, value) <= delta * (1 + 1e-6)
    if value > 0.0:
        assert gaussian_delta(mu, value - 1e-6) > delta * (1 - 1e-9)


def test_the_closed_form_matches_a_hand_calculation() -> None:
    # mu = 1, eps = 1: Phi(1/2 - 1) - e Phi(-1/2 - 1) = 0.308538 - 2.718282 * 0.066807
    assert gaussian_delta(1.0, 1.0) == pytest.approx(0.308538 - 2.718282 * 0.066807, abs=1e-6)


def test_full_batches_merge_exactly() -> None:
    many = [Spend(GaussianEvent(3.0), "train", 9), Spend(GaussianEvent(1.0), "train")]
    one = [Spend(GaussianEvent(1 / math.sqrt(2.0)), "train")]
    assert epsilon(many, 1e-5) == pytest.approx(epsilon(one, 1e-5), abs=1e-9)
    assert rows(many) == ((pytest.approx(1 / math.sqrt(2.0)), 1.0, 1),)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(1.0, 20.0), st.sampled_from([0.1, 1.0]), st.integers(1, 20)), min_size=1, max_size=3))
def test_one_more_release_never_lowers_epsilon(mechanisms: list[tuple[float, float, int]]) -> None:
    spends = [Spend(event(noise, rate), "train", count) for noise, rate, count in mechanisms]
    before = epsilon(spends[:-1], 1e-5, interval=ENFORCE_INTERVAL)
    assert epsilon(spends, 1e-5, interval=ENFORCE_INTERVAL) >= before - 1e-6


def test_train_and_held_out_patients_compose_in_parallel() -> None:
    train, held_out = Spend(GaussianEvent(2.0), "train", 4), Spend(GaussianEvent(3.0), "held_out", 4)
    assert epsilon([train, held_out], 1e-5) == epsilon([train], 1e-5)
    assert bracket([train, held_out], 1e-5) == bracket([train], 1e-5)


def test_a_release_about_all_counts_on_both_sides() -> None:
    everybody, held_out = Spend(GaussianEvent(2.0), "all"), Spend(GaussianEvent(2.0), "held_out")
    together = epsilon([Spend(GaussianEvent(2.0), "train", 2)], 1e-5)
    assert epsilon([everybody, held_out], 1e-5) == together
    assert bracket([everybody, held_out], 1e-5).upper == pytest.approx(together, abs=1e-4)


def test_two_splits_compose_everything_together() -> None:
    spends = [Spend(GaussianEvent(2.0), "train"), Spend(GaussianEvent(2.0), "held_out")]
    assert epsilon(spends, 1e-5, split_ids=["a", "a"]) == epsilon(spends[:1], 1e-5)
    together = epsilon([Spend(GaussianEvent(2.0), "train", 2)], 1e-5)
    assert epsilon(spends, 1e-5, split_ids=["a", "b"]) == together
    assert bracket(spends, 1e-5, split_ids=["a", "b"]).upper == pytest.approx(together, abs=1e-4)


def test_nothing_spent_costs_nothing_and_no_noise_costs_everything() -> None:
    assert epsilon([], 1e-5) == 0.0 == epsilon([], 1e-5, split_ids=["a", "b"])
    assert bracket([], 1e-5) == Bracket(0.0, 0.0)
    bare = [Spend(NonPrivateEvent(), "held_out"), Spend(GaussianEvent(5.0), "train")]
    assert math.isinf(epsilon(bare, 1e-5))
    assert bracket(bare, 1e-5) == Bracket(math.inf, math.inf)
    with pytest.raises(AccountingError, match="without noise"):
        rows(bare)


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(0.001, 1.0, 10**6), (0.001, 0.5, 1000), (0.05, 0.1, 100), (0.2, 0.25, 1000), (1e9, 1.0, 1)]
)
def test_an_absurd_plan_gets_an_upper_bound_and_not_all_memory(noise: float, rate: float, steps: int) -> None:
    spends = [Spend(event(noise, rate), "train", steps)]
    assert epsilon(spends, 1e-5) >= bracket(spends, 1e-5).lower - 1e-6


def test_the_independent_bracket_is_the_whole_line_where_delta_is_beyond_its_arithmetic() -> None:
    found = bracket([Spend(PoissonGaussianEvent(1.0, 0.5), "train", 10)], 1e-13)
    assert math.isinf(found.upper)


def test_distance_is_measured_from_the_bracket() -> None:
    found = Bracket(1.0, 2.0)
    assert (found.distance(1.5), found.distance(0.5), found.distance(2.25)) == (0.0, 0.5, 0.25)
    assert found.distance(math.inf) == math.inf
    assert Bracket(math.inf, math.inf).distance(math.inf) == 0.0
    assert Bracket(math.inf, math.inf).distance(3.0) == math.inf


def test_a_share_counts_with_the_noise_of_all_that_every_sum_holds() -> None:
    share, whole = [Spend(SharedGaussianEvent(2.0, 9), "train", 4)], [Spend(GaussianEvent(6.0), "train", 4)]
    assert epsilon(share, 1e-5) == epsilon(whole, 1e-5)
    assert bracket(share, 1e-5).upper == pytest.approx(bracket(whole, 1e-5).upper, abs=1e-9)
    assert renyi_bound(share, 1e-5).epsilon == pytest.approx(renyi_bound(whole, 1e-5).epsilon, abs=1e-9)
    alone = [Spend(GaussianEvent(2.0), "train", 4)]
    assert epsilon(as_exposed(share), 1e-5) == epsilon(alone, 1e-5) > epsilon(share, 1e-5)


@pytest.mark.parametrize("noise", [0.1, 0.3, 1.0, 5.0, 50.0])
@pytest.mark.parametrize("rate", [1e-6, 0.01, 0.25, 0.9])
def test_the_quadrature_between_whole_orders_gives_the_finite_sum_at_them(noise: float, rate: float) -> None:
    for order in (2, 3, 7, 10):
        assert log_moment(float(order), noise, rate) == pytest.approx(log_moment_whole(order, noise, rate), rel=1e-11, abs=1e-10)


def test_the_logarithm_of_the_moment_is_convex_in_the_order() -> None:
    values = [log_moment(order, 1.3, 0.1) for order in FRACTIONS]
    slopes = np.diff(values) / np.diff(FRACTIONS)
    assert np.all(np.diff(slopes) > -1e-9)


def test_the_moment_of_a_sampled_gaussian_matches_a_hand_calculation() -> None:
    # order 2: (1-q)^2 + 2 q (1-q) + q^2 e^(1/s^2) = 1 + q^2 (e^(1/s^2) - 1)
    assert log_moment_whole(2, 2.0, 0.25) == pytest.approx(math.log1p(0.0625 * math.expm1(0.25)), abs=1e-11)


def test_the_conversion_matches_a_hand_calculation() -> None:
    # divergence 1/2 at order 2, delta 0.01: 1/2 + ln(1/2) - (ln 0.01 + ln 2) / 1
    assert to_epsilon(np.array([0.5]), 0.01, (2.0,)) == Bound(pytest.approx(0.5 + math.log(25.0)), 2.0)
    assert to_epsilon(np.zeros(1), 0.9, (2.0,)).epsilon == 0.0


def test_the_renyi_bound_knows_populations_splits_and_releases_without_noise() -> None:
    train, held_out = Spend(GaussianEvent(2.0), "train"), Spend(GaussianEvent(2.0), "held_out")
    both = renyi_bound([Spend(GaussianEvent(2.0), "train", 2)], 1e-5)
    assert renyi_bound([train, held_out], 1e-5) == renyi_bound([train], 1e-5)
    assert renyi_bound([train, held_out], 1e-5, split_ids=["a", "b"]).epsilon == pytest.approx(both.epsilon)
    assert renyi_bound([], 1e-5) == Bound(0.0, 0.0)
    assert math.isinf(renyi_bound([train, Spend(NonPrivateEvent(), "train")], 1e-5).epsilon)


@pytest.mark.parametrize(("noise", "rate"), [(0.001, 0.5), (0.05, 0.1), (0.2, 0.25), (1e9, 0.5), (1000.0, 1e-6)])
def test_the_renyi_bound_stays_above_the_truth_where_noise_is_absurd(noise: float, rate: float) -> None:
    spends = [Spend(PoissonGaussianEvent(noise, rate), "train")]
    assert renyi_bound(spends, 1e-5).epsilon >= bracket(spends, 1e-5).lower


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, float("nan")])
def test_an_impossible_delta_is_refused(delta: float) -> None:
    with pytest.raises(AccountingError, match="delta"):
        epsilon([], delta)
    with pytest.raises(AccountingError, match="delta"):
        bracket([], delta)
    with pytest.raises(AccountingError, match="delta"):
        renyi_bound([], delta)
