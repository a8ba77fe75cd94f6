#!/usr/bin/env python3
"""Writes tests/vectors/privacy: a small ledger byte for byte, its mutations, the generator's words, reference epsilons.

Deterministic: run it again and `git diff --exit-code tests/vectors/privacy` shows whether a format moved.
"""

import hashlib
import json
import math
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from consortium.canonical import Json
from consortium.identity import SigningKey
from privacy.check import bracket
from privacy.entries import PlanApproved, PopulationChanged, SpendDetails, Withdrawn
from privacy.events import Event, GaussianEvent, NonPrivateEvent, PoissonGaussianEvent, Spend, spend_to_document
from privacy.ledger import Ledger, Replacement, head_path
from privacy.noise import gaussian_grid, poisson_mask

TARGET = Path(__file__).resolve().parents[1] / "tests" / "vectors" / "privacy"
KEY = SigningKey.from_seed(bytes(range(32)))
START = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
PLAN = bytes([7]) * 32
SPLIT = "aa" * 32
EPSILONS = (0.26716272200455105, 0.5238081417968027, 0.9633226527691604)


def tape(size: int) -> bytes:
    """The entropy of the vectors: the first bytes of SHA-256("wardround")."""
    return hashlib.sha256(b"wardround").digest()[:size]


def details(number: int, purpose: str) -> SpendDetails:
    return SpendDetails(
        "run-1", PLAN, number, purpose, 1e-5, SPLIT, 0.25, 20, 400.0, "all/1", "grid/1", "0.1.0", bytes([number]) * 32
    )


class ThisLedger(Ledger):
    """Writes the last digits of `epsilon_after` as the first machine did: they depend on the processor's exponentials.

    A figure that is not one of these is written as computed, so that a change of the accountant shows.
    """

    def epsilon_with(self, *args: Any, **options: Any) -> float:
        found = super().epsilon_with(*args, **options)
        return next((fixed for fixed in EPSILONS if math.isclose(fixed, found, rel_tol=1e-9)), found)


def golden_ledger(folder: Path) -> tuple[bytes, bytes]:
    """Ledger and head file of a short run: approved, described, trained, evaluated, withdrawn."""
    path = folder / "ledger.jsonl"
    train, histogram = Spend(GaussianEvent(8.0), "train"), Spend(GaussianEvent(20.0), "held_out")
    with ThisLedger.create(
        path, KEY, consortium="ms-north", site="aachen", population="ms-clinic", split_id=SPLIT, now=START
    ) as ledger:
        ledger.append("plan-approved", PlanApproved(PLAN, "run-1", "lead-anna", "steward", "", 1e-5, 3.0), START)
        ledger.spend(details(1, "describe"), (Spend(GaussianEvent(12.5), "train"),), START + timedelta(minutes=1))
        ledger.spend(details(2, "train"), (train, histogram), START + timedelta(minutes=2))
        ledger.spend(details(3, "train"), (Spend(PoissonGaussianEvent(2.0, 0.25), "train"),), START + timedelta(minutes=3))
        ledger.spend(details(5, "evaluate"), (histogram,), START + timedelta(minutes=4))
        ledger.append("withdrawn", Withdrawn(PLAN, "run-1", "end of study"), START + timedelta(minutes=5))
        ledger.spend(details(6, "train"), (Spend(NonPrivateEvent(), "train"),), START + timedelta(minutes=6))
    return path.read_bytes(), head_path(path).read_bytes()


def population_ledger(folder: Path) -> bytes:
    """Ledger of a task whose patients changed: the first, one withdrew, others joined while the record was lost."""
    path = folder / "population.jsonl"
    first, second, third = (hashlib.sha256(bytes([number])).digest() for number in (1, 2, 3))
    with Ledger.create(
        path, KEY, consortium="ms-north", site="aachen", population="ms-clinic", split_id=SPLIT, now=START
    ) as ledger:
        for minute, (before, digest, how) in enumerate(
            [(bytes(32), first, ("first",)), (first, second, ("left", "withdrawn")), (second, third, ("unknown",))], start=1
        ):
            change = PopulationChanged("cdp_2y", before, digest, how)
            ledger.append("population-changed", change, START + timedelta(minutes=minute))
    return path.read_bytes()


