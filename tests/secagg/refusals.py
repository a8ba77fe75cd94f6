"""Negative vectors of the checks: for each check of 4.3 to 4.5 a message that only this check stops, in the state it is made for.

A vector is data: the state of the site `delta` or of the coordinator in the golden round of four, the golden message that is
altered, the edits, and the code that must come back. Signatures are made anew where an earlier check would catch the edit.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

from consortium.canonical import pack, text, unpack
from consortium.identity import SigningKey
from secagg import derive, field
from secagg.messages import Ballot, Kem, KemEntry, KemRequest, Keys, KeysRequest, Masked, UpdateRequest, Upload, VoteRequest, sign

ME = "delta"  # has lower peers alpha and beta, and the higher peer gamma; beta did not upload, gamma did not vote
DAY = 24 * 3600.0
GAP = 8  # equal bytes between two edits that are not worth a new one


def key_of(site: str) -> SigningKey:
    """Identity keys of the golden rounds."""
    return SigningKey.from_seed(hashlib.sha256(site.encode()).digest())


def edits(base: bytes, mutated: bytes) -> list[list[Any]]:
    """What turns `base` into `mutated`: [from, to, hex] over `base`, last first so that they can be done in order."""
    if len(base) == len(mutated):
        found: list[list[int]] = []
        for at in (at for at, (a, b) in enumerate(zip(base, mutated, strict=True)) if a != b):
            if found and at - found[-1][1] < GAP:
                found[-1][1] = at + 1
            else:
                found.append([at, at + 1])
        return [[start, end, mutated[start:end].hex()] for start, end in reversed(found)]
    start = next((at for at, (a, b) in enumerate(zip(base, mutated, strict=False)) if a != b), min(len(base), len(mutated)))
    room = min(len(base), len(mutated)) - start
    tail = next((at for at in range(room) if base[-1 - at] != mutated[-1 - at]), room)
    return [[start, len(base) - tail, mutated[start : len(mutated) - tail].hex()]]


def edited(base: bytes, changes: list[list[Any]]) -> bytes:
    for start, end, new in changes:
        base = base[:start] + bytes.fromhex(new) + base[end:]
    return base


class Golden:
    """The messages of a golden round, by kind and site."""

    def __init__(self, log: Mapping[str, Any]) -> None:
        self.log = log

    def __getitem__(self, path: str) -> bytes:
        """`uploads/alpha`, or `record`."""
        kind, _, site = path.partition("/")
        return bytes.fromhex(self.log[kind][site] if site else self.log[kind])

    def altered(self, path: str, message: bytes) -> dict[str, Any]:
        return {"of": path, "edits": edits(self[path], message)}

    def unaltered(self, path: str) -> dict[str, Any]:
        return self.altered(path, self[path])

    def read(self, message: Mapping[str, Any]) -> bytes:
        """What `altered` wrote down."""
        return edited(self[message["of"]], message["edits"])


def states(log: Mapping[str, Any]) -> dict[str, list[list[Any]]]:
    """How `ME` comes into each state: calls of a fresh session with the golden messages."""
    golden = Golden(log)
    update, vote = f"update_requests/{ME}", f"vote_requests/{ME}"
    second = replace(UpdateRequest.decode(golden[update]), round_number=2).encode()
    asked = VoteRequest.decode(golden[vote])
    a, _, c = asked.survivors
    without = replace(asked, survivors=(a, _beta(golden), c), sealed_shares=(b"",) * 3).encode()
    keyed = [["keys", golden.unaltered(f"keys_requests/{ME}")]]
    listed = [*keyed, ["kem", golden.unaltered(f"kem_requests/{ME}")]]
    joined = [*listed, ["update", golden.unaltered(update)]]
    taken = [*joined, ["take"]]
    uploaded = [*taken, ["finish"]]
    return {
        "fresh": [],
        "keyed": keyed,
        "listed": listed,
        "joined": joined,
        "taken": taken,
        "uploaded": uploaded,
        "voted": [*uploaded, ["vote", golden.unaltered(vote)]],
        "abstained": [*joined, ["vote", golden.altered(vote, without)]],
        "later": [*joined, ["update", golden.altered(update, second)], ["take"]],
    }


def refusals(log: Mapping[str, Any], pairs: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """All vectors; `pairs`: the pair keys of `ME`, for ballots that it made wrongly on purpose."""
    golden = Golden(log)
    found = [*_kem_checks(golden), *_join_checks(golden), *_update_checks(golden), *_vote_checks(golden)]
    found += [*_keys_phase(golden), *_kem_phase(golden), *_upload_phase(golden), *_vote_phase(golden), *_opening(golden, pairs)]
    names = [(one["check"], one["what"]) for one in found]
    assert len(set(names)) == len(names)
    return found


def _site(check: str, what: str, state: str, call: str, message: dict[str, Any], code: str, **more: Any) -> dict[str, Any]:
    return {"check": check, "what": what, "state": state, "call": call, "message": message, "code": code, **more}


# --- a site -------------------------------------------------------------------------------------------------------------


def resigned(keys: Keys, **changes: Any) -> Keys:
    unsigned = replace(keys, **changes)
    return replace(unsigned, signature=sign(key_of(keys.site), "keys", *unsigned.signed_fields()))


def _kem_checks(golden: Golden) -> Iterator[dict[str, Any]]:
    path, first = f"kem_requests/{ME}", f"keys_requests/{ME}"
    alpha, beta, own, gamma = (Keys.decode(one) for one in KemRequest.decode(golden[path]).keys)

    def listed(check: str, what: str, keys: list[Keys], code: str, *sites: str) -> dict[str, Any]:
        request = golden.altered(path, KemRequest(tuple(one.encode() for one in keys)).encode())
        return _site(f"4.3 kem: {check}", what, "keyed", "kem", request, code, sites=list(sites))

    lower = golden.altered(first, KeysRequest(0).encode())
    yield _site("4.3 keys: form", "no message", "fresh", "keys", golden.altered(first, b""), "ENCODING", sites=[])
    yield _site("4.3 keys: epoch not lower", "epoch 0 after 1", "keyed", "keys", lower, "EPOCH", sites=[])
    same = golden.unaltered(path)
    yield _site("4.3 kem: form", "no message", "keyed", "kem", golden.altered(path, b""), "ENCODING", sites=[])
    yield listed("form", "a keys message cut short", [], "TOO_FEW") | {
        "message": golden.altered(path, KemRequest((alpha.encode()[:-1],)).encode()), "code": "ENCODING"}  # fmt: skip
    yield _site("4.3 kem: an epoch", "before keys", "fresh", "kem", same, "EPOCH", sites=[])
    other = golden.altered(path, KemRequest(tuple(one.encode() for one in (alpha, own, gamma))).encode())
    for state in ("listed", "joined"):
        yield _site("4.3 kem: one list", f"another list, {state}", state, "kem", other, "EPOCH", sites=[])
    yield _site("4.3 kem: 24 h", "a day and a second", "keyed", "kem", same, "EPOCH", sites=[], now=DAY + 1)
    yield _site("4.3 kem: 24 h", "clock behind the keys", "keyed", "kem", same, "EPOCH", sites=[], now=-1.0)
    for name, changes in {
        "roster": {"roster_digest": b"x" * 32},
        "plan": {"plan_digest": b"x" * 32},
        "epoch": {"epoch": 2},
    }.items():
        yield listed("ours", f"another {name}", [resigned(alpha, **changes), beta, own, gamma], "EPOCH", "alpha")
    yield listed("known", "a stranger", [alpha, beta, own, replace(gamma, site="zoe")], "STRANGER", "zoe")
    yield listed("signed", "a substituted key", [replace(alpha, x25519=b"y" * 32), beta, own, gamma], "SIGNATURE", "alpha")
    yield listed(
        "signed", "another site's signature", [alpha, replace(beta, signature=alpha.signature), own, gamma], "SIGNATURE", "beta"
    )
    for size in (31, 33):
        keys = [resigned(alpha, x25519=b"y" * size), beta, own, gamma]
        yield listed("valid keys", f"X25519 key of {size} bytes", keys, "ENCODING", "alpha")
    for name, mlkem in {"short": alpha.mlkem[:-1], "long": alpha.mlkem + b"\0", "coefficient above q": b"\xff" * 1184}.items():
        yield listed("valid keys", f"ML-KEM key: {name}", [resigned(alpha, mlkem=mlkem), beta, own, gamma], "ENCODING", "alpha")
    yield listed("ascending", "a duplicate", [alpha, alpha, beta, own, gamma], "PEERS", "alpha", "alpha")
    yield listed("ascending", "descending", [beta, alpha, own, gamma], "PEERS", "beta", "alpha")
    yield listed("own message", "altered", [alpha, beta, resigned(own, x25519=b"\x09" + bytes(31)), gamma], "OWN_KEY", ME)
    yield listed("own message", "missing", [alpha, beta, gamma], "OWN_KEY", ME)
    yield listed("enough sites", "two", [alpha, own], "TOO_FEW")
    yield listed("enough sites", "only itself", [own], "TOO_FEW")


def _join_checks(golden: Golden) -> Iterator[dict[str, Any]]:
    """First use of the ciphertexts, in an update request and in a vote request."""
    for call, path, decode in (
        ("update", f"update_requests/{ME}", UpdateRequest.decode),
        ("vote", f"vote_requests/{ME}", VoteRequest.decode),
    ):
        request: Any = decode(golden[path])
        a, b = request.kems
        fields = KemEntry.signed_fields(request.epoch_id, "alpha", ME, a.ciphertext[:-1])
        short = KemEntry("alpha", a.ciphertext[:-1], sign(key_of("alpha"), "kem", *fields))
        if call == "vote":  # delta made no upload of this state: leave it out of the view
            listed = tuple(one for one in request.survivors if one.site != ME)
            request = replace(request, survivors=(listed[0], _beta(golden), *listed[1:]), sealed_shares=(b"",) * 3)
        cases: dict[tuple[str, str], tuple[tuple[KemEntry, ...], str, list[str]]] = {
            ("ids", "one missing"): ((b,), "PEERS", ["alpha", "beta"]),
            ("ids", "none"): ((), "PEERS", ["alpha", "beta"]),
            ("ids", "descending"): ((b, a), "PEERS", ["alpha", "beta"]),
            ("ids", "a duplicate"): ((a, b, b), "PEERS", ["alpha", "beta"]),
            ("ids", "its own id"): ((a, replace(b, peer=ME)), "PEERS", ["alpha", "beta"]),
            ("signatures", "another ciphertext"): ((replace(a, ciphertext=b.ciphertext), b), "SIGNATURE", ["alpha"]),
            ("signatures", "of another site"): ((a, replace(b, signature=a.signature)), "SIGNATURE", ["beta"]),
            ("ciphertext length", "short, but signed"): ((short, b), "ENCODING", ["alpha"]),
        }
        for (check, what), (kems, code, sites) in cases.items():
            message = golden.altered(path, replace(request, kems=kems).encode())
            yield _site(f"4.3 first use in {call}: {check}", what, "listed", call, message, code, sites=sites)
        keys = [Keys.decode(one) for one in KemRequest.decode(golden[f"kem_requests/{ME}"]).keys]
        keys[3] = resigned(keys[3], x25519=bytes(32))
        yield from _zero_agreement(golden, call, path, request, keys)


def _zero_agreement(golden: Golden, call: str, path: str, request: Any, keys: list[Keys]) -> Iterator[dict[str, Any]]:
    """gamma's X25519 key is a point of small order: the list is taken, its first use refused. Everything is signed over that T."""
    listing = KemRequest(tuple(one.encode() for one in keys))
    epoch_id = derive.epoch_id(listing.keys)
    kems = []
    for entry in request.kems:
        fields = KemEntry.signed_fields(epoch_id, entry.peer, ME, entry.ciphertext)
        kems.append(KemEntry(entry.peer, entry.ciphertext, sign(key_of(entry.peer), "kem", *fields)))
    changed = replace(request, epoch_id=epoch_id, kems=tuple(kems))
    if call == "vote":
        delta = derive.round_id(epoch_id, changed.round_number, changed.model_hash, changed.purpose)
        changed = replace(changed, survivors=tuple(masked(delta, one.site, one.digest) for one in changed.survivors))
    listed = golden.altered(f"kem_requests/{ME}", listing.encode())
    message = golden.altered(path, changed.encode())
    check = f"4.3 first use in {call}: X25519 not zero"
    yield _site(check, "a point of small order", "keyed", call, message, "ENCODING", sites=["gamma"], first={"kem": listed})


