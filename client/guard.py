"""The guard answers four kinds of message and refuses everything else; nothing but masked sums and protocol messages leaves it.

It trusts nobody outside this hospital: every request is checked against the roster pinned here, the plan a lead signed, this
site's policy and approval, and this site's own ledger. The spend of a round is on disk before the round's training starts.
Without a policy file, a usable ledger, an approval: no training (fail closed).
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import cast

import numpy as np
from numpy.typing import NDArray

from client.activity import Activity
from client.clock import utc
from client.egress import NO_RUN, EgressManifest, Part, part
from client.errors import Refused, SiteError, TrainerError, place_of
from client.home import Home
from client.job import AskPopulation, Job, Population, Result, Train
from client.once import Once
from client.plans import KnownPlan, PlanStore
from client.policy_file import PolicyFile
from client.populations import Populations
from client.release import Bound
from client.rotation import follow
from consortium import version
from consortium.approval import Approval
from consortium.canonical import Bytes
from consortium.documents import Signed
from consortium.errors import ConsortiumError, DocumentError, EncodingError, SignatureError
from consortium.identity import SigningKey
from consortium.logs import about, request_id, said
from consortium.plan import NOT_PRIVATE, PATIENTS, Plan, body_length, header_fields, verify_plan
from consortium.roster import KIND as ROSTER
from consortium.roster import Roster, changes
from consortium.wire import KINDS, Refusal, decode_keys_request, decode_request, encode_answer, encode_refusal
from privacy.accountant import ENFORCE_INTERVAL
from privacy.entries import LEFT, Egress, PlanApproved, PlanRefused, RunNote, SpendDetails, Withdrawn
from privacy.errors import AccountingError, EventError, LedgerError, PrivacyError
from privacy.events import Spend, aggregate
from privacy.ledger import NO_ROOM, Ledger
from privacy.manifest import MESSAGE, VOTE, Tip
from privacy.noise import GRID_NAME, SAMPLER_NAME
from privacy.periods import Dates, dates
from privacy.policy import Objection, Policy, approves, check_epoch, check_plan, check_spend
from privacy.terms import epsilon_charged, once_spends, round_spends, split_id
from secagg.context import Context
from secagg.encoding import Encoded, Update, WholeSteps, encode_header, encode_header_steps
from secagg.errors import SecaggError
from secagg.masks import HeaderWords
from secagg.messages import UpdateRequest, Upload, VoteRequest
from secagg.model import model_digest
from secagg.site import Asked, Repeated, SiteSession, Taken
from tasks.errors import TaskError

log = logging.getLogger("wardround.guard")

Entropy = Callable[[int], bytes]
MODEL_PART = 2**18  # values looked at together: a large model needs no second array of its length
BY_POLICY = "by policy: signer, task and epsilon are within its limits"
PHASES = {"sa1_keys": "keys", "sa1_kem": "kem", "sa1_update": "checking", "sa1_vote": "vote"}
DETAIL_MOST = 500  # characters of a reason in the log: what is quoted there may come from outside
NO_ROOM_WORDS = "no room on this site's disk for what must be written before an answer leaves"
TRAINING_MOST_S = 24 * 3600  # a plan's deadline beyond this is cut: keys live no longer


@dataclass
class Run:
    """One plan in force at this site: its protocol session lives here and nowhere else, in memory."""

    known: KnownPlan
    session: SiteSession
    update_lock: threading.Lock = field(default_factory=threading.Lock)  # votes must not wait for a training
    unfit: Refused | None = None  # the trainer cannot serve this plan at all: learnt at the price of one round, not of all

    @property
    def plan(self) -> Plan:
        return self.known.plan


@dataclass(frozen=True)
class Site:
    """Everything a guard holds, opened and checked before it answers anybody."""

    home: Home
    id: str
    key: SigningKey = field(repr=False)
    roster: Roster
    policy: PolicyFile
    ledger: Ledger
    train: Train
    tasks: tuple[str, ...]
    code_version: str
    threads: int = 1  # processors that masking may use
    population: AskPopulation | None = None  # whose data the next job would use
    entropy: Entropy = field(default=os.urandom, repr=False)
    now: Callable[[], float] = time.time


def _code_of(error: BaseException | None) -> str:
    """LEDGER for what a full disk did, whichever file it was: the hub then asks this site again, as of a full ledger."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return "LEDGER"
        error = error.__cause__
    return "INTERNAL"


