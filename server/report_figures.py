"""The part of a run's page that says how good the model is: charts by round, calibration, figures of all patients and of groups."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from consortium.plan import Plan
from privacy.accountant import ENFORCE_INTERVAL, epsilon
from privacy.terms import plan_limit, ride_along_limit
from server import figures
from server.card import epsilon_text
from server.charts import Interval, Mark, axis, interval_chart, line_chart
from server.figures import AUC, Primary
from server.journal import RoundDone
from server.state import RunState
from tasks.metrics import Figure
from tasks.run_options import run_options
from tasks.scoring.names import Shown, group_words, words

HELD_OUT = "held_out"  # the population, as ledgers call it
DROWNED = '<p class="note">Measured, and noise or too few patients leave nothing to show.</p>'
NOT_YET = '<p class="note">Not measured yet.</p>'


def quality_charts(plan: Plan, state: RunState) -> dict[str, str]:
    """Title -> chart; calibration only of runs that foretell probabilities, groups only where they have figures."""
    primary = figures.primary_of(plan) or AUC
    last = figures.evaluated(state)
    charts = {f"Pooled {primary.words}{_sides(state, primary)}": _by_round(state, primary)}
    if (calibration := _calibration(plan, state)) is not None:
        charts[f"Calibration, {_latest(last)}"] = calibration
    if groups := _by_group(state, primary):
        charts[f"Pooled {primary.words} by group, {_latest(last)}"] = groups
    return charts | _panels(plan, last)


def _panels(plan: Plan, last: RoundDone | None) -> dict[str, str]:
    """What the task's scoring shows beside each other."""
    if last is None or figures.drowned(dict(last.metrics)):
        return {}
    charts = {}
    for panel in figures.panels_of(plan, last):
        bars = [_bar(name, one) for name, one in panel.lines]
        x = axis([end for bar in bars for end in (bar.low, bar.high)])
        charts[f"{panel.title}, {_latest(last)}"] = interval_chart(bars, name=panel.title, x_name=panel.scale, x=x)
    return charts


def _bar(name: str, one: Figure | Shown) -> Interval:
    """One figure with its interval as a line of a chart."""
    if one.low is None or one.high is None:
        return Interval(name, one.value, one.value, one.value, figures.number(one.value))
    return Interval(name, one.value, one.low, one.high, f"{figures.number(one.value)} ({figures.ends(one.low, one.high)})")


def _sides(state: RunState, primary: Primary) -> str:
    """Whose figures a chart by round holds."""
    sides = {figures.side_of(done) for done in _readable(state, primary)}
    if len(sides) > 1:
        return " on validation patients, and on test patients at the end"
    return f" on {sides.pop()} patients" if sides else ""


def _readable(state: RunState, primary: Primary) -> list[RoundDone]:
    """Rounds whose primary figure noise has not drowned."""
    return [done for done in state.done if primary.name in (values := dict(done.metrics)) and not figures.drowned(values)]


def _latest(last: RoundDone | None) -> str:
    return f"{figures.side_of(last)} patients" if last else "latest evaluation"


def quality_tables(plan: Plan, state: RunState) -> str:
    """The newest figures with their intervals, by group, and what they cost; "" before the first evaluation."""
    last = figures.evaluated(state)
    if last is None:
        return ""
    found, primary = dict(last.metrics), figures.primary_of(plan)
    heads, rows = figures.group_rows(found, primary)
    parts = [
        f"<h2>Figures on {figures.whose(last)}</h2>",
        f'<div class="banner">{figures.DO_NOT_READ}</div>' if figures.drowned(found) else "",
        f"<p><b>{escape(doubt)}</b></p>" if (doubt := figures.doubt(found, primary)) else "",
        table(["figure", "value", "95 % interval", "how to read it"], figures.whole_rows(found, primary)),
        f'<h3>By group</h3><div class="groups">{table(heads, rows)}</div>' if rows else "",
        _note("Intervals hold for a new sample of patients and, where there is noise, for the noise as well.", _hidden(plan, rows)),
        _note(figures.cell_words(plan, len(last.survivors)), event_words(plan, state)),
    ]
    return "".join(parts)


