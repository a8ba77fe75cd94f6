"""`spms_transition`: the date of the rule, nobody who has or may have passed already, and a score nobody took says nothing."""

import numpy as np
import pytest
from hazard_tables import Tables, checked_configuration, cohort_checks, moves_labels_alone, tables_of

from tasks.episodes.index import index_visits
from tasks.episodes.past import Episodes
from tasks.hazards.outcomes import UNWATCHED
from tasks.labels.engine import label
from tasks.labels.rule import SPMS_RULE
from tasks.ms.histories import history_of
from tasks.simulator import Schedule, SiteSpec, simulate_site
from tasks.spms_transition.outcome import BEGUN, outcome_of
from tasks.spms_transition.task import CONTRACT, HIGHEST_EDSS, RULE, TASK

ALWAYS = dict.fromkeys(range(-800, 3000), 3.0)


@pytest.fixture(scope="module")
def registry() -> Tables:
    site, _ = simulate_site(SiteSpec("registry", 500, Schedule.RECLAIM, interval_mo=6.0), 5)
    return dict(site.tables)


def label_of(edss: dict[int, float | None], relapses: tuple[int, ...], pyramidal: dict[int, float] | None) -> object:
    """Label of an episode on day 0, or why there is none."""
    tables = tables_of(edss, relapses, pyramidal=ALWAYS if pyramidal is None else pyramidal)
    found = outcome_of(tables, Episodes(("a",), np.array([0])))
    reasons = [reason for reason, count in found.left_out.items() if count]
    assert len(reasons) == int(~found.known[0])
    return reasons[0] if reasons else tuple(int(number) for number in found.labels[0])


@pytest.mark.parametrize(
    ("edss", "relapses", "pyramidal", "expected"),
    [
        ({0: 3, 182: 4, 300: 4}, (), None, (0, 2, 1)),  # confirmed after 12 weeks
        ({0: 3, 182: 4, 250: 4}, (), None, UNWATCHED),  # not confirmed, and day 0 has its later score
        ({0: 3, 182: 3.5, 364: 3.5, 546: 3.5}, (), None, (4, 4, 0)),  # 4 is not reached
        ({0: 2, 182: 4, 364: 4, 546: 4}, (), None, (4, 4, 0)),  # from below 3
        ({0: 3, 182: 4, 364: 4, 546: 4}, (150,), None, (4, 4, 0)),  # by a relapse
        ({0: 3, 182: 4, 364: 4, 546: 4}, (), dict.fromkeys((0, 182, 364, 546), 1.0), (4, 4, 0)),  # legs are well
        ({0: 3, 182: 3, 364: 4, 546: 4, 700: 4}, (), {0: 3, 182: 3}, (2, 2, 0)),  # perhaps on 364: lost after 182
        ({0: 3, 182: 3, 364: 4, 546: 4, 700: 4}, (), {364: 2}, (2, 4, 1)),
        ({0: 3, 182: 3, 364: 3, 546: 3}, (), {}, (4, 4, 0)),  # a score nobody took is not needed where nothing rose
        ({-400: 3, -200: 4, 0: 4, 182: 4, 364: 4}, (), None, BEGUN),
        ({-400: 3, -200: 4, 0: 4, 182: 4, 364: 4}, (), {}, BEGUN),  # or may have
        ({-400: 3, -30: 4, 0: 4, 182: 4, 364: 4}, (), None, BEGUN),  # confirmed after the day, begun before
    ],
)
def test_a_label_says_between_which_visits_the_transition_was(
    edss: dict[int, float | None], relapses: tuple[int, ...], pyramidal: dict[int, float] | None, expected: object
) -> None:
    assert label_of(edss, relapses, pyramidal) == expected


def test_days_of_relapsing_disease_before_any_transition_are_served() -> None:
    def served(edss: dict[int, float | None], course: str = "RRMS", pyramidal: dict[int, float] | None = None) -> bool:
        tables = tables_of(edss, course=course, pyramidal=ALWAYS if pyramidal is None else pyramidal)
        return bool(TASK.served(tables, Episodes(("a",), np.array([0])))[0])

    assert served({-100: 3, 0: 3})
    assert served({-100: HIGHEST_EDSS, 0: HIGHEST_EDSS})
    assert not served({-100: 6, 0: 6})
    assert not served({-100: 3, 0: 3}, "SPMS")
    assert not served({-100: 3, 0: 3}, "CIS")
    assert not served({-400: 3, -200: 4, 0: 4})
    assert not served({-400: 3, -200: 4, 0: 4}, pyramidal={})
    assert served({-400: 3, -200: 4, 0: 4}, pyramidal={-200: 1})
    assert served({-400: 3, -30: 4, 0: 4, 182: 4})  # nobody could know on day 0


def test_dates_are_those_of_the_label_engine(registry: Tables) -> None:
    episodes = index_visits(registry, TASK.records)
    episodes = episodes.only(TASK.served(registry, episodes))
    labels = outcome_of(registry, episodes).labels
    numbered = history_of(registry)
    events = label(numbered.history, RULE).events
    first = dict(zip((numbered.patients[at] for at in events.patient), events.event_day.tolist(), strict=True))
    found = 0
    for name, t0, (_, seen, cause) in zip(episodes.patients, episodes.days.tolist(), labels, strict=True):
        if cause == 1:
            assert abs(seen * 91.3125 - (first[name] - t0)) <= 91.32
            found += 1
    assert found > 10


def test_a_score_that_nobody_took_is_neither_an_event_nor_free_of_one(registry: Tables) -> None:
    """Taking scores away takes events away, and adds none; nobody is watched for longer."""
    episodes = index_visits(registry, TASK.records)
    visits = registry["visits"]
    less = {**registry, "visits": visits.assign(fs_pyramidal=visits["fs_pyramidal"].where(np.arange(len(visits)) % 2 == 0))}
    before, after = outcome_of(registry, episodes).labels, outcome_of(less, episodes).labels
    both = ~np.isnan(before[:, 0]) & ~np.isnan(after[:, 0])
    assert np.all(after[both, 2] <= before[both, 2])
    assert 0 < np.nansum(after[:, 2]) < np.nansum(before[:, 2])
    free = both & (before[:, 2] == 0)
    assert np.all(after[free, 0] <= before[free, 0])


def test_another_future_moves_labels_and_nothing_else(registry: Tables) -> None:
    moves_labels_alone(TASK, registry)


def test_it_is_a_task_with_a_cohort_like_any_other(registry: Tables) -> None:
    cohort = cohort_checks(TASK, registry)
    assert 0.005 < cohort.labels[:, 2].mean() < 0.1
    assert np.all(cohort.values[:, CONTRACT.column_names.index("edss_last")] <= HIGHEST_EDSS)
    assert RULE.rule_id in CONTRACT.label.meaning
    assert (RULE.leading_fs, SPMS_RULE.leading_fs) == ("not_required", "required")


def test_the_configurations_name_columns_of_the_contract() -> None:
    asked = ("edss_last", "edss_mean", "edss_max", "age_years", "duration_years")
    assert checked_configuration(TASK, "spms_transition") == asked
    assert checked_configuration(TASK, "spms_transition_baseline") == ("edss_last", "age_years")
