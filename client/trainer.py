"""Local training with the patient as the unit of privacy: what this module returns is already safe to release.

A patient's gradient is taken over all of the patient's records and all parameters, clipped, put on an integer grid, summed
(`client.engines`) and noised (`client.release`). Sampling rate and normaliser are the plan's public constants. In mode none the
same sums leave without bound and noise, and only because both plan and policy say so.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from client.batches import Encoder
from client.canaries import Canaries, noised_with_canaries
from client.device import PROCESSORS, DeviceChoice
from client.engines import Engine, PatientBatch, Patients, gradients_as_inputs, like, plain_sum, sum_of
from client.errors import Refused
from client.job import Job, Result
from client.plan_model import PlanModel, model_of, within_memory
from client.release import Bound, Entropy, FloatMatrix, FloatVector, GridVector, clipped_grid_sum, noised
from client.sides import Side, Sides, Split
from client.stages import choice_of, stage_rows, tested_rows
from consortium.plan import PATIENTS, Plan, body_length, header_fields
from privacy.noise import poisson_mask
from privacy.terms import signal_bound
from tasks.base import Cohort, Task
from tasks.errors import ContractError
from tasks.features import Design
from tasks.imaging.task import ImageTask
from tasks.models import split_parameters
from tasks.run_options import ROWS, run_options
from tasks.scoring.base import Scored, summed
from tasks.sums import SumsTask, TestedSums

if TYPE_CHECKING:
    from client.scans import ScanEncoder

FEDPROX = "fedprox"
T = TypeVar("T")
Released = FloatVector | GridVector  # real numbers, or whole grid steps in mode distributed
Weights = NDArray[np.float32]


class Trainer:
    """Holds one site's cohort, split once; `run` computes one round's release."""

    def __init__(
        self,
        task: Task | SumsTask,
        cohort: Cohort,
        *,
        salt: bytes,
        held_out_fraction: float,
        entropy: Entropy,
        audit: Path | None = None,
        engine: str = "",
        cache: Path | None = None,
        device: DeviceChoice = PROCESSORS,
    ) -> None:
        """`audit`: the folder for what a plan's canaries measure here; None: they are not used.

        `cache`: the folder of prepared scans, for tasks on images.

        `engine`: the name of the one that clips and sums (`client.engines`); the fastest if it is empty.

        `device`: where models are computed.
        """
        self._task = task
        self._audit = audit
        self._engine, self._device = engine, device
        self._entropy = entropy
        at_most = task.sessions if isinstance(task, ImageTask) else task.records
        self._split = Split(cohort, salt=salt, held_out_fraction=held_out_fraction, at_most=at_most)
        self._encoder = None if isinstance(task, SumsTask) else Encoder(task)
        self._scans = _scan_encoder(task, cache) if isinstance(task, ImageTask) else None

    @property
    def sides(self) -> Sides:
        """Who is on which side for a plan that asks for nothing else."""
        return self._split.sides

    def run(self, job: Job) -> Result:
        """The release of one round. Raises `Refused` for a plan that this site's data or a private model cannot serve."""
        try:
            return self._release(job)
        except ContractError as error:  # unknown column, model or option: the plan's fault, and the same in every round
            raise Refused("TASK", str(error)) from error

    def _release(self, job: Job) -> Result:
        self._check(job.plan)
        buffers, weights = self._split_model(job)
        if isinstance(self._task, SumsTask):
            return self._sums(job, self._task, weights)
        if job.purpose == "describe":
            return Result(self._describe(job.plan, self._sides(job).training), _nothing(job.plan))
        sides = self._sides(job)
        fields = header_fields(job.plan, job.round_number, job.purpose)
        header = self._patients(job.plan, sides.training) if PATIENTS in fields else _nothing(job.plan)
        if any(item != PATIENTS for item in fields):
            header = np.concatenate([header, self._evaluate(job, weights, sides, buffers)])
        body = _nothing(job.plan)
        if body_length(job.plan, job.purpose):
            body = self._train(job, weights, self._training(job, sides, buffers))
        return Result(header, body)

    def _check(self, plan: Plan) -> None:
        if (plan.task.name, plan.task.version) != (self._task.name, self._task.version):
            raise Refused(
                "TASK", f"plan is for {plan.task.name} {plan.task.version}, this site has {self._task.name} {self._task.version}"
            )

        if plan.task.modalities != (found := self._task.contract.modalities(plan.task.columns)):
            raise Refused("TASK", f"plan states modalities {plan.task.modalities}, its columns are of {found}")

    def _design(self, plan: Plan) -> Design:
        return Design(self._task.contract, plan.task.columns)

    def _split_model(self, job: Job) -> tuple[Weights, Weights]:
        vector = np.frombuffer(job.model, dtype="<f4")
        if vector.size != job.plan.model_size or not np.isfinite(vector).all():
            raise Refused("MODEL", f"model of {vector.size} values, plan has {job.plan.model_size}, all must be finite")
        return vector[: job.plan.n_buffers], vector[job.plan.n_buffers :]

    def _model(self, plan: Plan) -> PlanModel:
        return model_of(self._task_of_model(), plan, self._engine, self._device)

    def _computed(self, plan: Plan, compute: Callable[[PlanModel], T]) -> T:
        """What `compute` makes of the plan's model, with as many patients at once as memory holds."""
        return within_memory(self._task_of_model(), plan, compute, engine=self._engine, choice=self._device)

    def _task_of_model(self) -> Task:
        if isinstance(self._task, SumsTask):
            raise Refused("TASK", f"task {self._task.name} sums: it has no model")
        return self._task

    def _sides(self, job: Job) -> Sides:
        """Who trains and who is tested under the options of the plan."""
        options = run_options(dict(job.plan.model.options))
        if options.leave_out and options.leave_out not in job.plan.sites:
            raise Refused("TASK", f"leave_out is {options.leave_out!r}, which is no participant: nobody would be tested")
        if options.split == ROWS and job.plan.private:
            raise Refused("TASK", "split=rows puts a patient on both sides of the split: only plans of mode none may ask for it")
        return self._split.asked(options, site=job.site)

    def _encoder_of(self) -> Encoder:
        if self._encoder is None:
            raise Refused("TASK", f"task {self._task.name} sums: it has no model")
        return self._encoder

    def _sums(self, job: Job, task: SumsTask, weights: Weights) -> Result:
        """One stage of a task that sums, or the figures at its end."""
        plan, sides, state = job.plan, self.sides, weights.astype(np.float64)
        choice = choice_of(plan, task)
        if job.purpose == "evaluate" and isinstance(task, TestedSums):
            rows = tested_rows(plan, task, choice, state, sides.test)
            return Result(self._histogram(plan, clipped_grid_sum(rows, Bound(1.0, plan.privacy.grid_bits))), _nothing(plan))
        rows = stage_rows(job, task, choice, state, sides.training)
        header = self._patients(plan, sides.training) if plan.privacy.counted else _nothing(plan)
        return Result(header, self._summed_rows(job, rows))

    def _summed_rows(self, job: Job, rows: FloatMatrix) -> Released:
        plan = job.plan
        normaliser = plan.participant(job.site).declared_patients
        if not plan.private:
            finite = np.isfinite(rows).all(axis=1)
            return -np.asarray(rows[finite].sum(axis=0) / normaliser, dtype=np.float64)
        bound = Bound(plan.privacy.clip, plan.privacy.grid_bits)
        total = clipped_grid_sum(rows, bound)
        if not plan.privacy.distributed:
            return -np.asarray(self._noised_step(plan, total, bound) * bound.step / normaliser, dtype=np.float64)
        most = signal_bound(plan, job.site)
        np.clip(total, -most, most, out=total)
        return self._noised_step(plan, total, bound)

    def _describe(self, plan: Plan, training: Side) -> Released:
        rows = training.means(np.asarray(self._design(plan).describe_vectors(training.values), dtype=np.float64))
        if rows.shape[1] != plan.statistics:
            raise Refused("TASK", f"plan wants {plan.statistics} statistics, this task version has {rows.shape[1]}")
        if not plan.private:
            return np.asarray(rows.sum(axis=0), dtype=np.float64)
        bound = Bound(plan.privacy.describe_clip, plan.privacy.grid_bits)
        total = clipped_grid_sum(rows, bound)
        return self._released(plan, total, plan.privacy.describe_noise, bound)

    def _released(self, plan: Plan, total: GridVector, noise: float, bound: Bound) -> Released:
        """An exact sum with its noise, as it may leave: in mode distributed still whole steps of its grid."""
        steps = noised(total, noise_multiplier=noise, bound=bound, entropy=self._entropy)
        return steps if plan.privacy.distributed else np.asarray(steps * bound.step, dtype=np.float64)

    def _patients(self, plan: Plan, training: Side) -> Released:
        """The number of training patients with fresh noise, (1,); the guard lets only the first draw of a run out."""
        bound = Bound(1.0, plan.privacy.grid_bits)
        grid = np.array([training.patients << plan.privacy.grid_bits], dtype=np.int64)
        return self._released(plan, grid, plan.privacy.count_noise, bound)

    def _training(self, job: Job, sides: Sides, buffers: Weights) -> Patients:
        """The training patients as this round has them."""
        if self._scans is not None:
            return self._scans.training(job, sides.training)
        rate = run_options(dict(job.plan.model.options)).drop_rate
        if rate:
            return self._encoder_of().with_dropped(job, sides.training, buffers, rate)
        return self._encoder_of().batches(job.plan, sides, buffers).training

    def _evaluate(self, job: Job, weights: Weights, sides: Sides, buffers: Weights) -> Released:
        """Histogram of the validation half beside training, of the test half at the end.

        Every patient counts once in each block, parted among its records.
        """
        final = job.purpose == "evaluate"
        side, built = sides.test if final else sides.validation, self._model(job.plan)
        if self._scans is not None:
            scored = self._scans.scored(job.plan, built, weights, side)
        else:
            batches = self._encoder_of().batches(job.plan, sides, buffers)
            people = batches.test if final else batches.validation
            outputs = self._computed(job.plan, lambda whole: outputs_of(whole, weights, people))
            scored = Scored(outputs, side.labels, side.values)
        return self._histogram(job.plan, summed(built.scoring, scored, side.counts[side.owners], job.plan.privacy.grid_bits))

    def _histogram(self, plan: Plan, grid: GridVector) -> Released:
        bound = Bound(1.0, plan.privacy.grid_bits)
        if not plan.private:
            return np.asarray(grid * bound.step, dtype=np.float64)
        return self._released(plan, grid, plan.privacy.evaluate_noise, bound)

    def _train(self, job: Job, weights: Weights, patients: Patients) -> Released:
        """Local minus global weights after `local_steps` steps, each a noised sum over a public normaliser; (n_parameters,).

        Under strategy fedprox a step is also pulled back to the global weights (`proximal_mu`): it looks at no patient.
        In mode distributed the noised sum itself: the coordinator divides the opened sum by the survivors' normalisers.
        """
        plan = job.plan
        if plan.privacy.distributed:
            return self._share(job, weights, patients)
        normaliser = plan.privacy.sample_rate * plan.participant(job.site).declared_patients
        mu = proximal_mu(plan)
        start = weights.astype(np.float64)
        current = start
        for step in range(plan.schedule.local_steps):
            summed = self._summed(plan, current.astype(np.float32), self._drawn(plan, patients.step(step)))
            current = current - plan.schedule.local_rate * (summed / normaliser + mu * (current - start))
        return current - start

    def _share(self, job: Job, weights: Weights, patients: Patients) -> GridVector:
        """The exact clipped sum, saturated where a plan's ring ends, with this site's share of the noise; grid steps."""
        plan, bound = job.plan, Bound(job.plan.privacy.clip, job.plan.privacy.grid_bits)
        most = signal_bound(plan, job.site)
        total = self._clipped_sum(plan, weights, self._drawn(plan, patients), bound)
        np.clip(total, -most, most, out=total)
        return self._noised_step(plan, total, bound)

    def _drawn(self, plan: Plan, patients: Patients) -> Patients:
        """This step's patients, each drawn with the plan's rate; all of them, uncopied, at rate 1."""
        drawn = poisson_mask(len(patients), plan.privacy.sample_rate, self._entropy)
        return patients if drawn.all() else patients.chosen(np.flatnonzero(drawn))

    def _summed(self, plan: Plan, weights: Weights, drawn: Patients) -> FloatVector:
        if not plan.private:
            return self._computed(
                plan,
                lambda built: plain_sum(
                    built.model, built.loss, split_parameters(built.model, weights), drawn.parts(), built.device
                ),
            )
        bound = Bound(plan.privacy.clip, plan.privacy.grid_bits)
        total = self._clipped_sum(plan, weights, drawn, bound)
        return np.asarray(self._noised_step(plan, total, bound) * bound.step, dtype=np.float64)

    def _clipped_sum(self, plan: Plan, weights: Weights, drawn: Patients, bound: Bound) -> GridVector:
        def summed(built: PlanModel) -> GridVector:
            parts = drawn.parts(built.engine.patients)
            return sum_of(built.engine, split_parameters(built.model, weights), parts, bound)

        return self._computed(plan, summed)

    def _noised_step(self, plan: Plan, total: GridVector, bound: Bound) -> GridVector:
        """A training step's exact sum with its noise; the plan's canaries are in it while it is noised, and not afterwards."""
        return noised_with_canaries(
            total,
            Canaries.of(plan, self._audit, self._entropy),
            sample=lambda n: poisson_mask(n, plan.privacy.sample_rate, self._entropy),
            clipped=lambda rows: clipped_like(self._model(plan).engine, rows, bound),
            noised=lambda steps: noised(steps, noise_multiplier=plan.privacy.train_noise, bound=bound, entropy=self._entropy),
        )


