"""`wardround-lead publish`: put what sites chose to publish beside a run, and show it wherever the run is shown."""

import argparse
from pathlib import Path

from consortium.statement import KIND
from server.card import published_words
from server.cli_output import Output
from server.cli_reports import run_path
from server.export import export_model
from server.folder import RunFolder, open_folder
from server.home import LeadHome, read_signed
from server.published import checked, publish
from server.report import write_report
from server.state import read_state
from server.tracking import start_mirror

MIRROR_WAIT_S = 60.0
EXAMPLE = """example:
  wardround-lead publish RUN hospital-a.statement hospital-b.statement
A site makes its statement with `wardround-site budget --publish FILE --run RUN`, if it chooses to."""


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    part = verbs.add_parser(
        "publish",
        parents=[common],
        help="what sites publish about their ledgers",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    part.add_argument("run", type=Path, help="run folder or run id")
    part.add_argument("files", type=Path, nargs="+", metavar="FILE", help="signed statement of a site")
    part.add_argument("--no-tracking", action="store_true", help="do not mirror to MLflow")
    part.add_argument("--store", default="", help="MLflow tracking URI (default: a database in the hub's folder)")
    part.set_defaults(handler=publish_statements)


def publish_statements(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    """All statements or none; exit status 1 if the MLflow store did not take them (they stand in the journal all the same)."""
    folder = open_folder(run_path(home, args.run))
    plan, roster = folder.plan(), home.roster()
    sites = publish(folder, [checked(read_signed(path, KIND), plan, roster) for path in args.files])
    state = read_state(folder.path)
    write_report(folder.path)
    if state.phase == "finished":
        export_model(folder)
    mirrored = args.no_tracking or _mirrored(folder, args.store or home.tracking_store, out)
    facts = {site: published_words(found) for site, found in sorted(state.published.items())}
    out.facts(f"published beside run {plan.run_id} ({', '.join(sites) or 'nothing'} new)", facts)
    return 0 if mirrored else 1


def _mirrored(folder: RunFolder, store: str, out: Output) -> bool:
    mirror = start_mirror(folder.path, store)
    if mirror.wait(MIRROR_WAIT_S):
        return True
    mirror.stop()
    out.say(f"MLflow is behind: python -m server.tracking {folder.path} --store {store} catches up")
    return False
