"""How fast a brain shrinks: change a year from two volumes, the flag, and what healthy people lose. It reads no image."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Final

DAYS_A_YEAR: Final = 365.25
LEAST_INTERVAL_D: Final = 300
"""Shorter intervals give no yearly loss. Measuring a brain twice differs by 0.15 to 0.3 % on one scanner: over 300 days 0.2 to
0.4 % a year, as much as what tells loss in MS from that of healthy people."""
FLAG_BELOW: Final = (
    -0.4
)  # % a year; 80 % of healthy people lose less (De Stefano et al. 2016, J Neurol Neurosurg Psychiatry 87:93-99)


@dataclass(frozen=True)
class Norm:
    """Yearly brain volume change of healthy people, % a year."""

    mean: float
    sd: float
    source: str


HEALTHY: Final = Norm(-0.27, 0.15, "De Stefano et al. 2016: 35 healthy people followed for 6.3 years, SIENA")


def change_pct_y(first_ml: float, second_ml: float, days: int, *, least_d: int = LEAST_INTERVAL_D) -> float | None:
    """Change a year in %, by the logarithm of the ratio: the same for each year of a steady loss; None below `least_d` days."""
    if days < least_d or first_ml <= 0 or second_ml <= 0:
        return None
    return 100 * log(second_ml / first_ml) * DAYS_A_YEAR / days


def z_score(value: float, norm: Norm = HEALTHY) -> float:
    """Standard deviations above the mean of `norm`; negative where more is lost."""
    return (value - norm.mean) / norm.sd


def is_fast_loss(pct_y: float, *, below: float = FLAG_BELOW) -> bool:
    """Whether a brain shrinks faster than the flag allows. One scan pair is a hint, not a finding."""
    return pct_y < below
