"""Workbooks as hospitals have them: what the sheet shows is what is read, and what would be lost is refused."""

import re
import warnings
import zipfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from openpyxl import Workbook

from tasks.importing import native_excel
from tasks.importing.errors import ImportRefused
from tasks.importing.native_files import parse_file
from tasks.importing.native_source import SourceTable, read_source
from tasks.importing.native_ways import Defaults

DEFAULTS = Defaults("de", frozenset({""}), None)


def read(path: Path, header_row: int = 1) -> SourceTable:
    given = {"name": "t.xlsx", "format": "excel", "sheet": "S", "patient": "P", "header_row": str(header_row)}
    return read_source(parse_file("t", dict(given), DEFAULTS), path, ("P", "A"))


def book(*rows: Sequence[object]) -> Workbook:
    made = Workbook()
    made.active.title = "S"
    for row in (("P", "A"), *rows):
        made.active.append(row)
    return made


def changed(source: Path, pattern: str, by: str) -> Path:
    """The same workbook with another text in its sheet."""
    target = source.with_name("changed.xlsx")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "xl/worksheets/sheet1.xml":
                content, count = re.subn(pattern.encode(), by.encode(), content)
                assert count == 1
            new.writestr(name, content)
    return target


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    book(("a", 3), ("b", 4), ("c", 5)).save(tmp_path / "t.xlsx")
    return tmp_path / "t.xlsx"


@pytest.mark.parametrize("declared", ["A1", "A1:B2", "A1:A4", "A1:XFD9"])
def test_no_row_or_column_is_lost_if_the_workbook_declares_a_wrong_size(plain: Path, declared: str) -> None:
    found = read(changed(plain, '<dimension ref="[^"]*"', f'<dimension ref="{declared}"'))
    assert (list(found.numbers), found.columns["A"]) == ([2, 3, 4], (Decimal(3), Decimal(4), Decimal(5)))


def test_merged_cells_below_the_header_are_refused_and_a_merged_title_is_not(tmp_path: Path) -> None:
    made = book(("p1", 5), (None, None), ("p2", 6))
    made.active.merge_cells("A2:A3")
    made.save(tmp_path / "t.xlsx")
    with pytest.raises(ImportRefused, match="row 2: merged cells"):
        read(tmp_path / "t.xlsx")
    titled = Workbook()
    titled.active.title = "S"
    for row in (("Export", None), ("P", "A"), ("p1", 5)):
        titled.active.append(row)
    titled.active.merge_cells("A1:B1")
    titled.save(tmp_path / "t.xlsx")
    assert list(read(tmp_path / "t.xlsx", header_row=2).numbers) == [3]


def test_a_percent_cell_is_the_number_that_the_sheet_shows(tmp_path: Path) -> None:
    made = book(("a", -0.004), ("b", 0.45), ("c", 0.45))
    made.active["B2"].number_format, made.active["B3"].number_format = "0.0%", "0%"
    made.save(tmp_path / "t.xlsx")
    assert read(tmp_path / "t.xlsx").columns["A"] == (Decimal("-0.4"), Decimal(45), Decimal("0.45"))


def test_a_formula_that_gives_an_empty_text_is_an_empty_cell(plain: Path) -> None:
    cell = '<c r="B3" t="str"><f>IF(A9="","","x")</f><v></v></c>'
    assert read(changed(plain, '<c r="B3".*?</c>', cell)).columns["A"] == (Decimal(3), "", Decimal(5))


def test_a_workbook_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = changed(plain, "</sheetData>", " " * 100_000 + "</sheetData>")
    monkeypatch.setattr(native_excel, "MAX_UNPACKED", 50_000)
    with pytest.raises(ImportRefused, match="bytes unpacked, limit 50000"):
        read(target)
    assert len(read(plain).numbers) == 3


def test_no_warning_of_the_reader_shows_a_cell(tmp_path: Path) -> None:
    made = book(("a", 987654321))
    made.active["B2"].number_format = "dd.mm.yyyy"
    made.save(tmp_path / "t.xlsx")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert read(tmp_path / "t.xlsx").columns["A"] == ("#VALUE!",)
    assert [each for each in told if "987654321" in str(each.message)] == []
