"""Learners of effects: one loss a record that is the two-step computation, bounded, cross-fitted and trimmed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.base import Column, Contract, Label
from tasks.effects import learners
from tasks.effects.folds import FOLDS, folds_of
from tasks.effects.learners import EFFECT, EFFECT_WEIGHT, OVERLAP, PSEUDO_MOST, ROWS, effect_loss
from tasks.effects.model import LEARNERS, EffectModel, build_effect_model
from tasks.effects.pehe import sqrt_pehe
from tasks.errors import ContractError, DataError
from tasks.features import Design
from tasks.models import initial_parameters, load_parameters

AGE = Column("age_years", "numeric", "age", unit="years", low=18, high=100)
COURSE = Column("phenotype", "categorical", "course", categories=("CIS", "RRMS"))
DESIGN = Design(Contract("toy", "1", (AGE, COURSE), Label("label", "a label")))
N = 64
NAMES = tuple(LEARNERS)


def model_of(name: str, seed: int = 1, **options: str | float) -> EffectModel:
    """With weights that are not at their start."""
    model = build_effect_model(name, DESIGN, options, ("age_years",))
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.6 * torch.randn(value.shape, generator=stream))
    return model


def records(seed: int = 0, n: int = N) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(n, DESIGN.n_inputs, generator=stream), (torch.rand(n, 3, generator=stream) < 0.5).float()


def gradient(model: EffectModel, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    names = [name for name, _ in model.named_parameters()]
    found = torch.autograd.grad(effect_loss(model(inputs), labels).sum(), list(model.parameters()), allow_unused=True)
    return {name: torch.zeros(1) if each is None else each for name, each in zip(names, found, strict=True)}


def plain_effect_gradient(model: EffectModel, inputs: Tensor, labels: Tensor, learner: str) -> dict[str, Tensor]:
    """Step two alone, record by record, on nuisances that are plain numbers by then."""
    total = torch.zeros(())
    for x, (w, y, fold) in zip(inputs, labels, strict=True):
        k, outputs = int(fold), model(x)
        chances = [1 / (1 + np.exp(-outputs[row, k].item())) for row in range(ROWS[learner] - 2)]
        tau, penalty, e = outputs[EFFECT, k], outputs[-1, k], chances[0]
        if learner == "r":
            misfit = (float(y) - chances[1]) - (float(w) - e) * tau
        else:
            m0, m1, kept = chances[1], chances[2], min(max(e, OVERLAP[0]), OVERLAP[1])
            pseudo = m1 - m0 + (float(y) - m1) / kept * float(w) - (float(y) - m0) / (1 - kept) * (1 - float(w))
            misfit = min(max(pseudo, -PSEUDO_MOST), PSEUDO_MOST) - tau
        within = OVERLAP[0] <= e <= OVERLAP[1]
        total = total + EFFECT_WEIGHT * 0.5 * ((misfit**2 if within else 0.0) + torch.tanh(penalty) ** 2)
    parts = {name: value for name, value in model.named_parameters() if name.split(".")[1] not in ("propensity", "outcome")}
    return dict(zip(parts, torch.autograd.grad(total, list(parts.values())), strict=True))


@pytest.mark.parametrize("scale", ["relative", "difference"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "constant"])
def test_the_effect_s_gradient_is_that_of_two_steps_with_nuisances_frozen(name: str, scale: str) -> None:
    model = model_of(name, scale=scale, shrinkage=0.5)
    inputs, labels = records()
    expected = plain_effect_gradient(model, inputs, labels, LEARNERS[name][0])
    found = gradient(model, inputs, labels)
    for part, value in expected.items():
        assert torch.allclose(found[part], value, rtol=1e-4, atol=1e-5), part
        assert value.abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_nuisances_get_no_gradient_of_the_effect_and_are_cross_entropies_of_the_other_folds(name: str) -> None:
    model = model_of(name)
    inputs, labels = records()
    found = gradient(model, inputs, labels)
    chance = torch.sigmoid(model(inputs)[:, 0, :])
    others = 1 - torch.nn.functional.one_hot(labels[:, 2].long(), FOLDS)
    expected = ((chance - labels[:, :1]) * others).T @ inputs
    assert torch.allclose(found["output.propensity.weight"], expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(NAMES), st.integers(0, 1))
def test_the_nuisances_of_a_record_s_fold_never_saw_the_patient(seed: int, name: str, fold: int) -> None:
    """Their gradient is exactly 0 for every record of the fold; those of the other fold do move."""
    model, (inputs, labels) = model_of(name, seed), records(seed, 8)
    labels[:, 2] = fold
    found = gradient(model, inputs, labels)
    for part in ("propensity", "outcome"):
        rows = found[f"output.{part}.weight"].reshape(-1, FOLDS, DESIGN.n_inputs)
        assert torch.equal(rows[:, fold], torch.zeros_like(rows[:, fold]))
        assert rows[:, 1 - fold].abs().max() > 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(NAMES))
def test_what_the_nuisances_of_the_other_fold_say_does_not_reach_a_record_s_effect(seed: int, name: str) -> None:
    model, (inputs, labels) = model_of(name, seed, **({} if name == "constant" else {"scale": "relative"})), records(seed, 8)
    labels[:, 2] = 0
    before = gradient(model, inputs, labels)["output.average.weight"]
    with torch.no_grad():
        model.output["outcome"].weight.view(-1, FOLDS, DESIGN.n_inputs)[:, 1] += 1.0
        model.output["propensity"].weight[1] += 1.0
    assert torch.equal(gradient(model, inputs, labels)["output.average.weight"], before)


@pytest.mark.parametrize("name", NAMES)
def test_a_record_outside_the_overlap_moves_no_effect(name: str) -> None:
    model, (inputs, labels) = model_of(name), records()
    with torch.no_grad():
        model.output["propensity"].weight.zero_()
        model.output["propensity"].bias.fill_(3.0)  # 0.953
        if "modifiers" in model.output:
            model.output["modifiers"].weight.zero_()
    assert torch.equal(gradient(model, inputs, labels)["output.average.weight"], torch.zeros(1, 1))
    with torch.no_grad():
        model.output["propensity"].bias.fill_(2.9)  # 0.948
    assert gradient(model, inputs, labels)["output.average.weight"].abs() > 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e30, 1e30), min_size=10, max_size=10), st.integers(0, 7))
def test_the_loss_is_finite_and_its_effect_bounded_for_every_finite_output(values: list[float], label: int) -> None:
    labels = torch.tensor([[label & 1, label >> 1 & 1, label >> 2]], dtype=torch.float32)
    for rows in ROWS.values():
        outputs = torch.tensor(values[: 2 * rows]).reshape(1, rows, FOLDS)
        assert torch.isfinite(effect_loss(outputs, labels)).all()
        nuisances = outputs.clone().clamp(-1e6, 1e6)
        only = effect_loss(nuisances, labels) - learners.nuisance_loss(
            nuisances, labels[:, 0], labels[:, 1], 1 - torch.nn.functional.one_hot(labels[:, 2].long(), FOLDS)
        )
        assert only <= EFFECT_WEIGHT * (0.5 * (PSEUDO_MOST + 1) ** 2 + 0.5) + 1


def test_one_loss_by_gradient_descent_reaches_what_two_steps_reach() -> None:
    """Descent on all parts at once; the second step's estimating equations, on the final nuisances, are those of plain numpy."""
    stream = torch.Generator().manual_seed(3)
    inputs = torch.randn(400, DESIGN.n_inputs, generator=stream)
    treated = (torch.rand(400, generator=stream) < torch.sigmoid(inputs[:, 0])).float()
    chance = (0.4 - 0.2 * treated + 0.1 * treated * inputs[:, 0]).clamp(0.02, 0.98)
    outcome = (torch.rand(400, generator=stream) < chance).float()
    labels = torch.stack([treated, outcome, (torch.rand(400, generator=stream) < 0.5).float()], dim=1)
    model = build_effect_model("r_linear", DESIGN, {"scale": "difference", "shrinkage": 0.0, "modifiers": "age_years"}, ())
    load_parameters(model, initial_parameters(model, 1))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(1500):
        optimiser.zero_grad()
        effect_loss(model(inputs), labels).mean().backward()
        optimiser.step()
    outputs = model(inputs).detach()
    own = labels[:, 2].long()
    nuisances = torch.sigmoid(outputs[torch.arange(400), :2, own]).double().numpy()
    residual, rest = labels[:, 1].numpy() - nuisances[:, 1], labels[:, 0].numpy() - nuisances[:, 0]
    inside = (nuisances[:, 0] >= OVERLAP[0]) & (nuisances[:, 0] <= OVERLAP[1])
    effect = np.tanh(np.column_stack([np.ones(400), inputs[:, 0].numpy()]) @ [
        model.output["average"].weight.item(), model.output["modifiers"].weight.item()
    ])  # fmt: skip
    score = (
        np.column_stack([np.ones(400), inputs[:, 0].numpy()])
        * ((residual - rest * effect) * rest * (1 - effect**2) * inside)[:, None]
    )
    assert np.abs(score.mean(axis=0)) == pytest.approx(0.0, abs=2e-4)  # the estimating equations of the second step hold
    assert float(outputs[:, EFFECT].mean()) == pytest.approx(-0.2, abs=0.1)


