"""One prepared scan on disk: whole, checked by digests, or not there. A process killed at any instant leaves nothing that is read.

An entry is two files. `KEY.npy` is a plain numpy array, float16, of the sequences that are present and, last, the mask as 0 and 1;
it is read through a memory map. `KEY.json` says what it is and holds its SHA-256 and its own; it is written after the array, so
an entry exists once its description does. KEY is the digest of the source files' bytes and of the recipe; no file names a patient.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.durable import sync_folder
from tasks.errors import DataError
from tasks.imaging.geometry import Affine, Shape
from tasks.imaging.prepare import Prepared, Recipe

FORMAT: Final = 1
PART: Final = ".part"  # ending of a file that is being written
MOST_META: Final = 1 << 16  # bytes of a description


class CacheError(DataError):
    """The folder of the cache cannot be used as it is: full, not writable, damaged since it was checked."""


@dataclass(frozen=True)
class Patch:
    """A part of a scan, as a network takes it."""

    channels: NDArray[np.float32]  # (C, x, y, z); a channel of zeros where `present` is false
    present: NDArray[np.bool_]  # (C,)
    mask: NDArray[np.bool_] | None  # (x, y, z)


@dataclass(frozen=True)
class Entry:
    """An entry that was there, whole, when the cache was filled. Holds no voxel; each read maps the file and lets it go."""

    path: Path  # of the array
    shape: Shape
    present: tuple[bool, ...]
    has_mask: bool
    affine: tuple[tuple[float, ...], ...]  # 4 x 4, index -> mm
    mask_ml: float | None  # as drawn, on the mask's own grid
    mask_ml_outside: float
    background: float  # value of what lies beyond the image

    @property
    def key(self) -> str:
        return self.path.stem

    @property
    def grid_affine(self) -> Affine:
        return np.asarray(self.affine, np.float64)

    def array(self) -> NDArray[np.float16]:
        """Memory map of the present sequences and the mask, (P [+ 1], x, y, z). `CacheError` if it is not what was described."""
        wanted = (sum(self.present) + self.has_mask, *self.shape)
        try:
            found = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CacheError("an entry of the image cache is gone or cut short: prepare the scans again") from error
        if found.shape != wanted or found.dtype != np.float16:
            raise CacheError(f"an entry of the image cache has shape {found.shape}, expected {wanted}: prepare the scans again")
        return np.asarray(found)

    def read(self) -> Patch:
        """The whole scan, in memory."""
        return self.patch((0, 0, 0), self.shape)

    def patch(self, begin: Shape, shape: Shape) -> Patch:
        """The voxels from `begin` on, `shape` of them; beyond the image the background's value, and no lesion."""
        stored = self.array()
        x, y, z = (slice(max(0, first), max(0, first + n)) for first, n in zip(begin, shape, strict=True))
        part = stored[:, x, y, z]
        to_x, to_y, to_z = (slice(max(0, -first), max(0, -first) + n) for first, n in zip(begin, part.shape[1:], strict=True))
        channels = np.zeros((len(self.present), *shape), np.float32)
        rows = [number for number, there in enumerate(self.present) if there]
        channels[rows] = self.background
        for row, plane in zip(rows, part, strict=False):  # the mask, if any, stays over
            channels[row, to_x, to_y, to_z] = plane
        mask = None
        if self.has_mask:
            mask = np.zeros(shape, np.bool_)
            mask[to_x, to_y, to_z] = part[-1] > 0
        return Patch(channels, np.asarray(self.present), mask)


def entry_key(sources: Mapping[str, str], recipe: Recipe) -> str:
    """SHA-256, hexadecimal, of the source files' digests by what they are, and of the recipe's."""
    return hashlib.sha256(
        b"wardround/image-entry/v1\0" + _canonical({"recipe": recipe.digest, "sources": dict(sources)})
    ).hexdigest()