def masked(delta: bytes, site: str, digest: bytes) -> Masked:
    """A survivor's entry over a round with any digest, truly signed by the site."""
    return Masked(site, digest, sign(key_of(site), "upload", delta, text(site), digest))


def _delta(golden: Golden) -> bytes:
    return Upload.decode(golden[f"uploads/{ME}"]).delta


def _beta(golden: Golden) -> Masked:
    """An upload that beta might have made."""
    return masked(_delta(golden), "beta", b"b" * 32)


def _update_checks(golden: Golden) -> Iterator[dict[str, Any]]:
    path = f"update_requests/{ME}"
    good = UpdateRequest.decode(golden[path])

    def asked(check: str, what: str, code: str, state: str = "joined", now: float = 0.0, **changes: Any) -> dict[str, Any]:
        message = golden.altered(path, replace(good, **changes).encode())
        return _site(f"4.4 update: {check}", what, state, "update", message, code, sites=[], now=now)

    yield asked("form", "no message", "ENCODING") | {"message": golden.altered(path, b"")}
    yield asked("T", "another epoch", "EPOCH", epoch_id=b"x" * 32)
    yield asked("T", "no list taken yet", "EPOCH", state="keyed")
    yield asked("T", "no epoch", "EPOCH", state="fresh")
    yield asked("24 h", "a day and a second", "EPOCH", now=DAY + 1)
    yield asked("24 h", "clock behind the keys", "EPOCH", now=-1.0)
    yield asked("purpose", "unknown", "ENCODING", purpose="predict")
    yield asked("round", "zero", "ROUND", round_number=0)
    yield asked("round", "beyond the plan", "ROUND", round_number=10)
    yield asked("round", "in training already", "ROUND", state="taken")
    yield asked("round", "the last one, another purpose", "ROUND", state="uploaded", purpose="evaluate")
    yield asked("round", "the last one, another model", "ROUND", state="uploaded") | {"model": (b"m" * 32).hex()}
    yield asked("round", "below the last", "ROUND", state="later")
    yield asked("round", "voted without an upload", "ROUND", state="abstained")


