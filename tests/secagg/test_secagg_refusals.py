"""Every check of the protocol refuses the message that only it stops, with its code; no place that refuses is without a case."""

import ast
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import secagg
from consortium.identity import SigningKey
from secagg import coordinator, encoding, masks, messages, numbers
from secagg.context import Context
from secagg.coordinator import Epoch, KemPhase, UploadPhase, VotePhase, start_epoch
from secagg.errors import CODES, SecaggError
from secagg.messages import Upload
from secagg.site import Asked, SiteSession, Taken

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "vectors" / "secagg"
MODEL = b"M" * 32
NUMBER = {"delta": 2}  # place among the golden sites: it submits 2^2


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOG = json.loads((FOLDER / "round_n4_dropped.json").read_text())
REFUSED = json.loads((FOLDER / "refusals.json").read_text())
VECTORS = REFUSED["vectors"]
MADE = load(Path(__file__).parent / "refusals.py")
GOLDEN = MADE.Golden(LOG)
CONTEXT = Context(b"R" * 32, b"P" * 32, {site: bytes.fromhex(key) for site, key in LOG["identities"].items()}, 1, 3, 9)


@cache
def encapsulated(public: bytes, coins: bytes) -> tuple[bytes, bytes]:
    sealed: tuple[bytes, bytes] = load(Path(__file__).parent / "fips203.py").encapsulate(public, coins)
    return sealed


# --- replaying a vector -------------------------------------------------------------------------------------------------


class Site:
    """The site of the vectors, brought into a state by the golden messages."""

    def __init__(self, tape: Callable[[int], bytes]) -> None:
        name = REFUSED["site"]
        coins = iter(map(bytes.fromhex, REFUSED["kem_randomness"]))
        self.session = SiteSession(CONTEXT, name, MADE.key_of(name), 0, tape, sealed_to=partial(self.encapsulate, coins))
        self.asked: Any = None
        self.taken: Taken | None = None

    @staticmethod
    def encapsulate(coins: Iterator[bytes], public: bytes) -> tuple[bytes, bytes]:
        return encapsulated(public, next(coins))

    def call(self, name: str, message: Any = None, now: float = 0.0, model: bytes = MODEL) -> None:
        session = self.session
        if name == "update":
            self.asked = session.begin_update(GOLDEN.read(message), model, now)
        elif name == "take":
            self.taken = session.take(self.asked)
        elif name == "finish":
            assert self.taken is not None
            session.finish_update(self.taken, np.array([1, 4], np.uint64), np.full(4, 4, np.uint32))
        else:
            getattr(session, name)(GOLDEN.read(message), now)

    def memory(self) -> tuple[Any, ...]:
        return self.session._epoch, self.session._round, self.session._last_round


def phases() -> dict[str, Any]:
    """The coordinator's phases of the golden round, nothing received yet."""
    keys = start_epoch(CONTEXT, 1, tuple(LOG["identities"]))
    kem = _received(keys, "keys", LOG["keys"]).close()
    assert isinstance(kem, KemPhase)
    epoch = _received(kem, "kem", LOG["kem"]).close()
    uploads = epoch.open_round(1, "train", MODEL, header_length=2, body_length=4)
    votes = VotePhase.decode(CONTEXT, GOLDEN["stored_view"], GOLDEN["total"])
    return {"keys": keys, "kem": kem, "uploads": uploads, "votes": votes}


KINDS = {"keys": "keys", "kem": "kem", "uploads": "uploads", "votes": "ballots"}


def _received(phase: Any, name: str, sites: Any) -> Any:
    for site in sites:
        beside = (GOLDEN[f"vectors/{site}"],) if name == "uploads" else ()
        phase = phase.receive(site, GOLDEN[f"{KINDS[name]}/{site}"], *beside)
    return phase


def replay_site(vector: dict[str, Any], tape: Callable[[int], bytes]) -> None:
    site = Site(tape)
    for step in REFUSED["states"][vector["state"]]:
        site.call(*step)
    for call, message in vector.get("first", {}).items():
        site.call(call, message)
    before = site.memory()
    try:
        site.call(vector["call"], vector["message"], vector.get("now", 0.0), bytes.fromhex(vector.get("model", MODEL.hex())))
    finally:
        assert site.memory() == before


def replay_coordinator(vector: dict[str, Any]) -> None:
    name = vector["phase"]
    phase = phases()[name]
    if "stored" in vector:
        phase = VotePhase.decode(CONTEXT, *(GOLDEN.read(vector["stored"][part]) for part in ("view", "total")))
    phase = _received(phase, name, vector.get("have", []))
    for site, message in vector.get("altered", {}).items():
        phase = phase.receive(site, GOLDEN.read(message))
    if "receive" in vector:
        one = vector["receive"]
        y = GOLDEN.read(vector["y"]) if "y" in vector else GOLDEN[f"vectors/{REFUSED['site']}"]
        phase.receive(one["site"], GOLDEN.read(one["message"]), *((y,) if name == "uploads" else ()))
    if vector.get("close"):
        phase.close()


