"""Federated ComBat as a task of sums: equal to pooled ComBat on the very scans, bounded by patient, finite under any noise.

The pooled one sees all scans at once and is written here, from the columns of the tables.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.errors import ContractError, DataError
from tasks.harmonise import HarmoniseError
from tasks.mri_harmonisation.apply import Harmonised, harmonise_tables
from tasks.mri_harmonisation.fit import Fitted
from tasks.mri_harmonisation.frame import BLANKS, MOST_SCANS, frame_of
from tasks.mri_harmonisation.reference import Reference, load_reference, reference_of
from tasks.mri_harmonisation.scans import MEASURES, NO_BATCH, WIDTH, batch_number, rows_of, scan_table
from tasks.mri_harmonisation.task import TASK
from tasks.registry import find_task
from tasks.simulator import Clinic, Preset, Schedule, SiteSpec, simulate
from tasks.sums import Choice, Opened, Records, SumsTask, layout, stage_sizes

Floats = NDArray[np.float64]
Tables = Mapping[str, pd.DataFrame]
COVARIATES = ("age_years", "sex", "duration_years", "edss", "phenotype")
COLUMNS = (*COVARIATES, *MEASURES)
FEW = ("age_years", "sex", "nbv_ml", "thalamus_ml")
COMPLETE = [*COVARIATES, *MEASURES]
SITES = Preset(  # scans of all are quantified; one clinic is of early, one of progressive patients
    "harmonise",
    (
        SiteSpec("north", 90, Schedule.RECLAIM),
        SiteSpec("south", 70, Schedule.RECLAIM, Clinic.PROGRESSIVE),
        SiteSpec("east", 60, Schedule.RECLAIM, Clinic.EARLY),
        SiteSpec("west", 60, Schedule.CLINNOVA),
    ),
)
READ: dict[int, tuple[Tables, Records]] = {}  # tables are read once; they stand beside, so that the number stays theirs


@cache
def hospitals() -> tuple[Tables, ...]:
    return tuple(site.tables for site in simulate(SITES, 11).sites)


def batches_of(sites: tuple[Tables, ...]) -> tuple[str, ...]:
    """Names with 10 complete scans or more at these sites."""
    seen = pd.concat([complete(scan_table(tables)) for tables in sites])["batch"].value_counts()
    return tuple(sorted(str(name) for name, n in seen.items() if name and n >= 10))


@cache
def listed() -> tuple[str, ...]:
    """Those of all hospitals."""
    return batches_of(hospitals())


def complete(table: pd.DataFrame) -> pd.DataFrame:
    return table[table[COMPLETE].notna().all(axis=1) & (table["qc"] != "fail") & table["phenotype"].ne("RIS")]


def choice(batches: tuple[str, ...], model: str = "combat", scans: int = 8, columns: tuple[str, ...] = COLUMNS) -> Choice:
    return Choice(model, {"batches": ",".join(batches), "scans": scans}, columns)


def records(tables: Tables) -> Records:
    if id(tables) not in READ:
        cohort = TASK.cohort_of(tables)
        last = pd.Series(cohort.owners).groupby(cohort.owners).cumcount(ascending=False).to_numpy() < TASK.records  # as the trainer
        READ[id(tables)] = tables, Records(cohort.values[last], cohort.owners[last], cohort.size)
    return READ[id(tables)][1]


def run(sites: tuple[Tables, ...], made: Choice, noise: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """Both stages, each stage's sum opened with this noise, as result.json has it."""
    rng, opened = np.random.default_rng(seed), []
    for _ in stage_sizes(TASK, made):
        before = [each.total / 400 for each in opened]  # divided by what the sites declare
        total = np.sum([TASK.vectors(made, before, records(tables)).sum(axis=0) for tables in sites], axis=0)
        opened.append(Opened(total + noise * rng.standard_normal(total.size), noise))
    found: dict[str, Any] = json.loads(json.dumps(TASK.result(made, opened), allow_nan=False))
    return found


def reference(sites: tuple[Tables, ...], made: Choice) -> Reference:
    return reference_of(run(sites, made)["reference"])


