"""Groups for whom figures are made as well, by sex, band of age or maker of the scanner, from the contract's own columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ContractError

if TYPE_CHECKING:
    from tasks.base import Column, Contract

UNKNOWN: Final = "unknown"
AGE_EDGES: Final = (35.0, 50.0)  # years
AGE_NAMES: Final = ("below_35", "35_to_49", "from_50", UNKNOWN)
SEX_COLUMNS: Final = ("female", "sex")  # binary, or categorical with the codes F and M
AGE_COLUMN: Final = "age_years"
VENDOR_COLUMN: Final = "vendor"  # categorical


@dataclass(frozen=True)
class Grouping:
    """Everybody is in exactly one of `names`; the last is for those whose `column` (a position in the contract) is missing.

    Group k holds values in [edges[k - 1], edges[k]).
    """

    name: str
    column: int
    names: tuple[str, ...]
    edges: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.names)

    def which(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """The group of each record, (n,), from `values` (n, n_columns)."""
        found = values[:, self.column]
        return np.where(np.isnan(found), len(self.names) - 1, np.digitize(found, self.edges)).astype(np.int64)

    def keys(self) -> tuple[str, ...]:
        """How its groups are called in figures: `sex=F`."""
        return tuple(f"{self.name}={name}" for name in self.names)


def groupings(contract: Contract, by: Sequence[str]) -> tuple[Grouping, ...]:
    """The groupings called `by` of a task with this contract. `ContractError` for one that its columns do not give."""
    if unknown := [name for name in by if name not in MAKERS]:
        raise ContractError(f"figures by {unknown[0]!r}: known are {', '.join(MAKERS)}")
    return tuple(MAKERS[name](contract) for name in by)


def refuse_unread(by: Sequence[str], contract: Contract, columns: Sequence[str]) -> None:
    """`ContractError` if figures `by` groups need a column that is not among a plan's `columns`: what a plan reads, it says.

    A site's policy allows and forbids columns by what the plan says. No scoring is asked whether it has groups: one that did not
    answer would read what nobody allowed.
    """
    for grouping in groupings(contract, by):
        name = contract.column_names[grouping.column]
        if name not in columns:
            raise ContractError(
                f"figures by {grouping.name} read the column {name}, which the plan does not: add it to its columns"
            )


def _sex(contract: Contract) -> Grouping:
    at, column = _found(contract, "sex", SEX_COLUMNS)
    if column.kind == "binary":
        return Grouping("sex", at, ("M", "F", UNKNOWN), (0.5,))
    if set(column.categories) != {"F", "M"}:
        raise ContractError(f"task {contract.task}: figures by sex need the codes F and M, {column.name} has {column.categories}")
    return Grouping("sex", at, (*column.categories, UNKNOWN), (0.5,))


def _age(contract: Contract) -> Grouping:
    at, column = _found(contract, "age", (AGE_COLUMN,))
    if column.kind != "numeric" or column.unit != "years":
        raise ContractError(f"task {contract.task}: figures by age need {AGE_COLUMN} in years")
    return Grouping("age", at, AGE_NAMES, AGE_EDGES)


def _vendor(contract: Contract) -> Grouping:
    at, column = _found(contract, "vendor", (VENDOR_COLUMN,))
    edges = tuple(code + 0.5 for code in range(len(column.categories) - 1))
    return Grouping("vendor", at, (*column.categories, UNKNOWN), edges)


def _found(contract: Contract, by: str, names: Sequence[str]) -> tuple[int, Column]:
    for name in names:
        if name in contract.column_names:
            return contract.column_names.index(name), contract.column(name)
    raise ContractError(f"task {contract.task} has no figures by {by}: its contract has no column {' or '.join(names)}")


MAKERS: Final[Mapping[str, Callable[[Contract], Grouping]]] = {"age": _age, "sex": _sex, "vendor": _vendor}
