"""A mask value becomes a keystream of its own for each section of a vector, and is added or taken off in place, block by block.

Header words are u64, body words u32 or u16 as the plan's ring says, all little-endian; arithmetic wraps around, which is the
ring. A vector is only ever touched in blocks: beside it, a masking needs less than 6 MiB for each thread.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from consortium.plan import RING_BITS
from secagg import field as element
from secagg.derive import expand
from secagg.errors import SecaggError

HeaderWords: TypeAlias = NDArray[np.uint64]  # (header_length,)
BodyWords: TypeAlias = NDArray[np.unsignedinteger]  # (body_length,) of u32 or u16
Words: TypeAlias = NDArray[np.unsignedinteger]

HEADER_SECTION = 0
BODY_SECTION = 1
FIRST_COUNTER = 2  # GCM's layout: its code path gives the very same stream
MAX_SECTION_BYTES = (2**32 - FIRST_COUNTER) * 16  # AES blocks
CHUNK_BYTES = 512 * 1024  # stays in a core's second-level cache, and is long enough for two threads not to wait for the interpreter
BLOCK_BYTES = 4 * CHUNK_BYTES  # what threads hand over to each other
_ZEROS = bytes(CHUNK_BYTES)

Step: TypeAlias = Callable[[int, Words], None]  # (first word's place, a block of words)


def body_type(ring_bits: int) -> np.dtype[np.unsignedinteger]:
    """The type of a body word; `RANGE` for a ring that this protocol has not."""
    if ring_bits not in RING_BITS:
        raise SecaggError("RANGE", f"ring of {ring_bits} bits, expected one of {RING_BITS}: correct the plan")
    return np.dtype(f"<u{ring_bits // 8}")


def mask_key(value: int, delta: bytes) -> bytes:
    """AES key of a mask value in a round."""
    return expand(element.encode(value), "mask", delta)


def keystream(key: bytes, section: int, size: int, *, first_block: int = 0) -> bytes:
    """`size` bytes of the stream of a section from block `first_block` on: AES-256-CTR as specified, for readers that seek."""
    start = section.to_bytes(12, "big") + (FIRST_COUNTER + first_block).to_bytes(4, "big")
    return Cipher(algorithms.AES(key), modes.CTR(start)).encryptor().update(bytes(size))


def stream(key: bytes, section: int) -> CipherContext:
    """The stream of a section from its first block. Encrypting zeros by GCM gives the same bytes as CTR, up to twice as fast."""
    return Cipher(algorithms.AES(key), modes.GCM(section.to_bytes(12, "big"))).encryptor()


@dataclass(frozen=True)
class MaskKeys:
    """AES keys of the masks to add and of those to take off."""

    added: tuple[bytes, ...] = field(repr=False)
    removed: tuple[bytes, ...] = field(repr=False, default=())

    @staticmethod
    def of(delta: bytes, *, added: Sequence[int] = (), removed: Sequence[int] = ()) -> "MaskKeys":
        return MaskKeys(tuple(mask_key(value, delta) for value in added), tuple(mask_key(value, delta) for value in removed))

    def __len__(self) -> int:
        return len(self.added) + len(self.removed)

    def split(self, sizes: Sequence[int]) -> Iterator["MaskKeys"]:
        """Consecutive parts of these sizes."""
        signed = [(key, True) for key in self.added] + [(key, False) for key in self.removed]
        at = 0
        for size in sizes:
            part = signed[at : at + size]
            yield MaskKeys(tuple(key for key, plus in part if plus), tuple(key for key, plus in part if not plus))
            at += size


def apply_masks(header: HeaderWords, body: BodyWords, keys: MaskKeys, *, threads: int = 1) -> None:
    """Add and take off masks in both sections, in place. Arrays must be contiguous."""
    mask_section(header, HEADER_SECTION, keys)
    mask_section(body, BODY_SECTION, keys, threads=threads)


def mask_section(
    words: Words,
    section: int,
    keys: MaskKeys,
    *,
    before: Step | None = None,
    after: Step | None = None,
    threads: int = 1,
) -> None:
    """Mask a section in place, in blocks from first to last: `before` may write a block, `after` reads it once it is masked.

    With more than one thread the keystreams are shared out evenly, and `after` runs beside the masking, in order.
    """
    if words.nbytes > MAX_SECTION_BYTES:
        raise SecaggError("RANGE", f"section of {words.nbytes} bytes, limit is {MAX_SECTION_BYTES}: split the model")
    threads = max(1, min(threads, len(keys))) if words.nbytes > BLOCK_BYTES else 1
    own, *others = (_Streams(part, section) for part in keys.split(_shares(len(keys), threads)))
    with ExitStack() as stack:
        ahead = [_Ahead(streams, words, stack) for streams in others]
        behind = _Behind(after, stack if threads > 1 else None)
        for at, block in _blocks(words):
            if before is not None:
                before(at, block)
            own.apply(block)
            for other in ahead:
                np.add(block, other.take(len(block)), out=block)
            behind.step(at, block)
        behind.finish()


def _shares(streams: int, threads: int) -> list[int]:
    """How many keystreams each thread gets, this one first."""
    return [streams // threads + (place < streams % threads) for place in range(threads)]


def _blocks(words: Words) -> Iterator[tuple[int, Words]]:
    step = BLOCK_BYTES // words.itemsize
    for at in range(0, len(words), step):
        yield at, words[at : at + step]


class _Streams:
    """Keystreams of one section, consumed in order."""

    def __init__(self, keys: MaskKeys, section: int) -> None:
        self._added = [stream(key, section) for key in keys.added]
        self._removed = [stream(key, section) for key in keys.removed]
        self._buffer = bytearray(CHUNK_BYTES)

    def apply(self, words: Words) -> None:
        """Add and subtract the next bytes of every stream."""
        step = CHUNK_BYTES // words.itemsize
        for at in range(0, len(words), step):
            chunk = words[at : at + step]
            zeros, room = memoryview(_ZEROS)[: chunk.nbytes], memoryview(self._buffer)[: chunk.nbytes]
            mask = np.frombuffer(room, chunk.dtype)
            for one in self._added:
                one.update_into(zeros, room)
                np.add(chunk, mask, out=chunk)
            for one in self._removed:
                one.update_into(zeros, room)
                np.subtract(chunk, mask, out=chunk)


class _Ahead:
    """Sums keystreams block by block in a thread of its own, one block ahead of who takes them."""

    def __init__(self, streams: _Streams, words: Words, stack: ExitStack) -> None:
        self._streams = streams
        self._left = len(words)
        step = BLOCK_BYTES // words.itemsize
        self._rooms = [np.empty(step, words.dtype), np.empty(step, words.dtype)]
        self._pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="masks"))
        self._next = self._begin()

    def take(self, length: int) -> Words:
        """The sum over the next block, valid until the next call."""
        found = self._next.result()
        self._next = self._begin()
        return found[:length]

    def _begin(self) -> "Future[Words]":
        self._rooms.reverse()
        length = min(self._left, len(self._rooms[0]))
        self._left -= length
        return self._pool.submit(self._sum, self._rooms[0][:length])

    def _sum(self, room: Words) -> Words:
        room.fill(0)
        self._streams.apply(room)
        return room


class _Behind:
    """Runs a step over finished blocks in order: at once, or in a thread that follows."""

    def __init__(self, step: Step | None, stack: ExitStack | None) -> None:
        self._run = step
        self._begun: list[Future[None]] = []
        self._pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="digest")) if step and stack else None

    def step(self, at: int, block: Words) -> None:
        if self._run is None:
            return
        if self._pool is None:
            self._run(at, block)
        else:
            self._begun.append(self._pool.submit(self._run, at, block))

    def finish(self) -> None:
        """Wait for every block; the step's own error comes out here."""
        for one in self._begun:
            one.result()
