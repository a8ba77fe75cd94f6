"""A spend is on disk before training starts, and stays whatever becomes of the training."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from guards_in_process import ENDLESS, SITES, Consortium, RecordedTrain, answered, code_of

from client.daemon import open_site
from client.errors import Refused, TrainerError
from client.job import Job, Result
from consortium.plan import ParameterSpec
from privacy.errors import LedgerError
from privacy.ledger import Ledger
from privacy.verify import verify_ledger

SITE = SITES[0]


def last_entry(consortium: Consortium, site: str = SITE) -> dict[str, object]:
    found: dict[str, object] = json.loads(consortium.home(site).ledger.read_bytes().splitlines()[-1])
    return found


def before_training(consortium: Consortium, act: Callable[[Job], None], site: str = SITE) -> None:
    consortium.train[site].before = act  # type: ignore[attr-defined]


def jobs(consortium: Consortium, site: str = SITE) -> list[Job]:
    found: list[Job] = consortium.train[site].jobs  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(("purpose", "number"), [("describe", 1), ("train", 1), ("train", 2), ("evaluate", 3)])
def test_the_spend_of_a_round_is_on_disk_when_its_training_starts(consortium: Consortium, purpose: str, number: int) -> None:
    run, seen = consortium.run(), []
    phase = run.open_round(run.epoch(), number, purpose)

    def look(job: Job) -> None:
        report = verify_ledger(consortium.home(SITE).ledger.read_bytes(), consortium.home(SITE).load_identity().public)
        seen.append((last_entry(consortium), report.ok))

    before_training(consortium, look)
    assert answered(run.update(phase, SITE))
    ((entry, whole),) = seen
    assert entry["kind"] == "spend"
    assert whole
    body = entry["body"]
    assert isinstance(body, dict)
    assert (body["round"], body["purpose"], body["plan_digest"]) == (number, purpose, run.signed.digest.hex())


def test_every_local_step_and_every_histogram_is_charged(consortium: Consortium) -> None:
    plan = consortium.plan()
    run = consortium.run(consortium.plan(schedule=replace(plan.schedule, local_steps=7)))
    epoch = run.epoch()
    for number in (1, 2):  # only round 2 carries a histogram
        assert answered(run.update(run.open_round(epoch, number), SITE))
    spent = {(spend.population, spend.count) for spend in consortium.sites_open[SITE].ledger.spends()}
    assert spent == {("train", 14), ("held_out", 1)}


def fails(error: Exception) -> Callable[[Job], None]:
    def act(job: Job) -> None:
        raise error

    return act


@pytest.mark.parametrize("error", [TrainerError("died"), TrainerError("late")])
def test_a_failed_training_keeps_its_spend_and_costs_only_its_round(consortium: Consortium, error: Exception) -> None:
    run = consortium.run()
    epoch = run.epoch()
    phase = run.open_round(epoch, 1)
    before_training(consortium, fails(error))
    assert code_of(run.update(phase, SITE)) == "TRAINING"
    assert consortium.spends() == 1
    assert code_of(run.update(phase, SITE)) == "ROUND"
    assert len(jobs(consortium)) == 1
    before_training(consortium, lambda job: None)
    voting = run.votes(run.upload(phase, lost=[SITE]).close())
    assert SITE in voting.ballots
    assert voting.close().survivors == SITES[1:]
    assert run.round(epoch, 2).survivors == SITES
    assert consortium.spends() == 2


def test_a_training_that_gives_another_number_of_values_leaves_nothing(consortium: Consortium) -> None:
    def longer(job: Job, deadline_s: float) -> Result:
        model = replace(job.plan.model, parameters=(*job.plan.model.parameters, ParameterSpec("extra", (5,))))
        return RecordedTrain()(replace(job, plan=replace(job.plan, model=model)), deadline_s)

    consortium.train[SITE] = longer
    run = consortium.run()
    assert code_of(run.update(run.open_round(run.epoch(), 1), SITE)) == "TRAINING"
    assert consortium.spends() == 1


def test_a_plan_the_trainer_cannot_serve_is_charged_once_and_not_in_every_round(consortium: Consortium) -> None:
    run = consortium.run()
    epoch = run.epoch()
    before_training(consortium, fails(Refused("TASK", "another version of the task")))
    assert code_of(run.update(run.open_round(epoch, 1), SITE)) == "TASK"
    for number in (2, 3):
        assert code_of(run.update(run.open_round(epoch, number), SITE)) == "TASK"
    assert (consortium.spends(), len(jobs(consortium))) == (1, 1)


def test_a_ledger_that_cannot_be_written_stops_training(consortium: Consortium) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)
    consortium.sites_open[SITE].ledger.close()
    assert code_of(run.update(phase, SITE)) == "LEDGER"
    assert jobs(consortium) == []


def test_a_site_without_room_for_its_ledger_joins_no_epoch_and_does_once_there_is(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = consortium.run()
    with monkeypatch.context() as full:
        full.setattr(Ledger, "check_room", no_room)
        assert code_of(run.ask_keys()) == "LEDGER"
    assert answered(run.ask_keys(number=2))


def no_room(_: Ledger) -> None:
    raise LedgerError("no room; free some space")


def test_a_plans_endless_deadline_is_cut(consortium: Consortium) -> None:
    plan = consortium.plan()
    run = consortium.run(replace(plan, deadlines=replace(plan.deadlines, update_s=10**400)))
    assert answered(run.update(run.open_round(run.epoch(), 1), SITE))


# -- repeats -------------------------------------------------------------------------------------------------------------------


def test_the_same_request_again_gets_the_same_bytes_and_one_entry(consortium: Consortium) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)
    first = run.update(phase, SITE)
    assert [run.update(phase, SITE) for _ in range(3)] == [first] * 3
    voting = run.upload(phase).close()
    ballot = run.vote(voting, SITE)
    assert run.vote(voting, SITE) == ballot
    assert run.update(phase, SITE) == first
    assert consortium.spends() == 1, "besides, one egress entry for each answer that left"
    assert len(jobs(consortium)) == 1


def in_threads(acts: list[Callable[[], object]]) -> list[object]:
    found: list[object] = [None] * len(acts)

    def act(at: int) -> None:
        found[at] = acts[at]()

    threads = [threading.Thread(target=act, args=(at,)) for at in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_many_of_the_same_request_at_once_train_once(consortium: Consortium) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)
    replies = in_threads([lambda: run.update(phase, SITE)] * 8)
    assert len(set(replies)) == 1
    assert answered(replies[0])  # type: ignore[arg-type]
    assert (consortium.spends(), len(jobs(consortium))) == (1, 1)


def test_different_requests_for_one_round_at_once_train_once(consortium: Consortium) -> None:
    """Eight models under one round number: one of them is taken."""
    run = consortium.run()
    epoch = run.epoch()
    models = [run.model(float(value)) for value in range(8)]
    replies = in_threads([lambda m=model: run.update(run.open_round(epoch, 1, model=m), SITE, m) for model in models])  # type: ignore[misc]
    assert sum(reply[1] != b"" for reply in replies) == 1  # type: ignore[index]
    assert (consortium.spends(), len(jobs(consortium))) == (1, 1)


def test_two_runs_at_once_cannot_overspend_together(consortium: Consortium) -> None:
    plan = consortium.plan()
    runs = [consortium.run(consortium.plan(run_id=f"run-{at}")) for at in range(4)]
    phases = [run.open_round(run.epoch(), 2) for run in runs]
    consortium.policy(ENDLESS.replace("budget_epsilon: 50.0", f"budget_epsilon: {plan.privacy.epsilon_exposed}"))
    in_threads([lambda r=run, p=phase: r.update(p, SITE) for run, phase in zip(runs, phases, strict=True)])  # type: ignore[misc]
    assert consortium.sites_open[SITE].ledger.epsilon(plan.privacy.delta) <= plan.privacy.epsilon_exposed
    assert len(jobs(consortium)) == consortium.spends() >= 1


def test_a_vote_is_answered_while_a_training_is_running(consortium: Consortium) -> None:
    """The round goes on without the slow site's upload, and its vote closes the round for its own training."""
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)
    started, go_on = threading.Event(), threading.Event()

    def slow(job: Job) -> None:
        started.set()
        assert go_on.wait(60)

    before_training(consortium, slow)
    late: list[tuple[bytes, bytes]] = []
    thread = threading.Thread(target=lambda: late.append(run.update(phase, SITE)))
    thread.start()
    assert started.wait(60)
    voting = run.upload(phase, lost=[SITE]).close()
    assert answered(run.vote(voting, SITE))
    assert consortium.guard(SITE).status()["phase"] == "update", "the gateway is told no finer step than it sees"
    go_on.set()
    thread.join(60)
    assert [code_of(reply) for reply in late] == ["ROUND"]
    assert consortium.spends() == 1


