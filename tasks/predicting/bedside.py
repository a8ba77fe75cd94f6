"""Predictions for patients who are there now: inputs of their last day, what the model says, calibrated, and why; or silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import numpy as np
import torch

from tasks.base import Task, Values
from tasks.errors import ContractError
from tasks.exported import Exported, inputs_of, model_of, scoring_of
from tasks.features import Design
from tasks.predicting.base import Foretold, foretold_by
from tasks.predicting.bounds import TrainingRange
from tasks.predicting.calibrate import ONLY, Group, Recalibration, recalibration
from tasks.predicting.coherent import coherent, unmeasured
from tasks.predicting.reasons import by_column, contributions
from tasks.predicting.told import Correction, Interval, Told
from tasks.run_options import ROWS

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from tasks.episodes.past import Episodes, Past
    from tasks.scoring.base import Floats, Scoring

REASONS: Final = 5  # shown of each prediction


@runtime_checkable
class Calibrates(Protocol):
    """A scoring whose histogram says how often what was foretold came."""

    def calibration_groups(self, histogram: Floats, noise_std: float) -> Mapping[str, Sequence[Group]]:
        """Held-out patients of similar prediction, by the name of what is foretold (`Foretells.foretold`), or `ONLY`."""
        ...


@runtime_checkable
class Corrects(Protocol):
    """A scoring of one quantity that is no probability, whose histogram says how far off it was."""

    def correction(self, histogram: Floats, noise_std: float) -> Correction | None:
        """None where too little is known."""
        ...


@runtime_checkable
class KnowsNow(Protocol):
    """A task that reads tables and can be asked about today's patients, whatever becomes of them."""

    @property
    def contract_tables(self) -> tuple[str, ...]:
        """The tables that its inputs are made of."""
        ...

    def present(self, tables: Mapping[str, pd.DataFrame]) -> Episodes:
        """The last day of prediction of everybody whom the task serves."""
        ...

    def inputs(self, past: Past, columns: Sequence[object]) -> Values:
        """Values (n_episodes, n_columns) from what was known."""
        ...


@dataclass(frozen=True)
class Patients:
    """Who is asked about: pseudonyms, each one's day on the patient's own clock (NaN: none), the contract's values."""

    names: tuple[str, ...] = field(repr=False)
    days: Floats = field(repr=False)
    values: Values = field(repr=False)

    def only(self, wanted: Sequence[str]) -> Patients:
        """Those called so, in the order of the tables."""
        chosen = np.isin(np.asarray(self.names, dtype=object), list(wanted))
        names = tuple(name for name, keep in zip(self.names, chosen, strict=True) if keep)
        return Patients(names, self.days[chosen], self.values[chosen])


@dataclass(frozen=True)
class Quantity:
    """One thing foretold of one patient.

    `low`, `high`, `interval` (what lies between them, how often): None where the run measured none. `event`, `years`: of a risk by
    a horizon (`tasks.predicting.base.Foretold`).
    """

    name: str
    meaning: str
    unit: str  # "" of a probability
    value: float
    low: float | None
    high: float | None
    interval: Interval | None = None
    event: str = ""
    years: float | None = None


@dataclass(frozen=True)
class Reason:
    """`contribution` to the first quantity as it is told (log-odds of a risk, else its unit), against the average training
    patient."""

    column: str
    meaning: str
    value: str  # as the hospital's own tables have it; "missing"
    unit: str
    contribution: float


@dataclass(frozen=True)
class Prediction:
    """Of one patient. `abstained`: why there is none; then the rest is empty."""

    patient: str = field(repr=False)
    day: int | None
    abstained: str
    quantities: tuple[Quantity, ...] = field(default=(), repr=False)
    reasons: tuple[Reason, ...] = field(default=(), repr=False)


def patients_of(task: Task, tables: Mapping[str, pd.DataFrame]) -> Patients:
    """Everybody whom the task serves, on the last day on which it does. `ContractError` for a task that reads no tables."""
    from tasks.episodes.past import past_of

    if not isinstance(task, KnowsNow):
        raise ContractError(f"task {task.name} reads a table of its own, without a day: it cannot be asked about today's patients")
    episodes = task.present(tables)
    past = past_of(tables, episodes, task.contract_tables)
    return Patients(episodes.patients, episodes.days.astype(np.float64), task.inputs(past, task.contract.columns))


