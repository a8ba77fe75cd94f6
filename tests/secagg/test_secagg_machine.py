"""Whatever is lost, doubled, reordered, damaged or late, and whoever restarts: a sum is exactly who was counted, or nothing opens.

Site i submits 2^i, so that a sum names its sites. The coordinator may show two views; no site ever gives two answers.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from secagg import numbers
from secagg.coordinator import Epoch, UploadPhase, VotePhase, examine, recompute, start_epoch
from secagg.encoding import decode_header
from secagg.errors import CODES, SecaggError
from secagg.model import model_digest
from secagg.site import Asked

NOW = 1_000_000.0
MODELS = (model_digest(b"model"), model_digest(b"another model"))
MOST_LETTERS = 80


@dataclass(frozen=True)
class Letter:
    """An answer on its way to the coordinator; it may arrive any number of times, also never."""

    site: str
    control: bytes
    y: bytes = b""


@dataclass
class Shown:
    """A view, as the coordinator keeps it: on disk, and what has come in."""

    phase: VotePhase
    stored: bytes
    total: bytes


class Consortium(RuleBasedStateMachine):
    """One plan: its sites, a coordinator and the mail between them."""

    def __init__(self, make_rig: Callable[..., Any], most_sites: int, tally: Counter[str]) -> None:
        super().__init__()
        self.make_rig, self.most_sites, self.tally = make_rig, most_sites, tally
        self.epoch: Epoch | None = None
        self.uploading: UploadPhase | None = None
        self.views: list[Shown] = []
        self.mail: list[Letter] = []
        self.model = MODELS[0]
        self.number = 0  # of the last epoch that was tried
        self.intact = True  # nothing damaged was taken by anybody in this round
        self.opened: dict[int, set[bytes]] = {}  # round -> views that opened
        self.uploads: dict[tuple[str, int], bytes] = {}
        self.ballots: dict[tuple[str, bytes, int], bytes] = {}
        self.ledger: dict[str, int] = {}

    @initialize(data=st.data())
    def found(self, data: st.DataObject) -> None:
        n = data.draw(st.integers(3, self.most_sites), label="n")
        c = data.draw(st.one_of(st.just(n // 3), st.integers(0, n - 2)), label="c")
        self.rig = self.make_rig(n, c, ring_bits=data.draw(st.sampled_from([16, 32]), label="ring"), max_round=10**6)
        self.open_epoch_with(self.rig.sites, data)

    @rule(steps=st.integers(2, 12), data=st.data())
    def advance(self, steps: int, data: st.DataObject) -> None:
        """The coordinator does what comes next: an epoch, a round, updates, a view or two, votes, the sum, the next round."""
        for _ in range(steps):
            if self.epoch is None:
                self.open_epoch_with([site for site in self.rig.sites if site not in self.lost(data, "before the epoch")], data)
            elif self.views:
                self.ask_for_votes(data)
                self.close_votes()
                self.views = [] if data.draw(st.booleans(), label="round ends") else self.views
            elif self.uploading is None:
                self.open_round(data)
                self.ask_for_updates(data)
            else:
                self.close_uploads(data)

    def lost(self, data: st.DataObject, where: str) -> set[str]:
        """Mostly nobody, sometimes as many as may be gone, sometimes one more."""
        d = numbers.tolerated(len(self.rig.sites), self.rig.context.colluders)
        count = data.draw(st.sampled_from([0, 0, 0, 0, d, d, min(1, d), d + 1]), label=f"number lost {where}")
        return set(data.draw(st.permutations(self.rig.sites), label=f"lost {where}")[:count])

    # --- epochs ---------------------------------------------------------------------------------------------------------

    @rule()
    def end_the_epoch(self) -> None:
        self.epoch, self.uploading, self.views = None, None, []

    def open_epoch_with(self, sites: Any, data: st.DataObject) -> None:
        """With anybody who answers; damaged answers come first and change nothing."""
        self.number += 1
        self.epoch, self.uploading, self.views = None, None, []
        phase: Any = start_epoch(self.rig.context, self.number, tuple(sites))
        for step in ("keys", "kem"):
            lost = self.lost(data, f"in {step}") if data.draw(st.integers(0, 3), label=f"losses in {step}") == 0 else set()
            requests = phase.requests()
            for site in data.draw(st.permutations(sorted(set(requests) - lost)), label="order"):
                answer = getattr(self.rig.sessions[site], step)(requests[site], NOW)
                assert getattr(self.rig.sessions[site], step)(requests[site], NOW) == answer
                if data.draw(st.integers(0, 9), label="damaged") == 0:
                    self.refused(phase.receive, site, damaged(answer, data))
                phase = phase.receive(site, answer)
                assert phase.receive(site, answer) == phase
            phase = attempt(phase.close)
            if isinstance(phase, SecaggError):
                assert phase.code in {"TOO_FEW", "EPOCH"}
                return
        self.epoch = phase

    # --- uploads --------------------------------------------------------------------------------------------------------

    def open_round(self, data: st.DataObject) -> None:
        """Mostly the next number, sometimes one that was used, with the same model or another."""
        assert self.epoch is not None
        last = max(session.last_round for session in self.rig.sessions.values())
        number = max(1, last + data.draw(st.sampled_from([1, 1, 1, 1, 3, 0, -1]), label="number after the last"))
        self.model = data.draw(st.sampled_from(MODELS), label="model")
        self.views, self.intact = [], True
        self.uploading = self.epoch.open_round(number, "train", self.model, header_length=2, body_length=3)

    def ask_for_updates(self, data: st.DataObject) -> None:
        """All sites but the lost ones, in any order; some fail while they train."""
        assert self.uploading is not None
        requests = self.uploading.requests()
        lost = self.lost(data, "before the upload")
        failing = data.draw(st.sampled_from([set(), set(), set(self.rig.sites[:1])]), label="training fails")
        for site in data.draw(st.permutations(sorted(set(requests) - lost)), label="order"):
            self.ask_for_update(site, requests[site], fails=site in failing)
        self.deliver_all(data)

    def ask_for_update(self, site: str, request: bytes, *, fails: bool = False) -> None:
        session = self.rig.sessions[site]
        before = memory_of(session)
        asked = attempt(session.begin_update, request, self.model, NOW)
        if isinstance(asked, SecaggError):
            assert asked.code in CODES
            assert memory_of(session) == before
            return
        if fails and isinstance(asked, Asked):
            session.take(asked)
            self.ledger[site] = session.last_round
            return
        control, y = self.rig.answer(site, request, 2.0 ** self.rig.sites.index(site), model_hash=self.model)
        self.ledger[site] = max(self.ledger.get(site, 0), session.last_round)
        first = self.uploads.setdefault((site, session.last_round), control)
        assert first == control, "a second upload in one round"
        self.mail.append(Letter(site, control, bytes(y)))

    def close_uploads(self, data: st.DataObject) -> None:
        """Fix one set, or show two."""
        assert self.uploading is not None
        phase, self.uploading = self.uploading, None
        t = phase.epoch.threshold
        if len(phase.uploads) < t:
            assert self.refused(phase.close) == "TOO_FEW"
            return
        chosen = [sorted(phase.uploads)]
        if data.draw(st.booleans(), label="a second view"):
            chosen.append(sorted(data.draw(st.sets(st.sampled_from(chosen[0]), min_size=t), label="view")))
        for survivors in chosen:
            voting = self.rig.view(phase, survivors)
            self.views.append(Shown(voting, voting.encode(), bytes(voting.total.data)))
        assert chosen[0] != sorted(phase.total.sites) or self.views[0].total == phase.total.data

    # --- votes ----------------------------------------------------------------------------------------------------------

    def ask_for_votes(self, data: st.DataObject) -> None:
        """Each site is shown one of the views, or first one and then the other."""
        lost = self.lost(data, "before the vote")
        for site in data.draw(st.permutations(sorted(set(self.rig.sites) - lost)), label="order"):
            for shown in data.draw(st.permutations(self.views), label="views"):
                requests = shown.phase.requests()
                if site in requests:
                    self.ask_for_vote(site, requests[site])
        self.deliver_all(data)

    def ask_for_vote(self, site: str, request: bytes) -> None:
        session = self.rig.sessions[site]
        before = memory_of(session)
        ballot = attempt(session.vote, request, NOW)
        if isinstance(ballot, SecaggError):
            assert ballot.code in CODES
            assert memory_of(session) == before
            return
        key = (site, session._epoch.roll.epoch_id, session.last_round)
        assert self.ballots.setdefault(key, ballot) == ballot, "a second vote in one round"
        self.mail.append(Letter(site, ballot))

    @precondition(lambda self: self.views)
    @rule()
    def close_votes(self) -> None:
        for shown in self.views:
            phase = shown.phase
            held = bytes(phase.total.data)
            aggregate = attempt(phase.close)
            if isinstance(aggregate, SecaggError):
                assert aggregate.code == "NOT_OPENABLE"
                assert not (phase.openable and self.intact)
                assert phase.total.data == held
                self.tally["shut"] += 1
                continue
            self.check_sum(phase, aggregate)

    def check_sum(self, phase: VotePhase, aggregate: Any) -> None:
        self.tally["opened"] += 1
        rig, number = self.rig, rig_number(self.rig, aggregate)
        assert number == (len(aggregate.survivors), rig.expected(aggregate.survivors))
        assert len(aggregate.survivors) >= phase.epoch.threshold
        assert rig.number_in(aggregate.body) == number[1]
        views = self.opened.setdefault(phase.terms.round_number, set())
        views.add(phase.view_id)
        assert len(views) == 1, "two sums of one round"
        assert examine(rig.context, aggregate.record).survivors == aggregate.survivors
        vectors = {site: rig.sent[phase.view.delta, site][1] for site in aggregate.survivors}
        assert recompute(rig.context, aggregate.record, vectors).data == aggregate.data

    # --- the mail -------------------------------------------------------------------------------------------------------

    def deliver_all(self, data: st.DataObject) -> None:
        """Most of the newest letters arrive as they are, in any order."""
        newest = self.mail[-len(self.rig.sites) :]
        for letter in data.draw(st.permutations(newest), label="arriving"):
            if data.draw(st.integers(0, 19), label="late") != 0:
                self.deliver(letter.site, letter)
        del self.mail[:-MOST_LETTERS]

    @precondition(lambda self: self.mail)
    @rule(data=st.data())
    def deliver_something(self, data: st.DataObject) -> None:
        """Any letter of any round, perhaps damaged or under another site's name."""
        letter = data.draw(st.sampled_from(self.mail), label="letter")
        sender = data.draw(st.sampled_from([letter.site, letter.site, *self.rig.sites]), label="sender")
        if data.draw(st.booleans(), label="damaged"):
            control, y = letter.control, letter.y
            if y and data.draw(st.booleans(), label="vector"):
                y = damaged(y, data)
            else:
                control = damaged(control, data)
            letter = Letter(letter.site, control, y)
            self.deliver(sender, letter, intact=False)
        else:
            self.deliver(sender, letter)

    def deliver(self, sender: str, letter: Letter, *, intact: bool = True) -> None:
        if self.uploading is not None:
            before, held = self.uploading, bytes(self.uploading.total.data)
            after = attempt(before.receive, sender, letter.control, letter.y)
            if isinstance(after, SecaggError):
                assert after.code in CODES
                assert before.total.data == held
            else:
                self.uploading = after
            self.intact = self.intact and (intact or self.uploading is before)
        for shown in self.views:
            phase = shown.phase
            after = attempt(phase.receive, sender, letter.control)
            if isinstance(after, SecaggError):
                assert after.code in CODES
            else:
                shown.phase = after
            assert intact or shown.phase.ballots == phase.ballots, "a damaged ballot was taken"

    @precondition(lambda self: self.epoch is not None and (self.uploading is not None or self.views))
    @rule(data=st.data())
    def ask_something_damaged(self, data: st.DataObject) -> None:
        """A request that was altered on its way: it is refused and changes nothing, or it is answered, once."""
        requests = self.views[0].phase.requests() if self.views else self.uploading.requests()  # type: ignore[union-attr]
        if not requests:
            return
        site = data.draw(st.sampled_from(sorted(requests)), label="site")
        request = damaged(requests[site], data)
        self.intact = False
        if self.views:
            self.ask_for_vote(site, request)
        else:
            self.ask_for_update(site, request)

    # --- restarts -------------------------------------------------------------------------------------------------------

    @rule(data=st.data())
    def restart_a_site(self, data: st.DataObject) -> None:
        """It has lost its epoch and knows the rounds of its ledger; the coordinator notices, or not yet."""
        site = data.draw(st.sampled_from(self.rig.sites), label="site")
        self.rig.restart(site, self.ledger.get(site, 0))
        if data.draw(st.booleans(), label="noticed") and not self.views:
            self.end_the_epoch()

    @precondition(lambda self: self.epoch is not None)
    @rule()
    def restart_the_coordinator(self) -> None:
        """Uploads are lost, and with them the round; an epoch and a view come back, ballots are asked for again."""
        assert self.epoch is not None
        kept = self.epoch.encode()
        self.epoch = Epoch.decode(self.rig.context, kept)
        assert self.epoch.encode() == kept
        self.uploading = None
        for shown in self.views:
            shown.phase = VotePhase.decode(self.rig.context, shown.stored, shown.total)
            assert shown.phase.encode() == shown.stored

    # --- always ---------------------------------------------------------------------------------------------------------

    @invariant()
    def at_most_one_view_of_a_round_opened(self) -> None:
        assert all(len(views) == 1 for views in self.opened.values())

    def refused(self, call: Callable[..., object], *arguments: object) -> str:
        with pytest.raises(SecaggError) as refusal:
            call(*arguments)
        assert refusal.value.code in CODES
        return refusal.value.code

    def teardown(self) -> None:
        """Nothing is stuck: with everybody back, the next epoch and round give the whole sum."""
        if not hasattr(self, "rig"):
            return
        rig = self.rig
        epoch = rig.epoch(self.number + 1)
        number = 1 + max(session.last_round for session in rig.sessions.values())
        voting = rig.votes(
            rig.uploads(epoch, number).close(), lost=rig.sites[: numbers.tolerated(epoch.roll.n, rig.context.colluders)]
        )
        assert rig_number(rig, voting.close()) == (len(rig.sites), 2 ** len(rig.sites) - 1)


