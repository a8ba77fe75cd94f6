"""What the guard is doing and waiting for, since when and until when: kept in memory, shown in a file, told to nobody else.

The gateway is told no more than it saw pass by: kind of message, run, round, the codes it carried. The file, in the site's own
folder, has the finer steps too. It is a display: a full disk makes it stale and never stops what it shows.
"""

import contextlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from client.clock import utc

REFUSALS_SHOWN: Final = 5
RUNS_SHOWN: Final = 8  # the latest; a run's line goes when as many newer ones came
IDLE: Final = "idle"
WAITS: Final = {  # what a finished answer leaves a run waiting for
    "keys": "waiting for the other sites' keys",
    "kem": "waiting for the first round",
    "update": "waiting for the vote",
    "vote": "waiting for the next round",
}
WITHIN_AN_UPDATE: Final = frozenset({"checking", "training", "masking"})  # the gateway sees one exchange, `update`


@dataclass(frozen=True)
class Step:
    """`since`, `until`: UTC seconds; `until` 0 where no deadline is known. `request`: its id in all logs."""

    phase: str
    since: float
    until: float = 0.0
    run: str = ""
    round: int = 0
    purpose: str = ""
    request: str = ""

    def shown(self) -> dict[str, object]:
        """With times in UTC, without what is not known."""
        times = {"since": utc(self.since), "until": utc(self.until) if self.until else ""}
        return {name: value for name, value in (asdict(self) | times).items() if value != ""}


class Activity:
    """Thread-safe. `path` None: nothing is written."""

    def __init__(self, now: Callable[[], float], path: Path | None = None, trainer: Callable[[], bool] | None = None) -> None:
        """`trainer`: whether the trainer's process is alive."""
        self._now = now
        self._path = path
        self._trainer = trainer
        self._lock = threading.Lock()
        self._working: dict[int, Step] = {}  # by thread: a vote may be answered beside a training
        self._runs: dict[str, Step] = {}
        self._refusals: deque[dict[str, object]] = deque(maxlen=REFUSALS_SHOWN)
        self._idle_since = now()
        self._write()

    @contextlib.contextmanager
    def answering(self, phase: str, request: str) -> Iterator[None]:
        """One request, from its arrival to its answer."""
        me = threading.get_ident()
        with self._lock:
            self._working[me] = Step(phase, self._now(), request=request)
            self._write()
        try:
            yield
        finally:
            with self._lock:
                self._working.pop(me, None)
                self._idle_since = self._now()
                self._write()

    def step(self, phase: str, run: str, number: int = 0, purpose: str = "", *, limit_s: float = 0.0) -> None:
        """What the request of this thread has come to; `limit_s`: how long that may take."""
        with self._lock:
            if (now := self._working.get(threading.get_ident())) is None:
                return
            at = self._now()
            self._working[threading.get_ident()] = replace(
                now, phase=phase, since=at, until=at + limit_s if limit_s else 0.0, run=run, round=number, purpose=purpose
            )
            self._write()

    def answered(self, phase: str, run: str, number: int, purpose: str = "", *, limit_s: float = 0.0) -> None:
        """An answer left: what its run waits for now."""
        with self._lock:
            at = self._now()
            self._runs.pop(run, None)
            self._runs[run] = Step(WAITS[phase], at, at + limit_s if limit_s else 0.0, run, number, purpose)
            while len(self._runs) > RUNS_SHOWN:
                self._runs.pop(next(iter(self._runs)))
            self._write()

    def refused(self, code: str, correlation: str, kind: str) -> None:
        """The last refusals, so that whoever looks knows what to look for in the log."""
        with self._lock:
            self._refusals.append({"at": utc(self._now()), "code": code, "correlation": correlation, "kind": kind})
            self._write()

    def beat(self) -> None:
        """The guard is alive; said now and then, so that whoever looks from elsewhere can tell."""
        with self._lock:
            self._write()

    def forget_runs(self) -> None:
        """Another roster is in force: nothing goes on under the old one."""
        with self._lock:
            self._runs.clear()
            self._write()

    def told(self) -> dict[str, object]:
        """What the gateway may know: all of it passed through its hands."""
        with self._lock:
            found = self._document()
        if found["phase"] in WITHIN_AN_UPDATE:
            for name in ("since", "until"):
                found.pop(name, None)
            found["phase"] = "update"
        return found

    def _document(self) -> dict[str, object]:
        busiest = min(self._working.values(), key=lambda step: step.since, default=Step(IDLE, self._idle_since))
        waiting = [step.shown() for step in self._runs.values()]
        return {"state": "idle" if busiest.phase == IDLE else "working", **busiest.shown()} | {
            "waiting": waiting,
            "refusals": list(self._refusals),
        }

    def _write(self) -> None:
        """Beside and renamed, so that nobody reads half; not synchronised, since nothing depends on it."""
        if self._path is None:
            return
        scratch = self._path.with_suffix(".new")
        alive = self._trainer is None or self._trainer()
        document = self._document() | {"pid": os.getpid(), "beat": utc(self._now()), "trainer": "alive" if alive else "down"}
        with contextlib.suppress(OSError):
            scratch.write_text(json.dumps(document, sort_keys=True) + "\n", encoding="ascii")
            scratch.replace(self._path)
