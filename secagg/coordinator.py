"""The coordinator carries, counts and adds: keys -> kem -> epoch -> uploads -> votes -> sum, one immutable value per phase.

`receive` refuses a bad message with a `SecaggError` that names its site and leaves the phase as it was; a repeated message
changes nothing. No phase waits: deadlines are the caller's. Only the sum of the vectors is not a value: it grows in place, and
an upload phase that was left behind takes no more.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from consortium.canonical import Bytes, integer, pack, text
from secagg import derive
from secagg import field as element
from secagg.aggregate import Aggregate, Total, open_total, signed
from secagg.context import Context
from secagg.errors import SecaggError
from secagg.framing import fields_of, integer_of, items_of, message, sized, text_of
from secagg.messages import (
    Ballot,
    Kem,
    KemEntry,
    KemRequest,
    Keys,
    KeysRequest,
    Masked,
    UpdateRequest,
    Upload,
    VoteRequest,
    check_purpose,
)
from secagg.opening import Finding, View, open_view
from secagg.roll import Roll, check_ciphertext_size, check_kem_entry, check_keys, make_roll

BOX_SIZE = derive.NONCE_SIZE + element.ELEMENT_SIZE + derive.TAG_SIZE

Item = TypeVar("Item")


def start_epoch(context: Context, number: int, sites: Sequence[str]) -> "KeysPhase":
    """Ask these participants for keys; `STRANGER` for anybody else."""
    if strangers := tuple(site for site in sites if site not in context.identities):
        raise SecaggError("STRANGER", f"{', '.join(strangers)} not among the plan's participants", strangers)
    return KeysPhase(context, number, tuple(sorted(set(sites))), {})


@dataclass(frozen=True)
class KeysPhase:
    """Waiting for keys messages."""

    context: Context
    number: int
    sites: tuple[str, ...]
    received: Mapping[str, bytes] = field(repr=False)

    @property
    def missing(self) -> tuple[str, ...]:
        return _missing(self.sites, self.received)

    def requests(self) -> dict[str, bytes]:
        return dict.fromkeys(self.missing, KeysRequest(self.number).encode())

    def receive(self, site: str, data: bytes) -> "KeysPhase":
        """Take the keys of a site after the checks that every site will make of them."""
        with _about(site, self.sites):
            (keys,) = check_keys(self.context, self.number, [data])
            _check_sender(site, keys.site)
            return replace(self, received=_with(self.received, site, data))

    def close(self) -> "KemPhase":
        """P = the sites that answered; `TOO_FEW` names the missing ones."""
        messages = tuple(self.received[site] for site in sorted(self.received))
        with _naming(self.missing):
            roll = make_roll(self.context, self.number, messages, [Keys.decode(data) for data in messages])
        return KemPhase(self.context, roll, messages, {})


@dataclass(frozen=True)
class KemPhase:
    """P is fixed; waiting for the ciphertexts of every site of it."""

    context: Context
    roll: Roll
    keys: tuple[bytes, ...] = field(repr=False)
    received: Mapping[str, bytes] = field(repr=False)

    @property
    def missing(self) -> tuple[str, ...]:
        return _missing(self.roll.sites, self.received)

    def requests(self) -> dict[str, bytes]:
        return dict.fromkeys(self.missing, KemRequest(self.keys).encode())

    def receive(self, site: str, data: bytes) -> "KemPhase":
        """Take a site's ciphertexts after the checks that their receivers will make."""
        with _about(site, self.roll.sites):
            kem = Kem.decode(data)
            _check_epoch(self.roll.epoch_id, kem.epoch_id)
            _check_sender(site, kem.site)
            higher = tuple(peer for peer in self.roll.sites if peer > site)
            if tuple(entry.peer for entry in kem.entries) != higher:
                raise SecaggError("PEERS", f"{len(kem.entries)} ciphertexts of {site}, expected {len(higher)}, ascending")
            for entry in kem.entries:
                check_kem_entry(self.context, self.roll, site, entry.peer, entry)
                check_ciphertext_size(site, entry)
            return replace(self, received=_with(self.received, site, data))

    def close(self) -> "Epoch":
        """The epoch, if nobody is missing. Otherwise it is void: `EPOCH` names the sites to leave out of the next number."""
        if self.missing:
            raise SecaggError("EPOCH", f"no answer of {', '.join(self.missing)}: take the next number without", self.missing)
        kems = {site: Kem.decode(self.received[site]) for site in self.roll.sites}
        return Epoch(self.context, self.roll, self.keys, tuple(self.received[site] for site in self.roll.sites), _routed(kems))


