"""The hub's side of Flower: only registered sites connect, only holders of the hub's token control it, no wait is endless.

- `Hub` starts SuperLink (TLS, SuperNode authentication, state in one database file) and SuperExec (which starts the
  ServerApp), and starts again whichever dies.
- `FlowerTransport` carries the coordinator's exchanges by explicit node id.
- `app` is the ServerApp: it drives `server.rounds` over that transport.
- `HubControl` registers sites and submits, shows and stops runs.

Flower 1.41.0 serves the sites' API, the operators' API and the ServerApp's API on one port, and its open-source release
has no login: without our gate anybody who reaches the port could register a node or start a run.

This file reaches into internals of one pinned Flower release; `tests/flower/test_internals.py` fails when they move.
"""

import asyncio
import base64
import contextlib
import ctypes
import datetime
import fcntl
import functools
import gc
import hashlib
import hmac
import importlib.metadata
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key, load_ssh_public_key
from cryptography.x509 import load_pem_x509_certificate
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, message_to_proto, user_config_to_proto
from flwr.proto import control_pb2, message_pb2, runtime_pb2
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, TASK_TOKEN_HEADER, NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable import inflatable_object, inflatable_protobuf_utils, inflatable_utils
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, uses_nist_ec_curve
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.state.schema.linkstate_models import Node as NodeRow
from flwr.supercore.state.schema.objectstore_models import StoredObject
from sqlalchemy import event, select, update
from starlette.middleware import Middleware

from consortium.canonical import Bytes
from consortium.plan import MAX_PARAMETERS
from consortium.wire import Reply, Request
from server.desk import RosterDesk
from server.errors import ServerError
from server.folder import RunFolder
from server.front import Front
from server.journal import wait_for_writer
from server.logs import keep_short, start_logs
from server.object_files import ObjectFiles
from server.one_gateway import OneGateway
from server.room import Room
from server.rosters import ROSTERS, listed
from server.tls import TlsFiles, make_tls
from server.transfers import Only, Transfers, Whole
from server.transport import Patience, TransportError

FLOWER_VERSION = "1.41.0"
MESSAGE_TYPES = {
    "sa1_keys": "query.sa1_keys",
    "sa1_kem": "query.sa1_kem",
    "sa1_update": "train.sa1_update",
    "sa1_vote": "query.sa1_vote",
}
CONTROL_RECORD, BODY_RECORD, RAW = "sa1", "body", "wardround.raw"
INLINE_LIMIT = 256 << 10  # bytes of body that ride in the control record: three Flower objects less to move

POLL_S = 0.05  # between two looks for replies, each held at the SuperLink (Flower's send_and_receive: 3 s)
FETCH_POLL_S = 0.02  # ... when one is on its way
PARTS_AT_ONCE = 2  # of one body, in each direction
REPLIES_AT_ONCE = 96 << 20  # bytes of bodies that are fetched and not yet added up; a larger one is alone
HELD_S = 2.0  # that room is kept for a part which is not there yet
BODY_LIMIT = 4 * MAX_PARAMETERS + (16 << 20)  # bytes: the values of the largest model that a plan may name, and a header
FIRST_PAUSE_S = 0.02  # before asking again for a part of a reply that is still being uploaded (Flower: 1 s) ...
LONGEST_PAUSE_S = 0.2  # ... growing to this (Flower: 10 s)
MESSAGE_GRACE_S = 2.0  # a message lives this much longer than its exchange, then Flower drops it
TASK_POLL_S = "0.5"  # SuperExec looking for a ServerApp to start (Flower: 1 s)
START_LIMIT_S = 60.0
EARLIER_END_S = 60.0  # for an earlier coordinator of the same run to end
STOP_LIMIT_S = 3.0  # the SuperLink would wait for looks that it holds; its database stands a kill at any instant
RESTART_LIMIT_S = 30.0
CLEAN_UP_S = 1.0
SETTLE_S = 0.03
EMPTY_LOOK = 64  # bytes; a message takes more
LOOKERS_LIMIT = 1_000  # lookers remembered, the latest ones; who is forgotten is answered at once
ROSTER = "roster.signed"  # beside the hub's state folder, where `server.home` has it
NAME_LIMIT = 1_024  # bytes of a public key or a task token; longer ones are not remembered
BELLS = {  # who looks here is woken by requests that begin with this
    "/v1/fleet/pull-messages": "/v1/runtime/push-",
    "/v1/runtime/pull-messages": "/v1/fleet/push-",
}
HOLDS_S = {  # the longest wait for a ring: under the SuperNode's time-out of 30 s; the coordinator has deadlines to keep
    "/v1/fleet/pull-messages": 10.0,
    "/v1/runtime/pull-messages": 0.2,
}
PRAGMAS = {  # of the SuperLink's database, which holds no large values
    "busy_timeout": "60000",  # ms for a writer to get its turn; Flower's 5 s are too few for thirty sites
    "cache_size": "-8000",  # KiB, for each of some 30 connections
    "mmap_size": "0",
}
MEMORY = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}  # glibc: what any thread frees goes back
IN_FILE = b"\0file:"  # and a name, in place of an object's content
GC_THRESHOLDS = (2_000, 5, 200)  # seldom the old generation: a fifth of the time went into objects that stay; often the young
MESSAGES = ("/v1/fleet/", "/v1/runtime/")
IDLE_LAYERS = {  # where a layer of Flower's does nothing: each says so in its first lines
    "ControlSensitiveResponseMiddleware": MESSAGES,
    "ControlAuthenticationMiddleware": MESSAGES,
    "ControlLicenseMiddleware": MESSAGES,
    "ControlEventLogMiddleware": MESSAGES,
    "RuntimeTracingMiddleware": MESSAGES,  # only with FLWR_TRACING_ENABLED, which the hub does not set
    "FleetEventLogMiddleware": MESSAGES,  # only with a plugin, which Flower's open-source release has not
    "NodeAuthMiddleware": ("/v1/runtime/",),
}
ONLY_LOOK = frozenset(  # what Flower's requests for messages depend on and that reads nothing but the request and the application
    {"VersionDependency", "get_protobuf_request", "get_linkstate", "get_runtime_state", "get_runtime_handlers"}
)
TOKEN_HEADER = "wardround-hub-token"  # noqa: S105  # the header's name
OPEN_PATHS = ("/v1/fleet/", "/v1/runtime/", "/health")  # each with an authentication of its own, or nothing to tell

