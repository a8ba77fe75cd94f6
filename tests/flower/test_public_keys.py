"""A gateway's public key comes from a hospital's file: whatever is in it, the lead reads a sentence."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from client.errors import ConfigError
from client.hub_roster import RosterQuestions
from server.flower import HubError, public_key_of

KEY = ec.generate_private_key(ec.SECP384R1())
LINE = KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def altered(mark: int) -> str:
    """The same line, its point said to be of another form."""
    kind, blob = LINE.split()
    data = bytearray(base64.b64decode(blob))
    data[-97] = mark  # the first byte of the point; 4: uncompressed
    return f"{kind} {base64.b64encode(bytes(data)).decode('ascii')}"


def test_a_line_as_ssh_keygen_writes_it_is_read() -> None:
    assert public_key_of(altered(4)) == public_key_of(LINE)


@pytest.mark.parametrize("line", [altered(2), altered(3), altered(0), "", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384 AAAA", "key"])
def test_a_line_that_is_no_key_is_refused_in_words(line: str) -> None:
    with pytest.raises(HubError, match=r"the request's line is not an OpenSSH public key"):
        public_key_of(line, "the request's line")


def test_a_key_of_another_kind_is_refused_in_words() -> None:
    line = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
    with pytest.raises(HubError, match="not an ECDSA key"):
        public_key_of(line)


@pytest.mark.parametrize("content", [b"", b"no key", LINE.encode("ascii"), b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
def test_a_gateways_own_key_that_cannot_be_read_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "transport.key"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="restore it from your backup"):
        RosterQuestions("127.0.0.1:1", tmp_path / "ca.pem", path)
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    with pytest.raises(FileNotFoundError):  # the key is read, and the next file is missing
        RosterQuestions("127.0.0.1:1", tmp_path / "ca.pem", path)
