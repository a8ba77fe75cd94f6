"""`wardround-site data profile` and `data label`: what a data manager types and reads; what is written is for its owner alone."""

import csv
import json
import shutil
import stat
from pathlib import Path

import pytest

from client.cli import main
from tasks.cohorts import open_cohort
from tasks.mri_harmonisation.frame import frame_of
from tasks.mri_harmonisation.scans import batch_name
from tasks.ms.validate import validate_folder
from tasks.registry import find_task
from tasks.simulator import simulate, write
from tasks.sums import Choice


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("simulated")
    consortium = simulate("demo", 5)
    write(consortium, place)
    return place / "sites" / consortium.sites[0].site_id


def run(*words: object, status: int = 0) -> None:
    assert main(["--home", "/nonexistent", "data", *map(str, words)]) == status


def test_the_profile_says_what_the_tables_hold_and_who_may_be_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("profile", "--folder", folder, "--criteria", "reclaim")
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("visits", "screened", "included", "edss_scores", "stay"))
    run("profile", "--folder", folder, "--criteria", "reclaim", "--json")
    found = json.loads(capsys.readouterr().out)
    steps = found["flow"]["steps"]
    assert found["flow"]["screened"] == sum(step["here"] for step in steps) + found["flow"]["included"]


def test_the_page_is_for_its_owner_and_names_no_patient(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "profile.html"
    run("profile", "--folder", folder, "--html", page)
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    with (folder / "patients.csv").open(encoding="utf-8") as file:
        names = [row["patient_id"] for row in csv.DictReader(file)]
    assert not [name for name in names if name in page.read_text(encoding="utf-8")]


def test_a_column_that_gives_a_given_label_away_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "patients.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = tmp_path / "labels.csv"
    labels.write_text("patient_id,label\n" + "".join(f"{row['patient_id']},{int(row['sex'] == 'F')}\n" for row in rows))
    run("profile", "--folder", folder, "--labels", labels)
    assert "patients.sex" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_events_are_written_for_their_owner_and_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    out = tmp_path / f"events{suffix}"
    run("label", "--folder", folder, "--out", out, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["events"]["CDP"]["events"] > 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    if suffix == ".csv":
        with out.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == sum(each["events"] for each in found["events"].values())
        assert {row["rule_id"] for row in rows} == {found["rule_id"]}


def test_a_withdrawn_patient_is_in_neither(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("label", "--folder", folder, "--json")
    before = json.loads(capsys.readouterr().out)["patients"]
    with (folder / "patients.csv").open(encoding="utf-8") as file:
        name = next(csv.DictReader(file))["patient_id"]
    listed = folder / "withdrawn.txt"
    listed.write_text(f"{name}\n")
    try:
        run("label", "--folder", folder, "--json")
        assert json.loads(capsys.readouterr().out)["patients"] == before - 1
        run("profile", "--folder", folder, "--json")
        assert json.loads(capsys.readouterr().out)["flow"]["steps"][0]["here"] == 1
    finally:
        listed.unlink()


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("label", "--out", "events.xlsx"), 2, ".csv or .parquet"),
        (("profile", "--criteria", "clinova"), 1, "clinnova"),
    ],
)
def test_what_cannot_be_done_ends_with_a_reason(
    folder: Path, words: tuple[str, ...], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*words, "--folder", folder, status=status)
    assert says in capsys.readouterr().err


def test_a_folder_without_tables_or_with_a_broken_file_is_refused(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("profile", "--folder", tmp_path, status=1)
    assert "holds no tables" in capsys.readouterr().err
    (tmp_path / "patients.csv").write_bytes((folder / "patients.csv").read_bytes())
    (tmp_path / "visits.csv").write_text("patient_id,day\nP1,0\n")
    run("label", "--folder", tmp_path, status=1)
    assert "visits" in capsys.readouterr().err


def test_the_profile_names_scanners_as_a_plan_of_harmonisation_does(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("profile", "--folder", folder, "--json")
    scanners = json.loads(capsys.readouterr().out)["profile"]["scanners"]
    mri = validate_folder(folder).accepted["mri"]
    assert set(scanners) == {batch_name(*pair) for pair in zip(mri["scanner_id"], mri["protocol_id"], strict=True)}
    assert sum(scans for scans, _ in scanners.values()) == len(mri)
    frame_of(Choice("combat", {"batches": ",".join(scanners), "scans": 1}, ("age_years", "nbv_ml", "thalamus_ml")))


@pytest.mark.parametrize("words", [("label", "--out"), ("profile", "--html"), ("validate", "--html"), ("validate", "--share")])
def test_no_file_of_the_hospital_is_written_over(folder: Path, tmp_path: Path, words: tuple[str, str]) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    for name in ("visits.csv", "manifest.json"):
        before = (own / name).read_bytes()
        target = own / name if words != ("label", "--out") else own / "visits.csv"
        run(words[0], "--folder", own, words[1], target, status=2)
        assert (own / name).read_bytes() == before
    run(words[0], "--folder", own, words[1], tmp_path, status=2)
    run(words[0], "--folder", own, words[1], tmp_path / "nowhere" / "x.csv", status=2)


@pytest.mark.parametrize(
    ("verb", "option", "name"),
    [
        ("label", "--out", "e.csv"),
        ("label", "--out", "e.parquet"),
        ("profile", "--html", "p.html"),
        ("validate", "--share", "s.json"),
    ],
)
def test_what_a_command_wrote_it_may_write_again(folder: Path, tmp_path: Path, verb: str, option: str, name: str) -> None:
    for _ in range(2):
        run(verb, "--folder", folder, option, tmp_path / name)
    assert (tmp_path / name).stat().st_size > 0


@pytest.mark.parametrize(
    ("verb", "inside"),
    [
        ("profile", "tasks.ms.profile.profile_of"),
        ("label", "tasks.ms.labelling.label_tables"),
        ("validate", "tasks.ms.validate.validate_folder"),
    ],
)
def test_an_error_that_nobody_foresaw_quotes_no_cell(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str, inside: str
) -> None:
    def broken(*tables: object, **options: object) -> None:
        raise ValueError("could not convert string to float: 'Anna Schmidt'")

    monkeypatch.setattr(inside, broken)
    run(verb, "--folder", folder, status=1)
    shown = capsys.readouterr()
    assert "ValueError" in shown.err
    assert "Schmidt" not in shown.out + shown.err


def test_the_profile_says_whom_a_task_would_use_and_why_not_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("profile", "--folder", folder, "--task", "cdp_2y", "--json")
    used = json.loads(capsys.readouterr().out)["task"]
    cohort = open_cohort(find_task("cdp_2y"), folder)
    assert used["patients"] == cohort.size > 50
    assert used["label"]["1"] == int(cohort.labels.sum())
    assert used["label"]["0"] + used["label"]["1"] == len(cohort.labels)
    assert any("not followed for 30 months" in each["reason"] for each in used["withheld"])
    run("profile", "--folder", folder, "--task", "cdp_2y")
    shown = capsys.readouterr().out
    assert f"{cohort.size} patients kept" in shown
    assert not any(name in shown for name in cohort.patient_ids)
    run("profile", "--folder", folder, "--task", "cis_conversion", status=2)
    assert "mapping.yaml" in capsys.readouterr().err
