"""Talks to the hub in fixed bytes: what it is, what time it has, whether large answers and long silences survive the way.

Every byte that is sent stands in this file; none comes from a patient, a key or the site's folder.
"""

import contextlib
import hashlib
import http.client
import io
import json
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from client.preflight.findings import NotTried, Problem, shown
from client.preflight.tls import Secure
from client.preflight.versions import versions_fit

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

HELLO, BYTES, ECHO, HOLD = "/wardround/hello", "/wardround/bytes/", "/wardround/echo", "/wardround/hold/"
PATTERN: Final = b"wardround/bytes/1"  # SHAKE-256 of it is what the hub sends and what is sent to it
DOWN: Final = (1_024, 65_536, 1_048_576)  # bytes; a model comes in pieces of about a megabyte
UP: Final = (65_536, 1_048_576)
ANSWER_LIMIT_S = 10.0  # of a small answer; and without any byte of a large one
TRANSFER_LIMIT_S = 60.0
IDLE_ENDS_S = 60.0  # for opening two connections and their last answers
GRACE_S = 10.0  # for an answer that was due
LOOK_S: Final = 12  # the hub holds a gateway's request for up to 10 s: a silence this long must survive
HELLO_LIMIT: Final = 4_096
AHEAD_S, BEHIND_S = 4.0, 60.0  # the hub refuses signatures dated more than 5 s ahead of it, or 305 s behind
OLDER: Final = "the hub is older and has no such answer"
CLOSED = (http.client.HTTPException, ConnectionError, EOFError, ssl.SSLError)


@dataclass(frozen=True)
class Hello:
    """What the hub says of itself. `skew_s`: this clock minus the hub's, give or take `error_s`; None where it told no time."""

    version: str | None  # None: a hub older than this question
    roster: int | None
    skew_s: float | None
    error_s: float
    seconds: float


