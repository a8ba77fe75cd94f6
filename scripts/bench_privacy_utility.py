#!/usr/bin/env python3
"""What privacy costs in AUC: pooled, local mode, distributed mode and each site alone, on one simulated and two real consortia.

    scripts/bench_privacy_utility.py --json utility.json              everything, about a quarter of an hour on one core
    scripts/bench_privacy_utility.py --tasks clinical21 --seeds 5     one task
    scripts/bench_privacy_utility.py --curve server/expected_error.yaml   also measure and write what the planner expects

The mechanism is simulated, not the protocol: clipped sums of patients' gradients, the integer grid and its noise
(`client.release`), the calibration (`privacy.planning`) and the hub's step (`server.strategy`) are the product's own, with
every site's share drawn apart; messages, masks and ledgers are left out, because they do not change a sum. Per-patient norms come
from activations and output gradients, and a check at the start compares their sum with `clipped_grid_sum` of the rows themselves.

Rates, clips, averaging and the weights' power are tuned on seeds of their own (`TUNING_SEEDS`), separately for every task, mode and
epsilon; all figures are of other seeds. Intervals are 95 % of Student's t over seeds, differences are paired by seed.
"""

import argparse
import hashlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "tests" / "heart_task")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from bench_machine import machine, machine_line  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from scipy.optimize import least_squares  # noqa: E402
from scipy.stats import t as student  # noqa: E402

from client.release import Bound, Entropy, clipped_grid_sum, noised  # noqa: E402
from privacy.planning import Noises, Releases, calibrate  # noqa: E402
from privacy.terms import honest_minimum  # noqa: E402
from server import strategy as strategies  # noqa: E402
from server.planning import default_delta  # noqa: E402
from tasks.models import build_model, initial_parameters  # noqa: E402

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SITES, SMALLEST_SITE, LARGEST_SITE = 12, 50, 1500
SMALL = 200  # training patients: below, a hospital is "small" in the tables
TEST_PATIENTS = 8000
HELD_OUT = 0.25  # of the real hospitals' patients
COLLUDERS, ABSENT = 1, 1  # the roster: one colluder; an epoch of all sites but one is the least that a site answers
EPSILONS = (1.0, 3.0, 8.0)
ROUNDS, SPARE_ROUNDS, DESCRIBES, EVALUATIONS = 200, 4, 2, 8
DESCRIBE_SHARE, GRID_BITS = 0.05, 20
FIRST_SEED, FIRST_TUNING_SEED, FIRST_CURVE_SEED = 1, 901, 801
EMA = 0.95
STOPS = (5, 10, 20, 40, 80, 200)  # rounds after which a model without noise may stop
FOLDS = 5
MODES = ("pooled", "distributed", "local")
POWERS = (1.0, 1.5)
CURVE_ROUNDS = (50, 100, 200, 400)


# -- a consortium of MS hospitals, made up -------------------------------------------------------------------------------

# name, kind (numeric or share of ones), loadings on (age, inflammation, damage), effect on the log odds of progression
CLINICAL: tuple[tuple[str, float | None, tuple[float, float, float], float], ...] = (
    ("age", None, (0.95, -0.2, 0.2), 0.30),
    ("years_since_onset", None, (0.6, -0.2, 0.4), 0.10),
    ("edss", None, (0.3, 0.2, 0.8), 0.45),
    ("relapses_last_two_years", None, (-0.2, 0.8, 0.1), 0.25),
    ("t2_lesions_log", None, (0.1, 0.5, 0.6), 0.35),
    ("gadolinium_lesions_log", None, (-0.3, 0.8, 0.0), 0.25),
    ("spinal_lesions", None, (0.1, 0.4, 0.6), 0.40),
    ("infratentorial_lesions", None, (0.0, 0.4, 0.5), 0.25),
    ("brain_volume", None, (-0.5, -0.1, -0.7), -0.30),
    ("thalamus_volume", None, (-0.4, -0.2, -0.7), -0.30),
    ("neurofilament_log", None, (0.4, 0.6, 0.4), 0.35),
    ("igg_index", None, (0.0, 0.5, 0.1), 0.10),
    ("timed_walk", None, (0.3, 0.0, 0.7), 0.20),
    ("peg_test", None, (0.2, 0.0, 0.7), 0.15),
    ("symbol_digit", None, (-0.4, 0.0, -0.6), -0.20),
    ("vitamin_d", None, (0.0, -0.2, 0.0), -0.10),
    ("female", 0.7, (0.0, 0.1, 0.0), -0.10),
    ("oligoclonal_bands", 0.85, (0.0, 0.4, 0.1), 0.15),
    ("smoker", 0.25, (0.0, 0.1, 0.1), 0.15),
    ("spinal_onset", 0.3, (0.3, 0.0, 0.3), 0.20),
    ("high_efficacy_treatment", 0.4, (-0.4, 0.5, 0.2), -0.35),
)
IMAGING_FACTORS = 12
EFFECT = 0.45  # of the column above: together they give an AUC near 0.77, as models of conversion and progression in MS report


@dataclass(frozen=True)
class Cohorts:
    """Training patients of all sites: inputs (n, d), a column of ones last, labels (n,), site (n,); then pooled held-out ones."""

    inputs: Floats
    labels: Floats
    site: NDArray[np.int64]
    test_inputs: Floats
    test_labels: Floats
    declared: tuple[int, ...]


