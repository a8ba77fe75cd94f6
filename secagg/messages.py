"""The eight messages of the protocol, each with one encoding; any other bytes are refused with `ENCODING`.

A message is `pack("sa1/<kind>", fields in order)`. Decoders check form (count, lengths, ids); what a message says is
checked where it is used, in the order that the specification fixes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from consortium.canonical import integer, pack, text
from consortium.errors import SignatureError
from consortium.identity import SIGNATURE_SIZE, SigningKey, verify
from secagg.derive import DIGEST_SIZE, KEY_SIZE, PURPOSES, label_of, masked_digest
from secagg.errors import SecaggError
from secagg.framing import fields_of, integer_of, items_of, message, site_of, sized, text_of

KEM_CIPHERTEXT_SIZE = 1088


def check_signature(public: bytes, signature: bytes, name: str, site: str, *fields: bytes) -> None:
    """`SIGNATURE`, naming the site, unless this is its signature under the label `name`."""
    try:
        verify(public, signature, label_of(name), *fields)
    except SignatureError as error:
        raise SecaggError("SIGNATURE", f"{name} message of {site} is not signed by its identity key", (site,)) from error


@dataclass(frozen=True)
class KeysRequest:
    epoch: int

    def encode(self) -> bytes:
        return message("keys?", integer(self.epoch))

    @staticmethod
    def decode(data: bytes) -> "KeysRequest":
        (epoch,) = fields_of(data, "keys?", 1)
        return KeysRequest(integer_of(epoch))


@dataclass(frozen=True)
class Keys:
    """A site's public keys of one epoch, signed under roster and plan."""

    roster_digest: bytes
    plan_digest: bytes
    epoch: int
    site: str
    x25519: bytes
    mlkem: bytes
    signature: bytes = b""

    def signed_fields(self) -> tuple[bytes, ...]:
        return (self.roster_digest, self.plan_digest, integer(self.epoch), text(self.site), self.x25519, self.mlkem)

    def encode(self) -> bytes:
        return message("keys", *self.signed_fields(), self.signature)

    @staticmethod
    def decode(data: bytes) -> "Keys":
        roster, plan, epoch, site, x25519, mlkem, signature = fields_of(data, "keys", 7)
        sized(DIGEST_SIZE, roster, plan)
        sized(SIGNATURE_SIZE, signature)
        return Keys(roster, plan, integer_of(epoch), site_of(site), x25519, mlkem, signature)

    def check_signature(self, public: bytes) -> None:
        check_signature(public, self.signature, "keys", self.site, *self.signed_fields())


@dataclass(frozen=True)
class KemRequest:
    """All keys messages of the epoch, ascending by site."""

    keys: tuple[bytes, ...]

    def encode(self) -> bytes:
        return message("kem?", pack(*self.keys))

    @staticmethod
    def decode(data: bytes) -> "KemRequest":
        (keys,) = fields_of(data, "kem?", 1)
        return KemRequest(items_of(keys))


@dataclass(frozen=True)
class KemEntry:
    """A ciphertext between two sites, signed by the lower one. `peer` is the other end as seen by the reader."""

    peer: str
    ciphertext: bytes
    signature: bytes

    def encode(self) -> bytes:
        return pack(text(self.peer), self.ciphertext, self.signature)

    @staticmethod
    def decode(data: bytes) -> "KemEntry":
        peer, ciphertext, signature = items_of(data, 3)
        sized(SIGNATURE_SIZE, signature)
        return KemEntry(site_of(peer), ciphertext, signature)

    @staticmethod
    def signed_fields(epoch_id: bytes, sender: str, receiver: str, ciphertext: bytes) -> tuple[bytes, ...]:
        return (epoch_id, text(sender), text(receiver), ciphertext)


@dataclass(frozen=True)
class Kem:
    """The ciphertexts of `site` to every higher site of the epoch, ascending."""

    epoch_id: bytes
    site: str
    entries: tuple[KemEntry, ...]

    def encode(self) -> bytes:
        return message("kem", self.epoch_id, text(self.site), _pack_entries(self.entries))

    @staticmethod
    def decode(data: bytes) -> "Kem":
        epoch_id, site, entries = fields_of(data, "kem", 3)
        sized(DIGEST_SIZE, epoch_id)
        return Kem(epoch_id, site_of(site), _kem_entries(entries))


@dataclass(frozen=True)
class UpdateRequest:
    """`kems`: the ciphertexts of every lower site to the receiver, ascending."""

    epoch_id: bytes
    round_number: int
    purpose: str
    kems: tuple[KemEntry, ...]

    def encode(self) -> bytes:
        return message("update?", self.epoch_id, integer(self.round_number), text(self.purpose), _pack_entries(self.kems))

    @staticmethod
    def decode(data: bytes) -> "UpdateRequest":
        epoch_id, number, purpose, kems = fields_of(data, "update?", 4)
        sized(DIGEST_SIZE, epoch_id)
        return UpdateRequest(epoch_id, integer_of(number), text_of(purpose), _kem_entries(kems))


