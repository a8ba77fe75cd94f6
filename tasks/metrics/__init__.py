"""Pooled metrics from summed score histograms: what one hospital holding all patients would have computed.

A site gives, per held-out patient, one count in one of 2 * bins cells (`histogram`). Cells of all sites are summed, with or
without noise, and every figure follows from the sum (`pooled`). A site with one class adds to its half only; site metrics are never
averaged.
"""

from tasks.metrics.calibration import GROUPS, CalibrationGroup
from tasks.metrics.estimate import Z95, Figure, figure
from tasks.metrics.histogram import HISTOGRAM_BOUND, LEAST_MASS, Counts, Floats, Scale, centres, score_cells, score_histogram
from tasks.metrics.pooled import MASS_LIMIT, NOISE_LIMIT, PooledMetrics, pooled_metrics
from tasks.metrics.utility import THRESHOLDS

__all__ = [
    "GROUPS", "HISTOGRAM_BOUND", "LEAST_MASS", "MASS_LIMIT", "NOISE_LIMIT", "THRESHOLDS", "Z95", "CalibrationGroup", "Counts",
    "Figure", "Floats", "PooledMetrics", "Scale", "centres", "figure", "pooled_metrics", "score_cells", "score_histogram",
]  # fmt: skip
