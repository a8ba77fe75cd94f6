"""A run without a coordinator is taken up by the hub itself; one that ended, that is driven or that a person stopped is not."""

import argparse
import itertools
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from server import keeper
from server.cli_output import Output
from server.cli_run import Driven, stop_run
from server.errors import ServerError
from server.flower import HubError, RunStatus
from server.folder import RunFolder
from server.home import LeadHome
from server.journal import Journal, RunFinished, RunResumed, RunStopped, is_driven, read_entries
from server.keeper import FLOWER_RUN, LONGEST_S, ORPHAN_S, STARTING_S, Handed, Keeper, hand_over, handed, let_go, submitted, turn

Make = Callable[..., RunFolder]


class Hub:
    """Counts what it is asked; `away` makes every submission fail."""

    def __init__(self) -> None:
        self.submitted: list[Path] = []
        self.stopped: list[int] = []
        self.away = False
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(self) -> "Hub":
        return self

    def stop_run(self, run_id: int) -> bool:
        self.stopped.append(run_id)
        return True

    def submit_run(self, run_dir: Path, nodes: Mapping[str, int]) -> int:
        if self.away:
            raise HubError("the hub cannot be reached")
        assert set(nodes) == set(RunFolder(run_dir).plan().sites)
        self.submitted.append(run_dir)
        self.meanwhile()
        return 100 + len(self.submitted)

    def run_status(self, run_id: int) -> RunStatus:
        return RunStatus("running" if run_id > 100 else "finished:failed", "")

    def close(self) -> None:
        """Nothing to release."""


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def orphan(run_folder: Make) -> tuple[RunFolder, Hub, Time, Keeper]:
    """A run that was handed over as number 11, whose journal says that it goes on, and nobody writes it."""
    run, hub, time = run_folder(finished=False), Hub(), Time()
    hand_over(run.path, 11)
    return run, hub, time, Keeper(run.path.parent, hub, clock=time)


Orphan = tuple[RunFolder, Hub, Time, Keeper]


def waited(keeper: Keeper, time: Time, seconds: float) -> tuple[str, ...]:
    keeper.look()
    time.now += seconds
    return keeper.look()


def test_a_run_whose_coordinator_died_is_taken_up_once(orphan: Orphan) -> None:
    run, hub, time, keeper = orphan
    assert waited(keeper, time, ORPHAN_S - 0.1) == ()
    time.now += 0.2
    assert keeper.look() == (run.path.name,)
    assert (hub.stopped, hub.submitted, handed(run.path)) == ([11], [run.path.resolve()], Handed(101, kept=True))
    assert keeper.look() == ()


def test_a_run_that_somebody_drives_is_left_alone(orphan: Orphan) -> None:
    run, hub, time, keeper = orphan
    with Journal(run.events):
        assert is_driven(run.events)
        assert waited(keeper, time, 10 * ORPHAN_S) == ()
    assert not is_driven(run.events)
    assert keeper.look() == (), "it waits anew from when the coordinator was last seen"
    assert hub.submitted == []


def test_a_coordinator_that_is_still_starting_is_given_time(orphan: Orphan) -> None:
    run, _, time, keeper = orphan
    hand_over(run.path, 111)  # the hub says that this one runs
    assert waited(keeper, time, STARTING_S - 1.0) == ()
    time.now += 1.0
    assert keeper.look() == (run.path.name,)


def test_a_coordinator_that_was_at_work_and_is_not_died_whatever_the_hub_says(orphan: Orphan) -> None:
    run, hub, time, keeper = orphan
    hand_over(run.path, 111)
    with Journal(run.events):
        keeper.look()
    assert waited(keeper, time, ORPHAN_S) == (run.path.name,)
    assert hub.stopped == [111]


@pytest.mark.parametrize("event", [RunFinished(b"\x05" * 32, 1.0), RunStopped("FAILED_IN_A_ROW"), RunStopped("LIMIT")])
def test_a_run_that_ended_by_its_own_word_is_left_to_people(orphan: Orphan, event: RunFinished | RunStopped) -> None:
    run, hub, time, keeper = orphan
    with Journal(run.events) as journal:
        journal.append(event)
    assert waited(keeper, time, 10 * ORPHAN_S) == ()
    assert hub.submitted == []


def test_a_run_that_the_hub_stopped_by_itself_is_taken_up(orphan: Orphan) -> None:
    run, _, time, keeper = orphan
    with Journal(run.events) as journal:
        journal.append(RunStopped("STOPPED"))
    assert waited(keeper, time, ORPHAN_S) == (run.path.name,)
    let_go(run.path)
    assert waited(keeper, time, 10 * ORPHAN_S) == ()


