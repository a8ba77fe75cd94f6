"""Invented hospitals on which anybody may see what a model does: heads with a known truth, scanners of their own, nobody's data.

Everything follows from public constants. All hospitals have patients of the same lesion loads, so that what differs between them
is the scanner. They show that the machinery works and how a model fares on other scanners; nothing about a patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from tasks.imaging.phantoms import PhantomSite, write_site
from tasks.imaging.phantoms_people import stream
from tasks.imaging.phantoms_scanner import SCANNERS, Scanner
from tasks.imaging.store import Scan, open_store

VERSION: Final = 1  # of what these hospitals are: raise it with any change of a phantom
SEED: Final = 2026
BASES: Final = (0, 1, 2, 3)  # of `SCANNERS`: 3 T and 1.5 T, whole heads and brains alone, even voxels and thick slices
OWN_MM: Final = 4.0  # edge of those scanners' voxels, about
FINEST_MM: Final = 2.0  # edge below which no head is drawn: at 1 mm one takes 20 s; plans with finer grids get it resampled
LOADS_ML: Final = ((2.0, (1.0, 3.5, 8.0, 20.0)), (1.0, (3.0, 14.0)), (0.0, (6.0,)))
"""From which spacing on in mm, and lesion volumes of a hospital's patients: fewer where a whole head takes a network long."""


@dataclass(frozen=True)
class Hospital:
    """One invented hospital; a plain value until its patients are asked for."""

    name: str
    scanner: Scanner
    loads_ml: tuple[float, ...]  # of lesions at the first day, patient by patient
    days: tuple[int, ...]  # of every patient's sessions
    version: int = VERSION

    @property
    def about(self) -> str:
        """Its scanner, as people read it."""
        scanner = self.scanner
        sides = " x ".join(f"{side:.1f}" for side in scanner.spacing_mm)
        face = "brain cut out" if scanner.brain_only else "face removed" if scanner.defaced else "whole head"
        return f"{scanner.maker} {scanner.tesla:g} T, {sides} mm, {face}"

    def patients(self, folder: Path) -> Iterator[tuple[Scan, ...]]:
        """The sessions of each patient, written below `folder` when it is his turn."""
        site = PhantomSite(self.name, (self.scanner,))
        for number, load in enumerate(self.loads_ml, start=1):
            patient, own = f"X{number:03d}", folder / f"{number:03d}"
            write_site(own, site, {patient: self.days}, seed=SEED, volumes_ml={patient: load})
            yield open_store(own / self.name).scans


def hospitals(spacing_mm: float, modalities: Sequence[str], *, days: tuple[int, ...] = (0,)) -> tuple[Hospital, ...]:
    """Four of them, with scanners for a plan's grid (`spacing_mm` 0: their own voxels) and sequences."""
    loads = next(loads for least, loads in LOADS_ML if (spacing_mm or OWN_MM) >= least)
    return tuple(
        Hospital(f"hospital-{number}", _scanner(number, SCANNERS[base], spacing_mm, modalities), loads, days)
        for number, base in enumerate(BASES, start=1)
    )


def _scanner(number: int, base: Scanner, spacing_mm: float, modalities: Sequence[str]) -> Scanner:
    """Unlike its base in gain, noise, bias field and contrast of lesions."""
    rng = stream(SEED, f"hospital-{number}", "invented scanner")
    finer = min(max(spacing_mm or OWN_MM, FINEST_MM) / OWN_MM, 1.0)
    x, y, z = (round(n / finer) for n in base.shape)
    right, front, up = (side * finer for side in base.spacing_mm)
    return replace(
        base,
        model=f"Trial {number}",
        shape=(x, y, z),
        spacing_mm=(right, front, up),
        modalities=tuple(modalities),
        gain=float(np.exp(rng.normal(5, 0.8))),
        noise=float(rng.uniform(0.02, 0.045)),
        bias=float(rng.uniform(0.05, 0.3)),
        contrast=float(rng.uniform(0.85, 1.15)),
    )
