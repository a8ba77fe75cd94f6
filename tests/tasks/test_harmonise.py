"""Federated ComBat equals pooled ComBat, from sums alone, and does what it is for.

The pooled one is written here with every scan in view. Sites are synthetic (`cohort`, `synthetic`)
or the simulator's (`simulated`).
"""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.harmonise import (
    MRI_MEASURES,
    BatchStatistics,
    Effect,
    Fit,
    HarmoniseError,
    Measure,
    Plan,
    Scans,
    Shared,
    batch_names,
    combine_one,
    combine_two,
    effect_of,
    harmonise,
    round_one,
    round_two,
    statistics_of_new_batch,
)
from tasks.harmonise.scans import design, to_model_scale
from tasks.simulator import simulate

Floats = NDArray[np.float64]

MEASURES = (
    Measure("t2_vol_ml", math.log(5), 1.2, log_offset=0.1),
    Measure("nbv_ml", 1500, 80),
    Measure("thalamus_ml", 13.5, 1.5),
    Measure("lat_ventricle_ml", 22, 10),
    Measure("cord_csa_mm2", 75, 8),
)
BATCHES = ("a", "b", "c", "d")
SIZES = (90, 40, 15, 25)  # unbalanced
PLAN = Plan(MEASURES, BATCHES)
NAMES = [measure.name for measure in MRI_MEASURES]
PHENOTYPES = np.array(["CIS", "RRMS", "SPMS", "PPMS"])


def cohort(seed: int, sizes: tuple[int, ...] = SIZES, names: tuple[str, ...] = BATCHES, missing: float = 0.2) -> Scans:
    """Scans with age, sex and disability in them, and with a shift and a spread of each batch."""
    rng = np.random.default_rng(seed)
    batch = np.repeat(np.array(names), sizes)
    n = batch.size
    age, duration, edss = rng.uniform(20, 70, n), rng.uniform(0, 30, n), rng.integers(0, 14, n) / 2
    sex, phenotype = rng.choice(["F", "M", "X"], n, p=[0.6, 0.35, 0.05]), rng.choice(PHENOTYPES, n, p=[0.2, 0.4, 0.2, 0.2])
    shift, spread = rng.normal(0, 0.6, (len(names), 5)), rng.uniform(0.6, 1.6, (len(names), 5))
    at = np.repeat(np.arange(len(names)), sizes)
    truth = np.outer(age - 40, [0.02, -0.04, -0.03, 0.02, -0.01]) + np.outer(edss, [0.1, -0.05, -0.1, 0.05, -0.1])
    truth += 0.3 * (phenotype == "SPMS")[:, None] + 0.5 * (sex == "M")[:, None]
    found = truth + shift[at] + spread[at] * rng.standard_normal((n, 5)) * 0.7
    values = found * [1.2, 80, 1.5, 10, 8] + [math.log(5), 1500, 13.5, 22, 75]
    values[:, 0] = np.maximum(np.exp(values[:, 0]) - 0.1, 0)
    values[rng.random((n, 5)) < missing] = np.nan
    return Scans(values, age, sex, duration, phenotype, edss, batch, np.ones(n, dtype=bool))


def add(parts: list[Floats]) -> Floats:
    return np.sum(parts, axis=0)


def fitted(sites: list[Scans], plan: Plan = PLAN) -> Fit:
    coefficients = combine_one(plan, add([round_one(plan, site) for site in sites]))
    return combine_two(plan, coefficients, add([round_two(plan, site, coefficients) for site in sites]))


def federated(sites: list[Scans], plan: Plan = PLAN) -> tuple[Fit, dict[str, Effect]]:
    fit = fitted(sites, plan)
    return fit, {batch.name: effect_of(fit.shared, batch) for batch in fit.batches}


def result(sites: list[Scans], plan: Plan = PLAN) -> Floats:
    fit, effects = federated(sites, plan)
    return np.concatenate([harmonise(plan, fit.shared, effects, site) for site in sites])


