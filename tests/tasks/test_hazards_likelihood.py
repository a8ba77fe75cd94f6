"""Hazards of time to an event: what visits say is the label, and the likelihood is that of the label, by closed forms and loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import ContractError
from tasks.hazards.grid import Grid
from tasks.hazards.likelihood import cumulative_risks, negative_log_likelihood

Rows = list[tuple[int, int, int]]
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def loss_of(logits: list[float], label: tuple[int, int, int]) -> float:
    return float(negative_log_likelihood(torch.tensor([logits], dtype=torch.float64), torch.tensor([label]), 1))


def logit(chance: float) -> float:
    return math.log(chance / (1 - chance))


# Days to quarters


@pytest.mark.parametrize(
    ("clean", "seen", "cause", "expected"),
    [
        (0, 182, 1, (0, 2, 1)),  # half a year: two quarters, 182.6 days
        (182, 365, 1, (2, 4, 1)),
        (180, 190, 1, (2, 3, 1)),  # both nearest to day 183: in the quarter of the later one, which begins there
        (170, 180, 1, (1, 2, 1)),  # both before it: in the quarter that ends there
        (0, 20, 1, (0, 1, 1)),
        (365, 730, 1, (4, 8, 1)),  # the last day of two years
        (365, 731, 1, (4, 4, 0)),  # a day later, seen too late: nothing up to day 365
        (700, 1200, 1, (8, 8, 0)),
        (400, 0, 0, (4, 4, 0)),
        (420, 0, 0, (5, 5, 0)),  # nearest to day 457
        (-30, 91, 2, (0, 1, 2)),
        (9000, 0, 0, (8, 8, 0)),
    ],
)
def test_a_day_counts_as_the_nearest_end_of_a_quarter(clean: int, seen: int, cause: int, expected: tuple[int, int, int]) -> None:
    found = Grid(2).labels(np.array([clean], float), np.array([seen], float), np.array([cause]))
    assert tuple(found[0]) == expected


@given(st.floats(-100, 4000), st.floats(0.1, 3000), st.integers(0, 3), st.integers(1, 10))
def test_every_label_makes_sense(clean: float, gap: float, cause: int, years: int) -> None:
    grid, at_day = Grid(years), max(clean, 0.0) + gap
    before, at, of = (int(value) for value in grid.labels(np.array([clean]), np.array([at_day]), np.array([cause]))[0])
    assert 0 <= before <= at <= grid.bins
    assert (of > 0) == (at > before)
    assert of in (0, cause)
    if of:  # the quarters named are those between the visits, to half a quarter
        assert 91.3125 * (before - 0.51) <= max(clean, 0) + 91.32
        assert abs(91.3125 * at - at_day) <= 91.32


def test_years_of_a_grid_are_limited() -> None:
    assert (Grid(2).bins, Grid(2).end_day, Grid(5).end_day) == (8, 730, 1826)
    with pytest.raises(ContractError, match="from 1 to 20"):
        Grid(0)


# Likelihood


def test_a_likelihood_is_the_chance_of_what_was_seen() -> None:
    hazards = [0.1, 0.2, 0.4]
    logits = [logit(chance) for chance in hazards]
    assert loss_of(logits, (2, 2, 0)) == pytest.approx(-math.log(0.9 * 0.8))
    assert loss_of(logits, (0, 0, 0)) == 0.0
    assert loss_of(logits, (1, 2, 1)) == pytest.approx(-math.log(0.9 * 0.2))
    assert loss_of(logits, (0, 3, 1)) == pytest.approx(-math.log(1 - 0.9 * 0.8 * 0.6))  # at any time
    assert loss_of(logits, (1, 3, 1)) == pytest.approx(-math.log(0.9 * (1 - 0.8 * 0.6)))  # between two visits


def plain_loss(logits: np.ndarray, label: tuple[int, int, int]) -> float:
    """One record by loops; logits (bins, causes)."""
    clean, seen, cause = label
    free, chance = 1.0, 0.0
    for quarter, row in enumerate(logits, start=1):
        whole = 1.0 + np.exp(row).sum()
        if cause and clean < quarter <= seen:
            chance += free * math.exp(row[cause - 1]) / whole
        if cause or quarter <= clean:
            free *= 1.0 / whole
    return -math.log(chance if cause else free)


@pytest.mark.parametrize("causes", [1, 3])
def test_the_likelihood_is_that_of_plain_loops(causes: int) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(-1.5, 1.0, (200, 6, causes))
    clean = rng.integers(0, 6, 200)
    cause = rng.integers(0, causes + 1, 200)
    seen = np.where(cause > 0, rng.integers(clean + 1, 7), clean)
    labels = np.stack([clean, seen, cause], axis=1)
    outputs = torch.from_numpy(logits if causes > 1 else logits[..., 0])
    found = negative_log_likelihood(outputs, torch.from_numpy(labels.astype(np.float32)), causes)
    expected = [plain_loss(row, tuple(label)) for row, label in zip(logits, labels, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


@settings(max_examples=200)
@given(
    st.integers(1, 3),
    st.lists(
        st.one_of(st.floats(allow_nan=False, allow_infinity=False, width=32), st.floats(-50, 50, width=32)),
        min_size=12,
        max_size=12,
    ),
    st.tuples(*(st.integers(-3, 9) for _ in range(3))),
)
def test_loss_and_gradient_are_finite_whatever_outputs_and_labels_are(
    causes: int, numbers: list[float], label: tuple[int, int, int]
) -> None:
    shape = (1, 4, causes) if causes > 1 else (1, 4)
    outputs = torch.tensor(numbers[: 4 * causes], dtype=torch.float32).reshape(shape).requires_grad_()
    loss = negative_log_likelihood(outputs, torch.tensor([label], dtype=torch.float32), causes)
    loss.sum().backward()
    assert bool(torch.isfinite(loss).all())
    assert float(loss.detach()) >= -1e-6
    assert outputs.grad is not None
    assert bool(torch.isfinite(outputs.grad).all())


def fitted_hazards(labels: Rows, bins: int, causes: int) -> np.ndarray:
    """Maximum likelihood without covariates, (bins, causes)."""
    logits = torch.full((bins, causes), -2.0, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe")
    target = torch.tensor(labels)

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        outputs = logits.expand(len(labels), bins, causes)
        loss = negative_log_likelihood(outputs if causes > 1 else outputs[..., 0], target, causes).sum()
        loss.backward()
        return loss

    optimiser.step(step)
    odds = np.exp(logits.detach().numpy())
    return odds / (1.0 + odds.sum(axis=1, keepdims=True))


def people(seed: int, causes: int) -> Rows:
    """Each with an event in a known quarter, or lost after one; every quarter of four has events of every cause."""
    rng = np.random.default_rng(seed)
    cause = rng.integers(0, causes + 1, 200)
    time = rng.integers(1, 5, 200)
    return [(int(t - 1), int(t), int(c)) if c else (int(t), int(t), 0) for t, c in zip(time, cause, strict=True)]


@pytest.mark.parametrize("causes", [1, 3])
def test_without_covariates_the_best_hazards_are_those_of_the_life_table(causes: int) -> None:
    rows = people(2, causes)
    expected = np.zeros((4, causes))
    for quarter in range(1, 5):
        at_risk = sum(1 for clean, seen, cause in rows if (seen if cause else clean) >= quarter)
        for cause in range(1, causes + 1):
            expected[quarter - 1, cause - 1] = sum(1 for row in rows if row[1:] == (quarter, cause)) / at_risk
    assert fitted_hazards(rows, 4, causes) == pytest.approx(expected, abs=1e-6)


def test_an_event_between_distant_visits_is_shared_among_the_quarters() -> None:
    """Of ten people two have it in quarter 1 and two in quarter 2, and for two nobody knows in which of both.

    The chance of an event in both quarters together is 6 / 10, and it is parted as among those of whom it is known.
    """
    rows: Rows = [(0, 1, 1)] * 2 + [(1, 2, 1)] * 2 + [(0, 2, 1)] * 2 + [(2, 2, 0)] * 4
    first, second = fitted_hazards(rows, 2, 1)[:, 0]
    assert first == pytest.approx(0.3, abs=1e-6)
    assert (1 - first) * (1 - second) == pytest.approx(0.4, abs=1e-6)


# Risks


def test_risks_of_the_causes_and_of_none_add_up_to_one() -> None:
    outputs = np.random.default_rng(3).normal(-2, 1, (50, 8, 3))
    risks = cumulative_risks(outputs, 3)
    assert risks.shape == (50, 8, 3)
    assert np.all(np.diff(risks, axis=1) >= 0)
    stay = np.prod(1.0 / (1.0 + np.exp(outputs).sum(axis=2)), axis=1)
    assert risks[:, -1].sum(axis=1) + stay == pytest.approx(np.ones(50))
    one = cumulative_risks(outputs[..., 0], 1)[..., 0]
    assert one == pytest.approx(1 - np.cumprod(1 / (1 + np.exp(outputs[..., 0])), axis=1))


def test_outputs_that_are_not_finite_give_risks_all_the_same() -> None:
    found = cumulative_risks(np.array([[np.nan, np.inf], [-np.inf, 0.0]]), 1)
    assert np.all((found >= 0) & (found <= 1))
