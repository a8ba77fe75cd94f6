"""OMOP CDM tables give back what they were made from; whatever is wrong in one is found at its row, and nothing is lost."""

import re
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
from tasks.importing.bookkeeping import Book
from tasks.importing.dating import pseudonym
from tasks.importing.errors import ImportRefused
from tasks.importing.omop import read_omop, read_with_book
from tasks.importing.writing import write_contract
from tasks.ms.contract import CONTRACT
from tasks.ms.validate import validate_folder
from tasks.simulator.writer import encoded
from tests.shared.core_tables import CORE, Hospital, hospital, texts
from tests.shared.omop_tables import HEADERS, Database, numbered, write_csv, write_parquet

KEY = bytes(range(32))
INDEX = date(2015, 3, 20)
SECRET = re.compile(r"secret|2015-|2016-", re.IGNORECASE)
Rows = dict[str, list[dict[str, Any]]]


@cache
def simulated() -> tuple[Hospital, Database]:
    made = numbered(hospital(210, 11))
    return made, Database(made)


@cache
def small_database() -> Rows:
    return Database(numbered(hospital(3, 5))).tables


def conserved(imported: Imported, book: Book) -> None:
    """Every row has one fate; each that was left out is in a problem that says why, at its number."""
    assert Counter(place.source for place in book.fates) == imported.read
    told = {(each.source, each.rule, row) for each in imported.problems for row in each.rows}
    for place, fate in book.fates.items():
        assert not fate or (place.source, fate, place.number) in told
    assert "unaccounted" not in set(book.fates.values())
    assert book.used + sum(1 for fate in book.fates.values() if fate) == sum(imported.read.values())


def on(days: int) -> str:
    return (INDEX + timedelta(days=days)).isoformat()


def base() -> Rows:
    """One patient with one EDSS at day 0."""
    tables: Rows = {name: [] for name in HEADERS}
    tables["person"] = [{"person_id": 1, "gender_concept_id": 8532, "year_of_birth": 1980, "person_source_value": "secret1"}]
    tables["measurement"] = [measured("visits.edss", 2, 0)]
    return tables


def measured(source: str, value: object, day: int, **more: object) -> dict[str, Any]:
    return {
        "measurement_id": 1,
        "person_id": 1,
        "measurement_concept_id": 0,
        "measurement_date": on(day),
        "value_as_number": value,
        "measurement_source_value": source,
        **more,
    }


def exposed(number: int, start: int, end: int | None, source: str = "L04AG08", **more: object) -> dict[str, Any]:
    last = "" if end is None else on(end)
    return {
        "drug_exposure_id": number,
        "person_id": 1,
        "drug_concept_id": 0,
        "drug_exposure_start_date": on(start),
        "drug_exposure_end_date": last,
        "drug_source_value": source,
        **more,
    }


def read(tmp_path: Path, tables: Rows, **more: Any) -> tuple[Imported, dict[tuple[str, str, str, str], tuple[int, ...]]]:
    """What the tables give, and source, rule, table and column of each problem -> rows."""
    imported, book = read_with_book(write_csv(tmp_path / "omop", tables), KEY, **more)
    conserved(imported, book)
    assert not SECRET.search(repr(imported)), "no content may be shown"
    return imported, {(each.source, each.rule, each.table, each.column): each.rows for each in imported.problems}


def row(imported: Imported, table: str, number: int = 0) -> dict[str, Any]:
    return {name: value for name, value in imported.tables[table].iloc[number].items() if not pd.isna(value)}


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_simulated_hospital_comes_back_exactly(tmp_path: Path, write: Any) -> None:
    made, database = simulated()
    assert len(made.index) >= 200
    imported, book = read_with_book(write(tmp_path / "omop", database.tables), KEY)
    conserved(imported, book)
    assert imported.problems == ()
    assert imported.read == {name: len(rows) for name, rows in database.tables.items() if rows}
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
    made = numbered(hospital(12, 3))
    imported = read_omop(write_csv(tmp_path, Database(made).tables), KEY, keep_ids=True)
    for name in CORE:
        pd.testing.assert_frame_equal(texts(imported.tables[name], name), texts(made.tables[name], name))
        assert not re.search(r"(19|20)\d\d-[01]\d", encoded(imported.tables[name], "csv").decode())