def by_batch(scans: Scans) -> list[Scans]:
    """One site for `a` and `b`, one for each other batch."""
    return [scans.take(np.isin(scans.batch, names)) for names in (["a", "b"], ["c"], ["d"])]


def pooled(scans: Scans) -> Floats:
    """ComBat as Johnson 2007 and neuroCombat have it: all scans in one place, raw units, batches as indicators, lesions first."""
    values = scans.values.copy()
    values[:, 0] = np.log(values[:, 0] + 0.1)
    names = sorted(set(scans.batch.tolist()))
    indicators = (scans.batch[:, None] == np.array(names)).astype(float)
    numbers = [scans.age_years, [{"F": 0, "M": 1, "X": 0.5}[sex] for sex in scans.sex], scans.duration_years, scans.edss]
    kinds = [(scans.phenotype == name).astype(float) for name in ("CIS", "SPMS", "PPMS")]
    covariates = np.stack([np.asarray(column, dtype=float) for column in numbers + kinds], axis=1)
    standard, expected, sigma = np.empty_like(values), np.empty_like(values), np.empty(values.shape[1])
    for g in range(values.shape[1]):
        there = ~np.isnan(values[:, g])
        x = np.hstack([indicators, covariates])[there]
        beta = np.linalg.lstsq(x, values[there, g], rcond=None)[0]
        sigma[g] = math.sqrt(np.mean((values[there, g] - x @ beta) ** 2))
        mean = indicators[there].sum(axis=0) @ beta[: len(names)] / there.sum()
        expected[:, g] = mean + covariates @ beta[len(names) :]
        standard[:, g] = (values[:, g] - expected[:, g]) / sigma[g]
    for name in names:
        rows = scans.batch == name
        standard[rows] = without_batch(standard[rows])
    found = standard * sigma + expected
    found[:, 0] = np.maximum(np.exp(found[:, 0]) - 0.1, 0)
    return found


def without_batch(z: Floats) -> Floats:
    """One batch's standardised scans (n, n_measures) less its shift and spread by parametric empirical Bayes."""
    there = [column[~np.isnan(column)] for column in z.T]
    gamma_hat = np.array([column.mean() for column in there])
    delta_hat = np.array([column.var(ddof=1) for column in there if column.size > 1])
    gamma_bar, tau2, m, s2 = gamma_hat.mean(), gamma_hat.var(ddof=1), delta_hat.mean(), delta_hat.var(ddof=1)
    a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    found = np.empty_like(z)
    for g, column in enumerate(there):
        gamma, delta = gamma_hat[g], column.var(ddof=1) if column.size > 1 else 1.0
        for _ in range(500):
            gamma = (column.size * tau2 * gamma_hat[g] + delta * gamma_bar) / (column.size * tau2 + delta)
            delta = (b + ((column - gamma) ** 2).sum() / 2) / (a + column.size / 2 - 1)
        found[:, g] = (z[:, g] - gamma) / math.sqrt(delta)
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_federated_equals_pooled_combat(seed: int, missing: float) -> None:
    sites = by_batch(cohort(seed, missing=missing))
    everybody = cohort(seed, missing=missing)
    np.testing.assert_allclose(result(sites), pooled(everybody), rtol=0, atol=1e-6)


def test_a_measure_that_one_batch_never_has_and_one_has_once_still_equals_pooled_combat() -> None:
    scans = cohort(11)
    values = scans.values.copy()
    values[scans.batch == "d", 4] = np.nan
    values[np.flatnonzero(scans.batch == "c")[1:], 3] = np.nan
    scans = replace(scans, values=values)
    expected = pooled(scans.take(scans.batch != "d"))
    several = [scans.take(scans.batch == name) for name in BATCHES]
    assert not np.isnan(result(several)[~np.isnan(values)]).any()
    without_d = Plan(MEASURES, BATCHES[:3])
    np.testing.assert_allclose(result(several[:3], without_d), expected, rtol=0, atol=1e-6)


