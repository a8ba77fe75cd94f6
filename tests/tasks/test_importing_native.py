"""Mappings of a few lines on tables of a few rows: each way to fill a column, each refusal, each kind of file."""

import contextlib
import os
import random
import unicodedata
from datetime import date, datetime
from pathlib import Path
from typing import Literal, TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import TaskError
from tasks.importing import native_mapping, native_source
from tasks.importing.base import Imported
from tasks.importing.errors import ImportRefused
from tasks.importing.native import convert, read_native
from tasks.importing.native_mapping import NativeMapping, find_mapping, parse_native_mapping, read_native_mapping
from tasks.importing.native_source import read_sources
from tasks.importing.preview import preview, preview_page, problem_text

KEY = b"k" * 32
Form: TypeAlias = Literal["NFC", "NFD"]
TODAY = date(2026, 11, 29)
HEAD = """source: toy
version: 1
recorded: rwd
language: de
missing: ["", "?"]
dates: ["%d.%m.%Y"]
pseudonyms: keep
index: INDEX
files:
  t: {name: t.csv, format: csv, encoding: utf-8, delimiter: ";", decimal: ",", patient: P NOT}
tables:
"""
VISITS = "  visits: [{file: t, columns: {day: {from: D, as: date}, visit_id: {constant: v}, edss: {from: E, as: number}}}]"
FIRST = "{first_date: {file: t, from: D}}"


def mapping(tables: str, index: str = FIRST, not_mapped: str = "") -> NativeMapping:
    listed = f", not_mapped: {{{not_mapped}}}" if not_mapped else ""
    return parse_native_mapping(HEAD.replace("INDEX", index).replace(" NOT", listed) + tables)


