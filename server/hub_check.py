"""Is the hub ready? One line for each thing that is not, with what to do about it; nothing is changed."""

import contextlib
import ctypes
import os
import sqlite3
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from consortium.errors import ConsortiumError
from server.errors import ServerError
from server.home import LeadHome
from server.tls import fingerprint

OK, PROBLEM, NOT_TRIED = "ok", "PROBLEM", "not tried"
LIMIT_S: Final = 10.0
ROOM_MIB: Final = 1_024  # a run's records and checkpoints
DAYS_LEAST: Final = 30  # of the certificate: time to renew it in office hours
CLOCK_UNSET: Final = 5  # adjtimex returns TIME_ERROR: the kernel's clock is not synchronised


class NotTried(ServerError):
    """Nothing to look at, and why."""


@dataclass(frozen=True)
class Finding:
    """What one look found, for people and programs."""

    check: str
    state: str
    detail: str


@dataclass(frozen=True)
class HubCheck:
    """The looks at a hub in `home`. `nodes`: keys of the registered gateways; `key_of`: the same form of a key on the roster."""

    home: LeadHome
    port: int
    nodes: Callable[[], Sequence[bytes]]
    key_of: Callable[[str], bytes]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def findings(self) -> list[Finding]:
        """All of them; one that fails hides no other."""
        looks: dict[str, Callable[[], str]] = {
            "roster": self._roster,
            "port": self._port,
            "certificate": self._certificate,
            "disk": self._disk,
            "database": self._database,
            "clock": clock,
            "gateways": self._gateways,
        }
        return [_looked(name, look) for name, look in looks.items()]

    def _roster(self) -> str:
        roster = self.home.roster()
        return f"{roster.consortium}, version {roster.version}, {len(roster.sites)} sites"

    def _port(self) -> str:
        """Bound, and by a hub with this folder's certificate."""
        try:
            shown = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", self.port), timeout=LIMIT_S))
        except ConnectionRefusedError as error:
            raise ServerError(f"nothing listens on port {self.port}: run `wardround-lead hub start --port {self.port}`") from error
        except (OSError, ValueError) as error:
            raise ServerError(f"port {self.port} answers no TLS ({type(error).__name__}): stop who listens there") from error
        if shown != ssl.PEM_cert_to_DER_cert((self._tls / "server.pem").read_text("ascii")):
            raise ServerError(f"port {self.port} shows another certificate than {self._tls / 'server.pem'}: start the hub again")
        return f"a hub with this folder's certificate listens on {self.port}"

    def _certificate(self) -> str:
        path = self._tls / "server.pem"
        try:
            found = x509.load_pem_x509_certificate(path.read_bytes())
            found.verify_directly_issued_by(x509.load_pem_x509_certificate((self._tls / "ca.pem").read_bytes()))
        except OSError as error:
            raise ServerError(f"{error.filename} cannot be read: run `wardround-lead hub init`") from error
        except (ValueError, TypeError, InvalidSignature) as error:
            raise ServerError(f"{path} was not issued by {self._tls / 'ca.pem'}: restore both from your backup") from error
        now, names = self.now(), found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        told = ", ".join([*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))])
        left = (found.not_valid_after_utc - now).days
        if now < found.not_valid_before_utc:
            raise ServerError(
                f"the certificate is valid from {found.not_valid_before_utc:%Y-%m-%d}: set this machine's clock by NTP"
            )
        if left < DAYS_LEAST:
            raise ServerError(
                f"the certificate is valid for {left} more days, {DAYS_LEAST} are wanted: make a new one of the same authority "
                f"(move {path.name} away and start the hub again)"
            )
        return f"for {told}; valid for {left} more days; authority SHA-256 {fingerprint(self._tls / 'ca.pem')}"

    def _disk(self) -> str:
        disk = os.statvfs(self.home.root)
        free = disk.f_bavail * disk.f_frsize // 2**20
        if free < ROOM_MIB:
            raise ServerError(f"{free} MiB are free at {self.home.root}, at least {ROOM_MIB} are needed: make room")
        for folder in (self.home.root, self.home.hub, self.home.runs):
            if folder.exists() and not os.access(folder, os.W_OK):
                raise ServerError(f"{folder} cannot be written to by user {os.geteuid()}: chown it, or mount it writable")
        return f"{free} MiB free"

    def _database(self) -> str:
        """A write is begun and taken back: that needs the lock, the journal and the disk, and changes nothing."""
        path = self.home.hub / "flower.db"
        if not path.exists():
            raise NotTried(f"there is no {path} yet: the hub was never started")
        try:
            with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=LIMIT_S)) as database:
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise ServerError(
                f"{path} cannot be written to ({error}): see its owner, the disk, and who else has it open"
            ) from error
        return f"{path.stat().st_size // 2**10} KiB, can be written to"

    def _gateways(self) -> str:
        roster, registered = self.home.roster(), set(self.nodes())
        listed = {member.id: self.key_of(member.transport_key) for member in roster.sites}
        missing = sorted(site for site, key in listed.items() if key not in registered)
        strangers = len(registered - set(listed.values()))
        if missing or strangers:
            words = [f"not registered: {', '.join(missing)}"] if missing else []
            words += [f"{strangers} registered gateways are on no line of the roster"] if strangers else []
            raise ServerError(
                f"roster version {roster.version} and hub differ, {'; '.join(words)}: run `wardround-lead hub register`"
            )
        return f"the {len(listed)} of roster version {roster.version} and no others"

    @property
    def _tls(self) -> Path:
        return self.home.hub / "tls"


def _looked(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, OK, look())
    except NotTried as reason:
        return Finding(name, NOT_TRIED, str(reason))
    except (ServerError, ConsortiumError) as error:
        return Finding(name, PROBLEM, str(error))
    except OSError as error:
        return Finding(name, PROBLEM, f"{error.filename or 'the system'}: {error.strerror}")


def clock() -> str:
    """Whether the kernel says that its clock is synchronised; asking changes nothing."""
    buffer = ctypes.create_string_buffer(512)  # struct timex with modes 0, larger than it is anywhere
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    if state < 0:
        raise NotTried("this system does not tell whether its clock is synchronised")
    if state == CLOCK_UNSET:
        raise NotTried(
            "the kernel has no word that its clock is synchronised: `timedatectl` should say 'System clock synchronized: yes'"
        )
    return f"synchronised, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