log = logging.getLogger("wardround.hub")


class HubError(ServerError):
    """The hub cannot be started or reached, or refuses what it was asked."""


# --- content of a message ---------------------------------------------------------------------------------------------


def to_content(control: bytes, body: Bytes, large: ArrayRecord | None = None) -> RecordDict:
    """Record "sa1" with the control bytes; the body beside them when small, else as one raw array (chunked by Flower).

    `large`: this very body as `raw_record` made it for another message; it is hashed and sent once for all of them.
    """
    if len(body) <= INLINE_LIMIT:
        return RecordDict({CONTROL_RECORD: ConfigRecord({"control": control, "body": bytes(body)})})
    return RecordDict({CONTROL_RECORD: ConfigRecord({"control": control}), BODY_RECORD: large or raw_record(body)})


def raw_record(body: Bytes) -> ArrayRecord:
    """`body` as one array, not copied."""
    array = Array(dtype="uint8", shape=(len(body),), stype=RAW, data=b"")
    array.data = body  # Flower's constructor takes nothing but bytes, and its `slice_array` cuts any buffer
    return _record_of({BODY_RECORD: array})


def _record_of(arrays: Mapping[str, Array]) -> ArrayRecord:
    """Flower's own constructor makes new arrays, of bytes."""
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = array
    return record


def from_content(content: RecordDict) -> tuple[bytes, Bytes]:
    """(control, body); `TransportError` on any other shape. Nothing is deserialised: bytes in, bytes out."""
    fields = content.config_records.get(CONTROL_RECORD)
    arrays = content.array_records.get(BODY_RECORD, {})
    if fields is None or len(content) > 2 or not set(fields) <= {"control", "body"}:
        raise TransportError(f"message without a record {CONTROL_RECORD!r}, or with other records beside it")
    control, inline = fields.get("control"), fields.get("body", b"")
    if not isinstance(control, bytes) or not isinstance(inline, bytes):
        raise TransportError("control or body is not bytes")
    if not arrays:
        return control, inline
    array = arrays.get(BODY_RECORD)
    if inline or len(arrays) != 1 or array is None or array.stype != RAW:
        raise TransportError("more than one body, or a body that is not raw bytes")
    return control, array.data


# --- the coordinator's transport --------------------------------------------------------------------------------------


class Mail(Protocol):
    """The six things that the transport asks of Flower's grid."""

    def push(self, messages: Sequence[Message]) -> Sequence[str | None]:
        """Message ids, in order; None or nothing for a message that the SuperLink did not take."""
        ...

    def announced(self, names: Sequence[str]) -> Sequence[tuple[str, Any]]:
        """(message id, reply's handle) of replies that came since the last call; each is told once."""
        ...

    def fetch(self, handle: Any, limit_s: float) -> Message:
        """The reply itself; its parts may still be on their way, for at most `limit_s`."""
        ...

    def limit(self, seconds: float) -> None:
        """From now on, give up after `seconds` of trying to reach a silent SuperLink."""
        ...

    def done(self, size: int) -> None:
        """A fetched body of `size` bytes is let go: another may be fetched."""
        ...

    def forget(self) -> None:
        """Nobody waits any more for what is being fetched: it ends instead of asking until its time is over."""
        ...


class _Unlinked:
    """httpx's responses refer to themselves by their stream: each kept its 5 MiB until Python looked for such circles."""

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        response = call_next(context)
        response.stream = httpx.ByteStream(b"")  # it has been read
        return response