def test_a_run_that_a_person_stopped_is_left_alone_and_says_so(
    orphan: Orphan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, hub, time, keeper = orphan
    monkeypatch.setattr("server.flower.HubControl", lambda _: hub)
    monkeypatch.setattr("server.cli_run.hub_access", lambda *_: None)
    assert stop_run(LeadHome(tmp_path), argparse.Namespace(run=run.path, hub=""), Output(as_json=True)) == 0
    assert json.loads(capsys.readouterr().out)["phase"] == "stopped", "its coordinator was dead and could not say it"
    assert handed(run.path) == Handed(11, kept=False)
    assert waited(keeper, time, 10 * ORPHAN_S) == ()


def test_a_stop_that_comes_while_the_hub_takes_the_run_up_waits_for_the_number_to_stop(
    orphan: Orphan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, hub, time, keeper = orphan
    monkeypatch.setattr("server.flower.HubControl", lambda _: hub)
    monkeypatch.setattr("server.cli_run.hub_access", lambda *_: None)
    request = argparse.Namespace(run=run.path, hub="")
    stop = threading.Thread(target=lambda: stop_run(LeadHome(tmp_path), request, Output(as_json=True)))
    began: list[Handed | None] = []

    def meanwhile() -> None:
        stop.start()
        stop.join(0.5)
        began.append(handed(run.path))

    hub.meanwhile = meanwhile
    waited(keeper, time, ORPHAN_S)
    stop.join(60.0)
    assert not stop.is_alive()
    assert began == [Handed(11, kept=True)], "it had its turn too early"
    assert hub.stopped == [11, 101]
    assert handed(run.path) == Handed(101, kept=False)


def test_a_run_that_somebody_is_just_starting_is_not_taken_up_beside_them(orphan: Orphan) -> None:
    run, hub, time, keeper = orphan
    with turn(run.path):
        assert waited(keeper, time, ORPHAN_S) == ()
        with pytest.raises(ServerError, match="by somebody else"), turn(run.path):
            pytest.fail("two had the turn")
    assert (hub.stopped, hub.submitted) == ([], [])


def test_a_run_that_a_person_started_meanwhile_is_not_started_once_more(orphan: Orphan) -> None:
    run, hub, time, _ = orphan

    def reached() -> Hub:
        hand_over(run.path, 12)
        return hub

    assert waited(Keeper(run.path.parent, reached, clock=time), time, ORPHAN_S) == ()
    assert (hub.stopped, hub.submitted, handed(run.path)) == ([], [], Handed(12, kept=True))


def test_attempts_that_come_to_nothing_are_made_ever_more_seldom(orphan: Orphan) -> None:
    _, hub, time, keeper = orphan
    hub.away = True
    tried = []
    stop_run, hub.stop_run = hub.stop_run, lambda run_id: bool(tried.append(time.now) or stop_run(run_id))
    keeper.look()
    for _ in range(4000):
        time.now += 1.0
        keeper.look()
    pauses = [after - before for before, after in itertools.pairwise(tried)]
    assert pauses[:4] == [2 * ORPHAN_S, 4 * ORPHAN_S, 8 * ORPHAN_S, 16 * ORPHAN_S]
    assert max(pauses) == LONGEST_S
    hub.away = False
    time.now += LONGEST_S
    assert keeper.look()


def test_a_coordinator_that_achieved_something_ends_the_count(orphan: Orphan) -> None:
    run, hub, time, keeper = orphan
    waited(keeper, time, ORPHAN_S)
    with Journal(run.events) as journal:
        for number in range(4):
            journal.append(RunResumed(number))
        keeper.look()
    assert waited(keeper, time, ORPHAN_S)
    assert len(hub.submitted) == 2


def test_a_number_that_cannot_be_kept_is_stopped_again(orphan: Orphan, monkeypatch: pytest.MonkeyPatch) -> None:
    run, hub, time, looks = orphan

    def full(_: Path, __: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeper, "hand_over", full)
    assert waited(looks, time, ORPHAN_S) == ()
    assert hub.stopped == [11, 101]
    with pytest.raises(OSError, match="No space"):
        submitted(run.path, 102, hub)
    assert hub.stopped == [11, 101, 102]
    assert handed(run.path) == Handed(11, kept=True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"run": "x"}', "\xff"])
def test_a_run_that_was_never_handed_over_is_not_taken_up(run_folder: Make, content: str) -> None:
    run, hub, time = run_folder(finished=False), Hub(), Time()
    (run.path / FLOWER_RUN).write_text(content, encoding="latin-1")
    assert waited(Keeper(run.path.parent, hub, clock=time), time, 10 * ORPHAN_S) == ()


def test_a_damaged_journal_is_left_to_people(orphan: Orphan) -> None:
    run, _, time, keeper = orphan
    run.events.write_bytes(b"{}\n")
    assert waited(keeper, time, 10 * ORPHAN_S) == ()
    with pytest.raises(ServerError):
        list(read_entries(run.events))


def test_a_run_that_cannot_be_read_keeps_no_other_from_being_looked_after(orphan: Orphan) -> None:
    run, hub, time, keeper = orphan
    broken = run.path.parent / "a-broken-run"
    broken.mkdir()
    (broken / FLOWER_RUN).write_text('{"run": 5}')
    (broken / "plan.signed").write_bytes(b"no plan")
    assert waited(keeper, time, ORPHAN_S) == (run.path.name,)
    assert hub.submitted == [run.path.resolve()]


def test_whoever_watches_a_run_watches_the_coordinator_that_takes_over(orphan: Orphan, monkeypatch: pytest.MonkeyPatch) -> None:
    run, hub, _, _ = orphan
    monkeypatch.setattr("server.cli_run.ASK_EVERY_S", 0.0)
    driven = Driven(hub, 11, run.path)
    assert driven(), "number 11 has died, and the hub has it to keep"
    hand_over(run.path, 101)
    assert driven()
    monkeypatch.setattr("server.cli_run.KEPT_S", 0.0)
    assert driven(), "the new one lives"
    hand_over(run.path, 12)
    assert not driven(), "nobody took it up in time"


def test_whoever_watches_a_run_that_a_person_stopped_is_told(orphan: Orphan, monkeypatch: pytest.MonkeyPatch) -> None:
    run, hub, _, _ = orphan
    monkeypatch.setattr("server.cli_run.ASK_EVERY_S", 0.0)
    let_go(run.path)
    assert not Driven(hub, 11, run.path)()
