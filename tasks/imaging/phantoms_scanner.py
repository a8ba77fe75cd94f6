"""What a scanner makes of an invented head: contrast, partial volumes, a bias field, noise, its own units and voxels.

Contrasts are chosen by what real FLAIR and T1w look like once normalised (two centres): lesions on FLAIR at 2 to 3 robust standard
deviations above the brain's median, overlapping with the brightest hundredth of it; hardly visible on T1w.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from tasks.imaging.geometry import Affine, Shape
from tasks.imaging.phantoms_anatomy import CORTEX_MM, HEAD_MM, SCALP_MM, SKULL_MM, Floats, Points, Tissues, filled, sampled, tissues
from tasks.imaging.phantoms_lesions import Patient, drawn_lesions
from tasks.imaging.volume import Volume

Signals = dict[str, float]
TISSUES: Final = ("air", "face", "scalp", "skull", "fluid", "grey", "white", "deep", "lesion", "plexus")
SIGNALS: Final[Mapping[str, tuple[float, ...]]] = {  # of each tissue; fluid on T2w is 1
    "FLAIR": (0.0, 0.42, 0.4, 0.10, 0.12, 0.70, 0.58, 0.64, 1.06, 0.9),
    "T1w": (0.0, 0.45, 1.0, 0.10, 0.18, 0.55, 0.80, 0.64, 0.52, 0.4),
    "T2w": (0.0, 0.30, 0.6, 0.08, 1.00, 0.60, 0.44, 0.52, 0.86, 0.8),
    "T1w_ce": (0.0, 0.50, 1.0, 0.12, 0.18, 0.57, 0.80, 0.65, 0.54, 1.1),
}
ENHANCING_D: Final = 60
ENHANCED: Final = 1.15  # on T1w after contrast, of a lesion younger than two months
DIRTY: Final = 0.05  # slow unevenness of white matter, relative


@dataclass(frozen=True)
class Scanner:
    """One machine with its protocol."""

    maker: str
    model: str
    tesla: float
    shape: Shape
    spacing_mm: tuple[float, float, float]
    modalities: tuple[str, ...] = ("FLAIR", "T1w")
    gain: float = 300.0  # units of the file per unit of signal
    noise: float = 0.03  # SD, where fluid on T2w is 1
    bias: float = 0.15  # SD of the logarithm of the field over the head
    contrast: float = 1.0  # of lesions against white matter
    fat: float = 0.4  # of the scalp on FLAIR, where fat is most often suppressed
    brain_only: bool = False
    defaced: bool = False
    tilt_deg: float = 0.0  # about the axis to the right

    def sidecar(self) -> Mapping[str, object]:
        """What BIDS side files say of it."""
        return {
            "Manufacturer": self.maker,
            "ManufacturersModelName": self.model,
            "MagneticFieldStrength": self.tesla,
            "SkullStripped": self.brain_only,
            "Defaced": self.defaced or self.brain_only,
        }

    def signals(self, modality: str) -> Signals:
        """Signal by tissue."""
        signals = dict(zip(TISSUES, SIGNALS[modality], strict=True))
        return signals | ({"scalp": self.fat} if modality == "FLAIR" else {})

    def affine(self) -> Affine:
        """From index to mm; the head's middle is a little below that of the box."""
        turn = np.deg2rad(self.tilt_deg)
        rotation = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
        found = np.eye(4)
        found[:3, :3] = rotation * np.asarray(self.spacing_mm)
        found[:3, 3] = np.array([0.0, 0.0, -8.0]) - found[:3, :3] @ ((np.asarray(self.shape) - 1) / 2)
        return found


ALL: Final = ("FLAIR", "T1w", "T2w", "T1w_ce")
SCANNERS: Final = (
    Scanner("Siemens", "Alpha", 3.0, (48, 56, 44), (4.0, 4.0, 4.0), ALL, defaced=True),
    Scanner("Siemens", "Beta", 1.5, (52, 60, 40), (3.6, 3.6, 4.4), gain=80, noise=0.04, bias=0.25, contrast=0.9, fat=0.7),
    Scanner("Philips", "Gamma", 3.0, (48, 56, 40), (3.8, 3.8, 3.8), gain=1500, bias=0.08, brain_only=True),
    Scanner("GE", "Delta", 3.0, (56, 64, 30), (3.4, 3.4, 5.6), ALL[:3], gain=900, bias=0.2, tilt_deg=12, defaced=True),
    Scanner("GE", "Epsilon", 1.5, (48, 56, 44), (4.0, 4.0, 4.0), gain=40, noise=0.045, contrast=1.1, defaced=True),
)