def event_words(plan: Plan, state: RunState) -> str:
    """What the figures cost: how often the held-out patients were asked, with which noise, and what all of it may spend."""
    made = sum(1 for done in state.done if done.histogram)
    most = ride_along_limit(plan) + plan.schedule.max_evaluate
    times = f"{made} of at most {most} sums over the held-out patients were opened"
    if not plan.private:
        return f"{times}, without noise."
    terms = plan.privacy
    spends = [spend for spend in plan_limit(plan) if spend.population == HELD_OUT]
    spent = epsilon(spends, terms.delta, interval=ENFORCE_INTERVAL)
    share = f", of which {terms.honest} honest shares are charged" if terms.distributed else ""
    return (
        f"{times}. Each is one event of the population {HELD_OUT} in every site's ledger: a patient moves it by at most 1 in L2, "
        f"a site adds Gaussian noise of {terms.evaluate_noise:.3g}{share}. All {most} together cost a held-out patient at most "
        f"epsilon {epsilon_text(spent)} at delta {terms.delta:.1e}; who is held out is never trained on."
    )


def _hidden(plan: Plan, rows: Sequence[Sequence[str]]) -> str:
    if not run_options(dict(plan.model.options)).by:
        return ""
    begin = "A group" if rows else "The plan asks for groups and none is shown: a group"
    return f"{begin} with few patients of either outcome, or under noise of its size, has no figures here."


def _note(*sentences: str) -> str:
    return f'<p class="note">{escape(" ".join(filter(None, sentences)))}</p>'


def _by_round(state: RunState, primary: Primary) -> str:
    marks = []
    for done in _readable(state, primary):
        values = dict(done.metrics)
        value, spread = values[primary.name], figures.spread_of(values, primary)
        what = f"round {done.round}, {figures.side_of(done)} patients: {primary.words} {figures.number(value)}"
        marks.append(Mark(float(done.round), value, what + (f" ± {spread:.3f}" if spread else ""), spread))
    if not marks:
        return DROWNED if figures.evaluated(state) else NOT_YET
    x = axis([mark.x for mark in marks], at_least=0.0, whole=True)
    y = axis([mark.y for mark in marks], at_least=0.5, at_most=1.0) if primary == AUC else axis(_reaches(marks))
    name = f"Pooled {primary.words} by round"
    return line_chart(marks, name=name, x_name="round (bars: one standard error)", y_name=primary.words, x=x, y=y)


def _reaches(marks: Sequence[Mark]) -> list[float]:
    return [mark.y + side * mark.spread for mark in marks for side in (-1.0, 1.0)]


def _calibration(plan: Plan, state: RunState) -> str | None:
    last = figures.evaluated(state)
    groups = figures.calibration_of(plan, np.array(last.histogram)) if last else ()
    if groups is None:
        return None
    if last is None:
        return NOT_YET
    if figures.drowned(dict(last.metrics)):
        return DROWNED
    largest = max((group.patients for group in groups), default=0.0) or 1.0
    marks = [
        Mark(
            group.predicted,
            group.observed,
            f"predicted {group.predicted:.2f}, observed {group.observed:.2f}, about {group.patients:.0f} patients",
            radius=3.0 + 6.0 * math.sqrt(max(group.patients, 0.0) / largest),
        )
        for group in groups
        if group.predicted is not None and group.observed is not None
    ]
    if not marks:
        return DROWNED
    unit = axis([0.0, 1.0])
    return line_chart(marks, name="Calibration", x_name="predicted probability", y_name="observed", x=unit, y=unit, diagonal=True)


def _by_group(state: RunState, primary: Primary) -> str:
    last = figures.newest(state)
    found = [one for one in figures.ordered(last, primary) if one.name.figure == primary.name]
    if len(found) < 2 or figures.drowned(last):
        return ""
    bars = [_bar(group_words(one.name.group) if one.name.group else "all", one) for one in found]
    ends = [end for bar in bars for end in (bar.low, bar.high)]
    return interval_chart(bars, name=f"{primary.words} by group", x_name=f"{words(primary.name)}, 95 % interval", x=axis(ends))


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of texts; numbers stand on the right."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _cell(value: str) -> str:
    number = value.removeprefix("-").replace(".", "", 1).isdigit()
    return f'<td class="n">{escape(value)}</td>' if number else f"<td>{escape(value)}</td>"
