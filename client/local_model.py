"""A finished model on this hospital's own patients: what `personalise` and `evaluate` compute with. Nothing of it leaves."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from client.config import SiteConfig
from client.errors import ConfigError
from client.sides import Side, Sides, Split
from consortium.roster import Roster
from tasks.base import Task
from tasks.cohorts import open_cohort
from tasks.errors import TaskError
from tasks.exported import Exported, inputs_of, model_of, read_exported, task_of
from tasks.models import split_parameters
from tasks.run_options import ROWS

Floats = NDArray[np.float64]
Vector = NDArray[np.float32]


@dataclass(frozen=True)
class LocalSide:
    """One side's patients as a model takes them; `inputs` (n_records, n_inputs) and `labels` (n_records, ...), float64."""

    side: Side
    inputs: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    @property
    def shares(self) -> Floats:
        """What each record counts, (n_records,): a patient's add up to 1."""
        return np.asarray(1.0 / self.side.counts[self.side.owners], dtype=np.float64)


@dataclass(frozen=True)
class LocalModel:
    """The model of an exported folder with the site's patients on their sides of the consortium's split."""

    exported: Exported
    task: Task
    model: nn.Module = field(repr=False)
    sides: Sides = field(repr=False)

    def people(self, side: Side) -> LocalSide:
        """`side`, encoded with the model's own normalisation."""
        inputs = inputs_of(self.exported, self.task, side.values)
        return LocalSide(side, torch.from_numpy(inputs).double(), torch.from_numpy(side.labels.astype(np.float64)))

    def outputs(self, parameters: Vector, people: LocalSide) -> Floats:
        """What the model with these parameters says of each record, (n_records, ...)."""
        with torch.no_grad():
            found = functional_call(self.model, self.named(parameters), (people.inputs,))
        return np.asarray(found.numpy(), dtype=np.float64)

    def losses(self, parameters: Vector, people: LocalSide) -> Floats:
        """The task's loss of each patient, the mean over the records, (patients,)."""
        with torch.no_grad():
            outputs = functional_call(self.model, self.named(parameters), (people.inputs,))
            losses = self.task.loss(outputs, people.labels).double().numpy()
        return np.bincount(people.side.owners, people.shares * losses, people.side.patients).astype(np.float64)

    def named(self, parameters: Vector) -> dict[str, Tensor]:
        """The parameters (n_parameters,) by name, float64."""
        return {name: value.double() for name, value in split_parameters(self.model, parameters).items()}


def open_model(folder: Path, config: SiteConfig, roster: Roster) -> LocalModel:
    """Raises `ConfigError` for a model that is not for this site, `TaskError` for files or tables that cannot be used."""
    exported = read_exported(folder)
    if exported.task.name not in config.tasks:
        raise ConfigError(
            f"the model is of task {exported.task.name}, this site is set up for {', '.join(config.tasks)}: add it in site.yaml"
        )
    if exported.options.split == ROWS:
        raise ConfigError("the model's run parted rows, not patients: figures of this hospital's patients would be too good")
    task = task_of(exported)
    cohort = open_cohort(task, config.data)
    split = Split(cohort, salt=roster.split_salt, held_out_fraction=roster.held_out_fraction, at_most=task.records)
    return LocalModel(exported, task, model_of(exported, task).double(), split.asked(exported.options))


def enough(side: Side, least: int, what: str) -> None:
    """Raises `TaskError` where a side has fewer than `least` patients."""
    if side.patients < least:
        raise TaskError(f"the {what} has {side.patients} patients, at least {least} are needed: nothing can be said")
