"""The second opinion: epsilon as a bracket [lower, upper], by code that shares nothing with the reference accountant.

Full-batch Gaussians have a closed form (Balle and Wang 2018, theorem 8). Sampled ones are composed by FFT of a discretised
privacy loss with the error bound of Gopi, Lee and Wutschitz 2021 (section 5 and lemma 5.4): rounding every loss to the
nearest grid point and shifting the grid so that the mean stays exact leaves residuals of mean 0 and width h, so the sum
of T of them strays beyond h sqrt(T/2 log(2/eta)) with probability at most eta (Hoeffding). Only numpy and scipy.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privacy.errors import AccountingError
from privacy.events import (
    GaussianEvent,
    NonPrivateEvent,
    PoissonGaussianEvent,
    SharedGaussianEvent,
    SharedPoissonGaussianEvent,
    Spend,
    aggregate,
)

HALF_WIDTH: Final = 0.004  # aimed at; twice as wide where the grid would be large, wider where its limit forces it
_GRID_LARGE: Final = 2**20
_GRID_MOST: Final = 2**22
_Z: Final = 9.5  # standard deviations kept of one loss; beyond lies 2e-21
_NEGLIGIBLE: Final = 1e-6  # share of delta that rounding and each window tail may take
_FFT_NOISE: Final = 1e-11  # mass that float64 transforms of 2^22 points may misplace, with room

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bracket:
    """The true epsilon lies in [lower, upper]; `lower` is 0 and `upper` infinite where nothing is known."""

    lower: float
    upper: float

    @property
    def middle(self) -> float:
        return (self.lower + self.upper) / 2.0

    def distance(self, claimed: float) -> float:
        """How far a claimed epsilon lies outside the bracket; 0 inside."""
        if math.isinf(claimed) or math.isinf(self.upper):
            return 0.0 if claimed == self.lower == self.upper else math.inf
        return max(self.lower - claimed, claimed - self.upper, 0.0)


@dataclass(frozen=True)
class Mechanism:
    """`count` releases with noise multiplier `noise`; rate 1 is the merged full-batch Gaussian."""

    noise: float
    rate: float
    count: int


def gaussian_delta(mu: float, epsilon: float) -> float:
    """delta(epsilon) of a Gaussian whose means differ by `mu` standard deviations.

    Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu); the second term in logarithms, so that e^eps cannot overflow.
    """
    from scipy.special import log_ndtr, ndtr  # scipy takes longer to load than most commands take: only where it computes

    return float(ndtr(mu / 2.0 - epsilon / mu) - math.exp(epsilon + log_ndtr(-mu / 2.0 - epsilon / mu)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The smallest epsilon >= 0 with `gaussian_delta(mu, epsilon)` <= delta."""
    from scipy.optimize import brentq

    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    high = mu**2 / 2.0 + mu * math.sqrt(2.0 * math.log(1.0 / delta))
    return float(brentq(lambda value: gaussian_delta(mu, value) - delta, 0.0, high, xtol=1e-12, rtol=1e-12))


def bracket(spends: Iterable[Spend], delta: float, *, split_ids: Iterable[str] = ()) -> Bracket:
    """Epsilon at `delta` between two bounds, with the population rule of `accountant.epsilon`, written anew.

    Shares of a secure sum count as charged; for what reading one update would cost, pass `events.as_exposed(spends)`.
    """
    if not 0.0 < delta < 1.0:
        raise AccountingError(f"delta {delta} outside (0, 1)")
    answers = [_one_population(found, delta) for found in mechanisms(spends, split_ids)]
    return Bracket(max(answer.lower for answer in answers), max(answer.upper for answer in answers))


def mechanisms(spends: Iterable[Spend], split_ids: Iterable[str] = ()) -> tuple[tuple[Mechanism, ...] | None, ...]:
    """What fell on each population's patients, as charged; None where something left without noise.

    Equal sampled releases are counted together, and all full-batch ones are one mechanism, with rate 1, at the end.
    """
    spent = aggregate(spends)
    sides = (("train", "held_out", "all"),) if len(set(split_ids)) > 1 else (("train", "all"), ("held_out", "all"))
    return tuple(_merged([spend for spend in spent if spend.population in side]) for side in sides)


def _merged(spends: Sequence[Spend]) -> tuple[Mechanism, ...] | None:
    precision, counts = 0.0, dict[tuple[float, float], int]()
    for spend in spends:
        match spend.event:
            case NonPrivateEvent():
                return None
            case GaussianEvent(noise):
                precision += spend.count / noise**2
            case SharedGaussianEvent(noise, contributors):  # equal shares: so many times the variance
                precision += spend.count / (contributors * noise**2)
            case PoissonGaussianEvent(noise, rate):
                counts[noise, rate] = counts.get((noise, rate), 0) + spend.count
            case SharedPoissonGaussianEvent(noise, rate, contributors):
                whole = math.sqrt(contributors) * noise
                counts[whole, rate] = counts.get((whole, rate), 0) + spend.count
    sampled = [Mechanism(noise, rate, count) for (noise, rate), count in sorted(counts.items())]
    return (*sampled, *([Mechanism(1.0 / math.sqrt(precision), 1.0, 1)] if precision else []))


