"""No evidence of disease activity (NEDA-3, NEDA-4) from a treatment's start on, and the day on which it is lost.

Lost by the first of: a relapse, a confirmed worsening of EDSS, an active scan; for NEDA-4 also a scan that shows more than
0.4 % of the brain lost in a year (Kappos 2016, Mult Scler 22:1297). Scans count from the one that the patient is
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

BRAIN_LOSS_PCT_Y = 0.4  # NEDA-4: more than this is activity


@dataclass(frozen=True, eq=False)
class Neda:
    """NEDA-3 or NEDA-4 of each patient, (n_patients,); days are NaN where there is none."""

    events: Events  # NEDA_loss
    loss_day: Floats = field(repr=False)
    by_relapse: Bools = field(repr=False)  # what happened on the day of loss, several may be true
    by_worsening: Bools = field(repr=False)
    by_mri: Bools = field(repr=False)
    by_brain_loss: Bools = field(repr=False)  # False for NEDA-3
    rebaseline_day: Floats = field(repr=False)  # the scan that new lesions count from
    shown_until: Floats = field(repr=False)  # last day with both EDSS and a later scan: NEDA is not known beyond it


def neda3(history: History, start_day: Floats, rule: LabelRule) -> Neda:
    """NEDA-3 after `start_day` (n_patients,), NaN for patients who are not followed; worsening is that of `rule`.

    The EDSS reference is the first usable one on or after the start. The scan to count from is the first readable one on or
    after start + `neda_rebaseline_days` - `neda_rebaseline_early_days`. `LabelError` without scans, for a start of another
    length, and for a rule whose outcome is not EDSS or whose `edss_rule` is SPMS.
    """
    return _neda(history, start_day, rule, None)


def neda4(history: History, start_day: Floats, rule: LabelRule, *, brain_loss_pct_y: float = BRAIN_LOSS_PCT_Y) -> Neda:
    """NEDA-3, and no scan after the one to count from with more than `brain_loss_pct_y` (in (0, 10]) of the brain lost in a year.

    NEDA-4 is shown only up to a scan with both lesions and brain volume. Its `rule_id` names the limit. `LabelError` as for
    `neda3`, and if no scan has a change of brain volume.
    """
    if not 0.0 < brain_loss_pct_y <= 10.0:
        raise LabelError(f"brain_loss_pct_y is {brain_loss_pct_y}, it must be a share of the brain in (0, 10] % a year")
    if history.scans is not None and np.isnan(history.scans.brain_volume).all():
        raise LabelError("NEDA-4 needs the change of brain volume of the scans (pbvc_pct_y); give it, or label NEDA-3")
    return _neda(history, start_day, rule, brain_loss_pct_y)


def _neda(history: History, start_day: Floats, rule: LabelRule, brain_loss_pct_y: float | None) -> Neda:
    if history.scans is None:
        raise LabelError("NEDA needs scans; give them, or report relapses and CDP")
    if rule.outcome != "edss" or rule.edss_rule == "SPMS":
        raise LabelError(f"NEDA needs a rule of EDSS worsening, not {rule.outcome} by rule {rule.edss_rule}")
    start = numbers("start", "start_day", start_day)
    if len(start) != history.n_patients:
        raise LabelError(f"start_day has {len(start)} days, the history {history.n_patients} patients")
    relapse = _first_relapse(history, start)
    rebaseline, active, brain_loss, last_scan = _scans(history.scans, start, rule, brain_loss_pct_y)
    worsening, row, last_edss = _worsening(history, start, rule)
    loss = np.fmin(np.fmin(relapse, worsening), np.fmin(active, brain_loss))
    at = np.flatnonzero(~np.isnan(loss))
    of_edss = worsening[at] == loss[at]
    confirm, ref, value = (np.where(of_edss, values[at], np.nan) for values in row)
    confirm_day = np.where(of_edss, confirm, loss[at]).astype(np.int64)
    lost = Row("NEDA_loss", at, loss[at].astype(np.int64), confirm_day, ref, value)
    return Neda(
        events=table([lost], rule.rule_id if brain_loss_pct_y is None else f"{rule.rule_id}+neda4-{brain_loss_pct_y:g}"),
        loss_day=loss,
        by_relapse=relapse == loss,
        by_worsening=worsening == loss,
        by_mri=active == loss,
        by_brain_loss=brain_loss == loss,
        rebaseline_day=rebaseline,
        shown_until=np.minimum(last_edss, last_scan),
    )


def _first_relapse(history: History, start: Floats) -> Floats:
    onset = history.relapses.onset_day.astype(np.float64)
    return _first_by_patient(history.relapses.patient, onset, onset > start[history.relapses.patient], history.n_patients)


def _scans(scans: Scans, start: Floats, rule: LabelRule, limit: float | None) -> tuple[Floats, Floats, Floats, Floats]:
    """Each patient's scan to count from, first active one and first with brain loss after it, and last readable one."""
    n_patients, day = len(start), scans.day.astype(np.float64)
    earliest = start + (rule.neda_rebaseline_days - rule.neda_rebaseline_early_days)
    rebaseline = _first_by_patient(scans.patient, day, scans.readable & (day >= earliest[scans.patient]), n_patients)
    later = day > rebaseline[scans.patient]
    told = scans.readable if limit is None else scans.readable & ~np.isnan(scans.brain_volume)
    shrunk = np.zeros(len(day), dtype=np.bool_) if limit is None else scans.brain_volume < -limit
    last = -_first_by_patient(scans.patient, -day, told & later, n_patients)
    active, loss = (_first_by_patient(scans.patient, day, chosen & later, n_patients) for chosen in (scans.active, shrunk))
    return rebaseline, active, loss, last


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
