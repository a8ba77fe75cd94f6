"""Longitudinal ComBat from sums equals the one that sees every scan, and keeps what changes within a patient.

The pooled one is written here from Beer et al. 2020, sec. 2.1, and the textbook's equations of restricted likelihood, with the
whole covariance matrix in view.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq

from tasks.harmonise import BatchStatistics, HarmoniseError, Measure, Plan, effect_of
from tasks.harmonise.longitudinal import (
    Mixed,
    Profile,
    combine_longitudinal,
    late_locations,
    moments_of,
    patient_levels,
    patient_rows,
    shapes,
)

Floats = NDArray[np.float64]
MEASURES = (Measure("nbv_ml", 1500, 80), Measure("gm_ml", 790, 42), Measure("thalamus_ml", 13.5, 1.5))
NAMES = ("a", "b", "c")
PLAN = Plan(MEASURES, NAMES, phenotypes=(), protected=("age", "male"))
MOST = 5


@dataclass(frozen=True)
class Group:
    """Scans of patients, some of whom changed the scanner; model's scale. `batch` (n_scans,) counts `NAMES`."""

    x: Floats
    y: Floats
    batch: NDArray[np.intp]
    owners: NDArray[np.intp]
    patients: int

    def take(self, patients: NDArray[np.intp]) -> "Group":
        rows = np.isin(self.owners, patients)
        owners = np.searchsorted(np.sort(patients), self.owners[rows])
        return Group(self.x[rows], self.y[rows], self.batch[rows], owners, len(patients))


def group(seed: int, patients: int = 80, level: float = 1.0, error: float = 0.3) -> Group:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, MOST + 1, patients)
    owners = np.repeat(np.arange(patients), counts)
    later = np.concatenate([np.arange(count) for count in counts])
    batch = np.where(rng.random(owners.size) < 0.8, owners % 3, (owners + later) % 3)
    x = np.stack([rng.normal(0, 1.2, patients)[owners] + later / 10, (rng.random(patients) < 0.4)[owners].astype(float)], axis=1)
    effects = np.array([[-0.4, -0.5, -0.3], [0.3, 0.2, 0.1]])
    shift, spread = rng.normal(0, 0.4, (3, 3)), rng.uniform(0.7, 1.4, (3, 3))
    y = x @ effects + shift[batch] + level * rng.standard_normal((patients, 3))[owners]
    y += error * spread[batch] * rng.standard_normal(y.shape)
    return Group(x, y, batch.astype(np.intp), owners, patients)


def sums(people: Group) -> Floats:
    both = np.hstack([np.eye(3)[people.batch], people.x])
    return np.asarray(patient_rows(both, people.y, people.owners, people.patients, MOST).sum(axis=0))


def fitted(total: Floats) -> Mixed:
    return combine_longitudinal(PLAN, moments_of(total, 5, 3, MOST))


def federated(people: Group, found: Mixed) -> Floats:
    """What a site does with the fit: levels of its patients, effects of its batches, its scans without them."""
    left = people.y - people.x @ found.shared.beta
    level = patient_levels(left - found.location[people.batch], people.owners, people.patients, found.ratio)[people.owners]
    expected = people.x @ found.shared.beta + found.shared.grand_mean + level
    values = np.empty_like(people.y)
    for at, name in enumerate(NAMES):
        rows = people.batch == at
        z = people.y[rows] - expected[rows]
        offset = z.mean(axis=0)
        statistics = BatchStatistics(name, np.full(3, float(rows.sum())), offset, ((z - offset) ** 2).sum(axis=0))
        effect = effect_of(found.shared, statistics)
        values[rows] = found.shared.sigma * (z / found.shared.sigma - effect.shift) / np.sqrt(effect.scale) + expected[rows]
    return values


def pooled(people: Group) -> Floats:
    """Beer 2020: y_ijv = alpha_v + X beta_v + gamma_iv + eta_jv + delta_iv e_ijv; sum over batches of n_i gamma_iv = 0."""
    n = len(people.y)
    z = (people.owners[:, None] == np.arange(people.patients)).astype(float)
    x = np.hstack([np.ones((n, 1)), people.x, (people.batch[:, None] == [1, 2]).astype(float)])
    standard, predicted, sigma = np.empty_like(people.y), np.empty_like(people.y), np.empty(3)
    sizes = np.bincount(people.batch, minlength=3)
    for v in range(3):
        y = people.y[:, v]
        ratio = brentq(lambda value, y=y: score(x, y, z, value), 1e-6, 500, xtol=1e-14, rtol=1e-14)  # type: ignore[misc]
        p = projection(x, z, ratio)
        sigma[v] = math.sqrt(y @ p @ y / (n - x.shape[1]))  # of the residual, REML
        inverse = np.linalg.inv(np.eye(n) + ratio * z @ z.T)
        b = np.linalg.solve(x.T @ inverse @ x, x.T @ inverse @ y)
        eta = ratio * z.T @ inverse @ (y - x @ b)  # best linear unbiased prediction
        gamma = np.concatenate([[0.0], b[-2:]])
        gamma = gamma - sizes @ gamma / n
        fit = x @ b + z @ eta
        predicted[:, v] = fit - gamma[people.batch]
        standard[:, v] = (y - fit + gamma[people.batch]) / sigma[v]
    for i in range(3):
        rows = people.batch == i
        standard[rows] = without_batch(standard[rows])
    return standard * sigma + predicted


