"""The words of a mapping about one column of the contract, checked against it: `as: number`, `as: codes` and so on."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from tasks.importing.errors import ImportRefused
from tasks.importing.native_columns import (
    AgeDay,
    BirthYear,
    Codes,
    Constant,
    Day,
    Drug,
    Filling,
    Number,
    SetOf,
    Text,
    Year,
    YesNo,
    precision_limit,
)
from tasks.importing.native_dates import DateFormats
from tasks.importing.native_units import FACTORS, UNITLESS, factor_of
from tasks.importing.native_words import decimal, listed, mapping_of, section, text, texts
from tasks.ms.schema import Column, Table
from tasks.strict_yaml import Document

YEAR_PRECISION_D: Final = 183


@dataclass(frozen=True)
class Defaults:
    """What the mapping declares once for all columns."""

    language: str
    missing: frozenset[str]
    dates: DateFormats | None
    pivot: int | None = None


def parse_filling(value: Document, table: Table, column: Column, defaults: Defaults, unit_by: str) -> Filling:
    """What the mapping says of `column`; `unit_by`: the contract's unit if another column of the row decides it, else ""."""
    where = f"tables.{table.name}.{column.name}"
    if isinstance(value, dict) and "constant" in value:
        constant = text(section(value, where, ("constant",))["constant"], f"{where}.constant")
        return Constant(check_meaning(constant, column, where))
    given = dict(value) if isinstance(value, dict) else {}
    way = text(given.pop("as"), f"{where}.as") if "as" in given else ""
    if way not in _WAYS:
        raise ImportRefused(f"{where} needs `constant`, or `as` with one of {', '.join(_WAYS)}")
    kinds, parse = _WAYS[way]
    if column.kind not in kinds and column.name not in kinds:
        raise ImportRefused(f"{where}: `as: {way}` does not give what this column holds, {column.kind}; see the data dictionary")
    return parse(given, _Place(where, table, column, defaults, unit_by))


@dataclass(frozen=True)
class _Place:
    where: str
    table: Table
    column: Column
    defaults: Defaults
    unit_by: str

    @property
    def unit_is_open(self) -> bool:
        """Whether the contract's unit depends on a code that differs from row to row."""
        by = self.column.limits_by
        return by is not None and not self.unit_by and any(limits.unit not in UNITLESS for limits in by.limits.values())

    def source(self, given: Mapping[str, Document]) -> str:
        return text(given["from"], f"{self.where}.from")

    def missing(self, given: Mapping[str, Document]) -> frozenset[str]:
        return self.defaults.missing | texts(given.get("missing", []), f"{self.where}.missing")

    def formats(self, given: Mapping[str, Document]) -> DateFormats:
        known = self.defaults.dates
        if "dates" not in given:
            if known is None:
                raise ImportRefused(f"{self.where} holds dates: declare how they are written, with dates and the formats")
            return known
        return DateFormats(listed(given["dates"], f"{self.where}.dates"), self.defaults.language, self.defaults.pivot)


def _section(given: Mapping[str, Document], place: _Place, *more: str, required: Collection[str] = ("from",)) -> None:
    section(dict(given), place.where, ("from", "missing", *more), required=required)


def _text(given: Mapping[str, Document], place: _Place) -> Filling:
    _section(given, place, "prefix")
    prefix = text(given["prefix"], f"{place.where}.prefix") if "prefix" in given else ""
    return Text(place.source(given), place.missing(given), place.defaults.dates, prefix)


def _hidden(given: Mapping[str, Document], place: _Place) -> Filling:
    _section(given, place)
    return Text(place.source(given), place.missing(given), place.defaults.dates, hidden=True)


def _number(given: Mapping[str, Document], place: _Place) -> Filling:
    _section(given, place, "unit", "factor", "offset")
    wanted = place.unit_by or place.column.unit
    factor = decimal(given["factor"], f"{place.where}.factor") if "factor" in given else None
    if "unit" in given:
        unit = text(given["unit"], f"{place.where}.unit")
        listed_factor = factor_of(unit, wanted)
        if listed_factor is None and factor is None:
            known = ", ".join((wanted, *FACTORS.get(wanted, {})))
            raise ImportRefused(f"{place.where}.unit is {unit!r}, the contract's is {wanted or 'none'}: use {known}, or add factor")
        if factor is not None and listed_factor not in (None, factor):
            raise ImportRefused(f"{place.where}: factor {factor} is not that of {unit} to {wanted}, {listed_factor}: leave one out")
        factor = listed_factor if factor is None else factor
    elif factor is None and (wanted not in UNITLESS or place.unit_is_open):
        raise ImportRefused(
            f"{place.where} needs unit: the contract's is {wanted or 'that of another column'}; what is the hospital's?"
        )
    if factor is not None and factor == 0:
        raise ImportRefused(f"{place.where}.factor is 0: every value would be lost")
    offset = decimal(given["offset"], f"{place.where}.offset") if "offset" in given else Decimal(0)
    return Number(place.source(given), place.missing(given), factor or Decimal(1), offset)


