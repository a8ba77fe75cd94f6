"""What every importer gives: tables of the contract, and all that could not be brought over as it stood.

An importer reads, converts and reports. Whether the result obeys the contract is for `tasks.ms.validate` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

Action = Literal["row left out", "value left empty", "kept for review"]


@dataclass(frozen=True)
class Problem:
    """One rule that rows of a source break on their way in. Never what a cell holds."""

    source: str  # file, sheet or resource type, as the hospital names it
    table: str  # of the contract, "" if the source as a whole is meant
    column: str  # the source's own column or path, "" for a whole row
    rule: str  # short name
    rows: tuple[int, ...]  # numbered as a spreadsheet shows them, header = 1; of a bundle the entries, from 1
    action: Action
    remedy: str


@dataclass(frozen=True)
class Review:
    """A text that a person must decide about, such as a drug's name that no vocabulary knows. For a local file alone."""

    kind: str  # "drug"
    source: str
    column: str
    text: str = field(repr=False)  # as it was written
    times: int
    suggestion: str  # a code of the contract, or ""


@dataclass(frozen=True)
class Imported:
    """Tables by name, with the contract's columns, units and codes; cells that are empty are None or NaN, days whole numbers."""

    tables: Mapping[str, pd.DataFrame] = field(repr=False)
    problems: tuple[Problem, ...]
    review: tuple[Review, ...] = field(repr=False)
    read: Mapping[str, int]  # rows or resources read, by source
