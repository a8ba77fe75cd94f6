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
from tasks.states.expectation import UNKNOWN, smoothed_states, vectors
from tasks.states.maximisation import fitted
from tasks.states.measures import Floats, Ints
from tasks.states.sequences import STEP, STEP_D, Sequences, sequences_of
from tasks.sums import Choice, Records, stage_sizes, stages_done

ARMS = ("taught", "pooled", "federated", *PRIVATE, "local")
FIRST_STATE = 1  # in the simulator's truth
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
        small = self._figures(models, sides, world.small).get(self.primary) if world.small else None
        return (
            found
            | ({} if small is None else {"small": small})
            | {"ari": _agreement(world, models, sides)}
            | ({"reported": said[self.primary]} if self.primary in said else {})
            | {f"reported_{name}": value for name, value in said.items()}
        )

    def _models(self, world: World, arm: str) -> Models:
        if arm == "taught":
            return _taught(world, pooled(world, self.recipe))
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
        owner, at, state = _true_states(world, site, side, sequences.length)
        true.append(state)
        found.append(states[owner, at])
    return float(adjusted_rand_score(np.concatenate(true), np.concatenate(found)))


def _true_states(world: World, site: str, side: Side, length: Ints) -> tuple[Ints, Ints, Ints]:
    """Of every visit within the patients' grids: whose it is, its step, and the true state from 0 on, in the order of time."""
    first = np.full(side.patients, NEVER)
    np.minimum.at(first, side.owners, side.values[:, STEP].astype(np.int64))
    places = {name.removeprefix(f"{site}-"): at for at, name in enumerate(side.ids)}
    visits = world.consortium.truth[site].tables["truth_states"].sort_values(["patient_id", "day"])
    visits = visits[visits["patient_id"].isin(places)]
    owner = visits["patient_id"].map(places).to_numpy(dtype=np.int64)
    at = visits["day"].to_numpy() // STEP_D - first[owner]
    inside = (at >= 0) & (at < length[owner])
    return owner[inside], at[inside], visits["state"].to_numpy(dtype=np.int64)[inside] - FIRST_STATE


def _taught(world: World, like: Models) -> Models:
    """The same model and number of iterations with the true state of every training visit told: what states can be found again by
    these measures at all, were the fit perfect."""
    trained = next(iter(like.values()))
    frame = frame_of(choice_of(trained))
    stages: list[Floats] = []
    sites: dict[str, tuple[Sequences, Ints]] = {}
    for site, sides in world.sides.items():
        side = sides.training
        sequences = sequences_of(frame, side.values, side.owners, side.patients)
        owner, at, state = _true_states(world, site, side, sequences.length)
        grid = np.full((side.patients, max(sequences.steps, 1)), UNKNOWN)
        grid[owner, at] = state
        sites[site] = sequences, grid[sequences.owner, sequences.at]
    patients = sum(sequences.patients for sequences, _ in sites.values())
    for _ in range(frame.iterations):
        parameters = fitted(frame, stages)
        sums = [vectors(frame, parameters, *each).sum(axis=0) for each in sites.values()]
        stages.append(np.sum(sums, axis=0) / patients)
    model = np.concatenate([[float(len(stages))], *stages]).astype(np.float32)
    return dict.fromkeys(world.sites, Trained(trained.plan, model))
