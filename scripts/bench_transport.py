"""Seconds per message over the real transport: hub, gateways and echoing guards as processes on loopback, over TLS.

    .venv/bin/python scripts/bench_transport.py --sites 4 --messages 30
    .venv/bin/python scripts/bench_transport.py --sites 4 --messages 3 --floats 10000000 --json out.json

A message is one exchange with all sites: the same request to each, an answer of the same size from each. The breakdown is
the coordinator's own clock (push, pull, sleep between looks), the processor seconds of each process during the messages,
and the time that each message spent at the first site's gateway and guard.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "tests" / "flower")]

from bench_machine import machine, machine_line  # noqa: E402
from consortium_on_loopback import Consortium  # noqa: E402

BENCH_BUNDLE_RUN = "scripted_rounds"


def processor_seconds(pids: dict[str, list[int]]) -> dict[str, float]:
    """User and system seconds so far, per group of processes."""
    totals = {}
    for name, members in pids.items():
        times = [psutil.Process(pid).cpu_times() for pid in members if psutil.pid_exists(pid)]
        totals[name] = sum(spent.user + spent.system for spent in times)
    return totals


def process_groups(consortium: Consortium) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {"relay": [], "supernode": [], "guard": []}
    for site in consortium.sites.values():
        assert site.gateway is not None
        assert site.guard is not None
        groups["relay"].append(site.gateway.pid)
        groups["supernode"] += [child.pid for child in psutil.Process(site.gateway.pid).children()]
        groups["guard"].append(site.guard.pid)
    groups["superlink"] = [consortium.hub.pids["superlink"]]
    superexec = psutil.Process(consortium.hub.pids["superexec"])
    groups["serverapp"] = [child.pid for child in superexec.children(recursive=True)]
    groups["superexec"] = [superexec.pid]
    return groups


def resident_mib(pids: dict[str, list[int]]) -> dict[str, float]:
    return {
        name: sum(psutil.Process(pid).memory_info().rss for pid in members if psutil.pid_exists(pid)) / 2**20
        for name, members in pids.items()
    }


def measure(sites: int, messages: int, floats: int) -> dict[str, Any]:
    described = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        consortium = Consortium(folder)
        try:
            for number in range(sites):
                consortium.add_site(f"site{number}")
            consortium.wait_online()
            (folder / "run").mkdir()
            script = {"kind": "sa1_update", "body": 4 * floats, "messages": messages, "deadline_s": 300.0, "report": True}
            (folder / "run" / "script.json").write_text(json.dumps(script))
            started = time.monotonic()
            run_id = consortium.submit_scripted(folder / "run")
            first = folder / "run" / "message-1.json"
            while not first.exists():
                time.sleep(0.05)
            groups = process_groups(consortium)
            before, clock = processor_seconds(groups), time.monotonic()
            while consortium.control.run_status(run_id).state == "running" and not (folder / "run" / "out.json").exists():
                time.sleep(0.5)
            after, wall = processor_seconds(groups), time.monotonic() - clock
            memory = resident_mib(groups)
            consortium.finish(run_id)
            report: dict[str, Any] = json.loads((folder / "run" / "out.json").read_text())
        finally:
            consortium.stop()
    seconds = report["seconds"][1:]
    return {
        "machine": described,
        "sites": sites,
        "messages": messages,
        "floats": floats,
        "cores": os.cpu_count(),
        "median_s": statistics.median(seconds),
        "mean_s": statistics.mean(seconds),
        "slowest_s": max(seconds),
        "first_s": report["seconds"][0],
        "run_to_first_message_s": clock - started,
        "coordinator_s": {name: value / messages for name, value in report["where"].items()},
        "answered": report["answered"],
        "processor_s": {name: (after[name] - before[name]) / max(1, messages - 1) for name in before},
        "processor_share": sum(after[name] - before[name] for name in before) / wall / (os.cpu_count() or 1),
        "memory_mib": memory,
    }


def show(result: dict[str, Any]) -> None:
    table = Table(title=f"{result['sites']} sites, {result['floats']} float32 each way, {result['cores']} cores")
    table.add_column("per message")
    table.add_column("seconds", justify="right")
    for name in ("median_s", "mean_s", "slowest_s", "first_s"):
        table.add_row(name.removesuffix("_s"), f"{result[name]:.3f}")
    for name, value in result["coordinator_s"].items():
        table.add_row(f"coordinator: {name}", f"{value:.3f}")
    for name, value in result["processor_s"].items():
        table.add_row(f"processor: {name} (MiB {result['memory_mib'][name]:.0f})", f"{value:.3f}")
    Console().print(table)
    print(machine_line(result["machine"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--messages", type=int, default=30)
    parser.add_argument("--floats", type=int, default=1000, help="float32 in the body, each way")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    result = measure(options.sites, options.messages, options.floats)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