def bring(folder: Path, tables: str, *lines: str, index: str = FIRST, not_mapped: str = "") -> Imported:
    (folder / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_native(mapping(tables, index, not_mapped), folder, KEY, today=TODAY)


def told(found: Imported) -> set[tuple[str, str, str, tuple[int, ...]]]:
    return {(each.table, each.column, each.rule, each.rows) for each in found.problems}


def test_days_count_from_the_first_visit_that_can_be_read(tmp_path: Path) -> None:
    found = bring(tmp_path, VISITS, "P;D;E", "a;05.01.2015;2,5", "a;01.01.2015;2", "b;01.01.2020;", "a;99.01.2010;1")
    visits = found.tables["visits"]
    assert list(zip(visits["patient_id"], visits["day"], strict=True)) == [("a", 0), ("a", 4), ("b", 0)]
    assert visits["edss"].tolist()[:2] == [2.0, 2.5]
    assert told(found) == {("visits", "D", "no_such_date", (5,))}


def test_a_patient_without_an_index_date_has_no_day_and_each_row_says_so(tmp_path: Path) -> None:
    found = bring(
        tmp_path, VISITS, "P;D;E;I", "a;01.01.2015;1;31.11.2014", "a;02.01.2015;1;", "b;03.01.2015;1;01.01.2015",
        index="{date: {file: t, from: I}}",
    )  # fmt: skip
    assert told(found) == {("", "I", "no_such_date", (2,)), ("visits", "D", "no_index_date", (2, 3))}
    assert found.tables["visits"]["day"].tolist() == [2]


def test_two_index_dates_of_one_patient_are_none(tmp_path: Path) -> None:
    lines = ("P;D;E;I", "a;01.01.2015;1;01.01.2015", "a;02.01.2015;1;02.01.2015")
    found = bring(tmp_path, VISITS, *lines, index="{date: {file: t, from: I}}")
    assert told(found) == {("", "I", "differs", (2, 3)), ("visits", "D", "no_index_date", (2, 3))}


def test_rows_of_one_patient_are_merged_where_they_agree(tmp_path: Path) -> None:
    tables = """  patients:
    - file: t
      merge: yes
      columns: {sex: {from: S, as: codes, codes: {w: F, m: M}}, comorbid_cardio: {from: H, as: yes_no}}"""
    found = bring(tmp_path, tables, "P;S;H", "a;w;ja", "a;;ja", "a;w;nein", "b;x;?", index="none")
    patients = found.tables["patients"].set_index("patient_id")
    assert patients.loc["a", "sex"] == "F"
    assert patients["comorbid_cardio"].isna().all()
    assert told(found) == {("patients", "H", "differs", (2, 3, 4)), ("patients", "S", "unknown_code", (5,))}


@pytest.mark.parametrize(
    ("filling", "line", "expected"),
    [
        ("birth_year: {from: B, as: year}", "24.12.1980", 1980),
        ("birth_year: {from: B, as: number}", "1980", 1980),
        ("birth_year: {from: B, as: birth_year, year: 2015}", "34", 1981),
        ("height_cm: {from: B, as: number, unit: in}", "70", 177.8),
        ("weight_kg: {from: B, as: number, unit: lb}", "150,5", 68.265651685),
        ("weight_kg: {from: B, as: number, factor: 0.5, offset: 1}", "150", 76),
        ("comorbid_psych: {from: B, as: yes_no}", "JA", 1),
        ("comorbid_psych: {from: B, as: codes, codes: {J: 1, N: 0}}", "N", 0),
        ("consent_scope: {from: B, as: codes, separator: '+', codes: {K: routine, B: imaging}}", "B+K", "routine|imaging"),
        ("onset_day: {from: B, as: number, unit: weeks}", "-3", -21),
    ],
)
def test_a_cell_becomes_what_the_contract_holds(tmp_path: Path, filling: str, line: str, expected: object) -> None:
    found = bring(tmp_path, f"  patients: [{{file: t, columns: {{{filling}}}}}]", "P;B", f"a;{line}", index="none")
    assert found.problems == ()
    assert found.tables["patients"][filling.partition(":")[0]].tolist() == [expected]


@pytest.mark.parametrize(("age", "year"), [("34", 1980), ("34,9", 1980), ("34,1", 1981), ("35", 1979)])
def test_an_age_on_a_date_gives_the_likeliest_year_of_birth(tmp_path: Path, age: str, year: int) -> None:
    tables = "  patients: [{file: t, columns: {birth_year: {from: A, as: birth_year, on: D}}}]"
    assert bring(tmp_path, tables, "P;A;D", f"a;{age};20.04.2015").tables["patients"]["birth_year"].tolist() == [year]
    assert told(bring(tmp_path, tables, "P;A;D", f"a;{age};")) == {("patients", "A", "no_reference", (2,))}


def test_ages_become_days_from_the_first_age(tmp_path: Path) -> None:
    tables = "  visits: [{file: t, columns: {day: {from: A, as: age_day}, visit_id: {constant: v}}}]"
    found = bring(tmp_path, tables, "P;A", "a;30,25", "a;29,25", "b;40", "b;140", index="{first_age: {file: t, from: A}}")
    assert found.tables["visits"]["day"].tolist() == [0, 365, 0]
    assert told(found) == {("visits", "A", "negative_age", (5,))}


def test_the_name_of_a_rater_becomes_a_pseudonym_that_needs_the_key(tmp_path: Path) -> None:
    tables = VISITS.replace("edss:", "rater_id: {from: R, as: pseudonym}, edss:")
    first = bring(tmp_path, tables, "P;D;E;R", "a;01.01.2015;1;Dr. Zähringer", "b;01.01.2015;1;Dr. Zähringer").tables["visits"]
    other = read_native(mapping(tables), tmp_path, b"x" * 32, today=TODAY).tables["visits"]
    assert first["rater_id"].nunique() == 1
    two = tables.replace("visit_id: {constant: v}", "visit_id: {from: R, as: pseudonym}")
    both = read_native(mapping(two), tmp_path, KEY, today=TODAY).tables["visits"]
    assert both["rater_id"].tolist() == first["rater_id"].tolist()
    assert not set(both["rater_id"]) & set(both["visit_id"])  # nobody can be followed from one column to another
    assert "Z" not in first["rater_id"][0]
    assert first["rater_id"][0] != other["rater_id"][0]


def test_a_month_is_refused_unless_the_mapping_allows_it_and_its_precision_is_kept_where_there_is_a_place(tmp_path: Path) -> None:
    onset, end = "{from: D, as: date, dates: ['%m.%Y', '%d.%m.%Y', '%Y']}", "{from: E, as: date, dates: ['%m.%Y']}"
    strict = f"  relapses: [{{file: t, columns: {{onset_day: {onset}, end_day: {end}}}}}]"
    index = "{date: {file: t, from: I}}"
    lines = ("P;D;E;I", "a;06.2015;07.2015;01.01.2015", "b;2015;;01.01.2015", "c;05.06.2015;;01.01.2015")
    found = bring(tmp_path, strict, *lines, index=index)
    assert found.tables["relapses"]["onset_precision_d"].tolist() == [15, 0]
    assert told(found) == {("relapses", "E", "imprecise_date", (2,)), ("relapses", "D", "imprecise_date", (3,))}
    allowed = strict.replace("dates: ['%m.%Y']}", "dates: ['%m.%Y'], at_most_d: 16}")
    assert bring(tmp_path, allowed, *lines, index=index).tables["relapses"]["end_day"].tolist()[0] == 196
    with pytest.raises(ImportRefused, match="0 to 90 days"):
        mapping(strict.replace("'%Y']}", "'%Y'], at_most_d: 183}"), index)


def test_weeks_of_a_wearable_count_from_the_index_date(tmp_path: Path) -> None:
    value = "value: {from: E, as: number, unit: 1/day}"
    tables = f"  wearables: [{{file: t, columns: {{week: {{from: D, as: date}}, feature: {{constant: steps_day}}, {value}}}}}]"
    found = bring(tmp_path, tables, "P;D;E;I", "a;06.01.2015;1;08.01.2015", "a;15.01.2015;2;", index="{date: {file: t, from: I}}")
    assert found.tables["wearables"]["week"].tolist() == [-1, 1]


def test_a_row_of_nobody_is_reported_once_and_left_out_of_every_table(tmp_path: Path) -> None:
    found = bring(tmp_path, VISITS, "P;D;E", ";01.01.2015;1", "?;01.01.2015;1", "a;01.01.2015;1")
    assert told(found) == {("", "P", "no_patient", (2, 3))}
    assert len(found.tables["visits"]) == 1


def test_rows_that_no_table_takes_and_rows_of_other_length_are_reported(tmp_path: Path) -> None:
    tables = VISITS.replace("{file: t, ", "{file: t, where: {K: [visite]}, ")
    found = bring(
        tmp_path, tables, "P;D;E;K", "a;01.01.2015;1;visite", "a;01.02.2015;1;labor", "a;01.03.2015;1", "", "a;01.04.2015;1;x;y"
    )
    assert told(found) == {("", "", "not_selected", (3,)), ("", "", "malformed_row", (4, 6))}
    assert found.read == {"t": 4}


def instead(filling: str) -> str:
    return VISITS.replace("edss: {from: E, as: number}", filling)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (VISITS.replace("as: number", "as: text"), "does not give what this column holds"),
        (VISITS.replace("as: number", "as: guess"), "needs `constant`, or `as`"),
        (VISITS.replace("edss", "edsss"), "unknown key 'edsss'"),
        (VISITS.replace("visit_id: {constant: v}, ", ""), "says nothing of visit_id"),
        (VISITS.replace("visits:", "visit:"), "no such table"),
        (instead("t25fw_s: {from: E, as: number}"), "needs unit"),
        (instead("t25fw_s: {from: E, as: number, unit: mile}"), "use s, min, ms, or add factor"),
        (instead("t25fw_s: {from: E, as: number, unit: min, factor: 6}"), "is not that of min"),
        (VISITS.replace("as: number", "as: number, factor: 0"), "factor is 0"),
        (VISITS.replace("as: number", "as: number, factor: x"), "must be a number"),
        (VISITS.replace("as: number", "as: number, wert: 1"), "unknown key 'wert'"),
        (instead("phenotype: {from: E, as: codes, codes: {1: MS}}"), "'MS' is no code"),
        (instead("phenotype: {from: E, as: codes, codes: {'?': CIS}}"), "both as a code and as missing"),
        (instead("phenotype: {constant: MS}"), "'MS' is no code"),
        (VISITS.replace("{constant: v}", "{constant: a b}"), "not written as the contract wants"),
        (VISITS.replace("as: date", "as: date, at_most_d: 400"), "0 to 183 days"),
        (VISITS.replace("file: t", "file: u"), "use one of t"),
        (VISITS.replace("file: t", "file: t, repeat: {n: [1, 2], m: [1]}"), "of one length"),
        (VISITS.replace("from: E", "from: 'E{n}'").replace("file: t", "file: t, repeat: {m: [1]}"), "{n} is not in repeat"),
        (VISITS.replace("file: t", "file: t, merge: yes"), "merge is for tables"),
        ("  treatments: [{file: t, columns: {start_day: {from: D, as: date}, drug: {constant: none}, "
         "dmt_class: {from: E, as: drug_class}}}]",
         "needs drug from the same column"),
        ("  patients: [{file: t, columns: {birth_year: {from: A, as: birth_year}}}]", "by a reference"),
        ("  biomarkers: [{file: t, columns: {day: {from: D, as: date}, analyte: {from: E, as: codes, codes: {n: nfl}}, "
         "unit: {constant: pg/mL}, value: {from: E, as: number}}}]", "needs unit"),
        ("  wearables: [{file: t, columns: {week: {from: D, as: date}, feature: {from: F, as: codes, codes: {s: steps_day}}, "
         "value: {from: E, as: number}}}]", "needs unit"),
    ],
)  # fmt: skip
def test_a_mapping_that_leaves_something_open_is_refused(tables: str, says: str) -> None:
    with pytest.raises(ImportRefused, match=says.replace("(", r"\(").replace("{", r"\{")):
        mapping(tables)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version: 1", "version: 2", "another version"),
        ("language: de", "language: xx", "use one of de, en, fr, it, es"),
        ("recorded: rwd", "recorded: made", "use one of rwd"),
        ("pseudonyms: keep", "pseudonyms: none", "use one of keep, keyed"),
        ('dates: ["%d.%m.%Y"]', "x: 1", "unknown key 'x'"),
        ('dates: ["%d.%m.%Y"]', "dates: []", "declare how they are written"),
        ('dates: ["%d.%m.%Y"]', 'dates: ["%d.%m.%y"]', "add pivot"),
        ("encoding: utf-8, ", "", "lacks encoding"),
        ("encoding: utf-8", "encoding: utf-16", "use one of utf-8"),
        ('delimiter: ";"', 'delimiter: "x"', "delimiter is 'x'"),
        ('decimal: ","', 'decimal: ",", thousands: ","', "the same mark"),
        ('decimal: ","', 'decimal: "x"', "use one of"),
        ("format: csv", "format: xls", "use one of csv, excel, parquet"),
        ("format: csv", "format: parquet", "encoding means nothing for parquet"),
        ("name: t.csv", "name: ../t.csv", "bare name"),
        ("patient: P", "patient: P, not_mapped: {E: why}", "is used and also listed"),
        ("patient: P", "patient: P, header_row: 0", "from 1 up"),
        (FIRST, "none", "names no date to count"),
        (FIRST, "{first: {file: t, from: D}}", "unknown key 'first'"),
        (FIRST, "sometime", "index must be none, or one of"),
        ("tables:", "tables: {}\nx:", "unknown key 'x'"),
        ("source: toy", "source: ''", "one text, not empty"),
        ('missing: ["", "?"]', "missing: none", "list of texts"),
        ("version: 1\n", "", "lacks version"),
        ('dates: ["%d.%m.%Y"]', 'dates: ["%d.%m.%Y"]\npivot: 130', "0 to 99"),
        ('dates: ["%d.%m.%Y"]', 'dates: ["%d.%m.%Y"]\npivot: inf', "must be finite"),
        ("files:\n", "files: {}\nfile:\n", "unknown key 'file'"),
        ("  t: {name", "  t: x\n  u: {name", "files.t must be a section"),
        ("visits: [", "visits: []\n  x: [", "must be a list of rules"),
        ("as: date}", "as: age_day}", "index must then be first_age"),
    ],
)
def test_a_head_that_leaves_something_open_is_refused(old: str, new: str, says: str) -> None:
    text = HEAD.replace("INDEX", FIRST).replace(" NOT", "") + VISITS
    assert old in text
    with pytest.raises(TaskError, match=says):
        parse_native_mapping(text.replace(old, new))


