"""The steward's page: who gets in, what changes nothing, what a decision does, and that no text of others becomes markup."""

import hashlib
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
from guards_in_process import ENDLESS, SITES, Consortium, Run, answered, code_of
from starlette.testclient import TestClient

from client import cli_ui, page_views
from client.cli import main
from client.cli_ui import CONTAINER_SIGNS
from client.home import Home
from client.page import make_page
from client.page_door import FORM_MOST, HEADERS, IDLE_S, SECRET, Door, Session
from client.plans import PlanStore
from consortium.approval import Approval

SITE = SITES[0]
HOST = "127.0.0.1:8470"
WAITING = ENDLESS.replace("auto_approve: true", "auto_approve: false")
CANARY = "Marie-Curie-4711"


class Page:
    """One browser and the server it talks to."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.session = Session()
        self.at = 0.0
        self.door = make_page(home, self.session, frozenset({HOST, "localhost:8470"}))
        self.door._now = lambda: self.at
        self.browser = self.another_browser()

    def another_browser(self) -> TestClient:
        return TestClient(self.door, base_url=f"http://{HOST}", follow_redirects=False)

    def enter(self) -> "Page":
        assert self.browser.get("/enter", params={"link": self.session.link}).status_code == 303
        return self

    def read(self, path: str, status: int = 200) -> str:
        found = self.browser.get(path)
        assert found.status_code == status, found.text
        return found.text

    def send(self, path: str, **fields: str) -> tuple[int, str]:
        found = self.browser.post(path, data={SECRET: self.session.form_secret, **fields})
        return found.status_code, found.text


@pytest.fixture
def run(consortium: Consortium) -> Run:
    """A plan that reached the first site and waits for its steward."""
    consortium.policy(WAITING)
    found = consortium.run()
    assert code_of(found.ask_keys()) == "NOT_APPROVED"
    return found


@pytest.fixture
def page(consortium: Consortium) -> Page:
    return Page(consortium.home(SITE))


def plan_path(run: Run) -> str:
    return f"/plans/{run.signed.digest.hex()}"


def decision(home: Home, run: Run) -> Approval | None:
    return PlanStore(home.plans, SITE, home.load_identity().public).decision(run.signed.digest)


def everything(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


# -- who gets in -----------------------------------------------------------------------------------------------------------------


def test_the_link_works_once_and_the_cookie_is_for_this_page_alone(page: Page) -> None:
    first = page.browser.get("/enter", params={"link": page.session.link})
    cookie = first.headers["set-cookie"]
    assert (first.status_code, first.headers["location"]) == (303, "/")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert page.session.cookie in cookie
    again = page.another_browser().get("/enter", params={"link": page.session.link})
    assert (again.status_code, "set-cookie" in again.headers) == (403, False)


def test_nobody_gets_in_without_the_cookie_of_this_session(page: Page, run: Run) -> None:
    page.enter()
    other = Session()
    name = page.door._cookie_name
    for cookies in ({}, {name: ""}, {name: other.cookie}, {name: page.session.cookie[:-1]}, {"wardround-1": page.session.cookie}):
        stranger = page.another_browser()
        stranger.cookies.update(cookies)
        for path in ("/", "/plans", plan_path(run), "/budget", "/left", "/style.css", "/nowhere"):
            found = stranger.get(path)
            assert found.status_code == 403, path
            assert run.plan.run_id not in found.text
        assert stranger.post(f"{plan_path(run)}/decide", data={"decision": "approve"}).status_code == 403
    assert decision(page.home, run) is None


@pytest.mark.parametrize("link", ["", "x", "\N{SNOWMAN}"])
def test_a_wrong_link_opens_nothing(page: Page, link: str) -> None:
    assert page.browser.get("/enter", params={"link": link}).status_code == 403
    assert page.browser.get("/").status_code == 403
    page.enter()  # and the right one still works


def test_before_the_link_was_opened_no_cookie_is_right(page: Page) -> None:
    page.browser.cookies.set(page.door._cookie_name, page.session.cookie)
    assert page.browser.get("/").status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:8471", "127.0.0.1", "hospital.example:8470", "0.0.0.0:8470", ""])
def test_a_name_that_points_here_is_not_this_page(page: Page, host: str) -> None:
    """Rebinding: a stranger's name with this machine's address, in the steward's own browser."""
    page.enter()
    assert page.browser.get("/plans", headers={"host": host}).status_code == 421


def test_a_page_that_nobody_used_for_half_an_hour_closes(page: Page) -> None:
    page.enter()
    page.at = IDLE_S - 1
    page.read("/left")
    page.at += IDLE_S - 1
    page.read("/left")
    page.at += IDLE_S
    page.read("/left", status=403)


def test_every_answer_forbids_scripts_frames_and_foreign_places(page: Page) -> None:
    page.enter()
    for path, status in (("/left", 200), ("/nowhere", 404), ("/style.css", 200), ("/enter", 303)):
        found = page.browser.get(path)
        assert found.status_code == status
        assert {name: found.headers[name] for name in HEADERS} == dict(HEADERS)
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script" not in page.read("/left")


