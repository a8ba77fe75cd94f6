"""Each quirk of real images is found where it was planted, and nothing else is: precision and recall 1 over all of them."""

import tracemalloc
from pathlib import Path

import pytest
from image_folders import SHAPE, image_path, nifti, put, right_session, voxels
from image_quirks import QUIRKS, Found, plant

from tasks.imaging import rules
from tasks.imaging.checks import check_voxels, n_files, report_of
from tasks.imaging.links import Links, Scanned
from tasks.imaging.report import ImageReport
from tasks.imaging.rules import RULES
from tasks.imaging.store import open_store

TABLE_RULES = {"no_such_patient", "two_patients", "days_differ", "row_without_images", "patient_without_images"}
FOLDER_RULES = {"participants"}


def check(root: Path, links: Links | None = None) -> ImageReport:
    store = open_store(root, links)
    ticks: list[None] = []
    voxels = check_voxels(store, lambda: ticks.append(None))
    assert len(ticks) == n_files(store)
    return report_of(store, voxels)


def found(report: ImageReport) -> list[tuple[str, str]]:
    return sorted((each.rule.name, each.place) for each in report.findings)


# -- the planted set ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUIRKS)
def test_a_quirk_is_found_and_nothing_else_is(tmp_path: Path, name: str) -> None:
    root = tmp_path / "images"
    expected = plant(root, name, "P1")
    assert found(check(root)) == sorted(expected)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Found]:
    """A folder with a subject for each quirk, and what must be found in it."""
    root, expected = tmp_path_factory.mktemp("site") / "images", Found()
    for number, name in enumerate(QUIRKS):
        expected |= plant(root, name, f"P{number:02}")
    return root, expected


def test_all_quirks_in_one_folder_are_found_and_nothing_else_is(everything: tuple[Path, Found]) -> None:
    root, expected = everything
    assert found(check(root)) == sorted(expected)


def test_every_rule_about_files_is_broken_by_a_quirk(everything: tuple[Path, Found]) -> None:
    assert {rule for rule, _ in everything[1]} == {rule.name for rule in RULES} - TABLE_RULES - FOLDER_RULES


def test_what_an_error_is_about_is_not_among_the_scans(everything: tuple[Path, Found]) -> None:
    store = open_store(everything[0])
    used = {store.place(path) for scan in store.scans for path in [*scan.images.values(), *([scan.mask] if scan.mask else [])]}
    refused = {each.place for each in store.findings if each.severity == "error"}
    assert refused
    assert not used & refused


def test_no_words_of_a_finding_repeat_what_a_side_file_says(tmp_path: Path) -> None:
    root = tmp_path / "images"
    plant(root, "name_in_a_side_file", "P1")
    plant(root, "date_for_a_day", "P2")
    report = check(root)
    said = report.to_text() + str(report.to_dict())
    assert "AcquisitionDateTime, PatientName" in said
    assert "ZZ" not in said
    assert "2019" not in said


def test_a_list_of_participants_that_differs_from_the_folders_is_told(tmp_path: Path) -> None:
    for sub in ("P1", "P2"):
        right_session(tmp_path, sub)
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nsub-P1\tF\nsub-P3\tn/a\n")
    assert [each for each in found(check(tmp_path)) if each[0] == "participants"] == [
        ("participants", "sub-P2"),
        ("participants", "sub-P3"),
    ]


# -- against the tables -------------------------------------------------------------------------------------------------------


def links(*rows: Scanned, patients: str = "") -> Links:
    return Links(frozenset(patients.split()), rows)


def about_tables(root: Path, given: Links) -> Found:
    return {each for each in found(check(root, given)) if each[0] in TABLE_RULES | {"no_day"}}


