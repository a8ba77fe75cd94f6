"""Where the head is in an image, and its values on a scale that no scanner's gain or offset moves.

Works alike on whole heads in air, on defaced ones and on brains cut out of their skull: only the darkest of two classes of values
is taken for background (Otsu 1979, IEEE Trans Syst Man Cybern 9:62-66), and only the largest connected part of the rest counts.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.imaging.errors import ImageError
from tasks.imaging.resample import Flags, Floats, Grid, grid_of, resampled, respaced
from tasks.imaging.volume import Volume

COARSE_MM: Final = 4.0  # the head's box is found at this spacing
BINS: Final = 256
BRIGHTEST: Final = 98.0  # percentile above which fat and vessels would draw Otsu's threshold up
LEAST_HEAD_ML: Final = 50.0  # a tenth of the smallest brain: less is a noise volume or another organ
MAD_TO_SD: Final = 1.4826  # of a normal distribution
MANY_VOXELS: Final = 1 << 21  # of more, every other one along each axis is enough for a median


def otsu_threshold(values: NDArray[np.float32]) -> float:
    """Otsu's threshold between the dark and the bright class of `values`, clipped to the range up to their 98th percentile.

    Scaling and shifting the values scales and shifts it. `ImageError` if all values are equal.
    """
    low, high = float(values.min()), float(np.percentile(values, BRIGHTEST))
    if not high > low:
        raise ImageError("flat", "all voxels but the brightest 2 % have one value: not an image of a head; send another file")
    counts, edges = np.histogram(values, bins=BINS, range=(low, high))
    counts[-1] += np.count_nonzero(values > high)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = values.size - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    best = np.flatnonzero(between >= np.nanmax(between) * (1 - 1e-9))
    return float(edges[1:-1][best].mean())  # the middle, where no value lies between the classes


def head_box(volume: Volume, *, margin_mm: float) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """First voxel of each axis, and the one after the last, of the box around the head with `margin_mm` on all sides.

    `ImageError` if less than 50 mL are bright.
    """
    from scipy import ndimage

    own = grid_of(volume)
    sides = [max(COARSE_MM, side) for side in own.spacing_mm]
    coarse = respaced(own, (sides[0], sides[1], sides[2]))
    values, _ = resampled(volume, coarse)
    labels, count = ndimage.label(values > otsu_threshold(values))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    if not count or sizes.max() * coarse.voxel_ml < LEAST_HEAD_ML:
        raise ImageError("no_head", f"no bright part of {LEAST_HEAD_ML:.0f} mL: not a head; check the file's units and content")
    (found,) = ndimage.find_objects((labels == int(sizes.argmax()) + 1).astype(np.int8))
    return _widened(found, coarse, own, margin_mm)


def _widened(
    found: tuple[slice, slice, slice], coarse: Grid, own: Grid, margin_mm: float
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The slices of the coarse grid as first voxels and ones after the last of the own grid, with the margin.

    A coarse voxel that the head fills by less than half is not bright: half of one is added.
    """
    begin, end = [], []
    for part, wide, side, n in zip(found, coarse.spacing_mm, own.spacing_mm, own.shape, strict=True):
        begin.append(max(0, int(np.floor(((part.start - 0.5) * wide - margin_mm) / side))))
        end.append(min(n, int(np.ceil(((part.stop + 0.5) * wide + margin_mm) / side))))
    return (begin[0], begin[1], begin[2]), (end[0], end[1], end[2])


def normalised(values: Floats, inside: Flags, *, low: float, high: float) -> Floats:
    """(x - median) / (1.4826 MAD) over the bright class inside the image, cut at `low` and `high`; outside the image `low`.

    a x + b with a > 0 gives the same result as x, but for rounding. `ImageError` for an image without contrast.
    """
    step = 2 if values.size > MANY_VOXELS else 1
    seen = values[::step, ::step, ::step][inside[::step, ::step, ::step]]
    bright = seen[seen > otsu_threshold(seen)]
    middle = float(np.median(bright))
    spread = MAD_TO_SD * float(np.median(np.abs(bright - np.float32(middle))))
    if not spread > 0:
        raise ImageError("flat", "more than half of the head has one value: not an image of tissue; send another file")
    found = (values - np.float32(middle)) / np.float32(spread)
    np.clip(found, low, high, out=found)
    found[~inside] = low
    return found