def numbers(table: pd.DataFrame) -> tuple[Floats, Floats]:
    """Covariates and measures as ComBat wants them; lesions as logarithms."""
    x = [table["age_years"], table["sex"].map({"F": 0.0, "X": 0.5, "M": 1.0}), table["duration_years"], table["edss"]]
    x += [(table["phenotype"] == name) for name in ("CIS", "SPMS", "PPMS")]
    y = table[list(MEASURES)].astype(float).copy()
    y["t2_vol_ml"] = np.log(y["t2_vol_ml"] + 0.1)
    return np.stack([column.to_numpy(float) for column in x], axis=1), y.to_numpy(float)


def pooled(table: pd.DataFrame) -> Floats:
    """ComBat as Johnson 2007, sec. 3, with every scan in view."""
    x, y = numbers(table)
    names = sorted(set(table["batch"]))
    member = np.stack([(table["batch"] == name).to_numpy(float) for name in names], axis=1)
    beta = np.linalg.lstsq(np.hstack([member, x]), y)[0]
    sigma = np.sqrt(np.mean((y - np.hstack([member, x]) @ beta) ** 2, axis=0))
    expected = member.sum(axis=0) @ beta[: len(names)] / len(y) + x @ beta[len(names) :]
    z = (y - expected) / sigma
    for name in names:
        rows = (table["batch"] == name).to_numpy()
        z[rows] = without_batch(z[rows])
    return native(z * sigma + expected)


def native(found: Floats) -> Floats:
    found[:, 0] = np.maximum(np.exp(found[:, 0]) - 0.1, 0)
    return found


def without_batch(z: Floats) -> Floats:
    n, gamma_hat, delta_hat = len(z), z.mean(axis=0), z.var(axis=0, ddof=1)
    gamma_bar, tau2, m, s2 = gamma_hat.mean(), gamma_hat.var(ddof=1), delta_hat.mean(), delta_hat.var(ddof=1)
    a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    gamma, delta = gamma_hat, delta_hat
    for _ in range(1000):
        gamma = (n * tau2 * gamma_hat + delta * gamma_bar) / (n * tau2 + delta)
        delta = (b + ((z - gamma) ** 2).sum(axis=0) / 2) / (a + n / 2 - 1)
    return np.asarray((z - gamma) / np.sqrt(delta))


def same(found: list[Harmonised], table: pd.DataFrame, expected: Floats, atol: float = 1e-6) -> None:
    """`table` is of the sites one after another, `expected` (n_scans, n_measures) row by row."""
    keys = ["site", "patient_id", "day", "scan_id"]
    whole = pd.concat([each.scans.assign(site=at) for at, each in enumerate(found)]).set_index(keys)
    wanted = pd.MultiIndex.from_frame(table[keys])
    assert len(table) > 100
    np.testing.assert_allclose(whole.loc[wanted, list(MEASURES)].to_numpy(float), expected, rtol=0, atol=atol)


def side_by_side(sites: tuple[Tables, ...], batches: tuple[str, ...], scans: int) -> pd.DataFrame:
    """What is in the fit: complete scans of listed batches, of each patient the last ones."""
    found = []
    for at, tables in enumerate(sites):
        table = scan_table(tables)
        table = table[table[list(MEASURES)].notna().any(axis=1)].groupby("patient_id").tail(MOST_SCANS)
        table = complete(table)
        found.append(table[table["batch"].isin(batches)].groupby("patient_id").tail(scans).assign(site=at))
    return pd.concat(found, ignore_index=True)


def test_it_is_a_task_that_sums() -> None:
    assert isinstance(find_task("mri_harmonisation"), SumsTask)
    made = choice(("a|p", "b|p"))
    assert [name for name, _ in layout(TASK, made)][-3:] == ["blank", "squares", "counted"]
    assert layout(TASK, made)[-3] == ("blank", (BLANKS,))


@pytest.mark.parametrize("scans", [1, 3, 8])
def test_the_sites_results_equal_pooled_combat_on_the_same_scans(scans: int) -> None:
    sites = hospitals()
    names = batches_of(sites)
    table = side_by_side(sites, names, scans)
    names = tuple(sorted(str(name) for name, n in table["batch"].value_counts().items() if n >= 10))
    table = side_by_side(sites, names, scans)
    ready = reference(sites, choice(names, scans=scans))
    same([harmonise_tables(ready, tables) for tables in sites], table, pooled(table))


