"""Writes tests/vectors/secagg: every derivation, three whole rounds, and what each decoder and each check must refuse.

    python scripts/make_vectors_secagg.py            write the files
    python scripts/make_vectors_secagg.py --check    exit 1 if a file differs from what would be written

All randomness comes from a seeded tape; ML-KEM encapsulation, whose randomness the library keeps to itself, from the
FIPS 203 oracle of the tests. A diff in these files is a change of the protocol: give it another name than sa1.
"""

import argparse
import hashlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from consortium.canonical import integer, pack, text, unpack
from consortium.identity import SigningKey
from secagg import derive, encoding, field, masks, shamir
from secagg.context import Context
from secagg.coordinator import Epoch, UploadPhase, VotePhase, start_epoch
from secagg.messages import Kem, KemEntry, Masked, Upload, sign
from secagg.model import model_digest
from secagg.site import Asked, SiteSession

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "vectors" / "secagg"
NOW = 0.0
MODEL = b"M" * 32


def tape(seed: str) -> Callable[[int], bytes]:
    """Repeatable entropy: SHAKE-256 of the seed and a counter."""
    counter = itertools.count()
    return lambda size: hashlib.shake_256(f"{seed}/{next(counter)}".encode()).digest(size)


def beside_the_tests(name: str) -> ModuleType:
    """A module of tests/secagg: `fips203`, the ML-KEM that takes its randomness as an argument, or `refusals`."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "secagg" / f"{name}.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"tests/secagg/{name}.py is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def derivations() -> dict[str, Any]:
    """Each name of the specification's table for fixed inputs."""
    key = SigningKey.from_seed(bytes(range(32)))
    epoch = derive.epoch_id([b"first keys", b"second keys"])
    delta = derive.round_id(epoch, 7, b"\x11" * 32, "train")
    pair = derive.pair_key(epoch, b"\x22" * 32, b"\x33" * 32, ("alpha", "beta"), b"\x44" * 1088)
    mask = derive.pair_mask(pair, delta)
    commitments = [derive.commitment(delta, "alpha", index, value) for index, value in enumerate((5, mask))]
    masked = derive.masked_digest(b"\x55" * 32, commitments)
    view = derive.view_id(delta, [("alpha", masked), ("beta", b"\x66" * 32)])
    stream = masks.mask_key(mask, delta)
    shares = shamir.share(42, 3, (1, 2, 3, 4), tape("shamir"))
    return {
        "pack": pack(b"", b"a", b"bc").hex(),
        "pack_empty": pack().hex(),
        "integer": integer(2**63 + 1).hex(),
        "hash": derive.hash_of("test", b"one", b"two").hex(),
        "expand_32": derive.expand(b"\x01" * 32, "test", b"one").hex(),
        "expand_48": derive.expand(b"\x01" * 32, "test", b"one", size=48).hex(),
        "sign": sign(key, "test", b"one", b"two").hex(),
        "seal": derive.seal(b"\x02" * 32, b"aad", b"message", tape("seal")).hex(),
        "element_from_48_bytes": field.encode(field.reduce_wide(b"\xff" * 48)).hex(),
        "epoch_id": epoch.hex(),
        "pair_key": pair.hex(),
        "round_id": {purpose: derive.round_id(epoch, 7, b"\x11" * 32, purpose).hex() for purpose in derive.PURPOSES},
        "pair_mask": field.encode(mask).hex(),
        "mask_key": stream.hex(),
        "keystream": {
            f"section {section} block {block}": masks.keystream(stream, section, 32, first_block=block).hex()
            for section in (masks.HEADER_SECTION, masks.BODY_SECTION)
            for block in (0, 2)
        },
        "share_key": {"alpha to beta": derive.share_key(pair, delta, "alpha", "beta").hex(),
                      "beta to alpha": derive.share_key(pair, delta, "beta", "alpha").hex()},
        "shamir_42_of_3": [field.encode(share).hex() for share in shares],
        "commitments": [one.hex() for one in commitments],
        "masked_digest": masked.hex(),
        "view_id": view.hex(),
        "release": {"alpha to beta": derive.release_key(pair, view, "alpha", "beta").hex(),
                    "beta to alpha": derive.release_key(pair, view, "beta", "alpha").hex()},
        "answer_key": derive.answer_key(42, view, "alpha").hex(),
    }  # fmt: skip


@dataclass(frozen=True)
class Script:
    """A golden round: who is in it, and who is lost before the upload and before the vote. Site number i submits 2^i."""

    sites: tuple[str, ...]
    ring_bits: int = 32
    no_upload: tuple[str, ...] = ()
    no_vote: tuple[str, ...] = ()


