"""From the opened sum to the distribution of rates: least squares on covariates, then variances by moments.

Model: rate of a patient = x beta + what is the patient's own (variance omega^2) + error of the slope (variance kappa v, where v is
the public one of `slopes.py`). With public weights w = between^2 / (between^2 + v) every expectation that is needed is linear in
the sums: sum of w v x x' = between^2 (sum of x x' - ...), and w^2 v = between^2 w (1 - w). So

    beta = (sum w x x')^-1 sum w x y,    Q = sum w (y - x beta)^2,
    E Q = omega^2 (sum w - tr) + kappa between^2 (patients - sum w - width + tr),    tr = trace((sum w x x')^-1 sum w^2 x x'),

as DerSimonian and Laird 1986 (doi 10.1016/0197-2456(86)90046-2) have it for studies, here for patients. kappa is what is left
within scanners over its degrees of freedom. With noise of a known size in every number, nothing is divided by less than
`COUNT_NOISES` standard deviations of it, and variances stay within public limits: what is found is always finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.mri_quant.frame import FREEDOM, SCALES
from tasks.mri_quant.measures import RateMeasure
from tasks.sums import Floats

COUNT_NOISES: Final = 3.0
FLOOR_NOISES: Final = 3.0
STILL: Final = 1e-6  # of its squares: a covariate that varies less than this is a constant
KAPPA: Final = (0.1, 4.0)  # believed range of the error's variance over the public one
KAPPA_NOISED: Final = (0.5, 2.0)
LEAST_FREEDOM: Final = 10.0  # degrees; with fewer the public error stands
OMEGA: Final = (0.1, 4.0)  # believed range of the spread between patients under noise, over the public one
LARGEST_EFFECT: Final = 4.0  # of a coefficient under noise, in vectors' units


@dataclass(frozen=True)
class Rates:
    """What one measure's sum says, in % a year. `beta`, `covariance`: of 1 and the covariates, (width,) and (width, width).

    `noise`: standard errors of `beta` that noise alone makes, (width,). `omega2`: variance between patients beside the covariates,
    `omega2_se` its standard error, `omega2_noise` the part of it that is noise. `kappa`: of the error's variance over the public
    one; `kappa_known`: whether the scans said so. `weight`: patients' weights together.
    """

    patients: float
    weight: float
    below: float
    beta: Floats
    covariance: Floats
    noise: Floats
    varies: NDArray[np.bool_]
    omega2: float
    omega2_se: float
    omega2_noise: float
    kappa: float
    kappa_known: bool

    def error(self, at: int) -> float:
        """Standard error of a coefficient, noise in it."""
        return math.hypot(math.sqrt(max(float(self.covariance[at, at]), 0.0)), float(self.noise[at]))

    def noisy(self, at: int) -> bool:
        """Whether noise is the greater part of that error."""
        return float(self.noise[at]) ** 2 > float(self.covariance[at, at])


def fit(measure: RateMeasure, parts: Mapping[str, Floats], noise: float, *, width: int | None = None) -> Rates:
    """The model with the first `width` columns (None: all).

    `noise`: standard deviation in every number that is not scaled; 0: sums are exact.
    """
    whole = len(parts["xy"])
    q = whole if width is None else width
    xx, ww = (_square(parts[name], whole)[:q, :q] for name in ("xx", "ww"))
    xy, yy, patients = parts["xy"][:q], float(parts["yy"][0]), max(float(parts["patients"][0]), 0.0)
    kappa, known = _kappa(parts, noise)
    varies = _varying(xx, noise)
    inverse = _inverse(xx, varies, noise)
    beta = inverse @ xy
    if noise:
        beta = np.clip(beta, -LARGEST_EFFECT, LARGEST_EFFECT)
    left = yy - 2 * float(beta @ xy) + float(beta @ xx @ beta)
    weight = max(float(xx[0, 0]), COUNT_NOISES * noise, 1e-12)
    trace = float(np.sum(inverse * ww))
    per_error = kappa * measure.between**2
    freedom = max(weight - trace, COUNT_NOISES * noise, 1e-12)
    omega2 = (left * measure.unit**2 - per_error * (patients - weight - int(varies.sum()) + trace)) / freedom
    low, high = (OMEGA[0] * measure.between) ** 2, (OMEGA[1] * measure.between) ** 2
    omega2 = min(max(omega2, low), high) if noise else max(omega2, 0.0)
    middle = (omega2 * ww + per_error * (xx - ww)) / measure.unit**2
    reach = math.sqrt(1.0 + float(beta @ beta))
    return Rates(
        patients=patients,
        weight=weight,
        below=float(parts["below"][0]),
        beta=beta * measure.unit,
        covariance=inverse @ middle @ inverse * measure.unit**2,
        noise=noise * reach * np.sqrt(np.sum(inverse**2, axis=1)) * measure.unit,
        varies=varies,
        omega2=omega2,
        omega2_se=_omega2_se(measure, omega2, kappa, parts, weight),
        omega2_noise=noise * math.hypot(_left_noise(beta) * measure.unit**2, per_error, per_error / SCALES["patients"]) / freedom,
        kappa=kappa,
        kappa_known=known,
    )


def _left_noise(beta: Floats) -> float:
    """Standard deviation of yy - 2 beta xy + beta xx beta for noise of 1 in each number; those beside xx's diagonal count twice.

    That of beta itself does not matter: what is left is smallest there.
    """
    squares = beta**2
    return math.sqrt(1.0 + 4.0 * float(squares.sum()) + 2.0 * float(squares.sum()) ** 2 - float((squares**2).sum()))


def _square(upper: Floats, q: int) -> Floats:
    found = np.zeros((q, q))
    rows, columns = np.triu_indices(q)
    found[rows, columns] = upper
    found[columns, rows] = upper
    return found


def _kappa(parts: Mapping[str, Floats], noise: float) -> tuple[float, bool]:
    """The error's variance over the public one; 1 where too few scans, or too much noise, stand behind it."""
    freedom, squares = float(parts["freedom"][0]), float(parts["squares"][0])
    if freedom * FREEDOM < LEAST_FREEDOM or freedom < 2 * COUNT_NOISES * noise / SCALES["freedom"]:
        return 1.0, False
    low, high = KAPPA_NOISED if noise else KAPPA
    return min(max(squares / freedom, low), high), True


