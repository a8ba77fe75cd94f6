#!/usr/bin/env python3
"""What one hospital that held all patients would have got: the yardstick for every federated run.

    scripts/pooled_reference.py SITES --task cis_conversion

Reads the same folders through the same mappings, splits, encodes and trains with the same code as the sites, but with
the rows in one place and without noise. The script that compares federated runs with it imports `reference`.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "heart_task")]

from server import strategy as strategies  # noqa: E402  # after the path, so that a bare clone works
from tasks.base import Cohort, Task  # noqa: E402
from tasks.cohorts import open_cohort  # noqa: E402
from tasks.errors import TaskError  # noqa: E402
from tasks.features import Design  # noqa: E402
from tasks.metrics import PooledMetrics, pooled_metrics, score_histogram  # noqa: E402
from tasks.models import (  # noqa: E402
    initial_parameters,
    join_parameters,
    load_parameters,
    predict,
)
from tasks.registry import get_task  # noqa: E402
from tasks.run_options import run_options  # noqa: E402
from tasks.splits import TEST, TRAINING, parts_of  # noqa: E402

DEMO_SALT = bytes(range(16))


@dataclass(frozen=True)
class Recipe:
    """What a plan fixes, as far as a model without noise depends on it."""

    model: str = "logistic"
    options: Mapping[str, str | int | float] | None = None
    rounds: int = 60
    local_rate: float = 1.0
    strategy: str = "fedadam"
    strategy_options: Mapping[str, float] | None = None
    seed: int = 0
    salt: bytes = DEMO_SALT
    held_out_fraction: float = 0.25
    bins: int = 32


@dataclass(frozen=True)
class Sides:
    """Encoded patients who train and who test; inputs (n, n_inputs), labels (n,). The validation half is in neither."""

    training: NDArray[np.float32]
    training_labels: NDArray[np.int8]
    test: NDArray[np.float32]
    test_labels: NDArray[np.int8]
    buffers: NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """The pooled model and its figures on the test half."""

    training_patients: int
    test_patients: int
    auc_exact: float | None  # from the scores themselves
    metrics: PooledMetrics  # from the histogram, as a federated run computes them
    vector: NDArray[np.float32]  # buffers, then parameters


def load_sites(folders: Sequence[Path], task: Task) -> list[Cohort]:
    """The cohorts of the sites' folders, in order."""
    return [open_cohort(task, folder) for folder in folders]


def pool(cohorts: Sequence[Cohort], task: Task, recipe: Recipe, *, buffers: NDArray[np.float32] | None = None) -> Sides:
    """All sites' patients in one place, split by the sites' own rule, encoded with `buffers` or pooled statistics."""
    design = Design(task.contract)
    values = np.concatenate([cohort.values for cohort in cohorts])
    labels = np.concatenate([cohort.labels for cohort in cohorts])
    parts = np.concatenate([parts_of(cohort.patient_ids, recipe.salt, recipe.held_out_fraction) for cohort in cohorts])
    training, test = parts == TRAINING, parts == TEST
    if buffers is None:
        sums = design.describe_vectors(values[training]).sum(axis=0)
        buffers = design.buffer_vector(*design.statistics_to_buffers(sums))
    inputs = design.encode(values, *design.split_buffers(buffers))
    return Sides(inputs[training], labels[training], inputs[test], labels[test], buffers)


def train(sides: Sides, task: Task, recipe: Recipe) -> NDArray[np.float32]:
    """Parameters (n_params,) after `rounds` steps on the mean gradient of all training patients."""
    model = task.build_model(recipe.model, run_options(recipe.options or {}).model)
    strategy = strategies.build(recipe.strategy, recipe.strategy_options or {})
    inputs, labels = torch.from_numpy(sides.training), torch.from_numpy(sides.training_labels)
    weights = initial_parameters(model, recipe.seed).astype(np.float64)
    state = strategy.init(weights)
    for _ in range(recipe.rounds):
        load_parameters(model, weights.astype(np.float32))
        model.zero_grad()
        task.loss(model(inputs), labels).mean().backward()
        gradient = join_parameters({name: parameter.grad for name, parameter in model.named_parameters()})
        state, weights = strategy.step(state, weights, -recipe.local_rate * gradient.astype(np.float64))
    return strategy.release(state, weights).astype(np.float32)


def evaluate(sides: Sides, task: Task, recipe: Recipe, parameters: NDArray[np.float32]) -> Reference:
    """Figures of `parameters` (n_params,) on the test half of `sides`."""
    model = task.build_model(recipe.model, run_options(recipe.options or {}).model)
    load_parameters(model, parameters)
    scores = predict(model, sides.test)
    return Reference(
        training_patients=len(sides.training),
        test_patients=len(sides.test),
        auc_exact=exact_auc(sides.test_labels, scores),
        metrics=pooled_metrics(score_histogram(sides.test_labels, scores, recipe.bins)),
        vector=np.concatenate([sides.buffers, parameters]),
    )


def reference(folders: Sequence[Path], task: Task, recipe: Recipe) -> Reference:
    """Pool, train and evaluate the folders of several sites."""
    sides = pool(load_sites(folders, task), task, recipe)
    return evaluate(sides, task, recipe, train(sides, task, recipe))


def exact_auc(labels: NDArray[np.int8], scores: NDArray[np.float64]) -> float | None:
    """Share of (label 1, label 0) pairs in the right order, ties half; None with one class only."""
    ones, zeros = scores[labels == 1], np.sort(scores[labels == 0])
    if not len(ones) or not len(zeros):
        return None
    below, not_above = np.searchsorted(zeros, ones, "left"), np.searchsorted(zeros, ones, "right")
    return float((below + not_above).sum() / (2 * len(ones) * len(zeros)))


def _alone(folders: Sequence[Path], task: Task, recipe: Recipe) -> dict[str, float | None]:
    """Test AUC over all sites of the model that each site would train on its own patients."""
    cohorts = load_sites(folders, task)
    everyone = pool(cohorts, task, recipe)
    found = {}
    for folder, cohort in zip(folders, cohorts, strict=True):
        parameters = train(pool([cohort], task, recipe, buffers=everyone.buffers), task, recipe)
        found[folder.name] = evaluate(everyone, task, recipe, parameters).auc_exact
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sites", type=Path, help="folder of the sites' folders")
    parser.add_argument("--task", default="cis_conversion")
    parser.add_argument("--model", default="logistic")
    parser.add_argument("--rounds", type=int, default=Recipe.rounds)
    parser.add_argument("--json", action="store_true", help="print figures for programs")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the model is tiny; more threads only wait for one another
    recipe = Recipe(model=options.model, rounds=options.rounds)
    try:
        task = get_task(options.task)
        folders = sorted(folder for folder in options.sites.iterdir() if folder.is_dir())
        found, alone = reference(folders, task, recipe), _alone(folders, task, recipe)
    except (TaskError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        figures = asdict(found) | {"vector": found.vector.tolist(), "alone": alone}
        print(json.dumps(figures))
        return 0
    metrics = found.metrics
    print(f"{options.task}, {options.model}: {found.training_patients} training, {found.test_patients} tested")
    print(f"pooled       AUC {found.auc_exact:.3f} (histogram {metrics.auc:.3f} +- {metrics.auc_sampling_se:.3f} s.e.)")
    print(f"             Brier {metrics.brier:.3f}   ECE {metrics.ece:.3f}")
    for site, auc in alone.items():
        print(f"{site} alone: AUC {auc:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
