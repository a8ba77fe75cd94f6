"""A coordinator's memory does not grow with its sites: large bodies are sent from where they lie and fetched a few at a time."""

import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto import message_pb2, node_pb2, runtime_pb2
from flwr.supercore.inflatable import inflatable_object
from flwr.supercore.task_identity import TaskIdentity

from consortium.wire import Request
from secagg.aggregate import Total
from server import flower
from server.flower import FlowerTransport, GridMail, to_content
from server.room import Room
from server.transport import Patience

SIZE = 12 << 20  # bytes of a body: three of Flower's parts
WAIT_S = 120.0


@pytest.fixture(autouse=True)
def _task_of_a_serverapp(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class Client:
    """What the grid's client does, over a folder; every site answers with a body of its own."""

    def __init__(self, folder: Path, *, size: int = SIZE) -> None:
        self._interceptors: tuple[Any, ...] = ()
        self.folder, self.size = folder, size
        self.pushed: list[str] = []
        self.waiting: dict[str, int] = {}
        self.change: dict[str, bytes] = {}
        self.kept_back: set[str] = set()
        self.confirmed: list[str] = []
        self._lock = threading.Lock()

    def PushMessages(self, request: Any) -> Any:  # noqa: N802
        names = [message.metadata.message_id for message in request.messages_list]
        for name, message in zip(names, request.messages_list, strict=True):
            self.waiting[name] = message.metadata.dst_node_id
        parts = {
            part.object_id: None for tree in request.message_object_trees for part in inflatable_object.iterate_object_tree(tree)
        }
        return runtime_pb2.PushAppMessagesResponse(message_ids=names, objects_to_push=list(parts), session_id="s")

    def PushObject(self, request: Any) -> Any:  # noqa: N802
        assert inflatable_object.get_object_id(request.object_content) == request.object_id
        with self._lock:
            self.pushed.append(request.object_id)
        return message_pb2.PushObjectResponse(stored=True)

    def PullMessages(self, request: Any) -> Any:  # noqa: N802
        found, trees = [], []
        for name in sorted(set(request.message_ids) & set(self.waiting)):
            message, tree = self._reply(name, self.waiting.pop(name))
            found.append(message)
            trees.append(tree)
        return runtime_pb2.PullAppMessagesResponse(messages_list=found, message_object_trees=trees)

    def _reply(self, name: str, node: int) -> tuple[Any, Any]:
        asked = Message(to_content(b"", b""), node, "train.sa1_update", ttl=WAIT_S)
        asked.metadata.__dict__["_message_id"] = name
        reply = Message(to_content(b"answer", body_of(node, self.size)), reply_to=asked)
        with inflatable_object.no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            reply.metadata.__dict__["_src_node_id"] = node
            reply.metadata.__dict__["_message_id"] = reply.object_id
            for part, content in inflatable_object.get_all_nested_objects(reply).items():
                (self.folder / part).write_bytes(content.deflate())
            return message_to_proto(remove_content_from_message(reply)), inflatable_object.get_object_tree(reply)

    def PullObject(self, request: Any) -> Any:  # noqa: N802
        if request.object_id in self.kept_back:
            return message_pb2.PullObjectResponse(object_found=True, object_available=False)
        content = self.change.get(request.object_id) or (self.folder / request.object_id).read_bytes()
        return message_pb2.PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> Any:  # noqa: N802
        self.confirmed.append(request.message_object_id)
        return message_pb2.ConfirmMessageReceivedResponse()


def body_of(node: int, size: int) -> bytes:
    return np.random.default_rng(node).bytes(size)


def grid_over(client: Client) -> Any:
    retries = SimpleNamespace(max_time=0.0)
    node = node_pb2.Node(node_id=1)
    return SimpleNamespace(run=SimpleNamespace(run_id=1), _runtime_client=client, node=node, _retry_invoker=retries)


def exchange(client: Client, sites: int, model: bytes, room: Room | None = None) -> Iterator[tuple[str, Any]]:
    nodes = {f"site-{number}": 100 + number for number in range(sites)}
    transport = FlowerTransport(GridMail(grid_over(client), room), nodes)
    requests = {site: Request(site.encode(), model) for site in nodes}
    yield from transport.exchange("sa1_update", requests, Patience(WAIT_S))
    assert transport.failures == {}


def peak_of_a_sum(folder: Path, sites: int) -> int:
    """Bytes that adding up the answers of `sites` took at most, the sum and the sent model included."""
    client, model = Client(folder), np.zeros(SIZE, np.uint8)
    model[::4096] = 1
    total = Total(0, SIZE // 4, 32)
    tracemalloc.start()
    try:
        for site, reply in exchange(client, sites, memoryview(model), Room(1)):  # type: ignore[arg-type]
            total.add(site, reply.body)
            del reply
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_three_times_the_sites_take_no_more_memory(tmp_path: Path) -> None:
    # the client of this test makes all the answers itself, one after the other; a vector of slack is far from six
    few, many = peak_of_a_sum(tmp_path, 3), peak_of_a_sum(tmp_path, 9)
    assert many < few + SIZE


def test_the_same_model_is_pushed_once_however_many_sites_get_it(tmp_path: Path) -> None:
    client = Client(tmp_path, size=10)
    model = body_of(1, SIZE)
    answers = {site: bytes(reply.body) for site, reply in exchange(client, 5, model)}
    assert answers == {f"site-{number}": body_of(100 + number, 10) for number in range(5)}
    assert len(client.pushed) == len(set(client.pushed)) == 3 + 2 + 5 * 3  # parts; array and record; message, content, control


def test_every_body_arrives_bit_by_bit_and_is_confirmed(tmp_path: Path) -> None:
    client = Client(tmp_path)
    for site, reply in exchange(client, 4, b""):
        assert reply.control == b"answer"
        assert reply.body == body_of(100 + int(site[-1]), SIZE)
    assert len(client.confirmed) == 4


def damaged(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("kind", ["ArrayChunk", "Array "])
def test_a_damaged_part_loses_its_site_alone_and_gives_its_room_back(tmp_path: Path, kind: str) -> None:
    client, room = Client(tmp_path), Room(1)
    nodes = {"a": 100, "b": 101, "c": 102}
    mail = GridMail(grid_over(client), room)
    asked = client._reply("before", 101)  # the parts of b's answer, to be damaged
    first = next(path for path in tmp_path.iterdir() if path.read_bytes().startswith(kind.encode()))
    client.change[first.name] = damaged(first.read_bytes())
    del asked
    transport = FlowerTransport(mail, nodes)
    replies = dict(transport.exchange("sa1_update", {site: Request(b"x") for site in nodes}, Patience(WAIT_S)))
    assert sorted(replies) == ["a", "c"]
    assert transport.failures == {"b": "UNREACHABLE"}
    room.enter(10 * SIZE, 0.0)  # nobody is left in it


def test_a_body_beyond_the_limit_is_refused_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "BODY_LIMIT", SIZE - 1)
    transport = FlowerTransport(GridMail(grid_over(Client(tmp_path))), {"a": 100})
    assert dict(transport.exchange("sa1_update", {"a": Request(b"x")}, Patience(WAIT_S))) == {}
    assert transport.failures == {"a": "UNREACHABLE"}


def test_a_reader_who_leaves_early_gives_the_room_back(tmp_path: Path) -> None:
    client, room = Client(tmp_path), Room(1)
    replies = FlowerTransport(GridMail(grid_over(client), room), {"a": 100, "b": 101}).exchange(
        "sa1_update", {site: Request(b"x") for site in "ab"}, Patience(WAIT_S)
    )
    next(replies)
    replies.close()  # type: ignore[attr-defined]
    room.enter(10 * SIZE, float("inf"))
    room.leave(10 * SIZE)  # whoever still waits for it ends, and this process with him


def test_a_site_that_keeps_a_part_back_loses_its_own_reply_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "HELD_S", 0.0)
    client, room, before = Client(tmp_path), Room(1), set(threading.enumerate())
    nodes = {"a": 100, "b": 101, "c": 102}
    client._reply("before", 100)  # the parts of a's answer: the message is there, one of them never comes
    client.kept_back = {next(path.name for path in tmp_path.iterdir() if path.read_bytes().startswith(b"ArrayChunk"))}
    transport = FlowerTransport(GridMail(grid_over(client), room), nodes)
    patience = Patience(WAIT_S, quorum=2, grace_s=0.5)
    replies = dict(transport.exchange("sa1_update", {site: Request(b"x") for site in nodes}, patience))
    assert sorted(replies) == ["b", "c"], "with a in the room for all of its time nobody else came in"
    assert transport.failures == {"a": "LATE"}
    for thread in set(threading.enumerate()) - before:
        thread.join(60.0)
        assert not thread.is_alive(), "it goes on asking for a part that nobody waits for"
    room.enter(10 * SIZE, 0.0)  # nobody is left in it
