"""`wardround-audit round`: an opened round is computed again from its messages, on nobody's word but the founders' fingerprint.

Who is in a run, and the numbers that protect them, come from the signed roster and plan. The record is the coordinator's own
view: every message in it is checked against its sender's key, the masks against their dealers' commitments, and with the masked
vectors the sum bit for bit. The one module of `privacy` that may import `secagg` (Decisions, 2026-11-25).
"""

import argparse
import hashlib
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consortium import plan as plans
from consortium import roster as rosters
from consortium.canonical import Json
from consortium.documents import Signed
from consortium.errors import ConsortiumError, EncodingError
from consortium.plan import Plan, body_length, header_fields, verify_plan
from consortium.roster import Roster, verify_roster
from consortium.wire import encode_answer
from privacy.cli_output import DONE, FAILED, FINGERPRINT, UsageError, print_json
from privacy.errors import PrivacyError
from privacy.manifest import Counted, ManifestError, Upload, disagreements, uncounted
from privacy.site_egress import SiteEgress, read_site_egress, unsigned
from secagg import coordinator, messages
from secagg.context import Context
from secagg.coordinator import Opened, Terms
from secagg.errors import SecaggError
from secagg.framing import fields_of, integer_of, items_of, message, text_of

NOT_PRIVATE: Final = "NOT PRIVATE: this plan adds no noise to what sites release; no epsilon bounds it"
NOT_RECOMPUTED: Final = (
    "the sum itself was NOT recomputed, because the vectors were not given (--vectors): its digest is the coordinator's word"
)
HEADER_WORD: Final = 8  # bytes
_NAME: Final = re.compile(r"round-([0-9]{10})\.record")
_START: Final = message("opened-round", b"")[4:-4]  # how every record goes on after its number of fields
_LEDGER_START: Final = b'{"body":{'  # how a line of canonical JSON begins that could be a ledger's


@dataclass(frozen=True)
class Problem:
    """A check that failed: which one, whose message it was about, and in words. `line`: the first bad one of a manifest."""

    check: str
    sites: tuple[str, ...]
    text: str
    line: int | None = None


class CheckFailedError(PrivacyError):
    """Nothing further can be said about a record, or about any: exit status 1."""

    def __init__(self, check: str, text: str, sites: tuple[str, ...] = ()) -> None:
        super().__init__(f"{check}: {text}")
        self.problem = Problem(check, sites, text)


@dataclass(frozen=True)
class Run:
    """What the verified roster and plan fix; nothing here comes from a record."""

    roster: Roster
    plan: Plan

    @property
    def context(self) -> Context:
        return Context.of(self.roster, self.plan, self.plan.digest)

    def lengths(self, round_number: int, purpose: str) -> tuple[int, int]:
        """Words of a masked vector's header, word 0 included, and of its body."""
        header = sum(field.length for field in header_fields(self.plan, round_number, purpose))
        return 1 + header, body_length(self.plan, purpose)

    def vector_size(self, terms: Terms) -> int:
        """Bytes of one masked vector."""
        return terms.header_length * HEADER_WORD + terms.body_length * self.plan.ring_bits // 8


@dataclass(frozen=True)
class Record:
    """A record as it was read: what it says it is about, and the messages that travelled, by site. Nothing is checked yet."""

    path: Path
    data: bytes
    terms: Terms
    uploads: Mapping[str, bytes]
    ballots: Mapping[str, bytes]


@dataclass(frozen=True)
class Beside:
    """What the auditor has beside the records: a folder of masked vectors, one site's manifest with its ledger."""

    vectors: Path | None
    egress: SiteEgress | None


@dataclass(frozen=True)
class Judged:
    """One record's verdict. `opened` is None where its messages do not even prove a round."""

    path: Path
    opened: Opened | None
    recomputed: bool
    problems: tuple[Problem, ...]
    remarks: tuple[str, ...]


