"""Small charts as self-contained SVG text: no script, no font, no request; each carries its values as titles to hover over."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 240  # user units
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 34
COLOURS = ("#2563a8", "#d97706", "#4d7c0f", "#9d174d", "#57534e")


@dataclass(frozen=True)
class Axis:
    """A linear scale with round ticks; `low` < `high`."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float, start: float, end: float) -> float:
        return start + (value - self.low) / (self.high - self.low) * (end - start)


@dataclass(frozen=True)
class Mark:
    """A point with an optional error bar (`spread`, one side) and the text shown on hovering."""

    x: float
    y: float
    title: str
    spread: float = 0.0
    radius: float = 3.0


@dataclass(frozen=True)
class Interval:
    """One line of a chart of intervals; `low` <= `value` <= `high`, `title` as it is written beside it."""

    name: str
    value: float
    low: float
    high: float
    title: str


def axis(values: Sequence[float], *, at_least: float = math.inf, at_most: float = -math.inf, whole: bool = False) -> Axis:
    """An axis over `values`, stretched to `at_least` below and `at_most` above, with about five round ticks."""
    low, high = min([*values, at_least]), max([*values, at_most])
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = 0.0, 1.0
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    step = _round_step((high - low) / 5.0)
    if whole:
        step = max(1.0, round(step))
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = tuple(round(index * step, 10) for index in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def _round_step(step: float) -> float:
    scale = 10.0 ** math.floor(math.log10(step))
    return next((factor * scale for factor in (1.0, 2.0, 5.0) if factor * scale >= step - 1e-12), 10.0 * scale)


def line_chart(marks: Sequence[Mark], *, name: str, x_name: str, y_name: str, x: Axis, y: Axis, diagonal: bool = False) -> str:
    """Points joined by a line (not along a diagonal), with error bars; `name` is what a screen reader says."""
    parts = [_frame(x, y, x_name, y_name)]
    if diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        parts.append(_line(_x(x, low), _y(y, low), _x(x, high), _y(y, high), "#a8a29e", dash=True))
    elif len(marks) > 1:
        path = " ".join(f"{_x(x, mark.x):.1f},{_y(y, mark.y):.1f}" for mark in marks)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>')
    for mark in marks:
        at = _x(x, mark.x)
        if mark.spread > 0:
            low, high = max(y.low, mark.y - mark.spread), min(y.high, mark.y + mark.spread)
            parts.append(_line(at, _y(y, low), at, _y(y, high), COLOURS[0]))
        parts.append(
            f'<circle cx="{at:.1f}" cy="{_y(y, mark.y):.1f}" r="{mark.radius:.1f}" fill="{COLOURS[0]}" fill-opacity="0.85">'
            f"<title>{escape(mark.title)}</title></circle>"
        )
    return _svg(name, parts)


def interval_chart(bars: Sequence[Interval], *, name: str, x_name: str, x: Axis) -> str:
    """Intervals one below the other, the first one (all) with a line down through its value."""
    left, step = LEFT + 84, min(max((HEIGHT - TOP - BOTTOM) / max(len(bars), 1), 24), 48)  # few fill the height of other charts
    right, height = WIDTH - 150, round(TOP + step * len(bars) + BOTTOM)
    parts = []
    for tick in x.ticks:
        at = x.place(tick, left, right)
        parts.append(_line(at, TOP, at, height - BOTTOM, "#e7e5e4"))
        parts.append(f'<text x="{at:.1f}" y="{height - BOTTOM + 15}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{(left + right) / 2}" y="{height - 4}" text-anchor="middle">{escape(x_name)}</text>')
    if bars:
        first = x.place(bars[0].value, left, right)
        parts.append(_line(first, TOP, first, height - BOTTOM, "#a8a29e", dash=True))
    for row, bar in enumerate(bars):
        middle = TOP + step * (row + 0.5)
        low, value, high = (x.place(end, left, right) for end in (bar.low, bar.value, bar.high))
        parts.append(f'<text x="{left - 10}" y="{middle + 4}" text-anchor="end">{escape(bar.name)}</text>')
        parts.append(_line(low, middle, high, middle, COLOURS[0]))
        parts.append(
            f'<circle cx="{value:.1f}" cy="{middle}" r="4" fill="{COLOURS[0]}"><title>{escape(bar.title)}</title></circle>'
        )
        parts.append(f'<text x="{right + 8}" y="{middle + 4}">{escape(bar.title)}</text>')
    return _svg(name, parts, height)


def stacked_bars(
    bars: Sequence[tuple[float, Sequence[float]]], *, name: str, names: Sequence[str], x_name: str, y_name: str, whole: bool = False
) -> str:
    """One bar for each (x, parts), parts stacked in the order of `names`; colours follow that order."""
    rounds = [at for at, _ in bars]
    first, last = min(rounds, default=0.0) - 0.75, max(rounds, default=0.0) + 0.75  # room for the outer bars' halves
    x = Axis(first, last, tuple(tick for tick in axis(rounds, whole=True).ticks if first <= tick <= last))
    y = axis([sum(heights) for _, heights in bars], at_least=0.0, whole=whole)
    parts = [_frame(x, y, x_name, y_name)]
    width = max(1.0, 0.7 * (WIDTH - LEFT - RIGHT) / (x.high - x.low))
    for at, heights in bars:
        below = 0.0
        for index, height in enumerate(heights):
            top, bottom = _y(y, below + height), _y(y, below)
            parts.append(
                f'<rect x="{_x(x, at) - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" height="{max(bottom - top, 0):.1f}" '
                f'fill="{COLOURS[index % len(COLOURS)]}"><title>round {at:g}: {escape(names[index])} {height:.3g}</title></rect>'
            )
            below += height
    return _svg(name, parts) + _legend(names)


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    keys = [f'<span><i style="background:{COLOURS[at % len(COLOURS)]}"></i>{escape(name)}</span>' for at, name in enumerate(names)]
    return f'<div class="legend">{"".join(keys)}</div>'


def _svg(name: str, parts: Sequence[str], height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name, quote=True)}">{"".join(parts)}</svg>'


def _x(x: Axis, value: float) -> float:
    return x.place(value, LEFT, WIDTH - RIGHT)


def _y(y: Axis, value: float) -> float:
    return y.place(value, HEIGHT - BOTTOM, TOP)


def _frame(x: Axis, y: Axis, x_name: str, y_name: str) -> str:
    parts = []
    for tick in y.ticks:
        parts.append(_line(LEFT, _y(y, tick), WIDTH - RIGHT, _y(y, tick), "#e7e5e4"))
        parts.append(f'<text x="{LEFT - 6}" y="{_y(y, tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x.ticks:
        parts.append(f'<text x="{_x(x, tick):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick:g}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>')
    parts.append(f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{escape(y_name)}</text>')
    return "".join(parts)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dash: bool = False) -> str:
    dashes = ' stroke-dasharray="4 4"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashes}/>'
