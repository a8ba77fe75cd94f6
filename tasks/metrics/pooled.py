"""All figures of one summed histogram."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from tasks.metrics.calibration import (
    CalibrationGroup,
    brier,
    calibration_groups,
    error_of_noise,
    expected_error,
    intercept_and_slope,
)
from tasks.metrics.discrimination import auc, average_precision
from tasks.metrics.estimate import Figure
from tasks.metrics.histogram import LEAST_MASS, Counts, Floats, Scale, halves
from tasks.metrics.utility import THRESHOLDS, net_benefit, prevalence

MASS_LIMIT: Final = 3.0  # a class smaller than this many standard deviations of its noise counts as drowned
NOISE_LIMIT: Final = 0.05  # standard error of the AUC from noise alone, above which the flag is raised


@dataclass(frozen=True)
class PooledMetrics:
    """What the summed histogram tells. None where a class has no mass; counts are estimates under noise."""

    patients: float
    events: float
    auc: float | None
    auc_bin_bound: float | None  # the unbinned AUC is within this of `auc` (without noise)
    auc_sampling_se: float | None  # standard error from the number of patients
    auc_noise_se: float | None  # standard error from the noise alone
    brier: float | None  # from bin centres, within the widest bin of the unbinned
    ece: float | None  # expected calibration error over `calibration`
    ece_noise: float | None  # what noise alone would make of it
    calibration: tuple[CalibrationGroup, ...]
    noise_dominates: bool  # do not read the figures: noise is of their size
    auprc_bin_bound: float | None = None  # as of the AUC
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """With their errors: auc, auprc, brier, calibration_intercept, calibration_slope, net_benefit_10 (20, 30), prevalence."""

    def to_dict(self) -> dict[str, object]:
        """For `--json` and tracking: numbers, None, lists."""
        return asdict(self)


def pooled_metrics(histogram: Counts, *, noise_std: float = 0.0, scale: Scale = "probability") -> PooledMetrics:
    """Metrics of the summed `histogram` (2 * bins,) on `scale`; `noise_std` is the noise in each cell of the sum.

    What is linear in the cells is computed from them as they are, negative ones too; only results are clamped.
    """
    zeros, ones = halves(histogram)
    mass = min(float(zeros.sum()), float(ones.sum()))
    found = _figures(zeros, ones, noise_std, scale)
    bounds: dict[str, float] = {}
    if mass > LEAST_MASS:
        found["auc"], bounds["auc"] = auc(zeros, ones, noise_std)
        found["auprc"], bounds["auprc"] = average_precision(zeros, ones, noise_std)
    figures = {name: value for name, value in found.items() if value is not None}
    ranked = figures.get("auc")
    groups = calibration_groups(zeros, ones, scale)
    drowned = noise_std > 0 and mass < MASS_LIMIT * noise_std * math.sqrt(len(zeros))
    return PooledMetrics(
        patients=float(zeros.sum() + ones.sum()),
        events=float(ones.sum()),
        auc=ranked.value if ranked else None,
        auc_bin_bound=bounds.get("auc"),
        auc_sampling_se=ranked.sampling_se if ranked else None,
        auc_noise_se=ranked.noise_se if ranked else None,
        brier=figures["brier"].value if "brier" in figures else None,
        ece=expected_error(groups),
        ece_noise=error_of_noise(zeros, ones, noise_std, scale),
        calibration=groups,
        noise_dominates=drowned or (ranked.noise_se if ranked else 0.0) > NOISE_LIMIT,
        auprc_bin_bound=bounds.get("auprc"),
        figures=figures,
    )


def _figures(zeros: Floats, ones: Floats, noise_std: float, scale: Scale) -> dict[str, Figure | None]:
    large, slope = intercept_and_slope(zeros, ones, noise_std, scale)
    return {
        "brier": brier(zeros, ones, noise_std, scale),
        "calibration_intercept": large,
        "calibration_slope": slope,
        **{f"net_benefit_{percent}": net_benefit(zeros, ones, noise_std, percent, scale) for percent in THRESHOLDS},
        "prevalence": prevalence(zeros, ones, noise_std),
    }
