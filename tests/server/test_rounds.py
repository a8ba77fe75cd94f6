"""The coordinator over real protocol sessions: what it does about every way a site can fail to answer."""

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sites_in_process import (
    CLIP,
    DECLARED,
    DROP_REPLY,
    DROP_REQUEST,
    OLD,
    RESTART,
    SITES,
    TWICE,
    UNREACHABLE,
    World,
    expected_model,
    make_plan,
    make_roster,
    make_world,
    update_of,
)

from consortium.errors import SignatureError
from consortium.identity import SigningKey
from consortium.plan import Schedule, StrategyRef, sign_plan
from server import rounds
from server.checkpoint import latest_checkpoint
from server.folder import create_folder
from server.journal import EpochAsked, EpochReady, RoundAttempt, RunStopped, Waiting, read_entries
from server.progress import patients_words
from server.state import RunState
from server.transport import Patience, TransportError

ALL = SITES[:4]
Make = Callable[..., World]


@pytest.fixture
def world(tmp_path: Path) -> Make:
    counter = itertools.count()
    return lambda **options: make_world(tmp_path / f"run-{next(counter)}", **options)


def drive(world: World) -> RunState:
    return rounds.run(world.folder.path, world.transport, clock=world.clock)


def final(world: World) -> np.ndarray:
    found = latest_checkpoint(world.folder.checkpoints, world.plan.digest, model_size=world.plan.model_size).checkpoint
    assert found is not None
    return found.model


def contributed(state: RunState) -> list[tuple[int, str, tuple[str, ...]]]:
    return [(done.round, done.purpose, done.survivors) for done in state.done]


def events(world: World, kind: type) -> list:
    return [entry.event for entry in read_entries(world.folder.events) if isinstance(entry.event, kind)]


def only(kind: str, site: str, fault: str) -> Callable[[int, str, str], str]:
    """This fault, always, for this kind of message of this site."""
    return lambda _, asked, name: fault if (asked, name) == (kind, site) else ""


def once(kind: str, site: str, fault: str, *, exchange: int) -> Callable[[int, str, str], str]:
    """... only the n-th time that this kind is sent to anybody."""
    return lambda number, asked, name: fault if (asked, name, number) == (kind, site, exchange) else ""


# The exchanges of a run without failures: keys, kem, then update and vote of describe (2, 3), train (4, 5), train (6, 7), evaluate.
FIRST_TRAIN, FIRST_TRAIN_VOTE, SECOND_TRAIN = 4, 5, 6


def test_a_run_without_failures_is_the_plain_weighted_mean(world: Make) -> None:
    found = world()
    state = drive(found)
    assert (state.phase, [done.purpose for done in state.done]) == ("finished", ["describe", "train", "train", "evaluate"])
    assert all(done.survivors == ALL for done in state.done)
    # (50 * 0.1 + 100 * 0.2 + 150 * 0.3 + 200 * 0.4) / 500 = 0.3 a round, two rounds; 0.02 + 0.03 from their numbers
    assert final(found)[2:4] == pytest.approx([0.6, 0.05], abs=1e-6)
    assert final(found) == pytest.approx(expected_model(found.plan, contributed(state)), abs=1e-6)


def test_a_ring_of_16_bits_gives_the_same_model_to_its_step_with_half_the_bytes(world: Make, tmp_path: Path) -> None:
    wide, narrow = world(), make_world(tmp_path / "narrow", ring_bits=16)
    sent = [sum(done.bytes_up for done in drive(one).done) for one in (wide, narrow)]
    step = CLIP / 2**12  # four sites: L = 2^12
    assert final(narrow) == pytest.approx(final(wide), abs=2 * 4 * step)  # two rounds, each site rounds to one step
    assert final(narrow).tolist() != final(wide).tolist()
    assert sent[0] - sent[1] == 2 * 4 * 2 * narrow.plan.n_parameters  # rounds, sites, bytes


