"""One patient after the other by ordinary autograd: any layer, the memory of one patient. The default for 3D images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.device import CPU, PROCESSOR, Device
from client.engines.batch import Loss, Parameters, PatientBatch, Shape
from client.engines.frozen import Frozen, real_records
from client.engines.grid import EXACT_BITS, clip_to_grid
from client.engines.tiles import cut_single_volumes
from client.release import Bound


class Loop:
    """Gradient of each patient over its real records alone; who else is there never reaches the arithmetic."""

    name, patients = "loop", 1

    def __init__(self, model: nn.Module, loss: Loss, shape: Shape, device: Device = PROCESSOR) -> None:
        self.shape, self.device = shape, device
        self._loss = loss
        self._frozen = Frozen(model, device)
        if device.name == CPU:
            cut_single_volumes(self._frozen.model)
        for parameter in self._frozen.parameters.values():
            parameter.requires_grad_(True)

    def fine_bits(self, bound: Bound) -> int:
        """The sum is in whole grid steps."""
        return 0

    def raw(self, parameters: Parameters, batch: PatientBatch) -> list[Tensor]:
        """Gradients of each patient, one (n, size) for each parameter."""
        self._frozen.load(parameters)
        rows = [self._gradients(batch, at) for at in range(len(batch))]
        return [torch.cat(parts) for parts in zip(*rows, strict=True)]

    def add(self, parameters: Parameters, batch: PatientBatch, bound: Bound, total: NDArray[np.int64]) -> None:
        """Adds every patient's clipped gradient in grid steps to `total` (n_parameters,)."""
        self._frozen.load(parameters)
        into = torch.from_numpy(total).split(list(self._frozen.sizes.values()))
        together = max(1, 1 << max(0, EXACT_BITS - bound.grid_bits))  # their partial sums are whole numbers in float32
        for start in range(0, len(batch), together):
            sums: list[Tensor] = []
            for at in range(start, min(start + together, len(batch))):
                rows = self._gradients(batch, at)
                clip_to_grid(rows, bound)
                if sums:
                    torch._foreach_add_(sums, rows)
                else:
                    sums = rows
            for place, row in zip(into, sums, strict=True):
                place += row[0].to(torch.int64)

    def outputs(self, parameters: Parameters, batch: PatientBatch) -> Tensor:
        """The model's output for each record, (n, records, ...); NaN for padding."""
        self._frozen.load(parameters)
        found = []
        with torch.no_grad():
            for at in range(len(batch)):
                output = self._frozen.outputs(real_records(batch, at).on(self.device).inputs[0]).cpu()
                whole = output.new_full((self.shape.records, *output.shape[1:]), torch.nan)
                whole[batch.weights[at] != 0] = output
                found.append(whole)
        return torch.stack(found) if found else torch.zeros(0, self.shape.records)

    def _gradients(self, batch: PatientBatch, at: int) -> list[Tensor]:
        own, wanted = real_records(batch, at), list(self._frozen.parameters.values())
        if not own.weights.numel():
            return [torch.zeros(1, value.numel()) for value in wanted]
        with torch.enable_grad():
            found = self._frozen.losses(self._loss, own).sum()
            if not found.requires_grad:
                return [torch.zeros(1, value.numel()) for value in wanted]
            gradients = torch.autograd.grad(found, wanted, allow_unused=True)
        pairs = zip(gradients, wanted, strict=True)
        rows = [(torch.zeros_like(value) if each is None else each).reshape(1, -1) for each, value in pairs]
        if self.device.name == CPU:
            return rows
        return list(torch.cat(rows, dim=1).cpu().split([row.shape[1] for row in rows], dim=1))  # moved once, not tensor by tensor
