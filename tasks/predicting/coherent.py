"""Risks that do not contradict each other: none falls with a longer horizon, and those of rival events add up to 1 at most.

Each horizon and event is calibrated alone, on the patients whose fate by then is known, so errors of two need not agree. Where they
contradict, the nearest risks that do not are told, each held by its own precision on the scale of log-odds: horizons are pooled
(adjacent violators; Ayer et al. 1955, Robertson, Wright and Dykstra 1988), and rivals give way in the order of their variance.
Whatever the true risks are, the squares of the errors, so weighed, add up to no more than before, and intervals that all held hold
afterwards. All is differentiable, so reasons add up to what is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tasks.predicting.base import Foretold
from tasks.predicting.calibrate import PRIOR_SD, Z95
from tasks.predicting.told import Told


def coherent(foretold: Mapping[str, Foretold], told: Mapping[str, Told]) -> dict[str, Told]:
    """`told` by name, with the risks of one event in order of its horizons, and rivals by each horizon at most 1 together."""
    found = dict(told)
    courses = _courses(foretold)
    for names in courses.values():
        found |= _in_order(names, found)
    years = {name: foretold[name].years for names in courses.values() for name in names}
    for horizon in sorted(set(years.values())):
        rivals = [name for name, one in years.items() if one == horizon]
        found |= _within_one(rivals, found)
    for names in courses.values():
        found |= _cut_to_later(names, found)
    return found


def unmeasured(score: Tensor) -> Told:
    """A risk whose calibration nobody measured: as the model says, within what calibration is thought to be anyhow."""
    spread = Z95 * (PRIOR_SD[0] ** 2 + (PRIOR_SD[1] * score) ** 2).sqrt()
    return Told(score, score - spread, score + spread)


def pooled(values: Tensor, weights: Tensor) -> Tensor:
    """The non-decreasing sequence nearest to each row of `values` (n, k), by squares that `weights` (n, k) above 0 weigh.

    By the min-max formula (Robertson, Wright and Dykstra 1988, 1.4): at each place the largest, over where a stretch around it may
    begin, of the smallest mean over where it may end.
    """
    k = values.shape[1]
    zero = torch.zeros_like(values[:, :1])
    sums, sizes = (torch.cat([zero, part.cumsum(1)], dim=1) for part in (values * weights, weights))
    means = [[(sums[:, j + 1] - sums[:, i]) / (sizes[:, j + 1] - sizes[:, i]) for j in range(i, k)] for i in range(k)]
    least = [[torch.stack(means[i][h - i :]).amin(0) for i in range(h + 1)] for h in range(k)]
    return torch.stack([torch.stack(each).amax(0) for each in least], dim=1)


def _courses(foretold: Mapping[str, Foretold]) -> dict[str, list[str]]:
    """Names of an event's risks in the order of its horizons, by event."""
    found: dict[str, list[str]] = {}
    for name in sorted((name for name, one in foretold.items() if one.event), key=lambda name: foretold[name].years):
        found.setdefault(foretold[name].event, []).append(name)
    return found


def _in_order(names: Sequence[str], told: Mapping[str, Told]) -> dict[str, Told]:
    """The same weights pool the risk and both ends, so that an interval holds its risk, and the true one if it did."""
    if len(names) < 2:
        return {}
    weights = torch.stack([_variance(told[name]) for name in names], dim=1).reciprocal()
    every = ([told[name].score for name in names], [told[name].low for name in names], [told[name].high for name in names])
    parts = [pooled(torch.stack(part, dim=1), weights) for part in every]
    return {name: Told(*(part[:, at] for part in parts)) for at, name in enumerate(names)}


def _within_one(names: Sequence[str], told: Mapping[str, Told]) -> dict[str, Told]:
    """What rivals have above 1 is taken from each by its variance as a risk; the upper ends stay, each holds on its own."""
    if len(names) < 2:
        return {}
    scores = torch.stack([told[name].score for name in names], dim=1)
    risks = torch.sigmoid(scores)
    variances = torch.stack([_variance(told[name]) for name in names], dim=1) * (risks * (1.0 - risks)) ** 2
    excess = (risks.sum(1, keepdim=True) - 1.0).clamp(min=0.0)
    less = (risks - excess * variances / variances.sum(1, keepdim=True)).clamp(min=0.0)
    kept = torch.logit(less / less.sum(1, keepdim=True).clamp(min=1.0), eps=1e-6)
    found = torch.where(excess > 0, kept, scores)
    return {name: Told(found[:, at], torch.minimum(told[name].low, found[:, at]), told[name].high) for at, name in enumerate(names)}


def _cut_to_later(names: Sequence[str], told: Mapping[str, Told]) -> dict[str, Told]:
    """Where rivals took from a later risk, earlier ones are at most as high."""
    found: dict[str, Told] = {}
    later: Told | None = None
    for name in reversed(names):
        one = told[name]
        if later is not None:
            one = Told(torch.minimum(one.score, later.score), torch.minimum(one.low, later.low), one.high)
        found[name] = later = one
    return found


def _variance(one: Told) -> Tensor:
    return ((one.high - one.low) / (2.0 * Z95)) ** 2
