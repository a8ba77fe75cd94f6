#!/usr/bin/env python3
"""Writes tests/vectors/consortium/*.json: bytes that every implementation of the consortium's documents must agree on.

Nothing here is random or dated: running it twice gives the same files. `golden_*` are accepted inputs with their exact
bytes; `negative_*` are mutations, each with the error and the words it must be refused with. A mutated document is an edit
of a good one: `at` is kept up to there, `cut` bytes are left out, `insert` (hex) stands instead. Whoever replays `bodies`
signs the edited body with the seeds of `signers`, so that the content alone is wrong; `envelopes` are complete as they are.

    scripts/make_vectors_consortium.py [--out FOLDER]
"""

import argparse
import datetime
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from consortium.approval import Approval, sign_approval
from consortium.canonical import Json, digest, encode_json, integer, pack, text
from consortium.documents import Signed
from consortium.identity import SigningKey, fingerprint
from consortium.invite import Invite, InviteFile, make_invite_file
from consortium.leave import LeaveNotice, sign_leave
from consortium.plan import (
    Deadlines,
    ModelRef,
    ParameterSpec,
    Participant,
    Plan,
    PrivacyTerms,
    Schedule,
    StrategyRef,
    TaskRef,
    sign_plan,
)
from consortium.roster import Founder, Member, Roster, founders_fingerprint, sign_roster
from consortium.rotation import RotateRequest, sign_request
from consortium.statement import EpsilonStatement, sign_statement
from consortium.wire import SENTENCES, Refusal, encode_answer, encode_keys_request, encode_refusal, encode_request

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "consortium"
Object = dict[str, Json]
Mutation = tuple[str, bytes, str, str]  # name, mutated bytes, error, words of its message

SITES = ("aalborg", "bergen", "cadiz", "dublin")
LEAD = "lead-1"
FOUNDERS = ("anna", "bruno", "clara")


def key(name: str) -> SigningKey:
    """The test identity called `name`: its seed is public, so never use one."""
    return SigningKey.from_seed(digest("wardround/test-seed/1", text(name)))


def example_roster() -> Roster:
    sites = tuple(Member(site, "site", key(site).public, f"ecdsa-sha2-nistp384 AAAA{site} {site}") for site in SITES)
    return Roster(
        consortium="Example consortium",
        version=1,
        colluders=1,
        minimum_cohort=3,
        founders=tuple(Founder(name, key(name).public) for name in FOUNDERS),
        founders_required=2,
        split_salt=bytes(range(16)),
        held_out_fraction=0.25,
        members=(*sites, Member(LEAD, "lead", key(LEAD).public, "")),
    )


def example_plan(roster: Roster) -> Plan:
    return Plan(
        version=3,
        run_id="cis-2026-01",
        lead=LEAD,
        created="2026-01-31T12:00:00Z",
        code_version="0.1.0",
        roster_digest=roster.digest,
        task=TaskRef("cis_conversion", "1", ("age", "edss_onset", "oligoclonal_bands"), ("clinical", "fluid")),
        model=ModelRef(
            name="logistic",
            options=(("hidden", 0), ("l2", 0.001)),
            buffers=(ParameterSpec("mean", (3,)), ParameterSpec("scale", (3,))),
            parameters=(ParameterSpec("weight", (1, 3)), ParameterSpec("bias", (1,))),
            init_seed=7,
        ),
        participants=tuple(Participant(site, 100 + at, 50 * (at + 1)) for at, site in enumerate(SITES)),
        statistics=7,
        histogram_bins=16,
        coordinate_clip=0.25,
        ring_bits=32,
        schedule=Schedule(60, 80, 1, 70, 2, 10, 1, 0.5),
        privacy=PrivacyTerms("local", 1e-05, 3.0, 1.5, 1.0, 16, 1.0, 8.0, 4.0, 20.0, 10.0),
        strategy=StrategyRef("fedadam", (("beta1", 0.9), ("rate", 0.1))),
        deadlines=Deadlines(30, 120, 30, 86400),
    )


def example_approval(plan: Plan) -> Approval:
    return Approval(plan.digest, SITES[0], "approve-until", "2026-06-30T00:00:00Z", "", "2026-02-01T08:30:00Z")


def example_statement(plan: Plan) -> EpsilonStatement:
    return EpsilonStatement(SITES[0], plan.digest, 1e-05, 2.75, 97, bytes(range(32)), "2026-07-01T09:00:00Z")


def example_rotation() -> RotateRequest:
    return RotateRequest(example_roster().consortium, SITES[0], key(SITES[0]).public, key("new").public, "ecdsa-sha2-nistp384 AAAA")


def example_authority(name: str = "hub authority") -> bytes:
    """A certificate (DER) without anything random: Ed25519 signs the same bytes alike."""
    private = Ed25519PrivateKey.from_private_bytes(digest("wardround/test-seed/1", text(name)))
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(private.public_key())
    days = [datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2026, 2036)]
    made = builder.serial_number(1).not_valid_before(days[0]).not_valid_after(days[1]).sign(private, None)
    return made.public_bytes(Encoding.DER)


