"""The task of lesions: what plans may ask, what is drawn of a patient, how whole scans are judged and counted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from phantom_sites import write_hospital

from tasks.base import Task
from tasks.errors import ContractError, DataError
from tasks.imaging.cache import Cache
from tasks.imaging.entries import Entry
from tasks.imaging.segmentation_scores import bland_altman
from tasks.imaging.store import Scan, open_store
from tasks.imaging.task import ImageTask, ShownOnPhantoms
from tasks.lesion_seg.scoring import LOADS, REACH_ML, LesionScoring
from tasks.lesion_seg.task import PATCH, PATCHES, TASK
from tasks.metrics import Z95
from tasks.registry import get_task
from tasks.scoring.base import NOWHERE, Scored, summed

COLUMNS = ("flair", "t1w")
OWN_VOXELS = {"spacing_mm": 0}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scan, ...]:
    return open_store(write_hospital(tmp_path_factory.mktemp("lesions"), "one", 3)).scans


@pytest.fixture(scope="module")
def entries(scans: tuple[Scan, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Entry, ...]:
    outcomes = Cache(tmp_path_factory.mktemp("cache"), TASK.recipe(OWN_VOXELS, COLUMNS)).fill(scans)
    return tuple(outcome.entry for outcome in outcomes if outcome.entry is not None)


def scored(rows: list[tuple[float, float, float, float]]) -> Scored:
    return Scored(np.array(rows, dtype=np.float64).reshape(-1, 4), np.zeros(len(rows)), np.zeros((len(rows), 4)))


def counted(scoring: LesionScoring, rows: list[tuple[float, float, float, float]]) -> np.ndarray:
    """A histogram of patients with one session each."""
    bits = 30
    return summed(scoring, scored(rows), np.ones(len(rows), np.intp), bits) / 2.0**bits


# -- what plans may ask -------------------------------------------------------------------------------------------------------


def test_it_is_a_task_on_images_that_trains_a_model() -> None:
    assert get_task("lesion_seg") is TASK
    assert isinstance(TASK, Task)
    assert isinstance(TASK, ImageTask)
    assert TASK.contract.modalities(COLUMNS) == ("mri",)


@pytest.mark.parametrize("spacing", [0.4, 6.5, -1, "1", True])
def test_a_grid_that_cannot_be_is_refused(spacing: float | str) -> None:
    with pytest.raises(ContractError, match=r"spacing_mm is .* 0 for each scan's own voxels"):
        TASK.build_model("unet3d", {"spacing_mm": spacing}, COLUMNS)


def test_a_plan_fixes_grid_and_sequences_in_the_contracts_order() -> None:
    recipe = TASK.recipe({"spacing_mm": 1.5}, ("t1w", "flair"))
    assert recipe.spacing_mm == (1.5, 1.5, 1.5)
    assert recipe.modalities == ("FLAIR", "T1w")
    assert TASK.recipe({"spacing_mm": 0}, ("t2w",)).spacing_mm is None
    assert TASK.input_shape(("flair", "t1w", "t2w")) == (3, *PATCH)


@pytest.mark.parametrize("name", ["unet3d", "unet25d"])
def test_a_model_takes_what_is_drawn(name: str, entries: tuple[Entry, ...]) -> None:
    model = TASK.build_model(name, {**OWN_VOXELS, "widths": "4-8"}, COLUMNS)
    inputs, labels = TASK.drawn(entries, b"seed", 0.0)
    assert inputs.shape == (PATCHES, *TASK.input_shape(COLUMNS))
    losses = TASK.loss(model(torch.from_numpy(inputs)), torch.from_numpy(labels))
    assert losses.shape == (PATCHES,)
    assert torch.isfinite(losses).all()


def test_groups_of_people_are_refused() -> None:
    with pytest.raises(ContractError, match="has no figures by sex"):
        TASK.scoring(16, ("sex",))


@pytest.mark.parametrize("side", [16, 32])
def test_a_plan_chooses_how_large_a_patch_is(side: int, entries: tuple[Entry, ...]) -> None:
    chosen = TASK.for_plan({"patch": side})
    inputs, labels = chosen.drawn(entries[:1], b"seed", 0.0)
    assert inputs.shape[1:] == (*chosen.input_shape(("flair", "t1w")),) == (2, side, side, side)
    assert labels.shape[1:] == chosen.label_shape == (side,) * 3
    model = TASK.build_model("unet3d", {"patch": side, "widths": "4-8"}, ("flair", "t1w"))
    assert model(torch.from_numpy(inputs)).shape == labels.shape
    assert TASK.label_shape == (32, 32, 32)


@pytest.mark.parametrize("side", [0, 8, 24, True, "16", 16.5])
def test_a_patch_of_another_size_is_refused(side: int) -> None:
    with pytest.raises(ContractError, match="16 or 32 voxels a side"):
        TASK.for_plan({"patch": side})


def test_a_network_too_deep_for_the_patch_is_refused() -> None:
    with pytest.raises(ContractError, match="choose fewer widths"):
        TASK.build_model("unet3d", {"patch": 16, "widths": "4-4-4-4-4"}, ("flair",))


def test_the_maker_of_a_scanner_is_known_by_its_name_and_is_no_input(scans: tuple[Scan, ...]) -> None:
    named = [replace(scans[0], scanner=name) for name in ("Philips Ingenia 3T", "SIEMENS Aera", "Toshiba Titan", "Hitachi", "")]
    column = TASK.contract.column_names.index("vendor")
    found = TASK.cohort_of_scans(named).values[:, column]
    categories = TASK.contract.column("vendor").categories
    assert [categories[int(code)] for code in found[:4]] == ["philips", "siemens", "canon", "other"]
    assert np.isnan(found[4])
    assert TASK.input_shape(("flair", "vendor")) == TASK.input_shape(("flair",))
    assert TASK.recipe({}, ("flair", "vendor")) == TASK.recipe({}, ("flair",))


def test_dice_by_maker_is_that_of_its_sessions_with_lesions() -> None:
    scoring = TASK.scoring(1024, ("vendor",))
    values = np.full((5, len(TASK.contract.columns)), np.nan)
    values[:3, -1] = [0.0, 0.0, 2.0]  # siemens twice, ge; two scanners without a name
    outputs = np.array([(0.8, 1, 5, 5), (0.4, 1, 5, 5), (0.6, 1, 5, 5), (0.2, 1, 5, 5), (1.0, np.nan, 0, 0)], float)
    places = scoring.places(Scored(outputs, np.zeros(5, np.int8), values))
    histogram = np.zeros(scoring.cells)
    for row in places:
        for place, weight in zip(row, scoring.weights, strict=True):
            if place >= 0:
                histogram[place] += weight
    figures = scoring.figures(histogram)
    assert figures["dice[vendor=siemens]"] == pytest.approx(0.6, abs=1e-3)
    assert figures["dice[vendor=ge]"] == pytest.approx(0.6, abs=1e-3)
    assert figures["dice[vendor=unknown]"] == pytest.approx(0.2, abs=1e-3)
    assert figures["dice"] == pytest.approx(0.5, abs=1e-3)
    assert "dice[vendor=philips]" not in figures
    assert sum(weight**2 for weight in scoring.weights) == pytest.approx(1.0)
    assert TASK.scoring(1024).cells == scoring.cells - 6 * 1024


# -- whose images -------------------------------------------------------------------------------------------------------------


def test_a_session_is_a_row_and_a_patient_may_have_several(scans: tuple[Scan, ...]) -> None:
    cohort = TASK.cohort_of_scans(scans)
    assert cohort.patient_ids == ("P001", "P002", "P003", "P003")
    assert cohort.size == 3
    assert cohort.scans == scans
    there = [[float(name in scan.images) for name in ("FLAIR", "T1w", "T2w", "T1w_ce")] for scan in scans]
    assert cohort.values[:, :4].tolist() == there


def test_sessions_without_a_mask_serve_nobody(scans: tuple[Scan, ...]) -> None:
    blind = tuple(replace(scan, mask=None) for scan in scans)
    assert TASK.cohort_of_scans((*blind[:1], *scans[1:])).patient_ids == ("P002", "P003", "P003")
    with pytest.raises(DataError, match="none of 4 sessions has FLAIR or T1w and a lesion mask"):
        TASK.cohort_of_scans(blind)


# -- what is drawn ------------------------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_patches_and_another_one_others(entries: tuple[Entry, ...]) -> None:
    first, again, other = (TASK.drawn(entries, seed, 0.3)[0] for seed in (b"a", b"a", b"b"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_patches_come_from_all_sessions_of_a_patient(entries: tuple[Entry, ...]) -> None:
    pair = entries[2:4]  # two sessions of one patient
    apart = [{TASK.drawn((entry,), bytes([seed]), 0.0)[0].tobytes() for seed in range(12)} for entry in pair]
    both = {TASK.drawn(pair, bytes([seed]), 0.0)[0].tobytes() for seed in range(12)}
    assert both - apart[0]
    assert both - apart[1]


def test_dropping_leaves_a_patch_at_least_one_sequence(entries: tuple[Entry, ...]) -> None:
    kept = []
    for seed in range(20):
        inputs, labels = TASK.drawn(entries, bytes([seed]), 0.9)
        assert np.array_equal(labels, TASK.drawn(entries, bytes([seed]), 0.0)[1])  # the truth stays
        kept += [int(np.any(patch != 0, axis=(1, 2, 3)).sum()) for patch in inputs]
    assert min(kept) == 1
    assert np.mean(kept) < 1.5


# -- whole scans --------------------------------------------------------------------------------------------------------------


def test_a_model_of_one_voxel_is_judged_as_a_threshold_is(entries: tuple[Entry, ...]) -> None:
    level = 2.5
    for entry in entries:
        scan = entry.read()
        assert scan.mask is not None
        dice, f1, found_ml, true_ml = TASK.judged(entry, lambda inputs: 20 * (inputs[:, 0] - level))
        guess, voxel_ml = scan.channels[0] > level, 5.6**3 / 1000
        assert dice == pytest.approx(2 * (guess & scan.mask).sum() / (guess.sum() + scan.mask.sum()), abs=1e-6)
        assert found_ml == pytest.approx(guess.sum() * voxel_ml, rel=1e-6)
        assert true_ml == pytest.approx(scan.mask.sum() * voxel_ml, rel=1e-6)
        assert 0 <= f1 <= 1


# -- figures ------------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_fine_bins_give_the_figures_of_the_sessions_themselves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = np.where(rng.random(80) < 0.2, 0.0, rng.lognormal(1.5, 1.0, 80))
    dice = np.where(true > 0, rng.beta(4, 2, 80), (rng.random(80) < 0.5).astype(float))
    f1 = rng.random(80)
    found = true + rng.normal(0, 2, 80)
    figures = LesionScoring(1024).figures(counted(LesionScoring(1024), list(zip(dice, f1, found, true, strict=True))))
    ill, apart = true > 0, found - true
    assert figures["dice"] == pytest.approx(dice[ill].mean(), abs=1e-3)
    assert figures["dice_none"] == pytest.approx(dice[~ill].mean(), abs=1e-3)
    assert figures["dice_large"] == pytest.approx(dice[true >= 12].mean(), abs=1e-3) if (true >= 12).any() else True
    assert figures["lesion_f1"] == pytest.approx(f1.mean(), abs=1e-3)
    assert figures["volume_bias_ml"] == pytest.approx(apart.mean(), abs=0.02)
    assert figures["volume_agreement_ml"] == pytest.approx(Z95 * apart.std(), abs=0.1)
    assert figures["noise_dominates"] == 0.0


@given(
    st.lists(
        st.tuples(*(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan")), st.just(float("inf"))) for _ in range(4))), max_size=6
    )
)
def test_whatever_a_model_says_a_patient_moves_the_sum_by_at_most_1(rows: list[tuple[float, float, float, float]]) -> None:
    """All sessions are one patient's."""
    scoring, bits = LesionScoring(8), 30
    histogram = summed(scoring, scored(rows), np.full(len(rows), max(len(rows), 1), np.intp), bits) / 2.0**bits
    assert np.linalg.norm(histogram) <= 1.0


