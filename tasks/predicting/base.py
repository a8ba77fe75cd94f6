"""What a task says about a patient in front of somebody: named quantities with a meaning, not logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from tasks.base import Task
from tasks.errors import ContractError


@dataclass(frozen=True)
class Foretold:
    """`values` (n_records,), differentiable. A probability if `unit` is "", else in that unit.

    `event`, `years`: of a probability that this event comes first within so many years. Those of one event do not fall with the
    years, and different events exclude each other (`tasks.predicting.coherent`).
    """

    meaning: str
    values: Tensor = field(repr=False)
    unit: str = ""
    event: str = ""
    years: float = 0.0

    @property
    def score(self) -> Tensor:
        """What reasons add up to: log-odds of a probability, other values as they are; (n_records,)."""
        return torch.logit(self.values.double(), eps=1e-6) if not self.unit else self.values.double()


@runtime_checkable
class Foretells(Protocol):
    """A task that predicts something else than the chance of its label."""

    def foretold(self, outputs: Tensor) -> Mapping[str, Foretold]:
        """By name, the one to show first in front; `outputs` (n_records, ...) as the model gives them."""
        ...


def foretold_by(task: Task, outputs: Tensor) -> Mapping[str, Foretold]:
    """What `task` says. `ContractError` for a task of which that is not known."""
    if isinstance(task, Foretells):
        return task.foretold(outputs)
    if outputs.dim() != 1:
        raise ContractError(f"task {task.name} does not say what its model's outputs mean to a patient: nothing is predicted")
    label = task.contract.label
    return {label.name: Foretold(label.meaning, torch.sigmoid(outputs.double()))}
