"""A deliberately dirty export: all that can be had is had, and each planted mistake is told at its row and nowhere else."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from dirty_export import KEY, TODAY, WRONG, DirtyExport, make, pseudonym

from tasks.importing.drugs import read_reviewed, write_review
from tasks.importing.native import Conversion, convert
from tasks.importing.native_mapping import read_native_mapping
from tasks.importing.native_source import read_sources
from tasks.importing.writing import write_contract
from tasks.ms.contract import CONTRACT
from tasks.ms.samples import RECLAIM
from tasks.ms.validate import validate_folder

FORMATS = ("csv", "excel", "parquet")


@pytest.fixture(scope="module")
def export() -> DirtyExport:
    return make()


@pytest.fixture(scope="module")
def converted(export: DirtyExport, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Conversion]:
    found = {}
    for kind in FORMATS:
        mapping = read_native_mapping(export.write(tmp_path_factory.mktemp(kind), kind))
        assert mapping.folder is not None
        found[kind] = convert(mapping, read_sources(mapping, mapping.folder), KEY, today=TODAY)
    return found


def as_known(table: str, rows: list[dict[str, str]]) -> Counter[tuple[tuple[str, object], ...]]:
    """Rows as values, empty cells left out, so that 12.30 is 12.3."""
    columns = CONTRACT.table(table)
    return Counter(
        tuple(sorted((name, float(text) if columns.column(name).numeric else text) for name, text in row.items() if text))
        for row in rows
    )


def written(conversion: Conversion, folder: Path) -> dict[str, list[dict[str, str]]]:
    write_contract(conversion.imported, folder, site="klinik")
    found = {}
    for path in folder.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            found[path.stem] = list(csv.DictReader(file))
    return found


@pytest.mark.parametrize("kind", FORMATS)
def test_all_that_can_be_had_is_had_exactly(
    export: DirtyExport, converted: dict[str, Conversion], kind: str, tmp_path: Path
) -> None:
    found = written(converted[kind], tmp_path / "out")
    assert found.keys() == export.truth.keys()
    for table, rows in export.truth.items():
        truth = [row | {"patient_id": pseudonym(row["patient_id"])} for row in rows]
        assert as_known(table, found[table]) == as_known(table, truth), table


@pytest.mark.parametrize("kind", FORMATS)
def test_each_planted_mistake_is_reported_at_its_row_and_nothing_else(
    export: DirtyExport, converted: dict[str, Conversion], kind: str
) -> None:
    lower = 2 if kind == "excel" else 0  # a title stands above the header
    told = {
        (each.source, each.table, each.column, each.rule, each.action, row - lower)
        for each in converted[kind].imported.problems
        for row in each.rows
    }
    assert told - export.planted == set()
    assert export.planted - told == set()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_row_read_is_written_or_left_out_with_a_problem(converted: dict[str, Conversion], kind: str) -> None:
    conversion = converted[kind]
    for table, count in conversion.counts.items():
        assert count.taken == count.written + count.merged + count.left_out
        assert count.written == len(conversion.imported.tables[table])
    reported = {
        (each.source, row) for each in conversion.imported.problems if each.action != "value left empty" for row in each.rows
    }
    came = {(row.origin.file, row.origin.number) for rows in conversion.rows.values() for row in rows}
    for name, source in conversion.sources.items():
        assert conversion.imported.read[name] == source.rows_read
        assert {(name, number) for number in (*source.numbers, *source.malformed)} <= reported | came


def test_a_drug_that_nobody_knows_is_suggested_and_never_decided(export: DirtyExport, converted: dict[str, Conversion]) -> None:
    found = {each.text: (each.times, each.suggestion) for each in converted["csv"].imported.review}
    assert Counter(export.drugs) == {text: times for text, (times, _) in found.items()}
    assert found["Copaxonne"][1] == "glatiramer_acetate"
    assert found["Wundermittel 3000"][1] == ""


def test_a_reviewers_decisions_are_used_by_the_next_import(
    export: DirtyExport, converted: dict[str, Conversion], tmp_path: Path
) -> None:
    path = export.write(tmp_path / "in")
    write_review(tmp_path / "in" / "reviewed.csv", converted["csv"].imported.review)
    rows = list(csv.DictReader((tmp_path / "in" / "reviewed.csv").open(encoding="utf-8", newline="")))
    codes = {"Copaxonne": "glatiramer_acetate", "Wundermittel 3000": "-"}
    with (tmp_path / "in" / "reviewed.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"code": codes[row["text"]], "who": "Dr. A", "date": "2026-11-29"} for row in rows)
    mapping = read_native_mapping(path)
    again = convert(
        mapping, read_sources(mapping, tmp_path / "in"), KEY, today=TODAY, reviewed=read_reviewed(tmp_path / "in" / "reviewed.csv")
    )
    assert again.imported.review == ()
    before = converted["csv"].counts["treatments"].written
    assert again.counts["treatments"].written == before + 2
    (aside,) = [each for each in again.imported.problems if each.table == "treatments"]
    assert (aside.rule, aside.rows, aside.action) == ("drug_set_aside", (5,), "row left out")


def test_no_problem_holds_a_cell_that_was_wrong(converted: dict[str, Conversion]) -> None:
    said = repr(converted["csv"].imported)
    assert [text for text in WRONG if text in said] == []


def test_no_calendar_date_and_no_number_of_the_hospital_is_written(
    export: DirtyExport, converted: dict[str, Conversion], tmp_path: Path
) -> None:
    written(converted["csv"], tmp_path / "out")
    everything = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir())
    dates = {cell for rows in export.files.values() for row in rows for cell in row if len(cell) == 10 and cell[2:6:3] == ".."}
    numbers = {row[0] for row in export.files["patienten"][1:]}
    assert len(dates) > 300
    assert [text for text in dates | numbers if text in everything] == []


def test_a_clean_export_has_no_problem_and_passes_the_check(tmp_path: Path) -> None:
    clean = make(dirty=False)
    mapping = read_native_mapping(clean.write(tmp_path / "in"))
    conversion = convert(mapping, read_sources(mapping, tmp_path / "in"), KEY, today=TODAY)
    assert conversion.imported.problems == ()
    write_contract(conversion.imported, tmp_path / "out", site="klinik")
    report = validate_folder(tmp_path / "out").report
    assert report.passed(allow_quarantine=False), report.to_text()


def test_two_imports_give_the_same_bytes(export: DirtyExport, tmp_path: Path) -> None:
    path = export.write(tmp_path / "in")
    for turn in ("one", "two"):
        mapping = read_native_mapping(path)
        conversion = convert(mapping, read_sources(mapping, tmp_path / "in"), KEY, today=TODAY)
        write_contract(conversion.imported, tmp_path / turn, site="klinik")
    files = sorted(each.name for each in (tmp_path / "one").iterdir())
    assert len(files) == 8
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_the_order_of_the_export_does_not_show(tmp_path: Path) -> None:
    for turn in ("one", "two"):
        clean = make(dirty=False)
        if turn == "two":
            clean.files = {name: [header, *reversed(rows)] for name, (header, *rows) in clean.files.items()}
        mapping = read_native_mapping(clean.write(tmp_path / f"in {turn}"))
        conversion = convert(mapping, read_sources(mapping, tmp_path / f"in {turn}"), KEY, today=TODAY)
        write_contract(conversion.imported, tmp_path / turn, site="klinik")
    assert all((tmp_path / "one" / path.name).read_bytes() == path.read_bytes() for path in (tmp_path / "two").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_registry_of_1500_patients_and_25000_visits_comes_over_whole(tmp_path: Path, kind: str) -> None:
    large = make(3, {name: RECLAIM[name] for name in make(dirty=False).truth}, dirty=False)
    mapping = read_native_mapping(large.write(tmp_path / "in", kind))
    conversion = convert(mapping, read_sources(mapping, tmp_path / "in"), KEY, today=TODAY)
    write_contract(conversion.imported, tmp_path / "out", site="klinik")
    assert len(conversion.imported.tables["visits"]) == 25000
    assert conversion.imported.problems == ()