def test_only_scans_of_the_training_side_move_anything() -> None:
    sites = hospitals()
    chosen = lambda patients: np.array([batch_number(name) % 3 > 0 for name in patients])  # noqa: E731 - any lot will do
    kept = tuple({**tables, "mri": tables["mri"][chosen(tuple(tables["mri"]["patient_id"]))]} for tables in sites)
    names = batches_of(kept)
    table = side_by_side(kept, names, 8)
    names = tuple(sorted(str(name) for name, n in table["batch"].value_counts().items() if n >= 10))
    table = side_by_side(kept, names, 8)
    found = [harmonise_tables(reference(kept, choice(names)), tables, chosen) for tables in sites]
    same(found, table, pooled(table))
    assert sum(each.counts["harmonised"] for each in found) > len(table)  # held-out scans are harmonised too


def test_a_site_that_was_in_no_run_gets_what_frozen_parameters_give_and_moves_nobody() -> None:
    """Pooled ComBat's last step on the late site's batches, with the parameters that stand."""
    early, late = hospitals()[:1] + hospitals()[2:], hospitals()[1]
    names = tuple(name for name in batches_of(early) if (side_by_side(early, (name,), 8).shape[0]) >= 10)
    ready = reference(early, choice(names))
    before = [harmonise_tables(ready, tables).scans for tables in early]
    found = harmonise_tables(ready, late)
    assert not any(batch["in_the_run"] for batch in found.batches)
    table = side_by_side((late,), batches_of((late,)), 8)
    counts = table["batch"].value_counts()
    table = table[table["batch"].map(counts) >= 10].reset_index(drop=True)
    x, y = numbers(table)
    centre = np.array([measure.centre for measure in ready.plan.measures])
    spread = np.array([measure.spread for measure in ready.plan.measures])
    design = np.stack([(x[:, 0] - 40) / 10, x[:, 1], (x[:, 2] - 10) / 10, (x[:, 3] - 3) / 2, *x[:, 4:].T], axis=1)
    expected = ready.shared.grand_mean + design @ ready.shared.beta
    z = ((y - centre) / spread - expected) / ready.shared.sigma
    for name in set(table["batch"]):
        rows = (table["batch"] == name).to_numpy()
        z[rows] = without_batch(z[rows])
    same([found], table, native((z * ready.shared.sigma + expected) * spread + centre))
    for tables, scans in zip(early, before, strict=True):
        pd.testing.assert_frame_equal(harmonise_tables(ready, tables).scans, scans)


def test_the_longitudinal_result_says_how_much_is_the_patient_s_own_and_harmonises_every_site() -> None:
    sites = hospitals()
    found = run(sites, choice(batches_of(sites), "longitudinal"))
    shares = [row["share_of_patients"] for row in found["tables"]["measures"]]
    assert min(shares) > 0.8  # brains differ more between people than between scans
    assert all(harmonise_tables(reference_of(found["reference"]), tables).counts["harmonised"] > 20 for tables in sites)


@pytest.mark.parametrize("model", ["combat", "longitudinal"])
def test_a_batch_that_is_not_listed_takes_no_part_however_many_scans_it_has(model: str) -> None:
    tables = hospitals()[1]
    names = batches_of((tables,))
    table = scan_table(tables)
    other = table["batch"].isin(names[1:]).to_numpy()
    less = {**tables, "mri": table[other][list(tables["mri"].columns)]}
    made = choice(names[1:], model)
    np.testing.assert_allclose(
        TASK.vectors(made, (), records(tables)).sum(axis=0), TASK.vectors(made, (), records(less)).sum(axis=0), atol=1e-9
    )


@pytest.mark.parametrize("model", ["combat", "longitudinal"])
def test_a_patient_s_vector_follows_from_that_patient_alone(model: str) -> None:
    site, made = records(hospitals()[1]), choice(listed(), model)
    before: list[Floats] = []
    for _ in stage_sizes(TASK, made):
        whole = TASK.vectors(made, before, site)
        for at in range(0, site.patients, 7):
            mine = site.values[site.owners == at]
            alone = TASK.vectors(made, before, Records(mine, np.zeros(len(mine), dtype=np.intp), 1))
            np.testing.assert_allclose(alone[0], whole[at], atol=1e-9)
        before.append(whole.sum(axis=0))


