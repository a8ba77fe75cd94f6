"""Figures of times to an event from the summed histogram, with what chance and noise may have made of them.

Every figure is a smooth function of the cells. Its gradient, by torch, gives both standard errors (delta method): a cell of people
varies by its own count (Poisson), and noise adds its known variance to each. Who is lost is weighed for by the inverse chance of
still being watched (IPCW), taken from the same cells by Kaplan and Meier. No cell is clamped before a figure is made: at 0 that
would add the noise's positive half. Only results are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from tasks.disclosure import Sharpness
from tasks.errors import ContractError
from tasks.hazards.calibration import aalen_johansen, calibration_error, calibration_line, group_numbers, groups
from tasks.hazards.scoring import risk_centres, risk_edges
from tasks.metrics import GROUPS, LEAST_MASS, MASS_LIMIT, NOISE_LIMIT, CalibrationGroup, Figure, figure
from tasks.scoring.base import Floats
from tasks.scoring.names import NOISE_DOMINATES, Name, parsed

if TYPE_CHECKING:
    from tasks.hazards.scoring import Block, HazardScoring

LEAST_WATCHED: Final = 0.01  # chance of still being watched: nobody counts for more than a hundred


class Counted:
    """One block as people, not weights: `events` (times, kinds, bins), `free` (times + 1, bins), both float64.

    `watched` (times,): the chance of being watched up to the end of each time or longer, that is of not being lost before it.
    """

    def __init__(self, block: Block, cells: Tensor) -> None:
        self.block, split = block, block.times * block.kinds
        rows = cells.reshape(block.rows, block.bins)
        self.events, self.free = rows[:split].reshape(block.times, block.kinds, block.bins), rows[split:]
        self.all_events, lost = self.events.sum((1, 2)), self.free.sum(1)
        from_here_lost = lost.flip(0).cumsum(0).flip(0)
        from_here_events = self.all_events.flip(0).cumsum(0).flip(0)
        self.at_risk = from_here_events + from_here_lost[1:]  # of an event of each time
        could_be_lost = from_here_events + from_here_lost[:-1]  # at the end of times 0 .. times - 1
        share = torch.where(could_be_lost > LEAST_MASS, lost[:-1] / could_be_lost.clamp(min=LEAST_MASS), 0.0)
        self.watched = (1.0 - share.clamp(0.0, 1.0)).cumprod(0).clamp(min=LEAST_WATCHED)

    @property
    def mine(self) -> Tensor:
        """Events of the view's cause, (times, bins)."""
        return self.events[:, 0]

    @property
    def others(self) -> Tensor:
        """Events of all other causes, (times, bins)."""
        return self.events.sum(1) - self.mine


def concordance(of: Counted, watched: Tensor) -> Tensor:
    """Share of pairs in the right order: an event of the cause, and one who had none by then, or another event; ties half.

    With `watched` of the block that is Uno 2011 (one cause) and Wolbers 2014 (several); with ones, Harrell 1982.
    """
    mine, events = of.mine / watched[:, None], of.events.sum(1)
    after = (events.flip(0).cumsum(0).flip(0) - events) + of.free.flip(0).cumsum(0).flip(0)[1:]
    opposite = after / watched[:, None] + (of.others / watched[:, None]).cumsum(0)
    return _ordered(mine, opposite)


def area(of: Counted) -> Tensor:
    """AUC at the horizon: events of the cause by then against all others of known fate (Uno 2007; Blanche 2013 for more causes)."""
    cases, controls = fates(of)
    return _ordered(cases[None], controls[None])


def fates(of: Counted) -> tuple[Tensor, Tensor]:
    """People with the event by the horizon and without, (bins,) each, weighed for those of unknown fate."""
    free = of.free[-1] / of.watched[-1] + (of.others / of.watched[:, None]).sum(0)
    return (of.mine / of.watched[:, None]).sum(0), free


