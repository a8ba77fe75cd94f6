"""All that a check can find, each with its remedy, and how probes are run: each with a deadline, none hiding another."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from client.errors import SiteError
from client.preflight.catalogue import PROBLEMS
from client.unexpected import without_cells
from consortium.errors import ConsortiumError
from privacy.errors import PrivacyError
from tasks.errors import TaskError

OK: Final = "ok"
PROBLEM: Final = "PROBLEM"
NOT_TRIED: Final = "not tried"
SHOWN_LIMIT: Final = 160  # characters of words that come from somewhere else


class Problem(SiteError):
    """Something that keeps this site from working. `code` is a key of `PROBLEMS`; `detail`: what, the value, the limit."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{detail}: {PROBLEMS[code].remedy}")
        self.code = code
        self.detail = detail


class NotTried(SiteError):
    """A probe that has nothing to look at, and why; no problem of its own."""


@dataclass(frozen=True)
class Finding:
    """What one probe found. `code` and `remedy` are empty unless `state` is PROBLEM."""

    check: str
    state: str
    detail: str
    code: str = ""
    remedy: str = ""

    @property
    def line(self) -> str:
        """One line for people."""
        return f"{self.state:<9}  {self.check:<14}  {self.detail}" + (f". {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Probe:
    """`look` returns what it found in words, or raises. It is not tried where one of the probes named in `needs` did not pass."""

    name: str
    look: Callable[[], str]
    limit_s: float
    needs: tuple[str, ...] = ()


def shown(text: str) -> str:
    """Words of somebody else's, fit for a line on a screen: printable, bounded."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= SHOWN_LIMIT else f"{plain[:SHOWN_LIMIT]}..."


def run_probes(probes: Sequence[Probe], *, limit_s: float, told: Callable[[Finding], None] = lambda finding: None) -> list[Finding]:
    """Every probe in order, `told` of each as it ends; all together for at most `limit_s` seconds.

    A probe that does not end in its time is left behind (its thread dies with the program): a lost file server answers nobody.
    """
    found: list[Finding] = []
    passed: dict[str, bool] = {}
    end = time.monotonic() + limit_s
    for probe in probes:
        missing = [name for name in probe.needs if not passed.get(name, True)]
        left_s = min(probe.limit_s, end - time.monotonic())
        if missing:
            finding = Finding(probe.name, NOT_TRIED, f"first the line '{missing[0]}'")
        elif left_s <= 0:
            finding = _problem(probe.name, Problem("SLOW", f"{probe.name}: no time was left of {limit_s:.0f} s"))
        else:
            finding = _looked(probe, left_s)
        passed[probe.name] = finding.state == OK
        found.append(finding)
        told(finding)
    return found


def _looked(probe: Probe, limit_s: float) -> Finding:
    answers: queue.Queue[Finding] = queue.Queue()
    threading.Thread(target=lambda: answers.put(_outcome(probe)), name=f"check-{probe.name}", daemon=True).start()
    try:
        return answers.get(timeout=limit_s)
    except queue.Empty:
        return _problem(probe.name, Problem("SLOW", f"{probe.name}: no end within {limit_s:.0f} s"))


def _outcome(probe: Probe) -> Finding:
    try:
        with without_cells("this check"):
            return Finding(probe.name, OK, probe.look())
    except NotTried as reason:
        return Finding(probe.name, NOT_TRIED, str(reason))
    except Problem as problem:
        return _problem(probe.name, problem)
    except OSError as error:
        what = f"{error.filename or 'the system'}: {error.strerror or type(error).__name__}"
        return _problem(probe.name, Problem("SYSTEM", what))
    except (SiteError, ConsortiumError, PrivacyError, TaskError) as error:  # say themselves what to do
        return Finding(probe.name, PROBLEM, " ".join(str(error).split()), "OTHER")


def _problem(name: str, problem: Problem) -> Finding:
    return Finding(name, PROBLEM, problem.detail, problem.code, PROBLEMS[problem.code].remedy)


def summary(found: Sequence[Finding]) -> Mapping[str, int]:
    """How many findings of each state."""
    return {state: sum(finding.state == state for finding in found) for state in (OK, PROBLEM, NOT_TRIED)}
