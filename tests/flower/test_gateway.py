"""The gateway loads nothing that could open a bundle or a patient's table, and two never share a folder."""

import errno
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from client import relay
from client.cli import main
from client.hub_roster import Standing
from client.relay import Board, Gateway, GatewayConfig, GatewayError, parse_event, run_gateway

ROOT = Path(__file__).parents[2]
FORBIDDEN = ("torch", "pandas", "sklearn", "mlflow", "opacus", "flwr.cli", "flwr.supernode.runtime", "tasks", "server")


def test_the_relay_imports_no_framework_and_no_bundle_installer() -> None:
    program = f"import sys, client.relay; print([m for m in {FORBIDDEN!r} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def config(folder: Path) -> GatewayConfig:
    for name in ("ca.pem", "key"):
        (folder / name).write_text("")
    return GatewayConfig("127.0.0.1:1", folder / "ca.pem", folder / "key", folder / "guard.sock", folder / "state")


@pytest.mark.parametrize("name", ["ca.pem", "key"])
def test_a_missing_file_is_named_before_anything_starts(tmp_path: Path, name: str) -> None:
    settings = config(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(GatewayError, match=name):
        run_gateway(settings)
    assert not settings.state_dir.exists()


def test_a_second_gateway_on_one_folder_is_refused(tmp_path: Path) -> None:
    settings = config(tmp_path)
    settings.state_dir.mkdir()
    with relay._only_one(settings.state_dir), pytest.raises(GatewayError, match="another gateway"):
        run_gateway(settings)


def test_the_hub_is_reached_through_the_proxy_and_the_gateways_own_port_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "intranet.example.org")
    exceptions = relay._proxy_exceptions()
    assert exceptions["no_proxy"] == exceptions["NO_PROXY"] == "intranet.example.org,127.0.0.1"


