"""Federated ComBat: one scanner's MRI measures made comparable with another's, from sums alone."""

from tasks.harmonise.batches import MIN_SCANS, batch_names
from tasks.harmonise.bayes import Effect, effect_of
from tasks.harmonise.combine import BatchStatistics, Coefficients, Fit, Shared, combine_one, combine_two
from tasks.harmonise.errors import HarmoniseError
from tasks.harmonise.plan import MRI_MEASURES, Measure, Plan
from tasks.harmonise.scans import Scans
from tasks.harmonise.site import harmonise, statistics_of_new_batch
from tasks.harmonise.sums import round_one, round_two

__all__ = [
    "MIN_SCANS", "MRI_MEASURES", "BatchStatistics", "Coefficients", "Effect", "Fit", "HarmoniseError", "Measure", "Plan", "Scans",
    "Shared", "batch_names", "combine_one", "combine_two", "effect_of", "harmonise", "round_one", "round_two",
    "statistics_of_new_batch",
]  # fmt: skip