def test_an_absent_measure_stays_absent_and_takes_nothing_from_the_others() -> None:
    scans = cohort(1, missing=0.0)
    values = scans.values.copy()
    values[:10, 4] = np.nan
    fit, _ = federated([scans])
    less, _ = federated([replace(scans, values=values)])
    np.testing.assert_array_equal(less.shared.beta[:, :4], fit.shared.beta[:, :4])
    found = result([replace(scans, values=values)])
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))


def test_only_the_sum_is_used_so_that_splitting_a_site_changes_nothing() -> None:
    scans = cohort(2)
    one = result([scans])
    odd = np.arange(scans.n) % 2 == 1
    two = result([scans.take(odd), scans.take(~odd)])
    np.testing.assert_allclose(two, np.concatenate([one[odd], one[~odd]]), rtol=1e-10)


def test_a_site_without_training_scans_adds_zeros() -> None:
    scans = replace(cohort(3), training=np.zeros(sum(SIZES), dtype=bool))
    assert not round_one(PLAN, scans).any()
    everybody = combine_one(PLAN, round_one(PLAN, cohort(3)))
    assert not round_two(PLAN, scans, everybody).any()


def test_shapes_follow_from_the_plan_and_from_nobodys_data() -> None:
    small, large = cohort(4, (1, 0, 0, 0)), cohort(5)
    assert round_one(PLAN, small).shape == round_one(PLAN, large).shape == (PLAN.round_one_size,)
    assert PLAN.round_one_size == 4 * 5 * (2 + 7) + 5 * (28 + 7)
    assert PLAN.round_two_size == 4 * 5


def test_held_out_scans_are_harmonised_and_move_nothing() -> None:
    scans = cohort(6)
    training = np.arange(scans.n) % 3 > 0
    values = scans.values.copy()
    values[~training] *= 1.3
    one, _ = federated([replace(scans, training=training)])
    other, effects = federated([replace(scans, training=training, values=values)])
    np.testing.assert_array_equal(one.shared.sigma, other.shared.sigma)
    np.testing.assert_array_equal(one.shared.beta, other.shared.beta)
    found = harmonise(PLAN, other.shared, effects, scans)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(scans.values))


def test_a_late_batch_gets_what_empirical_bayes_on_frozen_parameters_gives_and_moves_nobody() -> None:
    scans = cohort(7)
    early, late = scans.take(scans.batch != "c"), scans.take(scans.batch == "c")
    plan = Plan(MEASURES, ("a", "b", "d"))
    fit, effects = federated([early], plan)
    before = harmonise(plan, fit.shared, effects, early)
    effects["c"] = effect_of(fit.shared, statistics_of_new_batch(plan, fit.shared, late, "c"))
    found = harmonise(plan, fit.shared, effects, late)
    np.testing.assert_array_equal(harmonise(plan, fit.shared, effects, early), before)
    np.testing.assert_allclose(found, frozen(fit.shared, late), rtol=0, atol=1e-6)


def test_held_out_scans_of_a_late_batch_do_not_enter_its_statistics() -> None:
    scans = replace(cohort(7), training=np.arange(sum(SIZES)) % 2 == 0)
    fit, _ = federated([cohort(8)])
    found = statistics_of_new_batch(PLAN, fit.shared, scans, "c")
    alone = statistics_of_new_batch(PLAN, fit.shared, scans.take(scans.training), "c")
    np.testing.assert_array_equal(found.scans, alone.scans)
    np.testing.assert_array_equal(found.squares, alone.squares)


