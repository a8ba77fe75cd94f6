"""What the gradient of every patient costs: a step of plain torch, of Opacus' default hooks, and of the engine that is chosen here.

    scripts/bench_privacy_engines.py
    scripts/bench_privacy_engines.py --only gru,transformer --repeats 40 --json engines.json

A step is forward, backward, update of the weights; for Opacus and for ours with clipping of every patient, for all without
noise. One thread. Each repetition runs every path once, in turn; the table has medians of the thread's CPU time and of its
ratios to plain torch within the repetitions. Peak memory is measured in a fresh process for each path, after a step of the
MLP that loads everything: the highest resident size during a second step (VmHWM, set back by writing 5 to
/proc/self/clear_refs) less the resident size before the model is built. Plain torch uses `nn.GRU` and
`nn.TransformerEncoderLayer`, Opacus `DPGRU` and our block.
"""

import argparse
import contextlib
import ctypes
import gc
import itertools
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import torch  # noqa: E402
from bench_machine import machine, machine_line  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from client.engines import PatientBatch, Shape, choose_engine, sum_of  # noqa: E402
from client.engines.checks import synthetic  # noqa: E402
from client.release import Bound  # noqa: E402
from tasks.layers import PatientGRU, TransformerBlock  # noqa: E402

BOUND = Bound(0.1, 20)
RATE = 1e-3
MIB = 2**20
PATHS = ("plain", "opacus", "ours")
Step = Callable[[], object]


