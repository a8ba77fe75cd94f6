"""An engine's own copy of a model on a device: weights that no gradient is kept for, at addresses that do not change."""

import contextlib
import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from client.device import PROCESSOR, Device
from client.engines.batch import Loss, Parameters, PatientBatch
from client.engines.errors import Unsupported


class OneThread(contextlib.ContextDecorator):
    """Inside, torch uses one thread: several cut the work by its size, and a patient at a cut is computed otherwise."""

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        if self._before > 1:
            torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        if self._before > 1:
            torch.set_num_threads(self._before)


class Frozen:
    """The copy. Weights are copied into it, never taken over: a matrix kernel may depend on how its operands are aligned."""

    def __init__(self, model: nn.Module, device: Device = PROCESSOR) -> None:
        self.device = device
        self.model = device.copy_of(model)
        self.parameters = dict(self.model.named_parameters())
        for parameter in self.parameters.values():
            parameter.requires_grad_(False)

    @property
    def sizes(self) -> dict[str, int]:
        """Values of each parameter, in order."""
        return {name: math.prod(value.shape) for name, value in self.parameters.items()}

    def load(self, parameters: Parameters) -> None:
        """Takes the weights of a step."""
        if list(parameters) != list(self.parameters):
            raise Unsupported("the weights are not named like the model's parameters, or not in their order")
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(parameters[name])

    def outputs(self, inputs: Tensor, weights: Parameters | None = None) -> Tensor:
        """The model's outputs in float32, of inputs on the device; with `weights` in place of its own if given."""
        with self.device.autocast():
            found = self.model(inputs) if weights is None else functional_call(self.model, dict(weights), (inputs,))
        return self.device.widened(found)

    def losses(self, loss: Loss, batch: PatientBatch) -> Tensor:
        """Loss of each patient, (n,)."""
        found, weights = self._of_records(loss, batch)
        result: Tensor = (found * weights).view(batch.weights.shape).sum(dim=1)
        return result

    def total_loss(self, loss: Loss, batch: PatientBatch) -> Tensor:
        """The sum of all losses, for its gradients: that of one patient's outputs knows nothing of the others'."""
        found: Tensor = torch.dot(*self._of_records(loss, batch))
        return found

    def _of_records(self, loss: Loss, batch: PatientBatch) -> tuple[Tensor, Tensor]:
        inputs, labels, weights = batch.on(self.device).flat()
        found = loss(self.outputs(inputs), labels)
        if found.shape != weights.shape:
            raise Unsupported(f"a loss of shape {tuple(found.shape)} for {len(weights)} records: one value a record, never reduced")
        return found, weights


def real_records(batch: PatientBatch, at: int) -> PatientBatch:
    """Patient `at` alone, without padding: (1, m, ...)."""
    real = batch.weights[at] != 0
    return PatientBatch(*(part[at][real].unsqueeze(0) for part in (batch.inputs, batch.labels, batch.weights)))