@dataclass(frozen=True)
class PhantomScan:
    """One session with its truth."""

    scanner: Scanner
    day: int
    images: Mapping[str, Volume]
    mask: Volume  # 0 and 1
    new_mask: Volume  # of it, what lesions fill that arose since the session before, and older ones do not
    n_lesions: int  # that have at least one voxel of the mask
    n_new: int  # of them, those that arose since the session before
    brain_ml: float  # brain matter without fluid
    thalamus_ml: float
    ventricles_ml: float

    @property
    def lesion_ml(self) -> float:
        """Volume of the mask."""
        return float(np.count_nonzero(self.mask.data)) * float(np.prod(self.scanner.spacing_mm)) / 1000

    def truth(self) -> Mapping[str, object]:
        """One row of the table of truth."""
        volumes = {
            "lesion_ml": self.lesion_ml,
            "brain_ml": self.brain_ml,
            "thalamus_ml": self.thalamus_ml,
            "ventricles_ml": self.ventricles_ml,
        }
        rounded = {name: round(ml, 3) for name, ml in volumes.items()}
        name = f"{self.scanner.maker} {self.scanner.model}"
        return {"day": self.day, "scanner": name, "lesions": self.n_lesions, "new_lesions": self.n_new, **rounded}


def scan_patient(patient: Patient, scanner: Scanner, rng: np.random.Generator, *, day: int, since: int | None) -> PhantomScan:
    """One session of `patient` on `day`; `since` is the day of the session before."""
    points = _points(scanner)
    edge = float(np.prod(scanner.spacing_mm)) ** (1 / 3)
    there = tissues(patient.head, points, loss=patient.loss(day))
    parts = _parts(there, points, edge)
    lesion, strength, boxes = drawn_lesions(patient, patient.lesions, day, points, edge_mm=edge)
    lesion = _in_matter(lesion, parts)
    mask = lesion > 0.5
    older = [each for each in patient.lesions if since is None or each.onset_d <= since]
    known = _in_matter(drawn_lesions(patient, older, day, points, edge_mm=edge)[0], parts) > 0.5
    seen = [bool(box[0].stop and mask[box].any()) for box in boxes]
    new = [since is not None and each.onset_d > since for each in patient.lesions]
    young = [number for number, each in enumerate(patient.lesions) if seen[number] and 0 <= day - each.onset_d < ENHANCING_D]
    enhancing = np.zeros(mask.shape, np.bool_)
    for number in young:
        enhancing[boxes[number]] |= mask[boxes[number]]
    texture = np.float32(1) + np.float32(DIRTY) * sampled(patient.head.shape, (points[1], points[2], points[0]))
    field = _bias_field(scanner, points, rng)
    images = {}
    for modality in scanner.modalities:
        signal = _signal(scanner.signals(modality), parts, texture, scanner.contrast * strength, lesion)
        if modality == "T1w_ce":
            signal[enhancing] = ENHANCED
        images[modality] = Volume(_measured(signal * field, parts, scanner, rng), scanner.affine())
    voxel_ml = float(np.prod(scanner.spacing_mm)) / 1000
    matter = parts["brain"] * (1 - parts["fluid"]) * (1 - parts["ventricles"])
    return PhantomScan(
        scanner=scanner,
        day=day,
        images=images,
        mask=Volume(mask.astype(np.float32), scanner.affine()),
        new_mask=Volume((mask & ~known).astype(np.float32), scanner.affine()),
        n_lesions=sum(seen),
        n_new=sum(there and fresh for there, fresh in zip(seen, new, strict=True)),
        brain_ml=float(matter.sum(dtype=np.float64)) * voxel_ml,
        thalamus_ml=float((filled(there.thalamus, edge) * (1 - parts["ventricles"])).sum(dtype=np.float64)) * voxel_ml,
        ventricles_ml=float(parts["ventricles"].sum(dtype=np.float64)) * voxel_ml,
    )


