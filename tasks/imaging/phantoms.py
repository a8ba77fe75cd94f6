"""Invented MRI with a known truth: small BIDS folders of hospitals whose scanners differ, for tests, the demo and measurements.

`write_phantoms` writes folders that `open_store` reads, and the truth beside them. The same seed gives the same files; a patient
depends on seed, site and own id alone, so that another site or patient changes none. Nothing here is a patient's, and nothing
learnt from it says anything about one.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from tasks.errors import ContractError
from tasks.imaging.phantoms_lesions import NEW_PER_YEAR, YEAR_D, draw_volume_ml
from tasks.imaging.phantoms_people import make_patient, stream
from tasks.imaging.phantoms_scanner import SCANNERS, PhantomScan, Scanner, scan_patient
from tasks.imaging.volume import write_volume

GAP_D: Final = (150, 600)  # between two sessions
CONTRAST_SHARE: Final = 0.5  # of sessions with a T1w after contrast, where the scanner does it
TRUTH_COLUMNS: Final = (
    "patient_id",
    "session",
    "day",
    "scanner",
    "lesion_ml",
    "lesions",
    "new_lesions",
    "brain_ml",
    "thalamus_ml",
    "ventricles_ml",
)


@dataclass(frozen=True)
class PhantomSite:
    """A hospital: its scanners, and how often a patient comes."""

    name: str
    scanners: tuple[Scanner, ...]
    sessions: tuple[float, ...] = (0.5, 0.3, 0.2)  # share of patients with 1, 2, 3 sessions
    volume_factor: float = 1.0  # of lesions: case mix
    new_per_year: float = NEW_PER_YEAR  # lesions, on average over patients


SITES: Final = (
    PhantomSite("aalborg", (SCANNERS[0], SCANNERS[1])),
    PhantomSite("brno", (SCANNERS[2],), volume_factor=1.3),
    PhantomSite("coimbra", (SCANNERS[3], SCANNERS[4]), volume_factor=0.8),
)
"""Three hospitals with five scanners: whole heads, defaced ones, brains cut out; isotropic and thick slices; one tilted."""


def invented_sites(n: int, seed: int) -> tuple[PhantomSite, ...]:
    """`n` hospitals named site-01, ..., each with one or two scanners that differ from all others."""
    if n < 1:
        raise ContractError(f"{n} sites: at least 1")
    return tuple(_invented_site(f"site-{number + 1:02d}", seed) for number in range(n))


def _invented_site(name: str, seed: int) -> PhantomSite:
    rng = stream(seed, name, "phantom site")
    scanners = tuple(
        replace(
            SCANNERS[int(rng.integers(len(SCANNERS)))],
            model=f"Model {name[-2:]}{letter}",
            gain=float(np.exp(rng.normal(5, 0.8))),
            noise=float(rng.uniform(0.02, 0.045)),
            bias=float(rng.uniform(0.05, 0.3)),
            contrast=float(rng.uniform(0.85, 1.15)),
        )
        for letter in "AB"[: int(rng.integers(1, 3))]
    )
    return PhantomSite(name, scanners, volume_factor=float(np.exp(rng.normal(0, 0.25))))


def write_phantoms(folder: Path, *, sites: Sequence[PhantomSite] = SITES, patients: int | Sequence[int] = 8, seed: int = 1) -> None:
    """`folder/SITE` for each site, a BIDS folder, and `folder/truth/SITE.tsv`; `patients` of each site, or one number for all.

    `ContractError` if a folder is there already or the numbers do not fit.
    """
    counts = [patients] * len(sites) if isinstance(patients, int) else list(patients)
    if len(counts) != len(sites) or min(counts, default=0) < 1 or len({site.name for site in sites}) != len(sites):
        raise ContractError(f"{len(sites)} sites and {len(counts)} numbers of patients: one of each, at least 1, names differ")
    for site, count in zip(sites, counts, strict=True):
        ids = [f"{site.name[:2].upper()}{number + 1:03d}" for number in range(count)]
        write_site(folder, site, {patient_id: drawn_days(site, patient_id, seed) for patient_id in ids}, seed=seed)


def drawn_days(site: PhantomSite, patient_id: str, seed: int) -> tuple[int, ...]:
    """Days of a patient's sessions; the first is day 0."""
    rng = stream(seed, site.name, f"phantom days {patient_id}")
    count = 1 + int(rng.choice(len(site.sessions), p=np.asarray(site.sessions) / sum(site.sessions)))
    return (0, *(int(day) for day in np.cumsum(rng.integers(*GAP_D, count - 1))))