def test_patient_counts_come_as_a_sum_with_the_error_that_their_noise_leaves(world: Make) -> None:
    terms = make_plan(make_roster(ALL)).privacy
    found = world(privacy=replace(terms, count_noise=4.0))
    found.transport.fault = once("sa1_update", "oslo", DROP_REPLY, exchange=FIRST_TRAIN)
    state = drive(found)
    first, second = (dict(done.metrics) for done in state.done[1:3])
    assert patients_words(state) == "461 (noise of s.e. 8.0)"
    assert (first["patients"], first["patients_noise_se"]) == pytest.approx((330.75, 4.0 * 3**0.5))  # 100.25 + 110.25 + 120.25
    assert (second["patients"], second["patients_noise_se"]) == pytest.approx((461.0, 8.0))


def test_normalisation_is_that_of_all_patients_together(world: Make) -> None:
    found = world()
    drive(found)
    assert final(found)[0] == pytest.approx((20 + 23 + 26 + 29) / 4, abs=1e-3)


def test_histograms_are_summed_over_sites_also_over_one_with_a_single_class(world: Make) -> None:
    found = world()
    done = drive(found).done
    assert [bool(one.histogram) for one in done] == [False, True, False, True]  # round 2 and the last
    assert done[-1].histogram == pytest.approx((3, 0, 0, 0, 1, 1, 1, 1))
    # label 1 at bins 0 to 3 against three of label 0 in bin 0: one tie (half), three wins: 3.5 of 4
    assert dict(done[-1].metrics)["auc"] == pytest.approx(0.875)


def test_a_finished_run_asks_nobody_again(world: Make) -> None:
    found = world()
    drive(found)
    asked = len(found.transport.asked)
    assert drive(found).phase == "finished"
    assert len(found.transport.asked) == asked


@pytest.mark.parametrize("fault", [DROP_REQUEST, DROP_REPLY, UNREACHABLE])
def test_after_a_dropout_the_survivors_weights_add_up_to_one(world: Make, fault: str) -> None:
    found = world()
    found.transport.fault = once("sa1_update", "oslo", fault, exchange=FIRST_TRAIN)
    state = drive(found)
    done = state.done[1]
    assert done.survivors == ("basel", "kaunas", "lyon")
    assert [(drop.site, drop.phase) for drop in done.dropped] == [("oslo", "update")]
    assert done.dropped[0].code == ("UNREACHABLE" if fault == UNREACHABLE else "LATE")
    # (50 * 0.1 + 100 * 0.2 + 150 * 0.3) / 300 = 0.7 / 3, then 0.3 of the round with everybody
    assert final(found)[2] == pytest.approx(0.7 / 3 + 0.3, abs=1e-6)
    assert state.done[2].survivors == ALL  # a new epoch took it back


def test_a_site_lost_before_the_vote_still_counts(world: Make) -> None:
    found = world()
    found.transport.fault = once("sa1_vote", "oslo", DROP_REPLY, exchange=FIRST_TRAIN_VOTE)
    done = drive(found).done[1]
    assert done.survivors == ALL
    assert [(drop.site, drop.phase, drop.code) for drop in done.dropped] == [("oslo", "vote", "LATE")]


def test_answers_in_any_order_and_twice_give_the_same_bytes(world: Make) -> None:
    plain, turned = world(), world()
    turned.transport.reverse = True
    turned.transport.fault = lambda number, kind, site: TWICE
    first, second = drive(plain), drive(turned)
    assert contributed(first) == contributed(second)
    assert [done.dropped for done in second.done] == [()] * 4
    assert final(plain) == pytest.approx(final(turned), abs=1e-6)


def test_an_answer_of_an_earlier_round_is_no_answer(world: Make) -> None:
    found = world()
    found.transport.fault = once("sa1_update", "oslo", OLD, exchange=FIRST_TRAIN)
    done = drive(found).done[1]
    assert [(drop.site, drop.phase, drop.code) for drop in done.dropped] == [("oslo", "update", "ROUND")]
    assert final(found)[2] == pytest.approx(0.7 / 3 + 0.3, abs=1e-6)


