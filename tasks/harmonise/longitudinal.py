"""Longitudinal ComBat from sums: each patient has an intercept of the own, so that a scanner is not mistaken for its patients.

Model and steps: Beer et al. 2020, doi 10.1016/j.neuroimage.2020.117129, sec. 2.1: y = batch + x beta + patient + error, fitted by
restricted maximum likelihood (REML); then empirical Bayes on what is left, as in `bayes.py`.

What the fit needs of a patient with n scans is the spread about the patient's own mean (within), and s s' / n with s the sum over
the scans (between, by n): the inverse covariance of such a patient weighs the first with 1, the second with 1 / (1 + n ratio).
Hence one sum over all patients holds the whole likelihood, whatever the ratio of the variances turns out to be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.harmonise.combine import COLLINEAR, MIN_VARIANCE, Shared
from tasks.harmonise.errors import HarmoniseError
from tasks.harmonise.plan import Floats, Plan

LARGEST_SHARE: Final = 0.9999  # of the variance that is the patient's; ratio = share / (1 - share)
LARGEST_RATIO: Final = LARGEST_SHARE / (1 - LARGEST_SHARE)
GRID: Final = 200


@dataclass(frozen=True)
class Moments:
    """The sums of one fit, on the model's scale; the first index is 0 for within, n for between of patients with n scans.

    `xx` (1 + at_most, p, p), `xy` (1 + at_most, p, n_measures), `yy` (1 + at_most, n_measures); x is batches, then covariates.
    """

    xx: Floats
    xy: Floats
    yy: Floats

    def patients(self, n_batches: int) -> Floats:
        """How many patients have 1, 2, ... scans, (at_most,)."""
        scans = self.xx[1:, :n_batches, :n_batches].sum(axis=(1, 2))
        return np.asarray(scans / np.arange(1, len(self.xx)))


@dataclass(frozen=True)
class Mixed:
    """What every site gets. `location` (n_batches, n_measures): intercept of each batch, NaN without scans.

    `ratio` (n_measures,): variance of patients over that of the error, whose root is `shared.sigma`.
    """

    shared: Shared
    location: Floats
    ratio: Floats


def shapes(p: int, n_measures: int, at_most: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of the parts of a patient's row: x x' (upper triangle), x y, y y; each within, then between by number of scans."""
    return (1 + at_most, p * (p + 1) // 2), (1 + at_most, p, n_measures), (1 + at_most, n_measures)


def patient_rows(
    x: Floats, y: Floats, owners: NDArray[np.intp], patients: int, at_most: int, stretch: Floats | None = None
) -> Floats:
    """What each patient adds to the sums, (patients, size of `shapes`); `x` (n_scans, p), `y` (n_scans, n_measures), none missing.

    `owners` (n_scans,): whose scan it is, of at most `at_most` scans each. `stretch` (p + n_measures,): public factors on what is
    about a patient's own mean, for that is small beside the mean, and a grid or noise is the same for both; `moments_of` takes
    them off again.
    """
    p, g = x.shape[1], y.shape[1]
    counts = np.bincount(owners, minlength=patients)
    both = np.hstack([x, y])
    total = np.zeros((patients, p + g))
    np.add.at(total, owners, both)
    about = both - (total / np.maximum(counts, 1)[:, None])[owners]
    about = about if stretch is None else about * stretch
    found = [np.zeros((patients, *shape)) for shape in shapes(p, g, at_most)]
    for part, scan in zip(found, _products(about, p), strict=True):
        np.add.at(part[:, 0], owners, scan)
    seen = np.flatnonzero(counts)
    for part, patient in zip(found, _products(total[seen] / np.sqrt(counts[seen])[:, None], p), strict=True):
        part[seen, counts[seen]] = patient
    return np.concatenate([part.reshape(patients, -1) for part in found], axis=1)


def moments_of(summed: Floats, p: int, n_measures: int, at_most: int, stretch: Floats | None = None) -> Moments:
    """The sum over patients' rows, (size,), as matrices; `stretch` as in `patient_rows`."""
    parts = shapes(p, n_measures, at_most)
    ends = np.cumsum([math.prod(shape) for shape in parts])[:-1]
    upper, xy, yy = (part.reshape(shape) for part, shape in zip(np.split(summed, ends), parts, strict=True))
    rows, columns = np.triu_indices(p)
    xx = np.zeros((1 + at_most, p, p))
    xx[:, rows, columns] = upper
    xx[:, columns, rows] = upper
    if stretch is None:
        return Moments(xx, xy, yy)
    x, y = stretch[:p], stretch[p:]
    first = (np.arange(1 + at_most) == 0).astype(np.float64)
    xx /= np.outer(x, x) ** first[:, None, None]
    return Moments(xx, xy / np.outer(x, y) ** first[:, None, None], yy / (y * y) ** first[:, None])


def combine_longitudinal(plan: Plan, moments: Moments) -> Mixed:
    """REML estimates of every measure. `HarmoniseError` where the scans do not determine them.

    The grand mean weighs batches by their scans, as Beer's constraint on the batch effects does.
    """
    batches = slice(0, plan.n_batches)
    scans = np.einsum("nbc->b", moments.xx[:, batches, batches])
    kept = np.concatenate([scans > 0, np.ones(plan.n_covariates, dtype=bool)])
    xx, xy = moments.xx[:, kept][:, :, kept], moments.xy[:, kept]
    patients = moments.patients(plan.n_batches)
    if patients[1:].sum() < 2:
        raise HarmoniseError("fewer than 2 patients have several scans: a patient's own level cannot be told from the error")
    _check(plan, xx.sum(axis=0))
    found = np.full((plan.n_batches + plan.n_covariates, plan.n_measures), np.nan)
    sigma, ratio = np.empty(plan.n_measures), np.empty(plan.n_measures)
    for at in range(plan.n_measures):
        one = Profile(xx, xy[:, :, at], moments.yy[:, at], patients)
        ratio[at] = one.best()
        variance = one.variance(ratio[at])
        if variance < MIN_VARIANCE or ratio[at] > 0.999 * LARGEST_RATIO:
            raise HarmoniseError(f"{plan.measures[at].name}: nothing varies within patients; leave the measure out of the plan")
        sigma[at], found[kept, at] = math.sqrt(variance), one.solution(ratio[at])
    location = found[batches]
    grand_mean = (scans[:, None] * np.where(np.isnan(location), 0.0, location)).sum(axis=0) / scans.sum()
    return Mixed(Shared(found[plan.n_batches :], grand_mean, sigma), location, ratio)


@dataclass(frozen=True)
class Profile:
    """The restricted likelihood of one measure as a function of the ratio of variances, everything else at its best.

    `xx` (1 + at_most, p, p), `xy` (1 + at_most, p), `yy` (1 + at_most,), `patients` (at_most,).
    """

    xx: Floats
    xy: Floats
    yy: Floats
    patients: Floats

    @property
    def freedom(self) -> float:
        """Scans less coefficients."""
        return float(self._n @ self.patients - self.xx.shape[1])

    @property
    def _n(self) -> Floats:
        return np.arange(1.0, len(self.yy))

    def solution(self, ratio: float) -> Floats:
        """Generalised least squares, (p,)."""
        weight = self._weights(ratio)
        return np.asarray(self._inverse(weight) @ np.tensordot(weight, self.xy, 1))

    def variance(self, ratio: float) -> float:
        """Of the error."""
        return self._squares(ratio) / self.freedom

    def deviance(self, ratio: float) -> float:
        """-2 log restricted likelihood, less a constant."""
        weight = self._weights(ratio)
        (_, size), squares = np.linalg.slogdet(np.tensordot(weight, self.xx, 1)), self._squares(ratio)
        spread = float(self.patients @ np.log1p(self._n * ratio))
        return self.freedom * math.log(squares) + spread + float(size)

    def slope(self, ratio: float) -> float:
        """Derivative of `deviance`; its root is sharper than the minimum is flat."""
        weight = self._weights(ratio)
        change = -self._n * weight[1:] ** 2
        b = self.solution(ratio)
        squares = self.yy[1:] - 2 * self.xy[1:] @ b + np.einsum("nij,i,j->n", self.xx[1:], b, b)
        fit = self.freedom * float(change @ squares) / self._squares(ratio)
        size = float(np.sum(self._inverse(weight) * np.tensordot(change, self.xx[1:], 1)))
        return float(fit + float(self.patients @ (self._n * weight[1:])) + size)

    def best(self) -> float:
        """The ratio with the largest restricted likelihood, 0 to 9999."""
        from scipy.optimize import brentq

        ratios = [share / (1 - share) for share in np.linspace(0.0, LARGEST_SHARE, GRID)]
        at = int(np.argmin([self.deviance(ratio) for ratio in ratios]))
        low, high = ratios[max(at - 1, 0)], ratios[min(at + 1, GRID - 1)]
        if self.slope(low) >= 0 or self.slope(high) <= 0:
            return float(ratios[at])  # at an end
        root: float = brentq(self.slope, low, high, xtol=1e-14, rtol=1e-14)
        return root

    def _weights(self, ratio: float) -> Floats:
        return np.concatenate([[1.0], 1.0 / (1.0 + self._n * ratio)])

    def _inverse(self, weight: Floats) -> Floats:
        return np.asarray(np.linalg.inv(np.tensordot(weight, self.xx, 1)))

    def _squares(self, ratio: float) -> float:
        weight = self._weights(ratio)
        xy = np.tensordot(weight, self.xy, 1)
        return max(float(weight @ self.yy - xy @ self.solution(ratio)), 1e-300)


def patient_levels(residual: Floats, owners: NDArray[np.intp], patients: int, ratio: Floats) -> Floats:
    """Best prediction of each patient's own intercept, (patients, n_measures), from residuals (n_scans, n_measures).

    0 for a patient without scans. It needs that patient's scans and the public `ratio` alone, so each site has it by itself.
    """
    counts = np.bincount(owners, minlength=patients)[:, None]
    total = np.zeros((patients, residual.shape[1]))
    np.add.at(total, owners, residual)
    return np.asarray(ratio * total / (1.0 + counts * ratio))


def late_locations(y: Floats, batch: NDArray[np.intp], owners: NDArray[np.intp], ratio: Floats, known: Floats) -> Floats:
    """Intercepts of batches outside the fit, from one site's scans with beta and `ratio` frozen: (n_batches, n_measures).

    `y` (n_scans, n_measures): values less what covariates explain; `batch` (n_scans,): which of `known`, (n_batches, n_measures),
    whose NaN are to be found and whose others stand. Generalised least squares, as in the fit; NaN without scans.
    """
    found = known.copy()
    for at in range(y.shape[1]):
        late = np.flatnonzero(np.isnan(known[:, at]) & (np.bincount(batch, minlength=len(known)) > 0))
        if not late.size:
            continue
        x = (batch[:, None] == late).astype(np.float64)
        left = y[:, at] - np.where(x.any(axis=1), 0.0, known[batch, at])
        counts = np.bincount(owners)
        sums, total = np.zeros((len(counts), late.size)), np.bincount(owners, left)
        np.add.at(sums, owners, x)
        weight = ratio[at] / (1.0 + counts * ratio[at])
        xx = x.T @ x - (sums * weight[:, None]).T @ sums
        found[late, at] = np.linalg.solve(xx, x.T @ left - (sums * weight[:, None]).T @ total)
    return found


def _products(rows: Floats, p: int) -> tuple[Floats, Floats, Floats]:
    x, y = rows[:, :p], rows[:, p:]
    up, across = np.triu_indices(p)
    return x[:, up] * x[:, across], x[:, :, None] * y[:, None, :], y * y


def _check(plan: Plan, xx: Floats) -> None:
    """Refuses covariates that the scans cannot tell apart from one another or from batches."""
    scale = np.sqrt(np.maximum(np.diag(xx), 0.0))
    names = plan.covariates
    if constant := [name for name, size in zip(names, scale[-plan.n_covariates :], strict=True) if size < COLLINEAR]:
        raise HarmoniseError(f"{', '.join(constant)} does not vary; leave it out of the plan")
    if np.linalg.eigvalsh(xx / np.outer(scale, scale))[0] < COLLINEAR:
        raise HarmoniseError(
            f"the scans cannot tell batches and covariates apart ({', '.join(names)}); leave one out, or pool batches"
        )
