"""The bytes of sa1 do not change, and nothing but these bytes is taken."""

import hashlib
import hmac
import importlib.util
import json
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secagg import derive, field, masks
from secagg.context import Context
from secagg.coordinator import Epoch, VotePhase, recompute
from secagg.errors import SecaggError
from secagg.messages import (
    Ballot,
    Kem,
    KemEntry,
    KemRequest,
    Keys,
    KeysRequest,
    Masked,
    UpdateRequest,
    Upload,
    VoteRequest,
)

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "vectors" / "secagg"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


def context_of(log: dict[str, Any]) -> Context:
    identities = {site: bytes.fromhex(key) for site, key in log["identities"].items()}
    return Context(b"R" * 32, b"P" * 32, identities, 1, 3, 9)


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return load(ROOT / "scripts" / "make_vectors_secagg.py").vectors()


@pytest.mark.parametrize("name", ["derivations.json", "round_n3.json", "negative.json", "elements.json"])
def test_golden_vectors_are_what_the_code_makes(made: dict[str, Any], name: str) -> None:
    assert json.loads(json.dumps(made[name])) == read(name)


def test_there_is_no_other_vector_file(made: dict[str, Any]) -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(made)


def test_the_golden_round_opens_to_the_sum_of_its_sites() -> None:
    log = read("round_n3.json")
    assert log["header_sum"] == [3, 7]
    assert log["body_sum"] == [7, 7, 7, 7]


def test_the_golden_record_is_recomputed_from_the_masked_vectors() -> None:
    log = read("round_n3.json")
    vectors = {site: bytes.fromhex(y) for site, y in log["vectors"].items()}
    again = recompute(context_of(log), bytes.fromhex(log["record"]), vectors)
    assert again.body.tolist() == log["body_sum"]
    assert again.survivors == ("alpha", "beta", "gamma")


def test_an_altered_vector_or_sum_is_not_recomputed() -> None:
    log = read("round_n3.json")
    vectors = {site: bytes.fromhex(y) for site, y in log["vectors"].items()}
    record = bytes.fromhex(log["record"])
    with pytest.raises(SecaggError, match="altered"):
        recompute(context_of(log), record[:-1] + bytes([record[-1] ^ 1]), vectors)
    with pytest.raises(SecaggError, match="vector of alpha"):
        recompute(context_of(log), record, {**vectors, "alpha": vectors["beta"]})
    with pytest.raises(SecaggError, match="vector of gamma"):
        recompute(context_of(log), record, {site: vectors[site] for site in ("alpha", "beta")})


DECODERS = {
    kind.__name__: kind.decode
    for kind in (KeysRequest, Keys, KemRequest, KemEntry, Kem, UpdateRequest, Upload, Masked, VoteRequest, Ballot)
}


def negative_cases() -> list[Any]:
    return [
        pytest.param(one["decoder"], bytes.fromhex(one["valid"]), edit, id=f"{one['decoder']}: {name}")
        for one in read("negative.json")
        for name, edit in one["refused"].items()
    ]


@pytest.fixture(scope="module")
def decoders() -> dict[str, Any]:
    context = context_of(read("round_n3.json"))
    stored = {
        "Epoch": lambda data: Epoch.decode(context, data),
        "VotePhase": lambda data: VotePhase.decode(context, data),
    }
    return {**DECODERS, **stored}


@pytest.mark.parametrize(("decoder", "valid", "edit"), negative_cases())
def test_a_decoder_refuses_bytes_next_to_a_message(
    decoders: dict[str, Any], decoder: str, valid: bytes, edit: dict[str, Any]
) -> None:
    mutated = valid[: edit["from"]] + bytes.fromhex(edit["bytes"]) + valid[edit["to"] :]
    with pytest.raises(SecaggError) as refused:
        decoders[decoder](mutated)
    assert refused.value.code == "ENCODING"


@pytest.mark.parametrize("case", read("negative.json"), ids=lambda case: case["decoder"])
def test_a_decoder_takes_the_message_and_writes_the_same_bytes(decoders: dict[str, Any], case: dict[str, Any]) -> None:
    valid = bytes.fromhex(case["valid"])
    assert decoders[case["decoder"]](valid).encode() == valid


@pytest.mark.parametrize("case", read("elements.json"), ids=lambda case: case["name"])
def test_field_elements_are_refused_from_p_on(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["data"])
    value = field.decode(data)
    assert (value is not None) == case["valid"]
    assert (field.decode_row(data, 1) is not None) == case["valid"]
    if value is not None:
        assert field.encode(value) == data


def framed(*fields: bytes) -> bytes:
    return struct.pack(">I", len(fields)) + b"".join(struct.pack(">I", len(one)) + one for one in fields)


def test_hash_and_expand_are_the_standard_ones() -> None:
    info = hashlib.sha256(framed(b"sa1/test", b"one")).digest()
    assert derive.hash_of("test", b"one") == info
    first = hmac.digest(b"k" * 32, info + b"\x01", "sha256")
    second = hmac.digest(b"k" * 32, first + info + b"\x02", "sha256")
    assert derive.expand(b"k" * 32, "test", b"one") == first
    assert derive.expand(b"k" * 32, "test", b"one", size=48) == (first + second)[:48]


def test_the_pair_key_is_hkdf_of_both_secrets() -> None:
    info = hashlib.sha256(framed(b"sa1/pair", b"alpha", b"beta", b"c")).digest()
    prk = hmac.digest(b"T" * 32, b"x" * 32 + b"k" * 32, "sha256")
    assert derive.pair_key(b"T" * 32, b"x" * 32, b"k" * 32, ("alpha", "beta"), b"c") == hmac.digest(prk, info + b"\x01", "sha256")


@pytest.mark.parametrize("section", [masks.HEADER_SECTION, masks.BODY_SECTION])
def test_the_keystream_is_the_one_of_gcm(section: int) -> None:
    nonce = section.to_bytes(12, "big")
    expected = AESGCM(b"k" * 32).encrypt(nonce, bytes(160), None)[:160]
    assert masks.keystream(b"k" * 32, section, 160) == expected
    assert masks.keystream(b"k" * 32, section, 96, first_block=4) == expected[64:]


def test_the_library_decapsulates_what_the_standard_encapsulates() -> None:
    oracle = load(ROOT / "tests" / "secagg" / "fips203.py")
    private = MLKEM768PrivateKey.from_seed_bytes(b"s" * 64)
    secret, ciphertext = oracle.encapsulate(private.public_key().public_bytes_raw(), b"m" * 32)
    assert private.decapsulate(ciphertext) == secret
