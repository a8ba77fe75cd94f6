"""`wardround-site data harmonise`: what a data manager types; the tables stay as they are, the file is for its owner alone."""

import csv
import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client.cli import main
from tasks.mri_harmonisation.scans import scan_table
from tasks.mri_harmonisation.task import TASK
from tasks.simulator import Clinic, Preset, Schedule, SiteSpec, simulate, write
from tasks.sums import Choice, Opened, Records

COLUMNS = ("age_years", "sex", "nbv_ml", "thalamus_ml")
SITES = Preset(  # scans of all are quantified; one clinic is of early, one of progressive patients
    "harmonise",
    (
        SiteSpec("north", 90, Schedule.RECLAIM),
        SiteSpec("south", 70, Schedule.RECLAIM, Clinic.PROGRESSIVE),
        SiteSpec("east", 60, Schedule.RECLAIM, Clinic.EARLY),
        SiteSpec("west", 60, Schedule.CLINNOVA),
    ),
)
CONSORTIUM = simulate(SITES, 11)
HEADER = ["patient_id", "day", "scan_id", "batch", "state", "nbv_ml", "thalamus_ml"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("simulated")
    write(CONSORTIUM, place)
    return place / "sites"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """result.json of a run of the first three hospitals."""
    tables = [site.tables for site in CONSORTIUM.sites[:3]]
    names = sorted({name for each in tables for name in scan_table(each)["batch"] if name})
    made, opened = Choice("combat", {"batches": ",".join(names)}, COLUMNS), list[Opened]()
    cohorts = [TASK.cohort_of(each) for each in tables]
    for _ in range(2):
        before = [each.total for each in opened]
        rows = [TASK.vectors(made, before, Records(each.values, each.owners, each.size)).sum(axis=0) for each in cohorts]
        opened.append(Opened(np.sum(rows, axis=0), 0.0))
    path = tmp_path_factory.mktemp("run") / "result.json"
    path.write_text(json.dumps({"format": "wardround/result/1", **TASK.result(made, opened)}))
    return path


def run(*words: object, status: int = 0) -> None:
    assert main(["--home", "/nonexistent", "data", "harmonise", *map(str, words)]) == status


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def test_every_scan_is_in_the_file_and_the_tables_stay_as_they_are(folder: Path, result: Path, tmp_path: Path) -> None:
    before, out = digests(folder / "south"), tmp_path / "mri_harmonised.csv"
    run(result, "--folder", folder / "south", "--out", out)
    assert digests(folder / "south") == before
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with out.open(encoding="utf-8") as file, (folder / "south" / "mri.csv").open(encoding="utf-8") as tables:
        rows, scans = list(csv.DictReader(file)), list(csv.DictReader(tables))
    assert list(rows[0]) == HEADER
    names = {(row["patient_id"], row["day"], row["scan_id"]) for row in rows}
    assert names == {(row["patient_id"], row["day"], row["scan_id"]) for row in scans}
    assert sum(row["state"] == "harmonised" for row in rows) > 400
    moved = {(row["patient_id"], row["scan_id"]): row["nbv_ml"] for row in rows if row["nbv_ml"]}
    changed = [moved[key] != row["nbv_ml"] for row in scans if (key := (row["patient_id"], row["scan_id"])) in moved]
    assert np.mean(changed) > 0.95


def test_a_hospital_that_was_in_no_run_harmonises_itself(
    folder: Path, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(result, "--folder", folder / "west", "--out", tmp_path / "west.csv", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [(batch["in_the_run"], batch["harmonised"]) for batch in found["batches"]] == [(False, True)]
    assert found["scans"]["harmonised"] > 20
    assert not found["training_side_alone"]  # it follows no roster


def test_what_is_said_names_batches_and_counts_and_no_patient(
    folder: Path, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(result, "--folder", folder / "south", "--out", tmp_path / "x.csv")
    said = capsys.readouterr().out
    assert all(word in said for word in ("batches", "harmonised", "none of the run", "stay here", "no roster"))
    with (folder / "south" / "patients.csv").open(encoding="utf-8") as file:
        assert not [row for row in csv.DictReader(file) if row["patient_id"] in said]


def test_withdrawn_patients_are_in_no_file(folder: Path, result: Path, tmp_path: Path) -> None:
    gone = CONSORTIUM.site("east").tables["mri"]["patient_id"].iloc[0]
    listed = folder / "east" / "withdrawn.txt"
    listed.write_text(f"{gone}\n")
    run(result, "--folder", folder / "east", "--out", tmp_path / "east.csv")
    listed.unlink()
    assert str(gone) not in (tmp_path / "east.csv").read_text()


def test_a_file_of_the_same_command_is_written_anew_and_any_other_is_refused(
    folder: Path, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.csv"
    for _ in range(2):
        run(result, "--folder", folder / "west", "--out", out)
    out.write_text("patient_id,day\n")
    run(result, "--folder", folder / "west", "--out", out, status=2)
    assert out.read_text() == "patient_id,day\n"
    assert "was not written by this command" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mri.csv", "visits.csv", "x.parquet", "nowhere/x.csv"])
def test_a_place_that_would_cost_a_table_or_cannot_be_is_refused(folder: Path, result: Path, tmp_path: Path, name: str) -> None:
    before = digests(folder / "west")
    run(result, "--folder", folder / "west", "--out", tmp_path / name, status=2)
    run(result, "--folder", folder / "west", "--out", folder / "west" / name, status=2)
    assert digests(folder / "west") == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda found: {**found, "reference": None}, "holds no reference of MRI measures"),
        (lambda found: {**found, "reference": {**found["reference"], "version": "7"}}, "another version"),
        (lambda found: {**found, "reference": {**found["reference"], "sigma": [1.0]}}, "is damaged"),
    ],
)
def test_a_result_of_another_kind_changes_nothing(
    folder: Path, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    spoil: Callable[[dict[str, object]], object], message: str,
) -> None:  # fmt: skip
    other = tmp_path / "result.json"
    other.write_text(json.dumps(spoil(json.loads(result.read_text()))))
    run(other, "--folder", folder / "west", "--out", tmp_path / "x.csv", status=1)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()


def test_an_error_that_nobody_foresaw_names_its_kind_and_no_cell(
    folder: Path, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("could not convert 'patient 17'")

    monkeypatch.setattr("tasks.mri_harmonisation.apply.harmonise_tables", broken)
    run(result, "--folder", folder / "west", "--out", tmp_path / "x.csv", status=1)
    said = capsys.readouterr().err
    assert "ValueError at" in said
    assert "patient 17" not in said
    assert not (tmp_path / "x.csv").exists()


def test_a_folder_without_scans_or_tables_says_so(
    folder: Path, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(result, "--folder", tmp_path, "--out", tmp_path / "x.csv", status=1)
    assert "no tables of the data contract" in capsys.readouterr().err
    few = tmp_path / "few"
    few.mkdir()
    for name in ("patients.csv", "visits.csv"):
        (few / name).write_bytes((folder / "west" / name).read_bytes())
    run(result, "--folder", few, "--out", tmp_path / "x.csv", status=1)
    assert "holds no scan of a patient" in capsys.readouterr().err