class Guard:
    """Thread-safe: `answer` may be called from any number of threads."""

    def __init__(self, site: Site, activity: Activity | None = None) -> None:
        self._site = site
        self._activity = activity or Activity(site.now)
        self._plans = _plans(site)
        self._egress = EgressManifest(site.home.egress)
        self._once = Once(site.home.plans)
        self._populations = Populations(site.home.populations)
        self._roster_seen = b""  # the file's bytes when it was last looked at
        self._roster_version = site.roster.version  # of the newest roster that verified, also where this site is not on it
        self._runs: dict[bytes, Run] = {}
        self._lock = threading.Lock()  # over the table of runs
        self._ledger_lock = threading.Lock()  # budget check and spend are one act, over all runs
        self._noted: dict[bytes, Approval] = {}

    def answer(self, kind: str, control: bytes, body: Bytes) -> tuple[bytes, Bytes]:
        """(control, body) of the reply; a refusal where anything at all is not in order. Never raises."""
        correlation = request_id(kind, control)
        with about(request=correlation), self._activity.answering(PHASES.get(kind, "checking"), correlation):
            return self._answer_or_refuse(kind, control, body, correlation)

    def _answer_or_refuse(self, kind: str, control: bytes, body: Bytes, correlation: str) -> tuple[bytes, Bytes]:
        try:
            return self._answer(kind, control, body)
        except Refused as refusal:
            return self._refuse(refusal.code, refusal.sites, correlation, (kind, control), refusal.detail)
        except SecaggError as error:
            return self._refuse(error.code, error.sites, correlation, (kind, control), str(error))
        except EncodingError as error:
            return self._refuse("UNDECODABLE", (), correlation, (kind, control), str(error))
        except LedgerError as error:
            return self._refuse("LEDGER", (), correlation, (kind, control), str(error))
        except (TrainerError, TaskError) as error:
            return self._refuse("TRAINING", (), correlation, (kind, control), str(error))
        except (SiteError, ConsortiumError, PrivacyError) as error:
            return self._refuse(_code_of(error), (), correlation, (kind, control), str(error))
        except Exception as error:
            detail = f"{NO_ROOM_WORDS}: {place_of(error)}" if _code_of(error) == "LEDGER" else place_of(error)
            return self._refuse(_code_of(error), (), correlation, (kind, control), detail)

    def _answer(self, kind: str, control: bytes, body: Bytes) -> tuple[bytes, Bytes]:
        self._follow_roster()
        if kind == "sa1_update":
            return self._update(control, body)
        handlers = {"sa1_keys": self._keys, "sa1_kem": self._kem, "sa1_vote": self._vote}
        if kind not in handlers:
            raise Refused("UNKNOWN_KIND", "message of another kind")
        if body:
            raise EncodingError(f"{len(body)} bytes beside a message that has none: only an update carries a model")
        return handlers[kind](control)

    def status(self) -> dict[str, object]:
        """What the health check and the gateway are told: nothing that did not pass through the gateway's hands."""
        stands = {"state": "paused"} if self._site.home.paused.exists() else {}
        if self._site.home.left.exists():
            stands = {"state": "left the consortium"}
        known = {"site": self._site.id, "task": ", ".join(self._site.tasks), "roster": str(self._roster_version)}
        return known | self._activity.told() | stands

    def offer_roster(self, data: bytes) -> tuple[str, int]:
        """What became of a roster that the gateway hands in (taken, known or refused), and the version in force. Never raises
        for anything in `data`: it counts if the pinned founders signed it and its version is higher, and not otherwise."""
        home = self._site.home
        try:
            current, signed = home.load_roster(), Signed.decode(data, ROSTER)
            if signed.digest == current.digest:
                self._put_in_force(current)  # a command may have taken it, or the disk was full: perhaps no message ever comes
                return "known", current.version
            roster = home.follow_roster(signed, home.founders_pin.read_text("ascii").strip())
        except (SiteError, ConsortiumError, OSError) as error:
            log.warning("roster=offered state=refused detail=%s", _printable(str(error)))
            return "refused", self._roster_version
        log.info("roster=%d state=taken before=%d changes=%s", roster.version, current.version, "; ".join(changes(current, roster)))
        self._put_in_force(roster)
        return "taken", roster.version

    def _put_in_force(self, roster: Roster) -> None:
        """What the next message would do. Where it fails, the status goes on naming the version before, and it is offered again."""
        try:
            self._follow_roster()
        except Refused as refusal:
            log.warning("roster=%d state=%s detail=%s", roster.version, refusal.code, refusal.detail)
        except (SiteError, ConsortiumError, PrivacyError, OSError) as error:
            log.error("roster=%d state=not-in-force detail=%s", roster.version, _printable(str(error)))  # noqa: TRY400 - in words
            return
        self._roster_version = max(self._roster_version, roster.version)

    # -- the four kinds ------------------------------------------------------------------------------------------------

    def _keys(self, control: bytes) -> tuple[bytes, Bytes]:
        signed_bytes, sa1 = decode_keys_request(control)
        known = self._verified(signed_bytes)
        self._authorise(known, first=True)
        self._activity.step("keys", known.plan.run_id)
        self._site.ledger.check_room()  # a site whose disk is full would take a place in the threshold and never fill it
        answer = self._run(known).session.keys(sa1, self._site.now())
        return self._leave(known, 0, "keys", answer)

    def _kem(self, control: bytes) -> tuple[bytes, Bytes]:
        run, sa1 = self._known_run(control)
        self._authorise(run.known)
        return self._leave(run.known, 0, "kem", run.session.kem(sa1, self._site.now()))

    def _update(self, control: bytes, body: Bytes) -> tuple[bytes, Bytes]:
        run, sa1 = self._known_run(control)
        with run.update_lock:
            self._activity.step("checking", run.plan.run_id)
            self._authorise(run.known)
            self._check_model(run.plan, body)
            begun = run.session.begin_update(sa1, model_digest(body), self._site.now())
            if isinstance(begun, Repeated):
                answer, y = begun.control, begun.y
            else:
                patients = self._patients(run.plan)
                taken = self._spend(run, begun, patients)
                vector = self._encode(run.known, begun, self._train(run, begun, body, patients))
                self._activity.step("masking", run.plan.run_id, begun.round_number, begun.purpose)
                self._follow_roster()
                self._authorise(run.known)  # a steward who paused or withdrew while it trained has the last word
                answer, y = run.session.finish_update(taken, *vector, threads=self._site.threads)
        asked = UpdateRequest.decode(sa1)
        return self._leave(run.known, asked.round_number, f"update ({asked.purpose})", answer, y)

    def _vote(self, control: bytes) -> tuple[bytes, Bytes]:
        run, sa1 = self._known_run(control)
        self._authorise(run.known)
        answer = run.session.vote(sa1, self._site.now())
        return self._leave(run.known, VoteRequest.decode(sa1).round_number, "vote", answer)

    # -- checks ----------------------------------------------------------------------------------------------------------

    def _follow_roster(self) -> None:
        """A roster that the site has taken meanwhile is in force from the next message on: whoever it leaves out shares no key
        with this site any more. Plans of the old one are refused, and all sessions and their secrets end. So do they for a site
        that left, whatever any roster says."""
        if self._site.home.left.exists():
            with self._lock:
                self._runs.clear()
            raise Refused("LEFT", f"this site left the consortium for good: {self._site.home.left}")
        data = self._site.home.roster.read_bytes()
        with self._lock:
            if data == self._roster_seen:
                return
            site, roster = self._site, self._site.home.load_roster()
            if roster.digest != site.roster.digest:
                self._activity.forget_runs()
                self._runs.clear()  # whatever comes of the new one, nothing goes on under the old
                with self._ledger_lock:  # no spend falls between the old key's last entry and the roster that lists the new one
                    key = follow(site.home, site.id, site.key, site.ledger, roster, self._time())
                    self._site = site = replace(site, key=key)
                    self._plans = _plans(site)
            self._roster_version = roster.version
            self._check_roster(roster)
            if roster.digest != site.roster.digest:
                self._site = replace(site, roster=roster)
                log.info("roster=%d state=in-force", roster.version)
            self._roster_seen = data

    def _check_roster(self, roster: Roster) -> None:
        """Whether this guard can answer under `roster`; asked of the one that it started with too."""
        site = self._site
        listed = [member for member in roster.sites if member.id == site.id]
        if not listed:
            raise Refused(
                "NOT_LISTED", f"roster version {roster.version} does not list {site.id}: the consortium removed it, ask the lead"
            )
        if listed[0].identity_key != site.key.public:
            raise Refused("ROSTER", f"roster version {roster.version} lists another key for {site.id} than it has: ask the lead")
        if split_id(roster) != split_id(site.roster):
            raise Refused("ROSTER", f"roster version {roster.version} splits patients in another way: restart the guard")

    def _verified(self, signed_bytes: bytes) -> KnownPlan:
        """The plan in a keys request, if a lead on this site's roster signed exactly these bytes and they list this site."""
        site = self._site
        signed = Signed.decode(signed_bytes, "plan")
        try:
            plan = verify_plan(signed, site.roster)
        except SignatureError as error:
            code = "ROSTER" if self._other_roster(signed) else "PLAN_SIGNATURE"
            raise Refused(code, str(error)) from error
        except DocumentError as error:
            raise Refused("PLAN_SIGNATURE", str(error)) from error
        if site.id not in plan.sites:
            raise Refused("NOT_LISTED", f"plan {plan.run_id} does not list this site")
        if unfit := version.refusal(plan.code_version, site.code_version):
            raise Refused("CODE_VERSION", f"plan {plan.run_id}: {unfit}")
        if plan.task.name not in site.tasks:
            raise Refused(
                "TASK", f"plan {plan.run_id} is for task {plan.task.name}, this site is set up for {', '.join(site.tasks)}"
            )
        return KnownPlan(signed, plan)

    def _other_roster(self, signed: Signed) -> bool:
        return signed.document(Plan).roster_digest != self._site.roster.digest

    def _authorise(self, known: KnownPlan, *, first: bool = False) -> None:
        """Policy and steward allow this plan now; asked anew at every request, so a withdrawal takes effect at once."""
        site, plan = self._site, known.plan
        if plan.roster_digest != site.roster.digest:
            raise Refused("ROSTER", f"plan {plan.run_id} was made for another roster than version {site.roster.version}")
        if site.home.paused.exists():
            raise Refused("PAUSED", "the site is paused: `wardround-site pause --off` ends it")
        policy = self._policy()
        self._check_policy(policy, known)
        if first:
            self._plans.add(known.signed)
            self._check_budget(policy, known)
        decision = self._plans.decision(known.digest)
        if decision is None and first:
            decision = self._approve_by_policy(policy, known)
        if decision is None:
            raise Refused(
                "NOT_APPROVED", f"plan {plan.run_id} waits: `wardround-site plans show {plan.run_id}`, then approve or refuse"
            )
        self._note(known, decision)
        if decision.decision == "refuse":
            raise Refused("DECLINED", f"plan {plan.run_id} was refused by the steward")
        if not decision.allows(utc(site.now())):
            raise Refused("NOT_APPROVED", f"the approval of plan {plan.run_id} ended at {decision.until}")

    def _check_policy(self, policy: Policy, known: KnownPlan) -> None:
        plan = known.plan
        for norm in (plan.privacy.clip, plan.privacy.describe_clip):
            Bound(norm, plan.privacy.grid_bits)  # refuses what the releases would refuse, before anything is charged
        try:
            objections = check_plan(policy, plan, self._site.roster)
        except (EventError, AccountingError) as error:
            raise Refused("POLICY", f"the cost of plan {plan.run_id} cannot be computed: {error}") from error
        if objections:
            with self._ledger_lock:
                self._leave_run(known, objections[0])
            raise Refused("POLICY", "; ".join(f"{item.code}: {item.detail}" for item in objections))

    def _check_budget(self, policy: Policy, known: KnownPlan) -> None:
        """A plan that would be cut off in the middle is not begun. Once begun, each round is asked for by itself, and a site whose
        budget has no room for the next one does not join an epoch: it would take a place in the threshold and never fill it."""
        site, plan = self._site, known.plan
        if site.ledger.last_round(known.digest):
            trained = site.ledger.count(known.digest, "train") >= plan.schedule.max_train
            with self._ledger_lock:
                self._check_spend(policy, known, round_spends(plan, 1, "evaluate" if trained else "train"))
        elif objections := check_plan(policy, plan, site.roster, spent=site.ledger, dates=self._dates(plan)):
            raise Refused("BUDGET", "; ".join(f"{item.code}: {item.detail}" for item in objections))

    def _check_spend(self, policy: Policy, known: KnownPlan, spends: Iterable[Spend]) -> None:
        """Under the ledger's lock: these releases fit all budgets now, or the site leaves the run and says so."""
        site, plan = self._site, known.plan
        if plan.roster_digest != site.roster.digest:  # it changed since the request was looked at, and perhaps the key with it
            raise Refused("ROSTER", f"plan {plan.run_id} was made for another roster than version {site.roster.version}")
        objection = check_spend(policy, site.ledger, spends, plan.privacy.delta, split_id(site.roster), dates=self._dates(plan))
        if objection is not None:
            self._leave_run(known, objection)
            raise Refused("BUDGET", f"{objection.code}: {objection.detail}")

    def _leave_run(self, known: KnownPlan, objection: Objection) -> None:
        """Under the ledger's lock: why a run that had begun goes on without this site, in the ledger once, until it is back."""
        ledger, plan = self._site.ledger, known.plan
        last, before = ledger.last_round(known.digest), ledger.left(known.digest)
        if not last or (before is not None and before.left == objection.code):
            return
        words = f"left the run after round {last}: {objection.sentence} {objection.detail}"
        text = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in words[:DETAIL_MOST])
        ledger.append("run-note", RunNote(known.digest, plan.run_id, LEFT + objection.code, text), self._time())
        log.warning("run=%s round=%d state=left code=%s", plan.run_id, last, objection.code)

    def _dates(self, plan: Plan) -> Dates:
        try:
            return dates(self._time(), plan.created)
        except AccountingError as error:
            raise Refused("POLICY", f"plan {plan.run_id} was made on no day: {error}") from error

    def _policy(self) -> Policy:
        policy = self._site.policy.load()
        if policy is None:
            raise Refused("NO_POLICY", f"there is no policy file at {self._site.home.policy}")
        return policy

    def _approve_by_policy(self, policy: Policy, known: KnownPlan) -> Approval | None:
        """None where the site's rules leave it to a person, as they always do for a release without noise."""
        site = self._site
        if waits := approves(policy, known.plan, site.roster):
            log.info("run=%s state=waiting detail=%s", known.plan.run_id, waits)
            return None
        approval = Approval(known.digest, site.id, "approve", "", BY_POLICY, utc(site.now()))
        return self._plans.decide_first(approval, site.key)

    def _note(self, known: KnownPlan, decision: Approval) -> None:
        """The decision that is in force goes to the ledger, once for each guard process and decision."""
        plan, by = known.plan, "policy" if decision.reason == BY_POLICY else "steward"
        with self._ledger_lock:
            before = self._noted.get(known.digest)
            if before == decision:
                return
            if decision.decision != "refuse":
                cost = epsilon_charged(plan, interval=ENFORCE_INTERVAL) if plan.private else NOT_PRIVATE
                approved = PlanApproved(known.digest, plan.run_id, plan.lead, by, decision.until, plan.privacy.delta, cost)
                self._site.ledger.append("plan-approved", approved, self._time())
            elif before is None:
                refused = PlanRefused(known.digest, plan.run_id, plan.lead, by, "DECLINED", decision.reason)
                self._site.ledger.append("plan-refused", refused, self._time())
            else:
                withdrawn = Withdrawn(known.digest, plan.run_id, decision.reason)
                self._site.ledger.append("withdrawn", withdrawn, self._time())
            self._noted[known.digest] = decision

    def _time(self) -> datetime:
        return datetime.fromtimestamp(self._site.now(), tz=UTC)

    def _run(self, known: KnownPlan) -> Run:
        """The session of this plan; a restarted guard starts it from the ledger's last round and waits for a new epoch."""
        with self._lock:
            if known.digest not in self._runs:
                session = SiteSession(
                    Context.of(self._site.roster, known.plan, known.digest),
                    self._site.id,
                    self._site.key,
                    self._site.ledger.last_round(known.digest),
                    self._site.entropy,
                )
                self._runs[known.digest] = Run(known, session)
            return self._runs[known.digest]

    def _known_run(self, control: bytes) -> tuple[Run, bytes]:
        digest, sa1 = decode_request(control)
        with self._lock:
            run = self._runs.get(digest)
        if run is None:
            if self._plans.get(digest) is not None:
                raise Refused("EPOCH", "this guard was restarted: its keys are gone, the run needs a new epoch")
            raise Refused("UNKNOWN_PLAN", f"no plan with digest {digest.hex()[:16]}")
        return run, sa1

    def _check_model(self, plan: Plan, body: Bytes) -> None:
        vector = np.frombuffer(body, dtype="<f4") if len(body) % 4 == 0 else np.zeros(0, dtype="<f4")
        parts = range(0, vector.size, MODEL_PART)
        if vector.size != plan.model_size or not all(np.isfinite(vector[at : at + MODEL_PART]).all() for at in parts):
            raise Refused("MODEL", f"model of {len(body)} bytes, the plan's has {4 * plan.model_size}; all values must be finite")

    # -- a round ---------------------------------------------------------------------------------------------------------

    def _patients(self, plan: Plan) -> Population | None:
        """Whose data this round will be about, asked before anything is charged. Raises `TrainerError` if the data is unusable."""
        if self._site.population is None:
            return None
        return self._site.population(plan.task.name, float(min(plan.deadlines.update_s, TRAINING_MOST_S)))

    def _write_down(self, task: str, patients: Population) -> None:
        """Under the ledger's lock: other patients than before are in the ledger before anything is computed about them."""
        if how := self._populations.record(task, patients, self._site.ledger, self._time()):
            log.info("task=%s state=population-changed how=%s", task, ",".join(how))

    def _spend(self, run: Run, asked: Asked, patients: Population | None = None) -> Taken:
        """Check the plan's and the policy's limits, take the round, book the spend: durable before anything is computed."""
        site, plan, schedule = self._site, run.plan, run.plan.schedule
        describe = schedule.max_describe if plan.statistics else 0  # nothing to release, so nothing to charge
        maxima = {"describe": describe, "train": schedule.max_train, "evaluate": schedule.max_evaluate}
        spends = round_spends(plan, asked.round_number, asked.purpose)
        draws = asked.purpose == "train" and bool(once_spends(plan)) and not self._count_charged(run.known)
        if draws:
            spends = aggregate([*spends, *once_spends(plan)])  # with the first round that may draw it; repeated from then on
        if run.unfit is not None:
            raise Refused(run.unfit.code, f"as in an earlier round: {run.unfit.detail}")
        with self._ledger_lock:
            if site.ledger.count(run.known.digest, asked.purpose) >= maxima[asked.purpose]:
                raise Refused("LIMIT", f"plan {plan.run_id} allows {maxima[asked.purpose]} rounds to {asked.purpose}")
            policy = self._policy()
            if objection := check_epoch(policy, plan, asked.sites):
                raise Refused("POLICY", f"{objection.code}: {objection.detail}")
            self._check_spend(policy, run.known, spends)
            if patients is not None:
                self._write_down(plan.task.name, patients)
            taken = run.session.take(asked)
            site.ledger.spend(spend_details(run.known, asked, site), spends, self._time())
            if draws:
                self._once.charged(run.known.digest)
        privacy = plan.privacy.mode if plan.private else "NOT-PRIVATE"
        log.info("run=%s round=%d purpose=%s state=spent privacy=%s", plan.run_id, asked.round_number, asked.purpose, privacy)
        return taken

    def _count_charged(self, known: KnownPlan) -> bool:
        """Whether the number that this plan releases again and again was charged. An older ledger, put back, has not."""
        return self._once.known(known.digest) and self._site.ledger.count(known.digest, "train") > 0

    def _train(self, run: Run, asked: Asked, model: Bytes, patients: Population | None = None) -> Result:
        plan, number, limit_s = run.plan, asked.round_number, float(min(run.plan.deadlines.update_s, TRAINING_MOST_S))
        self._activity.step("training", plan.run_id, number, asked.purpose, limit_s=limit_s)
        request = said().get("request", "")
        try:
            job = Job(plan, self._site.id, number, asked.purpose, model, patients.digest if patients else b"", request)
            return self._site.train(job, limit_s)
        except Refused as refusal:
            run.unfit = refusal
            raise

    def _encode(self, known: KnownPlan, asked: Asked, result: Result) -> tuple[HeaderWords, Encoded]:
        plan, n = known.plan, len(asked.sites)
        fields = header_fields(plan, asked.round_number, asked.purpose)
        expected = (sum(item.length for item in fields), body_length(plan, asked.purpose))
        if (result.header.size, result.body.size) != expected:
            raise TrainerError(f"the trainer gave {(result.header.size, result.body.size)} values, the plan has {expected}")
        if plan.privacy.distributed:  # sum and share of the noise are whole steps already, and stay them
            steps = _whole(result.header).copy()
            if PATIENTS in fields:
                steps[0] = int(self._once.keep(known.digest, float(steps[0])))
            return encode_header_steps(steps, n), WholeSteps(_whole(result.body), n=n, ring_bits=plan.ring_bits)
        values = np.array(result.header, np.float64)
        if PATIENTS in fields:
            values[0] = self._once.keep(known.digest, float(values[0]))
        weight, clip, entropy = plan.weight(self._site.id), plan.coordinate_clip, self._site.entropy
        body = _real(result.body)
        return encode_header(values, n), Update(body, weight=weight, clip=clip, n=n, entropy=entropy, ring_bits=plan.ring_bits)

    # -- what leaves -----------------------------------------------------------------------------------------------------

    def _leave(self, known: KnownPlan, round_number: int, kind: str, answer: bytes, y: Bytes = b"") -> tuple[bytes, Bytes]:
        """Every answer passes here, a repeated one too: what is not in the manifest does not leave, and no update and no vote
        of which the ledger does not know how far the manifest went with it."""
        plan, control, now = known.plan, encode_answer(answer), utc(self._site.now())
        parts = [part(MESSAGE, control)]
        if len(y):
            sha256 = Upload.decode(answer).y_digest.hex()  # of these very bytes, as they were masked
            parts.append(Part("masked header and body", _shape(plan, round_number, kind), len(y), sha256, masked=True))

        def link(tip: Tip) -> None:
            entry = Egress(plan.run_id, known.digest, round_number, kind, tip.lines, tip.head)
            self._site.ledger.append("egress", entry, self._time())

        self._egress.record(
            plan.run_id,
            plan=known.digest,
            round_number=round_number,
            kind=kind,
            time=now,
            parts=tuple(parts),
            link=link if len(y) or kind == VOTE else None,
        )
        log.info("run=%s round=%d answer=%s bytes=%d", plan.run_id, round_number, kind.split()[0], len(control) + len(y))
        phase, purpose = kind.split()[0], kind.partition("(")[2].rstrip(")")
        self._activity.answered(phase, plan.run_id, round_number, purpose, limit_s=_patience_s(plan, phase))
        return control, y

    def _refuse(
        self, code: str, sites: tuple[str, ...], correlation: str, asked: tuple[str, bytes], detail: str
    ) -> tuple[bytes, bytes]:
        """`asked`: kind and control bytes of the request."""
        shown = _printable(detail)
        kind = asked[0] if asked[0] in KINDS else "?"
        log.warning("refused=%s correlation=%s kind=%s detail=%s", code, correlation, kind, shown)
        self._activity.refused(code, correlation, kind)
        said = encode_refusal(Refusal(code, sites, correlation))
        self._list_refusal(code, asked, said)
        return said, b""

    def _list_refusal(self, code: str, asked: tuple[str, bytes], said: bytes) -> None:
        """In the manifest of the run it is about. One that cannot be listed leaves all the same: it is how this site says that
        its disk is full, and it holds no more than a code, site ids and a correlation id."""
        run_id, plan, round_number = NO_RUN, "", 0
        try:
            with contextlib.suppress(EncodingError, DocumentError):
                digest, round_number = _about(*asked)
                if known := self._plans.get(digest):  # verified when it came: no name of a file is a stranger's word
                    run_id, plan = known.plan.run_id, digest.hex()
            now = utc(self._site.now())
            self._egress.refused(run_id, plan=plan, round_number=round_number, code=code, time=now, data=said)
        except (OSError, ConsortiumError) as error:
            log.error("refused=%s state=not-listed detail=%s", code, place_of(error))  # noqa: TRY400 - no text


