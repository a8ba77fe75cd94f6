"""Lesions of one mask, in millilitres and by number, and what became of them between two masks of a patient.

Volumes are voxels times the volume of a voxel by the affine, so that tilted and thick slices count as what they are. Lesions are
26-connected parts of a mask. Both are the same however the axes of the file run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks.imaging.geometry import same_grid
from tasks.imaging.resample import Flags, Grid, grid_of, resampled_mask
from tasks.imaging.volume import Volume

Sizes = NDArray[np.float64]  # (n_lesions,) mm3
VERSION: Final = "1"  # of every measure; raised whenever one of them changes
NEIGHBOURS: Final = np.ones((3, 3, 3), np.bool_)  # 26: voxels that share a face, an edge or a corner
LEAST_MM3: Final = 3.0
"""Smaller parts are not counted as lesions; their volume counts. The limit of MSSEG's lesion-wise scores (Commowick et al. 2018,
Sci Rep 8:13650): 3 voxels of 1 mm; one voxel of 2 mm is above it."""
SMALL_LESION_MM3: Final = 4 / 3 * np.pi * (67 / np.pi) ** 1.5  # 412 mm3
SMALL_RATIO: Final = 1.452**1.5  # 1.75
LARGE_RATIO: Final = 1.242**1.5  # 1.38
"""A lesion grew if its volume is more than this multiple of what it was. Goodkin et al. 1992 (Arch Neurol 49:261-263) measured
areas three times: a change below 45.2 % of a lesion under 0.67 cm2, or 24.2 % of a larger one, may be measurement alone. As
volumes, by a ball of that cross-section: area to the power 1.5."""


@dataclass(frozen=True)
class Lesions:
    """What one mask holds."""

    volume_ml: float  # of every voxel in it
    sizes_ml: NDArray[np.float64] = field(repr=False)  # (n_lesions,), largest first; those of at least `least_mm3`

    @property
    def count(self) -> int:
        """Lesions that are counted."""
        return len(self.sizes_ml)


@dataclass(frozen=True)
class Change:
    """What became of a patient's lesions from one mask to the next."""

    new: int  # touch no lesion of the first mask
    enlarging: int
    shrinking: int
    gone: int  # touch no lesion of the second mask
    new_ml: float


def lesions_of(mask: Volume, *, least_mm3: float = LEAST_MM3) -> Lesions:
    """Volume and lesions of `mask` (voxels above one half)."""
    grid, marked = grid_of(mask), mask.data > 0.5
    sizes = _sizes_mm3(*_parts(marked), grid)
    counted = np.sort(sizes[_counts(sizes, least_mm3)])[::-1]
    return Lesions(int(np.count_nonzero(marked)) * grid.voxel_ml, counted / 1000)


def change_between(first: Volume, second: Volume, *, least_mm3: float = LEAST_MM3) -> Change:
    """New, enlarging, shrinking and gone lesions between two masks of one patient in one space; the caller knows that they are.

    Masks on different grids are compared on the finer one. Lesions that overlap in any voxel are one and the same: what split or
    flowed together is compared as a whole, and a new lesion that flows into an old one makes that one larger. Swapping the masks
    swaps new with gone and enlarging with shrinking.
    """
    *_, was, became = _compared(first, second)
    only_first, only_second = became == 0, was == 0
    both = ~only_first & ~only_second & _counts(np.abs(became - was), least_mm3)
    new = _counts(became, least_mm3) & only_second
    return Change(
        new=int(new.sum()),
        enlarging=int((both & grew(was, became)).sum()),
        shrinking=int((both & grew(became, was)).sum()),
        gone=int((_counts(was, least_mm3) & only_first).sum()),
        new_ml=float(became[new].sum()) / 1000,
    )


def new_between(first: Volume, second: Volume, *, least_mm3: float = LEAST_MM3) -> Volume:
    """Those lesions that `change_between` counts as new, as 0 and 1 on the grid where the two masks are compared."""
    grid, labels, whole, was, became = _compared(first, second)
    new = np.append(False, ((was == 0) & _counts(became, least_mm3))[whole])  # of each part of the second mask; 0 is none
    return Volume(new[labels].astype(np.float32), grid.affine)