def _one_population(found: tuple[Mechanism, ...] | None, delta: float) -> Bracket:
    if found is None:
        return Bracket(math.inf, math.inf)
    if any(mechanism.rate < 1.0 for mechanism in found):
        return _sampled(found, delta)
    exact = gaussian_epsilon(1.0 / found[0].noise, delta) if found else 0.0
    return Bracket(exact, exact)


@lru_cache(maxsize=1024)
def _sampled(found: tuple[Mechanism, ...], delta: float) -> Bracket:
    both = [_composed(found, delta, direction) for direction in (_removal, _addition)]
    return Bracket(max(item.lower for item in both), max(item.upper for item in both))


@dataclass(frozen=True)
class _Loss:
    """A privacy loss as a monotone function of a normal mixture: `at(x)`, and P(loss <= l) as `below(l)`."""

    at: Callable[[Array], Array]
    below: Callable[[Array], Array]
    density: Callable[[Array], Array]
    low: float
    high: float


def _log_ratio(mechanism: Mechanism, x: Array) -> Array:
    """ln(1 - q + q exp((2x - 1) / (2 s^2))): the mixture's density over the plain normal's at x."""
    inside = (2.0 * x - 1.0) / (2.0 * mechanism.noise**2) + math.log(mechanism.rate)
    return np.logaddexp(math.log1p(-mechanism.rate), inside) if mechanism.rate < 1.0 else inside


def _point(mechanism: Mechanism, loss: Array) -> Array:
    """The x with `_log_ratio(x)` = loss; minus infinity below the least loss ln(1 - q)."""
    rest = np.expm1(np.minimum(loss, 700.0)) + mechanism.rate  # e^loss - (1 - q)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.where(loss > 700.0, loss, np.log(np.maximum(rest, 0.0)))
    return mechanism.noise**2 * (logarithm - math.log(mechanism.rate)) + 0.5


def _normal(x: Array, mean: float, std: float) -> Array:
    return np.asarray(np.exp(-(((x - mean) / std) ** 2) / 2.0) / (std * math.sqrt(2.0 * math.pi)))


def _removal(mechanism: Mechanism) -> _Loss:
    """The patient was there: x from the mixture, loss = ln(mixture / normal), rising in x."""
    from scipy.special import ndtr

    q, s = mechanism.rate, mechanism.noise

    def below(loss: Array) -> Array:
        x = _point(mechanism, loss)
        return np.asarray((1.0 - q) * ndtr(x / s) + q * ndtr((x - 1.0) / s))

    return _Loss(
        lambda x: _log_ratio(mechanism, x),
        below,
        lambda x: (1.0 - q) * _normal(x, 0.0, s) + q * _normal(x, 1.0, s),
        -_Z * s,
        1.0 + _Z * s,
    )


def _addition(mechanism: Mechanism) -> _Loss:
    """The patient was not there: x from the normal, loss = ln(normal / mixture), falling in x."""
    from scipy.special import ndtr

    s = mechanism.noise

    def below(loss: Array) -> Array:
        return np.asarray(ndtr(-_point(mechanism, -loss) / s))

    return _Loss(lambda x: -_log_ratio(mechanism, x), below, lambda x: _normal(x, 0.0, s), -_Z * s, _Z * s)


def _composed(found: tuple[Mechanism, ...], delta: float, direction: Callable[[Mechanism], _Loss]) -> Bracket:
    """The bracket for one direction of "neighbour" (patient removed, or added)."""
    from scipy.fft import next_fast_len
    from scipy.special import ndtr

    losses = [(direction(item), item.count) for item in found]
    steps = sum(count for _, count in losses)
    eta = delta * _NEGLIGIBLE
    factor = math.sqrt(steps / 2.0 * math.log(2.0 / eta))
    reach = _reach(losses, eta)
    width = min(max(HALF_WIDTH / factor, 2.0 * reach / _GRID_LARGE), 2.0 * HALF_WIDTH / factor)
    width = max(width, 2.0 * reach / _GRID_MOST)
    reach += steps * width / 2.0  # the mean of a step need not lie on a grid point
    first, mass = _convolved(losses, width, 2 * next_fast_len(math.ceil(reach / width), real=True))
    slack = 3.0 * eta + steps * 4.0 * float(ndtr(-_Z)) + _FFT_NOISE  # rounding and both window tails; one loss's tails; FFT
    return Bracket(
        max(0.0, _epsilon_of(first, width, mass, delta + slack) - width * factor),
        _epsilon_of(first, width, mass, delta - slack) + width * factor,
    )


