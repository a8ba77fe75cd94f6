"""`wardround-site status`: true while daemons are up, down, paused or hostile; since when, until when, and what to do."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guards_in_process import ENDLESS, SITES, Consortium, Run, answered, code_of

from client.activity import Activity
from client.cli import main
from client.clock import ALIVE_S, utc
from client.guard import Guard
from client.guard_rpc import serve_guard
from client.home import Home
from client.job import Job
from client.metrics import SiteMetrics
from client.relay import Board, outcome_of
from client.status import REFUSALS, read_display, site_status
from consortium.logs import request_id

SITE = SITES[0]


@pytest.fixture
def home(consortium: Consortium) -> Iterator[Home]:
    """The first site with a guard that answers at its socket and shows what it does, and a gateway that is connected."""
    found = consortium.home(SITE)
    consortium.guard(SITE)
    shown = Activity(time.time, found.guard_board)
    consortium.opened[SITE] = Guard(consortium.sites_open[SITE], shown)
    found.socket.parent.mkdir(mode=0o700)
    server = serve_guard(consortium.opened[SITE].answer, found.socket, consortium.opened[SITE].status)
    yield found
    server.stop(0)


def gateway_board(home: Home, **changes: object) -> Board:
    state = home.gateway / "state"
    state.mkdir(exist_ok=True)
    board = Board(state, beside=home.socket.parent)
    board.contact()
    board.show(**{"supernode": "connected", "guard": "serving", "node_id": 7, "detail": None, **changes})
    return board


def shown(home: Home, capsys: pytest.CaptureFixture[str], status: int) -> dict[str, object]:
    capsys.readouterr()
    assert main(["--home", str(home.root), "--json", "status"]) == status
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_all_is_well_and_says_so(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    gateway_board(home)
    found = shown(home, capsys, 0)
    assert found["problems"] == []
    assert (found["guard"]["state"], found["gateway"]["state"]) == ("idle", "up")  # type: ignore[index]
    assert found["hub"]["state"] == "connected"  # type: ignore[index]
    assert found["hub"]["last_contact"] <= utc()  # type: ignore[index,operator]
    assert main(["--home", str(home.root), "status"]) == 0
    text = capsys.readouterr().out
    for words in ("guard", "trainer", "gateway", "connected", "budget", "MiB free"):
        assert words in text


@pytest.mark.parametrize("well", [True, False])
def test_how_the_site_stands_at_the_hub_is_a_problem_only_where_the_gateway_says_so(
    home: Home, capsys: pytest.CaptureFixture[str], well: bool
) -> None:
    """Whatever the words are."""
    words = "no roster refused this, does not take long" if well else "all fine"
    gateway_board(home, roster=words, roster_well=well)
    found = shown(home, capsys, 0)
    assert found["problems"] == ([] if well else [f"roster: {words}"])
    assert found["roster"]["at_the_hub"] == words  # type: ignore[index]


def test_while_it_trains_the_step_its_round_and_its_deadline_are_told(
    home: Home, consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway_board(home)
    run, seen = consortium.run(), list[dict[str, object]]()

    def look(job: Job) -> None:
        seen.append(site_status(home).document)

    phase = run.open_round(run.epoch(), 1)
    consortium.train[SITE].before = look  # type: ignore[attr-defined]  # recorded training
    assert answered(run.update(phase, SITE))
    guard, trainer = seen[0]["guard"], seen[0]["trainer"]
    assert {name: guard[name] for name in ("phase", "run", "round", "purpose")} == {  # type: ignore[index]
        "phase": "training",
        "run": "run-1",
        "round": 1,
        "purpose": "train",
    }
    assert guard["since"] < guard["until"]  # type: ignore[index]
    assert guard["request"] == request_id("sa1_update", run.request(phase.requests()[SITE]))  # type: ignore[index]
    assert trainer["state"] == "training"  # type: ignore[index]
    waits = shown(home, capsys, 0)["guard"]["waiting"]  # type: ignore[index]
    assert [(one["run"], one["phase"]) for one in waits] == [("run-1", "waiting for the vote")]


def test_a_guard_that_is_down_is_said_to_be_down_with_its_last_words(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    home = consortium.home(SITE)
    found = shown(home, capsys, 1)
    assert found["problems"][0].startswith("guard: does not answer")  # type: ignore[index]
    assert found["problems"][1].startswith("gateway: not started yet")  # type: ignore[index]
    consortium.guard(SITE)
    guard = Guard(consortium.sites_open[SITE], Activity(time.time, home.guard_board))
    assert code_of(guard.answer("sa1_vote", b"\0" * 40, b"")) == "UNDECODABLE"
    found = shown(home, capsys, 1)
    last = found["guard"]["refusals"][0]  # type: ignore[index]
    assert (last["code"], last["correlation"]) == ("UNDECODABLE", request_id("sa1_vote", b"\0" * 40))
    assert "last seen" in found["guard"]["words"]  # type: ignore[index]


def test_a_gateway_that_stopped_writing_is_down(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    gateway_board(home)
    later = time.time() + ALIVE_S + 60
    found = site_status(home, now=later)
    assert not found.well
    assert any(line.startswith("gateway: ended; last seen") for line in found.problems)
    gateway_board(home, supernode="stopped")
    assert shown(home, capsys, 1)["gateway"]["state"] == "down"  # type: ignore[index]


@pytest.mark.parametrize("reason", ["HTTP 401", "ConnectError", "ConnectTimeout", "SomethingNew"])
def test_a_hub_that_cannot_be_reached_is_told_in_words(home: Home, capsys: pytest.CaptureFixture[str], reason: str) -> None:
    gateway_board(home, supernode="refused" if reason.startswith("HTTP") else "unreachable", detail=reason)
    found = shown(home, capsys, 0)  # both daemons are up: the hub is somebody else's
    words = found["problems"][0]  # type: ignore[index]
    assert REFUSALS.get(reason, reason) in words
    assert "last contact" in words


def test_a_pause_waiting_plans_and_what_was_left_are_told(
    home: Home, consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway_board(home)
    consortium.policy(ENDLESS.replace("auto_approve: true", "auto_approve: false"))
    assert code_of(consortium.run().ask_keys()) == "NOT_APPROVED"
    assert main(["--home", str(home.root), "pause"]) == 0
    found = shown(home, capsys, 0)
    assert found["plans_waiting"] == ["run-1"]
    assert found["guard"]["state"] == "paused"  # type: ignore[index]
    assert str(found["paused_since"]).startswith("20")
    assert [line.split()[0] for line in found["problems"]] == ["paused", "1"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("trap", ["fifo", "link", "folder", "huge", "deep", "no json", "a list", "control characters"])
def test_what_a_gateway_that_fell_leaves_there_holds_nobody_up(home: Home, trap: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = home.socket.with_name("gateway.json")
    traps = {
        "huge": b'{"supernode": "' + b"x" * 10**6 + b'"}',
        "deep": b"[" * 50_000,
        "no json": b"\xff\xfe",
        "a list": b"[1, 2]",
        "control characters": json.dumps(
            {"supernode": "\x1b[2J\u202econnected", "beat": utc(), "detail": {"a": {"b": {"c": {}}}}}
        ).encode(),
    }
    if trap == "fifo":
        os.mkfifo(path)
    elif trap == "link":
        path.symlink_to(home.identity)
    elif trap == "folder":
        path.mkdir()
    else:
        path.write_bytes(traps[trap])
    found = read_display(path)
    assert (found == {}) == (trap != "control characters")
    assert main(["--home", str(home.root), "status"]) in (0, 1)
    assert "\x1b" not in capsys.readouterr().out


def test_a_full_disk_stops_no_guard(consortium: Consortium, tmp_path: Path) -> None:
    """The display is a display."""
    consortium.guard(SITE)
    guard = Guard(consortium.sites_open[SITE], Activity(time.time, tmp_path / "no such folder" / "guard.json"))
    consortium.opened[SITE] = guard
    run: Run = consortium.run()
    assert answered(run.ask_keys())


# -- metrics ---------------------------------------------------------------------------------------------------------------------


def test_metrics_are_well_formed_bounded_and_say_nothing_of_runs_or_patients(home: Home, consortium: Consortium) -> None:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    board = gateway_board(home)
    run = consortium.run()
    reply = run.ask_keys()
    board.count("sa1_keys", outcome_of(reply[0]), len(reply[0]))
    board.count("sa1_vote", "MADE_UP_BY_A_GUARD_THAT_FELL", 0)
    board.count("a kind of the hub's", "BUSY", 0)
    registry = CollectorRegistry()
    registry.register(SiteMetrics(board.document, consortium.guard(SITE).status))  # type: ignore[arg-type]
    text = generate_latest(registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(name.startswith("wardround_site_") for name in families)
    requests = {(one.labels["kind"], one.labels["outcome"]): one.value for one in families["wardround_site_requests"].samples}
    assert requests == {("sa1_keys", "answered"): 1, ("sa1_vote", "other"): 1, ("other", "BUSY"): 1}
    assert families["wardround_site_sent_bytes"].type == "counter"
    assert {one.name for one in families["wardround_site_sent_bytes"].samples} == {"wardround_site_sent_bytes_total"}
    assert sum(one.value for one in families["wardround_site_hub_connection"].samples) == 1
    assert sum(one.value for one in families["wardround_site_guard_phase"].samples) == 1
    assert "run-1" not in text
    assert SITE not in text


def test_metrics_say_that_the_guard_is_down(tmp_path: Path) -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(SiteMetrics(Board(tmp_path).document, lambda: None))
    text = generate_latest(registry).decode()
    assert "wardround_site_guard_up 0.0" in text


def test_metrics_are_served_on_loopback_alone(tmp_path: Path) -> None:
    import socket
    import urllib.request

    from client.errors import SiteError
    from client.metrics import serve_metrics

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SiteError, match="metrics_port"):
            serve_metrics(port, SiteMetrics(Board(tmp_path).document, lambda: None))
    stop = serve_metrics(port, SiteMetrics(Board(tmp_path).document, lambda: None))
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as found:
            assert b"wardround_site_guard_up" in found.read()
        listening = Path("/proc/net/tcp").read_text().splitlines()
        mine = [line.split()[1] for line in listening if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"]
        assert mine == [f"0100007F:{port:04X}"]
    finally:
        stop()
