"""All confirmed changes of one outcome, found for all patients at once by one walk along the visits.

Every patient has a reference visit and a place from which the search goes on. One turn of the walk takes, for all patients
still under way, the next visit that differs enough from the reference, looks whether a later visit confirms it, and moves
reference and search. A turn moves each patient forward, so the walk ends. Nothing is imputed: a change that no visit
confirms is no change. The rules of one turn are those of the table in README.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from tasks.labels.history import Bools, Floats, Ints, Series
from tasks.labels.relapse_times import NEVER, RelapseTimes
from tasks.labels.rule import STEP_TOLERANCE, Anchor, LabelRule, Outcome, smallest_change

CELLS = 2**18  # visits (with padding) walked at a time: small enough for a processor's cache
CDP, IMPR = 1, -1  # directions
UND, RAW, PIRA = 0, 1, 2  # classes of a worsening
NONE = -1  # no such place


@dataclass(frozen=True, eq=False)
class Changes:
    """Confirmed changes, (n,) each, sorted by patient and event; every place is one in the `Series`."""

    patient: Ints
    reference_at: Ints  # the reference visit
    event_at: Ints
    confirm_at: Ints  # first confirmation
    class_at: Ints  # the confirmation that shows the class: later than `confirm_at` where only a later one is relapse-free
    reference: Floats  # the value measured against, outcome's unit; not the reference visit's where it may not fall
    direction: Ints  # CDP or IMPR
    relapse_class: Ints  # UND, RAW or PIRA of a worsening; UND for an improvement


@dataclass(frozen=True, eq=False)
class _Panel:
    """Visits of some patients as a rectangle (m, width), and by what to judge them.

    `score` rises with disability, and is NaN where there is no visit.
    """

    rule: LabelRule
    outcome: Outcome
    relapses: RelapseTimes
    patient: Ints  # (m,)
    start: Ints  # (m,) place of the first visit in the series
    count: Ints  # (m,)
    day: Ints
    score: Floats
    barred: Bools  # not usable as reference or confirmation
    eventless: Bools  # not usable as event
    next_usable: Ints  # (m, width + 1) first place from here on usable as reference, `width` if none


@dataclass(eq=False)
class _Walk:
    """Where each patient still under way is, (k,) each; `taken` is the visit that `reference` was taken from."""

    who: Ints  # row of the panel
    base: Ints
    search: Ints
    taken: Ints
    reference: Floats
    floor: Floats  # the next reference is not lower than this
    may_worsen: Bools
    may_improve: Bools

    def keep(self, under_way: Bools) -> None:
        """Drops the patients whose walk has ended."""
        for column in fields(self):
            setattr(self, column.name, getattr(self, column.name)[under_way])


@dataclass(frozen=True, eq=False)
class _Turn:
    """What one turn sees, (k, width): which visits are worse or better than the reference by enough."""

    score: Floats
    day: Ints
    worse: Bools
    better: Bools
    place: Ints  # (width,)


def find_changes(visits: Series, relapses: RelapseTimes, rule: LabelRule, outcome: Outcome) -> Changes:
    """Confirmed worsening and improvement of `outcome`, all that the rule finds in `visits`.

    At most one worsening and one improvement against one reference. Source: README.md, and `ms.md` 1.2-1.4.
    """
    found = [changes for panel in _panels(visits, relapses, rule, outcome) for changes in _walk(panel)]
    columns = {
        column.name: np.concatenate([getattr(changes, column.name) for changes in [_no_changes(), *found]])
        for column in fields(Changes)
    }
    # A visit measured again after the reference moved past a relapse: the later measurement is the one that counts.
    turn = np.arange(len(columns["patient"]))
    order = np.lexsort((turn, columns["event_at"]))
    last = np.ones(len(order), dtype=np.bool_)
    last[:-1] = columns["event_at"][order][1:] != columns["event_at"][order][:-1]
    return Changes(**{name: values[order[last]] for name, values in columns.items()})


def _panels(visits: Series, relapses: RelapseTimes, rule: LabelRule, outcome: Outcome) -> Iterator[_Panel]:
    """Patients with two visits or more, those with about as many together, so that little of a rectangle is padding."""
    eligible = np.flatnonzero(visits.count >= 2)
    eligible = eligible[np.argsort(visits.count[eligible], kind="stable")]
    while len(eligible):
        widths = visits.count[eligible]
        fits = max(1, int(np.searchsorted(widths * np.arange(1, len(widths) + 1), CELLS, side="right")))
        yield _panel(visits, eligible[:fits], relapses=relapses, rule=rule, outcome=outcome)
        eligible = eligible[fits:]


def _panel(visits: Series, patients: Ints, *, relapses: RelapseTimes, rule: LabelRule, outcome: Outcome) -> _Panel:
    sign = -1.0 if outcome == "sdmt" else 1.0
    count = visits.count[patients]
    width = int(count.max())
    place = np.arange(width)
    inside = place < count[:, None]
    at = np.where(inside, visits.start[patients][:, None] + place, 0)
    day = np.where(inside, visits.day[at], NEVER)
    who = np.broadcast_to(patients[:, None], day.shape)
    barred = ~inside | relapses.shielded(who, day)
    usable = np.where(barred, width, place)
    next_usable = np.full((len(patients), width + 1), width)
    next_usable[:, :-1] = np.minimum.accumulate(usable[:, ::-1], axis=1)[:, ::-1]
    return _Panel(
        rule=rule,
        outcome=outcome,
        relapses=relapses,
        patient=patients,
        start=visits.start[patients],
        count=count,
        day=day,
        score=np.where(inside, sign * visits.value[at], np.nan),
        barred=barred,
        eventless=~inside | (relapses.since(who, day) < rule.event_shield_days),
        next_usable=next_usable,
    )


def _walk(panel: _Panel) -> Iterator[Changes]:
    m = len(panel.patient)
    walk = _Walk(
        who=np.arange(m),
        base=np.zeros(m, dtype=np.int64),
        search=np.ones(m, dtype=np.int64),
        taken=np.full(m, NONE),
        reference=np.full(m, np.nan),
        floor=np.full(m, -np.inf),
        may_worsen=np.ones(m, dtype=np.bool_),
        may_improve=np.ones(m, dtype=np.bool_),
    )
    while True:
        _settle(panel, walk)
        if not len(walk.who):
            return
        turn = _look(panel, walk)
        event = _next_event(panel, walk, turn)
        examined = ~_pass_relapse(panel, walk, event)
        ended = examined & (event == NONE)
        chosen = np.flatnonzero(examined & ~ended)
        yield _examine(panel, walk, turn, chosen, event[chosen])
        walk.keep(~ended)


def _settle(panel: _Panel, walk: _Walk) -> None:
    """Moves references out of relapses, and takes their values; a patient without a visit after the reference is done."""
    walk.base = panel.next_usable[walk.who, np.minimum(walk.base, panel.day.shape[1])]
    walk.keep(walk.base < panel.count[walk.who] - 1)
    moved = walk.base != walk.taken
    walk.reference = np.where(moved, np.maximum(panel.score[walk.who, walk.base], walk.floor), walk.reference)
    walk.taken = walk.base.copy()
    walk.floor = np.full(len(walk.who), -np.inf)
    walk.may_worsen = walk.may_worsen | moved
    walk.may_improve = walk.may_improve | moved
    walk.search = np.maximum(walk.search, walk.base + 1)


def _look(panel: _Panel, walk: _Walk) -> _Turn:
    score = panel.score[walk.who]
    step = (smallest_change(panel.rule, panel.outcome)(np.abs(walk.reference)) - STEP_TOLERANCE)[:, None]
    difference = score - walk.reference[:, None]  # NaN, so neither, where there is no visit
    return _Turn(
        score=score,
        day=panel.day[walk.who],
        worse=(difference >= step) & (difference > 0.0),  # a step of 0, 20 % of an SDMT of 0, is no change
        better=(difference <= -step) & (difference < 0.0),
        place=np.arange(score.shape[1]),
    )


def _next_event(panel: _Panel, walk: _Walk, turn: _Turn) -> Ints:
    """The first visit from the search on that differs enough, (k,), or NONE."""
    open_worse = turn.worse & walk.may_worsen[:, None]
    open_better = turn.better & walk.may_improve[:, None]
    return _first((open_worse | open_better) & (turn.place >= walk.search[:, None]) & ~panel.eventless[walk.who], absent=NONE)


def _pass_relapse(panel: _Panel, walk: _Walk, event: Ints) -> Bools:
    """Moves references past the next relapse where the search has got beyond what may be due to it; says for whom, (k,).

    Until `raw_days` after an onset a change is measured against the reference before the relapse: it may be RAW.
    """
    if panel.rule.after_relapse == "keep":
        return np.zeros(len(walk.who), dtype=np.bool_)
    day = panel.day[walk.who]
    onset = panel.relapses.next_after(panel.patient[walk.who], _take(day, walk.base))
    event_day = np.where(event == NONE, NEVER, _take(day, event))
    passes = (onset < NEVER) & (event_day > onset + panel.rule.raw_days)
    after = _first(day >= onset[:, None], absent=day.shape[1])
    walk.base = np.where(passes, after, walk.base)
    walk.search = np.where(passes, after + 1, walk.search)
    if panel.rule.after_relapse == "rebaseline_not_lower":
        walk.floor = np.where(passes, walk.reference, walk.floor)
    return passes


def _examine(panel: _Panel, walk: _Walk, turn: _Turn, chosen: Ints, event: Ints) -> Changes:
    """Confirms the events of the `chosen` rows of the walk, moves reference and search, and returns what is confirmed."""
    rule, who, rows, width = panel.rule, walk.who[chosen], np.arange(len(chosen)), len(turn.place)
    worsening = turn.worse[chosen, event]
    holds = _holds(turn, rule, chosen, event, worsening)
    after = (turn.place > event[:, None]) & (turn.place < panel.count[who][:, None])
    elapsed = turn.day[chosen] - turn.day[chosen, event][:, None]
    in_time = (elapsed >= rule.confirm_days - rule.confirm_early_days) & (elapsed <= rule.confirm_days + rule.confirm_late_days)
    candidates = after & in_time & ~panel.barred[who]
    first = _first(candidates, absent=NONE)
    fails = after & ~holds
    if rule.sustained == "every_visit":
        lost = _first(fails, absent=width)
        confirmed = (first != NONE) & (first < lost)
    else:
        lost = _first(fails & (turn.place > first[:, None]), absent=width)
        confirmed = (first != NONE) & holds[rows, first]
    walk.search[chosen] = event + 1
    _move(walk, rule, chosen[confirmed], event[confirmed], first[confirmed], worsening[confirmed])
    done = chosen[confirmed]
    kept = candidates[confirmed] & (turn.place < lost[confirmed][:, None])
    return _classify(panel, walk, done, _Found(event[confirmed], first[confirmed], worsening[confirmed], kept))


def _holds(turn: _Turn, rule: LabelRule, chosen: Ints, event: Ints, worsening: Bools) -> Bools:
    """Which visits hold the change, (chosen, width)."""
    if rule.confirm_level == "threshold":
        return np.where(worsening[:, None], turn.worse[chosen], turn.better[chosen])
    score = turn.score[chosen]
    level = turn.score[chosen, event][:, None]
    return np.where(worsening[:, None], score >= level, score <= level)


def _move(walk: _Walk, rule: LabelRule, done: Ints, event: Ints, confirmation: Ints, worsening: Bools) -> None:
    """After a confirmed change: the search goes on from the confirmation or event, and a roving reference moves there."""
    onward = confirmation if rule.rebase_at == "confirmation" else event
    walk.search[done] = onward + 1
    walk.may_worsen[done] &= ~worsening
    walk.may_improve[done] &= worsening
    roves = {
        "roving": np.ones_like(worsening),
        "roving_worsening": worsening,
        "roving_improvement": ~worsening,
        "fixed": np.zeros_like(worsening),
    }[rule.baseline]
    walk.base[done[roves]] = onward[roves]


@dataclass(frozen=True, eq=False)
class _Found:
    """Confirmed changes of one turn, (c,): visits by place, and which visits confirm them, (c, width)."""

    event: Ints
    confirmation: Ints
    worsening: Bools
    confirms: Bools


def _classify(panel: _Panel, walk: _Walk, done: Ints, found: _Found) -> Changes:
    who, relapses = walk.who[done], panel.relapses
    patient, day = panel.patient[who], panel.day[who]
    raw = found.worsening & (relapses.since(patient, _take(day, found.event)) <= panel.rule.raw_days)
    free = found.confirms & (found.worsening & ~raw)[:, None]
    row, candidate = np.nonzero(free)
    anchors: dict[Anchor, Ints] = {
        "reference": _take(day, walk.taken[done])[row],
        "previous": _take(day, np.maximum(found.event - 1, 0))[row],
        "event": _take(day, found.event)[row],
        "confirmation": day[row, candidate],
    }
    for window in panel.rule.windows:
        first, last = anchors[window.start] + window.start_days, anchors[window.end] + window.end_days
        free[row, candidate] &= ~relapses.any_within(patient[row], first, last)
    shown = _first(free, absent=NONE)
    relapse_class = np.where(raw, RAW, np.where(shown != NONE, PIRA, UND))
    start = panel.start[who]
    return Changes(
        patient=patient,
        reference_at=start + walk.taken[done],
        event_at=start + found.event,
        confirm_at=start + found.confirmation,
        class_at=start + np.where(relapse_class == PIRA, shown, found.confirmation),
        reference=np.abs(walk.reference[done]),
        direction=np.where(found.worsening, CDP, IMPR),
        relapse_class=relapse_class,
    )


def _first(cells: Bools, *, absent: int) -> Ints:
    """Column of the first True of each row, `absent` where there is none."""
    at = np.argmax(cells, axis=1)
    return np.where(cells[np.arange(len(cells)), at], at, absent)


def _take(cells: Ints, place: Ints) -> Ints:
    """The cell of each row at its place."""
    return cells[np.arange(len(cells)), place]


def _no_changes() -> Changes:
    whole = np.zeros(0, dtype=np.int64)
    return Changes(whole, whole, whole, whole, whole, np.zeros(0), whole, whole)