class GridMail:
    """`Mail` over Flower's grid. Its own `pull_messages` fetches one reply after the other, each for up to two hours,
    and begins with a pause of 1 s: one slow site would hold up all. Here a reply is fetched beside the others.

    A large body is in memory once: cut where it lies when it is sent, put together where it stays when it is fetched; and
    replies are fetched while `room` has room for them.
    """

    def __init__(self, grid: Grid, room: Room | None = None) -> None:
        self._grid = grid
        self._run_id = grid.run.run_id
        client = grid._runtime_client
        client._interceptors = (*client._interceptors, _Unlinked())
        self._room = room or Room(REPLIES_AT_ONCE)
        self._exchange, self._mine = 0, threading.local()  # the exchange that is awaited, and a thread's own

    def push(self, messages: Sequence[Message]) -> Sequence[str | None]:
        parts: dict[str, Any] = {}
        with inflatable_object.no_object_id_recompute():
            for message in messages:
                message.metadata.__dict__["_message_id"] = message.object_id
                parts.update(inflatable_object.get_all_nested_objects(message))
            pushed = self._grid._runtime_client.PushMessages(
                runtime_pb2.PushAppMessagesRequest(
                    messages_list=[message_to_proto(remove_content_from_message(message)) for message in messages],
                    message_object_trees=[inflatable_object.get_object_tree(message) for message in messages],
                )
            )
        push = inflatable_protobuf_utils.make_push_object_fn_protobuf(
            self._grid._runtime_client.PushObject, self._grid.node, run_id=self._run_id, session_id=pushed.session_id
        )
        wanted = set(pushed.objects_to_push)
        try:
            with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="parts") as senders:  # one copy of a part in each
                for _ in senders.map(lambda name: push(name, parts[name].deflate()), [name for name in parts if name in wanted]):
                    pass
        except inflatable_utils.ObjectPushError:
            log.warning("state=not-taken reason=%r", "the SuperLink did not store a part: is its disk full?")
            return []
        return list(pushed.message_ids)

    def announced(self, names: Sequence[str]) -> Sequence[tuple[str, Any]]:
        found = self._grid._runtime_client.PullMessages(runtime_pb2.PullAppMessagesRequest(message_ids=names))
        pairs = zip(found.messages_list, found.message_object_trees, strict=True)
        return [(proto.metadata.reply_to_message_id, (proto, tree)) for proto, tree in pairs]

    def fetch(self, handle: Any, limit_s: float) -> Message:
        _, tree = handle
        held: list[int] = []
        self._mine.exchange = self._exchange
        try:
            return self._fetch(tree, time.monotonic() + limit_s, held)
        except BaseException as error:
            self.done(sum(held))
            if isinstance(error, inflatable_utils.ObjectPullError):
                raise TransportError("a part of the reply did not come in time") from error
            if isinstance(error, (ValueError, KeyError, TypeError, AttributeError)):
                raise TransportError("a reply that Flower cannot read") from error
            raise

    def limit(self, seconds: float) -> None:
        self._grid._retry_invoker.max_time = seconds

    def done(self, size: int) -> None:
        self._room.leave(size)

    def forget(self) -> None:
        self._exchange += 1

    def _fetch(self, tree: message_pb2.ObjectTree, end: float, held: list[int]) -> Message:
        """`held`: the sizes of what room was taken for."""
        records = [record for content in tree.children for record in content.children if record.children]
        chunks = {part.object_id for record in records for array in record.children for part in array.children}
        names = [part.object_id for part in inflatable_object.iterate_object_tree(tree) if part.object_id not in chunks]
        # An honest site sends the message's own object after all others: room is taken once nearly all is here.
        contents = self._pull([tree.object_id], end) if records else {}
        contents |= self._pull([name for name in names if name not in contents], end)
        ready: dict[str, Any] = {}
        for record in records:
            named = json.loads(inflatable_object.get_object_body(contents.pop(record.object_id), ArrayRecord))
            arrays = {array.object_id: self._array(array, contents, end, held) for array in record.children}
            ready[record.object_id] = _record_of({name: arrays[array] for name, array in named.items()})
        confirm = message_pb2.ConfirmMessageReceivedRequest(
            node=self._grid.node, run_id=self._run_id, message_object_id=tree.object_id
        )
        self._grid._runtime_client.ConfirmMessageReceived(confirm)
        return inflatable_utils.inflate_object_from_contents(tree.object_id, contents, objects=ready)

    def _pull(self, names: Sequence[str], end: float) -> dict[str, bytes]:
        pull = inflatable_protobuf_utils.make_pull_object_fn_protobuf(
            self._grid._runtime_client.PullObject, self._grid.node, self._run_id
        )
        mine = self._mine.exchange

        def pull_if_awaited(name: str) -> bytes:
            if mine != self._exchange:
                raise inflatable_utils.ObjectPullError(name, "nobody waits for it any more")
            content: bytes = pull(name)
            return content

        found: dict[str, bytes] = inflatable_utils.pull_objects(
            list(names),
            pull_if_awaited,
            max_time=max(0.0, end - time.monotonic()),
            max_tries_per_object=None,
            initial_backoff=FIRST_PAUSE_S,
            backoff_cap=LONGEST_PAUSE_S,
        )
        return found

    def _array(self, tree: message_pb2.ObjectTree, contents: dict[str, bytes], end: float, held: list[int]) -> Array:
        """A body, each chunk checked and put in its place as it comes."""
        described = contents.pop(tree.object_id)
        names = inflatable_object.get_object_children_ids_from_object_content(described)
        said = json.loads(inflatable_object.get_object_body(described, Array))
        (size,) = said["shape"]
        if said["stype"] != RAW or type(size) is not int or not 0 < size <= BODY_LIMIT:
            raise TransportError("a body that is not raw bytes, or is larger than any plan's model")
        if set(names) != {part.object_id for part in tree.children}:
            raise TransportError("a body of other parts than were announced")
        array = Array(dtype="uint8", shape=(size,), stype=RAW, data=b"")
        wanted = [names[at] for at in said["arraychunk_ids"]]
        while True:
            self._room.enter(size, end)
            held.append(size)
            body, missing = self._body(size, wanted, end)
            if body is not None:
                array.data = body
                return array
            self.done(held.pop())
            self._pull(missing, end)  # outside the room: a site that keeps a part back keeps no other one waiting

    def _body(self, size: int, names: Sequence[str], end: float) -> tuple[memoryview | None, Sequence[str]]:
        """The body; or, where parts are not there within `HELD_S`, no body and the names of those."""
        body, at = memoryview(bytearray(size)), 0
        for start in range(0, len(names), PARTS_AT_ONCE):
            few = sorted(set(names[start : start + PARTS_AT_ONCE]))
            try:
                found = self._pull(few, min(end, time.monotonic() + HELD_S))
            except inflatable_utils.ObjectPullError:
                return None, few
            for name in names[start : start + PARTS_AT_ONCE]:
                if inflatable_object.get_object_id(found[name]) != name:
                    raise TransportError("a part of the reply is not the one that was announced")
                part = inflatable_object.get_object_body(found[name], ArrayChunk)
                body[at : at + len(part)] = part  # ValueError where more came than fits
                at += len(part)
        if at != size:
            raise TransportError(f"a body of {at} bytes, announced were {size}")
        return body, ()


