"""A site's patients on one side of the split, with their records: every release is a sum of one bounded vector per patient."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.release import FloatMatrix, GridVector
from tasks.base import Cohort


@dataclass(frozen=True)
class Side:
    """Records side by side by patient: `values` (n_records, n_columns) with NaN for missing, `labels` (n_records,).

    `owners` (n_records,): which of the `patients` each record belongs to, ascending from 0.
    """

    values: FloatMatrix
    labels: NDArray[np.int8]
    owners: NDArray[np.intp]
    patients: int

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


def sides_of(cohort: Cohort, held_out: NDArray[np.bool_], at_most: int) -> tuple[Side, Side]:
    """Training and held-out side; `held_out` (n_rows,) is the same for all of a patient's rows.

    Of a patient with more than `at_most` records the last ones stay: refusing would tell that there is such a patient.
    """
    return _side(cohort, ~held_out, at_most), _side(cohort, held_out, at_most)


def _side(cohort: Cohort, chosen: NDArray[np.bool_], at_most: int) -> Side:
    of = cohort.owners
    order = np.argsort(of, kind="stable")
    order = order[chosen[order]]
    _, first, owners, counts = np.unique(of[order], return_index=True, return_inverse=True, return_counts=True)
    last = np.arange(len(order)) >= (first + counts - at_most)[owners]
    rows = order[last]
    return Side(cohort.values[rows], cohort.labels[rows], owners[last].astype(np.intp), len(counts))
