"""An invented patient's lesions over the years: how much, how many, where, and what changes between two dates.

Volume at day 0 is log-normal with median 5 mL and quartiles 2 and 12 mL, as published for relapsing MS (the project's MS notes,
1.6; 52 patients of MSLesSeg at their first visit: 4.5, 2.4 and 12.9). A lesion has 0.2 mL on average, most far less: MSLesSeg has
0.22, and a median of 24 lesions a patient (Guarnera et al. 2025, Sci Data 12:920).
Half of them lie at the ventricles, the rest in deep white matter, under the cortex and below the tentorium.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.imaging.phantoms_anatomy import Floats, Head, Points, filled, sampled, tissues

MEDIAN_ML, LOG_SD, LIMITS_ML = 5.0, 1.33, (0.2, 60.0)  # ln(12/2) / 1.349
LESION_MEDIAN_ML, LESION_LOG_SD = 0.13, 0.95  # mean 0.2 mL
LESION_LIMITS_ML: Final = (0.03, 6.0)
NEW_PER_YEAR, NEW_DISPERSION = 1.5, 0.5  # between untreated 3-6 and a few per cent of that under high efficacy; notes 1.6, NB k 0.5
GROWTH_PER_YEAR: Final = (0.02, 0.08)  # mean and SD over lesions, of the logarithm of volume; +5 % a year with the new ones
LOSS_PER_YEAR: Final = (0.006, 0.003)  # of brain volume; notes 1.6: 0.5-0.7 %
PLACES: Final = (("ventricle", 0.5), ("deep", 0.25), ("cortex", 0.17), ("below", 0.08))
BEFORE_D: Final = -3650  # onset of what is there at day 0
YEAR_D: Final = 365.25


@dataclass(frozen=True)
class Lesion:
    """One lesion: an ellipsoid with a deformed surface."""

    onset_d: int
    centre_mm: tuple[float, float, float]
    turn: NDArray[np.float32]  # (3, 3), rows: its own axes
    axes: tuple[float, float, float]  # relative half axes, product 1
    ml: float  # at onset, or at day 0 if it was there before
    growth: float  # of the logarithm of volume, per year
    strength: float  # of its contrast, 0.45 to 1

    def radius_mm(self, day: int) -> float:
        """Mean radius on `day`; 0 before its onset."""
        if day < self.onset_d:
            return 0.0
        years = (day - max(self.onset_d, 0)) / YEAR_D
        return float((self.ml * np.exp(self.growth * years) * 1000 * 0.75 / np.pi) ** (1 / 3))


@dataclass(frozen=True)
class Patient:
    """One invented person."""

    patient_id: str
    head: Head
    lesions: tuple[Lesion, ...]
    loss_per_year: float  # of brain volume

    def loss(self, day: int) -> float:
        """Part of brain volume lost since day 0."""
        return self.loss_per_year * day / YEAR_D


def draw_volume_ml(rng: np.random.Generator) -> float:
    return float(np.clip(MEDIAN_ML * np.exp(LOG_SD * rng.standard_normal()), *LIMITS_ML))


def make_lesions(
    head: Head, rng: np.random.Generator, *, volume_ml: float, until_d: int, new_per_year: float
) -> tuple[Lesion, ...]:
    """Lesions of `volume_ml` at day 0, and those that come until day `until_d`, in the order of their onset."""
    sizes = _sizes(rng, volume_ml)
    n_new = int(rng.poisson(new_per_year * until_d / YEAR_D))
    onsets = [BEFORE_D] * len(sizes) + sorted(rng.integers(1, max(until_d, 1) + 1, n_new).tolist())
    sizes = [*sizes, *_clipped_size(rng, n_new)]
    centres, outward = _places(head, rng, len(sizes))
    return tuple(
        _lesion(rng, onset_d=day, ml=ml, centre=centre, outward=out)
        for day, ml, centre, out in zip(onsets, sizes, centres, outward, strict=True)
    )


def _sizes(rng: np.random.Generator, total_ml: float) -> list[float]:
    """Volumes in mL that add up to `total_ml`; of a larger total the single ones are larger, as plaques run together."""
    scale, sizes = max(1.0, total_ml / MEDIAN_ML) ** 0.4, list[float]()
    while (rest := total_ml - sum(sizes)) > LESION_LIMITS_ML[0]:
        sizes.append(min(rest, float(scale * _clipped_size(rng, 1)[0])))
    return sizes or [total_ml]


def _clipped_size(rng: np.random.Generator, n: int) -> list[float]:
    found = LESION_MEDIAN_ML * np.exp(LESION_LOG_SD * rng.standard_normal(n))
    return [float(ml) for ml in np.clip(found, *LESION_LIMITS_ML)]


def _places(head: Head, rng: np.random.Generator, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centres (n, 3) in mm and, for each, the direction away from the ventricles (n, 3)."""
    step = np.float32(4)
    axis = np.arange(-84, 85, step, dtype=np.float32)
    points: Points = (axis[:, None, None], axis[None, :, None], axis[None, None, :])
    there = tissues(head, points, loss=0.0)
    white = (there.fluid < -4.5) & (there.ventricles > 1) & (there.deep_grey > 1)
    near = np.exp(-there.ventricles / 5)
    weight = {
        "ventricle": white * near * (there.cerebellum > 4),
        "deep": white * (there.ventricles > 8) * (there.fluid < -8) * (there.cerebellum > 4),
        "cortex": white * (there.fluid > -7.5) * (there.ventricles > 12) * (there.cerebellum > 4),
        "below": (there.fluid < -4) * ((there.cerebellum < -3) | (points[2] < -25)) * (there.ventricles > 6),
    }
    gradient = np.asarray(np.gradient(there.ventricles))
    sums = [np.cumsum(weight[kind].ravel(), dtype=np.float64) for kind, _ in PLACES]
    chosen = rng.choice(len(PLACES), size=n, p=[share for _, share in PLACES])
    drawn = [np.searchsorted(sums[kind], rng.random() * sums[kind][-1], side="right") for kind in chosen]
    index = np.unravel_index(np.asarray(drawn, np.int64), white.shape)
    centres = axis[np.asarray(index).T] + rng.uniform(-step / 2, step / 2, (n, 3)).astype(np.float32)
    away = np.stack([part[index] for part in gradient], axis=-1)
    return centres, away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), np.float32(1e-6))