def test_a_session_that_could_not_be_prepared_is_nowhere() -> None:
    nan = float("nan")
    places = LesionScoring(8).places(scored([(nan, nan, nan, nan), (1.0, nan, 0.0, 0.0), (0.5, 0.5, 3.0, 4.0)]))
    assert (places[0] == NOWHERE).all()
    assert (places[1] == NOWHERE).tolist() == [False, True, False]  # no lesion to find, and none found
    assert (places[2] != NOWHERE).all()


def test_differences_beyond_the_reach_count_as_the_reach() -> None:
    scoring = LesionScoring(16)
    far, farther = (counted(scoring, [(0.1, 0.1, extra, 1.0)]) for extra in (REACH_ML + 2, 10 * REACH_ML))
    assert np.array_equal(far, farther)


def test_loads_are_told_apart_and_noise_that_drowns_is_said() -> None:
    scoring = LesionScoring(16)
    rows = [(0.2, 0.5, 1.0, 1.0), (0.6, 0.5, 5.0, 5.0), (0.9, 0.5, 30.0, 30.0)] * 40
    figures = scoring.figures(counted(scoring, rows))
    assert [figures[f"dice_{load}"] for load in LOADS[1:]] == pytest.approx([0.2, 0.6, 0.9], abs=0.05)
    assert figures["dice_low"] < figures["dice"] < figures["dice_high"]
    noised = scoring.figures(counted(scoring, rows) + np.random.default_rng(1).normal(0, 30, scoring.cells), noise_std=30.0)
    assert noised["noise_dominates"] == 1.0