def projection(x: Floats, z: Floats, ratio: float) -> Floats:
    inverse = np.linalg.inv(np.eye(len(x)) + ratio * z @ z.T)
    return np.asarray(inverse - inverse @ x @ np.linalg.solve(x.T @ inverse @ x, x.T @ inverse))


def score(x: Floats, y: Floats, z: Floats, ratio: float) -> float:
    """Derivative of the restricted log likelihood by the ratio, twice, with the error's variance at its best."""
    p = projection(x, z, ratio)
    variance = y @ p @ y / (len(y) - x.shape[1])
    return float(y @ p @ z @ z.T @ p @ y / variance - np.trace(p @ z @ z.T))


def without_batch(z: Floats) -> Floats:
    """Beer 2020, sec. 2.1, steps 2 and 3: parametric empirical Bayes in one batch."""
    n, gamma_hat, delta_hat = len(z), z.mean(axis=0), z.var(axis=0, ddof=1)
    gamma_bar, tau2, m, s2 = gamma_hat.mean(), gamma_hat.var(ddof=1), delta_hat.mean(), delta_hat.var(ddof=1)
    a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    gamma, delta = gamma_hat, delta_hat
    for _ in range(1000):
        gamma = (n * tau2 * gamma_hat + delta * gamma_bar) / (n * tau2 + delta)
        delta = (b + ((z - gamma) ** 2).sum(axis=0) / 2) / (a + n / 2 - 1)
    return np.asarray((z - gamma) / np.sqrt(delta))


@pytest.mark.parametrize("seed", range(4))
def test_from_sums_alone_it_equals_pooled_longitudinal_combat(seed: int) -> None:
    people = group(seed)
    halves = [people.take(np.arange(at, people.patients, 2)) for at in (0, 1)]
    found = fitted(sums(halves[0]) + sums(halves[1]))
    unit = np.array([measure.spread for measure in MEASURES])
    np.testing.assert_allclose(federated(people, found) * unit, pooled(people) * unit, rtol=0, atol=1e-6)


def test_where_patients_do_not_differ_the_ratio_is_0_and_the_fit_is_least_squares() -> None:
    people = group(5, patients=60, level=0.0)
    people = replace(people, y=people.y - patient_means(people))
    found = fitted(sums(people))
    both = np.hstack([np.eye(3)[people.batch], people.x])
    assert (found.ratio == 0).all()
    np.testing.assert_allclose(np.vstack([found.location, found.shared.beta]), np.linalg.lstsq(both, people.y)[0], atol=1e-9)


def patient_means(people: Group) -> Floats:
    total = np.zeros((people.patients, 3))
    np.add.at(total, people.owners, people.y)
    return np.asarray((total / np.bincount(people.owners)[:, None])[people.owners])


def test_the_ratio_comes_near_the_truth() -> None:
    found = fitted(sums(group(6, patients=3000, level=0.9, error=0.3)))
    np.testing.assert_allclose(found.ratio, 0.81 / 0.09, rtol=0.25)


def test_slope_is_the_derivative_of_the_deviance() -> None:
    total = moments_of(sums(group(7)), 5, 3, MOST)
    one = Profile(total.xx, total.xy[:, :, 0], total.yy[:, 0], total.patients(3))
    for ratio in (0.0, 0.3, 4.0, 60.0):
        step = 1e-5 * (1 + ratio)
        assert one.slope(ratio + step) == pytest.approx(
            (one.deviance(ratio + 2 * step) - one.deviance(ratio)) / (2 * step), rel=1e-3, abs=1e-4
        )


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_patient_adds_the_same_wherever_the_patient_is_and_whoever_else_is_there(seed: int) -> None:
    people = group(seed, patients=12)
    both = np.hstack([np.eye(3)[people.batch], people.x])
    whole = patient_rows(both, people.y, people.owners, 12, MOST)
    for at in range(12):
        rows = people.owners == at
        alone = patient_rows(both[rows], people.y[rows], np.zeros(rows.sum(), dtype=np.intp), 1, MOST)
        np.testing.assert_allclose(whole[at], alone[0], atol=1e-12)
    assert whole.shape[1] == sum(math.prod(shape) for shape in shapes(5, 3, MOST))


