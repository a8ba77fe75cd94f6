"""How old somebody is: the calendar is known to three years (`year_band`), so ages are right to a year and a half."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from tasks.episodes.past import Floats, Ints, numbers

DAYS_A_YEAR: Final = 365.25
HALF_A_YEAR: Final = 0.5  # nobody's birthday is known, only the year


def age_at_entry(patients: pd.DataFrame) -> Floats:
    """Years of age on day 0, (n_rows,), NaN where year of birth or calendar is unknown; as `tasks.eligibility` counts it."""
    if "year_band" not in patients:
        return np.full(len(patients), np.nan)
    first = pd.to_numeric(patients["year_band"].astype("string").str.slice(0, 4))
    middle = first.to_numpy(dtype=np.float64, na_value=np.nan) + 1.5
    return np.asarray(middle - numbers(patients, "birth_year") - HALF_A_YEAR)


def calendar_years(patients: pd.DataFrame, days: Ints) -> Floats:
    """Calendar year, with fraction, of each day on the clock of its row's patient, (n_rows,); to a year and a half, or NaN."""
    if "year_band" not in patients:
        return np.full(len(patients), np.nan)
    first = pd.to_numeric(patients["year_band"].astype("string").str.slice(0, 4)).to_numpy(dtype=np.float64, na_value=np.nan)
    return np.asarray(first + 1.5 + days / DAYS_A_YEAR)
