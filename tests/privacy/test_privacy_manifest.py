"""A ledger vouches for its site's egress manifest: whatever is done to a line that left is found, and the first such line named."""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consortium.canonical import encode_json
from privacy.entries import Egress, Entry
from privacy.ledger import Ledger, read_entries
from privacy.manifest import Finding, Linked, Tip, verify_manifest

from .conftest import KEY, NOW, PLAN_DIGEST, SPLIT, TRAIN, details

ROUNDS = 4
Lines = list[bytes]


def line(number: int, kind: str, previous: bytes | None, *, sha256: str = "ab" * 32) -> bytes:
    said = {
        "kind": kind,
        "parts": [{"bytes": 9, "masked": False, "sha256": sha256, "shape": "9 bytes", "what": "protocol message"}],
        "plan": PLAN_DIGEST.hex(),
        "round": number,
        "run": "run-1",
        "time": "2026-11-25T10:00:00Z",
    }
    return json.dumps(said | ({} if previous is None else {"previous": previous.hex()}), sort_keys=True).encode("ascii")


class Site:
    """A manifest and a ledger, written as a guard writes them: keys, kem, then an update and a vote a round."""

    def __init__(self, path: Path) -> None:
        Ledger.create(path, KEY, consortium="c", site="a", population="p", split_id=SPLIT, now=NOW).close()
        self.path, self.lines, self.tip = path, Lines(), Tip()
        with Ledger.open(path, KEY, NOW) as ledger:
            self.left(ledger, 0, "keys")
            self.left(ledger, 0, "kem")
            for number in range(1, ROUNDS + 1):
                ledger.spend(details(number), (TRAIN,), NOW)
                self.left(ledger, number, "update (train)")
                self.left(ledger, number, "vote")
            self.left(ledger, 0, "keys")  # of a next epoch: no entry comes after it

    def left(self, ledger: Ledger, number: int, kind: str) -> None:
        self.lines.append(line(number, kind, self.tip.head))
        self.tip = self.tip.after(self.lines[-1])
        if number:
            ledger.append("egress", Egress("run-1", PLAN_DIGEST, number, kind, self.tip.lines, self.tip.head), NOW)

    @property
    def entries(self) -> tuple[Entry, ...]:
        return read_entries(self.path.read_bytes(), KEY.public)[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site") / "ledger.jsonl")


LAST = 2 + 2 * ROUNDS  # the last line that an entry knows


def check(site: Site, lines: Lines, entries: tuple[Entry, ...] | None = None) -> Linked:
    data = b"".join(one + b"\n" for one in lines)
    return verify_manifest("run-1", data, site.entries if entries is None else entries)


def rechained(lines: Lines) -> Lines:
    """The same lines, each made to follow from those before it: what a forger would do who has read this code."""
    tip, made = Tip(), Lines()
    for one in lines:
        said = json.loads(one)
        made.append(json.dumps(said | {"previous": tip.head.hex()}, sort_keys=True).encode("ascii"))
        tip = tip.after(made[-1])
    return made


def test_the_hash_over_lines_is_the_one_that_is_written_down() -> None:
    """Computed again from the words alone: u32 lengths around label, hash before and line."""
    head = bytes(32)
    for one in (b'{"a":1}', b"", b"\x00 torn"):
        fields = (b"wardround/egress-line/1", head, one)
        framed = b"".join(struct.pack(">I", len(field)) + field for field in fields)
        head = hashlib.sha256(struct.pack(">I", len(fields)) + framed).digest()
    assert Tip().after(b'{"a":1}').after(b"").after(b"\x00 torn") == Tip(3, head)
    assert head.hex() == "842b2b718fe3c78d43a10583089dd033b78afe655af09ad98aa322d9d9d93d5f"


def test_a_manifest_as_it_was_written_is_vouched_for_up_to_the_last_entry(site: Site) -> None:
    found = check(site, site.lines)
    assert (found.lines, found.entries, found.linked, found.problems) == (LAST + 1, 2 * ROUNDS, LAST, ())
    assert [remark.line for remark in found.remarks] == [LAST + 1]
    assert found.sentence == f"the ledger vouches for {LAST} of {LAST + 1} lines, by {2 * ROUNDS} entries"


@pytest.mark.parametrize("number", range(1, LAST + 1))
def test_an_edited_line_is_named(site: Site, number: int) -> None:
    lines = list(site.lines)
    lines[number - 1] = lines[number - 1].replace(b'"bytes": 9', b'"bytes": 8')
    (problem,) = check(site, lines).problems
    assert problem.line == number


@pytest.mark.parametrize("number", range(1, LAST + 1))
def test_an_edited_line_is_found_also_if_all_after_it_follow_from_it(site: Site, number: int) -> None:
    """The entry of the first answer at or after it names it; the keys have no entry of their own, so both are named."""
    lines = list(site.lines)
    lines[number - 1] = lines[number - 1].replace(b'"bytes": 9', b'"bytes": 8')
    (problem,) = check(site, rechained(lines)).problems
    assert problem.line == (1 if number <= 3 else number)
    assert "does not fit" in problem.text


@pytest.mark.parametrize("number", range(1, LAST + 1))
@pytest.mark.parametrize("again", [list, rechained], ids=["as it is", "rechained"])
def test_a_removed_line_is_found_where_it_was(site: Site, number: int, again: Callable[[Lines], Lines]) -> None:
    problems = check(site, again(site.lines[: number - 1] + site.lines[number:])).problems
    assert problems[0].line is not None
    assert (1 if number <= 3 else number - 1) <= problems[0].line <= number


@pytest.mark.parametrize("number", range(1, LAST + 1))
@pytest.mark.parametrize("again", [list, rechained], ids=["as it is", "rechained"])
def test_an_added_line_is_found_where_it_is(site: Site, number: int, again: Callable[[Lines], Lines]) -> None:
    added = line(1, "vote", Tip().head, sha256="cd" * 32)
    problem = check(site, again([*site.lines[: number - 1], added, *site.lines[number - 1 :]])).problems[0]
    assert problem.line is not None
    assert (1 if number <= 3 else number - 1) <= problem.line <= number + 1


@pytest.mark.parametrize("kept", range(LAST))
def test_a_manifest_that_was_cut_names_the_first_line_that_is_missing(site: Site, kept: int) -> None:
    problem = check(site, site.lines[:kept]).problems[0]
    assert problem.line == kept + 1
    assert f"line {kept + 1} is missing: ledger entry" in problem.text


def test_what_comes_after_the_last_entry_is_vouched_for_by_nobody_and_said_to_be(site: Site) -> None:
    more = line(5, "update (train)", site.tip.head)
    found = check(site, [*site.lines, more])
    assert found.ok
    assert found.linked == LAST
    assert f"line {LAST + 2}: update (train) of round 5 has no entry: written, and stopped before it left" in [
        remark.text for remark in found.remarks
    ]


def test_a_line_without_previous_after_lines_with_it_was_added_by_hand(site: Site) -> None:
    found = check(site, [*site.lines, line(5, "vote", None)])
    assert [problem.line for problem in found.problems] == [LAST + 2]


def test_a_manifest_begun_anew_is_found_in_the_ledger_alone(site: Site) -> None:
    entries = site.entries
    with Ledger.open(site.path, KEY, NOW) as ledger:
        again = ledger.append("egress", Egress("run-2", PLAN_DIGEST, 1, "vote", 3, bytes(32)), NOW)
        fewer = ledger.append("egress", Egress("run-2", PLAN_DIGEST, 2, "vote", 2, bytes(32)), NOW)
    found = verify_manifest("run-2", b"", (*entries, again, fewer))
    assert f"ledger entry {fewer.index} knows 2 lines, an entry before it 3: the manifest was begun anew" in [
        problem.text for problem in found.problems
    ]


def test_an_update_that_left_uncharged_is_a_problem(site: Site) -> None:
    without = tuple(entry for entry in site.entries if not (entry.kind == "spend" and entry.body["round"] == 2))
    found = check(site, site.lines, without)
    assert [problem.text.partition(": ")[2] for problem in found.problems] == [
        "an update of round 2 left, and no entry before it charges that round"
    ]


def test_an_entry_whose_answer_no_line_lists_is_a_problem(tmp_path: Path) -> None:
    other = Site(tmp_path / "ledger.jsonl")
    with Ledger.open(other.path, KEY, NOW) as ledger:
        ledger.append("egress", Egress("run-1", PLAN_DIGEST, 9, "vote", other.tip.lines, other.tip.head), NOW)
    (problem,) = check(other, other.lines).problems
    assert "vote of round 9 left, and none of the first 11 lines lists it" in problem.text


def test_a_run_without_any_entry_is_not_linked_and_no_problem(site: Site) -> None:
    found = verify_manifest("run-0", b"".join(line(1, "vote", None) + b"\n" for _ in range(2)), site.entries)
    assert (found.entries, found.linked, found.ok) == (0, 0, True)
    assert found.sentence.startswith("not linked")
    assert found.remarks == (
        Finding("lines 1 to 2 are of a version before manifests were linked: not linked when they were written", 1),
    )
    assert verify_manifest("run-0", b"", site.entries).sentence == "nothing left, and the ledger knows of nothing"


def first_named(site: Site, index: int, at: int, value: int) -> int:
    """The line that the first problem names when this byte of line `index + 1` is another."""
    lines = list(site.lines)
    lines[index] = lines[index][:at] + bytes([value]) + lines[index][at + 1 :]
    found = check(site, lines)
    assert found.problems
    assert found.problems[0].line is not None
    return found.problems[0].line


@given(st.integers(0, LAST - 1), st.data())
def test_whatever_byte_of_whatever_line_is_changed_is_found(site: Site, index: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(site.lines[index]) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value not in (site.lines[index][at], ord("\n"))))
    assert index <= first_named(site, index, at, value) <= index + 2


@pytest.mark.parametrize("index", range(LAST))
def test_a_line_that_was_cut_in_two_is_found(site: Site, index: int) -> None:
    """Its halves say nothing of what came before. Of lines 1 to 3 an entry knows all at once: it names them all."""
    for at in range(len(site.lines[index])):
        assert (1 if index == 2 else index + 1) <= first_named(site, index, at, ord("\n")) <= index + 2


@given(st.binary(max_size=400))
def test_bytes_that_are_no_manifest_never_raise(site: Site, data: bytes) -> None:
    assert verify_manifest("run-1", data, site.entries).problems


@pytest.mark.parametrize(
    "value", [{"plan": [], "round": {}, "kind": None}, {"previous": 7}, {"previous": None}, [], {"round": True, "parts": 3}]
)
def test_json_that_is_no_line_never_raises(site: Site, value: object) -> None:
    data = encode_json(value) + b"\n" + b"[" * 100_000 + b"\n"  # type: ignore[arg-type]  # whatever it is
    assert verify_manifest("run-1", data, site.entries).problems
