"""Every key and digest of the protocol has one name and one derivation, and they all stand in this file.

Sites and texts enter as ASCII, integers as 8 bytes, lists as `pack` of their items, values as 32 bytes.
"""

from collections.abc import Iterable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from consortium.canonical import digest, integer, pack, text
from consortium.identity import Entropy
from secagg import field

PURPOSES = ("train", "evaluate", "describe")
DIGEST_SIZE: Final = 32
KEY_SIZE: Final = 32
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
_SHA256: Final = hashes.SHA256()


def label_of(name: str) -> str:
    """The label under which this protocol hashes and signs; no other document of a consortium starts with it."""
    return f"sa1/{name}"


def hash_of(name: str, *fields: bytes) -> bytes:
    """H of the specification, 32 bytes."""
    return digest(label_of(name), *fields)


def expand(key: bytes, name: str, *fields: bytes, size: int = KEY_SIZE) -> bytes:
    """X of the specification: HKDF-Expand-SHA256 whose info is H(name, fields)."""
    return HKDFExpand(_SHA256, size, hash_of(name, *fields)).derive(key)


def seal(key: bytes, aad: bytes, message: bytes, entropy: Entropy) -> bytes:
    """nonce || AES-256-GCM. A key seals once; the random nonce keeps a cloned machine from reusing a stream."""
    nonce = entropy(NONCE_SIZE)
    return nonce + AESGCM(key).encrypt(nonce, message, aad)


def unseal(key: bytes, aad: bytes, sealed: bytes) -> bytes | None:
    """The message, or None where these bytes were not sealed under this key and aad."""
    if len(sealed) < NONCE_SIZE + TAG_SIZE:
        return None
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], aad)
    except InvalidTag:
        return None


def epoch_id(keys_messages: Iterable[bytes]) -> bytes:
    """T: what all keys of an epoch hang on; sites that were shown other lists share nothing."""
    return hash_of("epoch", pack(*keys_messages))


def pair_key(epoch: bytes, agreed: bytes, encapsulated: bytes, pair: tuple[str, str], ciphertext: bytes) -> bytes:
    """C_ij from the X25519 and ML-KEM secrets; `pair` in ascending order. Safe while either of the two is."""
    low, high = pair
    info = hash_of("pair", text(low), text(high), ciphertext)
    return HKDF(_SHA256, KEY_SIZE, salt=epoch, info=info).derive(agreed + encapsulated)


def round_id(epoch: bytes, round_number: int, model_hash: bytes, purpose: str) -> bytes:
    """delta: epoch, round, model and purpose in one digest."""
    return hash_of("round", epoch, integer(round_number), model_hash, text(purpose))


def pair_mask(pair: bytes, delta: bytes) -> int:
    """e_ij, the value whose mask i adds and j subtracts."""
    return field.reduce_wide(expand(pair, "pair-mask", delta, size=field.WIDE_SIZE))


def share_key(pair: bytes, delta: bytes, dealer: str, receiver: str) -> bytes:
    """Opens the shares that `dealer` dealt to `receiver`; directed, so nobody can be handed its own deal back."""
    return expand(pair, "share", delta, text(dealer), text(receiver))


def commitment(delta: bytes, dealer: str, index: int, value: int) -> bytes:
    """com_ia; hiding because the values carry 255 bits of entropy."""
    return hash_of("commit", delta, text(dealer), integer(index), field.encode(value))


def masked_digest(y_digest: bytes, commitments: Iterable[bytes]) -> bytes:
    """D_i: what a site signs as its upload of a round."""
    return hash_of("masked", y_digest, pack(*commitments))


def view_id(delta: bytes, masked: Iterable[tuple[str, bytes]]) -> bytes:
    """h: the round and the set of uploads that a ballot is for; `masked` ascending by site."""
    return hash_of("view", delta, pack(*(pack(text(site), digest) for site, digest in masked)))


def release_key(pair: bytes, view: bytes, voter: str, opened: str) -> bytes:
    """Given away by `voter`; opens its box in the ballot of `opened`, never one in its own."""
    return expand(pair, "release", view, text(voter), text(opened))


def answer_key(kappa: int, view: bytes, voter: str) -> bytes:
    """Opens the answer in the ballot of `voter` once kappa is interpolated."""
    return expand(field.encode(kappa), "answer", view, text(voter))


def share_aad(delta: bytes, dealer: str, receiver: str, masked: bytes) -> bytes:
    return pack(delta, text(dealer), text(receiver), masked)


def box_aad(view: bytes, opener: str, voter: str) -> bytes:
    return pack(view, text(opener), text(voter))


def answer_aad(view: bytes, voter: str) -> bytes:
    return pack(view, text(voter))
