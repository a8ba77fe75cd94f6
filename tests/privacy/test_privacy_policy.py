"""A site spends what its own policy allows and nothing else, and every refusal has a code and a fixed sentence."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from consortium.identity import fingerprint
from consortium.plan import Plan
from consortium.roster import Roster
from privacy.accountant import epsilon
from privacy.errors import PolicyError
from privacy.events import GaussianEvent, NonPrivateEvent, SharedGaussianEvent, Spend, as_exposed
from privacy.ledger import Ledger
from privacy.periods import Dates, dates
from privacy.policy import (
    SENTENCES,
    AutoApproval,
    Objection,
    Period,
    Policy,
    accounts,
    approves,
    check_epoch,
    check_plan,
    check_spend,
    parse_policy,
)
from privacy.terms import epsilon_charged, epsilon_exposed, epsilon_model, round_spends

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


SECOND: dict[str, object] = {**DOCUMENT, "version": 2}
CAPS: dict[str, object] = {"budget_exposed_epsilon": 60.0, "max_exposed_epsilon_per_plan": 40.0}
SHARED: dict[str, object] = {**SECOND, **CAPS, "modes": ["local", "distributed"]}
YEAR: dict[str, object] = {"population": "ms-clinic", "days": 365, "epsilon": 3.0}


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
        {"version": 3},
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


# -- version 2 -----------------------------------------------------------------------------------------------------------------


def test_a_policy_of_version_1_means_what_it_meant() -> None:
    first = parse_policy({**DOCUMENT, "allow_non_private": True, "auto_approve": True})
    assert first.modes == ("local", "none")
    assert first.budget_periods == ()
    assert (first.columns_allowed, first.modalities_allowed, first.budget_exposed_epsilon) == (None, None, None)
    assert first.auto_approve == AutoApproval(first.leads, first.tasks, first.max_epsilon_per_plan, ("local",))


def test_version_2_says_exactly_what_its_document_says() -> None:
    rules = {"leads": ["lead-anna"], "tasks": {"cis_conversion": "1"}, "max_epsilon": 1, "modes": ["local"]}
    policy = parse_policy({**SHARED, "budget_periods": [YEAR], "auto_approve": rules, "modalities_allowed": ["clinical"]})
    assert policy.budget_periods == (Period("ms-clinic", 365, 3.0),)
    assert policy.auto_approve == AutoApproval(("lead-anna",), {"cis_conversion": "1"}, 1.0, ("local",))
    assert (policy.budget_exposed_epsilon, policy.max_exposed_epsilon_per_plan) == (60.0, 40.0)
    assert policy.modalities_allowed == ("clinical",)
    assert parse_policy(SECOND).modes == ("local",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget_epsilom": 1.0}, "did you mean 'budget_epsilon'"),
        ({"leeds": []}, "did you mean 'leads'"),
        ({"allow_non_private": True}, r"modes: \[local, none\]"),
        ({"modes": ["lokal"]}, "did you mean 'local'"),
        ({"modes": "local"}, "list of texts"),
        ({"modes": ["distributed"]}, "must stand here"),
        ({"modes": ["distributed"], "budget_exposed_epsilon": 9.0}, "must stand here"),
        ({"budget_exposed_epsilon": -1.0}, "below 0"),
        ({"max_exposed_epsilon_per_plan": float("nan")}, "finite"),
        ({"budget_periods": YEAR}, "must be a list"),
        ({"budget_periods": [3.0]}, "must be a list"),
        ({"budget_periods": [{**YEAR, "day": 1}]}, "did you mean 'days'"),
        ({"budget_periods": [{**YEAR, "days": 0}]}, "outside"),
        ({"budget_periods": [{**YEAR, "days": 30.0}]}, "whole number"),
        ({"budget_periods": [{**YEAR, "epsilon": -0.1}]}, "below 0"),
        ({"budget_periods": [{**YEAR, "population": ""}]}, "name in site.yaml"),
        ({"budget_periods": [{"population": "ms-clinic", "days": 7}]}, "'epsilon' is missing"),
        ({"columns_allowed": ["edss"]}, "allowed and forbidden"),
        ({"columns_allowed": "age"}, "list of texts"),
        ({"modalities_allowed": [1]}, "list of texts"),
        ({"auto_approve": "yes"}, "or rules"),
        ({"auto_approve": {"leads": ["*"]}}, "'max_epsilon' is missing"),
        ({"auto_approve": {"max_epsilon": -1.0}}, "below 0"),
        ({"auto_approve": {"max_epsilon": 1.0, "lead": []}}, "did you mean 'leads'"),
        ({"auto_approve": {"max_epsilon": 1.0, "modes": ["none"]}}, "a person's decision"),
    ],
)
def test_a_mistake_in_version_2_is_refused_in_words_that_help(change: dict[str, object], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        parse_policy({**SECOND, **change})


@pytest.mark.parametrize("name", ["modes", "budget_periods", "budget_exposed_epsilon", "columns_allowed", "modalities_allowed"])
def test_version_1_does_not_pretend_to_know_what_it_does_not(name: str) -> None:
    with pytest.raises(PolicyError, match="needs version: 2"):
        parse_policy({**DOCUMENT, name: []})
    with pytest.raises(PolicyError, match="true or false"):
        parse_policy({**DOCUMENT, "auto_approve": {"max_epsilon": 1.0}})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"columns_allowed": ["age"]}, "column-not-allowed"),
        ({"modalities_allowed": ["mri"]}, "modality-not-allowed"),
        ({"modes": []}, "mode-not-allowed"),
        ({"max_exposed_epsilon_per_plan": 1.0}, "plan-above-exposed-limit"),
        ({"budget_exposed_epsilon": 1.0}, "plan-above-exposed-budget"),
        ({"budget_periods": [{**YEAR, "epsilon": 1.0}]}, "plan-above-period"),
    ],
)
def test_each_new_limit_refuses_by_its_own_code(
    make_plan: Callable[..., Plan], change: dict[str, object], code: str, roster: Roster
) -> None:
    assert check_plan(parse_policy({**SECOND, "columns_allowed": ["age", "sex"]}), make_plan(), roster) == ()
    found = check_plan(parse_policy({**SECOND, **change}), make_plan(), roster)
    assert codes(found) == {code}
    assert found[0].sentence == SENTENCES[code]


@pytest.mark.parametrize("mode", ["local", "none"])
def test_a_plan_that_tests_one_site_alone_needs_the_word_of_the_site(
    make_plan: Callable[..., Plan], roster: Roster, mode: str
) -> None:
    """Whether it is this site or another: what one learns of a neighbour by helping is not this site's to give either."""
    usual = make_plan(mode=mode)
    plan = replace(usual, model=replace(usual.model, options=(("leave_out", usual.sites[1]),)))
    policy = {**SECOND, "modes": ["local", "none"]}
    assert plan.left_out == usual.sites[1]
    assert usual.left_out == ""
    assert codes(check_plan(parse_policy(policy), plan, roster)) == {"tested-alone"}
    assert check_plan(parse_policy({**policy, "tested_alone": True}), plan, roster) == ()
    assert check_plan(parse_policy(policy), usual, roster) == ()
    with pytest.raises(PolicyError, match="version: 2"):
        parse_policy({**DOCUMENT, "tested_alone": True})


