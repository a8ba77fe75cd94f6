"""Whole rounds where memory runs out in the middle, and in 16 bits: the same bound and sum, a clear word where nothing fits."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from guards_in_process import DECLARED, SALT, Consortium, tape
from image_plans import plan_of_images
from numpy.typing import NDArray
from phantom_sites import write_hospital
from test_scans import job_of, training_side
from test_trainer_privacy import adversarial, cohort, job, with_model, without
from torch import Tensor, nn

from client import plan_model
from client.device import BF16, CPU, CUDA, FP32, DeviceChoice
from client.errors import TrainerError
from client.plan_model import model_of
from client.scans import AT_ONCE, ScanEncoder
from client.trainer import Trainer
from consortium.plan import Plan
from tasks.base import Cohort, Options, Task
from tasks.cis_conversion.task import TASK
from tasks.cohorts import open_cohort
from tasks.lesion_seg.task import TASK as LESIONS
from tasks.tabular import TabularTask

ROUGHLY = DeviceChoice(CPU, BF16)
ACCELERATOR = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator that torch can use"),
)
CHOICES = [
    pytest.param(ROUGHLY, id="cpu-bf16"),
    pytest.param(DeviceChoice(CUDA, FP32), id="cuda-fp32", marks=ACCELERATOR),
    pytest.param(DeviceChoice(CUDA, BF16), id="cuda-bf16", marks=ACCELERATOR),
]


@dataclass(frozen=True)
class Crowded(TabularTask):
    """A task whose models hold no more than `room` records at a time, as on a device that somebody else fills."""

    room: ClassVar[int] = 10**9
    seen: ClassVar[list[int]] = []

    def build_model(self, name: str, options: Options, columns: Sequence[str] | None = None) -> nn.Module:
        model = super().build_model(name, options, columns)
        model.register_forward_pre_hook(_refuse_crowd)
        return model


def _refuse_crowd(model: nn.Module, args: tuple[Tensor]) -> None:
    Crowded.seen.append(len(args[0]))
    if len(args[0]) > Crowded.room:
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(plan_model, "_known", OrderedDict())
    Crowded.room, Crowded.seen = 10**9, []
    yield
    Crowded.room = 10**9


@pytest.fixture
def plan(consortium: Consortium) -> Plan:
    return with_model(consortium.plan(), "mlp", (("hidden", 8),))


def trainer(
    people: Cohort, task: Task = TASK, *, engine: str = "", held_out: float = 0.0, device: DeviceChoice | None = None
) -> Trainer:
    kept = {} if device is None else {"device": device}
    return Trainer(task, people, salt=SALT, held_out_fraction=held_out, entropy=tape("noise"), engine=engine, **kept)


def steps(plan: Plan, body: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
    """The noised sum behind an update, in grid steps; noise from one tape is always the same."""
    rate = plan.schedule.local_rate * plan.privacy.clip / 2**plan.privacy.grid_bits
    return np.asarray(body * -DECLARED / rate)


def second_round(plan: Plan, people: Cohort, task: Task = TASK, *, engine: str = "", left: int = 10**9) -> NDArray[np.float64]:
    """The noised sum of a round that begins when memory is left for so many records."""
    site, weights = trainer(people, task, engine=engine), adversarial(plan, "plain", 1)
    site.run(job(plan, weights))
    Crowded.room = left
    body = site.run(job(plan, weights, number=2)).body
    Crowded.room = 10**9
    return steps(plan, body)


@pytest.mark.parametrize("left", [300, 255, 100, 40, 31, 3])
def test_memory_that_runs_out_in_a_round_changes_how_many_are_together_and_no_sum(plan: Plan, left: int) -> None:
    """Whoever was computed before is computed again: all of a sum are computed alike."""
    people, task, engine = cohort(290), Crowded(TASK.contract), "" if left < 32 else "bookkeeping"
    found = second_round(plan, people, task, engine=engine, left=left)
    assert any(each > left for each in Crowded.seen) == (left < 256)
    size, step = plan.n_parameters, 2**plan.privacy.grid_bits
    expected = second_round(plan, people)
    assert np.linalg.norm(found - expected) <= 290 * (2e-5 * step + np.sqrt(size))
    for at in (0, 289):
        moved = found - second_round(plan, without(people, at), task, engine=engine, left=left)
        assert 0 < np.linalg.norm(moved) <= step * (1 + 1e-5) + np.sqrt(size)


def test_fewer_stay_fewer_for_the_rounds_that_follow(plan: Plan) -> None:
    site = trainer(cohort(290), Crowded(TASK.contract))
    site.run(job(plan))
    Crowded.room = 100
    site.run(job(plan, number=2))
    Crowded.seen = []
    site.run(job(plan, number=3))
    assert max(Crowded.seen) <= 100


def test_scores_of_held_out_patients_are_taken_of_as_many_as_fit(plan: Plan) -> None:
    site, people = trainer(cohort(290), Crowded(TASK.contract), held_out=0.9), cohort(290)
    site.run(job(plan))
    Crowded.room = 64
    found = site.run(job(plan, purpose="evaluate", number=2)).header
    Crowded.room = 10**9
    expected = trainer(people, held_out=0.9)
    expected.run(job(plan))
    assert np.abs(found - expected.run(job(plan, purpose="evaluate", number=2)).header).max() < 0.01


def test_a_round_in_which_nobody_fits_fails_and_the_next_one_may_not(plan: Plan) -> None:
    """No refusal: a plan that was refused is not tried again, and whoever filled the device may be gone."""
    site = trainer(cohort(40), Crowded(TASK.contract))
    site.run(job(plan))
    Crowded.room = 0
    for number in (2, 3):
        with pytest.raises(TrainerError, match="more than the memory of device cpu holds"):
            site.run(job(plan, number=number))
    Crowded.room = 10**9
    assert np.isfinite(site.run(job(plan, number=4)).body).all()


def test_a_run_without_privacy_takes_as_many_as_fit(plan: Plan) -> None:
    plain = replace(plan, privacy=plan_of_images("privacy=none").privacy)
    site = trainer(cohort(290), Crowded(TASK.contract))
    expected = site.run(job(plain)).body
    Crowded.room = 17
    assert site.run(job(plain, number=2)).body == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("choice", CHOICES)
def test_elsewhere_and_in_16_bits_a_patient_moves_the_sum_by_at_most_the_bound(plan: Plan, choice: DeviceChoice) -> None:
    people, asked = cohort(40), job(plan, adversarial(plan, "plain", 1))
    whole = steps(plan, trainer(people, device=choice).run(asked).body)
    moves = [whole - steps(plan, trainer(without(people, at), device=choice).run(asked).body) for at in range(12)]
    lengths = [float(np.linalg.norm(each)) for each in moves]
    assert max(lengths) <= 2**plan.privacy.grid_bits * (1 + 1e-5) + np.sqrt(plan.n_parameters)
    assert min(lengths) > 0
    exact = steps(plan, trainer(people).run(asked).body)
    assert np.linalg.norm(whole - exact) < 0.1 * 40 * max(lengths)
    assert (whole != exact).any()


# -- images ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospital(tmp_path_factory.mktemp("hospital"), "one", AT_ONCE + 2)


def test_as_many_patients_are_drawn_as_are_computed_together(hospital: Path, tmp_path: Path) -> None:
    plan = plan_of_images("privacy=epsilon8")
    drawn = ScanEncoder(LESIONS, tmp_path).training(job_of(plan), training_side(hospital))
    assert [len(part) for part in drawn.parts()] == [AT_ONCE, 2]
    assert [len(part) for part in drawn.parts(3)] == [AT_ONCE, 2]
    (together,) = drawn.parts(32)
    assert torch.equal(together.inputs, torch.cat([part.inputs for part in drawn.parts()]))


@pytest.mark.slow
@pytest.mark.parametrize("other", CHOICES)
def test_a_round_on_images_elsewhere_or_in_16_bits_is_near_the_processors(
    hospital: Path, tmp_path: Path, other: DeviceChoice
) -> None:
    plan, bodies, headers = plan_of_images("privacy=none"), [], []
    for choice in (DeviceChoice(CPU), other):
        people = open_cohort(LESIONS, hospital)
        site = Trainer(LESIONS, people, salt=SALT, held_out_fraction=0.4, entropy=tape("x"), cache=tmp_path, device=choice)
        bodies.append(site.run(job_of(plan)).body)
        headers.append(site.run(replace(job_of(plan), purpose="evaluate", round_number=2)).header)
    assert 0 < np.linalg.norm(bodies[1] - bodies[0]) < 0.1 * np.linalg.norm(bodies[0])
    assert headers[0].shape == headers[1].shape
    found = model_of(LESIONS, plan, "", other).device
    assert (found.name, found.precision) == (other.device, other.precision)
