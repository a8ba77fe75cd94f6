"""The vectorised engine and the plain loops of `plain_labels.py` agree on thousands of invented patients and random rules."""

import numpy as np
import pytest
from plain_labels import Change, Patient, history_of, plain_changes, plain_milestone, plain_quiet, random_patient, random_rule

from tasks.labels import course
from tasks.labels.engine import label
from tasks.labels.events import MILESTONES
from tasks.labels.history import series
from tasks.labels.relapse_times import relapse_times
from tasks.labels.rule import LabelRule, Outcome

OUTCOMES: tuple[Outcome, ...] = ("edss", "edss", "t25fw", "nhpt", "sdmt")
PATIENTS = 25


def cohort(seed: int) -> tuple[LabelRule, list[Patient]]:
    random = np.random.default_rng(seed)
    outcome = OUTCOMES[seed % len(OUTCOMES)]
    return random_rule(random, outcome), [random_patient(random, outcome) for _ in range(PATIENTS)]


def engine_changes(patients: list[Patient], rule: LabelRule) -> list[list[Change]]:
    history = history_of(patients, rule.outcome)
    visits = series(history, rule.outcome)
    found = course.find_changes(visits, relapse_times(history.relapses, rule), rule, rule.outcome)
    changes: list[list[Change]] = [[] for _ in patients]
    for place, patient in enumerate(found.patient.tolist()):
        worse = ("UND", "RAW", "PIRA")[found.relapse_class[place]]
        days = (int(visits.day[at[place]]) for at in (found.event_at, found.confirm_at, found.class_at, found.reference_at))
        event, confirm, class_day, ref = days
        kind = worse if found.direction[place] == course.CDP else "IMPR"
        value = float(visits.value[found.event_at[place]])
        changes[patient].append(Change(event, kind, confirm, class_day, ref, float(found.reference[place]), value))
    return changes


@pytest.mark.parametrize("block", range(6))
def test_changes_agree_for_every_rule(block: int) -> None:
    total = 0
    for seed in range(40 * block, 40 * (block + 1)):
        rule, patients = cohort(seed)
        expected = [plain_changes(patient, rule) for patient in patients]
        total += sum(map(len, expected))
        assert engine_changes(patients, rule) == expected, f"seed {seed}"
    assert total > 200


def test_small_rectangles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rule, patients = cohort(0)
    before = engine_changes(patients, rule)
    monkeypatch.setattr(course, "CELLS", 40)
    assert engine_changes(patients, rule) == before


def test_the_table_holds_what_the_loops_find() -> None:
    for seed in range(0, 60, 5):
        rule, patients = cohort(seed)
        events = label(history_of(patients, scans=True), rule).events
        expected: list[tuple[int, int, str, int]] = []
        for number, patient in enumerate(patients):
            for change in plain_changes(patient, rule):
                if change.kind != "IMPR":
                    expected.append((number, change.event_day, "CDP", change.confirm_day))
                if change.kind == "PIRA" and plain_quiet(patient, change):
                    expected.append((number, change.event_day, "PIRMA", change.class_day))
                expected.append((number, change.event_day, change.kind, change.class_day))
            for name, level in MILESTONES.items():
                if (reached := plain_milestone(patient, level, rule)) is not None:
                    expected.append((number, reached[0], name, reached[1]))
        columns = (events.patient, events.event_day, events.event, events.confirm_day)
        assert list(zip(*(column.tolist() for column in columns), strict=True)) == sorted(expected)
        assert set(events.rule_id.tolist()) <= {rule.rule_id}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_changes_agree_for_fifty_thousand_patients() -> None:
    for seed in range(1_000, 3_000):
        rule, patients = cohort(seed)
        assert engine_changes(patients, rule) == [plain_changes(patient, rule) for patient in patients], f"seed {seed}"
