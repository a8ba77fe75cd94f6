"""A site's two answers in a round, as values: the masked upload with its dealt shares, and the ballot for one view.

Specification 4.4. No state is kept here; `secagg.site` decides whether an answer may be made at all.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import TypeAlias

import numpy as np

from consortium.canonical import pack, text
from consortium.identity import Entropy
from secagg import derive, field, shamir
from secagg.encoding import Encoded, Update, WholeSteps
from secagg.errors import SecaggError
from secagg.joining import Identity, Joined
from secagg.masks import BODY_SECTION, HEADER_SECTION, BodyWords, HeaderWords, MaskKeys, Step, body_type, mask_section
from secagg.messages import Ballot, Upload, VoteRequest, sign
from secagg.roll import Roll


@dataclass(frozen=True)
class Sent:
    """The bytes of an upload and its D, kept for a repeated request: masked, so they say nothing more the second time."""

    control: bytes = dataclass_field(repr=False)
    y: memoryview = dataclass_field(repr=False)
    masked: bytes


OwnShares: TypeAlias = tuple[int, ...]  # the site's own share of each value it dealt


@dataclass(frozen=True)
class Vector:
    """What a site adds to the sum: header words, and a body that is encoded already or on its way into the masks."""

    header: HeaderWords = dataclass_field(repr=False)
    body: BodyWords | Encoded = dataclass_field(repr=False)

    def check(self, ring_bits: int) -> None:
        """`ENCODING` for words of another type than the ring's."""
        found = self.body.word_type if isinstance(self.body, Update | WholeSteps) else self.body.dtype
        if self.header.dtype != np.uint64 or found != body_type(ring_bits):
            expected = f"uint64 and {body_type(ring_bits)}"
            raise SecaggError("ENCODING", f"words are {self.header.dtype} and {found}, expected {expected}: encode first")


def mask_and_deal(
    me: Identity, joined: Joined, delta: bytes, vector: Vector, entropy: Entropy, *, threads: int = 1
) -> tuple[Sent, OwnShares]:
    """Mask the vector with b and all e, and deal t-of-n shares of these n values; values and polynomials end here."""
    roll, others = joined.roll, joined.roll.others(me.site)
    pair_masks = {peer: derive.pair_mask(joined.pairs[peer], delta) for peer in others}
    values = [field.random_element(entropy), *(pair_masks[peer] for peer in others)]
    added = [values[0], *(mask for peer, mask in pair_masks.items() if peer > me.site)]
    removed = [mask for peer, mask in pair_masks.items() if peer < me.site]
    y, y_digest = _mask(vector, MaskKeys.of(delta, added=added, removed=removed), me.context.ring_bits, threads)
    commitments = tuple(derive.commitment(delta, me.site, index, value) for index, value in enumerate(values))
    masked = derive.masked_digest(y_digest, commitments)
    shares = [shamir.share(value, roll.threshold, roll.points, entropy) for value in values]
    rows = dict(zip(roll.sites, zip(*shares, strict=True), strict=True))  # receiver -> its share of each value
    sealed = tuple(
        derive.seal(
            derive.share_key(joined.pairs[peer], delta, me.site, peer),
            derive.share_aad(delta, me.site, peer, masked),
            b"".join(map(field.encode, rows[peer])),
            entropy,
        )
        for peer in others
    )
    signature = sign(me.key, "upload", delta, text(me.site), masked)
    control = Upload(delta, me.site, y_digest, commitments, sealed, signature).encode()
    return Sent(control, y, masked), rows[me.site]


def _mask(vector: Vector, keys: MaskKeys, ring_bits: int, threads: int) -> tuple[memoryview, bytes]:
    """(y, its SHA-256): header and body as sent. The body is encoded, masked and hashed block by block, into y alone."""
    word, size = body_type(ring_bits), vector.header.nbytes
    data = np.empty(size + len(vector.body) * word.itemsize, np.uint8)
    header, body = data[:size].view("<u8"), data[size:].view(word)
    header[:] = vector.header
    mask_section(header, HEADER_SECTION, keys)
    digest = hashlib.sha256(header.data)
    mask_section(
        body,
        BODY_SECTION,
        keys,
        before=vector.body.write if isinstance(vector.body, Update | WholeSteps) else _copy_of(vector.body),
        after=lambda _, block: digest.update(block.data),
        threads=threads,
    )
    return data.data.toreadonly(), digest.digest()


def _copy_of(words: BodyWords) -> Step:
    """Words that are encoded already; the caller's array stays as it is."""
    return lambda at, block: np.copyto(block, words[at : at + len(block)])


def value_index(roll: Roll, dealer: str, peer: str) -> int:
    """Place of e(dealer, peer) among the values of `dealer`; place 0 is its b."""
    return 1 + roll.others(dealer).index(peer)


def needed_indices(roll: Roll, dealer: str, outside: Sequence[str]) -> tuple[int, ...]:
    """What an answer opens of a survivor: its b, and its pair masks with every site outside the view."""
    return (0, *(value_index(roll, dealer, peer) for peer in outside))


@dataclass(frozen=True)
class Standing:
    """Where a site stands when it votes: the round, the view, and its own shares if its upload is in the view."""

    delta: bytes
    view: bytes
    own_shares: OwnShares = dataclass_field(repr=False)


def cast_ballot(me: Identity, joined: Joined, request: VoteRequest, standing: Standing, entropy: Entropy) -> bytes:
    """The ballot for the view of a checked request."""
    view = standing.view
    roll, others = joined.roll, joined.roll.others(me.site)
    answer = pack(*_answer(me, joined, request, standing))
    kappa = field.random_element(entropy)
    points = [roll.point(peer) for peer in others]
    parts = shamir.share(kappa, roll.threshold - 1, points, entropy)
    boxes = tuple(
        derive.seal(
            derive.release_key(joined.pairs[peer], view, peer, me.site),
            derive.box_aad(view, peer, me.site),
            field.encode(part),
            entropy,
        )
        for peer, part in zip(others, parts, strict=True)
    )
    releases = tuple(derive.release_key(joined.pairs[peer], view, me.site, peer) for peer in others)
    sealed = derive.seal(derive.answer_key(kappa, view, me.site), derive.answer_aad(view, me.site), answer, entropy)
    unsigned = Ballot(view, me.site, releases, boxes, sealed)
    return Ballot(view, me.site, releases, boxes, sealed, sign(me.key, "ballot", *unsigned.signed_fields())).encode()


def _answer(me: Identity, joined: Joined, request: VoteRequest, standing: Standing) -> list[bytes]:
    """One field per survivor: our shares of what the view opens of it. Empty where its deal to us is unusable."""
    roll, delta = joined.roll, standing.delta
    outside = roll.outside([one.site for one in request.survivors])
    sealed = iter(request.sealed_shares)
    fields = []
    for one in request.survivors:
        if one.site == me.site:
            row: OwnShares | None = standing.own_shares
        else:
            key = derive.share_key(joined.pairs[one.site], delta, one.site, me.site)
            opened = derive.unseal(key, derive.share_aad(delta, one.site, me.site, one.digest), next(sealed))
            row = None if opened is None else field.decode_row(opened, roll.n)
        wanted = needed_indices(roll, one.site, outside)
        fields.append(b"" if row is None else b"".join(field.encode(row[index]) for index in wanted))
    return fields
