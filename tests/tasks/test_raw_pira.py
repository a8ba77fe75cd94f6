"""`raw_pira`: rival causes are told apart by the rule, the undetermined stay so, and relapsing disease alone is served."""

import numpy as np
import pandas as pd
import pytest
from hazard_tables import Tables, checked_configuration, cohort_checks, moves_labels_alone, tables_of

from tasks.episodes.index import index_visits
from tasks.episodes.past import Episodes
from tasks.episodes.routine import PHENOTYPES
from tasks.errors import DataError
from tasks.hazards.outcomes import UNWATCHED, first_worsening
from tasks.raw_pira.outcome import outcome_of
from tasks.raw_pira.task import CONTRACT, EVENTS, RULE, TASK
from tasks.simulator import Schedule, SiteSpec, simulate_site

PIRA, RAW, UND = (EVENTS.index(name) + 1 for name in ("PIRA", "RAW", "UND"))


@pytest.fixture(scope="module")
def registry() -> Tables:
    site, _ = simulate_site(SiteSpec("registry", 250, Schedule.RECLAIM, interval_mo=6.0), 5)
    return dict(site.tables)


def label_of(edss: dict[int, float | None], relapses: tuple[int, ...] = ()) -> tuple[int, ...] | str:
    """Label of an episode on day 0, or why there is none."""
    found = outcome_of(tables_of(edss, relapses), Episodes(("a",), np.array([0])))
    return tuple(int(number) for number in found.labels[0]) if found.known[0] else max(found.left_out)


@pytest.mark.parametrize(
    ("edss", "relapses", "expected"),
    [
        ({0: 2, 182: 3, 364: 3}, (), (0, 2, PIRA)),
        ({0: 2, 182: 3.5, 364: 3.5}, (150,), (0, 2, RAW)),  # 32 days after a relapse began
        ({0: 2, 182: 3.5, 364: 3.5}, (60,), (0, 2, PIRA)),  # 122 days after
        ({0: 2, 182: 3, 364: 3}, (200,), (0, 2, UND)),  # a relapse 18 days later: neither
        ({0: 2, 182: 3, 364: 3, 546: 4.5, 728: 4.5}, (520,), (0, 2, PIRA)),  # the first one counts
        ({0: 2, 182: 3.5, 364: 3.5, 546: 4.5, 728: 4.5}, (150,), (0, 2, RAW)),
        ({0: 2, 182: 2, 364: 2, 546: 2}, (150,), (4, 4, 0)),  # a relapse is no worsening
        ({0: 2, 364: 2, 728: 3, 900: 3}, (), (4, 8, PIRA)),
        ({0: 2, 364: 2, 740: 3, 910: 3}, (), (4, 4, 0)),  # after the two years; free of it on day 364
        ({0: 2, 364: 2, 728: 2, 1100: 2, 1300: 3, 1500: 3}, (), (8, 8, 0)),
        ({0: 2, 182: 3}, (), UNWATCHED),
    ],
)
def test_a_label_says_what_came_first_and_between_which_visits(
    edss: dict[int, float | None], relapses: tuple[int, ...], expected: tuple[int, ...] | str
) -> None:
    assert label_of(edss, relapses) == expected


def test_no_class_is_folded_into_another(registry: Tables) -> None:
    """As many worsen as by the engine without classes, whichever class it is."""
    episodes = index_visits(registry, TASK.records)
    classed = outcome_of(registry, episodes).labels
    plain = first_worsening(registry, episodes, RULE, ("CDP",)).outcome(TASK.grid).labels
    assert np.array_equal(classed[:, :2], plain[:, :2], equal_nan=True)
    assert np.array_equal(np.minimum(classed[:, 2], 1), plain[:, 2], equal_nan=True)
    assert {float(PIRA), float(RAW), float(UND)} <= set(classed[:, 2])


def test_days_in_relapsing_disease_are_served(registry: Tables) -> None:
    episodes = index_visits(registry, TASK.records)
    served = TASK.served(registry, episodes)
    course = TASK.cohort_of(registry).values[:, CONTRACT.column_names.index("phenotype")]
    assert {PHENOTYPES[int(code)] for code in course} <= {"CIS", "RRMS"}
    assert 0.3 < served.mean() < 0.95
    for name, expected in (("CIS", True), ("RRMS", True), ("SPMS", False), ("PPMS", False)):
        tables = tables_of({-100: 2, 0: 2}, (-50,), name)
        assert TASK.served(tables, Episodes(("a",), np.array([0]))).tolist() == [expected]


def test_a_site_that_records_no_relapses_takes_no_part(registry: Tables) -> None:
    for tables in (
        {**registry, "relapses": registry["relapses"].head(0)},
        {name: rows for name, rows in registry.items() if name != "relapses"},
    ):
        with pytest.raises(DataError, match="table relapses has no rows"):
            TASK.cohort_of(tables)


def test_another_future_moves_labels_and_nothing_else(registry: Tables) -> None:
    moves_labels_alone(TASK, registry)


def test_it_is_a_task_with_a_cohort_like_any_other(registry: Tables) -> None:
    cohort = cohort_checks(TASK, registry)
    counts = np.bincount(cohort.labels[:, 2].astype(int), minlength=4)
    assert counts[PIRA] > counts[RAW] > 0
    assert RULE.rule_id in CONTRACT.label.meaning
    assert CONTRACT.version == "1"


def test_relapses_of_the_past_that_are_not_known_yet_serve_nobody(registry: Tables) -> None:
    """The course that counts is that of the day, not that of a later visit."""
    episodes = index_visits(registry, 1)
    visits = registry["visits"]
    t0 = visits["patient_id"].map(dict(zip(episodes.patients, episodes.days.tolist(), strict=True))).astype(float)
    later = visits["day"].astype(float) > t0
    changed = {**registry, "visits": visits.assign(phenotype=visits["phenotype"].mask(later, "PPMS"))}
    assert np.array_equal(TASK.served(registry, episodes), TASK.served(changed, episodes))
    people = registry["patients"].assign(phenotype_entry=pd.NA)
    earlier = {**registry, "visits": visits.assign(phenotype="PPMS"), "patients": people}
    assert not TASK.served(earlier, episodes).any()


def test_the_configurations_name_columns_of_the_contract() -> None:
    assert len(checked_configuration(TASK, "raw_pira")) == 23
    assert checked_configuration(TASK, "raw_pira_baseline") == ("relapses_1y",)
