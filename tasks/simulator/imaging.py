"""What a scanner and a radiologist make of each brain: the contract's table `mri`. Scanners differ, brains shrink, lesions come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.simulator import parameters as p
from tasks.simulator.course import Course
from tasks.simulator.profiles import VOLUMES, Scanner
from tasks.simulator.streams import Flags, Floats, Integers, Texts, stream
from tasks.simulator.visits import present

BRAIN, THALAMUS, T2, VENTRICLE, CORD = range(len(VOLUMES))


@dataclass(frozen=True)
class Scans:
    """All scans of a site, by patient and day. Arrays (n_scans,); `before`: days since the patient's scan before, 0 = none."""

    patient: Integers
    day: Integers
    before: Integers
    scanner: Integers  # number among `scanners`
    scanners: tuple[Scanner, ...]

    @property
    def n(self) -> int:
        return int(self.day.size)

    @property
    def first(self) -> Flags:
        return np.asarray(self.before == 0)

    @property
    def field_t(self) -> Floats:
        return np.array([scanner.field_t for scanner in self.scanners])[self.scanner]

    def gamma(self, volume: int) -> Floats:
        return np.array([scanner.gamma[volume] for scanner in self.scanners])[self.scanner]

    def delta(self, volume: int) -> Floats:
        return np.array([scanner.delta[volume] for scanner in self.scanners])[self.scanner]

    @property
    def changed(self) -> Flags:
        """Whether the patient's previous scan is from another scanner."""
        return np.asarray(~self.first & np.concatenate(([False], self.scanner[1:] != self.scanner[:-1])))


def plan_scans(course: Course, seed: int) -> Scans:
    """Days and scanners of all scans: about yearly, some more after relapses."""
    people = course.people
    rng = stream(seed, people.profile.spec.site_id, "scans")
    n, share = people.n, people.profile.coverage["mri"]
    interval = p.SCAN_INTERVAL_D * rng.lognormal(0, p.SCAN_PATIENT_LOG_SD, n)
    most = int(np.max(course.end_day / interval) / (1 - p.SCAN_JITTER)) + 2
    steps = interval[:, None] * np.maximum(1 + p.SCAN_JITTER * rng.standard_normal((n, most)), 0.4)
    days = np.rint(np.cumsum(steps, axis=1) - steps[:, :1] + rng.integers(0, 45, n)[:, None]).astype(np.int64)
    patient, column = np.nonzero(days <= course.end_day[:, None])
    day = days[patient, column]
    worse = np.where(course.last_relapse(patient, day) <= 90, p.MORE_WHEN_WORSE, 0.0)
    kept = present(share, rng, worse)
    relapses = course.relapses
    extra = (rng.random(relapses.day.size) < p.SCAN_AFTER_RELAPSE * share) & (relapses.day >= 0)
    late = relapses.day[extra] + rng.integers(3, 60, int(extra.sum()))
    patient, day = np.concatenate((patient[kept], relapses.patient[extra])), np.concatenate((day[kept], late))
    order = np.lexsort((day, patient))
    patient, day = patient[order], day[order]
    same = np.concatenate(([False], (np.diff(patient) == 0) & (np.diff(day) < 21)))
    kept = ~same & (day <= course.end_day[patient])
    patient, day = patient[kept], day[kept]
    before = np.concatenate(([0], np.where(np.diff(patient) == 0, np.diff(day), 0))) if day.size else day
    return Scans(patient, day, before, _which_scanner(course, patient, day), people.profile.scanners)


def _which_scanner(course: Course, patient: Integers, day: Integers) -> Integers:
    """Each patient keeps to one line of scanners, and gets its newer machine when that comes."""
    scanners = course.people.profile.scanners
    line_of = np.array([int(scanner.scanner_id.rsplit("-", 2)[1]) - 1 for scanner in scanners])
    year = course.people.index_year[patient] + day / p.YEAR
    found = np.zeros(patient.size, np.int64)
    for number, scanner in enumerate(scanners):
        here = (patient % (line_of.max() + 1) == line_of[number]) & (year >= scanner.from_year) & (year < scanner.until_year)
        found[here] = number
    return found


