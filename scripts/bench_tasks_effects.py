"""Effects of treatment in `scripts/bench tasks`: how far from true ones they are. What is found where there are none: `--null`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from bench_tasks_arms import PRIVATE, Models, Recipe, federated, local, pooled, told
from bench_tasks_measures import Floats, Told, all_figures
from bench_tasks_worlds import World
from numpy.typing import NDArray

from client.sides import Side
from tasks.effects.learners import EFFECT
from tasks.effects.pehe import sqrt_pehe
from tasks.treatment_response.task import TreatmentResponse

True_ = Callable[[pd.DataFrame, Sequence[str], NDArray[np.int64]], Floats]
ARMS = ("pooled", "federated", *PRIVATE, "local", "baseline")


@dataclass(frozen=True)
class Effects:
    """A task on effects; `true` reads the truth that its patients were made from."""

    recipe: Recipe
    true: True_

    @property
    def name(self) -> str:
        return self.recipe.choice

    @property
    def primary(self) -> str:
        return "sqrt_pehe"

    @property
    def lower_is_better(self) -> bool:
        return True

    @property
    def reported(self) -> str:
        """The figure of a run by which the lead compares runs."""
        return "ad_wabc"

    @property
    def columns(self) -> tuple[str, ...]:
        return (
            self.primary,
            "small",
            "bias",
            "spread_true",
            "spread_found",
            "correlation",
            "ate",
            "ad_wabc",
            "reported",
        )

    @property
    def arms(self) -> tuple[str, ...]:
        return ARMS

    @property
    def settings(self) -> Mapping[str, object]:
        return {
            "all arms": " ".join((f"task={self.recipe.choice}", *self.recipe.common)),
            "with noise": " ".join(self.recipe.private),
            "baseline": f"task={self.recipe.baseline}",
        }

    def run(self, world: World, arm: str) -> dict[str, float]:
        sides = {site: each.test for site, each in world.sides.items()}
        models = self._models(world, arm)
        outputs = told(world.task, models, sides)  # type: ignore[arg-type]
        said = next(iter(models.values())).reported if arm != "local" else {}
        return (
            all_figures(world.task, outputs, sides)  # type: ignore[arg-type]
            | self._against_truth(world, outputs)
            | ({"reported": said["ad_wabc"]} if "ad_wabc" in said else {})
            | {f"reported_{name}": value for name, value in said.items()}
        )

    def _models(self, world: World, arm: str) -> Models:
        if arm == "pooled":
            return pooled(world, self.recipe)
        if arm == "local":
            return local(world, self.recipe)
        if arm == "baseline":
            return federated(world, Recipe(self.recipe.baseline, common=self.recipe.common), arm)
        return federated(world, self.recipe, arm, PRIVATE.get(arm, ("privacy=none",)))

    def _against_truth(self, world: World, outputs: Told) -> dict[str, float]:
        """Over test records of all sites, and of small ones, each record once."""
        true = {site: self._true_sides(world, site).values[:, 0] for site in world.sites}
        tested = [site for site in world.sites if len(true[site])]
        found = {site: outputs[site][:, EFFECT, :].mean(-1) for site in tested}
        every, small = _joined(true, tested), [site for site in world.small if site in tested]
        guess = _joined(found, tested)
        error = {"small": sqrt_pehe(_joined(found, small), _joined(true, small))} if small else {}
        return error | {
            "sqrt_pehe": sqrt_pehe(guess, every),
            "bias": float((guess - every).mean()),
            "spread_true": float(every.std()),
            "spread_found": float(guess.std()),
            "correlation": float(np.corrcoef(guess, every)[0, 1]) if guess.std() > 1e-9 else 0.0,
        }

    def _true_sides(self, world: World, site: str) -> Side:
        """The test side with the true effect in place of inputs."""
        task = world.task
        assert isinstance(task, TreatmentResponse)
        tables, cohort = world.consortium.site(site).tables, world.cohorts[site]
        episodes = task.episodes(tables)
        episodes = episodes.only(task.outcome(tables, episodes).known)
        assert tuple(f"{site}-{one}" for one in episodes.patients) == cohort.patient_ids
        starts = world.consortium.truth[site].tables["truth_starts"]
        true = self.true(starts, episodes.patients, episodes.days)
        return world.sides_of(replace(cohort, values=true[:, None])).test


def _joined(parts: Mapping[str, Floats], sites: Sequence[str]) -> Floats:
    return np.concatenate([parts[site] for site in sites])
