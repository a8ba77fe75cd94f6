"""A ledger read by the batch on several threads: what is found, and at which entry, is what reading line by line finds."""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_reading import altered, plain_entry

from consortium.canonical import Json, encode_json
from consortium.identity import SigningKey
from privacy import entries, reading
from privacy.cli_output import usable_threads
from privacy.entries import (
    FIRST_PREVIOUS,
    LEFT,
    LINE_MOST,
    NO_POPULATION,
    Content,
    Egress,
    Entry,
    Genesis,
    PlanApproved,
    PlanRefused,
    PopulationChanged,
    Recovered,
    RunNote,
    SpendRecord,
    Withdrawn,
    make_entry,
    parse_entry,
)
from privacy.errors import LedgerError
from privacy.events import NonPrivateEvent, PoissonGaussianEvent, SharedGaussianEvent, SharedPoissonGaussianEvent, Spend
from privacy.ledger import read_entries
from privacy.reading import Reader
from privacy.site_book import read_book
from privacy.verify import verify_ledger

from .conftest import DELTA, HISTOGRAM, KEY, NOW, PLAN_DIGEST, SPLIT, TRAIN, details

STRANGER = SigningKey.from_seed(bytes(32))
OTHERS = (
    Spend(NonPrivateEvent(), "all"),
    Spend(PoissonGaussianEvent(2.0, 0.25), "train", 3),
    Spend(SharedGaussianEvent(4.0, 4), "train"),
    Spend(SharedPoissonGaussianEvent(4.0, 0.5, 4), "held_out"),
)
CONTENTS: tuple[Content, ...] = (
    Genesis(1, "ms-north", "aachen", KEY.public, "ms-clinic", SPLIT),
    PlanApproved(PLAN_DIGEST, "run-1", "lead-anna", "steward", "", DELTA, 3.0),
    SpendRecord(details(1), (HISTOGRAM, TRAIN), 0.5),
    Egress("run-1", PLAN_DIGEST, 1, "update (train)", 2, bytes(32)),
    Egress("run-1", PLAN_DIGEST, 1, "vote", 3, bytes(32)),
    SpendRecord(details(2), OTHERS, -1.0),
    RunNote(PLAN_DIGEST, "run-1", f"{LEFT}BUDGET", "the budget ends here"),
    PlanRefused(bytes(32), "run-2", "lead-anna", "policy", "BUDGET", "too much"),
    Recovered(7, bytes(32)),
    SpendRecord(details(3), (TRAIN,), -1.0),
    Withdrawn(PLAN_DIGEST, "run-1", "enough"),
    PopulationChanged("cdp", NO_POPULATION, bytes([1]) * 32, ("first",)),
    PopulationChanged("cdp", bytes([1]) * 32, bytes([2]) * 32, ("left", "withdrawn")),
)


def written(*contents: Content, keys: dict[int, SigningKey] | None = None) -> bytes:
    """A chained ledger; `keys`: who else signs an entry."""
    previous, lines = FIRST_PREVIOUS, []
    for index, content in enumerate(contents):
        entry = make_entry(index, content, previous=previous, now=NOW, key=(keys or {}).get(index, KEY))
        previous = entry.hash
        lines.append(entry.line + b"\n")
    return b"".join(lines)


WHOLE = written(*CONTENTS)
LINES = WHOLE.splitlines()
ODD: list[Json] = [None, True, 0, 1, -1, 1.0, 0.5, 1e300, 2**70, "", "train", "a" * 2001, "a\n", "\u00e9", "\x7f", [], {}, [{}]]
ODD += [character * size for character in ("0", "A", " ", "g", "\u0660") for size in (62, 64, 66, 126, 128, 130)]
ODD += ["2026-11-21T09:30:00Z", "2026-11-21T09:30:00", "2026-11-21 09:30:00Z", "2026-02-30T09:30:00Z", "20261121T093000Z"]
ODD += ["0001-11-21T09:30:00Z", "2026-11-21T24:00:00Z", "2026-11-21T09:30:60Z", "2026-11-21T09:30:00.0Z", "2026-W47-6T09:30:00Z"]
ODD += [
    "2026-11-21T09:30:00+00:00",
    "\u0662026-11-21T09:30:00Z",
    *("genesis", "spend", "egress", "vote", "all", "gaussian", "not-private"),
]


def outcome(read: Callable[[], object]) -> tuple[str, object]:
    """What was read, or why, and at which entry, it was refused."""
    try:
        return "read", read()
    except LedgerError as error:
        return str(error), error.entry


def test_every_kind_of_line_is_read_as_its_rules_say() -> None:
    for index, line in enumerate(LINES):
        assert parse_entry(line, index) == plain_entry(line, index)
    assert [entry.content for entry in Reader(io.BytesIO(WHOLE))] == list(CONTENTS)