def frozen(shared: Shared, scans: Scans) -> Floats:
    """Pooled ComBat's last step for one batch, with parameters that stand."""
    x = [(scans.age_years - 40) / 10, [{"F": 0, "M": 1, "X": 0.5}[sex] for sex in scans.sex], (scans.duration_years - 10) / 10]
    x += [(scans.edss - 3) / 2, *((scans.phenotype == name) for name in ("CIS", "SPMS", "PPMS"))]
    expected = shared.grand_mean + np.stack([np.asarray(column, dtype=float) for column in x], axis=1) @ shared.beta
    centre, spread = np.array([math.log(5), 1500, 13.5, 22, 75]), np.array([1.2, 80, 1.5, 10, 8])
    values = scans.values.copy()
    values[:, 0] = np.log(values[:, 0] + 0.1)
    z = without_batch(((values - centre) / spread - expected) / shared.sigma)
    found = (z * shared.sigma + expected) * spread + centre
    found[:, 0] = np.maximum(np.exp(found[:, 0]) - 0.1, 0)
    return found


def test_a_batch_of_the_fit_that_joins_again_gets_the_same_statistics() -> None:
    scans = cohort(8)
    fit, _ = federated(by_batch(scans))
    for batch in fit.batches:
        again = statistics_of_new_batch(PLAN, fit.shared, scans, batch.name)
        np.testing.assert_array_equal(again.scans, batch.scans)
        np.testing.assert_allclose(again.offset, batch.offset, atol=1e-10)
        np.testing.assert_allclose(again.squares, batch.squares, rtol=1e-9)


def test_a_batch_with_one_scan_is_refused_alone_and_the_others_are_fitted() -> None:
    fit = fitted([cohort(9, (40, 30, 20, 1), missing=0.0)])
    assert np.isfinite(effect_of(fit.shared, fit.batches[0]).scale).all()
    with pytest.raises(HarmoniseError, match=r"batch d: fewer than 2 measures have 2 training scans"):
        effect_of(fit.shared, fit.batches[3])


def test_a_measure_without_spread_in_a_batch_gets_a_finite_spread_from_the_prior() -> None:
    batch = BatchStatistics("a", np.full(5, 20.0), np.array([0.1, 0.2, -0.1, 0.0, 0.3]), np.array([0.0, 19, 15, 25, 22]))
    found = effect_of(shared_of_one(), batch)
    assert np.isfinite(found.shift).all()
    assert 0 < found.scale[0] < found.scale[1:].min()


def test_a_batch_without_spread_in_any_measure_is_refused() -> None:
    batch = BatchStatistics("a", np.full(5, 20.0), np.arange(5.0), np.zeros(5))
    with pytest.raises(HarmoniseError, match="batch a: no measure varies"):
        effect_of(shared_of_one(), batch)


def test_spreads_that_do_not_differ_are_taken_as_they_are() -> None:
    batch = BatchStatistics("a", np.full(5, 11.0), np.arange(5.0), np.full(5, 20.0))
    np.testing.assert_allclose(effect_of(shared_of_one(), batch).scale, 2.0)


def test_shifts_that_do_not_differ_are_taken_as_they_are() -> None:
    batch = BatchStatistics("a", np.full(5, 11.0), np.full(5, 0.5), np.array([8.0, 9, 10, 11, 12]))
    np.testing.assert_allclose(effect_of(shared_of_one(), batch).shift, 0.5)


def test_an_iteration_that_does_not_settle_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.harmonise.bayes.MAX_STEPS", 1)
    with pytest.raises(HarmoniseError, match="batch a: empirical Bayes did not settle in 1 steps"):
        effect_of(shared_of_one(), BatchStatistics("a", np.full(5, 5.0), np.arange(5.0), np.arange(1.0, 6.0)))


def shared_of_one() -> Shared:
    return Shared(np.zeros((7, 5)), np.zeros(5), np.ones(5))


def test_few_scans_are_drawn_to_the_prior_more_than_many() -> None:
    offset, squares = np.array([1.0, 0.2, 0.1, 0.3, 0.2]), np.array([0.8, 1.1, 1.0, 0.9, 1.2])
    few, many = (effect_of(shared_of_one(), BatchStatistics("a", np.full(5, n), offset, squares * (n - 1))) for n in (3.0, 300.0))
    assert 0.36 < few.shift[0] < many.shift[0] < 1.0


