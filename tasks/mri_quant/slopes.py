"""A patient's rate of change: generalised least squares of logarithms of volumes on time, and how exact it is.

Model of a patient's scans, in % (100 times the logarithm): level of the patient + rate * years + shift of the scanner + error, the
shift with a public standard deviation, the level with none (it is free, as any random intercept with a wide prior). With a large
shift that is the slope within scanners, with a small one the slope over all scans; a change of scanner is never taken for a loss,
nor thrown away. Scans whose scanner is not known are each of a scanner of their own.

Everything is added up patient by patient in the order of rows: nobody's rate depends on who else is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.imaging.yearly_loss import DAYS_A_YEAR, LEAST_INTERVAL_D
from tasks.mri_harmonisation.scans import NO_BATCH
from tasks.mri_quant.frame import CENTRE, FREEDOM, LARGEST_ERROR, ROOM, UNIT, Frame
from tasks.mri_quant.measures import RateMeasure
from tasks.mri_quant.rows import BATCH, DAY, PLACES, REFERENCE
from tasks.sums import Floats

Bools = NDArray[np.bool_]
Owners = NDArray[np.intp]
FLAT: Final = 1e-9  # years squared: less spread of days than that within scanners tells nothing about the error
FARTHEST_COVARIATE: Final = (-1e3, 1e3)  # the same of ages and durations, so that no sum overflows
FARTHEST_D: Final = 1e6  # whatever a row says, its day counts as one within so many days of entry


@dataclass(frozen=True)
class Slopes:
    """Of one measure, (n_patients,) each. NaN in `rate`: fewer than two usable scans, or all within `LEAST_INTERVAL_D` days.

    `rate`: % a year. `variance`: of it, if a scan errs as the public constant says. `squares`, `freedom`: what is left within
    scanners, in units of that error, and its degrees of freedom. `scans`: usable ones, `first_day`, `last_day`: theirs.
    `x` (n_patients, width): 1, then covariates, means over usable scans on the plan's public scales, at most 1 either way.
    """

    rate: Floats
    variance: Floats
    squares: Floats
    freedom: Floats
    scans: NDArray[np.intp]
    first_day: Floats
    last_day: Floats
    x: Floats

    @property
    def rated(self) -> Bools:
        """Who has a rate, (n_patients,)."""
        return np.asarray(np.isfinite(self.rate))


@dataclass(frozen=True)
class Sums:
    """Sums over a patient's scans (n_patients,) and over those of one scanner (n_groups,)."""

    owners: Owners
    patients: int
    group: Owners
    group_owner: Owners

    def whole(self, values: Floats) -> Floats:
        found = np.zeros(self.patients)
        np.add.at(found, self.owners, values)
        return found

    def product(self, one: Floats, other: Floats, shrunk: Floats) -> Floats:
        """Of two columns (n_scans,) in the inverse covariance of shifts and errors, in units of the error: (n_patients,)."""
        parts = np.zeros((2, self.group_owner.size))
        np.add.at(parts[0], self.group, one)
        np.add.at(parts[1], self.group, other)
        less = np.zeros(self.patients)
        np.add.at(less, self.group_owner, shrunk * parts[0] * parts[1])
        return self.whole(one * other) - less


def usable(frame: Frame, measure: RateMeasure, rows: Floats) -> Bools:
    """Which scans count: this volume there, of the plan's harmonisation (or as measured), every covariate known."""
    value, day = rows[:, PLACES[measure.name]], rows[:, DAY]
    known = np.isfinite(value) & (value + measure.offset_ml > 0) & (np.abs(day) <= FARTHEST_D)
    for name in frame.covariates:
        known &= np.isfinite(rows[:, PLACES[name]])
    return np.asarray(known & (rows[:, REFERENCE] == frame.number))


