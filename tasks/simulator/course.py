"""What happens to each patient of a site, four weeks at a time: relapses, silent steps, lesions, treatments, the end.

The history is the truth; what the hospital sees of it comes later and only from here. Ticks run from two years before the
first visit (only relapses, lesions and treatments move there) to the last patient's end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tasks.simulator import parameters as p
from tasks.simulator import policy
from tasks.simulator.hazards import Situation, lesion_rate, pira_hazard, relapse_hazard, residual_chance, yearly_chance
from tasks.simulator.people import NEVER, People
from tasks.simulator.presets import Scenario
from tasks.simulator.streams import Anything, Flags, Floats, Integers, pairs, stream


@dataclass(frozen=True)
class Relapses:
    """All relapses, by patient and day. Arrays (n_relapses,)."""

    patient: Integers
    day: Integers
    bump: Floats  # transient points
    residual: Floats  # points
    fades: Flags  # whether the residual goes within a year
    optic: Flags
    side: Integers  # eye of an optic neuritis


@dataclass(frozen=True)
class Steps:
    """All silent steps, by patient and day. Arrays (n_steps,)."""

    patient: Integers
    day: Integers
    jump: Floats


@dataclass(frozen=True)
class Course:
    """The whole history of a site's patients. Matrices are (n_patients, n_ticks); row i is people's patient i."""

    people: People
    scenario: Scenario
    first_day: Integers  # (n_ticks,) first day of each tick
    relapses: Relapses
    steps: Steps
    treatments: policy.Treatments
    dmt_class: Integers
    phenotype: Integers
    lesions: Integers
    relapse_hazard: Floats  # as used, per year
    pira_hazard: Floats  # as used, per year
    lasting: Floats  # disability at the tick's beginning, without what fades
    end_day: Integers  # (n_patients,)
    death_day: Floats  # (n_patients,) NaN = alive at the end
    spms_day: Floats  # (n_patients,) NaN = none in follow-up

    def tick(self, day: Integers) -> Integers:
        """Number of the tick that holds `day`."""
        return np.asarray(day // p.TICK + p.LOOK_BACK, dtype=np.int64)

    def last_relapse(self, patient: Integers, day: Integers) -> Integers:
        """Days since the last relapse at or before `day`; 10**6 and more if there is none."""
        i, j = pairs(patient, self.relapses.patient, self.people.n)
        ok = self.relapses.day[j] <= day[i]
        last = np.full(patient.size, NEVER)
        np.maximum.at(last, i[ok], self.relapses.day[j][ok])
        return np.asarray(day - last)

    def disability(self, patient: Integers, day: Integers) -> Floats:
        """True lasting disability on a day: silent steps, and residuals as far as they have not faded."""
        found = self.people.disability[patient].copy()
        i, j = pairs(patient, self.steps.patient, self.people.n)
        ok = self.steps.day[j] <= day[i]
        np.add.at(found, i[ok], self.steps.jump[j][ok])
        i, j = pairs(patient, self.relapses.patient, self.people.n)
        since = day[i] - self.relapses.day[j]
        ok = (since >= 0) & (self.relapses.day[j] >= 0) & (self.relapses.residual[j] > 0)
        left = self.relapses.residual[j] * (1 - self.relapses.fades[j] * np.clip(since / p.FADING_D, 0, 1))
        np.add.at(found, i[ok], left[ok])
        return np.clip(found, 0.0, 9.5)

    def bump(self, patient: Integers, day: Integers) -> Floats:
        """Transient worsening by relapses that are not over."""
        found = np.zeros(patient.size)
        i, j = pairs(patient, self.relapses.patient, self.people.n)
        since = day[i] - self.relapses.day[j]
        ok = (since >= 0) & (since <= 8 * p.BUMP_DECAY_D)
        np.add.at(found, i[ok], (self.relapses.bump[j] * np.exp(-since / p.BUMP_DECAY_D))[ok])
        return found

    def stepped_within(self, patient: Integers, day: Integers, *, before: int, after: int = 0) -> Flags:
        """Whether a silent step lies between `before` days before and `after` days after."""
        i, j = pairs(patient, self.steps.patient, self.people.n)
        ok = (self.steps.day[j] > day[i] - before) & (self.steps.day[j] <= day[i] + after)
        found = np.zeros(patient.size, bool)
        found[i[ok]] = True
        return found

    def lesions_before(self, patient: Integers, day: Integers, ticks: int) -> Integers:
        """New lesions in the `ticks` ticks up to the one that holds `day`."""
        sums = np.concatenate((np.zeros((self.people.n, 1), np.int64), np.cumsum(self.lesions, axis=1)), axis=1)
        end = self.tick(day) + 1
        return np.asarray(sums[patient, end] - sums[patient, np.maximum(end - ticks, 0)])


@dataclass
class _State:
    """What moves while the ticks run. Arrays (n,)."""

    disability: Floats
    phenotype: Integers
    last_relapse: Integers
    known_relapse_day: Integers
    ended: Flags
    end_day: Integers
    death_day: Floats
    spms_day: Floats
    relapsed: list[Flags] = field(default_factory=list)  # by tick
    lesions: list[Integers] = field(default_factory=list)
    kept: dict[str, list[Anything]] = field(default_factory=dict)
    events: dict[str, list[tuple[Anything, ...]]] = field(default_factory=lambda: {"relapse": [], "step": []})

    def keep(self, name: str, values: Anything) -> None:
        self.kept.setdefault(name, []).append(values.copy())

    def lately(self, history: list[Flags] | list[Integers], ticks: int) -> Integers:
        """Sum over the last `ticks` ticks."""
        found = np.zeros(self.disability.size, np.int64)
        for tick in history[-ticks:]:
            found += tick
        return found


def run_course(people: People, scenario: Scenario, seed: int) -> Course:
    """The history of one site's patients under a scenario."""
    site = people.profile.spec.site_id
    rng, choices = stream(seed, site, "course"), stream(seed, site, "treatments")
    n_ticks = int(people.end_day.max()) // p.TICK + 1 + p.LOOK_BACK
    state = _first_state(people)
    plan = policy.Policy(people, scenario, choices)
    first_days = (np.arange(n_ticks) - p.LOOK_BACK) * p.TICK
    for day in first_days:
        _advance(int(day), state, plan, rng)
    return _finished(people, scenario, first_days, state, plan)


