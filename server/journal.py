"""What happened in a run, in order, on disk before anything depends on it: a coordinator killed at any instant reads it back.

`events.jsonl` is append-only, one canonical JSON object a line (`at`, `data`, `event`, `n`), synchronised at each append;
a last line cut by a crash is dropped. About single sites it holds only who took part, codes, sizes and durations: every
value in it was opened as a sum over sites, or stands in the plan.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from consortium.canonical import Json, decode_json, encode_json
from consortium.documents import from_document, to_document
from consortium.errors import ConsortiumError
from server.errors import JournalBusyError, JournalError
from server.folder import sync_directory

LOCK_POLL_S = 0.1

Clock = Callable[[], datetime]
Named = tuple[tuple[str, float], ...]  # name and value, ascending by name


def named(values: Mapping[str, float]) -> Named:
    """A mapping as events hold it."""
    return tuple(sorted((name, float(value)) for name, value in values.items()))


@dataclass(frozen=True)
class Dropped:
    """A site that did not contribute. `phase`: keys, kem, update, vote (also a ballot that stays shut), or deal (its shares do
    not open its commitments); `code`: its refusal's, LATE or UNREACHABLE."""

    site: str
    phase: str
    code: str


@dataclass(frozen=True)
class RunStarted:
    run_id: str
    plan_digest: bytes
    sites: tuple[str, ...]
    private: bool


@dataclass(frozen=True)
class RunResumed:
    """A new coordinator process took over; `checkpoint_round` is the round whose model it starts from (0: none)."""

    checkpoint_round: int


@dataclass(frozen=True)
class Waiting:
    """A site that keeps the run waiting and why (a refusal's code); an empty reason says that it no longer does."""

    site: str
    reason: str


@dataclass(frozen=True)
class EpochAsked:
    """Written before the first request of the epoch leaves: its number is never used again."""

    number: int
    sites: tuple[str, ...]


@dataclass(frozen=True)
class EpochReady:
    number: int
    sites: tuple[str, ...]
    threshold: int
    dropped: tuple[Dropped, ...]
    seconds: float


@dataclass(frozen=True)
class RoundAttempt:
    """Written before the first request of the round leaves: its number is never used again."""

    round: int
    purpose: str
    epoch: int
    model_digest: bytes


@dataclass(frozen=True)
class VoteAsked:
    """Written before the first vote request leaves; no second set of survivors is ever asked for in this round."""

    round: int
    survivors: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """Signed evidence that somebody deviated in a round that opened all the same: a `secagg.opening.Finding`."""

    round: int
    what: str
    sites: tuple[str, ...]


@dataclass(frozen=True)
class RoundDone:
    """`histogram`: the opened pooled one (label 0 bins, label 1 bins), empty where the round had none; bytes over all sites."""

    round: int
    purpose: str
    survivors: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    seconds: Named
    bytes_up: int
    bytes_down: int
    metrics: Named
    histogram: tuple[float, ...]


@dataclass(frozen=True)
class RoundFailed:
    round: int
    purpose: str
    code: str
    dropped: tuple[Dropped, ...]
    seconds: Named


@dataclass(frozen=True)
class Checkpointed:
    round: int
    digest: bytes


@dataclass(frozen=True)
class EpsilonPublished:
    """What a site chose to publish about its own ledger (`consortium.statement`), on record after `round`.

    `exposed`: of all its runs, at `delta`; -1: no bound. `entries`, `ledger_head`: the ledger that this is of.
    """

    site: str
    round: int
    delta: float
    exposed: float
    entries: int
    ledger_head: bytes
    made: str


@dataclass(frozen=True)
class RunFinished:
    model_digest: bytes
    seconds: float


@dataclass(frozen=True)
class RunStopped:
    """Ended without a final model: `code` is a word (TOO_FEW, STOPPED, LIMIT, ...), the run may be resumed."""

    code: str


Event: TypeAlias = (
    RunStarted
    | RunResumed
    | Waiting
    | EpochAsked
    | EpochReady
    | RoundAttempt
    | VoteAsked
    | Found
    | RoundDone
    | RoundFailed
    | Checkpointed
    | EpsilonPublished
    | RunFinished
    | RunStopped
)

KINDS: Mapping[str, type[Event]] = {
    "run-started": RunStarted,
    "run-resumed": RunResumed,
    "waiting": Waiting,
    "epoch-asked": EpochAsked,
    "epoch-ready": EpochReady,
    "round-attempt": RoundAttempt,
    "vote-asked": VoteAsked,
    "found": Found,
    "round-done": RoundDone,
    "round-failed": RoundFailed,
    "checkpoint": Checkpointed,
    "epsilon-published": EpsilonPublished,
    "run-finished": RunFinished,
    "run-stopped": RunStopped,
}
NAMES: Mapping[type[Event], str] = {kind: name for name, kind in KINDS.items()}


