"""Seconds and memory of checking a long ledger: `wardround-audit verify` as its own process, on one core.

    .venv/bin/python scripts/bench_privacy_verify.py
    .venv/bin/python scripts/bench_privacy_verify.py --rounds 1000 --json verify.json

A round is what a guard writes for it: the spend, and one line for each answer that leaves (update and vote). Full batches, batches
drawn with rate 0.25, and such batches with shares of noise, where two epsilons are recomputed. Target: 10,000 rounds in under
5 s and 200 MiB.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench_machine import machine, machine_line  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from consortium.identity import SigningKey  # noqa: E402
from privacy.accountant import ENFORCE_INTERVAL, epsilon  # noqa: E402
from privacy.entries import FIRST_PREVIOUS, Content, Egress, Genesis, PlanApproved, SpendDetails, SpendRecord, make_entry  # noqa: E402
from privacy.events import Event, GaussianEvent, PoissonGaussianEvent, SharedPoissonGaussianEvent, Spend  # noqa: E402
from privacy.verify import CHECKPOINTS  # noqa: E402

TARGET_S: Final = 5.0
TARGET_MIB: Final = 200.0
DELTA: Final = 1e-5
PLAN: Final = bytes([7]) * 32
SPLIT: Final = "aa" * 32
NOW: Final = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
LEDGERS: Final[dict[str, Event]] = {
    "full batches": GaussianEvent(60.0),
    "sampled, rate 0.25": PoissonGaussianEvent(20.0, 0.25),
    "sampled, shares of 6": SharedPoissonGaussianEvent(10.0, 0.25, 6),
}


def write_ledger(path: Path, rounds: int, event: Event) -> int:
    """A ledger of so many training rounds, each with a histogram every tenth; returns its entries.

    Claims are right where they are recomputed, and between these the last right one: to work out each would take an hour.
    """
    key = SigningKey.from_seed(bytes(range(32)))
    contents: list[Content] = [
        Genesis(1, "ms-north", "aachen", key.public, "ms-clinic", SPLIT),
        PlanApproved(PLAN, "run-1", "lead-anna", "steward", "", DELTA, 8.0),
    ]
    stride = math.ceil(rounds / CHECKPOINTS)
    claimed = 0.0
    for number in range(1, rounds + 1):
        if (rounds - number) % stride == 0:
            claimed = epsilon([Spend(event, "train", number)], DELTA, interval=ENFORCE_INTERVAL)
        contents.append(SpendRecord(_details(number), _released(event, number), claimed))
        contents += [
            Egress("run-1", PLAN, number, answer, 2 * number + at, number.to_bytes(32, "big"))
            for at, answer in enumerate(("update (train)", "vote"))
        ]
    previous, lines = FIRST_PREVIOUS, []
    for index, content in enumerate(contents):
        entry = make_entry(index, content, previous=previous, now=NOW, key=key)
        previous = entry.hash
        lines.append(entry.line + b"\n")
    path.write_bytes(b"".join(lines))
    return len(lines)


def _released(event: Event, number: int) -> tuple[Spend, ...]:
    histogram = (Spend(GaussianEvent(500.0), "held_out"),) if number % 10 == 0 else ()
    return (*histogram, Spend(event, "train"))


def _details(number: int) -> SpendDetails:
    return SpendDetails(
        run_id="run-1",
        plan_digest=PLAN,
        round=number,
        purpose="train",
        delta=DELTA,
        split_id=SPLIT,
        clip=0.25,
        grid_bits=20,
        normaliser=400.0,
        sampler="poisson-aes256ctr/1",
        rng="aes256ctr-boxmuller53-grid/1",
        code_version="0.1.0",
        model_hash=number.to_bytes(32, "big"),
    )


def measure(path: Path) -> dict[str, Any]:
    """One run of the program. `RuntimeError` if it does not find the ledger in order: its figures would mean nothing."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "privacy.cli", "verify", str(path), "--json"], cwd=ROOT, env=environment, stdout=subprocess.PIPE
    )
    os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
    assert process.stdout is not None
    document = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"verify found {document['ledgers'][0]['problems'][:3]}")
    figures = document["ledgers"][0]
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "mib": usage.ru_maxrss / 1024,
        "epsilon": figures["epsilon"][0]["reference"],
        "epsilon_exposed": figures["epsilon_exposed"][0]["reference"],
    }


def run(rounds: int, repeats: int) -> dict[str, Any]:
    described = machine()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for words, event in LEDGERS.items():
            path = Path(name) / "ledger.jsonl"
            entries = write_ledger(path, rounds, event)
            best = min((measure(path) for _ in range(repeats)), key=lambda found: found["seconds"])
            rows.append({"ledger": words, "entries": entries, "mib_file": path.stat().st_size / 2**20, **best})
    return {"machine": described, "rounds": rounds, "repeats": repeats, "targets": [TARGET_S, TARGET_MIB], "rows": rows}


def show(result: dict[str, Any]) -> None:
    title = (
        f"verify {result['rounds']} rounds, best of {result['repeats']}, one core (target: {TARGET_S:.0f} s, {TARGET_MIB:.0f} MiB)"
    )
    table = Table("ledger", "entries", "file MiB", "seconds", "CPU s", "peak MiB", "epsilon charged / in the clear", title=title)
    for row in result["rows"]:
        table.add_row(
            row["ledger"],
            str(row["entries"]),
            f"{row['mib_file']:.1f}",
            f"{row['seconds']:.2f}",
            f"{row['cpu_seconds']:.2f}",
            f"{row['mib']:.0f}",
            f"{row['epsilon']:.3f} / {row['epsilon_exposed']:.3f}",
        )
    Console().print(table)
    print(machine_line(result["machine"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10_000, help="of training (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="the best counts (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if min(options.rounds, options.repeats) < 1:
        parser.error("--rounds and --repeats are at least 1")
    result = run(options.rounds, options.repeats)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
