"""What a lead sees while a run goes on comes from the journal alone, and ends when the run or its driver does."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from server import progress
from server.errors import JournalError
from server.folder import RunFolder
from server.journal import EpochAsked, EpochReady, Journal, RunFinished, RunResumed, RunStarted, RunStopped, Waiting
from server.progress import Watched, follow, latest_metric, sentence, total_rounds
from server.state import RunState, read_state

Make = Callable[..., RunFolder]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.0)


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_following_ends_with_the_run(run_folder: Make) -> None:
    folder = run_folder()
    state = follow(folder.path, lambda: True, console=console())
    assert (state.phase, len(state.done)) == ("finished", 5)


def test_following_ends_when_nobody_drives_any_more(run_folder: Make) -> None:
    looks = iter([True, True, False])
    assert follow(run_folder(finished=False).path, lambda: next(looks), show=False).phase == "running"
    assert next(looks, None) is None


def test_an_end_that_is_older_than_the_watch_is_not_the_end(run_folder: Make) -> None:
    folder = run_folder(finished=False)
    with Journal(folder.events) as journal:
        journal.append(RunStopped("TOO_FEW"))
    before, looks = read_state(folder.path).events, [0]

    def alive() -> bool:
        looks[0] += 1
        if looks[0] == 3:
            with Journal(folder.events) as journal:
                journal.append(RunResumed(6))
                journal.append(RunFinished(bytes(32), 1.0))
        return True

    assert follow(folder.path, alive, since=before, show=False).phase == "finished"
    assert looks[0] == 3


def test_the_last_word_of_a_coordinator_that_was_replaced_ends_no_watch(run_folder: Make) -> None:
    folder = run_folder(finished=False)
    before = read_state(folder.path).events
    later = iter([[RunStopped("STOPPED")], [], [RunResumed(6)], [RunFinished(bytes(32), 1.0)]])

    def alive() -> bool:
        with Journal(folder.events) as journal:
            for event in next(later):
                journal.append(event)
        return True

    assert follow(folder.path, alive, since=before, show=False).phase == "finished"


def test_a_stop_ends_the_watch_once_nobody_drives(run_folder: Make) -> None:
    folder = run_folder(finished=False)
    with Journal(folder.events) as journal:
        journal.append(RunStopped("TOO_FEW"))
    driven = iter([True, True, False])
    assert follow(folder.path, lambda: next(driven), show=False).stopped == "TOO_FEW"


@pytest.mark.parametrize("private", [True, False])
def test_the_line_says_not_private_for_a_run_without_noise(run_folder: Make, private: bool) -> None:
    shown = Console(file=io.StringIO(), width=200, force_terminal=True)
    follow(run_folder(private=private).path, lambda: True, console=shown)
    assert ("NOT PRIVATE" in shown.file.getvalue()) != private  # type: ignore[attr-defined]


def test_only_new_lines_are_read(run_folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folder(finished=False)
    watched = Watched(folder.path)
    assert watched.look() == read_state(folder.path)
    decoded: list[int] = []
    real = progress.decode_entry
    monkeypatch.setattr(progress, "decode_entry", lambda line, number: decoded.append(number) or real(line, number))
    with Journal(folder.events) as journal:
        journal.append(RunFinished(bytes(32), 1.0))
    assert watched.look() == read_state(folder.path)
    assert decoded == [read_state(folder.path).events]


def test_half_a_line_waits_for_its_other_half(run_folder: Make) -> None:
    folder = run_folder()
    data = folder.events.read_bytes()
    folder.events.write_bytes(data[:-10])
    watched = Watched(folder.path)
    assert watched.look().phase == "running"
    folder.events.write_bytes(data)
    assert watched.look().phase == "finished"


def test_a_line_that_the_disk_took_back_is_forgotten(new_folder: Make) -> None:
    folder = new_folder()
    with Journal(folder.events) as journal:
        journal.append(RunStarted("run-7", bytes(32), ("a",), True))
        whole = folder.events.read_bytes()
        journal.append(RunStopped("TOO_FEW"))
    watched = Watched(folder.path)
    assert watched.look().phase == "stopped"
    folder.events.write_bytes(whole)
    with Journal(folder.events) as journal:
        journal.append(EpochAsked(1, ("a", "b", "c", "d", "e", "f", "g", "h")))
        journal.append(EpochReady(1, ("a", "b", "c"), 3, (), 0.1))
    assert watched.look() == read_state(folder.path)


def test_a_damaged_journal_is_named(run_folder: Make) -> None:
    folder = run_folder()
    folder.events.write_bytes(folder.events.read_bytes().replace(b'"n":2}', b'"n":3}'))
    with pytest.raises(JournalError, match="line 2"):
        Watched(folder.path).look()


def test_before_the_first_event_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert Watched(tmp_path).look() == RunState()
    assert sentence(RunState()) == "new"


def test_the_sentence_says_who_is_waited_for_and_how_good_the_model_is(run_folder: Make) -> None:
    state = read_state(run_folder(finished=False).path)
    assert sentence(state) == "round 6 evaluate, 3 sites; pooled AUC 0.800 on test patients; 1 rounds lost"
    waiting = replace(state, waiting={"oslo": "NOT_APPROVED", "lyon": "BUSY"})
    assert sentence(waiting).startswith("waiting: lyon (BUSY), oslo (NOT_APPROVED)")


def test_an_entry_that_ends_a_wait_ends_the_sentence(new_folder: Make) -> None:
    folder = new_folder()
    with Journal(folder.events) as journal:
        journal.append(Waiting("oslo", "NOT_APPROVED"))
        assert "oslo" in sentence(read_state(folder.path))
        journal.append(Waiting("oslo", ""))
    assert "oslo" not in sentence(read_state(folder.path))


def test_the_newest_figure_counts(run_folder: Make) -> None:
    state = read_state(run_folder().path)
    assert latest_metric(state, "auc") == 0.8
    assert latest_metric(state, "no such figure") is None


def test_the_bar_counts_every_round_that_the_plan_means(run_folder: Make) -> None:
    plan = run_folder().plan()
    assert total_rounds(plan) == 6
    assert total_rounds(replace(plan, statistics=0)) == 5
    assert total_rounds(replace(plan, schedule=replace(plan.schedule, max_evaluate=0))) == 5
