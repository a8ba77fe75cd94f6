"""The gateway moves bytes between the hub and the guard; whatever program the hub sends is never even fetched.

Two processes, both without data and without keys but the SuperNode's own:
- the SuperNode (Flower's, started through its Python entry) keeps one outbound TLS connection to the hub;
- the relay (this process) takes each message from it over its Runtime API, hands the message's bytes to the guard's
  socket if it is one of our four kinds, and hands the answer back. Anything else gets a fixed refusal.

Flower's own executor would install and import the app bundle of the run. Here nobody does: the SuperNode is given an
empty bundle in its place without asking the hub for it, and the relay has no code that could open one.

This file reaches into internals of one pinned Flower release; `tests/flower/test_internals.py` fails when they move.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import httpx
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SubStatus
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fab_pb2, fleet_pb2, message_pb2, node_pb2, run_pb2, runtime_pb2
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable import inflatable_object, inflatable_protobuf_utils, inflatable_utils
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient

from client.clock import utc
from client.errors import SiteError
from client.guard_rpc import FrameError, GuardClient, GuardDeadline, GuardUnreachable, refusal
from client.hub_roster import HubSilent, RosterQuestions, bring_roster
from client.instance import instance_of
from client.logs import AUTO, Logs, form_of, thread_ended
from consortium.errors import EncodingError
from consortium.logs import about, request_id
from consortium.question import INSTANCE_HEADER, SINCE_HEADER
from consortium.wire import Refusal, decode_reply

FLOWER_VERSION = "1.41.0"
KINDS = {
    "query.sa1_keys": "sa1_keys",
    "query.sa1_kem": "sa1_kem",
    "train.sa1_update": "sa1_update",
    "query.sa1_vote": "sa1_vote",
}
CONTROL_RECORD, BODY_RECORD, RAW = "sa1", "body", "wardround.raw"
INLINE_LIMIT = 256 << 10  # bytes of body that ride in the control record: three Flower objects less to move
EMPTY_BUNDLE = hashlib.sha256(b"").hexdigest()
INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
CLAIM_TASK = "/flwr.proto.Runtime/AcquireTask"

REPLY_POLL_S = 0.02  # SuperNode looking for the relay's reply, in its own memory (Flower: 0.5 s)
HUB_POLL_S = 0.05  # SuperNode asking the hub again; the hub holds an empty look for 10 s (Flower: 3 s)
RECONNECT_LIMIT_S = 5  # longest pause between two tries to reach the hub (Flower: 20 s)
PARTS_AT_ONCE = 2  # of one body, from the relay to the SuperNode
TASK_POLL_S = 0.02  # relay asking the SuperNode, once it said that a message came
TASK_WAIT_S = 2.0  # ... for so long; and the interval of a look without being told
HEARTBEAT_S = 10.0  # of a task at work; the SuperNode gives it up after 60 s
GUARD_LIMIT_S = 6 * 3600.0  # never wait longer for the guard, whatever the message says
RESTART_LIMIT_S = 30.0  # longest pause before a dead SuperNode is started again
RELAY_STOP_S = 1.0
SUPERVISE_S = 0.2  # between two looks at whether all parts are alive
RELAY_ENDS_LIMIT = 5  # relays that ended without serving anything, until the gateway gives up
ROSTER_EVERY_S = 20.0  # between two questions for the roster in force; at once where the hub refused the SuperNode
EVENTS = ("message", "connected", "refused", "unreachable", "answered")
CONTACT_S = 5.0  # between two words of the SuperNode that the hub still answers
BEAT_S = 2.0  # between two writings of the display by a gateway with nothing else to say
STOP_S = 6.0  # for the SuperNode to say goodbye to the hub

log = logging.getLogger("wardround.gateway")


class GatewayError(SiteError):
    """The gateway cannot run: another one holds its folder, or a file it needs is missing."""


class ContentError(GatewayError):
    """A message whose content is not a control record and at most one raw body."""


class TaskLost(GatewayError):
    """The SuperNode and the relay no longer agree on a task; only a fresh SuperNode resolves it."""


class TaskWithdrawn(GatewayError):
    """The SuperNode gave a message up before it had all of it: its sender died, or its run is over."""


@dataclass(frozen=True)
class GatewayConfig:
    """`superlink`: host:port of the hub. `supernode_key`: OpenSSH ECDSA private key, registered at the hub."""

    superlink: str
    ca_file: Path
    supernode_key: Path
    guard_socket: Path
    state_dir: Path


# --- content of a message ---------------------------------------------------------------------------------------------


def to_content(control: bytes, body: bytes) -> RecordDict:
    """Record "sa1" with the control bytes; the body beside them when small, else as one raw array (chunked by Flower)."""
    if len(body) <= INLINE_LIMIT:
        return RecordDict({CONTROL_RECORD: ConfigRecord({"control": control, "body": body})})
    array = Array(dtype="uint8", shape=(len(body),), stype=RAW, data=body)
    return RecordDict({CONTROL_RECORD: ConfigRecord({"control": control}), BODY_RECORD: ArrayRecord({BODY_RECORD: array})})


def from_content(content: RecordDict) -> tuple[bytes, bytes]:
    """(control, body); `ContentError` on any other shape. Nothing is deserialised: bytes in, bytes out."""
    fields = content.config_records.get(CONTROL_RECORD)
    arrays = content.array_records.get(BODY_RECORD, {})
    if fields is None or len(content) > 2 or not set(fields) <= {"control", "body"}:
        raise ContentError(f"message without a record {CONTROL_RECORD!r}, or with other records beside it")
    control, inline = fields.get("control"), fields.get("body", b"")
    if not isinstance(control, bytes) or not isinstance(inline, bytes):
        raise ContentError("control or body is not bytes")
    if not arrays:
        return control, inline
    array = arrays.get(BODY_RECORD)
    if inline or len(arrays) != 1 or array is None or array.stype != RAW:
        raise ContentError("more than one body, or a body that is not raw bytes")
    return control, array.data


def _empty(content: RecordDict) -> None:
    """Flower's records refer to themselves: without this a body would stay until Python looks for such circles."""
    for record in content.array_records.values():
        for array in record.values():
            array.data = b""


