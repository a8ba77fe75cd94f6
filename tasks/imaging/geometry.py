"""Where voxels lie in space: spacing, tilt, whether two images share a grid, and how far their fields of view overlap.

An affine is (4, 4), from voxel index to millimetres; axes of space are right, anterior, superior (RAS+).
"""

from __future__ import annotations

from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]  # (4, 4)
Shape = tuple[int, int, int]
SAME_GRID: Final = 0.05  # voxels by which corners may differ: float32 headers round, nobody moves a mask by less


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Millimetres between neighbouring voxels along each of the file's axes."""
    first, second, third = np.linalg.norm(affine[:3, :3], axis=0)
    return float(first), float(second), float(third)


def tilt_deg(affine: Affine) -> float:
    """Largest angle between an axis of the file and the nearest axis of space, in degrees, 0 to 54.8."""
    directions = affine[:3, :3] / np.array(spacing_of(affine))
    return float(np.degrees(np.arccos(np.clip(np.abs(directions).max(axis=0), -1, 1))).max())


def shear(affine: Affine) -> float:
    """Largest cosine between two axes of the file: 0 if they are at right angles."""
    directions = affine[:3, :3] / np.array(spacing_of(affine))
    return float(np.abs(directions.T @ directions - np.eye(3)).max())


def corners(shape: Shape, affine: Affine) -> NDArray[np.float64]:
    """Outer corners of the grid in space, (8, 3)."""
    ends = np.array(list(product(*((-0.5, size - 0.5) for size in shape))))
    return ends @ affine[:3, :3].T + affine[:3, 3]


def same_grid(shape: Shape, affine: Affine, other_shape: Shape, other: Affine) -> bool:
    """Whether each voxel of one is the same place as the voxel of that index in the other."""
    if shape != other_shape:
        return False
    apart = np.linalg.norm(corners(shape, affine) - corners(shape, other), axis=1).max()
    return bool(apart <= SAME_GRID * min(spacing_of(affine)))


def overlap(shape: Shape, affine: Affine, other_shape: Shape, other: Affine) -> float:
    """Share of the smaller field of view that lies in the other, 0 to 1, by the boxes around them in space."""
    low, high = _box(shape, affine)
    other_low, other_high = _box(other_shape, other)
    shared = np.clip(np.minimum(high, other_high) - np.maximum(low, other_low), 0, None).prod()
    return float(shared / min((high - low).prod(), (other_high - other_low).prod()))


def _box(shape: Shape, affine: Affine) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points = corners(shape, affine)
    return points.min(axis=0), points.max(axis=0)