class FlowerTransport:
    """`server.transport.Transport` over a Flower grid. `nodes`: site -> SuperNode id, as the signed plan lists them.

    An exchange ends at most one request time-out (30 s) after its patience. `seconds` adds up where the coordinator's
    time went: pushing, looking for replies, sleeping between looks (replies are fetched meanwhile).
    """

    def __init__(
        self,
        mail: Mail,
        nodes: Mapping[str, int],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.failures: dict[str, str] = {}
        self.seconds = {"push": 0.0, "look": 0.0, "sleep": 0.0}
        self._mail = mail
        self._nodes = dict(nodes)
        self._clock = clock
        self._sleep = sleep

    def exchange(self, kind: str, requests: Mapping[str, Request], patience: Patience) -> Iterator[tuple[str, Reply]]:
        """As `Transport.exchange`; the requests leave before this returns."""
        if strangers := sorted(set(requests) - set(self._nodes)):
            raise TransportError(f"no SuperNode id for {strangers}: the plan does not list them")
        if kind not in MESSAGE_TYPES:
            raise TransportError(f"kind {kind!r} is not one of {sorted(MESSAGE_TYPES)}")
        started = self._clock()
        self.failures = {}
        waiting = self._send(kind, requests, patience.deadline_s)
        return self._collect(waiting, patience, started)

    def close(self) -> None:
        """Nothing of its own to release: the grid belongs to the ServerApp's process."""

    def _send(self, kind: str, requests: Mapping[str, Request], deadline_s: float) -> dict[str, str]:
        """Message id -> site, of the messages that the SuperLink took."""
        ttl = deadline_s + MESSAGE_GRACE_S
        large = {id(request.body): raw_record(request.body) for request in requests.values() if len(request.body) > INLINE_LIMIT}
        messages = [
            Message(
                to_content(request.control, request.body, large.get(id(request.body))),
                self._nodes[site],
                MESSAGE_TYPES[kind],
                ttl=ttl,
            )
            for site, request in requests.items()
        ]
        names: list[str | None] = []
        with self._bounded("push", deadline_s):
            names = list(self._mail.push(messages))
        names += [None] * (len(messages) - len(names))
        waiting = {name: site for name, site in zip(names, requests, strict=True) if name}
        for site in sorted(set(requests) - set(waiting.values())):
            self._fail(site, "UNREACHABLE", "not taken by the SuperLink: is it running, is the node registered?")
        return waiting

    def _collect(self, waiting: dict[str, str], patience: Patience, started: float) -> Iterator[tuple[str, Reply]]:
        replies, quorum_at = 0, 0.0
        coming: dict[Future[Message], str] = {}
        with _fetchers(max(1, len(waiting))) as fetchers, contextlib.ExitStack() as stack:
            stack.callback(self._abandon, coming)
            while waiting or coming:
                now = self._clock()
                if replies < patience.quorum:
                    quorum_at = now
                left_s = patience.left(now - started, replies, now - quorum_at)
                if left_s <= 0:
                    break
                for site, handle in self._look(waiting, left_s):
                    coming[fetchers.submit(self._mail.fetch, handle, left_s)] = site
                while (fetched := next((fetch for fetch in coming if fetch.done()), None)) is not None:
                    site = coming.pop(fetched)
                    size = _body_size(fetched)
                    reply = self._read(site, fetched)
                    _empty(fetched)
                    try:
                        if reply is not None:
                            replies += 1
                            yield site, reply
                    finally:
                        del reply
                        self._mail.done(size)
                if waiting or coming:
                    self._pause(coming, left_s)
        for site in sorted([*waiting.values(), *coming.values()]):
            self._fail(site, "LATE", "no reply in time")

    def _abandon(self, coming: Mapping[Future[Message], str]) -> None:
        """Nobody waits for these any more: what they still fetch is let go as it comes."""

        def let_go(fetched: Future[Message]) -> None:
            size = _body_size(fetched)
            _empty(fetched)
            self._mail.done(size)

        for fetch in coming:
            fetch.add_done_callback(let_go)
        self._mail.forget()

    def _look(self, waiting: dict[str, str], left_s: float) -> list[tuple[str, Any]]:
        """(site, handle) of the replies that were announced, taken out of `waiting`."""
        found: Sequence[tuple[str, Any]] = []
        if waiting:
            with self._bounded("look", left_s):
                found = self._mail.announced(list(waiting))
        return [(waiting.pop(name), handle) for name, handle in found if name in waiting]

    def _pause(self, coming: Mapping[Future[Message], str], left_s: float) -> None:
        pause_s = min(FETCH_POLL_S if coming else POLL_S, left_s)
        self.seconds["sleep"] += pause_s
        self._sleep(pause_s)

    def _read(self, site: str, fetched: Future[Message]) -> Reply | None:
        try:
            message = fetched.result()
            if message.has_error():
                self._fail(site, "UNREACHABLE", f"Flower error {message.error.code}")
                return None
            if message.metadata.src_node_id != self._nodes[site]:
                self._fail(site, "UNREACHABLE", "reply from another node")
                return None
            return Reply(*from_content(message.content))
        except (TransportError, httpx.HTTPError) as error:
            self._fail(site, "UNREACHABLE", str(error))
            return None

    @contextlib.contextmanager
    def _bounded(self, phase: str, limit_s: float) -> Iterator[None]:
        """Give up on a silent SuperLink after `limit_s`; a stopped run ends everything."""
        self._mail.limit(limit_s)
        started = self._clock()
        try:
            yield
        except RunNotRunningException as error:
            raise TransportError("the run was stopped at the hub") from error
        except httpx.HTTPError as error:
            log.warning("state=superlink-silent reason=%s", type(error).__name__)
        finally:
            self.seconds[phase] += self._clock() - started

    def _fail(self, site: str, code: str, reason: str) -> None:
        log.warning("site=%s state=%s reason=%r", site, code, reason)
        self.failures[site] = code


def _body_size(fetched: Future[Message]) -> int:
    """Bytes of the arrays that a fetched message holds; 0 for one that did not come."""
    return sum(len(array.data) for array in _arrays_of(fetched))


def _empty(fetched: Future[Message]) -> None:
    """Flower's records refer to themselves: without this a body would stay until Python looks for such circles."""
    for array in _arrays_of(fetched):
        array.data = b""


def _arrays_of(fetched: Future[Message]) -> list[Array]:
    if fetched.cancelled() or fetched.exception() is not None or not fetched.result().has_content():
        return []
    return [array for record in fetched.result().content.array_records.values() for array in record.values()]


@contextlib.contextmanager
def _fetchers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that are not waited for: each ends by itself once its time is over."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="reply")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


# --- the ServerApp ----------------------------------------------------------------------------------------------------


def coordinate(grid: Grid, context: Context) -> None:
    """The ServerApp's main: `server.rounds.run(run_dir, transport)`, with what `HubControl.submit_run` wrote down.

    A coordinator that this one replaces may be just ending, and holds the journal until it has. It ends with the hub that started
    it: Flower would have it say goodbye to a SuperLink that is gone, for as long as its retries take. Any instant may be its last.
    """
    from server import rounds

    die_with(os.getppid())
    start_logs("coordinator")
    nodes = {str(site): int(node) for site, node in json.loads(str(context.run_config["nodes"])).items()}
    run_dir = Path(str(context.run_config["run-dir"]))
    wait_for_writer(RunFolder(run_dir).events, EARLIER_END_S)  # still there after that: `rounds.run` says so
    rounds.run(run_dir, FlowerTransport(GridMail(grid), nodes))


def refuse(*_: Any) -> None:
    """What the bundle names as its ClientApp, since Flower wants one. No site runs it, and it would do nothing."""
    raise HubError("sites run no program of the hub's")


app = ServerApp()
app.main()(coordinate)

BUNDLE = {
    "pyproject.toml": b"""\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "wardround"
version = "1.0.0"
description = "Points at the ServerApp that is installed at the hub; holds no code."
license = { text = "Apache-2.0" }
dependencies = []

[tool.flwr.app]
publisher = "wardround"

[tool.flwr.app.components]
serverapp = "server.flower:app"
clientapp = "server.flower:refuse"

[tool.flwr.app.config]
run-dir = ""
nodes = "{}"
"""
}


# --- operators' access ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HubAccess:
    """What an operator needs to control a hub: host:port, the authority's certificate, and the token file."""

    address: str
    ca: Path
    token_file: Path


@dataclass(frozen=True)
class Node:
    """A registered SuperNode. `status`: registered, online, offline or unregistered."""

    node_id: int
    name: str
    status: str
    public_key: bytes


@dataclass(frozen=True)
class RunStatus:
    """`state`: pending, starting, running, or finished:completed, finished:failed, finished:stopped."""

    state: str
    details: str


class _TokenHeader:
    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        context.request.headers[TOKEN_HEADER] = self._token
        return call_next(context)


class HubControl:
    """One operator's connection to a hub. Every call raises `HubError` with the hub's reason when it refuses."""

    def __init__(self, access: HubAccess) -> None:
        try:
            token, authority = access.token_file.read_text().strip(), access.ca.read_bytes()
        except OSError as error:
            raise HubError(f"{error.filename} cannot be read: copy it from the hub's state folder") from error
        self._client = ControlHttpClient.from_server_address(
            server_address=access.address,
            insecure=False,
            root_certificates=authority,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI"), _TokenHeader(token)],
        )

    def close(self) -> None:
        self._client.close()

    def answers(self) -> bool:
        """True when the hub can be reached and takes this token."""
        try:
            self.nodes()
        except HubError:
            return False
        return True

    def register_node(self, public_key_file: Path, *, name: str) -> int:
        """Node id of a site's SuperNode public key (OpenSSH ECDSA); the same id when it is registered already."""
        public_key = read_public_key(public_key_file)
        for node in self.nodes():
            if node.public_key == public_key and node.status != "unregistered":
                return node.node_id
        request = control_pb2.RegisterNodeRequest(public_key=public_key, name=name)
        with _reasons("register a node"):
            registered = self._client.RegisterNode(request)
        return int(registered.node_id)

    def unregister_node(self, node_id: int) -> None:
        """A site's SuperNode may connect no more."""
        with _reasons("unregister a node"):
            self._client.UnregisterNode(control_pb2.UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> tuple[Node, ...]:
        with _reasons("list nodes"):
            listed = self._client.ListNodes(control_pb2.ListNodesRequest()).nodes_info
        return tuple(Node(int(node.node_id), node.name, node.status, node.public_key) for node in listed)

    def submit_run(self, run_dir: Path, nodes: Mapping[str, int]) -> int:
        """Start the ServerApp on the hub's folder `run_dir`, for exactly the sites in `nodes`; Flower's run id."""
        return self.submit_bundle(
            build_fab_from_files(BUNDLE)[0], {"run-dir": str(run_dir), "nodes": json.dumps(dict(nodes), sort_keys=True)}
        )

    def submit_bundle(self, bundle: bytes, settings: Mapping[str, str]) -> int:
        """Start a run of any Flower app bundle: what `submit_run` uses, and what a hostile hub could."""
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = control_pb2.StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(settings)))
        with _reasons("start a run"):
            started = self._client.StartRun(request)
        if not started.HasField("run_id"):
            raise HubError("the hub started no run: see its log")
        return int(started.run_id)

    def run_status(self, run_id: int) -> RunStatus:
        with _reasons("show a run"):
            found = self._client.ListRuns(control_pb2.ListRunsRequest(run_id=run_id)).run_dict.get(run_id)
        if found is None:
            raise HubError(f"run {run_id} is not known to this hub")
        status = found.status
        return RunStatus(":".join(filter(None, [status.status, status.sub_status])), status.details)

    def stop_run(self, run_id: int) -> bool:
        with _reasons("stop a run"):
            stopped = self._client.StopRun(control_pb2.StopRunRequest(run_id=run_id))
        return bool(stopped.success)


