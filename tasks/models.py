"""Small models whose output for a patient depends on that patient alone, and their parameters as one flat vector.

The flat vector (float32, `parameter_specs` order) is what plans, updates and checkpoints hold. Initial values come from
the plan's seed through a generator with a fixed stream, so that every party can recompute them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.errors import ContractError
from tasks.fusion import GatedTrunk
from tasks.sequences import GruTrunk, TransformerTrunk, visit_layout
from tasks.trunks import KNOTS, Hinges, TanhLayers

if TYPE_CHECKING:
    from tasks.base import Options
    from tasks.features import Design, Inputs, NamedShape

Vector = NDArray[np.float32]  # (n_params,)
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "logistic": (), "mlp": ("hidden",), "spline": (), "gru": ("width",), "transformer": ("width", "blocks", "heads"),
    "gated": ("width",),
}  # fmt: skip
MODEL_NAMES = tuple(OPTIONS)
MAX_HIDDEN = 4096
MIXING_LAYERS = (nn.modules.batchnorm._BatchNorm,)


class Headed(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """A trunk and one linear output layer: (batch, n_inputs) or (n_inputs,) to logits (batch,) or ().

    The trunk's parameters come first in the flat vector.
    """

    def __init__(self, hidden: nn.Module, width: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.output = nn.Linear(width, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, shape of `inputs` without its last axis."""
        logits: Tensor = self.output(self.hidden(inputs)).squeeze(-1)
        return logits


def build_model(name: str, inputs: Design | int, options: Options) -> nn.Module:
    """A model with one logit, its parameters to be set by the caller; names and options as `trunk` has them."""
    return Headed(*trunk(name, inputs, options))


def trunk(name: str, inputs: Design | int, options: Options) -> tuple[nn.Module, int]:
    """The model called `name` without its output layer, and the width of its features: (batch, n_inputs) to (batch, width).

    `inputs`: the design, or the number of inputs for a model that does not ask what they are (logistic, mlp). Options:

        logistic      none; the features are the inputs
        mlp           hidden: 16, or "32,16" for two layers
        spline        none; piecewise linear in each numeric input
        gru           width (16); over the visits, beside the other inputs
        transformer   width (16), blocks (1), heads (2); the same
        gated         width (4) of the features of each kind of data, which are gated by which kinds there are

    `ContractError` for an unknown name or option, a value out of range, or columns that the model cannot do with.
    """
    known = OPTIONS.get(name)
    if known is None:
        raise ContractError(f"unknown model {name!r}; known: {', '.join(MODEL_NAMES)}")
    if strange := sorted(set(options) - set(known)):
        raise ContractError(f"model {name} has no option {strange[0]!r}; known: {', '.join(known) or 'none'}")
    n_inputs = inputs if isinstance(inputs, int) else inputs.n_inputs
    if name == "logistic":
        return nn.Identity(), n_inputs
    if name == "mlp":
        widths = _widths(options.get("hidden", 16))
        return TanhLayers(n_inputs, widths), widths[-1]
    if isinstance(inputs, int):
        raise ContractError(f"model {name} needs to know what its inputs are, not their number alone: give it the design")
    if name == "spline":
        return _spline(inputs)
    return _gated(inputs, options) if name == "gated" else _over_visits(name, inputs, options)


def _spline(design: Design) -> tuple[nn.Module, int]:
    if not design.numeric_inputs:
        raise ContractError("model spline needs a numeric column; without one it is model logistic")
    return Hinges(design.numeric_inputs), design.n_inputs + len(KNOTS) * len(design.numeric_inputs)


def _gated(design: Design, options: Options) -> tuple[nn.Module, int]:
    fused = GatedTrunk(design, _whole("gated", options, "width", 4, 32))
    return fused, fused.width


def _over_visits(name: str, design: Design, options: Options) -> tuple[nn.Module, int]:
    layout = visit_layout(design.input_names)
    width = _whole(name, options, "width", 16, 128)
    if name == "gru":
        recurrent = GruTrunk(layout, width)
        return recurrent, recurrent.width
    attending = TransformerTrunk(layout, width, _whole(name, options, "blocks", 1, 4), _whole(name, options, "heads", 2, 8))
    return attending, attending.width