# --- what the gateway shows of itself ---------------------------------------------------------------------------------


class Board:
    """State of SuperNode and guard: one log line per change, and `gateway.json` for `wardround-site status`.

    The line comes first: whoever reads of a change in the file finds it in the log.
    Only a display: a full disk makes it stale and never stops what it shows.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time, beside: Path | None = None) -> None:
        """`beside`: the socket's folder, which the guard sees too: in two containers it is all that they share."""
        self._path = folder / "gateway.json"
        self._beside = beside
        self._lock = threading.Lock()
        self._writable = True
        self._now = now
        self._beaten = 0.0
        self._state: dict[str, Any] = {"supernode": "starting", "guard": "unknown", "node_id": None, "pid": os.getpid()}
        self._state |= {"roster": "not asked yet", "roster_well": True}
        self._state |= {"since": utc(now()), "guard_since": utc(now()), "started": utc(now()), "last_contact": "", "restarts": 0}
        self._requests: Counter[tuple[str, str]] = Counter()
        self._bytes_out = 0
        self._write()  # what an earlier gateway left there is no longer so

    def show(self, **changes: Any) -> None:
        with self._lock:
            new = {name: value for name, value in changes.items() if self._state.get(name) != value}
            if not new:
                return
            self._state.update(new)
            if set(new) & {"supernode", "detail"}:
                self._state["since"] = utc(self._now())
            if "guard" in new:
                self._state["guard_since"] = utc(self._now())
            log.info("state=changed " + " ".join(f"{name}=%s" for name in new), *new.values())
            self._write()

    def beat(self) -> None:
        """This process is alive; said every `BEAT_S`, so that whoever looks from elsewhere can tell."""
        with self._lock:
            if self._now() - self._beaten >= BEAT_S:
                self._beaten = self._now()
                self._write()

    def contact(self) -> None:
        """The hub answered just now."""
        with self._lock:
            self._state["last_contact"] = utc(self._now())

    def restarted(self) -> None:
        with self._lock:
            self._state["restarts"] += 1

    def count(self, kind: str, outcome: str, size: int) -> None:
        """One request was answered: `outcome` is `answered` or a refusal's code, `size` the bytes that go out."""
        with self._lock:
            self._requests[kind, outcome] += 1
            self._bytes_out += size
            self._state["last_outcome"] = {"kind": kind, "outcome": outcome, "at": utc(self._now())}

    def document(self) -> dict[str, Any]:
        """What the file holds."""
        with self._lock:
            return self._document()

    def _document(self) -> dict[str, Any]:
        requests = [{"kind": kind, "outcome": outcome, "count": n} for (kind, outcome), n in sorted(self._requests.items())]
        return {**self._state, "beat": utc(self._now()), "requests": requests, "bytes_out": self._bytes_out}

    def _write(self) -> None:
        document = json.dumps(self._document(), sort_keys=True) + "\n"
        try:
            _replace(self._path, document)
        except OSError as error:
            if self._writable:
                log.warning("state=display-stale file=%s reason=%r", self._path.name, error.strerror)
            self._writable = False
            return
        self._writable = True
        if self._beside is not None:
            with contextlib.suppress(OSError):  # in a container of its own the gateway cannot write there, and need not
                _replace(self._beside / self._path.name, document)


