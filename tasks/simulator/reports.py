"""What patients say and what their devices count: the contract's tables `proms` and `wearables`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.simulator import parameters as p
from tasks.simulator.course import Course
from tasks.simulator.presets import Schedule
from tasks.simulator.streams import Floats, Integers, Texts, stream
from tasks.simulator.visits import Visits

WHOLE_SCORES = ("FSMC", "EQVAS", "HADS_D", "PDDS")


def proms_table(course: Course, visits: Visits, ids: Texts, seed: int) -> pd.DataFrame:
    """Questionnaires at visits; in Clinnova also between them (section 2.4)."""
    profile = course.people.profile
    rng = stream(seed, profile.spec.site_id, "proms")
    clinnova = profile.spec.schedule is Schedule.CLINNOVA
    patient, day = visits.patient, visits.day
    if clinnova:
        extra_patient, extra_day = _between(course, rng)
        patient, day = np.concatenate((patient, extra_patient)), np.concatenate((day, extra_day))
    found = pd.DataFrame({"patient": patient, "day": day}).drop_duplicates().sort_values(["patient", "day"])
    found = found[rng.random(len(found)) < profile.coverage["proms"]]
    patient, day = found["patient"].to_numpy(np.int64), found["day"].to_numpy(np.int64)
    felt = np.clip(course.disability(patient, day) + course.bump(patient, day), 0, 9.5)
    mode = rng.choice(("app", "paper", "clinic"), day.size, p=(0.7, 0.1, 0.2) if clinnova else (0.1, 0.5, 0.4))
    names = tuple(p.INSTRUMENTS) if clinnova else p.REGISTRY_INSTRUMENTS
    parts = []
    for name in names:
        low, slope, sd, error, lowest, highest = p.INSTRUMENTS[name]
        score = low + slope * felt + sd * rng.standard_normal(course.people.n)[patient] + error * rng.standard_normal(day.size)
        score = np.clip(score, lowest, highest)
        rounded = np.rint(score) if name in WHOLE_SCORES else score.round(3 if name == "EQ5D" else 1)
        columns = {"patient_id": ids[patient], "day": day, "instrument": name, "item": "total", "score": rounded, "mode": mode}
        parts.append(pd.DataFrame({**columns, "language": profile.spec.language}))
    return pd.concat(parts, ignore_index=True)


def _between(course: Course, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """Every half-year, away from the visits."""
    nominal = np.arange(91, p.CLINNOVA_YEARS * 365, 182)
    days = nominal + rng.integers(-20, 21, (course.people.n, nominal.size))
    patient, column = np.nonzero(days <= course.end_day[:, None])
    return patient, days[patient, column]


def wearables_table(course: Course, ids: Texts, seed: int) -> pd.DataFrame:
    """Weekly medians of those who wear a device, in weeks with enough data; adherence decays (section 2.4)."""
    profile = course.people.profile
    rng = stream(seed, profile.spec.site_id, "wearables")
    share = profile.coverage["wearables"]
    weeks = np.arange(0, int(course.end_day.max()) // 7) if share else np.arange(0)
    months = weeks * 7 / (p.YEAR / 12)
    adherence = share * np.maximum(np.exp(-months / p.ADHERENCE_MONTHS), p.ADHERENCE_FLOOR / 0.6)
    zeal = np.clip(rng.beta(2, 2, (course.people.n, 1)) * 2, 0, 1.6)
    worn = (rng.random((course.people.n, weeks.size)) < adherence * zeal) & (7 * weeks + 6 <= course.end_day[:, None])
    patient, column = np.nonzero(worn)
    week = weeks[column]
    day = 7 * week + 3
    felt = np.clip(course.disability(patient, day) + course.bump(patient, day), 0, 9.5)
    valid, hours = rng.integers(3, 8, week.size), np.clip(rng.normal(15, 3, week.size), 6, 24).round(1)
    parts = []
    for name, (start, slope, sd, error, lowest, highest) in p.FEATURES.items():
        value: Floats = (
            start + slope * felt + sd * rng.standard_normal(course.people.n)[patient] + error * rng.standard_normal(week.size)
        )
        columns = {"patient_id": ids[patient], "week": week, "feature": name}
        columns["value"] = np.clip(value, lowest, highest).round(0 if name == "steps_day" else 2)
        parts.append(pd.DataFrame({**columns, "device": "smartwatch", "valid_days": valid, "wear_h_day": hours, "app": "dreaMS"}))
    return pd.concat(parts, ignore_index=True)