def test_a_pivot_counts_for_the_dates_of_one_column_and_of_the_index_too(tmp_path: Path) -> None:
    text = (
        HEAD.replace("INDEX", "{date: {file: t, from: I, dates: ['%y%m%d']}}")
        .replace(" NOT", "")
        .replace('["%d.%m.%Y"]', "[]\npivot: 30")
    )
    chosen = parse_native_mapping(text + VISITS.replace("as: date", "as: date, dates: ['%d.%m.%y']"))
    (tmp_path / "t.csv").write_text("P;D;E;I\na;03.01.15;1;150101\n")
    assert read_native(chosen, tmp_path, KEY, today=TODAY).tables["visits"]["day"].tolist() == [2]


def test_the_index_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    text = HEAD.replace("INDEX", "{date: {file: u, from: I}}").replace(" NOT", "") + VISITS
    more = "  u: {name: u.csv, format: csv, encoding: utf-8, delimiter: tab, patient: P, not_mapped: {X: why}}\ntables:"
    chosen = parse_native_mapping(text.replace("tables:", more))
    (tmp_path / "t.csv").write_text("P;D;E\na;03.01.2015;1\nb;03.01.2015;1\n")
    (tmp_path / "u.csv").write_text("P\tI\tX\na\t01.01.2015\tx\n\t01.01.2015\tx\n")
    found = read_native(chosen, tmp_path, KEY, today=TODAY)
    assert found.tables["visits"]["day"].tolist() == [2]
    assert told(found) == {("", "P", "no_patient", (3,)), ("visits", "D", "no_index_date", (3,))}
    with pytest.raises(ImportRefused, match="name the folder that holds them"):
        read_native(chosen, tmp_path / "t.csv", KEY, today=TODAY)