@contextlib.contextmanager
def _reasons(action: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise HubError(f"the hub refuses to {action}: status {error.response.status_code}, {error.response.text[:200]}") from error
    except httpx.HTTPError as error:
        raise HubError(f"the hub cannot be reached to {action} ({type(error).__name__}): is it running?") from error


def read_public_key(path: Path) -> bytes:
    """A SuperNode's public key as Flower transmits it; `HubError` unless it is an OpenSSH key on a NIST curve."""
    try:
        return public_key_of(path.read_text("utf-8", "replace"), str(path))
    except OSError as error:
        raise HubError(f"{path} is not an OpenSSH public key") from error


def public_key_of(line: str, where: str = "the roster's line") -> bytes:
    """The same, of a line like `ecdsa-sha2-nistp384 AAAA…`; `where` names it in errors."""
    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm, NotImplementedError) as error:  # the last: a compressed point
        raise HubError(f"{where} is not an OpenSSH public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not uses_nist_ec_curve(key):
        raise HubError(f"{where} is not an ECDSA key on a NIST curve: make one with ssh-keygen -t ecdsa -b 384")
    return bytes(public_key_to_bytes(key))


# --- the hub's processes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HubConfig:
    """`names`: every host name or address by which sites reach this hub; they go into its certificate."""

    state_dir: Path
    port: int
    host: str = "127.0.0.1"
    names: tuple[str, ...] = ("localhost", "127.0.0.1")


@dataclass
class Hub:
    """SuperLink and SuperExec of one state folder. Start it from a thread that outlives it: they die with that thread."""

    config: HubConfig
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, repr=False)
    _restarts: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def access(self) -> HubAccess:
        folder = self.config.state_dir
        return HubAccess(f"127.0.0.1:{self.config.port}", folder / "tls" / "ca.pem", folder / "hub.token")

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    def start(self) -> None:
        """Returns when the SuperLink answers; `HubError` after `START_LIMIT_S`, or at once where its port is taken."""
        folder = self.config.state_dir
        _check_port(self.config)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("hub.token", "superexec.secret"):
            _keep_secret(folder / name)
        if not (folder / "tls" / "server.pem").exists():
            make_tls(folder / "tls", sorted({*self.config.names, "127.0.0.1"}), now=datetime.datetime.now(datetime.UTC))
        self._launch("superlink")
        self._wait_until_it_answers()
        self._launch("superexec")

    def restart_dead(self) -> tuple[str, ...]:
        """Start again what has ended, after a pause that grows with every time; the names of what was started.

        Their logs begin anew when they have grown long.
        """
        dead = tuple(name for name, process in self._processes.items() if process.poll() is not None)
        for name in dead:
            count = self._restarts[name] = self._restarts.get(name, 0) + 1
            log.warning("process=%s state=ended status=%s", name, self._processes[name].returncode)
            time.sleep(min(0.5 * 2.0 ** (count - 1), RESTART_LIMIT_S))
            self._launch(name)
        for name in self._processes:
            keep_short(self.config.state_dir / f"{name}.log")
        return dead

    def stop(self) -> None:
        """End all processes, ServerApps included. Safe to call twice."""
        for process in reversed(self._processes.values()):
            _signal_group(process, signal.SIGTERM)
        end = time.monotonic() + STOP_LIMIT_S
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
            _signal_group(process, signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def _launch(self, name: str) -> None:
        folder, tls = self.config.state_dir, self.config.state_dir / "tls"
        files = TlsFiles(tls / "ca.pem", tls / "server.pem", tls / "server.key")
        arguments = {
            "superlink": _superlink_arguments(self.config, files),
            "superexec": [
                *("--runtime-api-address", f"127.0.0.1:{self.config.port}"),
                *("--root-certificates", str(files.ca)),
            ],
        }[name]
        secret = ["--superexec-auth-secret-file", str(folder / "superexec.secret")]
        command = [sys.executable, "-m", "server.flower", name, str(os.getpid()), str(folder / "hub.token")]
        log.info("process=%s state=starting", name)
        with (folder / f"{name}.log").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [*command, *arguments, *secret],
                env=_environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_until_it_answers(self) -> None:
        control = HubControl(self.access)
        end = time.monotonic() + START_LIMIT_S
        with contextlib.closing(control):
            while not control.answers():
                if self._processes["superlink"].poll() is not None or time.monotonic() > end:
                    self.stop()
                    where = self.config.state_dir / "superlink.log"
                    raise HubError(f"the SuperLink does not answer on port {self.config.port}: see {where}")
                time.sleep(0.1)


@contextlib.contextmanager
def only_hub(state_dir: Path) -> Iterator[None]:
    """One hub for one folder, also on another port: two would write one database and remove each other's objects.

    Raises `HubError` while another process has the folder; the kernel gives it free however that one ends.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state_dir / "hub.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HubError(f"another hub runs on this folder ({state_dir}): stop that one first; nothing was changed") from error
        yield


def _check_port(config: HubConfig) -> None:
    try:
        socket.create_server((config.host, config.port)).close()
    except OSError as error:
        raise HubError(
            f"cannot listen on {config.host}:{config.port} ({error.strerror}): stop who does, or name another"
        ) from error


def _superlink_arguments(config: HubConfig, files: TlsFiles) -> list[str]:
    return [
        *("--host", config.host, "--port", str(config.port)),
        *("--ssl-ca-certfile", str(files.ca), "--ssl-certfile", str(files.certificate), "--ssl-keyfile", str(files.key)),
        *("--database", str(config.state_dir / "flower.db")),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        *("--isolation", "process"),
    ]


def run_hub(config: HubConfig) -> None:
    """Run a hub until SIGTERM or SIGINT; what dies is started again; leaves no process behind, also when killed."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    hub = Hub(config)
    hub.start()
    log.info("state=serving port=%d", config.port)
    try:
        while not stop.wait(0.5):
            hub.restart_dead()
    finally:
        hub.stop()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _environment(folder: Path) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_TRACING_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        **MEMORY,
        "FLWR_LOG_LEVEL": os.environ.get("FLWR_LOG_LEVEL", "WARNING"),  # at INFO: a line per request, 40 a second
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": TASK_POLL_S,
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY", ""), "127.0.0.1"])),
        "no_proxy": ",".join(filter(None, [os.environ.get("no_proxy", ""), "127.0.0.1"])),
    }


