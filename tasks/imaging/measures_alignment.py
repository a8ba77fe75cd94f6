"""Whether two sessions of a patient lie in one space, by what their images show: how far one head is from the other, in mm.

No header proves it: two scans of one protocol share a grid and not a head's position, and a `space-` in a name is somebody's word.
So both images are put on a coarse lattice, and the movement that would bring one onto the other is worked out. Masks are
compared only if it is small; nothing is moved here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tasks.imaging.geometry import corners
from tasks.imaging.head import otsu_threshold
from tasks.imaging.resample import Flags, Floats, Grid, resampled
from tasks.imaging.volume import Volume

LATTICE_MM: Final = 3.0  # 60 x 72 x 60 points for a head, 1 MiB
BLUR_MM: Final = 3.0  # noise, lesions and brain loss are finer than this; a movement is not
AROUND_MM: Final = 12.0
STEPS: Final = 4
LEAST_POINTS: Final = 4000  # 0.1 L of head that both see
LEAST_ALIKE: Final = 0.75  # correlation of evened values; one patient twice: 0.89 to 0.99, two patients in one template: 0.66
MOST_APART_MM: Final = 1.5  # less than half the radius of a lesion of 0.2 mL (3.6 mm)


@dataclass(frozen=True)
class Sight:
    """One image on its coarse lattice, axes towards right, anterior, superior."""

    values: Floats = field(repr=False)  # (x, y, z)
    grid: Grid = field(repr=False)


@dataclass(frozen=True)
class Apart:
    """How two sights of a head differ."""

    mm: float  # root mean square over the head, of the movement that would bring one onto the other
    alike: float  # correlation as they lie, -1 to 1

    @property
    def together(self) -> bool:
        """Whether masks drawn on them may be compared voxel by voxel."""
        return self.mm <= MOST_APART_MM and self.alike >= LEAST_ALIKE

    @property
    def words(self) -> str:
        """How far from together they are, for people."""
        far = f"some {self.mm:.1f} mm apart" if np.isfinite(self.mm) else "hardly any part of the head in both"
        return f"{far}, correlation {self.alike:.2f}; at most {MOST_APART_MM:g} mm, at least {LEAST_ALIKE:g}"


def sight_of(image: Volume) -> Sight:
    """`image` on a lattice of 3 mm around it; all that is kept of an image until the next session is read."""
    points = corners(image.shape, image.affine)
    low = points.min(axis=0)
    x, y, z = (max(4, int(np.ceil(extent / LATTICE_MM))) for extent in points.max(axis=0) - low)
    affine = np.diag([LATTICE_MM, LATTICE_MM, LATTICE_MM, 1.0])
    affine[:3, 3] = low + LATTICE_MM / 2
    grid = Grid((x, y, z), affine)
    values, inside = resampled(image, grid)
    return Sight(np.where(inside, values, np.float32(0)), grid)


def apart(first: Sight, second: Sight) -> Apart:
    """How far `second` is from `first`, as long as it is by less than about a centimetre; beyond, they are not alike.

    Least squares of a rigid movement, scale and offset of intensity, linearised and repeated (Gauss-Newton; Friston et al. 1995,
    Hum Brain Mapp 3:165-189).
    """
    fixed, head = _evened(first.values)
    moving = Volume(_evened(second.values)[0], second.grid.affine)
    at = np.argwhere(head) @ first.grid.affine[:3, :3].T + first.grid.affine[:3, 3]  # (n, 3) mm
    covered = _covered(at, second.grid)
    if np.count_nonzero(covered) < LEAST_POINTS:
        return Apart(float("inf"), 0.0)
    head[head] = covered
    at = at[covered]
    slopes = np.stack([np.asarray(np.gradient(fixed, LATTICE_MM, axis=axis), np.float64)[head] for axis in range(3)], axis=1)
    centre = at.mean(axis=0)
    motion, alike = np.eye(4), 0.0
    for step in range(STEPS):
        seen = _at(moving, at @ motion[:3, :3].T + motion[:3, 3])
        if step == 0:
            alike = _correlation(fixed[head], seen)
        motion = motion @ _movement(fixed[head].astype(np.float64), seen, slopes, at - centre, centre)
    moved = at @ motion[:3, :3].T + motion[:3, 3] - at
    return Apart(float(np.sqrt((moved**2).sum(axis=1).mean())), alike)


def _evened(values: Floats) -> tuple[Floats, Flags]:
    """The image without noise and without the bias field: local mean and spread taken out; and where the head is."""
    smooth = ndimage.gaussian_filter(values, BLUR_MM / LATTICE_MM)
    head = smooth > otsu_threshold(smooth)
    wide = AROUND_MM / LATTICE_MM
    away = smooth - ndimage.gaussian_filter(smooth, wide)
    spread = np.sqrt(ndimage.gaussian_filter(away**2, wide))
    floor = 0.1 * float(np.sqrt((away[head] ** 2).mean()))
    return (away / (spread + floor)).astype(np.float32), head


def _covered(points_mm: NDArray[np.float64], grid: Grid) -> NDArray[np.bool_]:
    """Which points lie in the lattice, (n,)."""
    index = np.linalg.inv(grid.affine)
    places = points_mm @ index[:3, :3].T + index[:3, 3]
    return np.asarray(((places >= 0) & (places <= np.asarray(grid.shape) - 1)).all(axis=1))


def _at(image: Volume, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of `image` at points in mm, (n,)."""
    index = np.linalg.inv(image.affine)
    places = points_mm @ index[:3, :3].T + index[:3, 3]
    return np.asarray(ndimage.map_coordinates(image.data.astype(np.float64), places.T, order=1, mode="constant"))


def _correlation(one: NDArray[np.float32], other: NDArray[np.float64]) -> float:
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _movement(
    fixed: NDArray[np.float64],
    seen: NDArray[np.float64],
    slopes: NDArray[np.float64],
    arms: NDArray[np.float64],
    centre: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The small rigid movement, (4, 4), after which the second image would be seen as the first: one step of least squares."""
    turns = np.cross(arms, slopes)  # derivative by a turn about each axis, (n, 3)
    columns = np.column_stack([slopes, turns, seen, np.ones_like(seen)])
    scales = np.maximum(np.linalg.norm(columns, axis=0), 1e-12)
    found = np.linalg.lstsq(columns / scales, fixed, rcond=None)[0] / scales
    shift, turn = found[:3], found[3:6]
    a, b, c = turn
    u, _, v = np.linalg.svd(np.eye(3) + np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]]))
    moved = np.eye(4)
    moved[:3, :3] = u @ v
    moved[:3, 3] = centre + shift - moved[:3, :3] @ centre
    return moved
