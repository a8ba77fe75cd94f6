"""A FHIR export gives back the tables it was made from; whatever is wrong in one is found where it stands, and nothing is lost."""

import json
import re
import subprocess
import sys
from collections import Counter
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.importing.base import Imported
from tasks.importing.bookkeeping import RULES, Book
from tasks.importing.crosswalk import read_crosswalk
from tasks.importing.dating import pseudonym
from tasks.importing.errors import ImportRefused
from tasks.importing.fhir import read_fhir, read_with_book
from tasks.importing.writing import write_contract
from tasks.ms.contract import CONTRACT
from tasks.ms.validate import validate_folder
from tasks.simulator.writer import encoded
from tests.shared.core_tables import CORE, Hospital, hospital, texts
from tests.shared.fhir_bundles import (
    ATC,
    ITEM,
    OWN,
    SERVER,
    SNOMED,
    Export,
    concept,
    item,
    quantity,
    uuid_of,
    write_bundle,
    write_ndjson,
)

KEY = bytes(range(32))
REPOSITORY = Path(__file__).resolve().parents[2]
Resource = dict[str, Any]
INDEX = date(2015, 3, 20)
SECRET = re.compile(r"secret|Musterfrau|2015-|2016-", re.IGNORECASE)


@cache
def simulated() -> tuple[Hospital, tuple[Resource, ...]]:
    made = hospital(210, 7)
    return made, tuple(Export(made).resources)


def conserved(imported: Imported, book: Book) -> None:
    """Every resource has one fate; each that was left out is in a problem that says why, at its entry."""
    assert sum(imported.read.values()) == len(book.fates)
    assert Counter(place.source.partition(",")[0] for place in book.fates) == imported.read
    told = {(each.source, each.rule, row) for each in imported.problems for row in each.rows}
    for place, fate in book.fates.items():
        assert not fate or (place.source, fate, place.number) in told
    assert "unaccounted" not in set(book.fates.values())
    assert book.used + sum(1 for fate in book.fates.values() if fate) == sum(imported.read.values())


def read(tmp_path: Path, *resources: Resource, **more: Any) -> tuple[Imported, dict[tuple[str, str, str], tuple[int, ...]]]:
    """What a bundle of these resources gives, and rule, table and column of each problem -> entries."""
    imported, book = read_with_book(write_bundle(tmp_path / "secret.json", list(resources)), KEY, **more)
    conserved(imported, book)
    assert not SECRET.search(repr(imported)), "no content may be shown"
    return imported, {(each.rule, each.table, each.column): each.rows for each in imported.problems}


def row(imported: Imported, table: str, number: int = 0) -> dict[str, Any]:
    """One row, without its empty cells."""
    return {name: value for name, value in imported.tables[table].iloc[number].items() if not pd.isna(value)}


PATIENT: Resource = {"resourceType": "Patient", "id": "secret1", "gender": "female", "birthDate": "1980"}
SUBJECT = {"reference": "Patient/secret1"}


def on(days: int) -> str:
    return (INDEX + timedelta(days=days)).isoformat()


def observation(number: str, code: Resource, **more: Any) -> Resource:
    return {"resourceType": "Observation", "id": number, "status": "final", "subject": SUBJECT, "code": code, **more}


def edss(number: str, score: float, day: str, **more: Any) -> Resource:
    return observation(number, item("visits", "edss"), valueQuantity=quantity(score, "{score}"), effectiveDateTime=day, **more)


BASE = (PATIENT, edss("e0", 2.0, on(0)))


def relapse(number: str, **more: Any) -> Resource:
    return {"resourceType": "Condition", "id": number, "subject": SUBJECT, "code": concept(SNOMED, "192929006"), **more}


def statement(number: str, **more: Any) -> Resource:
    given: Resource = {"medicationCodeableConcept": concept(ATC, "L04AA23"), "effectivePeriod": {"start": on(10)}} | more
    return {"resourceType": "MedicationStatement", "id": number, "status": "active", "subject": SUBJECT, **given}


def dose(number: str, day: int, code: str = "L04AG08", **more: Any) -> Resource:
    given: Resource = {"status": "completed", "effectiveDateTime": on(day), "dosage": {"dose": quantity(600, "mg")}} | more
    drug = {"medicationCodeableConcept": concept(ATC, code)}
    return {"resourceType": "MedicationAdministration", "id": number, "subject": SUBJECT, **drug, **given}


# -- there and back


@pytest.mark.parametrize("form", ["bundle", "ndjson"])
def test_a_simulated_hospital_comes_back_exactly(tmp_path: Path, form: str) -> None:
    made, resources = simulated()
    assert len(made.index) >= 200
    source = (
        write_bundle(tmp_path / "b.json", list(resources)) if form == "bundle" else write_ndjson(tmp_path / "n", list(resources))
    )
    imported, book = read_with_book(source, KEY)
    conserved(imported, book)
    assert imported.problems == ()
    assert imported.review == ()
    for name in CORE:
        expected = texts(made.tables[name], name, lambda text: pseudonym(text, KEY))
        pd.testing.assert_frame_equal(texts(imported.tables[name], name), expected)
    for frame in imported.tables.values():  # what every importer promises: empty is None or NaN
        assert all(value is None or value != value for column in frame for value in frame[column][frame[column].isna()])
    write_contract(imported, tmp_path / "contract", site="simulated")
    report = validate_folder(tmp_path / "contract").report
    assert [each.rule.name for each in report.findings if each.severity == "error"] == []
    assert {each.table: each.accepted for each in report.tables} == {name: len(made.tables[name]) for name in CORE}


def test_pseudonyms_are_kept_on_request_and_calendar_dates_never(tmp_path: Path) -> None:
    made = hospital(12, 3)
    imported = read_fhir(write_bundle(tmp_path / "b.json", Export(made).resources), KEY, keep_ids=True)
    for name in CORE:
        pd.testing.assert_frame_equal(texts(imported.tables[name], name), texts(made.tables[name], name))
        assert not re.search(r"(19|20)\d\d-[01]\d", encoded(imported.tables[name], "csv").decode())


