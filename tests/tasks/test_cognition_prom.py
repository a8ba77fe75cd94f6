"""`cognition_prom`: the score of a year later, nobody imputed, foretold as a change from the last one; no input knows later."""

import subprocess
import sys
from importlib import resources

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.base import Task
from tasks.cognition_prom.inputs import score_values
from tasks.cognition_prom.measures import MSIS29, SDMT, Measure
from tasks.cognition_prom.outcome import UNSEEN, outcome_of
from tasks.cognition_prom.scores import scores_of
from tasks.cognition_prom.task import MSIS29_TASK, TASK, NextScore
from tasks.cohorts import ReadsTables
from tasks.episodes.past import Episodes, past_of
from tasks.errors import ContractError, DataError
from tasks.features import Design
from tasks.models import initial_parameters, load_parameters
from tasks.registry import get_task
from tasks.scoring.base import Scored, summed
from tasks.simulator import Preset, Schedule, SiteSpec, simulate, simulate_site
from tasks.splits import held_out_mask

Tables = dict[str, pd.DataFrame]
SALT = b"a salt of the consortium"
Scores = dict[int, float | None]


@pytest.fixture(scope="module")
def clinic() -> Tables:
    """A site that takes SDMT and MSIS-29 at most visits."""
    site, _ = simulate_site(SiteSpec("clinic", 300, Schedule.CLINNOVA, interval_mo=6.0), 5)
    return dict(site.tables)


def tables_of(scores: Scores, measure: Measure = SDMT, edss: float | None = 2.0) -> Tables:
    """One patient, seen on these days, EDSS 2 each time."""
    known = {"sex": "F", "birth_year": 1975, "year_band": "2015-2017", "onset_day": -700, "phenotype_entry": "RRMS"}
    visits = pd.DataFrame({"patient_id": "a", "day": list(scores), "visit_id": [str(day) for day in scores], "edss": edss})
    found = {"patients": pd.DataFrame([{"patient_id": "a", **known}]), "visits": visits}
    values = pd.array(list(scores.values()), dtype="Float64")
    if measure is SDMT:
        return {**found, "visits": visits.assign(sdmt_n=values)}
    rows = {"patient_id": "a", "day": list(scores), "instrument": measure.instrument, "item": "total", "score": values}
    return {**found, "proms": pd.DataFrame(rows)}


def label_of(scores: Scores, measure: Measure = SDMT) -> tuple[float, float] | str:
    """Of the day 0: (score in a year, last score), or why there is none."""
    found = outcome_of(tables_of(scores, measure), Episodes(("a",), np.array([0])), measure)
    return UNSEEN if found.left_out[UNSEEN] else (float(found.labels[0, 0]), float(found.labels[0, 1]))


# The label


@pytest.mark.parametrize("measure", [SDMT, MSIS29], ids=["sdmt", "msis29"])
@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({0: 50, 365: 47}, (47.0, 50.0)),
        ({-90: 52, 0: None, 365: 47}, (47.0, 52.0)),  # the last one known
        ({-90: 52, 0: 50, 300: 49, 380: 46}, (46.0, 50.0)),  # the nearer to a year
        ({0: 50, 355: 49, 375: 46}, (49.0, 50.0)),  # of two equally near the earlier
        ({0: 50, 274: 49}, (49.0, 50.0)),
        ({0: 50, 273: 49}, UNSEEN),
        ({0: 50, 456: 49}, (49.0, 50.0)),
        ({0: 50, 457: 49}, UNSEEN),
        ({0: 50, 365: None}, UNSEEN),
        ({0: 50}, UNSEEN),
        ({365: 47}, UNSEEN),  # no last score
    ],
)
def test_the_label_is_the_score_nearest_to_a_year_later_and_the_last_one(
    measure: Measure, scores: Scores, expected: tuple[float, float] | str
) -> None:
    assert label_of(scores, measure) == expected


@pytest.mark.parametrize(
    ("measure", "later", "worse"), [(SDMT, 46, 1), (SDMT, 47, 0), (SDMT, 54, 0), (MSIS29, 58, 1), (MSIS29, 57, 0), (MSIS29, 42, 0)]
)
def test_an_event_is_a_change_for_the_worse_that_matters(measure: Measure, later: float, worse: int) -> None:
    """Four points of SDMT down, eight of MSIS-29 up."""
    found = outcome_of(tables_of({0: 50, 365: later}, measure), Episodes(("a",), np.array([0])), measure)
    assert found.happened.tolist() == [worse]


