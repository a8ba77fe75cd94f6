"""Whatever is not in order is refused by name, changes no ledger, and tells nobody why in words of its own."""

import copy
import errno
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import pytest
from guards_in_process import ENDLESS, SITES, Consortium, answered, code_of, terms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.clock import utc
from client.daemon import code_version
from client.errors import SiteError
from client.plans import PlanStore
from consortium.approval import Approval
from consortium.canonical import Json, encode_json
from consortium.documents import Signed, to_document
from consortium.identity import SigningKey
from consortium.plan import Participant, Plan, TaskRef, sign_plan
from consortium.roster import Member, Roster, sign_roster
from consortium.wire import KINDS, Refusal, decode_reply, encode_keys_request, encode_request
from privacy.policy import Objection, Policy
from secagg.messages import KeysRequest

SITE = SITES[0]
WAITING = ENDLESS.replace("auto_approve: true", "auto_approve: false")
ANYTHING = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ask(consortium: Consortium, signed: Signed) -> str:
    """Code of the refusal to a keys request with this plan; the ledger must be what it was."""
    before = consortium.ledger_bytes()
    code = code_of(
        consortium.guard().answer("sa1_keys", encode_keys_request(signed.encode(), consortium.run().keys_control()), b"")
    )
    assert consortium.ledger_bytes() == before
    return code


def decide(consortium: Consortium, digest: bytes, decision: str, until: str = "", site: str = SITE) -> None:
    home = consortium.home(site)
    key = home.load_identity()
    reason = "asked to" if decision == "refuse" else ""
    made = Approval(digest, site, decision, until, reason, utc(consortium.clock()))  # type: ignore[arg-type]
    PlanStore(home.plans, site, key.public).decide(made, key)


# -- the plan ------------------------------------------------------------------------------------------------------------


def test_an_unsigned_plan_is_refused(consortium: Consortium) -> None:
    assert ask(consortium, Signed.of("plan", consortium.plan())) == "PLAN_SIGNATURE"


def test_a_plan_signed_by_another_key_is_refused(consortium: Consortium) -> None:
    assert ask(consortium, sign_plan(consortium.plan(), SigningKey.from_seed(b"x" * 32))) == "PLAN_SIGNATURE"


def test_a_lead_who_is_not_on_the_roster_is_refused(consortium: Consortium) -> None:
    assert ask(consortium, consortium.sign(consortium.plan(lead="lead-z"))) == "PLAN_SIGNATURE"


def test_a_site_cannot_sign_as_lead(consortium: Consortium) -> None:
    key = consortium.home(SITE).load_identity()
    assert ask(consortium, sign_plan(consortium.plan(lead=SITE), key)) == "PLAN_SIGNATURE"


def test_a_plan_for_another_roster_is_refused(consortium: Consortium) -> None:
    assert ask(consortium, consortium.sign(consortium.plan(roster_digest=bytes(32)))) == "ROSTER"


def taken(consortium: Consortium, roster: Roster) -> Roster:
    """A later roster, in force at the site."""
    return consortium.home(SITE).follow_roster(sign_roster(roster, "founder", consortium.founder), consortium.pin)


def test_a_plan_that_does_not_list_the_site_is_refused(consortium: Consortium) -> None:
    """Four sites on the roster, three others in the plan."""
    fourth = Member("hospital-4", "site", SigningKey.from_seed(b"4" * 32).public, "key")
    members = tuple(sorted((*consortium.roster.members, fourth), key=lambda member: member.id))
    roster = taken(consortium, replace(consortium.roster, version=2, members=members))
    others = tuple(Participant(site, at, 75) for at, site in enumerate(("hospital-2", "hospital-3", "hospital-4")))
    assert ask(consortium, consortium.sign(consortium.plan(participants=others, roster_digest=roster.digest))) == "NOT_LISTED"


def test_a_plan_with_fewer_sites_than_the_roster_asks_for_is_refused(consortium: Consortium) -> None:
    roster = taken(consortium, replace(consortium.roster, version=2, minimum_cohort=4))
    assert ask(consortium, consortium.sign(consortium.plan(roster_digest=roster.digest))) == "PLAN_SIGNATURE"


@pytest.mark.parametrize("asked", ["1.0.0", "0.9.0", f"{code_version()}+computation.2", "", "0.2", "latest"])
def test_a_plan_for_code_that_is_too_far_away_is_refused(consortium: Consortium, asked: str) -> None:
    assert ask(consortium, consortium.sign(consortium.plan(code_version=asked))) == "CODE_VERSION"


