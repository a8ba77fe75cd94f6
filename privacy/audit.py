"""What a measurement on real releases says about a claimed epsilon: an estimate, and bounds that hold with stated confidence.

Canaries are synthetic patients, each in the run or not by a fair coin. Who sees the releases guesses the coins; the better the
guesses, the larger epsilon must be. Three readings of one experiment, from near and unproven to far and proven:
`estimate` (Andrew et al. 2024, one-shot, Gaussian scores), `f_dp_lower_bound` (Mahloujifar, Melis and Chaudhuri 2025, one run)
and `eps_delta_lower_bound` (Steinke, Nasr and Jagielski 2023, one run). `attack` and its bound read an attack on a finished model.

Pure: numbers in, numbers out. Scores are in any unit; a higher score means "rather in". No proof replaces the proof:
a measurement can refute a claim, never confirm one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri
from scipy.stats import beta, binom, rankdata

from privacy.errors import PrivacyError

Scores = NDArray[np.float64]  # (n,)
Coins = NDArray[np.bool_]  # (n,) True = was in
Verdict = Literal["pass", "investigate", "alarm"]

CONFIDENCE: Final = 0.95
EXCESS: Final = 1.1  # an estimate this many times the claim is worth a look, if it is more than chance (`verdict`)
CANARIES_LEAST: Final = 100  # of which about half are in: below, the estimate is noise
_MU_MOST: Final = 100.0  # about epsilon 5000: nothing is hidden
_EPSILON_MOST: Final = 100.0
_BISECTIONS: Final = 40
_SHARES: Final = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)  # of the canaries, that may be guessed at
_DEFECT: Final = 2.0  # guesses are chosen to refute a claim when scores lie this much further apart: half the noise


class AuditError(PrivacyError):
    """A measurement that cannot be read: too few canaries, or numbers that no experiment gives."""


@dataclass(frozen=True)
class Estimate:
    """`mu`: distance of the two groups' scores in standard deviations; epsilons at one delta, `low` to `high` two-sided 95 %."""

    mu: float
    mu_error: float
    epsilon: float
    low: float
    high: float


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The exact epsilon at `delta` of telling N(0, 1) from N(mu, 1) (Balle and Wang 2018, theorem 8); 0 for mu <= 0."""
    _check_delta(delta)
    if mu <= 0.0 or _gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    rho = mu * mu / 2.0
    most = rho + 2.0 * math.sqrt(rho * -math.log(delta)) + 1.0  # above the bound of Bun and Steinke 2016, prop. 1.3
    return float(brentq(lambda epsilon: _gaussian_delta(mu, epsilon) - delta, 0.0, most))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The inverse of `gaussian_epsilon` in its first argument: how far apart a claim lets the two groups be; at most 100."""
    if not epsilon >= 0.0:
        raise AuditError(f"epsilon {epsilon} is below 0: no mechanism has it")
    return _largest(lambda mu: gaussian_epsilon(mu, delta) <= epsilon, _MU_MOST)


def _gaussian_delta(mu: float, epsilon: float) -> float:
    return float(ndtr(mu / 2.0 - epsilon / mu) - math.exp(epsilon + float(log_ndtr(-mu / 2.0 - epsilon / mu))))


def estimate(scores: Scores, included: Coins, delta: float) -> Estimate:
    """Epsilon as if scores were Gaussian with one standard deviation: near the truth for sums with Gaussian noise.

    Andrew et al. 2024, section 3, with both groups measured and their variance pooled: a ratio of variances, at this many
    canaries, is chance that the tails at a small delta would blow up. It has no proof; `mu_error` is the sampling error alone.
    """
    _check(scores, included)
    group_in, group_out = scores[included], scores[~included]
    n_in, n_out = len(group_in), len(group_out)
    pooled = (n_in * float(group_in.var()) + n_out * float(group_out.var())) / (n_in + n_out - 2)
    if pooled <= 0.0:
        raise AuditError("all scores of a group are equal: the releases carry no noise, or no canary was measured")
    mu = (float(group_in.mean()) - float(group_out.mean())) / math.sqrt(pooled)
    error = math.sqrt(1.0 / n_in + 1.0 / n_out + mu * mu / (2.0 * (n_in + n_out)))  # large-sample error of Cohen's d
    low, high = mu - 1.96 * error, mu + 1.96 * error
    return Estimate(mu, error, *(gaussian_epsilon(value, delta) for value in (mu, low, high)))


