"""When a site's budget ends in the middle of a run the site leaves it between two rounds, says so once, and may come back."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import guards_in_process
import pytest
from guards_in_process import ENDLESS, SITES, Consortium, Run, answered, code_of, make_consortium, terms

from client.cli import main
from client.clock import utc
from client.job import Job
from client.steward import runs_left
from consortium.plan import Plan
from consortium.wire import Reply, Request
from privacy.ledger import head_path
from privacy.terms import epsilon_charged
from privacy.verify import verify_ledger
from secagg.coordinator import Epoch
from server.folder import RunFolder, create_folder
from server.report import status
from server.rounds import Clock, run
from server.state import RunState
from server.transport import Patience

SITE = SITES[0]
FOUR = (*SITES, "hospital-4")


def entries(consortium: Consortium, kind: str, site: str = SITE) -> list[dict[str, object]]:
    lines = map(json.loads, consortium.home(site).ledger.read_bytes().splitlines())
    return [line["body"] for line in lines if line["kind"] == kind]


def charged_rounds(consortium: Consortium, of: Run) -> list[object]:
    return [body["round"] for body in entries(consortium, "spend") if body["plan_digest"] == of.signed.digest.hex()]


def plan_of(consortium: Consortium, **changes: object) -> Plan:
    """Training is what costs: four rounds of 8, one statistic of 10 and histograms of 40 bounds."""
    return consortium.plan(privacy=terms(evaluate_noise=40.0), **changes)


def limited(consortium: Consortium, budget: float, site: str = SITE) -> None:
    consortium.policy(ENDLESS.replace("budget_epsilon: 50.0", f"budget_epsilon: {budget}"), site)


def two_runs(consortium: Consortium, factor: float = 1.05) -> tuple[Run, Run]:
    """Each fits the site's budget when it begins; together they do not."""
    plan = plan_of(consortium)
    limited(consortium, plan.privacy.epsilon_exposed * factor)
    return consortium.run(plan), consortium.run(replace(plan, run_id="run-2"))


def used_up(consortium: Consortium) -> tuple[Run, Run]:
    """Two rounds of the first run, then the second until the budget of the site has no room for a round of either."""
    first, second = two_runs(consortium)
    epoch, other = first.epoch(), second.epoch()
    for number in (1, 2):
        first.round(epoch, number)
    until_refused(second, other)
    assert code_of(first.update(first.open_round(epoch, 3), SITE)) == "BUDGET"
    return first, second


def until_refused(run: Run, epoch: Epoch) -> None:
    number = 1
    while not (code := refused(run, run.update(run.open_round(epoch, number), SITE))):
        number += 1
    assert (code, number > 1) == ("BUDGET", True)


def left_of(consortium: Consortium) -> dict[str, str]:
    """As `wardround-site status` says it: from the ledger, run by run."""
    return {note.run_id: note.left for note in runs_left(consortium.home(SITE)).values()}


def refused(run: Run, reply: tuple[bytes, bytes]) -> str:
    return "" if reply[1] else code_of(reply)


def whole(consortium: Consortium, site: str = SITE) -> bool:
    path = consortium.home(site).ledger
    return verify_ledger(path.read_bytes(), consortium.home(site).load_identity().public, head_path(path).read_bytes()).ok


def test_the_site_says_once_that_it_left_and_why_and_trains_and_charges_no_more(consortium: Consortium) -> None:
    first, _ = used_up(consortium)
    trained = len(consortium.train[SITE].jobs)  # type: ignore[attr-defined]
    for number in (4, 5):
        assert code_of(first.ask_keys(number=number)) == "BUDGET"
    assert charged_rounds(consortium, first) == [1, 2], "each is charged whole or not at all"
    notes = [body for body in entries(consortium, "run-note") if body["run_id"] == "run-1"]
    assert [note["code"] for note in notes] == ["left:budget-exceeded"]
    assert str(notes[0]["text"]).startswith("left the run after round 2: This round would exceed the privacy budget of this site.")
    assert "spent" in str(notes[0]["text"])
    assert len(consortium.train[SITE].jobs) == trained == consortium.spends()  # type: ignore[attr-defined]
    assert whole(consortium)


