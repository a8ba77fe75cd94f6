"""A finished or running run on one page that can be mailed and kept: one HTML file, no script, no request to anywhere.

`status` and `compare` give the same facts as plain values. All of it comes from the signed plan and the journal.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from consortium.canonical import Json
from consortium.plan import Plan
from consortium.wire import SENTENCES
from secagg.opening import Finding
from server import figures
from server.asked import asked_sentences
from server.baseline import read_against
from server.card import (
    NOT_PRIVATE_BANNER,
    epsilon_note,
    epsilon_text,
    epsilon_words,
    guarantee,
    privacy_line,
    published_words,
)
from server.charts import stacked_bars
from server.figures import AUC
from server.folder import open_folder, write_durably
from server.journal import RoundDone, RoundFailed
from server.leaving import departures
from server.phantoms import Trial, Untried, known_trial
from server.progress import patients_words
from server.report_figures import quality_charts, quality_tables, table
from server.report_phantoms import images_note, phantom_section
from server.row_gap import read_row_gap
from server.standing import standing
from server.state import RunState, read_state
from server.sums import result_html, result_of, sums_only
from tasks.imaging.results_style import STYLE as RESULTS_STYLE

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c1917;background:#fafaf9;margin:0}
main{max-width:1120px;margin:0 auto;padding:24px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:32px 0 8px}
.sub,.note{color:#57534e}.note{font-size:13px}
.banner{background:#b91c1c;color:#fff;font-weight:700;padding:10px 14px;border-radius:6px;margin:16px 0}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0}
.fact{background:#fff;border:1px solid #e7e5e4;border-radius:8px;padding:10px 14px}
.fact b{display:block;font-size:20px;font-weight:600}.fact span{color:#57534e;font-size:13px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:16px}
figure{margin:0;background:#fff;border:1px solid #e7e5e4;border-radius:8px;padding:12px}
figcaption{font-weight:600;margin-bottom:4px}svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#57534e}
table{border-collapse:collapse;background:#fff;width:100%}th,td{text-align:left;padding:6px 10px;border:1px solid #e7e5e4}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}th{background:#f5f5f4;font-weight:600}
.legend span{margin-right:14px;font-size:13px;color:#57534e}
.legend i{display:inline-block;width:10px;height:10px;margin-right:5px;border-radius:2px}
code{font-size:13px;overflow-wrap:anywhere}
.groups td{font-size:13px;white-space:nowrap}.groups{overflow-x:auto}h3{font-size:15px;margin:20px 0 6px}
h4{font-size:14px;margin:16px 0 6px;font-weight:600}
.scroll{overflow-x:auto;margin:0 0 16px}.scroll td,.scroll th{font-size:13.5px}.scroll td.n{white-space:nowrap}
caption{text-align:left;font-weight:600;padding:0 0 6px}tbody th{min-width:120px}
.invented{border:1px solid #a16207;border-left-width:10px;background:#fefce8;padding:10px 14px;border-radius:4px}
@media print{body{background:#fff}main{max-width:none}}
"""


def status(run_dir: Path) -> dict[str, Json]:
    """Where the run stands, as plain values for `--json`."""
    folder = open_folder(run_dir)
    plan, state, colluders = folder.plan(), read_state(run_dir), folder.roster().colluders
    return {
        "run_id": plan.run_id,
        "folder": str(run_dir),
        "plan_digest": plan.digest.hex(),
        "phase": state.phase,
        "stopped": state.stopped,
        "private": plan.private,
        "privacy": privacy_line(plan),
        "task": plan.task.name,
        "started_at": state.started_at,
        "last_at": state.last_at,
        "rounds_done": state.completed("train"),
        "rounds_planned": plan.schedule.rounds,
        "last_round": state.last_done,
        "failed_rounds": len(state.failed),
        "lost": [lost_sentence(failed) for failed in state.failed],
        "findings": [f"{sentence} (round {numbers})" for sentence, numbers in findings(state).items()],
        "resumes": state.resumes,
        "waiting": dict(state.waiting),
        "now": standing(folder, plan, state),
        "left": list[Json](departures(state)),
        "sites": dict(state.participation()),
        "metrics": dict(last_metrics(state)),
        "metrics_of": figures.whose(last) if (last := figures.evaluated(state)) else "nobody yet",
        "row_gap": dict[str, Json](asdict(gap)) if (gap := read_row_gap(run_dir)) else None,
        "against_baseline": against.words if (against := read_against(run_dir)) else None,
        "training_patients": patients_words(state) or "not counted",
        "seconds_a_round": _median([_seconds(done) for done in state.done]),
        "bytes_up": sum(done.bytes_up for done in state.done),
        "bytes_down": sum(done.bytes_down for done in state.done),
        "epsilon": {site: list(epsilon_words(plan, state, site, colluders=colluders)) for site in plan.sites},
        "epsilon_basis": epsilon_note(plan, state),
        "epsilon_published": {site: published_words(found) for site, found in sorted(state.published.items())},
        "model_digest": state.model_digest.hex(),
    }