@dataclass(frozen=True)
class Made:
    """A made-up task: `imaging` regional values beside the clinical ones, and how much of the outcome is not linear."""

    imaging: int
    imaging_effect: float = 0.0
    interactions: float = 0.0
    uncertain: float = 0.12  # how far clinical effects may be from the table, in log odds: studies disagree, often in sign


def sizes() -> tuple[int, ...]:
    """Public sizes, rounded as a consortium would declare them: 50 to 1,500, geometric."""
    return tuple(int(round(size, -1)) for size in np.geomspace(SMALLEST_SITE, LARGEST_SITE, SITES))


def make_cohorts(made: Made, seed: int) -> Cohorts:
    """A consortium: same biology everywhere; case mix, scanner or laboratory, missing values and base rate differ by site."""
    world = np.random.default_rng([seed, 1])
    loads, effects = _loadings(made, world), _effects(made, world)
    per_site = sizes()
    test = np.floor(TEST_PATIENTS * np.array(per_site) / sum(per_site)).astype(int)
    parts = [_hospital(made, world, loads, effects, int(n), int(m)) for n, m in zip(per_site, test, strict=True)]
    train, held = ([part[side] for part in parts] for side in (0, 1))
    joined = [np.concatenate([pair[at] for pair in side]).astype(np.float32) for side in (train, held) for at in (0, 1)]
    return Cohorts(joined[0], joined[1], np.repeat(np.arange(SITES), per_site), joined[2], joined[3], per_site)


def _loadings(made: Made, world: np.random.Generator) -> Doubles:
    """(3 + IMAGING_FACTORS, d): what each column owes to age, inflammation, damage and the imaging factors."""
    clinical = np.array([row[2] for row in CLINICAL]).T
    top = np.concatenate([clinical, 0.25 * world.normal(size=(3, made.imaging))], axis=1)
    low = np.concatenate(
        [np.zeros((IMAGING_FACTORS, len(CLINICAL))), 0.25 * world.normal(size=(IMAGING_FACTORS, made.imaging))], axis=1
    )
    return np.concatenate([top, low])


def _effects(made: Made, world: np.random.Generator) -> Doubles:
    clinical = EFFECT * np.array([row[3] for row in CLINICAL]) + made.uncertain * world.normal(size=len(CLINICAL))
    return np.concatenate([clinical, made.imaging_effect * world.normal(size=made.imaging) / math.sqrt(max(made.imaging, 1))])


def _hospital(
    made: Made, world: np.random.Generator, loads: Doubles, effects: Doubles, n: int, n_test: int
) -> tuple[tuple[Doubles, Doubles], tuple[Doubles, Doubles]]:
    """((inputs, labels) of training, of held-out patients) of one hospital, in standard deviations of the whole population."""
    width = loads.shape[1]
    mix = 0.35 * world.normal(size=len(loads))
    shift, gain = 0.25 * world.normal(size=width), np.exp(0.1 * world.normal(size=width))
    own = effects + 0.3 * np.abs(effects).mean() * world.normal(size=width)
    base, absent = -0.6 + 0.4 * world.normal(), world.uniform(0.0, 0.2, size=width)
    latent = mix + world.normal(size=(n + n_test, len(loads)))
    rest = np.sqrt(np.clip(1.0 - np.square(loads).sum(axis=0), 0.1, 1.0))
    truth = latent @ loads + rest * world.normal(size=(n + n_test, width))
    odds = base + truth @ own + made.interactions * (truth[:, 0] * truth[:, 5] + truth[:, 2] * truth[:, 6] - np.abs(truth[:, 3]))
    labels = (world.random(len(odds)) < 1.0 / (1.0 + np.exp(-odds))).astype(np.float64)
    seen = np.clip(shift + gain * truth, -4.0, 4.0)
    for column, (_, share, _, _) in enumerate(CLINICAL):
        if share is not None:
            seen[:, column] = np.where(truth[:, column] > statistics.NormalDist().inv_cdf(1.0 - share), 1.0, -1.0)
    seen[world.random(seen.shape) < absent] = 0.0
    inputs = np.concatenate([seen, np.ones((len(seen), 1))], axis=1)
    return (inputs[:n], labels[:n]), (inputs[n:], labels[n:])


