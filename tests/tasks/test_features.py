"""Inputs are bounded whatever the buffers are, and statistics are bounded per patient whatever the table holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.base import Column, Contract, Label
from tasks.errors import ContractError
from tasks.features import Design

TWO_NUMBERS = Contract(
    "two", "1",
    (
        Column("age", "numeric", "age", low=0, high=100),
        Column("smoker", "binary", "smokes"),
        Column("weight", "numeric", "weight", low=-50, high=250, nullable=False),
        Column("clinic", "categorical", "clinic", categories=("a", "b", "c")),
    ),
    Label("event", "it happened"),
)  # fmt: skip
DESIGN = Design(TWO_NUMBERS)
NAN = np.nan

number = st.floats(allow_nan=True, allow_infinity=False, width=32)
tables = hnp.arrays(np.float64, st.tuples(st.integers(0, 8), st.just(4)), elements=number)
two_numbers = hnp.arrays(np.float64, 2, elements=st.floats(width=32))


def test_inputs_are_laid_out_as_documented() -> None:
    values = np.array([[60.0, 1, 100, 2], [NAN, NAN, 130, NAN], [30, 0, 70, 0]])
    inputs = DESIGN.encode(values, np.array([40.0, 100.0]), np.array([20.0, 30.0]))
    assert DESIGN.input_names == (
        "age", "age missing", "smoker", "smoker missing", "weight", "clinic=a", "clinic=b", "clinic=c", "clinic missing",
    )  # fmt: skip
    np.testing.assert_allclose(
        inputs, [[1, 0, 1, 0, 0, 0, 0, 1, 0], [0, 1, 0, 1, 1, 0, 0, 0, 1], [-0.5, 0, -1, 0, -1, 1, 0, 0, 0]], rtol=1e-6
    )
    assert inputs.dtype == np.float32
    assert DESIGN.n_inputs == inputs.shape[1]


def test_a_design_of_some_columns_keeps_the_contracts_order() -> None:
    design = Design(TWO_NUMBERS, ("weight", "smoker"))
    assert design.input_names == ("smoker", "smoker missing", "weight")
    inputs = design.encode(np.array([[NAN, 1, 100, 2]]), np.array([70.0]), np.array([30.0]))
    np.testing.assert_allclose(inputs, [[1, 0, 1]])


@pytest.mark.parametrize("names", [(), ("age", "age"), ("height",)])
def test_a_design_of_impossible_columns_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ContractError):
        Design(TWO_NUMBERS, names)


def test_without_numeric_columns_there_are_no_buffers_and_no_statistics() -> None:
    design = Design(TWO_NUMBERS, ("smoker",))
    mean, scale = design.statistics_to_buffers(np.zeros(0))
    assert (design.buffer_specs, design.n_statistics, mean.shape, scale.shape) == ((), 0, (0,), (0,))
    assert design.describe_bound == 1.0
    assert design.describe_vectors(np.zeros((3, 4))).shape == (3, 0)
    np.testing.assert_array_equal(design.encode(np.zeros((1, 4)), mean, scale), [[-1, 0]])


def test_statistics_of_a_patient_are_those_of_the_docstring() -> None:
    vectors = DESIGN.describe_vectors(np.array([[25.0, 0, NAN, 0], [NAN, 0, 250, 0]]))
    np.testing.assert_allclose(vectors, [[0.25, 0.75, 2.8 * 0.1875, 0, 0, 0], [0, 0, 0, 1, 0, 0]])


@given(tables)
def test_no_patient_exceeds_the_bound(values: np.ndarray) -> None:
    vectors = DESIGN.describe_vectors(values)
    assert vectors.shape == (len(values), DESIGN.n_statistics)
    assert np.all((vectors >= 0) & (vectors <= 1))
    assert np.all(np.linalg.norm(vectors, axis=1) <= DESIGN.describe_bound)


@given(hnp.arrays(np.float64, 500, elements=st.floats(0, 1)))
def test_one_column_stays_in_the_unit_ball_to_the_last_bit(x: np.ndarray) -> None:
    design = Design(Contract("t", "1", (Column("x", "numeric", "x", low=0, high=1),), Label("y", "y")))
    assert np.all(np.linalg.norm(design.describe_vectors(x[:, None]), axis=1) <= 1.0)


def test_buffers_from_summed_statistics_are_mean_and_deviation_of_those_present() -> None:
    stream = np.random.default_rng(5)
    values = np.column_stack([stream.normal(40, 12, 900), np.ones(900), stream.normal(80, 30, 900), np.zeros(900)])
    values = np.clip(values, [0, 0, -50, 0], [100, 1, 250, 2])
    values[::7, 0] = NAN
    mean, scale = DESIGN.statistics_to_buffers(DESIGN.describe_vectors(values).sum(axis=0))
    np.testing.assert_allclose(mean, np.nanmean(values[:, [0, 2]], axis=0), rtol=1e-9)
    np.testing.assert_allclose(scale, np.nanstd(values[:, [0, 2]], axis=0), rtol=1e-9)


def test_sums_over_sites_give_what_one_hospital_would_get() -> None:
    values = np.random.default_rng(6).uniform(0, 100, (90, 4))
    parts = [DESIGN.describe_vectors(part).sum(axis=0) for part in np.array_split(values, 4)]
    pooled = DESIGN.statistics_to_buffers(DESIGN.describe_vectors(values).sum(axis=0))
    np.testing.assert_allclose(DESIGN.statistics_to_buffers(np.sum(parts, axis=0)), pooled, rtol=1e-9)


@given(hnp.arrays(np.float64, 6, elements=st.floats()), st.floats(0, 1e6))
def test_buffers_are_lawful_whatever_the_noise_made_of_the_sums(sums: np.ndarray, noise: float) -> None:
    mean, scale = DESIGN.statistics_to_buffers(sums, noise_std=noise)
    width = np.array([100.0, 300.0])
    assert np.all((mean >= [0, -50]) & (mean <= [100, 250]))
    assert np.all((scale >= 0.05 * width - 1e-9) & (scale <= 0.5 * width + 1e-9))


def test_a_count_drowned_in_noise_leaves_the_neutral_buffers() -> None:
    sums = np.array([20.0, 20.0, 5.0, 200.0, 200.0, 50.0])
    mean, scale = DESIGN.statistics_to_buffers(sums, noise_std=20.0)
    neutral_mean, neutral_scale = DESIGN.neutral_buffers()
    assert (mean[0], scale[0]) == (neutral_mean[0], neutral_scale[0]) == (50.0, 25.0)
    assert (mean[1], scale[1]) != (neutral_mean[1], neutral_scale[1])


def test_statistics_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ContractError, match=r"needs \(6,\)"):
        DESIGN.statistics_to_buffers(np.zeros(5))


@given(values=tables, mean=two_numbers, scale=two_numbers)
def test_no_buffers_can_blow_up_an_input_within_the_contract(values: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> None:
    lawful = np.clip(values, [0, 0, -50, 0], [100, 1, 250, 2])
    lawful[:, [1, 3]] = np.round(lawful[:, [1, 3]])
    inputs = DESIGN.encode(lawful, mean, scale)
    assert np.all(np.abs(inputs) <= 20.0 + 1e-4)


def test_buffers_travel_through_the_model_vector() -> None:
    vector = DESIGN.buffer_vector(np.array([40.0, 80.0]), np.array([12.0, 30.0]))
    assert vector.dtype == np.float32
    assert sum(int(np.prod(shape)) for _, shape in DESIGN.buffer_specs) == len(vector)
    mean, scale = DESIGN.split_buffers(np.concatenate([vector, np.float32([9, 9, 9])]))
    np.testing.assert_array_equal([mean, scale], [[40, 80], [12, 30]])
    with pytest.raises(ContractError, match="no room"):
        DESIGN.split_buffers(vector[:3])


FIXED = Contract(
    "fixed", "1",
    (
        Column("days", "numeric", "", low=0, high=1000, centre=400, spread=200),
        Column("age", "numeric", "age", low=0, high=100),
        Column("dose", "numeric", "", low=0, high=2, masked=False),
        Column("relapse", "binary", "", masked=False),
    ),
    Label("event", "it happened"),
)  # fmt: skip


def test_a_public_standard_needs_no_statistics_and_no_buffer() -> None:
    design = Design(FIXED)
    assert [column.name for column in design.numeric] == ["age", "dose"]
    assert design.buffer_specs == (("feature_mean", (2,)), ("feature_scale", (2,)))
    assert design.describe_vectors(np.array([[500.0, 25, 1, 0]])).shape == (1, 6)
    assert design.describe_bound == pytest.approx(np.sqrt(2))
    inputs = design.encode(np.array([[500.0, 60, 2, 1], [NAN, NAN, NAN, NAN]]), np.array([40.0, 1]), np.array([20.0, 0.5]))
    assert design.input_names == ("days", "days missing", "age", "age missing", "dose", "relapse")
    np.testing.assert_allclose(inputs, [[0.5, 0, 1, 0, 2, 1], [0, 1, 0, 1, 0, 0]])


def test_what_is_not_masked_is_the_mean_when_missing_and_nothing_says_so() -> None:
    design = Design(FIXED, ("dose",))
    mean = np.array([0.7])
    inputs = design.encode(np.array([[0, 0, NAN, 0], [0, 0, 0.7, 0.0]]), mean, np.array([0.5]))
    assert design.input_names == ("dose",)
    np.testing.assert_allclose(inputs[0], inputs[1], atol=1e-7)


def test_numeric_inputs_are_all_standardised_numbers_and_nothing_else() -> None:
    assert [Design(FIXED).input_names[place] for place in Design(FIXED).numeric_inputs] == ["days", "age", "dose"]
    assert [DESIGN.input_names[place] for place in DESIGN.numeric_inputs] == ["age", "weight"]


@given(st.floats(-1e6, 1e6), st.floats(0.1, 1e6), st.floats(0, 1), st.floats(0, 1))
def test_a_public_standard_keeps_inputs_within_twenty_or_is_refused(low: float, width: float, centre: float, spread: float) -> None:
    high = low + width
    try:
        column = Column("x", "numeric", "", low=low, high=high, centre=low + centre * width, spread=spread * width)
    except ContractError:
        assert spread * width < width / 20 * (1 + 1e-9) or spread > 1 - 1e-9 or not low <= low + centre * width <= high
        return
    design = Design(Contract("t", "1", (column,), Label("y", "")))
    inputs = design.encode(np.array([[low], [high]]), *design.neutral_buffers())
    assert np.all(np.abs(inputs) <= 20.0 + 1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Column("x", "numeric", "", low=0, high=1, centre=0.5),
        lambda: Column("x", "numeric", "", low=0, high=1, spread=0.5),
        lambda: Column("x", "numeric", "", low=0, high=1, centre=2, spread=0.5),
        lambda: Column("x", "numeric", "", low=0, high=1, centre=0.5, spread=0.01),
        lambda: Column("x", "numeric", "", low=0, high=1, centre=0.5, spread=0),
        lambda: Column("x", "binary", "", centre=0.5, spread=0.5),
        lambda: Column("Age", "numeric", "", low=0, high=1),
        lambda: Column("age", "numeric", ""),
        lambda: Column("age", "numeric", "", low=1, high=1),
        lambda: Column("age", "binary", "", low=0, high=1),
        lambda: Column("age", "categorical", "", categories=("a",)),
        lambda: Column("age", "binary", "", categories=("a", "b")),
        lambda: Column("age", "categorical", "", categories=("a", "a")),
        lambda: Contract("t", "1", (), Label("y", "")),
        lambda: Contract("t", "1", (Column("y", "binary", ""),), Label("y", "")),
        lambda: Contract("t", "1", (Column("x", "binary", ""), Column("x", "binary", "")), Label("y", "")),
        lambda: Column("x", "binary", "").limits,
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(make: object) -> None:
    with pytest.raises(ContractError):
        make()  # type: ignore[operator]
