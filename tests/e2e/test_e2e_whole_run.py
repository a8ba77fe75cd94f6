"""A run from the signed plan to the registered model, and what is left of it in every book."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from books import check_books, uploads
from consortium_of_four import Consortium, Going

from server.folder import RunFolder
from server.state import read_state

pytestmark = pytest.mark.e2e

ELSEWHERE = re.compile(r"""(?:src|href)\s*=\s*["']?(?!#)|url\(|@import|<script|<link|<iframe""", re.IGNORECASE)


@dataclass
class Whole:
    consortium: Consortium
    going: Going
    store: str


@pytest.fixture(scope="module")
def whole(founded: Consortium) -> Whole:
    founded.mend()
    store = f"sqlite:///{founded.lead_home}/hub/mlflow.db"
    going = founded.begin(founded.plan(), "--store", store)
    assert going.status() == 0, going.output[-2000:]
    return Whole(founded, going, store)


def test_it_finishes_and_the_books_are_true(whole: Whole) -> None:
    check_books(whole.consortium, whole.going)
    state = read_state(whole.going.run_dir)
    assert state.phase == "finished"
    assert [done.purpose for done in state.done] == ["describe", *["train"] * 6, "evaluate"]
    assert all(len(done.survivors) == 4 for done in state.done)


def test_the_pooled_figure_of_held_out_patients_is_there(whole: Whole) -> None:
    final = dict(whole.going.done()[-1].metrics)
    assert 0.5 < final["auc"] <= 1.0
    assert "AUC" in whole.going.output


def test_the_manifest_of_each_site_lists_one_masked_vector_a_round(whole: Whole) -> None:
    plan = RunFolder(whole.going.run_dir).plan()
    for name, site in whole.consortium.sites.items():
        lines = uploads(site.home, plan.run_id)
        assert [line["round"] for line in lines] == [done.round for done in whole.going.done()], name
        assert all(sum(part["masked"] for part in line["parts"]) == 1 for line in lines)


def test_mlflow_holds_plan_rounds_and_the_registered_model(whole: Whole) -> None:
    from mlflow import MlflowClient

    folder = RunFolder(whole.going.run_dir)
    # What `run` tells the lead to do where MLflow is behind after a minute, as it may be on a busy machine; if not, no harm
    catch_up = [sys.executable, "-m", "server.tracking", str(folder.path), "--store", whole.store]
    subprocess.run(catch_up, check=True, capture_output=True, timeout=240)
    plan, client = folder.plan(), MlflowClient(tracking_uri=whole.store, registry_uri=whole.store)
    experiment = client.get_experiment_by_name(plan.task.name)
    (run,) = client.search_runs([experiment.experiment_id], f"params.run_id = '{plan.run_id}'")
    assert run.info.status == "FINISHED"
    assert run.data.params["plan_digest"] == plan.digest.hex()
    rounds = [done.round for done in whole.going.done()]
    for name in ("survivors", "bytes.up", "bytes.down", "seconds.round", "seconds.update", "seconds.vote"):
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == rounds, name
    evaluated = [done.round for done in whole.going.done() if done.metrics]
    assert [point.step for point in client.get_metric_history(run.info.run_id, "pooled.auc")] == evaluated
    (version,) = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    card = Path(version.source.removeprefix("file://"))
    assert sorted(path.name for path in card.iterdir() if path.suffix == ".md")
    assert any(item.path == "report.html" for item in client.list_artifacts(run.info.run_id))


def test_the_report_is_one_file_that_asks_nobody_for_anything(whole: Whole) -> None:
    report = RunFolder(whole.going.run_dir).report.read_text(encoding="utf-8")
    assert ELSEWHERE.findall(report) == []
    assert RunFolder(whole.going.run_dir).plan().run_id in report


def test_seconds_and_memory_are_told(whole: Whole, capsys: pytest.CaptureFixture[str]) -> None:
    phases = ("update", "vote", "open")
    trained = [dict(done.seconds) for done in whole.going.done()][2:]
    medians = {phase: float(np.median([seconds[phase] for seconds in trained])) for phase in phases}
    with capsys.disabled():
        told = ", ".join(f"{phase} {seconds:.3f} s" for phase, seconds in medians.items())
        print(f"\nmedian round over Flower, 4 sites: {told}; peak {whole.consortium.peak_mib:.0f} MiB", file=sys.stderr)
    assert all(seconds > 0 for seconds in medians.values())
    assert whole.consortium.peak_mib < 6 * 1024
