"""A coordinator that takes over finishes the round that was open: the same number, the same survivors, nothing spent anew."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sites_in_process import World, make_world

from consortium.wire import Reply, Request
from server import rounds
from server.errors import ServerError
from server.folder import RunFolder
from server.journal import Event, Journal, RoundFailed, VoteAsked, read_entries
from server.report import status, write_report
from server.rounds import OpenRound
from server.state import RunState, read_state
from server.transport import Patience, Transport

ALL = ("basel", "kaunas", "lyon", "oslo")
TRAIN = 2  # the first training round


class Killed(BaseException):
    """As kill -9 would: nothing of ours runs afterwards."""


@dataclass
class Watched:
    """A transport that keeps every request, and dies at the `at`-th exchange of a kind: before it, or after some replies."""

    inner: Transport
    kind: str = ""
    at: int = 0
    after_replies: int = 0
    seen: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    @property
    def failures(self) -> Mapping[str, str]:
        return self.inner.failures

    def exchange(self, kind: str, requests: Mapping[str, Request], patience: Patience) -> Iterator[tuple[str, Reply]]:
        self.seen.append((kind, {site: request.control for site, request in requests.items()}))
        dies = kind == self.kind and len(self.of(kind)) == self.at
        for count, answer in enumerate(self.inner.exchange(kind, requests, patience)):
            if dies and count == self.after_replies:
                raise Killed
            yield answer
        if dies:
            raise Killed

    def of(self, kind: str) -> list[dict[str, bytes]]:
        return [controls for seen, controls in self.seen if seen == kind]

    def close(self) -> None:
        self.inner.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "run")


def killed(world: World, kind: str, *, at: int, after_replies: int) -> Watched:
    """A first coordinator that dies there."""
    watched = Watched(world.transport, kind, at, after_replies)
    with pytest.raises(Killed):
        rounds.run(world.folder.path, watched, clock=world.clock)
    return watched


def taken_over(world: World) -> tuple[Watched, RunState]:
    watched = Watched(world.transport)
    return watched, rounds.run(world.folder.path, watched, clock=world.clock)


def events(folder: RunFolder, kind: type[Event]) -> list[Event]:
    return [entry.event for entry in read_entries(folder.events) if isinstance(entry.event, kind)]


@pytest.mark.parametrize("after_replies", [0, 1, 3, 4])
def test_killed_in_a_vote_the_successor_asks_for_the_same_survivors_in_the_same_words(world: World, after_replies: int) -> None:
    world.transport.fault = lambda number, kind, site: "drop-reply" if (number, site) == (4, "oslo") else ""
    first = killed(world, "sa1_vote", at=2, after_replies=after_replies)
    second, state = taken_over(world)
    assert second.seen[0] == ("sa1_vote", first.of("sa1_vote")[1])  # no key, no model, no update is asked for again
    assert [done.round for done in state.done] == [1, 2, 3, 4]
    assert state.done[1].survivors == ("basel", "kaunas", "lyon")  # oslo's upload did not arrive in time, and stays out
    assert [event.survivors for event in events(world.folder, VoteAsked) if event.round == TRAIN] == [state.done[1].survivors]
    assert [len(site.charged) for site in world.sites.values()] == [4, 4, 4, 4]


@pytest.mark.parametrize("after_replies", [0, 2, 4])
def test_killed_while_uploads_come_the_successor_asks_for_the_same_round(world: World, after_replies: int) -> None:
    first = killed(world, "sa1_update", at=2, after_replies=after_replies)
    second, state = taken_over(world)
    assert second.seen[0] == ("sa1_update", first.of("sa1_update")[1])
    assert [(done.round, done.survivors) for done in state.done] == [(number, ALL) for number in (1, 2, 3, 4)]
    assert [len(site.charged) for site in world.sites.values()] == [4, 4, 4, 4]


def test_the_survivors_are_on_disk_before_the_journal_and_the_sites_hear_of_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two: the set that was kept is the one that is asked for, though nobody was asked yet."""
    real = Journal.append

    def append(journal: Journal, event: Event) -> object:
        if isinstance(event, VoteAsked) and event.round == TRAIN:
            raise Killed
        return real(journal, event)

    world.transport.fault = lambda number, kind, site: "drop-reply" if (number, site) == (4, "oslo") else ""
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", append)
        with pytest.raises(Killed):
            rounds.run(world.folder.path, world.transport, clock=world.clock)
    second, state = taken_over(world)
    assert second.seen[0][0] == "sa1_vote"
    assert state.done[1].survivors == ("basel", "kaunas", "lyon")
    assert [event.round for event in events(world.folder, VoteAsked)] == [1, 2, 3, 4]