# -- guesses of one run ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def best_guesses(canaries: int, claimed_mu: float) -> int:
    """How many canaries to guess at, half the highest as "in" and half the lowest as "out": fixed before anything is seen.

    The number with the largest bound to be expected with half the noise claimed; any number gives a valid bound. Few guesses are
    surer, but even if all are right they cannot refute a large epsilon.
    """
    mu = min(_DEFECT * claimed_mu, _MU_MOST)
    counts = sorted({max(2, 2 * round(share * canaries / 2.0)) for share in _SHARES} & set(range(2, canaries + 1)))
    return max(counts, key=lambda guesses: f_dp_lower_mu(_expected_correct(canaries, guesses, mu), guesses, canaries))


def _expected_correct(canaries: int, guesses: int, mu: float) -> int:
    """Of half the canaries with scores N(0, 1) and half with N(mu, 1)."""
    share = min(guesses / (2.0 * canaries), 0.5)
    at = brentq(lambda t: 0.5 * (ndtr(-t) + ndtr(mu - t)) - share, -10.0, mu + 10.0)
    return min(guesses, int(guesses * 0.5 * float(ndtr(mu - at)) / share))


def correct_guesses(scores: Scores, included: Coins, guesses: int) -> int:
    """How many of `guesses` guesses are right: the highest half of them "in", the lowest half "out"."""
    _check(scores, included)
    if guesses % 2 or not 2 <= guesses <= len(scores):
        raise AuditError(f"{guesses} guesses at {len(scores)} canaries: an even number from 2 to all")
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    return int(included[order[-half:]].sum()) + int((~included[order[:half]]).sum())


def f_dp_lower_bound(correct: int, guesses: int, canaries: int, *, delta: float, confidence: float = CONFIDENCE) -> float:
    """Epsilon at `delta` of the least Gaussian mechanism under which so many right guesses are not too unlikely.

    For sampled Gaussian sums this errs to the low side: their tail, which decides epsilon, is heavier than that of the Gaussian
    trade-off that fits the middle.
    """
    return gaussian_epsilon(f_dp_lower_mu(correct, guesses, canaries, confidence=confidence), delta)


@lru_cache(maxsize=4096)
def f_dp_lower_mu(correct: int, guesses: int, canaries: int, *, confidence: float = CONFIDENCE) -> float:
    """The largest mu such that a mu-Gaussian-DP mechanism is refuted, at this confidence; 0 if none is."""
    _check_guesses(correct, guesses, canaries, confidence)
    if correct == 0 or not _refuted(0.0, correct, guesses, canaries, 1.0 - confidence):
        return 0.0
    return _largest(lambda mu: _refuted(mu, correct, guesses, canaries, 1.0 - confidence), _MU_MOST)


def _refuted(mu: float, correct: int, guesses: int, canaries: int, chance: float) -> bool:
    """Whether P(at least `correct` right) >= `chance` contradicts mu-Gaussian DP.

    With p_j the probability of exactly j right, r_i = sum over j >= i of j/m p_j and h_i = the same of (guesses - j)/m p_j:
    flipping one coin turns a right guess into a wrong one, so f-DP, averaged over coins, says r_(i+1) <= 1 - f(h_i)
    (Mahloujifar et al. 2025, theorem 9 and algorithm 3). The least r_0 + h_0 that this allows must not exceed guesses/m.
    """
    r, h = chance * correct / canaries, chance * (guesses - correct) / canaries
    for right in range(correct - 1, -1, -1):
        least = max(h, float(ndtr(ndtri(r) - mu)))  # h_i >= the inverse of 1 - f at r_(i+1)
        r += right / (guesses - right) * (least - h)
        h = least
        if r + h > guesses / canaries:
            return True
    return False


