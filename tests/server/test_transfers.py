"""A request reaches Flower's layers whole, few large ones are inside them at a time, and nobody waits inside for a slow line."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from client.guard_rpc import CONTROL_LIMIT
from server import transfers
from server.flower import INLINE_LIMIT
from server.transfers import OBJECT_PATHS, Only, Transfers, Whole

App = Callable[..., Awaitable[None]]
PATH = OBJECT_PATHS[0]


class Client:
    """Sends its parts when told, and takes an answer when told."""

    def __init__(self, *parts: bytes, taking: asyncio.Event | None = None) -> None:
        self.parts = [
            {"type": "http.request", "body": part, "more_body": at + 1 < len(parts)} for at, part in enumerate(parts or (b"",))
        ]
        self.taking = taking
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        if self.parts:
            return self.parts.pop(0)
        await asyncio.Event().wait()
        raise AssertionError("waits for ever")

    async def send(self, message: dict[str, Any]) -> None:
        if self.taking:
            await self.taking.wait()
        self.sent.append(message)

    @property
    def answer(self) -> tuple[int, bytes]:
        return self.sent[0]["status"], self.sent[1]["body"]


class Echo:
    """Answers with the body that came; says how many requests were inside at most, and how many parts each came in."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.parts: list[int] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        found = [await receive()]
        while found[-1].get("more_body"):
            found.append(await receive())
        self.parts.append(len(found))
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"".join(part["body"] for part in found)})
        self.inside -= 1


def scope(path: str) -> dict[str, Any]:
    return {"type": "http", "path": path}


@pytest.mark.parametrize("path", [*OBJECT_PATHS, "/v1/fleet/pull-messages", "/anything"])
def test_a_body_comes_in_one_part_and_unchanged(path: str) -> None:
    async def run() -> None:
        echo, client = Echo(), Client(b"a", b"", b"bc", b"d")
        await Transfers(echo)(scope(path), client.receive, client.send)
        assert (client.answer, echo.parts) == ((200, b"abcd"), [1])

    asyncio.run(run())


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 25, 30])
def test_an_answer_leaves_in_parts_and_unchanged(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "PART", 10)

    async def run() -> None:
        client, body = Client(bytes(range(size))), bytes(range(size))
        await Transfers(Echo())(scope(PATH), client.receive, client.send)
        start, *parts = client.sent
        assert start["status"] == 200
        assert b"".join(part["body"] for part in parts) == body
        assert [part.get("more_body", False) for part in parts] == [True] * (len(parts) - 1) + [False]
        assert all(len(part["body"]) <= 10 for part in parts)
        assert len(parts) == max(1, -(-size // 10))

    asyncio.run(run())


def test_no_more_objects_are_inside_than_there_are_places() -> None:
    async def run() -> None:
        echo = Echo()
        gate, clients = Transfers(echo, places=2), [Client(b"x") for _ in range(10)]
        echo.go_on.clear()
        waiting = [asyncio.ensure_future(gate(scope(PATH), client.receive, client.send)) for client in clients]
        for _ in range(20):
            await asyncio.sleep(0)
        assert echo.inside == 2
        other = Client(b"small")  # what is no object does not wait for a place
        echo.go_on.set()
        await gate(scope("/v1/fleet/push-messages"), other.receive, other.send)
        await asyncio.gather(*waiting)
        assert [client.answer for client in clients] == [(200, b"x")] * 10
        assert echo.most <= 3

    asyncio.run(run())


def test_a_client_that_takes_its_answer_slowly_holds_no_place() -> None:
    async def run() -> None:
        gate, takes = Transfers(Echo(), places=1), asyncio.Event()
        slow, quick = Client(b"slow", taking=takes), Client(b"quick")
        first = asyncio.ensure_future(gate(scope(PATH), slow.receive, slow.send))
        for _ in range(20):
            await asyncio.sleep(0)
        await gate(scope(PATH), quick.receive, quick.send)
        assert (quick.answer, slow.sent) == ((200, b"quick"), [])
        takes.set()
        await first
        assert slow.answer == (200, b"slow")

    asyncio.run(run())


def test_a_client_that_sends_slowly_holds_no_place() -> None:
    async def run() -> None:
        gate, slow, quick = Transfers(Echo(), places=1), Client(b"begun", b"rest"), Client(b"quick")
        slow.parts.pop()
        first = asyncio.ensure_future(gate(scope(PATH), slow.receive, slow.send))
        for _ in range(20):
            await asyncio.sleep(0)
        await gate(scope(PATH), quick.receive, quick.send)
        assert quick.answer == (200, b"quick")
        first.cancel()

    asyncio.run(run())


def test_a_place_is_free_again_after_an_error() -> None:
    async def run() -> None:
        async def broken(*_: Any) -> None:
            raise RuntimeError("inside")

        gate, client = Transfers(broken, places=1), Client(b"x")
        for _ in range(3):
            with pytest.raises(RuntimeError):
                await gate(scope(PATH), client.receive, client.send)
            client = Client(b"x")

    asyncio.run(run())


def test_a_body_beyond_the_limit_is_refused_before_it_is_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "BODY_LIMIT", 10)

    async def run() -> None:
        echo, client = Echo(), Client(*[b"xxxx"] * 10)
        await Transfers(echo)(scope(PATH), client.receive, client.send)
        assert (client.answer[0], echo.parts, len(client.parts)) == (413, [], 7)

    asyncio.run(run())


def test_a_body_that_never_comes_whole_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "BODY_LIMIT_S", 0.05)

    async def run() -> None:
        echo, client = Echo(), Client(b"begun", b"never sent")
        client.parts.pop()
        await asyncio.wait_for(Transfers(echo)(scope(PATH), client.receive, client.send), 60.0)
        assert (client.answer[0], echo.parts) == (408, [])

    asyncio.run(run())


