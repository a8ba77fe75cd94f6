"""Every accepted byte is fixed: a change of these files is a change of the format."""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from consortium.approval import Approval, verify_approval
from consortium.canonical import decode_json, digest, encode_json, integer, pack, parse_integer, parse_text, text, unpack
from consortium.documents import Signed
from consortium.errors import SignatureError
from consortium.identity import SigningKey, fingerprint, verify
from consortium.invite import Invite, InviteFile
from consortium.leave import LeaveNotice, verify_leave
from consortium.plan import Plan, verify_plan
from consortium.roster import Roster, founders_fingerprint, verify_roster
from consortium.rotation import RotateRequest, verify_request
from consortium.statement import EpsilonStatement, verify_statement
from consortium.wire import (
    Refusal,
    decode_keys_request,
    decode_reply,
    decode_request,
    encode_answer,
    encode_keys_request,
    encode_refusal,
    encode_request,
)

Vectors = Callable[[str], Any]
FOLDER = Path(__file__).resolve().parents[1] / "vectors" / "consortium"


def oracle_pack(*fields: bytes) -> bytes:
    """The framing, written a second time from its description."""
    return struct.pack(">I", len(fields)) + b"".join(struct.pack(f">I{len(field)}s", len(field), field) for field in fields)


def test_committed_vectors_are_what_the_script_writes(make_vectors: ModuleType, tmp_path: Path) -> None:
    make_vectors.write(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert sorted(made) == sorted(committed)
    assert [name for name in made if made[name] != committed[name]] == []


def test_pack_matches_its_vectors_and_a_second_implementation(vectors: Vectors) -> None:
    for case in vectors("golden_encoding")["pack"]:
        fields = tuple(map(bytes.fromhex, case["fields"]))
        assert pack(*fields).hex() == case["bytes"]
        assert oracle_pack(*fields).hex() == case["bytes"]
        assert unpack(bytes.fromhex(case["bytes"]), len(fields)) == fields


def test_integers_and_texts_match_their_vectors(vectors: Vectors) -> None:
    encoding = vectors("golden_encoding")
    for case in encoding["integer"]:
        assert integer(int(case["value"])).hex() == case["bytes"] == struct.pack(">Q", int(case["value"])).hex()
        assert parse_integer(bytes.fromhex(case["bytes"])) == int(case["value"])
    for case in encoding["text"]:
        assert text(case["value"]).hex() == case["bytes"]
        assert parse_text(bytes.fromhex(case["bytes"])) == case["value"]


def test_digests_match_their_vectors_and_plain_sha256(vectors: Vectors) -> None:
    for case in vectors("golden_encoding")["digest"]:
        fields = tuple(map(bytes.fromhex, case["fields"]))
        plain = hashlib.sha256(oracle_pack(case["label"].encode(), *fields)).hexdigest()
        assert digest(case["label"], *fields).hex() == case["digest"] == plain


def test_json_values_have_exactly_the_recorded_bytes(vectors: Vectors) -> None:
    for case in vectors("golden_encoding")["json"]:
        written = case["bytes"].encode("ascii")
        assert encode_json(case["value"]) == written
        assert encode_json(decode_json(written)) == written


def test_signatures_are_ed25519_over_label_zero_and_digest(vectors: Vectors) -> None:
    for case in vectors("golden_identity")["signatures"]:
        key = SigningKey.from_seed(bytes.fromhex(case["seed"]))
        fields = tuple(map(bytes.fromhex, case["fields"]))
        signature = bytes.fromhex(case["signature"])
        assert key.public.hex() == case["public"]
        assert key.sign(case["label"], *fields) == signature
        verify(key.public, signature, case["label"], *fields)
        message = case["label"].encode() + b"\0" + hashlib.sha256(oracle_pack(case["label"].encode(), *fields)).digest()
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)


def test_fingerprints_match_their_vectors(vectors: Vectors) -> None:
    for case in vectors("golden_identity")["signatures"]:
        plain = hashlib.sha256(oracle_pack(b"wardround/fingerprint/1", bytes.fromhex(case["public"]))).hexdigest()[:32]
        assert fingerprint(bytes.fromhex(case["public"])) == case["fingerprint"]
        assert case["fingerprint"].replace("-", "") == plain


