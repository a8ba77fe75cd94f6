"""A site's patients as models take them: encoded once for a plan and its normalisation, not once for a round."""

from dataclasses import dataclass

import numpy as np
import torch

from client.engines import PatientBatch, of_owners
from client.job import Job
from client.release import FloatMatrix
from client.sides import Side, Sides
from consortium.plan import Plan
from tasks.base import Task
from tasks.features import Design, Inputs
from tasks.modalities import dropped


@dataclass(frozen=True)
class Batches:
    """The patients of each side."""

    training: PatientBatch
    validation: PatientBatch
    test: PatientBatch


class Encoder:
    """Keeps what it encoded last; a trainer serves one plan at a time."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._kept: tuple[bytes, Batches] | None = None

    def batches(self, plan: Plan, sides: Sides, buffers: Inputs) -> Batches:
        """All sides; `buffers` (n_buffers,): the head of the model's vector. `ContractError` for those of another design."""
        key = plan.digest + buffers.tobytes()
        if self._kept is None or self._kept[0] != key:
            parts = (self.batch(plan, side, side.values, buffers) for side in (sides.training, sides.validation, sides.test))
            self._kept = key, Batches(*parts)
        return self._kept[1]

    def with_dropped(self, job: Job, side: Side, buffers: Inputs, rate: float) -> PatientBatch:
        """The patients of one side without the kinds of data that they lose in this round.

        What is lost depends on plan, round and patient alone, so that a patient moves a sum as if it were always so.
        """
        seed = job.plan.digest + job.round_number.to_bytes(8, "big")
        keys = [side.ids[owner].encode() for owner in side.owners]
        return self.batch(job.plan, side, dropped(side.values, self._task.contract.columns, keys, seed, rate), buffers)

    def batch(self, plan: Plan, side: Side, values: FloatMatrix, buffers: Inputs) -> PatientBatch:
        """The patients of one side with `values` (n_records, n_columns) in place of their own."""
        design = Design(self._task.contract, plan.task.columns)
        inputs = design.encode(values, *design.split_buffers(buffers))
        encoded = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))
        labels = torch.from_numpy(side.labels.astype(np.float32))
        return of_owners(encoded, labels, side.owners, patients=side.patients, at_most=self._task.records)
