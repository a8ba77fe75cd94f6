"""A patient's logit and gradient depend on that patient and the parameters alone, and parameters are one flat vector."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from client.engines import Shape, choose_engine
from tasks.base import Column, Contract, Label
from tasks.errors import ContractError
from tasks.features import Design
from tasks.models import (
    MODEL_NAMES,
    build_model,
    initial_parameters,
    join_parameters,
    load_parameters,
    n_parameters,
    parameter_specs,
    predict,
    refuse_mixing,
    split_parameters,
    trunk,
)
from tasks.tabular import TabularTask
from tasks.trunks import KNOTS

THREE = Design(
    Contract(
        "three", "1",
        (
            Column("a", "numeric", "", low=0, high=1, nullable=False), Column("b", "binary", "", nullable=False),
            Column("c", "numeric", "", low=0, high=1, nullable=False),
        ),
        Label("y", ""),
    )
)  # fmt: skip
MODELS = [("logistic", {}), ("mlp", {"hidden": 5}), ("mlp", {"hidden": "6,4"}), ("spline", {})]


class Counting(nn.Module):
    """Keeps state that no plan knows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))


def filled(name: str, options: dict[str, str | int | float]) -> nn.Module:
    model = build_model(name, THREE, options)
    load_parameters(model, np.random.default_rng(1).normal(size=n_parameters(model)).astype(np.float32))
    return model


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_a_patients_logit_is_the_same_alone_and_in_any_batch(name: str, options: dict[str, str | int | float]) -> None:
    model, inputs = filled(name, options), torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
    together = model(inputs)
    assert together.shape == (6,)
    torch.testing.assert_close(torch.stack([model(row) for row in inputs]), together)
    torch.testing.assert_close(model(inputs.flip(0)).flip(0), together)


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_per_patient_gradients_add_up_to_the_gradient_of_the_sum(
    contract: Contract, name: str, options: dict[str, str | int | float]
) -> None:
    task = TabularTask(contract)
    model, inputs = filled(name, options), torch.randn(6, 3, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([0, 1, 1, 0, 1, 0], dtype=torch.int8)

    def one(parameters: dict[str, torch.Tensor], row: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return task.loss(functional_call(model, parameters, (row,)), label)

    named = {key: value.detach() for key, value in model.named_parameters()}
    each = vmap(grad(one), in_dims=(None, 0, 0))(named, inputs, labels)
    losses = task.loss(model(inputs), labels)
    assert losses.shape == (6,)
    losses.sum().backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(each[key].sum(dim=0), parameter.grad)


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_parameters_survive_the_flat_vector(name: str, options: dict[str, str | int | float]) -> None:
    model = build_model(name, THREE, options)
    vector = np.arange(n_parameters(model), dtype=np.float32)
    load_parameters(model, vector)
    np.testing.assert_array_equal(join_parameters(dict(model.named_parameters())), vector)
    assert [(key, tuple(part.shape)) for key, part in split_parameters(model, vector).items()] == list(parameter_specs(model))


def test_parameter_specs_of_the_logistic_model() -> None:
    assert parameter_specs(build_model("logistic", 3, {})) == (("output.weight", (1, 3)), ("output.bias", (1,)))


def test_the_logistic_model_starts_at_zero() -> None:
    np.testing.assert_array_equal(initial_parameters(build_model("logistic", 3, {}), 7), np.zeros(4, dtype=np.float32))


def test_the_seed_alone_fixes_the_start() -> None:
    torch.manual_seed(1)
    first = initial_parameters(build_model("mlp", 3, {"hidden": 5}), 7)
    torch.manual_seed(2)
    np.testing.assert_array_equal(initial_parameters(build_model("mlp", 3, {"hidden": 5}), 7), first)
    assert not np.array_equal(initial_parameters(build_model("mlp", 3, {"hidden": 5}), 8), first)
    np.testing.assert_allclose(first[:3], [0.21667171, 0.68799448, 0.47750163], rtol=1e-6)  # the stream is fixed
    assert np.all(np.abs(first) <= np.sqrt(6 / 8))


def test_everybody_starts_at_one_half() -> None:
    model = build_model("mlp", 3, {"hidden": 5})
    load_parameters(model, initial_parameters(model, 7))
    np.testing.assert_array_equal(predict(model, np.ones((2, 3), dtype=np.float32)), [0.5, 0.5])


def test_gains_of_normalisation_layers_start_at_one() -> None:
    np.testing.assert_array_equal(initial_parameters(nn.LayerNorm(2), 0), [1, 1, 0, 0])


def test_prediction_is_the_sigmoid_of_the_logit() -> None:
    model = build_model("logistic", 2, {})
    load_parameters(model, np.float32([1, -1, 0.5]))
    np.testing.assert_allclose(predict(model, np.float32([[2, 1]])), 1 / (1 + np.exp(-1.5)), rtol=1e-7)
    assert predict(model, np.zeros((0, 2), dtype=np.float32)).shape == (0,)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("forest", {}), ("logistic", {"hidden": 3}), ("mlp", {"width": 3}), ("mlp", {"hidden": 0}), ("mlp", {"hidden": -1}),
        ("mlp", {"hidden": "4,,4"}), ("mlp", {"hidden": 10**6}), ("mlp", {"hidden": 2.5}), ("mlp", {"hidden": "²"}),
    ],
)  # fmt: skip
def test_an_unknown_model_or_option_is_refused(name: str, options: dict[str, str | int | float]) -> None:
    with pytest.raises(ContractError):
        build_model(name, 3, options)


