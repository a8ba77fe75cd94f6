"""Any message of any phase lost, late, repeated, corrupted, replayed, its site restarted: the invariants hold, whatever hypothesis
finds. A fault script is data, (exchange, site) -> fault; failures shrink to the few that matter."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from sites_in_process import FAULTS, World, expected_model, make_world

from server import rounds
from server.checkpoint import latest_checkpoint
from server.journal import EpochAsked, EpochReady, RoundAttempt, RoundDone, RoundFailed, read_entries
from server.state import RunState

ALL = ("basel", "kaunas", "lyon", "oslo")
STOPS = {"", "TOO_FEW", "LIMIT", "FAILED_IN_A_ROW", "NOT_APPROVED", "REFUSED"}
CODES = ("EPOCH", "BUSY", "BUDGET", "INTERNAL", "NOT_APPROVED", "TRAINING", "DECLINED")

Script = dict[tuple[int, str], str]
scripts = st.dictionaries(st.tuples(st.integers(0, 24), st.sampled_from(ALL)), st.sampled_from(FAULTS), max_size=14)


def played(script: Script, folder: str, *, reverse: bool = False) -> tuple[World, RunState]:
    world = make_world(Path(folder) / "run")
    world.transport.fault = lambda number, kind, site: script.get((number, site), "")
    world.transport.reverse = reverse
    return world, rounds.run(world.folder.path, world.transport, clock=world.clock)


def check(world: World, state: RunState) -> None:
    events = [entry.event for entry in read_entries(world.folder.events)]
    attempts = [event for event in events if isinstance(event, RoundAttempt)]
    ended = [event for event in events if isinstance(event, RoundDone | RoundFailed)]
    assert (state.phase, state.stopped) == ("finished", "") or (state.phase == "stopped" and state.stopped in STOPS - {""})
    assert [event.round for event in ended] == [event.round for event in attempts] == list(range(1, len(attempts) + 1))
    numbers = [event.number for event in events if isinstance(event, EpochAsked)]
    assert numbers == sorted(set(numbers))
    check_names(world, events)
    check_result(world, state)
    check_time(world, len(attempts), len(numbers))


def check_names(world: World, events: list) -> None:
    """Whoever did not contribute is named; whoever contributed was charged for exactly that round."""
    present: tuple[str, ...] = ()
    for event in events:
        if isinstance(event, EpochReady):
            present = event.sites
            assert {drop.site for drop in event.dropped} | set(present) == set(ALL)
        if isinstance(event, RoundDone):
            assert set(present) - set(event.survivors) <= {drop.site for drop in event.dropped}
            assert len(event.survivors) >= 3  # (3 + 1) // 2 + 1 and (4 + 1) // 2 + 1
            for site in event.survivors:
                assert (event.round, event.purpose) in world.sites[site].charged
    begun = {event.round for event in events if isinstance(event, RoundAttempt)}
    assert all({number for number, _ in site.charged} <= begun for site in world.sites.values())


def check_result(world: World, state: RunState) -> None:
    """The model is the plain weighted mean of who survived, or the first model: never anything else."""
    found = latest_checkpoint(world.folder.checkpoints, world.plan.digest, model_size=world.plan.model_size).checkpoint
    done = [(one.round, one.purpose, one.survivors) for one in state.done]
    if found is None:
        assert done == []
        return
    assert np.allclose(found.model, expected_model(world.plan, done), atol=1e-6)


def check_time(world: World, attempts: int, epochs: int) -> None:
    waits = world.plan.deadlines
    limit = attempts * (waits.update_s + waits.vote_s) + epochs * 2 * waits.keys_s + waits.approval_s * (attempts + 1)
    assert world.clock.now <= limit + 0.1 * sum(len(sites) for _, sites in world.transport.asked) * 2


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=scripts, reverse=st.booleans())
def test_no_fault_script_breaks_a_run(script: Script, reverse: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(*played(script, folder, reverse=reverse))


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=scripts, reverse=st.booleans())
def test_no_fault_script_breaks_a_run_searched_longer(script: Script, reverse: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(*played(script, folder, reverse=reverse))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    refusals=st.dictionaries(
        st.tuples(st.sampled_from(ALL), st.sampled_from(("sa1_keys", "sa1_kem", "sa1_update", "sa1_vote"))),
        st.sampled_from(CODES),
        max_size=3,
    )
)
def test_no_set_of_refusals_breaks_a_run(refusals: dict[tuple[str, str], str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder) / "run")
        for name, site in world.sites.items():
            site.refuses = lambda kind, _, name=name: refusals.get((name, kind), "")  # type: ignore[misc]
        check(world, rounds.run(world.folder.path, world.transport, clock=world.clock))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("exchange", [0, 1, 2, 3, 4, 5])
def test_each_fault_in_each_exchange_costs_at_most_its_site(fault: str, exchange: int, tmp_path: Path) -> None:
    world, state = played({(exchange, "lyon"): fault}, str(tmp_path))
    check(world, state)
    assert (state.phase, state.failed) == ("finished", ())
    assert all(set(done.survivors) >= {"basel", "kaunas", "oslo"} for done in state.done)