def _keep_secret(path: Path) -> None:
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))


class _Gate:
    """ASGI: without the hub's token only the paths that authenticate by themselves (SuperNode signature, task token)."""

    def __init__(self, application: Callable[..., Awaitable[None]], token: str) -> None:
        self._application = application
        self._token = token.encode()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", []))
        known = hmac.compare_digest(headers.get(TOKEN_HEADER.encode(), b""), self._token)
        if scope["type"] == "http" and not known and not scope["path"].startswith(OPEN_PATHS):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"hub token missing or wrong"})
            return
        await self._application(scope, receive, send)


@dataclass(frozen=True)
class Looker:
    """Who looks: a task token, or a public key and the connection that it came by (host and port)."""

    path: str
    name: bytes
    connection: tuple[Any, ...]


def _looker(path: str, scope: Mapping[str, Any]) -> Looker:
    for name, value in scope["headers"]:  # the first counts, as for the SuperLink
        if name == FLEET_HTTP_PUBLIC_KEY_HEADER.encode():
            return Looker(path, value, tuple(scope.get("client") or ()))
    return Looker(path, next((value for name, value in scope["headers"] if name == TASK_TOKEN_HEADER.encode()), b""), ())


class _Doorbell:
    """ASGI: a look for messages that found none last time waits until something came, at most `HOLDS_S`.

    Flower's SuperNodes and ServerApp ask again and again, and each look costs the SuperLink a signature check and a
    write to its database. Here the gateways may ask without a pause and hear of a message at once, at a fraction of the
    load. Nothing is decided here: a look that waited too long, or too short, is an ordinary look.

    Only who was answered is remembered (status 200: the SuperLink knows the signature or the token), and a SuperNode only
    on the connection that it signed on: its public key is no secret, and a stranger who names it must not take its turn.
    """

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self._application = application
        self._rang = dict.fromkeys(BELLS, 0)  # how often something came for the lookers at `path`
        self._waiting: dict[str, asyncio.Event] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._seen: OrderedDict[Looker, int] = OrderedDict()  # a looker's last empty look: the rings before it
        self._turns: dict[tuple[str, bytes], object] = {}  # a name's newest held look

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if path in BELLS:
            await self._look(path, scope, receive, send)
        else:
            await self._application(scope, receive, send)
            for looked_at, prefix in BELLS.items():
                if path.startswith(prefix):
                    self._ring_soon(looked_at)

    async def _look(self, path: str, scope: dict[str, Any], receive: Any, send: Any) -> None:
        looker, first, size, status = _looker(path, scope), await receive(), 0, 0
        if self._seen.pop(looker, -1) == self._rang[path] and not await self._wait(path, looker.name, receive):
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        rang, parts = self._rang[path], [first]

        async def again() -> Any:
            return parts.pop() if parts else await receive()

        async def counted(message: dict[str, Any]) -> None:
            nonlocal size, status
            size += len(message.get("body", b""))
            status = message.get("status", status)
            await send(message)

        await self._application(scope, again, counted)
        if status == httpx.codes.OK and size < EMPTY_LOOK and 0 < len(looker.name) <= NAME_LIMIT:
            self._seen[looker] = rang
            if len(self._seen) > LOOKERS_LIMIT:
                self._seen.popitem(last=False)

    async def _wait(self, path: str, name: bytes, receive: Any) -> bool:
        """Until the bell rings or the hold is over. False when nobody is there any more to hear the answer: a look that
        went on for a dead SuperNode would take its successor's message."""
        looker = path, name
        turn = self._turns[looker] = object()
        bell = self._waiting.setdefault(path, asyncio.Event())
        rings, leaves = asyncio.ensure_future(bell.wait()), asyncio.ensure_future(receive())
        await asyncio.wait({rings, leaves}, timeout=HOLDS_S[path], return_when=asyncio.FIRST_COMPLETED)
        gone = leaves.done() or self._turns.get(looker) is not turn
        for task in (rings, leaves):
            task.cancel()
        if self._turns.get(looker) is turn:
            del self._turns[looker]
        return not gone

    def _ring_soon(self, path: str) -> None:
        """A message is announced before its parts arrive; ring once they have stopped coming."""
        if timer := self._timers.get(path):
            timer.cancel()
        self._timers[path] = asyncio.get_running_loop().call_later(SETTLE_S, self._ring, path)

    def _ring(self, path: str) -> None:
        self._rang[path] += 1
        if bell := self._waiting.pop(path, None):
            bell.set()


