"""Everything that crosses between four sites and their hub, in the clear, searched for what must never cross."""

import hashlib
import itertools
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from books import check_books, uploads
from consortium_of_four import Consortium, Going, demo, wait_until, write_four_hospitals
from guard_tap import GuardTap, Sent
from numpy.typing import NDArray
from wire_tap import WireTap

from client.egress import NO_RUN, EgressManifest
from client.job import Job
from client.trainer import Trainer
from consortium.plan import NOT_PRIVATE, HeaderField, Plan, header_fields
from consortium.wire import Refusal, decode_reply
from privacy.ledger import read_entries as read_ledger
from privacy.manifest import verify_manifest
from secagg.numbers import ring_scale
from server import pooled
from server.checkpoint import load_checkpoint, model_bytes
from server.folder import RunFolder
from tasks.data import load_cohort
from tasks.registry import get_task

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # of busy machines, for all of it: the runs are made once

PATIENT, CELL, MAPPING, FOLDER = b"CANARY-PAT-7Q2Z", b"CANARY-CELL-9XW", b"CANARY-MAP-5TT", b"canary-folder-3kj"
OTHER_NAMES = (b"/sites/hospital-", b"cis_export", b"Fallnummer", b"Traceback", b"mapping.yaml")
OF_CODE = re.compile(rb"\w{3,}\.py:\d")  # three bytes and more: the masked words are half a megabyte of chance
WINDOW = 4  # consecutive bins or words that no coincidence makes


@dataclass
class Captured:
    """A run, and the model that went to the sites in each of its rounds."""

    going: Going
    models: dict[int, bytes] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        return RunFolder(self.going.run_dir).plan()


@dataclass
class Capture:
    consortium: Consortium
    private: Captured
    open: Captured
    tap: WireTap
    guards: dict[str, GuardTap]  # by site
    haystack: bytes
    windows: "Windows"


def write_patients_with_canaries(folder: Path) -> None:
    write_four_hospitals(folder)
    table = folder / "hospital-1" / "cis_export.csv"
    rows = table.read_bytes().split(b"\n")
    rows[3] = b";".join([PATIENT, *rows[3].split(b";")[1:]])
    cells = rows[4].split(b";")
    rows[4] = b";".join([*cells[:4], CELL, *cells[5:]])
    table.write_bytes(b"\n".join(rows))


def through(consortium: Consortium, port: int) -> None:
    """From now on the gateways reach the hub at `port`."""
    for name, site in consortium.sites.items():
        config = site.home / "site.yaml"
        lines = [f'hub: "127.0.0.1:{port}"' if line.startswith("hub:") else line for line in config.read_text().splitlines()]
        config.write_text("\n".join(lines) + "\n")
        consortium.kill(f"{name}-gateway")
    consortium.mend()


def followed(going: Going, kept: Path) -> Captured:
    """To the end, keeping every checkpoint in `kept` while it is there: the run itself keeps two."""
    captured, ended = Captured(going), threading.Event()
    kept.mkdir()

    def keep() -> None:
        while not ended.wait(0.02):
            for path in RunFolder(going.run_dir).checkpoints.glob("round-*.checkpoint"):
                with suppress(FileExistsError, FileNotFoundError):  # kept already, or its time was over
                    (kept / path.name).hardlink_to(path)

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        assert going.status() == 0, going.output[-2000:]
    finally:
        ended.set()
        keeper.join()
    checkpoints = [load_checkpoint(path) for path in kept.iterdir()]
    captured.models = {each.round + 1: model_bytes(each.model) for each in checkpoints}
    captured.models[1] = model_bytes(pooled.initial_model(captured.plan))
    return captured