def test_only_plain_lines_of_answers_take_the_short_way() -> None:
    """The tests below compare both ways with the rules: here, that the short one is taken at all."""
    assert [index for index, line in enumerate(LINES) if entries._plain_egress(line, index)] == [3, 4]
    for odd in ({"round": 0}, {"lines": 10**18}, {"answer": "\\"}, {"run_id": "a" * 2001}, {"head": "A" * 64}):
        document = json.loads(LINES[3])
        assert entries._plain_egress(encode_json({**document, "body": {**document["body"], **odd}}), 3) is None


@pytest.mark.parametrize("index", [3, 4])
def test_a_line_of_an_answer_with_one_byte_more_or_another_is_read_or_refused_as_its_rules_say(index: int) -> None:
    line = LINES[index]
    for at in range(len(line) + 1):
        for byte in (b"0", b"a", b"A", b" ", b'"', b"\\", b"\x7f", b"\n", b"}", b"\xff"):
            for changed in (line[:at] + byte + line[at:], line[:at] + byte + line[at + 1 :]):
                found = outcome(lambda: parse_entry(changed, index))  # noqa: B023 - called at once
                assert found == outcome(lambda: plain_entry(changed, index))  # noqa: B023 - called at once


@settings(max_examples=600, deadline=None)
@given(st.integers(0, len(LINES) - 1), st.randoms(use_true_random=False), st.integers(1, 2))
def test_a_canonical_line_that_was_altered_is_read_or_refused_as_its_rules_say(
    index: int, chance: random.Random, times: int
) -> None:
    document: Json = json.loads(LINES[index])
    for _ in range(times):
        document = altered(document, ODD, chance)
    line = encode_json(document)
    assert outcome(lambda: parse_entry(line, index)) == outcome(lambda: plain_entry(line, index))


@pytest.mark.parametrize("index", range(len(LINES)))
def test_every_odd_value_in_every_field_is_read_or_refused_as_its_rules_say(index: int) -> None:
    whole = json.loads(LINES[index])
    for odd in ODD:
        changes = [{name: odd} for name in whole] + [{"body": {**whole["body"], name: odd}} for name in whole["body"]]
        for change in changes:
            line = encode_json({**whole, **change})
            found = outcome(lambda: parse_entry(line, index))  # noqa: B023 - called at once
            assert found == outcome(lambda: plain_entry(line, index))  # noqa: B023 - called at once


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_altered_bytes_of_a_line_are_read_or_refused_as_its_rules_say(data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(LINES) - 1))
    line = LINES[index]
    at = data.draw(st.integers(0, len(line)))
    more = data.draw(st.sampled_from([b"", b" ", b"0", b".0", b"e0", b"\\u0061", b'"', b"}", b",", b"\xff", b"\r", b"NaN", b"-"]))
    changed = line[:at] + more + line[at + data.draw(st.integers(0, 2)) :]
    assert outcome(lambda: parse_entry(changed, index)) == outcome(lambda: plain_entry(changed, index))


# The ledger: by the batch, on several threads.


def by_the_batch(data: bytes, threads: int, batch: int, public: bytes | None = None) -> tuple[list[Entry], tuple[str, object]]:
    """The good entries, and how it ended."""
    found: list[Entry] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BATCH", batch)
        reader = Reader(io.BytesIO(data), public, threads=threads)
        ended = outcome(lambda: found.extend(reader))
    return found, (ended[0], reader.torn if ended[0] == "read" else ended[1])


def line_by_line(data: bytes, public: bytes | None = None) -> tuple[list[Entry], tuple[str, object]]:
    """The same by `read_entries`, which checks each signature before it looks at the next line."""
    try:
        entries, torn = read_entries(data, public)
    except LedgerError as error:
        before = b"".join(line + b"\n" for line in data.split(b"\n")[: error.entry or 0])
        return list(read_entries(before)[0]) if before else [], (str(error), error.entry)
    return list(entries), ("read", len(torn))


FORGED = written(*CONTENTS, keys={6: STRANGER})
REPEATED = written(*CONTENTS[:5], CONTENTS[2], *CONTENTS[6:])
FORGED_REPEATED = written(*CONTENTS[:5], CONTENTS[2], *CONTENTS[6:], keys={5: STRANGER})
FORGED_EARLIER = written(*CONTENTS[:5], CONTENTS[2], *CONTENTS[6:], keys={3: STRANGER})
TWO_FORGED = written(*CONTENTS, keys={2: STRANGER, 9: STRANGER})
FIRST_FORGED = written(*CONTENTS, keys={0: STRANGER})
ENDINGS = (b"", b"torn", b"{}\n", LINES[3] + b"\n", b"\n")


