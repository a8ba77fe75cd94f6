"""A run whose coordinator died goes on by itself: the hub starts another one, and nobody has to be awake for it.

A coordinator is killed, the hub's machine starts anew, its disk was full for an hour: the journal then says that the run goes
on, and nobody writes it. Or the hub itself took its coordinator for dead, after a minute of silence, and stopped the run. One that
ended by its own word, or that a person stopped (`wardround-lead stop`), is left to people (`resume`).
"""

import contextlib
import fcntl
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from consortium.errors import ConsortiumError
from server.errors import ServerError
from server.folder import RunFolder, write_durably
from server.journal import is_driven
from server.state import RunState, read_state

log = logging.getLogger("wardround.keeper")

FLOWER_RUN = "flower-run.json"
STOPPED = "STOPPED"  # the word of a coordinator that was told so by the hub
LOOK_S = 2.0
ORPHAN_S = 10.0  # for a coordinator that was at work and is not; `resume` ends one and starts another in less
STARTING_S = 120.0  # for one that was never seen at work: on a busy machine it takes long to start
LONGEST_S = 600.0  # between two attempts that came to nothing: each waits twice as long as the one before
END_S = 10.0
TURN = "flower-run.lock"
TURN_POLL_S = 0.1


@dataclass(frozen=True)
class Handed:
    """The number by which the hub knows a run, and whether it is to be kept going: not once a person has stopped it."""

    number: int
    kept: bool


