"""The twelve vectors of `ms.md` 1.4b and their variants: what the definitions mean, in numbers one can check by eye."""

import math

import numpy as np
import pytest
from plain_labels import Patient, history_of

from tasks.labels.engine import Labels, label
from tasks.labels.rule import LabelRule

Course = list[tuple[int, float]]

RISE: Course = [(0, 2), (182, 3.5), (364, 3.5)]
SIX: Course = [(0, 5.5), (182, 6), (364, 6)]
DOWN_UP: Course = [(0, 4), (182, 3), (364, 3), (546, 4), (728, 4)]
BRIEF: Course = [(0, 3), (84, 4), (182, 4), (273, 3)]


def labels(course: Course, relapses: tuple[int, ...] = (), **options: object) -> Labels:
    patient = Patient(course, [(onset, None) for onset in relapses])
    return label(history_of([patient]), LabelRule(**options))  # type: ignore[arg-type]


def classed(course: Course, relapses: tuple[int, ...] = (), **options: object) -> list[tuple[str, int, int]]:
    """(class, event day, confirmation day) of each change."""
    events = labels(course, relapses, **options).events.only("PIRA", "RAW", "UND", "IMPR")
    return list(zip(events.event.tolist(), events.event_day.tolist(), events.confirm_day.tolist(), strict=True))


@pytest.mark.parametrize(
    ("course", "relapses", "options", "expected"),
    [
        pytest.param([(0, 2), (182, 3), (364, 3)], (), {}, [("PIRA", 182, 364)], id="1"),
        pytest.param([(0, 0), (182, 1), (364, 1)], (), {}, [], id="2-from-zero-needs-1.5"),
        pytest.param([(0, 0), (182, 1), (364, 1)], (), {"edss_rule": "B"}, [], id="2-rule-B"),
        pytest.param([(0, 0), (182, 1), (364, 1)], (), {"edss_rule": "C"}, [("PIRA", 182, 364)], id="2-rule-C"),
        pytest.param(SIX, (), {}, [("PIRA", 182, 364)], id="3-rule-A"),
        pytest.param(SIX, (), {"edss_rule": "B"}, [], id="3-rule-B"),
        pytest.param(SIX, (), {"edss_rule": "C"}, [], id="3-rule-C"),
        pytest.param([(0, 2), (182, 3), (364, 2), (546, 3), (728, 3)], (), {}, [("PIRA", 546, 728)], id="4-first-rise-unconfirmed"),
        pytest.param(RISE, (150,), {}, [("RAW", 182, 364)], id="5"),
        pytest.param(RISE, (60,), {}, [("PIRA", 182, 364)], id="6-122-days-after"),
        pytest.param(RISE, (60,), {"pira": "mueller2023_strict"}, [("UND", 182, 364)], id="6-strict"),
        pytest.param([*RISE, (546, 3.5)], (350,), {}, [("PIRA", 182, 546)], id="7-364-cannot-confirm"),
        pytest.param([*RISE, (546, 3.5)], (350,), {"pira": "mueller2023_strict"}, [("UND", 182, 546)], id="7-strict"),
        pytest.param([(0, 2), (364, 3)], (), {}, [], id="8-last-visit-unconfirmed"),
        pytest.param(DOWN_UP, (), {}, [("IMPR", 182, 364), ("PIRA", 546, 728)], id="9-roving"),
        pytest.param(DOWN_UP, (), {"baseline": "fixed"}, [("IMPR", 182, 364)], id="9-fixed"),
        pytest.param(BRIEF, (), {"confirm_days": 84}, [("PIRA", 84, 182)], id="10-84-days"),
        pytest.param(BRIEF, (), {}, [], id="10-168-days"),
        pytest.param([(0, 2), (182, 3), (364, math.nan), (546, 3)], (), {}, [("PIRA", 182, 546)], id="11-missing-EDSS"),
        pytest.param(
            [(0, 3), (182, 4), (364, 4), (546, 5), (728, 5)], (900,), {}, [("PIRA", 182, 364), ("PIRA", 546, 728)], id="12-two"
        ),
    ],
)
def test_vector(
    course: Course, relapses: tuple[int, ...], options: dict[str, object], expected: list[tuple[str, int, int]]
) -> None:
    assert classed(course, relapses, **options) == expected