def _first_state(people: People) -> _State:
    n = people.n
    return _State(
        disability=people.disability.copy(),
        phenotype=people.phenotype.copy(),
        last_relapse=np.full(n, NEVER),
        known_relapse_day=people.known_relapse_day,
        ended=np.zeros(n, bool),
        end_day=people.end_day.copy(),
        death_day=np.full(n, np.nan),
        spms_day=np.full(n, np.nan),
    )


def situation(people: People, day: Integers | int, disability: Floats, phenotype: Integers, active: Flags) -> Situation:
    """All patients on one day."""
    years = np.asarray(day) / p.YEAR
    return Situation(
        age=people.age + years,
        duration=people.duration + years,
        phenotype=phenotype,
        disability=disability,
        women=people.women,
        relapse_frailty=people.relapse_frailty,
        progression_frailty=people.progression_frailty,
        active=active,
        pira_age=people.profile.pira_age,
        pira_factor=people.profile.pira_factor,
    )


def _advance(day: int, state: _State, plan: policy.Policy, rng: np.random.Generator) -> None:
    """One tick from `day` on: treatment is decided at its beginning, then everything else happens under it."""
    people = plan.people
    year_lesions = state.lately(state.lesions, 13)
    active = (state.lately(state.relapsed, 13) > 0) | (year_lesions >= p.MRI_ACTIVITY_LESIONS)
    at = situation(people, day, state.disability, state.phenotype, active)
    present = (people.onset_day <= day) & ~state.ended
    seen = policy.Seen(
        relapses_year=state.lately(state.relapsed, 13),
        relapsed_now=state.lately(state.relapsed, 1) > 0,
        relapsed_half_year=state.lately(state.relapsed, 6) > 0,
        new_lesions=state.lately(state.lesions, p.GD_TICKS),
    )
    plan.decide(day, at, seen, present)
    effect, dmt = plan.scenario.effect, plan.dmt_class
    hazard_relapse, hazard_pira = relapse_hazard(at, dmt, effect), pira_hazard(at, dmt, effect)
    state.keep("relapse_hazard", hazard_relapse)
    state.keep("pira_hazard", hazard_pira)
    state.keep("lasting", state.disability)
    state.keep("phenotype", state.phenotype)
    state.keep("dmt_class", dmt)
    relapsed = _relapse(day, state, hazard_relapse, present, rng)
    _lesions(state, lesion_rate(at, dmt, effect), relapsed, present, rng)
    _silent_step(day, state, hazard_pira, present & (day >= 0), rng)
    if day >= 0:
        _leave(day, people, state, active, rng)


def _relapse(day: int, state: _State, hazard: Floats, present: Flags, rng: np.random.Generator) -> Flags:
    n, known = hazard.size, state.known_relapse_day
    certain = (known >= day) & (known < day + p.TICK)
    onset = np.where(certain, known, day + rng.integers(0, p.TICK, n))
    happens = certain | ((rng.random(n) < yearly_chance(hazard)) & present)
    happens &= (onset - state.last_relapse >= p.RELAPSE_GAP_D) & (onset <= state.end_day)
    bump = np.maximum(rng.normal(p.BUMP[0], p.BUMP[1], n), p.BUMP[2])
    residual = rng.gamma(p.RESIDUAL[0], p.RESIDUAL[1], n) * (rng.random(n) < residual_chance(state.disability))
    fades = rng.random(n) < p.FADING_SHARE
    optic, side = rng.random(n) < p.NEURITIS_A_RELAPSE, rng.integers(0, 2, n)
    who = np.flatnonzero(happens)
    state.last_relapse[who] = onset[who]
    if day >= 0:
        state.disability[who] += np.where(fades[who], 0.0, residual[who])
    state.phenotype[happens & (state.phenotype == p.CIS)] = p.RRMS
    state.events["relapse"].append((who, onset[who], bump[who], residual[who], fades[who], optic[who], side[who]))
    state.relapsed.append(happens)
    return happens


