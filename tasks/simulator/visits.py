"""When a patient is seen and what an examiner finds: the EDSS is the true disability through a rater, not the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import signal

from tasks.simulator import parameters as p
from tasks.simulator.course import Course
from tasks.simulator.presets import Schedule
from tasks.simulator.profiles import SiteProfile
from tasks.simulator.streams import Flags, Floats, Integers, Texts, stream

MONTH = p.YEAR / 12
EDSS_GRID = np.array(sorted(p.FS_PATTERN))
HEAVY = np.array([name not in ("visual", "bowel_bladder") for name in p.FUNCTIONAL_SYSTEMS])  # raw scores that are not converted
PYRAMIDAL = p.FUNCTIONAL_SYSTEMS.index("pyramidal")


@dataclass(frozen=True)
class Visits:
    """All visits of a site, by patient and day. Arrays (n_visits,)."""

    patient: Integers
    day: Integers
    kind: Texts
    lasting: Floats  # true disability
    bump: Floats
    fluctuation: Floats
    since_relapse: Integers

    @property
    def n(self) -> int:
        return int(self.day.size)

    @property
    def felt(self) -> Floats:
        """True disability of the day."""
        return np.clip(self.lasting + self.bump + self.fluctuation, 0, 9.5)


def plan_visits(course: Course, seed: int) -> Visits:
    """Days of all visits by the site's schedule (section 2.4), and the truth on each."""
    profile = course.people.profile
    rng = stream(seed, profile.spec.site_id, "visits")
    schedule = profile.spec.schedule
    planned = {
        Schedule.REGISTRY: _registry_days,
        Schedule.RECLAIM: _registry_days,
        Schedule.CLINNOVA: _clinnova_days,
        Schedule.TRIAL: _trial_days,
    }[schedule](course, rng)
    unscheduled = _at_relapses(course, planned, rng) if schedule is not Schedule.TRIAL else planned[:0]
    found = pd.concat([planned, unscheduled], ignore_index=True)
    found = found[found["day"] <= course.end_day[found["patient"]]].sort_values(["patient", "day"], kind="stable")
    close = (found["patient"].diff() == 0) & (found["day"].diff() < 7)
    found = found[~close]
    return _with_truth(course, found, seed)


def _registry_days(course: Course, rng: np.random.Generator) -> pd.DataFrame:
    n = course.people.n
    interval = course.people.profile.interval_mo * MONTH * rng.lognormal(0, p.VISIT_PATIENT_LOG_SD, n)
    interval = np.maximum(interval, 30.0)
    most = int(np.max(course.end_day / interval) / (1 - p.VISIT_JITTER)) + 2
    steps = interval[:, None] * np.maximum(1 + p.VISIT_JITTER * rng.standard_normal((n, most)), 0.4)
    days = np.rint(np.cumsum(steps, axis=1)).astype(np.int64)
    kept = (rng.random((n, most)) >= p.VISIT_SKIPPED) & (days <= course.end_day[:, None])
    patient, column = np.nonzero(kept)
    return _with_baseline(n, patient, days[patient, column], np.full(patient.size, "routine"))


def _with_baseline(n: int, patient: Integers, day: Integers, kind: Texts) -> pd.DataFrame:
    first = pd.DataFrame({"patient": np.arange(n), "day": np.zeros(n, np.int64), "kind": "baseline"})
    return pd.concat([first, pd.DataFrame({"patient": patient, "day": day, "kind": kind})], ignore_index=True)


def _clinnova_days(course: Course, rng: np.random.Generator) -> pd.DataFrame:
    """Baseline, optionally six months, then every year to five."""
    n = course.people.n
    nominal = np.array([182, *(round(year * p.YEAR) for year in range(1, p.CLINNOVA_YEARS + 1))])
    days = nominal + np.clip(np.rint(rng.normal(0, 12, (n, nominal.size))), -40, 40).astype(np.int64)
    kept = rng.random((n, nominal.size)) < np.array([p.CLINNOVA_OPTIONAL_VISIT, *[0.97] * p.CLINNOVA_YEARS])
    patient, column = np.nonzero(kept & (days <= course.end_day[:, None]))
    kind = np.where(column == 0, "scheduled_6m", "annual")
    return _with_baseline(n, patient, days[patient, column], kind)


