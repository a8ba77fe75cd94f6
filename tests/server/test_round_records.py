"""Every opened round can be opened again by anybody who has its record and the masked vectors."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sites_in_process import World, make_world

from consortium.wire import Reply, Request
from secagg import coordinator
from secagg.context import Context
from secagg.errors import SecaggError
from server import rounds
from server.transport import Patience


class Keeping:
    """A transport that keeps the masked vectors of every update, by round."""

    def __init__(self, world: World) -> None:
        self._inner = world.transport
        self.rounds: list[dict[str, bytes]] = []

    @property
    def failures(self) -> Mapping[str, str]:
        return self._inner.failures

    def exchange(self, kind: str, requests: Mapping[str, Request], patience: Patience) -> Iterator[tuple[str, Reply]]:
        if kind == "sa1_update":
            self.rounds.append({})
        for site, reply in self._inner.exchange(kind, requests, patience):
            if kind == "sa1_update":
                self.rounds[-1][site] = reply.body
            yield site, reply

    def close(self) -> None:
        self._inner.close()


def test_a_record_and_the_masked_vectors_give_the_same_sum_again(tmp_path: Path) -> None:
    world = make_world(tmp_path / "run")
    kept = Keeping(world)
    state = rounds.run(world.folder.path, kept, clock=world.clock)
    roster, plan = world.folder.roster(), world.plan
    context = Context(
        roster_digest=roster.digest,
        plan_digest=plan.digest,
        identities={site: roster.member(site).identity_key for site in plan.sites},
        colluders=roster.colluders,
        minimum_cohort=roster.minimum_cohort,
        max_round=plan.schedule.max_round,
    )
    records = sorted(world.folder.records.glob("*.record"))
    assert len(records) == len(state.done) == len(kept.rounds)
    for path, done, vectors in zip(records, state.done, kept.rounds, strict=True):
        again = coordinator.recompute(context, path.read_bytes(), vectors)
        assert again.survivors == done.survivors
        assert int(again.header[0]) == len(done.survivors)
        altered = dict(vectors)
        first = done.survivors[0]
        altered[first] = bytes([altered[first][0] ^ 1]) + altered[first][1:]
        with pytest.raises(SecaggError):
            coordinator.recompute(context, path.read_bytes(), altered)