def test_a_plan_for_another_task_is_refused(consortium: Consortium) -> None:
    assert ask(consortium, consortium.sign(consortium.plan(task=TaskRef("stroke", "1", ("sex",), ("clinical",))))) == "TASK"


@ANYTHING
@given(at=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_a_plan_with_any_byte_altered_is_refused(consortium: Consortium, at: int, flip: int) -> None:
    signed = bytearray(consortium.sign(consortium.plan()).encode())
    signed[at % len(signed)] ^= flip
    control = encode_keys_request(bytes(signed), b"")
    before = consortium.ledger_bytes()
    assert code_of(consortium.guard().answer("sa1_keys", control, b"")) in {"PLAN_SIGNATURE", "UNDECODABLE", "ROSTER"}
    assert consortium.ledger_bytes() == before
    assert list(consortium.home(SITE).plans.iterdir()) == []


HOSTILE: tuple[Json, ...] = (0, 10**30, 1e308, 5e-324, "../../etc", [], None)
NAMED = {"PLAN_SIGNATURE", "ROSTER", "CODE_VERSION", "TASK", "POLICY", "UNDECODABLE", "NOT_LISTED"}


def leaves(value: Json, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not items:
        yield path
    for key, item in items:
        yield from leaves(item, (*path, key))


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda value: repr(value)[:12])
def test_a_lead_who_signs_nonsense_gets_an_answer_or_a_named_refusal(consortium: Consortium, hostile: Json) -> None:
    """Each field of the plan in turn; nothing is written outside the folder's own files, and nothing is an internal error."""
    request, guard = KeysRequest(1).encode(), consortium.guard()
    body = to_document(consortium.plan())
    before = sorted(path.name for path in consortium.folder.rglob("*") if path.suffix not in {".plan", ".approval"})
    for path in list(leaves(body)):
        changed: Any = copy.deepcopy(body)
        place = reduce(lambda at, key: at[key], path[:-1], changed)
        place[path[-1]] = hostile
        signed = Signed("plan", encode_json(changed), ()).sign("lead-a", consortium.lead)
        reply = guard.answer("sa1_keys", encode_keys_request(signed.encode(), request), b"")
        if isinstance(decode_reply(reply[0]), Refusal):
            assert code_of(reply) in {"PLAN_SIGNATURE", "ROSTER", "CODE_VERSION", "TASK", "POLICY", "UNDECODABLE", "NOT_LISTED"}, (
                path
            )
    after = {path.name for path in consortium.folder.rglob("*") if path.suffix not in {".plan", ".approval"}}
    assert {name for name in after - set(before) if not name.endswith(".jsonl")} == set()
    assert consortium.spends() == 0


# -- policy ----------------------------------------------------------------------------------------------------------------


def test_without_a_policy_file_nothing_trains(consortium: Consortium) -> None:
    consortium.home(SITE).policy.unlink()
    assert ask(consortium, consortium.sign(consortium.plan())) == "NO_POLICY"


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\x00\xff\xfe",
        b"- version\n- budget_epsilon\n- max_epsilon_per_plan\n",
        b"just words",
        b"5",
        b"version: 1",
        b"version: 1\nbudget_epsilon: [",
        b"version: 1\nbudget_epsilon: 1\nmax_epsilon_per_plan: 1\nbudgetepsilon: 2\n",
        b"version: 3\nbudget_epsilon: 1\nmax_epsilon_per_plan: 1\n",
        b"version: 1\nbudget_epsilon: .inf\nmax_epsilon_per_plan: 1\n",
        b"version: 1\nbudget_epsilon: 1" + b"0" * 400 + b"\nmax_epsilon_per_plan: 1\n",
        b"version: 1\nbudget_epsilon: 1\nmax_epsilon_per_plan: 1\nbudget_epsilon: 100\n",
        b"[" * 5000,
        b"? {a: b}\n: c\n",
    ],
)
def test_a_damaged_policy_file_is_no_policy(consortium: Consortium, damaged: bytes) -> None:
    consortium.home(SITE).policy.write_bytes(damaged)
    assert ask(consortium, consortium.sign(consortium.plan())) == "NO_POLICY"