def test_a_site_that_was_not_asked_cannot_answer(world: Make) -> None:
    found = world()
    found.transport.stranger = "stranger"
    state = drive(found)
    assert state.phase == "finished"
    assert not any(drop.site == "stranger" for done in state.done for drop in done.dropped)


def test_a_restarted_site_loses_one_round_and_joins_the_next_epoch(world: Make) -> None:
    found = world()
    found.transport.fault = once("sa1_update", "oslo", RESTART, exchange=FIRST_TRAIN)
    state = drive(found)
    assert [(drop.site, drop.code) for drop in state.done[1].dropped] == [("oslo", "EPOCH")]
    assert state.done[2].survivors == ALL
    assert [ready.number for ready in events(found, EpochReady)] == [1, 2]


@pytest.mark.parametrize("kind", ["sa1_keys", "sa1_kem"])
def test_a_site_that_cannot_join_is_left_out_and_named(world: Make, kind: str) -> None:
    found = world()
    found.transport.fault = only(kind, "oslo", DROP_REPLY)
    state = drive(found)
    ready = events(found, EpochReady)[0]
    assert (ready.sites, state.phase) == (("basel", "kaunas", "lyon"), "finished")
    assert [(drop.site, drop.phase, drop.code) for drop in ready.dropped] == [("oslo", kind[4:], "LATE")]


@pytest.mark.parametrize("code", ["INTERNAL", "TRAINING", "BUSY", "PAUSED", "MODEL", "BUDGET", "UNDECODABLE", "RANGE"])
@pytest.mark.parametrize("kind", ["sa1_update", "sa1_vote"])
def test_one_refusal_of_any_kind_never_stops_a_run(world: Make, kind: str, code: str) -> None:
    found = world()
    found.sites["oslo"].refuses = lambda asked, _: code if asked == kind else ""
    state = drive(found)
    assert state.phase == "finished"
    named = {(drop.site, drop.phase, drop.code) for done in state.done for drop in done.dropped}
    assert named == {("oslo", kind[4:], code)}
    assert final(found) == pytest.approx(expected_model(found.plan, contributed(state)), abs=1e-6)


def test_a_site_that_refuses_for_good_is_left_out_until_the_run_is_resumed(world: Make) -> None:
    found = world(rounds=3)
    found.sites["oslo"].refuses = lambda asked, _: "BUDGET" if asked == "sa1_update" else ""
    state = drive(found)
    assert [len(ready.sites) for ready in events(found, EpochReady)] == [4, 3]
    assert [(drop.site, drop.code) for drop in events(found, EpochReady)[1].dropped] == [("oslo", "BUDGET")]
    assert sum(kind == "sa1_update" and "oslo" in sites for kind, sites in found.transport.asked) == 1
    assert state.phase == "finished"


def test_no_site_is_charged_again_when_too_many_refuse_for_good(world: Make) -> None:
    found = world()
    for site in ("lyon", "oslo"):
        found.sites[site].refuses = lambda asked, _: "BUDGET" if asked == "sa1_update" else ""
    state = drive(found)
    assert (state.phase, state.stopped, len(state.failed)) == ("stopped", "REFUSED", 1)
    assert found.sites["basel"].charged == [(1, "describe")]
    for site in ("lyon", "oslo"):
        found.sites[site].refuses = lambda asked, _: ""  # the stewards raised their budgets
    assert drive(found).phase == "finished"


def test_too_many_declining_stewards_end_the_run_at_once(world: Make) -> None:
    found = world()
    for site in ("lyon", "oslo"):
        found.sites[site].refuses = lambda asked, _: "DECLINED"
    state = drive(found)
    assert (state.stopped, state.waiting) == ("REFUSED", {"lyon": "DECLINED", "oslo": "DECLINED"})
    assert found.clock.now < 10.0