def test_the_order_of_the_resources_does_not_matter(tmp_path: Path) -> None:
    resources = Export(hospital(12, 3)).resources
    one = read_fhir(write_bundle(tmp_path / "a.json", resources), KEY)
    other = read_fhir(write_bundle(tmp_path / "b.json", resources[::-1]), KEY)
    for name in CORE:
        pd.testing.assert_frame_equal(texts(one.tables[name], name), texts(other.tables[name], name))


def test_a_bundle_leaves_one_resource_out_and_only_that_is_missing(tmp_path: Path) -> None:
    """A cancelled EDSS takes away itself, with its functional systems, and nothing else."""
    made = hospital(12, 3)
    resources = Export(made).resources
    later = {
        f"{name}-{visit}-edss" for name, visit, day in made.tables["visits"][["patient_id", "visit_id", "day"]].values if day > 0
    }
    at = next(n for n, each in enumerate(resources) if each["id"] in later and "component" in each)
    resources[at] = {**resources[at], "status": "cancelled"}
    imported, book = read_with_book(write_bundle(tmp_path / "b.json", resources), KEY, keep_ids=True)
    conserved(imported, book)
    assert [(each.rule, each.rows) for each in imported.problems] == [("status", (at + 1,))]
    name, visit = resources[at]["id"].removesuffix("-edss").rsplit("-", 1)
    expected = texts(made.tables["visits"], "visits")
    found = texts(imported.tables["visits"], "visits")
    touched = (expected["patient_id"] == name) & (expected["visit_id"] == visit)
    gone = ["edss", "edss_method", "rater_id", *(each for each in expected.columns if each.startswith("fs_"))]
    expected.loc[touched, gone] = ""
    assert touched.sum() == 1
    pd.testing.assert_frame_equal(found, expected)


# -- status, versions, references


@pytest.mark.parametrize(
    ("spoiled", "rule"),
    [
        (edss("x", 3, on(100), status="entered-in-error"), "status"),
        (edss("x", 3, on(100), status="cancelled"), "status"),
        (relapse("x", onsetDateTime=on(50), verificationStatus=concept("urn:v", "refuted")), "refuted"),
        (relapse("x", onsetDateTime=on(50), verificationStatus=concept("urn:v", "entered-in-error")), "status"),
        (statement("x") | {"status": "entered-in-error"}, "status"),
        (dose("x", 20, status="not-done"), "status"),
        (
            {"resourceType": "Encounter", "id": "x", "status": "cancelled", "subject": SUBJECT, "period": {"start": on(-900)}},
            "status",
        ),
        ({"resourceType": "ImagingStudy", "id": "x", "status": "cancelled", "subject": SUBJECT}, "status"),
        ({"resourceType": "Procedure", "id": "x", "status": "not-done", "code": concept(OWN + "drug", "ahsct")}, "status"),
        ({"resourceType": "Consent", "id": "x", "status": "draft"}, "status"),
        (
            {"resourceType": "Encounter", "id": "x", "status": "finished", "subject": SUBJECT, "period": {"start": on(5)}},
            "no_visit",
        ),
        ({"resourceType": "ImagingStudy", "id": "x", "status": "available", "subject": SUBJECT, "started": on(5)}, "no_scan"),
        ({"resourceType": "Device", "id": "x", "manufacturer": "Philips"}, "not_referred_to"),
        ({"resourceType": "Claim", "id": "x"}, "type_not_used"),
        ({"resourceType": "Bundle", "id": "x", "entry": []}, "bundle_in_bundle"),
        (observation("x", concept("http://loinc.org", "718-7"), valueQuantity=quantity(14, "g/dL")), "code_not_in_crosswalk"),
        (statement("x", medicationCodeableConcept=concept(ATC, "N02BE01")), "not_a_core_drug"),
    ],
)
def test_what_does_not_count_is_left_out_at_its_entry_and_changes_nothing(tmp_path: Path, spoiled: Resource, rule: str) -> None:
    plain = read(tmp_path, *BASE)[0]
    imported, told = read(tmp_path, *BASE, spoiled)
    assert {each: rows for each, rows in told.items() if each[0] == rule}
    assert set(told.values()) == {(3,)}
    assert {name: texts(frame, name).to_dict() for name, frame in imported.tables.items()} == {
        name: texts(frame, name).to_dict() for name, frame in plain.tables.items()
    }


def test_the_newest_version_of_a_resource_counts_wherever_it_stands(tmp_path: Path) -> None:
    old = edss("e1", 3.0, on(100)) | {"meta": {"lastUpdated": "2016-01-01T00:00:00Z"}}
    new = edss("e1", 4.0, on(100)) | {"meta": {"lastUpdated": "2016-01-01T00:30:00+00:00"}}
    for pair, entry in (((old, new), 3), ((new, old), 4)):
        imported, told = read(tmp_path, *BASE, *pair)
        assert told == {("superseded", "", ""): (entry,)}
        assert list(imported.tables["visits"]["edss"]) == [2.0, 4.0]


def test_a_newer_version_that_was_entered_in_error_takes_the_older_one_away(tmp_path: Path) -> None:
    old = edss("e1", 3.0, on(100)) | {"meta": {"lastUpdated": "2016-01-01T00:00:00Z"}}
    new = {**old, "status": "entered-in-error", "meta": {"lastUpdated": "2016-01-02T00:00:00Z"}}
    imported, told = read(tmp_path, *BASE, old, new)
    assert told == {("superseded", "", ""): (3,), ("status", "", ""): (4,)}
    assert list(imported.tables["visits"]["edss"]) == [2.0]


def test_two_versions_without_a_date_are_a_problem_and_neither_counts(tmp_path: Path) -> None:
    imported, told = read(tmp_path, *BASE, edss("e1", 3.0, on(100)), edss("e1", 4.0, on(100)))
    assert told == {("two_versions", "", ""): (3, 4)}
    assert list(imported.tables["visits"]["edss"]) == [2.0]
    imported, told = read(tmp_path, *BASE, edss("e1", 3.0, on(100)), edss("e1", 3.0, on(100)))
    assert told == {("repeated", "", ""): (4,)}
    assert list(imported.tables["visits"]["edss"]) == [2.0, 3.0]


