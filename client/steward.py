"""What a data steward is told and may do, in one place for commands and page: read a plan, decide, pause, see what was spent.

A decision names a plan by its digest, is signed with the site's key, and stands in the steward's log, whoever made it and how.
"""

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from client.clock import utc
from client.config import load_config
from client.daemon import code_version
from client.errors import ConfigError
from client.home import Home
from client.logs import actions, form_of
from client.plans import KnownPlan, PlanStore
from client.policy_file import PolicyFile
from consortium.approval import Approval
from consortium.canonical import Json
from consortium.documents import to_document
from consortium.errors import DocumentError
from consortium.identity import fingerprint
from consortium.plan import PURPOSES, Plan, body_length, header_fields
from consortium.roster import Roster
from privacy.entries import RunNote
from privacy.errors import LedgerError
from privacy.periods import dates
from privacy.policy import Account, Policy, accounts, approves, check_plan
from privacy.snapshot import read_snapshot
from privacy.verify import Figure, Report, verify_ledger
from secagg.numbers import honest_in_sum, limits, weakest_epoch

Decision = Literal["approve", "approve-until", "refuse"]
NO_POLICY: Final = "NO POLICY FILE: nothing trains"
NO_OBJECTION: Final = "nothing speaks against it"
COUNTED: Final = (
    "released with noise of standard deviation {:g}, drawn once for this run; sums over different sites give this noised number "
    "away, so it is charged as exposed"
)
ALWAYS_NEW: Final = frozenset({"run_id", "created"})  # of every plan: no news


def plan_store(home: Home) -> PlanStore:
    return PlanStore(home.plans, load_config(home).site, home.load_identity().public, home.retired_keys())


def runs_left(home: Home) -> Mapping[bytes, RunNote]:
    """The runs that this site left and did not come back to, by their plan. Without a ledger, none: other commands say so."""
    return read_snapshot(home.ledger, home.load_identity().public).left if home.ledger.exists() else {}


# -- one plan ------------------------------------------------------------------------------------------------------------


def plan_row(store: PlanStore, known: KnownPlan) -> dict[str, object]:
    decision, plan = store.decision(known.digest), known.plan
    return {
        "run": plan.run_id,
        "digest": known.digest.hex()[:16],
        "lead": plan.lead,
        "task": f"{plan.task.name} {plan.task.version}",
        "epsilon": epsilon_words(plan),
        "decision": decision.decision if decision else "waiting",
    }


def epsilon_words(plan: Plan) -> str:
    """What the whole plan costs at most, as it is charged to the budget."""
    charged = plan.privacy.epsilon_model if plan.privacy.distributed else plan.privacy.epsilon_exposed
    return f"{charged:.3f}" if plan.private else "NOT PRIVATE"


def plan_facts(home: Home, known: KnownPlan) -> dict[str, object]:
    """All that a steward should know of a plan, in words; raises what the roster, the policy or the ledger raises."""
    store, plan, roster, policy = plan_store(home), known.plan, home.load_roster(), PolicyFile(home.policy).load()
    return {
        "run": plan.run_id,
        "digest": known.digest.hex(),
        "asked by": f"{plan.lead}, {lead_key(plan, roster)}",
        "created": plan.created,
        "code version": version_words(plan),
        "task": f"{plan.task.name} {plan.task.version}",
        "columns used": ", ".join(plan.task.columns),
        "model": f"{plan.model.name}, {plan.n_parameters} parameters",
        "with": ", ".join(plan.sites),
        **_tested(plan),
        **_secrecy(plan, roster, policy.minimum_sites if policy else 0),
        "rounds": f"{plan.schedule.rounds} meant, at most {plan.schedule.max_train} answered",
        **_privacy(plan),
        **{f"leaves to {purpose}": leaves_words(plan, purpose) for purpose in PURPOSES},
        **change_facts(store, known),
        "decision": plan_row(store, known)["decision"],
        **_policy_facts(home, known, roster, policy),
    }


def lead_key(plan: Plan, roster: Roster) -> str:
    """By which key the plan's lead is known here; who asked for a plan of an earlier roster may be gone."""
    keys = {lead.id: lead.identity_key for lead in roster.leads}
    return f"fingerprint {fingerprint(keys[plan.lead])}" if plan.lead in keys else f"no lead of roster version {roster.version}"


def version_words(plan: Plan) -> str:
    """The version of the program that the plan is for, and whether it is the one installed here."""
    ours = code_version()
    return f"{plan.code_version}, the one that runs here" if plan.code_version == ours else f"{plan.code_version}; here runs {ours}"


