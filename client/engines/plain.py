"""The sum of all gradients as they are, for runs that are not private: backward passes over many at once."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.device import PROCESSOR, Device, out_of_memory, release_memory
from client.engines.batch import Loss, Parameters, PatientBatch, physical
from client.engines.frozen import Frozen

AT_ONCE = 256  # patients in one pass: only memory depends on it


def plain_sum(
    model: nn.Module, loss: Loss, parameters: Parameters, batches: Iterable[PatientBatch], device: Device = PROCESSOR
) -> NDArray[np.float64]:
    """Gradient of the patients' summed losses over all parameters, (n_parameters,), without bound and without noise."""
    frozen = Frozen(model, device)
    frozen.load(parameters)
    wanted = list(frozen.parameters.values())
    for value in wanted:
        value.requires_grad_(True)
    total = np.zeros(sum(frozen.sizes.values()))
    for batch in batches:
        for part, real in physical(batch, AT_ONCE):
            total += _within_memory(frozen, loss, part.part(0, real))
    return total


def _within_memory(frozen: Frozen, loss: Loss, part: PatientBatch) -> NDArray[np.float64]:
    """The sum over the patients of `part`, of one half and the other where memory does not hold them together."""
    try:
        wanted = list(frozen.parameters.values())
        found: tuple[Tensor, ...] = torch.autograd.grad(frozen.total_loss(loss, part), wanted, materialize_grads=True)
        return np.asarray(torch.cat([each.reshape(-1) for each in found]).double().cpu().numpy())
    except RuntimeError as error:
        if len(part) == 1 or not out_of_memory(error):
            raise
    release_memory()
    half = len(part) // 2
    return _within_memory(frozen, loss, part.part(0, half)) + _within_memory(frozen, loss, part.part(half, len(part)))
