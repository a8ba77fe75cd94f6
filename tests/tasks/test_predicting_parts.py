"""Parts of a prediction: reasons add up, intervals cover, and a patient unlike all others gets none."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.base import Column, Contract, Label
from tasks.features import Design
from tasks.metrics import Scale, score_histogram
from tasks.metrics.histogram import mean_places
from tasks.models import build_model, initial_parameters, n_parameters
from tasks.predicting.bounds import FAR, TrainingRange
from tasks.predicting.calibrate import ONLY, Group, recalibration
from tasks.predicting.reasons import by_column, contributions
from tasks.scoring.base import Scored
from tasks.scoring.binary import BinaryScoring

CONTRACT = Contract(
    "example", "1",
    (
        Column("age", "numeric", "", low=0, high=100),
        Column("female", "binary", ""),
        Column("course", "categorical", "", categories=("a", "b")),
        Column("score", "numeric", "", low=-5, high=5, nullable=False),
    ),
    Label("event", ""),
)  # fmt: skip
DESIGN = Design(CONTRACT)
MEAN, SCALE = np.array([40.0, 0.0]), np.array([10.0, 1.0])
VALUES = np.array([[40.0, 1.0, 0.0, 0.0], [55.0, 0.0, np.nan, 2.0], [np.nan, np.nan, 1.0, -1.0]])


def inputs() -> np.ndarray:
    return DESIGN.encode(VALUES, MEAN, SCALE)


@pytest.mark.parametrize(("name", "options"), [("logistic", {}), ("mlp", {"hidden": 8})])
def test_contributions_add_up_to_the_difference_from_the_average_patient(name: str, options: dict[str, int]) -> None:
    model = build_model(name, DESIGN.n_inputs, options)
    weights = np.random.default_rng(3).normal(size=n_parameters(model)).astype(np.float32)
    parts = contributions(model, weights, inputs(), lambda outputs: outputs)
    with torch.no_grad():
        from tasks.models import load_parameters

        load_parameters(model, weights)
        whole = model(torch.from_numpy(inputs())) - model(torch.zeros(DESIGN.n_inputs))
    np.testing.assert_allclose(parts.sum(axis=1), whole.numpy(), atol=2e-3)
    found = by_column(DESIGN, parts)
    assert list(found) == list(CONTRACT.column_names)
    np.testing.assert_allclose(sum(found.values()), parts.sum(axis=1))


def test_contributions_add_up_though_the_score_bends_between_two_steps() -> None:
    """What pooling and the ends of a scale make of a score: level up to a bend, steep behind it."""
    model = build_model("logistic", DESIGN.n_inputs, {})
    weights = np.linspace(1.0, 2.0, n_parameters(model)).astype(np.float32)

    def score(outputs: torch.Tensor) -> torch.Tensor:
        return 5 * (outputs - 2.345).clamp(min=0.0)

    from tasks.models import load_parameters

    load_parameters(model, weights)
    with torch.no_grad():
        whole = score(model(torch.from_numpy(inputs()))) - score(model(torch.zeros(DESIGN.n_inputs)))
    assert (whole > 5).any()
    np.testing.assert_allclose(contributions(model, weights, inputs(), score).sum(axis=1), whole.numpy(), rtol=1e-6)


def test_a_logistic_contribution_is_weight_times_input() -> None:
    model = build_model("logistic", DESIGN.n_inputs, {})
    weights = np.arange(n_parameters(model), dtype=np.float32)
    np.testing.assert_allclose(contributions(model, weights, inputs(), lambda outputs: outputs), weights[:-1] * inputs(), rtol=1e-5)


def test_an_input_without_influence_contributes_nothing() -> None:
    model = build_model("mlp", DESIGN.n_inputs, {"hidden": 4})
    weights = initial_parameters(model, 1)  # the output layer starts at zero
    assert not contributions(model, weights, inputs(), lambda outputs: outputs).any()


def test_a_record_far_from_the_training_patients_or_nearly_empty_gets_no_prediction() -> None:
    limits = TrainingRange(DESIGN, MEAN, SCALE)
    near = np.array([[40 + 10 * FAR - 0.1, 1.0, 0.0, 0.0]])
    far = np.array([[40 + 10 * FAR + 0.1, 1.0, 0.0, 0.0]])
    empty = np.array([[np.nan, np.nan, np.nan, 0.0]])
    assert limits.abstain(near) == [""]
    (reason,) = limits.abstain(far)
    assert "age" in reason
    assert "0 to 90" in reason
    assert "90.1" not in reason
    assert "75 %" in limits.abstain(empty)[0]


def counts_of(rng: np.random.Generator, a: float, b: float, *, n: int, noise: float) -> list[Group]:
    """Held-out patients whose true logit is a + b x that of the prediction."""
    groups = []
    for predicted in (0.03, 0.08, 0.15, 0.25, 0.4, 0.6):
        logit = np.log(predicted / (1 - predicted))
        events = rng.binomial(n, 1 / (1 + np.exp(-(a + b * logit))))
        ones, zeros = events + rng.normal(0, noise), n - events + rng.normal(0, noise)
        groups.append(Group(predicted, ones + zeros, ones, noise))
    return groups


@pytest.mark.parametrize(("a", "b", "n", "noise"), [(0.0, 1.0, 200, 0.0), (-0.5, 0.8, 200, 0.0), (0.3, 1.2, 150, 6.0)])
def test_the_interval_covers_the_true_risk_as_often_as_it_says(a: float, b: float, n: int, noise: float) -> None:
    rng, hits, asked = np.random.default_rng(5), 0, np.array([0.1, 0.3])
    truth = 1 / (1 + np.exp(-(a + b * np.log(asked / (1 - asked)))))
    for _ in range(400):
        found = recalibration(counts_of(rng, a, b, n=n, noise=noise))
        assert found is not None
        _, low, high = found.risks(asked)
        hits += int(((low <= truth) & (truth <= high)).sum())
    assert 0.92 <= hits / 800 <= 0.985


def test_noise_widens_the_interval_and_little_known_leaves_the_model_as_it_is() -> None:
    rng = np.random.default_rng(1)
    exact, noisy = (recalibration(counts_of(rng, 0, 1, n=200, noise=noise)) for noise in (0.0, 20.0))
    assert exact is not None
    assert noisy is not None
    widths = [np.subtract(*found.risks(np.array([0.2]))[:0:-1])[0] for found in (exact, noisy)]
    assert widths[0] < widths[1]
    assert recalibration([Group(0.2, 0.5, 0.1), Group(0.3, 100, 20)]) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-20, 500), st.floats(-20, 500), st.floats(0, 30)), max_size=12))
def test_whatever_the_counts_are_risks_stay_ordered_within_zero_and_one(rows: list[tuple[float, float, float, float]]) -> None:
    found = recalibration([Group(*row) for row in rows])
    if found is not None:
        risk, low, high = found.risks(np.linspace(0, 1, 11))
        assert np.isfinite(risk).all()
        assert (low >= 0).all()
        assert (low <= risk).all()
        assert (risk <= high).all()
        assert (high <= 1).all()


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (-0.7, 0.8), (0.5, 0.5)])
@pytest.mark.parametrize("noise", [2.4, 3.4])
def test_intervals_cover_where_noise_is_of_the_size_of_the_counts(a: float, b: float, noise: float) -> None:
    """145 test patients of a small consortium in 32 bins: counts cut at 0, or bins chosen by them, would make risks too high."""
    rng, hits, errors, scoring = np.random.default_rng(2), [], [], BinaryScoring(32, (), "root_odds")
    for _ in range(200):
        scores = rng.normal(-1.7, 0.7, 145)
        labels = (rng.random(145) < 1 / (1 + np.exp(-(a + b * scores)))).astype(np.int8)
        places = scoring.places(Scored(scores, labels, np.zeros((145, 1))))[:, 0]
        cells = np.bincount(places, minlength=scoring.cells) + rng.normal(0, noise, scoring.cells)
        found = recalibration(scoring.calibration_groups(cells, noise)[ONLY])
        assert found is not None
        risk, low, high = found.risks(1 / (1 + np.exp(-np.array([-2.4, -1.7]))))
        truth = 1 / (1 + np.exp(-(a + b * np.array([-2.4, -1.7]))))
        hits.append((low <= truth) & (truth <= high))
        errors.append(risk - truth)
    assert np.mean(hits) > 0.92
    assert abs(np.mean(errors)) < 0.025


def test_a_range_that_noise_made_narrow_silences_nobody_ordinary() -> None:
    ordinary = np.array([[40.0, 1.0, 0.0, 4.0]])
    narrow = np.array([10.0, 0.5])  # the released spread of the score is 0.5, the true one may be 2
    assert TrainingRange(DESIGN, MEAN, narrow).abstain(ordinary) != [""]
    assert TrainingRange(DESIGN, MEAN, narrow, doubt=0.05).abstain(ordinary) == [""]
    assert not TrainingRange(DESIGN, MEAN, narrow).blind
    assert TrainingRange(DESIGN, MEAN, narrow, doubt=0.05).blind  # and this is told beside every prediction
    far = np.array([[100.0, 1.0, 0.0, 0.0]])
    assert TrainingRange(DESIGN, MEAN, narrow, doubt=0.0001).abstain(far) != [""]


@pytest.mark.parametrize("scale", ["probability", "root_odds"])
@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_wide_bins_do_not_flatten_the_slope_of_a_model_that_is_right(scale: Scale, noise: float) -> None:
    rng = np.random.default_rng(5)
    bins, slopes = 16, []
    for _ in range(100):
        score = rng.normal(-1.6, 0.75, 1500)
        risk = 1.0 / (1.0 + np.exp(-score))
        counts = score_histogram((rng.random(1500) < risk).astype(np.int8), risk, bins, scale)
        groups = BinaryScoring(bins, scale=scale).calibration_groups(counts + rng.normal(0.0, noise, 2 * bins), noise)
        found = recalibration(groups[ONLY])
        assert found is not None
        slopes.append(found.b)
    assert 0.96 < np.mean(slopes) < 1.04  # at the middles of the bins: 0.94 to 0.96


def test_a_model_with_few_values_is_recalibrated_about_as_at_the_middles_of_its_bins() -> None:
    rng, bins, slopes = np.random.default_rng(6), 16, []
    for _ in range(60):
        score = rng.choice([-1.2, -0.7, -0.2], size=2000, p=[0.6, 0.3, 0.1])
        risk = 1.0 / (1.0 + np.exp(-score))
        counts = score_histogram((rng.random(2000) < risk).astype(np.int8), risk, bins, "root_odds")
        found = recalibration(BinaryScoring(bins, scale="root_odds").calibration_groups(counts.astype(float), 0.0)[ONLY])
        assert found is not None
        slopes.append(found.b)
    assert 0.8 < np.mean(slopes) < 1.2


@pytest.mark.parametrize("counts", [[1000.0, *[0.0] * 30, 1.0], [*[0.0] * 16, 500.0, 500.0, *[0.0] * 13, 3.0]])
def test_the_patients_of_a_bin_are_taken_to_be_within_it(counts: list[float]) -> None:
    places, bins = mean_places(np.array(counts)), len(counts)
    assert (np.abs(places * bins - (np.arange(bins) + 0.5)) <= 0.5 + 1e-9).all()
