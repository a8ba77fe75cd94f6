"""What a segmenter found in a hospital's scans, to look at: slices with outlines, volumes against drawn ones. It stays there.

One file without script or request: pictures are inside it. Slices are axial, from the feet: the patient's right is on the left.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from privacy.report_html import Html, element, join, paragraph, tag, text
from tasks.imaging.resample import Flags, Floats
from tasks.imaging.segmentation_scores import bland_altman, icc
from tasks.imaging.task import CAUTION, TOO_SURE
from tasks.ms.pages import cards, page, section

SLICES: Final = 3  # of a session
APART: Final = 12  # shown slices are at least a 12th of the head apart
PIXELS: Final = 240  # height of a picture, about
FOUND, DRAWN, BOTH = (230, 120, 0), (40, 150, 255), (255, 255, 255)
DARK, BRIGHT = 1.0, 99.5  # percentiles of the head that become black and white
WIDTH, HEIGHT, MARGIN = 560, 300, 48
LOCAL: Final = "This page shows patients' images and names them by pseudonym: it stays in the hospital."
SHOWN_MOST: Final = 60  # sessions with pictures on one page; the numbers of all are in segmented.csv


@dataclass(frozen=True)
class Shown:
    """One session on the page. `pictures`: PNG files, each with what it shows; `dice` and `drawn_ml` where a mask was drawn."""

    name: str
    lesion_ml: float
    lesions: int
    dice: float | None
    drawn_ml: float | None
    pictures: tuple[tuple[str, bytes], ...] = field(repr=False)


def pictures(image: Floats, found: Flags, drawn: Flags | None, spacing_mm: Sequence[float]) -> tuple[tuple[str, bytes], ...]:
    """The slices (x, y, z) with most lesion in either mask, from bottom to top, with both outlines."""
    low, high = np.percentile(image, (DARK, BRIGHT))
    grey = np.clip((image - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    shown = []
    for z in sorted(_slices(found if drawn is None else found | drawn)):
        layers = [None if mask is None else mask[:, :, z] for mask in (found, drawn)]
        shown.append((f"slice {z + 1} of {image.shape[2]}", _png(_outlined(grey[:, :, z], *layers, spacing_mm=spacing_mm))))
    return tuple(shown)


def _slices(marked: Flags) -> list[int]:
    """Places along z: those with most of it, not next to each other; the middle where there is nothing."""
    depth = marked.shape[2]
    area = marked.sum(axis=(0, 1)).astype(np.int64)
    if not area.any():
        return [depth // 2]
    chosen: list[int] = []
    for z in np.argsort(-area, kind="stable").tolist():
        if area[z] and all(abs(z - other) >= max(1, depth // APART) for other in chosen):
            chosen.append(z)
        if len(chosen) == SLICES:
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


def segmented_page(shown: Sequence[Shown], *, model: str, made: str) -> str:
    """`model`: which it is and what its privacy is, as people read it; `made`: when."""
    head = [
        element("h1", "Lesions as a model finds them"),
        paragraph(f"{model}. {made}", class_="sub"),
        paragraph(LOCAL, class_="local"),
        paragraph(CAUTION),
        *([paragraph(TOO_SURE)] if any(each.dice is not None for each in shown) else []),
        cards(_figures(shown)),
    ]
    drawn = [each for each in shown if each.drawn_ml is not None]
    parts = [section("agreement", "Volumes, against drawn masks", _agreement(drawn))] if len(drawn) > 1 else []
    legend = join(
        element("span", words, style=f"border-bottom:3px solid rgb{colour};margin-right:18px;padding-bottom:2px")
        for words, colour in (("found", FOUND), ("drawn by somebody", DRAWN), ("both", BOTH))
        if drawn or words == "found"
    )
    worst = sorted(shown, key=lambda each: math.inf if each.dice is None else each.dice)[:SHOWN_MOST]
    body = [element("p", legend, style="background:#111;color:#fff;padding:8px 12px"), *map(_session, worst)]
    if len(shown) > SHOWN_MOST:
        body.insert(0, paragraph(f"The {SHOWN_MOST} with the lowest Dice of {len(shown)}; segmented.csv has the numbers of all."))
    parts.append(section("sessions", "Sessions, the worst first" if drawn else "Sessions", *body))
    return page("Lesions as a model finds them", [*head, *parts], pictures=True)


def _figures(shown: Sequence[Shown]) -> list[tuple[str, str]]:
    dice = [each.dice for each in shown if each.dice is not None and (each.drawn_ml or 0) > 0]
    facts = [("sessions", f"{len(shown):,}"), ("lesions found", f"{sum(each.lesions for each in shown):,}")]
    if dice:
        facts += [("sessions with drawn lesions", f"{len(dice):,}"), ("mean Dice of these", f"{np.mean(dice):.2f}")]
    return facts


def _agreement(drawn: Sequence[Shown]) -> Html:
    found_ml = [each.lesion_ml for each in drawn]
    drawn_ml = [each.drawn_ml or 0.0 for each in drawn]
    found, same = bland_altman(found_ml, drawn_ml), icc(found_ml, drawn_ml)
    words = (
        f"Found minus drawn: {found.bias_ml:+.2f} mL on average; 95 % of differences lie from {found.low_ml:.2f} to "
        f"{found.high_ml:.2f} mL if they are normal (Bland and Altman 1986)."
    )
    more = "" if same is None else f" ICC, absolute agreement: {same:.2f}."
    points = [((a + b) / 2, a - b) for a, b in zip(found_ml, drawn_ml, strict=True)]
    return join([paragraph(words + more), _scatter(points, (found.low_ml, found.bias_ml, found.high_ml))])


def _scatter(points: Sequence[tuple[float, float]], lines: Sequence[float]) -> Html:
    """Difference over mean, with the mean difference and its limits."""
    most = max(x for x, _ in points) or 1.0
    values = [*(y for _, y in points), *lines, 0.0]
    low, high = min(values), max(values)
    room = max(high - low, 1e-6)

    def at(x: float, y: float) -> tuple[float, float]:
        right, down = WIDTH - MARGIN - 60, HEIGHT - 2 * MARGIN
        return MARGIN + 12 + x / most * right, HEIGHT - MARGIN - (y - low) / room * down

    parts = []
    for value, words in zip(lines, ("lower limit", "mean", "upper limit"), strict=True):
        left, height = at(0.0, value)
        dashes = "" if words == "mean" else ' stroke-dasharray="5 4"'
        parts.append(f'<line x1="{left:.1f}" y1="{height:.1f}" x2="{WIDTH - 48}" y2="{height:.1f}" stroke="#1d4f91"{dashes}/>')
        parts.append(f'<text x="{MARGIN + 6}" y="{height + 4:.1f}" text-anchor="end" font-size="12">{value:+.1f}</text>')
    for x, y in points:
        left, height = at(x, y)
        parts.append(f'<circle cx="{left:.1f}" cy="{height:.1f}" r="4" fill="#1d4f91" fill-opacity="0.6"/>')
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle" font-size="12">mean of both, 0 to {most:.1f} mL</text>'
    )
    parts.append('<text x="4" y="16" font-size="12">found minus drawn, mL</text>')
    name = f"Found minus drawn volume over their mean, {len(points)} sessions"
    return Html(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{text(name)}">{"".join(parts)}</svg>')


def _session(each: Shown) -> Html:
    facts = [f"{each.lesion_ml:.2f} mL in {each.lesions} lesions"]
    if each.drawn_ml is not None:
        facts.append(f"drawn: {each.drawn_ml:.2f} mL")
    words: list[Html] = [text("; ".join(facts) + " ")]
    if each.dice is not None:
        words.append(tag(f"Dice {each.dice:.2f}", "good" if each.dice >= 0.5 else "mind"))
    shown = [
        Html(f'<img alt="{text(f"{each.name}, {what}")}" src="data:image/png;base64,{base64.b64encode(data).decode("ascii")}">')
        for what, data in each.pictures
    ]
    return element("div", join([element("h3", each.name), element("p", join(words)), *shown]), class_="finding")
