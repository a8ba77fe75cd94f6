"""Which columns of the data contract can be described, on which public scale. Derived from the contract, so never beside it.

Pseudonyms, names of devices and file names are not described. A column whose range depends on another one (a result by analyte, a
score by instrument) becomes one described column for each code of that other one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks import base
from tasks.ms.contract import CONTRACT
from tasks.ms.schema import Column, Limits, Table

Floats = NDArray[np.float64]
FINE_BINS: Final = 40  # a plan takes these, or 20, 10, 8 or 5 made of them
BIN_CHOICES: Final = (5, 8, 10, 20, 40)
DAYS: Final = Limits(-7300, 7300)  # what is described of a day: 20 years either way; outside counts as the end
WEEKS: Final = Limits(-104, 520)
LOGARITHMIC: Final = frozenset(
    {"t25fw_s", "nhpt_dom_s", "nhpt_nondom_s", "t2_vol_ml", "t2_count", "new_t2", "enlarging_t2", "gd_count", "bhole_vol_ml",
     "lat_ventricle_ml", "ambulation_m", "nfl", "gfap", "crp", "igg_index", "kflc_index", "jcv_index", "ebna1", "b_cells",
     "dose_mg"}
)  # fmt: skip
ROW_BINS: Final = (1, 2, 4, 8, 16, math.inf)  # rows of one patient in one table: 1, 2 to 3, 4 to 7, 8 to 15, 16 or more
ROW_WORDS: Final = ("1", "2 to 3", "4 to 7", "8 to 15", "16 or more")


@dataclass(frozen=True)
class Described:
    """One column as it is described: `codes` of a coded one, `limits` of a numeric one.

    `only`: the rows that count, as (column, code); None for all.
    """

    name: str  # in plans: TABLE__COLUMN, or TABLE__COLUMN__CODE
    table: str
    column: str
    title: str
    unit: str
    modality: str
    codes: tuple[str, ...] = ()
    limits: Limits | None = None
    logarithmic: bool = False
    several: bool = False  # a cell may hold several codes
    only: tuple[str, str] | None = None

    @cached_property
    def edges(self) -> Floats:
        """Ends of the fine bins of a numeric column, (FINE_BINS + 1,), in its unit."""
        assert self.limits is not None, "a coded column has no bins"  # noqa: S101 - cannot happen
        low, high = self.limits.low, self.limits.high
        if self.logarithmic:
            return low + np.expm1(np.linspace(0.0, np.log1p(high - low), FINE_BINS + 1))
        return np.linspace(low, high, FINE_BINS + 1)

    @property
    def width(self) -> int:
        """Numbers that a patient's row holds about it: rows filled; mean and its complement; bins or codes."""
        return 1 + len(self.codes) if self.codes else 3 + FINE_BINS

    def as_input(self) -> base.Column:
        """As a contract of tasks names it, for plans and policies."""
        if len(self.codes) >= 2:
            return base.Column(self.name, "categorical", self.title, categories=self.codes, modality=self.modality)
        limits = self.limits or Limits(0, 1)
        return base.Column(
            self.name, "numeric", self.title, unit=self.unit, low=limits.low, high=limits.high, modality=self.modality
        )


def described() -> tuple[Described, ...]:
    """Every column that can be described, in the contract's order."""
    return tuple(each for table in CONTRACT.tables for column in table.columns for each in _of(table, column))


def _of(table: Table, column: Column) -> Iterator[Described]:
    if column.kind in ("id", "label"):
        return
    start = (f"{table.name}__{column.name}", table.name, column.name, f"{table.title}: {column.description}")
    if column.limits_by is not None:
        for code, limits in column.limits_by.limits.items():
            yield Described(
                f"{start[0]}__{code.lower()}", *start[1:3], f"{start[3]}, {code}", limits.unit or column.unit, table.modality,
                limits=limits, logarithmic=code in LOGARITHMIC, only=(column.limits_by.column, code),
            )  # fmt: skip
    elif column.kind in ("code", "codes", "flag"):
        codes = tuple(column.vocabulary) or ("0", "1")
        yield Described(*start, "", table.modality, codes=codes, several=column.kind == "codes")
    else:
        yield Described(*start, column.unit, table.modality, limits=_limits(column), logarithmic=column.name in LOGARITHMIC)


def _limits(column: Column) -> Limits:
    """The scale of a number: what is usual, else what is possible; of days less, for 200 years would be one bin."""
    if column.kind == "day":
        return WEEKS if column.name == "week" else DAYS
    if column.values:
        return Limits(min(column.values), max(column.values))
    found = column.usual or column.limits
    assert found is not None, "the contract gives every column of numbers a range"  # noqa: S101 - checked where it is declared
    return found