def _points(scanner: Scanner) -> Points:
    """Places of all voxels in mm, three full arrays (x, y, z)."""
    affine = scanner.affine().astype(np.float32)
    index = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in scanner.shape), indexing="ij", sparse=True)
    x, y, z = (
        np.ascontiguousarray(sum(affine[row, k] * index[k] for k in range(3)) + affine[row, 3], np.float32) for row in range(3)
    )
    full = np.broadcast_shapes(x.shape, y.shape, z.shape)
    return (
        np.ascontiguousarray(np.broadcast_to(x, full)),
        np.ascontiguousarray(np.broadcast_to(y, full)),
        np.ascontiguousarray(np.broadcast_to(z, full)),
    )


def _parts(there: Tissues, points: Points, edge: float) -> dict[str, Floats]:
    """How much of each voxel lies within each tissue, outer ones first; what comes later covers what came before."""
    plexus = np.maximum(there.ventricles + 1.5, np.abs(points[1] + 22) - 9)
    face = np.minimum(there.brain - HEAD_MM, there.face)
    return {
        "face": filled(face, edge),
        "scalp": filled(there.brain - HEAD_MM, edge) * (points[2] > -62),
        "skull": filled(there.brain - SCALP_MM, edge),
        "subarachnoid": filled(there.brain - SKULL_MM, edge),
        "brain": filled(there.brain, edge),
        "white": filled(there.fluid + CORTEX_MM, edge) * (1 - 0.4 * filled(there.cerebellum + 4, edge)),
        "deep": filled(there.deep_grey, edge),
        "fluid": filled(-there.fluid, edge) * filled(there.brain, edge),
        "ventricles": filled(there.ventricles, edge),
        "plexus": filled(plexus, edge),
    }


def _in_matter(lesion: Floats, parts: Mapping[str, Floats]) -> Floats:
    """The part of each voxel that is lesion: none lies in fluid or outside the brain."""
    return lesion * (1 - parts["fluid"]) * (1 - parts["ventricles"]) * parts["brain"]


def _signal(signals: Signals, parts: Mapping[str, Floats], texture: Floats, strength: Floats, lesion: Floats) -> Floats:
    """Signal without noise and bias, (x, y, z): tissues laid over each other from outside in."""
    found = np.full(texture.shape, signals["air"], np.float32)

    def over(part: Floats, value: Floats | float) -> None:
        found[...] += part * (value - found)

    for name, signal in (("face", "face"), ("scalp", "scalp"), ("skull", "skull"), ("subarachnoid", "fluid"), ("brain", "grey")):
        over(parts[name], signals[signal])
    over(parts["white"] * parts["brain"], signals["white"] * texture)
    over(parts["deep"], signals["deep"])
    over(lesion, signals["white"] + strength * (signals["lesion"] - signals["white"]))
    for name, signal in (("fluid", "fluid"), ("ventricles", "fluid"), ("plexus", "plexus")):
        over(parts[name], signals[signal])
    return found


def _bias_field(scanner: Scanner, points: Points, rng: np.random.Generator) -> Floats:
    """A smooth positive field: the exponential of a polynomial of second order with random coefficients."""
    x, y, z = (axis / np.float32(80) for axis in points)
    terms = (x, y, z, x * y, y * z, x * z, x * x - y * y, z * z)
    weights = rng.standard_normal(len(terms)).astype(np.float32)
    log = sum(weight * term for weight, term in zip(weights, terms, strict=True)) * np.float32(scanner.bias / 2)
    return np.asarray(np.exp(np.clip(log, -1.0, 1.0)), np.float32)


def _measured(signal: Floats, parts: Mapping[str, Floats], scanner: Scanner, rng: np.random.Generator) -> Floats:
    """Magnitudes with Rician noise (Gudbjartsson and Patz 1995, Magn Reson Med 34:910) in the scanner's whole units."""
    noise = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(scanner.noise)
    found = np.hypot(signal + noise[0], noise[1])
    if scanner.brain_only:
        found[parts["brain"] < 0.3] = 0
    elif scanner.defaced:
        found[(parts["brain"] + parts["scalp"] < 0.05) & (parts["face"] > 0.3)] = 0
    return np.asarray(np.clip(np.rint(found * scanner.gain), 0, 32767), np.float32)
