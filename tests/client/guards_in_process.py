"""Hospitals with real guards, real ledger files and a real coordinator, all in one process; only training is sometimes a fake."""

import hashlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from client.clock import utc
from client.config import SiteConfig
from client.daemon import code_version, open_site
from client.enrol import init_site, join_site
from client.guard import Guard, Site
from client.home import Home
from client.job import Job, Result, Train
from client.plans import PlanStore
from consortium.approval import Approval
from consortium.documents import Signed
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
    body_length,
    header_fields,
    sign_plan,
)
from consortium.roster import Founder, Member, Roster, founders_fingerprint, sign_roster
from consortium.wire import Refusal, decode_reply, encode_keys_request, encode_refusal, encode_request
from privacy.accountant import ENFORCE_INTERVAL
from privacy.terms import epsilon_exposed
from secagg.aggregate import Aggregate
from secagg.context import Context
from secagg.coordinator import Epoch, UploadPhase, VotePhase, start_epoch
from secagg.model import model_digest
from tasks.cis_conversion.task import TASK
from tasks.features import Design
from tasks.models import parameter_specs

NOW = 1_900_000_000.0
TASK_NAME = "cis_conversion"
SITES = ("hospital-1", "hospital-2", "hospital-3")
PATIENTS = (60, 80, 70)
DECLARED = 75
SALT = bytes(range(16))
HELD_OUT = 0.3
ENDLESS = """
version: 1
budget_epsilon: 50.0
max_epsilon_per_plan: 50.0
tasks: {cis_conversion: "*"}
leads: ["*"]
auto_approve: true
"""


def tape(seed: str) -> Callable[[int], bytes]:
    """Repeatable entropy."""
    counter = itertools.count()
    return lambda size: hashlib.shake_256(f"{seed}/{next(counter)}".encode()).digest(size)


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class RecordedTrain:
    """A `Train` that computes nothing: ones of the right sizes; `before` runs first and may fail."""

    jobs: list[Job] = field(default_factory=list)
    before: Callable[[Job], None] = lambda job: None

    def __call__(self, job: Job, deadline_s: float) -> Result:
        self.jobs.append(job)
        self.before(job)
        lengths = [item.length for item in header_fields(job.plan, job.round_number, job.purpose)]
        return Result(np.ones(sum(lengths)), np.ones(body_length(job.plan, job.purpose)))


def terms(mode: str = "local", **changes: float) -> PrivacyTerms:
    noise = {"train_noise": 8.0, "describe_noise": 10.0, "evaluate_noise": 4.0}
    if mode == "none":
        noise = dict.fromkeys(noise, 0.0)
    base = PrivacyTerms(
        mode="none" if mode == "none" else "local",
        delta=1e-5,
        epsilon_exposed=NOT_PRIVATE if mode == "none" else 1.0,
        epsilon_model=NOT_PRIVATE if mode == "none" else 1.0,
        clip=0.5,
        grid_bits=20,
        sample_rate=1.0,
        describe_clip=1.0,
        **noise,
    )
    return replace(base, **changes)