def example_invite() -> InviteFile:
    roster = example_roster()
    invite = Invite(roster.consortium, roster.digest, "hub.example.org:443", example_authority(), "2026-02-01T08:30:00Z")
    signed = sign_roster(sign_roster(roster, "clara", key("clara")), "anna", key("anna"))
    return make_invite_file(invite, signed, LEAD, key(LEAD))


def example_leave() -> LeaveNotice:
    words = "The study ended."
    return LeaveNotice("Example consortium", SITES[0], 1, 97, bytes(range(32)), words, "2026-07-01T09:00:00Z")


# golden vectors


def golden_encoding() -> Object:
    fields = [(), (b"",), (b"a",), (b"", b""), (b"sa1/keys", bytes(3)), (b"ab", b"c"), (b"a", b"bc"), (pack(b"x"), b"\xff" * 5)]
    numbers = [0, 1, 255, 256, 2**32, 2**63, 2**64 - 1]
    texts = ["", "aalborg", "sa1/keys", "~ !"]
    values: list[Json] = [
        None, True, False, 0, -1, 2**53 + 1, 0.0, -0.0, 1.0, 0.1, 1e-05, 1e16, 123456789012345.0, 5e-324, 1.7976931348623157e308,
        "", "a\"b\\c/", "\n\t\x7f\x00", "å", "\U0001f9e0", [], {}, [1, [2.0, "3"]], {"b": 1, "a": {"d": [], "c": None}, "B": 2},
    ]  # fmt: skip
    return {
        "pack": [{"fields": [field.hex() for field in case], "bytes": pack(*case).hex()} for case in fields],
        "integer": [{"value": str(number), "bytes": integer(number).hex()} for number in numbers],
        "text": [{"value": value, "bytes": text(value).hex()} for value in texts],
        "digest": [
            {"label": label, "fields": [field.hex() for field in case], "digest": digest(label, *case).hex()}
            for label in ("sa1/keys", "wardround/plan/1")
            for case in fields[:5]
        ],
        "json": [{"value": value, "bytes": encode_json(value).decode("ascii")} for value in values],
    }


def golden_identity() -> Object:
    cases: list[Json] = []
    for name in (*SITES[:2], LEAD):
        for label, fields in (("sa1/keys", (b"one", b"two")), ("wardround/plan/1", (b"",)), ("wardround/empty/1", ())):
            signer = key(name)
            cases.append(
                {
                    "seed": digest("wardround/test-seed/1", text(name)).hex(),
                    "public": signer.public.hex(),
                    "fingerprint": fingerprint(signer.public),
                    "label": label,
                    "fields": [field.hex() for field in fields],
                    "signature": signer.sign(label, *fields).hex(),
                }
            )
    return {"signatures": cases}


def golden_documents() -> Object:
    roster = example_roster()
    plan = example_plan(roster)
    not_private = replace(
        plan,
        run_id="open-1",
        privacy=PrivacyTerms("none", 1e-05, -1.0, -1.0, 1.0, 16, 1.0, 0.0, 4.0, 0.0, 0.0),
    )
    approval = example_approval(plan)
    signed_roster = sign_roster(sign_roster(roster, "clara", key("clara")), "anna", key("anna"))
    approvals = [
        approval,
        replace(approval, decision="approve", until=""),
        replace(approval, decision="refuse", until="", reason="Ethics vote pending."),
    ]
    return {
        "founders_fingerprint": founders_fingerprint(roster.founders, roster.founders_required),
        "roster": [_golden(signed_roster)],
        "plan": [_golden(sign_plan(each, key(LEAD))) for each in (plan, not_private)],
        "approval": [_golden(sign_approval(each, key(SITES[0]))) for each in approvals],
        "epsilon-statement": [
            _golden(sign_statement(each, key(SITES[0])))
            for each in (example_statement(plan), replace(example_statement(not_private), epsilon_exposed=-1.0))
        ],
        "rotate-request": [_golden(sign_request(example_rotation(), key("new"), old)) for old in (key(SITES[0]), None)],
        "invite": [_golden(example_invite().signed)],
        "invite_file": example_invite().encode().decode("ascii"),
        "leave-notice": [_golden(sign_leave(example_leave(), key(SITES[0])))],
    }


def _golden(signed: Signed) -> Object:
    return {"body": signed.body.decode("ascii"), "digest": signed.digest.hex(), "signed": signed.encode().hex()}


def golden_wire() -> Object:
    sa1, plan_digest = b"protocol message", bytes(range(32))
    refusals = [Refusal(code, (), f"{at:016x}") for at, code in enumerate(SENTENCES)]
    refusals.append(Refusal("STRANGER", (SITES[0], SITES[2]), "0123456789abcdef"))
    return {
        "keys_request": {
            "signed_plan": b"plan".hex(),
            "sa1": sa1.hex(),
            "bytes": encode_keys_request(b"plan", sa1).hex(),
        },
        "request": {"plan_digest": plan_digest.hex(), "sa1": sa1.hex(), "bytes": encode_request(plan_digest, sa1).hex()},
        "answer": {"sa1": sa1.hex(), "bytes": encode_answer(sa1).hex()},
        "refusal": [
            {
                "code": each.code,
                "sites": list(each.sites),
                "correlation": each.correlation,
                "sentence": each.sentence,
                "bytes": encode_refusal(each).hex(),
            }
            for each in refusals
        ],
    }


