"""No evidence of disease activity (NEDA-3) from a treatment's start on, and the day on which it is lost.

Lost by the first of: a relapse, a confirmed worsening of EDSS, an active scan. Scans count from the one that the patient is
measured against anew, about six months after the start, since lesions before it are not the treatment's failure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tasks.labels.course import CDP, find_changes
from tasks.labels.errors import LabelError
from tasks.labels.events import Events, Row, table
from tasks.labels.history import Bools, Floats, History, Ints, Scans, numbers, series
from tasks.labels.relapse_times import relapse_times
from tasks.labels.rule import LabelRule


@dataclass(frozen=True, eq=False)
class Neda:
    """NEDA-3 of each patient, (n_patients,); days are NaN where there is none."""

    events: Events  # NEDA_loss
    loss_day: Floats = field(repr=False)
    by_relapse: Bools = field(repr=False)  # what happened on the day of loss, several may be true
    by_worsening: Bools = field(repr=False)
    by_mri: Bools = field(repr=False)
    rebaseline_day: Floats = field(repr=False)  # the scan that new lesions count from
    shown_until: Floats = field(repr=False)  # last day with both EDSS and a later scan: NEDA is not known beyond it


def neda3(history: History, start_day: Floats, rule: LabelRule) -> Neda:
    """NEDA-3 after `start_day` (n_patients,), NaN for patients who are not followed; worsening is that of `rule`.

    The EDSS reference is the first usable one on or after the start. The scan to count from is the first readable one on or
    after start + `neda_rebaseline_days` - `neda_rebaseline_early_days`. `LabelError` without scans, for a start of another
    length, and for a rule whose outcome is not EDSS or whose `edss_rule` is SPMS.
    """
    if history.scans is None:
        raise LabelError("NEDA-3 needs scans; give them, or report relapses and CDP")
    if rule.outcome != "edss" or rule.edss_rule == "SPMS":
        raise LabelError(f"NEDA-3 needs a rule of EDSS worsening, not {rule.outcome} by rule {rule.edss_rule}")
    start = numbers("start", "start_day", start_day)
    if len(start) != history.n_patients:
        raise LabelError(f"start_day has {len(start)} days, the history {history.n_patients} patients")
    relapse = _first_relapse(history, start)
    rebaseline, active, last_scan = _scans(history.scans, start, rule)
    worsening, row, last_edss = _worsening(history, start, rule)
    loss = np.fmin(np.fmin(relapse, worsening), active)
    at = np.flatnonzero(~np.isnan(loss))
    of_edss = worsening[at] == loss[at]
    confirm, ref, value = (np.where(of_edss, values[at], np.nan) for values in row)
    confirm_day = np.where(of_edss, confirm, loss[at]).astype(np.int64)
    lost = Row("NEDA_loss", at, loss[at].astype(np.int64), confirm_day, ref, value)
    return Neda(
        events=table([lost], rule.rule_id),
        loss_day=loss,
        by_relapse=relapse == loss,
        by_worsening=worsening == loss,
        by_mri=active == loss,
        rebaseline_day=rebaseline,
        shown_until=np.minimum(last_edss, last_scan),
    )


def _first_relapse(history: History, start: Floats) -> Floats:
    onset = history.relapses.onset_day.astype(np.float64)
    return _first_by_patient(history.relapses.patient, onset, onset > start[history.relapses.patient], history.n_patients)


def _scans(scans: Scans, start: Floats, rule: LabelRule) -> tuple[Floats, Floats, Floats]:
    """Each patient's scan to count from, first active scan after it, and last readable one."""
    n_patients, day = len(start), scans.day.astype(np.float64)
    earliest = start + (rule.neda_rebaseline_days - rule.neda_rebaseline_early_days)
    rebaseline = _first_by_patient(scans.patient, day, scans.readable & (day >= earliest[scans.patient]), n_patients)
    later = day > rebaseline[scans.patient]
    last = -_first_by_patient(scans.patient, -day, scans.readable & later, n_patients)
    return rebaseline, _first_by_patient(scans.patient, day, scans.active & later, n_patients), last


def _worsening(history: History, start: Floats, rule: LabelRule) -> tuple[Floats, tuple[Floats, Floats, Floats], Floats]:
    """Day of each patient's first CDP; its confirmation day, reference and EDSS; and the last day with an EDSS."""
    visits = series(history, "edss", since=start)
    changes = find_changes(visits, relapse_times(history.relapses, rule), rule, "edss")
    worse = np.flatnonzero(changes.direction == CDP)
    patient, first = np.unique(changes.patient[worse], return_index=True)
    at = worse[first]
    event = changes.event_at[at]
    found = (visits.day[event], visits.day[changes.confirm_at[at]], changes.reference[at], visits.value[event])
    columns = np.full((4, history.n_patients), np.nan)
    columns[:, patient] = np.stack(found)
    return columns[0], (columns[1], columns[2], columns[3]), visits.last_day


def _first_by_patient(patient: Ints, day: Floats, chosen: Bools, n_patients: int) -> Floats:
    first = np.full(n_patients, np.inf)
    np.minimum.at(first, patient[chosen], day[chosen])
    return np.where(np.isinf(first), np.nan, first)
