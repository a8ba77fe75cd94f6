"""`wardround-site data validate` and `data dictionary`: what a data manager types, reads and keeps; what never shows."""

import csv
import json
import logging
import stat
from pathlib import Path

import pytest
from ms_tables import ALL_COLUMNS, Tables, right_tables

from client.cli import main
from tasks.cis_conversion.synthetic import write_hospitals
from tasks.errors import DataError
from tasks.ms.contract import CONTRACT
from tasks.ms.findings import FEW, LOCAL, NEARLY_ALL
from tasks.ms.quarantine import SetAside, write_quarantine
from tasks.ms.samples import write_tables

SECRET = "Zähringer <b>4711</b>"


class Command:
    """The program, called as a person would."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys

    def __call__(self, *words: object, status: int = 0) -> tuple[str, str]:
        self._capsys.readouterr()
        assert main(["--home", str(self.home), "data", *map(str, words)]) == status
        shown = self._capsys.readouterr()
        return shown.out, shown.err


@pytest.fixture
def data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path / "home", capsys)


@pytest.fixture
def right(tmp_path: Path) -> Path:
    write_tables(tmp_path / "right", right_tables(), site="aalborg")
    return tmp_path / "right"


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    tables = Tables().put("visits", 3, edss="0.5").put("visits", 9, source="", sdmt_n="x").put("patients", 4, height_cm="210")
    return tables.write(tmp_path / "wrong")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- what it says and how it ends ---------------------------------------------------------------------------------------------


def test_right_tables_end_with_status_0_and_leave_no_quarantine(data: Command, right: Path) -> None:
    shown, errors = data("validate", "--folder", right)
    assert "0 errors, 0 warnings, 0 notes; 0 rows in quarantine" in shown
    assert LOCAL in shown
    assert errors == ""
    assert not (right / "quarantine").exists()


def test_rows_in_quarantine_end_with_status_1_unless_allowed(data: Command, wrong: Path) -> None:
    shown, _ = data("validate", "--folder", wrong, status=1)
    assert "2 IN QUARANTINE" in shown
    assert data("validate", "--folder", wrong, "--allow-quarantine")[0] == shown


def test_a_file_that_cannot_be_used_ends_with_status_1_even_if_quarantine_is_allowed(data: Command, wrong: Path) -> None:
    (wrong / "mri.csv").write_text("scan\n")
    shown, _ = data("validate", "--folder", wrong, "--allow-quarantine", status=1)
    assert "REFUSED: mri.csv" in shown


def test_a_finding_names_table_key_column_rule_and_remedy(data: Command, wrong: Path) -> None:
    shown, _ = data("validate", "--folder", wrong, status=1)
    key = ", ".join(right_tables()["visits"][name][1] for name in ("patient_id", "day", "visit_id"))
    for words in ("ERROR    visits.edss: grid, 1 row", f"row 3 ({key})", "an EDSS of 0.5 does not exist", "Look the score up"):
        assert words in shown


@pytest.mark.parametrize("place", ["before", "after"])
def test_json_is_versioned_and_the_same_wherever_the_option_stands(
    place: str, wrong: Path, data: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "validate", "--folder", str(wrong)]
    assert main(["--json", *words] if place == "before" else [*words, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["format"], report["format_version"], report["contract_version"]) == (
        "wardround/data-report",
        1,
        CONTRACT.version,
    )
    assert {"table", "column", "rule", "severity", "remedy", "rows", "count"} <= report["findings"][0].keys()
    assert report["local"] == LOCAL
    assert sum(table["quarantined"] for table in report["tables"]) == report["rows_quarantined"] == 2


def test_a_sites_own_data_folder_is_checked_without_naming_it(data: Command, wrong: Path) -> None:
    data.home.mkdir()
    (data.home / "site.yaml").write_text(f'site: a\ntask: cis_conversion\ndata: "{wrong}"\n')
    assert "2 IN QUARANTINE" in data("validate", status=1)[0]


def test_a_folder_with_a_mapping_and_a_manifest_is_checked_both_ways(data: Command, right: Path, tmp_path: Path) -> None:
    (native,) = write_hospitals(tmp_path / "native", 1, [60], 7)
    for path in native.iterdir():
        (right / path.name).write_bytes(path.read_bytes())
    data.home.mkdir()
    (data.home / "site.yaml").write_text(f'site: a\ntask: cis_conversion\ndata: "{right}"\n')
    found = json.loads(data("validate", "--json")[0])
    assert found["contract"]["format"] == "wardround/data-report"
    assert found["mapping"]["task"] == "cis_conversion"
    shown, _ = data("validate")
    assert "data contract version" in shown
    assert "for task cis_conversion" in shown


def test_a_native_table_called_patients_stays_with_its_mapping(data: Command, right: Path) -> None:
    (right / "manifest.json").unlink()
    (right / "mapping.yaml").write_text("task: other\n")
    data.home.mkdir()
    (data.home / "site.yaml").write_text(f'site: a\ntask: cis_conversion\ndata: "{right}"\n')
    assert "mapping" in data("validate", status=1)[1]
    assert "mapping.yaml" in data("validate", "--html", right / "x.html", status=2)[1]


def test_a_folder_with_no_table_at_all_is_named(data: Command, tmp_path: Path) -> None:
    assert "neither mapping.yaml nor tables" in data("validate", "--folder", tmp_path, status=1)[1]


@pytest.mark.parametrize("what", ["validate", "dictionary"])
def test_help_has_an_example_and_fits_a_screen(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", what, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "example" in shown
    assert f"wardround-site data {what} " in shown
    assert len(shown.splitlines()) <= 45


# -- the quarantine -------------------------------------------------------------------------------------------------------------


def test_quarantined_rows_are_kept_as_they_were_with_every_reason(data: Command, wrong: Path) -> None:
    before = (wrong / "visits.csv").read_bytes()
    data("validate", "--folder", wrong, status=1)
    assert (wrong / "visits.csv").read_bytes() == before
    with (wrong / "quarantine" / "visits.csv").open(encoding="utf-8", newline="") as file:
        kept = list(csv.DictReader(file))
    with (wrong / "visits.csv").open(encoding="utf-8", newline="") as file:
        source = list(csv.DictReader(file))
    assert [row.pop("quarantine_row") for row in kept] == ["3", "9"]
    reasons = [row.pop("quarantine_reasons") for row in kept]
    assert kept == [source[1], source[7]]
    assert "edss: grid" in reasons[0]
    assert "source: required" in reasons[1]
    assert "sdmt_n: not_a_number" in reasons[1]


def test_only_the_owner_reads_quarantine_and_report(data: Command, wrong: Path) -> None:
    page, shared = wrong / "report.html", wrong / "share.json"
    data("validate", "--folder", wrong, "--html", page, "--share", shared, status=1)
    assert {mode(path) for path in (wrong / "quarantine" / "visits.csv", page, shared)} == {0o600}
    assert mode(wrong / "quarantine") == 0o700


def test_a_corrected_table_empties_its_quarantine(data: Command, wrong: Path) -> None:
    data("validate", "--folder", wrong, status=1)
    Tables().write(wrong)
    data("validate", "--folder", wrong)
    assert list((wrong / "quarantine").iterdir()) == []


@pytest.mark.parametrize("spoilt", [True, False])
def test_the_tables_themselves_are_never_overwritten_by_a_quarantine(data: Command, wrong: Path, spoilt: bool) -> None:
    if not spoilt:
        Tables().write(wrong)
    before = {path: path.read_bytes() for path in wrong.iterdir()}
    assert "no quarantine" in data("validate", "--folder", wrong, "--quarantine", wrong, status=1)[1]
    assert {path: path.read_bytes() for path in wrong.iterdir()} == before


def test_a_quarantine_that_cannot_be_written_stops_the_check(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--quarantine"):
        write_quarantine(tmp_path / "file" / "below", ["oct"], {"oct": SetAside(("a",), [(2, "r", ("1",))])})


def test_rows_that_do_not_fit_the_header_are_kept_too(data: Command, right: Path) -> None:
    (right / "manifest.json").unlink()
    with (right / "oct.csv").open("a", encoding="utf-8") as file:
        file.write("p00001,5,too,few\n")
    data("validate", "--folder", right, status=1)
    assert "p00001,5,too,few" in (right / "quarantine" / "oct.csv").read_text("utf-8")


# -- what never shows -----------------------------------------------------------------------------------------------------------


def test_no_wrong_cell_is_quoted_anywhere_but_in_the_quarantine(
    data: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each column of each table gets the secret once, in a row of its own where there are enough."""
    caplog.set_level(logging.DEBUG)
    tables = Tables()
    for number, (table, column) in enumerate(ALL_COLUMNS):
        rows = len(tables.cells[table]["patient_id"])
        tables.put(table, 2 + number % rows, **{column: SECRET})
    folder, page, shared = tables.write(tmp_path / "spoilt"), tmp_path / "r.html", tmp_path / "s.json"
    options = ("validate", "--folder", folder, "--html", page, "--share", shared)
    spoken = [*data(*options, status=1), *data(*options, "--json", status=1), caplog.text]
    spoken += [page.read_text("utf-8"), shared.read_text("utf-8")]
    assert not [text for text in spoken if "Zähringer" in text or "4711" in text or "hringer" in text]
    assert "4711" in (folder / "quarantine" / "visits.csv").read_text("utf-8")


