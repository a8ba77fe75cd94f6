"""`wardround-audit`: checks a site's ledger, and a run's rounds, offline, without torch, network or trust in anybody.

Exit status: 0 done and in order, 1 verification failed, 2 usage, or a file that cannot be read.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consortium.canonical import Json
from consortium.identity import PUBLIC_SIZE, fingerprint
from privacy import cli_rounds
from privacy.check import Bracket
from privacy.cli_output import DONE, FAILED, FINGERPRINT, USAGE, UsageError, print_json
from privacy.entries import Entry, Genesis, SpendRecord
from privacy.errors import LedgerError, PrivacyError
from privacy.events import GaussianEvent, NonPrivateEvent, PoissonGaussianEvent, Spend, spend_to_document
from privacy.ledger import head_path, read_entries
from privacy.verify import Figure, Report, compare, recompute, verify_ledger

BANNER: Final = "NOT PRIVATE: something left this site without noise; no epsilon bounds it"

_GUARANTEE: Final = (
    "Unit: the patient with all visits and scans. Neighbours: add or remove one patient. Against everybody outside the site. "
    "Train and held-out patients are disjoint and each have at most the epsilon shown."
)


@dataclass(frozen=True)
class Source:
    """One ledger file as it was read, with its head file if one lies beside it."""

    path: Path
    data: bytes
    head: bytes | None


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns the exit status."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace, Console], int] = arguments.command
    try:
        return command(arguments, Console(highlight=False))
    except UsageError as error:
        print(f"wardround-audit: {error}", file=sys.stderr)
        return USAGE
    except PrivacyError as error:
        print(f"wardround-audit: {error}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wardround-audit",
        description="Check what a hospital released, and what it cost its patients in privacy. Offline; trusts nobody.",
        epilog="example: wardround-audit verify ledger.jsonl --key 1a2b-3c4d-5e6f-7a8b-9c0d-1e2f-3a4b-5c6d",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    verify = _command(commands, "verify", _verify, "check chain, signatures, rounds and claimed epsilons of ledgers")
    verify.add_argument("ledgers", nargs="+", type=Path, metavar="LEDGER", help="ledger files; copies of one site are compared")
    verify.add_argument("--key", help="the site's key: its fingerprint as told by telephone, or a file with 32 bytes (or hex)")
    epsilon = _command(commands, "epsilon", _epsilon, "recompute epsilon from the recorded mechanisms, twice, and compare")
    epsilon.add_argument("ledger", type=Path, metavar="LEDGER")
    epsilon.add_argument("--delta", type=_delta, help="at this delta too (default: the deltas that the ledger used)")
    show = _command(commands, "show", _show, "list every entry of a ledger")
    show.add_argument("ledger", type=Path, metavar="LEDGER")
    cli_rounds.add_command(commands)
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace, Console], int],
    what: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=what, epilog=f"example: wardround-audit {name} ledger.jsonl --json")
    command.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    command.set_defaults(command=run)
    return command


def _delta(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"delta {text} outside (0, 1)")
    return value


def _read(path: Path) -> Source:
    try:
        beside = head_path(path)
        return Source(path, path.read_bytes(), beside.read_bytes() if beside.exists() else None)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


# Each command: read, judge, print.


def _verify(arguments: argparse.Namespace, console: Console) -> int:
    sources = [_read(path) for path in arguments.ledgers]
    key, told = _expected_key(arguments.key)
    reports = [_with_fingerprint(verify_ledger(source.data, key, source.head), told) for source in sources]
    partings = compare([source.data for source in sources])
    ok = all(report.ok for report in reports) and not partings
    if arguments.json:
        print_json({"ok": ok, "ledgers": [_report_document(*pair) for pair in _pairs(sources, reports)], "forks": list(partings)})
    else:
        for source, report in _pairs(sources, reports):
            _print_report(console, source, report)
        for parting in partings:
            console.print(f"[bold red]FORK[/] {escape(parting)}")
    return DONE if ok else FAILED


def _pairs(sources: Sequence[Source], reports: Sequence[Report]) -> list[tuple[Source, Report]]:
    return list(zip(sources, reports, strict=True))


def _expected_key(text: str | None) -> tuple[bytes | None, str | None]:
    """The public key, or the fingerprint, that `--key` stands for."""
    if text is None:
        return None, None
    if FINGERPRINT.fullmatch(text):
        return None, text
    try:
        data = Path(text).read_bytes()
    except OSError as error:
        raise UsageError(f"--key {text}: neither a fingerprint (8 groups of 4 hex digits) nor a readable file") from error
    if len(data) == PUBLIC_SIZE:
        return data, None
    try:
        key = bytes.fromhex(data.decode("ascii").strip())
    except ValueError as error:
        raise UsageError(f"--key {text}: the file holds neither {PUBLIC_SIZE} bytes nor hex text") from error
    if len(key) != PUBLIC_SIZE:
        raise UsageError(f"--key {text}: the file holds {len(key)} bytes, expected {PUBLIC_SIZE}")
    return key, None


def _with_fingerprint(report: Report, told: str | None) -> Report:
    """The report, with a problem more if the ledger's key is not the one that was told."""
    if told is None or report.fingerprint == told:
        return report
    problem = f"ledger entry 0: the ledger's key is {report.fingerprint or 'unknown'}, expected {told}: another site's ledger"
    return Report(**{**vars(report), "problems": (problem, *report.problems)})


