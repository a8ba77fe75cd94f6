"""Small tables of one patient, and what every task on hazards must keep to."""

from importlib import resources

import numpy as np
import pandas as pd
import torch
import yaml

from tasks.base import Cohort, Task
from tasks.cohorts import ReadsTables
from tasks.episodes.index import index_visits
from tasks.episodes.past import Episodes, past_of
from tasks.hazards.task import HazardTask
from tasks.models import initial_parameters, load_parameters
from tasks.registry import get_task

Tables = dict[str, pd.DataFrame]


def person(name: str, course: str = "RRMS") -> dict[str, object]:
    known = {"sex": "F", "birth_year": 1975, "year_band": "2015-2017", "onset_day": -700, "phenotype_entry": course}
    return {"patient_id": name, **known}


def tables_of(
    edss: dict[int, float | None], relapses: tuple[int, ...] = (), course: str = "RRMS", pyramidal: dict[int, float] | None = None
) -> Tables:
    """One patient, seen on these days; `pyramidal`: the score of the days on which it was taken."""
    scores = {} if pyramidal is None else pyramidal
    rows = [
        {"patient_id": "a", "day": day, "visit_id": str(day), "edss": score, "fs_pyramidal": scores.get(day)}
        for day, score in edss.items()
    ]
    visits = pd.DataFrame(rows).astype({"edss": float, "fs_pyramidal": float})
    onsets = pd.DataFrame({"patient_id": ["a"] * len(relapses), "onset_day": list(relapses), "end_day": [None] * len(relapses)})
    return {"patients": pd.DataFrame([person("a", course)]), "visits": visits, "relapses": onsets}


def another_future(tables: Tables, episodes: Episodes) -> Tables:
    """Tables in which everybody's EDSS is 9.5 and everybody is in secondary progression after the first day of prediction.

    `episodes`: one for each patient.
    """
    t0 = dict(zip(episodes.patients, episodes.days.tolist(), strict=True))
    visits, onsets = tables["visits"], tables["relapses"]
    later = _after(visits, "day", t0)
    assert later.sum() > 100
    values = {"edss": 9.5, "fs_pyramidal": 5.0, "phenotype": "SPMS"}
    changed = visits.assign(**{name: visits[name].mask(later, value) for name, value in values.items()})
    return {**tables, "visits": changed, "relapses": onsets[~_after(onsets, "onset_day", t0)]}


def _after(rows: pd.DataFrame, day: str, t0: dict[str, int]) -> pd.Series:
    """Which rows come after their patient's episode."""
    return rows[day].astype(float) > rows["patient_id"].map(t0).astype(float)


def known_on_the_day(task: HazardTask, tables: Tables, episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """All inputs of the episodes, and which of them the task serves."""
    past = past_of(tables, episodes, task.contract_tables)
    return task.inputs(past, task.contract.columns), task.served(tables, episodes)


def moves_labels_alone(task: HazardTask, tables: Tables) -> None:
    """Another future changes labels, and neither the days of prediction, nor who is served, nor an input."""
    episodes = index_visits(tables, 1)
    changed = another_future(tables, episodes)
    again = index_visits(changed, 1)
    assert again.patients == episodes.patients
    assert np.array_equal(again.days, episodes.days)
    (before, served), (after, still) = (known_on_the_day(task, each, episodes) for each in (tables, changed))
    assert np.array_equal(before, after, equal_nan=True)
    assert np.array_equal(served, still)
    chosen = episodes.only(served)
    assert len(chosen) > 100
    labels, others = task.outcome(tables, chosen).labels, task.outcome(changed, chosen).labels
    assert not np.array_equal(labels, others, equal_nan=True)


def cohort_checks(task: HazardTask, tables: Tables) -> Cohort:
    """A cohort whose labels make sense, whose patients' rows stand together, and whose losses are finite."""
    assert get_task(task.name) is task
    assert isinstance(task, Task)
    assert isinstance(task, ReadsTables)
    cohort = task.cohort_of(tables)
    counts = np.bincount(cohort.owners)
    assert np.all(np.diff(cohort.owners) >= 0)
    assert 1 <= counts.max() <= task.records
    assert cohort.labels.shape == (len(cohort.patient_ids), 3)
    clean, seen, cause = cohort.labels.T
    assert cohort.labels.dtype == np.float32
    assert np.all((clean >= 0) & (clean <= seen) & (seen <= task.grid.bins))
    assert np.all((cause > 0) == (seen > clean))
    assert np.all((cause > 0) | (clean >= 1))
    assert set(cause.astype(int)) <= set(range(len(task.causes) + 1))
    assert cohort.report.label_counts == (int((cause == 0).sum()), int((cause > 0).sum()))
    assert "no input alone separates" in cohort.report.to_text() or "not possible" in cohort.report.to_text()
    assert not [name for name in tables["patients"]["patient_id"] if name in cohort.report.to_text() or name in repr(cohort)]
    model = task.build_model("logistic", {}, ("age_years",))
    load_parameters(model, initial_parameters(model, 1))
    with torch.no_grad():
        losses = task.loss(model(torch.zeros(len(clean), 2)), torch.from_numpy(cohort.labels))
    assert losses.shape == clean.shape
    assert bool(torch.isfinite(losses).all())
    assert float(losses.min()) > 0.0  # each record says something
    return cohort


def checked_configuration(task: HazardTask, name: str) -> tuple[str, ...]:
    """Columns of conf/task/NAME.yaml, of which the task's model is built and its scoring made."""
    found = yaml.safe_load((resources.files("conf") / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert found["name"] == task.name
    assert task.build_model(found["model"], found["options"], found["columns"]) is not None
    assert task.scoring(found["histogram_bins"]).cells < 2000
    assert "samples" not in task.contract.modalities(found["columns"])
    return tuple(found["columns"])
