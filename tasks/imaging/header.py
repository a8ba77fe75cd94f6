"""The header of a NIfTI file, read and judged before one voxel is: a few hundred bytes, whatever size it claims.

Everything that a later step relies on is settled here: three axes, a plausible number of voxels, millimetres, an affine that
can be inverted. What cannot be is an `ImageError`; what was mended or is odd is a `Remark`.
"""

from __future__ import annotations

import gzip
import math
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from tasks.imaging.errors import ImageError
from tasks.imaging.geometry import Affine, Shape, corners, shear, spacing_of, tilt_deg

ENDINGS: Final = (".nii.gz", ".nii")
MAX_VOXELS: Final = 1 << 27  # 512 x 512 x 512; as float32 half a GiB
MIN_AXIS: Final = 8  # fewer slices are a localiser, not a volume
MAX_OFFSET: Final = 1 << 24  # bytes before the first voxel; header extensions stand there
SPACINGS_MM: Final = (0.1, 20.0)
THICK: Final = 3.0  # largest spacing / smallest
OBLIQUE_DEG: Final = 1.0
MAX_SHEAR: Final = 0.02  # cosine, about 1 degree
AGREE: Final = 0.01  # by which two statements of one spacing may differ, relative
APART: Final = 1.0  # voxels by which the corners may differ between qform and sform
TYPES: Final = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
UNITS: Final = {1: ("metres", 1e3), 2: ("millimetres", 1.0), 3: ("micrometres", 1e-3)}


@dataclass(frozen=True)
class Remark:
    """Something odd that does not hinder use: a code of `tasks.imaging.rules`, and what was found, in sizes."""

    code: str
    found: str


@dataclass(frozen=True)
class Header:
    """What is needed to read the voxels, and where they lie."""

    shape: Shape
    affine: Affine  # (4, 4) voxel -> RAS+, millimetres
    dtype: np.dtype[np.generic]  # of the file, with its byte order
    slope: float
    intercept: float
    offset: int  # bytes before the first voxel
    standard_space: bool  # the header says Talairach or MNI
    remarks: tuple[Remark, ...]

    @property
    def voxel_bytes(self) -> int:
        """Length of the voxels in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


@contextmanager
def open_stream(path: Path) -> Iterator[IO[bytes]]:
    """The uncompressed bytes of `path`. Inside, damage of the compression is an `ImageError`; so is what is no plain file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("unreadable", "it is no plain file")
        with path.open("rb") as file:
            if path.name.endswith(".gz"):
                if file.read(2) != b"\x1f\x8b":
                    raise ImageError("unreadable", "its name ends in .gz, but it is not compressed")
                file.seek(0)
                with gzip.GzipFile(fileobj=file) as stream:
                    yield stream  # type: ignore[misc]  # GzipFile reads as IO[bytes] does; typeshed does not say so
            else:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise ImageError("damaged", "its compression breaks off or its check sum is wrong") from None
    except OSError as error:
        raise ImageError("unreadable", error.strerror or "the system refuses to read it") from error


def read_header(path: Path) -> Header:
    """The header of `path`, judged; `ImageError` if the file cannot be used as a volume. Nothing of the size it claims is held."""
    with open_stream(path) as stream:
        return header_of(stream)


def header_of(stream: IO[bytes]) -> Header:
    """The header at the begin of a stream."""
    return parse_header(stream.read(540))


def parse_header(block: bytes) -> Header:
    """The header in the first 540 bytes of a file (348 of version 1)."""
    raw = _raw_header(block)
    shape, remarks = _shape(raw)
    slope, intercept = _scaling(raw)
    affine, about = _geometry(raw, shape)
    return Header(
        shape=shape,
        affine=affine,
        dtype=_dtype(raw),
        slope=slope,
        intercept=intercept,
        offset=_offset(raw),
        standard_space=int(raw["sform_code"] or raw["qform_code"]) >= 3,
        remarks=(*remarks, *about),
    )


def _raw_header(block: bytes) -> Nifti1Header:
    if len(block) < 348:
        raise ImageError("unreadable", f"it has {len(block)} bytes, a NIfTI header has 348")
    for order in "<>":
        (size,) = struct.unpack(f"{order}i", block[:4])
        if size == 348 and block[344:348] == b"n+1\0":
            return Nifti1Header(block[:348], endianness=order, check=False)
        if size == 540 and len(block) >= 540 and block[4:12] == b"n+2\0\r\n\x1a\n":
            return Nifti2Header(block[:540], endianness=order, check=False)
    raise ImageError("unreadable", "it is no NIfTI file of version 1 or 2 in one piece")


