"""The strategies against numbers a reader can recompute."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import StrategyError
from server.strategy import Averaged, FedAdam, FedAvg, FedAvgM, FedProx, build


def vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_fedavg_adds_the_mean_update_times_the_server_rate() -> None:
    state, weights = FedAvg(0.5).step((), vector(1.0, 2.0), vector(4.0, -2.0))
    assert state == ()
    assert weights.tolist() == [3.0, 1.0]


def test_fedavgm_repeats_a_steady_update_with_growing_steps() -> None:
    strategy = FedAvgM(server_rate=1.0, beta=0.5)
    state, weights = strategy.step(strategy.init(vector(0.0)), vector(0.0), vector(1.0))
    assert (state[0].tolist(), weights.tolist()) == ([1.0], [1.0])
    state, weights = strategy.step(state, weights, vector(1.0))
    assert (state[0].tolist(), weights.tolist()) == ([1.5], [2.5])  # 0.5*1 + 1; 1 + 1.5


def test_fedadam_first_step_is_algorithm_2_by_hand() -> None:
    strategy = FedAdam(rate=0.1, beta1=0.9, beta2=0.75, tau=1.0)
    state, weights = strategy.step(strategy.init(vector(2.0)), vector(2.0), vector(3.0))
    # m = 0.1*3 = 0.3;  v = 0.75*1 + 0.25*9 = 3;  2 + 0.1 * 0.3 / (sqrt(3) + 1)
    assert state[0][0] == pytest.approx(0.3)
    assert state[1][0] == pytest.approx(3.0)
    assert weights[0] == pytest.approx(2.0 + 0.03 / (np.sqrt(3.0) + 1.0))


def test_fedadam_second_step_uses_the_first_ones_moments() -> None:
    strategy = FedAdam(rate=1.0, beta1=0.5, beta2=0.5, tau=2.0)
    state, weights = strategy.step(strategy.init(vector(0.0)), vector(0.0), vector(2.0))
    assert weights[0] == pytest.approx(1.0 / (2.0 + 2.0))  # m = 1, v = 0.5*4 + 0.5*4 = 4
    state, weights = strategy.step(state, weights, vector(0.0))
    assert state[0][0] == pytest.approx(0.5)
    assert state[1][0] == pytest.approx(2.0)
    assert weights[0] == pytest.approx(0.25 + 0.5 / (np.sqrt(2.0) + 2.0))


def test_average_is_released_while_rounds_go_on_from_the_weights() -> None:
    strategy = Averaged(FedAvg(1.0), 0.5)
    state, weights = strategy.step(strategy.init(vector(0.0)), vector(0.0), vector(4.0))
    state, weights = strategy.step(state, weights, vector(4.0))
    assert weights.tolist() == [8.0]
    assert strategy.release(state, weights).tolist() == [5.0]  # 0.5*(0.5*0 + 0.5*4) + 0.5*8


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8))
def test_step_leaves_its_arguments_alone(values: list[float]) -> None:
    strategy = Averaged(FedAdam(), 0.9)
    weights, delta = vector(*values), vector(*reversed(values))
    state = strategy.init(weights)
    before = [part.copy() for part in (*state, weights, delta)]
    strategy.step(state, weights, delta)
    assert all(np.array_equal(old, new) for old, new in zip(before, (*state, weights, delta), strict=True))


@given(st.floats(1e-6, 1e6))
def test_fedadam_step_of_one_coordinate_never_exceeds_its_bound(size: float) -> None:
    strategy = FedAdam(rate=0.1, beta1=0.0, beta2=0.99, tau=1e-3)
    _, weights = strategy.step(strategy.init(vector(0.0)), vector(0.0), vector(size))
    assert abs(weights[0]) <= 0.1 / np.sqrt(0.01) + 1e-12  # |d| / sqrt((1-beta2) d^2)


def test_registry_builds_what_the_plan_names() -> None:
    assert build("fedadam", {"rate": 0.2, "tau": 1}) == FedAdam(rate=0.2, tau=1.0)
    assert build("fedavg", {"ema_decay": 0.9}) == Averaged(FedAvg(), 0.9)
    assert build("fedavgm", {"ema_decay": 0}) == FedAvgM()
    assert build("fedprox", {"mu": 0.1}) == FedProx(0.1, 1.0)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("fedsgd", {}, "'fedsgd' is unknown; known: fedadam, fedavg, fedavgm, fedprox"),
        ("fedadam", {"lr": 0.1}, "'lr' is unknown; known: rate"),
        ("fedadam", {"rate": "fast"}, "'fast', expected a finite number"),
        ("fedadam", {"rate": True}, "expected a finite number"),
        ("fedadam", {"rate": float("nan")}, "finite"),
        ("fedadam", {"beta1": 1.0}, ">= 0.0 and < 1.0"),
        ("fedavg", {"server_rate": 0.0}, "> 0.0"),
        ("fedavg", {"ema_decay": 1.0}, "ema_decay is 1.0"),
        ("fedprox", {"mu": -0.1}, "mu is -0.1, must be >= 0.0"),
    ],
)
def test_registry_refuses_what_it_does_not_know(name: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(StrategyError, match=says):
        build(name, options)  # type: ignore[arg-type]


def test_an_update_that_is_not_finite_voids_the_step() -> None:
    with pytest.raises(StrategyError, match="NaN or infinity"):
        FedAvg().step((), vector(0.0), vector(np.nan))


@pytest.mark.parametrize(
    ("state", "delta"), [((), vector(1.0)), ((vector(0.0), vector(0.0, 0.0)), vector(1.0)), (None, vector(1.0, 1.0))]
)
def test_shapes_that_do_not_fit_are_refused_rather_than_broadcast(state: object, delta: np.ndarray) -> None:
    strategy = FedAdam()
    with pytest.raises(StrategyError):
        strategy.step(strategy.init(vector(0.0)) if state is None else state, vector(0.0), delta)  # type: ignore[arg-type]


def test_sums_keep_each_stage_at_full_precision_and_count_them() -> None:
    strategy = build("sums", {"stage_1": 2, "stage_2": 1})
    weights = np.zeros(4)
    state = strategy.init(weights)
    state, weights = strategy.step(state, weights, np.array([9.0, 1 / 3, 2 / 3, 9.0]))
    assert weights.tolist() == [1.0, 1 / 3, 2 / 3, 0.0]  # what is outside the stage is noise
    state, weights = strategy.step(state, weights, np.array([9.0, 9.0, 9.0, 0.1]))
    assert weights.tolist() == [2.0, 1 / 3, 2 / 3, 0.1]
    assert [part.tolist() for part in state] == [[1 / 3, 2 / 3], [0.1]]
    with pytest.raises(StrategyError, match="all 2 stages are done"):
        strategy.step(state, weights, np.zeros(4))


@pytest.mark.parametrize(
    "options", [{}, {"stage_2": 1}, {"stage_1": 0}, {"stage_1": 1.5}, {"stage_1": 1, "stage_3": 1}, {"stage_1": 1, "rate": 1}]
)
def test_sums_with_other_stages_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(StrategyError, match="stage_1"):
        build("sums", options)


def test_sums_refuse_what_does_not_fit_and_leave_the_model_as_it_was() -> None:
    strategy, weights = build("sums", {"stage_1": 2}), np.zeros(3)
    with pytest.raises(StrategyError, match="wrong plan"):
        strategy.init(np.zeros(4))
    with pytest.raises(StrategyError, match="wrong plan"):
        strategy.step((), weights, np.zeros(2))
    with pytest.raises(StrategyError, match="NaN"):
        strategy.step((), weights, np.array([0.0, np.nan, 0.0]))
    assert not weights.any()
