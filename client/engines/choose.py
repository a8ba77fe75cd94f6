"""The fastest way to clip and sum that is exact for this model on this machine, found in a few steps before the first patient."""

import time
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.device import CPU, FP32, PROCESSOR, Device, out_of_memory, release_memory
from client.engines.batch import SLOTS, Loss, Parameters, PatientBatch, Shape, whole_slots
from client.engines.bookkeeping import Bookkeeping
from client.engines.checks import check_agreement, check_no_mixing, check_slots, synthetic, weights_to_try
from client.engines.errors import Unsupported
from client.engines.functional import Functional
from client.engines.loop import Loop
from client.engines.outer import Outer
from client.errors import Refused
from client.release import Bound
from tasks.errors import ContractError
from tasks.models import refuse_mixing

PATIENTS_AT_ONCE = 256
STEPS = 3  # timed; the fastest one counts
FILLS_S = 0.01  # one patient that takes this long fills the machine: others beside it gain nothing and cost memory (3D images)
TRIAL = Bound(1.0, 20)
AT_ONCE_BYTES = 2**27  # of patients' gradients: what trying an engine holds several times


class Engine(Protocol):
    """Clips every patient's gradient and adds it up in whole numbers; all four give the same sum to 1e-5 of a bound."""

    name: str
    shape: Shape
    device: Device
    patients: int  # computed together

    def fine_bits(self, bound: Bound) -> int:
        """`add` counts in 2^-fine_bits grid steps."""
        ...

    def raw(self, parameters: Parameters, batch: PatientBatch) -> list[Tensor]:
        """All numbers from which each patient's contribution is computed, patients along the first axis."""
        ...

    def add(self, parameters: Parameters, batch: PatientBatch, bound: Bound, total: NDArray[np.int64]) -> None:
        """Adds the patients of `batch`, any number of them, to `total` (n_parameters,). Patients without records add nothing."""
        ...

    def outputs(self, parameters: Parameters, batch: PatientBatch) -> Tensor:
        """The model's output for each record (n, records, ...), as independent of the others as the gradients."""
        ...


Build = Callable[[nn.Module, Loss, Shape, int, Device], Engine]
BATCHED: dict[str, Build] = {"outer": Outer, "bookkeeping": Bookkeeping, "functional": Functional}
NAMES = ("loop", *BATCHED)