def _varying(xx: Floats, noise: float) -> NDArray[np.bool_]:
    """Which columns are told from the first, which is 1; under noise all are kept, and drawn to zero by the floor."""
    found = np.ones(len(xx), dtype=bool)
    if not noise:
        found = xx[0] ** 2 < (1.0 - STILL) * np.diag(xx) * max(float(xx[0, 0]), 0.0)
        found[0] = True
    return found


def _inverse(xx: Floats, varies: NDArray[np.bool_], noise: float) -> Floats:
    """Of the columns that vary, zeros elsewhere; eigenvalues below the noise's size are raised to it."""
    kept = np.flatnonzero(varies)
    values, axes = np.linalg.eigh(xx[np.ix_(kept, kept)])
    floor = FLOOR_NOISES * noise * math.sqrt(len(kept)) if noise else STILL * max(float(values.max()), 1e-12)
    found = np.zeros_like(xx)
    found[np.ix_(kept, kept)] = (axes / np.maximum(values, floor)) @ axes.T
    return found


def _omega2_se(measure: RateMeasure, omega2: float, kappa: float, parts: Mapping[str, Floats], weight: float) -> float:
    """Standard error of the variance between patients, as of normal ones: 2 sum of w^2 (omega^2 + kappa v)^2, over weight^2.

    w (omega^2 + kappa v) = w omega^2 + (1 - w) kappa between^2, whose squares' sum follows from sums of 1, w and w^2.
    """
    n, w, w2 = (max(float(parts[name][0]), 0.0) for name in ("patients", "xx", "ww"))
    error2 = kappa * measure.between**2
    squares = omega2**2 * w2 + 2 * omega2 * error2 * (w - w2) + error2**2 * (n - 2 * w + w2)
    return math.sqrt(2 * max(squares, 0.0)) / weight
