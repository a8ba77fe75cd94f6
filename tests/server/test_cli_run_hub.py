"""Commands that reach a hub, over a hub that is a list of what it was asked."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from consortium.identity import SigningKey, fingerprint
from server import cli_run, flower
from server.cli import main
from server.cli_run import Driven
from server.errors import ServerError
from server.folder import RunFolder
from server.home import LeadHome
from server.journal import Journal, RunFinished, RunStarted, RunStopped
from server.state import read_state

Cli = Callable[..., tuple[int, str, str]]
SITES = ("hospital-a", "hospital-b", "hospital-c", "hospital-d")


class FakeHub:
    """Keeps what it was asked; `on_submit` plays the coordinator."""

    asked: list[tuple[str, Any]] = []  # noqa: RUF012 - shared by every connection of one test
    states: list[str] = []  # noqa: RUF012
    on_submit: Callable[[Path], None] = staticmethod(lambda run_dir: None)

    def __init__(self, access: flower.HubAccess) -> None:
        self.asked.append(("connect", access.address))

    def submit_run(self, run_dir: Path, nodes: dict[str, int]) -> int:
        self.asked.append(("submit", nodes))
        type(self).on_submit(run_dir)
        if read_state(run_dir).phase != "new":
            self.states[:] = ["finished:completed"]
        return 77

    def run_status(self, run: int) -> flower.RunStatus:
        if not self.states:
            raise ServerError("silent")
        return flower.RunStatus(self.states[0], "")

    def stop_run(self, run: int) -> bool:
        self.asked.append(("stop", run))
        return True

    def nodes(self) -> tuple[flower.Node, ...]:
        return ()

    def register_node(self, file: Path, *, name: str) -> int:
        self.asked.append(("register", (name, file.read_text())))
        return 1000 + len(self.asked)

    def close(self) -> None:
        self.asked.append(("close", None))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    FakeHub.asked, FakeHub.states, FakeHub.on_submit = [], ["running"], staticmethod(lambda run_dir: None)
    monkeypatch.setattr(flower, "HubControl", FakeHub)
    return FakeHub


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["--home", str(tmp_path / "lead"), *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    monkeypatch.setattr(cli_run, "ASK_EVERY_S", 0.0)
    return run


@pytest.fixture
def planned(cli: Cli, tmp_path: Path, hub: type[FakeHub]) -> tuple[Cli, str]:
    """A founded consortium with four sites and a signed plan; (commands, path of the plan)."""
    assert cli("hub", "init", "--consortium", "north", "--lead", "lead-a", "--host", "127.0.0.1")[0] == 0
    for site in SITES:
        key = SigningKey.from_seed(site.encode().ljust(32, b"."))
        file = tmp_path / f"{site}.json"
        file.write_text(json.dumps({"id": site, "identity_key": key.public.hex(), "transport_key": f"ecdsa {site}"}))
        assert cli("roster", "add-site", str(file), "--told", fingerprint(key.public))[0] == 0
    home = LeadHome(tmp_path / "lead")
    home.hub.mkdir(exist_ok=True)
    (home.hub / "address").write_text("127.0.0.1:9\n")
    home.nodes_file.write_text(json.dumps({site: 7 + at for at, site in enumerate(SITES)}))
    code, _, err = cli("plan", "run_id=run-1", "federation=roster", "privacy=none", "schedule.rounds=2")
    assert code == 0, err
    plan = next(home.plans.glob("run-1*"))
    assert cli("sign", str(plan))[0] == 0
    return cli, str(next(path for path in home.plans.iterdir() if "run-1" in path.name and path.suffix == ".plan"))


def play(code: str = "") -> Callable[[Path], None]:
    """A coordinator that starts the run and ends it: finished, or stopped with this code."""

    def coordinator(run_dir: Path) -> None:
        folder = RunFolder(run_dir)
        plan = folder.plan()
        with Journal(folder.events) as journal:
            journal.append(RunStarted(plan.run_id, folder.signed_plan().digest, plan.sites, plan.private))
            journal.append(RunStopped(code) if code else RunFinished(bytes(32), 1.0))

    return coordinator


def test_a_run_is_handed_to_the_hub_with_the_plans_nodes(planned: tuple[Cli, str], hub: type[FakeHub]) -> None:
    cli, plan = planned
    code, out, _ = cli("run", plan, "--detach", "--no-tracking")
    assert (code, "handed to the hub" in out) == (0, True)
    assert ("submit", {site: 7 + at for at, site in enumerate(SITES)}) in hub.asked
    assert ("connect", "127.0.0.1:9") in hub.asked
    assert hub.asked[-1] == ("close", None)


def test_a_run_that_ends_without_a_model_exits_with_1_and_says_how_to_go_on(planned: tuple[Cli, str], hub: type[FakeHub]) -> None:
    cli, plan = planned
    hub.on_submit = staticmethod(play("TOO_FEW"))
    code, out, _ = cli("run", plan, "--no-tracking")
    assert code == 1
    assert "not finished (TOO_FEW)" in out
    assert "resume" in out
    assert "NOT PRIVATE" in out


def test_a_started_run_is_resumed_not_started_again(planned: tuple[Cli, str], hub: type[FakeHub]) -> None:
    cli, plan = planned
    hub.on_submit = staticmethod(play("TOO_FEW"))
    cli("run", plan, "--no-tracking")
    code, _, err = cli("run", plan, "--no-tracking")
    assert (code, "resume run-1" in err) == (1, True)
    hub.on_submit = staticmethod(play("LIMIT"))
    code, out, _ = cli("resume", "run-1", "--no-tracking", "--json")
    assert (code, json.loads(out)["stopped"], json.loads(out)["epsilon"]["hospital-a"]) == (1, "LIMIT", ["NOT PRIVATE"] * 2)
    assert ("stop", 77) in hub.asked  # the hub's idea of the earlier coordinator is ended first


def test_a_finished_run_needs_no_hub(planned: tuple[Cli, str], hub: type[FakeHub], tmp_path: Path) -> None:
    cli, plan = planned
    cli("run", plan, "--detach", "--no-tracking")
    play()(tmp_path / "lead" / "runs" / "run-1")
    asked = len(hub.asked)
    code, out, _ = cli("resume", "run-1")
    assert (code, "nothing to resume" in out, len(hub.asked)) == (0, True, asked)


def test_stop_ends_the_coordinator_at_the_hub(planned: tuple[Cli, str], hub: type[FakeHub]) -> None:
    cli, plan = planned
    cli("run", plan, "--detach", "--no-tracking")
    code, out, _ = cli("stop", "run-1")
    assert (code, "resume" in out) == (0, True)
    assert ("stop", 77) in hub.asked


def test_whoever_asks_what_stop_does_is_told_that_the_round_it_is_in_is_paid_for_nothing(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli("stop", "--help")
    assert "broken off, and what sites spent on it stays spent" in " ".join(capsys.readouterr().out.split())


def test_without_a_hub_the_lead_is_told_how_to_start_one(planned: tuple[Cli, str], tmp_path: Path) -> None:
    cli, plan = planned
    (tmp_path / "lead" / "hub" / "address").unlink()
    code, _, err = cli("run", plan, "--no-tracking")
    assert (code, "hub start" in err) == (2, True)


def test_a_folder_that_holds_no_run_cannot_be_resumed(planned: tuple[Cli, str]) -> None:
    cli, _ = planned
    code, _, err = cli("resume", "run-9")
    assert (code, "holds no run" in err) == (1, True)


@pytest.mark.parametrize("state", ["unreachable", "following"])
def test_a_store_that_is_behind_is_said_and_costs_nothing(
    planned: tuple[Cli, str], hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    stopped: list[str] = []

    class Behind:
        store = "sqlite:///x"
        process = SimpleNamespace(poll=lambda: None)
        position = SimpleNamespace(state=state)

        def wait(self, limit_s: float) -> bool:
            return False

        def stop(self) -> None:
            stopped.append(state)

    monkeypatch.setattr(cli_run, "MIRROR_WAIT_S", 0.05)  # a store that is merely busy is waited for so long

    cli, plan = planned
    started: list[bool] = []
    monkeypatch.setattr(cli_run, "start_mirror", lambda run_dir, store, *, alone: started.append(alone) or Behind())
    hub.on_submit = staticmethod(play("TOO_FEW"))
    code, out, _ = cli("run", plan)
    assert (code, "MLflow is behind" in out, started, stopped) == (1, True, [False], [state])


def test_a_driver_that_the_hub_calls_finished_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.5, 3.0, 6.0, 6.5])
    monkeypatch.setattr(cli_run.time, "monotonic", lambda: next(times))
    hub = FakeHub(flower.HubAccess("x", tmp_path, tmp_path))
    FakeHub.states = ["running"]
    driven = Driven(hub, 77, tmp_path)
    assert driven()  # not asked yet
    assert driven()  # asked: running
    FakeHub.states = ["finished:failed"]
    assert not driven()
    assert not driven()


def test_a_silent_hub_is_believed_to_be_busy_for_a_while_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 10.0, 100.0, 200.0])
    monkeypatch.setattr(cli_run.time, "monotonic", lambda: next(times))
    FakeHub.states = []
    driven = Driven(FakeHub(flower.HubAccess("x", tmp_path, tmp_path)), 77, tmp_path)
    assert [driven(), driven(), driven()] == [True, True, False]


def test_every_site_of_the_roster_gets_its_gateway_registered(planned: tuple[Cli, str], hub: type[FakeHub], tmp_path: Path) -> None:
    cli, _ = planned
    code, out, _ = cli("hub", "register", "--json")
    registered = {value[0]: value[1] for name, value in hub.asked if name == "register"}
    assert (code, registered) == (0, {site: f"ecdsa {site}\n" for site in SITES})
    nodes = json.loads((tmp_path / "lead" / "nodes.json").read_text())
    assert nodes == {row["site"]: row["node"] for row in json.loads(out)}


def test_the_hub_is_started_on_the_asked_port(planned: tuple[Cli, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli, _ = planned
    started: list[flower.HubConfig] = []
    monkeypatch.setattr(flower, "run_hub", started.append)
    assert cli("hub", "start", "--port", "70000")[0] == 2
    code, out, _ = cli("hub", "start", "--port", "4443", "--bind", "0.0.0.0")
    assert (code, "stop it with Ctrl-C" in out) == (0, True)
    assert [(config.port, config.host) for config in started] == [(4443, "0.0.0.0")]
    assert (tmp_path / "lead" / "hub" / "address").read_text() == "127.0.0.1:4443\n"


def test_a_second_hub_on_the_same_folder_is_refused_whatever_its_port_and_changes_nothing(
    planned: tuple[Cli, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli, _ = planned
    started: list[flower.HubConfig] = []
    monkeypatch.setattr(flower, "run_hub", started.append)
    with flower.only_hub(tmp_path / "lead" / "hub"):
        (tmp_path / "lead" / "hub" / "address").write_text("127.0.0.1:8443\n")
        code, _, words = cli("hub", "start", "--port", "4443")
    assert (code, "another hub runs on this folder" in words, started) == (1, True, [])
    assert (tmp_path / "lead" / "hub" / "address").read_text() == "127.0.0.1:8443\n"
    assert cli("hub", "start", "--port", "4443")[0] == 0
