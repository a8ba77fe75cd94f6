"""Commands that look at runs and change nothing: `status`, `compare`, `report`, `result`, `model export`."""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from consortium.canonical import Json
from server import migrate
from server.baseline import against, write_against
from server.card import NOT_PRIVATE_BANNER
from server.cli_output import Output
from server.errors import ConfigError, ServerError
from server.export import copy_export
from server.figures import all_words
from server.folder import RunFolder, open_folder
from server.home import LeadHome
from server.journal import is_driven
from server.leaving import departure_sentences
from server.phantoms import Trial, Untried, tried
from server.progress import Watched
from server.report import compare, last_metrics, status, write_report
from server.report_phantoms import trial_words
from server.standing import standing, standing_lines
from server.state import read_state
from server.sums import result_lines, result_of, sums_only
from tasks.scoring.names import words

WATCH_S = 1.0
STATUS_EXAMPLE = """examples:
  wardround-lead status                  every run: where it stands, what it waits for
  wardround-lead status RUN --watch      site by site: asked, answered, refused, silent; why, and what helps
  wardround-lead status RUN --json       all of it for programs (keys: README of `server`)"""
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
        epilog=STATUS_EXAMPLE,
        formatter_class=raw,
    )
    shown.add_argument("run", type=Path, nargs="?", help="run folder or run id (default: every run of this lead)")
    shown.add_argument("--watch", action="store_true", help="draw it anew every second until the run ends or Ctrl-C")
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
        if args.watch:
            raise ConfigError("--watch needs a run: wardround-lead status RUN --watch")
        rows = [_short(path.parent) for path in sorted(home.runs.glob("*/plan.signed"))]
        out.rows(f"runs in {home.runs}", rows, empty="none")
        return 0
    path = run_path(home, args.run)
    if args.watch:
        return watch_status(path, out)
    found = status(path)
    sentences = departure_sentences(read_state(path))
    said: dict[str, Json] = {
        "left": f"{len(sentences)} for good, see below" if sentences else "none",
        "metrics": all_words(dict(last_metrics(read_state(path))), None) or "none",
    }
    now = found["now"] if isinstance(found["now"], dict) else {}
    shown = found if out.as_json else {name: value for name, value in (found | said).items() if name != "now"}
    out.facts(f"run {found['run_id']}: {found['phase']}" + ("" if found["private"] else f"  {NOT_PRIVATE_BANNER}"), shown)
    for sentence in [*standing_lines(now), *sentences]:
        out.say(sentence)
    return 0


def watch_status(path: Path, out: Output) -> int:
    """The run's standing, drawn anew every second until the run ended or Ctrl-C; with `--json` one document a line."""
    if out.as_json:
        for found in _looks(path):
            print(json.dumps(found, sort_keys=True), flush=True)
        return 0
    console = Console()
    with Live(console=console, auto_refresh=False) as shown:
        for found in _looks(path):
            shown.update(standing_table(found), refresh=True)
    return 0


def _looks(path: Path) -> Iterator[dict[str, Json]]:
    """Where the run stands, again and again; the last one is of a run that ended."""
    plan, watched, folder = open_folder(path).plan(), Watched(path), open_folder(path)
    while True:
        state = watched.look()
        head: dict[str, Json] = {"run_id": plan.run_id, "phase": state.phase, "rounds_done": state.completed("train")}
        yield head | {"rounds_planned": plan.schedule.rounds, "now": standing(folder, plan, state)}
        if state.phase == "finished" or (state.phase == "stopped" and not is_driven(folder.events)):
            return
        time.sleep(WATCH_S)


def standing_table(found: Mapping[str, Json]) -> Table:
    """One line for each site; what is waited for above them."""
    now = found["now"] if isinstance(found["now"], dict) else {}
    rounds = f"{found['rounds_done']} of {found['rounds_planned']} rounds"
    title = f"run {found['run_id']}: {found['phase']}, {rounds}\n{standing_lines(now)[0]}"
    table = Table(title=title, title_justify="left")
    for name in ("site", "state", "code", "at", "what it means and what helps"):
        table.add_column(name, overflow="fold")
    sites = now.get("sites")
    for site, one in sites.items() if isinstance(sites, dict) else ():
        if isinstance(one, dict):
            words = " ".join(str(one[name]) for name in ("words", "helps") if one.get(name))
            table.add_row(site, *(Text(str(one.get(name, ""))) for name in ("state", "code", "at")), Text(words))
    return table


def _short(path: Path) -> dict[str, object]:
    found = status(path)
    names = ("run_id", "phase", "task", "rounds_done", "rounds_planned", "private", "last_at")
    now = found["now"] if isinstance(found["now"], dict) else {}
    waits = {} if found["phase"] == "finished" else {"waits for": now.get("waits_for")}
    return {**{name: found[name] for name in names}, "waits for": "", **waits, "left": sorted(read_state(path).left)}


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
