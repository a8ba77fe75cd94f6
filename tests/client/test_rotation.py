"""A site changes its keys in the middle of a consortium: no gap, no second ledger, whatever is killed when."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from guards_in_process import ENDLESS, NOW, SITES, Consortium, RecordedTrain, Run, code_of
from invites import invite_to

from client import page_views as views
from client import rotation
from client.cli import main
from client.cli_roster import roster_document
from client.clock import utc
from client.daemon import open_site
from client.departure import read_notice
from client.enrol import join_by_invite
from client.errors import ConfigError
from client.guard import Guard
from client.home import Home
from client.plans import PlanStore
from client.rotation import prepare
from client.status import site_status
from client.steward import plan_facts, plan_store
from consortium.approval import Approval
from consortium.documents import Signed
from consortium.errors import DocumentError, KeyFileError, SignatureError
from consortium.identity import SigningKey, fingerprint
from consortium.leave import LeaveNotice
from consortium.roster import Roster, sign_roster
from consortium.rotation import RotateRequest, sign_request
from privacy.entries import KeyReplaced, KeyRotated, SpendRecord
from privacy.errors import LedgerError
from privacy.ledger import Ledger, head_path, read_entries, read_keys
from privacy.verify import verify_ledger
from server.enrolment import add_sites, read_join_request
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
    taken = rotate_site(consortium.roster, request, asked.fingerprint, key_lost=False)
    third = SigningKey.from_seed(b"3" * 32)
    changed = replace(request.document(RotateRequest), identity_key=third.public)
    stale = sign_request(changed, third, consortium.home(SITE).load_identity())
    with pytest.raises(SignatureError, match="another key than roster version 2"):
        rotate_site(taken, stale, fingerprint(third.public), key_lost=False)
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
    assert "guard and gateway switch by themselves" in said
    home.identity.unlink()
    assert main(["--home", str(home.root), "rotate", "--key-lost", "the disk broke"]) == 0
    assert "join with a new invite from the lead" in capsys.readouterr().out


# -- beside enrolment --------------------------------------------------------------------------------------------------


def test_new_keys_are_taken_however_they_were_told_and_asked_twice_there_is_no_second_version(consortium: Consortium) -> None:
    asked = prepare(consortium.home(SITE), SITE)
    request, told = read_request(asked.file), asked.fingerprint.upper().replace("-", " ")
    taken = rotate_site(consortium.roster, request, told, key_lost=False)
    assert rotate_site(taken, request, told, key_lost=False) is taken


def test_a_site_that_comes_back_is_added_with_the_keys_that_it_changed_to(consortium: Consortium) -> None:
    home = consortium.home(SITE)
    roster = take(consortium, with_new_keys(consortium))
    train(consortium, "run-1")
    member = read_join_request(home.root / "join-request.json")
    assert member == roster.member(SITE)
    without = replace(roster, version=3, members=tuple(one for one in roster.members if one.id != SITE))
    back = add_sites(without, [(member, fingerprint(member.identity_key))], former={SITE: roster.member(SITE)})
    assert back.members == roster.members


def test_a_site_that_was_taken_off_for_a_stolen_key_comes_back_with_new_keys_and_its_ledger(consortium: Consortium) -> None:
    train(consortium, "run-1")
    first, spent = consortium.roster, consortium.spends()
    without = replace(first, version=2, members=tuple(one for one in first.members if one.id != SITE))
    for site in SITES:
        consortium.home(site).follow_roster(sign_roster(without, "founder", consortium.founder), consortium.pin)
    asked = prepare(consortium.home(SITE), SITE)
    with pytest.raises(DocumentError, match="not on the roster"):
        rotate_site(without, read_request(asked.file), asked.fingerprint, key_lost=False)
    former = {SITE: first.member(SITE)}
    back = rotate_site(without, read_request(asked.file), asked.fingerprint, key_lost=False, former=former)
    assert (back.version, fingerprint(back.member(SITE).identity_key)) == (3, asked.fingerprint)
    take(consortium, sign_roster(back, "founder", consortium.founder))
    train(consortium, "run-2")
    assert consortium.spends() == spent + 1


def test_a_site_without_its_old_key_gets_the_roster_by_an_invite(consortium: Consortium) -> None:
    home = consortium.home(SITE)
    train(consortium, "run-1")
    consortium.stop(SITE)
    home.identity.unlink()
    signed = with_new_keys(consortium, key_lost="the disk broke")
    invite = invite_to(signed, "lead-a", consortium.lead)
    join_by_invite(home, invite, told_founders=consortium.pin, now=NOW)
    take(consortium, signed)
    train(consortium, "run-2")


def test_a_notice_of_leaving_verifies_also_after_a_change_of_keys_and_no_change_begins_after_it(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    home = consortium.home(SITE)
    consortium.guard()
    signed = with_new_keys(consortium)
    assert main(["--home", str(home.root), "leave", "--reason", "the study ended", "--yes"]) == 0
    take(consortium, signed)
    consortium.restart(SITE)
    assert home.retired_keys() != ()
    assert read_notice(home).document(LeaveNotice).site == SITE
    assert main(["--home", str(home.root), "rotate"]) == 2
    assert "left the consortium for good" in capsys.readouterr().err


def test_a_roster_that_a_full_disk_keeps_from_being_in_force_is_taken_and_offered_until_it_is(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, signed = consortium.guard(), with_new_keys(consortium)

    def full(*_: object, **__: object) -> None:
        raise LedgerError("not written, the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "rotate", full)
        assert guard.offer_roster(signed.encode()) == ("taken", 2)
        assert guard.status()["roster"] == "1"  # so that it is offered again: with the old key no message comes
    assert fingerprint(consortium.home(SITE).load_identity().public) != _fp(signed.document(Roster))
    assert guard.offer_roster(signed.encode()) == ("known", 2)
    assert guard.status()["roster"] == "2"
    assert fingerprint(consortium.home(SITE).load_identity().public) == _fp(signed.document(Roster))
    take(consortium, signed)
    train(consortium, "run-1")


def test_a_roster_that_a_command_took_switches_the_keys_when_the_gateway_brings_it_too(consortium: Consortium) -> None:
    """No message may do it: the hub has shut the old gateway key out already."""
    guard, signed = consortium.guard(), with_new_keys(consortium)
    consortium.home(SITE).follow_roster(signed, consortium.pin)
    assert guard.offer_roster(signed.encode()) == ("known", 2)
    assert fingerprint(consortium.home(SITE).load_identity().public) == _fp(signed.document(Roster))


def test_a_plan_of_an_earlier_roster_is_said_to_be_over_and_waits_for_nobody(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    home = consortium.home(SITE)
    consortium.policy(ENDLESS.replace("auto_approve: true", "auto_approve: false"))
    assert code_of(consortium.run().ask_keys(SITE, 1)) == "NOT_APPROVED"
    (known,) = plan_store(home).all()
    assert site_status(home).document["plans_waiting"] == [known.plan.run_id]
    assert "waits for you" in views.plans(home)
    take(consortium, with_new_keys(consortium))
    assert consortium.guard().offer_roster(consortium.home(SITE).roster.read_bytes()) == ("known", 2)
    assert site_status(home).document["plans_waiting"] == []
    assert "made for another roster than version 2" in str(plan_facts(home, known)["policy and budget"])
    assert "over: of another roster" in views.plans(home)
    assert main(["--home", str(home.root), "--json", "plans", "list"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["decision"] == "over: of another roster"
    assert "This plan is over" in views.plan(home, known, "secret", "")
    others = tuple(one for one in consortium.roster.members if one.role == "site")
    take(consortium, sign_roster(replace(consortium.roster, version=3, members=others), "founder", consortium.founder))
    assert "no lead of roster version 3" in views.plan(home, known, "secret", "")


def test_an_id_that_was_given_to_another_site_is_not_said_to_be_listed(consortium: Consortium) -> None:
    assert roster_document(consortium.home(SITE))["this site"] == f"{SITE}, listed"
    stranger = SigningKey.from_seed(b"s" * 32).public
    members = tuple(replace(one, identity_key=stranger) if one.id == SITE else one for one in consortium.roster.members)
    take(consortium, sign_roster(replace(consortium.roster, version=2, members=members), "founder", consortium.founder))
    assert f"LISTED WITH ANOTHER KEY ({fingerprint(stranger)})" in roster_document(consortium.home(SITE))["this site"]
