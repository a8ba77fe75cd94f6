"""Who may be in a computation: consent, withdrawal, criteria, and a count that adds up."""

from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.eligibility.admit import Admitted, admit
from tasks.eligibility.consent import SCOPE_OF, permitted
from tasks.eligibility.criteria import Criteria, load_criteria, read_criteria, shipped
from tasks.eligibility.errors import EligibilityError
from tasks.eligibility.flow import INCLUDED, NO_CONSENT, WITHDRAWN
from tasks.errors import DataError
from tasks.ms.contract import CONTRACT

Rows = list[dict[str, Any]]
COLUMNS = {table.name: table.names for table in CONTRACT.tables}
SCOPES = ("", "routine", "routine|imaging", "imaging|samples", "withdrawn", "routine|withdrawn", "routine|samples|genetics")


def frame(table: str, rows: Rows) -> pd.DataFrame:
    return pd.DataFrame([{name: row.get(name) for name in COLUMNS[table]} for row in rows], columns=list(COLUMNS[table]))


def tables(**rows: Rows) -> dict[str, pd.DataFrame]:
    return {name: frame(name, found) for name, found in rows.items()}


def person(name: str = "a", **cells: Any) -> dict[str, Any]:
    """Somebody of about 40 years, a year after onset, who entered with RRMS on day 0."""
    usual = {"sex": "F", "birth_year": 1976, "year_band": "2015-2017", "onset_day": -365, "criteria": "mcdonald2017"}
    return {"patient_id": name, "phenotype_entry": "RRMS", "consent_scope": "routine", **usual, **cells}


def rule(condition: str, *, unknown: str = "exclude", day: int = 0) -> Criteria:
    text = (
        f"name: one\ntitle: One\nday: {day}\nrules:\n  - name: only\n    says: the rule\n    unknown: {unknown}\n    {condition}\n"
    )
    return read_criteria(text, "one.yaml")


def ends(criteria: Criteria | None, found: dict[str, pd.DataFrame], **more: Any) -> dict[str, str]:
    return admit(found, criteria, **more).states


def is_in(condition: str, patient: dict[str, Any] | None = None, *, unknown: str = "exclude", **rows: Rows) -> bool:
    return ends(rule(condition, unknown=unknown), tables(patients=[patient or person()], **rows))["a"] == INCLUDED


# -- consent ------------------------------------------------------------------------------------------------------------------


def one_row_each(scope: str | None) -> dict[str, pd.DataFrame]:
    return {name: frame(name, [person(consent_scope=scope) if name == "patients" else {"patient_id": "a"}]) for name in COLUMNS}


@pytest.mark.parametrize(
    ("scope", "seen"),
    [
        ("routine", {"patients", "visits", "relapses", "treatments", "oct", "evoked_potentials"}),
        ("routine|imaging", {"patients", "visits", "relapses", "treatments", "oct", "evoked_potentials", "mri"}),
        ("routine|genetics|devices|questionnaires|samples|imaging", set(COLUMNS)),
        ("imaging|samples|genetics", set()),
        ("withdrawn", set()),
        ("routine|imaging|withdrawn", set()),
    ],
)
def test_only_tables_whose_kind_of_data_is_in_the_scope_keep_a_patients_rows(scope: str, seen: set[str]) -> None:
    assert {name for name, rows in permitted(one_row_each(scope)).tables.items() if len(rows)} == seen


def test_every_kind_of_data_of_the_contract_has_a_scope_that_the_contract_knows() -> None:
    known = set(CONTRACT.table("patients").column("consent_scope").vocabulary)
    assert {table.modality for table in CONTRACT.tables} == set(SCOPE_OF)
    assert set(SCOPE_OF.values()) <= known - {"withdrawn"}


def test_an_unrecorded_scope_passes_only_where_the_hospital_answers_for_it() -> None:
    open_, closed = (permitted(one_row_each(None), consent=mode) for mode in ("where_recorded", "recorded_only"))
    assert {len(rows) for rows in open_.tables.values()} == {1}
    assert {len(rows) for rows in closed.tables.values()} == {0}
    assert closed.refused == {"a"}


def test_criteria_that_say_nothing_of_consent_leave_out_whose_consent_is_not_recorded() -> None:
    found = admit(tables(patients=[person(consent_scope=None)]), rule("age_years: {at_least: 18}"))
    assert found.states == {"a": NO_CONSENT}
    (step,) = [step for step in found.flow.steps if step.name == NO_CONSENT]
    assert (step.here, step.not_known) == (1, 1)


