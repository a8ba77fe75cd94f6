"""A coordinator that may do anything, and the sites that collude with it: what every attack script is written with.

An honest site is only reached through its line. A colluder is its key and its memory, both in the script's hands.
"""

import copy
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from attack_lines import Line, colluders_of
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from guards_in_process import DECLARED, Consortium, Run, terms
from known_numbers import NOW, entropy_record, number_of, train_known_numbers

from client.home import Home
from client.job import Job
from consortium.canonical import text
from consortium.documents import Signed
from consortium.plan import ModelRef, ParameterSpec, Participant, Plan
from consortium.wire import Refusal, Reply, Request, decode_reply, encode_keys_request, encode_refusal, encode_request
from secagg import derive
from secagg import field as element
from secagg.aggregate import Aggregate
from secagg.coordinator import Epoch, UploadPhase, VotePhase, start_epoch
from secagg.dealing import value_index
from secagg.encoding import Update, decode_body, decode_header, encode_header
from secagg.messages import Ballot, KemEntry, Keys, Masked, Upload, VoteRequest, sign
from secagg.model import model_digest
from secagg.numbers import ring_scale
from secagg.opening import View, open_view
from secagg.shamir import interpolate
from secagg.site import Asked, SiteSession
from server.flower import MESSAGE_TYPES

PURPOSE = "train"
CLIP = 1024.0  # of a coordinate: every number of `known_numbers` fits
QUIET = {"train_noise": 400.0, "describe_noise": 400.0, "evaluate_noise": 400.0}  # the fake trainer adds none of it
NUMBERS = itertools.count(1)