@pytest.mark.parametrize(
    "change",
    [
        ("max_epsilon_per_plan: 50.0", "max_epsilon_per_plan: 0.1"),
        ("budget_epsilon: 50.0", "budget_epsilon: 0.1"),
        ('{cis_conversion: "*"}', '{stroke: "*"}'),
        ('{cis_conversion: "*"}', '{cis_conversion: "99"}'),
        ('leads: ["*"]', "leads: [somebody]"),
        ("version: 1", "version: 1\ncolumns_forbidden: [mri_spinal]"),
        ("version: 1", "version: 1\ndelta_max: 1.0e-7"),
        ("version: 1", "version: 1\nminimum_sites: 4"),
        ("version: 1", "version: 1\nminimum_patients: 1000"),
    ],
)
def test_a_plan_above_the_policy_is_refused(consortium: Consortium, change: tuple[str, str]) -> None:
    assert change[0] in ENDLESS
    consortium.policy(ENDLESS.replace(*change), SITE)
    assert ask(consortium, consortium.sign(consortium.plan())) == "POLICY"


def test_a_plan_that_understates_its_epsilon_is_refused(consortium: Consortium) -> None:
    assert ask(consortium, consortium.sign(consortium.plan(privacy=terms(epsilon_exposed=0.5)))) == "POLICY"


def test_a_plan_whose_cost_no_accountant_takes_is_refused(consortium: Consortium) -> None:
    plan = consortium.plan()
    endless = replace(plan, schedule=replace(plan.schedule, max_train=10**12))
    assert ask(consortium, consortium.sign(endless)) == "POLICY"


def test_a_plan_without_privacy_needs_the_policy_to_say_so(consortium: Consortium) -> None:
    plan = consortium.plan(privacy=terms("none"))
    assert ask(consortium, consortium.sign(plan)) == "POLICY"
    consortium.policy(ENDLESS + "allow_non_private: true\n")
    run = consortium.run(plan)
    assert code_of(run.ask_keys()) == "NOT_APPROVED", "policy alone, without a person, never approves a release without noise"
    decide(consortium, run.signed.digest, "approve")
    assert answered(run.ask_keys())


def test_a_plan_that_tests_one_site_alone_is_refused_without_its_word(consortium: Consortium) -> None:
    usual = consortium.plan()
    plan = replace(usual, model=replace(usual.model, options=(("leave_out", SITE),)))
    assert ask(consortium, consortium.sign(plan)) == "POLICY"
    consortium.policy(ENDLESS.replace("version: 1", "version: 2") + "tested_alone: true\n")
    assert answered(consortium.run(plan).ask_keys())


def test_a_plan_that_does_not_fit_the_budget_whole_is_not_begun(consortium: Consortium) -> None:
    run = consortium.run()
    cost = run.plan.privacy.epsilon_exposed
    consortium.policy(ENDLESS.replace("budget_epsilon: 50.0", f"budget_epsilon: {cost * 0.6}"), SITE)
    decide(consortium, run.signed.digest, "approve")
    assert code_of(run.ask_keys()) in ("BUDGET", "POLICY")
    assert consortium.spends(SITE) == 0


