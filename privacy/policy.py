"""A site's own limits: no plan, coordinator or lead can spend more than this file allows, over all runs together.

Fail closed: no policy, an unknown key or an impossible value means that nothing trains. All checks are pure and answer with
objections, each a code and a fixed sentence; figures go to the site's own log only, in `detail`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Final, Protocol

from consortium.identity import fingerprint
from consortium.plan import MAX_DELTA, Plan
from consortium.roster import Roster
from privacy.accountant import ENFORCE_INTERVAL, epsilon
from privacy.errors import PolicyError
from privacy.events import NonPrivateEvent, Spend, is_private
from privacy.terms import coordinate_noise, epsilon_model, off_grid, plan_limit, split_id

VERSION: Final = 1
CLIP_SIGMAS: Final = 7.0  # noise that far out is one value in 10^11
STATED_TOLERANCE: Final = 0.01  # what a plan's stated epsilon may lie below our own figure: accountants round differently

SENTENCES: Final[Mapping[str, str]] = {
    "budget-exceeded": "This round would exceed the privacy budget of this site.",
    "column-forbidden": "The plan uses a column that this site does not share.",
    "delta-too-large": "The plan's delta is above the limit of this site.",
    "epsilon-understated": "The plan states a smaller epsilon than its terms lead to.",
    "noise-off-grid": "The plan's noise does not fit its integer grid: the release could not be made.",
    "noise-cut-off": "The plan's coordinate clip would cut off the noise that protects the sum.",
    "lead-not-allowed": "This site does not accept plans of this lead.",
    "not-private": "The plan trains without privacy and this site does not allow that.",
    "plan-above-limit": "The plan as a whole is above this site's limit for one plan.",
    "plan-above-budget": "The plan as a whole does not fit into what is left of this site's privacy budget.",
    "task-not-allowed": "This site does not take part in this task or this version of it.",
    "too-few-patients": "The plan's sites together are below the number of patients that this site asks for.",
    "too-few-sites": "The plan has fewer sites than this site asks for.",
}


@dataclass(frozen=True)
class Objection:
    """Why something is refused. `code` and `sentence` may leave the site; `detail` stays in its own log."""

    code: str
    sentence: str
    detail: str = field(repr=False)


@dataclass(frozen=True)
class Policy:
    """`budget_epsilon`: the most that any patient of this site may be charged, per population, over all runs, for ever.

    `tasks` maps a task's name to its version or "*". `leads`: ids or key fingerprints, "*" for every lead on the roster.
    `auto_approve`: a plan without objection needs no steward.
    """

    version: int
    budget_epsilon: float
    max_epsilon_per_plan: float
    delta_max: float = MAX_DELTA
    allow_non_private: bool = False
    tasks: Mapping[str, str] = field(default_factory=dict)
    leads: tuple[str, ...] = ()
    columns_forbidden: tuple[str, ...] = ()
    auto_approve: bool = False
    minimum_patients: int = 0  # declared patients of all participants together
    minimum_sites: int = 3


class Spent(Protocol):
    """What the checks ask of a ledger: `privacy.ledger.Ledger`, or a table in a planner's simulation."""

    def spends(self) -> tuple[Spend, ...]: ...

    @property
    def split_ids(self) -> frozenset[str]: ...


