"""A task that sums leaves by the path of a gradient: one bounded vector for each training patient, noised, never more."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client import trainer as module
from client.errors import Refused
from client.job import Job
from client.release import Bound
from client.trainer import Trainer
from consortium.plan import Plan
from consortium.roster import Founder, Member, Roster
from secagg.encoding import decode_steps
from server import planning
from server.config import load_config
from server.planning import make_plan
from tasks.base import Cohort, Column, Contract, Label
from tasks.report import DataReport
from tasks.sums import Choice, NamedShape, Opened, Records, SumsTask, layout

SITES = ("hospital-a", "hospital-b", "hospital-c", "hospital-d")
REPORT = DataReport("toy_sums", "1", "t", 0, 0, "none", (0, 0), (), (), (), (), (), "none")
CONTRACT = Contract("toy_sums", "1", (Column("x", "numeric", "a number", low=-1, high=1),), Label("none", "none"))
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ToySums:
    """Two stages: the sum of (x, 1), then that of (x - mean of stage 1)^2. Up to three records a patient."""

    name: str = "toy_sums"
    version: str = "1"
    model_names: tuple[str, ...] = ("toy",)
    records: int = 3
    norm: float = 2.0
    contract: Contract = CONTRACT

    def cohort_of(self, tables: Mapping[str, Any]) -> Cohort:
        raise NotImplementedError

    def stages(self, choice: Choice) -> tuple[tuple[NamedShape, ...], ...]:
        return (("first", (2,)),), (("second", (1,)),)

    def bound(self, choice: Choice) -> float:
        return self.norm

    def vectors(self, choice: Choice, before: Sequence[Floats], records: Records) -> Floats:
        total = np.zeros((records.patients, 2))
        np.add.at(total, records.owners, np.column_stack([records.values[:, 0], np.ones(len(records.values))]))
        if not before:
            return total
        with np.errstate(all="ignore"):
            return (total[:, [0]] - before[0][0] / before[0][1]) ** 2

    def result(self, choice: Choice, opened: Sequence[Opened]) -> Mapping[str, object]:
        return {"title": "Toy", "notes": [], "tables": {}}


TASK = ToySums()


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "find_task", lambda name: TASK)


def plan(mode: str = "epsilon8", **overrides: object) -> Plan:
    members = [Member(site, "site", bytes([20 + at]) * 32, f"key {site}") for at, site in enumerate(SITES)]
    members.append(Member("lead-a", "lead", b"\x01" * 32, ""))
    ordered = tuple(sorted(members, key=lambda member: member.id))
    roster = Roster("test", 1, 1, 3, (Founder("f", b"\x02" * 32),), 1, b"\x03" * 16, 0.25, ordered)
    config = load_config(["task=cohort_description", f"privacy={mode}", "federation=roster", "federation.default_patients=40"])
    config = replace(config, task=replace(config.task, name="toy_sums", model="toy", options={}, columns=("x",)))
    nodes = {site: at for at, site in enumerate(SITES)}
    return make_plan(config, roster, nodes, lead="lead-a", now=datetime(2026, 1, 1, tzinfo=UTC))


def cohort(n: int, seed: int = 0, rows: int = 2) -> Cohort:
    values = np.random.default_rng(seed).uniform(-1, 1, (n * rows, 1))
    return Cohort(tuple(f"p{at // rows}" for at in range(n * rows)), values, np.zeros(n * rows, np.int8), REPORT)


def trainer(people: Cohort, held_out: float = 0.0) -> Trainer:
    return Trainer(TASK, people, salt=b"\x07" * 16, held_out_fraction=held_out, entropy=os.urandom)


def job(made: Plan, state: Sequence[float] = (0, 0, 0, 0), purpose: str = "train") -> Job:
    return Job(made, SITES[0], 1, purpose, np.array(state, dtype="<f4").tobytes())


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[NDArray[np.int64]]:
    """No noise; every exact sum that would have been noised."""
    seen: list[NDArray[np.int64]] = []

    def exact(total: NDArray[np.int64], **rest: object) -> NDArray[np.int64]:
        seen.append(total.copy())
        return total

    monkeypatch.setattr(module, "noised", exact)
    return seen


def test_a_plan_of_sums_has_a_round_for_each_stage_and_nothing_else() -> None:
    made = plan()
    assert isinstance(TASK, SumsTask)
    assert [(spec.name, spec.shape) for spec in made.model.parameters] == list(layout(TASK, Choice("toy", {}, ("x",))))
    assert (made.schedule.rounds, made.schedule.max_evaluate, made.statistics, made.n_buffers) == (2, 0, 0, 0)
    assert (made.strategy.name, dict(made.strategy.options)) == ("sums", {"stage_1": 2, "stage_2": 1})
    assert (made.privacy.clip, made.privacy.sample_rate, made.privacy.canaries) == (2.0, 1.0, 0)


def test_without_privacy_the_sum_over_training_patients_leaves_as_it_is() -> None:
    made, people = plan("none"), cohort(30)
    found = trainer(people).run(job(made))
    assert np.allclose(found.body * 40, [0.0, people.values.sum(), 60.0, 0.0])
    first = found.body
    second = trainer(people).run(job(made, (1, *first[1:3], 0))).body
    sums = people.values.reshape(30, 2).sum(axis=1)
    assert np.allclose(second * 40, [0, 0, 0, ((sums - first[1] / first[2]) ** 2).sum()], rtol=1e-6)


def test_the_held_out_side_is_in_no_sum() -> None:
    made, people = plan("none"), cohort(60)
    whole = trainer(people, held_out=0.5)
    assert 10 < whole.sides.training.patients < 50
    assert whole.run(job(made)).body[2] * 40 == pytest.approx(2 * whole.sides.training.patients)


@pytest.mark.parametrize("mode", ["epsilon8", "distributed8"])
def test_no_patient_moves_the_sum_by_more_than_the_clip_whatever_the_coordinator_sends(
    quiet: list[NDArray[np.int64]], mode: str
) -> None:
    """Also with a state chosen so that a vector is huge, or not a number: the bound is the trainer's, not the task's."""
    made, people = plan(mode), cohort(12, rows=3)
    for state in ((0, 0, 0, 0), (1, 1e30, 1e-30, 0), (1, -3e6, 1.0, 0), (1, 1.0, 0.0, 0), (1, 0.0, 0.0, 7.0)):
        trainer(people).run(job(made, state))
        whole = quiet[-1]
        for at in range(12):
            keep = [row for row in range(36) if row // 3 != at]
            rest = replace(people, patient_ids=tuple(people.patient_ids[row] for row in keep), values=people.values[keep],
                           labels=people.labels[keep])  # fmt: skip
            trainer(rest).run(job(made, state))
            moved = (whole - quiet[-1]) * Bound(made.privacy.clip, made.privacy.grid_bits).step
            assert np.linalg.norm(moved) <= made.privacy.clip * (1 + 1e-4)


def test_rows_beyond_the_task_s_records_do_not_count() -> None:
    made = plan("none")
    few, many = cohort(1, rows=3), cohort(1, rows=50)
    assert trainer(few).run(job(made)).body[2] * 40 == pytest.approx(3)
    assert trainer(many).run(job(made)).body[2] * 40 == pytest.approx(3)


@pytest.mark.parametrize("mode", ["epsilon8", "distributed8"])
def test_every_number_of_a_private_sum_has_the_plan_s_noise(mode: str) -> None:
    made, one = plan(mode), trainer(cohort(40))
    found = [one.run(job(made)).body for _ in range(400)]
    scale = made.privacy.clip / 40 if mode == "epsilon8" else 2.0**made.privacy.grid_bits
    spread = np.std(np.array(found, dtype=np.float64), axis=0) / scale
    assert np.allclose(spread, made.privacy.train_noise, rtol=0.2)


def test_sums_of_all_sites_open_to_the_sum_over_all_patients_in_both_private_modes(quiet: list[NDArray[np.int64]]) -> None:
    local, shared = plan("epsilon8"), plan("distributed8")
    people = [cohort(20, seed) for seed in range(4)]
    exact = np.array([0.0, sum(float(each.values.sum()) for each in people), 160.0, 0.0])
    update = sum(trainer(each).run(job(local)).body for each in people) * 40  # every site declares as many
    steps = sum(trainer(each).run(job(shared)).body for each in people)
    opened = decode_steps(np.asarray(steps, np.int64), -shared.privacy.grid_step / 160) * 160
    clipped = [np.array([each.values.reshape(-1, 2).sum(axis=1), np.full(20, 2.0)]).T for each in people]
    norms = [np.maximum(np.linalg.norm(rows, axis=1) / 2.0, 1.0)[:, None] for rows in clipped]
    exact[1:3] = sum((rows / norm).sum(axis=0) for rows, norm in zip(clipped, norms, strict=True))
    assert np.allclose(update, exact, atol=1e-3)
    assert np.allclose(opened, exact, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda made: (made, (3, 0, 0, 0)), "TASK"),
        (lambda made: (made, (0.5, 0, 0, 0)), "TASK"),
        (lambda made: (made, (2, 1, 1, 1)), "TASK"),
        (lambda made: (made, (-1, 1, 1, 1)), "TASK"),
        (lambda made: (replace(made, schedule=replace(made.schedule, local_steps=2)), (0, 0, 0, 0)), "TASK"),
        (lambda made: (replace(made, schedule=replace(made.schedule, local_rate=9.0)), (0, 0, 0, 0)), "TASK"),
        (lambda made: (replace(made, privacy=replace(made.privacy, sample_rate=0.5)), (0, 0, 0, 0)), "TASK"),
        (lambda made: (replace(made, schedule=replace(made.schedule, evaluate_every=1)), (0, 0, 0, 0)), "TASK"),
        (lambda made: (replace(made, model=replace(made.model, parameters=made.model.parameters[:-1])), (0, 0, 0)), "MODEL"),
        (lambda made: (replace(made, task=replace(made.task, version="2")), (0, 0, 0, 0)), "TASK"),
    ],
)
def test_a_plan_or_state_that_is_not_of_sums_is_refused(
    change: Callable[[Plan], tuple[Plan, tuple[float, ...]]], code: str
) -> None:
    made, state = change(plan())
    with pytest.raises(Refused) as refused:
        trainer(cohort(5)).run(job(made, state))
    assert refused.value.code == code


@pytest.mark.parametrize("purpose", ["describe", "evaluate"])
def test_a_task_that_sums_answers_no_other_purpose(purpose: str) -> None:
    with pytest.raises(Refused):
        trainer(cohort(5)).run(job(plan(), purpose=purpose))
