"""`wardround-site data validate` where a site has images: beside its tables, alone, and what is never said."""

import json
import stat
from pathlib import Path

import pytest
from image_folders import image_path, right_session
from image_quirks import QUIRKS, plant
from ms_tables import Tables

from client.cli import main
from tasks.imaging.report import FORMAT, FORMAT_VERSION
from tasks.ms.findings import LOCAL


class Command:
    """The program, called as a person would."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys

    def __call__(self, *words: object, status: int = 0) -> tuple[str, str]:
        self._capsys.readouterr()
        assert main(["--home", str(self.home), "data", "validate", *map(str, words)]) == status
        shown = self._capsys.readouterr()
        return shown.out, shown.err


@pytest.fixture
def validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path / "home", capsys)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Right tables; the first row of `mri` names subject S1, session 01 of the images beside them."""
    cells = Tables()
    for row in range(2, len(cells.cells["mri"]["patient_id"]) + 2):
        cells.put("mri", row, bids_sub="", bids_ses="")
    cells.put("mri", 2, bids_sub="S1", bids_ses="01")
    folder = cells.write(tmp_path / "tables")
    right_session(folder / "images", "S1", day=int(cells.get("mri", 2, "day")))
    return folder


def rules(shown: str) -> set[str]:
    return {each["rule"] for each in json.loads(shown)["images"]["findings"]}


def test_images_beside_the_tables_are_checked_with_them(validate: Command, tables: Path) -> None:
    shown, errors = validate("--folder", tables)
    assert "images: 0 errors, 0 warnings, 2 notes" in shown
    assert "1 session of 1 patient can be used: FLAIR 1, T1w 1, T2w 1, T1w_ce 1; masks 1" in shown
    assert "rows read" in shown
    assert errors == ""


def test_programs_get_the_same_beside_the_tables_report(validate: Command, tables: Path) -> None:
    shown, _ = validate("--folder", tables, "--json")
    document = json.loads(shown)
    assert document["format"] == "wardround/data-report"
    images = document["images"]
    assert (images["format"], images["format_version"], images["sessions"]) == (FORMAT, FORMAT_VERSION, 1)
    assert rules(shown) == {"defaced", "patient_without_images"}


def test_a_day_that_disagrees_with_the_table_ends_with_status_1_unless_allowed(validate: Command, tables: Path) -> None:
    (tables / "images/sub-S1/sub-S1_sessions.tsv").write_text("session_id\tday\nses-01\t31999\n")
    shown, _ = validate("--folder", tables, "--json", status=1)
    assert "days_differ" in rules(shown)
    assert "31999" not in shown
    validate("--folder", tables, "--allow-quarantine")


def test_a_subject_that_is_nobody_in_the_tables_ends_with_status_1(validate: Command, tables: Path) -> None:
    right_session(tables / "images", "Stranger")
    assert "no_such_patient" in rules(validate("--folder", tables, "--json", status=1)[0])


def test_an_image_of_two_patients_ends_with_status_1_even_if_allowed(validate: Command, tmp_path: Path) -> None:
    plant(tmp_path / "scans", "image_of_another_patient", "P1")
    shown, _ = validate("--folder", tmp_path / "scans", "--allow-quarantine", status=1)
    assert "ERROR    images: same_image, 2 times" in shown


def test_a_folder_of_images_alone_is_checked_without_a_home(validate: Command, tmp_path: Path) -> None:
    right_session(tmp_path / "scans", "P1")
    shown, errors = validate("--folder", tmp_path / "scans")
    assert LOCAL in shown
    assert "images: 0 errors, 0 warnings, 1 note\n" in shown
    assert errors == ""
    assert not validate.home.exists()


def test_images_elsewhere_are_named_by_an_option(validate: Command, tables: Path, tmp_path: Path) -> None:
    (tables / "images").rename(tmp_path / "archive")
    assert "images:" not in validate("--folder", tables)[0]
    assert "1 session of" in validate("--folder", tables, "--images", tmp_path / "archive")[0]
    (tables / "images").symlink_to(tmp_path / "archive")
    assert "1 session of" in validate("--folder", tables)[0]


def test_headers_alone_do_not_tell_damage_and_say_so(validate: Command, tmp_path: Path) -> None:
    plant(tmp_path / "scans", "cut_short", "P1")
    assert "damaged" in validate("--folder", tmp_path / "scans", status=1)[0]
    shown, _ = validate("--folder", tmp_path / "scans", "--headers")
    assert "Headers alone were read" in shown
    assert "damaged" not in shown


@pytest.mark.parametrize("alone", [True, False])
def test_the_page_has_a_section_on_images_and_only_its_owner_reads_it(
    validate: Command, tables: Path, tmp_path: Path, alone: bool
) -> None:
    QUIRKS["flat_image"](tables / "images", "S1")
    page = tmp_path / "report.html"
    validate("--folder", tables / "images" if alone else tables, "--html", page, status=1)
    content = page.read_text()
    assert "An image has contrast." in content
    assert "sub-S1_ses-01_T2w.nii.gz" in content
    assert ('<h2 id="images">The images</h2>' in content) is not alone
    assert ('href="#images"' in content) is not alone
    assert stat.S_IMODE(page.stat().st_mode) == 0o600


def test_tables_without_images_are_reported_as_before(validate: Command, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    shown, _ = validate("--folder", Tables().write(tmp_path / "tables"), "--json", "--html", page)
    assert "images" not in json.loads(shown)
    assert 'id="images"' not in page.read_text()


def test_a_folder_named_images_that_holds_none_is_refused_with_a_way_out(validate: Command, tables: Path) -> None:
    empty = tables.parent / "tables2"
    tables.rename(empty)
    (empty / "images").rename(empty / "other")
    (empty / "images").mkdir()
    _, errors = validate("--folder", empty, status=1)
    assert "images.yaml" in errors


def test_a_wrong_map_is_refused_by_its_key(validate: Command, tables: Path) -> None:
    (tables / "images" / "images.yaml").write_text("format: wardround/images\n")
    _, errors = validate("--folder", tables, status=1)
    assert "images.yaml must have the keys" in errors


def test_options_for_tables_are_refused_where_there_are_images_alone(validate: Command, tmp_path: Path) -> None:
    right_session(tmp_path / "scans", "P1")
    _, errors = validate("--folder", tmp_path / "scans", "--share", tmp_path / "s.json", status=2)
    assert "--share is for tables" in errors


def test_no_error_or_log_line_names_a_patient(validate: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("no_bytes", "damaged_mask", "absurd_size", "link_out_of_the_folder", "broken_side_file"):
        plant(tmp_path / "scans", name, f"Zaehringer{name.replace('_', '')}")
    _, errors = validate("--folder", tmp_path / "scans", status=1)
    assert "Zaehringer" not in errors
    assert "Zaehringer" not in caplog.text


def test_names_that_are_no_text_are_shown_and_do_not_stop_the_check(validate: Command, tmp_path: Path) -> None:
    right_session(tmp_path / "scans", "P1")
    odd = bytes(image_path(tmp_path / "scans", "P1", "01", "T2w").parent) + b"/T2\xff.nii.gz"
    with open(odd, "wb"):
        pass
    shown, _ = validate("--folder", tmp_path / "scans", "--html", tmp_path / "report.html")
    assert "images: name, 1 time" in shown
    assert "\N{REPLACEMENT CHARACTER}" in (tmp_path / "report.html").read_text()
