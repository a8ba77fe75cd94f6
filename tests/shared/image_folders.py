"""Small BIDS folders of images that are right, one of which a test then spoils byte by byte."""

import gzip
import hashlib
import json
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SHAPE = (12, 11, 10)
AFFINE = np.array([[2.0, 0, 0, -11], [0, 2, 0, -10], [0, 0, 2, -9], [0, 0, 0, 1]])
FIELDS = {  # where a header of version 1 keeps what, and how
    "dim": (40, "<8h"), "datatype": (70, "<h"), "pixdim": (76, "<8f"), "vox_offset": (108, "<f"), "slope": (112, "<2f"),
    "units": (123, "<B"), "codes": (252, "<2h"), "quatern": (256, "<6f"), "srow": (280, "<12f"), "magic": (344, "<4s"),
}  # fmt: skip
KINDS = ("FLAIR", "T1w", "T2w", "ce-gad_T1w")


def voxels(name: str, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    """Intensities that no other name has."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).uniform(1, 1000, shape).astype(np.float32)


def lesion(name: str, shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    """A small mask that no other name has, in all likelihood."""
    return (voxels(f"lesion of {name}", shape) > 900).astype(np.uint8)


def nifti(data: NDArray[np.generic], affine: NDArray[np.float64] = AFFINE, unit: str = "mm", code: int = 1) -> bytes:
    """A whole file of version 1, not compressed."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units(unit)
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=code)
    return bytes(image.to_bytes())


def patched(content: bytes, **fields: tuple[object, ...]) -> bytes:
    """`content` with fields of its header written over."""
    header = bytearray(content)
    for name, values in fields.items():
        offset, form = FIELDS[name]
        struct.pack_into(form, header, offset, *values)
    return bytes(header)


def put(path: Path, content: bytes) -> Path:
    """Write a file, compressed if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1, mtime=0) if path.name.endswith(".gz") else content)
    return path


def image_path(root: Path, sub: str, ses: str, kind: str) -> Path:
    """Where an image lies."""
    return root / f"sub-{sub}" / f"ses-{ses}" / "anat" / f"sub-{sub}_ses-{ses}_{kind}.nii.gz"


def mask_path(root: Path, sub: str, ses: str, space: str = "") -> Path:
    """Where its lesion mask lies."""
    said = f"_space-{space}" if space else ""
    return root / f"derivatives/lesions/sub-{sub}/ses-{ses}/anat/sub-{sub}_ses-{ses}{said}_label-lesion_mask.nii.gz"


def right_session(root: Path, sub: str, ses: str = "01", day: int | None = 0) -> None:
    """A subject's session with which nothing is wrong, and a day for it; only once for each subject."""
    for kind in KINDS:
        path = image_path(root, sub, ses, kind)
        put(path, nifti(voxels(path.name)))
        side = {"SkullStripped": True, "Manufacturer": "Philips", "ManufacturersModelName": "Ingenia", "MagneticFieldStrength": 3}
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(side))
    put(mask_path(root, sub, ses), nifti(lesion(f"{sub} {ses}")))
    if day is not None:
        table = root / f"sub-{sub}" / f"sub-{sub}_sessions.tsv"
        before = table.read_text() if table.exists() else "session_id\tday\n"
        table.write_text(f"{before}ses-{ses}\t{day}\n")
