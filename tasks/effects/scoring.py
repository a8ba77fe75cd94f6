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
from tasks.effects.bedside import line
from tasks.effects.cells import ARMS, STRATA, edges, strata_of
from tasks.effects.found import effect_found, order_found
from tasks.effects.learners import EFFECT, OUTCOME, TREATED, TREATMENT
from tasks.errors import ContractError
from tasks.metrics import Z95, Figure, figure
from tasks.predicting.told import Correction
from tasks.scoring.base import Floats, Places, Scored
from tasks.scoring.binary import probabilities
from tasks.scoring.names import NOISE_DOMINATES

MOST_BINS: Final = 600
OUTSIDE: Final = 2  # cells after the others: outside the overlap, and one that stays empty
HALF_STEP: Final = 0.5  # of a count, for slopes by finite differences
AT_ONCE: Final = 2**20  # numbers in the histograms that are looked at together


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

        `effect_found` and `order_found`: 1.0 where data say that there is an average effect, and that patients predicted to gain
        more do gain more, each by more than strata may leave of confounding (`tasks.effects.found`). Where nothing is to be found
        one of twenty runs at most says either.
        """
        cells = np.asarray(histogram[:-OUTSIDE], dtype=np.float64).reshape(self.bins, STRATA, ARMS)
        everybody = float(cells.sum()) + float(histogram[-OUTSIDE])
        known = {name: _known(name, cells, noise_std) for name in of.FIGURES}
        found = {key: value for name, each in known.items() if each for key, value in _named(name, each).items()}
        found |= self._fifths(cells)
        if everybody > 0:
            found["outside_overlap"] = min(max(float(histogram[-OUTSIDE]) / everybody, 0.0), 1.0)
        effect = known["ate"]
        found["effect_found"] = float(effect_found(cells, noise_std))
        found["order_found"] = float(order_found(cells, noise_std))
        found[NOISE_DOMINATES] = float(effect is None or effect.noise_se > effect.sampling_se)
        return found

    def _fifths(self, cells: Floats) -> dict[str, float]:
        seen = {f"effect_fifth_{at + 1}": of.fifth(cells, at) for at in range(of.FIFTHS)}
        predicted = {f"predicted_fifth_{at + 1}": of.predicted_fifth(cells, at) for at in range(of.FIFTHS)}
        return {name: value for name, value in (seen | predicted).items() if math.isfinite(value)}

    def correction(self, histogram: Floats, noise_std: float) -> Correction:
        """How predicted effects came out: `tasks.predicting.bedside.Corrects`."""
        return line(np.asarray(histogram[:-OUTSIDE], dtype=np.float64).reshape(self.bins, STRATA, ARMS), noise_std)


def _named(name: str, each: Figure) -> dict[str, float]:
    parts = {"": each.value, "_sampling_se": each.sampling_se, "_noise_se": each.noise_se, "_low": each.low, "_high": each.high}
    return {name + part: float(value) for part, value in parts.items() if value is not None}


def _known(name: str, cells: Floats, noise_std: float) -> Figure | None:
    """The figure with its errors; None where it cannot be said."""
    make = of.FIGURES[name]
    value = float(make(cells))
    if not math.isfinite(value):
        return None
    found = figure(value, _slopes(make, cells), cells, noise_std)
    if name not in of.ERRORS:
        return found
    sampling = of.ERRORS[name](cells)
    error = Z95 * math.hypot(sampling, found.noise_se)
    return Figure(value, sampling, found.noise_se, value - error, value + error)


def _slopes(make: Callable[[Floats], Floats], cells: Floats) -> Floats:
    """d figure / d cell by central differences, (like cells); 0 where a step leaves what can be said."""
    slopes = np.zeros(cells.size)
    some = max(1, AT_ONCE // cells.size)
    for first in range(0, cells.size, some):
        places = np.arange(first, min(first + some, cells.size))
        ends = []
        for step in (HALF_STEP, -HALF_STEP):
            moved = np.repeat(cells.reshape(1, -1), len(places), axis=0)
            moved[np.arange(len(places)), places] += step
            ends.append(make(moved.reshape(-1, *cells.shape)))
        with np.errstate(invalid="ignore"):
            found = (ends[0] - ends[1]) / (2.0 * HALF_STEP)
        slopes[places] = np.where(np.isfinite(ends[0]) & np.isfinite(ends[1]), found, 0.0)
    return slopes.reshape(cells.shape)
