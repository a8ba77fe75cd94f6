"""The line between each site and the hub, made bad on purpose: slow, thin, cut, silent, with answers lost, doubled or out of order.

One listener for each site. TLS ends here, with the hub's own key, which only a test has, and begins again: so a whole request
can come twice and answers can change places, as behind a proxy that retries, and the instant is known to the message.
"""

import asyncio
import contextlib
import random
import re
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Final

KINDS: Final = (b"sa1_keys", b"sa1_kem", b"sa1_update", b"sa1_vote")
ASKED, ANSWERED = "asked", "answered"
PATHS: Final = {b"/v1/fleet/pull-messages": ASKED, b"/v1/fleet/push-messages": ANSWERED}
REORDER_LIMIT_S = 3.0  # an answer that waits for another one to overtake it is not held longer
CHUNK = 1 << 14
WAIT_S = 15


@dataclass(frozen=True)
class Sight:
    """A message on its way, before it is handed on: a request that reaches `site` (asked), or its answer (answered)."""

    site: str
    what: str
    kind: str


@dataclass
class Link:
    """How one site's line is at present. Any thread may change it; it holds from the next piece on."""

    site: str
    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_a_second: float = 0.0  # 0: no limit
    silent: bool = False  # nothing passes and nobody is told: half-open connections, a firewall that drops
    cut: bool = False  # connections are reset, new ones too
    truncate_after: int | None = None  # the next answer ends after so many bytes
    double: int = 0  # so many requests reach the hub twice, the second answer is lost
    repeat: int = 0  # so many requests reach the hub twice, the first answer is lost: what a retry looks like
    overtaken: int = 0  # so many answers wait until another site's passed
    connections: set[asyncio.StreamWriter] = field(default_factory=set, repr=False)

    def heal(self) -> None:
        self.delay_s = self.jitter_s = self.bytes_a_second = 0.0
        self.silent = self.cut = False
        self.truncate_after = None
        self.double = self.repeat = self.overtaken = 0


class FaultyNetwork:
    """`with FaultyNetwork(tls, port_of_hub, sites, seed=7) as network`: site `s` reaches the hub at `network.ports[s]`.

    `on_sight` is called in a thread of its own while the message is held: what it does has happened before the message goes on.
    """

    def __init__(self, tls: Path, hub: tuple[str, int], sites: Iterable[str], *, seed: int = 0) -> None:
        self._near = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._near.load_cert_chain(tls / "server.pem", tls / "server.key")
        self._far = ssl.create_default_context(cafile=str(tls / "ca.pem"))
        self._hub = hub
        self.links = {site: Link(site) for site in sites}
        self.ports: dict[str, int] = {}
        self.on_sight: Callable[[Sight], None] | None = None
        self.random = random.Random(seed)
        self._passed = 0  # answers, of all sites
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-network", daemon=True)

    def __enter__(self) -> "FaultyNetwork":
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    def cut(self, site: str) -> None:
        """Every connection of `site` is reset now, and new ones are until `heal`."""
        self.links[site].cut = True
        self._run(self._reset(self.links[site]))

    def heal(self) -> None:
        for link in self.links.values():
            link.heal()

    def _run(self, what: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(WAIT_S)

    async def _listen(self) -> None:
        for site, link in self.links.items():
            server = await asyncio.start_server(self._served(link), "127.0.0.1", 0, ssl=self._near)
            self.ports[site] = server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _reset(self, link: Link) -> None:
        for writer in list(link.connections):
            if (sock := writer.get_extra_info("socket")) is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))  # RST instead of FIN
            writer.transport.abort()

    def _served(self, link: Link) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            link.connections.add(writer)
            try:
                if not link.cut:
                    await self._carry(link, reader, writer)
            except (OSError, asyncio.IncompleteReadError, ValueError):
                pass  # whoever hung up, or was cut: that is what this network is for
            finally:
                link.connections.discard(writer)
                writer.transport.abort() if link.cut else writer.close()

        return serve

    async def _carry(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Request by request to the hub and back, until either end is gone."""
        far_reader, far_writer = await asyncio.open_connection(*self._hub, ssl=self._far)
        try:
            asking = asyncio.ensure_future(read_message(reader))
            while request := await asking:
                await self._seen(link, request)
                await self._bad(link, len(request))
                asking = asyncio.ensure_future(read_message(reader))  # the next one, or the news that the site hung up
                answer = await self._answer(link, request, (far_reader, far_writer), asking)
                if answer is None:
                    return
                await self._seen(link, answer, of=request)
                await self._overtake(link)
                await self._bad(link, len(answer))
                if link.truncate_after is not None:
                    writer.write(answer[: link.truncate_after])
                    link.truncate_after = None
                    await writer.drain()
                    return
                self._passed += 1
                writer.write(answer)
                await writer.drain()
        finally:
            far_writer.close()

    async def _answer(
        self,
        link: Link,
        request: bytes,
        hub: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        asking: "asyncio.Future[bytes]",
    ) -> bytes | None:
        """The hub's answer; None when the site hung up before it came."""
        reader, writer = hub
        if link.repeat:
            link.repeat -= 1
            await self._apart(request)
        writer.write(request)
        await writer.drain()
        answering = asyncio.ensure_future(read_message(reader))
        await asyncio.wait({answering, asking}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done() and asking.done() and not asking.result():
            answering.cancel()
            return None
        answer = await answering
        if link.double:
            link.double -= 1
            await self._apart(request)
        return answer or None

    async def _apart(self, request: bytes) -> None:
        """The request once more on a connection of its own; its answer is lost."""
        reader, writer = await asyncio.open_connection(*self._hub, ssl=self._far)
        writer.write(request)
        await writer.drain()
        await read_message(reader)
        writer.close()

    async def _bad(self, link: Link, size: int) -> None:
        """As long as this line takes for `size` bytes; for ever while it is silent."""
        pause_s = link.delay_s + self.random.uniform(0.0, link.jitter_s)
        if link.bytes_a_second:
            pause_s += size / link.bytes_a_second
        await asyncio.sleep(pause_s)
        while link.silent:
            await asyncio.sleep(0.02)

    async def _overtake(self, link: Link) -> None:
        if not link.overtaken:
            return
        link.overtaken -= 1
        before, end = self._passed, self._loop.time() + REORDER_LIMIT_S
        while self._passed == before and self._loop.time() < end:
            await asyncio.sleep(0.01)

    async def _seen(self, link: Link, message: bytes, *, of: bytes = b"") -> None:
        """Tell of a request (in the hub's answer) or an answer (in the site's request), before it goes on."""
        what = PATHS.get(_path(of or message))
        if self.on_sight is None or what != (ASKED if of else ANSWERED):
            return
        for kind in KINDS:
            if kind in message:
                await self._loop.run_in_executor(None, self.on_sight, Sight(link.site, what, kind.decode()))


def _path(request: bytes) -> bytes:
    words = request[:200].split(b" ", 2)
    return words[1].partition(b"?")[0] if len(words) == 3 else b""


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """One whole HTTP/1.1 message, head and body as they came; nothing where the other end hung up."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        return b""
    parts, lower = [head], head.lower()
    if length := re.search(rb"\r\ncontent-length: *(\d+)", lower):
        parts.append(await reader.readexactly(int(length[1])))
    elif b"\r\ntransfer-encoding: chunked" in lower:
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            parts += [line, await reader.readexactly(size + 2)]
            if size == 0:
                break
    return b"".join(parts)
