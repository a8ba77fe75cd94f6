"""The ground truth of a simulated site, for evaluation alone: states, hazards, effects. No site's table holds any of it.

`states` has a row for each visit, `starts` one for each treatment start with the hazards under every class, `events` the true
relapses and silent steps, `people` the latent traits, `site` what was drawn for the site.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from tasks.simulator import parameters as p
from tasks.simulator.course import Course
from tasks.simulator.hazards import Situation, pira_hazard, relapse_hazard, worsening_hazard
from tasks.simulator.profiles import SiteProfile
from tasks.simulator.streams import Floats, Integers, Texts
from tasks.simulator.visits import Visits

PREFIX = "truth_"
STATES = ("early", "mild", "evolving", "radiological", "relapse", "advanced_6", "advanced_7", "advanced_8")  # 2.5 [S:2]; cuts [D]
RELAPSE_STATE_D = 60
HORIZON_Y = 2


@dataclass(frozen=True)
class SiteTruth:
    """Everything about a site that no hospital could know."""

    profile: SiteProfile
    tables: Mapping[str, pd.DataFrame]  # truth_people, truth_states, truth_starts, truth_events, truth_site


def site_truth(course: Course, visits: Visits, ids: Texts) -> SiteTruth:
    tables = {
        "people": _people(course, ids),
        "states": _states(course, visits, ids),
        "starts": _starts(course, ids),
        "events": _events(course, ids),
        "site": _site(course.people.profile),
    }
    return SiteTruth(course.people.profile, {f"{PREFIX}{name}": table for name, table in tables.items()})


def _people(course: Course, ids: Texts) -> pd.DataFrame:
    people = course.people
    return pd.DataFrame(
        {
            "patient_id": ids,
            "end_day": course.end_day,
            "index_year": people.index_year.round(3),
            "age": people.age,
            "duration": people.duration,
            "disability_entry": people.disability,
            "relapse_frailty": people.relapse_frailty,
            "progression_frailty": people.progression_frailty,
            "brain_loss_pct_y": people.brain_loss,
            "spms_day": course.spms_day,
        }
    )


def state_numbers(course: Course, patient: Integers, day: Integers) -> Integers:
    """The true state, 1 to 8: relapse before advanced before radiological activity before early disease (section 2.5)."""
    disability = course.disability(patient, day)
    phenotype = course.phenotype[patient, course.tick(day)]
    advanced = (disability >= 3.5) | np.isin(phenotype, (p.SPMS, p.PPMS))
    return np.select(
        [
            course.last_relapse(patient, day) <= RELAPSE_STATE_D,
            advanced & (disability >= 6.25),
            advanced & (disability >= 4.75),
            advanced,
            course.lesions_before(patient, day, p.GD_TICKS) > 0,
            disability >= 2.25,
            disability >= 1.25,
        ],
        [5, 8, 7, 6, 4, 3, 2],
        default=1,
    )


def _states(course: Course, visits: Visits, ids: Texts) -> pd.DataFrame:
    """By visit: state, disability, and the hazards that the history was drawn from in that tick."""
    at = (visits.patient, course.tick(visits.day))
    return pd.DataFrame(
        {
            "patient_id": ids[visits.patient],
            "day": visits.day,
            "state": state_numbers(course, visits.patient, visits.day),
            "disability": visits.lasting,
            "transient": visits.bump,
            "fluctuation": visits.fluctuation,
            "phenotype": np.take(p.PHENOTYPES, course.phenotype[at]),
            "dmt_class": np.take(p.CLASSES, course.dmt_class[at]),
            "relapse_hazard": course.relapse_hazard[at],
            "pira_hazard": course.pira_hazard[at],
            "worsening_hazard": _worsening(course, visits),
        }
    )


def _worsening(course: Course, visits: Visits) -> Floats:
    at = (visits.patient, course.tick(visits.day))
    lasting = p.RESIDUAL_CHANCE * (1 - p.FADING_SHARE) * np.where(course.lasting[at] >= p.DISABLED, p.RESIDUAL_CHANCE_DISABLED, 1.0)
    return course.pira_hazard[at] + lasting * course.relapse_hazard[at]


def worsening_risk(at: Situation, dmt_class: int, effect: float) -> Floats:
    """Chance of permanent worsening within two years under one class, as time goes on and all else stays as it is."""
    n_ticks = round(HORIZON_Y * p.TICKS_A_YEAR)
    total = np.zeros(at.age.size)
    classes = np.full(at.age.size, dmt_class)
    for tick in range(n_ticks):
        years = tick / p.TICKS_A_YEAR
        later = replace(at, age=at.age + years, duration=at.duration + years)
        total += worsening_hazard(later, classes, effect) / p.TICKS_A_YEAR
    return -np.expm1(-total)


def _starts(course: Course, ids: Texts) -> pd.DataFrame:
    """By treatment start: its chance, and the hazards and risks under every class. Effects are high minus platform."""
    given, effect = course.treatments, course.scenario.effect
    columns: dict[str, object] = {
        "patient_id": ids[given.patient],
        "start_day": given.start_day,
        "dmt_class": np.take(p.CLASSES, given.dmt_class),
        "reason_start": given.reason_start,
        "high_chance": given.high_chance,
        "age": given.at.age,
        "phenotype": np.take(p.PHENOTYPES, given.at.phenotype.astype(np.int64)),
        "disability": given.at.disability,
        "active": given.at.active.astype(bool),
    }
    for number, name in enumerate(p.CLASSES):
        classes = np.full(given.patient.size, number)
        columns[f"relapse_hazard_{name}"] = relapse_hazard(given.at, classes, effect)
        columns[f"pira_hazard_{name}"] = pira_hazard(given.at, classes, effect)
        columns[f"worsening_risk_2y_{name}"] = worsening_risk(given.at, number, effect)
    found = pd.DataFrame(columns)
    for quantity in ("relapse_hazard", "pira_hazard", "worsening_risk_2y"):
        found[f"effect_{quantity}"] = found[f"{quantity}_high"] - found[f"{quantity}_platform"]
    tick = course.tick(given.start_day)
    found["relapse_hazard_used"] = course.relapse_hazard[given.patient, tick]
    found["pira_hazard_used"] = course.pira_hazard[given.patient, tick]
    return found


def _events(course: Course, ids: Texts) -> pd.DataFrame:
    relapses, steps = course.relapses, course.steps
    lasting = np.where(relapses.fades, 0.0, relapses.residual)
    parts = (
        {
            "patient_id": ids[relapses.patient],
            "day": relapses.day,
            "event": "relapse",
            "points": relapses.residual,
            "lasting": lasting,
        },
        {"patient_id": ids[steps.patient], "day": steps.day, "event": "silent_step", "points": steps.jump, "lasting": steps.jump},
    )
    found = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    return found.sort_values(["patient_id", "day"], kind="stable", ignore_index=True)


def _site(profile: SiteProfile) -> pd.DataFrame:
    """What was drawn for the site, one row for each figure."""
    plain = {name: value for name, value in asdict(profile).items() if isinstance(value, (int, float, str))}
    shares = {f"phenotype_{name}": share for name, share in zip(p.PHENOTYPES, profile.phenotype_share, strict=True)}
    coverage = {f"coverage_{name}": share for name, share in profile.coverage.items()}
    rows = {**plain, **shares, **coverage}
    for scanner in profile.scanners:
        for name, gamma, delta in zip(("brain", "thalamus", "t2", "ventricle", "cord"), scanner.gamma, scanner.delta, strict=True):
            rows |= {f"gamma_{name}_{scanner.scanner_id}": gamma, f"delta_{name}_{scanner.scanner_id}": delta}
    return pd.DataFrame({"figure": list(rows), "value": [str(value) for value in rows.values()]})