def _vote_checks(golden: Golden) -> Iterator[dict[str, Any]]:
    path = f"vote_requests/{ME}"
    good = VoteRequest.decode(golden[path])
    a, own, c = good.survivors
    b, delta = _beta(golden), _delta(golden)
    whole = (a, b, own, c)

    def asked(check: str, what: str, code: str, *sites: str, state: str = "uploaded", **changes: Any) -> dict[str, Any]:
        message = golden.altered(path, replace(good, **changes).encode())
        return _site(f"4.4 vote {check}", what, state, "vote", message, code, sites=list(sites))

    yield asked("0: form", "no message", "ENCODING") | {"message": golden.altered(path, b"")}
    head = unpack(golden[path])
    predict = golden.altered(path, pack(*head[:4], b"predict", *head[5:]))
    yield asked("0: form", "unknown purpose", "ENCODING") | {"message": predict}
    yield asked("1: T", "another epoch", "EPOCH", epoch_id=b"x" * 32)
    yield asked("1: T", "no epoch", "EPOCH", state="fresh")
    yield asked("1: T", "no list taken yet", "EPOCH", state="keyed")
    yield asked("1: round", "below the last", "ROUND", state="later")
    yield asked("1: round", "beyond the plan", "ROUND", round_number=10)
    yield asked("1: round", "the last, another model", "ROUND", model_hash=b"m" * 32)
    yield asked("1: round", "the last, another purpose", "ROUND", purpose="evaluate")
    yield asked("2: ascending", "descending", "PEERS", "delta", "alpha", survivors=(own, a, c))
    yield asked("2: ascending", "a duplicate", "PEERS", "alpha", "alpha", survivors=(a, a, own))
    yield asked("2: in P", "a stranger", "STRANGER", "zoe", survivors=(a, own, c, replace(c, site="zoe")))
    yield asked("2: at least t", "two", "TOO_FEW", survivors=(a, c))
    yield asked("2: at least t", "nobody", "TOO_FEW", survivors=())
    yield asked("3: signed", "no signature", "SIGNATURE", "alpha", survivors=(replace(a, signature=bytes(64)), own, c))
    yield asked("3: signed", "another digest", "SIGNATURE", "alpha", survivors=(replace(a, digest=b"q" * 32), own, c))
    other = masked(derive.round_id(good.epoch_id, 1, b"m" * 32, "train"), "alpha", a.digest)
    yield asked("3: signed", "over another round", "SIGNATURE", "alpha", survivors=(other, own, c))
    elsewhere = masked(delta, ME, b"z" * 32)
    yield asked("4: own upload", "another digest", "OWN_UPLOAD", ME, survivors=(a, elsewhere, c))
    yield asked("4: own upload", "none made, still training", "OWN_UPLOAD", ME, state="taken")
    yield asked("4: own upload", "none made", "OWN_UPLOAD", ME, state="joined")
    yield asked("5: one view", "a larger view", "VOTED", state="voted", survivors=whole, sealed_shares=(b"",) * 3)
    without = (a, b, c)
    yield asked("5: one view", "a view without itself", "VOTED", state="voted", survivors=without, sealed_shares=(b"",) * 3)
    for number in (0, 1, 3):
        yield asked("6: sealed shares", f"{number} instead of 2", "ENCODING", sealed_shares=(b"",) * number)