def test_somebody_without_scans_adds_zeros() -> None:
    rows = patient_rows(np.zeros((0, 5)), np.zeros((0, 3)), np.zeros(0, dtype=np.intp), 2, MOST)
    assert not rows.any()


def test_scans_counted_from_the_sums_are_the_scans() -> None:
    people = group(8)
    found = moments_of(sums(people), 5, 3, MOST)
    np.testing.assert_allclose(found.patients(3), np.bincount(np.bincount(people.owners), minlength=MOST + 1)[1:], atol=1e-9)


def test_a_late_batch_gets_the_intercept_that_least_squares_with_the_frozen_fit_gives() -> None:
    people = group(9)
    found = fitted(sums(people))
    left = people.y - people.x @ found.shared.beta
    late = found.location.copy()
    late[2] = np.nan
    got = late_locations(left, people.batch, people.owners, found.ratio, late)
    np.testing.assert_array_equal(got[:2], found.location[:2])
    for v in range(3):
        covariance = np.eye(len(left)) + found.ratio[v] * (people.owners[:, None] == people.owners)
        here = people.batch == 2
        x, y = here.astype(float), left[:, v] - np.where(here, 0.0, found.location[people.batch, v])
        inverse = np.linalg.inv(covariance)
        assert got[2, v] == pytest.approx((x @ inverse @ y) / (x @ inverse @ x), rel=1e-9)
    np.testing.assert_allclose(got[2], found.location[2], atol=0.05)  # nearly what it had when it was in the fit


def test_a_batch_of_the_plan_that_nobody_has_costs_the_others_nothing() -> None:
    people = group(10)
    rows = patient_rows(
        np.hstack([np.eye(4)[people.batch], people.x]), people.y, people.owners, people.patients, MOST
    )  # batch d has no scan
    plan = replace(PLAN, batches=(*NAMES, "d"))
    found = combine_longitudinal(plan, moments_of(rows.sum(axis=0), 6, 3, MOST))
    np.testing.assert_allclose(found.location[:3], fitted(sums(people)).location, atol=1e-9)
    assert np.isnan(found.location[3]).all()


def one_scan_each() -> Group:
    people = group(11)
    _, first = np.unique(people.owners, return_index=True)
    return Group(people.x[first], people.y[first], people.batch[first], np.arange(people.patients), people.patients)


def constant_within() -> Group:
    people = group(12)
    people = replace(people, x=people.x[np.unique(people.owners, return_index=True)[1]][people.owners], batch=people.owners % 3)
    return replace(people, y=patient_means(people))


@pytest.mark.parametrize(
    ("people", "message"),
    [
        (one_scan_each(), "fewer than 2 patients have several scans"),
        (replace(group(11), x=group(11).x * [1.0, 0.0]), "male does not vary"),
        (replace(group(11), x=np.repeat(group(11).x[:, :1], 2, axis=1)), "cannot tell batches and covariates apart"),
        (constant_within(), "nothing varies within patients"),
    ],
)
def test_what_the_scans_do_not_determine_is_refused(people: Group, message: str) -> None:
    with pytest.raises(HarmoniseError, match=message):
        fitted(sums(people))


def test_what_changes_within_a_patient_survives_a_change_of_scanner() -> None:
    """Everybody's brain shrinks alike; half of the patients get a new scanner. Without scanners, nobody's slope would differ."""
    rng = np.random.default_rng(13)
    patients, years = 120, np.arange(4)
    owners, year = np.repeat(np.arange(patients), 4), np.tile(years, patients)
    batch = np.where((year >= 2) & (owners % 2 == 0), 1, np.where(owners % 2 == 0, 0, 2))
    age = rng.normal(0, 1, patients)[owners] + year / 10
    truth = -0.5 * age[:, None] * np.ones(3) + rng.standard_normal((patients, 3))[owners]
    shift = np.array([[0.0, 0.1, -0.1], [0.6, -0.5, 0.4], [0.1, 0.0, 0.2]])
    y = truth + shift[batch] + 0.05 * rng.standard_normal(truth.shape)
    x = np.stack([age, (rng.random(patients) < 0.5)[owners].astype(float)], axis=1)
    people = Group(x, y, batch.astype(np.intp), owners, patients)
    after = federated(people, fitted(sums(people)))
    jump = lambda values: values[year == 2] - values[year == 1]  # noqa: E731 - one line is enough
    moved = (owners % 2 == 0)[year == 2]
    before = np.abs(jump(y)[moved].mean(axis=0) - jump(y)[~moved].mean(axis=0))
    left = np.abs(jump(after)[moved].mean(axis=0) - jump(after)[~moved].mean(axis=0))
    assert (before > 0.3).all()
    assert (left < 0.03).all()
