"""Several guards in one process, spoken to through a pipe: the same guard, protocol, privacy and ledger code, no network.

`python -m client.loopback serve FOLDER SITE...` serves site folders below FOLDER (each one a `Home`). Frames on standard input and
output: u32 big-endian length, then `pack(number, site, kind, control, body)` in and `pack(number, site, control, body)` out.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from client.canaries import audit_folder
from client.clock import utc
from client.config import SiteConfig, load_config
from client.daemon import InlineTrain, data_source, harden_process, log_to, open_site
from client.enrol import init_site, join_site
from client.errors import SiteError
from client.files import write_atomic
from client.guard import Guard
from client.home import Home
from client.patients import Patients
from client.plans import PlanStore
from client.populations import population_key
from consortium.approval import Approval
from consortium.canonical import pack, parse_text, text, unpack
from consortium.documents import Signed
from consortium.errors import ConsortiumError
from privacy.errors import PrivacyError
from tasks.errors import TaskError

LENGTH_SIZE = 4


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame, None at a clean end."""
    length = stream.read(LENGTH_SIZE)
    if len(length) < LENGTH_SIZE:
        return None
    data = stream.read(int.from_bytes(length, "big"))
    return data if len(data) == int.from_bytes(length, "big") else None


def write_frame(stream: BinaryIO, data: bytes) -> None:
    stream.write(len(data).to_bytes(LENGTH_SIZE, "big") + data)
    stream.flush()


def open_guards(folder: Path, sites: tuple[str, ...]) -> dict[str, Guard]:
    """The guards of the named site folders, data loaded."""
    guards = {}
    for site in sites:
        home = Home(folder / site)
        config = load_config(home)
        audit = audit_folder(home.root)
        key = population_key(home.population_key)
        source = data_source(
            home.load_roster(),
            folder=config.data,
            tasks=config.tasks,
            audit=audit,
            key=key,
            cache=home.prepared,
            device=config.computed_on,
        )
        train = InlineTrain(Patients(source))
        for task in config.tasks:
            train.population(task, 0.0)  # what is wrong with the data is said now, not in a round
        made = open_site(home, site=site, tasks=config.tasks, train=train, now=time.time(), population=train.population)
        guards[site] = Guard(made)
    return guards


def serve(guards: dict[str, Guard], source: BinaryIO, sink: BinaryIO) -> None:
    """Answer frames in order until the input ends."""
    while (frame := read_frame(source)) is not None:
        number, site, kind, control, body = unpack(frame, 5)
        answer, y = guards[parse_text(site)].answer(parse_text(kind), control, body)
        write_frame(sink, pack(number, site, answer, bytes(y)))


def init(folder: Path, sites: list[str], *, task: str, data: Path) -> int:
    """Make the named simulated sites, their data below `data`; prints one join request a line."""
    for site in sites:
        config = SiteConfig(site=site, tasks=(task,), data=(data / site).resolve(), population="simulated", hub="", threads=1)
        print(json.dumps(asdict(init_site(Home(folder / site), config))))
    return 0


def join(folder: Path, sites: list[str], *, roster: Path, founders: str, policy: Path) -> int:
    """Let the named sites follow the roster; `policy` becomes each one's policy file."""
    signed = Signed.decode(roster.read_bytes(), "roster")
    for site in sites:
        home = Home(folder / site)
        join_site(home, signed=signed, trusted_founders=founders, now=time.time())
        write_atomic(home.policy, policy.read_bytes())
    return 0


def approve(folder: Path, sites: list[str], *, plan: Path) -> int:
    """What a steward does at every simulated site: read the plan, say yes."""
    signed = Signed.decode(plan.read_bytes(), "plan")
    for site in sites:
        home = Home(folder / site)
        key = home.load_identity()
        store = PlanStore(home.plans, site, key.public)
        store.add(signed)
        store.decide(Approval(signed.digest, site, "approve", "", "simulated steward", utc()), key)
    return 0


def run_guards(folder: Path, sites: list[str]) -> int:
    harden_process()
    log_to(folder / f"loopback-{sites[0]}.log", console=False)
    import torch

    torch.set_num_threads(1)
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a stray print must not corrupt the frames
    guards = open_guards(folder, tuple(sites))
    write_frame(sink, pack(text("ready")))
    serve(guards, sys.stdin.buffer, sink)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m client.loopback", description="Simulated sites, spoken to through a pipe.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("init", "join", "approve", "serve"):
        part = verbs.add_parser(verb)
        part.add_argument("folder", type=Path)
        part.add_argument("sites", nargs="+")
        if verb == "init":
            part.add_argument("--task", required=True)
            part.add_argument("--data", type=Path, required=True)
        if verb == "approve":
            part.add_argument("--plan", type=Path, required=True)
        if verb == "join":
            part.add_argument("--roster", type=Path, required=True)
            part.add_argument("--founders", required=True)
            part.add_argument("--policy", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        if args.verb == "init":
            return init(args.folder, args.sites, task=args.task, data=args.data)
        if args.verb == "join":
            return join(args.folder, args.sites, roster=args.roster, founders=args.founders, policy=args.policy)
        if args.verb == "approve":
            return approve(args.folder, args.sites, plan=args.plan)
        return run_guards(args.folder, args.sites)
    except (SiteError, ConsortiumError, PrivacyError, TaskError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