def test_an_epoch_that_policy_objects_to_does_not_train(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch's sites are the coordinator's choice: the guard asks its policy about exactly those, before it charges."""
    asked = []

    def object_to(policy: Policy, plan: Plan, sites: tuple[str, ...]) -> Objection:
        asked.append(sites)
        return Objection("too-few-sites", "Too few.", "as in check_epoch")

    monkeypatch.setattr("client.guard.check_epoch", object_to)
    run = consortium.run()
    assert code_of(run.update(run.open_round(run.epoch(), 1), SITE)) == "POLICY"
    assert asked == [tuple(SITES)]
    assert consortium.spends(SITE) == 0


def test_a_limit_tightened_during_a_run_holds_from_the_next_request_on(consortium: Consortium) -> None:
    run = consortium.run()
    epoch = run.epoch()
    consortium.policy(ENDLESS.replace("max_epsilon_per_plan: 50.0", "max_epsilon_per_plan: 0.1"), SITE)
    before = consortium.ledger_bytes()
    assert code_of(run.update(run.open_round(epoch, 1), SITE)) == "POLICY"
    assert consortium.ledger_bytes() == before


# -- approval ----------------------------------------------------------------------------------------------------------------


def test_an_undecided_plan_waits(consortium: Consortium) -> None:
    consortium.policy(WAITING)
    assert ask(consortium, consortium.sign(consortium.plan())) == "NOT_APPROVED"


def test_an_approval_is_for_one_plan_not_for_its_run_id(consortium: Consortium) -> None:
    consortium.policy(WAITING)
    run = consortium.run()
    decide(consortium, run.signed.digest, "approve")
    assert answered(run.ask_keys())
    second = consortium.plan(schedule=replace(run.plan.schedule, max_evaluate=3))
    assert second.run_id == run.plan.run_id
    assert ask(consortium, consortium.sign(second)) == "NOT_APPROVED"


def test_policy_never_overrules_a_refusal(consortium: Consortium) -> None:
    run = consortium.run()
    decide(consortium, run.signed.digest, "refuse")
    assert code_of(run.ask_keys()) == "DECLINED"
    assert consortium.spends() == 0


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, b"cut"])
def test_a_damaged_decision_is_not_taken_for_none(consortium: Consortium, damage: bytes) -> None:
    """It may have been a refusal: policy must not approve in its place."""
    run = consortium.run()
    decide(consortium, run.signed.digest, "refuse")
    path = next(consortium.home(SITE).plans.glob("*.approval"))
    path.write_bytes(path.read_bytes()[:-1] if damage == b"cut" else damage)
    assert code_of(run.ask_keys()) == "NOT_APPROVED"


def test_a_decision_of_another_plan_under_this_ones_name_counts_for_nothing(consortium: Consortium) -> None:
    run, other = consortium.run(), consortium.run(consortium.plan(run_id="other"))
    decide(consortium, other.signed.digest, "approve")
    plans = consortium.home(SITE).plans
    (plans / f"{other.signed.digest.hex()}.approval").rename(plans / f"{run.signed.digest.hex()}.approval")
    assert code_of(run.ask_keys()) == "NOT_APPROVED"


def test_an_approval_that_ended_allows_nothing_more(consortium: Consortium) -> None:
    consortium.policy(WAITING)
    run = consortium.run()
    decide(consortium, run.signed.digest, "approve-until", utc(consortium.clock.now + 60))
    for site in SITES[1:]:
        decide(consortium, run.signed.digest, "approve", site=site)
    epoch = run.epoch()
    assert answered(run.update(run.open_round(epoch, 1), SITE))
    consortium.clock.now += 61
    before = consortium.ledger_bytes()
    assert code_of(run.update(run.open_round(epoch, 2), SITE)) == "NOT_APPROVED"
    assert consortium.ledger_bytes() == before


def test_a_paused_site_answers_nothing(consortium: Consortium) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)
    consortium.home(SITE).paused.touch()
    before = consortium.ledger_bytes()
    assert code_of(run.update(phase, SITE)) == "PAUSED"
    assert code_of(run.ask_keys(number=2)) == "PAUSED"
    consortium.home(SITE).paused.unlink()
    assert consortium.ledger_bytes() == before
    assert answered(run.update(phase, SITE))


def test_a_withdrawal_between_update_and_vote_stops_the_vote_and_is_on_record(consortium: Consortium) -> None:
    run = consortium.run()
    voting = run.upload(run.open_round(run.epoch(), 1)).close()
    decide(consortium, run.signed.digest, "refuse")
    assert code_of(run.vote(voting, SITE)) == "DECLINED"
    assert consortium.home(SITE).ledger.read_bytes().count(b'"kind":"withdrawn"') == 1
    assert consortium.spends() == 1
    record = consortium.ledger_bytes()
    assert code_of(run.vote(voting, SITE)) == "DECLINED"
    assert consortium.ledger_bytes() == record


@pytest.mark.parametrize("stop", ["pause", "withdraw"])
def test_a_steward_who_stops_during_training_stops_the_upload(consortium: Consortium, stop: str) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)

    def end(job: object) -> None:
        consortium.home(SITE).paused.touch() if stop == "pause" else decide(consortium, run.signed.digest, "refuse")

    consortium.train[SITE].before = end  # type: ignore[attr-defined]
    assert code_of(run.update(phase, SITE)) == ("PAUSED" if stop == "pause" else "DECLINED")
    assert consortium.spends() == 1


# -- rounds ------------------------------------------------------------------------------------------------------------------


def test_a_plan_never_introduced_is_unknown(consortium: Consortium) -> None:
    before = consortium.ledger_bytes()
    for kind in KINDS[1:]:
        assert code_of(consortium.guard().answer(kind, encode_request(bytes(32), b""), b"")) == "UNKNOWN_PLAN"
    assert consortium.ledger_bytes() == before


def test_rounds_only_rise_and_end_with_the_plan(consortium: Consortium) -> None:
    run = consortium.run()
    epoch = run.epoch()
    assert answered(run.update(run.open_round(epoch, 5), SITE))
    record = consortium.ledger_bytes()
    other_model = run.model(1.0)
    assert code_of(run.update(run.open_round(epoch, 5, model=other_model), SITE, other_model)) == "ROUND"
    for number in (0, 1, 4, run.plan.schedule.max_round + 1, 2**63):
        assert code_of(run.update(run.open_round(epoch, number), SITE)) == "ROUND"
    assert consortium.ledger_bytes() == record


@pytest.mark.parametrize(("purpose", "most"), [("describe", 1), ("train", 4), ("evaluate", 1)])
def test_every_purpose_has_its_limit(consortium: Consortium, purpose: str, most: int) -> None:
    run = consortium.run()
    epoch = run.epoch()
    for number in range(1, most + 1):
        assert answered(run.update(run.open_round(epoch, number, purpose), SITE))
    record = consortium.ledger_bytes()
    assert code_of(run.update(run.open_round(epoch, most + 1, purpose), SITE)) == "LIMIT"
    assert code_of(run.update(run.open_round(run.epoch(2), most + 1, purpose), SITE)) == "LIMIT"
    assert consortium.ledger_bytes() == record


def test_a_plan_without_statistics_is_never_charged_for_describing(consortium: Consortium) -> None:
    """Its stated epsilon does not count such rounds, so a coordinator must not be able to burn budget with them."""
    run = consortium.run(consortium.plan(statistics=0))
    assert code_of(run.update(run.open_round(run.epoch(), 1, "describe"), SITE)) == "LIMIT"
    assert consortium.spends() == 0


def test_the_budget_is_over_all_runs_of_the_ledger(consortium: Consortium) -> None:
    """Each plan fits what is left when it begins; together they do not, and the round that would exceed it is refused."""
    plan = consortium.plan()
    plan = consortium.plan(schedule=replace(plan.schedule, max_round=4))
    budget = plan.privacy.epsilon_exposed * 1.05
    policy = ENDLESS.replace("budget_epsilon: 50.0", f"budget_epsilon: {budget}").replace("auto_approve: true", "")
    consortium.policy(policy)
    codes = []
    runs = (consortium.run(plan), consortium.run(replace(plan, run_id="run-2")))
    for run in runs:
        for site in SITES:
            decide(consortium, run.signed.digest, "approve", site=site)
    for run, epoch in [(run, run.epoch()) for run in runs]:
        for number in range(1, 5):
            before = consortium.spends()
            reply = run.update(run.open_round(epoch, number), SITE)
            if consortium.spends() == before:
                codes.append(code_of(reply))
    assert set(codes) == {"BUDGET"}
    ledger = consortium.sites_open[SITE].ledger
    assert ledger.epsilon(plan.privacy.delta) <= budget
    assert 4 <= consortium.spends() < 8
    assert consortium.home(SITE).ledger.read_bytes().count(b'"left:budget-exceeded"') == 1, "said once, and refused ever after"


def test_policy_approves_no_plan_that_does_not_fit_what_is_left(consortium: Consortium) -> None:
    plan = consortium.plan()
    consortium.policy(ENDLESS.replace("budget_epsilon: 50.0", f"budget_epsilon: {plan.privacy.epsilon_exposed * 1.05}"))
    run = consortium.run(plan)
    epoch = run.epoch()
    for number in range(1, 5):
        assert answered(run.update(run.open_round(epoch, number), SITE))
    assert ask(consortium, consortium.sign(consortium.plan(run_id="run-2"))) == "BUDGET"


@pytest.mark.parametrize("model", [b"", b"\0", b"\0" * 8, "nan", "inf", "longer"])
def test_a_model_that_is_not_the_plans_is_refused_before_anything_is_charged(consortium: Consortium, model: bytes | str) -> None:
    run = consortium.run()
    wrong = {"nan": run.model(np.nan), "inf": run.model(-np.inf), "longer": run.model() + b"\0\0\0\0"}
    body = wrong[model] if isinstance(model, str) else model
    phase = run.open_round(run.epoch(), 1, model=body)
    before = consortium.ledger_bytes()
    assert code_of(run.update(phase, SITE, body)) == "MODEL"
    assert consortium.ledger_bytes() == before
    assert consortium.train[SITE].jobs == []  # type: ignore[attr-defined]


def test_a_kind_nobody_knows_is_not_answered(consortium: Consortium) -> None:
    for kind in ("", "sa1", "sa1_KEYS", "query", "sa1_keys\nrefused=FAKE", "k" * 100_000):
        assert code_of(consortium.guard().answer(kind, b"", b"")) == "UNKNOWN_KIND"


def test_only_an_update_brings_a_body(consortium: Consortium) -> None:
    assert code_of(consortium.guard().answer("sa1_keys", consortium.run().keys_control(), b"x")) == "UNDECODABLE"


# -- bytes from anywhere -------------------------------------------------------------------------------------------------------


@ANYTHING
@given(kind=st.sampled_from(KINDS), control=st.binary(max_size=300), body=st.binary(max_size=40))
def test_arbitrary_bytes_are_refused_and_change_nothing(consortium: Consortium, kind: str, control: bytes, body: bytes) -> None:
    before = consortium.ledger_bytes()
    assert code_of(consortium.guard().answer(kind, control, body))
    assert consortium.ledger_bytes() == before


@ANYTHING
@given(kind=st.sampled_from(KINDS[1:]), sa1=st.binary(max_size=300), number=st.integers(0, 2**64 - 1))
def test_arbitrary_protocol_bytes_in_a_running_run_are_refused(consortium: Consortium, kind: str, sa1: bytes, number: int) -> None:
    run = consortium.run()
    if not consortium.opened:
        run.epoch()
    before = consortium.ledger_bytes()
    assert code_of(consortium.guard().answer(kind, run.request(sa1), run.model() if kind == "sa1_update" else b""))
    assert consortium.ledger_bytes() == before


@ANYTHING
@given(at=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_a_request_with_any_byte_altered_trains_at_most_what_it_says(consortium: Consortium, at: int, flip: int) -> None:
    """A flipped update request is refused, or asks for another lawful round; it never gets a training that is not charged."""
    run = consortium.run()
    epoch = run.epoch(consortium.next_epoch())
    control = bytearray(run.request(run.open_round(epoch, 2).requests()[SITE]))
    control[at % len(control)] ^= flip
    spends, jobs = consortium.spends(), len(consortium.train[SITE].jobs)  # type: ignore[attr-defined]
    run.reply(SITE, "sa1_update", bytes(control), run.model())
    assert consortium.spends() - spends == len(consortium.train[SITE].jobs) - jobs  # type: ignore[attr-defined]


# -- what a refusal says ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "LEDGER"), (errno.EDQUOT, "LEDGER"), (errno.EIO, "INTERNAL")])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_named_as_one_whichever_file_it_was(
    consortium: Consortium, caplog: pytest.LogCaptureFixture, number: int, code: str, wrapped: bool
) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)

    def fail(job: object) -> None:
        error = OSError(number, "CANARY-4711")
        if wrapped:
            raise SiteError("a file could not be written") from error
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consortium.train[SITE], "before", fail)
        reply = run.update(phase, SITE)
    assert code_of(reply) == code
    assert "CANARY" not in caplog.text
    assert ("no room on this site's disk" in caplog.text) == (code == "LEDGER" and not wrapped)
    assert answered(run.update(run.open_round(run.epoch(2), 2), SITE))


@pytest.mark.parametrize("error", [ValueError, KeyError, MemoryError, RuntimeError, OSError, UnicodeError])
def test_the_text_of_an_error_nobody_foresaw_does_not_leave_and_is_not_logged(
    consortium: Consortium, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)

    def fail(job: object) -> None:
        raise error("patient CANARY-4711")

    consortium.train[SITE].before = fail  # type: ignore[attr-defined]
    reply = run.update(phase, SITE)
    assert code_of(reply) == "INTERNAL"
    assert b"CANARY" not in b"".join(reply)
    assert "CANARY" not in caplog.text
    assert error.__name__ in caplog.text


def test_what_a_stranger_writes_cannot_flood_or_forge_the_log(consortium: Consortium, caplog: pytest.LogCaptureFixture) -> None:
    signed = Signed("plan", b'{"' + b"x" * 1_000_000 + b'":1}', ())
    consortium.guard().answer("sa1_keys", encode_keys_request(signed.encode(), b""), b"")
    consortium.guard().answer("sa1_keys\nfake", b"", b"")
    assert all(len(record.getMessage()) < 1000 and "\n" not in record.getMessage() for record in caplog.records)
    assert len(caplog.records) == 2


def test_two_different_rosters_of_one_version_are_told_apart(consortium: Consortium) -> None:
    """A plan binds the roster's digest, not its number."""
    other = replace(consortium.roster, colluders=1)
    assert sign_roster(other, "founder", consortium.founder).digest != consortium.signed_roster.digest
    assert ask(consortium, consortium.sign(consortium.plan(roster_digest=other.digest))) == "ROSTER"
