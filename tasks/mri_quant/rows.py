"""From a hospital's tables to one row of numbers for each scan: who, when, which scanner, which volumes, harmonised by what.

A row follows from its own patient's rows alone. What is missing is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from tasks.mri_harmonisation.scans import BATCH as BATCH_OF_SCAN
from tasks.mri_harmonisation.scans import COVARIATES as COVARIATES_OF_SCAN
from tasks.mri_harmonisation.scans import FIRST_COVARIATE, FIRST_MEASURE, measure_limits, references_of, rows_of, scan_table
from tasks.mri_harmonisation.scans import MEASURES as MEASURES_OF_SCAN
from tasks.mri_quant.frame import COVARIATES, MEASURES
from tasks.sums import Floats

if TYPE_CHECKING:
    import pandas as pd

BATCH: Final = 0
REFERENCE: Final = 1
DAY: Final = 2
FIRST: Final = 3  # covariates, then measures
WIDTH: Final = FIRST + len(COVARIATES) + len(MEASURES)
PLACES: Final = {name: FIRST + at for at, name in enumerate((*COVARIATES, *MEASURES))}


def scan_rows(tables: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, Floats]:
    """`scan_table` of the tables, and its scans as numbers, (n_scans, WIDTH), in the order of patient, day and scan.

    A scan of the cord alone, of failed quality, or with a volume beyond its range has no volumes, or not this one.
    """
    scans = scan_table(tables)
    numbers = rows_of(scans)
    found = np.full((len(scans), WIDTH), np.nan)
    found[:, BATCH], found[:, REFERENCE] = numbers[:, BATCH_OF_SCAN], references_of(scans)
    found[:, DAY] = scans["day"].to_numpy(np.float64)
    for name in COVARIATES:
        found[:, PLACES[name]] = numbers[:, FIRST_COVARIATE + COVARIATES_OF_SCAN.index(name)]
    for name in MEASURES:
        low, high = measure_limits(name)
        value = numbers[:, FIRST_MEASURE + MEASURES_OF_SCAN.index(name)]
        found[:, PLACES[name]] = np.where((value >= low) & (value <= high), value, np.nan)
    if "region" in scans:
        found[(scans["region"] == "cord").to_numpy(bool), PLACES[MEASURES[0]] :] = np.nan
    return scans, found


def measured(rows: Floats) -> np.ndarray:
    """Which scans have any volume, (n_scans,)."""
    return np.asarray(np.isfinite(rows[:, PLACES[MEASURES[0]] :]).any(axis=1))
