"""A coordinator killed at any instant: at most the unfinished round is repeated, and nothing is ever asked twice by one number."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sites_in_process import World, expected_model, make_world

from server import rounds
from server.checkpoint import Checkpoint, latest_checkpoint, model_bytes, save_checkpoint
from server.journal import Checkpointed, EpochAsked, Event, Journal, RoundAttempt, RoundDone, RunResumed, read_entries
from server.state import RunState, read_state

APPENDS = 20  # of a run with one describe, two train and one evaluate round, and no failures
ALL = ("basel", "kaunas", "lyon", "oslo")


class Killed(BaseException):
    """As kill -9 would: nothing of ours runs afterwards."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "run")


def drive(world: World) -> RunState:
    return rounds.run(world.folder.path, world.transport, clock=world.clock)


def all_events(world: World) -> list[Event]:
    return [entry.event for entry in read_entries(world.folder.events)]


def kill_at(monkeypatch: pytest.MonkeyPatch, at: int, *, written: bool) -> None:
    """Die at the n-th append of this process, just before or just after the event is on disk."""
    real, count = Journal.append, [0]

    def append(journal: Journal, event: Event) -> object:
        count[0] += 1
        if count[0] == at and not written:
            raise Killed
        entry = real(journal, event)
        if count[0] == at:
            raise Killed
        return entry

    monkeypatch.setattr(Journal, "append", append)


def check(world: World, state: RunState) -> None:
    """What holds however often and wherever the coordinator died."""
    events = all_events(world)
    attempts = [event for event in events if isinstance(event, RoundAttempt)]
    numbers = [event.round for event in attempts]
    epochs = [event.number for event in events if isinstance(event, EpochAsked)]
    assert state.phase == "finished"
    assert numbers == sorted(set(numbers))
    assert epochs == sorted(set(epochs))
    # A round whose model reached the disk counted, whether or not the journal heard of it in time.
    kept = {event.round for event in events if isinstance(event, Checkpointed | RoundDone)}
    kept |= {event.checkpoint_round for event in events if isinstance(event, RunResumed)}
    rounds_kept = [(one.round, one.purpose, ALL) for one in attempts if one.round in kept]
    assert Counter(purpose for _, purpose, _ in rounds_kept) >= Counter(describe=1, train=2, evaluate=1)
    assert sum(purpose == "train" for _, purpose, _ in rounds_kept) == 2
    found = latest_checkpoint(world.folder.checkpoints, world.plan.digest, model_size=world.plan.model_size).checkpoint
    assert found is not None
    assert found.model == pytest.approx(expected_model(world.plan, rounds_kept), abs=1e-6)
    assert dict(state.done[-1].metrics)["auc"] == pytest.approx(0.875)
    for site in world.sites.values():
        charged = [number for number, _ in site.charged]
        assert charged == sorted(set(charged))
        assert set(charged) <= set(numbers)


def test_the_run_that_is_killed_below_has_this_many_events(world: World) -> None:
    drive(world)
    assert len(all_events(world)) == APPENDS
    check(world, read_state(world.folder.path))


@pytest.mark.parametrize("written", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, APPENDS + 1))
def test_killed_at_any_event_a_run_repeats_no_round_and_charges_nobody_twice(
    world: World, monkeypatch: pytest.MonkeyPatch, at: int, written: bool
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, at, written=written)
        with pytest.raises(Killed):
            drive(world)
    before = len([event for event in all_events(world) if isinstance(event, RoundAttempt)])
    state = drive(world)
    check(world, state)
    assert sum(state.attempts.values()) == 4  # the round that was open is asked for again under its own number
    assert before <= 4
    assert [len(site.charged) for site in world.sites.values()] == [4, 4, 4, 4]


@pytest.mark.parametrize("written", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_killed_around_a_checkpoint_a_run_repeats_at_most_one_round(
    world: World, monkeypatch: pytest.MonkeyPatch, at: int, written: bool
) -> None:
    count = [0]

    def save(directory: Path, checkpoint: Checkpoint) -> Path:
        count[0] += 1
        path = save_checkpoint(directory, checkpoint) if count[0] != at or written else directory
        if count[0] == at:
            raise Killed
        return path

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "save_checkpoint", save)
        with pytest.raises(Killed):
            drive(world)
    state = drive(world)
    check(world, state)
    assert sum(state.attempts.values()) <= 5


def test_figures_that_were_opened_are_never_lost_to_a_crash(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are all that an evaluation was spent for: the first event after its vote is the round's result."""
    with monkeypatch.context() as patch:
        kill_at(patch, APPENDS - 2, written=True)
        with pytest.raises(Killed):
            drive(world)
    state = drive(world)
    assert state.attempts["evaluate"] == 1
    assert state.done[-1].purpose == "evaluate"


def test_killed_again_and_again_a_run_still_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each life lasts a little longer than the one before; all of them together are one run."""
    died = 0
    for life in range(2, 40):
        with monkeypatch.context() as patch:
            kill_at(patch, 6 + life % 5, written=bool(life % 2))
            try:
                state = drive(world)
            except Killed:
                died += 1
                continue
        break
    assert state.phase == "finished"
    assert died >= 2
    check(world, state)


def test_a_resumed_run_starts_from_the_very_bytes_of_its_checkpoint(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 12, written=True)  # the first training round is done
        with pytest.raises(Killed):
            drive(world)
    found = latest_checkpoint(world.folder.checkpoints, world.plan.digest, model_size=world.plan.model_size).checkpoint
    assert found is not None
    sent: list[bytes] = []
    honest: Callable[..., list] = world.transport._deliver

    def watch(kind: str, site: str, request: object, fault: str) -> list:
        if kind == "sa1_update" and not sent:
            sent.append(request.body)  # type: ignore[attr-defined]
        return honest(kind, site, request, fault)

    monkeypatch.setattr(world.transport, "_deliver", watch)
    drive(world)
    assert sent == [model_bytes(found.model)]
    assert np.array_equal(np.frombuffer(sent[0], "<f4"), found.model)


def test_a_full_disk_sends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.errors import JournalError

    def refuse(journal: Journal, event: Event) -> None:
        raise JournalError("no space")

    monkeypatch.setattr(Journal, "append", refuse)
    with pytest.raises(JournalError):
        drive(world)
    assert world.transport.asked == []
