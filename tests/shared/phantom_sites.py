"""Small phantom hospitals for tests of tasks on images: real BIDS folders, voxels of 5.6 mm."""

from dataclasses import replace
from pathlib import Path

from tasks.imaging.phantoms import PhantomSite, write_site
from tasks.imaging.phantoms_lesions import NEW_PER_YEAR
from tasks.imaging.phantoms_scanner import SCANNERS

SMALL = replace(SCANNERS[2], shape=(32, 38, 28), spacing_mm=(5.6, 5.6, 5.6))


def write_hospital(
    folder: Path, name: str, patients: int, *, seed: int = 6, second_every: int = 3, new_per_year: float = NEW_PER_YEAR
) -> Path:
    """`folder/name` with so many patients P001, P002, ...; every third one has two sessions."""
    days = {f"P{at:03d}": (0, 400) if at % second_every == 0 else (0,) for at in range(1, patients + 1)}
    write_site(folder, PhantomSite(name, (SMALL,), new_per_year=new_per_year), days, seed=seed)
    return folder / name
