#!/usr/bin/env python3
"""A whole consortium on this machine: hub, guards and gateways as processes of their own, over TLS on loopback.

Only the three programs are used, as their users would use them. Leaves no process behind, also on Ctrl-C and on failure;
everything written lies in one folder.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from consortium.roster import HELD_OUT
from tasks.cohorts import open_cohort
from tasks.errors import TaskError
from tasks.imaging.phantoms import invented_sites, write_phantoms
from tasks.imaging.store import holds_images, images_beside
from tasks.imaging.task import ImageTask
from tasks.mapping import MAPPING_FILE
from tasks.ms.contract import CONTRACT
from tasks.ms.reading import holds_contract_tables
from tasks.registry import find_task
from tasks.simulator import simulate, write

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SEED = 1
TASK_OF_TABLES, TASK_OF_MAPPINGS = "cdp_2y", "cis_conversion"
# Few patients are held out: each histogram and each of its cells has its own noise, so there are few of both.
SHORT = ("schedule.rounds=40", "schedule.evaluate_every=40", "task.histogram_bins=8")
# A grid coarse enough for a processor, and time to judge whole scans.
IMAGES_SHORT = ("schedule.rounds=6", "schedule.evaluate_every=6", "task.options.spacing_mm=4", "++task.options.widths=4-8",
                "deadlines.update_s=900")  # fmt: skip
PHANTOM_SITES, PHANTOMS = 4, 12
PORTS = (20_000, 32_768)  # from the second on, Linux gives out ports itself
PORT_TRIES = 100
START_S = 90.0
STOP_S = 15.0
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONUNBUFFERED": "1"}

POLICY = """# What this hospital allows. The steward edits this file; it holds from the next message on.
version: 1
budget_epsilon: {budget}
max_epsilon_per_plan: {budget}
allow_non_private: {non_private}
tasks: {{"{task}": "*"}}
leads: ["lead-demo"]
auto_approve: false
"""

console = Console(soft_wrap=True)


class DemoError(Exception):
    """The demo cannot go on; the sentence says what to look at."""


@dataclass
class Processes:
    """Everything that was started, in order; all of it ends with this program."""

    folder: Path
    started: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)
    peak_mib: float = 0.0
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        log = (self.folder / "logs" / f"{name}.log").open("ab")
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **QUIET}, start_new_session=True
        )
        self.started.append((name, process))
        return process

    def watch_memory(self) -> None:
        """Peak of the proportional memory of this program and all that it started; pages that are shared count once."""

        def look() -> None:
            while not self._stopping.wait(2.0):
                self.peak_mib = max(self.peak_mib, sum(map(_mib, self.family() | _with_children(os.getpid()))))

        threading.Thread(target=look, daemon=True).start()

    def check(self) -> None:
        for name, process in self.started:
            if process.poll() is not None:
                raise DemoError(f"{name} ended with status {process.returncode}: see {self.folder}/logs/{name}.log")

    def family(self) -> set[psutil.Process]:
        """All that was started and lives, with all that they started, in whatever session."""
        members: set[psutil.Process] = set()
        for _, process in self.started:
            if process.poll() is None:
                members |= _with_children(process.pid)
        return members

    def stop(self) -> None:
        """SIGTERM to the programs, latest first; SIGKILL to whoever is left of their families after `STOP_S`."""
        self._stopping.set()
        members = self.family()
        for _, process in reversed(self.started):
            if process.poll() is None:
                process.terminate()
        _, left = psutil.wait_procs(members, STOP_S)
        for member in left:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        for _, process in self.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what was started while the others ended
            process.wait()


def _with_children(pid: int) -> set[psutil.Process]:
    try:
        found = psutil.Process(pid)
        return {found, *found.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def _mib(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / 2**20
    except psutil.AccessDenied:  # a guard shows its memory to nobody but root: its resident size counts shared pages in full
        return float(process.memory_info().rss) / 2**20
    except psutil.Error:
        return 0.0


def run(*command: str, ok: tuple[int, ...] = (0,)) -> str:
    """Output of one of our programs; `DemoError` with its last line if its exit status is not in `ok`."""
    found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **QUIET}, check=False)
    if found.returncode not in ok:
        last = (found.stderr.strip() or found.stdout.strip() or "no output").splitlines()[-1]
        raise DemoError(f"{Path(command[0]).name} {' '.join(command[1:4])} ...: {last}")
    return found.stdout


def at_once(sites: "list[Site]", act: "Callable[[Site], str]") -> None:
    """The same at every hospital, side by side; the first failure is raised."""
    with ThreadPoolExecutor(max_workers=len(sites)) as pool:
        list(pool.map(act, sites))


def free_port() -> int:
    """Below the ports that the system itself gives out: whoever asks for any in the meantime does not get this one."""
    for _ in range(PORT_TRIES):
        port = PORTS[0] + secrets.randbelow(PORTS[1] - PORTS[0])
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise DemoError(
        f"{PORT_TRIES} ports from {PORTS[0]} to {PORTS[1] - 1} were tried on 127.0.0.1, none could be taken: name one by --port"
    )


@dataclass(frozen=True)
class Site:
    name: str
    home: Path
    data: Path
    declared: int

    def command(self, *words: str) -> tuple[str, ...]:
        return (str(BIN / "wardround-site"), "--home", str(self.home), *words)


class Demo:
    """The steps, in the order in which a consortium takes them."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.folder = folder
        self.args = args
        self.port = args.port or free_port()
        self.processes = Processes(folder)
        self.lead_home = folder / "lead"
        self.schedule: tuple[str, ...] = SHORT

    def lead(self, *words: str) -> tuple[str, ...]:
        return (str(BIN / "wardround-lead"), *words, "--home", str(self.lead_home))

    def sites(self) -> list[Site]:
        """One site per folder with tables or images; invented hospitals if no folder was given. Settles the task."""
        images = bool(self.args.task) and isinstance(find_task(self.args.task), ImageTask)
        data, what, holds = self.args.sites, "images" if images else "tables", _holds_images if images else _holds_tables
        if data is None:
            data = self.folder / "patients" / "sites"  # the truth lies beside it, where no guard looks
            if images:
                write_phantoms(data, sites=invented_sites(PHANTOM_SITES, SEED), patients=PHANTOMS, seed=SEED)
                (data / "truth").rename(data.parent / "truth")
            else:
                write(simulate("demo", SEED), data.parent)
        folders = sorted(path for path in data.iterdir() if holds(path))
        if len(folders) < 3:
            raise DemoError(f"{len(folders)} folders with {what} below {data}, at least 3 sites are needed")
        mapped = any((path / MAPPING_FILE).is_file() for path in folders)
        self.args.task = self.args.task or (TASK_OF_MAPPINGS if mapped else TASK_OF_TABLES)
        task = find_task(self.args.task)
        self.schedule = IMAGES_SHORT if images else SHORT
        sizes = [open_cohort(task, path).size * (1 - HELD_OUT) for path in folders]
        return [
            Site(path.name, self.folder / "sites" / path.name, path, max(10, 10 * round(size / 10)))
            for path, size in zip(folders, sizes, strict=True)
        ]

    def enrol(self, sites: list[Site]) -> None:
        address, of_task = f"127.0.0.1:{self.port}", ("--task", self.args.task)
        founded = json.loads(
            run(
                *self.lead("hub", "init", "--consortium", "demo", "--lead", "lead-demo", "--host", "127.0.0.1"),
                *("--held-out", str(HELD_OUT), "--json"),
            )
        )
        at_once(sites, lambda site: run(*site.command("init", "--id", site.name, *of_task, "--data", str(site.data))))
        requests = [site.home / "join-request.json" for site in sites]
        told = [f"--told={json.loads(path.read_text())['fingerprint']}" for path in requests]  # in life: by telephone
        invite = self.folder / "invite.json"
        run(*self.lead("roster", "add-site", *map(str, requests), *told, "--hub", address, "--out", str(invite)))
        at_once(sites, lambda site: run(*site.command("join", str(invite), "--founders", founded["founders"])))
        for site in sites:
            (site.home / "policy.yaml").write_text(self.policy(), encoding="utf-8")

    def policy(self) -> str:
        """What every steward of the demo writes into policy.yaml."""
        non_private = "true" if self.args.privacy == "none" else "false"
        return POLICY.format(budget=8.0, non_private=non_private, task=self.args.task)

    def start(self, sites: list[Site]) -> None:
        self.processes.start("hub", *self.lead("hub", "start", "--port", str(self.port)))
        for site in sites:
            self.processes.start(f"{site.name}-guard", *site.command("guard"))
        self.until("the hub answers", lambda: _listens(self.port))
        self.until("the hub lets the sites' gateways in", lambda: (self.lead_home / "nodes.json").exists())
        for site in sites:
            self.processes.start(f"{site.name}-gateway", *site.command("gateway"))
        for site in sites:
            self.until(f"the guard of {site.name} is ready", lambda site=site: (site.home / "socket" / "guard.sock").exists())

    def until(self, what: str, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not true():
            self.processes.check()
            if time.monotonic() > deadline:
                raise DemoError(f"waited {START_S:.0f} s until {what}: see {self.folder}/logs")
            time.sleep(0.2)

    def plan(self, sites: list[Site]) -> Path:
        sizes = [f"federation.sites.{site.name}={site.declared}" for site in sites]
        task = self.args.task
        ours = (ROOT / "conf" / "task" / f"{task}.yaml").is_file()  # then with the columns and options that it is meant for
        chosen = (f"task={task}" if ours else f"task.name={task}", f"privacy={self.args.privacy}", "federation=roster")
        words = (*chosen, *sizes, *self.schedule, *self.args.overrides)
        made = json.loads(run(*self.lead("plan", *words, "--json")))
        console.print(f"plan {made['digest'][:16]}, its cost before anything is spent:")
        cost = made["cost"]
        promise = (
            f"epsilon {cost['epsilon_exposed']:.2f} if an update were exposed, {cost['epsilon_model']:.2f} for the model, "
            f"at most, delta {cost['delta']:g}"
        )
        console.print(
            f"  {promise if cost['private'] else 'NOT PRIVATE'}; {cost['train_rounds']} rounds; "
            f"at least {cost['minimum_survivors']} of {len(sites)} sites must stay",
            highlight=False,
        )
        run(*self.lead("sign", made["file"]))
        return Path(made["file"])

    def train(self, plan: Path, sites: list[Site]) -> int:
        """The lead starts the run; each steward reads the plan when it arrives, and approves."""
        run_id = plan.name.removesuffix(".plan")
        lead = subprocess.Popen(self.lead("run", str(plan)), env={**os.environ, **QUIET}, start_new_session=True)
        self.processes.started.append(("lead", lead))
        while lead.poll() is None and not all(any((site.home / "plans").glob("*.plan")) for site in sites):
            self.processes.check()
            time.sleep(0.2)
        if lead.poll() is None:
            at_once(sites, lambda site: run(*site.command("plans", "approve", run_id, "--reason", "demo steward")))
        while lead.poll() is None:
            time.sleep(0.2)
        self.processes.started.remove(("lead", lead))
        return lead.returncode

    def audit(self, sites: list[Site]) -> None:
        table = Table(title="wardround-audit verify: every site's ledger, offline", title_justify="left")
        for name in ("site", "entries", "epsilon spent", "verdict"):
            table.add_column(name)
        for site in sites:
            ledger = site.home / "ledger.jsonl"
            found = json.loads(run(str(BIN / "wardround-audit"), "verify", str(ledger), "--json", ok=(0, 1)))
            table.add_row(site.name, *_verdict(found))
        console.print(table)

    def run(self) -> int:
        started = time.monotonic()
        self.processes.watch_memory()
        if _listens(self.port):
            raise DemoError(f"port {self.port} is taken: name another with --port, or none")
        sites = self.sites()
        console.print(f"{len(sites)} hospitals: " + ", ".join(site.name for site in sites))
        self.enrol(sites)
        console.print("enrolled: every site made its own keys and checked the founders' fingerprint")
        self.start(sites)
        console.print(f"hub on 127.0.0.1:{self.port} (TLS), one guard and one gateway per hospital, all running")
        status = self.train(self.plan(sites), sites)
        self.audit(sites)
        store = f"sqlite:///{self.lead_home}/hub/mlflow.db"
        console.print(
            f"everything is in {self.folder}; took {time.monotonic() - started:.0f} s, peak {self.processes.peak_mib:.0f} MiB"
        )
        console.print(f"MLflow: MLFLOW_DISABLE_TELEMETRY=true .venv/bin/mlflow server --backend-store-uri {store}")
        for site in sites[:1]:
            console.print(f"what left {site.name}: .venv/bin/wardround-site --home {site.home} egress RUN")
        return status


def _holds_tables(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MAPPING_FILE).is_file() or holds_contract_tables(folder, CONTRACT))


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and (holds_images(folder) or images_beside(folder) is not None)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _verdict(found: dict[str, list[dict[str, object]]]) -> tuple[str, str, str]:
    """Entries, epsilon by both accountants, and the auditor's word, of one verified ledger."""
    report = found["ledgers"][0]
    figures = report["epsilon"]
    spent = "nothing" if not figures else _figure(figures[0])  # type: ignore[index]  # a list, as `verify --json` prints it
    return str(report["entries"]), spent, "whole" if report["ok"] else f"PROBLEM: {report['problems']}"


