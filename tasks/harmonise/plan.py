"""What everybody must know before the first sum: measures, protected covariates, batches. Every shape follows from it, and
nothing in it comes from patients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.harmonise.errors import HarmoniseError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Texts = NDArray[np.str_]

REFERENCE_PHENOTYPE: Final = "RRMS"
PHENOTYPES: Final = ("CIS", "RRMS", "SPMS", "PPMS", "RIS")  # ms.md 4.2
MALE: Final = {"F": 0.0, "X": 0.5, "M": 1.0}
YEARS_A_UNIT: Final = 10.0
AGE_CENTRE, DURATION_CENTRE = 40.0, 10.0  # years
EDSS_CENTRE, EDSS_UNIT = 3.0, 2.0  # points
PROTECTED: Final = ("age", "male", "duration", "edss")  # covariates that are numbers, in the order of the design


@dataclass(frozen=True)
class Measure:
    """A column of the contract's table `mri` and the public constants that bring it to numbers of about one.

    The model's scale is `(value - centre) / spread`, or `(ln(value + log_offset) - centre) / spread` if `log_offset` is
    given (same unit as the column). ComBat gives the same result whatever centre and spread are; they keep sums small.
    """

    name: str
    centre: float
    spread: float
    log_offset: float | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise HarmoniseError("a measure has no name")
        if not math.isfinite(self.centre) or not (math.isfinite(self.spread) and self.spread > 0):
            raise HarmoniseError(f"measure {self.name}: centre must be finite and spread above 0")
        if self.log_offset is not None and not (math.isfinite(self.log_offset) and self.log_offset > 0):
            raise HarmoniseError(f"measure {self.name}: log_offset must be above 0, because a volume may be 0")


MRI_MEASURES: Final = (  # ms.md 1.6; bpf, grey matter and ventricles from the calibrated simulator
    Measure("t2_vol_ml", math.log(5.0), 1.2, log_offset=0.1),
    Measure("nbv_ml", 1500.0, 80.0),
    Measure("gm_ml", 790.0, 42.0),
    Measure("cortical_gm_ml", 540.0, 29.0),
    Measure("thalamus_ml", 13.5, 1.5),
    Measure("lat_ventricle_ml", 22.0, 10.0),
)
"""Absolute volumes of a brain scan. `pbvc_pct_y` is a change between two scans, perhaps of two scanners, and is none."""


@dataclass(frozen=True)
class Plan:
    """The public frame of one harmonisation.

    `phenotypes` are those that get an effect of their own beside the reference RRMS; whoever has another one is refused.
    `batches` are the names that `batch_names` gave at all sites, sorted and each once. `protected`: which of `PROTECTED` are in
    the design, in that order; each one that is left out leaves less noise in the others.
    """

    measures: tuple[Measure, ...]
    batches: tuple[str, ...]
    phenotypes: tuple[str, ...] = ("CIS", "SPMS", "PPMS")
    protected: tuple[str, ...] = PROTECTED

    def __post_init__(self) -> None:
        names = [measure.name for measure in self.measures]
        if len(names) < 2 or len(set(names)) < len(names):
            raise HarmoniseError(f"{len(names)} measures: empirical Bayes needs at least 2, each once")
        if not self.batches or list(self.batches) != sorted(set(self.batches)) or "" in self.batches:
            raise HarmoniseError("the plan's batches must be at least one name, sorted, each once")
        allowed = set(PHENOTYPES) - {REFERENCE_PHENOTYPE}
        if len(set(self.phenotypes)) < len(self.phenotypes) or not set(self.phenotypes) <= allowed:
            raise HarmoniseError(f"phenotypes with their own effect must be among {sorted(allowed)}, each once")
        if self.protected != tuple(name for name in PROTECTED if name in self.protected) or not self.covariates:
            raise HarmoniseError(f"protected covariates must be among {', '.join(PROTECTED)}, in this order, and at least one")

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the columns of the protected part of the design, in order; `n_covariates` of them."""
        return (*self.protected, *(f"phenotype {name}" for name in self.phenotypes))

    @property
    def n_measures(self) -> int:
        return len(self.measures)

    @property
    def n_covariates(self) -> int:
        return len(self.protected) + len(self.phenotypes)

    @property
    def n_batches(self) -> int:
        return len(self.batches)

    @property
    def round_one_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the parts of round 1's vector: counts, sums of y, sums of x, sums of x x' (upper triangle), sums of x y."""
        b, g, q = self.n_batches, self.n_measures, self.n_covariates
        return (b, g), (b, g), (b, g, q), (g, q * (q + 1) // 2), (g, q)

    @property
    def round_one_size(self) -> int:
        """Length of round 1's vector."""
        return sum(math.prod(shape) for shape in self.round_one_shapes)

    @property
    def round_two_size(self) -> int:
        """Length of round 2's vector: a residual sum of squares for each batch and measure."""
        return self.n_batches * self.n_measures
