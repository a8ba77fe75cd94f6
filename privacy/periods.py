"""What falls into a period of a site's budget: whole days of UTC, and time that only counts forward. Pure integer arithmetic.

A period slides: at every charge, everything released in the `days` days before it counts. Two clocks tell which day it is, the
site's own and the one by which a lead dated the plan, and neither is believed alone:

- A release is as late as the latest one charged before it (`Calendar`): a clock set back moves nothing out of a period.
- "Today" is the earlier of the site's day and the plan's: a clock that runs ahead moves nothing out of a period either.
- Nothing is charged while the site's day is more than `BEHIND_MOST` before the latest known day (of the last charge or of the
  plan), so that a release cannot be dated too early, or more than `AHEAD_MOST` after it, so that one wrong clock cannot date the
  ledger years ahead. Days are numbers as of `date.toordinal`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Final

from privacy.errors import AccountingError
from privacy.events import Event, Spend, aggregate

BEHIND_MOST: Final = 1  # days; two honest clocks may differ by that much
AHEAD_MOST: Final = 31  # days; a plan that is older, with nothing charged since, is to be made anew
NEVER: Final = 0  # the day before all days


@dataclass(frozen=True)
class Dates:
    """The two days that a charge is judged by: what the site's clock says, and when the plan was made."""

    today: int
    planned: int

    @property
    def judged(self) -> int:
        """The day that periods end on."""
        return min(self.today, self.planned)

    def first_counted(self, days: int) -> int:
        """The first day that a period of so many days counts: one more than asked, for clocks that differ."""
        return self.judged - days - BEHIND_MOST

    def doubt(self, last: int) -> str:
        """Why nothing may be charged by these days after a charge on day `last`; empty if nothing speaks against it."""
        known, shown = max(last, self.planned), day_text(self.today)
        if self.today < known - BEHIND_MOST:
            return f"the clock says {shown}, but the last charge or the plan is of {day_text(known)}: set the clock"
        if self.today > known + AHEAD_MOST:
            return (
                f"the clock says {shown}, but neither the last charge nor the plan is later than {day_text(known)}: set the "
                f"clock, or ask for a plan that is less than {AHEAD_MOST} days old"
            )
        return ""


def dates(now: datetime, created: str) -> Dates:
    """Of a charge at `now` for a plan that was made at `created`, like 2026-01-31T12:00:00Z."""
    if now.tzinfo is None:
        raise AccountingError("the time has no zone: pass datetime.now(UTC)")
    return Dates(now.astimezone(UTC).date().toordinal(), day_of(created))


def day_of(time: str) -> int:
    """The day of a time as it stands in ledgers and plans. Raises `AccountingError` for one that is not on the calendar."""
    try:
        return date.fromisoformat(time[:10]).toordinal()
    except ValueError as error:
        raise AccountingError(f"{time!r} is not a time like 2026-01-31T12:00:00Z") from error


def day_text(day: int) -> str:
    return date.fromordinal(max(day, 1)).isoformat()


@dataclass
class Calendar:
    """Releases by the day they count on, which never falls. Grows with the ledger, a row for each day and kind of release."""

    last: int = NEVER
    _days: dict[int, dict[tuple[str, Event], Spend]] = field(default_factory=dict)

    def add(self, day: int, spends: Iterable[Spend]) -> None:
        """Releases that were charged on `day` by the clock of that moment."""
        self.last = max(day, self.last)
        row = self._days.setdefault(self.last, {})
        for spend in spends:
            key = (spend.population, spend.event)
            before = row[key].count if key in row else 0
            row[key] = Spend(spend.event, spend.population, before + spend.count)

    def since(self, day: int) -> tuple[Spend, ...]:
        """Everything that counts on `day` or later."""
        return aggregate(spend for at, row in self._days.items() if at >= day for spend in row.values())