@dataclass
class Consortium:
    """Three hospitals, one founder, one lead. Guards are opened by `guard` and stay open until the test ends."""

    folder: Path
    data: Path
    founder: SigningKey
    lead: SigningKey
    roster: Roster
    signed_roster: Signed
    train: dict[str, Train]
    clock: Clock = field(default_factory=Clock)
    opened: dict[str, Guard] = field(default_factory=dict)
    sites_open: dict[str, Site] = field(default_factory=dict)
    epochs: int = 0
    left: list[tuple[str, str, bytes, bytes]] = field(default_factory=list)  # (site, kind, control, body) of every reply

    @property
    def pin(self) -> str:
        return founders_fingerprint(self.roster.founders, self.roster.founders_required)

    def home(self, site: str) -> Home:
        return Home(self.folder / site)

    def policy(self, text: str, site: str | None = None) -> None:
        for name in [site] if site else SITES:
            self.home(name).policy.write_text(text)

    def ledger_bytes(self, site: str = SITES[0]) -> bytes:
        ledger = self.home(site).ledger
        return ledger.read_bytes() + ledger.with_name(ledger.name + ".head").read_bytes()

    def spends(self, site: str = SITES[0]) -> int:
        return self.home(site).ledger.read_bytes().count(b'"kind":"spend"')

    def guard(self, site: str = SITES[0]) -> Guard:
        if site not in self.opened:
            train = self.train[site]
            opened = open_site(
                self.home(site), site=site, tasks=(TASK_NAME,), train=train, now=self.clock(),
                population=getattr(train, "population", None),
            )  # fmt: skip
            self.sites_open[site] = replace(opened, now=self.clock)
            self.opened[site] = Guard(self.sites_open[site])
        return self.opened[site]

    def restart(self, site: str) -> Guard:
        self.stop(site)
        return self.guard(site)

    def stop(self, site: str) -> None:
        if self.opened.pop(site, None):
            self.sites_open.pop(site).ledger.close()

    def next_epoch(self) -> int:
        self.epochs += 1
        return self.epochs

    def plan(self, **changes: object) -> Plan:
        design = Design(TASK.contract)
        model = TASK.build_model("logistic", {})
        schedule = Schedule(
            rounds=4, max_round=12, max_describe=1, max_train=4, max_evaluate=1, evaluate_every=2, local_steps=1, local_rate=0.5
        )
        plan = Plan(
            version=3,
            run_id="run-1",
            lead="lead-a",
            created="2026-11-21T10:00:00Z",
            code_version=code_version(),
            roster_digest=self.roster.digest,
            task=TaskRef(TASK.name, TASK.version, TASK.contract.column_names, TASK.contract.modalities(TASK.contract.column_names)),
            model=ModelRef(
                "logistic",
                (),
                tuple(ParameterSpec(*spec) for spec in design.buffer_specs),
                tuple(ParameterSpec(*spec) for spec in parameter_specs(model)),
                0,
            ),
            participants=tuple(Participant(site, at + 1, DECLARED) for at, site in enumerate(SITES)),
            statistics=design.n_statistics,
            histogram_bins=4,
            coordinate_clip=16.0,
            ring_bits=32,
            schedule=schedule,
            privacy=terms(),
            strategy=StrategyRef("fedavg", ()),
            deadlines=Deadlines(10, 10, 10, 10),
        )
        return truthful(replace(plan, **changes))

    def long_plan(self) -> Plan:
        """A hundred thousand rounds, with noise to match."""
        plan = self.plan()
        schedule = replace(plan.schedule, max_round=100_000, max_train=100_000)
        return self.plan(schedule=schedule, privacy=terms(train_noise=200.0, evaluate_noise=200.0))

    def sign(self, plan: Plan) -> Signed:
        return sign_plan(plan, self.lead)

    def approve(self, run: "Run", *sites: str) -> None:
        """What these sites' stewards do before a run; needed where policy approves nothing by itself."""
        for site in sites or SITES:
            key = self.home(site).load_identity()
            store = PlanStore(self.home(site).plans, site, key.public)
            store.decide(Approval(run.signed.digest, site, "approve", "", "test", utc(NOW)), key)

    def run(self, plan: Plan | None = None) -> "Run":
        return Run(self, self.sign(plan or self.plan()))


def truthful(plan: Plan) -> Plan:
    """The plan with the epsilon that its terms lead to, unless it already states another one."""
    if not plan.private or plan.privacy.epsilon_exposed != 1.0:
        return plan
    stated = epsilon_exposed(plan, interval=ENFORCE_INTERVAL)
    return replace(plan, privacy=replace(plan.privacy, epsilon_exposed=stated, epsilon_model=stated))


