"""What is written is read back unchanged, and nothing but a ConsortiumError ever leaves a decoder."""

import math
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consortium.approval import Approval, sign_approval, verify_approval
from consortium.canonical import Json, decode_json, digest, encode_json, integer, pack, parse_integer, parse_text, text, unpack
from consortium.documents import Signed, from_document, to_document
from consortium.errors import ConsortiumError, EncodingError
from consortium.identity import SigningKey, verify
from consortium.plan import Plan, Schedule, verify_plan
from consortium.roster import Member, Roster, verify_roster
from consortium.statement import EpsilonStatement, sign_statement, verify_statement
from consortium.wire import (
    SENTENCES,
    Refusal,
    decode_keys_request,
    decode_reply,
    decode_request,
    encode_answer,
    encode_keys_request,
    encode_refusal,
    encode_request,
)

ascii_text = st.text(st.characters(max_codepoint=127))
site_ids = st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True)
json_values: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
refusals = st.builds(
    Refusal,
    code=st.sampled_from(sorted(SENTENCES)),
    sites=st.lists(site_ids, max_size=5).map(tuple),
    correlation=st.from_regex(r"[0-9a-f]{16}", fullmatch=True),
)


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_packed_fields_come_back(fields: list[bytes]) -> None:
    assert unpack(pack(*fields), len(fields)) == tuple(fields)
    assert unpack(pack(*fields)) == tuple(fields)


@given(st.lists(st.binary(max_size=8), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_two_lists_of_fields_never_share_their_bytes(one: list[bytes], other: list[bytes]) -> None:
    assert (pack(*one) == pack(*other)) == (one == other)


@given(st.integers(0, 2**64 - 1))
def test_integers_come_back(number: int) -> None:
    assert parse_integer(integer(number)) == number
    assert integer(number) == struct.pack(">Q", number)


@pytest.mark.parametrize("number", [-1, 2**64])
def test_integers_outside_eight_bytes_are_refused(number: int) -> None:
    with pytest.raises(EncodingError, match="outside"):
        integer(number)


@given(ascii_text)
def test_ascii_text_comes_back(value: str) -> None:
    assert parse_text(text(value)) == value


@given(st.text(st.characters(min_codepoint=128), min_size=1))
def test_other_text_is_refused(value: str) -> None:
    with pytest.raises(EncodingError, match="non-ASCII"):
        text(value)


@given(json_values)
def test_json_comes_back_and_is_written_one_way(value: Json) -> None:
    written = encode_json(value)
    assert decode_json(written) == value
    assert encode_json(decode_json(written)) == written
    assert written.isascii()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {"a": [math.nan]}, b"bytes", {1, 2}])
def test_values_without_a_json_form_are_refused(value: Json) -> None:
    with pytest.raises(EncodingError, match="no canonical JSON form"):
        encode_json(value)


@pytest.mark.parametrize("depth", [10, 900, 985, 990, 1000, 5000, 100_000])
def test_nesting_never_leaks_a_recursion_error(depth: int) -> None:
    try:
        decode_json(b"[" * depth + b"]" * depth)
    except EncodingError:
        assert depth > 100
    else:
        assert depth < 1000


def test_values_too_deep_to_write_are_refused() -> None:
    value: Json = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(EncodingError, match="no canonical JSON form"):
        encode_json(value)


@given(st.text(min_size=1, max_size=8), st.lists(st.binary(max_size=8), max_size=3))
def test_digest_separates_label_from_fields(label: str, fields: list[bytes]) -> None:
    if not label.isascii():
        with pytest.raises(EncodingError):
            digest(label, *fields)
        return
    assert digest(label, *fields) != digest(label + "x", *fields)
    assert digest(label, *fields) != digest(label, *fields, b"")