def test_a_set_of_columns_whose_words_contradict_each_other_is_refused() -> None:
    both = "{as: set, of: {V: visual}, yes: [x], no: [x]}"
    with pytest.raises(ImportRefused, match="means both yes and no"):
        mapping(f"  relapses: [{{file: t, columns: {{onset_day: {{from: D, as: date}}, fs_affected: {both}}}}}]")


def test_a_mapping_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ImportRefused, match="cannot be read as UTF-8"):
        read_native_mapping(tmp_path / "m.yaml")


def test_a_file_that_no_table_reads_is_refused() -> None:
    text = HEAD.replace("INDEX", FIRST).replace(" NOT", "") + VISITS
    with pytest.raises(ImportRefused, match=r"files\.u is read by no table"):
        parse_native_mapping(text.replace("tables:", "  u: {name: u.parquet, format: parquet, patient: P}\ntables:"))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ((), "empty"),
        (("P;D", "a;01.01.2015"), "row 1 lacks the column 'E'"),
        (("P;D;E;Neu", "a;01.01.2015;1;2"), "says nothing of the column 'Neu'"),
        (("P;D;E;E", "a;01.01.2015;1;2"), "two columns have the name of column 3"),
        (("P;D;E;;X", "a;01.01.2015;1;2;3"), "column 4 has no name"),
        (('P;D;E', 'a;01.01.2015;"1'), "a quote that never ends"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_the_mapping_says_is_refused(tmp_path: Path, lines: tuple[str, ...], says: str) -> None:
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ImportRefused, match=says):
        read_native(mapping(VISITS), tmp_path, KEY, today=TODAY)


