"""A hospital's own CSV, Excel or Parquet table as columns of cells, row by row numbered as a spreadsheet shows them.

Nothing is repaired: a row that does not fit the header is reported by number, a file that is not what the mapping says is
refused. No message holds a cell, nor a name from a header that may be a patient's row.
"""

from __future__ import annotations

import csv
import datetime
import stat
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from tasks.importing.errors import ImportRefused
from tasks.importing.native_cells import Cell, as_text
from tasks.importing.native_excel import read_sheet
from tasks.importing.native_files import SourceFile
from tasks.importing.native_mapping import NativeMapping

MAX_BYTES: Final = 1 << 28  # a CSV table takes about 18 times as much memory
MAX_CELLS: Final = 50_000_000  # of a Parquet table, which may be far smaller than what it unpacks to


@dataclass(frozen=True)
class SourceTable:
    """One table as it stands; `columns` hold the cells of the rows that fit the header."""

    file: SourceFile
    columns: Mapping[str, Sequence[Cell]] = field(repr=False)  # every named column, (n_rows,) each
    numbers: Sequence[int] = field(repr=False)  # (n_rows,)
    malformed: tuple[int, ...]

    @property
    def rows_read(self) -> int:
        """All rows below the header that hold anything."""
        return len(self.numbers) + len(self.malformed)


Records = list[tuple[int, tuple[Cell, ...]]]  # row number, cells; the header first


def read_sources(mapping: NativeMapping, place: Path | Mapping[str, Path]) -> dict[str, SourceTable]:
    """The tables that `mapping` names: in a folder, in one file, or at a path for each key of its files."""
    return {key: read_source(file, _path(file, place, mapping), mapping.read(key)) for key, file in mapping.files.items()}


def _path(file: SourceFile, place: Path | Mapping[str, Path], mapping: NativeMapping) -> Path:
    if not isinstance(place, Path):
        return place[file.key]
    if place.is_dir():
        return place / file.name
    if len({each.name for each in mapping.files.values()}) > 1:
        raise ImportRefused("the mapping reads several files: name the folder that holds them, not one file")
    return place


def read_source(file: SourceFile, path: Path, wanted: Sequence[str]) -> SourceTable:
    """The table at `path`, which must have the columns `wanted` and no other but those that the mapping leaves out."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ImportRefused(f"{file.key}: {file.name} is no file: copy the export there")
        if (size := facts.st_size) > MAX_BYTES:
            raise ImportRefused(f"{file.key}: the file has {size} bytes, limit {MAX_BYTES}: export it in parts")
        records = _READERS[file.format](file, path)
    except FileNotFoundError as error:
        raise ImportRefused(
            f"{file.key}: there is no file {file.name}: copy the export there, or correct files.{file.key}.name"
        ) from error
    except OSError as error:
        raise ImportRefused(f"{file.key}: the file cannot be read: {error.strerror or 'the system refuses'}") from None
    if not records:
        raise ImportRefused(f"{file.key}: the table is empty: export it again, with its header")
    header = _header(file, records, wanted)
    return _table(file, header, len(records[0][1]), records[1:])


def _header(file: SourceFile, records: Records, wanted: Sequence[str]) -> tuple[str, ...]:
    """The names of the columns. What stands in the first line of a file without a header is a patient's and is not named."""
    header = tuple(as_text(cell).strip() for cell in records[0][1])
    while (
        header
        and not header[-1]
        and not any(len(cells) >= len(header) and cells[len(header) - 1] != "" for _, cells in records[1:])
    ):
        header = header[:-1]  # what a spreadsheet leaves behind to the right
    if absent := [name for name in (*wanted, *file.not_mapped) if name not in header]:
        raise ImportRefused(
            f"{file.key}: row {file.header_row} lacks the column {absent[0]!r}"
            f"{f' and {len(absent) - 1} more' if len(absent) > 1 else ''}: correct the mapping, its header_row or the export"
        )
    for number, name in enumerate(header, 1):
        if not name:
            raise ImportRefused(
                f"{file.key}: column {number} has no name: name it in the export, then map it or list it in not_mapped"
            )
        if header.count(name) > 1:
            raise ImportRefused(f"{file.key}: two columns have the name of column {number}: rename one in the export")
    if strange := [name for name in header if name not in wanted and name not in file.not_mapped]:
        raise ImportRefused(
            f"{file.key}: the mapping says nothing of the column {strange[0]!r}"
            f"{f' and {len(strange) - 1} more' if len(strange) > 1 else ''}: map it, or list it in not_mapped with the reason"
        )
    return header


