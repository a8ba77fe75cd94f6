"""What parting rows feigns is measured on one plan run twice, and only where there is something to measure."""

import json
from pathlib import Path

import pytest

from server.cli import main
from server.errors import PlanningError, ServerError
from server.figures import newest
from server.folder import RunFolder
from server.row_gap import FILE, RowGap, check_row_gap, read_row_gap, write_row_gap
from server.state import read_state
from tasks.run_options import run_options
from tasks.simulator import simulate as invent
from tasks.simulator import write


@pytest.mark.parametrize(
    ("task", "mode", "says"),
    [
        ("cdp_2y", "local", "add privacy=none"),
        ("cohort_description", "none", "sums"),
        ("cis_conversion", "none", "is no gap"),
    ],
)
def test_where_there_is_no_gap_to_measure_the_lead_hears_why(task: str, mode: str, says: str) -> None:
    with pytest.raises(PlanningError, match=says):
        check_row_gap(task, mode)


def test_a_gap_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_row_gap(tmp_path) is None
    gap = RowGap("auc", 0.7, 0.78, 0.08)
    write_row_gap(tmp_path, gap)
    assert read_row_gap(tmp_path) == gap
    assert gap.words == "AUC 0.700 on test patients where patients are parted, 0.780 where rows are: parting rows feigns +0.080"
    (tmp_path / FILE).write_text('{"figure": "auc"}')
    with pytest.raises(ServerError, match="is damaged"):
        read_row_gap(tmp_path)


@pytest.mark.slow
def test_the_program_measures_the_gap_with_the_same_sites_salt_and_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(invent("demo", 5), tmp_path / "invented")
    words = ["task=cdp_2y", "task.model=mlp", "task.options.hidden=16", "privacy=none", "schedule.rounds=30"]
    out = tmp_path / "out"
    where = ["--data", str(tmp_path / "invented" / "sites"), "--out", str(out), "--workers", "1"]
    assert main(["simulate", *where, "--row-gap", *words]) == 0
    shown = capsys.readouterr().out
    gap = read_row_gap(out / "run")
    assert gap is not None
    assert gap.words in shown
    parted, leaking = RunFolder(out / "run"), RunFolder(out / "rows" / "run")
    assert parted.roster().split_salt == leaking.roster().split_salt
    assert run_options(dict(parted.plan().model.options)).split == "patients"
    assert run_options(dict(leaking.plan().model.options)).split == "rows"
    for figure, run in ((gap.patients, parted), (gap.rows, leaking)):
        assert figure == newest(read_state(run.path))[gap.figure]
    page = (out / "run" / "report.html").read_text("utf-8")
    assert gap.words in page
    assert "ROWS WERE PARTED" not in page
    assert json.loads((out / "run" / FILE).read_text())["gap"] == pytest.approx(gap.rows - gap.patients)