def _codes(given: Mapping[str, Document], place: _Place) -> Filling:
    several = place.column.kind == "codes"
    _section(given, place, "codes", *(["separator"] if several else []), required=("from", "codes"))
    codes = {
        source.strip(): check_meaning(text(meaning, f"{place.where}.codes"), place.column, place.where)
        for source, meaning in mapping_of(given["codes"], f"{place.where}.codes").items()
    }
    missing = place.missing(given)
    if clash := sorted(missing & codes.keys()):
        raise ImportRefused(f"{place.where}: {clash[0]!r} is listed both as a code and as missing: decide which")
    return Codes(place.source(given), missing, codes, text(given.get("separator", "|"), place.where) if several else "")


def _yes_no(given: Mapping[str, Document], place: _Place) -> Filling:
    _section(given, place)
    return YesNo(place.source(given), place.missing(given), place.defaults.language)


def _set_of(given: Mapping[str, Document], place: _Place) -> Filling:
    section(dict(given), place.where, ("of", "yes", "no", "missing"), required=("of", "yes", "no"))
    of = mapping_of(given["of"], f"{place.where}.of")
    codes = {name: check_meaning(text(code, f"{place.where}.of"), place.column, place.where) for name, code in of.items()}
    yes, no = texts(given["yes"], f"{place.where}.yes"), texts(given["no"], f"{place.where}.no")
    missing = (place.missing(given) - no) - yes  # here an empty cell may be declared to mean no
    if clash := sorted(yes & no):
        raise ImportRefused(f"{place.where}: {clash[0]!r} means both yes and no: decide which")
    return SetOf(codes, missing, yes, no)


def _day(given: Mapping[str, Document], place: _Place) -> Filling:
    _section(given, place, "dates", "at_most_d", "plus_d")
    at_most = int(decimal(given.get("at_most_d", str(precision_limit(place.table, place.column))), f"{place.where}.at_most_d"))
    highest = precision_limit(place.table, place.column) or YEAR_PRECISION_D
    if not 0 <= at_most <= highest:
        raise ImportRefused(f"{place.where}.at_most_d is {at_most}: the contract allows 0 to {highest} days here")
    plus = text(given.get("plus_d", "0"), f"{place.where}.plus_d")
    if plus not in ("0", "1"):
        raise ImportRefused(
            f"{place.where}.plus_d is {plus!r}: 1 if the date is the last day and the contract wants the next, else 0"
        )
    return Day(place.source(given), place.missing(given), place.formats(given), at_most, int(plus))


def _year(given: Mapping[str, Document], place: _Place) -> Filling:
    _section(given, place, "dates")
    return Year(place.source(given), place.missing(given), place.formats(given))


def _birth_year(given: Mapping[str, Document], place: _Place) -> Filling:
    _section(given, place, "on", "year", "dates")
    if ("on" in given) == ("year" in given):
        raise ImportRefused(
            f"{place.where}: an age gives a year of birth by a reference: `on` (the column with the date) or `year`"
        )
    on = text(given["on"], f"{place.where}.on") if "on" in given else ""
    year = int(decimal(given["year"], f"{place.where}.year")) if "year" in given else 0
    return BirthYear(place.source(given), place.missing(given), on, year, place.formats(given) if on else None)


def _age_day(given: Mapping[str, Document], place: _Place) -> Filling:
    _section(given, place)
    return AgeDay(place.source(given), place.missing(given))


def _drug(given: Mapping[str, Document], place: _Place) -> Filling:
    _section(given, place)
    return Drug(place.source(given), place.missing(given), dmt_class=place.column.name == "dmt_class")


# name of the way -> kinds of column or columns that it can fill, and how its words are read
_WAYS: Final[Mapping[str, tuple[frozenset[str], Callable[[Mapping[str, Document], _Place], Filling]]]] = {
    "text": (frozenset({"id", "label"}), _text),
    "pseudonym": (frozenset({"id", "label"}), _hidden),
    "number": (frozenset({"number", "integer", "day"}), _number),
    "codes": (frozenset({"code", "codes", "flag", "label", "integer", "number"}), _codes),
    "yes_no": (frozenset({"flag"}), _yes_no),
    "set": (frozenset({"codes"}), _set_of),
    "date": (frozenset({"day", "week"}), _day),
    "year": (frozenset({"birth_year"}), _year),
    "birth_year": (frozenset({"birth_year"}), _birth_year),
    "age_day": (frozenset({"day"}), _age_day),
    "drug": (frozenset({"drug"}), _drug),
    "drug_class": (frozenset({"dmt_class"}), _drug),
}


def check_meaning(value: str, column: Column, where: str) -> str:
    """`value`, if the contract's column may hold it; `ImportRefused` otherwise."""
    if column.vocabulary:
        if value not in column.vocabulary:
            raise ImportRefused(f"{where}: {value!r} is no code of the contract; it knows {', '.join(column.vocabulary)}")
    elif column.numeric:
        decimal(value, where)
    elif not re.fullmatch(column.text_pattern, value):
        raise ImportRefused(f"{where}: {value!r} is not written as the contract wants it: see the data dictionary")
    return value
