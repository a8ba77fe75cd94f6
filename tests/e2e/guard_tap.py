"""A tap on a guard's Unix socket: every byte between guard and gateway, both ways, kept and passed on unchanged.

The guard's own socket is moved aside and the tap listens in its place. What the guard sent is read from the bytes themselves:
frames of HTTP/2 (RFC 9113), in them messages of gRPC, in them the frames of `guardpb/guard.proto`.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError
from loop_thread import LoopThread, passed_on

from client.guard_rpc import FrameError, read_frames
from client.guardpb import guard_pb2

DATA, PADDED = 0, 0x08  # RFC 9113, 6.1
PREFIX: Final = 5  # bytes before each gRPC message: compressed or not, length


@dataclass(frozen=True)
class Sent:
    """One answer or refusal as the guard sent it."""

    control: bytes
    body: bytes


class GuardTap:
    """Between `with` and its end; the gateway must connect anew after it began. `up`: from the guard, `down`: to it."""

    def __init__(self, socket: Path) -> None:
        self._socket, self._aside = socket, socket.with_name("aside.sock")
        self.up: list[bytearray] = []
        self.down: list[bytearray] = []
        self._loop = LoopThread()

    def __enter__(self) -> "GuardTap":
        self._socket.rename(self._aside)
        self._loop.start(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.end()

    async def _listen(self) -> None:
        await asyncio.start_unix_server(self._serve, self._socket)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._aside)
        up, down = bytearray(), bytearray()
        self.up.append(up)
        self.down.append(down)
        await asyncio.gather(passed_on(reader, far_writer, down), passed_on(far_reader, writer, up))

    def sent(self) -> list[Sent]:
        """Everything that the guard said, in the order of each connection. Fails on bytes that are none of the known messages."""
        return [found for stream in self.up for found in _sent(bytes(stream))]


def _sent(stream: bytes) -> Iterator[Sent]:
    for body in data_of_streams(stream):
        messages = list(grpc_messages(body))
        if len(messages) == 1 and _is_condition(messages[0]):
            continue
        _, control, vector = read_frames([guard_pb2.Frame.FromString(message) for message in messages])
        yield Sent(control, vector)


def _is_condition(message: bytes) -> bool:
    """A reply to the questions how the guard is: health (a number) or status (JSON of site id, state, task)."""
    if len(message) == 2:
        return message[0] == 0x08
    try:
        list(read_frames([guard_pb2.Frame.FromString(message)]))
    except (DecodeError, FrameError):
        return guard_pb2.StatusReply.FromString(message).json.startswith('{"')
    return False


def data_of_streams(stream: bytes) -> list[bytes]:
    """Payload of each HTTP/2 stream in one direction of a connection, in the order in which they began."""
    found: dict[int, bytearray] = {}
    at = 0
    while at + 9 <= len(stream):
        size, kind, flags = int.from_bytes(stream[at : at + 3], "big"), stream[at + 3], stream[at + 4]
        number = int.from_bytes(stream[at + 5 : at + 9], "big") & 0x7FFFFFFF
        payload, at = stream[at + 9 : at + 9 + size], at + 9 + size
        if kind == DATA:
            if flags & PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            found.setdefault(number, bytearray()).extend(payload)
    return [bytes(payload) for payload in found.values() if payload]


def grpc_messages(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        assert data[at] == 0, "a compressed message: the guard compresses nothing"
        size = int.from_bytes(data[at + 1 : at + PREFIX], "big")
        message = data[at + PREFIX : at + PREFIX + size]
        assert len(message) == size, "a message cut short"
        yield message
        at += PREFIX + size
