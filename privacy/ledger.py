"""A site's record of everything it ever released: a spend is on disk before the mechanism runs, and nothing is refunded.

Two files. The ledger: one signed line an entry (`privacy.entries`). Beside it `<name>.head`: index and hash of the last
line, so that an older copy of the ledger put back in its place is refused. Unknown, missing or damaged means no training.

A crash between two instructions of `append` leaves one of three states, and all are safe:
1. part of a line at the end: the append never returned, so nothing was released for it; `open` cuts it off and says so in a
   `recovered` entry. After a power cut the part may be any blocks of the line, also its end with the newline: a last line that is
   no JSON counts as part of a line if the head file, written only after the whole line, stands undamaged at the entry before;
2. a whole line that the head file does not know yet: it counts (perhaps nothing was released: never a refund);
3. line and head both there: the ordinary state.
Not detectable here: both files rolled back together, as a restored machine does. Copies of the ledger that were handed out
(to an auditor, as receipts) detect that: `privacy.verify.compare` names the entry at which two copies part.
"""

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from consortium.canonical import Json, decode_json, digest, integer
from consortium.errors import DocumentError, EncodingError
from consortium.identity import SigningKey
from privacy.accountant import ENFORCE_INTERVAL, epsilon
from privacy.entries import (
    FIRST_PREVIOUS,
    HASH_SIZE,
    NO_POPULATION,
    VERSION,
    Content,
    Entry,
    Genesis,
    KeyReplaced,
    PopulationChanged,
    Recovered,
    RunNote,
    SpendDetails,
    SpendRecord,
    body_of,
    check_link,
    check_population,
    check_signature,
    make_entry,
    parse_body,
    parse_entry,
    recorded,
)
from privacy.errors import EventError, LedgerError
from privacy.events import Spend, aggregate
from privacy.handover import Keys, check_in_force, rotated
from privacy.periods import Calendar, day_of

HEAD_SUFFIX: Final = ".head"
_HEAD_LABEL: Final = "wardround/ledger-head/1"
_HEAD_SLOT: Final = 8 + HASH_SIZE + HASH_SIZE  # index, hash of the line, check value
# The rest is made here.
_GIVEN_BY_CALLERS: Final = ("plan-approved", "plan-refused", "withdrawn", "run-note", "egress", "population-changed")
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the write was refused as a whole or in part; no block is in doubt
LEDGER_MOST: Final = 2**30  # bytes; about 400,000 rounds
_ROOM: Final = 2**14  # bytes; the entries of a round take some 2,000


@dataclass(frozen=True)
class Replacement:
    """The roster that lists another key for the site, and why the old one cannot sign that (printable ASCII)."""

    roster_version: int
    roster_digest: bytes
    reason: str


@dataclass
class _Index:
    """What per-round questions need, kept up to date with each entry, so that none of them reads the file."""

    entries: int = 0
    last_hash: bytes = FIRST_PREVIOUS
    spent: dict[tuple[str, object], Spend] = field(default_factory=dict)
    split_ids: set[str] = field(default_factory=set)
    last_rounds: dict[bytes, int] = field(default_factory=dict)
    counts: dict[tuple[bytes, str], int] = field(default_factory=dict)
    calendar: Calendar = field(default_factory=Calendar)
    left: dict[bytes, RunNote] = field(default_factory=dict)
    populations: dict[str, bytes] = field(default_factory=dict)
    keys: Keys = field(default_factory=Keys)

    def add(self, entry: Entry) -> None:
        self.entries += 1
        self.last_hash = entry.hash
        self.keys.take(entry)
        if isinstance(entry.content, SpendRecord):
            self._add_spend(entry.content)
            self.calendar.add(day_of(entry.time), entry.content.spends)
        elif isinstance(entry.content, PopulationChanged):
            self.populations[entry.content.task] = entry.content.digest
        note_left(self.left, entry)

    def _add_spend(self, record: SpendRecord) -> None:
        details = record.details
        for spend in record.spends:
            key = (spend.population, spend.event)
            before = self.spent[key].count if key in self.spent else 0
            self.spent[key] = Spend(spend.event, spend.population, before + spend.count)
        self.split_ids.add(details.split_id)
        self.last_rounds[details.plan_digest] = details.round
        by_purpose = (details.plan_digest, details.purpose)
        self.counts[by_purpose] = self.counts.get(by_purpose, 0) + 1


