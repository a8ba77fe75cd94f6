"""One patient's course: in which state probably now, and which states to expect in the years to come. For a site's own patients.

    model = model_of(result)                    # what a run of the task `disease_states` published (result.json)
    course = course_of(model, rows)             # rows of one patient, as `records.rows_of` makes them

Nothing here is sent anywhere, and nothing is random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, cast

import numpy as np

from tasks.errors import ContractError
from tasks.states.forecast import ahead_of, edss_of_states, filtered, steps_in, worsening_chance
from tasks.states.frame import Frame
from tasks.states.measures import NAMES, Floats
from tasks.states.parameters import Parameters, public_start
from tasks.states.sequences import STEP, WIDTH, sequences_of

FORMAT: Final = "wardround/states-model/1"
YEARS: Final = (1.0, 2.0, 3.0, 4.0, 5.0)
MOST_YEARS: Final = 30.0
ROUNDING: Final = 1e-6


@dataclass(frozen=True)
class Model:
    """A fitted model of states: what was observed and how it was tied together, and the parameters."""

    frame: Frame
    parameters: Parameters


@dataclass(frozen=True)
class Course:
    """`step`: the last step with a row, of 84 days from day 0. `now` (8,): chances of the states on it, from all rows up to it.

    `years` (n,); `expected` (n, 8): chances of the states so much later, with therapy and band of age as they are now.
    `edss_now`, `edss` (n,): expected score, points. `worse_in_a_year`: chance of a worse score by rule A; None without a score.
    """

    step: int
    now: Floats
    years: tuple[float, ...]
    expected: Floats
    edss_now: float
    edss: Floats
    worse_in_a_year: float | None


def course_of(model: Model, rows: Floats, years: Sequence[float] = YEARS) -> Course:
    """The course of one patient with rows (n_rows, WIDTH), n_rows >= 1, in the order of time.

    `ContractError` for rows of another shape, out of order, or years outside [0, 30]. Missing measures are NaN, as many as may be.
    """
    if rows.ndim != 2 or rows.shape[1] != WIDTH or len(rows) == 0:
        raise ContractError(f"rows of shape {rows.shape}: one patient has at least one row of {WIDTH} numbers")
    if not np.isfinite(rows[:, STEP]).all() or (np.diff(rows[:, STEP]) <= 0).any():
        raise ContractError("rows of one patient: steps are numbers that ascend")
    if any(not 0 <= year <= MOST_YEARS for year in years):
        raise ContractError(f"years to look ahead are 0 to {MOST_YEARS:g}")
    frame, parameters = model.frame, model.parameters
    sequences = sequences_of(frame, rows, np.zeros(len(rows), dtype=np.intp), 1)
    now, cell = filtered(parameters, sequences).now[:, -1], sequences.cell[-1:]
    expected = np.concatenate([np.zeros((0, now.shape[1])), *(ahead_of(parameters, now, cell, steps_in(year)) for year in years)])
    points = np.clip(edss_of_states(frame, parameters)[0], 0.0, 10.0)
    scored = sequences.edss[~np.isnan(sequences.edss)]
    in_a_year = ahead_of(parameters, now, cell, steps_in(1.0))
    chance = worsening_chance(frame, parameters, in_a_year, scored[-1:]) if len(scored) else None
    return Course(
        step=int(rows[-1, STEP]),
        now=now[0],
        years=tuple(float(year) for year in years),
        expected=expected,
        edss_now=float(np.einsum("k,k->", now[0], points)),
        edss=np.einsum("nk,k->n", expected, points),
        worse_in_a_year=None if chance is None else float(chance[0]),
    )


def published(model: Model) -> dict[str, object]:
    """The model for JSON, at full precision; `model_of` reads it."""
    frame, found = model.frame, model.parameters
    head: dict[str, object] = {
        "format": FORMAT,
        "measures": list(frame.names),
        "by_dmt": frame.by_dmt,
        "by_age": frame.by_age,
        "iterations": frame.iterations,
    }
    return head | {field.name: getattr(found, field.name).tolist() for field in fields(found)}


def model_of(result: Mapping[str, object]) -> Model:
    """From a run's result, or from what `published` gave. `ContractError` if it is none, or its numbers are no such model."""
    raw = result.get("model", result)
    if not isinstance(raw, Mapping) or raw.get("format") != FORMAT:
        raise ContractError(f"no model of states: the format must be {FORMAT}")
    frame = _frame(raw)
    expected = public_start(frame)
    arrays = {}
    for field in fields(Parameters):
        try:
            arrays[field.name] = np.asarray(raw[field.name], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(f"model of states: {field.name} is missing or not made of numbers") from error
        wanted = getattr(expected, field.name).shape
        if arrays[field.name].shape != wanted or not np.isfinite(arrays[field.name]).all():
            raise ContractError(f"model of states: {field.name} has shape {arrays[field.name].shape}, expected finite {wanted}")
    parameters = Parameters(**arrays)
    _check(parameters)
    return Model(frame, parameters)


def _frame(raw: Mapping[str, object]) -> Frame:
    names, iterations = raw.get("measures"), raw.get("iterations")
    if not isinstance(names, list) or not all(name in NAMES for name in names):
        raise ContractError(f"model of states: measures must be some of {', '.join(NAMES)}")
    if not isinstance(iterations, int) or not all(isinstance(raw.get(name), bool) for name in ("by_dmt", "by_age")):
        raise ContractError("model of states: iterations must be a whole number, by_dmt and by_age true or false")
    return Frame(tuple(NAMES.index(name) for name in names), cast("bool", raw["by_dmt"]), cast("bool", raw["by_age"]), iterations)


def _check(parameters: Parameters) -> None:
    for name in ("initial", "transitions", "chain_initial", "chain", "scores"):
        chances = getattr(parameters, name)
        if (chances < 0).any() or np.abs(chances.sum(axis=-1) - 1).max() > ROUNDING:
            raise ContractError(f"model of states: rows of {name} must be chances that sum to 1")
    symmetric = np.abs(parameters.covariance - parameters.covariance.transpose(0, 2, 1)).max() <= ROUNDING
    if not symmetric or np.linalg.eigvalsh(parameters.covariance).min() <= 0 or parameters.noise.min() <= 0:
        raise ContractError("model of states: covariances must be symmetric and positive definite, noise above 0")