def test_a_new_epoch_during_training_gets_no_second_upload(consortium: Consortium) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(1), 1)
    before_training(consortium, lambda job: answered(run.ask_keys(number=2)) and None)
    assert code_of(run.update(phase, SITE)) == "ROUND"
    before_training(consortium, lambda job: None)
    epoch = run.epoch(3)
    assert code_of(run.update(run.open_round(epoch, 1), SITE)) == "ROUND"
    assert answered(run.update(run.open_round(epoch, 2), SITE))
    assert consortium.spends() == 2


# -- restarts ------------------------------------------------------------------------------------------------------------------


def test_a_restarted_guard_wants_a_new_epoch_and_never_reuses_a_round(consortium: Consortium) -> None:
    run = consortium.run()
    epoch = run.epoch(1)
    phase = run.open_round(epoch, 3)
    assert answered(run.update(phase, SITE))
    spent = consortium.sites_open[SITE].ledger.epsilon(1e-5)
    consortium.restart(SITE)
    assert code_of(run.update(phase, SITE)) == "EPOCH"
    assert code_of(run.vote(run.upload(phase, lost=[SITE]).close(), SITE)) == "EPOCH"
    assert consortium.sites_open[SITE].ledger.epsilon(1e-5) == spent
    fresh = run.epoch(2)
    for number in (1, 2, 3):
        assert code_of(run.update(run.open_round(fresh, number), SITE)) == "ROUND"
    assert answered(run.update(run.open_round(fresh, 4), SITE))
    assert consortium.spends() == 2