# --- the coordinator ------------------------------------------------------------------------------------------------------


def _phase(check: str, what: str, phase: str, code: str, *sites: str, **more: Any) -> dict[str, Any]:
    return {"check": f"coordinator, {check}", "what": what, "phase": phase, "code": code, "sites": list(sites), **more}


def _receiver(golden: Golden, phase: str, path: str) -> Callable[..., dict[str, Any]]:
    """A vector where this message of `ME`, altered, is received from `sender`."""

    def received(check: str, what: str, code: str, message: bytes, sender: str = ME, **more: Any) -> dict[str, Any]:
        receive = {"site": sender, "message": golden.altered(path, message)}
        return _phase(f"{phase}: {check}", what, phase, code, sender, receive=receive, **more)

    return received


def _keys_phase(golden: Golden) -> Iterator[dict[str, Any]]:
    received = _receiver(golden, "keys", f"keys/{ME}")
    good = Keys.decode(golden[f"keys/{ME}"])
    yield received("form", "no message", "ENCODING", b"")
    yield received("in the epoch", "nobody asked", "STRANGER", good.encode(), "zoe")
    yield received("sender", "another site's message", "STRANGER", good.encode(), "alpha")
    yield received("ours", "another epoch", "EPOCH", resigned(good, epoch=2).encode())
    yield received("known", "a stranger's keys", "STRANGER", replace(good, site="zoe").encode())
    yield received("signed", "no signature", "SIGNATURE", replace(good, signature=bytes(64)).encode())
    yield received("valid keys", "a short X25519 key", "ENCODING", resigned(good, x25519=b"y" * 31).encode())
    yield received("one answer", "other keys", "ROUND", resigned(good, x25519=b"\x09" + bytes(31)).encode(), have=[ME])
    yield _phase("keys: enough", "two sites", "keys", "TOO_FEW", "beta", "gamma", have=["alpha", ME], close=True)


