"""The estimators against closed forms, and against mechanisms whose epsilon is known, sound and broken."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from dp_accounting import gaussian_mechanism
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import beta, binom

from privacy.accountant import ENFORCE_INTERVAL, epsilon
from privacy.audit import (
    AuditError,
    Estimate,
    Reading,
    attack,
    attack_lower_bound,
    best_guesses,
    blind,
    correct_guesses,
    eps_delta_lower_bound,
    estimate,
    exact_interval,
    f_dp_lower_bound,
    f_dp_lower_mu,
    gaussian_epsilon,
    gaussian_mu,
    read_canaries,
    verdict,
)
from privacy.events import PoissonGaussianEvent, Spend

DELTA = 1 / 5501**1.1  # of the reference table: 12 sites, 5501 patients
RATE, STEPS = 0.25, 200


# -- closed forms --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.05, 0.3, 1.0, 3.0, 12.0])
def test_the_gaussian_epsilon_is_that_of_the_reference_accountant(mu: float) -> None:
    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(gaussian_mechanism.get_epsilon_gaussian(1 / mu, 1e-5), abs=1e-6)
    assert gaussian_epsilon(gaussian_mu(gaussian_epsilon(mu, 1e-5), 1e-5), 1e-5) == pytest.approx(gaussian_epsilon(mu, 1e-5))


def test_scores_that_do_not_differ_and_claims_beyond_all_measure_have_an_answer() -> None:
    assert gaussian_epsilon(0.0, 1e-5) == gaussian_epsilon(-3.0, 1e-5) == 0.0
    assert gaussian_mu(1e6, 1e-5) == pytest.approx(100.0)
    with pytest.raises(AuditError, match="below 0"):
        gaussian_mu(-1.0, 1e-5)


@pytest.mark.parametrize("mu", [0.1, 0.5, 2.0])
def test_one_canary_is_refuted_exactly_where_no_test_of_two_gaussians_is_that_good(mu: float) -> None:
    """With one fair coin the best guess under mu-Gaussian DP is right with probability Phi(mu / 2): the bound is tight there."""
    right = float(ndtr(mu / 2))
    assert f_dp_lower_mu(1, 1, 1, confidence=1.0 - right) == pytest.approx(mu, abs=1e-6)


@pytest.mark.parametrize(("correct", "guesses"), [(60, 100), (95, 100), (100, 100), (51, 100), (7, 10)])
def test_the_bound_without_delta_is_the_exact_limit_of_a_proportion(correct: int, guesses: int) -> None:
    """Under pure DP the right guesses are at most binomial with e^eps / (1 + e^eps) (Steinke et al. 2023): Clopper and Pearson."""
    least = float(beta.ppf(0.05, correct, guesses - correct + 1))
    expected = max(0.0, math.log(least / (1.0 - least)))
    assert eps_delta_lower_bound(correct, guesses, 1000, delta=1e-15) == pytest.approx(expected, abs=1e-6)


def test_a_larger_delta_and_fewer_right_guesses_prove_less() -> None:
    bounds = [eps_delta_lower_bound(95, 100, 1000, delta=delta) for delta in (1e-9, 1e-5, 1e-3, 1e-2)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[-1]
    rising = [f_dp_lower_bound(correct, 100, 1000, delta=1e-5) for correct in range(50, 101, 10)]
    assert rising == sorted(rising)
    assert rising[0] == 0.0 < rising[-1]


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 10), (10, 10), (1, 400)])
def test_an_exact_interval_leaves_two_and_a_half_percent_on_either_side(hits: int, trials: int) -> None:
    low, high = exact_interval(hits, trials)
    assert (low == 0.0) if hits == 0 else binom.sf(hits - 1, trials, low) == pytest.approx(0.025)
    assert (high == 1.0) if hits == trials else binom.cdf(hits, trials, high) == pytest.approx(0.025)


def test_guesses_are_the_extremes_and_right_ones_are_counted() -> None:
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    included = np.array([True, False, True, True, False, False])
    assert [correct_guesses(scores, included, n) for n in (2, 4, 6)] == [2, 3, 4]


@pytest.mark.parametrize("broken", [np.array([1.0, np.nan, 2.0, 0.0]), np.zeros((2, 2)), np.zeros(3)])
def test_scores_that_no_experiment_gives_are_refused(broken: NDArray[np.float64]) -> None:
    with pytest.raises(AuditError):
        estimate(broken, np.array([True, False, True, False]), 1e-5)


def test_scores_without_any_noise_are_refused_and_not_read_as_perfect() -> None:
    with pytest.raises(AuditError, match="no noise"):
        estimate(np.array([1.0, 1.0, 0.0, 0.0]), np.array([True, True, False, False]), 1e-5)


# -- mechanisms ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mechanism:
    """Sums over steps of sampled canaries with Gaussian noise, in clips; what is wrong with it, if anything."""

    influence: float = 1.0
    noise: float = 1.0
    rate: float = RATE

    def reading(self, claim: float, canaries: int, seed: int) -> Reading:
        stream = np.random.default_rng(seed)
        included = stream.random(canaries) < 0.5
        taken = stream.binomial(STEPS, self.rate, canaries) * included
        noise = self.noise * sigma(claim) * math.sqrt(STEPS) * stream.standard_normal(canaries)
        return read_canaries(self.influence * taken + noise, included, claimed_epsilon=claim, delta=DELTA)


SOUND = Mechanism()
BUGS = {
    "record-level clip, 6 records": Mechanism(influence=6.0),
    "no sampling": Mechanism(rate=1.0),
    "noise halved": Mechanism(noise=0.5),
}


def sigma(claim: float) -> float:
    """Noise multipliers for claims 1, 3 and 8 at rate 1/4 over 200 steps; `test_the_noises...` recomputes the claims."""
    return {1.0: 11.60, 3.0: 4.515, 8.0: 2.097}[claim]


@pytest.mark.parametrize("claim", [1.0, 3.0, 8.0])
def test_the_noises_of_these_mechanisms_are_those_of_the_claims(claim: float) -> None:
    spent = [Spend(PoissonGaussianEvent(sigma(claim), RATE), "train", STEPS)]
    assert epsilon(spent, DELTA, interval=ENFORCE_INTERVAL) == pytest.approx(claim, rel=0.005)


def middle(claim: float, mechanism: Mechanism, figure: Callable[[Reading], float], canaries: int = 1000) -> float:
    return float(np.median([figure(mechanism.reading(claim, canaries, seed)) for seed in range(9)]))


# The one-shot column of privacy.md, section 6 (which has the patients' own signal in it, and is a little lower at claims 3 and 8).
@pytest.mark.parametrize(
    ("claim", "bug", "least", "most"),
    [
        (1.0, None, 0.85, 1.2),
        (1.0, "record-level clip, 6 records", 7.0, 8.5),
        (1.0, "no sampling", 4.4, 5.3),
        (1.0, "noise halved", 1.85, 2.5),
        (3.0, None, 2.5, 3.3),
        (3.0, "record-level clip, 6 records", 20.0, 28.0),
        (3.0, "no sampling", 13.5, 17.5),
        (3.0, "noise halved", 5.1, 7.2),
        (8.0, None, 5.6, 8.0),
    ],
)
def test_the_estimate_is_near_the_truth_sound_or_broken(claim: float, bug: str | None, least: float, most: float) -> None:
    mechanism = BUGS[bug] if bug else SOUND
    assert least < middle(claim, mechanism, lambda reading: reading.estimate.epsilon) < most


@pytest.mark.parametrize("claim", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("bug", BUGS)
def test_a_gross_bug_is_refuted_or_looked_into_whatever_the_seed(claim: float, bug: str) -> None:
    said = [BUGS[bug].reading(claim, 1000, seed).verdict for seed in range(9)]
    assert "pass" not in said
    assert "alarm" in said


@pytest.mark.parametrize("claim", [1.0, 3.0, 8.0])
def test_a_sound_mechanism_is_never_refuted_and_seldom_looked_into(claim: float) -> None:
    """An alarm may be false once in twenty; of 400 runs with 1000 canaries none was, and 10 at most were to be looked into."""
    readings = [SOUND.reading(claim, 1000, seed) for seed in range(100)]
    assert max(reading.lower_bound for reading in readings) < claim
    assert sum(reading.verdict == "investigate" for reading in readings) <= 10


@pytest.mark.parametrize("claim", [1.0, 3.0, 8.0])
def test_the_bounds_are_ordered_and_below_the_estimate(claim: float) -> None:
    readings = [SOUND.reading(claim, 1000, seed) for seed in range(9)]
    assert all(reading.lower_bound_eps_delta <= reading.lower_bound <= reading.estimate.epsilon for reading in readings)


def test_the_bound_holds_at_its_confidence_for_a_gaussian_whose_mu_is_known() -> None:
    """200 runs with 200 canaries each: at most one in twenty may be above the truth, and far fewer are."""
    stream, above = np.random.default_rng(1), 0
    for _ in range(200):
        included = stream.random(200) < 0.5
        scores = stream.standard_normal(200) + 1.0 * included
        above += f_dp_lower_mu(correct_guesses(scores, included, 40), 40, 200) > 1.0
    assert above <= 10


def test_the_guesses_are_fixed_by_canaries_and_claim_alone_and_can_refute_the_claim() -> None:
    for claim in (1.0, 3.0, 8.0):
        guesses = best_guesses(1000, gaussian_mu(claim, DELTA))
        assert guesses % 2 == 0
        assert f_dp_lower_bound(guesses, guesses, 1000, delta=DELTA) > claim


def test_scores_that_hide_the_canaries_are_no_evidence() -> None:
    """Canaries that never reach the sum would pass any upper limit: silence is looked into."""
    silent = Mechanism(influence=0.0).reading(3.0, 1000, 1)
    assert blind(silent.estimate, 3.0, DELTA)
    assert silent.verdict == "investigate"
    assert Mechanism(influence=-1.0).reading(3.0, 1000, 1).verdict == "investigate"


def test_an_estimate_above_the_claim_by_chance_alone_passes() -> None:
    wide = Estimate(0.4, 0.2, gaussian_epsilon(0.4, DELTA), 0.0, gaussian_epsilon(0.8, DELTA))
    narrow = Estimate(0.4, 0.02, wide.epsilon, wide.low, wide.high)
    assert wide.epsilon > 1.1
    assert (verdict(wide, 0.0, 1.0, DELTA), verdict(narrow, 0.0, 1.0, DELTA)) == ("pass", "investigate")
    assert verdict(narrow, 1.01, 1.0, DELTA) == "alarm"


# -- attacks on a model ----------------------------------------------------------------------------------------------------------


def attacked(shift: float, n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    stream = np.random.default_rng(seed)
    members = np.arange(n) % 3 != 0
    return stream.standard_normal(n) + shift * members, members


def test_the_area_and_the_rate_of_an_attack_are_those_of_counting() -> None:
    scores, members = np.array([3.0, 1.0, 2.0, 0.0, 1.0]), np.array([True, True, True, False, False])
    found = attack(scores, members, most_fpr=0.0)
    assert found.auc == pytest.approx((2 + 2 + 1.5) / 6)
    assert (found.fpr, found.tpr) == (0.0, 2 / 3)


def test_ties_at_the_threshold_are_not_counted_as_found() -> None:
    found = attack(np.ones(40), np.arange(40) % 2 == 0, most_fpr=0.05)
    assert (found.auc, found.tpr, found.fpr) == (0.5, 0.0, 0.0)


def test_guessing_proves_no_epsilon_and_a_sharp_attack_does() -> None:
    half = np.random.default_rng(0).random(900) < 0.5
    assert [attack_lower_bound(*attacked(0.0, 900, seed), half, delta=1e-5) for seed in range(5)] == [0.0] * 5
    assert attack_lower_bound(*attacked(4.0, 900, 1), half, delta=1e-5) > 2.0


def test_the_epsilon_of_an_attack_is_below_the_truth() -> None:
    """One Gaussian observation of each patient, mu 1: at delta 1e-5 epsilon is 4.38; no attack proves more."""
    half = np.random.default_rng(0).random(3000) < 0.5
    bounds = [attack_lower_bound(*attacked(1.0, 3000, seed), half, delta=1e-5) for seed in range(20)]
    assert 0.5 < max(bounds) < gaussian_epsilon(1.0, 1e-5)
