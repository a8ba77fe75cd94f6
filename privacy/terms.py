"""What a plan releases, as events: the one place where rounds of a plan become numbers for the accountant.

Sensitivities, all in L2 and relative to the bound in the plan: a training step sums gradients clipped to `clip`; a
"describe" round sums statistics vectors clipped to `describe_clip`; a histogram counts every held-out patient in exactly
one bin (bound 1). A release that no function here knows cannot be charged, so it cannot happen.
"""

import math
from collections.abc import Iterable
from typing import Final

from consortium.canonical import digest, text
from consortium.plan import PURPOSES, Plan, header_fields
from consortium.roster import SMALLEST_COHORT, Roster
from privacy.accountant import CERTIFY_INTERVAL, epsilon
from privacy.errors import AccountingError
from privacy.events import (
    Event,
    GaussianEvent,
    NonPrivateEvent,
    PoissonGaussianEvent,
    SharedGaussianEvent,
    SharedPoissonGaussianEvent,
    Spend,
    aggregate,
    as_exposed,
)
from privacy.noise import STD_LEAST, STD_MOST, STDS_MOST, sensitivity_factor

SIGNAL_MARGIN: Final = 2  # a site may have up to twice its declared patients before its sum saturates
_KNOWN_FIELDS: Final = frozenset({"statistics", "histogram", "patients"})


def split_id(roster: Roster) -> str:
    """Names the rule that puts patients on the train or the held-out side: same id, same sides, for ever."""
    fraction = text(repr(roster.held_out_fraction))
    return digest("wardround/split/1", roster.split_salt, fraction).hex()


def round_spends(plan: Plan, round_number: int, purpose: str) -> tuple[Spend, ...]:
    """All that one site releases in this round, as one charge, but for what `once_spends` charges."""
    if purpose not in PURPOSES:
        raise AccountingError(f"purpose {purpose!r} is not one of {', '.join(PURPOSES)}: nothing can be charged for it")
    fields = {field.name for field in header_fields(plan, round_number, purpose)}
    if unknown := sorted(fields - _KNOWN_FIELDS):
        raise AccountingError(f"header field {unknown[0]!r} has no event: a plan must not release what nobody accounts for")
    spends = [_train(plan)] if purpose == "train" else []
    if "statistics" in fields:
        spends.append(Spend(_summed(plan, plan.privacy.describe_noise), "train"))
    if "histogram" in fields:
        spends.append(_histograms(plan, 1))
    return aggregate(spends)


def once_spends(plan: Plan) -> tuple[Spend, ...]:
    """What is released once per run and then repeated to the letter: charged with the round that draws it, and not again."""
    return (Spend(_full(plan, plan.privacy.count_noise), "train"),) if plan.privacy.counted else ()


def plan_limit(plan: Plan) -> tuple[Spend, ...]:
    """The most that one site is charged for this plan: every maximum used up, repeats after failures included.

    But for a site that loses the file of what it drew once (`once_spends`): that is charged anew with each loss.
    """
    return aggregate([*_repeated(plan), *once_spends(plan)])


def _repeated(plan: Plan) -> tuple[Spend, ...]:
    """What is drawn anew in every round."""
    schedule = plan.schedule
    spends = [Spend(spend.event, spend.population, spend.count * schedule.max_train) for spend in (_train(plan),)]
    if schedule.max_describe and plan.statistics:
        spends.append(Spend(_summed(plan, plan.privacy.describe_noise), "train", schedule.max_describe))
    if histograms := ride_along_limit(plan) + schedule.max_evaluate:
        spends.append(_histograms(plan, histograms))
    return aggregate(spends)


