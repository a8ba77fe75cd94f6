"""A site's way into an epoch: Keyed -> Listed -> Joined. Each step can be taken once, and private keys end with the last.

Specification 4.3. Values are immutable; a refusal leaves the caller with the state it had.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from consortium.identity import Entropy, SigningKey
from secagg import derive
from secagg.context import Context
from secagg.errors import SecaggError
from secagg.messages import Kem, KemEntry, KemRequest, Keys, sign
from secagg.roll import Roll, check_ciphertext_size, check_kem_entry, check_keys, make_roll

X25519_SEED_SIZE = 32
MLKEM_SEED_SIZE = 64

Encapsulate: TypeAlias = Callable[[bytes], tuple[bytes, bytes]]  # ML-KEM-768 public key -> (secret, ciphertext)


def encapsulate(public: bytes) -> tuple[bytes, bytes]:
    """A fresh secret for an ML-KEM-768 public key and its ciphertext; the randomness is the library's own."""
    return MLKEM768PublicKey.from_public_bytes(public).encapsulate()


@dataclass(frozen=True)
class Identity:
    """Who we are in a plan."""

    context: Context
    site: str
    key: SigningKey


@dataclass(frozen=True)
class EpochSecrets:
    """Private keys of one epoch."""

    x25519: X25519PrivateKey = field(repr=False)
    mlkem: MLKEM768PrivateKey = field(repr=False)


@dataclass(frozen=True)
class Announced:
    """What a site said when the epoch began; the same bytes answer the same question."""

    number: int
    started: float
    message: bytes = field(repr=False)


@dataclass(frozen=True)
class Keyed:
    """Has announced keys, knows no peers."""

    announced: Announced
    secrets: EpochSecrets = field(repr=False)


@dataclass(frozen=True)
class Listed:
    """Has taken one list of peers, for good."""

    announced: Announced
    secrets: EpochSecrets = field(repr=False)
    roll: Roll
    listing: bytes = field(repr=False)
    answer: bytes = field(repr=False)
    encapsulated: Mapping[str, tuple[bytes, bytes]] = field(repr=False)  # higher peer -> (secret, ciphertext)


@dataclass(frozen=True)
class Joined:
    """Shares a key with every peer; the private keys are gone."""

    announced: Announced
    roll: Roll
    listing: bytes = field(repr=False)
    answer: bytes = field(repr=False)
    pairs: Mapping[str, bytes] = field(repr=False)  # peer -> C


def announce(me: Identity, number: int, now: float, entropy: Entropy) -> Keyed:
    """Fresh keys of an epoch, signed under roster and plan."""
    x25519 = X25519PrivateKey.from_private_bytes(entropy(X25519_SEED_SIZE))
    mlkem = MLKEM768PrivateKey.from_seed_bytes(entropy(MLKEM_SEED_SIZE))
    publics = (x25519.public_key().public_bytes_raw(), mlkem.public_key().public_bytes_raw())
    unsigned = Keys(me.context.roster_digest, me.context.plan_digest, number, me.site, *publics)
    message = replace(unsigned, signature=sign(me.key, "keys", *unsigned.signed_fields())).encode()
    return Keyed(Announced(number, now, message), EpochSecrets(x25519, mlkem))


def take_list(me: Identity, keyed: Keyed, request: bytes, sealed_to: Encapsulate) -> Listed:
    """Check the peers' keys in the specified order and answer the ciphertexts to every higher one."""
    messages = KemRequest.decode(request).keys
    keys = check_keys(me.context, keyed.announced.number, messages)
    if keyed.announced.message not in messages:
        raise SecaggError("OWN_KEY", f"the keys of {me.site} are missing or altered in the list: nothing is shared", (me.site,))
    roll = make_roll(me.context, keyed.announced.number, messages, keys)
    higher = [site for site in roll.sites if site > me.site]
    encapsulated = {peer: sealed_to(roll.keys[peer].mlkem) for peer in higher}
    entries = []
    for peer in higher:
        ciphertext = encapsulated[peer][1]
        signature = sign(me.key, "kem", *KemEntry.signed_fields(roll.epoch_id, me.site, peer, ciphertext))
        entries.append(KemEntry(peer, ciphertext, signature))
    answer = Kem(roll.epoch_id, me.site, tuple(entries)).encode()
    return Listed(keyed.announced, keyed.secrets, roll, request, answer, encapsulated)


def join(me: Identity, listed: Listed, kems: tuple[KemEntry, ...]) -> Joined:
    """Derive every pair key: `PEERS` unless exactly the lower peers, `SIGNATURE`, `ENCODING`."""
    roll = listed.roll
    lower = tuple(site for site in roll.sites if site < me.site)
    if tuple(entry.peer for entry in kems) != lower:
        raise SecaggError("PEERS", f"{len(kems)} ciphertexts, expected one of each of: {', '.join(lower) or 'nobody'}", lower)
    for entry in kems:
        check_kem_entry(me.context, roll, entry.peer, me.site, entry)
    for entry in kems:
        check_ciphertext_size(entry.peer, entry)
    shared = {entry.peer: (listed.secrets.mlkem.decapsulate(entry.ciphertext), entry.ciphertext) for entry in kems}
    shared.update(listed.encapsulated)
    pairs = {}
    for peer, (secret, ciphertext) in shared.items():
        agreed = _agree(listed.secrets.x25519, roll.keys[peer].x25519, peer)
        low, high = sorted((me.site, peer))
        pairs[peer] = derive.pair_key(roll.epoch_id, agreed, secret, (low, high), ciphertext)
    return Joined(listed.announced, roll, listed.listing, listed.answer, pairs)


def _agree(private: X25519PrivateKey, public: bytes, peer: str) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:  # the library refuses the all-zero result of a small-order point
        raise SecaggError("ENCODING", f"X25519 key of {peer} agrees on zero: leave it out of the epoch", (peer,)) from error
