"""A finished model as a function of inputs, on a device: as many at once as memory holds, outputs as float32 on the processor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from client.device import PROCESSOR, Device, out_of_memory, release_memory
from client.errors import TrainerError
from tasks.imaging.task import Apply


def applied(model: nn.Module, device: Device, parameters: Mapping[str, Tensor] | None = None) -> Apply:
    """`model`, with `parameters` in place of its own if given, for inputs (n, ...) on the processor."""
    if device != PROCESSOR:
        return Applied(model, device, parameters)

    def apply(inputs: Tensor) -> Tensor:
        found: Tensor = model(inputs) if parameters is None else functional_call(model, dict(parameters), (inputs,))
        return found

    return apply


class Applied:
    """Halves what is computed at once whenever memory does not hold it, down to one."""

    def __init__(self, model: nn.Module, device: Device, parameters: Mapping[str, Tensor] | None = None) -> None:
        self._device = device
        self._model = device.copy_of(model)
        if parameters is not None:
            with torch.no_grad():
                for name, value in self._model.named_parameters():
                    value.copy_(parameters[name])
        self._at_once = 0  # none failed yet

    def __call__(self, inputs: Tensor) -> Tensor:
        """Raises `TrainerError` if memory does not hold one."""
        while True:
            at_once = max(1, min(self._at_once or len(inputs), len(inputs)))
            try:
                return torch.cat([self._computed(part) for part in inputs.split(at_once)])
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if at_once == 1:
                    raise TrainerError(no_room(self._device, f"one input of shape {tuple(inputs.shape[1:])}")) from error
                self._at_once = at_once // 2
            release_memory()

    def _computed(self, part: Tensor) -> Tensor:
        with self._device.autocast():
            found = self._model(part.to(self._device.name))
        return self._device.widened(found).cpu()


def no_room(device: Device, what: str) -> str:
    """A sentence for who runs the machine."""
    other = "" if device.name == PROCESSOR.name else ", or set `device: cpu` in site.yaml"
    return f"{what}: more than the memory of device {device.name} holds; end other programs that use it{other}"
