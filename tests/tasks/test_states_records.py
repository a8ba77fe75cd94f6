"""From tables to rows: what was seen in each 12-week step, by hand; and rows to sequences."""

import numpy as np
import pandas as pd
import pytest

from tasks.errors import ContractError, DataError
from tasks.states.frame import Frame
from tasks.states.measures import NAMES
from tasks.states.records import rows_of
from tasks.states.sequences import AGE, DMT, FIRST_MEASURE, MOST_STEPS, NO_STRATUM, STEP, WIDTH, sequences_of
from tests.shared.states_rows import ALL

AT = {name: FIRST_MEASURE + place for place, name in enumerate(NAMES)}


def tables() -> dict[str, pd.DataFrame]:
    return {
        "patients": pd.DataFrame({"patient_id": ["b", "a"], "birth_year": [1980, 1970], "year_band": ["2010-2012", "2010-2012"]}),
        "visits": pd.DataFrame(
            {
                "patient_id": ["a", "a", "a", "a", "b", "b"],
                "day": [0, 83, 84, 500, 0, 100],
                "edss": [2.0, 2.5, np.nan, 3.0, 1.0, 1.5],
                "sdmt_n": [50, np.nan, 48, np.nan, 60, 61],
            }
        ),
        "relapses": pd.DataFrame({"patient_id": ["a", "a"], "onset_day": [-30, 250]}),
        "treatments": pd.DataFrame(
            {
                "patient_id": ["a", "a", "a"], "start_day": [0, 80, 400], "end_day": [80.0, np.nan, np.nan],
                "drug": ["glatiramer", "natalizumab", "washout"], "dmt_class": ["platform", "high", "other"],
            }
        ),
        "mri": pd.DataFrame(
            {
                "patient_id": ["a", "a", "a"], "day": [500, 503, 700], "new_t2": [1, 2, np.nan], "gd_count": [0, np.nan, 1],
                "t2_vol_ml": [4.0, 5.0, 6.0], "region": ["brain", "brain", "cord"], "qc": ["pass", "pass", "pass"],
            }
        ),
    }  # fmt: skip


def test_rows_are_what_was_seen_in_each_step() -> None:
    patients, rows = rows_of(tables())
    assert patients == ("a",) * 5  # b has two visits
    assert rows.shape == (5, WIDTH)
    assert rows[:, STEP].tolist() == [0, 1, 2, 5, 8]
    assert rows[:, DMT].tolist() == [3, 3, 3, 3, 3]  # natalizumab from day 80, step 0 is as of day 83
    assert rows[:, AT["edss"]].tolist()[:1] == [2.5]  # the last of the step
    assert np.isnan(rows[1, AT["edss"]])
    assert rows[1, AT["sdmt_n"]] == 48
    assert rows[:4, AT["relapse"]].tolist() == [0, 0, 1, 0]  # day -30 is 113 days before day 83; day 250 is a row of its own
    assert np.isnan(rows[4, AT["relapse"]])  # a scan alone says nothing about relapses
    assert rows[3, [AT["new_t2"], AT["gd_count"], AT["t2_vol_ml"]]].tolist() == [3, 0, 5]
    assert np.isnan(rows[4, [AT["new_t2"], AT["gd_count"], AT["t2_vol_ml"]]]).all()  # of the cord
    assert rows[0, AGE] == pytest.approx(2011.5 - 1970 - 0.5 + 83 / 365.25)


def test_a_relapse_just_before_the_first_visit_counts_there() -> None:
    changed = tables()
    changed["relapses"] = pd.DataFrame({"patient_id": ["a"], "onset_day": [10]})
    assert rows_of(changed)[1][:2, AT["relapse"]].tolist() == [1, 1]  # day 10 is 73 days before day 83, 74 before day 84


