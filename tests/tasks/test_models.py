"""A patient's logit and gradient depend on that patient and the parameters alone, and parameters are one flat vector."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from tasks.base import Contract
from tasks.errors import ContractError
from tasks.models import (
    build_model,
    initial_parameters,
    join_parameters,
    load_parameters,
    n_parameters,
    parameter_specs,
    predict,
    refuse_mixing,
    split_parameters,
)
from tasks.tabular import TabularTask

MODELS = [("logistic", {}), ("mlp", {"hidden": 5}), ("mlp", {"hidden": "6,4"})]


class Counting(nn.Module):
    """Keeps state that no plan knows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))


def filled(name: str, options: dict[str, str | int | float]) -> nn.Module:
    model = build_model(name, 3, options)
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
    model = build_model(name, 3, options)
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
    refuse_mixing(build_model(name, 3, options))


def test_a_task_builds_the_model_for_the_columns_in_use(contract: Contract) -> None:
    task = TabularTask(contract)
    assert parameter_specs(task.build_model("logistic", {}))[0] == ("output.weight", (1, 7))
    assert parameter_specs(task.build_model("logistic", {}, ["age"]))[0] == ("output.weight", (1, 1))
