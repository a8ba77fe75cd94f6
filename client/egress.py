"""The egress manifest: what left this hospital, round by round, readable, one JSON line per answer and per refusal.

Each line names the run, the round, the kind of answer and every part of it with length, type and SHA-256 of the exact bytes.
Lines are chained, and the ledger holds how far the chain went with each update and each vote (`privacy.manifest` has the form
and the check): afterwards nobody can edit, cut or extend what is listed without the ledger showing it.

The order, for every answer: its line is on disk, then its entry is in the ledger, then it leaves. A crash in between leaves a
line of something that did not leave, never the opposite. A line that was cut short stays and counts as a line.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from client.files import sync_folder
from privacy.manifest import REFUSAL, Tip

REMEMBERED = 256  # answers; a site repeats only what it said last
REFUSALS_MOST: Final = 100  # lines of one code in one file: whoever provokes refusals must not fill the disk
NO_RUN: Final = "_no-run"  # stands for a run where a refusal is about no plan known here; no run id begins so
LAST_REFUSAL: Final = "refusal; further ones with this code are not listed"
_REFUSED: Final = re.compile(rb'"kind": "refusal \(([A-Z_]+)\)"')

Link = Callable[[Tip], None]


@dataclass(frozen=True)
class Part:
    """One thing that left: `what` in words, `shape` as the plan states it, `masked` whether it is covered by masks."""

    what: str
    shape: str
    bytes: int
    sha256: str
    masked: bool


def part(what: str, data: bytes) -> Part:
    return Part(what, f"{len(data)} bytes", len(data), hashlib.sha256(data).hexdigest(), masked=False)


@dataclass
class _File:
    """What the next line of a run's file needs to know; read from the file once, and again after a failed write."""

    tip: Tip = field(default_factory=Tip)
    torn: bool = False  # the last line has no newline: a kill or a full disk cut it short
    refusals: Counter[str] = field(default_factory=Counter)


class EgressManifest:
    """Append-only files `egress/<run id>.jsonl`. One process at a time writes them: the one that holds the ledger."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, _File] = {}
        self._written: deque[bytes] = deque(maxlen=REMEMBERED)
        self._linked: deque[bytes] = deque(maxlen=REMEMBERED)
        self._lock = threading.Lock()

    def record(
        self,
        run_id: str,
        *,
        plan: bytes,
        round_number: int,
        kind: str,
        time: str,
        parts: tuple[Part, ...],
        link: Link | None = None,
    ) -> None:
        """The answer is listed, durably, and `link` was called with the tip: it may leave. If this raises, it may not.

        The very same answer again adds nothing; one whose `link` failed is linked then, without a second line.
        """
        line = _line(run_id, plan.hex(), round_number, kind, parts)
        content = json.dumps(line, sort_keys=True).encode("ascii")
        with self._lock:
            if content not in self._written:
                self._append(run_id, line | {"time": time}, durable=True)
                self._written.append(content)
            if link is not None and content not in self._linked:
                link(self._file(run_id).tip)
                self._linked.append(content)

    def refused(self, run_id: str, *, plan: str, round_number: int, code: str, time: str, data: bytes) -> None:
        """List a refusal, of each code `REFUSALS_MOST` in one file. Durable with the next answer: nobody's data is in it."""
        with self._lock:
            listed = self._file(run_id).refusals[code]
            if listed < REFUSALS_MOST:
                what = part(REFUSAL if listed < REFUSALS_MOST - 1 else LAST_REFUSAL, data)
                line = _line(run_id, plan, round_number, f"{REFUSAL} ({code})", (what,))
                self._append(run_id, line | {"time": time}, durable=False)
                self._file(run_id).refusals[code] += 1

    def _file(self, run_id: str) -> _File:
        if run_id not in self._files:
            self._files[run_id] = _scan(self._path(run_id))
        return self._files[run_id]

    def _append(self, run_id: str, line: dict[str, object], *, durable: bool) -> None:
        state, path = self._file(run_id), self._path(run_id)
        data = json.dumps(line | {"previous": state.tip.head.hex()}, sort_keys=True).encode("ascii")
        del self._files[run_id]  # whatever fails now, the file tells how far it came
        _append(path, (b"\n" if state.torn else b"") + data + b"\n", durable=durable)
        self._files[run_id] = _File(state.tip.after(data), torn=False, refusals=state.refusals)

    def _path(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.jsonl"

    def data(self, run_id: str) -> bytes:
        """The file as it stands; empty if there is none."""
        try:
            return self._path(run_id).read_bytes()
        except FileNotFoundError:
            return b""

    def numbered(self, run_id: str) -> list[tuple[int, dict[str, Any]]]:
        """All lines of one run with their numbers in the file, from 1; a line cut short has its number and is left out."""
        return [(number, found) for number, line in enumerate(self.data(run_id).split(b"\n"), 1) if (found := _whole(line))]

    def read(self, run_id: str) -> list[dict[str, object]]:
        """The same without numbers."""
        return [line for _, line in self.numbered(run_id)]

    def runs(self) -> tuple[str, ...]:
        return tuple(sorted(path.stem for path in self._folder.glob("*.jsonl")))


def _line(run_id: str, plan: str, round_number: int, kind: str, parts: tuple[Part, ...]) -> dict[str, object]:
    return {"run": run_id, "plan": plan, "round": round_number, "kind": kind, "parts": [asdict(item) for item in parts]}


def _scan(path: Path) -> _File:
    """How far the file goes, a last line without newline included: the next line ends it."""
    found = _File()
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            found.torn = not line.endswith(b"\n")
            found.tip = found.tip.after(line if found.torn else line[:-1])
            if code := _REFUSED.search(line):
                found.refusals[code[1].decode("ascii")] += 1
    return found


def _append(path: Path, data: bytes, *, durable: bool) -> None:
    """All of `data` at the end, on disk if `durable`. What a full disk let through of it is taken back if it can be."""
    new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        size = os.fstat(handle).st_size
        try:
            _write_all(handle, data)
            if durable:
                os.fsync(handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
    if new:
        sync_folder(path.parent)


def _write_all(handle: int, data: bytes) -> None:
    written = 0
    while written < len(data):
        count = os.write(handle, data[written:])
        if count == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += count


def _whole(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
