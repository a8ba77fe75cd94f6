"""Nuisances of each fold and one effect, all from one record's inputs: linear layers, so that every fast engine serves them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from tasks.effects.folds import FOLDS
from tasks.errors import ContractError
from tasks.trunks import TanhLayers

if TYPE_CHECKING:
    from tasks.base import Options
    from tasks.features import Design

LEARNERS: Final[Mapping[str, tuple[str, tuple[int, ...]]]] = {
    "r_linear": ("r", ()), "dr_linear": ("dr", ()), "r_mlp": ("r", (32,)), "constant": ("r", ()),
}  # fmt: skip
SCALES: Final = ("relative", "difference")
STEEPEST: Final = 4.0  # 1 / (p (1 - p)) at p = 1/2: a unit of the effect's parameter is a unit of risk there, on either scale
MOST_SHRINKAGE: Final = 100.0


@dataclass(frozen=True)
class EffectOptions:
    """`places`: of the inputs that may modify the effect. `scale`: on which it is the same for everybody but for these.

    `shrinkage` pulls what the modifiers do towards nothing: with 1 as strongly as one patient's squared misfit per unit.
    """

    learner: str
    hidden: tuple[int, ...]
    places: tuple[int, ...]
    scale: str
    shrinkage: float


class EffectModel(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """(batch, n_inputs) or (n_inputs,) to (..., rows, folds), rows as `tasks.effects.learners` has them.

    On the scale `relative` modifiers act on the logarithm of the odds ratio, and a patient's difference of risks follows from his
    own baseline risk, as the fold's nuisance has it: the same relative effect saves more where there is more to lose (Kent et al.
    2020, PATH statement). No gradient of the effect reaches the nuisances.
    """

    def __init__(self, n_inputs: int, options: EffectOptions) -> None:
        super().__init__()
        self.options = options
        arms = 1 if options.learner == "r" else 2
        self.hidden = TanhLayers(len(options.places), options.hidden)
        parts = {"propensity": nn.Linear(n_inputs, FOLDS), "outcome": nn.Linear(n_inputs, arms * FOLDS)}
        parts["average"] = nn.Linear(1, 1, bias=False)
        if options.places:
            parts["modifiers"] = nn.Linear((len(options.places), *options.hidden)[-1], 1, bias=False)
        self.output = nn.ModuleDict(parts)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (..., rows, folds)."""
        propensity = self.output["propensity"](inputs).unsqueeze(-2)
        outcome = self.output["outcome"](inputs).unflatten(-1, (-1, FOLDS))
        average = self.output["average"](torch.ones_like(inputs[..., :1]))
        modified = self._modified(inputs, average)
        # A slope in the inputs (`tasks.predicting.reasons`) goes through the baseline risk, too; one in the parameters does not.
        effect = self._effect(average + modified, outcome if inputs.requires_grad else outcome.detach())
        penalty = math.sqrt(self.options.shrinkage) * modified
        return torch.cat([propensity, outcome, effect.unsqueeze(-2), penalty.expand_as(effect).unsqueeze(-2)], dim=-2)

    def _modified(self, inputs: Tensor, average: Tensor) -> Tensor:
        if not self.options.places:
            return torch.zeros_like(average)
        chosen = torch.stack([inputs[..., place] for place in self.options.places], dim=-1)
        found: Tensor = self.output["modifiers"](self.hidden(chosen))
        return found

    def _effect(self, units: Tensor, outcome: Tensor) -> Tensor:
        """Differences of risk, (..., folds), from `units` (..., 1) and logits (..., arms, folds)."""
        if self.options.scale == "difference":
            return torch.tanh(units).expand_as(outcome[..., 0, :])
        middle, half = outcome.mean(-2), 0.5 * STEEPEST * units
        return torch.sigmoid(middle + half) - torch.sigmoid(middle - half)


def build_effect_model(name: str, design: Design, options: Options, modifiers: Sequence[str]) -> EffectModel:
    """The model called `name`:

        r_linear, dr_linear   effect linear in the modifiers
        r_mlp                 effect by one hidden layer of 32
        constant              the same difference of risks for everybody: what the others have to beat

    Options of all but `constant`: `modifiers` ("age_years,relapses_1y"; by default those given, as far as the design has them),
    `scale` (relative, difference), `shrinkage` (0 to 100). `ContractError` for an unknown name, option or value.
    """
    if name not in LEARNERS:
        raise ContractError(f"unknown model {name!r}; known: {', '.join(LEARNERS)}")
    known = () if name == "constant" else ("modifiers", "scale", "shrinkage")
    if strange := sorted(set(options) - set(known)):
        raise ContractError(f"model {name} has no option {strange[0]!r}; known: {', '.join(known) or 'none'}")
    learner, hidden = LEARNERS[name]
    if name == "constant":
        return EffectModel(design.n_inputs, EffectOptions(learner, (), (), "difference", 0.0))
    places = _places(design, _named(options, design, modifiers))
    return EffectModel(
        design.n_inputs, EffectOptions(learner, hidden if places else (), places, _scale(options), _shrinkage(options))
    )


def _named(options: Options, design: Design, default: Sequence[str]) -> tuple[str, ...]:
    in_use = [column.name for column in design.columns]
    if "modifiers" not in options:
        return tuple(name for name in default if name in in_use)
    names = tuple(part.strip() for part in str(options["modifiers"]).split(",") if part.strip())
    if strange := [name for name in names if name not in in_use]:
        raise ContractError(f"modifier {strange[0]!r} is no column of the plan; it has {', '.join(in_use)}")
    return names


def _places(design: Design, names: Sequence[str]) -> tuple[int, ...]:
    wanted = {name for column in design.columns if column.name in names for name in design.inputs_of(column)}
    return tuple(place for place, name in enumerate(design.input_names) if name in wanted and not name.endswith(" missing"))


def _scale(options: Options) -> str:
    scale = str(options.get("scale", SCALES[0]))
    if scale not in SCALES:
        raise ContractError(f"scale is {scale!r}: {' or '.join(SCALES)}")
    return scale


def _shrinkage(options: Options) -> float:
    value = options.get("shrinkage", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= MOST_SHRINKAGE:
        raise ContractError(f"shrinkage is {value!r}: a number from 0 to {MOST_SHRINKAGE:g}")
    return float(value)
