"""At the bedside every kind of quantity says what its interval is of, contradicts no other, and is what its reasons add up to."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from consortium.plan import ModelRef, ParameterSpec, PrivacyTerms, TaskRef
from tasks.base import Task
from tasks.cdp_time.task import TASK as CDP_TIME
from tasks.cognition_prom.task import TASK as COGNITION
from tasks.exported import Exported, inputs_of, model_of
from tasks.features import Design
from tasks.models import join_parameters, parameter_specs
from tasks.predicting.base import foretold_by
from tasks.predicting.bedside import Patients, Prediction, corrections_of, predict, told_by
from tasks.predicting.told import EFFECT_INTERVAL, OWN_INTERVAL, RISK_INTERVAL, Correction
from tasks.raw_pira.task import TASK as RAW_PIRA
from tasks.scoring.base import Scored
from tasks.treatment_response.task import TASK as TREATMENT

PEOPLE = 80
BINS = 16
NAMES = {CDP_TIME: "logistic", RAW_PIRA: "logistic", COGNITION: "linear", TREATMENT: "r_linear"}
KINDS = {CDP_TIME: RISK_INTERVAL, RAW_PIRA: RISK_INTERVAL, COGNITION: OWN_INTERVAL, TREATMENT: EFFECT_INTERVAL}


def values_of(task: Task, people: int, seed: int) -> np.ndarray:
    """Ordinary patients: every column within the middle of its public range."""
    rng = np.random.default_rng(seed)
    columns = [
        rng.normal((column.low + column.high) / 2, (column.high - column.low) / 12, people)  # type: ignore[operator]  # numeric
        if column.kind == "numeric"
        else rng.integers(0, len(column.categories) or 2, people).astype(np.float64)
        for column in task.contract.columns
    ]
    return np.stack(columns, axis=1)


def columns_of(task: Task) -> tuple[str, ...]:
    """The routine inputs: not visits one by one, whose public spreads ordinary values of this file exceed."""
    return tuple(column.name for column in task.contract.columns if column.modality == "clinical" and column.standard is None)


def labels_of(task: Task, people: int, rng: np.random.Generator) -> np.ndarray:
    """Outcomes that owe nothing to the model."""
    if task is COGNITION:
        return np.stack([rng.normal(48, 6, people), np.full(people, 50.0)], axis=1)
    if task is TREATMENT:
        return rng.integers(0, 2, (people, 3)).astype(np.float64)
    quarters, causes = task.grid.bins, len(task.causes)  # type: ignore[attr-defined]
    event, cause = rng.integers(1, quarters + 6, people), rng.integers(1, causes + 1, people)
    happened = event <= quarters
    clean = np.where(happened, event - 1, quarters)
    return np.stack([clean, np.where(happened, event, clean), np.where(happened, cause, 0)], axis=1).astype(np.float64)


def exported(task: Task, seed: int, noise: float = 0.0, people: int = 300) -> Exported:
    """A model with weights by lot, measured on other people."""
    rng = np.random.default_rng(seed)
    model = task.build_model(NAMES[task], {}, columns_of(task))
    with torch.no_grad():
        for part in model.parameters():
            part.copy_(torch.from_numpy(rng.normal(0, 0.15, part.shape).astype(np.float32)))
    design = Design(task.contract, columns_of(task))
    values = values_of(task, people, seed + 1)
    mean, scale = design.statistics_to_buffers(design.describe_vectors(values).sum(axis=0))
    buffers = design.buffer_vector(mean, scale)
    ref = ModelRef(
        NAMES[task],
        (("score_bins", BINS),),
        tuple(ParameterSpec(*spec) for spec in design.buffer_specs),
        tuple(ParameterSpec(*spec) for spec in parameter_specs(model)),
        1,
    )
    scoring = task.scoring(BINS)
    with torch.no_grad():
        outputs = model(torch.from_numpy(design.encode(values, mean, scale))).double().numpy()
    places = scoring.places(Scored(outputs, labels_of(task, people, rng), values))
    cells = np.bincount(places.ravel(), np.tile(scoring.weights, people), scoring.cells) + rng.normal(0, noise, scoring.cells)
    return Exported(
        "run-1",
        TaskRef(task.name, task.version, columns_of(task), task.contract.modalities(columns_of(task))),
        ref,
        PrivacyTerms("none", 1e-5, -1.0, -1.0, 1.0, 20, 1.0, 0.0, 1.0, 0.0, 0.0),
        buffers,
        join_parameters(dict(model.named_parameters())),
        b"",
        personal=False,
        facts={"evaluation": {"sites": 3, "figures": {}, "noise_std": noise, "histogram": [float(cell) for cell in cells]}},
    )


def told(task: Task, seed: int, noise: float = 0.0) -> list[Prediction]:
    values = values_of(task, PEOPLE, 99)
    found = predict(exported(task, seed, noise), task, Patients(tuple(map(str, range(PEOPLE))), np.zeros(PEOPLE), values))
    spoken = [each for each in found if not each.abstained]
    assert len(spoken) > PEOPLE / 2
    return spoken


@pytest.mark.parametrize("task", KINDS, ids=lambda task: task.name)
def test_every_quantity_says_what_its_interval_is_of_and_holds_its_value(task: Task) -> None:
    for each in told(task, 1):
        for one in each.quantities:
            assert one.interval == KINDS[task]
            assert one.low is not None
            assert one.high is not None
            assert one.low < one.value < one.high


@pytest.mark.parametrize("task", KINDS, ids=lambda task: task.name)
def test_without_a_histogram_there_is_a_value_and_no_interval(task: Task) -> None:
    plain = exported(task, 1)
    bare = Exported(**{**{key: getattr(plain, key) for key in plain.__dataclass_fields__}, "facts": {"evaluation": None}})
    (found,) = predict(bare, task, Patients(("a",), np.zeros(1), values_of(task, 1, 5)))
    assert {(one.low, one.high, one.interval) for one in found.quantities} == {(None, None, None)}


@pytest.mark.parametrize("task", KINDS, ids=lambda task: task.name)
def test_reasons_add_up_to_what_is_told(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of the first quantity without its reasons is the average patient's, and the same for everybody."""
    monkeypatch.setattr("tasks.predicting.bedside.REASONS", len(task.contract.columns))
    rests = []
    for each in told(task, 3, noise=1.0):
        first = each.quantities[0]
        score = first.value if first.unit else np.log(first.value / (1 - first.value))
        rests.append(score - sum(reason.contribution for reason in each.reasons))
    assert np.ptp(rests) < 3e-3  # log-odds, points, % points: a hundredth is shown


