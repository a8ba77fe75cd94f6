"""The ledger keeps every spend, refuses what is not its newest self, and names the entry where something is wrong."""

import json
import os
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consortium.identity import SigningKey
from privacy.entries import (
    FIRST_PREVIOUS,
    NO_POPULATION,
    Entry,
    Genesis,
    PlanApproved,
    PlanRefused,
    PopulationChanged,
    Recovered,
    RunNote,
    SpendRecord,
    Withdrawn,
    body_of,
    line_hash,
    make_entry,
    parse_entry,
)
from privacy.errors import LedgerError
from privacy.events import GaussianEvent, NonPrivateEvent, Spend
from privacy.ledger import Ledger, head_path, parse_head, read_entries

from .conftest import DELTA, HISTOGRAM, KEY, NOW, PLAN_DIGEST, SPLIT, TRAIN, details, make_ledger

STRANGER = SigningKey.from_seed(bytes(32))
APPROVED = PlanApproved(PLAN_DIGEST, "run-1", "lead-anna", "steward", "", DELTA, 3.0)


def test_a_spend_is_found_again_after_the_process_ends(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=3)
    with Ledger.open(path, KEY, NOW) as ledger:
        assert ledger.entries == 4
        assert ledger.spends() == (replace(HISTOGRAM, count=3), replace(TRAIN, count=3))
        assert ledger.last_round(PLAN_DIGEST) == 3
        assert ledger.count(PLAN_DIGEST, "train") == 3
        assert ledger.count(PLAN_DIGEST, "evaluate") == 0
        assert ledger.last_round(bytes(32)) == 0
        assert ledger.split_ids == {SPLIT}
        assert ledger.genesis.site == "aachen"
        assert ledger.path == path
        assert str(path) in repr(ledger)


def test_epsilon_rises_with_every_round_and_over_all_runs(ledger: Ledger) -> None:
    found = [ledger.epsilon(DELTA)]
    for number, run in ((1, 7), (2, 7), (1, 8)):
        entry = ledger.spend(details(number, plan_digest=bytes([run]) * 32), (TRAIN,), NOW)
        assert isinstance(entry.content, SpendRecord)
        assert entry.content.epsilon_after == ledger.epsilon(DELTA)
        found.append(ledger.epsilon(DELTA))
    assert found[0] == 0.0
    assert sorted(set(found)) == found


def test_asking_what_a_spend_would_cost_spends_nothing(ledger: Ledger) -> None:
    would = ledger.epsilon_with((TRAIN,), DELTA, SPLIT)
    assert ledger.epsilon(DELTA) == 0.0
    ledger.spend(details(1), (TRAIN,), NOW)
    assert ledger.epsilon(DELTA) == would


def test_a_release_without_noise_is_recorded_as_not_private_for_ever(ledger: Ledger) -> None:
    ledger.spend(details(1), (Spend(NonPrivateEvent(), "train"),), NOW)
    entry = ledger.spend(details(2), (TRAIN,), NOW)
    assert isinstance(entry.content, SpendRecord)
    assert entry.content.epsilon_after == -1.0


@pytest.mark.parametrize("number", [1, 2])
def test_a_repeated_or_earlier_round_is_refused(ledger: Ledger, number: int) -> None:
    ledger.spend(details(2), (TRAIN,), NOW)
    before = ledger.epsilon(DELTA)
    with pytest.raises(LedgerError, match="rounds only rise"):
        ledger.spend(details(number), (TRAIN,), NOW)
    assert (ledger.entries, ledger.epsilon(DELTA)) == (2, before)


def test_every_kind_of_entry_survives_reopening(tmp_path: Path) -> None:
    path = make_ledger(tmp_path)
    contents = {
        "plan-approved": APPROVED,
        "plan-refused": PlanRefused(PLAN_DIGEST, "run-1", "lead-anna", "policy", "task-not-allowed", "no"),
        "withdrawn": Withdrawn(PLAN_DIGEST, "run-1", "steward left"),
        "run-note": RunNote(PLAN_DIGEST, "run-1", "budget-exceeded", "left the run"),
        "population-changed": PopulationChanged("cdp", NO_POPULATION, b"\x01" * 32, ("first",)),
    }
    with Ledger.open(path, KEY, NOW) as ledger:
        entries = [ledger.append(kind, content, NOW) for kind, content in contents.items()]
        again = ledger.append("run-note", body_of(contents["run-note"]), NOW)
        assert again.content == contents["run-note"]
    read, torn = read_entries(path.read_bytes(), KEY.public)
    assert torn == b""
    assert read[1:] == (*entries, again)
    assert [entry.content for entry in read[1:6]] == list(contents.values())


