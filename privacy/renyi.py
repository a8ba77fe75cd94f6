"""The third opinion: an upper bound on epsilon by Rényi differential privacy. Looser than the other two, and for known reasons.

Gaussian: Rényi divergence a / (2 s^2) of order a (Mironov 2017, proposition 7). Sampled Gaussian: with r(x) = 1 - q +
q exp((2x - 1) / (2 s^2)), the divergence is ln E[r(x)^a] / (a - 1), x normal with standard deviation s; it bounds both
directions of "neighbour" (Mironov, Talwar and Zhang 2019, theorems 4 and 5). Divergences of one order add up over
releases (Mironov 2017, proposition 1). To epsilon: Canonne, Kamath and Steinke 2020, proposition 12 (the same as
Balle et al. 2020, theorem 21), at the order that gives least. Only numpy and scipy.

Orders: whole ones by the finite sum of section 3.3. Between them by the trapezoid rule, whose error is bounded, not estimated:
r has no zero nearer to the real line than pi s^2, and |r(x + iy)| <= r(x), so in a strip of half-width d < pi s^2
the integral of |density r^a| is at most exp(d^2 / (2 s^2)) E[r^a], and steps of h miss E[r^a] by at most a share
2 exp(d^2 / (2 s^2)) / (exp(2 pi d / h) - 1) of it (Trefethen and Weideman 2014, theorem 5.1). Where the noise is so small that
this would need many nodes, the chord between whole orders bounds from above: ln E[r^a] is convex in a.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privacy.check import Mechanism, mechanisms
from privacy.errors import AccountingError
from privacy.events import Spend

FRACTIONS: Final = tuple(1.0 + step / 20.0 for step in range(1, 200) if step % 20)  # 1.05 to 10.95
WHOLE: Final = (*range(2, 65), *(2**power // 8 * eighths for power in range(6, 14) for eighths in range(9, 17)))
ORDERS: Final = tuple(sorted((*FRACTIONS, *map(float, WHOLE))))
_NODES_IN_STD: Final = 40  # trapezoid nodes in one standard deviation
_QUADRATURE_NOISE: Final = 0.1  # least noise for which the strip makes the rule's error smaller than rounding
_MARGIN: Final = 1e-12  # added to every logarithm: more than rule, cut tails and rounding can take away
_LEFT: Final = 9.5  # standard deviations; beyond lies 1e-21, and E[r^a] >= 1

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bound:
    """Epsilon is at most `epsilon`, found at Rényi order `order`; order 0 where there was nothing to optimise."""

    epsilon: float
    order: float


def renyi_bound(spends: Iterable[Spend], delta: float, *, split_ids: Iterable[str] = ()) -> Bound:
    """The bound for the worst-off population; infinite once something left without noise. Shares count as charged."""
    if not 0.0 < delta < 1.0:
        raise AccountingError(f"delta {delta} outside (0, 1)")
    bounds = [_one_population(found, delta) for found in mechanisms(spends, split_ids)]
    return max(bounds, key=lambda bound: bound.epsilon)


def _one_population(found: tuple[Mechanism, ...] | None, delta: float) -> Bound:
    if found is None:
        return Bound(math.inf, 0.0)
    if not found:
        return Bound(0.0, 0.0)
    return to_epsilon(sum((divergences(item) for item in found), np.zeros(len(ORDERS))), delta)


def divergences(mechanism: Mechanism) -> Array:
    """Upper bounds on the Rényi divergence of all its releases together, shape (len(ORDERS),)."""
    if mechanism.rate == 1.0:
        return mechanism.count * np.array(ORDERS) / (2.0 * mechanism.noise**2)
    return mechanism.count * _sampled(mechanism.noise, mechanism.rate)


def to_epsilon(divergence: Array, delta: float, orders: Sequence[float] = ORDERS) -> Bound:
    """epsilon = divergence + ln((a - 1) / a) - (ln delta + ln a) / (a - 1), least over the orders a, never below 0."""
    a = np.array(orders)
    values = divergence + np.log1p(-1.0 / a) - (math.log(delta) + np.log(a)) / (a - 1.0)
    best = int(np.argmin(values))
    return Bound(max(0.0, float(values[best])), float(a[best]))


@lru_cache(maxsize=256)
def _sampled(noise: float, rate: float) -> Array:
    """Divergences of one sampled release, shape (len(ORDERS),)."""
    whole = {order: log_moment_whole(order, noise, rate) for order in WHOLE}
    return np.array([_log_moment(order, noise, rate, whole) / (order - 1.0) for order in ORDERS])


def _log_moment(order: float, noise: float, rate: float, whole: dict[int, float]) -> float:
    below = math.floor(order)
    if below == order:
        return whole[below]
    left, right = (0.0 if below == 1 else whole[below]), whole[below + 1]
    chord = left + (order - below) * (right - left)
    return min(chord, log_moment(order, noise, rate)) if noise >= _QUADRATURE_NOISE else chord


def log_moment_whole(order: int, noise: float, rate: float) -> float:
    """ln E[r^a] for a whole order: the sum over k of C(a, k) (1 - q)^(a - k) q^k exp(k (k - 1) / (2 s^2))."""
    from scipy.special import gammaln, logsumexp

    k = np.arange(order + 1, dtype=np.float64)
    ways = gammaln(order + 1.0) - gammaln(k + 1.0) - gammaln(order - k + 1.0)
    terms = ways + (order - k) * math.log1p(-rate) + k * math.log(rate) + k * (k - 1.0) / (2.0 * noise**2)
    return float(logsumexp(terms)) * (1.0 + _MARGIN) + order * _MARGIN  # gammaln is good to a few units of its last place


def log_moment(order: float, noise: float, rate: float) -> float:
    """ln E[r^a] for any order above 1, by the trapezoid rule.

    Cut off: on the left a mass of 1e-21 with r < 1; on the right, where r <= exp((2x - 1) / (2 s^2)), a share of at most
    q^-a P(normal > t) for t standard deviations beyond a, since E[r^a] >= q^a exp(a (a - 1) / (2 s^2)).
    """
    from scipy.special import logsumexp

    beyond = math.sqrt(2.0 * (order * math.log(1.0 / rate) + 45.0))
    low, high = -_LEFT * noise, max(order, 0.5) + beyond * noise
    x = np.linspace(low, high, math.ceil((high - low) / noise * _NODES_IN_STD) + 1)
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2.0 * x - 1.0) / (2.0 * noise**2))
    density = -((x / noise) ** 2) / 2.0 - math.log(noise * math.sqrt(2.0 * math.pi))
    value = float(logsumexp(order * ratio + density)) + math.log(x[1] - x[0])
    return max(value, 0.0) + _MARGIN * (1.0 + abs(value))
