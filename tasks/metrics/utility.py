"""What acting on the prediction would gain: net benefit (Vickers and Elkin 2006), and how often the event happens."""

from __future__ import annotations

from typing import Final

import numpy as np

from tasks.metrics.estimate import Figure, figure
from tasks.metrics.histogram import LEAST_MASS, Floats, Scale, on_scale

THRESHOLDS: Final = (10, 20, 30)  # per cent


def net_benefit(zeros: Floats, ones: Floats, noise_std: float, percent: int, scale: Scale = "probability") -> Figure | None:
    """Patients with the event who are treated, less those without it at the odds of the threshold, of all patients.

    Treated is who scores `percent` or more; a bin across the threshold is parted evenly. Treating nobody has 0, treating all the
    prevalence - (1 - prevalence) * odds.
    """
    total = float(zeros.sum() + ones.sum())
    if total <= LEAST_MASS:
        return None
    odds = percent / (100.0 - percent)
    place = float(on_scale(np.array([percent / 100.0]), scale)[0]) * len(zeros)
    treated = np.clip(np.arange(1, len(zeros) + 1) - place, 0.0, 1.0)
    worth = np.stack([-odds * treated, treated])
    cells = np.stack([zeros, ones])
    value = float(np.sum(cells * worth)) / total
    return figure(value, (worth - value) / total, cells, noise_std, least=-odds, most=1.0)


def prevalence(zeros: Floats, ones: Floats, noise_std: float) -> Figure | None:
    """Share of patients with the event; the average precision of a model that knows nothing."""
    total = float(zeros.sum() + ones.sum())
    if total <= LEAST_MASS:
        return None
    cells = np.stack([zeros, ones])
    value = float(ones.sum()) / total
    slopes = (np.stack([np.zeros_like(zeros), np.ones_like(ones)]) - value) / total
    return figure(value, slopes, cells, noise_std, least=0.0, most=1.0, logit=True)
