"""The files of a finished model are read whole or refused; what they say is what the run's own code says."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from consortium.canonical import encode_json
from consortium.documents import to_document
from consortium.plan import NOT_PRIVATE, ModelRef, ParameterSpec, PrivacyTerms, TaskRef
from secagg.model import model_digest
from tasks.cis_conversion.task import TASK
from tasks.errors import ModelFileError
from tasks.exported import (
    FORMAT,
    MODEL_FILE,
    PERSONAL_FORMAT,
    WEIGHTS_FILE,
    Exported,
    inputs_of,
    model_of,
    named_tensors,
    outputs_of,
    read_exported,
    scoring_of,
    task_of,
)
from tasks.features import Design
from tasks.models import parameter_specs

COLUMNS = ("sex", "age_years")
DESIGN = Design(TASK.contract, COLUMNS)
TERMS = PrivacyTerms("local", 1e-5, 3.0, 1.2, 0.3, 20, 1.0, 5.0, 1.0, 0.01, 0.01)


def described(options: tuple[tuple[str, str | int | float], ...] = ()) -> dict[str, object]:
    specs = (DESIGN.buffer_specs, parameter_specs(TASK.build_model("logistic", {}, COLUMNS)))
    buffers, parameters = (tuple(ParameterSpec(*spec) for spec in part) for part in specs)
    task = TaskRef(TASK.name, TASK.version, COLUMNS, TASK.contract.modalities(COLUMNS))
    model = ModelRef("logistic", options, buffers, parameters, 0)
    return {"format": FORMAT, "run_id": "run-1", "task": to_document(task), "model": to_document(model),
            "privacy": to_document(TERMS)}  # fmt: skip


def vector(size: int = 6) -> NDArray[np.float32]:
    return np.concatenate([*DESIGN.neutral_buffers(), np.linspace(-1, 1, size - 2)]).astype(np.float32)


def written(folder: Path, facts: dict[str, object], values: NDArray[np.float32]) -> Path:
    folder.mkdir(exist_ok=True)
    exported = {**facts, "model_digest": model_digest(values.astype("<f4").tobytes()).hex()}
    model = ModelRef("logistic", (), *(tuple(ParameterSpec(*spec) for spec in part) for part in (
        DESIGN.buffer_specs, parameter_specs(TASK.build_model("logistic", {}, COLUMNS)))), 0)  # fmt: skip
    np.savez(folder / WEIGHTS_FILE, **named_tensors(model, values[:2], values[2:]))
    (folder / MODEL_FILE).write_bytes(encode_json(exported))  # type: ignore[arg-type]  # plain values
    return folder


SIZE = 2 + sum(int(np.prod(shape)) for _, shape in parameter_specs(TASK.build_model("logistic", {}, COLUMNS)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "model", described(), vector(SIZE))


def test_a_model_is_read_and_says_what_its_formula_says(folder: Path) -> None:
    found = read_exported(folder)
    assert (found.run_id, found.personal, found.claimed_epsilon) == ("run-1", False, 1.2)
    task = task_of(found)
    values = np.full((3, len(TASK.contract.columns)), np.nan)
    values[:, TASK.contract.column_names.index("age_years")] = (20.0, 30.0, 40.0)
    values[:, TASK.contract.column_names.index("sex")] = (0.0, 1.0, 1.0)
    inputs = inputs_of(found, task, values)
    expected = inputs.astype(np.float64) @ found.parameters[:-1] + found.parameters[-1]
    assert outputs_of(model_of(found, task), inputs) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert outputs_of(model_of(found, task), inputs[:0]).shape == (0,)


def test_a_personal_model_is_told_from_the_consortiums(tmp_path: Path) -> None:
    own = read_exported(written(tmp_path / "own", {**described(), "format": PERSONAL_FORMAT}, vector(SIZE)))
    assert own.personal
    assert own.claimed_epsilon == NOT_PRIVATE, "it was fitted without noise, whatever the consortium's run promised"


def test_what_a_run_asked_beside_its_model_is_no_option_of_the_model(tmp_path: Path) -> None:
    asked = (("leave_out", "oslo"), ("split", "patients"), ("train_until_year", 2018))
    found = read_exported(written(tmp_path / "model", described(asked), vector(SIZE)))
    assert (found.options.leave_out, found.options.train_until_year) == ("oslo", 2018)
    model_of(found, task_of(found))


def test_figures_have_as_many_bins_as_the_run_had(tmp_path: Path) -> None:
    facts = described() | {"evaluation": {"histogram": [0.0] * 40}}
    assert scoring_of(read_exported(written(tmp_path / "model", facts, vector(SIZE))), TASK).cells == 40
    asked = described((("score_bins", 10),)) | {"evaluation": {"histogram": [0.0] * 40}}
    assert scoring_of(read_exported(written(tmp_path / "model", asked, vector(SIZE))), TASK).cells == 20


def test_without_noise_nothing_is_claimed(folder: Path) -> None:
    found = read_exported(folder)
    assert replace(found, privacy=replace(TERMS, mode="none")).claimed_epsilon == NOT_PRIVATE


def test_a_folder_that_is_damaged_or_of_another_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other", described(), vector(SIZE) + 1)
    whole = (folder / MODEL_FILE).read_bytes()
    facts = json.loads(whole)
    cases = {
        "not of format": encode_json({**facts, "format": "wardround/model/0"}),
        "does not hold an exported model": whole[:-3],
        "are not those of": (other / MODEL_FILE).read_bytes(),
        "names no run id": encode_json({**facts, "run_id": "../../etc"}),
        "tensors of model.json": encode_json({**facts, "model": {**facts["model"], "buffers": []}}),
    }
    for says, data in cases.items():
        (folder / MODEL_FILE).write_bytes(data)
        with pytest.raises(ModelFileError, match=says):
            read_exported(folder)
    (folder / MODEL_FILE).write_bytes(whole)
    (folder / WEIGHTS_FILE).write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ModelFileError, match="does not hold an exported model"):
        read_exported(folder)
    with pytest.raises(ModelFileError, match="cannot read"):
        read_exported(tmp_path / "nowhere")


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    values = vector(SIZE)
    values[3] = np.nan
    with pytest.raises(ModelFileError, match="not finite"):
        read_exported(written(tmp_path / "model", described(), values))


def test_a_model_of_another_version_or_shape_is_refused(folder: Path) -> None:
    found: Exported = read_exported(folder)
    with pytest.raises(ModelFileError, match="is of task cis_conversion 0"):
        task_of(replace(found, task=replace(found.task, version="0")))
    with pytest.raises(ModelFileError, match="other tensors than logistic"):
        model_of(replace(found, task=replace(found.task, columns=("sex",))), TASK)
