"""A roster that a site has taken is in force at the next message: old plans end, a new plan has new epochs, the ledger goes on."""

from dataclasses import replace

import pytest
from guards_in_process import ENDLESS, SITES, Consortium, Run, code_of

from consortium.documents import Signed
from consortium.identity import SigningKey
from consortium.plan import Participant
from consortium.roster import Member, Roster, sign_roster
from secagg.coordinator import start_epoch
from secagg.messages import Keys

SITE = SITES[0]
NEWCOMER = SigningKey.from_seed(b"n" * 32)


def take(consortium: Consortium, **changes: object) -> Roster:
    """Version 2, with `changes`, taken by every site while its guard runs."""
    roster = replace(consortium.roster, version=2, **changes)  # type: ignore[arg-type]
    signed: Signed = sign_roster(roster, "founder", consortium.founder)
    for site in SITES:
        consortium.home(site).follow_roster(signed, consortium.pin)
    return roster


def with_newcomer(consortium: Consortium) -> tuple[Member, ...]:
    member = Member("hospital-9", "site", NEWCOMER.public, "transport")
    return tuple(sorted((*consortium.roster.members, member), key=lambda one: one.id))


def test_the_old_plan_ends_in_the_middle_of_a_round_and_gives_no_more_answers(consortium: Consortium) -> None:
    run = consortium.run()
    epoch = run.epoch()
    uploaded = run.upload(run.open_round(epoch, 1)).close()
    take(consortium, members=with_newcomer(consortium))
    assert code_of(run.vote(uploaded, SITE)) == "EPOCH"  # its keys and shares are gone
    assert code_of(run.ask_keys(SITE, 2)) == "ROSTER"


def test_a_roster_that_changes_while_a_site_trains_keeps_its_update_back(consortium: Consortium) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)
    consortium.train[SITE].before = lambda job: take(consortium, members=with_newcomer(consortium)) and None  # type: ignore[attr-defined]
    assert code_of(run.update(phase, SITE)) == "ROSTER"
    assert consortium.spends() == 1  # what was spent stays spent


def test_a_site_that_the_new_roster_removes_answers_nobody_and_forgets_its_keys(consortium: Consortium) -> None:
    run = consortium.run()
    run.epoch()
    others = tuple(member for member in with_newcomer(consortium) if member.id != SITE)
    take(consortium, members=others)
    assert code_of(run.ask_keys(SITE, 2)) == "NOT_LISTED"
    assert consortium.guard()._runs == {}


def test_a_new_plan_under_the_new_roster_begins_with_fresh_keys_and_the_old_ledger(consortium: Consortium) -> None:
    old = consortium.run()
    old.round(old.epoch(), 1)
    before = consortium.spends()
    consortium.roster = take(consortium, members=with_newcomer(consortium))
    new = Run(consortium, consortium.sign(consortium.plan(run_id="run-2")))
    requests = [start_epoch(run.context, 1, run.plan.sites).requests()[SITE] for run in (old, new)]
    assert requests[0] == requests[1]
    epoch = new.epoch()
    assert Keys.decode(epoch.keys[0]).roster_digest == consortium.roster.digest
    assert int(new.round(epoch, 1).header[0]) == 3
    assert consortium.spends() == before + 1


def test_a_plan_with_a_site_that_the_new_roster_leaves_out_is_refused(consortium: Consortium) -> None:
    first = take(consortium, members=with_newcomer(consortium))
    participants = (*consortium.plan().participants, Participant("hospital-9", 9, 75))
    assert code_of(Run(consortium, listing(consortium, first, participants)).ask_keys()) == "NOT_APPROVED"  # so far it may
    second = replace(first, version=3, members=tuple(one for one in first.members if one.id != "hospital-9"))
    consortium.home(SITE).follow_roster(sign_roster(second, "founder", consortium.founder), consortium.pin)
    control = Run(consortium, listing(consortium, first, participants)).keys_control()
    assert code_of(consortium.guard().answer("sa1_keys", control, b"")) == "ROSTER"
    signed = listing(consortium, second, participants)
    consortium.roster = first  # whose members the coordinator still counts with
    assert code_of(Run(consortium, signed).ask_keys()) == "PLAN_SIGNATURE"


def listing(consortium: Consortium, roster: Roster, participants: tuple[Participant, ...]) -> Signed:
    consortium.roster = roster
    consortium.policy(ENDLESS.replace("auto_approve: true", "auto_approve: false"))
    return consortium.sign(consortium.plan(roster_digest=roster.digest, participants=participants))


@pytest.mark.parametrize("changes", [{"split_salt": bytes(16)}, {"held_out_fraction": 0.4}])
def test_a_roster_that_splits_patients_anew_waits_for_a_restart(consortium: Consortium, changes: dict[str, object]) -> None:
    run = consortium.run()
    run.epoch()
    take(consortium, **changes)
    assert code_of(run.ask_keys(SITE, 2)) == "ROSTER"


def test_a_roster_file_that_does_not_verify_stops_all_answers(consortium: Consortium) -> None:
    run = consortium.run()
    run.epoch()
    roster = consortium.home(SITE).roster
    roster.write_bytes(roster.read_bytes()[:-1])
    assert code_of(run.ask_keys(SITE, 2)) == "INTERNAL"
