"""A hub and four invented hospitals, founded, enrolled and run with the three programs, over TLS on loopback.

The steps are those of `scripts/demo.py`; here they can be taken one by one, and parts be killed and started again.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import psutil

from client.guard_rpc import GuardClient
from server.folder import RunFolder
from server.journal import Entry, RoundAttempt, RoundDone, VoteAsked, read_entries
from tasks.cis_conversion.synthetic import write_hospitals

ROOT = Path(__file__).resolve().parents[2]
PATIENTS = (320, 240, 180, 140)
# A wait ends when all have answered, so long ones cost nothing where nobody is meant to be late, on however busy a machine.
LONG_WAITS = ("deadlines.keys_s=60", "deadlines.update_s=120", "deadlines.vote_s=60", "deadlines.approval_s=600")
SHORT_WAITS = ("deadlines.keys_s=10", "deadlines.update_s=20", "deadlines.vote_s=10")  # where somebody is waited for in vain
START_S = 90.0
RUN_S = 240.0

POLICY = """version: 1
budget_epsilon: 1000.0
max_epsilon_per_plan: 8.0
allow_non_private: true
tasks: {cis_conversion: "*"}
leads: ["lead-demo"]
auto_approve: true
"""


def _demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wardround_demo", ROOT / "scripts" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


demo = _demo()


def wait_until(claim: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not claim():
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit_s:.0f} s: {what}")
        time.sleep(0.01)


class Enrolment(demo.Demo):  # type: ignore[name-defined,misc]  # a script, imported by its path
    """The demo's steps with a policy that approves by itself."""

    def policy(self) -> str:
        return POLICY


@dataclass
class Going:
    """A run that `wardround-lead run` or `resume` watches. `status` is the program's, once it ended."""

    run_dir: Path
    process: subprocess.Popen[str]
    _lines: list[str] = field(default_factory=list)
    _reader: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self._lines.extend(lines)

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def events(self) -> list[Entry]:
        return list(read_entries(self.run_dir / "events.jsonl"))

    def begun(self, number: int) -> bool:
        return any(isinstance(entry.event, RoundAttempt) and entry.event.round == number for entry in self.events())

    def vote_asked(self, number: int) -> bool:
        return any(isinstance(entry.event, VoteAsked) and entry.event.round == number for entry in self.events())

    def done(self) -> list[RoundDone]:
        return [entry.event for entry in self.events() if isinstance(entry.event, RoundDone)]

    def status(self, limit_s: float = RUN_S) -> int:
        try:
            found = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the lead still waits after {limit_s:.0f} s: {self.output[-2000:]}") from None
        self._reader.join(5.0)
        return found


