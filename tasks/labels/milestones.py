"""When a patient first reaches EDSS 3, 4 and 6 for good: reached, and still held at the confirmation."""

from __future__ import annotations

import numpy as np

from tasks.labels.events import MILESTONES, Row
from tasks.labels.history import Bools, Ints, Series
from tasks.labels.relapse_times import RelapseTimes, key
from tasks.labels.rule import LabelRule


def milestones(visits: Series, relapses: RelapseTimes, rule: LabelRule) -> list[Row]:
    """First confirmed visit with EDSS at or above each milestone, at most one a patient and milestone.

    Confirmation window, shield and `sustained` are the rule's; what is held is the milestone, whatever `confirm_level`.
    The reference is the EDSS of the visit before, NaN at a patient's first visit: the milestone was reached before.
    """
    return [_milestone(name, level, visits, relapses, rule) for name, level in MILESTONES.items()]


def _milestone(name: str, level: float, visits: Series, relapses: RelapseTimes, rule: LabelRule) -> Row:
    place = np.arange(len(visits.value))
    confirmation, confirmed = _confirmations(visits, relapses, rule)
    reached = visits.value >= level
    if rule.sustained == "every_visit":
        below = np.where(reached, len(place), place)
        next_below = np.minimum.accumulate(below[::-1])[::-1]
        confirmed &= confirmation < next_below
    else:
        confirmed &= reached[confirmation]
    early = relapses.since(visits.patient, visits.day) < rule.event_shield_days
    candidates = np.flatnonzero(reached & confirmed & ~early)
    _, first = np.unique(visits.patient[candidates], return_index=True)
    at = candidates[first]
    initial = at == visits.start[visits.patient[at]]
    return Row(
        name=name,
        patient=visits.patient[at],
        event_day=visits.day[at],
        confirm_day=visits.day[confirmation[at]],
        ref_value=np.where(initial, np.nan, visits.value[np.maximum(at - 1, 0)]),
        event_value=visits.value[at],
    )


def _confirmations(visits: Series, relapses: RelapseTimes, rule: LabelRule) -> tuple[Ints, Bools]:
    """For each visit the first one that may confirm it, and whether there is one."""
    usable = np.flatnonzero(~relapses.shielded(visits.patient, visits.day))
    if not len(usable):
        return np.zeros(len(visits.day), dtype=np.int64), np.zeros(len(visits.day), dtype=np.bool_)
    earliest = visits.day + rule.confirm_days - rule.confirm_early_days
    found = np.searchsorted(key(visits.patient, visits.day)[usable], key(visits.patient, earliest))
    at = usable[np.minimum(found, len(usable) - 1)]
    in_time = visits.day[at] <= visits.day + rule.confirm_days + rule.confirm_late_days
    return at, (found < len(usable)) & (visits.patient[at] == visits.patient) & in_time
