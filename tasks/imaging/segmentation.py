"""Lesion masks learnt and predicted: the loss of a record, patches that show lesions often enough, whole scans tile by tile.

Everything random follows from a seed of bytes that the caller gives; which patches of a patient are seen depends on the seed and on
that patient's own scan.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tasks.errors import ContractError
from tasks.imaging.entries import Entry, Patch
from tasks.imaging.geometry import Shape
from tasks.imaging.resample import Floats

DICE_WEIGHT: Final = 0.5  # of the soft Dice beside cross-entropy
SMOOTH: Final = 1.0  # voxels added to both sides of the Dice ratio
LARGEST: Final = 1e30  # magnitude beyond which a logit counts as this: a sum over 10^8 voxels is finite in float32
LESION_SHARE: Final = 2 / 3  # of patches are laid around a lesion, where there is one
JITTER: Final = 4  # a patch's middle lies up to a 4th of its side from the lesion's voxel


def dice_bce(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, averaged over voxels, plus half of 1 - soft Dice (Milletari et al. 2016, arXiv 1606.04797): (batch,).

    `outputs`: logits (batch, ...); `labels`, the same shape, 0 to 1 (beyond is cut). Finite for every finite output, also of a
    record without a lesion: then the Dice part asks for no lesion at all.
    """
    logits = outputs.flatten(1).clamp(-LARGEST, LARGEST)
    wanted = labels.flatten(1).clamp(0.0, 1.0)
    found = torch.sigmoid(logits)
    both = found.sum(dim=1) + wanted.sum(dim=1)
    dice = (2 * (found * wanted).sum(dim=1) + SMOOTH) / (both + SMOOTH)
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1)
    loss: Tensor = entropy + DICE_WEIGHT * (1 - dice)
    return loss


def draw_patches(seed: bytes, entry: Entry, count: int, size: Shape) -> tuple[Patch, ...]:
    """`count` patches of `size` voxels from a prepared scan; the same for the same seed and scan.

    Two in three lie around a lesion's voxel, drawn from all of them, off the middle by up to a quarter of a side, if the scan has a
    mask that is not empty; the others anywhere. A patch stays within the grid along each axis that is long enough, and holds all
    of an axis that is not; what lies beyond is what `Entry.patch` says.
    """
    if count < 0 or min(size) < 1:
        raise ContractError(f"{count} patches of {' x '.join(map(str, size))} voxels: 0 or more, sides of at least 1")
    lesions = np.argwhere(entry.array()[-1] > 0) if entry.has_mask else np.zeros((0, 3), np.int64)
    rng = _generator(b"wardround/patches/v1\0", seed)
    return tuple(entry.patch(_begin(rng, entry.shape, lesions, size), size) for _ in range(count))


def _begin(rng: np.random.Generator, shape: Shape, lesions: NDArray[np.int64], size: Shape) -> Shape:
    sides, spare = np.asarray(size), np.asarray(shape) - np.asarray(size)
    low, high = np.minimum(spare, 0), np.maximum(spare, 0)
    if rng.random() < LESION_SHARE and len(lesions):
        reach = sides // JITTER
        wanted = lesions[rng.integers(len(lesions))] - sides // 2 + rng.integers(-reach, reach + 1)
        x, y, z = np.clip(wanted, low, high).tolist()
    else:
        x, y, z = rng.integers(low, high + 1).tolist()
    return x, y, z


def drop_modalities(present: NDArray[np.bool_], rate: float, seed: bytes) -> NDArray[np.bool_]:
    """Which of the sequences `present` (C,) are kept: each is dropped with chance `rate`, but one always stays.

    The caller sets channels that are not kept to 0, as those of absent sequences are. `ContractError` unless 0 <= rate <= 1.
    """
    if not 0 <= rate <= 1:
        raise ContractError(f"sequences are dropped with chance {rate}: from 0 to 1")
    drawn = np.where(present, _generator(b"wardround/modalities/v1\0", seed).random(len(present)), -1.0)
    kept = drawn >= rate
    if present.any() and not (present & kept).any():
        kept[np.argmax(drawn)] = True
    return np.asarray(present & kept)


def _generator(purpose: bytes, seed: bytes) -> np.random.Generator:
    """Random numbers that protect nobody: all of what they are follows from both arguments."""
    words = np.frombuffer(hashlib.sha256(purpose + seed).digest(), dtype="<u4")
    return np.random.default_rng([int(word) for word in words])