def test_a_patient_s_vector_is_the_same_to_the_last_bit_however_coefficients_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator may send sums whose coefficients are huge and cancel: what is left is rounding, and must be one's own too."""
    site, made = records(hospitals()[1]), choice(listed(), columns=COLUMNS)
    rng = np.random.default_rng(5)
    beta = rng.standard_normal((7, len(MEASURES))) * 1e20
    sent = Fitted(np.ones(len(listed())), rng.standard_normal((len(listed()), len(MEASURES))) * 1e20, beta, 0.0)
    monkeypatch.setattr("tasks.mri_harmonisation.vectors.coefficients", lambda frame, parts: sent)
    before = [np.zeros(stage_sizes(TASK, made)[0])]
    whole, done = TASK.vectors(made, before, site), 0
    for at in range(site.patients):
        mine = site.values[site.owners == at][-1:]  # one scan: the smallest site there can be
        alone = TASK.vectors(made, before, Records(mine, np.zeros(1, dtype=np.intp), 1))
        beside = TASK.vectors(made, before, Records(np.vstack([mine, mine]), np.arange(2), 2))
        np.testing.assert_array_equal(alone[0], beside[0])
        done += bool(alone.any())
    assert done > 10
    assert np.isfinite(whole).all()


def test_a_site_that_leaves_after_the_first_sum_leaves_spreads_as_they_were() -> None:
    made, opened = choice(listed(), columns=FEW), list[Opened]()
    for sites in (hospitals(), hospitals()[1:]):
        before = [each.total for each in opened]
        opened.append(Opened(np.sum([TASK.vectors(made, before, records(tables)).sum(axis=0) for tables in sites], axis=0), 0.0))
    left = reference_of(dict(TASK.result(made, opened))["reference"])  # type: ignore[arg-type]
    stayed = reference(hospitals(), made)
    np.testing.assert_array_equal(left.shared.beta, stayed.shared.beta)
    np.testing.assert_allclose(left.shared.sigma, stayed.shared.sigma, rtol=0.12)  # another mix of people, not a third fewer


def test_scans_beyond_the_plan_s_number_are_not_looked_at() -> None:
    """Whatever is in the earlier scans: the rule counts, it does not compare."""
    names = listed()
    made, site = choice(names, scans=2), records(hospitals()[1])
    counts = np.isin(site.values[:, 0], [batch_number(name) for name in names]) & np.isfinite(site.values).all(axis=1)
    later = pd.Series(counts[::-1].astype(int)).groupby(site.owners[::-1]).cumsum().to_numpy()[::-1] - counts
    early = counts & (later >= 2)
    changed = site.values.copy()
    changed[early, -5:] *= 1.01
    assert early.sum() > 50
    np.testing.assert_array_equal(
        TASK.vectors(made, (), Records(changed, site.owners, site.patients)), TASK.vectors(made, (), site)
    )


@pytest.mark.parametrize(("model", "scans"), [("combat", 1), ("combat", 2), ("longitudinal", 2)])
@pytest.mark.parametrize("columns", [FEW, COLUMNS])
def test_the_bound_has_room_for_three_patients_in_four(model: str, scans: int, columns: tuple[str, ...]) -> None:
    made = choice(listed(), model, scans, columns)
    before: list[Floats] = []
    for _ in stage_sizes(TASK, made):
        rows = np.concatenate([TASK.vectors(made, before, records(tables)) for tables in hospitals()])
        before.append(rows.sum(axis=0))
        norms = np.linalg.norm(rows, axis=1)
        norms = norms[norms > 0]
        assert (norms > TASK.bound(made)).mean() <= 0.25
        assert np.median(norms) > 0.3 * TASK.bound(made)  # nor is room given away for which everybody pays with noise


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(-3, 6), model=st.sampled_from(["combat", "longitudinal"]))
@example(seed=0, size=5.0, model="combat")  # a variance below 0
def test_noise_of_any_size_gives_finite_parameters_and_finite_measures(seed: int, size: float, model: str) -> None:
    sites = hospitals()[1:3]
    made = choice(listed(), model, 2, FEW)
    ready = reference_of(run(sites, made, 10.0**size, seed)["reference"])
    found = harmonise_tables(ready, sites[1])
    done = found.scans[found.scans["state"] == "harmonised"]
    assert np.isfinite(ready.shared.beta).all()
    assert (ready.shared.sigma > 0.01).all()
    assert len(done) > 100
    assert np.isfinite(done[["nbv_ml", "thalamus_ml"]].to_numpy(float)).any(axis=1).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), exponent=st.integers(-40, 38), odd=st.sampled_from([0.0, 1.0, np.nan, np.inf]), exact=st.booleans()
)
def test_whatever_a_coordinator_sends_as_the_first_sum_the_second_vectors_come(
    seed: int, exponent: int, odd: float, exact: bool
) -> None:
    site, made = records(hospitals()[3]), choice(listed(), scans=1, columns=FEW)
    sizes = stage_sizes(TASK, made)
    rng = np.random.default_rng(seed)
    sent = rng.standard_normal(sizes[0]) * 10.0**exponent
    if exact:
        sent[-BLANKS:] = 0.0  # as if there were no noise
    sent[rng.integers(sizes[0])] = odd
    with np.errstate(all="ignore"):
        assert TASK.vectors(made, [sent], site).shape == (site.patients, sizes[1])


