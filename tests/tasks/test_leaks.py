"""A column that tells the label by itself is found, and an honest predictor is not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.leaks import MIN_PER_CLASS, Cell, gives_away

LABELS = np.array([0, 1] * 20, dtype=np.int8)


def cells(zero: Cell, one: Cell, exceptions: int = 0) -> list[Cell]:
    """`one` for converters, `zero` for the others, the other way round for the first `exceptions` patients."""
    return [one if bool(label) != (index < exceptions) else zero for index, label in enumerate(LABELS)]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (cells(None, "2"), "filled in at all"),
        (cells("x", None), "filled in at all"),
        (cells("no", "yes"), "value alone"),
        (cells(0.0, 1.0), "value alone"),
        (cells(0.0, 1.0, exceptions=1), "value alone"),
        ([float(int(label) * 100 + index) for index, label in enumerate(LABELS)], "value alone"),
    ],
)
def test_a_column_that_is_the_answer_is_found(column: list[Cell], words: str) -> None:
    assert words in (gives_away(column, LABELS) or "")


@pytest.mark.parametrize(
    "column",
    [
        cells("no", "yes", exceptions=8),  # sensitivity and specificity 0.8: a very good predictor
        [None] * 40,
        ["same"] * 40,
        [f"id {index}" for index in range(40)],  # all different texts tell nothing
        [float(index) for index in range(40)],
        [str(index) for index in range(40)],
    ],
)
def test_an_honest_column_passes(column: list[Cell]) -> None:
    assert gives_away(column, LABELS) is None


def test_few_patients_are_no_evidence() -> None:
    few = LABELS[: 2 * MIN_PER_CLASS - 2]
    assert gives_away([float(label) for label in few], few) is None
    enough = LABELS[: 2 * MIN_PER_CLASS]
    assert gives_away([float(label) for label in enough], enough) is not None


def test_one_class_alone_is_no_evidence() -> None:
    assert gives_away(["1"] * 40, np.ones(40, dtype=np.int8)) is None


@given(st.permutations(range(40)))
def test_the_order_of_the_patients_does_not_matter(order: list[int]) -> None:
    column = cells(None, "2")
    assert gives_away([column[index] for index in order], LABELS[order]) == gives_away(column, LABELS)


@given(st.data())
def test_the_verdict_does_not_depend_on_which_class_is_called_1(data: st.DataObject) -> None:
    column = data.draw(st.lists(st.sampled_from([None, 0.0, 1.0, 2.5]), min_size=40, max_size=40))
    flipped = (1 - LABELS).astype(np.int8)
    assert (gives_away(column, LABELS) is None) == (gives_away(column, flipped) is None)
