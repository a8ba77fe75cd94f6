"""The guard answers four kinds of message and refuses everything else; nothing but masked sums and protocol messages leaves it.

It trusts nobody outside this hospital: every request is checked against the roster pinned here, the plan a lead signed, this
site's policy and approval, and this site's own ledger. The spend of a round is on disk before the round's training starts.
Without a policy file, a usable ledger, an approval: no training (fail closed).
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from client.clock import utc
from client.egress import EgressManifest, part
from client.errors import Refused, SiteError, TrainerError
from client.home import Home
from client.plans import KnownPlan, PlanStore
from client.policy_file import PolicyFile
from client.trainer import Job, Result
from client.trainer_process import Train, place_of
from consortium.approval import Approval
from consortium.documents import Signed
from consortium.errors import ConsortiumError, DocumentError, EncodingError, SignatureError
from consortium.identity import SigningKey
from consortium.plan import PURPOSES, Plan, body_length, header_fields, verify_plan
from consortium.roster import Roster
from consortium.wire import Refusal, decode_keys_request, decode_request, encode_answer, encode_refusal
from privacy.errors import LedgerError, PrivacyError
from privacy.events import Spend
from privacy.ledger import Ledger
from privacy.policy import check_plan, check_spend
from privacy.terms import round_spends
from secagg.context import Context
from secagg.encoding import encode_body, encode_header
from secagg.errors import SecaggError
from secagg.model import model_digest
from secagg.site import Repeated, SiteSession, Taken
from tasks.errors import TaskError

log = logging.getLogger("wardround.guard")

Entropy = Callable[[int], bytes]


@dataclass
class Run:
    """One plan in force at this site: its protocol session lives here and nowhere else, in memory."""

    known: KnownPlan
    session: SiteSession
    update_lock: threading.Lock = field(default_factory=threading.Lock)  # votes must not wait for a training

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
    task: str
    code_version: str
    entropy: Entropy = field(default=os.urandom, repr=False)
    now: Callable[[], float] = time.time


class Guard:
    """Thread-safe: `answer` may be called from any number of threads."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._plans = PlanStore(site.home.plans, site.id, site.key.public)
        self._egress = EgressManifest(site.home.egress)
        self._runs: dict[bytes, Run] = {}
        self._lock = threading.Lock()  # over the table of runs
        self._ledger_lock = threading.Lock()  # budget check and spend are one act, over all runs
        self._state = "idle"

    def answer(self, kind: str, control: bytes, body: bytes) -> tuple[bytes, bytes]:
        """(control, body) of the reply; a refusal where anything at all is not in order. Never raises."""
        correlation = self._site.entropy(8).hex()
        handlers = {"sa1_keys": self._keys, "sa1_kem": self._kem, "sa1_update": self._update, "sa1_vote": self._vote}
        try:
            if kind not in handlers:
                raise Refused("UNKNOWN_KIND", "message of another kind")  # noqa: TRY301 - one place turns all refusals into bytes
            return handlers[kind](control, body)
        except Refused as refusal:
            return self._refuse(refusal.code, refusal.sites, correlation, kind, refusal.detail)
        except SecaggError as error:
            return self._refuse(error.code, error.sites, correlation, kind, str(error))
        except EncodingError as error:
            return self._refuse("UNDECODABLE", (), correlation, kind, str(error))
        except LedgerError as error:
            return self._refuse("LEDGER", (), correlation, kind, str(error))
        except (TrainerError, TaskError) as error:
            return self._refuse("TRAINING", (), correlation, kind, str(error))
        except (SiteError, ConsortiumError, PrivacyError) as error:
            return self._refuse("INTERNAL", (), correlation, kind, str(error))
        except Exception as error:
            return self._refuse("INTERNAL", (), correlation, kind, place_of(error))

    def status(self) -> dict[str, str]:
        """What the health check and `wardround-site status` show; no data, no counts."""
        return {"site": self._site.id, "state": self._state, "runs": str(len(self._runs)), "task": self._site.task}

    # -- the four kinds ------------------------------------------------------------------------------------------------

    def _keys(self, control: bytes, body: bytes) -> tuple[bytes, bytes]:
        signed_bytes, sa1 = decode_keys_request(control)
        known = self._verified(signed_bytes)
        self._authorise(known, first=True)
        answer = self._run(known).session.keys(sa1, self._site.now())
        return self._leave(known.plan, 0, "keys", answer)

    def _kem(self, control: bytes, body: bytes) -> tuple[bytes, bytes]:
        run, sa1 = self._known_run(control)
        self._authorise(run.known)
        return self._leave(run.plan, 0, "kem", run.session.kem(sa1, self._site.now()))

    def _update(self, control: bytes, body: bytes) -> tuple[bytes, bytes]:
        run, sa1 = self._known_run(control)
        plan = run.plan
        with run.update_lock:
            self._authorise(run.known)
            self._check_model(plan, body)
            begun = run.session.begin_update(sa1, model_digest(body), self._site.now())
            if isinstance(begun, Repeated):
                return encode_answer(begun.control), begun.y
            self._spend(run, begun, model_digest(body))
            self._state = f"training {plan.run_id} round {begun.round}"
            try:
                job = Job(plan, self._site.id, begun.round, begun.purpose, body)
                result = self._site.train(job, float(plan.deadlines.update_s))
            finally:
                self._state = "idle"
            header, masked_body = self._encode(run, begun, result)
            answer, y = run.session.finish_update(begun, header, masked_body)
        return self._leave(plan, begun.round, f"update ({begun.purpose})", answer, y)

    def _vote(self, control: bytes, body: bytes) -> tuple[bytes, bytes]:
        run, sa1 = self._known_run(control)
        self._authorise(run.known)
        answer = run.session.vote(sa1, self._site.now())
        return self._leave(run.plan, run.session.last_round, "vote", answer)

    # -- checks ----------------------------------------------------------------------------------------------------------

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
        if plan.code_version != site.code_version:
            raise Refused(
                "CODE_VERSION", f"plan {plan.run_id} is for version {plan.code_version}, this site runs {site.code_version}"
            )
        if plan.task.name != site.task:
            raise Refused("TASK", f"plan {plan.run_id} is for task {plan.task.name}, this site's data is mapped to {site.task}")
        return KnownPlan(signed, plan)

    def _other_roster(self, signed: Signed) -> bool:
        return signed.document(Plan).roster_digest != self._site.roster.digest

    def _authorise(self, known: KnownPlan, *, first: bool = False) -> None:
        """Policy and steward allow this plan now; asked anew at every request, so a withdrawal takes effect at once."""
        site, plan = self._site, known.plan
        if site.home.paused.exists():
            raise Refused("PAUSED", "the site is paused: `wardround-site pause --off` ends it")
        policy = site.policy.load()
        if policy is None:
            raise Refused("NO_POLICY", f"there is no policy file at {site.home.policy}")
        if objections := check_plan(policy, plan):
            raise Refused("POLICY", "; ".join(f"{item.code}: {item.detail}" for item in objections))
        if first:
            self._plans.add(known.signed)
        decision = self._plans.decision(known.digest)
        if decision is None and policy.auto_approve and first:
            decision = self._approve_by_policy(known)
        if decision is None:
            raise Refused(
                "NOT_APPROVED", f"plan {plan.run_id} waits: `wardround-site plans show {plan.run_id}`, then approve or refuse"
            )
        if decision.decision == "refuse":
            raise Refused("DECLINED", f"plan {plan.run_id} was refused by the steward")
        if not decision.allows(utc(site.now())):
            raise Refused("NOT_APPROVED", f"the approval of plan {plan.run_id} ended at {decision.until}")

    def _approve_by_policy(self, known: KnownPlan) -> Approval:
        now = utc(self._site.now())
        approval = Approval(
            known.digest, self._site.id, "approve", "", "by policy: signer, task and epsilon within its limits", now
        )
        with self._ledger_lock:
            self._site.ledger.append("plan-approved", approval_entry(approval, known.plan), self._site.now())
        self._plans.decide(approval, self._site.key)
        return approval

    def _run(self, known: KnownPlan) -> Run:
        """The session of this plan; a restarted guard starts it from the ledger's last round and waits for a new epoch."""
        with self._lock:
            if known.digest not in self._runs:
                session = SiteSession(
                    self._context(known),
                    self._site.id,
                    self._site.key,
                    self._site.ledger.last_round(known.digest),
                    self._site.entropy,
                )
                self._runs[known.digest] = Run(known, session)
            return self._runs[known.digest]

    def _context(self, known: KnownPlan) -> Context:
        roster, plan = self._site.roster, known.plan
        return Context(
            roster_digest=roster.digest,
            plan_digest=known.digest,
            identities={site: roster.member(site).identity_key for site in plan.sites},
            colluders=roster.colluders,
            minimum_cohort=roster.minimum_cohort,
            max_round=plan.schedule.max_round,
        )

    def _known_run(self, control: bytes) -> tuple[Run, bytes]:
        digest, sa1 = decode_request(control)
        with self._lock:
            run = self._runs.get(digest)
        if run is None:
            if self._plans.get(digest) is not None:
                raise Refused("EPOCH", "this guard was restarted: its keys are gone, the run needs a new epoch")
            raise Refused("UNKNOWN_PLAN", f"no plan with digest {digest.hex()[:16]}")
        return run, sa1

    def _check_model(self, plan: Plan, body: bytes) -> None:
        vector = np.frombuffer(body, dtype="<f4") if len(body) % 4 == 0 else np.zeros(0, dtype="<f4")
        if vector.size != plan.model_size or not np.isfinite(vector).all():
            raise Refused("MODEL", f"model of {len(body)} bytes, the plan's has {4 * plan.model_size}; all values must be finite")

    # -- a round ---------------------------------------------------------------------------------------------------------

    def _spend(self, run: Run, taken: Taken, model: bytes) -> None:
        """Check the plan's and the policy's limits, take the round, book the spend: durable before anything is computed."""
        site, plan = self._site, run.plan
        if taken.purpose not in PURPOSES:
            raise Refused("ENCODING", f"purpose {taken.purpose!r}")
        spends = round_spends(plan, taken.round, taken.purpose)
        with self._ledger_lock:
            allowed = {
                "describe": plan.schedule.max_describe,
                "train": plan.schedule.max_train,
                "evaluate": plan.schedule.max_evaluate,
            }[taken.purpose]
            if site.ledger.count(run.known.digest, taken.purpose) >= allowed:
                raise Refused("LIMIT", f"plan {plan.run_id} allows {allowed} rounds to {taken.purpose}")
            policy = site.policy.load()
            if policy is None:
                raise Refused("NO_POLICY", f"there is no policy file at {site.home.policy}")
            if objection := check_spend(policy, site.ledger, spends, plan.privacy.delta):
                raise Refused("BUDGET", objection.detail)
            run.session.take(taken)
            site.ledger.append("spend", spend_entry(run.known, taken, spends, model), site.now())
        log.info("run=%s round=%d purpose=%s state=spent", plan.run_id, taken.round, taken.purpose)

    def _encode(self, run: Run, taken: Taken, result: Result) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        plan, n = run.plan, run.session.epoch_size
        fields = header_fields(plan, taken.round, taken.purpose)
        expected = (sum(item.length for item in fields), body_length(plan, taken.purpose))
        if (result.header.size, result.body.size) != expected:
            raise TrainerError(f"the trainer gave {(result.header.size, result.body.size)} values, the plan has {expected}")
        header = encode_header(result.header, n)
        body = encode_body(
            result.body, weight=plan.weight(self._site.id), clip=plan.coordinate_clip, n=n, entropy=self._site.entropy
        )
        return header, body

    # -- what leaves -----------------------------------------------------------------------------------------------------

    def _leave(self, plan: Plan, round_number: int, kind: str, answer: bytes, y: bytes = b"") -> tuple[bytes, bytes]:
        control = encode_answer(answer)
        parts = [part("protocol message", control)]
        if y:
            parts.append(part("masked header and body", y, shape=_shape(plan, round_number, kind), masked=True))
        self._egress.record(plan.run_id, round_number=round_number, kind=kind, time=utc(self._site.now()), parts=tuple(parts))
        log.info("run=%s round=%d answer=%s bytes=%d", plan.run_id, round_number, kind.split()[0], len(control) + len(y))
        return control, y

    def _refuse(self, code: str, sites: tuple[str, ...], correlation: str, kind: str, detail: str) -> tuple[bytes, bytes]:
        log.warning("refused=%s correlation=%s kind=%s detail=%s", code, correlation, kind if kind.isascii() else "?", detail)
        return encode_refusal(Refusal(code, sites, correlation)), b""


