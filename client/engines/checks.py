"""What is tried before an engine touches a patient: nobody's result may depend, in a single bit, on who else is there.

All on synthetic patients. Which kernels run depends on shapes and addresses, never on values. Batched engines hold both fixed:
one thread, a multiple of 32 slots (so that no elementwise kernel has a remainder), weights and workspaces of their own. What a
matrix kernel does at the edges of a batch is nowhere promised, so it is tried: patients change slots and neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from client.engines.batch import Loss, Parameters, PatientBatch, Shape
from client.engines.errors import Unsupported
from client.engines.frozen import Frozen
from client.engines.loop import Loop
from client.errors import Refused
from client.release import Bound

if TYPE_CHECKING:
    from client.engines.choose import Engine

MANY_NUMBERS = 2000  # of one patient: so many last bits show a difference at the first moves
STRANGERS: dict[str, Callable[[Tensor], Tensor]] = {
    "other": lambda inputs: inputs,
    "huge": lambda inputs: 1e30 * inputs.abs(),
    "huge negative": lambda inputs: -1e30 * inputs.abs(),
    "absent": torch.zeros_like,
    "broken": lambda inputs: torch.full_like(inputs, torch.nan),
}


def synthetic(shape: Shape, patients: int, seed: int = 0) -> PatientBatch:
    """Patients that nobody is: normal inputs, labels 0 and 1, every second one with fewer records than the limit."""
    stream = torch.Generator().manual_seed(seed)
    inputs = torch.randn(patients, shape.records, *shape.inputs, generator=stream)
    labels = (torch.rand(patients, shape.records, *shape.labels, generator=stream) < 0.5).float()
    counts = torch.tensor([shape.records if at % 2 else max(1, shape.records - 1) for at in range(patients)])
    real = (torch.arange(shape.records) < counts.unsqueeze(1)).float()
    weights = real / counts.unsqueeze(1)
    return PatientBatch(_masked(inputs, real), _masked(labels, real), weights)


def weights_to_try(model: nn.Module) -> Iterator[Parameters]:
    """Ordinary weights, and ones that nearly cancel, as a hostile coordinator sends them."""
    stream = torch.Generator().manual_seed(1)
    plain: dict[str, Tensor] = {}
    for name, value in model.named_parameters():
        fan = math.prod(value.shape[1:]) if value.dim() > 1 else 4
        plain[name] = torch.randn(value.shape, generator=stream) / math.sqrt(fan)
    yield plain
    cancelling = {name: 1e6 * value for name, value in plain.items()}
    for value in cancelling.values():
        flat = value.view(-1)
        flat[1::2] = -flat[: flat.numel() // 2 * 2 : 2] * (1 + 1e-7)
    yield cancelling


def check_no_mixing(model: nn.Module, loss: Loss, example: PatientBatch) -> None:
    """`Refused` if one patient's records reach another's loss, or if a patient's loss is not the same twice."""
    frozen = Frozen(model)
    frozen.load(next(weights_to_try(model)))
    patients = example.part(0, 3)
    with torch.no_grad():
        before = frozen.losses(loss, patients)
        if not torch.equal(before, frozen.losses(loss, patients)):
            raise Refused("MODEL", "a patient's loss is not the same twice: remove dropout and other random layers")
        for name, change in STRANGERS.items():
            after = _loss_with(frozen, loss, patients, (name, change))
            if not torch.allclose(after[1:], before[1:], rtol=1e-4, atol=1e-5, equal_nan=True):
                raise Refused(
                    "MODEL",
                    "changing one patient changes another's loss: no bound per patient exists. Compute over a record's own axes "
                    "only, never over the first axis (recurrent and attention layers: batch_first=True; GroupNorm, LayerNorm)",
                )


def _loss_with(frozen: Frozen, loss: Loss, patients: PatientBatch, changed: tuple[str, Callable[[Tensor], Tensor]]) -> Tensor:
    name, change = changed
    inputs = patients.inputs.clone()
    inputs[0] = change(inputs[0].flip(0) + 1.0)
    try:
        return frozen.losses(loss, PatientBatch(inputs, patients.labels, patients.weights))
    except (IndexError, ValueError, RuntimeError) as error:
        raise Refused(
            "MODEL",
            f"the model stops at a record of {name} values ({type(error).__name__}): one broken record would stop the training "
            "and show that it is there; clamp indices, and let other values pass",
        ) from error


