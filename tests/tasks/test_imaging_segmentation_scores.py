"""Scores of lesion masks against independent computations and published examples."""

import statistics

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import f1_score

from tasks.errors import ContractError
from tasks.imaging.head import normalised
from tasks.imaging.measures import lesions_of
from tasks.imaging.phantoms import SITES, scans_of
from tasks.imaging.segmentation_scores import (
    SIZES_ML,
    ScanScores,
    best_threshold,
    bland_altman,
    dice_by_threshold,
    icc,
    score_scan,
)
from tasks.imaging.volume import Volume

Mask = NDArray[np.bool_]
ONE_MM = 1e-3  # mL


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Mask, Mask]:
    shape = tuple(draw(st.lists(st.integers(2, 8), min_size=3, max_size=3)))
    rng, share, kept = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.floats(0, 0.4)), draw(st.floats(0, 1))
    truth = rng.uniform(size=shape) < share
    return (truth & (rng.uniform(size=shape) < kept)) | (rng.uniform(size=shape) < share / 4), truth


def cubes(*corners: tuple[tuple[int, int, int], int], shape: tuple[int, int, int] = (30, 30, 30)) -> Mask:
    """First voxel and side of each."""
    marked = np.zeros(shape, np.bool_)
    for (x, y, z), side in corners:
        marked[x : x + side, y : y + side, z : z + side] = True
    return marked


# -- one scan -----------------------------------------------------------------------------------------------------------------


@given(pairs(), st.floats(1e-4, 0.1))
def test_dice_and_volumes_are_those_of_the_voxels(masks: tuple[Mask, Mask], voxel_ml: float) -> None:
    predicted, truth = masks
    found = score_scan(predicted, truth, voxel_ml)
    assert found.dice == pytest.approx(f1_score(truth.ravel(), predicted.ravel(), zero_division=1.0))
    assert found.true_ml == pytest.approx(truth.sum() * voxel_ml)
    assert found.predicted_ml == pytest.approx(predicted.sum() * voxel_ml)
    assert found.both_ml == pytest.approx((truth & predicted).sum() * voxel_ml)


def touched(mask: Mask, other: Mask, voxel_ml: float) -> list[tuple[float, bool]]:
    """Volume of each lesion and whether it shares a voxel with `other`, one lesion after the other."""
    labels, count = ndimage.label(mask, structure=ndimage.generate_binary_structure(3, 3))
    lesions = [labels == number for number in range(1, count + 1)]
    return [(each.sum() * voxel_ml, bool((each & other).any())) for each in lesions if each.sum() * voxel_ml > 0.002999]


@given(pairs(), st.sampled_from([0.0005, 0.001, 0.003, 0.05, 0.07]))
def test_lesions_are_counted_as_one_by_one(masks: tuple[Mask, Mask], voxel_ml: float) -> None:
    predicted, truth = masks
    found = score_scan(predicted, truth, voxel_ml)
    true, guessed = touched(truth, predicted, voxel_ml), touched(predicted, truth, voxel_ml)
    for number, (low, high) in enumerate(((0, SIZES_ML[0]), SIZES_ML, (SIZES_ML[1], np.inf))):
        own = [hit for ml, hit in true if low <= ml * (1 + 1e-9) < high]
        assert (found.true_lesions[number], found.found_lesions[number]) == (len(own), sum(own))
    assert (found.predicted_lesions, found.right_lesions) == (len(guessed), sum(hit for _, hit in guessed))
    affine = np.diag([*[(1000 * voxel_ml) ** (1 / 3)] * 3, 1.0])
    assert sum(found.true_lesions) == lesions_of(Volume(truth.astype(np.float32), affine)).count


@given(pairs())
def test_swapping_the_masks_swaps_recall_and_precision(masks: tuple[Mask, Mask]) -> None:
    one, other = score_scan(*masks, ONE_MM), score_scan(*masks[::-1], ONE_MM)
    assert (one.recall, one.precision) == (other.precision, other.recall)
    assert one.dice == other.dice
    assert one.f1 == pytest.approx(other.f1)


@given(pairs())
def test_a_mask_is_itself(masks: tuple[Mask, Mask]) -> None:
    found = score_scan(masks[1], masks[1], ONE_MM)
    assert found.dice == 1
    assert found.f1 in (None, 1.0)
    assert found.true_lesions == found.found_lesions