def test_the_longest_message_that_a_guard_takes_is_within_the_hubs_limit() -> None:
    assert CONTROL_LIMIT + INLINE_LIMIT + (1 << 20) < transfers.BODY_LIMIT


def test_a_layer_is_left_out_on_the_named_paths_only() -> None:
    seen: list[str] = []

    def layer(application: App) -> App:
        async def with_layer(scope: dict[str, Any], receive: Any, send: Any) -> None:
            seen.append(scope["path"])
            await application(scope, receive, send)

        return with_layer

    async def run() -> None:
        application = Only(Echo(), layer=layer, prefixes=("/v1/fleet/", "/v1/runtime/"))
        for path in ("/v1/fleet/x", "/v1/runtime/x", "/v1/control/x", "/v1/fleetx", "//v1/fleet/x", ""):
            client = Client(b"x")
            await application(scope(path), client.receive, client.send)
            assert client.answer == (200, b"x")

    asyncio.run(run())
    assert seen == ["/v1/control/x", "/v1/fleetx", "//v1/fleet/x", ""]


class Marked(BaseHTTPMiddleware):
    """Reads the request, and changes the answer: all that Flower's layers do."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        read = await request.body()
        try:
            response = await call_next(request)
        except ValueError as error:
            return Response(f"told: {error}", 418)
        response.headers["x-read"] = str(len(read))
        response.headers["x-status"] = str(response.status_code)
        return response


async def told(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """As the path says: an answer in parts, an error's, or what was sent; then whether the client is there is asked for."""
    message = await receive()
    if scope["path"].endswith("raises"):
        raise ValueError("inside")
    if scope["path"].endswith("breaks"):
        raise RuntimeError("inside")
    status = 404 if scope["path"].endswith("missing") else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/x"), (b"x-a", b"1")]})
    for part in (message["body"], b"", b" and more"):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("path", ["/v1/fleet/x", "/v1/fleet/missing", "/v1/fleet/raises", "/v1/control/x"])
def test_a_layer_that_is_run_whole_says_what_it_says_as_starlette_runs_it(path: str) -> None:
    def answer(application: Any) -> tuple[int, dict[str, str], bytes]:
        found = TestClient(application).post(path, content=b"sent")
        return found.status_code, dict(found.headers), found.content

    whole = answer(Whole(told, layer=Marked, prefixes=("/v1/fleet/",)))
    assert whole == answer(Marked(told))
    assert whole[0] in (200, 404, 418)
    assert whole[2] in (b"sent and more", b"told: inside")


def test_what_a_layer_that_is_run_whole_does_not_catch_goes_on_outwards() -> None:
    client = Client(b"x")
    with pytest.raises(RuntimeError, match="inside"):
        asyncio.run(Whole(told, layer=Marked, prefixes=("/v1/",))(scope("/v1/breaks"), client.receive, client.send))


def test_one_whole_layer_in_another_hears_the_request_too() -> None:
    inner = Whole(told, layer=Marked, prefixes=("/v1/",))
    found = TestClient(Whole(inner, layer=Marked, prefixes=("/v1/",))).post("/v1/x", content=b"sent")
    assert (found.content, found.headers["x-read"]) == (b"sent and more", "4")