def _replace(path: Path, text: str) -> None:
    scratch = path.with_suffix(".new")
    scratch.write_text(text)
    scratch.replace(path)


def outcome_of(control: bytes) -> str:
    """`answered`, or the code of a refusal; `unreadable` for bytes that are neither."""
    try:
        reply = decode_reply(control)
    except EncodingError:
        return "unreadable"
    return reply.code if isinstance(reply, Refusal) else "answered"


# --- the relay --------------------------------------------------------------------------------------------------------


class _Unlinked:
    """httpx's responses refer to themselves by their stream: each kept its 5 MiB until Python looked for such circles."""

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        response = call_next(context)
        response.stream = httpx.ByteStream(b"")  # it has been read
        return response


class _TaskToken:
    """Puts the token of the task at work on each request; before a task is claimed there is none."""

    def __init__(self) -> None:
        self.token = ""

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        if not self.token or context.rpc_method == CLAIM_TASK:
            return call_next(context)
        response: httpx.Response = RuntimeTokenHttpInterceptor(self.token).intercept(context, call_next)
        return response


class Relay:
    """Takes one task after the other from the SuperNode's Runtime API at `address` and answers it through `guard`."""

    def __init__(self, guard: GuardClient, address: str, secret: bytes, board: Board) -> None:
        self._guard = guard
        self._board = board
        self._token = _TaskToken()
        self._client = RuntimeHttpClient.from_server_address(
            server_address=address,
            insecure=True,  # loopback, within the gateway; tasks are given out against `secret` only
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
                SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({CLAIM_TASK})),
                self._token,
                _Unlinked(),
            ],
        )

    def close(self) -> None:
        self._client.close()

    def step(self) -> bool:
        """Serve one task if there is one. Raises `httpx.HTTPError` when the SuperNode is gone, `TaskLost`, `TaskWithdrawn`."""
        request = runtime_pb2.AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        claimed = self._client.AcquireTask(request)
        if not claimed.token:
            return False
        self._token.token = claimed.token
        try:
            with self._heartbeat():
                self._serve()
        except httpx.HTTPError as error:  # the SuperNode would wait for this task's reply for ever
            raise TaskLost(f"task broken off ({type(error).__name__})") from error
        finally:
            self._token.token = ""
        return True

    def _serve(self) -> None:
        task = self._client.PullTaskInput(runtime_pb2.PullTaskInputRequest())  # its `fab` is empty, and never looked at
        pulled = self._client.PullMessages(runtime_pb2.PullAppMessagesRequest())
        if not pulled.messages_list:
            raise TaskLost("task without a message")
        message = message_from_proto(pulled.messages_list[0])
        node = node_pb2.Node(node_id=task.context.node_id)
        reply = Message(to_content(*self._reply_to(message, pulled.message_object_trees[0], node)), reply_to=message)
        self._push(reply, node)
        _empty(reply.content)
        self._client.PushTaskOutput(runtime_pb2.PushTaskOutputRequest(sub_status=SubStatus.COMPLETED, details=""))

    def _reply_to(self, message: Message, tree: message_pb2.ObjectTree, node: node_pb2.Node) -> tuple[bytes, bytes]:
        """The guard's answer, or the refusal that is due instead."""
        metadata = message.metadata
        metadata.__dict__["_message_id"] = tree.object_id  # the transmitted form does not carry its own id
        objects = self._pull(tree, node, metadata.run_id, limit_s=_life_s(metadata.ttl))
        kind = KINDS.get(metadata.message_type)
        if kind is None:
            log.warning("refused=UNKNOWN_KIND flower_run=%d", metadata.run_id)
            self._board.count("other", "UNKNOWN_KIND", 0)
            return refusal("UNKNOWN_KIND"), b""
        try:
            content = inflatable_utils.inflate_object_from_contents(tree.object_id, objects).content
            request = from_content(content)
            _empty(content)
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, ContentError) as error:
            log.warning("kind=%s refused=UNDECODABLE reason=%s", kind, type(error).__name__)
            self._board.count(kind, "UNDECODABLE", 0)
            return refusal("UNDECODABLE"), b""
        with about(request=request_id(kind, request[0]), kind=kind):
            answer = self._ask(kind, *request, deadline_s=_life_s(metadata.ttl))
        self._board.count(kind, outcome_of(answer[0]), len(answer[0]) + len(answer[1]))
        return answer

    def _ask(self, kind: str, control: bytes, body: bytes, *, deadline_s: float) -> tuple[bytes, bytes]:
        log.info("state=received control=%d body=%d", len(control), len(body))
        started, name = time.monotonic(), request_id(kind, control)
        try:
            answer = self._guard.exchange(kind, control, body, deadline_s)
        except GuardUnreachable:
            self._board.show(guard="unreachable")
            log.warning("refused=GUARD_DOWN")
            return refusal("GUARD_DOWN", name), b""
        except GuardDeadline:
            log.warning("refused=BUSY state=late deadline_s=%.0f", deadline_s)
            return refusal("BUSY", name), b""
        except FrameError as error:
            log.warning("refused=INTERNAL reason=%s", type(error).__name__)
            return refusal("INTERNAL", name), b""
        self._board.show(guard="serving")
        log.info("state=answered outcome=%s seconds=%.2f", outcome_of(answer[0]), time.monotonic() - started)
        return answer

    def _pull(self, tree: message_pb2.ObjectTree, node: node_pb2.Node, run_id: int, *, limit_s: float) -> dict[str, bytes]:
        """All objects of a message, by id. The SuperNode announces a message before it holds all of it: ask again.

        A sender that died meanwhile never sends the rest: wait no longer than the message lives, nor than the SuperNode.
        """
        pull = inflatable_protobuf_utils.make_pull_object_fn_protobuf(self._client.PullObject, node, run_id)
        names = [part.object_id for part in inflatable_object.iterate_object_tree(tree)]
        try:
            objects: dict[str, bytes] = inflatable_utils.pull_objects(
                names, pull, max_time=limit_s, max_tries_per_object=None, initial_backoff=TASK_POLL_S, backoff_cap=0.5
            )
        except inflatable_utils.ObjectPullError as error:
            raise TaskLost("a message's object is not there") from error
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.UNAUTHORIZED:
                raise
            raise TaskWithdrawn("the SuperNode gave the message up") from error
        confirm = message_pb2.ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=tree.object_id)
        self._client.ConfirmMessageReceived(confirm)
        return objects

    def _push(self, reply: Message, node: node_pb2.Node) -> None:
        with inflatable_object.no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            pushed = self._client.PushMessages(
                runtime_pb2.PushAppMessagesRequest(
                    messages_list=[message_to_proto(remove_content_from_message(reply))],
                    message_object_trees=[inflatable_object.get_object_tree(reply)],
                )
            )
            parts = inflatable_object.get_all_nested_objects(reply)
        push = inflatable_protobuf_utils.make_push_object_fn_protobuf(
            self._client.PushObject, node, run_id=reply.metadata.run_id, session_id=pushed.session_id
        )
        wanted = set(pushed.objects_to_push)
        try:
            with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="parts") as senders:  # one copy of a part in each
                for _ in senders.map(lambda name: push(name, parts[name].deflate()), [name for name in parts if name in wanted]):
                    pass
        except inflatable_utils.ObjectPushError as error:
            raise TaskLost("the SuperNode did not take a reply's object") from error

    @contextmanager
    def _heartbeat(self) -> Iterator[None]:
        """While the guard works on a task, tell the SuperNode that it is not forgotten."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT_S):
                try:
                    self._client.SendTaskHeartbeat(runtime_pb2.SendTaskHeartbeatRequest())
                except httpx.HTTPError:
                    log.warning("state=heartbeat-failed")

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()


# --- the SuperNode, in its own process --------------------------------------------------------------------------------


def run_supernode(config: GatewayConfig, port: int, secret_file: Path) -> None:
    """Flower's SuperNode in this process, in process isolation, Runtime API on loopback `port`. Never returns."""
    from flwr.supercore.retry import http_retry
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode import main as runtime_api
    from flwr.supernode.cli import flower_supernode

    hub = _HubWatch(config.state_dir / "node_id", instance_of(config.state_dir))
    start_client_internal.time = SimpleNamespace(sleep=hub.sleep)
    start_client_internal.pull_objects = functools.partial(_pull_parts, hub)
    start_client_internal.get_fused_config_from_fab = lambda _fab, _run: {}
    http_retry.MAX_RETRY_DELAY = RECONNECT_LIMIT_S
    threading.excepthook = _say_ended
    fleet_http_connection.FleetHttpClient = _fleet_client(hub)
    create_app = runtime_api.create_app

    def create_app_of_whole_bodies(*arguments: Any, **settings: Any) -> Any:
        application = create_app(*arguments, **settings)
        application.add_middleware(_WholeBodies)
        return application

    runtime_api.create_app = create_app_of_whole_bodies
    sys.argv = ["flower-supernode", "--superlink", config.superlink, "--root-certificates", str(config.ca_file)]
    sys.argv += ["--auth-supernode-private-key", str(config.supernode_key), "--isolation", "process"]
    sys.argv += ["--host", "127.0.0.1", "--port", str(port), "--superexec-auth-secret-file", str(secret_file)]
    flower_supernode()
    # Flower logs an unforeseen error of its main loop and leaves the Runtime API running: an idle shell. End it instead.
    os._exit(1)


