"""Without the hub's token only SuperNodes and task holders are heard; a look for messages is held until something came."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from server import flower
from server.flower import TASK_TOKEN_HEADER, TOKEN_HEADER, _Doorbell, _Gate, _seldom

App = Callable[..., Awaitable[None]]


def call(
    app: App, path: str, headers: dict[str, str] | None = None, leave: asyncio.Event | None = None, port: int = 1
) -> Awaitable[tuple[int, bytes]]:
    async def run() -> tuple[int, bytes]:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        body = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> dict[str, Any]:
            if body:
                return body.pop()
            await (leave or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        await app({"type": "http", "path": path, "headers": pairs, "client": ("203.0.113.7", port)}, receive, send)
        return sent[0]["status"], sent[1]["body"]

    return run()


class Inner:
    def __init__(self, body: bytes = b"", status: int = 200) -> None:
        self.body, self.calls, self.status = body, 0, status

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.calls += 1
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": self.body})


CLOSED = ["/v1/control/register-node", "/v1/control/start-run", "/v1/control/list-runs", "/docs", "/openapi.json", "/", ""]


@pytest.mark.parametrize("path", [*CLOSED, "/v1/fleetx", "//v1/fleet/x", "/V1/FLEET/x"])
@pytest.mark.parametrize("headers", [{}, {TOKEN_HEADER: "wrong"}, {TOKEN_HEADER: ""}])
def test_without_the_token_control_is_closed(path: str, headers: dict[str, str]) -> None:
    inner = Inner()
    assert asyncio.run(call(_Gate(inner, "secret"), path, headers))[0] == 403  # type: ignore[arg-type]
    assert inner.calls == 0


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/v1/runtime/acquire-task", "/health"])
def test_paths_with_an_authentication_of_their_own_are_open(path: str) -> None:
    assert asyncio.run(call(_Gate(Inner(), "secret"), path))[0] == 200  # type: ignore[arg-type]


def test_the_token_opens_control() -> None:
    answer = asyncio.run(call(_Gate(Inner(), "secret"), CLOSED[0], {TOKEN_HEADER: "secret"}))  # type: ignore[arg-type]
    assert answer[0] == 200


LOOK, PUSH = "/v1/fleet/pull-messages", "/v1/runtime/push-messages"
NODE = {"flwr-public-key": "a-node"}


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(flower.HOLDS_S, LOOK, 30.0)


@pytest.mark.usefixtures("held")
def test_a_second_empty_look_waits_for_a_push() -> None:
    inner = Inner()

    async def scene() -> tuple[bool, int]:
        door = _Doorbell(inner)
        await call(door, LOOK, NODE)
        look = asyncio.ensure_future(call(door, LOOK, NODE))
        await asyncio.sleep(0.1)
        waited = not look.done() and inner.calls == 1
        await call(door, PUSH)
        await asyncio.wait_for(look, 10)
        return waited, inner.calls

    assert asyncio.run(scene()) == (True, 3)


@pytest.mark.usefixtures("held")
def test_a_look_that_missed_a_push_does_not_wait() -> None:
    async def scene() -> None:
        door = _Doorbell(Inner())
        await call(door, LOOK, NODE)
        await call(door, PUSH)
        await asyncio.sleep(2 * flower.SETTLE_S)
        await asyncio.wait_for(call(door, LOOK, NODE), 10)

    asyncio.run(scene())


@pytest.mark.usefixtures("held")
def test_after_a_message_the_next_look_does_not_wait() -> None:
    async def scene() -> None:
        door = _Doorbell(Inner(bytes(flower.EMPTY_LOOK)))
        for _ in range(3):
            await asyncio.wait_for(call(door, LOOK, NODE), 10)

    asyncio.run(scene())


@pytest.mark.usefixtures("held")
def test_a_node_is_not_held_for_anothers_empty_look() -> None:
    async def scene() -> None:
        door = _Doorbell(Inner())
        await call(door, LOOK, NODE)
        await asyncio.wait_for(call(door, LOOK, {"flwr-public-key": "another"}), 10)

    asyncio.run(scene())


@pytest.mark.usefixtures("held")
def test_a_look_of_a_node_that_left_never_takes_a_message() -> None:
    inner = Inner()

    async def scene() -> None:
        door, leave = _Doorbell(inner), asyncio.Event()
        await call(door, LOOK, NODE)
        look = asyncio.ensure_future(call(door, LOOK, NODE, leave))
        await asyncio.sleep(0.05)
        leave.set()
        assert (await asyncio.wait_for(look, 10))[0] == 503
        await call(door, PUSH)

    asyncio.run(scene())
    assert inner.calls == 2


@pytest.mark.usefixtures("held")
def test_a_successors_look_replaces_the_one_still_held() -> None:
    inner = Inner()

    async def scene() -> tuple[int, int]:
        door = _Doorbell(inner)
        await call(door, LOOK, NODE)
        old = asyncio.ensure_future(call(door, LOOK, NODE))
        await asyncio.sleep(0.05)
        await call(door, LOOK, NODE, port=2)  # not held: the successor's first look
        new = asyncio.ensure_future(call(door, LOOK, NODE, port=2))
        await asyncio.sleep(0.05)
        await call(door, PUSH)
        return (await asyncio.wait_for(old, 10))[0], (await asyncio.wait_for(new, 10))[0]

    assert asyncio.run(scene()) == (503, 200)


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("status", [401, 403, 500])
def test_who_was_not_answered_is_neither_remembered_nor_held(status: int) -> None:
    async def scene() -> int:
        door = _Doorbell(Inner(b"no", status))
        for junk in range(200):
            await asyncio.wait_for(call(door, LOOK, {"flwr-public-key": f"junk {junk}"}), 10)
            await asyncio.wait_for(call(door, LOOK, {"flwr-public-key": "junk"}), 10)
        return len(door._seen)

    assert asyncio.run(scene()) == 0


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("name", ["", "x" * (flower.NAME_LIMIT + 1)])
def test_a_name_that_no_key_has_is_not_remembered(name: str) -> None:
    async def scene() -> int:
        door = _Doorbell(Inner())
        await call(door, LOOK, {"flwr-public-key": name})
        return len(door._seen)

    assert asyncio.run(scene()) == 0


@pytest.mark.usefixtures("held")
def test_the_memory_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "LOOKERS_LIMIT", 3)
    inner = Inner()

    async def scene() -> None:
        door = _Doorbell(inner)
        for node in range(5):
            await call(door, LOOK, {"flwr-public-key": f"node {node}"})
        assert len(door._seen) == 3
        await asyncio.wait_for(call(door, LOOK, {"flwr-public-key": "node 0"}), 10)  # forgotten: answered at once
        newest = asyncio.ensure_future(call(door, LOOK, {"flwr-public-key": "node 4"}))
        await asyncio.sleep(0.05)
        assert not newest.done()
        await call(door, PUSH)
        await asyncio.wait_for(newest, 10)

    asyncio.run(scene())


@pytest.mark.usefixtures("held")
def test_a_stranger_who_names_a_sites_key_does_not_take_its_turn() -> None:
    """Public keys are public: only the connection that the key signed on is the site's."""
    inner = Inner()

    async def scene() -> int:
        door = _Doorbell(inner)
        await call(door, LOOK, NODE)
        look = asyncio.ensure_future(call(door, LOOK, NODE))
        await asyncio.sleep(0.05)
        inner.status = 401
        for _ in range(3):
            assert (await asyncio.wait_for(call(door, LOOK, NODE, port=2), 10))[0] == 401
        inner.status = 200
        assert not look.done()
        await call(door, PUSH)
        return (await asyncio.wait_for(look, 10))[0]

    assert asyncio.run(scene()) == 200


