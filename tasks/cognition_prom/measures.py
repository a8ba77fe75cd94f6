"""What is predicted: scores that are taken again and again, and the inputs that a patient's own scores so far become. No pandas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tasks.base import Column
from tasks.ms.contract import CONTRACT

MOST_TESTS: Final = 20  # more tell no more


@dataclass(frozen=True)
class Measure:
    """A score of a table. `low`, `high`: its public range; `step`: the least change that matters; in points."""

    short: str  # as in names of columns
    what: str
    table: str
    column: str
    low: float
    high: float
    step: float
    falls: bool  # whether less is worse
    instrument: str = ""  # of the table of questionnaires, whose rows for the item `total` count


SDMT: Final = Measure("sdmt", "Symbol Digit Modalities Test", "visits", "sdmt_n", 0, 110, 4, falls=True)
MSIS29: Final = Measure("msis29", "MSIS-29, physical", "proms", "score", 0, 100, 8, falls=False, instrument="MSIS29_phys")


def score_columns(measure: Measure) -> tuple[Column, ...]:
    """Last, mean, slope, number and age of the patient's own scores."""
    modality, low, high = CONTRACT.table(measure.table).modality, measure.low, measure.high
    width = (high - low) / 4

    def column(view: str, what: str, unit: str, low: float, high: float) -> Column:
        name, meaning = f"{measure.short}_{view}", f"{measure.what}: {what}"
        return Column(name, "numeric", meaning, unit=unit, low=low, high=high, modality=modality)

    return (
        column("last", "the last of the last 36 months", "points", low, high),
        column("mean", "mean of the last 36 months", "points", low, high),
        column("slope", "slope of a straight line through those of the last 36 months", "points/year", -width, width),
        column("count", f"how often it was taken before, ever; {MOST_TESTS} stands for more", "count", 0, MOST_TESTS),
        column("months_since", "time since the last", "months", 0, 36),
    )