def test_a_measure_with_no_training_scan_in_a_batch_cannot_be_harmonised_there() -> None:
    scans = cohort(10, missing=0.0)
    values = scans.values.copy()
    values[scans.batch == "b", 2] = np.nan
    fit, effects = federated([replace(scans, values=values)])
    assert np.isnan(effects["b"].shift[2])
    with pytest.raises(HarmoniseError, match=r"batch b: thalamus_ml had no training scan there"):
        harmonise(PLAN, fit.shared, effects, scans)


@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_the_order_of_rows_does_not_matter(seed: int, random: object) -> None:
    scans = cohort(seed)
    order = np.array(random.sample(range(scans.n), scans.n))  # type: ignore[attr-defined]
    mixed = replace(scans, **{name: getattr(scans, name)[order] for name in Scans.__dataclass_fields__})
    np.testing.assert_allclose(result([mixed]), result([scans])[order], rtol=1e-8, atol=1e-8)


@given(st.integers(0, 10_000), st.floats(0.2, 50), st.floats(-20, 20))
@settings(max_examples=20, deadline=None)
def test_the_public_centre_and_spread_do_not_change_the_result(seed: int, spread: float, centre: float) -> None:
    scans = cohort(seed)
    other = Plan((*MEASURES[:2], replace(MEASURES[2], centre=centre, spread=spread), *MEASURES[3:]), BATCHES)
    np.testing.assert_allclose(result([scans], other), result([scans]), rtol=1e-7, atol=1e-7)


@dataclass(frozen=True)
class Consortium:
    """Scans of all sites; patient numbers (n_scans,) of one site after another; the plan that all agree on."""

    sites: tuple[Scans, ...]
    patient: NDArray[np.int64]
    plan: Plan

    def fit(self) -> tuple[Fit, dict[str, Effect]]:
        """Pools with one scan have no effect."""
        fit = fitted(list(self.sites), self.plan)
        return fit, {batch.name: effect_of(fit.shared, batch) for batch in fit.batches if batch.scans.min() > 1}

    def with_training(self, share: float) -> "Consortium":
        """The same, with this share of the patients on the training side."""
        chosen = np.random.default_rng(5).random(int(self.patient.max()) + 1) < share
        ends = np.cumsum([site.n for site in self.sites])[:-1]
        sides = np.split(chosen[self.patient], ends)
        sites = tuple(replace(site, training=side) for site, side in zip(self.sites, sides, strict=True))
        return replace(self, sites=sites)

    def everybody(self) -> Scans:
        columns = {name: np.concatenate([getattr(site, name) for site in self.sites]) for name in Scans.__dataclass_fields__}
        return Scans(**columns)


@cache
def simulated(seed: int) -> Consortium:
    """The `demo` preset: two registries, an early clinic, a prospective site; scans that were quantified."""
    consortium = simulate("demo", seed)
    sites, patients = zip(
        *[at_site(consortium.site(name).tables, name) for name in ("north", "south", "east", "west")], strict=True
    )
    offset = np.cumsum([0, *(int(numbers.max()) + 1 for numbers in patients)])[:-1]
    numbers = np.concatenate([patient + first for patient, first in zip(patients, offset, strict=True)])
    batches = sorted({name for site in sites for name in site.batch[site.training].tolist()})
    return Consortium(sites, numbers, Plan(MRI_MEASURES, tuple(batches)))


