#!/usr/bin/env python3
"""Figures of times to an event by scikit-survival and lifelines, for the tests of tasks/hazards to be held against.

    python scripts/make_golden_survival.py > tests/tasks/golden/survival.json

Both need pandas below 3, so they cannot be installed beside this project: use an environment of their own
(pip install scikit-survival lifelines). Nothing of this project is imported here, and the people are invented.

Time is in quarters. A person lost after quarter k was watched through its end, so the libraries get k + 1/2: whoever is lost counts
as at risk of an event of quarter k, and is lost after it.
"""

import json
import platform
import sys
from importlib.metadata import version

import numpy as np
from lifelines import KaplanMeierFitter
from sksurv.metrics import (
    brier_score,
    concordance_index_censored,
    concordance_index_ipcw,
    cumulative_dynamic_auc,
    integrated_brier_score,
)
from sksurv.nonparametric import cumulative_incidence_competing_risks
from sksurv.util import Surv

QUARTERS, PEOPLE, HORIZONS = 20, 300, (4, 8, 12, 20)
YEARLY = 0.09  # hazard of somebody with score 0
COMPETING_QUARTERS, CAUSES = 8, 3
LIBRARIES = ("scikit-survival", "lifelines", "numpy")


def invented(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Events of one cause: hazards follow the score, with an effect that is weaker than the score says."""
    score = rng.normal(0.0, 0.8, PEOPLE).round(3)
    years = rng.exponential(1.0 / (YEARLY * np.exp(0.7 * score)))
    lost = np.minimum(rng.exponential(6.0, PEOPLE), QUARTERS / 4)
    event = years <= lost
    time = np.where(event, np.ceil(4 * years), np.floor(4 * lost)).astype(int)
    return {"score": score, "time": time, "cause": event.astype(int)}


def risk(score: np.ndarray, quarter: int) -> np.ndarray:
    """What a model says that takes the score at its word."""
    return -np.expm1(-YEARLY * np.exp(score) * quarter / 4)


def single(people: dict[str, np.ndarray]) -> dict[str, float]:
    event = people["cause"] > 0
    time = people["time"] + np.where(event, 0.0, 0.5)
    truth = Surv.from_arrays(event, time)
    found = {
        "uno_c": concordance_index_ipcw(truth, truth, people["score"])[0],
        "harrell_c": concordance_index_censored(event, time, people["score"])[0],
    }
    estimates = np.column_stack([1.0 - risk(people["score"], quarter) for quarter in HORIZONS])
    found["ibs"] = integrated_brier_score(truth, truth, estimates, HORIZONS)
    scores = brier_score(truth, truth, estimates, HORIZONS)[1]
    curve = KaplanMeierFitter().fit(time, event)
    for at, quarter in enumerate(HORIZONS):
        found[f"auc_{quarter // 4}y"] = cumulative_dynamic_auc(truth, truth, people["score"], [quarter])[0][0]
        found[f"brier_{quarter // 4}y"] = scores[at]
        found[f"observed_{quarter // 4}y"] = 1.0 - float(curve.predict(quarter))
    return {name: round(float(value), 8) for name, value in found.items()}


def competing(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    years = rng.exponential(2.5, PEOPLE)
    lost = np.minimum(rng.exponential(4.0, PEOPLE), COMPETING_QUARTERS / 4)
    event = years <= lost
    cause = np.where(event, rng.choice([1, 2, 3], PEOPLE, p=[0.6, 0.3, 0.1]), 0)
    time = np.where(event, np.ceil(4 * years), np.floor(4 * lost)).astype(int)
    clock = time + np.where(event, 0.0, 0.5)
    times, risks = cumulative_incidence_competing_risks(cause, clock)  # risks (1 + causes, times), the first of any cause
    last = np.searchsorted(times, COMPETING_QUARTERS, side="right") - 1
    found = {f"observed_{number}": round(float(risks[number, last]), 8) for number in range(1, CAUSES + 1)}
    return {"time": time, "cause": cause}, found


def main() -> None:
    rng = np.random.default_rng(20261129)
    people = invented(rng)
    rivals, rivals_found = competing(rng)
    json.dump(
        {
            "made_by": "scripts/make_golden_survival.py",
            "versions": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
            "quarters": QUARTERS,
            "yearly": YEARLY,
            "people": {name: values.tolist() for name, values in people.items()},
            "figures": single(people),
            "competing": {"people": {name: values.tolist() for name, values in rivals.items()}, "figures": rivals_found},
        },
        sys.stdout,
    )
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
