"""`wardround-site predict`: risks that come true as often as they say, reasons, silence where the model knows nothing."""

import csv
import json
import shutil
import stat
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
from tasks.cdp_2y.task import TASK
from tasks.episodes.routine import CORE
from tasks.exported import FORMAT, named_tensors, read_exported
from tasks.features import Design
from tasks.models import join_parameters, parameter_specs
from tasks.predicting.bedside import Patients, Quantity, patients_of, predict
from tasks.scoring.base import Scored
from tasks.simulator import Schedule, SiteSpec, simulate_site
from tasks.simulator.writer import encoded
from tasks.states.course import Model, published
from tasks.states.frame import Frame
from tasks.states.measures import NAMES
from tasks.states.parameters import public_start

COLUMNS = tuple(column.name for column in CORE)
BINS = 64


@cache
def everybody() -> dict[str, pd.DataFrame]:
    site, _ = simulate_site(SiteSpec("clinic", 2200, Schedule.RECLAIM, interval_mo=6.0), 1)
    return dict(site.tables)


def tables_of(first: int, end: int) -> dict[str, pd.DataFrame]:
    """Some patients of one hospital."""
    names = set(everybody()["patients"]["patient_id"][first:end])
    return {name: rows[rows["patient_id"].isin(names)].reset_index(drop=True) for name, rows in everybody().items()}


def fitted(cohort: Cohort) -> tuple[Design, np.ndarray, torch.nn.Module]:
    """Logistic regression on the cohort, with its own normalisation: any model that a consortium might hand out."""
    design = Design(TASK.contract, COLUMNS)
    mean, scale = design.statistics_to_buffers(design.describe_vectors(cohort.values).sum(axis=0))
    inputs = torch.from_numpy(design.encode(cohort.values, mean, scale))
    labels = torch.from_numpy(cohort.labels.astype(np.float32))
    model = TASK.build_model("logistic", {}, COLUMNS)
    steps = torch.optim.LBFGS(model.parameters(), max_iter=60)

    def loss() -> torch.Tensor:
        steps.zero_grad()
        found = TASK.loss(model(inputs), labels).mean() + 0.01 * sum(part.square().sum() for part in model.parameters())
        found.backward()
        return found

    steps.step(loss)
    return design, design.buffer_vector(mean, scale), model


def exported_to(folder: Path, design: Design, buffers: np.ndarray, model: torch.nn.Module, measured_on: Cohort) -> Path:
    """A folder as the lead exports it, calibrated on other patients."""
    parameters = join_parameters(dict(model.named_parameters()))
    ref = ModelRef(
        "logistic",
        (),
        tuple(ParameterSpec(*spec) for spec in design.buffer_specs),
        tuple(ParameterSpec(*spec) for spec in parameter_specs(model)),
        1,
    )
    scoring = TASK.scoring(BINS)
    with torch.no_grad():
        inputs = design.encode(measured_on.values, *design.split_buffers(buffers))
        outputs = model(torch.from_numpy(inputs)).double().numpy()
    places = scoring.places(Scored(outputs, measured_on.labels, measured_on.values))[:, 0]
    privacy = PrivacyTerms("none", 1e-5, -1.0, -1.0, 1.0, 20, 1.0, 0.0, 1.0, 0.0, 0.0)
    document = {
        "format": FORMAT,
        "task": to_document(TaskRef(TASK.name, TASK.version, COLUMNS, TASK.contract.modalities(COLUMNS))),
        "model": to_document(ref),
        "model_digest": model_digest([buffers.astype("<f4").tobytes(), parameters.astype("<f4").tobytes()]).hex(),
        "plan_digest": "00" * 32,
        "run_id": "run-1",
        "code_version": "0",
        "privacy": to_document(privacy),
        "privacy_in_words": "NOT PRIVATE",
        "evaluation": {
            "round": 9, "sites": 3, "noise_std": 0.0, "figures": {},
            "histogram": [float(count) for count in np.bincount(places, minlength=2 * BINS)],
        },
    }  # fmt: skip
    folder.mkdir()
    (folder / "model.json").write_bytes(encode_json(document))
    np.savez(folder / "weights.npz", **named_tensors(ref, buffers, parameters))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    cohort = TASK.cohort_of(tables_of(0, 700))
    return exported_to(place / "model", *fitted(cohort), TASK.cohort_of(tables_of(700, 1400)))


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another hospital's tables, in its folder."""
    folder = tmp_path_factory.mktemp("clinic") / "data"
    folder.mkdir()
    for name, table in tables_of(2100, 2200).items():
        if not table.empty:
            (folder / f"{name}.csv").write_bytes(encoded(table, "csv"))
    return folder