def compare(run_dirs: Iterable[Path]) -> list[dict[str, Json]]:
    """One row for each run, the best by its task's primary figure first; rows of different tasks or cohorts are not comparable and
    say which. Runs of one figure stand together."""
    rows: list[tuple[tuple[str, float, str], dict[str, Json]]] = []
    for run_dir in run_dirs:
        plan, found = open_folder(run_dir).plan(), status(run_dir)
        metrics = figures.newest(read_state(run_dir))
        primary = figures.primary_of(plan)
        value = metrics.get(primary.name) if primary else None
        row: dict[str, Json] = {
            "run_id": plan.run_id,
            "task": plan.task.name,
            "model": plan.model.name,
            "strategy": plan.strategy.name,
            "sites": len(plan.sites),
            "epsilon_exposed": NOT_PRIVATE_BANNER if not plan.private else plan.privacy.epsilon_exposed,
            "epsilon_model": NOT_PRIVATE_BANNER if not plan.private else plan.privacy.epsilon_model,
            "rounds": found["rounds_done"],
            "phase": found["phase"],
            "figure": primary.name if primary else None,
            "value": value,
            "of": figures.side_of(last) if (last := figures.evaluated(read_state(run_dir))) else None,
            "auc": metrics.get("auc"),
            "brier": metrics.get("brier"),
            "seconds_a_round": found["seconds_a_round"],
            "bytes_up": found["bytes_up"],
        }
        rank = math.inf if value is None or primary is None else primary.rank(value)
        rows.append(((primary.name if primary else "", rank, plan.run_id), row))
    return [row for _, row in sorted(rows, key=lambda one: one[0])]


def last_metrics(state: RunState) -> tuple[tuple[str, float], ...]:
    """The newest pooled metrics; empty before the first evaluation."""
    return next((done.metrics for done in reversed(state.done) if done.metrics), ())


def write_report(run_dir: Path, target: Path | None = None, *, trial: Trial | Untried | None = None, phantoms: bool = True) -> Path:
    """Write the page into the run folder (or to `target`) and return its path.

    `trial` on invented patients; without it the one that is kept. `phantoms`: whether the page has a section about it.
    """
    folder = open_folder(run_dir)
    path = target or folder.report
    plan = folder.plan()
    result, measured = result_of(folder, plan), [read_against(run_dir), read_row_gap(run_dir)]
    said = [f"{each.words[:1].upper()}{each.words[1:]}." for each in measured if each]
    shown = phantom_section(plan, trial or known_trial(folder, plan)) if phantoms else ""
    written = page(plan, read_state(run_dir), colluders=folder.roster().colluders, result=result, said=said, phantoms=shown)
    write_durably(path, written.encode())
    return path