def test_a_restarted_guard_does_not_say_it_again(consortium: Consortium) -> None:
    first, _ = used_up(consortium)
    before = entries(consortium, "run-note")
    consortium.restart(SITE)
    assert code_of(first.ask_keys(number=9)) == "BUDGET"
    assert entries(consortium, "run-note") == before
    assert left_of(consortium)["run-1"] == "budget-exceeded"
    assert "left" not in consortium.guard(SITE).status(), "why it left is for the people here, not for the gateway"


def test_a_round_that_was_charged_before_the_budget_ended_is_voted_for_and_opens(consortium: Consortium) -> None:
    """Between the update and the vote of a round another run takes what was left: the round is paid for and counts."""
    first, second = two_runs(consortium)
    epoch, other = first.epoch(), second.epoch()
    first.round(epoch, 1)
    uploads = first.upload(first.open_round(epoch, 2))
    until_refused(second, other)
    assert SITE in first.votes(uploads.close()).close().survivors
    assert code_of(first.update(first.open_round(epoch, 3), SITE)) == "BUDGET"
    assert charged_rounds(consortium, first) == [1, 2]


def test_a_round_whose_histogram_alone_does_not_fit_is_not_charged_for_its_training_either(consortium: Consortium) -> None:
    plan = consortium.plan(privacy=terms(train_noise=40.0, evaluate_noise=3.0))
    limited(consortium, plan.privacy.epsilon_exposed)
    run, other = consortium.run(plan), consortium.run(replace(plan, run_id="run-2"))
    epoch, beside = run.epoch(), other.epoch()
    run.round(epoch, 1)  # 2 and 4 carry a histogram about held-out patients, 1 and 3 do not
    for number in (2, 4, 6, 8):
        assert answered(other.update(other.open_round(beside, number), SITE))
    run.round(epoch, 2)
    before = consortium.sites_open[SITE].ledger.spends()
    assert code_of(run.update(run.open_round(epoch, 4), SITE)) == "BUDGET"
    assert consortium.sites_open[SITE].ledger.spends() == before
    assert SITE in run.round(epoch, 5).survivors, "a round without one still fits"


def test_raising_the_policy_lets_the_site_come_back(consortium: Consortium) -> None:
    first, _ = used_up(consortium)
    consortium.policy(ENDLESS, SITE)
    epoch = first.epoch(7)
    assert SITE in first.round(epoch, 3).survivors
    assert charged_rounds(consortium, first) == [1, 2, 3]
    assert "run-1" not in left_of(consortium)
    limited(consortium, first.plan.privacy.epsilon_exposed * 1.05)
    assert code_of(first.update(first.open_round(epoch, 4), SITE)) == "BUDGET"
    notes = [body["code"] for body in entries(consortium, "run-note") if body["run_id"] == "run-1"]
    assert notes == ["left:budget-exceeded"] * 2, "it left twice, and says so twice"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("max_epsilon_per_plan: 50.0", "max_epsilon_per_plan: 0.1"), "plan-above-limit"),
        (("budget_epsilon: 50.0", "budget_epsilon: 0.1"), "plan-above-budget"),
        (('leads: ["*"]', "leads: [somebody]"), "lead-not-allowed"),
    ],
)
def test_a_policy_tightened_in_the_middle_of_a_run_makes_the_site_leave(
    consortium: Consortium, change: tuple[str, str], code: str
) -> None:
    run = consortium.run()
    epoch = run.epoch()
    run.round(epoch, 1)
    consortium.policy(ENDLESS.replace(*change), SITE)
    for _ in range(2):
        assert code_of(run.update(run.open_round(epoch, 2), SITE)) == "POLICY"
    assert [body["code"] for body in entries(consortium, "run-note")] == [f"left:{code}"]
    assert consortium.spends() == 1


def test_a_period_that_is_used_up_makes_the_site_leave_and_a_clock_set_forward_brings_it_back_no_sooner(
    consortium: Consortium,
) -> None:
    plan = plan_of(consortium, created=utc(consortium.clock.now))
    cost = plan.privacy.epsilon_exposed
    period = f"{{population: test, days: 30, epsilon: {cost * 1.05}}}"
    consortium.policy(ENDLESS.replace("version: 1", f"version: 2\nbudget_periods: [{period}]"), SITE)
    first = consortium.run(plan)
    first.round(first.epoch(), 1)
    second = consortium.run(replace(plan, run_id="run-2", schedule=replace(plan.schedule, max_train=4)))
    assert code_of(second.ask_keys()) == "BUDGET"
    for days in (-300, -2, 20, 40, 4_000):
        consortium.clock.now += days * 86_400.0
        assert code_of(second.ask_keys()) == "BUDGET"
        consortium.clock.now -= days * 86_400.0
    consortium.clock.now += 33 * 86_400.0
    later = consortium.run(replace(plan, run_id="run-3", created=utc(consortium.clock.now)))
    assert answered(later.ask_keys()), "a month has passed by the site's clock and by the lead's"