@dataclass
class Attack:
    """One plan of `consortium`, with fresh sessions at every site."""

    line: Line
    consortium: Consortium
    signed: Signed
    colluders: dict[str, SiteSession]
    epochs: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    left: list[tuple[str, str, Reply]] = field(default_factory=list)  # (site, kind, reply) of every guard

    # -- who and what --------------------------------------------------------------------------------------------------

    @property
    def run(self) -> Run:
        return Run(self.consortium, self.signed)

    @cached_property
    def plan(self) -> Plan:
        return self.signed.document(Plan)

    @property
    def sites(self) -> tuple[str, ...]:
        return self.plan.sites

    @property
    def honest(self) -> tuple[str, ...]:
        return tuple(site for site in self.sites if site not in self.colluders)

    @property
    def c(self) -> int:
        return self.consortium.roster.colluders

    @property
    def t(self) -> int:
        return self.run.context.threshold(len(self.sites))

    @property
    def model(self) -> bytes:
        return self.run.model()

    def another(self, n: int = 0, numbers: str = "powers", **changes: object) -> "Attack":
        """Another plan of the same consortium, for its first `n` sites, with numbers of `known_numbers.NUMBERS`."""
        return make_attack(self.line, self.consortium, n or len(self.sites), numbers, **changes)

    def home(self, site: str) -> Home:
        return Home(self.line.folder / site)

    def ledger(self, site: str) -> bytes:
        path = self.home(site).ledger
        return path.read_bytes() + path.with_name(path.name + ".head").read_bytes()

    def spends(self, site: str) -> int:
        """Of this plan."""
        lines = self.home(site).ledger.read_bytes().splitlines()
        return sum(b'"kind":"spend"' in line and f'"{self.plan.run_id}"'.encode() in line for line in lines)

    def egress(self, site: str) -> bytes:
        """The manifest's lines about answers; refusals are listed too, and are no part of what these tests count."""
        path = self.home(site).egress / f"{self.plan.run_id}.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return b"".join(line for line in lines if b'"kind": "refusal' not in line)

    def drawn(self, site: str) -> list[bytes]:
        """Everything the guard ever drew at random, which the test knows and the attacker does not."""
        return [bytes.fromhex(line) for line in entropy_record(self.line.folder, site).read_text().split()]

    # -- asking --------------------------------------------------------------------------------------------------------

    def request(self, kind: str, sa1: bytes, body: bytes = b"") -> Request:
        if kind == "sa1_keys":
            return Request(encode_keys_request(self.signed.encode(), sa1))
        return Request(encode_request(self.signed.digest, sa1), body)

    def ask_all(self, kind: str, requests: Mapping[str, bytes], body: bytes = b"") -> dict[str, Reply]:
        """Guards only."""
        replies = self.line.exchange(kind, {site: self.request(kind, sa1, body) for site, sa1 in requests.items()})
        self.left += [(site, kind, reply) for site, reply in replies.items()]
        return replies

    def ask(self, site: str, kind: str, sa1: bytes, body: bytes = b"") -> Reply:
        return self.ask_all(kind, {site: sa1}, body)[site]

    def refused(self, site: str, kind: str, sa1: bytes, body: bytes = b"") -> str:
        """Code of the refusal; ledger and manifest of the site are what they were, and nothing else came with it."""
        before = self.ledger(site), self.egress(site)
        code = code_of(self.ask(site, kind, sa1, body))
        assert (self.ledger(site), self.egress(site)) == before
        return code

    def refusals(self, site: str, *asked: tuple[str, bytes]) -> list[str]:
        """The same for several requests (kind, bytes) on their way at once; the model goes with each update."""
        before = self.ledger(site), self.egress(site)
        messages = [
            (MESSAGE_TYPES[kind], self.request(kind, sa1, self.model if kind == "sa1_update" else b"")) for kind, sa1 in asked
        ]
        codes = [code_of(carried.reply) for carried in self.line.volley(site, messages)]
        assert (self.ledger(site), self.egress(site)) == before
        return codes

    # -- the honest course ---------------------------------------------------------------------------------------------

    def keys_messages(self, number: int, sites: Iterable[str] = ()) -> dict[str, bytes]:
        """Ascending by site."""
        requests = start_epoch(self.run.context, number, tuple(sites or self.sites)).requests()
        found = {site: self.colluders[site].keys(sa1, NOW) for site, sa1 in requests.items() if site in self.colluders}
        found |= answers(self.ask_all("sa1_keys", {site: sa1 for site, sa1 in requests.items() if site not in found}))
        return dict(sorted(found.items()))

    def epoch(self, sites: Iterable[str] = (), number: int = 0) -> Epoch:
        number = number or next(self.epochs)
        phase = start_epoch(self.run.context, number, tuple(sites or self.sites))
        for site, message in self.keys_messages(number, sites).items():
            phase = phase.receive(site, message)
        kems = phase.close()
        requests = kems.requests()
        found = {site: self.colluders[site].kem(sa1, NOW) for site, sa1 in requests.items() if site in self.colluders}
        found |= answers(self.ask_all("sa1_kem", {site: sa1 for site, sa1 in requests.items() if site not in found}))
        for site, message in found.items():
            kems = kems.receive(site, message)
        return kems.close()

    def open_round(self, epoch: Epoch, number: int, model: bytes | None = None) -> "Round":
        return Round(self, epoch, number, self.model if model is None else model)

    def round(self, number: int = 1, *, epoch: Epoch | None = None, lost: Iterable[str] = ()) -> "Round":
        """A round with everybody's upload but those of `lost`."""
        made = self.open_round(epoch or self.epoch(), number)
        made.upload(site for site in made.epoch.sites if site not in lost)
        return made


