"""How well predicted lesions are the true ones, scan by scan: overlap, lesions found, volumes; and what one threshold would reach.

Lesions are those of `tasks.imaging.measures`: 26-connected parts of at least 3 mm3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tasks.errors import ContractError
from tasks.imaging.measures import LEAST_MM3, NEIGHBOURS
from tasks.imaging.resample import Flags

Floats = NDArray[np.float64]
SIZES_ML: Final = (0.1, 0.5)
"""Where lesions become medium and large. Invented and published lesions have 0.2 mL on average and a median of 0.13
(`phantoms_lesions`): about 4 in 10 are small, 1 in 12 is large. One voxel of 4 mm has 0.06 mL."""
ROUNDING: Final = 1 - 1e-6  # of an affine of 32-bit floats
EQUAL: Final = 1e-12  # of a squared rating: what rounding leaves of no variance at all
LIMITS_SD: Final = 1.96  # between which 95 % of normal differences lie


@dataclass(frozen=True)
class ScanScores:
    """One scan's prediction against the truth. Lesions are in the order small, medium, large (`SIZES_ML`)."""

    dice: float  # 0 to 1; 1 where nothing is there and nothing predicted
    true_ml: float
    predicted_ml: float
    both_ml: float  # in both masks
    true_lesions: tuple[int, ...]  # (3,), by their true size
    found_lesions: tuple[int, ...]  # (3,), of them, those that touch the prediction
    predicted_lesions: int
    right_lesions: int  # of them, those that touch the truth

    @property
    def recall(self) -> float | None:
        """Share of the true lesions that are found; None without any."""
        return _share(sum(self.found_lesions), sum(self.true_lesions))

    @property
    def precision(self) -> float | None:
        """Share of the predicted lesions that touch a true voxel; None without any."""
        return _share(self.right_lesions, self.predicted_lesions)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of both; 0 if only one mask has lesions, None if none has."""
        if not sum(self.true_lesions) and not self.predicted_lesions:
            return None
        recall, precision = self.recall or 0.0, self.precision or 0.0
        return 2 * recall * precision / (recall + precision) if recall + precision else 0.0

    @property
    def recall_by_size(self) -> tuple[float | None, ...]:
        """Recall of small, medium and large lesions, (3,)."""
        return tuple(_share(found, there) for found, there in zip(self.found_lesions, self.true_lesions, strict=True))


def score_scan(predicted: Flags, truth: Flags, voxel_ml: float) -> ScanScores:
    """Scores of one scan, both masks (x, y, z) on one grid with voxels of `voxel_ml`.

    A lesion touches the other mask where they share a voxel, whatever the size of the part there; parts below 3 mm3 are volume and
    no lesions. `ContractError` if the masks differ in shape.
    """
    if predicted.shape != truth.shape or predicted.ndim != 3 or voxel_ml <= 0:
        raise ContractError(
            f"masks of shapes {predicted.shape} and {truth.shape} with voxels of {voxel_ml} mL: one grid (x, y, z), above 0 mL"
        )
    predicted, truth = predicted.astype(np.bool_), truth.astype(np.bool_)
    sizes, found = _lesions(truth, predicted, voxel_ml)
    guessed, right = _lesions(predicted, truth, voxel_ml)
    size = np.searchsorted(SIZES_ML, sizes / ROUNDING, side="right")
    counts = [np.bincount(of, minlength=len(SIZES_ML) + 1).tolist() for of in (size, size[found])]
    voxels = [int(np.count_nonzero(each)) for each in (truth, predicted, truth & predicted)]
    return ScanScores(
        dice=2 * voxels[2] / (voxels[0] + voxels[1]) if voxels[0] + voxels[1] else 1.0,
        true_ml=voxels[0] * voxel_ml,
        predicted_ml=voxels[1] * voxel_ml,
        both_ml=voxels[2] * voxel_ml,
        true_lesions=tuple(counts[0]),
        found_lesions=tuple(counts[1]),
        predicted_lesions=len(guessed),
        right_lesions=int(right.sum()),
    )


def _lesions(marked: Flags, other: Flags, voxel_ml: float) -> tuple[Floats, Flags]:
    """Volume in mL of each lesion in `marked`, (n,), and whether it touches `other`, (n,)."""
    labels, count = ndimage.label(marked, structure=NEIGHBOURS)
    sizes = np.bincount(labels[marked], minlength=count + 1)[1:] * voxel_ml
    touched = np.bincount(labels[marked & other], minlength=count + 1)[1:] > 0
    counted = sizes * 1000 >= LEAST_MM3 * ROUNDING
    return np.asarray(sizes[counted], np.float64), touched[counted]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass(frozen=True)
class Threshold:
    """Voxels of at least `value` are lesion; infinite where no voxel should be."""

    value: float
    mean_dice: float


def best_threshold(scans: Sequence[tuple[NDArray[np.floating[Any]], Flags]]) -> Threshold:
    """The one threshold on FLAIR with the best mean Dice over `scans`, each its values and its true mask, (x, y, z) both.

    It is chosen on these very scans, so no threshold that is learnt elsewhere does better on them: what a network must beat. Exact:
    between two values of true lesion voxels Dice can only rise with the threshold. `scans` is gone through twice, one at a time.
    """
    if not len(scans):
        raise ContractError("no scan to choose a threshold on: give at least one")
    found = np.unique(np.concatenate([np.unique(values[truth]) for values, truth in scans]).astype(np.float64))
    levels = np.append(found, np.inf)
    mean = np.mean([dice_by_threshold(values, truth, levels) for values, truth in scans], axis=0)
    best = int(mean.argmax())
    return Threshold(float(levels[best]), float(mean[best]))


def dice_by_threshold(values: NDArray[np.floating[Any]], truth: Flags, levels: Floats) -> Floats:
    """Dice of the voxels of at least each of `levels` (n,), ascending, against `truth`, (n,)."""
    marked, right = (_at_least(each, levels) for each in (values.ravel(), values[truth]))
    both = marked + np.count_nonzero(truth)
    return np.where(both > 0, 2 * right / np.maximum(both, 1), 1.0)


def _at_least(values: NDArray[np.floating[Any]], levels: Floats) -> NDArray[np.int64]:
    """How many of `values` are at least each of `levels`, (n,)."""
    places = np.searchsorted(levels, values, side="right")  # so many levels are not above a value
    counts = np.bincount(places, minlength=len(levels) + 1)
    return np.asarray(counts[::-1].cumsum()[::-1][1:], np.int64)


@dataclass(frozen=True)
class Agreement:
    """Predicted minus true volume over scans: mean, and the limits between which 95 % of differences lie if they are normal."""

    bias_ml: float
    low_ml: float
    high_ml: float


def bland_altman(predicted_ml: Sequence[float] | Floats, true_ml: Sequence[float] | Floats) -> Agreement:
    """Bias and limits of agreement (Bland and Altman 1986, Lancet 327:307-310) of n >= 2 scans' volumes, (n,) each."""
    predicted, true = _ratings((predicted_ml, true_ml)).T
    bias, spread = float(np.mean(predicted - true)), float(np.std(predicted - true, ddof=1))
    return Agreement(bias, bias - LIMITS_SD * spread, bias + LIMITS_SD * spread)


