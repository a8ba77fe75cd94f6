"""Which code of a hospital means which column or value of the contract: one table, which a hospital extends with its own.

`crosswalk.csv`: a line without `value` says that a code names what was measured or found; a line with `value` says that a code
is that answer. A code that stands in no line means nothing here and is never guessed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tasks.errors import ContractError
from tasks.importing.errors import ImportRefused
from tasks.ms.contract import CONTRACT
from tasks.ms.schema import SEPARATOR

HEADER: Final = (
    "table", "column", "value", "fhir_system", "fhir_code", "omop_concept_id", "omop_source_value", "unit", "certainty", "note",
)  # fmt: skip
SHIPPED: Final = Path(__file__).with_name("crosswalk.csv")
ITEM_SYSTEM: Final = "urn:wardround:ms:item"  # of this project; code = table.column
ANSWER_SYSTEM: Final = "urn:wardround:ms:"  # + column; code = the contract's
CORE: Final = ("patients", "visits", "relapses", "treatments", "mri")
YES_NO: Final[Mapping[str, int]] = {"373066001": 1, "373067005": 0, "4188539": 1, "4188540": 0}  # SNOMED CT, OMOP
SNOMED: Final = "http://snomed.info/sct"

Code = tuple[str, str]  # FHIR: (system, code); OMOP: ("concept", id) or ("source", text)
Coding = tuple[Code, ...]  # the codings of one CodeableConcept


@dataclass(frozen=True)
class Item:
    """What a code names: a column, and the unit of its values where the record states none ("" = a unit must be stated)."""

    table: str
    column: str
    unit: str = ""


@dataclass(frozen=True)
class Crosswalk:
    """Codes to columns, and codes to values of a column."""

    items: Mapping[Code, Item] = field(repr=False)
    answers: Mapping[tuple[str, str], Mapping[Code, str]] = field(repr=False)  # by (table, column)

    def item(self, coding: Coding) -> Item | None:
        """The column that the first known code names."""
        return next((self.items[code] for code in coding if code in self.items), None)

    def answer(self, table: str, column: str, coding: Coding) -> str | None:
        """The value of the column that the codes stand for; None if no code is known, or if two of them disagree."""
        known = self.answers.get((table, column), {})
        found = {known[code] for code in coding if code in known}
        return found.pop() if len(found) == 1 else None

    def presence(self, coding: Coding) -> tuple[str, str, str] | None:
        """(table, column, value) that a condition of this code says of a patient by being there, such as comorbid_cardio 1."""
        for (table, column), known in self.answers.items():
            if table == "patients" and CONTRACT.table(table).column(column).kind == "flag":
                for code in coding:
                    if code in known:
                        return table, column, known[code]
        return None


def read_crosswalk(extra: Path | None = None) -> Crosswalk:
    """The shipped table, and over it the hospital's own in the same columns. `ImportRefused` names the line that is wrong."""
    items: dict[Code, Item] = {}
    answers: dict[tuple[str, str], dict[Code, str]] = {}
    for path, name in ((SHIPPED, "the shipped crosswalk"), *(((extra, "the crosswalk"),) if extra else ())):
        _add(_lines(path, name), name, items, answers)
    return Crosswalk(items, answers)


def _add(
    lines: Iterable[tuple[int, Mapping[str, str]]],
    name: str,
    items: dict[Code, Item],
    answers: dict[tuple[str, str], dict[Code, str]],
) -> None:
    """Add the lines of one file, which may replace another file's but not contradict themselves."""
    seen: dict[tuple[object, ...], tuple[str, str, str]] = {}
    for number, line in lines:
        place = f"{name}, line {number}"
        table, column, value = line["table"], line["column"], line["value"]
        _check_target(place, table, column, value)
        codes = _codes(place, line)
        meant = (table, column, value)
        for code in codes:
            key: tuple[object, ...] = (table, column, code) if value else (code,)
            if seen.setdefault(key, meant) != meant:
                raise ImportRefused(f"{place}: its code stands for something else in a line above; keep one of the two")
            if value:
                answers.setdefault((table, column), {})[code] = value
            else:
                items[code] = Item(table, column, line["unit"])


def _check_target(place: str, table: str, column: str, value: str) -> None:
    if table not in CORE:
        raise ImportRefused(f"{place}: its table is none of {', '.join(CORE)}")
    try:
        declared = CONTRACT.table(table).column(column)
    except ContractError:
        raise ImportRefused(f"{place}: the table {table} has no such column; the data dictionary lists its columns") from None
    if value and declared.vocabulary and any(part not in declared.vocabulary for part in value.split(SEPARATOR)):
        raise ImportRefused(f"{place}: its value is no code of {table}.{column}; the data dictionary lists them")
    if value and not declared.vocabulary and not (declared.kind == "flag" and value in {"0", "1"}):
        raise ImportRefused(f"{place}: {table}.{column} has no codes, so that value must be empty")


def _codes(place: str, line: Mapping[str, str]) -> list[Code]:
    codes: list[Code] = []
    if line["fhir_code"]:
        if not line["fhir_system"]:
            raise ImportRefused(f"{place}: a FHIR code without its system could mean anything; fill in fhir_system")
        codes.append((line["fhir_system"], line["fhir_code"]))
    if concept := line["omop_concept_id"]:
        if not (concept.isascii() and concept.isdigit() and int(concept) > 0):
            raise ImportRefused(f"{place}: omop_concept_id must be a whole number above 0 (0 is OMOP's word for unknown)")
        codes.append(("concept", str(int(concept))))
    if line["omop_source_value"]:
        codes.append(("source", line["omop_source_value"]))
    if not codes:
        raise ImportRefused(f"{place}: it names no code; fill in fhir_code, omop_concept_id or omop_source_value")
    return codes


def _lines(path: Path, name: str) -> Iterable[tuple[int, Mapping[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            if (header := tuple(next(reader, ()))) != HEADER:
                missing = [column for column in HEADER if column not in header]
                raise ImportRefused(f"{name}: its first line must be {','.join(HEADER)}; missing: {', '.join(missing) or 'none'}")
            for cells in reader:
                if len(cells) != len(HEADER):
                    raise ImportRefused(f"{name}, line {reader.line_num}: {len(cells)} cells, expected {len(HEADER)}")
                yield reader.line_num, dict(zip(HEADER, (cell.strip() for cell in cells), strict=True))
    except (UnicodeError, csv.Error):
        raise ImportRefused(f"{name} is no CSV table in UTF-8: save it as UTF-8 CSV with commas") from None
    except OSError as error:
        raise ImportRefused(f"{name} cannot be read ({error.strerror})") from error