@pytest.mark.parametrize("threads", [1, 2, 3, 20])
@pytest.mark.parametrize("batch", [1, 1500, 2**17])
@pytest.mark.parametrize("whole", [WHOLE, FORGED, REPEATED, FORGED_REPEATED, FORGED_EARLIER, TWO_FORGED, FIRST_FORGED, b""])
def test_the_first_bad_entry_is_the_same_for_every_batch_and_number_of_threads(whole: bytes, batch: int, threads: int) -> None:
    for ending in ENDINGS:
        assert by_the_batch(whole + ending, threads, batch) == line_by_line(whole + ending)
        stranger = by_the_batch(whole + ending, threads, batch, STRANGER.public)[1]  # asked for at the end: a later key counts too
        assert stranger == line_by_line(whole + ending, STRANGER.public)[1]


def test_a_signature_is_missed_at_no_place_of_a_batch() -> None:
    for index in range(len(CONTENTS)):
        data = written(*CONTENTS, keys={index: STRANGER})
        for threads in (1, 2, 5):
            found, (words, entry) = by_the_batch(data, threads, 2**17)
            assert (len(found), entry) == (index, index)
            assert "not signed by the ledger's key" in words


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_ledgers_whose_lines_were_moved_or_altered_end_at_the_same_entry(data: st.DataObject) -> None:
    lines = list(data.draw(st.sampled_from([WHOLE, FORGED, REPEATED, TWO_FORGED])).splitlines(keepends=True))
    for _ in range(data.draw(st.integers(1, 2))):
        at, other = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        match data.draw(st.integers(0, 4)):
            case 0:
                lines[at], lines[other] = lines[other], lines[at]
            case 1:
                lines.insert(at, lines[other])
            case 2 if len(lines) > 1:
                del lines[at]
            case 3:
                lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at]) - 1))]
            case _:
                bit = data.draw(st.integers(0, 8 * len(lines[at]) - 1))
                lines[at] = bytes(byte ^ ((1 << bit % 8) if place == bit // 8 else 0) for place, byte in enumerate(lines[at]))
    changed = b"".join(lines)
    batch, threads = data.draw(st.sampled_from([1, 1500, 2**17])), data.draw(st.integers(1, 3))
    assert by_the_batch(changed, threads, batch) == line_by_line(changed)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_line_without_end_is_refused_after_what_stands_before_it(threads: int) -> None:
    endless = b"a" * (2 * LINE_MOST)
    found, (words, entry) = by_the_batch(WHOLE + endless, threads, 2**17)
    assert (len(found), entry) == (len(CONTENTS), len(CONTENTS))
    assert "line of more than" in words
    found, (words, entry) = by_the_batch(FORGED + endless, threads, 2**17)
    assert (len(found), entry) == (6, 6)
    assert not [problem for problem in verify_ledger(FORGED + endless).problems if "torn" in problem]


def test_no_more_than_a_batch_is_read_ahead() -> None:
    votes = (Egress("run-1", PLAN_DIGEST, 1, "vote", number, bytes(32)) for number in range(2, 500))
    file = io.BytesIO(written(*CONTENTS[:2], *votes))
    entries = iter(Reader(file, threads=2))
    next(entries)
    assert file.tell() <= reading.BATCH + LINE_MOST
    assert len(list(entries)) == 499


def test_the_report_is_the_same_on_several_threads_and_hands_on_every_good_entry() -> None:
    for data in (WHOLE, FORGED, REPEATED + b"torn"):
        seen: list[Entry] = []
        assert verify_ledger(data, threads=3, seen=seen.append) == verify_ledger(data)
        assert seen == line_by_line(data)[0]


@pytest.mark.parametrize("data", [WHOLE, FORGED, REPEATED + b"torn"])
def test_a_book_is_read_and_verified_once(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    read: list[int] = []

    def counted(line: bytes, index: int) -> Entry:
        read.append(index)
        return parse_entry(line, index)

    monkeypatch.setattr(reading, "parse_entry", counted)
    monkeypatch.setattr("privacy.ledger.parse_entry", lambda *_: pytest.fail("the ledger is read a second time"))
    book = read_book(Path("ledger.jsonl"), data, None, threads=2)
    monkeypatch.undo()
    assert read == sorted(set(read))
    assert list(book.entries) == line_by_line(data)[0]
    assert book.report == verify_ledger(data)


def test_a_book_without_any_entry_is_nobody_s() -> None:
    for data in (b"", b"torn", FIRST_FORGED, LINES[1] + b"\n"):
        with pytest.raises(LedgerError, match="no readable entry"):
            read_book(Path("ledger.jsonl"), data, None)


def test_the_programs_use_the_cores_they_may_and_no_more_than_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((1, 1), (2, 2), (64, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, count=cores: set(range(count)))
        assert usable_threads() == threads
