"""Whatever clocks do, no period holds more than its limit, and nothing that was charged comes back before its time."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accountant import ENFORCE_INTERVAL, epsilon
from privacy.errors import AccountingError
from privacy.events import GaussianEvent, Spend, aggregate
from privacy.ledger import Ledger
from privacy.periods import AHEAD_MOST, BEHIND_MOST, NEVER, Calendar, Dates, dates, day_of, day_text
from privacy.policy import check_spend, parse_policy
from privacy.snapshot import read_snapshot

from .conftest import DELTA, KEY, NOW, SPLIT, TRAIN, details, make_ledger

START = 739_000  # some day
DAYS = 30
MOST = 4  # releases in a period: counting stands for epsilon, both only grow with what is in a period
STEPS = st.lists(st.integers(0, 12), min_size=1, max_size=60)  # days between two wishes to charge
DRIFT = st.lists(st.integers(0, 400), min_size=60, max_size=60)
LIES = st.lists(st.integers(-400, 400), min_size=60, max_size=60)


def charged_days(steps: Sequence[int], clock: Sequence[int], plans: Sequence[int]) -> list[int]:
    """True days of the charges that are let through: `clock` and `plans` say how far the two dates are off."""
    calendar, true, found = Calendar(), START, list[int]()
    for step, off, made in zip(steps, clock, plans, strict=False):
        true += step
        now = Dates(true + off, true + made)
        held = sum(spend.count for spend in calendar.since(now.first_counted(DAYS)))
        if held < MOST and not now.doubt(calendar.last):
            calendar.add(now.today, (TRAIN,))
            found.append(true)
    return found


def fullest(days: Sequence[int]) -> int:
    """The most charges in any `DAYS` true days."""
    return max((sum(day - DAYS < other <= day for other in days) for day in days), default=0)


@settings(max_examples=300, deadline=None)
@given(STEPS, LIES)
def test_with_a_right_clock_no_plans_date_lets_a_period_hold_more_than_its_limit(steps: list[int], plans: list[int]) -> None:
    assert fullest(charged_days(steps, [0] * len(steps), plans)) <= MOST


@settings(max_examples=300, deadline=None)
@given(STEPS, DRIFT, st.lists(st.integers(-40, 0), min_size=60, max_size=60))
def test_a_clock_that_runs_ahead_frees_no_budget(steps: list[int], ahead: list[int], plans: list[int]) -> None:
    """The lead's date is not later than the truth; the site's clock jumps forward at will."""
    assert fullest(charged_days(steps, ahead, plans)) <= MOST


@settings(max_examples=300, deadline=None)
@given(STEPS, st.lists(st.integers(-BEHIND_MOST, BEHIND_MOST), min_size=60, max_size=60))
def test_clocks_that_differ_by_a_day_change_no_limit(steps: list[int], off: list[int]) -> None:
    assert fullest(charged_days(steps, off, [0] * len(steps))) <= MOST


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(-2_000, -BEHIND_MOST - 1))
def test_a_clock_that_was_set_back_charges_nothing_for_a_new_plan(steps: list[int], back: int) -> None:
    assert charged_days(steps, [back] * len(steps), [0] * len(steps)) == []


@settings(max_examples=200, deadline=None)
@given(STEPS, DRIFT, st.integers(-3_000, 3_000))
def test_one_wrong_clock_dates_no_charge_more_than_a_month_ahead(steps: list[int], clock: list[int], jump: int) -> None:
    """Whatever the clock says, the ledger's day stays within a month of the plan's or of the charge before."""
    calendar, true = Calendar(), START
    for step, off in zip(steps, clock, strict=False):
        true += step
        now = Dates(true + off + jump, true)
        if not now.doubt(calendar.last):
            before = max(calendar.last, true)
            calendar.add(now.today, (TRAIN,))
            assert before - BEHIND_MOST <= calendar.last <= before + AHEAD_MOST


ENTRIES = st.lists(
    st.tuples(st.integers(1, 3_650_000), st.sampled_from((1.0, 8.0, 20.0)), st.sampled_from(("train", "held_out", "all"))),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(ENTRIES, st.integers(-10, 3_660_000), st.integers(0, 400))
def test_a_period_never_holds_more_than_the_total_and_an_earlier_start_never_less(
    entries: list[tuple[int, float, str]], day: int, earlier: int
) -> None:
    calendar, everything = Calendar(), list[Spend]()
    for when, noise, population in entries:
        spend = Spend(GaussianEvent(noise), population)  # type: ignore[arg-type]  # one of three
        calendar.add(when, (spend,))
        everything.append(spend)
    assert calendar.since(NEVER) == aggregate(everything)
    assert calendar.last == max((when for when, _, _ in entries), default=NEVER)
    window, wider, total = (
        epsilon(spends, DELTA, interval=ENFORCE_INTERVAL)
        for spends in (calendar.since(day), calendar.since(day - earlier), everything)
    )
    assert window <= wider <= total


@settings(max_examples=200, deadline=None)
@given(ENTRIES, st.integers(1, 3_650_000))
def test_a_charge_counts_from_its_own_day_or_later_and_never_leaves_early(entries: list[tuple[int, float, str]], when: int) -> None:
    calendar = Calendar()
    for before, noise, _ in entries:
        calendar.add(before, (Spend(GaussianEvent(noise), "train"),))
    mark = Spend(GaussianEvent(3.5), "train")
    calendar.add(when, (mark,))
    assert mark in calendar.since(when), "a clock set back dates it with the charge before"
    for after, noise, _ in entries:
        calendar.add(after, (Spend(GaussianEvent(noise), "train"),))
    assert mark in calendar.since(when), "nothing that comes later moves it"


def test_a_ledger_written_with_clocks_that_jump_is_dated_as_this_file_says(tmp_path: Path) -> None:
    path = make_ledger(tmp_path)
    offsets = (0, -400, 10, 3, 500, 0)
    with Ledger.open(path, KEY, NOW) as ledger:
        for number, offset in enumerate(offsets, 1):
            ledger.spend(details(number), (TRAIN,), NOW + timedelta(days=offset))
        live = [ledger.spends_since(NOW.toordinal() + day) for day in (0, 1, 10, 11, 500, 501)]
        assert ledger.last_day == NOW.toordinal() + 500
    snapshot = read_snapshot(path, KEY.public)
    with Ledger.open(path, KEY, NOW) as again:
        for other in (again, snapshot):
            assert [other.spends_since(NOW.toordinal() + day) for day in (0, 1, 10, 11, 500, 501)] == live
            assert (other.last_day, other.population) == (NOW.toordinal() + 500, "ms-clinic")
    assert [sum(spend.count for spend in spends) for spends in live] == [6, 4, 4, 2, 2, 0]


def test_reopening_a_ledger_under_a_wrong_clock_gives_nothing_back(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=20)
    year = {"population": "ms-clinic", "days": 365, "epsilon": 2.0}
    policy = parse_policy({"version": 2, "budget_epsilon": 50, "max_epsilon_per_plan": 50, "budget_periods": [year]})
    day = NOW.toordinal()
    for clock in (-4_000, -30, 0, 20, 300, 4_000):
        with Ledger.open(path, KEY, NOW + timedelta(days=clock)) as ledger:
            found = check_spend(policy, ledger, (TRAIN,), DELTA, SPLIT, dates=Dates(day + clock, day))
        assert found is not None
        assert found.code in ("period-exceeded", "clock-doubtful")


def test_days_are_those_of_utc() -> None:
    late = datetime.fromisoformat("2026-12-31T23:30:00-05:00")
    assert dates(late, "2026-12-31T23:59:59Z") == Dates(day_of("2027-01-01T00:00:00Z"), day_of("2026-12-31T00:00:00Z"))
    assert day_text(day_of("2028-02-29T12:00:00Z")) == "2028-02-29"
    with pytest.raises(AccountingError, match="zone"):
        dates(datetime(2026, 1, 1), "2026-12-31T23:59:59Z")
    with pytest.raises(AccountingError, match="not a time"):
        dates(datetime(2026, 1, 1, tzinfo=UTC), "2026-02-30T00:00:00Z")
