"""`wardround-audit round` opens a round again from what was published, and says which check failed at whose message."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.egress import EgressManifest, Part
from consortium.canonical import integer, pack, unpack
from consortium.documents import Signed
from consortium.identity import SigningKey
from consortium.plan import Plan, body_length, header_fields, sign_plan
from consortium.roster import Founder, Roster, founders_fingerprint, sign_roster
from consortium.wire import encode_answer
from privacy.cli import main
from privacy.cli_rounds import NOT_PRIVATE, NOT_RECOMPUTED, Vectors
from privacy.entries import Egress
from privacy.ledger import Ledger
from privacy.manifest import Tip
from privacy.site_egress import NOT_LINKED, NOT_RELIED_ON
from secagg.context import Context
from secagg.coordinator import Epoch, start_epoch
from secagg.encoding import encode_header
from secagg.masks import body_type
from secagg.messages import Upload
from secagg.model import model_digest
from secagg.opening import Finding
from secagg.site import Asked, SiteSession

from .conftest import LEAD, SPLIT, Tape, details
from .conftest import NOW as CHARGED
from .conftest import TRAIN as CHARGE

ROOT = Path(__file__).resolve().parents[2]
ABSENT = ("torch", "flwr", "pandas", "mlflow", "hydra", "grpc", "omegaconf", "opacus", "client", "server", "tasks")
NOW = 1_000_000.0
MODEL = model_digest(b"model")
PINNED = founders_fingerprint((Founder("founder", LEAD.public),), 1)
TRAIN, TRAIN_TOO, DESCRIBE = 3, 4, 1  # rounds of the run below; in TRAIN the upload of d is lost
SITES = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@dataclass
class Hospitals:
    """Four sites with the protocol of real guards, their manifests and ledgers; a coordinator that keeps all in a run's folder."""

    folder: Path
    roster: Roster
    plan: Plan

    def __post_init__(self) -> None:
        (self.folder / "records").mkdir(parents=True)
        (self.folder / "plan.signed").write_bytes(sign_plan(self.plan, LEAD).encode())
        (self.folder / "roster.signed").write_bytes(sign_roster(self.roster, "founder", LEAD).encode())
        self.start()

    def start(self, number: int = 1) -> None:
        """All sites as after a restart without their ledgers, in a new epoch."""
        roster, plan = self.roster, self.plan
        identities = {site: roster.member(site).identity_key for site in plan.sites}
        limits = (roster.colluders, roster.minimum_cohort, plan.schedule.max_round, plan.ring_bits)
        self.context = Context(roster.digest, plan.digest, identities, *limits)
        keys = {site: SigningKey.from_seed(site.encode() * 32) for site in plan.sites}
        self.sessions = {
            site: SiteSession(self.context, site, keys[site], 0, Tape(100 * number + at)) for at, site in enumerate(plan.sites)
        }
        self.manifests = {site: EgressManifest(self.folder / f"egress-{site}") for site in plan.sites}
        self.ledgers = {site: new_ledger(self.folder / f"{site}-{number}.jsonl", keys[site], site) for site in plan.sites}
        for site in plan.sites:
            (self.folder / f"egress-{site}").mkdir(exist_ok=True)
        self.epoch = self._agree(number)

    def _agree(self, number: int) -> Epoch:
        keys = start_epoch(self.context, number, self.plan.sites)
        for site, request in keys.requests().items():
            keys = keys.receive(site, self.left(site, 0, "keys", self.sessions[site].keys(request, NOW)))
        kem = keys.close()
        for site, request in kem.requests().items():
            kem = kem.receive(site, self.left(site, 0, "kem", self.sessions[site].kem(request, NOW)))
        return kem.close()

    def left(self, site: str, number: int, kind: str, answer: bytes, y: bytes | memoryview = b"") -> bytes:
        """Write the site's manifest, and into its ledger how far it goes, as its guard does."""

        def link(tip: Tip) -> None:
            entry = Egress(self.plan.run_id, self.plan.digest, number, kind, tip.lines, tip.head)
            self.ledgers[site].append("egress", entry, CHARGED)

        control = encode_answer(answer)
        parts = [Part("protocol message", f"{len(control)} bytes", len(control), hashlib.sha256(control).hexdigest(), False)]
        if len(y):
            parts.append(Part("masked header and body", "as planned", len(y), hashlib.sha256(y).hexdigest(), True))
        how = {"plan": self.plan.digest, "round_number": number, "kind": kind, "time": "2026-11-25T10:00:00Z"}
        self.manifests[site].record(self.plan.run_id, parts=tuple(parts), link=link if number else None, **how)  # type: ignore[arg-type]
        return answer

    def open(self, number: int, purpose: str, *, lost: Iterable[str] = (), destroyed: tuple[str, str] | None = None) -> Path:
        """One round; every value that site i sends is 2^i. `destroyed`: dealer and receiver of a share that is not carried."""
        header = 1 + sum(field.length for field in header_fields(self.plan, number, purpose))
        body = body_length(self.plan, purpose)
        kept = self.folder / "vectors" / f"round-{number:010d}"
        kept.mkdir(parents=True)
        phase = self.epoch.open_round(number, purpose, MODEL, header_length=header, body_length=body)
        for site, request in phase.requests().items():
            control, y = self.answer(site, request, header, body)
            if site not in lost:
                (kept / f"{site}.y").write_bytes(y)
                phase = phase.receive(site, self.carried(control, destroyed), y)
        votes = phase.close()
        for site, request in votes.requests().items():
            votes = votes.receive(site, self.left(site, number, "vote", self.sessions[site].vote(request, NOW)))
        path = record_in(self.folder, number)
        path.write_bytes(votes.close().record)
        return path

    def answer(self, site: str, request: bytes, header: int, body: int) -> tuple[bytes, memoryview]:
        session, value = self.sessions[site], 2 ** self.plan.sites.index(site)
        asked = session.begin_update(request, MODEL, NOW)
        assert isinstance(asked, Asked)
        self.ledgers[site].spend(details(asked.round_number, plan_digest=self.plan.digest), (CHARGE,), CHARGED)
        taken = session.take(asked)
        words = encode_header(np.full(header - 1, float(value)), len(taken.sites))
        control, y = session.finish_update(taken, words, np.full(body, value, body_type(self.plan.ring_bits)))
        self.left(site, asked.round_number, f"update ({asked.purpose})", control, y)
        return control, y

    def carried(self, control: bytes, destroyed: tuple[str, str] | None) -> bytes:
        upload = Upload.decode(control)
        if destroyed is None or upload.site != destroyed[0]:
            return control
        place = self.epoch.roll.others(upload.site).index(destroyed[1])
        shares = [flipped(share) if at == place else share for at, share in enumerate(upload.sealed_shares)]
        return replace(upload, sealed_shares=tuple(shares)).encode()


