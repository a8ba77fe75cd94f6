"""`wardround-site predict` of risks by horizon, of a score's change and of an effect: each says what its interval is of."""

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from client.cli import main
from consortium.canonical import encode_json
from consortium.documents import to_document
from consortium.plan import ModelRef, ParameterSpec, PrivacyTerms, TaskRef
from secagg.model import model_digest
from tasks.base import Cohort
from tasks.episodes.routine import CORE
from tasks.episodes.task import EpisodeTask
from tasks.exported import FORMAT, named_tensors
from tasks.features import Design
from tasks.models import join_parameters, parameter_specs
from tasks.registry import get_task
from tasks.scoring.base import Scored
from tasks.simulator import Schedule, SiteSpec, simulate_site
from tasks.simulator.writer import encoded

KINDS = {  # model, bins, level, words of the interval
    "cdp_time": ("logistic", 16, 0.95, "95 % interval: holds the calibrated risk of patients with this score"),
    "cognition_prom": ("linear", 32, 0.8, "80 % interval: holds this patient's own value"),
    "treatment_response": ("r_linear", 12, 0.95, "95 % interval: holds the mean effect in patients for whom"),
}
OWN = ("sdmt_last", "sdmt_mean")


@cache
def everybody() -> dict[str, pd.DataFrame]:
    site, _ = simulate_site(SiteSpec("clinic", 300, Schedule.RECLAIM, interval_mo=6.0), 2)
    return dict(site.tables)


def columns_of(task: EpisodeTask) -> tuple[str, ...]:
    wanted = {column.name for column in CORE} | set(OWN)
    return tuple(name for name in task.contract.column_names if name in wanted)


def outputs_of(task: EpisodeTask, model: torch.nn.Module, design: Design, cohort: Cohort, buffers: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(design.encode(cohort.values, *design.split_buffers(buffers)))).double().numpy()


def exported_to(folder: Path, name: str) -> Path:
    """A model with small weights by lot, measured on the clinic's own patients: what is shown matters, not how good it is."""
    task, (kind, bins, *_) = get_task(name), KINDS[name]
    assert isinstance(task, EpisodeTask)
    cohort, design = task.cohort_of(everybody()), Design(task.contract, columns_of(task))
    mean, scale = design.statistics_to_buffers(design.describe_vectors(cohort.values).sum(axis=0))
    torch.manual_seed(4)  # a model by lot whose scores do go with the outcome: reasons are in calibrated log-odds
    buffers, model = design.buffer_vector(mean, scale), task.build_model(kind, {}, columns_of(task))
    with torch.no_grad():
        for part in model.parameters():
            part.add_(torch.from_numpy(np.random.default_rng(3).normal(0, 0.05, part.shape).astype(np.float32)))
    scoring = task.scoring(bins)
    places = scoring.places(Scored(outputs_of(task, model, design, cohort, buffers), cohort.labels, cohort.values))
    cells = np.bincount(places.ravel(), np.tile(scoring.weights, len(places)), scoring.cells)
    parameters = join_parameters(dict(model.named_parameters()))
    specs = (tuple(ParameterSpec(*spec) for spec in part) for part in (design.buffer_specs, parameter_specs(model)))
    ref = ModelRef(kind, (("score_bins", bins),), *specs, 1)
    document = {
        "format": FORMAT,
        "task": to_document(TaskRef(task.name, task.version, columns_of(task), task.contract.modalities(columns_of(task)))),
        "model": to_document(ref),
        "model_digest": model_digest([buffers.astype("<f4").tobytes(), parameters.astype("<f4").tobytes()]).hex(),
        "run_id": "run-1",
        "privacy": to_document(PrivacyTerms("none", 1e-5, -1.0, -1.0, 1.0, 20, 1.0, 0.0, 1.0, 0.0, 0.0)),
        "privacy_in_words": "NOT PRIVATE",
        "evaluation": {"sites": 3, "noise_std": 0.0, "figures": {}, "histogram": [float(cell) for cell in cells]},
    }
    folder.mkdir()
    (folder / "model.json").write_bytes(encode_json(document))
    np.savez(folder / "weights.npz", **named_tensors(ref, buffers, parameters))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clinic") / "data"
    folder.mkdir()
    for name, table in everybody().items():
        if not table.empty:
            (folder / f"{name}.csv").write_bytes(encoded(table, "csv"))
    return folder


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, exported_to(tmp_path_factory.mktemp(request.param) / "model", request.param)


def run(*words: object) -> None:
    assert main(["--home", "/nonexistent", "predict", *map(str, words)]) == 0


def test_text_files_and_json_say_what_the_interval_is_of(
    trained: tuple[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    name, model = trained
    _, _, level, words = KINDS[name]
    old = tmp_path / "numbers.csv"
    old.write_text("patient,day,quantity,value,low,high,unit,abstained\n")  # of an earlier version: may be written again
    run(model, "--folder", data, "--out", old)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    assert words in " ".join(shown.split())
    run(model, "--folder", data, "--out", tmp_path / "numbers.json", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "numbers.json").read_text())
    spoken = [each for each in told["predictions"] if not each["abstained"]]
    assert len(spoken) > 20
    quantities = [one for each in spoken for one in each["quantities"]]
    assert {one["interval"]["level"] for one in quantities} == {level}
    assert all(one["low"] < one["value"] < one["high"] for one in quantities)
    with old.open() as file:
        rows = [row for row in csv.DictReader(file) if not row["abstained"]]
    assert [float(row["value"]) for row in rows] == pytest.approx([one["value"] for one in quantities])
    assert {row["level"] for row in rows} == {str(level)}
    assert {row["interval_of"] for row in rows} == {one["interval"]["of"] for one in quantities}


def test_nearer_horizons_stand_first_and_reasons_with_the_one_they_are_of(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a line for each horizon
    model = exported_to(tmp_path / "model", "cdp_time")
    run(model, "--folder", data, "--json")
    name = next(each["patient"] for each in json.loads(capsys.readouterr().out)["predictions"] if not each["abstained"])
    run(model, "--folder", data, "--patient", name)
    lines = [line for line in capsys.readouterr().out.splitlines() if f" {name} " in line]
    assert [next(word for word in line.split() if word.startswith("cdp_")) for line in lines] == [
        f"cdp_{years}y" for years in (1, 2, 3, 5)
    ]
    told = [bool(set("+-") & set(line.split("%")[-1])) for line in lines]
    assert told == [False, False, False, True]  # reasons, each with its sign, behind the numbers


def test_an_input_that_adds_nothing_is_no_reason_for_people(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An effect on the scale of odds depends on few inputs and on the baseline risk; a constant one on none."""
    model = exported_to(tmp_path / "model", "treatment_response")
    run(model, "--folder", data, "--json")
    found = [each for each in json.loads(capsys.readouterr().out)["predictions"] if not each["abstained"]]
    assert all(len(each["reasons"]) == 5 for each in found)  # programs get them all
    run(model, "--folder", data, "--patient", found[0]["patient"])
    shown = capsys.readouterr().out
    assert "0.00" not in shown
    telling = [reason for reason in found[0]["reasons"] if abs(reason["contribution"]) >= 0.005]
    assert all(reason["column"] in shown for reason in telling)