def test_vector_8_is_censored_at_the_last_visit() -> None:
    assert labels([(0, 2), (364, 3)]).last_day.tolist() == [364.0]


def test_vector_12_gives_first_event_tasks_the_first() -> None:
    found = labels([(0, 3), (182, 4), (364, 4), (546, 5), (728, 5)])
    assert found.events.first_day("PIRA", 1).tolist() == [182.0]


def test_vector_11_confirmation_may_be_730_days_late_and_no_later() -> None:
    gap = 168 + 730
    assert classed([(0, 2), (182, 3), (182 + gap, 3)]) == [("PIRA", 182, 182 + gap)]
    assert classed([(0, 2), (182, 3), (183 + gap, 3)]) == []


def test_every_worsening_is_a_cdp_and_has_one_class() -> None:
    found = labels(RISE, (150,)).events
    assert found.event.tolist() == ["CDP", "EDSS3", "RAW"]
    cdp = found.only("CDP")
    assert (cdp.ref_edss.tolist(), cdp.event_edss.tolist(), cdp.confirmed_weeks.tolist()) == ([2.0], [3.5], [26])


def test_confirmation_may_be_seven_days_early_and_no_earlier() -> None:
    assert classed([(0, 2), (100, 3), (100 + 161, 3)]) == [("PIRA", 100, 261)]
    assert classed([(0, 2), (100, 3), (100 + 160, 3)]) == []


def test_a_dip_between_event_and_confirmation_refutes_unless_only_the_confirmation_counts() -> None:
    dip: Course = [(0, 2), (100, 3), (200, 2), (300, 3)]
    assert classed(dip) == []
    assert classed(dip, sustained="confirmation_visit") == [("PIRA", 100, 300)]


def test_the_event_score_can_be_what_must_be_held() -> None:
    half_lost: Course = [(0, 2), (182, 4), (364, 3), (546, 3)]
    assert classed(half_lost) == [("PIRA", 182, 364)]
    assert classed(half_lost, confirm_level="event_score") == [("PIRA", 364, 546)]


def test_a_visit_29_days_after_a_relapse_is_no_reference_and_one_30_days_after_is() -> None:
    course: Course = [(0, 4), (182, 5), (364, 5), (546, 5)]
    found = labels(course, (-30,)).events.only("CDP")
    assert found.ref_edss.tolist() == [4.0]
    assert labels(course, (-29,)).events.only("CDP").ref_edss.tolist() == []


def test_the_relapse_end_shields_longer_where_it_is_known() -> None:
    visits: Course = [*RISE, (546, 3.5)]
    ended = history_of([Patient(visits, [(320, 364)])])
    assert label(ended, LabelRule()).events.only("CDP").confirm_day.tolist() == [364]
    assert label(ended, LabelRule(shield="end_day")).events.only("CDP").confirm_day.tolist() == [546]
    unknown = history_of([Patient(visits, [(350, None)])])
    assert label(unknown, LabelRule(shield="end_day")).events.only("CDP").confirm_day.tolist() == [546]


