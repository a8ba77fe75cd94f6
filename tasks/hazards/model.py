"""Hazard models: scores of the inputs, shared by all quarters, on top of a baseline hazard for each quarter and cause."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from tasks.errors import ContractError
from tasks.models import trunk

if TYPE_CHECKING:
    from tasks.base import Options
    from tasks.features import Design

EFFECTS: Final = {"constant": 1, "trend": 2}  # how effects may change with time: not, or along a straight line
START: Final = 0.02  # hazard of a quarter, all causes together, before anything is learnt: public, near that of a clinic


class Hazards(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """(batch, n_inputs) or (n_inputs,) to logits (batch, bins) or (bins,); with several causes (batch, bins, causes).

    logit(quarter, cause) = baseline(quarter, cause) + score(cause) [+ trend(cause) * time], time from -1 in the first quarter to 1
    in the last; scores and trends are linear in the features (batch, width) of `hidden`. One cause with constant effects is the
    proportional odds form of the Cox model in discrete time (Cox 1972, section 6).
    """

    def __init__(self, hidden: nn.Module, width: int, *, bins: int, causes: int, effects: str = "constant") -> None:
        super().__init__()
        self.bins, self.causes, self.terms = bins, causes, EFFECTS[effects]
        self._start = math.log(START / causes / (1.0 - START))
        self.hidden = hidden
        # Called output, so that all start at 0. The level of all quarters is the scores' bias, so that it moves as one.
        self.output = nn.ModuleDict({
            "scores": nn.Linear(width, self.terms * causes), "baseline": nn.Linear(1, bins * causes, bias=False),
        })  # fmt: skip

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits; see the class."""
        baseline = self.output["baseline"](torch.ones_like(inputs[..., :1])).unflatten(-1, (self.bins, self.causes))
        scores = self.output["scores"](self.hidden(inputs)).unflatten(-1, (self.terms, self.causes))
        logits: Tensor = self._start + baseline + scores[..., :1, :]
        if self.terms > 1:
            time = torch.linspace(-1.0, 1.0, self.bins, dtype=inputs.dtype, device=inputs.device).unsqueeze(-1)
            logits = logits + time * scores[..., 1:, :]
        return logits.squeeze(-1) if self.causes == 1 else logits


def build_model(name: str, design: Design, options: Options, *, bins: int, causes: int) -> nn.Module:
    """Any model of `tasks.models` below the hazards, with its options and one more, `effects`: constant or trend.

    `ContractError` for another name, option or value.
    """
    effects = str(options.get("effects", "constant"))
    if effects not in EFFECTS:
        raise ContractError(f"option effects is {effects!r}: {' or '.join(EFFECTS)}")
    own = {option: value for option, value in options.items() if option != "effects"}
    return Hazards(*trunk(name, design, own), bins=bins, causes=causes, effects=effects)