def test_sex_year_and_diagnosis_come_from_their_tables(tmp_path: Path) -> None:
    tables = base()
    tables["person"].append({"person_id": 2, "gender_concept_id": 8507, "year_of_birth": 1970, "person_source_value": "secret2"})
    tables["condition_occurrence"] = [
        {"condition_occurrence_id": 1, "person_id": 2, "condition_concept_id": 374919, "condition_start_date": on(5)}
    ]
    imported, told = read(tmp_path, tables)
    assert told == {}
    assert [row(imported, "patients", n)["sex"] for n in (0, 1)] == ["F", "M"]
    assert row(imported, "patients", 1) == {
        "patient_id": pseudonym("secret2", KEY),
        "sex": "M",
        "birth_year": 1970,
        "diagnosis_day": 0,
        "year_band": "2013-2015",
        "source": "rwd",
    }


@pytest.mark.parametrize(
    ("row_of_measurement", "told"),
    [
        (measured("visits.t25fw_s", 5, 0), ("unit", "visits", "t25fw_s")),
        (measured("visits.t25fw_s", 5, 0, unit_source_value="sec"), ("unit", "visits", "t25fw_s")),
        (measured("visits.t25fw_s", "", 0, unit_source_value="s"), ("no_value", "visits", "t25fw_s")),
        (measured("visits.t25fw_s", 5, 0, unit_source_value="s", operator_concept_id=4172704), ("comparator", "visits", "t25fw_s")),
        (measured("visits.sdmt_n", 4.5, 0), ("not_whole", "visits", "sdmt_n")),
        (measured("visits.sdmt_n", "4,5", 0), ("not_a_number", "visits", "sdmt_n")),
        (measured("visits.phenotype", "", 0, value_source_value="secret"), ("answer_not_in_crosswalk", "visits", "phenotype")),
        (measured("visits.sdmt_n", 50, 0, person_id=9), ("unknown_patient", "", "")),
        (measured("glucose", 50, 0), ("code_not_in_crosswalk", "", "")),
        (measured("visits.sdmt_n", 50, 0, measurement_date=""), ("no_date", "visits", "")),
        (measured("visits.sdmt_n", 50, 0, measurement_date="2016"), ("date_too_coarse", "visits", "day")),
        (measured("relapses.steroid", 1, 0, measurement_event_id=77), ("no_row_to_belong_to", "relapses", "")),
        (measured("visits.sdmt_n", 50, 0, measurement_concept_id=3036277), ("two_items", "", "")),
    ],
)
def test_what_is_wrong_with_a_measurement_is_told_at_its_row(
    tmp_path: Path, row_of_measurement: dict[str, Any], told: tuple[str, str, str]
) -> None:
    tables = base()
    tables["measurement"].append(row_of_measurement)
    imported, found = read(tmp_path, tables)
    assert found == {("measurement", *told): (3,)}
    assert row(imported, "visits") == {
        "patient_id": pseudonym("secret1", KEY),
        "day": 0,
        "visit_id": "d0",
        "edss": 2.0,
        "source": "rwd",
    }


def test_a_measurement_is_linked_by_its_visit_and_else_by_its_day(tmp_path: Path) -> None:
    tables = base()
    tables["visit_occurrence"] = [
        {"visit_occurrence_id": 7, "person_id": 1, "visit_start_date": on(30), "visit_source_value": "annual"},
        {"visit_occurrence_id": 8, "person_id": 1, "visit_start_date": on(40), "visit_source_value": "emergency"},
    ]
    tables["measurement"] += [
        measured("visits.edss", 3, 30, visit_occurrence_id="7.0"),
        measured("visits.sdmt_n", 50, 30),
        measured("visits.pasat3_n", 40, 33, visit_occurrence_id=7),
    ]
    imported, told = read(tmp_path, tables)
    assert told == {("visit_occurrence", "no_visit", "visits", ""): (3,)}
    assert [
        (each["day"], each.get("edss"), each.get("sdmt_n"), each.get("pasat3_n"))
        for each in (row(imported, "visits", n) for n in range(3))
    ] == [
        (0, 2.0, None, None),
        (30, 3.0, 50, None),
        (33, None, None, 40),
    ]
    assert row(imported, "visits", 1)["visit_type"] == "annual"


