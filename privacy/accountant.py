"""Epsilon of everything a patient was part of, never below the truth: the reference accountant.

Numerical composition of privacy-loss distributions (dp-accounting, "connect the dots", Doroshenko et al. 2022), pessimistic:
every rounding is upwards. Full-batch Gaussians are merged first, which is exact: k mechanisms with multipliers s_i compose
to one with 1/s^2 = sum 1/s_i^2 (Dong, Roth and Su 2019, corollary 3.3); alone they need no grid. `privacy.check` computes
the same another way.

Cost is bounded whatever is asked: a plan with hardly any noise must not exhaust a guard's memory. Where the loss is too
spread for the grid, the grid is made coarser, and at last a closed upper bound answers; both only ever raise epsilon.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from privacy.errors import AccountingError
from privacy.events import GaussianEvent, NonPrivateEvent, PoissonGaussianEvent, Spend, aggregate, as_charged

if TYPE_CHECKING:  # takes a second and a half to load: whoever counts nothing does not wait for it
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

CERTIFY_INTERVAL: Final = 1e-4
ENFORCE_INTERVAL: Final = 1e-3  # ten times faster for sampled mechanisms, at most 0.002 higher on the reference table
AGREEMENT: Final = 0.02  # what two accountants may differ by
_BUCKETS_MOST: Final = 1_000_000
_INTERVAL_MOST: Final = 0.02
_SEARCH_TOLERANCE: Final = 1e-9

# (noise multiplier, sample rate, count), ascending; full-batch Gaussians are merged into one row with rate 1
Rows = tuple[tuple[float, float, int], ...]


def epsilon(spends: Iterable[Spend], delta: float, *, interval: float = CERTIFY_INTERVAL, split_ids: Iterable[str] = ()) -> float:
    """The largest epsilon of any population at `delta`; infinity once something left without noise, 0 for nothing.

    With more than one distinct split id, train and held-out patients of different runs overlap: everything then
    composes together. Shares of a secure sum count as charged, with the noise that every opened sum holds; for what reading
    one update in the clear would cost, pass `events.as_exposed(spends)`.
    """
    _check_delta(delta)
    populations = by_population(spends, split_ids)
    return max((_population_epsilon(members, delta, interval) for members in populations), default=0.0)


def by_population(spends: Iterable[Spend], split_ids: Iterable[str] = ()) -> tuple[tuple[Spend, ...], ...]:
    """The releases that fall on the same patients, one group for each population that has any."""
    spent = aggregate(spends)
    if len(set(split_ids)) > 1:
        return (spent,) if spent else ()
    groups = (tuple(spend for spend in spent if spend.population in (side, "all")) for side in ("train", "held_out"))
    return tuple(group for group in groups if group)


def rows(spends: Iterable[Spend]) -> Rows:
    """One population's releases for an accountant; all must have noise. Deterministic: the sums are exact-rounded."""
    precisions: list[float] = []
    sampled: dict[tuple[float, float], int] = {}
    for spend in as_charged(spends):
        match spend.event:
            case GaussianEvent(noise):
                precisions.append(spend.count / noise**2)
            case PoissonGaussianEvent(noise, rate):
                sampled[noise, rate] = sampled.get((noise, rate), 0) + spend.count
            case NonPrivateEvent():
                raise AccountingError("a release without noise has no finite epsilon: do not ask an accountant for it")
    table = [(noise, rate, count) for (noise, rate), count in sampled.items()]
    if precisions:
        table.append((1.0 / math.sqrt(math.fsum(precisions)), 1.0, 1))
    return tuple(sorted(table))


def _check_delta(delta: float) -> None:
    if not (math.isfinite(delta) and 0.0 < delta < 1.0):
        raise AccountingError(f"delta {delta} outside (0, 1)")


def _population_epsilon(spends: tuple[Spend, ...], delta: float, interval: float) -> float:
    if any(isinstance(spend.event, NonPrivateEvent) for spend in spends):
        return math.inf
    return _pld_epsilon(rows(spends), delta, interval)


@lru_cache(maxsize=4096)  # the sites of a simulation ask the same question in the same round
def _pld_epsilon(table: Rows, delta: float, interval: float) -> float:
    if len(table) == 1 and table[0][1] == 1.0:
        return min(_gaussian_epsilon(table[0][0], delta), _closed_bound(table, delta))
    interval = _affordable(table, interval)
    if interval > _INTERVAL_MOST:
        return _closed_bound(table, delta)
    composed = _pld(*table[0][:2], interval).self_compose(table[0][2])
    for noise, rate, count in table[1:]:
        composed = composed.compose(_pld(noise, rate, interval).self_compose(count))
    return min(float(composed.get_epsilon_for_delta(delta)), _closed_bound(table, delta))


def _gaussian_epsilon(noise: float, delta: float) -> float:
    """Exact for full-batch releases alone (Balle and Wang 2018), a hundred times faster than a grid that ends 1e-8 above it."""
    from dp_accounting import gaussian_mechanism

    found = float(gaussian_mechanism.get_epsilon_gaussian(noise, delta, tol=_SEARCH_TOLERANCE))
    return found + _SEARCH_TOLERANCE * max(found, 1.0)  # relative too: beyond 10^7 rounding is more than the search's tolerance


@lru_cache(maxsize=16)
def _pld(noise: float, rate: float, interval: float) -> "PrivacyLossDistribution":
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=interval)


def _affordable(table: Rows, interval: float) -> float:
    """`interval`, doubled until the composed loss fits the bucket limit."""
    spread = _spread(table)
    while interval <= _INTERVAL_MOST and spread / interval > _BUCKETS_MOST:
        interval *= 2.0
    return interval


def _spread(table: Rows) -> float:
    """About how wide the composed privacy loss is, in nats: single largest loss + mean + 10 standard deviations."""
    z = np.linspace(-10.0, 10.0, 2001)
    weight = np.exp(-(z**2) / 2.0)
    weight /= weight.sum()
    largest = mean = variance = 0.0
    for noise, rate, count in table:
        # Loss of a patient that is in the sample; the mixture over "in or out" is no wider.
        inside = (1.0 / noise + 2.0 * z) / (2.0 * noise) + math.log(rate)
        outside = math.log1p(-rate) if rate < 1.0 else -math.inf
        loss = np.logaddexp(outside, inside)
        missed = np.logaddexp(outside, (2.0 * z - 1.0 / noise) / (2.0 * noise) + math.log(rate)) if rate < 1.0 else loss
        first = rate * float(weight @ loss) + (1.0 - rate) * float(weight @ missed)
        second = rate * float(weight @ loss**2) + (1.0 - rate) * float(weight @ missed**2)
        largest = max(largest, float(loss[-1] - loss[0]))
        mean += count * abs(first)
        variance += count * second
    return largest + mean + 10.0 * math.sqrt(variance)


def _closed_bound(table: Rows, delta: float) -> float:
    """Upper bound rho + 2 sqrt(rho ln(1/delta)) for rho-zCDP (Bun and Steinke 2016, prop. 1.3), sampling ignored."""
    rho = math.fsum(count / (2.0 * noise**2) for noise, _, count in table)
    return rho + 2.0 * math.sqrt(rho * math.log(1.0 / delta))
