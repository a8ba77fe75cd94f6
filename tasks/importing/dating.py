"""Calendar dates to days of the contract, and a hospital's numbers to pseudonyms. Dates leave this module as whole days alone.

Formats: FHIR R4 `date` and `dateTime` (2015, 2015-03, 2015-03-20, 2015-03-20T23:30:00+01:00), of which OMOP's are a part.
No message holds a date or an identifier.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from tasks.importing.errors import ImportRefused
from tasks.ms.schema import PATTERNS

DATED_NAMES: Final = frozenset({"tool_version"})  # a program's version may be its date: it says nothing of a patient
SHORTEST_KEY: Final = 16  # bytes
PSEUDONYM_CHARACTERS: Final = 32  # 128 bits: two of a billion patients meet with a chance below 1e-20
_SHAPE: Final = re.compile(
    r"(?P<year>\d{4})(-(?P<month>\d{2})(-(?P<day>\d{2})"
    r"([T ](?P<time>\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?)(?P<zone>Z|[+-]\d{2}:\d{2})?)?)?)?",
    re.ASCII,
)
_WITHIN: Final = re.compile(  # 2015-03-20, 20150320, 201503201015, ses-2015_03_20, 20.03.2015; no part of another number
    r"(?<!\d)(?:(?:19|20)\d\d([-._/ ]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
    r"(?=\D|$|(?:[01]\d|2[0-3])[0-5]\d)"
    r"|(?:0?[1-9]|[12]\d|3[01])([-._/ ])(?:0?[1-9]|1[0-2])\2(?:19|20)\d\d(?!\d)"
    r"|(?:0?[1-9]|1[0-2])([-._/ ])(?:0?[1-9]|[12]\d|3[01])\3(?:19|20)\d\d(?!\d))",
    re.ASCII,
)


@dataclass(frozen=True)
class CalendarDay:
    """A day, and by how many days the true one can differ from it: 0 = known, about 15 = the month, about 183 = the year."""

    day: date
    precision_d: int


def read_date(text: str) -> CalendarDay | None:
    """The day that `text` names, None if it is no date that exists.

    Of a month or a year it is the middle, so that the error is smallest. A time with a zone counts as the day on the
    clock where it was written down: the hospital's own day, whatever the zone of the server that exports it.
    """
    found = _SHAPE.fullmatch(text)
    if not found:
        return None
    year, month, day = (int(part) if part else None for part in found.group("year", "month", "day"))
    try:
        if found["time"]:
            _check_time(found["time"], found["zone"])
        if month is None:
            return _middle(date(year or 0, 1, 1), date(year or 0, 12, 31))
        if day is None:
            return _middle(date(year or 0, month, 1), _last_of_month(year or 0, month))
        return CalendarDay(date(year or 0, month, day), 0)
    except (ValueError, OverflowError):
        return None


def _check_time(time: str, zone: str | None) -> None:
    clock = time.partition(".")[0]
    if clock.endswith(":60"):  # FHIR allows leap seconds
        clock = clock.removesuffix("60") + "59"
    datetime.fromisoformat(f"2000-01-01T{clock}{(zone or '').replace('Z', '+00:00')}")


def _last_of_month(year: int, month: int) -> date:
    return date(year, 12, 31) if month == 12 else date(year, month + 1, 1) - timedelta(days=1)


def _middle(first: date, last: date) -> CalendarDay:
    length = (last - first).days
    return CalendarDay(first + timedelta(days=length // 2), length - length // 2)


def holds_date(text: str) -> bool:
    """Whether a whole calendar date stands in `text`, such as ses-20150320: a name like that would tell the day of a visit."""
    return _WITHIN.search(text) is not None


def days_since(index: date, day: date) -> int:
    """Days from the patient's index date, negative before it."""
    return (day - index).days


def year_band(index: date) -> str:
    """The three calendar years that hold the index date, such as 2013-2015: all that is kept of it."""
    first = index.year - index.year % 3
    return f"{first:04d}-{first + 2:04d}"


def pseudonym(source_id: str, key: bytes, *, keep: bool = False) -> str:
    """The site's name of a patient: HMAC-SHA256 of `source_id` with the site's `key`, 32 hexadecimal digits after a p.

    The same number and key give the same pseudonym in every import; without the key it cannot be tried out. With `keep`
    an id that the contract allows stays as it is: only for sources that hold pseudonyms already. `ImportRefused`: a key
    of under 16 bytes, or an empty id.
    """
    if not source_id:
        raise ImportRefused("a patient without an identifier has no pseudonym: leave the row out")
    if keep and re.fullmatch(PATTERNS["id"], source_id):
        return source_id
    if len(key) < SHORTEST_KEY:
        raise ImportRefused(f"the key for pseudonyms has {len(key)} bytes, at least {SHORTEST_KEY}: have one drawn for the site")
    digest = hmac.new(key, source_id.encode("utf-8"), hashlib.sha256).hexdigest()
    return f"p{digest[:PSEUDONYM_CHARACTERS]}"
