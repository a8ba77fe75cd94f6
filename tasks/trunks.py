"""What models share below their outputs: from the inputs of one record to features, on which any task lays its own output layer.

No trunk has a buffer, and its constants are Python numbers: the plan's parameters are all there is.
"""

from __future__ import annotations

import itertools
from typing import Final

import torch
from torch import Tensor, nn

KNOTS: Final = (-1.0, 0.0, 1.0)  # of standardised inputs


class TanhLayers(nn.ModuleList):  # type: ignore[misc]  # torch is not followed by mypy
    """Layers of a perceptron: (..., n_inputs) to (..., last width).

    Bounded activations keep per-patient gradients small, so that clipping cuts less (Papernot et al. 2021).
    """

    def __init__(self, n_inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__(nn.Linear(a, b) for a, b in itertools.pairwise((n_inputs, *widths)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Features after the last layer."""
        for layer in self:
            inputs = torch.tanh(layer(inputs))
        return inputs


class Hinges(nn.Module):  # type: ignore[misc]  # as above
    """Linear splines: (..., n_inputs) to all inputs and, for each numeric one, a hinge at each of `KNOTS`.

    Each hinge opens away from 0, so that a missing value, which is 0, moves none, and most are 0 for most patients: the gradient
    of an output is hardly longer than that of logistic regression. With the input itself they span all piecewise linear functions
    with these knots (truncated powers of degree 1; Hastie et al., Elements of Statistical Learning, 5.2).
    """

    def __init__(self, numeric: tuple[int, ...]) -> None:
        super().__init__()
        self.numeric = numeric

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., n_inputs + len(KNOTS) * len(numeric)), the hinges knot by knot."""
        numbers = torch.stack([inputs[..., place] for place in self.numeric], dim=-1)
        hinges = [torch.relu(numbers - knot if knot >= 0 else knot - numbers) for knot in KNOTS]
        return torch.cat([inputs, *hinges], dim=-1)