def test_rows_do_not_depend_on_the_order_of_tables_and_not_on_later_rows() -> None:
    whole = tables()
    mixed = {name: table.sample(frac=1, random_state=1) for name, table in whole.items()}
    assert np.array_equal(rows_of(whole)[1], rows_of(mixed)[1], equal_nan=True)
    cut = {name: table for name, table in whole.items() if name != "mri"}
    cut["visits"] = cut["visits"][cut["visits"]["day"] < 300]
    assert np.array_equal(rows_of(cut)[1], rows_of(whole)[1][:3], equal_nan=True)


def test_a_site_without_relapses_scans_and_treatments_takes_part() -> None:
    few = {name: table for name, table in tables().items() if name in ("patients", "visits")}
    _, rows = rows_of(few)
    assert np.isnan(rows[:, AT["relapse"]]).all()
    assert (rows[:, DMT] == 0).all()
    assert np.isnan(rows[:, AT["nbv_ml"]]).all()


def test_rows_that_a_rule_filled_in_are_not_used() -> None:
    changed = tables()
    changed["visits"] = changed["visits"].assign(quality=["imputed", "ok", "ok", "ok", "ok", "ok"])
    changed["visits"] = pd.concat([changed["visits"], changed["visits"].iloc[[0]].assign(day=600, quality="ok")])
    _, rows = rows_of(changed)
    assert rows[0, AT["edss"]] == 2.5
    assert np.isnan(rows[0, AT["sdmt_n"]])


@pytest.mark.parametrize("missing", ["patients", "visits"])
def test_without_patients_or_visits_there_is_no_task(missing: str) -> None:
    with pytest.raises(DataError, match="patients and visits"):
        rows_of({name: table for name, table in tables().items() if name != missing})


def test_nobody_with_three_visits_is_an_error() -> None:
    changed = tables()
    changed["visits"] = changed["visits"][changed["visits"]["patient_id"] == "b"]
    with pytest.raises(DataError, match="3 visits"):
        rows_of(changed)


def rows(steps: list[int], edss: list[float]) -> np.ndarray:
    found = np.full((len(steps), WIDTH), np.nan)
    found[:, STEP], found[:, DMT], found[:, FIRST_MEASURE] = steps, 1, edss
    return found


def test_sequences_begin_with_the_first_row_and_reach_thirty_years_back() -> None:
    values = np.concatenate([rows([3, 5, 5 + MOST_STEPS], [0.0, 4.0, 6.5]), rows([7], [3.5])])
    found = sequences_of(ALL, values, np.array([0, 0, 0, 2]), 3)
    assert found.at.tolist() == [0, 0]  # 3 and 5 are too far before the last; patient 1 has no row
    assert found.owner.tolist() == [0, 2]
    assert found.length.tolist() == [1, 0, 1]
    assert found.stratum.tolist() == [3, 1]


def test_strata_are_those_of_campbell() -> None:
    scores = [0.0, 1.0, 3.5, 4.0, 6.0, 6.5, 9.5, np.nan]
    found = sequences_of(ALL, rows(list(range(8)), scores), np.zeros(8, np.intp), 1)
    assert found.stratum.tolist() == [0, 1, 1, 2, 2, 3, 3, NO_STRATUM]
    assert [pair.tolist() for pair in found.rescored] == [[1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5]]


def test_a_cell_holds_until_the_next_row() -> None:
    values = rows([0, 3], [1.0, 1.0])
    values[:, DMT], values[:, AGE] = [0, 3], [39.0, 41.0]
    found = sequences_of(ALL, values, np.zeros(2, np.intp), 1)
    assert found.cells_on_grid().tolist() == [[0, 0, 0, 10]]
    assert ALL.cell_names[10] == "high, 40 to 55"


@pytest.mark.parametrize(
    ("measures", "iterations", "words"),
    [((1, 4), 5, "edss"), ((4, 0), 5, "ascending"), ((0,), 0, "iterations"), ((0, 99), 5, "edss")],
)
def test_frames_that_make_no_sense_are_refused(measures: tuple[int, ...], iterations: int, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        Frame(measures, by_dmt=False, by_age=False, iterations=iterations)