@pytest.mark.parametrize(
    "subject",
    [
        {"reference": "Patient/secret1"},
        {"reference": f"{SERVER}/Patient/secret1"},
        {"reference": uuid_of("Patient/secret1")},
        {"reference": "Patient/secret1/_history/7"},
        {"identifier": {"system": "urn:mrn", "value": "secret-mrn"}},
    ],
)
def test_a_patient_is_found_by_every_kind_of_reference(tmp_path: Path, subject: Resource) -> None:
    person = PATIENT | {"identifier": [{"system": "urn:mrn", "value": "secret-mrn"}]}
    imported, told = read(tmp_path, edss("e0", 2.0, on(0)) | {"subject": subject}, person)
    assert told == {}
    assert row(imported, "visits")["patient_id"] == pseudonym("secret-mrn", KEY)


def test_a_contained_patient_is_the_one_with_its_identifier(tmp_path: Path) -> None:
    numbers = [{"system": "urn:mrn", "value": "secret-mrn"}]
    inside = {"resourceType": "Patient", "id": "p", "identifier": numbers}
    found = edss("e0", 2.0, on(0), contained=[inside]) | {"subject": {"reference": "#p"}}
    imported, told = read(tmp_path, PATIENT | {"identifier": numbers}, found)
    assert told == {}
    assert row(imported, "visits")["edss"] == 2.0
    assert read(tmp_path, PATIENT, found)[1] == {("unknown_patient", "", ""): (2,)}


@pytest.mark.parametrize(
    "subject", [{"reference": "Patient/secret2"}, {"reference": "Encounter/x"}, {}, {"reference": 7}, "Patient/secret1"]
)
def test_an_unknown_patient_is_a_problem(tmp_path: Path, subject: object) -> None:
    imported, told = read(tmp_path, *BASE, edss("e1", 3.0, on(50)) | {"subject": subject})
    assert told == {("unknown_patient", "", ""): (3,)}
    assert len(imported.tables["visits"]) == 1


def test_two_patients_with_one_number_are_both_left_out(tmp_path: Path) -> None:
    numbers = {"identifier": [{"value": "secret-mrn"}]}
    imported, told = read(tmp_path, PATIENT | numbers, PATIENT | numbers | {"id": "secret2"}, edss("e0", 2.0, on(0)))
    assert told == {("two_patients_one_number", "", ""): (1, 2), ("unknown_patient", "", ""): (3,)}
    assert imported.tables == {}


def test_an_observation_of_another_patients_visit_is_left_out(tmp_path: Path) -> None:
    visit = {
        "resourceType": "Encounter",
        "id": "v",
        "status": "finished",
        "subject": {"reference": "Patient/secret2"},
        "period": {"start": on(9)},
    }
    imported, told = read(
        tmp_path, *BASE, PATIENT | {"id": "secret2"}, visit, edss("e1", 3, on(9), encounter={"reference": "Encounter/v"})
    )
    assert told[("two_patients", "visits", "")] == (5,)
    assert list(imported.tables["visits"]["edss"]) == [2.0]


# -- EDSS, functional systems, units


@pytest.mark.parametrize(
    "value",
    [
        {"valueQuantity": {"value": 4}},
        {"valueQuantity": quantity(4.0, "{score}")},
        {"valueInteger": 4},
        {"valueDecimal": 4.0},
        {"valueString": "4.0"},
    ],
)
def test_an_edss_is_read_in_every_form(tmp_path: Path, value: Resource) -> None:
    imported, told = read(tmp_path, PATIENT, observation("e", item("visits", "edss"), effectiveDateTime=on(0), **value))
    assert told == {}
    assert row(imported, "visits")["edss"] == 4.0


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ({"valueQuantity": {"value": 4, "comparator": ">"}}, "comparator"),
        ({}, "no_value"),
        ({"valueString": "4,0"}, "not_a_number"),
        ({"valueQuantity": quantity(4, "furlong")}, "unit"),
        ({"valueBoolean": True}, "not_a_number"),
        ({"valueQuantity": {}}, "no_value"),
        ({"dataAbsentReason": concept("urn:local", "?")}, "answer_not_in_crosswalk"),
    ],
)
def test_an_edss_that_cannot_be_read_is_left_empty_and_told(tmp_path: Path, value: Resource, rule: str) -> None:
    told = read(tmp_path, *BASE, observation("e", item("visits", "edss"), effectiveDateTime=on(30), **value))[1]
    assert {(each[0], rows) for each, rows in told.items()} == {(rule, (3,))}


def test_functional_systems_may_be_components_or_members(tmp_path: Path) -> None:
    part = {"code": item("visits", "fs_visual"), "valueInteger": 1}
    member = observation("m", item("visits", "fs_sensory"), valueInteger=2)
    del member["subject"]  # stated by the panel alone, as its day is
    imported, told = read(
        tmp_path, PATIENT, member, edss("e", 2, on(0), component=[part], hasMember=[{"reference": "Observation/m"}])
    )
    assert told == {}
    assert {"edss": 2.0, "fs_visual": 1, "fs_sensory": 2}.items() <= row(imported, "visits").items()


def test_a_functional_system_of_half_a_point_is_left_empty_and_the_edss_stays(tmp_path: Path) -> None:
    part = {"code": item("visits", "fs_visual"), "valueDecimal": 1.5}
    imported, told = read(tmp_path, PATIENT, edss("e", 2, on(0), component=[part]))
    assert told == {("not_whole", "visits", "fs_visual"): (2,)}
    assert row(imported, "visits")["edss"] == 2.0
    assert "fs_visual" not in row(imported, "visits")


@pytest.mark.parametrize(
    ("value", "unit", "expected"), [(6.4, "s", 6.4), (6400, "ms", 6.4), (6.4, "sec", None), (6.4, "", None), (6, "mL", None)]
)
def test_a_unit_is_converted_or_the_value_left_empty(tmp_path: Path, value: float, unit: str, expected: float | None) -> None:
    walk = observation("w", item("visits", "t25fw_s"), effectiveDateTime=on(0), valueQuantity=quantity(value, unit))
    imported, told = read(tmp_path, *BASE, walk)
    assert row(imported, "visits").get("t25fw_s") == expected
    assert told == ({} if expected else {("unit", "visits", "t25fw_s"): (3,)})


