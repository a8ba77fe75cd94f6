"""The sum of all gradients as they are, for runs that are not private: backward passes over many at once."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.engines.batch import Loss, Parameters, PatientBatch, physical
from client.engines.frozen import Frozen

AT_ONCE = 256  # patients in one pass: only memory depends on it


def plain_sum(model: nn.Module, loss: Loss, parameters: Parameters, batches: Iterable[PatientBatch]) -> NDArray[np.float64]:
    """Gradient of the patients' summed losses over all parameters, (n_parameters,), without bound and without noise."""
    frozen = Frozen(model)
    frozen.load(parameters)
    wanted = list(frozen.parameters.values())
    for value in wanted:
        value.requires_grad_(True)
    total = np.zeros(sum(frozen.sizes.values()))
    for batch in batches:
        for part, real in physical(batch, AT_ONCE):
            found = torch.autograd.grad(frozen.total_loss(loss, part.part(0, real)), wanted, materialize_grads=True)
            total += torch.cat([each.reshape(-1) for each in found]).double().numpy()
    return total