def test_a_round_with_too_few_opens_nothing_and_the_next_has_the_next_number(world: Make) -> None:
    found = world()
    found.transport.fault = lambda number, kind, site: DROP_REPLY if number == FIRST_TRAIN and site in ("lyon", "oslo") else ""
    state = drive(found)
    assert [(failed.round, failed.code) for failed in state.failed] == [(2, "TOO_FEW")]
    assert [(drop.site, drop.code) for drop in state.failed[0].dropped] == [("lyon", "LATE"), ("oslo", "LATE")]
    assert [done.round for done in state.done] == [1, 3, 4, 5]
    assert final(found)[2:4] == pytest.approx([0.6, 0.07], abs=1e-6)


def test_ballots_of_too_few_open_nothing(world: Make) -> None:
    found = world()
    found.transport.fault = lambda number, kind, site: DROP_REPLY if number == FIRST_TRAIN_VOTE and site in ("lyon", "oslo") else ""
    state = drive(found)
    assert [(failed.round, failed.code) for failed in state.failed] == [(2, "NOT_OPENABLE")]
    assert (state.phase, [done.round for done in state.done]) == ("finished", [1, 3, 4, 5])


def test_garbage_spoils_a_round_and_never_enters_the_model(world: Make) -> None:
    found = world()

    def spoil(number: int, kind: str) -> None:
        found.sites["kaunas"].garbage = number == FIRST_TRAIN

    found.transport.before = spoil
    state = drive(found)
    assert [(failed.round, failed.code) for failed in state.failed] == [(2, "SPOILED")]
    assert final(found) == pytest.approx(expected_model(found.plan, contributed(state)), abs=1e-6)


def test_five_failures_in_a_row_stop_the_run_which_can_be_resumed(world: Make) -> None:
    found = world()
    found.sites["kaunas"].garbage = True
    state = drive(found)
    assert (state.stopped, [failed.round for failed in state.failed]) == ("FAILED_IN_A_ROW", [1, 2, 3, 4, 5])
    found.sites["kaunas"].garbage = False
    state = drive(found)
    assert (state.phase, [done.round for done in state.done], state.resumes) == ("finished", [6, 7, 8, 9], 1)


def test_a_plans_maxima_are_never_exceeded(world: Make) -> None:
    found = world(schedule=Schedule(3, 40, 1, 3, 1, 2, 1, 1.0))
    found.sites["kaunas"].garbage = False
    found.transport.before = lambda number, kind: setattr(found.sites["kaunas"], "garbage", number == SECOND_TRAIN)
    state = drive(found)
    assert (state.stopped, state.attempts) == ("LIMIT", {"describe": 1, "train": 3})
    assert drive(found).stopped == "LIMIT"
    assert max(len(site.charged) for site in found.sites.values()) == 4


def test_the_last_round_number_of_a_plan_is_the_last(world: Make) -> None:
    found = world(schedule=Schedule(2, 3, 1, 3, 1, 2, 1, 1.0))
    assert drive(found).stopped == "LIMIT"
    assert [attempt.round for attempt in events(found, RoundAttempt)] == [1, 2, 3]


def test_a_step_out_of_float32_stops_the_run_after_one_round(world: Make) -> None:
    found = world(strategy=StrategyRef("fedavg", (("server_rate", 1e300),)))
    state = drive(found)
    assert (state.stopped, [failed.code for failed in state.failed]) == ("DIVERGED", ["DIVERGED"])
    assert found.sites["basel"].charged == [(1, "describe"), (2, "train")]


# waiting


def test_a_run_waits_for_a_steward_and_begins_when_the_approval_is_there(world: Make) -> None:
    found = world()
    found.sites["oslo"].refuses = lambda *_: "NOT_APPROVED" if found.clock.now < 100.0 else ""
    state = drive(found)
    assert [(note.site, note.reason) for note in events(found, Waiting)] == [("oslo", "NOT_APPROVED"), ("oslo", "")]
    assert (state.phase, state.done[0].survivors, state.failed) == ("finished", ALL, ())
    assert 100.0 <= found.clock.now < 130.0