def test_a_reason_for_a_missing_value_is_kept(tmp_path: Path) -> None:
    reason = concept("http://terminology.hl7.org/CodeSystem/data-absent-reason", "asked-declined")
    imported, told = read(
        tmp_path, *BASE, observation("w", item("visits", "sdmt_n"), effectiveDateTime=on(0), dataAbsentReason=reason)
    )
    assert told == {}
    assert row(imported, "visits")["missing_reason"] == "refused"


# -- one EDSS a day


def method(name: str) -> Resource:
    return {"method": concept(OWN + "edss_method", name)}


def test_of_two_edss_of_one_day_the_better_method_counts(tmp_path: Path) -> None:
    found = (edss("a", 3, on(50), **method("remote")), edss("b", 4, on(50), **method("neurostatus")))
    imported, told = read(tmp_path, *BASE, *found)
    assert told == {("lower_ranked_edss", "visits", "edss"): (3,)}
    assert (row(imported, "visits", 1)["edss"], row(imported, "visits", 1)["edss_method"]) == (4.0, "neurostatus")


def test_two_different_edss_of_one_day_and_method_are_both_left_empty(tmp_path: Path) -> None:
    imported, told = read(tmp_path, *BASE, edss("a", 3, on(50)), edss("b", 4, on(50)))
    assert told == {("two_values", "visits", "edss"): (3, 4)}
    assert len(imported.tables["visits"]) == 2
    assert "edss" not in row(imported, "visits", 1)


@pytest.mark.parametrize(
    ("scores", "methods", "rule", "left"),
    [
        ((3, 4), ("", ""), "two_edss_one_day", []),
        ((3, 3), ("", ""), "equal_edss_one_day", [3.0]),
        ((3, 4), ("patient", "clinic"), "lower_ranked_edss", [4.0]),
    ],
)
def test_two_visits_of_one_day_have_one_edss(
    tmp_path: Path, scores: tuple[int, int], methods: tuple[str, str], rule: str, left: list[float]
) -> None:
    resources = []
    for name, score, way in zip("vw", scores, methods, strict=True):
        visit = {"resourceType": "Encounter", "id": name, "status": "finished", "subject": SUBJECT, "period": {"start": on(50)}}
        scored = edss(f"e{name}", score, on(50), encounter={"reference": f"Encounter/{name}"}, **(method(way) if way else {}))
        resources += [visit, scored]
    imported, told = read(tmp_path, *BASE, *resources)
    assert {each[0] for each in told} == {rule}
    assert list(imported.tables["visits"]["edss"].dropna()) == [2.0, *left]
    assert len(imported.tables["visits"]) == 3


def test_each_day_of_a_stay_that_was_examined_is_a_row(tmp_path: Path) -> None:
    stay = {
        "resourceType": "Encounter",
        "id": "s",
        "status": "finished",
        "subject": SUBJECT,
        "period": {"start": on(50), "end": on(60)},
        "type": [concept(OWN + "visit_type", "unscheduled_relapse")],
    }
    here = {"encounter": {"reference": "Encounter/s"}}
    imported, told = read(tmp_path, *BASE, stay, edss("a", 5, on(50), **here), edss("b", 4, on(57), **here))
    assert told == {}
    rows = imported.tables["visits"]
    assert list(zip(rows["day"], rows["edss"], rows["visit_type"].fillna(""), strict=True)) == [
        (0, 2.0, ""),
        (50, 5.0, "unscheduled_relapse"),
        (57, 4.0, "unscheduled_relapse"),
    ]
    assert rows["visit_id"].nunique() == 2


def test_contacts_of_one_case_on_one_day_stay_apart(tmp_path: Path) -> None:
    """A hospital's case number names several contacts; that makes no two rows with one key."""
    contact = {
        "resourceType": "Encounter",
        "status": "finished",
        "subject": SUBJECT,
        "period": {"start": on(50)},
        "identifier": [{"value": "case7"}],
        "type": [concept(OWN + "visit_type", "routine")],
    }
    imported, told = read(
        tmp_path, *BASE, contact | {"id": "v"}, contact | {"id": "w"}, contact | {"id": "x", "period": {"start": on(51)}}
    )
    assert told == {}
    assert list(imported.tables["visits"]["day"]) == [0, 50, 50, 51]
    assert imported.tables["visits"]["visit_id"].nunique() == 4


def test_what_states_no_visit_joins_the_one_of_its_day_whatever_stands_first(tmp_path: Path) -> None:
    stay = {
        "resourceType": "Encounter",
        "id": "s",
        "status": "finished",
        "subject": SUBJECT,
        "period": {"start": on(50), "end": on(60)},
    }
    linked = edss("b", 4, on(57), encounter={"reference": "Encounter/s"})
    walk = observation("w", item("visits", "sdmt_n"), effectiveDateTime=on(57), valueInteger=44)
    for order in ((stay, linked, walk), (walk, linked, stay)):
        imported, told = read(tmp_path, *BASE, *order)
        assert told == {}
        assert {"day": 57, "edss": 4.0, "sdmt_n": 44}.items() <= row(imported, "visits", 1).items()


# -- dates


@pytest.mark.parametrize("unknown", ["1900-01-01", "1753-01-01", "0201-03-20", "2099-12-31"])
def test_a_database_s_word_for_an_unknown_day_is_no_day_and_no_index_date(tmp_path: Path, unknown: str) -> None:
    plain = read(tmp_path, *BASE)[0]
    imported, told = read(tmp_path, *BASE, edss("x", 3, unknown), relapse("y", onsetDateTime=unknown))
    assert told == {("implausible_date", "visits", "day"): (3,), ("implausible_date", "relapses", "onset_day"): (4,)}
    assert {name: frame.to_csv() for name, frame in imported.tables.items()} == {
        name: frame.to_csv() for name, frame in plain.tables.items()
    }
    died = read(tmp_path, PATIENT | {"deceasedDateTime": unknown}, BASE[1])
    assert died[1] == {("implausible_date", "patients", "death_day"): (1,)}
    assert "death_day" not in row(died[0], "patients")


