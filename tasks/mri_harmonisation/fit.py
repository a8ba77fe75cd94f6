"""From opened sums to shared parameters. Exact sums give ComBat's own numbers or a refusal; noised ones always give finite ones.

How much noise there is shows in the blanks: numbers of the sum to which no patient adds anything. So a site, which sees only the
sum, and the lead find the same coefficients. With noise:

- a count is never believed below `COUNT_NOISES` standard deviations, so that nothing is divided by noise;
- the part of x x' that noise in the batches' means makes too large on average is taken off again;
- eigenvalues of x x' below `FLOOR_NOISES` standard deviations are raised to that, which draws to zero what is not determined;
- variances have a floor and a ceiling, and effects a ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.harmonise import HarmoniseError, Plan, Shared, combine_one
from tasks.harmonise import longitudinal as mixed
from tasks.harmonise.combine import MIN_VARIANCE
from tasks.mri_harmonisation.frame import Y_UNIT, Frame
from tasks.mri_harmonisation.scans import Floats

Bools = NDArray[np.bool_]
COUNT_NOISES: Final = 3.0
FLOOR_NOISES: Final = 5.0
EXACT: Final = 1e-7  # of the scans: less noise than this is rounding
LARGEST_EFFECT: Final = 3.0  # spreads, for a covariate's unit in the vectors (two decades, sex, 4 points of EDSS)
LARGEST_LOCATION: Final = 4.0  # spreads
VARIANCES: Final = (0.04, 9.0)  # of what is left, in spreads squared: believed range under noise
NOBODY: Final = "no site has a complete scan of a listed batch: check the names in task.options.batches"
RATIOS: Final = (5.0, 100.0)  # of the variance of patients to that of the error: people differ more than scans of one of them


@dataclass(frozen=True)
class Fitted:
    """Least squares on the model's scale.

    `scans` (n_batches,); `location` (n_batches, n_measures); `beta` (n_covariates, n_measures).
    `noise`: standard deviation in a number of the first sum, as the blanks show it; 0 if the sums are exact.
    """

    scans: Floats
    location: Floats
    beta: Floats
    noise: float


def coefficients(frame: Frame, parts: Mapping[str, Floats]) -> Fitted:
    """Of the first sum, whatever it was divided by. `HarmoniseError` if exact sums do not determine them."""
    noise = blank_noise(parts["blank"], float(np.abs(parts["scans"]).sum()))
    return _robust(frame, parts, noise) if noise else _exact(frame, parts)


def blank_noise(blank: Floats, scans: float) -> float:
    """Standard deviation of the noise in each number; 0 for sums that are exact but for rounding."""
    found = float(np.sqrt(np.mean(blank**2)))
    return found if found > EXACT * scans else 0.0


def _exact(frame: Frame, parts: Mapping[str, Floats]) -> Fitted:
    plan = frame.plan
    n = np.where(parts["scans"] < 1e-6 * parts["scans"].sum(), 0.0, parts["scans"])
    if not n.any():
        raise HarmoniseError(NOBODY)
    g, up = plan.n_measures, np.triu_indices(plan.n_covariates)
    x, y = parts["x"] * frame.x_unit * (n > 0)[:, None], parts["y"] * Y_UNIT * (n > 0)[:, None]
    xx = np.zeros((plan.n_covariates,) * 2)
    xx[up] = parts["xx"] * frame.x_unit[up[0]] * frame.x_unit[up[1]]
    xy = parts["xy"] * frame.x_unit[:, None] * Y_UNIT
    varies = varying(n, x, np.diag(xx))
    less = without(plan, varies)
    whole = (
        np.repeat(n[:, None], g, axis=1),
        y,
        np.repeat(x[:, None, varies], g, axis=1),
        np.repeat(xx[np.ix_(varies, varies)][np.triu_indices(less.n_covariates)][None, :], g, axis=0),
        xy[varies].T,
    )
    found = combine_one(less, np.concatenate([part.ravel() for part in whole]))
    return Fitted(n, found.location, _with_zeros(found.beta, varies), 0.0)


def varying(n: Floats, x: Floats, squares: Floats) -> Bools:
    """Which covariates vary within any batch, (n_covariates,): nobody can tell the others from the batches.

    `n` (n_batches,), `x` (n_batches, n_covariates): scans and sums; `squares` (n_covariates,): sums of squares.
    """
    within = squares - np.sum(x**2 / np.maximum(n, 1e-300)[:, None], axis=0, where=(n > 0)[:, None])
    return np.asarray(within > 1e-6 * np.maximum(squares, 1e-6 * n.sum()))


def without(plan: Plan, varies: Bools) -> Plan:
    """The plan with the covariates that vary. `HarmoniseError` if there is none."""
    kept = [name for name, keep in zip(plan.covariates, varies, strict=True) if keep]
    if not kept:
        raise HarmoniseError(f"{', '.join(plan.covariates)}: none varies within any batch; choose another covariate")
    phenotypes = tuple(name for name in plan.phenotypes if f"phenotype {name}" in kept)
    return replace(plan, phenotypes=phenotypes, protected=tuple(name for name in plan.protected if name in kept))


def _with_zeros(beta: Floats, varies: Bools) -> Floats:
    found = np.zeros((varies.size, beta.shape[1]))
    found[varies] = beta
    return found


def _robust(frame: Frame, parts: Mapping[str, Floats], noise: float) -> Fitted:
    q = frame.plan.n_covariates
    n = np.maximum(parts["scans"], COUNT_NOISES * noise)
    xx = np.zeros((q, q))
    up = np.triu_indices(q)
    xx[up] = parts["xx"]
    xx[up[::-1]] = parts["xx"]
    x, y = parts["x"], parts["y"]
    within = xx - (x / n[:, None]).T @ x + noise**2 * np.sum(1.0 / n) * np.eye(q)
    values, axes = np.linalg.eigh((within + within.T) / 2)
    values = np.maximum(values, FLOOR_NOISES * noise * np.sqrt(q))
    beta = (axes / values) @ (axes.T @ (parts["xy"] - (x / n[:, None]).T @ y))
    beta = np.clip(beta, -LARGEST_EFFECT / Y_UNIT, LARGEST_EFFECT / Y_UNIT)
    location = np.clip((y - x @ beta) / n[:, None] * Y_UNIT, -LARGEST_LOCATION, LARGEST_LOCATION)
    return Fitted(np.maximum(parts["scans"], 0.0), location, beta * Y_UNIT / frame.x_unit[:, None], noise)


def shared_of(frame: Frame, fitted: Fitted, parts: Mapping[str, Floats]) -> Shared:
    """What every site needs, from the parts of the second sum, not divided by anything: perhaps of fewer sites than the first."""
    total = max(float(parts["counted"][0]), COUNT_NOISES * fitted.noise, frame.square_unit)
    variance = parts["squares"] / total
    if fitted.noise:
        variance = np.clip(variance, *VARIANCES)
    elif (variance < MIN_VARIANCE).any():
        names = [each.name for each, constant in zip(frame.plan.measures, variance < MIN_VARIANCE, strict=True) if constant]
        raise HarmoniseError(f"{', '.join(names)}: nothing varies beyond batch and covariates; leave the measure out of the plan")
    return Shared(fitted.beta, _grand_mean(fitted.scans, fitted.location), np.sqrt(variance))


def mixed_of(frame: Frame, parts: Mapping[str, Floats]) -> tuple[mixed.Mixed, Floats, float]:
    """The longitudinal fit, scans of each batch, and the noise in a number of the sum."""
    summed = np.concatenate([parts[name].ravel() for name in ("xx", "xy", "yy")])
    found = mixed.moments_of(summed, frame.width, frame.plan.n_measures, frame.scans, frame.stretch)
    b = frame.plan.n_batches
    scans = np.einsum("nbc->b", found.xx[:, :b, :b])
    noise = blank_noise(parts["blank"], float(np.abs(scans).sum()))
    if noise:
        return (*_robust_mixed(frame, found, noise), noise)
    return _exact_mixed(frame, found, scans), scans, 0.0


def _exact_mixed(frame: Frame, found: mixed.Moments, scans: Floats) -> mixed.Mixed:
    """Without what is but rounding: batches that nobody has, covariates that do not vary."""
    b, total = frame.plan.n_batches, found.xx.sum(axis=0)
    seen = scans > 1e-6 * max(scans.sum(), 1e-300)
    if not seen.any():
        raise HarmoniseError(NOBODY)
    varies = varying(np.where(seen, scans, 0.0), total[:b, b:], np.diag(total)[b:])
    unit = np.concatenate([seen.astype(np.float64), frame.x_unit[varies]])
    kept = np.concatenate([np.ones(b, dtype=bool), varies])
    xx, xy = found.xx[:, kept][:, :, kept] * np.outer(unit, unit), found.xy[:, kept] * unit[:, None] * Y_UNIT
    fit = mixed.combine_longitudinal(without(frame.plan, varies), mixed.Moments(xx, xy, found.yy * Y_UNIT**2))
    return replace(fit, shared=replace(fit.shared, beta=_with_zeros(fit.shared.beta, varies)))


def _robust_mixed(frame: Frame, found: mixed.Moments, noise: float) -> tuple[mixed.Mixed, Floats]:
    """Ordinary least squares, which patients' levels make less sharp but not wrong, then variances by moments.

    The likelihood would weigh most what is within patients, and that is the smallest part of the sum: noise would decide it. For
    the same reason a change of scanner within a patient counts as error: noise in its batches would be larger.
    """
    b, up = frame.plan.n_batches, np.triu_indices(frame.plan.n_covariates)
    total, xy = found.xx.sum(axis=0), found.xy.sum(axis=0)
    parts = {"scans": np.diag(total)[:b], "x": total[:b, b:], "y": xy[:b], "xx": total[b:, b:][up], "xy": xy[b:]}
    fitted = _robust(frame, parts, noise * math.sqrt(len(found.xx)))
    solved = np.vstack([fitted.location, fitted.beta * frame.x_unit[:, None]]) / Y_UNIT
    n, patients = np.arange(1.0, len(found.xx)), np.maximum(found.patients(b), 0.0)
    error = _squares(found, slice(0, 1), slice(b, None), solved) / max(float((n - 1) @ patients), COUNT_NOISES * noise, 1.0)
    whole = _squares(found, slice(None), slice(None), solved)
    whole += fitted.noise**2 * np.sum(1.0 / np.maximum(fitted.scans, COUNT_NOISES * fitted.noise))  # what noise fits of itself
    whole = np.clip(whole * Y_UNIT**2 / max(float(n @ patients), COUNT_NOISES * noise, 1.0), *VARIANCES)
    ratio = np.clip(whole / np.maximum(error * Y_UNIT**2, 1e-6) - 1.0, *RATIOS)
    error = whole / (1.0 + ratio)
    shared = Shared(fitted.beta, _grand_mean(fitted.scans, fitted.location), np.sqrt(error))
    return mixed.Mixed(shared, fitted.location, ratio), fitted.scans


def _squares(found: mixed.Moments, parts: slice, columns: slice, solved: Floats) -> Floats:
    """What these columns' effects leave of y y in these parts, (n_measures,)."""
    xx, xy, b = found.xx[parts, columns, columns].sum(axis=0), found.xy[parts, columns].sum(axis=0), solved[columns]
    return np.asarray(found.yy[parts].sum(axis=0) - 2 * np.sum(xy * b, axis=0) + np.sum(b * (xx @ b), axis=0))


def _grand_mean(scans: Floats, location: Floats) -> Floats:
    """Mean of the batches' intercepts, weighted by scans."""
    weight = np.maximum(scans, 1e-12)
    return np.asarray((weight[:, None] * np.where(np.isnan(location), 0.0, location)).sum(axis=0) / weight.sum())
