"""A consortium trains treatment effects by sums of patients' gradients alone, and beats one effect for everybody."""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import consortium_in_process as consortium

from tasks.base import Cohort
from tasks.effects.learners import EFFECT
from tasks.effects.pehe import sqrt_pehe, true_relapse
from tasks.features import Design
from tasks.models import load_parameters
from tasks.run_options import run_options
from tasks.simulator import ROUTINE, Schedule, SiteSpec, simulate_site
from tasks.splits import held_out_mask
from tasks.treatment_response.task import RELAPSE

pytestmark = pytest.mark.slow

SALT = bytes(range(16))
SITES = tuple(SiteSpec(name, 1500, Schedule.RECLAIM, interval_mo=6.0) for name in ("east", "north", "south", "west"))
WORDS = ("privacy=none", "schedule.rounds=60", "schedule.evaluate_every=60")
Floats = np.ndarray


@pytest.fixture(scope="module")
def hospitals() -> tuple[Mapping[str, Cohort], Mapping[str, Floats]]:
    """Cohorts of four hospitals, and the true effects of their rows."""
    cohorts, effects = {}, {}
    for spec in SITES:
        site, truth = simulate_site(spec, 3, ROUTINE)
        episodes = RELAPSE.episodes(site.tables)
        episodes = episodes.only(RELAPSE.outcome(site.tables, episodes).known)
        cohorts[spec.site_id] = RELAPSE.cohort_of(site.tables)
        assert cohorts[spec.site_id].patient_ids == episodes.patients
        effects[spec.site_id] = true_relapse(truth.tables["truth_starts"], episodes.patients, episodes.days)
    return cohorts, effects


def held_out_effects(found: consortium.Outcome, cohorts: Mapping[str, Cohort]) -> dict[str, Floats]:
    """The released model's effects for everybody, by site."""
    plan = found.plan
    design = Design(RELAPSE.contract, plan.task.columns)
    model = RELAPSE.build_model(plan.model.name, run_options(dict(plan.model.options)).model, plan.task.columns)
    load_parameters(model, np.asarray(found.model[plan.n_buffers :]))
    buffers = design.split_buffers(found.model)
    with torch.no_grad():
        outputs = {name: model(torch.from_numpy(design.encode(cohort.values, *buffers))) for name, cohort in cohorts.items()}
    return {name: each[:, EFFECT].mean(-1).double().numpy() for name, each in outputs.items()}


def test_individual_effects_are_nearer_the_truth_than_one_for_everybody(
    hospitals: tuple[Mapping[str, Cohort], Mapping[str, Floats]],
) -> None:
    cohorts, effects = hospitals
    errors, figures = {}, {}
    for name in ("treatment_response_relapse", "treatment_response_relapse_constant"):
        found = consortium.run(RELAPSE, [f"task={name}", *WORDS], cohorts, SALT, 1)
        predicted = held_out_effects(found, cohorts)
        out = {site: held_out_mask(cohort.patient_ids, SALT, consortium.HELD_OUT) for site, cohort in cohorts.items()}
        errors[name] = sqrt_pehe(
            np.concatenate([predicted[site][out[site]] for site in cohorts]),
            np.concatenate([effects[site][out[site]] for site in cohorts]),
        )
        figures[name] = found.figures
    assert errors["treatment_response_relapse"] < 0.95 * errors["treatment_response_relapse_constant"]
    whole, constant = figures["treatment_response_relapse"], figures["treatment_response_relapse_constant"]
    assert constant["ad_wabc"] == pytest.approx(0.0, abs=1e-9)
    assert whole["ate"] < 0
    assert whole["outside_overlap"] < 0.2
    assert whole["noise_dominates"] == 0.0
