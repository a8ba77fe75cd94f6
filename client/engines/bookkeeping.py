"""One backward pass over many patients, then every patient's gradient by one product for each weight (book-keeping).

Bu et al. 2023 (arXiv 2210.00038) keep layer inputs and output gradients; here the gradients of a few patients at a time are
made from them inside the cache, clipped, rounded to the grid and added exactly. Nothing of a patient's arithmetic depends on
the others as long as batches have one fixed shape, which `client.engines.checks` confirms slot by slot.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.device import PROCESSOR, Device
from client.engines.batch import Loss, Parameters, PatientBatch, Shape, physical, whole_slots
from client.engines.frozen import Frozen, OneThread
from client.engines.grid import Workspace
from client.engines.uses import Recorder, Use
from client.release import Bound

BLOCK = 16  # patients whose gradients are in memory together: 16 of 2^20 steps add up exactly in float32
BLOCK_BYTES = 2**23  # and no more of them than this, where one patient's gradient is large


class Bookkeeping:
    """For models whose parameters all belong to layers with a rule; always `patients` at once, rounded up to whole slots."""

    name = "bookkeeping"

    def __init__(self, model: nn.Module, loss: Loss, shape: Shape, patients: int, device: Device = PROCESSOR) -> None:
        self.shape, self.device = shape, device
        self._loss = loss
        self.patients = whole_slots(patients)
        self._frozen = Frozen(model, device)
        self._recorder = Recorder(self._frozen.model)
        n_bytes = 4 * sum(self._frozen.sizes.values())
        self._block = max(1, min(BLOCK, self.patients, BLOCK_BYTES // max(n_bytes, 1)))
        self._space = Workspace({name: tuple(value.shape) for name, value in self._frozen.parameters.items()}, self._block)
        # Where rules write: the workspace itself, or on another device rows that are copied into it.
        self._rows = self._space.rows if device == PROCESSOR else self._space.rows_on(device)

    def fine_bits(self, bound: Bound) -> int:
        """The sum is in whole grid steps."""
        return 0

    @OneThread()
    def raw(self, parameters: Parameters, batch: PatientBatch) -> list[Tensor]:
        """Gradients of each patient, one (n, size) for each parameter."""
        self._frozen.load(parameters)
        found: list[list[Tensor]] = []
        for part, real in physical(batch, self.patients):
            for n in self._blocks(part, real):
                found.append([self._space.rows[name][:n].flatten(1).clone() for name in self._frozen.parameters])
        return [torch.cat(each) for each in zip(*found, strict=True)]

    @OneThread()
    def add(self, parameters: Parameters, batch: PatientBatch, bound: Bound, total: NDArray[np.int64]) -> None:
        """Adds every patient's clipped gradient in grid steps to `total` (n_parameters,)."""
        self._frozen.load(parameters)
        into = dict(zip(self._frozen.sizes, torch.from_numpy(total).split(list(self._frozen.sizes.values())), strict=True))
        for part, real in physical(batch, self.patients):
            steps = self._space.new_steps()
            for n in self._blocks(part, real):
                self._space.add_to(steps, n, bound)
            for name, sums in self._space.named(steps).items():
                into[name] += sums.to(torch.int64)

    @OneThread()
    def outputs(self, parameters: Parameters, batch: PatientBatch) -> Tensor:
        """The model's output for each record, (n, records, ...); anything for padding."""
        self._frozen.load(parameters)
        self._recorder.begin(0)
        found = []
        for part, real in physical(batch, self.patients):
            inputs = part.on(self.device).flat()[0]
            with torch.no_grad():
                found.append(self._frozen.outputs(inputs).detach().unflatten(0, (self.patients, -1))[:real].cpu())
        return torch.cat(found) if found else torch.zeros(0, self.shape.records)

    def _blocks(self, part: PatientBatch, real: int) -> Iterator[int]:
        """Fills the workspace with the gradients of a few patients at a time, and says of how many."""
        try:
            uses = self._backward(part)
            for start in range(0, real, self._block):
                # A block is computed whole even where its last slots are empty: every product keeps its shape.
                end = min(start + self._block, self.patients)
                self._fill(uses, start, end)
                yield min(end, real) - start
        finally:  # also where memory ran out: what is recorded is most of it
            self._recorder.begin(0)

    def _backward(self, part: PatientBatch) -> list[Use]:
        self._recorder.begin(part.weights.numel())
        with torch.enable_grad():
            loss = self._frozen.total_loss(self._loss, part)
            if loss.requires_grad:
                loss.backward()
        return self._recorder.uses

    def _fill(self, uses: list[Use], start: int, end: int) -> None:
        n, each = end - start, self.shape.records
        written: set[str] = set()
        for use in uses:
            if use.gradient is None:
                continue
            fresh = written.isdisjoint(use.names.values())
            out = {
                short: self._rows[name][:n] if fresh else torch.empty_like(self._rows[name][:n])
                for short, name in use.names.items()
            }
            own = slice(start * each, end * each)
            use.rule(use.layer, _widened(use.inputs[own]), _widened(use.gradient[own]), n, out)
            if not fresh:  # a layer called twice, or a weight that two layers share
                for short, name in use.names.items():
                    if name in written:
                        self._rows[name][:n] += out[short]
                    else:
                        self._rows[name][:n] = out[short]
            written.update(use.names.values())
        for name, row in self._rows.items():
            if name not in written:
                row.zero_()
            if row is not self._space.rows[name]:
                self._space.rows[name].copy_(row)


def _widened(values: Tensor) -> Tensor:
    """What autocast left in 16 bits as float32, so that products of it round no further; anything else as it is."""
    return values.float() if values.dtype == torch.bfloat16 else values
