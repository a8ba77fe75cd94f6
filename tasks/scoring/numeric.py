"""Outcomes that are numbers: errors, true values and the errors of the last value, each in a histogram on a public range.

A value stands for itself up to its bin: within one, values are taken to be spread evenly. Bins of errors are narrow near 0 and wide
far from it (equal on the signed square root), those of true values equal: with b bins of errors up to R, an error e is known to
about 4 sqrt(|e| R) / b. Noise weighs as much as the error that its bin stands for, so R is a public number not far above what
occurs; errors beyond count as R. `tests/tasks/test_scoring_numeric.py` states what the bins make of each figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np

from tasks.disclosure import Sharpness
from tasks.errors import ContractError
from tasks.metrics import LEAST_MASS, Z95, Figure, figure
from tasks.predicting.own import own
from tasks.predicting.told import Correction
from tasks.scoring.base import Floats, Places, Scored
from tasks.scoring.groups import Grouping
from tasks.scoring.names import NOISE_DOMINATES, Name

MASS_LIMIT: Final = 3.0  # fewer patients than so many standard deviations of their noise are none
OF_GROUPS: Final = ("mae", "bias")
NOISE_SHARE: Final = 0.1  # of the error of the mean: a standard error from noise above that drowns the figures


@dataclass(frozen=True)
class NumericScoring:
    """Values in [low, high]; `bins` (even) of each block: error, truth, if `last` the error of the last value known, and the error
    by each grouping's groups.

    Labels are (n,), or (n, 2) with the last value known behind the true one if `last`. Outputs are values, (n,), or, with `change`,
    how many times `change` the value will lie above the last one. A prediction outside the range is moved to its end. `reach`: the
    largest error that is told apart, half the range if it is 0.
    """

    low: float
    high: float
    bins: int
    last: bool = True
    change: float = 0.0  # 0: outputs are values
    reach: float = 0.0
    by: tuple[Grouping, ...] = ()

    def __post_init__(self) -> None:
        if not self.low < self.high or not math.isfinite(self.high - self.low):
            raise ContractError(f"numbers from {self.low} to {self.high}: the range must be finite, and not empty")
        if self.bins < 2 or self.bins % 2:
            raise ContractError(f"{self.bins} bins of errors: an even number, at least 2, so that one ends where the error is 0")
        if self.change < 0 or (self.change and not self.last):
            raise ContractError(f"outputs in steps of {self.change}: a number above 0, from a last value")
        if not 0.0 <= self.reach <= self.high - self.low:
            raise ContractError(f"errors up to {self.reach}: from 0 to the whole range, {self.high - self.low:g}")

    @property
    def primary(self) -> str:
        return "mae"

    @property
    def lower_is_better(self) -> bool:
        return True

    @property
    def cells(self) -> int:
        return sum(self._sizes()) * self.bins

    @property
    def weights(self) -> tuple[float, ...]:
        """The error has half of the squared weight of all patients; groupings, if there are any, as much as these together."""
        everybody = (math.sqrt(0.5), 0.5, 0.5) if self.last else (math.sqrt(0.5), math.sqrt(0.5))
        if not self.by:
            return everybody
        return (*(math.sqrt(0.5) * weight for weight in everybody), *(math.sqrt(0.5 / len(self.by)),) * len(self.by))

    def places(self, scored: Scored) -> Places:
        """A prediction that is not finite counts as the middle of the range."""
        labels = np.asarray(scored.labels, dtype=np.float64)
        labels = labels if labels.ndim > 1 else labels[:, None]  # a side may be empty, which a reshape to -1 would not take
        if labels.shape[1] != (2 if self.last else 1):
            raise ContractError(f"labels of shape {np.shape(scored.labels)}: (n, 2) with the last value, (n,) without")
        truth, known = self._within(labels[:, 0]), self._within(labels[:, -1])
        outputs = np.asarray(scored.outputs, dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # of a model gone astray; moved into the range like any other
            predicted = self._within(known + self.change * outputs if self.change else outputs)
        found = [self._error_bin(predicted - truth), self.bins + self._bin((truth - self.low) / (self.high - self.low))]
        if self.last:
            found.append(2 * self.bins + self._error_bin(known - truth))
        first = len(found)
        for grouping in self.by:
            found.append(self.bins * (first + grouping.which(scored.values)) + found[0])
            first += len(grouping)
        return np.stack(found, axis=1)

    def figures(self, histogram: Floats, *, noise_std: float = 0.0) -> Mapping[str, float]:
        """mae, rmse, bias (prediction - truth), r2 (against the mean of these patients); mae_mean and mae_last of those who
        foretell the mean of these patients, or that nothing changes. Of groups with enough patients: `mae[sex=F]`, `bias[sex=F]`.
        """
        blocks, noises = self._blocks(histogram, noise_std)
        errors = self._error_edges()
        found = _errors(blocks[0], errors, noises[0])
        if self.last:
            found |= {f"{name}_last": value for name, value in _errors(blocks[2], errors, noises[2]).items() if name != "bias"}
        spread = self._spread(blocks[1], noises[1])
        found |= {name: value for name, value in spread.items() if name != "variance"}
        if "mse" in found and "variance" in spread and (r2 := _share_explained(found["mse"], spread["variance"])):
            found["r2"] = r2
        flat = _flat(found, "")
        keys = list(chain.from_iterable(grouping.keys() for grouping in self.by))
        start = len(blocks) - len(keys)
        for key, counts, noise in zip(keys, blocks[start:], noises[start:], strict=True):
            mine = _errors(counts, errors, noise) | {name: found[name] for name in ("mae_mean",) if name in found}
            if counts.sum() >= Sharpness(noise * math.sqrt(self.bins)).floor and not self._drowned(mine, counts, noise):
                flat |= _flat({name: mine[name] for name in OF_GROUPS}, key)
        return flat | {NOISE_DOMINATES: float(self._drowned(found, blocks[0], noises[0]))}

    def correction(self, histogram: Floats, noise_std: float) -> Correction | None:
        """How far off predictions were: `tasks.predicting.bedside.Corrects`. None where the errors of too few say too little."""
        blocks, noises = self._blocks(histogram, noise_std)
        return own(blocks[0], self._error_edges(), float(noises[0]))

    def _within(self, values: Floats) -> Floats:
        return np.clip(np.nan_to_num(values, nan=(self.low + self.high) / 2), self.low, self.high)

    def _bin(self, shares: Floats) -> Places:
        return np.minimum(np.floor(shares * self.bins), self.bins - 1).astype(np.int64)

    def _error_bin(self, errors: Floats) -> Places:
        """Signed square roots of shares of the reach, -1 to 1, in bins of equal width."""
        return self._bin((1.0 + np.sign(errors) * np.sqrt(np.minimum(np.abs(errors) / self._reach(), 1.0))) / 2.0)

    def _error_edges(self) -> Floats:
        roots = 2.0 * np.arange(self.bins + 1) / self.bins - 1.0
        return np.asarray(np.sign(roots) * roots**2 * self._reach())

    def _reach(self) -> float:
        return self.reach or (self.high - self.low) / 2

    def _sizes(self) -> list[int]:
        """Histograms of each block."""
        return [1] * (3 if self.last else 2) + [len(grouping) for grouping in self.by]

    def _blocks(self, histogram: Floats, noise_std: float) -> tuple[Floats, Floats]:
        """Patients by bin, (histograms, bins), and the noise in each cell, (histograms,)."""
        cells = np.asarray(histogram, dtype=np.float64)
        if cells.shape != (self.cells,):
            raise ContractError(f"a histogram of {self.bins} bins has {self.cells} cells here, got shape {cells.shape}")
        weights = np.repeat(self.weights, self._sizes())
        return cells.reshape(-1, self.bins) / weights[:, None], noise_std / weights

    def _spread(self, counts: Floats, noise_std: float) -> dict[str, Figure]:
        """Of the true values: their variance, and the error of who foretells their mean."""
        if counts.sum() <= LEAST_MASS:
            return {}
        low, high = _sides(np.linspace(self.low, self.high, self.bins + 1))
        first = _mean((low + high) / 2, counts, noise_std)
        mean = first.value
        second = _mean(((high - mean) ** 3 - (low - mean) ** 3) / (3 * (high - low)), counts, noise_std)
        absolute = _mean(_absolute(low - mean, high - mean), counts, noise_std, least=0.0)
        return {"variance": second, "mae_mean": absolute}

    def _drowned(self, found: Mapping[str, Figure], counts: Floats, noise_std: float) -> bool:
        if noise_std <= 0:
            return False
        if "mae" not in found or "mae_mean" not in found or counts.sum() < MASS_LIMIT * noise_std * math.sqrt(self.bins):
            return True
        return found["mae"].noise_se > NOISE_SHARE * found["mae_mean"].value


def _flat(found: Mapping[str, Figure], group: str) -> dict[str, float]:
    """Figures with their parts by name; mean squares are a step on the way."""
    flat: dict[str, float] = {}
    for name, one in found.items():
        if not name.startswith("mse"):
            parts = {"": one.value, "low": one.low, "high": one.high, "noise_se": one.noise_se or None}
            flat |= {str(Name(name, part, group)): value for part, value in parts.items() if value is not None}
    return flat


def _sides(edges: Floats) -> tuple[Floats, Floats]:
    return edges[:-1], edges[1:]


def _mean(of_bin: Floats, counts: Floats, noise_std: float, least: float = -math.inf) -> Figure:
    """The mean over patients of what each bin stands for."""
    total = float(counts.sum())
    value = float(counts @ of_bin) / total
    return figure(value, (of_bin - value) / total, counts, noise_std, least=least)


def _absolute(low: Floats, high: Floats) -> Floats:
    """Mean of |x| over bins [low, high), some of which may hold 0."""
    return np.asarray((high * np.abs(high) - low * np.abs(low)) / (2 * (high - low)))


def _errors(counts: Floats, edges: Floats, noise_std: float) -> dict[str, Figure]:
    if counts.sum() <= LEAST_MASS:
        return {}
    low, high = _sides(edges)
    squares = _mean((low**2 + low * high + high**2) / 3, counts, noise_std, least=0.0)
    found = {
        "mae": _mean(_absolute(low, high), counts, noise_std, least=0.0),
        "bias": _mean((low + high) / 2, counts, noise_std),
        "mse": squares,
    }
    if squares.value > 0:
        found["rmse"] = _root(squares)
    return found


def _root(squares: Figure) -> Figure:
    slope = 0.5 / math.sqrt(squares.value)
    ends = [None if end is None else math.sqrt(max(end, 0.0)) for end in (squares.low, squares.high)]
    return Figure(math.sqrt(squares.value), slope * squares.sampling_se, slope * squares.noise_se, ends[0], ends[1])


def _share_explained(mse: Figure, variance: Figure) -> Figure | None:
    """1 - mse / variance; errors of the two are added as if independent, which makes the interval too wide rather than too narrow
    for a model that explains anything. None without a variance above its own noise."""
    if variance.value <= max(3.0 * variance.noise_se, LEAST_MASS):
        return None
    ratio = mse.value / variance.value
    relative = [
        math.hypot(getattr(mse, name) / variance.value, ratio * getattr(variance, name) / variance.value)
        for name in ("sampling_se", "noise_se")
    ]
    error = Z95 * math.hypot(*relative)
    return Figure(1.0 - ratio, relative[0], relative[1], 1.0 - ratio - error, min(1.0 - ratio + error, 1.0))
