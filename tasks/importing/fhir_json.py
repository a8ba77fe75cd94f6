"""Parts of a FHIR resource, whatever stands there: what has another shape than R4 gives counts as absent, never as an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tasks.importing import values
from tasks.importing.crosswalk import Coding, Crosswalk, Item
from tasks.importing.dating import CalendarDay, read_date
from tasks.importing.values import Result, column_of

Json = dict[str, Any]
UCUM: Final = "http://unitsofmeasure.org"


def text(holder: Json, name: str) -> str:
    """A string, "" if there is none."""
    found = holder.get(name)
    return found if isinstance(found, str) else ""


def part(holder: Json, name: str) -> Json:
    """An object, empty if there is none."""
    found = holder.get(name)
    return found if isinstance(found, dict) else {}


def parts(holder: Json, name: str) -> Iterator[Json]:
    """The objects of a list."""
    found = holder.get(name)
    for each in found if isinstance(found, list) else ():
        if isinstance(each, dict):
            yield each


def coding(concept: Json) -> Coding:
    """The codings of a CodeableConcept as (system, code); those without a system mean nothing."""
    return tuple((text(each, "system"), text(each, "code")) for each in parts(concept, "coding") if text(each, "system"))


def codings(holder: Json, name: str) -> Coding:
    """All codings of a list of CodeableConcepts."""
    return tuple(code for concept in parts(holder, name) for code in coding(concept))


def first_day(holder: Json, *names: str) -> CalendarDay | None:
    """The first of these elements that is a date; of a Period its start."""
    for name in names:
        found = holder.get(name)
        written = text(found, "start") if isinstance(found, dict) else found
        if isinstance(written, str) and (day := read_date(written)):
            return day
    return None


def reference(holder: Json, name: str) -> str:
    """What a reference points to: "Type/id", a URL, "urn:uuid:...", "#contained", "identifier:value", or ""."""
    found = part(holder, name)
    if written := text(found, "reference"):
        return written.partition("/_history/")[0]
    number = text(part(found, "identifier"), "value")
    return f"identifier:{number}" if number else ""


def references(holder: Json, name: str) -> tuple[str, ...]:
    """All references of a list."""
    return tuple(found for each in parts(holder, name) if (found := reference({"_": each}, "_")))


def number_of(holder: Json, name: str) -> float | None:
    """A JSON number; true and false are none."""
    found = holder.get(name)
    if not isinstance(found, int | float) or isinstance(found, bool):
        return None
    try:
        return float(found)
    except OverflowError:  # an integer of hundreds of digits
        return None


def quantity(found: Json, item: Item) -> Result:
    """A Quantity in the column's unit."""
    if text(found, "comparator"):
        return None, "comparator"
    value = number_of(found, "value")
    if value is None:
        return None, "no_value"
    system = text(found, "system")
    unit = text(found, "code") if text(found, "code") and system in ("", UCUM) else text(found, "unit")
    return values.number(value, unit, item)


def value_of(holder: Json, item: Item, words: Crosswalk) -> Result:
    """value[x] of an Observation or of a component, as the column wants it."""
    kind = column_of(item).kind
    if kind == "day":
        found = first_day(holder, "valueDateTime", "valuePeriod")
        return (found, "") if found else (None, "no_value")
    if kind in ("code", "codes") or (kind == "flag" and "valueCodeableConcept" in holder):
        concept = part(holder, "valueCodeableConcept")
        return values.answer(coding(concept), item, words) if concept else (None, "no_value")
    if kind in ("label", "id"):
        return values.label(text(holder, "valueString"), item) if "valueString" in holder else (None, "no_value")
    return _measured(holder, item)


def _measured(holder: Json, item: Item) -> Result:
    if isinstance(yes := holder.get("valueBoolean"), bool):
        return (int(yes), "") if column_of(item).kind == "flag" else (None, "not_a_number")
    if "valueQuantity" in holder:
        return quantity(part(holder, "valueQuantity"), item)
    for name in ("valueInteger", "valueDecimal"):  # the second is no R4, but exporters write it
        if (value := number_of(holder, name)) is not None:
            return values.number(value, "", item)
    if "valueString" in holder:
        return values.numeral(text(holder, "valueString"), "", item)
    return None, "no_value"