class _WholeBodies:
    """ASGI: Flower's layers pass a body on 64 KiB at a time, and each pass costs more than the bytes. They get it in one part."""

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        parts: list[bytes] = []
        message: dict[str, Any] = {"more_body": scope["type"] == "http"}
        while message.get("more_body", False):
            message = await receive()
            parts.append(message.get("body", b""))
        whole = [{**message, "body": b"".join(parts)}] if parts else []

        async def again() -> Any:
            return whole.pop() if whole else await receive()

        await self._application(scope, again, send)


def _say_ended(ended: threading.ExceptHookArgs) -> None:
    """One line in place of a trace: Flower's heartbeat ends so when the hub shuts this site out, and its words follow."""
    name = ended.thread.name if ended.thread else "unknown"
    print(f"state=supernode-thread-ended thread={name!r} reason={ended.exc_type.__name__}", file=sys.stderr, flush=True)


def _life_s(ttl: float) -> float:
    """Seconds that a message may occupy the gateway, given what it says of itself."""
    return min(max(ttl, 1.0), GUARD_LIMIT_S)


def _pull_parts(hub: "_HubWatch", names: list[str], pull_object_fn: Callable[[str], bytes]) -> dict[str, bytes]:
    """Flower's `pull_objects` for the parts of a message, with a first pause of 0.02 s for 1 s, and an end.

    A coordinator that is killed between announcing a message and sending its parts never sends them: Flower would wait two
    hours, and take no other message. And where the run is over, Flower's own exception passes by Flower's own tidying up:
    the task would stay, and the relay with it.
    """
    try:
        parts: dict[str, bytes] = inflatable_utils.pull_objects(
            names,
            pull_object_fn,
            max_time=hub.message_life_s,
            max_tries_per_object=None,
            initial_backoff=TASK_POLL_S,
            backoff_cap=0.5,
        )
    except RunNotRunningException as error:
        raise TaskWithdrawn("the run is over") from error
    return parts