def test_with_little_noise_the_robust_fit_is_the_exact_one() -> None:
    sites = hospitals()
    table = side_by_side(sites, batches_of(sites), 8)
    names = tuple(sorted(str(name) for name, n in table["batch"].value_counts().items() if n >= 10))
    exact, near = (reference_of(run(sites, choice(names, columns=FEW), noise)["reference"]) for noise in (0.0, 1e-3))
    np.testing.assert_allclose(near.shared.beta, exact.shared.beta, atol=1e-3)
    np.testing.assert_allclose(near.shared.sigma, exact.shared.sigma, rtol=1e-3)


def test_under_noise_no_intercept_of_a_batch_is_published_because_each_site_finds_a_better_one() -> None:
    found = run(hospitals(), choice(listed(), "longitudinal", 2, FEW), 5.0)["reference"]
    assert found["location"] == [None] * len(found["batches"])
    assert not found["spread"]  # nor is the error within patients good enough to scale by
    assert run(hospitals(), choice(listed(), "longitudinal", 2, FEW))["reference"]["spread"]


def test_counts_of_batches_below_the_floor_look_like_none() -> None:
    sites = hospitals()
    names = (*batches_of(sites), "nowhere|p")
    rows = run(sites, choice(tuple(sorted(names)), columns=FEW))["tables"]["batches"]
    assert {row["batch"]: row["scans"] for row in rows}["nowhere|p"] == "fewer than 10, or none"
    noised = run(sites, choice(tuple(sorted(names)), columns=FEW), 20.0)["tables"]["batches"]
    assert {row["batch"]: row["scans"] for row in noised}["nowhere|p"] == "fewer than 60, or none"
    assert all(row["scans"] == "fewer than 60, or none" or row["scans"] >= 60 for row in noised)


def test_the_intercept_of_a_batch_with_few_scans_is_not_published() -> None:
    tables = last_scans(hospitals()[1], 2)
    mri = tables["mri"].reset_index(drop=True)
    mri.loc[:8, ["scanner_id", "protocol_id"]] = "few"
    made = choice(tuple(sorted((*batches_of(hospitals()), "few|few"))), "longitudinal", 2, FEW)
    found = run((hospitals()[0], {**tables, "mri": mri}, *hospitals()[2:]), made)
    location = dict(zip(found["reference"]["batches"], found["reference"]["location"], strict=True))
    assert location.pop("few|few") is None
    assert sum(each is not None for each in location.values()) > 3
    assert {row["batch"]: row["scans"] for row in found["tables"]["batches"]}["few|few"] == "fewer than 10, or none"


@settings(max_examples=30, deadline=None)
@given(
    column=st.integers(1, WIDTH - 1),
    value=st.sampled_from([np.nan, np.inf, -np.inf, -1.0, -1e300, 1e300, 0.5, 7.0, 1e-320]),
    model=st.sampled_from(["combat", "longitudinal"]),
)
def test_no_cell_of_a_patient_raises_or_moves_another_patient(column: int, value: float, model: str) -> None:
    """A refusal would tell that there is such a patient."""
    site, made = records(hospitals()[1]), choice(listed(), model)
    odd = site.values.copy()
    odd[site.owners == 3, column] = value
    before, changed = (TASK.vectors(made, (), Records(values, site.owners, site.patients)) for values in (site.values, odd))
    assert np.isfinite(changed).all()
    others = np.arange(site.patients) != 3
    np.testing.assert_array_equal(changed[others], before[others])
    assert before[3].any()


