"""What is observed of a patient on a visit, and the public scale on which the model sees it. No scale was learnt from patients.

A row holds raw values in the contract's units; `standardised` takes logarithms where a measure is skewed, centres, divides by a
public spread and cuts at `WINSOR` spreads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]
WINSOR: Final = 4.0  # spreads; further out a value says no more


@dataclass(frozen=True)
class Measure:
    """`log_offset`: ln(value + offset) is modelled; None: the value itself. `centre`, `spread` are on that scale."""

    name: str
    description: str
    unit: str
    low: float
    high: float
    centre: float
    spread: float
    log_offset: float | None = None
    modality: str = "clinical"

    def standardised(self, raw: Floats) -> Floats:
        """On the model's scale, NaN where it is missing or outside the contract's range; any shape."""
        inside = (raw >= self.low) & (raw <= self.high)
        value = np.where(inside, raw, self.low)
        scaled = value if self.log_offset is None else np.log(value + self.log_offset)
        return np.where(inside, np.clip((scaled - self.centre) / self.spread, -WINSOR, WINSOR), np.nan)

    def published(self, standard: float) -> float:
        """A value of the model's scale in the measure's unit."""
        value = self.centre + self.spread * standard
        return float(value if self.log_offset is None else np.exp(value) - self.log_offset)


# Group values of healthy, relapsing and progressive cohorts (Kurtzke's scale; walk, pegs, symbol-digit; lesion and brain volumes).
MEASURES: Final = (
    Measure("edss", "Expanded Disability Status Scale, last score of the step", "score", 0.0, 10.0, 2.5, 2.0),
    Measure("t25fw_s", "Timed 25-foot walk, last of the step", "s", 2.0, 180.0, float(np.log(5.6)), 0.45, 0.0),
    Measure("nhpt_s", "Nine-hole peg test, dominant hand, last of the step", "s", 10.0, 300.0, float(np.log(22.0)), 0.25, 0.0),
    Measure("sdmt_n", "Symbol digit modalities test, last of the step", "correct", 0.0, 110.0, 50.0, 12.0),
    Measure("relapse", "Onset of a relapse in the 84 days up to the last contact of the step", "0 or 1", 0.0, 1.0, 0.0, 1.0),
    Measure("t2_vol_ml", "T2 lesion volume, last of the step", "mL", 0.0, 150.0, float(np.log(7.0)), 0.8, 1.0, "imaging"),
    Measure("new_t2", "New T2 lesions of the step's scans", "count", 0.0, 100.0, 0.0, 0.7, 1.0, "imaging"),
    Measure("gd_count", "Gadolinium-enhancing lesions of the step's scans", "count", 0.0, 100.0, 0.0, 0.7, 1.0, "imaging"),
    Measure("nbv_ml", "Normalised brain volume, last of the step", "mL", 1000.0, 2000.0, 1500.0, 80.0, None, "imaging"),
)  # fmt: skip
NAMES: Final = tuple(measure.name for measure in MEASURES)
EDSS: Final = NAMES.index("edss")


def standardised(raw: Floats) -> Floats:
    """Raw values (n, 9) in the order of `MEASURES` on the model's scale."""
    return np.stack([measure.standardised(raw[:, at]) for at, measure in enumerate(MEASURES)], axis=1)