def write_entry(folder: Path, key: str, prepared: Prepared, recipe: Recipe) -> Entry:
    """Both files, each written beside, synced and renamed; the array first. Equal scans give equal bytes.

    `CacheError` if the disk refuses; nothing half-written stays.
    """
    planes = [prepared.channels[prepared.present]]
    if prepared.mask is not None:
        planes.append(prepared.mask[None].astype(np.float16))
    stored = np.ascontiguousarray(np.concatenate(planes), dtype="<f2")
    header = io.BytesIO()
    described = {"descr": "<f2", "fortran_order": False, "shape": stored.shape}
    np.lib.format.write_array_header_1_0(header, described)
    parts = (header.getvalue(), stored.reshape(-1).view(np.uint8).data)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    about = {
        "format": FORMAT,
        "key": key,
        "recipe": recipe.digest,
        "bytes": sum(len(part) for part in parts),
        "sha256": digest.hexdigest(),
        "shape": [int(n) for n in stored.shape[1:]],
        "present": [bool(there) for there in prepared.present],
        "mask": prepared.mask is not None,
        "mask_ml": prepared.mask_ml,
        "mask_ml_outside": prepared.mask_ml_outside,
        "affine": prepared.affine.tolist(),
    }
    write_whole(folder / f"{key}.npy", parts)
    write_whole(folder / f"{key}.json", (_canonical({**about, "self": hashlib.sha256(_canonical(about)).hexdigest()}),))
    return _entry(folder, about, recipe)


def read_entry(folder: Path, key: str, recipe: Recipe) -> Entry | None:
    """The entry, if both files are whole to the last bit; None if it is not there or damaged in any way."""
    about = _description(folder / f"{key}.json")
    if about is None or (about["format"], about["key"], about["recipe"]) != (FORMAT, key, recipe.digest):
        return None
    try:
        with (folder / f"{key}.npy").open("rb") as file:
            if os.fstat(file.fileno()).st_size != about["bytes"]:
                return None
            if hashlib.file_digest(file, "sha256").hexdigest() != about["sha256"]:
                return None
    except OSError:  # absent, or a block that the disk cannot read: made anew either way
        return None
    return _entry(folder, about, recipe)


def write_whole(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """`path` holds `parts` once this returns, also after a power cut; at any earlier instant what it held before."""
    size = 0
    temporary: Path | None = None
    try:
        handle, temporary = _locked_temporary(path)
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                size += len(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)  # before the lock goes with the handle
        sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise CacheError(
            f"the image cache cannot write {size / 2**20:.1f} MiB ({error.strerror}): free space on its disk, or give it another"
            " folder, and run again; what is finished is kept"
        ) from error


def sweep(folder: Path) -> int:
    """Removes what processes that were killed left half-written; how many. What a living process writes is locked and stays."""
    gone = 0
    for path in sorted(folder.glob(f".*{PART}")):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            gone += 1
        except OSError:  # locked by its writer, or gone meanwhile
            continue
    return gone


def _locked_temporary(path: Path) -> tuple[int, Path]:
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        with suppress(OSError):  # a file system without locks: then no sweep can lock it either, and it is left alone
            fcntl.flock(handle, fcntl.LOCK_EX)
        if _is_at(handle, name):  # else a sweep took it between its making and its lock
            return handle, Path(name)
        os.close(handle)


def _is_at(handle: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(name))
    except FileNotFoundError:
        return False


def _description(path: Path) -> dict[str, Any] | None:
    """What the file says if every byte is as it was written, else None."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_META + 1)
        about = json.loads(raw)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(about, dict) or _canonical(about) != raw:
        return None
    own = about.pop("self", None)
    return about if own == hashlib.sha256(_canonical(about)).hexdigest() else None


def _entry(folder: Path, about: Mapping[str, Any], recipe: Recipe) -> Entry:
    x, y, z = about["shape"]
    return Entry(
        path=folder / f"{about['key']}.npy",
        shape=(x, y, z),
        present=tuple(about["present"]),
        has_mask=about["mask"],
        affine=tuple(tuple(row) for row in about["affine"]),
        mask_ml=about["mask_ml"],
        mask_ml_outside=about["mask_ml_outside"],
        background=recipe.low,
    )


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def entry_names(folder: Path) -> Iterator[str]:
    """Keys of which there is at least one file."""
    yield from sorted({path.stem for path in folder.iterdir() if path.suffix in {".npy", ".json"} and len(path.stem) == 64})