def note_left(left: dict[bytes, RunNote], entry: Entry) -> None:
    """Keep `left` (plan digest -> note) to the runs that the site left and did not come back to, one entry further."""
    match entry.content:
        case RunNote() as note if note.left:
            left.pop(note.plan_digest, None)  # the newest last
            left[note.plan_digest] = note
        case SpendRecord(details=details):
            left.pop(details.plan_digest, None)


def read_entries(data: bytes, public: bytes | None = None) -> tuple[tuple[Entry, ...], bytes]:
    """All entries of a ledger's bytes, checked, and the torn rest after the last newline (usually empty).

    Checked: form, index, chain, rounds that rise, signatures by the keys that it was begun with and handed over to
    (`privacy.handover`); with `public`, that it is the one in force. Raises `LedgerError` naming the first bad entry.
    """
    *lines, torn = data.split(b"\n")
    entries: list[Entry] = []
    rounds: dict[bytes, int] = {}
    populations: dict[str, bytes] = {}
    keys = Keys()
    for index, line in enumerate(lines):
        entry = parse_entry(line, index)
        check_link(entry, entries[-1] if entries else None)
        check_signature(entry, keys.take(entry))
        if isinstance(entry.content, SpendRecord):
            check_round(entry.content.details, rounds, index)
            rounds[entry.content.details.plan_digest] = entry.content.details.round
        elif isinstance(entry.content, PopulationChanged):
            check_population(entry.content, populations, index)
            populations[entry.content.task] = entry.content.digest
        entries.append(entry)
    if entries and public is not None:
        check_in_force(keys, public)
    return tuple(entries), torn


def check_round(details: SpendDetails, rounds: dict[bytes, int], index: int) -> None:
    """Raises `LedgerError` unless the round is later than every earlier one of its plan."""
    if details.round <= (last := rounds.get(details.plan_digest, 0)):
        raise LedgerError(f"round {details.round} of run {details.run_id} comes after round {last}: rounds only rise", index)