def _kem_phase(golden: Golden) -> Iterator[dict[str, Any]]:
    received = _receiver(golden, "kem", f"kem/{ME}")
    good = Kem.decode(golden[f"kem/{ME}"])
    (entry,) = good.entries

    def signed(ciphertext: bytes) -> KemEntry:
        fields = KemEntry.signed_fields(good.epoch_id, ME, "gamma", ciphertext)
        return KemEntry("gamma", ciphertext, sign(key_of(ME), "kem", *fields))

    yield received("form", "no message", "ENCODING", b"")
    yield received("in the epoch", "nobody asked", "STRANGER", good.encode(), "zoe")
    yield received("T", "another epoch", "EPOCH", replace(good, epoch_id=b"x" * 32).encode())
    yield received("sender", "another site's message", "STRANGER", good.encode(), "alpha")
    yield received("ids", "none", "PEERS", replace(good, entries=()).encode())
    yield received("ids", "twice", "PEERS", replace(good, entries=(entry, entry)).encode())
    yield received("ids", "to a lower site", "PEERS", replace(good, entries=(replace(entry, peer="beta"),)).encode())
    yield received("signed", "no signature", "SIGNATURE", replace(good, entries=(replace(entry, signature=bytes(64)),)).encode())
    yield received("length", "short, but signed", "ENCODING", replace(good, entries=(signed(entry.ciphertext[:-1]),)).encode())
    yield received("one answer", "another ciphertext", "ROUND", replace(good, entries=(signed(bytes(1088)),)).encode(), have=[ME])
    yield _phase("kem: everybody", "one missing", "kem", "EPOCH", "gamma", have=["alpha", "beta", ME], close=True)