def _lesions(state: _State, rate: Floats, relapsed: Flags, present: Flags, rng: np.random.Generator) -> None:
    """A tick's new lesions come in bursts, so that a year's count has the dispersion of section 2.2."""
    shape = p.LESION_DISPERSION / p.TICKS_A_YEAR
    burst = rng.gamma(shape, 1 / shape, rate.size)
    count = rng.poisson(np.minimum(rate / p.TICKS_A_YEAR * burst, 40.0)) + relapsed * rng.poisson(p.LESION_WITH_RELAPSE, rate.size)
    state.lesions.append(np.where(present, np.minimum(count, 40), 0))


def _silent_step(day: int, state: _State, hazard: Floats, present: Flags, rng: np.random.Generator) -> None:
    """Silent worsening, and the beginning of secondary progression with it or without."""
    n = hazard.size
    when = day + rng.integers(0, p.TICK, n)
    happens = (rng.random(n) < yearly_chance(hazard)) & present & (when <= state.end_day)
    jump = np.exp(rng.normal(0, p.PIRA_JUMP_LOG_SD, n))
    jump *= np.where(state.disability >= p.DISABLED, p.PIRA_JUMP_DISABLED, p.PIRA_JUMP)
    jump += np.where(state.disability < 0.5, p.PIRA_JUMP_MILD, 0.0)
    relapsing = state.phenotype <= p.RRMS
    late = relapsing & present & (state.disability >= p.SPMS_FROM)
    with_step = happens & relapsing & (state.disability + jump >= p.SPMS_FROM + 0.5) & (rng.random(n) < p.SPMS_CHANCE)
    turns = with_step | (late & (rng.random(n) < yearly_chance(p.SPMS_RATE)))
    turns &= when <= state.end_day
    state.phenotype[turns] = p.SPMS
    state.spms_day[turns] = when[turns]
    who = np.flatnonzero(happens)
    state.disability[who] += jump[who]
    state.events["step"].append((who, when[who], jump[who]))


def _leave(day: int, people: People, state: _State, active: Flags, rng: np.random.Generator) -> None:
    """Death and drop-out; whoever leaves has no later day."""
    n = people.n
    when = day + rng.integers(1, p.TICK + 1, n)
    age = people.age + day / p.YEAR
    death = p.DEATH_RATE * np.exp(p.DEATH_AGE * (age - 40)) * p.DEATH_DISABLED ** np.maximum(state.disability - 5, 0)
    drop_out = people.profile.drop_out * np.where(active, 1.0, p.DROP_OUT_STABLE)
    drop_out *= np.where(state.disability >= p.DROP_OUT_DISABLED_FROM, p.DROP_OUT_DISABLED, 1.0)
    dies = (rng.random(n) < yearly_chance(death)) & ~state.ended & (when <= state.end_day)
    goes = (rng.random(n) < yearly_chance(drop_out)) & ~state.ended & (when <= state.end_day)
    state.death_day[dies] = when[dies]
    state.end_day[dies | goes] = when[dies | goes]
    state.ended |= dies | goes | (people.end_day < day + p.TICK)


def _finished(people: People, scenario: Scenario, first_days: Integers, state: _State, plan: policy.Policy) -> Course:
    """The course as values. What a tick drew for days after a patient's end is dropped."""

    def listed(name: str) -> tuple[Anything, ...]:
        columns = tuple(np.concatenate(column) for column in zip(*state.events[name], strict=True))
        kept = columns[1] <= state.end_day[columns[0].astype(np.int64)]
        order = np.lexsort((columns[1][kept], columns[0][kept]))
        return tuple(column[kept][order] for column in columns)

    who, day, bump, residual, fades, optic, side = listed("relapse")
    relapses = Relapses(who, day, bump, residual, fades.astype(bool), optic.astype(bool), side)
    steps = Steps(*listed("step"))
    matrices = {name: np.stack(columns, axis=1) for name, columns in state.kept.items()}
    spms = np.where(state.spms_day <= state.end_day, state.spms_day, np.nan)
    return Course(
        people=people, scenario=scenario, first_day=first_days, relapses=relapses, steps=steps,
        treatments=plan.finish(state.end_day), dmt_class=matrices["dmt_class"], phenotype=matrices["phenotype"],
        lesions=np.stack(state.lesions, axis=1), relapse_hazard=matrices["relapse_hazard"], pira_hazard=matrices["pira_hazard"],
        lasting=matrices["lasting"], end_day=state.end_day, death_day=state.death_day, spms_day=spms,
    )  # fmt: skip
