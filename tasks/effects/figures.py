"""What a summed histogram of predicted effects says: the average effect, whether the prediction orders patients, and by how much.

Effects are differences of risk, high minus platform: negative is a benefit. All figures are functions of `cells`
(bins, STRATA, ARMS), bins from the greatest predicted benefit on. A curve's point is the share of patients with the greatest
predicted benefit, and what treating them avoids; between points the order is by chance, so curves are straight there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.effects.cells import difference, middles

Floats = NDArray[np.float64]
FIFTHS: Final = 5
LEAST_BINS: Final = 2  # with patients of both arms, for a slope


def average(cells: Floats) -> float:
    """The average effect of those with overlap."""
    return float(difference(cells.sum(0)).value)


def uplift(cells: Floats) -> tuple[Floats, Floats]:
    """(shares, gains): share of patients above each threshold, and events avoided by treating them, per patient of all; from 0 on.

    A group without overlap takes the point of the line to the next one.
    """
    patients = np.maximum(cells.sum((1, 2)), 0.0)
    shares = np.cumsum(patients) / max(float(patients.sum()), 1e-12)
    benefit = -difference(np.cumsum(cells, axis=0)).value
    known = ~np.isnan(benefit)
    return np.concatenate([[0.0], shares[known]]), np.concatenate([[0.0], (shares * benefit)[known]])


def auuc(cells: Floats) -> float:
    """Area under the uplift curve (Gutierrez and Gerardy 2017)."""
    shares, gains = uplift(cells)
    return float(np.sum(np.diff(shares) * (gains[1:] + gains[:-1]) / 2.0)) if len(shares) > 1 else float("nan")


def qini(cells: Floats) -> float:
    """Area between the uplift curve and the line of treating by lot: the RATE with weights q (Yadlowsky et al. 2021)."""
    return auuc(cells) + average(cells) / 2.0


def ad_wabc(cells: Floats) -> float:
    """Mean over all thresholds of what those above gain beyond the average, each threshold weighed by the share above it.

    The weighted area between the curve AD(c) and its value for everybody (Zhao et al. 2013; Falet et al. 2022), for a difference of
    risks where they take one of mean time without the event. It is 2 * `qini`, since the weights q add up to 1/2.
    """
    return 2.0 * qini(cells)


def policy_gain(cells: Floats) -> float:
    """Events avoided, per patient, by giving high efficacy only to those predicted to benefit, compared with giving it to all."""
    bins = len(cells)
    harmed = cells[bins // 2 :]  # 0 is a bound
    spared = float(difference(harmed.sum(0)).value)
    share = max(float(harmed.sum()), 0.0) / max(float(cells.sum()), 1e-12)
    return 0.0 if np.isnan(spared) else share * spared


def slope(cells: Floats) -> float:
    """Calibration slope: of the effect seen in a bin on the one predicted, each bin weighed by its overlap; 1 is right."""
    centre, seen, weight = _by_bin(cells)
    if np.count_nonzero(weight) < LEAST_BINS:
        return float("nan")
    off = centre - np.average(centre, weights=weight)
    return float(np.sum(weight * off * seen) / np.sum(weight * off**2))


def bias(cells: Floats) -> float:
    """Mean predicted less mean seen effect, by overlap; 0 is right."""
    centre, seen, weight = _by_bin(cells)
    return float(np.average(centre - seen, weights=weight)) if np.count_nonzero(weight) else float("nan")


def average_se(cells: Floats) -> float:
    """Standard error of `average` from the number of patients."""
    found = difference(cells.sum(0))
    return math.sqrt(float(found.variance)) / float(found.weight)


def slope_se(cells: Floats) -> float:
    """Standard error of `slope`; with the slope it is the score test of an effect that goes with the predicted one."""
    centre, _, weight = _by_bin(cells)
    off = centre - np.average(centre, weights=weight)
    return math.sqrt(float(np.sum(off**2 * difference(cells).variance))) / float(np.sum(weight * off**2))


def _by_bin(cells: Floats) -> tuple[Floats, Floats, Floats]:
    found = difference(cells)
    return middles(len(cells)), np.nan_to_num(found.value), found.weight


def fifth(cells: Floats, which: int) -> float:
    """Effect seen in one fifth of the patients, 0 = those with the greatest predicted benefit; a bin on a border is parted."""
    return float(difference((cells * _parts(cells, which)[:, None, None]).sum(0)).value)


def predicted_fifth(cells: Floats, which: int) -> float:
    """The mean effect predicted for that fifth."""
    weight = _parts(cells, which) * np.maximum(cells.sum((1, 2)), 0.0)
    return float(np.average(middles(len(cells)), weights=weight)) if weight.sum() > 0 else float("nan")


def _parts(cells: Floats, which: int) -> Floats:
    """Which part of each bin belongs to the fifth, (bins,), in [0, 1]."""
    patients = np.maximum(cells.sum((1, 2)), 0.0)
    total = max(float(patients.sum()), 1e-12)
    end = np.cumsum(patients) / total
    begin = end - patients / total
    low, high = which / FIFTHS, (which + 1) / FIFTHS
    inside = np.clip(np.minimum(end, high) - np.maximum(begin, low), 0.0, None)
    return np.asarray(inside / np.where(patients > 0, patients / total, 1.0))


ERRORS: Final[Mapping[str, Callable[[Floats], float]]] = {"ate": average_se, "effect_slope": slope_se}  # exact in sparse strata
FIGURES: Final[Mapping[str, Callable[[Floats], float]]] = {
    "ate": average, "ad_wabc": ad_wabc, "qini": qini, "auuc": auuc, "policy_gain": policy_gain, "effect_slope": slope,
    "effect_bias": bias,
}  # fmt: skip