def test_recall_is_said_for_each_size() -> None:
    """Cubes of 0.064, 0.216 and 0.729 mL, and a second of 0.064; found are the large one and one of the small ones."""
    truth = cubes(((1, 1, 1), 4), ((20, 1, 1), 4), ((1, 12, 1), 6), ((15, 15, 15), 9))
    predicted = cubes(((4, 4, 4), 2), ((16, 16, 16), 9), ((1, 1, 22), 3))
    found = score_scan(predicted, truth, ONE_MM)
    assert found.true_lesions == (2, 1, 1)
    assert found.recall_by_size == (0.5, 0.0, 1.0)
    assert found.recall == 0.5
    assert (found.predicted_lesions, found.right_lesions) == (3, 2)
    assert found.f1 == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))


def test_to_lie_beside_a_lesion_is_not_to_find_it_and_one_prediction_may_find_two() -> None:
    truth = cubes(((2, 2, 2), 3), ((10, 2, 2), 3))
    assert score_scan(cubes(((5, 5, 5), 3)), truth, ONE_MM).recall == 0
    bridge = np.zeros_like(truth)
    bridge[4:11, 3, 3] = True
    found = score_scan(bridge, truth, ONE_MM)
    assert (found.recall, found.precision, found.f1) == (1, 1, 1)


def test_parts_below_three_cubic_millimetres_are_volume_and_no_lesions_but_can_be_touched() -> None:
    truth = cubes(((2, 2, 2), 3))
    speck = np.zeros_like(truth)
    speck[3, 3, 3] = speck[20, 20, 20] = True
    found = score_scan(speck, truth, ONE_MM)
    assert (found.predicted_lesions, found.precision, found.recall) == (0, None, 1.0)
    assert found.predicted_ml == pytest.approx(0.002)
    assert score_scan(speck, truth, 0.003).predicted_lesions == 2


def test_without_a_lesion_dice_is_whether_none_is_predicted() -> None:
    nothing, something = np.zeros((9, 9, 9), np.bool_), cubes(((2, 2, 2), 3), shape=(9, 9, 9))
    none = score_scan(nothing, nothing, ONE_MM)
    assert (none.dice, none.recall, none.precision, none.f1) == (1, None, None, None)
    assert none.recall_by_size == (None, None, None)
    wrong, missed = score_scan(something, nothing, ONE_MM), score_scan(nothing, something, ONE_MM)
    assert (wrong.dice, wrong.recall, wrong.precision, wrong.f1) == (0, None, 0, 0)
    assert (missed.dice, missed.recall, missed.precision, missed.f1) == (0, 0, None, 0)


@pytest.mark.parametrize(
    ("shapes", "voxel_ml"), [(((4, 4, 4), (4, 4, 5)), 0.001), (((4, 4, 4), (4, 4, 4)), 0.0), (((4, 4), (4, 4)), 0.001)]
)
def test_masks_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], voxel_ml: float) -> None:
    with pytest.raises(ContractError, match="one grid"):
        score_scan(np.zeros(shapes[0], np.bool_), np.zeros(shapes[1], np.bool_), voxel_ml)


# -- the best threshold -------------------------------------------------------------------------------------------------------


def mean_dice(scans: list[tuple[NDArray[np.float16], Mask]], level: float) -> float:
    found: list[ScanScores] = [score_scan(values >= level, truth, ONE_MM) for values, truth in scans]
    return float(np.mean([each.dice for each in found]))


@given(st.lists(pairs(), min_size=1, max_size=4), st.integers(0, 2**32 - 1), st.sampled_from([1.0, 8.0]))
def test_no_threshold_is_better_than_the_best(masks: list[tuple[Mask, Mask]], seed: int, coarseness: float) -> None:
    rng = np.random.default_rng(seed)
    scans = [
        ((np.rint(coarseness * (rng.standard_normal(truth.shape) + 2 * truth)) / 8).astype(np.float16), truth) for _, truth in masks
    ]
    best = best_threshold(scans)
    tried = [*np.unique(np.concatenate([values.ravel() for values, _ in scans])).tolist(), np.inf]
    assert best.mean_dice == pytest.approx(max(mean_dice(scans, level) for level in tried))
    assert best.mean_dice == pytest.approx(mean_dice(scans, best.value))