def test_the_first_row_of_a_file_without_header_is_not_quoted(data: Command, wrong: Path) -> None:
    path = wrong / "oct.csv"
    path.write_text(path.read_text("utf-8").split("\n", 1)[1].replace("p00001", "Zaehringer"), "utf-8")
    assert "Zaehringer" not in "".join(data("validate", "--folder", wrong, status=1))


def test_what_may_be_shared_names_no_row_and_shows_no_small_count(data: Command, tmp_path: Path) -> None:
    tables = Tables()
    ids = set(tables.cells["patients"]["patient_id"])
    for row in range(2, 62):
        tables.put("oct", row, inl_um="" if row < 9 else "40", tmv_mm3="" if row < 30 else "8", device="cirrus", oscar_ib="")
        tables.put("oct", row, missing_reason="")
    shared = tmp_path / "share.json"
    data("validate", "--folder", tables.write(tmp_path / "t"), "--share", shared)
    text = shared.read_text()
    assert not [name for name in ids if name in text]
    found = {each["table"]: each for each in json.loads(text)["tables"]}
    filled = found["oct"]["filled"]
    assert (filled["inl_um"], filled["device"], filled["oscar_ib"], filled["tmv_mm3"]) == (NEARLY_ALL, NEARLY_ALL, FEW, 32)
    assert found["genetics"]["accepted"] == FEW
    assert [count for each in found.values() for count in each["filled"].values() if isinstance(count, int) and count < 10] == []
