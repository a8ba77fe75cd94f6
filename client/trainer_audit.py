"""A site's own trainer, put to the test with synthetic patients alone: offline, nothing leaves, nothing is charged.

A task of its own goes through the installed `client.trainer` as every task does: sampled, differentiated, clipped, summed, noised.
Its patients are canaries, each with one parameter of the model to itself and a gradient far beyond the clip, in or out by a fair
coin. Reading their scores (`privacy.audit`) shows noise, clip and sampling as they are, also for sites whose models are too small
to carry canaries in a run. What it cannot show: defects of a real task's own loss or layers, which the tests of that task cover.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from client.canaries import RECORD_NORM, RECORDS, claimed_epsilon, coins, reading_document, signs
from client.device import PROCESSORS, DeviceChoice
from client.errors import ConfigError
from client.job import Job
from client.release import Bound, Entropy
from client.trainer import Trainer
from consortium.plan import Deadlines, ModelRef, ParameterSpec, Participant, Plan, PrivacyTerms, Schedule, StrategyRef, TaskRef
from privacy.audit import CANARIES_LEAST, read_canaries
from privacy.noise import KEY_SIZE
from privacy.planning import Releases, calibrate
from tasks.base import Cohort, Column, Contract, Label, Options
from tasks.models import parameter_specs
from tasks.report import DataReport
from tasks.scoring.base import Scoring
from tasks.scoring.binary import BinaryScoring

NAME, VERSION = "canaries", "1"
CANARIES_MOST = 3_000  # some 0.8 GB: each has an input of its own
TRIAL_EPSILON, TRIAL_DELTA, TRIAL_RATE = 3.0, 1e-5, 0.25  # without a plan: terms under which every defect shows
SALT = bytes(16)  # nobody is held out


class Probe(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """One weight for each canary: (batch, n_canaries) or (n_canaries,) to (batch,) or ()."""

    def __init__(self, n_canaries: int) -> None:
        super().__init__()
        self.output = nn.Linear(n_canaries, 1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """The weight of the canary that `inputs` names."""
        found: Tensor = self.output(inputs).squeeze(-1)
        return found


@dataclass(frozen=True)
class CanaryTask:
    """`tasks.base.Task` whose patients are canaries; every gradient has norm `gradient_norm` and the sign of the label."""

    n_canaries: int
    gradient_norm: float

    name: str = NAME
    version: str = VERSION
    model_names: tuple[str, ...] = ("probe",)
    records: int = RECORDS
    label_shape: tuple[int, ...] = ()

    @property
    def contract(self) -> Contract:
        names = tuple(f"canary-{at}" for at in range(self.n_canaries))
        column = Column("canary", "categorical", "which canary this is", categories=names, nullable=False)
        return Contract(NAME, VERSION, (column,), Label("sign", "the canary's gradient is negative"))

    def build_model(self, name: str, options: Options, columns: Sequence[str] | None = None) -> nn.Module:
        return Probe(self.n_canaries)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Linear, so that the gradient is the same wherever training has led: (batch,) from (batch,)."""
        losses: Tensor = self.gradient_norm * outputs * (1.0 - 2.0 * labels.to(outputs.dtype))
        return losses

    def scoring(self, bins: int, by: Sequence[str] = ()) -> Scoring:
        """Canaries are never scored: the form of a task alone."""
        return BinaryScoring(bins)


def trial_plan(rounds: int) -> Plan:
    """A plan with the terms of `TRIAL_EPSILON` over `rounds` steps, for a trainer that no run has asked yet."""
    noises = calibrate(TRIAL_EPSILON, TRIAL_DELTA, Releases(0, rounds, 0, TRIAL_RATE))
    terms = PrivacyTerms(
        mode="local",
        delta=TRIAL_DELTA,
        epsilon_exposed=TRIAL_EPSILON,
        epsilon_model=TRIAL_EPSILON,
        clip=0.3,
        grid_bits=20,
        sample_rate=TRIAL_RATE,
        train_noise=noises.train_noise,
        describe_clip=1.0,
        describe_noise=noises.describe_noise,
        evaluate_noise=noises.evaluate_noise,
    )
    nobody = ParameterSpec("none", (1,))
    return Plan(
        version=3,
        run_id="trial",
        lead="nobody",
        created="2026-01-01T00:00:00Z",
        code_version="",
        roster_digest=bytes(32),
        task=TaskRef("none", "", ("none",), ("clinical",)),
        model=ModelRef("none", (), (), (nobody,), 0),
        participants=tuple(Participant(f"site-{at}", at, 100) for at in range(3)),
        statistics=0,
        histogram_bins=2,
        coordinate_clip=1.0,
        ring_bits=32,
        schedule=Schedule(rounds, rounds, 0, rounds, 0, 1, 1, 1.0),
        privacy=terms,
        strategy=StrategyRef("fedavg", ()),
        deadlines=Deadlines(1, 1, 1, 1),
    )


