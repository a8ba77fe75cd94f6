"""Commands that look at runs and change nothing: `status`, `compare`, `report`, `result`, `model export`."""

import argparse
from pathlib import Path

from server.baseline import against, write_against
from server.card import NOT_PRIVATE_BANNER
from server.cli_output import Output
from server.errors import ServerError
from server.export import copy_export
from server.folder import open_folder
from server.home import LeadHome
from server.leaving import departure_sentences
from server.report import compare, status, write_report
from server.state import read_state
from server.sums import result_lines, result_of, sums_only

REPORT_EXAMPLE = """examples:
  wardround-lead report RUN
  wardround-lead report RUN --baseline BASELINE_RUN    a run of `task=..._baseline`: the page says which is better"""


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
    """A run's folder, named by its path or by its id below the lead's `runs/`."""
    return name if name.is_dir() else home.runs / name


def show_status(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    if args.run is None:
        rows = [_short(path.parent) for path in sorted(home.runs.glob("*/plan.signed"))]
        out.rows(f"runs in {home.runs}", rows, empty="none")
        return 0
    path = run_path(home, args.run)
    found = status(path)
    sentences = departure_sentences(read_state(path))
    shown = found if out.as_json else found | {"left": f"{len(sentences)} for good, see below" if sentences else "none"}
    out.facts(f"run {found['run_id']}: {found['phase']}" + ("" if found["private"] else f"  {NOT_PRIVATE_BANNER}"), shown)
    for sentence in sentences:
        out.say(sentence)
    return 0


def _short(path: Path) -> dict[str, object]:
    found = status(path)
    names = ("run_id", "phase", "task", "rounds_done", "rounds_planned", "private", "last_at")
    return {**{name: found[name] for name in names}, "left": sorted(read_state(path).left)}


def show_comparison(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    out.side_by_side("runs, the best first", compare(run_path(home, run) for run in args.runs))
    return 0


def make_report(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    run = run_path(home, args.run)
    facts: dict[str, str] = {}
    if args.baseline:
        found = against(run, run_path(home, args.baseline))
        write_against(run, found)
        facts = {"against its baseline": found.words}
    out.facts("report", {"file": str(write_report(run, args.out)), **facts})
    return 0


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