def brier(of: Counted) -> Tensor:
    """Mean squared error of the risk at the horizon (Graf 1999), from bin centres."""
    risk = _risk(of)
    cases, controls = fates(of)
    total = of.events.sum() + of.free.sum()
    return (cases * (1.0 - risk) ** 2 + controls * risk**2).sum() / total


def _ordered(high: Tensor, low: Tensor) -> Tensor:
    below = low.cumsum(-1) - low / 2
    return (high * below).sum() / (high.sum(-1) * low.sum(-1)).sum()


def _risk(of: Counted) -> Tensor:
    return torch.from_numpy(risk_centres(of.block.view.years, of.block.bins))


def expected(of: Counted) -> Tensor:
    """Mean predicted risk at the horizon, from bin centres."""
    people = of.events.sum((0, 1)) + of.free.sum(0)
    return (people * _risk(of)).sum() / people.sum()


MAKERS: Final[Mapping[str, Callable[[Counted], Tensor]]] = {
    "uno_c": lambda of: concordance(of, of.watched),
    "harrell_c": lambda of: concordance(of, torch.ones_like(of.watched)),
    "auc": area,
    "brier": brier,
    "observed": lambda of: aalen_johansen(of.mine.sum(1), of.all_events, of.at_risk)[-1],
    "expected": expected,
    "calibration_slope": lambda of: calibration_line(of, _risk(of))[0],
    "calibration_intercept": lambda of: calibration_line(of, _risk(of))[1],
    "calibration_error": lambda of: calibration_error(of, _risk(of)),
}
RANKINGS: Final = ("uno_c", "harrell_c")
LINES: Final = ("calibration_slope", "calibration_intercept")  # any number; all others are within 0 and 1
ROUNDING: Final = 1e-9
LEAST_FOR_A_LINE: Final = 10  # events; a line through fewer tells nothing
OF_GROUPS: Final = ("uno_c", "auc", "observed", "expected")


def figures_of(scoring: HazardScoring, histogram: Floats, noise_std: float) -> Mapping[str, float]:
    """All figures of the summed `histogram` (cells,), each with its 95 % interval `_low`, `_high`; what cannot be said is left out.

    One cause: Uno's and Harrell's C of the first view; of each view AUC, Brier score, observed and expected risk, slope, intercept
    and error of calibration, with the years in the name (`auc_2y`); `ibs`, the Brier scores integrated over the views' years by
    trapezoids and divided by their span. Several causes: all of these for each view, with the cause in the name (`auc_pira`).
    Of groups (`auc_pira[sex=F]`): what tells of ranking, and only where there are enough. `patients`, `events`: estimated.
    """
    cells = np.asarray(histogram, dtype=np.float64)
    if cells.shape != (scoring.cells,):
        raise ContractError(f"a histogram of shape {cells.shape}, this scoring has ({scoring.cells},)")
    found: dict[str, float] = {}
    views = [(group, OneView(part, cells, noise_std)) for block in scoring.blocks for group, part in block.groups().items()]
    first, noise = views[0][1], 0.0
    for group, view in views:
        if not view.enough if group else view.drowned and view is not first:
            continue
        figures = view.figures(OF_GROUPS if group else tuple(MAKERS))
        named = {name: one for key, one in figures.items() if (name := _named(scoring, view.of.block, key, group))}
        noise = named[scoring.primary].noise_se if scoring.primary in named else noise
        found |= _flat(named)
    found |= {"patients": first.patients, "events": first.events, **_integrated(scoring, found)}
    return found | {NOISE_DOMINATES: float(first.drowned or noise > NOISE_LIMIT)}


