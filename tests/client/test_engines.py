"""Whatever a patient's records are and whoever else is there, the sum moves by at most the bound, and by the same bits."""

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from client.engines import (
    Engine,
    PatientBatch,
    Shape,
    Unsupported,
    choose,
    choose_engine,
    gradients_as_inputs,
    grid,
    like,
    of_owners,
    of_records,
    of_rows,
    plain_sum,
    sum_of,
)
from client.engines.bookkeeping import Bookkeeping
from client.engines.checks import check_slots, synthetic
from client.engines.choose import BATCHED, NAMES, parameters_of
from client.engines.functional import Functional
from client.engines.grid import steps_per_unit
from client.engines.loop import Loop
from client.engines.outer import Outer
from client.engines.tiles import cut_single_volumes
from client.errors import Refused
from client.release import Bound, clipped_grid_sum
from privacy.noise import sensitivity_factor
from tasks.layers import PatientGRU, TransformerBlock

BOUND = Bound(0.3, 20)
MANY = 40  # records


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")


class Readout(nn.Module):
    """Any layers, then the mean over a record's own axes."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = layer(inputs)
        return torch.tanh(inputs).flatten(1).mean(dim=1) * 3.0


class Tokens(nn.Module):
    """Codes of visits, as whole numbers from the inputs; the embedding is also the output weight (tied)."""

    def __init__(self, *, tied: bool, padding: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6, padding_idx=padding)
        self.turn = nn.Linear(6, 6)
        self.output = nn.Linear(6, 7, bias=False)
        if tied:
            self.output.weight = self.embedding.weight

    def forward(self, inputs: Tensor) -> Tensor:
        codes = (inputs.nan_to_num(0.0, 0.0, 0.0).abs() * 3).clamp(max=6).long()
        found: Tensor = self.output(torch.tanh(self.turn(self.embedding(codes)))).sum(dim=(1, 2))
        return found


class Branches(nn.Module):
    """Two modalities, masked where a record has none of the second; a third branch that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        present = (inputs[:, 3] > 0).float().unsqueeze(1)
        found: Tensor = (self.first(inputs[:, :3]) + present * self.second(inputs[:, 3:])).squeeze(1)
        return found


