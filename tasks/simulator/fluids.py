"""Blood: the contract's table `biomarkers`. Neurofilament follows activity, GFAP silent worsening, and assays differ by site."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.simulator import parameters as p
from tasks.simulator.course import Course
from tasks.simulator.streams import Flags, Floats, Integers, Texts, stream
from tasks.simulator.visits import Visits


def biomarkers_table(course: Course, visits: Visits, ids: Texts, seed: int) -> pd.DataFrame:
    """Samples of visits, one row for each analyte (sections 1.5 and 2.2)."""
    profile = course.people.profile
    rng = stream(seed, profile.spec.site_id, "biomarkers")
    stepped = course.stepped_within(visits.patient, visits.day, before=365, after=183)
    nfl_log, nfl_z = _nfl(course, visits, stepped, rng)
    gfap_z = (
        p.GFAP_BASE + p.GFAP_PIRA * stepped + p.GFAP_PER_POINT * (visits.lasting - 2) + p.GFAP_Z_SD * rng.standard_normal(visits.n)
    )
    age = course.people.age[visits.patient] + visits.day / p.YEAR
    gfap_log = np.log(p.GFAP_UM) + p.GFAP_AGE * (age - 40) + p.GFAP_LOG_SD * gfap_z
    platform = {"nfl": profile.nfl_platform, "gfap": "simoa_hdx"}
    factor = {"nfl": profile.nfl_factor, "gfap": 1.0}
    parts = []
    for analyte, log_value, z, low, high in (("nfl", nfl_log, nfl_z, 0.5, 500.0), ("gfap", gfap_log, gfap_z, 20.0, 1000.0)):
        taken = np.flatnonzero(rng.random(visits.n) < profile.coverage[analyte])
        value = np.exp(log_value[taken]) * factor[analyte]
        parts.append(
            pd.DataFrame(
                {
                    "patient_id": ids[visits.patient[taken]],
                    "day": visits.day[taken],
                    "analyte": analyte,
                    "matrix": "serum",
                    "platform": platform[analyte],
                    "value": np.clip(value, low, high).round(2),
                    "unit": "pg/mL",
                    "loq_flag": (value < low).astype(int),
                    "z_age_bmi": np.clip(z[taken], -5.9, 9.9).round(2),
                    "batch_id": [f"{analyte}-{batch}" for batch in _batch(course, visits, taken)],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _nfl(course: Course, visits: Visits, stepped: Flags, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Log concentration before the assay, and z against healthy people of this age and body mass."""
    patient = visits.patient
    lesions = course.lesions_before(patient, visits.day, p.GD_TICKS) > 0
    active = lesions | (visits.since_relapse <= p.NFL_ACTIVE_D)
    dmt = course.dmt_class[patient, course.tick(visits.day)]
    treated = np.take(p.NFL_Z, dmt) * course.scenario.effect * p.NFL_REFERENCE_SD
    person = 0.6 * p.NFL_SD * rng.standard_normal(course.people.n)[patient]
    above = (
        p.NFL_MS + p.NFL_ACTIVE * active + p.NFL_PIRA * stepped + treated + person + 0.8 * p.NFL_SD * rng.standard_normal(visits.n)
    )
    age = course.people.age[patient] + visits.day / p.YEAR
    expected = np.log(p.NFL_AT_30) + p.NFL_AGE * (age - 30) + p.NFL_BMI * (course.people.bmi[patient] - p.BMI[0])
    return expected + above, above / p.NFL_REFERENCE_SD


def _batch(course: Course, visits: Visits, taken: Integers) -> Integers:
    """Assays are run a half-year at a time."""
    year = course.people.index_year[visits.patient[taken]] + visits.day[taken] / p.YEAR
    return (year * 2).astype(np.int64) - 4000
