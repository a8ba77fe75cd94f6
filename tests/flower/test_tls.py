"""The hub's certificate is good for its names only, and its authority survives a renewal."""

import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest

from server.tls import TlsError, fingerprint, make_tls

NOW = datetime.datetime.now(datetime.UTC)


def handshake(folder: Path, name: str) -> str:
    """The TLS version agreed with a client that trusts `folder`'s authority and asks for `name`."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    client = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(far, server_side=True).close()
        except ssl.SSLError:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=name) as tunnel:
            return str(tunnel.version())
    finally:
        near.close()
        thread.join(10)


@pytest.mark.parametrize("name", ["hub.example.org", "127.0.0.1", "localhost"])
def test_a_client_that_pins_the_authority_accepts_the_hubs_names(tmp_path: Path, name: str) -> None:
    make_tls(tmp_path, ["hub.example.org", "127.0.0.1", "localhost"], now=NOW)
    assert handshake(tmp_path, name).startswith("TLSv1")


def test_another_name_is_refused(tmp_path: Path) -> None:
    make_tls(tmp_path, ["hub.example.org"], now=NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, "evil.example.org")


def test_another_authority_is_refused(tmp_path: Path) -> None:
    make_tls(tmp_path / "one", ["localhost"], now=NOW)
    make_tls(tmp_path / "two", ["localhost"], now=NOW)
    (tmp_path / "one" / "ca.pem").write_bytes((tmp_path / "two" / "ca.pem").read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path / "one", "localhost")


def test_a_renewed_certificate_keeps_the_authority(tmp_path: Path) -> None:
    before = fingerprint(make_tls(tmp_path, ["localhost"], now=NOW).ca)
    old = (tmp_path / "server.pem").read_bytes()
    files = make_tls(tmp_path, ["localhost", "hub.example.org"], now=NOW)
    assert fingerprint(files.ca) == before
    assert files.certificate.read_bytes() != old
    assert handshake(tmp_path, "hub.example.org").startswith("TLSv1")


def test_private_keys_are_closed_to_others(tmp_path: Path) -> None:
    make_tls(tmp_path, ["localhost"], now=NOW)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ca.key", "server.key")} == {0o600}


def test_a_certificate_without_a_name_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TlsError, match="at least one"):
        make_tls(tmp_path, [], now=NOW)
    (tmp_path / "x.pem").write_text("no certificate")
    with pytest.raises(TlsError, match="PEM"):
        fingerprint(tmp_path / "x.pem")