def predict_volume(
    model: Callable[[Tensor], Tensor],
    channels: NDArray[np.floating[Any]],
    *,
    patch: Shape,
    overlap: float = 0.5,
    batch: int = 4,
    background: float | Sequence[float] = 0.0,
) -> Floats:
    """Probability of a lesion in each voxel, (x, y, z), from `channels` (C, x, y, z) of any size, tile by tile.

    Tiles of `patch` voxels overlap by the share `overlap` or more and are averaged with weights that fall towards their edges
    (Hann), where a tile lacks its surroundings. A volume smaller than a tile is laid into its middle; around it is `background`, of
    each channel or of all (`background_of` an entry). In memory are the volume, one of its size for the answer and `batch` tiles.
    The same arguments give the same bits on one machine with one thread. `ContractError` for numbers out of range.
    """
    if channels.ndim != 4 or min(patch) < 1 or not 0 <= overlap <= 0.9 or batch < 1:
        raise ContractError(
            f"channels of {channels.ndim} axes, tiles of {patch} with overlap {overlap}, {batch} at once: 4 axes, sides from 1, "
            "overlap from 0 to 0.9, at least 1 at once"
        )
    whole, inner = _padded(channels, patch, background)
    ramps = [(np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2).astype(np.float32) for side in patch]
    full: tuple[int, ...] = whole.shape[1:]
    window, sums = _outer(ramps), np.zeros(full, np.float32)
    starts = [_starts(size, side, overlap) for size, side in zip(full, patch, strict=True)]
    tiles = [tuple(slice(first, first + side) for first, side in zip(begin, patch, strict=True)) for begin in product(*starts)]
    for group in (tiles[first : first + batch] for first in range(0, len(tiles), batch)):
        for tile, found in zip(group, _probabilities(model, [whole[(slice(None), *tile)] for tile in group]), strict=True):
            sums[tile] += window * found
    weights = [_summed(axis, ramp, size) for axis, ramp, size in zip(starts, ramps, full, strict=True)]
    for along, weight in enumerate(weights):  # the sum of a product over a grid of tiles is the product of sums along its axes
        sums /= np.expand_dims(weight, [axis for axis in range(3) if axis != along])
    return np.minimum(sums[inner], np.float32(1))  # a sum of weighted ones can be 1 and a last bit


def background_of(entry: Entry) -> tuple[float, ...]:
    """What `Entry.patch` puts beyond the image in each channel: nothing in one that is absent."""
    return tuple(entry.background if there else 0.0 for there in entry.present)


def _padded(
    channels: NDArray[np.floating[Any]], patch: Shape, background: float | Sequence[float]
) -> tuple[NDArray[np.floating[Any]], tuple[slice, ...]]:
    """The volume, at least as large as a tile, and where in it the given one lies."""
    shape: tuple[int, ...] = channels.shape[1:]
    before = [max(0, side - size) // 2 for size, side in zip(shape, patch, strict=True)]
    inner = tuple(slice(first, first + size) for first, size in zip(before, shape, strict=True))
    full = tuple(max(size, side) for size, side in zip(shape, patch, strict=True))
    if full == shape:
        return channels, inner
    whole = np.empty((len(channels), *full), channels.dtype)
    whole[...] = np.broadcast_to(np.asarray(background), (len(channels),)).reshape(-1, 1, 1, 1)
    whole[(slice(None), *inner)] = channels
    return whole, inner


def _starts(size: int, side: int, overlap: float) -> list[int]:
    """First voxels of tiles that cover an axis evenly, from its first voxel to its last."""
    step = max(1, math.floor(side * (1 - overlap)))
    return [int(first) for first in np.linspace(0, size - side, -(-(size - side) // step) + 1).round()]


def _outer(ramps: Sequence[NDArray[np.float32]]) -> Floats:
    x, y, z = ramps
    return np.asarray(x[:, None, None] * y[:, None] * z, np.float32)


def _summed(starts: Sequence[int], ramp: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    total = np.zeros(size, np.float32)
    for first in starts:
        total[first : first + len(ramp)] += ramp
    return total


def _probabilities(model: Callable[[Tensor], Tensor], tiles: Sequence[NDArray[np.floating[Any]]]) -> Iterator[Floats]:
    with torch.inference_mode():
        found = torch.sigmoid(model(torch.from_numpy(np.stack(tiles).astype(np.float32))))
    yield from found.numpy()