def _compared(first: Volume, second: Volume) -> tuple[Grid, NDArray[np.int32], NDArray[np.int32], Sizes, Sizes]:
    """Grid; each voxel's part of the second mask, 0 outside; the lesion that each part belongs to; and of each lesion what it was
    and what it became, mm3."""
    before, after, grid = _on_one_grid(first, second)
    labels, sizes = zip(*((found[0], _sizes_mm3(*found, grid)) for found in (_parts(before), _parts(after))), strict=True)
    whole = _same_lesions(labels, (len(sizes[0]), len(sizes[1])))
    groups = int(whole.max(initial=-1)) + 1
    of_second = whole[len(sizes[0]) :]
    return grid, labels[1], of_second, _summed(whole[: len(sizes[0])], sizes[0], groups), _summed(of_second, sizes[1], groups)


def grew(was_mm3: NDArray[np.float64], became_mm3: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each lesion grew by more than what measuring it again can make, (n_lesions,)."""
    ratio = np.where(was_mm3 < SMALL_LESION_MM3, SMALL_RATIO, LARGE_RATIO)
    return np.asarray((was_mm3 > 0) & (became_mm3 > was_mm3 * ratio))


def _counts(sizes_mm3: NDArray[np.float64], least_mm3: float) -> NDArray[np.bool_]:
    """Which sizes are at least the least one, give or take what an affine of 32-bit floats rounds."""
    return np.asarray(sizes_mm3 >= least_mm3 * (1 - 1e-6))


def _parts(marked: Flags) -> tuple[NDArray[np.int32], int]:
    """Each voxel's lesion, 1 to n, 0 outside; n. Worked out in the box around all lesions: the rest of a head is empty."""
    labels = np.zeros(marked.shape, np.int32)
    box = _box(marked)
    if box is None:
        return labels, 0
    options: dict[str, Any] = {"structure": NEIGHBOURS, "output": labels[box]}
    return labels, int(ndimage.label(marked[box], **options))


def _box(marked: Flags) -> tuple[slice, slice, slice] | None:
    spans = []
    for axis in range(3):
        at = np.flatnonzero(marked.any(axis=tuple(other for other in range(3) if other != axis)))
        if not at.size:
            return None
        spans.append(slice(int(at[0]), int(at[-1]) + 1))
    return spans[0], spans[1], spans[2]


def _sizes_mm3(labels: NDArray[np.int32], count: int, grid: Grid) -> Sizes:
    """Volume of each part, (count,)."""
    voxels: Sizes = np.bincount(labels[labels > 0], minlength=count + 1)[1:].astype(np.float64)
    return voxels * (grid.voxel_ml * 1000)


def _summed(groups: NDArray[np.int32], sizes_mm3: Sizes, count: int) -> Sizes:
    return np.bincount(groups, sizes_mm3, count).astype(np.float64)


def _on_one_grid(first: Volume, second: Volume) -> tuple[Flags, Flags, Grid]:
    own, other = grid_of(first), grid_of(second)
    if same_grid(own.shape, own.affine, other.shape, other.affine):
        return first.data > 0.5, second.data > 0.5, own
    finer = own if own.voxel_ml <= other.voxel_ml else other
    return resampled_mask(first, finer), resampled_mask(second, finer), finer


def _same_lesions(labels: tuple[NDArray[np.int32], ...], counts: tuple[int, int]) -> NDArray[np.int32]:
    """For each part of the first mask, then of the second, the lesion that it belongs to, (sum of counts,)."""
    shared = (labels[0] > 0) & (labels[1] > 0)
    pairs = np.unique(np.stack([labels[0][shared] - 1, labels[1][shared] - 1 + counts[0]]), axis=1)
    n = sum(counts)
    if not n:
        return np.zeros(0, np.int32)
    links = coo_array((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(n, n))
    return np.asarray(connected_components(links, directed=False)[1], np.int32)