def superseded(known: KnownPlan, roster: Roster) -> str:
    """Why nothing of this plan is answered any more, whatever anybody decides; empty for a plan of the roster in force."""
    if known.plan.roster_digest == roster.digest:
        return ""
    return f"ROSTER: made for another roster than version {roster.version}, which is in force: it is over, the lead plans anew"


def objections(home: Home, known: KnownPlan) -> list[str] | None:
    """What roster, policy and budget hold against the plan now; None without a policy, when nothing trains at all."""
    policy = PolicyFile(home.policy).load()
    if policy is None:
        return None
    if over := superseded(known, home.load_roster()):
        return [over]
    ledger = read_snapshot(home.ledger, home.load_identity().public)
    begun, days = known.digest in ledger.plans, dates(datetime.now(UTC), known.plan.created)
    found = check_plan(policy, known.plan, home.load_roster(), spent=None if begun else ledger, dates=None if begun else days)
    return [f"{item.code}: {item.detail}" for item in found]


def _policy_facts(home: Home, known: KnownPlan, roster: Roster, policy: Policy | None) -> dict[str, object]:
    held = objections(home, known)
    if policy is None or held is None:
        return {"policy": NO_POLICY}
    facts: dict[str, object] = {"policy and budget": "; ".join(held) or NO_OBJECTION}
    if not held:
        facts["without a steward"] = approves(policy, known.plan, roster) or "policy approves it"
    if note := runs_left(home).get(known.digest):
        facts["left"] = note.text
    return facts


def _tested(plan: Plan) -> dict[str, object]:
    """Said where no sum hides whose figures are looked at."""
    if not plan.left_out:
        return {}
    return {"MIND, figures": f"of {plan.left_out} alone, which trains nothing; the others add no patient to them"}


def _secrecy(plan: Plan, roster: Roster, minimum_sites: int) -> dict[str, object]:
    """What is behind every sum that can be opened, in the weakest epoch that this site would answer."""
    n, c, least = len(plan.sites), roster.colluders, max(roster.minimum_cohort, minimum_sites)
    honest = honest_in_sum(weakest_epoch(n, c, least), c)
    facts: dict[str, object] = {"summed": f"never fewer than {honest} honest sites, if at most {c} of {n} collude"}
    return facts | ({"mind": "; ".join(said)} if (said := limits(n, c, least)) else {})


def _privacy(plan: Plan) -> dict[str, object]:
    terms = plan.privacy
    if not plan.private:
        return {"privacy": "NOT PRIVATE: updates are masked, but the opened sums carry no noise"}
    return {
        "privacy": f"mode {terms.mode}, unit patient, neighbours add/remove one patient, delta {terms.delta:g}",
        **_epsilons(plan),
        **({"patient count": COUNTED.format(terms.count_noise)} if terms.counted else {}),
    }


def _epsilons(plan: Plan) -> dict[str, object]:
    terms, charged = plan.privacy, ": this is charged to the budget"
    exposed, model = ("", charged) if terms.distributed else (charged, "")
    holds = "given that secure aggregation holds"
    if terms.distributed:
        holds += f" and {terms.honest} honest sites add their share of the noise"
    return {
        "epsilon, one update exposed": f"{terms.epsilon_exposed:.3f} at most{exposed}",
        "epsilon, model and coordinator": f"{terms.epsilon_model:.3f} at most, {holds}{model}",
    }


def leaves_words(plan: Plan, purpose: str) -> str:
    """What a round for `purpose` sends at most, and how often."""
    schedule = plan.schedule
    most = {"describe": schedule.max_describe, "train": schedule.max_train, "evaluate": schedule.max_evaluate}[purpose]
    parts = [f"update[{length}]"] if (length := body_length(plan, purpose)) else []
    parts += [f"{item.name}[{item.length}]" for item in header_fields(plan, schedule.evaluate_every, purpose)]
    return f"{', '.join(parts)}: masked, at most {most} times; and protocol messages (keys, shares, ballots)"


# -- what is new in it ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One thing that differs: where in the plan, and its two values in words; "" where one plan does not have it."""

    what: str
    before: str
    now: str


def last_approved(store: PlanStore, known: KnownPlan) -> KnownPlan | None:
    """The plan of the same task that this site approved last, before this one."""
    found: list[tuple[str, KnownPlan]] = []
    for other in store.all():
        if other.digest == known.digest or other.plan.task.name != known.plan.task.name:
            continue
        decision = store.decision(other.digest)
        if decision is not None and decision.decision != "refuse":
            found.append((decision.decided, other))
    return max(found, key=lambda one: one[0])[1] if found else None


