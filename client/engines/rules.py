"""The gradient of every patient from a layer's input and the gradient at its output: one rule for each kind of layer.

A rule gets `n` patients' records in order, (n * records, ...), and writes into `out[name]`, (n, *shape of the parameter).
Formulas: Goodfellow 2015 (arXiv 1510.01799) for linear layers; the others follow from the layer's definition.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.engines.errors import Unsupported
from tasks.layers import Recurrence

LINE = 16  # float32 values in a cache line
Out = Mapping[str, Tensor]
Rule = Callable[[Any, Tensor, Tensor, int, Out], None]  # layer, its input, the gradient at its output, n, where to write


def _linear(layer: nn.Linear, inputs: Tensor, gradient: Tensor, n: int, out: Out) -> None:
    rows, ups = inputs.reshape(n, -1, layer.in_features), gradient.reshape(n, -1, layer.out_features)
    if layer.out_features % LINE:  # where patients share a cache line, sums over visits may group them
        ups = ups.contiguous()
    torch.bmm(ups.transpose(1, 2), rows, out=out["weight"])
    if "bias" in out:
        torch.sum(ups, dim=1, out=out["bias"])


def _embedding(layer: nn.Embedding, inputs: Tensor, gradient: Tensor, n: int, out: Out) -> None:
    found = out["weight"].zero_()
    offsets = layer.num_embeddings * torch.arange(n, device=inputs.device).unsqueeze(1)
    places = inputs.reshape(n, -1).to(torch.int64) + offsets
    found.view(-1, layer.embedding_dim).index_add_(0, places.flatten(), gradient.reshape(-1, layer.embedding_dim))
    if layer.padding_idx is not None:
        found[:, layer.padding_idx] = 0.0


def _per_feature(normal: Tensor, gradient: Tensor, shape: tuple[int, ...], n: int, out: Out) -> None:
    """Gain and offset of a norm over the last axes, of shape `shape`."""
    ups = gradient.reshape(n, -1, *shape)
    if "weight" in out:
        torch.sum(ups * normal.reshape(n, -1, *shape), dim=1, out=out["weight"])
    if "bias" in out:
        torch.sum(ups, dim=1, out=out["bias"])


def _layer_norm(layer: nn.LayerNorm, inputs: Tensor, gradient: Tensor, n: int, out: Out) -> None:
    shape = tuple(layer.normalized_shape)
    _per_feature(functional.layer_norm(inputs, shape, eps=layer.eps), gradient, shape, n, out)


def _rms_norm(layer: nn.RMSNorm, inputs: Tensor, gradient: Tensor, n: int, out: Out) -> None:
    shape = tuple(layer.normalized_shape)
    _per_feature(functional.rms_norm(inputs, shape, eps=layer.eps), gradient, shape, n, out)


def _per_channel(normal: Tensor, gradient: Tensor, n: int, out: Out) -> None:
    """Gain and offset of a norm with channels on axis 1."""
    channels = gradient.shape[1]
    ups = gradient.reshape(n, -1, channels, gradient[0, 0].numel())
    if "weight" in out:
        torch.sum(ups * normal.reshape(ups.shape), dim=(1, 3), out=out["weight"])
    if "bias" in out:
        torch.sum(ups, dim=(1, 3), out=out["bias"])


def _group_norm(layer: nn.GroupNorm, inputs: Tensor, gradient: Tensor, n: int, out: Out) -> None:
    _per_channel(functional.group_norm(inputs, layer.num_groups, eps=layer.eps), gradient, n, out)


def _instance_norm(layer: Any, inputs: Tensor, gradient: Tensor, n: int, out: Out) -> None:
    _per_channel(functional.instance_norm(inputs, eps=layer.eps), gradient, n, out)


def _prelu(layer: nn.PReLU, inputs: Tensor, gradient: Tensor, n: int, out: Out) -> None:
    slopes = gradient * inputs.clamp(max=0.0)
    if layer.num_parameters == 1:
        torch.sum(slopes.reshape(n, 1, -1), dim=2, out=out["weight"])
    else:
        torch.sum(slopes.reshape(n, -1, layer.num_parameters, slopes[0, 0].numel()), dim=(1, 3), out=out["weight"])


def _convolution(layer: Any, inputs: Tensor, gradient: Tensor, n: int, out: Out) -> None:
    """Patient by patient, as ordinary back-propagation does it; padding other than by zeros is laid on before."""
    padding = layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
        padding = (0,) * len(layer.kernel_size)
    _kernel_gradients(layer, (inputs, gradient, n), (padding, False, (0,) * len(layer.kernel_size)), out)


def _transposed(layer: Any, inputs: Tensor, gradient: Tensor, n: int, out: Out) -> None:
    """`output_size` may be given in the call, so the padding of the output is read from its size."""
    sizes = zip(gradient.shape[2:], inputs.shape[2:], layer.stride, layer.padding, layer.dilation, layer.kernel_size, strict=True)
    extra = tuple(got - ((size - 1) * step - 2 * pad + apart * (kernel - 1) + 1) for got, size, step, pad, apart, kernel in sizes)
    _kernel_gradients(layer, (inputs, gradient, n), (layer.padding, True, extra), out)


def _kernel_gradients(
    layer: Any, data: tuple[Tensor, Tensor, int], geometry: tuple[tuple[int, ...], bool, tuple[int, ...]], out: Out
) -> None:
    (inputs, gradient, n), (padding, transposed, extra) = data, geometry
    each = len(inputs) // n
    for at in range(n):
        own = slice(at * each, (at + 1) * each)
        found = torch.ops.aten.convolution_backward(
            gradient[own], inputs[own], layer.weight, None, layer.stride, padding, layer.dilation, transposed, extra,
            layer.groups, [False, True, False],
        )  # fmt: skip
        out["weight"][at] = found[1]
    if "bias" in out:
        torch.sum(gradient.reshape(n, each, gradient.shape[1], -1), dim=(1, 3), out=out["bias"])


def _recurrence(layer: Recurrence, inputs: Tensor, gradient: Tensor, n: int, out: Out) -> None:
    """`inputs`: states after each visit; `gradient`: of the recurrent product, (records, visits, 3 * width)."""
    before = functional.pad(inputs[:, :-1], (0, 0, 1, 0))
    width = layer.width
    if len(inputs) == n and width % LINE == 0:  # one record each, at equal addresses modulo a cache line: strided operands do
        torch.bmm(gradient.transpose(1, 2), before, out=out["weight"])
    else:
        torch.bmm(gradient.reshape(n, -1, 3 * width).transpose(1, 2), before.reshape(n, -1, width), out=out["weight"])
    torch.sum(gradient[..., 2 * width :].reshape(n, -1, width), dim=1, out=out["bias"])


RULES: Mapping[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
    nn.PReLU: _prelu,
    Recurrence: _recurrence,
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _instance_norm),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed),
}


def rule_for(name: str, layer: nn.Module) -> Rule:
    """The rule of exactly this class: a subclass may compute something else."""
    rule = RULES.get(type(layer))
    if rule is None:
        raise Unsupported(f"layer {name or 'model'} ({type(layer).__name__}) has parameters of its own and no rule for a patient's")
    if isinstance(layer, nn.Embedding) and layer.sparse:
        raise Unsupported(f"layer {name or 'model'} (Embedding) with sparse gradients")
    return rule