def test_the_populations_of_a_task_follow_each_other_and_nothing_else_is_written(ledger: Ledger) -> None:
    first, second = b"\x01" * 32, b"\x02" * 32
    assert ledger.population_digest("cdp") == NO_POPULATION
    ledger.append("population-changed", PopulationChanged("cdp", NO_POPULATION, first, ("first",)), NOW)
    ledger.append("population-changed", PopulationChanged("other", NO_POPULATION, second, ("first",)), NOW)
    before = ledger.entries
    with pytest.raises(LedgerError, match="does not follow"):
        ledger.append("population-changed", PopulationChanged("cdp", second, b"\x03" * 32, ("left",)), NOW)
    assert (ledger.entries, ledger.population_digest("cdp")) == (before, first)
    ledger.append("population-changed", PopulationChanged("cdp", first, second, ("joined", "withdrawn")), NOW)
    assert ledger.population_digest("cdp") == ledger.population_digest("other") == second


@pytest.mark.parametrize(
    "wrong",
    [
        PopulationChanged("", NO_POPULATION, b"\x01" * 32, ("first",)),
        PopulationChanged("cdp", NO_POPULATION, b"\x01" * 32, ()),
        PopulationChanged("cdp", NO_POPULATION, b"\x01" * 32, ("left",)),
        PopulationChanged("cdp", b"\x02" * 32, b"\x01" * 32, ("first",)),
        PopulationChanged("cdp", NO_POPULATION, b"\x01" * 32, ("first", "joined")),
        PopulationChanged("cdp", b"\x02" * 32, b"\x01" * 32, ("withdrawn", "joined")),
        PopulationChanged("cdp", b"\x02" * 32, b"\x01" * 32, ("left", "left")),
        PopulationChanged("cdp", b"\x02" * 32, b"\x01" * 32, ("seven patients",)),
        PopulationChanged("cdp", b"\x02" * 32, b"\x02" * 32, ("left",)),
        PopulationChanged("cdp", b"\x02" * 32, NO_POPULATION, ("left",)),
        PopulationChanged("cdp", b"\x02" * 31, b"\x01" * 32, ("left",)),
    ],
)
def test_a_population_that_contradicts_itself_is_never_written(ledger: Ledger, wrong: PopulationChanged) -> None:
    with pytest.raises(LedgerError):
        ledger.append("population-changed", wrong, NOW)
    assert ledger.entries == 1


@pytest.mark.parametrize("kind", ["genesis", "recovered", "spend", "refund"])
def test_what_the_ledger_writes_itself_is_not_appended_by_hand(ledger: Ledger, kind: str) -> None:
    with pytest.raises(LedgerError, match="by hand"):
        ledger.append(kind, APPROVED, NOW)
    assert ledger.entries == 1


@pytest.mark.parametrize(
    "body",
    [
        {"plan_digest": "00" * 32, "run_id": "run-1", "reason": "bell \x07"},
        {"plan_digest": "00" * 32, "run_id": "run-1", "reason": "é"},
        {"plan_digest": "00" * 32, "run_id": "run-1", "reason": "x" * 2001},
        {"plan_digest": "00" * 31, "run_id": "run-1", "reason": ""},
        {"plan_digest": "00" * 32, "run_id": "run-1"},
        {"plan_digest": "00" * 32, "run_id": "run-1", "reason": "", "refund": 1},
    ],
)
def test_a_body_that_could_not_be_read_back_is_never_written(ledger: Ledger, body: dict[str, object]) -> None:
    with pytest.raises(LedgerError, match="cannot be written"):
        ledger.append("withdrawn", body, NOW)  # type: ignore[arg-type]
    with pytest.raises(LedgerError, match="cannot be written"):
        ledger.append("withdrawn", APPROVED, NOW)
    assert ledger.entries == 1