@given(st.binary(min_size=32, max_size=32), ascii_text, st.lists(st.binary(max_size=8), max_size=3), st.binary(max_size=8))
def test_a_signature_verifies_for_its_label_and_fields_alone(seed: bytes, label: str, fields: list[bytes], more: bytes) -> None:
    key = SigningKey.from_seed(seed)
    signature = key.sign(label, *fields)
    verify(key.public, signature, label, *fields)
    for other_label, other_fields in ((f"{label}/", fields), (label, [*fields, more]), (label, [more, b"", *fields])):
        with pytest.raises(ConsortiumError):
            verify(key.public, signature, other_label, *other_fields)


@given(st.binary(max_size=60), st.dictionaries(ascii_text, st.binary(max_size=70), max_size=4), ascii_text)
def test_envelopes_come_back(body: bytes, signatures: dict[str, bytes], kind: str) -> None:
    signed = Signed(kind, body, tuple(sorted(signatures.items())))
    assert Signed.decode(signed.encode(), kind) == signed


@given(st.permutations(["anna", "bruno", "clara"]))
def test_the_order_of_signing_leaves_no_trace(order: list[str]) -> None:
    signed = Signed("roster", b"{}", ())
    keys = {name: SigningKey.from_seed(digest(name)) for name in order}
    for name in order:
        signed = signed.sign(name, keys[name])
    assert [name for name, _ in signed.signatures] == ["anna", "bruno", "clara"]
    assert signed.signers({name: key.public for name, key in keys.items()}) == ("anna", "bruno", "clara")


@given(st.lists(site_ids, min_size=1, max_size=8, unique=True), st.integers(1, 10**6), st.floats(0, 0.999), st.binary(min_size=16))
def test_rosters_come_back(roster: Roster, ids: list[str], version: int, fraction: float, salt: bytes) -> None:
    members = tuple(Member(name, "site", digest(name), f"ssh {name}") for name in sorted(ids))
    made = replace(roster, members=members, version=version, held_out_fraction=fraction, split_salt=salt[:16])
    assert from_document(Roster, decode_json(encode_json(to_document(made)))) == made


@given(
    rounds=st.integers(1, 1000),
    spare=st.integers(0, 1000),
    rate=st.floats(1e-6, 10),
    noise=st.floats(1e-3, 1e3),
    clip=st.integers(-20, 20),
    options=st.dictionaries(st.text(max_size=5), st.text(max_size=3) | st.integers() | st.floats(-1e9, 1e9), max_size=3),
)
def test_plans_come_back(
    plan: Plan, rounds: int, spare: int, rate: float, noise: float, clip: int, options: dict[str, str | int | float]
) -> None:
    made = replace(
        plan,
        coordinate_clip=2.0**clip,
        model=replace(plan.model, options=tuple(sorted(options.items()))),
        schedule=Schedule(rounds, rounds + spare, 1, rounds + spare, spare, 1 + spare, 1, rate),
        privacy=replace(plan.privacy, train_noise=noise),
    )
    assert from_document(Plan, decode_json(encode_json(to_document(made)))) == made


@given(st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=500))
def test_approvals_come_back_signed(plan: Plan, reason: str) -> None:
    key = SigningKey.from_seed(bytes(32))
    approval = Approval(plan.digest, "aalborg", "refuse", "", reason, "2026-01-31T12:00:00Z")
    signed = Signed.decode(sign_approval(approval, key).encode(), "approval")
    assert verify_approval(signed, "aalborg", key.public) == approval


@given(epsilon=st.just(-1.0) | st.floats(0.0, 1e300), delta=st.floats(1e-300, 0.5), entries=st.integers(1, 2**40))
def test_statements_come_back_signed(plan: Plan, epsilon: float, delta: float, entries: int) -> None:
    key = SigningKey.from_seed(bytes(32))
    statement = EpsilonStatement("aalborg", plan.digest, delta, epsilon, entries, bytes(32), "2026-01-31T12:00:00Z")
    signed = Signed.decode(sign_statement(statement, key).encode(), "epsilon-statement")
    assert verify_statement(signed, "aalborg", key.public) == statement


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(min_size=32, max_size=32))
def test_requests_and_answers_come_back(signed_plan: bytes, sa1: bytes, plan_digest: bytes) -> None:
    assert decode_keys_request(encode_keys_request(signed_plan, sa1)) == (signed_plan, sa1)
    assert decode_request(encode_request(plan_digest, sa1)) == (plan_digest, sa1)
    assert decode_reply(encode_answer(sa1)) == sa1


