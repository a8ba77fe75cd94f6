"""Who each row is about, and that patient's day 0. Numbers of the hospital and calendar dates go no further than this."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal

from tasks.importing.dating import pseudonym
from tasks.importing.native_cells import Cell, Fault, as_text
from tasks.importing.native_dates import read_day
from tasks.importing.native_files import Index
from tasks.importing.native_mapping import NativeMapping
from tasks.importing.native_problems import EMPTIED, LEFT_OUT, Problems
from tasks.importing.native_rows import age_of
from tasks.importing.native_source import SourceTable
from tasks.ms.schema import PATTERNS

People = Mapping[str, list[str]]  # file -> pseudonym of each row, "" if it names nobody, (n_rows,)


def read_people(mapping: NativeMapping, sources: Mapping[str, SourceTable], key: bytes, problems: Problems) -> People:
    """The pseudonym of each row of each file."""
    return {name: _pseudonyms(source, key, problems, keep=mapping.keep_ids) for name, source in sources.items()}


def _pseudonyms(source: SourceTable, key: bytes, problems: Problems, *, keep: bool) -> list[str]:
    known: dict[str, str] = dict.fromkeys(source.file.missing, "")
    rules: dict[str, str] = dict.fromkeys(source.file.missing, "no_patient")
    found = []
    for number, cell in zip(source.numbers, source.columns[source.file.patient], strict=True):
        name = as_text(cell)
        if name not in known:
            strange = keep and not re.fullmatch(PATTERNS["id"], name)  # declared a pseudonym, and no pseudonym of the contract
            known[name] = "" if strange else pseudonym(name, key, keep=keep)
            rules[name] = "pattern"
        if not known[name]:
            problems.add(source.file.key, "", source.file.patient, rules[name], LEFT_OUT, [number])
        found.append(known[name])
    return found


def read_index(
    mapping: NativeMapping, sources: Mapping[str, SourceTable], people: People, today: date, problems: Problems
) -> dict[str, date | Decimal]:
    """Day 0 of each patient who has one: a date, or an age in years."""
    index = mapping.index
    if index.kind == "none":
        return {}
    source = sources[index.file]
    found: dict[str, dict[date | Decimal, list[int]]] = {}
    for number, patient, cell in zip(source.numbers, people[index.file], source.columns[index.source], strict=True):
        if not patient or as_text(cell) in index.missing:
            continue
        origin = _origin(cell, index, source, today)
        if isinstance(origin, Fault):
            if not _is_mapped(mapping, index.file, index.source):  # else the column's own rule reports it
                problems.add(index.file, "", index.source, origin.rule, EMPTIED, [number])
        else:
            found.setdefault(patient, {}).setdefault(origin, []).append(number)
    chosen: dict[str, date | Decimal] = {}
    for patient, origins in found.items():
        if index.kind == "date" and len(origins) > 1:
            rows = [number for numbers in origins.values() for number in numbers]
            problems.add(index.file, "", index.source, "differs", EMPTIED, rows)
        else:
            chosen[patient] = min(origins)  # all are dates, or all are ages
    return chosen


def _origin(cell: Cell, index: Index, source: SourceTable, today: date) -> date | Decimal | Fault:
    if index.kind == "first_age" or index.formats is None:
        return age_of(cell, source.file.marks)
    day = read_day(cell, index.formats, today, 0)
    return day if isinstance(day, Fault) else day.day


def _is_mapped(mapping: NativeMapping, file: str, source: str) -> bool:
    return any(rule.file == file and source in filling.sources for rule in mapping.rules for filling in rule.columns.values())