def test_each_episode_is_judged_as_plain_loops_over_its_own_patient_judge_it(clinic: Tables) -> None:
    episodes = TASK.episodes(clinic)
    found, visits = outcome_of(clinic, episodes, SDMT), clinic["visits"]
    for at, (name, t0) in enumerate(zip(episodes.patients, episodes.days.tolist(), strict=True)):
        rows = visits[(visits["patient_id"] == name) & visits["sdmt_n"].notna()]
        mine = sorted(zip(rows["day"].tolist(), rows["sdmt_n"].tolist(), strict=True))
        last = [score for day, score in mine if day <= t0][-1]
        later = sorted((abs(day - t0 - 365), day, score) for day, score in mine if 274 <= day - t0 <= 456)
        assert np.array_equal(found.labels[at], [later[0][2] if later else np.nan, last], equal_nan=True)
    assert found.known.sum() > 80
    assert found.left_out[UNSEEN] == (~found.known).sum() > 0


def test_what_a_rule_filled_in_or_two_values_of_one_day_contradict_is_no_score() -> None:
    tables = tables_of({0: 50, 365: 47})
    tables["visits"]["quality"] = ["ok", "imputed"]
    assert len(scores_of(tables, SDMT)) == 1
    twice = tables_of({0: 50, 365: 47})
    twice["visits"] = pd.concat([twice["visits"], twice["visits"].assign(sdmt_n=[50.0, 48.0])], ignore_index=True)
    assert scores_of(twice, SDMT)["score"].tolist() == [50.0]  # said twice alike; of 47 and 48 neither


def test_only_the_total_of_the_questionnaire_counts() -> None:
    tables = tables_of({0: 50, 365: 47}, MSIS29)
    other = tables["proms"].assign(instrument="MSIS29_psych", score=9.0)
    item = tables["proms"].assign(item="q7", score=3.0)
    mixed = {**tables, "proms": pd.concat([other, tables["proms"], item], ignore_index=True)}
    assert scores_of(mixed, MSIS29)["score"].tolist() == [50.0, 47.0]


# The days


@pytest.mark.parametrize(
    ("scores", "days"),
    [
        ({-365: 50, 0: 50, 365: 50}, [0, 365]),
        ({-365: 50, 0: None, 400: 50}, [0, 400]),  # scored in the year before, though not on the day
        ({-366: 50, 0: None, 400: 50}, [400]),  # a day longer ago
        ({0: 50, 365: 50}, [365]),
    ],
)
def test_a_day_counts_with_a_score_in_the_year_before(scores: Scores, days: list[int]) -> None:
    assert TASK.episodes(tables_of(scores)).days.tolist() == days
    assert TASK.present(tables_of(scores)).days.tolist() == days[-1:]


def test_later_scores_neither_add_nor_move_a_day(clinic: Tables) -> None:
    episodes = TASK.episodes(clinic)
    visits = clinic["visits"]
    for t0 in (300, 500):
        cut = {**clinic, "visits": visits.assign(sdmt_n=visits["sdmt_n"].where(visits["day"] <= t0))}
        known = [(name, day) for name, day in zip(*(episodes.patients, episodes.days.tolist()), strict=True) if day <= t0]
        found = TASK.episodes(cut)
        assert [pair for pair in zip(found.patients, found.days.tolist(), strict=True) if pair[1] <= t0] == known
        assert known


def test_a_site_without_the_measure_says_so() -> None:
    with pytest.raises(DataError, match="the score on two days"):
        TASK.cohort_of(tables_of({-200: None, 0: None, 365: None}))
    with pytest.raises(DataError, match="the score on two days"):
        MSIS29_TASK.cohort_of(tables_of({-200: 50, 0: 50, 365: 50}))


# The inputs


def test_the_patient_s_own_scores_as_computed_by_hand() -> None:
    tables = tables_of({-1500: 60, -365: 52, -183: 54, 0: None, 20: 10})
    found = score_values(past_of(tables, Episodes(("a",), np.array([0])), ("visits",)), SDMT)
    assert found["sdmt_last"].tolist() == [54.0]
    assert found["sdmt_mean"].tolist() == [53.0]  # of 36 months
    assert found["sdmt_slope"][0] == pytest.approx(2 / (182 / 365.25))
    assert found["sdmt_count"].tolist() == [3.0]  # of all times: who has done it often is practised
    assert found["sdmt_months_since"][0] == pytest.approx(183 / 365.25 * 12)