def eps_delta_lower_bound(correct: int, guesses: int, canaries: int, *, delta: float, confidence: float = CONFIDENCE) -> float:
    """The largest epsilon such that (epsilon, delta)-DP is refuted; assumes nothing else. Steinke et al. 2023, theorem 5.2."""
    _check_guesses(correct, guesses, canaries, confidence)
    _check_delta(delta)

    def refuted(epsilon: float) -> bool:
        return _chance_of(correct, guesses, canaries, epsilon, delta) < 1.0 - confidence

    return _largest(refuted, _EPSILON_MOST) if refuted(0.0) else 0.0


def _chance_of(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Most probability of at least `correct` right guesses: a binomial tail, and 2 m delta times the steepest rise below it."""
    right = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, right))
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, right))  # P(correct - i <= W < correct), i = 1, 2, ...
    steepest = float((below / np.arange(1, correct + 1)).max()) if correct else 0.0
    return min(1.0, tail + 2.0 * canaries * delta * steepest)


# -- attacks on a finished model -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attack:
    """How well scores tell members from others: area under the curve and true-positive rate at a low false-positive rate.

    Each with its two-sided 95 % interval; `fpr` is the one that was reached, at most the one that was asked for.
    """

    auc: float
    auc_low: float
    auc_high: float
    fpr: float
    tpr: float
    tpr_low: float
    tpr_high: float


def attack(scores: Scores, members: Coins, *, most_fpr: float) -> Attack:
    """Threshold attack: "member" above a score.

    Intervals: Hanley and McNeil 1982 for the area, Clopper and Pearson 1934 for the rate.
    """
    _check(scores, members)
    n_in, n_out = int(members.sum()), int((~members).sum())
    auc = (float(rankdata(scores)[members].sum()) - n_in * (n_in + 1) / 2.0) / (n_in * n_out)
    same_in, same_out = auc / (2.0 - auc), 2.0 * auc * auc / (1.0 + auc)
    variance = auc * (1.0 - auc) + (n_in - 1) * (same_in - auc * auc) + (n_out - 1) * (same_out - auc * auc)
    error = 1.96 * math.sqrt(max(variance, 0.0) / (n_in * n_out))
    others = np.sort(scores[~members])[::-1]
    above = others[min(int(most_fpr * n_out), n_out - 1)]  # ties at the threshold are not "above"
    hits, false = int((scores[members] > above).sum()), int((others > above).sum())
    low, high = exact_interval(hits, n_in)
    return Attack(auc, max(0.0, auc - error), min(1.0, auc + error), false / n_out, hits / n_in, low, high)


def exact_interval(hits: int, trials: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two-sided interval for a proportion (Clopper and Pearson 1934)."""
    if not 0 <= hits <= trials or trials < 1:
        raise AuditError(f"{hits} of {trials}: not a proportion")
    tail = (1.0 - confidence) / 2.0
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    return low, float(beta.ppf(1.0 - tail, hits + 1, trials - hits)) if hits < trials else 1.0


def attack_lower_bound(scores: Scores, members: Coins, first_half: Coins, *, delta: float, confidence: float = CONFIDENCE) -> float:
    """Epsilon at `delta` that an attack's success implies: ln((tpr - delta) / fpr), or its mirror image (Kairouz et al. 2015).

    The threshold is chosen on `first_half` (n,) and tried on the rest, with exact one-sided limits of both rates, each wrong with
    half the allowed chance. Patients count as independent trials, which patients of one model only nearly are.
    """
    _check_delta(delta)
    chance = (1.0 - confidence) / 2.0
    chosen, tried = (_Half(scores[half], members[half]) for half in (first_half, ~first_half))
    if min(chosen.smaller, tried.smaller) < 1:
        return 0.0
    best = max(np.unique(chosen.scores), key=lambda threshold: chosen.bound(threshold, delta, chance))
    return tried.bound(float(best), delta, chance)


@dataclass(frozen=True)
class _Half:
    scores: Scores
    members: Coins

    @property
    def smaller(self) -> int:
        return min(int(self.members.sum()), int((~self.members).sum()))

    def bound(self, threshold: float, delta: float, chance: float) -> float:
        """Epsilon that this threshold proves, if the true-positive rate is above and the false-positive rate below its limit."""
        said, n = self.scores > threshold, len(self.scores)
        n_in = int(self.members.sum())
        tpr, _ = exact_interval(int((said & self.members).sum()), n_in, confidence=1.0 - 2.0 * chance)
        _, fpr = exact_interval(int((said & ~self.members).sum()), n - n_in, confidence=1.0 - 2.0 * chance)
        ratios = ((tpr - delta) / fpr, (1.0 - fpr - delta) / (1.0 - tpr))
        return max(math.log(max(ratio, 1.0)) for ratio in ratios)


# -- the verdict -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """One experiment, read in every way. `guesses` were fixed by the number of canaries and the claim alone.

    `lower_bound`: f-DP, at 95 %; the verdict is about it. `lower_bound_eps_delta`: weaker, and assumes no shape of the trade-off.
    """

    claimed_epsilon: float
    delta: float
    estimate: Estimate
    lower_bound: float
    lower_bound_eps_delta: float
    canaries: int
    guesses: int
    correct: int
    verdict: Verdict


def read_canaries(scores: Scores, included: Coins, *, claimed_epsilon: float, delta: float) -> Reading:
    """All that the scores of one run's canaries say about `claimed_epsilon` at `delta`."""
    canaries = len(scores)
    guesses = best_guesses(canaries, gaussian_mu(claimed_epsilon, delta))
    correct = correct_guesses(scores, included, guesses)
    found = estimate(scores, included, delta)
    bound = f_dp_lower_bound(correct, guesses, canaries, delta=delta)
    proven = eps_delta_lower_bound(correct, guesses, canaries, delta=delta)
    said = verdict(found, bound, claimed_epsilon, delta)
    return Reading(claimed_epsilon, delta, found, bound, proven, canaries, guesses, correct, said)


def blind(found: Estimate, claimed_epsilon: float, delta: float) -> bool:
    """Whether canaries show less than half of what they must under the claim: they did not reach the releases as they should."""
    return found.mu + 1.96 * found.mu_error < gaussian_mu(claimed_epsilon, delta) / 2.0


def verdict(found: Estimate, lower_bound: float, claimed_epsilon: float, delta: float) -> Verdict:
    """`alarm`: the claim is refuted at 95 %. `investigate`: the estimate is above 1.1 times the claim, and chance explains less;
    or scores lie less than half as far apart as the claim lets them, beyond chance: a measurement that sees nothing is none.
    """
    if lower_bound > claimed_epsilon:
        return "alarm"
    if blind(found, claimed_epsilon, delta):
        return "investigate"
    surely = gaussian_epsilon(found.mu - 1.645 * found.mu_error, delta)  # one-sided 95 %
    return "investigate" if found.epsilon > EXCESS * claimed_epsilon and surely > claimed_epsilon else "pass"


def _largest(true_below: Callable[[float], bool], most: float) -> float:
    """The largest argument in [0, most] for which a predicate that turns from true to false once is true, from below."""
    low, high = 0.0, most
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if true_below(middle) else (low, middle)
    return low


def _check(scores: Scores, included: Coins) -> None:
    if scores.shape != included.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise AuditError(f"scores {scores.shape} and coins {included.shape}: one finite score and one coin each are needed")
    if min(int(included.sum()), int((~included).sum())) < 2:
        raise AuditError(f"{int(included.sum())} of {len(scores)} were in: at least two on each side are needed")


def _check_guesses(correct: int, guesses: int, canaries: int, confidence: float) -> None:
    if not 0 <= correct <= guesses <= canaries or not 0.0 < confidence < 1.0:
        raise AuditError(
            f"{correct} right of {guesses} guesses at {canaries} canaries, confidence {confidence}: impossible numbers"
        )


def _check_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise AuditError(f"delta {delta} outside (0, 1)")