def changes(before: Plan, now: Plan) -> list[Change]:
    """What differs between two plans, in the order of the document."""
    old, new = dict(_flat("", to_document(before))), dict(_flat("", to_document(now)))
    names = [name for name in dict.fromkeys([*new, *old]) if name.split(".")[0] not in ALWAYS_NEW]
    return [Change(name, old.get(name, ""), new.get(name, "")) for name in names if old.get(name) != new.get(name)]


def _flat(name: str, value: Json) -> list[tuple[str, str]]:
    """Names with dots and values in words; a list of words stays together, as what was added or taken away."""
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(f"{name}.{key}".strip("."), inner)]
    if isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return [(f"{name}: {item}", "yes") for item in value]
        return [(name, "; ".join(_said(item) for item in value))]
    return [(name, _said(value))]


def _said(value: Json) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return " ".join(_said(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def change_facts(store: PlanStore, known: KnownPlan) -> dict[str, object]:
    """The same as one line for a command; nothing where no plan of this task was approved before."""
    before = last_approved(store, known)
    if before is None:
        return {}
    found = [f"{one.what} {one.before or 'no'} -> {one.now or 'no'}" for one in changes(before.plan, known.plan)]
    return {f"new since {before.plan.run_id}": "; ".join(found) or "nothing but the run"}


# -- deciding ------------------------------------------------------------------------------------------------------------


def decide(home: Home, start: str, decision: Decision, *, until: str = "", reason: str, via: str) -> KnownPlan:
    """Put a decision in force: it holds from the next message on. `start`: run id, or how the plan's digest begins.

    Raises `ConfigError` for an unknown plan, or words or a time that no approval can hold.
    """
    config, store, key = load_config(home), plan_store(home), home.load_identity()
    known = store.find(start)
    try:
        made = Approval(known.digest, config.site, decision, until, reason, utc())
    except DocumentError as error:
        raise ConfigError(str(error)) from error
    log = actions(home.actions, config.site, form_of(config.log_format))
    store.decide(made, key)
    log.info(
        "run=%s plan=%s decision=%s until=%s via=%s user=%d",
        known.plan.run_id,
        known.digest.hex()[:16],
        decision,
        until or "-",
        via,
        os.getuid(),
    )
    return known


def pause(home: Home, *, paused: bool, via: str) -> None:
    """Stop answering, or answer again, from the next message on. A full disk must not keep anybody from pausing."""
    if paused:
        home.paused.write_text(f"{utc()}\n", encoding="ascii")
    else:
        home.paused.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        config = load_config(home)
        log = actions(home.actions, config.site, form_of(config.log_format))
        log.info("state=%s via=%s user=%d", "paused" if paused else "resumed", via, os.getuid())


# -- what was spent ------------------------------------------------------------------------------------------------------


def verified_ledger(home: Home) -> tuple[bytes, Report]:
    """The ledger's whole lines as they stand now (the guard may be writing the next one), and what they say."""
    try:
        lines = home.ledger.read_bytes().rpartition(b"\n")
    except FileNotFoundError as error:
        raise ConfigError(f"no ledger at {home.ledger}: join first; if there was one, restore it from your backup") from error
    whole = lines[0] + lines[1]
    report = verify_ledger(whole, home.load_identity().public, accepted=home.fingerprints())
    if report.problems:
        raise LedgerError(f"the ledger does not verify: {report.problems[0]}")
    return whole, report


def budget_rows(home: Home) -> list[dict[str, object]]:
    """One row for each budget: the total, certified on the finer grid, then those of periods and populations."""
    policy, (_, report) = PolicyFile(home.policy).load(), verified_ledger(home)
    rows = [_budget_row(figure, policy) for figure in report.figures]
    if policy is not None and report.figures:
        ledger, today = read_snapshot(home.ledger, home.load_identity().public), datetime.now(UTC).date().toordinal()
        rows += [_account_row(one) for delta in ledger.deltas for one in accounts(policy, ledger, delta, today)[1:]]
    return rows


def _budget_row(figure: Figure, policy: Policy | None) -> dict[str, object]:
    if policy is None:
        spent = f"{figure.reference:.4f}" if math.isfinite(figure.reference) else "NOT PRIVATE"
        return {"budget of": "for ever", "delta": f"{figure.delta:g}", "epsilon spent": spent, "budget": "no policy", "left": "-"}
    return _account_row(Account("for ever", figure.delta, figure.reference, policy.budget_epsilon))


def _account_row(account: Account) -> dict[str, object]:
    private = math.isfinite(account.spent)
    return {
        "budget of": account.name,
        "delta": f"{account.delta:g}",
        "epsilon spent": f"{account.spent:.4f}" if private else "NOT PRIVATE",
        "budget": account.limit,
        "left": f"{account.left:.4f}" if private else "-",
    }
