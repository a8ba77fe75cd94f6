"""Whether two sessions may be compared, brain volumes from a segmentation, yearly loss, and what a store gives in all."""

from pathlib import Path

import numpy as np
import pytest
from image_folders import right_session

from tasks.imaging.errors import ImageError
from tasks.imaging.measures_alignment import apart, sight_of
from tasks.imaging.measures_brain import Segmentations, brain_of, find_segmentations
from tasks.imaging.measures_session import Measured, change_masks, measure_store
from tasks.imaging.phantoms import PhantomSite, scans_of, write_site
from tasks.imaging.phantoms_scanner import SCANNERS
from tasks.imaging.store import Scan, open_store
from tasks.imaging.volume import Volume, read_mask, read_volume, write_volume
from tasks.imaging.yearly_loss import LEAST_INTERVAL_D, Norm, change_pct_y, is_fast_loss, z_score

ONE = PhantomSite("one", SCANNERS[:2])
AFFINE = np.diag([2.0, 2, 2, 1])
SHIFTS_MM = (2.0, 4.0, 8.0)


def moved(image: Volume, mm: float = 0, degrees: float = 0) -> Volume:
    turn, angle = np.eye(4), np.deg2rad(degrees)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[0, 3] = mm
    return Volume(image.data, turn @ image.affine)


@pytest.fixture(scope="module")
def pair() -> tuple[Volume, Volume]:
    first, second = (scan.images["FLAIR"] for scan in scans_of(ONE, "P1", (0, 400), seed=3))
    return first, second


def test_sessions_in_one_space_are_found_together_and_by_how_much(pair: tuple[Volume, Volume]) -> None:
    found = apart(*map(sight_of, pair))
    assert found.together
    assert found.mm < 0.5
    for mm in SHIFTS_MM:
        seen = apart(sight_of(pair[0]), sight_of(moved(pair[1], mm)))
        assert seen.mm == pytest.approx(mm, rel=0.15)
        assert not seen.together


@pytest.mark.parametrize("degrees", [3, 8])
def test_a_head_that_turned_is_not_together(pair: tuple[Volume, Volume], degrees: float) -> None:
    assert not apart(sight_of(pair[0]), sight_of(moved(pair[1], 0, degrees))).together


@pytest.mark.parametrize("mm", [20, 60, 500])
def test_a_head_far_away_is_not_together(pair: tuple[Volume, Volume], mm: float) -> None:
    assert not apart(sight_of(pair[0]), sight_of(moved(pair[1], mm))).together


def test_two_people_in_one_template_are_not_together(real_data: Path) -> None:
    if not (real_data / "ms_mri").is_dir():
        pytest.skip("no ms_mri: set WARDROUND_SHARED_DATA to the folder that holds it")
    sights = {
        (scan.subject, scan.session): sight_of(read_volume(scan.images["FLAIR"]))
        for scan in open_store(real_data / "ms_mri" / "site-catania").scans
    }
    assert apart(sights["CT14", "01"], sights["CT14", "02"]).together
    assert not apart(sights["CT14", "01"], sights["CT18", "01"]).together


# -- the brain ----------------------------------------------------------------------------------------------------------------


def labels(**voxels: int) -> Volume:
    """A label image of voxels of 8 mm3: `n10=5` are 5 voxels with the number 10."""
    flat = [int(name[1:]) for name, count in voxels.items() for _ in range(count)]
    data = np.zeros(1000, np.float32)
    data[: len(flat)] = flat
    return Volume(data.reshape(10, 10, 10), AFFINE)


def put(root: Path, name: str, volume: Volume, tool: str = "synthseg", ses: str = "01") -> Path:
    path = root / "derivatives" / tool / "sub-P1" / f"ses-{ses}" / "anat" / f"sub-P1_ses-{ses}_{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, volume, np.int16)
    return path


def first_scan(root: Path) -> Scan:
    return open_store(root).scans[0]


def test_volumes_are_those_of_the_numbered_parts(tmp_path: Path) -> None:
    right_session(tmp_path, "P1")
    put(tmp_path, "dseg", labels(n2=300, n10=10, n49=11, n4=20, n43=21, n5=7, n24=50, n77=3))
    put(tmp_path, "label-icv_mask", labels(n1=600))
    found = brain_of(first_scan(tmp_path), find_segmentations(tmp_path)["P1", "01"])
    assert found.brain_ml == pytest.approx((300 + 10 + 11 + 3) * 0.008)
    assert found.thalamus_ml == pytest.approx(21 * 0.008)
    assert found.lateral_ventricles_ml == pytest.approx(41 * 0.008)
    assert found.parenchymal_fraction == pytest.approx(324 / 600)


@pytest.mark.parametrize(
    ("name", "tool", "counts"),
    [
        ("dseg", "synthseg-2", True),
        ("desc-aseg_dseg", "pipeline", True),
        ("space-orig_desc-aparcaseg_dseg", "pipeline", True),
        ("dseg", "pipeline", False),
        ("space-MNI152_dseg", "synthseg", False),
        ("label-lesion_dseg", "synthseg", False),
        ("label-brain_mask", "synthseg", False),
    ],
)
def test_a_label_image_counts_only_if_its_numbers_are_stated_and_it_is_in_the_session_s_space(
    tmp_path: Path, name: str, tool: str, counts: bool
) -> None:
    right_session(tmp_path, "P1")
    put(tmp_path, name, labels(n10=5), tool)
    assert bool(find_segmentations(tmp_path)) is counts


