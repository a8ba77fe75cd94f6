"""A request reaches Flower's layers whole and its answer leaves them whole, and few large ones are inside them at a time.

Flower's server passes a body through nine layers, 64 KiB at a time, and each pass costs more than the bytes; in the layers a
body exists several times. So a body is put together outside them, and large ones wait for a place. Nobody holds a place while
bytes travel: a hospital on a slow line holds up no other.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

Application = Callable[..., Awaitable[None]]

OBJECT_PATHS = ("/v1/fleet/push-object", "/v1/fleet/pull-object", "/v1/runtime/push-object", "/v1/runtime/pull-object")
PLACES = 4  # objects inside the layers at a time, each there some four times: two for each processor that they are given
PARSED = ("protobuf_request", "protobuf_response")  # where Flower keeps them while a request is in its layers
PART = 256 << 10  # bytes of an answer that are given to the server at once
BODY_LIMIT = 18 << 20  # bytes of one request, held before anybody knows who asks: a guard's longest control bytes and a small body
BODY_LIMIT_S = 600.0  # for a body to come whole: 5 MiB take that at 70 kbit/s


class Transfers:
    """ASGI. Decides nothing but when: who may do what is for the application to say."""

    def __init__(self, application: Application, places: int = PLACES) -> None:
        self._application = application
        self._places = asyncio.Semaphore(places)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(_whole(receive), BODY_LIMIT_S)
        except TimeoutError:
            await _refuse(send, 408, b"request not whole in time")
            return
        if body is None:
            await _refuse(send, 413, b"request too large")
            return
        answer: list[dict[str, Any]] = []

        async def again() -> Any:
            return body.pop() if body else await receive()

        async def keep(message: dict[str, Any]) -> None:
            answer.append(message)

        if scope["path"] not in OBJECT_PATHS:
            await self._application(scope, again, send)
            return
        async with self._places:
            await self._application(scope, again, keep)
        for name in PARSED:  # the layers' requests refer to themselves: nothing large may wait in them
            scope.get("state", {}).pop(name, None)
        body.clear()
        while answer:
            await _send_slowly(send, answer.pop(0))


async def _whole(receive: Any) -> list[Any] | None:
    """The request's body as the one message of a list; None for one beyond the limit. What is no body is handed on as it came."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return [message]
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_LIMIT:
            return None
        if not message.get("more_body", False):
            whole = b"".join(parts)
            return [{"type": "http.request", "body": whole, "more_body": False}]


async def _send_slowly(send: Any, message: dict[str, Any]) -> None:
    """A body part by part: a server encrypts and buffers at once whatever it is given, several times its size."""
    body, more = memoryview(message.get("body", b"")), message.get("more_body", False)
    for start in range(0, len(body) - PART, PART):
        await send({**message, "body": bytes(body[start : start + PART]), "more_body": True})
    rest = max(0, len(body) - 1) // PART * PART
    await send({**message, "body": bytes(body[rest:]), "more_body": more} if len(body) else message)


async def _refuse(send: Any, status: int, words: bytes) -> None:
    with contextlib.suppress(OSError):
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": words})


class Only:
    """ASGI: a layer that has something to do on some paths only, left out on the others. `prefixes`: where it is left out."""

    def __init__(self, application: Application, *, layer: Callable[..., Application], prefixes: tuple[str, ...]) -> None:
        self._without = application
        self._with = layer(application)
        self._prefixes = prefixes

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        inner = self._without if scope["type"] == "http" and scope["path"].startswith(self._prefixes) else self._with
        await inner(scope, receive, send)


class Whole:
    """ASGI: one of Starlette's dispatching layers, without the tasks and streams that it starts for every request, which cost most
    of a millisecond. `prefixes`: where it is run so, since every answer there is whole before its first byte leaves."""

    def __init__(self, application: Application, *, layer: Callable[..., Any], prefixes: tuple[str, ...], **settings: Any) -> None:
        self._application = application
        self._layer = layer(application, **settings)
        self._prefixes = prefixes

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self._prefixes):
            await self._layer(scope, receive, send)
            return
        request = Request(scope, receive)
        await request.body()
        response = await self._layer.dispatch_func(request, self._answer)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        """What the layers within say, to be looked at and changed by this one."""
        heard = [{"type": "http.request", "body": await request.body(), "more_body": False}]
        start: dict[str, Any] = {}
        parts: list[bytes] = []

        async def again() -> Any:
            return heard.pop() if heard else await request.receive()

        async def keep(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        await self._application(request.scope, again, keep)
        response = Response(b"".join(parts), start["status"])
        response.raw_headers = list(start["headers"])
        return response
