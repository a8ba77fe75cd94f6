"""Hazards at the bedside: risks by horizon, and intervals that cover the true risk though people were lost."""

import numpy as np
import pytest
import torch

from tasks.cdp_time.task import TASK as CDP_TIME
from tasks.hazards.bedside import foretold
from tasks.hazards.likelihood import cumulative_risks
from tasks.hazards.scoring import HazardScoring, View, risk_bins
from tasks.predicting.base import Foretells
from tasks.predicting.bedside import Calibrates
from tasks.predicting.calibrate import recalibration
from tasks.predicting.coherent import coherent, unmeasured
from tasks.raw_pira.task import TASK as RAW_PIRA
from tasks.scoring.base import Scored
from tasks.spms_transition.task import TASK as SPMS

Floats = np.ndarray


def outputs_of(yearly: Floats, quarters: int) -> Floats:
    """Logits of a constant hazard, (n, quarters), for yearly hazards (n,)."""
    chance = -np.expm1(-yearly / 4)
    return np.repeat(np.log(chance / (1 - chance))[:, None], quarters, axis=1)


@pytest.mark.parametrize("task", [CDP_TIME, SPMS, RAW_PIRA])
def test_what_is_foretold_is_the_risk_of_each_view_in_words(task: object) -> None:
    assert isinstance(task, Foretells)
    causes = task.causes  # type: ignore[attr-defined]
    shape = (3, task.grid.bins) if len(causes) == 1 else (3, task.grid.bins, len(causes))  # type: ignore[attr-defined]
    outputs = torch.from_numpy(np.random.default_rng(1).normal(-3, 1, shape))
    found = task.foretold(outputs)
    risks = cumulative_risks(outputs.numpy(), len(causes))
    assert len(found) == len(task.views)  # type: ignore[attr-defined]
    for view, (name, one) in zip(task.views, found.items(), strict=True):  # type: ignore[attr-defined]
        assert name == f"{causes[view.cause - 1]}_{view.years}y"
        assert one.unit == ""
        assert f"within {view.years} year" in one.meaning
        np.testing.assert_allclose(one.values.numpy(), risks[:, 4 * view.years - 1, view.cause - 1])


def test_risks_can_be_differentiated_for_reasons() -> None:
    outputs = torch.full((2, 8), -3.0, requires_grad=True)
    one = foretold(outputs, ("event",), ("it happens",), (View(1, 1),))["event_1y"]
    one.score.sum().backward()
    assert outputs.grad is not None
    assert (outputs.grad[:, :4] > 0).all()
    assert not outputs.grad[:, 4:].any()  # what comes later has no say


def histogram_of(scoring: HazardScoring, yearly: Floats, labels: Floats) -> Floats:
    """Everybody's cells, each one record."""
    quarters = 4 * max(view.years for view in scoring.views)
    places = scoring.places(Scored(outputs_of(yearly, quarters), labels, np.zeros((len(yearly), 1))))
    return np.bincount(places.ravel(), np.tile(scoring.weights, len(yearly)), scoring.cells).astype(np.float64)


def test_where_nobody_is_lost_groups_are_plain_counts() -> None:
    scoring = HazardScoring(16, ("event",), (View(1, 2), View(1, 1)), "uno_c")
    assert isinstance(scoring, Calibrates)
    rng = np.random.default_rng(4)
    yearly = rng.lognormal(-2, 0.8, 500)
    quarter = np.ceil(4 * rng.exponential(1 / yearly)).clip(max=9)
    labels = np.stack([np.minimum(quarter - 1, 8), np.minimum(quarter, 8), quarter <= 8], axis=1)
    labels[labels[:, 2] == 0, :2] = 8
    found = scoring.calibration_groups(histogram_of(scoring, yearly, labels), 0.0)
    assert list(found) == ["event_2y", "event_1y"]
    for years, groups in zip((2, 1), found.values(), strict=True):
        bins = risk_bins(-np.expm1(-years * yearly), years, 16)
        events = [int(((bins == each) & (quarter <= 4 * years)).sum()) for each in range(16)]
        assert [group.events for group in groups] == pytest.approx(events)
        assert [group.patients for group in groups] == pytest.approx(np.bincount(bins, minlength=16))