def test_two_edss_of_one_day_leave_none_and_equal_ones_leave_one(tmp_path: Path) -> None:
    for second, left in ((3, [2.0]), (4, [2.0, 4.0])):
        tables = base()
        tables["measurement"] += [measured("visits.edss", 4, 9), measured("visits.edss", second, 9)]
        imported, told = read(tmp_path, tables)
        assert list(imported.tables["visits"]["edss"].dropna()) == left
        assert told == {
            ("measurement", "two_values" if second == 3 else "repeated", "visits", "edss"): (3, 4) if second == 3 else (4,)
        }


def test_dispensed_months_are_one_therapy_and_a_reason_to_stop_ends_it(tmp_path: Path) -> None:
    tables = base()
    months = [exposed(number, 30 * number, 30 * number + 27, "L04AE01") for number in range(5)]
    months[2]["stop_reason"] = "adverse"
    tables["drug_exposure"] = months
    imported, told = read(tmp_path, tables)
    assert told == {}
    rows = imported.tables["treatments"]
    assert [tuple(each) for each in rows[["drug", "start_day", "end_day", "interval_d"]].values] == [
        ("fingolimod", 0, 88, 30.0),
        ("fingolimod", 90, 148, 30.0),
    ]
    assert list(rows["reason_stop"].fillna("")) == ["adverse", ""]


def test_single_doses_are_a_course_and_an_open_end_is_open(tmp_path: Path) -> None:
    tables = base()
    tables["drug_exposure"] = [exposed(number, day, day) for number, day in enumerate((0, 182, 364))]
    imported, _ = read(tmp_path, tables)
    assert {"start_day": 0, "interval_d": 182.0}.items() <= row(imported, "treatments").items()
    assert "end_day" not in row(imported, "treatments")
    tables["drug_exposure"] = [exposed(1, 0, None), exposed(2, 900, 30000 - 16514)]  # until 2052, then to 9999
    tables["drug_exposure"][1]["drug_exposure_end_date"] = "9999-12-31"
    assert imported.tables["treatments"].shape[0] == 1
    found = read(tmp_path, tables)[0].tables["treatments"]
    assert list(found["start_day"]) == [0]  # what goes on is continued by whatever comes later
    assert found["end_day"].isna().all()


def test_verbatim_ends_decide_where_they_are_used(tmp_path: Path) -> None:
    tables = base()
    tables["drug_exposure"] = [
        exposed(1, 0, 99, "L03AB07", verbatim_end_date=on(99)),
        exposed(2, 400, 500, "L04AA23", verbatim_end_date=""),
    ]
    assert [row(read(tmp_path, tables)[0], "treatments", n).get("end_day") for n in (0, 1)] == [100, None]
    tables["drug_exposure"][0]["verbatim_end_date"] = ""
    assert [row(read(tmp_path, tables)[0], "treatments", n).get("end_day") for n in (0, 1)] == [100, 501]


@pytest.mark.parametrize(
    ("source", "concept", "rule", "texts_for_review"),
    [
        ("Secretimab 300", 0, "drug_without_code", ["Secretimab 300"]),
        ("N02BE01", 0, "not_a_core_drug", []),
        ("paracetamol", 1125315, "not_a_core_drug", []),
        ("", 0, "drug_without_code", []),
    ],
)
def test_a_drug_without_a_code_is_for_review(
    tmp_path: Path, source: str, concept: int, rule: str, texts_for_review: list[str]
) -> None:
    tables = base()
    tables["drug_exposure"] = [exposed(1, 0, 9, source, drug_concept_id=concept)]
    imported, told = read(tmp_path, tables)
    assert told == {("drug_exposure", rule, "treatments", "drug"): (2,)}
    assert [each.text for each in imported.review] == texts_for_review
    assert "treatments" not in imported.tables