def page(
    plan: Plan,
    state: RunState,
    *,
    colluders: int,
    result: Mapping[str, Json] | None = None,
    said: Sequence[str] = (),
    phantoms: str = "",
) -> str:
    """The whole page. `state` may be of a run that has not ended; `colluders` as its roster has it; `result`: what sums found;
    `said`: what comparisons with other runs found, a sentence each; `phantoms`: the section about invented patients."""
    title = escape(f"{plan.task.name}: run {plan.run_id}")
    banner = "" if plan.private else f'<div class="banner">{NOT_PRIVATE_BANNER}: no clipping, no noise, epsilon unbounded</div>'
    body = [
        f"<h1>{title}</h1>",
        f'<p class="sub">{escape(plan.model.name)}, strategy {escape(plan.strategy.name)}, signed by {escape(plan.lead)} on '
        f"{escape(plan.created)}; state: {escape(state.phase)}</p>",
        banner,
        _facts(plan, state),
        result_html(result) if result else "",
        _charts(plan, state),
        quality_tables(plan, state),
        images_note(plan),
        "".join(f"<p>{escape(sentence)}</p>" for sentence in [*asked_sentences(plan), *said]),
        phantoms,
        "<h2>Sites</h2>",
        _sites(plan, state, colluders),
        "<h2>Sites that left for good</h2>" + _left(state) if state.left else "",
        "<h2>Rounds that opened nothing</h2>" + _failures(state) if state.failed else "",
        "<h2>Messages that were wrong</h2>" + table(["what was seen", "rounds"], list(findings(state).items()))
        if state.found
        else "",
        "<h2>What is promised to a patient</h2>",
        "".join(f"<p>{_emphasised(sentence)}</p>" for sentence in guarantee(plan)),
        "<h2>Provenance</h2>",
        f"<p>Plan <code>{plan.digest.hex()}</code><br>Roster <code>{plan.roster_digest.hex()}</code><br>"
        f"Model <code>{state.model_digest.hex() or 'none yet'}</code><br>Code {escape(plan.code_version)}; "
        f"columns {escape(', '.join(plan.task.columns))}</p>",
    ]
    style = f"<style>{STYLE}{RESULTS_STYLE}</style>"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>{style}'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>{"".join(body)}</main></body></html>\n'


def _emphasised(sentence: str) -> str:
    """The card's markdown emphasis as HTML, everything else escaped."""
    pieces = escape(sentence).split("**")
    bold = "".join(f"<b>{piece}</b>" if at % 2 else piece for at, piece in enumerate(pieces))
    return "".join(f"<i>{piece}</i>" if at % 2 else piece for at, piece in enumerate(bold.split("*")))