class Ledger:
    """An open ledger: this process alone may append to it, until `close` or the end of the process."""

    def __init__(self, path: Path, key: SigningKey, handle: int, head: int) -> None:
        self._path, self._key = path, key
        self._handle, self._head = handle, head
        self._length = 0  # bytes of complete, verified lines
        self._index = _Index()
        self._genesis: Genesis | None = None
        self._broken = ""
        self._turn = threading.RLock()  # one append at a time in this process; the file lock keeps other processes out

    def __repr__(self) -> str:
        return f"Ledger({str(self._path)!r}, entries={self._index.entries})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def create(
        cls, path: Path, key: SigningKey, *, consortium: str, site: str, population: str, split_id: str, now: datetime
    ) -> Self:
        """A new ledger with its genesis entry, durable before it returns. Never replaces one, nor one whose head is left."""
        fresh = path.with_name(path.name + ".new")
        handle = _locked_new(fresh)  # held until the ledger stands: of two creators one is refused
        try:
            if path.exists():
                os.unlink(fresh)
                raise LedgerError(f"{path} exists: a ledger is never overwritten; open it, or choose another path")
            _refuse_orphaned_head(path)
            genesis = Genesis(VERSION, consortium, site, key.public, population, split_id)
            entry = make_entry(0, genesis, previous=FIRST_PREVIOUS, now=now, key=key)
            fresh_head = head_path(fresh)
            _write_new(fresh_head, _head_slot(0, entry.hash) * 2)
            os.replace(fresh_head, head_path(path))  # whole or not at all: a torn head would block the next attempt
            _write_new(fresh, entry.line + b"\n")
            os.link(fresh, path)
            os.unlink(fresh)
            _sync_folder(path.parent)
        except OSError as error:
            raise LedgerError(f"cannot create {path}: {error.strerror}; check the folder, its owner and the disk") from error
        finally:
            os.close(handle)
        return cls.open(path, key, now)

    @classmethod
    def open(cls, path: Path, key: SigningKey, now: datetime) -> Self:
        """The ledger at `path`, locked for this process, every line checked, `key` the one in force, a torn last line cut off."""
        return cls._opened(path, key, now, None)

    @classmethod
    def _opened(cls, path: Path, key: SigningKey, now: datetime, replaces: Replacement | None) -> Self:
        handle = _locked(path)
        try:
            head = _open_head(path)
        except BaseException:
            os.close(handle)  # whatever ends this, the lock must not outlive it
            raise
        ledger = cls(path, key, handle, head)
        try:
            ledger._load(now, replaces)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def take_over(cls, path: Path, key: SigningKey, now: datetime, replaces: Replacement) -> Self:
        """The ledger at `path`, whose key is lost: `key` goes on with everything that was spent, and says so first of all."""
        return cls._opened(path, key, now, replaces)

    def close(self) -> None:
        """Gives the lock back. Closing twice does nothing."""
        for handle in (self._handle, self._head):
            if handle >= 0:
                os.close(handle)
        self._handle = self._head = -1

    def _load(self, now: datetime, replaces: Replacement | None = None) -> None:
        data = _read_all(self._handle, self._path)
        head = _read_head(self._head, self._path)
        entries, torn = _read_whole(data, head, None if replaces else self._key.public)
        self._check_head(entries, *parse_head(head))
        for entry in entries:
            self._index.add(entry)
        assert isinstance(entries[0].content, Genesis)  # noqa: S101 - read_entries and _check_head saw to both
        self._genesis = entries[0].content
        self._length = len(data) - len(torn)
        try:
            if torn:
                os.ftruncate(self._handle, self._length)
            os.fsync(self._handle)  # a line that was read may still be in the cache of a process that was killed
            self._write_head()
        except OSError as error:
            raise LedgerError(f"cannot make {self._path} durable: {error.strerror}; check the disk") from error
        if replaces is not None:
            old = self._index.keys.in_force
            replaced = KeyReplaced(old, self._key.public, replaces.roster_version, replaces.roster_digest, replaces.reason)
            self._append(replaced, now)
        if torn:
            self._append(Recovered(len(torn), hashlib.sha256(torn).digest()), now)

    def _check_head(self, entries: tuple[Entry, ...], index: int, expected: bytes) -> None:
        if index >= len(entries):
            raise LedgerError(
                f"missing: the ledger has {len(entries)} entries, but entry {index} was written. Lines were removed or an older "
                "copy was put back; restore the newest copy, releases cannot be forgotten",
                len(entries),
            )
        if entries[index].hash != expected:
            raise LedgerError("this entry is not the one that was written: the ledger was replaced by another history", index)

    @property
    def path(self) -> Path:
        return self._path

    @property
    def genesis(self) -> Genesis:
        assert self._genesis is not None  # noqa: S101 - `open` loads it before anybody gets the ledger
        return self._genesis

    @property
    def key(self) -> bytes:
        """The public key that signs the next entry."""
        return self._index.keys.in_force

    @property
    def entries(self) -> int:
        return self._index.entries

    @property
    def head(self) -> bytes:
        """32 bytes that stand for the whole ledger up to now: put them in receipts."""
        return self._index.last_hash

    @property
    def split_ids(self) -> frozenset[str]:
        return frozenset(self._index.split_ids)

    @property
    def population(self) -> str:
        """The patient population that this ledger is about."""
        return self.genesis.population

    @property
    def last_day(self) -> int:
        """The latest day of any spend (`privacy.periods`): a clock set back does not lower it."""
        return self._index.calendar.last

    def spends(self) -> tuple[Spend, ...]:
        """Everything ever spent, equal releases counted together."""
        return aggregate(self._index.spent.values())

    def spends_since(self, day: int) -> tuple[Spend, ...]:
        """Everything that counts on this day or later, equal releases counted together."""
        return self._index.calendar.since(day)

    def left(self, plan_digest: bytes) -> RunNote | None:
        """Why the site left this run, if it did and was not charged for it since."""
        return self._index.left.get(plan_digest)

    def epsilon(self, delta: float, *, interval: float = ENFORCE_INTERVAL) -> float:
        """Of the worst-off population over all runs; infinite once something left without noise."""
        return epsilon(self._index.spent.values(), delta, interval=interval, split_ids=self._index.split_ids)

    def epsilon_with(self, spends: Iterable[Spend], delta: float, split_id: str, *, interval: float = ENFORCE_INTERVAL) -> float:
        """What `epsilon` would be with these spends too. Writes nothing."""
        both = (*self._index.spent.values(), *spends)
        return epsilon(both, delta, interval=interval, split_ids={*self._index.split_ids, split_id})

    def runs_left(self) -> tuple[RunNote, ...]:
        """The notes of all such runs, in the order in which the site left them."""
        return tuple(self._index.left.values())

    def population_digest(self, task: str) -> bytes:
        """Which patients the computations of `task` are about, as the last entry has it; 32 zero bytes for none yet."""
        return self._index.populations.get(task, NO_POPULATION)

    def last_round(self, plan_digest: bytes) -> int:
        """The latest round of this plan that was charged, 0 for none."""
        return self._index.last_rounds.get(plan_digest, 0)

    def count(self, plan_digest: bytes, purpose: str) -> int:
        """Rounds of this plan and purpose that were charged."""
        return self._index.counts.get((plan_digest, purpose), 0)

    def spend(self, details: SpendDetails, spends: Iterable[Spend], now: datetime) -> Entry:
        """Charge one round. When this returns the charge is on disk and the mechanism may run; if it raises, it may not."""
        with self._turn:
            charged = aggregate(spends)
            after = self.epsilon_with(charged, details.delta, details.split_id)
            return self._append(SpendRecord(details, charged, recorded(after)), now)

    def rotate(self, key: SigningKey, *, roster_version: int, roster_digest: bytes, now: datetime) -> Entry:
        """Hand the ledger over to `key`: the old key's last entry is on disk when this returns, the next one is signed by `key`."""
        with self._turn:
            terms = rotated(self._key, key, self._index.last_hash, roster_version=roster_version, roster_digest=roster_digest)
            entry = self._append(terms, now)
            self._key = key
            return entry

    def append(self, kind: str, body: Content | dict[str, Json], now: datetime) -> Entry:
        """One more entry, durable before this returns. `body`: the content's dataclass (`privacy.entries`) or its document."""
        if kind not in _GIVEN_BY_CALLERS:
            raise LedgerError(
                f"a {kind!r} entry is not appended by hand; known: {', '.join(_GIVEN_BY_CALLERS)}; for a spend call spend()"
            )
        try:
            content = parse_body(kind, body if isinstance(body, dict) else body_of(body))
        except (DocumentError, EventError) as error:
            raise LedgerError(f"{kind} cannot be written: {error}", self.entries) from error
        with self._turn:
            return self._append(content, now)

    def check_room(self) -> None:
        """Raises `LedgerError` where the next entries could not be written: closed, broken, or no room on its disk.

        Room is tried by writing a file beside the ledger, never in it: what the disk says of free blocks is not what it gives.
        """
        probe = self._path.with_name(self._path.name + ".room")
        with self._turn:  # one at a time: there is one probe, and spends need the same disk
            self._check_usable()
            try:
                handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                try:
                    _write_all(handle, bytes(_ROOM), 0)
                    os.fsync(handle)
                finally:
                    os.close(handle)
                    os.unlink(probe)
            except OSError as error:
                text = f"no {_ROOM} bytes can be written beside {self._path}: {error.strerror}; free some space"
                raise LedgerError(text) from error

    def _check_usable(self) -> None:
        if self._handle < 0:
            raise LedgerError(f"{self._path} is closed: open it again")
        if self._broken:
            raise LedgerError(f"{self._path} took no more entries since: {self._broken}. Check the disk, then open it again")

    def _append(self, content: Content, now: datetime) -> Entry:
        self._check_usable()
        if isinstance(content, SpendRecord):
            check_round(content.details, self._index.last_rounds, self.entries)
        elif isinstance(content, PopulationChanged):
            check_population(content, self._index.populations, self.entries)
        entry = make_entry(self.entries, content, previous=self._index.last_hash, now=now, key=self._key)
        self._write_line(entry)
        self._index.add(entry)
        try:
            self._write_head()
        except OSError as error:
            self._broken = f"the head file could not be written ({error.strerror})"
            raise LedgerError(f"entry stands, but {self._broken}: no release; check the disk", entry.index) from error
        return entry

    def _write_line(self, entry: Entry) -> None:
        data = entry.line + b"\n"
        try:
            _write_all(self._handle, data, self._length)
            os.fsync(self._handle)
        except OSError as error:
            self._take_back(error)
            reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            raise LedgerError(f"not written, {reason}: no release; free space on {self._path.parent}", entry.index) from error
        self._length += len(data)

    def _take_back(self, cause: OSError) -> None:
        """Back to the last good length. After a failed fsync the kernel's copy is not to be trusted: then only `open` helps."""
        try:
            os.ftruncate(self._handle, self._length)
            os.fsync(self._handle)
        except OSError as error:
            self._broken = f"a half-written line could not be taken back ({error.strerror})"
            return
        if cause.errno not in NO_ROOM:
            self._broken = f"a write failed ({cause.strerror})"

    def _write_head(self) -> None:
        last = self.entries - 1
        slot = last % 2  # alternately: a torn write leaves the slot of the entry before
        _write_all(self._head, _head_slot(last, self._index.last_hash), slot * _HEAD_SLOT)
        os.fsync(self._head)


