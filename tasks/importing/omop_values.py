"""Codes and values of one MEASUREMENT or OBSERVATION row as the contract writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tasks.importing import values
from tasks.importing.crosswalk import Coding, Crosswalk, Item
from tasks.importing.omop_tables import Cells
from tasks.importing.values import Result, column_of
from tasks.ms.schema import SEPARATOR

# UCUM units that have a standard concept and are needed here; a unit without one is taken from unit_source_value
UNIT_CONCEPTS: Final[Mapping[str, str]] = {
    "8582": "cm", "9529": "kg", "8576": "mg", "8587": "mL", "8555": "s", "8588": "mm", "8554": "%",
}  # fmt: skip
EQUAL: Final = frozenset({"", "0", "4172703"})  # operator_concept_id


def codes(concept: str, source: str) -> Coding:
    """A concept and a source value as codes; concept 0 is OMOP's word for unknown."""
    known = (("concept", concept),) if concept not in ("", "0") else ()
    return (*known, ("source", source)) if source else known


def item(coding: Coding, words: Crosswalk) -> tuple[Item | None, str]:
    """What the codes name; the rule if they name two columns."""
    found = {(each.table, each.column): each for code in coding if (each := words.items.get(code)) is not None}
    if len(found) > 1:
        return None, "two_items"
    return next(iter(found.values()), None), ""


def value(cells: Cells, what: Item, words: Crosswalk) -> Result:
    """The row's value for the column."""
    written = cells.get("value_as_string", "") or cells["value_source_value"]
    column = column_of(what)
    if cells.get("operator_concept_id", "") not in EQUAL:
        return None, "comparator"
    if column.kind == "day":
        return values.day(written) if written else (None, "no_value")
    if column.kind in ("code", "codes") or (column.kind == "flag" and not cells["value_as_number"]):
        parts = written.split(SEPARATOR) if column.kind == "codes" else [written]
        coding = (*codes(cells["value_as_concept_id"], ""), *(("source", part) for part in parts if part))
        return values.answer(coding, what, words) if coding else (None, "no_value")
    if column.kind in ("label", "id"):
        return values.label(written, what) if written else (None, "no_value")
    unit = UNIT_CONCEPTS.get(cells["unit_concept_id"], "") or cells["unit_source_value"]
    stated = cells["value_as_number"] or written
    return values.numeral(stated, unit, what) if stated else (None, "no_value")