def _figure(figure: dict[str, object]) -> str:
    if not figure["private"]:
        return "NOT PRIVATE"
    return f"{figure['reference']:.3f} at delta {figure['delta']:g}; independent check {figure['independent_upper']:.3f}"


@contextmanager
def ending(demo: Demo) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the demo like a failure does: everything that was started is stopped."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background job is started with it ignored
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
        demo.processes.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=Path, help="folder with one folder per hospital: tables or images")
    parser.add_argument(
        "--task", help=f"clinical task (default: {TASK_OF_TABLES}, or {TASK_OF_MAPPINGS} for folders with a {MAPPING_FILE})"
    )
    parser.add_argument("--privacy", default="epsilon8", help="epsilon8, epsilon3, epsilon1 or none (default %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port of the hub (default: a free one)")
    parser.add_argument("--out", type=Path, help="folder to make (default: demo-run below the current folder)")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="of the plan, like schedule.rounds=20")
    args = parser.parse_args()
    folder = (args.out or Path("demo-run")).resolve()
    if folder.exists() and args.out is None:
        shutil.rmtree(folder)
    if folder.exists() and any(folder.iterdir()):
        print(f"error: {folder} is not empty: name a new folder", file=sys.stderr)
        return 2
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    try:
        demo = Demo(folder, args)
        with ending(demo):
            return demo.run()
    except (DemoError, TaskError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: all processes are stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