def _upload_phase(golden: Golden) -> Iterator[dict[str, Any]]:
    received = _receiver(golden, "uploads", f"uploads/{ME}")
    good = Upload.decode(golden[f"uploads/{ME}"])
    y = golden[f"vectors/{ME}"]

    def signed(**changes: Any) -> bytes:
        unsigned = replace(good, **changes)
        return replace(unsigned, signature=sign(key_of(ME), "upload", unsigned.delta, text(ME), unsigned.masked)).encode()

    def vector(data: bytes) -> dict[str, Any]:
        return {"y": golden.altered(f"vectors/{ME}", data)}

    yield received("form", "no message", "ENCODING", b"")
    yield received("in the epoch", "nobody asked", "STRANGER", good.encode(), "zoe")
    yield received("delta", "another round", "ROUND", signed(delta=b"x" * 32))
    yield received("sender", "another site's upload", "STRANGER", good.encode(), "alpha")
    yield received("counts", "three commitments", "ENCODING", signed(commitments=good.commitments[:3]))
    yield received("counts", "four sealed rows", "ENCODING", signed(sealed_shares=(*good.sealed_shares, b"")))
    yield received("counts", "two sealed rows", "ENCODING", signed(sealed_shares=good.sealed_shares[:2]))
    yield received("signed", "no signature", "SIGNATURE", replace(good, signature=bytes(64)).encode())
    yield received(
        "signed", "commitments in another order", "SIGNATURE", replace(good, commitments=good.commitments[::-1]).encode()
    )
    yield received("vector", "one bit", "ENCODING", good.encode()) | vector(y[:-1] + bytes([y[-1] ^ 1]))
    yield received("vector", "short, but signed", "ENCODING", signed(y_digest=hashlib.sha256(y[:-4]).digest())) | vector(y[:-4])
    yield received("vector", "long, but signed", "ENCODING", signed(y_digest=hashlib.sha256(y + y[:4]).digest())) | vector(
        y + y[:4]
    )
    again = y[:-1] + bytes([y[-1] ^ 1])
    second = received("one answer", "a second upload", "ROUND", signed(y_digest=hashlib.sha256(again).digest()), have=[ME])
    yield second | vector(again)
    yield _phase("uploads: enough", "two sites", "uploads", "TOO_FEW", "beta", "gamma", have=["alpha", ME], close=True)


def resealed(ballot: Ballot, **changes: Any) -> bytes:
    """A ballot that its own site altered and signed again."""
    unsigned = replace(ballot, **changes)
    return replace(unsigned, signature=sign(key_of(ballot.site), "ballot", *unsigned.signed_fields())).encode()


def _vote_phase(golden: Golden) -> Iterator[dict[str, Any]]:
    received = _receiver(golden, "votes", f"ballots/{ME}")
    good = Ballot.decode(golden[f"ballots/{ME}"])
    yield received("form", "no message", "ENCODING", b"")
    yield received("in the epoch", "nobody asked", "STRANGER", good.encode(), "zoe")
    yield received("view", "another view", "VOTED", resealed(good, view=b"x" * 32))
    yield received("sender", "another site's ballot", "STRANGER", good.encode(), "alpha")
    yield received("counts", "two releases", "ENCODING", resealed(good, releases=good.releases[:2]))
    yield received("counts", "four boxes", "ENCODING", resealed(good, boxes=(*good.boxes, good.boxes[0])))
    yield received("counts", "a box cut short", "ENCODING", resealed(good, boxes=(good.boxes[0][:-1], *good.boxes[1:])))
    yield received("signed", "another answer", "SIGNATURE", replace(good, sealed_answer=good.sealed_answer[:-1]).encode())
    yield received("one answer", "another answer", "ROUND", resealed(good, sealed_answer=good.sealed_answer[:-1]), have=[ME])