def _facts(plan: Plan, state: RunState) -> str:
    exposed, model = (epsilon_text(value) for value in (plan.privacy.epsilon_exposed, plan.privacy.epsilon_model))
    facts = {
        **_primary_fact(plan, state),
        "sums" if sums_only(plan) else "training rounds": f"{state.completed('train')} of {plan.schedule.rounds}",
        "epsilon exposed, at most": exposed,
        "epsilon model, at most": model,
        "seconds a round": f"{_median([_seconds(done) for done in state.done]):.2f}",
        **({"training patients": counted} if (counted := patients_words(state)) else {}),
        "MB up, all sites": f"{sum(done.bytes_up for done in state.done) / 1e6:.2f}",
    }
    cells = "".join(f'<div class="fact"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in facts.items())
    return f'<div class="facts">{cells}</div>'


def _primary_fact(plan: Plan, state: RunState) -> dict[str, str]:
    """The primary figure of the newest evaluation, under its name and interval."""
    primary = figures.primary_of(plan) or (None if sums_only(plan) else AUC)
    if primary is None:
        return {}
    measured, last = figures.newest(state), figures.evaluated(state)
    found = next((one for one in figures.ordered(measured, primary) if str(one.name) == primary.name), None)
    if found is None or last is None:
        return {f"pooled {primary.words}": "nothing to show" if last else "not measured"}
    ends = f", 95 % {figures.interval(found)}" if figures.interval(found) else ""
    noise = "; noise is of its size, do not read it" if figures.drowned(measured) else ""
    return {f"pooled {primary.words}, {figures.side_of(last)} patients{ends}{noise}": figures.number(found.value)}


def _charts(plan: Plan, state: RunState) -> str:
    if not state.done:
        return "<p>No round has opened a sum yet.</p>"
    phases = sorted({name for done in state.done for name, _ in done.seconds})
    seconds = [(float(done.round), [dict(done.seconds).get(name, 0.0) for name in phases]) for done in state.done]
    survivors = [(float(done.round), [float(len(done.survivors))]) for done in state.done]
    charts = {
        **(quality_charts(plan, state) if figures.primary_of(plan) or not sums_only(plan) else {}),
        "Seconds by phase": stacked_bars(seconds, name="Seconds a round", names=phases, x_name="round", y_name="seconds"),
        "Sites in the sum": stacked_bars(
            survivors, name="Sites a round", names=["sites"], x_name="round", y_name="sites", whole=True
        ),
    }
    drawn = "".join(f"<figure><figcaption>{escape(name)}</figcaption>{chart}</figure>" for name, chart in charts.items())
    return f'<div class="charts">{drawn}</div>'


def _sites(plan: Plan, state: RunState, colluders: int) -> str:
    taken, dropped = state.participation(), _drops(state)
    rows = []
    for participant in plan.participants:
        site = participant.site
        exposed, model = epsilon_words(plan, state, site, colluders=colluders)
        size, weight = str(participant.declared_patients), f"{plan.weight(site):.3f}"
        rows.append([site, size, weight, str(taken.get(site, 0)), dropped.get(site, ""), exposed, model])
    names = ["site", "declared patients", "weight", "rounds in sums", "missed (phase code)", "epsilon exposed", "epsilon model"]
    return f'<div class="scroll">{table(names, rows)}</div><p class="note">{escape(epsilon_note(plan, state))}</p>'


def _drops(state: RunState) -> dict[str, str]:
    """Site -> what it missed, e.g. "3x update LATE"."""
    counts: dict[str, dict[str, int]] = {}
    lists = [done.dropped for done in state.done] + [failed.dropped for failed in state.failed]
    for drop in (drop for drops in lists for drop in drops):
        reasons = counts.setdefault(drop.site, {})
        reasons[f"{drop.phase} {drop.code}"] = reasons.get(f"{drop.phase} {drop.code}", 0) + 1
    return {site: ", ".join(f"{count}x {why}" for why, count in sorted(reasons.items())) for site, reasons in counts.items()}


def _left(state: RunState) -> str:
    names = ("site", "when", "code", "why", "then")
    rows = [[str(one[name]) for name in names] for one in departures(state)]
    return table(["site", "when", "code", "why", "what you can do"], rows)


def _failures(state: RunState) -> str:
    rows = [[str(failed.round), failed.purpose, failed.code, _why(failed), _missing(failed)] for failed in state.failed]
    return table(["round", "purpose", "code", "why", "sites"], rows)


def _why(failed: RoundFailed) -> str:
    return LOST.get(failed.code) or SENTENCES[failed.code]


def _missing(failed: RoundFailed) -> str:
    return ", ".join(f"{drop.site} ({drop.phase} {drop.code})" for drop in failed.dropped) or "none is named"


def lost_sentence(failed: RoundFailed) -> str:
    """Why a round opened nothing, and who was missing at which phase."""
    return f"round {failed.round} {failed.purpose}: {failed.code}. {_why(failed)} Sites: {_missing(failed)}"


LOST = {
    "TOO_FEW": "Fewer uploads came than the threshold.",
    "NOT_OPENABLE": "Too few ballots open, or shares do not match what their dealer committed to.",
    "SPOILED": "The sum is none of updates: a site masked garbage, and which one cannot be told.",
    "DIVERGED": "The step left the range of float32: a smaller rate, or another strategy.",
}


def findings(state: RunState) -> dict[str, str]:
    """What was seen of wrong messages, in words -> the rounds in which it was."""
    rounds: dict[str, list[str]] = {}
    for found in state.found:
        rounds.setdefault(Finding(found.what, found.sites).sentence, []).append(str(found.round))
    return {sentence: ", ".join(numbers) for sentence, numbers in rounds.items()}


def _seconds(done: RoundDone) -> float:
    return sum(seconds for _, seconds in done.seconds)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    if not ordered:
        return 0.0
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2.0
