"""Figures of those who were watched to the end: whether the others would have had a relapse is not known, and is not guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.scoring.base import NOWHERE, Floats, Places, Scored, Scoring


@dataclass(frozen=True)
class Watched:
    """`yes_no`, for labels (any relapse, watched share): who was not watched for the whole time is nowhere, relapse or not.

    Leaving out only those without a relapse would make the share of relapses too high.
    """

    yes_no: Scoring

    @property
    def primary(self) -> str:
        return self.yes_no.primary

    @property
    def lower_is_better(self) -> bool:
        return self.yes_no.lower_is_better

    @property
    def cells(self) -> int:
        return self.yes_no.cells

    @property
    def weights(self) -> tuple[float, ...]:
        return self.yes_no.weights

    def places(self, scored: Scored) -> Places:
        """Outputs are logits, (n,); labels (n, 2)."""
        places = self.yes_no.places(Scored(scored.outputs, scored.labels[:, 0], scored.values))
        return np.where(scored.labels[:, [1]] < 1.0, NOWHERE, places)

    def figures(self, histogram: Floats, *, noise_std: float = 0.0) -> Mapping[str, float]:
        """Those of `yes_no`."""
        return self.yes_no.figures(histogram, noise_std=noise_std)
