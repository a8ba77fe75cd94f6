"""What guard and trainer say to each other. Imports no torch: the guard does not need it, the trainer's process does."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from consortium.canonical import Bytes
from consortium.plan import Plan


@dataclass(frozen=True)
class Job:
    """One round's work. `model`: float32 little-endian, buffers then parameters, in plan order; any buffer, read only."""

    plan: Plan
    site: str
    round_number: int
    purpose: str
    model: Bytes
    population: bytes = b""  # digest of the patients that the ledger says this is about; empty: whoever is there
    request: str = ""  # id of the request that it came with, for the log


@dataclass(frozen=True)
class Population:
    """Whose data a task's computations use: keyed names of patients, of those who took consent back, one digest of the former."""

    digest: bytes
    members: frozenset[bytes] = field(repr=False)
    withdrawn: frozenset[bytes] = field(repr=False)


@dataclass(frozen=True)
class Result:
    """What may be encoded and masked: `header` as the plan lists it, `body` (n_parameters,) or (0,).

    Real numbers, or in mode distributed int64 steps of the grid of each release, which the ring takes as they are.
    """

    header: NDArray[np.float64] | NDArray[np.int64]
    body: NDArray[np.float64] | NDArray[np.int64]


class Train(Protocol):
    """One round's computation: a process in the guard, a plain call in the simulation."""

    def __call__(self, job: Job, deadline_s: float) -> Result: ...


class AskPopulation(Protocol):
    """Whose data the next job of a task would use, said within the deadline."""

    def __call__(self, task: str, deadline_s: float) -> Population: ...
