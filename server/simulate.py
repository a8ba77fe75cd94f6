"""The same plan over N simulated hospitals on this machine: the same guard, protocol, privacy and ledger code, no network.

The sites live in worker processes (`python -m client.loopback`), spoken to through pipes; this side never imports theirs.
Their folders are real ones: ledgers, approvals and egress manifests can be read and audited like a hospital's.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from consortium.canonical import integer, pack, parse_integer, parse_text, text, unpack
from consortium.documents import Signed
from consortium.identity import SigningKey
from consortium.roster import HELD_OUT, SMALLEST_COHORT, Founder, Member, Roster, founders_fingerprint, sign_roster
from consortium.wire import Reply, Request
from server.errors import ServerError
from server.folder import write_durably
from server.transport import Patience
from tasks.cohorts import open_cohort
from tasks.mapping import MAPPING_FILE
from tasks.ms.contract import CONTRACT
from tasks.ms.reading import holds_contract_tables
from tasks.registry import find_task

LENGTH_SIZE = 4
START_DEADLINE_S = 120.0
LEAD = "lead-simulated"


class SimulationError(ServerError):
    """The simulated sites could not be made or started."""


@dataclass(frozen=True)
class Prepared:
    """A consortium that exists only below `folder`."""

    folder: Path
    roster: Roster
    signed_roster: Signed
    lead: SigningKey = field(repr=False)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(member.id for member in self.roster.sites)


def prepare(
    folder: Path,
    *,
    task: str,
    data: Path,
    policy: str,
    held_out_fraction: float = HELD_OUT,
    colluders: int | None = None,
    split_salt: bytes | None = None,
) -> Prepared:
    """One simulated site per folder below `data`, enrolled and with `policy` (YAML text) in force.

    `colluders` defaults to a third of the sites. Raises `SimulationError` naming what a site could not do.
    """
    sites = site_folders(data)
    folder.mkdir(parents=True, exist_ok=True)
    made = _client("init", str(folder), *sites, "--task", task, "--data", str(data)).splitlines()
    lead, founder = SigningKey.generate(os.urandom), SigningKey.generate(os.urandom)
    members = [_member(json.loads(line)) for line in made]
    members.append(Member(LEAD, "lead", lead.public, ""))
    roster = Roster(
        consortium="simulated",
        version=1,
        colluders=len(sites) // 3 if colluders is None else colluders,
        minimum_cohort=3,
        founders=(Founder("founder", founder.public),),
        founders_required=1,
        split_salt=split_salt or os.urandom(16),
        held_out_fraction=held_out_fraction,
        members=tuple(sorted(members, key=lambda member: member.id)),
    )
    signed = sign_roster(roster, "founder", founder)
    write_durably(folder / "roster.signed", signed.encode())
    write_durably(folder / "policy.yaml", policy.encode("utf-8"))
    pin = founders_fingerprint(roster.founders, roster.founders_required)
    roster_file, policy_file = str(folder / "roster.signed"), str(folder / "policy.yaml")
    _client("join", str(folder), *sites, "--roster", roster_file, "--founders", pin, "--policy", policy_file)
    return Prepared(folder, roster, signed, lead)


def approve(prepared: Prepared, plan: Path) -> None:
    """Every simulated steward says yes to the signed plan in this file."""
    _client("approve", str(prepared.folder), *prepared.sites, "--plan", str(plan))


def site_folders(data: Path) -> list[str]:
    """Names of the folders below `data` that hold a site's tables; at least three."""
    try:
        sites = sorted(path.name for path in data.iterdir() if _holds_tables(path))
    except OSError as error:
        raise SimulationError(f"cannot read {data}: {error.strerror}") from error
    if len(sites) < SMALLEST_COHORT:
        found = f"{len(sites)} folders with mapping.yaml, or with tables of the data contract, below {data}"
        raise SimulationError(f"{found}, at least {SMALLEST_COHORT} are needed")
    return sites


def _holds_tables(path: Path) -> bool:
    if not path.is_dir():
        return False
    return (path / MAPPING_FILE).is_file() or holds_contract_tables(path, CONTRACT) or _holds_images(path)


def _holds_images(path: Path) -> bool:
    from tasks.imaging.store import IMAGES, holds_images  # here: nibabel is for those who read images

    return holds_images(path) or holds_images(path / IMAGES)


def declared_sizes(data: Path, task: str, held_out_fraction: float) -> dict[str, int]:
    """Training patients of every folder, rounded to tens: what a real site would agree to declare in public."""
    found = find_task(task)
    sizes = {site: open_cohort(found, data / site).size * (1.0 - held_out_fraction) for site in site_folders(data)}
    return {site: max(10, 10 * round(size / 10)) for site, size in sizes.items()}