def icc(*ratings: Sequence[float] | Floats) -> float | None:
    """ICC(2,1), absolute agreement of single ratings by two or more raters, each (n,) over the same n >= 2 scans; at most 1.

    Two-way random effects, Shrout and Fleiss 1979 (Psychol Bull 86:420-428). None where there is no spread to agree on.
    """
    table = _ratings(ratings)
    n, raters = table.shape
    by_scan, by_rater, overall = table.mean(axis=1), table.mean(axis=0), float(table.mean())
    between = raters * float(((by_scan - overall) ** 2).sum()) / (n - 1)
    shifts = n * float(((by_rater - overall) ** 2).sum()) / (raters - 1)
    rest = float(((table - by_scan[:, None] - by_rater + overall) ** 2).sum()) / ((n - 1) * (raters - 1))
    spread = between + (raters - 1) * rest + raters * (shifts - rest) / n
    return (between - rest) / spread if spread > EQUAL * float((table**2).max()) else None


def _ratings(columns: Sequence[Sequence[float] | Floats]) -> Floats:
    """(n, raters). `ContractError` unless there are two raters or more, and as many numbers of each, at least two."""
    found = [np.asarray(each, np.float64) for each in columns]
    if len(found) < 2 or found[0].ndim != 1 or len(found[0]) < 2 or any(each.shape != found[0].shape for each in found):
        raise ContractError(f"ratings of shapes {[each.shape for each in found]}: two or more, each (n,) of the same n >= 2 scans")
    return np.stack(found, axis=1)
