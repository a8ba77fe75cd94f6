"""The egress manifest: what left this hospital, round by round, readable, one JSON line per answer.

Each line names the run, the round, the kind of answer and every part of it with length, type and SHA-256 of the exact bytes.
"""

import hashlib
import json
import os
import threading
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

REMEMBERED = 256  # answers; a site repeats only what it said last


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


class EgressManifest:
    """Append-only file `egress/<run id>.jsonl`. Written before the answer leaves; the very same answer again adds no line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._latest: deque[bytes] = deque(maxlen=REMEMBERED)
        self._lock = threading.Lock()

    def record(self, run_id: str, *, plan: bytes, round_number: int, kind: str, time: str, parts: tuple[Part, ...]) -> None:
        line = {"run": run_id, "plan": plan.hex(), "round": round_number, "kind": kind, "parts": [asdict(item) for item in parts]}
        content = json.dumps(line, sort_keys=True).encode("ascii")
        with self._lock:
            if content not in self._latest:
                self._append(self._folder / f"{run_id}.jsonl", json.dumps(line | {"time": time}, sort_keys=True).encode("ascii"))
                self._latest.append(content)

    def _append(self, path: Path, line: bytes) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "ab") as file:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # a kill or a full disk cut the last line short
            file.write((b"\n" if torn else b"") + line + b"\n")

    def read(self, run_id: str) -> list[dict[str, object]]:
        """All lines of one run; a line cut short is left out."""
        try:
            lines = (self._folder / f"{run_id}.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return [found for line in lines if (found := _whole(line))]

    def runs(self) -> tuple[str, ...]:
        return tuple(sorted(path.stem for path in self._folder.glob("*.jsonl")))


def _whole(line: bytes) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads(line)
    except ValueError:
        return {}
    return found
