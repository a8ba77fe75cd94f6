"""Images and masks brought onto another grid: an image keeps its values and its place, a mask its volume to half a voxel.

A grid is a shape and an affine from voxel indices to millimetres. Grids whose axes run along the image's own (the usual case) are
served axis by axis; any other through one linear interpolation in three dimensions. When voxels become larger, the interpolated
values are averaged over what the new voxel is larger by, so that noise and thin structures do not alias.

Every step is element by element, in one fixed order and without a threaded library: the same input gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.imaging.errors import ImageError
from tasks.imaging.geometry import Affine, spacing_of
from tasks.imaging.volume import Volume

Floats = NDArray[np.float32]  # (x, y, z)
Flags = NDArray[np.bool_]  # (x, y, z)

MOST_VOXELS: Final = 512**3  # of one resampled image: 0.5 GiB as float32; a head at 0.4 mm
SKEW_VOXELS: Final = 0.02  # what leaving an axis may displace over the whole image and still count as running along it
SNAP_VOXELS: Final = 1e-3  # rounding of affines in files: 32-bit floats


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: `shape` (x, y, z) and `affine` from index to mm."""

    shape: tuple[int, int, int]
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return spacing_of(self.affine)

    @property
    def voxel_ml(self) -> float:
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    def cropped(self, begin: tuple[int, int, int], end: tuple[int, int, int]) -> Grid:
        """The part from voxel `begin` up to, not including, `end`."""
        affine = self.affine.copy()
        affine[:3, 3] += self.affine[:3, :3] @ np.asarray(begin, np.float64)
        x, y, z = (int(last - first) for first, last in zip(begin, end, strict=True))
        return Grid((x, y, z), affine)


def grid_of(volume: Volume) -> Grid:
    return Grid(volume.shape, volume.affine)


def respaced(grid: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """The grid of the same axes and the same corner with voxels of `spacing_mm`; an axis within 0.1 % of it stays as it is.

    The last voxel of an axis may reach beyond the image by less than one voxel. `ImageError` above MOST_VOXELS.
    """
    sides = np.asarray(grid.spacing_mm)
    wanted = np.where(np.abs(np.asarray(spacing_mm) / sides - 1) < 1e-3, sides, spacing_mm)
    ratio = wanted / sides
    shape = [max(1, int(np.ceil(n / r - 1e-6))) for n, r in zip(grid.shape, ratio, strict=True)]
    if np.prod(np.asarray(shape, np.float64)) > MOST_VOXELS:
        raise ImageError(
            "too_large", f"{shape} voxels at {spacing_mm} mm, at most {MOST_VOXELS}: choose a larger spacing in the recipe"
        )
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, :3] * ratio
    affine[:3, 3] += grid.affine[:3, :3] @ ((ratio - 1) / 2)  # the corner stays, so the first voxel's centre moves
    return Grid((shape[0], shape[1], shape[2]), affine)


def resampled(volume: Volume, grid: Grid) -> tuple[Floats, Flags]:
    """Values of `volume` on `grid`, float32, and where the grid lies inside the image; outside, the nearest value is repeated."""
    between = _index_map(volume, grid)
    if _along_axes(between, grid):
        return _by_axes(volume.data, grid.shape, between)
    return _by_interpolation(volume, grid, between)


def resampled_mask(mask: Volume, grid: Grid) -> Flags:
    """The mask (voxels above one half) on `grid`: those voxels that it covers most, as many as its volume within the grid needs.

    The volume is that of the source inside the grid within half a voxel of `grid`. A mask on the same grid comes back unchanged.
    A lesion far smaller than a new voxel can vanish while a larger one gains a voxel: count lesions on the source's grid.
    """
    source = Volume((mask.data > 0.5).astype(np.float32), mask.affine)
    between = _index_map(source, grid)
    cover, inside = resampled(source, grid)
    cover[~inside] = 0
    if _along_axes(between, grid):
        volume_ml = _volume_inside_ml(source, grid, between)
    else:
        volume_ml = float(cover.sum(dtype=np.float64)) * grid.voxel_ml  # linear interpolation keeps the integral of what it covers
    wanted = min(int(np.floor(volume_ml / grid.voxel_ml + 0.5)), int(np.count_nonzero(cover > 0)))
    return _most_covered(cover, wanted)


def _index_map(volume: Volume, grid: Grid) -> Affine:
    """From an index on `grid` to the index in `volume`, (4, 4)."""
    return np.asarray(np.linalg.solve(volume.affine, grid.affine))


def _along_axes(between: Affine, grid: Grid) -> bool:
    away = between[:3, :3] - np.diag(np.diag(between[:3, :3]))
    return bool(np.all(np.abs(away) @ np.asarray(grid.shape) < SKEW_VOXELS) and np.all(np.diag(between)[:3] > 0))


def _by_axes(data: Floats, shape: tuple[int, int, int], between: Affine) -> tuple[Floats, Flags]:
    inside = np.ones((1, 1, 1), np.bool_)
    found = data
    order = sorted(range(3), key=lambda axis: shape[axis] / data.shape[axis])  # what shrinks most first: less work after it
    for axis in order:
        at = _positions(between[axis, axis], between[axis, 3], shape[axis])
        found = _one_axis(found, axis, at, step=float(between[axis, axis]))
        within = (at >= -0.5 - SNAP_VOXELS) & (at <= data.shape[axis] - 0.5 + SNAP_VOXELS)
        inside = inside & within.reshape([-1 if each == axis else 1 for each in range(3)])
    return np.ascontiguousarray(found), np.broadcast_to(inside, shape)


