"""What opens of a round: the sum over its survivors, or an error; never a part of it.

Specification 4.5, steps 4 and 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.errors import SecaggError
from secagg.masks import BodyWords, HeaderWords, apply_masks
from secagg.messages import Ballot
from secagg.numbers import ring_scale
from secagg.opening import Finding, Masks, View, open_view

HEADER_WORD = 8
BODY_WORD = 4


@dataclass(frozen=True)
class Sum:
    """The y of some sites added up in the ring, still masked: header (header_length,) and body (body_length,)."""

    header: HeaderWords = field(repr=False)
    body: BodyWords = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of one y."""
        return self.header.nbytes + self.body.nbytes

    def plus(self, y: bytes) -> "Sum":
        """This sum and one more y of exactly `size` bytes."""
        header, body = split(y, len(self.header))
        return Sum(self.header + header, self.body + body)

    def encode(self) -> bytes:
        return self.header.astype("<u8").tobytes() + self.body.astype("<u4").tobytes()


def empty_sum(header_length: int, body_length: int) -> Sum:
    return Sum(np.zeros(header_length, np.uint64), np.zeros(body_length, np.uint32))


def split(y: bytes, header_length: int) -> tuple[HeaderWords, BodyWords]:
    """Header and body words of y as sent."""
    header = np.frombuffer(y, "<u8", count=header_length)
    return header.astype(np.uint64), np.frombuffer(y, "<u4", offset=header.nbytes).astype(np.uint32)


@dataclass(frozen=True)
class Aggregate:
    """The opened sum: `header` and `body` int64, `survivors` U, `record` for sites and auditors, `findings` as evidence."""

    header: NDArray[np.int64]
    body: NDArray[np.int64]
    survivors: tuple[str, ...]
    record: bytes = field(repr=False)
    findings: tuple[Finding, ...]


def open_sum(view: View, ballots: Mapping[str, Ballot], masked: Sum) -> tuple[Sum, tuple[Finding, ...]]:
    """The unmasked sum of a view; `NOT_OPENABLE`, or `SPOILED` if it cannot be a sum of encoded updates."""
    masks = open_view(view, ballots)
    opened = _unmask(view, masks, masked)
    count, limit = len(view.uploads), len(view.uploads) * ring_scale(view.roll.n)
    signed = opened.body.view(np.int32)
    in_range = not len(signed) or (-limit <= int(signed.min()) and int(signed.max()) <= limit)
    if not len(opened.header) or int(opened.header[0]) != count or not in_range:
        raise SecaggError("SPOILED", f"the opened sum is none of {count} updates: a site masked garbage; take the next round")
    return opened, masks.findings


def _unmask(view: View, masks: Masks, masked: Sum) -> Sum:
    """Take off b of each survivor, and its mask with each site outside under the sign the survivor gave it."""
    added = [value for (site, peer), value in masks.pair_masks.items() if peer > site]
    subtracted = [value for (site, peer), value in masks.pair_masks.items() if peer < site]
    header, body = masked.header.copy(), masked.body.copy()
    apply_masks(header, body, view.delta, added=subtracted, removed=[*masks.self_masks.values(), *added])
    return Sum(header, body)