def _table(file: SourceFile, header: tuple[str, ...], width: int, records: Records) -> SourceTable:
    """`width`: cells of a row, more than `header` if empty columns stand to the right of it."""
    fitting, numbers, malformed = [], [], []
    for number, cells in records:
        if not any(cell != "" for cell in cells):
            continue  # a blank row holds nothing that could be lost
        if len(cells) != width:
            malformed.append(number)
            continue
        fitting.append(cells[: len(header)])
        numbers.append(number)
    columns = dict(zip(header, zip(*fitting, strict=True), strict=True)) if fitting else dict.fromkeys(header, ())
    return SourceTable(file, columns, numbers, tuple(malformed))


def _read_csv(file: SourceFile, path: Path) -> Records:
    try:
        with path.open(encoding=file.encoding, newline="") as handle:
            reader = csv.reader(handle, delimiter=file.delimiter, strict=True)
            records: Records = [(number, tuple(map(composed, each))) for number, each in enumerate(reader, 1)]
    except UnicodeError:
        # from None: the cause's text holds bytes of the table
        raise ImportRefused(
            f"{file.key}: the file is not written in the encoding of the mapping: correct files.{file.key}.encoding"
        ) from None
    except csv.Error:
        raise ImportRefused(
            f"{file.key}: the file is no CSV table with the delimiter of the mapping: look for a quote that never ends"
        ) from None
    return _from_header(file, records)


def _from_header(file: SourceFile, records: Records) -> Records:
    return records[file.header_row - 1 :]


def _read_excel(file: SourceFile, path: Path) -> Records:
    rows = read_sheet(file, path)
    width = max((len(row) for row in rows), default=0)
    return _from_header(file, [(number, tuple(map(typed, row)) + ("",) * (width - len(row))) for number, row in enumerate(rows, 1)])


def _read_parquet(file: SourceFile, path: Path) -> Records:
    import pyarrow as pa  # here: whoever has CSV tables need not have it
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as parts:
            if (cells := parts.metadata.num_rows * parts.metadata.num_columns) > MAX_CELLS:
                raise ImportRefused(f"{file.key}: the table has {cells} cells, limit {MAX_CELLS}: export it in parts")
            read = parts.read()
        columns = [_parquet_cells(pa, column) for column in read.columns]
    except (pa.ArrowException, ValueError, OverflowError):  # the last of a day that no calendar has
        raise ImportRefused(
            f"{file.key}: the file is no Parquet table that can be read: export it again"
        ) from None  # the cause may quote
    header: tuple[Cell, ...] = tuple(str(name) for name in read.column_names)
    rows = zip(*columns, strict=True) if columns else ()
    return [(1, header), *enumerate(rows, 2)]


def _parquet_cells(pa: Any, column: Any) -> list[Cell]:
    values: Iterable[Any] = column.to_pylist()
    if pa.types.is_float32(column.type):  # 3.6 of 32 bits is 3.6, not 3.5999999046325684
        import numpy as np

        values = [None if value is None else float(str(np.float32(value))) for value in values]
    return [typed(value) for value in values]


def composed(text: str) -> str:
    """Without blanks at its ends; an ü that is written as u and two dots is one letter, so that a patient has one name."""
    return unicodedata.normalize("NFC", text.strip())


def typed(value: Any) -> Cell:
    """A cell of a file with types; what is neither number nor day is its text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return composed(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return Decimal(value)
    if isinstance(value, float):
        return "" if value != value else Decimal(repr(value))
    if isinstance(value, Decimal):
        return value
    if isinstance(value, datetime.datetime):
        return value.date()
    return value if isinstance(value, datetime.date) else composed(str(value))


_READERS: Final = {"csv": _read_csv, "excel": _read_excel, "parquet": _read_parquet}
