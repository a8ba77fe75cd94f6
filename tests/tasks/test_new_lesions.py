"""The task of new lesions: which sessions are pairs, what is new in them, what plans may ask, how whole pairs are counted."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from phantom_sites import write_hospital

from tasks.errors import ContractError, DataError
from tasks.imaging.cache import Cache, Outcome, State
from tasks.imaging.entries import Entry
from tasks.imaging.errors import ImageError
from tasks.imaging.layout import EARLIER, MODALITIES
from tasks.imaging.measures_session import change_masks, measure_store
from tasks.imaging.pairs import pairs_of
from tasks.imaging.prepare import prepare, read_truth
from tasks.imaging.segmented import segmented
from tasks.imaging.store import Scan, Store, open_store
from tasks.imaging.task import ImageTask
from tasks.imaging.volume import Volume, read_mask, read_volume, write_volume
from tasks.lesion_seg.scoring import LesionScoring
from tasks.lesion_seg.task import PATCHES
from tasks.lesion_seg.task import TASK as LESIONS
from tasks.new_lesions.task import CUTS_ML, PATCH, REACH_ML, TASK
from tasks.registry import get_task
from tasks.scoring.base import Scored, summed

COLUMNS = ("flair", "t1w", "flair_before", "t1w_before")
OWN_VOXELS = {"spacing_mm": 0}
VOXEL_ML = 5.6**3 / 1000
MASK, NEW, OTHER = Path("mask.nii.gz"), Path("new.nii.gz"), Path("mask_before.nii.gz")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(write_hospital(tmp_path_factory.mktemp("pairs"), "one", 4, second_every=1, new_per_year=15.0))


@pytest.fixture(scope="module")
def pairs(store: Store) -> tuple[Scan, ...]:
    return TASK.cohort_of_scans(store.scans).scans


@pytest.fixture(scope="module")
def entries(pairs: tuple[Scan, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Entry, ...]:
    outcomes = Cache(tmp_path_factory.mktemp("cache"), TASK.recipe(OWN_VOXELS, COLUMNS)).fill(pairs)
    return tuple(outcome.entry for outcome in outcomes if outcome.entry is not None)


def derived(pair: Scan) -> Scan:
    """The pair as it is where nobody has drawn what is new."""
    assert pair.before is not None
    return pairs_of((replace(pair.before, new=None), replace(pair, new=None, images=own(pair), before=None, mask=lesions(pair))))[0]


def own(pair: Scan) -> dict[str, Path]:
    return {name: path for name, path in pair.images.items() if name in MODALITIES}


def lesions(pair: Scan) -> Path:
    assert pair.mask is not None
    return Path(str(pair.mask).replace("label-newlesion", "label-lesion"))


def session(name: str, day: int | None, *, images: Sequence[str] = ("FLAIR", "T1w"), **more: Path | None) -> Scan:
    paths = {each: Path(f"{name}_{each}.nii.gz") for each in images}
    return replace(Scan("P1", name, day, paths, more.get("mask"), "", "P1"), new=more.get("new"))


# -- which sessions are pairs, and what is new in them ------------------------------------------------------------------------


def test_a_pair_is_two_sessions_that_follow_each_other_with_the_earlier_ones_images_beside() -> None:
    first, second, third = session("a", 0), session("b", 200, images=("FLAIR", "T2w")), session("c", 500)
    found = pairs_of((first, second, third))
    assert [(pair.before and pair.before.session, pair.session, pair.day) for pair in found] == [("a", "b", 200), ("b", "c", 500)]
    assert found[0].images == {
        "FLAIR": Path("b_FLAIR.nii.gz"), "T2w": Path("b_T2w.nii.gz"),
        "FLAIR_before": Path("a_FLAIR.nii.gz"), "T1w_before": Path("a_T1w.nii.gz"),
    }  # fmt: skip
    assert pairs_of((first, replace(second, patient="P2"))) == ()


def test_order_is_by_day_and_two_of_one_day_have_none() -> None:
    mixed = pairs_of((session("b", 0), session("c", 300), session("a", None)))  # as a store sorts them
    assert [(pair.before and pair.before.session, pair.session) for pair in mixed] == [("b", "c")]
    same = pairs_of((session("a", 0), session("b", 0), session("c", 300)))
    assert [(pair.before and pair.before.session, pair.session) for pair in same] == [("b", "c")]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("01", "02", "10"), [("01", "02"), ("02", "10")]),
        (("m6", "m12", "m24"), [("m6", "m12"), ("m12", "m24")]),
        (("v1d2", "v1d10"), [("v1d2", "v1d10")]),
        (("post", "pre"), []),  # as a store sorts them
        (("12m", "bl"), []),
        (("bl", "m6", "m12"), [("m6", "m12")]),
        (("1", "01"), []),
        (("01", "01"), []),  # of two folders that the tables give to one patient
    ],
)
def test_without_days_numbers_in_names_are_an_order_and_words_are_none(
    names: tuple[str, ...], expected: list[tuple[str, str]]
) -> None:
    found = pairs_of([session(name, None) for name in names])
    assert [(pair.before and pair.before.session, pair.session) for pair in found] == expected


def test_a_session_without_flair_is_passed_over_and_its_neighbours_mask_of_new_lesions_with_it() -> None:
    first, blind, last = session("a", 0), session("b", 200, images=("T1w",)), session("c", 500, new=NEW)
    (pair,) = pairs_of((first, blind, last))
    assert (pair.session, pair.mask) == ("c", None)  # NEW says what is new since b, not since a
    (pair,) = pairs_of((first, last))
    assert (pair.mask, pair.old_mask) == (NEW, None)


def test_a_mask_of_new_lesions_comes_before_two_masks_of_lesions_and_one_of_these_alone_says_nothing() -> None:
    first, second = session("a", 0, mask=OTHER), session("b", 200, mask=MASK)
    (pair,) = pairs_of((first, second))
    assert (pair.mask, pair.old_mask) == (MASK, OTHER)
    (pair,) = pairs_of((first, replace(second, new=NEW)))
    assert (pair.mask, pair.old_mask) == (NEW, None)
    (pair,) = pairs_of((replace(first, mask=None), second))
    assert (pair.mask, pair.old_mask) == (None, None)


def test_a_row_is_a_pair_with_a_truth_and_a_patient_all_of_them(store: Store, pairs: tuple[Scan, ...]) -> None:
    cohort = TASK.cohort_of_scans(store.scans)
    assert cohort.patient_ids == ("P001", "P002", "P003", "P004")
    assert [pair.before and pair.before.session for pair in pairs] == ["01"] * 4
    assert cohort.values[:, :8].tolist() == [[1, 1, 0, 0, 1, 1, 0, 0]] * 4
    bare = [replace(scan, mask=None, new=None) for scan in store.scans]
    with pytest.raises(DataError, match="none of 8 sessions has FLAIR as the session before it has, and a mask of new lesions"):
        TASK.cohort_of_scans(bare)
    assert len(TASK.readable(bare)) == 4  # a finished model needs no mask
    with pytest.raises(DataError, match="no patient of 1 sessions has two with FLAIR on different days"):
        TASK.readable(bare[:1])


# -- what plans may ask -------------------------------------------------------------------------------------------------------


def test_it_is_a_task_on_images_that_trains_a_model() -> None:
    assert get_task("new_lesions") is TASK
    assert isinstance(TASK, ImageTask)
    assert TASK.contract.modalities(COLUMNS) == ("mri",)
    assert (TASK.contract.label.name, LESIONS.contract.label.name) == ("new_lesion", "lesion")
    assert tuple(TASK.sequences.values()) == (*MODALITIES, *EARLIER)
    assert TASK.contract.column("t1w_before").description == "a T1w image of the session before"
    assert TASK.marks != LESIONS.marks


def test_the_later_sessions_sequences_come_first_however_a_plan_orders_them() -> None:
    assert TASK.recipe(OWN_VOXELS, tuple(reversed(COLUMNS))).modalities == ("FLAIR", "T1w", "FLAIR_before", "T1w_before")
    assert TASK.input_shape(COLUMNS) == (4, *PATCH)


@pytest.mark.parametrize(
    "columns", [("flair", "t1w"), ("t1w", "t1w_before"), ("flair", "flair_before", "t1w"), ("flair", "flair_before", "t2w_before")]
)
def test_a_sequence_of_one_session_alone_and_a_plan_without_flair_are_refused(columns: tuple[str, ...]) -> None:
    with pytest.raises(ContractError, match="flair and flair_before, and any other sequence for both sessions"):
        TASK.build_model("unet3d", OWN_VOXELS, columns)


@pytest.mark.parametrize("name", ["unet3d", "unet25d"])
def test_a_model_takes_what_is_drawn(name: str, entries: tuple[Entry, ...]) -> None:
    model = TASK.build_model(name, {**OWN_VOXELS, "widths": "4-8"}, COLUMNS)
    inputs, labels = TASK.drawn(entries, b"seed", 0.0)
    assert inputs.shape == (PATCHES, *TASK.input_shape(COLUMNS))
    losses = TASK.loss(model(torch.from_numpy(inputs)), torch.from_numpy(labels))
    assert torch.isfinite(losses).all()


def test_a_sequence_is_dropped_in_both_sessions_or_in_none() -> None:
    present = np.array([True, True, True, False])  # no T1w at the first session
    kept = [TASK.kept(present, 0.5, bytes([seed])).tolist() for seed in range(40)]
    assert {tuple(each) for each in kept} == {(True, True, True, False), (True, False, True, False), (False, True, False, False)}
    assert TASK.kept(present, 0.0, b"").tolist() == present.tolist()


# -- prepared pairs -----------------------------------------------------------------------------------------------------------


def test_each_session_is_scaled_by_itself_on_the_grid_of_the_later_one(pairs: tuple[Scan, ...]) -> None:
    for pair in pairs:
        assert pair.before is not None
        together = prepare(pair, TASK.recipe(OWN_VOXELS, COLUMNS))
        alone = prepare(replace(pair, images=own(pair), before=None), LESIONS.recipe(OWN_VOXELS, ("flair", "t1w")))
        assert np.array_equal(together.channels[:2], alone.channels)
        assert np.array_equal(together.affine, alone.affine)
        assert together.present.all()
        swapped = prepare(replace(pair, images={"FLAIR": pair.images["FLAIR"], "FLAIR_before": pair.images["FLAIR"]}),
                          TASK.recipe(OWN_VOXELS, ("flair", "flair_before")))  # fmt: skip
        assert np.array_equal(swapped.channels[0], swapped.channels[1])


def test_the_truth_is_the_mask_of_new_lesions_as_drawn(pairs: tuple[Scan, ...], entries: tuple[Entry, ...]) -> None:
    for pair, entry in zip(pairs, entries, strict=True):
        assert pair.mask is not None
        assert pair.mask.name.endswith("label-newlesion_mask.nii.gz")
        drawn_ml = read_mask(pair.mask).data.sum() * VOXEL_ML
        assert entry.mask_ml == pytest.approx(drawn_ml, rel=1e-4)
        mask = entry.read().mask
        assert mask is not None
        assert mask.sum() * VOXEL_ML == pytest.approx(drawn_ml, rel=1e-4)
    assert sum(entry.mask_ml or 0 for entry in entries) > 1


def test_without_one_it_is_what_data_measure_counts_as_new(store: Store, pairs: tuple[Scan, ...]) -> None:
    measured = {each.scan.patient: each.change for each in measure_store(store) if each.change is not None}
    assert len(measured) == 4
    for pair in map(derived, pairs):
        assert pair.old_mask is not None
        made = prepare(pair, TASK.recipe(OWN_VOXELS, COLUMNS))
        assert made.mask is not None
        assert made.mask_ml == pytest.approx(measured[pair.patient].new_ml)
        assert made.mask.sum() * VOXEL_ML == pytest.approx(measured[pair.patient].new_ml, rel=1e-4)
    assert sum(change.new for change in measured.values()) > 3


def test_another_mask_of_the_earlier_session_is_another_entry(pairs: tuple[Scan, ...], tmp_path: Path) -> None:
    pair = next(each for each in map(derived, pairs) if prepare(each, TASK.recipe(OWN_VOXELS, COLUMNS)).mask_ml)
    cache = Cache(tmp_path / "cache", TASK.recipe(OWN_VOXELS, COLUMNS))
    (first,) = cache.fill((pair,))
    (again,) = cache.fill((pair,))
    assert (first.state, again.state) == (State.MADE, State.KEPT)
    assert pair.old_mask is not None
    assert pair.mask is not None
    known = replace(pair, old_mask=pair.mask)  # nothing is new since then
    (other,) = cache.fill((known,))
    assert first.entry is not None
    assert other.entry is not None
    assert other.entry.key != first.entry.key
    assert other.entry.mask_ml == 0
    write_volume(tmp_path / "turned.nii.gz", read_mask(pair.old_mask), np.uint8)
    same = cache.fill((replace(pair, old_mask=tmp_path / "turned.nii.gz"),))[0].entry
    assert same is not None
    assert same.mask_ml == first.entry.mask_ml


def moved(pair: Scan, folder: Path, mm: float) -> Scan:
    """The pair with the earlier session's FLAIR moved to the right, header and all."""
    image = read_volume(pair.images["FLAIR_before"])
    affine = image.affine.copy()
    affine[0, 3] += mm
    folder.mkdir()
    write_volume(folder / "FLAIR.nii.gz", Volume(image.data, affine), np.int16)
    return replace(pair, images={**pair.images, "FLAIR_before": folder / "FLAIR.nii.gz"})


