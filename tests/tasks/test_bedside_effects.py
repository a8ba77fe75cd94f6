"""Calibrated effects of treatment: the interval covers the mean effect at a prediction, from counts, with noise and without."""

import numpy as np
import pytest
import torch

from tasks.effects.bedside import line
from tasks.effects.cells import ARMS, STRATA, difference, edges, middles, strata_of
from tasks.effects.scoring import EffectScoring
from tasks.predicting.bedside import Corrects
from tasks.predicting.told import EFFECT_INTERVAL

Floats = np.ndarray
BINS = 12
ASKED = np.array([-0.1, -0.05, 0.0])  # predicted effects


def counts(rng: np.random.Generator, people: int, a: float, b: float, spread: float = 0.06) -> Floats:
    """Starts of therapy, (BINS, STRATA, ARMS): who is worse off is treated more often, and predicted to gain more; the true mean
    effect at a predicted x is a + b x."""
    x = rng.normal(-0.05, spread, people)
    baseline = np.clip(0.3 + 0.12 * rng.normal(size=people) - 0.8 * x, 0.05, 0.9)
    propensity = np.clip(0.5 + 0.5 * (baseline - 0.3) - (x + 0.05) + 0.15 * rng.normal(size=people), 0.06, 0.94)
    treated = rng.random(people) < propensity
    event = rng.random(people) < np.clip(baseline + treated * (a + b * x), 0, 1)
    cell = (np.digitize(x, edges(BINS)) * STRATA + strata_of(propensity)) * ARMS + 2 * treated + event
    return np.bincount(cell, minlength=BINS * STRATA * ARMS).reshape(BINS, STRATA, ARMS).astype(np.float64)


def told(cells: Floats, noise: float) -> tuple[Floats, Floats, Floats]:
    found = line(cells, noise).told(torch.from_numpy(100 * ASKED))
    return found.score.numpy(), found.low.numpy(), found.high.numpy()


@pytest.mark.parametrize(
    ("people", "noise", "widest"), [(150, 0.0, 20), (2000, 0.0, 6), (2000, 1.9, 9), (2000, 3.4, 12), (400, 3.4, 40), (400, 8.0, 60)]
)
@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (0.05, 0.3)])
def test_the_interval_covers_the_mean_effect_as_often_as_it_says(
    people: int, noise: float, widest: float, a: float, b: float
) -> None:
    rng, hits, widths = np.random.default_rng(3), [], []
    for _ in range(200):
        _, low, high = told(counts(rng, people, a, b) + rng.normal(0, noise, (BINS, STRATA, ARMS)), noise)
        truth = 100 * (a + b * ASKED)
        hits.append((low <= truth) & (truth <= high))
        widths.append((high - low) / 2)
    assert np.mean(hits, axis=0).min() > 0.91
    assert np.mean(widths) < widest


def test_where_noise_drowns_the_counts_the_model_is_left_as_it_is_and_the_interval_says_that_little_is_known() -> None:
    rng = np.random.default_rng(2)
    found = [told(counts(rng, 100, 0.2, 0.0) + rng.normal(0, 15, (BINS, STRATA, ARMS)), 15.0) for _ in range(50)]
    value, low, high = (np.mean(part, axis=0) for part in zip(*found, strict=True))
    np.testing.assert_allclose(value, 100 * ASKED, atol=4)
    assert (high - low > 60).all()


def test_many_patients_show_what_mantel_and_haenszel_show() -> None:
    """No noise: the line through the bins' differences, each weighed by its overlap; the prior has no say among so many."""
    cells = counts(np.random.default_rng(6), 40_000, 0.03, 0.5)
    seen, x = difference(cells), middles(BINS)
    inputs = np.stack([np.ones(BINS), x], axis=1)
    a, b = np.linalg.solve(inputs.T @ (seen.weight[:, None] * inputs), inputs.T @ (seen.weight * np.nan_to_num(seen.value)))
    found = line(cells, 0.0)
    assert found.a == pytest.approx(100 * a, abs=0.3)
    assert found.b == pytest.approx(b, abs=0.05)


@pytest.mark.parametrize("noise", [1.9, 3.4])
def test_noise_moves_no_effect_on_average(noise: float) -> None:
    rng = np.random.default_rng(8)
    cells = [counts(rng, 3000, 0.04, 0.6) for _ in range(150)]
    exact = np.mean([told(each, 0.0)[0] for each in cells], axis=0)
    noisy = np.mean([told(each + rng.normal(0, noise, each.shape), noise)[0] for each in cells], axis=0)
    np.testing.assert_allclose(noisy, exact, atol=1.0)  # of percentage points; an effect's own error is 3 to 5


def test_one_effect_for_everybody_is_corrected_too() -> None:
    """A model without modifiers: all patients in one bin. Their average effect is told, and its interval is not the prior's."""
    rng, hits = np.random.default_rng(9), []
    for _ in range(100):
        found = line(counts(rng, 600, 0.03, 1.0, spread=1e-9) + rng.normal(0, 1.9, (BINS, STRATA, ARMS)), 1.9)
        one = found.told(torch.tensor([-5.0], dtype=torch.float64))
        hits.append(float(one.low) <= -2.0 <= float(one.high))
        assert float(one.high - one.low) < 50
    assert np.mean(hits) > 0.91


def test_an_empty_histogram_tells_nothing_but_the_model() -> None:
    value, low, high = told(np.zeros((BINS, STRATA, ARMS)), 0.0)
    np.testing.assert_allclose(value, 100 * ASKED)
    assert (high - low > 100).all()


@pytest.mark.parametrize("happened", [0, 1])
def test_few_patients_of_one_fate_do_not_make_an_effect_certain(happened: int) -> None:
    few = np.zeros((BINS, STRATA, ARMS))
    few[4:8, 1:4, [happened, 2 + happened]] = 1.0  # 12 treated, 12 not; of 12 alike the true share may be a quarter off
    value, low, high = told(few, 0.0)
    assert (low <= 0.0).all()
    assert (high >= 0.0).all()
    assert (high - low > 20).all(), value


def test_the_scoring_corrects_and_what_lies_outside_the_overlap_has_no_say() -> None:
    scoring = EffectScoring(BINS)
    assert isinstance(scoring, Corrects)
    cells = counts(np.random.default_rng(1), 500, 0.0, 1.0).reshape(-1)
    inside, outside = (scoring.correction(np.concatenate([cells, [more, 0.0]]), 0.0) for more in (0.0, 300.0))
    assert inside is not None
    assert outside is not None
    assert inside.interval == EFFECT_INTERVAL
    x = torch.tensor([-5.0, 200.0], dtype=torch.float64)
    torch.testing.assert_close(inside.told(x).score, outside.told(x).score)
    furthest = 100 * middles(BINS).max()
    torch.testing.assert_close(inside.told(x).score[1:], inside.told(torch.tensor([furthest], dtype=torch.float64)).score)