def test_the_index_date_is_the_first_edss_else_the_first_encounter_else_the_diagnosis(tmp_path: Path) -> None:
    visit = {"resourceType": "Encounter", "id": "v", "status": "finished", "subject": SUBJECT, "period": {"start": on(-30)}}
    known = {
        "resourceType": "Condition",
        "id": "d",
        "subject": SUBJECT,
        "code": concept(SNOMED, "24700007"),
        "onsetDateTime": on(-500),
        "recordedDate": on(-400),
    }
    walk = observation("w", item("visits", "t25fw_s"), effectiveDateTime=on(-100), valueQuantity=quantity(5, "s"))
    assert row(read(tmp_path, *BASE, visit, known)[0], "patients")["diagnosis_day"] == -400
    assert row(read(tmp_path, PATIENT, visit, known, walk)[0], "visits")["day"] == -70
    found = read(tmp_path, PATIENT, known, walk)[0]
    assert (row(found, "patients")["diagnosis_day"], row(found, "patients")["onset_day"], row(found, "visits")["day"]) == (
        0,
        -100,
        300,
    )
    coarse = edss("m", 3, on(0)[:7])
    assert row(read(tmp_path, PATIENT, visit, coarse)[0], "visits")["day"] == (date(2015, 3, 16) - INDEX).days + 30
    assert row(read(tmp_path, PATIENT, coarse)[0], "visits")["day"] == 0
    imported, told = read(tmp_path, PATIENT, walk)
    assert told == {("no_index_date", "visits", "day"): (2,)}
    assert list(imported.tables) == ["patients"]
    assert "year_band" not in row(imported, "patients")


def test_a_relapse_known_to_the_month_says_so_and_one_known_to_the_year_is_left_out(tmp_path: Path) -> None:
    imported, told = read(tmp_path, *BASE, relapse("a", onsetDateTime="2016-02"), relapse("b", onsetDateTime="2017"))
    assert told == {("partial_date", "relapses", "onset_day"): (3,), ("date_too_coarse", "relapses", "onset_day"): (4,)}
    assert row(imported, "relapses") == {
        "patient_id": pseudonym("secret1", KEY),
        "onset_day": (date(2016, 2, 15) - INDEX).days,
        "onset_precision_d": 14,
        "source": "rwd",
    }


def test_an_onset_period_is_an_uncertain_day_within_it(tmp_path: Path) -> None:
    found = row(
        read(tmp_path, *BASE, relapse("a", onsetPeriod={"start": on(100), "end": on(111)}, abatementDateTime=on(150)))[0],
        "relapses",
    )
    assert (found["onset_day"], found["onset_precision_d"], found["end_day"]) == (105, 6, 150)


def test_a_visit_known_to_the_month_is_suspect_and_one_known_to_the_year_is_left_out(tmp_path: Path) -> None:
    imported, told = read(tmp_path, *BASE, edss("a", 3, "2016-04"), edss("b", 4, "2017"))
    assert told == {("partial_date", "visits", "day"): (3,), ("date_too_coarse", "visits", "day"): (4,)}
    assert row(imported, "visits", 1)["quality"] == "suspect"
    assert row(imported, "visits", 1)["day"] == (date(2016, 4, 15) - INDEX).days


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dates(date(1995, 1, 1), date(2030, 12, 31)), st.sampled_from(["%Y-%m-%d", "%Y-%m", "%Y", "%Y-%m-%dT23:59:59+14:00"]))
def test_any_onset_lies_within_the_precision_that_is_told_or_is_left_out(tmp_path: Path, day: date, form: str) -> None:
    imported, told = read(tmp_path, *BASE, relapse("a", onsetDateTime=day.strftime(form)))
    if form == "%Y":
        assert told == {("date_too_coarse", "relapses", "onset_day"): (3,)}
        assert "relapses" not in imported.tables
        return
    found = row(imported, "relapses")
    assert abs((INDEX + timedelta(days=int(found["onset_day"])) - day).days) <= found.get("onset_precision_d", 0) <= 15


@pytest.mark.parametrize("written", ["2016-13-01", "yesterday", "", "01.02.2016", 2016])
def test_a_date_that_does_not_exist_is_told(tmp_path: Path, written: object) -> None:
    told = read(tmp_path, *BASE, relapse("a", onsetDateTime=written))[1]
    assert told == {("no_date", "relapses", "onset_day"): (3,)}


def test_an_end_in_the_month_of_the_start_does_not_come_before_it(tmp_path: Path) -> None:
    imported, told = read(tmp_path, *BASE, relapse("a", onsetDateTime="2016-02-25", abatementDateTime="2016-02"))
    found = row(imported, "relapses")
    assert found["end_day"] == found["onset_day"]
    assert told == {("partial_date", "relapses", "end_day"): (3,)}


def test_a_death_without_a_date_is_told(tmp_path: Path) -> None:
    assert read(tmp_path, PATIENT | {"deceasedBoolean": True}, BASE[1])[1] == {("dead_without_date", "patients", "death_day"): (1,)}
    died = read(tmp_path, PATIENT | {"deceasedDateTime": on(900)}, BASE[1])[0]
    assert row(died, "patients")["death_day"] == 900


# -- relapses, treatments, scans, consent


def test_a_relapse_keeps_what_is_said_of_it(tmp_path: Path) -> None:
    more = {
        "severity": concept(SNOMED, "6736007"),
        "asserter": {"reference": "Practitioner/9"},
        "bodySite": [concept(OWN + "fs_affected", "sensory"), concept(OWN + "fs_affected", "visual")],
    }
    steroid = observation(
        "s", item("relapses", "steroid"), valueCodeableConcept=concept(SNOMED, "373066001"), focus=[{"reference": "Condition/a"}]
    )
    found = row(read(tmp_path, *BASE, steroid, relapse("a", onsetDateTime=on(40), **more))[0], "relapses")
    assert {
        "severity": "moderate",
        "confirmed": "physician",
        "fs_affected": "sensory|visual",
        "steroid": 1,
        "onset_day": 40,
    }.items() <= found.items()
    told = read(tmp_path, *BASE, steroid)[1]
    assert told == {("no_row_to_belong_to", "relapses", ""): (3,)}