def test_two_sessions_that_are_not_registered_are_refused_and_said_to_be(pairs: tuple[Scan, ...], tmp_path: Path) -> None:
    recipe = TASK.recipe(OWN_VOXELS, COLUMNS)

    def outcome(scan: Scan) -> Outcome:
        return Cache(tmp_path / "cache", recipe).fill((scan,))[0]

    assert outcome(moved(pairs[0], tmp_path / "near", 0.5)).state is State.MADE
    far = outcome(moved(pairs[0], tmp_path / "far", 5.0))
    assert (far.state, far.code) == (State.REFUSED, "not_registered")
    assert "do not show the head in one place (some 5" in far.sentence
    assert "register them first" in far.sentence
    stranger = replace(pairs[0], images={**pairs[0].images, "FLAIR_before": pairs[1].images["FLAIR"]})
    assert outcome(stranger).code == "not_registered"
    assert "P00" not in far.sentence


def test_sessions_without_a_sequence_that_both_have_are_refused(pairs: tuple[Scan, ...]) -> None:
    blind = replace(pairs[0], images={"FLAIR": pairs[0].images["FLAIR"], "T1w_before": pairs[0].images["T1w_before"]})
    with pytest.raises(ImageError, match="two sessions without a sequence in common"):
        prepare(blind, TASK.recipe(OWN_VOXELS, COLUMNS))


