"""A site changes its keys in the middle of a consortium: no gap, no second ledger, whatever is killed when."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from guards_in_process import NOW, SITES, Consortium, RecordedTrain, Run, code_of

from client import rotation
from client.cli import main
from client.clock import utc
from client.daemon import open_site
from client.errors import ConfigError
from client.guard import Guard
from client.home import Home
from client.plans import PlanStore
from client.rotation import prepare
from consortium.approval import Approval
from consortium.documents import Signed
from consortium.errors import KeyFileError, SignatureError
from consortium.identity import SigningKey, fingerprint
from consortium.roster import Roster, sign_roster
from privacy.entries import KeyReplaced, KeyRotated, SpendRecord
from privacy.errors import LedgerError
from privacy.ledger import head_path, read_entries, read_keys
from privacy.verify import verify_ledger
from server.errors import ServerError
from server.rotation import read_request, rotate_site

SITE = SITES[0]


def with_new_keys(consortium: Consortium, *, key_lost: str = "") -> Signed:
    """`SITE` asks for new keys, the lead takes them; the roster that all are about to get."""
    asked = prepare(consortium.home(SITE), SITE, key_lost=key_lost)
    next_roster = rotate_site(consortium.roster, read_request(asked.file), asked.fingerprint, key_lost=bool(key_lost))
    return sign_roster(next_roster, "founder", consortium.founder)


def take(consortium: Consortium, signed: Signed) -> Roster:
    for site in SITES:
        consortium.home(site).follow_roster(signed, consortium.pin)
    consortium.roster = signed.document(Roster)
    return consortium.roster


def train(consortium: Consortium, run_id: str) -> Run:
    """A round of a new plan under the roster in force, which needs every site's key and signature."""
    run = Run(consortium, consortium.sign(consortium.plan(run_id=run_id)))
    run.round(run.epoch(), 1)
    return run


def contents(home: Home) -> list[object]:
    return [entry.content for entry in read_entries(home.ledger.read_bytes())[0]]


def test_asking_for_new_keys_changes_nothing_and_asking_again_asks_for_the_same(consortium: Consortium) -> None:
    home = consortium.home(SITE)
    before = {path: path.read_bytes() for path in (home.identity, home.transport_key, home.ledger, home.roster)}
    first, again = prepare(home, SITE), prepare(home, SITE)
    assert first == again
    assert first.old == fingerprint(home.load_identity().public) != first.fingerprint
    assert {path: path.read_bytes() for path in before} == before
    train(consortium, "run-1")  # with the old keys


def test_a_command_that_was_killed_while_it_made_keys_is_simply_given_again(consortium: Consortium) -> None:
    home = consortium.home(SITE)
    home.next_keys.mkdir()
    (home.next_keys / ".identity.pem.draft").write_bytes(b"half a key")
    (home.next_keys / "supernode.key").write_bytes(b"half a key")
    assert rotate_site(consortium.roster, read_request((asked := prepare(home, SITE)).file), asked.fingerprint, key_lost=False)


def test_a_running_guard_switches_at_the_first_message_under_the_new_roster(consortium: Consortium) -> None:
    home = consortium.home(SITE)
    old, old_gateway = home.load_identity().public, home.transport_key.read_bytes()
    train(consortium, "run-1")
    spent = consortium.spends()
    roster = take(consortium, with_new_keys(consortium))
    train(consortium, "run-2")  # the other sites and the coordinator check the new key's signatures
    new = home.load_identity().public
    assert new == roster.member(SITE).identity_key != old
    assert home.transport_key.read_bytes() != old_gateway
    assert home.transport_key.with_suffix(".pub").read_text().strip() == roster.member(SITE).transport_key
    assert not any(home.next_keys.iterdir())
    assert home.retired_keys() == (old,)
    rotated = [content for content in contents(home) if isinstance(content, KeyRotated)]
    assert [(one.old_key, one.new_key, one.roster_digest) for one in rotated] == [(old, new, roster.digest)]
    assert consortium.spends() == spent + 1
    for key in (old, new):
        assert verify_ledger(home.ledger.read_bytes(), key).problems == ()


def test_a_guard_that_was_not_running_switches_when_it_starts(consortium: Consortium) -> None:
    take(consortium, with_new_keys(consortium))
    train(consortium, "run-1")
    assert contents(consortium.home(SITE))[1] == contents(consortium.home(SITE))[1]
    assert isinstance(contents(consortium.home(SITE))[1], KeyRotated)