def _whole(model: str, options: Options, option: str, default: int, most: int) -> int:
    value = options.get(option, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ContractError(f"{model} option {option} is {value!r}: a whole number from 1 to {most}")
    return value


def _widths(hidden: str | int | float) -> tuple[int, ...]:
    texts = str(hidden).split(",")
    if not all(text.strip().isdecimal() and 1 <= int(text) <= MAX_HIDDEN for text in texts):
        raise ContractError(f"mlp option hidden is {hidden!r}: give widths of 1 to {MAX_HIDDEN}, such as 16 or '32,16'")
    return tuple(int(text) for text in texts)


def refuse_mixing(model: nn.Module) -> None:
    """`ContractError` if a layer lets one patient influence another's output, or carries state outside the plan.

    What mixes by hand, such as subtracting the mean over patients, shows when the engine is chosen (`client.engines`).
    """
    for name, layer in model.named_modules():
        if reason := _mixing(layer):
            raise ContractError(f"layer {name} ({type(layer).__name__}) {reason}")
    for name, _ in model.named_buffers():
        raise ContractError(f"buffer {name}: a model's state must be parameters only, the plan knows no other")


def _mixing(layer: nn.Module) -> str:
    """Why no bound per patient exists with `layer`, and what to use; empty for a layer that is not known to mix."""
    if isinstance(layer, MIXING_LAYERS):
        return "mixes the patients of a batch: no bound per patient exists. Use GroupNorm or LayerNorm"
    if getattr(layer, "track_running_stats", False):
        return "keeps a running_mean over patients: set track_running_stats=False"
    if (isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0) or _has_dropout(layer):
        return "draws from one stream for the whole batch: a patient's gradient depends on who else is there. Set dropout to 0"
    if isinstance(layer, nn.RNNBase | nn.MultiheadAttention) and not layer.batch_first:
        return "takes the patients' axis for time, which mixes the patients: set batch_first=True"
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and (layer.scale_grad_by_freq or layer.max_norm is not None):
        return "scales by how often the whole batch uses a code, or changes weights in the forward pass: leave both options out"
    return ""


def _has_dropout(layer: nn.Module) -> bool:
    rates = (getattr(layer, "dropout", 0.0), getattr(layer, "dropout_p", 0.0))  # of recurrent and attention layers
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def parameter_specs(model: nn.Module) -> tuple[NamedShape, ...]:
    """Name and shape of every trained parameter, in the order of the flat vector."""
    return tuple((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())


def n_parameters(model: nn.Module) -> int:
    """Length of the flat vector."""
    return sum(math.prod(shape) for _, shape in parameter_specs(model))


def initial_parameters(model: nn.Module, seed: int) -> Vector:
    """First parameters (n_params,) from the plan's public `seed`, equal on every machine.

    Biases and the layer called `output` start at 0 (every patient at probability 1/2), gains of normalisation layers
    at 1, other weights uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010).
    """
    stream = np.random.Generator(np.random.PCG64(seed))  # public start values; no secret depends on it
    parts = [_initial(name, shape, stream) for name, shape in parameter_specs(model)]
    return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float32)


def _initial(name: str, shape: tuple[int, ...], stream: np.random.Generator) -> NDArray[np.float64]:
    if len(shape) < 2:
        return np.ones(shape) if name.endswith("weight") else np.zeros(shape)
    if name.startswith("output."):
        return np.zeros(shape)
    receptive = math.prod(shape[2:])
    limit = math.sqrt(6.0 / (receptive * (shape[0] + shape[1])))
    return limit * (2.0 * stream.random(shape) - 1.0)


def split_parameters(model: nn.Module, vector: Vector) -> dict[str, Tensor]:
    """The flat `vector` (n_params,) as named tensors for `torch.func.functional_call`."""
    if np.shape(vector) != (n_parameters(model),):
        raise ContractError(f"a parameter vector has shape {np.shape(vector)}, the model needs ({n_parameters(model)},)")
    flat = torch.from_numpy(np.array(vector, dtype=np.float32))
    specs = parameter_specs(model)
    parts = torch.split(flat, [math.prod(shape) for _, shape in specs])
    return {name: part.reshape(shape) for (name, shape), part in zip(specs, parts, strict=True)}


def join_parameters(parts: Mapping[str, Tensor]) -> Vector:
    """The inverse of `split_parameters`: named tensors, in the model's order, to (n_params,) float32."""
    joined: Vector = torch.cat([part.detach().reshape(-1) for part in parts.values()]).to(torch.float32).cpu().numpy()
    return joined


def load_parameters(model: nn.Module, vector: Vector) -> None:
    """Write the flat `vector` (n_params,) into `model`."""
    named = split_parameters(model, vector)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(named[name])


def predict(model: nn.Module, inputs: Inputs) -> NDArray[np.float64]:
    """Probability of label 1 per patient, (n_patients,), from encoded inputs (n_patients, n_inputs)."""
    with torch.inference_mode():
        logits = model(torch.from_numpy(np.ascontiguousarray(inputs)))
        probabilities: NDArray[np.float64] = torch.sigmoid(logits.to(torch.float64)).numpy()
    return probabilities
