"""Each mutation is refused with the recorded error and words: by the check that is meant to catch it, not by accident."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consortium import errors
from consortium.approval import verify_approval
from consortium.canonical import decode_json, parse_integer, parse_text, unpack
from consortium.documents import Signed
from consortium.identity import SigningKey
from consortium.plan import verify_plan
from consortium.roster import Roster, verify_roster
from consortium.statement import verify_statement
from consortium.wire import decode_keys_request, decode_reply, decode_request

FOLDER = Path(__file__).resolve().parents[1] / "vectors" / "consortium"
Case = dict[str, Any]

DECODERS: dict[str, Callable[[bytes], object]] = {
    "unpack": unpack,
    "unpack_2": lambda data: unpack(data, 2),
    "parse_integer": parse_integer,
    "parse_text": parse_text,
    "decode_json": decode_json,
    "decode_reply": decode_reply,
    "decode_request": decode_request,
    "decode_keys_request": decode_keys_request,
}


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("ascii"))
    return content


def named(cases: list[Case]) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in cases]


def edited(case: Case, base: bytes) -> bytes:
    return base[: case["at"]] + bytes.fromhex(case["insert"]) + base[case["at"] + case["cut"] :]


def refuses(case: Case, decode: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(errors.ConsortiumError) as caught:
        decode(data)
    assert type(caught.value).__name__ == case["error"]
    assert case["says"] in str(caught.value)


def roster_of(signed: str) -> Signed:
    return Signed.decode(bytes.fromhex(signed), "roster")


ROSTER, PLAN, APPROVAL = load("negative_roster"), load("negative_plan"), load("negative_approval")
STATEMENT = load("negative_statement")


def check_roster(data: bytes) -> Roster:
    return verify_roster(Signed.decode(data, "roster"), ROSTER["trusted_founders"])


PLAN_ROSTER = roster_of(PLAN["roster"]).document(Roster)
VERIFIERS: dict[str, tuple[Case, Callable[[bytes], object]]] = {
    "roster": (ROSTER, check_roster),
    "plan": (PLAN, lambda data: verify_plan(Signed.decode(data, "plan"), PLAN_ROSTER)),
    "approval": (
        APPROVAL,
        lambda data: verify_approval(Signed.decode(data, "approval"), APPROVAL["site"], bytes.fromhex(APPROVAL["public"])),
    ),
    "epsilon-statement": (
        STATEMENT,
        lambda data: verify_statement(
            Signed.decode(data, "epsilon-statement"), STATEMENT["site"], bytes.fromhex(STATEMENT["public"])
        ),
    ),
}


@pytest.mark.parametrize(
    ("decoder", "case"),
    [
        pytest.param(decoder, case, id=f"{decoder}-{case['name']}")
        for name in ("negative_encoding", "negative_wire")
        for decoder, cases in load(name).items()
        for case in cases
    ],
)
def test_decoder_refuses(decoder: str, case: Case) -> None:
    refuses(case, DECODERS[decoder], bytes.fromhex(case["input"]))


@pytest.mark.parametrize("kind", VERIFIERS)
def test_the_unedited_document_is_accepted(kind: str) -> None:
    content, verify = VERIFIERS[kind]
    assert verify(bytes.fromhex(content["signed"]))
    assert verify(resigned(kind, content["body"].encode("ascii")))


def resigned(kind: str, body: bytes) -> bytes:
    """An envelope in which everybody whose signature counts signed `body`."""
    signed = Signed(kind, body, ())
    for name, seed in VERIFIERS[kind][0]["signers"].items():
        signed = signed.sign(name, SigningKey.from_seed(bytes.fromhex(seed)))
    return signed.encode()


@pytest.mark.parametrize("case", named(ROSTER["bodies"]))
def test_roster_with_this_content_is_refused_though_well_signed(case: Case) -> None:
    refuses(case, VERIFIERS["roster"][1], resigned("roster", edited(case, ROSTER["body"].encode("ascii"))))


@pytest.mark.parametrize("case", named(PLAN["bodies"]))
def test_plan_with_this_content_is_refused_though_well_signed(case: Case) -> None:
    refuses(case, VERIFIERS["plan"][1], resigned("plan", edited(case, PLAN["body"].encode("ascii"))))


@pytest.mark.parametrize("case", named(APPROVAL["bodies"]))
def test_approval_with_this_content_is_refused_though_well_signed(case: Case) -> None:
    refuses(case, VERIFIERS["approval"][1], resigned("approval", edited(case, APPROVAL["body"].encode("ascii"))))


@pytest.mark.parametrize("case", named(STATEMENT["bodies"]))
def test_statement_with_this_content_is_refused_though_well_signed(case: Case) -> None:
    body = edited(case, STATEMENT["body"].encode("ascii"))
    refuses(case, VERIFIERS["epsilon-statement"][1], resigned("epsilon-statement", body))


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        pytest.param(kind, case, id=f"{kind}-{case['name']}")
        for kind, (content, _) in VERIFIERS.items()
        for case in content["envelopes"]
    ],
)
def test_envelope_is_refused(kind: str, case: Case) -> None:
    content, verify = VERIFIERS[kind]
    refuses(case, verify, edited(case, bytes.fromhex(content["signed"])))


@pytest.mark.parametrize("kind", VERIFIERS)
def test_no_flipped_bit_anywhere_in_a_signed_document_survives(kind: str) -> None:
    """One bit of each byte, a different one in turn: frame, body, signers and signatures alike."""
    content, verify = VERIFIERS[kind]
    good = bytes.fromhex(content["signed"])
    accepted = []
    for at in range(len(good)):
        bad = good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :]
        try:
            verify(bad)
        except errors.ConsortiumError:
            continue
        accepted.append(at)
    assert accepted == []


@pytest.mark.parametrize("kind", VERIFIERS)
def test_no_bit_of_a_signature_can_be_flipped(kind: str) -> None:
    content, verify = VERIFIERS[kind]
    good = bytes.fromhex(content["signed"])
    start = good.index(Signed.decode(good, kind).signatures[0][1])
    accepted = []
    for bit in range(64 * 8):
        at = start + bit // 8
        try:
            verify(good[:at] + bytes([good[at] ^ 1 << bit % 8]) + good[at + 1 :])
        except errors.SignatureError:
            continue
        accepted.append(bit)
    assert accepted == []


@pytest.mark.parametrize("kind", VERIFIERS)
def test_no_beginning_of_a_signed_document_is_accepted(kind: str) -> None:
    content, verify = VERIFIERS[kind]
    good = bytes.fromhex(content["signed"])
    for length in range(len(good)):
        with pytest.raises(errors.EncodingError):
            verify(good[:length])


def test_vector_names_are_unique() -> None:
    for content, _ in VERIFIERS.values():
        for part in ("bodies", "envelopes"):
            names = [case["name"] for case in content[part]]
            assert sorted(set(names)) == sorted(names)
