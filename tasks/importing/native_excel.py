"""One sheet of an Excel workbook (.xlsx) as rows of values, as the sheet shows them. What would be lost on the way is refused.

A workbook is a ZIP archive of XML: its size in memory is that of its parts, which the archive declares before they are unpacked.
"""

from __future__ import annotations

import re
import warnings
import zipfile
import zlib
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from tasks.importing.errors import ImportRefused
from tasks.importing.native_files import SourceFile

MAX_UNPACKED: Final = 1 << 30  # bytes
UNREADABLE_BOOK: Final = (  # what a damaged or encrypted workbook makes of a reader that expects a whole one
    zipfile.BadZipFile, zlib.error, LookupError, ValueError, TypeError, AttributeError, EOFError, SyntaxError, RuntimeError,
    ArithmeticError,
)  # fmt: skip
_MERGED: Final = re.compile(rb'<(?:\w+:)?mergeCell\s[^>]*?ref="[A-Z]+(\d+):[A-Z]+(\d+)"')
PERCENT: Final = Decimal(100)


def read_sheet(file: SourceFile, path: Path) -> list[tuple[Any, ...]]:
    """The rows of the sheet from its first, None where a cell is empty. `ImportRefused`: no such sheet, or cells would be lost."""
    import openpyxl  # here: whoever has CSV tables need not have it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the reader's warnings quote cells
            _check_size(file, path)
            rows, part = _sheet(openpyxl, file, path, values=True)
            _check_merged(file, path, part)
            if _has_formulas(path, part):
                _refuse_uncomputed(file, rows, _sheet(openpyxl, file, path, values=False)[0])
    except UNREADABLE_BOOK:
        # from None: the cause may quote cells
        raise ImportRefused(f"{file.key}: the file is no Excel table (.xlsx): save it again as .xlsx") from None
    return rows


def _check_size(file: SourceFile, path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(each.file_size for each in archive.infolist())  # no part unpacks to more than it declares
    if size > MAX_UNPACKED:
        raise ImportRefused(f"{file.key}: the workbook has {size} bytes unpacked, limit {MAX_UNPACKED}: export it in parts")


def _sheet(openpyxl: Any, file: SourceFile, path: Path, *, values: bool) -> tuple[list[tuple[Any, ...]], str]:
    """The rows, and the archive's name of the sheet."""
    with path.open("rb") as handle:  # opened here: its name may end in anything
        book = openpyxl.load_workbook(handle, read_only=True, data_only=values)
        if file.sheet not in book.sheetnames:
            raise ImportRefused(f"{file.key}: the workbook has no sheet {file.sheet!r}: correct files.{file.key}.sheet")
        sheet = book[file.sheet]
        sheet.reset_dimensions()  # some programs declare fewer rows or columns than there are
        if not values:
            return list(sheet.iter_rows(values_only=True)), ""
        formats: dict[int, bool] = {}
        return [tuple(_shown(cell, formats) for cell in row) for row in sheet.iter_rows()], sheet._worksheet_path


def _shown(cell: Any, formats: dict[int, bool]) -> Any:
    """The cell's value: 45 of 45 %, which is stored as 0.45, and "" of a formula that gives an empty text."""
    value = cell.value
    if value is None:
        return "" if cell.data_type == "str" else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        style = cell._style_id
        if style not in formats:
            formats[style] = "%" in cell.number_format
        if formats[style]:
            return Decimal(repr(value)) * PERCENT
    return value


def _check_merged(file: SourceFile, path: Path, part: str) -> None:
    """Of merged cells only the first holds the value: the others would read as empty, and whole rows as blank."""
    with zipfile.ZipFile(path) as archive:
        found = [(int(first), int(last)) for first, last in _MERGED.findall(archive.read(part.lstrip("/")))]
    if below := [first for first, last in found if last >= file.header_row]:
        raise ImportRefused(
            f"{file.key}, row {min(below)}: merged cells, of which only the first holds a value: unmerge them and fill each one in"
        )


def _has_formulas(path: Path, part: str) -> bool:
    with zipfile.ZipFile(path) as archive:
        content = archive.read(part.lstrip("/"))
    return b"<f>" in content or b"<f " in content


def _refuse_uncomputed(file: SourceFile, values: list[tuple[Any, ...]], formulas: list[tuple[Any, ...]]) -> None:
    """A formula whose result was never stored reads as empty: that would be a silent loss."""
    for number, (row, written) in enumerate(zip(values, formulas, strict=True), 1):
        if any(value is None and formula is not None for value, formula in zip(row, written, strict=False)):
            raise ImportRefused(f"{file.key}, row {number}: a formula without a stored result: open the file in Excel and save it")