def new_ledger(path: Path, key: SigningKey, site: str) -> Ledger:
    return Ledger.create(path, key, consortium="ms-north", site=site, population=site, split_id=SPLIT, now=CHARGED)


def flipped(data: bytes, at: int = 0, mask: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def record_in(folder: Path, number: int = TRAIN) -> Path:
    return folder / "records" / f"round-{number:010d}.record"


def vector_in(folder: Path, site: str, number: int = TRAIN) -> Path:
    return folder / "vectors" / f"round-{number:010d}" / f"{site}.y"


Found = Callable[..., Hospitals]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, roster: Roster, make_plan: Callable[..., Plan]) -> Found:
    """A consortium of four under a real signed roster and plan; keywords change the plan."""

    def build(roster: Roster = roster, **changes: object) -> Hospitals:
        plan = make_plan(**{"roster_digest": roster.digest, **changes})
        return Hospitals(tmp_path_factory.mktemp("consortium") / "run", roster, plan)

    return build


@pytest.fixture(scope="module")
def whole(found: Found) -> Path:
    """The folder of a run of three rounds; not to be written to."""
    hospitals = found()
    hospitals.open(DESCRIBE, "describe")
    hospitals.open(TRAIN, "train", lost="d")
    hospitals.open(TRAIN_TOO, "train")
    return hospitals.folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be altered."""
    return shutil.copytree(whole, tmp_path / "run")


Audit = Callable[..., tuple[int, str]]


@pytest.fixture
def audit(capsys: pytest.CaptureFixture[str]) -> Audit:
    """`audit(folder, *arguments)`: exit status and all that was printed; records default to the one of TRAIN."""

    def run(folder: Path, *arguments: object, records: Iterable[Path] = (), founders: str = PINNED) -> tuple[int, str]:
        chosen = [str(path) for path in records] or [str(record_in(folder))]
        documents = ["--roster", str(folder / "roster.signed"), "--plan", str(folder / "plan.signed"), "--founders", founders]
        status = main(["round", *chosen, *documents, *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


def with_vectors(folder: Path) -> tuple[object, ...]:
    return ("--vectors", folder / "vectors")


def with_manifest(folder: Path, site: str) -> tuple[object, ...]:
    return ("--egress", folder / f"egress-{site}" / "run-1.jsonl", "--site", site)


def with_ledger(folder: Path, site: str, name: str = "") -> tuple[object, ...]:
    return (*with_manifest(folder, site), "--ledger", folder / (name or f"{site}-1.jsonl"))


def problems(audit: Audit, folder: Path, *arguments: object, **how: Any) -> list[tuple[str, list[str]]]:
    """Check and sites of every problem found, wherever in the report; exit status 1 if and only if there is one."""
    status, printed = audit(folder, *arguments, "--json", **how)
    report = json.loads(printed)
    found = [*report["problems"], *(problem for one in report["rounds"] for problem in one["problems"])]
    assert (status, report["ok"]) == ((1, False) if found else (0, True))
    return [(problem["check"], problem["sites"]) for problem in found]


# What is in order is verified, and what was not proven is said.


def test_a_round_is_verified_and_without_its_vectors_the_sum_is_said_to_be_unproven(whole: Path, audit: Audit) -> None:
    status, printed = audit(whole)
    assert status == 0
    assert "VERIFIED except for its sum" in printed
    assert NOT_RECOMPUTED in printed
    assert "round 3 to train: 3 of 4 sites of its epoch are in the sum" in printed
    # t = (4+1)//2 + 1 = 3; three in the sum less one colluder, and t less one
    assert "threshold 3 of 4. While at most 1 collude, at least 2 of the 3 sites in this sum are honest" in printed
    assert "recomputed bit for bit" not in printed


@pytest.mark.parametrize("number", [DESCRIBE, TRAIN, TRAIN_TOO])
def test_with_the_vectors_the_sum_is_recomputed_bit_for_bit(whole: Path, audit: Audit, number: int) -> None:
    status, printed = audit(whole, *with_vectors(whole), records=[record_in(whole, number)])
    assert status == 0
    assert f"VERIFIED {record_in(whole, number)}" in printed
    assert "recomputed bit for bit" in printed
    assert NOT_RECOMPUTED not in printed


def test_a_run_in_the_small_ring_is_recomputed_too(found: Found, audit: Audit) -> None:
    hospitals = found(ring_bits=16)
    hospitals.open(TRAIN, "train", lost="b")
    status, printed = audit(hospitals.folder, *with_vectors(hospitals.folder), *with_manifest(hospitals.folder, "a"))
    assert status == 0, printed
    assert "recomputed bit for bit" in printed
    assert vector_in(hospitals.folder, "a").stat().st_size == 8 + 5 * 2


def test_all_rounds_of_a_run_are_verified_in_one_command(whole: Path, audit: Audit) -> None:
    records = [record_in(whole, number) for number in (DESCRIBE, TRAIN, TRAIN_TOO)]
    for site in SITES:
        assert problems(audit, whole, *with_vectors(whole), *with_ledger(whole, site), records=records) == []


def test_the_json_report_has_every_field(whole: Path, audit: Audit) -> None:
    status, printed = audit(whole, *with_vectors(whole), *with_ledger(whole, "d"), "--json")
    report = json.loads(printed)
    (one,) = report["rounds"]
    assert status == 0
    assert set(report) == {"consortium", "egress", "ok", "plan", "private", "problems", "roster", "roster_version", "rounds", "run"}
    assert report["egress"] == {
        "entries": 6,  # an update and a vote in each of three rounds, after two lines of keys
        "lines": 8,
        "linked": 8,
        "links_checked": True,
        "remarks": [],
        "sentence": "the ledger vouches for 8 of 8 lines, by 6 entries",
        "site": "d",
    }
    assert (report["consortium"], report["run"], report["roster_version"], report["private"]) == ("ms-north", "run-1", 1, True)
    vectors = {site: hashlib.sha256(vector_in(whole, site).read_bytes()).hexdigest() for site in "abc"}
    # the sum: word 0 counts a, b, c; each of the five body values is 2^0 + 2^1 + 2^2 steps
    summed = (3).to_bytes(8, "little") + 5 * (7).to_bytes(4, "little")
    assert one == {
        "absent": [],
        "colluders": 1,
        "findings": [],
        "honest_in_any_sum": 2,
        "honest_in_this_sum": 2,
        "left_out": ["d"],
        "model_hash": MODEL.hex(),
        "ok": True,
        "path": str(record_in(whole)),
        "problems": [],
        "purpose": "train",
        "remarks": ["an upload left d in round 3 and is not in the sum: late, lost, or left out by the coordinator"],
        "round": 3,
        "sites": ["a", "b", "c", "d"],
        "sum_recomputed": True,
        "sum_sha256": hashlib.sha256(summed).hexdigest(),
        "survivors": ["a", "b", "c"],
        "threshold": 3,
        "vectors": vectors,
        "voters": ["a", "b", "c", "d"],
    }


def test_a_plan_without_noise_is_shouted(found: Found, audit: Audit) -> None:
    hospitals = found(mode="none")
    hospitals.open(TRAIN, "train")
    status, printed = audit(hospitals.folder)
    assert status == 0
    assert NOT_PRIVATE in printed
    assert json.loads(audit(hospitals.folder, "--json")[1])["private"] is False


def test_a_destroyed_share_is_a_finding_in_words_and_the_dealers_manifest_says_who_did_it(found: Found, audit: Audit) -> None:
    hospitals = found()
    hospitals.open(TRAIN, "train", destroyed=("a", "b"))
    status, printed = audit(hospitals.folder, *with_vectors(hospitals.folder))
    assert status == 0
    assert "finding b gave no share of a's masks: one of the two deviated, or the coordinator that carried the share" in printed
    (one,) = json.loads(audit(hospitals.folder, "--json")[1])["rounds"]
    assert [(finding["what"], finding["sites"]) for finding in one["findings"]] == [("deal", ["a", "b"])]
    status, printed = audit(hospitals.folder, *with_manifest(hospitals.folder, "a"))
    assert status == 1
    assert "the vector of a in round 3 is the one it lists, the message beside it is not: altered after it left" in printed


@pytest.mark.parametrize("what", ["box", "ballot", "deal", "share"])
def test_every_kind_of_finding_has_words_that_name_its_sites(what: str) -> None:
    sites = ("kaunas",) if what == "ballot" else ("kaunas", "oslo")
    words = Finding(what, sites).sentence
    assert all(site in words for site in sites)
    assert "deviated" in words


# Each alteration is caught and named.


def sealed_shares_in(record: bytes) -> set[int]:
    """Places of the dealt shares: sealed for their receivers, signed by nobody, and of no use to an opening."""
    controls = unpack(unpack(record)[3])
    shares = [share for control in controls for share in Upload.decode(control).sealed_shares]
    starts = [record.index(share) for share in shares]
    return {at for start, share in zip(starts, shares, strict=True) for at in range(start, start + len(share))}


@pytest.mark.parametrize("vectors", [False, True])
def test_any_flipped_byte_of_a_record_is_caught(folder: Path, audit: Audit, vectors: bool) -> None:
    """Where the coordinator's word for the sum is all there is, its digest is what it says; with the vectors it is proven."""
    path = record_in(folder)
    record = path.read_bytes()
    unproven = sealed_shares_in(record) | (set() if vectors else set(range(len(record) - 32, len(record))))
    sampled = [
        at for at in (*range(60), *range(60, len(record), 331), *range(len(record) - 40, len(record), 3)) if at not in unproven
    ]
    missed = []
    for at in sampled:
        path.write_bytes(flipped(record, at, 1 << at % 8))
        status, printed = audit(folder, *(with_vectors(folder) if vectors else ()))
        if status not in (1, 2) or "VERIFIED" in printed:
            missed.append(at)
    assert missed == []


