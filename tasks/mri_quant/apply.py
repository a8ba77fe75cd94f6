"""A site's own work after a run: each patient's rate beside what is expected of one of that age and sex. Nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tasks.imaging.yearly_loss import LEAST_INTERVAL_D
from tasks.mri_quant.fit import OMEGA
from tasks.mri_quant.frame import MOST_SCANS, Frame
from tasks.mri_quant.measures import RateMeasure
from tasks.mri_quant.reference import Expected, RateReference
from tasks.mri_quant.result import NORMAL, Z95
from tasks.mri_quant.rows import PLACES, REFERENCE, measured, scan_rows
from tasks.mri_quant.slopes import Slopes, slopes_of
from tasks.sums import Floats

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: Final = (
    "patient_id", "measure", "state", "scans", "first_day", "last_day", "rate_pct_y", "se", "low_95", "high_95", "expected_pct_y",
    "z", "best_pct_y", "faster_than", "faster", "chance_faster", "z_healthy",
)  # fmt: skip
STATES: Final = {
    "rated": "with a rate",
    "few_scans": "fewer than two usable scans",
    "short": f"all usable scans within {LEAST_INTERVAL_D} days",
    "no_covariate": "age, sex or duration, as the run has them, is not known",
    "other_volumes": "scans whose volumes are not those of the run: harmonised by another result, or not",
}
FASTER: Final = ("yes", "rather yes", "rather no", "no")  # sure, if the 95 % interval of the rate leaves the flag out


@dataclass(frozen=True)
class Rated:
    """`rates`: `COLUMNS`, one row for each patient and measure; NaN where there is none."""

    rates: pd.DataFrame = field(repr=False)

    def counts(self, measure: str) -> dict[str, int]:
        """Patients by state."""
        found = self.rates.loc[self.rates["measure"] == measure, "state"].value_counts()
        return {state: int(found.get(state, 0)) for state in STATES}

    def faster(self, measure: str) -> dict[str, int]:
        """Patients by how sure it is that they lose faster than the flag; {} for a measure without one."""
        found = self.rates.loc[self.rates["measure"] == measure, "faster"].value_counts()
        return {word: int(found.get(word, 0)) for word in FASTER} if len(found) else {}


def rate_patients(reference: RateReference, tables: Mapping[str, pd.DataFrame], *, healthy: bool = False) -> Rated:
    """The site's patients with scans; `tables`: accepted rows of those who may be in. `healthy`: a second z where a norm is."""
    import pandas as pd

    scans, rows = scan_rows(tables)
    kept = measured(rows)
    names, owners = np.unique(scans["patient_id"][kept].to_numpy(str), return_inverse=True)
    late = pd.Series(owners).groupby(owners).cumcount(ascending=False).to_numpy() < MOST_SCANS
    rows, owners = rows[kept][late], owners[late].astype(np.intp)
    parts = [
        _of_measure(reference, measure, names, rows, owners, healthy=healthy)
        for measure in reference.frame.measures
    ]  # fmt: skip
    found = pd.concat(parts, ignore_index=True)
    return Rated(found.sort_values(["patient_id", "measure"], kind="stable", ignore_index=True))


def _of_measure(
    reference: RateReference,
    measure: RateMeasure,
    names: NDArray[np.str_],
    rows: Floats,
    owners: NDArray[np.intp],
    *,
    healthy: bool,
) -> pd.DataFrame:
    import pandas as pd

    known = _spread_out(measure, reference.found[measure.name])
    slopes = slopes_of(reference.frame, measure, rows, owners, len(names))
    variance = known.kappa * slopes.variance
    error, expected = np.sqrt(variance), np.where(slopes.rated, slopes.x @ known.beta, np.nan)
    found = pd.DataFrame(index=range(len(names)), columns=list(COLUMNS))
    found = found.assign(
        patient_id=names,
        measure=measure.name,
        state=_states(reference.frame, measure, slopes, rows, owners),
        scans=slopes.scans,
        first_day=slopes.first_day,
        last_day=slopes.last_day,
        rate_pct_y=slopes.rate,
        se=error,
        low_95=slopes.rate - Z95 * error,
        high_95=slopes.rate + Z95 * error,
        expected_pct_y=expected,
        z=(slopes.rate - expected) / np.sqrt(known.omega2 + variance),
        best_pct_y=_best(known, slopes.rate, expected, variance),
    )
    if measure.flag_below is not None:
        found = found.assign(faster_than=measure.flag_below, **_flags(measure.flag_below, known, slopes.rate, expected, variance))
    if healthy and measure.healthy is not None:
        found["z_healthy"] = (slopes.rate - measure.healthy.mean) / np.sqrt(measure.healthy.sd**2 + variance)
    return found


def _spread_out(measure: RateMeasure, known: Expected) -> Expected:
    """Patients differ: where a run's estimate of how much came out as next to nothing, nobody's rate is a certainty for it."""
    return replace(known, omega2=max(known.omega2, (OMEGA[0] * measure.between) ** 2))


def _best(known: Expected, rate: Floats, expected: Floats, variance: Floats) -> Floats:
    """The rate drawn towards what is expected, by how little its scans say: the mean of what it may be."""
    return np.asarray(expected + known.omega2 / (known.omega2 + variance) * (rate - expected))


def _flags(flag: float, known: Expected, rate: Floats, expected: Floats, variance: Floats) -> dict[str, NDArray[np.object_]]:
    """By the patient's own scans alone, in four words; and the chance once the other patients are taken into account."""
    error = np.sqrt(variance)
    words = np.select([rate + Z95 * error < flag, rate < flag, rate - Z95 * error <= flag], list(FASTER[:3]), FASTER[3]).astype(
        object
    )
    words[~np.isfinite(rate)] = None
    spread = np.sqrt(known.omega2 * variance / (known.omega2 + variance))
    distance = (flag - _best(known, rate, expected, variance)) / np.maximum(spread, 1e-9)
    chance = np.array([NORMAL.cdf(each) if np.isfinite(each) else np.nan for each in distance], dtype=object)
    return {"faster": words, "chance_faster": chance}


def _states(frame: Frame, measure: RateMeasure, slopes: Slopes, rows: Floats, owners: NDArray[np.intp]) -> NDArray[np.object_]:
    """Why somebody has no rate: whoever has two volumes, but not of this kind or without a covariate, is told apart."""
    patients = len(slopes.rate)
    volume = np.isfinite(rows[:, PLACES[measure.name]])
    ours = volume & (rows[:, REFERENCE] == frame.number)
    volumes, of_run = (np.bincount(owners[chosen], minlength=patients) for chosen in (volume, ours))
    found = np.full(patients, "few_scans", dtype=object)
    found[(volumes >= 2) & (of_run < 2)] = "other_volumes"
    found[(of_run >= 2) & (slopes.scans < 2)] = "no_covariate"
    found[slopes.scans >= 2] = "short"
    found[slopes.rated] = "rated"
    return found
