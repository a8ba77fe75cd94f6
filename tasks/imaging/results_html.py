"""What pages about a segmenter share, the hospital's own and the hub's of invented heads: tables, volumes, slices with outlines."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from privacy.report_html import Cell, Html, element, join, paragraph, table, text
from tasks.imaging.outlines import BOTH, DRAWN, FOUND, Picture
from tasks.imaging.results import NOT_NAMED, SIZES, Row, Session, drawn_of, estimate_words, short
from tasks.imaging.segmentation_scores import bland_altman, icc

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 120, 22, 46
COLOURS: Final = ("#1d4f91", "#b45309", "#3f6d10", "#9d174d", "#57534e")
APART: Final = 15.0  # of two lines of text


def results_table(caption: str, first: str, rows: Sequence[Row], *, second: str) -> Html:
    """`first`: what heads the rows; `second`: what the masks are called that those found are compared with."""
    names = [first, "#sessions", "#Dice", "#lesion-wise F1", *(f"#found {size}" for size in SIZES)]
    names += ["#false lesions a session", f"#volume, found minus {second}, mL"]
    return table(caption, names, [_cells(row) for row in rows], kind="results")


def _cells(row: Row) -> list[Cell]:
    shares = [f"{size.found} of {size.there}" if size.there else "–" for size in row.sizes]
    false, volume = estimate_words(row.false_lesions, 1), estimate_words(row.bias_ml, signed=True)
    return [row.name, f"{row.sessions}", estimate_words(row.dice), estimate_words(row.f1), *shares, false, volume]


def sizes_table(caption: str, row: Row) -> Html:
    """Single lesions by their size, of everybody in `row`."""
    rows = [[size.name, f"{size.there}", f"{size.found}", estimate_words(size.share)] for size in row.sizes]
    return table(caption, ["size of the lesion", "#lesions", "#found", "#share found"], rows, kind="small")


def agreement_words(sessions: Sequence[Session], second: str) -> str:
    """Bias, limits of agreement and ICC in two sentences; of two drawn sessions or more."""
    found_ml, true_ml = volumes(sessions)
    agreement, same = bland_altman(found_ml, true_ml), icc(found_ml, true_ml)
    words = (
        f"Found minus {second}: {agreement.bias_ml:+.2f} mL on average; 95 % of differences lie from {agreement.low_ml:.2f} to "
        f"{agreement.high_ml:.2f} mL if they are normal (Bland and Altman 1986)."
    )
    return words + ("" if same is None else f" ICC, absolute agreement: {same:.2f}.")


def volumes(sessions: Sequence[Session]) -> tuple[list[float], list[float]]:
    """Found and drawn volumes in mL of those that have both."""
    drawn = drawn_of(sessions)
    return [each.scores.predicted_ml for each in drawn], [each.scores.true_ml for each in drawn]


def agreement(sessions: Sequence[Session], second: str) -> Html:
    """Words and figure of volumes against drawn ones; of two drawn sessions or more."""
    return join([paragraph(agreement_words(sessions, second)), agreement_chart(sessions, second)])


def agreement_chart(sessions: Sequence[Session], second: str) -> Html:
    """Difference over mean of both volumes, with the mean difference and its limits; up to five scanners have their own colours."""
    drawn, (found_ml, true_ml) = drawn_of(sessions), volumes(sessions)
    said = bland_altman(found_ml, true_ml)
    lines = {"upper limit": said.high_ml, "mean": said.bias_ml, "lower limit": said.low_ml}
    points = [((a + b) / 2, a - b) for a, b in zip(found_ml, true_ml, strict=True)]
    x = _ticks(0.0, max(at for at, _ in points))
    y = _ticks(min(0.0, *lines.values(), *(at for _, at in points)), max(0.0, *lines.values(), *(at for _, at in points)))
    scanners = sorted({each.scanner for each in drawn}, key=lambda name: (not name, name))
    told = 1 < len(scanners) <= len(COLOURS)
    parts = [_axes(x, y, second), *_limits(lines, y)]
    for (at, away), each in zip(points, drawn, strict=True):
        colour = COLOURS[scanners.index(each.scanner)] if told else COLOURS[0]
        words = f"{each.name}: found {each.scores.predicted_ml:.2f} mL, {second} {each.scores.true_ml:.2f} mL"
        parts.append(
            f'<circle cx="{_x(at, x):.1f}" cy="{_y(away, y):.1f}" r="4.5" fill="{colour}" fill-opacity="0.75">'
            f"<title>{text(words)}</title></circle>"
        )
    name = text(f"Found minus {second} volume over the mean of both, {len(points)} sessions")
    chart = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}" style="max-width:680px">{"".join(parts)}</svg>'
    return join([Html(chart), *([_dots(scanners)] if told else [])])


def _dots(scanners: Sequence[str]) -> Html:
    keys = [
        element("span", join([element("i", "", style=f"background:{colour}"), text(short(name) or NOT_NAMED)]))
        for name, colour in zip(scanners, COLOURS, strict=False)
    ]
    return element("div", join(keys), class_="dots")


def _ticks(low: float, high: float) -> tuple[float, ...]:
    """Round numbers from at most `low` to at least `high`, about five."""
    rough = max(high - low, 1e-3) / 4
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * scale for factor in (1.0, 2.0, 5.0, 10.0) if factor * scale >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(at * step, 10) for at in range(first, max(last, first + 1) + 1))


def _x(value: float, ticks: Sequence[float]) -> float:
    return LEFT + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (WIDTH - LEFT - RIGHT)


def _y(value: float, ticks: Sequence[float]) -> float:
    return HEIGHT - BOTTOM - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (HEIGHT - TOP - BOTTOM)


def _axes(x: Sequence[float], y: Sequence[float], second: str) -> str:
    parts = []
    for tick in y:
        at, colour = _y(tick, y), "#78716c" if tick == 0 else "#e7e5e4"
        parts.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" stroke="{colour}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end" font-size="12">{tick:g}</text>')
    for tick in x:
        at = _x(tick, x)
        parts.append(f'<line x1="{at:.1f}" y1="{HEIGHT - BOTTOM}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM + 4}" stroke="#78716c"/>')
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" font-size="12">{tick:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle" font-size="12">mean of both volumes, mL</text>')
    parts.append(f'<text x="{LEFT}" y="12" font-size="12">found minus {text(second)}, mL</text>')
    return "".join(parts)


def _limits(lines: dict[str, float], y: Sequence[float]) -> list[str]:
    """From above: each line where it lies, its words beside it, no two over each other."""
    parts, places = [], _apart([_y(value, y) for value in lines.values()])
    for (words, value), place in zip(lines.items(), places, strict=True):
        at = _y(value, y)
        precise = "+.1f" if abs(value) < 100 else "+.0f"
        dashes = "" if words == "mean" else ' stroke-dasharray="5 4"'
        parts.append(
            f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" stroke="{COLOURS[0]}" stroke-width="1.5"{dashes}/>'
        )
        parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{place + 4:.1f}" font-size="12">{words} {value:{precise}}</text>')
    return parts


def _apart(places: Sequence[float]) -> list[float]:
    """`places`, ascending, moved so that neighbours are `APART`; the middle one stays."""
    moved, middle = list(places), len(places) // 2
    for before, after in pairwise(range(middle, len(moved))):
        moved[after] = max(moved[after], moved[before] + APART)
    for after, before in pairwise(range(middle, -1, -1)):
        moved[before] = min(moved[before], moved[after] - APART)
    return moved


def keys(second: str, *, drawn: bool = True) -> Html:
    """What the colours of outlines mean; `drawn`: whether there are masks to compare with."""
    known = [("found", FOUND), *([(second, DRAWN), ("both", BOTH)] if drawn else [])]
    spans = [element("span", words, style=f"border-color:rgb{colour}") for words, colour in known]
    return element("p", join(spans), class_="keys")


def slices(shown: Sequence[tuple[str, Picture]]) -> Html:
    """Pictures beside each other: (words below it, picture)."""
    return element("div", join(_slice(words, *picture) for words, picture in shown), class_="slices")


def _slice(words: str, what: str, png: bytes) -> Html:
    said = text(f"{words}, {what}" if words else what)
    image = Html(f'<img alt="{said}" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">')
    return element("figure", join([image, element("figcaption", said)]))