def spoil_mapping_of_first_hospital(consortium: Consortium, going: Going) -> None:
    """The trainer dies and finds, when it is started again, a mapping whose error message quotes the canary."""
    wait_until(lambda: going.begun(3), "round 3 begun")
    mapping = consortium.sites["hospital-1"].data / "mapping.yaml"
    good = mapping.read_bytes()
    mapping.write_bytes(good.replace(b"\ncolumns:\n", b"\ncolumns:\n  " + MAPPING + b": {from: x}\n"))
    try:
        for process in consortium.family("hospital-1-guard")[1:]:
            with suppress(psutil.NoSuchProcess):  # the helper of one that was killed before it
                process.kill()
        log = consortium.sites["hospital-1"].home / "log" / "guard.log"
        wait_until(lambda: b"refused=TRAINING" in log.read_bytes(), "a failed training")
    finally:
        mapping.write_bytes(good)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Capture]:
    folder = tmp_path_factory.mktemp("capture") / "c"
    data = FOLDER.decode()
    port = demo.free_port()
    with Consortium(folder, data=data, write_patients=write_patients_with_canaries) as consortium:
        tls = consortium.lead_home / "hub" / "tls"
        with WireTap(tls, port, consortium.enrolment.port) as tap, ExitStack() as stack:
            sockets = {name: site.home / "socket" / "guard.sock" for name, site in consortium.sites.items()}
            guards = {name: stack.enter_context(GuardTap(socket)) for name, socket in sockets.items()}
            through(consortium, port)
            going = consortium.begin(consortium.plan("schedule.rounds=8"))
            with ThreadPoolExecutor(1) as pool:
                spoilt = pool.submit(spoil_mapping_of_first_hospital, consortium, going)
                private = followed(going, folder.with_name("private"))
                spoilt.result()
            going = consortium.begin(consortium.plan("schedule.rounds=4", "schedule.evaluate_every=2", privacy="none"))
            consortium.approve(going)
            opened = followed(going, folder.with_name("open"))
            haystack = tap.haystack()
            yield Capture(consortium, private, opened, tap, guards, haystack, Windows(haystack))


def true_results(capture: Capture, captured: Captured) -> Iterator[tuple[str, int, NDArray[np.float64], NDArray[np.float64]]]:
    """(site, round, header, body) as they are before any bound, noise or mask."""
    plan = captured.plan
    no_bound = {"epsilon_exposed": NOT_PRIVATE, "epsilon_model": NOT_PRIVATE}
    no_noise = {"train_noise": 0.0, "describe_noise": 0.0, "evaluate_noise": 0.0}
    bare = replace(plan, privacy=replace(plan.privacy, mode="none", **no_bound, **no_noise))
    task = get_task(plan.task.name)
    roster = RunFolder(captured.going.run_dir).roster()
    for name, site in capture.consortium.sites.items():
        cohort = load_cohort(site.data, task.contract)
        trainer = Trainer(task, cohort, salt=roster.split_salt, held_out_fraction=roster.held_out_fraction, entropy=os.urandom)
        for done in captured.going.done():
            job = Job(bare, name, done.round, done.purpose, captured.models[done.round])
            result = trainer.run(job)
            yield name, done.round, result.header, result.body


def encodings(values: NDArray[np.float64]) -> Iterator[bytes]:
    """The vector as bytes in every number format somebody might have sent it in."""
    for kind in ("<f8", ">f8", "<f4", ">f4"):
        yield values.astype(kind).tobytes()
    whole = np.rint(values)
    for kind in ("<i8", ">i8", "<i4", ">i4", "<i2", ">i2"):
        if np.array_equal(whole, values) and np.abs(whole).max(initial=0) <= np.iinfo(kind).max:
            yield whole.astype(kind).tobytes()
    for kind in ("<i8", ">i8"):
        yield np.rint(values * 2.0**32).astype(kind).tobytes()  # the header's fixed point, unmasked


def telling(pattern: bytes) -> bool:
    """Long and varied enough that its presence means something."""
    return len(pattern) >= 8 and len(set(pattern)) >= 4