def read_keys(path: Path) -> Keys:
    """The keys of the ledger at `path`, every line checked, as `Ledger.open` would find them. Locks and changes nothing."""
    try:
        data, head = path.read_bytes(), head_path(path).read_bytes()
    except OSError as error:
        raise LedgerError(f"cannot read {error.filename}: {error.strerror}; restore ledger and head file together") from error
    return Keys.of(_read_whole(data, head, None)[0])


def _read_whole(data: bytes, head: bytes, public: bytes | None) -> tuple[tuple[Entry, ...], bytes]:
    """`read_entries`, with a last line that a power cut left without some of its blocks taken for torn."""
    whole = len(data) - len(_torn_line(data, head))
    entries, torn = read_entries(data[:whole], public)
    return entries, torn + data[whole:]


def head_path(path: Path) -> Path:
    """The small file beside a ledger that remembers its last entry."""
    return path.with_name(path.name + HEAD_SUFFIX)


def _head_slot(index: int, line_hash: bytes) -> bytes:
    body = integer(index) + line_hash
    return body + digest(_HEAD_LABEL, body)


def parse_head(data: bytes) -> tuple[int, bytes]:
    """Index and hash of the latest entry a head file knows. Raises `LedgerError` if neither of its two slots is whole."""
    found = _head_slots(data)
    if not found or len(data) != 2 * _HEAD_SLOT:
        raise LedgerError("the head file is damaged: restore ledger and head file from the newest copy")
    return max(found)