def _trial_days(course: Course, rng: np.random.Generator) -> pd.DataFrame:
    """Every twelve weeks."""
    n = course.people.n
    days = 84 * np.arange(1, int(course.end_day.max()) // 84 + 2) + rng.integers(-5, 6, (n, int(course.end_day.max()) // 84 + 1))
    patient, column = np.nonzero(days <= course.end_day[:, None])
    return _with_baseline(n, patient, days[patient, column], np.full(patient.size, "routine"))


def _at_relapses(course: Course, planned: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Visits because of a relapse; in Clinnova at most one, in the first year, and some for other reasons."""
    relapses = course.relapses
    seen = (rng.random(relapses.day.size) < p.UNSCHEDULED) & (relapses.day >= 0)
    patient, day = relapses.patient[seen], relapses.day[seen] + rng.integers(2, 22, int(seen.sum()))
    found = pd.DataFrame({"patient": patient, "day": day, "kind": "unscheduled_relapse"})
    if course.people.profile.spec.schedule is not Schedule.CLINNOVA:
        return found
    others = np.flatnonzero(rng.random(course.people.n) < p.CLINNOVA_UNSCHEDULED)
    other = pd.DataFrame({"patient": others, "day": rng.integers(30, 330, others.size), "kind": "unscheduled_other"})
    both = pd.concat([found[found["day"] < p.YEAR], other], ignore_index=True)
    return both.drop_duplicates("patient")


def _with_truth(course: Course, found: pd.DataFrame, seed: int) -> Visits:
    patient, day = found["patient"].to_numpy(np.int64), found["day"].to_numpy(np.int64)
    lasting = course.disability(patient, day)
    return Visits(
        patient=patient,
        day=day,
        kind=found["kind"].to_numpy(str),
        lasting=lasting,
        bump=course.bump(patient, day),
        fluctuation=_fluctuation(course, seed)[patient, course.tick(day)] * _scale(lasting),
        since_relapse=course.last_relapse(patient, day),
    )


def _fluctuation(course: Course, seed: int) -> Floats:
    """Ornstein-Uhlenbeck process of each patient, by tick, (n_patients, n_ticks)."""
    rng = stream(seed, course.people.profile.spec.site_id, "fluctuation")
    keep = np.exp(-1 / (p.OU_TAU_Y * p.TICKS_A_YEAR))
    noise = rng.standard_normal(course.lesions.shape) * np.sqrt(1 - keep**2)
    noise[:, 0] /= np.sqrt(1 - keep**2)
    return np.asarray(signal.lfilter([1.0], [1.0, -keep], noise, axis=1)) * p.OU_SD


def _scale(disability: Floats) -> Floats:
    return np.select(
        [disability < 0.5, disability < p.OU_SEVERE_FROM], [p.OU_SCALE_MILD, p.OU_SCALE_MID], default=p.OU_SCALE_SEVERE
    )


def on_the_scale(disability: Floats) -> Floats:
    """The EDSS value nearest to a continuous disability: no 0.5, and 10 is death."""
    halves = np.rint(disability * 2) / 2
    return np.where(disability < 0.5, 0.0, np.clip(halves, 1.0, 9.5))


def rate(visits: Visits, profile: SiteProfile, rng: np.random.Generator) -> Floats:
    """EDSS as a rater of this site would give it."""
    severe = visits.felt >= p.OU_SEVERE_FROM
    wide = rng.random(visits.n) < np.where(severe, p.NOISE_WIDE_SHARE_SEVERE, p.NOISE_WIDE_SHARE)
    narrow_sd = np.where(severe, p.NOISE_NARROW_SEVERE, p.NOISE_NARROW)
    sd = np.where(wide, np.where(severe, p.NOISE_WIDE_SEVERE, p.NOISE_WIDE), narrow_sd)
    return on_the_scale(visits.felt + profile.rater_bias + profile.rater_noise * sd * rng.standard_normal(visits.n))


def functional_systems(edss: Floats, leaning: Floats, rng: np.random.Generator) -> Integers:
    """Scores (n, 7) from which Neurostatus makes `edss`; `leaning` (n, 7): how likely each system is to lead in this patient.

    Visual and bowel scores above 2 are converted before they count; they never lead from EDSS 3 on, so that no reader need.
    """
    patterns = np.zeros((EDSS_GRID.size, 7), np.int64)
    for row, value in enumerate(EDSS_GRID):
        patterns[row, : len(p.FS_PATTERN[value])] = p.FS_PATTERN[value]
    wanted = leaning + np.where(edss[:, None] >= 3, 10.0 * HEAVY, 0.0)
    wanted[:, PYRAMIDAL] += np.where(edss >= 4, 1.5, 0.0)
    order = np.argsort(-(wanted + 0.25 * rng.standard_normal(wanted.shape)), axis=1)
    ranked = patterns[np.searchsorted(EDSS_GRID, edss)]
    ranked = np.where((ranked == 0) & (edss[:, None] >= 2), rng.random(ranked.shape) < 0.35, ranked)
    found = np.zeros_like(ranked)
    np.put_along_axis(found, order, ranked, axis=1)
    return found


def present(share: float, rng: np.random.Generator, log_odds: Floats) -> Flags:
    """Whether records are there: a share, moved by what makes a record more likely."""
    if share in (0.0, 1.0):
        return np.full(log_odds.size, bool(share))
    return rng.random(log_odds.size) < 1 / (1 + (1 - share) / share * np.exp(-log_odds))


def visits_table(course: Course, visits: Visits, ids: Texts, seed: int) -> pd.DataFrame:
    """The contract's table `visits`."""
    profile = course.people.profile
    rng = stream(seed, profile.spec.site_id, "visits table")
    worse = np.where(visits.since_relapse <= 90, p.MORE_WHEN_WORSE, 0.0)
    edss = rate(visits, profile, rng)
    leaning = (np.log(p.FS_WEIGHT) + rng.gumbel(size=(course.people.n, 7)))[visits.patient]
    systems = functional_systems(edss, leaning, rng).astype(float)
    slips = (rng.random(visits.n) < (0 if profile.electronic else p.PAPER_SLIP)) & (edss >= 1.5) & (edss <= 9)
    edss = np.where(slips, edss + rng.choice((-0.5, 0.5), visits.n), edss)
    has_edss = present(profile.coverage["edss"], rng, worse + np.where(visits.day == 0, 1.0, 0.0))
    fs_share = min(1.0, profile.coverage["fs"] / profile.coverage["edss"])
    systems[~(has_edss & (rng.random(visits.n) < fs_share))] = np.nan
    number = np.arange(visits.n) - np.searchsorted(visits.patient, visits.patient) + 1
    columns = {
        "patient_id": ids[visits.patient],
        "day": visits.day,
        "visit_id": [f"v{i}" for i in number],
        "visit_type": visits.kind,
        "edss": np.where(has_edss, edss, np.nan),
        **{f"fs_{name}": systems[:, i] for i, name in enumerate(p.FUNCTIONAL_SYSTEMS)},
        "ambulation_m": _ambulation(np.where(has_edss, edss, np.nan), rng),
        "edss_method": np.where(has_edss, _method(profile, visits.n, rng), ""),
        "rater_id": np.where(has_edss, _raters(visits.n, rng), ""),
        **_function_tests(course, visits, number, rng),
        "phenotype": np.take(p.PHENOTYPES, _recorded_phenotype(course, visits, rng)),
        "pregnancy": _pregnancy(course, visits, rng),
        "infection": (rng.random(visits.n) < 0.02).astype(int),
        "missing_reason": np.where(
            has_edss, "", rng.choice(("not_done", "not_recorded", "refused"), visits.n, p=(0.6, 0.37, 0.03))
        ),
    }
    return pd.DataFrame(columns)


def _method(profile: SiteProfile, n: int, rng: np.random.Generator) -> Texts:
    if profile.electronic:
        return np.full(n, "escore")
    return rng.choice(("neurostatus", "clinic"), n, p=(0.6, 0.4))


def _raters(n: int, rng: np.random.Generator) -> Texts:
    return np.array([f"rater{i}" for i in range(1, p.RATERS[1] + 1)])[rng.integers(0, rng.integers(*p.RATERS, endpoint=True), n)]


def _ambulation(edss: Floats, rng: np.random.Generator) -> Floats:
    metres = np.where(np.isnan(edss) | (edss < 4), np.nan, 0.0)
    for value, distance in p.AMBULATION_M.items():
        metres = np.where(edss == value, np.rint(distance * rng.uniform(1.0, 1.45, edss.size) / 5) * 5, metres)
    return metres


def _function_tests(course: Course, visits: Visits, number: Integers, rng: np.random.Generator) -> dict[str, object]:
    """Walk, pegs and symbol-digit test where they were made (section 1.5)."""
    n, who, felt = course.people.n, visits.patient, visits.felt
    made = rng.random(visits.n) < course.people.profile.coverage["function"]
    day_sd = p.WALK_DAY_LOG_SD
    walk = np.log(p.WALK_S) + p.WALK_PER_POINT * np.minimum(felt, 4) + p.WALK_BENDS * np.maximum(felt - 4, 0)
    walk = np.exp(walk + p.WALK_LOG_SD * rng.standard_normal(n)[who] + day_sd * rng.standard_normal(visits.n))
    walks = made & (felt < 7.25)
    hand = (p.PEG_LOG_SD + p.PEG_LOG_SD_PER_POINT * felt) * rng.standard_normal(n)[who]
    pegs = [np.exp(np.log(p.PEG_S) + p.PEG_PER_POINT * felt + hand + 0.06 * rng.standard_normal(visits.n)) for _ in range(2)]
    age = course.people.age[who] + visits.day / p.YEAR
    digits = p.SDMT_N + p.SDMT_PER_POINT * felt + p.SDMT_AGE * (age - 40) + p.SDMT_SD * rng.standard_normal(n)[who]
    digits = digits + p.SDMT_PRACTICE * np.minimum(number - 1, 2) + p.SDMT_ERROR * rng.standard_normal(visits.n)
    words = 0.75 * digits + 8 + 2.5 * rng.standard_normal(visits.n)
    return {
        "t25fw_s": np.where(walks, np.clip(walk, 2.2, 170).round(1), np.nan),
        "t25fw_aid": np.where(walks, np.select([felt < 5.75, felt < 6.25], ["none", "uni"], default="bi"), ""),
        "nhpt_dom_s": np.where(made, np.clip(pegs[0], 11, 290).round(1), np.nan),
        "nhpt_nondom_s": np.where(made, np.clip(1.05 * pegs[1], 11, 290).round(1), np.nan),
        "sdmt_n": np.where(made, np.clip(np.rint(digits), 0, 110), np.nan),
        "pasat3_n": np.where(made & (rng.random(visits.n) < 0.2), np.clip(np.rint(words), 0, 60), np.nan),
    }


def _recorded_phenotype(course: Course, visits: Visits, rng: np.random.Generator) -> Integers:
    """The course as physicians name it: secondary progression years after it began."""
    true = course.phenotype[visits.patient, course.tick(visits.day)]
    known = course.spms_day + rng.exponential(p.SPMS_RECOGNISED_LATER_Y * p.YEAR, course.people.n)
    waits = (true == p.SPMS) & (course.people.phenotype[visits.patient] != p.SPMS) & ~(visits.day >= known[visits.patient])
    return np.where(waits, p.RRMS, true)


def _pregnancy(course: Course, visits: Visits, rng: np.random.Generator) -> Texts:
    age = course.people.age[visits.patient] + visits.day / p.YEAR
    able = course.people.women[visits.patient] & (age > 20) & (age < 42)
    state = rng.choice(("no", "pregnant", "postpartum"), visits.n, p=(0.94, 0.03, 0.03))
    return np.where(able, state, "no")