@pytest.fixture
def data(clinic: Path, tmp_path: Path) -> Path:
    shutil.copytree(clinic, tmp_path / "data")
    return tmp_path / "data"


def run(*words: object, status: int = 0) -> None:
    assert main(["--home", "/nonexistent", "predict", *map(str, words)]) == status


def told(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    capsys.readouterr()
    run(*words, "--json")
    return json.loads(capsys.readouterr().out)


def _numbers(one: Quantity) -> tuple[float, float | None, float | None]:
    return one.value, one.low, one.high


def test_calibrated_risks_come_true_as_often_as_they_say(trained: Path) -> None:
    cohort = TASK.cohort_of(tables_of(1400, 2100))
    exported = read_exported(trained)
    names = tuple(str(at) for at in range(len(cohort.values)))
    found = predict(exported, TASK, Patients(names, np.zeros(len(names)), cohort.values))
    told = [(np.nan,) * 3 if each.abstained else _numbers(each.quantities[0]) for each in found]
    risk, low, high = np.array(told, dtype=np.float64).T
    asked = ~np.isnan(risk)
    assert asked.mean() > 0.9
    for part in np.array_split(np.flatnonzero(asked)[np.argsort(risk[asked])], 4):
        people = len({cohort.patient_ids[at] for at in part})
        events, spread = cohort.labels[part].mean(), np.sqrt(risk[part].mean() / people)
        assert low[part].mean() - 2 * spread < events < high[part].mean() + 2 * spread
    assert np.all((low <= risk) & (risk <= high) | ~asked)


def test_everybody_whom_the_model_serves_is_answered_once_whatever_became_of_them(
    trained: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, trained, "--folder", data)
    names = [each["patient"] for each in found["predictions"]]
    assert len(set(names)) == len(names) > len(set(TASK.cohort_of(tables_of(2100, 2200)).patient_ids))
    assert "not a medical device" in found["caution"]
    first = next(each for each in found["predictions"] if not each["abstained"])
    (risk,) = first["quantities"]
    assert 0 < risk["low"] < risk["value"] < risk["high"] < 1
    assert len(first["reasons"]) == 5


def test_what_comes_after_the_day_of_a_prediction_has_no_say(trained: Path) -> None:
    tables = tables_of(2100, 2200)
    whole = patients_of(TASK, tables)
    name, day = whole.names[0], whole.days[0]
    visits = tables["visits"]
    kept = visits[(visits["patient_id"] != name) | (visits["day"] < day)]
    earlier = patients_of(TASK, tables | {"visits": kept})
    before = dict(zip(earlier.names, earlier.days, strict=True)).get(name)
    assert before is None or before < day
    late = {table: rows[rows["day"] <= day] if "day" in rows and table != "visits" else rows for table, rows in tables.items()}
    late["visits"] = visits[visits["day"] <= day]
    same = patients_of(TASK, late)
    at = same.names.index(name)
    np.testing.assert_array_equal(same.values[at], whole.values[0])


def test_the_model_is_silent_about_a_patient_unlike_others(trained: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = next(each["patient"] for each in told(capsys, trained, "--folder", data)["predictions"] if not each["abstained"])
    day = told(capsys, trained, "--folder", data, "--patient", name)["predictions"][0]["day"]
    relapses = pd.read_csv(data / "relapses.csv", dtype=str)
    many = pd.concat([relapses.iloc[:1]] * 6).assign(patient_id=name, end_day="", recovery="", onset_day=range(day - 300, day, 50))
    pd.concat([relapses[relapses["patient_id"] != name], many]).to_csv(data / "relapses.csv", index=False)
    (found,) = told(capsys, trained, "--folder", data, "--patient", name)["predictions"]
    assert found["abstained"].startswith("outside the training range")
    assert "relapses_1y (trained on 0 to" in found["abstained"]
    assert not found["quantities"]
    run(trained, "--folder", data, "--patient", name)
    assert "silent about 1" in capsys.readouterr().out


def test_nobody_is_predicted_who_took_consent_back(trained: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = told(capsys, trained, "--folder", data)["predictions"][0]["patient"]
    (data / "withdrawn.txt").write_text(f"{name}\n")
    assert name not in {each["patient"] for each in told(capsys, trained, "--folder", data)["predictions"]}
    run(trained, "--folder", data, "--patient", name, status=1)
    error = capsys.readouterr().err
    assert "1 of 1 patients cannot be asked about" in error
    assert name not in error


def test_files_are_for_their_owner_and_no_other_file_is_lost(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("risks.json", "risks.csv"):
        path = tmp_path / name
        run(trained, "--folder", data, "--out", path)
        run(trained, "--folder", data, "--out", path)  # its own file may be written again
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads((tmp_path / "risks.json").read_text())["format"] == "wardround/predictions/1"
    with (tmp_path / "risks.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(json.loads((tmp_path / "risks.json").read_text())["predictions"])
    before = (data / "visits.csv").read_bytes()
    run(trained, "--folder", data, "--out", data / "visits.csv", status=2)
    assert (data / "visits.csv").read_bytes() == before
    run(trained, "--folder", data, "--out", tmp_path / "risks.txt", status=2)
    assert "end in .json or .csv" in capsys.readouterr().err


def test_a_damaged_model_or_one_of_another_version_says_nothing(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    facts = json.loads((copy / "model.json").read_text())
    facts["task"]["version"] = "0"
    (copy / "model.json").write_bytes(encode_json(facts))
    run(copy, "--folder", data, status=1)
    assert f"this program has {TASK.version}" in capsys.readouterr().err
    (copy / "weights.npz").write_bytes((trained / "weights.npz").read_bytes()[:-20])
    run(copy, "--folder", data, status=1)
    run(tmp_path / "nothing", "--folder", data, status=1)
    assert "name a folder that `model export` wrote" in capsys.readouterr().err


def test_without_a_measured_calibration_there_is_a_risk_and_no_interval(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    facts = json.loads((copy / "model.json").read_text()) | {"evaluation": None}
    (copy / "model.json").write_bytes(encode_json(facts))
    found = next(each for each in told(capsys, copy, "--folder", data)["predictions"] if not each["abstained"])
    assert found["quantities"][0]["low"] is None
    run(copy, "--folder", data, "--patient", found["patient"])
    assert "not measured" in capsys.readouterr().out


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `disease_states` that has not learnt anything yet: its public beginning."""
    frame = Frame(tuple(range(len(NAMES))), by_dmt=True, by_age=True, iterations=1)
    folder = tmp_path_factory.mktemp("states")
    (folder / "result.json").write_bytes(encode_json({"model": published(Model(frame, public_start(frame)))}))
    return folder


def test_beside_the_risk_stands_the_state_and_its_likely_course(
    trained: Path, states: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, trained, "--folder", data, "--states", states)["predictions"]
    courses = [each["course"] for each in found if each["course"]]
    assert len(courses) > len(found) / 2
    for course in courses:
        assert len(course["later"]) == len(course["years"]) == len(course["edss"]) - 1
        for chances in (course["now"], *course["later"]):
            assert sum(chances.values()) == pytest.approx(1.0)
    visits = pd.read_csv(data / "visits.csv").dropna(subset=["edss"]).sort_values("day").groupby("patient_id")["edss"].last()
    scores = [(visits[each["patient"]], each["course"]["edss"][0]) for each in found if each["course"]]
    assert np.corrcoef(np.array(scores).T)[0, 1] > 0.9  # who is more disabled now is in a more disabled state
    name = next(each["patient"] for each in found if each["course"] and not each["abstained"])
    run(trained, "--folder", data, "--states", states, "--patient", name)
    assert "in 5 y" in capsys.readouterr().out


def test_states_of_another_kind_are_refused(trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(trained, "--folder", data, "--states", trained, status=1)
    assert "name an exported run of disease_states" in capsys.readouterr().err
    (tmp_path / "result.json").write_bytes(encode_json({"model": {"format": "another"}}))
    run(trained, "--folder", data, "--states", tmp_path, status=1)
    assert "no model of states" in capsys.readouterr().err


def test_text_says_what_is_foretold_why_and_how_good_the_model_is_within_100_columns(
    trained: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    name = next(each["patient"] for each in told(capsys, trained, "--folder", data)["predictions"] if not each["abstained"])
    run(trained, "--folder", data, "--patient", name)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    plain = " ".join(shown.split())
    for words in (
        "a confirmed worsening of EDSS",
        "How good it is: not measured on test patients",
        "not a medical device",
        "+ raises",
    ):
        assert words in plain
    facts = json.loads((trained / "model.json").read_text())
    facts["evaluation"]["figures"] = {"auc": 0.7, "auc_low": 0.6, "auc_high": 0.78, "noise_dominates": 1.0}
    copy = shutil.copytree(trained, data.parent / "copy")
    (copy / "model.json").write_bytes(encode_json(facts))
    quality = told(capsys, copy, "--folder", data)["quality"]
    assert quality.startswith("AUC 0.700 (95 % 0.600 to 0.780) on test patients of 3 sites")
    assert "NOISE IS OF ITS SIZE" in quality
    (copy / "model.json").write_bytes(encode_json(facts | {"statistics_doubt": 0.04}))
    assert told(capsys, copy, "--folder", data)["range_unknown"]
    run(copy, "--folder", data)
    assert "NOBODY IS REFUSED" in capsys.readouterr().out


def test_reasons_have_words_and_units_and_add_up_to_the_calibrated_risk(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.predicting.bedside.REASONS", len(COLUMNS))
    patients = patients_of(TASK, tables_of(2100, 2200))
    found = [each for each in predict(read_exported(trained), TASK, patients) if not each.abstained]
    rests = []
    for each in found:
        risk = each.quantities[0].value
        rests.append(np.log(risk / (1 - risk)) - sum(reason.contribution for reason in each.reasons))
        age = next(reason for reason in each.reasons if reason.column == "age_years")
        assert (age.unit, age.meaning) == ("years", TASK.contract.column("age_years").description)
    assert np.ptp(rests) < 1e-4  # what is left is the average patient's


def test_a_run_that_parted_rows_calibrates_nobody(trained: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads((trained / "model.json").read_text())
    facts["model"]["options"] = [["split", "rows"]]
    copy = shutil.copytree(trained, data.parent / "copy")
    (copy / "model.json").write_bytes(encode_json(facts))
    found = told(capsys, copy, "--folder", data)["predictions"]
    assert {each["quantities"][0]["low"] for each in found if not each["abstained"]} == {None}


def test_a_folder_that_is_not_there_is_a_matter_of_configuration(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(trained, "--folder", tmp_path / "absent", status=2)
    assert "is no folder" in capsys.readouterr().err


def test_a_disk_that_is_full_leaves_nothing_behind(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "out"
    place.mkdir()
    for error, status in ((OSError(28, "No space left on device"), 1), (KeyboardInterrupt(), 130)):

        def fails(_: int, error: BaseException = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr("client.files.os.fsync", fails)
            run(trained, "--folder", data, "--out", place / "risks.json", status=status)
        assert list(place.iterdir()) == []
    assert "risks.json was not written: No space left" in capsys.readouterr().err
