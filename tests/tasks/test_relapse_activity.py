"""`relapse_activity`: a patient counts for as long as he was watched, in figures if that was to the end; no input knows later."""

import math
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
from scipy.optimize import brentq, minimize

from tasks.base import Task
from tasks.cohorts import ReadsTables
from tasks.episodes.index import index_visits
from tasks.episodes.inputs import episode_values
from tasks.episodes.past import Episodes, numbers, past_of
from tasks.episodes.routine import CORE
from tasks.errors import DataError
from tasks.features import Design
from tasks.models import initial_parameters, load_parameters
from tasks.predicting.bedside import Calibrates
from tasks.registry import get_task
from tasks.relapse_activity.outcome import SHORT, UNRECORDED, outcome_of
from tasks.relapse_activity.scoring import Watched
from tasks.relapse_activity.task import CONTRACT, TASK
from tasks.scoring.base import NOWHERE, Scored, summed
from tasks.scoring.binary import BinaryScoring
from tasks.simulator import Preset, Schedule, SiteSpec, simulate, simulate_site
from tasks.splits import held_out_mask

Tables = dict[str, pd.DataFrame]
SALT = b"a salt of the consortium"


@pytest.fixture(scope="module")
def registry() -> Tables:
    site, _ = simulate_site(SiteSpec("registry", 300, Schedule.RECLAIM, interval_mo=6.0), 5)
    return dict(site.tables)


def tables_of(days: tuple[int, ...], relapses: tuple[int, ...] = (), course: str = "RRMS") -> Tables:
    """One patient, seen on these days, EDSS 2 each time."""
    known = {"sex": "F", "birth_year": 1975, "year_band": "2015-2017", "onset_day": -700, "phenotype_entry": course}
    visits = pd.DataFrame({"patient_id": "a", "day": days, "visit_id": [str(day) for day in days], "edss": 2.0})
    onsets = pd.DataFrame({"patient_id": ["a"] * len(relapses), "onset_day": list(relapses), "end_day": [None] * len(relapses)})
    return {"patients": pd.DataFrame([{"patient_id": "a", **known}]), "visits": visits, "relapses": onsets}


def label_of(tables: Tables) -> tuple[float, float] | str:
    """Of the day 0: (any relapse, days watched), or why there is no label."""
    found = outcome_of(tables, Episodes(("a",), np.array([0])))
    reasons = [reason for reason, count in found.left_out.items() if count]
    assert len(reasons) <= 1
    return reasons[0] if reasons else (float(found.labels[0, 0]), float(found.labels[0, 1] * 730))


# The label


@pytest.mark.parametrize(
    ("days", "relapses", "expected"),
    [
        ((0, 400, 730), (), (0.0, 730.0)),  # watched to the last day
        ((0, 400, 1500), (), (0.0, 730.0)),
        ((0, 400, 729), (), (0.0, 729.0)),  # a day short
        ((0, 400, 1500), (730,), (1.0, 730.0)),  # on the last day
        ((0, 400, 1500), (731,), (0.0, 730.0)),  # a day later
        ((0, 400, 1500), (1,), (1.0, 730.0)),
        ((0, 400, 1500), (0,), (0.0, 730.0)),  # on the day itself: it is known then
        ((0, 400, 1500), (-30,), (0.0, 730.0)),
        ((0, 400), (200,), (1.0, 400.0)),
        ((0, 400), (450,), (0.0, 400.0)),  # after the last visit: who goes on being watched after leaving does so because of it
        ((0, 90), (), (0.0, 90.0)),
        ((0, 89), (), SHORT),
        ((0, 89), (50,), SHORT),  # with a relapse as without
        ((0,), (), SHORT),
        ((0, 1500), (100, 200, 600), (1.0, 730.0)),  # several are one answer
    ],
)
def test_the_label_is_any_relapse_and_how_long_somebody_watched(
    days: tuple[int, ...], relapses: tuple[int, ...], expected: tuple[float, float] | str
) -> None:
    assert label_of(tables_of(days, relapses)) == expected


def test_a_hospital_without_the_table_relapses_has_no_label_at_all() -> None:
    tables = tables_of((-200, 0, 800))
    del tables["relapses"]
    assert label_of(tables) == UNRECORDED
    with pytest.raises(DataError, match="needs the table relapses"):
        TASK.cohort_of(tables)


