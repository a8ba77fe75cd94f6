"""A mask value becomes a keystream of its own for each section of a vector, and is added or taken off in place.

Header words are u64, body words u32, both little-endian; arithmetic wraps around, which is the ring.
"""

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from secagg import field
from secagg.derive import expand
from secagg.errors import SecaggError

HeaderWords = NDArray[np.uint64]  # (header_length,)
BodyWords = NDArray[np.uint32]  # (body_length,)

HEADER_SECTION = 0
BODY_SECTION = 1
BLOCK_SIZE = 16
FIRST_COUNTER = 2  # GCM's layout: its code path gives the very same stream
MAX_SECTION_BYTES = (2**32 - FIRST_COUNTER) * BLOCK_SIZE
CHUNK_BYTES = 128 * 1024  # stays in a core's second-level cache
_ZEROS = bytes(CHUNK_BYTES)


def mask_key(value: int, delta: bytes) -> bytes:
    """AES key of a mask value in a round."""
    return expand(field.encode(value), "mask", delta)


def keystream(key: bytes, section: int, size: int, *, first_block: int = 0) -> bytes:
    """`size` bytes of the stream of a section from block `first_block` on; for vectors and seeking readers."""
    return _stream(key, section, first_block).update(bytes(size))


def apply_masks(
    header: HeaderWords, body: BodyWords, delta: bytes, *, added: Sequence[int] = (), removed: Sequence[int] = ()
) -> None:
    """Add the masks of `added` to both sections and subtract those of `removed`, in place. Arrays must be contiguous."""
    plus = [mask_key(value, delta) for value in added]
    minus = [mask_key(value, delta) for value in removed]
    _apply(header, HEADER_SECTION, plus, minus)
    _apply(body, BODY_SECTION, plus, minus)


def _apply(words: HeaderWords | BodyWords, section: int, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    if words.nbytes > MAX_SECTION_BYTES:
        raise SecaggError("RANGE", f"section of {words.nbytes} bytes, limit is {MAX_SECTION_BYTES}: split the model")
    if not len(words):
        return
    added = [_stream(key, section) for key in plus]
    removed = [_stream(key, section) for key in minus]
    step = CHUNK_BYTES // words.itemsize
    buffer = np.empty(min(step, len(words)), words.dtype)
    for at in range(0, len(words), step):
        chunk = words[at : at + step]
        mask = buffer[: len(chunk)]
        zeros = memoryview(_ZEROS)[: chunk.nbytes]
        room = mask.data.cast("B")
        for stream in added:
            stream.update_into(zeros, room)
            np.add(chunk, mask, out=chunk)
        for stream in removed:
            stream.update_into(zeros, room)
            np.subtract(chunk, mask, out=chunk)


def _stream(key: bytes, section: int, first_block: int = 0) -> CipherContext:
    """AES-256-CTR whose first block is the section in 12 bytes and the counter in 4."""
    start = section.to_bytes(12, "big") + (FIRST_COUNTER + first_block).to_bytes(4, "big")
    return Cipher(algorithms.AES(key), modes.CTR(start)).encryptor()
