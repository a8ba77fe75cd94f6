"""One scan through a finished segmenter: the mask on the grid of the scan's own first image, and what it amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tasks.base import Options
from tasks.imaging.prepare import prepare
from tasks.imaging.resample import Grid, grid_of, resampled_mask
from tasks.imaging.segmentation_scores import score_scan
from tasks.imaging.segmented_page import pictures
from tasks.imaging.task import ImageTask
from tasks.imaging.volume import Volume, read_mask, read_volume

if TYPE_CHECKING:
    from torch import nn

    from tasks.imaging.store import Scan


@dataclass(frozen=True)
class Segmented:
    """`mask` is 0 and 1, axes towards right, anterior and superior. `dice` and `drawn_ml` where somebody has drawn a mask."""

    mask: Volume = field(repr=False)
    lesion_ml: float
    lesions: int  # of at least 3 mm3
    dice: float | None
    drawn_ml: float | None
    pictures: tuple[tuple[str, bytes], ...] = field(repr=False)  # PNG files of slices with outlines, and what each shows


def segmented(task: ImageTask, model: nn.Module, scan: Scan, options: Options, columns: Sequence[str]) -> Segmented:
    """Prepared by the plan's recipe as in training. `ImageError` if the scan cannot be used."""
    recipe = task.recipe(options, columns)
    prepared = prepare(scan, recipe)
    chances = task.chances(prepared.channels.astype(np.float32), prepared.present, model)
    reference = next(scan.images[name] for name in recipe.modalities if name in scan.images)
    image = read_volume(reference).canonical()
    grid = grid_of(image)
    found = resampled_mask(Volume((chances > 0.5).astype(np.float32), prepared.affine), grid)
    drawn = None if scan.mask is None else resampled_mask(read_mask(scan.mask).canonical(), grid)
    scores = score_scan(found, np.zeros(grid.shape, np.bool_) if drawn is None else drawn, grid.voxel_ml)
    return Segmented(
        _as_volume(found, grid),
        scores.predicted_ml,
        scores.predicted_lesions,
        None if drawn is None else scores.dice,
        None if drawn is None else scores.true_ml,
        pictures(image.data, found, drawn, grid.spacing_mm),
    )


def _as_volume(mask: np.ndarray, grid: Grid) -> Volume:
    return Volume(mask.astype(np.float32), grid.affine)