@pytest.mark.parametrize(
    "change",
    [
        {"round": 0},
        {"purpose": "predict"},
        {"delta": 0.0},
        {"clip": float("nan")},
        {"round": 1.0},
        {"model_hash": b"short"},
        {"run_id": "\x1b[2J"},
    ],
)
def test_a_spend_with_impossible_details_is_refused(ledger: Ledger, change: dict[str, object]) -> None:
    bad = details(1, **change)
    with pytest.raises(Exception, match=r"ledger entry 1|delta"):
        ledger.spend(bad, (TRAIN,), NOW)
    assert ledger.entries == 1
    with pytest.raises(LedgerError, match="at least one spend"):
        ledger.spend(details(1), (), NOW)


def test_a_time_without_a_zone_is_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="zone"):
        ledger.spend(details(1), (TRAIN,), datetime(2026, 1, 1))


def test_a_clock_that_goes_back_stops_nothing(ledger: Ledger) -> None:
    ledger.spend(details(1), (TRAIN,), NOW)
    assert ledger.spend(details(2), (TRAIN,), NOW - timedelta(days=400)).index == 2


def test_a_second_guard_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    path = make_ledger(tmp_path)
    first = Ledger.open(path, KEY, NOW)
    with pytest.raises(LedgerError, match="in use by another process"):
        Ledger.open(path, KEY, NOW)
    first.close()
    first.close()
    with pytest.raises(LedgerError, match="closed"):
        first.spend(details(1), (TRAIN,), NOW)
    Ledger.open(path, KEY, NOW).close()


def test_threads_of_one_guard_take_turns(ledger: Ledger) -> None:
    def charge(run: int) -> None:
        for number in range(1, 6):
            ledger.spend(details(number, plan_digest=bytes([run]) * 32), (TRAIN,), NOW)

    threads = [threading.Thread(target=charge, args=(run,)) for run in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_entries(ledger.path.read_bytes(), KEY.public)[0]) == 21


def test_a_ledger_is_never_overwritten(tmp_path: Path) -> None:
    path = make_ledger(tmp_path)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="never overwritten"):
        make_ledger(tmp_path)
    assert path.read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["ledger.jsonl", "ledger.jsonl.head"]


def test_a_deleted_ledger_is_not_a_fresh_start(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=1)
    path.unlink()
    with pytest.raises(LedgerError, match="missing"):
        Ledger.open(path, KEY, NOW)
    with pytest.raises(LedgerError, match="do not start anew"):
        make_ledger(tmp_path)


def test_a_creation_that_crashed_before_anything_was_spent_can_be_repeated(tmp_path: Path) -> None:
    path = make_ledger(tmp_path)
    path.rename(tmp_path / "ledger.jsonl.new")
    assert make_ledger(tmp_path).exists()


def test_another_sites_ledger_is_refused(tmp_path: Path) -> None:
    path = make_ledger(tmp_path)
    with pytest.raises(LedgerError, match="belongs to key") as caught:
        Ledger.open(path, STRANGER, NOW)
    assert caught.value.entry == 0