def _head_slots(data: bytes) -> list[tuple[int, bytes]]:
    """Index and hash from each whole slot."""
    found = []
    for start in (0, _HEAD_SLOT):
        slot = data[start : start + _HEAD_SLOT]
        body, check = slot[: 8 + HASH_SIZE], slot[8 + HASH_SIZE :]
        if check == digest(_HEAD_LABEL, body):
            found.append((int.from_bytes(body[:8], "big"), body[8:]))
    return found


def _torn_line(data: bytes, head: bytes) -> bytes:
    """A last line, newline included, that a power cut left without some of its blocks; empty if there is none.

    The head's slot is written only after its line was synchronised: where the line is torn, both slots are whole and the newer
    one knows the entry before. Anything else is damage, and stays an error.
    """
    *lines, rest = data.split(b"\n")
    slots = _head_slots(head)
    if rest or len(slots) != 2 or max(slots)[0] != len(lines) - 2:
        return b""
    try:
        decode_json(lines[-1])
    except EncodingError:
        return lines[-1] + b"\n"
    return b""


def _locked_new(path: Path) -> int:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LedgerError(f"cannot create {path}: {error.strerror}; check the folder, its owner and the disk") from error
    return _lock(handle, path)


def _locked(path: Path) -> int:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise LedgerError(f"{path} is missing: nothing trains without it; restore it, or create one for a new site") from error
    except OSError as error:
        raise LedgerError(f"cannot open {path}: {error.strerror}; check the mount and its owner") from error
    return _lock(handle, path)


