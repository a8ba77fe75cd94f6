"""Which inputs made the prediction what it is: integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365).

Contributions are on the scale of the model's own score (log-odds, for a risk) and add up to the difference between the patient and
the average patient of the training data: numbers at their mean, nothing missing, no sex and no class of therapy more likely. What
the model responds to is not what causes the outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.features import Design, Inputs
from tasks.models import split_parameters

STEPS: Final = (64, 512)  # of the path, midpoint rule: 64 are exact for linear models; more where a bend falls between two
EXACT: Final = 1e-3  # of the score: what is left over, above which more steps are taken
Floats = NDArray[np.float64]
Score = Callable[[Tensor], Tensor]  # outputs (batch, ...) of a model -> one number each, (batch,)


def contributions(model: nn.Module, weights: NDArray[np.float32], inputs: Inputs, score: Score) -> Floats:
    """What each model input adds to each record's score, (n_records, n_inputs); rows sum to score(record) - score(average)."""
    parameters = split_parameters(model, weights)
    ends = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))

    def scored(points: Tensor) -> Tensor:
        return score(torch.func.functional_call(model, parameters, (points,)))

    with torch.no_grad():
        whole = (scored(ends) - scored(torch.zeros_like(ends[:1]))).double()
    found, left = torch.zeros_like(ends, dtype=torch.float64), torch.arange(len(ends))
    for steps in STEPS:
        if len(left):
            found[left] = _integrated(scored, ends[left], steps)
            left = torch.nonzero((found.sum(1) - whole).abs() > EXACT)[:, 0]
    return np.asarray(_closed(found, whole).numpy(), dtype=np.float64)


def _closed(found: Tensor, whole: Tensor) -> Tensor:
    """`found` (n_records, n_inputs) with what the steps left over shared out by size, so that rows sum to `whole` (n_records,)."""
    size = found.abs()
    return found + (whole - found.sum(1))[:, None] * size / size.sum(1, keepdim=True).clamp(min=1e-300)


def _integrated(scored: Score, ends: Tensor, steps: int) -> Tensor:
    """Slopes along the path from the average patient to each of `ends`, times its length, (n_records, n_inputs)."""
    total = torch.zeros_like(ends, dtype=torch.float64)
    for step in range(steps):
        point = ((step + 0.5) / steps * ends).requires_grad_(True)
        (slope,) = torch.autograd.grad(scored(point).sum(), point)
        total += slope.double() / steps
    return total * ends.double()


def by_column(design: Design, parts: Floats) -> dict[str, Floats]:
    """The same by column of the contract, (n_records,) each: categories and the input for "missing" count with their column."""
    found: dict[str, Floats] = {}
    at = 0
    for column in design.columns:
        width = len(design.inputs_of(column))
        found[column.name] = parts[:, at : at + width].sum(axis=1)
        at += width
    return found