def test_a_plan_of_the_old_roster_ends_and_is_charged_to_the_old_key_alone(consortium: Consortium) -> None:
    old = consortium.run()
    phase = old.open_round(old.epoch(), 1)
    signed = with_new_keys(consortium)
    consortium.train[SITE].before = lambda job: take(consortium, signed) and None  # type: ignore[attr-defined]
    assert code_of(old.update(phase, SITE)) == "ROSTER"
    keys = read_keys(consortium.home(SITE).ledger)
    entries = read_entries(consortium.home(SITE).ledger.read_bytes())[0]
    charged = [entry.index for entry in entries if isinstance(entry.content, SpendRecord)]
    assert [keys.at(index) for index in charged] == [keys.known[0]]


class Killed(BaseException):
    """The process ends here."""


def killed_after(patch: pytest.MonkeyPatch, calls: int) -> list[str]:
    """From now on the `calls`-th call that changes the disk is the last one; the names of those that were made."""
    made: list[str] = []

    def counted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            if len(made) >= calls:
                raise Killed
            made.append(name)
            return real(*arguments, **options)

        return call

    for name in ("pwrite", "fsync", "replace", "link", "unlink"):
        patch.setattr(os, name, counted(name, getattr(os, name)))
    return made


def opened(home: Home) -> Guard:
    return Guard(replace(open_site(home, site=SITE, tasks=("cis_conversion",), train=RecordedTrain(), now=NOW), now=lambda: NOW))


def test_killed_between_any_two_steps_of_the_switch_the_next_start_brings_it_to_its_end(consortium: Consortium) -> None:
    train(consortium, "run-1")
    whole = consortium.home(SITE)
    old, spent = whole.load_identity().public, consortium.spends()
    consortium.stop(SITE)
    asked = prepare(whole, SITE)
    roster = rotate_site(consortium.roster, read_request(asked.file), asked.fingerprint, key_lost=False)
    signed, calls, handed_over = sign_roster(roster, "founder", consortium.founder), 0, 0
    while True:  # one copy of the site for each number of calls, until the switch is through
        home = Home(shutil.copytree(whole.root, consortium.folder / f"killed-{calls}"))
        guard = opened(home)
        home.follow_roster(signed, consortium.pin)
        with pytest.MonkeyPatch.context() as patch:
            made = killed_after(patch, calls)
            with contextlib.suppress(Killed):
                guard._follow_roster()
        guard._site.ledger.close()
        through = len(made) < calls
        handed_over += read_keys(home.ledger).in_force != old
        opened(home)._site.ledger.close()
        assert fingerprint(home.load_identity().public) == asked.fingerprint
        assert home.transport_key.with_suffix(".pub").read_text().strip() == roster.member(SITE).transport_key
        assert home.retired_keys() == (old,)
        assert list(home.next_keys.iterdir()) == []
        report = verify_ledger(home.ledger.read_bytes(), old, head_path(home.ledger).read_bytes())
        assert report.problems == ()
        assert len(report.handovers) == 1  # what was written stands, and is not written twice
        assert home.ledger.read_bytes().count(b'"kind":"spend"') == spent
        if through:
            break
        calls += 1
    assert handed_over == calls > 10  # killed before the entry was there, and then after it at every step


def test_an_old_key_file_beside_a_ledger_that_was_handed_over_says_so(consortium: Consortium) -> None:
    home = consortium.home(SITE)
    old = home.identity.read_bytes()
    roster = take(consortium, with_new_keys(consortium))
    train(consortium, "run-1")
    consortium.stop(SITE)
    home.identity.write_bytes(old)
    with pytest.raises(LedgerError, match=f"handed over from key .* put back the identity key.*{_fp(roster)}"):
        consortium.guard(SITE)


def _fp(roster: Roster) -> str:
    return fingerprint(roster.member(SITE).identity_key)


def test_a_key_that_no_roster_lists_opens_nothing(consortium: Consortium) -> None:
    home = consortium.home(SITE)
    home.identity.unlink()
    SigningKey.generate().save(home.identity)
    with pytest.raises(LedgerError, match="another site's ledger"):
        consortium.guard(SITE)