def test_what_auto_approval_does_not_name_waits_for_a_person(make_plan: Callable[..., Plan], roster: Roster) -> None:
    plan, cost = make_plan(), epsilon_charged(make_plan())

    def waits(**rules: object) -> str:
        return approves(parse_policy({**SECOND, "auto_approve": {"max_epsilon": cost + 0.1, **rules}}), plan, roster)

    assert waits() == waits(leads=["*"]) == waits(leads=[fingerprint(LEAD.public)], tasks={"cis_conversion": "*"}) == ""
    assert "max_epsilon" in waits(max_epsilon=cost - 0.1)
    assert "leads" in waits(leads=["lead-berta"])
    assert "tasks" in waits(tasks={"cis_conversion": "2"})
    assert "modes" in waits(modes=[])
    assert "off" in approves(parse_policy(SECOND), plan, roster)
    bare = parse_policy({**SECOND, "modes": ["local", "none"], "auto_approve": True})
    assert "modes" in approves(bare, make_plan(mode="none"), roster)


# -- mode distributed ------------------------------------------------------------------------------------------------------------


def shared(make_plan: Callable[..., Plan], **changes: object) -> Plan:
    base = make_plan(mode="distributed", honest=2, grid_bits=14, epsilon_exposed=99.0, epsilon_model=99.0, **changes)
    exposed, charged = epsilon_exposed(base), epsilon_charged(base)
    assert charged < exposed
    return replace(base, privacy=replace(base.privacy, epsilon_exposed=exposed, epsilon_model=charged))


def test_mode_distributed_is_refused_unless_the_policy_names_it(make_plan: Callable[..., Plan], roster: Roster) -> None:
    plan = shared(make_plan)
    for document in (DOCUMENT, SECOND, {**SECOND, **CAPS}):
        assert codes(check_plan(parse_policy(document), plan, roster)) == {"mode-not-allowed"}
    assert check_plan(parse_policy(SHARED), plan, roster) == ()


def test_the_budget_is_charged_with_opened_sums_and_the_caps_bound_what_is_exposed(
    make_plan: Callable[..., Plan], roster: Roster
) -> None:
    plan = shared(make_plan)
    between = (plan.privacy.epsilon_model + plan.privacy.epsilon_exposed) / 2.0
    assert check_plan(parse_policy({**SHARED, "budget_epsilon": between, "max_epsilon_per_plan": between}), plan, roster) == ()
    for name, code in (
        ("max_exposed_epsilon_per_plan", "plan-above-exposed-limit"),
        ("budget_exposed_epsilon", "plan-above-exposed-budget"),
    ):
        assert codes(check_plan(parse_policy({**SHARED, name: between}), plan, roster)) == {code}