def test_slopes_are_those_of_least_squares(clinic: Tables) -> None:
    episodes = TASK.episodes(clinic)
    found = score_values(past_of(clinic, episodes, ("visits",)), SDMT)["sdmt_slope"]
    scores = scores_of(clinic, SDMT)
    checked = 0
    for at, (name, t0) in enumerate(zip(episodes.patients, episodes.days.tolist(), strict=True)):
        mine = scores[(scores["patient_id"] == name) & (scores["day"] <= t0) & (scores["day"] > t0 - 1096)]
        if len(mine) >= 2:
            assert found[at] == pytest.approx(np.polyfit(mine["day"] / 365.25, mine["score"], 1)[0], abs=1e-6)
            checked += 1
        else:
            assert np.isnan(found[at])
    assert checked > 50


@pytest.mark.parametrize("task", [TASK, MSIS29_TASK], ids=lambda task: task.name)
def test_what_comes_later_moves_labels_and_no_input(task: NextScore, clinic: Tables) -> None:
    whole = task.episodes(clinic)
    first = np.zeros(len(whole), dtype=bool)
    first[np.unique(whole.owners, return_index=True)[1]] = True
    episodes = whole.only(first)
    t0 = dict(zip(episodes.patients, episodes.days.tolist(), strict=True))
    changed = dict(clinic)
    for name, column in (("visits", "sdmt_n"), ("proms", "score"), ("visits", "edss")):
        rows = changed[name]
        later = rows["day"].to_numpy(float) > rows["patient_id"].map(t0).to_numpy(float)
        assert later.sum() > 100
        changed[name] = rows.assign(**{column: rows[column].mask(later, 9.0)})
    chosen = [task.contract.column(name) for name in columns_of(task.name)]
    before, after = (task.inputs(past_of(tables, episodes, ("visits", "proms")), chosen) for tables in (clinic, changed))
    assert np.array_equal(before, after, equal_nan=True)
    labels = [outcome_of(tables, episodes, task.measure).labels for tables in (clinic, changed)]
    assert not np.array_equal(labels[0][:, 0], labels[1][:, 0], equal_nan=True)
    assert np.array_equal(labels[0][:, 1], labels[1][:, 1], equal_nan=True)


def columns_of(name: str) -> tuple[str, ...]:
    return tuple(yaml.safe_load((resources.files("conf") / "task" / f"{name}.yaml").read_text(encoding="utf-8"))["columns"])