def corrected(task: Task, model: Exported) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Mapping[str, Correction]]:
    """Risks of each quantity calibrated alone, those that are told, and how they were calibrated."""
    inputs = torch.from_numpy(inputs_of(model, task, values_of(task, PEOPLE, 99)))
    with torch.no_grad():
        outputs = model_of(model, task)(inputs)
        foretold = foretold_by(task, outputs)
        known = corrections_of(model, task, foretold)
        alone = {name: torch.sigmoid(known[name].told(foretold[name].score).score).numpy() for name in known}
        found = {name: torch.sigmoid(one.score).numpy() for name, one in told_by(task, outputs, known).items()}
    return alone, found, known


def in_order(risks: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    return np.stack([risks[name] for name in names], axis=1)


def test_risks_of_a_noisy_run_contradict_themselves_and_what_is_told_does_not() -> None:
    names, fell = ["cdp_1y", "cdp_2y", "cdp_3y", "cdp_5y"], 0
    for seed in range(6):
        alone, found, known = corrected(CDP_TIME, exported(CDP_TIME, seed, noise=1.0, people=300))
        fell += int((np.diff(in_order(alone, [name for name in names if name in known]), axis=1) < 0).any())
        assert (np.diff(in_order(found, names), axis=1) >= -1e-9).all()
    assert fell >= 2  # or this test would show nothing


def test_rival_risks_are_not_above_one_together() -> None:
    for seed in range(3):
        _, found, known = corrected(RAW_PIRA, exported(RAW_PIRA, seed, noise=1.0, people=300))
        assert known
        assert (found["pira_2y"] + found["raw_2y"] <= 1 + 1e-9).all()