@given(refusals)
def test_refusals_come_back(refusal: Refusal) -> None:
    assert decode_reply(encode_refusal(refusal)) == refusal


Decoder = Callable[[bytes], object]


@pytest.fixture(scope="module")
def decoders(roster: Roster, pinned: str) -> dict[str, Decoder]:
    """Everything that reads bytes of a stranger."""
    site = roster.sites[0]
    return {
        "unpack": unpack,
        "unpack-3": lambda data: unpack(data, 3),
        "integer": parse_integer,
        "text": parse_text,
        "json": decode_json,
        "roster": lambda data: verify_roster(Signed.decode(data, "roster"), pinned),
        "roster-body": lambda data: verify_roster(Signed("roster", data, ()), pinned),
        "plan": lambda data: verify_plan(Signed.decode(data, "plan"), roster),
        "plan-body": lambda data: verify_plan(Signed("plan", data, ()), roster),
        "approval": lambda data: verify_approval(Signed.decode(data, "approval"), site.id, site.identity_key),
        "approval-body": lambda data: verify_approval(Signed("approval", data, ()), site.id, site.identity_key),
        "statement": lambda data: verify_statement(Signed.decode(data, "epsilon-statement"), site.id, site.identity_key),
        "statement-body": lambda data: verify_statement(Signed("epsilon-statement", data, ()), site.id, site.identity_key),
        "keys-request": decode_keys_request,
        "request": decode_request,
        "reply": decode_reply,
    }


def outcome(decode: Decoder, data: bytes) -> object:
    """What the decoder returned, or that it refused; any other exception fails the test."""
    try:
        return decode(data)
    except ConsortiumError:
        return None


@given(data=st.binary(max_size=200) | st.lists(st.binary(max_size=20), max_size=5).map(lambda fields: pack(*fields)))
def test_any_bytes_are_decoded_or_refused(decoders: dict[str, Decoder], data: bytes) -> None:
    for name, decode in decoders.items():
        found = outcome(decode, data)
        assert found is None or name in {"unpack", "unpack-3", "integer", "text", "json", "keys-request", "request", "reply"}


@given(value=json_values)
def test_any_json_in_place_of_a_document_is_refused(decoders: dict[str, Decoder], value: Json) -> None:
    for name in ("roster-body", "plan-body", "approval-body", "statement-body"):
        assert outcome(decoders[name], encode_json(value)) is None


@given(data=st.data())
def test_any_json_in_place_of_any_value_is_refused(
    decoders: dict[str, Decoder], signed_plan: Signed, signed_roster: Signed, data: st.DataObject
) -> None:
    for name, signed in (("plan-body", signed_plan), ("roster-body", signed_roster)):
        document = decode_json(signed.body)
        assert isinstance(document, dict)
        place = data.draw(st.sampled_from(sorted(document)))
        assert outcome(decoders[name], encode_json({**document, place: data.draw(json_values)})) is None


@given(data=st.data())
def test_good_messages_cut_flipped_or_spliced_are_refused(
    decoders: dict[str, Decoder], signed_plan: Signed, signed_roster: Signed, data: st.DataObject
) -> None:
    for name, good in (("plan", signed_plan.encode()), ("roster", signed_roster.encode())):
        at = data.draw(st.integers(0, len(good) - 1))
        cut = data.draw(st.integers(0, 40))
        bad = good[:at] + data.draw(st.binary(max_size=40)) + good[at + cut :]
        assert bad == good or outcome(decoders[name], bad) is None