@pytest.mark.parametrize("name", ["cognition_prom", "cognition_prom_baseline", "prom_msis29"])
def test_the_configuration_names_columns_of_the_contract(name: str) -> None:
    found = yaml.safe_load((resources.files("conf") / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
    task = get_task(found["name"])
    assert task.build_model(found["model"], found["options"], found["columns"]) is not None
    assert task.scoring(found["histogram_bins"]).cells % 2 == 0
    assert task.contract.modalities(found["columns"]) == (("clinical", "questionnaires") if "msis" in name else ("clinical",))


def test_the_last_score_of_the_label_is_the_input_of_that_name(clinic: Tables) -> None:
    cohort = TASK.cohort_of(clinic)
    assert cohort.labels.shape == (len(cohort.patient_ids), 2)
    assert np.array_equal(cohort.labels[:, 1], cohort.values[:, TASK.contract.column_names.index("sdmt_last")].astype(np.float32))
    assert np.bincount(cohort.owners).max() <= TASK.records
    dropped = cohort.labels[:, 1] - cohort.labels[:, 0] >= 4
    assert cohort.report.label_counts == (int((~dropped).sum()), int(dropped.sum()))


def test_they_are_tasks_on_the_contract_s_tables_that_plan_without_pandas() -> None:
    for name, task in (("cognition_prom", TASK), ("prom_msis29", MSIS29_TASK)):
        assert get_task(name) is task
        assert isinstance(task, Task)
        assert isinstance(task, ReadsTables)
    code = (
        "import sys; from tasks.registry import get_task; t = get_task('cognition_prom'); t.build_model('linear', {}); "
        "t.scoring(16); print('pandas' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert found.stdout.split() == ["False"]


# The loss, the figures, what is said


@settings(max_examples=60, deadline=None)
@given(st.floats(-30, 30), st.integers(0, 110), st.integers(0, 110))
def test_the_loss_is_huber_s_in_steps(output: float, later: int, last: int) -> None:
    off = abs(output - (later - last) / 4)
    found = TASK.loss(torch.tensor([output], dtype=torch.float64), torch.tensor([[later, last]], dtype=torch.float64))
    assert found.item() == pytest.approx(off**2 / 2 if off <= 1 else off - 0.5, abs=1e-9)


@pytest.mark.parametrize("output", [-3e38, 0.0, 3e38])
def test_loss_and_gradient_are_finite_whatever_a_model_says(output: float) -> None:
    given_ = torch.tensor([output], requires_grad=True)
    loss = TASK.loss(given_, torch.tensor([[1.0, 0.0]]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert abs(given_.grad.item()) <= 1.0


def test_a_model_that_says_nothing_changes_has_the_error_of_the_last_score(clinic: Tables) -> None:
    cohort = TASK.cohort_of(clinic)
    n = len(cohort.labels)
    scoring = TASK.scoring(512)
    histogram = summed(scoring, Scored(np.zeros(n), cohort.labels, cohort.values), np.ones(n, dtype=np.intp), 20) / 2.0**20
    figures = scoring.figures(histogram)
    later, last = cohort.labels.astype(float).T
    assert figures["mae"] == pytest.approx(figures["mae_last"], rel=1e-6)
    assert figures["mae"] == pytest.approx(np.abs(later - last).mean(), rel=0.01)
    assert figures["mae_mean"] == pytest.approx(np.abs(later - later.mean()).mean(), rel=0.01)
    assert (scoring.primary, scoring.lower_is_better) == ("mae", True)


def test_there_are_errors_by_sex_and_age(clinic: Tables) -> None:
    cohort = TASK.cohort_of(clinic)
    n = len(cohort.labels)
    scoring = TASK.scoring(256, ("age", "sex"))
    scored = Scored(np.zeros(n), cohort.labels, cohort.values)
    figures = scoring.figures(summed(scoring, scored, np.ones(n, dtype=np.intp), 20) / 2.0**20)
    women = cohort.values[:, TASK.contract.column_names.index("female")] == 1
    later, last = cohort.labels.astype(float).T
    assert figures["mae[sex=F]"] == pytest.approx(np.abs(later - last)[women].mean(), rel=0.02)


def test_a_change_is_foretold_in_points_and_unknown_models_are_refused() -> None:
    found = TASK.foretold(torch.tensor([-0.5]))["sdmt_change_1y"]
    assert (found.values.tolist(), found.unit) == ([-2.0], "points")
    with pytest.raises(ContractError, match="unknown model 'ridge'"):
        TASK.build_model("ridge", {})


# What can be learnt


def error_of(name: str, values: np.ndarray, labels: np.ndarray, out: np.ndarray) -> float:
    """Mean absolute error in the patients held out, of the linear model with the columns of the configuration, without noise."""
    columns = columns_of(name)
    design = Design(TASK.contract, columns)
    buffers = design.statistics_to_buffers(design.describe_vectors(values[~out]).sum(axis=0))
    inputs, truth, train = torch.from_numpy(design.encode(values, *buffers)), torch.from_numpy(labels), torch.from_numpy(~out)
    model = TASK.build_model("linear", {}, columns)
    load_parameters(model, initial_parameters(model, 1))
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=100)

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        loss = TASK.loss(model(inputs[train]), truth[train]).mean()
        loss.backward()
        return loss

    optimiser.step(step)
    with torch.no_grad():
        predicted = labels[:, 1] + 4 * model(inputs).numpy()
    return float(np.abs(predicted - labels[:, 0])[out].mean())


@pytest.mark.slow
def test_simulated_patients_are_foretold_better_than_by_their_last_score_and_worse_than_by_their_truth() -> None:
    """Who knew the true mean of each score would still be off by its error of measurement: the simulator's is 3 points."""
    sites = tuple(SiteSpec(f"s{at}", 1000, Schedule.RECLAIM, interval_mo=6.0) for at in range(4))
    consortium = simulate(Preset("pooled", sites), 1)
    cohorts = [TASK.cohort_of(site.tables) for site in consortium.sites]
    values, labels = (np.concatenate([getattr(cohort, name) for cohort in cohorts]) for name in ("values", "labels"))
    out = held_out_mask(tuple(f"{at}-{name}" for at, cohort in enumerate(cohorts) for name in cohort.patient_ids), SALT, 0.4)
    model, baseline = (error_of(name, values, labels, out) for name in ("cognition_prom", "cognition_prom_baseline"))
    last = float(np.abs(labels[:, 1] - labels[:, 0])[out].mean())
    least = 3.0 * np.sqrt(2 / np.pi)  # mean absolute value of that error
    assert least < model < baseline < last
    assert model < 0.95 * last
