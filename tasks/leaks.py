"""Finds columns that give the answer away: whose missingness or value alone tells the label (almost) perfectly.

Names lie and hospitals rename columns, so besides the contract's list of refused names every input is tested on the
data. The measure is Youden's J (sensitivity + specificity - 1) of the best rule on this one column.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.base import Labels

J_LIMIT = 0.95
MIN_PER_CLASS = 10  # below, a column separates the few patients by chance
MAX_CODES = 10  # a column with more distinct texts is read as numbers, or only its missingness is tested

Cell = str | float | None  # None = missing; float where the mapping reads numbers


def testable(labels: Labels) -> bool:
    """Whether both classes have enough patients for the check to mean anything."""
    ones = int(labels.sum())
    return min(ones, len(labels) - ones) >= MIN_PER_CLASS


def gives_away(cells: Sequence[Cell], labels: Labels) -> str | None:
    """Why the column `cells` (one per patient) gives `labels` away, or None. No value of a patient in the text."""
    if not testable(labels):
        return None
    filled = np.array([cell is not None for cell in cells])
    if abs(float(filled[labels == 1].mean()) - float(filled[labels == 0].mean())) >= J_LIMIT:
        return "whether it is filled in at all tells the label"
    present = [cell for cell in cells if cell is not None]
    known = labels[filled]
    if not testable(known):
        return None
    if _code_separation(present, known) >= J_LIMIT or _threshold_separation(present, known) >= J_LIMIT:
        return "its value alone tells the label"
    return None


def _code_separation(cells: Sequence[str | float], labels: Labels) -> float:
    """Best J of any rule on the codes: the total variation distance between the two classes."""
    texts = np.array([str(cell) for cell in cells])
    codes = np.unique(texts)
    if len(codes) > MAX_CODES:
        return 0.0
    ones, zeros = texts[labels == 1], texts[labels == 0]
    return 0.5 * sum(abs(float((ones == code).mean()) - float((zeros == code).mean())) for code in codes)


def _threshold_separation(cells: Sequence[str | float], labels: Labels) -> float:
    """Best J of any threshold (the Kolmogorov-Smirnov distance between the classes); 0 if the cells are no numbers."""
    if not all(isinstance(cell, float) for cell in cells):
        return 0.0
    numbers = np.array(cells, dtype=np.float64)
    ones, zeros = np.sort(numbers[labels == 1]), np.sort(numbers[labels == 0])
    cuts = np.unique(numbers)
    below_ones = np.searchsorted(ones, cuts, side="right") / len(ones)
    below_zeros = np.searchsorted(zeros, cuts, side="right") / len(zeros)
    return float(np.max(np.abs(below_ones - below_zeros)))
