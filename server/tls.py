"""TLS material of the hub: an authority of its own, and a server certificate for exactly the names it is given.

ECDSA P-256, SHA-256. The authority's key signs server certificates only and never leaves the hub; sites pin the
authority's certificate, told apart by the fingerprint that both sides read out.
"""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from server.errors import ServerError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 825  # the longest that common clients accept
CLOCK_SKEW = datetime.timedelta(hours=1)


class TlsError(ServerError):
    """Certificates that cannot be made or read."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the authority's certificate (given to the sites), the server's certificate and private key."""

    ca: Path
    certificate: Path
    key: Path


def make_tls(folder: Path, names: Sequence[str], *, now: datetime.datetime) -> TlsFiles:
    """Write an authority and a server certificate for `names` (host names or addresses) into `folder`.

    An existing authority is kept, so that a new server certificate needs no visit to the sites. Keys get mode 0600.
    """
    if not names:
        raise TlsError("a server certificate needs at least one host name or address")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = TlsFiles(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    authority_key, authority = _authority(folder, files.ca, now)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(names[0], now, SERVER_DAYS)
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write(files.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    _write(files.key, _private_bytes(key), 0o600)
    return files


def fingerprint(ca: Path) -> str:
    """SHA-256 of a certificate as pairs of hex digits, as browsers and openssl print it."""
    try:
        certificate = x509.load_pem_x509_certificate(ca.read_bytes())
    except ValueError as error:
        raise TlsError(f"{ca} is not a PEM certificate") from error
    return ":".join(f"{byte:02X}" for byte in certificate.fingerprint(hashes.SHA256()))


def _authority(folder: Path, path: Path, now: datetime.datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_path = folder / "ca.key"
    if path.exists() and key_path.exists():
        kept = serialization.load_pem_private_key(key_path.read_bytes(), None)
        if not isinstance(kept, ec.EllipticCurvePrivateKey):
            raise TlsError(f"{key_path} is not an ECDSA key: move the folder away and make a new authority")
        return kept, x509.load_pem_x509_certificate(path.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("wardround hub authority", now, AUTHORITY_DAYS)
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        builder.issuer_name(_name("wardround hub authority"))
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_path, _private_bytes(key), 0o600)
    _write(path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return key, certificate


def _builder(common_name: str, now: datetime.datetime, days: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(path: Path, content: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