@pytest.mark.parametrize("model", ["combat", "longitudinal"])
def test_a_site_without_a_scan_of_a_listed_batch_adds_zeros(model: str) -> None:
    made, site = choice(("nowhere|p", "nowhere|q"), model), records(hospitals()[0])
    found = TASK.vectors(made, (), site)
    assert found.shape == (site.patients, stage_sizes(TASK, made)[0])
    assert not found.any()


@pytest.mark.parametrize("model", ["combat", "longitudinal"])
def test_names_that_nobody_has_are_an_error_of_the_plan_and_not_a_result(model: str) -> None:
    with pytest.raises(HarmoniseError, match="no site has a complete scan of a listed batch"):
        run(hospitals()[:1], choice(("nowhere|p",), model))


@pytest.mark.parametrize("model", ["combat", "longitudinal"])
def test_a_plan_whose_only_covariate_is_the_same_for_everybody_is_told_so(model: str) -> None:
    women = tuple({**tables, "patients": tables["patients"].assign(sex="F")} for tables in hospitals()[:2])
    with pytest.raises(HarmoniseError, match="male: none varies within any batch"):
        run(women, choice(listed(), model, columns=("sex", "nbv_ml", "thalamus_ml")))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Choice("mean", {"batches": "a|p"}, FEW), "no model 'mean'"),
        (Choice("combat", {"batch": "a|p"}, FEW), "option 'batch' is unknown"),
        (Choice("combat", {}, FEW), "batches is empty"),
        (Choice("combat", {"batches": "a"}, FEW), "not of the form scanner|protocol"),
        (Choice("combat", {"batches": "a|"}, FEW), "not of the form"),
        (Choice("combat", {"batches": "a|p,a|p"}, FEW), "listed twice"),
        (Choice("combat", {"batches": ",".join(f"s{at}|p" for at in range(201))}, FEW), "201 batches, at most 200"),
        (Choice("combat", {"batches": "a|p", "scans": 9}, FEW), "scans is 9"),
        (Choice("combat", {"batches": "a|p", "scans": True}, FEW), "scans is True"),
        (Choice("longitudinal", {"batches": "a|p", "scans": 1}, FEW), "scans is 1"),
        (Choice("combat", {"batches": "a|p"}, ("age_years", "nbv_ml")), "1 measures"),
        (Choice("combat", {"batches": "a|p"}, ("nbv_ml", "gm_ml")), "at least one"),
        (Choice("combat", {"batches": "a|p"}, (*FEW, "cord_csa_mm2")), "no column 'cord_csa_mm2'"),
    ],
)
def test_a_plan_that_says_nothing_or_nonsense_is_refused(made: Choice, message: str) -> None:
    with pytest.raises(ContractError, match=message.replace("|", r"\|")):
        layout(TASK, made)


def test_a_scan_without_scanner_or_with_failed_quality_is_in_no_sum() -> None:
    tables = hospitals()[1]
    odd = tables["mri"].copy()
    odd["scanner_id"] = None
    assert (rows_of(scan_table({**tables, "mri": odd}))[:, 0] == NO_BATCH).all()
    failed = {**tables, "mri": tables["mri"].assign(qc="fail")}
    with pytest.raises(DataError, match="no scan in the table mri has a measured volume"):
        TASK.cohort_of(failed)
    with pytest.raises(DataError, match="no scan"):
        TASK.cohort_of({"patients": tables["patients"]})


