"""The gateway proves whose it is, carries bytes it does not judge, and says in words how the site stands at the hub."""

import datetime
import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from client import hub_roster
from client.files import private_folder
from client.guard_rpc import GuardUnreachable
from client.home import Home
from client.hub_roster import HubSilent, RosterQuestions, Standing, bring_roster
from client.transport_key import make_transport_key
from consortium.documents import MAX_DOCUMENT
from consortium.question import HEADER, NO_SUCH_VERSION, VERSION_HEADER, check_question, read_question
from server.tls import make_tls

Handler = Callable[[httpx.Request], httpx.Response]
NOW = 1_700_000_000.0


class Guard:
    """Follows version 6; `verdict` is what it makes of an offer."""

    def __init__(self, verdict: tuple[str, int] = ("taken", 7), *, down: bool = False) -> None:
        self.verdict, self.down, self.offered = verdict, down, list[bytes]()

    def status(self) -> dict[str, str]:
        if self.down:
            raise GuardUnreachable("no guard")
        return {"roster": "6"}

    def offer_roster(self, signed: bytes) -> tuple[str, int]:
        self.offered.append(signed)
        return self.verdict


@pytest.fixture
def questions(tmp_path: Path) -> Callable[[Handler], RosterQuestions]:
    home = Home(tmp_path)
    private_folder(home.gateway)
    line = make_transport_key(home.transport_key)
    ca = make_tls(tmp_path / "tls", ["h"], now=datetime.datetime.now(datetime.UTC)).ca
    hub = hashlib.sha256(ssl.PEM_cert_to_DER_cert(ca.read_text())).digest()

    def make(answer: Handler) -> RosterQuestions:
        def checked(request: httpx.Request) -> httpx.Response:
            question, signature = read_question(request.headers[HEADER])
            check_question(question, signature, hub=hub)
            assert (question.key, question.asked) == (line, int(NOW))
            return answer(request)

        made = RosterQuestions("h:443", ca, home.transport_key, now=lambda: NOW)
        made._client = httpx.Client(transport=httpx.MockTransport(checked), base_url="https://h:443")
        return made

    return make


def held(request: httpx.Request) -> int:
    return read_question(request.headers[HEADER])[0].have


def hub_at_7(request: httpx.Request) -> httpx.Response:
    newer = held(request) < 7
    return httpx.Response(200 if newer else 204, headers={VERSION_HEADER: "7"}, content=b"signed roster" if newer else b"")


def test_what_came_goes_to_the_guard_as_it_came_and_the_next_word_is_how_the_site_stands(
    questions: Callable[[Handler], RosterQuestions],
) -> None:
    guard = Guard()
    assert bring_roster(questions(hub_at_7), guard) == Standing("listed on roster version 7", well=True)  # type: ignore[arg-type]
    assert guard.offered == [b"signed roster"]


def test_a_roster_that_the_guard_refuses_is_said_to_be(questions: Callable[[Handler], RosterQuestions]) -> None:
    said = bring_roster(questions(hub_at_7), Guard(("refused", 6)))  # type: ignore[arg-type]
    assert "the guard refused the hub's roster and keeps version 6" in said.words
    assert not said.well


def test_without_a_guard_it_only_asks_whether_the_key_is_listed(questions: Callable[[Handler], RosterQuestions]) -> None:
    guard = Guard(down=True)
    asked: list[int] = []
    stands = bring_roster(questions(lambda request: asked.append(held(request)) or hub_at_7(request)), guard)  # type: ignore[arg-type, func-returns-value]
    assert (asked, guard.offered) == ([NO_SUCH_VERSION], [])
    assert stands == Standing("listed on roster version 7", well=True)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(410, headers={VERSION_HEADER: "7"}), "this site's key is not on roster version 7: ask the lead"),
        (httpx.Response(410, headers={VERSION_HEADER: "7; rm -rf"}), "this site's key is not on roster version ?: ask the lead"),
        (httpx.Response(403, content=b"x"), "no roster of this hub lists this site's key"),
        (httpx.Response(401, content=b"the clock\x1b[2J is off"), "does not take this site's question: the clock?[2J is off"),
    ],
)
def test_how_the_site_stands_is_told_in_this_sides_own_words(
    questions: Callable[[Handler], RosterQuestions], answer: httpx.Response, words: str
) -> None:
    stands = bring_roster(questions(lambda _: answer), Guard())  # type: ignore[arg-type]
    assert words in stands.words
    assert not stands.well


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404),
        httpx.Response(502),
        httpx.Response(401, content=b"x" * 301),
        httpx.Response(200, content=bytes(MAX_DOCUMENT + 1)),
    ],
)
def test_a_hub_that_answers_something_else_or_too_much_says_nothing(
    questions: Callable[[Handler], RosterQuestions], answer: httpx.Response
) -> None:
    guard = Guard()
    with pytest.raises(HubSilent):
        bring_roster(questions(lambda _: answer), guard)  # type: ignore[arg-type]
    assert guard.offered == []


def test_a_hub_that_is_not_there_is_waited_for(questions: Callable[[Handler], RosterQuestions]) -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(HubSilent, match="ConnectError"):
        bring_roster(questions(away), Guard())  # type: ignore[arg-type]


def test_a_hub_that_answers_drop_by_drop_is_not_waited_for_for_ever(
    questions: Callable[[Handler], RosterQuestions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_roster, "WHOLE_S", -1.0)
    guard = Guard()
    with pytest.raises(HubSilent, match="not whole within"):
        bring_roster(questions(lambda _: httpx.Response(200, content=(b"a drop" for _ in range(3)))), guard)  # type: ignore[arg-type]
    assert guard.offered == []


def test_a_key_that_the_guard_changed_is_noticed(questions: Callable[[Handler], RosterQuestions], tmp_path: Path) -> None:
    asked = questions(hub_at_7)
    assert not asked.outdated()
    make_transport_key(Home(tmp_path).transport_key)
    assert asked.outdated()
