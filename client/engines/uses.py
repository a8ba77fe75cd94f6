"""What a backward pass leaves at every layer: its input and the gradient at its output, without any gradient of a weight."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from client.engines.errors import Unsupported
from client.engines.rules import Rule, rule_for
from tasks.layers import Recurrence


@dataclass
class Use:
    """One call of a layer: `inputs` (records, ...), `gradient` of its output, None if the loss does not depend on it."""

    layer: nn.Module
    rule: Rule
    names: dict[str, str]  # of the layer's parameters: own name to the model's
    inputs: Tensor
    gradient: Tensor | None = field(default=None)

    def take(self, gradient: Tensor) -> None:
        """Called by autograd."""
        self.gradient = gradient


class Recorder:
    """Hooks on every layer with parameters. `uses` holds the calls of the last forward pass, in their order."""

    def __init__(self, model: nn.Module) -> None:
        self.uses: list[Use] = []
        self.records = 0  # rows of the first axis that a layer must see
        self._clones = any(getattr(layer, "inplace", False) for layer in model.modules())
        known = {id(value): name for name, value in model.named_parameters()}  # a tied weight has one name
        for name, layer in model.named_modules():
            own = dict(layer.named_parameters(recurse=False))
            if own:
                names = {short: known[id(value)] for short, value in own.items()}
                self._watch(layer, rule_for(name, layer), names)

    def begin(self, records: int) -> None:
        """Forgets the last pass: what a branch left there is not this step's."""
        self.uses.clear()
        self.records = records

    def _watch(self, layer: nn.Module, rule: Rule, names: dict[str, str]) -> None:
        if isinstance(layer, Recurrence):
            layer.register_forward_pre_hook(_with_offset)
            layer.register_forward_hook(self._recurrent_hook(rule, names))
        else:
            layer.register_forward_hook(self._hook(rule, names))

    def _hook(self, rule: Rule, names: dict[str, str]) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            if not self.records:  # a forward pass for outputs alone
                return output
            inputs = args[0] if args else None
            if inputs is None or len(inputs) != self.records:
                raise Unsupported(f"a {type(layer).__name__} that does not get its {self.records} records along the first axis")
            if not output.requires_grad:
                output.requires_grad_(True)
                output = output.clone() if self._clones else output  # a leaf must not be changed in place
            use = Use(layer, rule, names, inputs.detach())
            output.register_hook(use.take)
            self.uses.append(use)
            return output

        return hook

    def _recurrent_hook(self, rule: Rule, names: dict[str, str]) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if not self.records:
                return
            gates, _, offset = args
            if len(gates) != self.records:
                raise Unsupported(f"a Recurrence that does not get its {self.records} records along the first axis")
            use = Use(layer, rule, names, output.detach())
            offset.register_hook(use.take)
            self.uses.append(use)

        return hook


def _with_offset(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    gates, *rest = args
    present = rest[0] if rest else None
    return gates, present, torch.zeros(1, device=gates.device).requires_grad_(True).expand_as(gates)
