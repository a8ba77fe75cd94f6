"""How held-out times to an event are counted, so that the sum over hospitals gives what one hospital with everybody would compute.

A *view* is one cause looked at up to one horizon. It has a block of cells: time and kind of the event, or the time at which the
record was lost or the horizon reached, each parted by the predicted risk of the view's cause by its horizon. Bins of the risk are
public and equal in the logarithm of the mean yearly hazard: one step is the same ratio of hazards everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ContractError
from tasks.hazards.grid import LONGEST_YEARS, QUARTERS_A_YEAR
from tasks.metrics import CalibrationGroup
from tasks.metrics.histogram import mean_places
from tasks.predicting.calibrate import Group
from tasks.scoring.base import Floats, Places, Scored
from tasks.scoring.groups import Grouping

LOW_OCTAVE, HIGH_OCTAVE = -10, 1  # of the yearly hazard: from 1/1024 to 2, that is from 0.1 % to 86 % a year
COARSE_STEP: Final = 4  # quarters: in whole years there are few cells, and so little noise
FINE_BINS: Final = 32  # from so many bins of a risk on, time is counted in quarters
MOST_CELLS: Final = 2 * 16_384
FIRST_SHARE: Final = 0.5  # of the squared weights for the first view of one cause: its figure compares runs, the others describe


@dataclass(frozen=True)
class View:
    """Cause 1, 2 .., up to so many years."""

    cause: int
    years: int


@dataclass(frozen=True)
class Block:
    """A view's cells from `first` on: events by time and kind, then records without one, by the last time free of it.

    Kinds are the view's cause and, if there are several, any other. With `by`, one such stretch after the other for each group.
    """

    view: View
    first: int
    times: int  # steps up to the horizon
    kinds: int
    bins: int
    weight: float
    by: Grouping | None = None

    @property
    def rows(self) -> int:
        """Events of each time (1 .. times) and kind, then records without one by time (0 .. times)."""
        return self.times * self.kinds + self.times + 1

    @property
    def end(self) -> int:
        """Where the next block begins."""
        return self.first + self.rows * self.bins * (1 if self.by is None else len(self.by))

    def groups(self) -> dict[str, Block]:
        """By the name of a group, "" for everybody: the block of that group alone."""
        if self.by is None:
            return {"": self}
        size = self.rows * self.bins
        return {key: replace(self, first=self.first + at * size, by=None) for at, key in enumerate(self.by.keys())}


@dataclass(frozen=True)
class HazardScoring:
    """`bins` of the predicted risk, the same for every view. Time is in quarters from 32 bins on, below in years.

    The first view (where causes compete: every one) is also counted `by` groups; these share half of the squared weights.
    """

    bins: int
    causes: tuple[str, ...]
    views: tuple[View, ...]
    compares: str
    by: tuple[Grouping, ...] = ()

    def __post_init__(self) -> None:
        if self.bins < 2 or self.cells > MOST_CELLS:
            raise ContractError(f"{self.bins} bins of risk give {self.cells} cells: from 2 bins on, and {MOST_CELLS} cells at most")

    @property
    def primary(self) -> str:
        return self.compares

    @property
    def lower_is_better(self) -> bool:
        return False

    @property
    def step(self) -> int:
        """Quarters of one time step of the figures."""
        return 1 if self.bins >= FINE_BINS else COARSE_STEP

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Each view of everybody, then the main ones by groups."""
        mine = self.views if len(self.causes) > 1 else self.views[:1]
        everybody = 0.5 if self.by else 1.0
        shares = [(view, None, everybody * share) for view, share in zip(self.views, self._shares(), strict=True)]
        shares += [(view, by, 0.5 / len(self.by) / len(mine)) for by in self.by for view in mine]
        found: list[Block] = []
        for view, grouping, share in shares:
            times = QUARTERS_A_YEAR * view.years // self.step
            first = found[-1].end if found else 0
            found.append(Block(view, first, times, min(len(self.causes), 2), self.bins, math.sqrt(share), grouping))
        return tuple(found)

    @property
    def cells(self) -> int:
        """Of all blocks; an empty one more if their number is odd."""
        return 2 * math.ceil(self.blocks[-1].end / 2)

    @property
    def weights(self) -> tuple[float, ...]:
        return tuple(block.weight for block in self.blocks)

    def places(self, scored: Scored) -> Places:
        """Outputs are logits, (n, quarters) or (n, quarters, causes); labels as `tasks.hazards.grid` has them, (n, 3).

        An event counts in the time step in which it was first seen, a record without one up to the last whole step free of it. A
        label that makes no sense counts as the nearest that does: refusing it would tell of it.
        """
        from tasks.hazards.likelihood import cumulative_risks  # needs torch, plans do not

        risks = cumulative_risks(scored.outputs, len(self.causes))
        label = lawful(scored.labels, len(self.causes))
        return np.stack([self._cells(block, risks, label, scored.values) for block in self.blocks], axis=1)

    def figures(self, histogram: Floats, *, noise_std: float = 0.0) -> Mapping[str, float]:
        """See `tasks.hazards.figures.figures_of`."""
        from tasks.hazards.figures import figures_of  # needs torch, plans do not

        return figures_of(self, histogram, noise_std)

    def calibration(self, histogram: Floats) -> tuple[CalibrationGroup, ...]:
        """Of the first view: `tasks.scoring.base.Calibrated`."""
        from tasks.hazards.figures import calibration_groups

        return calibration_groups(self, histogram)

    def calibration_groups(self, histogram: Floats, noise_std: float) -> Mapping[str, Sequence[Group]]:
        """Of every view: `tasks.predicting.bedside.Calibrates`."""
        from tasks.hazards.bedside import calibration_groups  # needs torch, plans do not

        return calibration_groups(self, histogram, noise_std)

    def _shares(self) -> list[float]:
        """Of the squared weights, by view."""
        n = len(self.views)
        if len(self.causes) > 1 or n == 1:
            return [1.0 / n] * n
        return [FIRST_SHARE] + [(1.0 - FIRST_SHARE) / (n - 1)] * (n - 1)

    def _cells(self, block: Block, risks: Floats, label: Places, values: Floats) -> Places:
        (clean, seen, cause), view = label.T, block.view
        risk = risks[:, QUARTERS_A_YEAR * view.years - 1, view.cause - 1]
        time = np.where(cause > 0, -(-seen // self.step), clean // self.step)
        event = (cause > 0) & (time <= block.times)
        without = block.times * block.kinds + np.minimum(time, block.times)
        row = np.where(event, (time - 1) * block.kinds + (cause != view.cause), without)
        group = 0 if block.by is None else block.by.which(values)
        return np.asarray(block.first + (group * block.rows + row) * self.bins + risk_bins(risk, view.years, self.bins))


def lawful(labels: NDArray[Any], causes: int) -> Places:
    """Labels (n, 3) in whole numbers, each within its range: an event is seen in quarter 1 or later, what is no number is 0."""
    longest = QUARTERS_A_YEAR * LONGEST_YEARS
    known = np.nan_to_num(np.asarray(labels, dtype=np.float64), nan=0.0)
    clean, seen, cause = np.clip(np.rint(known), 0, (longest, longest, causes)).astype(np.int64).T
    return np.stack([clean, np.where(cause > 0, np.maximum(seen, 1), seen), cause], axis=1)


def risk_bins(risk: Floats, years: int, bins: int) -> Places:
    """The bin of each risk of an event within `years`, (n,); bins equal in the log of the mean yearly hazard, the ends open."""
    with np.errstate(divide="ignore"):
        octave = np.log2(-np.log1p(-np.clip(risk, 0.0, 1.0)) / years)
    share = (np.clip(octave, LOW_OCTAVE, HIGH_OCTAVE) - LOW_OCTAVE) / (HIGH_OCTAVE - LOW_OCTAVE)
    return np.asarray(np.minimum((share * bins).astype(np.int64), bins - 1), dtype=np.int64)


def risk_centres(years: int, bins: int) -> Floats:
    """The risk that stands for each bin, (bins,): that of the middle of its hazards' logarithms."""
    return _risk_at((np.arange(bins) + 0.5) / bins, years)


def risk_means(years: int, counts: Floats, noise_std: float) -> Floats:
    """The risk of the patients of each bin, (bins,): at the mean of their hazards' logarithms (`mean_places`)."""
    return _risk_at(mean_places(counts, noise_std), years)


def risk_edges(years: int, bins: int) -> Floats:
    """Where the bins begin, and 1: (bins + 1,) risks, the first of them 0."""
    inner = _risk_at(np.arange(1, bins) / bins, years)
    return np.concatenate([[0.0], inner, [1.0]])


def _risk_at(share: Floats, years: int) -> Floats:
    return np.asarray(-np.expm1(-years * 2.0 ** (LOW_OCTAVE + share * (HIGH_OCTAVE - LOW_OCTAVE))))
