"""Who comes to a site: each person's latent traits and what the table of patients says of them. All arrays are (n,)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from tasks.simulator import parameters as p
from tasks.simulator.presets import Schedule
from tasks.simulator.profiles import SiteProfile
from tasks.simulator.streams import Flags, Floats, Integers, Texts, gamma_frailty, stream

NEVER = -(10**6)  # a day before all others


@dataclass(frozen=True)
class People:
    """Latent traits at the first visit (day 0)."""

    profile: SiteProfile
    women: Flags
    age: Floats  # years
    duration: Floats  # years since onset
    index_year: Floats  # calendar time of day 0
    end_day: Integers  # administrative end of follow-up
    phenotype: Integers
    disability: Floats
    relapse_frailty: Floats
    progression_frailty: Floats
    progression_score: Floats  # its normal score
    topography: Integers
    brain_loss: Floats  # % a year
    hla_drb1: Integers
    severity_alleles: Integers
    bmi: Floats
    traits: Floats  # (n, 8) normal scores of organs that nothing else depends on
    known_relapse_day: Integers  # the first symptom or the flare that brought the person; the day before all if there is none

    @property
    def n(self) -> int:
        return int(self.age.size)

    @property
    def onset_day(self) -> Integers:
        return -np.rint(self.duration * p.YEAR).astype(np.int64)

    @property
    def diagnosis_year(self) -> Floats:
        return self.index_year - self.duration


def draw_people(profile: SiteProfile, seed: int) -> People:
    """The patients of one site (section 2.2)."""
    rng = stream(seed, profile.spec.site_id, "people")
    n = profile.spec.patients
    clinnova = profile.spec.schedule is Schedule.CLINNOVA
    phenotype, entry = _phenotypes(profile, rng)
    women = rng.random(n) < np.where(phenotype == p.PPMS, p.WOMEN_PPMS, profile.women)
    hla = rng.binomial(2, 1 - np.sqrt(1 - p.HLA_CARRIERS), n)
    mean, sd = np.take(np.asarray(p.ONSET_AGE), phenotype, axis=0).T
    onset = mean + profile.onset_age_shift + p.HLA_ONSET_Y * ((hla > 0) - p.HLA_CARRIERS)
    onset = _truncated(onset, sd, rng)
    duration = np.take(p.DURATION_SHIFT_Y, phenotype) + rng.gamma(np.take(p.DURATION_SHAPE, phenotype)) * np.take(
        p.DURATION_SCALE_Y, phenotype
    )
    duration = np.minimum(duration, p.OLDEST_AT_ENTRY - onset)
    if clinnova:
        duration = np.where(entry == 0, np.minimum(duration, rng.uniform(0.05, p.CLINNOVA_EARLY_Y, n)), duration)
        duration = np.maximum(duration, 18.0 - onset + 0.01)  # adults alone
    scores = rng.multivariate_normal([0, 0], [[1, p.FRAILTY_CORRELATION], [p.FRAILTY_CORRELATION, 1]], n)
    alleles = rng.binomial(2, p.SEVERITY_ALLELE, n)
    index_year, end_day = _calendar(profile, rng)
    relapse_frailty = gamma_frailty(scores[:, 0], p.RELAPSE_FRAILTY_SHAPE)
    progression_frailty = gamma_frailty(scores[:, 1], p.PROGRESSION_FRAILTY_SHAPE) * p.SEVERITY_HOMOZYGOTE ** (alleles / 2)
    drift = np.exp(p.CALENDAR_DRIFT * (index_year - duration - p.CALENDAR_CENTRE).clip(-15, 15))
    return People(
        profile=profile, women=women, age=onset + duration, duration=duration, index_year=index_year, end_day=end_day,
        phenotype=phenotype, disability=_disability(phenotype, profile.edss_shift, rng), relapse_frailty=relapse_frailty,
        progression_frailty=progression_frailty * drift,
        progression_score=scores[:, 1], topography=rng.choice(len(p.TOPOGRAPHIES), n, p=p.TOPOGRAPHY_SHARE),
        brain_loss=rng.normal(*p.BRAIN_LOSS, n) + p.BRAIN_LOSS_FRAILTY * (relapse_frailty - 1),
        hla_drb1=hla, severity_alleles=alleles,
        bmi=np.clip(rng.normal(*p.BMI, n), 17, 48), traits=rng.standard_normal((n, 8)),
        known_relapse_day=_known_relapse(phenotype, duration, entry, rng),
    )  # fmt: skip


def _phenotypes(profile: SiteProfile, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """Phenotype at entry and, for Clinnova, which entry criterion holds (0 early, 1 change or flare, 2 progression)."""
    n = profile.spec.patients
    phenotype = rng.choice(4, n, p=profile.phenotype_share)
    if profile.spec.schedule is not Schedule.CLINNOVA:
        return phenotype, np.full(n, -1)
    entry = rng.choice(3, n, p=p.CLINNOVA_ENTRY)
    early = np.where(rng.random(n) < 0.25, p.CIS, p.RRMS)
    late = np.where(rng.random(n) < 0.7, p.SPMS, p.PPMS)
    return np.select([entry == 0, entry == 2], [early, late], default=np.int64(p.RRMS)), entry


def _known_relapse(phenotype: Integers, duration: Floats, entry: Integers, rng: np.random.Generator) -> Integers:
    """The day of a relapse that is certain: the onset itself, or for half of those who came for a change or flare, that flare."""
    onset = np.where(np.isin(phenotype, (p.CIS, p.RRMS)), -np.rint(duration * p.YEAR), NEVER)
    flare = (entry == 1) & (rng.random(phenotype.size) < 0.5) & (duration * p.YEAR > 200)
    return np.where(flare, -rng.integers(10, 80, phenotype.size), onset).astype(np.int64)


def _truncated(mean: Floats, sd: Floats, rng: np.random.Generator) -> Floats:
    """Normal ages at onset within the range that occurs."""
    low, high = (special.ndtr((edge - mean) / sd) for edge in p.ONSET_AGE_RANGE)
    return np.asarray(mean + sd * special.ndtri(low + (high - low) * rng.random(mean.size)))


def _disability(phenotype: Integers, shift: float, rng: np.random.Generator) -> Floats:
    """Latent disability at day 0; a site's shift moves all who have any."""
    n = phenotype.size
    cis = rng.gamma(p.DISABILITY_CIS[0], p.DISABILITY_CIS[1], n)
    rrms = p.DISABILITY_RRMS_FLOOR + rng.gamma(p.DISABILITY_RRMS[0], p.DISABILITY_RRMS[1], n)
    rrms = np.where(rng.random(n) < p.DISABILITY_RRMS_NONE, 0.0, rrms)
    spms, ppms = rng.normal(*p.DISABILITY_SPMS, n), rng.normal(*p.DISABILITY_PPMS, n)
    found = np.choose(phenotype, (cis, rrms, spms, ppms))
    found = np.where(found > 0, found + shift, found)
    return np.clip(found, np.choose(phenotype, (0.0, 0.0, 3.6, 2.0)), 8.0)