def handed_over_ledger(folder: Path) -> bytes:
    """A ledger that two keys hand over between them, and that a third one goes on with alone."""
    path = folder / "handovers.jsonl"
    second, third = (SigningKey.from_seed(bytes([number]) * 32) for number in (2, 3))
    roster = hashlib.sha256(b"roster").digest()
    with ThisLedger.create(
        path, KEY, consortium="ms-north", site="aachen", population="ms-clinic", split_id=SPLIT, now=START
    ) as ledger:
        ledger.append("plan-approved", PlanApproved(PLAN, "run-1", "lead-anna", "steward", "", 1e-5, 3.0), START)
        ledger.rotate(second, roster_version=2, roster_digest=roster, now=START + timedelta(minutes=1))
        ledger.append("withdrawn", Withdrawn(PLAN, "run-1", "end of study"), START + timedelta(minutes=2))
    replaced = Replacement(3, roster, "the disk broke")
    with ThisLedger.take_over(path, third, START + timedelta(minutes=3), replaced) as ledger:
        ledger.append("withdrawn", Withdrawn(PLAN, "run-1", "end of study"), START + timedelta(minutes=4))
    return path.read_bytes()


def mutations(ledger: bytes) -> list[dict[str, Json]]:
    """Changed ledgers, what was done to each, and the entry that a verifier must name."""
    lines = ledger.splitlines(keepends=True)
    flipped = bytearray(lines[3])
    flipped[10] ^= 1
    cases: list[tuple[str, int, list[bytes]]] = [
        ("first entry removed", 0, lines[1:]),
        ("middle entry removed", 3, lines[:3] + lines[4:]),
        ("two entries swapped", 2, [*lines[:2], lines[3], lines[2], *lines[4:]]),
        ("entry repeated", 3, [*lines[:3], lines[2], *lines[3:]]),
        ("noise edited", 3, [*lines[:3], lines[3].replace(b":8.0", b":9.0"), *lines[4:]]),
        ("epsilon edited", 3, [*lines[:3], lines[3].replace(b'"epsilon_after":', b'"epsilon_after":0'), *lines[4:]]),
        ("one bit flipped", 3, [*lines[:3], bytes(flipped), *lines[4:]]),
        ("space added", 2, [*lines[:2], lines[2].replace(b'","', b'", "', 1), *lines[3:]]),
        ("empty line added", 8, [*lines, b"\n"]),
        ("carriage return added", 1, [lines[0], lines[1].replace(b"\n", b"\r\n"), *lines[2:]]),
        ("file repeated", 8, lines * 2),
    ]
    return [{"what": what, "entry": entry, "ledger": b"".join(changed).decode("latin-1")} for what, entry, changed in cases]


def epsilons() -> list[dict[str, Json]]:
    """Mechanisms and the independent bracket on their epsilon."""
    cases: list[tuple[Event, int, float]] = [
        (GaussianEvent(8.0), 100, 1e-5),
        (GaussianEvent(1.0), 1, 1e-5),
        (PoissonGaussianEvent(2.0, 0.25), 100, 1e-5),
        (PoissonGaussianEvent(1.0, 0.02), 500, 1e-4),
    ]
    found: list[dict[str, Json]] = []
    for event, count, delta in cases:
        spend = Spend(event, "train", count)
        answer = bracket([spend], delta)
        found.append(
            {"spend": spend_to_document(spend), "delta": delta, "lower": round(answer.lower, 6), "upper": round(answer.upper, 6)}
        )
    return found


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        ledger, head = golden_ledger(Path(folder))
        (TARGET / "population.jsonl").write_bytes(population_ledger(Path(folder)))
        (TARGET / "handovers.jsonl").write_bytes(handed_over_ledger(Path(folder)))
    (TARGET / "ledger.jsonl").write_bytes(ledger)
    (TARGET / "ledger.jsonl.head").write_bytes(head)
    documents: dict[str, Json] = {
        "mutations.json": list(mutations(ledger)),
        "noise.json": {
            "entropy": tape(32).hex(),
            "gaussian_grid_std_1048576": [int(value) for value in gaussian_grid(2.0**20, 9, tape)],
            "poisson_mask_rate_0.25": [int(value) for value in poisson_mask(40, 0.25, tape)],
        },
        "epsilons.json": list(epsilons()),
    }
    for name, document in documents.items():
        (TARGET / name).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
