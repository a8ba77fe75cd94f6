"""One scan as a network reads it: every sequence on one grid around the head, on one scale, the lesion mask beside it.

The same files and the same recipe give the same bytes. What is missing is said by `present`, what does not fit by an `ImageError`
without a patient's name or value. The steps: axes towards right, anterior and superior; a box around the head in the first sequence
there is; the recipe's spacing; every other sequence and the mask onto that grid; a robust scale for each sequence by itself. Of a
pair of sessions (`pairs.py`) the later one gives the grid, and both must show the head in one place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ContractError
from tasks.imaging.errors import ImageError
from tasks.imaging.geometry import Affine
from tasks.imaging.head import head_box, normalised
from tasks.imaging.layout import EARLIER, MODALITIES
from tasks.imaging.resample import SNAP_VOXELS, Flags, Grid, grid_of, resampled, resampled_mask, respaced
from tasks.imaging.store import Scan
from tasks.imaging.volume import Volume, read_mask, read_volume

VERSION: Final = 2  # of what these modules compute: raise it with any change of a prepared value, and every entry is made anew
SPACING_MM: Final = (0.2, 10.0)  # smallest and largest that a recipe may ask for
LEAST_SHARED: Final = 0.5  # of the head's box that a sequence must cover


@dataclass(frozen=True)
class Recipe:
    """How scans are prepared; what a plan may ask for.

    `spacing_mm` None keeps the spacing of each scan's first sequence. `crop` is "head" or "none". Values are cut at `low` and
    `high` robust standard deviations from the head's median: lesions on FLAIR lie at 2 to 4.
    """

    spacing_mm: tuple[float, float, float] | None = (1.0, 1.0, 1.0)
    modalities: tuple[str, ...] = ("FLAIR", "T1w")
    crop: str = "head"
    margin_mm: float = 8.0
    low: float = -5.0
    high: float = 10.0
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.spacing_mm is not None and (
            len(self.spacing_mm) != 3 or not all(SPACING_MM[0] <= side <= SPACING_MM[1] for side in self.spacing_mm)
        ):
            raise ContractError(
                f"spacing {self.spacing_mm} mm: three, each from {SPACING_MM[0]} to {SPACING_MM[1]}, or none for the scan's own"
            )
        wanted = set(self.modalities)
        if not wanted or len(wanted) < len(self.modalities) or not wanted <= {*MODALITIES, *EARLIER}:
            raise ContractError(f"modalities {list(self.modalities)}: one or more of {[*MODALITIES, *EARLIER]}, each once")
        if self.crop not in {"head", "none"} or not 0 <= self.margin_mm <= 100:
            raise ContractError(f"crop {self.crop!r} with {self.margin_mm} mm: head or none, with 0 to 100 mm")
        if not -20 <= self.low < 0 < self.high <= 100:
            raise ContractError(f"values are cut at {self.low} and {self.high}: from -20 below 0 to 100 above it")
        if self.version != VERSION:
            raise ContractError(
                f"recipe version {self.version}: this installation has {VERSION}; install the one that the plan names"
            )

    @property
    def text(self) -> str:
        """Canonical JSON of all fields; a number is the same written as 1 and as 1.0."""
        spacing = None if self.spacing_mm is None else [float(side) for side in self.spacing_mm]
        numbers = {name: float(getattr(self, name)) + 0.0 for name in ("margin_mm", "low", "high")}  # + 0.0: no negative zero
        return json.dumps({**asdict(self), **numbers, "spacing_mm": spacing}, sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe, hexadecimal: equal recipes have equal ones."""
        return hashlib.sha256(b"wardround/image-recipe/v1\0" + self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Prepared:
    """A scan on one grid. An absent sequence is a channel of zeros; `mask` is None where no reader drew one."""

    channels: NDArray[np.float16]  # (C, x, y, z), C = len(recipe.modalities)
    present: NDArray[np.bool_]  # (C,)
    mask: Flags | None  # (x, y, z)
    affine: Affine  # (4, 4), index -> mm
    mask_ml: float | None  # of the mask as drawn, on its own grid
    mask_ml_outside: float  # of it, what the box around the head leaves out

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return Grid(_shape(self.channels), self.affine).spacing_mm


def prepare(scan: Scan, recipe: Recipe) -> Prepared:
    """`scan` as the recipe asks. One image is in memory at a time, besides the result. `ImageError` if it cannot be used."""
    paths = {name: scan.images[name] for name in recipe.modalities if name in scan.images}
    if not paths:
        raise ImageError("no_modality", f"none of {', '.join(recipe.modalities)} in this session: choose other modalities")
    if scan.before is not None:
        _refuse_two_places(paths)
    first = next(iter(paths))
    reference = read_volume(paths[first]).canonical()
    grid = target_grid(reference, recipe)
    channels = np.zeros((len(recipe.modalities), *grid.shape), np.float16)
    for number, name in enumerate(recipe.modalities):
        if name in paths:
            channels[number] = _channel(reference if name == first else read_volume(paths[name]).canonical(), grid, recipe)
        if name == first:
            del reference
    present = np.asarray([name in paths for name in recipe.modalities])
    mask, drawn_ml, outside_ml = _mask(scan, grid)
    return Prepared(channels, present, mask, grid.affine, drawn_ml, outside_ml)


def target_grid(reference: Volume, recipe: Recipe) -> Grid:
    """The grid of a scan's prepared images: the reference's axes, its box around the head, the recipe's spacing."""
    grid = grid_of(reference)
    if recipe.crop == "head":
        grid = grid.cropped(*head_box(reference, margin_mm=recipe.margin_mm))
    return grid if recipe.spacing_mm is None else respaced(grid, recipe.spacing_mm)


def source_digests(scan: Scan, recipe: Recipe) -> Mapping[str, str]:
    """SHA-256 of the bytes of every file that `prepare` would read, by what it is: a modality, "mask" or "old_mask"; with the
    latter the version of the measures, which say what is new."""
    files: dict[str, Path] = {name: scan.images[name] for name in recipe.modalities if name in scan.images}
    if scan.mask is not None:
        files["mask"] = scan.mask
    if scan.mask is None or scan.old_mask is None:
        return {name: _digest(path) for name, path in files.items()}
    from tasks.imaging.measures import VERSION as MEASURES  # here: scipy is for those who compare

    files["old_mask"] = scan.old_mask
    return {name: _digest(path) for name, path in files.items()} | {"measures": MEASURES}


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError("unreadable", f"the file cannot be read ({error.strerror}): check its rights and the disk") from error


def _channel(volume: Volume, grid: Grid, recipe: Recipe) -> NDArray[np.float16]:
    values, inside = resampled(volume, grid)
    if inside.mean() < LEAST_SHARED:
        raise ImageError(
            "image_space",
            f"a sequence covers {100 * inside.mean():.0f} % of the head in another one, at least {100 * LEAST_SHARED:.0f} %:"
            " they do not lie in one space; register them first",
        )
    return normalised(values, inside, low=recipe.low, high=recipe.high).astype(np.float16)


def read_truth(scan: Scan) -> Volume | None:
    """What a network is to find in `scan`, as 0 and 1 on the mask's grid; of a pair with two masks, the lesions that are new."""
    if scan.mask is None:
        return None
    drawn = read_mask(scan.mask)
    if scan.old_mask is not None:
        from tasks.imaging.measures import new_between  # here: scipy is for those who compare

        drawn = new_between(read_mask(scan.old_mask), drawn)
    return drawn.canonical()


def _refuse_two_places(paths: Mapping[str, Path]) -> None:
    """`ImageError` unless the first sequence that both sessions have shows one head in one place: a movement would pass for a
    change."""
    from tasks.imaging.measures_alignment import apart, sight_of

    both = next((pair for pair in zip(MODALITIES, EARLIER, strict=True) if set(pair) <= paths.keys()), None)
    if both is None:
        raise ImageError("no_modality", "two sessions without a sequence in common that the plan asks for: nothing can be compared")
    now, earlier = (sight_of(read_volume(paths[name])) for name in both)
    if not (found := apart(earlier, now)).together:
        raise ImageError("not_registered", f"two sessions do not show the head in one place ({found.words}): register them first")


def _mask(scan: Scan, grid: Grid) -> tuple[Flags | None, float | None, float]:
    drawn = read_truth(scan)
    if drawn is None:
        return None, None, 0.0
    drawn_ml = float(np.count_nonzero(drawn.data > 0.5)) * grid_of(drawn).voxel_ml
    return resampled_mask(drawn, grid), drawn_ml, _outside_ml(drawn, grid)


def _outside_ml(mask: Volume, grid: Grid) -> float:
    """Volume of the mask's voxels whose centres lie beyond `grid`, by position: what resampling rounds is not counted."""
    between = np.linalg.solve(grid.affine, mask.affine)  # index of the mask -> index of the grid
    ends = np.asarray(grid.shape) - 0.5
    count = 0
    for x, plane in enumerate(mask.data):  # plane by plane: places of all voxels of a full mask would be gigabytes
        at = np.argwhere(plane > 0.5) @ between[:3, 1:3].T + (between[:3, 0] * x + between[:3, 3])
        count += int(np.count_nonzero(((at < -0.5 - SNAP_VOXELS) | (at > ends + SNAP_VOXELS)).any(axis=1)))
    return count * grid_of(mask).voxel_ml


def _shape(channels: NDArray[Any]) -> tuple[int, int, int]:
    x, y, z = channels.shape[1:]
    return x, y, z
