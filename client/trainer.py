"""Local training with the patient as the unit of privacy: what this module returns is already safe to release.

A patient's gradient is taken over all of the patient's records and all parameters, clipped, put on an integer grid, summed
and noised (`client.release`). Sampling rate and normaliser are the plan's public constants. In mode none the same sums
leave without bound and noise, and only because both plan and policy say so.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call, grad, vmap

from client.canaries import Canaries, noised_with_canaries
from client.errors import Refused
from client.job import Job, Result
from client.release import Bound, Entropy, FloatMatrix, FloatVector, GridVector, clipped_grid_sum, noised
from consortium.plan import PATIENTS, Plan, body_length, header_fields
from privacy.noise import poisson_mask
from privacy.terms import signal_bound
from tasks.base import Cohort, Task
from tasks.errors import ContractError
from tasks.features import Design
from tasks.metrics import score_histogram
from tasks.models import parameter_specs, refuse_mixing, split_parameters
from tasks.splits import held_out_mask

PATIENTS_AT_ONCE = 256  # held in memory together: 256 x n_parameters float32, weights and gradients each

Released = FloatVector | GridVector  # real numbers, or whole grid steps in mode distributed
Parameters = dict[str, torch.Tensor]
PatientGradients = Callable[[Parameters, torch.Tensor, torch.Tensor], Parameters]
PatientScores = Callable[[Parameters, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Side:
    """The patients of one side of the split; `values` (n, n_columns) with NaN for missing, `labels` (n,)."""

    values: FloatMatrix
    labels: NDArray[np.int8]


class Trainer:
    """Holds one site's cohort, split once; `run` computes one round's release."""

    def __init__(
        self, task: Task, cohort: Cohort, *, salt: bytes, held_out_fraction: float, entropy: Entropy, audit: Path | None = None
    ) -> None:
        """`audit`: the folder for what a plan's canaries measure here; None: they are not used."""
        self._task = task
        self._audit = audit
        self._entropy = entropy
        out = held_out_mask(cohort.patient_ids, salt, held_out_fraction)
        self.training = Side(cohort.values[~out], cohort.labels[~out])
        self.held_out = Side(cohort.values[out], cohort.labels[out])
        self._inputs: dict[bytes, tuple[torch.Tensor, torch.Tensor]] = {}
        self._models: dict[bytes, torch.nn.Module] = {}

    def run(self, job: Job) -> Result:
        """The release of one round. Raises `Refused` for a plan that this site's data or a private model cannot serve."""
        try:
            return self._release(job)
        except ContractError as error:  # unknown column, model or option: the plan's fault, and the same in every round
            raise Refused("TASK", str(error)) from error

    def _release(self, job: Job) -> Result:
        self._check(job.plan)
        buffers, weights = self._split_model(job)
        if job.purpose == "describe":
            return Result(self._describe(job.plan), _nothing(job.plan))
        train_inputs, held_out_inputs = self._encoded(job.plan, buffers)
        fields = header_fields(job.plan, job.round_number, job.purpose)
        header = self._patients(job.plan) if PATIENTS in fields else _nothing(job.plan)
        if any(item != PATIENTS for item in fields):
            header = np.concatenate([header, self._evaluate(job.plan, weights, held_out_inputs)])
        body = _nothing(job.plan)
        if body_length(job.plan, job.purpose):
            body = self._train(job, weights, train_inputs)
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

    def _split_model(self, job: Job) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        vector = np.frombuffer(job.model, dtype="<f4")
        if vector.size != job.plan.model_size or not np.isfinite(vector).all():
            raise Refused("MODEL", f"model of {vector.size} values, plan has {job.plan.model_size}, all must be finite")
        return vector[: job.plan.n_buffers], vector[job.plan.n_buffers :]

    def _model(self, plan: Plan) -> torch.nn.Module:
        if plan.digest not in self._models:
            model = self._task.build_model(plan.model.name, dict(plan.model.options), plan.task.columns)
            if parameter_specs(model) != tuple((spec.name, spec.shape) for spec in plan.model.parameters):
                raise Refused("MODEL", "the plan's parameter schema is not that of the named model in this code version")
            refuse_mixing_layers(model)
            self._models[plan.digest] = model
        return self._models[plan.digest]

    def _encoded(self, plan: Plan, buffers: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of the training and the held-out side, (n, n_inputs) float32 each; encoded once per normalisation."""
        key = plan.digest + buffers.tobytes()
        if key not in self._inputs:
            design = self._design(plan)
            mean, scale = design.split_buffers(buffers)
            sides = [design.encode(side.values, mean, scale) for side in (self.training, self.held_out)]
            train, out = (torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32)) for inputs in sides)
            self._inputs = {key: (train, out)}
        return self._inputs[key]

    def _describe(self, plan: Plan) -> Released:
        rows = np.asarray(self._design(plan).describe_vectors(self.training.values), dtype=np.float64)
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
        grid = np.array([len(self.training.labels) << plan.privacy.grid_bits], dtype=np.int64)
        return self._released(plan, grid, plan.privacy.count_noise, bound)

    def _evaluate(self, plan: Plan, weights: NDArray[np.float32], inputs: torch.Tensor) -> Released:
        model = self._model(plan)
        probabilities = scores(patient_scores(model), split_parameters(model, weights), inputs)
        usable = np.isfinite(probabilities)
        counts = score_histogram(self.held_out.labels[usable], probabilities[usable], plan.histogram_bins)
        if not plan.private:
            return np.asarray(counts, dtype=np.float64)
        bound = Bound(1.0, plan.privacy.grid_bits)  # a patient is in one bin: norm 1, on the grid exactly
        grid = np.asarray(counts, dtype=np.int64) << plan.privacy.grid_bits
        return self._released(plan, grid, plan.privacy.evaluate_noise, bound)

    def _train(self, job: Job, weights: NDArray[np.float32], inputs: torch.Tensor) -> Released:
        """Local minus global weights after `local_steps` steps, each a noised sum over a public normaliser; (n_parameters,).

        In mode distributed the noised sum itself: the coordinator divides the opened sum by the survivors' normalisers.
        """
        plan = job.plan
        if plan.privacy.distributed:
            return self._share(job, weights, inputs)
        normaliser = plan.privacy.sample_rate * plan.participant(job.site).declared_patients
        start = weights.astype(np.float64)
        current = start
        for _ in range(plan.schedule.local_steps):
            rows = self._gradient_rows(plan, current.astype(np.float32), inputs)
            current = current - plan.schedule.local_rate * self._summed(plan, rows) / normaliser
        return current - start

    def _share(self, job: Job, weights: NDArray[np.float32], inputs: torch.Tensor) -> GridVector:
        """The exact clipped sum, saturated where a plan's ring ends, with this site's share of the noise; grid steps."""
        plan, bound = job.plan, Bound(job.plan.privacy.clip, job.plan.privacy.grid_bits)
        most = signal_bound(plan, job.site)
        total = self._clipped_sum(plan, self._gradient_rows(plan, weights, inputs), bound)
        np.clip(total, -most, most, out=total)
        return self._noised_step(plan, total, bound)

    def _noised_step(self, plan: Plan, total: GridVector, bound: Bound) -> GridVector:
        """A training step's exact sum with its noise; the plan's canaries are in it while it is noised, and not afterwards."""
        return noised_with_canaries(
            total,
            Canaries.of(plan, self._audit, self._entropy),
            sample=lambda n: poisson_mask(n, plan.privacy.sample_rate, self._entropy),
            clipped=lambda rows: clipped_grid_sum(rows, bound),
            noised=lambda steps: noised(steps, noise_multiplier=plan.privacy.train_noise, bound=bound, entropy=self._entropy),
        )

    def _gradient_rows(self, plan: Plan, weights: NDArray[np.float32], inputs: torch.Tensor) -> Iterator[FloatMatrix]:
        """Gradients of the sampled patients, (n, n_parameters) at a time; no rows at all for an empty sample."""
        model = self._model(plan)
        gradients = patient_gradients(self._task, model)
        drawn = np.flatnonzero(poisson_mask(len(inputs), plan.privacy.sample_rate, self._entropy))
        labels = torch.from_numpy(self.training.labels.astype(np.float32))
        parameters = split_parameters(model, weights)
        for start in range(0, drawn.size, PATIENTS_AT_ONCE):
            chosen = torch.from_numpy(drawn[start : start + PATIENTS_AT_ONCE])
            found = gradients(repeated(parameters, len(chosen)), inputs[chosen], labels[chosen])
            flat = [found[spec.name].reshape(len(chosen), -1) for spec in plan.model.parameters]
            yield torch.cat(flat, dim=1).numpy().astype(np.float64)

    def _summed(self, plan: Plan, rows: Iterable[FloatMatrix]) -> FloatVector:
        if not plan.private:
            return np.asarray(sum((chunk.sum(axis=0) for chunk in rows), np.zeros(plan.n_parameters)), dtype=np.float64)
        bound = Bound(plan.privacy.clip, plan.privacy.grid_bits)
        total = self._clipped_sum(plan, rows, bound)
        return np.asarray(self._noised_step(plan, total, bound) * bound.step, dtype=np.float64)

    def _clipped_sum(self, plan: Plan, rows: Iterable[FloatMatrix], bound: Bound) -> GridVector:
        total = np.zeros(plan.n_parameters, dtype=np.int64)
        for chunk in rows:  # chunks only bound memory: integers add up exactly, the noise is drawn once
            total += clipped_grid_sum(chunk, bound)
        return total


def _nothing(plan: Plan) -> Released:
    return np.zeros(0, np.int64) if plan.privacy.distributed else np.zeros(0, np.float64)


def patient_gradients(task: Task, model: torch.nn.Module) -> PatientGradients:
    """Gradient of each patient's own loss over all parameters: (weights per patient, inputs (n, d), labels (n,)) to (n, *shape).

    Every patient brings weights of their own (`repeated`), so that the arithmetic of one is the same, bit for bit, whoever else
    is there. With shared weights the linear algebra library orders its sums by the size of the batch: a coordinator that
    chooses weights which nearly cancel turns that last bit into a different gradient for everybody when one patient is removed.
    """

    def loss(parameters: Parameters, record: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        logits = functional_call(model, parameters, (record.unsqueeze(0),))
        return task.loss(logits, label.unsqueeze(0))[0]

    mapped: PatientGradients = vmap(grad(loss))
    return mapped


def patient_scores(model: torch.nn.Module) -> PatientScores:
    """Logit of each patient, (n,), as independent of the others as `patient_gradients`."""

    def logit(parameters: Parameters, record: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = functional_call(model, parameters, (record.unsqueeze(0),))[0]
        return found

    mapped: PatientScores = vmap(logit)
    return mapped


def scores(logits: PatientScores, parameters: Parameters, inputs: torch.Tensor) -> FloatVector:
    """Probability of label 1 per patient, (n,)."""
    with torch.no_grad():
        parts = [logits(repeated(parameters, len(chunk)), chunk) for chunk in inputs.split(PATIENTS_AT_ONCE) if len(chunk)]
    found = torch.cat(parts).double().numpy() if parts else np.zeros(0)
    with np.errstate(over="ignore"):  # exp(large) is infinity, and the probability rightly 0
        return np.asarray(1.0 / (1.0 + np.exp(-found)), dtype=np.float64)


def repeated(parameters: Parameters, n: int) -> Parameters:
    """The same weights for each of `n` patients: (n, *shape) each."""
    return {name: value.expand(n, *value.shape).contiguous() for name, value in parameters.items()}


def refuse_mixing_layers(model: torch.nn.Module) -> None:
    """Raises `Refused` for a layer through which one patient's data reaches another's gradient (BatchNorm and the like)."""
    try:
        refuse_mixing(model)
    except ContractError as error:
        raise Refused("MODEL", str(error)) from error
