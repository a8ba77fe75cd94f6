"""Whose certificate answers at the hub's port: the hub's own, an interceptor's, another server's, or none at all.

The gateway trusts one authority, the one that came with the invite. What it refuses is looked at once more without trust, to
say why; nothing but the handshake is ever said on such a connection.
"""

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from client.preflight.findings import NotTried, Problem, shown
from client.preflight.route import Hub, Way

HANDSHAKE_LIMIT_S = 10.0
PLAIN_LIMIT_S: Final = 3.0
OUT_OF_DATE: Final = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


@dataclass(frozen=True)
class Secure:
    """Makes TLS connections to the hub that `way` leads to, trusting the authority in `authority_file` alone."""

    way: Way
    authority_file: Path
    limit_s: float = field(default_factory=lambda: HANDSHAKE_LIMIT_S)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def certificate(self) -> str:
        """The line of the check. Raises `Problem`."""
        authority = self.authority()
        with contextlib.closing(self.open()) as line:
            shown_to_us = x509.load_der_x509_certificate(line.getpeercert(binary_form=True) or b"")
            version = line.version()
        left = (shown_to_us.not_valid_after_utc - self.now()).days
        return f"the hub's, valid for {left} more days, {version}, authority SHA-256 {digest(authority)}"

    def open(self) -> ssl.SSLSocket:
        """A fresh connection. Raises `Problem` that says what is wrong with whoever answered."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # as the gateway makes it
        authority = self.authority()
        context.load_verify_locations(self.authority_file)
        line = self.way.open()
        line.settimeout(self.limit_s)
        try:
            return context.wrap_socket(line, server_hostname=self.way.hub.host)
        except ssl.SSLCertVerificationError as error:
            line.close()
            raise self._untrusted(error, authority) from error
        except (OSError, ValueError) as error:
            line.close()
            raise self._no_tls(error) from error

    def authority(self) -> x509.Certificate:
        """The authority that came with the invite. Raises `Problem`."""
        try:
            return x509.load_pem_x509_certificate(self.authority_file.read_bytes())
        except (OSError, ValueError) as error:
            raise Problem("NO_AUTHORITY", f"{self.authority_file} is missing or no certificate") from error

    def _untrusted(self, error: ssl.SSLCertVerificationError, authority: x509.Certificate) -> Problem:
        hub = self.way.hub
        try:
            found = self._shown()
        except (OSError, ValueError, Problem, NotTried):
            return Problem("CERTIFICATE_BAD", f"the certificate at {hub} is refused ({shown(error.verify_message)})")
        if issued_by(found, authority):
            return self._ours(found, error)
        print_of = f"its SHA-256 is {digest(found)}; expected was one issued by the authority with SHA-256 {digest(authority)}"
        if found.issuer == authority.subject:
            return Problem("OTHER_AUTHORITY", f"{hub} shows a certificate of another '{common_name(found.issuer)}': {print_of}")
        if fits(found, hub):
            return Problem(
                "INTERCEPTED",
                f"the certificate at {hub} was issued by '{common_name(found.issuer)}', not by the hub's own: {print_of}",
            )
        names = ", ".join(map(shown, names_of(found)[:3])) or common_name(found.subject)
        return Problem(
            "OTHER_SERVER", f"{hub} shows a certificate for {names}, issued by '{common_name(found.issuer)}': {print_of}"
        )

    def _ours(self, found: x509.Certificate, error: ssl.SSLCertVerificationError) -> Problem:
        """A certificate of the hub's own authority, and refused all the same."""
        hub, now = self.way.hub, self.now()
        dates = f"valid {_day(found.not_valid_before_utc)} to {_day(found.not_valid_after_utc)}, the clock here says {_day(now)}"
        if error.verify_code in OUT_OF_DATE and now < found.not_valid_before_utc:
            return Problem("CERTIFICATE_EARLY", f"the certificate at {hub} is not valid yet: {dates}")
        if error.verify_code in OUT_OF_DATE:
            return Problem("CERTIFICATE_EXPIRED", f"the certificate at {hub} has expired: {dates}")
        if not fits(found, hub):
            names = ", ".join(map(shown, names_of(found)))
            return Problem("CERTIFICATE_NAME", f"the certificate at {hub} is the hub's, for {names} and not for {hub.host}")
        return Problem("CERTIFICATE_BAD", f"the certificate at {hub} is refused ({shown(error.verify_message)})")

    def _shown(self) -> x509.Certificate:
        """The certificate that is shown to whoever comes; trusted for nothing."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # to describe what was refused; no byte is sent on this line
        line = self.way.open()
        line.settimeout(self.limit_s)
        with line, context.wrap_socket(line, server_hostname=self.way.hub.host) as tunnel:
            return x509.load_der_x509_certificate(tunnel.getpeercert(binary_form=True) or b"")

    def _no_tls(self, error: Exception) -> Problem:
        hub = self.way.hub
        if isinstance(error, TimeoutError):
            return Problem("TLS_SILENT", f"{hub} accepts connections and says nothing for {self.limit_s:g} s")
        if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or not isinstance(error, ssl.SSLError):
            said = self._plain_answer()
            if not said:
                return Problem("TLS_CUT", f"{hub} ends the connection while TLS is agreed ({type(error).__name__})")
            return Problem("NOT_TLS", f"{hub} speaks no TLS: it answers {said}")
        reason = shown(str(error.reason or type(error).__name__))
        return Problem("NOT_TLS", f"{hub} speaks no TLS ({reason}): it answers {self._plain_answer() or 'nothing to plain HTTP'}")

    def _plain_answer(self) -> str:
        """The first words of whoever answers to plain HTTP at the port, and where it sends a browser; empty for nobody."""
        hub = self.way.hub
        with contextlib.suppress(OSError, Problem, NotTried), self.way.open() as line:
            line.settimeout(PLAIN_LIMIT_S)
            line.sendall(f"GET / HTTP/1.1\r\nHost: {hub}\r\nConnection: close\r\n\r\n".encode())
            first, *headers = _read_some(line).decode("latin-1").split("\r\n")
            place = next((header for header in headers if header.lower().startswith("location:")), "")
            return ", ".join(f"'{shown(part)}'" for part in (first, place) if part)
        return ""


def _read_some(line: socket.socket) -> bytes:
    parts = b""
    with contextlib.suppress(OSError):
        while len(parts) < 2048 and (part := line.recv(2048)):
            parts += part
    return parts


def issued_by(found: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether `authority`'s key signed `found`."""
    try:
        found.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def fits(found: x509.Certificate, hub: Hub) -> bool:
    """Whether a certificate is for the hub's name."""
    host = hub.host.lower()
    with contextlib.suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    names = [name.lower() for name in names_of(found)]
    return host in names or f"*.{host.partition('.')[2]}" in names


def names_of(found: x509.Certificate) -> list[str]:
    """Host names and addresses that a certificate is for."""
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def common_name(name: x509.Name) -> str:
    """CN of a distinguished name, or all of it."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return shown(str(found[0].value) if found else name.rfc4514_string())


def digest(certificate: x509.Certificate) -> str:
    """SHA-256 as pairs of hex digits, as browsers and openssl print it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M")
