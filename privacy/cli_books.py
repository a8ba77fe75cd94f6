"""What `compare` and `report` are given: files and folders, each read for what it is, and named with its digest.

A folder with `plan.signed` is a coordinator's run, one with `ledger.jsonl` a site's (its `egress/` beside it); of any other folder
its subfolders are looked at. A file is a ledger, as `wardround-site ledger export` writes it.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from consortium.documents import Signed
from privacy.cli_output import FINGERPRINT, UsageError, usable_threads
from privacy.errors import PrivacyError
from privacy.ledger import head_path
from privacy.run_folder import Proofs, RunFiles, ServerRun, read_run, with_proofs
from privacy.site_book import EgressFile, SiteBook, read_book

Prove: TypeAlias = Callable[[Signed, Signed, str, Iterable[tuple[Path, bytes]]], Proofs]
LEDGER: Final = "ledger.jsonl"
PLAN: Final = "plan.signed"


@dataclass(frozen=True)
class Given:
    """One file that was read; the digest lets a reader find the very same one again."""

    path: Path
    what: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Books:
    """`audits`: the files in the folders' `audit/`, JSON of an empirical measurement."""

    runs: tuple[ServerRun, ...]
    sites: tuple[SiteBook, ...]
    audits: tuple[tuple[Path, bytes], ...]
    files: tuple[Given, ...]


@dataclass
class Reader:
    """Reads everything once and remembers what it read."""

    files: list[Given] = field(default_factory=list)
    accepted: Sequence[str] = ()

    def bytes_of(self, path: Path, what: str) -> bytes:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        self.files.append(Given(path, what, len(data), hashlib.sha256(data).hexdigest()))
        return data

    def run(self, folder: Path, founders: str | None, prove: Prove) -> ServerRun:
        receipts = {path.name: self.bytes_of(path, "receipt") for path in files_in(folder / "receipts", "*")}
        plan, roster = self.bytes_of(folder / PLAN, "plan"), self.bytes_of(folder / "roster.signed", "roster")
        run = read_run(RunFiles(folder, plan, roster, self.bytes_of(folder / "events.jsonl", "journal"), receipts), founders)
        if founders is None:
            return run
        records = ((path, _record(path)) for path in files_in(folder / "records", "*.record"))
        return with_proofs(run, prove(Signed.decode(roster, "roster"), Signed.decode(plan, "plan"), founders, records))

    def book(self, ledger: Path, egress: Sequence[Path]) -> SiteBook:
        beside = head_path(ledger)
        head = beside.read_bytes() if beside.is_file() else None
        data = self.bytes_of(ledger, "ledger")  # before the manifests: a running guard writes a manifest's line first
        manifests = [EgressFile(path, self.bytes_of(path, "egress manifest")) for path in egress]
        return read_book(ledger, data, head, manifests, threads=usable_threads(), accepted=self.accepted)


def read_books(
    paths: Sequence[Path],
    egress: Sequence[tuple[str, Path]],
    founders: str | None,
    prove: Prove,
    *,
    accepted: Sequence[str] = (),
) -> Books:
    """Everything in these paths. `egress`: site and manifest file (or folder of them), beside those that lie with the ledgers.
    `accepted`: as in `privacy.verify.verify_ledger`.

    Raises `UsageError` for what is missing or of no known kind, `PrivacyError` for what is damaged.
    """
    if founders is not None and not FINGERPRINT.fullmatch(founders):
        raise UsageError(f"--founders {founders}: a fingerprint is 8 groups of 4 hex digits: ask a founder by telephone")
    reader, runs, sites = Reader(accepted=accepted), list[ServerRun](), list[SiteBook]()
    audits: list[Path] = []
    for path in _found(paths):
        audits += files_in(path / "audit", "*.json") if path.is_dir() else []
        if (path / PLAN).is_file():
            runs.append(reader.run(path, founders, prove))
        else:
            sites.append(_site(reader, path, egress))
    for name, _ in egress:
        if name not in (known := [book.site for book in sites]):
            raise UsageError(f"--egress {name}: the ledgers that were given are of {', '.join(known) or 'no site'}")
    read = tuple((path, reader.bytes_of(path, "empirical audit")) for path in audits)
    return Books(tuple(runs), tuple(sites), read, tuple(reader.files))


def _site(reader: Reader, path: Path, egress: Sequence[tuple[str, Path]]) -> SiteBook:
    ledger = path / LEDGER if path.is_dir() else path
    own = files_in(path / "egress", "*.jsonl") if path.is_dir() else []
    book = reader.book(ledger, own)
    more = [file for name, given in egress if name == book.site for file in _manifest_files(given)]
    read = [EgressFile(file, reader.bytes_of(file, "egress manifest")) for file in more]
    return SiteBook(book.path, book.data, book.head, book.report, book.entries, (*book.egress, *read))


def _manifest_files(path: Path) -> list[Path]:
    return files_in(path, "*.jsonl") if path.is_dir() else [path]


def _found(paths: Iterable[Path]) -> Iterator[Path]:
    """Run folders, site folders and ledger files, in the order in which they were given."""
    for path in paths:
        if not path.is_dir() or _is_book(path):
            yield path
            continue
        inside = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _is_book(folder)]
        if not inside:
            raise UsageError(f"{path}: no folder of a run (with {PLAN}) or of a site (with {LEDGER}), and none below it")
        yield from inside


def _is_book(folder: Path) -> bool:
    return (folder / PLAN).is_file() or (folder / LEDGER).is_file()


def files_in(folder: Path, pattern: str) -> list[Path]:
    """The files of this pattern, in order; none where there is no such folder."""
    return sorted(path for path in folder.glob(pattern) if path.is_file()) if folder.is_dir() else []


def _record(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PrivacyError(f"cannot read {path}: {error.strerror}") from error