def choose_engine(
    model: nn.Module,
    loss: Loss,
    shape: Shape,
    *,
    patients: int = PATIENTS_AT_ONCE,
    example: PatientBatch | None = None,
    name: str = "",
    device: Device = PROCESSOR,
) -> Engine:
    """The fastest engine that gives every patient the same bits in every slot and agrees with autograd; or the one called `name`.

    `patients`: how many are computed together at most, rounded up to a multiple of 32; fewer where gradients are large, and
    where the device's memory does not hold them.
    `device`: where all of it is computed and measured.
    `example`: synthetic patients, where normal inputs do not suit.
    Raises `Refused` for a model that mixes patients or that no engine serves, `Unsupported` if the one called `name` does not.
    """
    _refuse_mixing(model)
    size = sum(value.numel() for value in model.parameters())
    patients = min(patients, max(1, AT_ONCE_BYTES // (4 * size)))
    n = whole_slots(patients)
    example = synthetic(shape, n) if example is None else _repeated(example, n)
    check_no_mixing(model, loss, example)
    if name and name != Loop.name:
        _, engine = _measured(BATCHED[name], model, loss, example, device)
        return _checked(engine, Loop(model, loss, shape, device), model, example.part(0, engine.patients))
    loops = [Loop(model, loss, shape, layout) for layout in device.layouts]
    if name and len(loops) == 1:
        return loops[0]
    alone, loop = min(((_seconds(each, model, example.part(0, 1)), each) for each in loops), key=lambda pair: pair[0])
    if name or (alone > FILLS_S and device.name == CPU):
        return loop
    for engine in _by_speed(model, loss, example, alone, loop.device):
        try:
            return _checked(engine, loop, model, example.part(0, engine.patients))
        except Unsupported:  # the next one; the loop serves every model
            continue
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        release_memory()
    return loop


def like(engine: Engine, size: int) -> Engine:
    """An engine of the same kind, for as many records, whose patients' inputs (size,) are their gradients (`gradients_as_inputs`).

    The model is one linear layer without bias and the loss its output, so that whatever this kind of engine does to gradients
    is done to the inputs. On the same device; in float32, since 16 bits would round what is measured.
    """
    model, shape = nn.Linear(size, 1, bias=False), Shape(engine.shape.records, (size,))
    kind, device = BATCHED.get(engine.name), Device(engine.device.name, FP32)
    return kind(model, _output, shape, SLOTS, device) if kind else Loop(model, _output, shape, device)


def gradients_as_inputs(engine: Engine, rows: Tensor) -> tuple[Parameters, list[PatientBatch]]:
    """What `sum_of` takes for patients whose gradients are `rows` (n, size), each of as many equal records as there can be."""
    records = engine.shape.records
    scales = rows.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    inputs = (rows / scales).to(torch.float32).unsqueeze(1).expand(-1, records, -1)  # of length 1 or more whatever the clip is
    weights = (scales / records).to(torch.float32).expand(-1, records)
    return {"weight": torch.zeros(1, rows.shape[1])}, [PatientBatch(inputs, torch.zeros_like(weights), weights)]


def _output(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs.squeeze(-1)


def sum_of(engine: Engine, parameters: Parameters, batches: Iterable[PatientBatch], bound: Bound) -> NDArray[np.int64]:
    """Sum over all patients of clipped gradients in whole grid steps, (n_parameters,); how they are cut changes no bit."""
    fine_bits = engine.fine_bits(bound)
    fine = np.zeros(sum(value.numel() for value in parameters.values()), dtype=np.int64)
    whole = np.zeros_like(fine)
    together = max(1, 2 ** (61 - bound.grid_bits - fine_bits))  # whose fractions of a step stay below 2^62
    for batch in batches:
        for start in range(0, len(batch), together):
            engine.add(parameters, batch.part(start, start + together), bound, fine)
            whole += fine >> fine_bits  # floor and remainder: exact for either sign
            fine &= (1 << fine_bits) - 1
    return whole + to_grid(fine, fine_bits)


def to_grid(total: NDArray[np.int64], fine_bits: int) -> NDArray[np.int64]:
    """Whole grid steps from 2^-fine_bits of them, to the nearest, halves upwards."""
    return (total + ((1 << fine_bits) >> 1)) >> fine_bits


def _refuse_mixing(model: nn.Module) -> None:
    try:
        refuse_mixing(model)
    except ContractError as error:
        raise Refused("MODEL", str(error)) from error


def _repeated(example: PatientBatch, n: int) -> PatientBatch:
    """Exactly `n` patients: a slot that nobody visits would not be tried."""
    places = torch.arange(n) % len(example)
    return PatientBatch(example.inputs[places], example.labels[places], example.weights[places])


def _by_speed(model: nn.Module, loss: Loss, example: PatientBatch, alone_s: float, device: Device) -> list[Engine]:
    """Engines that serve the model faster than the loop does, the fastest first.

    Each next kind of `BATCHED` serves more models and takes longer, so it is only tried where the one before does not serve.
    """
    found: list[tuple[float, Engine]] = []
    for build in BATCHED.values():
        try:
            found.append(_measured(build, model, loss, example, device))
        except (Unsupported, RuntimeError):  # RuntimeError: what vmap or a hook does not know, or no memory for the fewest
            continue
        if not isinstance(found[-1][1], Outer):
            break
    return [engine for taken, engine in sorted(found, key=lambda pair: pair[0]) if taken < alone_s]


def _measured(build: Build, model: nn.Module, loss: Loss, example: PatientBatch, device: Device) -> tuple[float, Engine]:
    """Seconds for a patient, and the engine: for as many at once as memory holds, halved until it does."""
    n = len(example)
    while True:
        try:
            return _tried(build, model, loss, example.part(0, n), device)
        except RuntimeError as error:
            if n <= SLOTS or not out_of_memory(error):
                raise
        n = whole_slots(n // 2)
        release_memory()


def _tried(build: Build, model: nn.Module, loss: Loss, example: PatientBatch, device: Device) -> tuple[float, Engine]:
    engine = build(model, loss, example.shape, len(example), device)
    engine.outputs(parameters_of(model), example.part(0, 1))
    return _seconds(engine, model, example) / len(example), engine


def _checked(engine: Engine, loop: Loop, model: nn.Module, example: PatientBatch) -> Engine:
    check_agreement(engine, loop, model, example)
    check_slots(engine, model, example)
    return engine


def _seconds(engine: Engine, model: nn.Module, example: PatientBatch) -> float:
    """The least CPU time of this thread in `STEPS` steps after one that warms up: other programs hardly disturb it.

    On another device this thread waits for it, so there it is the least time of a clock.
    """
    clock = time.thread_time if engine.device.name == CPU else time.perf_counter
    parameters = next(weights_to_try(model))
    total = np.zeros(sum(value.numel() for value in parameters.values()), dtype=np.int64)
    taken = []
    for _ in range(STEPS + 1):
        start = clock()
        engine.add(parameters, example, TRIAL, total)
        taken.append(clock() - start)
    return min(taken[1:])


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's own weights, as engines take them."""
    return {name: value.detach().to(torch.float32) for name, value in model.named_parameters()}
