"""Slices of a scan with the outlines of two masks, as PNG files: what a model found, and what somebody drew or is known to be.

Slices are axial, seen from the feet: the patient's right is on the left.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tasks.imaging.resample import Flags, Floats

SLICES: Final = 3  # of a session
APART: Final = 12  # shown slices are at least a 12th of the head apart
PIXELS: Final = 240  # height of a picture, about
FOUND, DRAWN, BOTH = (230, 120, 0), (40, 150, 255), (255, 255, 255)
DARK, BRIGHT = 1.0, 99.5  # percentiles of the head that become black and white

Picture = tuple[str, bytes]  # what it shows; a PNG file


def pictures(
    image: Floats, found: Flags, drawn: Flags | None, spacing_mm: Sequence[float], *, slices: int = SLICES
) -> tuple[Picture, ...]:
    """The `slices` slices (x, y, z) with most lesion in either mask, from bottom to top, with both outlines."""
    low, high = np.percentile(image, (DARK, BRIGHT))
    grey = np.clip((image - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    shown = []
    for z in sorted(_slices(found if drawn is None else found | drawn, slices)):
        layers = [None if mask is None else mask[:, :, z] for mask in (found, drawn)]
        shown.append((f"slice {z + 1} of {image.shape[2]}", _png(_outlined(grey[:, :, z], *layers, spacing_mm=spacing_mm))))
    return tuple(shown)


def _slices(marked: Flags, most: int) -> list[int]:
    """Places along z: those with most of it, not next to each other; the middle where there is nothing."""
    depth = marked.shape[2]
    area = marked.sum(axis=(0, 1)).astype(np.int64)
    if not area.any():
        return [depth // 2]
    chosen: list[int] = []
    for z in np.argsort(-area, kind="stable").tolist():
        if area[z] and all(abs(z - other) >= max(1, depth // APART) for other in chosen):
            chosen.append(z)
        if len(chosen) == most:
            break
    return chosen


def _outlined(grey: Floats, found: Flags | None, drawn: Flags | None, *, spacing_mm: Sequence[float]) -> NDArray[np.uint8]:
    """RGB (rows, columns, 3): pixels of equal sides in mm, anterior above, the patient's right on the left."""
    size = PIXELS / (grey.shape[1] * spacing_mm[1])  # pixels a mm
    factors = [max(1, round(side * size)) for side in spacing_mm[:2]]
    rgb = np.repeat((_turned(grey, factors) * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    edges = [None if mask is None else _edge(_turned(mask, factors)) for mask in (found, drawn)]
    for edge, colour in zip(edges, (FOUND, DRAWN), strict=True):
        if edge is not None:
            rgb[edge] = colour
    if edges[0] is not None and edges[1] is not None:
        rgb[edges[0] & edges[1]] = BOTH
    return rgb


def _turned(plane: NDArray[np.generic], factors: Sequence[int]) -> NDArray[np.generic]:
    large = np.repeat(np.repeat(plane, factors[0], axis=0), factors[1], axis=1)
    return np.asarray(large[::-1, ::-1].T)


def _edge(mask: NDArray[np.generic]) -> Flags:
    inside = mask.astype(np.bool_)
    return np.asarray(inside & ~ndimage.binary_erosion(inside, border_value=1))


def _png(rgb: NDArray[np.uint8]) -> bytes:
    """As the PNG standard has it (ISO/IEC 15948): 8-bit RGB, no filter."""
    rows, columns = rgb.shape[:2]
    raw = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(rgb))
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 6)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
