"""Every row and value that is not used as it stands is counted, listed by row, and never printed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.base import Cohort, Contract
from tasks.data import load_cohort
from tasks.errors import DataError, MappingError, TaskError
from tasks.report import ROWS_SHOWN, DataReport

MAPPING = (Path(__file__).parent / "toy_mapping.yaml").read_text(encoding="utf-8")
Hospital = Callable[..., Path]
HEADER = "nr,age,smokes,ward,event"


def findings(cohort: Cohort) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    return {finding.rule: (finding.column, finding.action, finding.rows) for finding in cohort.report.findings}


def test_a_clean_table_is_read_as_it_stands(contract: Contract, hospital: Hospital) -> None:
    cohort = load_cohort(hospital(HEADER, "p1,40,1,A,y", " p2 , 5.5 ,0,B,n"), contract)
    assert cohort.patient_ids == ("p1", "p2")
    np.testing.assert_array_equal(cohort.values, [[40, 1, 0], [5.5, 0, 1]])
    np.testing.assert_array_equal(cohort.labels, [1, 0])
    assert cohort.labels.dtype == np.int8
    assert cohort.report.findings == ()
    assert (cohort.report.rows_read, cohort.report.patients, cohort.report.label_counts) == (2, 2, (1, 1))


def test_empty_cells_are_missing_values_not_findings(contract: Contract, hospital: Hospital) -> None:
    cohort = load_cohort(hospital(HEADER, "p1,40,,,y"), contract)
    np.testing.assert_array_equal(cohort.values, [[40, np.nan, np.nan]])
    assert cohort.report.findings == ()
    assert [(column.present, column.missing) for column in cohort.report.columns] == [(1, 0), (0, 1), (0, 1)]


def test_each_rule_lists_its_rows(contract: Contract, hospital: Hospital) -> None:
    folder = hospital(
        HEADER,
        "p1,40,1,A,y",  # 2
        ",41,1,A,y",  # 3: no id
        "p3,42,1,A,",  # 4: no label
        "p4,43,1,A,maybe",  # 5: unknown label
        "p5,430,1,A,y",  # 6: out of range, and age is required
        "p6,44,n,A,n",  # 7: unknown code, the patient stays
        "p7,,1,A,n",  # 8: required value missing
        ",,,,",  # 9: blank
        "p8,45,1,A,n,extra",  # 10: too many cells
        "p9,4O,1,A,n",  # 11: letter O
        "p1,40,1,A,y",  # 12: the same row again
        "p10,46,1,A,n",  # 13
        "p10,47,1,A,n",  # 14: another patient with the same id
    )
    cohort = load_cohort(folder, contract)
    assert cohort.patient_ids == ("p1", "p6")
    assert np.isnan(cohort.values[1, 1])
    out = "row excluded"
    assert findings(cohort) == {
        "no patient id": ("patient id", out, (3,)),
        "no label": ("label", out, (4,)),
        "unknown label code": ("label", out, (5,)),
        "outside 0 to 100 years": ("age", out, (6,)),
        "unknown code": ("smoker", "value set missing", (7,)),
        "required value missing": ("age", out, (8,)),
        "blank row": ("row", out, (9,)),
        "more or fewer cells than the header": ("row", out, (10,)),
        "not a number": ("age", out, (11,)),
        "the same row again": ("patient id", out, (12,)),
        "different rows with one patient id": ("patient id", out, (13, 14)),
    }
    assert (cohort.report.rows_read, cohort.report.rows_excluded, cohort.report.values_set_missing) == (13, 11, 1)


def test_decimal_comma_months_semicolons_and_umlauts(contract: Contract, hospital: Hospital) -> None:
    mapping = (
        MAPPING.replace("{name: toy.csv}", "{name: toy.csv, encoding: cp1252, delimiter: ';', decimal: ','}")
        .replace("{from: age}", "{from: Alter in Monaten, unit: months, scale: 0.5}")
        .replace("{from: smokes}", "{from: Tägliches Rauchen, codes: {nein: 0, ja: 1}, missing: [weiß nicht]}")
    )
    folder = hospital(
        "nr;Alter in Monaten;Tägliches Rauchen;ward;event", "1;60,5;ja;A;y", "2;60.5;weiß nicht;B;n", "3;60;nein;B;n",
        mapping=mapping, encoding="cp1252",
    )  # fmt: skip
    cohort = load_cohort(folder, contract)
    np.testing.assert_array_equal(cohort.values, [[30.25, 1, 0], [30, 0, 1]])
    assert findings(cohort)["not a number"] == ("age", "row excluded", (3,))


def test_zero_that_means_missing_is_missing_however_it_is_written(contract: Contract, hospital: Hospital) -> None:
    mapping = MAPPING.replace("{from: age}", "{from: age, missing: [0]}")
    cohort = load_cohort(hospital(HEADER, "1,0,1,A,y", "2,0.0,1,A,y", "3,5,1,A,y", mapping=mapping), contract)
    assert cohort.patient_ids == ("3",)
    assert findings(cohort)["required value missing"][2] == (2, 3)


def test_a_byte_order_mark_is_no_part_of_the_first_name(contract: Contract, hospital: Hospital) -> None:
    assert load_cohort(hospital(HEADER, "1,5,1,A,y", encoding="utf-8-sig"), contract).size == 1


def test_a_column_of_which_no_cell_fits_is_a_wrong_mapping(contract: Contract, hospital: Hospital) -> None:
    with pytest.raises(DataError, match=r"no cell of 'smokes' fits .*unknown code, 2 rows"):
        load_cohort(hospital(HEADER, "1,40,yes,A,y", "2,41,no,A,n"), contract)


@pytest.mark.parametrize(
    ("header", "words"),
    [("nr,age,smokes,clinic,event", "no column 'ward'"), ("nr,age,smokes,ward,event,age", "two columns called 'age'")],
)
def test_a_header_that_does_not_fit_is_refused(contract: Contract, hospital: Hospital, header: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_cohort(hospital(header, "1,40,1,A,y"), contract)


def test_no_patient_left_is_an_error_that_says_why(contract: Contract, hospital: Hospital) -> None:
    with pytest.raises(DataError, match=r"no patient is left of 2 rows: no patient id \(patient id\): 1; no label"):
        load_cohort(hospital(HEADER, ",40,1,A,y", "2,41,1,A,"), contract)


def test_an_empty_an_absent_and_a_broken_table_are_named(contract: Contract, hospital: Hospital) -> None:
    folder = hospital(HEADER, "1,40,1,A,y")
    (folder / "toy.csv").write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        load_cohort(folder, contract)
    (folder / "toy.csv").write_bytes(HEADER.encode() + b"\n1,40,\xff,A,y\n")
    with pytest.raises(DataError, match="not written in utf-8"):
        load_cohort(folder, contract)
    (folder / "toy.csv").write_text(HEADER + '\n1,40,1,"A"x,y\n')
    with pytest.raises(DataError, match="no table with delimiter"):
        load_cohort(folder, contract)
    (folder / "toy.csv").unlink()
    with pytest.raises(DataError, match="not found"):
        load_cohort(folder, contract)


def test_patients_do_not_show_in_the_repr(contract: Contract, hospital: Hospital) -> None:
    cohort = load_cohort(hospital(HEADER, "CANARY,41.25,1,A,y"), contract)
    assert "CANARY" not in repr(cohort)
    assert "41.25" not in repr(cohort)


CANARY = "Zq7canary"


@pytest.mark.parametrize("position", range(5))
def test_no_cell_content_shows_in_a_report_or_an_error(contract: Contract, hospital: Hospital, position: int) -> None:
    cells = ["1", "40", "1", "A", "y"]
    cells[position] = CANARY
    for rows in (["2,40,0,B,n", ",".join(cells), ",".join([*cells[:-1], "n"])], [",".join(cells)]):
        try:
            report = load_cohort(hospital(HEADER, *rows), contract).report
        except TaskError as error:
            chain = f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"
            assert CANARY not in chain
        else:
            assert CANARY not in report.to_text() + json.dumps(report.to_dict()) + repr(report)


def test_the_report_as_json_has_the_same_numbers_as_the_page(contract: Contract, hospital: Hospital) -> None:
    rows = [f"{number},40,n,A,y" for number in range(30)]
    report = load_cohort(hospital(HEADER, "p,40,1,B,n", *rows, ",,,,"), contract).report
    found = json.loads(json.dumps(report.to_dict()))
    assert (found["patients"], found["rows_read"], found["label"]) == (31, 32, {"name": "event", "0": 1, "1": 30})
    assert found["findings"][1]["count"] == len(found["findings"][1]["rows"]) == 30
    page = report.to_text()
    assert "31 patients kept" in page
    assert f"and {30 - ROWS_SHOWN} more" in page


def test_unread_and_withheld_columns_are_listed(contract: Contract, hospital: Hospital) -> None:
    mapping = MAPPING + "ignored: {shoe: not in the contract}\n"
    report = load_cohort(hospital(HEADER + ",shoe,hat", "1,40,1,A,y,42,7", mapping=mapping), contract).report
    assert report.not_read == ("hat",)
    assert report.withheld == (("shoe", "not in the contract"),)


def both_classes(cells: Callable[[bool], str], patients: int = 40) -> list[str]:
    return [f"{n},{20 + n},{n // 2 % 2},A,{'ny'[n % 2]},{cells(bool(n % 2))}" for n in range(patients)]


def test_an_input_filled_in_for_one_class_only_is_refused(contract: Contract, hospital: Hospital) -> None:
    mapping = MAPPING.replace("{from: smokes}", "{from: score, codes: {7: 1, 8: 0}}")
    with pytest.raises(MappingError, match=r"'score' may not be an input: whether it is filled in at all"):
        load_cohort(hospital(HEADER + ",score", *both_classes(lambda y: "7" if y else ""), mapping=mapping), contract)


def test_an_input_whose_value_is_the_label_is_refused(contract: Contract, hospital: Hospital) -> None:
    mapping = MAPPING.replace("{from: smokes}", "{from: score}")
    with pytest.raises(MappingError, match=r"'score' may not be an input: its value alone"):
        load_cohort(hospital(HEADER + ",score", *both_classes(lambda y: str(int(y))), mapping=mapping), contract)


def test_an_unread_column_that_gives_the_label_away_is_a_suspect(contract: Contract, hospital: Hospital) -> None:
    folder = hospital(HEADER + ",score", *both_classes(lambda y: "7" if y else ""))
    report = load_cohort(folder, contract).report
    assert report.suspects == ("score",)
    assert "SUSPECT   score" in report.to_text()


def test_a_site_with_one_class_is_told_that_the_check_was_impossible(contract: Contract, hospital: Hospital) -> None:
    report = load_cohort(hospital(HEADER, "1,40,1,A,y"), contract).report
    assert "not possible" in report.leak_check


cell = st.text(alphabet="0159.,-AByn ", max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from("1234"), cell, cell, cell, st.sampled_from(["y", "n", "", "?"])), max_size=12))
def test_any_table_gives_a_lawful_cohort_or_a_task_error(
    contract: Contract, hospital: Hospital, rows: list[tuple[str, ...]]
) -> None:
    quoted = [",".join(f'"{text}"' for text in row) for row in rows]
    try:
        cohort = load_cohort(hospital(HEADER, *quoted), contract)
    except TaskError:
        return
    report: DataReport = cohort.report
    assert len(set(cohort.patient_ids)) == cohort.size == report.patients > 0
    assert report.rows_read == len(rows)
    listed = {row for finding in report.findings if finding.action == "row excluded" for row in finding.rows}
    assert len(listed) == report.rows_excluded
    age, smoker, clinic = cohort.values.T
    assert np.all((age >= 0) & (age <= 100))
    assert set(smoker[~np.isnan(smoker)]) <= {0.0, 1.0}
    assert set(clinic[~np.isnan(clinic)]) <= {0.0, 1.0, 2.0}
    assert set(cohort.labels) <= {0, 1}