@dataclass
class Talk:
    """The probes that talk to the hub. `hello` comes first: the others ask for what it found."""

    secure: Secure
    version: str
    idle_s: int = 15
    clock: Callable[[], float] = time.time
    answer_limit_s: float = field(default_factory=lambda: ANSWER_LIMIT_S)
    transfer_limit_s: float = field(default_factory=lambda: TRANSFER_LIMIT_S)
    _found: Hello | None = field(default=None, repr=False)

    def hello(self) -> str:
        """Whether it is a hub of ours."""
        with self._line() as line:
            self._found = found = self._asked_hello(line)
        if found.version is None:
            return "a hub older than this question"
        return f"Wardround {shown(found.version)}, answers in {found.seconds:.2f} s"

    def clock_skew(self) -> str:
        """Raises `Problem` beyond what the hub's check of signatures bears; the round trip is the measurement's error."""
        found = self._hello()
        if found.skew_s is None:
            raise NotTried("the hub told no time")
        side = "ahead of" if found.skew_s > 0 else "behind"
        words = f"this clock is {abs(found.skew_s):.1f} s {side} the hub's (give or take {found.error_s:.1f} s)"
        if found.skew_s - found.error_s > AHEAD_S or -found.skew_s - found.error_s > BEHIND_S:
            raise Problem("CLOCK", f"{words}; at most {AHEAD_S:g} s ahead and {BEHIND_S:g} s behind will do")
        return words

    def fits(self) -> str:
        """Whether versions may work together."""
        found = self._hello()
        if found.version is None:
            raise NotTried(OLDER)
        if (why := versions_fit(self.version, found.version)) is not None:
            raise Problem("VERSION", why)
        return f"{self.version} here, {shown(found.version)} at the hub"

    def roster(self, ours: Callable[[], int]) -> str:
        """The hub's roster against the one here."""
        theirs = self._hello().roster
        if theirs is None:
            raise NotTried("the hub told no roster version")
        mine = ours()
        if mine != theirs:
            code = "ROSTER_OLD" if mine < theirs else "ROSTER_NEW"
            raise Problem(code, f"roster version {mine} here, {theirs} at the hub")
        return f"version {mine} here and at the hub"

    def transfer(self) -> str:
        """Known bytes from the hub and to it, small first: what arrives is compared by length and SHA-256."""
        if self._hello().version is None:
            raise NotTried(OLDER)
        began = time.monotonic()
        for size in DOWN:
            with self._line() as line:
                self._fetched(line, size)
        for size in UP:
            with self._line() as line:
                self._sent(line, size)
        seconds = time.monotonic() - began
        return f"{max(DOWN)} bytes down and {max(UP)} up arrived whole, {(sum(DOWN) + sum(UP)) / seconds / 1024:.0f} KiB/s"

    def idle(self) -> str:
        """Two silent connections for `idle_s` seconds, one with a request that the hub holds: who cuts them, and when?"""
        if self._hello().version is None:
            raise NotTried(OLDER)
        outcomes: queue.Queue[str | Problem | NotTried] = queue.Queue()

        def watched(look: Callable[[], str]) -> None:
            try:
                outcomes.put(look())
            except (Problem, NotTried) as found:
                outcomes.put(found)

        for look in (self._held, self._unused):
            threading.Thread(target=watched, args=(look,), name="check-idle", daemon=True).start()
        try:
            ended = [outcomes.get(timeout=self.idle_s + IDLE_ENDS_S) for _ in range(2)]
        except queue.Empty:
            raise Problem("SLOW", f"silent connections had no end {IDLE_ENDS_S:.0f} s after their time") from None
        for kind in (Problem, NotTried):
            for found in ended:
                if isinstance(found, kind):
                    raise found
        return "; ".join(sorted(map(str, ended)))

    def _held(self) -> str:
        with self._line() as line:
            began = time.monotonic()
            line.settimeout(self.idle_s + GRACE_S)
            try:
                answer = _ask(line, self._host, "GET", f"{HOLD}{self.idle_s}")
                answer.read(HELLO_LIMIT)
            except TimeoutError:
                return self._cut("a request that the hub holds", time.monotonic() - began, "nobody says so: the answer never came")
            except CLOSED as error:
                return self._cut("a request that the hub holds", time.monotonic() - began, _side(error))
            self._busy(answer)
        return f"a held request was answered after {time.monotonic() - began:.0f} s"

    def _unused(self) -> str:
        """Opened, silent, then used for the first time."""
        with self._line() as line:
            began = time.monotonic()
            try:
                _silent(line, self.idle_s)
                line.settimeout(GRACE_S)
                _ask(line, self._host, "GET", HELLO).read(HELLO_LIMIT)
            except TimeoutError:
                return self._cut(
                    "a connection without a request", time.monotonic() - began, "nobody says so: no answer came on it any more"
                )
            except CLOSED as error:
                return self._cut("a connection without a request", time.monotonic() - began, _side(error))
        return f"an unused connection still worked after {self.idle_s} s"

    def _cut(self, what: str, after_s: float, side: str) -> str:
        words = f"{what} was cut after {after_s:.1f} s ({side})"
        if after_s < LOOK_S or "nobody" in side:
            raise Problem("IDLE_CUT", f"{words}; {LOOK_S} s are needed")
        return f"{words}: the gateway asks every 10 s and does not notice"

    @property
    def _host(self) -> str:
        return str(self.secure.way.hub)

    @contextlib.contextmanager
    def _line(self) -> Iterator[ssl.SSLSocket]:
        with contextlib.closing(self.secure.open()) as line:
            line.settimeout(self.answer_limit_s)
            yield line

    def _hello(self) -> Hello:
        if self._found is None:
            raise NotTried("the hub did not say what it is")
        return self._found

    def _asked_hello(self, line: ssl.SSLSocket) -> Hello:
        before, began = self.clock(), time.monotonic()
        try:
            answer = _ask(line, self._host, "GET", HELLO)
            body = answer.read(HELLO_LIMIT)
        except TimeoutError as error:
            raise Problem(
                "TLS_SILENT", f"{self._host} agrees on TLS and then answers nothing for {self.answer_limit_s:g} s"
            ) from error
        except CLOSED as error:
            raise Problem("CUT_OFF", f"{self._host} ends the connection instead of answering ({_side(error)})") from error
        seconds = time.monotonic() - began
        middle = before + seconds / 2
        if answer.status in (
            http.HTTPStatus.NOT_FOUND,
            http.HTTPStatus.FORBIDDEN,
        ):  # 403: the gate of a hub that does not know the path
            told = _date(answer.headers.get("Date", ""))
            return Hello(None, None, None if told is None else middle - told - 0.5, seconds / 2 + 0.5, seconds)
        return self._read_hello(answer.status, body, middle, seconds)

    def _read_hello(self, status: int, body: bytes, middle: float, seconds: float) -> Hello:
        try:
            said = json.loads(body)
            version, roster, told = (
                said["version"],
                said["roster"],
                datetime.fromisoformat(said["utc"]).replace(tzinfo=UTC).timestamp(),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._stranger(status) from error
        if said["product"] != "wardround" or not isinstance(version, str) or not (roster is None or type(roster) is int):
            raise self._stranger(status)
        return Hello(version, roster, middle - told, seconds / 2 + 0.1, seconds)

    def _stranger(self, status: int) -> Problem:
        return Problem("NOT_A_HUB", f"{self._host} answers with status {status} and no greeting of a hub")

    def _fetched(self, line: ssl.SSLSocket, size: int) -> None:
        wanted = hashlib.shake_256(PATTERN).digest(size)
        got, end = bytearray(), time.monotonic() + self.transfer_limit_s
        try:
            answer = _ask(line, self._host, "GET", f"{BYTES}{size}")
            self._busy(answer)
            while len(got) < size and (part := answer.read1(65_536)):
                got += part
                if time.monotonic() > end:
                    raise Problem("SLOW_LINE", f"{len(got)} of {size} bytes came in {self.transfer_limit_s:g} s")
        except TimeoutError as error:
            words = f"of {size} bytes from the hub {len(got)} came, then nothing for {self.answer_limit_s:g} s"
            raise Problem("LARGE_STALLS", words) from error
        except CLOSED as error:
            raise Problem("CUT_OFF", f"of {size} bytes from the hub {len(got)} came ({_side(error)})") from error
        if len(got) < size:
            raise Problem("CUT_OFF", f"of {size} bytes from the hub {len(got)} came ({_side(EOFError())})")
        if bytes(got) != wanted:
            raise Problem("ALTERED", f"{size} bytes from the hub came with SHA-256 {_short(got)}, expected {_short(wanted)}")

    def _sent(self, line: ssl.SSLSocket, size: int) -> None:
        body = hashlib.shake_256(PATTERN).digest(size)
        line.settimeout(self.answer_limit_s)
        try:
            answer = _ask(line, self._host, "POST", ECHO, body)
            said = json.loads(answer.read(HELLO_LIMIT)) if answer.status == http.HTTPStatus.OK else {}
        except TimeoutError as error:
            raise Problem("LARGE_STALLS", f"{size} bytes to the hub were not taken within {self.answer_limit_s:g} s") from error
        except CLOSED as error:
            raise Problem("CUT_OFF", f"the connection ended while {size} bytes were sent to the hub ({_side(error)})") from error
        except (ValueError, RecursionError) as error:
            raise Problem("ALTERED", f"the hub's answer to {size} bytes cannot be read") from error
        self._busy(answer)
        if answer.status == http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise Problem("CUT_OFF", f"{size} bytes to the hub are refused as too large (413) by something between")
        if not isinstance(said, dict) or said.get("length") != size or said.get("sha256") != hashlib.sha256(body).hexdigest():
            raise Problem("ALTERED", f"the hub got other bytes than the {size} that were sent (status {answer.status})")

    def _busy(self, answer: http.client.HTTPResponse) -> None:
        if answer.status == http.HTTPStatus.SERVICE_UNAVAILABLE:
            raise NotTried("the hub answers too many checks just now: try again")


class _Reader(io.RawIOBase):
    """Reads a TLS connection and looks beneath it: Python's TLS says "end" of FIN and of RST."""

    def __init__(self, line: ssl.SSLSocket) -> None:
        line.suppress_ragged_eofs = False  # type: ignore[attr-defined]  # typeshed does not know it
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Raises `TimeoutError` after the connection's time-out, `EOFError` after a FIN, `ConnectionResetError` after an RST."""
        limit_s = self._line.gettimeout() or 0.0
        end = time.monotonic() + limit_s
        while True:
            if not self._line.pending():
                if not select.select([self._line], [], [], max(0.0, end - time.monotonic()))[0]:
                    raise TimeoutError
                if socket.socket.recv(self._line, 1, socket.MSG_PEEK) == b"":
                    raise EOFError
            self._line.settimeout(0.0)
            try:
                return self._line.recv_into(buffer)
            except ssl.SSLWantReadError:  # a part of TLS itself, such as a ticket
                continue
            except ssl.SSLEOFError as error:  # in the middle of a record, where TLS itself met it; for a FIN OpenSSL has a name
                raise EOFError if error.reason else ConnectionResetError from error
            finally:
                self._line.settimeout(limit_s)

    def makefile(self, mode: str) -> io.BufferedReader:
        """What `http.client` asks a socket for."""
        del mode
        return io.BufferedReader(self)


def _ask(line: ssl.SSLSocket, host: str, method: str, path: str, body: bytes = b"") -> http.client.HTTPResponse:
    """One request of fixed words on an open connection. Raises `TimeoutError` and what `CLOSED` names."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    line.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n".encode() + body)
    answer = http.client.HTTPResponse(_Reader(line), method=method)  # type: ignore[arg-type]  # asks for a file and no more
    answer.begin()
    return answer


def _silent(line: ssl.SSLSocket, seconds: float) -> None:
    """Say nothing for so long. Raises `EOFError` or `ConnectionError` as soon as the connection ends."""
    line.settimeout(seconds)
    with contextlib.suppress(TimeoutError):
        if _Reader(line).readinto(bytearray(1)) == 0:
            raise EOFError


def _side(error: Exception) -> str:
    """How the connection ended, as an engineer would look for it in a trace."""
    if isinstance(error, ConnectionResetError) and not isinstance(error, http.client.RemoteDisconnected):
        return "RST from the far side or a device between"
    if isinstance(error, BrokenPipeError):
        return "the far side no longer takes anything"
    return "FIN, closed in order from the far side or a device between"


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


def _short(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
