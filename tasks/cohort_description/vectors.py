"""One vector for each patient: what the patient's own rows say, every patient counting once however many rows there are.

Of a table: whether the patient has rows, and how many (one of five classes). Of a column: the share of the rows in which it is
filled; of a number also the patient's mean as (x, 1 - x) on the public scale, and the shares of the patient's values in each bin;
of codes their shares. Each of these parts has an L2 norm of at most 1, whatever the rows are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tasks.cohort_description.columns import FINE_BINS, ROW_BINS, ROW_WORDS, Described, Floats
from tasks.ms.schema import SEPARATOR
from tasks.sums import NamedShape

if TYPE_CHECKING:
    import pandas as pd

HEAD: Final = 1 + len(ROW_WORDS)  # of a table: has rows; how many
PARTS_OF_A_TABLE: Final = 2  # parts of norm 1
PARTS_OF_A_NUMBER: Final = 3
PARTS_OF_CODES: Final = 2


def patient_values(
    tables: Mapping[str, pd.DataFrame], patients: Sequence[str], names: Sequence[str], columns: Sequence[Described]
) -> Floats:
    """(n_patients, HEAD for each of the tables `names`, then `width` for each of `columns`), all in [0, 1]."""
    places = {patient: at for at, patient in enumerate(patients)}
    owners = {name: _owners(tables.get(name), places) for name in names}
    blocks = [_head(owner, len(patients)) for owner in owners.values()]
    for column in columns:
        blocks.append(_block(tables.get(column.table), owners[column.table], column, len(patients)))
    return np.concatenate(blocks, axis=1)


def _owners(rows: pd.DataFrame | None, places: Mapping[str, int]) -> NDArray[np.intp]:
    if rows is None:
        return np.zeros(0, dtype=np.intp)
    return np.array([places[patient] for patient in rows["patient_id"]], dtype=np.intp)


def _head(owner: NDArray[np.intp], patients: int) -> Floats:
    counts = np.bincount(owner, minlength=patients)
    found = np.zeros((patients, HEAD))
    found[:, 0] = counts > 0
    for at in range(len(ROW_WORDS)):
        found[:, 1 + at] = (counts >= ROW_BINS[at]) & (counts < ROW_BINS[at + 1])
    return found


def _block(rows: pd.DataFrame | None, owner: NDArray[np.intp], column: Described, patients: int) -> Floats:
    found = np.zeros((patients, column.width))
    if rows is None or column.column not in rows:
        return found
    cells = rows[column.column]
    counted = np.ones(len(rows), dtype=bool) if column.only is None else (rows[column.only[0]] == column.only[1]).to_numpy(bool)
    filled = counted & cells.notna().to_numpy(bool)
    found[:, 0] = _share(np.bincount(owner[filled], minlength=patients), np.bincount(owner[counted], minlength=patients))
    mass = found[:, 1:]
    if column.codes:
        _add_codes(mass, cells[filled], owner[filled], column)
    else:
        _add_numbers(mass, cells[filled].to_numpy(np.float64), owner[filled], column)
    values = np.bincount(owner[filled], minlength=patients)
    mass /= np.maximum(values, 1)[:, None]
    return found


def _share(part: NDArray[np.intp], whole: NDArray[np.intp]) -> Floats:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _add_codes(mass: Floats, cells: pd.Series, owner: NDArray[np.intp], column: Described) -> None:
    """Each cell has a mass of 1, parted equally among its codes; added in the order of the texts, whoever else has which."""
    places = {code: at for at, code in enumerate(column.codes)}
    known: dict[object, tuple[int, ...]] = {}
    for cell in cells.unique():
        text = str(int(cell)) if isinstance(cell, int | float | np.number) else str(cell)
        codes = text.split(SEPARATOR) if column.several else [text]
        known[cell] = tuple(places[code] for code in codes if code in places)
    for cell, at in sorted(known.items(), key=lambda each: str(each[0])):
        chosen = owner[(cells == cell).to_numpy(bool)]
        for place in at:
            np.add.at(mass[:, place], chosen, 1.0 / len(at))


def _add_numbers(mass: Floats, values: Floats, owner: NDArray[np.intp], column: Described) -> None:
    edges = column.edges
    clipped = np.clip(values, edges[0], edges[-1])
    x = scaled(column, clipped)
    np.add.at(mass[:, 0], owner, x)
    np.add.at(mass[:, 1], owner, 1.0 - x)
    bins = np.clip(np.searchsorted(edges, clipped, side="right") - 1, 0, FINE_BINS - 1)
    np.add.at(mass, (owner, 2 + bins), 1.0)


def scaled(column: Described, values: Floats) -> Floats:
    """Numbers within the column's range on the scale on which they are averaged, [0, 1]."""
    low, high = column.edges[0], column.edges[-1]
    if column.logarithmic:
        return np.asarray(np.log1p(values - low) / np.log1p(high - low))
    return np.asarray((values - low) / (high - low))


def unscaled(column: Described, x: float) -> float:
    """The inverse, in the column's unit."""
    low, high = float(column.edges[0]), float(column.edges[-1])
    if column.logarithmic:
        return low + math.expm1(x * math.log1p(high - low))
    return low + x * (high - low)


def shapes(names: Sequence[str], columns: Sequence[Described], bins: int) -> tuple[NamedShape, ...]:
    """What a plan's vector holds: of the tables in use, then of the columns in use, bins merged."""
    heads = tuple((f"{name}.rows", (HEAD,)) for name in names)
    return heads + tuple((each.name, (1 + len(each.codes) if each.codes else 3 + bins,)) for each in columns)


def bound(names: Sequence[str], columns: Sequence[Described]) -> float:
    """L2 norm that no patient's vector exceeds: the root of the number of its parts."""
    parts = sum(PARTS_OF_CODES if each.codes else PARTS_OF_A_NUMBER for each in columns)
    return math.sqrt(PARTS_OF_A_TABLE * len(names) + parts)


def merged(block: Floats, column: Described, bins: int) -> Floats:
    """A column's part of `patient_values`, (n_patients, width), with its fine bins added up to `bins`."""
    if column.codes:
        return block
    fine = block[:, 3:].reshape(len(block), bins, FINE_BINS // bins).sum(axis=2)
    return np.concatenate([block[:, :3], fine], axis=1)