# -- whole pairs, and figures -------------------------------------------------------------------------------------------------


def test_a_model_that_subtracts_is_judged_as_a_threshold_of_the_difference_is(entries: tuple[Entry, ...]) -> None:
    for entry in entries:
        scan = entry.read()
        assert scan.mask is not None
        dice, _, found_ml, true_ml = TASK.judged(entry, lambda inputs: 20 * (inputs[:, 0] - inputs[:, 2] - 1.5))
        guess = scan.channels[0] - scan.channels[2] > 1.5
        assert dice == pytest.approx(2 * (guess & scan.mask).sum() / (guess.sum() + scan.mask.sum()), abs=1e-6)
        assert found_ml == pytest.approx(guess.sum() * VOXEL_ML, rel=1e-6)
        assert true_ml == pytest.approx(scan.mask.sum() * VOXEL_ML, rel=1e-6)


def test_loads_and_differences_are_told_apart_as_new_lesions_need_it() -> None:
    scoring = TASK.scoring(64)
    assert scoring == LesionScoring(64, CUTS_ML, REACH_ML)
    rows = [(0.2, 0.5, 0.1, 0.2), (0.6, 0.5, 0.9, 0.5), (0.9, 0.5, 2.0, 2.0), (1.0, np.nan, 0.0, 0.0), (0.0, 0.0, 0.3, 0.0)] * 40
    scored = Scored(np.array(rows), np.zeros(len(rows)), np.zeros((len(rows), 8)))
    figures = scoring.figures(summed(scoring, scored, np.ones(len(rows), np.intp), 30) / 2.0**30)
    assert [figures[f"dice_{load}"] for load in ("small", "medium", "large")] == pytest.approx([0.2, 0.6, 0.9], abs=0.02)
    assert figures["dice_none"] == pytest.approx(0.5)  # in half of the pairs without anything new nothing is found
    assert figures["lesion_f1"] == pytest.approx((3 * 0.5 + 0) / 4, abs=0.02)
    assert figures["volume_bias_ml"] == pytest.approx((-0.1 + 0.4 + 0.3) / 5, abs=0.02)