def test_a_kept_sum_that_was_damaged_costs_the_round_and_no_other_set_is_asked_for_under_its_number(world: World) -> None:
    killed(world, "sa1_vote", at=2, after_replies=1)
    (kept,) = world.folder.open.glob("*.sum")
    kept.write_bytes(kept.read_bytes()[:-1] + bytes([kept.read_bytes()[-1] ^ 1]))
    _, state = taken_over(world)
    assert [(event.round, event.code) for event in events(world.folder, RoundFailed)] == [(TRAIN, "NOT_OPENABLE")]
    assert [done.round for done in state.done] == [1, 3, 4, 5]


def test_an_epoch_that_was_damaged_is_not_taken_over(world: World) -> None:
    killed(world, "sa1_vote", at=2, after_replies=1)
    epoch = world.folder.open / "epoch"
    epoch.write_bytes(epoch.read_bytes()[:-1])
    second, state = taken_over(world)
    assert second.seen[0][0] == "sa1_keys"
    assert [done.round for done in state.done] == [1, 3, 4, 5]


@pytest.mark.parametrize(("restarted", "opens"), [(("lyon",), True), (("kaunas", "lyon"), False)])
def test_sites_that_restarted_meanwhile_cost_the_round_only_if_they_are_too_many(
    world: World, restarted: tuple[str, ...], opens: bool
) -> None:
    killed(world, "sa1_vote", at=2, after_replies=0)
    for site in restarted:
        world.sites[site].restart()
    _, state = taken_over(world)
    assert [done.round for done in state.done] == ([1, 2, 3, 4] if opens else [1, 3, 4, 5])
    if not opens:
        (failed,) = state.failed
        assert {(drop.site, drop.phase, drop.code) for drop in failed.dropped} >= {(site, "vote", "EPOCH") for site in restarted}


def test_nothing_of_an_ended_round_stays_in_the_open_folder(world: World) -> None:
    rounds.run(world.folder.path, world.transport, clock=world.clock)
    assert [path.name for path in world.folder.open.iterdir()] == ["epoch"]


def test_a_full_disk_asks_for_no_vote_and_the_run_goes_on_once_there_is_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ServerError("no space left on device")

    watched = Watched(world.transport)
    with monkeypatch.context() as patch:
        patch.setattr(OpenRound, "keep_view", refuse)
        with pytest.raises(ServerError):
            rounds.run(world.folder.path, watched, clock=world.clock)
    assert watched.of("sa1_vote") == []
    _, state = taken_over(world)
    assert [done.round for done in state.done] == [1, 2, 3, 4]
    assert [len(site.charged) for site in world.sites.values()] == [4, 4, 4, 4]


# --- sites that lie ----------------------------------------------------------------------------------------------------


def test_a_dealer_whose_shares_do_not_open_is_named_and_its_uploads_are_left_out(world: World) -> None:
    world.transport.before = lambda number, kind: setattr(world.sites["kaunas"], "deals_garbage", number >= 4)
    state = rounds.run(world.folder.path, world.transport, clock=world.clock)
    assert [(failed.round, failed.code) for failed in state.failed] == [(TRAIN, "NOT_OPENABLE")]
    assert [(drop.site, drop.phase) for drop in state.failed[0].dropped] == [("kaunas", "deal")]
    assert [(done.round, done.survivors) for done in state.done[1:]] == [(n, ("basel", "lyon", "oslo")) for n in (3, 4, 5)]
    assert all(drop.code == "NOT_OPENABLE" for done in state.done[1:] for drop in done.dropped)
    assert len(world.sites["kaunas"].charged) == 5  # it is asked, and votes: it may still be honest, and its vote counts


def test_the_lead_reads_which_round_was_lost_in_which_phase_why_and_by_whom(world: World) -> None:
    def lie(number: int, kind: str) -> None:
        world.sites["kaunas"].deals_garbage = number == 4
        world.sites["lyon"].garbage = number == 8

    world.transport.before = lie
    rounds.run(world.folder.path, world.transport, clock=world.clock)
    shown, page = status(world.folder.path), write_report(world.folder.path).read_text("utf-8")
    named, unnamed = shown["lost"]  # type: ignore[misc]
    assert named == (
        "round 2 train: NOT_OPENABLE. Too few ballots open, or shares do not match what their dealer committed to. "
        "Sites: kaunas (deal NOT_OPENABLE)"
    )
    assert unnamed.startswith(
        "round 3 train: SPOILED. The sum is none of updates: a site masked garbage, and which one cannot be told."
    )  # type: ignore[union-attr]
    assert "lyon" not in unnamed  # type: ignore[operator]
    assert "a site masked garbage" in page
    assert " gave no share of kaunas&#x27;s masks" in page
    assert [sentence for sentence in shown["findings"] if "kaunas's masks" in sentence and sentence.endswith("(round 2)")]  # type: ignore[union-attr]