def test_a_first_line_that_is_a_patient_is_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused) as refused:
        bring(tmp_path, VISITS, "Zähringer;01.01.1970;1", "b;01.01.2015;1")
    assert "Zähringer" not in str(refused.value)


def test_a_wrong_encoding_is_refused_without_a_byte_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("P;D;E\nZähringer;01.01.2015;1\n".encode("cp1252"))
    with pytest.raises(ImportRefused, match="encoding") as refused:
        read_native(mapping(VISITS), tmp_path, KEY, today=TODAY)
    assert refused.value.__cause__ is None
    assert "hringer" not in str(refused.value)


def test_a_byte_order_mark_and_empty_columns_to_the_right_are_no_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("P;D;E;;\na;01.01.2015;1;;\n".encode("utf-8-sig"))
    assert len(read_native(mapping(VISITS), tmp_path, KEY, today=TODAY).tables["visits"]) == 1


def test_a_missing_file_is_named_as_the_mapping_names_it(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"t: there is no file t\.csv"):
        read_native(mapping(VISITS), tmp_path, KEY, today=TODAY)


def test_one_file_can_be_named_itself(tmp_path: Path) -> None:
    (tmp_path / "export of May.csv").write_text("P;D;E\na;01.01.2015;1\n")
    place = tmp_path / "export of May.csv"
    assert len(read_native(mapping(VISITS), place, KEY, today=TODAY).tables["visits"]) == 1
    assert len(read_native(mapping(VISITS), {"t": place}, KEY, today=TODAY).tables["visits"]) == 1


def excel(how: str = "sheet: S") -> NativeMapping:
    text = HEAD.replace("INDEX", FIRST).replace(" NOT", "") + VISITS
    return parse_native_mapping(
        text.replace('t.csv, format: csv, encoding: utf-8, delimiter: ";"', f"t.xlsx, format: excel, {how}")
    )


def test_typed_cells_of_a_spreadsheet_need_no_format(tmp_path: Path) -> None:
    frame = pd.DataFrame({"P": [17, 18], "D": [datetime(2015, 1, 1), datetime(2015, 1, 3)], "E": [2.5, None]})
    frame.to_excel(tmp_path / "t.xlsx", sheet_name="S", index=False)
    visits = read_native(excel(), tmp_path, KEY, today=TODAY).tables["visits"]
    assert visits["patient_id"].tolist() == ["17", "18"]
    assert visits["edss"].tolist()[0] == 2.5
    with pytest.raises(ImportRefused, match="has no sheet 'T'"):
        read_native(excel("sheet: T"), tmp_path, KEY, today=TODAY)


