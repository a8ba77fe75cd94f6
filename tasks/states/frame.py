"""What a plan fixes about one model of states: measures, covariates, EM iterations; every shape and scale follows from it.

A patient's vector holds expected sufficient statistics of one E-step, about the parameters that it was made with. Its parts are
scaled by public constants so that they are of like size in a typical patient: the bound is wasted on none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from tasks.errors import ContractError
from tasks.states.measures import EDSS, MEASURES, NAMES, Floats, Ints
from tasks.states.structure import (
    AGE_CUTS,
    DMT_CLASSES,
    LOADS,
    MARKERS,
    N_FACTORS,
    N_STATES,
    N_STRATA,
    RESIDUAL_SD,
    prior_transitions,
)

BLANKS: Final = 32  # numbers to which nobody adds anything: what they open to is the noise, so that its size is known everywhere
PAIRS: Final = np.triu_indices(N_FACTORS)
BOUND: Final = 1.5  # L2 norm to which a patient's vector is clipped in a private mode: chosen on simulated patients
MOST_ITERATIONS: Final = 40
RECORD: Final = 0.1  # what an observed step counts in moments
UNITS: Final = {  # scale of each part of the vector
    "initial": 0.25, "occupancy": RECORD, "mean": RECORD, "spread": RECORD, "counted": 0.5 * RECORD, "xx": 0.3 * RECORD,
    "xr": 0.5 * RECORD, "rr": 0.5 * RECORD, "moves": 0.25, "stays": 0.02, "chain_initial": 0.25, "chain_moves": 0.25,
    "chain_stays": 0.02, "scores": 0.5 * RECORD, "blank": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """`measures`: places in `MEASURES`, ascending; `by_dmt`, `by_age`: covariates of the transitions; `iterations` of EM."""

    measures: tuple[int, ...]
    by_dmt: bool
    by_age: bool
    iterations: int

    def __post_init__(self) -> None:
        known = set(range(len(MEASURES)))
        if EDSS not in self.measures or list(self.measures) != sorted(set(self.measures) & known):
            raise ContractError("measures of the model of states: places in ascending order, edss among them")
        if not 1 <= self.iterations <= MOST_ITERATIONS:
            raise ContractError(f"iterations of EM are {self.iterations}, must be 1 to {MOST_ITERATIONS}")

    @property
    def n_measures(self) -> int:
        return len(self.measures)

    @property
    def names(self) -> tuple[str, ...]:
        """Measures as plans name them."""
        return tuple(NAMES[at] for at in self.measures)

    @property
    def cells(self) -> int:
        """Transition matrices: classes of therapy times bands of age."""
        return (len(DMT_CLASSES) if self.by_dmt else 1) * (len(AGE_CUTS) + 1 if self.by_age else 1)

    @cached_property
    def cell_names(self) -> tuple[str, ...]:
        """In the order of `cells`."""
        ages = [f"under {AGE_CUTS[0]:.0f}", f"{AGE_CUTS[0]:.0f} to {AGE_CUTS[1]:.0f}", f"{AGE_CUTS[1]:.0f} and older"]
        dmts = DMT_CLASSES if self.by_dmt else ("any",)
        return tuple(f"{dmt}, {age}" for dmt in dmts for age in (ages if self.by_age else ("any age",)))

    def cell_of(self, dmt: Floats, age: Floats) -> Ints:
        """Cell of each row; `dmt` place in `DMT_CLASSES`, `age` in years, both (n,); an unknown age counts as the middle band."""
        band = np.where(np.isnan(age), 1, np.searchsorted(AGE_CUTS, np.nan_to_num(age), side="right"))
        found = np.zeros(len(dmt), dtype=np.intp)
        if self.by_dmt:
            found += np.clip(np.nan_to_num(dmt), 0, len(DMT_CLASSES) - 1).astype(np.intp)
        return found * (len(AGE_CUTS) + 1) + band if self.by_age else found

    @cached_property
    def prior_transitions(self) -> Floats:
        """(cells, 8, 8)"""
        return prior_transitions(self.by_dmt, self.by_age)

    @cached_property
    def markers(self) -> frozenset[str]:
        """The measures that give the factors their scales."""
        return frozenset(found[0] for names in MARKERS if (found := [name for name in names if name in self.names]))

    @cached_property
    def prior_loadings(self) -> Floats:
        """(measures, 5): intercept 0, then the loading on each factor."""
        found = np.zeros((self.n_measures, 1 + N_FACTORS))
        for at, name in enumerate(self.names):
            for factor, loading in LOADS[name].items():
                found[at, 1 + factor] = loading
        return found

    @cached_property
    def free(self) -> tuple[Ints, ...]:
        """By measure: which of intercept and loadings EM moves; none of a marker's."""
        return tuple(
            np.array([], dtype=np.intp) if name in self.markers else np.array([0, *(1 + f for f in LOADS[name])], dtype=np.intp)
            for name in self.names
        )

    @cached_property
    def prior_noise(self) -> Floats:
        """Residual variance of each measure, (measures,)."""
        return np.array([RESIDUAL_SD[name] ** 2 for name in self.names])

    @property
    def edss(self) -> int:
        """Place of EDSS among the plan's measures."""
        return self.measures.index(EDSS)

    @cached_property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Parts of the vector of every iteration, in order."""
        widths = [len(free) for free in self.free]
        d, moves = self.n_measures, N_STATES * (N_STATES - 1)
        parts = {
            "initial": (N_STATES,), "occupancy": (N_STATES,), "mean": (N_STATES, N_FACTORS), "spread": (N_STATES, len(PAIRS[0])),
            "counted": (d,), "xx": (sum(max(w * (w + 1) // 2 - 1, 0) for w in widths),), "xr": (sum(widths),), "rr": (d,),
            "moves": (self.cells, moves), "stays": (self.cells, N_STATES), "chain_initial": (N_STRATA,),
            "chain_moves": (N_STRATA * (N_STRATA - 1),), "chain_stays": (N_STRATA,),
            "scores": (N_STATES, N_STRATA, N_STRATA), "blank": (BLANKS,),
        }  # fmt: skip
        return tuple((name, shape) for name, shape in parts.items() if math.prod(shape))

    @property
    def size(self) -> int:
        """Numbers in the vector of one iteration."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    @cached_property
    def scale(self) -> Floats:
        """What each number of the vector was multiplied by, (size,)."""
        return np.concatenate([np.full(math.prod(shape), UNITS[name]) for name, shape in self.shapes])

    def split(self, vector: Floats) -> dict[str, Floats]:
        """Parts of a sum by name, without the scales; a part of no numbers is empty."""
        ends = np.cumsum([math.prod(shape) for _, shape in self.shapes])[:-1]
        parts = np.split(vector / self.scale, ends)
        found = {name: part.reshape(shape) for part, (name, shape) in zip(parts, self.shapes, strict=True)}
        return {name: np.zeros(0) for name in ("xx", "xr")} | found