FORMS = {
    "roster": Roster, "plan": Plan, "approval": Approval, "epsilon-statement": EpsilonStatement, "rotate-request": RotateRequest,
    "invite": Invite, "leave-notice": LeaveNotice,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "form"), FORMS.items())
def test_documents_have_exactly_the_recorded_bytes_and_digest(vectors: Vectors, kind: str, form: type[Any]) -> None:
    for case in vectors("golden_documents")[kind]:
        signed = Signed.decode(bytes.fromhex(case["signed"]), kind)
        assert signed.body.decode("ascii") == case["body"]
        assert signed.encode().hex() == case["signed"]
        assert signed.digest.hex() == case["digest"]
        assert Signed.of(kind, signed.document(form)).body == signed.body
        label = f"wardround/{kind}/1".encode()
        assert case["digest"] == hashlib.sha256(oracle_pack(label, case["body"].encode("ascii"))).hexdigest()


def test_recorded_documents_verify(vectors: Vectors) -> None:
    documents = vectors("golden_documents")
    recorded = {kind: [Signed.decode(bytes.fromhex(case["signed"]), kind) for case in documents[kind]] for kind in FORMS}
    roster = verify_roster(recorded["roster"][0], documents["founders_fingerprint"])
    assert founders_fingerprint(roster.founders, roster.founders_required) == documents["founders_fingerprint"]
    assert [verify_plan(signed, roster).private for signed in recorded["plan"]] == [True, False]
    site = roster.sites[0]
    decisions = [verify_approval(signed, site.id, site.identity_key).decision for signed in recorded["approval"]]
    assert decisions == ["approve-until", "approve", "refuse"]
    statements = [verify_statement(signed, site.id, site.identity_key) for signed in recorded["epsilon-statement"]]
    assert [(statement.epsilon_exposed, statement.private) for statement in statements] == [(2.75, True), (-1.0, False)]
    by_both, by_new = recorded["rotate-request"]
    taken = verify_request(by_both, roster, key_lost=False)
    assert (taken.id, taken.identity_key != site.identity_key) == (site.id, True)
    assert verify_request(by_new, roster, key_lost=True) == taken
    with pytest.raises(SignatureError, match="the old key did not sign"):
        verify_request(by_new, roster, key_lost=False)
    assert verify_leave(recorded["leave-notice"][0], site.id, site.identity_key).reason == "The study ended."
    invite, _ = InviteFile.decode(documents["invite_file"].encode("ascii")).verify(documents["founders_fingerprint"])
    assert Signed.of("invite", invite).body == recorded["invite"][0].body


def test_wire_messages_match_their_vectors(vectors: Vectors) -> None:
    wire = vectors("golden_wire")
    keys, request, answer = wire["keys_request"], wire["request"], wire["answer"]
    fields = bytes.fromhex(keys["signed_plan"]), bytes.fromhex(keys["sa1"])
    assert encode_keys_request(*fields).hex() == keys["bytes"] == oracle_pack(b"wardround/keys-request/1", *fields).hex()
    assert decode_keys_request(bytes.fromhex(keys["bytes"])) == fields
    fields = bytes.fromhex(request["plan_digest"]), bytes.fromhex(request["sa1"])
    assert encode_request(*fields).hex() == request["bytes"] == oracle_pack(b"wardround/request/1", *fields).hex()
    assert decode_request(bytes.fromhex(request["bytes"])) == fields
    assert encode_answer(bytes.fromhex(answer["sa1"])).hex() == answer["bytes"]
    assert decode_reply(bytes.fromhex(answer["bytes"])) == bytes.fromhex(answer["sa1"])


def test_every_refusal_has_one_encoding_and_one_fixed_sentence(vectors: Vectors) -> None:
    for case in vectors("golden_wire")["refusal"]:
        refusal = Refusal(case["code"], tuple(case["sites"]), case["correlation"])
        assert encode_refusal(refusal).hex() == case["bytes"]
        assert decode_reply(bytes.fromhex(case["bytes"])) == refusal
        assert refusal.sentence == case["sentence"]
        assert case["sentence"].encode() not in bytes.fromhex(case["bytes"])


def test_vector_files_are_plain_ascii_json() -> None:
    for path in FOLDER.iterdir():
        assert json.loads(path.read_bytes().decode("ascii")), path.name