def _run_superlink(token_file: Path) -> None:
    from fastapi.dependencies import utils as dependencies
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.supercore import sql_mixin
    from flwr.supercore.corestate.sql_corestate import SqlCoreState
    from flwr.supercore.object_store.sql_object_store import SqlObjectStore
    from flwr.superlink import main as superlink
    from flwr.superlink.cli import flower_superlink

    SqlCoreState._cleanup_expired_task_tokens = _seldom(SqlCoreState._cleanup_expired_task_tokens)
    sql_mixin.SQLITE_PRAGMAS = tuple({**dict(sql_mixin.SQLITE_PRAGMAS), **PRAGMAS}.items())
    sql_mixin.SqlMixin.session = _one_at_a_time(sql_mixin.SqlMixin.session)
    SqlLinkState.create_node = _with_a_former_key(SqlLinkState.create_node)
    _keep_objects_in_files(SqlCoreState, SqlObjectStore, ObjectFiles(token_file.parent / "objects"))
    create_app, token = superlink.create_app, token_file.read_text().strip()
    superlink._get_middleware = _fewer_layers(superlink._get_middleware)

    def create_gated_app(*arguments: Any, **settings: Any) -> Any:
        application = create_app(*arguments, **settings)
        application.add_middleware(Transfers)
        application.add_middleware(_Doorbell)
        application.add_middleware(_Gate, token=token)
        application.add_middleware(OneGateway, **_one_gateway(token_file.parent))
        application.add_middleware(RosterDesk, **_roster_desk(token_file.parent))
        application.add_middleware(Front, version=importlib.metadata.version("wardround"), roster=token_file.parents[1] / ROSTER)
        return application

    superlink.create_app = create_gated_app
    vars(dependencies)["run_in_threadpool"] = _at_once(vars(dependencies)["run_in_threadpool"])
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    flower_superlink()


def _roster_desk(folder: Path) -> dict[str, Any]:
    """`folder`: the hub's own, beside whose TLS material the rosters are kept."""
    authority = load_pem_x509_certificate((folder / "tls" / "ca.pem").read_bytes())
    return {"folder": folder / ROSTERS, "hub": authority.fingerprint(hashes.SHA256())}


def _one_gateway(folder: Path) -> dict[str, Any]:
    def name_of(key: str) -> str:
        """The site of a key as Flower's SuperNodes write it; for the log alone."""
        found = listed(folder / ROSTERS)
        with contextlib.suppress(ValueError, UnsupportedAlgorithm, NotImplementedError):
            line = load_pem_public_key(base64.b64decode(key)).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
            return "unknown" if found is None else found.keys.get(line, "unknown")
        return "unknown"

    return {"file": folder / "gateways.json", "key_header": FLEET_HTTP_PUBLIC_KEY_HEADER, "name_of": name_of}