SCRIPTS = {
    "round_n3.json": Script(("alpha", "beta", "gamma")),
    "round_n3_ring16.json": Script(("alpha", "beta", "gamma"), ring_bits=16),
    "round_n4_dropped.json": Script(("alpha", "beta", "delta", "gamma"), no_upload=("beta",), no_vote=("gamma",)),
}


class Play:
    """A script played with real sites; `log` holds every byte that was said."""

    def __init__(self, script: Script) -> None:
        self.script = script
        keys = {site: SigningKey.from_seed(hashlib.sha256(site.encode()).digest()) for site in script.sites}
        identities = {site: key.public for site, key in keys.items()}
        self.context = Context(b"R" * 32, b"P" * 32, identities, 1, 3, 9, script.ring_bits)
        self._encapsulate, self._coins = beside_the_tests("fips203").encapsulate, tape("kem")
        self.randomness: dict[str, list[str]] = {site: [] for site in keys}  # of each site's encapsulations, to ascending peers
        self.sessions = {
            site: SiteSession(self.context, site, key, 0, tape(site), sealed_to=partial(self.encapsulate, site))
            for site, key in keys.items()
        }
        self.log: dict[str, Any] = {"identities": {site: key.public for site, key in keys.items()}}

    def encapsulate(self, site: str, public: bytes) -> tuple[bytes, bytes]:
        coins = self._coins(32)
        self.randomness[site].append(coins.hex())
        sealed: tuple[bytes, bytes] = self._encapsulate(public, coins)
        return sealed

    def whole(self) -> dict[str, Any]:
        """The log of an epoch and a round, with the opened numbers."""
        voting = self.votes(self.uploads(self.epoch()).close())
        aggregate = voting.close()
        self.log["record"] = aggregate.record
        hexed: dict[str, Any] = json.loads(json.dumps(self.log, default=bytes.hex))
        return {**hexed, "header_sum": aggregate.header.tolist(), "body_sum": aggregate.body.tolist()}

    def epoch(self) -> Epoch:
        log, sessions = self.log, self.sessions
        phase = start_epoch(self.context, 1, self.script.sites)
        log["keys_requests"] = phase.requests()
        log["keys"] = {site: sessions[site].keys(request, NOW) for site, request in phase.requests().items()}
        for site, message in log["keys"].items():
            phase = phase.receive(site, message)
        kem_phase = phase.close()
        log["kem_requests"] = kem_phase.requests()
        log["kem"] = {site: sessions[site].kem(request, NOW) for site, request in kem_phase.requests().items()}
        for site, message in log["kem"].items():
            kem_phase = kem_phase.receive(site, message)
        epoch = kem_phase.close()
        log["stored_epoch"] = epoch.encode()
        return epoch

    def uploads(self, epoch: Epoch) -> UploadPhase:
        uploading = epoch.open_round(1, "train", MODEL, header_length=2, body_length=4)
        log, requests = self.log, uploading.requests()
        log["update_requests"], log["uploads"], log["vectors"] = requests, {}, {}
        for number, (site, request) in enumerate(requests.items()):
            asked = self.sessions[site].begin_update(request, MODEL, NOW)
            if site in self.script.no_upload:
                continue
            assert isinstance(asked, Asked)  # nothing was answered before
            header, body = np.array([1, 2**number], np.uint64), np.full(4, 2**number, masks.body_type(self.script.ring_bits))
            upload, y = self.sessions[site].finish_update(self.sessions[site].take(asked), header, body)
            log["uploads"][site], log["vectors"][site] = upload, bytes(y)
            uploading = uploading.receive(site, upload, y)
        return uploading

    def votes(self, voting: VotePhase) -> VotePhase:
        log = self.log
        log["stored_view"], log["total"] = voting.encode(), bytes(voting.total.data)
        log["vote_requests"], log["ballots"] = voting.requests(), {}
        for site, request in voting.requests().items():
            if site not in self.script.no_vote:
                log["ballots"][site] = self.sessions[site].vote(request, NOW)
                voting = voting.receive(site, log["ballots"][site])
        return voting

    def pairs_of(self, site: str) -> dict[str, bytes]:
        """The pair keys of a site, for messages that it makes wrongly on purpose."""
        joined: Any = self.sessions[site]._epoch
        return dict(joined.pairs)


