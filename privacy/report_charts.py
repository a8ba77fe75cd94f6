"""Budget charts as self-contained SVG: what was spent after each release, run by run, under the budget where it is known.

A chart repeats numbers that stand in the table beside it; it has a text alternative and needs no colour to be read.
"""

import math
from collections.abc import Sequence
from html import escape

from privacy.report import Step

WIDTH, HEIGHT = 520, 232  # user units
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 30, 40
POINTS_MOST = 400
BANDS = ("#eef2f7", "#f8fafc")
LINE, LIMIT, GRID, INK = "#1d4f91", "#a40e26", "#cbd5e1", "#374151"


def budget_chart(steps: Sequence[Step], *, budget: float | None, name: str) -> str:
    """Epsilon after each release of one site, as a line that only rises; `steps` is not empty."""
    finite = [step.epsilon for step in steps if math.isfinite(step.epsilon)]
    ticks = round_ticks(max([*finite, budget or 0.0, 1e-9]))
    top = ticks[-1]
    parts = [*_bands(steps), *(_tick(value, top) for value in ticks), _steps_axis(len(steps))]
    if budget is not None:
        y = _y(budget, top)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="{LIMIT}" stroke-width="2" stroke-dasharray="6 4"/>'
        )
        parts.append(f'<text x="{WIDTH - RIGHT - 4}" y="{y - 5:.1f}" text-anchor="end" fill="{LIMIT}">budget {budget:g}</text>')
    parts += [_curve(steps, top), _last(steps, top)]
    label = escape(f"{name}: {_spoken(steps, budget)}", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def round_ticks(most: float) -> tuple[float, ...]:
    """Four to six round values from 0 to at least `most`."""
    step = most / 4.5
    scale = 10.0 ** math.floor(math.log10(step))
    step = next(factor * scale for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * scale >= step)
    return tuple(round(index * step, 10) for index in range(math.ceil(most / step - 1e-9) + 1))


def _spoken(steps: Sequence[Step], budget: float | None) -> str:
    last = steps[-1].epsilon
    spent = f"epsilon {last:.3f}" if math.isfinite(last) else "no bound any more (NOT PRIVATE)"
    return f"after {len(steps)} releases {spent}{'' if budget is None else f', of a budget of {budget:g}'}"


def _x(index: float, count: int) -> float:
    return round(LEFT + index / max(count, 1) * (WIDTH - LEFT - RIGHT), 1)


def _y(value: float, top: float) -> float:
    return round(HEIGHT - BOTTOM - min(value, top) / top * (HEIGHT - TOP - BOTTOM), 1)


def _bands(steps: Sequence[Step]) -> list[str]:
    """One shaded stretch for each run, named above where there is room."""
    starts = [at for at in range(len(steps)) if at == 0 or steps[at].run_id != steps[at - 1].run_id]
    parts = []
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(steps)], strict=True)):
        x, width = _x(start, len(steps)), round(_x(end, len(steps)) - _x(start, len(steps)), 1)
        run = escape(steps[start].run_id)
        box = f'x="{x}" y="{TOP}" width="{width}" height="{HEIGHT - TOP - BOTTOM}"'
        parts.append(f'<rect {box} fill="{BANDS[number % 2]}"><title>{run}</title></rect>')
        if width >= 14:
            letters = max(int((width - 6) / 6), 1)
            shown = steps[start].run_id if len(steps[start].run_id) <= letters else f"{steps[start].run_id[: letters - 1]}…"
            parts.append(f'<text x="{x + 4}" y="{TOP - 8}" class="run">{escape(shown)}</text>')
            parts.append(f'<line x1="{x}" x2="{x}" y1="{TOP - 18}" y2="{HEIGHT - BOTTOM}" stroke="{GRID}"/>')
    return parts


def _tick(value: float, top: float) -> str:
    y = _y(value, top)
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="{GRID}"/>'
    return f'{line}<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{value:g}</text>'


def _steps_axis(count: int) -> str:
    middle, below = (LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM
    ends = f'<text x="{LEFT}" y="{below + 16}">0</text><text x="{WIDTH - RIGHT}" y="{below + 16}" text-anchor="end">{count}</text>'
    names = f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">releases charged, in order</text>'
    return f'{ends}{names}<text x="{LEFT - 6}" y="{TOP - 8}" text-anchor="end">ε</text>'


def _curve(steps: Sequence[Step], top: float) -> str:
    """A staircase through the finite values; it ends where something left without noise."""
    stride = max(1, math.ceil(len(steps) / POINTS_MOST))
    shown = [at for at in range(len(steps)) if at % stride == 0 or at == len(steps) - 1 or steps[at].run_id != steps[at - 1].run_id]
    path = [f"M{LEFT} {_y(0.0, top)}"]
    for at in shown:
        if not math.isfinite(steps[at].epsilon):
            break
        path.append(f"V{_y(steps[at].epsilon, top)}H{_x(at + 1, len(steps))}")
    return f'<path d="{"".join(path)}" fill="none" stroke="{LINE}" stroke-width="2.5"/>'


def _last(steps: Sequence[Step], top: float) -> str:
    last = steps[-1].epsilon
    if not math.isfinite(last):
        first = next(at for at, step in enumerate(steps) if not math.isfinite(step.epsilon))
        x = _x(first, len(steps))
        line = f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="{LIMIT}" stroke-width="3"/>'
        anchor, shift = ("end", -5) if x > WIDTH / 2 else ("start", 5)
        place = f'x="{x + shift}" y="{TOP + 14}" text-anchor="{anchor}"'
        return f'{line}<text {place} fill="{LIMIT}" class="strong">NOT PRIVATE from here</text>'
    x, y = _x(len(steps), len(steps)), _y(last, top)
    label = f'<text x="{x - 7}" y="{max(y - 7, TOP + 10):.1f}" text-anchor="end" class="strong">{last:.2f}</text>'
    return f'<circle cx="{x}" cy="{y}" r="3.5" fill="{LINE}"/>{label}'