def test_rows_that_a_rule_filled_in_neither_watch_nor_relapse() -> None:
    tables = tables_of((0, 400, 730), (300,))
    tables["visits"]["quality"] = ["ok", "ok", "imputed"]
    assert label_of(tables) == (1.0, 400.0)
    tables["relapses"]["quality"] = ["imputed"]
    assert label_of(tables) == (0.0, 400.0)


def test_each_episode_is_judged_as_plain_loops_over_its_own_patient_judge_it(registry: Tables) -> None:
    episodes = TASK.episodes(registry)
    found = outcome_of(registry, episodes)
    assert len(episodes) == found.known.sum() + sum(found.left_out.values()) > 300
    for at, (name, t0) in enumerate(zip(episodes.patients, episodes.days.tolist(), strict=True)):
        seen = max(registry["visits"].loc[registry["visits"]["patient_id"] == name, "day"].tolist())
        end = min(seen, t0 + 730)
        onsets = registry["relapses"].loc[registry["relapses"]["patient_id"] == name, "onset_day"].tolist()
        expected = [float(any(t0 < day <= end for day in onsets)), (end - t0) / 730] if seen >= t0 + 90 else [np.nan, np.nan]
        assert np.array_equal(found.labels[at], expected, equal_nan=True)
    assert 0.2 < np.nanmean(found.labels[:, 0]) < 0.5
    assert np.nanmin(found.labels[:, 1]) < 0.5


# Who and what


def test_only_days_with_a_relapsing_course_count_as_it_was_known_then(registry: Tables) -> None:
    chosen, everybody = TASK.episodes(registry), index_visits(registry, TASK.records)
    assert 0 < len(chosen) < len(everybody)
    course = episode_values(past_of(registry, chosen, ("visits",)), [CONTRACT.column("phenotype")])
    assert np.all(course == 1)
    for known in ("CIS", "SPMS", "PPMS"):
        with pytest.raises(DataError, match="no patient has an episode"):
            TASK.cohort_of(tables_of((-200, 0, 800), course=known))
    assert len(TASK.cohort_of(tables_of((-200, 0, 800))).labels) == 1
    # A later change of course takes no day away.
    changed = tables_of((-200, 0, 800))
    changed["visits"]["phenotype"] = ["RRMS", "RRMS", "SPMS"]
    assert len(TASK.cohort_of(changed).labels) == 1


def planted(tables: Tables, episodes: Episodes) -> Tables:
    """The same until each patient's day, and afterwards something else in every table that inputs are made of."""
    t0 = dict(zip(episodes.patients, episodes.days.tolist(), strict=True))
    found = dict(tables)
    for name, day, column, value in (
        ("visits", "day", "edss", 9.0), ("relapses", "onset_day", "severity", "severe"),
        ("treatments", "start_day", "dmt_class", "high"), ("mri", "day", "gd_count", 9.0), ("biomarkers", "day", "z_age_bmi", 5.0),
    ):  # fmt: skip
        rows = tables[name]
        later = numbers(rows, day) > rows["patient_id"].map(t0).to_numpy(float)
        assert later.sum() > 20
        again = rows[later].assign(**{day: rows[later][day] + 1})
        found[name] = pd.concat([rows.assign(**{column: rows[column].mask(later, value)}), again], ignore_index=True)
    return found


def test_what_comes_later_moves_labels_and_no_input(registry: Tables) -> None:
    episodes = first_of_each(TASK.episodes(registry))
    changed = planted(registry, episodes)
    columns = [column for column in CONTRACT.columns if column.name in CHOSEN]
    before, after = (
        TASK.inputs(past_of(tables, episodes, ("visits", "relapses", "treatments", "mri", "biomarkers")), columns)
        for tables in (registry, changed)
    )
    assert np.array_equal(before, after, equal_nan=True)
    none = {**registry, "relapses": registry["relapses"].iloc[:0]}
    assert not np.array_equal(outcome_of(registry, episodes).labels, outcome_of(none, episodes).labels, equal_nan=True)


def first_of_each(episodes: Episodes) -> Episodes:
    first = np.zeros(len(episodes), dtype=bool)
    first[np.unique(episodes.owners, return_index=True)[1]] = True
    return episodes.only(first)


CHOSEN = tuple(yaml.safe_load((resources.files("conf") / "task" / "relapse_activity.yaml").read_text(encoding="utf-8"))["columns"])