def test_days_that_pass_give_no_round_back_to_a_run_whose_period_is_used_up_and_a_new_plan_gets_them(
    consortium: Consortium,
) -> None:
    """Why the coordinator counts BUDGET among the codes for good: a period is judged by the plan's date, and that stays."""
    plan = plan_of(consortium, created=utc(consortium.clock.now))
    period = f"{{population: test, days: 3, epsilon: {plan.privacy.epsilon_exposed * 1.05}}}"
    consortium.policy(ENDLESS.replace("version: 1", f"version: 2\nbudget_periods: [{period}]"), SITE)
    first, second = consortium.run(plan), consortium.run(replace(plan, run_id="run-2"))
    epoch, other = first.epoch(), second.epoch()
    for number in (1, 2):
        first.round(epoch, number)
    until_refused(second, other)
    assert code_of(first.update(first.open_round(epoch, 3), SITE)) == "BUDGET"
    for days in (2, 5, 20):
        consortium.clock.now += days * 86_400.0
        assert code_of(first.ask_keys(number=9)) == "BUDGET"
    assert [body["code"] for body in entries(consortium, "run-note") if body["run_id"] == "run-1"] == ["left:period-exceeded"]
    later = consortium.run(replace(plan, run_id="run-3", created=utc(consortium.clock.now)))
    assert answered(later.ask_keys())


def test_a_plan_that_was_made_on_no_day_is_refused_by_name(consortium: Consortium) -> None:
    consortium.policy(
        ENDLESS.replace("version: 1", "version: 2\nbudget_periods: [{population: test, days: 9, epsilon: 50.0}]"), SITE
    )
    assert code_of(consortium.run(consortium.plan(created="2026-02-30T10:00:00Z")).ask_keys()) == "POLICY"


def test_a_period_of_another_population_trains_nothing(consortium: Consortium) -> None:
    period = "{population: mian, days: 30, epsilon: 50.0}"
    consortium.policy(ENDLESS.replace("version: 1", f"version: 2\nbudget_periods: [{period}]"), SITE)
    assert code_of(consortium.run(plan_of(consortium, created=utc(consortium.clock.now))).ask_keys()) == "BUDGET"
    assert consortium.spends() == 0


# -- what people see -------------------------------------------------------------------------------------------------------------


