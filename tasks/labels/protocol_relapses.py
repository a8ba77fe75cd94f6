"""Which reported relapses an examination bears out: the "protocol-defined" relapses of trials.

New symptoms are a report; a protocol asks that the examination got worse too: EDSS by half a point, one point in two
functional systems, or two points in one (ms.md 1.4). What was not examined is unknown, neither borne out nor refuted.
"""

from __future__ import annotations

import numpy as np

from tasks.labels.errors import LabelError
from tasks.labels.history import Bools, Floats, History, Ints, series
from tasks.labels.relapse_times import key, relapse_times
from tasks.labels.rule import MAX_DAYS, LabelRule

EDSS_STEP = 0.5
ONE_SYSTEM_STEP, TWO_SYSTEMS_STEP = 2.0, 1.0


def protocol_defined(history: History, rule: LabelRule, *, examined_days: int = 30, stable_days: int = 365) -> Floats:
    """For each row of `history.relapses`: 1.0 borne out, 0.0 examined and not, NaN unknown; (n_relapses,).

    Compared are the last EDSS before the onset, no more than `stable_days` old and not shielded by an earlier relapse (`rule`),
    and every visit from the onset to `examined_days` after it (trials ask for 7, registries rarely have less than 30). 0.0 needs
    that one of these visits has EDSS and all functional systems, and the visit before too. `LabelError` for lengths outside
    0..50,000 days.
    """
    for name, length in (("examined_days", examined_days), ("stable_days", stable_days)):
        if isinstance(length, bool) or not 0 <= length <= MAX_DAYS:
            raise LabelError(f"{name} is {length}, it must be a whole number of days from 0 to {MAX_DAYS}")
    before = _last_before(history, rule, stable_days)
    compared, visit = _examinations(history, examined_days)
    known = before[compared] >= 0
    compared, visit = compared[known], visit[known]
    rises, told = _compare(history, before[compared], visit)
    borne_out, examined = np.zeros(len(before), dtype=np.bool_), np.zeros(len(before), dtype=np.bool_)
    np.logical_or.at(borne_out, compared, rises)
    np.logical_or.at(examined, compared, told)
    return np.where(borne_out, 1.0, np.where(examined, 0.0, np.nan))


def _last_before(history: History, rule: LabelRule, stable_days: int) -> Ints:
    """Place in `Visits` of each relapse's visit to compare with, -1 if there is none; (n_relapses,)."""
    visits, times = series(history, "edss"), relapse_times(history.relapses, rule)
    usable = np.flatnonzero(~times.shielded(visits.patient, visits.day))
    patient, day = visits.patient[usable], visits.day[usable]
    at = np.searchsorted(key(patient, day), key(history.relapses.patient, history.relapses.onset_day), side="left") - 1
    if not len(usable):
        return np.full(len(at), -1, dtype=np.int64)
    fits = (at >= 0) & (patient[at] == history.relapses.patient) & (history.relapses.onset_day - day[at] <= stable_days)
    return np.where(fits, visits.row[usable][at], -1)


def _examinations(history: History, examined_days: int) -> tuple[Ints, Ints]:
    """Pairs (relapse, place in `Visits`) of every visit from the onset to `examined_days` later."""
    keys = key(history.visits.patient, history.visits.day)  # ascending, as visits are sorted
    onset = key(history.relapses.patient, history.relapses.onset_day)
    first, last = np.searchsorted(keys, onset, side="left"), np.searchsorted(keys, onset + examined_days, side="right")
    length = last - first
    relapse = np.repeat(np.arange(len(onset)), length)
    return relapse, first[relapse] + np.arange(len(relapse)) - np.repeat(np.cumsum(length) - length, length)


def _compare(history: History, before: Ints, after: Ints) -> tuple[Bools, Bools]:
    """Whether each visit `after` is worse than that `before` by the protocol, and whether all scores of both are known."""
    edss = history.visits.edss[after] - history.visits.edss[before]
    if history.visits.fs is None:
        return edss >= EDSS_STEP, np.zeros(len(edss), dtype=np.bool_)
    systems = history.visits.fs[after] - history.visits.fs[before]
    worse = (edss >= EDSS_STEP) | (np.sum(systems >= TWO_SYSTEMS_STEP, axis=1) >= 2) | np.any(systems >= ONE_SYSTEM_STEP, axis=1)
    return worse, ~np.isnan(edss) & ~np.isnan(systems).any(axis=1)
