"""Two accountants that share no code agree; epsilon never sinks when something is added; no question is too dear to answer."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from privacy.accountant import ENFORCE_INTERVAL, epsilon, rows
from privacy.check import Bracket, bracket, gaussian_delta, gaussian_epsilon
from privacy.errors import AccountingError
from privacy.events import Event, GaussianEvent, NonPrivateEvent, PoissonGaussianEvent, Spend

SMALL = 1 / 400**1.1
LARGE = 1 / 7500**1.1

# noise multiplier, sample rate, steps, delta, epsilon (privacy-loss distributions, grid 1e-4; confirmed by two other codes)
REFERENCE_TABLE = [
    (1.0, 0.02, 500, SMALL, 1.717),
    (2.0, 0.10, 1000, SMALL, 5.949),
    (4.0, 0.50, 300, SMALL, 8.355),
    (8.0, 1.0, 100, SMALL, 4.020),
    (1.0, 0.02, 500, LARGE, 2.432),
    (2.0, 0.10, 1000, LARGE, 7.551),
    (2.0, 0.25, 400, LARGE, 13.318),
    (0.7, 0.02, 3000, LARGE, 14.643),
]


def event(noise: float, rate: float) -> Event:
    return GaussianEvent(noise) if rate == 1.0 else PoissonGaussianEvent(noise, rate)


@pytest.mark.parametrize(("noise", "rate", "steps", "delta", "expected"), REFERENCE_TABLE)
def test_both_accountants_give_the_published_value(noise: float, rate: float, steps: int, delta: float, expected: float) -> None:
    spends = [Spend(event(noise, rate), "train", steps)]
    certified = epsilon(spends, delta)
    assert certified == pytest.approx(expected, abs=1e-3)
    assert certified <= epsilon(spends, delta, interval=ENFORCE_INTERVAL) + 1e-6 <= certified + 2e-3
    independent = bracket(spends, delta)
    assert independent.upper - independent.lower < 0.02
    assert independent.distance(certified) == pytest.approx(0.0, abs=1e-6)
    assert abs(independent.middle - certified) < 0.02


@settings(max_examples=12, deadline=None)
@given(st.floats(0.6, 8.0), st.floats(0.005, 0.9), st.integers(1, 200), st.floats(0.8, 30.0), st.sampled_from([1e-6, 1e-5, 1e-4]))
def test_the_accountants_agree_on_random_mixtures(noise: float, rate: float, steps: int, second: float, delta: float) -> None:
    spends = [Spend(PoissonGaussianEvent(noise, rate), "train", steps), Spend(GaussianEvent(second), "train", 3)]
    reference = epsilon(spends, delta, interval=ENFORCE_INTERVAL)
    assume(reference < 30.0)
    assert bracket(spends, delta).distance(reference) < 0.02


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


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, float("nan")])
def test_an_impossible_delta_is_refused(delta: float) -> None:
    with pytest.raises(AccountingError, match="delta"):
        epsilon([], delta)
    with pytest.raises(AccountingError, match="delta"):
        bracket([], delta)