def ride_along_limit(plan: Plan) -> int:
    """Training rounds that can carry a histogram: round numbers rise, so multiples of `evaluate_every` up to `max_round`."""
    return min(plan.schedule.max_train, plan.schedule.max_round // plan.schedule.evaluate_every)


def epsilon_charged(plan: Plan, *, interval: float = CERTIFY_INTERVAL) -> float:
    """Of the whole plan, as a site's budget is charged: the exposed one in mode local, that of opened sums in mode distributed."""
    return epsilon(plan_limit(plan), plan.privacy.delta, interval=interval)


def epsilon_exposed(plan: Plan, *, interval: float = CERTIFY_INTERVAL) -> float:
    """Of the whole plan, if every update of a site were read in the clear."""
    return epsilon(as_exposed(plan_limit(plan)), plan.privacy.delta, interval=interval)


def epsilon_model(plan: Plan, *, colluders: int, minimum_cohort: int, interval: float = CERTIFY_INTERVAL) -> float:
    """Of the whole plan against the aggregator and whoever holds the models, given that only sums are opened.

    The coordinator chooses who is in an epoch, so this counts the noise of the smallest epoch that the roster lets it choose;
    in mode distributed no more than the plan's `honest` shares, which is what a budget is charged with.
    """
    least = honest_minimum(len(plan.participants), colluders=colluders, minimum_cohort=minimum_cohort)
    hidden = _opened(plan, _repeated(plan), min(least, plan.privacy.honest) if plan.privacy.distributed else least)
    # What repeats is exposed: the sums of two rounds with different survivors differ by one site's noised value.
    return epsilon((*hidden, *once_spends(plan)), plan.privacy.delta, interval=interval)


def honest_minimum(n_participants: int, *, colluders: int, minimum_cohort: int) -> int:
    """The fewest honest sites in any sum that opens, over every epoch of them that the roster lets the coordinator choose."""
    least = min(smallest_epoch(colluders, minimum_cohort), n_participants)
    return min(honest_in_sum(size, colluders) for size in range(least, n_participants + 1))


def smallest_epoch(colluders: int, minimum_cohort: int) -> int:
    """The fewest sites that a site of this roster answers an epoch of (secure aggregation, 4.1)."""
    return max(SMALLEST_COHORT, colluders + 2, minimum_cohort)


def in_opened_sum(plan: Plan, spends: Iterable[Spend], n_sites: int, colluders: int) -> tuple[Spend, ...]:
    """The same releases for somebody who sees only opened sums of an epoch of `n_sites`, of which `colluders` may collude.

    Every opened sum holds the noise of at least t - c honest sites, t = (n + c) // 2 + 1 (secure aggregation, 4.1), all with
    the same standard deviation, since weight times normaliser is the same for every site.
    """
    return _opened(plan, spends, honest_in_sum(n_sites, colluders))


def _opened(plan: Plan, spends: Iterable[Spend], honest: int) -> tuple[Spend, ...]:
    """With several local steps the intermediate noise does not add up across sites: then they are as good as exposed."""
    factor = math.sqrt(honest) if plan.schedule.local_steps == 1 else 1.0
    return tuple(scaled(spend, factor) for spend in as_exposed(spends))


def off_grid(plan: Plan) -> tuple[str, ...]:
    """Releases of a private plan whose noise no integer grid can carry exactly, in words: they would be charged and never leave."""
    terms, bits = plan.privacy, plan.privacy.grid_bits
    releases = [
        ("train_noise", terms.train_noise, plan.n_parameters),
        ("describe_noise", terms.describe_noise if plan.statistics else 0.0, max(plan.statistics, 1)),
        ("evaluate_noise", terms.evaluate_noise, 2 * plan.histogram_bins),
        ("count_noise", terms.count_noise, 1),
    ]
    steps = {name: noise * 2.0**bits * sensitivity_factor(size, bits) for name, noise, size in releases if noise > 0.0}
    misfits = _ring_misfits(plan, steps["train_noise"]) if terms.distributed else ()
    return misfits + tuple(
        f"{name} is {value:.4g} steps of a grid of {bits} bits, possible are {STD_LEAST:.0f} to {STD_MOST:.3g}"
        for name, value in steps.items()
        if not STD_LEAST <= value <= STD_MOST
    )


def _ring_misfits(plan: Plan, noise_steps: float) -> tuple[str, ...]:
    """In mode distributed the ring holds grid steps: no site's clamped sum and noise may leave its share of it, ever."""
    share = 2 ** (plan.ring_bits - 1 - len(plan.participants).bit_length())  # secure aggregation, 4.7: L
    largest = max(signal_bound(plan, participant.site) for participant in plan.participants)
    needed = largest + math.ceil(STDS_MOST * noise_steps)
    if needed <= share:
        return ()
    return (f"the largest site needs {needed:.4g} grid steps for sum and noise, the ring has {share:.4g}: fewer grid_bits",)


def signal_bound(plan: Plan, site: str) -> int:
    """Mode distributed: the grid steps at which each coordinate of a site's sum saturates, before its noise.

    Saturating is done on the exact sum, so it moves no sum of two neighbours further apart.
    """
    return SIGNAL_MARGIN * plan.participant(site).declared_patients << plan.privacy.grid_bits


def coordinate_noise(plan: Plan) -> float:
    """Largest standard deviation of the noise on one coordinate of a site's update, before its weight."""
    terms, schedule = plan.privacy, plan.schedule
    smallest = min(participant.declared_patients for participant in plan.participants)
    step = terms.train_noise * terms.clip / (terms.sample_rate * smallest)
    return schedule.local_rate * math.sqrt(schedule.local_steps) * step


def honest_in_sum(n_sites: int, colluders: int) -> int:
    """Noise contributors in any sum that opens whom nobody can subtract.

    t - c, and at least one less than t: a site that reads the model knows its own noise, also where none is said to collude.
    """
    if colluders < 0 or n_sites < colluders + 2:
        raise AccountingError(f"{n_sites} sites with {colluders} colluders: at least two honest sites are needed")
    return (n_sites + colluders) // 2 + 1 - max(colluders, 1)


def scaled(spend: Spend, factor: float) -> Spend:
    """The same release with `factor` times the noise; for releases that are not shares."""
    match spend.event:
        case GaussianEvent(noise):
            return Spend(GaussianEvent(noise * factor), spend.population, spend.count)
        case PoissonGaussianEvent(noise, rate):
            return Spend(PoissonGaussianEvent(noise * factor, rate), spend.population, spend.count)
        case _:
            return spend


def _train(plan: Plan) -> Spend:
    terms, steps = plan.privacy, plan.schedule.local_steps
    if terms.sample_rate == 1.0 or not plan.private:
        return Spend(_summed(plan, terms.train_noise), "train", steps)
    if terms.distributed:
        return Spend(SharedPoissonGaussianEvent(terms.train_noise, terms.sample_rate, terms.honest), "train", steps)
    return Spend(PoissonGaussianEvent(terms.train_noise, terms.sample_rate), "train", steps)


def _histograms(plan: Plan, count: int) -> Spend:
    return Spend(_summed(plan, plan.privacy.evaluate_noise), "held_out", count)


def _summed(plan: Plan, noise: float) -> Event:
    """What is drawn anew for every sum: in mode distributed only the sum is private."""
    return SharedGaussianEvent(noise, plan.privacy.honest) if plan.privacy.distributed else _full(plan, noise)


def _full(plan: Plan, noise: float) -> Event:
    return GaussianEvent(noise) if plan.private else NonPrivateEvent()
