"""What a plan will cost, said before anything is spent: epsilon per site, rounds, bytes, time, and how many sites must stay.

Privacy and sizes follow from the plan exactly. Control traffic and seconds are estimates from measurements of the protocol
and of the transport; they are marked so.
"""

import math
import textwrap
from dataclasses import asdict, dataclass

import numpy as np

from consortium.canonical import Json
from consortium.plan import Participant, Plan, header_fields
from privacy.terms import epsilon_exposed, ride_along_limit
from secagg.numbers import honest_in_sum, limits, ring_scale, threshold, weakest_epoch
from server.card import NOT_PRIVATE_BANNER
from server.errors import PlanningError

HEADER_WORD = 8  # bytes
MODEL_VALUE = 4  # bytes
HEADER_SIGMAS = 8.0
HEADER_MARGIN = 2.0  # a site may hold twice its declared patients

# Measured sizes of sa1's own messages, bytes per site, by number of sites (secure aggregation, section 5).
SITES = (3.0, 5.0, 10.0, 20.0, 30.0)
ROUND_UP = (1_300.0, 2_000.0, 5_700.0, 18_900.0, 39_900.0)
ROUND_DOWN = (900.0, 1_200.0, 3_000.0, 10_500.0, 22_400.0)
EPOCH_UP = (4_000.0, 6_500.0, 12_000.0, 24_000.0, 35_400.0)
EPOCH_DOWN = (8_000.0, 13_000.0, 25_000.0, 51_000.0, 76_000.0)

SECONDS_A_MESSAGE = 0.7  # over the real transport, four sites on two cores
MESSAGES_A_ROUND = 2
NAME_WIDTH, LINE_WIDTH = 18, 80  # characters of the lines for a terminal
BYTES_A_SECOND = 2.5e6  # 20 Mbit/s, both ways, at the slowest site


@dataclass(frozen=True)
class SiteCost:
    site: str
    declared_patients: int
    weight: float
    noise_to_clip: float  # noise of one coordinate of the site's mean gradient, relative to the clip
    epsilon_exposed: float
    epsilon_model: float


@dataclass(frozen=True)
class Cost:
    """`bytes_up`, `bytes_down`: per site, whole run without failures. `ring_step`: resolution of the opened update."""

    run_id: str
    private: bool
    unit: str
    delta: float
    epsilon_exposed: float
    epsilon_model: float
    describe_rounds: int
    train_rounds: int
    evaluations: int
    attempts_allowed: int
    minimum_survivors: int
    dropouts_tolerated: int
    honest_in_every_sum: int
    mode: str
    limits: tuple[str, ...]
    bytes_up: int
    bytes_down: int
    seconds_estimated: float
    coordinate_clip: float
    ring_step: float
    sites: tuple[SiteCost, ...]

    def document(self) -> Json:
        """For `--json`; infinity is written as -1."""
        return _plain(asdict(self))