class Repeated(nn.Module):
    """The same layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Linear(5, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.turn(torch.tanh(self.turn(inputs))).sum(dim=1)
        return found


def padded(mode: str) -> nn.Module:
    return Readout(
        nn.Conv3d(1, 2, 3, padding=1, padding_mode=mode),
        nn.GroupNorm(2, 2),
        nn.Conv3d(2, 2, 3, padding=(1, 0, 1), padding_mode=mode),
    )


def upwards() -> nn.Module:
    return Readout(nn.ConvTranspose3d(1, 2, 3, stride=2, padding=1, output_padding=1), nn.ConvTranspose3d(2, 2, 2, groups=2))


VOLUME = (1, 4, 5, 4)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: Readout(nn.Linear(6, 1)), (6,)),
    "linear without bias": (lambda: Readout(nn.Linear(6, 4, bias=False), nn.Tanh(), nn.Linear(4, 1, bias=False)), (6,)),
    "perceptron": (lambda: Readout(nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Linear(9, 1)), (6,)),
    "linear on four axes": (lambda: Readout(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), (2, 3, 4)),
    "embedding": (lambda: Tokens(tied=False), (5,)),
    "embedding with padding": (lambda: Tokens(tied=False, padding=0), (5,)),
    "tied weights": (lambda: Tokens(tied=True), (5,)),
    "layer norm": (lambda: Readout(nn.Linear(4, 4), nn.LayerNorm((3, 4)), nn.LayerNorm(4, bias=False)), (3, 4)),
    "rms norm": (lambda: Readout(nn.Linear(4, 4), nn.RMSNorm(4)), (3, 4)),
    "group norm": (lambda: Readout(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4)), (2, 6)),
    "instance norm": (lambda: Readout(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True)), (2, 5, 5)),
    "prelu": (lambda: Readout(nn.Linear(4, 3), nn.PReLU(3), nn.PReLU()), (4,)),
    "conv1d": (lambda: Readout(nn.Conv1d(2, 4, 3, stride=2, groups=2, padding="valid")), (2, 9)),
    "conv2d same": (lambda: Readout(nn.Conv2d(2, 3, (2, 3), padding="same", dilation=2, bias=False)), (2, 6, 5)),
    "conv2d reflect same": (lambda: Readout(nn.Conv2d(2, 3, 4, padding="same", padding_mode="reflect")), (2, 6, 5)),
    "conv3d": (lambda: Readout(nn.Conv3d(2, 4, 3, stride=2, padding=1, groups=2)), (2, 5, 4, 5)),
    "conv3d circular": (lambda: padded("circular"), VOLUME),
    "conv3d reflect": (lambda: padded("reflect"), VOLUME),
    "conv3d replicate": (lambda: padded("replicate"), VOLUME),
    "conv transpose": (
        lambda: Readout(
            nn.ConvTranspose3d(1, 2, 3, stride=2, padding=1, output_padding=1), nn.ConvTranspose3d(2, 2, 2, groups=2)
        ),
        (1, 3, 3, 2),
    ),
    "conv transpose 1d": (lambda: Readout(nn.ConvTranspose1d(2, 4, 3, dilation=2, stride=2, groups=2)), (2, 4)),
    "gru": (lambda: Readout(PatientGRU(3, 5), PatientGRU(5, 4)), (6, 3)),
    "transformer": (lambda: Readout(nn.Linear(3, 8), TransformerBlock(8, 2, 12)), (5, 3)),
    "branches": (Branches, (6,)),
    "one layer twice": (Repeated, (5,)),
}  # fmt: skip
LONE = {"linear": CASES["linear"], "linear without bias": CASES["linear without bias"], "perceptron": CASES["perceptron"]}
RECORDS = (1, 5)
Build = Callable[[nn.Module, Shape, int], Engine]


def model_of(case: str, seed: int = 0) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(seed)
    build, inputs = CASES[case]
    model = build()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn_like(value))
    return model, inputs


def patients(shape: Shape, n: int, seed: int = 0) -> PatientBatch:
    """One to R records each, the second patient's all the same, the third's strongly correlated; labels 0 and 1."""
    stream = torch.Generator().manual_seed(seed)
    counts = [1 + at % shape.records for at in range(n)]
    inputs = [torch.randn(m, *shape.inputs, generator=stream) for m in counts]
    for at, noise in ((1, 0.0), (2, 0.01)):
        if at < n:
            inputs[at] = inputs[at][:1] + noise * inputs[at]
    return of_records(inputs, [(torch.rand(m, generator=stream) < 0.5).float() for m in counts], shape.records)


def by_autograd(model: nn.Module, batch: PatientBatch) -> Tensor:
    """Gradient of every patient (n, n_parameters) in float64, by ordinary back-propagation over its real records."""
    rows = []
    model = copy.deepcopy(model).double()
    for at in range(len(batch)):
        real = batch.weights[at] > 0
        model.zero_grad(set_to_none=True)
        found = loss(model(batch.inputs[at][real].double()), batch.labels[at][real].double())
        (found * batch.weights[at][real].double()).sum().backward()
        rows.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()]))
    return torch.stack(rows)


def total_of(engine: Engine, parameters: dict[str, Tensor], batch: PatientBatch, bound: Bound = BOUND) -> NDArray[np.int64]:
    """Exact, in the engine's own fractions of a step."""
    total = np.zeros(sum(value.numel() for value in parameters.values()), dtype=np.int64)
    engine.add(parameters, batch, bound, total)
    return total


def without(batch: PatientBatch, at: int) -> PatientBatch:
    keep = torch.arange(len(batch)) != at
    return PatientBatch(batch.inputs[keep], batch.labels[keep], batch.weights[keep])


def engines_for(case: str, records: int, n: int = 3) -> list[Engine]:
    model, inputs = model_of(case)
    shape = Shape(records, inputs)
    found: list[Engine] = [Loop(model, loss, shape), Bookkeeping(model, loss, shape, n)]
    if case in LONE and records == 1:
        found.append(Outer(model, loss, shape, n))
    if case not in ("gru", "embedding", "embedding with padding", "tied weights"):
        found.append(Functional(model, loss, shape, n))
    return found