# -- models: sums of clipped gradients without the rows --------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """`scores(weights (P, A), inputs)` -> (n, A); `sums(weights, inputs, labels, clips (A,), scales (n, A))` -> (P, A), sums
    over patients of scale x clipped gradient; `start` (P,). A arms are trained side by side."""

    start: Doubles
    scores: Callable[[Floats, Floats], Floats]
    sums: Callable[[Floats, Floats, Floats, Floats, Floats], Floats]


def logistic(width: int) -> Model:
    def scores(weights: Floats, inputs: Floats) -> Floats:
        return inputs @ weights

    def sums(weights: Floats, inputs: Floats, labels: Floats, clips: Floats, scales: Floats) -> Floats:
        with np.errstate(over="ignore"):
            residual = 1.0 / (1.0 + np.exp(-(inputs @ weights))) - labels[:, None]
        norms = np.abs(residual) * np.sqrt(np.square(inputs).sum(axis=1))[:, None]
        return np.asarray(inputs.T @ (residual * _factors(norms, clips) * scales), dtype=np.float32)

    return Model(initial_parameters(build_model("logistic", width, {}), 1).astype(np.float64), scores, sums)


def perceptron(width: int, hidden: int) -> Model:
    """One tanh layer, parameters in the order of the model `mlp` of `tasks.models`."""
    cut = np.cumsum([hidden * width, hidden, hidden])

    def parts(weights: Floats) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        first, bias, second, last = np.split(weights, cut)
        both = np.concatenate([first.reshape(hidden, width), bias[:, None]], axis=1)
        return torch.from_numpy(both), torch.from_numpy(second), torch.from_numpy(last)

    def scores(weights: Floats, inputs: Floats) -> Floats:
        columns = []
        for arm in range(weights.shape[1]):
            first, second, last = parts(np.ascontiguousarray(weights[:, arm]))
            columns.append(torch.tanh(torch.from_numpy(inputs) @ first.T) @ second + last)
        return torch.stack(columns, dim=1).numpy()

    def sums(weights: Floats, inputs: Floats, labels: Floats, clips: Floats, scales: Floats) -> Floats:
        found, x = np.empty_like(weights), torch.from_numpy(inputs)
        x_square = x.square().sum(dim=1)
        for arm in range(weights.shape[1]):
            first, second, last = parts(np.ascontiguousarray(weights[:, arm]))
            active = torch.tanh(x @ first.T)
            residual = torch.sigmoid(active @ second + last) - torch.from_numpy(labels)
            back = (1.0 - active.square()) * second
            norms = residual.abs() * torch.sqrt(active.square().sum(dim=1) + 1.0 + back.square().sum(dim=1) * x_square)
            factor = _factors(norms.numpy()[:, None], clips[arm : arm + 1])[:, 0] * scales[:, arm]
            share = residual * torch.from_numpy(factor)
            both = (back * share[:, None]).T @ x
            pieces = (both[:, :-1].reshape(-1), both[:, -1], active.T @ share, share.sum()[None])
            found[:, arm] = torch.cat(pieces).numpy()
        return found

    module = build_model("mlp", width, {"hidden": hidden})
    return Model(initial_parameters(module, 1).astype(np.float64), scores, sums)


def _factors(norms: Floats, clips: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.minimum(1.0, clips / np.maximum(norms, 1e-12)).astype(np.float32)


def check_sums(model: Model, cohorts: Cohorts) -> float:
    """Largest difference, in clips, of one arm's summed gradient from the product's own sum of the rows, over 300 patients."""
    few = np.random.default_rng(1).choice(len(cohorts.labels), min(300, len(cohorts.labels)), replace=False)
    inputs, labels = cohorts.inputs[few], cohorts.labels[few]
    weights = (model.start + 0.05 * np.random.default_rng(2).normal(size=model.start.shape)).astype(np.float32)[:, None]
    whole, one = np.full(1, np.inf, np.float32), np.ones((1, 1), np.float32)
    rows = [model.sums(weights, inputs[[at]], labels[[at]], whole, one)[:, 0] for at in range(len(few))]
    exact = clipped_grid_sum(np.stack(rows).astype(np.float64), Bound(0.3, GRID_BITS)) * Bound(0.3, GRID_BITS).step
    fast = model.sums(weights, inputs, labels, np.full(1, 0.3, np.float32), np.ones((len(few), 1), np.float32))[:, 0]
    return float(np.abs(fast - exact).max() / 0.3)


# -- training --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """One way to train. `noise`: multiplier of each of `shares` sites, 0 for none; `power`: weights ~ declared size^power."""

    mode: str
    epsilon: float
    rate: float
    clip: float
    noise: float
    shares: int = 1
    power: float = 1.0
    rounds: int = ROUNDS


def tape(*seed: int) -> Entropy:
    """Reproducible bytes in place of `os.urandom`: no patient of this bench needs protection."""
    count = iter(range(2**62))
    return lambda n: hashlib.shake_256(repr((seed, next(count))).encode()).digest(n)


def scale_of_sites(declared: Sequence[int], power: float) -> Doubles:
    """Weight over normaliser of every site, (sites,): what one clipped gradient counts in the mean update."""
    each = np.array(declared, dtype=np.float64)
    return np.asarray(each**power / (each**power).sum() / each)


def train(
    model: Model, cohorts: Cohorts, arms: Sequence[Arm], seed: int, *, stops: Sequence[int] = ()
) -> list[tuple[Doubles, Doubles]]:
    """(last, averaged) weights, (P, A) each, at every round of `stops` and at the end; all arms have the same rounds."""
    scales = np.stack([scale_of_sites(cohorts.declared, arm.power) for arm in arms], axis=1)  # (sites, A)
    per_patient = scales.astype(np.float32)[cohorts.site]
    clips = np.array([arm.clip for arm in arms], dtype=np.float32)
    rates = sorted({arm.rate for arm in arms})
    groups = [[at for at, arm in enumerate(arms) if arm.rate == rate] for rate in rates]
    steps = [strategies.build("fedadam", {"rate": rate, "ema_decay": EMA}) for rate in rates]
    weights = np.repeat(model.start[:, None], len(arms), axis=1)
    states = [step.init(weights[:, group]) for step, group in zip(steps, groups, strict=True)]
    entropy, kept = tape(seed, len(arms)), []
    for done in range(1, arms[0].rounds + 1):
        sums = model.sums(weights.astype(np.float32), cohorts.inputs, cohorts.labels, clips, per_patient).astype(np.float64)
        opened = np.stack([_opened(sums[:, at], arm, scales[:, at], entropy) for at, arm in enumerate(arms)], axis=1)
        for at, group in enumerate(groups):
            states[at], weights[:, group] = steps[at].step(states[at], weights[:, group], -opened[:, group])
        if done in stops or done == arms[0].rounds:
            averaged = np.empty_like(weights)
            for at, group in enumerate(groups):
                averaged[:, group] = steps[at].release(states[at], weights[:, group])
            kept.append((weights.copy(), averaged))
    return kept


def _opened(total: Doubles, arm: Arm, scales: Doubles, entropy: Entropy) -> Doubles:
    """The mean gradient with the noise of every share: on the grid where all sites count the same, scaled by site otherwise."""
    if arm.noise == 0.0:
        return total
    bound = Bound(arm.clip, GRID_BITS)
    if arm.power == 1.0:
        grid = np.rint(total / (scales[0] * bound.step)).astype(np.int64)
        for _ in range(arm.shares):
            grid = noised(grid, noise_multiplier=arm.noise, bound=bound, entropy=entropy)
        return np.asarray(grid * (bound.step * scales[0]))
    nothing = np.zeros(len(total), dtype=np.int64)
    shares = [scale * noised(nothing, noise_multiplier=arm.noise, bound=bound, entropy=entropy) for scale in scales]
    return np.asarray(total + bound.step * np.sum(shares, axis=0))


def aucs(model: Model, cohorts: Cohorts, weights: Doubles) -> list[float]:
    """Held-out AUC of every arm."""
    scores = model.scores(weights.astype(np.float32), cohorts.test_inputs)
    return [exact_auc(cohorts.test_labels, scores[:, arm]) for arm in range(scores.shape[1])]


def exact_auc(labels: Floats, scores: Floats) -> float:
    """Share of (label 1, label 0) pairs in the right order, ties half."""
    ones, zeros = scores[labels == 1], np.sort(scores[labels == 0])
    below, not_above = np.searchsorted(zeros, ones, "left"), np.searchsorted(zeros, ones, "right")
    return float((below + not_above).sum() / (2 * len(ones) * len(zeros)))


# -- tasks -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Described:
    """The normalisation statistics of `shares` sites, each with this noise; 0: exact."""

    shares: int
    noise: float


@dataclass(frozen=True)
class Task:
    """`cohorts(seed, described, site)`: one consortium, or one site of it alone with everybody's held-out patients."""

    name: str
    what: str
    sites: int
    cohorts: Callable[[int, Described, int | None], Cohorts]
    model: Callable[[int], Model]
    rates: tuple[float, ...]
    alone_rate: float
    clips: tuple[float, ...]
    seeds: int
    tuning_seeds: int
    describes: bool = False

    @property
    def honest(self) -> int:
        return honest_minimum(self.sites, colluders=COLLUDERS, minimum_cohort=self.sites - ABSENT)

    @property
    def honest_of_small_cohorts(self) -> int:
        """With the roster's least minimum cohort in place of `ABSENT`."""
        return honest_minimum(self.sites, colluders=COLLUDERS, minimum_cohort=3)


