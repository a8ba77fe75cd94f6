"""The journal is the truth after any crash: torn lines vanish, damaged ones are named, numbers are never reused."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import JournalError
from server.journal import (
    KINDS,
    NAMES,
    Checkpointed,
    Dropped,
    Entry,
    EpochAsked,
    EpochReady,
    EpsilonPublished,
    Journal,
    RoundAttempt,
    RoundDone,
    RoundFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    VoteAsked,
    Waiting,
    decode_entry,
    encode_entry,
    named,
    read_entries,
)
from server.state import fold, read_state

DONE = RoundDone(
    round=2,
    purpose="train",
    survivors=("a", "b", "c"),
    dropped=(Dropped("d", "update", "LATE"),),
    seconds=named({"update": 0.5, "vote": 0.25}),
    bytes_up=100,
    bytes_down=200,
    metrics=named({"auc": 0.75}),
    histogram=(1.0, 2.0),
)
STORY = (
    RunStarted("r1", bytes(32), ("a", "b", "c", "d"), True),
    Waiting("d", "NOT_APPROVED"),
    EpochAsked(1, ("a", "b", "c", "d")),
    EpochReady(1, ("a", "b", "c", "d"), 3, (), 0.5),
    RoundAttempt(1, "describe", 1, bytes(32)),
    RoundFailed(1, "describe", "TOO_FEW", (), ()),
    RoundAttempt(2, "train", 1, bytes(32)),
    VoteAsked(2, ("a", "b", "c")),
    DONE,
    Checkpointed(2, bytes(32)),
)


def clock() -> datetime:
    return datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def write(path: Path, *events: object) -> None:
    with Journal(path, clock=clock) as journal:
        for event in events:
            journal.append(event)  # type: ignore[arg-type]


def test_what_was_appended_is_read_back_in_order(path: Path) -> None:
    write(path, *STORY)
    assert tuple(entry.event for entry in read_entries(path)) == STORY
    assert [entry.n for entry in read_entries(path)] == list(range(1, len(STORY) + 1))


def test_a_line_is_one_canonical_json_object_a_reader_can_grep(path: Path) -> None:
    write(path, Waiting("d", "NOT_APPROVED"))
    assert path.read_bytes() == (
        b'{"at":"2026-01-02T03:04:05.678Z","data":{"reason":"NOT_APPROVED","site":"d"},"event":"waiting","n":1}\n'
    )


def test_every_kind_of_event_has_one_name() -> None:
    assert {NAMES[kind] for kind in KINDS.values()} == set(KINDS)


@given(st.integers(0, 400))
def test_a_journal_cut_anywhere_keeps_every_complete_line(cut: int) -> None:
    lines = [encode_entry(Entry(n, "2026-01-02T03:04:05.678Z", event)) for n, event in enumerate(STORY[:4], start=1)]
    data = b"".join(lines)
    torn = data[: len(data) - min(cut, len(data))]
    whole = [decode_entry(line, n) for n, line in enumerate(torn.split(b"\n")[:-1], start=1)]
    assert tuple(entry.event for entry in whole) == STORY[: len(whole)]
    assert len(whole) == torn.count(b"\n")


def test_a_torn_last_line_is_ignored_on_read_and_removed_by_the_next_writer(path: Path) -> None:
    write(path, STORY[0], STORY[1])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"at":"2026-01-0')
    assert len(list(read_entries(path))) == 2
    write(path, STORY[2])
    assert path.read_bytes().startswith(whole)
    assert [entry.event for entry in read_entries(path)] == list(STORY[:3])


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [lines[1], lines[2]],  # first line removed
        lambda lines: [lines[0], lines[2]],  # line removed in the middle
        lambda lines: [lines[0], lines[0], lines[1]],  # repeated
        lambda lines: [lines[0].replace(b"r1", b"r\xff"), lines[1]],
        lambda lines: [lines[0].replace(b'"n":1', b'"n":true'), lines[1]],
        lambda lines: [lines[0].replace(b"run-started", b"run-invented"), lines[1]],
        lambda lines: [lines[0].replace(b'"private":true', b'"private":true,"z":1')],
        lambda lines: [lines[0].replace(b"2026-01-02", b"yesterday"), lines[1]],
        lambda lines: [b"[]"],
        lambda lines: [b""],
    ],
)
def test_a_damaged_line_is_named_never_skipped(path: Path, damage: object) -> None:
    write(path, *STORY[:3])
    lines = path.read_bytes().split(b"\n")[:-1]
    path.write_bytes(b"\n".join(damage(lines)) + b"\n")  # type: ignore[operator]
    with pytest.raises(JournalError, match=r"line [123]"):
        list(read_entries(path))
    with pytest.raises(JournalError, match=r"line [123]"):
        Journal(path)


def test_a_second_writer_is_refused(path: Path) -> None:
    with Journal(path), pytest.raises(JournalError, match="another process drives this run"):
        Journal(path)


def test_a_run_without_a_journal_is_new(tmp_path: Path) -> None:
    state = read_state(tmp_path)
    assert (state.phase, state.next_round, state.next_epoch, state.last_done) == ("new", 1, 1, 0)


def test_state_never_reuses_a_round_or_epoch_that_a_request_may_have_carried(path: Path) -> None:
    write(path, *STORY, EpochAsked(2, ("a", "b", "c")), RoundAttempt(3, "train", 1, bytes(32)))
    state = read_state(path.parent)
    assert (state.last_done, state.next_round, state.next_epoch) == (2, 4, 3)
    assert state.attempts == {"describe": 1, "train": 2}
    assert (state.completed("describe"), state.completed("train")) == (0, 1)
    assert state.last_vote == VoteAsked(2, ("a", "b", "c"))


def test_state_counts_who_took_part(path: Path) -> None:
    write(path, *STORY)
    assert read_state(path.parent).participation() == {"a": 1, "b": 1, "c": 1, "d": 0}


def entries(*events: object) -> list[Entry]:
    return [Entry(n, "2026-01-02T03:04:05.678Z", event) for n, event in enumerate(events, start=1)]  # type: ignore[arg-type]


def test_a_waiting_site_is_shown_until_it_comes() -> None:
    assert fold(entries(*STORY[:2])).waiting == {"d": "NOT_APPROVED"}
    assert fold(entries(*STORY[:2], Waiting("d", ""))).waiting == {}
    assert fold(entries(*STORY[:4])).waiting == {}


def test_phases_follow_stop_resume_and_finish() -> None:
    stopped = fold(entries(STORY[0], RunStopped("TOO_FEW")))
    assert (stopped.phase, stopped.stopped) == ("stopped", "TOO_FEW")
    resumed = fold(entries(STORY[0], RunStopped("TOO_FEW"), RunResumed(2)))
    assert (resumed.phase, resumed.stopped, resumed.resumes) == ("running", "", 1)
    finished = fold(
        entries(STORY[0], EpsilonPublished("a", 3, 1e-5, 2.5, 9, bytes(32), "2026-01-02T03:04:05Z"), RunFinished(b"\1" * 32, 9.5))
    )
    assert (finished.phase, finished.seconds, finished.model_digest) == ("finished", 9.5, b"\1" * 32)
    assert finished.published["a"].exposed == 2.5
