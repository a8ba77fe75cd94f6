"""A site spends what its own policy allows and nothing else, and every refusal has a code and a fixed sentence."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from consortium.identity import fingerprint
from consortium.plan import Plan
from consortium.roster import Roster
from privacy.errors import PolicyError
from privacy.events import GaussianEvent, NonPrivateEvent, Spend
from privacy.ledger import Ledger
from privacy.policy import SENTENCES, Objection, Policy, check_epoch, check_plan, check_spend, parse_policy
from privacy.terms import epsilon_exposed, epsilon_model, round_spends

from .conftest import DELTA, LEAD, NOW, SPLIT, TRAIN, details

DOCUMENT: dict[str, object] = {
    "version": 1,
    "budget_epsilon": 20,
    "max_epsilon_per_plan": 15.0,
    "tasks": {"cis_conversion": "1"},
    "leads": ["lead-anna"],
    "columns_forbidden": ["edss"],
    "minimum_patients": 200,
    "minimum_sites": 4,
}


def codes(objections: tuple[Objection, ...]) -> set[str]:
    return {objection.code for objection in objections}


def test_a_policy_says_exactly_what_its_document_says() -> None:
    policy = parse_policy(DOCUMENT)
    assert policy.budget_epsilon == 20.0
    assert policy.leads == ("lead-anna",)
    assert not policy.allow_non_private
    assert not policy.auto_approve


@pytest.mark.parametrize(
    "change",
    [
        {"budget": 3.0},
        {"version": 2},
        {"version": True},
        {"budget_epsilon": -1.0},
        {"budget_epsilon": float("inf")},
        {"budget_epsilon": True},
        {"budget_epsilon": "20"},
        {"delta_max": 0.0},
        {"delta_max": 1e-3},
        {"allow_non_private": "no"},
        {"auto_approve": 1},
        {"leads": "lead-anna"},
        {"leads": [1]},
        {"tasks": ["cis_conversion"]},
        {"tasks": {"cis_conversion": 1}},
        {"minimum_patients": -1},
        {"minimum_sites": 2.5},
    ],
)
def test_an_unknown_key_or_impossible_value_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(PolicyError, match="policy:"):
        parse_policy({**DOCUMENT, **change})


@pytest.mark.parametrize("name", ["version", "budget_epsilon", "max_epsilon_per_plan"])
def test_a_limit_that_is_not_written_down_is_refused(name: str) -> None:
    with pytest.raises(PolicyError, match="missing"):
        parse_policy({key: value for key, value in DOCUMENT.items() if key != name})


def test_an_empty_policy_accepts_no_task_and_no_lead(make_plan: Callable[..., Plan], roster: Roster) -> None:
    closed = Policy(version=1, budget_epsilon=1000.0, max_epsilon_per_plan=1000.0)
    assert codes(check_plan(closed, make_plan(), roster)) == {"task-not-allowed", "lead-not-allowed"}


def test_a_plan_within_all_limits_meets_no_objection(make_plan: Callable[..., Plan], ledger: Ledger, roster: Roster) -> None:
    policy = parse_policy(DOCUMENT)
    assert check_plan(policy, make_plan(), roster) == ()
    assert check_plan(policy, make_plan(), roster, spent=ledger) == ()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tasks": {"cis_conversion": "2"}}, "task-not-allowed"),
        ({"leads": ["lead-berta"]}, "lead-not-allowed"),
        ({"columns_forbidden": ["sex"]}, "column-forbidden"),
        ({"minimum_patients": 401}, "too-few-patients"),
        ({"minimum_sites": 5}, "too-few-sites"),
        ({"delta_max": 1e-6}, "delta-too-large"),
        ({"max_epsilon_per_plan": 1.0}, "plan-above-limit"),
        ({"budget_epsilon": 1.0}, "plan-above-budget"),
    ],
)
def test_each_limit_refuses_by_its_own_code(
    make_plan: Callable[..., Plan], change: dict[str, object], code: str, roster: Roster
) -> None:
    found = check_plan(parse_policy({**DOCUMENT, **change}), make_plan(), roster)
    assert codes(found) == {code}
    assert found[0].sentence == SENTENCES[code]
    assert found[0].detail not in repr(found[0])


def test_a_lead_may_be_named_by_id_fingerprint_or_star(make_plan: Callable[..., Plan], roster: Roster) -> None:
    for leads in (["lead-anna"], [fingerprint(LEAD.public)], ["*"]):
        policy = parse_policy({**DOCUMENT, "leads": leads})
        assert check_plan(policy, make_plan(), roster) == ()
    assert check_plan(parse_policy({**DOCUMENT, "tasks": {"cis_conversion": "*"}}), make_plan(), roster) == ()


def test_a_plan_that_states_less_epsilon_than_it_costs_is_refused(make_plan: Callable[..., Plan], roster: Roster) -> None:
    truth = epsilon_exposed(make_plan())
    policy = parse_policy(DOCUMENT)
    assert check_plan(policy, make_plan(epsilon_exposed=truth), roster) == ()
    assert codes(check_plan(policy, make_plan(epsilon_exposed=truth - 0.1), roster)) == {"epsilon-understated"}


def test_what_other_runs_spent_counts_against_a_plan(make_plan: Callable[..., Plan], ledger: Ledger, roster: Roster) -> None:
    ledger.spend(details(1), (Spend(GaussianEvent(0.25), "train"),), NOW)
    found = check_plan(parse_policy(DOCUMENT), make_plan(), roster, spent=ledger)
    assert codes(found) == {"plan-above-budget"}


def test_no_noise_needs_the_word_of_the_site_too(make_plan: Callable[..., Plan], roster: Roster) -> None:
    bare = make_plan(mode="none")
    assert codes(check_plan(parse_policy(DOCUMENT), bare, roster)) == {"not-private"}
    assert check_plan(parse_policy({**DOCUMENT, "allow_non_private": True}), bare, roster) == ()


def test_the_round_that_would_exceed_the_budget_is_refused(ledger: Ledger) -> None:
    policy = parse_policy({**DOCUMENT, "budget_epsilon": 2.0})
    number = 0
    while (objection := check_spend(policy, ledger, (TRAIN,), DELTA, SPLIT)) is None:
        number += 1
        ledger.spend(details(number), (TRAIN,), NOW)
        assert number < 100
    assert objection.code == "budget-exceeded"
    assert ledger.epsilon(DELTA) <= 2.0 < ledger.epsilon_with((TRAIN,), DELTA, SPLIT)
    assert check_spend(policy, ledger, (Spend(GaussianEvent(20.0), "held_out"),), DELTA, SPLIT) is None


def test_a_spend_at_too_large_a_delta_is_refused(ledger: Ledger) -> None:
    objection = check_spend(parse_policy(DOCUMENT), ledger, (TRAIN,), 1e-3, SPLIT)
    assert objection is not None
    assert objection.code == "delta-too-large"


def test_a_run_without_noise_never_loosens_the_budget_of_private_ones(ledger: Ledger) -> None:
    bare, loud = Spend(NonPrivateEvent(), "train"), Spend(GaussianEvent(0.2), "train")
    closed, opened = parse_policy(DOCUMENT), parse_policy({**DOCUMENT, "allow_non_private": True})
    refused = check_spend(closed, ledger, (bare,), DELTA, SPLIT)
    assert refused is not None
    assert refused.code == "not-private"
    assert check_spend(opened, ledger, (bare,), DELTA, SPLIT) is None
    ledger.spend(details(1), (bare,), NOW)
    later = check_spend(opened, ledger, (loud,), DELTA, SPLIT)
    assert later is not None
    assert later.code == "budget-exceeded"
    assert check_spend(opened, ledger, (TRAIN,), DELTA, SPLIT) is None
    assert check_spend(closed, ledger, (TRAIN,), DELTA, SPLIT) is not None


def test_a_round_of_a_plan_is_judged_by_all_that_it_releases(make_plan: Callable[..., Plan], ledger: Ledger) -> None:
    policy = parse_policy({**DOCUMENT, "budget_epsilon": 0.6})
    plan = make_plan(evaluate_noise=2.0)
    assert check_spend(policy, ledger, round_spends(plan, 4, "train"), plan.privacy.delta, SPLIT) is None
    objection = check_spend(policy, ledger, round_spends(plan, 5, "train"), plan.privacy.delta, SPLIT)  # carries a histogram
    assert objection is not None
    assert objection.code == "budget-exceeded"


@pytest.mark.parametrize("noise", ["train_noise", "describe_noise", "evaluate_noise", "count_noise"])
def test_noise_that_no_grid_can_carry_is_refused_before_anything_is_charged(
    make_plan: Callable[..., Plan], roster: Roster, noise: str
) -> None:
    """Half a bound in a grid of 2^10 steps a bound is 512 steps, too few for a sum of rounded noises to be a Gaussian."""
    found = check_plan(parse_policy(DOCUMENT), make_plan(grid_bits=10, **{noise: 0.5}), roster)
    assert [item.detail.split()[0] for item in found if item.code == "noise-off-grid"] == [noise]


def test_a_plan_that_flatters_readers_of_the_model_is_refused(make_plan: Callable[..., Plan], roster: Roster) -> None:
    truth = epsilon_model(make_plan(), colluders=1, minimum_cohort=3)
    policy = parse_policy(DOCUMENT)
    assert check_plan(policy, make_plan(epsilon_model=truth), roster) == ()
    assert codes(check_plan(policy, make_plan(epsilon_model=truth - 0.1), roster)) == {"epsilon-understated"}


def test_a_clip_that_would_cut_the_noise_off_is_refused(make_plan: Callable[..., Plan], roster: Roster) -> None:
    assert codes(check_plan(parse_policy(DOCUMENT), make_plan(coordinate_clip=2.0**-10), roster)) == {"noise-cut-off"}


def test_the_coordinators_choice_of_sites_is_held_to_the_policy_too(make_plan: Callable[..., Plan]) -> None:
    plan, policy = make_plan(), parse_policy({**DOCUMENT, "minimum_patients": 400})
    assert check_epoch(policy, plan, ("a", "b", "c", "d")) is None
    few, small = check_epoch(policy, plan, ("a", "b", "c")), check_epoch(replace(policy, minimum_sites=3), plan, ("a", "b", "c"))
    assert few is not None
    assert small is not None
    assert (few.code, small.code) == ("too-few-sites", "too-few-patients")
