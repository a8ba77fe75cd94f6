"""Small real servers that fail as hospital networks do: interceptors, proxies, portals, and hubs whose answers do not arrive.

Each is a context manager that listens on loopback in threads. `serve` (as a program) runs one hub where there is no test beside it.
"""

import contextlib
import datetime
import hashlib
import json
import re
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PATTERN = b"wardround/bytes/1"
Talk = Callable[[socket.socket], None]


def reset(line: socket.socket) -> None:
    """Close with RST in place of FIN."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.close()


@contextlib.contextmanager
def serving(talk: Talk, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Every connection is given to `talk` in a thread of its own; the port."""
    listener = socket.create_server((host, port), backlog=32)
    listener.settimeout(0.1)
    ended = threading.Event()
    lines: list[socket.socket] = []

    def one(line: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), line:
            talk(line)

    def accept() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                line, _ = listener.accept()
                line.settimeout(20.0)
                lines.append(line)
                threading.Thread(target=one, args=(line,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        ended.set()
        thread.join(5)
        listener.close()
        for line in lines:  # nobody goes on talking into the next test
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port at which SYNs are dropped, as a firewall drops them: its queue of connections is full."""
    with socket.socket() as listener, contextlib.ExitStack() as fillers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield int(listener.getsockname()[1])


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- certificates -----------------------------------------------------------------------------------------------------


def foreign_certificate(folder: Path, issuer: str, names: Sequence[str]) -> ssl.SSLContext:
    """A server context as an inspecting proxy has it: a fresh certificate for `names` of an authority called `issuer`."""
    folder.mkdir(parents=True, exist_ok=True)
    key, issuing = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    certificate = (
        x509.CertificateBuilder()
        .subject_name(name(names[0]))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .sign(issuing, hashes.SHA256())
    )
    (folder / "foreign.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "foreign.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return server_context(folder / "foreign.pem", folder / "foreign.key")


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


# --- a hub, and what can go wrong with its answers --------------------------------------------------------------------


@dataclass
class FakeHub:
    """A hub's front. Every byte that reaches it is kept in `heard`. `idle_cut_s`: connections silent so long are cut."""

    context: ssl.SSLContext
    version: str = "0.1.0"
    roster: int | None = None
    ahead_s: float = 0.0  # of the hub's clock
    older: int = 0  # status of all answers, of a hub without a front
    cut_after: int = 0  # bytes of a large answer, then FIN
    stall_after: int = 0  # bytes of a large answer, then nothing
    swallow: bool = False  # takes no large body
    altered: bool = False
    too_large: bool = False
    busy: bool = False
    reset: bool = False  # cut by RST
    mute: bool = False  # TLS, and then nothing
    hello: bytes = b""
    idle_cut_s: float = 0.0
    heard: list[bytes] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __call__(self, line: socket.socket) -> None:
        with self.context.wrap_socket(line, server_side=True) as tunnel:
            while (request := self._request(tunnel)) is not None:
                self._serve(tunnel, *request)

    def _request(self, tunnel: ssl.SSLSocket) -> tuple[str, str, bytes] | None:
        """(method, path, body) of the next request; None at the end, or when it was cut."""
        data = b""
        while b"\r\n\r\n" not in data:
            if self.idle_cut_s and not tunnel.pending() and not select.select([tunnel], [], [], self.idle_cut_s)[0]:
                self._end(tunnel)
                return None
            part = tunnel.recv(65_536)
            self._hear(part)
            if not part:
                return None
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        length = int((re.search(rb"(?i)content-length: (\d+)", head) or [b"", b"0"])[1])
        if self.swallow and length:
            time.sleep(30)
        while len(body) < length:
            part = tunnel.recv(65_536)
            self._hear(part)
            body += part
        method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
        return method, path, body

    def _hear(self, part: bytes) -> None:
        with self._lock:
            self.heard.append(part)

    def _end(self, tunnel: ssl.SSLSocket) -> None:
        if self.reset:
            tunnel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        tunnel.close()

    def _serve(self, tunnel: ssl.SSLSocket, method: str, path: str, body: bytes) -> None:
        if self.mute:
            time.sleep(30)
        if self.older:
            answer(tunnel, self.older, b"hub token missing or wrong")
        elif path == "/wardround/hello":
            moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.ahead_s)
            said = {"product": "wardround", "version": self.version, "utc": moment.isoformat(), "roster": self.roster}
            answer(tunnel, 200, self.hello or json.dumps(said).encode())
        elif self.busy:
            answer(tunnel, 503, b"{}")
        elif path.startswith("/wardround/bytes/"):
            self._bytes(tunnel, int(path.rsplit("/", 1)[1]))
        elif path == "/wardround/echo":
            said = {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
            answer(tunnel, 413 if self.too_large else 200, json.dumps(said).encode())
        elif path.startswith("/wardround/hold/"):
            self._hold(tunnel, float(path.rsplit("/", 1)[1]))
        else:
            answer(tunnel, 404, b"")

    def _bytes(self, tunnel: ssl.SSLSocket, size: int) -> None:
        content = bytearray(hashlib.shake_256(PATTERN).digest(size))
        if self.altered and size > 10_000:
            content[5000] ^= 1
        if size <= 10_000 or not (self.cut_after or self.stall_after):
            answer(tunnel, 200, bytes(content))
            return
        tunnel.sendall(
            f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + content[: self.cut_after or self.stall_after]
        )
        if self.stall_after:
            time.sleep(30)
        self._end(tunnel)

    def _hold(self, tunnel: ssl.SSLSocket, seconds: float) -> None:
        if self.idle_cut_s and self.idle_cut_s < seconds:
            time.sleep(self.idle_cut_s)
            self._end(tunnel)
        else:
            time.sleep(seconds)
            answer(tunnel, 200, b"{}")


def answer(line: socket.socket, status: int, body: bytes, *headers: str) -> None:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
    line.sendall("\r\n".join(lines).encode() + body)


# --- other things that answer on a port -------------------------------------------------------------------------------


def portal(line: socket.socket) -> None:
    """A captive portal: plain HTTP, to whatever comes."""
    line.recv(65_536)
    answer(line, 302, b"please log in", "Location: http://portal.hospital.example/login")


def accepts_and_says_nothing(line: socket.socket) -> None:
    time.sleep(30)


def cuts_at_once(line: socket.socket) -> None:
    line.recv(1)
    reset(line)


@dataclass
class HttpProxy:
    """A CONNECT proxy. `status`: what it refuses with; `offers`: its Proxy-Authenticate headers; `login`: what it takes."""

    status: int = 0
    offers: tuple[str, ...] = ()
    login: str = ""
    cuts: bool = False
    silent: bool = False
    garbage: bool = False
    idle_cut_s: float = 0.0
    heard: list[bytes] = field(default_factory=list)

    def __call__(self, line: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (part := line.recv(65_536)):
                return  # who only looked whether the port is open: waiting for more would take a processor until the tests end
            head += part
        self.heard.append(head)
        if self.cuts:
            reset(line)
        elif self.silent:
            time.sleep(30)
        elif self.garbage:
            line.sendall(b"220 mail.hospital.example ESMTP\r\n")
        elif self.status or (self.login and self.login.encode() not in head):
            answer(line, self.status or 407, b"", *(f"Proxy-Authenticate: {offer}" for offer in self.offers))
        else:
            host, port = head.split(b" ")[1].decode().rsplit(":", 1)
            with socket.create_connection((host.strip("[]"), int(port)), 5.0) as far:
                line.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self._between(line, far)

    def _between(self, near: socket.socket, far: socket.socket) -> None:
        while True:
            ready = select.select([near, far], [], [], self.idle_cut_s or 30.0)[0]
            if not ready:
                return
            for source, sink in ((near, far), (far, near)):
                if source in ready:
                    if not (part := source.recv(65_536)):
                        return
                    sink.sendall(part)


def serve(certificate: str, key: str, host: str, port: str) -> None:
    """A hub in a network namespace of its own, until it is ended."""
    hub = FakeHub(server_context(Path(certificate), Path(key)))
    with serving(hub, host, int(port)):
        print("ready", flush=True)
        threading.Event().wait(120)


if __name__ == "__main__":
    serve(*sys.argv[1:])