def test_the_boards_file_is_whole_at_any_time(tmp_path: Path) -> None:
    board = Board(tmp_path)
    threads = [threading.Thread(target=board.show, kwargs={"node_id": number}) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert '"node_id":' in (tmp_path / "gateway.json").read_text()


def test_whoever_reads_of_a_change_finds_it_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    board, before = Board(tmp_path), list[str]()

    class Looks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            before.append(json.loads((tmp_path / "gateway.json").read_text())["roster"])

    looks, log = Looks(), logging.getLogger("wardround.gateway")
    caplog.set_level(logging.INFO, log.name)
    log.addHandler(looks)
    try:
        board.show(roster="listed on roster version 7")
    finally:
        log.removeHandler(looks)
    assert before == ["not asked yet"]
    assert json.loads((tmp_path / "gateway.json").read_text())["roster"] == "listed on roster version 7"


def test_a_waiting_supernode_never_sleeps_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slept: list[float] = []
    monkeypatch.setattr(relay.time, "sleep", slept.append)
    hub = relay._HubWatch(tmp_path / "node_id")
    hub.sleep(3)
    hub.sleep(0.5)
    assert slept == [relay.HUB_POLL_S, relay.REPLY_POLL_S]


def test_a_full_disk_makes_the_display_stale_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    board = Board(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        for node in (1, 2, 3):
            board.show(node_id=node)
    assert [record.message for record in caplog.records if "stale" in record.message] == [
        "state=display-stale file=gateway.json reason='No space left on device'"
    ]
    board.show(guard="serving")
    shown = json.loads((tmp_path / "gateway.json").read_text())
    assert (shown["node_id"], shown["guard"]) == (3, "serving")


NO_EVENTS = (
    *("", "Flower says hello", "3", "null", '"connected"', "[]", "{}", "[" * 100_000),
    *('{"event": 5}', '{"event": ["message"]}', '{"event": "other"}', '{"event": "refused", "reason": 3}'),
    *('{"event": "connected", "node_id": "7"}', '{"event": "connected", "node_id": true}'),
)


@pytest.mark.parametrize("line", NO_EVENTS)
def test_what_is_no_event_is_ignored(line: str) -> None:
    assert parse_event(line + "\n") is None


class Child:
    """A SuperNode's process as the gateway sees it; alive until it is told to end."""

    def __init__(self, output: str = "") -> None:
        self.stdout = io.StringIO(output)
        self.ended = False

    def poll(self) -> int | None:
        return 0 if self.ended else None

    def wait(self, _timeout: float | None = None) -> int:
        return 0

    def terminate(self) -> None:
        self.ended = True


def test_malformed_events_are_logged_and_those_behind_them_heard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway(config(tmp_path))
    gateway._config.state_dir.mkdir()
    gateway._listen(Child('3\n{}\nnoise\n{"event": "connected", "node_id": 7}\n'))  # type: ignore[arg-type]
    assert json.loads((gateway._config.state_dir / "gateway.json").read_text())["node_id"] == 7
    assert sum("event-ignored" in record.message for record in caplog.records) == 2


def test_the_display_is_renewed_while_a_supernode_waits_to_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "BEAT_S", 0.01)
    settings = config(tmp_path)
    settings.state_dir.mkdir()
    gateway, beats = Gateway(settings), 0
    show, started = gateway.board.beat, threading.Event()

    def beat() -> None:
        nonlocal beats
        beats += 1
        show()
        if beats == 3:
            gateway.stop()

    monkeypatch.setattr(gateway.board, "beat", beat)
    monkeypatch.setattr(gateway, "_start_supernode", started.set)
    gateway._restarts = 5  # the next pause is half a minute, twice as long as a display is believed
    gateway._restart_supernode()
    assert (beats, started.is_set()) == (3, False)


class Scripted:
    """In place of the relay: each step does the next thing of a script that all relays share."""

    def __init__(self, script: list[Callable[[], bool]]) -> None:
        self.script, self.made, self.closed = script, 0, 0

    def __call__(self, *_: object) -> "Scripted":
        self.made += 1
        return self

    def step(self) -> bool:
        return self.script.pop(0)() if self.script else False

    def close(self) -> None:
        self.closed += 1


def failing(error: Exception) -> Callable[[], bool]:
    def step() -> bool:
        raise error

    return step


@pytest.fixture
def supervised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scripted], tuple[Gateway, list[Child]]]:
    """A gateway around a scripted relay whose SuperNodes are stubs; and the SuperNodes that it started."""

    def make(script: Scripted) -> tuple[Gateway, list[Child]]:
        settings, children = config(tmp_path), list[Child]()
        settings.state_dir.mkdir()
        gateway = Gateway(settings)

        def start() -> None:
            gateway._broken.clear()
            children.append(Child())
            gateway._child = children[-1]  # type: ignore[assignment]
            gateway._address = f"127.0.0.1:{len(children)}"
            gateway._listener = threading.current_thread()
            gateway._message_came.set()

        monkeypatch.setattr(relay, "Relay", script)
        monkeypatch.setattr(gateway, "_start_supernode", start)
        monkeypatch.setattr(gateway, "_keep_following", lambda _: None)  # there is no hub to ask
        monkeypatch.setattr(relay, "SUPERVISE_S", 0.01)
        monkeypatch.setattr(relay, "RESTART_LIMIT_S", 0.0)
        monkeypatch.setattr(relay, "TASK_WAIT_S", 0.05)
        return gateway, children

    return make


Supervised = Callable[[Scripted], tuple[Gateway, list[Child]]]
UNFORESEEN = [OSError(errno.ENOSPC, "No space left on device"), KeyError("event"), IndexError("message_object_trees")]


