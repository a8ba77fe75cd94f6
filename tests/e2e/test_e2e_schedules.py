"""Whatever happens to processes, lines, disks, memory and clocks, at whatever instant: the run ends well, and the books are true.

After each schedule of faults the run is finished, with `resume` where somebody's watch was killed; every ledger verifies, no round
was spent twice, every opened sum was recomputed bit for bit by the auditor's program, whoever was away is named with a code that
has words, and the consortium is whole again. `WARDROUND_FAULT_SEEDS=FIRST-LAST` chooses seeds for the stage `soak`, and
`WARDROUND_SCHEDULE="SEED: FAULT; FAULT"`, as a failure prints it, replays one schedule there.
"""

import os

import pytest
from fault_schedules import Fault, Schedule, drawn
from faulty_consortium import FaultyConsortium, play, possible

FIRST, _, LAST = os.environ.get("WARDROUND_FAULT_SEEDS", "0-199").partition("-")
SEEDS = range(int(FIRST), int(LAST or FIRST) + 1)
GIVEN = os.environ.get("WARDROUND_SCHEDULE", "")
LONG_S = (60, 600, 3600)

# What every change is checked with: each once found a weakness, or is the plainest of its kind.
KEPT = {
    "a site's disk is full": "1: full-site@hospital-1:train#2+0s~3s",
    "the hub's disk is full": "2: full-hub@hospital-1:train#2+0s~3s",
    "bad lines at three sites": "3: truncate@hospital-4:vote#2+0s~2s; repeat@hospital-2:train#2+0s~3s; cut@hospital-1:vote#3+0s~1s",
    "a clock jumps and memory ends": "4: clock-site@hospital-3:train#1+0s~2s; memory@hospital-2:train#3+0s~2s",
}


def check_possible(schedule: Schedule) -> None:
    missing = {fault.what for fault in schedule.faults} - set(possible())
    if missing:
        pytest.skip(f"{', '.join(sorted(missing))} cannot be made here: needs root, or a compiler")


@pytest.mark.e2e
@pytest.mark.parametrize("name", KEPT)
def test_a_run_ends_well_although(consortium: FaultyConsortium, name: str) -> None:
    schedule = Schedule.read(KEPT[name])
    check_possible(schedule)
    outcome = play(consortium, schedule)
    assert outcome.resumes == 0, f"somebody had to be called: {outcome}"
    assert len(outcome.made) == len(schedule.faults)


def both_silent(seconds: float) -> Schedule:
    """Two of four sites vanish in the middle of a round: too few are left to open anything."""
    return Schedule(0, tuple(Fault("silent", site, "train", 2, 0.0, seconds) for site in ("hospital-1", "hospital-2")))


@pytest.mark.e2e
def test_a_run_waits_for_sites_that_are_cut_off_and_goes_on_by_itself(consortium: FaultyConsortium) -> None:
    """A cut of 20 s against waits of 10 and 20 s stands for one of minutes against a lead's 60 and 120 s."""
    outcome = play(consortium, both_silent(20.0))
    assert outcome.resumes == 0
    assert outcome.rounds_done == 4


@pytest.mark.soak
@pytest.mark.timeout(2 * 3600)
@pytest.mark.parametrize("seconds", LONG_S)
def test_a_run_waits_out_a_cut_of(consortium: FaultyConsortium, seconds: int) -> None:
    outcome = play(consortium, both_silent(float(seconds)), limit_s=seconds + 300.0)
    assert (outcome.resumes, outcome.rounds_done) == (0, 4)
    assert outcome.seconds >= seconds


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_ends_well_whatever_happens(consortium: FaultyConsortium, seed: int) -> None:
    schedule = drawn(seed, kinds=possible())
    print(schedule)
    play(consortium, schedule)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not GIVEN, reason="no schedule in WARDROUND_SCHEDULE")
def test_the_given_schedule_ends_well(consortium: FaultyConsortium) -> None:
    print(play(consortium, Schedule.read(GIVEN)))