# -- equal to autograd, bounded, independent -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("records", RECORDS)
@pytest.mark.parametrize("case", CASES)
def test_clipped_sums_are_those_of_autograd_patient_by_patient(case: str, records: int) -> None:
    model, inputs = model_of(case)
    batch = patients(Shape(records, inputs), 7)
    expected = by_autograd(model, batch)
    norms = expected.norm(dim=1)
    for engine in engines_for(case, records):
        for at in range(7):
            bound = Bound(float(norms[at]) / 2, 22)  # clipped, and a grid finer than the tolerance
            moved = total_of(engine, parameters_of(model), batch.part(at, at + 1), bound) / 2.0 ** engine.fine_bits(bound)
            wanted = expected[at].numpy() * (2**22 / float(norms[at]))
            assert np.linalg.norm(moved - wanted) <= 1e-5 * 2**22 + math.sqrt(len(wanted)) / 2, (engine.name, at)
        if engine.name in ("loop", "bookkeeping", "functional"):
            found = torch.cat(engine.raw(parameters_of(model), batch), dim=1)
            assert ((found - expected).norm(dim=1) <= 1e-5 * norms).all(), engine.name


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("records", RECORDS)
@pytest.mark.parametrize("case", CASES)
def test_removing_a_patient_moves_the_sum_by_its_own_contribution_and_by_at_most_the_bound(case: str, records: int) -> None:
    """Its own contribution to the bit: so nobody else's changed by a bit."""
    model, inputs = model_of(case)
    parameters = parameters_of(model)
    size = sum(value.numel() for value in parameters.values())
    batch = patients(Shape(records, inputs), 7)
    bound = Bound(float(by_autograd(model, batch).norm(dim=1).median()), 20)
    for engine in engines_for(case, records):
        whole = total_of(engine, parameters, batch, bound)
        for at in range(7):
            moved = whole - total_of(engine, parameters, without(batch, at), bound)
            assert (moved == total_of(engine, parameters, batch.part(at, at + 1), bound)).all()
            assert np.linalg.norm(moved / 2.0 ** engine.fine_bits(bound)) <= 2**20 + math.sqrt(size) / 2
            rounded = sum_of(engine, parameters, [batch], bound) - sum_of(engine, parameters, [without(batch, at)], bound)
            assert np.linalg.norm(rounded) <= 2**20 * sensitivity_factor(size, 20)


@pytest.mark.parametrize("case", ["linear", "perceptron", "gru", "transformer", "conv3d circular", "tied weights"])
def test_how_patients_are_cut_into_batches_changes_no_bit(case: str) -> None:
    model, inputs = model_of(case)
    for records, n in itertools.product(RECORDS, (1, 33)):
        batch = patients(Shape(records, inputs), 17)
        for engine in engines_for(case, records, n):
            expected = sum_of(engine, parameters_of(model), [batch], BOUND)
            for cut in (1, 3, 16):
                parts = [batch.part(0, 0), *(batch.part(start, start + cut) for start in range(0, 17, cut))]
                assert (sum_of(engine, parameters_of(model), parts, BOUND) == expected).all(), (engine.name, n)


@pytest.mark.parametrize("bits", [10, 16, 20, 21, 22, 24])
def test_sums_are_exact_on_every_grid_that_a_plan_may_choose(bits: int) -> None:
    model, inputs = model_of("perceptron")
    bound, batch = Bound(1e-3, bits), patients(Shape(1, inputs), 40)
    for engine in engines_for("perceptron", 1, 32):
        ones = [total_of(engine, parameters_of(model), batch.part(at, at + 1), bound) for at in range(40)]
        assert (total_of(engine, parameters_of(model), batch, bound) == sum(ones)).all()
        lengths = [float(np.linalg.norm(one / 2.0 ** engine.fine_bits(bound))) for one in ones]
        assert max(lengths) <= 2**bits + math.sqrt(len(ones[0])) / 2
        assert min(lengths) >= 2**bits * (1 - 1e-4) - math.sqrt(len(ones[0])) / 2  # all of them are clipped


