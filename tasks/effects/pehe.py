"""How far predicted effects are from true ones: only a simulator knows these, and only benches and tests ask."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from tasks.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

HORIZON_Y: Final = 2.0


def sqrt_pehe(predicted: Floats, true: Floats) -> float:
    """Root mean squared error of individual effects, (n,) each (precision in estimating heterogeneous effects; Hill 2011)."""
    if np.shape(predicted) != np.shape(true) or not np.size(true):
        raise DataError(
            f"{np.shape(predicted)} predicted and {np.shape(true)} true effects: one of each for every record, at least one"
        )
    return math.sqrt(float(np.mean((np.asarray(predicted) - np.asarray(true)) ** 2)))


def true_worsening(starts: pd.DataFrame, patients: Sequence[str], days: NDArray[np.int64]) -> Floats:
    """High minus platform risk of permanent worsening within two years, (n,), at these starts; `starts` is `truth_starts`."""
    return np.asarray(_at(starts, patients, days)["effect_worsening_risk_2y"].to_numpy(dtype=np.float64))


def true_relapse(starts: pd.DataFrame, patients: Sequence[str], days: NDArray[np.int64]) -> Floats:
    """High minus platform chance of a relapse within two years, (n,), with the hazards of the day of the start."""
    rows = _at(starts, patients, days)
    high, platform = (rows[f"relapse_hazard_{name}"].to_numpy(dtype=np.float64) for name in ("high", "platform"))
    return np.asarray(np.exp(-HORIZON_Y * platform) - np.exp(-HORIZON_Y * high))


def _at(starts: pd.DataFrame, patients: Sequence[str], days: NDArray[np.int64]) -> pd.DataFrame:
    wanted = pd.MultiIndex.from_arrays([list(patients), days])
    found = starts.set_index(["patient_id", "start_day"])
    if absent := int((~wanted.isin(found.index)).sum()):
        raise DataError(f"{absent} of {len(wanted)} starts are not in the truth: is it that of these tables?")
    return found.loc[wanted]
