"""Real vectors become ring vectors whose sum over any subset of the sites never wraps, and the sum becomes real again.

Specification 4.7. Body: u32 or u16, L = `ring_scale` steps for the clip. Header: u64, word 0 counts the sites, the others are Q32.
Vectors that are whole steps already (4.8: sums and shares of noise on one integer grid) pass as they are, unrounded and unweighted:
rounding each share would not be post-processing of the sum.
"""

import numpy as np
from numpy.typing import NDArray

from consortium.identity import Entropy
from secagg.errors import SecaggError
from secagg.masks import BodyWords, HeaderWords, body_type, stream
from secagg.numbers import ring_scale

Q32 = 2.0**32
CHUNK_VALUES = 32 * 1024  # 256 KiB of float64: every pass over a chunk stays in a core's second-level cache
DITHER = 2.0**16  # dither values in one step of the ring
_DITHER_SECTION = 0  # of a key that is used for nothing else
# A double this large has a last place worth DITHER: adding it rounds to whole steps, which then stand in its lowest bits.
_ROUND_TO_STEPS = 1.5 * 2.0**52 * DITHER

Steps = NDArray[np.int64]  # (body_length,)
Values = NDArray[np.float32] | NDArray[np.float64]  # (body_length,)


class Update:
    """A site's weighted update, encoded while it is masked: no encoded copy of it exists beside the masked one.

    Each value, saturated at +-clip, becomes weight * value / clip * L steps, rounded up or down by a dither uniform over one
    step: unbiased to 2^-16 of a step. `weight` in (0, 1], `clip` > 0, n sites. Blocks are written once, in ascending order.
    """

    def __init__(self, values: Values, *, weight: float, clip: float, n: int, entropy: Entropy, ring_bits: int = 32) -> None:
        if not 0.0 < weight <= 1.0:
            raise SecaggError("RANGE", f"weight {weight}, expected in (0, 1]: correct the plan's patient counts")
        if not (np.isfinite(clip) and clip > 0.0):
            raise SecaggError("RANGE", f"coordinate clip {clip}, expected a positive number: correct the plan")
        self.word_type = body_type(ring_bits)
        self._values = values
        self._clip = clip
        self._factor = weight * ring_scale(n, ring_bits) / clip * DITHER
        self._dither = stream(entropy(32), _DITHER_SECTION)
        self._zeros = bytes(2 * CHUNK_VALUES)
        self._random = bytearray(2 * CHUNK_VALUES)
        self._steps = np.empty(CHUNK_VALUES)
        self._offsets = np.empty(CHUNK_VALUES)

    def __len__(self) -> int:
        return len(self._values)

    def write(self, at: int, words: BodyWords) -> None:
        """Encode the values from place `at` on into `words`. NaN or infinity -> `RANGE`."""
        for start in range(0, len(words), CHUNK_VALUES):
            room = words[start : start + CHUNK_VALUES]
            self._write_chunk(self._values[at + start : at + start + len(room)], room)

    def _write_chunk(self, values: Values, words: BodyWords) -> None:
        steps, offsets = self._steps[: len(values)], self._offsets[: len(values)]
        low, high = values.min(), values.max()  # NaN passes through both
        np.copyto(steps, values)
        if not (-self._clip <= low and high <= self._clip):
            if not np.isfinite(steps).all():
                raise SecaggError("RANGE", "update holds NaN or infinity: nothing is sent, lower the learning rate")
            np.clip(steps, -self._clip, self._clip, out=steps)
        np.multiply(steps, self._factor, out=steps)
        size = 2 * len(values)
        self._dither.update_into(memoryview(self._zeros)[:size], memoryview(self._random)[:size])
        np.copyto(offsets, np.frombuffer(self._random, "<i2", len(values)))
        np.add(steps, offsets, out=steps)
        np.add(steps, _ROUND_TO_STEPS, out=steps)
        np.copyto(words, steps.view(np.int64), casting="unsafe")  # the lowest 32 or 16 bits, which are the ring


class WholeSteps:
    """A site's integer vector on its way into the ring: |step| <= L, checked once, before anything is masked."""

    def __init__(self, steps: Steps, *, n: int, ring_bits: int = 32) -> None:
        limit = ring_scale(n, ring_bits)
        if steps.dtype != np.int64 or (len(steps) and not -limit <= int(steps.min()) <= int(steps.max()) <= limit):
            raise SecaggError("RANGE", f"update holds more than {limit} steps: nothing is sent, plan with fewer grid bits")
        self.word_type = body_type(ring_bits)
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    def write(self, at: int, words: BodyWords) -> None:
        """The steps from place `at` on, as the ring's two's complement, into `words`."""
        np.copyto(words, self._steps[at : at + len(words)], casting="unsafe")


Encoded = Update | WholeSteps


def encode_body(values: Values, *, weight: float, clip: float, n: int, entropy: Entropy, ring_bits: int = 32) -> BodyWords:
    """The words of a whole `Update`, (len(values),)."""
    update = Update(values, weight=weight, clip=clip, n=n, entropy=entropy, ring_bits=ring_bits)
    words: BodyWords = np.empty(len(update), update.word_type)
    update.write(0, words)
    return words


def decode_body(sums: NDArray[np.signedinteger], clip: float, n: int, *, ring_bits: int = 32) -> NDArray[np.float64]:
    """Weighted sum of the values over the survivors; divide by the sum of their weights for the mean."""
    return np.asarray(np.multiply(sums, clip / ring_scale(n, ring_bits), dtype=np.float64))


def decode_steps(sums: NDArray[np.signedinteger], step: float) -> NDArray[np.float64]:
    """Sum over the survivors of vectors that were `WholeSteps` of this size."""
    return np.asarray(np.multiply(sums, step, dtype=np.float64))


def encode_header(values: NDArray[np.float64], n: int) -> HeaderWords:
    """Word 0 = 1, then each value to the nearest 2^-32. A value not below 2^31 / n in size -> `RANGE`."""
    return _header_words(np.rint(np.asarray(values, np.float64) * Q32), n)


def encode_header_steps(steps: Steps, n: int) -> HeaderWords:
    """Word 0 = 1, then each integer as it is; of any size that `encode_header` takes, in units of 2^-32."""
    if steps.dtype != np.int64:
        raise SecaggError("RANGE", f"header of {steps.dtype}, expected int64: whole steps only")
    return _header_words(steps, n)


def _header_words(steps: NDArray[np.float64] | Steps, n: int) -> HeaderWords:
    if not (np.abs(steps.astype(np.float64)) < 2.0**63 / n).all():  # also false for NaN
        raise SecaggError("RANGE", f"header value is not a number below {2.0**31 / n:g}: nothing is sent, check the metrics")
    words = np.empty(1 + len(steps), np.uint64)
    words[0] = 1
    words[1:] = steps.astype(np.int64).astype(np.uint64)
    return words


def decode_header(sums: NDArray[np.int64]) -> tuple[int, NDArray[np.float64]]:
    """Number of sites in the sum, and the summed values."""
    return int(sums[0]), np.asarray(sums[1:], np.float64) / Q32


def decode_header_steps(sums: NDArray[np.int64], steps: NDArray[np.float64]) -> tuple[int, NDArray[np.float64]]:
    """Number of sites in the sum, and the summed values, each in units of its own step; `steps` (n_values,)."""
    return int(sums[0]), np.asarray(sums[1:] * steps, np.float64)