def at_site(tables: dict[str, pd.DataFrame], site_id: str) -> tuple[Scans, NDArray[np.int64]]:
    """The site's own work: covariates on the day of the scan. EDSS is that of the nearest visit."""
    scans = tables["mri"].dropna(subset=NAMES).sort_values("day")
    visits = tables["visits"].dropna(subset=["edss"]).sort_values("day")[["patient_id", "day", "edss"]]
    scans = pd.merge_asof(scans, visits, on="day", by="patient_id", direction="nearest").merge(tables["patients"], on="patient_id")
    scans = scans[scans["edss"].notna() & scans["phenotype_entry"].isin(["CIS", "RRMS", "SPMS", "PPMS"])]
    begin = scans["year_band"].str[:4].astype(float) + 1.5
    machine = {name: scans[name].to_numpy() for name in ("scanner_id", "protocol_id", "vendor", "field_t")}
    everyone = np.ones(len(scans), dtype=bool)
    found = Scans(
        values=scans[NAMES].to_numpy(float),
        age_years=(begin - scans["birth_year"] + scans["day"] / 365.25).to_numpy(float),
        sex=scans["sex"].to_numpy(str),
        duration_years=((scans["day"] - scans["onset_day"]) / 365.25).to_numpy(float),
        phenotype=scans["phenotype_entry"].to_numpy(str),
        edss=scans["edss"].to_numpy(float),
        batch=batch_names(site_id, **machine, training=everyone),
        training=everyone,
    )
    return found, scans["patient_id"].astype("category").cat.codes.to_numpy(np.int64)


@cache
def synthetic(seed: int) -> Consortium:
    """Four scanners with 300 patients each, alike but for the scanner."""
    rng = np.random.default_rng(seed)
    sizes, names = (300,) * 4, np.array(["a", "b", "c", "d"])
    n = sum(sizes)
    age, duration, edss = rng.uniform(20, 70, n), rng.uniform(0, 30, n), rng.integers(0, 14, n) / 2
    at = np.repeat(np.arange(4), sizes)
    clean = np.outer((age - 40) / 10, [0.3, -0.4, -0.4, -0.3, -0.5, 0.4]) + 0.8 * rng.standard_normal((n, 6))
    measured = clean + rng.normal(0, 0.5, (4, 6))[at] + 0.2 * rng.uniform(-1, 1, (4, 6))[at] * clean
    sex, phenotype = rng.choice(["F", "M"], n), rng.choice(PHENOTYPES, n)
    scans = Scans(native(measured), age, sex, duration, phenotype, edss, names[at], np.ones(n, dtype=bool))
    sites = tuple(scans.take(scans.batch == name) for name in names)
    return Consortium(sites, np.arange(n), Plan(MRI_MEASURES, tuple(names.tolist())))


def native(found: Floats) -> Floats:
    values = found * [measure.spread for measure in MRI_MEASURES] + [measure.centre for measure in MRI_MEASURES]
    values[:, 0] = np.exp(values[:, 0])
    return np.asarray(values)


def adjusted(plan: Plan, fit: Fit, scans: Scans) -> Floats:
    """Measures less what age, sex, duration, phenotype and EDSS explain: biology may tell hospitals apart, scanners may not."""
    return to_model_scale(plan, scans) - design(plan, scans) @ fit.shared.beta


def classifier_auc(found: Floats, label: NDArray[np.str_], patient: NDArray[np.int64]) -> float:
    """Mean over labels of the AUC of linear discriminants, one label against the rest; each half of the patients is judged by the
    classifier of the other half."""
    half = np.random.default_rng(0).permutation(int(patient.max()) + 1)[patient] % 2 == 0
    areas = []
    for name in np.unique(label):
        yes = label == name
        for train, test in ((half, ~half), (~half, half)):
            if min(yes[train].sum(), yes[test].sum()) >= 10:
                areas.append(auc(found[test] @ discriminant(found[train], yes[train]), yes[test]))
    return float(np.mean(areas))


def discriminant(found: Floats, yes: NDArray[np.bool_]) -> Floats:
    one, rest = found[yes], found[~yes]
    within = ((one - one.mean(0)).T @ (one - one.mean(0)) + (rest - rest.mean(0)).T @ (rest - rest.mean(0))) / len(found)
    return np.asarray(np.linalg.solve(within + 1e-3 * np.eye(found.shape[1]), one.mean(0) - rest.mean(0)))


def auc(score: Floats, yes: NDArray[np.bool_]) -> float:
    rank = pd.Series(score).rank().to_numpy()
    n = int(yes.sum())
    return float((rank[yes].sum() - n * (n + 1) / 2) / (n * (len(yes) - n)))