@pytest.mark.parametrize("name", ["relapse_activity", "relapse_activity_baseline"])
def test_the_configuration_names_routine_columns_of_the_contract(name: str) -> None:
    found = yaml.safe_load((resources.files("conf") / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert found["name"] == "relapse_activity"
    assert set(found["columns"]) <= {column.name for column in CORE}
    assert TASK.build_model(found["model"], found["options"], found["columns"]) is not None


def test_it_is_a_task_on_the_contract_s_tables_that_plans_without_pandas() -> None:
    assert get_task("relapse_activity") is TASK
    assert isinstance(TASK, Task)
    assert isinstance(TASK, ReadsTables)
    code = (
        "import sys; from tasks.registry import get_task; t = get_task('relapse_activity'); t.build_model('logistic', {}); "
        "t.scoring(16); print('pandas' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert found.stdout.split() == ["False"]


def test_a_cohort_holds_both_numbers_and_its_report_counts_relapses(registry: Tables) -> None:
    cohort = TASK.cohort_of(registry)
    assert cohort.labels.shape == (len(cohort.patient_ids), 2)
    assert cohort.report.label_counts == (int((cohort.labels[:, 0] == 0).sum()), int((cohort.labels[:, 0] == 1).sum()))
    assert SHORT in cohort.report.to_text()
    assert np.bincount(cohort.owners).max() <= TASK.records


# The loss


def test_who_is_watched_to_the_end_has_cross_entropy() -> None:
    logits, y = torch.linspace(-8, 8, 17), torch.tensor([0.0, 1.0] * 8 + [1.0])
    found = TASK.loss(logits, torch.stack([y, torch.ones(17)], dim=1))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none")
    assert torch.allclose(found, expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.floats(-20, 20), st.floats(0.1, 1.0), st.booleans())
def test_a_part_of_the_time_has_its_part_of_the_chance(logit: float, share: float, relapsed: bool) -> None:
    """Against the formula in double precision: nothing for a share s with probability (1 - p)^s."""
    none = math.exp(-share * math.log1p(math.exp(logit)))
    chance = -math.expm1(-share * math.log1p(math.exp(logit))) if relapsed else none
    found = TASK.loss(torch.tensor([logit], dtype=torch.float64), torch.tensor([[float(relapsed), share]], dtype=torch.float64))
    assert found.item() == pytest.approx(-math.log(chance), rel=1e-6, abs=1e-9)


def test_the_best_constant_is_the_maximum_likelihood_estimate_of_the_yearly_rate() -> None:
    """With a constant hazard, half of the people watched for half the time: the estimate solves the score equation."""
    share = torch.tensor([1.0] * 6 + [0.5] * 6)
    y = torch.tensor([1.0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0])

    def total(logit: float) -> float:
        return float(TASK.loss(torch.full((12,), logit, dtype=torch.float64), torch.stack([y, share], dim=1).double()).sum())

    best = minimize(lambda x: total(float(x[0])), [0.0], tol=1e-12).x[0]
    # d/dh of sum over relapses of log(1 - exp(-s h)) - sum over the others of s h
    h = brentq(lambda h: 2 / math.expm1(h) + 0.5 / math.expm1(h / 2) - 4 * 1.0 - 5 * 0.5, 1e-3, 10)
    assert math.log1p(math.exp(best)) == pytest.approx(h, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([-3e38, -1e4, -1.0, 0.0, 1.0, 1e4, 3e38]), st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.5, 1.0]))
def test_loss_and_gradient_are_finite_whatever_a_model_says(logit: float, relapsed: float, share: float) -> None:
    output = torch.tensor([logit], requires_grad=True)
    loss = TASK.loss(output, torch.tensor([[relapsed, share]]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert abs(output.grad.item()) <= 1.0 + 1e-6  # no relapse moves a model further than a wrong yes or no does


# The figures


def test_who_was_not_watched_to_the_end_is_in_no_figure() -> None:
    """Relapse or not: among those left out, too, some would have had one."""
    labels = np.array([[0, 1], [1, 1], [0, 0.5], [1, 0.5], [1, 1]], dtype=np.float32)
    scored = Scored(np.array([-1.0, 1.0, 5.0, -5.0, 0.2]), labels, np.full((5, len(CONTRACT.columns)), np.nan))
    places = TASK.scoring(16).places(scored)
    assert np.array_equal(places[:, 0] == NOWHERE, [False, False, True, True, False])
    kept = labels[:, 1] == 1
    plain = TASK.scoring(16).yes_no.places(Scored(scored.outputs[kept], labels[kept, 0], scored.values[kept]))
    assert np.array_equal(places[kept], plain)
    whole = summed(TASK.scoring(16), scored, np.ones(5, dtype=np.intp), 20)
    assert whole.sum() == 3 << 20


def test_its_figures_are_those_of_a_yes_no_outcome_with_groups() -> None:
    scoring = TASK.scoring(16, ("sex",))
    assert isinstance(scoring, Watched)
    assert isinstance(scoring.yes_no, BinaryScoring)
    assert (scoring.primary, scoring.lower_is_better) == ("auc", False)
    assert len(scoring.weights) == 2
    histogram = np.zeros(TASK.scoring(16).cells)
    histogram[[3, 20]] = 10.0
    assert TASK.scoring(16).figures(histogram)["auc"] == 1.0


# What can be learnt


def fitted(values: np.ndarray, labels: np.ndarray, train: np.ndarray, columns: tuple[str, ...]) -> np.ndarray:
    """Logits of all episodes, of the logistic model trained without noise on `train`."""
    design = Design(CONTRACT, columns)
    inputs = torch.from_numpy(
        design.encode(values, *design.statistics_to_buffers(design.describe_vectors(values[train]).sum(axis=0)))
    )
    model = TASK.build_model("logistic", {}, columns)
    load_parameters(model, initial_parameters(model, 1))
    truth, chosen = torch.from_numpy(labels.astype(np.float32)), torch.from_numpy(train)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=200)

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        loss = TASK.loss(model(inputs[chosen]), truth[chosen]).mean() + 1e-3 * sum((p**2).sum() for p in model.parameters())
        loss.backward()
        return loss

    optimiser.step(step)
    with torch.no_grad():
        return model(inputs).double().numpy()


def figures_of(logits: np.ndarray, labels: np.ndarray, values: np.ndarray) -> dict[str, float]:
    scoring = TASK.scoring(200)
    histogram = summed(scoring, Scored(logits, labels, values), np.ones(len(labels), dtype=np.intp), 20) / 2.0**20
    return dict(scoring.figures(histogram))


@pytest.mark.slow
def test_four_thousand_patients_teach_more_than_last_year_s_relapses_and_less_than_the_true_hazard() -> None:
    sites = tuple(SiteSpec(f"s{at}", 1000, Schedule.RECLAIM, interval_mo=6.0) for at in range(4))
    consortium = simulate(Preset("pooled", sites), 1)
    cohorts = [TASK.cohort_of(site.tables) for site in consortium.sites]
    hazards = []
    for site in consortium.sites:
        episodes = TASK.episodes(site.tables)
        episodes = episodes.only(outcome_of(site.tables, episodes).known)
        states = consortium.truth[site.site_id].tables["truth_states"].drop_duplicates(["patient_id", "day"])
        of_day = pd.DataFrame({"patient_id": episodes.patients, "day": episodes.days}).merge(states, how="left")
        hazards.append(of_day["relapse_hazard"].to_numpy(float))
    values, labels = (np.concatenate([getattr(cohort, name) for cohort in cohorts]) for name in ("values", "labels"))
    names = tuple(f"{at}-{name}" for at, cohort in enumerate(cohorts) for name in cohort.patient_ids)
    out = held_out_mask(names, SALT, 0.4)
    found = {
        name: figures_of(fitted(values, labels, ~out, columns)[out], labels[out], values[out])
        for name, columns in (("model", CHOSEN), ("baseline", ("relapses_1y",)))
    }
    hazard = np.concatenate(hazards)
    ceiling = figures_of(np.log(np.expm1(2 * hazard[out])), labels[out], values[out])  # of a relapse within two years at this rate
    assert found["model"]["auc"] > found["baseline"]["auc"] + 0.05
    assert 0.64 < found["model"]["auc"] < ceiling["auc"] < 0.85
    assert 0.85 < found["model"]["calibration_slope"] < 1.15
    assert found["model"]["net_benefit_30"] > found["baseline"]["net_benefit_30"]


def test_its_histogram_calibrates_predictions_and_is_drawn_as_a_calibration() -> None:
    scoring, cells = TASK.scoring(4), np.array([9.0, 6, 3, 1, 1, 2, 5, 8])
    assert isinstance(scoring, Calibrates)
    (groups,) = scoring.calibration_groups(cells, 1.5).values()
    assert [(group.patients, group.events, group.noise) for group in groups] == [
        (10, 1, 1.5),
        (8, 2, 1.5),
        (8, 5, 1.5),
        (9, 8, 1.5),
    ]
    assert scoring.calibration(cells)[0].observed == pytest.approx(0.1)
