"""Who is treated with what, when and why: by indication (the sicker get more) or by lot. Every choice is kept with its chance.

Confounding by indication is made here and nowhere else: the log odds of high efficacy rise with what the physician sees.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import special

from tasks.simulator import parameters as p
from tasks.simulator.hazards import Situation, yearly_chance
from tasks.simulator.people import People
from tasks.simulator.presets import Assignment, Scenario
from tasks.simulator.streams import Flags, Floats, Integers


@dataclass(frozen=True)
class Seen:
    """What a physician sees of each patient. Arrays (n,)."""

    relapses_year: Integers
    relapsed_now: Flags  # within four weeks
    relapsed_half_year: Flags
    new_lesions: Integers  # within 12 weeks


@dataclass(frozen=True)
class Moment:
    """The beginning of a tick, and all patients then."""

    day: int
    year: Floats  # (n,) calendar time
    at: Situation
    seen: Seen


@dataclass(frozen=True)
class Choice:
    """Who begins which class, why, with which chance it was high efficacy, and why what they had is stopped. Arrays (n,)."""

    who: Flags
    dmt_class: Integers
    reason_start: str
    high_chance: Floats
    reason_stop: str = ""


@dataclass(frozen=True)
class Treatments:
    """All treatments, by patient and start. Arrays (n_treatments,); `at` is the situation in which each was chosen."""

    patient: Integers
    start_day: Integers
    end_day: Floats  # NaN = still taken
    dmt_class: Integers
    drug: tuple[tuple[str, str, float, float], ...]  # name, ATC, dose mg, interval days
    reason_start: tuple[str, ...]
    reason_stop: tuple[str, ...]  # "" = still taken
    high_chance: Floats  # of high efficacy when it was chosen, NaN where there was no choice
    at: Situation


@dataclass
class _Row:
    patient: int
    start_day: int
    dmt_class: int
    drug: tuple[str, str, float, float]
    reason_start: str
    high_chance: float
    end_day: float = float("nan")
    reason_stop: str = ""


@dataclass
class Policy:
    """The treatments of a site's patients, decided tick by tick."""

    people: People
    scenario: Scenario
    rng: np.random.Generator
    dmt_class: Integers = field(init=False)
    _row: Integers = field(init=False)  # (n,) number of the running row, -1 = none
    _ever: Flags = field(init=False)
    _natalizumab: Flags = field(init=False)
    _rows: list[_Row] = field(init=False, default_factory=list)
    _at: list[Situation] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.dmt_class = np.full(self.people.n, p.NONE)
        self._row = np.full(self.people.n, -1)
        self._ever = np.zeros(self.people.n, bool)
        self._natalizumab = np.zeros(self.people.n, bool)

    def decide(self, day: int, at: Situation, seen: Seen, present: Flags) -> None:
        """All decisions of one tick; each patient has at most one."""
        now = Moment(day, self.people.index_year + day / p.YEAR, at, seen)
        untreated = present & (self.dmt_class == p.NONE)
        starts = untreated & (self.rng.random(present.size) < yearly_chance(self._start_rate(at, seen)))
        if self.scenario.assignment is Assignment.RANDOMISED:
            by_lot = np.where(self.rng.random(present.size) < 0.5, p.HIGH, p.PLATFORM)
            self._start(now, Choice(starts & ~self._ever, by_lot, "naive", np.full(present.size, 0.5)))
            return
        chance = self._high_chance(now)
        first, again = self._first_class(now, chance), starts & self._ever
        self._start(now, Choice(starts & ~again, first, "naive", chance))
        self._start(now, Choice(again, first, "switch_other", chance))
        self._change(now, present & ~starts, chance)

    def _start_rate(self, at: Situation, seen: Seen) -> Floats:
        rate = np.where(seen.relapsed_half_year, p.FIRST_START_AFTER_RELAPSE, 1.0) * p.FIRST_START_A_YEAR
        for phenotype, slow in p.FIRST_START_PROGRESSIVE.items():
            rate = np.where(at.phenotype == phenotype, slow, rate)
        return np.where(self._ever, rate * p.RESTART, rate)

    def _high_chance(self, now: Moment) -> Floats:
        """Chance of high efficacy, by indication and era (section 2.3)."""
        seen, age = now.seen, now.at.age
        reasons = {"gd": np.minimum(seen.new_lesions, 3), "relapse": np.minimum(seen.relapses_year, 3), "age": age}
        odds = special.logit(self.people.profile.high_first) + p.HIGH_ERA * (now.year - p.HIGH_ERA_YEAR)
        for name, value in reasons.items():
            odds = odds + p.INDICATION[name] * (value - p.USUAL[name])
        return np.where(now.at.phenotype >= p.SPMS, p.PROGRESSIVE_HIGH, special.expit(odds))

    def _first_class(self, now: Moment, chance: Floats) -> Integers:
        n = chance.size
        low = np.where((self.rng.random(n) < p.MODERATE_SHARE) & (now.year >= p.MODERATE_FROM_YEAR), p.MODERATE, p.PLATFORM)
        return np.where(self.rng.random(n) < chance, self._high_or_induction(now), low)

    def _high_or_induction(self, now: Moment) -> Integers:
        may_be_induced = (now.year >= p.INDUCTION_FROM_YEAR) & (now.at.phenotype <= p.RRMS)
        induced = (self.rng.random(now.year.size) < p.INDUCTION_SHARE) & may_be_induced
        return np.where(induced, p.INDUCTION, p.HIGH)

    def _change(self, now: Moment, present: Flags, chance: Floats) -> None:
        """Escalation after activity, changes for other reasons, stops: in this order, one of them."""
        n, draw, had = chance.size, self.rng.random, self.dmt_class.copy()
        treated = present & (had >= p.PLATFORM) & (had <= p.HIGH)
        escalated = treated & (had != p.HIGH) & self._active(now.seen) & (draw(n) < self.people.profile.escalation)
        up = np.where((had == p.MODERATE) | (draw(n) < chance), self._high_or_induction(now), p.MODERATE)
        up = np.where((up == p.MODERATE) & (now.year < p.MODERATE_FROM_YEAR), p.HIGH, up)
        jcv = treated & ~escalated & self._natalizumab & (draw(n) < yearly_chance(p.JCV_SWITCH))
        intolerant = treated & ~escalated & ~jcv & (draw(n) < yearly_chance(p.SWITCH_TOLERABILITY))
        rest = treated & ~(escalated | jcv | intolerant)
        stops = rest & (draw(n) < yearly_chance(p.STOP))
        pregnant = rest & ~stops & self.people.women & (now.at.age < p.PREGNANCY_AGE) & (draw(n) < yearly_chance(p.PREGNANCY_STOP))
        no_choice = np.full(n, np.nan)
        self._start(now, Choice(escalated, up, "escalation", chance, "inefficacy"))
        self._start(now, Choice(jcv, had, "switch_other", no_choice, "jcv"))
        self._start(now, Choice(intolerant, had, "switch_tolerability", no_choice, "adverse"))
        self._stop(now.day, stops, "preference")
        self._stop(now.day, pregnant, "pregnancy")

    def _active(self, seen: Seen) -> Flags:
        """Whose activity comes to a decision now."""
        n = seen.new_lesions.size
        by_relapse = seen.relapsed_now & (self.rng.random(n) < p.ESCALATION_SEEN["relapse"])
        by_scan = (seen.new_lesions >= p.MRI_ACTIVITY_LESIONS) & (self.rng.random(n) < p.ESCALATION_SEEN["mri"] / p.GD_TICKS)
        return by_relapse | by_scan

    def _start(self, now: Moment, choice: Choice) -> None:
        numbers = np.flatnonzero(choice.who)
        begins = now.day + self.rng.integers(0, 7, numbers.size)
        self._at.append(_some(now.at, numbers))
        for i, begin in zip(numbers.tolist(), begins.tolist(), strict=True):
            dmt_class = int(choice.dmt_class[i])
            before = self._rows[self._row[i]].drug[0] if self._row[i] >= 0 else ""
            self._close(i, begin - p.GAP_D[self.dmt_class[i]], choice.reason_stop)
            drug = self._drug(dmt_class, float(now.year[i]), before, progressive=bool(now.at.phenotype[i] == p.SPMS))
            self._row[i] = len(self._rows)
            self._rows.append(_Row(i, begin, dmt_class, drug, choice.reason_start, float(choice.high_chance[i])))
            self._natalizumab[i] = drug[0] == "natalizumab"
            if dmt_class == p.INDUCTION:
                self._rows[-1].end_day, self._rows[-1].reason_stop = begin + p.INDUCTION_COURSE_D, "end_of_course"
        self.dmt_class[numbers], self._ever[numbers] = choice.dmt_class[numbers], True

    def _stop(self, day: int, who: Flags, reason: str) -> None:
        for i in np.flatnonzero(who).tolist():
            self._close(i, day, reason)
            self._row[i] = -1
        self.dmt_class[who], self._natalizumab[who] = p.NONE, False

    def _close(self, patient: int, day: int, reason: str) -> None:
        if self._row[patient] >= 0:
            row = self._rows[self._row[patient]]
            row.end_day, row.reason_stop = max(day, row.start_day + 1), reason

    def _drug(self, dmt_class: int, year: float, before: str, *, progressive: bool) -> tuple[str, str, float, float]:
        """A drug of the class that the calendar has, another one than before."""
        offered = [drug for drug in p.DRUGS[dmt_class] if drug[1] <= year and drug[0] != before]
        if progressive and (fitting := [drug for drug in offered if drug[0] == "siponimod"]):
            offered = fitting
        offered = offered or [drug for drug in p.DRUGS[dmt_class] if drug[0] != before][:1]
        weights = np.cumsum([drug[5] for drug in offered])
        name, _, atc, dose, interval, _ = offered[int(np.searchsorted(weights, self.rng.random() * weights[-1]))]
        return name, atc, dose, interval

    def finish(self, end_day: Integers) -> Treatments:
        """Everything that began in follow-up; what was to end later is still taken."""
        at = _joined(self._at, self.people)
        patient = np.array([row.patient for row in self._rows], dtype=np.int64)
        start = np.array([row.start_day for row in self._rows], dtype=np.int64)
        kept = np.flatnonzero(start <= end_day[patient])
        order = kept[np.lexsort((start[kept], patient[kept]))]
        rows = [self._rows[i] for i in order]
        end = np.array([row.end_day for row in rows], dtype=np.float64)
        open_ = ~(end <= end_day[patient[order]])
        return Treatments(
            patient=patient[order],
            start_day=start[order],
            end_day=np.where(open_, np.nan, end),
            dmt_class=np.array([row.dmt_class for row in rows], dtype=np.int64),
            drug=tuple(row.drug for row in rows),
            reason_start=tuple(row.reason_start for row in rows),
            reason_stop=tuple("" if still else row.reason_stop for row, still in zip(rows, open_, strict=True)),
            high_chance=np.array([row.high_chance for row in rows], dtype=np.float64),
            at=_some(at, order),
        )


ARRAYS = ("age", "duration", "phenotype", "disability", "women", "relapse_frailty", "progression_frailty", "active")


def _some(at: Situation, numbers: Integers) -> Situation:
    """The situation of some patients, copied."""
    return replace(at, **{name: getattr(at, name)[numbers].copy() for name in ARRAYS})


def _joined(parts: list[Situation], people: People) -> Situation:
    profile = people.profile
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) if parts else np.zeros(0) for name in ARRAYS
    }
    return Situation(**arrays, pira_age=profile.pira_age, pira_factor=profile.pira_factor)
