"""One scan through a finished segmenter: the mask on the grid of the scan's own first image, and what it amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from tasks.base import Options
from tasks.imaging.errors import ImageError
from tasks.imaging.prepare import prepare, read_truth
from tasks.imaging.resample import Flags, Grid, grid_of, resampled_mask
from tasks.imaging.segmentation_scores import score_scan
from tasks.imaging.segmented_page import pictures
from tasks.imaging.task import ImageTask
from tasks.imaging.volume import Volume, read_volume

if TYPE_CHECKING:
    from torch import nn

    from tasks.imaging.store import Scan


@dataclass(frozen=True)
class Segmented:
    """What was found in one scan. `dice` and `drawn_ml` where somebody has drawn a mask that can be used."""

    lesion_ml: float
    lesions: int  # of at least 3 mm3
    dice: float | None
    drawn_ml: float | None
    pictures: tuple[tuple[str, bytes], ...] = field(repr=False)  # PNG files of slices with outlines, and what each shows


def segmented(
    task: ImageTask, model: nn.Module, scan: Scan, options: Options, columns: Sequence[str], *, shown: bool = False
) -> tuple[Segmented, Volume]:
    """The scan, prepared by the plan's recipe as in training, and the mask as 0 and 1 on the voxels of its first image, whose axes
    stay as the file has them. `shown`: make pictures. `ImageError` if the images cannot be used; a drawn mask need not be."""
    recipe = task.recipe(options, columns)
    prepared = prepare(replace(scan, mask=None), recipe)
    chances = task.chances(prepared.channels.astype(np.float32), prepared.present, model)
    stored = read_volume(next(scan.images[name] for name in recipe.modalities if name in scan.images))
    image = stored.canonical()
    grid = grid_of(image)
    found, drawn = resampled_mask(Volume((chances > 0.5).astype(np.float32), prepared.affine), grid), _drawn(scan, grid)
    scores = score_scan(found, np.zeros(grid.shape, np.bool_) if drawn is None else drawn, grid.voxel_ml)
    figures = Segmented(
        scores.predicted_ml,
        scores.predicted_lesions,
        None if drawn is None else scores.dice,
        None if drawn is None else scores.true_ml,
        pictures(image.data, found, drawn, grid.spacing_mm) if shown else (),
    )
    return figures, stored.turned_back(found.astype(np.float32))


def _drawn(scan: Scan, grid: Grid) -> Flags | None:
    try:
        truth = read_truth(scan)
        return None if truth is None else resampled_mask(truth, grid)
    except ImageError:  # `data validate` says what is wrong with it
        return None