@dataclass(frozen=True)
class Upload:
    """The control part of a masked update: what y is, and the dealt shares."""

    delta: bytes
    site: str
    y_digest: bytes
    commitments: tuple[bytes, ...]
    sealed_shares: tuple[bytes, ...]
    signature: bytes

    @property
    def masked(self) -> bytes:
        """D_i."""
        return masked_digest(self.y_digest, self.commitments)

    def encode(self) -> bytes:
        lists = (pack(*self.commitments), pack(*self.sealed_shares))
        return message("upload", self.delta, text(self.site), self.y_digest, *lists, self.signature)

    @staticmethod
    def decode(data: bytes) -> "Upload":
        delta, site, y_digest, commitments, sealed, signature = fields_of(data, "upload", 6)
        values = items_of(commitments)
        sized(DIGEST_SIZE, delta, y_digest, *values)
        sized(SIGNATURE_SIZE, signature)
        return Upload(delta, site_of(site), y_digest, values, items_of(sealed), signature)


@dataclass(frozen=True)
class Masked:
    """One survivor in a view: its D and its signature over it."""

    site: str
    digest: bytes
    signature: bytes

    def encode(self) -> bytes:
        return pack(text(self.site), self.digest, self.signature)

    @staticmethod
    def decode(data: bytes) -> "Masked":
        site, digest, signature = items_of(data, 3)
        sized(DIGEST_SIZE, digest)
        sized(SIGNATURE_SIZE, signature)
        return Masked(site_of(site), digest, signature)

    def check_signature(self, public: bytes, delta: bytes) -> None:
        check_signature(public, self.signature, "upload", self.site, delta, text(self.site), self.digest)


@dataclass(frozen=True)
class VoteRequest:
    """`survivors`: U with its signed digests, ascending. `sealed_shares`: those that U, less the receiver, dealt to it."""

    epoch_id: bytes
    round_number: int
    model_hash: bytes
    purpose: str
    kems: tuple[KemEntry, ...]
    survivors: tuple[Masked, ...]
    sealed_shares: tuple[bytes, ...]

    def encode(self) -> bytes:
        head = (self.epoch_id, integer(self.round_number), self.model_hash, text(self.purpose), _pack_entries(self.kems))
        return message("vote?", *head, pack(*(one.encode() for one in self.survivors)), pack(*self.sealed_shares))

    @staticmethod
    def decode(data: bytes) -> "VoteRequest":
        epoch_id, number, model_hash, purpose, kems, survivors, sealed = fields_of(data, "vote?", 7)
        sized(DIGEST_SIZE, epoch_id, model_hash)
        listed = tuple(Masked.decode(item) for item in items_of(survivors))
        what = check_purpose(text_of(purpose))
        return VoteRequest(epoch_id, integer_of(number), model_hash, what, _kem_entries(kems), listed, items_of(sealed))


@dataclass(frozen=True)
class Ballot:
    """A vote for the view h, and an answer that opens only with the releases of others who voted the same."""

    view: bytes
    site: str
    releases: tuple[bytes, ...]
    boxes: tuple[bytes, ...]
    sealed_answer: bytes
    signature: bytes = b""

    def signed_fields(self) -> tuple[bytes, ...]:
        return (self.view, text(self.site), pack(*self.releases), pack(*self.boxes), self.sealed_answer)

    def encode(self) -> bytes:
        return message("ballot", *self.signed_fields(), self.signature)

    @staticmethod
    def decode(data: bytes) -> "Ballot":
        view, site, releases, boxes, answer, signature = fields_of(data, "ballot", 6)
        keys = items_of(releases)
        sized(DIGEST_SIZE, view)
        sized(KEY_SIZE, *keys)
        sized(SIGNATURE_SIZE, signature)
        return Ballot(view, site_of(site), keys, items_of(boxes), answer, signature)

    def check_signature(self, public: bytes) -> None:
        check_signature(public, self.signature, "ballot", self.site, *self.signed_fields())


def sign(key: SigningKey, name: str, *fields: bytes) -> bytes:
    """A site's signature under a label of this protocol."""
    return key.sign(label_of(name), *fields)


def check_purpose(purpose: str) -> str:
    """One of `PURPOSES`, else `ENCODING`."""
    if purpose not in PURPOSES:
        raise SecaggError("ENCODING", f"purpose is not one of {', '.join(PURPOSES)}: coordinator of another version")
    return purpose


def _kem_entries(data: bytes) -> tuple[KemEntry, ...]:
    return tuple(KemEntry.decode(item) for item in items_of(data))


def _pack_entries(entries: Iterable[KemEntry]) -> bytes:
    return pack(*(entry.encode() for entry in entries))