def test_a_withdrawn_patient_is_in_no_table() -> None:
    found = permitted(one_row_each("routine|imaging|samples|questionnaires|devices|genetics"), withdrawn=frozenset({"a"}))
    assert {len(rows) for rows in found.tables.values()} == {0}
    assert found.withdrawn == {"a"}


def test_rows_outside_the_scope_of_those_who_stay_are_counted() -> None:
    assert permitted(one_row_each("routine")).hidden == dict.fromkeys(["mri", "biomarkers", "proms", "wearables", "genetics"], 1)
    assert permitted(one_row_each("withdrawn")).hidden == {}


def test_without_the_table_of_patients_nothing_is_used() -> None:
    with pytest.raises(DataError, match="nobody's consent is known"):
        permitted(tables(visits=[{"patient_id": "a", "day": 0}]))


def test_a_withdrawn_pseudonym_that_no_row_has_is_counted_and_not_named() -> None:
    flow = admit(tables(patients=[person()]), None, withdrawn=frozenset({"slip-of-the-pen"})).flow
    assert flow.withdrawn_not_found == 1
    assert "1 withdrawn pseudonyms are in no row" in flow.to_text()
    assert "slip-of-the-pen" not in flow.to_text()


# -- properties ---------------------------------------------------------------------------------------------------------------


@st.composite
def hospitals(draw: st.DrawFn) -> dict[str, pd.DataFrame]:
    names = [f"p{number}" for number in range(draw(st.integers(1, 8)))]
    days = st.integers(-800, 1500)
    patients = [
        person(
            name, consent_scope=draw(st.sampled_from(SCOPES)) or None, birth_year=draw(st.sampled_from([1976, 2005, None])),
            sex=draw(st.sampled_from(["F", "M", None])), onset_day=draw(st.sampled_from([-100, -3000, None])),
            criteria=draw(st.sampled_from(["mcdonald2017", "poser", None])),
        )
        for name in names
    ]  # fmt: skip
    owner = st.sampled_from(names)
    visits = [
        {"patient_id": draw(owner), "day": draw(days), "visit_id": str(at), "edss": draw(st.sampled_from([None, 2.0, 3.0, 4.5]))}
        for at in range(draw(st.integers(0, 20)))
    ]
    relapses = [{"patient_id": draw(owner), "onset_day": draw(days)} for _ in range(draw(st.integers(0, 5)))]
    scans = [{"patient_id": draw(owner), "day": draw(days), "scan_id": str(at)} for at in range(draw(st.integers(0, 5)))]
    return tables(patients=patients, visits=visits, relapses=relapses, mri=scans)


CRITERIA = st.sampled_from([None, *(load_criteria(name) for name in shipped())])
WITHDRAWALS = st.frozensets(st.sampled_from([f"p{number}" for number in range(8)]))


def kept(found: Admitted) -> dict[str, set[int]]:
    return {name: set(rows.index) for name, rows in found.tables.items()}


@settings(max_examples=25, deadline=None)
@given(found=hospitals(), criteria=CRITERIA, before=WITHDRAWALS, more=WITHDRAWALS)
def test_another_withdrawal_adds_no_row_anywhere_and_touches_nobody_else(
    found: dict[str, pd.DataFrame], criteria: Criteria | None, before: frozenset[str], more: frozenset[str]
) -> None:
    first, second = (admit(found, criteria, withdrawn=gone) for gone in (before, before | more))
    for name, rows in kept(second).items():
        assert rows <= kept(first)[name]
        owners = found[name].loc[sorted(kept(first)[name] - rows), "patient_id"]
        assert set(owners) <= more
        assert not set(second.tables[name]["patient_id"]) & (before | more)


@settings(max_examples=25, deadline=None)
@given(found=hospitals(), criteria=CRITERIA, gone=WITHDRAWALS)
def test_the_flow_adds_up(found: dict[str, pd.DataFrame], criteria: Criteria | None, gone: frozenset[str]) -> None:
    admitted = admit(found, criteria, withdrawn=gone)
    flow = admitted.flow
    assert flow.screened == len(found["patients"]) == sum(step.here for step in flow.steps) + flow.included
    assert flow.included == len(admitted.patients) == admitted.tables["patients"]["patient_id"].nunique()
    assert all(0 <= step.not_known <= step.here <= step.alone for step in flow.steps)
    for step in flow.steps:
        assert step.here == list(admitted.states.values()).count(step.name)
    assert set(admitted.patients) >= {name for rows in admitted.tables.values() for name in rows["patient_id"]}


