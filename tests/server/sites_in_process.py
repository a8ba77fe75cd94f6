"""Sites that speak the real protocol in this process, a transport that does to their messages what a script says, a clock
that only the transport moves: every failure is data, and no test waits."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consortium.errors import EncodingError
from consortium.identity import SigningKey
from consortium.plan import (
    Deadlines,
    ModelRef,
    ParameterSpec,
    Participant,
    Plan,
    PrivacyTerms,
    Schedule,
    StrategyRef,
    TaskRef,
    header_fields,
    sign_plan,
)
from consortium.roster import Founder, Member, Roster, sign_roster
from consortium.wire import (
    Refusal,
    Reply,
    Request,
    decode_keys_request,
    decode_request,
    encode_answer,
    encode_refusal,
)
from secagg.context import Context
from secagg.encoding import encode_body, encode_header
from secagg.errors import SecaggError
from secagg.messages import Ballot, UpdateRequest, Upload, sign
from secagg.model import model_digest
from secagg.site import Repeated, SiteSession
from server.folder import RunFolder, create_folder
from server.pooled import initial_model
from server.transport import Patience
from tasks.features import Design
from tasks.models import parameter_specs
from tasks.registry import get_task

COLUMNS = ("sex", "age_years")
CLIP = 2.0
SITES = ("basel", "kaunas", "lyon", "oslo", "porto")
DECLARED = (50, 100, 150, 200, 250)
BINS = 4
Vector = NDArray[np.float64]


def tape(seed: str) -> Callable[[int], bytes]:
    """Repeatable entropy."""
    counter = itertools.count()
    return lambda size: hashlib.shake_256(f"{seed}/{next(counter)}".encode()).digest(size)


@dataclass
class FakeClock:
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0.0
        self.now += max(seconds, 1e-3)


# what the sites hold, known to the reader of a test


def update_of(site: str, number: int, size: int) -> Vector:
    """A site's delta in a training round: (site's place + 1) / 10, round number / 100, then zeros."""
    delta = np.zeros(size)
    delta[:2] = (SITES.index(site) + 1) / 10.0, number / 100.0
    return delta


def histogram_of(site: str) -> Vector:
    """Basel has label 1 only; every other site one patient of label 0 in bin 0 and one of label 1 in its own bin."""
    cells = np.zeros(2 * BINS)
    cells[BINS + SITES.index(site) % BINS] = 1.0
    cells[0] = 0.0 if site == "basel" else 1.0
    return cells


def patients_of(site: str) -> float:
    """As noised once: 100.25, and ten more for each place on the list."""
    return 100.25 + 10.0 * SITES.index(site)


def statistics_of(site: str, design: Design) -> Vector:
    """Ten patients of the same age, 20 years and three more for each place on the list."""
    values = np.full((10, len(design.contract.columns)), np.nan)
    values[:, design.contract.column_names.index("age_years")] = 20.0 + 3.0 * SITES.index(site)
    return np.asarray(design.describe_vectors(values).sum(axis=0))


# plan and roster

KEYS = {site: SigningKey.from_seed(site.encode().ljust(32, b".")) for site in SITES}
LEAD, FOUNDER = SigningKey.from_seed(b"\x01" * 32), SigningKey.from_seed(b"\x02" * 32)


def make_roster(sites: tuple[str, ...], *, colluders: int = 1) -> Roster:
    members = [Member(site, "site", KEYS[site].public, f"transport {site}") for site in sites]
    members.append(Member("lead-a", "lead", LEAD.public, ""))
    ordered = tuple(sorted(members, key=lambda member: member.id))
    return Roster("test", 1, colluders, 3, (Founder("founder", FOUNDER.public),), 1, b"\x03" * 16, 0.25, ordered)


def make_plan(roster: Roster, *, rounds: int = 2, **changes: object) -> Plan:
    """`rounds` training rounds of a logistic model over age and sex, FedAvg; histograms ride in even rounds."""
    task = get_task("cis_conversion")
    design, model = Design(task.contract, COLUMNS), task.build_model("logistic", {}, COLUMNS)
    buffers = tuple(ParameterSpec(*spec) for spec in design.buffer_specs)
    parameters = tuple(ParameterSpec(*spec) for spec in parameter_specs(model))
    sites = [member.id for member in roster.sites]
    plan = Plan(
        version=3,
        run_id="run-7",
        lead="lead-a",
        created="2026-01-02T03:04:05Z",
        code_version="0.1.0",
        roster_digest=roster.digest,
        task=TaskRef(task.name, task.version, COLUMNS, task.contract.modalities(COLUMNS)),
        model=ModelRef("logistic", (), buffers, parameters, 7),
        participants=tuple(Participant(site, at + 1, DECLARED[SITES.index(site)]) for at, site in enumerate(sites)),
        statistics=design.n_statistics,
        histogram_bins=BINS,
        coordinate_clip=CLIP,
        ring_bits=32,
        schedule=Schedule(rounds, 40, 6, rounds + 10, 6, 2, 1, 1.0),
        privacy=PrivacyTerms("local", 1e-5, 3.0, 1.2, 0.3, 20, 1.0, 5.0, 1.0, 0.01, 0.01),
        strategy=StrategyRef("fedavg", ()),
        deadlines=Deadlines(30, 60, 20, 600),
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def make_run(path: Path, *, n: int = 4, rounds: int = 2, colluders: int = 1, **changes: object) -> RunFolder:
    roster = make_roster(SITES[:n], colluders=colluders)
    plan = make_plan(roster, rounds=rounds, **changes)
    return create_folder(path, sign_plan(plan, LEAD), sign_roster(roster, "founder", FOUNDER))


# sites


class Site:
    """A site's protocol session, with a ledger that outlives restarts: every round that was charged, in order."""

    def __init__(self, name: str, folder: RunFolder) -> None:
        self.name, self.plan, roster = name, folder.plan(), folder.roster()
        self.digest = folder.signed_plan().digest
        self.refuses: Callable[[str, int], str] = lambda kind, number: ""
        self.garbage = False
        self.deals_garbage = False
        self.releases_garbage = False
        self.charged: list[tuple[int, str]] = []
        self.restarts = 0
        self._context = Context(
            roster.digest,
            self.digest,
            {site: roster.member(site).identity_key for site in self.plan.sites},
            roster.colluders,
            roster.minimum_cohort,
            self.plan.schedule.max_round,
            self.plan.ring_bits,
        )
        self.restart()

    def restart(self) -> None:
        """Keys and shares are gone, the ledger is not."""
        self.restarts += 1
        last = max((number for number, _ in self.charged), default=0)
        entropy = tape(f"{self.name}/{self.restarts}")
        self._entropy = entropy
        self.session = SiteSession(self._context, self.name, KEYS[self.name], last, entropy)

    def answer(self, kind: str, request: Request) -> Reply:
        try:
            if code := self.refuses(kind, self.session.last_round + 1):
                return refusal(code)
            return self._answer(kind, request)
        except SecaggError as error:
            return refusal(error.code)
        except EncodingError:
            return refusal("UNDECODABLE")

    def _answer(self, kind: str, request: Request) -> Reply:
        if kind == "sa1_keys":
            return Reply(encode_answer(self.session.keys(decode_keys_request(request.control)[1], 0.0)))
        digest, sa1 = decode_request(request.control)
        if digest != self.digest:
            return refusal("UNKNOWN_PLAN")
        if kind == "sa1_kem":
            return Reply(encode_answer(self.session.kem(sa1, 0.0)))
        if kind == "sa1_vote":
            ballot = self.session.vote(sa1, 0.0)
            return Reply(encode_answer(self._with_garbage(ballot) if self.releases_garbage else ballot))
        begun = self.session.begin_update(sa1, model_digest(request.body), 0.0)
        if isinstance(begun, Repeated):
            return Reply(encode_answer(begun.control), bytes(begun.y))
        asked = UpdateRequest.decode(sa1)
        taken = self.session.take(begun)
        assert asked.round_number not in [number for number, _ in self.charged]
        self.charged.append((asked.round_number, asked.purpose))
        words = self._words(asked.round_number, asked.purpose, len(taken.sites))
        control, y = self.session.finish_update(taken, *words)
        if self.deals_garbage:  # no share of it opens; its signature does not cover them
            upload = Upload.decode(control)
            control = replace(upload, sealed_shares=tuple(bytes(len(one)) for one in upload.sealed_shares)).encode()
        return Reply(encode_answer(control), bytes(y))

    def _with_garbage(self, data: bytes) -> bytes:
        """The ballot with releases that open nothing, signed by its site all the same."""
        ballot = Ballot.decode(data)
        bad = replace(ballot, releases=tuple(bytes(32) for _ in ballot.releases))
        return replace(bad, signature=sign(KEYS[self.name], "ballot", *bad.signed_fields())).encode()

    def _words(self, number: int, purpose: str, n: int) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        design = Design(get_task("cis_conversion").contract, COLUMNS)
        fields = [item.name for item in header_fields(self.plan, number, purpose)]
        held = {
            "histogram": histogram_of(self.name),
            "statistics": statistics_of(self.name, design),
            "patients": np.array([patients_of(self.name)]),
        }
        header = encode_header(np.concatenate([np.zeros(0), *(held[name] for name in fields)]), n)
        body = np.zeros(0)
        if purpose == "train":
            body = update_of(self.name, number, self.plan.n_parameters)
        weight, clip = self.plan.weight(self.name), self.plan.coordinate_clip
        words = encode_body(body, weight=weight, clip=clip, n=n, entropy=self._entropy, ring_bits=self.plan.ring_bits)
        return (header + np.uint64(1), words) if self.garbage else (header, words)