def test_a_relapse_or_therapy_that_is_stated_again_is_one_row(tmp_path: Path) -> None:
    again = (
        relapse("a", onsetDateTime=on(40)),
        relapse("b", onsetDateTime=on(40), abatementDateTime=on(60), severity=concept(SNOMED, "6736007")),
    )
    therapies = (statement("s"), statement("t", effectivePeriod={"start": on(10), "end": on(99)}))
    imported, told = read(tmp_path, *BASE, *again, *therapies)
    assert told == {}
    assert {"onset_day": 40, "end_day": 60, "severity": "moderate"}.items() <= row(imported, "relapses").items()
    assert [len(imported.tables[name]) for name in ("relapses", "treatments")] == [1, 1]
    assert row(imported, "treatments")["end_day"] == 100
    visits = [statement(f"v{day}", effectivePeriod=None, effectiveDateTime=on(day)) for day in (10, 190, 370)]
    ended = statement("e", effectivePeriod={"start": on(370), "end": on(499)})
    later = statement("l", effectivePeriod={"start": on(500)})
    found = read(tmp_path, *BASE, *visits, ended, later)[0].tables["treatments"]
    assert found[["start_day", "end_day"]].astype(object).where(found.notna(), None).values.tolist() == [[10, 500], [500, None]]
    imported, told = read(tmp_path, *BASE, *again, relapse("c", onsetDateTime=on(40), abatementDateTime=on(70)))
    assert told == {("two_values", "relapses", "end_day"): (4, 5)}
    assert "end_day" not in row(imported, "relapses")


def test_an_end_of_a_therapy_is_the_last_day_in_fhir_and_the_day_after_in_the_contract(tmp_path: Path) -> None:
    found = row(read(tmp_path, *BASE, statement("a", effectivePeriod={"start": on(10), "end": on(99)}))[0], "treatments")
    assert {"drug": "natalizumab", "atc": "L04AA23", "dmt_class": "high", "start_day": 10, "end_day": 100}.items() <= found.items()


@pytest.mark.parametrize(
    "drug",
    [
        {
            "medicationReference": {"reference": "#m"},
            "contained": [{"resourceType": "Medication", "id": "m", "code": concept(ATC, "L04AA23")}],
        },
        {"medicationReference": {"reference": "Medication/m"}},
        {"medicationReference": {"reference": f"{SERVER}/Medication/m"}},
    ],
)
def test_a_drug_may_be_contained_or_referred_to(tmp_path: Path, drug: Resource) -> None:
    own = {"resourceType": "Medication", "id": "m", "code": concept(ATC, "L04AG03")}
    found = statement("a", **drug)
    del found["medicationCodeableConcept"]
    imported, _ = read(tmp_path, *BASE, found, own)
    assert row(imported, "treatments")["drug"] == "natalizumab"


def test_a_drug_in_free_text_is_for_review(tmp_path: Path) -> None:
    free = {"text": "Tysabri secret"}
    imported, told = read(
        tmp_path, *BASE, statement("a", medicationCodeableConcept=free), statement("b", medicationCodeableConcept=free)
    )
    assert told == {("drug_without_code", "treatments", "drug"): (3, 4)}
    assert [(each.kind, each.source, each.text, each.times) for each in imported.review] == [
        ("drug", "MedicationStatement", "Tysabri secret", 2)
    ]
    assert [each.suggestion for each in imported.review] in (["natalizumab"], [""])


def test_codes_of_two_drugs_are_a_problem(tmp_path: Path) -> None:
    told = read(tmp_path, *BASE, statement("a", medicationCodeableConcept=concept(ATC, "L04AA23", "L04AA36")))[1]
    assert told == {("two_drugs", "treatments", "drug"): (3,)}


def test_not_taken_counts_only_for_no_therapy(tmp_path: Path) -> None:
    none = statement("a", medicationCodeableConcept=concept(OWN + "drug", "none")) | {"status": "not-taken"}
    imported, told = read(tmp_path, *BASE, none, statement("b") | {"status": "not-taken"})
    assert list(imported.tables["treatments"]["drug"]) == ["none"]
    assert told == {("status", "treatments", "drug"): (4,)}


def test_infusions_are_one_course_until_the_gap_is_too_long(tmp_path: Path) -> None:
    doses = [dose(f"d{day}", day) for day in (0, 14, 196, 378, 2000)]
    imported, told = read(tmp_path, *BASE, *doses, edss("last", 3, on(2100)))
    assert told == {}
    rows = imported.tables["treatments"]
    assert rows[["start_day", "end_day", "interval_d", "dose_mg"]].astype(object).where(rows.notna(), None).values.tolist() == [
        [0, 560, 182.0, 600.0],
        [2000, None, None, 600.0],
    ]


def test_an_infusion_within_a_stated_therapy_is_part_of_it(tmp_path: Path) -> None:
    imported, told = read(tmp_path, *BASE, statement("a"), dose("d", 38, "L04AG03"), dose("e", 3, "L04AG03"))
    assert told == {("part_of_stated_treatment", "treatments", ""): (4,)}
    assert list(imported.tables["treatments"]["start_day"]) == [3, 10]


def test_scans_are_linked_to_studies_scanners_and_programs(tmp_path: Path) -> None:
    scanner = {
        "resourceType": "Device",
        "id": "s",
        "manufacturer": "SIEMENS",
        "identifier": [{"value": "mr-2"}],
        "property": [{"type": item("mri", "field_t"), "valueQuantity": [quantity(3, "T")]}],
    }
    tool = {"resourceType": "Device", "id": "t", "deviceName": [{"name": "lst"}], "version": [{"value": "3.0"}]}
    series = [
        {
            "uid": "1",
            "modality": {"code": "MR"},
            "bodySite": {"system": SNOMED, "code": "12738006"},
            "performer": [{"actor": {"reference": "Device/s"}}],
        }
    ]
    study = {
        "resourceType": "ImagingStudy",
        "id": "i",
        "status": "available",
        "subject": SUBJECT,
        "started": on(3),
        "series": series,
    }
    volume = observation(
        "o",
        item("mri", "t2_vol_ml"),
        valueQuantity=quantity(1500, "mm3"),
        effectiveDateTime=on(9),
        partOf=[{"reference": f"{SERVER}/ImagingStudy/i"}],
        device={"reference": "Device/t"},
    )
    found, told = read(tmp_path, *BASE, scanner, tool, volume, study)
    assert told == {}
    assert row(found, "mri") == {
        "patient_id": pseudonym("secret1", KEY),
        "day": 3,
        "scan_id": pseudonym("i", KEY),
        "region": "brain",
        "field_t": 3.0,
        "vendor": "siemens",
        "scanner_id": "mr-2",
        "tool": "lst",
        "tool_version": "3.0",
        "t2_vol_ml": 1.5,
        "source": "rwd",
    }


