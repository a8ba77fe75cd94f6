"""Figures of a treatment effect from counts alone: predicted effect, stratum of the propensity, treatment, outcome.

No patient's weight is in a cell: inverse chances would have to be cut off to bound what one patient adds. Strata give the weights
afterwards, from the sum (`tasks.effects.cells`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from tasks.effects import figures as of
from tasks.effects.cells import ARMS, STRATA, edges, strata_of
from tasks.effects.learners import EFFECT, OUTCOME, TREATED, TREATMENT
from tasks.errors import ContractError
from tasks.metrics import Z95, Figure, figure
from tasks.scoring.base import Floats, Places, Scored
from tasks.scoring.binary import probabilities
from tasks.scoring.names import NOISE_DOMINATES

MOST_BINS: Final = 600
OUTSIDE: Final = 2  # cells after the others: outside the overlap, and one that stays empty
HALF_STEP: Final = 0.5  # of a count, for slopes by finite differences
# Two things may be declared found: an effect, and that it differs. Each has a chance of 2.5 % where there is nothing, so both 5 %.
Z_EFFECT: Final = 2.241403  # two-sided
Z_ORDER: Final = 1.959964  # one-sided: an order worse than chance is no finding


@dataclass(frozen=True)
class EffectScoring:
    """`bins` of the predicted effect, an even number."""

    bins: int

    def __post_init__(self) -> None:
        if not 2 <= self.bins <= MOST_BINS or self.bins % 2:
            raise ContractError(f"{self.bins} bins of predicted effects: an even number from 2 to {MOST_BINS}, such as 16")

    @property
    def primary(self) -> str:
        return "ad_wabc"

    @property
    def lower_is_better(self) -> bool:
        return False

    @property
    def cells(self) -> int:
        return self.bins * STRATA * ARMS + OUTSIDE

    @property
    def weights(self) -> tuple[float, ...]:
        return (1.0,)

    def places(self, scored: Scored) -> Places:
        """Outputs (n, rows, folds), labels (n, 3): a held-out patient trained no fold, so both predict and their mean counts."""
        if not len(scored):
            return np.zeros((0, 1), dtype=np.int64)
        with np.errstate(over="ignore", invalid="ignore"):  # of a model gone astray; outside the overlap
            effect = scored.outputs[:, EFFECT, :].mean(-1)
        stratum = strata_of(probabilities(scored.outputs[:, TREATMENT, :]).mean(-1))
        inside = (stratum < STRATA) & np.isfinite(effect)
        bins = np.digitize(np.where(inside, effect, 0.0), edges(self.bins))
        treated, happened = (scored.labels[:, at] == 1 for at in (TREATED, OUTCOME))  # whatever else stands there counts as 0
        arm = 2 * treated.astype(np.int64) + happened.astype(np.int64)
        cell = (bins * STRATA + np.minimum(stratum, STRATA - 1)) * ARMS + arm
        return np.where(inside, cell, self.cells - OUTSIDE)[:, None].astype(np.int64)

    def figures(self, histogram: Floats, *, noise_std: float = 0.0) -> Mapping[str, float]:
        """See `tasks.effects.figures`; each but a fifth's with an interval of 95 %, from patients and noise.

        `effect_found` and `order_found`: 1.0 where data say that there is an average effect (Mantel-Haenszel test), and that
        patients predicted to gain more do gain more (score test of `effect_slope`). Where nothing is to be found both together are
        wrong in one of twenty runs.
        """
        cells = np.asarray(histogram[:-OUTSIDE], dtype=np.float64).reshape(self.bins, STRATA, ARMS)
        everybody = float(cells.sum()) + float(histogram[-OUTSIDE])
        known = {name: _known(name, cells, noise_std) for name in of.FIGURES}
        found = {key: value for name, each in known.items() if each for key, value in _named(name, each).items()}
        found |= self._fifths(cells)
        if everybody > 0:
            found["outside_overlap"] = min(max(float(histogram[-OUTSIDE]) / everybody, 0.0), 1.0)
        effect, order = known["ate"], known["effect_slope"]
        found["effect_found"] = float(effect is not None and abs(effect.value) > Z_EFFECT * effect.se > 0)
        found["order_found"] = float(order is not None and order.value > Z_ORDER * order.se > 0)
        found[NOISE_DOMINATES] = float(effect is None or effect.noise_se > effect.sampling_se)
        return found

    def _fifths(self, cells: Floats) -> dict[str, float]:
        seen = {f"effect_fifth_{at + 1}": of.fifth(cells, at) for at in range(of.FIFTHS)}
        predicted = {f"predicted_fifth_{at + 1}": of.predicted_fifth(cells, at) for at in range(of.FIFTHS)}
        return {name: value for name, value in (seen | predicted).items() if math.isfinite(value)}


def _named(name: str, each: Figure) -> dict[str, float]:
    parts = {"": each.value, "_sampling_se": each.sampling_se, "_noise_se": each.noise_se, "_low": each.low, "_high": each.high}
    return {name + part: float(value) for part, value in parts.items() if value is not None}


def _known(name: str, cells: Floats, noise_std: float) -> Figure | None:
    """The figure with its errors; None where it cannot be said."""
    make = of.FIGURES[name]
    value = make(cells)
    if not math.isfinite(value):
        return None
    found = figure(value, _slopes(make, cells), cells, noise_std)
    if name not in of.ERRORS:
        return found
    sampling = of.ERRORS[name](cells)
    error = Z95 * math.hypot(sampling, found.noise_se)
    return Figure(value, sampling, found.noise_se, value - error, value + error)


def _slopes(make: Callable[[Floats], float], cells: Floats) -> Floats:
    """d figure / d cell by central differences, (like cells); 0 where a step leaves what can be said."""
    slopes = np.zeros_like(cells)
    for place in np.ndindex(cells.shape):
        ends = []
        for step in (HALF_STEP, -HALF_STEP):
            moved = cells.copy()
            moved[place] += step
            ends.append(make(moved))
        slopes[place] = ends[0] - ends[1] if all(map(math.isfinite, ends)) else 0.0
    return slopes / (2.0 * HALF_STEP)
