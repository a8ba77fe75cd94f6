"""Yes/no outcomes: a cell for each label and bin of the predicted probability, of all patients and of groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tasks.disclosure import Sharpness
from tasks.errors import ContractError
from tasks.metrics import CalibrationGroup, Figure, PooledMetrics, Scale, pooled_metrics, score_cells
from tasks.metrics.histogram import mean_places, off_scale
from tasks.predicting.calibrate import ONLY, Group
from tasks.scoring.base import Floats, Places, Scored
from tasks.scoring.groups import Grouping
from tasks.scoring.names import NOISE_DOMINATES, Name

OF_GROUPS: Final = ("auc", "brier", "calibration_intercept", "calibration_slope", "prevalence")


@dataclass(frozen=True)
class BinaryScoring:
    """`bins` of equal width on `scale`, for each label: of all patients in the first block, of each grouping's groups in one more.

    With groups, all patients have half of the squared weight and the groupings share the other half, so cells of all patients have
    sqrt(2) times the noise of a scoring without groups, less what the groups' sums give back (`_everybody`).
    """

    bins: int
    by: tuple[Grouping, ...] = ()
    scale: Scale = "probability"

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ContractError(f"{self.bins} bins: at least 2 are needed")

    @property
    def primary(self) -> str:
        return "auc"

    @property
    def lower_is_better(self) -> bool:
        return False

    @property
    def cells(self) -> int:
        return 2 * self.bins * (1 + sum(len(grouping) for grouping in self.by))

    @property
    def weights(self) -> tuple[float, ...]:
        if not self.by:
            return (1.0,)
        return (math.sqrt(0.5), *(math.sqrt(0.5 / len(self.by)),) * len(self.by))

    def places(self, scored: Scored) -> Places:
        """Outputs are logits, (n,), labels (n,): 1 where it happened; whatever else stands there counts as 0."""
        happened = np.asarray(scored.labels) == 1  # refusing another label would tell of a patient who has it
        cell = score_cells(happened.astype(np.int8), probabilities(scored.outputs), self.bins, self.scale)
        starts = self._starts()
        groups = [first + grouping.which(scored.values) for grouping, first in zip(self.by, starts, strict=True)]
        return np.stack([cell, *(2 * self.bins * group + cell for group in groups)], axis=1)

    def figures(self, histogram: Floats, *, noise_std: float = 0.0) -> Mapping[str, float]:
        """See `tasks.metrics.pooled_metrics`; those of a group with enough patients of both kinds are `auc[sex=F]` and so on."""
        whole = self.metrics(histogram, noise_std=noise_std)
        found = _flat(whole, tuple(whole.figures), "")
        found |= {
            name: value
            for name, value in (
                ("auc_sampling_se", whole.auc_sampling_se),
                ("auc_noise_se", whole.auc_noise_se),
                ("ece", whole.ece),
                ("ece_noise", whole.ece_noise if noise_std else None),
            )
            if value is not None
        }
        for group, (cells, noise) in self._groups(histogram, noise_std).items():
            metrics = pooled_metrics(cells, noise_std=noise, scale=self.scale)
            if _enough(metrics, self.bins, noise):
                found |= _flat(metrics, OF_GROUPS, group)
        return found | {NOISE_DOMINATES: float(whole.noise_dominates)}

    def metrics(self, histogram: Floats, *, noise_std: float = 0.0) -> PooledMetrics:
        """Of all patients."""
        cells, noise = self._everybody(histogram, noise_std)
        return pooled_metrics(cells, noise_std=noise, scale=self.scale)

    def calibration(self, histogram: Floats) -> tuple[CalibrationGroup, ...]:
        """Of all patients: `tasks.scoring.base.Calibrated`."""
        return self.metrics(histogram).calibration

    def calibration_groups(self, histogram: Floats, noise_std: float) -> Mapping[str, Sequence[Group]]:
        """Held-out patients of each bin of the probability: `tasks.predicting.bedside.Calibrates`."""
        cells, noise = self._everybody(histogram, noise_std)
        zeros, ones = cells.reshape(2, self.bins)
        patients = zeros + ones
        rows = zip(off_scale(mean_places(patients, math.sqrt(2.0) * noise), self.scale), patients, ones, strict=True)
        return {ONLY: [Group(float(at), float(patients), float(events), noise) for at, patients, events in rows]}

    def _starts(self) -> list[int]:
        """The number of each grouping's first histogram."""
        return [1 + sum(len(grouping) for grouping in self.by[:at]) for at in range(len(self.by))]

    def _parts(self, histogram: Floats) -> Floats:
        """One histogram after the other, in patients: (1 + groups, 2 * bins)."""
        cells = np.asarray(histogram, dtype=np.float64)
        if cells.shape != (self.cells,):
            raise ContractError(f"a histogram of {self.bins} bins has {self.cells} cells here, got shape {cells.shape}")
        repeats = [1, *(len(grouping) for grouping in self.by)]
        return np.asarray(cells.reshape(-1, 2 * self.bins) / np.repeat(self.weights, repeats)[:, None])

    def _everybody(self, histogram: Floats, noise_std: float) -> tuple[Floats, float]:
        """All patients' histogram and its noise. Everybody is in one group of each grouping, so the sum of its groups counts the
        same patients again, with noise of its own: the estimates are weighed by their precision."""
        parts, starts = self._parts(histogram), self._starts()
        sums = [parts[0], *(parts[first : first + len(by)].sum(axis=0) for first, by in zip(starts, self.by, strict=True))]
        sizes = [1, *(len(grouping) for grouping in self.by)]
        precision = np.array([weight**2 / size for weight, size in zip(self.weights, sizes, strict=True)])
        total = float(precision.sum())
        return np.asarray(precision / total @ np.stack(sums)), noise_std / math.sqrt(total)

    def _groups(self, histogram: Floats, noise_std: float) -> dict[str, tuple[Floats, float]]:
        parts = self._parts(histogram)
        found = {}
        for grouping, first, weight in zip(self.by, self._starts(), self.weights[1:], strict=True):
            for at, key in enumerate(grouping.keys()):
                found[key] = (parts[first + at], noise_std / weight)
        return found


def _flat(metrics: PooledMetrics, names: tuple[str, ...], group: str) -> dict[str, float]:
    """Figures and the ends of their intervals by name."""
    found: dict[str, float] = {}
    for name in names:
        one: Figure | None = metrics.figures.get(name)
        if one is None:
            continue
        ends = {"": one.value, "low": one.low, "high": one.high}
        found |= {str(Name(name, part, group)): value for part, value in ends.items() if value is not None}
    return found


def _enough(metrics: PooledMetrics, bins: int, noise: float) -> bool:
    """Whether figures of a group may be shown: neither few, as `tasks.disclosure` has it, nor of the size of the noise."""
    floor = Sharpness(noise * math.sqrt(bins)).floor
    return min(metrics.events, metrics.patients - metrics.events) >= floor and not metrics.noise_dominates


def probabilities(logits: Floats) -> Floats:
    """Logistic function of logits, in [0, 1]."""
    with np.errstate(over="ignore"):  # exp(large) is infinity, and the probability rightly 0
        return np.asarray(1.0 / (1.0 + np.exp(-np.asarray(logits, dtype=np.float64))))
