"""What opens of a round: the sum over its survivors, or an error; never a part of it.

Specification 4.5, steps 4 and 5.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from consortium.canonical import Bytes
from secagg.errors import SecaggError
from secagg.masks import BODY_SECTION, HEADER_SECTION, MaskKeys, body_type, mask_section
from secagg.messages import Ballot
from secagg.numbers import ring_scale
from secagg.opening import Finding, Masks, View, open_view

HEADER_WORD = 8  # bytes


class Total:
    """The y of some sites added up in the ring, and later, in the same memory, the sum without masks.

    The one thing of a coordinator that changes in place: a model's size is held once, however many sites there are.
    """

    def __init__(self, header_length: int, body_length: int, ring_bits: int) -> None:
        self._word = body_type(ring_bits)
        self._header_size = header_length * HEADER_WORD
        self._size = self._header_size + body_length * self._word.itemsize
        self._sites: frozenset[str] = frozenset()
        self._opened_as: bytes | None = None
        self._digest: bytes | None = None
        self.sealed = False  # U is fixed: no upload phase adds to it any more

    @cached_property
    def _data(self) -> NDArray[np.uint8]:
        """Not before a vector of this size is there: lengths may come from a record, which may say anything."""
        return np.zeros(self._size, np.uint8)

    @property
    def size(self) -> int:
        """Bytes of one y."""
        return self._size

    @property
    def sites(self) -> frozenset[str]:
        """Whose y are in it."""
        return self._sites

    @property
    def header(self) -> NDArray[np.uint64]:
        """(header_length,), a view."""
        return self._data[: self._header_size].view("<u8")

    @property
    def body(self) -> NDArray[np.unsignedinteger]:
        """(body_length,), a view."""
        return self._data[self._header_size :].view(self._word)

    @property
    def data(self) -> memoryview:
        """The bytes of header and body as a site sends them."""
        return self._data.data.toreadonly()

    def digest(self) -> bytes:
        """SHA-256 of `data` as it is now."""
        if self._digest is None:
            self._digest = hashlib.sha256(self.data).digest()
        return self._digest

    def add(self, site: str, y: Bytes) -> None:
        """One more y of exactly `size` bytes."""
        other = np.frombuffer(y, np.uint8)
        np.add(self.header, other[: self._header_size].view("<u8"), out=self.header)
        np.add(self.body, other[self._header_size :].view(self._word), out=self.body)
        self._sites, self._digest = self._sites | {site}, None

    def restore(self, sites: frozenset[str], data: Bytes) -> None:
        """Take up the sum over `sites` that was kept as `data`, of exactly `size` bytes."""
        np.copyto(self._data, np.frombuffer(data, np.uint8))
        self._sites, self._digest = sites, None

    def open(self, view: View, masks: Masks, threads: int) -> None:
        """Take off b of each survivor, and its mask with each site outside under the sign the survivor gave it. Once."""
        if self._opened_as == view.view_id:
            return
        if self._opened_as is not None or self._sites != set(view.uploads):
            raise SecaggError("NOT_OPENABLE", "the vectors added up are not those of this view: take the next round")
        added = [value for (site, peer), value in masks.pair_masks.items() if peer > site]
        subtracted = [value for (site, peer), value in masks.pair_masks.items() if peer < site]
        keys = MaskKeys.of(view.delta, added=subtracted, removed=[*masks.self_masks.values(), *added])
        mask_section(self.header, HEADER_SECTION, keys)
        digest = hashlib.sha256(self.header.data)
        mask_section(self.body, BODY_SECTION, keys, after=lambda _, block: digest.update(block.data), threads=threads)
        self._opened_as, self._digest = view.view_id, digest.digest()


@dataclass(frozen=True)
class Aggregate:
    """The opened sum: `header` int64, `body` signed words of the ring, both views of `data`; `survivors` U, `record` for sites
    and auditors, `findings` as evidence."""

    header: NDArray[np.int64] = field(repr=False)
    body: NDArray[np.signedinteger] = field(repr=False)
    survivors: tuple[str, ...]
    data: memoryview = field(repr=False)
    record: bytes = field(repr=False)
    findings: tuple[Finding, ...]


def open_total(view: View, ballots: Mapping[str, Ballot], total: Total, *, ring_bits: int, threads: int) -> tuple[Finding, ...]:
    """Turn `total` into the sum of a view: `NOT_OPENABLE` leaves it as it was, `SPOILED` if it is no sum of encoded updates."""
    masks = open_view(view, ballots)
    total.open(view, masks, threads)
    count, limit = len(view.uploads), len(view.uploads) * ring_scale(view.roll.n, ring_bits)
    body = signed(total.body)
    in_range = not len(body) or (-limit <= int(body.min()) and int(body.max()) <= limit)
    if not len(total.header) or int(total.header[0]) != count or not in_range:
        raise SecaggError("SPOILED", f"the opened sum is none of {count} updates: a site masked garbage; take the next round")
    return masks.findings


def signed(words: NDArray[np.unsignedinteger]) -> NDArray[np.signedinteger]:
    """The same bits as two's complement."""
    return words.view(f"<i{words.itemsize}")