class Sequence(nn.Module):
    """Layers over visits, the last or mean visit, one logit."""

    def __init__(self, layers: nn.Module, width: int, *, last: bool) -> None:
        super().__init__()
        self.layers, self.last = layers, last
        self.output = nn.Linear(width, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.layers(inputs)
        states = found[0] if isinstance(found, tuple) else found
        logits: Tensor = self.output(states[:, -1] if self.last else states.mean(dim=1)).squeeze(-1)
        return logits


class Flat(nn.Sequential):
    """One logit a record."""

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = super().forward(inputs).squeeze(-1)
        return found


def stage(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(before, after, 3, stride=stride, padding=1), nn.GroupNorm(8, after), nn.ReLU())


def cnn() -> nn.Module:
    widths = (1, 16, 32, 64, 128, 104)
    stages = [nn.Sequential(stage(a, b), nn.MaxPool3d(2)) for a, b in itertools.pairwise(widths)]
    return Flat(*stages, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(104, 1))


class UNet(nn.Module):
    """Three resolutions, two convolutions at each, transposed convolutions upwards: (n, 1, 48, 48, 48) to the same."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Sequential(stage(1, width), stage(width, width))])
        self.down.extend(nn.Sequential(stage(width * k, 2 * width * k, 2), stage(2 * width * k, 2 * width * k)) for k in (1, 2))
        self.up = nn.ModuleList(nn.ConvTranspose3d(2 * width * k, width * k, 2, stride=2) for k in (2, 1))
        self.joined = nn.ModuleList(nn.Sequential(stage(2 * width * k, width * k), stage(width * k, width * k)) for k in (2, 1))
        self.output = nn.Conv3d(width, 1, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        seen = []
        for down in self.down:
            inputs = down(inputs)
            seen.append(inputs)
        for up, joined, beside in zip(self.up, self.joined, (seen[1], seen[0]), strict=True):
            inputs = joined(torch.cat([up(inputs), beside], dim=1))
        found: Tensor = self.output(inputs)
        return found


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True, norm_first=True)
    return Sequence(nn.Sequential(nn.Linear(64, 64), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)), 64, last=False)


def own_encoder() -> nn.Module:
    return Sequence(nn.Sequential(nn.Linear(64, 64), *(TransformerBlock(64, 4, 256) for _ in range(2))), 64, last=False)


def opacus_gru() -> nn.Module:
    from opacus.layers import DPGRU

    return Sequence(DPGRU(72, 64, batch_first=True), 64, last=True)


def logistic() -> nn.Module:
    return Flat(nn.Linear(64, 1))


def perceptron() -> nn.Module:
    return Flat(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 1))


@dataclass(frozen=True)
class Case:
    """`models`: for plain torch, for Opacus, for ours. Targets: time and memory, as ratios to plain torch."""

    models: tuple[Callable[[], nn.Module], Callable[[], nn.Module], Callable[[], nn.Module]]
    shape: Shape
    patients: int
    repeats: int
    time: float
    memory: float | None = None


CASES = {
    "logistic": Case((logistic,) * 3, Shape(1, (64,)), 256, 200, 1.3),
    "mlp": Case((perceptron,) * 3, Shape(1, (64,)), 256, 200, 1.3),
    "gru": Case(
        (lambda: Sequence(nn.GRU(72, 64, batch_first=True), 64, last=True), opacus_gru,
         lambda: Sequence(PatientGRU(72, 64), 64, last=True)), Shape(1, (20, 72)), 128, 40, 1.6,
    ),
    "transformer": Case((encoder, own_encoder, own_encoder), Shape(1, (20, 64)), 128, 25, 1.6),
    "cnn": Case((cnn,) * 3, Shape(1, (1, 64, 64, 64)), 8, 7, 1.1, 0.5),
    "unet": Case((UNet,) * 3, Shape(1, (1, 48, 48, 48), (1, 48, 48, 48)), 8, 2, 1.1, 0.5),
}  # fmt: skip
OPACUS_HEAVY = ("unet",)  # 8 GB


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each record, the mean over its voxels."""
    found = functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none")
    result: Tensor = found.flatten(1).mean(dim=1) if found.dim() > 1 else found
    return result


def plain_step(case: Case, batch: PatientBatch) -> Step:
    model = case.models[0]()
    optimiser = torch.optim.SGD(model.parameters(), RATE)
    inputs, labels, _ = batch.flat()

    def step() -> None:
        optimiser.zero_grad()
        loss(model(inputs), labels).sum().backward()
        optimiser.step()

    return step


def opacus_step(case: Case, batch: PatientBatch) -> Step:
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    model = GradSampleModule(case.models[1](), loss_reduction="sum")
    optimiser = DPOptimizer(
        torch.optim.SGD(model.parameters(), RATE), noise_multiplier=0.0, max_grad_norm=BOUND.norm,
        expected_batch_size=case.patients, loss_reduction="sum",
    )  # fmt: skip
    inputs, labels, _ = batch.flat()

    def step() -> None:
        optimiser.zero_grad()
        loss(model(inputs), labels).sum().backward()
        optimiser.step()

    return step


def our_step(case: Case, batch: PatientBatch) -> tuple[Step, str]:
    model = case.models[2]()
    engine = choose_engine(model, loss, case.shape, patients=case.patients)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}

    def step() -> None:
        total = torch.from_numpy(sum_of(engine, weights, [batch], BOUND)).to(torch.float32).mul_(-RATE * BOUND.step)
        for value, part in zip(weights.values(), total.split([each.numel() for each in weights.values()]), strict=True):
            value += part.view(value.shape)

    return step, engine.name


def apart(case: Case, batch: PatientBatch) -> float:
    """Largest distance of a clipped gradient from autograd's, in bounds, over three patients; both in float32."""
    model = case.models[2]()
    engine = choose_engine(model, loss, case.shape, patients=case.patients)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    bound, found = Bound(2.0**-10, 24), 0.0
    for at in range(3):
        inputs, labels, _ = batch.part(at, at + 1).flat()
        model.zero_grad()
        loss(model(inputs), labels).sum().backward()
        expected = torch.cat([each.grad.flatten() for each in model.parameters()]).double()
        expected *= min(1.0, bound.norm / float(expected.norm())) / bound.norm
        ours = torch.from_numpy(sum_of(engine, weights, [batch.part(at, at + 1)], bound)).double() / 2**24
        found = max(found, float((ours - expected).norm()))
    return found


