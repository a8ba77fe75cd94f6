"""What a hub needs: memory of each of its processes and seconds of a round, by sites and parameters, over Flower with TLS.

    scripts/bench hub
    scripts/bench hub --sites 10 --parameters 5e7 --strategy fedadam
    scripts/bench hub --sites 30 --parameters 1e5 --gateways --rounds 3
    scripts/bench hub --sites 3 --parameters 1e5 --out elsewhere --json figures.json

The hub is the one that is shipped: SuperLink, SuperExec, and a coordinator that drives a signed plan to its end, with its files.
Its sites are cheap, and the table says which: SCRIPTED are threads of one process that speak the SuperNode's own protocol
(Flower's connection code, a connection and a key for each) and answer by the real secure aggregation: nobody trains, no ledger.
GATEWAYS are real gateways (SuperNode and relay, two processes each) in front of the same answers. Training takes no time, so all
sites upload at once: the worst case for a hub.

Peaks are the kernel's high-water marks (VmHWM) over a whole run, so shared libraries count in each process. "Vectors" is what a
process needs beyond the same run with the smallest model, in updates of 4 bytes a parameter. Figures are merged by row into
`scripts/results/hub.json`, and `hub.md` is written anew: one row may be measured again by itself.
"""

import argparse
import contextlib
import datetime
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "tests" / "flower"), str(ROOT / "tests" / "client")]

from bench_machine import machine, machine_line  # noqa: E402
from consortium_on_loopback import Consortium, Site, make_key, wait_until  # noqa: E402
from flwr.app import Message, RecordDict  # noqa: E402
from flwr.supercore.inflatable import inflatable_object, inflatable_utils  # noqa: E402

from consortium.canonical import Bytes  # noqa: E402
from consortium.identity import SigningKey  # noqa: E402
from consortium.plan import Deadlines, ModelRef, ParameterSpec, Participant, Plan, StrategyRef, verify_plan  # noqa: E402
from consortium.roster import Founder, Member, Roster, founders_fingerprint, sign_roster, verify_roster  # noqa: E402
from consortium.wire import decode_keys_request, decode_request, encode_answer  # noqa: E402
from secagg.context import Context  # noqa: E402
from secagg.encoding import Update, encode_header  # noqa: E402
from secagg.model import model_digest  # noqa: E402
from secagg.site import Repeated, SiteSession  # noqa: E402
from server.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from server.flower import from_content, to_content  # noqa: E402
from server.folder import RunFolder, create_folder, open_folder  # noqa: E402
from server.state import read_state  # noqa: E402
from server.strategy import build  # noqa: E402

SITES, PARAMETERS = (3, 5, 10, 20, 30), (10**5, 10**6, 10**7, 5 * 10**7)
A_ROUND_S = 1_800  # the longest that any message may take
START_S = 300.0
LARGE = 1 << 20  # bytes of a body; sites at work on larger ones at the same time are limited, in the fleet's memory
LARGE_AT_ONCE = 6
ADVICE = "see hub/superlink.log"
PROCESSES = ("superlink", "superexec", "coordinator")


# --- the sites ----------------------------------------------------------------------------------------------------------


def key_of(site: str) -> SigningKey:
    return SigningKey.from_seed(site.encode().ljust(32, b"."))


class Answers:
    """One site: the real protocol over an update that is always the same."""

    def __init__(self, folder: Path, site: str, update: Any) -> None:
        run = open_folder(folder / "run")
        roster = verify_roster(run.signed_roster(), founders_fingerprint(run.roster().founders, 1))
        self._plan = verify_plan(run.signed_plan(), roster)
        self._site, self._update = site, update
        self._session = SiteSession(
            Context.of(roster, self._plan, run.signed_plan().digest), site, key_of(site), 0, np.random.default_rng().bytes
        )

    def answer(self, kind: str, control: bytes, body: Bytes) -> tuple[bytes, Bytes]:
        if kind == "sa1_keys":
            return encode_answer(self._session.keys(decode_keys_request(control)[1], time.time())), b""
        asked = decode_request(control)[1]
        if kind == "sa1_kem":
            return encode_answer(self._session.kem(asked, time.time())), b""
        if kind == "sa1_vote":
            return encode_answer(self._session.vote(asked, time.time())), b""
        begun = self._session.begin_update(asked, model_digest(body), time.time())
        if isinstance(begun, Repeated):
            return encode_answer(begun.control), begun.y
        n, plan = len(begun.sites), self._plan
        update = Update(
            self._update, weight=plan.weight(self._site), clip=plan.coordinate_clip, n=n, entropy=np.random.default_rng().bytes
        )
        answer, y = self._session.finish_update(self._session.take(begun), encode_header(np.zeros(0), n), update)
        return encode_answer(answer), y


