"""The ceiling: what somebody would foretell who knew the true state and the true hazards of the day of prediction.

The task's own loss is minimised over a small model of the true values (`bench_tasks_worlds.TRUE`), on the training patients of all
sites; it is tested where all arms are. Nobody in a hospital has these values, so no arm should be above it.
"""

from __future__ import annotations

import numpy as np
import torch
from bench_tasks_measures import Told, weights_of
from bench_tasks_worlds import World
from torch import nn

from tasks.base import Task
from tasks.hazards.task import HazardTask

STEPS = 200
PULL = 1e-4  # of the squared weights, so that none runs away


def oracle(world: World) -> Told:
    """Outputs in the shape of the task's, by site, for the test records."""
    task = world.task
    assert isinstance(task, Task)
    parts = [sides.training for sides in world.truth.values()]
    values = np.concatenate([side.values for side in parts])
    centre, scale = values.mean(axis=0), values.std(axis=0) + 1e-9
    labels = torch.from_numpy(np.concatenate([side.labels for side in parts]).astype(np.float64))
    weights = torch.from_numpy(np.concatenate([weights_of(side) for side in parts]))
    model = _model(task, values.shape[1]).double()
    inputs = torch.from_numpy((values - centre) / scale)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        fit = (task.loss(model(inputs), labels) * weights).sum() / weights.sum()
        whole = fit + PULL * sum((one**2).sum() for name, one in model.named_parameters() if name.endswith("weight"))
        whole.backward()
        return whole

    optimiser.step(step)
    with torch.no_grad():
        return {site: model(torch.from_numpy((sides.test.values - centre) / scale)).numpy() for site, sides in world.truth.items()}


class _Score(nn.Module):  # type: ignore[misc]
    """One number for each record: (n, width) -> (n,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.line = nn.Linear(width, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.line(inputs).squeeze(-1)


class _Hazards(nn.Module):  # type: ignore[misc]
    """A score for each cause on a baseline of each quarter: (n, width) -> (n, bins), (n, bins, causes) for several causes."""

    def __init__(self, width: int, bins: int, causes: int) -> None:
        super().__init__()
        self.scores, self.baseline = nn.Linear(width, causes), nn.Parameter(torch.full((bins, causes), -4.0))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.baseline + self.scores(inputs).unsqueeze(-2)
        return logits.squeeze(-1) if logits.shape[-1] == 1 else logits


def _model(task: Task, width: int) -> nn.Module:
    torch.manual_seed(0)
    return _Hazards(width, task.grid.bins, len(task.causes)) if isinstance(task, HazardTask) else _Score(width)