def audit_plan(plan: Plan, task: CanaryTask) -> Plan:
    """The terms and schedule of `plan` with the canaries as task: what is measured is how the trainer keeps these terms."""
    columns = task.contract.column_names
    specs = tuple(ParameterSpec(*spec) for spec in parameter_specs(task.build_model("probe", {})))
    return replace(
        plan,
        task=TaskRef(NAME, VERSION, columns, task.contract.modalities(columns)),
        model=ModelRef("probe", (), (), specs, 0),
        statistics=0,
        schedule=replace(plan.schedule, evaluate_every=2),  # and no round here is even: nothing but the update
        privacy=replace(plan.privacy, canaries=0, count_noise=0.0),
    )


def canary_cohort(task: CanaryTask, chosen: NDArray[np.intp], negative: NDArray[np.bool_]) -> Cohort:
    """The `chosen` canaries as a site's patients, each with `task.records` equal records."""
    report = DataReport(NAME, VERSION, "", len(chosen), len(chosen), "sign", (0, 0), (), (), (), (), (), "")
    rows = np.repeat(chosen, task.records)
    names = tuple(f"canary-{at}" for at in rows)
    return Cohort(names, rows[:, None].astype(np.float64), negative[rows].astype(np.int8), report)


def audit_trainer(
    plan: Plan,
    *,
    rounds: int,
    canaries: int,
    entropy: Entropy,
    progress: Callable[[int], None] = lambda done: None,
    device: DeviceChoice = PROCESSORS,
) -> dict[str, object]:
    """Run the installed trainer `rounds` times under the terms of `plan`; the result as `canaries.reading_document` writes it."""
    if not plan.private:
        raise ConfigError(f"run {plan.run_id} is NOT PRIVATE: it claims nothing that could be measured")
    if rounds < 1 or not CANARIES_LEAST <= canaries <= CANARIES_MOST:
        raise ConfigError(f"{rounds} rounds with {canaries} canaries: at least 1, and {CANARIES_LEAST} to {CANARIES_MOST}")
    task = CanaryTask(canaries, RECORD_NORM * plan.privacy.clip)
    terms = audit_plan(plan, task)
    included, seed = coins(entropy(KEY_SIZE), canaries), entropy(KEY_SIZE)
    trainer = Trainer(
        task,
        canary_cohort(task, np.flatnonzero(included), ~coins(seed, canaries)),
        salt=SALT,
        held_out_fraction=0.0,
        entropy=entropy,
        device=device,
    )
    scores, others = np.zeros(canaries), 0.0
    for done in range(1, rounds + 1):
        seen = in_clips(terms, trainer.run(training_job(terms)).body) * signs(seed, canaries)
        scores += seen
        others += float(np.square(seen[~included]).sum())
        progress(done)
    steps = rounds * terms.schedule.local_steps
    reading = read_canaries(scores, included, claimed_epsilon=claimed_epsilon(terms, steps), delta=terms.privacy.delta)
    spread = (others / (int((~included).sum()) * steps)) ** 0.5
    return reading_document(plan.run_id, reading, rounds=steps, parts=_parts(terms, spread, float(scores[included].mean()) / steps))


def training_job(plan: Plan) -> Job:
    return Job(plan, plan.sites[0], 1, "train", np.zeros(plan.model_size, "<f4").tobytes())


def in_clips(plan: Plan, body: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
    """A trainer's update, (n_parameters,), as the sum that it stands for, in clips."""
    bound = Bound(plan.privacy.clip, plan.privacy.grid_bits)
    if plan.privacy.distributed:
        return np.asarray(body, np.float64) * (bound.step / bound.norm)
    normaliser = plan.privacy.sample_rate * plan.participant(plan.sites[0]).declared_patients
    return np.asarray(body * (-normaliser / (plan.schedule.local_rate * bound.norm)), np.float64)


def _parts(plan: Plan, spread: float, moved: float) -> str:
    return (
        f"Seen in single steps of this site's trainer: noise {spread:.3g} clips (claimed {plan.privacy.train_noise:.3g}), one "
        f"patient moves the sum by {moved:.3g} clips on average over steps (claimed at most {plan.privacy.sample_rate:.3g})."
    )
