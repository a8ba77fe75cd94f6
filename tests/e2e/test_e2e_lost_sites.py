"""One of four sites may be away at any point of a round: the round opens over the others."""

import pytest
from books import check_books, repeated
from consortium_of_four import SHORT_WAITS, Consortium, Going, wait_until

pytestmark = pytest.mark.e2e

LOST = "hospital-4"
SHORT = ("schedule.rounds=4", "schedule.evaluate_every=2", *SHORT_WAITS)


def survivors_of(going: Going, number: int) -> tuple[str, ...]:
    return next(done.survivors for done in going.done() if done.round == number)


def lost_in(going: Going, number: int) -> set[tuple[str, str]]:
    return {(drop.phase, drop.code) for done in going.done() if done.round == number for drop in done.dropped}


def finished_without_repeating(consortium: Consortium, going: Going) -> None:
    assert going.status() == 0, going.output[-2000:]
    check_books(consortium, going)
    assert repeated(going) == 0


def test_a_site_that_is_away_from_the_start_is_not_waited_for(consortium: Consortium) -> None:
    consortium.kill(f"{LOST}-guard", f"{LOST}-gateway")
    going = consortium.begin(consortium.plan(*SHORT))
    finished_without_repeating(consortium, going)
    assert all(done.survivors == ("hospital-1", "hospital-2", "hospital-3") for done in going.done())


def test_a_site_that_dies_before_its_upload_does_not_stop_the_round(consortium: Consortium) -> None:
    going = consortium.begin(consortium.plan(*SHORT))
    wait_until(lambda: going.begun(3), "round 3 begun")
    consortium.kill(f"{LOST}-guard")
    finished_without_repeating(consortium, going)
    assert LOST not in survivors_of(going, 3)
    assert LOST in survivors_of(going, 2)


def test_a_site_that_dies_between_upload_and_vote_still_counts(consortium: Consortium) -> None:
    going = consortium.begin(consortium.plan(*SHORT))
    wait_until(lambda: going.vote_asked(3), "votes of round 3 asked")
    consortium.kill(f"{LOST}-guard")
    finished_without_repeating(consortium, going)
    assert LOST in survivors_of(going, 3)
    assert {phase for phase, _ in lost_in(going, 3)} == {"vote"}
