"""The task of states in `scripts/bench tasks`: forecasts of scores against the chain, and how well true states are found again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from bench_tasks_arms import PRIVATE, Models, Recipe, Trained, federated, local, pooled
from bench_tasks_worlds import World
from sklearn.metrics import adjusted_rand_score

from client.sides import Side
from tasks.disease_states.task import TASK, frame_of
from tasks.states.expectation import smoothed_states
from tasks.states.maximisation import fitted
from tasks.states.sequences import STEP, STEP_D, sequences_of
from tasks.sums import Choice, Records, stage_sizes, stages_done

ARMS = ("pooled", "federated", *PRIVATE, "local")
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class States:
    """What to beat, the chain of EDSS strata, is in every sum and every figure: a gain above 0 beats it."""

    recipe: Recipe

    @property
    def name(self) -> str:
        return self.recipe.choice

    @property
    def primary(self) -> str:
        return "log_likelihood_gain"

    @property
    def reported(self) -> str:
        return self.primary

    @property
    def lower_is_better(self) -> bool:
        return False

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.primary, "small", "ari", "log_likelihood", "log_likelihood_chain", "log_density", "auc", "reported")

    @property
    def arms(self) -> tuple[str, ...]:
        return ARMS

    @property
    def settings(self) -> Mapping[str, object]:
        return {
            "all arms": " ".join((f"task={self.recipe.choice}", *self.recipe.common)),
            "with noise": " ".join(self.recipe.private),
        }

    def run(self, world: World, arm: str) -> dict[str, float]:
        models = self._models(world, arm)
        sides = {site: each.test for site, each in world.sides.items()}
        said = next(iter(models.values())).reported if arm != "local" else {}
        found = self._figures(models, sides, world.sites)
        small = self._figures(models, sides, world.small).get(self.primary)
        return (
            found
            | ({} if small is None else {"small": small})
            | {"ari": _agreement(world, models, sides)}
            | ({"reported": said[self.primary]} if self.primary in said else {})
            | {f"reported_{name}": value for name, value in said.items()}
        )

    def _models(self, world: World, arm: str) -> Models:
        if arm == "pooled":
            return pooled(world, self.recipe)
        if arm == "local":
            return local(world, self.recipe)
        return federated(world, self.recipe, arm, PRIVATE.get(arm, ("privacy=none",)))

    def _figures(self, models: Models, sides: Mapping[str, Side], sites: Sequence[str]) -> dict[str, float]:
        """The product's own, from unclipped sums over test patients without noise."""
        total = np.zeros(TASK.test_cells(choice_of(models[sites[0]])))
        for site in sites:
            model, side = models[site], sides[site]
            records = Records(side.values, side.owners, side.patients)
            total += TASK.test_vectors(choice_of(model), stages_of(model), records).sum(axis=0)
        return dict(TASK.figures(choice_of(models[sites[0]]), total))


def choice_of(trained: Trained) -> Choice:
    plan = trained.plan
    return Choice(plan.model.name, dict(plan.model.options), plan.task.columns)


def stages_of(trained: Trained) -> list[np.ndarray]:
    """Sums of all stages, over declared patients, as sites see them."""
    return list(stages_done(stage_sizes(TASK, choice_of(trained)), trained.model.astype(np.float64)))


def _agreement(world: World, models: Models, sides: Mapping[str, Side]) -> float:
    """Adjusted Rand index of smoothed states against true ones, on all visits of test patients, scored or not."""
    true, found = [], []
    for site, side in sides.items():
        if not side.patients:
            continue
        frame = frame_of(choice_of(models[site]))
        sequences = sequences_of(frame, side.values, side.owners, side.patients)
        states = smoothed_states(fitted(frame, stages_of(models[site])), sequences)[0].state.argmax(axis=2)
        first = np.full(side.patients, NEVER)
        np.minimum.at(first, side.owners, side.values[:, STEP].astype(np.int64))
        places = {name.removeprefix(f"{site}-"): at for at, name in enumerate(side.ids)}
        visits = world.consortium.truth[site].tables["truth_states"]
        visits = visits[visits["patient_id"].isin(places)]
        owner = visits["patient_id"].map(places).to_numpy(dtype=np.int64)
        at = visits["day"].to_numpy() // STEP_D - first[owner]
        inside = (at >= 0) & (at < sequences.length[owner])
        true.append(visits["state"].to_numpy()[inside])
        found.append(states[owner[inside], at[inside]])
    return float(adjusted_rand_score(np.concatenate(true), np.concatenate(found)))
