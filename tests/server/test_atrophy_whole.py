"""Rates of three invented hospitals, from their tables to a patient's flag: guard, ledger, noise and masks are real."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opened_sums import check_opened, grid_moves, most_moved, parted, summed, training_of

from client.cli import main as site_main
from privacy.entries import SpendRecord
from privacy.ledger import read_entries
from privacy.verify import verify_ledger
from server.cli import main
from server.folder import RunFolder, open_folder
from server.state import read_state
from tasks.mri_harmonisation.reference import load_reference, name_of
from tasks.mri_harmonisation.scans import scan_table
from tasks.mri_quant.task import TASK
from tasks.simulator import Clinic, Preset, Schedule, SiteSpec, write
from tasks.simulator import simulate as invent
from tasks.sums import Choice, Floats, Opened

COLUMNS = ("age_years", "sex", "nbv_ml", "thalamus_ml")
SITES = Preset(
    "rates",
    (
        SiteSpec("north", 90, Schedule.RECLAIM),
        SiteSpec("south", 70, Schedule.RECLAIM, Clinic.PROGRESSIVE),
        SiteSpec("east", 60, Schedule.RECLAIM, Clinic.EARLY),
    ),
)
CONSORTIUM = invent(SITES, 11)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    write(CONSORTIUM, folder)
    return folder / "sites"


def run(hospitals: Path, out: Path, privacy: str, *words: str) -> Path:
    """result.json of the run."""
    whole = [*words, "federation=roster", f"privacy={privacy}"]
    assert main(["simulate", "--json", "--data", str(hospitals), "--out", str(out), "--workers", "1", *whole]) == 0
    return out / "run" / "model" / "result.json"


def rates(hospitals: Path, out: Path, privacy: str, **options: str) -> dict[str, Any]:
    words = ["task=mri_quant", f"task.columns=[{','.join(COLUMNS)}]", *(f"task.options.{k}={v}" for k, v in options.items())]
    found: dict[str, Any] = json.loads(run(hospitals, out, privacy, *words).read_text())
    return found


def choice(**options: str) -> Choice:
    return Choice("rates", dict(options), COLUMNS)


def figures(found: Mapping[str, Any]) -> Floats:
    """Coefficients and variances of every measure, in % a year."""
    return np.concatenate([[*each["beta"], each["omega2"]] for each in found["reference"]["measures"]])


def figures_of(made: Choice, total: Floats) -> Floats:
    return figures(TASK.result(made, [Opened(total, 0.0)]))


def check_plain(hospitals: Path, run: RunFolder, made: Choice, found: Mapping[str, Any]) -> None:
    """The opened sum is the pooled one up to the grid, and the figures are the pooled ones up to what the grid can do to them."""
    training = training_of(parted(run, TASK, hospitals))
    check_opened(run, TASK, made, training)
    total = summed(TASK, made, (), training)
    off = np.abs(figures(found) - figures_of(made, total))
    most = most_moved(lambda sums: figures_of(made, sums), total, grid_moves(run))
    assert (off <= 1.01 * most + 1e-12).all()  # 1.01: the second order
    assert most.max() < 1e-3  # % a year: it would be no comparison otherwise


@pytest.mark.slow
@pytest.mark.parametrize("privacy", ["none", "epsilon8", "distributed8"])
def test_a_run_is_charged_in_every_ledger_and_each_site_sees_its_patients_beside_it(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], privacy: str
) -> None:
    out = tmp_path / "out"
    found = rates(hospitals, out, privacy)
    assert [done.purpose for done in read_state(out / "run").done] == ["train"]
    ledgers_say_it(out / "sites")
    folder, made = open_folder(out / "run"), choice()
    if privacy == "none":
        check_plain(hospitals, folder, made, found)
    else:
        total = summed(TASK, made, (), training_of(parted(folder, TASK, hospitals)))
        assert 1e-3 < np.abs(figures(found) - figures_of(made, total)).max() < 5.0
        assert any("noise dominates" in note for note in found["notes"])
    capsys.readouterr()
    words = ["--home", str(out / "sites" / "south"), "data", "atrophy", str(out / "run" / "model" / "result.json")]
    assert site_main([*words, "--folder", str(hospitals / "south"), "--out", str(tmp_path / "rates.csv"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["measures"]["nbv_ml"]
    with (tmp_path / "rates.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["state"] == "rated" and row["measure"] == "nbv_ml"]
    assert len(rows) == said["patients"]["rated"] > 40
    assert all(np.isfinite(float(row[name])) for row in rows for name in ("rate_pct_y", "se", "z", "chance_faster"))


@pytest.mark.slow
def test_harmonised_tables_go_from_one_run_to_the_next(hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted({name for site in CONSORTIUM.sites for name in scan_table(site.tables)["batch"] if name})
    words = ("task=mri_harmonisation", "task.model=longitudinal", f"task.columns=[{','.join(COLUMNS)}]",
             f"task.options.batches='{','.join(names)}'", "task.options.scans=4")  # fmt: skip
    result = run(hospitals, tmp_path / "first", "none", *words)
    name, new = name_of(load_reference(result)), tmp_path / "new"
    assert any(name in note for note in json.loads(result.read_text())["notes"])
    new.mkdir()
    for site in ("north", "south", "east"):
        words = ("--home", str(tmp_path / "first" / "sites" / site), "data", "harmonise", str(result), "--folder",
                 str(hospitals / site), "--out", str(tmp_path / f"{site}.csv"), "--tables", str(new / site))  # fmt: skip
        assert site_main([*words]) == 0
    capsys.readouterr()
    out = tmp_path / "second"
    found = rates(new, out, "none", reference=name)
    assert found["reference"]["volumes"] == name
    check_plain(new, open_folder(out / "run"), choice(reference=name), found)
    mean = next(row for row in found["tables"]["rates"] if row["measure"] == "nbv_ml")
    assert mean["patients"] > 60
    assert -1.0 < mean["mean_pct_y"] < -0.2


def ledgers_say_it(sites: Path) -> None:
    """Every site was charged for one release of its training side."""
    checked = 0
    for site in sorted(path for path in sites.iterdir() if (path / "ledger.jsonl").exists()):
        data = (site / "ledger.jsonl").read_bytes()
        assert verify_ledger(data).ok
        spends = [entry.content for entry in read_entries(data)[0] if isinstance(entry.content, SpendRecord)]
        assert [(spend.details.purpose, len(spend.spends), spend.spends[0].population) for spend in spends] == [
            ("train", 1, "train")
        ]
        checked += 1
    assert checked == 3