@pytest.mark.parametrize("error", UNFORESEEN)
def test_a_relay_that_dies_is_replaced_together_with_its_supernode(
    supervised: Supervised, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    served = threading.Event()
    script = Scripted([failing(error), failing(error), lambda: served.set() or True])
    gateway, children = supervised(script)
    running = threading.Thread(target=gateway.run)
    running.start()
    assert served.wait(30)
    gateway.stop()
    running.join(30)
    assert [child.ended for child in children] == [True, True, True]
    assert script.made == script.closed == 3
    told = [line for line in caplog.messages if "state=thread-ended" in line]
    assert [f"{type(error).__name__} at " in line and "relay.py:" in line for line in told] == [True, True]


def test_a_gateway_that_cannot_keep_its_relay_alive_ends(supervised: Supervised) -> None:
    gateway, children = supervised(Scripted([failing(IndexError())] * 100))
    with pytest.raises(GatewayError, match="ended 5 times without serving a request"):
        gateway.run()
    assert len(children) == relay.RELAY_ENDS_LIMIT
    assert all(child.ended for child in children)


def test_a_relay_that_served_something_in_between_may_die_again(supervised: Supervised) -> None:
    done = threading.Event()
    script = [failing(IndexError()), lambda: True] * relay.RELAY_ENDS_LIMIT
    gateway, children = supervised(Scripted([*script, lambda: done.set() or True]))
    running = threading.Thread(target=gateway.run)
    running.start()
    assert done.wait(30)
    gateway.stop()
    running.join(30)
    assert len(children) == relay.RELAY_ENDS_LIMIT + 1


def test_a_supernode_that_nobody_hears_is_replaced(supervised: Supervised) -> None:
    gateway, children = supervised(Scripted([]))
    deaf = threading.Thread(target=lambda: None)
    deaf.start()
    deaf.join()
    start, second = gateway._start_supernode, threading.Event()

    def start_deaf() -> None:
        start()
        if len(children) == 1:
            gateway._listener = deaf
        else:
            second.set()

    gateway._start_supernode = start_deaf  # type: ignore[method-assign]
    running = threading.Thread(target=gateway.run)
    running.start()
    assert second.wait(30)
    gateway.stop()
    running.join(30)
    assert len(children) == 2


@pytest.mark.parametrize("started_with_it", [False, True])
def test_a_new_key_is_used_at_once_for_the_connection_and_for_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, started_with_it: bool
) -> None:
    """The guard puts it there when a roster comes: nobody is at the machine then. A SuperNode that was started again in between
    has it already, and is left to its work."""
    settings = config(tmp_path)
    settings.state_dir.mkdir()
    asked: list[bytes] = []
    told = threading.Event()

    class Questions:
        def __init__(self, superlink: str, ca_file: Path, key: Path) -> None:
            self.key, self.content = key, key.read_bytes()

        def outdated(self) -> bool:
            return self.key.read_bytes() != self.content

        def close(self) -> None:
            pass

    def bring(questions: Questions, _: object) -> Standing:
        asked.append(questions.content)
        settings.supernode_key.write_text("new key")  # what the guard does with the roster that was just handed to it
        if len(asked) > 1:
            told.set()
        return Standing(f"asked with {questions.content.decode()}", well=True)

    monkeypatch.setattr(relay, "RosterQuestions", Questions)
    monkeypatch.setattr(relay, "bring_roster", bring)
    gateway = Gateway(settings)
    gateway._key = b"new key" if started_with_it else b""
    gateway._keep_following(None)  # type: ignore[arg-type]
    assert gateway._follower is not None
    gateway._follower.join(30)
    assert gateway._broken.is_set() is not started_with_it
    assert gateway.board.document()["roster"] == "not asked yet"  # how the old key stands is no word for people
    gateway._keep_following(None)  # type: ignore[arg-type]
    assert told.wait(30)
    gateway.stop()
    gateway._follower.join(30)
    assert asked == [b"", b"new key"]
    assert "state=key-changed" in caplog.text


def test_the_program_ends_with_status_1_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: GatewayConfig, *, metrics_port: int) -> None:
        assert metrics_port == 0
        raise GatewayError("the relay ended 5 times without serving a request: see the log; start it again")

    monkeypatch.setattr(relay, "run_gateway", broken)
    monkeypatch.setattr("client.cli_daemons.load_config", lambda _: SimpleNamespace(site="a", log_format="text", metrics_port=0))
    monkeypatch.setattr("client.cli_daemons.gateway_config", lambda *_: config(tmp_path))
    monkeypatch.setattr("client.cli_daemons.start_gateway_logs", lambda *_: None)
    assert main(["--home", str(tmp_path), "gateway"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: the relay ended 5 times without serving a request: see the log; start it again"
    ]


def test_a_thread_of_flowers_that_ends_leaves_one_line_and_no_trace(capfd: pytest.CaptureFixture[str]) -> None:
    """Its heartbeat does when the hub shuts the site out: site IT reads words, and no trace of somebody else's code."""
    relay._say_ended(threading.ExceptHookArgs((RuntimeError, RuntimeError("recognize"), None, threading.current_thread())))
    assert capfd.readouterr().err == "state=supernode-thread-ended thread='MainThread' reason=RuntimeError\n"
