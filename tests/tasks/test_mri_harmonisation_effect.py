"""What harmonisation is for: of patients who were in no fit, scanners cannot be told apart, and the age slope is the true one.

Simulated hospitals of different case mix; the truth is the same patients in scanners without any effect.
"""

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from tasks.mri_harmonisation.apply import harmonise_tables
from tasks.mri_harmonisation.reference import reference_of
from tasks.mri_harmonisation.scans import scan_table
from tasks.mri_harmonisation.task import TASK
from tasks.simulator import Clinic, Preset, Schedule, SiteSpec, parameters, simulate
from tasks.splits import held_out_mask
from tasks.sums import Choice, Opened, Records, stage_sizes

Floats = NDArray[np.float64]
MEASURES = ["t2_vol_ml", "nbv_ml", "thalamus_ml"]
PROTECTED = ["age_years", "sex", "edss"]
SITES = Preset(
    "effect",
    (
        SiteSpec("north", 400, Schedule.RECLAIM),
        SiteSpec("south", 400, Schedule.RECLAIM, Clinic.PROGRESSIVE),
        SiteSpec("east", 400, Schedule.RECLAIM, Clinic.EARLY),
    ),
)
KEYS = ["site", "patient_id", "day", "scan_id"]


@cache
def tables_of() -> dict[str, dict[str, pd.DataFrame]]:
    return {site.site_id: site.tables for site in simulate(SITES, 3).sites}


@cache
def measured() -> pd.DataFrame:
    return side_by_side({name: scan_table(tables) for name, tables in tables_of().items()})


@cache
def truth() -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("GAMMA_SD", 0.0), ("FIELD_T2", 1.0), ("FIELD_THALAMUS", 1.0)):
            patch.setattr(parameters, name, value)
        return side_by_side({site.site_id: scan_table(site.tables) for site in simulate(SITES, 3).sites})


