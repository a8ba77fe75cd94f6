"""What the hub answers to anybody, so that a hospital can try its way here: fixed words, known bytes, and silence, all bounded.

`GET /wardround/hello`    product, version, time, version of the roster in force; nothing about members
`GET /wardround/bytes/N`  N known bytes, at most 1 MiB
`POST /wardround/echo`    length and SHA-256 of at most 1 MiB
`GET /wardround/hold/S`   an answer after S seconds, at most 600

No authentication: there is nothing to learn, and a body is hashed as it comes, kept nowhere. Every other path is somebody else's.
"""

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from consortium import roster as rosters
from consortium.documents import Signed
from consortium.errors import ConsortiumError
from consortium.roster import Roster

PATTERN: Final = b"wardround/bytes/1"  # SHAKE-256 of it: bytes that nothing on the way can compress
BYTES_LIMIT: Final = 1 << 20
HOLD_LIMIT_S: Final = 600
HOLDS: Final = 64  # at once; a site asks for one
TRANSFERS: Final = 16  # at once: together they cost no more than one model
TRANSFER_LIMIT_S: Final = 90.0  # for somebody who reads or sends slowly
CHUNK: Final = 65_536
NUMBER: Final = re.compile(r"/wardround/(bytes|hold)/([0-9]{1,7})")
JSON: Final = (b"content-type", b"application/json")

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


@dataclass
class _Places:
    free: int

    @contextlib.contextmanager
    def one(self) -> Iterator[bool]:
        """Whether there was a place; it is given back at the end."""
        taken = self.free > 0
        self.free -= taken
        try:
            yield taken
        finally:
            self.free += taken


class Front:
    """ASGI: answers the four paths itself, hands everything else on. `roster`: where the roster in force lies, if it does."""

    def __init__(self, application: Callable[..., Awaitable[None]], version: str, roster: Path | None = None) -> None:
        self._application = application
        self._version = version
        self._roster = roster
        self._holds, self._transfers = _Places(HOLDS), _Places(TRANSFERS)
        self._known: bytes = b""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        path, method = scope.get("path", ""), scope.get("method", "")
        number = NUMBER.fullmatch(path)
        if scope["type"] != "http" or not (number or path in ("/wardround/hello", "/wardround/echo")):
            await self._application(scope, receive, send)
        elif method != ("POST" if path == "/wardround/echo" else "GET"):
            await _answer(send, 405, {"error": "this path answers another method"})
        elif number is None:
            await (self._echo(receive, send) if path == "/wardround/echo" else _answer(send, 200, self._hello()))
        elif number[1] == "hold":
            await self._hold(int(number[2]), receive, send)
        else:
            await self._bytes(int(number[2]), send)

    def _hello(self) -> dict[str, object]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"product": "wardround", "version": self._version, "utc": now, "roster": self._roster_version()}

    def _roster_version(self) -> int | None:
        """Read anew: it changes while the hub runs. Not verified: the hub speaks of its own file, and sites verify theirs."""
        if self._roster is None:
            return None
        try:
            return Signed.decode(self._roster.read_bytes(), rosters.KIND).document(Roster).version
        except (OSError, ConsortiumError):
            return None

    async def _bytes(self, size: int, send: Send) -> None:
        if size > BYTES_LIMIT:
            await _answer(send, 413, {"error": f"at most {BYTES_LIMIT} bytes"})
            return
        with self._transfers.one() as free:
            if not free:
                await _answer(send, 503, {"error": "busy"})
                return
            self._known = self._known or hashlib.shake_256(PATTERN).digest(BYTES_LIMIT)
            with contextlib.suppress(TimeoutError):  # the server closes what was not sent whole
                await asyncio.wait_for(self._send_bytes(size, send), TRANSFER_LIMIT_S)

    async def _send_bytes(self, size: int, send: Send) -> None:
        headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for start in range(0, size, CHUNK):
            part = self._known[start : min(start + CHUNK, size)]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _echo(self, receive: Receive, send: Send) -> None:
        with self._transfers.one() as free:
            if not free:
                await _answer(send, 503, {"error": "busy"})
                return
            try:
                found = await asyncio.wait_for(_hashed(receive), TRANSFER_LIMIT_S)
            except TimeoutError:
                await _answer(send, 408, {"error": f"not whole within {TRANSFER_LIMIT_S:.0f} s"})
                return
        if found is None:
            await _answer(send, 413, {"error": f"at most {BYTES_LIMIT} bytes"})
        else:
            await _answer(send, 200, found)

    async def _hold(self, seconds: int, receive: Receive, send: Send) -> None:
        if seconds > HOLD_LIMIT_S:
            await _answer(send, 413, {"error": f"at most {HOLD_LIMIT_S} seconds"})
            return
        with self._holds.one() as free:
            if free:
                gone = await _left(receive, seconds)
        if not free:
            await _answer(send, 503, {"error": "busy"})
        elif not gone:
            await _answer(send, 200, {"held": seconds})


async def _hashed(receive: Receive) -> dict[str, object] | None:
    """Length and SHA-256 of a body, hashed as it comes; None if it is longer than allowed."""
    digest, size, more = hashlib.sha256(), 0, True
    while more:
        part = await receive()
        body = part.get("body", b"")
        size += len(body)
        if size > BYTES_LIMIT:
            return None
        digest.update(body)
        more = part["type"] == "http.request" and part.get("more_body", False)
    return {"length": size, "sha256": digest.hexdigest()}


async def _left(receive: Receive, seconds: int) -> bool:
    """Wait so long; whether the asker went away meanwhile."""
    end = asyncio.get_running_loop().time() + seconds
    while (left_s := end - asyncio.get_running_loop().time()) > 0:
        try:
            message = await asyncio.wait_for(receive(), left_s)
        except TimeoutError:
            return False
        if message["type"] == "http.disconnect":
            return True
    return False


async def _answer(send: Send, status: int, content: dict[str, object]) -> None:
    body = json.dumps(content).encode() + b"\n"
    headers = [JSON, (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
