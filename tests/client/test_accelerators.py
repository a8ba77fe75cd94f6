"""On any device and in any precision: the processor's sums to its tolerance, nobody longer than the bound, float32 on the way out.

The same tests run on the processor with what an accelerator adds (bf16 autocast, channels last, rows that are copied back), and
marked `gpu` on an accelerator.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from client.applied import Applied, applied
from client.device import BF16, CPU, CUDA, FP32, PROCESSOR, Device
from client.engines import (
    Engine,
    Loss,
    PatientBatch,
    Shape,
    Unsupported,
    choose_engine,
    gradients_as_inputs,
    like,
    plain_sum,
    sum_of,
)
from client.engines.bookkeeping import Bookkeeping
from client.engines.checks import STRANGERS, check_agreement, check_slots, synthetic, weights_to_try
from client.engines.choose import parameters_of
from client.engines.functional import Functional
from client.engines.loop import Loop
from client.engines.outer import Outer
from client.errors import TrainerError
from client.release import Bound, clipped_grid_sum
from tasks.features import Design
from tasks.imaging.segmentation import dice_bce, predict_volume
from tasks.imaging.task import ImageTask
from tasks.imaging.unet import build
from tasks.layers import PatientGRU, TransformerBlock
from tasks.registry import available, find_task
from tasks.sums import SumsTask

ACCELERATOR = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator that torch can use"),
)
HERE = [Device(CPU, FP32, channels_last=True), Device(CPU, BF16), Device(CPU, BF16, channels_last=True)]
THERE = [Device(CUDA, FP32), Device(CUDA, FP32, channels_last=True), Device(CUDA, BF16), Device(CUDA, BF16, channels_last=True)]
DEVICES = [pytest.param(each, id=repr(each)) for each in HERE] + [
    pytest.param(each, id=repr(each), marks=ACCELERATOR) for each in THERE
]
BOUND = Bound(0.3, 20)
BITS = 2**20
PATIENTS = 5
SIDE = 8  # voxels of a patch


def table_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")


class Course(nn.Module):
    """Visits to one logit."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.attention, self.output = PatientGRU(3, 8), TransformerBlock(8, 2, 12), nn.Linear(8, 1)

    def forward(self, visits: Tensor) -> Tensor:
        found: Tensor = self.output(self.attention(self.gru(visits))[:, -1]).squeeze(1)
        return found


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(6, 9), nn.Linear(9, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.output(torch.tanh(self.hidden(inputs))).squeeze(1)
        return found


@dataclass(frozen=True)
class Case:
    """A model, its loss, what a patient is, and the engines that serve it besides the loop."""

    build: Callable[[], nn.Module]
    loss: Loss
    shape: Shape
    batched: tuple[Callable[..., Engine], ...]

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = self.build()
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.1 * torch.randn_like(value))
        return model

    def engines(self, device: Device) -> Iterator[Engine]:
        model = self.model()
        yield Loop(model, self.loss, self.shape, device)
        for kind in self.batched:
            yield kind(model, self.loss, self.shape, 32, device)


PATCH = Shape(2, (2, SIDE, SIDE, SIDE), (SIDE, SIDE, SIDE))
CASES = {
    "unet3d": Case(lambda: build("unet3d", {"widths": "4-8"}, 2), dice_bce, PATCH, (Bookkeeping, Functional)),
    "unet25d": Case(lambda: build("unet25d", {"widths": "4-8"}, 2), dice_bce, PATCH, (Functional,)),
    "table": Case(Table, table_loss, Shape(1, (6,)), (Outer, Bookkeeping, Functional)),
    "table, several records": Case(Table, table_loss, Shape(3, (6,)), (Bookkeeping, Functional)),
    "course": Case(Course, table_loss, Shape(2, (5, 3)), (Bookkeeping,)),
}
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


def total_of(engine: Engine, parameters: dict[str, Tensor], batch: PatientBatch, bound: Bound = BOUND) -> NDArray[np.float64]:
    """In grid steps."""
    total = np.zeros(sum(value.numel() for value in parameters.values()), dtype=np.int64)
    engine.add(parameters, batch, bound, total)
    return total / 2.0 ** engine.fine_bits(bound)


def without(batch: PatientBatch, at: int) -> PatientBatch:
    keep = torch.arange(len(batch)) != at
    return PatientBatch(batch.inputs[keep], batch.labels[keep], batch.weights[keep])


def hostile(shape: Shape) -> PatientBatch:
    """A patient of every kind that no table has."""
    batch = synthetic(shape, len(STRANGERS) + 1)
    for at, change in enumerate(STRANGERS.values()):
        batch.inputs[at] = change(batch.inputs[at])
    batch.inputs[-1] = math.inf
    return batch


