"""Every label of one rule, for all patients of a site, in one call without randomness, clock or network.

What follows from the rows a patient has up to a label's confirmation is in the table; what is not confirmed is censored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from tasks.labels.course import CDP, IMPR, PIRA, RAW, UND, Changes, find_changes
from tasks.labels.events import WORSENING, Events, Row, class_name, improvement_name, table
from tasks.labels.history import Bools, Floats, History, Ints, Scans, Series, series
from tasks.labels.milestones import milestones
from tasks.labels.relapse_times import RelapseTimes, key, relapse_times
from tasks.labels.rule import LabelRule, Outcome
from tasks.labels.spms import spms_transition

COMPONENTS: Final[tuple[Outcome, ...]] = ("edss", "t25fw", "nhpt")  # of the composite (Kappos 2020, PMC7281382)


@dataclass(frozen=True, eq=False)
class Labels:
    """The events of one rule, and how long each patient was under observation for it."""

    rule: LabelRule
    events: Events
    last_day: Floats = field(repr=False)  # (n_patients,) last day with the outcome, NaN if there is none: censored there


def label(history: History, rule: LabelRule) -> Labels:
    """All events of the `rule` in the `history`.

    edss: CDP and its class, PIRMA where there are scans, IMPR, EDSS3/4/6. edss with rule SPMS: SPMS. t25fw, nhpt, sdmt: the
    worsening, its class, the improvement. composite: the first worsening of EDSS, T25FW or 9HPT, each confirmed by itself,
    and its class. `LabelError` if a column that the rule needs is not there.
    """
    relapses = relapse_times(history.relapses, rule)
    if rule.outcome == "composite":
        rows, last_day = _composite(history, relapses, rule)
        return Labels(rule, table(rows, rule.rule_id), last_day)
    visits = series(history, rule.outcome)
    changes = find_changes(visits, relapses, rule, rule.outcome)
    if rule.edss_rule == "SPMS":
        rows = [spms_transition(history.visits, visits, changes, rule)]
    else:
        rows = _worsening(visits, changes, rule.outcome) + _improvement(visits, changes, rule.outcome)
    if rule.outcome == "edss" and rule.edss_rule != "SPMS":
        rows += milestones(visits, relapses, rule)
        if history.scans is not None:
            rows.append(_quiet(visits, changes, history.scans))
    return Labels(rule, table(rows, rule.rule_id), visits.last_day)


def _worsening(visits: Series, changes: Changes, outcome: Outcome) -> list[Row]:
    worse = changes.direction == CDP
    rows = [_row(WORSENING[outcome], visits, changes, worse, changes.confirm_at, of_edss=outcome == "edss")]
    for code in (UND, RAW, PIRA):
        chosen = worse & (changes.relapse_class == code)
        rows.append(_row(class_name(outcome, code), visits, changes, chosen, changes.class_at, of_edss=outcome == "edss"))
    return rows


def _improvement(visits: Series, changes: Changes, outcome: Outcome) -> list[Row]:
    better = changes.direction == IMPR
    return [_row(improvement_name(outcome), visits, changes, better, changes.confirm_at, of_edss=outcome == "edss")]


def _row(name: str, visits: Series, changes: Changes, chosen: Bools, confirm_at: Ints, *, of_edss: bool) -> Row:
    return Row(
        name=name,
        patient=changes.patient[chosen],
        event_day=visits.day[changes.event_at[chosen]],
        confirm_day=visits.day[confirm_at[chosen]],
        ref_value=changes.reference[chosen],
        event_value=visits.value[changes.event_at[chosen]],
        of_edss=of_edss,
    )


def _quiet(visits: Series, changes: Changes, scans: Scans) -> Row:
    """PIRMA: a PIRA with at least one readable scan after the reference and up to the confirmation, and no active one."""
    first, last = visits.day[changes.reference_at] + 1, visits.day[changes.class_at]
    when = key(scans.patient, scans.day)
    low = np.searchsorted(when, key(changes.patient, first), side="left")
    high = np.searchsorted(when, key(changes.patient, last), side="right")
    readable, active = (np.concatenate([[0], np.cumsum(flags)]) for flags in (scans.readable, scans.active))
    quiet = (readable[high] > readable[low]) & (active[high] == active[low])
    chosen = (changes.direction == CDP) & (changes.relapse_class == PIRA) & quiet
    return _row("PIRMA", visits, changes, chosen, changes.class_at, of_edss=True)


def _composite(history: History, relapses: RelapseTimes, rule: LabelRule) -> tuple[list[Row], Floats]:
    """The first worsening of any component, and each patient's last day with any of them.

    Of two on one day, the one confirmed first, then the one first in `COMPONENTS`.
    """
    visits = [series(history, outcome) for outcome in COMPONENTS]
    found = [(known, find_changes(known, relapses, rule, outcome)) for known, outcome in zip(visits, COMPONENTS, strict=True)]
    rows = []
    for (known, changes), outcome, chosen in zip(found, COMPONENTS, _firsts(found), strict=True):
        of_edss = outcome == "edss"
        rows.append(_row("CDA", known, changes, chosen, changes.confirm_at, of_edss=of_edss))
        for code in (UND, RAW, PIRA):
            classed = chosen & (changes.relapse_class == code)
            rows.append(_row(class_name("composite", code), known, changes, classed, changes.class_at, of_edss=of_edss))
    return rows, np.fmax.reduce([known.last_day for known in visits])


def _firsts(found: Sequence[tuple[Series, Changes]]) -> list[Bools]:
    """For each component, which of its changes is the patient's first worsening of all."""
    worse = [np.flatnonzero(changes.direction == CDP) for _, changes in found]
    component = np.repeat(np.arange(len(found)), [len(places) for places in worse])
    place = np.concatenate(worse)
    patient, day, confirm = (
        np.concatenate([values[places] for values, places in zip(columns, worse, strict=True)])
        for columns in (
            [changes.patient for _, changes in found],
            [known.day[changes.event_at] for known, changes in found],
            [known.day[changes.confirm_at] for known, changes in found],
        )
    )
    order = np.lexsort((component, confirm, day, patient))
    at = order[np.unique(patient[order], return_index=True)[1]]
    return [np.isin(np.arange(len(changes.patient)), place[at[component[at] == c]]) for c, (_, changes) in enumerate(found)]
