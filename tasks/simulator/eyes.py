"""Retina and pathways: the contract's tables `oct` and `evoked_potentials`. Eyes remember neuritis, devices have offsets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.simulator import parameters as p
from tasks.simulator.course import Course
from tasks.simulator.streams import Flags, Floats, Integers, Texts, pairs, stream

EYES = np.array(("L", "R"))
DAYS_TO_THIN = 90.0  # e-folding time of the loss after neuritis [D]


def examinations(course: Course, share: float, every_d: float, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """Patients and days of examinations that are due every so many days and happen with chance `share`."""
    most = int(course.end_day.max() / every_d) + 1
    days = np.rint(every_d * np.arange(most) + rng.uniform(0, 0.25 * every_d, (course.people.n, most))).astype(np.int64)
    made = (rng.random(days.shape) < share) & (days <= course.end_day[:, None])
    patient, column = np.nonzero(made)
    return patient, days[patient, column]


def old_neuritis(course: Course, seed: int) -> Flags:
    """Eyes that had optic neuritis before day 0, (n_patients, 2)."""
    people = course.people
    rng = stream(seed, people.profile.spec.site_id, "old neuritis")
    optic = people.topography == p.TOPOGRAPHIES.index("optic")
    first = rng.integers(0, 2, people.n)
    found = rng.random((people.n, 2)) < np.where(optic, 0.1, p.NEURITIS_BEFORE)[:, None]
    found[np.arange(people.n)[optic], first[optic]] = True
    return found


def new_neuritis(course: Course, patient: Integers, eye: Integers, day: Integers) -> tuple[Floats, Floats]:
    """Share of one neuritis's loss by the optic neuritis since day 0 (more than one counts once), and its last day (NaN = none)."""
    optic = course.relapses.optic & (course.relapses.day >= 0)
    whose, when, side = course.relapses.patient[optic], course.relapses.day[optic], course.relapses.side[optic]
    i, j = pairs(patient, whose, course.people.n)
    ok = (side[j] == eye[i]) & (when[j] <= day[i])
    share, last = np.zeros(patient.size), np.full(patient.size, -np.inf)
    np.maximum.at(share, i[ok], (1 - np.exp(-(day[i] - when[j]) / DAYS_TO_THIN))[ok])
    np.maximum.at(last, i[ok], when[j][ok].astype(float))
    return share, np.where(np.isfinite(last), last, np.nan)


def _eye_scores(course: Course, patient: Integers, eye: Integers) -> Floats:
    """Normal score of each eye; the two of a person are correlated."""
    own = np.stack((course.people.traits[:, 5], course.people.traits[:, 6]), axis=1)
    shared = np.sqrt(p.EYES_CORRELATED) * course.people.traits[patient, 7]
    return np.asarray(shared + np.sqrt(1 - p.EYES_CORRELATED) * own[patient, eye])


def _steps_until(course: Course, patient: Integers, day: Integers) -> Floats:
    i, j = pairs(patient, course.steps.patient, course.people.n)
    return np.bincount(i[course.steps.day[j] <= day[i]], minlength=patient.size).astype(float)


def oct_table(course: Course, ids: Texts, seed: int) -> pd.DataFrame:
    """The contract's table `oct`: both eyes of each examination (sections 1.5 and 2.2)."""
    profile = course.people.profile
    rng = stream(seed, profile.spec.site_id, "oct")
    patient, day = examinations(course, profile.coverage["oct"], p.YEARLY_MODALITIES_D, rng)
    patient, day, eye = np.repeat(patient, 2), np.repeat(day, 2), np.tile([0, 1], patient.size)
    n = day.size
    old = old_neuritis(course, seed)[patient, eye]
    share, last = new_neuritis(course, patient, eye, day)
    hit = np.maximum(old.astype(float), share)
    score = _eye_scores(course, patient, eye)
    slope = p.RNFL_LOSS * day / p.YEAR + p.RNFL_LOSS_PIRA * _steps_until(course, patient, day)
    worn = 0.6 * np.maximum(course.people.disability[patient] - 2, 0)
    rnfl = p.RNFL_UM + p.RNFL_MS + p.RNFL_NEURITIS * hit + p.RNFL_SD * score + slope - worn + profile.oct_offset_um
    gcipl = p.GCIPL_UM + p.GCIPL_MS + p.GCIPL_NEURITIS * hit + p.GCIPL_SD * score + p.GCIPL_SLOPE * slope - worn
    gcipl = gcipl + 0.5 * profile.oct_offset_um
    rnfl, gcipl = rnfl + p.RNFL_ERROR_UM * rng.standard_normal(n), gcipl + p.GCIPL_ERROR_UM * rng.standard_normal(n)
    failed = rng.random(n) < 0.04
    columns = {
        "patient_id": ids[patient],
        "day": day,
        "eye": EYES[eye],
        "device": profile.oct_device,
        "prnfl_um": np.clip(rnfl, 35, 140).round(1),
        "prnfl_temporal_um": np.clip(0.72 * rnfl + 3 * rng.standard_normal(n), 15, 115).round(1),
        "gcipl_um": np.clip(gcipl, 32, 108).round(1),
        "inl_um": np.clip(34 + 1.5 * hit + 2.2 * score + rng.standard_normal(n), 18, 58).round(1),
        "tmv_mm3": np.clip(8.6 + 0.018 * (gcipl - 75) + 0.08 * rng.standard_normal(n), 6.2, 11.8).round(2),
        "on_history": (old | (share > 0)).astype(int),
        "on_last_day": last,
        "oscar_ib": np.where(failed, "fail", "pass"),
        "va_hc": np.clip(np.rint(54 - 5 * hit + 4 * rng.standard_normal(n)), 0, 60),
        "lcva_2_5": np.clip(np.rint(29 + 0.45 * (gcipl - 75) + 5 * rng.standard_normal(n)), 0, 60),
    }
    return pd.DataFrame(columns)


