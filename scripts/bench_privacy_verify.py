"""Seconds and memory of checking a long ledger: `wardround-audit verify`, and `report`, as processes of their own.

    .venv/bin/python scripts/bench_privacy_verify.py
    .venv/bin/python scripts/bench_privacy_verify.py --rounds 1000 --json verify.json

A round is what a guard writes for it: the spend, and one line for each answer that leaves (update and vote), or the spend alone.
Full batches, batches drawn with rate 0.25, and such batches with shares of noise, where two epsilons are recomputed. Target:
10,000 rounds in under 5 s and 200 MiB. `verify` is measured on one core, and on all: it checks signatures on as many threads.
Some 0.09 ms of processor time a line are the signature's (`signature_us` in the JSON), and a second is the program's start.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench_machine import machine, machine_line, measured  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from consortium.identity import SigningKey, verify  # noqa: E402
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
# what is measured: the event of a round, and whether lines of answers stand beside it
LEDGERS: Final[dict[str, tuple[Event, bool]]] = {
    "full batches, spends alone": (GaussianEvent(60.0), False),
    "rate 0.25, spends alone": (PoissonGaussianEvent(20.0, 0.25), False),
    "full batches": (GaussianEvent(60.0), True),
    "rate 0.25": (PoissonGaussianEvent(20.0, 0.25), True),
    "rate 0.25, shares of 6": (SharedPoissonGaussianEvent(10.0, 0.25, 6), True),
}


def write_ledger(path: Path, rounds: int, event: Event, *, answers: bool) -> int:
    """A ledger of so many training rounds, each with a histogram every tenth; returns its entries.

    Claims are right where they are recomputed, and between these the last right one: to work out each would take an hour.
    """
    key = SigningKey.from_seed(bytes(range(32)))
    previous, index = FIRST_PREVIOUS, 0
    with path.open("wb") as file:
        for index, content in enumerate(_contents(key, rounds, event, answers)):
            entry = make_entry(index, content, previous=previous, now=NOW, key=key)
            previous = entry.hash
            file.write(entry.line + b"\n")
    return index + 1


def _contents(key: SigningKey, rounds: int, event: Event, answers: bool) -> Iterator[Content]:
    yield Genesis(1, "ms-north", "aachen", key.public, "ms-clinic", SPLIT)
    yield PlanApproved(PLAN, "run-1", "lead-anna", "steward", "", DELTA, 8.0)
    stride, claimed = math.ceil(rounds / CHECKPOINTS), 0.0
    for number in range(1, rounds + 1):
        if (rounds - number) % stride == 0:
            claimed = epsilon([Spend(event, "train", number)], DELTA, interval=ENFORCE_INTERVAL)
        yield SpendRecord(_details(number), _released(event, number), claimed)
        for at, answer in enumerate(("update (train)", "vote") if answers else ()):
            yield Egress("run-1", PLAN, number, answer, 2 * number + at, number.to_bytes(32, "big"))


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


def measure(path: Path, cores: int, command: str = "verify") -> dict[str, Any]:
    """One run of the program on so many cores, which must find the ledger in order."""
    allowed = ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))
    page = path.with_suffix(".html")
    page.unlink(missing_ok=True)
    out = ["--out", str(page)] if command == "report" else []
    return measured("privacy.cli", [command, str(path), "--json", *out], root=ROOT, prefix=("taskset", "-c", allowed))


def best(path: Path, cores: int, repeats: int, command: str = "verify") -> dict[str, Any]:
    """The least seconds, processor seconds and MiB of several runs, and what the program printed."""
    runs = [measure(path, cores, command) for _ in range(repeats)]
    return {**{name: min(run[name] for run in runs) for name in ("seconds", "cpu_seconds", "mib")}, "found": runs[0]["found"]}


def signature_us() -> float:
    """Microseconds of checking one signature in this process, best of five."""
    key = SigningKey.from_seed(bytes(range(32)))
    signature = key.sign("bench", b"")

    def once() -> float:
        begun = time.process_time()
        for _ in range(1000):
            verify(key.public, signature, "bench", b"")
        return (time.process_time() - begun) * 1e3

    return min(once() for _ in range(5))


def run(rounds: int, repeats: int) -> dict[str, Any]:
    described, cores = machine(), len(os.sched_getaffinity(0))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for words, (event, answers) in LEDGERS.items():
            path = Path(name) / "ledger.jsonl"
            entries = write_ledger(path, rounds, event, answers=answers)
            one = best(path, 1, repeats)
            figures = one.pop("found")["ledgers"][0]
            several = best(path, cores, repeats)["seconds"]
            about = {"ledger": words, "entries": entries, "mib_file": path.stat().st_size / 2**20, "seconds_all_cores": several}
            told = {name: figures[name][0]["reference"] for name in ("epsilon", "epsilon_exposed")}
            rows.append({**about, **one, **told})
        report = best(path, cores, repeats, "report")
        del report["found"]
    about = {"machine": described, "cores": cores, "rounds": rounds, "repeats": repeats, "targets": [TARGET_S, TARGET_MIB]}
    return {**about, "signature_us": signature_us(), "rows": rows, "report": report}


def show(result: dict[str, Any]) -> None:
    title = f"verify {result['rounds']} rounds, best of {result['repeats']} (target: {TARGET_S:.0f} s, {TARGET_MIB:.0f} MiB)"
    everywhere = f"s, {result['cores']} cores"
    names = ("ledger", "entries", "file MiB", "s, one core", "CPU s", everywhere, "peak MiB", "epsilon charged / in the clear")
    table = Table(*names, title=title)
    for row in result["rows"]:
        table.add_row(
            row["ledger"],
            str(row["entries"]),
            f"{row['mib_file']:.1f}",
            f"{row['seconds']:.2f}",
            f"{row['cpu_seconds']:.2f}",
            f"{row['seconds_all_cores']:.2f}",
            f"{row['mib']:.0f}",
            f"{row['epsilon']:.3f} / {row['epsilon_exposed']:.3f}",
        )
    Console().print(table)
    report = result["report"]
    print(f"report on the last: {report['seconds']:.2f} s, {report['cpu_seconds']:.2f} s of processor, {report['mib']:.0f} MiB")
    print(f"one signature checked in {result['signature_us']:.0f} us; {machine_line(result['machine'])}")


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
