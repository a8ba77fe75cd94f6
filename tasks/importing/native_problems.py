"""What an import could not bring over, gathered row by row and told once for each rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tasks.importing.base import Action, Problem
from tasks.importing.native_cells import REMEDIES

LEFT_OUT: Final[Action] = "row left out"
EMPTIED: Final[Action] = "value left empty"
FOR_REVIEW: Final[Action] = "kept for review"


class Problems:
    """Problems by what they share, rows added one after another."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str, str, Action], set[int]] = {}

    def add(self, source: str, table: str, column: str, rule: str, action: Action, rows: Iterable[int]) -> None:
        """`rows` of `source` break `rule`, one of `REMEDIES`."""
        self._rows.setdefault((source, table, column, rule, action), set()).update(rows)

    def all(self) -> tuple[Problem, ...]:
        """All of them, in a fixed order."""
        return tuple(
            Problem(source, table, column, rule, tuple(sorted(rows)), action, REMEDIES[rule])
            for (source, table, column, rule, action), rows in sorted(self._rows.items())
            if rows
        )
