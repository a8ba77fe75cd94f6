"""Plans: calibrated for the worst case they allow, bounded so that nothing wraps, costed before anything is spent."""

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from consortium.plan import NOT_PRIVATE, Plan
from consortium.roster import Founder, Member, Roster
from privacy.terms import epsilon_charged, epsilon_exposed, honest_minimum, off_grid
from server.config import load_config
from server.cost import bytes_per_site, cost, cost_lines
from server.errors import PlanningError, StrategyError
from server.planning import coordinate_clip, default_delta, make_plan
from tasks.features import Design
from tasks.registry import get_task

SITES = ("hospital-a", "hospital-b", "hospital-c", "hospital-d")
NODES = {site: 1000 + at for at, site in enumerate(SITES)}
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def consortium() -> Roster:
    members = [Member(site, "site", bytes([20 + at]) * 32, f"key {site}") for at, site in enumerate(SITES)]
    members.append(Member("lead-a", "lead", b"\x01" * 32, ""))
    ordered = tuple(sorted(members, key=lambda member: member.id))
    return Roster("test", 1, 1, 3, (Founder("f", b"\x02" * 32),), 1, b"\x03" * 16, 0.25, ordered)


@pytest.fixture(scope="module")
def planned(consortium: Roster) -> Callable[..., Plan]:
    made: dict[tuple[str, ...], Plan] = {}

    def plan(*overrides: str) -> Plan:
        if overrides not in made:
            made[overrides] = make_plan(load_config(overrides), consortium, NODES, lead="lead-a", now=NOW)
        return made[overrides]

    return plan


@pytest.mark.parametrize("epsilon", [1, 3])
def test_the_worst_case_of_a_plan_stays_within_its_target(planned: Callable[..., Plan], epsilon: int) -> None:
    plan = planned(f"privacy=epsilon{epsilon}")
    assert epsilon * 0.98 < epsilon_exposed(plan) <= plan.privacy.epsilon_exposed <= epsilon
    assert plan.privacy.epsilon_model < plan.privacy.epsilon_exposed


def test_a_plan_is_the_same_for_the_same_configuration(planned: Callable[..., Plan], consortium: Roster) -> None:
    again = make_plan(load_config(["privacy=epsilon1"]), consortium, NODES, lead="lead-a", now=NOW)
    assert again.digest == planned("privacy=epsilon1").digest


def test_a_plan_holds_what_the_task_says(planned: Callable[..., Plan]) -> None:
    plan = planned("privacy=none")
    design = Design(get_task("cis_conversion").contract)
    assert plan.task.columns == get_task("cis_conversion").contract.column_names
    assert plan.statistics == design.n_statistics
    assert plan.privacy.describe_clip == design.describe_bound
    assert plan.n_buffers == 2 * design.n_numeric
    assert plan.n_parameters == design.n_inputs + 1
    assert [participant.node_id for participant in plan.participants] == [1000, 1001, 1002, 1003]
    assert plan.run_id == "cis-conversion-none-2026-01-02t03-04-05z"


def test_no_privacy_is_written_as_such_everywhere(planned: Callable[..., Plan]) -> None:
    plan = planned("privacy=none")
    assert (plan.privacy.epsilon_exposed, plan.privacy.epsilon_model) == (NOT_PRIVATE, NOT_PRIVATE)
    found = cost(plan, colluders=1, minimum_cohort=3)
    assert found.epsilon_exposed == math.inf
    assert found.document()["epsilon_exposed"] == -1.0  # type: ignore[index, call-overload]
    assert any("NOT PRIVATE" in line for line in cost_lines(found))


@pytest.mark.parametrize(("patients", "delta"), [(10, 1e-4), (900, 1e-4), (5501, 7.6e-5), (100_000, 3.1e-6)])
def test_delta_is_below_one_over_all_patients_and_never_above_the_limit(patients: int, delta: float) -> None:
    assert default_delta(patients) == pytest.approx(delta)
    assert default_delta(patients) <= min(1e-4, patients**-1.1)


def test_the_coordinate_clip_leaves_eight_sigmas_of_the_smallest_site(planned: Callable[..., Plan]) -> None:
    plan = planned("privacy=epsilon1")
    sigma = plan.privacy.train_noise * plan.privacy.clip / 150
    assert math.frexp(plan.coordinate_clip)[0] == 0.5
    assert plan.coordinate_clip >= 8 * sigma + 2 * plan.privacy.clip
    assert plan.coordinate_clip / 2 < 8 * sigma + 2 * plan.privacy.clip


def test_the_clip_grows_with_the_local_steps(planned: Callable[..., Plan]) -> None:
    plan = planned("privacy=none")
    longer = replace(plan, schedule=replace(plan.schedule, local_steps=8))
    assert coordinate_clip(longer) == 8 * coordinate_clip(plan)


def test_round_numbers_never_run_out_before_the_attempts_do(planned: Callable[..., Plan]) -> None:
    schedule = planned("privacy=none").schedule
    assert schedule.max_round > schedule.max_describe + schedule.max_train + schedule.max_evaluate