@pytest.mark.parametrize("case", ["linear", "gru", "transformer", "conv3d reflect"])
def test_one_record_or_forty_have_the_same_bound(case: str) -> None:
    model, inputs = model_of(case)
    stream = torch.Generator().manual_seed(4)
    one, many = torch.randn(1, *inputs, generator=stream), torch.randn(MANY, *inputs, generator=stream)
    batch = of_records([one, one.expand(MANY, *inputs), many], [torch.ones(1), torch.ones(MANY), torch.ones(MANY)], MANY)
    bound = Bound(1e-3, 20)
    for engine in engines_for(case, MANY):
        found = [total_of(engine, parameters_of(model), batch.part(at, at + 1), bound) for at in range(3)]
        assert max(np.linalg.norm(each) for each in found) <= 2**20 + math.sqrt(len(found[0])) / 2
        assert np.linalg.norm(found[0] - found[1]) <= 30 + math.sqrt(len(found[0]))  # forty times one visit is that visit


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize(
    ("width", "stride", "dilation", "padding"), [(8, 1, 1, 1), (9, 1, 1, 0), (11, 2, 1, 1), (12, 3, 2, 2), (13, 1, 2, "same")]
)
def test_a_volume_cut_in_two_is_convolved_as_a_whole(mode: str, width: int, stride: int, dilation: int, padding: int | str) -> None:
    torch.manual_seed(0)
    layer = nn.Conv3d(2, 4, 3, stride=stride, dilation=dilation, padding=padding, groups=2, padding_mode=mode)
    cut = copy.deepcopy(layer)
    cut_single_volumes(cut)
    volume = torch.randn(1, 2, 6, 7, width, requires_grad=True)
    whole, halves = layer(volume), cut(volume)
    torch.testing.assert_close(halves, whole)
    up = torch.randn_like(whole)
    expected = torch.autograd.grad(whole, (volume, layer.weight, layer.bias), up)
    for one, other in zip(torch.autograd.grad(halves, (volume, cut.weight, cut.bias), up), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


# -- broken, huge, absent --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("case", ["linear", "perceptron", "gru", "transformer", "conv3d replicate", "layer norm"])
def test_a_patient_with_a_broken_record_counts_as_absent_and_changes_nobody_else(case: str, value: float) -> None:
    model, inputs = model_of(case)
    for records in RECORDS:
        batch = patients(Shape(records, inputs), 7)
        broken = batch.inputs.clone()
        broken[4, 0].view(-1)[0] = value
        for engine in engines_for(case, records):
            found = total_of(engine, parameters_of(model), PatientBatch(broken, batch.labels, batch.weights))
            rest = found - total_of(engine, parameters_of(model), without(batch, 4))
            finite = bool(torch.isfinite(by_autograd(model, PatientBatch(broken, batch.labels, batch.weights))[4]).all())
            assert finite or not rest.any()
            assert np.linalg.norm(rest / 2.0 ** engine.fine_bits(BOUND)) <= 2**20 + math.sqrt(len(rest)) / 2


@pytest.mark.parametrize("scale", [1e-30, 1e10, 1e25, 3e37])
def test_a_patient_with_values_at_the_ends_of_float32_stays_within_the_bound(scale: float) -> None:
    model, inputs = model_of("linear without bias")
    batch = patients(Shape(1, inputs), 5)
    odd = PatientBatch(batch.inputs * torch.tensor([1, 1, scale, 1, 1]).view(5, 1, 1), batch.labels, batch.weights)
    for engine in engines_for("linear without bias", 1):
        moved = total_of(engine, parameters_of(model), odd) - total_of(engine, parameters_of(model), without(odd, 2))
        assert (moved == total_of(engine, parameters_of(model), odd.part(2, 3))).all()
        assert np.linalg.norm(moved / 2.0 ** engine.fine_bits(BOUND)) <= 2**20 + math.sqrt(len(moved)) / 2


@pytest.mark.parametrize("norm", [2.0**-100, 1e-20, 1e20, 2.0**100])
def test_every_bound_that_a_plan_may_have_is_kept(norm: float) -> None:
    """Squares of gradients near 2^-100 are nothing in float32: without care such a patient would count as it is."""
    model, inputs = model_of("perceptron")
    batch = patients(Shape(1, inputs), 5)
    batch = PatientBatch(batch.inputs, batch.labels, batch.weights * torch.tensor([1, 1e-6, 1e-28, 1e-30, 1e-36]).view(5, 1))
    for engine in engines_for("perceptron", 1):
        for at in range(5):
            moved = total_of(engine, parameters_of(model), batch.part(at, at + 1), Bound(norm, 20))
            assert np.linalg.norm(moved / 2.0 ** engine.fine_bits(Bound(norm, 20))) <= 2**20 + math.sqrt(len(moved)) / 2


@pytest.mark.parametrize("case", ["linear", "gru", "conv3d", "transformer"])
def test_an_empty_batch_and_patients_without_records_add_nothing(case: str) -> None:
    model, inputs = model_of(case)
    nobody = of_records([torch.zeros(0, *inputs)] * 4, [torch.zeros(0)] * 4, 5)
    for engine in engines_for(case, 5):
        assert not total_of(engine, parameters_of(model), patients(Shape(5, inputs), 3).part(0, 0)).any()
        assert not total_of(engine, parameters_of(model), nobody).any()
        assert not sum_of(engine, parameters_of(model), [], BOUND).any()


def test_a_branch_that_did_not_run_adds_nothing_and_leaves_nothing_for_the_next_step() -> None:
    model, inputs = model_of("branches")
    names = [name for name, value in model.named_parameters() for _ in range(value.numel())]
    batch = patients(Shape(1, inputs), 6)
    absent = PatientBatch(batch.inputs.clone(), batch.labels, batch.weights)
    absent.inputs[:, :, 3:] = 0.0
    for engine in engines_for("branches", 1):
        fresh = total_of(engine, parameters_of(model), absent)
        total_of(engine, parameters_of(model), batch)  # all branches, other norms
        again = total_of(engine, parameters_of(model), absent)
        assert (again == fresh).all()
        for branch in ("second", "third"):
            assert not again[[name.startswith(branch) for name in names]].any()


class Sometimes(nn.Module):
    """A branch that only runs for a batch in which somebody needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.rarely = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.always(inputs).squeeze(1)
        return found + self.rarely(inputs).squeeze(1) if bool((inputs[:, 0] > 100).any()) else found


def test_a_branch_that_runs_for_all_when_one_patient_needs_it_is_mixing_and_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(Refused, match="changes another's loss"):
        choose_engine(Sometimes(), loss, Shape(1, (3,)), patients=4)


# -- a hostile coordinator's weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["outer", "bookkeeping", "functional"])
@pytest.mark.parametrize("seed", range(5))
def test_weights_that_cancel_do_not_turn_one_patient_into_many(name: str, seed: int) -> None:
    """Equal patients whose logit is rounding error alone: with sums ordered by the size of the batch, removing one flips all."""
    stream = np.random.default_rng(seed)
    x = torch.from_numpy(stream.normal(size=33).astype(np.float32))
    w = torch.from_numpy((stream.normal(size=33) * 1e20).astype(np.float32))
    total = np.float32(0)
    for product in (w * x).numpy():
        total = np.float32(total + product)
    model = Readout(nn.Linear(33, 1))
    parameters = {"layers.0.weight": w.unsqueeze(0), "layers.0.bias": torch.tensor([-total])}
    engine = BATCHED[name](model, loss, Shape(1, (33,)), 32)
    sums = [total_of(engine, parameters, of_rows(x.expand(n, 33).contiguous(), torch.zeros(n))) for n in range(1, 70)]
    for n, each in enumerate(sums, start=1):
        assert (each == n * sums[0]).all()


@pytest.mark.parametrize(
    ("name", "case"),
    [("bookkeeping", "gru"), ("bookkeeping", "transformer"), ("bookkeeping", "conv3d circular"), ("functional", "conv3d")],
)
@pytest.mark.parametrize("scale", [1.0, 1e6, 1e20])
def test_removing_a_patient_changes_no_bit_of_the_others_under_weights_of_any_size(name: str, case: str, scale: float) -> None:
    model, inputs = model_of(case)
    parameters = {key: value * scale for key, value in parameters_of(model).items()}
    for value in parameters.values():
        flat = value.view(-1)
        flat[1::2] = -flat[: flat.numel() // 2 * 2 : 2] * (1 + 1e-7)
    engine = BATCHED[name](model, loss, Shape(5, inputs), 8)
    batch = patients(Shape(5, inputs), 11)
    whole = total_of(engine, parameters, batch)
    for at in range(11):
        alone = total_of(engine, parameters, batch.part(at, at + 1))
        assert (whole - total_of(engine, parameters, without(batch, at)) == alone).all()
        assert np.linalg.norm(alone / 2.0 ** engine.fine_bits(BOUND)) <= 2**20 + math.sqrt(len(alone)) / 2


class SlotBound:
    """An engine whose last slot rounds otherwise, as a matrix kernel may at the end of a batch."""

    def __init__(self, engine: Bookkeeping) -> None:
        self._engine = engine
        self.name = "slot-bound"
        self.shape = engine.shape
        self.fine_bits, self.add, self.outputs = engine.fine_bits, engine.add, engine.outputs

    def raw(self, parameters: dict[str, Tensor], batch: PatientBatch) -> list[Tensor]:
        found = self._engine.raw(parameters, batch)
        found[0][-1] = torch.nextafter(found[0][-1], torch.tensor(math.inf))
        return found


class NeighbourBound(SlotBound):
    """An engine in which one patient's numbers pick up something of the others'."""

    def raw(self, parameters: dict[str, Tensor], batch: PatientBatch) -> list[Tensor]:
        found = self._engine.raw(parameters, batch)
        found[0][0] += 0.0 * found[0][1:].sum(dim=0)  # shows only where somebody is not finite
        return found


class CompanyBound(Bookkeeping):
    """An engine that clips a little less when there are many."""

    def add(self, parameters: dict[str, Tensor], batch: PatientBatch, bound: Bound, total: NDArray[np.int64]) -> None:
        super().add(parameters, batch, bound, total)
        total[0] += int(len(batch) > 20)


class AlwaysWrong(Bookkeeping):
    """An engine that forgets a patient's largest parameter."""

    def add(self, parameters: dict[str, Tensor], batch: PatientBatch, bound: Bound, total: NDArray[np.int64]) -> None:
        before = total.copy()
        super().add(parameters, batch, bound, total)
        at = np.abs(total - before).argmax()
        total[at] = before[at]


class SlotBoundBookkeeping(Bookkeeping):
    """The last slot's gradients are off by a bit."""

    def raw(self, parameters: dict[str, Tensor], batch: PatientBatch) -> list[Tensor]:
        found = super().raw(parameters, batch)
        found[0][-1] = torch.nextafter(found[0][-1], torch.tensor(math.inf))
        return found


@pytest.mark.parametrize(
    ("faulty", "words"),
    [(CompanyBound, "how many others"), (AlwaysWrong, "from autograd"), (SlotBoundBookkeeping, "slot or on the neighbours")],
)
def test_a_faulty_engine_is_never_chosen(monkeypatch: pytest.MonkeyPatch, faulty: type[Bookkeeping], words: str) -> None:
    model, inputs = model_of("gru")
    shape = Shape(2, inputs)
    assert choose_engine(model, loss, shape, patients=32, name="bookkeeping").name == "bookkeeping"
    monkeypatch.setitem(BATCHED, "bookkeeping", faulty)
    assert not isinstance(choose_engine(model, loss, shape, patients=32), faulty)
    with pytest.raises(Unsupported, match=words):
        choose_engine(model, loss, shape, patients=32, name="bookkeeping")


@pytest.mark.parametrize("scale", [1.0, 2.0**70], ids=["plain", "beyond float32"])
def test_the_norm_that_a_patient_is_clipped_by_does_not_depend_on_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    """A sum over a stack of 20 parameters took another order for 16 patients than for one."""
    seen: list[Tensor] = []

    def keep(squares: Tensor, bound: Bound) -> Tensor:
        seen.append(squares.clone())
        return steps_per_unit(squares, bound)

    monkeypatch.setattr(grid, "steps_per_unit", keep)
    stream = torch.Generator().manual_seed(0)
    rows = [scale * torch.randn(255, 2, generator=stream) for _ in range(20)]
    for n in (*range(1, 41), 64, 100, 255):
        grid.clip_to_grid([row[:n].clone() for row in rows], BOUND)
    for squares in seen:
        assert torch.equal(squares, seen[-1][: len(squares)])
    assert bool(torch.isfinite(seen[-1]).all())


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_enters_the_sum_is_never_longer_than_the_bound_on_the_finest_grid(size: int) -> None:
    """Float rounding of norm and product is inside the margin, not on top of the bound."""
    bound = Bound(0.3, 24)
    rows = torch.randn(20_000, size, generator=torch.Generator().manual_seed(size)) * 7.0
    grid.clip_to_grid([rows], bound)
    squares = np.square(rows.double().numpy().astype(np.int64)).sum(axis=1)
    assert squares.max() <= (2**24) ** 2
    assert squares.max() > (2**24 - 200) ** 2


@pytest.mark.parametrize("name", ["outer", "bookkeeping"])
def test_there_is_no_largest_number_of_patients(name: str) -> None:
    """Fractions of a step are carried before they overflow: many times the same patient is that many times its contribution."""
    model, inputs = model_of("linear")
    engine = choose_engine(model, loss, Shape(1, inputs), name=name)
    one = patients(Shape(1, inputs), 1)
    many = PatientBatch(*(each.expand(300_000, *each.shape[1:]) for each in (one.inputs, one.labels, one.weights)))
    alone = total_of(engine, parameters_of(model), one)
    found = sum_of(engine, parameters_of(model), [many], BOUND)
    assert np.abs(found - alone / 2.0 ** engine.fine_bits(BOUND) * 300_000).max() <= 1
    assert np.abs(found).max() > 300_000 * 2**18


def test_fewer_patients_are_computed_together_where_their_gradients_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying an engine holds all their gradients several times: at a million parameters that took gigabytes."""
    model, inputs = model_of("gru")
    shape, size = Shape(2, inputs), sum(value.numel() for value in model.parameters())
    for at_once, slots in ((10_000, 256), (40, 64), (1, 32)):
        monkeypatch.setattr(choose, "AT_ONCE_BYTES", 4 * size * at_once)
        engine = choose_engine(model, loss, shape, name="bookkeeping")
        assert engine.patients == slots  # type: ignore[attr-defined]


class Inverse(nn.Module):
    """Not finite where an input is zero, as padding is."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(3, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.output(1.0 / inputs).squeeze(-1)
        return found


@pytest.mark.parametrize("kind", [Bookkeeping, Functional])
def test_a_patient_with_fewer_records_is_not_lost_where_padding_is_not_finite(kind: Callable[..., Engine]) -> None:
    model, batch = Inverse(), patients(Shape(5, (3,)), 12)
    expected = sum_of(Loop(model, loss, batch.shape), parameters_of(model), [batch], BOUND)
    found = sum_of(kind(model, loss, batch.shape, 32), parameters_of(model), [batch], BOUND)
    assert np.linalg.norm((found - expected).astype(float)) <= 12 * (1e-5 * 2**20 + 2)
    plain = plain_sum(model, loss, parameters_of(model), [batch])
    assert np.allclose(plain, by_autograd(model, batch).sum(dim=0).numpy(), rtol=1e-4)


@pytest.mark.parametrize("faulty", [SlotBound, NeighbourBound])
def test_an_engine_whose_bits_depend_on_slot_or_neighbour_is_not_used(faulty: type[SlotBound]) -> None:
    model, inputs = model_of("perceptron")
    engine = Bookkeeping(model, loss, Shape(1, inputs), 32)
    check_slots(engine, model, synthetic(Shape(1, inputs), 32))
    with pytest.raises(Unsupported, match="slot or on the neighbours"):
        check_slots(faulty(engine), model, synthetic(Shape(1, inputs), 32))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("case", ["perceptron", "gru", "conv3d"])
def test_the_machines_threads_change_no_bit_of_a_batched_engine(case: str) -> None:
    model, inputs = model_of(case)
    batch, before = patients(Shape(5, inputs), 40), torch.get_num_threads()
    for engine in engines_for(case, 5, 40)[1:]:
        sums = []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                sums.append(sum_of(engine, parameters_of(model), [batch], BOUND))
                assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        assert all((each == sums[0]).all() for each in sums)


# -- the choice --------------------------------------------------------------------------------------------------------------------


class Average(nn.Module):
    """Mixing written by hand: no layer's name gives it away."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(3, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.output(inputs - inputs.mean(0)).squeeze(1)
        return found


class Lottery(Average):
    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.output(functional.dropout(inputs, 0.5, training=True)).squeeze(1)
        return found


class Lookup(Average):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.output.weight[0][inputs[:, 0].long()]


@pytest.mark.parametrize(
    ("model", "words"), [(Average, "changes another's loss"), (Lottery, "same twice"), (Lookup, "clamp indices")]
)
def test_a_model_that_mixes_draws_or_stops_at_a_broken_record_is_refused(model: type[nn.Module], words: str) -> None:
    torch.manual_seed(0)
    example = PatientBatch(torch.rand(4, 1, 3), torch.ones(4, 1), torch.ones(4, 1))
    with pytest.raises(Refused, match=words):
        choose_engine(model(), loss, Shape(1, (3,)), patients=4, example=example)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.BatchNorm1d(3), "mixes the patients"),
        (nn.BatchNorm2d(3, track_running_stats=False), "mixes the patients"),
        (nn.BatchNorm3d(3), "mixes the patients"),
        (nn.SyncBatchNorm(3), "mixes the patients"),
        (nn.LazyBatchNorm1d(), "mixes the patients"),
        (nn.InstanceNorm1d(3, track_running_stats=True), "track_running_stats=False"),
        (nn.Dropout(0.1), "Set dropout to 0"),
        (nn.GRU(3, 3, num_layers=2, dropout=0.1, batch_first=True), "Set dropout to 0"),
        (nn.LSTM(3, 3), "batch_first=True"),
        (nn.MultiheadAttention(4, 2), "batch_first=True"),
        (nn.Embedding(3, 3, scale_grad_by_freq=True), "how often the whole batch"),
        (nn.Embedding(3, 3, max_norm=1.0), "changes weights"),
    ],
)
def test_a_layer_that_mixes_is_refused_with_the_reason_before_anything_runs(layer: nn.Module, reason: str) -> None:
    with pytest.raises(Refused, match=rf"MODEL: layer layers\.1 .*{reason}"):
        choose_engine(Readout(nn.Linear(3, 3), layer), loss, Shape(1, (3,)), patients=4)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", [*NAMES, ""])
def test_any_engine_can_be_named_and_all_agree(name: str) -> None:
    model, inputs = model_of("perceptron")
    batch = patients(Shape(1, inputs), 20)
    engine = choose_engine(model, loss, Shape(1, inputs), patients=8, name=name)
    assert not name or engine.name == name
    expected = sum_of(Loop(model, loss, Shape(1, inputs)), parameters_of(model), [batch], BOUND)
    assert np.linalg.norm(sum_of(engine, parameters_of(model), [batch], BOUND) - expected) <= 20 * (1e-5 * 2**20 + 9)


def test_a_layer_without_a_rule_is_served_by_another_engine() -> None:
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(3, 2, batch_first=True)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.gru(inputs)[0][:, -1].sum(dim=1)
            return found

    model = Recurrent()
    with pytest.raises(Unsupported, match=r"layer gru \(GRU\)"):
        choose_engine(model, loss, Shape(2, (4, 3)), patients=4, name="bookkeeping")
    engine = choose_engine(model, loss, Shape(2, (4, 3)), patients=4)
    batch = patients(Shape(2, (4, 3)), 3)
    found = torch.cat(engine.raw(parameters_of(model), batch), dim=1)
    torch.testing.assert_close(found.double(), by_autograd(model, batch), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("case", ["perceptron", "gru", "transformer"])
def test_a_patients_output_is_the_same_bits_alone_and_in_any_batch(case: str) -> None:
    model, inputs = model_of(case)
    batch = patients(Shape(1, inputs), 9)
    for engine in engines_for(case, 1, 4):
        whole = engine.outputs(parameters_of(model), batch)
        assert whole.shape == (9, 1)
        torch.testing.assert_close(whole[:, 0], model(batch.inputs[:, 0]))
        for at in range(9):
            assert torch.equal(engine.outputs(parameters_of(model), batch.part(at, at + 1)), whole[at : at + 1])


def test_outputs_of_nobody_are_empty() -> None:
    model, inputs = model_of("perceptron")
    for engine in engines_for("perceptron", 1):
        assert engine.outputs(parameters_of(model), patients(Shape(1, inputs), 2).part(0, 0)).shape == (0, 1)


@pytest.mark.parametrize(("name", "records"), [(name, n) for name in NAMES for n in RECORDS if (name, n) != ("outer", 5)])
def test_gradients_given_as_inputs_are_clipped_and_summed_like_a_patients_own(name: str, records: int) -> None:
    """Canaries are gradients, not records: they go through the very engine that the patients go through."""
    engine = like(choose_engine(Readout(nn.Linear(6, 1)), loss, Shape(records, (6,)), name=name), 24)
    assert engine.name == name
    for bound in (BOUND, Bound(2.0**-100, 20), Bound(2.0**100, 20)):
        rows = np.random.default_rng(3).normal(size=(40, 24)) * np.repeat([0.03, 0.3, 30.0, 1e7], 10)[:, None] * bound.norm
        rows[5] = np.nan
        rows[6] = 0.0
        found = sum_of(engine, *gradients_as_inputs(engine, torch.from_numpy(rows)), bound)
        expected = clipped_grid_sum(rows, bound)
        assert np.linalg.norm((found - expected).astype(float)) <= 40 * (1e-5 * 2**20 + np.sqrt(24))
        assert np.linalg.norm(expected.astype(float)) > 2**20


def test_records_by_owner_are_the_batch_of_each_patients_records() -> None:
    inputs, labels, counts = torch.randn(9, 3), torch.rand(9), [2, 4, 1, 2]
    owners = np.repeat(np.arange(4), counts)
    expected = of_records(inputs.split(counts), labels.split(counts), 4)
    found = of_owners(inputs, labels, owners, patients=4, at_most=4)
    assert torch.equal(found.inputs, expected.inputs)
    assert torch.equal(found.labels, expected.labels)
    assert torch.allclose(found.weights, expected.weights)
    with pytest.raises(Unsupported, match="limit is 3"):
        of_owners(inputs, labels, owners, patients=4, at_most=3)
    assert len(of_owners(inputs[:0], labels[:0], owners[:0], patients=0, at_most=4)) == 0


@pytest.mark.parametrize("case", ["perceptron", "gru", "conv3d"])
def test_the_plain_sum_is_that_of_autograd_and_knows_no_bound(case: str) -> None:
    model, inputs = model_of(case)
    batch = patients(Shape(5, inputs), 20)
    found = plain_sum(model, loss, parameters_of(model), [batch.part(0, 12), batch.part(12, 12), batch.part(12, 20)])
    assert np.allclose(found, by_autograd(model, batch).sum(dim=0).numpy(), rtol=1e-4, atol=1e-5)


def test_a_patient_with_more_records_than_the_tasks_limit_is_no_batch() -> None:
    with pytest.raises(Unsupported, match="6 records, the limit is 5"):
        of_records([torch.zeros(6, 2)], [torch.zeros(6)], 5)


def test_a_loss_that_is_reduced_is_refused() -> None:
    model, inputs = model_of("linear")
    with pytest.raises(Unsupported, match="never reduced"):
        choose_engine(model, lambda logits, labels: loss(logits, labels).mean(), Shape(1, inputs), patients=4)
