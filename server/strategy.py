"""How the hub turns a mean update into the next model: pure values, nothing here knows a site, a round or a file.

A strategy is a frozen value with `init` and `step`; all vectors are float64 of shape (n_parameters,). Everything
after the opened, noised sum is post-processing: moments, momentum and averaging cost no privacy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.errors import StrategyError

Vector: TypeAlias = NDArray[np.float64]  # (n_parameters,), the plan's parameter order
State: TypeAlias = tuple[Vector, ...]
Options: TypeAlias = Mapping[str, str | int | float]


class Strategy(Protocol):
    """`step` takes the weighted mean of the survivors' updates, (n_parameters,), and never changes its arguments.

    `elementwise`: every parameter is stepped from its own values alone, so a large model may be stepped in blocks.
    """

    @property
    def elementwise(self) -> bool: ...

    def init(self, weights: Vector) -> State: ...
    def step(self, state: State, weights: Vector, mean_delta: Vector) -> tuple[State, Vector]: ...
    def release(self, state: State, weights: Vector) -> Vector: ...


@dataclass(frozen=True)
class FedAvg:
    """weights + server_rate * mean_delta (McMahan et al. 2017; server_rate 1 is plain averaging)."""

    elementwise: ClassVar[bool] = True
    server_rate: float = 1.0

    def __post_init__(self) -> None:
        _require("server_rate", self.server_rate, above=0.0)

    def init(self, weights: Vector) -> State:
        return ()

    def step(self, state: State, weights: Vector, mean_delta: Vector) -> tuple[State, Vector]:
        _fit(state, 0, weights, mean_delta)
        return (), weights + self.server_rate * mean_delta

    def release(self, state: State, weights: Vector) -> Vector:
        return weights


@dataclass(frozen=True)
class FedProx:
    """Here as `FedAvg`; sites pull every local step back to the global weights with strength `mu` (Li et al. 2020, section 3.2).

    `mu` 0 is FedAvg. The pull begins with the second local step: after the first one a site is where it started.
    """

    elementwise: ClassVar[bool] = True
    mu: float = 0.0
    server_rate: float = 1.0

    def __post_init__(self) -> None:
        _require("mu", self.mu, at_least=0.0)
        _require("server_rate", self.server_rate, above=0.0)

    def init(self, weights: Vector) -> State:
        return ()

    def step(self, state: State, weights: Vector, mean_delta: Vector) -> tuple[State, Vector]:
        return FedAvg(self.server_rate).step(state, weights, mean_delta)

    def release(self, state: State, weights: Vector) -> Vector:
        return weights


@dataclass(frozen=True)
class FedAvgM:
    """m = beta m + mean_delta; weights + server_rate * m (Hsu, Qi, Brown 2019, section 4). State: (m,)."""

    elementwise: ClassVar[bool] = True
    server_rate: float = 1.0
    beta: float = 0.9

    def __post_init__(self) -> None:
        _require("server_rate", self.server_rate, above=0.0)
        _require("beta", self.beta, at_least=0.0, below=1.0)

    def init(self, weights: Vector) -> State:
        return (np.zeros_like(weights),)

    def step(self, state: State, weights: Vector, mean_delta: Vector) -> tuple[State, Vector]:
        _fit(state, 1, weights, mean_delta)
        momentum = self.beta * state[0] + mean_delta
        return (momentum,), weights + self.server_rate * momentum

    def release(self, state: State, weights: Vector) -> Vector:
        return weights


@dataclass(frozen=True)
class FedAdam:
    """Reddi et al. 2021 (arXiv 2003.00295), Algorithm 2, the Adam line; no bias correction. State: (m, v).

    m = beta1 m + (1 - beta1) d;  v = beta2 v + (1 - beta2) d^2;  weights + rate * m / (sqrt(v) + tau), elementwise,
    from m = 0 and v = tau^2. `tau` bounds the step of a coordinate whose updates are tiny: choose it near their noise.
    """

    elementwise: ClassVar[bool] = True
    rate: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _require("rate", self.rate, above=0.0)
        _require("beta1", self.beta1, at_least=0.0, below=1.0)
        _require("beta2", self.beta2, at_least=0.0, below=1.0)
        _require("tau", self.tau, above=0.0)

    def init(self, weights: Vector) -> State:
        return np.zeros_like(weights), np.full_like(weights, self.tau**2)

    def step(self, state: State, weights: Vector, mean_delta: Vector) -> tuple[State, Vector]:
        _fit(state, 2, weights, mean_delta)
        first = self.beta1 * state[0] + (1.0 - self.beta1) * mean_delta
        second = self.beta2 * state[1] + (1.0 - self.beta2) * mean_delta**2
        return (first, second), weights + self.rate * first / (np.sqrt(second) + self.tau)

    def release(self, state: State, weights: Vector) -> Vector:
        return weights


class Sums:
    """For tasks that sum: the mean of stage k becomes the k-th part of the model, and the first number counts the stages.

    `stages`: numbers in each. State: the stages done so far, at full precision. A step after the last stage is refused.
    """

    elementwise: ClassVar[bool] = False

    def __init__(self, **stages: float) -> None:
        names = [f"{STAGE_OPTION}{at}" for at in range(1, len(stages) + 1)]
        if not stages or set(stages) != set(names) or any(value < 1 or value != int(value) for value in stages.values()):
            raise StrategyError(f"strategy {SUMS} needs {STAGE_OPTION}1, {STAGE_OPTION}2, ...: how many numbers each stage has")
        self._ends = [int(end) for end in 1 + np.cumsum([stages[name] for name in names])]
        self._sizes = [int(stages[name]) for name in names]

    def init(self, weights: Vector) -> State:
        if weights.shape != (self._ends[-1],):
            raise StrategyError(f"a model of {weights.size} numbers, the stages have {self._ends[-1] - 1}: wrong plan")
        return ()

    def step(self, state: State, weights: Vector, mean_delta: Vector) -> tuple[State, Vector]:
        at = len(state)
        if at == len(self._sizes):
            raise StrategyError(f"all {at} stages are done")
        if mean_delta.shape != weights.shape or weights.shape != (self._ends[-1],):
            raise StrategyError(f"mean sum has shape {mean_delta.shape}, the model {weights.shape}: wrong plan")
        if not np.isfinite(mean_delta).all():
            raise StrategyError("mean sum holds NaN or infinity: the round is void, the model stays as it was")
        part = slice(self._ends[at] - self._sizes[at], self._ends[at])
        after = weights.copy()
        after[0], after[part] = at + 1.0, mean_delta[part]
        return (*state, mean_delta[part].copy()), after

    def release(self, state: State, weights: Vector) -> Vector:
        return weights


@dataclass(frozen=True)
class Averaged:
    """Another strategy whose released model is the exponential moving average of its weights.

    State: the inner one's, then the average. Rounds go on from the unaveraged weights; only `release` looks at it.
    """

    inner: Strategy
    decay: float

    def __post_init__(self) -> None:
        _require("ema_decay", self.decay, above=0.0, below=1.0)

    @property
    def elementwise(self) -> bool:
        return self.inner.elementwise

    def init(self, weights: Vector) -> State:
        return (*self.inner.init(weights), weights.copy())

    def step(self, state: State, weights: Vector, mean_delta: Vector) -> tuple[State, Vector]:
        if not state:
            raise StrategyError("strategy state lacks the running average: start from init or a checkpoint")
        inner, stepped = self.inner.step(state[:-1], weights, mean_delta)
        return (*inner, self.decay * state[-1] + (1.0 - self.decay) * stepped), stepped

    def release(self, state: State, weights: Vector) -> Vector:
        return state[-1]


FEDPROX = "fedprox"  # its pull is at the sites (`client.trainer`)
BUILDERS: Mapping[str, Callable[..., Strategy]] = {"fedavg": FedAvg, FEDPROX: FedProx, "fedavgm": FedAvgM, "fedadam": FedAdam}
SUMS = "sums"  # not a choice of the lead's: plans of tasks that sum have it, and no other plan
STAGE_OPTION = "stage_"
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "fedavg": ("server_rate",),
    FEDPROX: ("mu", "server_rate"),
    "fedavgm": ("server_rate", "beta"),
    "fedadam": ("rate", "beta1", "beta2", "tau"),
}
EMA_OPTION = "ema_decay"  # every strategy takes it; 0 = off


def build(name: str, options: Options) -> Strategy:
    """The strategy a plan names. Raises `StrategyError` on an unknown name, option, type or range."""
    if name == SUMS:
        return Sums(**{key: _number(name, key, value) for key, value in options.items()})
    if name not in BUILDERS:
        raise StrategyError(f"strategy {name!r} is unknown; known: {', '.join(sorted(BUILDERS))}")
    known = (*OPTIONS[name], EMA_OPTION)
    if unknown := sorted(set(options) - set(known)):
        raise StrategyError(f"strategy {name}: option {unknown[0]!r} is unknown; known: {', '.join(known)}")
    numbers = {key: _number(name, key, value) for key, value in options.items()}
    decay = numbers.pop(EMA_OPTION, 0.0)
    strategy = BUILDERS[name](**numbers)
    return Averaged(strategy, decay) if decay else strategy


def sums_options(stages: Sequence[int]) -> dict[str, int]:
    """How a plan states the numbers in each stage of a task that sums."""
    return {f"{STAGE_OPTION}{at}": int(size) for at, size in enumerate(stages, start=1)}


def _number(name: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise StrategyError(f"strategy {name}: {key} is {value!r}, expected a finite number")
    return float(value)


def _require(name: str, value: float, *, above: float = -np.inf, at_least: float = -np.inf, below: float = np.inf) -> None:
    if not (value > above and value >= at_least and value < below):
        low = f"> {above}" if above > -np.inf else f">= {at_least}"
        high = f" and < {below}" if below < np.inf else ""
        raise StrategyError(f"strategy option {name} is {value}, must be {low}{high}")


def _fit(state: State, vectors: int, weights: Vector, mean_delta: Vector) -> None:
    """A wrong shape would broadcast silently, and one NaN would stay in the moments for ever."""
    if len(state) != vectors or any(vector.shape != weights.shape for vector in state):
        raise StrategyError(f"strategy state of {len(state)} vectors: expected {vectors} of shape {weights.shape}")
    if mean_delta.shape != weights.shape:
        raise StrategyError(f"mean update has shape {mean_delta.shape}, the model {weights.shape}: wrong plan")
    if not np.isfinite(mean_delta).all():
        raise StrategyError("mean update holds NaN or infinity: the round is void, the model stays as it was")
