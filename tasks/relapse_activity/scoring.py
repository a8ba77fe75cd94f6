"""Figures of those who were watched to the end: whether the others would have had a relapse is not known, and is not guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.metrics import CalibrationGroup
from tasks.predicting.calibrate import Group
from tasks.scoring.base import NOWHERE, Floats, Places, Scored
from tasks.scoring.binary import BinaryScoring


@dataclass(frozen=True)
class Watched:
    """`yes_no`, for labels (any relapse, watched share): who was not watched for the whole time is nowhere, relapse or not.

    Leaving out only those without a relapse would make the share of relapses too high.
    """

    yes_no: BinaryScoring

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

    def calibration(self, histogram: Floats) -> tuple[CalibrationGroup, ...]:
        """That of `yes_no`: `tasks.scoring.base.Calibrated`."""
        return self.yes_no.calibration(histogram)

    def calibration_groups(self, histogram: Floats, noise_std: float) -> Mapping[str, Sequence[Group]]:
        """Those of `yes_no`: `tasks.predicting.bedside.Calibrates`."""
        return self.yes_no.calibration_groups(histogram, noise_std)

    def figures(self, histogram: Floats, *, noise_std: float = 0.0) -> Mapping[str, float]:
        """Those of `yes_no`."""
        return self.yes_no.figures(histogram, noise_std=noise_std)