def test_covariates_are_those_of_the_day_of_the_scan() -> None:
    patients = pd.DataFrame({"patient_id": ["p"], "sex": ["M"], "birth_year": [1980], "year_band": ["2015-2017"],
                             "onset_day": [-365], "phenotype_entry": ["RRMS"]})  # fmt: skip
    visits = pd.DataFrame({"patient_id": ["p", "p"], "day": [0, 700], "edss": [2.0, 4.0], "phenotype": [None, "SPMS"]})
    mri = pd.DataFrame({"patient_id": ["p"] * 3, "day": [10, 690, 1500], "scan_id": ["s1", "s2", "s3"],
                        "scanner_id": ["x"] * 3, "protocol_id": ["q"] * 3, "nbv_ml": [1500.0] * 3})  # fmt: skip
    found = scan_table({"patients": patients, "visits": visits, "mri": mri})
    assert found["edss"].tolist()[:2] == [2.0, 4.0]
    assert math.isnan(found["edss"].iloc[2])  # the nearest visit is more than half a year away
    assert found["phenotype"].tolist() == ["RRMS", "SPMS", "RRMS"]
    np.testing.assert_allclose(found["age_years"], 36 + np.array([10, 690, 1500]) / 365.25)
    np.testing.assert_allclose(found["duration_years"], 1 + np.array([10, 690, 1500]) / 365.25, atol=0.01)
    assert rows_of(found).shape == (3, WIDTH)
    assert set(found["batch"]) == {"x|q"}


@pytest.mark.parametrize("scan_day", [10, 30])
def test_of_two_visits_of_one_day_the_worse_counts_in_any_order(scan_day: int) -> None:
    patients = pd.DataFrame({"patient_id": ["p"], "sex": ["M"]})
    visits = pd.DataFrame({"patient_id": ["p"] * 2, "day": [20] * 2, "edss": [2.0, 4.0], "phenotype": ["RRMS", "SPMS"]})
    mri = pd.DataFrame({"patient_id": ["p"], "day": [scan_day], "scan_id": ["s"], "nbv_ml": [1500.0]})
    for rows in (visits, visits[::-1]):
        found = scan_table({"patients": patients, "visits": rows, "mri": mri})
        assert (found["edss"].tolist(), found["phenotype"].tolist()) == ([4.0], ["SPMS"])


def test_a_reference_is_read_strictly(tmp_path: Path) -> None:
    good = run(hospitals(), choice(listed(), "longitudinal", 4, FEW))
    path = tmp_path / "result.json"
    path.write_text(json.dumps(good))
    assert load_reference(path).longitudinal
    part = good["reference"]
    broken: list[Any] = [
        {**part, "version": "99"}, {**part, "format": "other"}, {**part, "beta": part["beta"][:1]}, {**part, "sigma": [0.0, 1.0]},
        {**part, "sigma": [float("nan"), 1.0]}, {**part, "measures": ["nbv_ml", "mood"]}, {**part, "scans": 0},
        {**part, "ratio": [-1.0, 1.0]}, {key: value for key, value in part.items() if key != "grand_mean"}, None, [1],
        {**part, "location": part["location"][1:]}, {**part, "grand_mean": [1e9, 0.0]}, {**part, "protected": ["male", "age"]},
        {**part, "spread": "yes"}, {**part, "scans": float("inf")}, {**part, "sigma": [10**400, 1.0]},
        {**part, "ratio": [10**400, 1]}, {**part, "model": "combined"}, {**part, "model": None}, {**part, "scans": 1.5},
        {**part, "scans": True}, {**part, "scans": "3"}, {**part, "sigma": [1e-300, 1.0]}, {**part, "protected": "age"},
    ]  # fmt: skip
    for other in broken:
        path.write_text(json.dumps({**good, "reference": other}))
        with pytest.raises(DataError):
            load_reference(path)
    for text in ("[]", "{", "null", "[" * 100_000, '{"reference": ' + "9" * 5000 + "}"):
        path.write_text(text)
        with pytest.raises(DataError):
            load_reference(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_reference(tmp_path / "nothing.json")
    path.write_bytes(b" " * (1 << 24) + json.dumps(good).encode())
    with pytest.raises(DataError, match="more than 16777216 bytes"):
        load_reference(path)


def test_every_scan_has_a_row_and_a_state_and_only_harmonised_ones_have_values() -> None:
    mri = hospitals()[0]["mri"].reset_index(drop=True)
    mri.loc[:4, "scanner_id"] = None
    mri.loc[5:8, "protocol_id"] = "new"
    mri.loc[9:12, list(MEASURES)] = np.nan
    visits = hospitals()[0]["visits"]
    tables = {**hospitals()[0], "mri": mri, "visits": visits[visits["patient_id"] != mri["patient_id"].iloc[-1]]}
    found = harmonise_tables(reference(hospitals(), choice(listed())), tables)
    assert len(found.scans) == len(tables["mri"]) == sum(found.counts.values())
    filled = found.scans[list(MEASURES)].notna().any(axis=1)
    assert (filled == (found.scans["state"] == "harmonised")).all()
    assert set(found.scans["state"]) == {"harmonised", "no_batch", "no_covariate", "no_measure", "few_scans"}
    assert "values" not in repr(found).replace("rows", "")
    assert not any(str(name) in repr(found) for name in tables["patients"]["patient_id"])


def last_scans(tables: Tables, n: int) -> Tables:
    """Of each patient the last `n` that are complete."""
    kept = complete(scan_table(tables)).groupby("patient_id").tail(n)[["patient_id", "scan_id"]]
    return {**tables, "mri": tables["mri"].merge(kept)}


def test_scans_of_a_late_scanner_take_none_of_a_listed_one_out() -> None:
    names = listed()
    tables, frozen = last_scans(hospitals()[1], 2), reference(hospitals(), choice(names, scans=1, columns=FEW))
    late = tables["mri"].assign(day=tables["mri"]["day"] + 1, scan_id=tables["mri"]["scan_id"] + "-late", protocol_id="late")
    both = {**tables, "mri": pd.concat([tables["mri"], late], ignore_index=True)}
    alone, beside = (harmonise_tables(frozen, each) for each in (tables, both))
    assert any(batch["harmonised"] and not batch["in_the_run"] for batch in beside.batches)
    assert [batch for batch in beside.batches if batch["in_the_run"]] == [batch for batch in alone.batches if batch["in_the_run"]]
    kept = beside.scans[~beside.scans["scan_id"].str.endswith("-late")].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, alone.scans)
    assert (alone.scans["state"] == "harmonised").sum() > 50


