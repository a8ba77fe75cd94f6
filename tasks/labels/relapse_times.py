"""Questions about a patient's relapses, answered for many patients and days at once.

Every onset is one key, patient * SPAN + day, in one sorted array, so that a question is a binary search and no patient's
relapses can answer another's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.labels.history import Bools, Floats, Ints, Relapses
from tasks.labels.rule import MAX_DAYS, LabelRule

SPAN = 2**22  # > 2 * (largest day + longest window) on either side
MIDDLE = 2**21
NEVER = 4 * MAX_DAYS  # later than any day and any window


@dataclass(frozen=True, eq=False)
class RelapseTimes:
    """Sorted keys of onsets, and per onset the first day on which a visit is usable again, counted from this and earlier ones."""

    onsets: Ints  # (n_relapses,) keys
    usable: Ints  # (n_relapses,) keys

    def since(self, patient: Ints, day: Ints) -> Ints:
        """Days since the last onset on or before `day`, `NEVER` if there is none; the shape of `day`."""
        at = np.searchsorted(self.onsets, key(patient, day), side="right") - 1
        distance = key(patient, day) - self.onsets[at] if len(self.onsets) else np.full(np.shape(day), NEVER)
        return np.where((at >= 0) & (distance <= 2 * MAX_DAYS), distance, NEVER)

    def shielded(self, patient: Ints, day: Ints) -> Bools:
        """Whether a visit on `day` is too soon after a relapse to be a reference or a confirmation."""
        if not len(self.onsets):
            return np.zeros(np.shape(day), dtype=np.bool_)
        at = np.searchsorted(self.onsets, key(patient, day), side="right") - 1
        return (at >= 0) & (key(patient, day) < self.usable[at])

    def next_after(self, patient: Ints, day: Ints) -> Ints:
        """The patient's first onset after `day`, `NEVER` if there is none."""
        if not len(self.onsets):
            return np.full(np.shape(day), NEVER)
        at = np.searchsorted(self.onsets, key(patient, day), side="right")
        onset = self.onsets[np.minimum(at, len(self.onsets) - 1)] - key(patient, np.zeros_like(day))
        return np.where((at < len(self.onsets)) & (onset <= MAX_DAYS), onset, NEVER)

    def any_within(self, patient: Ints, first: Ints, last: Ints) -> Bools:
        """Whether the patient has an onset from `first` to `last`, both included."""
        before = np.searchsorted(self.onsets, key(patient, first), side="left")
        until = np.searchsorted(self.onsets, key(patient, last), side="right")
        return until > before


def key(patient: Ints, day: Ints) -> Ints:
    """The place of a patient's day on the one axis of all patients."""
    return patient * SPAN + day + MIDDLE


def relapse_times(relapses: Relapses, rule: LabelRule) -> RelapseTimes:
    """The relapses as keys, with the rule's shield: up to `shield_days` after onset, or to the end where it is known."""
    usable: Floats = relapses.onset_day.astype(np.float64) + rule.shield_days
    if rule.shield == "end_day" and relapses.end_day is not None:
        usable = np.where(np.isnan(relapses.end_day), usable, relapses.end_day + 1.0)
    # A long relapse may outlast a later one: the running maximum, which cannot leave the patient, whose keys are apart.
    latest = np.maximum.accumulate(key(relapses.patient, usable.astype(np.int64)))
    return RelapseTimes(onsets=key(relapses.patient, relapses.onset_day), usable=latest)
