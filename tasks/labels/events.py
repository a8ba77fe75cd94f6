"""The table that the engine writes: one row for each label, under the rule that made it.

Columns, names and units are those of `events` in `ms.md` 4.2. A worsening of EDSS is a row `CDP` and a row of
its class (`PIRA`, `RAW` or `UND`), and a PIRA without new lesions a third, `PIRMA`. Other outcomes write their own names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.labels.history import Floats, Ints
from tasks.labels.rule import Outcome

Texts = NDArray[np.str_]

WORSENING: dict[Outcome, str] = {"edss": "CDP", "t25fw": "T25FW", "nhpt": "NHPT", "sdmt": "SDMT", "composite": "CDA"}
MILESTONES: dict[str, float] = {"EDSS3": 3.0, "EDSS4": 4.0, "EDSS6": 6.0}
EVENT_COLUMNS = ("event_day", "event", "rule_id", "ref_edss", "event_edss", "confirm_day", "confirmed_weeks")  # beside whose
CLASSES = ("UND", "RAW", "PIRA")  # by the codes of `course`


def class_name(outcome: Outcome, relapse_class: int) -> str:
    """`PIRA` for EDSS, `T25FW_PIRA` and so on for the others."""
    return _of(outcome, CLASSES[relapse_class])


def improvement_name(outcome: Outcome) -> str:
    """`IMPR` for EDSS, `T25FW_IMPR` and so on for the others."""
    return _of(outcome, "IMPR")


def _of(outcome: Outcome, name: str) -> str:
    return name if outcome == "edss" else f"{WORSENING[outcome]}_{name}"


@dataclass(frozen=True, eq=False)
class Events:
    """Labels, (n,) each, sorted by patient, day and name; NaN where a label has no such value.

    `ref_value` and `event_value` are in the unit of the outcome (points, s, s, n); `ref_edss` and `event_edss` are the same
    for labels from EDSS and NaN for others. Nothing after `confirm_day` is needed to know that the event took place.
    """

    patient: Ints = field(repr=False)
    event_day: Ints = field(repr=False)
    event: Texts = field(repr=False)
    rule_id: Texts = field(repr=False)
    ref_edss: Floats = field(repr=False)
    event_edss: Floats = field(repr=False)
    confirm_day: Ints = field(repr=False)
    confirmed_weeks: Ints = field(repr=False)  # whole weeks from event to confirmation
    ref_value: Floats = field(repr=False)
    event_value: Floats = field(repr=False)

    def __len__(self) -> int:
        return len(self.patient)

    def only(self, *names: str) -> Events:
        """The rows of these labels."""
        return self._taken(np.flatnonzero(np.isin(self.event, names)))

    def first_day(self, name: str, n_patients: int) -> Floats:
        """Day of each patient's first label of this name, (n_patients,), NaN if there is none."""
        day = np.full(n_patients, np.inf)
        chosen = self.event == name
        np.minimum.at(day, self.patient[chosen], self.event_day[chosen].astype(np.float64))
        return np.where(np.isinf(day), np.nan, day)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns of the contract's table `events`, with `patient` where the site puts its `patient_id`."""
        return {name: getattr(self, name) for name in ("patient", *EVENT_COLUMNS)}

    def _taken(self, rows: NDArray[np.intp]) -> Events:
        return Events(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})


@dataclass(frozen=True, eq=False)
class Row:
    """Labels of one name, (n,) each, before they are a table."""

    name: str
    patient: Ints
    event_day: Ints
    confirm_day: Ints
    ref_value: Floats
    event_value: Floats
    of_edss: bool = True


def table(rows: Sequence[Row], rule_id: str) -> Events:
    """All rows as one sorted table, under one rule."""
    patient = _joined([row.patient for row in rows], np.int64)
    event_day = _joined([row.event_day for row in rows], np.int64)
    confirm_day = _joined([row.confirm_day for row in rows], np.int64)
    name = _joined([np.full(len(row.patient), row.name) for row in rows], np.str_)
    ref, value = (_joined([getattr(row, column) for row in rows], np.float64) for column in ("ref_value", "event_value"))
    of_edss = _joined([np.full(len(row.patient), row.of_edss) for row in rows], np.bool_)
    events = Events(
        patient=patient,
        event_day=event_day,
        event=name,
        rule_id=np.full(len(patient), rule_id),
        ref_edss=np.where(of_edss, ref, np.nan),
        event_edss=np.where(of_edss, value, np.nan),
        confirm_day=confirm_day,
        confirmed_weeks=(confirm_day - event_day) // 7,
        ref_value=ref,
        event_value=value,
    )
    return events._taken(np.lexsort((name, event_day, patient)))


def _joined(parts: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=kind), *parts])
