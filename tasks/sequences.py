"""Models over the visits before a prediction: the visits are cut out of the inputs, and what they say joins the rest late.

An input called `v3_edss` is the EDSS of the third visit from the end, `v3_edss missing` says that it was not measured, and
`v3_days missing` that there was no such visit. The last visit is the first step.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from tasks.errors import ContractError
from tasks.layers import PatientGRU, TransformerBlock

STEP: Final = re.compile(r"v([1-9]\d*)_(.+)")
NO_VISIT: Final = "days missing"


@dataclass(frozen=True)
class VisitLayout:
    """Where the visits stand among a model's inputs: `steps[k][c]` is the place of channel `c` of visit k + 1 from the end."""

    static: tuple[int, ...]
    channels: tuple[str, ...]
    steps: tuple[tuple[int, ...], ...]

    @property
    def absent(self) -> int:
        """The channel that is 1 where there is no visit."""
        return self.channels.index(NO_VISIT)


def visit_layout(names: Sequence[str]) -> VisitLayout:
    """The layout of inputs called `names`. `ContractError` unless each visit has the same ones, one of which says if it was."""
    static: list[int] = []
    steps: dict[int, dict[str, int]] = {}
    for place, name in enumerate(names):
        if found := STEP.fullmatch(name):
            steps.setdefault(int(found[1]), {})[found[2]] = place
        else:
            static.append(place)
    if not steps:
        raise ContractError("a model over visits needs columns of visits (v1_days, v1_edss, ...): add `visits` to the columns")
    first = tuple(steps.get(1, {}))
    if sorted(steps) != list(range(1, len(steps) + 1)) or any(tuple(channels) != first for channels in steps.values()):
        raise ContractError("a model over visits needs the same columns of each visit, from v1 on without a gap")
    if NO_VISIT not in first:
        raise ContractError("a model over visits needs the columns v1_days, v2_days, ...: they say which visits there are")
    return VisitLayout(tuple(static), first, tuple(tuple(steps[step].values()) for step in sorted(steps)))


class _Visits(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Cuts (n, n_inputs) into static inputs (n, n_static), visits in the order of time (n, steps, channels), present (n, steps)."""

    def __init__(self, layout: VisitLayout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layout = self.layout
        static = inputs[:, list(layout.static)]
        visits = torch.stack([inputs[:, list(places)] for places in reversed(layout.steps)], dim=1)
        return static, visits, 1.0 - visits[..., layout.absent]


class GruTrunk(nn.Module):  # type: ignore[misc]  # as above
    """(n, n_inputs) or (n_inputs,) to the static inputs and the state after the last visit, (n, n_static + width)."""

    def __init__(self, layout: VisitLayout, width: int) -> None:
        super().__init__()
        self.cut = _Visits(layout)
        self.gru = PatientGRU(len(layout.channels), width)
        self.width = len(layout.static) + width

    def forward(self, inputs: Tensor) -> Tensor:
        """Where there is no visit the state stays, so that a patient without any has zeros."""
        if inputs.dim() == 1:
            return self(inputs.unsqueeze(0)).squeeze(0)
        static, visits, present = self.cut(inputs)
        states = self.gru(visits, present)
        return torch.cat([static, states[:, -1]], dim=-1)


class TransformerTrunk(nn.Module):  # type: ignore[misc]  # as above
    """(n, n_inputs) or (n_inputs,) to the static inputs and the mean over the visits there are, (n, n_static + width).

    The order of visits is in their days before the prediction, so there is no encoding of positions.
    """

    def __init__(self, layout: VisitLayout, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.cut = _Visits(layout)
        self.entry = nn.Linear(len(layout.channels), width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, 2 * width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.width = len(layout.static) + width

    def forward(self, inputs: Tensor) -> Tensor:
        """A patient without any visit has zeros."""
        if inputs.dim() == 1:
            return self(inputs.unsqueeze(0)).squeeze(0)
        static, visits, present = self.cut(inputs)
        features = self.entry(visits)
        for block in self.blocks:
            features = block(features, present)
        there = present.unsqueeze(-1)
        mean = (self.norm(features) * there).sum(dim=1) / there.sum(dim=1).clamp(min=1.0)
        return torch.cat([static, mean], dim=-1)