def test_permissions_and_folders_are_reported_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="missing"):
        Ledger.open(tmp_path / "none", KEY, NOW)
    with pytest.raises(LedgerError, match="cannot create"):
        make_ledger(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    with pytest.raises(LedgerError, match="cannot open"):
        Ledger.open(tmp_path / "folder", KEY, NOW)


def test_the_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = make_ledger(tmp_path)
    assert {item.stat().st_mode & 0o777 for item in (path, head_path(path))} == {0o600}


# Damage.


def reopen(path: Path) -> LedgerError:
    """The refusal; the ledger must not open."""
    with pytest.raises(LedgerError) as caught:
        Ledger.open(path, KEY, NOW)
    return caught.value


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_truncation_is_refused_and_names_the_missing_entry(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=3)
    path.write_bytes(b"".join(lines(path)[:-1]))
    error = reopen(path)
    assert error.entry == 3
    assert "older copy" in str(error)


def test_a_cut_inside_an_acted_upon_line_is_no_torn_write(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=2)
    path.write_bytes(path.read_bytes()[:-7])
    assert reopen(path).entry == 2


def test_a_removed_middle_entry_is_named(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=3)
    kept = lines(path)
    path.write_bytes(b"".join(kept[:2] + kept[3:]))
    assert reopen(path).entry == 2


def test_swapped_entries_are_named(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=3)
    kept = lines(path)
    path.write_bytes(b"".join([kept[0], kept[2], kept[1], kept[3]]))
    assert reopen(path).entry == 1


def test_an_edited_amount_is_named(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=3)
    kept = lines(path)
    kept[2] = kept[2].replace(b'"noise_multiplier":8.0', b'"noise_multiplier":9.0')
    path.write_bytes(b"".join(kept))
    assert reopen(path).entry == 2


def test_an_entry_resigned_by_a_stranger_is_named(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=1)
    kept = lines(path)
    old = parse_entry(kept[1].rstrip(b"\n"), 1)
    forged = make_entry(1, old.content, previous=old.previous, now=NOW, key=STRANGER)
    path.write_bytes(kept[0] + forged.line + b"\n")
    error = reopen(path)
    assert error.entry == 1
    assert "signed" in str(error)


def test_another_history_of_the_same_key_is_refused(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=2)
    (tmp_path / "fork").mkdir()
    with Ledger.create(
        tmp_path / "fork" / "l", KEY, consortium="ms-north", site="aachen", population="ms-clinic", split_id=SPLIT, now=NOW
    ) as fork:
        for number in (1, 2):
            fork.spend(details(number), (Spend(GaussianEvent(900.0), "train"),), NOW)
    path.write_bytes((tmp_path / "fork" / "l").read_bytes())
    error = reopen(path)
    assert error.entry == 2
    assert "another history" in str(error)


def test_two_ledgers_joined_end_to_end_are_refused(tmp_path: Path) -> None:
    path = make_ledger(tmp_path)
    path.write_bytes(lines(path)[0] * 2)
    assert reopen(path).entry == 1
    genesis = parse_entry(lines(path)[0].rstrip(b"\n"), 0)
    second = make_entry(1, genesis.content, previous=genesis.hash, now=NOW, key=KEY)
    with pytest.raises(LedgerError, match="exactly one genesis"):
        read_entries(genesis.line + b"\n" + second.line + b"\n")


def test_an_empty_ledger_is_refused(tmp_path: Path) -> None:
    path = make_ledger(tmp_path)
    path.write_bytes(b"")
    assert reopen(path).entry == 0


def test_a_repeated_round_that_was_signed_is_still_refused(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=1)
    first, second = (parse_entry(line.rstrip(b"\n"), at) for at, line in enumerate(lines(path)))
    again = make_entry(2, second.content, previous=second.hash, now=NOW, key=KEY)
    with pytest.raises(LedgerError, match="rounds only rise") as caught:
        read_entries(b"".join(entry.line + b"\n" for entry in (first, second, again)), KEY.public)
    assert caught.value.entry == 2


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_flipped_bit_is_found_at_its_entry(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = ledger_bytes(tmp_path_factory)
    at = data.draw(st.integers(0, len(whole) - 2))  # the last newline: without it the line is torn, the head's business
    changed = bytearray(whole)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    index = whole.count(b"\n", 0, at)
    with pytest.raises(LedgerError) as caught:
        read_entries(bytes(changed), KEY.public)
    assert caught.value.entry is not None
    assert index <= caught.value.entry <= index + 1


_WHOLE: dict[str, bytes] = {}


def ledger_bytes(factory: pytest.TempPathFactory) -> bytes:
    if "whole" not in _WHOLE:
        _WHOLE["whole"] = make_ledger(factory.mktemp("flips"), rounds=3).read_bytes()
    return _WHOLE["whole"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"index": 7}, "says it is entry"),
        ({"index": True}, "says it is entry"),
        ({"kind": "refund"}, "is not one of"),
        ({"kind": 3}, "must be texts"),
        ({"body": []}, "must be texts"),
        ({"time": "yesterday"}, "time must look"),
        ({"time": "2026-1-31T12:00:00Z"}, "time must look"),
        ({"previous": "AA" * 32}, "lower-case hex"),
        ({"previous": "aa" * 31}, "lower-case hex"),
        ({"signature": None}, "lower-case hex"),
        ({"note": 1}, "exactly the keys"),
    ],
)
def test_a_line_with_anything_unknown_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    line = lines(make_ledger(tmp_path, rounds=1))[1]
    document = {**json.loads(line), **change}
    written = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(LedgerError, match=words):
        parse_entry(written, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spends": []}, "at least one"),
        ({"spends": [{"count": -1, "event": {"name": "not-private"}, "population": "train"}]}, "count"),
        ({"epsilon_after": 3}, "expected a float"),
        ({"epsilon_after": -2.0}, "epsilon_after"),
        ({"unit": "visit"}, "unknown key"),
    ],
)
def test_a_spend_line_with_impossible_content_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    document = json.loads(lines(make_ledger(tmp_path, rounds=1))[1])
    document["body"].update(change)
    with pytest.raises(LedgerError, match=words):
        parse_entry(json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), 1)


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"unit": "visit"}, {"neighbours": "replace one"}, {"site": ""}, {"identity_key": b"short"}]
)
def test_a_genesis_of_another_meaning_is_refused(change: dict[str, object]) -> None:
    good = Genesis(1, "ms-north", "aachen", KEY.public, "ms-clinic", SPLIT)
    make_entry(0, good, previous=FIRST_PREVIOUS, now=NOW, key=KEY)
    with pytest.raises(LedgerError):
        make_entry(0, replace(good, **change), previous=FIRST_PREVIOUS, now=NOW, key=KEY)  # type: ignore[arg-type]