def test_the_sum_that_a_record_claims_is_proven_by_the_vectors_alone(folder: Path, audit: Audit) -> None:
    path = record_in(folder)
    path.write_bytes(flipped(path.read_bytes(), -1 % len(path.read_bytes())))
    assert problems(audit, folder) == []
    assert problems(audit, folder, *with_vectors(folder)) == [("sum", [])]


def test_a_share_altered_in_the_record_is_caught_by_its_dealers_manifest(folder: Path, audit: Audit) -> None:
    path = record_in(folder)
    record = path.read_bytes()
    path.write_bytes(flipped(record, min(sealed_shares_in(record))))
    assert problems(audit, folder, *with_vectors(folder), *with_manifest(folder, "b")) == []
    assert problems(audit, folder, *with_vectors(folder), *with_manifest(folder, "a")) == [("egress", ["a"])]


def edited(path: Path, place: int, edit: Callable[[tuple[bytes, ...]], Iterable[bytes]]) -> None:
    """Change the items of one field of a record: 2 terms, 3 uploads, 4 ballots."""
    fields = list(unpack(path.read_bytes()))
    fields[place] = pack(*edit(unpack(fields[place])))
    path.write_bytes(pack(*fields))


def test_ballots_dropped_below_the_threshold_open_nothing(folder: Path, audit: Audit) -> None:
    edited(record_in(folder), 4, lambda ballots: ballots[:3])
    (one,) = json.loads(audit(folder, *with_vectors(folder), "--json")[1])["rounds"]
    assert (one["ok"], one["voters"]) == (True, ["a", "b", "c"])
    edited(record_in(folder), 4, lambda ballots: ballots[:2])
    assert problems(audit, folder, *with_vectors(folder)) == [("messages", ["c", "d"])]
    assert "NOT_OPENABLE: 2 ballots, threshold is 3" in audit(folder)[1]


