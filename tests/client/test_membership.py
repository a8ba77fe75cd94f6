"""A model that remembers its patients is told from one that does not; both are read from the files that a lead exports."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from guards_in_process import HELD_OUT, SALT, TASK_NAME, Consortium, tape, terms
from numpy.typing import NDArray

from client.errors import ConfigError
from client.membership import Patients, check_membership, patient_losses, patients_of, read_model
from client.patients import DataSource
from consortium.canonical import encode_json
from consortium.plan import ParameterSpec, Plan
from server.export import describe, weights_file
from tasks.cis_conversion.synthetic import write_hospitals
from tasks.cis_conversion.task import TASK
from tasks.exported import Exported
from tasks.features import Design
from tasks.models import initial_parameters, load_parameters, parameter_specs

HIDDEN = 256


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    """A hospital with 400 patients."""
    folder = tmp_path_factory.mktemp("large")
    write_hospitals(folder, 1, (400,), 3)
    return DataSource(next(path for path in folder.iterdir() if path.is_dir()), (TASK_NAME,), SALT, HELD_OUT)


def plan_of(consortium: Consortium, **privacy: float) -> Plan:
    plan = consortium.plan()
    specs = parameter_specs(TASK.build_model("mlp", {"hidden": HIDDEN}))
    model = replace(plan.model, name="mlp", options=(("hidden", HIDDEN),), parameters=tuple(ParameterSpec(*spec) for spec in specs))
    return replace(plan, model=model, privacy=terms(**privacy))


def exported(folder: Path, plan: Plan, parameters: NDArray[np.float32]) -> Path:
    """The files of `wardround-lead model export`, from its own functions."""
    vector = np.concatenate([*Design(TASK.contract).neutral_buffers(), parameters]).astype(np.float32)
    folder.mkdir()
    (folder / "weights.npz").write_bytes(weights_file(plan, vector))
    (folder / "model.json").write_bytes(encode_json(describe(plan, vector)))
    return folder


def remembering(found: Exported, source: DataSource, *, seed: int) -> NDArray[np.float32]:
    """Trained to the last member, without noise, on noise as labels: it cannot but remember."""
    patients = patients_of(found, source)
    members = torch.from_numpy(patients.members)
    model = TASK.build_model("mlp", {"hidden": HIDDEN})
    load_parameters(model, initial_parameters(model, seed))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(400):
        optimiser.zero_grad()
        TASK.loss(model(patients.inputs[members]), patients.labels[members]).mean().backward()
        optimiser.step()
    return torch.cat([value.detach().reshape(-1) for value in model.parameters()]).numpy()


def start(plan: Plan) -> NDArray[np.float32]:
    """Parameters that never saw a patient, and are not all equal."""
    return np.random.default_rng(0).normal(0, 0.3, plan.n_parameters).astype(np.float32)


def test_a_model_that_remembers_is_found_and_a_small_claim_is_refuted(
    consortium: Consortium, source: DataSource, tmp_path: Path
) -> None:
    plan = plan_of(consortium, epsilon_model=0.1, epsilon_exposed=0.1)
    blank = read_model(exported(tmp_path / "blank", plan, start(plan)))
    model = read_model(exported(tmp_path / "model", plan, remembering(blank, source, seed=1)))
    found = check_membership(model, source, entropy=tape("m"))
    assert float(str(found["auc_low"])) > 0.6
    assert float(str(found["lower_bound"])) > 0.1
    assert (found["kind"], found["verdict"], found["attack"]) == ("membership", "alarm", "calibrated")


@pytest.mark.parametrize("seed", ["a", "b"])
def test_a_model_that_saw_nobody_passes(consortium: Consortium, source: DataSource, tmp_path: Path, seed: str) -> None:
    plan = plan_of(consortium)
    found = check_membership(read_model(exported(tmp_path / "model", plan, start(plan))), source, entropy=tape(seed))
    assert found["verdict"] == "pass"
    assert float(str(found["auc_low"])) < 0.5 < float(str(found["auc_high"]))
    assert found["lower_bound"] == 0.0
    assert "proves nothing" in str(found["words"])


def test_where_nothing_is_claimed_a_leak_is_named_and_no_claim_refuted(
    consortium: Consortium, source: DataSource, tmp_path: Path
) -> None:
    plan = replace(plan_of(consortium), privacy=terms("none"))
    blank = read_model(exported(tmp_path / "blank", plan, start(plan)))
    model = read_model(exported(tmp_path / "model", plan, remembering(blank, source, seed=2)))
    found = check_membership(model, source, entropy=tape("m"))
    assert found["verdict"] == "investigate"
    assert "NOT PRIVATE" in str(found["words"])


def test_the_result_holds_numbers_over_all_patients_and_none_about_any(
    consortium: Consortium, source: DataSource, tmp_path: Path
) -> None:
    plan = plan_of(consortium)
    found = check_membership(read_model(exported(tmp_path / "model", plan, start(plan))), source, entropy=os.urandom)
    assert all(isinstance(value, str | float) for value in found.values())
    header = ["attack", "auc", "auc_high", "auc_low", "claimed_epsilon", "confidence", "delta", "fpr", "kind", "lower_bound"]
    assert sorted(found) == [*header, "run_id", "tpr", "tpr_high", "tpr_low", "verdict", "words"]


def test_losses_are_those_of_the_exported_model(consortium: Consortium, source: DataSource, tmp_path: Path) -> None:
    plan = plan_of(consortium)
    found = read_model(exported(tmp_path / "model", plan, start(plan)))
    patients, model = patients_of(found, source), TASK.build_model("mlp", {"hidden": HIDDEN})
    load_parameters(model, start(plan))
    probabilities = torch.sigmoid(model(patients.inputs)).detach().double().numpy()
    labels = patients.labels.numpy()
    expected = -np.log(np.where(labels == 1, probabilities, 1 - probabilities))
    assert np.allclose(patient_losses(TASK, model, found.parameters, patients), expected, atol=1e-4)


def test_members_are_those_who_trained_under_the_runs_options(consortium: Consortium, source: DataSource, tmp_path: Path) -> None:
    """A site that the run left out has none: its training side would pass for members that the model rightly does not remember."""
    plan = plan_of(consortium)

    def asking(**options: str | int) -> Exported:
        asked = replace(plan, model=replace(plan.model, options=tuple(sorted({"hidden": HIDDEN, **options}.items()))))
        return read_model(exported(tmp_path / "-".join(map(str, options.values())), asked, start(plan)))

    usual = patients_of(read_model(exported(tmp_path / "usual", plan, start(plan))), source, site="here")
    assert min(usual.members.sum(), (~usual.members).sum()) > 50
    elsewhere = patients_of(asking(leave_out="elsewhere"), source, site="here")
    assert torch.equal(elsewhere.inputs, usual.inputs)
    assert elsewhere.members.tolist() == usual.members.tolist()
    with pytest.raises(ConfigError, match="0 patients on one side"):
        patients_of(asking(leave_out="here"), source, site="here")
    with pytest.raises(ConfigError, match="cannot be told here: train_until_year"):
        patients_of(asking(train_until_year=2019), source, site="here")
    with pytest.raises(ConfigError, match="parted rows"):
        patients_of(asking(split="rows"), source, site="here")


def test_a_patients_loss_is_the_mean_over_its_records() -> None:
    model, labels = TASK.build_model("logistic", {}), torch.tensor([0.0, 1.0, 1.0])
    inputs = torch.randn(3, model.output.in_features, generator=torch.Generator().manual_seed(0))
    weights = np.random.default_rng(0).normal(size=model.output.in_features + 1).astype(np.float32)
    whole = Patients(inputs, labels, np.array([0, 1, 1]), np.array([True, False]))
    each = Patients(inputs, labels, np.arange(3), np.array([True, False, False]))
    alone = patient_losses(TASK, model, weights, each)
    assert np.allclose(patient_losses(TASK, model, weights, whole), [alone[0], alone[1:].mean()])


# -- what is refused ---------------------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_no_model_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_model(tmp_path / "nowhere")
    (tmp_path / "model.json").write_text('{"format":"wardround/model/9"}')
    with pytest.raises(ConfigError, match="format"):
        read_model(tmp_path)


def test_files_of_two_models_are_refused(consortium: Consortium, tmp_path: Path) -> None:
    plan = plan_of(consortium)
    folder, other = exported(tmp_path / "model", plan, start(plan)), consortium.plan()
    (folder / "weights.npz").write_bytes(weights_file(other, np.zeros(other.model_size, np.float32)))
    with pytest.raises(ConfigError, match="another model"):
        read_model(folder)


def test_weights_that_are_not_finite_or_would_run_as_code_are_refused(consortium: Consortium, tmp_path: Path) -> None:
    plan = plan_of(consortium)
    folder = exported(tmp_path / "model", plan, np.full(plan.n_parameters, np.nan, np.float32))
    with pytest.raises(ConfigError, match="not finite"):
        read_model(folder)
    with (folder / "weights.npz").open("wb") as file:
        np.savez(file, weights=np.array([object()], dtype=object))
    with pytest.raises(ConfigError, match="does not hold"):
        read_model(folder)


def test_a_model_of_another_task_version_is_refused(consortium: Consortium, source: DataSource, tmp_path: Path) -> None:
    plan = plan_of(consortium)
    other = replace(plan, task=replace(plan.task, version="99"))
    with pytest.raises(ConfigError, match="task"):
        check_membership(read_model(exported(tmp_path / "model", other, start(plan))), source, entropy=os.urandom)


def test_a_handful_of_patients_allows_no_statement(consortium: Consortium, tmp_path: Path) -> None:
    plan = plan_of(consortium)
    write_hospitals(tmp_path / "few", 1, (15,), 3)
    source = DataSource(next(path for path in (tmp_path / "few").iterdir() if path.is_dir()), (TASK_NAME,), SALT, HELD_OUT)
    with pytest.raises(ConfigError, match="at least 10"):
        check_membership(read_model(exported(tmp_path / "model", plan, start(plan))), source, entropy=os.urandom)