def replay(vector: dict[str, Any], tape: Callable[[str], Any]) -> None:
    if "phase" in vector:
        replay_coordinator(vector)
    else:
        replay_site(vector, tape(REFUSED["site"]))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['check']}: {vector['what']}")
def test_a_check_refuses_what_only_it_stops(tape: Callable[[str], Any], vector: dict[str, Any]) -> None:
    with pytest.raises(SecaggError) as refused:
        replay(vector, tape)
    assert (refused.value.code, list(refused.value.sites)) == (vector["code"], vector["sites"])


@pytest.mark.parametrize("state", REFUSED["states"])
def test_every_state_is_reached_by_golden_messages(tape: Callable[[str], Any], state: str) -> None:
    site = Site(tape(REFUSED["site"]))
    for step in REFUSED["states"][state]:
        site.call(*step)
    expected = {"fresh": "Unkeyed", "keyed": "Keyed", "listed": "Listed"}.get(state, "Joined")
    rounds = {"taken": "Training", "uploaded": "Uploaded", "voted": "Voted", "abstained": "Voted", "later": "Training"}
    assert type(site.session._epoch).__name__ == expected
    assert type(site.session._round).__name__ == rounds.get(state, "Idle")


# --- what is refused to a caller, not to a message ----------------------------------------------------------------------


def _four_joined(rig: Any) -> tuple[Any, Epoch, Asked]:
    four = rig(4, 1)
    epoch = four.epoch()
    request = epoch.open_round(1, "train", MODEL, header_length=1, body_length=1).requests()["site-02"]
    asked = four.sessions["site-02"].begin_update(request, MODEL, 1_000_000.0)
    assert isinstance(asked, Asked)
    return four, epoch, asked


def _words(body: Any = None) -> tuple[Any, Any]:
    return np.ones(1, np.uint64), np.zeros(1, np.uint32) if body is None else body


def take_twice(rig: Any) -> None:
    four, _, asked = _four_joined(rig)
    four.sessions["site-02"].take(asked)
    four.sessions["site-02"].take(asked)


def take_in_another_epoch(rig: Any) -> None:
    four, _, asked = _four_joined(rig)
    four.epoch(2)
    four.sessions["site-02"].take(asked)


def finish_twice(rig: Any) -> None:
    four, _, asked = _four_joined(rig)
    taken = four.sessions["site-02"].take(asked)
    four.sessions["site-02"].finish_update(taken, *_words())
    four.sessions["site-02"].finish_update(taken, *_words())


def finish_with_signed_words(rig: Any) -> None:
    four, _, asked = _four_joined(rig)
    four.sessions["site-02"].finish_update(four.sessions["site-02"].take(asked), *_words(np.zeros(1, np.int32)))


def finish_with_nan(rig: Any) -> None:
    four, _, asked = _four_joined(rig)
    update = encoding.Update(np.array([np.nan]), weight=1.0, clip=1.0, n=4, entropy=os.urandom)
    four.sessions["site-02"].finish_update(four.sessions["site-02"].take(asked), *_words(update))


def add_to_a_phase_left_behind(rig: Any) -> None:
    four = rig(4, 1)
    phase = four.epoch().open_round(1, "train", MODEL, header_length=2, body_length=3)
    requests = phase.requests()
    first, second = (four.answer(site, requests[site], 1.0, model_hash=MODEL) for site in ("site-00", "site-01"))
    phase.receive("site-00", *first)
    phase.receive("site-01", *second)


def open_the_sum_of_another_view(rig: Any) -> None:
    four = rig(4, 1)
    phase = four.uploads(four.epoch())
    whole, smaller = phase.close(), four.view(phase, four.sites[:3])
    four.votes(replace(smaller, total=whole.total)).close()


def open_two_views_of_one_sum(rig: Any) -> None:
    four = rig(4, 1)
    voting = four.votes(four.uploads(four.epoch()).close())
    voting.close()
    voting.total._opened_as = b"another view"
    voting.close()


def recompute_without_a_vector(rig: Any) -> None:
    four = rig(4, 1)
    coordinator.recompute(four.context, four.votes(four.uploads(four.epoch()).close()).close().record, {})


def recompute_another_sum(rig: Any) -> None:
    four = rig(4, 1)
    phase = four.uploads(four.epoch())
    vectors = {site: bytes(four.sent[phase.delta, site][1]) for site in four.sites}
    record = four.votes(phase.close()).close().record
    coordinator.recompute(four.context, record[:-1] + bytes([record[-1] ^ 1]), vectors)


