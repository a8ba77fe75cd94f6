"""What a model made of invented patients, as the run's page shows it: figures, charts, tables and slices."""

from collections.abc import Sequence
from html import escape

from privacy.report_html import element, join, paragraph
from server.charts import Interval, axis, interval_chart
from server.phantoms import Trial
from tasks.imaging.results import (
    NO_LESIONS,
    Cuts,
    Estimate,
    Row,
    Session,
    by_load,
    by_scanner,
    drawn_of,
    estimate_words,
    row_of,
    short,
)  # fmt: skip
from tasks.imaging.results_html import agreement_chart, agreement_words, keys, results_table, sizes_table, slices

TRUE = "true"
READING = (
    "In brackets: 95 % intervals for a new sample of invented patients. Every hospital has patients of the same lesion loads, so "
    "that scanners can be compared. A lesion has at least 3 mm3 and is found if one voxel of it is."
)


def trial_html(trial: Trial, cuts_ml: Cuts) -> str:
    """All of it; `cuts_ml`: between the task's lesion loads."""
    return "".join((_facts(trial), _charts(trial), _tables(trial, cuts_ml), _pictures(trial.sessions)))


def mean_dice(trial: Trial) -> str:
    """With its interval."""
    return estimate_words(row_of("all", trial.sessions).dice)


def _facts(trial: Trial) -> str:
    whole = row_of("all", trial.sessions)
    facts = {
        "invented sessions" + (f", {trial.unusable} more could not be used" if trial.unusable else ""): f"{whole.sessions}",
        f"mean Dice{_ends(whole.dice)}": _value(whole.dice),
        f"lesion-wise F1{_ends(whole.f1)}": _value(whole.f1),
        f"volume, found minus true, mL{_ends(whole.bias_ml)}": _value(whole.bias_ml, signed=True),
    }
    cells = "".join(f'<div class="fact"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in facts.items())
    return f'<div class="facts">{cells}</div>'


def _value(estimate: Estimate | None, *, signed: bool = False) -> str:
    return estimate_words(Estimate(estimate.value) if estimate else None, signed=signed)


def _ends(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f", 95 % {estimate.low:.2f} to {estimate.high:.2f}"


def _charts(trial: Trial) -> str:
    rows = [row_of("all", trial.sessions), *by_scanner(trial.sessions)]
    bars = [_bar(row) for row in rows if row.dice is not None]
    drawn, words = {}, ""
    if bars:
        x = axis([end for bar in bars for end in (bar.low, bar.high)])
        chart = interval_chart(bars, name="Dice by hospital", x_name="mean Dice, 95 % interval", x=x)
        drawn["Dice by invented hospital"] = chart
    if len(drawn_of(trial.sessions)) > 1:
        words = f'<p class="note">{escape(agreement_words(trial.sessions, TRUE))}</p>'
        drawn["Lesion volumes (Bland-Altman)"] = agreement_chart(trial.sessions, TRUE)
    shown = "".join(f"<figure><figcaption>{escape(name)}</figcaption>{chart}</figure>" for name, chart in drawn.items())
    return f'<div class="charts">{shown}</div>{words}'


def _bar(row: Row) -> Interval:
    dice = row.dice or Estimate(0.0)
    low, high = (dice.value if end is None else end for end in (dice.low, dice.high))
    return Interval(short(row.name), dice.value, low, high, estimate_words(dice))


def _tables(trial: Trial, cuts_ml: Cuts) -> str:
    sessions = trial.sessions
    return str(
        join(
            [
                results_table("By invented hospital and its scanner", "hospital", by_scanner(sessions), second=TRUE),
                results_table("By lesion load", "true lesion load", by_load(sessions, cuts_ml), second=TRUE),
                sizes_table("Single lesions by size", row_of("all", sessions)),
                paragraph(f"{READING} Model {trial.digest[:16]}.", class_="note"),
            ]
        )
    )


def _pictures(sessions: Sequence[Session]) -> str:
    """One row for each hospital: the slice with most lesion of each patient, by lesion load."""
    parts = [element("h3", "Slices with most lesion, predicted and true outlines"), keys(f"{TRUE} outline")]
    for where in sorted({session.scanner for session in sessions}):
        own = sorted((each for each in sessions if each.scanner == where), key=lambda each: each.scores.true_ml)
        parts += [element("h4", where), slices([(_caption(each), picture) for each in own for picture in each.found.pictures])]
    return str(join(parts))


def _caption(session: Session) -> str:
    scores = session.scores
    dice = f"Dice {scores.dice:.2f}" if scores.true_ml else NO_LESIONS
    return f"{dice}; {scores.true_ml:.1f} mL true, {scores.predicted_ml:.1f} mL found"