def _lesion(
    rng: np.random.Generator, *, onset_d: int, ml: float, centre: NDArray[np.float32], outward: NDArray[np.float32]
) -> Lesion:
    """Its long axis points away from the ventricles, as veins do."""
    axes = np.array([rng.uniform(1.2, 1.9), rng.uniform(0.8, 1.1), rng.uniform(0.7, 1.0)])
    axes /= np.prod(axes) ** (1 / 3)
    first = outward + 0.35 * rng.standard_normal(3)
    turn, _ = np.linalg.qr(np.column_stack([first, rng.standard_normal((3, 2))]))
    return Lesion(
        onset_d=onset_d,
        centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
        turn=turn.T.astype(np.float32),
        axes=(float(axes[0]), float(axes[1]), float(axes[2])),
        ml=ml,
        growth=float(rng.normal(*GROWTH_PER_YEAR)),
        strength=float(rng.uniform(0.45, 1.0)),
    )


def drawn_lesions(
    patient: Patient, lesions: Sequence[Lesion], day: int, points: Points, *, edge_mm: float
) -> tuple[Floats, Floats, list[tuple[slice, slice, slice]]]:
    """Part of each voxel that is lesion, its contrast, and the box of each lesion; (x, y, z) as `points`, which are full arrays."""
    part, strength = np.zeros(points[0].shape, np.float32), np.zeros(points[0].shape, np.float32)
    boxes = []
    for lesion in lesions:
        radius = lesion.radius_mm(day)
        box = _box(points, lesion.centre_mm, 1.35 * radius * max(lesion.axes) + 2 * edge_mm) if radius else None
        boxes.append(box or (slice(0, 0),) * 3)
        if box is None:
            continue
        near: Points = (points[0][box], points[1][box], points[2][box])
        away = [axis - np.float32(middle) for axis, middle in zip(near, lesion.centre_mm, strict=True)]
        own = [
            sum(row[k] * away[k] for k in range(3)) / np.float32(half) for row, half in zip(lesion.turn, lesion.axes, strict=True)
        ]
        distance = np.sqrt(own[0] ** 2 + own[1] ** 2 + own[2] ** 2) - radius * (1 + 0.12 * sampled(patient.head.folds, near))
        here = filled(distance, edge_mm)
        strength[box] = np.where(here > part[box], lesion.strength, strength[box])
        part[box] = np.maximum(part[box], here)
    return part, strength, boxes


def _box(points: Points, centre: tuple[float, float, float], reach_mm: float) -> tuple[slice, slice, slice] | None:
    """The voxels within `reach_mm` of `centre` along each of the grid's own axes; None if the grid has none."""
    shape = points[0].shape
    origin = np.array([axis[0, 0, 0] for axis in points])
    steps = np.array([[axis[1, 0, 0], axis[0, 1, 0], axis[0, 0, 1]] for axis in points]) - origin[:, None]
    middle = np.linalg.solve(steps, np.asarray(centre) - origin)
    reach = reach_mm / np.linalg.norm(steps, axis=0)
    low, high = np.floor(middle - reach).astype(int), np.ceil(middle + reach).astype(int) + 1
    box = [slice(max(0, first), min(n, last)) for first, last, n in zip(low.tolist(), high.tolist(), shape, strict=True)]
    return None if any(each.start >= each.stop for each in box) else (box[0], box[1], box[2])
