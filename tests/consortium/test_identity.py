"""An identity lives in one file that only its owner reads, and its private half shows up nowhere else."""

import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519

from consortium.errors import ConsortiumError, KeyFileError, SignatureError
from consortium.identity import SigningKey, fingerprint, verify

SEED = bytes(range(32))


def pem(key: object, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    written: bytes = key.private_bytes(  # type: ignore[attr-defined]  # any of cryptography's private keys
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    return written


def private_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_a_saved_key_is_loaded_again(tmp_path: Path) -> None:
    key = SigningKey.from_seed(SEED)
    key.save(tmp_path / "identity.pem")
    again = SigningKey.load(tmp_path / "identity.pem")
    assert again.public == key.public
    assert again.sign("label", b"field") == key.sign("label", b"field")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_saved_key_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        SigningKey.from_seed(SEED).save(tmp_path / "identity.pem")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "identity.pem").stat().st_mode) == 0o600


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    SigningKey.from_seed(SEED).save(path)
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten"):
        SigningKey.from_seed(bytes(32)).save(path)
    assert path.read_bytes() == before


def test_a_key_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "identity.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError):
        SigningKey.from_seed(SEED).save(tmp_path / "identity.pem")
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_folder_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot write the key file"):
        SigningKey.from_seed(SEED).save(tmp_path / "missing" / "identity.pem")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601, 0o777])
def test_a_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.pem"
    SigningKey.from_seed(SEED).save(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"has mode {mode:04o}.*chmod 600"):
        SigningKey.load(path)


def test_a_read_only_key_file_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    SigningKey.from_seed(SEED).save(path)
    path.chmod(0o400)
    assert SigningKey.load(path).public == SigningKey.from_seed(SEED).public


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an unencrypted PEM key"),
        (b"no key", "not an unencrypted PEM key"),
        (b"\xff\xfe\x00", "not an unencrypted PEM key"),
        (pem(ed25519.Ed25519PrivateKey.from_private_bytes(SEED))[:-40], "not an unencrypted PEM key"),
        (pem(ed25519.Ed25519PrivateKey.from_private_bytes(SEED), b"secret"), "not an unencrypted PEM key"),
        (pem(x25519.X25519PrivateKey.from_private_bytes(SEED)), "another kind of key"),
        (pem(ec.derive_private_key(7, ec.SECP384R1())), "another kind of key"),
    ],
    ids=["empty", "text", "binary", "cut", "encrypted", "x25519", "p384"],
)
def test_a_file_that_holds_no_ed25519_key_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(KeyFileError, match=words):
        SigningKey.load(private_file(tmp_path / "identity.pem", content))


def test_a_missing_key_file_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot read the key file"):
        SigningKey.load(tmp_path / "identity.pem")
    with pytest.raises(KeyFileError, match="cannot read the key file"):
        SigningKey.load(tmp_path)


def test_private_bytes_show_in_no_repr_and_no_error(tmp_path: Path) -> None:
    key = SigningKey.from_seed(SEED)
    written = pem(ed25519.Ed25519PrivateKey.from_private_bytes(SEED))
    shown = [repr(key), str(key), f"{key}", repr(vars(key)), repr([key])]
    path = private_file(tmp_path / "identity.pem", written[:-40])
    for action in (lambda: SigningKey.load(path), lambda: key.save(path), lambda: SigningKey.from_seed(SEED[:-1])):
        with pytest.raises(ConsortiumError) as caught:
            action()
        shown += [str(caught.value), repr(caught.value), repr(caught.value.__cause__)]
    secrets = [SEED.hex(), SEED.hex()[:16], repr(SEED)[2:20], written.decode().splitlines()[1]]
    assert [secret for secret in secrets for text in shown if secret in text] == []
    assert repr(key) == f"SigningKey({fingerprint(key.public)})"


def test_a_key_cannot_be_pickled() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(SigningKey.from_seed(SEED))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_seed_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(KeyFileError, match="expected 32"):
        SigningKey.from_seed(bytes(size))


def test_a_generated_key_takes_exactly_its_seed_from_the_entropy() -> None:
    asked: list[int] = []

    def tape(size: int) -> bytes:
        asked.append(size)
        return SEED

    assert SigningKey.generate(tape).public == SigningKey.from_seed(SEED).public
    assert asked == [32]


def test_generated_keys_differ() -> None:
    assert SigningKey.generate().public != SigningKey.generate().public


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_public_key_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(SignatureError, match="public key has"):
        verify(bytes(size), bytes(64), "label")


@pytest.mark.parametrize("public", [b"\xff" * 32, (2).to_bytes(32, "little"), bytes(32)])
def test_a_public_key_that_is_no_point_verifies_nothing(public: bytes) -> None:
    with pytest.raises(SignatureError):
        verify(public, SigningKey.from_seed(SEED).sign("label"), "label")


def test_another_partys_key_verifies_nothing(key: Callable[[str], SigningKey]) -> None:
    with pytest.raises(SignatureError, match="does not match"):
        verify(key("bergen").public, key("aalborg").sign("label", b"field"), "label", b"field")


def test_fingerprints_are_eight_groups_and_differ(key: Callable[[str], SigningKey]) -> None:
    prints = {fingerprint(key(name).public) for name in ("aalborg", "bergen", "cadiz")}
    assert len(prints) == 3
    assert all([len(group) for group in each.split("-")] == [4] * 8 for each in prints)
