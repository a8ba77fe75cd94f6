"""`wardround-audit report`: all books that an auditor was given, verified, recomputed, and put on one page that can be kept.

Exit status: 0 everything holds, 1 something does not (the page is written all the same, and says what), 2 usage.
"""

import argparse
import math
import re
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape

from consortium.canonical import Json
from privacy.cli_books import Given, Prove, Reader, files_in, read_books
from privacy.cli_compare import add_inputs, given_egress
from privacy.cli_output import DONE, FAILED, FINGERPRINT, UsageError, print_json
from privacy.compare import compare_books
from privacy.report import Facts, Told, gather
from privacy.report_page import epsilon_text, page

_DATE: Final = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", prove: Prove) -> None:
    what = "write one HTML page about everything that was spent, approved, refused and released"
    command = commands.add_parser(
        "report",
        help=what,
        description=f"{what.capitalize()}. It needs no network and no script, and prints.",
        epilog="example: wardround-audit report aachen.jsonl bonn.jsonl lead/runs --egress aachen egress/ --budget aachen 10 "
        "--key aachen 1a2b-3c4d-5e6f-7a8b-9c0d-1e2f-3a4b-5c6d --out report.html",
    )
    add_inputs(command)
    command.add_argument("--out", required=True, type=Path, metavar="FILE", help="the page; a file that exists is not overwritten")
    command.add_argument(
        "--evidence", nargs="+", type=Path, default=[], metavar="FILE", help="measurements (JSON), or folders of them"
    )
    _pair(command, "--budget", "EPSILON", "a site's total budget, as its policy has it")
    _pair(command, "--key", "FINGERPRINT", "a site's key, as told by telephone")
    command.add_argument("--date", default="", help="as of, like 2026-01-31 (default: of the newest entry in the books)")
    command.add_argument("--title", default=Told().title, help="heading of the page")
    command.add_argument("--json", action="store_true", help="print what was found as JSON; the page is written as well")
    command.set_defaults(command=lambda arguments, console: _report(arguments, console, prove))


def _pair(command: argparse.ArgumentParser, name: str, value: str, what: str) -> None:
    command.add_argument(name, nargs=2, action="append", default=[], metavar=("SITE", value), help=what)


def _report(arguments: argparse.Namespace, console: Console, prove: Prove) -> int:
    told = _told(arguments)
    if arguments.out.exists():
        raise UsageError(f"{arguments.out} exists: name a new file")
    accepted = arguments.accept_replaced
    books = read_books(arguments.books, given_egress(arguments), arguments.founders, prove, accepted=accepted)
    if not books.sites:
        raise UsageError("no ledger was given: name the files that `wardround-site ledger export` wrote")
    _check_sites(told, {book.site for book in books.sites})
    audits, more = _evidence(arguments.evidence)
    comparison = compare_books(books.runs, books.sites) if books.runs else None
    facts = gather(books.sites, comparison, (*books.audits, *audits), told)
    _write(arguments.out, page(facts, (*books.files, *more)))
    if arguments.json:
        print_json(_document(facts, arguments.out))
    else:
        _print(console, facts, arguments.out)
    return DONE if facts.ok else FAILED


def _told(arguments: argparse.Namespace) -> Told:
    if arguments.date and not _DATE.fullmatch(arguments.date):
        raise UsageError(f"--date {arguments.date}: a date is like 2026-01-31")
    for site, fingerprint in arguments.key:
        if not FINGERPRINT.fullmatch(fingerprint):
            raise UsageError(f"--key {site} {fingerprint}: a fingerprint is 8 groups of 4 hex digits: ask {site} by telephone")
    budgets = {site: _positive(site, budget) for site, budget in arguments.budget}
    return Told(arguments.date, arguments.title, budgets, dict(arguments.key))


def _positive(site: str, budget: str) -> float:
    try:
        value = float(budget)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0.0):
        raise UsageError(f"--budget {site} {budget}: a budget is a number above 0")
    return value


def _check_sites(told: Told, sites: set[str]) -> None:
    for option, named in (("--budget", told.budgets), ("--key", told.keys)):
        if strangers := sorted(set(named) - sites):
            raise UsageError(f"{option} {strangers[0]}: the ledgers that were given are of {', '.join(sorted(sites))}")


def _evidence(paths: list[Path]) -> tuple[list[tuple[Path, bytes]], list[Given]]:
    reader = Reader()
    files = [file for path in paths for file in (files_in(path, "*.json") if path.is_dir() else [path])]
    return [(file, reader.bytes_of(file, "empirical audit")) for file in files], reader.files


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _print(console: Console, facts: Facts, path: Path) -> None:
    console.print("[bold green]HOLDS[/]" if facts.ok else "[bold red]DOES NOT HOLD[/]: the page says what", soft_wrap=True)
    if not facts.private:
        console.print("[bold white on red] NOT PRIVATE: something left without noise; no epsilon bounds it [/]", soft_wrap=True)
    for site in facts.sites:
        verdict = f"[bold red]FAILED[/] {escape(site.problems[0])}" if site.problems else "verified"
        spent = f"epsilon {epsilon_text(site.worst.charged)} charged at delta {site.worst.delta:.3g}, " if site.worst else ""
        console.print(f"{escape(site.name)}: {spent}{verdict}", soft_wrap=True)
    console.print(f"report: {escape(str(path))}", soft_wrap=True)


def _document(facts: Facts, path: Path) -> dict[str, Json]:
    return {
        "as_of": facts.as_of,
        "ok": facts.ok,
        "private": facts.private,
        "report": str(path),
        "sites": [
            {
                "charged": site.worst.charged if site.worst and math.isfinite(site.worst.charged) else None,
                "delta": site.worst.delta if site.worst else None,
                "exposed": site.worst.exposed if site.worst and math.isfinite(site.worst.exposed) else None,
                "ledger": str(site.book.path),
                "private": site.private,
                "problems": list(site.problems),
                "site": site.name,
            }
            for site in facts.sites
        ],
        "studies": [study.run_id for study in facts.studies],
    }
