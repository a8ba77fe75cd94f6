"""From opened sums to what the run needs: the first model, the normalisation, the pooled metrics. Never a mean of site metrics."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from consortium.plan import Plan
from tasks.base import Task
from tasks.features import Design
from tasks.models import initial_parameters
from tasks.registry import find_task, get_task
from tasks.run_options import run_options, scoring_of
from tasks.scoring.base import Scoring
from tasks.sums import Choice, SumsTask, TestedSums


def initial_model(plan: Plan) -> NDArray[np.float32]:
    """Neutral buffers and the parameters that the plan's public seed gives; (model_size,)."""
    task = find_task(plan.task.name)
    if not isinstance(task, Task):
        return np.zeros(plan.model_size, dtype=np.float32)  # no stage is done
    model = task.build_model(plan.model.name, run_options(dict(plan.model.options)).model, plan.task.columns)
    design = Design(task.contract, plan.task.columns)
    neutral = design.buffer_vector(*design.neutral_buffers())
    return np.concatenate([neutral, initial_parameters(model, plan.model.init_seed)]).astype(np.float32)


def buffers(plan: Plan, sums: NDArray[np.float64], *, contributors: int) -> dict[str, NDArray[np.float64]]:
    """Mean and scale of every numeric column, by buffer name, from the opened describe sums (plan.statistics,)."""
    design = Design(get_task(plan.task.name).contract, plan.task.columns)
    noise = plan.privacy.describe_noise * plan.privacy.describe_clip * math.sqrt(contributors)
    mean, scale = design.statistics_to_buffers(sums, noise_std=noise)
    return {"feature_mean": mean, "feature_scale": scale}


def trained_by(plan: Plan, survivors: Sequence[str]) -> tuple[str, ...]:
    """The survivors whose weights divide a training round's sum: all but the site that the plan leaves out.

    It adds nothing to the sum, in a private plan its noise. All of them where no other is left."""
    return tuple(site for site in survivors if site != plan.left_out) or tuple(survivors)


def patients(plan: Plan, count: float, *, contributors: int) -> dict[str, float]:
    """Training patients behind a round's sum, and the standard error that the sites' noise leaves in it."""
    return {"patients": float(count), "patients_noise_se": plan.privacy.count_noise * math.sqrt(contributors)}


def metrics(plan: Plan, histogram: NDArray[np.float64], *, contributors: int) -> dict[str, float]:
    """Pooled metrics of an opened histogram (2 * bins,); a figure that cannot be computed is left out."""
    noise = plan.privacy.evaluate_noise * math.sqrt(contributors)
    task = find_task(plan.task.name)
    if isinstance(task, SumsTask):
        choice = Choice(plan.model.name, dict(plan.model.options), plan.task.columns)
        return dict(task.figures(choice, histogram, noise_std=noise)) if isinstance(task, TestedSums) else {}
    return dict(scoring_of(task, dict(plan.model.options), plan.histogram_bins).figures(histogram, noise_std=noise))


def scored_by(plan: Plan) -> Scoring | TestedSums | None:
    """What makes the figures of a run of `plan`, with the name of the primary one; None for sums that have none."""
    task = find_task(plan.task.name)
    if isinstance(task, SumsTask):
        return task if isinstance(task, TestedSums) else None
    return scoring_of(task, dict(plan.model.options), plan.histogram_bins)