def encodings() -> dict[str, Any]:
    """Bodies in both rings under a dither key of zeros, headers, and the names of models."""
    values = [0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 2.0**-12, -(2.0**-13), 0.3, -0.7, 1e-9]
    bodies = []
    for ring_bits in (16, 32):
        for weight in (1.0, 0.75):
            plan = {"weight": weight, "clip": 1.0, "n": 5, "ring_bits": ring_bits}
            words = encoding.encode_body(np.array(values), weight=weight, clip=1.0, n=5, entropy=bytes, ring_bits=ring_bits)
            bodies.append({**plan, "values": values, "words": words.tolist()})
    numbers = [0.0, 1.5, -2.0, 1e-9, 2.0**28]
    return {
        "dither_key": bytes(32).hex(),
        "bodies": bodies,
        "header": {"values": numbers, "n": 5, "words": encoding.encode_header(np.array(numbers), 5).tolist()},
        "model_hash": {"": model_digest(b"").hex(), "6d6f64656c": model_digest(b"model").hex()},
    }


@dataclass(frozen=True)
class Form:
    """Where a message has site ids, fields of fixed size or framing, lists, and lists of items with a form of their own."""

    kind: bool = True
    sites: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    lists: tuple[int, ...] = ()
    formed: tuple[int, ...] = ()


def mutations(data: bytes, form: Form) -> Iterator[tuple[str, bytes]]:
    """Bytes next to a valid message that are none: framing for all, ids, sizes and lists where the message has them."""
    fields = unpack(data)

    def with_field(at: int, value: bytes) -> bytes:
        return pack(*fields[:at], value, *fields[at + 1 :])

    yield "empty", b""
    yield "short by one byte", data[:-1]
    yield "long by one byte", data + b"\0"
    yield "one field fewer", pack(*fields[:-1])
    yield "one field more", pack(*fields, b"")
    yield "count of 2^32-1", b"\xff\xff\xff\xff" + data[4:]
    if form.kind:
        yield "unknown kind", pack(b"sa1/unknown", *fields[1:])
        yield "kind of another version", pack(fields[0].replace(b"sa1", b"sa2"), *fields[1:])
    for at in form.sites:
        for name, value in {"non-ASCII": b"caf\xc3\xa9", "empty": b"", "upper case": b"Alpha", "33 characters": b"a" * 33}.items():
            yield f"field {at}: {name} site id", with_field(at, value)
    for at in form.sizes:
        yield f"field {at}: short", with_field(at, fields[at][:-1])
        yield f"field {at}: long", with_field(at, fields[at] + b"\0")
    for at in (*form.lists, *form.formed):
        items = unpack(fields[at])
        yield f"field {at}: one item more announced", with_field(at, (len(items) + 1).to_bytes(4, "big") + fields[at][4:])
        yield f"field {at}: one item fewer announced", with_field(at, (len(items) - 1).to_bytes(4, "big") + fields[at][4:])
    for at in form.formed:
        first, *rest = unpack(fields[at])
        yield f"field {at}: first item short", with_field(at, pack(first[:-1], *rest))
        yield f"field {at}: first item long", with_field(at, pack(first + b"\0", *rest))
        yield f"field {at}: an empty item more", with_field(at, pack(first, *rest, b""))


def edit(base: bytes, mutated: bytes) -> dict[str, Any]:
    """The mutation as one replacement in the valid bytes, so that the file stays readable."""
    start = next((at for at, (a, b) in enumerate(zip(base, mutated, strict=False)) if a != b), min(len(base), len(mutated)))
    room = min(len(base), len(mutated)) - start
    tail = next((at for at in range(room) if base[-1 - at] != mutated[-1 - at]), room)
    return {"from": start, "to": len(base) - tail, "bytes": mutated[start : len(mutated) - tail].hex()}


