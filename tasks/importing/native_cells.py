"""One cell of a hospital's file to one value of the contract, or to the rule that it breaks. Nothing is guessed or quoted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Final, TypeAlias

Cell: TypeAlias = "str | Decimal | date"  # text without blanks at its ends ("" = empty); a number or a day if the file has types

LONGEST_NUMBER: Final = 40  # characters
THOUSANDS: Final[Mapping[str, str]] = {"": "", ".": r"\.", ",": ",", "'": "['’]", "blank": "[ \u00a0\u202f]"}
YES_NO: Final[Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {
    "de": (frozenset({"ja", "j", "wahr", "true"}), frozenset({"nein", "n", "falsch", "false"})),
    "en": (frozenset({"yes", "y", "true"}), frozenset({"no", "n", "false"})),
    "fr": (frozenset({"oui", "o", "vrai", "true"}), frozenset({"non", "n", "faux", "false"})),
    "it": (frozenset({"sì", "si", "s", "vero", "true"}), frozenset({"no", "n", "falso", "false"})),
    "es": (frozenset({"sí", "si", "s", "verdadero", "true"}), frozenset({"no", "n", "falso", "false"})),
}

# rule -> what to do; these words are all that a report says of a cell
REMEDIES: Final[Mapping[str, str]] = {
    "not_a_number": "correct the cell, or the decimal and thousands mark that the mapping declares for the file",
    "not_whole": "the contract counts this in whole numbers: correct the cell, or its unit in the mapping",
    "unknown_code": "add the code to the mapping's codes or missing, once somebody knows what it means",
    "not_yes_or_no": "write yes or no in the declared language, or map the codes with `as: codes`",
    "not_a_date": "correct the cell, or add its format to the mapping's dates",
    "no_such_date": "this day is in no calendar: correct the cell",
    "ambiguous_date": "two declared formats give two different days: keep the one that the hospital writes",
    "future_date": "this day has not come yet: correct the cell",
    "early_date": "this day lies before 1920: correct the cell, or list it in missing if it stands for unknown",
    "imprecise_date": "the day is not known closely enough for this column: look it up, or raise at_most_d in the mapping",
    "no_index_date": "the patient has no index date that can be read, so this day cannot be counted: correct that date first",
    "no_reference": "the date of this age is missing or cannot be read: correct it",
    "date_in_text": "no calendar date leaves within a text: map it with `as: date`, or a name of a visit or scan `as: pseudonym`",
    "pattern": "the contract wants letters, digits and . _ - / + : here: correct the cell",
    "required": "the contract needs a value here: fill the cell in",
    "no_patient": "fill in the patient's number: a row of nobody cannot be used",
    "differs": "rows of one patient say different things: decide which is right",
    "duplicate_row": "the row stands twice; the first is kept: export each row once",
    "duplicate_key": "two different rows have one key and none is kept: decide which is right",
    "malformed_row": "the row has other cells than the header: look for an unquoted delimiter in the export",
    "not_selected": "no table of the mapping takes this row: extend where or filled, if it should",
    "cell_not_taken": "the row is taken, this cell of it by no rule: map the column for such rows too, or empty the cell",
    "unknown_drug": "decide in the review list what it is; the next import uses the decision",
    "drug_set_aside": "nothing to do: a reviewer decided that this is no disease-modifying therapy",
    "negative_age": "correct the age: it is no number between 0 and 120",
}


@dataclass(frozen=True)
class Fault:
    """The rule that a cell breaks, one of `REMEDIES`."""

    rule: str


@dataclass(frozen=True)
class Marks:
    """How a file writes numbers: `decimal` is . or ,; `thousands` one of `THOUSANDS`, never the same."""

    decimal: str = "."
    thousands: str = ""


def as_text(cell: Cell) -> str:
    """A cell as a person would type it: 3.0 is 3, a day is 2015-03-20."""
    if isinstance(cell, Decimal):
        text = f"{cell:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return cell.isoformat() if isinstance(cell, date) else cell


@cache
def _number_shape(marks: Marks) -> re.Pattern[str]:
    whole = r"\d+"
    if marks.thousands:
        whole = rf"(?:\d{{1,3}}(?:{THOUSANDS[marks.thousands]}\d{{3}})+|\d+)"
    point = re.escape(marks.decimal)
    return re.compile(rf"(?P<sign>[+\-−]?)(?P<whole>{whole})?(?:{point}(?P<rest>\d+))?(?P<power>[eE][+-]?\d{{1,2}})?", re.ASCII)


def read_number(cell: Cell, marks: Marks) -> Decimal | Fault:
    """The number in `cell`, exactly as written: 1.234,5 is 1234.5 if the file has decimal commas and points by the thousand."""
    if isinstance(cell, Decimal):
        return cell if cell.is_finite() else Fault("not_a_number")
    found = _number_shape(marks).fullmatch(cell) if isinstance(cell, str) and len(cell) <= LONGEST_NUMBER else None
    if not found or (found["whole"] is None and found["rest"] is None):
        return Fault("not_a_number")
    whole = re.sub(r"\D", "", found["whole"] or "0")
    sign = "-" if found["sign"] in {"-", "−"} else ""
    return Decimal(f"{sign}{whole}.{found['rest'] or '0'}{found['power'] or ''}")


def converted(number: Decimal, factor: Decimal, offset: Decimal, *, whole: bool) -> float | Fault:
    """`number` * `factor` + `offset` in decimal arithmetic, so that 20674 mm3 is 20.674 mL and no neighbour of it."""
    try:
        value = float(number * factor + offset)
    except (InvalidOperation, OverflowError):
        return Fault("not_a_number")
    if not math.isfinite(value):
        return Fault("not_a_number")
    if whole and not value.is_integer():
        return Fault("not_whole")
    return value + 0.0 if value else 0.0  # no minus zero


def read_yes_no(cell: Cell, language: str) -> float | Fault:
    """1 or 0 from the words of `language`."""
    yes, no = YES_NO[language]
    word = as_text(cell).casefold()
    return 1.0 if word in yes else 0.0 if word in no else Fault("not_yes_or_no")


def read_code(cell: Cell, codes: Mapping[str, str]) -> str | Fault:
    """What the source's code stands for in the contract."""
    meaning = codes.get(as_text(cell))
    return Fault("unknown_code") if meaning is None else meaning


def read_set(cell: Cell, separator: str, codes: Mapping[str, str]) -> tuple[str, ...] | Fault:
    """The contract's codes of one cell that lists several."""
    found = []
    for part in as_text(cell).split(separator):
        if (code := part.strip()) and (meaning := codes.get(code)) is None:
            return Fault("unknown_code")
        if code and meaning:
            found.append(meaning)
    return tuple(found)


def read_text(cell: Cell, pattern: str, prefix: str = "") -> str | Fault:
    """A pseudonym or short name as it stands, behind `prefix`, if the contract allows it."""
    text = prefix + as_text(cell)
    return text if re.fullmatch(pattern, text) else Fault("pattern")
