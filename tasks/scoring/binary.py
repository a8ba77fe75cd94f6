"""Yes/no outcomes: a cell for each label and bin of the predicted probability, figures by `tasks.metrics`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from tasks.metrics import pooled_metrics, score_cells
from tasks.scoring.base import Floats, Places, Scored

SHOWN: Final = ("auc", "auc_sampling_se", "auc_noise_se", "brier", "ece")


@dataclass(frozen=True)
class BinaryScoring:
    """`bins` of equal width on the probability, for each label."""

    bins: int

    @property
    def primary(self) -> str:
        return "auc"

    @property
    def lower_is_better(self) -> bool:
        return False

    @property
    def cells(self) -> int:
        return 2 * self.bins

    @property
    def weights(self) -> tuple[float, ...]:
        return (1.0,)

    def places(self, scored: Scored) -> Places:
        """Outputs are logits, (n,)."""
        return score_cells(scored.labels, probabilities(scored.outputs), self.bins)[:, None]

    def figures(self, histogram: Floats, *, noise_std: float = 0.0) -> Mapping[str, float]:
        """See `tasks.metrics.pooled_metrics`."""
        found = pooled_metrics(histogram, noise_std=noise_std)
        figures = {name: getattr(found, name) for name in SHOWN} | {"noise_dominates": float(found.noise_dominates)}
        return {name: float(value) for name, value in figures.items() if value is not None}


def probabilities(logits: Floats) -> Floats:
    """Logistic function of logits, in [0, 1]."""
    with np.errstate(over="ignore"):  # exp(large) is infinity, and the probability rightly 0
        return np.asarray(1.0 / (1.0 + np.exp(-np.asarray(logits, dtype=np.float64))))