def test_a_steward_who_never_decides_is_waited_for_no_longer_than_planned(world: Make) -> None:
    found = world()
    found.sites["oslo"].refuses = lambda *_: "NOT_APPROVED"
    state = drive(found)
    assert (state.phase, state.done[0].survivors) == ("finished", ALL[:3])
    approval_s = found.plan.deadlines.approval_s
    assert approval_s <= found.clock.now < approval_s + 30.0


def test_when_too_few_approve_nothing_is_asked_and_the_run_says_why(world: Make) -> None:
    found = world()
    for site in ("lyon", "oslo"):
        found.sites[site].refuses = lambda *_: "NOT_APPROVED"
    state = drive(found)
    assert (state.stopped, state.attempts) == ("NOT_APPROVED", {})
    assert state.waiting == {"lyon": "NOT_APPROVED", "oslo": "NOT_APPROVED"}


def test_a_long_wait_costs_few_lines(world: Make) -> None:
    found = world(deadlines=replace(make_plan(make_roster(ALL)).deadlines, approval_s=20_000))
    found.sites["oslo"].refuses = lambda *_: "NOT_APPROVED"
    drive(found)
    assert len(events(found, EpochAsked)) < 20_000 / 25


def test_silence_ends_by_deadlines_alone(world: Make) -> None:
    found = world()
    found.transport.fault = lambda *_: DROP_REQUEST
    state = drive(found)
    deadlines = found.plan.deadlines
    assert state.stopped == "TOO_FEW"
    assert found.clock.now <= deadlines.approval_s + deadlines.keys_s + rounds.POLL_LONGEST_S


def test_an_absent_site_comes_back(world: Make) -> None:
    found = world(rounds=12)
    found.transport.fault = lambda number, kind, site: UNREACHABLE if site == "oslo" and number < 10 else ""
    state = drive(found)
    back = [done.round for done in state.done if "oslo" in done.survivors]
    assert state.done[0].survivors == ALL[:3]
    assert 1 < back[0] <= 10
    assert back == list(range(back[0], state.done[-1].round + 1))
    numbers = [asked.number for asked in events(found, EpochAsked)]
    assert numbers == list(range(1, len(numbers) + 1))  # also the question to the absent one has a number of its own


def test_an_absent_site_that_answers_garbage_costs_no_epoch(world: Make) -> None:
    found = world(rounds=12)
    found.transport.fault = lambda number, kind, site: (
        ("corrupt" if number else UNREACHABLE) if (site, kind) == ("oslo", "sa1_keys") else ""
    )
    state = drive(found)
    assert (state.phase, [ready.number for ready in events(found, EpochReady)]) == ("finished", [1])


def test_keys_older_than_a_day_are_never_used(world: Make) -> None:
    found = world()

    def night(number: int, kind: str) -> None:
        found.clock.now += 23.5 * 3600 if number == FIRST_TRAIN_VOTE else 0.0

    found.transport.before = night
    state = drive(found)
    assert (state.phase, [ready.number for ready in events(found, EpochReady)]) == ("finished", [1, 2])


# stopping and starting


def test_a_run_that_is_stopped_from_outside_says_so_and_goes_on_when_resumed(world: Make) -> None:
    found = world()

    def stop(number: int, kind: str) -> None:
        if number == SECOND_TRAIN:
            raise TransportError("stopped at the hub")

    found.transport.before = stop
    with pytest.raises(TransportError):
        drive(found)
    assert [event.code for event in events(found, RunStopped)] == ["STOPPED"]
    found.transport.before = lambda number, kind: None
    state = drive(found)
    assert (state.phase, [done.round for done in state.done]) == ("finished", [1, 2, 3, 4])  # the open round is asked for again
    assert final(found)[2:4] == pytest.approx([0.6, 0.05], abs=1e-6)


