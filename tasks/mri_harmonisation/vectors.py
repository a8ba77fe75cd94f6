"""What one patient adds to each stage's sum. It follows from that patient's scans, what was opened before, and the plan alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.harmonise import HarmoniseError
from tasks.harmonise import longitudinal as mixed
from tasks.harmonise.scans import design, to_model_scale
from tasks.mri_harmonisation.fit import coefficients
from tasks.mri_harmonisation.frame import BLANKS, Y_UNIT, Frame
from tasks.mri_harmonisation.scans import BATCH, Floats, as_scans, latest, usable
from tasks.sums import Records


@dataclass(frozen=True)
class Taken:
    """The scans of a site that take part, on the model's scale; `at` (n_scans,): which of the plan's batches."""

    x: Floats  # (n_scans, n_covariates)
    y: Floats  # (n_scans, n_measures)
    at: NDArray[np.intp]
    owners: NDArray[np.intp]


def taken(frame: Frame, rows: Floats, owners: NDArray[np.intp]) -> Taken:
    """Complete scans of listed batches, of each patient the last `frame.scans`: a rule that looks at no value.

    `owners` (n_rows,) ascending, rows of one patient in the order of time.
    """
    listed = np.isin(rows[:, BATCH], frame.numbers)
    kept = latest(owners, listed & usable(rows, frame.plan), frame.scans)
    chosen = rows[kept]
    order = np.argsort(frame.numbers)
    at = order[np.searchsorted(frame.numbers[order], chosen[:, BATCH])]
    scans = as_scans(chosen, frame.plan, [frame.plan.batches[place] for place in at])
    return Taken(design(frame.plan, scans), to_model_scale(frame.plan, scans), at.astype(np.intp), owners[kept])


def first_stage(frame: Frame, scans: Taken, patients: int) -> Floats:
    """Counts, sums and products, (patients, size): what least squares needs. Blanks stay 0."""
    x, y = scans.x / frame.x_unit, scans.y / Y_UNIT
    member = np.eye(frame.plan.n_batches)[scans.at]
    if frame.longitudinal:
        rows = mixed.patient_rows(np.hstack([member, x]), y, scans.owners, patients, frame.scans, frame.stretch)
    else:
        up, across = np.triu_indices(x.shape[1])
        parts = (
            member,
            member[:, :, None] * x[:, None, :],
            member[:, :, None] * y[:, None, :],
            x[:, up] * x[:, across],
            x[:, :, None] * y[:, None, :],
        )
        rows = _by_patient(
            np.concatenate([part.reshape(len(x), math.prod(part.shape[1:])) for part in parts], axis=1), scans.owners, patients
        )
    return np.hstack([rows, np.zeros((patients, BLANKS))])


def second_stage(frame: Frame, before: Floats, scans: Taken, patients: int) -> Floats:
    """Squares of what batch and covariates leave, by measure, and how many scans they are of: (patients, n_measures + 1).

    The scans are counted again, since a site may have left after the first sum: its scans must not divide the others' squares.
    Not a number for everybody if `before` determines no coefficients: the trainer takes that as zero, and the result says why.
    """
    try:
        with np.errstate(all="ignore"):
            fitted = coefficients(frame, frame.split(0, before))
            residual = scans.y - fitted.location[scans.at]
            for column, effect in zip(scans.x.T, fitted.beta, strict=True):
                # Not `x @ beta`: how that rounds depends on how many rows there are, and coefficients that a coordinator makes
                # huge and cancelling would carry one patient's presence into everybody's vector.
                residual = residual - column[:, None] * effect
            rows = np.hstack([residual**2, np.ones((len(residual), 1))]) * frame.square_unit
            return _by_patient(rows, scans.owners, patients)
    except (HarmoniseError, np.linalg.LinAlgError):
        return np.full((patients, frame.plan.n_measures + 1), np.nan)


def vectors(frame: Frame, stage: int, before: Floats, records: Records) -> Floats:
    """(patients, size of the stage); `before`: what the first stage opened to, empty before it."""
    scans = taken(frame, records.values, records.owners)
    if stage == 0:
        return first_stage(frame, scans, records.patients)
    return second_stage(frame, before, scans, records.patients)


def _by_patient(rows: Floats, owners: NDArray[np.intp], patients: int) -> Floats:
    found = np.zeros((patients, rows.shape[1]))
    np.add.at(found, owners, rows)
    return found