def cost(plan: Plan, *, colluders: int, minimum_cohort: int) -> Cost:
    """The cost of `plan` for every site. Raises `PlanningError` if the header could leave its ring."""
    check_header_range(plan)
    sites = len(plan.participants)
    exposed = epsilon_exposed(plan) if plan.private else math.inf
    model = plan.privacy.epsilon_model if plan.private else math.inf
    up, down = bytes_per_site(plan)
    schedule = plan.schedule
    ride_along = min(schedule.rounds // schedule.evaluate_every, ride_along_limit(plan))
    return Cost(
        run_id=plan.run_id,
        private=plan.private,
        unit="patient, add or remove one" if plan.private else NOT_PRIVATE_BANNER,
        delta=plan.privacy.delta,
        epsilon_exposed=exposed,
        epsilon_model=model,
        describe_rounds=min(1, plan.statistics),
        train_rounds=schedule.rounds,
        evaluations=ride_along + min(1, schedule.max_evaluate),
        attempts_allowed=schedule.max_round,
        minimum_survivors=threshold(sites, colluders),
        dropouts_tolerated=sites - threshold(sites, colluders),
        honest_in_every_sum=honest_in_sum(weakest_epoch(sites, colluders, minimum_cohort), colluders),
        mode=plan.privacy.mode,
        limits=limits(sites, colluders, minimum_cohort),
        bytes_up=up,
        bytes_down=down,
        seconds_estimated=seconds(plan, up + down),
        coordinate_clip=plan.coordinate_clip,
        ring_step=_ring_step(plan),
        sites=tuple(_site(plan, participant, exposed, model) for participant in plan.participants),
    )


def _ring_step(plan: Plan) -> float:
    """What one step of the ring is worth in the opened sum."""
    if plan.privacy.distributed:
        return plan.privacy.grid_step
    return plan.coordinate_clip / ring_scale(len(plan.participants), plan.ring_bits)


def _site(plan: Plan, participant: Participant, exposed: float, model: float) -> SiteCost:
    noise = plan.privacy.train_noise / (plan.privacy.sample_rate * participant.declared_patients)
    weight = plan.weight(participant.site)
    return SiteCost(participant.site, participant.declared_patients, weight, noise, exposed, model)


def bytes_per_site(plan: Plan) -> tuple[int, int]:
    """(up, down) of one site over a run without failures: model, masked vector, header, protocol; TLS and framing not counted."""
    purposes = ["describe"] * min(1, plan.statistics) + ["train"] * plan.schedule.rounds
    purposes += ["evaluate"] * min(1, plan.schedule.max_evaluate)
    sites = float(len(plan.participants))
    up, down = np.interp(sites, SITES, EPOCH_UP), np.interp(sites, SITES, EPOCH_DOWN)
    for number, purpose in enumerate(purposes, start=1):
        header = 1 + sum(field.length for field in header_fields(plan, number, purpose))
        body = plan.n_parameters if purpose == "train" else 0
        up += HEADER_WORD * header + plan.ring_bits // 8 * body + np.interp(sites, SITES, ROUND_UP)
        down += MODEL_VALUE * plan.model_size + np.interp(sites, SITES, ROUND_DOWN)
    return round(float(up)), round(float(down))


def seconds(plan: Plan, bytes_moved: int) -> float:
    """Estimate: fixed cost of the messages plus transfer; local computing is not in it."""
    rounds = min(1, plan.statistics) + plan.schedule.rounds + min(1, plan.schedule.max_evaluate)
    return (2 + MESSAGES_A_ROUND * rounds) * SECONDS_A_MESSAGE + bytes_moved / BYTES_A_SECOND


def check_header_range(plan: Plan) -> None:
    """Sums of counts and statistics must stay inside the header's ring, with noise; the body saturates by construction."""
    terms = plan.privacy
    if terms.distributed:
        return  # whole steps: a header word has room for 2^63 of them, and no count times 2^20 comes near
    limit = 2.0**31 / len(plan.participants)
    largest = HEADER_MARGIN * max(participant.declared_patients for participant in plan.participants)
    noise = HEADER_SIGMAS * max(terms.evaluate_noise, terms.describe_noise * terms.describe_clip, terms.count_noise)
    if largest + noise >= limit:
        raise PlanningError(
            f"a header value of {largest + noise:.3g} could leave the ring, limit {limit:.3g}: more epsilon or fewer evaluations"
        )


def _plain(value: object) -> Json:
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else -1.0
    if value is None or isinstance(value, bool | int | str):
        return value
    raise PlanningError(f"a cost cannot hold a {type(value).__name__}")


def cost_lines(found: Cost) -> tuple[str, ...]:
    """The same for a terminal, one fact a line of at most 80 characters."""
    survive = f"{found.minimum_survivors} must stay, {found.dropouts_tolerated} may drop"
    return (
        f"run               {found.run_id}",
        *_privacy_lines(found),
        _rounds_line(found),
        f"attempts          at most {found.attempts_allowed} round numbers; epsilon covers them all",
        f"sites             {len(found.sites)}; {survive}; at least {found.honest_in_every_sum} honest in every sum",
        *(line for sentence in found.limits for line in _wrapped("mind", sentence)),
        f"bytes per site    {found.bytes_up / 1e6:.2f} MB up, {found.bytes_down / 1e6:.2f} MB down (estimate)",
        f"time              about {found.seconds_estimated / 60:.1f} min over the network, local computing not in it",
        _step_line(found),
        *(
            f"  {site.site:<16}declared {site.declared_patients}, weight {site.weight:.3f}, noise/clip {site.noise_to_clip:.3f}"
            for site in found.sites
        ),
    )


def _rounds_line(found: Cost) -> str:
    if not found.evaluations:
        return f"rounds            {found.train_rounds}: sums, no model is trained"
    return (
        f"rounds            {found.describe_rounds} describe + {found.train_rounds} train + 1 evaluate; "
        f"{found.evaluations} evaluations"
    )


def _step_line(found: Cost) -> str:
    if found.mode == "distributed":
        return f"grid              step of the opened sum {found.ring_step:.1e}, in it sums and noise are exact"
    return f"coordinate clip   {found.coordinate_clip:g}; step of the opened update {found.ring_step:.1e}"


def _wrapped(name: str, sentence: str) -> list[str]:
    first, later = f"{name:<{NAME_WIDTH}}", " " * NAME_WIDTH
    return textwrap.wrap(sentence, LINE_WIDTH, initial_indent=first, subsequent_indent=later)


def _privacy_lines(found: Cost) -> tuple[str, ...]:
    if not found.private:
        return (f"{NOT_PRIVATE_BANNER}: no clipping, no noise; every site's policy must allow it",)
    charged = "  charged to every site's budget"
    exposed, model = ("", charged) if found.mode == "distributed" else (charged, "  against the hub and readers of the model")
    return (
        f"epsilon exposed   {found.epsilon_exposed:.3f}{exposed or '  if one update were read in the clear'}",
        f"epsilon model     {found.epsilon_model:.3f}{model}",
        f"mode              {found.mode}",
        f"delta             {found.delta:.2e}; unit: {found.unit}",
    )
