"""Noise and samples that nobody outside can predict or undo: AES-256-CTR, 53-bit uniforms, an integer grid.

Why a grid: float noise added to a float sum leaves a support that depends on the sum (Mironov 2012), so one coordinate can
prove a value. Here the clipped sum is an integer vector before the noise comes, and the noise is an integer vector.
Why our own generator: no numpy or torch generator is cryptographic. `entropy` is `os.urandom` in programs, a tape in tests.

Truncation: 53-bit Box-Muller never leaves +-8.58 standard deviations; a real Gaussian does with probability 1e-17 a value.
For 1e7 values and 1e3 rounds that adds 1e-7 to delta; for the models of this product less than 1e-11.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from privacy.errors import NoiseError

Entropy = Callable[[int], bytes]  # os.urandom in programs, a recorded tape in tests

KEY_SIZE: Final = 32
GRID_NAME: Final = "aes256ctr-boxmuller53-grid/1"  # what a ledger entry calls this generator
SAMPLER_NAME: Final = "aes256ctr-poisson64/1"
STD_LEAST: Final = 2.0**10  # below, a sum of several sites' rounded noises is measurably not a Gaussian (exp(-2 pi^2 s^2))
STD_MOST: Final = 2.0**58  # 8.58 of these still fit an int64
STDS_MOST: Final = 8.6  # no value is further out than this many standard deviations: sqrt(2 * 53 * ln 2) = 8.572
_CHUNK: Final = 2**16  # pairs drawn at once: the working set stays in the cache


def sensitivity_factor(n_parameters: int, grid_bits: int) -> float:
    """How much rounding to the grid can lengthen one patient's clipped vector, as a factor on the clip.

    Each of P coordinates moves by at most half a grid step of clip / 2^grid_bits, so the norm grows by at most
    sqrt(P)/2 steps; a whole sqrt(P) is charged, which also covers the float rounding of the clip itself.
    """
    if n_parameters < 1 or not 1 <= grid_bits <= 40:
        raise NoiseError(f"{n_parameters} parameters on a grid of {grid_bits} bits: need at least 1, and 1 to 40 bits")
    return float(1.0 + math.sqrt(n_parameters) / 2.0**grid_bits)


def gaussian_grid(std_units: float, n: int, entropy: Entropy) -> NDArray[np.int64]:
    """Integer Gaussian noise, shape (n,), standard deviation `std_units` in grid steps.

    `std_units` = noise_multiplier * 2^grid_bits * `sensitivity_factor`. Draws exactly 32 bytes from `entropy`, once.
    """
    if not (math.isfinite(std_units) and STD_LEAST <= std_units <= STD_MOST):
        raise NoiseError(f"noise of {std_units} grid steps outside [{STD_LEAST:.0f}, 2^58]: choose more or fewer grid bits")
    if n < 0:
        raise NoiseError(f"noise for {n} values: must be 0 or more")
    stream = _Stream(entropy)
    noise = np.empty(2 * ((n + 1) // 2), dtype=np.int64)
    for start in range(0, len(noise), 2 * _CHUNK):
        part = noise[start : start + 2 * _CHUNK]
        part[:] = np.rint(_normal_pairs(stream.words(len(part))) * std_units)
    return noise[:n]


def _normal_pairs(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Standard normals, shape of `words` (an even number), by Box and Muller 1958, two from two words."""
    half = len(words) // 2
    top = (words >> np.uint64(11)).astype(np.float64)  # 53 bits, exact in a float64
    radius = np.sqrt(-2.0 * np.log((top[:half] + 1.0) * 2.0**-53))  # uniform on (0, 1]: the logarithm is finite
    angle = top[half:] * (2.0 * math.pi * 2.0**-53)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])


def poisson_mask(n: int, rate: float, entropy: Entropy) -> NDArray[np.bool_]:
    """Who takes part in a step, shape (n,): each patient independently with probability `rate`, to 2^-64.

    The threshold is floor(rate * 2^64), so the true rate is never above the stated one. Rate 1 takes everybody.
    """
    if n < 0 or not 0.0 < rate <= 1.0:
        raise NoiseError(f"sample of {n} patients at rate {rate}: need n >= 0 and a rate in (0, 1]")
    if rate == 1.0:
        return np.ones(n, dtype=np.bool_)
    numerator, denominator = rate.as_integer_ratio()
    threshold = numerator * 2**64 // denominator
    return _Stream(entropy).words(n) < np.uint64(threshold)


class _Stream:
    """The AES-256-CTR key stream of one fresh key; the key is used for one call and forgotten."""

    def __init__(self, entropy: Entropy) -> None:
        key = entropy(KEY_SIZE)
        if len(key) != KEY_SIZE:
            raise NoiseError(f"entropy gave {len(key)} bytes, asked for {KEY_SIZE}: the system's random source is broken")
        # The key is fresh for every call, so a zero first block never repeats under one key.
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def words(self, n: int) -> NDArray[np.uint64]:
        """The next n 64-bit little-endian words."""
        return np.frombuffer(self._cipher.update(bytes(8 * n)), dtype="<u8").astype(np.uint64, copy=False)