def _shape(raw: Nifti1Header) -> tuple[Shape, list[Remark]]:
    n_axes = int(raw["dim"][0])
    if not 1 <= n_axes <= 7:
        raise ImageError("unreadable", f"its header claims {n_axes} axes, allowed are 1 to 7")
    sizes = [int(size) for size in raw["dim"][1 : n_axes + 1]]
    if min(sizes) < 1:
        raise ImageError("unreadable", "its header claims an axis without voxels")
    said = " x ".join(map(str, sizes))
    if math.prod(sizes[3:]) > 1:
        raise ImageError("many_volumes", f"it holds {math.prod(sizes[3:])} volumes ({said}), expected one")
    shape = tuple(sizes[:3])
    if len(shape) < 3 or min(shape) < MIN_AXIS:
        raise ImageError("not_3d", f"it has {said} voxels, at least {MIN_AXIS} along each of three axes are needed")
    if math.prod(shape) > MAX_VOXELS:
        raise ImageError("too_large", f"its header claims {said} voxels, limit {MAX_VOXELS} in all")
    return (shape[0], shape[1], shape[2]), [Remark("one_volume", said)] if n_axes > 3 else []


def _dtype(raw: Nifti1Header) -> np.dtype[np.generic]:
    form = TYPES.get(int(raw["datatype"]))
    if form is None:
        raise ImageError("unreadable", "its voxels are no plain numbers (colour, complex or an unknown type)")
    return np.dtype(f"{raw.endianness}{form}")


def _scaling(raw: Nifti1Header) -> tuple[float, float]:
    """Slope and intercept; 0 and not-a-number stand for none, as the format has it."""
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ImageError("unreadable", "the scaling of its intensities is not finite")
    return slope, intercept


def _offset(raw: Nifti1Header) -> int:
    offset, least = float(raw["vox_offset"]), int(raw["sizeof_hdr"]) + 4
    if offset == 0:  # some programs leave it out
        return least
    if not (math.isfinite(offset) and least <= offset <= MAX_OFFSET and offset == int(offset)):
        raise ImageError("unreadable", f"its voxels begin at an impossible place, allowed are {least} to {MAX_OFFSET} bytes")
    return int(offset)


def _geometry(raw: Nifti1Header, shape: Shape) -> tuple[Affine, list[Remark]]:
    stated = np.asarray(raw["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(stated).all() or stated.min() <= 0:
        raise ImageError("spacing", "its header states a spacing that is zero, negative or no number")
    affine, remarks = _affine(raw, shape)
    scale, unit = _unit(raw, spacing_of(affine))
    affine[:3] *= scale
    spacing = spacing_of(affine)
    words = " x ".join(f"{each:.3g}" for each in spacing)
    if shear(affine) > MAX_SHEAR:
        raise ImageError("affine", "its axes are not at right angles")
    if np.abs(stated * scale / np.array(spacing) - 1).max() > AGREE:
        remarks.append(Remark("spacings_differ", f"{' x '.join(f'{each:.3g}' for each in stated * scale)} and {words} mm"))
    if max(spacing) / min(spacing) > THICK:
        remarks.append(Remark("thick_slices", f"{words} mm"))
    if (tilt := tilt_deg(affine)) > OBLIQUE_DEG:
        remarks.append(Remark("oblique", f"by {tilt:.0f} degrees"))
    return affine, [*unit, *remarks]


def _affine(raw: Nifti1Header, shape: Shape) -> tuple[Affine, list[Remark]]:
    """The affine as it is written, in the file's unit: the sform, else the qform."""
    sform, remarks = raw.get_sform(coded=True)[0], []
    if raw["pixdim"][0] == 0:  # 0 counts as 1, as the format has it
        raw["pixdim"][0] = 1
    try:
        qform = raw.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError, np.linalg.LinAlgError):
        if sform is None:
            raise ImageError("affine", "the rotation in its header is none") from None
        qform, remarks = None, [Remark("forms_differ", "the qform is no rotation")]
    chosen = sform if sform is not None else qform
    if chosen is None:
        raise ImageError("no_position", "its header does not say which way the head lies (qform and sform are both unset)")
    affine: Affine = np.array(chosen, dtype=np.float64)
    if not np.isfinite(affine).all() or min(spacing_of(affine)) == 0 or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ImageError("affine", "the position in its header is not finite, or flattens the image")
    if sform is None or qform is None or not np.isfinite(qform).all():
        return affine, remarks
    apart = float(np.linalg.norm(corners(shape, affine) - corners(shape, qform), axis=1).max())
    return affine, [Remark("forms_differ", f"by {apart:.1f}")] if apart > APART * min(spacing_of(affine)) else []


def _unit(raw: Nifti1Header, written: tuple[float, float, float]) -> tuple[float, list[Remark]]:
    """Factor to millimetres. What a header says is believed if a head can have such voxels; else millimetres, if it then can."""
    name, factor = UNITS.get(int(raw["xyzt_units"]) & 7, ("", 1.0))
    low, high = SPACINGS_MM
    if all(low <= each * factor <= high for each in written):
        if not name:
            return factor, [Remark("units_unknown", "taken as millimetres")]
        return factor, [] if factor == 1 else [Remark("units", f"{name}, converted to millimetres")]
    if factor != 1 and all(low <= each <= high for each in written):
        return 1.0, [Remark("units", f"it says {name}, its numbers are taken as millimetres")]
    said = " x ".join(f"{each * factor:.3g}" for each in written)
    raise ImageError("spacing", f"its voxels are {said} mm, expected {low:g} to {high:g}")
