"""A site answers each round once: one upload, one vote for one view, and the same bytes to the same question.

Specification 4.3, 4.4, 4.6. All state is in memory and dies with the process; a refusal changes none of it.
"""

import threading
from dataclasses import dataclass, field
from typing import TypeAlias

from consortium.identity import Entropy, SigningKey
from secagg import derive, numbers
from secagg.context import Context
from secagg.dealing import OwnShares, Sent, Standing, Vector, cast_ballot, mask_and_deal
from secagg.encoding import Encoded
from secagg.errors import SecaggError
from secagg.joining import Encapsulate, Identity, Joined, Keyed, Listed, announce, encapsulate, join, take_list
from secagg.masks import BodyWords, HeaderWords
from secagg.messages import KemEntry, KemRequest, KeysRequest, UpdateRequest, VoteRequest, check_purpose
from secagg.roll import Roll, check_ascending


@dataclass(frozen=True)
class Unkeyed:
    """No epoch since this process started."""


EpochState: TypeAlias = Unkeyed | Keyed | Listed | Joined


@dataclass(frozen=True)
class Idle:
    """No answer is remembered: a fresh start, or a fresh epoch."""


@dataclass(frozen=True)
class Training:
    """The round is taken; its upload does not exist yet."""

    delta: bytes


@dataclass(frozen=True)
class Uploaded:
    """The upload of the round has been made; no vote yet."""

    delta: bytes
    sent: Sent
    own_shares: OwnShares = field(repr=False)


@dataclass(frozen=True)
class Voted:
    """Has voted, for good. Holds no shares; `sent` is the upload if there was one."""

    delta: bytes
    view: bytes
    ballot: bytes = field(repr=False)
    sent: Sent | None


RoundState: TypeAlias = Idle | Training | Uploaded | Voted


@dataclass(frozen=True)
class Asked:
    """An update request that passed every check of the protocol. Nothing is taken yet: policy may still refuse it."""

    joined: Joined = field(repr=False)
    round_number: int
    purpose: str
    model_hash: bytes
    delta: bytes

    @property
    def sites(self) -> tuple[str, ...]:
        """P; its length is the n of the ring scale."""
        return self.joined.roll.sites


@dataclass(frozen=True)
class Taken:
    """The one permission to upload in a round, handed out once."""

    asked: Asked
    state: Training

    @property
    def sites(self) -> tuple[str, ...]:
        return self.asked.sites


@dataclass(frozen=True)
class Repeated:
    """This very request was answered before; these are the bytes."""

    control: bytes = field(repr=False)
    y: memoryview = field(repr=False)


