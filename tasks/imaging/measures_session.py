"""Every session of a store measured, one image in memory at a time, each with what could not be measured and why.

Of the session before, its lesion mask is kept; its image is read again where two sessions are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tasks.imaging.errors import ImageError
from tasks.imaging.layout import MODALITIES
from tasks.imaging.measures import Change, Lesions, change_between, lesions_of
from tasks.imaging.measures_alignment import Apart, Sight, apart, sight_of
from tasks.imaging.measures_brain import Brain, Segmentations, brain_of, find_segmentations
from tasks.imaging.store import Scan, Store
from tasks.imaging.volume import Volume, read_mask, read_volume
from tasks.imaging.yearly_loss import LEAST_INTERVAL_D, change_pct_y

REASONS: Final[Mapping[str, str]] = {
    "no_mask": "no lesion mask",
    "mask_unusable": "the lesion mask cannot be used: see data validate",
    "no_day": "no day: the session has no place in the table, and no interval",
    "image_unusable": "an image that is needed to compare sessions cannot be used",
    "no_common_image": "two sessions without a sequence in common: nothing shows whether they are registered",
    "not_registered": "two sessions that do not lie in one space: register them first",
    "no_segmentation": "no segmentation whose numbers are stated",
    "segmentation_unusable": "a segmentation cannot be used, or lies in a template's space",
    "interval_short": f"brain volumes less than {LEAST_INTERVAL_D} days apart",
    "scanner_changed": "brain volumes of two scanners: take the scanner out of the volumes first",
}


@dataclass(frozen=True)
class Measured:
    """What one session gives."""

    scan: Scan
    lesions: Lesions | None = None
    change: Change | None = None  # since the session before that has a mask
    interval_d: int | None = None  # since that session, if they were compared
    apart: Apart | None = None
    brain: Brain = field(default_factory=Brain)
    brain_change_pct_y: float | None = None
    reasons: frozenset[str] = frozenset()  # keys of REASONS


@dataclass(frozen=True)
class _Before:
    """What is kept of an earlier session."""

    scan: Scan
    mask: Volume = field(repr=False)


def measure_store(store: Store, *, compare: bool = True) -> Iterator[Measured]:
    """Each scan of `store`, in its order: by patient, then day."""
    segmentations = find_segmentations(store.folder)
    before: _Before | None = None
    brains: list[tuple[Scan, float]] = []
    for scan in store.scans:
        if before is not None and before.scan.patient != scan.patient:
            before = None
        if brains and brains[-1][0].patient != scan.patient:
            brains = []
        found, mask = _lesions(scan)
        if compare and mask is not None and before is not None:
            found = _compared(found, before, mask)
        found = _brain(found, segmentations.get((scan.subject, scan.session)), brains)
        if scan.day is None:
            found = _noted(found, "no_day")
        if found.brain.brain_ml is not None and scan.day is not None:
            brains.append((scan, found.brain.brain_ml))
        if mask is not None and scan.day is not None:
            before = _Before(scan, mask)
        yield found


def _noted(found: Measured, reason: str) -> Measured:
    return replace(found, reasons=found.reasons | {reason})


def _lesions(scan: Scan) -> tuple[Measured, Volume | None]:
    found = Measured(scan)
    if scan.mask is None:
        return _noted(found, "no_mask"), None
    try:
        mask = read_mask(scan.mask)
    except ImageError:
        return _noted(found, "mask_unusable"), None
    return replace(found, lesions=lesions_of(mask)), mask


def _compared(found: Measured, before: _Before, mask: Volume) -> Measured:
    """With what became of the lesions, if both sessions lie in one space."""
    scan = found.scan
    if scan.day is None or before.scan.day is None or scan.day <= before.scan.day:
        return found
    shared = [name for name in MODALITIES if name in scan.images and name in before.scan.images]
    if not shared:
        return _noted(found, "no_common_image")
    try:
        seen = apart(*(_sight(each.images[shared[0]]) for each in (before.scan, scan)))
    except ImageError:
        return _noted(found, "image_unusable")
    if not seen.together:
        return replace(_noted(found, "not_registered"), apart=seen)
    return replace(found, change=change_between(before.mask, mask), interval_d=scan.day - before.scan.day, apart=seen)


def _sight(path: Path) -> Sight:
    return sight_of(read_volume(path))


def _brain(found: Measured, files: Segmentations | None, earlier: list[tuple[Scan, float]]) -> Measured:
    if files is None:
        return _noted(found, "no_segmentation")
    try:
        brain = brain_of(found.scan, files)
    except ImageError:
        return _noted(found, "segmentation_unusable")
    found = replace(found, brain=brain)
    day = found.scan.day
    if brain.brain_ml is None or day is None or not earlier:
        return found
    far = [(scan, ml) for scan, ml in earlier if scan.day is not None and day - scan.day >= LEAST_INTERVAL_D]
    if not far:
        return _noted(found, "interval_short")
    first, first_ml = far[-1]
    if first.scanner and found.scan.scanner and first.scanner != found.scan.scanner:
        return _noted(found, "scanner_changed")
    return replace(found, brain_change_pct_y=change_pct_y(first_ml, brain.brain_ml, day - (first.day or 0)))


@dataclass(frozen=True)
class ChangeMask:
    """A mask of what differs between two sessions of a patient: new lesions, or new, grown and shrunk ones together."""

    patient: str
    session: str  # the later one; "" where the file names none
    lesions: Lesions


def change_masks(store: Store) -> Iterator[ChangeMask | None]:
    """Each of `Store.changes`, None for one that cannot be used. No least size: what is marked was looked at."""
    for (patient, session), path in store.changes.items():
        try:
            yield ChangeMask(patient, session, lesions_of(read_mask(path), least_mm3=0))
        except ImageError:
            yield None
