"""A run is told from its baseline's on the same patients alone, and the page says it when the model is not better."""

import json
import math
from pathlib import Path

import pytest

from server.baseline import FILE, Against, against, read_against, write_against
from server.cli import main
from server.config import load_config
from server.errors import ServerError
from server.figures import newest
from server.folder import RunFolder
from server.state import read_state
from tasks.simulator import simulate as invent
from tasks.simulator import write

DOUBTFUL = "the model is not surely better than its baseline"
TASKS = [path.stem for path in (Path(__file__).parents[2] / "conf" / "task").glob("*.yaml")]


@pytest.mark.parametrize(
    ("gain", "doubt", "said"),
    [
        (0.05, 0.02, "the model beats its baseline: AUC 0.700 against 0.650 (run base), better by +0.050 ± 0.020"),
        (
            0.01,
            0.02,
            "the model is not surely better than its baseline: AUC 0.700 against 0.690 (run base), better by +0.010 ± 0.020",
        ),
        (-0.01, 0.0, "THE MODEL DOES NOT BEAT ITS BASELINE: AUC 0.700 against 0.710 (run base), better by -0.010 ± 0.000"),
        (0.05, math.inf, f"{DOUBTFUL}: AUC 0.700 against 0.650 (run base), better by +0.050"),
    ],
)
def test_the_verdict_says_what_the_intervals_allow(tmp_path: Path, gain: float, doubt: float, said: str) -> None:
    found = Against("auc", "base", 0.7, 0.7 - gain, gain, doubt)
    assert found.words == said
    assert read_against(tmp_path) is None
    write_against(tmp_path, found)
    assert read_against(tmp_path) == found


def test_a_damaged_comparison_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"figure": "auc"}')
    with pytest.raises(ServerError, match="is damaged"):
        read_against(tmp_path)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_with_a_baseline_names_one_that_is_of_the_same_task(task: str) -> None:
    found = load_config([f"task={task}", "federation=roster"]).task
    if found.baseline:
        base = load_config([f"task={found.baseline}", "federation=roster"]).task
        assert base.name == found.name
        assert base.columns != found.columns or base.model != found.model


@pytest.mark.slow
def test_the_program_runs_the_baseline_on_the_same_patients_and_the_page_says_which_is_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(invent("demo", 5), tmp_path / "invented")
    out = tmp_path / "out"
    where = ["--data", str(tmp_path / "invented" / "sites"), "--out", str(out), "--workers", "1"]
    assert main(["simulate", *where, "--baseline", "task=cdp_2y", "privacy=none", "schedule.rounds=30"]) == 0
    shown = capsys.readouterr().out
    found = read_against(out / "run")
    assert found is not None
    assert found.words in shown
    assert found.words[1:] in (out / "run" / "report.html").read_text("utf-8")
    model, base = RunFolder(out / "run"), RunFolder(out / "baseline" / "run")
    assert model.roster().split_salt == base.roster().split_salt
    assert set(base.plan().task.columns) < set(model.plan().task.columns)
    for value, run in ((found.model, model), (found.baseline, base)):
        assert value == newest(read_state(run.path))[found.figure]
    assert main(["report", str(model.path), "--baseline", str(base.path)]) == 0
    assert against(model.path, base.path) == found
    capsys.readouterr()
    assert main(["status", str(model.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["against_baseline"] == found.words
    assert main(["simulate", *where[:3], str(tmp_path / "more"), "--baseline", "task=cohort_description"]) == 2
