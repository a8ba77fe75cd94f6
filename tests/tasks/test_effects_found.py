"""Where nothing is to be found, 5 % of runs at most declare something, whatever the noise; and what is there is found."""

import math

import numpy as np
import pytest

from tasks.effects import figures as of
from tasks.effects import found as tests_of
from tasks.effects.cells import ARMS, STRATA, difference, edges
from tasks.effects.found import MARGIN, Z_EFFECT, Z_ORDER, effect_found, evidence, order_found

BINS = 12
Floats = np.ndarray


def counts(rng: np.random.Generator, n: int, *, effect: float = 0.0, leaning: float = 0.0) -> Floats:
    """Cells of `n` patients, treatment and risk both 0.1 to 0.9 and 0.15 to 0.5 by stratum. `effect`: of treatment on the risk;
    `leaning`: what is added to it where a benefit is predicted, and taken from it where harm is."""
    stratum = rng.integers(0, STRATA, n)
    chance = 0.1 + 0.8 * stratum / (STRATA - 1)
    treated = rng.random(n) < chance
    predicted = rng.normal(0.0, 0.06, n)
    risk = 0.15 + 0.35 * chance + treated * (effect + leaning * np.sign(predicted))
    cells = np.zeros((BINS, STRATA, ARMS))
    np.add.at(cells, (np.digitize(predicted, edges(BINS)), stratum, 2 * treated + (rng.random(n) < risk)), 1.0)
    return cells


@pytest.mark.parametrize(("n", "noise"), [(60, 0.0), (300, 0.0), (60, 1.6), (300, 0.4), (300, 1.6), (3000, 1.6)])
def test_counts_of_treatments_that_do_nothing_declare_something_in_one_of_twenty_runs_at_most(
    monkeypatch: pytest.MonkeyPatch, n: int, noise: float
) -> None:
    """Without the margin, which would hide a wrong variance: 1,000 draws, a rate of 5 % has a standard error of 0.7 %."""
    monkeypatch.setattr(tests_of, "MARGIN", 0.0)
    rng, declared = np.random.default_rng(n), 0
    for _ in range(1000):
        cells = counts(rng, n) + noise * rng.normal(size=(BINS, STRATA, ARMS))
        declared += effect_found(cells, noise) or order_found(cells, noise)
    assert declared / 1000 <= 0.05 + 3 * 0.007
    if n >= 300:
        assert declared > 0  # and the tests are none that never say anything


def test_without_noise_and_margin_they_are_the_tests_of_mantel_and_haenszel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tests_of, "MARGIN", 0.0)
    for seed in range(60):
        cells = counts(np.random.default_rng(seed), 400, effect=-0.12, leaning=0.06)
        whole = difference(cells.sum(0))
        assert effect_found(cells) == (abs(float(whole.total)) > Z_EFFECT * math.sqrt(float(whole.variance)))
        assert order_found(cells) == (float(of.slope(cells)) > Z_ORDER * of.slope_se(cells))


def test_noise_moves_no_total_and_its_variance_is_not_understated() -> None:
    rng, noise = np.random.default_rng(1), 2.0
    cells = counts(rng, 600, effect=-0.2).sum(0)
    found = [evidence(cells + noise * rng.normal(size=cells.shape), noise) for _ in range(4000)]
    totals = np.array([float(each.total.sum()) for each in found])
    weight = 1.0 / (cells.sum(-1) + 4.0 * noise**2)
    products = cells[:, 3] * cells[:, 0] - cells[:, 1] * cells[:, 2]
    assert totals.mean() == pytest.approx(float(np.sum(weight * products)), abs=0.15 * totals.std())
    sampling = float(evidence(cells, 0.0).variance.sum())
    stated = np.mean([float(each.variance.sum()) for each in found])
    assert stated >= 0.97 * (totals.var() + 0.5 * sampling)  # weights of noise are smaller than those without
    assert stated <= 2.0 * (totals.var() + sampling)


def test_a_difference_that_confounding_explains_is_not_declared_however_many_patients_there_are() -> None:
    for n in (20_000, 400_000):
        rng = np.random.default_rng(n)
        assert not effect_found(counts(rng, n, effect=0.7 * MARGIN))
        assert not order_found(counts(rng, n, effect=-0.1, leaning=0.7 * MARGIN))
    assert effect_found(counts(rng, 400_000, effect=1.5 * MARGIN))
    assert order_found(counts(rng, 400_000, effect=-0.1, leaning=1.5 * MARGIN))


def test_effects_of_the_size_of_medicines_are_found_through_noise_too() -> None:
    rng = np.random.default_rng(2)
    for noise in (0.0, 1.6):
        cells = counts(rng, 4000, effect=-0.15, leaning=0.1) + noise * rng.normal(size=(BINS, STRATA, ARMS))
        assert effect_found(cells, noise)
        assert order_found(cells, noise)


def test_an_order_worse_than_chance_and_one_bin_alone_are_no_finding() -> None:
    rng = np.random.default_rng(3)
    assert not order_found(counts(rng, 20_000, effect=-0.1, leaning=-0.1))
    alone = counts(rng, 2000, effect=-0.15)
    alone[1:] = 0.0
    assert not order_found(alone)


def test_nobody_and_noise_alone_are_no_finding() -> None:
    nobody = np.zeros((BINS, STRATA, ARMS))
    for noise in (0.0, 1e-200, 1.0):
        assert not effect_found(nobody, noise)
        assert not order_found(nobody, noise)
    assert not effect_found(nobody - 3.0, 1.0)


def test_figures_of_many_histograms_at_once_are_those_of_each() -> None:
    rng = np.random.default_rng(4)
    many = np.stack(
        [counts(rng, n, effect=-0.1) + noise * rng.normal(size=(BINS, STRATA, ARMS)) for n in (0, 5, 300) for noise in (0, 2)]
    )
    for name, make in of.FIGURES.items():
        each = np.array([float(make(cells)) for cells in many])
        assert np.asarray(make(many)) == pytest.approx(each, nan_ok=True), name