def _plans(site: Site) -> PlanStore:
    return PlanStore(site.home.plans, site.id, site.key.public, site.home.retired_keys())


def _printable(detail: str) -> str:
    """For the log: what is quoted there may come from outside."""
    return "".join(letter if letter.isprintable() else "?" for letter in detail[:DETAIL_MOST])


def _patience_s(plan: Plan, phase: str) -> float:
    """How long the coordinator waits for the others before it goes on; 0 where nothing is being waited for."""
    limits = plan.deadlines
    return float(min({"keys": limits.keys_s, "kem": 0, "update": limits.update_s, "vote": 0}[phase], TRAINING_MOST_S))


def _about(kind: str, control: bytes) -> tuple[bytes, int]:
    """Digest of the plan that a request names, and its round; 0 where it names none. Raises `EncodingError`."""
    if kind == "sa1_keys":
        return Signed.decode(decode_keys_request(control)[0], "plan").digest, 0
    digest, sa1 = decode_request(control)
    with contextlib.suppress(SecaggError):
        if kind == "sa1_update":
            return digest, UpdateRequest.decode(sa1).round_number
        if kind == "sa1_vote":
            return digest, VoteRequest.decode(sa1).round_number
    return digest, 0


def _real(values: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
    """As it is: an update may be large, and float32 too."""
    if values.dtype == np.int64:
        raise TrainerError("the trainer gave whole steps, the plan's updates are real numbers")
    return cast("NDArray[np.float64]", values)


def _whole(values: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.int64]:
    if values.dtype != np.int64:
        raise TrainerError(f"the trainer gave {values.dtype}, a share of a sum is int64")
    return np.asarray(values, np.int64)


def _shape(plan: Plan, round_number: int, kind: str) -> str:
    purpose = kind.partition("(")[2].rstrip(")")
    fields = ", ".join(f"{item.name}[{item.length}]" for item in header_fields(plan, round_number, purpose))
    return f"header: count[1]{', ' if fields else ''}{fields}; body: update[{body_length(plan, purpose)}]"


def spend_details(known: KnownPlan, asked: Asked, site: Site) -> SpendDetails:
    """What the ledger keeps of one round beside its mechanisms: enough for anybody to recompute and to compare."""
    plan = known.plan
    return SpendDetails(
        run_id=plan.run_id,
        plan_digest=known.digest,
        round=asked.round_number,
        purpose=asked.purpose,
        delta=plan.privacy.delta,
        split_id=split_id(site.roster),
        clip={"describe": plan.privacy.describe_clip, "train": plan.privacy.clip, "evaluate": 1.0}[asked.purpose],
        grid_bits=plan.privacy.grid_bits,
        normaliser=plan.privacy.sample_rate * plan.participant(site.id).declared_patients if asked.purpose == "train" else 1.0,
        sampler="all patients" if plan.privacy.sample_rate == 1.0 or asked.purpose != "train" else SAMPLER_NAME,
        rng=GRID_NAME if plan.private else "none",
        code_version=plan.code_version,
        model_hash=asked.model_hash,
    )