def a_long_section(_: Any) -> None:
    words = np.broadcast_to(np.zeros(1, np.uint64), (masks.MAX_SECTION_BYTES // 8 + 1,))
    masks.mask_section(words, masks.BODY_SECTION, masks.MaskKeys(()))


CALLS: dict[str, tuple[Callable[[Any], object], str]] = {
    "no scale": (lambda _: numbers.ring_scale(0), "RANGE"),
    "no ring": (lambda _: masks.body_type(24), "RANGE"),
    "weight": (lambda _: encoding.Update(np.zeros(1), weight=0.0, clip=1.0, n=3, entropy=bytes), "RANGE"),
    "clip": (lambda _: encoding.Update(np.zeros(1), weight=1.0, clip=0.0, n=3, entropy=bytes), "RANGE"),
    "not a number": (lambda _: encoding.encode_body(np.array([np.inf]), weight=1.0, clip=1.0, n=3, entropy=bytes), "RANGE"),
    "steps outside the ring": (lambda _: encoding.WholeSteps(np.array([2**30]), n=3), "RANGE"),
    "a header that is not whole": (lambda _: encoding.encode_header_steps(np.zeros(1), 3), "RANGE"),  # type: ignore[arg-type]
    "header value": (lambda _: encoding.encode_header(np.array([2.0**30]), 3), "RANGE"),
    "section": (a_long_section, "RANGE"),
    "NaN on its way": (finish_with_nan, "RANGE"),
    "words": (finish_with_signed_words, "ENCODING"),
    "take twice": (take_twice, "ROUND"),
    "take late": (take_in_another_epoch, "EPOCH"),
    "finish twice": (finish_twice, "ROUND"),
    "another key": (lambda _: SiteSession(CONTEXT, "alpha", SigningKey.from_seed(bytes(32)), 0, bytes), "STRANGER"),
    "epoch of strangers": (lambda _: start_epoch(CONTEXT, 1, ["alpha", "zoe"]), "STRANGER"),
    "purpose": (lambda rig: rig(3, 1).epoch().open_round(1, "predict", MODEL, header_length=1, body_length=0), "ENCODING"),
    "model": (lambda rig: rig(3, 1).epoch().open_round(1, "train", b"", header_length=1, body_length=0), "ENCODING"),
    "left behind": (add_to_a_phase_left_behind, "ROUND"),
    "another sum": (open_the_sum_of_another_view, "NOT_OPENABLE"),
    "a sum twice": (open_two_views_of_one_sum, "NOT_OPENABLE"),
    "vector missing": (recompute_without_a_vector, "ENCODING"),
    "sum altered": (recompute_another_sum, "ENCODING"),
    "epoch below n_min": (lambda rig: rig(4, 1, minimum_cohort=5).epoch(), "TOO_FEW"),
    "epoch below c+2": (lambda rig: rig(4, 3).epoch(), "TOO_FEW"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_caller_is_refused(rig: Any, name: str) -> None:
    call, code = CALLS[name]
    with pytest.raises(SecaggError) as refused:
        call(rig)
    assert refused.value.code == code


# --- nothing is left out --------------------------------------------------------------------------------------------------


def raising_places() -> Iterator[tuple[str, int, int, str]]:
    """(file, first line, last line, code) of each `raise SecaggError("CODE", ..)` of the package."""
    for path in sorted(Path(secagg.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.args[0], ast.Constant):
                yield path.name, node.lineno, node.end_lineno or node.lineno, str(node.exc.args[0].value)


def origin(error: BaseException) -> tuple[str, int]:
    """File and line where a refusal was first raised; names and contexts are added around it later."""
    while isinstance(error.__cause__, SecaggError):
        error = error.__cause__
    step = error.__traceback__
    assert step is not None
    while step.tb_next is not None:
        step = step.tb_next
    return Path(step.tb_frame.f_code.co_filename).name, step.tb_lineno


def refused_at(call: Callable[[], object]) -> tuple[str, int]:
    with pytest.raises(SecaggError) as refused:
        call()
    return origin(refused.value)


def decoder_of(name: str) -> Callable[[bytes], object]:
    """A decoder of `negative.json`, over the golden round of three."""
    log = json.loads((FOLDER / "round_n3.json").read_text())
    context = replace(CONTEXT, identities={site: bytes.fromhex(key) for site, key in log["identities"].items()})
    vectors = {site: bytes.fromhex(y) for site, y in log["vectors"].items()}
    kept: dict[str, Callable[[bytes], object]] = {
        "Epoch": lambda data: Epoch.decode(context, data),
        "VotePhase": lambda data: VotePhase.decode(context, data, bytes.fromhex(log["total"])),
        "record": lambda data: coordinator.recompute(context, data, vectors),
    }
    return kept.get(name) or getattr(messages, name).decode


def test_every_place_that_refuses_has_a_case(rig: Any, tape: Callable[[str], Any]) -> None:
    reached = {refused_at(lambda vector=vector: replay(vector, tape)) for vector in VECTORS}
    reached |= {refused_at(lambda call=call: call(rig)) for call, _ in CALLS.values()}
    for case in json.loads((FOLDER / "negative.json").read_text()):
        decode = decoder_of(case["decoder"])
        for change in case["refused"].values():
            altered = MADE.edited(bytes.fromhex(case["valid"]), [[change["from"], change["to"], change["bytes"]]])
            reached.add(refused_at(lambda decode=decode, altered=altered: decode(altered)))
    places = list(raising_places())
    untested = [place for place in places if not any(place[0] == file and place[1] <= line <= place[2] for file, line in reached)]
    assert len(places) > 45
    assert untested == []


def test_every_code_is_raised_somewhere_and_has_a_case() -> None:
    assert {code for *_, code in raising_places()} == set(CODES)
    assert {vector["code"] for vector in VECTORS} | {code for _, code in CALLS.values()} == set(CODES)
    assert {vector["code"] for vector in VECTORS} == set(CODES) - {"RANGE"}  # the one that no message can cause


CHECKS = {  # 4.3 to 4.5, in the specification's order
    "4.3 keys": ["form", "epoch not lower"],
    "4.3 kem": ["form", "an epoch", "one list", "24 h", "ours", "known", "signed", "valid keys", "ascending", "own message",
                "enough sites"],
    "4.3 first use in update": ["ids", "signatures", "ciphertext length", "X25519 not zero"],
    "4.3 first use in vote": ["ids", "signatures", "ciphertext length", "X25519 not zero"],
    "4.4 update": ["form", "T", "24 h", "purpose", "round"],
    "4.4 vote 0": ["form"],
    "4.4 vote 1": ["T", "round"],
    "4.4 vote 2": ["ascending", "in P", "at least t"],
    "4.4 vote 3": ["signed"],
    "4.4 vote 4": ["own upload"],
    "4.4 vote 5": ["one view"],
    "4.4 vote 6": ["sealed shares"],
    "coordinator, keys": ["form", "in the epoch", "sender", "ours", "known", "signed", "valid keys", "one answer", "enough"],
    "coordinator, kem": ["form", "in the epoch", "T", "sender", "ids", "signed", "length", "one answer", "everybody"],
    "coordinator, uploads": ["form", "in the epoch", "delta", "sender", "counts", "signed", "vector", "one answer", "enough"],
    "coordinator, votes": ["form", "in the epoch", "view", "sender", "counts", "signed", "one answer"],
}  # fmt: skip


def test_every_check_of_the_specification_has_a_vector() -> None:
    wanted = {f"{message}: {check}" for message, checks in CHECKS.items() for check in checks}
    assert {vector["check"] for vector in VECTORS} == wanted | {"coordinator, 4.5", "coordinator, restart"}


def test_an_upload_of_another_epoch_is_refused_by_its_round(rig: Any) -> None:
    first, second = rig(4, 1), rig(4, 1)
    upload = first.uploads(first.epoch()).uploads["site-00"]
    phase: UploadPhase = second.epoch().open_round(1, "train", MODEL, header_length=2, body_length=3)
    with pytest.raises(SecaggError) as refused:
        phase.receive("site-00", upload, b"")
    assert refused.value.code == "ROUND"


def test_a_participant_outside_the_epoch_is_nobody_in_it(rig: Any) -> None:
    """Its messages are truly signed, over the right epoch and round, which are no secrets."""
    five = rig(5, 1)
    phase = start_epoch(five.context, 1, five.sites[:4])
    keys = five.sessions["site-04"].keys(phase.requests()["site-00"], 0.0)
    uploading = five.epoch(2, sites=five.sites[:4]).open_round(1, "train", MODEL, header_length=1, body_length=0)
    y, commitments = bytes(8), (bytes(32),) * 4
    unsigned = Upload(uploading.delta, "site-04", hashlib.sha256(y).digest(), commitments, (b"",) * 3, b"")
    signature = messages.sign(five.keys["site-04"], "upload", uploading.delta, b"site-04", unsigned.masked)
    upload = replace(unsigned, signature=signature).encode()
    for receive in (lambda: phase.receive("site-04", keys), lambda: uploading.receive("site-04", upload, y)):
        with pytest.raises(SecaggError) as refused:
            receive()
        assert (refused.value.code, refused.value.sites) == ("STRANGER", ("site-04",))