class Vectors(Mapping[str, memoryview]):
    """The masked vectors of one round, `FOLDER/SITE.y`, each mapped into memory when it is looked up and not kept.

    A `Mapping` because that is what `recompute` takes: it looks every vector up once, so one at a time is in memory.
    """

    def __init__(self, folder: Path, sites: Sequence[str]) -> None:
        self._paths = {site: folder / f"{site}.y" for site in sites}

    def __getitem__(self, site: str) -> memoryview:
        with self._paths[site].open("rb") as file:
            if not file.seek(0, 2):
                return memoryview(b"")  # nothing can be mapped
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, site: str) -> Path:
        return self._paths[site]


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    what = "check an opened round from its record, and with the masked vectors compute its sum again"
    command = commands.add_parser(
        "round",
        help=what,
        description=f"{what.capitalize()}. Without --vectors everything but the sum itself is checked.",
        epilog="example: wardround-audit round RUN/records/round-0000000003.record --roster RUN/roster.signed "
        "--founders 1f0c-22ab-5e6f-7a8b-9c0d-1e2f-3a4b-5c6d --plan RUN/plan.signed --vectors RUN/vectors",
    )
    command.add_argument("records", nargs="+", type=Path, metavar="RECORD", help="records of opened rounds, of one run")
    command.add_argument("--roster", required=True, type=Path, help="the signed roster (roster.signed)")
    command.add_argument("--founders", required=True, metavar="FINGERPRINT", help="the founders' fingerprint, as told by telephone")
    command.add_argument("--plan", required=True, type=Path, help="the signed plan (plan.signed)")
    command.add_argument("--vectors", type=Path, metavar="DIR", help="folder with the masked vectors, as round-0000000003/SITE.y")
    command.add_argument("--egress", type=Path, metavar="MANIFEST", help="the egress manifest of one site; needs --site")
    command.add_argument("--site", help="whose manifest it is")
    command.add_argument("--ledger", type=Path, help="that site's ledger: it vouches for the manifest's lines")
    command.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    command.set_defaults(command=_round)


def _round(arguments: argparse.Namespace, console: Console) -> int:
    _check_usage(arguments)
    roster, plan = _signed(arguments.roster, rosters.KIND), _signed(arguments.plan, plans.KIND)
    files = [(path, _record_bytes(path)) for path in arguments.records]
    run, egress, judged, problems = None, None, [], []
    try:
        run = verified_run(roster, plan, arguments.founders)
        egress = _egress(arguments, run)
        judged = [judge(run, path, data, Beside(arguments.vectors, egress)) for path, data in files]
        problems += [*opened_twice(judged), *egress_problems(egress)]
    except CheckFailedError as failed:
        problems.append(failed.problem)
    ok = not problems and not any(one.problems for one in judged)
    if arguments.json:
        print_json(_document(run, judged, problems) | {"egress": _egress_document(egress)})
    else:
        _print_run(console, run, problems)
        _print_egress(console, egress)
        for one in judged:
            _print_round(console, run, one)
    return DONE if ok else FAILED


# What was given: a file that is not there, or is something else, is wrong usage and no verdict.


def _check_usage(arguments: argparse.Namespace) -> None:
    if not FINGERPRINT.fullmatch(arguments.founders):
        raise UsageError(f"--founders {arguments.founders}: a fingerprint is 8 groups of 4 hex digits: ask a founder by telephone")
    if (arguments.egress is None) != (arguments.site is None):
        raise UsageError("--egress and --site go together: a manifest is one site's")
    if arguments.ledger is not None and arguments.egress is None:
        raise UsageError("--ledger belongs to --egress: it vouches for a manifest (a ledger alone: wardround-audit verify)")
    if arguments.vectors is not None and not arguments.vectors.is_dir():
        raise UsageError(f"--vectors {arguments.vectors}: no such folder: give the one that holds round-0000000003/SITE.y")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _signed(path: Path, kind: str) -> Signed:
    try:
        return Signed.decode(_read(path), kind)
    except EncodingError as error:
        raise UsageError(f"{path} is no signed {kind}: {error}; give the run's {kind}.signed") from error


def _record_bytes(path: Path) -> bytes:
    data = _read(path)
    if not data[4:].startswith(_START):
        raise UsageError(f"{path} is no record of an opened round, or of another version: give RUN/records/round-0000000003.record")
    return data


def _egress(arguments: argparse.Namespace, run: Run) -> SiteEgress | None:
    path, site, plan = arguments.egress, arguments.site, run.plan
    if path is None:
        return None
    if site not in plan.sites:
        raise UsageError(f"--site {site}: the plan's sites are {', '.join(plan.sites)}")
    ledger = None if arguments.ledger is None else _ledger_bytes(arguments.ledger)  # first: a guard writes a manifest's line first
    try:
        return read_site_egress(_read(path), site, plan, key=run.roster.member(site).identity_key, ledger=ledger)
    except ManifestError as error:
        raise UsageError(f"{path}: {error}") from error


