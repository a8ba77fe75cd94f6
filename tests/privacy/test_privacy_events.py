"""The vocabulary refuses what it cannot name, and nothing that is spent gets lost on the way through a ledger line."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import EventError
from privacy.events import (
    POPULATIONS,
    GaussianEvent,
    NonPrivateEvent,
    PoissonGaussianEvent,
    Spend,
    aggregate,
    is_private,
    spend_from_document,
    spend_to_document,
)

noises = st.floats(1e-3, 1e6)
events = st.one_of(
    st.builds(GaussianEvent, noises),
    st.builds(PoissonGaussianEvent, noises, st.floats(1e-6, 1.0, exclude_max=True)),
    st.just(NonPrivateEvent()),
)
spends = st.builds(Spend, events, st.sampled_from(POPULATIONS), st.integers(1, 1000))


@given(spends)
def test_a_spend_survives_its_document(spend: Spend) -> None:
    assert spend_from_document(spend_to_document(spend)) == spend


@given(st.lists(spends, max_size=8))
def test_aggregation_loses_no_release_and_forgets_the_order(several: list[Spend]) -> None:
    merged = aggregate(several)
    assert sum(spend.count for spend in merged) == sum(spend.count for spend in several)
    assert merged == aggregate(reversed(several))
    assert len({(spend.population, spend.event) for spend in merged}) == len(merged)


def test_one_release_without_noise_makes_the_whole_not_private() -> None:
    noisy = Spend(GaussianEvent(1.0), "train")
    assert is_private([noisy])
    assert not is_private([noisy, Spend(NonPrivateEvent(), "held_out")])


@pytest.mark.parametrize("noise", [0.0, -1.0, float("nan"), float("inf"), 9e-4, 2e9, 1])
def test_noise_that_hides_nobody_is_refused(noise: float) -> None:
    with pytest.raises(EventError, match="NonPrivateEvent"):
        GaussianEvent(noise)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0, 1.5, float("nan"), 1])
def test_a_sample_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(EventError, match="sample_rate"):
        PoissonGaussianEvent(1.0, rate)


@pytest.mark.parametrize("count", [0, -1, 10**9 + 1, True, 1.0])
def test_a_count_that_could_refund_is_refused(count: int) -> None:
    with pytest.raises(EventError, match="count"):
        Spend(GaussianEvent(1.0), "train", count)


def test_an_unknown_population_or_event_is_refused() -> None:
    with pytest.raises(EventError, match="population"):
        Spend(GaussianEvent(1.0), "everybody")  # type: ignore[arg-type]
    with pytest.raises(EventError, match="vocabulary"):
        Spend("laplace", "train")  # type: ignore[arg-type]


GOOD = {"count": 1, "event": {"name": "gaussian", "noise_multiplier": 2.0}, "population": "train"}


@pytest.mark.parametrize(
    "change",
    [
        {"event": {"name": "laplace", "noise_multiplier": 2.0}},
        {"event": {"name": "gaussian"}},
        {"event": {"name": "gaussian", "noise_multiplier": 2}},
        {"event": {"name": "gaussian", "noise_multiplier": 2.0, "discount": 1.0}},
        {"event": {"name": "not-private", "noise_multiplier": 2.0}},
        {"event": "gaussian"},
        {"count": 1.0},
        {"count": True},
        {"population": "nobody"},
        {"population": ["train"]},
        {"refund": 1},
    ],
)
def test_a_document_with_anything_unknown_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(EventError):
        spend_from_document({**GOOD, **change})  # type: ignore[dict-item]
    assert spend_from_document(GOOD) == Spend(GaussianEvent(2.0), "train")  # type: ignore[arg-type]


def test_a_spend_that_is_no_object_is_refused() -> None:
    with pytest.raises(EventError, match="exactly the keys"):
        spend_from_document(["count"])


def test_events_cannot_be_changed_after_the_fact() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GaussianEvent(1.0).noise_multiplier = 100.0  # type: ignore[misc]