def _positions(step: float, begin: float, n: int) -> NDArray[np.float64]:
    """Where the new voxels' centres lie, in old voxels; whole numbers but for rounding become whole."""
    at = begin + step * np.arange(n)
    whole = np.rint(at)
    return np.where(np.abs(at - whole) < SNAP_VOXELS, whole, at)


def _one_axis(data: Floats, axis: int, at: NDArray[np.float64], *, step: float) -> Floats:
    """`data` at the positions `at` of one axis: linear interpolation, averaged over max(0, step - 1) old voxels around each."""
    if step < 1 + SNAP_VOXELS and np.array_equal(at, np.rint(at)):  # voxels that are there: a crop, or the same grid
        whole = np.clip(at, 0, data.shape[axis] - 1).astype(np.int64)
        if np.array_equal(whole, at):
            return data[tuple(slice(whole[0], whole[-1] + 1) if each == axis else slice(None) for each in range(3))]
        return np.take(data, whole, axis=axis)
    width = max(0.0, step - 1)
    first = np.floor(at - 1 - width / 2).astype(np.int64) + 1
    taps = first + np.arange(int(np.ceil(2 + width)))[:, None]  # (taps, n)
    weights = _weights(at - taps, width).astype(np.float32)
    taps = np.clip(taps, 0, data.shape[axis] - 1)
    spread = [-1 if each == axis else 1 for each in range(3)]
    found = np.zeros([at.size if each == axis else n for each, n in enumerate(data.shape)], np.float32)
    for tap, weight in zip(taps, weights, strict=True):
        if weight.any():
            found += np.take(data, tap, axis=axis) * weight.reshape(spread)
    return found


def _weights(away: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Weight of a voxel at distance `away`: a triangle of half-width 1, averaged over `width`. Their sum is 1."""
    if width < SNAP_VOXELS:
        return np.asarray(np.maximum(0.0, 1 - np.abs(away)))

    def integral(x: NDArray[np.float64]) -> NDArray[np.float64]:
        rising, falling = np.clip(x + 1, 0, 1), 1 - np.clip(x, 0, 1)
        return np.asarray(rising**2 / 2 + (1 - falling**2) / 2)

    return (integral(away + width / 2) - integral(away - width / 2)) / width


def _by_interpolation(volume: Volume, grid: Grid, between: Affine) -> tuple[Floats, Flags]:
    """One linear interpolation; before it the image is averaged to about the new spacing where that is coarser."""
    from scipy import ndimage

    own = grid_of(volume)
    steps = np.linalg.norm(between[:3, :3], axis=1)  # old voxels that a new one extends over, by old axis
    sides = np.asarray(own.spacing_mm) * np.maximum(1.0, steps)
    coarse = respaced(own, (float(sides[0]), float(sides[1]), float(sides[2])))
    data, _ = _by_axes(volume.data, coarse.shape, _index_map(volume, coarse))
    between = _index_map(Volume(data, coarse.affine), grid)
    options: dict[str, Any] = {"output_shape": grid.shape, "order": 1, "mode": "nearest", "output": np.float32}
    found = ndimage.affine_transform(data, between[:3, :3], between[:3, 3], **options)
    inside = np.ones(grid.shape, np.bool_)
    index = [
        np.arange(n, dtype=np.float32).reshape([-1 if each == axis else 1 for each in range(3)])
        for axis, n in enumerate(grid.shape)
    ]
    for axis in range(3):
        at = between[axis, 3] + sum(between[axis, other] * index[other] for other in range(3))
        inside &= (at >= -0.5) & (at <= coarse.shape[axis] - 0.5)
    return np.asarray(found), inside


def _volume_inside_ml(source: Volume, grid: Grid, between: Affine) -> float:
    """Exact volume of the source's voxels inside `grid`; a voxel at the border counts by the part that is inside."""
    covered = source.data
    for axis, n in enumerate(grid.shape):
        low, high = between[axis, 3] - between[axis, axis] / 2, between[axis, 3] + between[axis, axis] * (n - 0.5)
        edges = np.arange(source.data.shape[axis]) - 0.5
        part = np.clip(np.minimum(edges + 1, high) - np.maximum(edges, low), 0, 1).astype(np.float32)
        covered = covered * part.reshape([-1 if each == axis else 1 for each in range(3)])
    return float(covered.sum(dtype=np.float64)) * grid_of(source).voxel_ml


def _most_covered(cover: Floats, wanted: int) -> Flags:
    """The `wanted` voxels with the largest cover. Equal ones come in a scattered order: by index, lesions would drift."""
    found = np.zeros(cover.size, np.bool_)
    touched = np.flatnonzero(cover.ravel() > 0)
    scattered = (touched.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(16)  # Fibonacci hashing
    level = np.rint(cover.ravel()[touched].astype(np.float64) * 1e5)
    order = np.lexsort((scattered, -level))
    found[touched[order[:wanted]]] = True
    return found.reshape(cover.shape)