# -- what changes nothing --------------------------------------------------------------------------------------------------------


def test_reading_changes_nothing(page: Page, run: Run) -> None:
    page.enter()
    page.read("/plans")  # folders that a first look makes
    before = everything(page.home.root)
    path = plan_path(run)
    for address in ("/", "/plans", path, "/budget", "/left", "/left/run-1", "/left/_no-run"):
        page.read(address)
    for address in (f"{path}/decide?decision=approve", "/pause?paused=yes"):
        page.read(address, status=404)
    assert everything(page.home.root) == before


def test_a_form_that_is_not_this_pages_own_does_nothing(page: Page, run: Run) -> None:
    page.enter()
    path, right = f"{plan_path(run)}/decide", {SECRET: page.session.form_secret, "decision": "approve"}
    form = {"content-type": "application/x-www-form-urlencoded"}
    attempts = [
        page.browser.post(path, data={"decision": "approve"}),
        page.browser.post(path, data={**right, SECRET: Session().form_secret}),
        page.browser.post(path, data=right, headers={"origin": "http://evil.example"}),
        page.browser.post(path, data=right, headers={"origin": "null"}),
        page.browser.post(path, data=right, headers={"sec-fetch-site": "cross-site"}),
        page.browser.post(path, json=right),
        page.browser.post(path, content=b"\xff\xfe=1", headers=form),
        page.browser.post(path, content=b"a" * (FORM_MOST + 1), headers=form),
        page.browser.request("PUT", path, data=right),
        page.browser.request("DELETE", path),
    ]
    assert [one.status_code for one in attempts] == [403, 403, 403, 403, 403, 415, 400, 413, 405, 405]
    assert decision(page.home, run) is None
    assert page.browser.post("/pause", data={"paused": "yes"}).status_code == 403
    assert not page.home.paused.exists()


# -- what a decision does --------------------------------------------------------------------------------------------------------


