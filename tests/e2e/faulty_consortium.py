"""The consortium of four on bad lines, with every fault that can be made on one machine, each for a while and then over.

Processes are killed and frozen, lines go through `FaultyNetwork`, disks are file systems of a few megabytes that fill up, memory
ends by the kernel's limit, and clocks jump (`moved_clock.c`). Where a means is missing (root, a compiler), its kinds are left out.
"""

import contextlib
import io
import json
import os
import resource
import shutil
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil
from books import check_books
from consortium_of_four import POLICY, SHORT_WAITS, Consortium, Enrolment, Going, demo
from fault_schedules import KINDS, PHASES, Fault, Schedule
from faulty_network import ANSWERED, ASKED, FaultyNetwork, Link, Sight

from client.config import load_config as load_site
from client.config import write_config as write_site
from client.home import Home
from consortium.plan import KIND, Plan, sign_plan
from consortium.roster import founders_fingerprint
from consortium.wire import SENTENCES
from privacy.cli import main as audit
from server.folder import RunFolder, write_durably
from server.home import LeadHome, read_signed
from server.journal import EpochReady, RoundDone, RoundFailed
from server.report import status

COMPILER: Final = shutil.which("cc")
CLOCK_SOURCE: Final = Path(__file__).resolve().parents[1] / "shared" / "moved_clock.c"
ROOM_MIB: Final = {"site": 32, "hub": 256}
TWO_ROUNDS: Final = (*SHORT_WAITS, "schedule.rounds=2", "schedule.evaluate_every=2", "schedule.spare_train=30",
                     "schedule.spare_describe=15", "schedule.spare_evaluate=15", "privacy.target_epsilon=2.0",
                     "deadlines.approval_s=7200")  # fmt: skip
PATIENT_POLICY: Final = POLICY.replace("budget_epsilon: 1000.0", "budget_epsilon: 1000000.0")
OF_THE_TRANSPORT: Final = frozenset({"LATE", "UNREACHABLE", "DIVERGED"})
INSTANT: Final[Mapping[str, tuple[str, str]]] = {
    "keys": (ASKED, "sa1_keys"),
    "kem": (ASKED, "sa1_kem"),
    "train": (ASKED, "sa1_update"),
    "upload": (ANSWERED, "sa1_update"),
    "vote": (ASKED, "sa1_vote"),
    "voted": (ANSWERED, "sa1_vote"),
}
RESUMES_MOST = 4
JUMP_S = 5 * 3600
IN_PLACE_S = 20.0  # for a fault to be in place, while the message is held
RUN_LIMIT_S = float(os.environ.get("WARDROUND_FAULTS_RUN_S", "240"))
assert set(INSTANT) == set(PHASES)


def possible() -> tuple[str, ...]:
    """The kinds of faults that can be made here."""
    missing = set() if os.geteuid() == 0 else {"full-site", "full-hub"}
    return tuple(kind for kind in KINDS if kind not in missing | (set() if COMPILER else {"clock-site", "clock-hub"}))


