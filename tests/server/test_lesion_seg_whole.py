"""Lesions through the whole path: phantom hospitals, guards, ledgers, noise, masks. Without noise it is the plain computation."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from image_plans import TINY
from image_runs import run_with
from phantom_sites import write_hospital

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from consortium_in_process import train, trainers_of

from privacy.verify import verify_ledger
from server.checkpoint import latest_checkpoint
from server.cli import main as lead
from server.cli_run import simulate
from server.export import final_model
from server.folder import RunFolder
from server.phantoms import tried
from server.report_phantoms import phantom_section
from server.state import read_state
from tasks.cohorts import open_cohort
from tasks.lesion_seg.task import TASK

pytestmark = pytest.mark.slow

VENDOR = ("+task.options.score_by=vendor", "task.columns=[flair,t1w,vendor]")
SITES, SALT = ("one", "two", "three"), bytes(range(16))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One hospital has its images beside a list of withdrawals, as a link."""
    folder = tmp_path_factory.mktemp("data")
    for number, site in enumerate(SITES):
        write_hospital(folder, site, 5, seed=number)
    (folder / "three").rename(folder.parent / "archive")
    (folder / "three").mkdir()
    (folder / "three" / "images").symlink_to(folder.parent / "archive")
    (folder / "three" / "withdrawn.txt").write_text("P002\n")
    return folder


def ran(folder: Path, data: Path, *words: str) -> RunFolder:
    state = simulate(folder, [*TINY, *words], data=data, show=False, split_salt=SALT)
    assert state.phase == "finished"
    return RunFolder(folder / "run")


def test_without_noise_a_run_is_the_plain_computation_of_its_plan(data: Path, tmp_path: Path) -> None:
    run = ran(tmp_path / "out", data, "privacy=none")
    plan = run.plan()
    cohorts = {site: open_cohort(TASK, data / site) for site in SITES}
    assert [cohort.size for cohort in cohorts.values()] == [5, 5, 4]
    trainers = trainers_of(TASK, cohorts, run.roster(), cache=tmp_path / "cache")
    expected = train(plan, trainers)
    found = latest_checkpoint(run.checkpoints, plan.digest, model_size=plan.model_size).checkpoint
    assert found is not None
    assert found.model == pytest.approx(expected.model, abs=5e-6)  # ring step 6e-8 of a gradient, through Adam's root
    done = read_state(run.path).done[-1]
    assert done.purpose == "evaluate"
    assert np.asarray(done.histogram) == pytest.approx(expected.histogram, abs=1e-4)
    tested = sum(trainer.sides.test.patients for trainer in trainers.values())
    assert sum(done.histogram[: 4 * plan.histogram_bins // 3]) == pytest.approx(tested * np.sqrt(0.5), abs=1e-4)
    assert lead(["model", "export", str(run.path), "--out", str(tmp_path / "model")]) == 0
    assert "Predicts the voxel lies in a T2 lesion" in (tmp_path / "model" / "card.md").read_text()


def test_with_noise_every_ledger_holds_and_the_report_says_what_it_cost(data: Path, tmp_path: Path) -> None:
    run = ran(tmp_path / "out", data, "privacy=epsilon8", *VENDOR, "task.options.patch=16")
    for site in SITES:
        assert verify_ledger((run.path.parent / "sites" / site / "ledger.jsonl").read_bytes()).ok
    assert lead(["report", str(run.path)]) == 0
    page = (run.path / "report.html").read_text()
    assert "Dice" in page
    assert not re.search(r"\bP\d{3}\b", re.sub(r'src="[^"]*"', "", page))
    plain = run_with(tmp_path / "plain", model=final_model(run, run.plan()))  # no hospital ever answered this one
    section = phantom_section(plain.plan(), tried(plain, plain.plan()))
    assert section in page
    assert page.count("<img ") == section.count("<img ") == 16