def test_a_patient_s_level_is_that_of_the_scans_that_the_plan_lets_in() -> None:
    tables, frozen = last_scans(hospitals()[1], 4), reference(hospitals(), choice(listed(), "longitudinal", 2, FEW))
    mri = scan_table(tables)[list(tables["mri"].columns)]
    late = mri.groupby("patient_id").cumcount(ascending=False) < 2
    mri.loc[~late, ["nbv_ml", "thalamus_ml"]] *= 1.01
    before, after = (harmonise_tables(frozen, each).scans for each in (tables, {**tables, "mri": mri}))
    pd.testing.assert_frame_equal(before[late], after[late])
    assert late.sum() > 50
    assert (before.loc[~late, "nbv_ml"] != after.loc[~late, "nbv_ml"]).any()


def test_where_spreads_stay_every_scan_of_a_batch_moves_by_the_same() -> None:
    tables, frozen = hospitals()[1], reference(hospitals(), choice(listed(), "longitudinal", 2, FEW))
    measured = scan_table(tables)["nbv_ml"].to_numpy(float)
    for spread, same_for_all in ((False, True), (True, False)):
        found = harmonise_tables(replace(frozen, spread=spread), tables).scans
        moves = (found["nbv_ml"] - measured).groupby(found["batch"]).agg(["std", "count"])
        assert (moves.loc[moves["count"] > 9, "std"] < 1e-6).all() == same_for_all
        assert (moves["count"] > 9).sum() > 1


@pytest.mark.parametrize(("n", "state"), [(9, "few_scans"), (10, "harmonised")])
def test_ten_complete_scans_make_a_batch_that_can_be_harmonised(n: int, state: str) -> None:
    tables, frozen = last_scans(hospitals()[1], 1), reference(hospitals(), choice(listed(), columns=FEW))
    mri = tables["mri"].reset_index(drop=True)
    mri.loc[: n - 1, ["scanner_id", "protocol_id"]] = "new"
    found = harmonise_tables(frozen, {**tables, "mri": mri}).scans
    assert found.loc[found["batch"] == "new|new", "state"].tolist() == [state] * n


def test_frames_of_equal_choices_are_equal_whatever_the_order_of_the_names() -> None:
    one, two = (Choice("combat", {"batches": names}, FEW) for names in ("a|p,b|q", "b|q, a|p"))
    assert frame_of(one) == frame_of(two)