def test_limits_hold_over_a_restart(consortium: Consortium) -> None:
    run = consortium.run()
    assert answered(run.update(run.open_round(run.epoch(1), 1, "describe"), SITE))
    consortium.restart(SITE)
    assert code_of(run.update(run.open_round(run.epoch(2), 2, "describe"), SITE)) == "LIMIT"


def test_a_second_guard_on_one_folder_does_not_start(consortium: Consortium) -> None:
    consortium.guard(SITE)
    with pytest.raises(LedgerError, match="another process"):
        open_site(consortium.home(SITE), site=SITE, tasks=("cis_conversion",), train=consortium.train[SITE], now=consortium.clock())


@pytest.mark.parametrize("damage", ["missing", "older", "flipped", "cut", "headless"])
def test_a_guard_without_its_whole_ledger_does_not_start(consortium: Consortium, damage: str) -> None:
    run = consortium.run()
    run.epoch()
    path = consortium.home(SITE).ledger
    older = path.read_bytes()
    assert answered(run.update(run.open_round(run.epoch(2), 1), SITE))
    consortium.stop(SITE)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "headless":
        path.with_name(path.name + ".head").unlink()
    else:
        cut = data.rstrip(b"\n").rpartition(b"\n")[0]
        path.write_bytes({"older": older, "flipped": data[:400] + bytes([data[400] ^ 1]) + data[401:], "cut": cut}[damage])
    with pytest.raises(LedgerError):
        consortium.guard(SITE)


def test_a_reopened_ledger_goes_on_where_it_was(consortium: Consortium) -> None:
    run = consortium.run()
    assert answered(run.update(run.open_round(run.epoch(), 1), SITE))
    consortium.stop(SITE)
    home = consortium.home(SITE)
    with Ledger.open(home.ledger, home.load_identity(), datetime.fromtimestamp(consortium.clock(), tz=UTC)) as ledger:
        assert ledger.last_round(run.signed.digest) == 1
        assert ledger.count(run.signed.digest, "train") == 1