class OneView:
    """What one block says, of everybody or of one group."""

    def __init__(self, block: Block, cells: Floats, noise_std: float) -> None:
        self.noise = noise_std / block.weight  # in each cell, in patients
        people = cells[block.first : block.first + block.rows * block.bins] / block.weight
        self.people = torch.from_numpy(people).requires_grad_()
        self.of = Counted(block, self.people)
        counted = self.of
        self.patients, self.events, cases, others = (
            float(some.detach().sum()) for some in (self.people, counted.events, counted.mine, counted.free[-1])
        )
        self.without = LINES if cases < LEAST_FOR_A_LINE else ()
        self.few = min(cases, others) <= LEAST_MASS
        self.drowned = self.noise > 0 and min(cases, others) < MASS_LIMIT * self.noise * math.sqrt(block.times * block.bins)
        floor = Sharpness(self.noise * math.sqrt(block.times * block.bins)).floor
        self.enough = min(cases, self.patients - cases) >= floor and not self.drowned

    def figures(self, names: Sequence[str]) -> dict[str, Figure]:
        """Those of the `names` that can be said."""
        if self.few:
            return {}
        return {name: one for name in names if name not in self.without and (one := self._figure(name)) is not None}

    def _figure(self, name: str) -> Figure | None:
        made = MAKERS[name](self.of)
        (slopes,) = torch.autograd.grad(made, self.people, retain_graph=True)
        value = float(made.detach())
        share = name not in LINES
        least, most = (0.0, 1.0) if share else (-math.inf, math.inf)
        if not math.isfinite(value) or not bool(torch.isfinite(slopes).all()) or not least - ROUNDING <= value <= most + ROUNDING:
            return None  # a share that noise drove out of 0 to 1 is none, and its end would look like a perfect one
        return figure(value, slopes.numpy(), self.people.detach().numpy(), self.noise, least=least, most=most, logit=share)


def calibration_groups(scoring: HazardScoring, histogram: Floats) -> tuple[CalibrationGroup, ...]:
    """The first view's groups of like predictions, with what was predicted and what happened; none without events."""
    block = scoring.blocks[0]
    one = OneView(block, np.asarray(histogram, dtype=np.float64), 0.0)
    if one.few:
        return ()
    people = (one.of.events.sum((0, 1)) + one.of.free.sum(0)).detach()
    number = group_numbers(people).numpy()
    edges = risk_edges(block.view.years, block.bins)
    sizes, predicted, observed = (values.detach().tolist() for values in groups(one.of, _risk(one.of)))
    kept = [bins for group in range(GROUPS) if float(people[bins := np.flatnonzero(number == group)].sum()) > LEAST_MASS]
    return tuple(
        CalibrationGroup(float(edges[bins[0]]), float(edges[bins[-1] + 1]), *found)
        for bins, found in zip(kept, zip(sizes, predicted, observed, strict=True), strict=True)
    )


def _named(scoring: HazardScoring, block: Block, name: str, group: str) -> str:
    """`auc_2y` of one cause, `auc_pira` of several; "" for what is not told of the view."""
    if len(scoring.causes) > 1:
        return str(Name(f"{name}_{scoring.causes[block.view.cause - 1]}", "", group))
    if name in RANKINGS:
        return str(Name(name, "", group)) if block.view == scoring.views[0] else ""
    return str(Name(f"{name}_{block.view.years}y", "", group))


def _flat(named: Mapping[str, Figure]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, one in named.items():
        of = parsed(name)
        ends = {"": one.value, "low": one.low, "high": one.high, "noise_se": one.noise_se or None}
        found |= {str(Name(of.figure, part, of.group)): value for part, value in ends.items() if value is not None}
    return found


def _integrated(scoring: HazardScoring, found: Mapping[str, float]) -> dict[str, float]:
    """The mean over time of the Brier score, with an interval as if all its parts erred the same way."""
    years = sorted(view.years for view in scoring.views)
    if len(scoring.causes) > 1 or len(years) < 2:
        return {}
    names = {str(Name("ibs", part)): [str(Name(f"brier_{year}y", part)) for year in years] for part in ("", "low", "high")}
    return {
        name: float(np.trapezoid([found[part] for part in parts], years) / (years[-1] - years[0]))
        for name, parts in names.items()
        if all(part in found for part in parts)
    }