def test_folds_are_of_the_pseudonym_alone_and_halve_the_patients() -> None:
    names = [f"P{number}" for number in range(2000)]
    found = folds_of(names)
    assert set(found.tolist()) == {0.0, 1.0}
    assert 0.45 < found.mean() < 0.55
    assert np.array_equal(folds_of(names[::-1]), found[::-1])
    assert folds_of(["P1", "P1"]).tolist() == [found[1], found[1]]


def test_a_relative_effect_saves_more_where_there_is_more_to_lose() -> None:
    model = model_of("r_linear", scale="relative", shrinkage=0.0)
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
        model.output["average"].weight.fill_(-0.2)
        model.output["outcome"].weight[:, 0] = 1.0
    outputs = model(torch.tensor([[-3.0, 0, 0, 0, 0], [0.0, 0, 0, 0, 0]][:2])[:, : DESIGN.n_inputs])
    rare, common = outputs[:, EFFECT, 0].tolist()
    half = 1 / (1 + np.exp(-0.4))
    assert common == pytest.approx((1 - half) - half, abs=1e-6)  # logits of -0.4 and 0.4
    assert common < 3 * rare < 0


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("s_linear", {}, "unknown model"),
        ("constant", {"scale": "relative"}, "no option 'scale'"),
        ("r_linear", {"depth": 2}, "no option 'depth'"),
        ("r_linear", {"modifiers": "weight"}, "'weight' is no column"),
        ("r_linear", {"scale": "odds"}, "relative or difference"),
        ("r_linear", {"shrinkage": -1.0}, "from 0 to 100"),
        ("r_linear", {"shrinkage": "much"}, "from 0 to 100"),
    ],
)
def test_a_wrong_model_or_option_is_named(name: str, options: dict[str, str | int | float], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        build_effect_model(name, DESIGN, options, ())


def test_default_modifiers_are_those_that_the_plan_has() -> None:
    few = replace(DESIGN, names=("phenotype",))
    found = build_effect_model("r_linear", few, {}, ("age_years", "phenotype"))
    assert [few.input_names[place] for place in found.options.places] == ["phenotype=CIS", "phenotype=RRMS"]


def test_sqrt_pehe_is_a_root_mean_square_and_refuses_what_does_not_fit() -> None:
    assert sqrt_pehe(np.array([0.0, -0.4]), np.array([0.3, 0.0])) == pytest.approx(np.sqrt((0.09 + 0.16) / 2))
    with pytest.raises(DataError, match="one of each"):
        sqrt_pehe(np.zeros(2), np.zeros(3))
