"""Which measures have a rate, and what is publicly known about each: error of a scan, shift of a scanner, spread between people.

All of it are public constants (ms.md 1.6; T2 and thalamus partly from the calibrated simulator); none was learnt from patients.
Changes are of 100 times the logarithm, so in % a year, the same for each year of a steady loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tasks.imaging.yearly_loss import FLAG_BELOW, HEALTHY, Norm

LEFT: Final = 0.5  # of a scanner's shift, after harmonisation, which takes off a third to three quarters of the error


@dataclass(frozen=True)
class RateMeasure:
    """A column of the table `mri`. All sizes in % (of the volume, or of it a year)."""

    name: str
    error: float  # standard deviation of a repeated scan on one scanner
    shift: float  # of what a scanner adds to all its volumes, as measured
    between: float  # of patients' true rates, about
    offset_ml: float = 0.0  # before the logarithm: a volume of lesions may be 0
    flag_below: float | None = None
    healthy: Norm | None = None
    ageing: float | None = None  # mean rate of healthy people

    @property
    def left(self) -> float:
        """What harmonisation leaves of the shift, about."""
        return self.shift * LEFT

    @property
    def unit(self) -> float:
        """What counts as 1 in a vector."""
        return 2 * self.between

    @property
    def most(self) -> float:
        """Rates beyond count as this one."""
        return 8 * self.between


RATE_MEASURES: Final = (
    RateMeasure("nbv_ml", 0.3, 2.5, 0.35, flag_below=FLAG_BELOW, healthy=HEALTHY, ageing=HEALTHY.mean),
    RateMeasure("thalamus_ml", 1.2, 5.0, 0.6, ageing=-0.4),
    RateMeasure("t2_vol_ml", 10.0, 15.0, 8.0, offset_ml=0.1),
)
