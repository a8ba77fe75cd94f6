"""`wardround-site data import`: what a data manager types, sees before anything is written, and finds afterwards."""

import csv
import json
import logging
import stat
from pathlib import Path

import pytest
from core_tables import hospital
from dirty_export import WRONG, DirtyExport, make
from fhir_bundles import Export, write_bundle
from omop_tables import Database, numbered, write_csv

from client.cli import main
from client.errors import SiteError
from client.home import Home
from client.pseudonyms import KEY_FILE, pseudonym_key
from tasks.ms.manifest import read_manifest

SMALL = {"patients": 24, "visits": 240, "relapses": 96, "treatments": 96, "mri": 120, "evoked_potentials": 96, "biomarkers": 120}


class Command:
    """The program, called as a person would."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys

    def __call__(self, *words: object, status: int = 0) -> tuple[str, str]:
        self._capsys.readouterr()
        assert main(["--home", str(self.home), "data", "import", *map(str, words)]) == status
        shown = self._capsys.readouterr()
        return shown.out, shown.err


@pytest.fixture(scope="module")
def export() -> DirtyExport:
    return make()


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path / "home", capsys)


@pytest.fixture
def dirty(export: DirtyExport, tmp_path: Path) -> Path:
    return export.write(tmp_path / "in")


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return make(dirty=False).write(tmp_path / "clean")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def patients(folder: Path) -> list[str]:
    with (folder / "patients.csv").open(encoding="utf-8", newline="") as file:
        return [row["patient_id"] for row in csv.DictReader(file)]


def test_a_dry_run_shows_both_sides_and_writes_nothing(run: Command, dirty: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    out, _ = run(dirty, "--from", dirty.parent, "--dry-run", "--rows", 1, status=1)
    assert out.startswith("This shows cells of patients' records as they stand.")
    assert all(word in out for word in ("Geschlecht = ", "always", "left out", "no_such_date", "Nothing was written"))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_in_json_and_as_a_page_says_the_same(run: Command, dirty: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    shown = json.loads(run(dirty, "--from", dirty.parent, "--dry-run", "--json", "--html", page, status=1)[0])
    assert shown["dry_run"] is True
    assert {each["table"] for each in shown["rows"] if each["outcome"] == "written"} == set(shown["tables"])
    assert len([each for each in shown["rows"] if each["table"] == "visits" and each["outcome"] == "written"]) == 3
    assert mode(page) == 0o600
    text = page.read_text(encoding="utf-8")
    assert all(each["rule"] in text for each in shown["problems"])


def test_an_import_counts_checks_and_keeps_what_is_open(run: Command, dirty: Path, tmp_path: Path, export: DirtyExport) -> None:
    out = tmp_path / "out"
    shown = json.loads(run(dirty, "--from", dirty.parent, "--out", out, "--json", status=1)[0])
    assert shown["tables"]["visits"] == {
        "taken": 242,
        "written": len(export.truth["visits"]),
        "merged": 0,
        "left_out": 242 - len(export.truth["visits"]),
    }
    assert {each["table"] for each in shown["validation"]["tables"]} == set(shown["tables"])
    assert shown["review"] == 2
    review = Path(shown["review_list"])
    assert review == tmp_path / "out.review.csv"
    assert {mode(path) for path in (review, *out.glob("*.csv"), out / "manifest.json")} == {0o600}
    manifest = read_manifest(out)
    assert manifest is not None
    assert (manifest.site, manifest.tables["visits"].rows) == ("klinik", len(export.truth["visits"]))


def test_a_clean_export_ends_with_status_0_and_problems_may_be_allowed(
    run: Command, clean: Path, dirty: Path, tmp_path: Path
) -> None:
    out, _ = run(clean, "--from", clean.parent, "--out", tmp_path / "one", "--site", "aalborg")
    assert "Every row and cell was brought over." in out
    manifest = read_manifest(tmp_path / "one")
    assert manifest is not None
    assert manifest.site == "aalborg"
    run(dirty, "--from", dirty.parent, "--out", tmp_path / "two", "--allow-problems")


def test_no_cell_of_a_patient_is_in_what_an_import_says_or_logs(
    run: Command, dirty: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    out, err = run(dirty, "--from", dirty.parent, "--out", tmp_path / "out", status=1)
    said = out + err + caplog.text
    assert "unknown_drug" in said
    assert [text for text in WRONG if text in said] == []


def test_the_key_is_made_once_for_the_site_and_gives_the_same_pseudonyms(run: Command, clean: Path, tmp_path: Path) -> None:
    run(clean, "--from", clean.parent, "--out", tmp_path / "one")
    run(clean, "--from", clean.parent, "--out", tmp_path / "two")
    assert mode(run.home / KEY_FILE) == 0o600
    assert patients(tmp_path / "one") == patients(tmp_path / "two")
    (run.home / KEY_FILE).unlink()
    run(clean, "--from", clean.parent, "--out", tmp_path / "three")
    assert not set(patients(tmp_path / "one")) & set(patients(tmp_path / "three"))


def test_a_lost_key_stops_an_import_over_an_earlier_one(run: Command, clean: Path, tmp_path: Path) -> None:
    run(clean, "--from", clean.parent, "--out", tmp_path / "out")
    before = patients(tmp_path / "out")
    (run.home / KEY_FILE).unlink()
    _, err = run(clean, "--from", clean.parent, "--out", tmp_path / "out", "--replace", status=1)
    assert "Restore the key" in err
    assert patients(tmp_path / "out") == before
    assert not (run.home / KEY_FILE).exists()


def test_a_key_that_others_can_read_or_that_is_cut_is_refused(tmp_path: Path) -> None:
    path = Home(tmp_path).root / KEY_FILE
    pseudonym_key(path)
    path.chmod(0o640)
    with pytest.raises(SiteError, match="mode 640"):
        pseudonym_key(path)
    path.chmod(0o600)
    path.write_bytes(b"x" * 31)
    with pytest.raises(SiteError, match="has 31 bytes"):
        pseudonym_key(path)


def test_a_second_import_needs_replace_keeps_the_former_and_the_withdrawn(run: Command, clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(clean, "--from", clean.parent, "--out", out)
    (out / "withdrawn.txt").write_text(f"{patients(out)[0]}\n")
    _, err = run(clean, "--from", clean.parent, "--out", out, status=1)
    assert "add --replace" in err
    run(clean, "--from", clean.parent, "--out", out, "--replace")
    assert (out / "withdrawn.txt").read_text() == f"{patients(out)[0]}\n"
    assert patients(tmp_path / "out.former") == patients(out)


def test_a_reviewers_list_comes_back_and_is_never_written_over(run: Command, dirty: Path, tmp_path: Path) -> None:
    review = tmp_path / "review.csv"
    run(dirty, "--from", dirty.parent, "--out", tmp_path / "one", "--review", review, status=1)
    with review.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    codes = {"Copaxonne": "glatiramer_acetate", "Wundermittel 3000": "-"}
    with review.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"code": codes[row["text"]], "who": "Dr. A", "date": "2026-11-29"} for row in rows)
    decided = review.read_text(encoding="utf-8")
    _, err = run(dirty, "--from", dirty.parent, "--out", tmp_path / "two", "--review", review, status=1)
    assert "holds decisions" in err
    assert review.read_text(encoding="utf-8") == decided
    review.rename(dirty.parent / "reviewed.csv")
    shown = json.loads(run(dirty, "--from", dirty.parent, "--out", tmp_path / "two", "--json", status=1)[0])
    assert (shown["review"], shown["review_list"]) == (0, "")
    assert shown["tables"]["treatments"]["left_out"] == 1


@pytest.mark.parametrize("kind", ["excel", "parquet"])
def test_excel_and_parquet_come_in_the_same_way(run: Command, tmp_path: Path, kind: str) -> None:
    mapping = make(dirty=False).write(tmp_path / kind, kind)
    place = mapping.parent / "export.xlsx" if kind == "excel" else mapping.parent
    run(mapping, "--from", place, "--out", tmp_path / "out")
    csv_mapping = make(dirty=False).write(tmp_path / "csv")
    run(csv_mapping, "--from", csv_mapping.parent, "--out", tmp_path / "other")
    assert all((tmp_path / "out" / path.name).read_bytes() == path.read_bytes() for path in (tmp_path / "other").glob("*.csv"))


@pytest.mark.parametrize("standard", ["fhir", "omop"])
def test_fhir_and_omop_come_in_by_the_same_command(run: Command, tmp_path: Path, standard: str) -> None:
    made = hospital(12, 5)
    if standard == "fhir":
        source = write_bundle(tmp_path / "bundle.json", list(Export(made).resources))
    else:
        made = numbered(made)
        source = write_csv(tmp_path / "cdm", Database(made).tables)
    shown = run(f"--{standard}", source, "--dry-run", "--rows", 1, "--allow-problems")[0]
    assert shown.startswith("This shows cells")
    assert not (run.home / KEY_FILE).exists()
    out = tmp_path / "out"
    found = json.loads(run(f"--{standard}", source, "--out", out, "--allow-problems", "--json", "--recorded", "trial")[0])
    assert found["tables"]["visits"] == {"written": len(made.tables["visits"])}
    assert len(patients(out)) == len(made.index)
    assert not set(patients(out)) & set(made.index)


def test_a_file_that_is_no_review_list_is_never_written_over_nor_removed(run: Command, clean: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.csv"
    thesis.write_text("ten,years\n")
    _, err = run(clean, "--from", clean.parent, "--out", tmp_path / "out", "--review", thesis, status=2)
    assert "no review list" in err
    assert thesis.read_text() == "ten,years\n"
    assert not (tmp_path / "out").exists()


def test_a_cell_cannot_steer_the_terminal(run: Command, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("P;S [/b]\na;w\nb;\x1b[2Jx\n")
    (tmp_path / "m.yaml").write_text(
        "source: toy\nversion: 1\nrecorded: rwd\nmissing: ['']\npseudonyms: keep\nindex: none\n"
        "files: {t: {name: t.csv, format: csv, encoding: utf-8, delimiter: ';', patient: P}}\n"
        "tables: {patients: [{file: t, where: {'S [/b]': [w]}, columns: {sex: {from: 'S [/b]', as: codes, codes: {w: F}}}}]}\n"
    )
    out, _ = run(tmp_path / "m.yaml", "--from", tmp_path, "--dry-run", status=1)
    assert "S [/b] = w" in out
    assert "\N{REPLACEMENT CHARACTER}[2Jx" in out
    assert "\x1b[2J" not in out


def test_a_shipped_mapping_is_found_by_its_name(run: Command, tmp_path: Path) -> None:
    (tmp_path / "visits.csv").write_text("x\n")
    _, err = run("mslesseg", "--from", tmp_path, "--out", tmp_path / "out", status=1)
    assert "row 1 lacks the column 'patient_id'" in err
    _, err = run("nowhere.yaml", "--from", tmp_path, "--out", tmp_path / "out", status=1)
    assert "nowhere.yaml is not there" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("m.yaml", "--out", "o"), "--from is missing"),
        (("m.yaml", "--from", "f"), "--out is missing"),
        (("m.yaml", "--from", "f", "--out", "o", "--html", "p"), "--html is for --dry-run"),
        (("m.yaml", "--from", "f", "--out", "o", "--keep-ids"), "a mapping says all this itself"),
        (("m.yaml", "--from", "f", "--dry-run", "--rows", "-1"), "0 or more"),
        (("--fhir", "b.json", "--from", "f", "--out", "o"), "name their source themselves"),
    ],
)
def test_usage_that_cannot_work_ends_with_status_2(run: Command, words: tuple[str, ...], says: str) -> None:
    assert says in run(*words, status=2)[1]


def test_help_names_the_key_and_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "import", "--help"])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("pseudonym.key", "reviewed.csv", "--dry-run", "examples:"))
    assert max(map(len, shown.splitlines())) <= 132


def test_a_page_is_never_written_over_what_is_no_page(run: Command, dirty: Path, tmp_path: Path) -> None:
    source = sorted(dirty.parent.glob("*.csv"))[0]
    before = source.read_bytes()
    assert "was not written by this command" in run(dirty, "--from", dirty.parent, "--dry-run", "--html", source, status=2)[1]
    assert source.read_bytes() == before
    page = tmp_path / "page.html"
    for _ in range(2):  # an earlier page may go
        run(dirty, "--from", dirty.parent, "--dry-run", "--html", page, status=1)


def test_an_error_that_nobody_foresaw_shows_its_place_and_no_cell(
    run: Command, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("could not convert Zähringer")

    monkeypatch.setattr("tasks.importing.native.convert", fails)
    out, err = run(clean, "--from", clean.parent, "--out", tmp_path / "out", status=1)
    assert "ValueError at test_cli_import.py:" in err
    assert "hringer" not in out + err

    def is_too_large(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("tasks.importing.native.convert", is_too_large)
    assert "more memory" in run(clean, "--from", clean.parent, "--out", tmp_path / "out", status=1)[1]
