"""New lesions, the whole path: phantom hospitals, guards, ledgers, noise, masks. Without noise it is the plain computation."""

import sys
from pathlib import Path

import numpy as np
import pytest
from image_plans import TINY_PAIRS
from phantom_sites import write_hospital

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from consortium_in_process import train, trainers_of

from privacy.verify import verify_ledger
from server.checkpoint import latest_checkpoint
from server.cli import main as lead
from server.cli_run import simulate
from server.folder import RunFolder
from server.state import read_state
from tasks.cohorts import open_cohort
from tasks.new_lesions.task import TASK

pytestmark = pytest.mark.slow

SITES, SALT = ("one", "two", "three"), bytes(range(16))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At one hospital nobody has drawn what is new: it follows from two masks of lesions. At another one some come once only."""
    folder = tmp_path_factory.mktemp("data")
    for number, site in enumerate(SITES):
        write_hospital(folder, site, 5, seed=number, second_every=1 + (site == "three"), new_per_year=15.0)
    for path in (folder / "two").rglob("*newlesion_mask.nii.gz"):
        path.unlink()
    return folder


def ran(folder: Path, data: Path, *words: str) -> RunFolder:
    state = simulate(folder, [*TINY_PAIRS, *words], data=data, show=False, split_salt=SALT)
    assert state.phase == "finished"
    return RunFolder(folder / "run")


def test_without_noise_a_run_is_the_plain_computation_of_its_plan(data: Path, tmp_path: Path) -> None:
    run = ran(tmp_path / "out", data, "privacy=none")
    plan = run.plan()
    cohorts = {site: open_cohort(TASK, data / site) for site in SITES}
    assert [cohort.size for cohort in cohorts.values()] == [5, 5, 2]
    assert [{scan.old_mask is not None for scan in cohort.scans} for cohort in cohorts.values()] == [{False}, {True}, {False}]
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
    assert "new since the session before" in (tmp_path / "model" / "card.md").read_text()


def test_with_noise_every_ledger_holds_and_the_report_names_nobody(data: Path, tmp_path: Path) -> None:
    run = ran(tmp_path / "out", data, "privacy=epsilon8")
    for site in SITES:
        assert verify_ledger((run.path.parent / "sites" / site / "ledger.jsonl").read_bytes()).ok
    assert lead(["report", str(run.path)]) == 0
    page = (run.path / "report.html").read_text()
    assert "Dice" in page
    assert "P002" not in page