def mri_table(course: Course, scans: Scans, ids: Texts, seed: int) -> pd.DataFrame:
    """The contract's table `mri`."""
    profile = course.people.profile
    rng = stream(seed, profile.spec.site_id, "mri table")
    qc = rng.choice(("pass", "warn", "fail"), scans.n, p=p.QC_SHARE)
    read = qc != "fail"
    measured = read & (rng.random(scans.n) < profile.coverage["quantified"])
    contrast = rng.random(scans.n) < p.CONTRAST
    cord = rng.random(scans.n) < p.CORD_SCAN
    number = np.arange(scans.n) - np.searchsorted(scans.patient, scans.patient) + 1
    columns = {
        "patient_id": ids[scans.patient],
        "day": scans.day,
        "scan_id": [f"s{i}" for i in number],
        "region": np.where(cord, "both", "brain"),
        "field_t": scans.field_t,
        "vendor": np.array([scanner.vendor for scanner in scans.scanners])[scans.scanner],
        "scanner_id": np.array([scanner.scanner_id for scanner in scans.scanners])[scans.scanner],
        "protocol_id": np.where(scans.field_t >= 3, "ms-3d", "ms-2d"),
        "sequences": np.where(contrast, "t1w|t2w|flair|t1w_gd", "t1w|t2w|flair"),
        "tool": np.where(measured, "msquant", "report"),
        "tool_version": np.where(measured, "2.1", ""),
        **_lesions(course, scans, read, contrast, rng),
        **_volumes(course, scans, measured, rng),
        **_cord(course, scans, measured & cord, rng),
        "qc": qc,
        "missing_reason": np.where(read, np.where(measured, "", "not_done"), "technical"),
    }
    return pd.DataFrame(columns)


def _lesions(course: Course, scans: Scans, read: Flags, contrast: Flags, rng: np.random.Generator) -> dict[str, object]:
    """Counts by a reader: new and enlarging ones since the scan before, enhancing ones."""
    sums = np.concatenate((np.zeros((course.people.n, 1), np.int64), np.cumsum(course.lesions, axis=1)), axis=1)
    end = sums[scans.patient, course.tick(scans.day) + 1]
    begin = sums[scans.patient, course.tick(scans.day - scans.before) + 1]
    found = np.where(scans.field_t >= 3, 1.0, p.LESIONS_FOUND_WEAK)
    arisen = rng.binomial(end - begin, found)
    enlarging = rng.binomial(arisen, p.ENLARGING_SHARE)
    dmt = course.dmt_class[scans.patient, course.tick(scans.day)]
    enhances = p.GD_SHARE * np.take(p.GD_RATIO, dmt) ** course.scenario.effect
    enhancing = rng.binomial(course.lesions_before(scans.patient, scans.day, p.GD_TICKS), enhances)
    compared = read & ~scans.first
    volume = true_t2_volume(course, scans.patient, scans.day)
    count = volume / p.T2_ML_PER_COUNT * np.where(scans.field_t >= 3, p.FIELD_COUNT, 1.0)
    rims = (scans.field_t >= 3) & read & (rng.random(scans.n) < 0.15)
    return {
        "t2_count": np.where(read, np.clip(rng.poisson(count), 0, 300), np.nan),
        "new_t2": np.where(compared, np.clip(arisen - enlarging, 0, 100), np.nan),
        "enlarging_t2": np.where(compared, np.clip(enlarging, 0, 100), np.nan),
        "interval_d_to_prev": np.where(scans.first, np.nan, scans.before),
        "gd_count": np.where(read & contrast, np.clip(enhancing, 0, 100), np.nan),
        "prl_count": np.where(rims, np.clip(rng.poisson(count * p.PRL_SHARE * 0.5), 0, 50), np.nan),
        "sel_count": np.where(rims, np.clip(rng.poisson(count * p.SEL_SHARE * 0.5), 0, 50), np.nan),
    }


def true_t2_volume(course: Course, patient: Integers, day: Integers) -> Floats:
    """mL; a burden at entry that grows by itself and by each new lesion."""
    people = course.people
    z = people.traits[:, 0]
    spread = 0.35 * np.log(people.relapse_frailty + 0.2) + 0.94 * z
    start = np.take(p.T2_MEDIAN_ML, people.phenotype) * np.exp(p.T2_LOG_SD * spread)
    since_entry = course.lesions_before(patient, day, 10**6) - course.lesions[:, : p.LOOK_BACK].sum(axis=1)[patient]
    grown = start[patient] * np.exp(p.T2_GROWTH * day / p.YEAR)
    return np.asarray(np.minimum(grown + p.T2_ML_A_LESION * since_entry, 100.0))


def brain_loss(course: Course) -> Floats:
    """True change of the brain's volume, % a year, by tick (n_patients, n_ticks): ageing, disease, silent steps, treatment."""
    people = course.people
    edges = np.zeros((people.n, course.first_day.size + 1))
    reach = p.PIRA_WINDOW_D // p.TICK
    tick = course.tick(course.steps.day)
    np.add.at(edges, (course.steps.patient, np.maximum(tick - reach, 0)), 1)
    np.add.at(edges, (course.steps.patient, np.minimum(tick + reach + 1, course.first_day.size)), -1)
    near = np.cumsum(edges[:, :-1], axis=1) > 0
    ratio = np.take(p.ATROPHY_RATIO, course.dmt_class) ** course.scenario.effect
    excess = people.brain_loss[:, None] - p.HEALTHY_LOSS + p.BRAIN_LOSS_PIRA * near
    return np.asarray(p.HEALTHY_LOSS + excess * ratio)