@dataclass(frozen=True)
class Sides:
    """Both sides of each examination. Arrays (n,)."""

    course: Course
    patient: Integers
    day: Integers
    side: Integers  # 0 left, 1 right
    disability: Floats

    @property
    def n(self) -> int:
        return int(self.day.size)

    def some(self, chosen: Flags) -> Sides:
        return Sides(self.course, self.patient[chosen], self.day[chosen], self.side[chosen], self.disability[chosen])

    def own(self, rng: np.random.Generator) -> Floats:
        """A fixed normal score for each side of each patient."""
        return np.asarray(rng.standard_normal((self.course.people.n, 2))[self.patient, self.side])

    def table(self, modality: str, measures: dict[str, object]) -> pd.DataFrame:
        return pd.DataFrame({"patient": self.patient, "day": self.day, "modality": modality, "side": EYES[self.side], **measures})


def evoked_table(course: Course, ids: Texts, seed: int) -> pd.DataFrame:
    """The contract's table `evoked_potentials`: visual ones, motor ones of arms and legs, both sides, every two years."""
    profile = course.people.profile
    rng = stream(seed, profile.spec.site_id, "evoked potentials")
    patient, day = examinations(course, profile.coverage["ep"], 2 * p.YEARLY_MODALITIES_D, rng)
    patient, day, side = np.repeat(patient, 2), np.repeat(day, 2), np.tile([0, 1], patient.size)
    sides = Sides(course, patient, day, side, course.disability(patient, day))
    motor = sides.some(rng.random(patient.size // 2).repeat(2) < 0.7)
    share, _ = new_neuritis(course, patient, side, day)
    neuritis = np.maximum(old_neuritis(course, seed)[patient, side].astype(float), share)
    parts = [
        _visual(sides, neuritis, rng),
        _motor(motor, "MEP_arm", p.CCT_ARM_MS, rng),
        _motor(motor, "MEP_leg", p.CCT_LEG_MS, rng),
    ]
    found = pd.concat(parts, ignore_index=True).sort_values(["patient", "day"], kind="stable")
    found.insert(0, "patient_id", ids[found.pop("patient")])
    return found


def _visual(at: Sides, neuritis: Floats, rng: np.random.Generator) -> pd.DataFrame:
    """P100 of each eye; `neuritis`: share of one neuritis's damage."""
    offset, n = at.course.people.profile.vep_offset_ms, at.n
    latency = p.P100_MS + p.P100_MS_MS + p.P100_NEURITIS * neuritis + p.P100_PER_POINT * (at.disability - 2)
    latency = latency + p.P100_SD * (0.9 * at.own(rng) + 0.3 * rng.standard_normal(n)) + offset
    absent = rng.random(n) < 0.01 + 0.04 * neuritis
    score = np.clip(np.floor((latency - p.P100_MS - 10) / 8), 0, 5)
    amplitude = np.clip(9 - 3 * neuritis + 3 * rng.standard_normal(n), 0.5, 40)
    measures: dict[str, object] = {
        "latency_ms": np.where(absent, np.nan, np.clip(latency, 75, 240).round(1)),
        "amplitude_uv": np.where(absent, np.nan, amplitude.round(1)),
        "cct_ms": np.nan,
        "absent": absent.astype(int),
        "ulim_ms": round(115 + offset, 1),
        "ep_score": np.where(absent, 6, score).astype(int),
    }
    return at.table("VEP", measures)


def _motor(at: Sides, modality: str, healthy_ms: float, rng: np.random.Generator) -> pd.DataFrame:
    """Central conduction to one pair of limbs, and the latency with the way through the periphery."""
    n, scale = at.n, healthy_ms / p.CCT_LEG_MS
    sd = p.CCT_SD + p.CCT_SD_PER_POINT * at.disability
    slowed = p.CCT_PER_POINT * at.disability + sd * (0.85 * at.own(rng) + 0.5 * rng.standard_normal(n))
    central = np.clip(healthy_ms + scale * slowed, 3, 55)
    absent = rng.random(n) < 0.01 + 0.03 * np.maximum(at.disability - 5, 0)
    amplitude = np.clip(2500 * np.exp(-0.25 * at.disability) * rng.lognormal(0, 0.4, n), 30, 4900)
    limit = healthy_ms + 2.5 * scale
    measures: dict[str, object] = {
        "latency_ms": np.where(absent, np.nan, (central + scale * 22 + rng.standard_normal(n)).round(1)),
        "amplitude_uv": np.where(absent, np.nan, amplitude.round(0)),
        "cct_ms": np.where(absent, np.nan, central.round(1)),
        "absent": absent.astype(int),
        "ulim_ms": round(limit + scale * 22, 1),
        "ep_score": np.where(absent, 6, np.clip(np.floor((central - limit) / (2 * scale)) + 1, 0, 5)).astype(int),
    }
    return at.table(modality, measures)
