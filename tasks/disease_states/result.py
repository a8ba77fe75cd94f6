"""What a run publishes: the states in the measures' own units, who goes where in 12 weeks, and the model for a site's own use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from tasks.states.course import Model, published
from tasks.states.forecast import edss_of_states
from tasks.states.frame import UNITS, Frame
from tasks.states.maximisation import fitted
from tasks.states.measures import MEASURES, Floats
from tasks.states.parameters import Parameters
from tasks.states.structure import FACTORS, STATES, STRATA
from tasks.sums import Opened

NOISES: Final = 3.0  # a count below so many standard deviations of noise is not shown
LEAST_ROWS: Final = 10.0
Row = dict[str, object]


def result_of(frame: Frame, opened: Sequence[Opened]) -> Mapping[str, object]:
    """Title, notes, tables, model."""
    parameters = fitted(frame, [each.total for each in opened])
    last = opened[-1]
    return {
        "title": "States of the disease",
        "notes": _notes(frame, last),
        "tables": {
            "states": _states(frame, parameters, last),
            "transitions_of_12_weeks": _transitions(frame, parameters, last.total),
            "transitions_by_group": _by_group(frame, parameters),
            "measures": _measures(frame, parameters),
            "edss_chain_of_12_weeks": _rows(STRATA, STRATA, parameters.chain),
        },
        "model": published(Model(frame, parameters)),
    }


def _notes(frame: Frame, last: Opened) -> list[str]:
    found = [
        f"{frame.iterations} iterations of EM from public constants; states keep their names because the prior is centred there.",
        "States 1 to 3 are early, mild, evolving; 4 radiological activity without symptoms; 5 relapse; 6 to 8 advanced.",
        "Densities are of measures on the model's scale; only differences between runs with the same measures mean anything.",
    ]
    if last.noise:
        found.append("Long histories are scaled down to the bound of a patient's vector: rows are fewer than there were.")
        found.append(f"Noise of {last.noise / UNITS['occupancy']:.0f} rows (standard deviation) is in every count of the last sum.")
    else:
        found.append("NOT PRIVATE: no noise was added.")
    return found


def _states(frame: Frame, parameters: Parameters, last: Opened) -> list[Row]:
    """Of each state: rows, and mean of each measure in its unit (a mean of the logarithm for skewed ones)."""
    rows = frame.split(last.total)["occupancy"]
    floor = max(LEAST_ROWS, NOISES * last.noise / UNITS["occupancy"])
    mean, sd = edss_of_states(frame, parameters)
    level = parameters.loadings[:, 0] + parameters.mean @ parameters.loadings[:, 1:].T
    found = []
    for k, state in enumerate(STATES):
        row: Row = {"state": state, "rows": f"fewer than {floor:.0f}" if rows[k] < floor else float(round(float(rows[k])))}
        row |= {"edss": _short(mean[k]), "edss_sd": _short(sd[k])}
        others = [(d, name) for d, name in enumerate(frame.names) if name != "edss"]
        row |= {name: _short(MEASURES[frame.measures[d]].published(float(level[k, d]))) for d, name in others}
        found.append(row)
    return found


def _transitions(frame: Frame, parameters: Parameters, total: Floats) -> list[Row]:
    """Chances over all groups, each weighed by its steps; equally where noise leaves no step."""
    steps = np.maximum(frame.split(total)["stays"], 0.0)  # (cells, 8): nearly all steps are stays
    weight = np.where(steps.sum(axis=0) > 0, steps, 1.0)
    mixed = np.einsum("ck,ckl->kl", weight / weight.sum(axis=0), parameters.transitions)
    return _rows(STATES, STATES, mixed)


def _by_group(frame: Frame, parameters: Parameters) -> list[Row]:
    """By group: chance in 12 weeks of a relapse from mild, and of advancing from evolving and from advanced_6."""
    return [
        {
            "group": name,
            "mild_to_relapse": _short(matrix[1, 4]),
            "mild_to_radiological": _short(matrix[1, 3]),
            "evolving_to_advanced": _short(matrix[2, 5:].sum()),
            "relapse_to_advanced": _short(matrix[4, 5:].sum()),
            "advanced_6_to_7_or_8": _short(matrix[5, 6:].sum()),
        }
        for name, matrix in zip(frame.cell_names, parameters.transitions, strict=True)
    ]


def _measures(frame: Frame, parameters: Parameters) -> list[Row]:
    """Loadings on the factors and residual spread, in public spreads of each measure."""
    return [
        {
            "measure": name,
            **{factor: _short(parameters.loadings[d, 1 + f]) for f, factor in enumerate(FACTORS)},
            "residual_sd": _short(float(np.sqrt(parameters.noise[d]))),
        }
        for d, name in enumerate(frame.names)
    ]


def _rows(names: Sequence[str], heads: Sequence[str], chances: Floats) -> list[Row]:
    return [
        {"from": name, **{head: round(float(value), 4) for head, value in zip(heads, row, strict=True)}}
        for name, row in zip(names, chances, strict=True)
    ]


def _short(value: float) -> float:
    return float(f"{float(value):.4g}")
