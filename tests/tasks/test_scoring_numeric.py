"""Errors of foretold numbers, from histograms, are those of scikit-learn within the stated resolution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from tasks.errors import ContractError
from tasks.scoring.base import Scored, Scoring, shares, summed
from tasks.scoring.groups import Grouping
from tasks.scoring.names import NOISE_DOMINATES
from tasks.scoring.numeric import NumericScoring

GRID = 20
LOW, HIGH = 0.0, 110.0  # of the Symbol Digit Modalities Test


def people(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(truth, last value, prediction): the score regresses to the mean, and the prediction knows it, with an error of its own."""
    stream = np.random.default_rng(seed)
    last = np.clip(stream.normal(50, 14, n), LOW, HIGH)
    truth = np.clip(48 + 0.8 * (last - 50) + stream.normal(0, 6, n), LOW, HIGH)
    return truth, last, np.clip(49 + 0.8 * (last - 50) + stream.normal(0, 2, n), LOW, HIGH)


def scored(truth: np.ndarray, last: np.ndarray, outputs: np.ndarray) -> Scored:
    return Scored(outputs, np.column_stack([truth, last]), np.zeros((len(truth), 1)))


def histogram(scoring: Scoring, records: Scored) -> np.ndarray:
    return summed(scoring, records, np.ones(len(records), np.intp), GRID) / 2.0**GRID