def _routed(kems: Mapping[str, Kem]) -> dict[str, tuple[KemEntry, ...]]:
    """For each site the entries meant for it, ascending by sender."""
    routed: dict[str, list[KemEntry]] = {site: [] for site in kems}
    for sender, kem in kems.items():  # ascending
        for entry in kem.entries:
            routed[entry.peer].append(replace(entry, peer=sender))
    return {site: tuple(entries) for site, entries in routed.items()}


@dataclass(frozen=True)
class Terms:
    """What a round is about. Lengths in words; the plan fixes them for a round and purpose."""

    round_number: int
    purpose: str
    model_hash: bytes
    header_length: int
    body_length: int


@dataclass(frozen=True)
class Epoch:
    """Sites that share keys; any number of rounds can be opened in it."""

    context: Context
    roll: Roll
    keys: tuple[bytes, ...] = field(repr=False)
    kems: tuple[bytes, ...] = field(repr=False)
    routed: Mapping[str, tuple[KemEntry, ...]] = field(repr=False)

    @property
    def sites(self) -> tuple[str, ...]:
        """P."""
        return self.roll.sites

    @property
    def threshold(self) -> int:
        """t."""
        return self.roll.threshold

    def open_round(
        self, round_number: int, purpose: str, model_hash: bytes, *, header_length: int, body_length: int
    ) -> "UploadPhase":
        """Ask every site for its update. `header_length` counts word 0."""
        sized(derive.DIGEST_SIZE, model_hash)
        terms = Terms(round_number, check_purpose(purpose), model_hash, header_length, body_length)
        return UploadPhase(self, terms, {}, Total(header_length, body_length, self.context.ring_bits))

    def encode(self) -> bytes:
        """The epoch as the coordinator keeps it; holds nothing secret."""
        return message("stored-epoch", integer(self.roll.number), pack(*self.keys), pack(*self.kems))

    @staticmethod
    def decode(context: Context, data: bytes) -> "Epoch":
        """An epoch kept by `encode`, every signature checked again."""
        number, keys, kems = fields_of(data, "stored-epoch", 3)
        phase = KeysPhase(context, integer_of(number), tuple(context.identities), {})
        for one in items_of(keys):
            phase = phase.receive(Keys.decode(one).site, one)
        kem_phase = phase.close()
        for one in items_of(kems):
            kem_phase = kem_phase.receive(Kem.decode(one).site, one)
        epoch = kem_phase.close()
        _check_listed(items_of(keys), epoch.keys)
        _check_listed(items_of(kems), epoch.kems)
        return epoch


