"""An invented head, the same however it is scanned: every tissue is a function of millimetres, not of a voxel grid.

Brain, cortex with sulci, ventricles, deep grey matter, cerebellum and stem, fluid, skull, scalp and face, each from ellipsoids and
sheets that smooth noise deforms, so that no two patients are alike. Sizes are those of adults to within what a test of segmentation
needs; nothing here is an atlas. Axes: x to the right, y to the front, z up, from the middle of the brain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Points = tuple[Floats, Floats, Floats]  # x, y, z in mm; shapes that broadcast

NOISE_MM, NOISE_N = 6.0, 40  # grid of the noise that deforms a head: 240 mm in all
SKULL_MM, SCALP_MM, HEAD_MM = 3.0, 9.5, 15.5  # where each begins, or the head ends, outside the brain's surface
CORTEX_MM, SULCUS_MM, SULCUS_DEPTH_MM = 4.2, 1.1, 15.0
BRAIN_AXES: Final = (67.0, 85.0, 63.0, 54.0)  # right, front, up, down, mm
THALAMUS: Final = ((11.5, -12.0, 4.0), (10.0, 16.0, 11.7))  # centre of the right one, half axes, mm
LENTIFORM: Final = ((25.0, 5.0, 2.0), (6.0, 17.0, 9.0))
CEREBELLUM: Final = ((0.0, -50.0, -44.0), (46.0, 27.0, 21.0))


@dataclass(frozen=True)
class Head:
    """What makes one head unlike another."""

    size: float  # of all lengths, about 1
    ventricles: float  # of the ventricles' width, about 1
    folds: Floats = field(repr=False)  # (40, 40, 40), standard normal, waves of about 25 mm: sulci
    shape: Floats = field(repr=False)  # the same with waves of about 70 mm: the brain's outline, and lesions'


@dataclass(frozen=True)
class Tissues:
    """Signed distances in mm, negative inside; all of one shape."""

    brain: Floats  # outer surface of brain and cerebellum, sulci filled
    fluid: Floats  # surface, sulci and fissure together: distance to fluid outside the ventricles, negative in it
    ventricles: Floats
    deep_grey: Floats
    thalamus: Floats
    cerebellum: Floats
    face: Floats


def make_head(rng: np.random.Generator) -> Head:
    return Head(
        size=float(np.clip(rng.normal(1.0, 0.02), 0.94, 1.06)),
        ventricles=float(np.exp(rng.normal(0.0, 0.2))),
        folds=_smooth_noise(rng, 1.1),
        shape=_smooth_noise(rng, 3.2),
    )


def _smooth_noise(rng: np.random.Generator, width: float) -> Floats:
    from scipy import ndimage

    noise = ndimage.gaussian_filter(rng.standard_normal((NOISE_N,) * 3, dtype=np.float32), width, mode="wrap")
    return np.asarray(noise / noise.std(), np.float32)


def sampled(noise: Floats, points: Points) -> Floats:
    """`noise` at `points`, linear in between, repeating every 240 mm."""
    from scipy import ndimage

    at = np.stack([np.broadcast_to(axis, np.broadcast_shapes(*(each.shape for each in points))) for axis in points])
    found: Floats = ndimage.map_coordinates(noise, at / NOISE_MM + NOISE_N / 2, order=1, mode="grid-wrap", output=np.float32)
    return found


def tissues(head: Head, points: Points, *, loss: float) -> Tissues:
    """The head at `points`; `loss` is the part of brain volume lost since day 0, which widens ventricles and sulci."""
    x, y, z = (axis / np.float32(head.size) for axis in points)
    folds, shape = sampled(head.folds, points), sampled(head.shape, points)
    right, front, up, down = BRAIN_AXES
    cerebrum = ellipsoid((x, y, z), (0.0, 0.0, 0.0), (right, front, np.where(z > 0, up, down))) + 2.2 * shape
    cerebellum = ellipsoid((x, y, z), *CEREBELLUM) + 1.2 * folds
    stem = np.maximum(np.hypot(x / 1.15, y + 22 + 0.12 * z) - 12, np.maximum(z + 18, -z - 78)).astype(np.float32)
    brain = np.minimum(np.minimum(cerebrum, cerebellum), stem)
    tentorium = np.maximum(np.abs(cerebellum), cerebrum + 1)  # a sheet of fluid between cerebrum and cerebellum
    sulci = np.maximum(7.0 * np.abs(folds), -cerebrum - SULCUS_DEPTH_MM)
    fissure = np.maximum(np.abs(x + 0.8 * shape), 40 - np.hypot(y / 1.25, z - 4))
    sheets = np.minimum(np.minimum(sulci, fissure), np.maximum(tentorium, -z - 50))
    opened = SULCUS_MM * (1 + 6 * loss)
    fluid = np.where(stem < 0, stem, np.maximum(brain, opened - sheets))
    thalamus = ellipsoid((np.abs(x), y, z), *THALAMUS) + 0.4 * folds
    lentiform = ellipsoid((np.abs(x), y, z), *LENTIFORM) + 0.4 * folds
    return Tissues(
        brain=brain,
        fluid=fluid,
        ventricles=_ventricles((x, y, z), head.ventricles * (1 + 8 * loss)),
        deep_grey=np.minimum(thalamus, lentiform),
        thalamus=thalamus,
        cerebellum=cerebellum,
        face=ellipsoid((x, y, z), (0.0, 22.0, -66.0), (58.0, 66.0, 50.0)),
    )


def _ventricles(points: Points, width: float) -> Floats:
    """Two lateral horns, bent down and out towards their ends, and a slit between the thalami."""
    x, y, z = points
    bent = y * y
    lateral = ellipsoid((np.abs(x) - 0.006 * bent, y, z + 0.009 * bent), (8.0, -2.0, 17.0), (5.5 * width, 38.0, 8.0 * width**0.5))
    third = ellipsoid((x, y, z), (0.0, -8.0, 2.0), (1.8 * width, 13.0, 9.0))
    return np.minimum(lateral, third)


def ellipsoid(points: Points, centre: tuple[float, float, float], axes: tuple[float, float, Floats | float]) -> Floats:
    """About the signed distance in mm to an ellipsoid's surface: exact on it and along its axes."""
    away = [point - np.float32(middle) for point, middle in zip(points, centre, strict=True)]
    scaled = [part / np.asarray(half, np.float32) for part, half in zip(away, axes, strict=True)]
    q = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    length = np.sqrt(away[0] ** 2 + away[1] ** 2 + away[2] ** 2)
    least = min(float(np.min(half)) for half in axes)
    return np.where(q > 1e-3, length * (1 - 1 / np.maximum(q, np.float32(1e-3))), -least).astype(np.float32)


def filled(distance: Floats, edge_mm: float) -> Floats:
    """The part of a voxel inside a surface at `distance`, 0 to 1, where voxels are `edge_mm` wide."""
    return np.asarray(np.clip(np.float32(0.5) - distance / np.float32(edge_mm), 0, 1), np.float32)