def refusal(code: str) -> Reply:
    return Reply(encode_refusal(Refusal(code, (), "0123456789abcdef")))


# the transport

DROP_REQUEST, DROP_REPLY, CORRUPT, TWICE, OLD, RESTART, SLOW, UNREACHABLE = (
    "drop-request",
    "drop-reply",
    "corrupt",
    "twice",
    "old",
    "restart",
    "slow",
    "unreachable",
)
FAULTS = (DROP_REQUEST, DROP_REPLY, CORRUPT, TWICE, OLD, RESTART, SLOW, UNREACHABLE)


@dataclass
class Scripted:
    """`Transport` over sites in this process. `fault(exchange, kind, site)` names what happens to that site's message."""

    sites: Mapping[str, Site]
    clock: FakeClock
    fault: Callable[[int, str, str], str] = lambda number, kind, site: ""
    reverse: bool = False
    failures: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    before: Callable[[int, str], None] = lambda number, kind: None
    stranger: str = ""  # who answers every exchange without being asked
    _last: dict[tuple[str, str], Reply] = field(default_factory=dict)

    def exchange(self, kind: str, requests: Mapping[str, Request], patience: Patience) -> Iterator[tuple[str, Reply]]:
        number = len(self.asked)
        self.asked.append((kind, tuple(requests)))
        self.before(number, kind)
        self.failures = {}
        if self.stranger:
            yield self.stranger, refusal("BUSY")
        started, since, replies = self.clock.now, self.clock.now, 0
        for site in sorted(requests, reverse=self.reverse):
            fault = self.fault(number, kind, site)
            for reply in self._deliver(kind, site, requests[site], fault):
                self.clock.now += 0.1
                replies += 1
                since = self.clock.now if replies <= patience.quorum else since
                yield site, reply
            if fault == UNREACHABLE:
                self.failures[site] = "UNREACHABLE"
        if any(self.fault(number, kind, site) in (DROP_REQUEST, DROP_REPLY, SLOW) for site in requests):
            self.clock.now += patience.left(self.clock.now - started, replies, self.clock.now - since)

    def _deliver(self, kind: str, site: str, request: Request, fault: str) -> list[Reply]:
        if fault in (DROP_REQUEST, UNREACHABLE):
            return []
        if fault == RESTART:
            self.sites[site].restart()
        reply, old = self.sites[site].answer(kind, request), self._last.get((site, kind))
        self._last[site, kind] = reply
        match fault:
            case "drop-reply" | "slow":
                return []
            case "corrupt":
                return [Reply(flipped(reply.control), flipped(reply.body))]
            case "twice":
                return [reply, reply]
            case "old":
                return [old or reply]
        return [reply]

    def close(self) -> None:
        """Nothing to release."""