@dataclass
class Round:
    """What a coordinator holds of a training round; it forms as many views of it as it likes."""

    attack: Attack
    epoch: Epoch
    number: int
    model: bytes
    uploads: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)

    @property
    def asking(self) -> UploadPhase:
        return self.attack.run.open_round(self.epoch, self.number, PURPOSE, self.model)

    @property
    def delta(self) -> bytes:
        return self.asking.delta

    @property
    def honest(self) -> tuple[str, ...]:
        return tuple(site for site in self.epoch.sites if site not in self.attack.colluders)

    @property
    def colluding(self) -> tuple[str, ...]:
        return tuple(site for site in self.epoch.sites if site in self.attack.colluders)

    # -- uploads -------------------------------------------------------------------------------------------------------

    def upload(self, sites: Iterable[str]) -> None:
        wanted = set(sites)
        requests = {site: sa1 for site, sa1 in self.asking.requests().items() if site in wanted}
        guards = {site: sa1 for site, sa1 in requests.items() if site not in self.attack.colluders}
        for site, reply in self.attack.ask_all("sa1_update", guards, self.model).items():
            self.uploads[site] = answer_of(reply), reply.body
        for site in requests:
            if site in self.attack.colluders:
                self.uploads[site] = self.colluders_upload(self.attack.colluders[site], site)
        self.uploads = dict(sorted(self.uploads.items()))

    def colluders_upload(self, session: SiteSession, site: str, *, garbage: str = "") -> tuple[bytes, bytes]:
        """The colluder's own numbers, or `garbage` in "header" or "body"."""
        asked = session.begin_update(self.asking.requests()[site], model_digest(self.model), NOW)
        assert isinstance(asked, Asked)
        plan, n = self.attack.plan, len(asked.sites)
        own = replace(plan, run_id=plan.run_id.replace("noised", "powers"))  # a colluder takes its own noise off
        result = train_known_numbers(Job(own, site, self.number, PURPOSE, self.model))
        weight, clip, bits = plan.weight(site), plan.coordinate_clip, plan.ring_bits
        header = encode_header(result.header, n)
        body = Update(result.body, weight=weight, clip=clip, n=n, entropy=os.urandom, ring_bits=bits)
        words = np.zeros(len(result.body), body.word_type)
        body.write(0, words)
        if garbage == "header":
            header = np.frombuffer(os.urandom(header.nbytes), header.dtype).copy()
        if garbage == "body":
            words = np.frombuffer(os.urandom(words.nbytes), words.dtype).copy()
        control, y = session.finish_update(session.take(asked), header, words)
        return control, bytes(y)

    def message(self, site: str) -> Upload:
        return Upload.decode(self.uploads[site][0])

    # -- views and votes -----------------------------------------------------------------------------------------------

    def view(self, survivors: Iterable[str]) -> VotePhase:
        """`TOO_FEW` below the threshold, as the honest coordinator's own code says."""
        phase = self.asking
        for site in sorted(survivors):
            phase = phase.receive(site, *self.uploads[site])
        return phase.close()

    def entries(self, survivors: Iterable[str]) -> tuple[Masked, ...]:
        found = {site: self.message(site) for site in sorted(survivors)}
        return tuple(Masked(site, upload.masked, upload.signature) for site, upload in found.items())

    def vote_request(self, voter: str, survivors: Iterable[str]) -> VoteRequest:
        """As the honest coordinator would ask, for any set."""
        listed, roll = sorted(survivors), self.epoch.roll
        sealed = tuple(self.message(dealer).sealed_shares[roll.others(dealer).index(voter)] for dealer in listed if dealer != voter)
        kems = self.epoch.routed[voter]
        return VoteRequest(roll.epoch_id, self.number, model_digest(self.model), PURPOSE, kems, self.entries(listed), sealed)

    def vote(self, views: Mapping[str, Iterable[str]]) -> dict[str, bytes]:
        """Ballots: each site votes for the view it is shown; a colluder from a copy of its memory, so it may vote again."""
        requests = {site: self.vote_request(site, survivors).encode() for site, survivors in views.items()}
        guards = {site: sa1 for site, sa1 in requests.items() if site not in self.attack.colluders}
        found = answers(self.attack.ask_all("sa1_vote", guards)) if guards else {}
        for site in set(requests) - set(guards):
            found[site] = clone(self.attack.colluders[site]).vote(requests[site], NOW)
        return dict(sorted(found.items()))

    def votes(self, survivors: Iterable[str], voters: Iterable[str] = ()) -> dict[str, bytes]:
        survivors = tuple(survivors)
        return self.vote(dict.fromkeys(tuple(voters) or self.epoch.sites, survivors))

    def refused_vote(self, voter: str, request: VoteRequest) -> str:
        return self.attack.refused(voter, "sa1_vote", request.encode())

    # -- opening -------------------------------------------------------------------------------------------------------

    def open(self, survivors: Iterable[str], ballots: Mapping[str, bytes]) -> Aggregate:
        phase = self.view(survivors)
        for site, ballot in ballots.items():
            phase = phase.receive(site, ballot)
        return phase.close()

    def members(self, aggregate: Aggregate) -> tuple[str, ...]:
        """Whose numbers are in a sum: read from the sum itself."""
        plan, n = self.attack.plan, len(self.epoch.sites)
        sums = decode_body(aggregate.body, plan.coordinate_clip, n, ring_bits=plan.ring_bits) * len(plan.sites)
        total = int(np.rint(sums[0]))
        assert np.abs(sums - total).max() < 0.25, "all values of a sum say the same"
        assert decode_header(aggregate.header)[0] == total.bit_count() == len(aggregate.survivors)
        return tuple(site for site in plan.sites if total & int(number_of(plan, site)))

    def opens(self, survivors: Iterable[str], ballots: Mapping[str, bytes]) -> tuple[str, ...]:
        """Whose numbers are in the sum over `survivors`."""
        return self.members(self.open(survivors, ballots))

    def completes(self) -> None:
        """The honest course goes on as if nothing had happened: whatever was refused changed nothing at any site."""
        everybody = tuple(self.uploads)
        assert self.opens(everybody, self.votes(everybody)) == everybody

    # -- what an attacker can do with ballots ----------------------------------------------------------------------------

    def crack(self, voter: str, view_id: bytes, ballots: Iterable[bytes]) -> bytes | None:
        """The answer in the ballot of `voter` for this view, from all these ballots (of whatever view) and all that colluders
        know; None if it stays shut for every release tried in every box and every subset of what opened."""
        found = self._cracked(voter, view_id, ballots)
        return None if found is None else found[1]

    def kappa(self, voter: str, view_id: bytes, ballots: Iterable[bytes]) -> int:
        found = self._cracked(voter, view_id, ballots)
        assert found is not None
        return found[0]

    def _cracked(self, voter: str, view_id: bytes, ballots: Iterable[bytes]) -> tuple[int, bytes] | None:
        """(kappa, answer)."""
        known = [Ballot.decode(data) for data in ballots]
        (target,) = [ballot for ballot in known if (ballot.site, ballot.view) == (voter, view_id)]
        parts = self._box_parts(target, [release for ballot in known for release in ballot.releases])
        for size in range(1, len(parts) + 1):
            for points in itertools.combinations(sorted(parts), size):
                kappa = interpolate(parts, points)
                key, aad = derive.answer_key(kappa, view_id, voter), derive.answer_aad(view_id, voter)
                if answer := derive.unseal(key, aad, target.sealed_answer):
                    return kappa, answer
        return None

    def _box_parts(self, target: Ballot, releases: Sequence[bytes]) -> dict[int, int]:
        """Shares of a ballot's kappa by point: from every box that any of the releases opens, or that a colluder can open."""
        roll, voter, view_id = self.epoch.roll, target.site, target.view
        parts: dict[int, int] = {}
        for box, opener in zip(target.boxes, roll.others(voter), strict=True):
            own = self.attack.colluders.get(opener)
            theirs = [] if own is None else [derive.release_key(pairs(own)[voter], view_id, opener, voter)]
            for release in (*releases, *theirs):
                opened = derive.unseal(release, derive.box_aad(view_id, opener, voter), box)
                if opened is not None and (part := element.decode(opened)) is not None:
                    parts[roll.point(opener)] = part
        return parts

    def secret_mask(self, site: str) -> int:
        """b of an honest site's upload: among its draws, the one that it committed to. The test's knowledge, not the attacker's."""
        wide = [draw for draw in self.attack.drawn(site) if len(draw) == element.WIDE_SIZE]
        committed = self.message(site).commitments[0]
        for draw in reversed(wide):
            value = element.reduce_wide(draw)
            if derive.commitment(self.delta, site, 0, value) == committed:
                return value
        raise AssertionError(f"no draw of {site} is its b")

    def pair_masks(self, survivors: Iterable[str], ballots: Mapping[str, bytes]) -> Mapping[tuple[str, str], int]:
        uploads = {site: self.message(site) for site in sorted(survivors)}
        opened = open_view(View(self.epoch.roll, self.delta, uploads), {site: Ballot.decode(one) for site, one in ballots.items()})
        return opened.pair_masks