class _HubWatch:
    """Tells the relay (on stdout, one JSON object a line) how the hub answers, and paces the asking."""

    def __init__(self, node_file: Path, instance: str = "") -> None:
        self.node_file = node_file
        self.instance = instance
        self.node_id: int | None = None
        self.message_life_s = GUARD_LIMIT_S
        self._told: dict[str, Any] = {}
        self._contact_told = 0.0

    def tell(self, **event: Any) -> None:
        if event != self._told:
            self._told = event
            print(json.dumps(event), flush=True)

    def answered(self) -> None:
        if self.node_id is not None and self._told.get("event") in ("unreachable", "refused"):
            self.tell(event="connected", node_id=self.node_id)
        if time.monotonic() - self._contact_told >= CONTACT_S:
            self._contact_told = time.monotonic()
            print(json.dumps({"event": "answered"}), flush=True)

    def message_came(self, ttl: float) -> None:
        self.message_life_s = _life_s(ttl)
        self.tell(event="message", at=time.monotonic())

    def sleep(self, seconds: float) -> None:
        """Flower's main loop sleeps 3 s when the hub had nothing for it and 0.5 s while it waits for the reply."""
        time.sleep(REPLY_POLL_S if seconds < 1.0 else HUB_POLL_S)


def _why(response: httpx.Response) -> str | None:
    """In words, where the hub said that this is the second gateway of one site; else the question for the roster tells."""
    if response.status_code != httpx.codes.CONFLICT:
        return None
    since = response.headers.get(SINCE_HEADER, "")
    when = f" since {since}" if INSTANT.fullmatch(since) else ""
    return (
        f"another gateway with this site's key is connected{when}: a site runs on one machine; stop the other one, or this one. "
        "This one goes on trying, and connects within a minute or two once the other has stopped"
    )