def test_measures_without_a_study_are_a_scan_of_their_day_and_scanner(tmp_path: Path) -> None:
    scanner = {"resourceType": "Device", "id": "s", "manufacturer": "Philips"}
    here = {"effectiveDateTime": on(3), "device": {"reference": "Device/s"}}
    area = observation("a", item("mri", "cord_csa_mm2"), valueQuantity=quantity(80, "mm2"), **here)
    new = observation("b", item("mri", "new_t2"), valueInteger=2, **here)
    found, told = read(tmp_path, *BASE, scanner, area, new)
    assert told == {}
    assert {"day": 3, "scan_id": "s3", "region": "both", "vendor": "philips", "new_t2": 2}.items() <= row(found, "mri").items()


def consent(number: str, status: str, day: str, **more: Any) -> Resource:
    given: Resource = {"provision": {"type": "permit", "code": [concept(OWN + "consent_scope", "routine")]}} | more
    return {"resourceType": "Consent", "id": number, "status": status, "patient": SUBJECT, "dateTime": day, **given}


def test_the_newest_consent_counts_and_a_withdrawal_is_one(tmp_path: Path) -> None:
    given, replaced, back = consent("a", "active", on(20)), consent("b", "inactive", on(0)), consent("c", "inactive", on(30))
    for resources, scope in (((given, replaced), "routine"), ((given, back), "withdrawn"), ((back, given, replaced), "withdrawn")):
        imported, told = read(tmp_path, *BASE, *resources)
        assert row(imported, "patients")["consent_scope"] == scope
        assert {each[0] for each in told} == {"superseded"}
    exceptions = {"type": "deny", "provision": [{"type": "permit", "code": [concept(OWN + "consent_scope", "imaging")]}]}
    assert (
        row(read(tmp_path, *BASE, consent("a", "active", on(1), provision=exceptions))[0], "patients")["consent_scope"] == "imaging"
    )
    assert (
        row(
            read(
                tmp_path,
                *BASE,
                consent("a", "active", on(1), provision={"type": "deny"}, category=[concept(OWN + "consent_scope", "routine")]),
            )[0],
            "patients",
        )["consent_scope"]
        == "withdrawn"
    )


# -- files, crosswalk


def test_a_truncated_bundle_and_a_truncated_line_are_refused(tmp_path: Path) -> None:
    whole = write_bundle(tmp_path / "b.json", list(BASE)).read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 40):
        (tmp_path / "t.json").write_bytes(whole[:length])
        with pytest.raises(ImportRefused, match="not valid JSON"):
            read_fhir(tmp_path / "t.json", KEY)
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "Patient.ndjson").write_text(json.dumps(PATIENT)[:-5])
    with pytest.raises(ImportRefused, match="line 1") as caught:
        read_fhir(tmp_path / "n", KEY)
    assert not SECRET.search(str(caught.value))


def test_a_hospitals_own_codes_are_understood_with_its_crosswalk(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    header = "table,column,value,fhir_system,fhir_code,omop_concept_id,omop_source_value,unit,certainty,note"
    own.write_text(f"{header}\nvisits,t25fw_s,,urn:lab,T25,,,s,local,seconds by our form\n")
    walk = observation("w", concept("urn:lab", "T25"), effectiveDateTime=on(0), valueInteger=5)
    assert read(tmp_path, *BASE, walk)[1] == {("code_not_in_crosswalk", "", ""): (3,)}
    imported, told = read(tmp_path, *BASE, walk, crosswalk=own)
    assert told == {}
    assert row(imported, "visits")["t25fw_s"] == 5.0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("oct,x,,s,c,,,,,", "its table is none"),
        ("visits,secret,,s,c,,,,,", "no such column"),
        ("visits,edss,,,c,,,,,", "without its system"),
        ("visits,phenotype,XX,s,c,,,,,", "no code of"),
        ("visits,edss,3,s,c,,,,,", "value must be empty"),
        ("visits,edss,,,,,,,,", "names no code"),
        ("visits,edss,,,,0,,,,", "above 0"),
        ("visits,edss,,s,c", "5 cells"),
        ("visits,edss,,s,c,,,,,\nvisits,sdmt_n,,s,c,,,,,", "something else"),
    ],
)
def test_a_wrong_crosswalk_is_refused_by_its_line(tmp_path: Path, line: str, told: str) -> None:
    own = tmp_path / "own.csv"
    header = "table,column,value,fhir_system,fhir_code,omop_concept_id,omop_source_value,unit,certainty,note"
    own.write_text(f"{header}\n{line}\n")
    with pytest.raises(ImportRefused, match=told) as caught:
        read_fhir(write_bundle(tmp_path / "b.json", list(BASE)), KEY, crosswalk=own)
    assert "line" in str(caught.value)


def test_a_short_key_and_an_unknown_way_of_recording_are_refused(tmp_path: Path) -> None:
    source = write_bundle(tmp_path / "b.json", list(BASE))
    with pytest.raises(ImportRefused, match="at least 16"):
        read_fhir(source, b"short")
    with pytest.raises(ImportRefused, match="rwd, trial"):
        read_fhir(source, KEY, recorded="guess")
    assert row(read_fhir(source, KEY, recorded="trial"), "visits")["source"] == "trial"


def test_names_stand_in_no_table_and_no_problem(tmp_path: Path) -> None:
    named = PATIENT | {"name": [{"family": "Musterfrau"}], "telecom": [{"value": "0123"}], "address": [{"city": "Secretville"}]}
    imported, _ = read(tmp_path, named, BASE[1], {"resourceType": "Observation", "id": "bad", "valueString": "Musterfrau"})
    everything = "".join(frame.to_csv() for frame in imported.tables.values()) + repr(imported.problems)
    assert not SECRET.search(everything)