# negative vectors


def negative_encoding() -> Object:
    framed = pack(b"ab", b"c")
    cut = "cut short"
    unpack = [
        ("empty", b"", cut),
        ("three-bytes", b"\0\0\0", cut),
        ("count-above-fields", b"\0\0\0\3" + framed[4:], cut),
        ("count-below-fields", b"\0\0\0\1" + framed[4:], "after the last field"),
        ("count-huge", b"\xff\xff\xff\xff", cut),
        ("length-above-data", pack(b"ab")[:-1], cut),
        ("length-inside", framed[:7], cut),
        ("length-huge", b"\0\0\0\1\xff\xff\xff\xff", cut),
        ("trailing-byte", framed + b"\0", "after the last field"),
        ("preceding-byte", b"\0" + framed, "message"),
        ("little-endian-count", (2).to_bytes(4, "little") + framed[4:], cut),
    ]
    count = [("one-field", pack(b"a"), "expected 2"), ("three-fields", pack(b"a", b"", b""), "expected 2")]
    whole = [("short", bytes(7), "expected 8"), ("long", bytes(9), "expected 8"), ("none", b"", "expected 8")]
    ascii_only = [("latin-1", b"caf\xe9", "non-ASCII"), ("utf-8", "å".encode(), "non-ASCII"), ("high-bit", b"\x80", "non-ASCII")]
    decoders = {"unpack": unpack, "unpack_2": count, "parse_integer": whole, "parse_text": ascii_only}
    found = {
        decoder: _listed((name, data, "EncodingError", words) for name, data, words in cases) for decoder, cases in decoders.items()
    }
    return {**found, "decode_json": _listed(_spellings(b'{"a":1.0,"b":[1,2]}'))}


def _spellings(body: bytes) -> Iterator[Mutation]:
    """Other spellings of a JSON object's bytes (and what is no JSON at all); none of them may decode."""
    first = body[1 : body.index(b":")]
    spellings = {
        "space-after-colon": body.replace(b":", b": ", 1),
        "space-after-comma": body.replace(b",", b", ", 1),
        "trailing-newline": body + b"\n",
        "leading-space": b" " + body,
        "duplicate-key": b"{" + first + b":0," + body[1:],
        "keys-reversed": json.dumps(dict(reversed(json.loads(body).items())), separators=(",", ":")).encode(),
        "escaped-letter": body.replace(first, b'"\\u%04x' % first[1] + first[2:], 1),
    }
    for name, data in spellings.items():
        yield name, data, "EncodingError", "not in canonical form"
    broken = {
        "byte-order-mark": b"\xef\xbb\xbf" + body,
        "non-ascii-byte": body[:-1] + b',"\xc3\xa5":0}',
        "comma-at-the-end": body[:-1] + b",}",
        "cut-short": body[:-1],
        "two-documents": body + body,
        "empty": b"",
        "deep": b"[" * 2000,
    }
    for name, data in broken.items():
        yield name, data, "EncodingError", "not JSON in ASCII"
    for name, number in {"nan": b"NaN", "infinity": b"Infinity", "too-large": b"1e999"}.items():
        yield name, b"{" + first + b":" + number + body[body.index(b",") :], "EncodingError", "no canonical JSON form"
    numbers = {"exponent": b"1e0", "plus-exponent": b"1.0e+00", "trailing-zero": b"1.00", "minus-zero": b"-0"}
    for name, number in numbers.items():
        yield f"number-{name}", b"{" + first + b":" + number + body[body.index(b",") :], "EncodingError", "not in canonical form"


def _content(document: Object, place: str) -> Iterator[Mutation]:
    """Mutations of every value in a document: absent, of another type, or (bytes) in another spelling."""
    yield f"{place}:unknown-key", encode_json({**document, "zzz": 1}), "DocumentError", "unknown key 'zzz'"
    yield f"{place}:list", encode_json([document]), "DocumentError", "expected an object"
    for name, value in document.items():
        without: Object = {other: kept for other, kept in document.items() if other != name}
        yield f"{place}.{name}:missing", encode_json(without), "DocumentError", f"key '{name}' is missing"
        for label, changed in _other_types(value):
            yield f"{place}.{name}:{label}", encode_json({**document, name: changed}), "DocumentError", f"{place}.{name}"
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict):
            at = f"{place}.{name}[0]" if isinstance(value, list) else f"{place}.{name}"
            for label, body, error, words in _content(inner, at):
                changed = json.loads(body)
                outer: Json = [changed, *value[1:]] if isinstance(value, list) else changed
                yield label, encode_json({**document, name: outer}), error, words


