"""Seconds of a whole simulated run: real guards, protocol, privacy and ledgers in worker processes, no network.

    scripts/bench rounds
    scripts/bench rounds --sites 4 --rounds 20 privacy=epsilon8 --json out.json

Split by what a lead waits for: making and enrolling the sites, planning (calibrating and certifying the noise) with the
stewards' approval, starting the workers, and the rounds, these by phase as the journal has them.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench_machine import machine, machine_line  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from server import rounds  # noqa: E402
from server.cli_run import plan_simulated, prepare_simulated  # noqa: E402
from server.config import load_config  # noqa: E402
from server.simulate import PipeTransport  # noqa: E402
from server.state import RunState  # noqa: E402
from tasks.cis_conversion.synthetic import write_hospitals  # noqa: E402

TARGET_S = 60.0


def measure(sites: int, steps: int, patients: int, workers: int | None, overrides: list[str]) -> dict[str, Any]:
    """Seconds by part and phase. `RuntimeError` if the run did not finish: its figures would mean nothing."""
    described = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_hospitals(folder / "data", sites, [patients] * sites, 1)
        config = load_config(["federation=roster", f"schedule.rounds={steps}", *overrides])
        clock = [time.monotonic()]
        prepared = prepare_simulated(folder, config, data=folder / "data")
        clock.append(time.monotonic())
        run = plan_simulated(folder, config, prepared, data=folder / "data")
        clock.append(time.monotonic())
        transport = PipeTransport(prepared.folder, prepared.sites, workers=workers)
        clock.append(time.monotonic())
        try:
            state = rounds.run(run.path, transport)
        finally:
            transport.close()
        clock.append(time.monotonic())
    if state.phase != "finished":
        raise RuntimeError(f"the run ended {state.phase} {state.stopped}")
    parts = dict(zip(("prepare", "plan", "start", "rounds"), (b - a for a, b in pairwise(clock)), strict=True))
    return {"machine": described, "sites": sites, "seconds": parts | {"whole": clock[-1] - clock[0]}, **phases(state)}


def phases(state: RunState) -> dict[str, Any]:
    """Means over the training rounds."""
    trained = [done for done in state.done if done.purpose == "train"]
    by_phase: dict[str, float] = defaultdict(float)
    for done in trained:
        for phase, seconds in done.seconds:
            by_phase[phase] += seconds / len(trained)
    return {
        "rounds": len(state.done),
        "lost": len(state.failed),
        "a_round": dict(by_phase),
        "bytes_up": sum(done.bytes_up for done in trained) / len(trained),
        "bytes_down": sum(done.bytes_down for done in trained) / len(trained),
    }


def show(result: dict[str, Any]) -> None:
    table = Table(title=f"{result['sites']} sites, {result['rounds']} rounds, {result['lost']} lost", title_justify="left")
    table.add_column("part")
    table.add_column("seconds", justify="right")
    for name, seconds in result["seconds"].items():
        table.add_row(name if name != "whole" else f"whole (target: under {TARGET_S:.0f})", f"{seconds:.1f}")
    for name, seconds in result["a_round"].items():
        table.add_row(f"a training round: {name}", f"{seconds:.3f}")
    Console().print(table)
    print(f"{result['bytes_up'] / 1e3:.1f} kB up and {result['bytes_down'] / 1e3:.1f} kB down a round, all sites together")
    print(machine_line(result["machine"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="of the lead's configuration, like privacy=epsilon8")
    parser.add_argument("--sites", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=100, help="training rounds of one step (default %(default)s)")
    parser.add_argument("--patients", type=int, default=200, help="of each hospital (default %(default)s)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    result = measure(options.sites, options.rounds, options.patients, options.workers, options.overrides)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