def test_a_formula_without_a_result_is_refused_instead_of_read_as_empty(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    book.active.title = "S"
    for row in (["P", "D", "E"], ["a", "01.01.2015", "=1+1"]):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(ImportRefused, match="row 2: a formula without a stored result"):
        read_native(excel(), tmp_path, KEY, today=TODAY)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no workbook", b"P;D;E\n"])
def test_what_is_no_spreadsheet_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.xlsx").write_bytes(content)
    with pytest.raises(ImportRefused, match="no Excel table"):
        read_native(excel(), tmp_path, KEY, today=TODAY)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_workbook_is_refused_or_read_and_nothing_else_happens(tmp_path: Path, seed: int) -> None:
    frame = pd.DataFrame({"P": ["a", "b"], "D": [datetime(2015, 1, 1), datetime(2015, 1, 3)], "E": [2.5, None]})
    frame.to_excel(tmp_path / "t.xlsx", sheet_name="S", index=False)
    content, chance = bytearray((tmp_path / "t.xlsx").read_bytes()), random.Random(seed)
    for _ in range(4):
        content[chance.randrange(len(content))] = chance.randrange(256)
    (tmp_path / "t.xlsx").write_bytes(content)
    with contextlib.suppress(ImportRefused):
        assert len(read_sources(excel(), tmp_path)["t"].numbers) <= 2


HEADER_OF_PARQUET = (
    HEAD.replace("INDEX", FIRST)
    .replace(" NOT", "")
    .replace('t.csv, format: csv, encoding: utf-8, delimiter: ";"', "t.parquet, format: parquet")
)


def parquet() -> NativeMapping:
    return parse_native_mapping(HEADER_OF_PARQUET + VISITS)


def test_numbers_of_32_bits_are_the_numbers_that_were_meant(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"P": ["a", "b"], "D": pd.to_datetime(["2015-01-01", "2015-01-01"]), "E": pd.Series([6.1, None], dtype="float32")}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_native(parquet(), tmp_path, KEY, today=TODAY).tables["visits"]["edss"].tolist()[0] == 6.1
    (tmp_path / "t.parquet").write_bytes(b"PAR1 none PAR1")
    with pytest.raises(ImportRefused, match="no Parquet table"):
        read_native(parquet(), tmp_path, KEY, today=TODAY)


def test_truth_values_of_a_typed_file_are_yes_and_no_in_every_language(tmp_path: Path) -> None:
    frame = pd.DataFrame({"P": ["a", "b", "c"], "D": [date(2015, 1, 1)] * 3, "E": [True, False, None]})
    frame.to_parquet(tmp_path / "t.parquet")
    for language in ("de", "en", "fr", "it", "es"):
        head = HEADER_OF_PARQUET.replace("language: de", f"language: {language}")
        chosen = parse_native_mapping(head + VISITS.replace("edss: {from: E, as: number}", "infection: {from: E, as: yes_no}"))
        found = read_native(chosen, tmp_path, KEY, today=TODAY)
        assert (found.problems, found.tables["visits"]["infection"].tolist()[:2]) == ((), [1, 0])


def test_the_preview_sets_each_cell_beside_what_it_becomes_and_escapes_both(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("P;D;E\na;03.01.2015;2,5\na;01.01.2015;2.5\nb;;<b>\n")
    chosen = mapping(VISITS)
    conversion = convert(chosen, read_sources(chosen, tmp_path), KEY, today=TODAY)
    shown = preview(conversion, chosen, 5)
    lines = {line.column: (line.before, line.after) for line in shown[0].lines}
    assert lines == {
        "patient_id": ("P = a", "a"),
        "day": ("D = 03.01.2015", "2"),
        "visit_id": ("always", "v"),
        "edss": ("E = 2,5", "2.5"),
        "source": ("always", "rwd"),
    }
    assert [each.outcome for each in shown] == ["written", "written", "left out: required (D)"]
    assert next(line.after for line in shown[1].lines if line.column == "edss") == "empty: see the problems"
    page = preview_page(shown, conversion.imported.problems, "now")
    assert "&lt;b&gt;" in page
    assert "<b>;" not in page
    assert "2,5" not in repr(shown)
    assert "t: E -> visits: not_a_number, value left empty" in problem_text(conversion.imported.problems)


def test_a_cell_of_a_row_whose_rule_does_not_read_it_is_reported(tmp_path: Path) -> None:
    tables = """  visits:
    - {file: t, where: {K: [v]}, columns: {day: {from: D, as: date}, visit_id: {constant: v}, edss: {from: E, as: number}}}
  biomarkers:
    - file: t
      where: {K: [l]}
      columns:
        {day: {from: D, as: date}, analyte: {constant: nfl}, unit: {constant: pg/mL}, value: {from: N, as: number, unit: pg/mL}}"""
    found = bring(
        tmp_path, tables, "P;D;E;N;K", "a;01.01.2015;1;;v", "a;01.01.2015;2;7;l", "a;02.01.2015;;9;v", "a;03.01.2015;;9;x"
    )
    assert told(found) == {("", "E", "cell_not_taken", (3,)), ("", "N", "cell_not_taken", (4,)), ("", "", "not_selected", (5,))}


def test_what_stands_of_a_patient_in_two_files_becomes_one_row(tmp_path: Path) -> None:
    text = (
        HEAD.replace("INDEX", "none")
        .replace(" NOT", "")
        .replace("tables:", "  u: {name: u.parquet, format: parquet, patient: P}\ntables:")
    )
    tables = """  patients:
    - {file: t, merge: yes, columns: {sex: {from: S, as: codes, codes: {w: F, m: M}}}}
    - file: u
      merge: yes
      columns: {ocb: {from: O, as: codes, codes: {"1": pos}}, sex: {from: S, as: codes, codes: {w: F, m: M}}}"""
    (tmp_path / "t.csv").write_text("P;S\na;w\nb;m\nc;w\n")
    pd.DataFrame({"P": ["a", "c"], "O": [1.0, 1.0], "S": ["", "m"]}).to_parquet(tmp_path / "u.parquet")
    chosen = parse_native_mapping(text + tables)
    conversion = convert(chosen, read_sources(chosen, tmp_path), KEY, today=TODAY)
    patients = conversion.imported.tables["patients"]
    assert patients["sex"].tolist()[:2] == ["F", "M"]
    assert patients["sex"].isna().tolist() == [False, False, True]
    assert patients["ocb"].isna().tolist() == [False, True, False]
    assert {(each.source, each.column, each.rule, each.rows) for each in conversion.imported.problems} == {
        ("t", "S", "differs", (4,)), ("u", "S", "differs", (3,)),
    }  # fmt: skip
    assert vars(conversion.counts["patients"]) == {"taken": 5, "written": 3, "merged": 2, "left_out": 0}


def test_what_is_declared_a_pseudonym_and_is_none_is_left_out(tmp_path: Path) -> None:
    found = bring(tmp_path, VISITS, "P;D;E", "Müller, Anna;01.01.2015;1", "a;01.01.2015;1")
    assert told(found) == {("", "P", "pattern", (2,))}
    assert found.tables["visits"]["patient_id"].tolist() == ["a"]


@pytest.mark.parametrize("cell", ["03.02.2015", "3.2.2015"])
def test_a_calendar_date_does_not_leave_as_the_name_of_a_visit(tmp_path: Path, cell: str) -> None:
    tables = VISITS.replace("{constant: v}", "{from: V, as: text, prefix: v}")
    found = bring(tmp_path, tables, "P;D;E;V", f"a;03.02.2015;1;{cell}", "a;04.02.2015;1;2015")
    assert told(found) == {("visits", "V", "date_in_text", (2,))}
    assert found.tables["visits"]["visit_id"].tolist() == ["v2015"]


def test_a_score_that_a_spreadsheet_turned_into_a_date_is_no_number(tmp_path: Path) -> None:
    frame = pd.DataFrame({"P": ["a"], "D": [datetime(2015, 1, 1)], "E": [datetime(2015, 5, 2)]})
    frame.to_excel(tmp_path / "t.xlsx", sheet_name="S", index=False)
    assert told(read_native(excel(), tmp_path, KEY, today=TODAY)) == {("visits", "E", "not_a_number", (2,))}


def test_the_mapping_in_the_readme_can_be_used(tmp_path: Path) -> None:
    readme = Path(native_mapping.__file__).with_name("README.md").read_text(encoding="utf-8")
    chosen = parse_native_mapping(readme.partition("```yaml\n")[2].partition("```")[0])
    header = "PatNr;Datum;Art;Geschlecht;Geburtsdatum;EDSS;Gehtest;Infekt;Arzt;VEP_L;VEP_R;Bemerkung"
    rows = ("7;03.02.2015;Visite;w;01.05.1980;2,5;0,1;nein;Dr. A;101,5;;x", "7;10.02.2015;EP;w;01.05.1980;;;;;;99;")
    (tmp_path / "visiten.csv").write_text("\n".join((header, *rows)), encoding="cp1252")
    found = read_native(chosen, tmp_path, KEY, today=TODAY)
    assert found.problems == ()
    assert {name: len(frame) for name, frame in found.tables.items()} == {"patients": 1, "visits": 1, "evoked_potentials": 2}
    assert found.tables["visits"].loc[0, "t25fw_s"] == 6
    assert found.tables["evoked_potentials"]["day"].tolist() == [0, 7]


@pytest.mark.parametrize("cell", ["2015-02-03", "ses-20150203", "20150203101500", "v_2015_02_03"])
def test_a_date_in_no_declared_format_leaves_within_no_text_either(tmp_path: Path, cell: str) -> None:
    tables = VISITS.replace("{constant: v}", "{from: V, as: text}")
    found = bring(tmp_path, tables, "P;D;E;V", f"a;03.02.2015;1;{cell}", "a;04.02.2015;1;s2")
    assert told(found) == {("visits", "V", "date_in_text", (2,))}
    assert found.tables["visits"]["visit_id"].tolist() == ["s2"]


def test_a_prefix_cannot_complete_a_date(tmp_path: Path) -> None:
    tables = VISITS.replace("{constant: v}", "{from: V, as: text, prefix: '2015-'}")
    found = bring(tmp_path, tables, "P;D;E;V", "a;03.02.2015;1;02-03")
    assert told(found) == {("visits", "V", "date_in_text", (2,))}


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")  # to open it would wait for ever
    with pytest.raises(ImportRefused, match="is no file"):
        read_sources(mapping(VISITS), tmp_path)


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("ms"), pa.duration("s")])
def test_a_parquet_day_that_no_calendar_has_is_refused(tmp_path: Path, kind: pa.DataType) -> None:
    cells = (
        pa.array([2**31 - 1 if kind == pa.date32() else 2**60]).cast(pa.int32() if kind == pa.date32() else pa.int64()).cast(kind)
    )
    pq.write_table(pa.table({"P": ["a"], "D": cells, "E": [1.0]}), tmp_path / "t.parquet")
    with pytest.raises(ImportRefused, match="no Parquet table that can be read"):
        read_native(parquet(), tmp_path, KEY, today=TODAY)