def test_a_decision_of_before_stands_and_lets_nothing_train_under_the_new_roster(consortium: Consortium) -> None:
    run = train(consortium, "run-1")
    home, key = consortium.home(SITE), consortium.home(SITE).load_identity()
    PlanStore(home.plans, SITE, key.public).decide(Approval(run.signed.digest, SITE, "approve", "", "yes", utc(NOW)), key)
    take(consortium, with_new_keys(consortium))
    assert code_of(run.ask_keys(SITE, 9)) == "ROSTER"
    store = PlanStore(home.plans, SITE, home.load_identity().public, home.retired_keys())
    decision = store.decision(run.signed.digest)
    assert decision is not None
    assert decision.reason == "yes"


def test_a_lost_key_is_replaced_and_every_spend_stays(consortium: Consortium) -> None:
    train(consortium, "run-1")
    home, spent = consortium.home(SITE), consortium.spends()
    consortium.stop(SITE)
    old = home.load_identity().public
    home.identity.unlink()
    with pytest.raises(KeyFileError):
        consortium.guard(SITE)
    with pytest.raises(KeyFileError):
        prepare(home, SITE)
    take(consortium, with_new_keys(consortium, key_lost="the disk broke"))
    train(consortium, "run-2")
    replaced = [content for content in contents(home) if isinstance(content, KeyReplaced)]
    assert [(one.old_key, one.reason) for one in replaced] == [(old, "the disk broke")]
    assert consortium.spends() == spent + 1
    data = home.ledger.read_bytes()
    assert "NOT vouched for" in verify_ledger(data).problems[0]
    assert verify_ledger(data, accepted=[fingerprint(home.load_identity().public)]).ok
    assert verify_ledger(data, accepted=home.fingerprints()).ok  # as its own `check` asks


def test_a_key_that_was_found_again_vouches_for_the_next_one(consortium: Consortium) -> None:
    home = consortium.home(SITE)
    prepare(home, SITE, key_lost="the disk broke")
    take(consortium, with_new_keys(consortium))
    train(consortium, "run-1")
    assert [type(content) for content in contents(home) if isinstance(content, KeyReplaced | KeyRotated)] == [KeyRotated]


def test_no_change_of_keys_makes_a_second_ledger(consortium: Consortium) -> None:
    home = consortium.home(SITE)
    consortium.stop(SITE)
    home.identity.unlink()
    home.ledger.unlink()
    with pytest.raises(LedgerError, match="restore ledger and head"):
        prepare(home, SITE, key_lost="gone")


@pytest.mark.parametrize("reason", ["line\nbreak", "é", "x" * 201])
def test_the_reason_that_auditors_read_is_plain_text(consortium: Consortium, reason: str) -> None:
    with pytest.raises(ConfigError, match="printable ASCII"):
        prepare(consortium.home(SITE), SITE, key_lost=reason)


def edited(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def test_the_lead_takes_only_what_the_old_key_signed_and_what_was_told(consortium: Consortium) -> None:
    asked = prepare(consortium.home(SITE), SITE)
    request = read_request(asked.file)
    with pytest.raises(ServerError, match="telephone the site"):
        rotate_site(consortium.roster, request, asked.old, key_lost=False)
    alone = Signed(request.kind, request.body, tuple(pair for pair in request.signatures if pair[0] != SITE))
    with pytest.raises(SignatureError, match="the old key did not sign"):
        rotate_site(consortium.roster, alone, asked.fingerprint, key_lost=False)
    without_new = Signed(request.kind, request.body, tuple(pair for pair in request.signatures if pair[0] == SITE))
    with pytest.raises(SignatureError, match="the new key did not sign"):
        rotate_site(consortium.roster, without_new, asked.fingerprint, key_lost=True)
    with pytest.raises(SignatureError, match="another key than roster version 2"):
        rotate_site(
            rotate_site(consortium.roster, request, asked.fingerprint, key_lost=False), request, asked.fingerprint, key_lost=False
        )
    other = replace(consortium.roster, consortium="another")
    with pytest.raises(SignatureError, match="not a site of another"):
        rotate_site(other, request, asked.fingerprint, key_lost=False)
    with pytest.raises(ServerError, match="no request to change keys"):
        read_request(edited(asked.file, request="00"))


def test_the_command_says_what_to_do_next(consortium: Consortium, capsys: pytest.CaptureFixture[str]) -> None:
    home = consortium.home(SITE)
    assert main(["--home", str(home.root), "rotate"]) == 0
    said = capsys.readouterr().out
    asked = prepare(home, SITE)
    assert asked.fingerprint in said
    assert rotation.REQUEST in said
    assert "restart the gateway" in said
