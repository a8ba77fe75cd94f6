"""What simulating a consortium costs: seconds of processor time on one thread, peak memory, and the rows that come out.

    scripts/bench simulator                           presets demo, clinnova and reclaim; target: reclaim under 180 s
    scripts/bench simulator --only reclaim --repeats 3 --json simulator.json

Each repetition runs in a fresh process with one thread. Time is that of the process for `simulate`, and for writing CSV tables
after it; importing is not counted. Peak memory is the highest resident size of the whole process.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench_machine import machine, machine_line  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

PRESETS = ("demo", "clinnova", "reclaim")
COUNTED = ("patients", "visits", "mri", "relapses", "wearables")


def run_once(preset: str) -> dict[str, float]:
    """Figures of one consortium, in this process."""
    from tasks.simulator import simulate, write

    begun = time.process_time()
    consortium = simulate(preset, 1)
    simulated = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        write(consortium, Path(folder))
    written = time.process_time()
    counts = {name: float(sum(len(site.tables[name]) for site in consortium.sites)) for name in COUNTED}
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"simulate_s": simulated - begun, "write_s": written - simulated, "peak_mib": peak_mib, **counts}


def in_fresh_process(preset: str) -> dict[str, float]:
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", preset]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **one_thread})
    return {name: float(value) for name, value in json.loads(done.stdout).items()}


def medians(preset: str, repeats: int) -> dict[str, float]:
    runs = [in_fresh_process(preset) for _ in range(repeats)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PRESETS), help=f"default: {','.join(PRESETS)}")
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(run_once(options.child)))
        return 0
    found = {preset: medians(preset, options.repeats) for preset in options.only.split(",")}
    table = Table(title=f"simulating, median of {options.repeats}", caption=machine_line(machine()))
    for column in ("preset", "simulate, s", "write, s", "peak, MiB", *COUNTED):
        table.add_column(column, justify="left" if column == "preset" else "right")
    for preset, row in found.items():
        times = (f"{row['simulate_s']:.1f}", f"{row['write_s']:.1f}", f"{row['peak_mib']:.0f}")
        table.add_row(preset, *times, *(f"{row[name]:,.0f}" for name in COUNTED))
    Console().print(table)
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine(), "presets": found}, indent=2, default=str) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
