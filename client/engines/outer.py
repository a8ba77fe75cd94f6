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

from client.device import PROCESSOR, Device
from client.engines.batch import Loss, Parameters, PatientBatch, Shape, physical, whole_slots
from client.engines.errors import Unsupported
from client.engines.frozen import Frozen, OneThread
from client.engines.grid import steps_per_unit
from client.engines.uses import Recorder
from client.release import Bound

PRODUCT_BITS = 45  # of a patient's largest value, in fractions of a step: 2^8 patients add up below 2^53
PATIENTS_MOST = 2**8
UNIT_BITS = 22  # of inputs, on the usual grid of 2^20 steps
SHORTEST = 1e-18  # an input shorter than this counts as this long: its squares are nothing in float32


class Side(NamedTuple):
    """One layer: inputs as whole numbers of length about 2^bits (n, inputs), and gradients at the output (n, outputs), float64.

    `length` (n, 1): what the gradient is multiplied with so that the outer product with `units` / 2^bits is the patient's own.
    `squares` (n, 1): of the norm of that product.
    """

    units: Tensor
    gradient: Tensor
    length: Tensor
    squares: Tensor


class Outer:
    """The engine; always `patients` at once, rounded up to whole slots."""

    name = "outer"

    def __init__(self, model: nn.Module, loss: Loss, shape: Shape, patients: int, device: Device = PROCESSOR) -> None:
        if shape.records != 1:
            raise Unsupported(f"{shape.records} records a patient: their gradients add up before the norm is taken")
        self.shape, self.device = shape, device
        self._loss = loss
        self.patients = min(whole_slots(patients), PATIENTS_MOST)
        self._frozen = Frozen(model, device)
        self._recorder = Recorder(self._frozen.model)
        layers = [layer for layer in self._frozen.model.modules() if list(layer.parameters(recurse=False))]
        if any(type(layer) is not nn.Linear for layer in layers) or len({id(each.weight) for each in layers}) < len(layers):
            raise Unsupported("layers other than nn.Linear, or a weight that two of them share")
        known = {id(value): name for name, value in self._frozen.parameters.items()}
        self._names = {
            layer: {short: known[id(value)] for short, value in layer.named_parameters(recurse=False)} for layer in layers
        }

    def fine_bits(self, bound: Bound) -> int:
        """A grid step has 2^fine_bits fractions in the sum."""
        return PRODUCT_BITS - bound.grid_bits

    @OneThread()
    def raw(self, parameters: Parameters, batch: PatientBatch) -> list[Tensor]:
        """All that a patient's contribution is computed from: inputs in whole numbers, gradients, lengths and norms of layers."""
        self._frozen.load(parameters)
        found: list[list[Tensor]] = []
        for part, real in physical(batch, self.patients):
            found.append([each[:real] for side in self._sides(part, UNIT_BITS).values() for each in side])
        return [torch.cat(each) for each in zip(*found, strict=True)]

    @OneThread()
    def add(self, parameters: Parameters, batch: PatientBatch, bound: Bound, total: NDArray[np.int64]) -> None:
        """Adds every patient's clipped gradient in fractions of a step to `total` (n_parameters,)."""
        self._frozen.load(parameters)
        into = dict(zip(self._frozen.sizes, torch.from_numpy(total).split(list(self._frozen.sizes.values())), strict=True))
        for part, _ in physical(batch, self.patients):
            for name, sums in self._sums(part, bound).items():
                into[name] += sums.flatten().to(torch.int64)

    @OneThread()
    def outputs(self, parameters: Parameters, batch: PatientBatch) -> Tensor:
        """The model's output for each record, (n, 1, ...)."""
        self._frozen.load(parameters)
        self._recorder.begin(0)
        found = []
        for part, real in physical(batch, self.patients):
            with torch.no_grad():
                outputs = self._frozen.outputs(part.on(self.device).inputs[:, 0])
                found.append(outputs.detach().unsqueeze(1)[:real].cpu())
        return torch.cat(found) if found else torch.zeros(0, 1)

    def _sums(self, part: PatientBatch, bound: Bound) -> dict[str, Tensor]:
        """Exact sums over the patients, by parameter; whole numbers in float64."""
        below = max(1, 23 - bound.grid_bits)  # bits of a clipped gradient below a step; the rest are the inputs'
        bits = PRODUCT_BITS - bound.grid_bits - below
        sides = self._sides(part, bits)
        squares = torch.zeros(self.patients, 1, dtype=torch.float64)
        for layer, side in sides.items():
            squares += side.squares
            if layer.bias is not None:
                squares += torch.linalg.vector_norm(side.gradient, dim=1, keepdim=True).square_()
        factors = steps_per_unit(squares, bound).mul_(2.0**below)
        if not bool(torch.isfinite(squares).all()):
            sides = {layer: _without(side, ~torch.isfinite(squares)) for layer, side in sides.items()}
        found: dict[str, Tensor] = {}
        for layer, side in sides.items():
            names = self._names[layer]
            found[names["weight"]] = (side.gradient * (factors * side.length)).trunc_().t() @ side.units
            if layer.bias is not None:
                found[names["bias"]] = (side.gradient * (factors * 2.0**bits)).trunc_().sum(dim=0)
        return found

    def _sides(self, part: PatientBatch, bits: int) -> dict[nn.Linear, Side]:
        """Of every layer that the loss depends on."""
        self._recorder.begin(self.patients)
        try:
            with torch.enable_grad():
                loss = self._frozen.total_loss(self._loss, part)
                if loss.requires_grad:
                    loss.backward()
            uses = self._recorder.uses
            if len({id(use.layer) for use in uses}) < len(uses) or any(use.inputs.dim() != 2 for use in uses):
                raise Unsupported("a linear layer that is called twice, or with more than one row a patient")
            given = [(use.layer, use.inputs.float().cpu(), use.gradient.float().cpu()) for use in uses if use.gradient is not None]
            return {layer: _side(inputs, gradient, bits) for layer, inputs, gradient in given}
        finally:  # also where memory ran out
            self._recorder.begin(0)


def _side(inputs: Tensor, gradient: Tensor, bits: int) -> Side:
    length = torch.linalg.vector_norm(inputs, dim=1, keepdim=True).clamp_(min=SHORTEST)
    units = (inputs * (2.0**bits / length)).round_().double()  # at most 2^bits: whole numbers in float32
    ups, length = gradient.double(), length.double()
    norms = torch.linalg.vector_norm(ups, dim=1, keepdim=True) * torch.linalg.vector_norm(units, dim=1, keepdim=True)
    return Side(units, ups, length, (norms * length * 2.0**-bits).square_())


def _without(side: Side, broken: Tensor) -> Side:
    return Side(*(each.masked_fill(broken, 0.0) for each in side))