@dataclass(frozen=True)
class Node:
    """A SuperNode's side of Flower's protocol, without its processes."""

    site: str
    connection: Any  # what flwr's `http_request_response` yields
    places: threading.Semaphore

    def serve_one(self, answer: Callable[[str, bytes, Bytes], tuple[bytes, Bytes]]) -> None:
        _, receive, send, get_run, _, pull_object, push_object, confirm = self.connection
        received = receive()
        if received is None:
            return
        message, tree = received
        run_id = message.metadata.run_id
        get_run(run_id)
        message.metadata.__dict__["_message_id"] = tree.object_id
        names = [part.object_id for part in inflatable_object.iterate_object_tree(tree)]
        with self.places:
            parts = inflatable_utils.pull_objects(
                names, lambda name: pull_object(run_id, name), max_time=A_ROUND_S, max_tries_per_object=None, initial_backoff=0.02
            )
            confirm(run_id, tree.object_id)
            content = inflatable_utils.inflate_object_from_contents(tree.object_id, parts).content
            reply = self._reply(message, content, answer)
            self._push(reply, send, push_object)

    def _reply(self, message: Message, content: RecordDict, answer: Callable[..., tuple[bytes, Bytes]]) -> Message:
        kind = message.metadata.message_type.partition(".")[2]
        return Message(to_content(*answer(kind, *from_content(content))), reply_to=message)

    def _push(self, reply: Message, send: Any, push_object: Any) -> None:
        with inflatable_object.no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            tree, parts = inflatable_object.get_object_tree(reply), inflatable_object.get_all_nested_objects(reply)
        wanted, session = send(reply, tree, 0.1)
        for name, part in parts.items():
            if name in wanted:
                push_object(reply.metadata.run_id, session, name, part.deflate())


def serve_node(folder: Path, address: str, site: str, update: Any, places: threading.Semaphore) -> None:
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.supernode.fleet_http_connection import http_request_response

    private: Any = load_ssh_private_key((folder / site / "supernode.key").read_bytes(), None)
    authority, answers = (folder / "hub" / "tls" / "ca.pem").read_bytes(), Answers(folder, site, update)
    with http_request_response(address, False, authority, (private, private.public_key())) as connection:
        node = Node(site, connection, places)
        while True:
            node.serve_one(answers.answer)


def serve_sites(options: argparse.Namespace) -> None:
    """All sites of a run in this process, as nodes of the hub at `--address` or behind guard sockets. Ends at SIGTERM."""
    from client.guard_rpc import serve_guard

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    folder: Path = options.serve
    plan: Plan = open_folder(folder / "run").plan()
    update = np.random.default_rng(1).standard_normal(plan.n_parameters, dtype=np.float32) * np.float32(0.01)
    places = threading.Semaphore(len(plan.sites) if 4 * plan.n_parameters < LARGE else LARGE_AT_ONCE)
    servers = []
    for site in plan.sites:
        if options.gateways:
            answers = Answers(folder, site, update)
            servers.append(serve_guard(answers.answer, folder / site / "run" / "guard.sock", dict))
        else:
            named = (folder, options.address, site, update, places)
            threading.Thread(target=serve_node, args=named, name=site, daemon=True).start()
    stop.wait()
    for server in servers:
        server.stop(0)


# --- a run --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    sites: int
    parameters: int
    strategy: str
    gateways: bool

    @property
    def name(self) -> str:
        return f"{self.sites:02d} sites, {self.parameters:.0e}, {self.strategy}, {'gateways' if self.gateways else 'scripted'}"