def _fleet_client(hub: _HubWatch) -> type[FleetHttpClient]:
    """Flower's client of the hub's Fleet API, watched, and with an empty bundle in place of the run's."""

    class WatchedFleetClient(FleetHttpClient):  # type: ignore[misc]  # Flower is not typed for us
        def __init__(self, base_url: str, *, interceptors: Sequence[Any] = (), **settings: Any) -> None:
            super().__init__(base_url, interceptors=(*interceptors, _Unlinked()), **settings)
            self._client.headers[INSTANCE_HEADER] = hub.instance

        def ActivateNode(self, request: fleet_pb2.ActivateNodeRequest) -> Any:  # noqa: N802
            if hub.node_file.exists():  # a killed gateway is "online" at the hub for a minute: take its place at once
                try:
                    self.DeactivateNode(fleet_pb2.DeactivateNodeRequest(node_id=int(hub.node_file.read_text())))
                except (httpx.HTTPError, ValueError):
                    log.info("state=no-earlier-session")
            response = super().ActivateNode(request)
            hub.node_id = response.node_id
            hub.node_file.write_text(str(response.node_id))
            hub.tell(event="connected", node_id=hub.node_id)
            return response

        def PullMessages(self, request: fleet_pb2.PullMessagesRequest) -> Any:  # noqa: N802
            response = super().PullMessages(request)
            if response.messages_list:
                hub.message_came(response.messages_list[0].metadata.ttl)
            return response

        def GetRun(self, request: run_pb2.GetRunRequest) -> Any:  # noqa: N802
            response = super().GetRun(request)
            response.run.fab_hash = EMPTY_BUNDLE
            response.run.primary_task_type = TaskType.SERVER_APP  # never a task type that the relay does not take
            return response

        def GetFab(self, request: fab_pb2.GetFabRequest) -> Any:  # noqa: N802
            del request  # the bundle stays at the hub
            return fab_pb2.GetFabResponse(fab=fab_pb2.Fab(hash_str=EMPTY_BUNDLE, content=b""))

        def _unary_unary(self, **call: Any) -> Any:
            try:
                response = super()._unary_unary(**call)
            except httpx.HTTPStatusError as error:
                hub.tell(event="refused", reason=_why(error.response) or f"HTTP {error.response.status_code}")
                raise
            except httpx.TransportError as error:
                hub.tell(event="unreachable", reason=type(error).__name__)
                raise
            hub.answered()
            return response

    return WatchedFleetClient


# --- both together ----------------------------------------------------------------------------------------------------


