"""Shares of noise: one number for opened sums, another for a single update, and no way to mistake one for the other."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import fftconvolve
from scipy.special import ndtr

from consortium.errors import DocumentError
from consortium.plan import Plan
from privacy.accountant import ENFORCE_INTERVAL, epsilon
from privacy.check import bracket, gaussian_delta
from privacy.errors import EventError
from privacy.events import (
    GaussianEvent,
    PoissonGaussianEvent,
    SharedGaussianEvent,
    SharedPoissonGaussianEvent,
    Spend,
    as_charged,
    as_exposed,
    spend_from_document,
    spend_to_document,
)
from privacy.terms import (
    epsilon_charged,
    epsilon_exposed,
    epsilon_model,
    honest_in_sum,
    honest_minimum,
    in_opened_sum,
    off_grid,
    plan_limit,
    round_spends,
    signal_bound,
)
from secagg import numbers

SHARES = st.builds(SharedGaussianEvent, st.floats(0.5, 50.0), st.integers(1, 40)) | st.builds(
    SharedPoissonGaussianEvent, st.floats(0.5, 50.0), st.floats(0.01, 0.9), st.integers(1, 40)
)


def distributed(plan: Plan, **changes: object) -> Plan:
    terms = {"mode": "distributed", "honest": 2, "grid_bits": 14, **changes}
    return replace(plan, privacy=replace(plan.privacy, **terms))  # type: ignore[arg-type]


@given(event=SHARES, count=st.integers(1, 1000))
def test_a_share_survives_its_document(event: SharedGaussianEvent | SharedPoissonGaussianEvent, count: int) -> None:
    spend = Spend(event, "train", count)
    assert spend_from_document(spend_to_document(spend)) == spend


@given(event=SHARES)
def test_h_shares_are_charged_as_their_sum_and_exposed_as_one(event: SharedGaussianEvent | SharedPoissonGaussianEvent) -> None:
    (charged,), (exposed,) = as_charged([Spend(event, "train")]), as_exposed([Spend(event, "train")])
    assert isinstance(charged.event, GaussianEvent | PoissonGaussianEvent)
    assert isinstance(exposed.event, GaussianEvent | PoissonGaussianEvent)
    assert charged.event.noise_multiplier == pytest.approx(math.sqrt(event.contributors) * event.noise_multiplier)
    assert exposed.event.noise_multiplier == event.noise_multiplier


@pytest.mark.parametrize(
    "document",
    [
        {"name": "shared-gaussian", "noise_multiplier": 4.0},
        {"name": "shared-gaussian", "noise_multiplier": 4.0, "contributors": 0},
        {"name": "shared-gaussian", "noise_multiplier": 4.0, "contributors": 3.0},
        {"name": "shared-gaussian", "noise_multiplier": 4.0, "contributors": True},
        {"name": "shared-gaussian", "noise_multiplier": 4, "contributors": 3},
        {"name": "gaussian", "noise_multiplier": 4.0, "contributors": 3},
        {"name": "shared-poisson-gaussian", "noise_multiplier": 4.0, "sample_rate": 1.0, "contributors": 3},
        {"name": "shared-poisson-gaussian", "noise_multiplier": 4.0, "sample_rate": 0.5},
    ],
)
def test_a_share_that_is_not_exactly_one_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(EventError):
        spend_from_document({"count": 1, "population": "train", "event": document})  # type: ignore[dict-item]


def test_both_accountants_count_shares_as_the_sum(make_plan: Callable[..., Plan]) -> None:
    shares = [Spend(SharedGaussianEvent(4.0, 4), "train", 50), Spend(SharedPoissonGaussianEvent(2.0, 0.25, 9), "train", 20)]
    whole = [Spend(GaussianEvent(8.0), "train", 50), Spend(PoissonGaussianEvent(6.0, 0.25), "train", 20)]
    assert epsilon(shares, 1e-5, interval=ENFORCE_INTERVAL) == epsilon(whole, 1e-5, interval=ENFORCE_INTERVAL)
    assert bracket(shares, 1e-5) == bracket(whole, 1e-5)


def test_a_distributed_plan_charges_the_sum_and_states_what_one_update_would_cost(make_plan: Callable[..., Plan]) -> None:
    plan = distributed(make_plan(), honest=3)
    assert {type(spend.event) for spend in plan_limit(plan)} == {SharedGaussianEvent}
    assert {type(spend.event) for spend in round_spends(plan, 5, "train")} == {SharedGaussianEvent}
    local = replace(plan, privacy=replace(plan.privacy, mode="local", honest=1))
    assert epsilon_exposed(plan) == epsilon_exposed(local) == epsilon_charged(local)
    assert epsilon_charged(plan) < epsilon_exposed(plan)
    tripled = [Spend(GaussianEvent(spend.event.noise_multiplier * math.sqrt(3.0)), spend.population, spend.count)
               for spend in as_exposed(plan_limit(plan)) if isinstance(spend.event, GaussianEvent)]  # fmt: skip
    assert epsilon_charged(plan) == pytest.approx(epsilon(tripled, plan.privacy.delta), abs=1e-9)


def test_what_is_drawn_once_is_never_a_share(make_plan: Callable[..., Plan]) -> None:
    """Two sums with different survivors give one site's count away: other sites' noise is no help."""
    plan = distributed(make_plan(), count_noise=20.0)
    assert Spend(GaussianEvent(20.0), "train") in plan_limit(plan)


def test_a_plan_that_counts_on_more_shares_than_a_sum_must_hold_is_not_believed(make_plan: Callable[..., Plan]) -> None:
    """The coordinator chooses the epoch: with four of five sites and one colluder only two honest shares are certain."""
    sites = len(make_plan().participants)
    certain = honest_minimum(sites, colluders=1, minimum_cohort=3)
    boasting = distributed(make_plan(), honest=min(certain + 1, sites))
    honest = distributed(make_plan(), honest=certain)
    claims = [epsilon_model(plan, colluders=1, minimum_cohort=3) for plan in (boasting, honest)]
    assert claims[0] == pytest.approx(claims[1])  # as if it had stated what is certain
    assert epsilon_charged(boasting) < claims[0] - 0.01


def test_a_round_counts_with_the_shares_that_were_there(make_plan: Callable[..., Plan]) -> None:
    plan = distributed(make_plan())
    found = in_opened_sum(plan, round_spends(plan, 2, "train"), 12, 3)
    assert found == (Spend(GaussianEvent(plan.privacy.train_noise * math.sqrt(honest_in_sum(12, 3))), "train"),)


def test_the_ring_has_room_for_every_site_or_the_plan_is_refused(make_plan: Callable[..., Plan]) -> None:
    """Sum at its bound plus the furthest noise that can be drawn stays inside L, so nothing ever wraps or saturates late."""
    plan = distributed(make_plan())
    share = numbers.ring_scale(len(plan.participants), plan.ring_bits)
    assert off_grid(plan) == ()
    assert signal_bound(plan, plan.sites[0]) < share
    (sentence,) = off_grid(distributed(make_plan(), grid_bits=23))
    assert "fewer grid_bits" in sentence
    crowded = replace(plan, participants=tuple(replace(each, declared_patients=share >> 15) for each in plan.participants))
    assert off_grid(crowded)
    assert off_grid(replace(crowded, privacy=replace(crowded.privacy, grid_bits=12))) == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"honest": 1}, "honest 1"), ({"honest": 99}, "honest 99"), ({"epsilon_model": 60.0, "epsilon_exposed": 50.0}, "above")],
)
def test_an_impossible_distributed_plan_cannot_be_written(
    make_plan: Callable[..., Plan], changes: dict[str, object], said: str
) -> None:
    with pytest.raises(DocumentError, match=said):
        distributed(make_plan(), **changes)


def test_only_one_step_a_round_and_the_wide_ring_can_be_distributed(make_plan: Callable[..., Plan]) -> None:
    plan = distributed(make_plan())
    with pytest.raises(DocumentError, match="one local step"):
        replace(plan, schedule=replace(plan.schedule, local_steps=2))
    with pytest.raises(DocumentError, match="ring_bits 32"):
        replace(plan, ring_bits=16)


def _rounded_normal(std: float, reach: int) -> np.ndarray:
    edges = np.arange(-reach, reach + 2) - 0.5
    return np.asarray(np.diff(ndtr(edges / std)))


@pytest.mark.parametrize("shares", [2, 3, 6])
def test_a_sum_of_rounded_shares_is_as_private_as_the_gaussian_it_stands_for(shares: int) -> None:
    """Exact distribution of the sum by convolution, at a deviation 64 times smaller than the least one that is allowed.

    delta(epsilon) of its shift by one clip against that of a Gaussian with the summed variance (Balle and Wang 2018).
    """
    std, reach = 16.0, 16 * 40
    mass = _rounded_normal(std, reach)
    total = mass
    for _ in range(shares - 1):
        total = fftconvolve(total, mass)
    total = np.clip(total, 0.0, None)
    sigma = std * math.sqrt(shares)
    clip = round(sigma / 2.0)  # noise multiplier 2
    for level in (0.1, 0.5, 1.0, 2.0):
        shifted = np.concatenate([np.zeros(clip), total])
        straight = np.concatenate([total, np.zeros(clip)])
        found = float(np.clip(shifted - math.exp(level) * straight, 0.0, None).sum())
        assert found <= gaussian_delta(clip / sigma, level) + 1e-7
