"""For models of linear layers and one record a patient: the clipped sum by one exact product, no patient's gradient in memory.

The gradient of a weight is an outer product v u' of the gradient at the output (times |input|) and the unit input. Both are
rounded to whole numbers, u first, and the norm is that of what is left; then v is clipped and rounded towards zero, which
never lengthens it. Products and their sum over patients stay below 2^53: one float64 product adds them exactly, in any order.
The sum is kept in fractions of a grid step and rounded once: removing a patient moves it by at most the bound, and a whole
step of each coordinate by rounding, which `privacy.noise.sensitivity_factor` charges.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.engines.batch import Loss, Parameters, PatientBatch, Shape, physical, whole_slots
from client.engines.errors import Unsupported
from client.engines.frozen import Frozen
from client.engines.grid import steps_per_unit
from client.engines.uses import Recorder
from client.release import Bound

PRODUCT_BITS = 45  # of a patient's largest value, in fractions of a step: 2^8 patients add up below 2^53
PATIENTS_MOST = 2**8


class Side(NamedTuple):
    """One layer: unit inputs in whole numbers (n, inputs), gradients at the output (n, outputs) float64, and v."""

    units: Tensor
    gradient: Tensor
    lengthened: Tensor


class Outer:
    """The engine; always `patients` at once, rounded up to whole slots."""

    name = "outer"

    def __init__(self, model: nn.Module, loss: Loss, shape: Shape, patients: int) -> None:
        if shape.records != 1:
            raise Unsupported(f"{shape.records} records a patient: their gradients add up before the norm is taken")
        self.shape = shape
        self._loss = loss
        self._patients = min(whole_slots(patients), PATIENTS_MOST)
        self._frozen = Frozen(model)
        self._recorder = Recorder(self._frozen.model)
        layers = [layer for layer in self._frozen.model.modules() if list(layer.parameters(recurse=False))]
        if any(type(layer) is not nn.Linear for layer in layers) or len({id(each.weight) for each in layers}) < len(layers):
            raise Unsupported("layers other than nn.Linear, or a weight that two of them share")

    def fine_bits(self, bound: Bound) -> int:
        """A grid step has 2^fine_bits fractions in the sum."""
        return PRODUCT_BITS - bound.grid_bits

    def raw(self, parameters: Parameters, batch: PatientBatch) -> list[Tensor]:
        """All that a patient's contribution is computed from: for each layer u, v and the output's gradient; squared norms."""
        self._frozen.load(parameters)
        found: list[list[Tensor]] = []
        for part, real in physical(batch, self._patients):
            sides = self._sides(part, 2.0**20)
            flat = [each for side in sides if side for each in side]
            found.append([each[:real] for each in (*flat, self._squares(sides, 2.0**20))])
        return [torch.cat(each) for each in zip(*found, strict=True)]

    def add(self, parameters: Parameters, batch: PatientBatch, bound: Bound, total: NDArray[np.int64]) -> None:
        """Adds every patient's clipped gradient in fractions of a step to `total` (n_parameters,)."""
        self._frozen.load(parameters)
        for part, _ in physical(batch, self._patients):
            sums = self._sums(part, bound)
            flat = [sums[name].reshape(-1) if name in sums else value.new_zeros(value.numel()) for name, value in self._named()]
            torch.from_numpy(total).add_(torch.cat(flat).to(torch.int64))

    def outputs(self, parameters: Parameters, batch: PatientBatch) -> Tensor:
        """The model's output for each record, (n, 1, ...)."""
        self._frozen.load(parameters)
        self._recorder.begin(0)
        found = []
        for part, real in physical(batch, self._patients):
            with torch.no_grad():
                found.append(self._frozen.model(part.inputs[:, 0]).detach().unsqueeze(1)[:real])
        return torch.cat(found) if found else torch.zeros(0, 1)

    def _named(self) -> list[tuple[str, Tensor]]:
        return list(self._frozen.parameters.items())

    def _sums(self, part: PatientBatch, bound: Bound) -> dict[str, Tensor]:
        """Exact sums over the patients, by parameter; whole numbers in float64."""
        fine = bound.grid_bits
        below = max(1, 23 - fine)  # bits of v below a step; the rest are u's
        scale = 2.0 ** (PRODUCT_BITS - fine - below)
        sides = self._sides(part, scale)
        squares = self._squares(sides, scale)
        factors = steps_per_unit(squares, bound).unsqueeze(1)
        broken = ~torch.isfinite(squares)
        strange = bool(broken.any())
        found: dict[str, Tensor] = {}
        for use, side in zip(self._recorder.uses, sides, strict=True):
            if side is None:
                continue
            units, gradient, lengthened = (each.masked_fill(broken.unsqueeze(1), 0.0) for each in side) if strange else side
            found[use.names["weight"]] = (lengthened * (factors * 2.0**below)).trunc_().t() @ units
            if "bias" in use.names:
                found[use.names["bias"]] = (gradient * (factors * (2.0**below * scale))).trunc_().sum(dim=0)
        self._recorder.begin(0)
        return found

    def _sides(self, part: PatientBatch, scale: float) -> list[Side | None]:
        self._recorder.begin(self._patients)
        with torch.enable_grad():
            loss = self._frozen.losses(self._loss, part).sum()
            if loss.requires_grad:
                loss.backward()
        uses = self._recorder.uses
        if len({id(use.layer) for use in uses}) < len(uses) or any(use.inputs.dim() != 2 for use in uses):
            raise Unsupported("a linear layer that is called twice, or with more than one row a patient")
        return [None if use.gradient is None else _side(use.inputs, use.gradient, scale) for use in uses]

    def _squares(self, sides: list[Side | None], scale: float) -> Tensor:
        """Squared norm of each patient's whole gradient, (patients,) float64."""
        total = torch.zeros(self._patients, dtype=torch.float64)
        for use, side in zip(self._recorder.uses, sides, strict=True):
            if side is not None:
                total += side.lengthened.square().sum(dim=1) * (side.units.square().sum(dim=1) / scale**2)
                if "bias" in use.names:
                    total += side.gradient.square().sum(dim=1)
        return total


def _side(inputs: Tensor, gradient: Tensor, scale: float) -> Side:
    rows, ups = inputs.double(), gradient.double()
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    units = (rows * (scale / lengths.clamp(min=1e-300))).round_()
    return Side(units, ups, ups * lengths)
