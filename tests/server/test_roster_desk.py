"""The hub hands rosters to holders of SuperNode keys alone, and lets one gateway a key in."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from consortium.identity import SigningKey
from consortium.question import (
    HEADER,
    INSTANCE_HEADER,
    NO_SUCH_VERSION,
    PATH,
    SINCE_HEADER,
    SKEW_S,
    VERSION_HEADER,
    Question,
    ask,
)  # fmt: skip
from consortium.roster import Founder, Member, Roster, sign_roster
from server import desk, one_gateway
from server.desk import RosterDesk
from server.one_gateway import GOODBYE, LEASE_S, OneGateway
from server.rosters import keep_roster, listed

HUB = bytes(range(32))
KEYS = {name: ec.derive_private_key(at, ec.SECP384R1()) for at, name in enumerate(("a", "b", "c", "stranger"), start=5)}
FOUNDER = SigningKey.from_seed(b"f" * 32)
Answer = tuple[int, dict[str, str], bytes]


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def line(name: str) -> str:
    return KEYS[name].public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def pem(name: str) -> bytes:
    form = serialization.PrivateFormat.OpenSSH
    return KEYS[name].private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def a_roster(version: int, *names: str) -> Roster:
    members = tuple(Member(name, "site", SigningKey.from_seed(name.encode() * 32).public, line(name)) for name in names)
    return Roster("north", version, 0, 3, (Founder("founder", FOUNDER.public),), 1, bytes(16), 0.4, members)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Version 1 lists a and b, version 2 a and c."""
    for roster in (a_roster(1, "a", "b"), a_roster(2, "a", "c")):
        keep_roster(tmp_path / "rosters", sign_roster(roster, "founder", FOUNDER))
    return tmp_path / "rosters"