class Gateway:
    """Supervises one SuperNode, the thread that relays its tasks and the one that hears it, until stopped."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._stop = threading.Event()
        self._message_came = threading.Event()
        self._broken = threading.Event()
        self._ask_for_roster = threading.Event()
        self._follower: threading.Thread | None = None
        self._follow_from = 0.0
        self._board = Board(config.state_dir, beside=config.guard_socket.parent)
        self._child: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._relay_ends = 0  # since a task was last served
        self._address = ""
        self._secret = b""
        self._key = b""  # that the SuperNode was started with
        self._restarts = 0

    @property
    def board(self) -> Board:
        return self._board

    def stop(self, *_: int | FrameType | None) -> None:
        self._stop.set()
        self._message_came.set()
        self._ask_for_roster.set()

    def run(self) -> None:
        """Until `stop`. What ends before, SuperNode or thread, for whatever reason, is started again.

        Raises `GatewayError` when the relay ends again and again without having served anything: then only a fresh process
        can help, and whoever supervises this one must see that it ended.
        """
        guard = GuardClient(self._config.guard_socket)
        relay: threading.Thread | None = None
        default_hook, threading.excepthook = threading.excepthook, thread_ended
        try:
            self._start_supernode()
            relay = self._start_relay(guard)
            while not self._stop.wait(SUPERVISE_S):
                self._board.beat()
                if not relay.is_alive():
                    relay = self._restart_relay(guard)
                elif self._supernode_ended():
                    self._restart_supernode()
                self._keep_following(guard)
        finally:
            self.stop()
            if relay is not None:
                relay.join(RELAY_STOP_S)  # an open connection of the relay's would hold the SuperNode up
            self._end_supernode()
            guard.close()
            self._board.show(supernode="stopped")
            threading.excepthook = default_hook

    def _start_relay(self, guard: GuardClient) -> threading.Thread:
        relay = threading.Thread(target=self._relay_tasks, args=(guard,), name="relay", daemon=True)
        relay.start()
        return relay

    def _restart_relay(self, guard: GuardClient) -> threading.Thread:
        """A new relay with a new SuperNode: the old one still waits for the reply to the task that went down."""
        self._relay_ends += 1
        if self._relay_ends >= RELAY_ENDS_LIMIT:
            raise GatewayError(f"the relay ended {self._relay_ends} times without serving a request: see the log; start it again")
        self._restart_supernode()
        return self._start_relay(guard)

    def _supernode_ended(self) -> bool:
        """Also one that is alive, but whose relay lost a task, or whom nobody hears any more."""
        if self._child is None or self._child.poll() is not None or self._broken.is_set():
            return True
        return self._listener is None or not self._listener.is_alive()

    def _start_supernode(self) -> None:
        secret_file = self._config.state_dir / "runtime.secret"
        self._secret = os.urandom(32)
        _write_private(secret_file, self._secret)
        port = _free_port()
        self._address = f"127.0.0.1:{port}"
        settings = {name: str(value) for name, value in vars(self._config).items()}
        command = [sys.executable, "-m", "client.relay", json.dumps(settings), str(port), str(secret_file), str(os.getpid())]
        self._broken.clear()
        self._key = _key_now(self._config.supernode_key)
        self._child = subprocess.Popen(
            command,
            env=_environment(self._config),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        self._listener = threading.Thread(target=self._listen, args=(self._child,), name="supernode-events", daemon=True)
        self._listener.start()

    def _restart_supernode(self) -> None:
        self._end_supernode()
        pause_s = min(2.0**self._restarts, RESTART_LIMIT_S)
        self._restarts += 1
        self._board.show(supernode="restarting")
        self._board.restarted()
        log.warning("state=supernode-ended restart_in_s=%.0f", pause_s)
        if not self._stopped_within(pause_s):
            self._start_supernode()

    def _stopped_within(self, pause_s: float) -> bool:
        """Whether `stop` came before the pause was over; meanwhile the display says that this process lives."""
        end = time.monotonic() + pause_s
        while (left_s := end - time.monotonic()) > 0.0 and not self._stop.wait(min(left_s, BEAT_S)):
            self._board.beat()
        return self._stop.is_set()

    def _end_supernode(self) -> None:
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child = None

    def _listen(self, child: subprocess.Popen[str]) -> None:
        """What the SuperNode's process says of the hub."""
        if child.stdout is None:
            raise GatewayError("the SuperNode was started without a pipe")
        with child.stdout as lines:
            for line in lines:
                event = parse_event(line)
                if event is None:
                    continue
                if event.name == "message":
                    self._message_came.set()
                    continue
                if event.name != "unreachable":
                    self._board.contact()
                if event.name == "answered":
                    continue
                if event.name == "connected":
                    self._restarts = 0
                if event.name == "refused":
                    self._ask_for_roster.set()
                self._board.show(supernode=event.name, node_id=event.node_id, detail=event.reason)

    def _keep_following(self, guard: GuardClient) -> None:
        """Start the roster's thread, also again, but not again and again: whatever ends it is in the log."""
        if time.monotonic() < self._follow_from or (self._follower is not None and self._follower.is_alive()):
            return
        self._follow_from = time.monotonic() + ROSTER_EVERY_S
        self._follower = threading.Thread(target=self._follow_rosters, args=(guard,), name="roster", daemon=True)
        self._follower.start()

    def _follow_rosters(self, guard: GuardClient) -> None:
        """The roster's thread: what the hub has goes to the guard, and how this site stands there to the board."""
        with closing(RosterQuestions(self._config.superlink, self._config.ca_file, self._config.supernode_key)) as questions:
            while not self._stop.is_set():
                self._ask_for_roster.clear()
                stands = None
                try:
                    stands = bring_roster(questions, guard)
                except HubSilent as error:
                    log.debug("state=roster-not-asked detail=%s", error)
                if questions.outdated():
                    log.warning("state=key-changed detail=the guard put this site's new key here: connecting anew with it")
                    if self._key != _key_now(self._config.supernode_key):  # else a SuperNode that began meanwhile has it already
                        self._restarts = 0
                        self._broken.set()
                    self._follow_from = 0.0  # the next thread asks with it, at once
                    return
                if stands is not None:
                    self._board.show(roster=stands.words, roster_well=stands.well)
                else:
                    self._stop.wait(TASK_WAIT_S)  # refused again and again: not a question for each time
                self._ask_for_roster.wait(ROSTER_EVERY_S)

    def _relay_tasks(self, guard: GuardClient) -> None:
        """The relay's thread. An error that is not foreseen here ends it, and `run` starts another."""
        self._board.show(guard="serving" if guard.health() else "unreachable")
        while not self._stop.is_set():
            served = self._address
            relay = Relay(guard, served, self._secret, self._board)
            try:
                while served == self._address and not self._stop.is_set():
                    self._serve_once(relay, served)
            finally:
                relay.close()

    def _serve_once(self, relay: Relay, served: str) -> None:
        """Wait for a message, or for a while, and serve what there is; nothing if another SuperNode has come meanwhile."""
        told = self._message_came.wait(TASK_WAIT_S)
        if self._stop.is_set() or served != self._address:
            return
        self._message_came.clear()
        try:
            self._serve_all(relay, patience_s=TASK_WAIT_S if told else 0.0)
        except TaskWithdrawn:
            log.info("state=task-withdrawn")
        except TaskLost as error:
            log.warning("state=task-lost reason=%r", str(error))
            self._broken.set()
        except (httpx.HTTPError, ValueError) as error:
            log.debug("state=supernode-silent reason=%s", type(error).__name__)

    def _serve_all(self, relay: Relay, *, patience_s: float) -> None:
        """Serve until there is nothing; the SuperNode says that a message came a moment before its task exists."""
        give_up = time.monotonic() + patience_s
        while not self._stop.is_set():
            if relay.step():
                self._relay_ends = 0
                return
            if time.monotonic() > give_up:
                return
            time.sleep(TASK_POLL_S)


