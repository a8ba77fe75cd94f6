"""What a coordinator waits for at this moment, of whom, since and until when: a display beside the journal, never read back by it.

The journal has what happened; this file has what is going on, reply by reply. A full disk makes it stale and never stops a run.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from consortium.canonical import Json

EVERY_S: Final = 0.2  # between two writings for replies: a hundred sites answer within a second
FILE_MOST: Final = 1 << 20


def utc(now: float) -> str:
    """UTC to the second."""
    return datetime.fromtimestamp(now, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Asked:
    """How far one site is with the request that it was sent; `state`: asked, answered, refused or silent."""

    request: str
    state: str = "asked"
    code: str = ""
    at: str = ""

    def shown(self) -> dict[str, Json]:
        return {name: value for name, value in vars(self).items() if value}


@dataclass
class Live:
    """One coordinator's display in `path`. Single-threaded, like the coordinator."""

    path: Path
    now: Callable[[], float] = time.time
    phase: str = ""
    round: int = 0
    purpose: str = ""
    since: float = 0.0
    until: float = 0.0
    sites: dict[str, Asked] = field(default_factory=dict)
    written: float = 0.0

    def begin(self, phase: str, requests: Mapping[str, str], *, number: int = 0, purpose: str = "", limit_s: float) -> None:
        """An exchange was sent to these sites (site -> id of its request) and is waited for at most `limit_s`."""
        self.phase, self.round, self.purpose = phase, number, purpose
        self.since, self.until = self.now(), self.now() + limit_s
        self.sites = {site: Asked(request) for site, request in requests.items()}
        self._write()

    def heard(self, site: str, state: str, code: str = "") -> None:
        """A site answered, refused, or was given up."""
        asked = self.sites.setdefault(site, Asked(""))
        asked.state, asked.code, asked.at = state, code, utc(self.now())
        if self.now() - self.written >= EVERY_S:
            self._write()

    def pause(self, phase: str, limit_s: float) -> None:
        """Between two exchanges: what is waited for is not a reply. What sites last said stays."""
        if phase != self.phase:
            self.since = self.now()
        self.phase, self.until = phase, self.now() + limit_s
        self._write()

    def end(self) -> None:
        """Nothing is waited for any more."""
        self.phase, self.round, self.purpose, self.until, self.sites = "", 0, "", 0.0, {}
        self._write()

    def _write(self) -> None:
        self.written = self.now()
        document: dict[str, Json] = {
            "at": utc(self.written),
            "phase": self.phase,
            "round": self.round,
            "purpose": self.purpose,
            "since": utc(self.since),
            "until": utc(self.until) if self.until else "",
            "sites": {site: asked.shown() for site, asked in self.sites.items()},
        }
        scratch = self.path.with_suffix(".new")
        with contextlib.suppress(OSError):
            scratch.write_text(json.dumps(document, sort_keys=True) + "\n", encoding="ascii")
            scratch.replace(self.path)


def read_live(path: Path) -> dict[str, Json]:
    """The display; empty where there is none, or it is damaged."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(FILE_MOST))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
