"""The noise is Gaussian, integer, reproducible from its 32 bytes alone, and the sampler draws at the stated rate."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privacy.errors import NoiseError
from privacy.noise import gaussian_grid, poisson_mask, sensitivity_factor


def tape(seed: int):  # type: ignore[no-untyped-def]
    return lambda size: hashlib.sha256(str(seed).encode()).digest()[:size]


def test_a_million_values_have_the_stated_deviation_and_shape() -> None:
    std = 3.7 * 2**20
    noise = gaussian_grid(std, 1_000_000, tape(1))
    z = noise / std
    assert noise.dtype == np.int64
    assert z.std() == pytest.approx(1.0, abs=4 / math.sqrt(2e6))  # four standard errors
    assert z.mean() == pytest.approx(0.0, abs=4 / math.sqrt(1e6))
    assert stats.skew(z) == pytest.approx(0.0, abs=4 * math.sqrt(6 / 1e6))
    assert stats.kurtosis(z) == pytest.approx(0.0, abs=4 * math.sqrt(24 / 1e6))
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert 4.2 < np.abs(z).max() < 8.6


def test_neighbouring_values_are_unrelated() -> None:
    z = gaussian_grid(2.0**20, 200_000, tape(2)).astype(np.float64)
    for lag in (1, 2, 65_536):
        assert abs(np.corrcoef(z[:-lag], z[lag:])[0, 1]) < 4 / math.sqrt(len(z) - lag)
    assert abs(np.corrcoef(z[:65_536] ** 2, z[65_536 : 2 * 65_536] ** 2)[0, 1]) < 4 / math.sqrt(65_536)  # the two of a pair


def test_an_empty_batch_releases_exactly_the_stated_deviation() -> None:
    bits, n = 20, 200_000
    std_units = 1.5 * 2**bits * sensitivity_factor(n, bits)
    released = (np.zeros(n, dtype=np.int64) + gaussian_grid(std_units, n, tape(3))) * (0.25 / 2**bits)
    assert released.std() == pytest.approx(1.5 * 0.25 * sensitivity_factor(n, bits), rel=4 / math.sqrt(2 * n))


def test_noise_depends_on_its_key_alone() -> None:
    assert np.array_equal(gaussian_grid(2048.0, 1001, tape(4)), gaussian_grid(2048.0, 1001, tape(4)))
    assert not np.array_equal(gaussian_grid(2048.0, 1001, tape(4)), gaussian_grid(2048.0, 1001, tape(5)))


@pytest.mark.parametrize("n", [0, 1, 2, 131_071, 131_073])
def test_any_number_of_values_can_be_drawn(n: int) -> None:
    assert gaussian_grid(2048.0, n, tape(6)).shape == (n,)


@pytest.mark.parametrize("std", [0.0, 1023.0, -5000.0, math.inf, math.nan, 2.0**59])
def test_a_deviation_off_the_grid_is_refused(std: float) -> None:
    with pytest.raises(NoiseError, match="grid"):
        gaussian_grid(std, 4, tape(7))


def test_a_negative_length_and_a_broken_entropy_source_are_refused() -> None:
    with pytest.raises(NoiseError, match="0 or more"):
        gaussian_grid(2048.0, -1, tape(7))
    with pytest.raises(NoiseError, match="random source"):
        gaussian_grid(2048.0, 4, lambda size: bytes(size - 1))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_rounding_lengthens_no_patient_beyond_the_factor(scale: float) -> None:
    generator = np.random.default_rng(8)
    for n, bits in ((5, 10), (257, 20), (4096, 12)):
        for _ in range(50):
            vector = generator.normal(size=n) * scale
            vector *= 2.0**bits / np.linalg.norm(vector)  # clipped to exactly the bound, in grid steps
            assert np.linalg.norm(np.rint(vector)) <= 2.0**bits * sensitivity_factor(n, bits)


def test_the_worst_rounding_stays_below_the_factor() -> None:
    n, bits = 10_000, 8
    vector = np.full(n, 2.0**bits / math.sqrt(n))  # 2.56 each, rounds to 3
    assert 2.0**bits < np.linalg.norm(np.rint(vector)) <= 2.0**bits * sensitivity_factor(n, bits)


@pytest.mark.parametrize(("n", "bits"), [(0, 20), (5, 0), (5, 41)])
def test_an_impossible_grid_is_refused(n: int, bits: int) -> None:
    with pytest.raises(NoiseError, match="grid"):
        sensitivity_factor(n, bits)


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.9])
def test_patients_are_drawn_at_the_stated_rate_and_independently(rate: float) -> None:
    n = 400_000
    mask = poisson_mask(n, rate, tape(9))
    spread = math.sqrt(rate * (1 - rate) / n)
    assert mask.mean() == pytest.approx(rate, abs=4 * spread)
    assert (mask[1:] & mask[:-1]).mean() == pytest.approx(rate**2, abs=5 * rate / math.sqrt(n))


def test_rate_one_takes_everybody_without_asking_for_entropy() -> None:
    def refuse(size: int) -> bytes:
        raise AssertionError

    assert poisson_mask(7, 1.0, refuse).all()


@given(st.floats(1e-6, 1.0, exclude_max=True))
def test_the_threshold_is_never_above_the_rate(rate: float) -> None:
    numerator, denominator = rate.as_integer_ratio()
    assert (numerator * 2**64 // denominator) * denominator <= numerator * 2**64


def test_the_same_patients_are_drawn_whoever_else_is_there() -> None:
    assert np.array_equal(poisson_mask(10, 0.5, tape(10)), poisson_mask(11, 0.5, tape(10))[:10])


@pytest.mark.parametrize(("n", "rate"), [(-1, 0.5), (3, 0.0), (3, 1.1), (3, math.nan)])
def test_an_impossible_sample_is_refused(n: int, rate: float) -> None:
    with pytest.raises(NoiseError, match="rate in"):
        poisson_mask(n, rate, tape(11))
