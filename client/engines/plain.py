"""The sum of all gradients as they are, for runs that are not private: one backward pass over everybody."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.engines.batch import Loss, Parameters, PatientBatch
from client.engines.frozen import Frozen


def plain_sum(model: nn.Module, loss: Loss, parameters: Parameters, batches: Iterable[PatientBatch]) -> NDArray[np.float64]:
    """Gradient of the patients' summed losses over all parameters, (n_parameters,), without bound and without noise."""
    frozen = Frozen(model)
    frozen.load(parameters)
    wanted = list(frozen.parameters.values())
    for value in wanted:
        value.requires_grad_(True)
    total = np.zeros(sum(frozen.sizes.values()))
    for batch in batches:
        if len(batch):
            found = torch.autograd.grad(frozen.total_loss(loss, batch), wanted, materialize_grads=True)
            total += torch.cat([each.reshape(-1) for each in found]).double().numpy()
    return total