def test_every_rule_says_what_to_do() -> None:
    assert all(remedy and action for action, remedy in RULES.values())


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["code", "coding", "value", "system", "reference", "start", "unit", "modality", "type", "identifier"]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(
        [
            "Patient",
            "Encounter",
            "Condition",
            "Consent",
            "Observation",
            "ImagingStudy",
            "Device",
            "Medication",
            "MedicationStatement",
            "MedicationAdministration",
            "Procedure",
        ]
    ),
    st.sampled_from(
        [
            "identifier",
            "code",
            "subject",
            "period",
            "component",
            "hasMember",
            "series",
            "dosage",
            "valueQuantity",
            "provision",
            "meta",
            "id",
            "contained",
            "status",
            "effectivePeriod",
            "birthDate",
            "property",
            "version",
        ]
    ),
)
def test_a_resource_of_any_shape_is_understood_or_left_out_and_never_crashes(
    tmp_path: Path, content: object, kind: str, name: str
) -> None:
    read(tmp_path, *BASE, {"resourceType": kind, "id": "odd", "code": item("visits", "edss"), "subject": SUBJECT, name: content})


READ_AND_MEASURE = """
import json, pathlib, re, sys
from tasks.importing.fhir import read_fhir
imported = read_fhir(pathlib.Path(sys.argv[1]), bytes(range(32)))
# Not getrusage, which counts the process that this one was forked from.
peak_mib = int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps([peak_mib, len(imported.tables["patients"]), len(imported.problems)]))
"""


@pytest.mark.slow
def test_1500_patients_are_read_within_the_memory_of_a_laptop(tmp_path: Path) -> None:
    """Measured (`scripts/bench import`): 1.4 GiB for a bundle of 158 MiB, 0.7 GiB for 134 MiB of NDJSON, never held whole."""
    made = hospital(1500, 5)
    resources = Export(made).resources
    sources = {write_bundle(tmp_path / "b.json", resources): 2500, write_ndjson(tmp_path / "n", resources): 1200}
    for source, most_mib in sources.items():
        command = [sys.executable, "-c", READ_AND_MEASURE, str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY, timeout=280)
        peak_mib, patients, problems = json.loads(done.stdout)
        assert (patients, problems) == (len(made.index), 0)
        assert peak_mib < most_mib


@cache
def small_export() -> str:
    return json.dumps(Export(hospital(3, 5)).resources)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_whatever_is_taken_out_of_an_export_every_resource_keeps_one_fate(tmp_path: Path, data: st.DataObject) -> None:
    resources = json.loads(small_export())
    for _ in range(data.draw(st.integers(1, 12))):
        at = data.draw(st.integers(0, len(resources) - 1))
        if data.draw(st.booleans()):
            del resources[at]
            continue
        name = data.draw(st.sampled_from(sorted(set(resources[at]) - {"resourceType"}) or ["id"]))
        resources[at][name] = data.draw(
            st.sampled_from([None, [], {}, "", "x", 7, "2015", "2015-05-05", {"reference": "Patient/none"}])
        )
    imported, book = read_with_book(write_bundle(tmp_path / "b.json", resources), KEY)
    conserved(imported, book)
    for name, frame in imported.tables.items():
        assert list(frame.columns) == list(CONTRACT.table(name).names)
        assert not frame.duplicated(list(CONTRACT.table(name).key)).any()


def test_nothing_in_between_shows_what_it_holds(tmp_path: Path) -> None:
    from tasks.importing.bookkeeping import Place
    from tasks.importing.dating import read_date
    from tasks.importing.drafts import Cell, Draft, Fact
    from tasks.importing.fhir_people import person

    place = Place("Patient", 1)
    shown = [Cell("secret", place), Draft("visits", "secret", "secret", "secret", [place], read_date("2015-03-20"))]
    shown += [Fact("visits", "secret", "secret", None, (("edss", "secret"),), place), person(PATIENT, read_crosswalk())]
    assert not SECRET.search(repr(shown))


def test_the_shipped_crosswalk_covers_every_code_of_the_core() -> None:
    words = read_crosswalk()
    for name in CORE:
        for column in CONTRACT.table(name).columns:
            if column.vocabulary:
                assert set(words.answers[name, column.name].values()) == set(column.vocabulary), column.name
    assert words.items[ITEM, "visits.edss"].column == "edss"


@pytest.mark.parametrize(("session", "kept"), [("m12", "m12"), ("20150320", None), ("ses-2015-03-20", None)])
def test_a_session_or_scanner_that_is_named_by_a_date_has_no_name(tmp_path: Path, session: str, kept: str | None) -> None:
    study = {
        "resourceType": "ImagingStudy",
        "id": "i",
        "status": "available",
        "subject": SUBJECT,
        "started": on(3),
        "modality": [{"code": "MR"}],
        "procedureCode": [concept(f"{OWN}region", "brain")],
        "identifier": [{"system": f"{OWN}bids_ses", "value": session}],
    }
    found, problems = read(tmp_path, *BASE, study)
    assert row(found, "mri").get("bids_ses") == kept
    assert (("date_in_text", "mri", "bids_ses") in problems) == (kept is None)


def test_a_number_that_no_computer_holds_is_no_value(tmp_path: Path) -> None:
    huge = edss("e1", 1, on(9))
    huge["valueQuantity"]["value"] = 10**400
    found, problems = read(tmp_path, *BASE, huge)
    assert found.tables["visits"]["edss"].tolist() == [2.0]
    assert ("no_value", "visits", "edss") in problems


@pytest.mark.parametrize(("days", "courses"), [(400, 1), (401, 2)])
def test_a_course_goes_on_up_to_the_drugs_longest_gap_and_no_day_longer(tmp_path: Path, days: int, courses: int) -> None:
    found, _ = read(tmp_path, *BASE, dose("d1", 0), dose("d2", days))
    assert found.tables["treatments"]["start_day"].tolist() == [0, days][:courses]


def test_a_kept_name_of_a_visit_is_not_kept_if_a_date_stands_in_it(tmp_path: Path) -> None:
    visits = [
        {"resourceType": "Encounter", "id": number, "status": "finished", "subject": SUBJECT, "period": {"start": on(day)}}
        for number, day in (("v1", 3), ("v20150323", 9))
    ]
    scores = [edss(f"x{n}", 3, on(day), encounter={"reference": f"Encounter/{n}"}) for n, day in (("v1", 3), ("v20150323", 9))]
    found, _ = read(tmp_path, *BASE, *visits, *scores, keep_ids=True)
    assert found.tables["visits"]["visit_id"].tolist() == ["d0", "v1", pseudonym("v20150323", KEY)]
