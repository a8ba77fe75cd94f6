"""One stated value as the contract writes it, or the rule why it cannot be. Shared by the FHIR and the OMOP reader.

A result is (value, rule): one of the two is empty. A value is never guessed and never repeated in a rule.
"""

from __future__ import annotations

import math
import re
from typing import Final

from tasks.importing.crosswalk import YES_NO, Coding, Crosswalk, Item
from tasks.importing.dating import DATED_NAMES, CalendarDay, holds_date, read_date
from tasks.importing.drafts import Value
from tasks.importing.fhir_units import convert
from tasks.ms.contract import CONTRACT
from tasks.ms.schema import SEPARATOR, WHOLE, Column

Result = tuple[Value | None, str]
NO_END_YEAR: Final = 2098  # 2099-12-31 and 9999-12-31 are how databases write "open"
# UCUM's words for units that the contract writes out
_WRITTEN_OUT: Final = {"d": "days", "a": "years", "d/{dose}": "days"}


def column_of(item: Item) -> Column:
    """The column's declaration."""
    return CONTRACT.table(item.table).column(item.column)


def number(value: float, unit: str, item: Item) -> Result:
    """A measured number in the column's unit. A unit that is not stated is the crosswalk's, if that gives one."""
    column = column_of(item)
    if column.unit and column.kind != "flag":
        stated = unit or item.unit  # "" is no unit that converts
        converted = convert(value, _WRITTEN_OUT.get(stated, stated), column.unit)
        if converted is None:
            return None, "unit" if math.isfinite(value) else "not_a_number"
        value = converted
    if not math.isfinite(value):
        return None, "not_a_number"
    if column.kind in WHOLE:
        return (int(value), "") if float(value).is_integer() else (None, "not_whole")
    return float(value), ""


def numeral(text: str, unit: str, item: Item) -> Result:
    """A number that is written as text, with a decimal point."""
    if not re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", text, re.ASCII):
        return None, "not_a_number"
    return number(float(text), unit, item)


def answer(coding: Coding, item: Item, words: Crosswalk) -> Result:
    """The code of the column that the codings stand for: for a set of codes, all of them in their order."""
    column = column_of(item)
    if column.kind == "flag":
        found = words.answer(item.table, item.column, coding)
        known = {YES_NO[code] for _, code in coding if code in YES_NO}
        if found is None and len(known) != 1:
            return None, "answer_not_in_crosswalk"
        return (int(found) if found is not None else known.pop()), ""
    if column.kind != "codes":
        value = words.answer(item.table, item.column, coding)
        return value, "" if value else "answer_not_in_crosswalk"
    parts = [words.answer(item.table, item.column, (code,)) for code in coding]
    if not parts or None in parts:
        return None, "answer_not_in_crosswalk"
    return SEPARATOR.join(dict.fromkeys(part for part in parts if part)), ""


def label(text: str, item: Item) -> Result:
    """A short name, if the contract allows it and no calendar date stands in it."""
    if item.column not in DATED_NAMES and holds_date(text):
        return None, "date_in_text"
    return (text, "") if re.fullmatch(column_of(item).text_pattern, text) else (None, "pattern")


def day(text: str) -> Result:
    """A calendar day, whole or partial."""
    found = read_date(text)
    return found, "" if found else "bad_date"


def end_day(text: str) -> CalendarDay | None:
    """The last day of a period; None if it is open, whichever way that is written."""
    found = read_date(text) if text else None
    return None if found is None or found.day.year > NO_END_YEAR else found
