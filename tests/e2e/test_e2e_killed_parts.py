"""Kill -9 of each part in the middle of a run: the run goes on or is resumed, and the books stay true."""

import signal

import psutil
import pytest
from books import check_books, repeated
from consortium_of_four import Consortium, Going, wait_until

pytestmark = pytest.mark.e2e


def finished(consortium: Consortium, going: Going) -> None:
    """To the end, with `resume` if this coordinator gave up; at most once."""
    if going.status() != 0:
        again = consortium.resume(going)
        assert again.status() == 0, again.output[-2000:]
    check_books(consortium, going)


@pytest.mark.soak
def test_a_killed_superlink_is_restarted_and_the_run_goes_on(consortium: Consortium) -> None:
    going = consortium.begin(consortium.plan())
    wait_until(lambda: going.begun(4), "round 4 begun")
    superlink = consortium.hub_process("server.flower superlink")
    assert superlink is not None
    superlink.kill()
    finished(consortium, going)
    assert repeated(going) <= 1
    restarted = consortium.hub_process("server.flower superlink")
    assert restarted is not None
    assert restarted.pid != superlink.pid


def test_a_killed_coordinator_is_replaced_by_the_hub_and_nobody_has_to_be_awake(consortium: Consortium) -> None:
    going = consortium.begin(consortium.plan())
    wait_until(lambda: going.begun(4), "round 4 begun")
    coordinator = consortium.hub_process("flwr-serverapp")
    assert coordinator is not None
    coordinator.kill()
    before = [done.round for done in going.done()]
    assert going.status() == 0, going.output[-2000:]
    check_books(consortium, going)
    assert repeated(going) <= 1
    assert [done.round for done in going.done()][: len(before)] == before


@pytest.mark.soak
def test_a_killed_coordinator_is_resumed_at_once_by_hand(consortium: Consortium) -> None:
    going = consortium.begin(consortium.plan())
    wait_until(lambda: going.begun(2), "round 2 begun")
    coordinator = consortium.hub_process("flwr-serverapp")
    assert coordinator is not None
    coordinator.kill()
    again = consortium.resume(going)  # the hub itself would wait ten seconds
    assert again.status() == 0, again.output[-2000:]
    assert going.status() == 0, "whoever watched the first coordinator watches the second"
    check_books(consortium, going)
    assert repeated(going) <= 1


def test_a_killed_guard_rejoins_by_a_new_epoch(consortium: Consortium) -> None:
    going = consortium.begin(consortium.plan("schedule.rounds=31"))  # who is away is asked every five: six times, until it is back
    wait_until(lambda: going.begun(4), "round 4 begun")
    consortium.kill("hospital-2-guard")
    consortium.start("hospital-2-guard")
    assert going.status() == 0, going.output[-2000:]
    check_books(consortium, going)
    assert repeated(going) <= 1
    assert "hospital-2" in going.done()[-1].survivors


@pytest.mark.soak
def test_a_killed_gateway_is_connected_again_and_its_site_takes_part(consortium: Consortium) -> None:
    going = consortium.begin(consortium.plan("schedule.rounds=10"))
    wait_until(lambda: going.begun(4), "round 4 begun")
    consortium.kill("hospital-3-gateway")
    consortium.start("hospital-3-gateway")
    assert going.status() == 0, going.output[-2000:]
    check_books(consortium, going)
    assert repeated(going) <= 1
    assert "hospital-3" in going.done()[-1].survivors


@pytest.mark.soak
def test_a_killed_trainer_costs_its_site_one_round_at_most(consortium: Consortium) -> None:
    going = consortium.begin(consortium.plan())
    wait_until(lambda: going.begun(4), "round 4 begun")
    for process in consortium.family("hospital-1-guard")[1:]:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    assert going.status() == 0, going.output[-2000:]
    check_books(consortium, going)
    assert sum("hospital-1" not in done.survivors for done in going.done()) <= 1
