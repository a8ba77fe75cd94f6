"""Commands that look at runs and change nothing: `status`, `compare`, `report`, `result`, `model export`."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from consortium.canonical import Json
from server import migrate
from server.baseline import against, write_against
from server.card import NOT_PRIVATE_BANNER
from server.cli_output import Output
from server.errors import ServerError
from server.export import copy_export
from server.figures import all_words
from server.folder import RunFolder, open_folder
from server.home import LeadHome
from server.leaving import departure_sentences
from server.phantoms import Trial, Untried, tried
from server.report import compare, last_metrics, status, write_report
from server.report_phantoms import trial_words
from server.state import read_state
from server.sums import result_lines, result_of, sums_only
from tasks.scoring.names import words

REPORT_EXAMPLE = """examples:
  wardround-lead report RUN
  wardround-lead report RUN --baseline BASELINE_RUN    a run of `task=..._baseline`: the page says which is better
  wardround-lead report RUN --no-phantoms              do not try a model for images on invented patients
A model for images is tried once on invented patients (a minute or so of one processor); the run's folder keeps what came of it."""


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    shown = verbs.add_parser(
        "status",
        parents=[common],
        help="where a run stands",
        epilog="example:\n  wardround-lead status RUN --json",
        formatter_class=raw,
    )
    shown.add_argument("run", type=Path, nargs="?", help="run folder or run id (default: every run of this lead)")
    shown.set_defaults(handler=show_status)
    compared = verbs.add_parser(
        "compare",
        parents=[common],
        help="runs side by side",
        epilog="example:\n  wardround-lead compare RUN1 RUN2",
        formatter_class=raw,
    )
    compared.add_argument("runs", type=Path, nargs="+", help="run folders or run ids")
    compared.set_defaults(handler=show_comparison)
    report = verbs.add_parser("report", parents=[common], help="one page about a run", epilog=REPORT_EXAMPLE, formatter_class=raw)
    report.add_argument("run", type=Path, help="run folder or run id")
    report.add_argument("--out", type=Path, help="HTML file to write (default: report.html in the run's folder)")
    report.add_argument("--baseline", type=Path, metavar="RUN", help="a run of the task's baseline: does this one beat it?")
    report.add_argument("--no-phantoms", action="store_true", help="leave out what the model makes of invented patients' images")
    report.set_defaults(handler=make_report)
    result = verbs.add_parser(
        "result",
        parents=[common],
        help="what a run of sums found",
        epilog="example:\n  wardround-lead result RUN --json",
        formatter_class=raw,
    )
    result.add_argument("run", type=Path, help="run folder or run id")
    result.set_defaults(handler=show_result)
    _add_model(verbs, common)


def _add_model(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    model = verbs.add_parser("model", parents=[common], help="the trained model")
    actions = model.add_subparsers(dest="action", required=True, metavar="ACTION")
    export = actions.add_parser(
        "export",
        parents=[common],
        help="weights, description and model card as files",
        epilog="example:\n  wardround-lead model export RUN --out cis-model",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("run", type=Path, help="run folder or run id")
    export.add_argument("--out", type=Path, required=True, help="folder to make")
    export.set_defaults(handler=export_to)


def run_path(home: LeadHome, name: Path) -> Path:
    """A run's folder, named by its path or by its id below the lead's `runs/`. Raises `ConfigError` if a newer version wrote it."""
    path = name if name.is_dir() else home.runs / name
    migrate.check(path, migrate.code_version())
    return path


def show_status(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    if args.run is None:
        rows = [_short(path.parent) for path in sorted(home.runs.glob("*/plan.signed"))]
        out.rows(f"runs in {home.runs}", rows, empty="none")
        return 0
    path = run_path(home, args.run)
    found = status(path)
    sentences = departure_sentences(read_state(path))
    said: dict[str, Json] = {
        "left": f"{len(sentences)} for good, see below" if sentences else "none",
        "metrics": all_words(dict(last_metrics(read_state(path))), None) or "none",
    }
    shown = found if out.as_json else found | said
    out.facts(f"run {found['run_id']}: {found['phase']}" + ("" if found["private"] else f"  {NOT_PRIVATE_BANNER}"), shown)
    for sentence in sentences:
        out.say(sentence)
    return 0


def _short(path: Path) -> dict[str, object]:
    found = status(path)
    names = ("run_id", "phase", "task", "rounds_done", "rounds_planned", "private", "last_at")
    return {**{name: found[name] for name in names}, "left": sorted(read_state(path).left)}


def show_comparison(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    rows = compare(run_path(home, run) for run in args.runs)
    out.side_by_side("runs, the best first", rows if out.as_json else _in_words(rows))
    return 0


def _in_words(rows: Sequence[Mapping[str, Json]]) -> list[dict[str, Json]]:
    """The figure by its name for people; without what no run has, such as the AUC of tasks that have none."""
    there = {name for row in rows for name, value in row.items() if value is not None}
    kept = [{name: value for name, value in row.items() if name in there} for row in rows]
    return [row | ({"figure": words(name)} if isinstance(name := row.get("figure"), str) else {}) for row in kept]


def make_report(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    run = run_path(home, args.run)
    facts: dict[str, str] = {}
    if args.baseline:
        found = against(run, run_path(home, args.baseline))
        write_against(run, found)
        facts = {"against its baseline": found.words}
    trial = None if args.no_phantoms else _tried(open_folder(run))
    if trial is not None:
        facts["on invented patients"] = trial_words(trial)
    written = write_report(run, args.out, trial=trial, phantoms=not args.no_phantoms)
    out.facts("report", {"file": str(written), **facts})
    return 0


def _tried(folder: RunFolder) -> Trial | Untried | None:
    """With a bar on a terminal: whole heads take a network a while."""
    console = Console(stderr=True)
    parts = (TextColumn("trying the model on invented patients"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*parts, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=None, visible=False)
        return tried(folder, folder.plan(), lambda at, of: progress.update(bar, completed=at, total=of, visible=True))


def show_result(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    folder = open_folder(run_path(home, args.run))
    plan = folder.plan()
    result = result_of(folder, plan)
    if result is None:
        trains = "it trains a model, see `wardround-lead report`"
        raise ServerError(f"run {plan.run_id} has no result: " + ("it is not finished" if sums_only(plan) else trains))
    out.lines(result_lines(result), result)
    return 0


def export_to(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    folder = open_folder(run_path(home, args.run))
    path = copy_export(folder, args.out)
    banner = "" if folder.plan().private else f"  {NOT_PRIVATE_BANNER}"
    out.facts(f"model{banner}", {"folder": str(path), "files": sorted(file.name for file in path.iterdir())})
    return 0