class SiteSession:
    """One site in one plan. Thread-safe: checks and state stand under one lock, masking does not hold it.

    `last_round` starts from the site's ledger. `entropy` is the operating system's outside of tests.
    """

    def __init__(
        self,
        context: Context,
        site_id: str,
        key: SigningKey,
        last_round: int,
        entropy: Entropy,
        *,
        sealed_to: Encapsulate = encapsulate,
    ) -> None:
        if context.identities.get(site_id) != key.public:
            raise SecaggError("STRANGER", f"{site_id} is not in the plan with this identity key: check the roster", (site_id,))
        self._me = Identity(context, site_id, key)
        self._entropy = entropy
        self._sealed_to = sealed_to
        self._lock = threading.Lock()
        self._epoch: EpochState = Unkeyed()
        self._round: RoundState = Idle()
        self._last_round = last_round

    @property
    def last_round(self) -> int:
        """The highest round that this site took or voted in."""
        with self._lock:
            return self._last_round

    def keys(self, request: bytes, now: float) -> bytes:
        """Keys of the asked epoch. A higher number drops the old epoch with all its secrets; a lower one -> `EPOCH`."""
        number = KeysRequest.decode(request).epoch
        with self._lock:
            if not isinstance(self._epoch, Unkeyed):
                announced = self._epoch.announced
                if number == announced.number:
                    return announced.message
                if number < announced.number:
                    raise SecaggError("EPOCH", f"epoch {number} asked, {announced.number} is current: ask for a higher one")
            keyed = announce(self._me, number, now, self._entropy)
            self._epoch, self._round = keyed, Idle()
            return keyed.announced.message

    def kem(self, request: bytes, now: float) -> bytes:
        """Take one list of peers and answer the ciphertexts to the higher ones; another list later -> `EPOCH`."""
        KemRequest.decode(request)
        with self._lock:
            if isinstance(self._epoch, Unkeyed):
                raise SecaggError("EPOCH", "no epoch since this site started: ask for its keys first")
            if isinstance(self._epoch, Listed | Joined):
                if request != self._epoch.listing:
                    raise SecaggError("EPOCH", "another list of peers was taken in this epoch: open the next one")
                return self._epoch.answer
            _check_age(self._epoch.announced.started, now)
            listed = take_list(self._me, self._epoch, request, self._sealed_to)
            self._epoch = listed
            return listed.answer

    def begin_update(self, request: bytes, model_hash: bytes, now: float) -> Asked | Repeated:
        """Every check of an update request; the round is not taken yet. `model_hash` is over the bytes received."""
        asked = UpdateRequest.decode(request)
        with self._lock:
            epoch = self._epoch_of(asked.epoch_id)
            _check_age(epoch.announced.started, now)
            purpose = check_purpose(asked.purpose)
            delta = derive.round_id(asked.epoch_id, asked.round_number, model_hash, purpose)
            if (sent := self._sent_in(delta)) is not None:
                return Repeated(sent.control, sent.y)
            self._check_fresh(asked.round_number)
            joined = self._join(epoch, asked.kems)
            return Asked(joined, asked.round_number, purpose, model_hash, delta)

    def take(self, asked: Asked) -> Taken:
        """Take the round: from here on no other upload is made in it, whatever happens. Call it after policy, before the
        ledger; at most one of several requests for a round gets here, the others are refused with `ROUND`."""
        with self._lock:
            if self._epoch is not asked.joined:
                raise SecaggError("EPOCH", "the epoch ended while the request was being decided: ask again in the next one")
            self._check_fresh(asked.round_number)
            state = Training(asked.delta)
            self._round, self._last_round = state, asked.round_number
            return Taken(asked, state)

    def finish_update(
        self, taken: Taken, header: HeaderWords, body: BodyWords | Encoded, *, threads: int = 1
    ) -> tuple[bytes, memoryview]:
        """(upload message, y): y = header || body, masked; an `Encoded` is written on its way, with no copy beside y.

        `ROUND` if a vote or a later round came between, `RANGE` for an update that holds NaN or infinity.
        """
        asked, vector = taken.asked, Vector(header, body)
        vector.check(self._me.context.ring_bits)
        sent, own_shares = mask_and_deal(self._me, asked.joined, asked.delta, vector, self._entropy, threads=threads)
        with self._lock:
            if self._round is not taken.state:
                raise SecaggError("ROUND", f"round {asked.round_number} was closed while training: nothing is sent")
            self._round = Uploaded(asked.delta, sent, own_shares)
        return sent.control, sent.y

    def vote(self, request: bytes, now: float) -> bytes:
        """The ballot for the request's view, recorded before it leaves; the checks come in the specified order.

        `now` is not looked at: an epoch that aged out begins no round, but a round that was begun may end.
        """
        asked = VoteRequest.decode(request)
        with self._lock:
            epoch = self._epoch_of(asked.epoch_id)
            delta = derive.round_id(asked.epoch_id, asked.round_number, asked.model_hash, asked.purpose)
            self._check_votable(asked.round_number, delta)
            view = self._check_view(epoch.roll, asked, delta)
            state = self._state_of(delta)
            if isinstance(state, Voted):
                if state.view != view:
                    raise SecaggError("VOTED", f"voted for another view of round {asked.round_number}: there is no second vote")
                return state.ballot
            self._check_share_count(asked)
            joined = self._join(epoch, asked.kems)
            sent, own_shares = (state.sent, state.own_shares) if isinstance(state, Uploaded) else (None, ())
            ballot = cast_ballot(self._me, joined, asked, Standing(delta, view, own_shares), self._entropy)
            self._round, self._last_round = Voted(delta, view, ballot, sent), asked.round_number
            return ballot

    def _epoch_of(self, epoch_id: bytes) -> Listed | Joined:
        """The current epoch, if it is the asked one; the caller holds the lock."""
        if not isinstance(self._epoch, Listed | Joined) or self._epoch.roll.epoch_id != epoch_id:
            raise SecaggError("EPOCH", "this site is not in the asked epoch: open the next one with it")
        return self._epoch

    def _join(self, epoch: Listed | Joined, kems: tuple[KemEntry, ...]) -> Joined:
        """Pair keys at first use. Kept even if policy then refuses: it is a step of the epoch, not of the round."""
        if isinstance(epoch, Joined):
            return epoch
        joined = join(self._me, epoch, kems)
        self._epoch = joined
        return joined

    def _state_of(self, delta: bytes) -> RoundState:
        """What is remembered of this very round."""
        return self._round if not isinstance(self._round, Idle) and self._round.delta == delta else Idle()

    def _sent_in(self, delta: bytes) -> Sent | None:
        state = self._state_of(delta)
        return state.sent if isinstance(state, Uploaded | Voted) else None

    def _check_fresh(self, round_number: int) -> None:
        """`ROUND` unless last round < round <= max_round."""
        last, limit = self._last_round, self._me.context.max_round
        if not last < round_number <= limit:
            raise SecaggError("ROUND", f"round {round_number} asked, allowed are {last + 1} to {limit}: take the next number")

    def _check_votable(self, round_number: int, delta: bytes) -> None:
        """Check 1: `ROUND` below the last, above the plan's end, or for another round of the last number."""
        if round_number != self._last_round:
            self._check_fresh(round_number)
        elif isinstance(self._state_of(delta), Idle):
            raise SecaggError("ROUND", f"round {round_number} here was about another model, purpose or epoch: no vote")

    def _check_view(self, roll: Roll, asked: VoteRequest, delta: bytes) -> bytes:
        """Checks 2 to 4; h of the listed view."""
        sites = [one.site for one in asked.survivors]
        check_ascending(sites)
        if strangers := tuple(site for site in sites if site not in roll.sites):
            raise SecaggError("STRANGER", f"{', '.join(strangers)} not in this epoch", strangers)
        if len(sites) < roll.threshold:
            raise SecaggError("TOO_FEW", f"{len(sites)} uploads, threshold is {roll.threshold}: no shares for so few")
        for one in asked.survivors:
            one.check_signature(self._me.context.identities[one.site], delta)
        own = next((one.digest for one in asked.survivors if one.site == self._me.site), None)
        sent = self._sent_in(delta)
        if own is not None and (sent is None or own != sent.masked):
            raise SecaggError("OWN_UPLOAD", f"{self._me.site} made no such upload in this round", (self._me.site,))
        return derive.view_id(delta, [(one.site, one.digest) for one in asked.survivors])

    def _check_share_count(self, asked: VoteRequest) -> None:
        """Check 6: one sealed share row from every survivor but ourselves."""
        expected = sum(one.site != self._me.site for one in asked.survivors)
        if len(asked.sealed_shares) != expected:
            raise SecaggError("ENCODING", f"{len(asked.sealed_shares)} sealed shares, expected {expected}: request altered")


def _check_age(started: float, now: float) -> None:
    """`EPOCH` once the keys are older than a day, and if the clock went back behind them."""
    if not 0.0 <= now - started <= numbers.EPOCH_LIFE_S:
        raise SecaggError(
            "EPOCH", f"keys are {now - started:.0f} s old, limit is {numbers.EPOCH_LIFE_S:.0f} s: open the next epoch"
        )