@dataclass(frozen=True)
class Entry:
    """One line: `n` counts from 1, `at` is UTC with milliseconds, like 2026-01-31T12:00:00.000Z."""

    n: int
    at: str
    event: Event

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.at)


def encode_entry(entry: Entry) -> bytes:
    """The line, with its line feed."""
    line: dict[str, Json] = {
        "at": entry.at,
        "data": to_document(entry.event),
        "event": NAMES[type(entry.event)],
        "n": entry.n,
    }
    return encode_json(line) + b"\n"


def decode_entry(line: bytes, expected: int) -> Entry:
    """Strict inverse of `encode_entry`, without the line feed; raises `JournalError` naming the line."""
    try:
        value = decode_json(line)
        if not isinstance(value, dict) or sorted(value) != ["at", "data", "event", "n"]:
            raise JournalError(f"line {expected}: not an event (keys at, data, event, n)")
        name, at = value["event"], value["at"]
        if not isinstance(name, str) or name not in KINDS:
            raise JournalError(f"line {expected}: event {name!r} is unknown to this version")
        if type(value["n"]) is not int or value["n"] != expected or not isinstance(at, str):
            raise JournalError(f"line {expected}: numbered {value['n']!r}: lines were removed or added")
        event = from_document(KINDS[name], value["data"])
        entry = Entry(expected, at, event)
        _ = entry.time
    except (ConsortiumError, ValueError) as error:
        raise JournalError(f"line {expected}: damaged: {error}; restore events.jsonl from your backup") from error
    return entry


def split_lines(data: bytes) -> tuple[tuple[bytes, ...], int]:
    """Complete lines of `data` and how many bytes they fill; what follows the last line feed is a torn write."""
    whole = data.rfind(b"\n") + 1
    return tuple(data[:whole].split(b"\n")[:-1]), whole


def read_entries(path: Path) -> Iterator[Entry]:
    """All complete events, oldest first; none if there is no file yet. Raises `JournalError` on a damaged line."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error.strerror}") from error
    lines, _ = split_lines(data)
    for number, line in enumerate(lines, start=1):
        yield decode_entry(line, number)


def utc_now() -> datetime:
    return datetime.now(UTC)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_writer(path: Path, limit_s: float) -> bool:
    """True as soon as nobody writes this journal, False if somebody still does after `limit_s`. Adds no event."""
    try:
        Journal(path, wait_s=limit_s).close()
    except JournalBusyError:
        return False
    return True


def is_driven(path: Path) -> bool:
    """Whether a coordinator has this journal open now. Changes nothing; one that is just starting tries again by itself."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


class Journal:
    """The one writer of a run's events. Opening it drops a torn last line; a second writer is refused.

    `wait_s`: how long to wait for an earlier writer that is about to end. Raises `JournalBusyError` if it does not.
    """

    def __init__(self, path: Path, *, clock: Clock = utc_now, wait_s: float = 0.0) -> None:
        self._path = path
        self._clock = clock
        self._wait_s = wait_s
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise JournalError(f"cannot open {path}: {error.strerror}") from error
        try:
            self._take()
        except BaseException:
            os.close(self._handle)
            raise

    def _take(self) -> None:
        give_up = time.monotonic() + self._wait_s
        while not _locked(self._handle):
            if time.monotonic() >= give_up:
                raise JournalBusyError(f"{self._path} is in use: another process drives this run; stop it first")
            time.sleep(LOCK_POLL_S)
        lines, whole = split_lines(self._path.read_bytes())
        self._written = len([decode_entry(line, number) for number, line in enumerate(lines, start=1)])
        os.ftruncate(self._handle, whole)
        os.fsync(self._handle)
        sync_directory(self._path.parent)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, event: Event) -> Entry:
        """On disk when this returns. Raises `JournalError` when it cannot be: then nothing may be sent."""
        at = self._clock().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry = Entry(self._written + 1, at, event)
        line = encode_entry(entry)
        size = os.fstat(self._handle).st_size
        try:
            written = os.write(self._handle, line)
            os.fsync(self._handle)
        except OSError as error:
            os.ftruncate(self._handle, size)  # never leave half a line in front of a later one
            raise JournalError(f"cannot append to {self._path}: {error.strerror}; free some space and resume") from error
        if written != len(line):
            os.ftruncate(self._handle, size)
            raise JournalError(f"{self._path}: the disk took only part of an event; free some space and resume")
        self._written = entry.n
        return entry

    def close(self) -> None:
        os.close(self._handle)