@pytest.mark.parametrize("bins", [0, 2, 5])
def test_bins_that_cannot_be_are_refused(bins: int) -> None:
    with pytest.raises(ContractError, match="an even number, at least 4"):
        TASK.scoring(bins)


def test_a_histogram_of_another_length_is_refused() -> None:
    with pytest.raises(ContractError, match="has 48 cells here"):
        LesionScoring(8).figures(np.zeros(47))


def opened(found_ml: np.ndarray, true_ml: np.ndarray, dice: np.ndarray, *, bins: int = 64) -> tuple[LesionScoring, np.ndarray]:
    """The scoring and the sum of such sessions, each of another patient."""
    scoring = LesionScoring(bins)
    outputs = np.stack([dice, np.full_like(dice, 0.5), found_ml, true_ml], axis=1)
    places, cells = scoring.places(Scored(outputs, np.zeros(len(dice)), np.zeros((len(dice), 4)))), np.zeros(scoring.cells)
    for block, weight in enumerate(scoring.weights):
        np.add.at(cells, places[:, block], weight)
    return scoring, cells


def test_the_charts_are_those_of_the_figures_and_near_bland_and_altmans_own() -> None:
    rng = np.random.default_rng(3)
    true_ml = rng.uniform(0.5, 20, 300)
    found_ml, dice = true_ml + rng.normal(-0.7, 1.5, 300), rng.uniform(0.2, 0.9, 300)
    scoring, cells = opened(found_ml, true_ml, dice)
    figures, (loads, volumes) = scoring.figures(cells), scoring.panels(cells)
    assert [name for name, _ in loads.lines] == ["all with lesions", "below 2 mL", "2 to 12 mL", "from 12 mL"]
    assert [one.value for _, one in loads.lines] == [figures[name] for name in ("dice", "dice_small", "dice_medium", "dice_large")]
    said, lines = bland_altman(found_ml, true_ml), dict(volumes.lines)
    assert lines["mean"].value == figures["volume_bias_ml"] == pytest.approx(said.bias_ml, abs=0.1)
    assert lines["upper limit"].value == pytest.approx(said.high_ml, abs=0.25)
    assert lines["lower limit"].value == pytest.approx(said.low_ml, abs=0.25)
    reach = lines["upper limit"].value - lines["lower limit"].value
    assert reach == pytest.approx(2 * figures["volume_agreement_ml"])
    error = np.sqrt(3 / 300) * 1.5  # of a limit, where differences are normal: Bland and Altman 1986
    assert lines["upper limit"].sampling_se == pytest.approx(error, rel=0.25)