def _lock(handle: int, path: Path) -> int:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise LedgerError(f"{path} is in use by another process: only one guard may run on a ledger; stop the other") from error
    return handle


def _open_head(path: Path) -> int:
    try:
        return os.open(head_path(path), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise LedgerError(
            f"cannot open {head_path(path)}: {error.strerror}; without it a rolled-back ledger looks whole. Restore it"
        ) from error


def _read_head(handle: int, path: Path) -> bytes:
    try:
        return os.pread(handle, 2 * _HEAD_SLOT + 1, 0)
    except OSError as error:
        raise LedgerError(f"cannot read {head_path(path)}: {error.strerror}; check the disk") from error


def _read_all(handle: int, path: Path) -> bytes:
    try:
        if (size := os.fstat(handle).st_size) > LEDGER_MOST:
            raise LedgerError(f"{path} has {size} bytes, limit is {LEDGER_MOST}: not a ledger")
        with os.fdopen(os.dup(handle), "rb") as file:
            file.seek(0)
            return file.read()
    except OSError as error:
        raise LedgerError(f"cannot read {path}: {error.strerror}; check the disk") from error


def _refuse_orphaned_head(path: Path) -> None:
    """A head beyond genesis says that a ledger with spends stood here: its absence is a loss, not a fresh start."""
    beside = head_path(path)
    if not beside.exists():
        return
    try:
        index, _ = parse_head(beside.read_bytes())
    except OSError as error:
        raise LedgerError(f"cannot read {beside}: {error.strerror}; check its owner") from error
    if index > 0:
        raise LedgerError(f"{path} is missing, but {index + 1} entries were written to it: restore it, do not start anew")


def _write_new(path: Path, data: bytes) -> None:
    """A whole file, durable, readable by its owner alone; what a crashed attempt left there is replaced."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _write_all(handle, data, 0)
            os.fsync(handle)
        finally:
            os.close(handle)
        _sync_folder(path.parent)
    except OSError as error:
        raise LedgerError(f"cannot write {path}: {error.strerror}; check the folder, its owner and the disk") from error


def _write_all(handle: int, data: bytes, at: int) -> None:
    """All of `data` at offset `at`: a short write is continued, not taken for a whole one."""
    written = 0
    while written < len(data):
        count = os.pwrite(handle, data[written:], at + written)
        if count == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += count


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
