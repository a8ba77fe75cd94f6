"""Units that a mapping may declare, and their factors to the contract's. A unit that is not listed needs a factor."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

# the contract's unit -> a hospital's unit -> factor, exact
FACTORS: Final[Mapping[str, Mapping[str, str]]] = {
    "mL": {"mm3": "0.001", "cm3": "1", "ml": "1", "uL": "0.001", "L": "1000"},
    "cm": {"m": "100", "mm": "0.1", "in": "2.54", "ft": "30.48"},
    "kg": {"g": "0.001", "lb": "0.45359237", "st": "6.35029318"},
    "s": {"min": "60", "ms": "0.001"},
    "ms": {"s": "1000", "us": "0.001"},
    "m": {"km": "1000", "cm": "0.01", "ft": "0.3048", "yd": "0.9144"},
    "days": {"d": "1", "weeks": "7", "years": "365.25"},
    "um": {"mm": "1000", "nm": "0.001"},
    "mm2": {"cm2": "100"},
    "mm3": {"uL": "1", "mL": "1000"},
    "uV": {"mV": "1000", "nV": "0.001"},
    "mg": {"g": "1000", "ug": "0.001"},
    "T": {"mT": "0.001", "G": "0.0001"},
    "pg/mL": {"ng/L": "1", "ng/mL": "1000", "ug/L": "1000"},
    "1e9/L": {"1/uL": "0.001", "G/L": "1", "10^3/uL": "1", "1/nL": "1"},
    "1/uL": {"1e9/L": "1000", "G/L": "1000", "1e6/L": "1"},
    "g/L": {"mg/L": "0.001", "mg/dL": "0.01", "g/dL": "10", "mg/mL": "1"},
    "mg/L": {"mg/dL": "10", "ug/mL": "1", "g/L": "1000"},
    "nmol/L": {"ng/mL": "2.496", "ug/L": "2.496"},  # 25-hydroxyvitamin D, the one analyte in nmol/L
    "ratio": {"%": "0.01"},
    "%/year": {"%/a": "1"},
    "h": {"min": "0.0166666666666666666667"},
    "m/s": {"km/h": "0.2777777777777777777778"},
}
UNITLESS: Final = frozenset({"", "score", "count", "copies", "letters", "SD"})  # nothing to declare


def factor_of(unit: str, wanted: str) -> Decimal | None:
    """By what a number in `unit` is multiplied to be one in `wanted`; None if that is not listed."""
    if unit == wanted:
        return Decimal(1)
    listed = FACTORS.get(wanted, {}).get(unit)
    return Decimal(listed) if listed else None