def test_subjects_rows_and_patients_that_do_not_meet_are_found(tmp_path: Path) -> None:
    for sub in ("P1", "S2", "S3", "P4"):
        right_session(tmp_path, sub, day=None)
    given = links(
        Scanned("P2", 30, "S2", "01", ""),
        Scanned("P2", 40, "S2", "09", ""),
        Scanned("P1", 5, "P1", "", ""),
        patients="P1 P2 P4 P5",
    )
    assert about_tables(tmp_path, given) == {
        ("no_such_patient", "subject S3"),
        ("row_without_images", "patient P2, day 40"),
        ("patient_without_images", "patient P5"),
        ("no_day", "subject P4, session 01"),
    }
    store = open_store(tmp_path, given)
    assert [(scan.patient, scan.session, scan.day) for scan in store.scans] == [
        ("P1", "01", 5),
        ("P2", "01", 30),
        ("P4", "01", None),
    ]


def test_days_that_disagree_keep_the_session_out(tmp_path: Path) -> None:
    right_session(tmp_path, "P1", "01", day=10)
    right_session(tmp_path, "P1", "02", day=200)
    given = links(Scanned("P1", 11, "P1", "01", ""), Scanned("P1", 200, "P1", "02", "mr7"), patients="P1")
    assert about_tables(tmp_path, given) == {("days_differ", "subject P1, session 01")}
    assert [(scan.session, scan.day, scan.scanner) for scan in open_store(tmp_path, given).scans] == [("02", 200, "mr7")]


def test_a_subject_that_two_patients_claim_is_nobodys(tmp_path: Path) -> None:
    right_session(tmp_path, "S1", day=3)
    given = links(Scanned("P1", 3, "S1", "01", ""), Scanned("P2", 3, "S1", "01", ""), patients="P1 P2")
    assert about_tables(tmp_path, given) == {("two_patients", "subject S1")}
    assert open_store(tmp_path, given).scans == ()


# -- the report ---------------------------------------------------------------------------------------------------------------


def test_what_the_voxels_refuse_does_not_count_as_usable(tmp_path: Path) -> None:
    for number, name in enumerate(["cut_short", "labels_for_a_mask", "image_twice_in_a_patient", "nothing"]):
        plant(tmp_path, name, f"P{number}")
    report = check(tmp_path)
    assert (report.patients, report.sessions, report.masks) == (4, 4, 3)
    assert dict(report.images) == {"FLAIR": 4, "T1w": 4, "T2w": 3, "T1w_ce": 4}


def test_an_image_of_two_patients_is_not_excused_and_other_errors_are(tmp_path: Path) -> None:
    plant(tmp_path / "a", "flat_image", "P1")
    plant(tmp_path / "b", "image_of_another_patient", "P1")
    assert [check(tmp_path / "a").passed(allow_quarantine=leave) for leave in (False, True)] == [False, True]
    assert [check(tmp_path / "b").passed(allow_quarantine=leave) for leave in (False, True)] == [False, False]


def test_names_that_would_command_a_terminal_are_shown_without_their_commands(tmp_path: Path) -> None:
    right_session(tmp_path, "P1")
    put(image_path(tmp_path, "P1", "01", "T2w").with_name("\x1b[2J\u202e.nii.gz"), nifti(voxels("x")))
    report = check(tmp_path)
    assert ("name", "sub-P1/ses-01/anat/\x1b[2J\u202e.nii.gz") in found(report)
    assert "\x1b" not in report.to_text()
    assert "\u202e" not in report.to_text()


def test_the_check_holds_one_volume_at_a_time(tmp_path: Path) -> None:
    shape = (64, 64, 64)
    for number in range(6):
        right_session(tmp_path, f"P{number}")
        put(image_path(tmp_path, f"P{number}", "01", "T2w"), nifti(voxels(f"{number}", shape)))
    one = 4 * shape[0] * shape[1] * shape[2]
    store = open_store(tmp_path)
    tracemalloc.start()
    try:
        check_voxels(store, lambda: None)
        assert tracemalloc.get_traced_memory()[1] < 5 * one  # bytes as they are, as float32, and two tests of each voxel
    finally:
        tracemalloc.stop()
    assert one > 50 * 4 * SHAPE[0] * SHAPE[1] * SHAPE[2]


def test_the_readme_says_of_every_rule_what_becomes_of_what_breaks_it() -> None:
    table = (Path(rules.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert [rule.name for rule in RULES if f"`{rule.name}`" not in table] == []
