"""Resuming a run whose earlier coordinator is still ending: it is waited for, and its last words end nothing."""

import argparse
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server import cli_run, flower, progress
from server.cli_output import Output
from server.cli_run import resume_run, stop_run
from server.errors import JournalBusyError, ServerError
from server.flower import RunStatus
from server.folder import RunFolder
from server.home import LeadHome
from server.journal import Journal, RunFinished, RunResumed, RunStopped, read_entries, wait_for_writer
from server.keeper import FLOWER_RUN

Make = Callable[..., RunFolder]
EARLIER, NEW = 11, 12


class Hub:
    """A hub whose coordinators are threads: the earlier one hears of its stop late, as Flower's does."""

    def __init__(self, run: RunFolder, *, hears_after_s: float) -> None:
        self.run, self.hears_after_s = run, hears_after_s
        self.events: list[str] = []
        self._earlier = Journal(run.events)
        self._threads: list[threading.Thread] = []

    def __call__(self, _: object) -> "Hub":
        return self

    def stop_run(self, flower_run: int) -> bool:
        assert flower_run == EARLIER
        self._start(self._end_earlier)
        return True

    def submit_run(self, run_dir: Path, nodes: dict[str, int]) -> int:
        self.events.append("submitted")
        self._start(self._drive_anew)
        return NEW

    def run_status(self, flower_run: int) -> RunStatus:
        driving = any(thread.is_alive() for thread in self._threads)
        return RunStatus("running" if driving else "finished:completed", "")

    def close(self) -> None:
        """What the coordinators do does not wait for whoever looks."""

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)

    def _start(self, work: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def _end_earlier(self) -> None:
        if threading.Event().wait(self.hears_after_s):
            return
        self._earlier.append(RunStopped("STOPPED"))
        self._earlier.close()
        self.events.append("earlier ended")

    def _drive_anew(self) -> None:
        with Journal(self.run.events) as journal:
            journal.append(RunResumed(6))
            journal.append(RunFinished(b"\x05" * 32, 1.0))


@pytest.fixture
def driven(run_folder: Make, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], tuple[RunFolder, Hub]]]:
    """A run that an earlier coordinator still holds, and its hub."""
    hubs: list[Hub] = []

    def make(hears_after_s: float) -> tuple[RunFolder, Hub]:
        run = run_folder(finished=False)
        (run.path / FLOWER_RUN).write_text(json.dumps({"run": EARLIER}))
        hub = Hub(run, hears_after_s=hears_after_s)
        hubs.append(hub)
        monkeypatch.setattr(flower, "HubControl", hub)
        monkeypatch.setattr(cli_run, "hub_access", lambda *_: None)
        monkeypatch.setattr(cli_run, "ASK_EVERY_S", 0.1)
        monkeypatch.setattr(progress, "POLL_S", 0.02)
        return run, hub

    yield make
    for hub in hubs:
        hub.join()


def arguments(run: RunFolder) -> argparse.Namespace:
    return argparse.Namespace(run=run.path, hub="", detach=False, no_tracking=True, store="")


Driven = Callable[[float], tuple[RunFolder, Hub]]


def test_a_resumed_run_begins_when_the_earlier_coordinator_has_ended(driven: Driven, tmp_path: Path) -> None:
    run, hub = driven(0.5)
    assert resume_run(LeadHome(tmp_path), arguments(run), Output(as_json=True)) == 0
    assert hub.events == ["earlier ended", "submitted"]
    last = [type(entry.event) for entry in read_entries(run.events)][-3:]
    assert last == [RunStopped, RunResumed, RunFinished]


def test_nothing_is_submitted_while_the_earlier_coordinator_does_not_end(
    driven: Driven, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_run, "EARLIER_END_S", 0.2)
    run, hub = driven(1.0)
    with pytest.raises(ServerError, match=r"has not ended in 0\.2 s"):
        resume_run(LeadHome(tmp_path), arguments(run), Output(as_json=True))
    assert "submitted" not in hub.events


def test_a_stopped_run_is_shown_as_stopped(driven: Driven, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = driven(0.5)
    assert stop_run(LeadHome(tmp_path), arguments(run), Output(as_json=True)) == 0
    assert json.loads(capsys.readouterr().out)["phase"] == "stopped"


def test_a_writer_waits_for_the_one_before_and_no_longer(run_folder: Make) -> None:
    events = run_folder(finished=False).events
    before = events.read_bytes()
    first = Journal(events)
    with pytest.raises(JournalBusyError, match="stop it first"):
        Journal(events, wait_s=0.2)
    assert not wait_for_writer(events, 0.0)
    threading.Timer(0.3, first.close).start()
    with Journal(events, wait_s=30.0) as second:
        second.append(RunResumed(6))
    assert wait_for_writer(events, 0.0)
    assert events.read_bytes().startswith(before)


def test_the_serverapp_waits_for_the_coordinator_that_it_replaces(run_folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_folder(finished=False)
    first, began = Journal(run.events), []

    def drive(run_dir: Path, _: object) -> None:
        Journal(RunFolder(run_dir).events).close()
        began.append(run_dir)

    monkeypatch.setattr("server.rounds.run", drive)
    monkeypatch.setattr(flower, "GridMail", lambda grid: grid)
    threading.Timer(0.3, first.close).start()
    context = argparse.Namespace(run_config={"nodes": "{}", "run-dir": str(run.path)})
    flower.coordinate(None, context)  # type: ignore[arg-type]
    assert began == [run.path]