def test_noise_widens_every_line_of_a_chart_and_too_much_of_it_leaves_none() -> None:
    rng = np.random.default_rng(4)
    true_ml, dice = rng.uniform(0.5, 20, 200), rng.uniform(0.2, 0.9, 200)
    scoring, cells = opened(true_ml * rng.uniform(0.7, 1.1, 200), true_ml, dice, bins=16)
    for plain, noisy in zip(scoring.panels(cells), scoring.panels(cells, noise_std=1.0), strict=True):
        assert plain.title == noisy.title
        sure = dict(plain.lines)
        assert len(noisy.lines) > 1
        assert all(sure[name].se < one.se for name, one in noisy.lines)  # a load that few have may be gone altogether
    assert scoring.panels(cells, noise_std=1e4) == ()
    assert scoring.panels(np.zeros(scoring.cells)) == ()


def test_a_figure_that_lies_in_one_bin_claims_no_interval() -> None:
    scoring, cells = opened(np.array([4.0, 5.0, 6.0]), np.array([5.0, 5.0, 5.0]), np.array([0.5, 0.5, 0.5]))
    figures = scoring.figures(cells)
    assert "dice" in figures
    assert "dice_low" not in figures


def test_a_plans_invented_hospitals_are_the_same_for_everybody_and_fit_its_grid() -> None:
    columns = ("flair", "t1w")
    for spacing, sessions in ((0.0, 16), (4.0, 16), (2.0, 16), (1.0, 8), (0.5, 4)):
        options = {"spacing_mm": spacing}
        found = TASK.phantoms(options, columns)
        assert repr(found) == repr(TASK.phantoms(options, columns))
        assert sum(len(each.loads_ml) for each in found) == sessions
        assert len({each.about for each in found}) == 4
        edges = [float(np.prod(each.scanner.spacing_mm)) ** (1 / 3) for each in found]
        assert all(0.9 * max(spacing, 2.0) < edge < 1.1 * max(spacing, 2.0) for edge in edges if spacing)
        assert {each.scanner.modalities for each in found} == {("FLAIR", "T1w")}
    assert isinstance(TASK, ShownOnPhantoms)
