"""A large model is stepped and saved in blocks: the same bits as at once, and no copy of it beside."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server import model as models
from server.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from server.errors import ServerError
from server.model import released_model, step_model
from server.strategy import Sums, build

CHOICES: dict[str, dict[str, str | int | float]] = {
    "fedavg": {"server_rate": 0.7},
    "fedprox": {"mu": 0.1},
    "fedavgm": {"beta": 0.8},
    "fedadam": {"rate": 0.3},
    "fedavg averaged": {"ema_decay": 0.5},
    "fedadam averaged": {"ema_decay": 0.9},
}
LARGE = 2**21


def plan_of(parameters: int, buffers: int = 0) -> Any:
    return SimpleNamespace(n_parameters=parameters, n_buffers=buffers, model_size=buffers + parameters)


def peak(do: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        do()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", sorted(CHOICES))
@given(parameters=st.integers(1, 23), buffers=st.integers(0, 3), block=st.integers(1, 25), seed=st.integers(0, 2**32 - 1))
def test_blocks_of_any_size_give_the_bits_of_one_step(name: str, parameters: int, buffers: int, block: int, seed: int) -> None:
    plan, strategy, random = plan_of(parameters, buffers), build(name.split()[0], CHOICES[name]), np.random.default_rng(seed)
    model = random.standard_normal(plan.model_size).astype(np.float32)
    weights = model[buffers:].astype(np.float64)
    state = strategy.init(weights)
    parts, parts_state = model, state
    with pytest.MonkeyPatch.context() as patch:
        for _ in range(3):
            mean = random.standard_normal(parameters)
            state, weights = strategy.step(state, weights, mean)
            weights = weights.astype(np.float32).astype(np.float64)
            patch.setattr(models, "BLOCK", block)
            parts_state, parts = step_model(plan, strategy, parts_state, parts, lambda part, mean=mean: mean[part])  # type: ignore[misc]
        released = released_model(plan, strategy, parts_state, parts)
    stepped = np.concatenate([model[:buffers], weights.astype(np.float32)])
    assert parts.tobytes() == stepped.tobytes()
    assert [one.tobytes() for one in parts_state] == [one.tobytes() for one in state]
    average = strategy.release(state, weights).astype(np.float32)
    assert released.tobytes() == np.concatenate([model[:buffers], average]).tobytes()


def test_a_strategy_of_stages_is_stepped_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "BLOCK", 1)
    plan, strategy = plan_of(4), Sums(stage_1=2, stage_2=1)
    state, model = step_model(plan, strategy, (), np.zeros(4, np.float32), np.array([0.0, 5.0, 6.0, 7.0]))
    assert (len(state), model.tolist()) == (1, [1.0, 5.0, 6.0, 0.0])


@pytest.mark.parametrize("mean", [np.inf, np.nan, 1e39])
def test_a_block_that_diverges_leaves_model_and_state_as_they_were(mean: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "BLOCK", 2)
    plan, strategy = plan_of(5), build("fedavgm", {})
    model, update = np.ones(5, np.float32), np.array([1.0, 1.0, 1.0, 1.0, mean])
    state = strategy.init(model.astype(np.float64))
    with pytest.raises(ServerError):
        step_model(plan, strategy, state, model, update)
    assert model.tolist() == [1.0] * 5
    assert state[0].tolist() == [0.0] * 5


@pytest.mark.parametrize(("name", "vectors"), [("fedavg", 1), ("fedavgm", 3), ("fedadam", 5)])
def test_a_step_takes_the_new_model_the_new_state_and_little_more(name: str, vectors: int) -> None:
    plan, strategy = plan_of(LARGE), build(name, {})
    model, sums = np.ones(LARGE, np.float32), np.ones(LARGE, np.int32)
    state = strategy.init(model.astype(np.float64))
    taken = peak(lambda: step_model(plan, strategy, state, model, lambda part: sums[part] * 1e-3))
    assert taken < (vectors + 0.25) * 4 * LARGE + 12 * 8 * models.BLOCK


def test_a_checkpoint_is_written_without_a_copy_and_is_the_same(tmp_path: Path) -> None:
    model, state = np.arange(LARGE, dtype=np.float32), (np.arange(LARGE, dtype=np.float64),)
    checkpoint = Checkpoint(b"\x07" * 32, 1, 0, 1, 0, model, state)
    assert peak(lambda: save_checkpoint(tmp_path, checkpoint)) < 4 * LARGE // 4
    path = tmp_path / "round-0000000001.checkpoint"
    assert path.read_bytes() == checkpoint.encode()
    again = load_checkpoint(path)
    assert (again.model.tobytes(), again.state[0].tobytes()) == (model.tobytes(), state[0].tobytes())