@dataclass(frozen=True)
class UploadPhase:
    """Waiting for masked updates."""

    epoch: Epoch
    terms: Terms
    uploads: Mapping[str, bytes] = field(repr=False)
    total: Total = field(repr=False)

    @property
    def delta(self) -> bytes:
        terms = self.terms
        return derive.round_id(self.epoch.roll.epoch_id, terms.round_number, terms.model_hash, terms.purpose)

    @property
    def missing(self) -> tuple[str, ...]:
        return _missing(self.epoch.sites, self.uploads)

    def requests(self) -> dict[str, bytes]:
        """Control parts; the model goes beside them."""
        epoch, terms = self.epoch, self.terms
        return {
            site: UpdateRequest(epoch.roll.epoch_id, terms.round_number, terms.purpose, epoch.routed[site]).encode()
            for site in self.missing
        }

    def receive(self, site: str, control: bytes, y: Bytes) -> "UploadPhase":
        """Add an upload after checking digest, lengths, counts and signature. Another upload of the same site -> `ROUND`."""
        with _about(site, self.epoch.sites):
            upload = _checked_upload(self.epoch, self.delta, site, control)
            if len(y) != self.total.size or hashlib.sha256(y).digest() != upload.y_digest:
                raise SecaggError("ENCODING", f"vector of {site} is not the one it signed, or not {self.total.size} bytes")
            uploads = _with(self.uploads, site, control)
            if uploads is self.uploads:
                return self
            if self.total.sealed or self.total.sites != set(self.uploads):
                raise SecaggError("ROUND", "this phase was left behind by a later one, which holds the sum: go on with that")
            self.total.add(site, y)
            return replace(self, uploads=uploads)

    def close(self) -> "VotePhase":
        """Fix U = the sites received; `TOO_FEW` below the threshold. Keep `encode()` of the result before the first vote."""
        if len(self.uploads) < self.epoch.threshold:
            raise SecaggError(
                "TOO_FEW", f"{len(self.uploads)} uploads, threshold is {self.epoch.threshold}: take the next round", self.missing
            )
        self.total.sealed = True
        ordered = {site: self.uploads[site] for site in sorted(self.uploads)}
        view = View(self.epoch.roll, self.delta, {site: Upload.decode(control) for site, control in ordered.items()})
        return VotePhase(self.epoch, self.terms, view, view.view_id, ordered, self.total, {})


def _checked_upload(epoch: Epoch, delta: bytes, site: str, control: bytes) -> Upload:
    upload = Upload.decode(control)
    if upload.delta != delta:
        raise SecaggError("ROUND", f"upload of {site} is for another round or model")
    _check_sender(site, upload.site)
    if len(upload.commitments) != epoch.roll.n or len(upload.sealed_shares) != epoch.roll.n - 1:
        raise SecaggError("ENCODING", f"upload of {site} deals {len(upload.commitments)} values, expected {epoch.roll.n}")
    Masked(site, upload.masked, upload.signature).check_signature(epoch.context.identities[site], delta)
    return upload