def shown(consortium: Consortium, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["--home", str(consortium.home(SITE).root), *words]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_stewards_read_that_the_site_left_at_which_round_and_what_was_spent(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = used_up(consortium)
    words = "run run-1: left the run after round 2: This round would exceed the privacy budget of this site."
    for command in (("plans", "list"), ("budget",)):
        assert words in shown(consortium, capsys, *command)
    assert words.removeprefix("run run-1: ") in shown(consortium, capsys, "plans", "show", first.signed.digest.hex())
    listed = json.loads(shown(consortium, capsys, "--json", "plans", "list"))
    assert {row["run"]: row["left"] for row in listed}["run-1"] == "budget-exceeded"


def test_the_budget_command_shows_periods_and_what_is_exposed(consortium: Consortium, capsys: pytest.CaptureFixture[str]) -> None:
    run = consortium.run()
    run.round(run.epoch(), 1)
    period = "{population: test, days: 30, epsilon: 9.0}"
    consortium.policy(ENDLESS.replace("version: 1", f"version: 2\nbudget_periods: [{period}]\nbudget_exposed_epsilon: 60.0"), SITE)
    rows = json.loads(shown(consortium, capsys, "--json", "budget"))
    assert [(row["budget of"], row["budget"]) for row in rows] == [
        ("for ever", 50.0),
        ("within 30 days", 9.0),
        ("updates in the clear, for ever", 60.0),
    ]
    spent = [float(row["epsilon spent"]) for row in rows]
    assert spent[0] == pytest.approx(spent[2], abs=0.005)
    assert float(rows[2]["left"]) == pytest.approx(60.0 - spent[2], abs=1e-3)


# -- the real coordinator --------------------------------------------------------------------------------------------------------


@dataclass
class Direct:
    """`Transport` that asks the guards in this process."""

    consortium: Consortium
    failures: Mapping[str, str] = field(default_factory=dict)

    def exchange(self, kind: str, requests: Mapping[str, Request], patience: Patience) -> Iterator[tuple[str, Reply]]:
        for site, request in requests.items():
            control, y = self.consortium.guard(site).answer(kind, request.control, request.body)
            yield site, Reply(control, bytes(y))

    def close(self) -> None:
        pass


@dataclass
class Moments:
    """Time that passes only while somebody waits."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(self.monotonic, self.sleep)


@pytest.fixture
def four(tmp_path: Path, hospitals: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Consortium]:
    """Four hospitals of which three suffice."""
    monkeypatch.setattr(guards_in_process, "SITES", FOUR)
    found = make_consortium(tmp_path / "consortium", hospitals)
    yield found
    for site in list(found.opened):
        found.stop(site)


def lead(consortium: Consortium, plan: Plan, folder: Path) -> RunFolder:
    return create_folder(folder, consortium.sign(plan), consortium.signed_roster)


def driven(consortium: Consortium, folder: RunFolder) -> RunState:
    return run(folder.path, Direct(consortium), clock=Moments().clock)


def spent_elsewhere(consortium: Consortium, at: int) -> None:
    """While the site trains round `at`, another study of the lead takes the rest of its budget."""
    other = consortium.run(replace(plan_of(consortium), run_id="run-2"))
    epochs = [other.epoch(99)]  # it fitted whole when it began

    def act(job: Job) -> None:
        if epochs and (job.plan.run_id, job.round_number) == ("run-1", at):
            until_refused(other, epochs.pop())

    consortium.train[SITE].before = act  # type: ignore[attr-defined]


def test_the_run_goes_on_with_the_others_and_the_lead_sees_who_left_and_why(four: Consortium, tmp_path: Path) -> None:
    plan = plan_of(four)
    limited(four, epsilon_charged(plan) * 1.05)
    spent_elsewhere(four, at=3)
    folder = lead(four, plan, tmp_path / "lead")
    state = driven(four, folder)
    assert state.phase == "finished"
    mine = [body for body in entries(four, "spend") if body["run_id"] == "run-1"]
    by_round = {done.round: done.survivors for done in state.done}
    left = [body for body in entries(four, "run-note") if body["run_id"] == "run-1"]
    assert [note["code"] for note in left] == ["left:budget-exceeded"]
    assert {body["round"] for body in mine} == {number for number, survivors in by_round.items() if SITE in survivors}
    assert set(by_round[max(by_round)]) == set(FOUR) - {SITE}
    gone = [drop for done in state.done for drop in done.dropped if drop.site == SITE]
    assert [drop.code for drop in gone] == ["BUDGET"]
    rounds = {site: sum(site in survivors for survivors in by_round.values()) for site in FOUR}
    shown = status(folder.path)
    assert shown["sites"] == rounds
    assert [(one["site"], one["code"]) for one in shown["left"]] == [(SITE, "BUDGET")]  # type: ignore[union-attr, index, call-overload]
    assert {site: left.round for site, left in state.left.items()} == {
        SITE: next(done.round for done in state.done if gone[0] in done.dropped)
    }


def test_below_the_smallest_epoch_the_run_stops_and_resumes_once_the_policy_is_raised(
    consortium: Consortium, tmp_path: Path
) -> None:
    plan = plan_of(consortium)
    limited(consortium, epsilon_charged(plan) * 1.05)
    spent_elsewhere(consortium, at=3)
    folder = lead(consortium, plan, tmp_path / "lead")
    state = driven(consortium, folder)
    assert (state.phase, state.stopped, list(state.left)) == ("stopped", "REFUSED", [SITE])
    consortium.policy(ENDLESS, SITE)
    resumed = driven(consortium, folder)
    assert (resumed.phase, resumed.left) == ("finished", {})
    assert SITE in resumed.done[-1].survivors
    assert whole(consortium)