def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """What comes back, be it a refusal; anything else fails the test."""
    try:
        return call(*arguments)
    except SecaggError as refusal:
        return refusal


def damaged(data: bytes, draw: st.DataObject) -> bytes:
    """One flipped bit, or a piece cut off."""
    at = draw.draw(st.integers(0, len(data) - 1), label="at")
    if draw.draw(st.integers(0, 3), label="cut") == 0:
        return data[:at]
    return data[:at] + bytes([data[at] ^ (1 << draw.draw(st.integers(0, 7), label="bit"))]) + data[at + 1 :]


def memory_of(session: Any) -> tuple[Any, ...]:
    return session._epoch, session._round, session._last_round


def rig_number(rig: Any, aggregate: Any) -> tuple[int, int]:
    """How many sites are in a sum, and the number in its header."""
    count, values = decode_header(aggregate.header)
    return count, int(values[0])


def play(rig: Any, most_sites: int, examples: int, steps: int) -> Counter[str]:
    """How many views opened and stayed shut."""
    tally: Counter[str] = Counter()
    profile = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(lambda: Consortium(rig, most_sites, tally), settings=profile)
    return tally


def test_a_sum_is_exact_or_nothing_opens_whatever_happens(rig: Any) -> None:
    tally = play(rig, most_sites=8, examples=15, steps=12)
    assert tally["opened"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sum_is_exact_or_nothing_opens_whatever_happens_at_length(rig: Any) -> None:
    tally = play(rig, most_sites=30, examples=50, steps=30)
    assert tally["opened"] > 100
    assert tally["shut"] > 10
