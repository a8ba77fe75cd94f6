"""Figures of effects from counts are those of plain loops over patients, and of the closed form where the truth is simple."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.effects import figures as of
from tasks.effects.cells import ARMS, STRATA, WIDEST, difference, edges, middles, strata_of
from tasks.effects.learners import EFFECT, OVERLAP
from tasks.effects.scoring import OUTSIDE, EffectScoring
from tasks.errors import ContractError
from tasks.scoring.base import Scored, Scoring

BINS = 12
Floats = np.ndarray


def people(seed: int, n: int, *, effect: float = -0.2, order: float = 1.0) -> tuple[Floats, Floats, Floats, Floats]:
    """(predicted effect, propensity, treated, outcome): confounded, the effect `effect` on average, `order` of it as predicted."""
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(2 * effect, 0.0, n)
    propensity = rng.uniform(0.07, 0.93, n)
    treated = (rng.random(n) < propensity).astype(float)
    true = effect + order * (predicted - effect)
    outcome = (rng.random(n) < 0.35 + 0.25 * propensity + treated * true).astype(float)
    return predicted, propensity, treated, outcome


def scored(predicted: Floats, propensity: Floats, treated: Floats, outcome: Floats) -> Scored:
    outputs = np.zeros((len(predicted), 4, 2))
    outputs[:, 0, :] = np.log(propensity / (1 - propensity))[:, None]
    outputs[:, EFFECT, :] = predicted[:, None] + np.array([-0.001, 0.001])
    return Scored(outputs, np.column_stack([treated, outcome, np.zeros(len(treated))]), np.zeros((len(treated), 0)))


def histogram_of(scoring: EffectScoring, found: Scored) -> Floats:
    return np.bincount(scoring.places(found)[:, 0], minlength=scoring.cells).astype(float)


def plain_difference(rows: list[tuple[float, float, float]]) -> float:
    """(propensity, treated, outcome) of a group: risks by inverse shares of the arms in strata, strata weighed by overlap."""
    total, weight = 0.0, 0.0
    for stratum in range(STRATA):
        width = (OVERLAP[1] - OVERLAP[0]) / STRATA
        low = OVERLAP[0] + stratum * width
        mine = [row for row in rows if low <= row[0] < low + width]
        arms = [[y for _, w, y in mine if w == arm] for arm in (0.0, 1.0)]
        if arms[0] and arms[1]:
            overlap = len(arms[0]) * len(arms[1]) / len(mine)
            total += overlap * (sum(arms[1]) / len(arms[1]) - sum(arms[0]) / len(arms[0]))
            weight += overlap
    return total / weight


def test_average_effect_and_uplift_curve_are_those_of_plain_loops() -> None:
    scoring = EffectScoring(BINS)
    predicted, propensity, treated, outcome = people(1, 3000)
    found = scoring.figures(histogram_of(scoring, scored(predicted, propensity, treated, outcome)))
    rows = list(zip(propensity, treated, outcome, strict=True))
    assert found["ate"] == pytest.approx(plain_difference(rows), abs=1e-9)
    bounds = [*edges(BINS), np.inf]
    points = [(0.0, 0.0)]
    for bound in bounds:
        above = [row for row, effect in zip(rows, predicted, strict=True) if effect < bound]
        if above:
            share = len(above) / len(rows)
            points.append((share, -share * plain_difference(above)))
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))
    assert found["auuc"] == pytest.approx(area, abs=1e-9)
    assert found["qini"] == pytest.approx(area + found["ate"] / 2, abs=1e-9)
    assert found["ad_wabc"] == pytest.approx(2 * found["qini"])


def test_with_chances_known_the_strata_agree_with_weights_of_each_patient() -> None:
    """In randomised data inverse chances are 2 for everybody: weighing patients and weighing strata are one estimate."""
    rng = np.random.default_rng(2)
    n = 200_000
    predicted = rng.uniform(-0.29, 0.0, n)
    treated = (rng.random(n) < 0.5).astype(float)
    outcome = (rng.random(n) < 0.4 + treated * predicted).astype(float)
    scoring = EffectScoring(60)
    found = scoring.figures(histogram_of(scoring, scored(predicted, np.full(n, 0.5), treated, outcome)))
    aipw = np.mean(2 * treated * outcome - 2 * (1 - treated) * outcome)
    assert found["ate"] == pytest.approx(aipw, abs=4e-3)
    assert found["ate"] == pytest.approx(-0.145, abs=4 * found["ate_sampling_se"])
    # Effects uniform on (-a, 0): treating the share q of greatest benefit avoids q a (1 - q / 2), so AUUC = a / 3, Qini = a / 12.
    assert found["auuc"] == pytest.approx(0.29 / 3, abs=4 * found["auuc_sampling_se"] + 1e-3)
    assert found["qini"] == pytest.approx(0.29 / 12, abs=4 * found["qini_sampling_se"] + 1e-3)
    assert found["effect_slope"] == pytest.approx(1.0, abs=4 * found["effect_slope_sampling_se"] + 0.02)
    assert found["effect_bias"] == pytest.approx(0.0, abs=4 * found["effect_bias_sampling_se"] + 2e-3)
    assert (found["effect_found"], found["order_found"], found["noise_dominates"]) == (1.0, 1.0, 0.0)


def test_confounding_by_indication_is_undone() -> None:
    rng = np.random.default_rng(3)
    sick = rng.uniform(0.06, 0.94, 40_000)
    treated = (rng.random(sick.size) < sick).astype(float)
    outcome = (rng.random(sick.size) < 0.1 + 0.6 * sick - 0.1 * treated).astype(float)
    naive = outcome[treated == 1].mean() - outcome[treated == 0].mean()
    scoring = EffectScoring(BINS)
    found = scoring.figures(histogram_of(scoring, scored(np.full(sick.size, -0.1), sick, treated, outcome)))
    assert naive > 0.03  # the treated fare worse
    assert found["ate"] == pytest.approx(-0.1, abs=0.02)  # 6 strata leave a twentieth of the bias (Cochran 1968)
    assert found["effect_found"] == 1.0


def test_fifths_part_the_patients_and_follow_what_is_true() -> None:
    scoring = EffectScoring(60)
    cells = histogram_of(scoring, scored(*people(4, 60_000)))
    found = scoring.figures(cells)
    seen = [found[f"effect_fifth_{at}"] for at in range(1, 6)]
    predicted = [found[f"predicted_fifth_{at}"] for at in range(1, 6)]
    assert predicted == sorted(predicted)
    assert seen == pytest.approx(predicted, abs=0.04)
    parts = sum(of._parts(cells[:-OUTSIDE].reshape(60, STRATA, ARMS), at) for at in range(5))
    assert parts[cells[:-OUTSIDE].reshape(60, -1).sum(1) > 0] == pytest.approx(1.0)


def test_one_effect_for_everybody_orders_nobody() -> None:
    scoring = EffectScoring(BINS)
    _, propensity, treated, outcome = people(5, 5000)
    found = scoring.figures(histogram_of(scoring, scored(np.full(5000, -0.2), propensity, treated, outcome)))
    assert (found["ad_wabc"], found["order_found"], found["policy_gain"]) == (pytest.approx(0.0, abs=1e-12), 0.0, 0.0)
    assert "effect_slope" not in found


def test_a_policy_spares_those_whom_the_treatment_harms() -> None:
    rng = np.random.default_rng(6)
    n = 40_000
    true = np.where(rng.random(n) < 0.3, 0.1, -0.1)
    treated = (rng.random(n) < 0.5).astype(float)
    outcome = (rng.random(n) < 0.3 + treated * true).astype(float)
    scoring = EffectScoring(BINS)
    found = scoring.figures(histogram_of(scoring, scored(true, np.full(n, 0.5), treated, outcome)))
    assert found["policy_gain"] == pytest.approx(0.03, abs=0.006)
    worse = scoring.figures(histogram_of(scoring, scored(-true, np.full(n, 0.5), treated, outcome)))
    assert worse["policy_gain"] < -0.05
    assert worse["ad_wabc"] < 0
    assert worse["order_found"] == 0.0  # an order worse than chance is no finding


def test_what_is_declared_found_is_false_in_one_of_twenty_runs_at_most() -> None:
    """Nothing is to be found, treatment follows the risk: 120 runs; a rate of 5 % has a standard error of 2 %."""
    scoring, declared = EffectScoring(2), 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        propensity = rng.choice([0.1, 0.3, 0.5, 0.7, 0.9], 300)
        treated = (rng.random(300) < propensity).astype(float)
        outcome = (rng.random(300) < 0.1 + 0.4 * propensity).astype(float)
        found = scoring.figures(histogram_of(scoring, scored(rng.uniform(-0.2, 0.1, 300), propensity, treated, outcome)))
        declared += found["effect_found"] + found["order_found"] > 0
    assert declared / 120 <= 0.05 + 2 * 0.02
    assert declared > 0  # and the test is not one that never says anything


def test_errors_of_sampling_are_those_of_many_samples() -> None:
    scoring = EffectScoring(2)
    runs = [scoring.figures(histogram_of(scoring, scored(*people(seed, 800)))) for seed in range(80)]
    for name in ("ate", "qini", "effect_bias"):
        spread = np.std([run[name] for run in runs])
        assert np.mean([run[f"{name}_sampling_se"] for run in runs]) == pytest.approx(spread, rel=0.3)


def test_noise_widens_intervals_and_says_when_it_is_too_much() -> None:
    scoring = EffectScoring(4)
    cells = histogram_of(scoring, scored(*people(7, 5000)))
    plain, noisy, drowned = (scoring.figures(cells, noise_std=noise) for noise in (0.0, 1.0, 50.0))
    assert plain["ate_noise_se"] == 0.0
    assert noisy["ate_high"] - noisy["ate_low"] > plain["ate_high"] - plain["ate_low"]
    assert noisy["ate"] == plain["ate"]
    assert (plain["noise_dominates"], drowned["noise_dominates"]) == (0.0, 1.0)
    assert drowned["effect_found"] == 0.0
    rng = np.random.default_rng(0)
    spread = np.std([scoring.figures(cells + rng.normal(0, 1.0, cells.size), noise_std=1.0)["ate"] for _ in range(20)])
    assert noisy["ate_noise_se"] == pytest.approx(spread, rel=0.4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 4]), st.floats(0, 30))
def test_any_histogram_gives_figures_that_are_numbers(seed: int, bins: int, noise: float) -> None:
    scoring = EffectScoring(bins)
    cells = np.random.default_rng(seed).normal(0.0, 2.0, scoring.cells) * (seed % 3)
    found = scoring.figures(cells, noise_std=noise)
    assert all(math.isfinite(value) for value in found.values())
    assert found["noise_dominates"] in (0.0, 1.0)
    assert {"effect_found", "order_found"} <= set(found)


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_of_nobody_no_figure_is_told(noise: float) -> None:
    scoring = EffectScoring(4)
    assert set(scoring.figures(np.zeros(scoring.cells), noise_std=noise)) == {"effect_found", "order_found", "noise_dominates"}


def test_an_output_that_is_no_number_is_counted_outside_and_nowhere_else() -> None:
    scoring = EffectScoring(BINS)
    found = scored(*people(8, 6))
    found.outputs[0, EFFECT, 0] = np.nan
    found.outputs[1, 0, :] = np.nan
    found.outputs[2, 0, :] = 9.0  # a chance of 0.9999
    places = scoring.places(found)[:, 0]
    assert places[:3].tolist() == [scoring.cells - OUTSIDE] * 3
    assert np.all(places[3:] < scoring.cells - OUTSIDE)
    assert scoring.places(Scored(np.zeros(0), np.zeros((0, 3)), np.zeros((0, 0)))).shape == (0, 1)


def test_it_is_a_scoring_of_one_block_with_an_even_number_of_cells() -> None:
    scoring = EffectScoring(BINS)
    assert isinstance(scoring, Scoring)
    assert (scoring.cells % 2, scoring.weights, scoring.primary, scoring.lower_is_better) == (0, (1.0,), "ad_wabc", False)
    for bins in (0, 7, 602):
        with pytest.raises(ContractError, match="an even number"):
            EffectScoring(bins)


def test_bins_are_narrow_near_nothing_and_strata_cover_the_overlap() -> None:
    assert np.all(np.diff(edges(BINS)) > 0)
    assert 0.0 in edges(BINS)
    assert np.all(np.abs(middles(BINS)) < WIDEST)
    chances = np.array([0.0, OVERLAP[0] - 1e-9, OVERLAP[0], 0.5, OVERLAP[1], OVERLAP[1] + 1e-9, np.nan])
    assert strata_of(chances).tolist() == [STRATA, STRATA, 0, STRATA // 2, STRATA - 1, STRATA, STRATA]


def test_a_stratum_without_both_arms_says_nothing() -> None:
    cells = np.zeros((STRATA, ARMS))
    cells[0] = [10, 0, 0, 0]
    assert math.isnan(float(difference(cells).value))
    cells[1] = [6, 2, 3, 1]
    assert float(difference(cells).value) == pytest.approx(1 / 4 - 2 / 8)
    assert float(difference(cells).weight) == pytest.approx(8 * 4 / 12)
