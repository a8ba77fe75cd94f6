"""The hazards that the histories are drawn from; the ground truth is computed by these very functions and by no others.

Rates are per patient-year. All arguments are arrays of one length (or broadcast); `ratio` is what a treatment multiplies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.simulator import parameters as p
from tasks.simulator.streams import Flags, Floats, Integers


@dataclass(frozen=True)
class Situation:
    """What the hazards of patients depend on at one moment, treatment apart. Arrays (n,)."""

    age: Floats
    duration: Floats  # years since onset
    phenotype: Integers
    disability: Floats
    women: Flags
    relapse_frailty: Floats
    progression_frailty: Floats  # with the calendar drift and the severity alleles
    active: Flags  # relapse or Gd+ within a year
    pira_age: float  # of the site
    pira_factor: float


def untreated_relapse_hazard(at: Situation) -> Floats:
    """Relapses a year (section 2.2)."""
    trend = np.exp(p.RELAPSE_AGE * (at.age - 30) + p.RELAPSE_DURATION * at.duration)
    sex = np.where(at.women, p.RELAPSE_WOMEN, p.RELAPSE_MEN)
    return np.asarray(p.RELAPSE_RATE * trend * at.relapse_frailty * sex * np.take(p.RELAPSE_PHENOTYPE, at.phenotype))


def untreated_pira_hazard(at: Situation) -> Floats:
    """Steps of silent worsening a year (section 2.2)."""
    trend = np.exp(at.pira_age * (at.age - 40)) * at.pira_factor
    return np.asarray(p.PIRA_RATE * trend * at.progression_frailty * np.take(p.PIRA_PHENOTYPE, at.phenotype))


def relapse_ratio(dmt_class: Integers, effect: float) -> Floats:
    """What treatment makes of the relapse rate (section 1.7); `effect` 0 makes it 1."""
    return np.asarray(np.take(p.RELAPSE_RATIO, dmt_class) ** effect)


def lesion_ratio(dmt_class: Integers, effect: float) -> Floats:
    return np.asarray(np.take(p.LESION_RATIO, dmt_class) ** effect)


def benefit(at: Situation) -> Floats:
    """What the logarithm of the PIRA ratio is multiplied by: none from 53 years, more in active, little in disabled people."""
    by_age = (p.BENEFIT_ENDS_AT - at.age) / (p.BENEFIT_ENDS_AT - p.BENEFIT_WHOLE_AT)
    by_activity = np.where(at.active, p.BENEFIT_ACTIVE, p.BENEFIT_QUIET)
    by_disability = np.where(at.disability >= p.BENEFIT_DISABLED_FROM, p.BENEFIT_DISABLED, 1.0)
    quiet_ppms = np.where((at.phenotype == p.PPMS) & ~at.active, p.BENEFIT_QUIET_PPMS, 1.0)
    return np.asarray(np.clip(by_age, 0.0, p.BENEFIT_MOST) * by_activity * by_disability * quiet_ppms)


def pira_ratio(at: Situation, dmt_class: Integers, effect: float) -> Floats:
    """What treatment makes of the PIRA hazard of each patient; `effect` 0 makes it 1."""
    progressive = at.phenotype >= p.SPMS
    log_ratio = np.where(
        progressive, np.log(np.take(p.PIRA_RATIO_PROGRESSIVE, dmt_class)), np.log(np.take(p.PIRA_RATIO, dmt_class))
    )
    return np.asarray(np.exp(effect * benefit(at) * log_ratio))


def relapse_hazard(at: Situation, dmt_class: Integers, effect: float) -> Floats:
    return untreated_relapse_hazard(at) * relapse_ratio(dmt_class, effect)


def pira_hazard(at: Situation, dmt_class: Integers, effect: float) -> Floats:
    return untreated_pira_hazard(at) * pira_ratio(at, dmt_class, effect)


def residual_chance(disability: Floats) -> Floats:
    """That a relapse leaves something behind."""
    return p.RESIDUAL_CHANCE * np.where(disability >= p.DISABLED, p.RESIDUAL_CHANCE_DISABLED, 1.0)


def worsening_hazard(at: Situation, dmt_class: Integers, effect: float) -> Floats:
    """Permanent worsening a year, by silent steps or by relapses that leave something for good."""
    lasting = residual_chance(at.disability) * (1 - p.FADING_SHARE)
    return pira_hazard(at, dmt_class, effect) + relapse_hazard(at, dmt_class, effect) * lasting


def lesion_rate(at: Situation, dmt_class: Integers, effect: float) -> Floats:
    """New or enlarging T2 lesions a year (section 2.2)."""
    trend = np.exp(p.LESION_AGE * (at.age - 30)) * at.relapse_frailty * np.take(p.LESION_PHENOTYPE, at.phenotype)
    return np.asarray(p.LESION_RATE * trend * lesion_ratio(dmt_class, effect))


def yearly_chance(rate: Floats | float) -> Floats:
    """Chance of an event within one tick of a rate per year."""
    return np.asarray(-np.expm1(-np.asarray(rate) / p.TICKS_A_YEAR))
