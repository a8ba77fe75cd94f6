"""`treatment_response`: starts are chosen and described by their past alone; the label is arm, outcome and fold."""

import subprocess
import sys
from importlib import resources

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from client.engines import Shape, choose_engine
from tasks.base import Described, Task
from tasks.cdp_2y.outcome import outcome_of as worsened
from tasks.cohorts import ReadsTables
from tasks.effects.folds import folds_of
from tasks.effects.learners import EFFECT
from tasks.effects.pehe import true_relapse, true_worsening
from tasks.episodes.past import Episodes, past_of
from tasks.errors import ContractError, DataError
from tasks.features import Design
from tasks.predicting.base import Foretells
from tasks.registry import get_task
from tasks.simulator import RANDOMISED, Schedule, SiteSpec, SiteTruth, simulate_site
from tasks.splits import held_out_mask
from tasks.treatment_response.columns import COLUMNS, values_before
from tasks.treatment_response.outcome import UNWATCHED
from tasks.treatment_response.starts import WASHOUT_D, classes_of, new_starts
from tasks.treatment_response.task import MODIFIERS, RELAPSE, TASK

Tables = dict[str, pd.DataFrame]
CONFIGS = ("treatment_response", "treatment_response_constant", "treatment_response_relapse", "treatment_response_relapse_constant")


@pytest.fixture(scope="module")
def site() -> tuple[Tables, SiteTruth]:
    found, truth = simulate_site(SiteSpec("registry", 700, Schedule.RECLAIM, interval_mo=6.0), 5)
    return dict(found.tables), truth


@pytest.fixture(scope="module")
def registry(site: tuple[Tables, SiteTruth]) -> Tables:
    return site[0]


def tables_of(therapies: list[tuple[int, int | None, str]], edss_day: int = -30, birth_year: int = 1975) -> Tables:
    """One patient: therapies as (start, end, class), one EDSS before, others later."""
    person = {"patient_id": "a", "sex": "F", "birth_year": birth_year, "year_band": "2015-2017", "phenotype_entry": "RRMS"}
    visits = pd.DataFrame({"patient_id": "a", "day": [edss_day, 2000, 2500, 3000], "edss": 2.0})
    columns = ("start_day", "end_day", "dmt_class")
    rows = pd.DataFrame([dict(zip(columns, row, strict=True)) for row in therapies], columns=list(columns))
    rows = rows.assign(patient_id="a", drug="some drug").astype({"end_day": float})
    return {"patients": pd.DataFrame([person]), "visits": visits, "treatments": rows}


@pytest.mark.parametrize(
    ("therapies", "expected"),
    [
        ([(0, None, "platform")], [0]),
        ([(0, None, "high")], [0]),
        ([(0, None, "moderate")], []),
        ([(0, None, "induction")], []),
        ([(-500, -WASHOUT_D, "high"), (0, None, "high")], [0]),  # ended six months ago
        ([(-500, 1 - WASHOUT_D, "high"), (0, None, "high")], []),  # a day later
        ([(-500, -10, "moderate"), (0, None, "high")], []),  # any therapy: who escalates had no choice of platform
        ([(-500, None, "platform"), (0, None, "high")], []),  # one without an end goes on
        ([(0, 900, "platform"), (0, 900, "high")], []),  # both on one day: neither arm
        ([(0, 10, "platform"), (2005, None, "high")], [0, 2005]),
        ([(-600, -590, "platform"), (0, 10, "high"), (2010, None, "high")], [0, 2010]),  # no EDSS before the first
    ],
)
def test_a_start_counts_if_both_arms_were_open(therapies: list[tuple[int, int | None, str]], expected: list[int]) -> None:
    assert new_starts(tables_of(therapies), 2).days.tolist() == expected


def test_who_has_no_recent_edss_or_is_a_child_has_no_start() -> None:
    assert len(new_starts(tables_of([(0, None, "high")], edss_day=-183), 2)) == 0
    assert len(new_starts(tables_of([(0, None, "high")], edss_day=0), 2)) == 1
    assert len(new_starts(tables_of([(0, None, "high")], edss_day=1), 2)) == 0
    assert len(new_starts(tables_of([(0, None, "high")], birth_year=2005), 2)) == 0


def test_a_hospital_without_therapies_is_told_what_is_missing(registry: Tables) -> None:
    with pytest.raises(DataError, match="table treatments"):
        TASK.cohort_of({name: rows for name, rows in registry.items() if name != "treatments"})