def _epsilon(arguments: argparse.Namespace, console: Console) -> int:
    source = _read(arguments.ledger)
    report = verify_ledger(source.data, None, source.head)
    figures = list(report.figures)
    if arguments.delta is not None and arguments.delta not in [figure.delta for figure in figures]:
        figures.append(_figure_at(source, arguments.delta))
    ok = report.ok and all(figure.agree for figure in figures)
    if arguments.json:
        document = _report_document(source, report)
        document["epsilon"] = [_figure_document(figure) for figure in figures]
        document["ok"] = ok
        print_json(document)
        return DONE if ok else FAILED
    _print_banner(console, report)
    console.print(_figures_table(figures))
    console.print(_claims_table(report))
    console.print("The reference rounds upwards, so it lies at the upper side of the truth; the bracket contains the truth.")
    _print_findings(console, report)
    return DONE if ok else FAILED


def _figure_at(source: Source, delta: float) -> Figure:
    """Figures at a delta that no run used. Raises `LedgerError` on a damaged ledger: no figure for half the spends."""
    records = [entry.content for entry in read_entries(source.data)[0] if isinstance(entry.content, SpendRecord)]
    spends = [spend for record in records for spend in record.spends]
    return recompute(spends, delta, {record.details.split_id for record in records})


def _show(arguments: argparse.Namespace, console: Console) -> int:
    source = _read(arguments.ledger)
    entries, torn = read_entries(source.data)
    if not entries:
        raise LedgerError("the ledger has no complete entry: nothing is recorded")
    if arguments.json:
        print_json([_entry_document(entry) for entry in entries])
        return DONE
    report = verify_ledger(source.data, None, source.head)
    _print_banner(console, report)
    table = Table("entry", "time", "kind", "run", "round", "what", "epsilon after", title=escape(str(source.path)))
    for entry in entries:
        table.add_row(*(escape(cell) for cell in _entry_cells(entry)))
    console.print(table)
    if torn:
        console.print(f"{len(torn)} bytes of a torn write after the last entry")
    return DONE


# Words and tables.


def epsilon_text(value: float) -> str:
    """Four decimals, or NOT PRIVATE."""
    return "NOT PRIVATE" if math.isinf(value) else f"{value:.4f}"


def spend_text(spend: Spend) -> str:
    """One release in words."""
    times = f"{spend.count} x " if spend.count != 1 else ""
    match spend.event:
        case GaussianEvent(noise):
            what = f"Gaussian, noise {noise:.4g}"
        case PoissonGaussianEvent(noise, rate):
            what = f"Gaussian, noise {noise:.4g}, sampled {rate:.4g}"
        case NonPrivateEvent():
            what = "NO NOISE"
    return f"{times}{what} ({spend.population.replace('_', '-')})"


