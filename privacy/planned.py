"""Did a site charge what the plans say? Each spend of a ledger against the signed plan whose digest it names. Pure.

The digest binds a ledger's line to one plan, to the letter; that plan's terms then fix every event of every round, its L2
bound, grid, normaliser and delta. A site that charged less, or for another bound, is found here. Who signed a plan only
the roster can tell: `wardround-audit round` and `compare` check that.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from consortium.plan import Plan
from privacy.entries import PlanApproved, SpendDetails, SpendRecord
from privacy.events import (
    GaussianEvent,
    NonPrivateEvent,
    PoissonGaussianEvent,
    SharedGaussianEvent,
    SharedPoissonGaussianEvent,
    Spend,
    aggregate,
)
from privacy.terms import once_spends, round_spends

_SHORT: Final = 16  # hex digits of a digest in a sentence
_DIGITS: Final = 12  # enough that two numbers that differ look different


@dataclass
class PlanCheck:
    """What is known of the plans' rounds while a ledger is read. `site`: as the ledger's first entry names it."""

    plans: Mapping[bytes, Plan]
    site: str
    drawn: set[bytes] = field(default_factory=set)  # plans whose once-only releases were charged
    counts: Counter[tuple[bytes, str]] = field(default_factory=Counter)
    strangers: set[bytes] = field(default_factory=set)

    def approved(self, content: PlanApproved) -> list[str]:
        """What an approval contradicts its plan in."""
        plan = self.plans.get(content.plan_digest)
        if plan is None or (content.run_id, content.delta) == (plan.run_id, plan.privacy.delta):
            return []
        return [
            f"approves run {content.run_id} at delta {content.delta:.3g}, its plan is run {plan.run_id} at {plan.privacy.delta:.3g}"
        ]

    def spent(self, record: SpendRecord) -> list[str]:
        """What a spend contradicts its plan in, in words; a plan that was not given is said once."""
        digest = record.details.plan_digest
        if (plan := self.plans.get(digest)) is None:
            first = digest not in self.strangers
            self.strangers.add(digest)
            return [self._unknown(record.details)] if first else []
        if self.site not in plan.sites:
            return [f"run {plan.run_id} has no site {self.site}: this site had nothing to charge for it"]
        self.counts[digest, record.details.purpose] += 1
        return [*self._round(plan, record.details), *self._terms(plan, record.details), *self._charge(plan, record)]

    def _unknown(self, details: SpendDetails) -> str:
        named = [plan for plan in self.plans.values() if plan.run_id == details.run_id]
        words = f"names plan {details.plan_digest.hex()[:_SHORT]} for run {details.run_id}"
        if named:
            return f"{words}, but the plan that was given for it is {named[0].digest.hex()[:_SHORT]}: charged by other terms"
        return f"{words}, which was not given: add its plan.signed to --plan"

    def _round(self, plan: Plan, details: SpendDetails) -> list[str]:
        schedule, purpose = plan.schedule, details.purpose
        most = {"describe": schedule.max_describe, "train": schedule.max_train, "evaluate": schedule.max_evaluate}[purpose]
        found = []
        if details.round > schedule.max_round:
            found.append(f"round {details.round} of run {plan.run_id}, whose plan ends with round {schedule.max_round}")
        if self.counts[plan.digest, purpose] == most + 1:
            found.append(f"run {plan.run_id} has more rounds to {purpose} than the {most} that its plan allows")
        return found

    def _terms(self, plan: Plan, details: SpendDetails) -> list[str]:
        expected = expected_details(plan, self.site, details.purpose)
        return [
            f"{name} is {getattr(details, name)!r}, the plan of run {plan.run_id} says {value!r}"
            for name, value in expected.items()
            if getattr(details, name) != value
        ]

    def _charge(self, plan: Plan, record: SpendRecord) -> list[str]:
        """Exactly the round's events; what is drawn once per run comes with the first training round, and again after a loss."""
        details, once = record.details, once_spends(plan)
        drawing = details.purpose == "train" and bool(once)
        due = round_spends(plan, details.round, details.purpose)
        allowed = [aggregate([*due, *once])] if drawing else []
        if not drawing or plan.digest in self.drawn:
            allowed.append(due)
        charged = aggregate(record.spends)
        if drawing and charged == allowed[0]:
            self.drawn.add(plan.digest)
        if charged in allowed:
            return []
        return [f"round {details.round} of run {plan.run_id} charges {_words(charged)}; its plan asks for {_words(allowed[0])}"]


def expected_details(plan: Plan, site: str, purpose: str) -> dict[str, object]:
    """What a spend's details must say for this plan and purpose, whatever the round."""
    terms = plan.privacy
    return {
        "run_id": plan.run_id,
        "delta": terms.delta,
        "clip": {"describe": terms.describe_clip, "train": terms.clip, "evaluate": 1.0}[purpose],
        "grid_bits": terms.grid_bits,
        "normaliser": terms.sample_rate * plan.participant(site).declared_patients if purpose == "train" else 1.0,
        "code_version": plan.code_version,
    }


def by_digest(plans: Iterable[Plan]) -> dict[bytes, Plan]:
    return {plan.digest: plan for plan in plans}


def spend_text(spend: Spend, digits: int = 4) -> str:
    """One release in words, its numbers to so many digits."""
    times = f"{spend.count} x " if spend.count != 1 else ""
    match spend.event:
        case GaussianEvent(noise):
            what = f"Gaussian, noise {noise:.{digits}g}"
        case PoissonGaussianEvent(noise, rate):
            what = f"Gaussian, noise {noise:.{digits}g}, sampled {rate:.{digits}g}"
        case SharedGaussianEvent(noise, contributors):
            what = f"Gaussian share, noise {noise:.{digits}g}, at least {contributors} in a sum"
        case SharedPoissonGaussianEvent(noise, rate, contributors):
            what = f"Gaussian share, noise {noise:.{digits}g}, sampled {rate:.{digits}g}, at least {contributors} in a sum"
        case NonPrivateEvent():
            what = "NO NOISE"
    return f"{times}{what} ({spend.population.replace('_', '-')})"


def _words(spends: Sequence[Spend]) -> str:
    return "; ".join(spend_text(spend, _DIGITS) for spend in spends)
