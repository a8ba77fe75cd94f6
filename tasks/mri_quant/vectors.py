"""What one patient adds to the sum. It follows from that patient's scans, the plan and public constants alone."""

from __future__ import annotations

import numpy as np

from tasks.mri_quant.frame import FREEDOM, SCALES, Frame
from tasks.mri_quant.measures import RateMeasure
from tasks.mri_quant.slopes import Slopes, slopes_of
from tasks.sums import Floats, Records


def weights(measure: RateMeasure, slopes: Slopes) -> Floats:
    """How much each patient's rate says, (n_patients,), 0 to 1: a short or scattered history says little."""
    return np.where(slopes.rated, measure.between**2 / (measure.between**2 + np.where(slopes.rated, slopes.variance, 1.0)), 0.0)


def block(measure: RateMeasure, slopes: Slopes) -> Floats:
    """One measure's part, (n_patients, length): zeros for whoever has no rate."""
    w, rated = weights(measure, slopes), slopes.rated.astype(np.float64)
    y = np.where(slopes.rated, np.clip(slopes.rate, -measure.most, measure.most), 0.0) / measure.unit
    up, across = np.triu_indices(slopes.x.shape[1])
    products = slopes.x[:, up] * slopes.x[:, across]
    below = np.zeros_like(w)
    if measure.flag_below is not None:
        below = np.where(slopes.rated, slopes.rate < measure.flag_below, 0.0)
    columns = {
        "xx": w[:, None] * products,
        "ww": (w**2)[:, None] * products,
        "xy": (w * y)[:, None] * slopes.x,
        "yy": (w * y**2)[:, None],
        "patients": rated[:, None],
        "below": below[:, None],
        "squares": slopes.squares[:, None] / FREEDOM,
        "freedom": slopes.freedom[:, None] / FREEDOM,
    }
    return np.concatenate([part * SCALES.get(name, 1.0) for name, part in columns.items()], axis=1)


def vectors(frame: Frame, records: Records) -> Floats:
    """(patients, size of the stage)."""
    parts = [
        block(measure, slopes_of(frame, measure, records.values, records.owners, records.patients)) for measure in frame.measures
    ]
    return np.concatenate(parts, axis=1)