def slopes_of(frame: Frame, measure: RateMeasure, rows: Floats, owners: Owners, patients: int) -> Slopes:
    """Rates of one measure; `rows` (n_scans, WIDTH), `owners` (n_scans,): whose scan it is."""
    kept = usable(frame, measure, rows)
    chosen, of = rows[kept], owners[kept]
    count = np.bincount(of, minlength=patients)
    first, last = np.full(patients, np.inf), np.full(patients, -np.inf)
    np.minimum.at(first, of, chosen[:, DAY])
    np.maximum.at(last, of, chosen[:, DAY])
    level = np.full(patients, np.nan)
    logs = 100.0 * np.log(chosen[:, PLACES[measure.name]] + measure.offset_ml)
    level[of[::-1]] = logs[::-1]  # of the first scan: numbers stay small
    years, y = (chosen[:, DAY] - first[of]) / DAYS_A_YEAR, logs - level[of]
    sums = _sums(chosen[:, BATCH], of, patients)
    rated = (count >= 2) & (last - first >= LEAST_INTERVAL_D)
    rate, variance = _rates(sums, years, y, measure.error, frame.shift(measure))
    squares, freedom = _left(sums, years, y, measure.error)
    nothing = np.full(patients, np.nan)
    return Slopes(
        np.where(rated, rate, nothing),
        np.where(rated, variance, nothing),
        np.where(rated, squares, 0.0),
        np.where(rated, freedom, 0.0),
        count,
        np.where(count > 0, first, nothing),
        np.where(count > 0, last, nothing),
        _covariates(frame, chosen, of, count),
    )


def _covariates(frame: Frame, chosen: Floats, owners: Owners, count: NDArray[np.intp]) -> Floats:
    found = np.zeros((len(count), frame.width))
    found[:, 0] = 1.0
    for at, name in enumerate(frame.covariates, start=1):
        np.add.at(found[:, at], owners, np.clip(chosen[:, PLACES[name]], *FARTHEST_COVARIATE) - CENTRE[name])
        found[:, at] = np.clip(found[:, at] / np.maximum(count, 1) / UNIT[name], -1.0, 1.0)
    return found


def _sums(batches: Floats, owners: Owners, patients: int) -> Sums:
    alone = -2.0 - np.arange(len(batches))  # numbers of scanners are never negative
    names = np.where(batches == NO_BATCH, alone, batches)
    order = np.lexsort((names, owners))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (owners[order][1:] != owners[order][:-1]) | (names[order][1:] != names[order][:-1])
    group = np.empty(len(order), dtype=np.intp)
    group[order] = np.cumsum(new) - 1
    return Sums(owners, patients, group, owners[order][new])


def _rates(sums: Sums, years: Floats, y: Floats, error: float, shift: float) -> tuple[Floats, Floats]:
    """Rate and its variance, both by the error's unit: the patient's own level is taken out like any other column."""
    n = np.bincount(sums.group, minlength=sums.group_owner.size).astype(np.float64)
    shrunk = shift**2 / (error**2 + n * shift**2)
    one = np.ones_like(years)
    level = sums.product(one, one, shrunk)
    by_time, by_value = sums.product(one, years, shrunk), sums.product(one, y, shrunk)
    with np.errstate(all="ignore"):  # patients without scans
        spread = sums.product(years, years, shrunk) - by_time**2 / level
        along = sums.product(years, y, shrunk) - by_time * by_value / level
        return along / spread, error**2 / spread


def _left(sums: Sums, years: Floats, y: Floats, error: float) -> tuple[Floats, Floats]:
    """Squares about a line within each scanner, one rate for all of a patient's scanners, and their degrees of freedom."""
    n = np.bincount(sums.group, minlength=sums.group_owner.size).astype(np.float64)
    spread, along = sums.product(years, years, 1.0 / n), sums.product(years, y, 1.0 / n)
    about = sums.product(y, y, 1.0 / n)
    told = spread > FLAT
    with np.errstate(all="ignore"):
        squares = np.maximum(about - np.where(told, along**2 / spread, 0.0), 0.0) / error**2
    scanners = np.bincount(sums.group_owner, minlength=sums.patients)
    freedom = np.maximum(np.bincount(sums.owners, minlength=sums.patients) - scanners - told, 0.0)
    factor = np.minimum(1.0, FREEDOM / np.maximum(freedom, 1.0))
    most = np.where(freedom > 0, LARGEST_ERROR * np.minimum(freedom + ROOM, FREEDOM), 0.0)
    return np.minimum(squares * factor, most), freedom * factor