def handed(run_dir: Path) -> Handed | None:
    """None where the run was never handed to a hub, or its file is damaged."""
    try:
        found = json.loads((run_dir / FLOWER_RUN).read_text(encoding="ascii"))
        return Handed(int(found["run"]), bool(found.get("kept", True)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def hand_over(run_dir: Path, number: int) -> None:
    """Raises `OSError`."""
    write_durably(run_dir / FLOWER_RUN, json.dumps({"run": number, "kept": True}).encode("ascii"))


@contextlib.contextmanager
def turn(run_dir: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hand a run over, take it up or let it go: one at a time, or a coordinator runs on whose number nobody knows any more.

    Raises `ServerError` where somebody else has the turn for longer than `wait_s`.
    """
    with (run_dir / TURN).open("w") as lock:
        give_up = time.monotonic() + wait_s
        while not _taken(lock.fileno()):
            if time.monotonic() >= give_up:
                raise ServerError(f"run {run_dir.name} is just being started or stopped by somebody else: try again in a minute")
            time.sleep(TURN_POLL_S)
        yield


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def let_go(run_dir: Path) -> None:
    """From now on the hub does not take this run up by itself. Raises `OSError`."""
    if (found := handed(run_dir)) is not None:
        write_durably(run_dir / FLOWER_RUN, json.dumps({"run": found.number, "kept": False}).encode("ascii"))


def may_go_on(state: RunState) -> bool:
    """Whether the run's last word is none of its own: it is under way, or was stopped from outside."""
    return state.phase in ("new", "running") or state.stopped == STOPPED


class Status(Protocol):
    """Of `server.flower.RunStatus`."""

    @property
    def state(self) -> str: ...


class Hub(Protocol):
    """What is asked of `server.flower.HubControl`."""

    def run_status(self, run_id: int) -> Status: ...

    def stop_run(self, run_id: int) -> bool: ...

    def submit_run(self, run_dir: Path, nodes: Mapping[str, int]) -> int: ...

    def close(self) -> None: ...


@dataclass
class Watch:
    """What is remembered of a run: since when nobody drives it (None: somebody does), the number of the coordinator last seen at
    work, how often it was taken up in vain, and how far it was then."""

    since: float | None = None
    at_work: int | None = None
    tries: int = 0
    size: int = 0

    def patience_s(self, first_s: float) -> float:
        """`first_s`, and twice as long after each attempt in vain."""
        return min(first_s * 2.0**self.tries, max(first_s, LONGEST_S))


def submitted(run_dir: Path, number: int, hub: Hub) -> None:
    """`hand_over`; a coordinator whose number cannot be kept could never be stopped, and is stopped at once. Raises `OSError`."""
    try:
        hand_over(run_dir, number)
    except OSError:
        with contextlib.suppress(ServerError):
            hub.stop_run(number)
        raise


class Keeper:
    """Looks after the runs in the folder `runs`. `hub` opens a connection to it, or raises `ServerError`."""

    def __init__(self, runs: Path, hub: Callable[[], Hub], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._runs = runs
        self._hub = hub
        self._clock = clock
        self._watches: dict[Path, Watch] = {}
        self._ended: dict[Path, int] = {}  # length of the journal of a run that has ended: it need not be read again

    def look(self) -> tuple[str, ...]:
        """Take up what has been without a coordinator for too long; the names of the runs."""
        return tuple(path.parent.name for path in sorted(self._runs.glob(f"*/{FLOWER_RUN}")) if self._looked_at(path.parent))

    def _looked_at(self, run_dir: Path) -> bool:
        """One run that cannot be read, or whose folder goes away meanwhile, keeps no other from being looked after."""
        try:
            return self._look_at(run_dir)
        except (ServerError, ConsortiumError, OSError) as error:
            log.warning("run=%s state=not-looked-after reason=%r", run_dir.name, str(error))
            return False

    def _look_at(self, run_dir: Path) -> bool:
        found, events = handed(run_dir), RunFolder(run_dir).events
        watch = self._watches.setdefault(run_dir, Watch())
        if found is None or not found.kept:
            watch.since = None
            return False
        if is_driven(events):
            watch.since, watch.at_work = None, found.number
            watch.tries = 0 if _size(events) > watch.size + _RESUMED else watch.tries  # it achieved something
            return False
        if not self._goes_on(run_dir, events) or not self._long_enough(watch, found):
            return False
        watch.since, watch.tries, watch.size = self._clock(), watch.tries + 1, _size(events)
        return self._take_up(run_dir, found)

    def _long_enough(self, watch: Watch, found: Handed) -> bool:
        """Whether nobody has driven this run for longer than a coordinator may take to come."""
        now = self._clock()
        watch.since = now if watch.since is None else watch.since
        waited_s = now - watch.since
        if waited_s < watch.patience_s(ORPHAN_S):
            return False
        return watch.at_work == found.number or waited_s >= watch.patience_s(STARTING_S) or self._ended_at_hub(found)

    def _ended_at_hub(self, found: Handed) -> bool:
        """False also where the hub cannot tell."""
        try:
            with contextlib.closing(self._hub()) as hub:
                return hub.run_status(found.number).state.startswith("finished")
        except ServerError:
            return False

    def _goes_on(self, run_dir: Path, events: Path) -> bool:
        size = _size(events)
        if self._ended.get(run_dir) == size:
            return False
        try:
            if may_go_on(read_state(run_dir)):
                return True
        except ServerError as error:
            log.warning("run=%s state=journal-unreadable reason=%r", run_dir.name, str(error))
        self._ended[run_dir] = size
        return False

    def _take_up(self, run_dir: Path, earlier: Handed) -> bool:
        try:
            plan = RunFolder(run_dir).plan()
            with turn(run_dir), contextlib.closing(self._hub()) as hub:
                if handed(run_dir) != earlier or is_driven(RunFolder(run_dir).events):
                    return False  # somebody was quicker
                with contextlib.suppress(ServerError):
                    hub.stop_run(earlier.number)
                number = hub.submit_run(run_dir.resolve(), {item.site: item.node_id for item in plan.participants})
                submitted(run_dir, number, hub)
        except (ServerError, ConsortiumError, OSError) as error:
            log.warning("run=%s state=not-taken-up reason=%r", run_dir.name, str(error))
            return False
        log.warning("run=%s state=taken-up number=%d", run_dir.name, number)
        return True


_RESUMED = 200  # bytes of the line that a coordinator writes when it begins; what it achieves takes more


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextlib.contextmanager
def keeping(keeper: Keeper) -> Iterator[None]:
    """`keeper` looks every `LOOK_S`, in a thread of its own, until the end of the context."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            keeper.look()

    thread = threading.Thread(target=look, name="keeper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(END_S)
