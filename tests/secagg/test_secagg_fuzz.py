"""Whatever bytes arrive, only `SecaggError` leaves, what is taken has exactly these bytes, and a refusal changes nothing."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from consortium.canonical import pack, unpack
from consortium.errors import EncodingError
from secagg import field, messages
from secagg.aggregate import Total
from secagg.context import Context
from secagg.coordinator import Epoch, VotePhase, recompute, start_epoch
from secagg.errors import CODES, SecaggError
from secagg.messages import Kem, KemEntry, Masked, Upload

FOLDER = Path(__file__).resolve().parents[1] / "vectors" / "secagg"
NOW = 1_000_000.0
Tree: TypeAlias = "bytes | list[Tree]"

# decoder -> where the golden rounds hold its messages
MESSAGES = {
    "KeysRequest": "keys_requests", "Keys": "keys", "KemRequest": "kem_requests", "Kem": "kem", "UpdateRequest": "update_requests",
    "Upload": "uploads", "VoteRequest": "vote_requests", "Ballot": "ballots",
}  # fmt: skip


# --- mutations --------------------------------------------------------------------------------------------------------


def parsed(data: bytes) -> Tree:
    """The lists in lists of a message, so that an edit deep inside comes with framing that is right."""
    try:
        items = unpack(data)
    except EncodingError:
        return data
    return [parsed(item) for item in items] if items else data


def packed(tree: Tree) -> bytes:
    return tree if isinstance(tree, bytes) else pack(*(packed(item) for item in tree))


def lengths_at(data: bytes, start: int = 0) -> list[int]:
    """Where the counts and lengths stand, at every depth."""
    try:
        items = unpack(data)
    except EncodingError:
        return []
    found, at = [start], start + 4
    for item in items:
        found += [at, *lengths_at(item, at + 4)]
        at += 4 + len(item)
    return found


class Mutator:
    """Bytes that are almost a message."""

    def __init__(self, seed: str, corpus: list[bytes]) -> None:
        self.random = random.Random(seed)
        self.corpus = corpus
        self.trees = {data: parsed(data) for data in corpus}
        self.lengths = {data: lengths_at(data) for data in corpus}
        self.ways = (
            self.noise,
            self.flipped,
            self.flipped,
            self.cut,
            self.longer,
            self.spliced,
            self.resized,
            self.deep,
            self.deep,
        )

    def of(self, data: bytes) -> bytes:
        return self.random.choice(self.ways)(data)

    def noise(self, _: bytes) -> bytes:
        return self.random.randbytes(self.random.randrange(200))

    def flipped(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.random.choice((1, 1, 2, 5))):
            changed[self.random.randrange(len(changed))] ^= 1 << self.random.randrange(8)
        return bytes(changed)

    def cut(self, data: bytes) -> bytes:
        start, end = sorted((self.random.randrange(len(data) + 1), self.random.randrange(len(data) + 1)))
        return self.random.choice((data[:start], data[start:], data[:start] + data[end:], data[start:end]))

    def longer(self, data: bytes) -> bytes:
        at = self.random.choice((len(data), self.random.randrange(len(data))))
        return data[:at] + self.random.randbytes(self.random.randrange(1, 9)) + data[at:]

    def spliced(self, data: bytes) -> bytes:
        other = self.random.choice(self.corpus)
        at = self.random.randrange(len(data))
        return data[:at] + other[self.random.choice((at, self.random.randrange(len(other)))) :]

    def resized(self, data: bytes) -> bytes:
        at = self.random.choice(self.lengths[data])
        old = int.from_bytes(data[at : at + 4], "big")
        values = (old + 1, old - 1, 0, 1, 2**32 - 1, 2**31, old * 2, self.random.getrandbits(32), self.random.getrandbits(8))
        return data[:at] + (self.random.choice(values) % 2**32).to_bytes(4, "big") + data[at + 4 :]

    def deep(self, data: bytes) -> bytes:
        return packed(self._altered(self.trees[data]))

    def _altered(self, tree: Tree) -> Tree:
        """One change at a random depth."""
        if isinstance(tree, bytes):
            return self._leaf(tree)
        at = self.random.randrange(len(tree))
        way = self.random.randrange(8)
        if way == 0:
            return tree[:at] + tree[at + 1 :]
        if way == 1:
            return [*tree[:at], tree[at], *tree[at:]]
        if way == 2:
            other = self.random.randrange(len(tree))
            swapped = list(tree)
            swapped[at], swapped[other] = tree[other], tree[at]
            return swapped
        return [*tree[:at], self._altered(tree[at]), *tree[at + 1 :]]

    def _leaf(self, leaf: bytes) -> bytes:
        if not leaf or self.random.randrange(4) == 0:
            return self.random.choice((b"", b"\0", leaf + b"\0", leaf[:-1], b"\xff" * len(leaf), self.random.randbytes(len(leaf))))
        return self.flipped(leaf)


# --- decoders ---------------------------------------------------------------------------------------------------------


def rounds() -> list[dict[str, Any]]:
    return [json.loads((FOLDER / name).read_text()) for name in ("round_n3.json", "round_n4_dropped.json")]


def context_of(log: dict[str, Any]) -> Context:
    identities = {site: bytes.fromhex(key) for site, key in log["identities"].items()}
    return Context(b"R" * 32, b"P" * 32, identities, 1, 3, 9)


def corpus() -> dict[str, list[bytes]]:
    """Golden messages of every kind, by decoder."""
    logs = rounds()
    found = {name: [bytes.fromhex(one) for log in logs for one in log[kind].values()] for name, kind in MESSAGES.items()}
    found = {name: sorted(set(data)) for name, data in found.items()}
    entries = [entry for data in found["Kem"] for entry in Kem.decode(data).entries]
    found["KemEntry"] = [KemEntry(entry.peer, entry.ciphertext, entry.signature).encode() for entry in entries]
    uploads = [Upload.decode(data) for data in found["Upload"]]
    found["Masked"] = [Masked(upload.site, upload.masked, upload.signature).encode() for upload in uploads]
    return found


def stored() -> dict[str, tuple[bytes, Callable[[bytes], bytes]]]:
    """What a coordinator keeps and publishes: the golden bytes, and decoding them followed by encoding."""
    log = rounds()[1]
    context, total = context_of(log), bytes.fromhex(log["total"])
    vectors = {site: bytes.fromhex(y) for site, y in log["vectors"].items()}
    return {
        "Epoch": (bytes.fromhex(log["stored_epoch"]), lambda data: Epoch.decode(context, data).encode()),
        "VotePhase": (bytes.fromhex(log["stored_view"]), lambda data: VotePhase.decode(context, data, total).encode()),
        "record": (bytes.fromhex(log["record"]), lambda data: recompute(context, data, vectors).record),
    }


def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """What comes back, be it a refusal; anything else fails the test, which then shows the arguments."""
    try:
        return call(*arguments)
    except SecaggError as refusal:
        return refusal


def fed(decode_and_encode: Callable[[bytes], bytes], inputs: Iterator[bytes]) -> tuple[int, int]:
    """(inputs, accepted ones); fails where other bytes come out again."""
    count = accepted = 0
    for data in inputs:
        count += 1
        again = attempt(decode_and_encode, data)
        if not isinstance(again, SecaggError):
            assert (again == data) is True, f"input {count} of {len(data)} bytes is written differently"
            accepted += 1
    return count, accepted


def fuzz_decoders(seed: str, each: int, each_stored: int) -> tuple[int, Counter[str]]:
    """How many inputs went in, and how many of each decoder were taken."""
    total, accepted = 0, Counter[str]()
    found = corpus()
    mutator = Mutator(seed, [data for kind in found.values() for data in kind])
    for name, valid in found.items():
        decode = getattr(messages, name).decode
        inputs = (mutator.of(mutator.random.choice(valid)) for _ in range(each))
        count, accepted[name] = fed(lambda data, decode=decode: decode(data).encode(), inputs)
        total += count
    for name, (data, again) in stored().items():
        mutator = Mutator(seed, [data])
        count, accepted[name] = fed(again, (mutator.of(data) for _ in range(each_stored)))
        total += count
    return total, accepted


def test_mutated_messages_are_refused_or_taken_as_they_are() -> None:
    count, accepted = fuzz_decoders("fast", 1000, 60)
    assert count == 10 * 1000 + 3 * 60
    assert all(accepted[name] > 0 for name in ("Keys", "Kem", "KemEntry", "Upload", "Masked", "VoteRequest", "Ballot"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_mutated_messages_are_refused_or_taken_as_they_are() -> None:
    count, accepted = fuzz_decoders("slow", 101_000, 20_000)
    assert count >= 1_000_000, count
    assert sum(accepted.values()) > 50_000, accepted


def test_every_message_of_every_kind_is_refused_by_every_other_decoder() -> None:
    found = corpus()
    for name in found:
        decode = getattr(messages, name).decode
        for other, valid in found.items():
            if other == name or {name, other} == {"KemEntry", "Masked"}:  # one form, but signed under other labels
                assert name != other or all(decode(data).encode() == data for data in valid)
                continue
            for data in valid:
                with pytest.raises(SecaggError):
                    decode(data)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_row_of_elements_is_taken_only_with_every_element_below_p() -> None:
    draw = random.Random("rows")
    for _ in range(50_000):
        size = draw.choice((0, 31, 32, 33, 64, 96))
        data = draw.choice((draw.randbytes(size), b"\xff" * size, b"\x7f" + draw.randbytes(max(0, size - 1))))
        row = field.decode_row(data, 2)
        low = all(int.from_bytes(part, "big") < field.PRIME for part in (data[:32], data[32:]))
        assert (row is not None) == (len(data) == 64 and low)
        assert row is None or b"".join(map(field.encode, row)) == data


# --- a live site --------------------------------------------------------------------------------------------------------


def memory_of(session: Any) -> tuple[Any, ...]:
    return session._epoch, session._round, session._last_round


def restore(session: Any, memory: tuple[Any, ...]) -> None:
    session._epoch, session._round, session._last_round = memory


def site_states(rig: Any) -> Iterator[tuple[Any, dict[str, bytes]]]:
    """A session in each of its states, with the requests that are due in it; states are values, so they can be put back."""
    four = rig(4, 1)
    me = four.sessions["site-02"]
    keys = start_epoch(four.context, 1, four.sites)
    due = {"keys": keys.requests()["site-02"]}
    yield me, due
    for site, request in keys.requests().items():
        keys = keys.receive(site, four.sessions[site].keys(request, NOW))
    kem = keys.close()
    due = {**due, "kem": kem.requests()["site-02"]}
    yield me, due
    for site, request in kem.requests().items():
        kem = kem.receive(site, four.sessions[site].kem(request, NOW))
    uploading = kem.close().open_round(2, "train", b"M" * 32, header_length=2, body_length=3)
    due = {**due, "update": uploading.requests()["site-02"]}
    yield me, due
    for site, request in uploading.requests().items():
        uploading = uploading.receive(site, *four.answer(site, request, 1.0, model_hash=b"M" * 32))
    voting = uploading.close()
    due = {**due, "vote": voting.requests()["site-02"]}
    yield me, due
    me.vote(due["vote"], NOW)
    yield me, due


def ask(session: Any, name: str, request: bytes) -> object:
    if name == "update":
        return session.begin_update(request, b"M" * 32, NOW)
    return getattr(session, name)(request, NOW)


def fuzz_site(rig: Any, each: int) -> Counter[str]:
    """Codes of the refusals, and "answered"."""
    outcomes = Counter[str]()
    for state, (me, due) in enumerate(site_states(rig)):
        mutator, before = Mutator(f"site {state}", list(due.values())), memory_of(me)
        for name, request in due.items():
            for _ in range(each):
                altered = mutator.of(request)
                answer = attempt(ask, me, name, altered)
                if isinstance(answer, SecaggError):
                    outcomes[answer.code] += 1
                    assert memory_of(me) == before, altered.hex()
                else:
                    outcomes["answered"] += 1
                    restore(me, before)
    return outcomes


def test_a_site_that_refuses_an_altered_request_is_as_it_was(rig: Any) -> None:
    outcomes = fuzz_site(rig, 60)
    assert sum(outcomes.values()) == 14 * 60
    assert {"ENCODING", "EPOCH", "SIGNATURE", "answered"} <= set(outcomes)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_site_that_refuses_one_of_many_altered_requests_is_as_it_was(rig: Any) -> None:
    outcomes = fuzz_site(rig, 10_000)
    assert sum(outcomes.values()) == 14 * 10_000
    assert set(outcomes) <= {*CODES, "answered"}
    assert {"ENCODING", "EPOCH", "SIGNATURE", "ROUND", "PEERS", "STRANGER", "VOTED", "answered"} <= set(outcomes)


# --- a live coordinator -----------------------------------------------------------------------------------------------


def fuzz_coordinator(rig: Any, each: int) -> Counter[str]:
    """Codes of the refusals, and "taken", over mutated answers to each phase. They are those of the first site."""
    four = rig(4, 1)
    outcomes = Counter[str]()
    keys: Any = start_epoch(four.context, 1, four.sites)
    for name in ("keys", "kem"):
        answers = {site: getattr(four.sessions[site], name)(request, NOW) for site, request in keys.requests().items()}
        for site in four.sites[1:]:
            keys = keys.receive(site, answers[site])
        feed(outcomes, keys, answers["site-00"], each)
        keys = keys.receive("site-00", answers["site-00"]).close()
    uploads = four.uploads(keys, lost=["site-00"])
    feed(outcomes, uploads, *four.answer("site-00", uploads.requests()["site-00"], 1.0), each)
    voting = four.votes(uploads.close(), lost=["site-00"])
    feed(outcomes, voting, four.sessions["site-00"].vote(voting.requests()["site-00"], NOW), each)
    assert four.number_in(voting.close().body) == 14
    return outcomes


def feed(outcomes: Counter[str], phase: Any, control: bytes, *more: Any) -> None:
    """Mutations of a message, for an upload also of its vector; a phase that took one is put aside."""
    *vector, each = more
    mutator = Mutator("coordinator", [control])
    for _ in range(each):
        fresh, beside = phase, list(vector)
        if vector:
            fresh = replace(phase, total=copy_of(phase.total))
            if mutator.random.randrange(3) == 0:
                beside = [mutator.flipped(bytes(vector[0]))]
        held = bytes(fresh.total.data) if vector else b""
        altered = mutator.of(control)
        taken = attempt(fresh.receive, "site-00", altered, *beside)
        if isinstance(taken, SecaggError):
            outcomes[taken.code] += 1
            assert taken.sites == ("site-00",)
            assert not vector or fresh.total.data == held
        else:
            outcomes["taken"] += 1
            assert "site-00" not in taken.missing


def copy_of(total: Total) -> Total:
    copy = Total(2, 3, 32)
    copy.restore(total.sites, total.data)
    return copy


def test_a_coordinator_that_refuses_an_altered_answer_is_as_it_was(rig: Any) -> None:
    outcomes = fuzz_coordinator(rig, 100)
    assert sum(outcomes.values()) == 4 * 100
    assert {"ENCODING", "SIGNATURE", "taken"} <= set(outcomes)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_coordinator_that_refuses_one_of_many_altered_answers_is_as_it_was(rig: Any) -> None:
    outcomes = fuzz_coordinator(rig, 20_000)
    assert sum(outcomes.values()) == 4 * 20_000
    assert {"ENCODING", "SIGNATURE", "EPOCH", "STRANGER", "ROUND", "PEERS", "taken"} <= set(outcomes)
