"""How much noise a plan needs so that its worst case stays within a target epsilon: always on the safe side.

Two populations, each with the full target: train patients pay for describing and training, held-out patients for the
histograms. Describing takes a tenth of the train side's budget, measured in 1/noise^2 (which is what composes), so training
needs 5 % more noise for it. Searched with the enforcing grid, certified with the fine one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from privacy.accountant import CERTIFY_INTERVAL, ENFORCE_INTERVAL, epsilon
from privacy.errors import AccountingError
from privacy.events import NOISE_LEAST, NOISE_MOST, Event, GaussianEvent, PoissonGaussianEvent, Spend

DESCRIBE_SHARE: Final = 0.1
_RELATIVE: Final = 1e-4  # noise is found to this precision
_MARGIN: Final = 2e-3  # relative steps upwards until the fine grid certifies


@dataclass(frozen=True)
class Releases:
    """The most of each release that a plan allows; train releases include local steps. `count_noise` above 0: the patient count
    is released once, with this noise, and the others make room for it."""

    describe: int
    train: int
    evaluate: int
    sample_rate: float
    count_noise: float = 0.0


@dataclass(frozen=True)
class Noises:
    """Noise multipliers for `PrivacyTerms`. A release that never happens gets the multiplier of one that happens once."""

    train_noise: float
    describe_noise: float
    evaluate_noise: float


def calibrate(target_epsilon: float, delta: float, releases: Releases, *, describe_share: float = DESCRIBE_SHARE) -> Noises:
    """The least noises, to 0.2 %, with which the plan's worst case costs at most `target_epsilon` on either side."""
    _check(target_epsilon, delta, releases, describe_share)
    whole = _least_noise(lambda noise: (Spend(GaussianEvent(noise), "train"),), target_epsilon, delta)
    evaluate = _least_noise(
        lambda noise: (Spend(GaussianEvent(noise), "held_out", max(releases.evaluate, 1)),), target_epsilon, delta
    )
    describe = whole * math.sqrt(max(releases.describe, 1) / describe_share)
    described = (Spend(GaussianEvent(describe), "train", releases.describe),) if releases.describe else ()
    counted = (Spend(GaussianEvent(releases.count_noise), "train"),) if releases.count_noise else ()
    if counted and epsilon((*described, *counted), delta, interval=ENFORCE_INTERVAL) >= target_epsilon:
        raise AccountingError(f"count_noise {releases.count_noise} alone uses up epsilon {target_epsilon}: give it more noise")

    def train_side(noise: float) -> Sequence[Spend]:
        return (*described, *counted, Spend(_step(noise, releases.sample_rate), "train", releases.train))

    return Noises(_least_noise(train_side, target_epsilon, delta), describe, evaluate)


def _step(noise: float, sample_rate: float) -> Event:
    return GaussianEvent(noise) if sample_rate == 1.0 else PoissonGaussianEvent(noise, sample_rate)


def _check(target: float, delta: float, releases: Releases, share: float) -> None:
    if not (math.isfinite(target) and 0.01 <= target <= 1000.0):
        raise AccountingError(f"target epsilon {target} outside [0.01, 1000]: for no privacy use mode none")
    if not 0.0 < delta < 1.0:
        raise AccountingError(f"delta {delta} outside (0, 1)")
    if not 0.0 < share < 1.0:
        raise AccountingError(f"describe share {share} outside (0, 1)")
    if releases.train < 1 or min(releases.describe, releases.evaluate) < 0 or not 0.0 < releases.sample_rate <= 1.0:
        raise AccountingError(f"impossible releases {releases}: at least one training step, rate in (0, 1]")


def _least_noise(spends_at: Callable[[float], Sequence[Spend]], target: float, delta: float) -> float:
    """Bisection in the logarithm; what is returned is certified with the fine grid."""
    low, high = NOISE_LEAST * 10.0, NOISE_MOST / 10.0
    while high / low > 1.0 + _RELATIVE:
        middle = math.sqrt(low * high)
        if epsilon(spends_at(middle), delta, interval=ENFORCE_INTERVAL) <= target:
            high = middle
        else:
            low = middle
    while epsilon(spends_at(high), delta, interval=CERTIFY_INTERVAL) > target:
        high *= 1.0 + _MARGIN
    return high
