"""Rows that cannot be one history are refused, by row number and without a patient's value."""

import math
from typing import Any

import numpy as np
import pytest

from tasks.labels.engine import label
from tasks.labels.errors import LabelError
from tasks.labels.history import History, Relapses, Scans, Visits
from tasks.labels.neda import neda3
from tasks.labels.rule import SPMS_RULE, LabelRule

NOBODY = Relapses(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


def visits(**columns: Any) -> Visits:
    given = {"patient": [0, 0], "day": [0, 100], "edss": [2.0, 3.0], **columns}
    return Visits(**{name: np.array(values) for name, values in given.items()})


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"edss": [2.0, 0.5]}, "row 1: edss is not one of"),
        ({"edss": [2.0, 3.25]}, "row 1: edss"),
        ({"edss": [10.5, 3.0]}, "row 0: edss"),
        ({"edss": [-1.0, 3.0]}, "row 0: edss"),
        ({"edss": [2.0, math.inf]}, "row 1: edss is infinite"),
        ({"edss": ["2", "3"]}, "numbers"),
        ({"edss": [2.0]}, "differ in length"),
        ({"edss": None}, "edss has shape"),
        ({"day": [0.0, 100.0]}, "whole numbers"),
        ({"day": [0, 50_001]}, "row 1: day is beyond 50000"),
        ({"day": [7, 7]}, "rows 0 and 1: two values of edss"),
        ({"patient": [[0, 0]]}, "shape"),
        ({"t25fw_s": [5.0, 1.9]}, "row 1: t25fw_s is outside 2..180"),
        ({"nhpt_s": [9.0, 20.0]}, "row 0: nhpt_s is outside 10..300"),
        ({"sdmt_n": [50.0, 111.0]}, "row 1: sdmt_n is outside 0..110"),
        ({"ambulation": [3.0, 16.0]}, "row 1: ambulation is outside 0..15"),
        ({"fs": [[0.0] * 7]}, "fs has shape"),
        ({"fs": [[0.0] * 7, [0.0, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0]]}, "row 1: a functional system"),
    ],
)
def test_a_visit_that_cannot_be_is_refused(columns: dict[str, Any], words: str) -> None:
    with pytest.raises(LabelError, match=words):
        visits(**columns)


def test_no_message_holds_the_value() -> None:
    with pytest.raises(LabelError) as refused:
        visits(edss=[2.0, 7.77])
    assert "7.77" not in str(refused.value)


def test_no_repr_holds_a_value() -> None:
    assert "3.0" not in repr(visits())


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"end_day": [9.0]}, "row 0: end_day is before onset_day"),
        ({"end_day": [10.0, 11.0]}, "differ in length"),
        ({"onset_day": [-50_001]}, "row 0: onset_day"),
    ],
)
def test_a_relapse_that_cannot_be_is_refused(columns: dict[str, Any], words: str) -> None:
    given = {"patient": [0], "onset_day": [10], **columns}
    with pytest.raises(LabelError, match=words):
        Relapses(**{name: np.array(values) for name, values in given.items()})


def test_a_scan_that_cannot_be_is_refused() -> None:
    with pytest.raises(LabelError, match=r"row 1: gd_count is outside 0\.\.300"):
        Scans(np.array([0, 0]), np.array([1, 2]), np.array([0.0, 1.0]), gd_count=np.array([0.0, -1.0]))


@pytest.mark.parametrize("patient", [[0, 1], [-1, 0]])
def test_a_patient_outside_the_count_is_refused(patient: list[int]) -> None:
    with pytest.raises(LabelError, match=r"outside 0\.\.0"):
        History(1, visits(patient=patient), NOBODY)


@pytest.mark.parametrize("n_patients", [-1, 2**31, True])
def test_a_count_of_patients_that_cannot_be_is_refused(n_patients: int) -> None:
    with pytest.raises(LabelError, match="n_patients"):
        History(n_patients, visits(), NOBODY)


def test_tables_are_closed_for_writing() -> None:
    table = visits()
    with pytest.raises(ValueError, match="read-only"):
        table.edss[0] = 5.0


def test_the_arrays_given_are_not_touched() -> None:
    day = np.array([100, 0])
    Visits(np.array([0, 0]), day, np.array([2.0, 3.0]))
    day[0] = 3
    assert day.tolist() == [3, 0]


@pytest.mark.parametrize("outcome", ["t25fw", "nhpt", "sdmt", "composite"])
def test_an_outcome_without_its_column_is_refused(outcome: Any) -> None:
    with pytest.raises(LabelError, match="no column"):
        label(History(1, visits(), NOBODY), LabelRule(outcome=outcome))


def test_spms_without_functional_systems_is_refused() -> None:
    with pytest.raises(LabelError, match="fs"):
        label(History(1, visits(), NOBODY), SPMS_RULE)


def test_neda_without_what_it_needs_is_refused() -> None:
    scans = Scans(np.array([0]), np.array([1]), np.array([0.0]))
    with pytest.raises(LabelError, match="needs scans"):
        neda3(History(1, visits(), NOBODY), np.array([0.0]), LabelRule())
    history = History(1, visits(), NOBODY, scans)
    with pytest.raises(LabelError, match="2 days, the history 1"):
        neda3(history, np.array([0.0, 1.0]), LabelRule())
    with pytest.raises(LabelError, match="EDSS worsening"):
        neda3(history, np.array([0.0]), SPMS_RULE)


def test_two_outcomes_of_one_day_may_be_in_two_rows() -> None:
    table = visits(day=[0, 0], edss=[2.0, math.nan], sdmt_n=[math.nan, 50.0])
    assert len(table.day) == 2
