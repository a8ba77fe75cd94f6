"""Side files of BIDS: what scanner, which day, whether a face is left. Read with limits, believed only in the form expected."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 1 << 22
NOT_GIVEN: Final = ("", "n/a")
DAY: Final = re.compile(r"(-?\d{1,5})(?:\.0+)?", re.ASCII)  # tables with gaps are often written as 12.0
SCANNER_MOST: Final = 64
MAKERS: Final = {"siemens": "siemens", "philips": "philips", "ge": "ge", "canon": "canon", "toshiba": "canon"}
# What converters copy from DICOM about a person or a calendar day, if nobody stops them.
IDENTIFYING: Final = frozenset({
    "PatientName", "PatientID", "PatientBirthDate", "PatientAddress", "PatientTelephoneNumbers", "OtherPatientIDs",
    "AccessionNumber", "StudyID", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "AcquisitionDateTime",
    "AcquisitionDate", "StudyDate", "SeriesDate", "ContentDate", "StudyInstanceUID", "SeriesInstanceUID",
})  # fmt: skip
Json = Mapping[str, object]
Row = Mapping[str, str]


class SideFileError(ValueError):
    """A side file that is not what it should be. The message quotes nothing of it."""


def read_json(path: Path) -> Json:
    """A JSON object of at most 4 MiB."""
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError):
        raise SideFileError("it is no JSON") from None
    if not isinstance(content, dict):
        raise SideFileError("it is no JSON object")
    return content


def read_table(path: Path, key: str, also: str = "") -> Sequence[Row]:
    """Rows of a table with tabs; cells that are not given are "". The column `key`, with `also` if there is one, names each row."""
    try:
        rows = list(csv.reader(io.StringIO(_text(path), newline=""), delimiter="\t", strict=True))
    except csv.Error:
        raise SideFileError("it is no table with tabs") from None
    rows = [row for row in rows if any(cell.strip() for cell in row)]  # spreadsheets end a table with rows of empty cells
    header = [name.strip() for name in rows[0]] if rows else []
    if key not in header or len(set(header)) != len(header):
        raise SideFileError(f"its first line lacks {key}, or has a column twice")
    if any(len(row) != len(header) for row in rows[1:]):
        raise SideFileError("a row has more or fewer cells than the first line")
    found = [{name: _cell(cell) for name, cell in zip(header, row, strict=True)} for row in rows[1:]]
    if len({(row[key], row.get(also)) for row in found}) != len(found):
        raise SideFileError("two of its rows are about the same")
    return found


def _cell(cell: str) -> str:
    return "" if (given := cell.strip()).lower() in NOT_GIVEN else given


def _text(path: Path) -> str:
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise SideFileError(f"it is no plain file, or has more than {MAX_BYTES} bytes")
        return path.read_text(encoding="utf-8-sig")
    except OSError:
        raise SideFileError("the system refuses to read it") from None
    except UnicodeError:
        raise SideFileError("it is not written in UTF-8") from None


def day_of(cell: str) -> int | None:
    """A whole day; None if the cell is empty. `SideFileError` for anything else, such as a date."""
    if not cell:
        return None
    if (whole := DAY.fullmatch(cell)) is None:
        raise SideFileError("a day is no whole number")
    return int(whole[1])


def scanner_of(maker: object, model: object, tesla: object = None) -> str:
    """`Philips Ingenia 3T`: what of it is known, "" if nothing; at most 64 letters, digits and `. -+/`."""
    field = f"{tesla:g}T" if isinstance(tesla, int | float) and not isinstance(tesla, bool) and 0 < tesla < 25 else ""
    words = [str(part) if isinstance(part, str) else "" for part in (maker, model)]
    if words[1].lower().startswith(words[0].lower()):  # "Philips", "Philips Ingenia"
        words[0] = ""
    said = re.sub(r"[^\w .+/-]", " ", " ".join([*words, field]))
    return " ".join(said.split()).lstrip(" .+/-")[:SCANNER_MOST].rstrip()


def vendor_of(scanner: str) -> str:
    """`philips` for `Philips Ingenia 3T`; "" where the scanner's name begins with no known maker."""
    return next((code for word, code in MAKERS.items() if word in scanner.lower().split()[:1]), "")
