"""The transition to secondary progression by the objective rule of Lorscheider 2016 (Brain 139:2395).

A worsening without relapse (class PIRA of the label rule) from EDSS 3 or above to 4 or above, with a pyramidal score of 2 or
above at the event, confirmed, in the leading functional system too. What is not recorded does not count as fulfilled.
Which system leads, and how it is held, follows the package MSoutcomes of that paper's group (CRAN, function spmsDx).
"""

from __future__ import annotations

import numpy as np

from tasks.labels.course import CDP, PIRA, Changes
from tasks.labels.errors import LabelError
from tasks.labels.events import Row
from tasks.labels.history import PYRAMIDAL, Bools, Floats, Ints, Series, Visits
from tasks.labels.rule import LabelRule

LOWEST_REFERENCE = 3.0
LOWEST_EDSS = 4.0
LOWEST_PYRAMIDAL = 2.0


def spms_transition(known: Visits, visits: Series, changes: Changes, rule: LabelRule) -> Row:
    """The first transition of each patient, from the EDSS `visits` and their changes; `known` has the functional systems.

    `LabelError` without functional systems.
    """
    if known.fs is None:
        raise LabelError("edss_rule SPMS needs the functional systems of the visits (fs); give them, or label by another rule")
    columns = [known.fs] if known.ambulation is None else [known.fs, known.ambulation[:, None]]
    scores = np.hstack(columns)[visits.row]
    fits = (
        (changes.direction == CDP)
        & (changes.relapse_class == PIRA)
        & (changes.reference >= LOWEST_REFERENCE)
        & (visits.value[changes.event_at] >= LOWEST_EDSS)
        & (scores[changes.event_at, PYRAMIDAL] >= LOWEST_PYRAMIDAL)
    )
    if rule.leading_fs == "required":
        fits &= _leading_system_holds(scores, changes, rule)
    candidates = np.flatnonzero(fits)
    _, first = np.unique(changes.patient[candidates], return_index=True)  # changes are sorted by patient and event
    at = candidates[first]
    return Row(
        name="SPMS",
        patient=changes.patient[at],
        event_day=visits.day[changes.event_at[at]],
        confirm_day=visits.day[changes.class_at[at]],
        ref_value=changes.reference[at],
        event_value=visits.value[changes.event_at[at]],
    )


def _leading_system_holds(scores: Floats, changes: Changes, rule: LabelRule) -> Bools:
    """Whether a leading system is above its reference at the confirmation, and at every visit between (if all must hold).

    Leading is the system that rose most from reference to event; of several that rose alike, one that holds is enough. Where
    none rose, none leads.
    """
    reference = scores[changes.reference_at]
    rise = scores[changes.event_at] - reference
    known_rise = np.where(np.isnan(rise), -np.inf, rise)
    leading = (known_rise == known_rise.max(axis=1, initial=0.0, keepdims=True)) & (known_rise > 0.0)
    holds = scores[changes.class_at] > reference  # False where the confirmation has no score
    if rule.sustained == "every_visit":
        change, visit = _visits_between(changes)
        falls = scores[visit] <= reference[change]
        np.logical_and.at(holds, change, ~falls)
    return np.asarray(np.any(leading & holds, axis=1), dtype=np.bool_)


def _visits_between(changes: Changes) -> tuple[Ints, Ints]:
    """Pairs (change, place) of every visit after the event and before the confirmation."""
    length = changes.class_at - changes.event_at - 1
    change = np.repeat(np.arange(len(length)), length)
    offset = np.arange(len(change)) - np.repeat(np.cumsum(length) - length, length)
    return change, changes.event_at[change] + 1 + offset
