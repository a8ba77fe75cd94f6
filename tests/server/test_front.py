"""The hub's front answers four paths, within bounds, and hands every other one on."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from consortium.identity import SigningKey
from consortium.roster import Founder, Member, Roster, sign_roster
from server import front
from server.front import BYTES_LIMIT, HOLDS, TRANSFERS, Front

BODY = bytes(range(256)) * 16


async def inner(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b"inner"})


async def ask(
    app: Front, path: str, method: str = "GET", parts: tuple[bytes, ...] = (b"",), gone: asyncio.Event | None = None
) -> tuple[int, bytes]:
    """(status, body) of one request whose body comes in `parts`; the asker leaves when `gone` is set."""
    sent: list[dict[str, Any]] = []
    left = list(parts)

    async def receive() -> dict[str, Any]:
        if left:
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app({"type": "http", "path": path, "method": method, "headers": []}, receive, send)
    return (sent[0]["status"], b"".join(part.get("body", b"") for part in sent)) if sent else (0, b"")


def run(path: str, method: str = "GET", parts: tuple[bytes, ...] = (b"",)) -> tuple[int, bytes]:
    return asyncio.run(ask(Front(inner, "0.1.0"), path, method, parts))


def test_hello_says_product_version_time_and_roster_and_nothing_else(tmp_path: Path) -> None:
    founder, lead = SigningKey.from_seed(b"f" * 32), SigningKey.from_seed(b"l" * 32)
    site = Member("secret-hospital", "site", SigningKey.from_seed(b"s" * 32).public, "ssh")
    roster = Roster(
        "ms", 7, 0, 3, (Founder("f", founder.public),), 1, bytes(16), 0.3, (Member("lead", "lead", lead.public, ""), site)
    )
    path = tmp_path / "roster.signed"
    path.write_bytes(sign_roster(roster, "f", founder).encode())
    status, body = asyncio.run(ask(Front(inner, "0.1.0", path), "/wardround/hello"))
    said = json.loads(body)
    assert (status, set(said), said["product"], said["roster"]) == (200, {"product", "version", "utc", "roster"}, "wardround", 7)
    assert b"secret-hospital" not in body
    path.write_bytes(b"damaged")
    assert json.loads(asyncio.run(ask(Front(inner, "0.1.0", path), "/wardround/hello"))[1])["roster"] is None


@pytest.mark.parametrize(
    "path",
    ["/wardround/roster", "/wardround/bytes/", "/wardround/bytes/-1", "/wardround/bytes/12345678", "/v1/x", "/wardround/hello/"],
)
def test_every_other_path_is_handed_on(path: str) -> None:
    assert run(path) == (299, b"inner")


@pytest.mark.parametrize(
    ("path", "method"), [("/wardround/hello", "POST"), ("/wardround/echo", "GET"), ("/wardround/hold/1", "PUT")]
)
def test_another_method_is_refused(path: str, method: str) -> None:
    assert run(path, method)[0] == 405


@pytest.mark.parametrize("size", [0, 1, 65_537, BYTES_LIMIT])
def test_bytes_are_known_and_as_many_as_asked_for(size: int) -> None:
    assert run(f"/wardround/bytes/{size}") == (200, hashlib.shake_256(b"wardround/bytes/1").digest(size))


def test_an_echo_is_length_and_digest_of_all_parts() -> None:
    assert json.loads(run("/wardround/echo", "POST", (BODY, b"", BODY))[1]) == {
        "length": 2 * len(BODY),
        "sha256": hashlib.sha256(BODY + BODY).hexdigest(),
    }


def test_nothing_above_its_bound_is_done() -> None:
    assert run(f"/wardround/bytes/{BYTES_LIMIT + 1}")[0] == 413
    assert run("/wardround/hold/601")[0] == 413
    assert run("/wardround/echo", "POST", (bytes(BYTES_LIMIT), b"x"))[0] == 413


def test_a_hold_ends_with_its_asker_and_their_number_is_bounded() -> None:
    async def scene() -> list[int]:
        app, gone = Front(inner, "0.1.0"), asyncio.Event()
        held = [asyncio.ensure_future(ask(app, "/wardround/hold/600", gone=gone)) for _ in range(HOLDS)]
        await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        refused = await ask(app, "/wardround/hold/600")
        gone.set()
        ended = await asyncio.gather(*held)
        again = await ask(app, "/wardround/hold/0")
        return [refused[0], *{status for status, _ in ended}, again[0]]

    assert asyncio.run(asyncio.wait_for(scene(), 30)) == [503, 0, 200]


def test_slow_senders_are_bounded_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "TRANSFER_LIMIT_S", 0.3)

    async def scene() -> list[int]:
        app = Front(inner, "0.1.0")

        async def never() -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError("it never comes")

        async def slow() -> int:
            sent: list[dict[str, Any]] = []

            async def send(message: dict[str, Any]) -> None:
                sent.append(message)

            await app({"type": "http", "path": "/wardround/echo", "method": "POST", "headers": []}, never, send)
            return int(sent[0]["status"])

        waiting = [asyncio.ensure_future(slow()) for _ in range(TRANSFERS)]
        await asyncio.sleep(0.05)
        refused = await ask(app, "/wardround/bytes/1")
        ended = await asyncio.gather(*waiting)
        return [refused[0], *set(ended), (await ask(app, "/wardround/bytes/1"))[0]]

    assert asyncio.run(asyncio.wait_for(scene(), 30)) == [503, 408, 200]
