"""A tap on the one line between the sites and the hub: TLS ends here, with the hub's own key, and begins again.

Both directions are kept in the clear, as bytes and as the bodies of the HTTP messages in them.
"""

import asyncio
import base64
import binascii
import re
import ssl
import zlib
from collections.abc import Iterator
from pathlib import Path

from loop_thread import LoopThread, passed_on

BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
HEX = re.compile(rb"(?:[0-9a-fA-F]{2}){8,}")


class WireTap:
    """Listens on `port` of loopback and passes everything on to the hub at `hub_port`; `tls` is the hub's key material."""

    def __init__(self, tls: Path, port: int, hub_port: int) -> None:
        self._near = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._near.load_cert_chain(tls / "server.pem", tls / "server.key")
        self._far = ssl.create_default_context(cafile=str(tls / "ca.pem"))
        self._port, self._hub_port = port, hub_port
        self.up: list[bytearray] = []
        self.down: list[bytearray] = []
        self._loop = LoopThread()

    def __enter__(self) -> "WireTap":
        self._loop.start(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.end()

    async def _listen(self) -> None:
        await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=self._near)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._hub_port, ssl=self._far)
        except OSError:
            writer.close()
            return
        up, down = bytearray(), bytearray()
        self.up.append(up)
        self.down.append(down)
        await asyncio.gather(passed_on(reader, far_writer, up), passed_on(far_reader, writer, down))

    def streams(self, *, up: bool = True, down: bool = True) -> list[bytes]:
        return [bytes(stream) for stream in [*(self.up if up else ()), *(self.down if down else ())]]

    def bodies(self, *, up: bool = True, down: bool = True) -> list[bytes]:
        return [body for stream in self.streams(up=up, down=down) for body in http_bodies(stream)]

    def haystack(self, *, down: bool = True) -> bytes:
        """All that crossed: the bytes as they were, each body whole, and what base64, hex or compression could hide."""
        streams, bodies = self.streams(down=down), self.bodies(down=down)
        hidden = [found for data in [*streams, *bodies] for found in _unwrapped(data)]
        return b"\x00--\x00".join([*streams, *bodies, *hidden])


def http_bodies(stream: bytes) -> Iterator[bytes]:
    """Bodies of the HTTP/1.1 messages in one direction of a connection, chunked ones put together."""
    at = 0
    while (end := stream.find(b"\r\n\r\n", at)) >= 0:
        head, at = stream[at:end].lower(), end + 4
        if length := re.search(rb"content-length: *(\d+)", head):
            yield stream[at : at + int(length[1])]
            at += int(length[1])
        elif b"transfer-encoding: chunked" in head:
            parts = []
            while (line := stream.find(b"\r\n", at)) >= 0:
                size = int(stream[at:line].split(b";")[0] or b"0", 16)
                parts.append(stream[line + 2 : line + 2 + size])
                at = line + 2 + size + 2
                if size == 0:
                    break
            yield b"".join(parts)


def _unwrapped(data: bytes) -> Iterator[bytes]:
    for found in BASE64.findall(data):
        for alphabet in (b"+/", b"-_"):
            try:
                yield base64.b64decode(found + b"=" * (-len(found) % 4), altchars=alphabet, validate=True)
            except (binascii.Error, ValueError):
                continue
    yield from (bytes.fromhex(found.decode("ascii")) for found in HEX.findall(data))
    for start in [match.start() for match in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", data)]:
        try:
            yield zlib.decompressobj(wbits=47).decompress(data[start:], 1 << 24)
        except zlib.error:
            continue
