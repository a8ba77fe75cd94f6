"""A party is its Ed25519 key. A signature here covers a label and framed fields, so it can never be replayed as another kind.

Signed bytes: label in ASCII, one zero byte, `digest(label, fields)`. Secrets never appear in `repr` or errors.
"""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from consortium.canonical import digest, text
from consortium.errors import DocumentError, KeyFileError, SignatureError

Entropy = Callable[[int], bytes]  # os.urandom in programs, a recorded tape in tests

PUBLIC_SIZE = 32
SEED_SIZE = 32
SIGNATURE_SIZE = 64
FINGERPRINT_DIGITS, GROUP = 32, 4
BETWEEN_DIGITS = re.compile(r"[\s:\u00ad\u2010-\u2015\u2212\ufe58\ufe63\uff0d-]")  # spaces, dashes of any width, colons


class SigningKey:
    """An identity's private half; lives in memory and in one file that only its owner may read."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"SigningKey({fingerprint(self.public)})"

    @classmethod
    def from_seed(cls, seed: bytes) -> "SigningKey":
        if len(seed) != SEED_SIZE:
            raise KeyFileError(f"identity seed has {len(seed)} bytes, expected {SEED_SIZE}")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def generate(cls, entropy: Entropy = os.urandom) -> "SigningKey":
        return cls.from_seed(entropy(SEED_SIZE))

    def sign(self, label: str, *fields: bytes) -> bytes:
        """64 bytes over the label and the fields."""
        return self._private.sign(_signed_bytes(label, fields))

    def save(self, path: Path) -> None:
        """Write as PKCS8 PEM with mode 0600; an existing file is never overwritten."""
        pem = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise KeyFileError(f"{path} exists: a key is never overwritten; move it away first") from error
        except OSError as error:
            raise KeyFileError(f"cannot write the key file {path}: {error.strerror}; make its folder first") from error
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        try:
            mode = path.stat().st_mode
            pem = path.read_bytes()
        except OSError as error:
            raise KeyFileError(f"cannot read the key file {path}: {error.strerror}; run init, or check the mount") from error
        if stat.S_IMODE(mode) & 0o077:
            raise KeyFileError(f"{path} has mode {stat.S_IMODE(mode):04o}, others may read it: chmod 600 {path}")
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"{path} is not an unencrypted PEM key: restore it from your backup") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyFileError(f"{path} holds another kind of key, expected Ed25519")
        return cls(private)


def verify(public: bytes, signature: bytes, label: str, *fields: bytes) -> None:
    """Returns if `signature` is by `public` over exactly this label and these fields; raises `SignatureError` otherwise."""
    if len(public) != PUBLIC_SIZE:
        raise SignatureError(f"public key has {len(public)} bytes, expected {PUBLIC_SIZE}")
    if len(signature) != SIGNATURE_SIZE:
        raise SignatureError(f"signature has {len(signature)} bytes, expected {SIGNATURE_SIZE}")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _signed_bytes(label, fields))
    except InvalidSignature as error:
        raise SignatureError(f"signature for {label} does not match key {fingerprint(public)}: document altered") from error
    except ValueError as error:  # pragma: no cover - only for encodings that OpenSSL refuses outright
        raise SignatureError("public key is not a point of Ed25519") from error


def fingerprint(public: bytes) -> str:
    """Eight groups of four hex digits (128 bits) to be read over the telephone; the same on every side."""
    return _grouped(digest("wardround/fingerprint/1", public).hex()[:FINGERPRINT_DIGITS])


def parse_fingerprint(typed: str) -> str:
    """The fingerprint as `fingerprint` writes it, however it was typed: in capitals, in other groups, with other dashes.

    Raises `DocumentError` unless it has 32 hex digits.
    """
    digits = BETWEEN_DIGITS.sub("", typed).lower()
    if not re.fullmatch(r"[0-9a-f]{32}", digits):
        shown = "".join(letter if letter.isprintable() else "?" for letter in typed[:80])
        raise DocumentError(
            f"{shown!r} is no fingerprint: {len(digits)} characters without spaces and dashes, expected 32 of 0-9 and a-f"
        )
    return _grouped(digits)


def _grouped(digits: str) -> str:
    return "-".join(digits[at : at + GROUP] for at in range(0, FINGERPRINT_DIGITS, GROUP))


def _signed_bytes(label: str, fields: tuple[bytes, ...]) -> bytes:
    return text(label) + b"\0" + digest(label, *fields)
