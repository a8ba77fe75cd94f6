"""The label rules once more, for one patient, as plain loops: slow, and written to be read beside tasks/labels/README.md.

It shares nothing with the engine but the rule's own values. `Quirk` names each way in which pymsprog 1.0.7 differs: with all
of them on, this file must agree with pymsprog, with none of them with the engine, so that no difference stays unnamed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tasks.labels.history import History, Relapses, Scans, Visits
from tasks.labels.rule import LabelRule, Outcome

Quirk = Literal[
    "counts_again",  # the same reference gives one worsening after the other, if it does not move
    "exact_fractions",  # no tolerance for binary fractions at exactly 20 %
    "floor_by_number",  # "not lower" of an SDMT keeps the higher number, which is the better score
    "floor_on_every_move",  # "not lower than before" also where an improvement or the shield moves the reference
    "forgets_early_relapses",  # those earlier than the shield before the first visit
    "stops_without_change",  # no more search where no visit differs from the reference before a relapse
    "waits_for_a_fall",  # after an unconfirmed milestone, no other visit is tried before the score has fallen below it
]
QUIRKS: tuple[Quirk, ...] = get_args(Quirk)
EDSS_GRID = [0.0, *np.arange(1.0, 10.5, 0.5)]
LIMITS = {"t25fw": (2.0, 180.0), "nhpt": (10.0, 300.0), "sdmt": (1.0, 110.0)}


@dataclass(frozen=True)
class Patient:
    """Days and values of one outcome, relapses as (onset, end or None), scans as (day, new T2, enlarging T2, Gd+)."""

    visits: list[tuple[int, float]]
    relapses: list[tuple[int, int | None]] = field(default_factory=list)
    scans: list[tuple[int, float, float, float]] = field(default_factory=list)


@dataclass(frozen=True, order=True)
class Change:
    """A confirmed change with its days and values; `kind` is a direction or a class."""

    event_day: int
    kind: str
    confirm_day: int
    class_day: int
    ref_day: int
    ref_value: float
    event_value: float


def history_of(patients: Sequence[Patient], outcome: Outcome = "edss", *, scans: bool = False) -> History:
    """The patients as the engine's input, numbered in their order."""
    visits = [(number, day, value) for number, patient in enumerate(patients) for day, value in patient.visits]
    relapses = [(number, onset, end) for number, patient in enumerate(patients) for onset, end in patient.relapses]
    mri = [(number, *scan) for number, patient in enumerate(patients) for scan in patient.scans]
    who, day, value = _columns(visits, 3)
    edss = value if outcome == "edss" else np.full(len(who), np.nan)
    others = {name: value for name, of in (("t25fw_s", "t25fw"), ("nhpt_s", "nhpt"), ("sdmt_n", "sdmt")) if of == outcome}
    relapsing, onset, end = _columns([(a, b, math.nan if c is None else c) for a, b, c in relapses], 3)
    scanned, scan_day, new, enlarging, gd = _columns(mri, 5)
    return History(
        len(patients),
        Visits(_ints(who), _ints(day), edss, **others),
        Relapses(_ints(relapsing), _ints(onset), end),
        Scans(_ints(scanned), _ints(scan_day), new, enlarging, gd) if scans else None,
    )


def _columns(rows: Sequence[tuple[float, ...]], width: int) -> list[NDArray[np.float64]]:
    return list(np.array(rows, dtype=np.float64).reshape(len(rows), width).T)


