"""A site's tables as text, cell by cell, before anything is believed of them. Nothing is repaired, nothing is lost.

CSV: UTF-8, commas, a header, numbers with a decimal point. Parquet: the same content. Rows are numbered as a spreadsheet
shows them, the header being row 1, in both.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tasks.errors import DataError
from tasks.mapping import MAPPING_FILE
from tasks.ms.manifest import MANIFEST_FILE
from tasks.ms.schema import DataContract, Table

ENDINGS: Final = (".csv", ".parquet")
MAX_BYTES: Final = 1 << 30


class Unreadable(DataError):
    """One file is no table of the contract. `rule` names the demand that it breaks, `columns` what is concerned."""

    def __init__(self, rule: str, detail: str, columns: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.rule, self.detail, self.columns = rule, detail, tuple(columns)


@dataclass(frozen=True)
class TextTable:
    """A file as it stands: the columns that the contract knows as texts, and what did not fit."""

    file: str
    header: tuple[str, ...]
    columns: Mapping[str, Sequence[str]] = field(repr=False)  # every column of the header, (n_rows,) each
    numbers: Sequence[int] = field(repr=False)  # (n_rows,) row numbers
    blank: tuple[int, ...]
    malformed: Mapping[int, tuple[str, ...]] = field(repr=False)  # row number -> cells

    @property
    def rows_read(self) -> int:
        """All rows below the header."""
        return len(self.numbers) + len(self.blank) + len(self.malformed)

    def cells(self, position: int) -> tuple[str, ...]:
        """The row at `position` among those that fit the header."""
        return tuple(self.columns[name][position] for name in self.header)


def find_tables(folder: Path, contract: DataContract) -> dict[str, tuple[Path, ...]]:
    """Which tables of the contract lie in `folder`, and the file or files of each."""
    found = {name: tuple(path for ending in ENDINGS if (path := folder / f"{name}{ending}").is_file()) for name in contract.names}
    return {name: paths for name, paths in found.items() if paths}


def holds_contract_tables(folder: Path, contract: DataContract) -> bool:
    """Whether `folder` is meant as contract tables: a manifest says so, or the tables' names where no mapping lies."""
    if (folder / MANIFEST_FILE).is_file():
        return True
    return not (folder / MAPPING_FILE).is_file() and bool(find_tables(folder, contract))


def read_text_table(path: Path, table: Table) -> TextTable:
    """The file at `path`; `Unreadable` if it is not the table that the contract means. No message holds a cell."""
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise Unreadable("unreadable", f"it has {size} bytes, limit {MAX_BYTES}")
        return _read_parquet(path, table) if path.suffix == ".parquet" else _read_csv(path, table)
    except OSError as error:
        raise Unreadable("unreadable", error.strerror or "the system refuses to read it") from error


def _read_csv(path: Path, table: Table) -> TextTable:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            records = [tuple(cell.strip() for cell in record) for record in csv.reader(file, strict=True)]
    except UnicodeError:
        # from None: the cause's text holds bytes of the table
        raise Unreadable("unreadable", "it is not written in UTF-8") from None
    except csv.Error as error:
        raise Unreadable("unreadable", f"it is no CSV table: {error}") from error
    header = _checked_header(records[0] if records else (), table)
    fitting, numbers, blank, malformed = [], [], [], {}
    for number, cells in enumerate(records[1:], start=2):
        if not any(cells):
            blank.append(number)
        elif len(cells) != len(header):
            malformed[number] = cells
        else:
            fitting.append(cells)
            numbers.append(number)
    columns = dict(zip(header, zip(*fitting, strict=True), strict=True)) if fitting else dict.fromkeys(header, ())
    return TextTable(path.name, header, columns, numbers, tuple(blank), malformed)


def _checked_header(header: tuple[str, ...], table: Table) -> tuple[str, ...]:
    """`header`, if it is one. What stands in the first line of a file without a header is a patient's and is not named."""
    if absent := [name for name in table.required if name not in header]:
        raise Unreadable("missing_column", f"the first line lacks {', '.join(absent)}", absent)
    if repeated := [name for name in table.names if header.count(name) > 1]:
        raise Unreadable("unreadable", f"the column {repeated[0]} stands twice in it", repeated)
    if len(set(header)) != len(header):
        raise Unreadable("unreadable", "two of its columns have one name")
    return header


def _read_parquet(path: Path, table: Table) -> TextTable:
    import pyarrow as pa  # here: whoever has CSV tables need not have it
    import pyarrow.parquet as pq

    try:
        read = pq.read_table(path)
        found = [_texts(column.to_pylist()) for column in read.columns]
    except (pa.ArrowException, ValueError):
        raise Unreadable("unreadable", "it is no Parquet table") from None  # the cause may quote what it found
    header = _checked_header(tuple(str(name) for name in read.column_names), table)
    columns = dict(zip(header, found, strict=True))
    numbers = range(2, read.num_rows + 2)
    blank = {n for n, cells in zip(numbers, zip(*columns.values(), strict=True), strict=True) if not any(cells)}
    if blank:
        kept = [index for index, n in enumerate(numbers) if n not in blank]
        columns = {name: [texts[index] for index in kept] for name, texts in columns.items()}
    return TextTable(path.name, header, columns, [n for n in numbers if n not in blank], tuple(sorted(blank)), {})


def _texts(values: Iterable[object]) -> list[str]:
    return [_text(value) for value in values]


def _text(value: object) -> str:
    """A Parquet cell as it would stand in a CSV file."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.0f}" if value.is_integer() else repr(value)
    if isinstance(value, list):
        return "|".join(map(str, value))
    return str(value).strip()
