"""New lesions, the whole path: phantom hospitals, guards, ledgers, noise, masks. Without noise it is the plain computation."""

from pathlib import Path

import pytest
from image_plans import TINY_PAIRS
from image_whole import SITES, check_plain, ran
from phantom_sites import write_hospital

from privacy.verify import verify_ledger
from server.cli import main as lead
from tasks.cohorts import open_cohort
from tasks.new_lesions.task import TASK

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At one hospital nobody has drawn what is new: it follows from two masks of lesions. At another one some come once only."""
    folder = tmp_path_factory.mktemp("data")
    for number, site in enumerate(SITES):
        write_hospital(folder, site, 5, seed=number, second_every=1 + (site == "three"), new_per_year=15.0)
    for path in (folder / "two").rglob("*newlesion_mask.nii.gz"):
        path.unlink()
    return folder


def test_without_noise_a_run_is_the_plain_computation_of_its_plan(data: Path, tmp_path: Path) -> None:
    run = ran(tmp_path / "out", data, *TINY_PAIRS, "privacy=none")
    cohorts = {site: open_cohort(TASK, data / site) for site in SITES}
    assert [cohort.size for cohort in cohorts.values()] == [5, 5, 2]
    assert [{scan.old_mask is not None for scan in cohort.scans} for cohort in cohorts.values()] == [{False}, {True}, {False}]
    check_plain(run, TASK, data, tmp_path / "cache")
    assert lead(["model", "export", str(run.path), "--out", str(tmp_path / "model")]) == 0
    assert "new since the session before" in (tmp_path / "model" / "card.md").read_text()


def test_with_noise_every_ledger_holds_and_the_report_names_nobody(data: Path, tmp_path: Path) -> None:
    run = ran(tmp_path / "out", data, *TINY_PAIRS, "privacy=epsilon8")
    for site in SITES:
        assert verify_ledger((run.path.parent / "sites" / site / "ledger.jsonl").read_bytes()).ok
    assert lead(["report", str(run.path)]) == 0
    page = (run.path / "report.html").read_text()
    assert "Dice" in page
    assert "P002" not in page
