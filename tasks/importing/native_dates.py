"""Dates as a hospital writes them, by formats that its mapping declares. What two formats read differently is no date.

Formats use %d %m %Y %y %b %B %H %M %S as in strptime; %b and %B are the names of the mapping's language, short or long.
Days and months have one or two digits, but always two where nothing parts them from another number (%d%m%Y).
Without %d a format names a month, without %m too a year: then the day is the middle, with its precision.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Final

from tasks.importing.dating import CalendarDay, holds_date, read_date
from tasks.importing.errors import ImportRefused
from tasks.importing.native_cells import Cell, Fault, as_text

EARLIEST: Final = date(1920, 1, 1)  # the contract's first year of birth: nothing of a patient is older
LONGEST_DATE: Final = 40  # characters
_PARTS: Final[Mapping[str, str]] = {
    "d": r"(?P<d>[0-9]{1,2})", "m": r"(?P<m>[0-9]{1,2})", "Y": r"(?P<Y>[0-9]{4})", "y": r"(?P<y>[0-9]{2})",
    "b": r"(?P<b>[^\W\d_]+\.?)", "B": r"(?P<b>[^\W\d_]+\.?)", "H": r"(?:[01]?[0-9]|2[0-3])", "M": r"[0-5][0-9]", "S": r"[0-5][0-9]",
}  # fmt: skip
_MONTHS: Final[Mapping[str, str]] = {  # long names, then short ones that are not their first three letters
    "de": "januar februar märz april mai juni juli august september oktober november dezember",
    "en": "january february march april may june july august september october november december",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
}
_SHORT: Final[Mapping[str, Mapping[str, int]]] = {
    "de": {"mrz": 3, "jänner": 1, "sept": 9}, "en": {"sept": 9}, "fr": {"janv": 1, "févr": 2, "avr": 4, "juil": 7, "sept": 9},
    "it": {"sett": 9}, "es": {"sept": 9},
}  # fmt: skip


@dataclass(frozen=True)
class DateFormats:
    """How dates are written: at least one format, the words of months, and for %y the first year of the last century.

    `pivot` 30: 30 to 99 are 1930 to 1999, 00 to 29 are 2000 to 2029.
    """

    formats: tuple[str, ...]
    language: str = "en"
    pivot: int | None = None

    def __post_init__(self) -> None:
        if not self.formats:
            raise ImportRefused("a date needs at least one format, such as dates: ['%d.%m.%Y']")
        for each in self.formats:
            _shape(each)
            if "%y" in each and self.pivot is None:
                raise ImportRefused(f"the date format {each!r} has years of two digits: add pivot, such as pivot: 30")
        if self.pivot is not None and not 0 <= self.pivot <= 99:
            raise ImportRefused(f"pivot is {self.pivot}: 0 to 99, the first two-digit year of the last century")


@cache
def _shape(template: str) -> re.Pattern[str]:
    """The expression of one format; `ImportRefused` if it is none."""
    names = re.findall(r"%(.)", template)
    kinds = ["month" if name in "bBm" else "year" if name in "Yy" else name for name in names]
    if strange := [name for name in names if name not in _PARTS]:
        raise ImportRefused(f"the date format {template!r} uses %{strange[0]}; known: {', '.join(f'%{name}' for name in _PARTS)}")
    if len(set(kinds)) != len(kinds) or "year" not in kinds or ("d" in kinds and "month" not in kinds):
        raise ImportRefused(f"the date format {template!r} needs a year once, and a month once if it has a day")
    literal = re.split(r"%.", template)
    whole = re.escape(literal[0])
    for number, (name, text) in enumerate(zip(names, literal[1:], strict=True)):
        before = names[number - 1] if number and not literal[number] else "b"
        after = names[number + 1] if not text and number + 1 < len(names) else "b"
        alone = {before, after} <= {"b", "B"}  # beside another number, 1 of 1022015 could be 10
        whole += (_PARTS[name] if alone else _PARTS[name].replace("{1,2}", "{2}").replace("[01]?", "[01]")) + re.escape(text)
    return re.compile(whole, re.IGNORECASE)


@cache
def _months(language: str) -> dict[str, int]:
    known = dict(_SHORT[language])
    for number, name in enumerate(_MONTHS[language].split(), 1):
        known[name] = number
    for number, name in enumerate(_MONTHS[language].split(), 1):
        if [other[:3] for other in _MONTHS[language].split()].count(name[:3]) == 1:  # French juin and juillet share theirs
            known[name[:3]] = number
    return known


def read_day(cell: Cell, formats: DateFormats, today: date, at_most_d: int) -> CalendarDay | Fault:
    """The day in `cell`; a cell that is a day already needs no format. `at_most_d`: how imprecise it may be, in days."""
    found = CalendarDay(cell, 0) if isinstance(cell, date) else _written_day(cell, formats)
    if isinstance(found, Fault):
        return found
    if found.day > today:  # of a running month or year the middle may lie ahead
        return (
            Fault("future_date")
            if not found.precision_d or found.day.toordinal() - found.precision_d > today.toordinal()
            else found
        )
    if found.day < EARLIEST:
        return Fault("early_date")
    return Fault("imprecise_date") if found.precision_d > at_most_d else found


def is_day(cell: Cell, formats: DateFormats | None) -> bool:
    """Whether `cell` is or holds a whole date, as the hospital or a computer writes it: such a cell goes nowhere as a text."""
    if isinstance(cell, date) or holds_date(as_text(cell)):
        return True
    found = _written_day(cell, formats) if formats else Fault("not_a_date")
    return found == Fault("ambiguous_date") or (isinstance(found, CalendarDay) and not found.precision_d)


def _written_day(cell: Cell, formats: DateFormats) -> CalendarDay | Fault:
    if not isinstance(cell, str):
        cell = as_text(cell)  # a year alone is a number in a spreadsheet
    if len(cell) > LONGEST_DATE:
        return Fault("not_a_date")
    matches = [found for each in formats.formats if (found := _shape(each).fullmatch(cell))]
    days = {day for found in matches if (day := _day_of(found, formats)) is not None}
    if len(days) > 1:
        return Fault("ambiguous_date")
    if days:
        return days.pop()
    return Fault("no_such_date" if matches else "not_a_date")


def _day_of(found: re.Match[str], formats: DateFormats) -> CalendarDay | None:
    parts = found.groupdict()
    year = parts.get("Y") or _century(parts["y"], formats.pivot or 0)
    month = parts.get("m")
    if word := parts.get("b"):
        number = _months(formats.language).get(word.casefold().rstrip("."))
        if number is None:
            return None
        month = str(number)
    day = parts.get("d")
    return read_date("-".join([year, *(f"{int(part):02d}" for part in (month, day) if part)]))


def _century(year: str, pivot: int) -> str:
    return f"{19 if int(year) >= pivot else 20}{year}"
