"""`wardround-audit`: checks a site's ledger, and a run's rounds, offline, without torch, network or trust in anybody.

Exit status: 0 done and in order, 1 verification failed, 2 usage, or a file that cannot be read.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consortium import plan as plans
from consortium.canonical import Json
from consortium.documents import Signed
from consortium.errors import ConsortiumError
from consortium.identity import PUBLIC_SIZE
from consortium.plan import Plan
from privacy import cli_compare, cli_report, cli_rounds
from privacy.cli_output import DONE, FAILED, FINGERPRINT, USAGE, UsageError, add_accepted, print_json, usable_threads
from privacy.cli_words import claims_table, entry_cells, entry_document, explanation, figures_table, guarantee, report_document
from privacy.entries import SpendRecord
from privacy.errors import LedgerError, PrivacyError
from privacy.ledger import head_path
from privacy.reading import Reader
from privacy.run_folder import Proofs
from privacy.verify import Report, compare, not_private, verify_ledger

BANNER: Final = "NOT PRIVATE: something left this site without noise; no epsilon bounds it"

_SHOWN_MOST: Final = 20  # problems and remarks in words; JSON has them all


@dataclass(frozen=True)
class Source:
    """One ledger file, read line by line when it is needed, and its head file if one lies beside it."""

    path: Path
    head: bytes | None

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        try:
            with self.path.open("rb") as file:
                yield file
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror}") from error


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
    _add_verify(commands)
    _add_epsilon(commands)
    _add_show(commands)
    cli_rounds.add_command(commands)
    cli_compare.add_command(commands, _proofs)
    cli_report.add_command(commands, _proofs)
    return parser


def _add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    what = "check chain, signatures, rounds, claimed epsilons and, with the plans, every charge of ledgers"
    example = "wardround-audit verify ledger.jsonl --key 1a2b-3c4d-5e6f-7a8b-9c0d-1e2f-3a4b-5c6d --plan RUN/plan.signed"
    verify = _command(commands, "verify", _verify, what, example)
    verify.add_argument("ledgers", nargs="+", type=Path, metavar="LEDGER", help="ledger files; copies of one site are compared")
    verify.add_argument(
        "--key",
        help="the site's key, of now or before: its fingerprint as told by telephone, or a file (32 bytes, or hex)",
    )
    verify.add_argument(
        "--plan",
        dest="plans",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="the signed plans (plan.signed) of all runs in the ledger: each spend must be exactly what its plan asks for",
    )
    add_accepted(verify)


def _add_epsilon(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    what = "recompute epsilon from the recorded mechanisms, three times, and explain the difference"
    epsilon = _command(commands, "epsilon", _epsilon, what, "wardround-audit epsilon ledger.jsonl --delta 1e-6 --json")
    epsilon.add_argument("ledger", type=Path, metavar="LEDGER")
    epsilon.add_argument("--delta", type=_delta, help="at this delta too (default: the deltas that the ledger used)")


def _add_show(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    show = _command(commands, "show", _show, "list every entry of a ledger", "wardround-audit show ledger.jsonl --json")
    show.add_argument("ledger", type=Path, metavar="LEDGER")


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace, Console], int],
    what: str,
    example: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=f"{what.capitalize()}.", epilog=f"example: {example}")
    command.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    command.set_defaults(command=run)
    return command


def _proofs(roster: Signed, plan: Signed, founders: str, records: Iterable[tuple[Path, bytes]]) -> Proofs:
    """Whose updates each record holds. Here, because this module alone may reach `cli_rounds` (Decisions, 2026-11-25)."""
    try:
        run = cli_rounds.verified_run(roster, plan, founders)
    except cli_rounds.CheckFailedError as failed:
        return Proofs({}, (str(failed),))
    judged = [cli_rounds.judge(run, path, data, cli_rounds.Beside(None, None)) for path, data in records]
    problems = [f"{one.path.name}: {problem.check}: {problem.text}" for one in judged for problem in one.problems]
    return Proofs({one.opened.terms.round_number: one.opened.survivors for one in judged if one.opened}, tuple(problems))


def _delta(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"delta {text!r} is not a number; write it like 1e-5") from error
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"delta {text} outside (0, 1)")
    return value


def _source(path: Path) -> Source:
    try:
        beside = head_path(path)
        source = Source(path, beside.read_bytes() if beside.exists() else None)
    except OSError as error:
        raise UsageError(f"cannot read {beside}: {error.strerror}") from error
    with source.opened():  # before anything is printed
        return source


def _plans(paths: Sequence[Path] | None) -> tuple[Plan, ...] | None:
    """The plans in these files; None where none were named. Their signatures are not checked: that takes the roster."""
    return None if paths is None else tuple(map(_plan, paths))


def _plan(path: Path) -> Plan:
    try:
        return Signed.decode(path.read_bytes(), plans.KIND).document(Plan)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ConsortiumError as error:
        raise UsageError(f"{path} is no signed plan that this version reads: {error}; give the run's plan.signed") from error


# Each command: read, judge, print.


def _verify(arguments: argparse.Namespace, console: Console) -> int:
    given = _plans(arguments.plans)
    key, told = _expected_key(arguments.key)
    sources = [_source(path) for path in arguments.ledgers]
    accepted = arguments.accept_replaced
    reports = [_with_fingerprint(_report(source, key, given, accepted=accepted), told) for source in sources]
    partings = _partings(sources)
    ok = all(report.ok for report in reports) and not partings
    pairs = list(zip(sources, reports, strict=True))
    if arguments.json:
        print_json({"ok": ok, "ledgers": [_document(*pair) for pair in pairs], "forks": list(partings)})
    else:
        for source, report in pairs:
            _print_report(console, source, report, given)
        for parting in partings:
            console.print(f"[bold red]FORK[/] {escape(parting)}")
    return DONE if ok else FAILED


def _report(
    source: Source,
    key: bytes | None,
    given: Sequence[Plan] | None,
    deltas: Sequence[float] = (),
    *,
    accepted: Sequence[str] = (),
) -> Report:
    with source.opened() as file:
        threads = usable_threads()
        return verify_ledger(file, key, source.head, plans=given, deltas=deltas, threads=threads, accepted=accepted)


def _partings(sources: Sequence[Source]) -> list[str]:
    if len(sources) == 1:
        return []  # nothing to compare with: the file need not be in memory
    copies = []
    for source in sources:
        with source.opened() as file:
            copies.append(file.read())
    return compare(copies)


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
    if told is None or told in report.keys:
        return report
    problem = f"ledger entry 0: the ledger's key is {report.fingerprint or 'unknown'}, expected {told}: another site's ledger"
    return replace(report, problems=(problem, *report.problems), first_bad=0)


def _epsilon(arguments: argparse.Namespace, console: Console) -> int:
    source = _source(arguments.ledger)
    report = _report(source, None, None, () if arguments.delta is None else (arguments.delta,))
    if arguments.json:
        print_json(_document(source, report))
        return DONE if report.ok else FAILED
    _print_banner(console, report.non_private_entries)
    console.print(figures_table(report))
    console.print(claims_table(report))
    for name, figures in (("as charged", report.figures), ("in the clear", report.exposed)):
        for figure in figures:
            console.print(f"{name if report.exposed else 'why they differ'}, {explanation(figure)}")
    console.print(guarantee(report))
    _print_findings(console, report)
    return DONE if report.ok else FAILED


def _show(arguments: argparse.Namespace, console: Console) -> int:
    source = _source(arguments.ledger)
    with source.opened() as file:
        entries = list(reader := Reader(file, threads=usable_threads()))
    if not entries:
        raise LedgerError("the ledger has no complete entry: nothing is recorded")
    if arguments.json:
        print_json([entry_document(entry) for entry in entries])
        return DONE
    spends = [(entry.index, entry.content.spends) for entry in entries if isinstance(entry.content, SpendRecord)]
    _print_banner(console, [index for index, released in spends if not_private(released)])
    table = Table("entry", "time", "kind", "run", "round", "what", "epsilon after", title=escape(str(source.path)))
    for entry in entries:
        table.add_row(*(escape(cell) for cell in entry_cells(entry)))
    console.print(table)
    if reader.torn:
        console.print(f"{reader.torn} bytes of a torn write after the last entry")
    return DONE


def _document(source: Source, report: Report) -> dict[str, Json]:
    return {**report_document(report), "head_file": source.head is not None, "path": str(source.path)}


def _print_banner(console: Console, entries: Sequence[int]) -> None:
    if entries:
        console.print(f"[bold white on red] {BANNER} [/]")
        console.print(f"entries without noise: {', '.join(map(str, entries[:_SHOWN_MOST]))}")


def _print_report(console: Console, source: Source, report: Report, given: Sequence[Plan] | None) -> None:
    verdict = "[bold green]VERIFIED[/]" if report.ok else "[bold red]FAILED[/]"
    console.print(f"{verdict} {escape(str(source.path))}")
    if report.first_bad is not None:
        console.print(f"first bad line: {report.first_bad + 1} (entry {report.first_bad})")
    _print_banner(console, report.non_private_entries)
    console.print(
        f"site {escape(report.site)} of {escape(report.consortium)}, population {escape(report.population)}, "
        f"{report.entries} entries, key {report.fingerprint}"
    )
    console.print(figures_table(report))
    checked = f"{len(report.claims)} claims of the site recomputed"
    beside = "head file agrees" if source.head is not None else "no head file beside it: a roll-back would not be seen"
    console.print(f"{checked}; {beside}; {_planned_text(report, given)}. {guarantee(report)}")
    _print_findings(console, report)


def _planned_text(report: Report, given: Sequence[Plan] | None) -> str:
    if given is None:
        return "no plans given: that the site charged what its plans ask for was not checked"
    return f"{report.plans_checked} spends compared with {len(given)} plans (who signed these, the roster tells: see `round`)"


def _print_findings(console: Console, report: Report) -> None:
    for word, texts in (("[bold red]PROBLEM[/]", report.problems), ("[yellow]remark[/]", report.remarks)):
        for text in texts[:_SHOWN_MOST]:
            console.print(f"{word} {escape(text)}")
        if (more := len(texts) - _SHOWN_MOST) > 0:
            console.print(f"{word} and {more} more: --json has them all")


if __name__ == "__main__":
    sys.exit(main())