def test_the_cost_names_what_will_be_spent(planned: Callable[..., Plan]) -> None:
    found = cost(planned("privacy=epsilon1"), colluders=1, minimum_cohort=3)
    assert (found.minimum_survivors, found.dropouts_tolerated, found.honest_in_every_sum) == (3, 1, 2)
    assert [site.site for site in found.sites] == list(SITES)
    assert sum(site.weight for site in found.sites) == pytest.approx(1.0)
    assert (found.train_rounds, found.evaluations) == (80, 3)  # rounds 40, 80 and the final one


def test_the_cost_fits_a_terminal(planned: Callable[..., Plan]) -> None:
    for choice in ("privacy=epsilon1", "privacy=none"):
        assert max(map(len, cost_lines(cost(planned(choice), colluders=1, minimum_cohort=3)))) <= 80


def test_bytes_grow_by_four_for_each_parameter_and_round(planned: Callable[..., Plan]) -> None:
    plan = planned("privacy=none")
    weight, bias = plan.model.parameters
    wider = replace(weight, shape=(1, weight.size + 1))
    up, down = bytes_per_site(plan)
    more_up, more_down = bytes_per_site(replace(plan, model=replace(plan.model, parameters=(wider, bias))))
    assert more_up - up == 4 * 80
    assert more_down - down == 4 * 82  # the model goes out in describe and evaluate rounds too


def test_a_header_that_could_wrap_is_refused(planned: Callable[..., Plan]) -> None:
    plan = planned("privacy=epsilon1")
    loud = replace(plan, privacy=replace(plan.privacy, evaluate_noise=1e9))
    with pytest.raises(PlanningError, match="could leave the ring"):
        cost(loud, colluders=1, minimum_cohort=3)


@pytest.mark.parametrize(
    ("overrides", "nodes", "error", "says"),
    [
        (["federation.sites.oslo=90"], NODES, PlanningError, "'oslo' is not on the roster"),
        ([], {"hospital-a": 1}, PlanningError, "'hospital-b' has no node id"),
        (
            ["federation=roster", "federation.sites.hospital-a=5", "federation.default_patients=0"],
            NODES,
            PlanningError,
            "1 sites, the roster asks for at least 3",
        ),
        (["privacy.mode=remote"], NODES, PlanningError, "'remote'; known: local, distributed, none"),
        (["strategy.options.rate=-1"], NODES, StrategyError, "rate"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    consortium: Roster, overrides: list[str], nodes: dict[str, int], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        make_plan(load_config(overrides), consortium, nodes, lead="lead-a", now=NOW)


def test_sites_that_are_not_named_take_the_default_size(consortium: Roster) -> None:
    config = load_config(["federation=roster", "federation.sites.hospital-b=55", "privacy=none"])
    plan = make_plan(config, consortium, NODES, lead="lead-a", now=NOW)
    assert [participant.declared_patients for participant in plan.participants] == [200, 55, 200, 200]


def test_a_distributed_plan_is_charged_its_target_and_states_what_one_update_would_cost(consortium: Roster) -> None:
    """h equal shares make the noise that is charged; the grid is the finest that the ring has room for."""
    large = replace(consortium, colluders=0, minimum_cohort=4)
    config = load_config(["privacy=distributed3"])
    plan = make_plan(config, large, NODES, lead="lead-a", now=NOW)
    terms = plan.privacy
    assert terms.honest == honest_minimum(4, colluders=0, minimum_cohort=4) == 2
    assert 2.9 < epsilon_charged(plan) <= terms.epsilon_model <= 3.0
    assert terms.epsilon_exposed == pytest.approx(epsilon_exposed(plan), abs=1e-3)
    assert terms.epsilon_exposed > terms.epsilon_model + 1.0
    assert off_grid(plan) == ()
    assert off_grid(replace(plan, privacy=replace(terms, grid_bits=terms.grid_bits + 1)))
    local = make_plan(load_config(["privacy=epsilon3"]), large, NODES, lead="lead-a", now=NOW)
    assert terms.train_noise == pytest.approx(local.privacy.train_noise / 2**0.5, rel=0.01)


def test_a_distributed_plan_that_gains_nothing_is_not_made(consortium: Roster) -> None:
    """Where one honest share is all that a sum must hold, the mode would weaken the promise for no gain."""
    with pytest.raises(PlanningError, match=r"privacy\.mode=local"):
        make_plan(
            load_config(["privacy=distributed3"]), replace(consortium, colluders=0, minimum_cohort=3), NODES, lead="lead-a", now=NOW
        )


def test_canaries_are_for_models_that_do_not_feel_them(consortium: Roster) -> None:
    small = make_plan(load_config([]), consortium, NODES, lead="lead-a", now=NOW)
    large = make_plan(
        load_config(["task=cis_conversion_mlp", "task.options.hidden=1024"]), consortium, NODES, lead="lead-a", now=NOW
    )
    assert (small.privacy.canaries, large.privacy.canaries) == (0, 1000)
