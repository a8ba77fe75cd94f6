"""Volumes of the brain from a segmentation that another program made.

Nothing is segmented here. A label image counts only if its name or folder says that its numbers are FreeSurfer's, and only in the
session's own space: in a template's space every brain has about the template's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tasks.imaging.bids import BidsName, parse_name
from tasks.imaging.errors import ImageError
from tasks.imaging.header import read_header
from tasks.imaging.layout import Layout
from tasks.imaging.resample import grid_of
from tasks.imaging.store import INDIVIDUAL, Scan
from tasks.imaging.volume import read_image, read_mask

# Numbers of FreeSurferColorLUT.txt (FreeSurfer; FastSurfer, SAMSEG and SynthSeg use the same).
THALAMUS: Final = (10, 49)
LATERAL_VENTRICLES: Final = (4, 43)  # without the inferior horns, 5 and 44, as FreeSurfer's own tables have it
# Grey and white matter, brain stem, lesions (77 to 79), corpus callosum, cortex by parts; no fluid, plexus or vessel.
BRAIN: Final = frozenset({
    2, 41, 3, 42, 7, 46, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 16, 17, 53, 18, 54, 26, 58, 28, 60,
    77, 78, 79, 251, 252, 253, 254, 255, *range(1000, 1036), *range(2000, 2036),
})  # fmt: skip
NUMBERED: Final = ("aseg", "aparcaseg", "synthseg", "samseg")  # desc- of a label image with these numbers
PROGRAMS: Final = ("freesurfer", "fastsurfer", "synthseg", "samseg")  # folders under derivatives, by how they begin
INTRACRANIAL: Final = ("icv", "intracranial")  # label- or desc- of a mask of all within the skull


@dataclass(frozen=True)
class Brain:
    """Volumes in mL; None where no segmentation says it."""

    brain_ml: float | None = None
    thalamus_ml: float | None = None
    lateral_ventricles_ml: float | None = None
    intracranial_ml: float | None = None

    @property
    def parenchymal_fraction(self) -> float | None:
        """Brain over all within the skull."""
        if self.brain_ml is None or not self.intracranial_ml:
            return None
        return self.brain_ml / self.intracranial_ml


@dataclass(frozen=True)
class Segmentations:
    """Files about one session that other programs wrote."""

    labels: Path | None = None
    intracranial: Path | None = None


def find_segmentations(root: Path) -> dict[tuple[str, str], Segmentations]:
    """By subject and session of a BIDS folder; what is named twice comes from the first in the order of names."""
    layout = Layout(root)
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for tool in layout.folders(root / "derivatives") if layout.within(root / "derivatives") else ():
        for path, name in _anat_files(layout, tool):
            if (kind := _kind(name, tool.name)) is not None:
                found.setdefault(name.key, {}).setdefault(kind, path)
    return {key: Segmentations(files.get("labels"), files.get("intracranial")) for key, files in found.items()}


def _anat_files(layout: Layout, tool: Path) -> Iterator[tuple[Path, BidsName]]:
    for subject in layout.folders(tool, "sub-"):
        for place in (subject, *layout.folders(subject, "ses-")):
            if not layout.within(place / "anat") or not (place / "anat").is_dir():
                continue
            key = (subject.name.removeprefix("sub-"), place.name.removeprefix("ses-") if place != subject else "")
            for path in layout.entries(place / "anat"):
                name = parse_name(path.name)
                if name is not None and name.key == key:
                    yield path, name


def _kind(name: BidsName, tool: str) -> str | None:
    """labels or intracranial; None for what is neither, lies in a template's space, or has numbers that nobody states."""
    if name.get("space") not in INDIVIDUAL:
        return None
    said = {name.get("label").lower(), name.get("desc").lower()}
    if name.suffix == "mask":
        return "intracranial" if said & set(INTRACRANIAL) else None
    if name.suffix != "dseg" or name.get("label"):
        return None
    return "labels" if said & set(NUMBERED) or tool.lower().startswith(PROGRAMS) else None


def brain_of(scan: Scan, found: Segmentations) -> Brain:
    """Volumes of one session, one file in memory at a time. `ImageError` if a file cannot be used."""
    images = [read_header(path) for path in scan.images.values()]
    if any(header.standard_space for header in images):
        raise ImageError("image_space", "the images lie in a template's space, where volumes are not the patient's")
    labels: tuple[float | None, float | None, float | None] = (None, None, None)
    if found.labels is not None:
        labels = _labelled_ml(found.labels)
    inside = None
    if found.intracranial is not None:
        mask = read_mask(found.intracranial)
        inside = float(np.count_nonzero(mask.data)) * grid_of(mask).voxel_ml
    return Brain(*labels, inside)


def _labelled_ml(path: Path) -> tuple[float, float, float]:
    """Volume of brain, thalami and lateral ventricles in a label image."""
    image = read_image(path).volume
    if image.data.min() < 0 or not np.array_equal(image.data, np.rint(image.data)):
        raise ImageError("mask_values", "a label image has whole numbers from 0 up; this one has others")
    numbers, counts = np.unique(image.data.astype(np.int32), return_counts=True)
    voxel_ml = grid_of(image).voxel_ml
    brain, thalamus, ventricles = (
        float(counts[np.isin(numbers, list(wanted))].sum()) * voxel_ml for wanted in (BRAIN, THALAMUS, LATERAL_VENTRICLES)
    )
    return brain, thalamus, ventricles