@dataclass(frozen=True)
class VotePhase:
    """U is fixed; waiting for ballots. Not `openable` yet, or not opened, it goes on taking them."""

    epoch: Epoch
    terms: Terms
    view: View = field(repr=False)
    view_id: bytes
    uploads: Mapping[str, bytes] = field(repr=False)
    total: Total = field(repr=False)
    ballots: Mapping[str, bytes] = field(repr=False)

    @property
    def survivors(self) -> tuple[str, ...]:
        """U."""
        return self.view.survivors

    @property
    def missing(self) -> tuple[str, ...]:
        """Sites that have not voted; they may also be sites outside U."""
        return _missing(self.epoch.sites, self.ballots)

    @property
    def openable(self) -> bool:
        """At least t ballots are in."""
        return len(self.ballots) >= self.epoch.threshold

    def requests(self) -> dict[str, bytes]:
        """To every site of P, whether in U or not."""
        listed = tuple(Masked(site, upload.masked, upload.signature) for site, upload in self.view.uploads.items())
        roll, terms = self.epoch.roll, self.terms
        requests = {}
        for site in self.missing:
            sealed = tuple(
                upload.sealed_shares[roll.others(dealer).index(site)]
                for dealer, upload in self.view.uploads.items()
                if dealer != site
            )
            request = VoteRequest(
                roll.epoch_id, terms.round_number, terms.model_hash, terms.purpose, self.epoch.routed[site], listed, sealed
            )
            requests[site] = request.encode()
        return requests

    def receive(self, site: str, data: bytes) -> "VotePhase":
        """Take a ballot for this view after checking counts and signature."""
        with _about(site, self.epoch.sites):
            ballot = Ballot.decode(data)
            if ballot.view != self.view_id:
                raise SecaggError("VOTED", f"{site} voted for another view")
            _check_sender(site, ballot.site)
            others = self.epoch.roll.n - 1
            if len(ballot.releases) != others or len(ballot.boxes) != others:
                raise SecaggError("ENCODING", f"ballot of {site} has not {others} releases and boxes")
            sized(BOX_SIZE, *ballot.boxes)
            ballot.check_signature(self.epoch.context.identities[site])
            return replace(self, ballots=_with(self.ballots, site, data))

    def close(self, *, threads: int = 1) -> Aggregate:
        """The sum over U. `NOT_OPENABLE` (more ballots may still help) or `SPOILED`; then the next round number follows."""
        ballots = {site: Ballot.decode(data) for site, data in self.ballots.items()}
        ring_bits = self.epoch.context.ring_bits
        findings = open_total(self.view, ballots, self.total, ring_bits=ring_bits, threads=threads)
        voted = (self.ballots[site] for site in sorted(self.ballots))
        parts = (self.epoch.encode(), _encode_terms(self.terms), pack(*self.uploads.values()), pack(*voted))
        record = message("opened-round", *parts, self.total.digest())
        total = self.total
        return Aggregate(total.header.view("<i8"), signed(total.body), self.survivors, total.data, record, findings)

    def encode(self) -> bytes:
        """V as the coordinator fsyncs it before the first request; with `total.data`, kept beside it, all that a restart needs."""
        uploads = pack(*self.uploads.values())
        return message("open-view", self.epoch.encode(), _encode_terms(self.terms), uploads, self.total.digest())

    @staticmethod
    def decode(context: Context, data: bytes, total: Bytes) -> "VotePhase":
        """A view kept by `encode`, every signature checked again; ballots are asked for anew and come as the same bytes."""
        stored, terms, uploads, digest = fields_of(data, "open-view", 4)
        phase = _restored(Epoch.decode(context, stored), _decode_terms(terms), items_of(uploads))
        if len(total) != phase.total.size or hashlib.sha256(total).digest() != digest:
            raise SecaggError("ENCODING", "the sum beside this view is not the one it was kept with: take the next round")
        phase.total.restore(frozenset(phase.uploads), total)
        return phase


def _restored(epoch: Epoch, terms: Terms, controls: tuple[bytes, ...]) -> VotePhase:
    """The vote phase over these uploads, each checked again; nothing is added up yet."""
    phase = epoch.open_round(
        terms.round_number, terms.purpose, terms.model_hash, header_length=terms.header_length, body_length=terms.body_length
    )
    uploads: Mapping[str, bytes] = {}
    for control in controls:
        site = Upload.decode(control).site
        with _about(site, epoch.sites):
            _checked_upload(epoch, phase.delta, site, control)
        uploads = _with(uploads, site, control)
    voting = replace(phase, uploads=uploads).close()
    _check_listed(controls, tuple(voting.uploads.values()))
    return voting


@dataclass(frozen=True)
class Opened:
    """What a round's record proves by itself: who was counted, who voted, and that the masks of exactly this view open.

    `digests`: SHA-256 of each survivor's y, which that site signed. `sum_digest`: SHA-256 of the sum as the coordinator says;
    only `recompute` proves it.
    """

    sites: tuple[str, ...]
    threshold: int
    terms: Terms
    digests: Mapping[str, bytes]
    voters: tuple[str, ...]
    findings: tuple[Finding, ...]
    sum_digest: bytes

    @property
    def survivors(self) -> tuple[str, ...]:
        """U."""
        return tuple(self.digests)


def examine(context: Context, record: bytes) -> Opened:
    """Every check of an opened round that needs no vector, from its record alone; for sites and audits."""
    phase, sum_digest = _recorded(context, record)
    masks = open_view(phase.view, {site: Ballot.decode(data) for site, data in phase.ballots.items()})
    digests = {site: upload.y_digest for site, upload in phase.view.uploads.items()}
    voters, roll = tuple(sorted(phase.ballots)), phase.epoch.roll
    return Opened(roll.sites, roll.threshold, phase.terms, digests, voters, masks.findings, sum_digest)