# -- the sum ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_every_patients_clipped_gradient_is_that_of_the_processor(case: str, device: Device) -> None:
    """float32 closely, bf16 loosely, neither for everybody: here and there a unit turns on, or another voxel is the largest."""
    one, batch = CASES[case], synthetic(CASES[case].shape, PATIENTS)
    reference, parameters = Loop(one.model(), one.loss, one.shape), parameters_of(one.model())
    expected = [total_of(reference, parameters, batch.part(at, at + 1)) for at in range(PATIENTS)]
    usual, most = (1e-4, 0.02) if device.precision == FP32 else (0.1, 1.0)
    for engine in one.engines(device):
        found = [total_of(engine, parameters, batch.part(at, at + 1)) for at in range(PATIENTS)]
        apart = [(np.linalg.norm(a - b) - math.sqrt(len(b))) / np.linalg.norm(b) for a, b in zip(found, expected, strict=True)]
        assert np.median(apart) <= usual, engine.name
        assert max(apart) <= most, engine.name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_nobody_is_longer_than_the_bound_whatever_the_weights_and_the_records_are(case: str, device: Device) -> None:
    one = CASES[case]
    batch, clipped = hostile(one.shape), 0
    for weights in weights_to_try(one.model()):
        for engine in one.engines(device):
            for at in range(len(batch)):
                found = total_of(engine, dict(weights), batch.part(at, at + 1), Bound(1e-3, 20))
                assert np.linalg.norm(found) <= BITS + math.sqrt(len(found)) / 2, (engine.name, at)
                clipped += np.linalg.norm(found) > 0.99 * BITS
                if at in (4, 5):  # not a number, infinite
                    assert np.isfinite(found).all()
    assert clipped > 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_removing_a_patient_takes_its_own_contribution_and_nothing_else(case: str, device: Device) -> None:
    """To the bit on a processor. An accelerator adds in the order that it likes: there by less than a thousandth of the bound."""
    one, batch = CASES[case], synthetic(CASES[case].shape, PATIENTS)
    parameters, allowed = parameters_of(one.model()), 0.0 if device.name == CPU else 1e-3 * BITS
    for engine in one.engines(device):
        whole = total_of(engine, parameters, batch)
        for at in range(PATIENTS):
            own = total_of(engine, parameters, batch.part(at, at + 1))
            moved = whole - total_of(engine, parameters, without(batch, at))
            assert np.linalg.norm(moved - own) <= allowed, (engine.name, at)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_what_comes_back_is_float32_on_the_processor(case: str, device: Device) -> None:
    one, batch = CASES[case], synthetic(CASES[case].shape, 3)
    for engine in one.engines(device):
        found = [*engine.raw(parameters_of(one.model()), batch), engine.outputs(parameters_of(one.model()), batch)]
        wanted = {torch.float32, torch.float64} if isinstance(engine, Outer) else {torch.float32}
        assert {each.dtype for each in found} <= wanted, engine.name
        assert {each.device.type for each in found} == {"cpu"}
        assert engine.outputs(parameters_of(one.model()), batch).dtype == torch.float32


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", [pytest.param(name, marks=pytest.mark.slow) if "unet" in name else name for name in CASES])
def test_the_engine_that_is_chosen_for_a_device_passed_the_checks_on_it(case: str, device: Device) -> None:
    one, patients = CASES[case], 32
    engine = choose_engine(one.model(), one.loss, one.shape, patients=patients, device=device)
    assert (engine.device.name, engine.device.precision) == (device.name, device.precision)
    loop = Loop(one.model(), one.loss, one.shape, engine.device)
    check_agreement(engine, loop, one.model(), synthetic(one.shape, patients))
    if engine.name != "loop":
        check_slots(engine, one.model(), synthetic(one.shape, patients))


@pytest.mark.parametrize("device", DEVICES)
def test_a_plain_sum_is_that_of_the_processor(device: Device) -> None:
    one, batch = CASES["unet3d"], synthetic(PATCH, PATIENTS)
    expected, found = (plain_sum(one.model(), one.loss, parameters_of(one.model()), [batch], each) for each in (PROCESSOR, device))
    assert np.linalg.norm(found - expected) <= max(device.tolerance, 1e-4) * np.linalg.norm(expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["loop", "outer", "bookkeeping", "functional"])
def test_canaries_are_measured_in_float32_on_the_device_of_the_patients(name: str, device: Device) -> None:
    one = CASES["table"]
    engine = like(choose_engine(one.model(), one.loss, one.shape, patients=32, name=name, device=device), 24)
    assert (engine.name, engine.device.name, engine.device.precision) == (name, device.name, FP32)
    rows = np.random.default_rng(3).normal(size=(40, 24))
    found = sum_of(engine, *gradients_as_inputs(engine, torch.from_numpy(rows)), BOUND)
    assert np.linalg.norm((found - clipped_grid_sum(rows, BOUND)).astype(float)) <= 40 * (1e-4 * BITS + np.sqrt(24))