def test_a_resumed_run_passes_over_a_damaged_checkpoint(world: Make, caplog: pytest.LogCaptureFixture) -> None:
    found = world(schedule=Schedule(2, 40, 6, 2, 6, 2, 1, 1.0))
    found.transport.before = lambda number, kind: setattr(found.sites["kaunas"], "garbage", number > SECOND_TRAIN)
    assert drive(found).stopped == "FAILED_IN_A_ROW"
    newest = sorted(found.folder.checkpoints.iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert drive(found).stopped == "LIMIT"  # the model of round 3 is gone, and the plan allows no other training round
    assert "checkpoint=skipped" in caplog.text


def test_a_folder_whose_plan_nobody_signed_asks_nobody(world: Make, tmp_path: Path) -> None:
    found = world()
    roster = make_roster(ALL)
    signed = sign_plan(make_plan(roster), SigningKey.from_seed(b"\x09" * 32))
    folder = create_folder(tmp_path / "forged", signed, found.folder.signed_roster())
    with pytest.raises(SignatureError):
        rounds.run(folder.path, found.transport, clock=found.clock)
    assert found.transport.asked == []


def test_checkpoint_and_journal_agree_about_strategy_state(world: Make) -> None:
    """FedAdam over the same answers, in one go and resumed after each round, ends in the same bytes."""
    plain = world(strategy=StrategyRef("fedadam", (("ema_decay", 0.5), ("rate", 0.1))))
    drive(plain)
    broken = world(strategy=plain.plan.strategy)

    def stop_often(number: int, kind: str) -> None:
        if kind == "sa1_update" and number not in resumed:
            resumed.add(number)
            if len(resumed) in (2, 4):
                raise TransportError("stopped")

    resumed: set[int] = set()
    broken.transport.before = stop_often
    for _ in range(2):
        with pytest.raises(TransportError):
            drive(broken)
    state = drive(broken)
    assert state.phase == "finished"
    first, second = expected_steps(plain), expected_steps(broken)
    assert final(plain) == pytest.approx(first, abs=1e-5)
    assert final(broken) == pytest.approx(second, abs=1e-5)


def expected_steps(world: World) -> np.ndarray:
    """Adam by hand over the mean updates of the training rounds that were done."""
    done = [entry.event for entry in read_entries(world.folder.events)]
    trained = [one.round for one in done if getattr(one, "purpose", "") == "train" and hasattr(one, "survivors")]
    model = expected_model(world.plan, [(1, "describe", ALL)])
    at, size = world.plan.n_buffers, world.plan.n_parameters
    first, second = np.zeros(size), np.full(size, 1e-6)
    for number in trained:
        total = sum(DECLARED[place] * update_of(site, number, size) for place, site in enumerate(ALL))
        mean = total / sum(DECLARED[:4])
        first, second = 0.9 * first + 0.1 * mean, 0.99 * second + 0.01 * mean**2
        model[at:] += np.asarray(0.1 * first / (np.sqrt(second) + 1e-3), np.float32)
    return model


def test_patience_gives_the_slower_half_as_long_as_the_faster_took() -> None:
    patience = Patience(deadline_s=600.0, quorum=3, grace_s=5.0)
    assert patience.left(100.0, 2, 0.0) == 500.0
    assert patience.left(1.0, 3, 0.0) == 5.0
    assert patience.left(100.0, 3, 0.0) == 100.0  # three took 100 s: the others get 100 s more
    assert patience.left(180.0, 3, 80.0) == 20.0
    assert patience.left(590.0, 3, 0.0) == 10.0
    assert patience.left(700.0, 3, 0.0) == 0.0


def test_a_site_that_died_does_not_hold_up_the_next_epoch(world: Make) -> None:
    """Everybody is waited for at the start; later the others go on after the grace, and the dead site is named."""
    made = world(rounds=3)
    dead = ALL[-1]
    made.transport.fault = lambda number, kind, site: DROP_REQUEST if site == dead and number >= FIRST_TRAIN else ""
    state = drive(made)
    assert state.phase == "finished"
    later = [event for event in events(made, EpochReady) if dead not in event.sites]
    assert later
    assert all(event.seconds < made.plan.deadlines.keys_s / 2 for event in later)
    assert {drop.site for event in later for drop in event.dropped} == {dead}
