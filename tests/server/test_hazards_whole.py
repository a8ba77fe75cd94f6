"""Tasks on hazards through a lead's real plan and every site's real trainer: figures are those of all test patients together."""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import consortium_in_process as inside

from client.trainer import Trainer
from consortium.plan import Plan
from tasks.base import Cohort, Task
from tasks.features import Design
from tasks.models import initial_parameters, load_parameters
from tasks.registry import get_task
from tasks.run_options import scoring_of
from tasks.scoring.base import Scored, shares
from tasks.simulator import Preset, Schedule, SiteSpec, simulate

pytestmark = pytest.mark.slow

SALT = bytes(range(16))
PRIMARY = {"cdp_time": "uno_c", "raw_pira": "auc_pira", "spms_transition": "uno_c"}
Cohorts = Mapping[str, Cohort]


@pytest.fixture(scope="module")
def cohorts() -> dict[str, dict[str, Cohort]]:
    """Of each task, four registries with 250 patients each."""
    sites = tuple(SiteSpec(f"s{at}", 250, Schedule.RECLAIM, interval_mo=6.0) for at in range(4))
    tables = {site.site_id: site.tables for site in simulate(Preset("four", sites), 3).sites}
    return {name: {site: get_task(name).cohort_of(found) for site, found in tables.items()} for name in PRIMARY}


def planned(name: str, cohorts: Cohorts, *words: str) -> tuple[Plan, dict[str, Trainer]]:
    roster = inside.roster_of(sorted(cohorts), SALT)
    trainers = inside.trainers_of(get_task(name), cohorts, roster, name, words)
    overrides = (f"task={name}", "schedule.rounds=30", "schedule.evaluate_every=30", *words)
    return inside.plan_of(overrides, roster, inside.declared(trainers)), trainers


def outputs_of(task: Task, plan: Plan, model: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What a released model says of these records."""
    design = Design(task.contract, plan.task.columns)
    built = task.build_model(plan.model.name, {}, plan.task.columns)
    load_parameters(built, model[plan.n_buffers :])
    with torch.no_grad():
        found: np.ndarray = built(torch.from_numpy(design.encode(values, *design.split_buffers(model)))).double().numpy()
    return found


@pytest.mark.parametrize("name", PRIMARY)
def test_without_noise_figures_are_those_of_all_test_patients_in_one_place(
    name: str, cohorts: dict[str, dict[str, Cohort]]
) -> None:
    plan, trainers = planned(name, cohorts[name], "privacy=none", "task.histogram_bins=64")
    task, found = get_task(name), inside.train(plan, trainers)
    scoring = scoring_of(task, dict(plan.model.options), plan.histogram_bins)
    cells = np.zeros(scoring.cells)
    sides = [trainer.sides.test for trainer in trainers.values()]
    values, labels = np.concatenate([side.values for side in sides]), np.concatenate([side.labels for side in sides])
    places = scoring.places(Scored(outputs_of(task, plan, found.model, values), labels, values))
    counts = np.concatenate([side.counts[side.owners] for side in sides])
    np.add.at(cells, places, shares(scoring, places, counts, plan.privacy.grid_bits) / 2**plan.privacy.grid_bits)
    expected = scoring.figures(cells)
    assert found.figures.keys() == expected.keys()
    assert PRIMARY[name] in expected
    for key, value in expected.items():
        assert found.figures[key] == pytest.approx(value, abs=0.01), key  # float32: a risk may be in the next bin
    assert found.figures["patients"] == pytest.approx(sum(side.patients for side in sides), abs=0.01)


@pytest.mark.parametrize("name", PRIMARY)
def test_training_makes_what_happened_more_likely(name: str, cohorts: dict[str, dict[str, Cohort]]) -> None:
    plan, trainers = planned(name, cohorts[name], "privacy=none")
    task, found = get_task(name), inside.train(plan, trainers)

    def loss(model: np.ndarray, side: str) -> float:
        sides = [getattr(trainer.sides, side) for trainer in trainers.values()]
        values, labels = np.concatenate([one.values for one in sides]), np.concatenate([one.labels for one in sides])
        outputs = torch.from_numpy(outputs_of(task, plan, model, values))
        return float(task.loss(outputs, torch.from_numpy(labels)).mean())

    built = task.build_model(plan.model.name, {}, plan.task.columns)
    start = np.concatenate([found.model[: plan.n_buffers], initial_parameters(built, plan.model.init_seed)])
    assert loss(found.model, "training") < 0.98 * loss(start, "training")
    assert loss(found.model, "validation") < loss(start, "validation")


@pytest.mark.parametrize("name", PRIMARY)
def test_a_run_under_privacy_says_what_noise_leaves(name: str, cohorts: dict[str, dict[str, Cohort]]) -> None:
    plan, trainers = planned(name, cohorts[name], "privacy=distributed8")
    found = inside.train(plan, trainers)
    assert plan.private
    assert np.isfinite(found.model).all()
    assert found.figures["noise_dominates"] in (0.0, 1.0)
    assert all(np.isfinite(list(found.figures.values())))
    assert set(found.figures) >= {"patients", "events"}