def _ledger_bytes(path: Path) -> bytes:
    data = _read(path)
    if not data.startswith(_LEDGER_START):
        raise UsageError(f"{path} is no ledger: give the file that `wardround-site ledger export` wrote")
    return data


# The checks, in the order in which one rests on the other.


def verified_run(roster: Signed, plan: Signed, founders: str) -> Run:
    """The roster on the founders' word, the plan on the roster's. Raises `CheckFailedError`."""
    with _check("roster"):
        known = verify_roster(roster, founders)
    with _check("plan"):
        return Run(known, verify_plan(plan, known))


def judge(run: Run, path: Path, data: bytes, beside: Beside) -> Judged:
    """Everything that this record and what lies beside it can prove about one round."""
    try:
        record = read_record(path, data)
        check_terms(run, record)
        with _check("messages"):
            opened = coordinator.examine(run.context, data)
    except CheckFailedError as failed:
        return Judged(path, None, recomputed=False, problems=(failed.problem,), remarks=())
    problems: list[Problem] = []
    remarks: tuple[str, ...] = ()
    if beside.vectors is not None:
        problems += vector_problems(run, record, opened, beside.vectors)
    recomputed = beside.vectors is not None and not problems
    if beside.egress is not None:
        site, manifest = beside.egress.site, beside.egress.manifest
        counted = counted_of(run, record, opened, site)
        problems += [Problem("egress", (site,), text) for text in disagreements(manifest, counted)]
        problems += [Problem("links", (site,), text) for text in unsigned(beside.egress, counted)]
        remarks = uncounted(manifest, counted)
    return Judged(path, opened, recomputed, tuple(problems), remarks)


def read_record(path: Path, data: bytes) -> Record:
    """The parts of a record, unchecked. Raises `CheckFailedError`."""
    with _check("record"):
        _, terms, uploads, ballots, _ = fields_of(data, "opened-round", 5)
        number, purpose, model_hash, header_length, body = items_of(terms, 5)
        about = Terms(
            integer_of(number), messages.check_purpose(text_of(purpose)), model_hash, integer_of(header_length), integer_of(body)
        )
        uploaded = {messages.Upload.decode(one).site: one for one in items_of(uploads)}
        voted = {messages.Ballot.decode(one).site: one for one in items_of(ballots)}
    return Record(path, data, about, uploaded, voted)


def check_terms(run: Run, record: Record) -> None:
    """The record is about a round of this plan: no site signs the lengths, and a made-up one would be memory here."""
    terms, limit = record.terms, run.plan.schedule.max_round
    named = _NAME.fullmatch(record.path.name)
    if named and int(named[1]) != terms.round_number:
        raise CheckFailedError(
            "name", f"the file is named for round {int(named[1])}, the record is about round {terms.round_number}"
        )
    if not 1 <= terms.round_number <= limit:
        raise CheckFailedError("terms", f"round {terms.round_number} outside [1, {limit}], the plan's rounds")
    lengths = (terms.header_length, terms.body_length)
    if lengths != (planned := run.lengths(terms.round_number, terms.purpose)):
        raise CheckFailedError("terms", f"header and body of {lengths} words, the plan's round to {terms.purpose} has {planned}")


def vector_problems(run: Run, record: Record, opened: Opened, folder: Path) -> list[Problem]:
    """What keeps these vectors from giving the record's sum; nothing, if it was recomputed bit for bit."""
    number = opened.terms.round_number
    vectors = Vectors(folder / f"round-{number:010d}", opened.survivors)
    expected = f"{run.vector_size(opened.terms)} bytes with the SHA-256 that the site signed in round {number}"
    if absent := [site for site in opened.survivors if not vectors.path(site).is_file()]:
        return [Problem("vectors", (site,), f"no vector of {site}: {vectors.path(site)} is missing") for site in absent]
    try:
        coordinator.recompute(run.context, record.data, vectors)
    except OSError as error:
        raise UsageError(f"cannot read the vectors below {folder}: {error.strerror}") from error
    except SecaggError as error:
        if not error.sites:
            return [Problem("sum", (), str(error))]
        text = f"{', '.join(str(vectors.path(site)) for site in error.sites)}: altered, or of another site or round; not {expected}"
        return [Problem("vectors", error.sites, text)]
    return []