def _scan_encoder(task: ImageTask, cache: Path | None) -> "ScanEncoder":
    from client.scans import ScanEncoder  # here: nibabel is for those who read images

    return ScanEncoder(task, cache)


def proximal_mu(plan: Plan) -> float:
    """How strongly local steps are pulled to the global weights: the gradient of mu/2 |w - w_global|^2 is added to each (Li et al.
    2020, "Federated optimization in heterogeneous networks", equation 2). 0 for strategies without it.

    Raises `Refused` for a mu with which the pull alone would overshoot: updates would leave the plan's range.
    """
    if plan.strategy.name != FEDPROX:
        return 0.0
    mu = dict(plan.strategy.options).get("mu", 0.0)
    if not isinstance(mu, int | float) or not 0.0 <= mu * plan.schedule.local_rate <= 1.0:
        raise Refused("MODEL", f"mu of strategy {FEDPROX} is {mu!r}: a number from 0 to 1 / local_rate")
    return float(mu)


def _nothing(plan: Plan) -> Released:
    return np.zeros(0, np.int64) if plan.privacy.distributed else np.zeros(0, np.float64)


def clipped_like(engine: Engine, rows: FloatMatrix, bound: Bound) -> GridVector:
    """Sum of patients' gradients `rows` (n, d), each of as many equal records as there can be, as `engine` clips and sums."""
    kind = like(engine, rows.shape[1])
    return sum_of(kind, *gradients_as_inputs(kind, torch.from_numpy(rows)), bound)


def outputs_of(built: PlanModel, weights: Weights, patients: PatientBatch) -> FloatVector:
    """The model's output for each record, (n_records, ...), patient by patient."""
    outputs = built.engine.outputs(split_parameters(built.model, weights), patients)
    return np.asarray(outputs[patients.weights > 0].double().numpy(), dtype=np.float64)
