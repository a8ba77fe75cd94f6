"""A description of four invented hospitals, from their tables to the page: guard, ledger, noise and masks are the real ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from opened_sums import check_opened, parted, summed, training_of

from privacy.entries import PopulationChanged, SpendRecord
from privacy.ledger import read_entries
from privacy.verify import verify_ledger
from server.cli import main
from server.cli_run import simulate
from server.folder import open_folder
from server.state import read_state
from server.sums import result_of
from tasks.cohort_description.task import TASK
from tasks.eligibility_flow.task import TASK as FLOW
from tasks.simulator import simulate as invent
from tasks.simulator import write
from tasks.sums import Choice, Opened

COLUMNS = ("patients__sex", "visits__edss", "mri__t2_vol_ml")
OVERRIDES = ("task=cohort_description", f"task.columns=[{','.join(COLUMNS)}]", "federation=roster")


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    write(invent("demo", 11), folder)
    return folder / "sites"


@pytest.mark.slow
@pytest.mark.parametrize("privacy", ["none", "epsilon3", "distributed3"])
def test_what_four_hospitals_sum_is_what_their_tables_hold(
    hospitals: Path, tmp_path: Path, privacy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--data", str(hospitals), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(["simulate", "--json", *out, *OVERRIDES, f"privacy={privacy}"]) == 0
    capsys.readouterr()
    run = tmp_path / "out" / "run"
    state = read_state(run)
    folder = open_folder(run)
    plan = folder.plan()
    result = result_of(folder, plan)
    assert result is not None
    _ledgers_say_it(tmp_path / "out" / "sites")
    choice, noise = Choice("tables", {"bins": 20}, COLUMNS), result_noise(plan, len(state.done[-1].survivors))
    training = training_of(parted(folder, TASK, hospitals))
    exact = dict(TASK.result(choice, [Opened(summed(TASK, choice, (), training), 0.0)]))  # all patients in view
    if privacy == "none":
        check_opened(folder, TASK, choice, training)
    (edss,) = [row for row in result["tables"]["numbers"] if row["column"] == "visits__edss"]  # type: ignore[index, call-overload]
    (truth,) = [row for row in exact["tables"]["numbers"] if row["column"] == "visits__edss"]  # type: ignore[index, call-overload]
    assert abs(edss["patients"] - truth["patients"]) <= 1 + 6 * noise * np.sqrt(2)
    assert abs(edss["mean"] - truth["mean"]) <= 0.01 + 8 * edss["mean_noise_se"]
    assert main(["result", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert (run / "model" / "result.json").exists()
    page = (run / "report.html").read_text()
    assert "Cohort description" in page
    assert "Pooled AUC" not in page
    assert ("NOT PRIVATE" in page) == (privacy == "none")


def result_noise(plan: object, sites: int) -> float:
    terms = plan.privacy  # type: ignore[attr-defined]
    return float(terms.train_noise * terms.clip * np.sqrt(sites)) if terms.mode != "none" else 0.0


def _ledgers_say_it(sites: Path) -> None:
    """Every site was charged for one release of its training side, once, and says whose data it was."""
    for site in sorted(path for path in sites.iterdir() if (path / "ledger.jsonl").exists()):
        data = (site / "ledger.jsonl").read_bytes()
        assert verify_ledger(data).ok
        contents = [entry.content for entry in read_entries(data)[0]]
        (spend,) = [content for content in contents if isinstance(content, SpendRecord)]
        assert (spend.details.purpose, len(spend.spends)) == ("train", 1)
        assert spend.spends[0].population == "train"
        (population,) = [content for content in contents if isinstance(content, PopulationChanged)]
        assert population.task == "cohort_description"


@pytest.mark.slow
def test_a_run_that_is_not_finished_has_no_result(hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path / "out", [*OVERRIDES, "privacy=none"], data=hospitals, workers=1)
    run = tmp_path / "out" / "run"
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    assert main(["result", str(run)]) == 1
    assert "it is not finished" in capsys.readouterr().err
    assert read_state(run).phase == "finished"


@pytest.mark.slow
def test_a_flow_through_criteria_is_summed_like_any_other(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--data", str(hospitals), "--out", str(tmp_path / "out"), "--workers", "1"]
    overrides = ["task=eligibility_flow", "task.columns=[reclaim]", "federation=roster", "privacy=distributed3"]
    assert main(["simulate", "--json", *out, *overrides]) == 0
    capsys.readouterr()
    assert main(["result", str(tmp_path / "out" / "run"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["tables"]["flow"]
    states = FLOW.contract.column("reclaim").categories
    run = open_folder(tmp_path / "out" / "run")
    total = summed(FLOW, Choice("flow", {}, ("reclaim",)), (), training_of(parted(run, FLOW, hospitals)))
    noise = result_noise(run.plan(), len(read_state(tmp_path / "out" / "run").done[-1].survivors))
    assert [row["state"] for row in rows] == list(states)
    for row, exact in zip(rows, total, strict=True):
        assert isinstance(row["patients"], str) or abs(row["patients"] - exact) <= 1 + 6 * noise
    assert any(not isinstance(row["patients"], str) for row in rows)