def test_nothing_after_the_start_moves_a_start_or_an_input(registry: Tables) -> None:
    """Rows after a day are changed or taken away; starts up to it and their inputs stay bit by bit."""
    found = new_starts(registry, TASK.records)
    first = pd.Series(found.days, index=found.patients).groupby(level=0).min()
    day_of = {"visits": "day", "relapses": "onset_day", "treatments": "start_day", "mri": "day", "biomarkers": "day"}
    cut = dict(registry)
    for name, column in day_of.items():
        t0 = registry[name]["patient_id"].map(first)
        cut[name] = registry[name][~(registry[name][column] > t0)].reset_index(drop=True)
    assert sum(len(registry[name]) - len(cut[name]) for name in day_of) > 1000
    early = new_starts(cut, TASK.records)
    kept = Episodes(tuple(first.index), first.to_numpy())
    assert dict(zip(early.patients, early.days, strict=True)) == first.to_dict()
    order = [list(early.patients).index(name) for name in kept.patients]
    inputs = [
        values_before(past_of(tables, episodes, TASK.tables), COLUMNS) for tables, episodes in ((registry, kept), (cut, early))
    ]
    assert np.array_equal(inputs[0], inputs[1][order], equal_nan=True)


def test_the_therapy_that_begins_is_no_input(registry: Tables) -> None:
    """Classes and drugs of the starts are exchanged: arms turn over, inputs do not move."""
    episodes = new_starts(registry, TASK.records)
    began = set(zip(episodes.patients, episodes.days.tolist(), strict=True))
    rows = registry["treatments"]
    mine = [(name, day) in began for name, day in zip(rows["patient_id"], rows["start_day"], strict=True)]
    other = rows["dmt_class"].map({"platform": "high", "high": "platform"}).fillna(rows["dmt_class"])
    swapped = {**registry, "treatments": rows.assign(dmt_class=rows["dmt_class"].where(~np.array(mine), other))}
    before, after = classes_of(registry, episodes), classes_of(swapped, episodes)
    assert np.all(before != after)
    first = np.unique(episodes.owners, return_index=True)[1]  # a second start may look back on the first
    one, two = (values_before(past_of(tables, episodes, TASK.tables), COLUMNS)[first] for tables in (registry, swapped))
    assert np.array_equal(one, two, equal_nan=True)


def test_labels_are_arm_outcome_and_fold(registry: Tables) -> None:
    cohort, episodes = TASK.cohort_of(registry), new_starts(registry, TASK.records)
    known = ~np.isnan(worsened(registry, episodes).labels)
    assert cohort.patient_ids == episodes.only(known).patients
    assert cohort.labels.shape == (known.sum(), *TASK.label_shape)
    assert np.array_equal(cohort.labels[:, 0], (classes_of(registry, episodes) == "high")[known])
    assert np.array_equal(cohort.labels[:, 1], worsened(registry, episodes).labels[known])
    assert np.array_equal(cohort.labels[:, 2], folds_of(cohort.patient_ids))
    assert 0.2 < cohort.labels[:, 0].mean() < 0.8


def test_a_relapse_label_needs_two_watched_years_whatever_came(registry: Tables) -> None:
    cohort, episodes = RELAPSE.cohort_of(registry), new_starts(registry, RELAPSE.records)
    assert len(episodes) > 100
    last = registry["visits"].groupby("patient_id")["day"].max()
    onsets = registry["relapses"].groupby("patient_id")["onset_day"].apply(list)
    expected = []
    for name, t0 in zip(episodes.patients, episodes.days.tolist(), strict=True):
        if last[name] >= t0 + 730:
            expected.append((name, float(any(t0 < day <= t0 + 730 for day in onsets.get(name, [])))))
    assert list(zip(cohort.patient_ids, cohort.labels[:, 1].tolist(), strict=True)) == expected
    assert UNWATCHED in cohort.report.to_text()


def test_all_starts_of_a_patient_are_one_unit(registry: Tables) -> None:
    cohort = TASK.cohort_of(registry)
    counts = np.bincount(cohort.owners)
    assert counts.max() == TASK.records == 2
    assert np.all(np.diff(cohort.owners) >= 0)
    out, ids, fold = (
        held_out_mask(cohort.patient_ids, b"a salt of the consortium", 0.3),
        np.array(cohort.patient_ids),
        cohort.labels[:, 2],
    )
    assert not set(ids[out]) & set(ids[~out])
    for owner in np.flatnonzero(counts == 2):
        assert len(set(fold[cohort.owners == owner])) == 1


