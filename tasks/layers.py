"""Recurrent and attention layers over a patient's visits whose gradients can be taken per patient at the cost of one product.

Every axis but the first belongs to one record, and no layer mixes records. Weights sit in `nn.Linear`, `nn.LayerNorm` and
`Recurrence` alone, for which `client.engines` knows the gradient of each patient from a layer's input and its output's gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.errors import ContractError


class Recurrence(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """The recurrent half of a GRU (Cho et al. 2014): gate inputs (n, visits, 3 * width) to states (n, visits, width).

    Gates in the order reset, update, candidate; the reset gate is applied after the recurrent product, as in cuDNN and
    `torch.nn.GRU`. `present` (n, visits): 1 where there is a visit, 0 where the state is carried over.
    `offset`, if given, is added to the recurrent product: zeros of shape (n, visits, 3 * width), whose gradient is that of the
    product, visit by visit.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(3 * width, width).uniform_(-1.0, 1.0) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(width))  # of the candidate; those of the gates are the input layer's

    def forward(self, gates: Tensor, present: Tensor | None = None, offset: Tensor | None = None) -> Tensor:
        """States after each visit, (n, visits, width), from zero states."""
        device = gates.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):  # what is carried over all visits is carried in float32
                return self.forward(gates.float(), present, offset)
        if offset is None:
            offset = gates.new_zeros(1).expand_as(gates)
        states: Tensor = _Recurrence.apply(gates, self.weight, self.bias, present, offset)
        return states


class _Recurrence(torch.autograd.Function):  # type: ignore[misc]  # as above
    """Back-propagation through time by hand: all gate gradients are the state's gradient times one factor known beforehand."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor, present: Tensor | None, offset: Tensor) -> Tensor:
        n, visits, wide = gates.shape
        width = wide // 3
        keep = None if present is None else present.transpose(0, 1).unsqueeze(-1)
        states = gates.new_zeros(visits + 1, n, width)
        opened, candidates, products = (gates.new_empty(visits, n, k * width) for k in (2, 1, 1))
        turned = weight.t()
        for at in range(visits):
            product = states[at] @ turned
            if offset.stride(-1):  # the zero that is merely expanded is not added
                product += offset[:, at]
            torch.add(gates[:, at, : 2 * width], product[:, : 2 * width], out=opened[at]).sigmoid_()
            torch.add(product[:, 2 * width :], bias, out=products[at])
            reset, update = opened[at, :, :width], opened[at, :, width:]
            torch.addcmul(gates[:, at, 2 * width :], reset, products[at], out=candidates[at]).tanh_()
            torch.lerp(candidates[at], states[at], update, out=states[at + 1])
            if keep is not None:
                states[at + 1] = torch.where(keep[at] > 0, states[at + 1], states[at])
        ctx.save_for_backward(states, opened, candidates, products, weight)
        ctx.keep = keep
        return states[1:].transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, opened, candidates, products, weight = ctx.saved_tensors
        visits, n, width = candidates.shape
        factors, candidate, carried = _factors(states, opened, candidates, products, ctx.keep)
        recurrent = gradient.new_empty(visits, n, 3, width)
        at_states = gradient.new_empty(visits, n, width)
        later = torch.zeros_like(at_states[0])
        for at in reversed(range(visits)):
            torch.add(gradient[:, at], later, out=at_states[at])
            torch.mul(at_states[at].unsqueeze(1), factors[at], out=recurrent[at])
            later = torch.addmm(at_states[at] * carried[at], recurrent[at].view(n, 3 * width), weight)
        at_gates = recurrent.clone()
        torch.mul(at_states, candidate, out=at_gates[:, :, 2])
        flat = recurrent.view(visits * n, 3 * width)
        return (
            at_gates.view(visits, n, 3 * width).transpose(0, 1) if ctx.needs_input_grad[0] else None,
            flat.t() @ states[:-1].reshape(visits * n, width) if ctx.needs_input_grad[1] else None,
            recurrent[:, :, 2].sum(dim=(0, 1)) if ctx.needs_input_grad[2] else None,
            None,
            flat.view(visits, n, 3 * width).transpose(0, 1) if ctx.needs_input_grad[4] else None,
        )


def _factors(
    states: Tensor, opened: Tensor, candidates: Tensor, products: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What the state's gradient is multiplied with: for the three recurrent products, the candidate, the state before."""
    width = candidates.shape[-1]
    reset, update = opened[..., :width], opened[..., width:]
    candidate = (1.0 - update) * (1.0 - candidates * candidates)
    carried = update
    if keep is not None:
        candidate, carried = candidate * keep, torch.where(keep > 0, update, torch.ones_like(update))
    factors = candidates.new_empty(*candidates.shape[:2], 3, width)
    torch.mul(candidate, reset, out=factors[:, :, 2])
    torch.mul(factors[:, :, 2] * products, 1.0 - reset, out=factors[:, :, 0])
    torch.mul(torch.sub(states[:-1], candidates), update * (1.0 - update), out=factors[:, :, 1])
    if keep is not None:
        factors[:, :, 1] *= keep
    return factors, candidate, carried


class PatientGRU(nn.Module):  # type: ignore[misc]  # as above
    """Gated recurrent layer over visits: (n, visits, n_inputs) to states (n, visits, width)."""

    def __init__(self, n_inputs: int, width: int) -> None:
        super().__init__()
        self.gates = nn.Linear(n_inputs, 3 * width)
        self.recurrence = Recurrence(width)

    def forward(self, visits: Tensor, present: Tensor | None = None) -> Tensor:
        """States after each visit; `present` (n, visits) is 1 for a visit and 0 for padding, where the state stays."""
        states: Tensor = self.recurrence(self.gates(visits), present)
        return states


class SelfAttention(nn.Module):  # type: ignore[misc]  # as above
    """Multi-head attention among the visits of one record (Vaswani et al. 2017): (n, visits, width) to the same shape."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ContractError(f"attention of width {width} with {heads} heads: the width must be a multiple of the heads")
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, visits: Tensor, present: Tensor | None = None) -> Tensor:
        """`present` (n, visits): 0 for padding, which nobody but itself attends to."""
        n, length, width = visits.shape
        split = self.queries_keys_values(visits).view(n, length, 3, self.heads, width // self.heads)
        queries, keys, values = (split[:, :, at].transpose(1, 2) for at in range(3))
        mask = None
        if present is not None:  # a visit always sees itself: a row without any key has no softmax
            mask = (present[:, None, None, :] > 0) | torch.eye(length, dtype=torch.bool, device=visits.device)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        result: Tensor = self.output(mixed.transpose(1, 2).reshape(n, length, width))
        return result


class TransformerBlock(nn.Module):  # type: ignore[misc]  # as above
    """Attention and a two-layer perceptron, each with layer norm before and a shortcut around (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.before_hidden = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, width)

    def forward(self, visits: Tensor, present: Tensor | None = None) -> Tensor:
        """(n, visits, width) to the same shape."""
        visits = visits + self.attention(self.before_attention(visits), present)
        result: Tensor = visits + self.output(functional.relu(self.hidden(self.before_hidden(visits))))
        return result
