"""A consortium's model made one hospital's own, on its training side; whether that helps is decided on its validation half.

Three kinds, each a vector of parameters like the global one: `recalibrated` (slope and intercept of the output: Cox 1958,
Steyerberg 2019), `head` (the output layer) and `fine-tuned` (all layers). The last two are pulled to the global weights as by a
normal prior around them with standard deviation `spread`: the maximum a posteriori of a site whose weights scatter so around
everybody's (the same pull as in Li et al. 2021, "Ditto"). No layer keeps statistics over patients, so there is no normalisation
to make local either (as FedBN does).

No noise is added, since nothing leaves: a personal model holds traces of this site's patients.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from client.local_model import Floats, LocalModel, LocalSide, Vector

HEAD = "output."  # the layer that every model's outputs come from
RECALIBRATED, HEAD_KIND, TUNED = "recalibrated", "head", "fine-tuned"
SPREADS = {HEAD_KIND: (0.1, 0.3, 1.0), TUNED: (0.03, 0.1, 0.3)}
PRIOR_SD = (1.0, 0.5)  # of the intercept around 0, and of the slope around 1
STEPS_MOST = 200
REPEATS = 2000  # bootstrap samples of patients
LEVEL = 0.95
AFFINE = 1e-6  # by which outputs may differ from slope times output plus intercept


@dataclass(frozen=True)
class Candidate:
    """`spread` 0: of a recalibration, which has a prior of its own. `parameters` (n_parameters,)."""

    kind: str
    spread: float
    parameters: Vector = field(repr=False)


@dataclass(frozen=True)
class Tried:
    """How much less a candidate loses than the global model, mean over validation patients, in the unit of the task's loss.

    `low`: the gain is above it for all candidates at once, with 95 % confidence.
    """

    kind: str
    spread: float
    gain: float
    low: float


def candidates(local: LocalModel, training: LocalSide) -> Iterator[Candidate]:
    """Every kind and strength that the model allows, fitted to the training side."""
    start = local.exported.parameters
    if (found := _recalibrated(local, training)) is not None:
        yield Candidate(RECALIBRATED, 0.0, found)
    names = [name for name in local.named(start) if name.startswith(HEAD)]
    for spread in SPREADS[HEAD_KIND] if names else ():
        yield Candidate(HEAD_KIND, spread, _fitted(local, training, names, spread))
    every = list(local.named(start))
    for spread in SPREADS[TUNED] if len(every) > len(names) else ():
        yield Candidate(TUNED, spread, _fitted(local, training, every, spread))


def gains(local: LocalModel, found: list[Candidate], people: LocalSide) -> Floats:
    """Loss of the global model less that of each candidate, (patients, candidates)."""
    before = local.losses(local.exported.parameters, people)
    return np.stack([before - local.losses(each.parameters, people) for each in found], axis=1)


def tried(found: list[Candidate], differences: Floats) -> list[Tried]:
    """Every candidate with its gain and simultaneous lower bound; `differences` (patients, candidates) of validation patients."""
    means, low = lower_bounds(differences)
    return [Tried(each.kind, each.spread, float(mean), float(least)) for each, mean, least in zip(found, means, low, strict=True)]


def chosen(found: list[Candidate], results: list[Tried]) -> Candidate | None:
    """The candidate of the largest gain among those whose gain is surely above 0; None: the global model stays."""
    sure = [(result.gain, at) for at, result in enumerate(results) if result.low > 0.0]
    return found[max(sure)[1]] if sure else None


def lower_bounds(differences: Floats) -> tuple[Floats, Floats]:
    """(means, lower bounds), (candidates,) each, of paired `differences` (patients, candidates).

    All bounds hold together with confidence `LEVEL`, however alike the candidates are: the largest studentised deviation over
    them is bootstrapped over patients (White 2000, "A reality check for data snooping"; Romano and Wolf 2005). -inf where nothing
    differs.
    """
    patients = len(differences)
    means = differences.mean(axis=0)
    errors = differences.std(axis=0, ddof=1) / np.sqrt(patients)
    stream = np.random.Generator(np.random.PCG64(patients))  # of a test on this site's own table: nothing secret depends on it
    weights = stream.multinomial(patients, np.full(patients, 1.0 / patients), size=REPEATS) / patients
    with np.errstate(divide="ignore", invalid="ignore"):
        largest = np.nanmax(np.where(errors > 0, (weights @ differences - means) / errors, -np.inf), axis=1)
    critical = float(np.quantile(largest, LEVEL))
    return means, np.where(errors > 0, means - critical * errors, -np.inf)


def interval(differences: NDArray[np.float64]) -> tuple[float, float, float]:
    """(mean, low, high) of one candidate's paired `differences` (patients,): a percentile bootstrap over patients, 95 %."""
    patients = len(differences)
    stream = np.random.Generator(np.random.PCG64(patients))
    weights = stream.multinomial(patients, np.full(patients, 1.0 / patients), size=REPEATS) / patients
    low, high = np.quantile(weights @ differences, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def _fitted(local: LocalModel, training: LocalSide, names: list[str], spread: float) -> Vector:
    """The parameters called `names` at the maximum a posteriori, the others as they are."""
    start = local.named(local.exported.parameters)
    free = {name: start[name].clone().requires_grad_() for name in names}
    pull = 1.0 / (training.side.patients * spread**2)

    def objective() -> Tensor:
        distance = sum((free[name] - start[name]).square().sum() for name in names)
        return _mean_loss(local, {**start, **free}, training) + 0.5 * pull * distance

    _minimise(list(free.values()), objective)
    return _joined({**start, **free})


def _recalibrated(local: LocalModel, training: LocalSide) -> Vector | None:
    """Slope and intercept of the one output, as weights of the output layer; None for a model whose output they do not scale."""
    start = local.named(local.exported.parameters)
    weight, bias = start.get(f"{HEAD}weight"), start.get(f"{HEAD}bias")
    if weight is None or bias is None or bias.numel() != 1 or not training.side.patients:
        return None
    ab = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)

    def scaled(values: Tensor) -> dict[str, Tensor]:
        return {**start, f"{HEAD}weight": values[1] * weight, f"{HEAD}bias": values[1] * bias + values[0]}

    with torch.no_grad():
        plain, other = (
            functional_call(local.model, named, (training.inputs,)) for named in (start, scaled(torch.tensor([0.5, 2.0]).double()))
        )
        if plain.dim() != 1 or not torch.allclose(other, 2.0 * plain + 0.5, atol=AFFINE, rtol=AFFINE):
            return None
    around, sd = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor(PRIOR_SD, dtype=torch.float64)

    def objective() -> Tensor:
        prior = 0.5 * ((ab - around) / sd).square().sum() / training.side.patients
        return _mean_loss(local, scaled(ab), training) + prior

    _minimise([ab], objective)
    return _joined(scaled(ab.detach()))


def _mean_loss(local: LocalModel, named: dict[str, Tensor], people: LocalSide) -> Tensor:
    """Mean over patients of the mean over their records."""
    losses = local.task.loss(functional_call(local.model, named, (people.inputs,)), people.labels)
    total: Tensor = (torch.from_numpy(people.shares) * losses).sum() / people.side.patients
    return total


def _minimise(free: list[Tensor], objective: Callable[[], Tensor]) -> None:
    """L-BFGS to its end, in double precision: the same patients give the same model."""
    optimiser = torch.optim.LBFGS(free, max_iter=STEPS_MOST, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = objective()
        value.backward()
        return value

    optimiser.step(closure)


def _joined(named: dict[str, Tensor]) -> Vector:
    joined: Vector = torch.cat([value.detach().reshape(-1) for value in named.values()]).float().numpy()
    return joined
