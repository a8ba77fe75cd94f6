"""Invented consortia for `scripts/bench tasks`: every site's cohort for a task, its split, and what was true of each record."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.sides import Sides, Split
from consortium.roster import HELD_OUT
from tasks.base import Cohort, Task
from tasks.episodes.task import EpisodeTask
from tasks.errors import DataError
from tasks.registry import find_task
from tasks.run_options import RunOptions
from tasks.simulator import Consortium, simulate
from tasks.simulator.presets import ROUTINE, Scenario
from tasks.sums import SumsTask

SMALL = 150  # usable patients: a site with fewer is small in the tables
Floats = NDArray[np.float64]


@lru_cache(maxsize=1)
def consortium_of(preset: str, seed: int, scenario: Scenario = ROUTINE) -> Consortium:
    """Simulated once for all arms of a seed."""
    return simulate(preset, seed, scenario)


@dataclass(frozen=True)
class World:
    """One consortium as one task sees it; patients' names say their site, so that no two of them share one."""

    task: Task | SumsTask
    seed: int
    consortium: Consortium = field(repr=False)
    cohorts: Mapping[str, Cohort] = field(repr=False)
    salt: bytes = field(repr=False)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.cohorts)

    @property
    def small(self) -> tuple[str, ...]:
        """Sites with few usable patients."""
        return tuple(site for site, cohort in self.cohorts.items() if cohort.size < SMALL)

    @cached_property
    def sides(self) -> Mapping[str, Sides]:
        """Who trains and who is tested at each site."""
        return {site: self.sides_of(cohort) for site, cohort in self.cohorts.items()}

    @cached_property
    def pooled(self) -> Cohort:
        """Everybody in one place."""
        return joined(tuple(self.cohorts.values()))

    @cached_property
    def truth(self) -> Mapping[str, Sides]:
        """`sides` with what was true on each record's day in place of what was known, `TRUE` in this order."""
        found = {}
        for site, cohort in self.cohorts.items():
            known = true_values(self, site)
            found[site] = self.sides_of(replace(cohort, values=known))
        return found

    def sides_of(self, cohort: Cohort, options: RunOptions | None = None, *, salt: bytes = b"") -> Sides:
        """`cohort` parted as trainers part it."""
        split = Split(cohort, salt=salt or self.salt, held_out_fraction=HELD_OUT, at_most=self.task.records)
        return split.asked(options or RunOptions())


def world_of(name: str, seed: int, *, preset: str = "reclaim", scenario: Scenario = ROUTINE) -> World:
    """The consortium of a seed for the task called `name`. A site without anybody usable is not in it."""
    task, consortium = find_task(name), consortium_of(preset, seed, scenario)
    cohorts = {}
    for site in consortium.sites:
        try:
            cohort = task.cohort_of(site.tables)  # type: ignore[union-attr]  # tasks of the bench read tables
        except DataError:  # nobody usable: a site without questionnaires
            continue
        cohorts[site.site_id] = replace(cohort, patient_ids=tuple(f"{site.site_id}-{one}" for one in cohort.patient_ids))
    salt = hashlib.sha256(f"split {seed}".encode()).digest()[:16]
    return World(task, seed, consortium, cohorts, salt)


def joined(cohorts: Sequence[Cohort]) -> Cohort:
    """One cohort of several, rows in their order."""
    years = [cohort.years for cohort in cohorts if cohort.years is not None]
    return replace(
        cohorts[0],
        patient_ids=tuple(one for cohort in cohorts for one in cohort.patient_ids),
        values=np.concatenate([cohort.values for cohort in cohorts]),
        labels=np.concatenate([cohort.labels for cohort in cohorts]),
        years=np.concatenate(years) if len(years) == len(cohorts) else None,
    )


def part_of(cohort: Cohort, rows: NDArray[np.bool_]) -> Cohort:
    """The chosen rows."""
    ids = tuple(one for one, chosen in zip(cohort.patient_ids, rows, strict=True) if chosen)
    years = None if cohort.years is None else cohort.years[rows]
    return replace(cohort, patient_ids=ids, values=cohort.values[rows], labels=cohort.labels[rows], years=years)


# -- what was true ---------------------------------------------------------------------------------------------------------

TRUE = ("disability", "score_too_low", "transient", "fluctuation", "worsening", "pira", "relapse")


def true_values(world: World, site: str) -> Floats:
    """`TRUE` of each row of the site's cohort, (n_rows, 7): the true disability on the day of prediction, by how much the last
    score is below it, its transient part and the day's fluctuation, and the logs of the true hazards of that day."""
    task = world.task
    if not isinstance(task, EpisodeTask):
        raise TypeError(f"task {task.name} has no days of prediction: it has an oracle of its own, or none")
    tables, cohort = world.consortium.site(site).tables, world.cohorts[site]
    episodes = task.episodes(tables)
    episodes = episodes.only(task.outcome(tables, episodes).known)
    if tuple(f"{site}-{one}" for one in episodes.patients) != cohort.patient_ids:
        raise ValueError(f"{task.name} at {site}: the episodes are not the cohort's rows")
    states = world.consortium.truth[site].tables["truth_states"].drop_duplicates(["patient_id", "day"])
    days = pd.DataFrame({"patient_id": episodes.patients, "day": episodes.days})
    on_the_day = days.merge(states, how="left", on=["patient_id", "day"])
    last = cohort.values[:, task.contract.column_names.index("edss_last")]
    disability = on_the_day["disability"].to_numpy(float)
    transient = on_the_day["transient"].to_numpy(float)
    hazards = np.log(on_the_day[["worsening_hazard", "pira_hazard", "relapse_hazard"]].to_numpy(float).clip(1e-6))
    found = np.column_stack(
        [disability, disability + transient - last, transient, on_the_day["fluctuation"].to_numpy(float), hazards]
    )
    if np.isnan(found).any():
        raise ValueError(f"{task.name} at {site}: the truth of some day of prediction is not known")
    return found