def side_by_side(sites: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Complete scans of held-out patients, by `KEYS`."""
    table = pd.concat([scans.assign(site=name) for name, scans in sites.items()])
    table = table[table[[*PROTECTED, *MEASURES]].notna().all(axis=1) & (table["qc"] != "fail")]
    return table[~in_training(tuple(table["patient_id"]))].set_index(KEYS).sort_index()


def in_training(patients: tuple[str, ...]) -> NDArray[np.bool_]:
    return ~held_out_mask(patients, bytes(16), 0.4)


@cache
def harmonised(model: str, scans: int, noise: float) -> pd.DataFrame:
    """The held-out scans after a run whose vectors are clipped and noised; `noise` is over the bound, 0: neither."""
    sites = tables_of()
    names = sorted(set(pd.concat([scan_table(tables)["batch"] for tables in sites.values()])) - {""})
    made = Choice(model, {"batches": ",".join(names), "scans": scans}, (*PROTECTED, *MEASURES))
    rng, bound, opened = np.random.default_rng(4), TASK.bound(made), list[Opened]()
    for _ in stage_sizes(TASK, made):
        before = [each.total for each in opened]
        rows = np.concatenate([TASK.vectors(made, before, training(tables)) for tables in sites.values()])
        if noise:
            rows /= np.maximum(np.linalg.norm(rows, axis=1) / bound, 1.0)[:, None]
        total = rows.sum(axis=0)
        opened.append(Opened(total + noise * bound * rng.standard_normal(total.size), noise * bound))
    ready = reference_of(json.loads(json.dumps(TASK.result(made, opened)))["reference"])
    done = {name: harmonise_tables(ready, tables, in_training).scans for name, tables in sites.items()}
    after = pd.concat([table.assign(site=name) for name, table in done.items()]).set_index(KEYS)
    found = measured().copy()
    found[MEASURES] = after.loc[found.index, MEASURES]
    return found.dropna(subset=MEASURES)


def training(tables: dict[str, pd.DataFrame]) -> Records:
    cohort = TASK.cohort_of(tables)
    side = in_training(cohort.patient_ids)
    last = pd.Series(cohort.owners[side]).groupby(cohort.owners[side]).cumcount(ascending=False).to_numpy() < TASK.records
    names, owners = np.unique(cohort.owners[side][last], return_inverse=True)
    return Records(cohort.values[side][last], owners.astype(np.intp), len(names))


def numbers(table: pd.DataFrame) -> tuple[Floats, Floats]:
    """Covariates (age in decades first) and measures, lesions as logarithms."""
    x = np.stack([table["age_years"] / 10, table["sex"] == "M", table["edss"]], axis=1).astype(float)
    y = table[MEASURES].astype(float).copy()
    y["t2_vol_ml"] = np.log(y["t2_vol_ml"] + 0.1)
    return x, y.to_numpy(float)


def scanner_auc(table: pd.DataFrame) -> float:
    """Multinomial logistic regression on measures less what covariates explain, each half of the patients judged by the other."""
    table = table[table["batch"].map(table["batch"].value_counts()) >= 60]
    x, y = numbers(table)
    member = pd.get_dummies(table["batch"]).to_numpy(float)
    left = y - x @ np.linalg.lstsq(np.hstack([x, member]), y, rcond=None)[0][: x.shape[1]]
    z = (left - left.mean(axis=0)) / left.std(axis=0)
    label = table["batch"].astype("category").cat.codes.to_numpy()
    people = pd.Series(table.index.get_level_values("patient_id")).astype("category").cat.codes.to_numpy()
    half = np.random.default_rng(0).permutation(people.max() + 1)[people] % 2 == 0
    chances = np.zeros((len(z), label.max() + 1))
    for train in (half, ~half):
        chances[~train] = softmax_regression(z[train], label[train], z[~train], label.max() + 1)
    return float(np.mean([auc(chances[:, kind], label == kind) for kind in range(label.max() + 1)]))


def softmax_regression(z: Floats, label: NDArray[np.int8], other: Floats, kinds: int) -> Floats:
    inputs, target = torch.from_numpy(z), torch.from_numpy(label.astype(np.int64))
    model = torch.nn.Linear(z.shape[1], kinds, dtype=torch.float64)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    steps = torch.optim.LBFGS(model.parameters(), max_iter=60)

    def closure() -> torch.Tensor:
        steps.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), target) + 1e-3 * (model.weight**2).sum()
        loss.backward()
        return loss

    steps.step(closure)
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(other)).softmax(dim=1).numpy())


def auc(score: Floats, yes: NDArray[np.bool_]) -> float:
    rank, n = pd.Series(score).rank().to_numpy(), int(yes.sum())
    return float((rank[yes].sum() - n * (n + 1) / 2) / (n * (len(yes) - n)))


def age_slope(table: pd.DataFrame) -> float:
    """Of brain volume, mL a decade, over all scans without batches, as who uses the values would have it."""
    x, y = numbers(table)
    return float(np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))]), y, rcond=None)[0][0, 1])


def distance(table: pd.DataFrame) -> float:
    """From the truth, root mean square in spreads; a shift that all scans share does not count."""
    wanted = numbers(truth().loc[table.index])[1]
    left = (numbers(table)[1] - wanted) / wanted.std(axis=0)
    return float(np.sqrt(np.mean((left - left.mean(axis=0)) ** 2)))


@pytest.mark.parametrize("model", ["combat", "longitudinal"])
def test_scanners_can_no_longer_be_told_apart_and_measures_come_near_the_truth(model: str) -> None:
    before, after = scanner_auc(measured()), scanner_auc(harmonised(model, 8, 0.0))
    assert before > 0.65
    assert after <= 0.6
    assert distance(harmonised(model, 8, 0.0)) < 0.65 * distance(measured())


@pytest.mark.parametrize("model", ["combat", "longitudinal"])
def test_the_age_slope_is_nearer_to_the_true_one_than_before_or_within_its_tenth(model: str) -> None:
    true, before, after = age_slope(truth()), age_slope(measured()), age_slope(harmonised(model, 8, 0.0))
    assert true < -10
    assert abs(after - true) <= max(abs(before - true), 0.1 * abs(true))


def test_a_longitudinal_fit_comes_nearer_to_the_truth_than_a_cross_sectional_one() -> None:
    """Few patients stand behind each scanner, and their own levels look like the scanner's."""
    assert distance(harmonised("longitudinal", 8, 0.0)) < distance(harmonised("combat", 8, 0.0))


@pytest.mark.soak
@pytest.mark.parametrize(("model", "scans"), [("combat", 1), ("longitudinal", 2)])
def test_with_the_noise_of_epsilon_8_in_mode_distributed_it_still_helps(model: str, scans: int) -> None:
    found = harmonised(model, scans, 1.0)
    assert scanner_auc(found) <= 0.6
    assert distance(found) < distance(measured())