def made_task(
    name: str, what: str, made: Made, hidden: int, rates: tuple[float, ...], clips: tuple[float, ...], seeds: int
) -> Task:
    """Inputs are in standard deviations of the population, as published for such variables: nothing is described."""

    def cohorts(seed: int, described: Described, site: int | None) -> Cohorts:
        whole = _kept(made, seed)
        return whole if site is None else alone_of(whole, site)

    model = cache(lambda width: perceptron(width, hidden) if hidden else logistic(width))
    alone_rate = 0.01 if hidden else 0.02
    return Task(name, what, SITES, cohorts, model, rates, alone_rate, clips, seeds, tuning_seeds=2 if hidden > 64 else 3)


@lru_cache(maxsize=2)
def _kept(made: Made, seed: int) -> Cohorts:
    return make_cohorts(made, seed)


def alone_of(whole: Cohorts, site: int) -> Cohorts:
    mine = whole.site == site
    only = np.zeros(int(mine.sum()), dtype=np.int64)
    return replace(whole, inputs=whole.inputs[mine], labels=whole.labels[mine], site=only, declared=(whole.declared[site],))


def made_tasks(seeds: int) -> tuple[Task, ...]:
    rates, deep = (0.005, 0.01, 0.02, 0.04, 0.08), (0.0025, 0.005, 0.01, 0.02)
    return (
        made_task("clinical21", "logistic, 21 clinical", Made(0), 0, rates, (0.3, 1.0), 2 * seeds),
        made_task("aligned21", "the same, every effect as in the table", Made(0, uncertain=0.0), 0, rates, (0.3, 1.0), 2 * seeds),
        made_task("imaging256", "logistic, 21 clinical + 235 imaging", Made(235, 0.6), 0, rates, (0.3, 1.0), 2 * seeds),
        made_task("mlp64", "MLP 64-128-1, 21 clinical + 43 imaging, interactions", Made(43, 0.5, 0.7), 128, deep, (0.3,), seeds),
    )


def curve_tasks(seeds: int) -> tuple[Task, ...]:
    """Two more sizes of model, for the dependence on the number of parameters; aligned21 has the size of clinical21."""
    rates = (0.005, 0.01, 0.02, 0.04)
    return (
        *(task for task in made_tasks(seeds) if task.name != "aligned21"),
        made_task("imaging64", "logistic, 21 clinical + 43 imaging", Made(43, 0.6), 0, rates, (0.3,), seeds),
        made_task("mlp64-16", "MLP 64-16-1, the same", Made(43, 0.5, 0.7), 16, rates, (0.3,), seeds),
    )


