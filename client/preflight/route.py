"""The way from here to the hub's port, one step at a time, so that the step that fails has a name: proxy, name, port.

The rule which proxy is used is that of the gateway, which leaves it to httpx; `tests/client/preflight` compares the two.
"""

import base64
import contextlib
import errno
import http.client
import ipaddress
import os
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.request import getproxies

import httpx

from client.preflight.findings import NotTried, Problem, shown

NAME_LIMIT_S = 8.0  # of a look-up; the usual resolver asks its first server for 5 s
CONNECT_LIMIT_S = 5.0  # of one address
PROXY_LIMIT_S = 15.0  # of a proxy's answer to CONNECT: it looks the name up and connects meanwhile
ADDRESSES_LIMIT: Final = 6
PROXY_PORTS: Final = {"http": 80, "https": 443}
PROXY_NO_WAY: Final = (502, 503, 504)

Address = tuple[socket.AddressFamily, tuple[Any, ...]]
Resolve = Callable[[str, int], Sequence[Address]]


@dataclass(frozen=True)
class Hub:
    """Where the hub is, as site.yaml says."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def hub_address(text: str) -> Hub:
    """`host:port`, an IPv6 address in brackets. Raises `Problem`."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        said = f"hub {shown(text)!r} in site.yaml is not host:port" if text else "site.yaml names no hub"
        raise Problem("NO_HUB", said)
    return Hub(host.removeprefix("[").removesuffix("]"), int(port))


@dataclass(frozen=True)
class Proxy:
    """A proxy and, if its URL has one, the login for it, which is never shown."""

    scheme: str
    host: str
    port: int
    login: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


