"""What a task says about its figures: in which cells of a summed histogram a record counts, and what the sum means.

A histogram has *blocks* (all patients; by sex; by horizon ...). In each block a record is in one cell or in none, with the block's
public weight. The squares of the weights add up to at most 1, so a patient, whose records share every weight, moves the sum by at
most 1 in L2: that is the sensitivity that plans, ledgers and noise know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ContractError
from tasks.metrics import CalibrationGroup, Figure

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
NOWHERE: Final = -1
UNIT: Final = 1.0 + 1e-12  # of the sum of squared weights, as computed


@dataclass(frozen=True)
class Scored:
    """Held-out records with what a model said about them.

    `outputs` (n, *shape of the model's output): as the model gives them (logits), maybe not finite. `labels` (n, *label_shape).
    `values` (n, n_columns of the contract): NaN = missing.
    """

    outputs: NDArray[Any] = field(repr=False)
    labels: NDArray[Any] = field(repr=False)
    values: Floats = field(repr=False)

    def __len__(self) -> int:
        return len(self.outputs)


@runtime_checkable
class Scoring(Protocol):
    """How one task's held-out records are counted and what their sum tells. Public constants, equal at every site."""

    @property
    def primary(self) -> str:
        """The figure by which runs are compared, a key of `figures`."""
        ...

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller primary figure is the better one."""
        ...

    @property
    def cells(self) -> int:
        """Length of the histogram; even."""
        ...

    @property
    def weights(self) -> tuple[float, ...]:
        """What a patient counts in each block; squares add up to at most 1."""
        ...

    def places(self, scored: Scored) -> Places:
        """The cell of each record in each block, (n, blocks), in [0, cells), or `NOWHERE`. No two blocks share a cell.

        A record whose output is not finite is in some cell too: leaving it out would tell of it.
        """
        ...

    def figures(self, histogram: Floats, *, noise_std: float = 0.0) -> Mapping[str, float]:
        """Figures by name from the summed histogram (cells,), each cell with noise of `noise_std`; what cannot be said is left out.

        `noise_dominates` is 1.0 where noise is of the figures' size, and is always there.
        """
        ...


@runtime_checkable
class Calibrated(Protocol):
    """A scoring of probabilities, which can be compared with how often the event came: for one more chart."""

    def calibration(self, histogram: Floats) -> tuple[CalibrationGroup, ...]:
        """Predicted and observed shares by group of predictions, from the summed histogram (cells,)."""
        ...


@dataclass(frozen=True)
class Panel:
    """Figures that belong beside each other in one chart of intervals: (what, figure), on one scale."""

    title: str
    scale: str  # what the axis shows, with its unit
    lines: tuple[tuple[str, Figure], ...]


@runtime_checkable
class Panelled(Protocol):
    """A scoring with figures of one kind side by side, for more charts."""

    def panels(self, histogram: Floats, *, noise_std: float = 0.0) -> tuple[Panel, ...]:
        """Charts from the summed histogram (cells,); those of which nothing can be said are left out."""
        ...


def shares(scoring: Scoring, places: Places, counts: NDArray[np.intp], grid_bits: int) -> NDArray[np.int64]:
    """What each record adds to its cell in each block, in steps of the grid 2^-grid_bits, (n, blocks).

    `counts` (n,): records of the record's patient. Rounded down, so that no patient adds more than a block's weight. A place that
    is no cell counts as `NOWHERE`: refusing would tell that there is such a patient. `ContractError` for what no patient decides.
    """
    weights = np.asarray(scoring.weights)
    if not len(weights) or np.any(weights <= 0) or float(weights @ weights) > UNIT:
        raise ContractError(f"block weights {scoring.weights}: each is above 0, their squares add up to at most 1")
    if places.shape != (len(counts), len(weights)):
        raise ContractError(f"places of shape {places.shape}, expected ({len(counts)}, {len(weights)})")
    whole = np.floor(weights * (1 << grid_bits)).astype(np.int64)
    return np.where((places < 0) | (places >= scoring.cells), 0, whole[None, :] // counts[:, None])


def summed(scoring: Scoring, scored: Scored, counts: NDArray[np.intp], grid_bits: int) -> NDArray[np.int64]:
    """The histogram of `scored`, (cells,), in steps of the grid; `counts` (n,) as for `shares`. Of nobody it is empty, whatever the
    shape of the outputs then is."""
    if not len(counts):
        return np.zeros(scoring.cells, dtype=np.int64)
    places = scoring.places(scored)
    parts = shares(scoring, places, counts, grid_bits)
    grid = np.zeros(scoring.cells, dtype=np.int64)
    np.add.at(grid, np.clip(places, 0, scoring.cells - 1), parts)  # who is nowhere adds nothing
    return grid


def equal_weights(blocks: int) -> tuple[float, ...]:
    """The same weight for each of so many blocks, squares adding up to 1."""
    return (1.0 / math.sqrt(blocks),) * blocks
