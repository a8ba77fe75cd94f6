"""From sums to what a run needs, against the same computed from all patients in one place."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sites_in_process import COLUMNS, SITES, make_plan, make_roster

from server import pooled
from tasks.features import Design
from tasks.metrics import score_histogram
from tasks.registry import get_task
from tasks.scoring.base import Scored, summed

PLAN = make_plan(make_roster(SITES[:4]))
PLAIN = replace(PLAN, privacy=replace(PLAN.privacy, evaluate_noise=0.0, describe_noise=0.0, train_noise=0.0, mode="none",
                                      epsilon_exposed=-1.0, epsilon_model=-1.0))  # fmt: skip
DESIGN = Design(get_task("cis_conversion").contract, COLUMNS)


def test_the_first_model_is_neutral_and_the_same_for_everybody() -> None:
    model = pooled.initial_model(PLAN)
    assert model.dtype == np.float32
    assert model.shape == (PLAN.model_size,)
    mean, scale = DESIGN.neutral_buffers()
    assert model[: PLAN.n_buffers] == pytest.approx(np.concatenate([mean, scale]))
    assert np.array_equal(model, pooled.initial_model(PLAN))


def test_normalisation_of_a_sum_is_that_of_the_pooled_patients() -> None:
    ages = np.random.default_rng(1).uniform(18, 60, 300)
    values = np.full((300, len(DESIGN.contract.columns)), np.nan)
    values[:, DESIGN.contract.column_names.index("age_years")] = ages
    parts = [DESIGN.describe_vectors(part).sum(axis=0) for part in np.array_split(values, 4)]
    found = pooled.buffers(PLAIN, np.sum(parts, axis=0), contributors=4)
    assert found["feature_mean"] == pytest.approx([ages.mean()], rel=1e-6)
    assert found["feature_scale"] == pytest.approx([ages.std()], rel=1e-3)


def test_a_sum_that_noise_drowns_leaves_the_neutral_normalisation() -> None:
    noisy = replace(PLAN, privacy=replace(PLAN.privacy, describe_noise=100.0))
    found = pooled.buffers(noisy, np.array([5.0, 5.0, 1.0]), contributors=4)
    assert found["feature_mean"] == pytest.approx(DESIGN.neutral_buffers()[0])


@pytest.mark.parametrize(
    ("left_out", "survivors", "trained"),
    [
        ("", SITES[:3], SITES[:3]),
        ("kaunas", SITES[:3], ("basel", "lyon")),
        ("kaunas", ("basel",), ("basel",)),
        ("lyon", ("lyon",), ("lyon",)),
    ],
)
def test_the_site_that_is_left_out_does_not_weaken_the_others_step(
    left_out: str, survivors: tuple[str, ...], trained: tuple[str, ...]
) -> None:
    plan = replace(PLAN, model=replace(PLAN.model, options=(("leave_out", left_out),) if left_out else ()))
    assert pooled.trained_by(plan, survivors) == trained


def histogram(labels: list[int], scores: list[float]) -> np.ndarray:
    return np.asarray(score_histogram(np.array(labels, np.int8), np.array(scores), PLAN.histogram_bins), np.float64)


def test_a_site_with_one_class_contributes_as_if_its_patients_lay_with_the_others() -> None:
    mixed = histogram([0, 0, 1], [0.1, 0.6, 0.7])
    converters_only = histogram([1, 1], [0.9, 0.3])
    together = histogram([0, 0, 1, 1, 1], [0.1, 0.6, 0.7, 0.9, 0.3])
    assert pooled.metrics(PLAIN, mixed + converters_only, contributors=2) == pooled.metrics(PLAIN, together, contributors=1)
    # scores in bins of a quarter: 0.7 -> bin 2, 0.9 -> 3, 0.3 -> 1 against 0.1 -> 0 and 0.6 -> 2: 3 wins of bin 0,
    # then one tie, one win, one loss: 4.5 of 6
    assert pooled.metrics(PLAIN, together, contributors=1)["auc"] == pytest.approx(4.5 / 6)


def test_a_mean_of_site_figures_would_be_another_number() -> None:
    first, second = histogram([0, 1], [0.1, 0.4]), histogram([0, 1], [0.6, 0.9])
    alone = [pooled.metrics(PLAIN, part, contributors=1)["auc"] for part in (first, second)]
    assert alone == [1.0, 1.0]
    assert pooled.metrics(PLAIN, first + second, contributors=2)["auc"] == pytest.approx(0.75)


def test_figures_that_cannot_be_computed_are_left_out() -> None:
    assert "auc" not in pooled.metrics(PLAIN, histogram([1, 1], [0.9, 0.3]), contributors=1)


def test_noise_of_more_sites_is_larger_by_their_root() -> None:
    cells = 100.0 * histogram([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9])
    one, four = (pooled.metrics(PLAN, cells, contributors=n)["auc_noise_se"] for n in (1, 4))
    assert four == pytest.approx(2.0 * one)


def test_a_plan_that_asks_for_groups_has_their_figures_and_those_of_everybody() -> None:
    scoring = get_task("cis_conversion").scoring(4, ("sex",))
    options = (*PLAIN.model.options, ("score_bins", 4), ("score_by", "sex"))
    plan = replace(PLAIN, model=replace(PLAIN.model, options=options), histogram_bins=scoring.cells // 2)
    stream = np.random.default_rng(2)
    values = np.full((400, len(DESIGN.contract.columns)), np.nan)
    values[:, DESIGN.contract.column_names.index("sex")] = stream.integers(0, 2, 400)
    logits = stream.normal(0.0, 1.5, 400)
    labels = (stream.random(400) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    cells = summed(scoring, Scored(logits, labels, values), np.ones(400, np.intp), 20) / 2.0**20
    found = pooled.metrics(plan, cells, contributors=3)
    alone = pooled.metrics(PLAIN, histogram(labels.tolist(), (1 / (1 + np.exp(-logits))).tolist()), contributors=3)
    assert {name: found[name] for name in alone} == pytest.approx(alone, abs=1e-4)
    assert {"auc[sex=F]", "auc_low[sex=M]"} <= set(found)
    assert pooled.scored_by(plan) == scoring