def _opening(golden: Golden, pairs: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
    good, path = Ballot.decode(golden[f"ballots/{ME}"]), f"ballots/{ME}"
    everybody = ["alpha", "beta"]

    def closed(what: str, ballot: bytes, *sites: str) -> dict[str, Any]:
        return _phase(
            "4.5", what, "votes", "NOT_OPENABLE", *sites, have=everybody, altered={ME: golden.altered(path, ballot)}, close=True
        )

    yield _phase("4.5", "no ballot", "votes", "NOT_OPENABLE", "alpha", "beta", ME, "gamma", close=True)
    yield _phase("4.5", "one ballot less than t", "votes", "NOT_OPENABLE", ME, "gamma", have=everybody, close=True)
    yield closed("a ballot that holds noise", resealed(good, sealed_answer=bytes(40)), ME)
    elements = [field.encode(0)] * 2
    yield closed("shares that open no commitment", answering(good, pairs, pack(*(b"".join(elements) for _ in range(3)))), "alpha")
    yield closed("an empty field for a dealer", answering(good, pairs, pack(b"", b"", b"")), "alpha")
    yield closed("an answer of two dealers", answering(good, pairs, pack(b"", b"")), ME)
    yield closed("an answer that is no list", answering(good, pairs, b"\0"), ME)
    above = field.PRIME.to_bytes(32, "big")
    yield closed("an answer with an element not below p", answering(good, pairs, pack(*[above + elements[0]] * 3)), "alpha")
    yield from _spoiled(golden)


def answering(ballot: Ballot, pairs: Mapping[str, bytes], answer: bytes) -> bytes:
    """A ballot of `ME` that opens, with another answer in it: kappa 0, whose shares are all 0."""
    nonces = count()

    def entropy(size: int) -> bytes:
        return hashlib.shake_256(b"answering" + next(nonces).to_bytes(8, "big") + answer).digest(size)

    boxes = tuple(
        derive.seal(
            derive.release_key(pairs[peer], ballot.view, peer, ME), derive.box_aad(ballot.view, peer, ME), bytes(32), entropy
        )
        for peer in sorted(pairs)
    )
    sealed = derive.seal(derive.answer_key(0, ballot.view, ME), derive.answer_aad(ballot.view, ME), answer, entropy)
    return resealed(ballot, boxes=boxes, sealed_answer=sealed)


def _spoiled(golden: Golden) -> Iterator[dict[str, Any]]:
    """A sum that was kept wrongly, or of a site that masked garbage: it opens to what no updates give."""
    total = golden["total"]
    *head, _ = unpack(golden["stored_view"])
    count_off = (int.from_bytes(total[:8], "little") + 1) % 2**64
    high, low = ((int.from_bytes(total[-4:], "little") + step) % 2**32 for step in (2**30, -(2**30)))
    cases = {
        "word 0 is not the number of sites": count_off.to_bytes(8, "little") + total[8:],
        "a body value above the range": total[:-4] + high.to_bytes(4, "little"),
        "a body value below the range": total[:-4] + low.to_bytes(4, "little"),
    }
    for what, data in cases.items():
        view = golden.altered("stored_view", pack(*head, hashlib.sha256(data).digest()))
        stored = {"view": view, "total": golden.altered("total", data)}
        yield _phase("4.5", what, "votes", "SPOILED", stored=stored, have=["alpha", "beta", ME], close=True)
    other = {"view": golden.unaltered("stored_view"), "total": golden.altered("total", total[:-1] + b"\0\0")}
    yield _phase("restart", "another sum beside the view", "votes", "ENCODING", stored=other, close=True)
