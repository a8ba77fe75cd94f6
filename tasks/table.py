"""A hospital's own file as rows of text, with nothing repaired silently.

A row that does not fit the header is reported by number, a file that is not what the mapping says is refused.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import DataError
from tasks.mapping import TableFormat

MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Row:
    """One line of the table; `number` is the spreadsheet's (header = 1)."""

    number: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows that fit the header, and the numbers of those that do not."""

    name: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    blank: tuple[int, ...]
    malformed: tuple[int, ...]

    @property
    def rows_read(self) -> int:
        """All rows below the header."""
        return len(self.rows) + len(self.blank) + len(self.malformed)

    def position(self, column: str) -> int:
        """Where `column` stands in each row; `DataError` if the table has no such column."""
        if column not in self.header:
            raise DataError(f"{self.name} has no column {column!r}: correct the mapping or the export")
        return self.header.index(column)


def read_table(folder: Path, layout: TableFormat) -> Table:
    """The native file of `folder`; header and cells lose blanks at both ends."""
    path = folder / layout.name
    records = _records(path, layout)
    if not records:
        raise DataError(f"{layout.name} is empty: export it again, with its header")
    header = records[0]
    if repeated := sorted({name for name in header if name and header.count(name) > 1}):
        raise DataError(f"{layout.name} has two columns called {repeated[0]!r}: rename one in the export")
    rows, blank, malformed = [], [], []
    for number, cells in enumerate(records[1:], start=2):
        if not any(cells):
            blank.append(number)
        elif len(cells) != len(header):
            malformed.append(number)
        else:
            rows.append(Row(number, cells))
    return Table(layout.name, header, tuple(rows), tuple(blank), tuple(malformed))


def _records(path: Path, layout: TableFormat) -> list[tuple[str, ...]]:
    encoding = "utf-8-sig" if layout.encoding.lower().replace("_", "-") in {"utf-8", "utf8"} else layout.encoding
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise DataError(f"{layout.name} has {size} bytes, limit {MAX_BYTES}: this is no patient table")
        with path.open(encoding=encoding, newline="") as file:
            reader = csv.reader(file, delimiter=layout.delimiter, strict=True)
            return [tuple(cell.strip() for cell in record) for record in reader]
    except FileNotFoundError as error:
        raise DataError(f"{layout.name} not found beside the mapping: copy the export there") from error
    except UnicodeError:
        # from None: the cause's text holds bytes of the table
        raise DataError(f"{layout.name} is not written in {layout.encoding}: set table.encoding") from None
    except csv.Error as error:
        raise DataError(f"{layout.name} is no table with delimiter {layout.delimiter!r}: {error}") from error
    except OSError as error:
        raise DataError(f"{layout.name} cannot be read: {error.strerror}") from error