def test_an_approval_on_the_page_is_the_commands_approval(
    page: Page, run: Run, consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    page.enter()
    shown = page.read(plan_path(run))
    assert "waits for your decision" in shown
    assert run.plan.lead in shown
    status, _ = page.send(f"{plan_path(run)}/decide", decision="approve")
    assert status == 303
    made = decision(page.home, run)
    assert made is not None
    assert (made.decision, made.until) == ("approve", "")
    assert answered(run.ask_keys(number=2))  # the running guard follows it at its next message
    assert main(["--home", str(page.home.root), "plans", "list"]) == 0
    assert "approve" in capsys.readouterr().out
    line = page.home.actions.read_text().splitlines()[-1]
    assert f"run={run.plan.run_id}" in line
    assert "decision=approve" in line
    assert "via=page" in line


def test_an_approval_for_a_time_needs_a_time_that_comes(page: Page, run: Run) -> None:
    page.enter()
    path = f"{plan_path(run)}/decide"
    for wrong in ("", "tomorrow", "2020-01-01T10:00", "2999-13-01T10:00"):
        status, words = page.send(path, decision="approve-until", until=wrong)
        assert status == 409
        assert "Nothing was done" in words
    assert decision(page.home, run) is None
    assert page.send(path, decision="approve-until", until="2999-01-01T10:00")[0] == 303
    made = decision(page.home, run)
    assert made is not None
    assert made.until == "2999-01-01T10:00:00Z"


def test_a_refusal_states_its_reason_and_takes_an_approval_back(page: Page, run: Run) -> None:
    page.enter()
    path = f"{plan_path(run)}/decide"
    assert page.send(path, decision="approve")[0] == 303
    assert page.send(path, decision="refuse", reason="  ")[0] == 409
    assert page.send(path, decision="refuse", reason="the ethics board wants to read it")[0] == 303
    made = decision(page.home, run)
    assert made is not None
    assert (made.decision, made.reason) == ("refuse", "the ethics board wants to read it")
    assert code_of(run.ask_keys(number=2)) == "DECLINED"


def test_a_decision_is_about_the_digest_that_was_read(page: Page, run: Run) -> None:
    page.enter()
    other = "0" * 64
    for digest in (other, other[:16], run.plan.run_id, "..%2F..%2Fidentity"):
        assert page.send(f"/plans/{digest}/decide", decision="approve")[0] == 404
    assert page.send(f"{plan_path(run)}/decide", decision="maybe")[0] == 409
    assert decision(page.home, run) is None


def test_the_switch_pauses_and_ends_the_pause(page: Page, run: Run) -> None:
    page.enter()
    assert page.send("/pause", paused="yes")[0] == 303
    assert code_of(run.ask_keys(number=2)) == "PAUSED"
    assert "Answer again" in page.read("/")
    assert page.send("/pause", paused="no")[0] == 303
    assert not page.home.paused.exists()
    assert page.send("/pause", paused="perhaps")[0] == 409


# -- what is shown ---------------------------------------------------------------------------------------------------------------


def test_a_plan_tells_what_is_new_since_the_last_one_that_was_approved(page: Page, run: Run, consortium: Consortium) -> None:
    page.enter()
    assert "first plan of this task" in page.read(plan_path(run))
    assert page.send(f"{plan_path(run)}/decide", decision="approve")[0] == 303
    schedule = replace(run.plan.schedule, local_steps=7)
    later = consortium.run(consortium.plan(run_id="run-2", schedule=schedule, created="2026-11-22T10:00:00Z"))
    assert code_of(later.ask_keys()) == "NOT_APPROVED"
    shown = page.read(plan_path(later))
    assert "new since run-1" in shown
    row = re.search(r"schedule\.local_steps</th><td[^>]*>1</td><td[^>]*>7<", shown)
    assert row is not None


def test_another_code_version_is_said_to_be_another(page: Page, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    page.enter()
    assert "the version that runs here" in page.read(plan_path(run))
    monkeypatch.setattr(page_views, "code_version", lambda: "9.9.9")
    assert "here runs 9.9.9" in page.read(plan_path(run))


def test_hostile_words_of_a_plan_or_a_file_stay_words(page: Page, consortium: Consortium) -> None:
    consortium.policy(WAITING)
    hostile = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    plan = consortium.plan()
    task = replace(plan.task, columns=(*plan.task.columns, hostile))
    signed = consortium.sign(replace(plan, task=task))
    store = PlanStore(page.home.plans, SITE, page.home.load_identity().public)
    store.add(signed)
    store.decide(Approval(signed.digest, SITE, "refuse", "", hostile, "2026-11-22T10:00:00Z"), page.home.load_identity())
    page.home.egress.joinpath("run-1.jsonl").write_text(
        '{"kind": "<script>", "round": 1, "parts": [{"what": "<b>\\u202e", "bytes": 1}]}\n'
    )
    board = page.home.root / "gateway" / "state"
    board.mkdir(parents=True)
    board.joinpath("gateway.json").write_text('{"supernode": "<script>", "detail": "<script>", "beat": "2999-01-01T00:00:00Z"}')
    page.enter()
    for path in ("/", "/plans", f"/plans/{signed.digest.hex()}", "/left", "/left/run-1", "/?done=<script>"):
        shown = page.read(path)
        assert "<script" not in shown
        assert "<img" not in shown
        assert "\u202e" not in shown


def test_an_edited_record_of_what_left_is_shown_as_such(page: Page, run: Run, consortium: Consortium) -> None:
    consortium.policy(ENDLESS)
    found = consortium.run(consortium.plan(run_id="run-3"))
    found.round(found.epoch(), 1)
    page.enter()
    assert "the ledger vouches for" in page.read("/left")
    assert "masked header and body" in page.read("/left/run-3?round=1")
    assert "run-3" in page.read("/budget")
    manifest = page.home.egress / "run-3.jsonl"
    manifest.write_bytes(manifest.read_bytes().replace(b'"round": 1', b'"round": 2'))
    assert "DOES NOT FIT" in page.read("/left/run-3")


def test_an_error_nobody_foresaw_is_told_without_its_text(
    page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError(f"row of patient {CANARY}")

    caplog.set_level(logging.DEBUG)
    page.enter()
    for name, path in (
        ("overview", "/"),
        ("plans", "/plans"),
        ("budget", "/budget"),
        ("left", "/left"),
        ("left_of", "/left/run-1"),
    ):
        monkeypatch.setattr(page_views, name, failing)
        shown = page.read(path, status=409)
        assert "RuntimeError at test_page.py" in shown
        assert CANARY not in shown
    assert CANARY not in caplog.text


# -- where it listens ------------------------------------------------------------------------------------------------------------


def test_the_page_listens_on_loopback_and_outside_a_container_on_nothing_else(
    page: Page, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_ui, "CONTAINER_SIGNS", (tmp_path / "no-sign",))
    words = ["--home", str(page.home.root), "ui", "--no-browser"]
    assert main([*words, "--port", "8470", "--behind-published-port"]) == 2
    assert "open to the network" in capsys.readouterr().err
    assert main([*words, "--behind-published-port"]) == 2
    assert main([*words, "--port", "70000"]) == 2
    with cli_ui._bound(_args(port=0)) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        assert main([*words, "--port", str(listening.getsockname()[1])]) == 2
    assert CONTAINER_SIGNS


def _args(port: int) -> "cli_ui.argparse.Namespace":
    return cli_ui.argparse.Namespace(port=port, behind_published_port=False)


def test_the_link_is_handed_to_the_browser_by_a_file_of_its_owner_alone(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in a program's arguments can be read by every user of the machine."""
    opened: list[str] = []
    monkeypatch.setattr(cli_ui.webbrowser, "open", opened.append)
    link = "http://127.0.0.1:1/enter?link=abc"
    file = cli_ui._open(page.home, link)
    assert file is not None
    assert opened == [file.as_uri()]
    assert file.stat().st_mode & 0o777 == 0o600
    assert link in file.read_text()


def test_the_door_answers_http_alone() -> None:
    import asyncio

    async def never(*_: object) -> None:
        raise AssertionError("nothing behind the door is asked")

    door = Door(never, Session(), frozenset({HOST}))
    asyncio.run(door({"type": "websocket"}, never, never))
