"""`wardround-audit compare`: a coordinator's folders of runs against the sites' own books; what either hides is named.

Exit status: 0 nothing contradicts, 1 something does, 2 usage, or a file that cannot be read.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consortium.canonical import Json
from privacy.cli_books import Prove, read_books
from privacy.cli_output import DONE, FAILED, UsageError, add_accepted, print_json
from privacy.compare import MEANINGS, Comparison, Finding, Row, compare_books, ranges
from privacy.entries import NOT_PRIVATE

TRUST: Final = (
    "Nobody's word is taken: a ledger is signed by its site, a journal by nobody. That both agree does not prove that they tell "
    "the truth together; a difference proves that one of them is wrong or older."
)


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", prove: Prove) -> None:
    what = "compare a coordinator's runs with the sites' ledgers: what either of them hides"
    command = commands.add_parser(
        "compare",
        help=what,
        description=f"{what.capitalize()}.",
        epilog="example: wardround-audit compare lead/runs aachen.jsonl bonn.jsonl --egress aachen egress/ "
        "--founders 1f0c-22ab-5e6f-7a8b-9c0d-1e2f-3a4b-5c6d",
    )
    add_inputs(command)
    command.add_argument("--run", default="", help="look at this run alone (default: every run that anybody names)")
    command.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    command.set_defaults(command=lambda arguments, console: _compare(arguments, console, prove))


def add_inputs(command: argparse.ArgumentParser) -> None:
    """What `compare` and `report` take alike."""
    command.add_argument(
        "books",
        nargs="+",
        type=Path,
        metavar="BOOK",
        help="the coordinator's run folders (with plan.signed, or a folder of such), and the sites' ledgers",
    )
    command.add_argument(
        "--egress",
        nargs=2,
        action="append",
        default=[],
        metavar=("SITE", "FILE"),
        help="an egress manifest of a site, or a folder of them",
    )
    command.add_argument(
        "--founders",
        metavar="FINGERPRINT",
        help="the founders' fingerprint, as told by telephone: roster, plan and every record are then verified too",
    )
    add_accepted(command)


def given_egress(arguments: argparse.Namespace) -> list[tuple[str, Path]]:
    return [(site, Path(path)) for site, path in arguments.egress]


def _compare(arguments: argparse.Namespace, console: Console, prove: Prove) -> int:
    accepted = arguments.accept_replaced
    books = read_books(arguments.books, given_egress(arguments), arguments.founders, prove, accepted=accepted)
    if not books.runs:
        raise UsageError("no run folder was given: name the lead's folder of the run, the one with plan.signed")
    if not books.sites:
        raise UsageError("no ledger was given: name the files that `wardround-site ledger export` wrote")
    known = {run.run_id for run in books.runs} | {run_id for book in books.sites for run_id in book.named.values()}
    if arguments.run and arguments.run not in known:
        raise UsageError(f"--run {arguments.run}: neither a folder nor a ledger names it; known: {', '.join(sorted(known))}")
    found = compare_books(books.runs, books.sites, only=arguments.run)
    if arguments.json:
        print_json(document(found))
    else:
        _print(console, found)
    return DONE if found.ok else FAILED


# Words and tables.


def _print(console: Console, found: Comparison) -> None:
    _line(console, "[bold green]AGREE[/]" if found.ok else f"[bold red]DISAGREE[/] in {len(found.problems)} findings")
    _line(console, TRUST)
    if any(not run.plan.private for run in found.runs):
        _line(console, "[bold white on red] NOT PRIVATE: a plan among these adds no noise; no epsilon bounds it [/]")
    for run in found.runs:
        rests = (
            "roster and plan are the named founders'" if run.vouched else "roster and plan rest on this folder alone (--founders)"
        )
        opened = f"{len(run.opened)} of {len(run.asked)} rounds opened"
        _line(console, f"run {escape(run.run_id)}, {escape(run.state)}, {opened}, plan {run.plan.digest.hex()[:16]}; {rests}")
    console.print(rows_table(found.rows))
    for finding in (*found.problems, *found.remarks):
        word = "[bold red]PROBLEM[/]" if finding.grave else "[yellow]remark[/]"
        _line(console, f"{word} {escape(sentence(finding))}")
    for code in dict.fromkeys(finding.code for finding in (*found.problems, *found.remarks)):
        meaning = MEANINGS[code]
        _line(console, f"\n[bold]{meaning.title}[/]\n  can mean: {meaning.can_mean}\n  does not say: {meaning.cannot_mean}")


def sentence(finding: Finding) -> str:
    """One finding on one line: what it is called, where, and the facts."""
    rounds = f"round {ranges(finding.rounds)}" if finding.rounds else ""
    where = ", ".join(part for part in (f"run {finding.run}" if finding.run else "", finding.site, rounds) if part)
    return f"{finding.meaning.title}: {f'{where}: ' if where else ''}{finding.text}"


def rows_table(rows: Iterable[Row]) -> Table:
    table = Table("run", "site", "asked", "in a sum", "signed", "charged", "epsilon of these charges")
    for row in rows:
        counts = [str(row.charged), epsilon_text(row.epsilon)] if row.given else ["no ledger", ""]
        table.add_row(*map(escape, [row.run, row.site, str(row.asked), str(row.counted), str(row.proven), *counts]))
    return table


def epsilon_text(value: float) -> str:
    return "NOT PRIVATE" if value == NOT_PRIVATE else f"{value:.4f}"


def _line(console: Console, text: str) -> None:
    """One line that a search finds whole, however narrow the terminal."""
    console.print(text, soft_wrap=True)


# JSON: everything that the tables show.


def document(found: Comparison) -> dict[str, Json]:
    codes = sorted({finding.code for finding in found.findings})
    return {
        "findings": [_finding_document(finding) for finding in (*found.problems, *found.remarks)],
        "meanings": {code: _meaning_document(code) for code in codes},
        "ok": found.ok,
        "rows": [_row_document(row) for row in found.rows],
        "runs": [
            {
                "asked": len(run.asked),
                "opened": len(run.opened),
                "path": str(run.path),
                "plan": run.plan.digest.hex(),
                "private": run.plan.private,
                "run": run.run_id,
                "state": run.state,
                "vouched": run.vouched,
            }
            for run in found.runs
        ],
        "sites": [{"ledger": str(book.path), "ok": book.report.ok, "site": book.site} for book in found.books],
    }


def _finding_document(finding: Finding) -> Json:
    rounds: Sequence[int] = finding.rounds
    return {
        "code": finding.code,
        "problem": finding.grave,
        "rounds": list(rounds),
        "run": finding.run,
        "site": finding.site,
        "text": finding.text,
    }


def _meaning_document(code: str) -> Json:
    meaning = MEANINGS[code]
    return {"can_mean": meaning.can_mean, "does_not_say": meaning.cannot_mean, "title": meaning.title}


def _row_document(row: Row) -> Json:
    return {
        "asked": row.asked,
        "charged": row.charged if row.given else None,
        "counted": row.counted,
        "delta": row.delta,
        "epsilon": row.epsilon if row.given and row.epsilon != NOT_PRIVATE else None,
        "private": row.epsilon != NOT_PRIVATE,
        "run": row.run,
        "signed": row.proven,
        "site": row.site,
    }