def _entry_cells(entry: Entry) -> tuple[str, ...]:
    content = entry.content
    start = (str(entry.index), entry.time, entry.kind)
    if isinstance(content, SpendRecord):
        what = f"{content.details.purpose}: {'; '.join(map(spend_text, content.spends))}"
        after = "NOT PRIVATE" if content.epsilon_after < 0 else f"{content.epsilon_after:.4f}"
        return (*start, content.details.run_id, str(content.details.round), what, after)
    if isinstance(content, Genesis):
        return (*start, "", "", f"{content.site} of {content.consortium}, key {fingerprint(content.identity_key)}", "")
    body = entry.body
    words = [
        f"{name} {body[name]}" for name in ("lead", "by", "until", "code", "reason", "text", "removed_bytes") if body.get(name)
    ]
    return (*start, str(body.get("run_id", "")), "", "; ".join(words), "")


def _print_banner(console: Console, report: Report) -> None:
    if report.non_private_entries:
        console.print(f"[bold white on red] {BANNER} [/]")
        console.print(f"entries without noise: {', '.join(map(str, report.non_private_entries[:20]))}")


def _print_report(console: Console, source: Source, report: Report) -> None:
    verdict = "[bold green]VERIFIED[/]" if report.ok else "[bold red]FAILED[/]"
    console.print(f"{verdict} {escape(str(source.path))}")
    _print_banner(console, report)
    console.print(
        f"site {escape(report.site)} of {escape(report.consortium)}, population {escape(report.population)}, "
        f"{report.entries} entries, key {report.fingerprint}"
    )
    console.print(_figures_table(report.figures))
    checked = f"{len(report.claims)} claims of the site recomputed"
    beside = "head file agrees" if source.head is not None else "no head file beside it: a roll-back would not be seen"
    console.print(f"{checked}; {beside}. {_GUARANTEE}")
    _print_findings(console, report)


def _print_findings(console: Console, report: Report) -> None:
    for problem in report.problems:
        console.print(f"[bold red]PROBLEM[/] {escape(problem)}")
    for remark in report.remarks:
        console.print(f"[yellow]remark[/] {escape(remark)}")


def _figures_table(figures: Sequence[Figure]) -> Table:
    table = Table("delta", "epsilon (reference)", "epsilon (independent)", "agree")
    for figure in figures:
        table.add_row(
            f"{figure.delta:.3g}",
            epsilon_text(figure.reference),
            _bracket_text(figure.independent),
            "yes" if figure.agree else "NO",
        )
    return table


def _bracket_text(bracket: Bracket) -> str:
    if math.isinf(bracket.upper) or bracket.lower == bracket.upper:
        return epsilon_text(bracket.upper)
    return f"{bracket.lower:.4f} to {bracket.upper:.4f}"


def _claims_table(report: Report) -> Table:
    table = Table("entry", "delta", "claimed", "recomputed", "holds")
    for claim in report.claims:
        holds = "yes" if claim.holds else "NO"
        table.add_row(str(claim.entry), f"{claim.delta:.3g}", epsilon_text(claim.claimed), epsilon_text(claim.recomputed), holds)
    return table


# JSON: infinity is written as null, because JSON has no other word for it.


def _number(value: float) -> float | None:
    return None if math.isinf(value) else value


def _figure_document(figure: Figure) -> dict[str, Json]:
    return {
        "agree": figure.agree,
        "delta": figure.delta,
        "independent_lower": _number(figure.independent.lower),
        "independent_upper": _number(figure.independent.upper),
        "private": not math.isinf(figure.reference),
        "reference": _number(figure.reference),
    }


def _report_document(source: Source, report: Report) -> dict[str, Json]:
    return {
        "claims": [
            {
                "claimed": _number(claim.claimed),
                "delta": claim.delta,
                "entry": claim.entry,
                "holds": claim.holds,
                "recomputed": _number(claim.recomputed),
            }
            for claim in report.claims
        ],
        "consortium": report.consortium,
        "entries": report.entries,
        "epsilon": [_figure_document(figure) for figure in report.figures],
        "head_file": source.head is not None,
        "key": report.fingerprint,
        "ok": report.ok,
        "path": str(source.path),
        "population": report.population,
        "private": not report.non_private_entries,
        "problems": list(report.problems),
        "remarks": list(report.remarks),
        "site": report.site,
        "spends": [spend_to_document(spend) for spend in report.spends],
    }


def _entry_document(entry: Entry) -> dict[str, Json]:
    return {"body": entry.body, "hash": entry.hash.hex(), "index": entry.index, "kind": entry.kind, "time": entry.time}


if __name__ == "__main__":
    sys.exit(main())
