"""What a summed histogram of predicted effects says: the average effect, whether the prediction orders patients, and by how much.

Effects are differences of risk, high minus platform: negative is a benefit. All figures are functions of `cells`
(..., bins, STRATA, ARMS), bins from the greatest predicted benefit on, and give one value (...,) for each histogram: errors ask for
those of hundreds that differ in one cell. A curve's point is the share of patients with the greatest
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


def average(cells: Floats) -> Floats:
    """The average effect of those with overlap."""
    return difference(cells.sum(-3)).value


def uplift(cells: Floats) -> tuple[Floats, Floats]:
    """(shares, gains), (..., bins): share of patients above each threshold; events avoided by treating them, per patient of all.

    A group without overlap has no gain, NaN: the line goes on to the next one.
    """
    patients = np.maximum(cells.sum((-2, -1)), 0.0)
    shares = np.cumsum(patients, axis=-1) / np.maximum(patients.sum(-1, keepdims=True), 1e-12)
    return shares, -shares * difference(np.cumsum(cells, axis=-3)).value


def auuc(cells: Floats) -> Floats:
    """Area under the uplift curve (Gutierrez and Gerardy 2017), which begins at (0, 0)."""
    shares, gains = uplift(cells)
    area, share, height = (np.zeros(shares.shape[:-1]) for _ in range(3))
    for at in range(shares.shape[-1]):
        known = ~np.isnan(gains[..., at])
        gain = np.where(known, gains[..., at], height)
        area += np.where(known, (shares[..., at] - share) * (gain + height) / 2.0, 0.0)
        share, height = np.where(known, shares[..., at], share), gain
    return np.asarray(np.where(np.isnan(gains).all(-1), np.nan, area))


def qini(cells: Floats) -> Floats:
    """Area between the uplift curve and the line of treating by lot: the RATE with weights q (Yadlowsky et al. 2021)."""
    return np.asarray(auuc(cells) + average(cells) / 2.0)


def ad_wabc(cells: Floats) -> Floats:
    """Mean over all thresholds of what those above gain beyond the average, each threshold weighed by the share above it.

    The weighted area between the curve AD(c) and its value for everybody (Zhao et al. 2013; Falet et al. 2022), for a difference of
    risks where they take one of mean time without the event. It is 2 * `qini`, since the weights q add up to 1/2.
    """
    return 2.0 * qini(cells)


def policy_gain(cells: Floats) -> Floats:
    """Events avoided, per patient, by giving high efficacy only to those predicted to benefit, compared with giving it to all.

    NaN of nobody.
    """
    bins = cells.shape[-3]
    harmed = cells[..., bins // 2 :, :, :]  # 0 is a bound
    spared = difference(harmed.sum(-3)).value
    patients = cells.sum((-3, -2, -1))
    share = np.maximum(harmed.sum((-3, -2, -1)), 0.0) / np.maximum(patients, 1e-12)
    return np.asarray(np.where(patients > 0, np.where(np.isnan(spared), 0.0, share * spared), np.nan))


def slope(cells: Floats) -> Floats:
    """Calibration slope: of the effect seen in a bin on the one predicted, each bin weighed by its overlap; 1 is right."""
    seen, weight, off = _by_bin(cells)
    enough = np.count_nonzero(weight, axis=-1) >= LEAST_BINS
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(enough, (weight * off * seen).sum(-1) / (weight * off**2).sum(-1), np.nan))


def bias(cells: Floats) -> Floats:
    """Mean predicted less mean seen effect, by overlap; 0 is right."""
    seen, weight, _ = _by_bin(cells)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((weight * (middles(cells.shape[-3]) - seen)).sum(-1) / weight.sum(-1))


def average_se(cells: Floats) -> float:
    """Standard error of `average` from the number of patients, of one histogram."""
    found = difference(cells.sum(0))
    return math.sqrt(float(found.variance)) / float(found.weight)


def slope_se(cells: Floats) -> float:
    """Standard error of `slope`, of one histogram."""
    _, weight, off = _by_bin(cells)
    return math.sqrt(float(np.sum(off**2 * difference(cells).variance))) / float(np.sum(weight * off**2))


def _by_bin(cells: Floats) -> tuple[Floats, Floats, Floats]:
    """Effect seen, weight, and how far the predicted effect is from its mean, (..., bins)."""
    found, centre = difference(cells), middles(cells.shape[-3])
    with np.errstate(invalid="ignore", divide="ignore"):
        off = centre - (found.weight * centre).sum(-1, keepdims=True) / found.weight.sum(-1, keepdims=True)
    return np.nan_to_num(found.value), found.weight, np.asarray(off)


def fifth(cells: Floats, which: int) -> float:
    """Effect seen in a fifth of the patients of one histogram, 0 = the greatest predicted benefit; a bin on a border is parted."""
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
FIGURES: Final[Mapping[str, Callable[[Floats], Floats]]] = {
    "ate": average, "ad_wabc": ad_wabc, "qini": qini, "auuc": auuc, "policy_gain": policy_gain, "effect_slope": slope,
    "effect_bias": bias,
}  # fmt: skip
