"""Three hundred rounds with losses and restarts: no wrong sum, no stuck round, no key used twice, no memory kept."""

import gc
import hashlib
import random
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from secagg import derive, masks, numbers, shamir
from secagg.errors import CODES, SecaggError
from secagg.model import model_digest
from secagg.numbers import tolerated

NOW = 1_000_000.0
N, C = 12, 4
COORDINATOR = "coordinator"


class Soak:
    """A consortium that goes on whatever happens; `where` says whose turn it is, for the spies."""

    def __init__(self, rig: Any, seed: str) -> None:
        self.rig, self.random = rig(N, C, max_round=10**6), random.Random(seed)
        self.ledger = dict.fromkeys(self.rig.sites, 0)
        self.epochs, self.restarts = 0, 0
        self.epoch: Any = None
        self.stale = True
        self.where = ("", 0)

    def rounds(self, count: int) -> Iterator[tuple[int, str]]:
        """(round number, "opened" or the code it ended with)."""
        for number in range(1, count + 1):
            yield number, self.round(number)
            self.rig.sent.clear()

    def round(self, number: int) -> str:
        if self.stale:
            self.epochs += 1
            self.epoch, self.stale = self.rig.epoch(self.epochs), False
        phase = self.epoch.open_round(number, "train", model_digest(number.to_bytes(8, "big")), header_length=2, body_length=3)
        lost = self.lost()
        for site, request in phase.requests().items():
            if site not in lost:
                phase = self.upload(phase, site, request)
        self.restart_some()
        voting = attempt(phase.close)
        outcome = voting if isinstance(voting, SecaggError) else attempt(self.vote_and_open, voting)
        return outcome.code if isinstance(outcome, SecaggError) else "opened"

    def upload(self, phase: Any, site: str, request: bytes) -> Any:
        self.where = (site, phase.terms.round_number)
        self.ledger[site] = phase.terms.round_number
        number = 2.0 ** self.rig.sites.index(site)
        return phase.receive(site, *self.rig.answer(site, request, number, model_hash=phase.terms.model_hash))

    def vote_and_open(self, voting: Any) -> None:
        lost = self.lost()
        for site, request in voting.requests().items():
            if site in lost:
                continue
            self.where = (site, voting.terms.round_number)
            ballot = attempt(self.rig.sessions[site].vote, request, NOW)
            if isinstance(ballot, SecaggError):
                assert ballot.code == "EPOCH"  # it restarted after its upload; the others answer
            else:
                voting = voting.receive(site, ballot)
        self.where = (COORDINATOR, voting.terms.round_number)
        aggregate = voting.close()
        assert self.rig.number_in(aggregate.body) == self.rig.expected(aggregate.survivors)
        assert aggregate.header.tolist() == [len(aggregate.survivors), self.rig.expected(aggregate.survivors) << 32]

    def lost(self) -> set[str]:
        d = tolerated(N, C)
        return set(self.random.sample(self.rig.sites, self.random.choice((0, 0, 1, 2, d, d, d, d + 1))))

    def restart_some(self) -> None:
        """Now and then one or two; the coordinator opens the next epoch before the next round."""
        for site in self.random.sample(self.rig.sites, self.random.choice((0, 0, 0, 0, 0, 0, 1, 2))):
            self.rig.restart(site, self.ledger[site])
            self.restarts, self.stale = self.restarts + 1, True


def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """What comes back, be it a refusal; anything else fails the test."""
    try:
        return call(*arguments)
    except SecaggError as refusal:
        return refusal


class Spy:
    """Who used which key, and with which nonce."""

    def __init__(self, soak: Soak, monkeypatch: pytest.MonkeyPatch) -> None:
        self.soak = soak
        self.sealed: list[tuple[bytes, bytes]] = []
        self.mask_values: dict[bytes, list[tuple[str, int]]] = defaultdict(list)  # mask key -> (who, round), at derivation
        self.streams: dict[tuple[bytes, int], list[tuple[str, int]]] = defaultdict(list)  # (mask key, section) -> (who, round)
        self._watch(monkeypatch, derive, "seal", self._on_seal)
        self._watch(monkeypatch, masks, "mask_key", self._on_mask_key)
        self._watch(monkeypatch, masks, "stream", self._on_stream)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, note: Callable[..., None]) -> None:
        original = getattr(module, name)

        def watched(*arguments: Any) -> Any:
            result = original(*arguments)
            note(result, *arguments)
            return result

        monkeypatch.setattr(module, name, watched)

    def _on_seal(self, sealed: bytes, key: bytes, *_: Any) -> None:
        self.sealed.append((key, sealed[: derive.NONCE_SIZE]))

    def _on_mask_key(self, key: bytes, *_: Any) -> None:
        self.mask_values[key].append(self.soak.where)

    def _on_stream(self, _: Any, key: bytes, section: int) -> None:
        self.streams[key, section].append(self.soak.where)


def check_uses(uses: list[tuple[str, int]]) -> None:
    """In one round only; once by each site that shares the value, at most two, and once by the coordinator that opens it."""
    assert len({number for _, number in uses}) == 1
    assert len(uses) == len(set(uses))
    assert sum(who != COORDINATOR for who, _ in uses) in (1, 2)


def check_spy(spy: Spy) -> None:
    keys = [key for key, _ in spy.sealed]
    assert len(set(spy.sealed)) == len(spy.sealed)
    assert len(set(keys)) == len(keys)  # a key seals once, so that a nonce is only a second line
    for uses in (*spy.mask_values.values(), *spy.streams.values()):
        check_uses(uses)
    assert {key for key, _ in spy.streams} == set(spy.mask_values)


def test_no_key_is_used_twice_over_some_rounds(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    soak = Soak(rig, "short")
    spy = Spy(soak, monkeypatch)
    outcomes = Counter(outcome for _, outcome in soak.rounds(5))
    assert outcomes["opened"] > 0
    check_spy(spy)


def test_the_spy_sees_a_mask_that_is_used_in_two_rounds(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would look like: a pair mask that forgot its round."""
    soak = Soak(rig, "short")
    original = masks.mask_key
    monkeypatch.setattr(derive, "pair_mask", lambda pair, _: int.from_bytes(hashlib.sha256(pair).digest()[:31], "big"))
    monkeypatch.setattr(masks, "mask_key", lambda value, _: original(value, b"one delta"))
    spy = Spy(soak, monkeypatch)
    list(soak.rounds(3))
    with pytest.raises(AssertionError):
        check_spy(spy)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_hundred_rounds_give_right_sums_or_codes_and_no_key_twice(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    soak = Soak(rig, "soak")
    spy = Spy(soak, monkeypatch)
    outcomes = Counter(outcome for _, outcome in soak.rounds(300))
    assert sum(outcomes.values()) == 300
    assert set(outcomes) == {"opened", "TOO_FEW", "NOT_OPENABLE"} <= {"opened", *CODES}
    assert outcomes["opened"] > 150
    assert soak.restarts > 50
    assert soak.epochs > 50
    assert len(spy.sealed) > 300 * numbers.threshold(N, C) * N
    check_spy(spy)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_hundred_rounds_keep_no_memory(rig: Any) -> None:
    """What is traced after round 300 is what was traced after round 50, to 64 KiB; Lagrange weights are a bounded cache."""
    assert shamir.weights.cache_info().maxsize is not None
    soak, held = Soak(rig, "memory"), {}
    tracemalloc.start()
    try:
        for number, _ in soak.rounds(300):
            if number in (50, 300):
                soak.epoch, soak.stale = None, True
                shamir.weights.cache_clear()
                gc.collect()
                held[number] = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held[300] - held[50] < 64 * 1024, held
