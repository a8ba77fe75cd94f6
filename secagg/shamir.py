"""Any `threshold` shares give a value back, fewer say nothing about it (Shamir 1979, over the field of `secagg.field`)."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from consortium.identity import Entropy
from secagg.field import PRIME, random_element


def share(secret: int, threshold: int, points: Sequence[int], entropy: Entropy) -> tuple[int, ...]:
    """One share per point of a fresh polynomial of degree threshold-1 whose value at 0 is `secret`. Points are 1, 2, .."""
    coefficients = [random_element(entropy) for _ in range(threshold - 1)]
    return tuple(_evaluate(secret, coefficients, point) for point in points)


def _evaluate(secret: int, coefficients: Sequence[int], point: int) -> int:
    """Horner. Points are small, so one reduction at the end beats one per step."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value + coefficient) * point
    return (value + secret) % PRIME


@lru_cache(maxsize=8192)
def weights(points: tuple[int, ...], at: int = 0) -> tuple[int, ...]:
    """Lagrange weights: the value at `at` is the sum of weight times share. Cached, as a voter set opens many values."""
    result = []
    for own in points:
        above, below = 1, 1
        for other in points:
            if other != own:
                above = above * (at - other)
                below = below * (own - other)
        result.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(result)


def interpolate(shares: Mapping[int, int], points: tuple[int, ...], at: int = 0) -> int:
    """The value at `at` of the polynomial through `shares` (point -> share) at the given points."""
    return sum(weight * shares[point] for weight, point in zip(weights(points, at), points, strict=True)) % PRIME