def _quadrature(loss: _Loss) -> tuple[Array, Array]:
    """Nodes' losses and their probabilities: the trapezoid rule converges geometrically for a normal mixture."""
    x = np.linspace(loss.low, loss.high, 20_001)
    weight = loss.density(x)
    return loss.at(x), weight / weight.sum()


def _reach(losses: Sequence[tuple[_Loss, int]], eta: float) -> float:
    """How far the composed loss strays from its mean, except with probability eta on either side (Chernoff)."""
    tables = [(*_quadrature(loss), count) for loss, count in losses]
    mean = sum(count * float(weight @ value) for value, weight, count in tables)
    variance = sum(count * float(weight @ (value - weight @ value) ** 2) for value, weight, count in tables)
    rate = math.sqrt(2.0 * math.log(1.0 / eta) / variance)
    tails = [_chernoff(tables, mean, sign * rate, eta) for sign in (1.0, -1.0)]
    widest_single = max(float(value.max() - value.min()) for value, _, _ in tables)
    return max(*tails, widest_single) * 1.01 + 1e-3


def _chernoff(tables: Sequence[tuple[Array, Array, int]], mean: float, rate: float, eta: float) -> float:
    """The least w with P(+-(sum - mean) >= w) <= eta, over a ladder of exponents around the Gaussian's best, `rate`."""
    best = math.inf
    for exponent in rate * np.geomspace(0.02, 4.0, 24):
        growth = 0.0
        for value, weight, count in tables:
            tilted = exponent * value + np.log(np.maximum(weight, 1e-300))
            top = float(tilted.max())
            growth += count * (top + math.log(float(np.exp(tilted - top).sum())))
        best = min(best, (growth - exponent * mean + math.log(1.0 / eta)) / abs(exponent))
    return float(best)


def _convolved(losses: Sequence[tuple[_Loss, int]], width: float, size: int) -> tuple[float, Array]:
    """The composed loss on `size` grid points, `width` apart: of those from just below 0 upwards the first, and all their masses.

    Circular: what leaves the window on one side comes in at the other, a mass that `_reach` bounds.
    """
    spectrum: NDArray[np.complex128] | None = None
    middle = 0.0
    for loss, count in losses:
        value, weight = _quadrature(loss)
        first, last = math.floor(value.min() / width), math.ceil(value.max() / width)
        points = np.arange(first, last + 1)
        mass = np.diff(loss.below((np.arange(first, last + 2) - 0.5) * width))
        mass /= mass.sum()
        shift = float(weight @ value) - float(mass @ points) * width  # what rounding did to the mean
        anchor = round(float(mass @ points))  # this grid point goes to the origin, so that the sum stays in the window
        power = _power((points - anchor) % size, mass, size, count)
        spectrum = power if spectrum is None else np.multiply(spectrum, power, out=spectrum)
        middle += count * (anchor * width + shift)
    assert spectrum is not None  # noqa: S101 - nobody asks about no mechanism at all
    total = np.fft.irfft(spectrum, size)
    del spectrum, power  # before the next array of this size is made
    # A loss below 0 moves no epsilon: only what lies above, and one point more, is kept.
    least = min(max(math.floor(-middle / width), -(size // 2)), size // 2 - 2)
    kept = np.concatenate([total[least:], total[: size // 2]]) if least < 0 else total[least : size // 2]
    return middle + width * least, np.maximum(kept, 0.0, out=kept)


def _power(points: NDArray[np.intp], mass: Array, size: int, count: int) -> NDArray[np.complex128]:
    """The spectrum of `count` independent losses, computed in place: these arrays are the largest that this module holds."""
    folded = np.bincount(points, weights=mass, minlength=size).astype(np.float64, copy=False)
    transformed = np.fft.rfft(folded)
    return np.power(transformed, count, out=transformed)


def _epsilon_of(first: float, width: float, mass: Array, delta: float) -> float:
    """The epsilon where delta(eps) = sum over losses l > eps of mass(l) (1 - e^(eps - l)) comes down to `delta`, at least 0."""
    if delta <= 0.0:
        return math.inf
    kept = np.arange(len(mass), dtype=np.float64)
    kept *= -width
    np.negative(np.expm1(kept, out=kept), out=kept)  # 1 - e^(-k h) for the k-th point above eps

    def delta_at(index: int) -> float:
        return float(mass[index:] @ kept[: len(mass) - index])

    low, high = 0, len(mass) - 1  # delta_at falls with the index, and is 0 at the last point
    while low < high:
        between = (low + high) // 2
        low, high = (low, between) if delta_at(between) <= delta else (between + 1, high)
    above = float(mass[high:].sum())
    # Below the loss at `high`, down to the next point: delta(eps) = above - e^(eps - loss) (above - delta_at(high)).
    rest = above - delta_at(high)
    if above <= delta or rest <= 0.0:
        return max(0.0, first + width * max(high - 1, 0))
    return max(0.0, first + width * high + math.log((above - delta) / rest))