def test_relapses_and_scans_gather_what_refers_to_them(tmp_path: Path) -> None:
    tables = base()
    tables["condition_occurrence"] = [
        {
            "condition_occurrence_id": 5,
            "person_id": 1,
            "condition_concept_id": 0,
            "condition_start_date": on(20),
            "condition_end_date": on(40),
            "condition_source_value": "relapses.onset_day",
        },
    ]
    tables["procedure_occurrence"] = [
        {
            "procedure_occurrence_id": 6,
            "person_id": 1,
            "procedure_concept_id": 0,
            "procedure_date": on(50),
            "procedure_source_value": "mri.scan_id",
        }
    ]
    tables["measurement"] += [
        measured("relapses.steroid", 1, 20, measurement_event_id=5),
        measured("mri.t2_vol_ml", 1500, 51, measurement_event_id=6, unit_source_value="mm3"),
    ]
    tables["observation"] = [
        {
            "observation_id": 1,
            "person_id": 1,
            "observation_concept_id": 0,
            "observation_date": on(20),
            "value_as_string": "visual|sensory",
            "observation_source_value": "relapses.fs_affected",
            "observation_event_id": 5,
        },
        {
            "observation_id": 2,
            "person_id": 1,
            "observation_concept_id": 0,
            "observation_date": on(1),
            "value_as_string": "withdrawn",
            "observation_source_value": "patients.consent_scope",
        },
    ]
    imported, told = read(tmp_path, tables)
    assert told == {}
    assert {"onset_day": 20, "end_day": 40, "steroid": 1, "fs_affected": "visual|sensory"}.items() <= row(
        imported, "relapses"
    ).items()
    assert {"day": 50, "t2_vol_ml": 1.5, "region": "brain", "scan_id": pseudonym("6", KEY)}.items() <= row(imported, "mri").items()
    assert row(imported, "patients")["consent_scope"] == "withdrawn"
    for day in (-5, 300):  # a withdrawal counts whenever something else was agreed to
        agreed = {
            **tables["observation"][1],
            "observation_id": 3,
            "observation_date": on(day),
            "value_as_string": "routine|imaging",
        }
        found = read(tmp_path, {**tables, "observation": [*tables["observation"], agreed]})[0]
        assert row(found, "patients")["consent_scope"] == "withdrawn"


def test_a_value_of_a_patient_is_the_one_closest_to_the_index_date(tmp_path: Path) -> None:
    tables = base()
    tables["measurement"] += [
        measured("patients.weight_kg", 70, 400, unit_source_value="kg"),
        measured("patients.weight_kg", 150, -20, unit_source_value="[lb_av]"),
    ]
    imported, told = read(tmp_path, tables)
    assert row(imported, "patients")["weight_kg"] == pytest.approx(68.0388555)
    assert told == {("measurement", "not_closest", "patients", "weight_kg"): (3,)}


def test_persons_that_share_an_id_or_a_number_are_left_out_and_repeated_ones_once(tmp_path: Path) -> None:
    tables = base()
    tables["person"] += [
        dict(tables["person"][0]),
        {"person_id": 2, "gender_concept_id": 8507, "year_of_birth": "?", "person_source_value": "secret2"},
    ]
    imported, told = read(tmp_path, tables)
    assert told == {("person", "repeated", "", ""): (3,), ("person", "bad_date", "patients", "birth_year"): (4,)}
    assert len(imported.tables["patients"]) == 2
    tables["person"][2]["person_source_value"] = "secret1"
    imported, told = read(tmp_path, tables)
    assert told[("person", "two_patients_one_number", "", "")] == (2, 4)
    assert told[("measurement", "unknown_patient", "", "")] == (2,)
    assert imported.tables == {}


def test_a_relapse_within_a_month_of_uncertainty_is_kept_and_beyond_90_days_not(tmp_path: Path) -> None:
    tables = base()
    for number, days in enumerate((30, 120)):
        tables["condition_occurrence"].append(
            {
                "condition_occurrence_id": number,
                "person_id": 1,
                "condition_concept_id": 0,
                "condition_start_date": on(100 + 200 * number),
                "condition_source_value": "relapses.onset_day",
            }
        )
        tables["measurement"].append(
            measured("relapses.onset_precision_d", days, 0, measurement_event_id=number, unit_source_value="d")
        )
    imported, told = read(tmp_path, tables)
    assert list(imported.tables["relapses"]["onset_precision_d"]) == [30]
    assert told[("condition_occurrence", "date_too_coarse", "relapses", "onset_day")] == (3,)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dates(date(1990, 1, 1), date(2040, 1, 1)), st.sampled_from(["%Y-%m-%d", "%Y-%m-%d 00:00:00", "%Y-%m-%dT10:00:00"]))