def recompute(context: Context, record: bytes, vectors: Mapping[str, Bytes], *, threads: int = 1) -> Aggregate:
    """An opened round again, from its record and the y of its survivors, with every check of the coordinator; for audits.

    `ENCODING` if the record's sum is not what its messages and the vectors give. Each vector is looked up once.
    """
    phase, _ = _recorded(context, record)
    for site, control in phase.uploads.items():
        y = vectors.get(site, b"")
        if len(y) != phase.total.size or hashlib.sha256(y).digest() != Upload.decode(control).y_digest:
            raise SecaggError("ENCODING", f"vector of {site} is missing, or not the one it signed in this round", (site,))
        phase.total.add(site, y)
    aggregate = phase.close(threads=threads)
    if aggregate.record != record:
        raise SecaggError("ENCODING", "the record's sum is not the sum of these vectors: record or vectors altered")
    return aggregate


def _recorded(context: Context, record: bytes) -> tuple[VotePhase, bytes]:
    """The vote phase of a record with all its ballots, and the digest of its sum; no vector is added up."""
    stored, terms, uploads, ballots, sum_digest = fields_of(record, "opened-round", 5)
    sized(derive.DIGEST_SIZE, sum_digest)
    phase = _restored(Epoch.decode(context, stored), _decode_terms(terms), items_of(uploads))
    for ballot in items_of(ballots):
        phase = phase.receive(Ballot.decode(ballot).site, ballot)
    _check_listed(items_of(ballots), tuple(phase.ballots[site] for site in sorted(phase.ballots)))
    return phase, sum_digest


def _check_listed(found: tuple[bytes, ...], written: tuple[bytes, ...]) -> None:
    """`ENCODING` unless a kept list stands as it is written: each message once, ascending by site."""
    if found != written:
        raise SecaggError("ENCODING", "a kept list of messages does not ascend by site, or repeats one: file altered")


def _encode_terms(terms: Terms) -> bytes:
    lengths = (integer(terms.header_length), integer(terms.body_length))
    return pack(integer(terms.round_number), text(terms.purpose), terms.model_hash, *lengths)


def _decode_terms(data: bytes) -> Terms:
    number, purpose, model_hash, header_length, body_length = items_of(data, 5)
    return Terms(integer_of(number), text_of(purpose), model_hash, integer_of(header_length), integer_of(body_length))


def _missing(sites: Sequence[str], received: Mapping[str, bytes]) -> tuple[str, ...]:
    return tuple(site for site in sites if site not in received)


def _with(received: Mapping[str, bytes], site: str, data: bytes) -> Mapping[str, bytes]:
    """`received` and one more message; the very same one changes nothing, another one of the same site -> `ROUND`."""
    if site not in received:
        return {**received, site: data}
    if received[site] != data:
        raise SecaggError("ROUND", f"{site} answered before with other bytes: the first answer stands", (site,))
    return received


def _check_sender(site: str, signed: str) -> None:
    if signed != site:
        raise SecaggError("STRANGER", f"message from {site} is signed by {signed}", (site,))


def _check_epoch(expected: bytes, found: bytes) -> None:
    if found != expected:
        raise SecaggError("EPOCH", "message of another epoch")


@contextmanager
def _about(site: str, sites: Sequence[str]) -> Iterator[None]:
    """Everything refused inside names `site`, which must be one of `sites`."""
    if site not in sites:
        raise SecaggError("STRANGER", f"{site} is not in this epoch", (site,))
    with _naming((site,)):
        yield


@contextmanager
def _naming(sites: tuple[str, ...]) -> Iterator[None]:
    try:
        yield
    except SecaggError as error:
        raise SecaggError(error.code, error.sentence, sites) from error