@pytest.mark.parametrize(("cuts", "reach"), [((1.0, 0.5), 10.0), ((0.0, 1.0), 10.0), ((0.5, 1.0), 0.0)])
def test_loads_that_do_not_ascend_are_refused(cuts: tuple[float, float], reach: float) -> None:
    with pytest.raises(ContractError, match="ascending, above 0"):
        LesionScoring(16, cuts, reach)


# -- real pairs ---------------------------------------------------------------------------------------------------------------


def real(real_data: Path, name: str) -> Path:
    if not (real_data / name).is_dir():
        pytest.skip(f"no {name}: set WARDROUND_SHARED_DATA to the folder that holds it")
    return real_data / name


def passed_through(pair: Scan) -> Volume:
    """An untrained network's mask of the pair."""
    options = {"spacing_mm": 4.0, "widths": "4-8"}
    torch.manual_seed(1)
    model = TASK.build_model("unet3d", options, COLUMNS).eval()
    return segmented(TASK, model, pair, options, COLUMNS)[1]


def test_native_pairs_are_read_and_segmented_and_their_masks_of_all_change_teach_nothing(real_data: Path) -> None:
    """Of the 39 parts of one, 19 are darker at the second visit, three quarters of the volume: lesions that shrank."""
    found = open_store(real(real_data, "ms_mri_longitudinal") / "site-ljubljana")
    assert [mask and round(mask.lesions.volume_ml, 3) for mask in change_masks(found)] == [3.408, 3.636]
    with pytest.raises(DataError, match="none of 4 sessions"):
        TASK.cohort_of_scans(found.scans)
    pairs = TASK.readable(found.scans)
    assert [(pair.patient, pair.before and pair.before.session, pair.session, pair.mask) for pair in pairs] == [
        ("LL01", "01", "02", None), ("LL03", "01", "02", None),
    ]  # fmt: skip
    made = [prepare(pair, TASK.recipe({"spacing_mm": 3.0}, COLUMNS)) for pair in pairs]
    assert [each.present.tolist() for each in made] == [[True] * 4, [True, True, True, False]]
    for pair in pairs:
        mask, image = passed_through(pair), read_volume(pair.images["FLAIR"])
        assert mask.shape == image.shape
        assert np.allclose(mask.affine, image.affine)


