"""`wardround-audit compare` finds what the coordinator or a site hides, names run, site and round, and says whose word it is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consortium.plan import Plan
from consortium.roster import Roster
from consortium.statement import EpsilonStatement, sign_statement
from privacy.cli import main
from privacy.compare import MEANINGS, ranges
from privacy.entries import SpendRecord
from privacy.events import GaussianEvent, Spend
from privacy.ledger import Ledger, head_path, read_entries
from server.journal import EpsilonPublished, RoundAttempt

from .conftest import LEAD, NOW
from .test_privacy_rounds import TRAIN, Hospitals
from .two_books import PINNED, ROUNDS, SITES, Told, TwoBooks, key_of, model_of

OTHER = bytes([77]) * 32


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def books(tmp_path: Path, roster: Roster, make_plan: Callable[..., Plan]) -> TwoBooks:
    return TwoBooks(tmp_path, roster, make_plan(roster_digest=roster.digest))


def compare(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    status = main(["compare", *map(str, arguments), "--json"])
    return status, json.loads(capsys.readouterr().out)


def found(document: Any) -> list[tuple[str, str, list[int]]]:
    """Code, site and rounds of every finding, problems first."""
    return [(one["code"], one["site"], one["rounds"]) for one in document["findings"]]


def differing(books: TwoBooks, capsys: pytest.CaptureFixture[str], told: Told) -> tuple[int, Any]:
    books.write(told)
    return compare(capsys, books.run, *books.ledgers)


def test_books_that_agree_are_said_to_agree(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = differing(books, capsys, Told())
    assert (status, document["ok"], document["findings"]) == (0, True, [])
    assert [(row["site"], row["asked"], row["counted"], row["charged"]) for row in document["rows"]] == [
        (s, 4, 4, 4) for s in SITES
    ]
    assert document["runs"][0]["vouched"] is False


def test_a_round_that_the_coordinator_hides_is_found_at_every_site(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = differing(books, capsys, Told(unjournaled=(3,)))
    assert status == 1
    assert found(document) == [("round-unknown", site, [3]) for site in SITES]


def test_a_run_that_no_folder_shows_is_found(books: TwoBooks, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    shown = TwoBooks(tmp_path / "other", books.roster, replace(books.plan, run_id="run-2")).write()
    status, document = compare(capsys, shown.run, *books.ledgers)
    assert status == 1
    hidden = [("run-unknown", site, [1, 2, 3, 4]) for site in SITES]
    assert [one for one in found(document) if one[0] == "run-unknown"] == hidden
    both = [path for pair in zip(books.ledgers, shown.ledgers, strict=True) for path in pair[:1]]
    status, document = compare(capsys, books.run, *both)
    assert (status, document["findings"]) == (0, [])


def test_a_spend_that_a_site_hides_is_found_as_the_coordinators_word(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = differing(books, capsys, Told(uncharged=(("b", 3), ("b", 4))))
    assert status == 1
    assert found(document) == [("spend-missing", "b", [3, 4])]
    assert "the coordinator's word alone" in document["findings"][0]["text"]


def test_a_run_that_a_site_hides_is_found(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = differing(books, capsys, Told(uncharged=[("b", number) for number in ROUNDS]))
    assert status == 1
    assert found(document) == [("run-missing", "b", [1, 2, 3, 4])]


def test_a_signed_update_in_a_record_proves_that_the_site_hides_it(
    tmp_path: Path, roster: Roster, make_plan: Callable[..., Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    hospitals = Hospitals(tmp_path / "hospitals", roster, make_plan(roster_digest=roster.digest))
    hospitals.open(TRAIN, "train")
    books = TwoBooks(tmp_path, roster, hospitals.plan).write(Told(uncharged=(("b", 3),)))
    (books.run / "records").mkdir()
    record = hospitals.folder / "records" / "round-0000000003.record"
    (books.run / "records" / record.name).write_bytes(record.read_bytes())
    status, document = compare(capsys, books.run, *books.ledgers, "--founders", PINNED)
    assert status == 1
    assert document["runs"][0]["vouched"] is True
    hidden = next(one for one in document["findings"] if one["code"] == "spend-missing")
    assert "PROVEN: the record holds an update that b signed itself" in hidden["text"]
    assert [one["rounds"] for one in document["findings"] if one["code"] == "record"] == [[1], [2], [4]]  # no record of these


def test_a_coordinator_that_invents_a_sites_part_has_no_signature_of_it(
    books: TwoBooks, capsys: pytest.CaptureFixture[str]
) -> None:
    books.write(Told(uncharged=(("b", 3),)))
    _, document = compare(capsys, books.run, *books.ledgers, "--founders", PINNED)
    hidden = next(one for one in document["findings"] if one["code"] == "spend-missing")
    assert "NOT PROVEN: no record holds an update that b signed" in hidden["text"]


def test_a_record_that_does_not_prove_its_round_is_found(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    (books.run / "records").mkdir()
    (books.run / "records" / "round-0000000003.record").write_bytes(b"no record")
    status, document = compare(capsys, books.run, *books.ledgers, "--founders", PINNED)
    assert status == 1
    assert any(one["code"] == "record" and "round-0000000003.record" in one["text"] for one in document["findings"])


def test_another_founders_fingerprint_vouches_for_nothing(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    status, document = compare(capsys, books.run, *books.ledgers, "--founders", "-".join(["0000"] * 8))
    assert (status, document["runs"][0]["vouched"]) == (1, False)
    assert "roster.signed" in next(one["text"] for one in document["findings"] if one["code"] == "folder")


def test_another_model_than_the_coordinator_shows_is_found(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = differing(books, capsys, Told(models={("c", 2): OTHER}))
    assert status == 1
    assert found(document) == [("model", "c", [2]), ("models-split", "", [2])]


def test_two_models_in_one_round_are_found_without_the_coordinator(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = differing(books, capsys, Told(models={("c", 2): OTHER}, unjournaled=(2,)))
    split = next(one for one in document["findings"] if one["code"] == "models-split")
    assert (status, split["rounds"]) == (1, [2])
    assert "a, b, d" in split["text"]
    assert OTHER.hex()[:16] in split["text"]


def test_weaker_noise_than_the_plans_is_found(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    half = (Spend(GaussianEvent(4.0), "train"),)
    status, document = differing(books, capsys, Told(spends={("a", 2): half}))
    assert status == 1
    assert found(document) == [("mechanism", "a", [2])]
    assert "4.0" in document["findings"][0]["text"]
    assert "8.0" in document["findings"][0]["text"]


@pytest.mark.parametrize(("name", "value"), [("clip", 0.5), ("normaliser", 7.0), ("split_id", "bb" * 32), ("code_version", "9")])
def test_other_terms_than_the_plans_are_found(
    name: str, value: object, books: TwoBooks, capsys: pytest.CaptureFixture[str]
) -> None:
    status, document = differing(books, capsys, Told(details={name: value}))
    assert status == 1
    assert {code for code, _, _ in found(document)} == {"mechanism"}
    assert all(one["text"].startswith(name) for one in document["findings"])


def test_another_purpose_than_the_journals_is_found(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    books.write_run(Told())
    for site in SITES:
        books.write_ledger(site, Told())
    journal = (books.run / "events.jsonl").read_bytes()
    (books.run / "events.jsonl").write_bytes(journal.replace(b'"purpose":"describe"', b'"purpose":"evaluate"'))
    status, document = compare(capsys, books.run, *books.ledgers)
    assert (status, found(document)) == (1, [("purpose", site, [1]) for site in SITES])


def test_more_rounds_than_the_plan_allows_are_found(
    tmp_path: Path, roster: Roster, make_plan: Callable[..., Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(
        {"rounds": 2, "max_train": 2, "max_round": 3, "max_evaluate": 0, "max_describe": 1}, roster_digest=roster.digest
    )
    status, document = differing(TwoBooks(tmp_path, roster, plan), capsys, Told())
    assert status == 1
    assert [one for one in found(document) if one[1] == "a"] == [("limit", "a", [4]), ("limit", "a", [4]), ("above-plan", "a", [])]


def test_two_plans_under_one_name_are_found(books: TwoBooks, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    other = TwoBooks(tmp_path / "other", books.roster, replace(books.plan, histogram_bins=12)).write()
    status, document = compare(capsys, other.run, *books.ledgers)
    assert status == 1
    assert [one for one in found(document) if one[0] == "plan"] == [("plan", site, [1, 2, 3, 4]) for site in SITES]


def test_rounds_over_fewer_sites_are_named_with_the_journals_reason(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = differing(books, capsys, Told(lost={2: {"d": "LATE"}, 3: {"d": "LATE"}}))
    assert status == 0
    assert found(document) == [("fewer-sites", "", [2, 3])]
    assert document["findings"][0]["text"] == "3 of 4 sites in the sum, without d (LATE at update)"


def test_an_update_that_left_and_was_left_out_is_named(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    told = Told(lost={2: {"d": "LATE"}, 3: {"d": ""}}, left=[("d", number) for number in ROUNDS])
    status, document = differing(books, capsys, told)
    assert status == 1
    assert [one for one in found(document) if one[1] == "d"] == [("left-out-silently", "d", [3]), ("left-out", "d", [2])]


def test_an_update_without_a_charge_is_found(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    told = Told(uncharged=(("d", 3),), left=[("d", number) for number in ROUNDS])
    status, document = differing(books, capsys, told)
    assert status == 1
    assert [one for one in found(document) if one[1] == "d"] == [("spend-missing", "d", [3]), ("uncharged", "d", [3])]


def test_a_counted_update_that_the_site_never_sent_is_found(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = differing(books, capsys, Told(left=[("d", 1), ("d", 2), ("d", 4)]))
    assert (status, found(document)) == (1, [("unlisted", "d", [3])])


def test_a_manifest_that_the_ledger_does_not_vouch_for_is_found(
    books: TwoBooks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    books.write(Told(left=[("d", number) for number in ROUNDS]))
    line = {"run": books.plan.run_id, "plan": books.plan.digest.hex(), "round": 2, "kind": "update (train)", "parts": []}
    manifest = tmp_path / "egress.jsonl"
    manifest.write_text(json.dumps(line) + "\n", "ascii")
    status, document = compare(capsys, books.run, *books.ledgers, "--egress", "d", manifest)
    assert status == 1
    assert ("manifest", "d", []) in found(document)


def published(books: TwoBooks, site: str, epsilon: float, entries: int) -> EpsilonPublished:
    lines, _ = read_entries(books.ledger(site).read_bytes())
    head = lines[min(entries, len(lines)) - 1].hash
    return EpsilonPublished(site, 4, books.plan.privacy.delta, epsilon, entries, head, "2026-11-21T10:00:00Z")


def claimed_after(path: Path) -> float:
    records = [entry.content for entry in read_entries(path.read_bytes())[0] if isinstance(entry.content, SpendRecord)]
    return records[-1].epsilon_after


def test_a_published_epsilon_is_checked_against_the_ledger(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    for site in SITES:
        books.write_ledger(site, Told())
    true = claimed_after(books.ledger("a"))
    same, other, longer = published(books, "a", true, 6), published(books, "b", true / 2, 6), published(books, "c", true, 9)
    books.write_run(Told(more=(same, other, longer)))
    status, document = compare(capsys, books.run, *books.ledgers)
    assert status == 1
    assert found(document) == [("receipt", "b", []), ("receipt", "c", [])]


def test_a_receipt_in_the_folder_is_checked_with_the_sites_key(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    lines, _ = read_entries(books.ledger("a").read_bytes())
    said = EpsilonStatement("a", books.plan.digest, books.plan.privacy.delta, 0.01, 6, lines[-1].hash, "2026-11-21T10:00:00Z")
    (books.run / "receipts").mkdir()
    (books.run / "receipts" / "a.statement").write_bytes(sign_statement(said, key_of("a")).encode())
    status, document = compare(capsys, books.run, *books.ledgers)
    assert (status, found(document)) == (1, [("receipt", "a", [])])
    (books.run / "receipts" / "a.statement").write_bytes(sign_statement(said, LEAD).encode())
    status, document = compare(capsys, books.run, *books.ledgers)
    assert (status, found(document)) == (1, [("folder", "", [])])


def test_a_ledger_under_another_key_than_the_rosters_is_found(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    members = tuple(
        replace(member, identity_key=key_of("z").public) if member.id == "a" else member for member in books.roster.members
    )
    status, document = differing(replace(books, roster=replace(books.roster, members=members)), capsys, Told())
    assert status == 1
    assert ("key", "a", []) in found(document)


def test_the_key_of_the_runs_time_counts_whatever_came_later(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    with Ledger.open(books.ledger("a"), key_of("a"), NOW) as ledger:
        ledger.rotate(key_of("z"), roster_version=2, roster_digest=bytes(32), now=NOW)
    assert compare(capsys, books.run, *books.ledgers)[0] == 0


def test_charges_that_another_key_of_the_site_signed_are_found(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    entries, _ = read_entries(books.ledger("a").read_bytes())
    for path in (books.ledger("a"), head_path(books.ledger("a"))):
        path.unlink()
    split = entries[0].body["split_id"]
    with Ledger.create(
        books.ledger("a"), key_of("z"), consortium="ms-north", site="a", population="p", split_id=str(split), now=NOW
    ) as ledger:
        for entry in entries[1:]:
            if isinstance(entry.content, SpendRecord):
                ledger.spend(entry.content.details, entry.content.spends, NOW)
            else:
                ledger.append(entry.kind, entry.content, NOW)
        ledger.rotate(key_of("a"), roster_version=2, roster_digest=bytes(32), now=NOW)
    status, document = compare(capsys, books.run, *books.ledgers)
    assert (status, found(document)) == (1, [("key", "a", [1, 2, 3, 4])])


def test_two_copies_of_a_ledger_that_part_are_found(books: TwoBooks, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    (tmp_path / "fork").mkdir()
    forked = TwoBooks(tmp_path / "fork", books.roster, books.plan)
    forked.write_ledger("a", Told(models={("a", 2): OTHER}))
    status, document = compare(capsys, books.run, *books.ledgers, forked.ledger("a"))
    assert status == 1
    assert found(document)[0][0] == "fork"


def test_a_damaged_ledger_is_named_and_compared_up_to_the_damage(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    path = books.ledger("b")
    path.write_bytes(path.read_bytes().replace(b'"round":4', b'"round":5'))
    status, document = compare(capsys, books.run, *books.ledgers)
    assert status == 1
    assert found(document) == [("ledger", "b", []), ("spend-missing", "b", [4])]


def test_a_journal_that_contradicts_itself_is_found(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = differing(books, capsys, Told(more=(RoundAttempt(2, "train", 1, model_of(2)),)))
    assert (status, found(document)) == (1, [("folder", "", [])])
    assert "asks for round 2 a second time" in document["findings"][0]["text"]


def test_a_journal_with_lines_taken_out_is_refused_by_line(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    lines = (books.run / "events.jsonl").read_bytes().splitlines(keepends=True)
    (books.run / "events.jsonl").write_bytes(b"".join(lines[:4] + lines[6:]))
    assert main(["compare", str(books.run), *map(str, books.ledgers)]) == 1
    assert "events.jsonl line 5" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["plan.signed", "roster.signed", "events.jsonl"])
def test_no_flipped_byte_of_a_run_folder_ends_in_a_traceback_or_in_silence(
    name: str, books: TwoBooks, capsys: pytest.CaptureFixture[str]
) -> None:
    books.write()
    whole = (books.run / name).read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        (books.run / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        status = main(["compare", str(books.run), *map(str, books.ledgers)])
        said = capsys.readouterr()
        if name != "events.jsonl":  # a journal is not signed: a changed time or size contradicts nothing
            assert status == 1, f"byte {at}: {said}"
        assert status in (0, 1)


def test_sites_without_a_ledger_are_said_to_be_left_unlooked_at(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    status, document = compare(capsys, books.run, books.ledger("a"), books.ledger("b"))
    assert (status, found(document)) == (0, [("not-given", "", [])])
    assert document["findings"][0]["text"] == "c, d"
    assert [row["charged"] for row in document["rows"]] == [4, 4, None, None]


def test_one_run_alone_can_be_looked_at(books: TwoBooks, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    shown = TwoBooks(tmp_path / "other", books.roster, replace(books.plan, run_id="run-2")).write()
    status, document = compare(capsys, books.run.parent, shown.run, *books.ledgers, "--run", books.plan.run_id)
    assert (status, document["findings"]) == (0, [])
    assert [run["run"] for run in document["runs"]] == ["run-1"]


def test_what_is_missing_is_wrong_usage(books: TwoBooks, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, said in (
        ([books.run], "no ledger was given"),
        (books.ledgers, "no run folder was given"),
        ([books.run, tmp_path / "none"], "cannot read"),
        ([books.run, empty], "no folder of a run"),
        ([books.run, *books.ledgers, "--founders", "abc"], "a fingerprint is 8 groups"),
        ([books.run, *books.ledgers, "--run", "run-9"], "neither a folder nor a ledger names it"),
        ([books.run, *books.ledgers, "--egress", "x", books.ledger("a")], "--egress x"),
    ):
        assert main(["compare", *map(str, arguments)]) == 2, said
        assert said in capsys.readouterr().err


def test_the_words_say_what_a_finding_can_and_cannot_mean(books: TwoBooks, capsys: pytest.CaptureFixture[str]) -> None:
    books.write(Told(unjournaled=(3,)))
    assert main(["compare", str(books.run), *map(str, books.ledgers)]) == 1
    printed = capsys.readouterr().out
    assert "DISAGREE in 4 findings" in printed
    assert "PROBLEM a round that the coordinator does not show: run run-1, a, round 3" in printed
    assert MEANINGS["round-unknown"].can_mean in printed
    assert MEANINGS["round-unknown"].cannot_mean in printed


def test_round_numbers_are_written_as_ranges() -> None:
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert ranges([]) == ""