def _member(request: Mapping[str, str]) -> Member:
    return Member(request["id"], "site", bytes.fromhex(request["identity_key"]), request["transport_key"])


def _client(*arguments: str) -> str:
    command = [sys.executable, "-m", "client.loopback", *arguments]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=START_DEADLINE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise SimulationError(f"simulated sites: {arguments[0]} took longer than {START_DEADLINE_S:.0f} s") from error
    if found.returncode != 0:
        reason = found.stderr.strip().splitlines()[-1] if found.stderr.strip() else f"exit status {found.returncode}"
        raise SimulationError(f"simulated sites: {reason}")
    return found.stdout


class Worker:
    """One process that plays some of the sites. A thread reads its answers; a dead worker simply stops answering."""

    def __init__(self, folder: Path, sites: Sequence[str], answers: "queue.Queue[tuple[int, str, Reply]]") -> None:
        self.sites = tuple(sites)
        self._answers = answers
        command = [sys.executable, "-m", "client.loopback", "serve", str(folder), *sites]
        with (folder / f"worker-{sites[0]}.err").open("wb") as errors:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        self.ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, number: int, site: str, kind: str, request: Request) -> bool:
        data = pack(integer(number), text(site), text(kind), request.control, request.body)
        stream = _stream(self._process.stdin)
        try:
            stream.write(len(data).to_bytes(LENGTH_SIZE, "big") + data)
            stream.flush()
        except OSError:
            return False
        return True

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """As a power cut would: no chance to finish anything."""
        self._process.kill()
        self._process.wait(10)

    def close(self) -> None:
        try:
            _stream(self._process.stdin).close()
            self._process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self.kill()

    def _read(self) -> None:
        stream = _stream(self._process.stdout)
        while len(length := stream.read(LENGTH_SIZE)) == LENGTH_SIZE:
            fields = unpack(stream.read(int.from_bytes(length, "big")))
            if len(fields) == 1:
                self.ready.set()
            else:
                number, site, control, body = fields
                self._answers.put((parse_integer(number), parse_text(site), Reply(control, body)))


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise SimulationError("a worker has no pipe")
    return stream


class PipeTransport:
    """`server.transport.Transport` over workers, one a core."""

    def __init__(self, folder: Path, sites: Sequence[str], *, workers: int | None = None) -> None:
        self._answers: queue.Queue[tuple[int, str, Reply]] = queue.Queue()
        count = min(len(sites), workers or os.cpu_count() or 1)
        self.workers = [Worker(folder, sites[at::count], self._answers) for at in range(count)]
        self._number = 0
        self.failures: dict[str, str] = {}
        deadline = time.monotonic() + START_DEADLINE_S
        for worker in self.workers:
            while not worker.ready.wait(0.2):
                if not worker.alive() or time.monotonic() > deadline:
                    self.close()
                    raise SimulationError(
                        f"the worker of {worker.sites[0]} did not start: see {folder}/worker-{worker.sites[0]}.err"
                    )

    def exchange(self, kind: str, requests: Mapping[str, Request], patience: Patience) -> Iterator[tuple[str, Reply]]:
        self._number += 1
        started = since = time.monotonic()
        self.failures = dict.fromkeys(requests, "LATE")
        waiting = set(requests)
        for worker in self.workers:
            for site in worker.sites:
                if site in requests and not worker.send(self._number, site, kind, requests[site]):
                    self.failures[site] = "UNREACHABLE"
                    waiting.discard(site)
        replies = 0
        while waiting:
            now = time.monotonic()
            left = patience.left(now - started, replies, now - since)
            try:
                number, site, reply = self._answers.get(timeout=max(min(left, 0.5), 0.001))
            except queue.Empty:
                waiting -= self._lost(waiting)
                if left <= 0.0:
                    return
                continue
            if number != self._number or site not in waiting:
                continue  # the late answer of an earlier exchange
            waiting.discard(site)
            self.failures.pop(site, None)
            replies += 1
            if replies == patience.quorum:
                since = time.monotonic()
            yield site, reply

    def _lost(self, waiting: set[str]) -> set[str]:
        """Sites of dead workers: nobody waits for them."""
        lost = {site for worker in self.workers if not worker.alive() for site in worker.sites} & waiting
        self.failures.update(dict.fromkeys(lost, "UNREACHABLE"))
        return lost

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