@settings(max_examples=20, deadline=None)
@given(found=hospitals(), criteria=CRITERIA, order=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(found: dict[str, pd.DataFrame], criteria: Criteria | None, order: Any) -> None:
    shuffled = {name: rows.loc[order.sample(list(rows.index), len(rows))] for name, rows in found.items()}
    first, second = admit(found, criteria), admit(shuffled, criteria)
    assert first.states == second.states
    assert kept(first) == kept(second)
    assert first.flow == second.flow


# -- rules, one by one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "cells", "expected"),
    [
        ("age_years: {at_least: 18}", {"birth_year": 1998}, True),  # 2016.5 - 1998.5 = 18.0
        ("age_years: {at_least: 18}", {"birth_year": 1999}, False),
        ("age_years: {at_least: 18, at_most: 50}", {"birth_year": 1960}, False),
        ("age_years: {at_least: 18}", {"birth_year": None}, False),
        ("age_years: {at_least: 18}", {"year_band": None}, False),
        ("sex: {one_of: [F, X]}", {"sex": "M"}, False),
        ("sex: {none_of: [M]}", {"sex": "F"}, True),
        ("sex: {none_of: [M]}", {"sex": None}, False),
        ("phenotype: {one_of: [RRMS]}", {}, True),
        ("phenotype: {one_of: [PPMS]}", {}, False),
        ("criteria: {one_of: [mcdonald2017, mcdonald2024]}", {"criteria": "mcdonald2024"}, True),
        ("criteria: {one_of: [mcdonald2017, mcdonald2024]}", {"criteria": "poser"}, False),
        ("duration_years: {below: 3}", {"onset_day": -1095}, True),  # 2.998 years
        ("duration_years: {below: 3}", {"onset_day": -1096}, False),  # 3.0007 years
        ("duration_years: {above: 1}", {"onset_day": -366}, True),
        ("duration_years: {below: 3}", {"onset_day": None}, False),
    ],
)
def test_rules_about_the_patient(condition: str, cells: dict[str, Any], expected: bool) -> None:
    assert is_in(condition, person(**cells)) is expected


def visit(day: int, edss: float | None = 2.0, **cells: Any) -> dict[str, Any]:
    return {"patient_id": "a", "day": day, "visit_id": f"v{day}", "edss": edss, **cells}


@pytest.mark.parametrize(
    ("condition", "visits", "expected"),
    [
        ("edss: {at_most: 5.5}", [visit(-10, 5.5)], True),
        ("edss: {at_most: 5.5}", [visit(-10, 6.0), visit(10, 2.0)], False),  # what comes later is not known on the index day
        ("edss: {at_most: 5.5}", [visit(-366, 2.0)], False),  # too old to count as known
        ("edss_count: {at_least: 3}", [visit(0), visit(100), visit(200)], True),
        ("edss_count: {at_least: 3}", [visit(0), visit(100, None), visit(200)], False),
        ("edss_a_year: {at_least: 1}", [visit(0), visit(1000), visit(1095)], True),  # 3 in 2.998 years
        ("edss_a_year: {at_least: 1}", [visit(0), visit(1000), visit(1097)], False),
        ("edss_a_year: {at_least: 1}", [visit(0)], False),
        ("follow_up_months: {at_least: 30}", [visit(0), visit(914)], True),
        ("follow_up_months: {at_least: 30}", [visit(0), visit(900)], False),
        ("phenotype: {one_of: [SPMS]}", [visit(-10, phenotype="SPMS")], True),
        ("phenotype: {one_of: [SPMS]}", [visit(10, phenotype="SPMS")], False),
        ("none_of: [{pregnant: {within_days: 280}}]", [visit(-20, pregnancy="no")], True),
        ("none_of: [{pregnant: {within_days: 280}}]", [visit(-20, pregnancy="pregnant")], False),
        ("none_of: [{pregnant: {within_days: 280}}]", [visit(-400, pregnancy="pregnant"), visit(-9, pregnancy="no")], True),
        ("none_of: [{pregnant: {within_days: 280}}]", [visit(-20)], False),  # nobody said
        ("progression: {within_days: 365}", [visit(-100, phenotype="SPMS")], True),
        ("progression: {within_days: 365}", [visit(-400, phenotype="SPMS"), visit(-100, phenotype="SPMS")], False),
        ("progression: {within_days: 365}", [visit(10, phenotype="SPMS")], False),
    ],
)
def test_rules_about_visits(condition: str, visits: Rows, expected: bool) -> None:
    assert is_in(condition, visits=visits) is expected