def windows(values: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    for at in range(max(1, len(values) - WINDOW + 1)):
        if np.count_nonzero(values[at : at + WINDOW]) >= min(WINDOW - 1, len(values)):
            yield values[at : at + WINDOW]


def search(haystack: bytes, values: NDArray[np.float64]) -> list[bytes]:
    return [pattern for window in windows(values) for pattern in encodings(window) if telling(pattern) and pattern in haystack]


class Windows:
    """Every 4 and every 8 consecutive bytes of a haystack, to look for many numbers at once."""

    def __init__(self, haystack: bytes) -> None:
        self._four, self._eight = (
            np.unique(
                np.concatenate(
                    [np.frombuffer(haystack[at : at + (len(haystack) - at) // size * size], f"<u{size}") for at in range(size)]
                )
            )
            for size in (4, 8)
        )
        self.chance = len(self._four) / 2**32  # that four random bytes are in it

    def doubles(self, values: NDArray[np.float64]) -> list[str]:
        """Coordinates that are there as float64, in either byte order; zeros and other plain patterns are not counted."""
        return self._there(self._eight, [values.astype(kind).tobytes() for kind in ("<f8", ">f8")], 8)

    def pairs(self, values: NDArray[np.float64]) -> list[str]:
        """Neighbouring coordinates that are there as float32, in either byte order."""
        found = [np.lib.stride_tricks.sliding_window_view(values.astype(kind), 2).tobytes() for kind in ("<f4", ">f4")]
        return self._there(self._eight, found, 8)

    def singles(self, values: NDArray[np.float64]) -> list[str]:
        """Coordinates that are there as float32: among megabytes of masks some are, by chance."""
        return self._there(self._four, [values.astype(kind).tobytes() for kind in ("<f4", ">f4")], 4)

    def _there(self, known: NDArray[np.unsignedinteger], patterns: list[bytes], size: int) -> list[str]:
        joined = b"".join(patterns)
        cut = [joined[at : at + size] for at in range(0, len(joined), size)]
        worth = [pattern for pattern in cut if len(set(pattern)) > size // 2 and pattern.count(0) <= size // 4]
        wanted = np.frombuffer(b"".join(worth), f"<u{size}")
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return [pattern.hex() for pattern, hit in zip(worth, known[at] == wanted, strict=True) if hit]


def unmasked_words(body: NDArray[np.float64], weight: float, clip: float, n: int) -> Iterator[bytes]:
    """Ring words of the body as encoded but not masked; the dither leaves two choices a coordinate."""
    steps = np.floor(np.clip(body, -clip, clip) * weight * ring_scale(n) / clip).astype(np.int64)
    for at in range(len(steps) - 1):
        for choice in itertools.product((0, 1), repeat=2):
            yield (steps[at : at + 2] + choice).astype(np.int32).view(np.uint32).astype("<u4").tobytes()


def both(capture: Capture) -> list[Captured]:
    return [capture.private, capture.open]


def test_the_search_finds_what_does_cross(capture: Capture) -> None:
    for captured in both(capture):
        assert captured.plan.run_id.encode("ascii") in capture.haystack
        model = np.frombuffer(captured.models[4], "<f4").astype(np.float64)
        assert search(capture.haystack, model), "the global model goes to the sites in the clear, as it must"
        assert len(capture.windows.pairs(model)) >= WINDOW
        assert len(capture.windows.singles(model)) >= WINDOW
    marked = capture.haystack + b"".join(values.astype(">f4").tobytes() for *_, values in true_results(capture, capture.open))
    found = [search(marked, body) for *_, body in true_results(capture, capture.open) if body.size]
    assert all(found), "an update sent in the clear would be found"


def test_the_manifest_lists_exactly_what_left(capture: Capture) -> None:
    bodies = [body for body in capture.tap.bodies(down=False) if len(body) < 1 << 16]
    for captured in both(capture):
        for name, site in capture.consortium.sites.items():
            lines = uploads(site.home, captured.plan.run_id)
            assert lines
            masked = {str(part["sha256"]): int(part["bytes"]) for line in lines for part in line["parts"] if part["masked"]}
            missing = {digest for digest, size in masked.items() if not _crossed(bodies, digest, size)}
            assert not missing, f"{name}: the manifest lists vectors that never left"


def _crossed(bodies: list[bytes], digest: str, size: int) -> bool:
    wanted = bytes.fromhex(digest)
    return any(
        hashlib.sha256(body[at : at + size]).digest() == wanted for body in bodies for at in range(max(0, len(body) - size + 1))
    )


# -- the manifest is the wire ----------------------------------------------------------------------------------------------

SOCKETS_OWN = {"BUSY", "UNDECODABLE", "UNKNOWN_KIND", "INTERNAL"}  # refusals of the socket itself, before the guard is asked

Listed = tuple[tuple[str, int, bool], ...]  # the parts of one line: digest, bytes, masked


def parts_listed(line: dict[str, object]) -> Listed:
    return tuple((str(part["sha256"]), int(part["bytes"]), bool(part["masked"])) for part in line["parts"])  # type: ignore[attr-defined]


def parts_sent(sent: Sent) -> Listed:
    return tuple(
        (hashlib.sha256(data).hexdigest(), len(data), masked) for data, masked in ((sent.control, False), (sent.body, True)) if data
    )


def is_sockets_own(sent: Sent) -> bool:
    found = decode_reply(sent.control)
    return isinstance(found, Refusal) and not sent.body and not found.sites and found.code in SOCKETS_OWN


def test_the_manifest_is_what_the_guards_socket_sent_each_message_once_to_the_byte(capture: Capture) -> None:
    """At the guard's door, where nothing is encrypted yet: byte counts and digests of every message, none more, none less."""
    for name, tap in capture.guards.items():
        manifest = EgressManifest(capture.consortium.sites[name].home / "egress")
        runs = [captured.plan.run_id for captured in both(capture)]
        assert set(manifest.runs()) - {NO_RUN} == set(runs)
        listed = Counter(parts_listed(line) for run in (*runs, NO_RUN) for line in manifest.read(run))
        assert set(listed.values()) == {1}, f"{name}: a message is listed twice"
        messages = {parts_sent(sent): sent for sent in tap.sent()}  # an answer that is repeated is the same bytes
        assert len(messages) > 2 * sum(len(captured.going.done()) for captured in both(capture)), f"{name}: the tap saw a part"
        assert set(listed) - set(messages) == set(), f"{name}: the manifest lists what the guard never sent"
        unlisted = [sent for parts, sent in messages.items() if parts not in listed]
        assert all(is_sockets_own(sent) for sent in unlisted), f"{name}: the guard sent what is not in its manifest"


def test_what_the_gateway_sent_on_is_what_the_guard_gave_it_and_flowers_envelope(capture: Capture) -> None:
    """On the outer line, TLS opened: every answer crosses whole, and by kind the manifests add up to the bytes of all of them. What
    Flower puts around them is not listed: the gateway has no data, and the tests below search all of it for a patient's."""
    crossed = b"\x00--\x00".join(capture.tap.bodies(down=False))
    answers = [
        sent for tap in capture.guards.values() for sent in tap.sent() if not isinstance(decode_reply(sent.control), Refusal)
    ]
    assert all(sent.control in crossed and sent.body in crossed for sent in answers)
    masked, other = (sum(map(len, {getattr(sent, name) for sent in answers})) for name in ("body", "control"))
    in_manifests = Counter[bool]()
    for site in capture.consortium.sites.values():
        for captured in both(capture):
            lines = EgressManifest(site.home / "egress").read(captured.plan.run_id)
            for line in (line for line in lines if not str(line["kind"]).startswith("refusal")):
                in_manifests.update({part[2]: part[1] for part in parts_listed(line)})
    assert (in_manifests[True], in_manifests[False]) == (masked, other)
    assert len(crossed) >= masked + other


def test_each_sites_ledger_vouches_for_its_manifests(capture: Capture) -> None:
    for name, site in capture.consortium.sites.items():
        entries, _ = read_ledger((site.home / "ledger.jsonl").read_bytes())
        manifest = EgressManifest(site.home / "egress")
        for captured in both(capture):
            run_id = captured.plan.run_id
            found = verify_manifest(run_id, manifest.data(run_id), entries)
            assert found.problems == (), f"{name}: {found.sentence}"
            assert found.entries == sum(str(line["kind"]).split()[0] in ("update", "vote") for line in manifest.read(run_id))
        shown = demo.run(*site.command("egress", "--verify"))
        assert "the ledger vouches for" in shown


def test_no_coordinate_of_an_update_crosses(capture: Capture) -> None:
    searched, found = 0, list[tuple[str, float, str]]()
    for captured in both(capture):
        plan = captured.plan
        for name, number, _, body in true_results(capture, captured):
            if not body.size:
                continue
            weight = plan.weight(name)
            for values in (body, weight * body, -body * plan.participant(name).declared_patients):
                where = f"{name}, round {number}"
                assert search(capture.haystack, values) == [], f"{where}: an update in the clear"
                assert capture.windows.doubles(values) == [], f"{where}: a coordinate in the clear"
                assert capture.windows.pairs(values) == [], f"{where}: two coordinates in the clear"
                searched += 2 * values.size
                found += [(where, float(np.abs(values).max()), pattern) for pattern in capture.windows.singles(values)]
            words = filter(telling, unmasked_words(body, weight, plan.coordinate_clip, len(plan.sites)))
            assert not any(pattern in capture.haystack for pattern in words), f"{where}: not masked"
    assert searched > 1000
    assert len(found) <= 4 + 3 * searched * capture.windows.chance, f"more single float32 than chance explains: {found}"


def test_no_count_and_no_statistic_of_a_site_crosses(capture: Capture) -> None:
    searched, planned = 0, list[HeaderField]()
    for captured in both(capture):
        for name, number, header, _ in true_results(capture, captured):
            searched += header.size
            assert search(capture.haystack, header) == [], f"{name}, round {number}: counts in the clear"
            text = b",".join(str(int(value)).encode("ascii") for value in header)
            assert not header.size or text not in capture.haystack
        for done in captured.going.done():
            planned += header_fields(captured.plan, done.round, done.purpose)
    assert {item.name for item in planned} >= {"statistics", "histogram"}
    assert searched == len(capture.consortium.sites) * sum(item.length for item in planned)


def test_no_metric_crosses(capture: Capture) -> None:
    metrics = [value for captured in both(capture) for done in captured.going.done() for _, value in done.metrics]
    assert metrics
    assert capture.windows.doubles(np.array(metrics)) == []
    assert capture.windows.pairs(np.array(metrics)) == []
    from_sites = capture.tap.haystack(down=False).lower()  # the plan, which names the histogram's bins, goes the other way
    for word in (b'"auc"', b"brier", b"accuracy", b"calibration", b"histogram"):
        assert word not in from_sites, word


def test_no_patient_no_cell_no_name_and_no_path_crosses(capture: Capture) -> None:
    for canary in (PATIENT, CELL, MAPPING, FOLDER, *OTHER_NAMES):
        assert canary not in capture.haystack, canary
    assert not OF_CODE.search(capture.haystack)
    ids = [
        patient.encode()
        for site in capture.consortium.sites.values()
        for patient in load_cohort(site.data, get_task("cis_conversion").contract).patient_ids
    ]
    assert PATIENT in ids
    assert len(ids) > 500
    quoted = [quote + patient + quote for patient in ids for quote in (b"\x00", b'"')]
    assert not any(pattern in capture.haystack for pattern in quoted)


def test_an_exception_that_quotes_data_stays_in_the_hospital(capture: Capture) -> None:
    home = capture.consortium.sites["hospital-1"].home
    assert MAPPING in (home / "log" / "guard.log").read_bytes(), "the error did quote the canary, in the site's own log"
    dropped = {drop.code for done in capture.private.going.done() for drop in done.dropped if drop.site == "hospital-1"}
    assert dropped & {"TRAINING", "LATE"}  # late: the trainer took longer to start again than the others are waited for
    assert MAPPING not in capture.haystack
    assert b"TRAINING" in capture.haystack, "the refusal's code is all that the hub learns"


def test_the_books_are_true_and_every_answer_is_in_the_manifest(capture: Capture) -> None:
    for captured in both(capture):
        check_books(capture.consortium, captured.going)
        for site in capture.consortium.sites.values():
            kinds = {str(line["kind"]).split()[0] for line in EgressManifest(site.home / "egress").read(captured.plan.run_id)}
            assert kinds - {"refusal"} == {"keys", "kem", "update", "vote"}