# -- what only the test knows ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Secrets:
    """Every secret of honest sites in a round, recomputed from what their guards drew; by name, as bytes."""

    private_keys: Mapping[str, tuple[bytes, bytes]]  # site -> X25519 key, ML-KEM seed
    pair_keys: Mapping[tuple[str, str], bytes]  # (lower, higher) -> C
    pair_masks: Mapping[tuple[str, str], int]  # (dealer, peer) -> e
    self_masks: Mapping[str, int]
    shares: Mapping[tuple[str, str], tuple[int, ...]]  # (dealer, receiver) -> its share of each value


def secrets_of(round_: Round) -> Secrets:
    attack, roll, delta = round_.attack, round_.epoch.roll, round_.delta
    privates = {site: _private_keys(attack, roll.keys[site]) for site in round_.honest}
    pair_keys = {}
    for low, high in itertools.combinations(roll.sites, 2):
        if low in privates and high in privates:
            (entry,) = [entry for entry in round_.epoch.routed[high] if entry.peer == low]
            agreed = X25519PrivateKey.from_private_bytes(privates[low][0])
            shared = agreed.exchange(X25519PublicKey.from_public_bytes(roll.keys[high].x25519))
            secret = MLKEM768PrivateKey.from_seed_bytes(privates[high][1]).decapsulate(entry.ciphertext)
            pair_keys[low, high] = derive.pair_key(roll.epoch_id, shared, secret, (low, high), entry.ciphertext)
    masks, shares = {}, {}
    for (low, high), key in pair_keys.items():
        for dealer, peer in ((low, high), (high, low)):
            masks[dealer, peer] = derive.pair_mask(key, delta)
            aad = derive.share_aad(delta, dealer, peer, round_.message(dealer).masked)
            sealed = round_.message(dealer).sealed_shares[roll.others(dealer).index(peer)]
            opened = derive.unseal(derive.share_key(key, delta, dealer, peer), aad, sealed)
            assert opened is not None
            row = element.decode_row(opened, roll.n)
            assert row is not None
            shares[dealer, peer] = row
            index = value_index(roll, dealer, peer)
            assert derive.commitment(delta, dealer, index, masks[dealer, peer]) == round_.message(dealer).commitments[index]
    return Secrets(privates, pair_keys, masks, {site: round_.secret_mask(site) for site in round_.honest}, shares)