@pytest.mark.parametrize(("event", "expected"), [(-200, True), (-400, False)])
def test_the_transition_to_progression_by_edss_is_the_label_engines(event: int, expected: bool) -> None:
    systems = {"fs_visual": 0, "fs_brainstem": 0, "fs_cerebellar": 0, "fs_sensory": 0, "fs_bowel_bladder": 0, "fs_cerebral": 0}
    visits = [visit(event - 200, 3.5, fs_pyramidal=2, **systems)]
    visits += [visit(event + later, 4.5, fs_pyramidal=4, **systems) for later in (0, 100)]
    assert is_in("progression: {within_days: 365}", visits=visits) is expected


@pytest.mark.parametrize(("onset", "expected"), [(-90, True), (-91, False), (0, True), (5, False)])
def test_a_relapse_counts_up_to_so_many_days_before_the_index_day(onset: int, expected: bool) -> None:
    assert is_in("relapse: {within_days: 90}", relapses=[{"patient_id": "a", "onset_day": onset}]) is expected


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"start_day": 30, "drug": "ocrelizumab"}, True),
        ({"start_day": -90, "drug": "ocrelizumab"}, True),
        ({"start_day": 91, "drug": "ocrelizumab"}, False),
        ({"start_day": -900, "end_day": -5, "drug": "fingolimod"}, True),
        ({"start_day": -900, "end_day": -500, "drug": "fingolimod"}, False),
        ({"start_day": 0, "drug": "none"}, False),
    ],
)
def test_a_therapy_that_began_or_ended_near_the_index_day_is_a_change(cells: dict[str, Any], expected: bool) -> None:
    assert is_in("therapy_change: {within_days: 90}", treatments=[{"patient_id": "a", **cells}]) is expected


@pytest.mark.parametrize(
    "condition", ["relapse: {within_days: 9}", "therapy_change: {within_days: 9}", "progression: {within_days: 9}"]
)
def test_a_table_that_the_hospital_has_not_is_unknown_and_not_no(condition: str) -> None:
    found = admit(tables(patients=[person()]), rule(condition))
    assert (found.flow.steps[-1].here, found.flow.steps[-1].not_known) == (1, 1)
    assert is_in(condition, unknown="include")


def test_the_index_day_can_be_another_one() -> None:
    found = tables(patients=[person()], relapses=[{"patient_id": "a", "onset_day": 400}])
    assert ends(rule("relapse: {within_days: 30}", day=410), found) == {"a": INCLUDED}
    assert ends(rule("relapse: {within_days: 30}"), found, index_day=410) == {"a": INCLUDED}
    assert ends(rule("relapse: {within_days: 30}"), found) == {"a": "only"}


def test_groups_follow_three_valued_logic() -> None:
    old, young, unknown = "{age_years: {above: 20}}", "{age_years: {below: 20}}", "{edss: {at_most: 9}}"
    assert is_in(f"any_of: [{old}, {unknown}]")
    assert not is_in(f"any_of: [{young}, {unknown}]")
    assert is_in(f"any_of: [{young}, {unknown}]", unknown="include")
    assert not is_in(f"all_of: [{young}, {unknown}]", unknown="include")
    assert is_in(f"all_of: [{old}, {unknown}]", unknown="include")
    assert not is_in(f"none_of: [{old}, {unknown}]", unknown="include")
    assert is_in(f"none_of: [{young}, {{all_of: [{young}, {unknown}]}}]")


# -- shipped criteria ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "more", "state"),
    [
        ({}, {}, INCLUDED),
        ({"birth_year": 2005}, {}, "adult"),
        ({"criteria": "mcdonald2010"}, {}, "diagnosis"),
        ({"onset_day": -4000}, {}, "reason_to_enter"),
        ({"onset_day": -4000}, {"relapses": [{"patient_id": "a", "onset_day": -30}]}, INCLUDED),
        ({"onset_day": -4000}, {"treatments": [{"patient_id": "a", "start_day": 14, "drug": "ocrelizumab"}]}, INCLUDED),
        ({"onset_day": -4000}, {"visits": [visit(-10, phenotype="SPMS")]}, INCLUDED),
        ({}, {"visits": [visit(0, pregnancy="pregnant")]}, "not_pregnant"),
        ({}, {"proms": [{"patient_id": "a", "day": 0, "instrument": "EQVAS", "item": "total", "language": "it"}]}, "language"),
        ({}, {"proms": [{"patient_id": "a", "day": 0, "instrument": "EQVAS", "item": "total", "language": "fr"}]}, INCLUDED),
        ({"consent_scope": None}, {}, NO_CONSENT),
        ({"consent_scope": "withdrawn"}, {}, WITHDRAWN),
    ],
)
def test_clinnova_takes_whom_its_protocol_takes(cells: dict[str, Any], more: dict[str, Rows], state: str) -> None:
    scope = {"consent_scope": "routine|questionnaires"}
    every = {"visits": [visit(-1)], "relapses": [], "treatments": [], **more}
    assert ends(load_criteria("clinnova"), tables(patients=[person(**{**scope, **cells})], **every)) == {"a": state}


