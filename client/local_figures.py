"""The figures of a model on one side of a site's split, exact, with intervals by resampling its patients."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.local_model import Floats, LocalModel, LocalSide, Vector
from tasks.exported import scoring_of
from tasks.scoring.base import NOWHERE, Scored, Scoring
from tasks.scoring.names import NOISE_DOMINATES, parsed

REPEATS = 400  # bootstrap samples of patients


@dataclass(frozen=True)
class Figure:
    """A value and its 95 % interval; NaN where too few samples have one."""

    value: float
    low: float
    high: float


def figures(local: LocalModel, parameters: Vector, people: LocalSide) -> dict[str, Figure]:
    """Figures by name, the primary one first; none where nobody is on the side."""
    scoring = scoring_of(local.exported, local.task)
    counted = _Counted.of(scoring, local, parameters, people)
    whole = _shown(scoring, counted.histogram(np.ones(people.side.patients)))
    stream = np.random.Generator(np.random.PCG64(people.side.patients))  # of figures that stay here: no secret depends on it
    samples = [_shown(scoring, counted.histogram(_drawn(stream, people.side.patients))) for _ in range(REPEATS if whole else 0)]
    names = sorted(whole, key=lambda name: (name != scoring.primary, name))
    return {name: Figure(whole[name], *_interval([each[name] for each in samples if name in each])) for name in names}


def histogram(local: LocalModel, parameters: Vector, people: LocalSide) -> Floats:
    """The exact histogram of a side, (cells,)."""
    counted = _Counted.of(scoring_of(local.exported, local.task), local, parameters, people)
    return counted.histogram(np.ones(people.side.patients))


def primary(local: LocalModel) -> str:
    """Name of the figure by which models are compared."""
    return scoring_of(local.exported, local.task).primary


@dataclass(frozen=True)
class _Counted:
    """Where every record counts how much: places (m,) in `cells`, weights (m,) and the patients (m,) that they are of."""

    cells: int
    places: NDArray[np.int64]
    weights: Floats
    patients: NDArray[np.intp]

    @classmethod
    def of(cls, scoring: Scoring, local: LocalModel, parameters: Vector, people: LocalSide) -> "_Counted":
        side = people.side
        places = scoring.places(Scored(local.outputs(parameters, people), side.labels, side.values))
        record, block = np.nonzero(places != NOWHERE)
        weights = np.asarray(scoring.weights)[block] * people.shares[record]
        return cls(scoring.cells, places[record, block], weights, side.owners[record])

    def histogram(self, times: Floats) -> Floats:
        """The histogram in which each patient counts so many times; `times` (patients,)."""
        return np.bincount(self.places, self.weights * times[self.patients], self.cells).astype(np.float64)


def _shown(scoring: Scoring, cells: Floats) -> Mapping[str, float]:
    """Without the parts that the scoring gives of its figures: its intervals are of a sum over sites, and there is no noise."""
    return {name: value for name, value in scoring.figures(cells).items() if not parsed(name).part and name != NOISE_DOMINATES}


def _drawn(stream: np.random.Generator, patients: int) -> Floats:
    return stream.multinomial(patients, np.full(patients, 1.0 / patients)).astype(np.float64)


def _interval(values: list[float]) -> tuple[float, float]:
    if len(values) < REPEATS / 2:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