def _calendar(profile: SiteProfile, rng: np.random.Generator) -> tuple[Floats, Integers]:
    """Calendar time of day 0 and the last day that the registry could know of."""
    n = profile.spec.patients
    if profile.spec.schedule is Schedule.CLINNOVA:
        years = rng.uniform(*p.CLINNOVA_FOLLOW_UP_Y, n)
        return p.LAST_YEAR + 1 - years, np.rint(years * p.YEAR).astype(np.int64)
    begin = rng.uniform(*p.FOLLOW_UP_FROM_YEAR, n)
    return begin, np.rint((p.LAST_YEAR + 1 - begin) * p.YEAR).astype(np.int64)


def patients_table(people: People, patient_ids: Texts, death_day: Floats, seed: int) -> pd.DataFrame:
    """The contract's table `patients`. `death_day` is NaN for the living."""
    rng = stream(seed, people.profile.spec.site_id, "patients table")
    n = people.n
    sex = np.where(rng.random(n) < p.UNKNOWN_SEX, "X", np.where(people.women, "F", "M"))
    height = _height(people.women, rng)
    diagnosis = people.onset_day + np.rint(rng.exponential(p.DIAGNOSIS_DELAY_SCALE_D, n)).astype(np.int64)
    diagnosis = np.minimum(diagnosis, 0)
    year = (people.index_year + diagnosis / p.YEAR).astype(int)
    bands = (people.index_year // 3 * 3).astype(int)
    ocb = np.where(rng.random(n) < p.OCB_POSITIVE, "pos", "neg")
    columns: dict[str, object] = {
        "patient_id": patient_ids,
        "sex": sex,
        "birth_year": np.floor(people.index_year - people.age).astype(int),
        "onset_day": people.onset_day,
        "diagnosis_day": diagnosis,
        "criteria": np.select(
            [year >= first for first, _ in p.CRITERIA_FROM], [name for _, name in p.CRITERIA_FROM], default="poser"
        ),
        "phenotype_entry": np.take(p.PHENOTYPES, people.phenotype),
        "onset_topography": np.take(p.TOPOGRAPHIES, people.topography),
        "education_years": np.clip(np.rint(rng.normal(*p.EDUCATION_Y, n)), 4, 25).astype(int),
        "smoking": rng.choice(("never", "former", "current"), n, p=p.SMOKING_SHARE),
        "height_cm": height.round(0),
        "weight_kg": np.clip(people.bmi * (height / 100) ** 2, 38, 180).round(0),
        **{f"comorbid_{name}": (rng.random(n) < share).astype(int) for name, share in p.COMORBID_SHARE.items()},
        "ocb": np.where(rng.random(n) < p.OCB_KNOWN, ocb, "unknown"),
        "death_day": death_day,
        "year_band": [f"{first}-{first + 2}" for first in bands],
    }
    return pd.DataFrame(columns)


def _height(women: Flags, rng: np.random.Generator) -> Floats:
    (women_mean, women_sd), (men_mean, men_sd) = p.HEIGHT_CM["F"], p.HEIGHT_CM["M"]
    z = rng.standard_normal(women.size)
    return np.clip(np.where(women, women_mean + women_sd * z, men_mean + men_sd * z), 145, 202)


def genetics_table(people: People, patient_ids: Texts, seed: int) -> pd.DataFrame:
    """The contract's table `genetics`, for those who were genotyped."""
    rng = stream(seed, people.profile.spec.site_id, "genetics")
    n = people.n
    known = rng.random(n) < people.profile.coverage["genetics"]
    score = p.PRS_LOADING * people.progression_score + np.sqrt(1 - p.PRS_LOADING**2) * rng.standard_normal(n)
    components = rng.standard_normal((n, 5)) * (0.02, 0.015, 0.01, 0.008, 0.006)
    table = pd.DataFrame(
        {
            "patient_id": patient_ids,
            "panel": "MSchip",
            "hla_drb1_1501": people.hla_drb1,
            "hla_a_0201": rng.binomial(2, p.HLA_A0201, n),
            "prs_risk": (0.3 * (people.hla_drb1 - 0.53) + rng.standard_normal(n)).round(3),
            "prs_severity": score.round(3),
            "rs10191329_a": people.severity_alleles,
            **{f"pc{i + 1}": components[:, i].round(4) for i in range(5)},
        }
    )
    return table[known]