def counted_of(run: Run, record: Record, opened: Opened, site: str) -> Counted:
    """What the record has of this site, as digests of what travelled."""
    upload, ballot = record.uploads.get(site), record.ballots.get(site)
    counted = None if upload is None else Upload(_travelled(upload), opened.digests[site].hex(), run.vector_size(opened.terms))
    voted = None if ballot is None else _travelled(ballot)
    return Counted(opened.terms.round_number, opened.terms.purpose, counted, voted)


def _travelled(answer: bytes) -> str:
    return hashlib.sha256(encode_answer(answer)).hexdigest()


def egress_problems(egress: SiteEgress | None) -> list[Problem]:
    """Why the manifest's lines, or the ledger that should vouch for them, are not to be relied on."""
    if egress is None:
        return []
    found = [Problem("ledger", (egress.site,), egress.refused)] if egress.refused else []
    return found + [Problem("links", (egress.site,), one.text, one.line) for one in egress.linked.problems]


def opened_twice(judged: Sequence[Judged]) -> list[Problem]:
    """Two different records under one round number. Two views: more sites than the roster tolerates voted twice. One view: its
    sum is one, and the digest of a sum is nobody's signature but the word of whoever wrote the record."""
    proven = [(one.path, one.opened) for one in judged if one.opened is not None]
    found = []
    for (path, one), (other_path, other) in combinations(proven, 2):
        number = one.terms.round_number
        if number != other.terms.round_number:
            continue
        if (one.terms, one.digests) != (other.terms, other.digests):
            both = tuple(sorted(set(one.voters) & set(other.voters)))
            text = f"round {number} was opened as two sums, {path} and {other_path}; in both voted {', '.join(both)}"
            found.append(Problem("rounds", both, text))
        elif one.sum_digest != other.sum_digest:
            text = f"{path} and {other_path} name two sums of one view of round {number}: one is false, give --vectors to see which"
            found.append(Problem("sum", (), text))
    return found


@contextmanager
def _check(name: str) -> Iterator[None]:
    """What is refused inside failed the check of this name."""
    try:
        yield
    except SecaggError as error:
        raise CheckFailedError(name, str(error), error.sites) from error
    except ConsortiumError as error:
        raise CheckFailedError(name, str(error)) from error


# Words and tables.


def _line(console: Console, text: str) -> None:
    """One line that a search finds whole, however narrow the terminal."""
    console.print(text, soft_wrap=True)


def _print_problem(console: Console, problem: Problem) -> None:
    _line(console, f"[bold red]PROBLEM[/] {problem.check}: {escape(problem.text)}")


def _print_run(console: Console, run: Run | None, problems: Sequence[Problem]) -> None:
    if run is not None:
        if not run.plan.private:
            _line(console, f"[bold white on red] {NOT_PRIVATE} [/]")
        _line(
            console,
            f"run {run.plan.run_id} of {escape(run.roster.consortium)}, plan {run.plan.digest.hex()}, "
            f"roster version {run.roster.version}: signed, and by the founders that were named",
        )
    else:
        _line(console, "[bold red]FAILED[/] roster and plan are not to be relied on: no record was looked at")
    for problem in problems:
        _print_problem(console, problem)


def _print_egress(console: Console, egress: SiteEgress | None) -> None:
    if egress is not None:
        _line(console, f"egress manifest of {egress.site}: {escape(egress.sentence)}")
        for remark in egress.remarks:
            _line(console, f"[yellow]remark[/] {escape(remark)}")


def _print_round(console: Console, run: Run | None, judged: Judged) -> None:
    verdict = "[bold green]VERIFIED[/]" if judged.recomputed else "[bold green]VERIFIED[/] except for its sum:"
    verdict = "[bold red]FAILED[/]" if judged.problems else verdict
    _line(console, f"{verdict} {escape(str(judged.path))}")
    if run is not None and judged.opened is not None:
        _print_opened(console, run, judged.opened)
        _line(console, f"SHA-256 of the sum {judged.opened.sum_digest.hex()}; {_sum_text(judged)}")
    for problem in judged.problems:
        _print_problem(console, problem)
    for remark in judged.remarks:
        _line(console, f"[yellow]remark[/] {escape(remark)}")