@pytest.mark.parametrize(
    ("cells", "days", "state"),
    [({}, (0, 200, 400), INCLUDED), ({}, (0, 200), "edss_scores"), ({}, (0, 200, 2000), "edss_density"),
     ({"phenotype_entry": "RIS"}, (0, 200, 400), "definite"), ({"consent_scope": None}, (0, 200, 400), INCLUDED)],
)  # fmt: skip
def test_reclaim_takes_adults_with_enough_scores(cells: dict[str, Any], days: tuple[int, ...], state: str) -> None:
    found = tables(patients=[person(**cells)], visits=[visit(day) for day in days])
    assert ends(load_criteria("reclaim"), found) == {"a": state}


def test_a_patient_who_fails_several_rules_counts_once_and_shows_in_each() -> None:
    patients = [person("a", birth_year=2005, criteria="poser"), person("b", criteria="poser")]
    flow = admit(tables(patients=patients), load_criteria("clinnova")).flow
    found = {step.name: (step.here, step.alone) for step in flow.steps}
    assert (found["adult"], found["diagnosis"]) == ((1, 1), (1, 2))
    assert [line for line in flow.to_text().splitlines() if "diagnosis" in line and "-1" in line and "concerns 2" in line]


# -- files that are wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("age: {at_least: 18}", "'age' is unknown; did you mean"),
        ("age_years: {atleast: 18}", "'atleast' is unknown; did you mean at_least"),
        ("age_years: {at_least: many}", "write a number"),
        ("age_years: {}", "give one of at_least"),
        ("phenotype: {one_of: [RRSM]}", "'RRSM' is unknown; did you mean RRMS"),
        ("phenotype: {one_of: []}", "must be a list of codes"),
        ("relapse: {within_days: -1}", "must be 0 or more"),
        ("relapse: {days: 3}", "'days' is unknown"),
        ("any_of: []", "write a list of conditions"),
        ("any_of: [{agee_years: {at_least: 3}}]", "did you mean age_years"),
        ("age_years: {at_least: 18}\n    sex: {one_of: [F]}", "2 conditions"),
    ],
)
def test_a_wrong_condition_is_refused_with_its_place_and_the_remedy(condition: str, words: str) -> None:
    with pytest.raises(EligibilityError, match=r"one\.yaml: rule 1 \(only\)") as refused:
        rule(condition)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("title: One", "titel: One", "'titel' is unknown; did you mean title"),
        ("title: One\n", "", "title is missing"),
        ("day: 0", "day: 1.5", "whole number of days"),
        ("day: 0", "day: 0\nconsent: required", "must be one of recorded_only, where_recorded"),
        ("unknown: exclude", "unknown: maybe", "must be one of exclude, include"),
        ("says: the rule", "says: ''", "says is missing"),
        ("name: only", "name: included", "choose another name"),
        ("name: only", "name: Only one", "short name of lower case"),
        ("title: One", "title: One\ntitle: Two", "appears twice"),
    ],
)
def test_a_wrong_file_is_refused(old: str, new: str, words: str) -> None:
    text = (
        "name: one\ntitle: One\nday: 0\nrules:\n  - name: only\n    says: the rule\n    unknown: exclude\n    sex: {one_of: [F]}\n"
    )
    assert read_criteria(text, "one.yaml").rules[0].name == "only"
    with pytest.raises(EligibilityError) as refused:
        read_criteria(text.replace(old, new), "one.yaml")
    assert words in str(refused.value)


def test_a_name_that_is_neither_shipped_nor_a_file_is_refused_with_those_that_are() -> None:
    assert shipped() == ("clinnova", "reclaim")
    with pytest.raises(EligibilityError, match="clinnova, reclaim"):
        load_criteria("klinnova")
