"""`wardround-site data atrophy`, and harmonised tables for it: what a data manager types; tables stay as they are."""

import csv
import hashlib
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from client.cli import main
from tasks.base import Cohort
from tasks.cohorts import open_cohort
from tasks.errors import DataError
from tasks.mri_harmonisation.reference import load_reference, name_of
from tasks.mri_harmonisation.scans import reference_number, references_of, scan_table
from tasks.mri_harmonisation.task import TASK as HARMONISE
from tasks.mri_quant.task import TASK
from tasks.ms.validate import validate_folder
from tasks.simulator import Clinic, Preset, Schedule, SiteSpec, simulate, write
from tasks.sums import Choice, Opened, Records, SumsTask

COLUMNS = ("age_years", "sex", "nbv_ml", "thalamus_ml")
SITES = Preset(
    "rates",
    (
        SiteSpec("north", 90, Schedule.RECLAIM),
        SiteSpec("south", 70, Schedule.RECLAIM, Clinic.PROGRESSIVE),
        SiteSpec("west", 60, Schedule.CLINNOVA),
    ),
)
CONSORTIUM = simulate(SITES, 11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("simulated")
    write(CONSORTIUM, place)
    return place / "sites"


def summed(task: SumsTask, made: Choice, cohorts: list[Cohort]) -> dict[str, Any]:
    opened: list[Opened] = []
    for _ in task.stages(made):
        before = [each.total for each in opened]
        rows = [task.vectors(made, before, Records(each.values, each.owners, each.size)).sum(axis=0) for each in cohorts]
        opened.append(Opened(np.sum(rows, axis=0), 0.0))
    return {"format": "wardround/result/1", **task.result(made, opened)}


@pytest.fixture(scope="module")
def harmonised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """result.json of a harmonisation of all three."""
    tables = [site.tables for site in CONSORTIUM.sites]
    names = sorted({name for each in tables for name in scan_table(each)["batch"] if name})
    made = Choice("combat", {"batches": ",".join(names)}, COLUMNS)
    path = tmp_path_factory.mktemp("harmonised") / "result.json"
    path.write_text(json.dumps(summed(HARMONISE, made, [HARMONISE.cohort_of(each) for each in tables])))
    return path


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """result.json of rates of all three, of volumes as measured."""
    found = summed(TASK, Choice("rates", {}, COLUMNS), [TASK.cohort_of(site.tables) for site in CONSORTIUM.sites])
    path = tmp_path_factory.mktemp("rates") / "result.json"
    path.write_text(json.dumps(found))
    return path


def run(*words: object, status: int = 0) -> None:
    assert main(["--home", "/nonexistent", "data", *map(str, words)]) == status


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def copied(folder: Path, to: Path) -> Path:
    """Its tables, to be spoilt: without the manifest, which binds them."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("manifest.json"))
    return to


def test_every_patient_has_a_row_for_each_measure_and_the_tables_stay(folder: Path, result: Path, tmp_path: Path) -> None:
    before, out = digests(folder / "south"), tmp_path / "rates.csv"
    run("atrophy", result, "--folder", folder / "south", "--out", out)
    assert digests(folder / "south") == before
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    rows = read(out)
    scanned = {row["patient_id"] for row in read(folder / "south" / "mri.csv") if row["nbv_ml"]}
    assert {row["patient_id"] for row in rows} == scanned
    assert len(rows) == 2 * len(scanned)
    rated = [row for row in rows if row["state"] == "rated" and row["measure"] == "nbv_ml"]
    assert len(rated) > 40
    assert all(float(row["low_95"]) < float(row["rate_pct_y"]) < float(row["high_95"]) for row in rated)
    assert all(row["faster"] in ("yes", "rather yes", "rather no", "no") for row in rated)
    assert all(not row["z_healthy"] for row in rows)


def test_a_second_z_against_healthy_people_is_given_if_asked_for(folder: Path, result: Path, tmp_path: Path) -> None:
    run("atrophy", result, "--folder", folder / "south", "--out", tmp_path / "x.csv", "--healthy")
    rows = [row for row in read(tmp_path / "x.csv") if row["state"] == "rated"]
    assert all(bool(row["z_healthy"]) is (row["measure"] == "nbv_ml") for row in rows)


def test_what_is_said_names_counts_and_no_patient_and_that_the_norm_is_ms(
    folder: Path, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("atrophy", result, "--folder", folder / "south", "--out", tmp_path / "x.csv")
    said = capsys.readouterr().out
    assert all(word in said for word in ("rather yes", "no norm of healthy people", "stay here", "with a rate"))
    assert not [row for row in read(folder / "south" / "patients.csv") if row["patient_id"] in said]
    run("atrophy", result, "--folder", folder / "south", "--out", tmp_path / "x.csv", "--json")
    found = json.loads(capsys.readouterr().out)
    assert sum(found["measures"]["nbv_ml"]["faster"].values()) == found["measures"]["nbv_ml"]["patients"]["rated"]
    assert found["volumes"] == ""


def test_withdrawn_patients_are_in_no_file(folder: Path, result: Path, tmp_path: Path) -> None:
    gone = CONSORTIUM.site("west").tables["mri"].dropna(subset=["nbv_ml"])["patient_id"].iloc[0]
    listed = folder / "west" / "withdrawn.txt"
    listed.write_text(f"{gone}\n")
    run("atrophy", result, "--folder", folder / "west", "--out", tmp_path / "west.csv")
    listed.unlink()
    assert str(gone) not in (tmp_path / "west.csv").read_text()
    run("atrophy", result, "--folder", folder / "west", "--out", tmp_path / "west.csv")  # over its own file
    assert str(gone) in (tmp_path / "west.csv").read_text()


@pytest.mark.parametrize("name", ["mri.csv", "x.txt", "nowhere/x.csv"])
def test_a_place_that_would_cost_a_table_or_cannot_be_is_refused(folder: Path, result: Path, tmp_path: Path, name: str) -> None:
    before = digests(folder / "west")
    run("atrophy", result, "--folder", folder / "west", "--out", folder / "west" / name, status=2)
    (tmp_path / "mine.csv").write_text("patient_id,measure\n")
    run("atrophy", result, "--folder", folder / "west", "--out", tmp_path / "mine.csv", status=2)
    assert digests(folder / "west") == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda found: {**found, "reference": None}, "holds no rates of MRI measures"),
        (lambda found: {**found, "reference": {**found["reference"], "version": "7"}}, "another version"),
        (lambda found: {**found, "reference": {**found["reference"], "covariates": []}}, "is damaged"),
        (lambda found: {**found, "reference": {**found["reference"], "measures": []}}, "too few patients"),
    ],
)
def test_a_result_of_another_kind_changes_nothing(
    folder: Path, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    spoil: Callable[[dict[str, Any]], object], message: str,
) -> None:  # fmt: skip
    other = tmp_path / "result.json"
    other.write_text(json.dumps(spoil(json.loads(result.read_text()))))
    run("atrophy", other, "--folder", folder / "west", "--out", tmp_path / "x.csv", status=1)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()


def test_an_error_that_nobody_foresaw_names_its_kind_and_no_cell(
    folder: Path, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("could not convert 'patient 17'")

    monkeypatch.setattr("tasks.mri_quant.apply.rate_patients", broken)
    run("atrophy", result, "--folder", folder / "west", "--out", tmp_path / "x.csv", status=1)
    said = capsys.readouterr().err
    assert "ValueError at" in said
    assert "patient 17" not in said


def test_a_folder_without_tables_or_scans_says_so(
    folder: Path, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("atrophy", result, "--folder", tmp_path, "--out", tmp_path / "x.csv", status=1)
    assert "no tables of the data contract" in capsys.readouterr().err
    few = tmp_path / "few"
    few.mkdir()
    for name in ("patients.csv", "visits.csv"):
        (few / name).write_bytes((folder / "west" / name).read_bytes())
    run("atrophy", result, "--folder", few, "--out", tmp_path / "x.csv", status=1)
    assert "holds no scan of a patient" in capsys.readouterr().err


def test_harmonised_tables_are_a_new_folder_that_keeps_the_contract_and_is_read_by_tasks(
    folder: Path, harmonised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, new = digests(folder / "south"), tmp_path / "new"
    run("harmonise", harmonised, "--folder", folder / "south", "--out", tmp_path / "h.csv", "--tables", new, "--json")
    said = json.loads(capsys.readouterr().out)
    name = name_of(load_reference(harmonised))
    assert digests(folder / "south") == before
    assert (said["name"], said["tables"], stat.S_IMODE(new.stat().st_mode)) == (name, str(new), 0o700)
    old, ready = (
        pd.read_csv(each / "mri.csv", dtype=str, keep_default_na=False).set_index(["patient_id", "day", "scan_id"])
        for each in (folder / "south", new)
    )
    assert list(old.index) == list(ready.index)
    done = ready["tool_version"].str.endswith(f"+{name}")
    assert done.sum() == said["scans_in_tables"] > 200
    assert ((ready["tool"] == "msquant+harmonised") == done).all()
    file = pd.read_csv(tmp_path / "h.csv", dtype=str, keep_default_na=False).set_index(["patient_id", "day", "scan_id"])
    np.testing.assert_allclose(
        ready.loc[done, "nbv_ml"].astype(float), file.loc[ready.index[done], "nbv_ml"].astype(float), atol=1e-4
    )
    rest = [column for column in old if column not in ("nbv_ml", "thalamus_ml", "tool", "tool_version")]
    pd.testing.assert_frame_equal(ready[rest], old[rest])
    pd.testing.assert_frame_equal(ready[~done], old[~done])
    assert not validate_folder(new).report.of("error")
    cohort = open_cohort(TASK, new)
    records = Records(cohort.values, cohort.owners, cohort.size)
    assert TASK.vectors(Choice("rates", {"reference": name}, COLUMNS), (), records).any(axis=1).sum() > 40
    assert not TASK.vectors(Choice("rates", {}, COLUMNS), (), records).any(axis=1).sum() > 10


def test_rates_of_a_run_on_other_volumes_than_the_folder_has_are_refused(
    folder: Path, harmonised: Path, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, name = tmp_path / "new", name_of(load_reference(harmonised))
    run("harmonise", harmonised, "--folder", folder / "north", "--out", tmp_path / "h.csv", "--tables", new)
    said = capsys.readouterr().out
    assert name in said
    made = Choice("rates", {"reference": name}, COLUMNS)
    ready = tmp_path / "ready.json"
    ready.write_text(json.dumps(summed(TASK, made, [open_cohort(TASK, new)])))
    run("atrophy", ready, "--folder", new, "--out", tmp_path / "x.csv")
    assert sum(row["state"] == "rated" for row in read(tmp_path / "x.csv")) > 40
    run("atrophy", ready, "--folder", folder / "north", "--out", tmp_path / "y.csv", status=1)
    assert f"no volume in {folder / 'north'} is harmonised by {name}" in capsys.readouterr().err
    mri = pd.read_csv(new / "mri.csv", dtype=str, keep_default_na=False)
    mri[mri["tool"].str.endswith("harmonised")].to_csv(new / "mri.csv", index=False)
    (new / "manifest.json").unlink()
    run("atrophy", result, "--folder", new, "--out", tmp_path / "y.csv", status=1)
    assert "those of the run are as measured" in capsys.readouterr().err
    assert not (tmp_path / "y.csv").exists()


def test_volumes_are_harmonised_once_and_into_a_new_folder_alone(
    folder: Path, harmonised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, words = tmp_path / "new", ("harmonise", harmonised, "--out", tmp_path / "h.csv")
    run(*words, "--folder", folder / "west", "--tables", new)
    run(*words, "--folder", folder / "west", "--tables", new, status=1)
    assert "not an empty folder" in capsys.readouterr().err
    for more in (("--tables", tmp_path / "twice"), ()):
        run(*words, "--folder", new, *more, status=1)
        assert "harmonised measures already" in capsys.readouterr().err
    run(*words, "--folder", folder / "west", "--tables", folder / "west" / "inside", status=1)
    assert "lies in the folder of the tables" in capsys.readouterr().err
    assert not (tmp_path / "twice").exists()


def test_a_harmonisation_sums_no_volume_that_is_harmonised_already(folder: Path, harmonised: Path, tmp_path: Path) -> None:
    run("harmonise", harmonised, "--folder", folder / "north", "--out", tmp_path / "h.csv", "--tables", tmp_path / "new")
    with pytest.raises(DataError, match="all measures in the table mri are harmonised already"):
        open_cohort(HARMONISE, tmp_path / "new")
    mri = pd.read_csv(tmp_path / "new" / "mri.csv", dtype=str, keep_default_na=False)
    done = mri.index[mri["tool"].str.endswith("+harmonised")]
    mri.loc[done[:50], "tool"] = "msquant"
    mri.to_csv(tmp_path / "new" / "mri.csv", index=False)
    (tmp_path / "new" / "manifest.json").unlink()
    assert len(open_cohort(HARMONISE, tmp_path / "new").values) == 50


def test_days_in_whatever_form_the_contract_takes_them_are_found_again(folder: Path, harmonised: Path, tmp_path: Path) -> None:
    """A scan that is said to be harmonised must be so in the tables."""
    odd = copied(folder / "west", tmp_path / "odd")
    mri = pd.read_csv(odd / "mri.csv", dtype=str, keep_default_na=False)
    for at, form in enumerate(("{}", "{}.0", "0{}", "{}e0")):
        rows = (mri.index % 4 == at) & ~mri["day"].str.startswith("-")
        mri.loc[rows, "day"] = [form.format(day) for day in mri.loc[rows, "day"]]
    mri.to_csv(odd / "mri.csv", index=False)
    run("harmonise", harmonised, "--folder", odd, "--out", tmp_path / "h.csv", "--tables", tmp_path / "new")
    done = {(row["patient_id"], row["scan_id"]) for row in read(tmp_path / "h.csv") if row["state"] == "harmonised"}
    written = read(tmp_path / "new" / "mri.csv")
    assert [row["day"] for row in written] == list(mri["day"])
    assert {(row["patient_id"], row["scan_id"]) for row in written if row["tool"].endswith("+harmonised")} == done
    assert len(done) > 40


def test_nothing_is_measured_into_harmonised_tables(
    folder: Path, harmonised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would stand under the signature of the harmonisation, or take it off harmonised volumes."""
    new = tmp_path / "new"
    run("harmonise", harmonised, "--folder", folder / "west", "--out", tmp_path / "h.csv", "--tables", new)
    (new / "images").mkdir()
    for words in (("--dry-run",), ("--out", tmp_path / "measured"), ("--out", tmp_path / "measured", "--replace")):
        run("measure", "--folder", new, *words, status=1)
        assert "the table mri holds harmonised measures" in capsys.readouterr().err
    assert not (tmp_path / "measured").exists()


def test_whoever_signs_after_a_harmonisation_leaves_volumes_that_nobody_can_place(folder: Path) -> None:
    scans = CONSORTIUM.site("west").tables["mri"]
    for tool, known in (("a+harmonised", True), ("a+harmonised+b", False), ("harmonised+b", False)):
        found = references_of(scans.assign(tool=tool, tool_version="1+h3f0123456789"))
        assert (found == reference_number("h3f0123456789")).all() == known
        assert np.isnan(found).all() != known
    assert (references_of(scans.assign(tool="unharmonised", tool_version="1+h3f0123456789")) == 0).all()


def test_tables_are_left_by_nobody_whose_file_cannot_be_written(folder: Path, harmonised: Path, tmp_path: Path) -> None:
    """Else the same command would be refused for the folder that it left."""
    long = tmp_path / ("x" * 245 + ".csv")  # a name that is long enough for a file, not for the one beside it
    run("harmonise", harmonised, "--folder", folder / "west", "--out", long, "--tables", tmp_path / "new", status=1)
    assert not list(tmp_path.iterdir())
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").touch()
    run("harmonise", harmonised, "--folder", folder / "west", "--out", tmp_path / "h.csv", "--tables", tmp_path / "new", status=1)
    assert not (tmp_path / "h.csv").exists()


def test_what_stays_as_it_was_is_counted(
    folder: Path, harmonised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("harmonise", harmonised, "--folder", folder / "west", "--out", tmp_path / "h.csv", "--tables", tmp_path / "new", "--json")
    said, rows = json.loads(capsys.readouterr().out), read(folder / "west" / "mri.csv")
    assert said["rows_as_they_were"] == len(rows) - said["scans_in_tables"] > 0


def test_scans_without_any_volume_make_no_empty_file(
    folder: Path, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = copied(folder / "west", tmp_path / "bare")
    mri = pd.read_csv(bare / "mri.csv", dtype=str, keep_default_na=False)
    mri.assign(nbv_ml="", thalamus_ml="", t2_vol_ml="").to_csv(bare / "mri.csv", index=False)
    run("atrophy", result, "--folder", bare, "--out", tmp_path / "x.csv", status=1)
    assert "has a measured volume" in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()
