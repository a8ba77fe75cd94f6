"""One image in memory: 32-bit intensities, an affine in millimetres, and no voxel that is not a finite number.

Files are NIfTI, `.nii.gz` or `.nii`. Reading is strict about the file (length, check sum, header) and never holds more than
the one image; writing is atomic, and equal volumes give equal bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import DTypeLike, NDArray

from tasks.imaging.errors import ImageError
from tasks.imaging.geometry import Affine, Shape, spacing_of
from tasks.imaging.header import Header, Remark, header_of, open_stream

BLOCK: Final = 1 << 20
CUT: Final = 0.5  # where a mask of fractions is cut
ROUNDING: Final = 1e-3  # by which interpolation and scaled integers may pass 0 and 1 in such a mask


@dataclass(frozen=True)
class Volume:
    """Intensities and where they lie."""

    data: NDArray[np.float32] = field(repr=False)  # (x, y, z)
    affine: Affine = field(repr=False)  # (4, 4) voxel -> millimetres, RAS+

    def __post_init__(self) -> None:
        if self.data.ndim != 3 or self.affine.shape != (4, 4):
            raise ImageError("not_3d", f"a volume has 3 axes and an affine of 4 x 4, got {self.data.ndim} and {self.affine.shape}")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxels along each axis."""
        return spacing_of(self.affine)

    @property
    def shape(self) -> Shape:
        """Voxels along each axis."""
        x, y, z = self.data.shape
        return x, y, z

    def canonical(self) -> Volume:
        """The same image with its axes turned and swapped so that they run nearest to right, anterior, superior.

        No voxel is interpolated: an oblique image stays oblique.
        """
        turn = io_orientation(self.affine)
        data = np.ascontiguousarray(apply_orientation(self.data, turn), dtype=np.float32)
        return Volume(data, self.affine @ inv_ornt_aff(turn, self.data.shape))

    def turned_back(self, canonical: NDArray[np.float32]) -> Volume:
        """Values on the grid of `canonical()`, with the axes that this image has."""
        turn = io_orientation(self.affine)
        back = ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), turn)
        return Volume(np.ascontiguousarray(apply_orientation(canonical, back), dtype=np.float32), self.affine)


@dataclass(frozen=True)
class Read:
    """A volume, what was odd about its file, and a digest that only the same voxels share."""

    volume: Volume
    header: Header
    remarks: tuple[Remark, ...]
    digest: str  # SHA-256 of shape, type and voxels as they are in the file, whatever its compression


def read_volume(path: Path) -> Volume:
    """The image at `path`, as the file's axes run; `ImageError` if it cannot be used. Voxels that are no numbers become 0."""
    return read_image(path).volume


def read_mask(path: Path) -> Volume:
    """The mask at `path` as 0 and 1; fractions are cut at one half. `ImageError` if it cannot be used."""
    return read_lesions(path).volume


def read_image(path: Path) -> Read:
    """As `read_volume`, with what was odd."""
    header, data, digest, remarks = _read(path)
    if data.min() == data.max():
        raise ImageError("flat", "all its voxels have one value")
    return Read(Volume(data, header.affine), header, remarks, digest)


def read_lesions(path: Path) -> Read:
    """As `read_mask`, with what was odd. One value besides 0 means inside, whatever it is; several labels are refused."""
    header, data, digest, found = _read(path)
    remarks = list(found)
    marked = data != 0
    if not marked.any():
        remarks.append(Remark("empty_mask", ""))
    elif data.min() < -ROUNDING:
        raise ImageError("mask_values", "it has values below 0")
    elif data.min() < 0 or data.max() > data[marked].min():
        if data.max() > 1 + ROUNDING:
            raise ImageError("mask_values", "it has several values besides 0, and nothing says which of them are lesions")
        remarks.append(Remark("mask_fractions", f"cut at {CUT:g}"))
        marked = data >= CUT
        if not marked.any():
            remarks.append(Remark("empty_mask", "after the cut"))
    return Read(Volume(marked.astype(np.float32), header.affine), header, tuple(remarks), digest)


def _read(path: Path) -> tuple[Header, NDArray[np.float32], str, tuple[Remark, ...]]:
    with open_stream(path) as stream:  # opened once: a file replaced meanwhile would lend its voxels to the old one's position
        header = header_of(stream)
        stream.seek(0)
        raw = _raw_voxels(stream, header)
    digest = hashlib.sha256(f"{header.shape} {header.dtype.str} ".encode())
    digest.update(raw)
    stored = np.frombuffer(raw, dtype=header.dtype).reshape(header.shape, order="F")
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite, and is counted below
        data = stored.astype(np.float32)
        if (header.slope, header.intercept) != (1.0, 0.0):
            data = data * np.float32(header.slope) + np.float32(header.intercept)
    wrong = ~np.isfinite(data)
    if not (count := int(wrong.sum())):
        return header, data, digest.hexdigest(), header.remarks
    data[wrong] = 0
    remark = Remark("not_finite", f"{count} of {data.size} voxels")
    return header, data, digest.hexdigest(), (*header.remarks, remark)


def _raw_voxels(stream: IO[bytes], header: Header) -> bytearray:
    """The voxels' bytes, exactly; memory grows with what is there, not with what the header claims."""
    _skip(stream, header.offset)
    raw = bytearray()
    while len(raw) < header.voxel_bytes:
        block = stream.read(min(BLOCK, header.voxel_bytes - len(raw)))
        if not block:
            raise ImageError("damaged", f"it breaks off after {len(raw)} of {header.voxel_bytes} bytes of voxels")
        raw += block
    if stream.read(1):  # the end is reached on purpose: only then is the check sum compared
        raise ImageError("damaged", "it goes on after the last voxel that its header claims")
    return raw


def _skip(stream: IO[bytes], count: int) -> None:
    while count:
        block = stream.read(min(BLOCK, count))
        if not block:
            raise ImageError("damaged", "it breaks off before the first voxel")
        count -= len(block)


def write_volume(path: Path, volume: Volume, dtype: DTypeLike = np.float32) -> None:
    """`path` (`.nii.gz` or `.nii`) holds `volume` as `dtype`, in millimetres; never half of it, and equal volumes equal bytes.

    Whole-number types round; `ImageError` if a value does not fit.
    """
    content = _as_nifti(volume, np.dtype(dtype))
    if path.name.endswith(".gz"):
        packed = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=6, mtime=0) as stream:
            stream.write(content)
        content = packed.getvalue()
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _as_nifti(volume: Volume, dtype: np.dtype[np.generic]) -> bytes:
    data = volume.data
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)  # type: ignore[type-var]  # a whole-number type, as the line above says
        data = np.rint(data)
        if data.min() < limits.min or data.max() > limits.max:
            raise ImageError("unreadable", f"a value does not fit {dtype.name}: write it as float32")
    image = nib.Nifti1Image(data.astype(dtype), volume.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1)
    return bytes(image.to_bytes())