class Consortium:
    """`with Consortium(folder) as consortium`: everything up; at the end, nothing is left of it but `folder`.

    Parts are named `hub`, `hospital-1-guard`, `hospital-1-gateway` and so on.
    """

    def __init__(self, folder: Path, *, data: str = "patients", write_patients: Callable[[Path], None] | None = None) -> None:
        (folder / "logs").mkdir(parents=True)
        self.folder = folder
        (write_patients or write_four_hospitals)(folder / data)
        args = argparse.Namespace(sites=folder / data, task="cis_conversion", privacy="epsilon8", port=0, overrides=[])
        self.enrolment = Enrolment(folder, args)
        self.lead_home: Path = self.enrolment.lead_home
        self.parts: dict[str, subprocess.Popen[bytes]] = {}
        self.sites: dict[str, demo.Site] = {}  # type: ignore[name-defined]

    def __enter__(self) -> "Consortium":
        try:
            self.enrolment.processes.watch_memory()
            sites = self.enrolment.sites()
            self.sites = {site.name: site for site in sites}
            self.enrolment.enrol(sites)
            self.enrolment.start(sites)
            self.parts = dict(self.enrolment.processes.started)
            self.mend()
        except BaseException:
            self.enrolment.processes.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        members = self.enrolment.processes.family()
        self.enrolment.processes.stop()
        alive = [process.cmdline() for process in members if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        assert not alive, f"left behind: {alive}"

    @property
    def peak_mib(self) -> float:
        return float(self.enrolment.processes.peak_mib)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def family(self, part: str) -> list[psutil.Process]:
        process = psutil.Process(self.parts[part].pid)
        return [process, *process.children(recursive=True)]

    def kill(self, *parts: str, number: signal.Signals = signal.SIGKILL) -> None:
        """The signal to the part's own process; returns when it and all that it had started are gone."""
        families = [process for part in parts for process in self.family(part)]
        for part in parts:
            self.parts[part].send_signal(number)
        _, left = psutil.wait_procs(families, 20)
        assert not left, f"{parts} left {[process.cmdline() for process in left]} behind"
        for part in parts:
            self._forget(part)

    def _forget(self, part: str) -> None:
        process = self.parts.pop(part)
        process.wait()
        self.enrolment.processes.started.remove((part, process))

    def start(self, part: str) -> None:
        if part == "hub":
            command = self.enrolment.lead("hub", "start", "--port", str(self.enrolment.port))
        else:
            name, _, daemon = part.rpartition("-")
            command = self.sites[name].command(daemon)
            if daemon == "gateway":
                self.board(name).unlink(missing_ok=True)  # so that "connected" is the new one's word
        self.parts[part] = self.enrolment.processes.start(part, *command)

    def mend(self) -> None:
        """Start whatever does not run, and wait until all of it is ready."""
        parts = ["hub", *(f"{name}-{daemon}" for name in self.sites for daemon in ("guard", "gateway"))]
        for part in parts:
            if part in self.parts and self.parts[part].poll() is not None:
                self._forget(part)
            if part not in self.parts:
                self.start(part)
        self.wait_ready(self.sites)

    def wait_ready(self, names: Iterable[str]) -> None:
        for name in names:
            wait_until(lambda name=name: self.guard_serves(name), f"the guard of {name} serves", START_S)
            wait_until(lambda name=name: self.connected(name), f"the gateway of {name} is connected", START_S)

    def board(self, name: str) -> Path:
        return Path(self.sites[name].home) / "gateway" / "state" / "gateway.json"

    def connected(self, name: str) -> bool:
        try:
            return bool(json.loads(self.board(name).read_text())["supernode"] == "connected")
        except (OSError, ValueError):
            return False

    def guard_serves(self, name: str) -> bool:
        with closing(GuardClient(self.sites[name].home / "socket" / "guard.sock")) as guard:
            return guard.health()

    def hub_process(self, words: str) -> psutil.Process | None:
        """The hub's process whose command line holds `words`: `server.flower superlink`, `flwr-serverapp`, ..."""
        for process in self.family("hub"):
            try:
                if words in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    return process
            except psutil.NoSuchProcess:
                continue
        return None

    # -- runs ----------------------------------------------------------------------------------------------------------

    def plan(self, *overrides: str, privacy: str = "epsilon8") -> Path:
        """A signed plan of six short rounds, if `overrides` says nothing else."""
        self.enrolment.args.privacy = privacy
        self.enrolment.args.overrides = ["schedule.rounds=6", "schedule.evaluate_every=3", *LONG_WAITS, *overrides]
        plan: Path = self.enrolment.plan(list(self.sites.values()))
        return plan

    def begin(self, plan: Path, *options: str) -> Going:
        """`wardround-lead run`; without MLflow unless `options` name a store."""
        going = self._watch(plan.name.removesuffix(".plan"), "run", str(plan), *(options or ("--no-tracking",)))
        wait_until(lambda: going.process.poll() is not None or (going.run_dir / "plan.signed").exists(), "run folder")
        return going

    def approve(self, going: Going) -> None:
        """What policy leaves to the steward, done by all of them as soon as the plan has come."""
        for site in self.sites.values():
            wait_until(lambda site=site: self._has_plan(site, going), f"plan at {site.name}")
        demo.at_once(
            list(self.sites.values()),
            lambda site: demo.run(*site.command("plans", "approve", going.run_dir.name, "--reason", "reviewed")),
        )

    def _has_plan(self, site: "demo.Site", going: Going) -> bool:  # type: ignore[name-defined]
        digest = RunFolder(going.run_dir).signed_plan().digest.hex()
        return (Path(site.home) / "plans" / f"{digest}.plan").exists()

    def resume(self, going: Going) -> Going:
        return self._watch(going.run_dir.name, "resume", going.run_dir.name, "--no-tracking")

    def _watch(self, run_id: str, *words: str) -> Going:
        process = subprocess.Popen(
            self.enrolment.lead(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **demo.QUIET},
            start_new_session=True,
        )
        self.enrolment.processes.started.append((f"lead-{process.pid}", process))
        return Going(self.lead_home / "runs" / run_id, process)

    def left_of(self, going: Going) -> list[list[str]]:
        """Command lines of processes that still work on a run's folder outside the hub."""
        hub = {process.pid for process in self.family("hub")}
        found = [process.info for process in psutil.process_iter(["pid", "cmdline"]) if process.pid not in hub]
        return [info["cmdline"] for info in found if any(str(going.run_dir) in word for word in info["cmdline"] or [])]

    def last_lines(self, count: int) -> str:
        logs = [*sorted((self.folder / "logs").glob("*.log")), *sorted(self.lead_home.glob("hub/*.log"))]
        return "\n".join(f"--- {log}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-count:]) for log in logs)


def write_four_hospitals(folder: Path) -> None:
    write_hospitals(folder, len(PATIENTS), PATIENTS, seed=1)