def exact(truth: np.ndarray, last: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {
        "mae": mean_absolute_error(truth, predicted),
        "rmse": np.sqrt(mean_squared_error(truth, predicted)),
        "bias": float(np.mean(predicted - truth)),
        "r2": r2_score(truth, predicted),
        "mae_last": mean_absolute_error(truth, last),
        "rmse_last": np.sqrt(mean_squared_error(truth, last)),
        "mae_mean": float(np.mean(np.abs(truth - truth.mean()))),
    }


@pytest.mark.parametrize(("bins", "points", "share"), [(64, 0.1, 0.01), (256, 0.02, 1e-3)])
def test_figures_are_those_of_scikit_learn_within_the_stated_points(bins: int, points: float, share: float) -> None:
    scoring, found = NumericScoring(LOW, HIGH, bins), people(5000)
    figures = scoring.figures(histogram(scoring, scored(*found)))
    for name, value in exact(*found).items():
        assert figures[name] == pytest.approx(value, abs=share if name == "r2" else points), name
    assert figures["mae_low"] < figures["mae"] < figures["mae_high"]
    assert figures[NOISE_DOMINATES] == 0.0


def test_changes_are_counted_from_the_last_value() -> None:
    truth, last, predicted = people(500)
    values, steps = NumericScoring(LOW, HIGH, 64), NumericScoring(LOW, HIGH, 64, change=4.0)
    one = values.places(scored(truth, last, predicted))
    other = steps.places(scored(truth, last, (predicted - last) / 4.0))
    assert np.mean(one == other) > 0.99  # the rest lie on an edge, to the last bit


def test_an_error_beyond_the_reach_counts_as_the_reach_and_noise_weighs_less_for_it() -> None:
    truth, last, predicted = people(2000)
    predicted[:100] = np.clip(truth[:100] + 50, LOW, HIGH)
    short, wide = NumericScoring(LOW, HIGH, 64, reach=20.0), NumericScoring(LOW, HIGH, 64, reach=110.0)
    found = [scoring.figures(histogram(scoring, scored(truth, last, predicted)), noise_std=1.0) for scoring in (short, wide)]
    assert found[0]["mae"] == pytest.approx(np.mean(np.minimum(np.abs(predicted - truth), 20.0)), abs=0.1)
    assert found[1]["mae"] == pytest.approx(mean_absolute_error(truth, predicted), abs=0.2)
    assert found[0]["mae_noise_se"] < 0.3 * found[1]["mae_noise_se"]


BY = (Grouping("sex", 0, ("M", "F", "unknown"), (0.5,)),)


def test_a_groups_error_is_that_of_its_patients_alone() -> None:
    truth, last, predicted = people(3000)
    female = np.random.default_rng(5).integers(0, 2, 3000).astype(float)
    predicted = np.where(female == 1, predicted, np.clip(predicted + 5, LOW, HIGH))
    scoring = NumericScoring(LOW, HIGH, 128, by=BY)
    labels = np.column_stack([truth, last])
    found = scoring.figures(histogram(scoring, Scored(predicted, labels, female[:, None])))
    for key, mask in (("sex=F", female == 1), ("sex=M", female == 0)):
        assert found[f"mae[{key}]"] == pytest.approx(mean_absolute_error(truth[mask], predicted[mask]), abs=0.05)
        assert found[f"bias[{key}]"] == pytest.approx(np.mean((predicted - truth)[mask]), abs=0.05)
    assert found["mae"] == pytest.approx(mean_absolute_error(truth, predicted), abs=0.05)
    assert not [name for name in found if "unknown" in name]


@given(st.integers(1, 4), st.integers(0, 99))
def test_groups_cost_no_more_than_a_patients_bound(records: int, seed: int) -> None:
    scoring = NumericScoring(LOW, HIGH, 8, by=BY)
    values = np.random.default_rng(seed).choice([0.0, 1.0, np.nan], (records, 1))
    truth, last, predicted = people(records, seed)
    places = scoring.places(Scored(predicted, np.column_stack([truth, last]), values))
    moved = np.zeros(scoring.cells)
    np.add.at(moved, places, shares(scoring, places, np.full(records, records), GRID) / 2.0**GRID)
    assert scoring.cells == 8 * (3 + 3)
    assert places.shape == (records, 4)
    assert np.linalg.norm(moved) <= 1.0


def test_a_groups_error_under_noise_of_its_size_is_not_shown() -> None:
    truth, last, predicted = people(300)
    scoring = NumericScoring(LOW, HIGH, 32, by=BY)
    cells = histogram(scoring, Scored(predicted, np.column_stack([truth, last]), np.ones((300, 1))))
    assert "mae[sex=F]" in scoring.figures(cells)
    assert "mae[sex=F]" not in scoring.figures(cells, noise_std=30.0)


def test_labels_without_a_last_value_have_no_baseline_of_it() -> None:
    truth, _, predicted = people(500)
    scoring = NumericScoring(LOW, HIGH, 64, last=False)
    figures = scoring.figures(histogram(scoring, Scored(predicted, truth, np.zeros((500, 1)))))
    assert figures["mae"] == pytest.approx(mean_absolute_error(truth, predicted), abs=0.2)
    assert {"mae_mean", "r2"} <= set(figures)
    assert not [name for name in figures if "last" in name]


@given(st.lists(st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 3), min_size=1, max_size=8), st.booleans())
def test_everybody_is_in_a_cell_of_each_block_and_moves_the_sum_by_at_most_1(found: list[tuple[float, ...]], steps: bool) -> None:
    scoring = NumericScoring(-5.0, 20.0, 8, change=2.0 if steps else 0.0)
    truth, last, outputs = (np.array(column) for column in zip(*found, strict=True))
    places = scoring.places(scored(truth, last, outputs))
    assert np.array_equal(places // scoring.bins, np.tile([0, 1, 2], (len(found), 1)))
    moved = np.zeros(scoring.cells)
    np.add.at(moved, places, shares(scoring, places, np.full(len(found), len(found)), GRID) / 2.0**GRID)
    assert np.linalg.norm(moved) <= 1.0


def test_a_perfect_prediction_errs_by_less_than_the_narrowest_bin() -> None:
    truth, last, _ = people(300)
    scoring = NumericScoring(LOW, HIGH, 64)
    figures = scoring.figures(histogram(scoring, scored(truth, last, truth)))
    assert figures["mae"] <= HIGH / 2 / 32**2
    assert figures["r2"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", ["mae", "rmse", "bias", "mae_last", "mae_mean"])
def test_the_error_of_noise_is_what_repeated_noise_shows(name: str) -> None:
    stream, scoring = np.random.default_rng(2), NumericScoring(LOW, HIGH, 32)
    cells = histogram(scoring, scored(*people(4000)))
    found = [scoring.figures(cells + stream.normal(0.0, 2.0, scoring.cells), noise_std=2.0) for _ in range(300)]
    assert np.std([one[name] for one in found]) == pytest.approx(found[0][f"{name}_noise_se"], rel=0.25)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_intervals_hold_the_truth_as_often_as_they_say_or_more(noise: float) -> None:
    stream, scoring = np.random.default_rng(3), NumericScoring(LOW, HIGH, 32)
    truth, last, predicted = people(200_000)
    whole = scoring.figures(histogram(scoring, scored(truth, last, predicted)))
    held = dict.fromkeys(("mae", "rmse", "bias", "r2", "mae_last", "mae_mean"), 0)
    for _ in range(300):
        drawn = stream.choice(len(truth), 800)
        cells = histogram(scoring, scored(truth[drawn], last[drawn], predicted[drawn]))
        found = scoring.figures(cells + stream.normal(0.0, noise, scoring.cells), noise_std=noise)
        for name in held:
            held[name] += found[f"{name}_low"] <= whole[name] <= found[f"{name}_high"]
    assert min(held.values()) > 0.91 * 300, held


def test_noise_that_dominates_is_flagged() -> None:
    scoring = NumericScoring(LOW, HIGH, 32)
    cells = histogram(scoring, scored(*people(100)))
    assert scoring.figures(cells, noise_std=20.0)[NOISE_DOMINATES] == 1.0
    assert scoring.figures(100 * cells, noise_std=1.0)[NOISE_DOMINATES] == 0.0


@given(st.lists(st.floats(-50, 50), min_size=24, max_size=24), st.floats(0, 100))
def test_no_noise_takes_a_figure_out_of_the_numbers(cells: list[float], noise: float) -> None:
    figures = NumericScoring(0.0, 10.0, 8).figures(np.array(cells), noise_std=noise)
    assert np.isfinite(list(figures.values())).all()
    assert NOISE_DOMINATES in figures


def test_an_empty_histogram_has_no_figures() -> None:
    assert NumericScoring(0.0, 10.0, 8).figures(np.zeros(24)) == {NOISE_DOMINATES: 0.0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((5.0, 5.0, 8), "must be finite, and not empty"),
        ((0.0, 5.0, 7), "an even number"),
        ((0.0, float("inf"), 8), "must be finite"),
        ((0.0, 5.0, 8, False, 1.0), "from a last value"),
        ((0.0, 5.0, 8, True, 0.0, 6.0), "from 0 to the whole range, 5"),
    ],
)
def test_nonsense_is_refused_in_words(arguments: tuple[float, float, int], said: str) -> None:
    with pytest.raises(ContractError, match=said):
        NumericScoring(*arguments)


def test_labels_and_cells_of_another_shape_are_refused() -> None:
    scoring = NumericScoring(0.0, 10.0, 8)
    with pytest.raises(ContractError, match=r"\(n, 2\) with the last value"):
        scoring.places(Scored(np.zeros(3), np.zeros(3), np.zeros((3, 1))))
    with pytest.raises(ContractError, match="24 cells here"):
        scoring.figures(np.zeros(16))
