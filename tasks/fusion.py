"""Late fusion of kinds of data with gates: how much each counts depends on which of them this patient has.

Inputs of the kind `clinical` go on as they are. Every other kind has features of its own, which are nothing where all of it is
missing, and a gate between 0 and 1 that knows which kinds are there: an OCT may tell more of whom nobody has scanned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from tasks.errors import ContractError

if TYPE_CHECKING:
    from tasks.features import Design

CORE: Final = "clinical"
MISSING: Final = " missing"


@dataclass(frozen=True)
class Kind:
    """Places of one kind of data among the inputs: of all its inputs, and of those that say that a column is missing."""

    inputs: tuple[int, ...]
    masks: tuple[int, ...]


def fusion_layout(design: Design) -> tuple[tuple[int, ...], tuple[Kind, ...]]:
    """Places of the clinical inputs, and the other kinds by name. `ContractError` without any other kind."""
    kinds = design.input_modalities
    found = []
    for name in sorted(set(kinds) - {CORE}):
        places = tuple(place for place, kind in enumerate(kinds) if kind == name)
        found.append(Kind(places, tuple(place for place in places if design.input_names[place].endswith(MISSING))))
    if not found:
        raise ContractError("model gated needs columns of another kind of data than clinical: add modalities")
    return tuple(place for place, kind in enumerate(kinds) if kind == CORE), tuple(found)


class GatedTrunk(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """(..., n_inputs) to the clinical inputs and `width` gated features of each other kind, (..., n_core + kinds * width).

    A kind counts as there if one of its columns is; one whose columns do not say that they are missing always is.
    """

    def __init__(self, design: Design, width: int) -> None:
        super().__init__()
        self.core, self.kinds = fusion_layout(design)
        self.features = nn.ModuleList(nn.Linear(len(kind.inputs), width) for kind in self.kinds)
        self.gates = nn.Linear(len(self.kinds), len(self.kinds))
        self.width = len(self.core) + width * len(self.kinds)

    def forward(self, inputs: Tensor) -> Tensor:
        """Clinical inputs first, then each kind's features."""
        there = torch.stack([self._there(inputs, kind) for kind in self.kinds], dim=-1)
        gates = there * torch.sigmoid(self.gates(there))
        parts = [inputs[..., list(self.core)]]
        for at, (kind, layer) in enumerate(zip(self.kinds, self.features, strict=True)):
            parts.append(torch.tanh(layer(inputs[..., list(kind.inputs)])) * gates[..., at : at + 1])
        return torch.cat(parts, dim=-1)

    def _there(self, inputs: Tensor, kind: Kind) -> Tensor:
        if not kind.masks:
            return torch.ones_like(inputs[..., 0])
        return 1.0 - inputs[..., list(kind.masks)].amin(dim=-1)
