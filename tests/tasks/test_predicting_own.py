"""The interval of a patient's own score holds it as often as it says: with few test patients, with noise, for any errors."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tasks.cognition_prom.task import TASK as COGNITION
from tasks.predicting.bedside import Corrects
from tasks.predicting.own import Own, own
from tasks.predicting.told import OWN_INTERVAL
from tasks.scoring.base import Scored
from tasks.scoring.numeric import NumericScoring

Floats = np.ndarray
Draw = Callable[[np.random.Generator, int], Floats]
SCORING = NumericScoring(0, 110, 32, change=4, reach=20)
EDGES = np.sign(roots := np.linspace(-1, 1, 33)) * roots**2 * 20  # public: signed squares, from -20 to 20 points
LAWS: dict[str, Draw] = {
    "heavy tails": lambda rng, n: 1.0 + 3.5 * rng.standard_t(4, n),
    "skewed": lambda rng, n: rng.gamma(2.0, 3.0, n) - 5.0,
}


def histogram_of(errors: Floats) -> Floats:
    """Of people whose last score was 50, who were foretold no change, and who came out so much lower."""
    labels = np.stack([50 - errors, np.full(len(errors), 50.0)], axis=1)
    places = SCORING.places(Scored(np.zeros(len(errors)), labels, np.zeros((len(errors), 1))))
    return np.bincount(places.ravel(), np.tile(SCORING.weights, len(errors)), SCORING.cells).astype(np.float64)


def covered(draw: Draw, people: int, noise: float, runs: int = 300) -> tuple[float, float, float]:
    """Mean over runs of the share of new patients in the interval, share of runs in which it is what it should be, and of those
    without an interval."""
    rng = np.random.default_rng(11)
    new, found = draw(rng, 20_000), []
    for _ in range(runs):
        one = SCORING.correction(histogram_of(draw(rng, people)) + rng.normal(0, noise, SCORING.cells), noise)
        if one is not None:
            told = one.told(torch.zeros(1))
            found.append(np.mean((float(told.low) <= -new) & (-new <= float(told.high))))
    return float(np.mean(found)), float(np.mean(np.array(found) > OWN_INTERVAL.level - 0.005)), 1 - len(found) / runs


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("people", [60, 300])
def test_without_noise_four_of_five_new_patients_are_in_it(law: str, people: int) -> None:
    mean, _, silent = covered(LAWS[law], people, 0.0)
    assert 0.795 < mean < 0.84
    assert silent == 0


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("people", "noise"), [(150, 1.9), (300, 3.4), (1000, 5.0)])
def test_noise_widens_it_so_that_nearly_every_run_covers(law: str, people: int, noise: float) -> None:
    mean, whole, _ = covered(LAWS[law], people, noise)
    assert 0.8 < mean < 0.93
    assert whole > 0.85


def test_where_noise_is_larger_than_the_patients_nothing_is_said() -> None:
    rng = np.random.default_rng(1)
    errors = LAWS["skewed"](rng, 40)
    found = [SCORING.correction(histogram_of(errors) + rng.normal(0, 20, SCORING.cells), 20.0) for _ in range(50)]
    assert sum(one is None for one in found) > 45
    assert SCORING.correction(np.zeros(SCORING.cells), 0.0) is None
    assert SCORING.correction(histogram_of(errors[:5]), 0.0) is None  # the tenth part of five is nobody


def test_an_end_among_errors_of_any_size_is_no_end() -> None:
    counts = np.zeros(32)
    counts[16], counts[31] = 70, 30
    assert own(counts, EDGES, 0.0) is None
    counts[16], counts[31] = 95, 5
    found = own(counts, EDGES, 0.0)
    assert found is not None
    assert found.most < 1


def test_a_model_that_is_off_is_moved_and_one_that_noise_hides_is_left() -> None:
    rng = np.random.default_rng(2)
    counts = np.histogram(rng.normal(3.0, 4.0, 2000).clip(-20, 20), EDGES)[0].astype(np.float64)
    exact = own(counts, EDGES, 0.0)
    assert exact is not None
    assert exact.shift == pytest.approx(3.0, abs=0.3)
    told = exact.told(torch.tensor([5.0]))
    assert float(told.score) == pytest.approx(2.0, abs=0.3)
    assert float(told.low) == pytest.approx(2.0 - 1.28 * 4, abs=0.4)
    assert float(told.high) == pytest.approx(2.0 + 1.28 * 4, abs=0.6)
    noisy = [one.shift for _ in range(200) if (one := own(counts / 10 + rng.normal(0, 6, 32), EDGES, 6.0))]
    assert 0.5 < np.mean(noisy) < 2.6
    assert np.std(noisy) < 2


def test_the_interval_always_holds_what_is_told() -> None:
    for shift, least, most in ((3.0, -1.0, 2.0), (-3.0, -1.0, 2.0), (0.0, 1.0, 2.0)):
        told = Own(shift, least, most).told(torch.tensor([0.0]))
        assert float(told.low) <= float(told.score) <= float(told.high)


def test_scores_of_patients_are_a_quantity_that_their_scoring_corrects() -> None:
    scoring = COGNITION.scoring(32, ("sex",))
    assert isinstance(scoring, Corrects)
    assert "own" in OWN_INTERVAL.of
    assert OWN_INTERVAL.name == "80 % interval"


def test_groups_leave_the_interval_as_it_is() -> None:
    """Everybody's errors are counted in the first block, whatever else is counted beside."""
    rng = np.random.default_rng(4)
    labels = np.stack([50 + rng.normal(0, 5, 300), np.full(300, 50.0)], axis=1)
    values = np.full((300, len(COGNITION.contract.columns)), np.nan)
    ends = []
    for by in ((), ("sex",)):
        scoring = COGNITION.scoring(32, by)
        places = scoring.places(Scored(np.zeros(300), labels, values))
        cells = np.bincount(places.ravel(), np.tile(scoring.weights, 300), scoring.cells).astype(np.float64)
        assert isinstance(scoring, Corrects)
        found = scoring.correction(cells, 0.0)
        assert found is not None
        told = found.told(torch.zeros(1).double())
        ends.append((float(told.low), float(told.score), float(told.high)))
    assert ends[0] == pytest.approx(ends[1])
