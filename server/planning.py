"""From the lead's configuration to a plan, with every cost known before anything is spent.

Noise is calibrated to the target epsilon for the most that the plan allows, repeats after failures included, and the result
is certified by the reference accountant at its finest grid. Weights, normalisers and bounds are public constants.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from consortium.plan import (
    MAX_DELTA,
    NOT_PRIVATE,
    VERSION,
    Deadlines,
    ModelRef,
    ParameterSpec,
    Participant,
    Plan,
    PrivacyTerms,
    Schedule,
    StrategyRef,
    TaskRef,
)
from consortium.roster import Roster
from consortium.version import plan_version
from privacy.planning import Releases, calibrate
from privacy.terms import (
    SIGNAL_MARGIN,
    coordinate_noise,
    epsilon_exposed,
    epsilon_model,
    honest_minimum,
    off_grid,
    ride_along_limit,
)
from server import strategy as strategies
from server.asked import check_asked
from server.config import FederationConfig, LeadConfig, PrivacyConfig, ScheduleConfig, StrategyConfig, TaskConfig
from server.errors import PlanningError
from server.migrate import code_version
from server.strategy import SUMS, sums_options
from tasks.base import Task
from tasks.features import Design
from tasks.models import parameter_specs
from tasks.registry import find_task
from tasks.run_options import run_options, with_scoring
from tasks.scoring.groups import refuse_unread
from tasks.sums import Choice, SumsTask, TestedSums, layout, stage_sizes

CLIP = 0.3  # L2 bound of a patient's gradient where neither privacy nor task names one
NOISE_SIGMAS = 8.0  # a coordinate further out saturates: less than one in 10^14
UNCLIPPED_GRADIENT = 32.0  # without clipping; inputs are within +-20 by contract, so a logistic gradient is below this
SPARE_ROUND_NUMBERS = 10  # rounds that fail before any site is charged use a number, not an attempt
EPSILON_DIGITS = 4
GRID_BITS_LEAST, GRID_BITS_MOST = 10, 20
CANARIES, CANARIES_FROM_PARAMETERS = 1000, 10_000  # fewer measure little; small models have no room for them
MODES: Mapping[str, Literal["local", "distributed", "none"]] = {"local": "local", "distributed": "distributed", "none": "none"}
NOISE_DIGITS = 5


@dataclass(frozen=True)
class TaskParts:
    """What the registered task and its design contribute to a plan."""

    task: TaskRef
    model: ModelRef
    statistics: int
    describe_bound: float
    histogram_bins: int  # half the cells of the held-out histogram
    stages: tuple[int, ...] = ()  # numbers in each stage of a task that sums; none for one that trains
    clip: float = 0.0  # L2 bound of a patient's vector, or of his gradient where the lead's terms name none
    tested: bool = False  # whether such a task has figures of held-out patients


def make_plan(config: LeadConfig, roster: Roster, node_ids: Mapping[str, int], *, lead: str, now: datetime) -> Plan:
    """The unsigned plan of `config` for sites of `roster`. Raises `ServerError` or an error of tasks, privacy, consortium.

    `node_ids`: the SuperNode of every site, as the hub names it. `roster` must be verified.
    """
    parts = task_parts(config.task)
    chosen = StrategyConfig(SUMS, sums_options(parts.stages)) if parts.stages else config.strategy
    strategies.build(chosen.name, chosen.options)
    participants = make_participants(config.federation, roster, node_ids)
    check_asked(find_task(config.task.name), config, [participant.site for participant in participants])
    schedule = (
        make_sums_schedule(config.schedule, len(parts.stages), tested=parts.tested)
        if parts.stages
        else make_schedule(config.schedule)
    )
    created = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    draft = Plan(
        version=VERSION,
        run_id=config.run_id or _run_id(config, created),
        lead=lead,
        created=created,
        code_version=plan_version(code_version()),
        roster_digest=roster.digest,
        task=parts.task,
        model=parts.model,
        participants=participants,
        statistics=parts.statistics,
        histogram_bins=parts.histogram_bins,
        coordinate_clip=1.0,
        ring_bits=config.ring_bits,
        schedule=schedule,
        privacy=open_terms(config.privacy, parts, participants, roster),
        strategy=StrategyRef(chosen.name, tuple(sorted(chosen.options.items()))),
        deadlines=Deadlines(**vars(config.deadlines)),
    )
    plan = calibrated(draft, config.privacy, roster) if draft.private else draft
    if unfit := off_grid(plan):
        raise PlanningError(f"{unfit[0]}: choose more or fewer privacy.grid_bits, or more noise")
    return replace(plan, coordinate_clip=coordinate_clip(plan))


def _run_id(config: LeadConfig, created: str) -> str:
    words = f"{config.task.name}-{config.privacy.mode}-{created}".lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:64]


def task_parts(config: TaskConfig) -> TaskParts:
    """Names, shapes and bounds, from the task that the registry finds."""
    task = find_task(config.name)
    if not isinstance(task, Task):
        return sums_parts(task, config)
    columns = tuple(config.columns) or task.contract.column_names
    design = Design(task.contract, columns)
    model = task.build_model(config.model, run_options(config.options).model, columns)
    options, half = with_scoring(task, config.options, config.histogram_bins)
    refuse_unread(run_options(options).by, task.contract, columns)
    return TaskParts(
        TaskRef(task.name, task.version, columns, task.contract.modalities(columns)),
        ModelRef(
            config.model,
            tuple(sorted(options.items())),
            tuple(ParameterSpec(name, shape) for name, shape in design.buffer_specs),
            tuple(ParameterSpec(name, shape) for name, shape in parameter_specs(model)),
            config.init_seed,
        ),
        design.n_statistics,
        design.describe_bound,
        half,
        clip=config.clip or CLIP,
    )


def sums_parts(task: SumsTask, config: TaskConfig) -> TaskParts:
    """The same of a task whose rounds are sums: its stages are the parameters, it has nothing to normalise."""
    choice = Choice(config.model, config.options, tuple(config.columns) or task.contract.column_names)
    return TaskParts(
        TaskRef(task.name, task.version, choice.columns, task.contract.modalities(choice.columns)),
        ModelRef(
            config.model,
            tuple(sorted(config.options.items())),
            (),
            tuple(ParameterSpec(name, shape) for name, shape in layout(task, choice)),
            config.init_seed,
        ),
        statistics=0,
        describe_bound=1.0,
        histogram_bins=task.test_cells(choice) // 2 if isinstance(task, TestedSums) else config.histogram_bins,
        tested=isinstance(task, TestedSums),
        stages=stage_sizes(task, choice),
        clip=task.bound(choice),
    )


def make_participants(config: FederationConfig, roster: Roster, node_ids: Mapping[str, int]) -> tuple[Participant, ...]:
    """The sites by id, each with its node. Raises `PlanningError` naming the site that is missing somewhere."""
    sizes = dict(config.sites)
    known = {member.id for member in roster.sites}
    if config.default_patients > 0:
        sizes = {site: sizes.get(site, config.default_patients) for site in known} | sizes
    if strangers := sorted(set(sizes) - known):
        raise PlanningError(f"site {strangers[0]!r} is not on the roster (version {roster.version}): add it, or leave it out")
    if homeless := sorted(set(sizes) - set(node_ids)):
        raise PlanningError(f"site {homeless[0]!r} has no node id: is its gateway registered with the hub?")
    if len(sizes) < roster.minimum_cohort:
        raise PlanningError(f"{len(sizes)} sites, the roster asks for at least {roster.minimum_cohort}")
    return tuple(Participant(site, node_ids[site], sizes[site]) for site in sorted(sizes))


def make_schedule(config: ScheduleConfig) -> Schedule:
    """The maxima a site will ever answer: what is meant, plus the configured spares; round numbers never run out first."""
    maxima = (1 + config.spare_describe, config.rounds + config.spare_train, 1 + config.spare_evaluate)
    return Schedule(
        rounds=config.rounds,
        max_round=sum(maxima) + SPARE_ROUND_NUMBERS,
        max_describe=maxima[0],
        max_train=maxima[1],
        max_evaluate=maxima[2],
        evaluate_every=config.evaluate_every,
        local_steps=config.local_steps,
        local_rate=config.local_rate,
    )


def make_sums_schedule(config: ScheduleConfig, stages: int, *, tested: bool = False) -> Schedule:
    """A round for each stage and the spares that describing has; one of figures at the end, where the task has any."""
    most, evaluations = stages + config.spare_describe, 1 + config.spare_evaluate if tested else 0
    last = most + evaluations + SPARE_ROUND_NUMBERS
    return Schedule(
        rounds=stages,
        max_round=last,
        max_describe=0,
        max_train=most,
        max_evaluate=evaluations,
        evaluate_every=last + 1,
        local_steps=1,
        local_rate=1.0,
    )


def open_terms(config: PrivacyConfig, parts: TaskParts, participants: tuple[Participant, ...], roster: Roster) -> PrivacyTerms:
    """The terms before calibration: no noise in mode none, a placeholder of 1 otherwise."""
    if config.mode not in MODES:
        raise PlanningError(f"privacy.mode is {config.mode!r}; known: {', '.join(MODES)}")
    noise, stated = (0.0, NOT_PRIVATE) if config.mode == "none" else (1.0, 1.0)
    return PrivacyTerms(
        mode=MODES[config.mode],
        delta=config.delta or default_delta(sum(participant.declared_patients for participant in participants)),
        epsilon_exposed=stated,
        epsilon_model=stated,
        clip=parts.clip if parts.stages else config.clip or parts.clip,
        grid_bits=config.grid_bits or GRID_BITS_MOST,
        sample_rate=1.0 if parts.stages else config.sample_rate,
        train_noise=noise,
        describe_clip=parts.describe_bound,
        describe_noise=noise,
        evaluate_noise=noise,
        count_noise=config.count_noise,
        honest=_honest(participants, roster) if config.mode == "distributed" else 1,
        canaries=_canaries(config, parts) if config.mode != "none" else 0,
    )


def _honest(participants: tuple[Participant, ...], roster: Roster) -> int:
    """The shares of noise that every opened sum holds for certain, whatever epoch the coordinator chooses."""
    least = honest_minimum(len(participants), colluders=roster.colluders, minimum_cohort=roster.minimum_cohort)
    if least < 2:
        raise PlanningError(
            f"a sum of {len(participants)} sites may hold one honest share of noise only: distributed mode gains nothing, "
            "take privacy.mode=local, invite more sites, or raise the roster's minimum cohort"
        )
    return least


def _canaries(config: PrivacyConfig, parts: TaskParts) -> int:
    """Every run of a model that has room for them measures what its updates give away; the model never feels it."""
    if parts.stages:
        return 0  # they stand in for patients' gradients, of which there are none
    if config.canaries >= 0:
        return config.canaries
    size = sum(spec.size for spec in parts.model.parameters)
    return CANARIES if size >= CANARIES_FROM_PARAMETERS else 0


def default_delta(total_patients: int) -> float:
    """1/N^1.1 of all declared patients together, rounded down to two digits, at most 1e-4."""
    wanted = min(MAX_DELTA, float(total_patients) ** -1.1)
    unit = 10.0 ** (math.floor(math.log10(wanted)) - 1)
    return min(MAX_DELTA, float(f"{math.floor(wanted / unit + 1e-9) * unit:.1e}"))


def calibrated(draft: Plan, config: PrivacyConfig, roster: Roster) -> Plan:
    """`draft` with the least noise that keeps both populations within the target, and the epsilons that follow from it."""
    schedule = draft.schedule
    releases = Releases(
        describe=schedule.max_describe if draft.statistics else 0,
        train=schedule.max_train * schedule.local_steps,
        evaluate=ride_along_limit(draft) + schedule.max_evaluate,
        sample_rate=draft.privacy.sample_rate,
        count_noise=draft.privacy.count_noise,
    )
    noises = calibrate(config.target_epsilon, draft.privacy.delta, releases, describe_share=config.describe_share)
    shares = math.sqrt(draft.privacy.honest)  # of equal size: h of them add up to the noise that is charged
    terms = replace(
        draft.privacy,
        train_noise=_up(noises.train_noise / shares, NOISE_DIGITS),
        describe_noise=_up(noises.describe_noise / shares, NOISE_DIGITS),
        evaluate_noise=_up(noises.evaluate_noise / shares, NOISE_DIGITS),
    )
    plan = replace(draft, privacy=terms)
    return certified(plan if config.grid_bits else _on_a_grid_that_fits(plan), roster)


def _on_a_grid_that_fits(plan: Plan) -> Plan:
    """`plan` with the finest grid on which sums and noise fit into the ring; as it was if none does (`off_grid` says so)."""
    for bits in range(GRID_BITS_MOST, GRID_BITS_LEAST - 1, -1):
        candidate = replace(plan, privacy=replace(plan.privacy, grid_bits=bits))
        if not off_grid(candidate):
            return candidate
    return plan


def certified(plan: Plan, roster: Roster) -> Plan:
    """`plan` with both epsilons as the reference accountant has them, rounded up."""
    exposed = _up(epsilon_exposed(plan), EPSILON_DIGITS)
    read = epsilon_model(plan, colluders=roster.colluders, minimum_cohort=roster.minimum_cohort)
    model = min(exposed, _up(read, EPSILON_DIGITS))
    return replace(plan, privacy=replace(plan.privacy, epsilon_exposed=exposed, epsilon_model=model))


def _up(value: float, digits: int) -> float:
    """`value` rounded up to `digits` decimals: stated noise and epsilon never lie on the wrong side."""
    return float(f"{math.ceil(value * 10.0**digits) / 10.0**digits:.{max(digits, 0)}f}")


def coordinate_clip(plan: Plan) -> float:
    """The power of two that bounds every coordinate of a site's update, with room for its noise."""
    terms, steps = plan.privacy, plan.schedule.local_steps * plan.schedule.local_rate
    if terms.distributed:
        return 1.0  # not used: sums saturate at `signal_bound`, on their own grid
    if not plan.private:
        return float(2.0 ** math.ceil(math.log2(steps * UNCLIPPED_GRADIENT)))
    signal = SIGNAL_MARGIN * terms.clip * steps
    return float(2.0 ** math.ceil(math.log2(signal + NOISE_SIGMAS * coordinate_noise(plan))))
