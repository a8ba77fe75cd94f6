"""How whole scans are counted: Dice by how much there is to find, lesions found, and by how much the volume is off.

Three histograms of sessions. Within a bin values are taken to lie in its middle; Dice 0 and 1, which many scans have exactly, have
bins of their own. Differences of volume have bins of equal width on the signed square root up to `reach_ml`; beyond counts as that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from tasks.errors import ContractError
from tasks.imaging.task import LOAD_CUTS_ML, load_words
from tasks.metrics import LEAST_MASS, Z95, Figure, figure
from tasks.scoring.base import NOWHERE, Floats, Panel, Places, Scored
from tasks.scoring.groups import Grouping
from tasks.scoring.names import NOISE_DOMINATES, Name

DICE, F1, FOUND_ML, TRUE_ML = range(4)  # of a judged session
JUDGED: Final = 4
LOADS: Final = ("none", "small", "medium", "large")
REACH_ML: Final = 40.0  # largest difference of volumes that is told apart
NOISE_SHARE: Final = 0.1  # of Dice: a standard error from noise above that drowns the figures


@dataclass(frozen=True)
class LesionScoring:
    """`bins` of each histogram. Outputs (n, 4): Dice, lesion-wise F1, found and true volume in mL; NaN: no such scan.

    Where loads become medium and large (`cuts_ml`) and the largest difference of volumes told apart (`reach_ml`) are constants of
    a task's version.
    """

    bins: int
    cuts_ml: tuple[float, float] = LOAD_CUTS_ML
    reach_ml: float = REACH_ML
    groups: tuple[Grouping, ...] = ()  # for which Dice of sessions with lesions is counted as well

    def __post_init__(self) -> None:
        if self.bins < 4 or self.bins % 2:
            raise ContractError(f"{self.bins} bins of Dice: an even number, at least 4")
        if not 0 < self.cuts_ml[0] < self.cuts_ml[1] or not self.reach_ml > 0:
            raise ContractError(f"loads cut at {self.cuts_ml} mL, differences up to {self.reach_ml} mL: ascending, above 0")

    @property
    def primary(self) -> str:
        return "dice"

    @property
    def lower_is_better(self) -> bool:
        return False

    @property
    def cells(self) -> int:
        return sum(self._rows) * self.bins

    @property
    def _rows(self) -> tuple[int, ...]:
        """Rows of bins of each histogram."""
        return len(LOADS), 1, 1, *map(len, self.groups)

    @property
    def weights(self) -> tuple[float, ...]:
        """Dice by load has half of the squared weight; each grouping as much as lesions found or volumes."""
        rest = 0.5 / (2 + len(self.groups))
        return math.sqrt(0.5), *(math.sqrt(rest) for _ in self._rows[1:])

    def places(self, scored: Scored) -> Places:
        """A session that could not be prepared is nowhere; of lesions found, one without any and without any found as well."""
        outputs = np.asarray(scored.outputs, dtype=np.float64)
        if outputs.ndim != 2 or outputs.shape[1] != JUDGED:
            return np.full((len(outputs), len(self.weights)), NOWHERE, dtype=np.int64)
        dice, f1, found, true = np.nan_to_num(outputs).T
        load = np.where(true > 0, 1 + np.searchsorted(self.cuts_ml, true, side="right"), 0)
        first = np.cumsum((0, *self._rows))[:-1] * self.bins
        parts = [load * self.bins + self._share_bin(dice), self._share_bin(f1), self._difference_bin(found - true)]
        parts += [group.which(scored.values) * self.bins + self._share_bin(dice) for group in self.groups]
        places = np.stack(parts, axis=1) + first
        places[np.isnan(outputs[:, F1]), 1] = NOWHERE
        places[load == 0, len(parts) - len(self.groups) :] = NOWHERE
        places[np.isnan(outputs[:, DICE])] = NOWHERE
        return np.asarray(places, dtype=np.int64)

    def figures(self, histogram: Floats, *, noise_std: float = 0.0) -> Mapping[str, float]:
        """dice of sessions with lesions, also by load and group; dice_none: share of those without lesions where none is found;
        lesion_f1; volume_bias_ml and the limits of agreement around it (Bland and Altman 1986)."""
        blocks, noise = self._blocks(histogram, noise_std)
        found = self._dice(blocks, noise[0])
        found["lesion_f1"] = _mean(self._share_values(), blocks[len(LOADS)], noise[1], 0.0, 1.0)
        agreement = self._agreement(blocks[len(LOADS) + 1], float(noise[2]))
        named = {(name, ""): one for name, one in (found | agreement).items()} | self._by_group(blocks, noise)
        flat: dict[str, float] = {}
        for (name, group), one in named.items():
            if one is not None:
                parts = {"": one.value, "low": one.low, "high": one.high, "noise_se": one.noise_se or None}
                flat |= {str(Name(name, part, group)): value for part, value in parts.items() if value is not None}
        return flat | {NOISE_DOMINATES: float(_drowned(found["dice"], noise_std))}

    def panels(self, histogram: Floats, *, noise_std: float = 0.0) -> tuple[Panel, ...]:
        """Dice by lesion load; the mean difference of volumes with the limits of agreement."""
        blocks, noise = self._blocks(histogram, noise_std)
        found = self._dice(blocks, noise[0])
        loads = zip(LOADS[1:], load_words(self.cuts_ml), strict=True)
        names = {"dice": "all with lesions", **{f"dice_{load}": words for load, words in loads}}
        by_load = tuple((words, one) for name, words in names.items() if (one := found[name]) is not None)
        limits = self._limits(blocks[len(LOADS) + 1], float(noise[2]))
        panels = (
            Panel("Dice by lesion load", "Dice, 95 % interval", by_load if found["dice"] else ()),
            Panel("Lesion volume: limits of agreement", "found minus drawn, mL, 95 % interval", limits),
        )
        return tuple(panel for panel in panels if panel.lines)

    def _blocks(self, histogram: Floats, noise_std: float) -> tuple[Floats, Floats]:
        """Patients in each bin, a row of bins after the other: Dice by load, F1, differences, Dice by group; the noise on a bin of
        each of these histograms."""
        cells = np.asarray(histogram, dtype=np.float64)
        if cells.shape != (self.cells,):
            raise ContractError(f"a histogram of {self.bins} bins has {self.cells} cells here, got shape {cells.shape}")
        weights = np.array(self.weights)
        return cells.reshape(-1, self.bins) / np.repeat(weights, self._rows)[:, None], noise_std / weights

    def _dice(self, blocks: Floats, noise_std: float) -> dict[str, Figure | None]:
        shares, with_lesions = self._share_values(), blocks[1 : len(LOADS)].sum(axis=0)
        found = {"dice": _mean(shares, with_lesions, noise_std * math.sqrt(len(LOADS) - 1), 0.0, 1.0)}
        return found | {
            f"dice_{name}": _mean(shares, counts, noise_std, 0.0, 1.0) for name, counts in zip(LOADS, blocks, strict=False)
        }

    def _by_group(self, blocks: Floats, noise: Floats) -> dict[tuple[str, str], Figure | None]:
        """Dice of sessions with lesions, of each group."""
        keys = [(key, float(noise[3 + at])) for at, each in enumerate(self.groups) for key in each.keys()]  # noqa: SIM118 - no mapping
        rows = blocks[len(LOADS) + 2 :]
        return {("dice", key): _mean(self._share_values(), row, std, 0.0, 1.0) for (key, std), row in zip(keys, rows, strict=True)}

    def _agreement(self, counts: Floats, noise_std: float) -> dict[str, Figure | None]:
        values = self._difference_values()
        bias = _mean(values, counts, noise_std, -self.reach_ml, self.reach_ml)
        if bias is None:
            return {}
        if (variance := self._variance(counts, noise_std, bias.value)) is None:
            return {"volume_bias_ml": bias}
        reach = Z95 * math.sqrt(variance.value)
        slope = Z95 / (2 * math.sqrt(variance.value))
        sampling, noise = slope * variance.sampling_se, slope * variance.noise_se
        error = Z95 * math.hypot(sampling, noise)
        return {
            "volume_bias_ml": bias,
            "volume_agreement_ml": Figure(reach, sampling, noise, max(reach - error, 0.0), reach + error),
        }

    def _variance(self, counts: Floats, noise_std: float, bias: float) -> Figure | None:
        """Of differences, in mL squared; None where noise or too few patients leave none."""
        found = _mean((self._difference_values() - bias) ** 2, counts, noise_std, 0.0, self.reach_ml**2)
        return None if found is None or found.value <= 0 or float(counts.sum()) <= 2 else found

    def _limits(self, counts: Floats, noise_std: float) -> tuple[tuple[str, Figure], ...]:
        """Mean, upper and lower limit of found minus drawn volume, in mL, each with its own interval (delta method)."""
        away = self._difference_values()
        bias = _mean(away, counts, noise_std, -self.reach_ml, self.reach_ml)
        if bias is None:
            return ()
        if (variance := self._variance(counts, noise_std, bias.value)) is None:
            return (("mean", bias),)
        away, total, spread = away - bias.value, float(counts.sum()), math.sqrt(variance.value)
        found = []
        for side in (1.0, -1.0):
            slopes = (away + side * Z95 * (away**2 - variance.value) / (2 * spread)) / total
            found.append(figure(bias.value + side * Z95 * spread, slopes, counts, noise_std))
        return ("mean", bias), ("upper limit", found[0]), ("lower limit", found[1])

    def _share_bin(self, shares: Floats) -> Places:
        """0 and 1 apart, the rest in bins of equal width."""
        inner = 1 + np.floor(np.clip(shares, 0.0, 1.0) * (self.bins - 2))
        return np.where(shares <= 0, 0, np.where(shares >= 1, self.bins - 1, np.minimum(inner, self.bins - 2))).astype(np.int64)

    def _share_values(self) -> Floats:
        return np.concatenate([[0.0], (np.arange(self.bins - 2) + 0.5) / (self.bins - 2), [1.0]])

    def _difference_bin(self, difference: Floats) -> Places:
        root = np.sign(difference) * np.sqrt(np.minimum(np.abs(difference) / self.reach_ml, 1.0))
        return np.minimum(np.floor((1.0 + root) / 2.0 * self.bins), self.bins - 1).astype(np.int64)

    def _difference_values(self) -> Floats:
        """The mean of a bin within which differences are spread evenly."""
        roots = 2.0 * np.arange(self.bins + 1) / self.bins - 1.0
        edges = np.sign(roots) * roots**2 * self.reach_ml
        return np.asarray((edges[:-1] + edges[1:]) / 2)


def _mean(of_bin: Floats, counts: Floats, noise_std: float, least: float, most: float) -> Figure | None:
    """The mean over patients of what each bin stands for; None where noise leaves nobody."""
    total = float(counts.sum())
    if total <= max(LEAST_MASS, 3.0 * noise_std * math.sqrt(len(counts))):
        return None
    value = float(counts @ of_bin) / total
    found = figure(value, (of_bin - value) / total, counts, noise_std, least=least, most=most)
    return found if found.se > 0 else Figure(found.value, 0.0, 0.0, None, None)  # all in one bin: nothing says how sure that is


def _drowned(dice: Figure | None, noise_std: float) -> bool:
    return noise_std > 0 and (dice is None or dice.noise_se > NOISE_SHARE)