@dataclass
class Run:
    """A coordinator of one plan: the protocol's real one, over `Guard.answer`."""

    consortium: Consortium
    signed: Signed

    @property
    def plan(self) -> Plan:
        return self.signed.document(Plan)

    @property
    def context(self) -> Context:
        roster = self.consortium.roster
        return Context(
            roster_digest=roster.digest,
            plan_digest=self.signed.digest,
            identities={site: roster.member(site).identity_key for site in self.plan.sites},
            colluders=roster.colluders,
            minimum_cohort=roster.minimum_cohort,
            max_round=self.plan.schedule.max_round,
        )

    def model(self, value: float = 0.0) -> bytes:
        return np.full(self.plan.model_size, value, "<f4").tobytes()

    def reply(self, site: str, kind: str, control: bytes, body: bytes = b"") -> tuple[bytes, bytes]:
        answer, y = self.consortium.guard(site).answer(kind, control, body)
        self.consortium.left.append((site, kind, answer, bytes(y)))
        return answer, bytes(y)

    def keys_control(self, number: int = 1) -> bytes:
        requests = start_epoch(self.context, number, self.plan.sites).requests()
        return encode_keys_request(self.signed.encode(), requests[self.plan.sites[0]])

    def ask_keys(self, site: str = SITES[0], number: int = 1) -> tuple[bytes, bytes]:
        return self.reply(site, "sa1_keys", self.keys_control(number))

    def request(self, sa1: bytes) -> bytes:
        return encode_request(self.signed.digest, sa1)

    def epoch(self, number: int = 1, sites: Iterable[str] | None = None) -> Epoch:
        keys = start_epoch(self.context, number, tuple(sites or self.plan.sites))
        for site, request in keys.requests().items():
            control = encode_keys_request(self.signed.encode(), request)
            keys = keys.receive(site, answered(self.reply(site, "sa1_keys", control)))
        kems = keys.close()
        for site, request in kems.requests().items():
            kems = kems.receive(site, answered(self.reply(site, "sa1_kem", self.request(request))))
        return kems.close()

    def open_round(self, epoch: Epoch, number: int, purpose: str = "train", model: bytes | None = None) -> UploadPhase:
        header = 1 + sum(item.length for item in header_fields(self.plan, number, purpose))
        digest = model_digest(self.model() if model is None else model)
        return epoch.open_round(number, purpose, digest, header_length=header, body_length=body_length(self.plan, purpose))

    def update(self, phase: UploadPhase, site: str, model: bytes | None = None) -> tuple[bytes, bytes]:
        body = self.model() if model is None else model
        return self.reply(site, "sa1_update", self.request(phase.requests()[site]), body)

    def upload(self, phase: UploadPhase, *, lost: Iterable[str] = (), model: bytes | None = None) -> UploadPhase:
        for site in phase.epoch.sites:
            if site not in lost:
                control, y = self.update(phase, site, model)
                phase = phase.receive(site, answered((control, y)), y)
        return phase

    def vote(self, phase: VotePhase, site: str) -> tuple[bytes, bytes]:
        return self.reply(site, "sa1_vote", self.request(phase.requests()[site]))

    def votes(self, phase: VotePhase) -> VotePhase:
        for site in phase.epoch.sites:
            phase = phase.receive(site, answered(self.vote(phase, site)))
        return phase

    def round(self, epoch: Epoch, number: int, purpose: str = "train", model: bytes | None = None) -> Aggregate:
        return self.votes(self.upload(self.open_round(epoch, number, purpose, model), model=model).close()).close()


def answered(reply: tuple[bytes, bytes]) -> bytes:
    found = decode_reply(reply[0])
    assert not isinstance(found, Refusal), found
    return found


def code_of(reply: tuple[bytes, bytes]) -> str:
    """The code of a refusal, after checking that its bytes are nothing but code, site ids and correlation id."""
    found = decode_reply(reply[0])
    assert isinstance(found, Refusal)
    assert reply == (encode_refusal(found), b"")
    assert set(found.sites) <= set(SITES)
    return found.code


def make_consortium(folder: Path, hospitals: Path) -> Consortium:
    """All sites joined, policy `ENDLESS`, training recorded and not computed."""
    founder, lead = SigningKey.from_seed(b"f" * 32), SigningKey.from_seed(b"l" * 32)
    members = [Member("lead-a", "lead", lead.public, "")]
    for site in SITES:
        config = SiteConfig(site=site, tasks=(TASK_NAME,), data=hospitals / site, population="test", hub="", threads=1)
        made = init_site(Home(folder / site), config)
        members.append(Member(site, "site", bytes.fromhex(made.identity_key), made.transport_key))
    members.sort(key=lambda member: member.id)
    roster = Roster("test", 1, 0, 3, (Founder("founder", founder.public),), 1, SALT, HELD_OUT, tuple(members))
    signed = sign_roster(roster, "founder", founder)
    found = Consortium(folder, hospitals, founder, lead, roster, signed, {site: RecordedTrain() for site in SITES})
    for site in SITES:
        join_site(found.home(site), signed=signed, trusted_founders=found.pin, now=NOW)
    found.policy(ENDLESS)
    return found


def reopen(folder: Path, hospitals: Path) -> Consortium:
    """What `make_consortium` made in another process."""
    signed = Home(folder / SITES[0]).roster.read_bytes()
    roster = Home(folder / SITES[0]).load_roster()
    founder, lead = SigningKey.from_seed(b"f" * 32), SigningKey.from_seed(b"l" * 32)
    return Consortium(
        folder, hospitals, founder, lead, roster, Signed.decode(signed, "roster"), {site: RecordedTrain() for site in SITES}
    )
