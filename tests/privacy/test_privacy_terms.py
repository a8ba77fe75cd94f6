"""A plan's rounds become charges without anything missing, and the worst case is never below what rounds add up to."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consortium.plan import HeaderField, Participant, Plan
from consortium.roster import Founder, Roster
from privacy.accountant import ENFORCE_INTERVAL, epsilon
from privacy.errors import AccountingError
from privacy.events import GaussianEvent, NonPrivateEvent, PoissonGaussianEvent, Spend, aggregate
from privacy.planning import Releases, calibrate
from privacy.terms import (
    epsilon_exposed,
    epsilon_model,
    honest_in_sum,
    plan_limit,
    ride_along_limit,
    round_spends,
    scaled,
    split_id,
)

from .conftest import DELTA


def test_each_purpose_has_its_charge(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan()
    assert round_spends(plan, 1, "describe") == (Spend(GaussianEvent(10.0), "train"),)
    assert round_spends(plan, 2, "train") == (Spend(GaussianEvent(8.0), "train"),)
    assert round_spends(plan, 5, "train") == (Spend(GaussianEvent(6.0), "held_out"), Spend(GaussianEvent(8.0), "train"))
    assert round_spends(plan, 7, "evaluate") == (Spend(GaussianEvent(6.0), "held_out"),)
    with pytest.raises(AccountingError, match="purpose"):
        round_spends(plan, 1, "predict")


def test_sampling_and_local_steps_are_charged_as_they_are(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan({"local_steps": 3}, sample_rate=0.25)
    assert round_spends(plan, 1, "train") == (Spend(PoissonGaussianEvent(8.0, 0.25), "train", 3),)


def test_mode_none_is_charged_as_no_privacy_at_all(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(mode="none", sample_rate=0.5)
    assert {type(spend.event) for spend in plan_limit(plan)} == {NonPrivateEvent}
    assert {spend.population for spend in round_spends(plan, 5, "train")} == {"train", "held_out"}
    assert math.isinf(epsilon_exposed(plan))
    assert math.isinf(epsilon_model(plan, colluders=1, minimum_cohort=3))


def test_a_header_field_without_an_event_cannot_be_released(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privacy.terms.header_fields", lambda *_: (HeaderField("losses", 1),))
    with pytest.raises(AccountingError, match="losses"):
        round_spends(make_plan(), 1, "train")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_order_of_rounds_costs_more_than_the_limit(make_plan: Callable[..., Plan], data: st.DataObject) -> None:
    rounds = data.draw(st.integers(1, 12))
    schedule = {
        "rounds": rounds,
        "max_train": data.draw(st.integers(rounds, 20)),
        "max_round": data.draw(st.integers(rounds, 40)),
        "max_describe": data.draw(st.integers(0, 3)),
        "max_evaluate": data.draw(st.integers(0, 3)),
        "evaluate_every": data.draw(st.integers(1, 7)),
    }
    plan = make_plan(schedule)
    left = {"train": plan.schedule.max_train, "describe": plan.schedule.max_describe, "evaluate": plan.schedule.max_evaluate}
    spent: list[Spend] = []
    for number in range(1, plan.schedule.max_round + 1):
        purpose = data.draw(st.sampled_from(["train", "train", "describe", "evaluate"]))
        if left[purpose]:
            left[purpose] -= 1
            spent += round_spends(plan, number, purpose)
    limit = {(spend.population, spend.event): spend.count for spend in plan_limit(plan)}
    assert all(spend.count <= limit[spend.population, spend.event] for spend in aggregate(spent))


def test_a_plan_that_never_describes_or_evaluates_pays_for_neither(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan({"max_describe": 0, "max_evaluate": 0, "evaluate_every": 31})
    assert plan_limit(plan) == (Spend(GaussianEvent(8.0), "train", 25),)
    assert ride_along_limit(plan) == 0


def test_epsilon_model_counts_the_noise_of_the_honest_sites_in_the_sum(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan()
    assert [honest_in_sum(n, n // 3) for n in (3, 4, 5, 6, 12, 30)] == [2, 2, 3, 3, 5, 11]  # secure aggregation, 4.1
    model = epsilon_model(plan, colluders=1, minimum_cohort=4)
    assert model == pytest.approx(epsilon([scaled(spend, math.sqrt(2.0)) for spend in plan_limit(plan)], DELTA))
    assert model < epsilon_exposed(plan)
    several = make_plan({"local_steps": 2})
    assert epsilon_model(several, colluders=1, minimum_cohort=4) == epsilon_exposed(several)
    with pytest.raises(AccountingError, match="two honest"):
        honest_in_sum(4, 3)
    with pytest.raises(AccountingError, match="two honest"):
        honest_in_sum(4, -1)


def test_epsilon_model_is_that_of_the_smallest_epoch_a_coordinator_may_choose(make_plan: Callable[..., Plan]) -> None:
    twelve = make_plan(participants=tuple(Participant(f"s{number:02d}", number, 100) for number in range(12)))
    large = epsilon_model(twelve, colluders=1, minimum_cohort=12)
    small = epsilon_model(twelve, colluders=1, minimum_cohort=3)
    assert small == pytest.approx(epsilon([scaled(spend, math.sqrt(2.0)) for spend in plan_limit(twelve)], DELTA))
    assert large < small


def test_a_site_that_reads_the_model_subtracts_its_own_noise_even_if_nobody_colludes() -> None:
    assert honest_in_sum(3, 0) == honest_in_sum(3, 1) - 1 == 1


def test_more_noise_keeps_the_kind_of_a_release() -> None:
    assert scaled(Spend(PoissonGaussianEvent(2.0, 0.1), "train", 4), 2.0) == Spend(PoissonGaussianEvent(4.0, 0.1), "train", 4)
    assert scaled(Spend(NonPrivateEvent(), "all"), 2.0) == Spend(NonPrivateEvent(), "all")


def test_the_split_id_names_salt_and_fraction() -> None:
    roster = Roster("ms-north", 1, 1, 3, (Founder("anna", bytes([1]) * 32),), 1, bytes(16), 0.25, ())
    assert len(split_id(roster)) == 64
    assert split_id(roster) == split_id(replace(roster, version=2))
    assert (
        len({split_id(roster), split_id(replace(roster, held_out_fraction=0.3)), split_id(replace(roster, split_salt=b"s" * 16))})
        == 3
    )


@pytest.mark.parametrize(
    ("target", "releases"),
    [
        (3.0, Releases(1, 100, 12, 1.0)),
        (1.0, Releases(2, 60, 0, 1.0)),
        (8.0, Releases(0, 40, 5, 1.0)),
        (3.0, Releases(1, 100, 10, 0.25)),
    ],
)
def test_calibrated_noise_meets_the_target_and_wastes_little(target: float, releases: Releases) -> None:
    found = calibrate(target, DELTA, releases)
    step = GaussianEvent(found.train_noise) if releases.sample_rate == 1.0 else PoissonGaussianEvent(found.train_noise, 0.25)
    train = [Spend(step, "train", releases.train)]
    if releases.describe:
        train.append(Spend(GaussianEvent(found.describe_noise), "train", releases.describe))
    held_out = [Spend(GaussianEvent(found.evaluate_noise), "held_out", max(releases.evaluate, 1))]
    for side in (train, held_out):
        assert 0.98 * target < epsilon(side, DELTA) <= target


def test_describing_takes_a_tenth_of_the_train_side() -> None:
    found = calibrate(3.0, DELTA, Releases(1, 100, 1, 1.0))
    train, describe = 100 / found.train_noise**2, 1 / found.describe_noise**2
    assert describe / (train + describe) == pytest.approx(0.1, abs=2e-3)


@pytest.mark.parametrize(
    ("target", "delta", "releases", "share"),
    [
        (0.0, DELTA, Releases(1, 1, 1, 1.0), 0.1),
        (math.inf, DELTA, Releases(1, 1, 1, 1.0), 0.1),
        (3.0, 0.0, Releases(1, 1, 1, 1.0), 0.1),
        (3.0, DELTA, Releases(1, 0, 1, 1.0), 0.1),
        (3.0, DELTA, Releases(-1, 1, 1, 1.0), 0.1),
        (3.0, DELTA, Releases(1, 1, 1, 0.0), 0.1),
        (3.0, DELTA, Releases(1, 1, 1, 1.0), 1.0),
    ],
)
def test_an_impossible_target_is_refused(target: float, delta: float, releases: Releases, share: float) -> None:
    with pytest.raises(AccountingError):
        calibrate(target, delta, releases, describe_share=share)


def test_a_calibrated_plan_keeps_its_own_promise(make_plan: Callable[..., Plan]) -> None:
    draft = make_plan()
    schedule = draft.schedule
    releases = Releases(schedule.max_describe, schedule.max_train, ride_along_limit(draft) + schedule.max_evaluate, 1.0)
    noises = calibrate(3.0, DELTA, releases)
    assert epsilon_exposed(make_plan(**vars(noises))) <= 3.0
    assert epsilon_exposed(make_plan(**vars(noises)), interval=ENFORCE_INTERVAL) > 2.9