def _other_types(value: Json) -> Iterator[tuple[str, Json]]:
    yield "null", None
    yield "bool", True
    yield "object-inside-list", [{}]
    if isinstance(value, int):
        yield "float", float(value)
        yield "text", str(value)
    if isinstance(value, float):
        yield "int", 1
        yield "text", str(value)
    if isinstance(value, str):
        yield "int", 1
    if isinstance(value, list):
        yield "text", "list"
        yield "object", {}
    if isinstance(value, str) and len(value) >= 32 and set(value) <= set("0123456789abcdef"):
        yield "upper-case-hex", value.upper() if value.upper() != value else "AB" * (len(value) // 2)
        yield "spaced-hex", f"{value[:2]} {value[2:]}"
        yield "odd-hex", value[:-1]
        yield "no-hex", f"zz{value[2:]}"


def _changed(document: Object, path: str, value: Json) -> bytes:
    """The document's bytes with the value at `path` (like "members.0.id") replaced."""
    copy = json.loads(encode_json(document))
    *parents, last = path.split(".")
    at = copy
    for step in parents:
        at = at[int(step)] if isinstance(at, list) else at[step]
    at[int(last) if isinstance(at, list) else last] = value
    return encode_json(copy)


Change = tuple[str, str, Json, str]  # name, path, new value, words

ROSTER_RULES: tuple[Change, ...] = (
    ("no-name", "consortium", "", "1 to 64 ASCII"),
    ("name-too-long", "consortium", "x" * 65, "1 to 64 ASCII"),
    ("name-not-ascii", "consortium", "Ålborg", "1 to 64 ASCII"),
    ("version-0", "version", 0, "the first is 1"),
    ("colluders-negative", "colluders", -1, "must be 0 or more"),
    ("cohort-of-two", "minimum_cohort", 2, "must be in [3, 30]"),
    ("cohort-of-31", "minimum_cohort", 31, "must be in [3, 30]"),
    ("quorum-0", "founders_required", 0, "must be in [1, 3]"),
    ("quorum-above-founders", "founders_required", 4, "must be in [1, 3]"),
    ("no-founders", "founders", [], "must be in [1, 0]"),
    ("salt-short", "split_salt", "00" * 15, "expected 16"),
    ("salt-long", "split_salt", "00" * 17, "expected 16"),
    ("held-out-negative", "held_out_fraction", -0.1, "must be in [0, 1)"),
    ("held-out-all", "held_out_fraction", 1.0, "must be in [0, 1)"),
    ("founder-key-short", "founders.0.key", "00" * 31, "founder's key is not 32 bytes"),
    ("founder-name-twice", "founders.1.name", FOUNDERS[0], "appears twice"),
    ("founder-key-twice", "founders.1.key", key(FOUNDERS[0]).public.hex(), "appears twice"),
    ("role-unknown", "members.0.role", "auditor", "is not one of site, lead"),
    ("id-upper-case", "members.0.id", "Aalborg", "must be 1 to 32"),
    ("id-empty", "members.0.id", "", "must be 1 to 32"),
    ("id-too-long", "members.0.id", "a" * 33, "must be 1 to 32"),
    ("id-with-newline", "members.0.id", "aalborg\n", "must be 1 to 32"),
    ("id-foreign-digit", "members.0.id", "a\uff11", "must be 1 to 32"),
    ("id-twice", "members.1.id", SITES[0], "ascending order"),
    ("ids-not-ascending", "members.0.id", "zagreb", "ascending order"),
    ("identity-key-short", "members.0.identity_key", "00" * 31, "is not 32 bytes"),
    ("identity-key-shared", "members.0.identity_key", key(SITES[1]).public.hex(), "share a key"),
    ("transport-key-shared", "members.0.transport_key", f"ecdsa-sha2-nistp384 AAAA{SITES[1]} {SITES[1]}", "share a key"),
    ("site-without-transport", "members.0.transport_key", "", "a site has a transport key"),
    ("lead-with-transport", "members.4.transport_key", "ssh", "a lead has none"),
    ("transport-key-of-two-lines", "members.0.transport_key", "key\nkey", "does not print"),
)

PLAN_RULES: tuple[Change, ...] = (
    ("version-2", "version", 2, "this code knows 3"),
    ("version-4", "version", 4, "this code knows 3"),
    ("run-id-empty", "run_id", "", "run_id must be"),
    ("run-id-dash-first", "run_id", "-a", "run_id must be"),
    ("run-id-path", "run_id", "../x", "run_id must be"),
    ("created-no-time", "created", "2026-01-31", "created must look like"),
    ("created-no-such-hour", "created", "2026-01-31T25:00:00Z", "created must look like"),
    ("created-foreign-digits", "created", "\uff12\uff10\uff12\uff16-01-31T12:00:00Z", "created must look like"),
    ("created-zone", "created", "2026-01-31T12:00:00+00:00", "created must look like"),
    ("roster-digest-short", "roster_digest", "00" * 31, "must be 32 bytes"),
    ("statistics-negative", "statistics", -1, "outside [0, 2^20]"),
    ("one-bin", "histogram_bins", 1, "outside [2, 16384]"),
    ("bins-too-many", "histogram_bins", 16385, "outside [2, 16384]"),
    ("ring-of-8", "ring_bits", 8, "this version knows (16, 32)"),
    ("ring-of-64", "ring_bits", 64, "this version knows (16, 32)"),
    ("clip-no-power", "coordinate_clip", 0.3, "not a power of two"),
    ("clip-zero", "coordinate_clip", 0.0, "not a power of two"),
    ("clip-negative", "coordinate_clip", -0.25, "not a power of two"),
    ("column-unreadable", "task.columns.0", "age\u202e", "does not print"),
    ("code-version-with-escape", "code_version", "\x1b[2J", "does not print"),
    ("sites-not-ascending", "participants.0.site", "zagreb", "ascending order"),
    ("site-twice", "participants.1.site", SITES[0], "ascending order"),
    (
        "two-participants",
        "participants",
        [{"site": s, "node_id": n, "declared_patients": 9} for n, s in enumerate("ab")],
        "3 to 30",
    ),
    ("node-id-shared", "participants.1.node_id", 100, "share a node id"),
    ("node-id-negative", "participants.0.node_id", -1, "outside [0, 2^64)"),
    ("node-id-too-large", "participants.0.node_id", 2**64, "outside [0, 2^64)"),
    ("site-upper-case", "participants.0.site", "Aalborg", "not of a-z"),
    ("no-patients", "participants.0.declared_patients", 0, "outside [1, 10^7]"),
    ("patients-too-many", "participants.0.declared_patients", 10**7 + 1, "outside [1, 10^7]"),
    ("tensor-name-shared", "model.parameters.0.name", "mean", "share a name"),
    ("no-parameters", "model.parameters", [], "without parameters"),
    ("dimension-0", "model.parameters.0.shape", [0, 3], "dimension outside"),
    ("dimension-huge", "model.parameters.0.shape", [2**28 + 1], "dimension outside"),
    ("dimensions-9", "model.parameters.0.shape", [1] * 9, "more than 8 dimensions"),
    ("model-too-large", "model.parameters.0.shape", [2**28], "values in the model"),
    ("seed-negative", "model.init_seed", -1, "outside [0, 2^63)"),
    ("options-not-ascending", "model.options", [["b", 1], ["a", 1]], "ascending order"),
    ("option-of-three", "model.options", [["a", 1, 2]], "3 items, expected 2"),
    ("option-null", "model.options", [["a", None]], "expected one of str, int, float"),
    ("rounds-0", "schedule.rounds", 0, "outside [1, 100000]"),
    ("max-train-below-rounds", "schedule.max_train", 59, "max_train is below"),
    ("max-round-below-rounds", "schedule.max_round", 59, "max_round is below"),
    ("max-round-too-large", "schedule.max_round", 2**32 + 1, "above 2^32"),
    ("max-describe-negative", "schedule.max_describe", -1, "below 0"),
    ("max-evaluate-negative", "schedule.max_evaluate", -1, "below 0"),
    ("evaluate-every-0", "schedule.evaluate_every", 0, "at least 1"),
    ("local-steps-0", "schedule.local_steps", 0, "outside [1, 10000]"),
    ("local-rate-0", "schedule.local_rate", 0.0, "positive and finite"),
    ("mode-unknown", "privacy.mode", "central", "is not one of local, distributed, none"),
    ("mode-distributed-of-one", "privacy.mode", "distributed", "honest 1 outside [2, 4]"),
    ("honest-in-mode-local", "privacy.honest", 2, "each site stands alone"),
    ("canaries-negative", "privacy.canaries", -1, "outside [0, 10000]"),
    ("canaries-too-many", "privacy.canaries", 10_001, "outside [0, 10000]"),
    ("modalities-not-in-order", "task.modalities", ["mri", "clinical"], "in ascending order"),
    ("modality-twice", "task.modalities", ["clinical", "clinical"], "in ascending order"),
    ("modality-with-space", "task.modalities", ["clinical data"], "is not of a-z"),
    ("sample-rate-0", "privacy.sample_rate", 0.0, "outside (0, 1]"),
    ("sample-rate-above-1", "privacy.sample_rate", 1.5, "outside (0, 1]"),
    ("delta-0", "privacy.delta", 0.0, "outside (0, 0.0001]"),
    ("delta-too-large", "privacy.delta", 0.001, "outside (0, 0.0001]"),
    ("grid-too-coarse", "privacy.grid_bits", 9, "outside [10, 24]"),
    ("grid-too-fine", "privacy.grid_bits", 25, "outside [10, 24]"),
    ("clip-0", "privacy.clip", 0.0, "clip must be positive"),
    ("describe-clip-negative", "privacy.describe_clip", -1.0, "describe_clip must be positive"),
    ("no-train-noise", "privacy.train_noise", 0.0, "needs noise on every release"),
    ("no-describe-noise", "privacy.describe_noise", 0.0, "needs noise on every release"),
    ("no-evaluate-noise", "privacy.evaluate_noise", 0.0, "needs noise on every release"),
    ("count-noise-negative", "privacy.count_noise", -1.0, "is below 0"),
    ("epsilon-none-in-private-plan", "privacy.epsilon_exposed", -1.0, "states both epsilons"),
    ("mode-none-with-noise", "privacy.mode", "none", "has no noise"),
    ("deadline-0", "deadlines.vote_s", 0, "at least 1 second"),
    ("lead-unknown", "lead", "nobody", "is not on the roster"),
)

APPROVAL_RULES: tuple[Change, ...] = (
    ("digest-short", "plan_digest", "00" * 31, "must be 32 bytes"),
    ("decision-unknown", "decision", "maybe", "is not one of"),
    ("until-empty", "until", "", "until belongs to approve-until"),
    ("until-a-date", "until", "2026-06-30", "until belongs to approve-until"),
    ("until-for-ever", "until", "9999-99-99T99:99:99Z", "until belongs to approve-until"),
    ("until-foreign-digits", "until", "\uff12\uff10\uff12\uff16-06-30T00:00:00Z", "until belongs to approve-until"),
    ("until-with-approve", "decision", "approve", "until belongs to approve-until"),
    ("until-with-refuse", "decision", "refuse", "until belongs to approve-until"),
    ("decided-empty", "decided", "", "decided must look like"),
    ("reason-too-long", "reason", "x" * 501, "limit is 500"),
    ("reason-with-escape", "reason", "\x1b[31m", "does not print"),
)

STATEMENT_RULES: tuple[Change, ...] = (
    ("digest-short", "plan_digest", "00" * 31, "must be 32 bytes"),
    ("head-long", "ledger_head", "00" * 33, "must be 32 bytes"),
    ("site-upper-case", "site", "Aalborg", "not of a-z"),
    ("site-empty", "site", "", "not of a-z"),
    ("delta-0", "delta", 0.0, "outside (0, 1)"),
    ("delta-1", "delta", 1.0, "outside (0, 1)"),
    ("epsilon-negative", "epsilon_exposed", -0.5, "must be 0 or more"),
    ("epsilon-minus-two", "epsilon_exposed", -2.0, "must be 0 or more"),
    ("no-entries", "entries", 0, "outside [1, 2^40]"),
    ("entries-too-many", "entries", 2**40 + 1, "outside [1, 2^40]"),
    ("made-empty", "made", "", "made must look like"),
    ("made-a-date", "made", "2026-07-01", "made must look like"),
    ("made-foreign-digits", "made", "\uff12\uff10\uff12\uff16-07-01T09:00:00Z", "made must look like"),
)


def _document_mutations(document: Object, place: str, rules: tuple[Change, ...]) -> Iterator[Mutation]:
    yield from _spellings(encode_json(document))
    yield from _content(document, place)
    for name, path, value, words in rules:
        yield name, _changed(document, path, value), "DocumentError", words


def _envelopes(signed: Signed) -> Iterator[Mutation]:
    """Mutations of the frame around a signed document."""
    good, label = signed.encode(), f"wardround/signed-{signed.kind}/1".encode()
    signer, signature = signed.signatures[0]
    other = "another kind or version"
    for name, data, words in (
        ("empty", b"", "cut short"),
        ("cut-short", good[:-1], "cut short"),
        ("trailing-byte", good + b"\0", "after the last field"),
        ("no-fields", pack(), other),
        ("label-alone", pack(label), other),
        ("signer-without-signature", pack(label, signed.body, signer.encode()), other),
        ("other-version", pack(label[:-1] + b"2", signed.body, signer.encode(), signature), other),
        ("other-kind", pack(b"wardround/signed-other/1", signed.body, signer.encode(), signature), other),
        ("label-not-ascii", pack(b"\xff" + label[1:], signed.body, signer.encode(), signature), "non-ASCII"),
        ("signer-not-ascii", pack(label, signed.body, b"\xe5", signature), "non-ASCII"),
    ):
        yield f"frame:{name}", data, "EncodingError", words


def _signatures(signed: Signed) -> Iterator[Mutation]:
    """Right content under wrong signatures."""
    (signer, signature), *others = signed.signatures
    stranger = key("stranger")
    forged = stranger.sign(f"wardround/{signed.kind}/1", signed.body)
    elsewhere = key(signer).sign("wardround/other/1", signed.body)
    altered = replace(signed, body=signed.body.replace(b":", b" :", 1), signatures=())
    for_other_bytes = altered.sign(signer, key(signer)).signatures[0][1]
    flips = {
        f"flipped-bit@signature-{at}": bytes((*signature[:at], signature[at] ^ 1, *signature[at + 1 :])) for at in (0, 31, 32, 63)
    }
    misfit, size = "does not match key", "expected 64"
    wrong = {
        "signed-by-stranger": (((signer, forged), *others), misfit),
        "signed-for-another-kind": (((signer, elsewhere), *others), misfit),
        "signature-short": (((signer, signature[:-1]), *others), size),
        "signature-long": (((signer, signature + b"\0"), *others), size),
        "signature-empty": (((signer, b""), *others), size),
        "stranger-beside-signers": ((*signed.signatures, ("stranger", forged)), "who may not sign it"),
        "signed-twice": (((signer, signature), *signed.signatures), "appears twice"),
        "signature-of-other-bytes": (((signer, for_other_bytes), *others), misfit),
        **{name: (((signer, flipped), *others), misfit) for name, flipped in flips.items()},
    }
    for name, (pairs, words) in wrong.items():
        yield f"signature:{name}", replace(signed, signatures=pairs).encode(), "SignatureError", words
    unsigned = replace(signed, signatures=())
    words = "0 founders' signatures" if signed.kind == "roster" else "is not signed by"
    yield "signature:none", unsigned.encode(), "SignatureError", words


def _verifier(good: Signed, rules: tuple[Change, ...], more: list[tuple[str, Signed, str, str]]) -> Object:
    """All vectors of one kind of document; `more` are complete documents that only this kind's rules refuse."""
    place = good.kind.replace("-", "")  # as a decoder names it: after the class
    bodies = _document_mutations(json.loads(good.body), place, rules)
    others = ((name, signed.encode(), error, words) for name, signed, error, words in more)
    return {
        "body": good.body.decode("ascii"),
        "signed": good.encode().hex(),
        "signers": {name: digest("wardround/test-seed/1", text(name)).hex() for name, _ in good.signatures},
        "bodies": _edits(bodies, good.body),
        "envelopes": _edits([*_envelopes(good), *_signatures(good), *others], good.encode()),
    }


def _edits(cases: Iterable[Mutation], base: bytes) -> Json:
    return [{"name": name, **_edit(base, data), "error": error, "says": words} for name, data, error, words in cases]


def _edit(base: bytes, data: bytes) -> Object:
    """What turns `base` into `data`: the part between their longest common beginning and ending."""
    at = _common(base, data)
    tail = _common(base[at:][::-1], data[at:][::-1])
    return {"at": at, "cut": len(base) - at - tail, "insert": data[at : len(data) - tail].hex()}


def _common(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


def negative_roster() -> Object:
    roster = example_roster()
    good = _founders_sign(roster)
    other_founders = replace(roster, founders=tuple(Founder(name, key(f"false-{name}").public) for name in FOUNDERS))
    taken_over = sign_roster(sign_roster(other_founders, "anna", key("false-anna")), "clara", key("false-clara"))
    member = sign_roster(sign_roster(roster, "anna", key("anna")), SITES[0], key(SITES[0]))
    eased = _founders_sign(replace(roster, founders_required=1))
    more = [
        ("quorum-too-small", replace(good, signatures=good.signatures[:1]), "SignatureError", "1 founders' signatures, needs 2"),
        ("signed-by-a-member", member, "SignatureError", "who may not sign it"),
        ("other-founders", taken_over, "SignatureError", "this party pinned"),
        ("quorum-eased", eased, "SignatureError", "this party pinned"),
    ]
    pinned = founders_fingerprint(roster.founders, roster.founders_required)
    return {"trusted_founders": pinned, **_verifier(good, ROSTER_RULES, more)}


def _founders_sign(roster: Roster) -> Signed:
    return sign_roster(sign_roster(roster, "anna", key("anna")), "clara", key("clara"))


def negative_plan() -> Object:
    roster = example_roster()
    plan = example_plan(roster)
    good = sign_plan(plan, key(LEAD))
    unlisted = (*plan.participants[:3], Participant("elsewhere", 103, 200))
    with_lead = (*plan.participants[:3], Participant(LEAD, 103, 200))
    changed = [
        ("lead-is-a-site", replace(plan, lead=SITES[0]), "SignatureError", "is not a lead"),
        ("lead-is-a-stranger", replace(plan, lead="stranger"), "DocumentError", "is not on the roster"),
        ("other-roster", replace(plan, roster_digest=bytes(32)), "SignatureError", "another roster"),
        ("newer-roster", replace(plan, roster_digest=replace(roster, version=2).digest), "SignatureError", "another roster"),
        ("site-unlisted", replace(plan, participants=unlisted), "DocumentError", "is not on the roster"),
        ("participant-is-a-lead", replace(plan, participants=with_lead), "DocumentError", "is not a site"),
    ]
    more = [(name, sign_plan(each, key(each.lead)), error, words) for name, each, error, words in changed]
    more.append(("founder-signs-too", good.sign("anna", key("anna")), "SignatureError", "who may not sign it"))
    return {"roster": _founders_sign(roster).encode().hex(), **_verifier(good, PLAN_RULES, more)}


def negative_approval() -> Object:
    approval = example_approval(example_plan(example_roster()))
    elsewhere = sign_approval(replace(approval, site=SITES[1]), key(SITES[1]))
    more = [("of-another-site", elsewhere, "SignatureError", f"not signed by {SITES[0]}")]
    verifier = _verifier(sign_approval(approval, key(SITES[0])), APPROVAL_RULES, more)
    return {"site": SITES[0], "public": key(SITES[0]).public.hex(), **verifier}


def negative_statement() -> Object:
    statement = example_statement(example_plan(example_roster()))
    good = sign_statement(statement, key(SITES[0]))
    elsewhere = sign_statement(replace(statement, site=SITES[1]), key(SITES[1]))
    by_another = Signed(good.kind, good.body, ()).sign(SITES[1], key(SITES[1]))
    more = [
        ("of-another-site", elsewhere, "SignatureError", f"not signed by {SITES[0]}"),
        ("signed-by-another-site", by_another, "SignatureError", "who may not sign it"),
    ]
    return {"site": SITES[0], "public": key(SITES[0]).public.hex(), **_verifier(good, STATEMENT_RULES, more)}


def negative_wire() -> Object:
    request, keys, answer = encode_request(bytes(32), b"m"), encode_keys_request(b"plan", b"m"), encode_answer(b"m")
    good = Refusal("ROUND", (SITES[0],), "0123456789abcdef")
    refusal = encode_refusal(good)
    label = b"wardround/refusal/1"
    sites, correlation = pack(SITES[0].encode()), good.correlation.encode()
    replies = [
        ("answer-without-message", pack(b"wardround/answer/1"), "neither"),
        ("answer-version-2", pack(b"wardround/answer/2", b"m"), "neither"),
        ("answer-with-two-messages", pack(b"wardround/answer/1", b"m", b"m"), "neither"),
        ("refusal-version-2", pack(b"wardround/refusal/2", b"ROUND", sites, correlation), "neither"),
        ("request-as-reply", request, "neither"),
        ("code-unknown", pack(label, b"FINE", sites, correlation), "unknown code"),
        ("code-lower-case", pack(label, b"round", sites, correlation), "unknown code"),
        ("code-not-ascii", pack(label, b"R\xd6UND", sites, correlation), "non-ASCII"),
        ("sites-not-framed", pack(label, b"ROUND", b"aalborg", correlation), "message"),
        ("site-a-path", pack(label, b"ROUND", pack(b"/data/patients.csv"), correlation), "no site id"),
        ("site-upper-case", pack(label, b"ROUND", pack(b"Aalborg"), correlation), "no site id"),
        ("site-and-more", pack(label, b"ROUND", pack(b"aalborg: MS-00042"), correlation), "no site id"),
        ("site-newline", pack(label, b"ROUND", pack(b"aalborg\n"), correlation), "no site id"),
        ("site-too-long", pack(label, b"ROUND", pack(b"a" * 33), correlation), "no site id"),
        ("site-empty", pack(label, b"ROUND", pack(b""), correlation), "no site id"),
        ("site-not-ascii", pack(label, b"ROUND", pack(b"\xe5"), correlation), "non-ASCII"),
        ("correlation-short", pack(label, b"ROUND", sites, correlation[:-1]), "16 lower-case hex digits"),
        ("correlation-long", pack(label, b"ROUND", sites, correlation + b"0"), "16 lower-case hex digits"),
        ("correlation-upper-case", pack(label, b"ROUND", sites, correlation.upper()), "16 lower-case hex digits"),
        ("correlation-free-text", pack(label, b"ROUND", sites, b"patient MS-00042"), "16 lower-case hex digits"),
        ("correlation-newline", pack(label, b"ROUND", sites, correlation[:-1] + b"\n"), "16 lower-case hex digits"),
        ("detail-beside-refusal", pack(label, b"ROUND", sites, correlation, b"detail"), "neither"),
    ]
    requests = [
        ("keys-request-as-request", keys, "not a request"),
        ("version-2", pack(b"wardround/request/2", bytes(32), b"m"), "not a request"),
        ("digest-short", pack(b"wardround/request/1", bytes(31), b"m"), "not a request"),
        ("without-message", pack(b"wardround/request/1", bytes(32)), "expected 3"),
        ("field-added", pack(b"wardround/request/1", bytes(32), b"m", b""), "expected 3"),
    ]
    keys_requests = [("request-as-keys-request", request, "not a keys request"), ("answer", answer, "expected 3")]
    return {
        "decode_reply": _framed(replies, refusal),
        "decode_request": _framed(requests, request),
        "decode_keys_request": _framed(keys_requests, keys),
    }


def _framed(cases: list[tuple[str, bytes, str]], good: bytes) -> Json:
    frame = [
        ("empty", b"", "cut short"),
        ("cut-short", good[:-1], "cut short"),
        ("trailing-byte", good + b"\0", "after the last field"),
    ]
    return _listed((name, data, "EncodingError", words) for name, data, words in [*cases, *frame])


def _listed(cases: Iterable[Mutation]) -> Json:
    return [{"name": name, "input": data.hex(), "error": error, "says": words} for name, data, error, words in cases]


FILES: dict[str, Callable[[], Object]] = {
    function.__name__: function
    for function in (
        golden_encoding,
        golden_identity,
        golden_documents,
        golden_wire,
        negative_encoding,
        negative_roster,
        negative_plan,
        negative_approval,
        negative_statement,
        negative_wire,
    )
}


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in FILES.items():
        (folder / f"{name}.json").write_text(json.dumps(make(), indent=1) + "\n", encoding="ascii")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER)
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