def test_a_native_pairs_mask_is_the_truth_where_a_map_says_that_it_marks_new_lesions(real_data: Path, tmp_path: Path) -> None:
    site = real(real_data, "ms_mri_longitudinal") / "site-ljubljana"
    (tmp_path / "images.yaml").write_text(
        f"format: wardround/images\nformat_version: 1\nroot: {site}\nscans: sub-{{patient}}/ses-{{session}}/anat\nimages:\n"
        "  FLAIR: sub-{patient}_ses-{session}_space-common_FLAIR.nii.gz\n"
        "new: /derivatives/lesion_change/sub-{patient}/anat/sub-{patient}_space-common_label-lesionchange_mask.nii.gz\n"
    )
    found = open_store(tmp_path)
    stated = {mask.patient: mask.lesions.volume_ml for mask in change_masks(found) if mask is not None}
    cohort = TASK.cohort_of_scans(found.scans)
    assert cohort.patient_ids == ("LL01", "LL03")
    for pair in cohort.scans:
        made = prepare(pair, TASK.recipe(OWN_VOXELS, ("flair", "flair_before")))
        assert made.mask_ml == pytest.approx(stated[pair.patient])
        assert made.mask is not None
        assert made.mask.sum() * 0.012 == pytest.approx(stated[pair.patient] - made.mask_ml_outside, abs=0.007)


def test_what_is_new_between_three_real_visits_is_what_data_measure_says(real_data: Path) -> None:
    found = open_store(real(real_data, "ms_mri") / "site-catania")
    days = {("CT14", "01"): 0, ("CT14", "02"): 600, ("CT14", "03"): 1200, ("CT18", "01"): 0}  # it states none
    dated = replace(found, scans=tuple(replace(scan, day=days[scan.patient, scan.session]) for scan in found.scans))
    measured = {each.scan.session: each.change for each in measure_store(dated) if each.change is not None}
    cohort = TASK.cohort_of_scans(dated.scans)
    assert [pair.session for pair in cohort.scans] == ["02", "03"]
    assert [pair.session for pair in pairs_of(found.scans)] == ["02", "03"]  # in the order of their names, without days
    for pair in cohort.scans:
        made = prepare(pair, TASK.recipe(OWN_VOXELS, COLUMNS))
        change = measured[pair.session]
        assert change is not None
        assert change.new > 0
        assert made.mask_ml == pytest.approx(change.new_ml)
        truth = read_truth(pair)
        assert truth is not None
        assert 0 < truth.data.sum() < read_mask(lesions(pair)).data.sum()
    assert passed_through(cohort.scans[0]).data.max() <= 1
