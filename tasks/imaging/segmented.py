"""One scan through a finished segmenter: the mask on the grid of the scan's own first image, and what it amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tasks.base import Options
from tasks.imaging.errors import ImageError
from tasks.imaging.outlines import SLICES, pictures
from tasks.imaging.prepare import prepare, read_truth
from tasks.imaging.resample import Flags, Grid, grid_of, resampled_mask
from tasks.imaging.results import Segmented
from tasks.imaging.segmentation_scores import score_scan
from tasks.imaging.task import Apply, ImageTask
from tasks.imaging.volume import Volume, read_volume

if TYPE_CHECKING:
    from tasks.imaging.store import Scan


def segmented(
    task: ImageTask,
    apply: Apply,
    scan: Scan,
    options: Options,
    columns: Sequence[str],
    *,
    shown: bool = False,
    slices: int = SLICES,
) -> tuple[Segmented, Volume]:
    """The scan, prepared by the plan's recipe as in training, and the mask as 0 and 1 on the voxels of its first image, whose axes
    stay as the file has them. `shown`: make pictures, of `slices` slices. `ImageError` if the images cannot be used; a drawn mask
    need not be."""
    task, recipe = task.for_plan(options), task.recipe(options, columns)
    prepared = prepare(replace(scan, mask=None), recipe)
    chances = task.chances(prepared.channels.astype(np.float32), prepared.present, apply)
    stored = read_volume(next(scan.images[name] for name in recipe.modalities if name in scan.images))
    image = stored.canonical()
    grid = grid_of(image)
    found, drawn = resampled_mask(Volume((chances > 0.5).astype(np.float32), prepared.affine), grid), _drawn(scan, grid)
    scores = score_scan(found, np.zeros(grid.shape, np.bool_) if drawn is None else drawn, grid.voxel_ml)
    made = pictures(image.data, found, drawn, grid.spacing_mm, slices=slices) if shown else ()
    figures = Segmented(scores, drawn is not None, made)
    return figures, stored.turned_back(found.astype(np.float32))


def _drawn(scan: Scan, grid: Grid) -> Flags | None:
    try:
        truth = read_truth(scan)
        return None if truth is None else resampled_mask(truth, grid)
    except ImageError:  # `data validate` says what is wrong with it
        return None