def _ints(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return values.astype(np.int64)


def plain_changes(patient: Patient, rule: LabelRule, quirks: Collection[Quirk] = ()) -> list[Change]:
    """All confirmed changes of the patient, by day of the event."""
    visits = sorted((day, value) for day, value in patient.visits if not math.isnan(value))
    relapses = sorted(patient.relapses, key=lambda relapse: relapse[0])
    if visits and "forgets_early_relapses" in quirks:
        relapses = [relapse for relapse in relapses if relapse[0] >= visits[0][0] - rule.shield_days]
    return _Search(visits, relapses, rule, quirks).run() if visits else []


class _Search:
    def __init__(
        self,
        visits: list[tuple[int, float]],
        relapses: list[tuple[int, int | None]],
        rule: LabelRule,
        quirks: Collection[Quirk],
    ) -> None:
        self.visits, self.relapses, self.rule, self.quirks = visits, relapses, rule, quirks
        self.onsets = [onset for onset, _ in relapses]

    def run(self) -> list[Change]:
        """The reference `base` and the place `search` go forward until no visit is left."""
        visits, rule, last = self.visits, self.rule, len(self.visits) - 1
        found: dict[int, Change] = {}
        base, search, taken, reference, floor = 0, 1, None, math.nan, None
        done: set[str] = set()
        while True:
            while base <= last and self.shielded(visits[base][0]):
                base += 1
            if base >= last:
                return sorted(found.values())
            if base != taken:
                value = visits[base][1]
                reference = value if floor is None else self.worse_of(value, floor)
                done = set()
            taken, floor = base, (reference if self.floors_always() else None)
            search = max(search, base + 1)
            event = self.next_event(search, reference, done)
            relapse = next((onset for onset in self.onsets if onset > visits[base][0]), None)
            if event is None and "stops_without_change" in self.quirks:
                return sorted(found.values())
            if relapse is not None and self.passes(event, relapse):
                base = next((place for place in range(base, last + 1) if visits[place][0] >= relapse), last + 1)
                search = base + 1
                floor = reference if rule.after_relapse == "rebaseline_not_lower" else floor
                continue
            if event is None:
                return sorted(found.values())
            kind = self.kind(visits[event][1], reference) or ""
            confirmations = self.confirmations(event, reference, kind)
            if not confirmations:
                base, search = self.pass_at_once(base, event + 1, relapse)
                continue
            found[event] = self.change(base, event, confirmations, reference, kind)
            onward = confirmations[0] if rule.rebase_at == "confirmation" else event
            search = onward + 1
            if "counts_again" not in self.quirks:
                done.add(kind)
            if rule.baseline == "roving" or rule.baseline == f"roving_{kind}":
                base = onward
            base, search = self.pass_at_once(base, search, relapse)

    def passes(self, event: int | None, relapse: int) -> bool:
        """Whether the search has got beyond what may be due to the relapse."""
        if self.rule.after_relapse == "keep":
            return False
        return event is None or self.visits[event][0] > relapse + self.rule.raw_days

    def pass_at_once(self, base: int, search: int, relapse: int | None) -> tuple[int, int]:
        """With `stops_without_change` a relapse is passed here, or not at all where nothing differs later on."""
        visits = self.visits
        if "stops_without_change" not in self.quirks or self.rule.after_relapse == "keep" or search >= len(visits):
            return base, search
        if not any(visits[base][0] < onset < visits[search][0] - self.rule.raw_days for onset in self.onsets):
            return base, search
        assert relapse is not None  # the one that was just found
        after = next((place for place in range(base, len(visits)) if visits[place][0] >= relapse), len(visits))
        return after, after + 1

    def floors_always(self) -> bool:
        return "floor_on_every_move" in self.quirks and self.rule.after_relapse == "rebaseline_not_lower"

    def worse_of(self, value: float, other: float) -> float:
        lower_is_worse = self.rule.outcome == "sdmt" and "floor_by_number" not in self.quirks
        return min(value, other) if lower_is_worse else max(value, other)

    def shielded(self, day: int) -> bool:
        for onset, end in self.relapses:
            by_end = self.rule.shield == "end_day" and end is not None
            if onset <= day and (day <= end if by_end and end is not None else day < onset + self.rule.shield_days):
                return True
        return False

    def next_event(self, search: int, reference: float, done: set[str]) -> int | None:
        for place in range(search, len(self.visits)):
            day, value = self.visits[place]
            kind = self.kind(value, reference)
            too_soon = any(0 <= day - onset < self.rule.event_shield_days for onset in self.onsets)
            if kind is not None and kind not in done and not too_soon:
                return place
        return None

    def kind(self, value: float, reference: float) -> str | None:
        """Whether the value is a `worsening` or an `improvement` over the reference."""
        step, rule = self.step(reference), self.rule
        change = reference - value if rule.outcome == "sdmt" else value - reference
        tolerance = 0.0 if "exact_fractions" in self.quirks else 1e-9
        if change == 0.0 or abs(change) < step - tolerance:
            return None
        return "worsening" if change > 0 else "improvement"

    def step(self, reference: float) -> float:
        rule = self.rule
        if rule.outcome == "sdmt":
            return 4.0 if rule.sdmt_rule == "points" else min(reference / 5, 4.0)
        if rule.outcome in ("t25fw", "nhpt"):
            return reference / 5 if rule.timed_change == 0.2 else reference * rule.timed_change
        if reference == 0.0:
            return 1.0 if rule.edss_rule == "C" else 1.5
        return 1.0 if reference <= (5.0 if rule.edss_rule == "A" else 5.5) else 0.5

    def holds(self, place: int, event: int, reference: float, kind: str) -> bool:
        value, event_value = self.visits[place][1], self.visits[event][1]
        if self.rule.confirm_level == "threshold":
            return self.kind(value, reference) == kind
        up = (kind == "worsening") != (self.rule.outcome == "sdmt")
        return value >= event_value if up else value <= event_value

    def confirmations(self, event: int, reference: float, kind: str) -> list[int]:
        """Every visit that confirms the event: none, or the first one and those after it while the change holds."""
        rule, start = self.rule, self.visits[event][0]
        earliest, latest = start + rule.confirm_days - rule.confirm_early_days, start + rule.confirm_days + rule.confirm_late_days
        able = [
            place
            for place in range(event + 1, len(self.visits))
            if earliest <= self.visits[place][0] <= latest and not self.shielded(self.visits[place][0])
        ]
        if not able:
            return []
        must_hold = range(event + 1, able[0] + 1) if rule.sustained == "every_visit" else [able[0]]
        if not all(self.holds(place, event, reference, kind) for place in must_hold):
            return []
        lost = next((p for p in range(able[0] + 1, len(self.visits)) if not self.holds(p, event, reference, kind)), math.inf)
        return [place for place in able if place < lost]

    def change(self, base: int, event: int, confirmations: list[int], reference: float, kind: str) -> Change:
        day, value = self.visits[event]
        first = self.visits[confirmations[0]][0]
        class_day = first
        if kind == "worsening" and any(0 <= day - onset <= self.rule.raw_days for onset in self.onsets):
            kind = "RAW"
        elif kind == "worsening":
            free = [place for place in confirmations if self.relapse_free(base, event, place)]
            kind, class_day = ("PIRA", self.visits[free[0]][0]) if free else ("UND", first)
        else:
            kind = "IMPR"
        return Change(day, kind, first, class_day, self.visits[base][0], reference, value)

    def relapse_free(self, base: int, event: int, confirmation: int) -> bool:
        ref, prev, event_day, confirm = (self.visits[place][0] for place in (base, event - 1, event, confirmation))
        windows = {
            "mueller2023": [(event_day - 90, event_day + 30), (confirm - 90, confirm + 30)],
            "mueller2023_strict": [(ref, confirm)],
            "kappos2020": [(ref, event_day + 30), (confirm - 30, confirm + 30)],
            "cagol2022": [(event_day - 90, confirm)],
            "mueller2025": [(prev, event_day), (confirm - 30, confirm)],
            "portaccio2025": [(event_day - 90, event_day + 30)],
        }[self.rule.pira]
        return not any(low <= onset <= high for onset in self.onsets for low, high in windows)


def plain_milestone(patient: Patient, level: float, rule: LabelRule, quirks: Collection[Quirk] = ()) -> tuple[int, int] | None:
    """Event and confirmation day of the first confirmed visit at or above the level."""
    relapses = patient.relapses
    if patient.visits and "forgets_early_relapses" in quirks:
        relapses = [relapse for relapse in relapses if relapse[0] >= min(patient.visits)[0] - rule.event_shield_days]
    search = _Search(sorted(visit for visit in patient.visits if not math.isnan(visit[1])), relapses, rule, ())
    visits, place = search.visits, 0
    while place < len(visits):
        day, value = visits[place]
        too_soon = any(0 <= day - onset < rule.event_shield_days for onset in search.onsets)
        if value >= level and not too_soon:
            confirmation = _milestone_confirmation(search, place, level)
            if confirmation is not None:
                return day, confirmation
            if "waits_for_a_fall" in quirks:
                falls = (later for later in range(place + 1, len(visits)) if visits[later][1] < level)
                place = next(falls, len(visits))
        place += 1
    return None


def _milestone_confirmation(search: _Search, event: int, level: float) -> int | None:
    rule, visits = search.rule, search.visits
    for place in range(event + 1, len(visits)):
        elapsed = visits[place][0] - visits[event][0]
        if search.shielded(visits[place][0]) or elapsed < rule.confirm_days - rule.confirm_early_days:
            continue
        must_hold = visits[event + 1 : place + 1] if rule.sustained == "every_visit" else [visits[place]]
        in_time = elapsed <= rule.confirm_days + rule.confirm_late_days
        return visits[place][0] if in_time and all(value >= level for _, value in must_hold) else None
    return None


def plain_quiet(patient: Patient, change: Change) -> bool:
    """Whether a PIRA is without new lesions: a read scan after the reference, and no active one, up to its confirmation."""
    between = [scan[1:] for scan in patient.scans if change.ref_day < scan[0] <= change.class_day]
    return any(not math.isnan(new) for new, _, _ in between) and not any(count > 0 for scan in between for count in scan)


def random_patient(random: np.random.Generator, outcome: Outcome = "edss") -> Patient:
    """An invented patient: irregular visits with gaps, relapses that pass or leave something behind, drift, rater noise."""
    n_visits = int(random.integers(1, 26))
    typical = random.choice([45, 91, 182, 365])
    gaps = np.where(random.random(n_visits) < 0.06, random.integers(700, 1400, n_visits), random.gamma(6, typical / 6, n_visits))
    day = int(random.integers(-200, 200)) + np.cumsum(np.maximum(gaps.astype(np.int64), 1))
    n_relapses = random.poisson(random.choice([0.0, 1.0, 3.0]))
    onsets = sorted({int(onset) for onset in random.integers(day[0] - 250, day[-1] + 100, n_relapses)})
    ends = [onset + int(random.integers(5, 120)) if random.random() < 0.6 else None for onset in onsets]
    drift = random.choice([0.0, 0.15, 0.5]) * (day - day[0]) / 365
    bumps = np.zeros(n_visits)
    for onset in onsets:
        size, left = random.choice([0.5, 1.0, 2.0]), random.choice([0.0, 0.0, 0.5, 1.0])
        bumps += np.where((day >= onset) & (day < onset + 100), size, np.where(day >= onset + 100, left * size, 0.0))
    noise = random.choice([0.0, 0.3, 0.6]) * random.standard_normal(n_visits)
    course = random.choice([0.0, 1.0, 2.0, 3.5, 5.0, 5.5, 6.0]) + drift + bumps + noise

    def lesions() -> float:
        return float(random.choice([0, 0, 0, 1, math.nan]))

    scanned = random.integers(day[0] - 50, day[-1] + 50, random.integers(0, 6))
    scans = [(int(when), lesions(), lesions(), lesions()) for when in scanned]
    value = _on_scale(course, outcome)
    return Patient(list(zip(day.tolist(), value, strict=True)), list(zip(onsets, ends, strict=True)), scans)


def _on_scale(course: NDArray[np.float64], outcome: Outcome) -> list[float]:
    if outcome == "edss":
        return [min(EDSS_GRID, key=lambda grid: abs(grid - point)) for point in course.tolist()]
    low, high = LIMITS[outcome]
    scaled = {"t25fw": 4.0 + course, "nhpt": 18.0 + 4.0 * course, "sdmt": 60.0 - 5.0 * course}[outcome]
    digits = 0 if outcome == "sdmt" else 1
    return [round(min(max(point, low), high), digits) for point in scaled.tolist()]


def random_rule(random: np.random.Generator, outcome: Outcome = "edss") -> LabelRule:
    """Any rule: every option drawn by itself."""

    def one(*options: object) -> object:
        return options[int(random.integers(len(options)))]

    options = {
        "edss_rule": one("A", "A", "B", "C"),
        "sdmt_rule": one("points", "points_or_share"),
        "confirm_days": one(84, 168, 168, 336),
        "confirm_early_days": one(7, 30, 0),
        "confirm_late_days": one(730, 30, 0, 5000),
        "sustained": one("every_visit", "every_visit", "confirmation_visit"),
        "confirm_level": one("threshold", "threshold", "event_score"),
        "shield": one("days", "end_day"),
        "shield_days": one(30, 30, 0, 90),
        "event_shield_days": one(0, 0, 30),
        "baseline": one("roving", "roving", "roving_improvement", "roving_worsening", "fixed"),
        "rebase_at": one("confirmation", "confirmation", "event"),
        "after_relapse": one("keep", "rebaseline", "rebaseline_not_lower"),
        "raw_days": one(90, 90, 30),
        "pira": one("mueller2023", "mueller2023_strict", "kappos2020", "cagol2022", "mueller2025", "portaccio2025"),
    }
    return LabelRule(outcome=outcome, **options)  # type: ignore[arg-type]  # each option is drawn from its own words