@pytest.mark.usefixtures("held")
def test_a_task_is_the_same_on_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its token is a secret, and the coordinator keeps several connections."""
    looks, task = "/v1/runtime/pull-messages", {TASK_TOKEN_HEADER: "token"}
    monkeypatch.setitem(flower.HOLDS_S, looks, 30.0)

    async def scene() -> bool:
        door = _Doorbell(Inner())
        await call(door, looks, task)
        look = asyncio.ensure_future(call(door, looks, task, port=2))
        await asyncio.sleep(0.05)
        held = not look.done()
        await call(door, "/v1/fleet/push-messages")
        await asyncio.wait_for(look, 10)
        return held

    assert asyncio.run(scene())


def test_a_look_is_never_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(flower.HOLDS_S, LOOK, 0.05)
    inner = Inner()

    async def scene() -> None:
        door = _Doorbell(inner)
        for _ in range(3):
            await asyncio.wait_for(call(door, LOOK, NODE), 10)

    asyncio.run(scene())
    assert inner.calls == 3


def test_a_hold_is_shorter_than_the_askers_time_out() -> None:
    assert max(flower.HOLDS_S.values()) < 30.0 - 5.0


def test_the_clean_up_runs_at_most_once_in_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    calls: list[object] = []
    clean_up = _seldom(calls.append)
    for step in (0.0, 0.5, 0.4, 0.2, 5.0):
        now[0] += step
        clean_up(None)
    assert len(calls) == 3