def negatives(log: dict[str, Any]) -> list[dict[str, Any]]:
    """For each decoder the valid bytes it must take, and the mutations it must refuse."""
    raw = {name: bytes.fromhex(next(iter(log[name].values()))) for name in ("keys_requests", "keys", "kem_requests", "kem",
           "update_requests", "uploads", "vote_requests", "ballots")}  # fmt: skip
    upload, entry = Upload.decode(raw["uploads"]), Kem.decode(raw["kem"]).entries[0]
    update, vote = bytes.fromhex(log["update_requests"]["gamma"]), bytes.fromhex(log["vote_requests"]["gamma"])
    masked = Masked(upload.site, upload.masked, upload.signature).encode()
    cases: list[tuple[str, bytes, Form]] = [
        ("KeysRequest", raw["keys_requests"], Form(sizes=(1,))),
        ("Keys", raw["keys"], Form(sites=(4,), sizes=(1, 2, 3, 7))),
        ("KemRequest", raw["kem_requests"], Form(sizes=(1,), lists=(1,))),
        ("KemEntry", KemEntry(entry.peer, entry.ciphertext, entry.signature).encode(), Form(kind=False, sites=(0,), sizes=(2,))),
        ("Kem", raw["kem"], Form(sites=(2,), sizes=(1, 3), formed=(3,))),
        ("UpdateRequest", update, Form(sizes=(1, 2, 4), formed=(4,))),
        ("Upload", raw["uploads"], Form(sites=(2,), sizes=(1, 3, 4, 5, 6), lists=(5,), formed=(4,))),
        ("Masked", masked, Form(kind=False, sites=(0,), sizes=(1, 2))),
        ("VoteRequest", vote, Form(sizes=(1, 2, 3, 4, 5, 6, 7), lists=(7,), formed=(5, 6))),
        ("Ballot", raw["ballots"], Form(sites=(2,), sizes=(1, 3, 4, 6), lists=(4,), formed=(3,))),
        ("Epoch", bytes.fromhex(log["stored_epoch"]), Form(sizes=(1, 2, 3), formed=(2, 3))),
        ("VotePhase", bytes.fromhex(log["stored_view"]), Form(sizes=(1, 2, 3, 4), formed=(3,))),
        ("record", bytes.fromhex(log["record"]), Form(sizes=(1, 2, 3, 4, 5), formed=(3, 4))),
    ]
    found = []
    for decoder, data, form in cases:
        refused = {name: edit(data, mutated) for name, mutated in mutations(data, form)}
        fields = unpack(data)
        if decoder == "VoteRequest":
            refused["unknown purpose"] = edit(data, pack(*fields[:4], text("predict"), *fields[5:]))
        if decoder in ("UpdateRequest", "VoteRequest"):
            at = {"UpdateRequest": 3, "VoteRequest": 4}[decoder]
            refused["non-ASCII purpose"] = edit(data, pack(*fields[:at], b"tra\xc3\xafn", *fields[at + 1 :]))
        refused |= {name: edit(data, mutated) for name, mutated in kept_otherwise(decoder, fields)}
        found.append({"decoder": decoder, "valid": data.hex(), "code": "ENCODING", "refused": refused})
    return found


def kept_otherwise(decoder: str, fields: tuple[bytes, ...]) -> Iterator[tuple[str, bytes]]:
    """What a coordinator keeps, with lists that it writes in one order in another, and lengths that nobody has memory for."""
    for at in {"Epoch": (2, 3), "VotePhase": (3,), "record": (3, 4)}.get(decoder, ()):
        first, *rest = unpack(fields[at])
        for name, items in {"descending": [*reversed(rest), first], "first item twice": [first, first, *rest]}.items():
            yield f"field {at}: {name}", pack(*fields[:at], pack(*items), *fields[at + 1 :])
    if decoder in ("VotePhase", "record"):
        *terms, header_length, body_length = unpack(fields[2])
        for name, lengths in {
            "header of 2^60 words": (integer(2**60), body_length),
            "body of 2^64-1 words": (header_length, integer(2**64 - 1)),
            "body of one word more": (header_length, integer(int.from_bytes(body_length, "big") + 1)),
        }.items():
            yield f"field 2: {name}", pack(*fields[:2], pack(*terms, *lengths), *fields[3:])


def elements() -> list[dict[str, Any]]:
    """Field elements at the border."""
    prime = field.PRIME
    cases = {"p-1": prime - 1, "p": prime, "p+1": prime + 1, "2^256-1": 2**256 - 1}
    found: list[dict[str, Any]] = [
        {"name": name, "data": value.to_bytes(32, "big").hex(), "valid": value < prime} for name, value in cases.items()
    ]
    return [
        *found,
        {"name": "31 bytes", "data": "01" * 31, "valid": False},
        {"name": "33 bytes", "data": "00" * 33, "valid": False},
    ]


def vectors() -> dict[str, Any]:
    """File name -> content."""
    plays = {name: Play(script) for name, script in SCRIPTS.items()}
    rounds = {name: play.whole() for name, play in plays.items()}
    dropped, play, checks = rounds["round_n4_dropped.json"], plays["round_n4_dropped.json"], beside_the_tests("refusals")
    refused = {
        "site": checks.ME,
        "kem_randomness": play.randomness[checks.ME],
        "states": checks.states(dropped),
        "vectors": checks.refusals(dropped, play.pairs_of(checks.ME)),
    }
    return {
        "derivations.json": derivations(),
        "encodings.json": encodings(),
        **rounds,
        "negative.json": negatives(rounds["round_n3.json"]),
        "refusals.json": refused,
        "elements.json": elements(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    different = []
    for name, content in vectors().items():
        written = json.dumps(content, indent=1) + "\n"
        path = FOLDER / name
        if check:
            if not path.is_file() or path.read_text() != written:
                different.append(name)
        else:
            path.write_text(written)
    if different:
        print(f"different from what this code makes: {', '.join(different)}", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
