"""Whether predicted risks are right: what happened, by Aalen and Johansen, in groups of people with like predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from tasks.metrics import GROUPS, LEAST_MASS

if TYPE_CHECKING:
    from tasks.hazards.figures import Counted

STEPS: Final = 15  # of Fisher scoring, which converges in fewer
LINEAR: Final = (-12.0, 2.5)  # log cumulative hazards: beyond, a risk is 0 or 1
EDGE: Final = 1e-4  # an observed risk counts as at least so far from 0 and 1, since lines are drawn on a logarithmic scale


def aalen_johansen(mine: Tensor, everything: Tensor, at_risk: Tensor) -> Tensor:
    """Chance that the cause has come first by the end of each time, (..., times); from its events, those of all causes, and people
    at risk. With one cause, one minus the Kaplan-Meier curve.
    """
    at_risk = at_risk.clamp(min=LEAST_MASS)
    stay = (1.0 - everything / at_risk).clamp(0.0, 1.0).cumprod(-1)
    before = torch.cat([torch.ones_like(stay[..., :1]), stay[..., :-1]], dim=-1)
    return (before * mine / at_risk).cumsum(-1)


def group_numbers(people: Tensor) -> Tensor:
    """The group of each bin, (bins,), by the share of `people` (bins,) with a lower prediction, half of its own included."""
    counts = people.detach().clamp(min=0.0)
    rank = counts.cumsum(0)
    return (GROUPS * (rank - counts / 2) / rank[-1].clamp(min=LEAST_MASS)).long().clamp(0, GROUPS - 1)


def groups(of: Counted, risk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """People, mean predicted and observed risk of at most ten groups of about equal size, (groups,) each, lowest risk first."""
    people = of.events.sum((0, 1)) + of.free.sum(0)
    of_group = (group_numbers(people) == torch.arange(GROUPS)[:, None]).to(people.dtype)  # (groups, bins)
    mine = of_group @ of.mine.T
    everything = of_group @ of.events.sum(1).T
    free = of_group @ of.free.T
    later = (everything.flip(1).cumsum(1) + free[:, 1:].flip(1).cumsum(1)).flip(1)
    observed = aalen_johansen(mine, everything, later)[:, -1]
    size = of_group @ people
    kept = size.detach() > LEAST_MASS
    predicted = (of_group @ (people * risk))[kept] / size[kept]
    return size[kept], predicted.clamp(EDGE, 1.0 - EDGE), observed[kept].clamp(EDGE, 1.0 - EDGE)


def calibration_error(of: Counted, risk: Tensor) -> Tensor:
    """Mean distance of predicted and observed risk over the groups."""
    size, predicted, observed = groups(of, risk)
    return (size * (predicted - observed).abs()).sum() / size.sum()


def calibration_line(of: Counted, risk: Tensor) -> tuple[Tensor, Tensor]:
    """Slope of the observed against the predicted log cumulative hazard, and the intercept where the slope is 1. Ideal: 1 and 0.

    By maximum likelihood of a binomial with the complementary log-log link, a group counting as many people as it has.
    """
    size, predicted, observed = groups(of, risk)
    x = torch.log(-torch.log1p(-predicted))
    line = _fit(torch.stack([torch.ones_like(x), x], dim=1), x, size, observed)
    level = _fit(torch.ones_like(x)[:, None], x, size, observed)
    return 1.0 + line[1], level[0]


def _fit(design: Tensor, offset: Tensor, size: Tensor, observed: Tensor) -> Tensor:
    """Coefficients (k,) of the `design` (groups, k) beside the `offset`, by Fisher scoring from 0 in steps of 1 at most.

    McCullagh and Nelder 1989, section 4.4.
    """
    found = torch.zeros(design.shape[1], dtype=design.dtype)
    for _ in range(STEPS):
        linear = (offset + design @ found).clamp(*LINEAR)
        chance = -torch.expm1(-torch.exp(linear))
        slope = torch.exp(linear - torch.exp(linear))
        weight = size * slope**2 / (chance * (1.0 - chance))
        score = design.T @ (size * slope * (observed - chance) / (chance * (1.0 - chance)))
        step: Tensor = torch.linalg.solve_ex(design.T @ (design * weight[:, None]), score)[0]
        found = found + step / step.abs().max().clamp(min=1.0)
    return found