def test_an_upload_taken_out_of_a_record_is_caught(folder: Path, audit: Audit) -> None:
    edited(record_in(folder, TRAIN_TOO), 3, lambda uploads: uploads[1:])
    assert problems(audit, folder, records=[record_in(folder, TRAIN_TOO)]) == [("messages", ["a"])]


@pytest.mark.parametrize(("place", "value"), [(3, 2**60), (3, 2), (4, 2**62), (4, 0), (0, 31), (0, 0)])
def test_terms_that_the_plan_does_not_have_are_refused_before_they_cost_memory(
    folder: Path, audit: Audit, place: int, value: int
) -> None:
    path = record_in(folder).rename(folder / "renamed.record")
    edited(path, 2, lambda terms: (*terms[:place], integer(value), *terms[place + 1 :]))
    assert problems(audit, folder, *with_vectors(folder), records=[path]) == [("terms", [])]


def test_a_record_under_another_rounds_name_is_caught(folder: Path, audit: Audit) -> None:
    shutil.copy(record_in(folder, TRAIN_TOO), record_in(folder, TRAIN))
    assert problems(audit, folder) == [("name", [])]
    assert "the file is named for round 3, the record is about round 4" in audit(folder)[1]


def test_a_record_of_another_run_and_another_plan_are_caught(found: Found, folder: Path, audit: Audit) -> None:
    other = found(run_id="run-2")
    assert problems(audit, other.folder, records=[record_in(folder)]) == [("messages", ["a"])]
    assert "EPOCH: keys of a are for another roster, plan or epoch" in audit(other.folder, records=[record_in(folder)])[1]
    shutil.copy(other.folder / "plan.signed", folder)
    assert problems(audit, folder, *with_vectors(folder)) == [("messages", ["a"])]


def test_an_altered_plan_or_one_of_a_stranger_is_caught(folder: Path, audit: Audit) -> None:
    signed = (folder / "plan.signed").read_bytes()
    for altered in (
        signed.replace(b'"max_round":30', b'"max_round":90'),
        signed.replace(b'"max_round":30', b'"max_round":3 '),
        flipped(signed, len(signed) - 1),
    ):
        assert altered != signed
        (folder / "plan.signed").write_bytes(altered)
        assert problems(audit, folder) == [("plan", [])]
    stranger = SigningKey.from_seed(b"x" * 32)
    (folder / "plan.signed").write_bytes(sign_plan(Signed.decode(signed, "plan").document(Plan), stranger).encode())
    assert problems(audit, folder) == [("plan", [])]


