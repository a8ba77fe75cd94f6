"""Patients' rows as sequences on a grid of 12-week steps; a step without a row has no observation, and no other effect."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from tasks.states.frame import Frame
from tasks.states.measures import EDSS, MEASURES, Floats, Ints, standardised
from tasks.states.structure import STRATA_CUTS

STEP_D: Final = 84  # days
MOST_RECORDS: Final = 60  # observed steps of one patient, the last ones
MOST_STEPS: Final = 130  # 30 years before a patient's last observed step; what is earlier does not count
STEP: Final = 0
DMT: Final = 1  # place in `structure.DMT_CLASSES`
AGE: Final = 2  # years
FIRST_MEASURE: Final = 3
WIDTH: Final = FIRST_MEASURE + len(MEASURES)
NO_STRATUM: Final = -1


@dataclass(frozen=True)
class Sequences:
    """`y` (n, measures): observed rows on the model's scale, NaN where missing, by patient in the order of time.

    `owner`, `at` (n,): whose row it is, and its place on that patient's grid, which begins at 0 with the first row.
    `cell` (n,): covariate cell, in force until the next row. `stratum` (n,): of EDSS, or `NO_STRATUM`. `edss` (n,): raw, or NaN.
    `length` (patients,): steps of each grid; 0 for a patient without a row.
    """

    y: Floats
    owner: Ints
    at: Ints
    cell: Ints
    stratum: Ints
    edss: Floats
    length: Ints

    @property
    def patients(self) -> int:
        return len(self.length)

    @property
    def steps(self) -> int:
        """Length of the longest grid."""
        return int(self.length.max(initial=0))

    def on_grid(self, rows: Floats, filler: float) -> Floats:
        """Rows (n, ...) at their places, (patients, steps, ...); `filler` elsewhere."""
        found = np.full((self.patients, self.steps, *rows.shape[1:]), filler)
        found[self.owner, self.at] = rows
        return found

    @cached_property
    def rescored(self) -> tuple[Ints, Ints]:
        """Rows with a score that is not the patient's first, and the row of the score before each, (m,) both."""
        scored = np.flatnonzero(self.stratum != NO_STRATUM)
        again = np.diff(self.owner[scored]) == 0
        return scored[1:][again], scored[:-1][again]

    def cells_on_grid(self) -> Ints:
        """Cell in force on each step, (patients, steps): that of the last row."""
        index = np.zeros((self.patients, self.steps), dtype=np.intp)
        index[self.owner, self.at] = np.arange(len(self.owner))
        return np.asarray(self.cell[np.maximum.accumulate(index, axis=1)]) if len(self.owner) else index


def sequences_of(frame: Frame, values: Floats, owners: Ints, patients: int) -> Sequences:
    """From rows (n_rows, WIDTH) of the cohort, by patient in the order of time."""
    step = values[:, STEP]
    last = np.full(patients, -np.inf)
    np.maximum.at(last, owners, step)
    kept = np.isfinite(step) & (last[owners] - step < MOST_STEPS)
    rows, owner = values[kept], owners[kept]
    first = np.full(patients, np.inf)
    np.minimum.at(first, owner, rows[:, STEP])
    at = (rows[:, STEP] - first[owner]).astype(np.intp)
    fresh = np.ones(len(owner), dtype=bool)  # of two rows on one step the first counts; a cohort has none
    fresh[1:] = (np.diff(owner) != 0) | (np.diff(at) > 0)
    rows, owner, at = rows[fresh], owner[fresh], at[fresh]
    length = np.zeros(patients, dtype=np.intp)
    np.maximum.at(length, owner, at + 1)
    edss = rows[:, FIRST_MEASURE + EDSS]
    known = (edss >= MEASURES[EDSS].low) & (edss <= MEASURES[EDSS].high)
    stratum = np.where(known, np.searchsorted(STRATA_CUTS, np.where(known, edss, 0.0), side="right"), NO_STRATUM)
    return Sequences(
        y=np.ascontiguousarray(standardised(rows[:, FIRST_MEASURE:])[:, list(frame.measures)]),
        owner=owner.astype(np.intp),
        at=at,
        cell=frame.cell_of(rows[:, DMT], rows[:, AGE]),
        stratum=stratum.astype(np.intp),
        edss=np.where(known, edss, np.nan),
        length=length,
    )
