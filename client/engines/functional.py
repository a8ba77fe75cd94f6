"""Gradients by `vmap(grad)` over weights repeated for each patient: what the other engines do not know, if vmap does.

Repeated weights make every product a batch of small ones: with shared weights the linear algebra library orders its sums by
the size of the batch (the attack in tests/client/test_trainer_privacy.py).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import grad, vmap

from client.device import PROCESSOR, Device
from client.engines.batch import Loss, Parameters, PatientBatch, Shape, physical, whole_slots
from client.engines.frozen import Frozen, OneThread
from client.engines.grid import clip_to_grid
from client.release import Bound


class Functional:
    """The engine; holds 2 x `patients` x n_parameters float32."""

    name = "functional"

    def __init__(self, model: nn.Module, loss: Loss, shape: Shape, patients: int, device: Device = PROCESSOR) -> None:
        self.shape, self.device = shape, device
        self.patients = whole_slots(patients)
        self._frozen = Frozen(model, device)

        def loss_of(weights: Parameters, inputs: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
            return (loss(self._frozen.outputs(inputs, weights), labels) * counts).sum()

        def output_of(weights: Parameters, inputs: Tensor) -> Tensor:
            return self._frozen.outputs(inputs, weights)

        self._gradients = vmap(grad(loss_of))
        self._outputs = vmap(output_of)

    def fine_bits(self, bound: Bound) -> int:
        """The sum is in whole grid steps."""
        return 0

    @OneThread()
    def raw(self, parameters: Parameters, batch: PatientBatch) -> list[Tensor]:
        """Gradients of each patient, one (n, size) for each parameter."""
        weights = self._repeated(parameters)
        parts = [self._rows(weights, part, real) for part, real in physical(batch, self.patients)]
        return [torch.cat(each) for each in zip(*parts, strict=True)]

    @OneThread()
    def add(self, parameters: Parameters, batch: PatientBatch, bound: Bound, total: NDArray[np.int64]) -> None:
        """Adds every patient's clipped gradient in grid steps to `total` (n_parameters,)."""
        weights = self._repeated(parameters)
        into = torch.from_numpy(total).split(list(self._frozen.sizes.values()))
        for part, real in physical(batch, self.patients):
            rows = self._rows(weights, part, real)
            clip_to_grid(rows, bound)
            for place, row in zip(into, rows, strict=True):
                place += row.sum(dim=0, dtype=torch.float64).to(torch.int64)

    @OneThread()
    def outputs(self, parameters: Parameters, batch: PatientBatch) -> Tensor:
        """The model's output for each record, (n, records, ...); anything for padding."""
        weights = self._repeated(parameters)
        with torch.no_grad():
            parts = physical(batch, self.patients)
            found = [self._outputs(weights, part.on(self.device).inputs)[:real].cpu() for part, real in parts]
        return torch.cat(found) if found else torch.zeros(0, self.shape.records)

    def _repeated(self, parameters: Parameters) -> dict[str, Tensor]:
        self._frozen.load(parameters)
        n = self.patients
        return {name: value.expand(n, *value.shape).contiguous() for name, value in self._frozen.parameters.items()}

    def _rows(self, weights: dict[str, Tensor], part: PatientBatch, real: int) -> list[Tensor]:
        here = part.on(self.device)
        found = self._gradients(weights, here.inputs, here.labels, here.weights)
        return [found[name].reshape(self.patients, -1)[:real].contiguous().cpu() for name in self._frozen.parameters]