async def inner(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": int(scope.get("answer", 200)), "headers": []})
    await send({"type": "http.response.body", "body": b"inner"})


def call(application: Any, path: str, headers: dict[str, str], **scope: Any) -> Answer:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    asked = {"type": "http", "method": "GET", "path": path, "headers": pairs, **scope}
    asyncio.run(application(asked, None, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}, sent[1]["body"]


@pytest.fixture
def desk_of(folder: Path, clock: Clock) -> Callable[..., Answer]:
    served = RosterDesk(inner, folder=folder, hub=HUB, clock=clock)

    def put(name: str, have: int = 0, *, at: float = 0.0, signer: str = "", hub: bytes = HUB) -> Answer:
        question = Question(line(name), hub, int(clock.now + at), have)
        return call(served, PATH, {HEADER: ask(question, pem(signer or name))})

    return put


def test_a_listed_site_gets_the_newest_roster_as_its_founders_signed_it(desk_of: Callable[..., Answer], folder: Path) -> None:
    status, said, body = desk_of("a", have=1)
    found = listed(folder)
    assert found is not None
    assert (status, said[VERSION_HEADER], body) == (200, "2", found.signed)
    assert desk_of("c")[0] == 200
    assert desk_of("a", have=2)[::2] == (204, b"")
    assert desk_of("a", have=NO_SUCH_VERSION)[0] == 204


def test_a_removed_site_gets_the_roster_that_says_so_and_then_the_word(desk_of: Callable[..., Answer]) -> None:
    assert desk_of("b", have=1)[0] == 200
    status, said, body = desk_of("b", have=2)
    assert (status, said[VERSION_HEADER]) == (410, "2")
    assert body == b"the key of b is not on roster version 2: ask the lead"


def test_a_key_that_was_never_listed_learns_nothing(desk_of: Callable[..., Answer]) -> None:
    status, said, body = desk_of("stranger")
    assert status == 403
    assert VERSION_HEADER not in said
    assert b"2" not in body


@pytest.mark.parametrize("wrong", [{"signer": "stranger"}, {"hub": bytes(32)}, {"at": SKEW_S + 2.0}, {"at": -SKEW_S - 2.0}])
def test_who_does_not_hold_the_key_or_asks_at_another_time_gets_no_roster(
    desk_of: Callable[..., Answer], wrong: dict[str, Any]
) -> None:
    status, said, _ = desk_of("a", **wrong)
    assert status == 401
    assert VERSION_HEADER not in said


def test_a_wrong_clock_is_told_in_seconds(desk_of: Callable[..., Answer]) -> None:
    assert desk_of("a", at=-3600.0)[2] == b"the gateway's clock is -3600 s off the hub's, limit is 300: set it"


def test_questions_of_one_key_are_bounded_and_others_are_still_heard(desk_of: Callable[..., Answer], clock: Clock) -> None:
    assert [desk_of("a", have=2)[0] for _ in range(desk.BURST + 1)] == [204] * desk.BURST + [429]
    assert desk_of("c", have=2)[0] == 204
    clock.now += desk.REFILL_S
    assert desk_of("a", have=2)[0] == 204


def test_signature_checks_are_bounded_over_all_who_ask(desk_of: Callable[..., Answer]) -> None:
    """Whoever knows a site's public key can make the hub check signatures, but not without end."""
    answers = [desk_of("a", signer="stranger")[0] for _ in range(desk.CHECKS_PER_S + 1)]
    assert answers == [401] * desk.CHECKS_PER_S + [429]


@pytest.mark.parametrize("headers", [{}, {HEADER: ""}, {HEADER: "AAAA"}, {HEADER: "x" * 3000}])
def test_what_is_no_question_is_refused(folder: Path, headers: dict[str, str]) -> None:
    assert call(RosterDesk(inner, folder=folder, hub=HUB), PATH, headers)[0] == 400


def test_a_hub_without_a_roster_says_so_and_other_paths_and_methods_are_not_touched(tmp_path: Path, folder: Path) -> None:
    assert call(RosterDesk(inner, folder=tmp_path / "none", hub=HUB), PATH, {})[0] == 404
    served = RosterDesk(inner, folder=folder, hub=HUB)
    assert call(served, PATH, {}, method="POST")[0] == 405
    for path in ("/", f"{PATH}/", "/v1/fleet/pull-messages"):
        assert call(served, path, {})[2] == b"inner"


def test_a_roster_that_comes_into_force_is_served_at_once(desk_of: Callable[..., Answer], folder: Path) -> None:
    assert desk_of("b", have=2)[0] == 410
    keep_roster(folder, sign_roster(replace(a_roster(3, "a", "b"), colluders=0), "founder", FOUNDER))
    assert desk_of("b", have=2)[0] == 200


# -- one gateway for each key ------------------------------------------------------------------------------------------

KEY = "flwr-public-key"
LOOK, HELLO = "/v1/fleet/pull-messages", "/v1/fleet/activate-node"
ONE, TWO = "1" * 32, "2" * 32


@pytest.fixture
def gate(tmp_path: Path, clock: Clock) -> OneGateway:
    return OneGateway(inner, file=tmp_path / "gateways.json", key_header=KEY, clock=clock)


def look(gate: OneGateway, instance: str, path: str = LOOK, key: str = "key-a", answer: int = 200) -> Answer:
    return call(gate, path, {KEY: key, INSTANCE_HEADER: instance}, answer=answer)


def test_a_second_gateway_is_refused_while_the_first_lives_and_told_since_when(gate: OneGateway, clock: Clock) -> None:
    look(gate, ONE, HELLO)
    clock.now += LEASE_S - 1.0
    look(gate, ONE)
    clock.now += LEASE_S - 1.0
    status, said, body = look(gate, TWO, HELLO)
    assert (status, said[SINCE_HEADER]) == (409, "2023-11-14T22:13:20Z")
    assert b"since 2023-11-14T22:13:20Z, last seen 44 s ago: a site runs on one machine; stop one of the two" in body
    assert look(gate, ONE)[0] == 200  # the first one is not disturbed


def test_a_copy_cannot_say_goodbye_in_the_first_ones_name(gate: OneGateway) -> None:
    look(gate, ONE, HELLO)
    assert look(gate, TWO, GOODBYE)[0] == 409
    assert look(gate, TWO, HELLO)[0] == 409


def test_a_restart_on_the_same_machine_goes_on_at_once_and_a_clean_stop_gives_the_key_free(gate: OneGateway) -> None:
    look(gate, ONE, HELLO)
    assert look(gate, ONE, HELLO)[0] == 200
    look(gate, ONE, GOODBYE)
    assert look(gate, TWO, HELLO)[0] == 200
    assert look(gate, ONE, HELLO)[0] == 409


def test_a_dead_gateways_key_is_free_after_a_while(gate: OneGateway, clock: Clock) -> None:
    look(gate, ONE, HELLO)
    clock.now += LEASE_S
    assert look(gate, TWO, HELLO)[0] == 200


def test_keys_do_not_touch_each_other_and_other_requests_pass(gate: OneGateway) -> None:
    look(gate, ONE, HELLO)
    assert look(gate, TWO, HELLO, key="key-b")[0] == 200
    assert call(gate, "/v1/runtime/pull-messages", {KEY: "key-a", INSTANCE_HEADER: TWO})[0] == 200
    assert call(gate, LOOK, {INSTANCE_HEADER: TWO})[0] == 200  # no key: Flower refuses it


@pytest.mark.parametrize("answer", [401, 403, 409, 500, 503])
def test_who_was_not_answered_holds_no_key(gate: OneGateway, answer: int) -> None:
    """A stranger who names a site's public key is refused by Flower, and must not shut the site out."""
    look(gate, TWO, HELLO, answer=answer)
    assert look(gate, ONE, HELLO)[0] == 200


def test_a_restarted_hub_remembers_who_was_connected(gate: OneGateway, tmp_path: Path, clock: Clock) -> None:
    look(gate, ONE, HELLO)
    again = OneGateway(inner, file=tmp_path / "gateways.json", key_header=KEY, clock=clock)
    assert look(again, TWO, HELLO)[0] == 409
    assert look(again, ONE)[0] == 200
    (tmp_path / "gateways.json").write_text("{")
    assert look(OneGateway(inner, file=tmp_path / "gateways.json", key_header=KEY, clock=clock), TWO, HELLO)[0] == 200


def test_a_gateway_that_names_no_instance_is_one_like_any_other(gate: OneGateway) -> None:
    call(gate, HELLO, {KEY: "key-a"})
    assert look(gate, ONE, HELLO)[0] == 409
    assert call(gate, HELLO, {KEY: "key-a", INSTANCE_HEADER: "not an instance"})[0] == 200


def test_the_hubs_log_names_the_site_once_a_minute(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    gate = OneGateway(inner, file=tmp_path / "g.json", key_header=KEY, clock=clock, name_of=lambda key: f"site of {key}")
    look(gate, ONE, HELLO)
    for _ in range(3):
        look(gate, TWO, HELLO)
    told = [record.getMessage() for record in caplog.records if "second-gateway-refused" in record.getMessage()]
    assert len(told) == 1
    assert "site=site of key-a" in told[0]
    assert one_gateway.LOG_AGAIN_S == 60.0
