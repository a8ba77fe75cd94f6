"""A site's own limits: no plan, coordinator or lead can spend more than this file allows, over all runs together.

Fail closed: no policy, an unknown key or an impossible value means that nothing trains. All checks are pure and answer with
objections, each a code and a fixed sentence; figures go to the site's own log and ledger only, in `detail`.

In mode distributed the budget is charged with what opened sums cost, and two more limits hold for what this site's patients would
pay if its updates were read in the clear: without them the mode is refused.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Final, Protocol

from consortium.identity import fingerprint
from consortium.plan import MAX_DELTA, Plan
from consortium.roster import Roster
from privacy.accountant import ENFORCE_INTERVAL, epsilon
from privacy.errors import PolicyError
from privacy.events import NonPrivateEvent, Spend, aggregate, as_charged, as_exposed, is_private
from privacy.periods import Dates
from privacy.terms import coordinate_noise, epsilon_exposed, epsilon_model, honest_minimum, off_grid, plan_limit, split_id

VERSION: Final = 2
MODES: Final = ("local", "distributed", "none")
DAYS_MOST: Final = 36_500
CLIP_SIGMAS: Final = 7.0  # noise that far out is one value in 10^11
STATED_TOLERANCE: Final = 0.01  # what a plan's stated epsilon may lie below our own figure: accountants round differently

SENTENCES: Final[Mapping[str, str]] = {
    "budget-exceeded": "This round would exceed the privacy budget of this site.",
    "clock-doubtful": "This site's clock disagrees with its ledger or with the plan's date: nothing is charged to a period by it.",
    "column-forbidden": "The plan uses a column that this site does not share.",
    "column-not-allowed": "The plan uses a column that is not among those that this site shares.",
    "delta-too-large": "The plan's delta is above the limit of this site.",
    "epsilon-understated": "The plan states a smaller epsilon than its terms lead to.",
    "exposed-exceeded": "This round would exceed this site's limit for updates that are read in the clear.",
    "lead-not-allowed": "This site does not accept plans of this lead.",
    "modality-not-allowed": "The plan uses a kind of data that this site does not share.",
    "mode-not-allowed": "The plan protects patients in a way that this site does not take part in.",
    "noise-cut-off": "The plan's coordinate clip would cut off the noise that protects the sum.",
    "noise-off-grid": "The plan's noise does not fit its integer grid: the release could not be made.",
    "not-private": "The plan trains without privacy and this site does not allow that.",
    "period-exceeded": "This round would exceed the privacy budget of this site for a period.",
    "plan-above-budget": "The plan as a whole does not fit into what is left of this site's privacy budget.",
    "plan-above-exposed-budget": "The plan as a whole does not fit into what is left of the limit for updates in the clear.",
    "plan-above-exposed-limit": "The plan as a whole is above this site's limit for one plan's updates in the clear.",
    "plan-above-limit": "The plan as a whole is above this site's limit for one plan.",
    "plan-above-period": "The plan as a whole does not fit into what is left of this site's privacy budget for a period.",
    "population-unknown": "This site's policy bounds a patient population that its ledger is not about.",
    "shares-overstated": "The plan counts on more honest shares of the noise than this roster assures.",
    "task-not-allowed": "This site does not take part in this task or this version of it.",
    "tested-alone": "The plan tests one site alone, and this site does not allow that figures are of one site.",
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
class Period:
    """The most that any patient of `population` may be charged within any so many days (`privacy.periods`)."""

    population: str
    days: int
    epsilon: float


@dataclass(frozen=True)
class AutoApproval:
    """Plans without objection that need no steward. It can only narrow what the policy allows, never widen it."""

    leads: tuple[str, ...]
    tasks: Mapping[str, str]
    max_epsilon: float
    modes: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """`budget_epsilon`: the most that any patient of this site may be charged, per population, over all runs, for ever.

    `budget_exposed_epsilon` and `max_exposed_epsilon_per_plan`: the same two limits for what those patients would pay if this
    site's updates were read in the clear; None: not bounded, and then mode distributed is not allowed either.
    `tasks` maps a task's name to its version or "*". `leads`: ids or key fingerprints, "*" for every lead on the roster.
    `columns_allowed`, `modalities_allowed`: None for all. `tested_alone`: whether a plan may leave one site out of training and
    test on it alone: the figures are then that site's own, and its noise, not the sum, is all that hides its patients.
    """

    version: int
    budget_epsilon: float
    max_epsilon_per_plan: float
    budget_periods: tuple[Period, ...] = ()
    budget_exposed_epsilon: float | None = None
    max_exposed_epsilon_per_plan: float | None = None
    delta_max: float = MAX_DELTA
    modes: tuple[str, ...] = ("local",)
    tasks: Mapping[str, str] = field(default_factory=dict)
    leads: tuple[str, ...] = ()
    columns_forbidden: tuple[str, ...] = ()
    columns_allowed: tuple[str, ...] | None = None
    modalities_allowed: tuple[str, ...] | None = None
    tested_alone: bool = False
    auto_approve: AutoApproval | None = None
    minimum_patients: int = 0  # declared patients of all participants together
    minimum_sites: int = 3

    @property
    def allow_non_private(self) -> bool:
        """Whether releases without noise may be approved here at all."""
        return "none" in self.modes


class Spent(Protocol):
    """What the checks ask of a ledger: `privacy.ledger.Ledger`, `privacy.snapshot.Snapshot`, or a table in a simulation."""

    def spends(self) -> tuple[Spend, ...]: ...

    def spends_since(self, day: int) -> tuple[Spend, ...]: ...

    @property
    def last_day(self) -> int: ...

    @property
    def population(self) -> str: ...

    @property
    def split_ids(self) -> frozenset[str]: ...


_REQUIRED: Final = ("version", "budget_epsilon", "max_epsilon_per_plan")
_BOTH: Final = (*_REQUIRED, "delta_max", "tasks", "leads", "columns_forbidden", "auto_approve", "minimum_patients", "minimum_sites")
_KEYS: Final[Mapping[int, tuple[str, ...]]] = {
    1: (*_BOTH, "allow_non_private"),
    2: (
        *_BOTH,
        "modes",
        "budget_periods",
        "budget_exposed_epsilon",
        "max_exposed_epsilon_per_plan",
        "columns_allowed",
        "modalities_allowed",
        "tested_alone",
    ),
}
_PERIOD_KEYS: Final = ("population", "days", "epsilon")
_AUTO_KEYS: Final = ("leads", "tasks", "max_epsilon", "modes")


def parse_policy(document: Mapping[str, object]) -> Policy:
    """The policy in a plain dict, as read from YAML at the client's door. Raises `PolicyError` naming the key.

    Version 1 knows no periods, modalities or mode distributed, and `allow_non_private: true` where version 2 lists the mode "none".
    """
    for name in _REQUIRED:
        if name not in document:
            raise PolicyError(f"policy: key {name!r} is missing: nothing trains without it")
    version = _integer(document, "version", 0)
    if version not in _KEYS:
        raise PolicyError(f"policy: version {version}, this code knows {', '.join(map(str, _KEYS))}")
    _check_keys(document, _KEYS[version], version)
    policy = Policy(
        version=version,
        budget_epsilon=_number(document, "budget_epsilon", 0.0),
        max_epsilon_per_plan=_number(document, "max_epsilon_per_plan", 0.0),
        budget_periods=_periods(document),
        budget_exposed_epsilon=_cap(document, "budget_exposed_epsilon"),
        max_exposed_epsilon_per_plan=_cap(document, "max_exposed_epsilon_per_plan"),
        delta_max=_number(document, "delta_max", MAX_DELTA),
        modes=_modes(document) if version > 1 else ("local", "none") if _flag(document, "allow_non_private") else ("local",),
        tasks=_tasks(document.get("tasks", {})),
        leads=_texts(document, "leads"),
        columns_forbidden=_texts(document, "columns_forbidden"),
        columns_allowed=_some(document, "columns_allowed"),
        modalities_allowed=_some(document, "modalities_allowed"),
        tested_alone=_flag(document, "tested_alone"),
        minimum_patients=_integer(document, "minimum_patients", 0),
        minimum_sites=_integer(document, "minimum_sites", 3),
    )
    _check(policy)
    return replace(policy, auto_approve=_auto_approval(document, policy))


def _check_keys(document: Mapping[str, object], known: Sequence[str], version: int, within: str = "") -> None:
    """Raises `PolicyError` for the first unknown key: a limit that nobody reads is no limit."""
    for key in map(str, document):
        if key in known:
            continue
        other = next((number for number, keys in _KEYS.items() if key in keys and not within), 0)
        if key == "allow_non_private" and other:
            raise PolicyError('policy: version 2 has no key allow_non_private: write modes: [local, none] to allow "none"')
        if other:
            raise PolicyError(f"policy: key {key!r} needs version: {other}, the file says version: {version}")
        near = get_close_matches(key, known, 1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise PolicyError(f"policy: unknown key {within + key!r}; {meant}known: {', '.join(sorted(known))}")


def _check(policy: Policy) -> None:
    if not 0.0 < policy.delta_max <= MAX_DELTA:
        raise PolicyError(f"policy: delta_max {policy.delta_max} outside (0, {MAX_DELTA}]")
    for name in ("budget_epsilon", "max_epsilon_per_plan", "minimum_patients", "minimum_sites"):
        if (value := getattr(policy, name)) < 0:
            raise PolicyError(f"policy: {name} {value} is below 0")
    if policy.columns_allowed is not None and (both := sorted(set(policy.columns_allowed) & set(policy.columns_forbidden))):
        raise PolicyError(f"policy: column {both[0]!r} is allowed and forbidden: take it out of one of the two lists")
    capped = policy.budget_exposed_epsilon is not None and policy.max_exposed_epsilon_per_plan is not None
    if "distributed" in policy.modes and not capped:
        raise PolicyError(
            "policy: modes names distributed, so budget_exposed_epsilon and max_exposed_epsilon_per_plan must stand here"
        )


def _modes(document: Mapping[str, object]) -> tuple[str, ...]:
    modes = _texts(document, "modes") if "modes" in document else ("local",)
    if strange := sorted(set(modes) - set(MODES)):
        near = get_close_matches(strange[0], MODES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise PolicyError(f"policy: mode {strange[0]!r} is not one of {', '.join(MODES)}{hint}")
    return modes


def _periods(document: Mapping[str, object]) -> tuple[Period, ...]:
    value = document.get("budget_periods", ())
    if not isinstance(value, list | tuple) or not all(isinstance(item, Mapping) for item in value):
        raise PolicyError("policy: budget_periods must be a list of {population: main, days: 365, epsilon: 3.0}")
    return tuple(map(_period, value))


def _period(item: Mapping[str, object]) -> Period:
    _check_keys(item, _PERIOD_KEYS, VERSION, "budget_periods.")
    if missing := [name for name in _PERIOD_KEYS if name not in item]:
        raise PolicyError(f"policy: budget_periods: key {missing[0]!r} is missing")
    population, days, most = item["population"], _integer(item, "days", 0), _number(item, "epsilon", 0.0)
    if not isinstance(population, str) or not population:
        raise PolicyError("policy: budget_periods: population must be the name in site.yaml")
    if not 1 <= days <= DAYS_MOST:
        raise PolicyError(f"policy: budget_periods: days {days} outside [1, {DAYS_MOST}]")
    if most < 0.0:
        raise PolicyError(f"policy: budget_periods: epsilon {most} is below 0")
    return Period(population, days, most)


def _auto_approval(document: Mapping[str, object], policy: Policy) -> AutoApproval | None:
    """`true` stands for all that the policy allows but releases without noise, which always want a person."""
    value, private = document.get("auto_approve", False), tuple(mode for mode in policy.modes if mode != "none")
    if isinstance(value, bool):
        return AutoApproval(policy.leads, policy.tasks, policy.max_epsilon_per_plan, private) if value else None
    if not isinstance(value, Mapping) or policy.version == 1:
        rules = "" if policy.version == 1 else f", or rules: {', '.join(_AUTO_KEYS)}"
        raise PolicyError(f"policy: auto_approve must be true or false{rules}; got {value!r}")
    _check_keys(value, _AUTO_KEYS, VERSION, "auto_approve.")
    if "max_epsilon" not in value:
        raise PolicyError("policy: auto_approve: key 'max_epsilon' is missing")
    modes = _modes(value) if "modes" in value else private
    if "none" in modes:
        raise PolicyError("policy: auto_approve: a plan without noise is a person's decision, take none out of modes")
    return AutoApproval(
        leads=_texts(value, "leads") if "leads" in value else policy.leads,
        tasks=_tasks(value.get("tasks", policy.tasks)),
        max_epsilon=_cap(value, "max_epsilon") or 0.0,
        modes=modes,
    )


def _number(document: Mapping[str, object], name: str, default: float) -> float:
    value = document.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PolicyError(f"policy: {name} must be a finite number, got {value!r}")
    return float(value)


def _cap(document: Mapping[str, object], name: str) -> float | None:
    if name not in document:
        return None
    if (value := _number(document, name, 0.0)) < 0.0:
        raise PolicyError(f"policy: {name} {value} is below 0")
    return value


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


def _some(document: Mapping[str, object], name: str) -> tuple[str, ...] | None:
    return _texts(document, name) if name in document else None


def _tasks(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise PolicyError('policy: tasks must map a name to a version or "*"')
    for name, version in value.items():
        if not isinstance(name, str) or not isinstance(version, str):
            raise PolicyError(f'policy: task {name!r} needs its version as a text, or "*"')
    return dict(value)


def check_plan(
    policy: Policy, plan: Plan, roster: Roster, *, spent: Spent | None = None, dates: Dates | None = None
) -> tuple[Objection, ...]:
    """All that speaks against the plan of this roster; empty if nothing does. Nothing that the plan states is believed.

    With `spent` (the ledger, before the plan's first round) the whole plan must fit into what is left, also of periods: those
    need `dates` then (`privacy.periods.dates`).
    """
    found = [*_check_who(policy, plan, fingerprint(roster.member(plan.lead).identity_key)), *_check_what(policy, plan)]
    if not plan.private:
        if not policy.allow_non_private:
            found.append(_objection("not-private", 'privacy.mode is "none"; the policy does not allow that mode'))
        return tuple(found)
    if plan.privacy.mode not in policy.modes:
        found.append(_objection("mode-not-allowed", f"mode {plan.privacy.mode}; policy.modes: {', '.join(policy.modes) or 'none'}"))
    found += [*_check_stated(policy, plan), *_check_model_claim(plan, roster)]
    left = _Left(policy, spent or _NOTHING, plan.privacy.delta, split_id(roster), dates)
    return (*found, *left.objections(plan_limit(plan), _WHOLE, know_periods=spent is not None))


def approves(policy: Policy, plan: Plan, roster: Roster) -> str:
    """Why a plan to which nothing speaks waits for a steward all the same; empty if policy alone approves it."""
    rules = policy.auto_approve
    if rules is None:
        return "policy.auto_approve is off"
    if plan.privacy.mode not in rules.modes:  # "none" never is
        return f"mode {plan.privacy.mode} is not one of auto_approve.modes"
    if not _named(plan.lead, fingerprint(roster.member(plan.lead).identity_key), rules.leads):
        return f"lead {plan.lead} is not one of auto_approve.leads"
    if rules.tasks.get(plan.task.name) not in ("*", plan.task.version):
        return f"task {plan.task.name} {plan.task.version} is not one of auto_approve.tasks"
    if (whole := epsilon(plan_limit(plan), plan.privacy.delta, interval=ENFORCE_INTERVAL)) > rules.max_epsilon:
        return f"epsilon {whole:.4f} is above auto_approve.max_epsilon {rules.max_epsilon}"
    return ""


def _named(lead: str, lead_fingerprint: str, leads: Iterable[str]) -> bool:
    return bool({lead, lead_fingerprint, "*"} & set(leads))


def _check_who(policy: Policy, plan: Plan, lead_fingerprint: str) -> list[Objection]:
    found = []
    if not _named(plan.lead, lead_fingerprint, policy.leads):
        found.append(_objection("lead-not-allowed", f"lead {plan.lead}; policy.leads {', '.join(policy.leads) or 'empty'}"))
    if len(plan.participants) < policy.minimum_sites:
        found.append(_objection("too-few-sites", f"{len(plan.participants)} sites, policy asks for {policy.minimum_sites}"))
    patients = sum(participant.declared_patients for participant in plan.participants)
    if patients < policy.minimum_patients:
        found.append(_objection("too-few-patients", f"{patients} declared, policy asks for {policy.minimum_patients}"))
    return found


def _check_what(policy: Policy, plan: Plan) -> list[Objection]:
    found, columns, modalities = [], set(plan.task.columns), set(plan.task.modalities)
    if policy.tasks.get(plan.task.name) not in ("*", plan.task.version):
        allowed = ", ".join(f"{name} {version}" for name, version in policy.tasks.items()) or "none"
        found.append(_objection("task-not-allowed", f"{plan.task.name} {plan.task.version}; policy.tasks: {allowed}"))
    if forbidden := sorted(columns & set(policy.columns_forbidden)):
        found.append(_objection("column-forbidden", ", ".join(forbidden)))
    if policy.columns_allowed is not None and (beyond := sorted(columns - set(policy.columns_allowed))):
        found.append(_objection("column-not-allowed", ", ".join(beyond)))
    if policy.modalities_allowed is not None and (strange := sorted(modalities - set(policy.modalities_allowed))):
        found.append(_objection("modality-not-allowed", ", ".join(strange)))
    if (alone := plan.left_out) and not policy.tested_alone:
        found.append(_objection("tested-alone", f"leave_out is {alone}; the policy does not say tested_alone: true"))
    if plan.privacy.delta > policy.delta_max:
        found.append(_objection("delta-too-large", f"delta {plan.privacy.delta}, policy allows {policy.delta_max}"))
    return found


def _check_stated(policy: Policy, plan: Plan) -> list[Objection]:
    """The plan by itself: what it says it costs, and the limits for one plan."""
    found = []
    whole = epsilon(plan_limit(plan), plan.privacy.delta, interval=ENFORCE_INTERVAL)
    exposed = epsilon_exposed(plan, interval=ENFORCE_INTERVAL)
    if exposed > plan.privacy.epsilon_exposed + STATED_TOLERANCE:
        found.append(_objection("epsilon-understated", f"states {plan.privacy.epsilon_exposed}, leads to {exposed:.4f}"))
    if whole > policy.max_epsilon_per_plan:
        found.append(_objection("plan-above-limit", f"epsilon {whole:.4f}, policy allows {policy.max_epsilon_per_plan}"))
    if (most := policy.max_exposed_epsilon_per_plan) is not None and exposed > most:
        found.append(_objection("plan-above-exposed-limit", f"epsilon {exposed:.4f} in the clear, policy allows {most}"))
    return found


@dataclass(frozen=True)
class _Codes:
    """How the three kinds of budget refuse: a whole plan, or one round."""

    budget: str
    exposed: str
    period: str


_WHOLE: Final = _Codes("plan-above-budget", "plan-above-exposed-budget", "plan-above-period")
_ROUND: Final = _Codes("budget-exceeded", "exposed-exceeded", "period-exceeded")


@dataclass(frozen=True)
class _Nothing:
    """A ledger without charges: a plan that does not fit by itself does not fit at all."""

    population: str = ""
    last_day: int = 0
    split_ids: frozenset[str] = frozenset()

    def spends(self) -> tuple[Spend, ...]:
        return ()

    def spends_since(self, day: int) -> tuple[Spend, ...]:
        return ()


_NOTHING: Final = _Nothing()


@dataclass(frozen=True)
class _Left:
    """What is left of all budgets, for releases at one delta. Releases without noise count in none of them."""

    policy: Policy
    spent: Spent
    delta: float
    split: str
    dates: Dates | None

    def objections(self, spends: Iterable[Spend], codes: _Codes, *, know_periods: bool) -> list[Objection]:
        """`know_periods`: the ledger is at hand, so periods are judged by what stands in it, and population and clock too."""
        charged, spent = _with_noise(spends), _with_noise(self.spent.spends())
        if not charged:
            return []
        found = [self._over(spent, charged, self.policy.budget_epsilon, codes.budget, "for ever")]
        if (most := self.policy.budget_exposed_epsilon) is not None:
            found.append(self._over(as_exposed(spent), as_exposed(charged), most, codes.exposed, "in the clear, for ever"))
        doubt = self._doubt() if know_periods else None
        if doubt is None:
            found += [self._over_period(period, charged, codes.period) for period in self.policy.budget_periods]
        return [item for item in (*found, doubt) if item is not None]

    def _over(self, spent: tuple[Spend, ...], charged: tuple[Spend, ...], most: float, code: str, what: str) -> Objection | None:
        splits = {*self.spent.split_ids, self.split}
        after = epsilon((*spent, *charged), self.delta, interval=ENFORCE_INTERVAL, split_ids=splits)
        if after <= most:
            return None
        before = epsilon(spent, self.delta, interval=ENFORCE_INTERVAL, split_ids=self.spent.split_ids)
        return _objection(code, f"epsilon {what} would be {after:.4f} of {most}, spent {before:.4f}")

    def _over_period(self, period: Period, charged: tuple[Spend, ...], code: str) -> Objection | None:
        """Without dates only what is charged counts: it must fit into an empty period."""
        since = self.spent.spends_since(self.dates.first_counted(period.days)) if self.dates else ()
        return self._over(_with_noise(since), charged, period.epsilon, code, f"within {period.days} days")

    def _doubt(self) -> Objection | None:
        """Why periods cannot be judged. A population that the ledger is not about is a slip that would bound nobody."""
        periods = self.policy.budget_periods
        if not periods:
            return None
        if strange := sorted({period.population for period in periods} - {self.spent.population}):
            return _objection(
                "population-unknown", f"{strange[0]!r} in budget_periods, the ledger is about {self.spent.population!r}"
            )
        if self.dates is None:
            raise PolicyError("policy: budget_periods are judged by dates: pass privacy.periods.dates(now, plan.created)")
        doubt = self.dates.doubt(self.spent.last_day)
        return _objection("clock-doubtful", doubt) if doubt else None


def _check_model_claim(plan: Plan, roster: Roster) -> list[Objection]:
    """What the plan says about readers of the model must follow from its noise and the roster, and the noise must arrive."""
    terms, found = plan.privacy, []
    model = epsilon_model(plan, colluders=roster.colluders, minimum_cohort=roster.minimum_cohort, interval=ENFORCE_INTERVAL)
    if min(model, terms.epsilon_exposed) > terms.epsilon_model + STATED_TOLERANCE:
        found.append(_objection("epsilon-understated", f"states {terms.epsilon_model} for the model, leads to {model:.4f}"))
    found += [_objection("noise-off-grid", sentence) for sentence in off_grid(plan)]
    if terms.distributed:
        certain = honest_minimum(len(plan.participants), colluders=roster.colluders, minimum_cohort=roster.minimum_cohort)
        if terms.honest > certain:
            found.append(_objection("shares-overstated", f"counts on {terms.honest} honest shares, the roster assures {certain}"))
        return found
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


def check_spend(
    policy: Policy, ledger: Spent, spends: Iterable[Spend], delta: float, split_id: str = "", *, dates: Dates | None = None
) -> Objection | None:
    """Why these releases may not be charged now, or None. Ask again before every round: other runs spend too.

    Releases without noise are judged by the mode "none" alone, and never loosen the limit on the private ones. `dates`: needed
    where the policy has periods.
    """
    charged = tuple(spends)
    if delta > policy.delta_max:
        return _objection("delta-too-large", f"delta {delta}, policy allows {policy.delta_max}")
    if not policy.allow_non_private and not is_private((*ledger.spends(), *charged)):
        return _objection("not-private", "this release or an earlier one has no noise; the policy does not allow that mode")
    if "distributed" not in policy.modes and as_charged(charged) != aggregate(charged):
        return _objection("mode-not-allowed", "a share of a secure sum's noise; policy.modes does not name distributed")
    found = _Left(policy, ledger, delta, split_id, dates).objections(charged, _ROUND, know_periods=True)
    return found[0] if found else None


@dataclass(frozen=True)
class Account:
    """One limit and what stands against it at one delta; `spent` is infinite once something left without noise."""

    name: str
    delta: float
    spent: float
    limit: float

    @property
    def left(self) -> float:
        return max(self.limit - self.spent, 0.0)


def accounts(policy: Policy, ledger: Spent, delta: float, today: int) -> tuple[Account, ...]:
    """Every budget of the policy and what the ledger has of it. Periods as they stand for a plan that is made `today`."""

    def account(name: str, spends: Iterable[Spend], limit: float) -> Account:
        return Account(name, delta, epsilon(spends, delta, interval=ENFORCE_INTERVAL, split_ids=ledger.split_ids), limit)

    spent, dates = ledger.spends(), Dates(today, today)
    found = [account("for ever", spent, policy.budget_epsilon)]
    found += [
        account(f"within {period.days} days", ledger.spends_since(dates.first_counted(period.days)), period.epsilon)
        for period in policy.budget_periods
    ]
    if policy.budget_exposed_epsilon is not None:
        found.append(account("updates in the clear, for ever", as_exposed(spent), policy.budget_exposed_epsilon))
    return tuple(found)


def _with_noise(spends: Iterable[Spend]) -> tuple[Spend, ...]:
    return tuple(spend for spend in spends if not isinstance(spend.event, NonPrivateEvent))


def _objection(code: str, detail: str) -> Objection:
    return Objection(code, SENTENCES[code], detail)