def test_a_link_out_of_the_folder_is_no_segmentation(tmp_path: Path) -> None:
    right_session(tmp_path / "store", "P1")
    path = put(tmp_path / "store", "dseg", labels(n10=5))
    path.rename(tmp_path / "outside.nii.gz")
    path.symlink_to(tmp_path / "outside.nii.gz")
    assert find_segmentations((tmp_path / "store").resolve()) == {}


def test_labels_that_are_no_whole_numbers_are_refused(tmp_path: Path) -> None:
    right_session(tmp_path, "P1")
    wrong = labels(n10=5)
    path = put(tmp_path, "dseg", wrong)
    write_volume(path, Volume(wrong.data * np.float32(1.25), wrong.affine))
    with pytest.raises(ImageError, match="whole numbers") as told:
        brain_of(first_scan(tmp_path), Segmentations(labels=path))
    assert told.value.code == "mask_values"


def test_a_steady_loss_is_the_same_a_year_over_any_interval() -> None:
    for days in (LEAST_INTERVAL_D, 500, 3653):
        kept = 0.995 ** (days / 365.25)
        assert change_pct_y(1500, 1500 * kept, days) == pytest.approx(100 * np.log(0.995))
    assert change_pct_y(1500, 1490, LEAST_INTERVAL_D - 1) is None
    assert change_pct_y(1500, 1490, 100, least_d=90) is not None


def test_loss_is_held_against_a_norm_that_is_named() -> None:
    assert z_score(-0.57) == pytest.approx(-2)
    assert z_score(-0.4, Norm(-0.2, 0.1, "invented")) == pytest.approx(-2)
    assert [is_fast_loss(value) for value in (-0.41, -0.4, 0.1)] == [True, False, False]


# -- a store ------------------------------------------------------------------------------------------------------------------


def measured(folder: Path) -> list[Measured]:
    return list(measure_store(open_store(folder)))


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("followed")
    write_site(folder, ONE, {"P1": (0, 400), "P2": (0,)}, seed=3, volumes_ml={"P1": 8})
    return folder / "one"


def test_each_session_is_compared_with_the_one_before_of_the_same_patient(followed: Path) -> None:
    first, second, other = measured(followed)
    assert (first.change, other.change, other.interval_d) == (None, None, None)
    assert second.change is not None
    assert second.interval_d == 400
    assert second.lesions is not None
    assert 0 <= second.change.new <= second.lesions.count


def test_sessions_that_are_not_registered_are_said_and_not_compared(tmp_path: Path) -> None:
    copied = tmp_path / "moved"
    write_site(tmp_path, PhantomSite("moved", SCANNERS[:1]), {"P1": (0, 400)}, seed=3, volumes_ml={"P1": 8})
    for path in copied.rglob("*ses-02*.nii.gz"):
        image = read_mask(path) if "mask" in path.name else read_volume(path)
        write_volume(path, moved(image, 6), np.int16)
    second = measured(copied)[1]
    assert (second.change, second.interval_d) == (None, None)
    assert "not_registered" in second.reasons
    assert second.apart is not None
    assert second.apart.mm == pytest.approx(6, abs=0.5)
    assert second.lesions is not None


def test_brain_loss_needs_enough_days_and_one_scanner(tmp_path: Path) -> None:
    for ses, day, voxels in (("01", 0, 900), ("02", 100, 890), ("03", 366, 890)):
        right_session(tmp_path, "P1", ses, day)
        put(tmp_path, "dseg", labels(n2=voxels), ses=ses)
    first, second, third = measured(tmp_path)
    assert first.brain_change_pct_y is None
    assert "interval_short" in second.reasons
    assert third.brain_change_pct_y == pytest.approx(100 * np.log(890 / 900) * 365.25 / 366)
    for path in tmp_path.rglob("sub-P1_ses-03_*.json"):
        path.write_text(path.read_text().replace("Ingenia", "Achieva"))
    assert "scanner_changed" in measured(tmp_path)[2].reasons


def test_a_mask_that_cannot_be_used_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    right_session(tmp_path, "P1")
    right_session(tmp_path, "P2")
    store = open_store(tmp_path)
    assert store.scans[0].mask is not None
    content = store.scans[0].mask.read_bytes()
    store.scans[0].mask.write_bytes(content[:-20])
    first, second = measure_store(store)
    assert "mask_unusable" in first.reasons
    assert second.lesions is not None


def test_masks_of_change_are_measured_by_patient(real_data: Path) -> None:
    folder = real_data / "ms_mri_longitudinal" / "site-ljubljana"
    if not folder.is_dir():
        pytest.skip("no ms_mri_longitudinal: set WARDROUND_SHARED_DATA to the folder that holds it")
    found = [each for each in change_masks(open_store(folder)) if each is not None]
    assert [each.patient for each in found] == ["LL01", "LL03"]
    assert all(each.lesions.count > 0 for each in found)