def _fewer_layers(layers: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
    """Flower's layers, for messages without those that do nothing and the others without Starlette's tasks and streams: each
    layer cost every request most of a millisecond, and sixty requests make a message to four sites."""

    def fewer() -> list[Any]:
        found = []
        for layer in layers():
            whole = functools.partial(Whole, layer=layer.cls, prefixes=MESSAGES, **layer.kwargs)
            found.append(Middleware(Only, layer=whole, prefixes=IDLE_LAYERS.get(layer.cls.__name__, ())))
        return found

    return fewer


def _keep_objects_in_files(state: Any, store: Any, files: ObjectFiles) -> None:
    """`state`, `store`: Flower's classes for what the SuperLink remembers. The content of an object lies in `files`, its row has
    the file's name. Checks and writing happen before the database is locked: it has one writer at a time."""
    initialize, forget = store.initialize, store.delete

    def put(self: Any, object_id: str, object_content: bytes) -> None:
        """`object_content`: the name of a file."""
        with self.session() as session:
            waiting = (StoredObject.object_id == object_id, StoredObject.is_available == 0)
            changed = update(StoredObject).where(*waiting).values(content=object_content, is_available=1)
            if session.scalar(changed.returning(StoredObject.object_id)) is not None:
                return
            if object_id not in self:
                raise NoObjectInStoreError(f"Object with ID '{object_id}' was not pre-registered.")
            files.remove(_file_of(object_content))  # somebody else sent the same bytes before

    def get(self: Any, object_id: str) -> bytes | None:
        content: bytes | None = stored(self, object_id)
        return files.read(_file_of(content)) if content and content.startswith(IN_FILE) else content

    def stored(self: Any, object_id: str) -> Any:
        with self.session() as session:
            return session.scalar(select(StoredObject.content).where(StoredObject.object_id == object_id))

    def delete(self: Any, object_id: str) -> None:
        with self._mutation_session() as session:
            content = stored(self, object_id)
            forget(self, object_id)
            if content and content.startswith(IN_FILE) and object_id not in self:
                event.listen(session, "after_commit", lambda _: files.remove(_file_of(content)), once=True)

    def initialize_and_tidy(self: Any, *arguments: Any, **settings: Any) -> Any:
        found = initialize(self, *arguments, **settings)
        with self.session() as session:
            contents = session.scalars(select(StoredObject.content).where(StoredObject.is_available == 1))
            files.keep_only(_file_of(content) for content in contents if content.startswith(IN_FILE))
        return found

    state.store_object = _checked(state.store_object, files)
    store.put, store.get, store.delete, store.initialize = put, get, delete, initialize_and_tidy


def _checked(store_object: Callable[..., bool], files: ObjectFiles) -> Callable[..., bool]:
    """Flower's `store_object`, given the name of a file where the content lies that was checked to be what its id says."""

    def store_checked(self: Any, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        if inflatable_object.get_object_id(object_content) != object_id:
            log.warning("state=object-refused reason=%r", "its bytes are not those that its name says")
            return False
        try:
            inflatable_utils.validate_object_content(object_content)
            name = files.write(object_content)
        except (OSError, inflatable_object.UnexpectedObjectContentError) as error:
            log.warning("state=object-refused reason=%s", type(error).__name__)
            return False
        if not store_object(self, run_id, session_id, object_id, IN_FILE + name.encode()):
            files.remove(name)
            return False
        return True

    return store_checked


def _file_of(content: bytes) -> str:
    return content.removeprefix(IN_FILE).decode()


def _seldom(clean_up: Callable[[Any], None]) -> Callable[[Any], None]:
    """At most once in `CLEAN_UP_S`. Flower writes to its database for this at every request, also for each object read:
    with one writer at a time, most of a message's time went there. Heartbeats live 30 s, so a second more is nothing."""
    lock, last = threading.Lock(), [float("-inf")]

    def clean_up_seldom(state: Any) -> None:
        with lock:
            if time.monotonic() - last[0] < CLEAN_UP_S:
                return
            last[0] = time.monotonic()
        clean_up(state)

    return clean_up_seldom


def _one_at_a_time(session: Callable[[Any], AbstractContextManager[Any]]) -> Callable[[Any], AbstractContextManager[Any]]:
    """Transactions take turns here, and not in SQLite: there, who finds a writer sleeps for longer and longer, and who read before
    it writes is refused when another has written in between."""
    turn = threading.RLock()  # a transaction within a transaction joins it

    @contextlib.contextmanager
    def one_at_a_time(state: Any) -> Iterator[Any]:
        with turn, session(state) as found:
            yield found

    return one_at_a_time


def _at_once(run_in_threadpool: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """FastAPI hands each thing that a request depends on to a thread of its own: those that only look are quicker than that."""

    async def run(dependency: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if getattr(dependency, "__name__", type(dependency).__name__) in ONLY_LOOK:
            return dependency(*arguments, **named)
        return await run_in_threadpool(dependency, *arguments, **named)

    return run


def _with_a_former_key(create_node: Callable[..., int]) -> Callable[..., int]:
    """Flower keeps the key of a node that was unregistered, and no key twice: a site that was taken off the roster could never
    come back with its key. Here the former node gives it up."""

    def create(state: Any, owner_aid: str, owner_name: str, public_key: bytes, *arguments: Any, **settings: Any) -> int:
        former = update(NodeRow).where(NodeRow.public_key == public_key, NodeRow.status == NodeStatus.UNREGISTERED)
        with state.session() as session:
            session.execute(former.values(public_key=None))
        return create_node(state, owner_aid, owner_name, public_key, *arguments, **settings)

    return create


def _run_superexec(_: Path) -> None:
    from flwr.supercore.cli import flower_superexec

    flower_superexec()


def die_with(parent: int) -> None:
    """Have the kernel kill this process as soon as `parent`'s starting thread ends, however it ends (Linux)."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, linux/prctl.h
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main(arguments: Sequence[str]) -> None:
    """One process of the hub: `superlink|superexec PARENT_PID TOKEN_FILE FLOWER_ARGUMENTS…`. Started by `Hub`."""
    name, parent, token_file, *rest = arguments
    die_with(int(parent))
    sys.argv = [f"flower-{name}", *rest]
    {"superlink": _run_superlink, "superexec": _run_superexec}[name](Path(token_file))


if __name__ == "__main__":
    main(sys.argv[1:])
