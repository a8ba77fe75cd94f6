"""Risks by several horizons and of rival events do not contradict each other, and making them so makes nothing worse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.predicting.base import Foretold
from tasks.predicting.calibrate import Recalibration
from tasks.predicting.coherent import coherent, pooled, unmeasured
from tasks.predicting.told import Told

Tensor = torch.Tensor
HORIZONS = (5.0, 1.0, 2.0, 3.0)  # the one shown first in front
SIZES = st.lists(st.tuples(st.floats(-6, 6), st.floats(0.05, 3)), min_size=8, max_size=8)


def told(middle: float, sd: float) -> Told:
    return Told(*(torch.tensor([middle + z * 1.959964 * sd], dtype=torch.float64) for z in (0.0, -1.0, 1.0)))


def risk(event: str, years: float) -> Foretold:
    return Foretold("", torch.full((1,), 0.5), event=event, years=years)


def shown(found: dict[str, Told]) -> dict[str, tuple[float, float, float]]:
    return {name: tuple(float(torch.sigmoid(part)) for part in (one.low, one.score, one.high)) for name, one in found.items()}


def test_pooling_is_the_weighed_mean_of_those_that_violate_the_order() -> None:
    values, weights = torch.tensor([[1.0, 3.0, 2.0, 5.0], [4.0, 3.0, 2.0, 1.0]]), torch.tensor([[1.0, 1.0, 3.0, 1.0], [1.0] * 4])
    found = pooled(values.double(), weights.double())
    np.testing.assert_allclose(found.numpy(), [[1.0, 2.25, 2.25, 5.0], [2.5] * 4])


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 9)), min_size=1, max_size=7))
def test_pooling_keeps_the_weighed_mean_and_comes_nearer_to_every_ordered_truth(rows: list[tuple[float, float]]) -> None:
    values, weights = (torch.tensor([part], dtype=torch.float64) for part in zip(*rows, strict=True))
    found = pooled(values, weights)
    assert (found[0].diff() >= -1e-9).all()
    assert float((weights * found).sum()) == pytest.approx(float((weights * values).sum()), abs=1e-7)
    for seed in range(3):
        truth = torch.from_numpy(np.sort(np.random.default_rng(seed).normal(0, 3, (1, len(rows)))))
        before, after = (float((weights * (each - truth) ** 2).sum()) for each in (values, found))
        assert after <= before + 1e-7


@given(SIZES)
def test_whatever_is_calibrated_nothing_falls_with_the_years_and_rivals_are_at_most_one(rows: list[tuple[float, float]]) -> None:
    names = [(f"{event}_{years:g}", event, years) for event in ("silent", "relapse") for years in HORIZONS]
    foretold = {name: risk(event, years) for name, event, years in names}
    found = shown(coherent(foretold, {name: told(*row) for (name, *_), row in zip(names, rows, strict=True)}))
    assert list(found) == list(foretold)
    for event in ("silent", "relapse"):
        course = np.array([found[f"{event}_{years:g}"] for years in sorted(HORIZONS)])
        assert (np.diff(course, axis=0) >= -1e-9).all()  # low, risk and high
        assert (np.diff(course, axis=1) >= -1e-9).all()  # low <= risk <= high
    for years in HORIZONS:
        assert found[f"silent_{years:g}"][1] + found[f"relapse_{years:g}"][1] <= 1 + 1e-9


def test_what_does_not_contradict_is_left_as_it_is_and_other_quantities_always() -> None:
    foretold = {"a_1": risk("a", 1), "a_2": risk("a", 2), "b_2": risk("b", 2), "points": Foretold("", torch.ones(1), "points")}
    before = {"a_1": told(-2, 0.3), "a_2": told(-1, 0.2), "b_2": told(-1.5, 0.4), "points": told(7, 2)}
    after = coherent(foretold, before)
    for name, one in before.items():
        for part in ("score", "low", "high"):
            torch.testing.assert_close(getattr(after[name], part), getattr(one, part))


def test_of_two_rivals_the_less_surely_known_gives_way() -> None:
    foretold = {"a": risk("a", 2), "b": risk("b", 2)}
    found = shown(coherent(foretold, {"a": told(0.0, 0.02), "b": told(1.0, 1.0)}))
    assert found["a"][1] == pytest.approx(0.5, abs=0.001)
    assert found["a"][1] + found["b"][1] == pytest.approx(1.0)


def test_a_horizon_that_nobody_measured_yields_to_a_measured_one() -> None:
    foretold = {"a_1": risk("a", 1), "a_5": risk("a", 5)}
    found = coherent(foretold, {"a_1": unmeasured(torch.tensor([0.5]).double()), "a_5": told(-1.0, 0.1)})
    assert float(found["a_5"].score) == pytest.approx(-1.0, abs=0.01)
    assert float(found["a_1"].score) == pytest.approx(-1.0, abs=0.01)


def recalibrated(rng: np.random.Generator, truth: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """What 2,000 runs calibrate from the true log-odds (horizons,), (runs, horizons)."""
    return truth + rng.normal(0, 1, (2000, len(truth))) * sd


def test_pooling_does_not_bias_where_a_running_maximum_does() -> None:
    """Four horizons of nearly the same risk: half of the runs contradict themselves. Mean over horizons by precision, and each."""
    truth, sd = np.log(np.array([0.10, 0.11, 0.12, 0.13]) / np.array([0.90, 0.89, 0.88, 0.87])), np.array([0.4, 0.3, 0.25, 0.3])
    found = recalibrated(np.random.default_rng(3), truth, sd)
    assert (np.diff(found, axis=1) < 0).any(1).mean() > 0.5
    weights = np.broadcast_to(sd**-2, found.shape)
    ordered = pooled(torch.from_numpy(found), torch.from_numpy(weights.copy())).numpy()
    maximum = np.maximum.accumulate(found, axis=1)
    of_mean = [float(np.average(each - truth, weights=weights)) for each in (found, ordered, maximum)]
    assert abs(of_mean[1]) < 0.012  # 2 of its standard errors
    assert of_mean[1] == pytest.approx(of_mean[0])
    assert of_mean[2] > 0.1
    errors = [np.sqrt(np.average((each - truth) ** 2, weights=weights)) for each in (found, ordered, maximum)]
    assert errors[1] < 0.85 * errors[0]
    assert np.abs(1 / (1 + np.exp(-ordered)) - 1 / (1 + np.exp(-truth))).mean() < 0.03


def test_intervals_of_pooled_risks_cover_the_true_ones_as_often_as_they_say() -> None:
    for step in (0.0, 0.15, 1.0):
        truth, sd = -2 + step * np.arange(4), np.array([0.4, 0.3, 0.25, 0.3])
        found = torch.from_numpy(recalibrated(np.random.default_rng(5), truth, sd))
        weights = torch.from_numpy(np.broadcast_to(sd**-2, found.shape).copy())
        low, high = (pooled(found + z * 1.959964 * torch.from_numpy(sd), weights).numpy() for z in (-1, 1))
        assert ((low <= truth) & (truth <= high)).mean(0).min() > 0.94


def test_reasons_can_follow_what_is_told_through_pooling_and_rivals() -> None:
    """Slopes of the told score, integrated along a line, add up to its difference: 64 midpoints, as reasons have it."""
    foretold = {f"{event}_{years:g}": risk(event, years) for event in ("a", "b") for years in (1.0, 2.0)}
    lines = {
        name: Recalibration(a, b, np.diag([0.04 * (1 + at), 0.01]))
        for at, (name, (a, b)) in enumerate(zip(foretold, ((0.6, 1.3), (-0.2, 0.7), (0.3, 1.0), (0.5, 1.1)), strict=True))
    }
    ends = torch.tensor([[1.5, 1.8, -0.5, 1.6]], dtype=torch.float64)

    def told_first(point: Tensor) -> Tensor:
        return coherent(foretold, {name: line.told(point[:, at]) for at, (name, line) in enumerate(lines.items())})["a_2"].score

    parts = torch.zeros_like(ends)
    for step in range(64):
        point = ((step + 0.5) / 64 * ends).requires_grad_()
        parts += torch.autograd.grad(told_first(point).sum(), point)[0] / 64 * ends
    whole = told_first(ends) - told_first(torch.zeros_like(ends))
    assert float(parts.sum()) == pytest.approx(float(whole), abs=0.02)
    assert (parts != 0).tolist() == [[True, True, False, True]]  # the horizon pooled with it and the rival have a say
