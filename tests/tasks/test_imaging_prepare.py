"""Resampling keeps values, places and volumes; the head is found; a scanner's scale makes no difference; recipes are strict."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.errors import ContractError
from tasks.imaging.errors import ImageError
from tasks.imaging.head import head_box, normalised, otsu_threshold
from tasks.imaging.phantoms import PhantomSite, scans_of
from tasks.imaging.phantoms_scanner import SCANNERS, PhantomScan
from tasks.imaging.prepare import VERSION, Prepared, Recipe, prepare, source_digests
from tasks.imaging.resample import SNAP_VOXELS, Grid, grid_of, resampled, resampled_mask, respaced
from tasks.imaging.rules import PREPARING, RULES
from tasks.imaging.store import Scan, open_store
from tasks.imaging.volume import Volume, read_mask, write_volume

SITE = PhantomSite("prep", SCANNERS[:1])
COARSE = Recipe((4.0, 4.0, 4.0), ("FLAIR", "T1w"))


def volume(data: NDArray[np.generic], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), tilt_deg: float = 0.0) -> Volume:
    turn = np.deg2rad(tilt_deg)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.asarray(spacing)
    return Volume(np.asarray(data, np.float32), affine)


def ball(shape: tuple[int, int, int], radius: float, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    x, y, z = ((np.arange(n) - (n - 1) / 2) * side for n, side in zip(shape, spacing, strict=True))
    return volume(x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2 < radius**2, spacing)


@pytest.fixture(scope="module")
def phantom() -> PhantomScan:
    return next(scans_of(SITE, "P1", (0,), seed=8, volume_ml=12.0))


def written(folder: Path, images: Mapping[str, Volume], mask: Volume | None = None) -> Scan:
    folder.mkdir(exist_ok=True)
    paths = {name: folder / f"{name}.nii.gz" for name in images}
    for name, image in images.items():
        write_volume(paths[name], image, np.float32)
    if mask is not None:
        write_volume(folder / "mask.nii.gz", mask, np.uint8)
    return Scan("P1", "01", 0, paths, folder / "mask.nii.gz" if mask is not None else None, "")


# -- resampling ---------------------------------------------------------------------------------------------------------------


def test_the_same_grid_gives_the_same_image() -> None:
    image = volume(np.random.default_rng(1).normal(size=(9, 8, 7)))
    found, inside = resampled(image, grid_of(image))
    assert np.array_equal(found, image.data)
    assert inside.all()


@given(st.tuples(*[st.floats(0.4, 3.0)] * 3))
@settings(max_examples=20, deadline=None)
def test_a_slope_stays_the_same_slope_in_millimetres(spacing: tuple[float, float, float]) -> None:
    """2 x - y + 3 z in mm, away from the border."""
    x, y, z = np.indices((20, 21, 22))
    image = volume(2 * x * 1.5 - y * 1.0 + 3 * z * 2.0, (1.5, 1.0, 2.0))
    grid = respaced(grid_of(image), spacing)
    found, inside = resampled(image, grid)
    at = np.einsum("ij,jxyz->ixyz", grid.affine[:3, :3], np.indices(grid.shape)) + grid.affine[:3, 3].reshape(3, 1, 1, 1)
    border = 3.0 * 2 + 1
    core = np.all(
        [(at[k] > border) & (at[k] < (n - 1) * side - border) for k, (n, side) in enumerate(((20, 1.5), (21, 1.0), (22, 2.0)))],
        axis=0,
    )
    snapped = SNAP_VOXELS * (2 * 1.5 + 1.0 + 3 * 2.0) + 1e-4  # positions become whole within so much of a voxel
    np.testing.assert_allclose(found[core], (2 * at[0] - at[1] + 3 * at[2])[core], atol=snapped)
    assert inside[core].all()


def test_a_constant_stays_constant_also_on_a_turned_grid() -> None:
    image = volume(np.full((20, 20, 20), 7.5))
    turned = Grid((10, 10, 10), volume(np.zeros((2, 2, 2)), (1.7, 1.7, 1.7), tilt_deg=20).affine)
    found, inside = resampled(image, turned)
    np.testing.assert_allclose(found, 7.5, rtol=1e-6)
    assert inside[2:, 2:, 2:].any()
    assert not inside.all()


def test_turning_there_and_back_keeps_a_smooth_image() -> None:
    x, y, z = np.indices((40, 40, 40))
    image = volume(np.sin(x / 6) + np.cos(y / 7) + z / 20)
    turned = Grid(
        (60, 60, 40),
        volume(np.zeros((2, 2, 2)), tilt_deg=15).affine @ np.array([[1, 0, 0, 0], [0, 1, 0, -12], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    )
    there, _ = resampled(image, turned)
    back, _ = resampled(Volume(there, turned.affine), grid_of(image))
    assert np.abs(back - image.data)[5:-5, 5:-5, 5:-5].max() < 0.02


def test_halving_the_resolution_averages_noise_instead_of_picking_it() -> None:
    """Each new value is the mean of the eight old ones that it covers."""
    image = volume(np.random.default_rng(2).normal(size=(48, 48, 48)))
    found, _ = resampled(image, respaced(grid_of(image), (2.0, 2.0, 2.0)))
    assert found[2:-2, 2:-2, 2:-2].var() == pytest.approx(1 / 8, rel=0.1)


def test_the_corner_of_the_image_stays_where_it_is() -> None:
    image = volume(np.zeros((10, 12, 14)), (1.0, 2.0, 3.0))
    for spacing in ((2.0, 2.0, 2.0), (0.7, 0.9, 1.3)):
        grid = respaced(grid_of(image), spacing)
        corner = grid.affine @ [-0.5, -0.5, -0.5, 1]
        np.testing.assert_allclose(corner, image.affine @ [-0.5, -0.5, -0.5, 1], atol=1e-9)
        assert all(n * side >= old - 1e-6 for n, side, old in zip(grid.shape, spacing, (10, 24, 42), strict=True))


def test_a_spacing_that_differs_by_rounding_alone_moves_nothing() -> None:
    image = volume(np.zeros((10, 10, 10)), (1.0000004, 0.9999, 1.0))
    assert respaced(grid_of(image), (1.0, 1.0, 1.0)).shape == (10, 10, 10)


def test_too_many_voxels_are_refused_before_memory_is_asked_for() -> None:
    with pytest.raises(ImageError, match="at most 134217728"):
        respaced(grid_of(volume(np.zeros((300, 300, 300)))), (0.3, 0.3, 0.3))


@given(
    st.tuples(*[st.sampled_from([0.8, 1.0, 1.5, 2.0, 3.3])] * 3),
    st.tuples(*[st.sampled_from([1.0, 1.2, 2.0, 4.0])] * 3),
    st.floats(2.0, 9.0),
)
@settings(max_examples=40, deadline=None)
def test_a_mask_keeps_its_volume_to_half_a_voxel(
    source: tuple[float, float, float], target: tuple[float, float, float], radius: float
) -> None:
    mask = ball((26, 26, 26), radius, source)
    grid = respaced(grid_of(mask), target)
    before_ml = mask.data.sum() * grid_of(mask).voxel_ml
    after_ml = np.count_nonzero(resampled_mask(mask, grid)) * grid.voxel_ml
    assert abs(after_ml - before_ml) <= 0.5001 * grid.voxel_ml


def test_many_small_lesions_keep_their_volume_together_and_their_place() -> None:
    rng = np.random.default_rng(3)
    mask = volume(rng.random((60, 60, 60)) < 0.002)
    grid = respaced(grid_of(mask), (2.0, 2.0, 2.0))
    found = resampled_mask(mask, grid)
    assert abs(found.sum() * 8 - mask.data.sum()) <= 4
    middle = np.argwhere(found).mean(axis=0) * 2 + 0.5
    np.testing.assert_allclose(middle, np.argwhere(mask.data > 0).mean(axis=0), atol=4)


def test_a_mask_on_its_own_grid_is_untouched() -> None:
    mask = volume(np.random.default_rng(4).random((20, 20, 20)) < 0.3)
    assert np.array_equal(resampled_mask(mask, grid_of(mask)), mask.data > 0)


def test_a_mask_on_a_turned_grid_keeps_its_volume_to_two_per_cent() -> None:
    """A ball of radius 8 mm drawn on a grid turned by 20 degrees with other voxels."""
    x, y, z = np.indices((60, 60, 30))
    affine = volume(np.zeros((2, 2, 2)), (0.9, 0.9, 1.6), tilt_deg=20).affine
    at = np.einsum("ij,jxyz->ixyz", affine[:3, :3], np.stack([x, y, z])) + affine[:3, 3].reshape(3, 1, 1, 1)
    centre = affine[:3, :3] @ [30, 30, 15] + affine[:3, 3]
    mask = Volume((np.linalg.norm(at - centre.reshape(3, 1, 1, 1), axis=0) < 8).astype(np.float32), affine)
    image = volume(np.zeros((60, 70, 60)))
    image.affine[:3, 3] = [-10, 0, 0]
    found = resampled_mask(mask, grid_of(image))
    before = mask.data.sum() * grid_of(mask).voxel_ml
    assert found.sum() / 1000 == pytest.approx(before, rel=0.02)
    np.testing.assert_allclose(np.argwhere(found).mean(axis=0) - np.array([10, 0, 0]), centre, atol=0.2)


def test_what_lies_outside_the_grid_is_no_part_of_the_mask() -> None:
    mask = volume(np.ones((10, 10, 10)))
    half = grid_of(mask).cropped((0, 0, 0), (5, 10, 10))
    assert resampled_mask(mask, half).sum() == 500
    assert resampled_mask(volume(np.zeros((10, 10, 10))), half).sum() == 0


# -- head and scale -----------------------------------------------------------------------------------------------------------


def test_the_threshold_lies_between_two_classes() -> None:
    values = np.concatenate([np.full(700, 3.0), np.full(300, 9.0)]).astype(np.float32)
    assert 5.9 < otsu_threshold(values) < 6.1


def test_the_box_holds_the_head_with_its_margin() -> None:
    data = np.zeros((80, 80, 80), np.float32)
    data[20:60, 15:65, 30:70] = 100
    data[2, 2, 2] = 100  # a bright voxel in the air
    begin, end = head_box(volume(data), margin_mm=6)
    for first, last, low, high in zip(begin, end, (20, 15, 30), (60, 65, 70), strict=True):
        assert low - 6 - 6 <= first <= low - 6  # 1.5 voxels of 4 mm
        assert high + 6 <= last <= min(80, high + 6 + 6)


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (np.zeros((40, 40, 40)), "flat", "one value"),
        (np.pad(np.full((30, 30, 30), 9.0), 15), "no_head", "50 mL"),
    ],
)
def test_what_is_no_head_is_refused(data: NDArray[np.float64], code: str, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        head_box(volume(data), margin_mm=5)
    assert caught.value.code == code


def test_tissue_of_one_value_is_refused() -> None:
    data = np.zeros((40, 40, 40), np.float32)
    data[5:35, 5:35, 5:35] = 6
    with pytest.raises(ImageError, match="half of the head"):
        normalised(data, np.ones(data.shape, np.bool_), low=-5, high=10)


@given(st.floats(0.01, 1000), st.floats(-500, 500))
@settings(max_examples=25, deadline=None)
def test_a_scanners_gain_and_offset_make_no_difference(phantom: PhantomScan, gain: float, offset: float) -> None:
    image = phantom.images["FLAIR"].data
    everywhere = np.ones(image.shape, np.bool_)
    here = normalised(image, everywhere, low=-5, high=10)
    other = normalised((image * gain + offset).astype(np.float32), everywhere, low=-5, high=10)
    tolerance = 0.01 + abs(offset) / gain * 1e-5  # 32-bit rounding, where the offset drowns the signal
    assert np.abs(here - other).max() < tolerance


def test_a_gain_moves_no_box(phantom: PhantomScan) -> None:
    image = phantom.images["FLAIR"]
    assert head_box(image, margin_mm=5) == head_box(Volume(image.data * 37 + 5, image.affine), margin_mm=5)


# -- the whole preparation ----------------------------------------------------------------------------------------------------


def same(one: Prepared, other: Prepared) -> bool:
    return (
        np.array_equal(one.channels, other.channels)
        and np.array_equal(one.present, other.present)
        and np.array_equal(one.mask, other.mask)
        and np.array_equal(one.affine, other.affine)
    )


def test_two_preparations_are_equal_to_the_last_bit(phantom: PhantomScan, tmp_path: Path) -> None:
    scan = written(tmp_path, phantom.images, phantom.mask)
    assert same(prepare(scan, COARSE), prepare(scan, COARSE))


def test_all_channels_and_the_mask_share_one_grid(phantom: PhantomScan, tmp_path: Path) -> None:
    found = prepare(written(tmp_path, phantom.images, phantom.mask), Recipe((3.0, 3.0, 3.0), ("FLAIR", "T1w", "T2w")))
    assert found.mask is not None
    assert found.channels.shape == (3, *found.mask.shape)
    assert found.channels.dtype == np.float16
    np.testing.assert_allclose(found.spacing_mm, 3)
    assert found.mask_ml == pytest.approx(phantom.lesion_ml)
    assert abs(np.count_nonzero(found.mask) * 0.027 - phantom.lesion_ml) <= 0.0136
    assert found.mask_ml_outside == 0


def test_lesions_are_bright_where_the_mask_says(phantom: PhantomScan, tmp_path: Path) -> None:
    found = prepare(written(tmp_path, phantom.images, phantom.mask), Recipe((2.0, 2.0, 2.0)))
    assert found.mask is not None
    flair = found.channels[0].astype(np.float32)
    assert np.median(flair[found.mask]) > np.percentile(flair[~found.mask], 97)


def test_a_missing_sequence_is_said_and_zero(phantom: PhantomScan, tmp_path: Path) -> None:
    found = prepare(written(tmp_path, {"T1w": phantom.images["T1w"]}), Recipe((4.0,) * 3, ("FLAIR", "T1w", "T1w_ce")))
    assert found.present.tolist() == [False, True, False]
    assert not found.channels[[0, 2]].any()
    assert found.channels[1].astype(np.float32).std() > 0.5
    assert found.mask is None
    assert found.mask_ml is None


def test_a_session_without_any_wanted_sequence_is_refused(phantom: PhantomScan, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="none of T2w") as caught:
        prepare(written(tmp_path, {"T1w": phantom.images["T1w"]}), Recipe(modalities=("T2w",)))
    assert caught.value.code == "no_modality"


def test_axes_written_another_way_give_the_same_arrays(phantom: PhantomScan, tmp_path: Path) -> None:
    """Left to right, back to front, and stored slice first."""
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    flip[:2, 3] = np.asarray(phantom.mask.shape[:2]) - 1
    turn = np.eye(4)[[2, 0, 1, 3]].T  # new index (z, x, y) -> old (x, y, z)

    def turned(image: Volume) -> Volume:
        data = np.ascontiguousarray(image.data[::-1, ::-1].transpose(2, 0, 1))
        return Volume(data, image.affine @ flip @ turn)

    plain = prepare(written(tmp_path / "plain", phantom.images, phantom.mask), COARSE)
    other = prepare(
        written(tmp_path / "other", {name: turned(each) for name, each in phantom.images.items()}, turned(phantom.mask)), COARSE
    )
    assert np.array_equal(plain.channels, other.channels)
    assert np.array_equal(plain.mask, other.mask)
    np.testing.assert_allclose(plain.affine, other.affine, atol=1e-4)


def test_a_mask_on_another_grid_lands_on_the_image(phantom: PhantomScan, tmp_path: Path) -> None:
    fine = respaced(grid_of(phantom.mask), (2.0, 2.0, 2.0))
    drawn = Volume(resampled_mask(phantom.mask, fine).astype(np.float32), fine.affine)
    one = prepare(written(tmp_path / "one", phantom.images, phantom.mask), COARSE)
    other = prepare(written(tmp_path / "other", phantom.images, drawn), COARSE)
    assert one.mask is not None
    assert other.mask is not None
    assert 2 * np.count_nonzero(one.mask & other.mask) / (one.mask.sum() + other.mask.sum()) > 0.9


def test_an_image_of_another_place_is_refused(phantom: PhantomScan, tmp_path: Path) -> None:
    away = phantom.images["T1w"].affine.copy()
    away[:3, 3] += 150
    images = {"FLAIR": phantom.images["FLAIR"], "T1w": Volume(phantom.images["T1w"].data, away)}
    with pytest.raises(ImageError, match="register them first") as caught:
        prepare(written(tmp_path, images), COARSE)
    assert caught.value.code == "image_space"


def test_a_lesion_outside_the_box_around_the_head_is_counted(phantom: PhantomScan, tmp_path: Path) -> None:
    mask = phantom.mask.data.copy()
    mask[:2, :2, :2] = 1  # in the air: 8 voxels of 0.064 mL
    found = prepare(written(tmp_path, phantom.images, Volume(mask, phantom.mask.affine)), COARSE)
    assert found.mask_ml_outside == pytest.approx(0.512, abs=0.001)


@pytest.mark.parametrize("tilt_deg", [3.0, 30.0])
def test_a_turned_mask_inside_the_box_is_not_said_to_be_outside(phantom: PhantomScan, tmp_path: Path, tilt_deg: float) -> None:
    image = phantom.images["FLAIR"]
    centre = image.affine @ np.array([*(np.array(image.shape) - 1) / 2, 1.0])
    mask = ball((21, 23, 25), 9.0)
    turned = volume(mask.data, (1.0, 1.0, 1.0), tilt_deg)
    turned.affine[:3, 3] = centre[:3] - turned.affine[:3, :3] @ (np.array(mask.shape) - 1) / 2
    for spacing in ((1.5, 1.5, 3.0), (4.0, 4.0, 4.0), (1.0, 1.0, 1.0)):
        found = prepare(written(tmp_path / "a", {"FLAIR": image}, turned), Recipe(spacing, ("FLAIR",)))
        assert found.mask is not None
        assert found.mask.any()
        assert found.mask_ml_outside == 0


def test_without_a_crop_and_a_spacing_the_grid_is_the_images(phantom: PhantomScan, tmp_path: Path) -> None:
    found = prepare(written(tmp_path, phantom.images), Recipe(None, ("FLAIR",), crop="none"))
    assert found.channels.shape[1:] == phantom.images["FLAIR"].shape
    np.testing.assert_allclose(found.affine, phantom.images["FLAIR"].affine, atol=1e-5)


def test_digests_are_of_the_files_that_are_read(phantom: PhantomScan, tmp_path: Path) -> None:
    scan = written(tmp_path, phantom.images, phantom.mask)
    before = source_digests(scan, COARSE)
    assert set(before) == {"FLAIR", "T1w", "mask"}
    scan.images["T2w"].write_bytes(b"not read")
    assert source_digests(scan, COARSE) == before
    scan.images["T1w"].write_bytes(b"read")
    assert source_digests(scan, COARSE) != before


def test_a_file_that_is_gone_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        source_digests(Scan("P", "", 0, {"T1w": tmp_path / "gone.nii.gz"}, None, ""), COARSE)


# -- recipes ------------------------------------------------------------------------------------------------------------------


def test_equal_recipes_have_equal_digests_however_their_numbers_are_written() -> None:
    whole = Recipe((1, 2, 1), ("FLAIR", "T1w"), margin_mm=8, low=-5, high=10)
    assert whole == Recipe((1.0, 2.0, 1.0))
    assert whole.digest == Recipe((1.0, 2.0, 1.0)).digest


def test_every_field_of_a_recipe_is_in_its_digest() -> None:
    others = [
        Recipe(spacing_mm=(1.0, 1.0, 2.0)),
        Recipe(spacing_mm=None),
        Recipe(modalities=("T1w", "FLAIR")),
        Recipe(crop="none"),
        Recipe(margin_mm=9.0),
        Recipe(low=-4.0),
        Recipe(high=9.0),
    ]
    digests = {recipe.digest for recipe in [Recipe(), *others]}
    assert len(digests) == len(others) + 1
    assert Recipe().digest == Recipe().digest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spacing_mm": (0.1, 1.0, 1.0)}, "spacing"),
        ({"spacing_mm": (1.0, float("nan"), 1.0)}, "spacing"),
        ({"spacing_mm": (1.0, 1.0)}, "spacing"),
        ({"modalities": ()}, "modalities"),
        ({"modalities": ("FLAIR", "FLAIR")}, "modalities"),
        ({"modalities": ("PET",)}, "modalities"),
        ({"crop": "brain"}, "crop"),
        ({"margin_mm": -1.0}, "crop"),
        ({"low": 1.0}, "cut at"),
        ({"high": float("inf")}, "cut at"),
        ({"version": VERSION + 1}, "version"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        Recipe(**options)  # type: ignore[arg-type]  # wrong ones on purpose


def test_every_code_of_a_refusal_has_a_rule() -> None:
    used = {"flat", "image_space", "no_head", "no_modality", "changed", "too_large", "unreadable"}
    assert used - {rule.name for rule in (*RULES, *PREPARING)} == set()


# -- real images --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_mri(real_data: Path) -> Path:
    if not (real_data / "ms_mri").is_dir():
        pytest.skip("no real MRI: set WARDROUND_SHARED_DATA to its folder")
    return real_data


@pytest.mark.slow
@pytest.mark.parametrize("site", ["ms_mri/site-ljubljana", "ms_mri/site-catania", "ms_mri_longitudinal/site-ljubljana"])
def test_every_real_session_is_prepared_with_its_lesions(real_mri: Path, site: str) -> None:
    scans = open_store(real_mri / site).scans
    assert scans
    for scan in scans:
        found = prepare(scan, Recipe((2.0, 2.0, 2.0), ("FLAIR", "T1w", "T2w", "T1w_ce")))
        assert found.present.sum() == len(scan.images)
        assert 0.3 < found.channels[0][found.channels[0] > -3].astype(np.float32).std() < 3
        if scan.mask is not None:
            assert found.mask is not None
            drawn = read_mask(scan.mask)
            assert found.mask_ml == pytest.approx(drawn.data.sum() * grid_of(drawn).voxel_ml, rel=1e-6)
            assert np.count_nonzero(found.mask) * 0.008 == pytest.approx(found.mask_ml, abs=0.0041)
            assert found.mask_ml_outside == 0
