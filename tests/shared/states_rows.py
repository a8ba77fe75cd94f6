"""Rows of invented patients for tests of the model of states, drawn from the model itself."""

import numpy as np
from numpy.typing import NDArray

from tasks.states.frame import Frame
from tasks.states.measures import MEASURES
from tasks.states.parameters import Parameters, public_start
from tasks.states.sequences import AGE, DMT, FIRST_MEASURE, STEP, WIDTH
from tasks.states.structure import N_STATES

Floats = NDArray[np.float64]
ALL = Frame(tuple(range(len(MEASURES))), by_dmt=True, by_age=True, iterations=6)


def drawn(
    frame: Frame, parameters: Parameters, patients: int, seed: int, *, missing: float = 0.4, gap: int = 3
) -> tuple[Floats, NDArray[np.intp], NDArray[np.intp]]:
    """Rows (n, WIDTH), owners (n,) and true states (n,): 4 to 14 rows of each patient, gaps of 1 to `gap` steps."""
    rng = np.random.default_rng(seed)
    rows, owners, states = [], [], []
    for patient in range(patients):
        step, state = int(rng.integers(0, 3)), int(rng.choice(N_STATES, p=parameters.initial))
        dmt, age = float(rng.integers(0, 4)), float(rng.uniform(20, 65))
        for _ in range(int(rng.integers(4, 15))):
            row = np.full(WIDTH, np.nan)
            row[[STEP, DMT, AGE]] = step, dmt, age
            factors = rng.multivariate_normal(parameters.mean[state], parameters.covariance[state])
            for d, at in enumerate(frame.measures):
                value = parameters.loadings[d] @ [1.0, *factors] + rng.normal(0, np.sqrt(parameters.noise[d]))
                if rng.random() >= missing:
                    row[FIRST_MEASURE + at] = np.clip(MEASURES[at].published(float(value)), MEASURES[at].low, MEASURES[at].high)
            rows.append(row)
            owners.append(patient)
            states.append(state)
            move = int(rng.integers(1, gap + 1))
            cell = frame.cell_of(np.array([dmt]), np.array([age]))[0]
            for _ in range(move):
                state = int(rng.choice(N_STATES, p=parameters.transitions[cell, state]))
            step += move
    return np.array(rows), np.array(owners, dtype=np.intp), np.array(states, dtype=np.intp)


def start() -> Parameters:
    """The public start of `ALL`."""
    return public_start(ALL)
