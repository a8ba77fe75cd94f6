"""Writes tests/vectors/secagg: every derivation, one whole round, and bytes that each decoder must refuse.

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
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from consortium.canonical import integer, pack, text, unpack
from consortium.identity import SigningKey
from secagg import derive, field, masks, shamir
from secagg.context import Context
from secagg.coordinator import start_epoch
from secagg.messages import Kem, KemEntry, Masked, Upload, sign
from secagg.site import Asked, SiteSession

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "vectors" / "secagg"
NOW = 0.0
SITES = ("alpha", "beta", "gamma")


def tape(seed: str) -> Callable[[int], bytes]:
    """Repeatable entropy: SHAKE-256 of the seed and a counter."""
    counter = itertools.count()
    return lambda size: hashlib.shake_256(f"{seed}/{next(counter)}".encode()).digest(size)


def oracle() -> ModuleType:
    """The tests' ML-KEM, which takes its randomness as an argument."""
    spec = importlib.util.spec_from_file_location("fips203", ROOT / "tests" / "secagg" / "fips203.py")
    if spec is None or spec.loader is None:
        raise SystemExit("tests/secagg/fips203.py is missing")
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


def whole_round() -> dict[str, Any]:
    """Every byte of an epoch and a round of three sites that submit 1, 2 and 4."""
    keys = {site: SigningKey.from_seed(hashlib.sha256(site.encode()).digest()) for site in SITES}
    context = Context(b"R" * 32, b"P" * 32, {site: key.public for site, key in keys.items()}, 1, 3, 9)
    encapsulate = oracle().encapsulate
    coins = tape("kem")
    sessions = {
        site: SiteSession(context, site, key, 0, tape(site), sealed_to=lambda public: encapsulate(public, coins(32)))
        for site, key in keys.items()
    }
    log: dict[str, Any] = {"identities": {site: key.public.hex() for site, key in keys.items()}}

    phase = start_epoch(context, 1, SITES)
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

    model_hash = b"M" * 32
    uploading = epoch.open_round(1, "train", model_hash, header_length=2, body_length=4)
    log["update_requests"] = uploading.requests()
    log["uploads"], log["vectors"] = {}, {}
    for number, (site, request) in enumerate(uploading.requests().items()):
        asked = sessions[site].begin_update(request, model_hash, NOW)
        assert isinstance(asked, Asked)  # nothing was answered before
        header = np.array([1, 2**number], np.uint64)
        upload, y = sessions[site].finish_update(sessions[site].take(asked), header, np.full(4, 2**number, np.uint32))
        log["uploads"][site], log["vectors"][site] = upload, y
        uploading = uploading.receive(site, upload, y)
    voting = uploading.close()
    log["stored_view"] = voting.encode()
    log["vote_requests"] = voting.requests()
    log["ballots"] = {site: sessions[site].vote(request, NOW) for site, request in voting.requests().items()}
    for site, ballot in log["ballots"].items():
        voting = voting.receive(site, ballot)
    aggregate = voting.close()
    log["record"] = aggregate.record
    hexed: dict[str, Any] = json.loads(json.dumps(log, default=bytes.hex))
    return {**hexed, "header_sum": aggregate.header.tolist(), "body_sum": aggregate.body.tolist()}


def mutations(data: bytes, sites_at: tuple[int, ...], sizes_at: tuple[int, ...], kind: bool) -> Iterator[tuple[str, bytes]]:
    """Bytes next to a valid message that are none: framing for all, ids and sizes where the message has them."""
    fields = unpack(data)
    yield "empty", b""
    yield "short by one byte", data[:-1]
    yield "long by one byte", data + b"\0"
    yield "one field fewer", pack(*fields[:-1])
    yield "one field more", pack(*fields, b"")
    yield "count of 2^32-1", b"\xff\xff\xff\xff" + data[4:]
    if kind:
        yield "unknown kind", pack(b"sa1/unknown", *fields[1:])
        yield "kind of another version", pack(fields[0].replace(b"sa1", b"sa2"), *fields[1:])
    for at in sites_at:
        for name, value in {"non-ASCII": b"caf\xc3\xa9", "empty": b"", "upper case": b"Alpha", "33 characters": b"a" * 33}.items():
            yield f"field {at}: {name} site id", pack(*fields[:at], value, *fields[at + 1 :])
    for at in sizes_at:
        yield f"field {at}: short", pack(*fields[:at], fields[at][:-1], *fields[at + 1 :])
        yield f"field {at}: long", pack(*fields[:at], fields[at] + b"\0", *fields[at + 1 :])


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
    cases: list[tuple[str, bytes, tuple[int, ...], tuple[int, ...], bool]] = [
        ("KeysRequest", raw["keys_requests"], (), (1,), True),
        ("Keys", raw["keys"], (4,), (1, 2, 3, 7), True),
        ("KemRequest", raw["kem_requests"], (), (1,), True),
        ("KemEntry", KemEntry(entry.peer, entry.ciphertext, entry.signature).encode(), (0,), (2,), False),
        ("Kem", raw["kem"], (2,), (1, 3), True),
        ("UpdateRequest", update, (), (1, 2, 4), True),
        ("Upload", raw["uploads"], (2,), (1, 3, 4, 5, 6), True),
        ("Masked", Masked(upload.site, upload.masked, upload.signature).encode(), (0,), (1, 2), False),
        ("VoteRequest", vote, (), (1, 2, 3, 4, 5, 6, 7), True),
        ("Ballot", raw["ballots"], (2,), (1, 3, 4, 6), True),
        ("Epoch", bytes.fromhex(log["stored_epoch"]), (), (1, 2, 3), True),
        ("VotePhase", bytes.fromhex(log["stored_view"]), (), (1, 2, 3, 4), True),
    ]
    found = []
    for decoder, data, sites_at, sizes_at, kind in cases:
        refused = {name: edit(data, mutated) for name, mutated in mutations(data, sites_at, sizes_at, kind)}
        if decoder == "VoteRequest":
            head = unpack(data)
            refused["unknown purpose"] = edit(data, pack(*head[:4], text("predict"), *head[5:]))
        found.append({"decoder": decoder, "valid": data.hex(), "code": "ENCODING", "refused": refused})
    return found


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
    log = whole_round()
    return {
        "derivations.json": derivations(),
        "round_n3.json": log,
        "negative.json": negatives(log),
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
