"""What the hospital writes down of relapses and treatments: some relapses are missed, days are rounded, stop dates forgotten."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.simulator import parameters as p
from tasks.simulator.course import Course
from tasks.simulator.presets import Schedule
from tasks.simulator.streams import Flags, Integers, Texts, stream


def relapses_table(course: Course, ids: Texts, seed: int) -> pd.DataFrame:
    """The contract's table `relapses`. What is under-reported never comes back."""
    profile = course.people.profile
    rng = stream(seed, profile.spec.site_id, "relapses table")
    truth = course.relapses
    n = truth.day.size
    prospective = profile.spec.schedule in (Schedule.CLINNOVA, Schedule.TRIAL)
    kept = rng.random(n) >= (0.25 if prospective else 1.0) * profile.under_reporting
    mild = truth.bump < 0.9
    precision = np.where(rng.random(n) < (0.1 if prospective else 0.35), rng.choice((7, 14, 30), n), 0)
    onset = truth.day + np.rint(rng.uniform(-0.5, 0.5, n) * precision).astype(np.int64)
    onset = np.clip(onset, np.maximum(course.people.onset_day, -p.LOOK_BACK * p.TICK)[truth.patient], course.end_day[truth.patient])
    lasts = np.rint(15 + rng.gamma(2.0, 15.0, n)).astype(np.int64)
    end = np.where(onset + lasts <= course.end_day[truth.patient], onset + lasts, np.nan)
    end = np.where(rng.random(n) < 0.35, np.nan, end)
    severity = np.select([mild, truth.bump < 1.7], ["mild", "moderate"], default="severe")
    recovery = np.where(truth.residual > 0.2, np.where(truth.residual > truth.bump, "none", "partial"), "complete")
    columns = {
        "patient_id": ids[truth.patient],
        "onset_day": onset,
        "end_day": end,
        "confirmed": rng.choice(("patient", "physician", "objective"), n, p=(0.15, 0.45, 0.4)),
        "severity": severity,
        "fs_affected": _systems(truth.optic, rng),
        "steroid": (rng.random(n) < np.where(mild, 0.45, 0.8)).astype(int),
        "hospitalised": (rng.random(n) < np.where(mild, 0.05, 0.22)).astype(int),
        "recovery": np.where(rng.random(n) < 0.2, "unknown", recovery),
        "onset_precision_d": precision,
        "patient": truth.patient,
    }
    found = pd.DataFrame(columns)[kept].sort_values(["patient", "onset_day"], kind="stable")
    return found[_far_enough(found["patient"].to_numpy(), found["onset_day"].to_numpy())].drop(columns="patient")


def _systems(optic: Flags, rng: np.random.Generator) -> list[str]:
    """One or two functional systems; optic neuritis is visual."""
    names = np.array(p.FUNCTIONAL_SYSTEMS)
    weights = np.array(p.FS_WEIGHT) * (names != "visual")
    first, second = (rng.choice(7, optic.size, p=weights / weights.sum()) for _ in range(2))
    two = (rng.random(optic.size) < 0.35) & (first != second) & ~optic
    low, high = np.minimum(first, second), np.maximum(first, second)
    one = np.where(optic, 0, first)
    return [f"{names[a]}|{names[b]}" if both else str(names[c]) for a, b, c, both in zip(low, high, one, two, strict=True)]


def _far_enough(patient: Integers, day: Integers) -> Flags:
    """Relapses at least 30 days after the one before that is kept; rounding of days must not make one into two."""
    kept = np.ones(day.size, bool)
    last_patient, last_day = -1, 0
    for i, (who, when) in enumerate(zip(patient.tolist(), day.tolist(), strict=True)):
        kept[i] = who != last_patient or when - last_day >= p.RELAPSE_GAP_D
        if kept[i]:
            last_patient, last_day = who, when
    return kept


def treatments_table(course: Course, ids: Texts, seed: int) -> pd.DataFrame:
    """The contract's table `treatments`. A stop date is forgotten only where no later therapy of its class would overlap."""
    profile = course.people.profile
    rng = stream(seed, profile.spec.site_id, "treatments table")
    given = course.treatments
    n = given.patient.size
    later = _class_again(given.patient, given.dmt_class)
    prospective = profile.spec.schedule in (Schedule.CLINNOVA, Schedule.TRIAL)
    forgotten = (rng.random(n) < (0.0 if prospective else profile.stop_missing)) & ~later
    reason_stop = np.array(given.reason_stop, dtype=object)
    stopped = reason_stop != ""
    reason_stop[stopped & (rng.random(n) < 0.2)] = "unknown"
    columns = {
        "patient_id": ids[given.patient],
        "start_day": given.start_day,
        "drug": [drug[0] for drug in given.drug],
        "end_day": np.where(forgotten, np.nan, given.end_day),
        "atc": [drug[1] for drug in given.drug],
        "dmt_class": np.take(p.CLASSES, given.dmt_class),
        "dose_mg": [drug[2] for drug in given.drug],
        "interval_d": [drug[3] for drug in given.drug],
        "reason_start": given.reason_start,
        "reason_stop": np.where(forgotten, "", reason_stop),
        "arm": "",
    }
    return pd.DataFrame(columns)


def _class_again(patient: Integers, dmt_class: Integers) -> Flags:
    """Whether the patient has a later treatment of the same class; rows by patient and start."""
    rows = pd.Series(np.arange(patient.size)).groupby([patient, dmt_class]).transform("max")
    return np.asarray(rows.to_numpy() > np.arange(patient.size))