def test_another_roster_and_other_founders_are_caught(folder: Path, audit: Audit, roster: Roster) -> None:
    later = replace(roster, version=2, colluders=0)  # genuine, and makes an epoch's threshold smaller
    (folder / "roster.signed").write_bytes(sign_roster(later, "founder", LEAD).encode())
    assert problems(audit, folder) == [("plan", [])]
    assert "made for another roster" in audit(folder)[1]
    (folder / "roster.signed").write_bytes(sign_roster(roster, "founder", SigningKey.from_seed(b"x" * 32)).encode())
    assert problems(audit, folder) == [("roster", [])]
    usurper = SigningKey.from_seed(b"u" * 32)
    forged = replace(roster, founders=(Founder("founder", usurper.public),))
    (folder / "roster.signed").write_bytes(sign_roster(forged, "founder", usurper).encode())
    assert problems(audit, folder) == [("roster", [])]


def test_another_fingerprint_than_the_one_told_stops_everything(whole: Path, audit: Audit) -> None:
    status, printed = audit(whole, founders=PINNED[:-1] + ("0" if PINNED[-1] != "0" else "1"))
    assert status == 1
    assert "no record was looked at" in printed
    assert "telephone them" in printed
    assert "VERIFIED" not in printed


def test_a_swapped_vector_is_caught(folder: Path, audit: Audit) -> None:
    one, other = vector_in(folder, "a"), vector_in(folder, "b")
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    assert problems(audit, folder, *with_vectors(folder)) == [("vectors", ["a"])]


def test_a_vector_of_another_round_is_caught(folder: Path, audit: Audit) -> None:
    assert vector_in(folder, "b").stat().st_size == vector_in(folder, "b", TRAIN_TOO).stat().st_size
    shutil.copy(vector_in(folder, "b", TRAIN_TOO), vector_in(folder, "b"))
    status, printed = audit(folder, *with_vectors(folder))
    assert status == 1
    assert "b.y: altered, or of another site or round; not 28 bytes with the SHA-256 that the site signed in round 3" in printed
    assert "it could not be recomputed from these vectors" in printed


@pytest.mark.parametrize("content", [b"", b"short", bytes(28), bytes(2**16)])
def test_a_vector_of_any_other_content_is_caught(folder: Path, audit: Audit, content: bytes) -> None:
    vector_in(folder, "c").write_bytes(content)
    assert problems(audit, folder, *with_vectors(folder)) == [("vectors", ["c"])]


def test_every_missing_vector_is_named(folder: Path, audit: Audit) -> None:
    vector_in(folder, "a").unlink()
    vector_in(folder, "c").unlink()
    assert problems(audit, folder, *with_vectors(folder)) == [("vectors", ["a"]), ("vectors", ["c"])]
    assert f"{vector_in(folder, 'c')} is missing" in audit(folder, *with_vectors(folder))[1]


def test_a_vector_is_mapped_when_it_is_looked_up_and_not_before(tmp_path: Path) -> None:
    vectors = Vectors(tmp_path, SITES)
    assert (list(vectors), len(vectors)) == (list(SITES), 4)
    (tmp_path / "a.y").write_bytes(b"later")
    assert vectors["a"] == b"later"
    with pytest.raises(FileNotFoundError):
        vectors["b"]


def test_a_round_that_was_opened_as_two_sums_is_caught(found: Found, audit: Audit) -> None:
    """Sites that vote twice, as resumed snapshots of their memory would: each record alone is in order."""
    hospitals = found()
    first = hospitals.open(TRAIN, "train", lost="d")
    apart = first.rename(hospitals.folder / first.name)
    vectors = (hospitals.folder / "vectors").rename(hospitals.folder / "vectors-apart")
    hospitals.start(2)
    second = hospitals.open(TRAIN, "train", lost="a")
    assert problems(audit, hospitals.folder, "--vectors", vectors, records=[apart]) == []
    assert problems(audit, hospitals.folder, *with_vectors(hospitals.folder), records=[second]) == []
    assert problems(audit, hospitals.folder, records=[apart, apart]) == []
    assert problems(audit, hospitals.folder, records=[apart, second]) == [("rounds", list(SITES))]
    assert "round 3 was opened as two sums" in audit(hospitals.folder, records=[apart, second])[1]


def test_two_records_of_one_view_with_other_sums_accuse_nobody_of_voting_twice(found: Found, audit: Audit) -> None:
    """Nobody signs the digest of a sum: whoever wrote one of the two records wrote a false one."""
    hospitals = found()
    record = hospitals.open(TRAIN, "train")
    (hospitals.folder / "copy").mkdir()
    copy = hospitals.folder / "copy" / record.name
    copy.write_bytes(record.read_bytes()[:-1] + bytes([record.read_bytes()[-1] ^ 1]))
    assert problems(audit, hospitals.folder, records=[record, copy]) == [("sum", [])]
    assert "one is false, give --vectors to see which" in audit(hospitals.folder, records=[record, copy])[1]


# A site's own manifest.


