"""The egress manifest: what left this hospital, round by round, readable, one JSON line per answer.

Each line names the run, the round, the kind of answer and every part of it with length, type and SHA-256 of the exact bytes.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """One thing that left: `what` in words, `shape` as the plan states it, `masked` whether it is covered by masks."""

    what: str
    shape: str
    bytes: int
    sha256: str
    masked: bool


def part(what: str, data: bytes, *, shape: str = "", masked: bool = False) -> Part:
    return Part(what, shape or f"{len(data)} bytes", len(data), hashlib.sha256(data).hexdigest(), masked)


class EgressManifest:
    """Append-only file `egress/<run id>.jsonl`. Written before the answer leaves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def record(self, run_id: str, *, round_number: int, kind: str, time: str, parts: tuple[Part, ...]) -> None:
        line = {"run": run_id, "round": round_number, "kind": kind, "time": time, "parts": [asdict(item) for item in parts]}
        handle = os.open(self._folder / f"{run_id}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "ab") as file:
            file.write(json.dumps(line, sort_keys=True).encode("ascii") + b"\n")

    def read(self, run_id: str) -> list[dict[str, object]]:
        """All lines of one run; a line cut short by a kill is left out."""
        try:
            lines = (self._folder / f"{run_id}.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith(b"}")]

    def runs(self) -> tuple[str, ...]:
        return tuple(sorted(path.stem for path in self._folder.glob("*.jsonl")))
