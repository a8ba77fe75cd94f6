"""Real vectors become ring vectors whose sum over any subset of the sites never wraps, and the sum becomes real again.

Specification 4.7. Body: u32, L = `ring_scale(n)` steps for the clip. Header: u64, word 0 counts the sites, the others are Q32.
"""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from consortium.identity import Entropy
from secagg.errors import SecaggError
from secagg.masks import BodyWords, HeaderWords
from secagg.numbers import ring_scale

Q32 = 2.0**32
CHUNK_VALUES = 16 * 1024  # 128 KiB of float64: every pass over a chunk stays in a core's second-level cache
DITHER_STEP = 2.0**-16


def encode_body(
    values: NDArray[np.float32] | NDArray[np.float64], weight: float, clip: float, n: int, entropy: Entropy
) -> BodyWords:
    """floor(weight * value / clip * L + u) for each value saturated at +-clip, u uniform in [0, 1): unbiased, shape kept (1-d).

    `weight` in (0, 1], `clip` > 0. NaN or infinity in `values` -> `RANGE`.
    """
    if not 0.0 < weight <= 1.0:
        raise SecaggError("RANGE", f"weight {weight}, expected in (0, 1]: correct the plan's patient counts")
    if not (np.isfinite(clip) and clip > 0.0):
        raise SecaggError("RANGE", f"coordinate clip {clip}, expected a positive number: correct the plan")
    factor = weight * ring_scale(n) / clip
    dither = Cipher(algorithms.AES(entropy(32)), modes.CTR(bytes(16))).encryptor()
    zeros = memoryview(bytes(2 * CHUNK_VALUES))
    words = np.empty(len(values), np.uint32)
    for at in range(0, len(values), CHUNK_VALUES):
        steps = values[at : at + CHUNK_VALUES].astype(np.float64)
        if not np.isfinite(steps).all():
            raise SecaggError("RANGE", "update holds NaN or infinity: nothing is sent, lower the learning rate")
        np.clip(steps, -clip, clip, out=steps)
        steps *= factor
        steps += np.frombuffer(dither.update(zeros[: 2 * len(steps)]), "<u2") * DITHER_STEP
        np.floor(steps, out=steps)
        words[at : at + CHUNK_VALUES] = steps.astype(np.int32).view(np.uint32)  # |steps| <= L <= 2^30: exact
    return words


def decode_body(sums: NDArray[np.int64], clip: float, n: int) -> NDArray[np.float64]:
    """Weighted sum of the values over the survivors; divide by the sum of their weights for the mean."""
    return np.asarray(sums, np.float64) * (clip / ring_scale(n))


def encode_header(values: NDArray[np.float64], n: int) -> HeaderWords:
    """Word 0 = 1, then each value to the nearest 2^-32. A value not below 2^31 / n in size -> `RANGE`."""
    steps = np.rint(np.asarray(values, np.float64) * Q32)
    if not (np.abs(steps) < 2.0**63 / n).all():  # also false for NaN
        raise SecaggError("RANGE", f"header value is not a number below {2.0**31 / n:g}: nothing is sent, check the metrics")
    words = np.empty(1 + len(steps), np.uint64)
    words[0] = 1
    words[1:] = steps.astype(np.int64).astype(np.uint64)
    return words


def decode_header(sums: NDArray[np.int64]) -> tuple[int, NDArray[np.float64]]:
    """Number of sites in the sum, and the summed values."""
    return int(sums[0]), np.asarray(sums[1:], np.float64) / Q32
