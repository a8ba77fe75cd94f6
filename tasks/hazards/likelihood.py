"""What hazards say: of a person's future, and how likely they made what was seen of it.

Logits z of a quarter give the chances 1 : exp(z_1) : exp(z_2) .. of staying and of each cause, given that nothing happened before
(multinomial discrete hazards; Tutz and Schmid 2016, chapter 8). With one cause that is the logistic hazard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from typing import Any

MOST: Final = 50.0  # of a logit's size: a chance of 2e-22, so that no sum of quarters overflows
NOT_THERE: Final = -1e9  # log of a chance that is not looked at, below all that can be
Floats = NDArray[np.float64]


def log_chances(outputs: Tensor, causes: int) -> tuple[Tensor, Tensor]:
    """Logs of the chances of staying (batch, bins) and of each cause (batch, bins, causes) in a quarter, for who got there."""
    logits = outputs.clamp(-MOST, MOST).reshape(*outputs.shape[: outputs.dim() - (causes > 1)], causes)
    stay = -functional.softplus(torch.logsumexp(logits, dim=-1))
    return stay, logits + stay.unsqueeze(-1)


def negative_log_likelihood(outputs: Tensor, labels: Tensor, causes: int) -> Tensor:
    """Per record, in nats: (batch,) from logits (batch, bins) or (batch, bins, causes) and labels (batch, 3) of a `Grid`.

    An event that was between two visits is as likely as it is in all the quarters between them together. Finite whatever the
    labels are: one that makes no sense counts as the nearest that does.
    """
    stay, causing = log_chances(outputs, causes)
    bins = stay.shape[-1]
    quarter = torch.arange(1, bins + 1, dtype=stay.dtype, device=stay.device)
    clean, seen, cause = (each.unsqueeze(-1) for each in labels.to(stay.dtype).round().unbind(-1))
    happened = cause.squeeze(-1) > 0
    before = stay.cumsum(-1) - stay
    survived = torch.where(quarter <= clean, stay, 0.0).sum(-1)
    last_clean = clean.clamp(0, bins - 1)
    last = torch.maximum(seen, last_clean + 1)
    mine = cause.clamp(1, causes) == torch.arange(1, causes + 1, dtype=stay.dtype, device=stay.device)
    ended = before + torch.where(mine.unsqueeze(-2), causing, 0.0).sum(-1)
    between = (quarter > last_clean) & (quarter <= last)
    event = torch.logsumexp(torch.where(between, ended, NOT_THERE), dim=-1)
    likelihood: Tensor = torch.where(happened, event, survived)
    return -likelihood


def cumulative_risks(outputs: NDArray[Any], causes: int) -> Floats:
    """Chance of each cause having come first by the end of each quarter, (n, bins, causes), from logits that may not be finite."""
    finite = np.nan_to_num(np.asarray(outputs, dtype=np.float64), nan=0.0, posinf=MOST, neginf=-MOST)
    risks: Floats = risks_by_quarter(torch.from_numpy(finite), causes).numpy()
    return risks


def risks_by_quarter(outputs: Tensor, causes: int) -> Tensor:
    """The same of finite logits, differentiable."""
    stay, causing = log_chances(outputs, causes)
    before = (stay.cumsum(-1) - stay).unsqueeze(-1)
    found: Tensor = (before + causing).exp().cumsum(-2)
    return found