def _private_keys(attack: Attack, keys: Keys) -> tuple[bytes, bytes]:
    """Those of the site's draws that belong to its public keys."""
    drawn = attack.drawn(keys.site)
    (x25519,) = {
        draw
        for draw in drawn
        if len(draw) == 32 and X25519PrivateKey.from_private_bytes(draw).public_key().public_bytes_raw() == keys.x25519
    }
    (mlkem,) = {
        draw
        for draw in drawn
        if len(draw) == 64 and MLKEM768PrivateKey.from_seed_bytes(draw).public_key().public_bytes_raw() == keys.mlkem
    }
    return x25519, mlkem


# -- colluders ---------------------------------------------------------------------------------------------------------


def clone(session: SiteSession) -> SiteSession:
    """A resumed snapshot of a site's memory. States are immutable, so only the lock must not be shared."""
    twin = copy.copy(session)
    twin._lock = threading.Lock()
    return twin


def pairs(session: SiteSession) -> Mapping[str, bytes]:
    return session._epoch.pairs  # type: ignore[union-attr]  # of a joined epoch


def reseal(round_: Round, dealer: str, voter: str, row: Sequence[int]) -> bytes:
    """The shares of a colluding `dealer` for `voter`, as properly sealed as the true ones."""
    delta = round_.delta
    key = derive.share_key(pairs(round_.attack.colluders[dealer])[voter], delta, dealer, voter)
    aad = derive.share_aad(delta, dealer, voter, round_.message(dealer).masked)
    return derive.seal(key, aad, b"".join(map(element.encode, row)), os.urandom)