def seconds(case: Case, batch: PatientBatch, paths: tuple[str, ...], repeats: int) -> tuple[dict[str, list[float]], str]:
    """CPU seconds of every step, by path, and the engine's name."""
    ours, name = our_step(case, batch)
    steps = {"plain": plain_step(case, batch), "ours": ours}
    if "opacus" in paths:
        steps["opacus"] = opacus_step(case, batch)
    taken: dict[str, list[float]] = {path: [] for path in steps}
    for repeat in range(repeats + 1):
        for path, step in steps.items():
            start = time.thread_time()
            step()
            if repeat:  # the first warms up
                taken[path].append(time.thread_time() - start)
    return taken, name


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def peak(case: Case, path: str) -> int:
    """Bytes that a step needs at most, beyond the libraries and the data."""
    build = {"plain": plain_step, "opacus": opacus_step, "ours": lambda case, batch: our_step(case, batch)[0]}[path]
    build(CASES["mlp"], synthetic(CASES["mlp"].shape, CASES["mlp"].patients))()  # loads everything
    batch = synthetic(case.shape, case.patients)
    before = resident("VmRSS")
    step = build(case, batch)
    step()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what choosing the engine left behind in the heap
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    step()
    return resident("VmHWM") - before


def peak_in_fresh_process(name: str, path: str) -> int:
    command = [sys.executable, __file__, "--peak", name, path]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


@dataclass(frozen=True)
class Row:
    """One case: CPU seconds a step, ratios to plain torch (median, least, most), peak bytes."""

    case: str
    engine: str
    parameters: int
    apart: float
    seconds: dict[str, float]
    ratios: dict[str, tuple[float, float, float]]
    peak: dict[str, int]


def measured(name: str, options: argparse.Namespace) -> Row:
    case = CASES[name]
    paths = tuple(
        path for path in PATHS if path != "opacus" or (not options.without_opacus and (name not in OPACUS_HEAVY or options.heavy))
    )
    batch = synthetic(case.shape, case.patients)
    taken, engine = seconds(case, batch, paths, options.repeats or case.repeats)
    ratios = {}
    for path in paths:
        each = sorted(a / b for a, b in zip(taken[path], taken["plain"], strict=True))
        ratios[path] = (statistics.median(each), each[0], each[-1])
    size = sum(value.numel() for value in case.models[2]().parameters())
    peaks = {path: peak_in_fresh_process(name, path) for path in paths}
    return Row(name, engine, size, apart(case, batch), {path: statistics.median(taken[path]) for path in paths}, ratios, peaks)


def table(rows: list[Row]) -> Table:
    found = Table(title="A step with every patient's gradient clipped, beside plain torch (one thread)")
    for title in (
        "model",
        "parameters",
        "engine",
        "plain",
        "Opacus hooks",
        "ours",
        "target",
        "peak plain",
        "Opacus",
        "ours",
        "from autograd",
    ):
        found.add_column(title, justify="left" if title in ("model", "engine") else "right")
    for row in rows:
        case, plain = CASES[row.case], row.peak["plain"]

        def ratio(path: str, row: Row = row) -> str:
            return f"{row.ratios[path][0]:.2f}x" if path in row.ratios else "not run"

        def memory(path: str, row: Row = row, plain: int = plain) -> str:
            if path not in row.peak:
                return "not run"
            times = f", {row.peak[path] / plain:.2f}x" if plain > MIB else ""
            return f"{row.peak[path] / MIB:.0f} MiB{times}"

        target = f"{case.time}x" + (f", {case.memory}x memory" if case.memory else "")
        found.add_row(
            row.case, f"{row.parameters:,}", row.engine,
            f"{1e3 * row.seconds['plain']:.2f} ms", ratio("opacus"), ratio("ours"), target,
            f"{plain / MIB:.0f} MiB", memory("opacus"), memory("ours"), f"{row.apart:.1e}",
        )  # fmt: skip
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES), help=f"of {', '.join(CASES)}; separated by commas")
    parser.add_argument("--repeats", type=int, default=0, help="steps of each path (default: by the model's size)")
    parser.add_argument("--without-opacus", action="store_true")
    parser.add_argument("--heavy", action="store_true", help="Opacus on the U-Net too: 8 GB of memory, a minute a step")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Full backward hook")
    if options.peak:
        print(peak(CASES[options.peak[0]], options.peak[1]))
        return
    if strange := set(options.only.split(",")) - set(CASES):
        parser.error(f"unknown case {sorted(strange)[0]}; known: {', '.join(CASES)}")
    line = machine_line(machine())
    rows = [measured(name, options) for name in options.only.split(",")]
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    console = Console(width=200)
    console.print(line)
    console.print(table(rows))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