def real_tasks(data: Path, scratch: Path, seeds: int) -> tuple[Task, ...]:
    """Eight real hospitals in two consortia of four; the split by patient differs by seed."""
    from make_real_sites import cis_sites, heart_sites

    cis = real_task("cis", "logistic, CIS to MS, 4 sites", "cis_conversion", cis_sites(data, scratch / "cis"), seeds)
    heart = real_task("heart", "logistic, coronary disease, 4 sites", "heart_disease", heart_sites(data, scratch / "heart"), seeds)
    return cis, heart


def real_task(name: str, what: str, registered: str, folders: Sequence[Path], seeds: int) -> Task:
    from pooled_reference import load_sites

    from tasks.features import Design
    from tasks.registry import get_task
    from tasks.splits import held_out_mask

    task = get_task(registered)
    found = load_sites(folders, task)
    design = Design(task.contract)
    bound = Bound(design.describe_bound, GRID_BITS)

    def buffers(parts: Sequence[Doubles], described: Described, seed: int) -> tuple[Doubles, Doubles]:
        grid = np.sum([clipped_grid_sum(design.describe_vectors(part), bound) for part in parts], axis=0)
        for _ in range(described.shares if described.noise else 0):
            grid = noised(grid, noise_multiplier=described.noise, bound=bound, entropy=tape(seed, 7))
        return design.statistics_to_buffers(grid * bound.step, noise_std=described.noise * bound.norm * math.sqrt(described.shares))

    def cohorts(seed: int, described: Described, site: int | None) -> Cohorts:
        out = [held_out_mask(one.patient_ids, seed.to_bytes(16, "big"), HELD_OUT) for one in found]
        members = [at for at in range(len(found)) if site is None or at == site]
        training = [found[at].values[~out[at]] for at in members]
        mean, scale = buffers(training, described, seed)
        labels = np.concatenate([found[at].labels[~out[at]] for at in members]).astype(np.float32)
        test = np.concatenate([one.values[mask] for one, mask in zip(found, out, strict=True)])
        test_labels = np.concatenate([one.labels[mask] for one, mask in zip(found, out, strict=True)]).astype(np.float32)
        declared = tuple(max(10, round(len(part), -1)) for part in training)
        inputs = with_ones(design.encode(np.concatenate(training), mean, scale))
        where = np.repeat(np.arange(len(members)), [len(part) for part in training])
        return Cohorts(inputs, labels, where, with_ones(design.encode(test, mean, scale)), test_labels, declared)

    kept = lru_cache(maxsize=64)(cohorts)
    return Task(
        name, what, len(found), kept, cache(logistic), (0.01, 0.02, 0.04, 0.08), 0.02, (0.3, 1.0), 4 * seeds, 4, describes=True
    )


def with_ones(inputs: Floats) -> Floats:
    return np.concatenate([inputs, np.ones((len(inputs), 1), np.float32)], axis=1)


# -- what each mode adds, and how it is tuned ------------------------------------------------------------------------------


@cache
def calibrated(epsilon: float, delta: float, rounds: int) -> Noises:
    releases = Releases(DESCRIBES, rounds + SPARE_ROUNDS, EVALUATIONS, 1.0)
    return calibrate(epsilon, delta, releases, describe_share=DESCRIBE_SHARE)


def shares_of(mode: str, sites: int, honest: int) -> tuple[int, float]:
    """(shares, part of the calibrated noise in each): one trusted pool; every site all of it; every site 1/sqrt(h) of it."""
    return {"pooled": (1, 1.0), "local": (sites, 1.0), "distributed": (sites, 1.0 / math.sqrt(honest))}[mode]


@dataclass(frozen=True)
class Recipe:
    """What is tuned."""

    rate: float
    clip: float
    averaged: bool
    power: float = 1.0
    stop: int = ROUNDS


def arm_of(task: Task, mode: str, epsilon: float, recipe: Recipe, *, honest: int, rounds: int = ROUNDS) -> Arm:
    shares, part = shares_of(mode, task.sites, honest)
    noise = calibrated(epsilon, delta_of(task), rounds).train_noise * part
    return Arm(mode, epsilon, recipe.rate, recipe.clip, noise, shares, recipe.power, rounds)


@cache
def delta_of(task: Task) -> float:
    return default_delta(sum(task.cohorts(FIRST_TUNING_SEED, Described(1, 0.0), None).declared))


def described_of(task: Task, arm: Arm) -> Described:
    if not task.describes or arm.noise == 0.0:
        return Described(1, 0.0)
    whole = calibrated(arm.epsilon, delta_of(task), ROUNDS)
    return Described(arm.shares, whole.describe_noise * arm.noise / whole.train_noise)


def run(task: Task, arms: Sequence[Arm], seed: int, *, site: int | None = None) -> list[tuple[float, float]]:
    """Held-out AUC of the last and of the averaged model of every arm; arms with equal statistics train side by side."""
    found: dict[int, tuple[float, float]] = {}
    for described in dict.fromkeys(described_of(task, arm) for arm in arms):
        some = [at for at, arm in enumerate(arms) if described_of(task, arm) == described]
        cohorts = task.cohorts(seed, described, site)
        model = task.model(cohorts.inputs.shape[1] - 1)
        ((last, averaged),) = train(model, cohorts, [arms[at] for at in some], seed)
        found |= dict(zip(some, zip(aucs(model, cohorts, last), aucs(model, cohorts, averaged), strict=True), strict=True))
    return [found[at] for at in range(len(arms))]