def _sum_text(judged: Judged) -> str:
    if judged.recomputed:
        return "[bold]recomputed bit for bit[/] from the masked vectors"
    if any(problem.check in {"vectors", "sum"} for problem in judged.problems):
        return "it could not be recomputed from these vectors"
    return NOT_RECOMPUTED


def _print_opened(console: Console, run: Run, opened: Opened) -> None:
    n, summed, colluders = len(opened.sites), len(opened.survivors), run.roster.colluders
    _line(
        console, f"round {opened.terms.round_number} to {opened.terms.purpose}: {summed} of {n} sites of its epoch are in the sum"
    )
    table = Table("site", "in the sum", "voted", "SHA-256 of its masked vector")
    table.columns[-1].overflow = "fold"
    for site in run.plan.sites:
        digest = opened.digests.get(site)
        where = "not in the epoch" if site not in opened.sites else "left out" if digest is None else "yes"
        table.add_row(site, where, "yes" if site in opened.voters else "no", digest.hex() if digest else "")
    console.print(table)
    _line(
        console,
        f"threshold {opened.threshold} of {n}. While at most {colluders} collude, at least {summed - colluders} of the {summed} "
        f"sites in this sum are honest, and at least {opened.threshold - colluders} in any sum of this epoch",
    )
    for finding in opened.findings:
        _line(console, f"[yellow]finding[/] {escape(finding.sentence)}")


# JSON: everything that the tables show.


def _document(run: Run | None, judged: Sequence[Judged], problems: Sequence[Problem]) -> dict[str, Json]:
    return {
        "consortium": run.roster.consortium if run else None,
        "ok": not problems and not any(one.problems for one in judged),
        "plan": run.plan.digest.hex() if run else None,
        "private": run.plan.private if run else None,
        "problems": [_problem_document(problem) for problem in problems],
        "roster": run.roster.digest.hex() if run else None,
        "roster_version": run.roster.version if run else None,
        "rounds": [_round_document(run, one) for one in judged],
        "run": run.plan.run_id if run else None,
    }


def _problem_document(problem: Problem) -> dict[str, Json]:
    return {"check": problem.check, "line": problem.line, "sites": list(problem.sites), "text": problem.text}


def _egress_document(egress: SiteEgress | None) -> dict[str, Json] | None:
    if egress is None:
        return None
    return {
        "entries": egress.linked.entries,
        "lines": egress.linked.lines,
        "linked": egress.linked.linked,
        "links_checked": egress.entries is not None,
        "remarks": list(egress.remarks),
        "sentence": egress.sentence,
        "site": egress.site,
    }


def _round_document(run: Run | None, judged: Judged) -> dict[str, Json]:
    document: dict[str, Json] = {
        "ok": not judged.problems,
        "path": str(judged.path),
        "problems": [_problem_document(problem) for problem in judged.problems],
        "remarks": list(judged.remarks),
        "sum_recomputed": judged.recomputed,
    }
    if run is not None and judged.opened is not None:
        document |= _opened_document(run, judged.opened)
    return document


def _opened_document(run: Run, opened: Opened) -> dict[str, Json]:
    colluders = run.roster.colluders
    findings: list[Json] = [{"sites": list(one.sites), "text": one.sentence, "what": one.what} for one in opened.findings]
    return {
        "absent": [site for site in run.plan.sites if site not in opened.sites],
        "colluders": colluders,
        "findings": findings,
        "honest_in_any_sum": opened.threshold - colluders,
        "honest_in_this_sum": len(opened.survivors) - colluders,
        "left_out": [site for site in opened.sites if site not in opened.digests],
        "model_hash": opened.terms.model_hash.hex(),
        "purpose": opened.terms.purpose,
        "round": opened.terms.round_number,
        "sites": list(opened.sites),
        "sum_sha256": opened.sum_digest.hex(),
        "survivors": list(opened.survivors),
        "threshold": opened.threshold,
        "vectors": {site: digest.hex() for site, digest in opened.digests.items()},
        "voters": list(opened.voters),
    }