def check_slots(engine: Engine, model: nn.Module, example: PatientBatch) -> None:
    """`Unsupported` unless a patient's numbers are the same bits in every slot, whoever the neighbours are.

    Every patient of `example` visits many slots, and half of them meet strangers. Another order of a sum shows in its last
    bit for about one value in three; with weights that cancel it shows in nearly every one.
    """
    patients = len(example)
    for parameters, batch in zip(weights_to_try(model), (example, _paired(example)), strict=True):
        expected = _numbers(engine, parameters, batch)
        rich = sum(each[0].numel() for each in expected) > MANY_NUMBERS
        for shift in _shifts(patients)[:: 8 if rich else 1]:
            found = _numbers(engine, parameters, _rolled(batch, shift))
            _compare(engine.name, [each.roll(shift, 0) for each in expected], found, torch.ones(patients, dtype=torch.bool))
        _compare_cuts(engine, parameters, batch)
        for first in (0, 1):
            own = torch.arange(patients) % 2 == first
            _compare(engine.name, expected, _numbers(engine, parameters, _where(own, batch, _strangers(batch))), own)


def _compare_cuts(engine: Engine, parameters: Parameters, batch: PatientBatch) -> None:
    """`Unsupported` unless clipped sums are the same however the patients are cut."""
    size, bound = sum(value.numel() for value in parameters.values()), Bound(2.0**-10, 20)
    totals = []
    for cut in (0, 1, len(batch) // 3, len(batch) // 2):
        total = np.zeros(size, dtype=np.int64)
        for part in (batch.part(0, cut), batch.part(cut, len(batch))):
            engine.add(parameters, part, bound, total)
        totals.append(total)
    if any((total != totals[0]).any() for total in totals):
        raise Unsupported(f"engine {engine.name}: a patient's clipped gradient depends on how many others there are")


def _strangers(batch: PatientBatch) -> PatientBatch:
    """Other patients of all kinds, in turn."""
    inputs, kinds = batch.inputs.flip(0), list(STRANGERS.values())
    for at, change in enumerate(kinds):
        own = slice(at * 2, None, 2 * len(kinds)), slice(at * 2 + 1, None, 2 * len(kinds))
        for places in own:
            inputs[places] = change(inputs[places])
    return PatientBatch(inputs, batch.labels.flip(0), batch.weights.flip(0))


def _numbers(engine: Engine, parameters: Parameters, batch: PatientBatch) -> list[Tensor]:
    outputs = engine.outputs(parameters, batch)
    real = batch.weights.view(*batch.weights.shape, *(1,) * (outputs.dim() - 2)) > 0
    return [*engine.raw(parameters, batch), torch.where(real, outputs, 0.0)]


def _shifts(patients: int) -> list[int]:
    """Fibonacci numbers, and the same from the end: slots near and far, of every remainder."""
    found, after = [1], 2
    while after < patients:
        found.append(after)
        after = found[-1] + found[-2]
    return sorted({shift for each in found for shift in (each, patients - each) if 0 < shift < patients})


def _compare(name: str, expected: list[Tensor], found: list[Tensor], own: Tensor) -> None:
    for one, other in zip(expected, found, strict=True):
        if not bool(((one == other) | (one.isnan() & other.isnan()))[own].all()):
            raise Unsupported(f"engine {name}: a patient's numbers depend on the slot or on the neighbours at this shape")


def check_agreement(engine: Engine, loop: Loop, model: nn.Module, example: PatientBatch) -> None:
    """`Unsupported` unless clipped sums are those of autograd patient by patient on the same device, to its tolerance."""
    parameters = next(weights_to_try(model))
    bound = Bound(2.0**-20, 20)
    size = sum(value.numel() for value in parameters.values())
    allowed = engine.device.tolerance * 2**bound.grid_bits + math.sqrt(size)
    for at in range(min(3, len(example))):
        totals = []
        for each in (engine, loop):
            total = np.zeros(size, dtype=np.int64)
            each.add(parameters, example.part(at, at + 1), bound, total)
            totals.append(total / 2.0 ** each.fine_bits(bound))
        apart = float(np.linalg.norm(totals[0] - totals[1]))
        if not apart <= allowed:
            raise Unsupported(f"engine {engine.name}: {apart:.3g} grid steps from autograd, allowed are {allowed:.3g}")


def _masked(values: Tensor, real: Tensor) -> Tensor:
    return values * real.view(*real.shape, *(1,) * (values.dim() - 2))


def _where(own: Tensor, ours: PatientBatch, others: PatientBatch) -> PatientBatch:
    pairs = ((ours.inputs, others.inputs), (ours.labels, others.labels), (ours.weights, others.weights))
    return PatientBatch(*(torch.where(own.view(-1, *(1,) * (one.dim() - 1)), one, other) for one, other in pairs))


def _rolled(batch: PatientBatch, shift: int) -> PatientBatch:
    return PatientBatch(*(each.roll(shift, 0) for each in (batch.inputs, batch.labels, batch.weights)))


def _paired(batch: PatientBatch) -> PatientBatch:
    """Neighbouring inputs equal, so that weights of alternating sign leave little but rounding."""
    inputs = batch.inputs.clone()
    inputs[..., 1::2] = inputs[..., : inputs.shape[-1] // 2 * 2 : 2]
    return PatientBatch(inputs, batch.labels, batch.weights)
