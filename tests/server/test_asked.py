"""What a lead asks of a run beside its model goes into the signed plan, or is refused before anything is spent."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from consortium.plan import Plan
from consortium.roster import Founder, Member, Roster
from server.asked import asked_sentences
from server.config import load_config
from server.errors import PlanningError
from server.planning import make_plan
from tasks.errors import ContractError
from tasks.run_options import run_options

SITES = ("berlin", "lyon", "oslo", "porto")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Planned = Callable[..., Plan]


@pytest.fixture(scope="module")
def planned() -> Planned:
    members = [Member(site, "site", bytes([20 + at]) * 32, f"key {site}") for at, site in enumerate(SITES)]
    members.append(Member("lead-a", "lead", b"\x01" * 32, ""))
    ordered = tuple(sorted(members, key=lambda member: member.id))
    roster = Roster("test", 1, 1, 3, (Founder("f", b"\x02" * 32),), 1, b"\x03" * 16, 0.25, ordered)
    nodes = {site: at for at, site in enumerate(SITES, start=1)}

    def plan(*overrides: str) -> Plan:
        words = ["federation=roster", "federation.default_patients=100", "privacy=none", *overrides]
        return make_plan(load_config(words), roster, nodes, lead="lead-a", now=NOW)

    return plan


def test_what_is_asked_is_in_the_plan_that_everybody_signs(planned: Planned) -> None:
    words = ("task=cdp_2y", "task.options.leave_out=berlin", "task.options.train_until_year=2019", "task.options.split=rows")
    asked = run_options(dict(planned(*words).model.options))
    assert (asked.leave_out, asked.train_until_year, asked.split, asked.model) == ("berlin", 2019, "rows", {})


def test_a_report_says_whom_its_figures_are_about(planned: Planned) -> None:
    plain, asked = planned("task=cdp_2y"), planned("task=cdp_2y", *(f"task.options.{word}" for word in
                           ("leave_out=berlin", "train_until_year=2019", "split=rows")))  # fmt: skip
    assert [sentence.partition(" ")[0] for sentence in asked_sentences(plain)] == ["Figures"]
    said = " ".join(asked_sentences(asked))
    for words in ("berlin was left out", "end of 2019", "ROWS WERE PARTED, NOT PATIENTS"):
        assert words in said
    assert asked_sentences(planned("task=cohort_description")) == []


def test_a_site_that_is_left_out_takes_part(planned: Planned) -> None:
    with pytest.raises(PlanningError, match="leave_out is 'bern', which is no participant: choose of berlin, lyon, oslo, porto"):
        planned("task.options.leave_out=bern")


def test_rows_are_parted_without_privacy_only(planned: Planned) -> None:
    with pytest.raises(PlanningError, match=r"no epsilon holds for a run of mode local: choose privacy=none"):
        planned("privacy=epsilon3", "task.options.split=rows")


def test_only_dated_records_are_cut_in_time(planned: Planned) -> None:
    with pytest.raises(PlanningError, match="cis_conversion have no date"):
        planned("task.options.train_until_year=2015")


@pytest.mark.parametrize("word", ["split=visits", "train_until_year=soon", "drop_rate=1.0"])
def test_a_value_outside_its_range_is_named(planned: Planned, word: str) -> None:
    with pytest.raises(ContractError, match=word.partition("=")[0]):
        planned(f"task.options.{word}")


def test_whole_scans_are_judged_within_a_deadline_that_allows_it(planned: Planned) -> None:
    with pytest.raises(PlanningError, match=r"deadlines.update_s is 120: task lesion_seg judges whole scans .* Give 900 or more"):
        planned("task=lesion_seg")
    assert planned("task=lesion_seg", "deadlines.update_s=900").deadlines.update_s == 900


def test_a_task_that_sums_trains_nobody_and_leaves_nobody_out(planned: Planned) -> None:
    with pytest.raises(ContractError, match="option 'leave_out' is unknown"):
        planned("task=cohort_description", "task.options.leave_out=berlin")


def test_fedprox_needs_a_second_local_step_and_a_pull_that_does_not_overshoot(planned: Planned) -> None:
    with pytest.raises(PlanningError, match=r"schedule\.local_steps=2 or more"):
        planned("strategy=fedprox")
    with pytest.raises(PlanningError, match="above 1, so the pull overshoots"):
        planned("strategy=fedprox", "schedule.local_steps=3", "strategy.options.mu=1.5")
    plan = planned("strategy=fedprox", "schedule.local_steps=3")
    assert (plan.strategy.name, dict(plan.strategy.options)["mu"]) == ("fedprox", 0.1)
