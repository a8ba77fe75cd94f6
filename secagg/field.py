"""Arithmetic modulo p = 2^255 - 19, written as 32 big-endian bytes; anything not below p is refused."""

from consortium.identity import Entropy

PRIME = 2**255 - 19
ELEMENT_SIZE = 32
WIDE_SIZE = 48  # 384 bits reduced modulo p: distance from uniform below 2^-128


def reduce_wide(data: bytes) -> int:
    """An element from `WIDE_SIZE` uniform bytes."""
    return int.from_bytes(data, "big") % PRIME


def random_element(entropy: Entropy) -> int:
    """A uniform element."""
    return reduce_wide(entropy(WIDE_SIZE))


def encode(value: int) -> bytes:
    """32 bytes of an element in [0, p)."""
    return value.to_bytes(ELEMENT_SIZE, "big")


def decode(data: bytes) -> int | None:
    """The element, or None where the bytes are none (wrong length, or >= p): the caller knows whom to name."""
    if len(data) != ELEMENT_SIZE:
        return None
    value = int.from_bytes(data, "big")
    return value if value < PRIME else None


def decode_row(data: bytes, count: int) -> tuple[int, ...] | None:
    """`count` elements written one after the other, or None where the bytes are not exactly that."""
    if len(data) != count * ELEMENT_SIZE:
        return None
    row = [int.from_bytes(data[at : at + ELEMENT_SIZE], "big") for at in range(0, len(data), ELEMENT_SIZE)]
    return tuple(row) if all(value < PRIME for value in row) else None
