"""The coordinator's transport waits as long as its patience and not longer, whatever sites and SuperLink do."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity

from consortium.wire import Reply, Request
from server.flower import FlowerTransport, to_content
from server.transport import Patience, TransportError

NODES = {"a": 11, "b": 22, "c": 33}


@pytest.fixture(autouse=True)
def _task_of_a_serverapp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's messages take their run and sender from the process that they are made in."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.001)
        time.sleep(0.002)  # the threads that fetch replies live in real time


class Post:
    """A grid in memory. `answers[node]`: seconds after sending, and what to make of the request."""

    def __init__(self, clock: Time, answers: dict[int, tuple[float, Callable[[Message], Message]]]) -> None:
        self.time, self.answers = clock, answers
        self.sent: list[Message] = []
        self.limits: list[float] = []
        self.let_go: list[int] = []
        self.due: dict[str, tuple[float, Message]] = {}
        self.silent_until = 0.0
        self.error: Exception | None = None
        self._names = itertools.count()

    def push(self, messages: Sequence[Message]) -> list[str | None]:
        self._check()
        names: list[str | None] = []
        for message in messages:
            name = f"message-{next(self._names)}"
            message.metadata.__dict__["_message_id"] = name
            message.metadata.__dict__["_src_node_id"] = 1
            self.sent.append(message)
            if message.metadata.dst_node_id == 0:
                names.append(None)
                continue
            names.append(name)
            if answer := self.answers.get(message.metadata.dst_node_id):
                self.due[name] = (self.time.now + answer[0], answer[1](message))
        return names

    def announced(self, names: Sequence[str]) -> list[tuple[str, Any]]:
        self._check()
        ready = [name for name in names if name in self.due and self.due[name][0] <= self.time.now]
        return [(name, self.due.pop(name)[1]) for name in ready]

    def fetch(self, handle: Any, limit_s: float) -> Message:
        assert isinstance(handle, Message)
        return handle

    def limit(self, seconds: float) -> None:
        self.limits.append(seconds)

    def done(self, size: int) -> None:
        self.let_go.append(size)

    def forget(self) -> None:
        """Nothing is fetched here that could be forgotten."""

    def _check(self) -> None:
        if self.error is not None:
            raise self.error
        if self.time.now < self.silent_until:
            self.time.now += 1.0
            raise httpx.ConnectError("refused")


def echo(request: Message) -> Message:
    return Message(to_content(b"answer", b"body"), reply_to=request)


def crash(request: Message) -> Message:
    return Message(Error(code=1, reason="PATIENT-4711"), reply_to=request)


def impostor(request: Message) -> Message:
    reply = echo(request)
    reply.metadata.__dict__["_src_node_id"] = 99
    return reply


def garbled(request: Message) -> Message:
    return Message(RecordDict(), reply_to=request)


def exchange(
    answers: dict[int, tuple[float, Callable[[Message], Message]]], patience: Patience, nodes: dict[str, int] = NODES
) -> tuple[dict[str, Reply], FlowerTransport, Post]:
    clock = Time()
    post = Post(clock, answers)
    transport = FlowerTransport(post, nodes, clock=lambda: clock.now, sleep=clock.sleep)
    replies = dict(transport.exchange("sa1_update", {site: Request(b"c" + site.encode()) for site in nodes}, patience))
    return replies, transport, post


def test_each_site_gets_its_own_request_and_all_replies_come_back() -> None:
    replies, transport, post = exchange(dict.fromkeys(NODES.values(), (0.5, echo)), Patience(10))
    assert replies == dict.fromkeys(NODES, Reply(b"answer", b"body"))
    assert {message.metadata.dst_node_id for message in post.sent} == set(NODES.values())
    assert {message.metadata.message_type for message in post.sent} == {"train.sa1_update"}
    assert transport.failures == {}
    assert post.time.now < 1.0


def test_requests_leave_before_the_first_reply_is_asked_for() -> None:
    clock = Time()
    post = Post(clock, {})
    FlowerTransport(post, NODES).exchange("sa1_keys", {"a": Request(b"")}, Patience(10))
    assert len(post.sent) == 1


def test_a_silent_site_is_late_at_the_deadline() -> None:
    replies, transport, post = exchange({11: (0.5, echo), 22: (0.5, echo)}, Patience(10))
    assert set(replies) == {"a", "b"}
    assert transport.failures == {"c": "LATE"}
    assert 10 <= post.time.now < 10.5


def test_once_enough_replied_the_others_get_the_grace_only() -> None:
    replies, transport, post = exchange({11: (1, echo), 22: (2, echo), 33: (9, echo)}, Patience(100, quorum=2, grace_s=3))
    assert set(replies) == {"a", "b"}
    assert transport.failures == {"c": "LATE"}
    assert 5 <= post.time.now < 5.5


@pytest.mark.parametrize("answer", [crash, impostor, garbled])
def test_an_unusable_reply_is_a_site_that_cannot_be_reached(answer: Callable[[Message], Message]) -> None:
    replies, transport, post = exchange({11: (0.1, echo), 22: (0.1, answer), 33: (0.1, echo)}, Patience(10))
    assert set(replies) == {"a", "c"}
    assert transport.failures == {"b": "UNREACHABLE"}
    assert post.time.now < 1


def test_a_node_that_the_superlink_does_not_know_is_not_waited_for() -> None:
    nodes = {"a": 11, "b": 0}
    replies, transport, post = exchange({11: (0.1, echo)}, Patience(10), nodes)
    assert set(replies) == {"a"}
    assert transport.failures == {"b": "UNREACHABLE"}
    assert post.time.now < 1


def test_a_superlink_that_is_away_for_a_while_delays_and_does_not_end_an_exchange() -> None:
    clock = Time()
    post = Post(clock, {11: (0.1, echo)})
    transport = FlowerTransport(post, NODES, clock=lambda: clock.now, sleep=clock.sleep)
    replies = transport.exchange("sa1_vote", {"a": Request(b"")}, Patience(60))
    post.silent_until = clock.now + 20
    assert dict(replies) == {"a": Reply(b"answer", b"body")}
    assert 20 <= clock.now < 22


def test_a_superlink_that_stays_away_ends_the_exchange_at_the_deadline() -> None:
    clock = Time()
    post = Post(clock, {})
    post.silent_until = 1e9
    transport = FlowerTransport(post, NODES, clock=lambda: clock.now, sleep=clock.sleep)
    assert dict(transport.exchange("sa1_vote", {"a": Request(b"")}, Patience(60))) == {}
    assert transport.failures == {"a": "UNREACHABLE"}


def test_every_call_is_told_how_long_it_may_take() -> None:
    _, _, post = exchange({11: (0.5, echo)}, Patience(10))
    assert max(post.limits) <= 10
    assert min(post.limits) >= 0


def test_messages_do_not_outlive_their_exchange_by_much() -> None:
    _, _, post = exchange({}, Patience(10))
    assert {message.metadata.ttl for message in post.sent} == {12.0}


def test_a_stopped_run_ends_everything() -> None:
    clock = Time()
    post = Post(clock, {})
    transport = FlowerTransport(post, NODES, clock=lambda: clock.now, sleep=clock.sleep)
    post.error = RunNotRunningException()
    with pytest.raises(TransportError, match="stopped"):
        transport.exchange("sa1_vote", {"a": Request(b"")}, Patience(60))


def test_a_site_outside_the_plan_and_an_unknown_kind_are_errors_of_ours() -> None:
    transport = FlowerTransport(Post(Time(), {}), NODES)
    with pytest.raises(TransportError, match="stranger"):
        transport.exchange("sa1_vote", {"stranger": Request(b"")}, Patience(1))
    with pytest.raises(TransportError, match="sa2_vote"):
        transport.exchange("sa2_vote", {"a": Request(b"")}, Patience(1))


def test_the_words_of_a_flower_error_are_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    exchange({11: (0.1, crash)}, Patience(1), {"a": 11})
    assert "PATIENT-4711" not in caplog.text