def test_any_day_is_counted_from_the_first_edss(tmp_path: Path, day: date, form: str) -> None:
    tables = base()
    tables["condition_occurrence"] = [
        {
            "condition_occurrence_id": 5,
            "person_id": 1,
            "condition_concept_id": 0,
            "condition_start_date": day.strftime(form),
            "condition_source_value": "relapses.onset_day",
        }
    ]
    imported, told = read(tmp_path, tables)
    assert told == {}
    assert INDEX + timedelta(days=int(row(imported, "relapses")["onset_day"])) == day


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_whatever_stands_in_a_cell_every_row_keeps_one_fate(tmp_path: Path, data: st.DataObject) -> None:
    tables: Rows = {name: [dict(each) for each in rows] for name, rows in small_database().items()}
    for _ in range(data.draw(st.integers(1, 12))):
        name = data.draw(st.sampled_from([name for name, rows in tables.items() if rows]))
        at = data.draw(st.integers(0, len(tables[name]) - 1))
        column = data.draw(st.sampled_from(HEADERS[name]))
        tables[name][at][column] = data.draw(
            st.sampled_from(["", "x", "0", "1", "-3.5", "NaN", "1e400", "2015", "0000-00-00", "9999-12-31"])
        )
    imported, book = read_with_book(write_csv(tmp_path / "omop", tables), KEY)
    conserved(imported, book)
    for name, frame in imported.tables.items():
        assert list(frame.columns) == list(CONTRACT.table(name).names)
        assert not frame.duplicated(list(CONTRACT.table(name).key)).any()


# -- files


def test_a_truncated_table_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "c", base())
    whole = (tmp_path / "c" / "measurement.csv").read_bytes()
    for length in (len(whole) - 12, len(whole) - 30):
        (tmp_path / "c" / "measurement.csv").write_bytes(whole[:length])
        with pytest.raises(ImportRefused, match=r"measurement, row 2: .* cells, the header has 14") as caught:
            read_omop(tmp_path / "c", KEY)
        assert not SECRET.search(str(caught.value))
    (tmp_path / "c" / "measurement.csv").write_bytes(whole + b'1,"secret')
    with pytest.raises(ImportRefused, match="within a quoted cell"):
        read_omop(tmp_path / "c", KEY)
    write_parquet(tmp_path / "p", base())
    broken = tmp_path / "p" / "measurement.parquet"
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(ImportRefused, match="no whole Parquet file"):
        read_omop(tmp_path / "p", KEY)


def test_what_is_no_cdm_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="no such folder"):
        read_omop(tmp_path / "absent", KEY)
    with pytest.raises(ImportRefused, match=r"no person\.csv"):
        read_omop(tmp_path, KEY)
    write_csv(tmp_path, base())
    (tmp_path / "measurement.csv").write_text("secret1,2,3\n")
    with pytest.raises(ImportRefused, match="measurement lacks measurement_id, person_id") as caught:
        read_omop(tmp_path, KEY)
    assert not SECRET.search(str(caught.value))
    (tmp_path / "measurement.csv").write_bytes(b"measurement_id,person_id\xff\n")
    with pytest.raises(ImportRefused, match="not text in UTF-8"):
        read_omop(tmp_path, KEY)
    write_parquet(tmp_path, {"person": base()["person"]})
    with pytest.raises(ImportRefused, match="person lies in the folder 2 times"):
        read_omop(tmp_path, KEY)


def test_a_table_that_is_absent_is_told_and_tabs_and_nulls_are_read(tmp_path: Path) -> None:
    write_csv(tmp_path, base())
    (tmp_path / "drug_exposure.csv").unlink()
    path = tmp_path / "measurement.csv"
    path.write_text(path.read_text().replace(",,", ",\\N,").replace(",", "\t"))
    imported, book = read_with_book(tmp_path, KEY)
    conserved(imported, book)
    assert [(each.source, each.rule, each.rows) for each in imported.problems] == [("drug_exposure", "table_absent", ())]
    assert row(imported, "visits")["edss"] == 2.0


def test_a_hospitals_own_concepts_are_understood_with_its_crosswalk(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    header = "table,column,value,fhir_system,fhir_code,omop_concept_id,omop_source_value,unit,certainty,note"
    own.write_text(f"{header}\nvisits,sdmt_n,,,,2000000001,,count,local,\nvisits,phenotype,RRMS,,,2000000002,,,local,\n")
    tables = base()
    tables["measurement"] += [
        measured("", 50, 0, measurement_concept_id=2000000001),
        measured("visits.phenotype", "", 0, value_as_concept_id=2000000002),
    ]
    assert {each[1] for each in read(tmp_path, tables)[1]} == {"code_not_in_crosswalk", "answer_not_in_crosswalk"}
    imported, told = read(tmp_path, tables, crosswalk=own)
    assert told == {}
    assert {"sdmt_n": 50, "phenotype": "RRMS"}.items() <= row(imported, "visits").items()
