"""The last visits of the lookback as steps of a sequence, from a `Past` alone; `extras.VISITS` declares them.

Step 1 is the last visit. What lies between two visits (relapses, lesions) belongs to the later one; before the first of them it is
the year before it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from tasks.episodes.extras import STEPS
from tasks.episodes.known import Known, Named
from tasks.episodes.past import Bools, Floats, Ints, numbers, texts
from tasks.episodes.routine import LOOKBACK_D, NO_THERAPY, YEAR_D
from tasks.labels.history import series
from tasks.labels.rule import Outcome

FAR: Final = 10_000_000  # days of two episodes are further apart than any window
MEASURED: Final[dict[str, Outcome]] = {"edss": "edss", "t25fw_s": "t25fw", "sdmt_n": "sdmt"}
HIGH: Final = ("high", "induction")


def visit_inputs(of: Known) -> Named:
    """Every input of `extras.VISITS`, (n_episodes,) each; NaN where there is no such visit, or it was not measured."""
    days = _visit_days(of)
    since = np.where(np.isnan(days[:, 1:]), days[:, :-1] - YEAR_D, days[:, 1:])
    days = days[:, :-1]
    found = {
        "days": of.t0[:, None] - days,
        **{name: _measured(of, days, outcome) for name, outcome in MEASURED.items()},
        **_relapses(of, days, since),
        **_therapies(of, days),
        **_lesions(of, days, since),
    }
    there = ~np.isnan(days)
    return {
        f"v{step + 1}_{name}": np.where(there, values, np.nan)[:, step] for name, values in found.items() for step in range(STEPS)
    }


def _clock(owner: Ints, day: Floats) -> Floats:
    """One ascending number for episode and day; NaN for no day."""
    return owner * float(FAR) + day


def _visit_days(of: Known) -> Floats:
    """(n_episodes, STEPS + 1): days with a visit, the last first, NaN where there are no more."""
    found = np.full((of.n, STEPS + 1), np.nan)
    rows = of.rows("visits")
    if rows is None:
        return found
    recent = of.ago(rows) < LOOKBACK_D
    clock = np.unique(_clock(of.owner(rows)[recent], numbers(rows, "day")[recent]))[::-1]
    owner = np.floor((clock + FAR / 2) / FAR).astype(np.int64)
    step = np.arange(len(owner)) - np.searchsorted(-owner, -owner, side="left")
    kept = step <= STEPS
    found[owner[kept], step[kept]] = (clock - owner * float(FAR))[kept]
    return found


def _at(of: Known, days: Floats) -> Floats:
    return _clock(np.arange(of.n)[:, None], days)


def _measured(of: Known, days: Floats, outcome: Outcome) -> Floats:
    """The value of each day, as the label engine reads it: two that differ are none."""
    if of.rows("visits") is None:
        return np.full(days.shape, np.nan)
    scores = series(of.history, outcome)
    when = _clock(scores.patient, scores.day.astype(np.float64))
    wanted = _at(of, days)
    if not len(when):
        return np.full(days.shape, np.nan)
    place = np.minimum(np.searchsorted(when, wanted), len(when) - 1)
    return np.where(when[place] == wanted, scores.value[place], np.nan)


def _sums(of: Known, owner: Ints, day: Floats, values: Floats, window: tuple[Floats, Floats]) -> Floats:
    """Sum of whole numbers `values` with a day in (since, until], (n_episodes, STEPS)."""
    when = _clock(owner, day)
    order = np.argsort(when, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(values[order])])
    first, last = (total[np.searchsorted(when[order], _at(of, edge), side="right")] for edge in window)
    return np.asarray(last - first)


def _relapses(of: Known, days: Floats, since: Floats) -> Named:
    rows = of.rows("relapses")
    if rows is None:
        return {"relapse": np.full(days.shape, np.nan)}
    onset = numbers(rows, "onset_day")
    return {"relapse": (_sums(of, of.owner(rows), onset, np.ones(len(rows)), (since, days)) > 0).astype(np.float64)}


def _therapies(of: Known, days: Floats) -> Named:
    rows = of.rows("treatments")
    if rows is None:
        return {name: np.full(days.shape, np.nan) for name in ("dmt", "high")}
    rows = rows[~rows["drug"].isin(NO_THERAPY)]
    high = np.isin(texts(rows, "dmt_class"), HIGH)
    return {"dmt": _going_on(of, rows, days), "high": _going_on(of, rows[high], days)}


def _going_on(of: Known, rows: pd.DataFrame, days: Floats) -> Floats:
    """Whether more of the therapies `rows` have started than have ended, on each day."""
    owner, start, end = of.owner(rows), numbers(rows, "start_day"), numbers(rows, "end_day")
    over: Bools = ~np.isnan(end)
    window = np.full(days.shape, -FAR / 4), days  # of all times
    begun = _sums(of, owner, start, np.ones(len(rows)), window)
    ended = _sums(of, owner[over], end[over], np.ones(int(over.sum())), window)
    return np.asarray(begun > ended, dtype=np.float64)


def _lesions(of: Known, days: Floats, since: Floats) -> Named:
    columns = {"new_t2": "new_t2", "gd": "gd_count"}
    rows = of.rows("mri")
    if rows is None:
        return {name: np.full(days.shape, np.nan) for name in columns}
    rows = rows[(texts(rows, "region") != "cord") & (texts(rows, "qc") != "fail")]
    owner, day = of.owner(rows), numbers(rows, "day")
    found = {}
    for name, column in columns.items():
        count = numbers(rows, column)
        read = ~np.isnan(count)
        parts = owner[read], day[read]
        readings = _sums(of, *parts, np.ones(int(read.sum())), (since, days))
        found[name] = np.where(readings > 0, _sums(of, *parts, count[read], (since, days)), np.nan)
    return found
