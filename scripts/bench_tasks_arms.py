"""The ways to a model that `scripts/bench tasks` compares. Each gives a model for every site: the same one, or the site's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from bench_tasks_measures import Floats, Told
from bench_tasks_worlds import World, part_of
from consortium_in_process import HELD_OUT, Outcome, declared, plan_of, roster_of, tape, train, trainers_of

from client.batches import Encoder
from client.plan_model import model_of
from client.sides import Side
from client.trainer import Trainer, outputs_of
from consortium.plan import Plan
from server.model import Model
from tasks.base import Cohort, Task
from tasks.run_options import RunOptions, run_options
from tasks.splits import TRAINING, parts_of
from tasks.sums import SumsTask

POOLED = "pooled"
ABSENT = ("absent-a", "absent-b")  # a plan names three sites at least; these never answer
STOPS = (1, 2, 3, 5, 10, 20, 40, 60, 80, 120, 160)  # rounds after which a site that trains alone may stop
TRIES = 1  # divisions of a site's training patients by which it chooses
TRIED_ON = 1 / 3


@dataclass(frozen=True)
class Recipe:
    """How one task is run: overrides of the lead's configuration, for all arms, and on top of them where there is noise.

    `baseline`: what there is to beat, run federatedly without noise; "" = none.
    """

    choice: str  # of conf/task
    baseline: str = ""
    common: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    by_arm: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    alone: tuple[tuple[str, ...], ...] = ((),)  # what a site alone may choose from

    def words(self, arm: str, privacy: Sequence[str]) -> list[str]:
        """The configuration of one arm."""
        noise = () if "privacy=none" in privacy else self.private
        return [f"task={self.choice}", *privacy, *self.common, *noise, *self.by_arm.get(arm, ())]


@dataclass(frozen=True)
class Trained:
    """A model and what the run itself said of it: figures, and the histogram of the test halves with its noise."""

    plan: Plan
    model: Model = field(repr=False)
    reported: Mapping[str, float] = field(default_factory=dict)
    histogram: Floats = field(repr=False, default_factory=lambda: np.zeros(0))
    noise_std: float = 0.0


Models = Mapping[str, Trained]  # by site

NONE = ("privacy=none",)
PRIVATE = {
    "local8": ("privacy=epsilon8",),
    "distributed8": ("privacy=distributed8",),
    "distributed2": ("privacy=distributed8", "privacy.target_epsilon=2.0"),
}


def federated(world: World, recipe: Recipe, arm: str = "federated", privacy: Sequence[str] = NONE) -> Models:
    """All sites, with the product's plan and rounds."""
    roster = roster_of(sorted(world.sites), world.salt)
    trainers = trainers_of(world.task, world.cohorts, roster, world.seed, arm)
    plan = plan_of(recipe.words(arm, privacy), roster, declared(trainers))
    return _everybodys(world, _trained(train(plan, trainers)))


def pooled(world: World, recipe: Recipe) -> Models:
    """One place with everybody's rows, and the same training."""
    plan, trainer = _alone(world.task, world.pooled, recipe.words(POOLED, NONE), world.salt, world.seed)
    return _everybodys(world, _trained(train(plan, {POOLED: trainer})))


def local(world: World, recipe: Recipe) -> Models:
    """Each site on its own rows. How fast and how long it trains is chosen on its own training patients, so that a site alone does
    as well as it can."""
    return {site: _own(world, recipe, site) for site in world.sites}


def _own(world: World, recipe: Recipe, site: str) -> Trained:
    ways = [[*recipe.words("local", NONE), *words] for words in recipe.alone]
    tried = [_tried(world, words, site) for words in ways] if not isinstance(world.task, SumsTask) else []
    best = min(tried, key=lambda one: one[1], default=(0, 0.0))
    words = ways[tried.index(best)] if tried else ways[0]
    plan, trainer = _alone(world.task, world.cohorts[site], words, world.salt, world.seed, site)
    if not tried:
        return _trained(train(plan, {POOLED: trainer}))
    return Trained(plan, train(plan, {POOLED: trainer}, keep=best[:1]).kept[best[0]], {"stopped_after": float(best[0])})


def _tried(world: World, words: Sequence[str], site: str) -> tuple[int, float]:
    """After how many rounds the site had best stop, and the loss then, over `TRIES` divisions of its training patients."""
    task, cohort = world.task, world.cohorts[site]
    assert isinstance(task, Task)
    mine = part_of(cohort, parts_of(cohort.patient_ids, world.salt, HELD_OUT) == TRAINING)
    losses: dict[int, float] = {}
    for trial in range(TRIES):
        plan, trainer = _alone(world.task, mine, words, bytes([trial]) * 16, world.seed, site, trial, held_out=TRIED_ON)
        if not trainer.sides.training.patients:
            continue
        stops = [stop for stop in STOPS if stop <= plan.schedule.rounds]
        sides = (trainer.sides.validation, trainer.sides.test)
        for stop, model in train(plan, {POOLED: trainer}, keep=stops).kept.items():
            losses[stop] = losses.get(stop, 0.0) + _loss(task, plan, model, sides)
    best = min(losses, key=lambda stop: losses[stop], default=STOPS[0])  # who has too few to try stays near the start
    return best, losses.get(best, math.inf)


def rows_split(world: World, recipe: Recipe) -> tuple[Models, RunOptions]:
    """The same model under the split that leaks: a patient's rows on both sides. For measuring what that feigns."""
    changed = replace(recipe, common=(*recipe.common, "task.options.split=rows"))
    found = federated(world, changed, "rows")
    plan = next(iter(found.values())).plan
    return found, run_options(dict(plan.model.options))


def _alone(
    task: Task | SumsTask, cohort: Cohort, words: Sequence[str], salt: bytes, *seed: object, held_out: float = HELD_OUT
) -> tuple[Plan, Trainer]:
    """The plan and the trainer of one place that computes as if it were a consortium."""
    roster = roster_of((POOLED, *ABSENT), salt, held_out_fraction=held_out)
    trainer = Trainer(task, cohort, salt=salt, held_out_fraction=held_out, entropy=tape(*seed))
    sizes = {POOLED: max(1, trainer.sides.training.patients), **dict.fromkeys(ABSENT, 10)}
    return plan_of(words, roster, sizes), trainer


def _trained(outcome: Outcome) -> Trained:
    return Trained(outcome.plan, outcome.model, outcome.figures, outcome.histogram, outcome.noise_std)


def _everybodys(world: World, trained: Trained) -> Models:
    return dict.fromkeys(world.sites, trained)


# -- what models say -------------------------------------------------------------------------------------------------------


def told(task: Task, models: Models, sides: Mapping[str, Side]) -> Told:
    """Outputs of each site's model for these records of the site, (n_records, ...)."""
    return {site: outputs(task, models[site].plan, models[site].model, side) for site, side in sides.items()}


def outputs(task: Task, plan: Plan, model: Model, side: Side) -> Floats:
    """Of one model for one side's records, in their order."""
    batch = Encoder(task).batch(plan, side, side.values, model[: plan.n_buffers])
    return outputs_of(model_of(task, plan), model[plan.n_buffers :], batch)


def _loss(task: Task, plan: Plan, model: Model, sides: Sequence[Side]) -> float:
    """The task's own loss: a patient's is the mean over the records."""
    total = 0.0
    for side in sides:
        if len(side.labels):
            said = torch.from_numpy(outputs(task, plan, model, side))
            losses = task.loss(said, torch.from_numpy(np.asarray(side.labels, dtype=np.float64))).numpy()
            total += float(np.sum(losses / side.counts[side.owners]))
    return total
