"""`cdp_2y`: the label is that of the rule, nobody is imputed, a patient is one unit, and no input tells the answer."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from plain_labels import Patient, plain_changes

from server.config import load_config
from server.planning import task_parts
from tasks.base import Task
from tasks.cdp_2y.outcome import FEW, SHORT, UNSEEN, outcome_of
from tasks.cdp_2y.task import CONTRACT, RULE, TASK
from tasks.cohorts import ReadsTables, open_cohort
from tasks.episodes.extras import ALL_EXTRAS, expanded
from tasks.episodes.index import index_visits
from tasks.episodes.past import Episodes, past_of
from tasks.episodes.routine import CORE, TABLES
from tasks.episodes.task import refuse_leaks
from tasks.errors import DataError
from tasks.features import Design
from tasks.metrics import pooled_metrics, score_histogram
from tasks.models import initial_parameters, load_parameters, predict
from tasks.ms.suspects import suspects
from tasks.registry import get_task
from tasks.simulator import Preset, Schedule, SiteSpec, SiteTruth, simulate, simulate_site, write
from tasks.splits import held_out_mask

Tables = dict[str, pd.DataFrame]
SALT = b"a salt of the consortium"
BASELINE = ("edss_last", "phenotype", "age_years")


@pytest.fixture(scope="module")
def registry() -> Tables:
    site, _ = simulate_site(SiteSpec("registry", 300, Schedule.RECLAIM, interval_mo=6.0), 5)
    return dict(site.tables)


def person(name: str) -> dict[str, object]:
    known = {"sex": "F", "birth_year": 1975, "year_band": "2015-2017", "onset_day": -700, "phenotype_entry": "RRMS"}
    return {"patient_id": name, **known}


def tables_of(edss: dict[int, float | None], relapses: tuple[int, ...] = ()) -> Tables:
    """One patient, seen on these days."""
    visits = pd.DataFrame([{"patient_id": "a", "day": day, "visit_id": str(day), "edss": score} for day, score in edss.items()])
    onsets = pd.DataFrame({"patient_id": ["a"] * len(relapses), "onset_day": list(relapses), "end_day": [None] * len(relapses)})
    return {"patients": pd.DataFrame([person("a")]), "visits": visits.astype({"edss": float}), "relapses": onsets}


def label_of(edss: dict[int, float | None], t0: int, relapses: tuple[int, ...] = ()) -> float | str:
    found = outcome_of(tables_of(edss, relapses), Episodes(("a",), np.array([t0])))
    reasons = [reason for reason, count in found.left_out.items() if count]
    assert len(reasons) <= 1
    return reasons[0] if reasons else float(found.labels[0])


@pytest.mark.parametrize(
    ("edss", "relapses", "expected"),
    [
        ({0: 2, 182: 3, 364: 3}, (), 1.0),
        ({0: 2, 182: 3, 364: 2, 546: 2, 1000: 2}, (), 0.0),  # not confirmed
        ({0: 2, 182: 2.5, 364: 2.5, 1000: 2.5}, (), 0.0),  # half a point is none from 2
        ({0: 5.5, 182: 6, 364: 6}, (), 1.0),  # and is one from 5.5: rule A
        ({0: 0, 182: 1, 364: 1, 1000: 1}, (), 0.0),  # from 0 it takes 1.5
        ({0: 2, 730: 3, 898: 3}, (), 1.0),  # begun on the last day of the two years, confirmed after 24 weeks
        ({0: 2, 400: 2, 731: 3, 899: 3, 1000: 3}, (), 0.0),  # begun a day later
        ({0: 2, 182: 3, 342: 3}, (), SHORT),  # 160 days are no confirmation, and then nobody looked
        ({0: 2, 182: 3, 343: 3}, (), 1.0),  # 161 are, within the tolerance of a week
        ({0: 2, 300: 2, 912: 2}, (), SHORT),
        ({0: 2, 300: 2, 913: 2}, (), 0.0),
        ({0: 2, 800: 2, 1000: 2}, (), UNSEEN),
        ({0: 2, 800: 3, 1000: 3}, (), UNSEEN),  # worse on day 800, but perhaps since day 700
        ({0: 2, 300: None, 913: 2, 1200: 2}, (), UNSEEN),  # a visit without a score is none
        ({0: 2, 1000: 2}, (), FEW),
        ({0: 2, 182: 3, 364: 3, 546: 3}, (350,), 1.0),  # 364 is too close to a relapse, 546 confirms
        ({0: 2, 182: 3, 364: 3}, (350,), SHORT),
        ({-400: 1, -200: 2, 0: 2, 300: 2, 913: 2}, (), 0.0),  # worse before t0, and not since
        ({-400: 1, 0: 2, 182: 2, 364: 2, 913: 2}, (), 0.0),  # begun on t0 itself: today is the reference
        ({-60: 2, 182: 3, 364: 3}, (), 1.0),  # the reference is the last score, here of 60 days before
    ],
)
def test_the_label_is_that_of_the_rule_from_the_day_on(
    edss: dict[int, float | None], relapses: tuple[int, ...], expected: float | str
) -> None:
    assert label_of(edss, 0, relapses) == expected


def test_the_rule_is_the_default_one_and_stands_in_the_contract() -> None:
    """Versions 1 and 2 of the task mean this rule; another one needs another version."""
    assert (CONTRACT.version, RULE.rule_id) == ("2", "v1-edss-A-168d-roving-mueller2023-37bb514b")
    assert RULE.rule_id in CONTRACT.label.meaning


def test_each_episode_is_judged_as_if_it_were_alone(registry: Tables) -> None:
    episodes = index_visits(registry, TASK.records)
    found = outcome_of(registry, episodes)
    assert 0.05 < np.nanmean(found.labels) < 0.4
    assert len(episodes) == found.known.sum() + sum(found.left_out.values())
    for at in range(0, len(episodes), 23):
        mine = {name: rows[rows["patient_id"] == episodes.patients[at]] for name, rows in registry.items()}
        alone = outcome_of(mine, Episodes((episodes.patients[at],), episodes.days[[at]]))
        assert np.array_equal(alone.labels, found.labels[[at]], equal_nan=True)


def test_labels_are_those_of_plain_loops_over_one_patient_at_a_time(registry: Tables) -> None:
    episodes = index_visits(registry, TASK.records)
    visits, relapses = registry["visits"], registry["relapses"]
    found, checked = outcome_of(registry, episodes).labels, 0
    for at, (name, t0) in enumerate(zip(episodes.patients, episodes.days.tolist(), strict=True)):
        rows = visits[(visits["patient_id"] == name) & visits["edss"].notna()].sort_values("day")
        if rows["day"].duplicated().any():
            continue
        scores = list(zip(rows["day"].astype(int), rows["edss"], strict=True))
        last = max(day for day, _ in scores if day <= t0)
        onsets = [(int(day), None) for day in relapses.loc[relapses["patient_id"] == name, "onset_day"]]
        changes = plain_changes(Patient([score for score in scores if score[0] >= last], onsets), RULE)
        worse = any(t0 < change.event_day <= t0 + 730 for change in changes if change.kind != "IMPR")
        followed = scores[-1][0] >= t0 + 913 and any(t0 < day <= t0 + 730 for day, _ in scores)
        expected = np.nan if len(scores) < 3 else 1.0 if worse else 0.0 if followed else np.nan
        assert np.array_equal(found[at], expected, equal_nan=True)
        checked += 1
    assert checked > 400


def test_the_future_makes_labels_and_the_past_of_the_day_makes_none(registry: Tables) -> None:
    """What is before t0 moves a label through the last score alone: the count of scores apart."""
    episodes = index_visits(registry, 1)
    t0 = registry["visits"]["patient_id"].map(dict(zip(episodes.patients, episodes.days, strict=True)))
    visits = registry["visits"]
    last = visits[visits["edss"].notna() & (visits["day"] <= t0)].groupby("patient_id")["day"].transform("max")
    older = visits["day"] < last.reindex(visits.index).groupby(visits["patient_id"]).transform("max")
    changed = {**registry, "visits": visits.assign(edss=visits["edss"].where(~older, 9.0))}
    assert older.sum() > 50
    known = outcome_of(registry, episodes).labels
    assert np.array_equal(known, outcome_of(changed, episodes).labels, equal_nan=True)
    later = {**registry, "visits": visits.assign(edss=visits["edss"].where(visits["day"] <= t0, 9.5))}
    assert not np.array_equal(known, outcome_of(later, episodes).labels, equal_nan=True)


def test_it_is_a_task_on_the_contract_s_tables_that_plans_without_pandas() -> None:
    assert get_task("cdp_2y") is TASK
    assert isinstance(TASK, Task)
    assert isinstance(TASK, ReadsTables)
    code = (
        "import sys; from tasks.registry import get_task; get_task('cdp_2y').build_model('logistic', {}); "
        "print('pandas' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert found.stdout.split() == ["False"]


@pytest.mark.parametrize(("name", "columns"), [("cdp_2y", tuple(column.name for column in CORE)), ("cdp_2y_baseline", BASELINE)])
def test_the_configuration_names_columns_of_the_contract(name: str, columns: tuple[str, ...]) -> None:
    found = yaml.safe_load((resources.files("conf") / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert (found["name"], tuple(found["columns"])) == ("cdp_2y", columns)
    assert TASK.build_model(found["model"], found["options"], found["columns"]) is not None
    assert "samples" not in CONTRACT.modalities(found["columns"])


@pytest.mark.parametrize(
    ("name", "columns", "parameters"),
    [("spline", ("core",), 166), ("mlp", ("core",), 7361), ("gru", ("core", "visits"), 1650),
     ("transformer", ("core", "visits"), 2610)],
)  # fmt: skip
def test_each_configured_model_can_be_planned_within_its_budget(name: str, columns: tuple[str, ...], parameters: int) -> None:
    parts = task_parts(load_config([f"task=cdp_2y_{name}"]).task)
    assert parts.task.columns == expanded(columns)
    assert sum(spec.size for spec in parts.model.parameters) == parameters
    core = task_parts(load_config(["task=cdp_2y"]).task)
    assert (parts.model.buffers, parts.statistics) == (core.model.buffers, core.statistics)  # visits cost describing nothing
    assert parts.task.modalities == ("clinical", "imaging")


def test_a_plan_states_the_kinds_of_data_that_modalities_add() -> None:
    parts = task_parts(load_config(["task=cdp_2y", "+modalities=[oct,ep,fluids,proms,wearables,genetics,mri]"]).task)
    assert parts.task.modalities == tuple(sorted({"clinical", *(column.modality for column in ALL_EXTRAS)}))


def test_a_patient_s_episodes_stand_together_and_are_four_at_most(registry: Tables) -> None:
    cohort = TASK.cohort_of(registry)
    assert np.all(np.diff(cohort.owners) >= 0)
    counts = np.bincount(cohort.owners)
    assert counts.max() == TASK.records == TASK.records
    assert cohort.size == len(counts) > 150
    assert set(cohort.labels.tolist()) == {0, 1}
    assert cohort.values.shape == (len(cohort.labels), len(CONTRACT.columns))


def test_a_patient_is_on_one_side_of_the_split_with_all_episodes(registry: Tables) -> None:
    """A split by episodes lets a model recognise people: it turns an AUC of .71 into .84 without any knowledge."""
    cohort = TASK.cohort_of(registry)
    out = held_out_mask(cohort.patient_ids, SALT, 0.3)
    ids = np.array(cohort.patient_ids)
    assert not set(ids[out]) & set(ids[~out])
    assert 0.15 < out.mean() < 0.45
    # The check can fail: rows by chance do put people on both sides.
    by_row = np.random.default_rng(0).random(len(ids)) < 0.3
    assert set(ids[by_row]) & set(ids[~by_row])


def test_one_patient_twice_in_the_table_is_refused_and_not_named(registry: Tables) -> None:
    people = registry["patients"]
    twice = {**registry, "patients": pd.concat([people, people.head(200)], ignore_index=True)}
    with pytest.raises(DataError, match="exactly one row") as caught:
        TASK.cohort_of(twice)
    assert not [name for name in people["patient_id"] if name in str(caught.value)]


def test_the_report_says_by_which_rule_and_who_was_left_out(registry: Tables) -> None:
    cohort = TASK.cohort_of(registry)
    text = cohort.report.to_text()
    assert RULE.rule_id in text
    assert SHORT in text
    assert cohort.report.label_counts == (int((cohort.labels == 0).sum()), int((cohort.labels == 1).sum()))
    assert "no input alone separates" in text
    assert not [name for name in registry["patients"]["patient_id"] if name in text or name in repr(cohort)]


def first_of_each(tables: Tables) -> tuple[Episodes, np.ndarray]:
    found = index_visits(tables, 1)
    outcome = outcome_of(tables, found)
    return found.only(outcome.known), outcome.labels[outcome.known].astype(np.int8)


def test_no_column_that_was_known_on_the_day_gives_the_label_away(registry: Tables) -> None:
    episodes, labels = first_of_each(registry)
    past = past_of(registry, episodes, TABLES)
    tables = {name: rows.assign(patient_id=rows["patient_id"].astype(str)) for name, rows in past.tables.items()}
    assert suspects(tables, {str(at): int(label) for at, label in enumerate(labels)}) == ()
    cohort = TASK.cohort_of(registry)
    assert "limit" in refuse_leaks(CONTRACT, cohort.values, cohort.labels)


@pytest.mark.parametrize("missing", [False, True], ids=["its value", "whether it is there"])
def test_a_column_written_after_the_outcome_is_refused(registry: Tables, missing: bool) -> None:
    """A hospital that backdates a result: the row bears a day of the past, so only what it tells can show it."""
    episodes, labels = first_of_each(registry)
    kept = labels == 1 if missing else np.ones(len(labels), dtype=bool)
    rows = pd.DataFrame({
        "patient_id": np.array(episodes.patients)[kept], "day": episodes.days[kept] - 1, "analyte": "nfl",
        "z_age_bmi": np.where(labels == 1, 3.0, -1.0)[kept], "quality": "ok",
    })  # fmt: skip
    with pytest.raises(DataError, match="nfl_z_last gives the answer away") as caught:
        TASK.cohort_of({**registry, "biomarkers": rows})
    assert not [name for name in registry["patients"]["patient_id"] if name in str(caught.value)]


def test_a_site_with_few_events_is_told_that_the_check_was_impossible() -> None:
    assert "not possible" in refuse_leaks(CONTRACT, np.zeros((30, len(CONTRACT.columns))), np.zeros(30, dtype=np.int8))


def test_a_site_without_visits_or_without_anybody_followed_says_so() -> None:
    with pytest.raises(DataError, match="the table visits has no rows"):
        TASK.cohort_of({"patients": pd.DataFrame([person("a")])})
    with pytest.raises(DataError, match="no patient has an episode"):
        TASK.cohort_of(tables_of({0: 2.0, 100: 2.0, 300: 2.0}))


def test_the_tables_of_a_folder_become_the_same_cohort(tmp_path: Path) -> None:
    """Through the files, the check of the contract and consent, as a site does it."""
    consortium = simulate(Preset("one", (SiteSpec("alpha", 60, Schedule.RECLAIM, interval_mo=6.0),)), 2)
    write(consortium, tmp_path)
    found, direct = open_cohort(TASK, tmp_path / "sites" / "alpha"), TASK.cohort_of(consortium.sites[0].tables)
    order = {name: at for at, name in enumerate(dict.fromkeys(found.patient_ids))}
    assert set(found.patient_ids) <= set(direct.patient_ids)
    kept = np.array([name in order for name in direct.patient_ids])
    assert kept.mean() > 0.9  # those who withdrew, or whose rows break the contract, are in the tables alone
    assert np.array_equal(found.values, direct.values[kept], equal_nan=True)
    assert np.array_equal(found.labels, direct.labels[kept])


# What can be learnt


Pooled = tuple[np.ndarray, np.ndarray, tuple[str, ...], np.ndarray]  # values, labels, patients, what nobody knows


def trained_scores(pooled: Pooled, columns: tuple[str, ...], model_name: str = "logistic") -> np.ndarray:
    """Probabilities for all episodes of a model trained without noise on the patients who are not held out."""
    values, labels, ids, _ = pooled
    design = Design(CONTRACT, columns)
    out = held_out_mask(ids, SALT, 0.4)
    buffers = design.statistics_to_buffers(design.describe_vectors(values[~out]).sum(axis=0))
    inputs = torch.from_numpy(design.encode(values, *buffers))
    model = TASK.build_model(model_name, {"hidden": "64,32"} if model_name == "mlp" else {}, columns)
    load_parameters(model, initial_parameters(model, 1))
    train, truth = torch.from_numpy(~out), torch.from_numpy(labels.astype(np.float32))
    training, target = inputs[train], truth[train]
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(200):
        optimiser.zero_grad()
        loss = TASK.loss(model(training), target).mean() + 3e-3 * sum((p**2).sum() for p in model.parameters())
        loss.backward()
        optimiser.step()
    return predict(model, inputs.numpy())


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    ranks = pd.Series(scores).rank(pct=True).to_numpy()
    found = pooled_metrics(score_histogram(labels, ranks, 2000)).auc
    assert found is not None
    return found


def oracle_scores(truth: SiteTruth, episodes: Episodes) -> np.ndarray:
    """(n, 3): true disability and true hazard of worsening on the day, and the transient part of the disability."""
    states = truth.tables["truth_states"].drop_duplicates(["patient_id", "day"])
    of_day = pd.DataFrame({"patient_id": episodes.patients, "day": episodes.days}).merge(states, how="left")
    return of_day[["disability", "transient", "worsening_hazard"]].to_numpy(float)


@pytest.mark.slow
def test_four_hospitals_train_it_under_privacy(tmp_path: Path) -> None:
    """From folders of tables to a model, with real guards, ledgers, noise and masks."""
    write(simulate("demo", 7), tmp_path)
    program = "import sys; from server.cli import main; sys.exit(main())"
    words = ["simulate", "--data", str(tmp_path / "sites"), "--out", str(tmp_path / "out"), "--workers", "1", "schedule.rounds=5",
             "task=cdp_2y", "privacy=epsilon8", "federation=roster"]  # fmt: skip
    found = subprocess.run([sys.executable, "-c", program, *words], timeout=800, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "on test patients: the final model" in found.stdout
    assert (tmp_path / "out" / "run" / "model" / "card.md").exists()


@pytest.fixture(scope="module")
def pooled() -> Pooled:
    """Four simulated registries, 4,000 patients."""
    sites = tuple(SiteSpec(f"s{at}", 1000, Schedule.RECLAIM, interval_mo=6.0) for at in range(4))
    consortium = simulate(Preset("pooled", sites), 1)
    values, labels, ids, truth = [], [], [], []
    for site in consortium.sites:
        cohort = TASK.cohort_of(site.tables)
        found = index_visits(site.tables, TASK.records)
        episodes = found.only(outcome_of(site.tables, found).known)
        assert episodes.patients == cohort.patient_ids
        values.append(cohort.values)
        labels.append(cohort.labels)
        ids += [f"{site.site_id}-{name}" for name in cohort.patient_ids]
        truth.append(oracle_scores(consortium.truth[site.site_id], episodes))
    return np.concatenate(values), np.concatenate(labels), tuple(ids), np.concatenate(truth)


@pytest.fixture(scope="module")
def baseline_and_ceiling(pooled: Pooled) -> tuple[float, float]:
    """AUROC of what is to beat, and of who knows the truth of the day."""
    x, y, names, known = pooled
    out = held_out_mask(names, SALT, 0.4)
    base = auc(y[out], trained_scores(pooled, BASELINE)[out])
    last = x[:, CONTRACT.column_names.index("edss_last")]
    # Who knows the true disability knows by how much today's score is too low, and who knows the hazard knows the rest.
    inputs = np.column_stack([known[:, 0], known[:, 0] + known[:, 1] - last, known[:, 1], np.log(known[:, 2])])
    inputs = np.column_stack([(inputs - inputs.mean(axis=0)) / inputs.std(axis=0), np.ones(len(inputs))])
    weights = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200)
    z, target = torch.from_numpy(inputs[~out]), torch.from_numpy(y[~out].astype(np.float64))

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        loss = TASK.loss(z @ weights, target).mean()
        loss.backward()
        return loss

    optimiser.step(step)
    return base, auc(y[out], inputs[out] @ weights.detach().numpy())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_name", "groups"),
    [("logistic", ("core",)), ("spline", ("core",)), ("mlp", ("core",)), ("gru", ("core", "visits")),
     ("transformer", ("core", "visits"))],
)  # fmt: skip
def test_four_thousand_patients_teach_each_model_more_than_the_baseline_and_less_than_the_truth(
    pooled: Pooled, baseline_and_ceiling: tuple[float, float], model_name: str, groups: tuple[str, ...]
) -> None:
    base, ceiling = baseline_and_ceiling
    _, labels, names, _ = pooled
    out = held_out_mask(names, SALT, 0.4)
    found = auc(labels[out], trained_scores(pooled, expanded(groups), model_name)[out])
    assert found > max(0.64, base + 0.02)
    assert found < ceiling < 0.9
