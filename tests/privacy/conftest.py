"""A small site: one ledger, one plan of four hospitals, entropy that repeats."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from consortium.identity import SigningKey
from consortium.plan import (
    NOT_PRIVATE,
    Deadlines,
    ModelRef,
    ParameterSpec,
    Participant,
    Plan,
    PrivacyTerms,
    Schedule,
    StrategyRef,
    TaskRef,
)
from consortium.roster import Founder, Member, Roster
from privacy.entries import SpendDetails
from privacy.events import GaussianEvent, Spend
from privacy.ledger import Ledger

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
KEY = SigningKey.from_seed(bytes(range(32)))
DELTA = 1e-5
SPLIT = "aa" * 32
PLAN_DIGEST = bytes([7]) * 32
TRAIN = Spend(GaussianEvent(8.0), "train")
HISTOGRAM = Spend(GaussianEvent(20.0), "held_out")


class Tape:
    """Entropy that repeats: SHA-256 of a seed and a counter. Only for tests."""

    def __init__(self, seed: int) -> None:
        self._seed, self._count = seed, 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        data = b""
        while len(data) < size:
            data += hashlib.sha256(f"{self._seed}/{self._count}/{len(data)}".encode()).digest()
        return data[:size]


def details(round_number: int, **changes: object) -> SpendDetails:
    base = SpendDetails(
        run_id="run-1",
        plan_digest=PLAN_DIGEST,
        round=round_number,
        purpose="train",
        delta=DELTA,
        split_id=SPLIT,
        clip=0.25,
        grid_bits=20,
        normaliser=400.0,
        sampler="all/1",
        rng="aes256ctr-boxmuller53-grid/1",
        code_version="0.1.0",
        model_hash=bytes([9]) * 32,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def make_ledger(folder: Path, rounds: int = 0, name: str = "ledger.jsonl") -> Path:
    """A closed ledger with its genesis and so many training rounds."""
    path = folder / name
    with Ledger.create(path, KEY, consortium="ms-north", site="aachen", population="ms-clinic", split_id=SPLIT, now=NOW) as ledger:
        for number in range(1, rounds + 1):
            ledger.spend(details(number), (TRAIN, HISTOGRAM), NOW)
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    path = make_ledger(tmp_path)
    with Ledger.open(path, KEY, NOW) as opened:
        yield opened


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    """A plan of four hospitals; keywords change its privacy terms, its schedule, or itself."""
    schedule = Schedule(
        rounds=20, max_round=30, max_describe=2, max_train=25, max_evaluate=3, evaluate_every=5, local_steps=1, local_rate=1.0
    )
    terms = PrivacyTerms(
        mode="local",
        delta=DELTA,
        epsilon_exposed=50.0,
        epsilon_model=50.0,
        clip=0.25,
        grid_bits=20,
        sample_rate=1.0,
        train_noise=8.0,
        describe_clip=1.0,
        describe_noise=10.0,
        evaluate_noise=6.0,
    )

    def build(schedule_changes: dict[str, object] | None = None, **changes: object) -> Plan:
        mine = {name: changes.pop(name) for name in list(changes) if hasattr(terms, name)}
        if mine.get("mode") == "none":
            silent = {"train_noise": 0.0, "describe_noise": 0.0, "evaluate_noise": 0.0}
            mine = {**silent, "epsilon_exposed": NOT_PRIVATE, "epsilon_model": NOT_PRIVATE, **mine}
        plan = Plan(
            version=3,
            run_id="run-1",
            lead="lead-anna",
            created="2026-11-21T09:00:00Z",
            code_version="0.1.0",
            roster_digest=bytes(32),
            task=TaskRef("cis_conversion", "1", ("age", "sex"), ("clinical",)),
            model=ModelRef("logistic", (), (), (ParameterSpec("weight", (4,)), ParameterSpec("bias", (1,))), 0),
            participants=tuple(Participant(site, number, 100) for number, site in enumerate("abcd")),
            statistics=6,
            histogram_bins=10,
            coordinate_clip=16.0,
            ring_bits=32,
            schedule=replace(schedule, **(schedule_changes or {})),  # type: ignore[arg-type]
            privacy=replace(terms, **mine),  # type: ignore[arg-type]
            strategy=StrategyRef("fedavg", ()),
            deadlines=Deadlines(60, 60, 60, 60),
        )
        return replace(plan, **changes)  # type: ignore[arg-type]

    return build


LEAD = SigningKey.from_seed(b"l" * 32)


@pytest.fixture(scope="session")
def roster() -> Roster:
    """The four hospitals of `make_plan` and their lead; one may collude, epochs have three sites at least."""
    sites = [Member(site, "site", SigningKey.from_seed(site.encode() * 32).public, f"transport {site}") for site in "abcd"]
    members = tuple(sorted([*sites, Member("lead-anna", "lead", LEAD.public, "")], key=lambda member: member.id))
    return Roster("ms-north", 1, 1, 3, (Founder("founder", LEAD.public),), 1, bytes(16), 0.25, members)