def test_dice_at_many_thresholds_is_that_at_each() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(size=(6, 7, 8)) < 0.2
    values = (rng.standard_normal(truth.shape) + truth).astype(np.float16)
    levels = np.linspace(-4, 6, 41)
    expected = [mean_dice([(values, truth)], level) for level in levels]
    np.testing.assert_allclose(dice_by_threshold(values, truth, levels), expected)


def test_scans_without_lesions_want_no_voxel_and_no_scan_is_refused() -> None:
    values = np.ones((3, 3, 3), np.float16)
    best = best_threshold([(values, np.zeros((3, 3, 3), np.bool_))])
    assert (best.value, best.mean_dice) == (np.inf, 1.0)
    with pytest.raises(ContractError, match="at least one"):
        best_threshold([])


def test_one_threshold_on_phantoms_is_where_it_is_on_real_flair() -> None:
    """Lesions lie at 2 to 4 robust deviations, and one threshold reaches a Dice of .2 to .6."""
    scans = []
    for number in range(6):
        scan = next(scans_of(SITES[number % 3], f"P{number}", (0,), seed=11))
        image = scan.images["FLAIR"].data
        scans.append((normalised(image, np.ones(image.shape, np.bool_), low=-5, high=10), scan.mask.data > 0))
    best = best_threshold(scans)
    assert 1.5 < best.value < 4
    assert 0.2 < best.mean_dice < 0.6


# -- agreement of volumes -----------------------------------------------------------------------------------------------------

# Peak flow by two meters, l/min, of 17 people: Bland and Altman 1986, table 1, first readings.
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
# Four judges of six people: Shrout and Fleiss 1979, table 2.
JUDGES = [[9, 6, 8, 7, 10, 6], [2, 1, 4, 1, 5, 2], [5, 3, 6, 2, 6, 4], [8, 2, 8, 6, 9, 7]]


def test_the_limits_of_agreement_are_the_published_ones() -> None:
    found = bland_altman(WRIGHT, MINI)
    assert found.bias_ml == pytest.approx(-2.1, abs=0.05)
    spread = statistics.stdev(one - other for one, other in zip(WRIGHT, MINI, strict=True))
    assert spread == pytest.approx(38.8, abs=0.05)
    assert (found.low_ml, found.high_ml) == pytest.approx((found.bias_ml - 1.96 * spread, found.bias_ml + 1.96 * spread))


def test_the_intraclass_correlation_is_the_published_one() -> None:
    assert icc(*JUDGES) == pytest.approx(0.29, abs=0.005)


volumes = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=3, max_size=12)


@given(volumes)
def test_agreement_is_that_of_an_analysis_of_variance(both: list[tuple[float, float]]) -> None:
    """Sums of squares from least squares on indicators of scans and raters, an independent way."""
    ratings = np.asarray(both)
    n, values = len(ratings), ratings.ravel()
    scans, raters = np.kron(np.eye(n), np.ones((2, 1))), np.tile(np.eye(2), (n, 1))
    left = [
        float(((values - design @ np.linalg.lstsq(design, values, rcond=None)[0]) ** 2).sum())
        for design in (np.ones((2 * n, 1)), scans, raters, np.hstack([scans, raters]))
    ]
    rest, between, shift = left[3] / (n - 1), (left[0] - left[1]) / (n - 1), left[0] - left[2]
    spread = between + rest + 2 * (shift - rest) / n
    assume(spread > 1e-6 * (1 + left[0]))
    assert icc(*ratings.T) == pytest.approx((between - rest) / spread, abs=1e-6)


def test_agreement_is_absolute() -> None:
    true = np.asarray([1.0, 3.0, 8.0, 20.0])
    assert icc(true, true) == pytest.approx(1)
    assert bland_altman(true, true).bias_ml == 0
    shifted, scaled = icc(true + 5, true), icc(2 * true, true)
    assert shifted is not None
    assert scaled is not None
    assert shifted < 0.9
    assert scaled < 0.9
    assert icc(np.full(3, 0.1), np.full(3, 0.1)) is None
    assert icc([0.0, 1.0], [1.0, 0.0]) is None
    assert icc([0.0, 0.0], [0.0, 0.0]) is None


def test_too_few_volumes_are_refused() -> None:
    for columns in (([1.0], [1.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ContractError, match="same n >= 2 scans"):
            bland_altman(*columns)
    with pytest.raises(ContractError, match="two or more"):
        icc([1.0, 2.0])
