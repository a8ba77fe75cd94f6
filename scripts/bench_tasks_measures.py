"""How `scripts/bench tasks` compares arms: exact figures of the test patients, patient by patient and without bins.

A patient counts once, parted among its records, as in released histograms. Each primary figure is a ratio of two sums over pairs or
records, so the pairs within sites can be added up over sites: that is the figure of small sites, where one site alone has too few
patients for a figure of its own. Comparing patients of one hospital with one another also asks what a hospital asks.
All other figures (calibration, Brier score ...) are the product's own, `task.scoring`, on histograms too fine to matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.sides import Side
from tasks.base import Task
from tasks.errors import ContractError
from tasks.hazards.likelihood import cumulative_risks
from tasks.hazards.task import HazardTask
from tasks.scoring.base import Scored, summed

Floats = NDArray[np.float64]
Told = Mapping[str, Floats]  # by site: a model's outputs for the site's test records
Ratio = tuple[float, float]  # numerator and denominator of a figure
FINE_BINS = (4096, 2048, 1024, 512, 256, 128)  # the finest that a scoring takes
GRID_BITS = 30


@dataclass(frozen=True)
class Measure:
    """A task's primary figure: `of` gives its two sums for records with outputs, labels and weights."""

    name: str
    of: Callable[[Floats, Floats, Floats], Ratio]
    lower_is_better: bool = False


def auc(scores: Floats, events: NDArray[np.bool_], weights: Floats) -> Ratio:
    """Pairs of an event and none in the right order, ties half; all such pairs. Scores, events, weights (n,)."""
    order = np.argsort(scores, kind="stable")
    score, event, weight = scores[order], events[order], weights[order]
    none = np.concatenate([[0.0], np.cumsum(np.where(event, 0.0, weight))])
    below = none[np.searchsorted(score, score, side="left")]
    up_to = none[np.searchsorted(score, score, side="right")]
    ordered = float(np.sum(np.where(event, weight, 0.0) * (below + up_to) / 2))
    return ordered, float(weight[event].sum() * none[-1])


def yes_no(outputs: Floats, labels: Floats, weights: Floats) -> Ratio:
    """AUC of logits (n,) for labels (n,)."""
    return auc(outputs, labels > 0, weights)


def watched_yes_no(outputs: Floats, labels: Floats, weights: Floats) -> Ratio:
    """AUC of those who were watched for the whole time: labels (n, 2), event and watched share."""
    known = labels[:, 1] >= 1.0
    return auc(outputs[known], labels[known, 0] > 0, weights[known])


def absolute_error(change: float) -> Callable[[Floats, Floats, Floats], Ratio]:
    """Mean absolute error, in points, of outputs (n,) in steps of `change` from the last value: labels (n, 2), value and last."""

    def of(outputs: Floats, labels: Floats, weights: Floats) -> Ratio:
        errors = np.abs(labels[:, 1] + change * outputs - labels[:, 0])
        return float(weights @ errors), float(weights.sum())

    return of


def still_watched(time: NDArray[np.int64], event: NDArray[np.bool_], weights: Floats, until: int) -> Floats:
    """Chance of being watched up to the end of each quarter 0 .. until or longer, (until + 1,), by Kaplan and Meier.

    In one quarter events come before losses, as in `tasks.hazards.figures`.
    """
    found = np.ones(until + 1)
    for quarter in range(until):
        there = float(weights[(time > quarter) | ((time == quarter) & ~event)].sum())
        lost = float(weights[(time == quarter) & ~event].sum())
        found[quarter + 1] = found[quarter] * (1.0 - lost / there if there > 0 else 1.0)
    return np.maximum(found, 0.01)


def hazard(task: HazardTask, cause: int, years: int, *, pairs_in_time: bool) -> Callable[[Floats, Floats, Floats], Ratio]:
    """Of the risk of `cause` within `years`: Uno's C (`pairs_in_time`), or the AUC at the horizon with competing causes.

    Those lost early are weighed for by the chance of being watched, which is that of the records given: sites are watched
    differently, and within one its own is the right one.
    """
    horizon = 4 * years

    def of(outputs: Floats, labels: Floats, weights: Floats) -> Ratio:
        risk = cumulative_risks(outputs, len(task.causes))[:, horizon - 1, cause - 1]
        clean, seen, causes = labels.astype(np.int64).T
        happened = (causes > 0) & (seen <= horizon)
        time = np.where(happened, seen, np.minimum(np.where(causes > 0, seen - 1, clean), horizon))
        watched = still_watched(time, happened, weights, horizon)
        mine = happened & (causes == cause)
        if not pairs_in_time:
            fate = np.where(happened, 1.0 / watched[np.maximum(time - 1, 0)], (time >= horizon) / watched[horizon])
            known = fate > 0
            return auc(risk[known], mine[known], (weights * fate)[known])
        ordered = total = 0.0
        for quarter in range(1, horizon + 1):
            cases, later = mine & (time == quarter), (time > quarter) | ((time == quarter) & ~happened)
            if cases.any() and later.any():
                chosen = cases | later
                won, pairs = auc(risk[chosen], cases[chosen], weights[chosen])
                ordered, total = ordered + won / watched[quarter - 1] ** 2, total + pairs / watched[quarter - 1] ** 2
        return ordered, total

    return of


# -- over sites ------------------------------------------------------------------------------------------------------------


def weights_of(side: Side) -> Floats:
    """What each record counts: a patient's records share 1."""
    return np.asarray(1.0 / side.counts[side.owners], dtype=np.float64)


def primary(measure: Measure, told: Told, sides: Mapping[str, Side]) -> float:
    """Of all test records of the sites together."""
    outputs, labels, weights = (
        np.concatenate([part(site) for site in told])
        for part in (lambda s: told[s], lambda s: np.asarray(sides[s].labels, dtype=np.float64), lambda s: weights_of(sides[s]))
    )
    return _share(measure.of(outputs, labels, weights))


def within(measure: Measure, told: Told, sides: Mapping[str, Side], sites: Iterable[str]) -> float:
    """Of pairs within these sites, added up over them; NaN where no site has any."""
    found = [
        measure.of(told[site], np.asarray(sides[site].labels, dtype=np.float64), weights_of(sides[site]))
        for site in sites
        if len(sides[site].labels)
    ]
    return _share(tuple(np.sum(found, axis=0))) if found else float("nan")


def _share(ratio: Ratio) -> float:
    return ratio[0] / ratio[1] if ratio[1] > 0 else float("nan")


def all_figures(task: Task, told: Told, sides: Mapping[str, Side]) -> dict[str, float]:
    """The product's own figures from a fine histogram without noise."""
    scoring = _finest(task)
    histogram = np.zeros(scoring.cells)
    for site, outputs in told.items():
        side = sides[site]
        scored = Scored(outputs, side.labels, side.values)
        histogram += summed(scoring, scored, side.counts[side.owners], GRID_BITS) / 2.0**GRID_BITS
    return dict(scoring.figures(histogram))


def _finest(task: Task):  # type: ignore[no-untyped-def]  # a Scoring
    for bins in FINE_BINS:
        try:
            found = task.scoring(bins)
        except ContractError:
            continue
        if found.cells <= 2 * 16_384:
            return found
    raise ContractError(f"task {task.name} takes none of {FINE_BINS} bins")
