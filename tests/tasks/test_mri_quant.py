"""Rates of brain volume loss: equal to pooled least squares on the very scans, bounded by patient, finite under any noise.

The pooled ones see all patients at once and are written here, with whole covariance matrices, from the columns of the tables.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.release import Bound, clipped_grid_sum
from tasks.errors import ContractError, DataError
from tasks.mri_harmonisation.scans import MEASURES as OF_SCANS
from tasks.mri_harmonisation.scans import batch_number, harmonised_measures, reference_number, scan_table
from tasks.mri_quant.apply import COLUMNS as WRITTEN
from tasks.mri_quant.apply import STATES, rate_patients
from tasks.mri_quant.fit import fit
from tasks.mri_quant.frame import BOUND, MEASURES, MOST_SCANS, Frame, frame_of
from tasks.mri_quant.measures import RATE_MEASURES
from tasks.mri_quant.reference import load_reference, reference_of
from tasks.mri_quant.result import NO_LOSS, NOISY, patients_an_arm
from tasks.mri_quant.rows import DAY, PLACES, REFERENCE, WIDTH
from tasks.mri_quant.slopes import slopes_of
from tasks.mri_quant.task import TASK
from tasks.registry import find_task
from tasks.simulator import Clinic, Preset, Schedule, SiteSpec, simulate
from tasks.sums import Choice, Opened, Records, SumsTask

Floats = NDArray[np.float64]
Tables = Mapping[str, pd.DataFrame]
COLUMNS = ("age_years", "sex", "duration_years", *MEASURES)
FEW = ("age_years", "sex", "nbv_ml", "thalamus_ml")
HARMONISED = "h3f0123456789"
SITES = Preset(
    "rates",
    (
        SiteSpec("north", 120, Schedule.RECLAIM),
        SiteSpec("south", 90, Schedule.RECLAIM, Clinic.PROGRESSIVE),
        SiteSpec("east", 60, Schedule.RECLAIM, Clinic.EARLY),
    ),
)


@cache
def hospitals() -> tuple[Tables, ...]:
    return tuple(site.tables for site in simulate(SITES, 11).sites)


def choice(columns: tuple[str, ...] = COLUMNS, **options: str | int | float) -> Choice:
    return Choice("rates", options, columns)


def records(tables: Tables) -> Records:
    cohort = TASK.cohort_of(tables)
    late = pd.Series(cohort.owners).groupby(cohort.owners).cumcount(ascending=False).to_numpy() < TASK.records  # as the trainer
    return Records(cohort.values[late], cohort.owners[late], cohort.size)


def run(sites: tuple[Tables, ...], made: Choice, noise: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """As result.json has it."""
    rng, total = np.random.default_rng(seed), _total(made.columns) if sites is hospitals() else summed(sites, made)
    total = total + noise * rng.standard_normal(total.size)
    found: dict[str, Any] = json.loads(json.dumps(TASK.result(made, [Opened(total, noise)]), allow_nan=False))
    return found


@cache
def _total(columns: tuple[str, ...]) -> Floats:
    """That of all hospitals; options of the trial change no vector."""
    return summed(hospitals(), choice(columns))


def summed(sites: tuple[Tables, ...], made: Choice) -> Floats:
    return np.asarray(np.sum([TASK.vectors(made, (), records(tables)).sum(axis=0) for tables in sites], axis=0))


def row(result: Mapping[str, Any], table: str, measure: str, at: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = [each for each in result["tables"][table] if each["measure"] == measure][at]
    return found


def scans_of(
    days: list[float], volumes: list[float], batches: list[str] | None = None, measure: str = "nbv_ml", reference: float = 0.0
) -> Floats:
    """Rows of one patient: a woman of 45 years, 15 of disease."""
    found = np.full((len(days), WIDTH), np.nan)
    found[:, 0] = [batch_number(name) if name else -1.0 for name in batches or ["a|p"] * len(days)]
    found[:, REFERENCE], found[:, DAY], found[:, PLACES[measure]] = reference, days, volumes
    found[:, PLACES["age_years"]], found[:, PLACES["sex"]], found[:, PLACES["duration_years"]] = 45.0, 0.0, 15.0
    return found


def one(rows: Floats, frame: Frame | None = None, measure: int = 0) -> tuple[float, float]:
    made = frame or frame_of(choice())
    found = slopes_of(made, RATE_MEASURES[measure], rows, np.zeros(len(rows), np.intp), 1)
    return float(found.rate[0]), float(found.variance[0])


def pooled_slopes(name: str) -> pd.DataFrame:
    """Every patient's slope by generalised least squares with the whole covariance matrix, from the tables' columns."""
    measure = next(each for each in RATE_MEASURES if each.name == name)
    found = []
    for tables in hospitals():
        table = scan_table(tables)
        table = table[table[list(MEASURES)].notna().any(axis=1) & (table["qc"] != "fail") & (table["region"] != "cord")]
        table = table.groupby("patient_id").tail(MOST_SCANS)
        table = table[table[[name, "age_years", "sex", "duration_years"]].notna().all(axis=1)]
        for _, mine in table.groupby("patient_id"):
            day = mine["day"].to_numpy(float)
            if len(mine) < 2 or day[-1] - day[0] < 300:
                continue
            y = 100 * np.log(mine[name].to_numpy(float) + measure.offset_ml)
            same = mine["batch"].to_numpy()[:, None] == mine["batch"].to_numpy()[None, :]
            inverse = np.linalg.inv(measure.error**2 * np.eye(len(y)) + measure.shift**2 * same)
            x = np.stack([np.ones(len(y)), day / 365.25], axis=1)
            spread = np.linalg.inv(x.T @ inverse @ x)
            member = pd.get_dummies(mine["batch"]).to_numpy(float)
            within = np.hstack([member, x[:, 1:]])
            left = y - within @ np.linalg.lstsq(within, y)[0]
            freedom = len(y) - np.linalg.matrix_rank(within, tol=1e-6)
            share = min(1.0, 6.0 / max(freedom, 1))
            most = 4.0 * min(freedom + 2, 6.0) * (freedom > 0)
            sex = {"F": -0.5, "X": 0.0, "M": 0.5}[mine["sex"].iloc[0]]
            found.append(
                {
                    "rate": (spread @ x.T @ inverse @ y)[1], "v": spread[1, 1], "freedom": freedom * share,
                    "squares": min(left @ left / measure.error**2 * share, most),
                    "age": np.clip((mine["age_years"].mean() - 45) / 30, -1, 1), "sex": sex,
                    "duration": np.clip((mine["duration_years"].mean() - 15) / 20, -1, 1),
                }
            )  # fmt: skip
    return pd.DataFrame(found)


def pooled_fit(name: str) -> tuple[Floats, float, float]:
    """Weighted least squares and moments, patient by patient: coefficients, variance between patients, kappa."""
    measure = next(each for each in RATE_MEASURES if each.name == name)
    table = pooled_slopes(name)
    x = np.stack([np.ones(len(table)), table["age"], table["sex"], table["duration"]], axis=1)
    y, v = np.clip(table["rate"].to_numpy(), -measure.most, measure.most), table["v"].to_numpy()
    w = measure.between**2 / (measure.between**2 + v)
    kappa = table["squares"].sum() / table["freedom"].sum()
    hat = np.linalg.inv(x.T @ (w[:, None] * x)) @ x.T * w
    beta = hat @ y
    left = y - x @ beta
    # E of sum w left^2 when the variances are omega^2 + kappa v: each patient's residual is a combination of all rates.
    combine = np.eye(len(y)) - x @ hat
    per_patient = (w[:, None] * combine**2).sum(axis=0)
    omega2 = (w @ left**2 - kappa * per_patient @ v) / per_patient.sum()
    return beta, max(omega2, 0.0), kappa


def test_it_is_a_task_of_sums_that_needs_no_pandas_to_plan() -> None:
    assert isinstance(find_task("mri_quant"), SumsTask)
    code = (
        "import sys; from tasks.registry import find_task; from tasks.sums import Choice, layout; task = find_task('mri_quant');"
        "layout(task, Choice('rates', {}, task.contract.column_names)); print({'pandas', 'nibabel', 'torch'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize("name", MEASURES)
def test_the_sum_over_sites_gives_what_pooled_least_squares_gives(name: str) -> None:
    beta, omega2, kappa = pooled_fit(name)
    found = next(each for each in run(hospitals(), choice())["reference"]["measures"] if each["measure"] == name)
    np.testing.assert_allclose(found["beta"], beta, rtol=0, atol=1e-6)
    assert found["omega2"] == pytest.approx(omega2, abs=1e-6)
    assert found["kappa"] == pytest.approx(kappa, abs=1e-6)


def test_rates_of_patients_are_those_of_a_whole_covariance_matrix() -> None:
    made = frame_of(choice())
    for at, name in enumerate(MEASURES):
        found = [slopes_of(made, RATE_MEASURES[at], each.values, each.owners, each.patients) for each in map(records, hospitals())]
        rate, variance = (np.concatenate([getattr(each, part)[each.rated] for each in found]) for part in ("rate", "variance"))
        wanted = pooled_slopes(name)
        assert len(rate) == len(wanted) > 150
        order, other = np.argsort(rate), np.argsort(wanted["rate"].to_numpy())
        np.testing.assert_allclose(rate[order], wanted["rate"].to_numpy()[other], atol=1e-7)
        np.testing.assert_allclose(variance[order], wanted["v"].to_numpy()[other], rtol=1e-7)


def test_the_model_finds_the_truth_it_was_drawn_from() -> None:
    """600 people, yearly scans for five years on one scanner, error twice the public one in variance."""
    rng, n = np.random.default_rng(3), 600
    age, days = rng.uniform(25, 65, n), np.arange(6) * 365.25
    true = -0.5 - 0.1 * (age - 45) / 10 + 0.3 * rng.standard_normal(n)
    parts = []
    for at in range(n):
        logs = true[at] / 100 * days / 365.25 + 0.003 * math.sqrt(2) * rng.standard_normal(6)
        rows = scans_of(list(days), list(1500 * np.exp(logs)))
        rows[:, PLACES["age_years"]] = age[at]
        parts.append(rows)
    made = choice(("age_years", "nbv_ml"))
    vectors = TASK.vectors(made, (), Records(np.concatenate(parts), np.repeat(np.arange(n), 6), n))
    found = TASK.result(made, [Opened(vectors.sum(axis=0), 0.0)])
    rates, effects = (row(found, table, "nbv_ml", at) for table, at in (("rates", 0), ("effects", 1)))
    assert rates["low_95"] < true.mean() < rates["high_95"]
    assert rates["high_95"] - rates["low_95"] < 0.08
    assert rates["sd_between"] == pytest.approx(np.std(true), abs=0.04)
    assert rates["error_of_a_scan_pct"] == pytest.approx(0.3 * math.sqrt(2), rel=0.06)
    assert effects["low_95"] < -0.1 < effects["high_95"] < -0.05
    share = row(found, "fast_loss", "nbv_ml")
    assert share["low"] <= np.mean(true < -0.4) <= share["high"]


@pytest.mark.parametrize(("scans", "variance"), [(3, 1.0), (3, 2.0), (4, 2.0), (8, 2.0)])
def test_the_error_of_a_scan_is_found_in_short_histories_too(scans: int, variance: float) -> None:
    """With three scans a patient has one degree of freedom: what is cut off there must not make scans look better."""
    rng, n, days = np.random.default_rng(5), 1500, np.arange(scans) * 365.25
    logs = -0.005 * days / 365.25 + 0.003 * math.sqrt(variance) * rng.standard_normal((n, scans))
    rows = np.concatenate([scans_of(list(days), list(1500 * np.exp(each))) for each in logs])
    vectors = TASK.vectors(choice(("nbv_ml",)), (), Records(rows, np.repeat(np.arange(n), scans), n))
    found: dict[str, Any] = dict(TASK.result(choice(("nbv_ml",)), [Opened(vectors.sum(axis=0), 0.0)]))
    assert found["reference"]["measures"][0]["kappa"] == pytest.approx(variance, rel=0.08)


def test_a_scan_that_is_far_off_counts_no_more_than_its_public_share() -> None:
    made = frame_of(choice(("nbv_ml",)))
    for scans in (2, 3, 4, 12):
        rows = scans_of([400.0 * at for at in range(scans)], [1900.0, *[1500.0] * (scans - 1)])
        found = slopes_of(made, RATE_MEASURES[0], rows, np.zeros(scans, np.intp), 1)
        assert found.squares[0] == 4.0 * min(max(scans - 2, 0) + 2, 6) * (scans > 2)


def test_a_new_scanner_is_not_taken_for_a_loss_nor_thrown_away() -> None:
    days, volumes = [0.0, 365.25, 730.5, 1095.75], [1500.0, 1492.5, 1560.0, 1552.2]  # a scanner that adds 5 %
    changed = one(scans_of(days, volumes, ["a|p", "a|p", "b|p", "b|p"]))
    ignored = one(scans_of(days, volumes))
    assert changed[0] == pytest.approx(-0.5, abs=0.1)
    assert ignored[0] > 1.0
    first_two = one(scans_of(days[:2], volumes[:2]))
    assert changed[1] < first_two[1]


def test_two_scans_of_unknown_scanners_say_less_than_two_of_one() -> None:
    days, volumes = [0.0, 365.25], [1500.0, 1492.5]
    known, unknown = one(scans_of(days, volumes)), one(scans_of(days, volumes, ["", ""]))
    assert known[0] == pytest.approx(unknown[0], abs=1e-9)
    assert unknown[1] > 50 * known[1]


@pytest.mark.parametrize(
    "rows",
    [
        scans_of([0.0], [1500.0]),
        scans_of([0.0, 299.0], [1500.0, 1495.0]),
        scans_of([0.0, 400.0], [1500.0, np.nan]),
        scans_of([0.0, 400.0], [1500.0, 1495.0], reference=reference_number(HARMONISED)),
        scans_of([0.0, 400.0], [1500.0, 1495.0], reference=np.nan),
        np.zeros((0, WIDTH)),
    ],
)
def test_who_has_no_two_usable_scans_far_enough_apart_adds_nothing(rows: Floats) -> None:
    found = TASK.vectors(choice(), (), Records(rows, np.zeros(len(rows), np.intp), 1))
    np.testing.assert_array_equal(found, np.zeros_like(found))


def test_a_patient_without_a_covariate_of_the_plan_adds_nothing_and_with_it_left_out_does() -> None:
    rows = scans_of([0.0, 400.0], [1500.0, 1495.0])
    rows[:, PLACES["duration_years"]] = np.nan
    mine = Records(rows, np.zeros(2, np.intp), 1)
    assert not TASK.vectors(choice(), (), mine).any()
    assert TASK.vectors(choice(FEW), (), mine).any()


def test_cord_scans_failed_ones_and_volumes_out_of_range_do_not_count() -> None:
    tables = hospitals()[0]
    whole = TASK.vectors(choice(FEW), (), records(tables)).sum(axis=0)
    more = tables["mri"].head(40).copy()
    more["day"], more["scan_id"] = more["day"] + 3, more["scan_id"] + "x"
    for spoilt in (more.assign(region="cord"), more.assign(qc="fail"), more.assign(nbv_ml=4000.0, thalamus_ml=80.0, t2_vol_ml=-1)):
        added = {**tables, "mri": pd.concat([tables["mri"], spoilt], ignore_index=True)}
        found = TASK.vectors(choice(FEW), (), records(added)).sum(axis=0)
        np.testing.assert_allclose(found, whole, atol=1e-9)


def test_volumes_of_another_harmonisation_take_no_part() -> None:
    tables = hospitals()[0]
    mri = tables["mri"].assign(tool="msquant+harmonised", tool_version=f"2.1+{HARMONISED}")
    done, plain = {**tables, "mri": mri}, choice(FEW)
    ready, other = choice(FEW, reference=HARMONISED), choice(FEW, reference="h3f9876543210")
    assert TASK.vectors(plain, (), records(tables)).any()
    assert TASK.vectors(ready, (), records(done)).any()
    for made, site in ((plain, done), (ready, tables), (other, done)):
        assert not TASK.vectors(made, (), records(site)).any()
    odd = {**tables, "mri": tables["mri"].assign(tool="harmonised", tool_version="2.1")}
    assert not any(TASK.vectors(made, (), records(odd)).any() for made in (plain, ready))


def test_a_patient_s_vector_is_the_same_to_the_last_bit_whoever_else_is_there() -> None:
    site = records(hospitals()[1])
    whole = TASK.vectors(choice(), (), site)
    for at in range(site.patients):
        mine = site.values[site.owners == at]
        alone = TASK.vectors(choice(), (), Records(mine, np.zeros(len(mine), dtype=np.intp), 1))
        np.testing.assert_array_equal(alone[0], whole[at])


def test_the_order_of_patients_changes_nothing() -> None:
    site = records(hospitals()[2])
    order = np.random.default_rng(1).permutation(site.patients)
    rows = np.concatenate([site.values[site.owners == at] for at in order])
    owners = np.concatenate([np.full((site.owners == at).sum(), new) for new, at in enumerate(order)])
    found = TASK.vectors(choice(), (), Records(rows, owners.astype(np.intp), site.patients))
    np.testing.assert_array_equal(found, TASK.vectors(choice(), (), site)[order])


ODD = st.one_of(st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-300, 1e300, -1e300]), st.floats(-1e6, 1e6))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000), odd=st.lists(ODD, min_size=1, max_size=40), harmonised=st.booleans())
def test_one_patient_moves_the_clipped_sum_by_no_more_than_the_bound_whatever_the_rows(
    data: st.DataObject, seed: int, odd: list[float], harmonised: bool
) -> None:
    made = choice(reference=HARMONISED) if harmonised else choice()
    rng, scans = np.random.default_rng(seed), data.draw(st.integers(1, MOST_SCANS))
    rows = scans_of(sorted(rng.uniform(-9000, 9000, scans)), list(rng.uniform(1000, 2000, scans)))
    rows[:, REFERENCE] = reference_number(HARMONISED) if harmonised else 0.0
    rows[:, PLACES["thalamus_ml"]], rows[:, PLACES["t2_vol_ml"]] = rng.uniform(5, 25, scans), rng.uniform(0, 150, scans)
    for value in odd:
        rows[rng.integers(scans), rng.integers(WIDTH)] = value
    found = TASK.vectors(made, (), Records(rows, np.zeros(scans, np.intp), 1))
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 16.0  # squares of the rate at which everybody is held
    bound = TASK.bound(made)
    others = np.repeat(np.eye(found.shape[1])[:3], 2, axis=0)
    with_, without = (clipped_grid_sum(each, Bound(bound, 20)).astype(float) for each in (np.vstack([others, found]), others))
    step = Bound(bound, 20).step
    assert np.linalg.norm((with_ - without) * step) <= bound * (1 + 1e-3)


@pytest.mark.parametrize("columns", [FEW, COLUMNS, ("nbv_ml",)])
def test_the_bound_has_room_for_most_patients_and_none_to_give_away(columns: tuple[str, ...]) -> None:
    made = choice(columns)
    norms = np.linalg.norm(np.concatenate([TASK.vectors(made, (), records(tables)) for tables in hospitals()]), axis=1)
    norms = norms[norms > 0]
    assert (norms > TASK.bound(made)).mean() <= 0.35
    assert np.median(norms) > 0.5 * TASK.bound(made)
    assert TASK.bound(choice(("nbv_ml",))) == BOUND[0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(-3, 6), columns=st.sampled_from([FEW, COLUMNS, ("t2_vol_ml",)]))
def test_noise_of_any_size_gives_finite_figures_that_can_be_read_again(seed: int, size: float, columns: tuple[str, ...]) -> None:
    made = choice(columns)
    total = _total(columns)
    noise = 10.0**size
    opened = Opened(total + noise * np.random.default_rng(seed).standard_normal(total.size), noise)
    found = json.loads(json.dumps(TASK.result(made, [opened]), allow_nan=False))
    if found["reference"]["measures"]:
        ready = reference_of(found["reference"])
        rates = rate_patients(ready, hospitals()[2]).rates
        done = rates[rates["state"] == "rated"]
        assert np.isfinite(done[["rate_pct_y", "se", "z", "best_pct_y"]].to_numpy(float)).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(-2, 12), noise=st.sampled_from([0.0, 1.0, 1e4]))
def test_whatever_opens_there_is_a_result(seed: int, size: float, noise: float) -> None:
    total = 10.0**size * np.random.default_rng(seed).standard_normal(_total(FEW).size)
    json.dumps(TASK.result(choice(FEW), [Opened(total, noise)]), allow_nan=False)
    json.dumps(TASK.result(choice(FEW), [Opened(0 * total, noise)]), allow_nan=False)


def test_figures_that_are_noise_say_so_and_exact_ones_do_not() -> None:
    exact, little, much = (run(hospitals(), choice(FEW), noise) for noise in (0.0, 0.3, 20.0))
    assert row(exact, "rates", "nbv_ml")["mean_reads"] == row(little, "rates", "nbv_ml")["mean_reads"] == ""
    assert row(much, "rates", "nbv_ml")["mean_reads"] == row(much, "trials", "nbv_ml")["reads"] == NOISY
    assert any("NOT PRIVATE" in note for note in exact["notes"])
    assert any(NOISY in note for note in much["notes"])


def test_intervals_hold_the_noise() -> None:
    """Of 40 draws, 36 or more intervals hold the exact mean: it is noise alone that moves them."""
    true = row(run(hospitals(), choice(FEW)), "rates", "nbv_ml")["mean_pct_y"]
    draws = [row(run(hospitals(), choice(FEW), 8.0, seed), "rates", "nbv_ml") for seed in range(40)]
    assert sum(each["low_95"] <= true <= each["high_95"] for each in draws) >= 36
    assert np.std([each["mean_pct_y"] for each in draws]) > 0.01


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_the_noise_in_the_spread_between_patients_is_as_large_as_it_is_said_to_be(noise: float) -> None:
    made = frame_of(choice(("nbv_ml",)))
    measure, total, rng = made.measures[0], _total(("nbv_ml",)), np.random.default_rng(4)
    draws = [
        fit(measure, made.split(total + noise * rng.standard_normal(total.size))["nbv_ml"], noise, width=1) for _ in range(2000)
    ]
    said = float(np.median([each.omega2_noise for each in draws]))
    assert np.std([each.omega2 for each in draws]) == pytest.approx(said, rel=0.1)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_fewer_than_ten_patients_and_none_look_alike(count: int) -> None:
    parts = [scans_of([0.0, 400.0, 800.0], [1500.0, 1495.0, 1490.0]) for _ in range(count)] or [np.zeros((0, WIDTH))]
    rows = np.concatenate(parts)
    vectors = TASK.vectors(choice(("nbv_ml",)), (), Records(rows, np.repeat(np.arange(count), 3), count))
    total = vectors.sum(axis=0) if count else np.zeros_like(_total(("nbv_ml",)))
    found = TASK.result(choice(("nbv_ml",)), [Opened(total, 0.0)])
    assert found["tables"] == {
        "rates": [{"measure": "nbv_ml", "patients": "fewer than 10, or none"}], "effects": [], "fast_loss": [], "trials": []
    }  # fmt: skip
    assert found["reference"]["measures"] == []  # type: ignore[index]


def test_a_covariate_in_which_nobody_differs_is_left_out_and_said_so() -> None:
    women = tuple({**tables, "patients": tables["patients"].assign(sex="F")} for tables in hospitals())
    effects = run(women, choice(FEW))["tables"]["effects"]
    assert next(each for each in effects if each["change"].startswith("men"))["pct_y"] == "nobody differs in it"
    kept = row(run(women, choice(("age_years", *FEW[2:]))), "effects", "nbv_ml", 1)["pct_y"]
    assert row({"tables": {"effects": effects}}, "effects", "nbv_ml", 1)["pct_y"] == pytest.approx(kept)


def test_the_size_of_a_trial_is_the_textbook_s() -> None:
    assert patients_an_arm(1.0, 0.5, 0.0) == 63  # 62.8: 16 / standardised effect squared, as every nurse's table has it
    assert patients_an_arm(1.0, 0.25, 0.0) == 252
    assert patients_an_arm(1.0, 1e-4, 0.0) == "more than 100000"
    assert patients_an_arm(1.0, 0.1, 0.06) == patients_an_arm(1.0, 0.0, 0.0) == "the change is not told from 0"


@pytest.mark.parametrize(("rate", "beyond"), [(-0.1, NO_LOSS), (0.5, NO_LOSS), (-0.6, None)])
def test_no_trial_slows_a_loss_that_there_is_not(rate: float, beyond: str | None) -> None:
    rng, n, days = np.random.default_rng(6), 300, np.arange(5) * 365.25
    logs = rate / 100 * days / 365.25 + 0.003 * rng.standard_normal((n, 5))
    rows = np.concatenate([scans_of(list(days), list(1500 * np.exp(each))) for each in logs])
    vectors = TASK.vectors(choice(("nbv_ml",)), (), Records(rows, np.repeat(np.arange(n), 5), n))
    found = TASK.result(choice(("nbv_ml",)), [Opened(vectors.sum(axis=0), 0.0)])
    whole, more = (row(found, "trials", "nbv_ml", at)["patients_an_arm"] for at in (0, 1))
    assert isinstance(whole, int) is (rate < 0)
    assert more == beyond if beyond else isinstance(more, int)


def test_longer_trials_and_larger_effects_need_fewer_patients() -> None:
    def needed(**options: float) -> int:
        return int(row(run(hospitals(), choice(FEW, **options)), "trials", "nbv_ml")["patients_an_arm"])

    usual = needed()
    assert needed(trial_years=4) < usual < needed(trial_years=1)
    assert needed(slowing_pct=60) < usual / 3
    assert needed(trial_scans=9) < usual
    beyond = row(run(hospitals(), choice(FEW)), "trials", "nbv_ml", 1)
    assert "beyond healthy ageing" in beyond["slowing"]
    assert beyond["patients_an_arm"] > usual


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Choice("other", {}, FEW), "has no model"),
        (choice(FEW, typo=1), "unknown"),
        (choice(("age_years", "edss")), "no column 'edss'"),
        (choice(("age_years",)), "no measure"),
        (choice(FEW, reference="3f0123456789"), "no name of a harmonisation"),
        (choice(FEW, reference=7), "no name of a harmonisation"),
        (choice(FEW, reference="h020123456789"), "not of thalamus_ml"),
        (choice(FEW, slowing_pct=0), "it must be 1 to 100"),
        (choice(FEW, trial_years="two"), "it must be 0.5 to 10"),
        (choice(FEW, trial_scans=2.5), "whole number"),
        (choice(FEW, trial_scans=True), "it must be 2 to 40"),
        (choice(FEW, trial_years=math.nan), "it must be"),
    ],
)
def test_what_a_plan_cannot_mean_is_refused(made: Choice, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        TASK.stages(made)


def test_a_name_of_a_harmonisation_says_which_measures_it_is_of() -> None:
    assert harmonised_measures("h120123456789") == (OF_SCANS[1], OF_SCANS[4]) == ("nbv_ml", "thalamus_ml")
    assert harmonised_measures("12") == ()
    assert reference_number("h000000000001") == 1.0
    assert math.isnan(reference_number("h00000000000G"))


def test_a_site_sees_every_patient_beside_what_is_expected() -> None:
    ready = reference_of(run(hospitals(), choice(FEW))["reference"])
    tables = hospitals()[0]
    rates = rate_patients(ready, tables, healthy=True).rates
    assert tuple(rates.columns) == WRITTEN
    assert len(rates) == 2 * tables["mri"].dropna(subset=["nbv_ml"])["patient_id"].nunique()
    brain = rates[(rates["measure"] == "nbv_ml") & (rates["state"] == "rated")]
    numbers = {name: brain[name].to_numpy(float) for name in WRITTEN[6:13] if name != "faster_than"}
    np.testing.assert_allclose(numbers["low_95"], numbers["rate_pct_y"] - 1.96 * numbers["se"])
    between = np.sign(numbers["best_pct_y"] - numbers["expected_pct_y"]) * np.sign(
        numbers["rate_pct_y"] - numbers["expected_pct_y"]
    )
    assert (between >= 0).all()
    assert (
        np.abs(numbers["best_pct_y"] - numbers["expected_pct_y"]) <= np.abs(numbers["rate_pct_y"] - numbers["expected_pct_y"])
    ).all()
    assert brain["z_healthy"].notna().all()
    assert rates.loc[rates["measure"] == "thalamus_ml", ["faster", "z_healthy"]].isna().all(axis=None)
    assert rate_patients(ready, tables).rates["z_healthy"].isna().all()


def test_z_scores_are_those_of_a_standard_normal_over_the_consortium() -> None:
    ready = reference_of(run(hospitals(), choice(FEW))["reference"])
    rates = pd.concat([rate_patients(ready, tables).rates for tables in hospitals()])
    z = rates.loc[(rates["measure"] == "nbv_ml") & (rates["state"] == "rated"), "z"].to_numpy(float)
    assert len(z) > 150
    assert abs(z.mean()) < 0.15
    assert 0.85 < z.std() < 1.15


def test_a_flag_is_sure_only_where_the_interval_leaves_the_limit_out() -> None:
    ready = reference_of(run(hospitals(), choice(FEW))["reference"])
    found = pd.concat([rate_patients(ready, tables).rates for tables in hospitals()])
    brain = found[(found["measure"] == "nbv_ml") & (found["state"] == "rated")]
    low, rate, high = (brain[name].to_numpy(float) for name in ("low_95", "rate_pct_y", "high_95"))
    words = brain["faster"].to_numpy()
    assert ((words == "yes") == (high < -0.4)).all()
    assert ((words == "no") == (low > -0.4)).all()
    assert ((words == "rather yes") == ((rate < -0.4) & (high >= -0.4))).all()
    assert set(words) == {"yes", "rather yes", "rather no", "no"}
    chances = brain["chance_faster"].to_numpy(float)
    assert chances[words == "yes"].min() > chances[words == "no"].max()
    counts = rate_patients(ready, hospitals()[0]).faster("nbv_ml")
    assert sum(counts.values()) == rate_patients(ready, hospitals()[0]).counts("nbv_ml")["rated"]


def test_a_spread_that_came_out_as_nothing_makes_nobody_s_chance_a_certainty() -> None:
    part = {"measure": "nbv_ml", "beta": [-0.45, 0.0, 0.0], "omega2": 0.0, "kappa": 1.0}
    ready = reference_of({**run(hospitals(), choice(FEW))["reference"], "measures": [part]})
    rates = rate_patients(ready, hospitals()[0]).rates
    chances = rates.loc[rates["state"] == "rated", "chance_faster"].to_numpy(float)
    assert np.std(chances) > 0.05
    assert np.mean(chances < 0.999) > 0.8


def test_every_patient_has_a_state_and_the_reason_is_the_nearest_one() -> None:
    ready = reference_of(run(hospitals(), choice(FEW))["reference"])
    tables = dict(hospitals()[0])
    mri = tables["mri"].dropna(subset=["nbv_ml", "thalamus_ml"])
    counts = mri["patient_id"].value_counts()
    many = list(counts.index[counts >= 4][:4])
    parts = [
        mri[mri["patient_id"] == many[0]],
        mri[mri["patient_id"] == many[1]].head(1),
        mri[mri["patient_id"] == many[2]].head(2).assign(day=[5, 200]),
        mri[mri["patient_id"] == many[3]].assign(tool="harmonised", tool_version=HARMONISED),
    ]
    unknown = mri[mri["patient_id"] == counts.index[4]]
    tables["patients"] = tables["patients"].assign(
        sex=tables["patients"]["sex"].where(tables["patients"]["patient_id"] != counts.index[4], None)
    )
    found = rate_patients(ready, {**tables, "mri": pd.concat([*parts, unknown])}).rates
    states = found[found["measure"] == "nbv_ml"].set_index("patient_id")["state"]
    assert [states[name] for name in (*many, counts.index[4])] == ["rated", "few_scans", "short", "other_volumes", "no_covariate"]
    assert set(states) == set(STATES)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[object], Path]:
    def put(found: object) -> Path:
        path = tmp_path / "result.json"
        path.write_text(found if isinstance(found, str) else json.dumps(found))
        return path

    return put


def change(**part: object) -> Callable[[dict[str, Any]], object]:
    return lambda found: {**found, "reference": {**found["reference"], **part}}


def first(**part: object) -> Callable[[dict[str, Any]], object]:
    def changed(found: dict[str, Any]) -> object:
        rows = found["reference"]["measures"]
        return change(measures=[{**rows[0], **part}, *rows[1:]])(found)

    return changed


def test_what_was_written_is_read_as_it_was(written: Callable[[object], Path]) -> None:
    found = run(hospitals(), choice(FEW))
    ready = load_reference(written(found))
    assert ready.frame.covariates == ("age_years", "sex")
    assert list(ready.found["nbv_ml"].beta) == found["reference"]["measures"][0]["beta"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda found: "no json", "is not JSON"),
        (lambda found: [1], "holds no rates"),
        (lambda found: {**found, "reference": {"format": "wardround/mri-reference/1"}}, "holds no rates"),
        (change(version="2"), "another version"),
        (change(measures=[]), "too few patients"),
        (change(covariates=["sex", "age_years"]), "is damaged"),
        (change(covariates=["edss"]), "is damaged"),
        (change(volumes="h12"), "is damaged"),
        (change(volumes=None), "is damaged"),
        (change(measures=[{"measure": "gm_ml", "beta": [0, 0, 0], "omega2": 1, "kappa": 1}]), "is damaged"),
        (change(measures="nbv_ml"), "is damaged"),
        (lambda found: change(measures=found["reference"]["measures"][::-1])(found), "is damaged"),
        (lambda found: change(measures=found["reference"]["measures"][:1] * 2)(found), "is damaged"),
        (first(beta=[0.0]), "is damaged"),
        (first(beta=[0.0, "1", 0.0]), "is damaged"),
        (first(beta=[0.0, 1e9, 0.0]), "is damaged"),
        (first(omega2=-1.0), "is damaged"),
        (first(omega2=math.nan), "is damaged"),
        (first(kappa=0), "is damaged"),
        (first(kappa=True), "is damaged"),
        (first(kappa=10**400), "is damaged"),
    ],
)
def test_a_result_that_was_changed_is_refused(
    written: Callable[[object], Path], spoil: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_reference(written(spoil(run(hospitals()[1:2], choice(FEW)))))


def test_a_folder_without_volumes_says_so() -> None:
    tables = dict(hospitals()[0])
    tables["mri"] = tables["mri"].assign(**dict.fromkeys(OF_SCANS))
    for less in (tables, {"patients": tables["patients"]}):
        with pytest.raises(DataError, match="no scan in the table mri"):
            TASK.cohort_of(less)