def test_a_suspicion_ends(tmp_path: Path) -> None:
    """Ten rounds after it was blamed once: a voter's wrong shares can put the blame on an honest dealer."""
    world = make_world(tmp_path / "run", rounds=14)
    world.transport.before = lambda number, kind: setattr(world.sites["kaunas"], "deals_garbage", number == 4)
    state = rounds.run(world.folder.path, world.transport, clock=world.clock)
    without = [done.round for done in state.done if "kaunas" not in done.survivors]
    assert without == list(range(TRAIN + 1, TRAIN + 11))


def test_what_was_found_in_a_round_that_did_not_open_is_on_record_and_names_no_suspect_but_a_dealer(world: World) -> None:
    """Four sites, three ballots: oslo's releases are garbage, so the others' ballots stay shut and its own opens."""
    world.transport.fault = lambda number, kind, site: "unreachable" if (number, site) == (5, "basel") else ""
    world.transport.before = lambda number, kind: setattr(world.sites["oslo"], "releases_garbage", number == 5)
    state = rounds.run(world.folder.path, world.transport, clock=world.clock)
    (failed,) = state.failed
    assert (failed.round, failed.code) == (TRAIN, "NOT_OPENABLE")
    assert {drop.phase for drop in failed.dropped} == {"vote"}
    assert {(found.what, found.sites) for found in state.found} >= {("box", ("kaunas", "oslo")), ("box", ("lyon", "oslo"))}
    assert state.suspects == {}
    assert all(done.survivors == ALL for done in state.done[1:])


def test_a_finding_is_on_record_once_however_often_coordinators_die(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.transport.before = lambda number, kind: setattr(
        world.sites["oslo"], "releases_garbage", kind == "sa1_vote" and number < 8
    )
    real = rounds.save_checkpoint

    def dies(folder: Path, checkpoint: object) -> Path:
        if checkpoint.round == TRAIN:  # type: ignore[attr-defined]
            raise Killed
        return real(folder, checkpoint)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "save_checkpoint", dies)
        with pytest.raises(Killed):
            rounds.run(world.folder.path, world.transport, clock=world.clock)
    assert any(found.round == TRAIN for found in read_state(world.folder.path).found)
    _, state = taken_over(world)
    assert len(state.found) == len(set(state.found)) > 0
    assert [done.round for done in state.done] == [1, 2, 3, 4]


def test_survivors_that_were_asked_for_and_lost_end_the_round(world: World) -> None:
    """No second set of survivors under one number, also where the files of the first are gone."""
    world.transport.fault = lambda number, kind, site: "drop-reply" if (number, site) == (4, "oslo") else ""
    killed(world, "sa1_vote", at=2, after_replies=1)
    for path in world.folder.open.glob("round-*"):
        path.unlink()
    second, state = taken_over(world)
    assert second.seen[0][0] == "sa1_keys"
    assert [event.round for event in events(world.folder, VoteAsked)] == [1, 2, 3, 4, 5]
    assert [done.round for done in state.done] == [1, 3, 4, 5]


def test_a_suspect_is_needed_where_others_are_missing(world: World) -> None:
    world.transport.before = lambda number, kind: setattr(world.sites["kaunas"], "deals_garbage", number == 4)
    world.transport.fault = lambda number, kind, site: (
        "unreachable" if kind == "sa1_update" and number > 5 and site == "oslo" else ""
    )
    state = rounds.run(world.folder.path, world.transport, clock=world.clock)
    assert [done.survivors for done in state.done[1:]] == [("basel", "kaunas", "lyon")] * 3


def test_a_suspicion_outlives_the_coordinator(world: World) -> None:
    world.transport.before = lambda number, kind: setattr(world.sites["kaunas"], "deals_garbage", number == 4)
    killed(world, "sa1_update", at=3, after_replies=0)
    assert read_state(world.folder.path).suspects == {"kaunas": TRAIN}
    _, state = taken_over(world)
    assert state.done[1].survivors == ("basel", "lyon", "oslo")


# --- what a plan may ask for beside the update -------------------------------------------------------------------------


def test_vectors_are_kept_where_the_lead_asked_for_it_and_of_survivors_only(tmp_path: Path) -> None:
    world = make_world(tmp_path / "run")
    world.folder.vectors.mkdir()
    world.transport.fault = lambda number, kind, site: "drop-reply" if (number, site) == (4, "oslo") else ""
    state = rounds.run(world.folder.path, world.transport, clock=world.clock)
    for done in state.done:
        kept = world.folder.vectors / f"round-{done.round:010d}"
        assert sorted(path.stem for path in kept.iterdir()) == sorted(done.survivors)


def test_no_vector_is_kept_by_itself(world: World) -> None:
    rounds.run(world.folder.path, world.transport, clock=world.clock)
    assert not world.folder.vectors.exists()
