"""Metrics from summed histograms are those of the pooled patients, and say so when noise has eaten them."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.errors import ContractError
from tasks.metrics import HISTOGRAM_BOUND, pooled_metrics, score_histogram

BINS = 16
patients = st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=2, max_size=60)


def pairs_in_order(labels: np.ndarray, scores: np.ndarray) -> float:
    """The definition of the AUC: every pair of patients, one of each class."""
    ones, zeros = scores[labels == 1], scores[labels == 0]
    return float(np.mean([(one > zero) + 0.5 * (one == zero) for one in ones for zero in zeros]))


def binned(scores: np.ndarray) -> np.ndarray:
    return np.minimum(np.floor(scores * BINS), BINS - 1)


def split(found: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = zip(*found, strict=True)
    return np.array(labels), np.array(scores)


def test_a_histogram_has_label_0_first() -> None:
    counts = score_histogram([0, 0, 1, 1], np.array([0.0, 0.3, 0.5, 1.0]), 4)
    np.testing.assert_array_equal(counts, [1, 1, 0, 0, 0, 0, 1, 1])


@given(patients)
def test_every_patient_is_in_exactly_one_cell(found: list[tuple[int, float]]) -> None:
    labels, scores = split(found)
    whole = score_histogram(labels, scores, BINS)
    without = score_histogram(labels[1:], scores[1:], BINS)
    assert whole.sum() == len(found)
    assert np.linalg.norm(whole - without) == HISTOGRAM_BOUND


def test_a_patient_without_a_finite_score_still_counts() -> None:
    np.testing.assert_array_equal(score_histogram([0, 1], np.array([np.nan, np.inf]), 2), [0, 1, 0, 1])


@given(patients)
def test_the_auc_is_that_of_the_binned_scores_and_bounds_the_unbinned(found: list[tuple[int, float]]) -> None:
    labels, scores = split(found)
    metrics = pooled_metrics(score_histogram(labels, scores, BINS))
    if len(set(labels)) == 1:
        assert metrics.auc is None
        return
    assert metrics.auc == pytest.approx(pairs_in_order(labels, binned(scores)), abs=1e-12)
    assert metrics.auc_bin_bound is not None
    assert abs(metrics.auc - pairs_in_order(labels, scores)) <= metrics.auc_bin_bound + 1e-12


@given(patients)
def test_the_brier_score_is_within_a_bin_of_the_unbinned(found: list[tuple[int, float]]) -> None:
    labels, scores = split(found)
    brier = pooled_metrics(score_histogram(labels, scores, BINS)).brier
    assert brier == pytest.approx(np.mean((scores - labels) ** 2), abs=1 / BINS)


@given(st.lists(patients, min_size=2, max_size=4))
def test_summed_histograms_are_the_histogram_of_all_patients(sites: list[list[tuple[int, float]]]) -> None:
    summed = sum(score_histogram(*split(site), BINS) for site in sites)
    everyone = score_histogram(*split([patient for site in sites for patient in site]), BINS)
    assert pooled_metrics(summed) == pooled_metrics(everyone)


def test_the_pooled_auc_is_not_the_mean_of_the_sites() -> None:
    # Each site ranks its own patients perfectly; together they do not, because one site's scores are all higher.
    one, two = ([0, 1], np.array([0.1, 0.3])), ([0, 1], np.array([0.6, 0.9]))
    sites = [score_histogram(*site, BINS) for site in (one, two)]
    assert [pooled_metrics(site).auc for site in sites] == [1.0, 1.0]
    assert pooled_metrics(sites[0] + sites[1]).auc == 0.75


def test_a_site_with_one_class_contributes_to_its_half() -> None:
    converters = score_histogram([1, 1], np.array([0.2, 0.9]), BINS)
    mixed = score_histogram([0, 1], np.array([0.5, 0.7]), BINS)
    assert pooled_metrics(converters).auc is None
    assert pooled_metrics(converters + mixed).auc == pytest.approx(2 / 3)


def test_calibration_of_a_perfectly_calibrated_and_of_an_overconfident_model() -> None:
    scores = np.repeat([0.25, 0.75], 100)
    good = np.array(([1] * 25 + [0] * 75) + ([1] * 75 + [0] * 25))
    assert pooled_metrics(score_histogram(good, scores, 2)).ece == pytest.approx(0.0)
    poor = np.array(([1] * 50 + [0] * 50) * 2)
    metrics = pooled_metrics(score_histogram(poor, scores, 2))
    assert metrics.ece == pytest.approx(0.25)
    assert [(group.patients, group.predicted, group.observed) for group in metrics.calibration] == [
        (100, 0.25, 0.5), (100, 0.75, 0.5),
    ]  # fmt: skip


def test_the_standard_error_matches_resampling() -> None:
    stream = np.random.default_rng(1)
    labels = np.repeat([0, 1], [60, 40])

    def auc() -> float:
        scores = 1 / (1 + np.exp(-stream.normal(labels * 1.0)))
        return pooled_metrics(score_histogram(labels, scores, 32)).auc or 0.0

    spread = np.std([auc() for _ in range(300)])
    scores = 1 / (1 + np.exp(-stream.normal(labels * 1.0)))
    assert pooled_metrics(score_histogram(labels, scores, 32)).auc_sampling_se == pytest.approx(spread, rel=0.3)


def test_the_noise_error_matches_repeated_noise_and_the_auc_is_unbiased() -> None:
    stream = np.random.default_rng(2)
    labels = np.repeat([0, 1], [300, 200])
    counts = score_histogram(labels, 1 / (1 + np.exp(-stream.normal(labels * 1.2))), 16)
    clean = pooled_metrics(counts)
    noisy = [pooled_metrics(counts + stream.normal(0, 4.0, 32), noise_std=4.0) for _ in range(400)]
    found = np.array([metrics.auc for metrics in noisy])
    assert np.std(found) == pytest.approx(noisy[0].auc_noise_se, rel=0.2)
    assert abs(np.mean(found) - clean.auc) < 3 * np.std(found) / 20


def test_noise_that_dominates_is_flagged() -> None:
    counts = np.r_[np.full(16, 2.0), np.full(16, 2.0)]
    assert not pooled_metrics(counts).noise_dominates
    assert pooled_metrics(counts, noise_std=10.0).noise_dominates
    assert pooled_metrics(10_000 * counts, noise_std=10.0).noise_dominates is False


@given(st.lists(st.floats(-50, 50), min_size=8, max_size=8), st.floats(0, 100))
@example([0.0, 0.0, 0.0, 8e-207, 50.0, -49.0, 3.0, 0.0], 1.0)
@example([50.0, -50.0, 0.0, 8e-207, 8e-207, 0.0, 0.0, 0.0], 1.0)
def test_noise_never_takes_a_figure_out_of_its_range(cells: list[float], noise: float) -> None:
    metrics = pooled_metrics(np.array(cells), noise_std=noise)
    for figure in (metrics.auc, metrics.brier, metrics.ece):
        assert figure is None or 0.0 <= figure <= 1.0
    json.dumps(metrics.to_dict(), allow_nan=False)


def test_an_empty_histogram_has_no_figures() -> None:
    metrics = pooled_metrics(np.zeros(8))
    assert (metrics.auc, metrics.brier, metrics.ece) == (None, None, None)


@pytest.mark.parametrize(("labels", "scores", "bins"), [([2], [0.5], 4), ([0, 1], [0.5], 4), ([0], [0.5], 1)])
def test_a_histogram_of_nonsense_is_refused(labels: list[int], scores: list[float], bins: int) -> None:
    with pytest.raises(ContractError):
        score_histogram(labels, np.array(scores), bins)


@pytest.mark.parametrize("shape", [(3,), (2,), (2, 2)])
def test_cells_that_are_no_histogram_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ContractError):
        pooled_metrics(np.zeros(shape))
