"""The guard socket: only whole requests of the four known kinds and rosters reach the guard, and nothing but its answers or a
fixed-sentence refusal comes back.

`serve_guard` is the guard's end, `GuardClient` the gateway's. The contract is `guardpb/guard.proto`, over a Unix-domain
socket (mode 0600, in a folder of mode 0700): whoever cannot open the folder cannot ask. Neither end trusts the other's
lengths: a body is read to its declared length and not a byte further.
"""

import fcntl
import io
import json
import logging
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from client.errors import SiteError, place_of
from client.guardpb import guard_pb2, guard_pb2_grpc
from consortium.canonical import Bytes
from consortium.logs import request_id
from consortium.plan import MAX_PARAMETERS
from consortium.wire import CORRELATION_SIZE, Refusal, encode_refusal

Answer = Callable[[str, bytes, bytes], tuple[bytes, Bytes]]
Status = Callable[[], Mapping[str, Any]]
Offer = Callable[[bytes], tuple[str, int]]

CHUNK_SIZE = 1 << 20  # bytes of body in one frame
CONTROL_LIMIT = 16 << 20  # bytes
BODY_LIMIT = 4 * MAX_PARAMETERS  # bytes: the float32 values of the largest model that a plan may name, 1 GiB
MESSAGE_LIMIT = CONTROL_LIMIT + 4096  # bytes of one gRPC message
WAITING_LIMIT = 2  # exchanges inside the guard: one at work, one waiting; more are answered BUSY
THREADS = 8  # the others answer status and health while a round trains
SOCKET_PATH_LIMIT = 107  # bytes, sun_path of Linux without its last zero
DEFAULT_WAIT_S = 3600.0  # for the running exchange, when the caller gave no deadline
PATIENCE = 0.8  # of the caller's deadline, spent waiting for the running exchange; then BUSY still arrives in time
CALL_S = 5.0  # status and health answer at once or not at all

KIND_NAMES = {
    guard_pb2.SA1_KEYS: "sa1_keys",
    guard_pb2.SA1_KEM: "sa1_kem",
    guard_pb2.SA1_UPDATE: "sa1_update",
    guard_pb2.SA1_VOTE: "sa1_vote",
}
KIND_NUMBERS = {name: number for number, name in KIND_NAMES.items()}
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.enable_http_proxy", 0),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
)

log = logging.getLogger("wardround.guard.socket")


class GuardRpcError(SiteError):
    """Base of what the guard socket raises."""


class GuardSocketError(GuardRpcError):
    """The socket cannot be served: another guard is alive, the folder is open to others, or the path is unusable."""


class GuardUnreachable(GuardRpcError):
    """No guard answers at the socket; the request may or may not have been carried out."""


class GuardDeadline(GuardRpcError):
    """The guard did not answer in time; it may still be working."""


class FrameError(GuardRpcError):
    """A sequence of frames that is not one message."""


