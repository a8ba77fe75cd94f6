"""A site's patients on the sides of the split, with their records: every release is a sum of one bounded vector per patient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.release import FloatMatrix, GridVector
from tasks.base import Cohort, Targets
from tasks.errors import ContractError
from tasks.run_options import PATIENTS, ROWS, RunOptions
from tasks.splits import NOWHERE, TEST, TRAINING, VALIDATION, Parts, parts_of, parts_of_rows

if TYPE_CHECKING:
    from tasks.imaging.store import Scan


@dataclass(frozen=True)
class Side:
    """Records side by side by patient: `values` (n_records, n_columns) with NaN for missing, `labels` (n_records, ...).

    `owners` (n_records,): which of the `patients` each record belongs to, ascending from 0. `ids`: the patients' own; they are
    hashed where something is drawn for a patient, and go nowhere. `scans`: of each record, where the task reads images.
    """

    values: FloatMatrix
    labels: Targets
    owners: NDArray[np.intp]
    patients: int
    ids: tuple[str, ...] = field(default=(), repr=False)
    scans: tuple[Scan, ...] = field(default=(), repr=False)

    @property
    def counts(self) -> NDArray[np.intp]:
        """Records of each patient, (patients,)."""
        return np.bincount(self.owners, minlength=self.patients)

    def means(self, vectors: FloatMatrix) -> FloatMatrix:
        """Each patient's mean over its records' `vectors` (n_records, d): (patients, d)."""
        total = np.zeros((self.patients, vectors.shape[1]))
        np.add.at(total, self.owners, vectors)
        return total / self.counts[:, None]

    def shares(self, whole: int) -> GridVector:
        """`whole` parted equally among a patient's records and rounded down, (n_records,): together never more than `whole`."""
        return np.asarray(whole // self.counts[self.owners], dtype=np.int64)


@dataclass(frozen=True)
class Sides:
    """`validation`: for figures while a model is made. `test`: for the last ones."""

    training: Side
    validation: Side
    test: Side

    @property
    def patients(self) -> int:
        """On all sides together; where rows are parted, a patient counts on each."""
        return self.training.patients + self.validation.patients + self.test.patients


class Split:
    """One site's cohort, parted once by the consortium's rule; what a plan asks beyond that is made of those parts."""

    def __init__(self, cohort: Cohort, *, salt: bytes, held_out_fraction: float, at_most: int) -> None:
        """`at_most`: records of a patient that count."""
        self._cohort, self._salt, self._fraction, self._at_most = cohort, salt, held_out_fraction, at_most
        self._parts = parts_of(cohort.patient_ids, salt, held_out_fraction)
        self.sides = self._made(self._parts)
        self._asked: tuple[tuple[str | int, ...], Sides] = ((), self.sides)  # of one plan: copies are kept no longer

    def asked(self, options: RunOptions, *, site: str = "") -> Sides:
        """The sides under a run's `options` at the site called `site` ("": whoever is left out does not matter).

        Raises `ContractError` for a cut in time of records that have no date.
        """
        asked = (options.split, options.train_until_year, options.leave_out if site else "", site)
        if asked[:3] == (PATIENTS, 0, ""):
            return self.sides
        if self._asked[0] != asked:
            self._asked = asked, self._made(self._under(options, asked[2], site))
        return self._asked[1]

    def _under(self, options: RunOptions, left_out: str, site: str) -> Parts:
        parts = self._parts.copy()
        if options.split == ROWS:
            parts = parts_of_rows(self._cohort.patient_ids, self._salt, self._fraction)
        if left_out:
            parts[(parts == TRAINING) if left_out == site else (parts != TRAINING)] = NOWHERE
        if options.train_until_year:
            parts[~self._in_time(parts, options.train_until_year)] = NOWHERE
        return parts

    def _in_time(self, parts: Parts, last_year: int) -> NDArray[np.bool_]:
        """Training rows up to the end of `last_year`, held-out rows after it; rows of an unknown year are in neither."""
        years = self._cohort.years
        if years is None:
            raise ContractError("train_until_year: the task's records have no date, so that none is before or after that year")
        early = years < last_year + 1  # False for NaN
        late = years >= last_year + 1
        return np.asarray(np.where(parts == TRAINING, early, late), dtype=np.bool_)

    def _made(self, parts: Parts) -> Sides:
        return Sides(*(_side(self._cohort, parts == part, self._at_most) for part in (TRAINING, VALIDATION, TEST)))


def _side(cohort: Cohort, chosen: NDArray[np.bool_], at_most: int) -> Side:
    """The chosen rows; of a patient with more than `at_most` the last ones stay: refusing would tell that there is one."""
    of = cohort.owners
    order = np.argsort(of, kind="stable")
    order = order[chosen[order]]
    found, first, owners, counts = np.unique(of[order], return_index=True, return_inverse=True, return_counts=True)
    last = np.arange(len(order)) >= (first + counts - at_most)[owners]
    rows = order[last]
    names = dict(zip(of.tolist(), cohort.patient_ids, strict=True))
    ids = tuple(names[int(patient)] for patient in found)
    scans = tuple(cohort.scans[row] for row in rows) if cohort.scans else ()
    return Side(cohort.values[rows], cohort.labels[rows], owners[last].astype(np.intp), len(counts), ids, scans)
