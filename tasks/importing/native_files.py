"""The files of a mapping and the patient's day 0: what each is called, how it is written, which column names the patient."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from tasks.importing.errors import ImportRefused
from tasks.importing.native_cells import THOUSANDS, Marks
from tasks.importing.native_dates import DateFormats
from tasks.importing.native_ways import Defaults
from tasks.importing.native_words import decimal, listed, mapping_of, section, text, texts
from tasks.mapping import DELIMITERS
from tasks.strict_yaml import Document

FORMATS: Final = ("csv", "excel", "parquet")
ENCODINGS: Final = {"utf-8": "utf-8-sig", "utf-8-sig": "utf-8-sig", "latin-1": "latin-1", "cp1252": "cp1252"}
_FILE: Final = (
    "name", "format", "encoding", "delimiter", "decimal", "thousands", "sheet", "header_row", "patient", "not_mapped", "missing",
)  # fmt: skip


@dataclass(frozen=True)
class SourceFile:
    """One table of the hospital: a CSV or Parquet file, or a sheet of an Excel file."""

    key: str  # what the mapping and every report call it
    name: str  # of the file
    format: str
    encoding: str
    delimiter: str
    marks: Marks
    sheet: str
    header_row: int  # from 1, as a spreadsheet shows it
    patient: str  # column with the patient's number
    missing: frozenset[str]
    not_mapped: Mapping[str, str]  # column -> why


@dataclass(frozen=True)
class Index:
    """Where a patient's day 0 comes from: "date" (one declared), "first_date" or "first_age" in a column, or "none"."""

    kind: str
    file: str = ""
    source: str = ""
    formats: DateFormats | None = None
    missing: frozenset[str] = frozenset()


def one_of(value: Document, where: str, known: Collection[str]) -> str:
    if (given := text(value, where)) not in known:
        raise ImportRefused(f"{where} is {given!r}: use one of {', '.join(known)}")
    return given


def parse_file(key: str, value: Document, defaults: Defaults) -> SourceFile:
    where = f"files.{key}"
    given = section(value, where, _FILE, required=("name", "format", "patient"))
    name, kind = text(given["name"], f"{where}.name"), one_of(given["format"], f"{where}.format", FORMATS)
    if PurePath(name).name != name or "\\" in name or name in {".", ".."}:
        raise ImportRefused(f"{where}.name is {name!r}: give the bare name of a file of the export")
    allowed = {"csv": ("encoding", "delimiter"), "excel": ("sheet",), "parquet": ()}[kind]
    for option in ("encoding", "delimiter", "sheet"):
        if option in given and option not in allowed:
            raise ImportRefused(f"{where}.{option} means nothing for {kind}: leave it out")
        if option in allowed and option not in given:
            raise ImportRefused(f"{where} lacks {option}")
    decimals = one_of(given.get("decimal", "."), f"{where}.decimal", (".", ","))
    thousands = (
        one_of(given["thousands"], f"{where}.thousands", [each for each in THOUSANDS if each]) if "thousands" in given else ""
    )
    if decimals == thousands:
        raise ImportRefused(f"{where}: decimal and thousands are the same mark")
    header = decimal(given.get("header_row", "1"), f"{where}.header_row")
    if header < 1 or header != int(header) or (kind == "parquet" and header != 1):
        raise ImportRefused(f"{where}.header_row must be a row number from 1 up; a Parquet file has none")
    reasons = given.get("not_mapped", {})
    return SourceFile(
        key=key,
        name=name,
        format=kind,
        encoding=ENCODINGS[one_of(given["encoding"], f"{where}.encoding", ENCODINGS)] if kind == "csv" else "",
        delimiter=DELIMITERS[one_of(given["delimiter"], f"{where}.delimiter", DELIMITERS)] if kind == "csv" else "",
        marks=Marks(decimals, thousands),
        sheet=text(given["sheet"], f"{where}.sheet") if kind == "excel" else "",
        header_row=int(header),
        patient=text(given["patient"], f"{where}.patient"),
        missing=defaults.missing | texts(given.get("missing", []), f"{where}.missing"),
        not_mapped={name: text(why, f"{where}.not_mapped") for name, why in mapping_of(reasons, where).items()} if reasons else {},
    )


def parse_index(value: Document, files: Mapping[str, SourceFile], defaults: Defaults) -> Index:
    if value == "none":
        return Index("none")
    ((kind, inner),) = (
        section(value, "index", ("date", "first_date", "first_age")).items()
        if isinstance(value, dict) and len(value) == 1
        else ((None, None),)
    )
    if kind is None or inner is None:
        raise ImportRefused("index must be none, or one of date, first_date, first_age with file and from")
    given = section(inner, f"index.{kind}", ("file", "from", "dates"), required=("file", "from"))
    file = one_of(given["file"], f"index.{kind}.file", files)
    formats = defaults.dates
    if "dates" in given:
        formats = DateFormats(listed(given["dates"], "index.dates"), defaults.language, defaults.pivot)
    if kind != "first_age" and formats is None:
        raise ImportRefused(f"index.{kind} reads dates: declare how they are written, with dates and the formats")
    return Index(kind, file, text(given["from"], f"index.{kind}.from"), formats, files[file].missing)