Key = tuple[str, float]  # mode and epsilon; ("local^p", epsilon): local mode with the best power of the sizes as weights


def tune(task: Task) -> dict[Key, Recipe]:
    """The best recipe of every mode and epsilon by the mean over the tuning seeds; `none`: pooled, without noise, with its stop."""
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + task.tuning_seeds)
    tried = [
        (mode, epsilon, Recipe(rate, clip, False, power))
        for mode in MODES
        for epsilon in EPSILONS
        for rate in task.rates
        for clip in task.clips
        for power in (POWERS if mode == "local" else POWERS[:1])
    ]
    arms = [arm_of(task, mode, epsilon, recipe, honest=task.honest) for mode, epsilon, recipe in tried]
    scores = np.mean([run(task, arms, seed) for seed in seeds], axis=0)  # (arms, 2)
    best: dict[Key, tuple[float, Recipe]] = {}
    for (mode, epsilon, recipe), pair in zip(tried, scores, strict=True):
        for averaged, score in enumerate(pair):
            keys = [(f"{mode}^p", epsilon)] if mode == "local" else []
            for key in [*keys, *([(mode, epsilon)] if recipe.power == 1.0 else [])]:
                if key not in best or score > best[key][0]:
                    best[key] = (float(score), replace(recipe, averaged=bool(averaged)))
    return {key: recipe for key, (_, recipe) in best.items()} | {("none", 0.0): tune_without_noise(task, seeds)}


def tune_without_noise(task: Task, seeds: Iterable[int]) -> Recipe:
    arms = [Arm("none", 0.0, rate, clip, 0.0) for rate in task.rates for clip in (*task.clips, math.inf)]
    scores = []
    for seed in seeds:
        cohorts = task.cohorts(seed, Described(1, 0.0), None)
        model = task.model(cohorts.inputs.shape[1] - 1)
        scores.append([aucs(model, cohorts, last) for last, _ in train(model, cohorts, arms, seed, stops=STOPS)])
    stop, best = np.unravel_index(np.argmax(np.mean(scores, axis=0)), (len(STOPS), len(arms)))
    return Recipe(arms[best].rate, arms[best].clip, False, 1.0, STOPS[stop])


# -- one site alone --------------------------------------------------------------------------------------------------------


def alone_without_noise(task: Task, seed: int, site: int) -> float:
    """What the site would get by itself: its own statistics, no clip, stopped where its own five-fold cross-validation says."""
    cohorts = task.cohorts(seed, Described(1, 0.0), site)
    model = task.model(cohorts.inputs.shape[1] - 1)
    arm = Arm("alone", 0.0, task.alone_rate, math.inf, 0.0)
    fold = np.arange(len(cohorts.labels)) % FOLDS
    scores = np.empty((len(STOPS), len(fold)), dtype=np.float32)
    for left_out in range(FOLDS):
        out = fold == left_out
        some = replace(cohorts, inputs=cohorts.inputs[~out], labels=cohorts.labels[~out], site=cohorts.site[~out])
        for at, (last, _) in enumerate(train(model, some, [arm], seed, stops=STOPS)):
            scores[at, out] = model.scores(last.astype(np.float32), cohorts.inputs[out])[:, 0]
    stop = STOPS[int(np.argmax([exact_auc(cohorts.labels, row) for row in scores]))]
    return aucs(model, cohorts, train(model, cohorts, [replace(arm, rounds=stop)], seed)[-1][0])[0]


def alone_with_noise(task: Task, recipes: Mapping[Key, Recipe], seed: int, site: int) -> list[float]:
    """The same site under its own privacy, as in local mode, at every epsilon; its rate is local mode's."""
    kept = [recipes["local", epsilon] for epsilon in EPSILONS]
    arms = [
        replace(arm_of(task, "local", recipe_at[0], recipe_at[1], honest=1), shares=1)
        for recipe_at in zip(EPSILONS, kept, strict=True)
    ]
    return [pair[recipe.averaged] for pair, recipe in zip(run(task, arms, seed, site=site), kept, strict=True)]


# -- the figures -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One model: `who` trained, with `epsilon` (0: no noise) on the patients of `seed`; `size` of a site alone, else of all."""

    task: str
    seed: int
    who: str
    epsilon: float
    size: int
    auc: float


def figures(task: Task, recipes: Mapping[Key, Recipe], seed: int) -> list[Row]:
    cohorts = task.cohorts(seed, Described(1, 0.0), None)
    none, total = recipes["none", 0.0], sum(cohorts.declared)
    model = task.model(cohorts.inputs.shape[1] - 1)
    ((last, _),) = train(model, cohorts, [Arm("none", 0.0, none.rate, none.clip, 0.0, rounds=none.stop)], seed)
    rows = [Row(task.name, seed, "none", 0.0, total, aucs(model, cohorts, last)[0])]
    keys = [key for key in recipes if key[0] != "none"]
    named = [(*key, recipes[key], task.honest) for key in keys]
    if task.honest_of_small_cohorts < task.honest:
        loose = task.honest_of_small_cohorts
        named += [(f"distributed, h = {loose}", eps, recipes["distributed", eps], loose) for eps in EPSILONS]
    arms = [arm_of(task, who.split("^")[0].split(",")[0], epsilon, recipe, honest=honest) for who, epsilon, recipe, honest in named]
    for (who, epsilon, recipe, _), pair in zip(named, run(task, arms, seed), strict=True):
        rows.append(Row(task.name, seed, who, epsilon, total, pair[recipe.averaged]))
    for site, size in enumerate(cohorts.declared):
        rows.append(Row(task.name, seed, "alone", 0.0, size, alone_without_noise(task, seed, site)))
        for epsilon, auc in zip(EPSILONS, alone_with_noise(task, recipes, seed, site), strict=True):
            rows.append(Row(task.name, seed, "alone", epsilon, size, auc))
    return rows