def predict(exported: Exported, task: Task, patients: Patients) -> list[Prediction]:
    """One prediction for each patient, or why there is none. Raises `TaskError` for a model that this program cannot use."""
    design = Design(task.contract, exported.task.columns)
    silent = range_of(exported, task).abstain(patients.values)
    model, inputs = model_of(exported, task), inputs_of(exported, task, patients.values)
    with torch.no_grad():
        outputs = model(torch.from_numpy(np.ascontiguousarray(inputs)))
        foretold = foretold_by(task, outputs)
        known = corrections_of(exported, task, foretold)
        told = told_by(task, outputs, known)
    first = next(iter(foretold))
    parts = contributions(model, exported.parameters, inputs, lambda outputs: told_by(task, outputs, known)[first].score)
    why = by_column(design, parts)
    found = []
    for at, (name, day) in enumerate(zip(patients.names, patients.days, strict=True)):
        reason = silent[at] or _not_finite(foretold, at)
        seen = None if np.isnan(day) else int(day)
        if reason:
            found.append(Prediction(name, seen, reason))
            continue
        quantities = tuple(_quantity(key, one, told[key], known.get(key), at) for key, one in foretold.items())
        found.append(Prediction(name, seen, "", quantities, _reasons(design, why, patients.values, at)))
    return found


def range_of(exported: Exported, task: Task) -> TrainingRange:
    """Where the model can be asked; a file that says nothing of noise in its statistics has none."""
    design = Design(task.contract, exported.task.columns)
    found = exported.facts.get("statistics_doubt")
    doubt = float(found) if isinstance(found, int | float) and np.isfinite(found) and found > 0 else 0.0
    return TrainingRange(design, *design.split_buffers(exported.buffers), doubt)


def _not_finite(foretold: Mapping[str, Foretold], at: int) -> str:
    whole = all(bool(torch.isfinite(one.values[at])) for one in foretold.values())
    return "" if whole else "the model gives no number for this patient"


def told_by(task: Task, outputs: Tensor, known: Mapping[str, Correction]) -> dict[str, Told]:
    """What is told of each quantity, by name: as `known` corrects it, and no risk against another. Differentiable."""
    foretold = foretold_by(task, outputs)
    told = {name: known[name].told(one.score) if name in known else unmeasured(one.score) for name, one in foretold.items()}
    return coherent(foretold, told)


def corrections_of(exported: Exported, task: Task, foretold: Mapping[str, Foretold]) -> dict[str, Correction]:
    """By name of what is foretold, from the run's own held-out patients; without what it did not measure, or on too few."""
    evaluation = exported.facts.get("evaluation")
    if not isinstance(evaluation, dict) or exported.options.split == ROWS:  # of patients who trained it: too good
        return {}
    scoring = scoring_of(exported, task)
    cells, noise = evaluation.get("histogram"), evaluation.get("noise_std")
    if not isinstance(cells, list) or not isinstance(noise, int | float):
        return {}
    histogram = np.asarray(cells, dtype=np.float64)
    if histogram.shape != (scoring.cells,):
        return {}
    found = {name: _correction(scoring, histogram, float(noise), name, one.unit) for name, one in foretold.items()}
    return {name: one for name, one in found.items() if one is not None}


def _correction(scoring: Scoring, histogram: Floats, noise_std: float, name: str, unit: str) -> Correction | None:
    if unit:
        return scoring.correction(histogram, noise_std) if isinstance(scoring, Corrects) else None
    return recalibrated(scoring, histogram, noise_std, name) if isinstance(scoring, Calibrates) else None


def recalibrated(scoring: Calibrates, histogram: Floats, noise_std: float, name: str) -> Recalibration | None:
    """Of what is foretold as `name`, from an opened histogram of the test halves; None where it holds too few."""
    groups = scoring.calibration_groups(histogram, noise_std)
    found = groups.get(name, groups.get(ONLY))
    return recalibration(found) if found else None


def _quantity(name: str, one: Foretold, told: Told, known: Correction | None, at: int) -> Quantity:
    scores = (told.score[at], told.low[at], told.high[at])
    value, low, high = (float(score if one.unit else torch.sigmoid(score)) for score in scores)
    plain = Quantity(name, one.meaning, one.unit, value, None, None, event=one.event, years=one.years or None)
    return plain if known is None else replace(plain, low=low, high=high, interval=known.interval)


def _reasons(design: Design, why: Mapping[str, Floats], values: Values, at: int) -> tuple[Reason, ...]:
    order = sorted(design.columns, key=lambda column: -abs(float(why[column.name][at])))
    names = design.contract.column_names
    found = []
    for column in order[:REASONS]:
        number = float(values[at, names.index(column.name)])
        if np.isnan(number):
            shown = "missing"
        elif column.kind == "categorical":
            shown = column.categories[int(number)]
        else:
            shown = ("yes" if number else "no") if column.kind == "binary" else f"{number:.3g}"
        unit = "" if np.isnan(number) else column.unit
        found.append(Reason(column.name, column.description, shown, unit, float(why[column.name][at])))
    return tuple(found)
