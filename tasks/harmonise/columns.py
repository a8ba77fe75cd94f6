"""Columns as they come from a table, read strictly: nothing that is no number becomes one, and no message quotes a cell."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.harmonise.errors import HarmoniseError
from tasks.harmonise.plan import Bools, Floats, Texts

Scalar = TypeVar("Scalar", bound=np.generic)


def numbers(name: str, column: Any) -> Floats:
    """A copy that is closed for writing; None counts as NaN. Texts are refused, also those that look like numbers."""
    try:
        cells = np.asarray(column)
        number = cells.dtype.kind in "biuf" or (cells.dtype.kind == "O" and not any(isinstance(cell, str) for cell in cells.flat))
        found = np.array(cells if number else np.nan, dtype=np.float64)
    except (TypeError, ValueError):
        number = False  # the cause quotes the cell, so it is dropped
    if not number:
        raise HarmoniseError(f"column {name} holds something that is no number")
    return _closed(found)


def texts(name: str, column: Any) -> Texts:
    """A copy that is closed for writing; None and NaN become "", which is how a table says that it does not know."""
    cells = np.asarray(column, dtype=object)
    missing = [cell is None or (isinstance(cell, float) and np.isnan(cell)) for cell in cells.flat]
    if any(not gap and not isinstance(cell, str) for cell, gap in zip(cells.flat, missing, strict=True)):
        raise HarmoniseError(f"column {name} holds something that is neither a text nor missing")
    found = ["" if gap else str(cell) for cell, gap in zip(cells.flat, missing, strict=True)]
    return _closed(np.array(found, dtype=np.str_).reshape(cells.shape))


def flags(name: str, column: Any) -> Bools:
    """A copy that is closed for writing; only true and false, for a 0, a "no" or a gap would be read in two ways."""
    cells = np.asarray(column)
    if cells.size and cells.dtype != np.bool_:
        raise HarmoniseError(f"column {name} holds something that is neither true nor false")
    return _closed(np.array(cells, dtype=np.bool_))


def _closed(cells: NDArray[Scalar]) -> NDArray[Scalar]:
    cells.setflags(write=False)
    return cells