def make_run(folder: Path, nodes: Mapping[str, int], keys: Mapping[str, str], row: Row, rounds: int) -> None:
    """A roster and a signed plan of a model of the asked size, in `folder/run`."""
    import guards_in_process as books

    founder, lead = SigningKey.from_seed(b"f" * 32), SigningKey.from_seed(b"l" * 32)
    members = [Member("lead-a", "lead", lead.public, "")]
    members += [Member(site, "site", key_of(site).public, keys[site]) for site in nodes]
    members.sort(key=lambda member: member.id)
    founders = (Founder("founder", founder.public),)
    rest = (books.SALT, books.HELD_OUT, tuple(members))
    roster = Roster("bench", 1, len(nodes) // 3, 3, founders, 1, *rest)
    signed = sign_roster(roster, "founder", founder)
    made_by = books.Consortium(folder, folder, founder, lead, roster, signed, {})
    schedule = replace(
        made_by.plan().schedule,
        rounds=rounds,
        max_round=rounds + 2,
        max_train=rounds + 2,
        max_evaluate=0,
        evaluate_every=rounds + 2,
    )
    plan = made_by.plan(
        model=ModelRef("logistic", (), (), (ParameterSpec("weights", (row.parameters,)),), 0),
        participants=tuple(Participant(site, node, books.DECLARED) for site, node in sorted(nodes.items())),
        statistics=0,
        schedule=schedule,
        strategy=StrategyRef(row.strategy, ()),
        privacy=books.terms(train_noise=200.0, evaluate_noise=200.0),  # any noise: nothing is trained, nothing is drawn
        deadlines=Deadlines(A_ROUND_S, A_ROUND_S, A_ROUND_S, A_ROUND_S),
    )
    signed_plan = made_by.sign(plan)
    run = create_folder(folder / "run", signed_plan, signed)
    model = np.random.default_rng(3).standard_normal(plan.model_size, dtype=np.float32)
    state = build(row.strategy, {}).init(model.astype(np.float64))
    save_checkpoint(run.checkpoints, Checkpoint(signed_plan.digest, 0, 0, 0, 0, model, state))  # of no task's shape


class Peaks:
    """High-water marks of the hub's processes, looked at until the run is over: a coordinator ends with it."""

    def __init__(self, loopback: Consortium) -> None:
        self.mib: dict[str, float] = {}
        self.objects_mib = 0.0
        self._loopback = loopback

    def look(self) -> None:
        import psutil

        pids = self._loopback.hub.pids
        found = {name: [pids[name]] for name in ("superlink", "superexec")}
        with contextlib.suppress(psutil.NoSuchProcess):
            found["coordinator"] = [child.pid for child in psutil.Process(pids["superexec"]).children(recursive=True)]
        for name, members in found.items():
            for pid in members:
                self.mib[name] = max(self.mib.get(name, 0.0), _high_water_mib(pid))
        files = (self._loopback.folder / "hub" / "objects").glob("*")
        size = 0
        for path in files:
            with contextlib.suppress(FileNotFoundError):
                size += path.stat().st_size
        self.objects_mib = max(self.objects_mib, size / 2**20)


def _high_water_mib(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def sites_of(loopback: Consortium, row: Row) -> Iterator[None]:
    """The sites of `row`, running, until left."""
    folder, words = loopback.folder, ["--gateways"] if row.gateways else []
    command = [sys.executable, __file__, "--serve", str(folder), "--address", loopback.hub.access.address, *words]
    with (folder / "sites.log").open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        for site in loopback.sites.values() if row.gateways else ():
            wait_until(site.socket.exists, f"guard of {site.name}", START_S)
            site.start_gateway()
        loopback.wait_online(START_S)
        yield
    finally:
        process.terminate()
        process.wait()


def measure(row: Row, rounds: int) -> dict[str, Any]:
    """One row. `RuntimeError` with the ends of the logs if its run did not finish."""
    described = machine()
    with tempfile.TemporaryDirectory() as name:
        loopback = Consortium(Path(name))
        try:
            keys = {}
            for number in range(row.sites):
                site = Site(f"site{number:02d}", loopback.folder / f"site{number:02d}", loopback.hub)
                public = make_key(site.folder)[1]
                keys[site.name] = public.read_text().strip()
                site.node_id = loopback.control.register_node(public, name=site.name)
                loopback.sites[site.name] = site
            make_run(loopback.folder, loopback.nodes, keys, row, rounds)
            with sites_of(loopback, row):
                peaks = _drive(loopback)
            figures = _figures(loopback.folder, row)
        finally:
            loopback.stop()
    return {"machine": described, **vars(row), **figures, "peak_mib": peaks.mib, "objects_mib": peaks.objects_mib}


def _drive(loopback: Consortium) -> Peaks:
    peaks = Peaks(loopback)
    run_id = loopback.control.submit_run(loopback.folder / "run", loopback.nodes)
    while not loopback.control.run_status(run_id).state.startswith("finished"):
        peaks.look()
        time.sleep(0.1)
    return peaks


def _figures(folder: Path, row: Row) -> dict[str, Any]:
    state = read_state(folder / "run")
    if state.phase != "finished" or any(done.dropped for done in state.done):
        logs = [RunFolder(folder / "run").events, folder / "sites.log", *sorted((folder / "hub").rglob("*.log"))]
        ends = "\n".join(f"{path}:\n{path.read_text(errors='replace')[-3000:]}" for path in logs if path.exists())
        raise RuntimeError(f"{row.name}: the run ended {state.phase} {state.stopped}, or lost a site\n{ends}")
    later = state.done[1:] or state.done  # the first round is slower: connections, caches
    phases = sorted({name for done in later for name, _ in done.seconds})
    seconds = {name: statistics.median(dict(done.seconds).get(name, 0.0) for done in later) for name in phases}
    return {"rounds": len(state.done), "seconds": seconds, "whole_s": _between(folder, len(state.done)), "sites": row.sites}


def _between(folder: Path, rounds: int) -> float:
    """Seconds of a whole round, from one attempt to the next, files and step included: the median after the first."""
    lines = [json.loads(line) for line in RunFolder(folder / "run").events.read_text().splitlines()]
    marks = [line["at"] for line in lines if line["event"] in ("round-attempt", "run-finished")]
    times = [datetime.datetime.fromisoformat(at).timestamp() for at in marks]
    spans = [after - before for before, after in pairwise(times)]
    return statistics.median(spans[1:] if rounds > 1 else spans)


# --- figures ------------------------------------------------------------------------------------------------------------


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown of all rows."""
    head = "| sites | parameters | strategy | sites are | " + " | ".join(f"{name}, MiB (vectors)" for name in PROCESSES)
    lines = [
        f"{head} | hub, MiB (vectors) | objects on disk, MiB | update, s | vote, s | whole round, s | load before |",
        "|" + " --- |" * 13,
    ]
    for row in sorted(
        figures.values(), key=lambda row: (row["gateways"], row["strategy"] != "fedavg", row["parameters"], row["sites"])
    ):
        base, peaks, seconds = _base(figures, row), row["peak_mib"], row["seconds"]
        named = (row["sites"], f"{row['parameters']:.0e}", row["strategy"], "gateways" if row["gateways"] else "scripted")
        cells = [_cell(peaks, base, (name,), row["parameters"]) for name in PROCESSES]
        cells += [_cell(peaks, base, PROCESSES, row["parameters"]), f"{row['objects_mib']:.0f}"]
        cells += [f"{value:.2f}" for value in (seconds.get("update", 0), seconds.get("vote", 0), row["whole_s"])]
        lines.append("| " + " | ".join(map(str, (*named, *cells, f"{row['machine']['load_before']:.0f}"))) + " |")
    return "\n".join(lines)


def _base(figures: Mapping[str, Mapping[str, Any]], row: Mapping[str, Any]) -> Mapping[str, float] | None:
    """Peaks of the smallest model with as many sites, of any kind: it is the hub's processes that are looked at."""
    same = [other for other in figures.values() if other["sites"] == row["sites"]]
    least = min(same, key=lambda other: other["parameters"])
    return None if least["parameters"] == row["parameters"] else least["peak_mib"]


def _cell(peaks: Mapping[str, float], base: Mapping[str, float] | None, names: Sequence[str], parameters: int) -> str:
    peak = sum(peaks.get(name, 0.0) for name in names)
    if base is None:
        return f"{peak:.0f}"
    more = peak - sum(base.get(name, 0.0) for name in names)
    return f"{peak:.0f} ({max(0.0, more) * 2**20 / (4 * parameters):.1f})"


def write(folder: Path, figures: Mapping[str, Mapping[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    last = list(figures.values())[-1]
    about = (__doc__ or "").split("\n\n")
    text = [
        "# What a hub needs",
        "`scripts/bench hub`",
        *about[2:],
        table(figures),
        f"Last row measured on: {machine_line(last['machine'])}",
    ]
    (folder / "hub.md").write_text("\n\n".join(text).strip() + "\n", encoding="utf-8")
    (folder / "hub.json").write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def rows(options: argparse.Namespace) -> Sequence[Row]:
    return [Row(sites, size, options.strategy, options.gateways) for size in options.parameters for sites in options.sites]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=list(SITES))
    parser.add_argument("--parameters", type=lambda text: int(float(text)), nargs="+", default=list(PARAMETERS))
    parser.add_argument("--rounds", type=int, default=3, help="of each row; the first is not counted (default %(default)s)")
    parser.add_argument("--strategy", default="fedavg", help="fedavg, fedavgm or fedadam: what the coordinator keeps")
    parser.add_argument("--gateways", action="store_true", help="real gateways: two processes a site, some 200 MiB")
    parser.add_argument("--out", type=Path, default=ROOT / "scripts" / "results", help="folder of hub.json and hub.md")
    parser.add_argument("--json", type=Path, help="also write the figures of these rows here")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)  # the sites' process: the run's folder,
    parser.add_argument("--address", help=argparse.SUPPRESS)  # and the hub
    options = parser.parse_args()
    if options.serve:
        serve_sites(options)
        return 0
    kept = options.out / "hub.json"
    figures: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    now = {}
    for row in rows(options):
        figures.pop(row.name, None)
        figures[row.name] = now[row.name] = measure(row, options.rounds)
        write(options.out, figures)
        print(table(now).splitlines()[-1] if len(now) > 1 else table(now), flush=True)
    print(machine_line(next(reversed(now.values()))["machine"]))
    if options.json:
        options.json.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