def _shape(plan: Plan, round_number: int, kind: str) -> str:
    purpose = kind.partition("(")[2].rstrip(")")
    fields = ", ".join(f"{item.name}[{item.length}]" for item in header_fields(plan, round_number, purpose))
    return f"header: count[1]{', ' if fields else ''}{fields}; body: update[{body_length(plan, purpose)}]"


def approval_entry(approval: Approval, plan: Plan) -> dict[str, str]:
    return {
        "run_id": plan.run_id,
        "plan": approval.plan_digest.hex(),
        "decision": approval.decision,
        "until": approval.until,
        "reason": approval.reason,
        "lead": plan.lead,
    }


def spend_entry(known: KnownPlan, taken: Taken, spends: tuple[Spend, ...], model: bytes) -> dict[str, object]:
    """What the ledger keeps of one round: the mechanisms, not the epsilon, so that anybody can recompute it."""
    plan = known.plan
    return {
        "run_id": plan.run_id,
        "plan": known.digest.hex(),
        "round": taken.round,
        "purpose": taken.purpose,
        "spends": [spend.to_document() for spend in spends],
        "delta": plan.privacy.delta,
        "clip": plan.privacy.clip,
        "grid_bits": plan.privacy.grid_bits,
        "sample_rate": plan.privacy.sample_rate,
        "code_version": plan.code_version,
        "model": model.hex(),
    }
