"""UCUM units of measured values to the contract's. A unit that is not listed is never guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

# what is measured -> UCUM code -> how many units of the first code of the line it is
_QUANTITIES: Final[tuple[Mapping[str, float], ...]] = (
    {"s": 1.0, "ms": 1e-3, "min": 60.0},
    {"mL": 1.0, "ml": 1.0, "cm3": 1.0, "mm3": 1e-3, "uL": 1e-3, "L": 1e3, "l": 1e3},
    {"pg/mL": 1.0, "pg/ml": 1.0, "ng/L": 1.0, "ng/l": 1.0, "ng/mL": 1e3},
    {"cm": 1.0, "m": 100.0, "mm": 0.1, "[in_i]": 2.54, "[ft_i]": 30.48},
    {"kg": 1.0, "g": 1e-3, "[lb_av]": 0.45359237},
    {"mg": 1.0, "g": 1e3, "ug": 1e-3},
    {"mm2": 1.0, "cm2": 100.0},
    {"ratio": 1.0, "1": 1.0, "%": 0.01},
    {"%/year": 1.0, "%/a": 1.0},
    {"score": 1.0, "{score}": 1.0, "1": 1.0},
    {"count": 1.0, "{count}": 1.0, "{#}": 1.0, "1": 1.0},
    {"T": 1.0},
)


def convert(value: float, unit: str, wanted: str) -> float | None:
    """`value` in `unit` (UCUM) as `wanted` (of the contract); None if one does not convert to the other or is not known.

    A quantity stated as 12.3 stays 12.3 if the units are the same; a converted one keeps 12 significant digits, so that
    1500 mm3 is 1.5 mL and no neighbour of it.
    """
    if not math.isfinite(value):
        return None
    if unit == wanted:
        return value
    for quantity in _QUANTITIES:
        if unit in quantity and wanted in quantity:
            factor = quantity[unit] / quantity[wanted]
            return value if factor == 1.0 else float(f"{value * factor:.12g}")
    return None
