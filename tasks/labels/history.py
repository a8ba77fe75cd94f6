"""What the engine reads: rows of numpy arrays that are checked, sorted and closed for writing when they are made.

The order of rows never matters. A value that is not known is NaN, and a visit without a value does not exist for that
outcome. Patients are numbers from 0 on; days are whole numbers on each patient's own clock. Messages name a row by its
place in the arrays given (0 is the first), and no value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.labels.errors import LabelError
from tasks.labels.rule import MAX_DAYS, Outcome

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Columns = Mapping[str, NDArray[Any]]

FUNCTIONAL_SYSTEMS = ("visual", "brainstem", "pyramidal", "cerebellar", "sensory", "bowel_bladder", "cerebral")
PYRAMIDAL = FUNCTIONAL_SYSTEMS.index("pyramidal")
FS_MAX = np.array([6.0, 5.0, 6.0, 5.0, 6.0, 6.0, 5.0])
COLUMNS: Mapping[Outcome, str] = {"edss": "edss", "t25fw": "t25fw_s", "nhpt": "nhpt_s", "sdmt": "sdmt_n"}
RANGES = {"t25fw_s": (2.0, 180.0), "nhpt_s": (10.0, 300.0), "sdmt_n": (0.0, 110.0), "ambulation": (0.0, 15.0)}


@dataclass(frozen=True, eq=False)
class Visits:
    """Visits, (n,) each, in any order; NaN or None where not measured. Sorted by patient and day once made.

    `edss` 0, 1.0, 1.5 .. 10 points; `fs` (n, 7) in the order of `FUNCTIONAL_SYSTEMS`, each 0 to its maximum; `t25fw_s`
    2..180 s; `nhpt_s` 10..300 s (which hand is the caller's choice, one for all); `sdmt_n` 0..110; `ambulation` is the
    Neurostatus score 0..15, which SPMS reads as an eighth system. `LabelError` for lengths that differ, a value outside its
    range, and two values of one outcome for one patient on one day.
    """

    patient: Ints = field(repr=False)
    day: Ints = field(repr=False)
    edss: Floats = field(repr=False)
    fs: Floats | None = field(default=None, repr=False)
    t25fw_s: Floats | None = field(default=None, repr=False)
    nhpt_s: Floats | None = field(default=None, repr=False)
    sdmt_n: Floats | None = field(default=None, repr=False)
    ambulation: Floats | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        names = [*COLUMNS.values(), "ambulation"]
        patient, day = whole("visits", "patient", self.patient), days("visits", "day", self.day)
        given: dict[str, NDArray[Any]] = {
            name: numbers("visits", name, getattr(self, name))
            for name in names
            if name == "edss" or getattr(self, name) is not None
        }
        _same_length("visits", {"patient": patient, "day": day, **given})
        _check_edss(given["edss"])
        for name, (low, high) in RANGES.items():
            if name in given:
                _check_range("visits", name, given[name], low, high)
        for name, values in given.items():
            _one_a_day(name, patient, day, ~np.isnan(values))
        if self.fs is not None:
            given["fs"] = _functional_systems(self.fs, len(patient))
        _store(self, {"patient": patient, "day": day, **given}, np.lexsort((day, patient)))


@dataclass(frozen=True, eq=False)
class Relapses:
    """Relapses, (n,) each, in any order: onset day, and the last day of the relapse or NaN where unknown.

    Two rows with one onset are one relapse, which ends with the later one. `LabelError` for an end before its onset.
    """

    patient: Ints = field(repr=False)
    onset_day: Ints = field(repr=False)
    end_day: Floats | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        patient, onset = whole("relapses", "patient", self.patient), days("relapses", "onset_day", self.onset_day)
        unknown = np.full(len(patient), np.nan)
        ends = unknown if self.end_day is None else numbers("relapses", "end_day", self.end_day)
        columns: Columns = {"patient": patient, "onset_day": onset, "end_day": ends}
        _same_length("relapses", columns)
        if np.any(wrong := (ends < onset) | (ends > MAX_DAYS)):
            raise LabelError(f"relapses, row {_first(wrong)}: end_day is before onset_day or above {MAX_DAYS}; correct the row")
        _store(self, columns, np.lexsort((ends, onset, patient)))


@dataclass(frozen=True, eq=False)
class Scans:
    """Brain MRI, (n,) each, in any order: counts of new and enlarging T2 lesions since the scan before, and of Gd+ ones.

    0..300, NaN where not read (`gd_count`: no contrast). `pbvc_pct_y`: change of brain volume since the scan before, % a year,
    -10..5. Several scans on one day are allowed.
    """

    patient: Ints = field(repr=False)
    day: Ints = field(repr=False)
    new_t2: Floats = field(repr=False)
    enlarging_t2: Floats | None = field(default=None, repr=False)
    gd_count: Floats | None = field(default=None, repr=False)
    pbvc_pct_y: Floats | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        patient, day = whole("scans", "patient", self.patient), days("scans", "day", self.day)
        counts: dict[str, Floats] = {}
        for name in ("new_t2", "enlarging_t2", "gd_count", "pbvc_pct_y"):
            given = getattr(self, name)
            counts[name] = np.full(len(patient), np.nan) if given is None else numbers("scans", name, given)
        columns: Columns = {"patient": patient, "day": day, **counts}
        _same_length("scans", columns)
        for name, values in counts.items():
            _check_range("scans", name, values, *((-10.0, 5.0) if name == "pbvc_pct_y" else (0.0, 300.0)))
        _store(self, columns, np.lexsort((*counts.values(), day, patient)))

    @property
    def active(self) -> Bools:
        """Whether the scan shows a new, enlarging or Gd+ lesion; a count that is not known shows none."""
        counts = [np.asarray(count, dtype=np.float64) for count in (self.new_t2, self.enlarging_t2, self.gd_count)]
        return np.asarray(np.any(np.stack(counts) > 0, axis=0), dtype=np.bool_)

    @property
    def readable(self) -> Bools:
        """Whether the scan can show that nothing is new: its new T2 lesions were counted."""
        return ~np.isnan(self.new_t2)

    @property
    def brain_volume(self) -> Floats:
        """Change of brain volume, % a year, NaN where it was not measured."""
        return np.asarray(self.pbvc_pct_y, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class History:
    """All rows of one site's patients 0 .. n_patients - 1. `LabelError` for a row of a patient outside this range."""

    n_patients: int
    visits: Visits
    relapses: Relapses
    scans: Scans | None = None  # None: labels that need MRI are not made

    def __post_init__(self) -> None:
        if isinstance(self.n_patients, bool) or not 0 <= self.n_patients < 2**31:
            raise LabelError(f"history: n_patients is {self.n_patients}, it must be from 0 to 2^31 - 1")
        for table in (self.visits, self.relapses, self.scans):
            if table is not None and len(table.patient) and not 0 <= table.patient[0] <= table.patient[-1] < self.n_patients:
                name = type(table).__name__.lower()
                raise LabelError(f"{name}: a patient number is outside 0..{self.n_patients - 1}; count patients from 0")


@dataclass(frozen=True, eq=False)
class Series:
    """One outcome's known values, sorted by patient and day, one a day; `row` is the place in `Visits`, (n_rows,)."""

    n_patients: int
    patient: Ints
    day: Ints
    value: Floats
    row: Ints
    start: Ints  # (n_patients,) first place of each patient
    count: Ints  # (n_patients,)

    @property
    def last_day(self) -> Floats:
        """Each patient's last day with a value, (n_patients,), NaN if there is none: where the outcome is censored."""
        last = np.full(self.n_patients, np.nan)
        seen = self.count > 0
        last[seen] = self.day[(self.start + self.count - 1)[seen]]
        return last


def series(history: History, outcome: Outcome, *, since: Floats | None = None) -> Series:
    """The `outcome`'s known values; with `since` (n_patients,), those on or after each patient's day (NaN: none).

    `LabelError` if the visits have no column for the outcome, or if the outcome is not one column.
    """
    name = COLUMNS.get(outcome)
    values = None if name is None else getattr(history.visits, name)
    if values is None:
        raise LabelError(f"outcome {outcome} has no column in the visits given; give it, or label another outcome")
    known = ~np.isnan(values)
    if since is not None:
        known &= history.visits.day >= since[history.visits.patient]
    row = np.flatnonzero(known)
    patient = history.visits.patient[row]
    count = np.bincount(patient, minlength=history.n_patients)
    return Series(
        n_patients=history.n_patients,
        patient=patient,
        day=history.visits.day[row],
        value=values[row],
        row=row,
        start=np.cumsum(count) - count,
        count=count,
    )


def whole(table: str, name: str, given: object) -> Ints:
    """The column as int64 (n,); `LabelError` unless it is one-dimensional and of whole numbers."""
    values = np.asarray(given)
    if values.size == 0 and values.ndim == 1:
        return np.zeros(0, dtype=np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise LabelError(f"{table}: {name} has shape {values.shape} and type {values.dtype}, it must be (n,) whole numbers")
    return values.astype(np.int64)


def days(table: str, name: str, given: object) -> Ints:
    """The column as int64 (n,), each within 50,000 days of the patient's day 0."""
    values = whole(table, name, given)
    if np.any(wrong := np.abs(values) > MAX_DAYS):
        raise LabelError(f"{table}, row {_first(wrong)}: {name} is beyond {MAX_DAYS} days from day 0; correct the row")
    return values


def numbers(table: str, name: str, given: object) -> Floats:
    """The column as float64 (n,), NaN where unknown; `LabelError` for texts and infinities."""
    values = np.asarray(given)
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise LabelError(f"{table}: {name} has shape {values.shape} and type {values.dtype}, it must be (n,) numbers")
    if np.any(wrong := np.isinf(values)):
        raise LabelError(f"{table}, row {_first(wrong)}: {name} is infinite; NaN is the value for unknown")
    return values.astype(np.float64)


def _same_length(table: str, columns: Columns) -> None:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise LabelError(f"{table}: columns differ in length: {lengths}")


def _check_edss(values: Floats) -> None:
    twice = 2.0 * values
    wrong = ~np.isnan(values) & ((twice != np.floor(twice)) | (values < 0.0) | (values > 10.0) | (values == 0.5))
    if np.any(wrong):
        raise LabelError(f"visits, row {_first(wrong)}: edss is not one of 0, 1.0, 1.5 .. 10; correct it or make it NaN")


def _check_range(table: str, name: str, values: Floats, low: float, high: float) -> None:
    if np.any(wrong := (values < low) | (values > high)):
        raise LabelError(f"{table}, row {_first(wrong)}: {name} is outside {low:g}..{high:g}; correct it or make it NaN")


def _functional_systems(given: object, length: int) -> Floats:
    scores = np.asarray(given)
    if scores.shape != (length, len(FUNCTIONAL_SYSTEMS)) or scores.dtype.kind not in "iuf":
        raise LabelError(f"visits: fs has shape {scores.shape}, it must be numbers ({length}, {len(FUNCTIONAL_SYSTEMS)})")
    if np.any(wrong := np.any((scores < 0) | (scores > FS_MAX), axis=1)):
        raise LabelError(f"visits, row {_first(wrong)}: a functional system is outside its range; correct it or make it NaN")
    return scores.astype(np.float64)


def _one_a_day(name: str, patient: Ints, day: Ints, known: Bools) -> None:
    row = np.flatnonzero(known)
    order = row[np.lexsort((day[row], patient[row]))]
    twice = (patient[order][1:] == patient[order][:-1]) & (day[order][1:] == day[order][:-1])
    if np.any(twice):
        first, second = sorted((int(order[:-1][twice][0]), int(order[1:][twice][0])))
        raise LabelError(
            f"visits, rows {first} and {second}: two values of {name} for one patient on one day ({int(twice.sum())} such pairs); "
            "keep one, nobody but the hospital can tell which is right"
        )


def _store(table: object, columns: Columns, order: NDArray[np.intp]) -> None:
    for name, values in columns.items():
        sorted_values = values[order]
        sorted_values.flags.writeable = False
        object.__setattr__(table, name, sorted_values)


def _first(wrong: Bools) -> int:
    return int(np.argmax(wrong))