def test_a_vector_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ContractError, match=r"needs \(4,\)"):
        load_parameters(build_model("logistic", 3, {}), np.zeros(5, dtype=np.float32))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.BatchNorm1d(3), "mixes the patients"),
        (nn.BatchNorm1d(3, track_running_stats=False), "mixes the patients"),
        (nn.SyncBatchNorm(3), "mixes the patients"),
        (nn.InstanceNorm1d(3, track_running_stats=True), "running_mean"),
        (Counting(), "parameters only"),
    ],
)
def test_layers_that_mix_patients_or_keep_state_are_refused(layer: nn.Module, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        refuse_mixing(nn.Sequential(nn.Linear(3, 3), layer))


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_our_own_models_do_not_mix(name: str, options: dict[str, str | int | float]) -> None:
    refuse_mixing(build_model(name, THREE, options))


@pytest.mark.parametrize(("name", "options"), MODELS)
@pytest.mark.parametrize("records", [1, 4])
def test_our_own_models_have_a_fast_engine(
    contract: Contract, name: str, options: dict[str, str | int | float], records: int
) -> None:
    model, loss = build_model(name, THREE, options), TabularTask(contract).loss
    assert choose_engine(model, loss, Shape(records, (3,)), name="bookkeeping").name == "bookkeeping"
    assert choose_engine(model, loss, Shape(1, (3,)), name="outer").name == "outer"


@pytest.mark.parametrize("name", ["logistic", "mlp", "spline"])
def test_a_trunk_and_a_head_of_one_s_own_are_a_model(name: str) -> None:
    """How a task with several outputs uses the shared models."""
    hidden, width = trunk(name, THREE, {})
    assert hidden(torch.zeros(5, 3)).shape == (5, width)
    assert nn.Sequential(hidden, nn.Linear(width, 7))(torch.zeros(5, 3)).shape == (5, 7)


def test_what_a_number_of_inputs_suffices_for_needs_no_design() -> None:
    for name in ("logistic", "mlp"):
        assert parameter_specs(build_model(name, 3, {})) == parameter_specs(build_model(name, THREE, {}))
    for name in set(MODEL_NAMES) - {"logistic", "mlp"}:
        with pytest.raises(ContractError, match="give it the design"):
            build_model(name, 3, {})


def test_a_spline_without_a_number_is_refused() -> None:
    with pytest.raises(ContractError, match="needs a numeric column"):
        build_model("spline", Design(THREE.contract, ("b",)), {})


def test_a_spline_is_piecewise_linear_with_public_knots_in_numbers_alone() -> None:
    """Against truncated powers: the features span 1, x, (x - k)+ for each knot, and of a binary input the input alone."""
    hidden, width = trunk("spline", THREE, {})
    assert width == 3 + 2 * len(KNOTS)
    grid = np.linspace(-4, 4, 81)
    inputs = np.zeros((81, 3), dtype=np.float32)
    inputs[:, 0] = grid
    features = np.column_stack([np.ones(81), hidden(torch.from_numpy(inputs)).numpy()])
    powers = np.column_stack([np.ones(81), grid, *(np.maximum(grid - knot, 0) for knot in KNOTS)])
    for basis in powers.T:
        fit = features @ np.linalg.lstsq(features, basis, rcond=None)[0]
        np.testing.assert_allclose(fit, basis, atol=1e-5)
    assert np.linalg.matrix_rank(features) == np.linalg.matrix_rank(powers) == 2 + len(KNOTS)


def test_a_missing_number_moves_no_hinge() -> None:
    hidden, _ = trunk("spline", THREE, {})
    assert not hidden(torch.zeros(1, 3)).any()


def test_a_spline_learns_a_bend_that_logistic_regression_cannot() -> None:
    stream = np.random.default_rng(2)
    x = stream.normal(size=(3000, 3)).astype(np.float32)
    labels = torch.from_numpy((stream.random(3000) < 1 / (1 + np.exp(-4 * (np.abs(x[:, 0]) - 0.8)))).astype(np.float32))
    found = {}
    for name in ("logistic", "spline"):
        model = build_model(name, THREE, {})
        load_parameters(model, initial_parameters(model, 1))
        optimiser = torch.optim.LBFGS(model.parameters(), max_iter=100)

        def step(model: nn.Module = model, optimiser: torch.optim.Optimizer = optimiser) -> torch.Tensor:
            optimiser.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(torch.from_numpy(x)), labels)
            loss.backward()
            return loss

        optimiser.step(step)
        found[name] = float(step().detach())
    assert found["spline"] < found["logistic"] - 0.1


def test_a_task_builds_the_model_for_the_columns_in_use(contract: Contract) -> None:
    task = TabularTask(contract)
    assert parameter_specs(task.build_model("logistic", {}))[0] == ("output.weight", (1, 7))
    assert parameter_specs(task.build_model("logistic", {}, ["age"]))[0] == ("output.weight", (1, 1))