def test_height_and_weight_are_no_inputs_since_nobody_dates_them() -> None:
    assert not {"height_cm", "weight_kg"} & {column.name for column in COLUMNS}
    assert {"calendar_year", "relapses_1y", "gd_count_last", "t25fw_s_last"} <= {column.name for column in COLUMNS}


def test_inputs_are_within_their_ranges_and_mostly_known(registry: Tables) -> None:
    cohort = TASK.cohort_of(registry)
    for column, values in zip(COLUMNS, cohort.values.T, strict=True):
        known = values[~np.isnan(values)]
        assert len(known) > 5, column.name
        if column.kind == "numeric":
            assert column.limits[0] <= known.min() <= known.max() <= column.limits[1]


def test_they_are_tasks_on_the_contract_s_tables_that_plan_without_pandas() -> None:
    for name, task in (("treatment_response", TASK), ("treatment_response_relapse", RELAPSE)):
        assert get_task(name) is task
        assert isinstance(task, Task)
        assert isinstance(task, ReadsTables)
        assert isinstance(task, Described)
    code = (
        "import sys; from tasks.registry import get_task; get_task('treatment_response').build_model('r_linear', {}); "
        "print('pandas' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert found.stdout.split() == ["False"]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configuration_is_one_that_the_task_knows(name: str) -> None:
    found = yaml.safe_load((resources.files("conf") / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
    task = get_task(found["name"])
    assert tuple(found["columns"]) == tuple(column.name for column in COLUMNS)
    assert task.build_model(found["model"], found["options"], found["columns"]) is not None
    assert task.scoring(found["histogram_bins"]).cells <= 2 * 16_384
    assert "samples" not in task.contract.modalities(found["columns"])
    with pytest.raises(ContractError, match="no figures by age"):
        task.scoring(found["histogram_bins"], ("age",))


@pytest.mark.parametrize(("model", "options"), [("r_linear", {"scale": "relative"}), ("constant", {}), ("r_mlp", {})])
def test_a_fast_engine_serves_the_models(model: str, options: dict[str, str]) -> None:
    shape = Shape(TASK.records, (Design(TASK.contract).n_inputs,), TASK.label_shape)
    engine = choose_engine(TASK.build_model(model, options), TASK.loss, shape, patients=64)
    assert engine.name != "loop"


def test_what_the_simulator_knows_is_found_for_every_start(site: tuple[Tables, SiteTruth]) -> None:
    tables, truth = site
    episodes, starts = new_starts(tables, TASK.records), truth.tables["truth_starts"]
    effects = true_worsening(starts, episodes.patients, episodes.days)
    assert effects.shape == (len(episodes),)
    assert np.all(effects <= 0)
    relapses = true_relapse(starts, episodes.patients, episodes.days)
    assert relapses.mean() < effects.mean() < 0
    with pytest.raises(DataError, match="not in the truth"):
        true_worsening(starts, episodes.patients, episodes.days + 1)


def test_lots_are_drawn_without_regard_to_the_inputs() -> None:
    """In the randomised scenario half are treated and no prespecified modifier tells who."""
    found, _ = simulate_site(SiteSpec("registry", 700, Schedule.RECLAIM, interval_mo=6.0), 6, RANDOMISED)
    cohort = TASK.cohort_of(found.tables)
    treated = cohort.labels[:, 0]
    assert 0.38 < treated.mean() < 0.62
    age = cohort.values[:, [column.name for column in COLUMNS].index(MODIFIERS[0])]
    apart = age[treated == 1].mean() - age[treated == 0].mean()
    assert abs(apart) < 3 * age.std() * np.sqrt(1 / treated.sum() + 1 / (1 - treated).sum())


def test_models_give_both_folds_for_one_record_and_for_many() -> None:
    model = TASK.build_model("dr_linear", {})
    inputs = torch.zeros(3, Design(TASK.contract).n_inputs)
    assert model(inputs).shape == (3, 5, 2)
    assert model(inputs[0]).shape == (5, 2)


def test_an_effect_is_foretold_in_points_of_risk_and_is_the_mean_of_both_folds() -> None:
    outputs = torch.zeros(2, 4, 2)
    outputs[:, EFFECT] = torch.tensor([[-0.2, -0.1], [0.0, 0.04]])
    for task, name in ((TASK, "effect_worsening_2y"), (RELAPSE, "effect_relapse_2y")):
        assert isinstance(task, Foretells)
        ((key, one),) = task.foretold(outputs).items()
        assert (key, one.unit) == (name, "% points")
        assert one.values.tolist() == pytest.approx([-15.0, 2.0])
        assert "not randomised" in one.meaning
