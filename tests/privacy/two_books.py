"""One run of four hospitals in both books: the coordinator's folder, written with its own journal, and four signed ledgers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from consortium.documents import Signed
from consortium.identity import SigningKey
from consortium.plan import Plan, sign_plan
from consortium.roster import Founder, Roster, founders_fingerprint, sign_roster
from privacy.entries import Egress, PlanApproved, SpendDetails
from privacy.events import Spend
from privacy.ledger import Ledger
from privacy.terms import round_spends, split_id
from server.journal import Dropped, EpochReady, Event, Journal, RoundAttempt, RoundDone, RunFinished, RunStarted

from .conftest import LEAD, NOW

SITES = ("a", "b", "c", "d")
ROUNDS = {1: "describe", 2: "train", 3: "train", 4: "train"}
PINNED = founders_fingerprint((Founder("founder", LEAD.public),), 1)


def model_of(number: int) -> bytes:
    return bytes([number]) * 32


def key_of(site: str) -> SigningKey:
    return SigningKey.from_seed(site.encode() * 32)


@dataclass
class Told:
    """What makes the two books differ; by default they agree. `lost`: round -> sites that are not in its sum, and the code."""

    unjournaled: Collection[int] = ()
    uncharged: Collection[tuple[str, int]] = ()
    models: Mapping[tuple[str, int], bytes] = field(default_factory=dict)
    spends: Mapping[tuple[str, int], tuple[Spend, ...]] = field(default_factory=dict)
    details: Mapping[str, object] = field(default_factory=dict)
    lost: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    left: Collection[tuple[str, int]] = ()
    more: tuple[Event, ...] = ()


@dataclass(frozen=True)
class TwoBooks:
    folder: Path
    roster: Roster
    plan: Plan

    @property
    def run(self) -> Path:
        return self.folder / "runs" / self.plan.run_id

    def ledger(self, site: str) -> Path:
        return self.folder / f"{site}.jsonl"

    @property
    def ledgers(self) -> list[Path]:
        return [self.ledger(site) for site in SITES]

    def write(self, told: Told | None = None) -> "TwoBooks":
        told = told or Told()
        self.write_run(told)
        for site in SITES:
            self.write_ledger(site, told)
        return self

    def write_run(self, told: Told) -> None:
        self.run.mkdir(parents=True)
        (self.run / "plan.signed").write_bytes(sign_plan(self.plan, LEAD).encode())
        (self.run / "roster.signed").write_bytes(sign_roster(self.roster, "founder", LEAD).encode())
        with Journal(self.run / "events.jsonl", clock=lambda: NOW) as journal:
            journal.append(RunStarted(self.plan.run_id, self.plan.digest, SITES, True))
            journal.append(EpochReady(1, SITES, 3, (), 0.5))
            for number, purpose in ROUNDS.items():
                if number not in told.unjournaled:
                    self._round(journal, number, purpose, told)
            for event in told.more:
                journal.append(event)
            journal.append(RunFinished(model_of(9), 12.0))

    def _round(self, journal: Journal, number: int, purpose: str, told: Told) -> None:
        lost = told.lost.get(number, {})
        survivors = tuple(site for site in SITES if site not in lost)
        dropped = tuple(Dropped(site, "update", code) for site, code in lost.items() if code)
        journal.append(RoundAttempt(number, purpose, 1, model_of(number)))
        journal.append(RoundDone(number, purpose, survivors, dropped, (), 100, 200, (), ()))

    def write_ledger(self, site: str, told: Told) -> None:
        names = {"consortium": self.roster.consortium, "site": site, "population": "ms-clinic", "split_id": split_id(self.roster)}
        with Ledger.create(self.ledger(site), key_of(site), now=NOW, **names) as ledger:
            approved = PlanApproved(self.plan.digest, self.plan.run_id, self.plan.lead, "steward", "", self.plan.privacy.delta, 3.0)
            ledger.append("plan-approved", approved, NOW)
            for number, purpose in ROUNDS.items():
                if (site, number) not in told.uncharged:
                    self._charge(ledger, site, number, purpose, told)
                if (site, number) in told.left:
                    self._leave(ledger, number, purpose)

    def _charge(self, ledger: Ledger, site: str, number: int, purpose: str, told: Told) -> None:
        spends = told.spends.get((site, number), round_spends(self.plan, number, purpose))
        details = replace(self.details(site, number, purpose), **told.details)  # type: ignore[arg-type]
        details = replace(details, model_hash=told.models.get((site, number), model_of(number)))
        ledger.spend(details, spends, NOW + timedelta(minutes=number))

    def _leave(self, ledger: Ledger, number: int, purpose: str) -> None:
        left = Egress(self.plan.run_id, self.plan.digest, number, f"update ({purpose})", number, bytes([number]) * 32)
        ledger.append("egress", left, NOW + timedelta(minutes=number))

    def details(self, site: str, number: int, purpose: str) -> SpendDetails:
        """As a guard writes them."""
        terms = self.plan.privacy
        return SpendDetails(
            run_id=self.plan.run_id,
            plan_digest=self.plan.digest,
            round=number,
            purpose=purpose,
            delta=terms.delta,
            split_id=split_id(self.roster),
            clip={"describe": terms.describe_clip, "train": terms.clip, "evaluate": 1.0}[purpose],
            grid_bits=terms.grid_bits,
            normaliser=terms.sample_rate * self.plan.participant(site).declared_patients if purpose == "train" else 1.0,
            sampler="all patients",
            rng="aes256ctr-boxmuller53-grid/1",
            code_version=self.plan.code_version,
            model_hash=model_of(number),
        )


def signed_plan(run: Path) -> Signed:
    return Signed.decode((run / "plan.signed").read_bytes(), "plan")
