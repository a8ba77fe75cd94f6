"""What holds for every history and every rule."""

import math
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_labels import EDSS_GRID, Patient, history_of, random_rule

from tasks.labels.engine import label
from tasks.labels.rule import LabelRule

Rows = list[tuple[object, ...]]

gaps = st.integers(1, 300) | st.sampled_from([84, 161, 168, 182, 364, 898])


@st.composite
def patients(draw: st.DrawFn) -> Patient:
    """A few visits with EDSS or without, relapses and scans, near one another."""
    day, visits = draw(st.integers(-300, 300)), []
    for gap in draw(st.lists(gaps, max_size=9)):
        visits.append((day, draw(st.sampled_from([*EDSS_GRID[:8], 5.0, 5.5, 6.0, math.nan]))))
        day += gap
    onsets = draw(st.lists(st.integers(-400, 2000), max_size=3, unique=True))
    relapses = [(onset, draw(st.none() | st.integers(onset, onset + 100))) for onset in onsets]
    scans = st.tuples(st.integers(-300, 2000), *[st.sampled_from([0.0, 1.0, math.nan])] * 3)
    return Patient(visits, relapses, draw(st.lists(scans, max_size=3)))


cohorts = st.lists(patients(), max_size=4)
rules = st.integers(0, 10_000).map(lambda seed: random_rule(np.random.default_rng(seed)))


def rows(cohort: list[Patient], rule: LabelRule) -> Rows:
    events = label(history_of(cohort, scans=True), rule).events
    columns = [column.tolist() for column in events.columns().values()]
    return [tuple("nan" if value != value else value for value in row) for row in zip(*columns, strict=True)]


@given(cohorts, rules, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(cohort: list[Patient], rule: LabelRule, random: object) -> None:
    def shuffled(items: list) -> list:  # type: ignore[type-arg]
        return random.sample(items, len(items))  # type: ignore[attr-defined,no-any-return]

    mixed = [Patient(*map(shuffled, (patient.visits, patient.relapses, patient.scans))) for patient in cohort]
    assert rows(mixed, rule) == rows(cohort, rule)


@given(cohorts, patients(), rules, st.data())
def test_another_patient_changes_nobody_else(cohort: list[Patient], other: Patient, rule: LabelRule, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(cohort)))
    more = [*cohort[:place], other, *cohort[place:]]
    kept = [(row[0] - (row[0] > place), *row[1:]) for row in rows(more, rule) if row[0] != place]  # type: ignore[operator]
    assert kept == rows(cohort, rule)


@given(patients(), rules, st.integers(-3000, 3000))
def test_shifted_days_shift_the_events(patient: Patient, rule: LabelRule, shift: int) -> None:
    shifted = Patient(
        [(day + shift, value) for day, value in patient.visits],
        [(onset + shift, None if end is None else end + shift) for onset, end in patient.relapses],
        [(day + shift, *counts) for day, *counts in patient.scans],  # type: ignore[misc]
    )
    expected = [
        (who, day + shift, name, rule_id, ref, edss, confirm + shift, weeks)  # type: ignore[operator]
        for who, day, name, rule_id, ref, edss, confirm, weeks in rows([patient], rule)
    ]
    assert rows([shifted], rule) == expected


def until(patient: Patient, day: int) -> Patient:
    """The patient as known on the day, but for relapses, which may be entered earlier than visits."""
    return replace(
        patient, visits=[v for v in patient.visits if v[0] <= day], scans=[scan for scan in patient.scans if scan[0] <= day]
    )


@given(patients(), rules)
def test_no_event_needs_a_visit_or_scan_after_its_confirmation(patient: Patient, rule: LabelRule) -> None:
    for row in rows([patient], rule):
        assert row in rows([until(patient, int(row[6]))], rule)  # type: ignore[call-overload]


@given(patients(), rules, st.integers(-300, 2500))
def test_censoring_never_invents_an_event(patient: Patient, rule: LabelRule, day: int) -> None:
    """But what is UND when it is first confirmed can be seen to be PIRA later: that is one worsening, with one day."""
    rule = replace(rule, after_relapse="keep")
    known, all_rows = rows([until(patient, day)], rule), rows([patient], rule)
    assert [row for row in known if row[2] != "UND"] == [row for row in all_rows if row in known and row[2] != "UND"]
    worsening = {row[1] for row in all_rows if row[2] in ("UND", "PIRA")}
    assert {row[1] for row in known if row[2] == "UND"} <= worsening


@given(patients(), rules)
def test_a_fixed_reference_gives_one_worsening_and_one_improvement_at_most(patient: Patient, rule: LabelRule) -> None:
    found = rows([patient], replace(rule, baseline="fixed", after_relapse="keep"))
    for name in ("CDP", "IMPR"):
        assert sum(row[2] == name for row in found) <= 1
    assert len({row[4] for row in found if row[2] in ("CDP", "IMPR")}) <= 1


@given(patients(), rules)
def test_a_worsening_has_exactly_one_class_and_pirma_is_pira(patient: Patient, rule: LabelRule) -> None:
    found = rows([patient], rule)
    days = {name: [row[1] for row in found if row[2] == name] for name in ("CDP", "PIRA", "RAW", "UND", "PIRMA")}
    assert sorted(days["PIRA"] + days["RAW"] + days["UND"]) == sorted(days["CDP"])  # type: ignore[type-var]
    assert set(days["PIRMA"]) <= set(days["PIRA"])


@given(patients(), rules)
def test_without_relapses_every_worsening_is_pira(patient: Patient, rule: LabelRule) -> None:
    assert not {row[2] for row in rows([replace(patient, relapses=[])], rule)} & {"RAW", "UND"}


@given(patients(), rules)
def test_every_event_is_confirmed_in_the_rules_window(patient: Patient, rule: LabelRule) -> None:
    shortest, longest = rule.confirm_days - rule.confirm_early_days, rule.confirm_days + rule.confirm_late_days
    visit_days = {day for day, value in patient.visits if not math.isnan(value)}
    for _, day, _, _, _, _, confirm, weeks in rows([patient], rule):
        assert day in visit_days
        assert confirm in visit_days
        assert shortest <= confirm - day <= longest  # type: ignore[operator]
        assert weeks == (confirm - day) // 7  # type: ignore[operator]


@settings(max_examples=30)
@given(patients(), rules)
def test_a_visit_without_edss_does_not_exist(patient: Patient, rule: LabelRule) -> None:
    seen = replace(patient, visits=[visit for visit in patient.visits if not math.isnan(visit[1])])
    assert rows([seen], rule) == rows([patient], rule)