def age_slopes(plan: Plan, scans: Scans, *, within: bool) -> Floats:
    """Change of each measure a decade on the model's scale, (n_measures,), from all scans; `within`: batches as indicators."""
    y = to_model_scale(plan, scans)
    batch = (scans.batch[:, None] == np.unique(scans.batch)).astype(float) if within else np.ones((scans.n, 1))
    x = np.hstack([design(plan, scans), batch])
    return np.asarray(np.linalg.lstsq(x, y, rcond=None)[0][0])


def held_out_aucs(consortium: Consortium, *, by: str) -> tuple[float, float]:
    """How well patients of whom nothing was fitted can be told apart by `site` or `batch`, before and after."""
    fit, effects = consortium.fit()
    everybody = consortium.everybody()
    site = np.repeat([str(at) for at in range(len(consortium.sites))], [site.n for site in consortium.sites])
    kept = ~everybody.training & np.isin(everybody.batch, list(effects))
    before = everybody.take(kept)
    after = replace(before, values=harmonise(consortium.plan, fit.shared, effects, before))
    label = before.batch if by == "batch" else site[kept]
    areas = [classifier_auc(adjusted(consortium.plan, fit, scans), label, consortium.patient[kept]) for scans in (before, after)]
    return areas[0], areas[1]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_scanners_can_no_longer_be_told_apart_by_scans_that_were_not_in_the_fit(seed: int) -> None:
    before, after = held_out_aucs(synthetic(seed).with_training(0.7), by="batch")
    assert before > 0.8
    assert after <= 0.6


@pytest.mark.parametrize("by", ["site", "batch"])
def test_simulated_hospitals_and_scanners_can_no_longer_be_told_apart(by: str) -> None:
    """Mean of two consortia: each has but some 500 scans outside the fit, of 20 scanners."""
    before, after = np.mean([held_out_aucs(simulated(seed).with_training(0.5), by=by) for seed in (7, 8)], axis=0)
    assert before > 0.62
    assert after <= 0.6


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_age_slope_is_kept_within_5_percent(seed: int) -> None:
    before, after = slopes_before_and_after(synthetic(seed))
    np.testing.assert_allclose(after, before, rtol=0.05)


@pytest.mark.parametrize("seed", [7, 8])
def test_the_age_slope_of_simulated_brains_is_kept_within_5_percent(seed: int) -> None:
    """That is of brain, grey matter, cortex. The others' slopes are smaller, and move by less than their standard error of 0.03."""
    before, after = slopes_before_and_after(simulated(seed))
    np.testing.assert_allclose(after[1:4], before[1:4], rtol=0.05)
    np.testing.assert_allclose(after, before, atol=0.02)


def slopes_before_and_after(consortium: Consortium) -> tuple[Floats, Floats]:
    """Before: with batches as indicators, which is the slope free of scanners. After: without, as who uses the values would."""
    fit, effects = consortium.fit()
    everybody = consortium.everybody()
    before = everybody.take(np.isin(everybody.batch, list(effects)))
    after = replace(before, values=harmonise(consortium.plan, fit.shared, effects, before))
    return age_slopes(consortium.plan, before, within=True), age_slopes(consortium.plan, after, within=False)


@pytest.mark.parametrize("seed", [7, 8])
def test_on_simulated_hospitals_federated_equals_pooled_combat(seed: int) -> None:
    consortium = simulated(seed)
    everybody = consortium.everybody()
    counts = {name: int((everybody.batch == name).sum()) for name in consortium.plan.batches}
    several = [name for name, n in counts.items() if n > 1]  # a pool with one scan has no spread
    sites = [site.take(np.isin(site.batch, several)) for site in consortium.sites]
    found = result(sites, Plan(MRI_MEASURES, tuple(several)))
    np.testing.assert_allclose(found, pooled(everybody.take(np.isin(everybody.batch, several))), rtol=0, atol=1e-6)
