"""A patient's course: from rows to the states now, and to the years to come; models from files are read strictly."""

import json
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest

from tasks.errors import ContractError
from tasks.states.chain import smooth
from tasks.states.course import Model, course_of, model_of, published
from tasks.states.emission import evidence
from tasks.states.forecast import STEPS_A_YEAR, strata_of_states
from tasks.states.measures import standardised
from tasks.states.sequences import FIRST_MEASURE, STEP, WIDTH
from tests.shared.states_rows import ALL, drawn, start

MODEL = Model(ALL, start())


def one_patient(seed: int = 2) -> np.ndarray:
    return drawn(ALL, start(), 1, seed)[0]


def test_now_is_the_smoothed_state_of_the_last_step_and_later_is_the_power_of_the_matrix() -> None:
    rows = one_patient()
    course = course_of(MODEL, rows)
    at = (rows[:, STEP] - rows[0, STEP]).astype(int)
    cell = ALL.cell_of(rows[:, 1], rows[:, 2])
    density, cells = np.zeros((1, at[-1] + 1, 8)), np.full((1, at[-1] + 1), cell[0])
    density[0, at] = evidence(start(), standardised(rows[:, FIRST_MEASURE:])).log_density
    assert (cell == cell[0]).all()
    whole = smooth(start().initial, start().transitions, cells, density, np.array([at[-1] + 1]))
    assert np.allclose(course.now, whole.state[0, -1], atol=1e-10)
    for year, expected in zip((1, 2, 3, 4, 5), course.expected, strict=True):
        matrix = np.linalg.matrix_power(start().transitions[cell[0]], round(year * STEPS_A_YEAR))
        assert np.allclose(expected, course.now @ matrix)
    assert np.allclose(course.expected.sum(axis=1), 1)
    assert ((course.edss >= 0) & (course.edss <= 10)).all()


def test_a_relapse_and_a_high_score_are_seen_as_such() -> None:
    rows = np.full((3, WIDTH), np.nan)
    rows[:, STEP], rows[:, 1], rows[:, 2] = [0, 2, 4], 0, 40
    rows[:, FIRST_MEASURE], rows[:, FIRST_MEASURE + 4] = 1.0, 0.0
    assert course_of(MODEL, rows).now[:2].sum() > 0.9
    relapsing = rows.copy()
    relapsing[-1, FIRST_MEASURE + 4] = 1.0
    assert course_of(MODEL, relapsing).now[4] > 0.95
    advanced = rows.copy()
    advanced[:, FIRST_MEASURE] = 7.0
    found = course_of(MODEL, advanced)
    assert found.now[5:].sum() > 0.95
    assert found.edss_now > course_of(MODEL, rows).edss_now + 3
    assert found.worse_in_a_year is not None
    assert 0 <= found.worse_in_a_year <= 1


def test_without_a_score_there_is_no_chance_of_a_worse_one() -> None:
    rows = np.full((1, WIDTH), np.nan)
    rows[0, STEP] = 5
    course = course_of(MODEL, rows, years=())
    assert course.worse_in_a_year is None
    assert course.expected.shape == (0, 8)
    assert np.allclose(course.now, start().initial)


def test_a_model_is_read_as_it_was_written() -> None:
    read = model_of(json.loads(json.dumps({"title": "x", "model": published(MODEL)})))
    assert read.frame == ALL
    for field in fields(start()):
        assert np.array_equal(getattr(read.parameters, field.name), getattr(start(), field.name))


def changed(**with_what: object) -> dict[str, object]:
    return published(MODEL) | with_what


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "format"),
        (changed(format="wardround/states-model/0"), "format"),
        (changed(measures=["edss", "mood"]), "measures"),
        (changed(measures=["relapse", "edss"]), "ascending"),
        (changed(iterations="6"), "iterations"),
        (changed(by_dmt=1), "by_dmt"),
        (changed(initial=[0.5, 0.5]), "initial has shape"),
        (changed(initial=[0.2] * 8), "sum to 1"),
        (changed(noise=[1.0] * 8 + [float("nan")]), "finite"),
        (changed(noise=[1.0] * 8 + [-1.0]), "above 0"),
        (changed(mean="many"), "not made of numbers"),
        (changed(covariance=(-start().covariance).tolist()), "positive definite"),
    ],
)
def test_what_is_no_model_is_refused(raw: dict[str, object], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        model_of(raw)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:0], "at least one row"),
        (lambda rows: rows[:, :5], "numbers"),
        (lambda rows: rows[::-1], "ascend"),
    ],
)
def test_rows_that_are_no_history_are_refused(change: Callable[[np.ndarray], np.ndarray], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        course_of(MODEL, change(one_patient()))
    with pytest.raises(ContractError, match="years"):
        course_of(MODEL, one_patient(), years=(31.0,))


def test_strata_of_a_state_are_chances() -> None:
    found = strata_of_states(ALL, start())
    assert np.allclose(found.sum(axis=1), 1)
    assert (found >= 0).all()
