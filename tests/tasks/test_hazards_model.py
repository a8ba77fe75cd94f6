"""Hazard models: what their parameters mean, where they start, and that fast engines serve them."""

import numpy as np
import pytest
import torch

from client.engines import Shape, choose_engine
from tasks.base import Column, Contract, Label
from tasks.errors import ContractError
from tasks.features import Design
from tasks.hazards.likelihood import cumulative_risks, negative_log_likelihood
from tasks.hazards.model import START, build_model
from tasks.models import initial_parameters, load_parameters, n_parameters

CONTRACT = Contract(
    task="toy",
    version="1",
    columns=tuple(Column(f"x{at}", "numeric", "x", low=0, high=1, nullable=False) for at in range(5)),
    label=Label("event", "it happened"),
)
DESIGN = Design(CONTRACT)


def started(name: str = "logistic", **wanted: int | str) -> torch.nn.Module:
    causes, bins = int(wanted.pop("causes", 1)), int(wanted.pop("bins", 8))
    model = build_model(name, DESIGN, wanted, bins=bins, causes=causes)
    load_parameters(model, initial_parameters(model, 1))
    return model


@pytest.mark.parametrize("causes", [1, 3])
@pytest.mark.parametrize("name", ["logistic", "mlp", "spline"])
def test_before_anything_is_learnt_everybody_has_the_public_hazard(name: str, causes: int) -> None:
    outputs = started(name, causes=causes)(torch.randn(20, 5)).detach().numpy()
    assert outputs.shape == ((20, 8) if causes == 1 else (20, 8, causes))
    risks = cumulative_risks(outputs, causes)
    assert risks[:, 0].sum(axis=1) == pytest.approx(np.full(20, START), abs=1e-6)
    assert risks[:, -1].sum(axis=1) == pytest.approx(np.full(20, 1 - (1 - START) ** 8), abs=1e-6)


def test_a_record_alone_gives_what_it_gives_among_others() -> None:
    model, inputs = started("mlp", causes=2), torch.randn(3, 5)
    assert torch.allclose(model(inputs)[1], model(inputs[1]))


def test_one_parameter_for_each_input_and_quarter_and_one_more() -> None:
    assert n_parameters(started(bins=20)) == 5 + 1 + 20
    assert n_parameters(started(bins=8, causes=3)) == 3 * (5 + 1 + 8)
    assert n_parameters(started(bins=20, effects="trend")) == 2 * (5 + 1) + 20


def random_model(**wanted: int | str) -> torch.nn.Module:
    model = started(**wanted)
    values = np.random.default_rng(2).normal(size=n_parameters(model))
    load_parameters(model, values.astype(np.float32))
    return model


def test_constant_effects_are_the_same_ratio_of_odds_in_every_quarter() -> None:
    inputs = torch.randn(2, 5)
    for causes in (1, 3):
        outputs = random_model(causes=causes)(inputs).detach()
        ratios = outputs[0] - outputs[1]
        assert torch.allclose(ratios, ratios[:1].expand_as(ratios), atol=1e-5)
        assert float((outputs[0] - outputs[0][:1]).abs().max()) > 0.1  # while the baseline differs


def test_trends_change_the_effect_along_a_straight_line() -> None:
    outputs = random_model(effects="trend")(torch.randn(2, 5)).detach()
    ratios = (outputs[0] - outputs[1]).numpy()
    assert np.diff(ratios, n=2) == pytest.approx(np.zeros(6), abs=1e-4)
    assert abs(ratios[-1] - ratios[0]) > 0.1


@pytest.mark.parametrize("records", [1, 4])
@pytest.mark.parametrize(("name", "causes"), [("logistic", 1), ("logistic", 3), ("mlp", 1), ("spline", 3)])
def test_an_engine_for_many_patients_at_once_serves_it(name: str, causes: int, records: int) -> None:
    """It is chosen only where it agrees with autograd of one patient, and no patient depends on another in a single bit."""
    torch.set_num_threads(1)

    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return negative_log_likelihood(outputs, labels, causes)

    engine = choose_engine(started(name, causes=causes), loss, Shape(records, (5,), (3,)), patients=64, name="bookkeeping")
    assert engine.name == "bookkeeping"


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ContractError, match="effects is 'none'"):
        build_model("logistic", DESIGN, {"effects": "none"}, bins=8, causes=1)
    with pytest.raises(ContractError, match="no option 'hidden'"):
        build_model("logistic", DESIGN, {"hidden": 4}, bins=8, causes=1)
