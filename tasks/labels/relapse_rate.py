"""The annualised relapse rate (ARR), with the negative binomial dispersion that says how unlike the patients are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gammaln

from tasks.labels.errors import LabelError
from tasks.labels.history import Bools, Floats, History, Ints, numbers, whole

DAYS_PER_YEAR = 365.25
LOG_DISPERSION = (math.log(1e-6), math.log(1e3))  # searched; below it the counts are Poisson


@dataclass(frozen=True)
class RelapseRate:
    """Relapses per patient-year of one group of patients."""

    relapses: int
    person_years: float
    rate: float  # relapses / person_years
    nb_rate: float  # rate of the negative binomial model, 0 if there is no relapse
    dispersion: float  # variance = mean + dispersion * mean^2, >= 0; 0 is Poisson
    low: float  # 95 % interval of nb_rate (Wald on its logarithm); 0 and inf if there is no relapse
    high: float


def relapse_counts(history: History, first_day: Floats, last_day: Floats, *, chosen: Bools | None = None) -> tuple[Ints, Floats]:
    """Relapses with onset after `first_day` and up to `last_day`, and years between, (n_patients,) each.

    `chosen` (n_relapses,): which rows of `history.relapses` count, such as those that a protocol bears out; all if None. A patient
    with a NaN day has 0 of both. `LabelError` for other lengths or a last day before the first.
    """
    first, last = numbers("follow-up", "first_day", first_day), numbers("follow-up", "last_day", last_day)
    if len(first) != history.n_patients or len(last) != history.n_patients:
        raise LabelError(f"follow-up of {len(first)} and {len(last)} patients, the history has {history.n_patients}")
    if np.any(last < first):
        raise LabelError(f"follow-up, row {int(np.argmax(last < first))}: last_day is before first_day")
    patient, onset = history.relapses.patient, history.relapses.onset_day
    again = np.zeros(len(patient), dtype=np.bool_)
    again[1:] = (patient[1:] == patient[:-1]) & (onset[1:] == onset[:-1])
    counted = (onset > first[patient]) & (onset <= last[patient]) & ~again
    if chosen is not None:
        if np.shape(chosen) != patient.shape or np.asarray(chosen).dtype != np.bool_:
            raise LabelError(f"chosen has shape {np.shape(chosen)}, the history {len(patient)} relapses: one truth value for each")
        counted &= chosen
    years = np.nan_to_num((last - first) / DAYS_PER_YEAR)
    return np.bincount(patient[counted], minlength=history.n_patients), years


def annualised_relapse_rate(counts: Ints, person_years: Floats) -> RelapseRate:
    """The rate of patients with `counts` relapses in `person_years` (n,) each; patients without time are left out.

    Maximum likelihood of the NB2 model with offset log(years) and no covariate (Hilbe 2011, ch. 8), with a profile over
    the dispersion. `LabelError` for negative numbers or if nobody has any time.
    """
    relapses, years = whole("rate", "counts", counts), numbers("rate", "person_years", person_years)
    if len(relapses) != len(years) or np.any(relapses < 0) or not np.all(years >= 0.0):
        raise LabelError(f"{len(relapses)} counts and {len(years)} times: they must be equally many, none negative or unknown")
    observed = years > 0.0
    if not np.any(observed):
        raise LabelError("nobody has any time under observation: there is no rate")
    y, t = relapses[observed].astype(np.float64), years[observed]
    total, time = int(y.sum()), float(t.sum())
    if total == 0:
        return RelapseRate(0, time, 0.0, 0.0, 0.0, 0.0, math.inf)
    dispersion = _dispersion(y, t)
    rate = _rate(y, t, dispersion)
    spread = 1.959964 / math.sqrt(float(np.sum(rate * t / (1.0 + dispersion * rate * t))))
    return RelapseRate(total, time, total / time, rate, dispersion, rate * math.exp(-spread), rate * math.exp(spread))


def _dispersion(y: Floats, t: Floats) -> float:
    """The dispersion with the highest profile likelihood, 0 where Poisson is as good."""

    def loss(log_dispersion: float) -> float:
        return -_log_likelihood(y, t, math.exp(log_dispersion))

    best = minimize_scalar(loss, bounds=LOG_DISPERSION, method="bounded", options={"xatol": 1e-8})
    poisson = -_log_likelihood(y, t, math.exp(LOG_DISPERSION[0]))
    return math.exp(float(best.x)) if float(best.fun) < poisson - 1e-9 else 0.0


def _rate(y: Floats, t: Floats, dispersion: float) -> float:
    """The rate at which the score is 0: it falls with the rate, and lies between the lowest and highest of the patients."""

    def score(rate: float) -> float:
        return float(np.sum((y - rate * t) / (1.0 + dispersion * rate * t)))

    if dispersion == 0.0:
        return float(y.sum() / t.sum())
    return float(brentq(score, 0.0, float(np.max(y / t)) * 1.01, xtol=1e-14, rtol=1e-13))


def _log_likelihood(y: Floats, t: Floats, dispersion: float) -> float:
    mean, size = _rate(y, t, dispersion) * t, 1.0 / dispersion
    terms = gammaln(y + size) - gammaln(size) + y * np.log(mean) - (y + size) * np.log(mean + size) + size * math.log(size)
    return float(np.sum(terms - gammaln(y + 1.0)))