@pytest.mark.parametrize(("noise", "people"), [(0.0, 400), (2.0, 1500)])
@pytest.mark.parametrize("factor", [1.0, 1.8])
def test_intervals_cover_the_true_risk_though_half_are_lost(noise: float, people: int, factor: float) -> None:
    """The model foretells hazards `factor` times too low or rightly; people are lost at random, half of them within five years."""
    scoring = HazardScoring(24, ("event",), (View(1, 5), View(1, 1)), "uno_c")
    rng, hits = np.random.default_rng(7), []
    asked = -np.expm1(-5 * np.array([0.08, 0.16]))
    truth = -np.expm1(-5 * factor * np.array([0.08, 0.16]))
    for _ in range(120):
        yearly = rng.lognormal(-2.2, 0.6, people)
        event, lost = np.ceil(4 * rng.exponential(1 / (factor * yearly))), np.floor(4 * rng.exponential(5 / np.log(2), people))
        happened = (event <= lost) & (event <= 20)
        clean = np.where(happened, event - 1, np.minimum(lost, 20))
        labels = np.stack([clean, np.where(happened, event, clean), happened], axis=1)
        cells = histogram_of(scoring, yearly, labels) + rng.normal(0, noise, scoring.cells)
        found = recalibration(scoring.calibration_groups(cells, noise)["event_5y"])
        assert found is not None
        _, low, high = found.risks(asked)
        hits.append((low <= truth) & (truth <= high))
    assert np.mean(hits) > 0.9


@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_risks_made_coherent_come_true_as_often_as_they_say(noise: float) -> None:
    """400 test patients, a model that foretells hazards too low: under noise, horizons calibrated alone contradict each other in
    most runs, and the mean told risk of many patients is the true one at every horizon all the same."""
    views = (View(1, 5), View(1, 1), View(1, 2), View(1, 3))
    scoring, names = HazardScoring(16, ("event",), views, "uno_c"), [f"event_{years}y" for years in (1, 2, 3, 5)]
    rng, off, fell = np.random.default_rng(8), [], 0
    asked = rng.lognormal(-3.2, 0.7, 300)
    new = foretold(torch.from_numpy(outputs_of(asked, 20)), ("event",), ("it happens",), views)
    truth = np.stack([-np.expm1(-1.6 * years * asked) for years in (1, 2, 3, 5)], axis=1)
    for _ in range(60):
        yearly = rng.lognormal(-3.2, 0.7, 400)
        event, lost = np.ceil(4 * rng.exponential(1 / (1.6 * yearly))), np.floor(4 * rng.exponential(12, 400))
        happened = (event <= lost) & (event <= 20)
        clean = np.where(happened, event - 1, np.minimum(lost, 20))
        labels = np.stack([clean, np.where(happened, event, clean), happened], axis=1)
        groups = scoring.calibration_groups(histogram_of(scoring, yearly, labels) + rng.normal(0, noise, scoring.cells), noise)
        known = {name: found for name in groups if (found := recalibration(groups[name])) is not None}
        alone = {name: known[name].told(one.score) if name in known else unmeasured(one.score) for name, one in new.items()}
        told = coherent(new, alone)
        before, after = (torch.sigmoid(torch.stack([of[name].score for name in names], dim=1)).numpy() for of in (alone, told))
        fell += int((np.diff(before, axis=1) < 0).any())
        assert (np.diff(after, axis=1) >= -1e-9).all()
        off.append([(part - truth).mean(0) for part in (before, after)])
    alone_off, told_off = np.mean(off, axis=0)
    error = np.std(off, axis=0)[1] / np.sqrt(60)
    assert fell >= (30 if noise else 1)
    assert (np.abs(told_off) < np.abs(alone_off) + 2 * error + 0.002).all()  # pooling adds nothing to what calibration is off by
    assert np.abs(told_off).max() < (0.025 if noise else 0.015)


def test_without_an_event_nothing_is_said_to_be_calibrated() -> None:
    scoring = HazardScoring(8, ("event",), (View(1, 1),), "uno_c")
    labels = np.tile([4.0, 4.0, 0.0], (50, 1))
    assert scoring.calibration_groups(histogram_of(scoring, np.full(50, 0.1), labels), 0.0) == {}