def rewritten(folder: Path, site: str, edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """By a site that makes every line follow from those before it again: without its ledger nothing shows."""
    path = folder / f"egress-{site}" / "run-1.jsonl"
    path.write_bytes(chained(edit([json.loads(line) for line in path.read_bytes().splitlines()])))


def chained(lines: Iterable[dict[str, Any]]) -> bytes:
    data, tip = b"", Tip()
    for line in lines:
        written = json.dumps(line | {"previous": tip.head.hex()}, sort_keys=True).encode("ascii")
        data, tip = data + written + b"\n", tip.after(written)
    return data


def is_upload(line: Mapping[str, Any], number: int = TRAIN) -> bool:
    return bool(line["round"] == number and line["kind"] == "update (train)")


def test_a_manifest_that_lists_another_vector_is_a_disagreement_that_names_both(folder: Path, audit: Audit) -> None:
    def other(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for line in filter(is_upload, lines):
            line["parts"][1] |= {"sha256": "ab" * 32, "bytes": 29}
        return lines

    signed = hashlib.sha256(vector_in(folder, "a").read_bytes()).hexdigest()
    rewritten(folder, "a", other)
    assert problems(audit, folder, *with_manifest(folder, "a")) == [("egress", ["a"])]
    printed = audit(folder, *with_manifest(folder, "a"))[1]
    assert f"the record says a uploaded 28 bytes with SHA-256 {signed} in round 3; " in printed
    assert f"a says 29 bytes with SHA-256 {'ab' * 32} left it" in printed


def test_a_survivor_that_lists_no_upload_is_a_disagreement(folder: Path, audit: Audit) -> None:
    rewritten(folder, "a", lambda lines: [line for line in lines if not is_upload(line)])
    status, printed = audit(folder, *with_manifest(folder, "a"))
    assert status == 1
    assert "the record counts a in the sum of round 3, and a lists no upload in it" in printed


def test_two_uploads_or_votes_in_one_round_are_a_disagreement(folder: Path, audit: Audit) -> None:
    def doubled(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        again = json.loads(json.dumps([line for line in lines if line["round"] == TRAIN]))
        for line in again:
            line["parts"][0]["sha256"] = "cd" * 32
        return [*lines, *again]

    rewritten(folder, "b", doubled)
    printed = audit(folder, *with_manifest(folder, "b"))[1]
    assert "b lists 2 different uploads in round 3, one is allowed" in printed
    assert "b lists 2 different votes in round 3, one is allowed" in printed
    assert problems(audit, folder, *with_manifest(folder, "b")) == [("egress", ["b"]), ("egress", ["b"])]


def test_a_vote_that_the_site_did_not_list_is_a_disagreement(folder: Path, audit: Audit) -> None:
    def without(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [line for line in lines if (line["round"], line["kind"]) != (TRAIN, "vote")]

    rewritten(folder, "c", without)
    status, printed = audit(folder, *with_manifest(folder, "c"))
    assert status == 1
    assert "the record holds a vote of c in round 3" in printed
    assert "c lists no vote" in printed


def test_anything_else_that_left_in_the_round_is_a_disagreement(folder: Path, audit: Audit) -> None:
    def more(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        (upload,) = filter(is_upload, lines)
        table = {"what": "table", "shape": "", "bytes": 9, "sha256": "ef" * 32, "masked": False}
        return [*lines, upload | {"parts": [*upload["parts"], table]}, upload | {"kind": "update (evaluate)"}]

    rewritten(folder, "b", more)
    status, printed = audit(folder, *with_manifest(folder, "b"))
    assert status == 1
    assert "b lists 2 more answers in round 3, which are no upload and no vote of it" in printed


def test_a_vote_that_the_record_leaves_out_and_a_line_cut_short_are_remarks(folder: Path, audit: Audit) -> None:
    edited(record_in(folder), 4, lambda ballots: ballots[:3])
    manifest = folder / "egress-d" / "run-1.jsonl"
    manifest.write_bytes(manifest.read_bytes() + b'{"round": 5, "pl')
    status, printed = audit(folder, *with_manifest(folder, "d"))
    assert status == 0
    assert "remark an upload left d in round 3 and is not in the sum" in printed
    assert "remark a vote left d in round 3 and is not in the record" in printed
    assert "remark lines of the manifest that a kill or a full disk cut short: 1" in printed


def test_the_manifest_of_another_run_lists_nothing_of_this_one(found: Found, folder: Path, audit: Audit) -> None:
    other = found(run_id="run-2")
    other.open(TRAIN, "train")
    elsewhere = other.folder / "egress-a" / "run-2.jsonl"
    status, printed = audit(folder, "--egress", elsewhere, "--site", "a")
    assert status == 1
    assert "the record counts a in the sum of round 3, and a lists no upload in it" in printed
    first = [json.loads(line) for line in elsewhere.read_bytes().splitlines()]
    rewritten(folder, "a", lambda lines: [*first, *lines])  # as where a run's id was used for a second plan
    assert problems(audit, folder, *with_manifest(folder, "a")) == []


def test_a_repeated_answer_is_one_answer(folder: Path, audit: Audit) -> None:
    rewritten(folder, "a", lambda lines: [*lines, *lines])
    assert problems(audit, folder, *with_manifest(folder, "a")) == []


# A manifest beside the ledger that vouches for it. Of each site: two lines of keys, then an update and a vote a round.

UPDATE_LINE = 5  # of the manifest: the update of TRAIN


def links(audit: Audit, folder: Path, *arguments: object) -> list[tuple[str, int | None]]:
    """Check and line of what is wrong with the manifest as a whole."""
    report = json.loads(audit(folder, *arguments, "--json")[1])
    return [(problem["check"], problem["line"]) for problem in report["problems"]]


def later(line: dict[str, Any], number: int = TRAIN) -> dict[str, Any]:
    """The same answer at another time: nothing that a record could contradict."""
    return line | {"time": "2026-11-25T23:59:59Z"} if is_upload(line, number) else line


def test_a_manifest_is_vouched_for_by_its_sites_ledger(whole: Path, audit: Audit) -> None:
    status, printed = audit(whole, *with_ledger(whole, "a"))
    assert status == 0
    assert "egress manifest of a: the ledger vouches for 8 of 8 lines, by 6 entries" in printed
    assert NOT_LINKED not in printed


def test_without_the_ledger_it_is_said_that_links_were_not_checked(whole: Path, audit: Audit) -> None:
    status, printed = audit(whole, *with_manifest(whole, "a"))
    assert status == 0
    assert f"egress manifest of a: {NOT_LINKED}" in printed
    assert "has no entry" not in printed
    found = json.loads(audit(whole, *with_manifest(whole, "a"), "--json")[1])["egress"]
    assert (found["links_checked"], found["sentence"]) == (False, NOT_LINKED)


def test_a_round_audited_without_a_manifest_speaks_of_none(whole: Path, audit: Audit) -> None:
    assert "manifest" not in audit(whole)[1]
    assert json.loads(audit(whole, "--json")[1])["egress"] is None


def test_a_line_that_was_edited_is_refused_and_named_also_without_the_ledger(folder: Path, audit: Audit) -> None:
    path = folder / "egress-a" / "run-1.jsonl"
    lines = path.read_bytes().splitlines()
    lines[UPDATE_LINE - 1] = lines[UPDATE_LINE - 1].replace(b"10:00:00Z", b"11:00:00Z")
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    assert problems(audit, folder, *with_manifest(folder, "a")) == [("links", ["a"])]
    assert links(audit, folder, *with_manifest(folder, "a")) == [("links", UPDATE_LINE)]
    assert (
        f"PROBLEM links: line {UPDATE_LINE} does not fit: line {UPDATE_LINE + 1} was written after other lines"
        in (audit(folder, *with_manifest(folder, "a"))[1])
    )


def test_an_edit_that_all_later_lines_follow_from_is_found_by_the_ledger_alone(folder: Path, audit: Audit) -> None:
    rewritten(folder, "a", lambda lines: [later(line) for line in lines])
    assert problems(audit, folder, *with_manifest(folder, "a")) == []
    assert NOT_LINKED in audit(folder, *with_manifest(folder, "a"))[1]
    assert problems(audit, folder, *with_ledger(folder, "a")) == [("links", ["a"])]
    assert links(audit, folder, *with_ledger(folder, "a")) == [("links", UPDATE_LINE)]
    assert f"line {UPDATE_LINE} does not fit: ledger entry" in audit(folder, *with_ledger(folder, "a"))[1]


def test_a_manifest_that_was_cut_names_the_first_line_that_is_missing(folder: Path, audit: Audit) -> None:
    path = folder / "egress-a" / "run-1.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert problems(audit, folder, *with_manifest(folder, "a")) == []
    assert links(audit, folder, *with_ledger(folder, "a")) == [("links", 8)]
    assert "line 8 is missing: ledger entry" in audit(folder, *with_ledger(folder, "a"))[1]


def test_the_ledger_of_another_site_vouches_for_nothing(whole: Path, audit: Audit) -> None:
    """Whose key must have signed it stands in the roster."""
    status, printed = audit(whole, *with_ledger(whole, "a", "b-1.jsonl"))
    assert status == 1
    assert "PROBLEM ledger: ledger entry 0: the ledger belongs to key" in printed
    assert f"egress manifest of a: {NOT_RELIED_ON}" in printed
    assert links(audit, whole, *with_ledger(whole, "a", "b-1.jsonl")) == [("ledger", None)]


def test_a_ledger_that_was_altered_vouches_for_nothing_and_its_bad_entry_is_named(folder: Path, audit: Audit) -> None:
    path = folder / "a-1.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"epsilon_after":', b'"epsilon_after":1', 1))
    status, printed = audit(folder, *with_ledger(folder, "a"))
    assert status == 1
    assert "PROBLEM ledger: ledger entry 1:" in printed
    assert json.loads(audit(folder, *with_ledger(folder, "a"), "--json")[1])["egress"]["links_checked"] is False


def test_what_a_record_proves_to_have_left_and_an_older_ledger_does_not_know_is_a_problem(folder: Path, audit: Audit) -> None:
    """The copy ends before TRAIN: taken alone, its manifest's newer lines would look as if they had never left."""
    path = folder / "a-1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    first = next(at for at, line in enumerate(lines) if json.loads(line)["body"].get("round") == TRAIN)
    path.write_bytes(b"".join(lines[:first]))
    assert problems(audit, folder, *with_ledger(folder, "a")) == [("links", ["a"]), ("links", ["a"])]
    printed = audit(folder, *with_ledger(folder, "a"))[1]
    for answer in ("update", "vote"):
        assert f"the record holds the {answer} of a in round 3, and its ledger has no entry that it left" in printed
    assert problems(audit, folder, *with_ledger(folder, "a"), records=[record_in(folder, DESCRIBE)]) == []


def test_a_ledger_that_knows_nothing_of_the_run_is_said_to_vouch_for_nothing(folder: Path, audit: Audit) -> None:
    path = folder / "a-1.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    status, printed = audit(folder, *with_ledger(folder, "a"))
    assert status == 0
    assert "egress manifest of a: not linked: the ledger has no entry about it, nobody vouches for these lines" in printed
    assert "stopped before it left" not in printed


# Wrong usage is no verdict.


@pytest.mark.parametrize("missing", ["plan.signed", "roster.signed", "records/round-0000000003.record", "egress-a/run-1.jsonl"])
def test_a_file_that_cannot_be_read_is_a_usage_error(folder: Path, audit: Audit, missing: str) -> None:
    (folder / missing).unlink()
    status, printed = audit(folder, *with_manifest(folder, "a"))
    assert status == 2
    assert f"cannot read {folder / missing}" in printed


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("plan.signed", "is no signed plan"),
        ("roster.signed", "is no signed roster"),
        ("records/round-0000000003.record", "is no record of an opened round"),
        ("egress-a/run-1.jsonl", "is no line of an egress manifest"),
    ],
)
@pytest.mark.parametrize("content", [b"{}\n", b'{"plan": 3}\n[1]\n', b""])
def test_a_file_of_another_kind_is_a_usage_error(folder: Path, audit: Audit, file: str, words: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    status, printed = audit(folder, *with_manifest(folder, "a"))
    if file.startswith("egress") and not content:
        assert status == 1  # an empty manifest is one: nothing left
    else:
        assert (status, words in printed) == (2, True)


@pytest.mark.parametrize(
    "parts", [None, [{"what": "vote"}], [{"what": 1, "bytes": 1, "sha256": "", "masked": True}], [[]], {"what": ""}]
)
def test_a_manifest_line_of_another_form_is_a_usage_error(folder: Path, audit: Audit, parts: object) -> None:
    rewritten(folder, "a", lambda lines: [*lines, lines[-1] | {"parts": parts}])
    assert audit(folder, *with_manifest(folder, "a"))[0] == 2


def test_a_manifest_that_is_no_text_is_a_usage_error(folder: Path, audit: Audit) -> None:
    (folder / "egress-a" / "run-1.jsonl").write_bytes(b"\x00\xff" * 10 + b"\n" + b"[" * 100_000)
    status, printed = audit(folder, *with_manifest(folder, "a"))
    assert status == 2
    assert "lines that are not JSON: 2" in printed


@pytest.mark.parametrize("document", ["plan.signed", "roster.signed"])
def test_one_document_in_the_place_of_another_is_a_usage_error(folder: Path, audit: Audit, document: str) -> None:
    shutil.copy(record_in(folder), folder / document)
    assert audit(folder)[0] == 2


def test_options_that_do_not_fit_are_usage_errors(whole: Path, audit: Audit) -> None:
    manifest = whole / "egress-a" / "run-1.jsonl"
    for arguments, words in (
        (("--egress", manifest), "--egress and --site go together"),
        (("--site", "a"), "--egress and --site go together"),
        (("--egress", manifest, "--site", "zurich"), "--site zurich: the plan's sites are a, b, c, d"),
        (("--ledger", whole / "a-1.jsonl"), "--ledger belongs to --egress"),
        ((*with_ledger(whole, "a", "plan.signed"),), "plan.signed is no ledger"),
        ((*with_ledger(whole, "a", "none.jsonl"),), f"cannot read {whole / 'none.jsonl'}"),
        (("--vectors", whole / "none"), "no such folder"),
    ):
        status, printed = audit(whole, *arguments)
        assert (status, words in printed) == (2, True), printed
    status, printed = audit(whole, founders="1f0c")
    assert status == 2
    assert "a fingerprint is 8 groups of 4 hex digits" in printed


def test_a_vector_that_may_not_be_read_is_a_usage_error(folder: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> memoryview:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Vectors, "__getitem__", refused)
    status, printed = audit(folder, *with_vectors(folder))
    assert status == 2
    assert "Permission denied" in printed


@pytest.mark.parametrize("missing", ["--roster", "--plan", "--founders"])
def test_no_check_is_made_without_what_it_rests_on(whole: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--roster": str(whole / "roster.signed"), "--plan": str(whole / "plan.signed"), "--founders": PINNED}
    del given[missing]
    with pytest.raises(SystemExit) as caught:
        main(["round", str(record_in(whole)), *(word for pair in given.items() for word in pair)])
    assert caught.value.code == 2
    assert missing in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["round", "--help"])
    assert caught.value.code == 0
    assert "example: wardround-audit round" in capsys.readouterr().out


def test_a_round_is_audited_where_nothing_but_the_auditors_installation_is(whole: Path) -> None:
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from privacy.cli import main
sys.exit(main(sys.argv[1:]))
"""
    documents = ["--roster", whole / "roster.signed", "--plan", whole / "plan.signed", "--founders", PINNED]
    done = subprocess.run(
        [sys.executable, "-c", program, "round", record_in(whole), *documents, *with_vectors(whole)],
        cwd=whole,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "recomputed bit for bit" in done.stdout
