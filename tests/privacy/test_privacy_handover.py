"""A ledger over several keys: an auditor with any of them follows the chain, and nothing else is taken for a handover."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from consortium.identity import SigningKey, fingerprint
from privacy import cli
from privacy.entries import Content, KeyReplaced, KeyRotated, RunNote, make_entry
from privacy.errors import LedgerError
from privacy.handover import Keys, rotated
from privacy.ledger import Ledger, Replacement, head_path, read_entries, read_keys
from privacy.verify import compare, verify_ledger

from .conftest import DELTA, KEY, NOW, PLAN_DIGEST, TRAIN, details, make_ledger
from .test_privacy_ledger_faults import Crash, crash_after

SECOND, THIRD, STRANGER = (SigningKey.from_seed(bytes([number]) * 32) for number in (2, 3, 4))
ROSTER = bytes([5]) * 32
NOTE = RunNote(PLAN_DIGEST, "run-1", "note", "text")
LOST = Replacement(3, ROSTER, "disk broke")


@pytest.fixture
def handed(tmp_path: Path) -> Path:
    """Two rounds by the first key, two by the second, one by the third."""
    path = make_ledger(tmp_path, rounds=2)
    with Ledger.open(path, KEY, NOW) as ledger:
        ledger.rotate(SECOND, roster_version=2, roster_digest=ROSTER, now=NOW)
        for number in (3, 4):
            ledger.spend(details(number), (TRAIN,), NOW)
        ledger.rotate(THIRD, roster_version=5, roster_digest=ROSTER, now=NOW)
    with Ledger.open(path, THIRD, NOW) as ledger:
        ledger.spend(details(5), (TRAIN,), NOW)
    return path


def test_every_key_of_the_chain_verifies_the_whole_ledger_and_no_other_does(handed: Path) -> None:
    data, head = handed.read_bytes(), head_path(handed).read_bytes()
    for key in (KEY, SECOND, THIRD):
        assert verify_ledger(data, key.public, head).problems == ()
    assert "another site's ledger" in verify_ledger(data, STRANGER.public, head).problems[0]


def test_the_report_says_when_which_key_took_over(handed: Path) -> None:
    report = verify_ledger(handed.read_bytes())
    assert report.keys == tuple(fingerprint(key.public) for key in (KEY, SECOND, THIRD))
    assert report.fingerprint == fingerprint(THIRD.public)
    assert [(over.entry, over.roster_version, over.vouched) for over in report.handovers] == [(3, 2, True), (6, 5, True)]
    assert [text for text in report.remarks if "handed over" in text] == [
        f"ledger entry {over.entry}: {over.words}" for over in report.handovers
    ]


def test_each_entry_has_the_key_of_its_time(handed: Path) -> None:
    keys = Keys.of(read_entries(handed.read_bytes())[0])
    signers = [KEY] * 4 + [SECOND] * 3 + [THIRD]
    assert [keys.at(entry) for entry in range(8)] == [key.public for key in signers]


def test_what_was_spent_goes_on_over_every_key(handed: Path) -> None:
    with Ledger.open(handed, THIRD, NOW) as ledger:
        alone = Ledger.open(make_ledger(handed.parent, rounds=2, name="alone.jsonl"), KEY, NOW)
        assert ledger.epsilon(DELTA) > alone.epsilon(DELTA) > 0.0
        assert ledger.last_round(PLAN_DIGEST) == 5
        alone.close()


def test_a_retired_key_opens_the_ledger_no_more_and_is_told_which_one_does(handed: Path) -> None:
    with pytest.raises(LedgerError, match=f"was handed over from key {fingerprint(KEY.public)}.*{fingerprint(THIRD.public)}"):
        Ledger.open(handed, KEY, NOW)
    with pytest.raises(LedgerError, match="another site's ledger"):
        Ledger.open(handed, STRANGER, NOW)


def appended(path: Path, content: Callable[[bytes], Content], key: SigningKey) -> bytes:
    """The ledger's bytes with one more line, signed by `key` and well chained. `content`: from the hash of the last entry."""
    entries, _ = read_entries(path.read_bytes())
    entry = make_entry(len(entries), content(entries[-1].hash), previous=entries[-1].hash, now=NOW, key=key)
    return path.read_bytes() + entry.line + b"\n"


def valid(old: SigningKey, new: SigningKey) -> Callable[[bytes], KeyRotated]:
    return lambda previous: rotated(old, new, previous, roster_version=9, roster_digest=ROSTER)


