"""Lesions through the whole path: phantom hospitals, guards, ledgers, noise, masks. Without noise it is the plain computation."""

import re
from pathlib import Path

import pytest
from image_plans import TINY
from image_runs import run_with
from image_whole import SITES, check_plain, ran
from phantom_sites import write_hospital

from privacy.verify import verify_ledger
from server.cli import main as lead
from server.export import final_model
from server.phantoms import tried
from server.report_phantoms import phantom_section
from tasks.cohorts import open_cohort
from tasks.lesion_seg.task import TASK

pytestmark = pytest.mark.slow

VENDOR = ("+task.options.score_by=vendor", "task.columns=[flair,t1w,vendor]")


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


def test_without_noise_a_run_is_the_plain_computation_of_its_plan(data: Path, tmp_path: Path) -> None:
    run = ran(tmp_path / "out", data, *TINY, "privacy=none")
    cohorts = {site: open_cohort(TASK, data / site) for site in SITES}
    assert [cohort.size for cohort in cohorts.values()] == [5, 5, 4]
    check_plain(run, TASK, data, tmp_path / "cache")
    assert lead(["model", "export", str(run.path), "--out", str(tmp_path / "model")]) == 0
    assert "Predicts the voxel lies in a T2 lesion" in (tmp_path / "model" / "card.md").read_text()


def test_with_noise_every_ledger_holds_and_the_report_says_what_it_cost(data: Path, tmp_path: Path) -> None:
    run = ran(tmp_path / "out", data, *TINY, "privacy=epsilon8", *VENDOR, "task.options.patch=16")
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