def flipped(data: bytes) -> bytes:
    """One bit of the middle byte changed."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if data else data


@dataclass
class World:
    """A run folder, its sites and their transport: they outlive coordinators."""

    folder: RunFolder
    clock: FakeClock
    sites: dict[str, Site]
    transport: Scripted

    @property
    def plan(self) -> Plan:
        return self.folder.plan()


def make_world(path: Path, **options: object) -> World:
    folder, clock = make_run(path, **options), FakeClock()  # type: ignore[arg-type]
    sites = {site: Site(site, folder) for site in folder.plan().sites}
    return World(folder, clock, sites, Scripted(sites, clock))


# what must come out


def expected_model(plan: Plan, contributed: list[tuple[int, str, tuple[str, ...]]]) -> NDArray[np.float32]:
    """The final model, recomputed from who contributed what: (round, purpose, survivors) in order."""
    model = initial_model(plan)
    design = Design(get_task("cis_conversion").contract, COLUMNS)
    for number, purpose, survivors in contributed:
        if purpose == "describe":
            sums = sum((statistics_of(site, design) for site in survivors), np.zeros(plan.statistics))
            model[: plan.n_buffers] = design.buffer_vector(*design.statistics_to_buffers(sums))
        if purpose == "train":
            weight = sum(plan.weight(site) for site in survivors)
            total = sum(plan.weight(site) * update_of(site, number, plan.n_parameters) for site in survivors)
            model[plan.n_buffers :] += np.asarray(total / weight, np.float32)
    return model