def _volumes(course: Course, scans: Scans, measured: Flags, rng: np.random.Generator) -> dict[str, object]:
    """Volumes as measured: true volume, scanner, error (section 2.3)."""
    people, strong = course.people, scans.field_t >= 3
    loss = brain_loss(course)[:, p.LOOK_BACK :] / 100 / p.TICKS_A_YEAR
    lost = np.concatenate((np.zeros((people.n, 1)), np.cumsum(loss, axis=1)), axis=1)
    change = lost[scans.patient, scans.day // p.TICK]  # logarithm, since entry
    women, men = p.BRAIN_ML["F"], p.BRAIN_ML["M"]
    entry = np.where(people.women, women[0], men[0]) + women[1] * people.traits[:, 1]
    entry = entry + p.BRAIN_PER_POINT * (people.disability - 2) + p.BRAIN_PER_YEAR * (people.age - 40)
    size = (entry - women[0]) / women[1]
    brain = (entry[scans.patient] * np.exp(change) + women[1] * scans.gamma(BRAIN)) * _error(scans, BRAIN, rng)
    t2 = true_t2_volume(course, scans.patient, scans.day) * np.exp(p.T2_SCANNER_LOG * scans.gamma(T2)) * _error(scans, T2, rng)
    t2 = t2 * np.where(strong, p.FIELD_T2, 1.0)
    found = {
        "t2_vol_ml": np.clip(t2, 0, 150).round(2),
        "bhole_vol_ml": np.clip(0.28 * t2 * np.exp(0.15 * rng.standard_normal(scans.n)), 0, 60).round(2),
        "nbv_ml": np.clip(brain, 1100, 1900).round(1),
        "bpf": np.clip(0.81 + (brain - 1500) / 1500 * 0.35, 0.55, 0.94).round(4),
        "gm_ml": np.clip(0.525 * brain, 400, 1050).round(1),
        "cortical_gm_ml": np.clip(0.36 * brain, 300, 850).round(1),
        "thalamus_ml": np.clip(_thalamus(course, scans, size, change, rng), 6, 24).round(3),
        "lat_ventricle_ml": np.clip(_ventricle(course, scans, size, change, rng), 4, 190).round(1),
        "pbvc_pct_y": _annual_change(scans, lost, rng).round(2),
    }
    return {name: np.where(measured, values, np.nan) for name, values in found.items()}


def _thalamus(course: Course, scans: Scans, size: Floats, change: Floats, rng: np.random.Generator) -> Floats:
    """mL; part of its loss follows the brain's, part is its own."""
    people, (mean, sd) = course.people, p.THALAMUS_ML
    entry = mean + sd * (0.7 * people.traits[:, 2] + 0.6 * size)
    lost = p.THALAMUS_WITH_BRAIN * change + p.THALAMUS_LOSS / 100 * scans.day / p.YEAR * (1 - p.THALAMUS_WITH_BRAIN / 2)
    volume = entry[scans.patient] * np.exp(lost) + sd * scans.gamma(THALAMUS)
    return volume * np.where(scans.field_t >= 3, p.FIELD_THALAMUS, 1.0) * _error(scans, THALAMUS, rng)


def _ventricle(course: Course, scans: Scans, size: Floats, change: Floats, rng: np.random.Generator) -> Floats:
    """mL; grows four times as fast as the brain shrinks [D]."""
    entry = p.VENTRICLE_MEDIAN_ML * np.exp(p.VENTRICLE_LOG_SD * (0.95 * course.people.traits[:, 3] - 0.3 * size))
    return entry[scans.patient] * np.exp(-4 * change + 0.1 * scans.gamma(VENTRICLE)) * _error(scans, VENTRICLE, rng)


def _error(scans: Scans, volume: int, rng: np.random.Generator) -> Floats:
    """Relative measurement error of a repeated scan."""
    return np.exp(p.SCAN_SD[VOLUMES[volume]] * scans.delta(volume) * rng.standard_normal(scans.n))


def _annual_change(scans: Scans, lost: Floats, rng: np.random.Generator) -> Floats:
    """% brain volume change a year between two scans at least 90 days apart, by registration of the two images."""
    years = np.maximum(scans.before, 1) / p.YEAR
    true = 100 * (lost[scans.patient, scans.day // p.TICK] - lost[scans.patient, (scans.day - scans.before) // p.TICK])
    sd = np.where(scans.changed, p.PBVC_SD_CHANGED, p.PBVC_SD) * scans.delta(BRAIN)
    found = (true + sd * rng.standard_normal(scans.n)) / years
    return np.where(scans.before >= 90, np.clip(found, -9.9, 4.9), np.nan)


def _cord(course: Course, scans: Scans, measured: Flags, rng: np.random.Generator) -> dict[str, object]:
    area = p.CORD_MM2[0] + p.CORD_MM2[1] * course.people.traits[scans.patient, 4]
    area = area + p.CORD_PER_POINT * course.disability(scans.patient, scans.day) + 2 * scans.gamma(CORD)
    return {"cord_csa_mm2": np.where(measured, np.clip(area * _error(scans, CORD, rng), 32, 108).round(1), np.nan)}
