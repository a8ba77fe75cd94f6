"""The loss is finite and a record's own; patches show lesions, repeatably; tiles together give the whole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from torch import Tensor

from tasks.errors import ContractError
from tasks.imaging.cache import Cache
from tasks.imaging.entries import Entry, Patch, write_entry
from tasks.imaging.geometry import Shape
from tasks.imaging.phantoms import PhantomSite, write_site
from tasks.imaging.phantoms_scanner import SCANNERS
from tasks.imaging.prepare import Prepared, Recipe
from tasks.imaging.segmentation import LESION_SHARE, background_of, dice_bce, draw_patches, drop_modalities, predict_volume
from tasks.imaging.store import open_store
from tasks.imaging.unet import build

RECIPE = Recipe((6.0, 6.0, 6.0), ("FLAIR", "T1w", "T2w"))
SMALL = replace(SCANNERS[2], shape=(32, 38, 28), spacing_mm=(5.6, 5.6, 5.6))  # has no T2w
SHAPE = (16, 12, 10)
SEED = b"round 3, patient 5"


# -- loss ---------------------------------------------------------------------------------------------------------------------


def finite_numbers(low: float, high: float) -> st.SearchStrategy[NDArray[np.float32]]:
    elements = st.floats(low, high, width=32) | st.sampled_from([low, 0.0, high])
    return arrays.arrays(np.float32, (2, 3, 2, 4), elements=elements)


LARGEST = float(np.finfo(np.float32).max)


@given(finite_numbers(-LARGEST, LARGEST), finite_numbers(0, 1))
def test_the_loss_and_its_gradient_are_finite_for_every_finite_output(outputs: Tensor, labels: Tensor) -> None:
    logits = torch.from_numpy(outputs).requires_grad_(True)
    loss = dice_bce(logits, torch.from_numpy(labels))
    assert loss.shape == (2,)
    assert torch.isfinite(loss).all()
    loss.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("value", [-LARGEST, LARGEST])
def test_the_loss_of_a_large_patch_is_finite_at_the_largest_outputs(value: float) -> None:
    for label in (0.0, 1.0, -5.0, 7.0):
        assert torch.isfinite(dice_bce(torch.full((1, 64, 64, 64), value), torch.full((1, 64, 64, 64), label))).all()


@given(finite_numbers(-20, 20), finite_numbers(0, 1))
def test_the_loss_is_cross_entropy_and_half_of_what_dice_lacks(outputs: NDArray[np.float32], labels: NDArray[np.float32]) -> None:
    found = dice_bce(torch.from_numpy(outputs), torch.from_numpy(labels)).numpy()
    for row, (logits, wanted) in enumerate(zip(outputs.astype(np.float64), labels.astype(np.float64), strict=True)):
        chance = 1 / (1 + np.exp(-logits))
        entropy = -(wanted * np.log(chance) + (1 - wanted) * np.log1p(-chance)).mean()
        dice = (2 * (chance * wanted).sum() + 1) / (chance.sum() + wanted.sum() + 1)
        assert found[row] == pytest.approx(entropy + 0.5 * (1 - dice), rel=1e-4, abs=1e-5)


def test_a_records_loss_is_its_own_and_does_not_ask_for_the_number_of_axes() -> None:
    torch.manual_seed(0)
    outputs, labels = torch.randn(3, 4, 4, 4), (torch.rand(3, 4, 4, 4) < 0.2).float()
    alone = torch.cat([dice_bce(outputs[at : at + 1], labels[at : at + 1]) for at in range(3)])
    torch.testing.assert_close(dice_bce(outputs, labels), alone)
    torch.testing.assert_close(dice_bce(outputs.flatten(1), labels.flatten(1)), alone)


def test_right_answers_cost_nothing_with_and_without_lesions() -> None:
    labels = torch.zeros(2, 4, 4, 4)
    labels[0, :2] = 1
    logits = 40 * labels - 20
    torch.testing.assert_close(dice_bce(logits, labels), torch.zeros(2), atol=1e-6, rtol=0)
    assert (dice_bce(-logits, labels) > 10).all()
    assert dice_bce(torch.full_like(labels, -1.0), labels)[1] > dice_bce(torch.full_like(labels, -2.0), labels)[1]


# -- patches ------------------------------------------------------------------------------------------------------------------


def numbered(folder: Path, lesions: tuple[Shape, ...] | None = ((8, 6, 5), (1, 1, 1)), shape: Shape = SHAPE) -> Entry:
    """A scan whose first sequence numbers its voxels; the second is absent. No mask for None."""
    channels = np.zeros((2, *shape), np.float16)
    channels[0] = np.arange(np.prod(shape)).reshape(shape)
    mask = None if lesions is None else np.zeros(shape, np.bool_)
    for place in lesions or ():
        assert mask is not None
        mask[place] = True
    folder.mkdir(exist_ok=True)
    prepared = Prepared(channels, np.asarray([True, False]), mask, np.eye(4), 0.0, 0.0)
    return write_entry(folder, "0" * 64, prepared, Recipe(None, ("FLAIR", "T1w")))


def begin_of(patch: Patch, shape: Shape = SHAPE) -> Shape:
    x, y, z = np.unravel_index(int(patch.channels[0, 0, 0, 0]), shape)
    return int(x), int(y), int(z)


def test_patches_are_what_their_place_says_and_stay_in_the_grid(tmp_path: Path) -> None:
    entry, size = numbered(tmp_path), (6, 5, 4)
    whole, patches = entry.read(), draw_patches(SEED, entry, 60, size)
    assert whole.mask is not None
    for patch in patches:
        part = tuple(slice(first, first + side) for first, side in zip(begin_of(patch), size, strict=True))
        np.testing.assert_array_equal(patch.channels, whole.channels[(slice(None), *part)])
        np.testing.assert_array_equal(patch.mask, whole.mask[part])
    assert len({begin_of(patch) for patch in patches}) > 30


def test_patches_follow_from_seed_and_scan_alone(tmp_path: Path) -> None:
    entry, again = numbered(tmp_path / "one"), numbered(tmp_path / "two")
    places = [[begin_of(patch) for patch in draw_patches(SEED, each, 8, (4, 4, 4))] for each in (entry, again)]
    assert places[0] == places[1]
    assert [begin_of(patch) for patch in draw_patches(SEED, entry, 3, (4, 4, 4))] == places[0][:3]
    assert [begin_of(patch) for patch in draw_patches(b"round 4", entry, 8, (4, 4, 4))] != places[0]


def test_two_patches_in_three_show_a_lesion_off_their_middle_and_each_lesion_voxel_alike(tmp_path: Path) -> None:
    entry = numbered(tmp_path)
    patches = draw_patches(SEED, entry, 600, (4, 4, 4))
    lesions = [np.argwhere(patch.mask if patch.mask is not None else []) for patch in patches]
    share = np.mean([len(each) > 0 for each in lesions])
    by_chance = 2 * 4**3 / np.prod(SHAPE)  # of the others, roughly
    assert share == pytest.approx(LESION_SHARE + (1 - LESION_SHARE) * by_chance, abs=0.06)
    middle = [tuple(each[0]) for each, patch in zip(lesions, patches, strict=True) if len(each) and begin_of(patch) > (3, 3, 3)]
    assert len(set(middle)) > 8
    at_the_edge = np.mean([begin_of(patch) <= (2, 2, 2) for patch, each in zip(patches, lesions, strict=True) if len(each)])
    assert 0.4 < at_the_edge < 0.6


@pytest.mark.parametrize("lesions", [None, ()])
def test_without_a_lesion_patches_lie_anywhere(tmp_path: Path, lesions: tuple[Shape, ...] | None) -> None:
    patches = draw_patches(SEED, numbered(tmp_path, lesions), 400, (4, 4, 4))
    begins = np.asarray([begin_of(patch) for patch in patches])
    np.testing.assert_array_equal(begins.min(axis=0), 0)
    np.testing.assert_array_equal(begins.max(axis=0), np.asarray(SHAPE) - 4)
    np.testing.assert_allclose(begins.mean(axis=0), (np.asarray(SHAPE) - 4) / 2, rtol=0.15)
    assert all((patch.mask is None) == (lesions is None) for patch in patches)


def test_a_scan_smaller_than_a_patch_is_in_it_whole_with_background_around(tmp_path: Path) -> None:
    shape = (5, 12, 3)
    entry = numbered(tmp_path, ((2, 3, 1),), shape)
    places = set()
    for patch in draw_patches(SEED, entry, 30, (8, 4, 4)):
        inside = patch.channels[0] != entry.background
        assert inside.sum() == 5 * 4 * 3
        assert (patch.channels[1] == 0).all()
        places.add(tuple(np.argwhere(inside)[0]))
    assert len(places) > 3


def test_patches_of_a_phantom_come_through_the_cache(tmp_path: Path) -> None:
    write_site(tmp_path, PhantomSite("one", (SMALL,)), {"P1": (0,)}, seed=6, volumes_ml={"P1": 12.0})
    (outcome,) = Cache(tmp_path / "cache", RECIPE).fill(open_store(tmp_path / "one").scans)
    assert outcome.entry is not None
    patches = draw_patches(SEED, outcome.entry, 12, (16, 16, 16))
    assert sum(bool(patch.mask is not None and patch.mask.any()) for patch in patches) >= 8
    assert all(patch.channels.shape == (3, 16, 16, 16) and patch.present.tolist() == [True, True, False] for patch in patches)
    assert background_of(outcome.entry) == (RECIPE.low, RECIPE.low, 0.0)


def test_numbers_of_patches_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    entry = numbered(tmp_path)
    assert draw_patches(SEED, entry, 0, (4, 4, 4)) == ()
    for count, size in ((-1, (4, 4, 4)), (1, (4, 0, 4))):
        with pytest.raises(ContractError, match="sides of at least 1"):
            draw_patches(SEED, entry, count, size)


# -- sequences dropped --------------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.floats(0, 1), st.binary(max_size=8))
def test_what_is_kept_was_present_and_one_always_stays(present: list[bool], rate: float, seed: bytes) -> None:
    there = np.asarray(present)
    kept = drop_modalities(there, rate, seed)
    assert not (kept & ~there).any()
    assert kept.any() == there.any()
    np.testing.assert_array_equal(kept, drop_modalities(there, rate, seed))


def test_sequences_are_dropped_as_often_as_asked_for() -> None:
    present = np.asarray([True, True, False, True])
    kept = np.asarray([drop_modalities(present, 0.3, b"%d" % seed) for seed in range(2000)])
    # The one that stays where all three would go is each of them alike.
    np.testing.assert_allclose(kept.mean(axis=0), np.asarray([1, 1, 0, 1]) * (0.7 + 0.3**3 / 3), atol=0.03)
    assert (drop_modalities(present, 0, b"") == present).all()
    assert drop_modalities(present, 1, b"").sum() == 1


def test_a_rate_that_is_no_chance_is_refused() -> None:
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ContractError, match="from 0 to 1"):
            drop_modalities(np.ones(2, np.bool_), rate, b"")


# -- whole scans --------------------------------------------------------------------------------------------------------------


def pointwise(inputs: Tensor) -> Tensor:
    return 2 * inputs[:, 0] - inputs[:, 1] ** 2


sizes = st.tuples(*[st.integers(1, 13)] * 3)


@settings(max_examples=60)
@given(sizes, st.tuples(*[st.integers(1, 8)] * 3), st.floats(0, 0.9), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_tiles_of_a_pointwise_model_give_what_the_whole_gives(
    shape: Shape, patch: Shape, overlap: float, batch: int, seed: int
) -> None:
    channels = np.random.default_rng(seed).standard_normal((2, *shape)).astype(np.float16)
    found = predict_volume(pointwise, channels, patch=patch, overlap=overlap, batch=batch)
    whole = torch.sigmoid(pointwise(torch.from_numpy(channels.astype(np.float32))[None]))[0].numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, whole, atol=1e-5)
    assert found.flags.c_contiguous
    assert found.min() >= 0
    assert found.max() <= 1


def test_no_more_tiles_at_once_than_asked_for_and_neighbours_overlap_as_asked_for() -> None:
    seen: list[NDArray[np.float32]] = []

    def recorded(inputs: Tensor) -> Tensor:
        assert inputs.shape[1:] == (1, 8, 8, 8)
        assert inputs.shape[0] <= 3
        seen.extend(inputs.numpy()[:, 0])
        return inputs[:, 0]

    channels = np.arange(20 * 9 * 8, dtype=np.float32).reshape(1, 20, 9, 8)
    predict_volume(recorded, channels, patch=(8, 8, 8), overlap=0.5, batch=3)
    begins = sorted(np.argwhere(channels[0] == tile[0, 0, 0])[0].tolist() for tile in seen)
    assert begins == [[x, y, 0] for x in (0, 4, 8, 12) for y in (0, 1)]


def test_a_volume_smaller_than_a_tile_is_seen_within_its_background() -> None:
    seen: list[Tensor] = []

    def recorded(inputs: Tensor) -> Tensor:
        seen.append(inputs)
        return inputs[:, 0]

    channels = np.zeros((2, 3, 8, 5), np.float16)
    channels[0] = 1.0
    found = predict_volume(recorded, channels, patch=(8, 8, 8), background=(-5.0, 0.0))
    assert found.shape == (3, 8, 5)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-1.0)), rtol=1e-6)
    (tile,) = seen
    assert tile[0, 0].unique().tolist() == [-5.0, 1.0]
    assert int((tile[0, 0] == 1).sum()) == channels[0].size
    assert (tile[0, 1] == 0).all()


def test_what_a_tile_says_at_its_edge_hardly_counts_where_another_sees_more() -> None:
    """A model that is wrong on the outermost voxels of a tile, as networks are that lack the surroundings."""

    def wrong_at_the_edge(inputs: Tensor) -> Tensor:
        logits = torch.full_like(inputs[:, 0], 30.0)
        logits[:, 1:-1, 1:-1, 1:-1] = -30.0
        return logits

    found = predict_volume(wrong_at_the_edge, np.zeros((1, 32, 32, 32), np.float32), patch=(16, 16, 16), overlap=0.5)
    assert found[8:-8, 8:-8, 8:-8].max() < 0.05
    assert found[0, 0, 0] == 1  # no other tile sees a corner of the scan


def test_a_networks_answer_for_a_scan_is_the_same_again_and_follows_it() -> None:
    torch.manual_seed(0)
    net = build("unet3d", {"widths": "4-8"}, 2)
    channels = np.random.default_rng(0).standard_normal((2, 20, 17, 15)).astype(np.float16)
    found = predict_volume(net, channels, patch=(16, 16, 8), overlap=0.25)
    np.testing.assert_array_equal(found, predict_volume(net, channels, patch=(16, 16, 8), overlap=0.25))
    assert found.shape == (20, 17, 15)
    assert (found > 0).all()
    assert (found < 1).all()
    assert found.std() > 0


@pytest.mark.parametrize("options", [{"patch": (0, 4, 4)}, {"overlap": 1.0}, {"overlap": -0.1}, {"batch": 0}])
def test_tiles_that_do_not_fit_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ContractError, match=r"overlap from 0 to 0\.9"):
        predict_volume(pointwise, np.zeros((2, 4, 4, 4), np.float32), **{"patch": (4, 4, 4), **options})  # type: ignore[arg-type]  # wrong on purpose