def resign_ballot(attack: Attack, ballot: Ballot) -> bytes:
    """A colluder's ballot, whatever is in it, under its own signature."""
    key = attack.home(ballot.site).load_identity()
    return replace(ballot, signature=sign(key, "ballot", *ballot.signed_fields())).encode()


def resign_entry(attack: Attack, epoch_id: bytes, sender: str, receiver: str, ciphertext: bytes) -> KemEntry:
    """A colluder's ciphertext for `receiver`."""
    key = attack.home(sender).load_identity()
    return KemEntry(sender, ciphertext, sign(key, "kem", *KemEntry.signed_fields(epoch_id, sender, receiver, ciphertext)))


def resign_upload(attack: Attack, signer: str, name: str, delta: bytes, digest: bytes) -> Masked:
    """The entry of `name` in a view, under the identity key of `signer`."""
    return Masked(name, digest, sign(attack.home(signer).load_identity(), "upload", delta, text(name), digest))


# -- models and numbers ------------------------------------------------------------------------------------------------


def wide_model(parameters: int) -> ModelRef:
    return ModelRef("logistic", (), (), (ParameterSpec("wide", (parameters,)),), 0)


def step_of(attack: Attack) -> float:
    """Ring steps of one unit of a site's body."""
    plan = attack.plan
    return plan.weight(attack.sites[0]) / plan.coordinate_clip * ring_scale(len(attack.sites), plan.ring_bits)


def uniform(words: np.ndarray) -> bool:
    """Chi-square of the bytes over 256 bins: 255 expected, 22.6 its standard deviation; eight of them is no chance."""
    counts = np.bincount(np.ascontiguousarray(words).view(np.uint8).ravel(), minlength=256)
    expected = counts.sum() / 256
    return bool(((counts - expected) ** 2 / expected).sum() < 255 + 8 * 22.6)


# -- replies -----------------------------------------------------------------------------------------------------------


def answer_of(reply: Reply) -> bytes:
    found = decode_reply(reply.control)
    assert not isinstance(found, Refusal), found
    return found


def answers(replies: Mapping[str, Reply]) -> dict[str, bytes]:
    return {site: answer_of(reply) for site, reply in replies.items()}


def is_answer(reply: Reply) -> bool:
    return not isinstance(decode_reply(reply.control), Refusal)


def code_of(reply: Reply) -> str:
    """The code of a refusal, after checking that its bytes are nothing but code, site ids and correlation id."""
    found = decode_reply(reply.control)
    assert isinstance(found, Refusal), "an answer"
    assert reply == Reply(encode_refusal(found), b"")
    return found.code


# -- making ------------------------------------------------------------------------------------------------------------


def make_attack(line: Line, consortium: Consortium, n: int, numbers: str = "powers", **changes: object) -> Attack:
    sites = sorted(member.id for member in consortium.roster.members if member.role == "site")
    participants = tuple(Participant(site, at + 1, DECLARED) for at, site in enumerate(sites[:n]))
    schedule = replace(consortium.plan().schedule, max_round=12, max_train=12, max_evaluate=2)
    given = {"participants": participants, "schedule": schedule, "coordinate_clip": CLIP, "privacy": terms(**QUIET), **changes}
    signed = consortium.sign(consortium.plan(run_id=f"{numbers}-{next(NUMBERS)}", **given))
    attack = Attack(line, consortium, signed, {})
    for site in colluders_of(len(sites), consortium.roster.colluders):
        if site in attack.sites:
            key = attack.home(site).load_identity()
            attack.colluders[site] = SiteSession(attack.run.context, site, key, 0, os.urandom)
    return attack
