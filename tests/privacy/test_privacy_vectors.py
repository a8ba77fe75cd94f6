"""The bytes of ledger and generator are fixed: other code can read them, and a change shows here first."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privacy.accountant import epsilon
from privacy.check import bracket
from privacy.errors import LedgerError
from privacy.events import spend_from_document
from privacy.handover import Keys
from privacy.ledger import read_entries
from privacy.noise import gaussian_grid, poisson_mask
from privacy.verify import verify_ledger

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "privacy"
LEDGER = (VECTORS / "ledger.jsonl").read_bytes()
HEAD = (VECTORS / "ledger.jsonl.head").read_bytes()


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def frame(*fields: bytes) -> bytes:
    """The framing of the consortium's digests, written again from its description."""
    return len(fields).to_bytes(4, "big") + b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def test_the_golden_ledger_verifies_and_reads_as_written() -> None:
    report = verify_ledger(LEDGER, head=HEAD)
    assert report.ok
    assert (report.site, report.entries, report.non_private_entries) == ("aachen", 8, (7,))
    assert [entry.kind for entry in read_entries(LEDGER)[0]].count("spend") == 5


def checked_by_hand(ledger: bytes) -> tuple[list[Any], bytes]:
    """Entries and the last line's hash, by hashlib, json and Ed25519 alone."""
    previous, entries = bytes(32), []
    lines = ledger.split(b"\n")[:-1]
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(json.loads(lines[0])["body"]["identity_key"]))
    for index, line in enumerate(lines):
        entry = json.loads(line)
        assert entry["index"] == index
        assert entry["previous"] == previous.hex()
        unsigned = json.dumps(
            {key: value for key, value in entry.items() if key != "signature"}, sort_keys=True, separators=(",", ":")
        )
        label = b"wardround/ledger-entry/1"
        signed = label + b"\0" + hashlib.sha256(frame(label, unsigned.encode())).digest()
        public.verify(bytes.fromhex(entry["signature"]), signed)
        previous = hashlib.sha256(frame(b"wardround/ledger-line/1", line)).digest()
        entries.append(entry)
    return entries, previous


def test_a_reader_that_shares_no_code_follows_who_the_patients_were() -> None:
    ledger = (VECTORS / "population.jsonl").read_bytes()
    entries, _ = checked_by_hand(ledger)
    bodies = [entry["body"] for entry in entries if entry["kind"] == "population-changed"]
    assert [body["how"] for body in bodies] == [["first"], ["left", "withdrawn"], ["unknown"]]
    digests = [bytes(32).hex(), *(body["digest"] for body in bodies)]
    assert [body["before"] for body in bodies] == digests[:-1]
    assert verify_ledger(ledger).ok


def test_a_reader_that_shares_no_code_follows_the_keys() -> None:
    """`key-rotated` is the old key's line with the new key's proof, `key-replaced` the new key's own."""
    ledger = (VECTORS / "handovers.jsonl").read_bytes()
    lines = ledger.split(b"\n")[:-1]
    entries = [json.loads(line) for line in lines]
    key = entries[0]["body"]["identity_key"]
    for entry in entries:
        kind, body = entry["kind"], entry.pop("body") | {}
        signature = entry.pop("signature")
        unsigned = json.dumps({**entry, "body": body}, sort_keys=True, separators=(",", ":")).encode()
        signer = body["new_key"] if kind == "key-replaced" else key
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer)).verify(bytes.fromhex(signature), signed("ledger-entry", unsigned))
        if kind == "key-rotated":
            fields = [
                bytes.fromhex(value) for value in (entry["previous"], body["old_key"], body["new_key"], body["roster_digest"])
            ]
            new = Ed25519PublicKey.from_public_bytes(bytes.fromhex(body["new_key"]))
            new.verify(bytes.fromhex(body["proof"]), signed("ledger-key-proof", *fields))
        if kind.startswith("key-"):
            assert body["old_key"] == key
            key = body["new_key"]
    assert [entry["kind"] for entry in entries][2::2] == ["key-rotated", "key-replaced"]
    assert Keys.of(read_entries(ledger)[0]).in_force.hex() == key


def signed(label: str, *fields: bytes) -> bytes:
    name = f"wardround/{label}/1".encode()
    return name + b"\0" + hashlib.sha256(frame(name, *fields)).digest()


def test_a_reader_that_shares_no_code_checks_the_golden_ledger() -> None:
    """The README's description is enough to re-implement verification."""
    _, previous = checked_by_hand(LEDGER)
    slot = HEAD[72:]  # entry 7 is odd
    assert slot[:40] == (7).to_bytes(8, "big") + previous
    assert slot[40:] == hashlib.sha256(frame(b"wardround/ledger-head/1", slot[:40])).digest()


@pytest.mark.parametrize("case", load("mutations.json"), ids=lambda case: case["what"])
def test_each_mutation_is_detected_at_its_entry(case: dict[str, Any]) -> None:
    data = case["ledger"].encode("latin-1")
    assert data != LEDGER
    with pytest.raises(LedgerError) as caught:
        read_entries(data)
    assert caught.value.entry == case["entry"]
    report = verify_ledger(data)
    assert report.problems[0].startswith(f"ledger entry {case['entry']}:")
    assert report.entries == case["entry"]


def test_the_generator_gives_the_recorded_noise() -> None:
    vector = load("noise.json")
    entropy = bytes.fromhex(vector["entropy"])
    noise = gaussian_grid(2.0**20, 9, lambda size: entropy)
    # Logarithm and cosine may differ in the last bit between machines: one grid step of a million.
    assert max(abs(int(a) - b) for a, b in zip(noise, vector["gaussian_grid_std_1048576"], strict=True)) <= 1
    assert [int(value) for value in poisson_mask(40, 0.25, lambda size: entropy)] == vector["poisson_mask_rate_0.25"]


def test_the_sampler_is_aes_256_in_counter_mode_against_a_threshold() -> None:
    vector = load("noise.json")
    cipher = Cipher(algorithms.AES(bytes.fromhex(vector["entropy"])), modes.CTR(bytes(16))).encryptor()
    words = [int.from_bytes(cipher.update(bytes(8)), "little") for _ in range(40)]
    assert [int(word < 2**62) for word in words] == vector["poisson_mask_rate_0.25"]


@pytest.mark.parametrize("case", load("epsilons.json"), ids=lambda case: json.dumps(case["spend"]["event"]))
def test_recorded_epsilons_still_hold(case: dict[str, Any]) -> None:
    spend = spend_from_document(case["spend"])
    found = bracket([spend], case["delta"])
    assert (found.lower, found.upper) == (pytest.approx(case["lower"], abs=1e-4), pytest.approx(case["upper"], abs=1e-4))
    assert case["lower"] - 1e-3 <= epsilon([spend], case["delta"]) <= case["upper"] + 1e-3