@pytest.mark.parametrize(
    ("pira", "relapse", "expected"),
    [
        ("mueller2023", 200 - 91, "PIRA"),
        ("mueller2023", 200 + 30, "UND"),
        ("mueller2023", 200 + 31, "PIRA"),
        ("mueller2023", 400 - 90, "UND"),
        ("mueller2023", 400 + 30, "UND"),
        ("mueller2023_strict", 0, "UND"),
        ("mueller2023_strict", 1, "UND"),
        ("mueller2023_strict", 401, "PIRA"),
        ("kappos2020", 1, "UND"),
        ("kappos2020", 231, "PIRA"),
        ("kappos2020", 370, "UND"),
        ("kappos2020", 369, "PIRA"),
        ("cagol2022", 109, "PIRA"),
        ("cagol2022", 231, "UND"),
        ("cagol2022", 401, "PIRA"),
        ("mueller2025", 98, "PIRA"),
        ("mueller2025", 99, "UND"),
        ("mueller2025", 105, "UND"),
        ("mueller2025", 201, "PIRA"),
        ("mueller2025", 370, "UND"),
        ("mueller2025", 401, "PIRA"),
        ("portaccio2025", 109, "PIRA"),
        ("portaccio2025", 230, "UND"),
        ("portaccio2025", 231, "PIRA"),
    ],
)
def test_each_definition_of_pira_has_its_own_relapse_free_days(pira: str, relapse: int, expected: str) -> None:
    course: Course = [(0, 2), (99, 2), (200, 3), (400, 3)]
    assert classed(course, (relapse,), pira=pira, shield_days=0) == [(expected, 200, 400)]


def test_a_worsening_90_days_after_a_relapse_is_raw_by_every_definition_and_after_91_days_not() -> None:
    for pira in ("mueller2023", "mueller2023_strict", "kappos2020", "cagol2022", "mueller2025", "portaccio2025"):
        assert classed(RISE, (92,), pira=pira)[0][0] == "RAW"
        assert classed(RISE, (91,), pira=pira)[0][0] in ("PIRA", "UND")


def test_a_later_confirmation_can_show_pira_where_the_first_cannot() -> None:
    found = labels([*RISE, (546, 3.5)], (320,)).events  # 364 is 44 days after the relapse, 546 is 226
    assert found.only("CDP").confirm_day.tolist() == [364]
    assert found.only("PIRA").confirm_day.tolist() == [546]


def test_the_reference_passes_a_relapse_only_if_the_rule_says_so() -> None:
    stepwise: Course = [(0, 2), (200, 2.5), (400, 3), (600, 3), (800, 3)]
    assert classed(stepwise, (150,)) == [("PIRA", 400, 600)]
    assert classed(stepwise, (150,), after_relapse="rebaseline") == []


def test_after_a_relapse_the_reference_can_be_kept_from_falling() -> None:
    recovered: Course = [(0, 4), (200, 3.5), (400, 4.5), (600, 4.5)]
    assert classed(recovered, (100,), after_relapse="rebaseline") == [("PIRA", 400, 600)]
    assert classed(recovered, (100,), after_relapse="rebaseline_not_lower") == []


def test_worsening_within_90_days_of_a_relapse_is_measured_from_before_it() -> None:
    assert classed(RISE, (150,), after_relapse="rebaseline") == [("RAW", 182, 364)]


def test_one_direction_only_can_move_the_reference() -> None:
    course: Course = [*DOWN_UP, (910, 5), (1092, 5)]
    assert classed(course, baseline="roving_improvement") == [("IMPR", 182, 364), ("PIRA", 546, 728)]
    assert classed(course, baseline="roving_worsening") == [("IMPR", 182, 364), ("PIRA", 910, 1092)]


def test_the_reference_can_move_to_the_event_instead_of_its_confirmation() -> None:
    course: Course = [(0, 2), (100, 3), (200, 4), (300, 4), (500, 4)]
    assert classed(course) == [("PIRA", 100, 300)]
    assert classed(course, rebase_at="event") == [("PIRA", 100, 300), ("PIRA", 200, 500)]


def test_patients_without_two_visits_have_no_changes_and_do_not_disturb() -> None:
    patients = [Patient([]), Patient([(0, 2.0)]), Patient([(0, 2), (182, 3), (364, 3)]), Patient([(5, math.nan)])]
    found = label(history_of(patients), LabelRule())
    assert found.events.only("PIRA").patient.tolist() == [2]
    np.testing.assert_array_equal(found.last_day, [math.nan, 0.0, 364.0, math.nan])


def test_no_patient_is_no_event() -> None:
    assert len(label(history_of([]), LabelRule()).events) == 0