def test_a_parquet_table_of_too_many_cells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"P": ["a"] * 5, "D": ["01.01.2015"] * 5, "E": [1.0] * 5}), tmp_path / "t.parquet")
    monkeypatch.setattr(native_source, "MAX_CELLS", 14)
    with pytest.raises(ImportRefused, match="15 cells, limit 14"):
        read_native(parquet(), tmp_path, KEY, today=TODAY)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_letter_written_as_two_is_the_same_letter_in_cells_headers_and_the_mapping(tmp_path: Path, form: Form) -> None:
    tables = VISITS.replace("from: E, as: number", unicodedata.normalize(form, "from: Öl, as: codes, codes: {zwölf: 2}"))
    lines = ("P;D;Öl", "Müller;01.01.2015;zwölf", unicodedata.normalize("NFD", "Müller;02.01.2015;zwölf"))
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    keyed = parse_native_mapping((HEAD.replace("INDEX", FIRST).replace(" NOT", "") + tables).replace("keep", "keyed"))
    visits = read_native(keyed, tmp_path, KEY, today=TODAY).tables["visits"]
    assert (visits["patient_id"].nunique(), visits["day"].tolist(), visits["edss"].tolist()) == (1, [0, 1], [2, 2])


def test_a_last_day_becomes_the_first_day_without_on_request_alone(tmp_path: Path) -> None:
    columns = "start_day: {from: D, as: date}, end_day: {from: E, as: date PLUS}, drug: {constant: none}"
    tables = f"  treatments: [{{file: t, columns: {{{columns}}}}}]"
    for plus, end in (("", 28), (", plus_d: 0", 28), (", plus_d: 1", 29)):
        found = bring(tmp_path, tables.replace(" PLUS", plus), "P;D;E", "a;01.02.2016;29.02.2016")
        assert found.tables["treatments"]["end_day"].tolist() == [end]
    with pytest.raises(ImportRefused, match="plus_d is '2'"):
        mapping(tables.replace(" PLUS", ", plus_d: 2"))


def test_a_folder_called_as_a_shipped_mapping_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mslesseg").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_mapping("mslesseg").source == "mslesseg"


def test_the_patients_number_leaves_under_no_other_name() -> None:
    text = HEAD.replace("INDEX", FIRST).replace(" NOT", "") + VISITS.replace("{constant: v}", "{from: P, as: text}")
    assert parse_native_mapping(text).keep_ids
    with pytest.raises(ImportRefused, match="visit_id: patients' numbers stay here"):
        parse_native_mapping(text.replace("keep", "keyed"))
    parse_native_mapping(text.replace("keep", "keyed").replace("as: text", "as: pseudonym"))
