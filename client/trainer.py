"""Local training with the patient as the unit of privacy: what this module returns is already safe to release.

A patient's gradient is taken over all of the patient's records and all parameters, clipped, put on an integer grid, summed
(`client.engines`) and noised (`client.release`). Sampling rate and normaliser are the plan's public constants. In mode none the
same sums leave without bound and noise, and only because both plan and policy say so.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.canaries import Canaries, noised_with_canaries
from client.engines import Engine, PatientBatch, gradients_as_inputs, like, of_owners, plain_sum, sum_of
from client.errors import Refused
from client.job import Job, Result
from client.plan_model import PlanModel, model_of
from client.release import Bound, Entropy, FloatMatrix, FloatVector, GridVector, clipped_grid_sum, noised
from client.sides import Side, sides_of
from consortium.plan import PATIENTS, Plan, body_length, header_fields
from privacy.noise import poisson_mask
from privacy.terms import signal_bound
from tasks.base import Cohort, Task
from tasks.errors import ContractError
from tasks.features import Design
from tasks.models import split_parameters
from tasks.scoring.base import Scored, shares
from tasks.splits import held_out_mask
from tasks.sums import Choice, Records, SumsTask, TestedSums, layout, stage_sizes, stage_vectors, stages_done

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
    ) -> None:
        """`audit`: the folder for what a plan's canaries measure here; None: they are not used.

        `engine`: the name of the one that clips and sums (`client.engines`); the fastest if it is empty.
        """
        self._task = task
        self._audit = audit
        self._engine = engine
        self._entropy = entropy
        out = held_out_mask(cohort.patient_ids, salt, held_out_fraction)
        self.training, self.held_out = sides_of(cohort, out, task.records)
        self._batches: dict[bytes, tuple[PatientBatch, PatientBatch]] = {}

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
            return Result(self._describe(job.plan), _nothing(job.plan))
        training, held_out = self._encoded(job.plan, buffers)
        fields = header_fields(job.plan, job.round_number, job.purpose)
        header = self._patients(job.plan) if PATIENTS in fields else _nothing(job.plan)
        if any(item != PATIENTS for item in fields):
            header = np.concatenate([header, self._evaluate(job.plan, weights, held_out)])
        body = _nothing(job.plan)
        if body_length(job.plan, job.purpose):
            body = self._train(job, weights, training)
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
        if isinstance(self._task, SumsTask):
            raise Refused("TASK", f"task {self._task.name} sums: it has no model")
        return model_of(self._task, plan, self._engine)

    def _encoded(self, plan: Plan, buffers: Weights) -> tuple[PatientBatch, PatientBatch]:
        """The patients of the training and the held-out side as models take them; encoded once per normalisation."""
        key = plan.digest + buffers.tobytes()
        if key not in self._batches:
            design = self._design(plan)
            mean, scale = design.split_buffers(buffers)
            train, out = (self._batch(side, design.encode(side.values, mean, scale)) for side in (self.training, self.held_out))
            self._batches = {key: (train, out)}
        return self._batches[key]

    def _batch(self, side: Side, inputs: NDArray[np.float32]) -> PatientBatch:
        encoded = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))
        labels = torch.from_numpy(side.labels.astype(np.float32))
        return of_owners(encoded, labels, side.owners, patients=side.patients, at_most=self._task.records)

    def _sums(self, job: Job, task: SumsTask, state: Weights) -> Result:
        """One stage of a task that sums: what a training round releases, with patients' vectors where gradients are.

        The sign is a gradient's, so that opening, weighing and dividing are those of a training round.
        """
        plan = job.plan
        fields = header_fields(plan, job.round_number, job.purpose)
        choice = Choice(plan.model.name, dict(plan.model.options), plan.task.columns)
        if layout(task, choice) != tuple((spec.name, spec.shape) for spec in plan.model.parameters):
            raise Refused("MODEL", "the plan's parameters are not the stages of the named task in this code version")
        if job.purpose == "evaluate" and isinstance(task, TestedSums):
            return Result(self._tested_sums(plan, task, choice, state), _nothing(plan))
        if job.purpose != "train" or any(item != PATIENTS for item in fields):
            raise Refused("TASK", f"task {task.name} sums: it has nothing to describe and no model to evaluate")
        if (plan.schedule.local_steps, plan.schedule.local_rate, plan.privacy.sample_rate) != (1, 1.0, 1.0):
            raise Refused("TASK", f"task {task.name} sums: its plan takes one local step at rate 1 of all patients")
        side = self.training
        rows = -stage_vectors(task, choice, state.astype(np.float64), Records(side.values, side.owners, side.patients))
        return Result(self._patients(plan) if fields else _nothing(plan), self._summed_rows(job, rows))

    def _tested_sums(self, plan: Plan, task: TestedSums, choice: Choice, state: Weights) -> Released:
        """One bounded vector of each held-out patient, where a task that trains has its histogram."""
        if task.test_cells(choice) != 2 * plan.histogram_bins:
            raise Refused("TASK", f"the plan's histogram has {2 * plan.histogram_bins} cells, the task's {task.test_cells(choice)}")
        stages = stages_done(stage_sizes(task, choice), state.astype(np.float64))
        side = self.held_out
        rows = task.test_vectors(choice, stages, Records(side.values, side.owners, side.patients))
        return self._histogram(plan, clipped_grid_sum(rows, Bound(1.0, plan.privacy.grid_bits)))

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

    def _describe(self, plan: Plan) -> Released:
        vectors = np.asarray(self._design(plan).describe_vectors(self.training.values), dtype=np.float64)
        rows = self.training.means(vectors)
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

    def _patients(self, plan: Plan) -> Released:
        """The number of training patients with fresh noise, (1,); the guard lets only the first draw of a run out."""
        bound = Bound(1.0, plan.privacy.grid_bits)
        grid = np.array([self.training.patients << plan.privacy.grid_bits], dtype=np.int64)
        return self._released(plan, grid, plan.privacy.count_noise, bound)

    def _evaluate(self, plan: Plan, weights: Weights, patients: PatientBatch) -> Released:
        """Histogram of the held-out side: every patient counts once in each block, parted among its records."""
        built, side = self._model(plan), self.held_out
        scored = Scored(outputs_of(built, weights, patients), side.labels, side.values)
        places = built.scoring.places(scored)
        parts = shares(built.scoring, places, side.counts[side.owners], plan.privacy.grid_bits)
        grid = np.zeros(built.scoring.cells, dtype=np.int64)
        np.add.at(grid, np.maximum(places, 0), parts)  # who is nowhere adds nothing
        return self._histogram(plan, grid)

    def _histogram(self, plan: Plan, grid: GridVector) -> Released:
        bound = Bound(1.0, plan.privacy.grid_bits)
        if not plan.private:
            return np.asarray(grid * bound.step, dtype=np.float64)
        return self._released(plan, grid, plan.privacy.evaluate_noise, bound)

    def _train(self, job: Job, weights: Weights, patients: PatientBatch) -> Released:
        """Local minus global weights after `local_steps` steps, each a noised sum over a public normaliser; (n_parameters,).

        In mode distributed the noised sum itself: the coordinator divides the opened sum by the survivors' normalisers.
        """
        plan = job.plan
        if plan.privacy.distributed:
            return self._share(job, weights, patients)
        normaliser = plan.privacy.sample_rate * plan.participant(job.site).declared_patients
        start = weights.astype(np.float64)
        current = start
        for _ in range(plan.schedule.local_steps):
            summed = self._summed(plan, current.astype(np.float32), self._drawn(plan, patients))
            current = current - plan.schedule.local_rate * summed / normaliser
        return current - start

    def _share(self, job: Job, weights: Weights, patients: PatientBatch) -> GridVector:
        """The exact clipped sum, saturated where a plan's ring ends, with this site's share of the noise; grid steps."""
        plan, bound = job.plan, Bound(job.plan.privacy.clip, job.plan.privacy.grid_bits)
        most = signal_bound(plan, job.site)
        total = self._clipped_sum(plan, weights, self._drawn(plan, patients), bound)
        np.clip(total, -most, most, out=total)
        return self._noised_step(plan, total, bound)

    def _drawn(self, plan: Plan, patients: PatientBatch) -> PatientBatch:
        """This step's patients, each drawn with the plan's rate; all of them, uncopied, at rate 1."""
        drawn = poisson_mask(len(patients), plan.privacy.sample_rate, self._entropy)
        return patients if drawn.all() else patients.chosen(np.flatnonzero(drawn))

    def _summed(self, plan: Plan, weights: Weights, drawn: PatientBatch) -> FloatVector:
        if not plan.private:
            built = self._model(plan)
            return plain_sum(built.model, built.loss, split_parameters(built.model, weights), [drawn])
        bound = Bound(plan.privacy.clip, plan.privacy.grid_bits)
        total = self._clipped_sum(plan, weights, drawn, bound)
        return np.asarray(self._noised_step(plan, total, bound) * bound.step, dtype=np.float64)

    def _clipped_sum(self, plan: Plan, weights: Weights, drawn: PatientBatch, bound: Bound) -> GridVector:
        built = self._model(plan)
        return sum_of(built.engine, split_parameters(built.model, weights), [drawn], bound)

    def _noised_step(self, plan: Plan, total: GridVector, bound: Bound) -> GridVector:
        """A training step's exact sum with its noise; the plan's canaries are in it while it is noised, and not afterwards."""
        return noised_with_canaries(
            total,
            Canaries.of(plan, self._audit, self._entropy),
            sample=lambda n: poisson_mask(n, plan.privacy.sample_rate, self._entropy),
            clipped=lambda rows: clipped_like(self._model(plan).engine, rows, bound),
            noised=lambda steps: noised(steps, noise_multiplier=plan.privacy.train_noise, bound=bound, entropy=self._entropy),
        )


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