def proxy_for(hub: Hub, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """The proxy by which the gateway reaches `hub`, None for none. Raises `Problem` for a setting that it cannot use.

    As httpx decides: of all patterns that match (`https://` from HTTPS_PROXY, `all://` from ALL_PROXY, one for each name in
    NO_PROXY) the most specific wins: with a port, then the longest host, then the longest scheme. The gateway adds
    127.0.0.1 to NO_PROXY.
    """
    settings = getproxies()
    excepted = (environment.get("no_proxy") or environment.get("NO_PROXY", "")).split(",")
    names = [name.strip() for name in [*excepted, "127.0.0.1"]]
    proxies = {f"{scheme}://": _proxy(scheme, settings[scheme]) for scheme in ("http", "https", "all") if settings.get(scheme)}
    if "*" in names:
        return None
    choices: dict[str, Proxy | None] = {**proxies, **dict.fromkeys(map(_exception, filter(None, names)))}
    target = httpx.URL(f"https://{hub}")
    try:
        found = [(_rank(pattern), pattern) for pattern in choices if _matches(httpx.URL(pattern), target)]
    except httpx.InvalidURL as error:
        raise Problem("PROXY_SETTING", f"NO_PROXY holds something that is no name or address ({shown(str(error))})") from error
    if not found:
        return None
    return choices[min(found, key=lambda ranked: ranked[0])[1]]  # the first of equals, as a stable sort has it


def _proxy(scheme: str, text: str) -> Proxy:
    variable = f"{scheme.upper()}_PROXY"
    try:
        url = httpx.URL(text if "://" in text else f"http://{text}")
    except httpx.InvalidURL as error:
        raise Problem("PROXY_SETTING", f"{variable} is no URL") from error
    if url.scheme not in PROXY_PORTS or not url.host:
        raise Problem("PROXY_SETTING", f"{variable} names a proxy of kind {shown(url.scheme)}://, known are http:// and https://")
    login = f"{url.username}:{url.password}" if url.username or url.password else ""
    return Proxy(url.scheme, url.host, url.port or PROXY_PORTS[url.scheme], login)


def _exception(name: str) -> str:
    if "://" in name:
        return name
    if name.lower() == "localhost":
        return f"all://{name}"
    with contextlib.suppress(ValueError):
        return f"all://[{name}]" if ipaddress.ip_address(name.split("/")[0]).version == 6 else f"all://{name}"
    return f"all://*{name}"


def _matches(pattern: httpx.URL, target: httpx.URL) -> bool:
    if pattern.scheme not in ("all", target.scheme):
        return False
    if pattern.port is not None and pattern.port != target.port:
        return False
    host = pattern.host
    if host in ("", "*"):
        return True
    if host.startswith("*."):
        return re.fullmatch(rf".+\.{re.escape(host[2:])}", target.host) is not None
    if host.startswith("*"):
        return re.fullmatch(rf"(.+\.)?{re.escape(host[1:])}", target.host) is not None
    return host == target.host


def _rank(pattern: str) -> tuple[int, int, int]:
    url = httpx.URL(pattern)
    host, scheme = ("" if url.host == "*" else url.host), ("" if url.scheme == "all" else url.scheme)
    return (0 if url.port is not None else 1, -len(host), -len(scheme))


def system_resolve(host: str, port: int) -> Sequence[Address]:
    """The system's own look-up, in the order in which a connection tries the addresses."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


@dataclass
class Way:
    """The steps to the hub's port. Each is one line of the check and is kept for the next; `open` goes all of them."""

    hub: Hub
    resolve: Resolve = field(default_factory=lambda: system_resolve)
    name_limit_s: float = field(default_factory=lambda: NAME_LIMIT_S)
    connect_limit_s: float = field(default_factory=lambda: CONNECT_LIMIT_S)
    proxy: Proxy | None = None
    _addresses: Sequence[Address] = ()
    _reached: Address | None = None

    def choose_proxy(self) -> str:
        """Which proxy the environment names."""
        self.proxy = proxy_for(self.hub)
        if self.proxy is None:
            return "none, by HTTPS_PROXY, ALL_PROXY and NO_PROXY of this environment (the gateway's must be the same)"
        return f"{self.proxy}, by this environment (the gateway's must be the same)"

    def look_up(self) -> str:
        """The addresses of the hub, or of the proxy, which looks the hub's up itself."""
        host, port = self._first_stop
        try:
            self._addresses = self._looked_up(host, port)
        except Problem as problem:
            if self.proxy is None:
                raise
            raise Problem("PROXY_UNREACHABLE", f"the proxy {self.proxy}: {problem.detail}") from problem
        return f"{host} is {', '.join(str(address[0]) for _, address in self._addresses)}"

    def reach(self) -> str:
        """Every address is tried, for the gateway tries them in order and waits for each."""
        host, port = self._first_stop
        tried = [(address, self._tried(address)) for address in self._addresses]
        good = [address for address, error in tried if error is None]
        if not good:
            raise self._closed(f"{host}:{port}", [error for _, error in tried if error is not None])
        before = [(address, error) for address, error in tried[: tried.index((good[0], None))] if error is not None]
        self._reached = good[0]
        if silent := [address for address, error in before if isinstance(error, TimeoutError)]:
            dead, alive = silent[0][1][0], good[0][1][0]
            raise Problem(
                "ONE_FAMILY", f"{host}:{port} does not answer at {dead} ({_family(silent[0])}), tried first; it does at {alive}"
            )
        passed_over = "".join(f"; {address[1][0]} does not ({_words(error)})" for address, error in before)
        return f"{host}:{port} answers at {good[0][1][0]}{passed_over}"

    def pass_proxy(self) -> str:
        """CONNECT through the proxy."""
        if self.proxy is None:
            return "none"
        started = time.monotonic()
        self.open().close()
        return f"{self.proxy} lets CONNECT {self.hub} through, {time.monotonic() - started:.2f} s"

    def open(self) -> socket.socket:
        """A fresh connection to the hub's port. Raises `Problem`."""
        host, port = self._first_stop
        if self._reached is None:
            raise Problem("UNREACHABLE", f"{host}:{port} was not reached")
        family, address = self._reached
        line = socket.socket(family, socket.SOCK_STREAM)
        try:
            line.settimeout(self.connect_limit_s)
            line.connect(address)
            if self.proxy is not None:
                line.settimeout(PROXY_LIMIT_S)
                self._connect(line, self.proxy)
        except OSError as error:
            line.close()
            raise self._closed(f"{host}:{port}", [error]) from error
        except Problem:
            line.close()
            raise
        return line

    @property
    def _first_stop(self) -> tuple[str, int]:
        return (self.proxy.host, self.proxy.port) if self.proxy else (self.hub.host, self.hub.port)

    def _looked_up(self, host: str, port: int) -> Sequence[Address]:
        """In a thread: the system's look-up has no deadline of its own."""
        answers: queue.Queue[Sequence[Address] | OSError | UnicodeError] = queue.Queue()

        def ask() -> None:
            try:
                answers.put(self.resolve(host, port))
            except (OSError, UnicodeError) as error:
                answers.put(error)

        threading.Thread(target=ask, name="check-resolver", daemon=True).start()
        try:
            found = answers.get(timeout=self.name_limit_s)
        except queue.Empty:
            raise Problem("NAME_SILENT", f"no name server answered for {host} within {self.name_limit_s:g} s") from None
        if isinstance(found, socket.gaierror) and found.errno == socket.EAI_AGAIN:
            raise Problem("NAME_SILENT", f"no name server answered for {host}") from found
        if isinstance(found, OSError | UnicodeError):
            raise Problem("NAME_UNKNOWN", f"the name {host} is not known here") from found
        if not found:
            raise Problem("NAME_UNKNOWN", f"the name {host} has no address")
        return found[:ADDRESSES_LIMIT]

    def _tried(self, address: Address) -> OSError | None:
        try:
            with socket.socket(address[0], socket.SOCK_STREAM) as line:
                line.settimeout(self.connect_limit_s)
                line.connect(address[1])
        except OSError as error:
            return error
        return None

    def _closed(self, where: str, errors: Sequence[OSError]) -> Problem:
        """The kinds of failure, the most telling first: refused, silent, no route."""
        if self.proxy is not None:
            return Problem("PROXY_UNREACHABLE", f"the proxy {where} cannot be reached ({_words(errors[0])})")
        if any(isinstance(error, ConnectionRefusedError) for error in errors):
            return Problem("PORT_CLOSED", f"{where} refuses connections: the port is closed")
        if any(isinstance(error, TimeoutError) for error in errors):
            return Problem(
                "PORT_FILTERED", f"{where} does not answer within {self.connect_limit_s:g} s: packets are dropped on the way"
            )
        return Problem("UNREACHABLE", f"{where} cannot be reached ({_words(errors[0])})")

    def _connect(self, line: socket.socket, proxy: Proxy) -> None:
        """Ask the proxy for a tunnel, as the gateway does; on return `line` is the tunnel. Raises `Problem`."""
        if proxy.scheme == "https":
            raise NotTried("this check cannot speak TLS to the proxy itself: see the gateway's log")
        login = f"Proxy-Authorization: Basic {base64.b64encode(proxy.login.encode()).decode()}\r\n" if proxy.login else ""
        request = f"CONNECT {self.hub} HTTP/1.1\r\nHost: {self.hub}\r\nAccept: */*\r\n{login}\r\n"
        try:
            line.sendall(request.encode())
            answer = http.client.HTTPResponse(line, method="CONNECT")  # may read ahead: in TLS the client speaks first
            answer.begin()
        except TimeoutError as error:
            raise Problem(
                "PROXY_BREAKS", f"the proxy {proxy} did not answer CONNECT {self.hub} within {PROXY_LIMIT_S:g} s"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            how = "cuts the connection" if isinstance(error, OSError) else "answers in no HTTP"
            raise Problem("PROXY_BREAKS", f"the proxy {proxy} {how} when asked for {self.hub} ({type(error).__name__})") from error
        if not 200 <= answer.status < 300:
            raise self._refused(proxy, answer)

    def _refused(self, proxy: Proxy, answer: http.client.HTTPResponse) -> Problem:
        said = f"{answer.status} {shown(answer.reason)}".strip()
        if answer.status == http.client.PROXY_AUTHENTICATION_REQUIRED:
            offers = answer.headers.get_all("Proxy-Authenticate") or ["nothing"]
            kinds = ", ".join(dict.fromkeys(shown(offer.split(" ")[0].rstrip(",")) for offer in offers))
            given = "refuses the login in HTTPS_PROXY" if proxy.login else "wants a login"
            return Problem("PROXY_AUTH", f"the proxy {proxy} {given} ({said}); it offers {kinds}")
        if answer.status in PROXY_NO_WAY:
            return Problem("PROXY_NO_WAY", f"the proxy {proxy} cannot reach {self.hub} ({said})")
        return Problem("PROXY_REFUSES", f"the proxy {proxy} refuses CONNECT {self.hub} ({said})")


def _family(address: Address) -> str:
    return "IPv6" if address[0] == socket.AF_INET6 else "IPv4"


def _words(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer: packets are dropped on the way"
    if isinstance(error, ConnectionRefusedError):
        return "refused: the port is closed"
    return os.strerror(error.errno) if error.errno is not None and error.errno in errno.errorcode else type(error).__name__