class TimedProcesses(demo.Processes):  # type: ignore[name-defined,misc]  # a script, imported by its path
    """Everything that is started here sees a clock of its own, where there is a compiler: `clocks/PART` moves it."""

    def start(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        log = (self.folder / "logs" / f"{name}.log").open("ab")
        environment = {**os.environ, **demo.QUIET, **self.clock(name)}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        self.started.append((name, process))
        return process

    def clock(self, name: str) -> dict[str, str]:
        if COMPILER is None:
            return {}
        library, file = self.folder / "clocks" / "moved_clock.so", self.folder / "clocks" / name
        file.parent.mkdir(exist_ok=True)
        if not library.exists():
            subprocess.run([COMPILER, "-O2", "-shared", "-fPIC", "-o", library, CLOCK_SOURCE, "-ldl"], check=True)
        file.write_bytes(struct.pack("<q", 0))
        return {"LD_PRELOAD": str(library), "MOVED_CLOCK": str(file)}


class FaultyEnrolment(Enrolment):
    """Each site joins at the end of its own line."""

    network: FaultyNetwork | None = None

    def policy(self) -> str:
        return PATIENT_POLICY

    def enrol(self, sites: list[Any]) -> None:
        super().enrol(sites)
        self.open_lines(sites)
        for site in sites:
            home = Home(site.home)
            write_site(home, replace(load_site(home), hub=f"127.0.0.1:{self.network.ports[site.name]}"))

    def open_lines(self, sites: list[Any]) -> None:
        """New lines to the hub; what held the old ones is closed."""
        if self.network is not None:
            self.network.__exit__()
        names = [site.name for site in sites]
        self.network = FaultyNetwork(self.lead_home / "hub" / "tls", ("127.0.0.1", self.port), names)
        self.network.__enter__()


class FaultyConsortium(Consortium):
    """`with FaultyConsortium(folder) as consortium: play(consortium, schedule)`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.enrolment = FaultyEnrolment(folder, self.enrolment.args)
        self.enrolment.processes = TimedProcesses(folder)
        self.going: Going | None = None
        self.changing = threading.RLock()  # over what runs
        self._disks: list[Path] = []
        self._plan: Plan | None = None

    def __enter__(self) -> "FaultyConsortium":
        self._mount(self.lead_home, ROOM_MIB["hub"])
        for number in range(1, 5):
            self._mount(self.folder / "sites" / f"hospital-{number}", ROOM_MIB["site"])
        try:
            super().__enter__()
        except BaseException:
            self._unmount()
            raise
        return self

    def __exit__(self, *found: object) -> None:
        try:
            super().__exit__(*found)
        finally:
            self.network.__exit__()
            self._unmount()

    @property
    def network(self) -> FaultyNetwork:
        found: FaultyNetwork | None = self.enrolment.network
        assert found is not None
        return found

    def _mount(self, folder: Path, room_mib: int) -> None:
        """A disk of its own, where this user may mount one."""
        folder.mkdir(parents=True)
        if os.geteuid() == 0:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room_mib}m,mode=0700", "wardround-fault", folder], check=True)
            self._disks.append(folder)

    def _unmount(self) -> None:
        for folder in self._disks:
            subprocess.run(["umount", "--lazy", folder], check=False)

    def next_plan(self, run_id: str, *overrides: str) -> Path:
        """A signed plan, calibrated once: the others differ in their name alone."""
        home = LeadHome(self.lead_home)
        if self._plan is None or overrides:
            self._plan = read_signed(self.plan(*TWO_ROUNDS, *overrides), KIND).document(Plan)
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = self.lead_home / "plans" / f"{run_id}.plan"
        write_durably(path, sign_plan(replace(self._plan, run_id=run_id, created=created), home.lead()[1]).encode())
        return path

    def restart(self, part: str) -> None:
        with self.changing:
            if part not in self.parts:
                self.start(part)

    def abandon(self) -> None:
        """After a run that did not end well: nobody drives it any more, and everything is up again."""
        self.network.on_sight = None
        self.network.heal()
        self.mend()
        if self.going is not None:
            subprocess.run(self.enrolment.lead("stop", self.going.run_dir.name), capture_output=True, check=False)
            self.going.process.kill()

    def move_hub(self, port: int) -> None:
        """The hub is to be started at another port, and every site's line leads to a new address."""
        self.enrolment.port = port
        self.enrolment.open_lines(list(self.sites.values()))

    def clock(self, part: str, seconds: int) -> None:
        """From now on, for the running process too."""
        with (self.folder / "clocks" / part).open("r+b") as file:
            file.write(struct.pack("<q", seconds))


# --- faults: each a context, over which it holds ----------------------------------------------------------------------


@contextmanager
def _killed(consortium: FaultyConsortium, part: str) -> Iterator[None]:
    """The part and all that it started are gone; at the end it is started again, as a container's runtime does."""
    with consortium.changing:
        if part in consortium.parts:
            consortium.kill(part)
    yield
    consortium.restart(part)


@contextmanager
def _signalled(processes: list[psutil.Process]) -> Iterator[None]:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    yield


@contextmanager
def _frozen(processes: list[psutil.Process]) -> Iterator[None]:
    """They neither work nor end: a machine that hangs."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


@contextmanager
def _full(folder: Path) -> Iterator[None]:
    """Not a byte more fits on the disk that `folder` is."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def _short_of_memory(processes: list[psutil.Process]) -> Iterator[None]:
    """Whatever they ask for beyond what they have is refused by the kernel."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.rlimit(psutil.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextmanager
def _clock(consortium: FaultyConsortium, parts: tuple[str, ...], fault: Fault) -> Iterator[None]:
    """Hours forward or back, for all that the parts run."""
    for part in parts:
        consortium.clock(part, JUMP_S if fault.nth % 2 else -JUMP_S)
    try:
        yield
    finally:
        for part in parts:
            consortium.clock(part, 0)


@contextmanager
def _line(consortium: FaultyConsortium, fault: Fault) -> Iterator[None]:
    link: Link = consortium.network.links[fault.site]
    if fault.what == "cut":
        consortium.network.cut(fault.site)
    change: dict[str, Any] = {
        "cut": {},
        "silent": {"silent": True},
        "slow": {"delay_s": 0.4, "jitter_s": 0.8},
        "thin": {"bytes_a_second": 20_000.0},
        "truncate": {"truncate_after": int(100 * fault.for_s)},
        "double": {"double": 3},
        "repeat": {"repeat": 3},
        "overtake": {"overtaken": 2},
    }[fault.what]
    for name, value in change.items():
        setattr(link, name, value)
    try:
        yield
    finally:
        link.heal()


def _part(consortium: FaultyConsortium, part: str) -> list[psutil.Process]:
    with consortium.changing:
        return consortium.family(part) if part in consortium.parts else []


def _hub(consortium: FaultyConsortium, words: str) -> list[psutil.Process]:
    with consortium.changing:
        found = consortium.hub_process(words) if "hub" in consortium.parts else None
    return [found] if found else []


def _lead(consortium: FaultyConsortium) -> list[psutil.Process]:
    going = consortium.going
    return [psutil.Process(going.process.pid)] if going and going.process.poll() is None else []


def made(consortium: FaultyConsortium, fault: Fault) -> AbstractContextManager[None]:
    """The context of one fault."""
    c, site = consortium, fault.site
    makers: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "kill-guard": lambda: _killed(c, f"{site}-guard"),
        "kill-gateway": lambda: _killed(c, f"{site}-gateway"),
        "kill-hub": lambda: _killed(c, "hub"),
        "kill-trainer": lambda: _signalled(_part(c, f"{site}-guard")[1:]),
        "kill-supernode": lambda: _signalled(_part(c, f"{site}-gateway")[1:]),
        "kill-superlink": lambda: _signalled(_hub(c, "server.flower superlink")),
        "kill-superexec": lambda: _signalled(_hub(c, "server.flower superexec")),
        "kill-coordinator": lambda: _signalled(_hub(c, "flwr-serverapp")),
        "kill-lead": lambda: _signalled(_lead(c)),
        "freeze-guard": lambda: _frozen(_part(c, f"{site}-guard")),
        "freeze-gateway": lambda: _frozen(_part(c, f"{site}-gateway")),
        "freeze-superlink": lambda: _frozen(_hub(c, "server.flower superlink")),
        "memory": lambda: _short_of_memory(_part(c, f"{site}-guard")[1:]),
        "full-site": lambda: _full(Path(c.sites[site].home)),
        "full-hub": lambda: _full(c.lead_home),
        "clock-site": lambda: _clock(c, (f"{site}-guard", f"{site}-gateway"), fault),
        "clock-hub": lambda: _clock(c, ("hub",), fault),
    }
    return makers[fault.what]() if fault.what in makers else _line(c, fault)


class Injector:
    """Makes each fault of a schedule at its instant; `end` waits until all that were made are over."""

    def __init__(self, consortium: FaultyConsortium, schedule: Schedule) -> None:
        self._consortium = consortium
        self._faults = schedule.faults
        self._pending = list(schedule.faults)
        self._counts: Counter[Sight] = Counter()
        self._lock = threading.Lock()
        self._running: list[threading.Thread] = []
        self.made: list[str] = []
        self.broken: list[str] = []

    def sighted(self, sight: Sight) -> None:
        with self._lock:
            self._counts[sight] += 1
            due = [fault for fault in self._pending if _instant(fault) == (sight, self._counts[sight])]
            self._pending = [fault for fault in self._pending if fault not in due]
        for fault in due:
            self._begin(fault)

    def _begin(self, fault: Fault) -> None:
        in_place = threading.Event()

        def hold() -> None:
            time.sleep(fault.after_s)
            try:
                with made(self._consortium, fault):
                    self.made.append(str(fault))
                    in_place.set()
                    time.sleep(fault.for_s)
            except BaseException as error:
                self.broken.append(f"{fault}: {type(error).__name__} {error}")
                raise
            finally:
                in_place.set()

        thread = threading.Thread(target=hold, name=str(fault), daemon=True)
        self._running.append(thread)
        thread.start()
        if fault.after_s == 0:
            in_place.wait(IN_PLACE_S)

    def settle(self) -> None:
        """Until no fault holds any more; those whose instant is still to come stay."""
        longest_s = max((fault.for_s for fault in self._faults), default=0.0)
        for thread in list(self._running):
            thread.join(longest_s + IN_PLACE_S + 40.0)
            assert not thread.is_alive(), f"the fault {thread.name} does not end"

    def end(self) -> None:
        self._pending = []
        self.settle()
        assert not self.broken, self.broken


def _instant(fault: Fault) -> tuple[Sight, int]:
    what, kind = INSTANT[fault.phase]
    return Sight(fault.site, what, kind), fault.nth


# --- a run with faults, and what must hold after it -------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What one schedule came to."""

    schedule: str
    made: tuple[str, ...]
    seconds: float
    resumes: int
    rounds_done: int
    rounds_failed: int
    lost: tuple[str, ...]  # SITE PHASE CODE


def play(consortium: FaultyConsortium, schedule: Schedule, *, limit_s: float = RUN_LIMIT_S) -> Outcome:
    """One short run with these faults; fails where anything that must hold does not. `limit_s`: for each watch of the run."""
    began = time.monotonic()
    injector = Injector(consortium, schedule)
    run_id = f"s{schedule.seed}-{time.time_ns() // 10**6 % 10**9}"
    plan = consortium.next_plan(run_id)
    consortium.network.random.seed(schedule.seed)
    consortium.network.on_sight = injector.sighted
    try:
        going = consortium.going = consortium.begin(plan, "--no-tracking", "--keep-vectors")
        resumes = 0
        while going.status(limit_s) != 0:
            assert resumes < RESUMES_MOST, f"not finished after {resumes} times resume: {going.output[-1500:]}"
            injector.settle()
            consortium.network.heal()
            consortium.mend()
            resumes += 1
            going = consortium.going = consortium.resume(going)
    finally:
        consortium.network.on_sight = None
        injector.end()
        consortium.network.heal()
    check_named(going)
    check_books(consortium, going)
    check_sums(going)
    consortium.mend()
    state = status(going.run_dir)
    assert state["phase"] == "finished"
    drops = {f"{drop.site} {drop.phase} {drop.code}" for event in ended(going) for drop in event.dropped}
    failed = sum(isinstance(event, RoundFailed) for event in ended(going))
    return Outcome(
        str(schedule), tuple(injector.made), time.monotonic() - began, resumes, len(going.done()), failed, tuple(sorted(drops))
    )


def ended(going: Going) -> list[RoundDone | RoundFailed | EpochReady]:
    return [entry.event for entry in going.events() if isinstance(entry.event, RoundDone | RoundFailed | EpochReady)]


def check_named(going: Going) -> None:
    """Whoever was not in a round is named, with a phase and a code that has a sentence."""
    every, epoch = set(RunFolder(going.run_dir).plan().sites), set[str]()
    for event in ended(going):
        named = {drop.site for drop in event.dropped}
        for drop in event.dropped:
            assert drop.code in SENTENCES.keys() | OF_THE_TRANSPORT, f"{drop} has a code without words"
            assert drop.code != "INTERNAL", f"{drop} says that something failed, and not what"
            assert drop.phase
        if isinstance(event, EpochReady):
            epoch = set(event.sites)
            assert every - epoch <= named, f"epoch {event.number}: {every - epoch - named} are away and nobody says why"
        elif isinstance(event, RoundDone):
            assert epoch - set(event.survivors) <= named, f"round {event.round}: {epoch - set(event.survivors) - named} unnamed"
        else:
            assert event.code in SENTENCES.keys() | OF_THE_TRANSPORT
    assert status(going.run_dir)["failed_rounds"] == len(status(going.run_dir)["lost"])  # type: ignore[arg-type]  # a list


def check_sums(going: Going) -> None:
    """Every opened round is computed again by the auditor's program, from the masked vectors, bit for bit."""
    folder = RunFolder(going.run_dir)
    roster = folder.roster()
    words = ["--roster", str(folder.path / "roster.signed"), "--plan", str(folder.path / "plan.signed")]
    founders = founders_fingerprint(roster.founders, roster.founders_required)
    records = sorted(map(str, folder.records.glob("*.record")))
    assert {int(Path(record).stem.removeprefix("round-")) for record in records} >= {done.round for done in going.done()}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        found = audit(["round", *records, *words, "--founders", founders, "--vectors", str(folder.vectors), "--json"])
    assert found == 0, said.getvalue()[-3000:]
    assert "recomputed" in json.dumps(json.loads(said.getvalue())), said.getvalue()[-500:]