def mean_by_seed(rows: Iterable[Row], task: str, who: str, epsilon: float, *, below: int = 10**9) -> dict[int, float]:
    """AUC by seed; of several sites alone, the mean of those with fewer than `below` patients."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if (row.task, row.who, row.epsilon) == (task, who, epsilon) and (who != "alone" or row.size < below):
            found.setdefault(row.seed, []).append(row.auc)
    return {seed: statistics.mean(values) for seed, values in found.items()}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval."""
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), float(half)


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> tuple[float, float]:
    return interval([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())])


def say(pair: tuple[float, float], digits: int = 3, sign: bool = False) -> str:
    return f"{pair[0]:{'+' if sign else ''}.{digits}f} ± {pair[1]:.{digits}f}"


def tables(rows: Sequence[Row], tasks: Sequence[Task]) -> str:
    """Markdown: AUC by mode, then the paired differences that the targets are about."""
    who = ("pooled, no noise", "pooled DP", "distributed", "local", "local, n^p", "alone, all", "alone, small", "alone DP, all")
    gap = ("distributed - pooled DP", "local - pooled DP", "local, n^p - pooled DP", "distributed, low minimum cohort - pooled DP")
    beside = ("distributed - small alone", "local - small alone")
    lines, gaps = ([_joined(("task", "epsilon", *names)), "|---" * (2 + len(names)) + "|"] for names in (who, gap + beside))
    for task in tasks:
        at = lambda who, epsilon, below=10**9, name=task.name: mean_by_seed(rows, name, who, epsilon, below=below)  # noqa: E731
        small = at("alone", 0.0, SMALL)
        for epsilon in EPSILONS:
            cells = [at("none", 0.0), *(at(who, epsilon) for who in ("pooled", "distributed", "local", "local^p"))]
            cells += [at("alone", 0.0), small, at("alone", epsilon)]
            said = [say(interval(list(cell.values()))) if cell else "-" for cell in cells]
            lines.append(_joined((task.name, f"{epsilon:g}", *said)))
            pooled = at("pooled", epsilon)
            against = [
                at(who, epsilon) for who in ("distributed", "local", "local^p", f"distributed, h = {task.honest_of_small_cohorts}")
            ]
            said = [say(paired(one, pooled), 4, True) if one else "-" for one in against]
            said += [say(paired(at(who, epsilon), small), 3, True) if small else "-" for who in ("distributed", "local")]
            gaps.append(_joined((task.name, f"{epsilon:g}", *said)))
    return "\n".join([*lines, "", *gaps])


