"""Figures from a histogram are those of scikit-learn on the pooled patients, and their intervals are as wide as they should be."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from tasks.metrics import Figure, PooledMetrics, Scale, centres, pooled_metrics, score_histogram
from tasks.metrics.calibration import brier, intercept_and_slope
from tasks.metrics.discrimination import auc, average_precision
from tasks.metrics.histogram import edges, off_scale, on_scale
from tasks.metrics.utility import net_benefit, prevalence

SCALES: tuple[Scale, ...] = ("probability", "root_odds")
FINE, RESOLUTION = 1024, 1e-3  # at so many bins, figures are so close to the unbinned
Halves = tuple[np.ndarray, np.ndarray]


def patients(stream: np.random.Generator, n: int, base: float, slope: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions; the logit of the truth is `slope` times the prediction's plus 0.2."""
    logits = stream.normal(base, 1.0, n)
    labels = (stream.random(n) < 1 / (1 + np.exp(-(0.2 + slope * logits)))).astype(np.int64)
    return labels, 1 / (1 + np.exp(-logits))


def logistic(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Slope of the logistic recalibration, by scikit-learn."""
    logits = np.log(scores / (1 - scores))[:, None]
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits, labels, sample_weight=weights)
    return float(fit.coef_[0, 0])


def in_the_large(labels: np.ndarray, scores: np.ndarray) -> float:
    """The shift of all logits that makes the mean prediction the mean outcome, by bisection."""
    logits, low, high = np.log(scores / (1 - scores)), -5.0, 5.0
    for _ in range(80):
        middle = (low + high) / 2
        too_low = np.mean(1 / (1 + np.exp(-(logits + middle)))) < labels.mean()
        low, high = (middle, high) if too_low else (low, middle)
    return low


def gain(labels: np.ndarray, scores: np.ndarray, threshold: float) -> float:
    treated = scores >= threshold
    return float(np.mean(treated * labels) - np.mean(treated * (1 - labels)) * threshold / (1 - threshold))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("n", "base", "slope"), [(4000, -0.5, 1.0), (6000, -2.5, 0.7), (3000, 0.5, 1.3)])
def test_at_1024_bins_figures_are_those_of_scikit_learn_within_a_thousandth(
    scale: Scale, n: int, base: float, slope: float
) -> None:
    labels, scores = patients(np.random.default_rng(n), n, base, slope)
    found = pooled_metrics(score_histogram(labels, scores, FINE, scale), scale=scale).figures
    expected = {
        "auc": roc_auc_score(labels, scores),
        "auprc": average_precision_score(labels, scores),
        "brier": brier_score_loss(labels, scores),
        "calibration_intercept": in_the_large(labels, scores),
        "calibration_slope": logistic(labels, scores),
        **{f"net_benefit_{percent}": gain(labels, scores, percent / 100) for percent in (10, 20, 30)},
        "prevalence": labels.mean(),
    }
    assert {name: found[name].value for name in expected} == pytest.approx(expected, abs=RESOLUTION)


def test_a_rare_event_is_seen_better_on_the_root_odds() -> None:
    labels, scores = patients(np.random.default_rng(7), 20_000, -3.5)
    off = {}
    for scale in SCALES:
        found = pooled_metrics(score_histogram(labels, scores, 16, scale), scale=scale).figures
        off[scale] = abs(found["auc"].value - roc_auc_score(labels, scores))
    assert off["root_odds"] < 0.02 < 0.05 < off["probability"]


def test_the_fit_is_the_logistic_regression_on_the_centres_of_the_bins() -> None:
    labels, scores = patients(np.random.default_rng(3), 2000, -1.0, 0.8)
    cells = score_histogram(labels, scores, 16)
    middle = np.tile(centres(16), 2)
    expected = logistic(np.repeat([0, 1], 16), middle, weights=cells.astype(float))
    assert intercept_and_slope(cells[:16] * 1.0, cells[16:] * 1.0, 0.0)[1].value == pytest.approx(expected, abs=1e-4)  # type: ignore[union-attr]


def test_the_sampling_error_of_the_auc_is_that_of_de_long() -> None:
    labels, scores = patients(np.random.default_rng(4), 150, -0.3)
    bins = np.minimum(np.floor(scores * 16), 15)
    ones, zeros = bins[labels == 1], bins[labels == 0]
    wins = np.array([[(one > zero) + 0.5 * (one == zero) for zero in zeros] for one in ones])
    variance = np.var(wins.mean(axis=1)) / len(ones) + np.var(wins.mean(axis=0)) / len(zeros)
    assert pooled_metrics(score_histogram(labels, scores, 16)).auc_sampling_se == pytest.approx(np.sqrt(variance))


def value_of(name: str) -> Callable[[np.ndarray, np.ndarray], Figure | None]:
    """The figure of (zeros, ones) with noise of 1, as its own module computes it."""
    return {
        "auc": lambda zeros, ones: auc(zeros, ones, 1.0)[0],
        "brier": lambda zeros, ones: brier(zeros, ones, 1.0),
        "calibration_intercept": lambda zeros, ones: intercept_and_slope(zeros, ones, 1.0)[0],
        "calibration_slope": lambda zeros, ones: intercept_and_slope(zeros, ones, 1.0)[1],
        "net_benefit": lambda zeros, ones: net_benefit(zeros, ones, 1.0, 20),
        "prevalence": lambda zeros, ones: prevalence(zeros, ones, 1.0),
        "auprc": lambda zeros, ones: average_precision(zeros, ones, 1.0)[0],
    }[name]


@pytest.mark.parametrize(
    "name", ["auc", "brier", "calibration_intercept", "calibration_slope", "net_benefit", "prevalence", "auprc"]
)
def test_the_error_of_noise_is_the_length_of_the_slope(name: str) -> None:
    labels, scores = patients(np.random.default_rng(5), 3000, -0.5)
    cells, figure = score_histogram(labels, scores, 8).astype(float), value_of(name)
    slopes = []
    for at in range(16):
        ends = []
        for step in (-0.01, 0.01):
            moved = cells.copy()
            moved[at] += step
            ends.append(figure(moved[:8], moved[8:]).value)  # type: ignore[union-attr]
        slopes.append((ends[1] - ends[0]) / 0.02)
    exact = name != "auprc"  # there the lean to the prevalence moves with it, a little
    found = figure(cells[:8], cells[8:])
    assert found is not None
    assert found.noise_se == pytest.approx(np.linalg.norm(slopes), rel=1e-4 if exact else 0.05)


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_intervals_of_95_percent_hold_the_truth_as_often(noise: float) -> None:
    stream = np.random.default_rng(6)
    labels, scores = patients(stream, 400_000, -0.8, 0.9)
    truth = {name: one.value for name, one in pooled_metrics(score_histogram(labels, scores, 16)).figures.items()}
    held = dict.fromkeys(truth, 0)
    repeats = 400
    for _ in range(repeats):
        drawn = stream.choice(len(labels), 600)
        cells = score_histogram(labels[drawn], scores[drawn], 16) + stream.normal(0.0, noise, 32)
        for name, one in pooled_metrics(cells, noise_std=noise).figures.items():
            held[name] += one.low is not None and one.high is not None and one.low <= truth[name] <= one.high
    shares = {name: count / repeats for name, count in held.items()}
    assert min(shares.values()) > 0.91, shares
    assert max(shares.values()) < 0.99, shares


def test_noise_moves_the_slope_to_neither_side() -> None:
    stream = np.random.default_rng(8)
    labels, scores = patients(stream, 3000, -0.5)
    cells = score_histogram(labels, scores, 16)
    clean = pooled_metrics(cells).figures["calibration_slope"].value
    noisy = [pooled_metrics(cells + stream.normal(0.0, 4.0, 32), noise_std=4.0).figures["calibration_slope"] for _ in range(400)]
    values = np.array([one.value for one in noisy])
    assert abs(values.mean() - clean) < 4 * values.std() / 20
    assert values.std() == pytest.approx(noisy[0].noise_se, rel=0.2)


apart = st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=2, max_size=60, unique_by=lambda one: one[1])


@given(apart, st.sampled_from(SCALES))
def test_the_unbinned_average_precision_is_within_the_stated_resolution(found: list[tuple[int, float]], scale: Scale) -> None:
    labels, scores = (np.array(column) for column in zip(*found, strict=True))
    metrics = pooled_metrics(score_histogram(labels, scores, 8, scale), scale=scale)
    if len(set(labels)) == 1:
        assert "auprc" not in metrics.figures
        return
    assert metrics.auprc_bin_bound is not None
    off = abs(metrics.figures["auprc"].value - average_precision_score(labels, scores))
    assert off <= metrics.auprc_bin_bound + 1e-9


@given(st.lists(st.floats(-50, 50), min_size=16, max_size=16), st.floats(0, 100), st.sampled_from(SCALES))
def test_no_noise_takes_a_figure_or_its_interval_out_of_the_numbers(cells: list[float], noise: float, scale: Scale) -> None:
    for name, one in pooled_metrics(np.array(cells), noise_std=noise, scale=scale).figures.items():
        assert np.isfinite([one.value, one.sampling_se, one.noise_se]).all(), name
        if one.low is not None and one.high is not None:
            assert one.low <= one.value + 1e-12
            assert one.value <= one.high + 1e-12


def test_scores_that_part_the_classes_have_no_slope_and_a_perfect_auc_no_interval() -> None:
    found: PooledMetrics = pooled_metrics(score_histogram([0] * 20 + [1] * 20, np.r_[np.full(20, 0.1), np.full(20, 0.9)], 4))
    assert "calibration_slope" not in found.figures
    assert (found.auc, found.figures["auc"].low) == (1.0, None)


def test_what_noise_alone_makes_of_the_calibration_error_is_stated() -> None:
    stream = np.random.default_rng(9)
    middle, each = centres(10), 2000.0
    perfect = np.r_[each * (1 - middle), each * middle]
    found = [pooled_metrics(perfect + stream.normal(0.0, 30.0, 20), noise_std=30.0) for _ in range(200)]
    assert np.mean([one.ece for one in found]) == pytest.approx(found[0].ece_noise, rel=0.1)
    assert pooled_metrics(perfect).ece_noise == 0.0


def test_a_threshold_inside_a_bin_parts_it() -> None:
    zeros, ones = np.array([0.0, 10.0]), np.array([0.0, 0.0])
    found = net_benefit(zeros, ones, 0.0, 75)  # the upper bin is [0.5, 1)
    assert found is not None
    assert found.value == pytest.approx(-0.5 * 3)


@given(st.floats(0, 1))
def test_the_way_to_the_scale_and_back_leads_home(probability: float) -> None:
    place = on_scale(np.array([probability]), "root_odds")
    assert 0.0 <= place[0] <= 1.0
    assert off_scale(place, "root_odds")[0] == pytest.approx(probability, abs=1e-12)


def test_sixteen_bins_of_root_odds_end_where_risks_are_talked_about() -> None:
    assert edges(16, "root_odds")[:9] == pytest.approx([0, 0.0044, 0.02, 0.0506, 0.1, 0.1712, 0.2647, 0.377, 0.5], abs=2e-4)