def test_a_share_is_never_charged_where_the_mode_is_not_allowed(ledger: Ledger) -> None:
    share = Spend(SharedGaussianEvent(8.0, 4), "train")
    refused = check_spend(parse_policy(SECOND), ledger, (share,), DELTA, SPLIT)
    assert refused is not None
    assert refused.code == "mode-not-allowed"
    assert check_spend(parse_policy(SHARED), ledger, (share,), DELTA, SPLIT) is None


def test_the_round_that_would_exceed_the_exposed_budget_is_refused(ledger: Ledger) -> None:
    share, number = Spend(SharedGaussianEvent(8.0, 16), "train"), 0
    policy = parse_policy({**SHARED, "budget_exposed_epsilon": 3.0})
    while (objection := check_spend(policy, ledger, (share,), DELTA, SPLIT)) is None:
        number += 1
        ledger.spend(details(number), (share,), NOW)
        assert number < 100
    assert objection.code == "exposed-exceeded"
    exposed = {one.name: one for one in accounts(policy, ledger, DELTA, 0)}["updates in the clear, for ever"]
    assert ledger.epsilon(DELTA) < exposed.spent / 4.0
    assert exposed.spent <= 3.0 < epsilon((*as_exposed(ledger.spends()), *as_exposed((share,))), DELTA)
    assert as_exposed(ledger.spends())[0].event == GaussianEvent(8.0)


# -- periods ---------------------------------------------------------------------------------------------------------------------


def at(days: int) -> Dates:
    """Both clocks so many days after `NOW`."""
    day = NOW.toordinal() + days
    return Dates(day, day)


def test_a_period_refuses_what_the_total_would_allow_and_time_alone_makes_room_again(ledger: Ledger) -> None:
    policy = parse_policy({**SECOND, "budget_periods": [{**YEAR, "epsilon": 2.0}]})
    number = 0
    while (objection := check_spend(policy, ledger, (TRAIN,), DELTA, SPLIT, dates=at(0))) is None:
        number += 1
        ledger.spend(details(number), (TRAIN,), NOW)
    assert objection.code == "period-exceeded"
    refused = check_spend(policy, ledger, (TRAIN,), DELTA, SPLIT, dates=at(366))
    assert refused is not None
    assert refused.code == "period-exceeded", "periods are counted one day longer"
    assert check_spend(policy, ledger, (TRAIN,), DELTA, SPLIT, dates=at(367)) is None


def test_a_whole_plan_must_fit_into_what_is_left_of_a_period(
    make_plan: Callable[..., Plan], ledger: Ledger, roster: Roster
) -> None:
    plan = make_plan()
    cost = epsilon_charged(plan)
    policy = parse_policy({**SECOND, "budget_periods": [{**YEAR, "epsilon": cost + 0.1}]})
    today = dates(NOW, plan.created)
    assert check_plan(policy, plan, roster, spent=ledger, dates=today) == ()
    ledger.spend(details(1), (TRAIN,), NOW)
    assert codes(check_plan(policy, plan, roster, spent=ledger, dates=today)) == {"plan-above-period"}


@pytest.mark.parametrize(
    ("today", "planned", "doubtful"), [(0, 0, False), (-1, 0, False), (-2, 0, True), (31, 0, False), (32, 0, True), (0, 2, True)]
)
def test_a_clock_that_disagrees_with_ledger_or_plan_charges_nothing_to_a_period(
    ledger: Ledger, today: int, planned: int, doubtful: bool
) -> None:
    ledger.spend(details(1), (TRAIN,), NOW)
    day = NOW.toordinal()
    policy = parse_policy({**SECOND, "budget_periods": [YEAR]})
    found = check_spend(policy, ledger, (TRAIN,), DELTA, SPLIT, dates=Dates(day + today, day + planned))
    assert (found is not None and found.code == "clock-doubtful") == doubtful
    assert check_spend(parse_policy(SECOND), ledger, (TRAIN,), DELTA, SPLIT) is None, "without periods no clock matters"


def test_a_period_of_another_population_bounds_nobody_and_is_refused(ledger: Ledger) -> None:
    policy = parse_policy({**SECOND, "budget_periods": [{**YEAR, "population": "mian"}]})
    found = check_spend(policy, ledger, (TRAIN,), DELTA, SPLIT, dates=at(0))
    assert found is not None
    assert found.code == "population-unknown"
    with pytest.raises(PolicyError, match="judged by dates"):
        check_spend(parse_policy({**SECOND, "budget_periods": [YEAR]}), ledger, (TRAIN,), DELTA, SPLIT)


def test_accounts_show_every_budget_and_what_is_left_of_it(ledger: Ledger) -> None:
    ledger.spend(details(1), (TRAIN,), NOW)
    found = accounts(parse_policy({**SHARED, "budget_periods": [YEAR]}), ledger, DELTA, NOW.toordinal() + 400)
    assert [(one.name, one.limit) for one in found] == [
        ("for ever", 20.0),
        ("within 365 days", 3.0),
        ("updates in the clear, for ever", 60.0),
    ]
    assert found[0].spent == found[2].spent == ledger.epsilon(DELTA)
    assert (found[1].spent, found[1].left) == (0.0, 3.0)