def write_site(
    folder: Path, site: PhantomSite, days: Mapping[str, Sequence[int]], *, seed: int, volumes_ml: Mapping[str, float] | None = None
) -> None:
    """One site's BIDS folder and truth, for the patients and days given, such as those of a simulated consortium.

    `volumes_ml` sets lesion volumes at a patient's first day; without it they are drawn.
    """
    root = folder / site.name
    if root.exists():
        raise ContractError(f"{root.name} is there already: choose another folder")
    root.mkdir(parents=True)
    _write_json(
        root / "dataset_description.json",
        {"Name": f"Phantoms of {site.name}, invented", "BIDSVersion": "1.10.0", "DatasetType": "raw"},
    )
    _write_rows(root / "participants.tsv", ("participant_id",), [{"participant_id": f"sub-{each}"} for each in days])
    tool = root / "derivatives" / "lesions"
    tool.mkdir(parents=True)
    about = {"Name": "True lesions", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "phantoms"}]}
    _write_json(tool / "dataset_description.json", about)
    truth = []
    for patient_id, on in days.items():
        truth += _write_patient(root, site, patient_id, on, seed=seed, volume_ml=(volumes_ml or {}).get(patient_id))
    (folder / "truth").mkdir(exist_ok=True)
    _write_rows(folder / "truth" / f"{site.name}.tsv", TRUTH_COLUMNS, truth)


def scans_of(
    site: PhantomSite, patient_id: str, days: Sequence[int], *, seed: int, volume_ml: float | None = None
) -> Iterator[PhantomScan]:
    """The sessions of one invented patient, in memory; days ascend."""
    if not days or list(days) != sorted(set(days)):
        raise ContractError("days of a patient's sessions: at least one, ascending, none twice")
    rng = stream(seed, site.name, f"phantom lesions {patient_id}")
    drawn_ml = draw_volume_ml(rng) * site.volume_factor
    rate = float(rng.gamma(0.5, site.new_per_year / 0.5))
    patient = make_patient(
        patient_id,
        stream(seed, site.name, f"phantom {patient_id}"),
        until_d=days[-1],
        volume_ml=volume_ml or drawn_ml,
        new_per_year=rate,
    )
    scanner = int(rng.integers(len(site.scanners)))
    for number, day in enumerate(days):
        if number and rng.random() < (day - days[number - 1]) / (6 * YEAR_D):  # scanners are replaced every six years or so
            scanner = (scanner + 1) % len(site.scanners)
        machine = site.scanners[scanner]
        if rng.random() >= CONTRAST_SHARE:
            machine = replace(machine, modalities=tuple(each for each in machine.modalities if each != "T1w_ce"))
        noise = stream(seed, site.name, f"phantom scan {patient_id} {day}")
        yield scan_patient(patient, machine, noise, day=day, since=days[number - 1] if number else None)


def _write_patient(
    root: Path, site: PhantomSite, patient_id: str, days: Sequence[int], *, seed: int, volume_ml: float | None
) -> list[dict[str, object]]:
    rows, truth = [], []
    for number, scan in enumerate(scans_of(site, patient_id, days, seed=seed, volume_ml=volume_ml)):
        session = f"{number + 1:02d}"
        _write_session(root, patient_id, session, scan, follows=number > 0)
        rows.append({"session_id": f"ses-{session}", "day": scan.day})
        truth.append({"patient_id": patient_id, "session": session, **scan.truth()})
    _write_rows(root / f"sub-{patient_id}" / f"sub-{patient_id}_sessions.tsv", ("session_id", "day"), rows)
    return truth


def _write_session(root: Path, patient_id: str, session: str, scan: PhantomScan, *, follows: bool) -> None:
    """`follows`: there is a session before, so that something can be new."""
    inner, start = Path(f"sub-{patient_id}") / f"ses-{session}" / "anat", f"sub-{patient_id}_ses-{session}"
    anat, drawn = root / inner, root / "derivatives" / "lesions" / inner
    anat.mkdir(parents=True)
    drawn.mkdir(parents=True)
    for modality, image in scan.images.items():
        name = f"{start}_ce-gad_T1w" if modality == "T1w_ce" else f"{start}_{modality}"
        write_volume(anat / f"{name}.nii.gz", image, np.int16)
        _write_json(anat / f"{name}.json", scan.scanner.sidecar())
    write_volume(drawn / f"{start}_label-lesion_mask.nii.gz", scan.mask, np.uint8)
    if follows:
        write_volume(drawn / f"{start}_label-newlesion_mask.nii.gz", scan.new_mask, np.uint8)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
