"""The measurement behind the planner: its fast sums, its noise and its fit are what they claim to be."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_privacy_utility.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_privacy_utility", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["logistic", "mlp"])
def test_sums_without_rows_equal_the_products_clipped_sum_of_the_rows(bench: ModuleType, kind: str) -> None:
    cohorts = bench.make_cohorts(bench.Made(10, 0.5, 0.5), 3)
    width = cohorts.inputs.shape[1] - 1
    model = bench.logistic(width) if kind == "logistic" else bench.perceptron(width, 8)
    assert bench.check_sums(model, cohorts) < 5e-5  # float32 against float64 and the grid, over 300 patients


def test_the_gradient_is_that_of_the_loss(bench: ModuleType) -> None:
    """Central differences of the summed loss, no clip."""
    cohorts = bench.make_cohorts(bench.Made(0), 4)
    model = bench.perceptron(21, 4)
    inputs, labels = cohorts.inputs[:40], cohorts.labels[:40]
    weights = (model.start + 0.1 * np.random.default_rng(1).normal(size=model.start.shape))[:, None]
    clip, ones = np.full(1, np.inf, np.float32), np.ones((40, 1), np.float32)
    gradient = model.sums(weights.astype(np.float32), inputs, labels, clip, ones)[:, 0]
    for at in (0, 25, 84, 88, 92):  # hidden weights, their bias, output weights, its bias
        ends = []
        for side in (1e-2, -1e-2):
            moved = weights.copy()
            moved[at] += side
            scores = model.scores(moved.astype(np.float32), inputs)[:, 0].astype(np.float64)
            ends.append(np.logaddexp(0.0, np.where(labels == 1, -scores, scores)).sum())
        assert gradient[at] == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=2e-2, abs=2e-2)


@pytest.mark.parametrize(
    ("mode", "power"), [("pooled", 1.0), ("distributed", 1.0), ("local", 1.0), ("local", 1.5), ("distributed", 2.0)]
)
def test_the_mean_gradient_carries_the_noise_of_every_share(bench: ModuleType, mode: str, power: float) -> None:
    declared = bench.sizes()
    shares, part = bench.shares_of(mode, len(declared), 6)
    arm = bench.Arm(mode, 3.0, 0.01, 0.3, 10.0 * part, shares, power)
    scales = bench.scale_of_sites(declared, power)
    opened = bench._opened(np.zeros(20_000), arm, scales, bench.tape(1))
    expected = 0.3 * 10.0 * part * (math.sqrt(shares) * scales[0] if power == 1.0 else math.sqrt(np.square(scales).sum()))
    assert opened.std() == pytest.approx(expected, rel=0.02)


def test_weights_of_the_first_power_count_every_patient_the_same(bench: ModuleType) -> None:
    assert bench.scale_of_sites((50, 150, 300), 1.0) == pytest.approx([1 / 500] * 3)


def test_the_fit_finds_a_law_that_it_is_given(bench: ModuleType) -> None:
    points = [
        bench.Point(f"t{p}", p, rounds, "local", 1.0, noise, 0.75, 0.3 * (noise * math.sqrt(p / rounds)) ** 0.8 + 0.2 / rounds, 0.0)
        for p in (20, 200, 2000)
        for rounds in (50, 200)
        for noise in (0.001, 0.005, 0.02)
    ]
    found = bench.fit(points, ["logistic"])
    assert (found["factor"], found["power"], found["few_rounds"]) == pytest.approx((0.3, 0.8, 0.2), rel=1e-2)
    assert found["error"] < 1e-4
