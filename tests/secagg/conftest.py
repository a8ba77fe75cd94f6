"""A consortium in memory: real sites, a scripted coordinator, seeded entropy."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from consortium.identity import SigningKey
from secagg.aggregate import Total
from secagg.context import Context
from secagg.coordinator import Epoch, UploadPhase, VotePhase, start_epoch
from secagg.masks import body_type
from secagg.model import model_digest
from secagg.site import Asked, SiteSession

MODEL = model_digest(b"model")
NOW = 1_000_000.0
BODY_LENGTH = 3
DIGIT = 2**10  # three of them name any set of 30 sites, and their sums fit both rings


def digits(number: int) -> list[int]:
    """A number below 2^30 as the words of a body, lowest first."""
    return [number // DIGIT**place % DIGIT for place in range(BODY_LENGTH)]


def tape(seed: str) -> Callable[[int], bytes]:
    """Repeatable entropy: SHAKE-256 of the seed and a counter."""
    counter = itertools.count()
    return lambda size: hashlib.shake_256(f"{seed}/{next(counter)}".encode()).digest(size)


def site_names(n: int) -> tuple[str, ...]:
    return tuple(f"site-{index:02d}" for index in range(n))


@dataclass
class Rig:
    """Sites of one plan and what a coordinator does with them. `sent`: every upload of a round, by delta and site."""

    context: Context
    keys: dict[str, SigningKey]
    sessions: dict[str, SiteSession]
    sent: dict[tuple[bytes, str], tuple[bytes, memoryview]] = field(default_factory=dict)
    restarts: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.sessions)

    @staticmethod
    def number_in(body: NDArray[np.signedinteger]) -> int:
        """The number whose digits a summed body holds."""
        return sum(int(word) * DIGIT**place for place, word in enumerate(body))

    def restart(self, site: str, last_round: int = 0) -> None:
        self.sessions[site] = SiteSession(self.context, site, self.keys[site], last_round, tape(f"{site}/{next(self.restarts)}"))

    def epoch(self, number: int = 1, sites: Iterable[str] | None = None, now: float = NOW) -> Epoch:
        keys = start_epoch(self.context, number, tuple(sites or self.sites))
        for site, request in keys.requests().items():
            keys = keys.receive(site, self.sessions[site].keys(request, now))
        kem = keys.close()
        for site, request in kem.requests().items():
            kem = kem.receive(site, self.sessions[site].kem(request, now))
        return kem.close()

    def answer(
        self, site: str, request: bytes, number: float, now: float = NOW, model_hash: bytes = MODEL
    ) -> tuple[bytes, memoryview]:
        """The site's whole update: header [1, number], body the digits of `number`."""
        session = self.sessions[site]
        asked = session.begin_update(request, model_hash, now)
        if not isinstance(asked, Asked):
            return asked.control, asked.y
        taken = session.take(asked)
        header = np.array([1, int(number) << 32], np.uint64)  # not by encode_header, whose range is for 30 equal sites
        body = np.array(digits(int(number)), body_type(self.context.ring_bits))
        upload = self.sent[asked.delta, site] = session.finish_update(taken, header, body)
        return upload

    def uploads(self, epoch: Epoch, round_number: int = 1, lost: Iterable[str] = (), purpose: str = "train") -> UploadPhase:
        """Site i of the plan submits 2^i, the lost ones nothing."""
        phase = epoch.open_round(round_number, purpose, MODEL, header_length=2, body_length=BODY_LENGTH)
        for site, request in phase.requests().items():
            if site not in lost:
                phase = phase.receive(site, *self.answer(site, request, 2.0 ** self.sites.index(site)))
        return phase

    def view(self, phase: UploadPhase, survivors: Iterable[str]) -> VotePhase:
        """The vote phase over some of the uploads of a phase, with a sum of its own, as a lying coordinator keeps several."""
        chosen = {site: phase.uploads[site] for site in survivors}
        total = Total(phase.terms.header_length, phase.terms.body_length, self.context.ring_bits)
        for site in chosen:
            total.add(site, self.sent[phase.delta, site][1])
        return replace(phase, uploads=chosen, total=total).close()

    def votes(self, phase: VotePhase, lost: Iterable[str] = ()) -> VotePhase:
        for site, request in phase.requests().items():
            if site not in lost:
                phase = phase.receive(site, self.sessions[site].vote(request, NOW))
        return phase

    def expected(self, survivors: Iterable[str]) -> int:
        return sum(2 ** self.sites.index(site) for site in survivors)


def make_rig(n: int, c: int, *, max_round: int = 100, minimum_cohort: int = 3, ring_bits: int = 32) -> Rig:
    names = site_names(n)
    keys = {name: SigningKey.from_seed(hashlib.sha256(name.encode()).digest()) for name in names}
    identities = {name: key.public for name, key in keys.items()}
    context = Context(b"R" * 32, b"P" * 32, identities, c, minimum_cohort, max_round, ring_bits)
    sessions = {name: SiteSession(context, name, keys[name], 0, tape(name)) for name in names}
    return Rig(context, keys, sessions)


@pytest.fixture
def rig() -> Callable[..., Rig]:
    return make_rig


@pytest.fixture
def four() -> Rig:
    """Four sites, one may collude: t = 3, one may be gone."""
    return make_rig(4, 1)


@pytest.fixture(name="tape")
def tape_fixture() -> Callable[[str], Callable[[int], bytes]]:
    return tape