def parse_policy(document: Mapping[str, object]) -> Policy:
    """The policy in a plain dict, as read from YAML at the client's door. Raises `PolicyError` naming the key."""
    known = {item.name for item in fields(Policy)}
    if unknown := sorted(str(key) for key in set(document) - known):
        raise PolicyError(f"policy: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    for name in ("version", "budget_epsilon", "max_epsilon_per_plan"):
        if name not in document:
            raise PolicyError(f"policy: key {name!r} is missing: nothing trains without it")
    policy = Policy(
        version=_integer(document, "version", 0),
        budget_epsilon=_number(document, "budget_epsilon", 0.0),
        max_epsilon_per_plan=_number(document, "max_epsilon_per_plan", 0.0),
        delta_max=_number(document, "delta_max", MAX_DELTA),
        allow_non_private=_flag(document, "allow_non_private"),
        tasks=_tasks(document.get("tasks", {})),
        leads=_texts(document, "leads"),
        columns_forbidden=_texts(document, "columns_forbidden"),
        auto_approve=_flag(document, "auto_approve"),
        minimum_patients=_integer(document, "minimum_patients", 0),
        minimum_sites=_integer(document, "minimum_sites", 3),
    )
    _check(policy)
    return policy


def _check(policy: Policy) -> None:
    if policy.version != VERSION:
        raise PolicyError(f"policy: version {policy.version}, this code knows {VERSION}")
    if not 0.0 < policy.delta_max <= MAX_DELTA:
        raise PolicyError(f"policy: delta_max {policy.delta_max} outside (0, {MAX_DELTA}]")
    for name in ("budget_epsilon", "max_epsilon_per_plan", "minimum_patients", "minimum_sites"):
        if (value := getattr(policy, name)) < 0:
            raise PolicyError(f"policy: {name} {value} is below 0")


def _number(document: Mapping[str, object], name: str, default: float) -> float:
    value = document.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PolicyError(f"policy: {name} must be a finite number, got {value!r}")
    return float(value)


def _integer(document: Mapping[str, object], name: str, default: int) -> int:
    value = document.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise PolicyError(f"policy: {name} must be a whole number, got {value!r}")
    return value


def _flag(document: Mapping[str, object], name: str) -> bool:
    value = document.get(name, False)
    if not isinstance(value, bool):
        raise PolicyError(f"policy: {name} must be true or false, got {value!r}")
    return value


def _texts(document: Mapping[str, object], name: str) -> tuple[str, ...]:
    value = document.get(name, ())
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise PolicyError(f"policy: {name} must be a list of texts")
    return tuple(value)


def _tasks(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise PolicyError('policy: tasks must map a name to a version or "*"')
    for name, version in value.items():
        if not isinstance(name, str) or not isinstance(version, str):
            raise PolicyError(f'policy: task {name!r} needs its version as a text, or "*"')
    return dict(value)


def check_plan(policy: Policy, plan: Plan, roster: Roster, *, spent: Spent | None = None) -> tuple[Objection, ...]:
    """All that speaks against the plan of this roster; empty if nothing does. Nothing that the plan states is believed.

    With `spent` (the ledger, before the plan's first round) the whole plan must fit into what is left.
    """
    lead_fingerprint = fingerprint(roster.member(plan.lead).identity_key)
    found = [*_check_who(policy, plan, lead_fingerprint), *_check_what(policy, plan)]
    if not plan.private:
        if not policy.allow_non_private:
            found.append(_objection("not-private", 'privacy.mode is "none"; policy.allow_non_private is false'))
        return tuple(found)
    return (*found, *_check_cost(policy, plan, spent, split_id(roster)), *_check_model_claim(plan, roster))


def _check_who(policy: Policy, plan: Plan, lead_fingerprint: str) -> list[Objection]:
    found = []
    if not {plan.lead, lead_fingerprint or plan.lead, "*"} & set(policy.leads):
        found.append(_objection("lead-not-allowed", f"lead {plan.lead}; policy.leads {', '.join(policy.leads) or 'empty'}"))
    if len(plan.participants) < policy.minimum_sites:
        found.append(_objection("too-few-sites", f"{len(plan.participants)} sites, policy asks for {policy.minimum_sites}"))
    patients = sum(participant.declared_patients for participant in plan.participants)
    if patients < policy.minimum_patients:
        found.append(_objection("too-few-patients", f"{patients} declared, policy asks for {policy.minimum_patients}"))
    return found


def _check_what(policy: Policy, plan: Plan) -> list[Objection]:
    found = []
    if policy.tasks.get(plan.task.name) not in ("*", plan.task.version):
        allowed = ", ".join(f"{name} {version}" for name, version in policy.tasks.items()) or "none"
        found.append(_objection("task-not-allowed", f"{plan.task.name} {plan.task.version}; policy.tasks: {allowed}"))
    if forbidden := sorted(set(plan.task.columns) & set(policy.columns_forbidden)):
        found.append(_objection("column-forbidden", ", ".join(forbidden)))
    if plan.privacy.delta > policy.delta_max:
        found.append(_objection("delta-too-large", f"delta {plan.privacy.delta}, policy allows {policy.delta_max}"))
    return found


def _check_cost(policy: Policy, plan: Plan, spent: Spent | None, split: str) -> list[Objection]:
    limit, delta, found = plan_limit(plan), plan.privacy.delta, []
    whole = epsilon(limit, delta, interval=ENFORCE_INTERVAL)
    if whole > plan.privacy.epsilon_exposed + STATED_TOLERANCE:
        found.append(_objection("epsilon-understated", f"states {plan.privacy.epsilon_exposed}, leads to {whole:.4f}"))
    if whole > policy.max_epsilon_per_plan:
        found.append(_objection("plan-above-limit", f"epsilon {whole:.4f}, policy allows {policy.max_epsilon_per_plan}"))
    after = whole if spent is None else _private_epsilon(spent, limit, delta, split)
    if after > policy.budget_epsilon:
        found.append(_objection("plan-above-budget", f"epsilon would be {after:.4f} of {policy.budget_epsilon}"))
    return found


def _check_model_claim(plan: Plan, roster: Roster) -> list[Objection]:
    """What the plan says about readers of the model must follow from its noise and the roster, and the noise must arrive."""
    terms, found = plan.privacy, []
    model = epsilon_model(plan, colluders=roster.colluders, minimum_cohort=roster.minimum_cohort, interval=ENFORCE_INTERVAL)
    if min(model, terms.epsilon_exposed) > terms.epsilon_model + STATED_TOLERANCE:
        found.append(_objection("epsilon-understated", f"states {terms.epsilon_model} for the model, leads to {model:.4f}"))
    found += [_objection("noise-off-grid", sentence) for sentence in off_grid(plan)]
    if plan.coordinate_clip < CLIP_SIGMAS * coordinate_noise(plan):
        least = CLIP_SIGMAS * coordinate_noise(plan)
        found.append(_objection("noise-cut-off", f"coordinate_clip {plan.coordinate_clip}, the noise needs {least:.3g}"))
    return found


def check_epoch(policy: Policy, plan: Plan, sites: Sequence[str]) -> Objection | None:
    """Why the site does not train among these sites. The coordinator chooses them, so what holds for the plan holds for them."""
    if len(sites) < policy.minimum_sites:
        return _objection("too-few-sites", f"{len(sites)} sites in the epoch, policy asks for {policy.minimum_sites}")
    patients = sum(plan.participant(site).declared_patients for site in sites)
    if patients < policy.minimum_patients:
        return _objection("too-few-patients", f"{patients} declared in the epoch, policy asks for {policy.minimum_patients}")
    return None


def check_spend(policy: Policy, ledger: Spent, spends: Iterable[Spend], delta: float, split_id: str = "") -> Objection | None:
    """Why these releases may not be charged now, or None. Ask again before every round: other runs spend too.

    Releases without noise are judged by `allow_non_private` alone, and never loosen the limit on the private ones.
    """
    charged = tuple(spends)
    if delta > policy.delta_max:
        return _objection("delta-too-large", f"delta {delta}, policy allows {policy.delta_max}")
    if not policy.allow_non_private and not is_private((*ledger.spends(), *charged)):
        return _objection("not-private", "this release or an earlier one has no noise; policy.allow_non_private is false")
    after = _private_epsilon(ledger, charged, delta, split_id)
    if after > policy.budget_epsilon:
        return _objection("budget-exceeded", f"epsilon would be {after:.4f} of {policy.budget_epsilon}")
    return None


def _private_epsilon(spent: Spent, spends: Iterable[Spend], delta: float, split_id: str) -> float:
    """Epsilon of all releases that have noise, these included."""
    private = [spend for spend in (*spent.spends(), *spends) if not isinstance(spend.event, NonPrivateEvent)]
    return epsilon(private, delta, interval=ENFORCE_INTERVAL, split_ids={*spent.split_ids, split_id})


def _objection(code: str, detail: str) -> Objection:
    return Objection(code, SENTENCES[code], detail)