def _joined(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# -- what the planner expects ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """`noise`: standard deviation of one coordinate of the mean gradient, in clips; `loss`: AUC below pooled without noise."""

    task: str
    parameters: int
    rounds: int
    mode: str
    epsilon: float
    noise: float
    auc_without: float
    loss: float
    half: float


def curve_points(task: Task) -> list[Point]:
    """The loss at every mode, epsilon and number of rounds; rate, clip and averaging chosen on the other seeds of the curve."""
    seeds = range(FIRST_CURVE_SEED, FIRST_CURVE_SEED + task.seeds)
    none = tune_without_noise(task, seeds)
    without = [run(task, [Arm("none", 0.0, none.rate, none.clip, 0.0, rounds=none.stop)], seed)[0][0] for seed in seeds]
    total = sum(task.cohorts(FIRST_CURVE_SEED, Described(1, 0.0), None).declared)
    parameters = len(task.model(task.cohorts(FIRST_CURVE_SEED, Described(1, 0.0), None).inputs.shape[1] - 1).start)
    points = []
    for rounds in CURVE_ROUNDS if parameters < 1000 else CURVE_ROUNDS[::2]:
        cells = [(mode, epsilon) for mode in MODES for epsilon in EPSILONS]
        recipes = [Recipe(rate, clip, False) for rate in task.rates for clip in task.clips]
        arms = [arm_of(task, *cell, recipe, honest=task.honest, rounds=rounds) for cell in cells for recipe in recipes]
        auc = np.array([run(task, arms, seed) for seed in seeds]).reshape(len(seeds), len(cells), -1)  # last axis: ways to tune
        for at, (mode, epsilon) in enumerate(cells):
            one = arms[at * len(recipes)]
            noise = one.noise * math.sqrt(one.shares) / total
            losses = [without[s] - auc[s, at, np.delete(auc[:, at], s, axis=0).mean(axis=0).argmax()] for s in range(len(seeds))]
            points.append(
                Point(task.name, parameters, rounds, mode, epsilon, noise, statistics.mean(without), *map(float, interval(losses)))
            )
    return points


def fit(points: Sequence[Point], models: Sequence[str]) -> dict[str, Any]:
    """The curve of `server.options.Curve` through the points of one kind of model, and its error for a task left out."""
    x = np.array([point.noise * math.sqrt(point.parameters / point.rounds) for point in points])
    rounds, loss = np.array([float(point.rounds) for point in points]), np.array([point.loss for point in points])
    factor, power, few = _law(x, rounds, loss)
    names = sorted({point.task for point in points})
    misses = []
    for name in names:
        out = np.array([point.task == name for point in points])
        other = _law(x[~out], rounds[~out], loss[~out])
        misses.append(float(np.square(other[0] * x[out] ** other[1] + other[2] / rounds[out] - loss[out]).mean()))
    return {
        "models": list(models),
        "factor": _short(factor),
        "power": _short(power),
        "few_rounds": _short(few),
        "most": _short(statistics.mean(point.auc_without for point in points) - 0.5),
        "error": _short(math.sqrt(statistics.mean(misses))),
        "x_most": _short(float(x.max())),
        "parameters": [min(point.parameters for point in points), max(point.parameters for point in points)],
        "rounds": [min(point.rounds for point in points), max(point.rounds for point in points)],
    }


def _law(x: Doubles, rounds: Doubles, loss: Doubles) -> tuple[float, float, float]:
    """(factor, power, few) with the least squares of the loss itself: small losses are mostly the noise of their measurement."""

    def misses(at: Doubles) -> Doubles:
        return np.asarray(np.exp(at[0]) * x ** np.exp(at[1]) + at[2] / rounds - loss)

    found = least_squares(misses, [0.0, 0.0, 0.1], bounds=([-9.0, -3.0, 0.0], [9.0, 1.0, 9.0])).x
    return float(np.exp(found[0])), float(np.exp(found[1])), float(found[2])


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def curves_file(curves: Sequence[Mapping[str, Any]], points: Sequence[Point]) -> str:
    """YAML with one curve and one point a line, each a flow table."""
    head = (
        "# What noise costs: measured on simulated consortia of 12 sites with 50 to 1,500 patients, 5,500 together. Written by\n"
        "# `scripts/bench_privacy_utility.py --curve server/expected_error.yaml`, read by `server.options`; do not edit by hand.\n"
        "# curves: AUC lost against pooled without noise = factor * x^power + few_rounds / rounds,\n"
        "# x = noise * sqrt(parameters / rounds), at most `most`;\n"
        "# error: root mean square for a task that the fit had not seen. points: noise in clips, loss, half of its 95 % interval.\n"
    )
    rows = [f"  - {json.dumps(curve)}" for curve in curves]
    columns = ("task", "parameters", "rounds", "mode", "epsilon", "noise", "loss", "half")
    measured = [f"  - {json.dumps([_cell(getattr(point, name)) for name in columns])}" for point in points]
    lines = ["form: wardround/expected-error/1", "curves:", *rows, f"columns: {json.dumps(columns)}", "points:", *measured]
    return head + "\n".join(lines) + "\n"


def _cell(value: str | int | float) -> str | int | float:
    return _short(value) if isinstance(value, float) else value


def measure_curves(seeds: int) -> tuple[list[dict[str, Any]], list[Point]]:
    points = [point for task in curve_tasks(seeds) for point in curve_points(task)]
    deep = [point for point in points if point.task.startswith("mlp")]
    linear = [point for point in points if point not in deep]
    return [fit(linear, ["logistic"]), fit(deep, ["mlp"])], points


# -- the program -----------------------------------------------------------------------------------------------------------


def chosen_tasks(args: argparse.Namespace, scratch: Path) -> list[Task]:
    """The tasks asked for; says in one line if the real tables are not there."""
    tasks = list(made_tasks(args.seeds))
    if (args.data / "cis_to_ms").is_dir() and (args.data / "heart_disease").is_dir():
        tasks += real_tasks(args.data, scratch, args.seeds)
    else:
        print(f"no real tables below {args.data}: the two real consortia are skipped", file=sys.stderr)
    known = [task.name for task in tasks]
    if strange := sorted(set(args.tasks) - set(known)):
        raise SystemExit(f"no task is called {strange[0]!r}; known: {', '.join(known)}")
    return [task for task in tasks if not args.tasks or task.name in args.tasks]


def measure(task: Task) -> tuple[dict[Key, Recipe], list[Row]]:
    recipes = tune(task)
    return recipes, [row for seed in range(FIRST_SEED, FIRST_SEED + task.seeds) for row in figures(task, recipes, seed)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=[], help="only these")
    parser.add_argument("--seeds", type=int, default=5, help="of the slowest task; the others take two to four times as many")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the real tables")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--curve", type=Path, help="measure and write the planner's curves, and nothing else")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.curve:
        args.curve.write_text(curves_file(*measure_curves(min(args.seeds, 3))), encoding="utf-8")
        return 0
    described, began, rows, recipes = machine(), time.monotonic(), [], {}
    print(machine_line(described))
    with tempfile.TemporaryDirectory() as scratch:
        tasks = chosen_tasks(args, Path(scratch))
        for task in tasks:
            cohorts = task.cohorts(FIRST_SEED, Described(1, 0.0), None)
            gap = check_sums(task.model(cohorts.inputs.shape[1] - 1), cohorts)
            said = f"{task.name}: {task.what}; h = {task.honest}; sums differ from the product's by {gap:.1e} clips"
            print(said, file=sys.stderr)
            recipes[task.name], found = measure(task)
            rows += found
    print(tables(rows, tasks))
    print(f"\n{time.monotonic() - began:.0f} s")
    if args.json:
        tuned = {name: [[*key, asdict(recipe)] for key, recipe in some.items()] for name, some in recipes.items()}
        document = {"machine": described, "tuned": tuned, "rows": [asdict(row) for row in rows]}
        args.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