def refusal(code: str, request: str = "") -> bytes:
    """Control bytes of a refusal that names no site; `request`: its id in the logs, a fresh one where the request has none."""
    return encode_refusal(Refusal(code, (), request or secrets.token_hex(CORRELATION_SIZE // 2)))


def write_frames(kind: guard_pb2.Kind, control: bytes, body: Bytes) -> Iterator[guard_pb2.Frame]:
    """One Head, then `body` in chunks of `CHUNK_SIZE` bytes, each copied when it is its turn; an empty body has no chunk."""
    yield guard_pb2.Frame(head=guard_pb2.Head(kind=kind, control=control, body_length=len(body)))
    view = memoryview(body)
    for start in range(0, len(body), CHUNK_SIZE):
        yield guard_pb2.Frame(chunk=bytes(view[start : start + CHUNK_SIZE]))


def read_frames(frames: Iterable[guard_pb2.Frame]) -> tuple[guard_pb2.Kind, bytes, bytes]:
    """(kind, control, body) of exactly one message; `FrameError` on any other sequence, as soon as it shows.

    A body that is declared too long is refused before any of it is read: whoever declares decides what is allocated here.
    The body is collected where it is returned: a model is in memory once.
    """
    sequence = iter(frames)
    first = next(sequence, None)
    if first is None or first.WhichOneof("content") != "head":
        raise FrameError("the first frame is not a head")
    head = first.head
    if head.body_length > BODY_LIMIT:
        raise FrameError(f"declared body of {head.body_length} bytes, limit {BODY_LIMIT}")
    body, size = io.BytesIO(), 0  # its content is handed over without a copy
    for frame in sequence:
        if frame.WhichOneof("content") != "chunk":
            raise FrameError("a frame after the head is not a chunk")
        if not 0 < len(frame.chunk) <= CHUNK_SIZE:
            raise FrameError(f"chunk of {len(frame.chunk)} bytes, limit {CHUNK_SIZE}")
        size += body.write(frame.chunk)
        if size > head.body_length:
            raise FrameError(f"more than the {head.body_length} bytes of body that were declared")
    if size != head.body_length:
        raise FrameError(f"{size} bytes of body, {head.body_length} were declared")
    return head.kind, head.control, body.getvalue()


class _Servicer(guard_pb2_grpc.GuardServicer):
    """Runs `answer` for one request at a time; nothing but bytes it returned, or a refusal, leaves here."""

    def __init__(self, answer: Answer, status: Status, offer: Offer) -> None:
        self._answer = answer
        self._status = status
        self._offer = offer
        self._at_work = threading.Lock()
        self._places = threading.BoundedSemaphore(WAITING_LIMIT)

    def Exchange(  # noqa: N802  # gRPC's name
        self, request_iterator: Iterable[guard_pb2.Frame], context: grpc.ServicerContext
    ) -> Iterator[guard_pb2.Frame]:
        if not self._places.acquire(blocking=False):
            yield from write_frames(guard_pb2.KIND_UNSPECIFIED, refusal("BUSY"), b"")
            return
        try:
            kind, control, body = self._exchange(request_iterator, context)
        finally:
            self._places.release()
        yield from write_frames(kind, control, body)

    def _exchange(self, frames: Iterable[guard_pb2.Frame], context: grpc.ServicerContext) -> tuple[guard_pb2.Kind, bytes, Bytes]:
        try:
            kind, control, body = read_frames(frames)
        except FrameError as error:
            log.warning("refused=UNDECODABLE reason=%r", str(error))
            return guard_pb2.KIND_UNSPECIFIED, refusal("UNDECODABLE"), b""
        if kind not in KIND_NAMES:
            log.warning("refused=UNKNOWN_KIND reason=unknown-kind")
            return guard_pb2.KIND_UNSPECIFIED, refusal("UNKNOWN_KIND"), b""
        name, remaining = request_id(KIND_NAMES[kind], control), context.time_remaining()
        wait_s = DEFAULT_WAIT_S if remaining is None else PATIENCE * max(0.0, remaining)
        if not self._at_work.acquire(timeout=wait_s):
            log.warning("refused=BUSY kind=%s request=%s", KIND_NAMES[kind], name)
            return kind, refusal("BUSY", name), b""
        try:
            return kind, *self._answer(KIND_NAMES[kind], control, body)
        except Exception as error:
            # The one place outside a program's main() that catches all: gRPC would send an unforeseen error's text,
            # which may hold patient data, to the gateway. Its class and place go to this site's own log, its text nowhere.
            log.error("kind=%s request=%s state=failed detail=%s", KIND_NAMES[kind], name, place_of(error))  # noqa: TRY400 - no text
            return kind, refusal("INTERNAL", name), b""
        finally:
            self._at_work.release()

    def Status(self, request: guard_pb2.StatusRequest, context: grpc.ServicerContext) -> guard_pb2.StatusReply:  # noqa: N802
        del request, context
        try:
            return guard_pb2.StatusReply(json=json.dumps(self._status(), sort_keys=True))
        except Exception as error:  # as in _exchange: no text of ours may leave through gRPC
            log.error("kind=status state=failed detail=%s", place_of(error))  # noqa: TRY400 - no text
            return guard_pb2.StatusReply(json='{"state": "failed"}')

    def OfferRoster(self, request: guard_pb2.RosterOffer, context: grpc.ServicerContext) -> guard_pb2.RosterVerdict:  # noqa: N802
        del context
        try:
            state, version = self._offer(request.signed)
        except Exception as error:  # as in _exchange: no text of ours may leave through gRPC
            log.error("request=roster state=failed detail=%s", place_of(error))  # noqa: TRY400 - no text
            return guard_pb2.RosterVerdict(state="refused", version=0)
        return guard_pb2.RosterVerdict(state=state, version=version)


def takes_no_roster(_: bytes) -> tuple[str, int]:
    """For a guard without a roster of its own to replace."""
    return "refused", 0


@dataclass(frozen=True)
class GuardServer:
    """A guard that answers at `socket_path` until `stop`."""

    socket_path: Path
    _server: grpc.Server = field(repr=False)
    _health: health.HealthServicer = field(repr=False)
    _lock_fd: int = field(repr=False)

    def stop(self, grace_s: float = 1.0) -> None:
        """Refuse new calls, give running ones `grace_s`, remove the socket. Safe to call twice."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()
        if self.socket_path.is_socket():
            self.socket_path.unlink()
        fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def wait(self, timeout_s: float | None = None) -> None:
        """Block until stopped, at most `timeout_s`."""
        self._server.wait_for_termination(timeout_s)


def serve_guard(answer: Answer, socket_path: Path, status: Status, offer: Offer = takes_no_roster) -> GuardServer:
    """Answer at `socket_path`: `answer(kind, control, body) -> (control, body)` runs for one request at a time,
    `status()` (JSON-able counts and states) and `offer(signed roster) -> (state, version)` at any time.

    Raises `GuardSocketError` when another guard holds the socket, when the folder is open to group or world, or when the
    path cannot hold a socket. A socket left by a killed guard is replaced.
    """
    _check_folder(socket_path)
    lock_fd = _hold(socket_path)
    server = grpc.server(ThreadPoolExecutor(THREADS, thread_name_prefix="guard"), options=CHANNEL_OPTIONS)
    guard_pb2_grpc.add_GuardServicer_to_server(_Servicer(answer, status, offer), server)  # type: ignore[no-untyped-call]  # generated
    condition = health.HealthServicer()
    condition.set("", health_pb2.HealthCheckResponse.SERVING)
    condition.set("wardround.guard.v1.Guard", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(condition, server)
    try:
        server.add_insecure_port(f"unix:{socket_path}")
    except RuntimeError as error:
        raise GuardSocketError(f"cannot listen at {socket_path}: choose another guard_socket") from error
    server.start()
    os.chmod(socket_path, 0o600)
    return GuardServer(socket_path, server, condition, lock_fd)


def _check_folder(socket_path: Path) -> None:
    if len(os.fsencode(socket_path)) > SOCKET_PATH_LIMIT:
        raise GuardSocketError(f"socket path {socket_path} is longer than {SOCKET_PATH_LIMIT} bytes: choose a shorter one")
    socket_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = stat.S_IMODE(socket_path.parent.stat().st_mode)
    if mode & 0o077:
        raise GuardSocketError(f"folder {socket_path.parent} has mode {mode:04o}, others can open it: chmod 0700")


def _hold(socket_path: Path) -> int:
    """Own `socket_path` for as long as this process lives, and clear what a killed owner left there."""
    lock_fd = os.open(socket_path.with_name(socket_path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock_fd)
        raise GuardSocketError(
            f"another guard runs on this site's folder and answers at {socket_path}: stop that one first; nothing was changed"
        ) from error
    if socket_path.is_socket():
        socket_path.unlink()
    elif socket_path.exists():
        os.close(lock_fd)
        raise GuardSocketError(f"{socket_path} exists and is not a socket: move it away")
    return lock_fd


class GuardClient:
    """The gateway's end of the socket. One connection, kept and renewed by itself; safe to use from several threads."""

    def __init__(self, socket_path: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket_path}", options=CHANNEL_OPTIONS)
        self._guard = guard_pb2_grpc.GuardStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def exchange(self, kind: str, control: bytes, body: bytes, deadline_s: float) -> tuple[bytes, bytes]:
        """The guard's (control, body), or `GuardUnreachable`, `GuardDeadline`, `FrameError`; never later than
        `deadline_s` seconds. `kind` is one of `consortium.wire.KINDS`."""
        frames = write_frames(KIND_NUMBERS[kind], control, body)
        try:
            _, answered, vector = read_frames(self._guard.Exchange(frames, timeout=deadline_s))
        except grpc.RpcError as error:
            raise _named(error, deadline_s) from error
        return answered, vector

    def status(self) -> dict[str, Any]:
        try:
            reply = self._guard.Status(guard_pb2.StatusRequest(), timeout=CALL_S)
        except grpc.RpcError as error:
            raise _named(error, CALL_S) from error
        return dict(json.loads(reply.json))

    def offer_roster(self, signed: bytes) -> tuple[str, int]:
        """(taken, known or refused; version in force at the guard). Raises `GuardUnreachable`, `GuardDeadline`."""
        try:
            verdict = self._guard.OfferRoster(guard_pb2.RosterOffer(signed=signed), timeout=CALL_S)
        except grpc.RpcError as error:
            raise _named(error, CALL_S) from error
        return verdict.state, verdict.version

    def health(self) -> bool:
        """True when the guard says that it is serving; False also when nobody answers."""
        try:
            reply = self._health.Check(health_pb2.HealthCheckRequest(service=""), timeout=CALL_S)
        except grpc.RpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def close(self) -> None:
        self._channel.close()


def _named(error: grpc.RpcError, deadline_s: float) -> GuardRpcError:
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return GuardDeadline(f"no answer from the guard within {deadline_s:.1f} s")
    return GuardUnreachable(f"the guard does not answer at its socket ({error.code().name}): is it running?")