NOWHERE = Device("meta")


class OneDevice(TorchDispatchMode):
    """Every operation but a copy finds all of its operands on one device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's own signature
        given = {each.device.type for each in tree_leaves((args, kwargs or {})) if isinstance(each, Tensor) and each.dim()}
        copies = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
        assert len(given) < 2 or func in copies, f"{func} of tensors on {sorted(given)}"
        return func(*args, **(kwargs or {}))


MODELS = [
    (name, model)
    for name in sorted(available())
    if not isinstance(find_task(name), SumsTask)
    for model in find_task(name).model_names
    if name != "cis_conversion" or model not in ("gru", "transformer")  # its contract has no visits
]  # fmt: skip


@pytest.mark.parametrize(("name", "model"), MODELS)
def test_no_pass_of_any_task_mixes_devices(name: str, model: str) -> None:
    """On a device that computes nothing and is on every machine, up to the copy back."""
    task = find_task(name)
    columns = tuple(column.name for column in task.contract.columns)
    inputs = task.input_shape(columns) if isinstance(task, ImageTask) else (Design(task.contract, columns).n_inputs,)
    built, shape = task.build_model(model, {}, columns), Shape(task.records, inputs, task.label_shape)
    parameters, people = parameters_of(built), synthetic(shape, 32)
    loop = Loop(built, task.loss, shape, NOWHERE)
    assert reaches_the_copy_back(lambda: loop.raw(parameters, people))
    assert reaches_the_copy_back(lambda: loop.outputs(parameters, people))
    assert reaches_the_copy_back(lambda: plain_sum(built, task.loss, parameters, [people], NOWHERE))
    assert reaches_the_copy_back(lambda: Applied(built, NOWHERE, parameters)(people.flat()[0]))
    served = [reaches_the_copy_back(partial(batched, kind, built, task.loss, people)) for kind in (Bookkeeping, Outer, Functional)]
    assert any(served)


def batched(kind: Callable[..., Engine], model: nn.Module, loss: Loss, people: PatientBatch) -> None:
    engine = kind(model, loss, people.shape, len(people), NOWHERE)
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        engine.outputs(parameters_of(model), people)
    engine.raw(parameters_of(model), people)


def reaches_the_copy_back(way: Callable[[], object]) -> bool:
    """False for an engine that does not serve the model, on whatever device."""
    try:
        with OneDevice():
            way()
    except NotImplementedError as error:
        return "Cannot copy out of meta tensor" in str(error)
    except Unsupported:
        return False
    except RuntimeError as error:
        if "functorch" not in str(error):  # vmap does not know the layer
            raise
        return False
    raise AssertionError("nothing was copied back")


# -- memory ----------------------------------------------------------------------------------------------------------------------


class Scarce(Table):
    """Holds no more than `room` records at a time; how many there were is in `seen`."""

    room: int = 10**9
    seen: list[int]

    def forward(self, inputs: Tensor) -> Tensor:
        float(inputs.sum())  # vmap knows no such thing, and would hide how many there are
        type(self).seen.append(len(inputs))
        if len(inputs) > type(self).room:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {len(inputs)} records")
        return super().forward(inputs)


@pytest.fixture
def scarce() -> Iterator[type[Scarce]]:
    Scarce.room, Scarce.seen = 10**9, []
    yield Scarce
    Scarce.room = 10**9


@pytest.mark.parametrize("records", [1, 3])
@pytest.mark.parametrize(("room", "patients"), [(256, 256), (255, 128), (100, 64), (32, 32), (31, 1), (3, 1)])
def test_patients_are_halved_until_they_fit_and_the_sum_is_the_same(
    scarce: type[Scarce], room: int, patients: int, records: int
) -> None:
    shape = Shape(records, (6,))
    torch.manual_seed(0)
    model, batch = scarce(), synthetic(shape, 300)
    parameters = parameters_of(model)
    scarce.room = room * records
    engine = choose_engine(model, table_loss, shape)
    assert engine.patients == patients
    found = sum_of(engine, parameters, [batch], BOUND)
    scarce.room = 10**9
    small = Loop(model, table_loss, shape) if patients == 1 else choose_engine(model, table_loss, shape, patients=patients)
    if small.name == engine.name:
        assert (found == sum_of(small, parameters, [batch], BOUND)).all()
    expected = sum_of(Loop(model, table_loss, shape), parameters, [batch], BOUND)
    assert np.linalg.norm((found - expected).astype(float)) <= 300 * (1e-5 * BITS + math.sqrt(len(expected)))


def test_where_one_patient_does_not_fit_no_engine_is_chosen(scarce: type[Scarce]) -> None:
    scarce.room = 2
    with pytest.raises(torch.OutOfMemoryError):
        choose_engine(scarce(), table_loss, Shape(3, (6,)), patients=32)


def test_a_failure_that_is_none_of_memory_is_not_taken_for_one(scarce: type[Scarce]) -> None:
    model = scarce()

    def fails(outputs: Tensor, labels: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        choose_engine(model, fails, Shape(1, (6,)), patients=32)


@pytest.mark.parametrize("room", [256, 20, 3, 1])
def test_a_plain_sum_takes_as_many_patients_as_fit(scarce: type[Scarce], room: int) -> None:
    model, batch = scarce(), synthetic(Shape(1, (6,)), 40)
    expected = plain_sum(model, table_loss, parameters_of(model), [batch])
    scarce.room = room
    assert plain_sum(model, table_loss, parameters_of(model), [batch]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert max(each for each in scarce.seen if each <= room) >= room / 2 or room > 40
    scarce.room = 0
    with pytest.raises(torch.OutOfMemoryError):
        plain_sum(model, table_loss, parameters_of(model), [batch])


# -- whole scans -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scan() -> NDArray[np.float32]:
    """Smooth blobs in two channels, larger than a tile."""
    noise = torch.randn(1, 2, 12, 14, 12, generator=torch.Generator().manual_seed(5))
    return functional.interpolate(noise, scale_factor=2, mode="trilinear")[0].numpy()


@pytest.fixture(scope="module")
def finder(scan: NDArray[np.float32]) -> nn.Module:
    """A network that learnt to find what is bright in the first channel."""
    torch.manual_seed(1)
    model = build("unet3d", {"widths": "4-8"}, 2)
    corners = [(x, y, z) for x in (0, 16) for y in (0, 16) for z in (0, 16)]
    tiles = [scan[:, x : x + SIDE, y : y + SIDE, z : z + SIDE] for x, y, z in corners]
    inputs = torch.from_numpy(np.stack(tiles))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        optimiser.zero_grad()
        dice_bce(model(inputs), (inputs[:, 0] > 0.5).float()).mean().backward()
        optimiser.step()
    return model.requires_grad_(False)


def mask_of(apply: Callable[[Tensor], Tensor], scan: NDArray[np.float32]) -> NDArray[np.bool_]:
    return predict_volume(apply, scan, patch=(SIDE, SIDE, SIDE), overlap=0.25) > 0.5


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("device", DEVICES)
def test_masks_are_those_of_the_processor(scan: NDArray[np.float32], finder: nn.Module, device: Device) -> None:
    expected = mask_of(finder, scan)
    assert dice(expected, scan[0] > 0.5) > 0.7
    found = mask_of(applied(finder, device), scan)
    assert dice(found, expected) > (0.9999 if device.precision == FP32 else 0.99)


def test_on_a_processor_in_float32_every_bit_is_the_models_own(scan: NDArray[np.float32], finder: nn.Module) -> None:
    inputs = torch.from_numpy(scan[None, :, :SIDE, :SIDE, :SIDE].copy())
    assert torch.equal(applied(finder, PROCESSOR)(inputs), finder(inputs))
    assert torch.equal(applied(finder, PROCESSOR, dict(finder.named_parameters()))(inputs), finder(inputs))


@pytest.mark.parametrize("device", DEVICES)
def test_a_model_is_applied_with_the_parameters_that_it_is_given(finder: nn.Module, device: Device) -> None:
    zeros = {name: torch.zeros_like(value) for name, value in finder.named_parameters()}
    found = applied(finder, device, zeros)(torch.ones(3, 2, SIDE, SIDE, SIDE))
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")
    assert torch.allclose(found, torch.full_like(found, -4.0))  # the prior
    assert float(applied(finder, device)(torch.ones(1, 2, SIDE, SIDE, SIDE)).abs().max()) != 4.0


@pytest.mark.parametrize("room", [9, 5, 2, 1])
def test_inputs_are_halved_until_they_fit_and_stay_so(scarce: type[Scarce], room: int) -> None:
    model, inputs = scarce(), torch.randn(9, 6)
    expected = model(inputs).detach()
    apply = Applied(model, PROCESSOR)
    scarce.room = room
    with torch.inference_mode():
        assert torch.allclose(apply(inputs), expected)
        scarce.seen = []
        assert torch.allclose(apply(inputs), expected)
        assert max(scarce.seen) <= room, "what failed once is not tried again"
        assert apply(inputs[:0]).shape == (0,)


def test_one_input_that_does_not_fit_is_said_clearly(scarce: type[Scarce]) -> None:
    scarce.room = 0
    with pytest.raises(TrainerError, match=r"one input of shape \(6,\): more than the memory of device cpu holds"):
        Applied(scarce(), PROCESSOR)(torch.randn(4, 6))