@pytest.mark.parametrize(
    ("content", "key", "why"),
    [
        (lambda _: NOTE, KEY, "not signed by the ledger's key"),
        (lambda _: NOTE, SECOND, "not signed by the ledger's key"),
        (valid(THIRD, STRANGER), STRANGER, "not signed by the ledger's key"),
        (valid(THIRD, STRANGER), SECOND, "not signed by the ledger's key"),
        (valid(SECOND, STRANGER), SECOND, "a fork"),
        (valid(THIRD, KEY), THIRD, "retired before"),
        (lambda previous: replace(valid(THIRD, STRANGER)(previous), proof=bytes(64)), THIRD, "did not prove"),
        (lambda _: valid(THIRD, STRANGER)(bytes(32)), THIRD, "did not prove"),
        (lambda previous: replace(valid(THIRD, STRANGER)(previous), roster_digest=bytes(32)), THIRD, "did not prove"),
        (lambda _: KeyReplaced(THIRD.public, STRANGER.public, 9, ROSTER, "lost"), THIRD, "not signed by the ledger's key"),
        (lambda _: KeyReplaced(KEY.public, STRANGER.public, 9, ROSTER, "lost"), STRANGER, "a fork"),
    ],
)
def test_what_a_key_out_of_force_signs_and_what_no_new_key_proves_is_refused(
    handed: Path, content: Callable[[bytes], Content], key: SigningKey, why: str
) -> None:
    """Entries of retired and of future keys, handovers by others, from others, back, and without or with another's proof."""
    data = appended(handed, content, key)
    with pytest.raises(LedgerError, match=why) as caught:
        read_entries(data)
    report = verify_ledger(data, KEY.public)
    assert (caught.value.entry, report.first_bad) == (8, 8)
    assert why in report.problems[0]


def test_nobody_hands_his_ledger_to_another_sites_key(tmp_path: Path) -> None:
    """Else a forged ledger would end in the key that an auditor was told, which never signed anything in it."""
    path = make_ledger(tmp_path, rounds=1)
    forged = appended(path, lambda previous: replace(valid(KEY, STRANGER)(previous), new_key=THIRD.public), KEY)
    assert "did not prove" in verify_ledger(forged, THIRD.public).problems[0]


def test_two_handovers_of_one_ledger_are_a_fork_of_its_copies(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=2)
    one, other = (appended(path, valid(KEY, key), KEY) for key in (SECOND, THIRD))
    assert verify_ledger(one).ok
    assert verify_ledger(other).ok
    assert "one of them is a fork" in compare([one, other])[0]


@pytest.mark.parametrize("calls", range(5))
def test_a_crash_between_any_two_disk_calls_leaves_one_key_in_force(tmp_path: Path, calls: int) -> None:
    path = make_ledger(tmp_path, rounds=2)
    ledger, returned = Ledger.open(path, KEY, NOW), False
    before = ledger.epsilon(DELTA)
    with pytest.MonkeyPatch.context() as patch:
        crash_after(patch, calls)
        try:
            ledger.rotate(SECOND, roster_version=2, roster_digest=ROSTER, now=NOW)
            returned = True
        except Crash:
            pass
    ledger.close()
    assert returned == (calls == 4)
    in_force = read_keys(path).in_force
    assert in_force == SECOND.public if returned else in_force in (KEY.public, SECOND.public)
    with Ledger.open(path, KEY if in_force == KEY.public else SECOND, NOW) as again:
        assert again.epsilon(DELTA) >= before
        again.spend(details(3), (TRAIN,), NOW)
    assert verify_ledger(path.read_bytes(), KEY.public, head_path(path).read_bytes()).problems == ()


def test_a_key_that_goes_on_alone_is_a_problem_until_the_reader_was_told_of_it(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=2)
    with Ledger.take_over(path, SECOND, NOW, LOST) as ledger:
        spent = ledger.epsilon(DELTA)
        ledger.spend(details(3), (TRAIN,), NOW)
        assert ledger.epsilon(DELTA) > spent > 0.0  # nothing came back
    data = path.read_bytes()
    for key in (None, KEY.public, SECOND.public):
        report = verify_ledger(data, key)
        assert report.first_bad == 3
        assert "NOT vouched for by the old key: disk broke" in report.problems[0]
        assert not verify_ledger(data, key, accepted=[fingerprint(STRANGER.public)]).ok
        assert verify_ledger(data, key, accepted=[fingerprint(SECOND.public)]).ok


def test_the_auditors_command_follows_the_chain_and_asks_for_what_was_told(
    handed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in (KEY, SECOND, THIRD):
        assert cli.main(["verify", str(handed), "--key", fingerprint(key.public)]) == 0
    assert cli.main(["verify", str(handed), "--key", fingerprint(STRANGER.public)]) == 1
    assert cli.main(["show", str(handed)]) == 0
    assert "handed over from key" in capsys.readouterr().out
    lost = make_ledger(handed.parent, rounds=1, name="lost.jsonl")
    Ledger.take_over(lost, SECOND, NOW, LOST).close()
    assert cli.main(["verify", str(lost)]) == 1
    assert cli.main(["verify", str(lost), "--accept-replaced", fingerprint(SECOND.public)]) == 0
    with pytest.raises(SystemExit):
        cli.main(["verify", str(lost), "--accept-replaced", "yes"])
