"""The bytes of sa1 do not change, and nothing but these bytes is taken."""

import contextlib
import hashlib
import hmac
import importlib.util
import json
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from consortium.canonical import unpack
from secagg import derive, field, masks
from secagg.aggregate import Aggregate
from secagg.context import Context
from secagg.coordinator import Epoch, VotePhase, examine, recompute
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
from secagg.opening import open_view

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


RINGS = {"round_n3_ring16.json": 16}


def context_of(log: dict[str, Any], ring_bits: int = 32) -> Context:
    identities = {site: bytes.fromhex(key) for site, key in log["identities"].items()}
    return Context(b"R" * 32, b"P" * 32, identities, 1, 3, 9, ring_bits)


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return load(ROOT / "scripts" / "make_vectors_secagg.py").vectors()


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_golden_vectors_are_what_the_code_makes(made: dict[str, Any], name: str) -> None:
    assert json.loads(json.dumps(made[name])) == read(name)


def test_there_is_no_other_vector_file(made: dict[str, Any]) -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(made)


@pytest.mark.parametrize(("name", "survivors", "number"), [
    ("round_n3.json", ("alpha", "beta", "gamma"), 7),
    ("round_n3_ring16.json", ("alpha", "beta", "gamma"), 7),
    ("round_n4_dropped.json", ("alpha", "delta", "gamma"), 1 + 4 + 8),
])  # fmt: skip
def test_a_golden_round_opens_to_the_sum_of_its_sites(name: str, survivors: tuple[str, ...], number: int) -> None:
    log = read(name)
    vectors = {site: bytes.fromhex(y) for site, y in log["vectors"].items()}
    again = recompute(context_of(log, RINGS.get(name, 32)), bytes.fromhex(log["record"]), vectors)
    assert again.survivors == survivors == tuple(vectors)
    assert again.header.tolist() == log["header_sum"] == [len(survivors), number]
    assert again.body.tolist() == log["body_sum"] == [number] * 4
    assert again.findings == ()


@pytest.mark.parametrize("name", ["round_n3.json", "round_n3_ring16.json", "round_n4_dropped.json"])
def test_a_record_proves_its_view_without_the_vectors(name: str) -> None:
    log = read(name)
    opened = examine(context_of(log, RINGS.get(name, 32)), bytes.fromhex(log["record"]))
    assert opened.sites == tuple(log["identities"])
    assert opened.survivors == tuple(log["vectors"])
    assert opened.voters == tuple(log["ballots"])
    assert opened.digests == {site: hashlib.sha256(bytes.fromhex(y)).digest() for site, y in log["vectors"].items()}
    assert (opened.threshold, opened.findings) == (3, ())
    assert opened.terms.round_number == 1


def test_the_dropped_sites_pair_masks_are_opened_under_both_signs() -> None:
    """beta uploaded nothing: alpha had added its mask with it, delta and gamma had taken theirs off."""
    log = read("round_n4_dropped.json")
    stored, total = bytes.fromhex(log["stored_view"]), bytes.fromhex(log["total"])
    view = VotePhase.decode(context_of(log), stored, total).view
    ballots = {site: Ballot.decode(bytes.fromhex(data)) for site, data in log["ballots"].items()}
    assert set(open_view(view, ballots).pair_masks) == {("alpha", "beta"), ("delta", "beta"), ("gamma", "beta")}


def test_a_kept_view_and_its_kept_sum_open_to_the_record() -> None:
    log = read("round_n4_dropped.json")
    voting = VotePhase.decode(context_of(log), bytes.fromhex(log["stored_view"]), bytes.fromhex(log["total"]))
    assert voting.encode().hex() == log["stored_view"]
    assert {site: data.hex() for site, data in voting.requests().items()} == log["vote_requests"]
    for site, ballot in log["ballots"].items():
        voting = voting.receive(site, bytes.fromhex(ballot))
    assert voting.close().record.hex() == log["record"]


def test_the_digest_in_a_record_is_that_of_the_opened_sum() -> None:
    log = read("round_n3.json")
    header, body = np.array(log["header_sum"], "<i8"), np.array(log["body_sum"], "<i4")
    assert unpack(bytes.fromhex(log["record"]))[-1] == hashlib.sha256(header.tobytes() + body.tobytes()).digest()


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


@pytest.mark.parametrize("case", read("encodings.json")["bodies"], ids=lambda case: f"{case['ring_bits']} bits, {case['weight']}")
def test_a_golden_body_is_the_nearest_step_to_value_and_dither(case: dict[str, Any]) -> None:
    """Recomputed in exact fractions: dither from CTR under the zero key, ties to even, two's complement."""
    modulus, scale = 2 ** case["ring_bits"], Fraction(2 ** (case["ring_bits"] - 1 - (5).bit_length()))
    dither = struct.unpack(f"<{len(case['values'])}h", masks.keystream(bytes(32), 0, 2 * len(case["values"])))
    for value, offset, word in zip(case["values"], dither, case["words"], strict=True):
        steps = Fraction(max(-1.0, min(1.0, value))) * Fraction(case["weight"]) * scale
        assert round(steps + Fraction(offset, 2**16)) % modulus == word, value


def test_a_golden_header_is_in_steps_of_two_to_minus_32() -> None:
    case = read("encodings.json")["header"]
    assert case["words"] == [1, *(round(Fraction(value) * 2**32) % 2**64 for value in case["values"])]


def test_a_golden_model_name_is_a_digest_of_length_and_digest() -> None:
    for data, name in read("encodings.json")["model_hash"].items():
        model = bytes.fromhex(data)
        size = len(model).to_bytes(8, "big")
        assert hashlib.sha256(framed(b"sa1/model", size, hashlib.sha256(model).digest())).hexdigest() == name


DECODERS = {
    kind.__name__: kind.decode
    for kind in (KeysRequest, Keys, KemRequest, KemEntry, Kem, UpdateRequest, Upload, Masked, VoteRequest, Ballot)
}


@dataclass(frozen=True)
class Recomputed:
    """A record has no value to be encoded again but the one it is recomputed to."""

    aggregate: Aggregate

    def encode(self) -> bytes:
        return self.aggregate.record


def negative_cases() -> list[Any]:
    return [
        pytest.param(one["decoder"], bytes.fromhex(one["valid"]), edit, id=f"{one['decoder']}: {name}")
        for one in read("negative.json")
        for name, edit in one["refused"].items()
    ]


@pytest.fixture(scope="module")
def decoders() -> dict[str, Any]:
    log = read("round_n3.json")
    context, total = context_of(log), bytes.fromhex(log["total"])
    vectors = {site: bytes.fromhex(y) for site, y in log["vectors"].items()}
    stored = {
        "Epoch": lambda data: Epoch.decode(context, data),
        "VotePhase": lambda data: VotePhase.decode(context, data, total),
        "record": lambda data: examine(context, data) and Recomputed(recompute(context, data, vectors)),
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


def test_a_record_is_examined_as_strictly_as_it_is_recomputed() -> None:
    """All but its lengths, which only a vector can prove."""
    log, taken = read("round_n3.json"), set()
    (case,) = (one for one in read("negative.json") if one["decoder"] == "record")
    record = bytes.fromhex(case["valid"])
    for name, edit in case["refused"].items():
        altered = record[: edit["from"]] + bytes.fromhex(edit["bytes"]) + record[edit["to"] :]
        with contextlib.suppress(SecaggError):
            examine(context_of(log), altered)
            taken.add(name)
    assert taken == {"field 2: header of 2^60 words", "field 2: body of 2^64-1 words", "field 2: body of one word more"}


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
