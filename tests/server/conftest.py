"""A small plan, its roster and run folders in any state, shared by the tests of the lead's side."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
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
    sign_plan,
)
from consortium.roster import Founder, Member, Roster, sign_roster
from server.checkpoint import Checkpoint, model_digest, save_checkpoint
from server.folder import RunFolder, create_folder
from server.journal import (
    Checkpointed,
    Dropped,
    EpochAsked,
    EpochReady,
    Journal,
    RoundAttempt,
    RoundDone,
    RoundFailed,
    RunFinished,
    RunStarted,
    named,
)

SITES = ("basel", "kaunas", "lyon", "oslo")
LEAD = SigningKey.from_seed(b"\x01" * 32)
FOUNDER = SigningKey.from_seed(b"\x02" * 32)
ROUNDS = 4


def site_key(site: str) -> SigningKey:
    return SigningKey.from_seed(bytes([10 + SITES.index(site)]) * 32)


def make_roster() -> Roster:
    members = [Member("lead-a", "lead", LEAD.public, "")]
    members += [Member(site, "site", site_key(site).public, f"transport {site}") for site in SITES]
    ordered = tuple(sorted(members, key=lambda member: member.id))
    founders = (Founder("founder", FOUNDER.public),)
    return Roster("test", 1, 1, 3, founders, 1, b"\x03" * 16, 0.25, ordered)


def make_plan(*, private: bool = True) -> Plan:
    noise = 5.0 if private else 0.0
    epsilons = (3.0, 1.2) if private else (NOT_PRIVATE, NOT_PRIVATE)
    return Plan(
        version=3,
        run_id="run-7",
        lead="lead-a",
        created="2026-01-02T03:04:05Z",
        code_version="0.1.0",
        roster_digest=make_roster().digest,
        task=TaskRef("cis_conversion", "1", ("age", "sex"), ("clinical",)),
        model=ModelRef(
            "logistic",
            (),
            (ParameterSpec("feature_mean", (2,)), ParameterSpec("feature_scale", (2,))),
            (ParameterSpec("output.weight", (1, 2)), ParameterSpec("output.bias", (1,))),
            7,
        ),
        participants=tuple(Participant(site, 100 + at, 50 * (at + 1)) for at, site in enumerate(SITES)),
        statistics=6,
        histogram_bins=4,
        coordinate_clip=2.0,
        ring_bits=32,
        schedule=Schedule(ROUNDS, 12, 2, 8, 2, 2, 1, 1.0),
        privacy=PrivacyTerms("local" if private else "none", 1e-5, *epsilons, 0.3, 20, 1.0, noise, 1.0, noise, noise),
        strategy=StrategyRef("fedadam", (("ema_decay", 0.5), ("rate", 0.1))),
        deadlines=Deadlines(30, 60, 30, 600),
    )


class Ticking:
    """A clock that moves on by one second at each look."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 5, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def write_round(journal: Journal, folder: RunFolder, plan: Plan, number: int, purpose: str) -> None:
    """One whole round as the coordinator writes it; oslo misses every third."""
    model = np.arange(plan.model_size, dtype=np.float32) / 10 + number
    journal.append(RoundAttempt(number, purpose, 1, model_digest(model)))
    if number == 3:
        journal.append(RoundFailed(number, purpose, "TOO_FEW", (Dropped("oslo", "update", "LATE"),), named({"update": 2.0})))
        return
    state = tuple(np.full(plan.n_parameters, 0.5) for _ in range(3))
    path = save_checkpoint(folder.checkpoints, Checkpoint(plan.digest, number, 1, number - 1, 0, model, state))
    metrics = named({"auc": 0.5 + number / 20, "brier": 0.25 - number / 100}) if purpose != "describe" and number % 2 == 0 else ()
    late = number % 3 == 0
    journal.append(
        RoundDone(
            round=number,
            purpose=purpose,
            survivors=SITES[:3] if late else SITES,
            dropped=(Dropped("oslo", "update", "LATE"),) if late else (),
            seconds=named({"update": 0.4, "vote": 0.2, "open": 0.01}),
            bytes_up=4000,
            bytes_down=5000,
            metrics=metrics,
            histogram=(9.0, 6.0, 3.0, 1.0, 1.0, 2.0, 5.0, 8.0) if metrics else (),
        )
    )
    journal.append(Checkpointed(number, model_digest(model)))
    assert path.is_file()


def write_run(folder: RunFolder, *, last: int = 6, finished: bool = True) -> None:
    plan = folder.plan()
    with Journal(folder.events, clock=Ticking()) as journal:
        journal.append(RunStarted(plan.run_id, plan.digest, plan.sites, plan.private))
        journal.append(EpochAsked(1, plan.sites))
        journal.append(EpochReady(1, plan.sites, 3, (), 0.3))
        for number in range(1, last + 1):
            purpose = "describe" if number == 1 else "evaluate" if number == 6 else "train"
            write_round(journal, folder, plan, number, purpose)
        if finished:
            journal.append(RunFinished(b"\x05" * 32, 12.5))


@pytest.fixture
def plan() -> Plan:
    return make_plan()


@pytest.fixture
def roster() -> Roster:
    return make_roster()


@pytest.fixture
def lead_key() -> SigningKey:
    return LEAD


@pytest.fixture
def site_keys() -> dict[str, SigningKey]:
    return {site: site_key(site) for site in SITES}


@pytest.fixture
def founder_key() -> SigningKey:
    return FOUNDER


@pytest.fixture
def new_folder(tmp_path: Path) -> Callable[..., RunFolder]:
    """`new_folder(name, private=True)`: an empty run folder of the small plan."""

    def make(name: str = "run", *, private: bool = True) -> RunFolder:
        signed_roster = sign_roster(make_roster(), "founder", FOUNDER)
        return create_folder(tmp_path / name, sign_plan(make_plan(private=private), LEAD), signed_roster)

    return make


@pytest.fixture
def run_folder(new_folder: Callable[..., RunFolder]) -> Callable[..., RunFolder]:
    """`run_folder(name, private=True, last=6, finished=True)`: the same, with a run in it."""

    def make(name: str = "run", *, private: bool = True, last: int = 6, finished: bool = True) -> RunFolder:
        folder = new_folder(name, private=private)
        write_run(folder, last=last, finished=finished)
        return folder

    return make