@dataclass(frozen=True)
class Event:
    """What the SuperNode's process says of the hub. `name`: message, connected, refused or unreachable."""

    name: str
    node_id: int | None
    reason: str | None


def parse_event(line: str) -> Event | None:
    """The event in one line of the SuperNode's output; None for Flower's own print-outs and for anything malformed."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        log.debug("state=supernode-printed characters=%d", len(line))
        return None
    if not isinstance(found, dict) or found.get("event") not in EVENTS:
        log.warning("state=event-ignored reason=unknown characters=%d", len(line))
        return None
    node_id, reason = found.get("node_id"), found.get("reason")
    if not (node_id is None or type(node_id) is int) or not (reason is None or isinstance(reason, str)):
        log.warning("state=event-ignored reason=malformed event=%s", found["event"])
        return None
    return Event(found["event"], node_id, reason)


def guard_told(guard: GuardClient) -> dict[str, Any] | None:
    """The guard's status, None where it does not answer."""
    try:
        return guard.status()
    except (GuardUnreachable, GuardDeadline):
        return None


@contextmanager
def _metrics(port: int, gateway: "Gateway", config: GatewayConfig) -> Iterator[None]:
    """Served on loopback while the gateway runs; `port` 0: not at all."""
    if not port:
        yield
        return
    from client.metrics import SiteMetrics, serve_metrics

    guard = GuardClient(config.guard_socket)
    stop = serve_metrics(port, SiteMetrics(gateway.board.document, lambda: guard_told(guard)))
    try:
        yield
    finally:
        stop()
        guard.close()


def run_gateway(config: GatewayConfig, *, metrics_port: int = 0) -> None:
    """Run SuperNode and relay until SIGTERM or SIGINT; leaves no process behind, also when killed.

    Raises `GatewayError` before anything is started when a file is missing or another gateway uses `state_dir`, and when the
    relay cannot be kept alive (`Gateway.run`).
    """
    for path in (config.ca_file, config.supernode_key):
        if not path.is_file():
            raise GatewayError(f"{path} is missing: run the join step again")
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(config.state_dir):
        os.environ.update(_proxy_exceptions())
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per request otherwise
        gateway = Gateway(config)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, gateway.stop)
        with _metrics(metrics_port, gateway, config):
            gateway.run()


@contextmanager
def _only_one(state_dir: Path) -> Iterator[None]:
    with (state_dir / "gateway.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise GatewayError(
                f"another gateway runs on this site's folder ({state_dir}): stop that one first; nothing was changed"
            ) from error
        yield


def _proxy_exceptions() -> dict[str, str]:
    """HTTP(S)_PROXY is for the way to the hub (httpx honours it); the gateway's own loopback port never goes there."""
    names = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY", ""), "127.0.0.1"]
    joined = ",".join(filter(None, names))
    return {"no_proxy": joined, "NO_PROXY": joined}


def _environment(config: GatewayConfig) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    return {
        **os.environ,
        **_proxy_exceptions(),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
        "FLWR_HOME": str(config.state_dir / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_LOG_LEVEL": os.environ.get("FLWR_LOG_LEVEL", "WARNING"),
    }


def _key_now(path: Path) -> bytes:
    """Nothing where the file cannot be read: whoever needs it says so."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def die_with(parent: int) -> None:
    """Have the kernel kill this process as soon as `parent`'s starting thread ends, however it ends (Linux)."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, linux/prctl.h
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _log_in_our_form() -> None:
    """Flower's words too, and its web server's: there is nothing in this process that they could give away."""
    from uvicorn.config import LOGGING_CONFIG

    LOGGING_CONFIG["loggers"].clear()  # else it prints in a form of its own
    Logs("supernode", form=form_of(AUTO), foreign=True).start()
    flower = logging.getLogger("flwr")
    flower.handlers.clear()
    flower.propagate = True
    flower.setLevel(os.environ.get("FLWR_LOG_LEVEL", "WARNING"))


def main(arguments: Sequence[str]) -> None:
    """The SuperNode's process: `CONFIG_JSON PORT SECRET_FILE PARENT_PID`. Started by `Gateway`, never by hand."""
    settings, port, secret_file, parent = arguments
    die_with(int(parent))
    _log_in_our_form()
    fields = json.loads(settings)
    config = GatewayConfig(fields.pop("superlink"), **{name: Path(value) for name, value in fields.items()})
    run_supernode(config, int(port), Path(secret_file))


if __name__ == "__main__":
    main(sys.argv[1:])
