"""A consortium of invented hospitals from a preset and a seed: tables for each site, and the truth in an object of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.errors import ContractError
from tasks.simulator.consent import with_consent
from tasks.simulator.course import Course, run_course
from tasks.simulator.eyes import evoked_table, oct_table
from tasks.simulator.fluids import biomarkers_table
from tasks.simulator.imaging import mri_table, plan_scans
from tasks.simulator.people import draw_people, genetics_table, patients_table
from tasks.simulator.presets import ROUTINE, Preset, Scenario, SiteSpec, preset_named
from tasks.simulator.profiles import draw_profile
from tasks.simulator.records import relapses_table, treatments_table
from tasks.simulator.reports import proms_table, wearables_table
from tasks.simulator.streams import Texts, stream
from tasks.simulator.tables import as_in_the_contract
from tasks.simulator.truth import SiteTruth, site_truth
from tasks.simulator.visits import plan_visits, visits_table


@dataclass(frozen=True)
class SimulatedSite:
    """What a hospital has: the contract's tables, and nothing that it could not know."""

    spec: SiteSpec
    tables: Mapping[str, pd.DataFrame]

    @property
    def site_id(self) -> str:
        return self.spec.site_id


@dataclass(frozen=True)
class Consortium:
    """All sites; `truth`, by site, is for evaluation and never for a site's folder."""

    preset: Preset
    seed: int
    scenario: Scenario
    sites: tuple[SimulatedSite, ...]
    truth: Mapping[str, SiteTruth]

    def site(self, site_id: str) -> SimulatedSite:
        return next(site for site in self.sites if site.site_id == site_id)


def simulate(preset: Preset | str, seed: int, scenario: Scenario = ROUTINE) -> Consortium:
    """The consortium of a preset (or of its name). The same seed gives the same bytes; sites do not depend on one another."""
    chosen = preset_named(preset) if isinstance(preset, str) else preset
    if seed < 0:
        raise ContractError(f"seed {seed}: give a number from 0 on")
    simulated = [simulate_site(spec, seed, scenario) for spec in chosen.sites]
    truth = {site.site_id: truth for site, truth in simulated}
    return Consortium(chosen, seed, scenario, tuple(site for site, _ in simulated), truth)


def simulate_site(spec: SiteSpec, seed: int, scenario: Scenario = ROUTINE) -> tuple[SimulatedSite, SiteTruth]:
    """One site's tables, and apart from them its truth."""
    profile = draw_profile(spec, seed)
    course = run_course(draw_people(profile, seed), scenario, seed)
    visits = plan_visits(course, seed)
    ids = pseudonyms(spec, seed)
    tables = {
        "patients": patients_table(course.people, ids, course.death_day, seed),
        "visits": visits_table(course, visits, ids, seed),
        "relapses": relapses_table(course, ids, seed),
        "treatments": treatments_table(course, ids, seed),
        "mri": mri_table(course, plan_scans(course, seed), ids, seed),
        "oct": oct_table(course, ids, seed),
        "evoked_potentials": evoked_table(course, ids, seed),
        "biomarkers": biomarkers_table(course, visits, ids, seed),
        "proms": proms_table(course, visits, ids, seed),
        "wearables": wearables_table(course, ids, seed),
        "genetics": genetics_table(course.people, ids, seed),
    }
    finished = {name: as_in_the_contract(name, table, spec.schedule) for name, table in with_consent(tables, spec, seed).items()}
    return SimulatedSite(spec, finished), site_truth(course, visits, ids)


def pseudonyms(spec: SiteSpec, seed: int) -> Texts:
    """Pseudonyms in no order that means anything."""
    numbers = stream(seed, spec.site_id, "pseudonyms").permutation(900000)[: spec.patients] + 100000
    return np.array([f"P{number}" for number in numbers])


__all__ = ["Consortium", "Course", "SimulatedSite", "pseudonyms", "simulate", "simulate_site"]