def test_a_line_longer_than_any_entry_is_not_decoded() -> None:
    with pytest.raises(LedgerError, match="limit is"):
        parse_entry(b"[" * 70_000, 0)
    with pytest.raises(LedgerError, match="must be at least 1"):
        make_entry(1, Recovered(0, bytes(32)), previous=bytes(32), now=NOW, key=KEY)


def test_an_entry_is_what_its_bytes_say(tmp_path: Path) -> None:
    data = make_ledger(tmp_path, rounds=1).read_bytes().splitlines()
    entry: Entry = parse_entry(data[1], 1)
    assert entry.line == data[1]
    assert entry.hash == line_hash(data[1])
    assert entry.previous == line_hash(data[0])


# The head file.


def test_a_missing_or_damaged_head_file_is_refused(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=1)
    whole = head_path(path).read_bytes()
    head_path(path).unlink()
    assert "without it a rolled-back ledger looks whole" in str(reopen(path))
    for damaged in (b"", bytes(len(whole)), whole + b"\0", whole[:-1]):
        head_path(path).write_bytes(damaged)
        assert "head file is damaged" in str(reopen(path))
    head_path(path).write_bytes(whole)
    Ledger.open(path, KEY, NOW).close()


def test_one_torn_slot_of_the_head_file_is_survived(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=3)
    whole = bytearray(head_path(path).read_bytes())
    assert parse_head(bytes(whole))[0] == 3
    half = len(whole) // 2
    whole[half] ^= 1  # entry 3 is odd: the second slot
    assert parse_head(bytes(whole))[0] == 2
    head_path(path).write_bytes(bytes(whole))
    with Ledger.open(path, KEY, NOW) as ledger:
        assert ledger.entries == 4
        assert parse_head(head_path(path).read_bytes())[0] == 3


def test_an_older_ledger_with_its_own_older_head_is_the_limit_of_one_copy(tmp_path: Path) -> None:
    """Documented: only a second copy shows this (`privacy.verify.compare`)."""
    path = make_ledger(tmp_path, rounds=1)
    old = path.read_bytes(), head_path(path).read_bytes()
    with Ledger.open(path, KEY, NOW) as ledger:
        ledger.spend(details(2), (TRAIN,), NOW)
    path.write_bytes(old[0])
    assert reopen(path).entry == 2
    head_path(path).write_bytes(old[1])
    with Ledger.open(path, KEY, NOW) as ledger:
        assert ledger.entries == 2


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    path = make_ledger(tmp_path)
    os.symlink(path, tmp_path / "link")
    assert "cannot open" in str(reopen(tmp_path / "link"))
