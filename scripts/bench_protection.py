"""What protection adds to a whole round: masked and plain rounds in turn, over one hub with TLS, the same gateways and guards.

    scripts/bench protection
    scripts/bench protection --parameters 1e5 --rounds 3
    scripts/bench protection --training 60 --json protection.json

MASKED is what a run does: the real guard (policy, ledger, manifest, masks), and the coordinator of `server.rounds` with its
two messages, its files and its opening. PLAIN is Flower's own FedAvg over the very same path: one message, answered with the
update as Flower serialises an array, and `aggregate_train` of flwr's strategy. What is Flower's in a stock installation and is
not here, in neither arm: an executor that starts a process for each message, and a look for replies every 3 s. The trainer
gives a fixed update at once, in both, unless `--training` lets it sleep. One pair of rounds is run before those that count;
who goes first alternates.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import SType
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "tests" / "flower"), str(ROOT / "tests" / "client")]

from client.job import Job, Result  # noqa: E402
from consortium.plan import Plan, header_fields, verify_plan  # noqa: E402
from consortium.roster import founders_fingerprint, verify_roster  # noqa: E402
from consortium.wire import Request, encode_answer  # noqa: E402
from server import rounds  # noqa: E402
from server.flower import BUNDLE, FlowerTransport, GridMail  # noqa: E402
from server.folder import create_folder, open_folder  # noqa: E402
from server.journal import Journal, VoteAsked  # noqa: E402
from server.model import step_model  # noqa: E402
from server.transport import Patience  # noqa: E402

NAME = "weights"
PLAIN = b"bench/plain"  # in place of a protocol message; no real guard knows it
START_S = 120.0  # for a guard to open its site
A_ROUND_S = 600  # the longest that any message may take
SECURE_PHASES = ("digest", "update", "keep", "vote", "open", "step")
PLAIN_PHASES = ("update", "average")
MEANING = {
    "digest": "the model's digest, and the attempt in the journal",
    "update": "the first message: model to all sites, guard, masked update back, each checked and added as it comes",
    "keep": "survivors and masked sum on disk, synchronised, before the first vote request",
    "vote": "the second message, small",
    "open": "ballots opened, masks taken off, the sum checked and digested",
    "step": "the weighted mean, and the model after it; beside it Flower's average",
}
CLOSE = 1e-4  # how far the two means may lie apart: the ring's steps and float32


# --- a site -------------------------------------------------------------------------------------------------------------


def fixed_update(parameters: int) -> NDArray[np.float64]:
    return np.random.default_rng(1).standard_normal(parameters) * 0.01


@dataclass(frozen=True)
class FixedTrain:
    """A `Train` that computes nothing, for as long as asked."""

    update: NDArray[np.float64]
    training_s: float

    def __call__(self, job: Job, deadline_s: float) -> Result:
        time.sleep(self.training_s)
        fields = header_fields(job.plan, job.round_number, job.purpose)
        return Result(np.zeros(sum(item.length for item in fields)), self.update)


def serve_site(options: argparse.Namespace) -> None:
    """The real guard on its socket, and beside it the answer to a plain request. Ends at SIGTERM."""
    from guards_in_process import TASK_NAME

    from client.daemon import open_site
    from client.guard import Guard
    from client.guard_rpc import serve_guard
    from client.home import Home

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    train = FixedTrain(fixed_update(options.parameters), options.training)
    plain = Array(train.update.astype("<f4")).data
    home = Home(options.serve)
    site = open_site(home, site=options.site, tasks=(TASK_NAME,), train=train, now=time.time(), threads=options.threads)
    guard = Guard(site)

    def answer(kind: str, control: bytes, body: bytes) -> tuple[bytes, Any]:
        if control != PLAIN:
            return guard.answer(kind, control, body)
        time.sleep(options.training)
        return encode_answer(PLAIN), plain

    server = serve_guard(answer, options.socket, guard.status)
    stop.wait()
    server.stop(0)


# --- the coordinator ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Took:
    """One round: seconds by phase and in all, bytes over all sites, and its result."""

    seconds: Mapping[str, float]
    whole_s: float
    up: int
    down: int
    mean: NDArray[np.float32] | NDArray[np.float64]

    def figures(self) -> dict[str, Any]:
        return {"seconds": dict(self.seconds), "whole_s": self.whole_s, "up": self.up, "down": self.down}


class Coordinator:
    """Both kinds of round over one transport. The masked one goes through `server.rounds.Driver`, step by step as it does."""

    def __init__(self, driver: rounds.Driver, transport: FlowerTransport, plan: Plan) -> None:
        self._driver = driver
        self._transport = transport
        self._plan = plan
        model = np.random.default_rng(3).standard_normal(plan.model_size, dtype=np.float32)
        self._current = rounds.Current(0, 0, 0, 0, model, ())
        self._arrays = ArrayRecord({NAME: Array(model)})

    def enter(self) -> float:
        """Seconds that an epoch took. `RuntimeError` if there is none."""
        started = time.monotonic()
        if code := self._driver._enter_epoch():
            raise RuntimeError(f"no epoch: {code}")
        return time.monotonic() - started

    def secure(self) -> Took:
        driver, tally, clock = self._driver, rounds.Tally(), [time.monotonic()]
        epoch = driver._epoch
        if epoch is None:
            raise RuntimeError("an earlier round lost its epoch")
        attempt = driver._new_attempt(self._current, "train")
        clock.append(time.monotonic())
        votes = driver._survivors(epoch, self._current, attempt, tally)
        driver._append(VoteAsked(attempt.round, votes.survivors))
        clock.append(time.monotonic())
        aggregate = driver._opened(votes, tally)
        clock.append(time.monotonic())
        mean_of, before = driver._mean(aggregate, epoch.roll.n), self._current.model
        _, stepped = step_model(self._plan, driver._strategy, (), before, mean_of)
        clock.append(time.monotonic())
        seconds = {
            "digest": clock[1] - clock[0],
            "update": tally.seconds["update"],
            "keep": clock[2] - clock[1] - tally.seconds["update"],
            "vote": tally.seconds["vote"],
            "open": tally.seconds["open"],
            "step": clock[4] - clock[3],
        }
        if tally.dropped or len(aggregate.survivors) != len(self._plan.sites):
            raise RuntimeError(f"sites were lost: {tally.dropped}")
        return Took(seconds, clock[4] - clock[0], tally.up, tally.down, stepped - before)

    def plain(self) -> Took:
        started = time.monotonic()
        model = self._arrays[NAME].data
        requests = {site: Request(PLAIN, model) for site in self._plan.sites}
        replies, up = [], 0
        for site, reply in self._transport.exchange("sa1_update", requests, Patience(A_ROUND_S)):
            up += len(reply.control) + len(reply.body)
            array = Array("float32", (self._plan.n_parameters,), SType.NUMPY, bytes(reply.body))
            metrics = MetricRecord({"num-examples": self._plan.weight(site)})
            records = RecordDict({"arrays": ArrayRecord({NAME: array}), "metrics": metrics})
            replies.append(Message(records, 1, "train"))
        came = time.monotonic()
        if self._transport.failures:
            raise RuntimeError(f"sites were lost: {self._transport.failures}")
        averaged, _ = FedAvg().aggregate_train(1, replies)
        if averaged is None:
            raise RuntimeError("Flower averaged nothing")
        done = time.monotonic()
        down = len(requests) * (len(PLAIN) + len(model))
        seconds = {"update": came - started, "average": done - came}
        return Took(seconds, done - started, up, down, averaged[NAME].numpy())


def coordinate(grid: Grid, context: Context) -> None:
    """The ServerApp: pairs of rounds as `script.json` in the run folder says, figures to `out.json`, or why not to `error.log`."""
    run_dir = Path(str(context.run_config["run-dir"]))
    try:
        _coordinate(grid, context, run_dir)
    except Exception:
        (run_dir / "error.log").write_text(traceback.format_exc(), encoding="utf-8")
        raise


def _coordinate(grid: Grid, context: Context, run_dir: Path) -> None:
    nodes = {str(site): int(node) for site, node in json.loads(str(context.run_config["nodes"])).items()}
    script = json.loads((run_dir / "script.json").read_text(encoding="utf-8"))
    folder, transport = open_folder(run_dir), FlowerTransport(GridMail(grid), nodes)
    signed_plan, document = folder.signed_plan(), folder.roster()
    roster = verify_roster(folder.signed_roster(), founders_fingerprint(document.founders, document.founders_required))
    plan = verify_plan(signed_plan, roster)
    with Journal(folder.events) as journal:
        driver = rounds.Driver(folder, signed_plan, plan, roster, journal, transport, rounds.Clock())
        coordinator = Coordinator(driver, transport, plan)
        out: dict[str, Any] = {"epoch_s": coordinator.enter(), "pairs": []}
        for number in range(script["rounds"] + 1):
            pair = _pair(coordinator, secure_first=number % 2 == 0)
            if number:  # the first pair warms up
                out["pairs"].append(pair)
    (run_dir / "out.new").write_text(json.dumps(out), encoding="utf-8")
    (run_dir / "out.new").replace(run_dir / "out.json")


def _pair(coordinator: Coordinator, *, secure_first: bool) -> dict[str, Any]:
    """One round of each kind. `RuntimeError` if they disagree: then one of them measures something else."""
    if secure_first:
        secure, plain = coordinator.secure(), coordinator.plain()
    else:
        plain, secure = coordinator.plain(), coordinator.secure()
    if (apart := float(np.abs(secure.mean - plain.mean).max())) > CLOSE:
        raise RuntimeError(f"the two means lie {apart:.3g} apart")
    return {"secure": secure.figures(), "plain": plain.figures()}


app = ServerApp()
app.main()(coordinate)


# --- setting up ---------------------------------------------------------------------------------------------------------


def make_run(folder: Path, nodes: Mapping[str, int], options: argparse.Namespace) -> None:
    """Sites that joined a roster, and a signed plan of a model of the asked size in `folder/run`."""
    import guards_in_process as books

    from client.config import SiteConfig
    from client.enrol import init_site, join_site
    from client.home import Home
    from consortium.identity import SigningKey
    from consortium.plan import Deadlines, ModelRef, ParameterSpec, Participant
    from consortium.roster import Founder, Member, Roster, sign_roster

    founder, lead = SigningKey.from_seed(b"f" * 32), SigningKey.from_seed(b"l" * 32)
    homes, members = {site: Home(folder / site / "home") for site in nodes}, [Member("lead-a", "lead", lead.public, "")]
    for site, home in homes.items():
        config = SiteConfig(site=site, tasks=(books.TASK_NAME,), data=folder, population="bench", hub="", threads=1)
        made = init_site(home, config)
        members.append(Member(site, "site", bytes.fromhex(made.identity_key), made.transport_key))
    members.sort(key=lambda member: member.id)
    founders, rest = (Founder("founder", founder.public),), (books.SALT, books.HELD_OUT, tuple(members))
    roster = Roster("bench", 1, len(nodes) // 3, 3, founders, 1, *rest)
    signed = sign_roster(roster, "founder", founder)
    for home in homes.values():
        join_site(home, signed=signed, trusted_founders=founders_fingerprint(founders, 1), now=time.time())
        home.policy.write_text(books.ENDLESS, encoding="utf-8")
    made_by = books.Consortium(folder, folder, founder, lead, roster, signed, {})
    pairs, schedule = options.rounds + 1, made_by.plan().schedule
    plan = made_by.plan(
        model=ModelRef("logistic", (), (), (ParameterSpec("weights", (options.parameters,)),), 0),
        participants=tuple(Participant(site, node, books.DECLARED) for site, node in sorted(nodes.items())),
        statistics=0,
        ring_bits=options.ring_bits,
        schedule=replace(schedule, rounds=pairs, max_round=pairs, max_train=pairs, evaluate_every=pairs + 1),
        privacy=books.terms(train_noise=200.0, evaluate_noise=200.0),  # any noise: nothing is trained, nothing is drawn
        deadlines=Deadlines(A_ROUND_S, A_ROUND_S, A_ROUND_S, A_ROUND_S),
    )
    create_folder(folder / "run", made_by.sign(plan), signed)


def start_site(folder: Path, name: str, socket: Path, options: argparse.Namespace) -> "subprocess.Popen[bytes]":
    named = ("--serve", folder / name / "home", "--site", name, "--socket", socket)
    sized = ("--parameters", options.parameters, "--training", options.training, "--threads", options.threads)
    with (folder / name / "guard.log").open("ab") as output:
        command = [sys.executable, str(Path(__file__).resolve()), *map(str, (*named, *sized))]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures. `RuntimeError` with the end of the hub's log if the rounds did not end well."""
    from bench_machine import machine
    from consortium_on_loopback import Consortium, Site, make_key, wait_until

    described = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loopback = Consortium(folder)
        try:
            for number in range(options.sites):
                site = Site(f"site{number:02d}", folder / f"site{number:02d}", loopback.hub)
                site.node_id = loopback.control.register_node(make_key(site.folder)[1], name=site.name)
                loopback.sites[site.name] = site
            make_run(folder, loopback.nodes, options)
            for site in loopback.sites.values():
                site.guard = start_site(folder, site.name, site.socket, options)
            for site in loopback.sites.values():
                wait_until(site.socket.exists, f"guard of {site.name}", START_S)
                site.start_gateway()
            loopback.wait_online()
            script = json.dumps({"rounds": options.rounds})
            (folder / "run" / "script.json").write_text(script, encoding="utf-8")
            out = _run(loopback, folder, (options.rounds + 1) * (A_ROUND_S + 2 * options.training))
        finally:
            loopback.stop()
    asked = {key: getattr(options, key) for key in ("parameters", "sites", "training", "ring_bits", "threads")}
    return {"machine": described, **asked, **out, **added(out["pairs"])}


def _run(loopback: Any, folder: Path, limit_s: float) -> dict[str, Any]:
    """What the coordinator wrote. `loopback` is a `consortium_on_loopback.Consortium`."""
    pyproject = BUNDLE["pyproject.toml"].replace(b"server.flower:app", b"scripts.bench_protection:app")
    settings = {"run-dir": str(folder / "run"), "nodes": json.dumps(loopback.nodes)}
    run_id = loopback.control.submit_bundle(build_fab_from_files({"pyproject.toml": pyproject})[0], settings)
    state, out = loopback.finish(run_id, limit_s), folder / "run" / "out.json"
    if not out.exists():
        places = ((folder / "run", "error.log"), (folder / "hub", "**/*.log"), (folder, "site*/guard.log"))
        logs = [path for place, pattern in places for path in sorted(place.glob(pattern))]
        ends = "\n".join(f"{path}:\n{path.read_text(errors='replace')[-3000:]}" for path in logs)
        raise RuntimeError(f"the run ended {state}\n{ends}")
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


# --- figures ------------------------------------------------------------------------------------------------------------


def added(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians: seconds by phase, and within each pair what protection adds, in seconds and in per cent of the plain round."""
    differences = [pair["secure"]["whole_s"] - pair["plain"]["whole_s"] for pair in pairs]
    shares = [100 * more / pair["plain"]["whole_s"] for more, pair in zip(differences, pairs, strict=True)]

    def phase(kind: str, name: str) -> float:
        return statistics.median(pair[kind]["seconds"][name] for pair in pairs)

    return {
        "secure_s": {name: phase("secure", name) for name in SECURE_PHASES} | {"whole": _whole(pairs, "secure")},
        "plain_s": {name: phase("plain", name) for name in PLAIN_PHASES} | {"whole": _whole(pairs, "plain")},
        "added_s": {"median": statistics.median(differences), "least": min(differences), "most": max(differences)},
        "added_per_cent": {"median": statistics.median(shares), "least": min(shares), "most": max(shares)},
    }


def _whole(pairs: Sequence[Mapping[str, Any]], kind: str) -> float:
    return statistics.median(pair[kind]["whole_s"] for pair in pairs)


def show(result: Mapping[str, Any]) -> None:
    from bench_machine import machine_line
    from rich.console import Console
    from rich.table import Table

    title = f"{result['sites']} sites, {result['parameters']:.0e} parameters, {len(result['pairs'])} pairs of rounds, TLS, loopback"
    table = Table(title=title, title_justify="left")
    for column in ("phase", "masked, s", "plain, s", "what it is"):
        table.add_column(column, justify="left" if column in ("phase", "what it is") else "right")
    plain = result["plain_s"]
    for name, seconds in result["secure_s"].items():
        beside = plain["average"] if name == "step" else plain.get(name)
        table.add_row(name, f"{seconds:.3f}", "" if beside is None else f"{beside:.3f}", MEANING.get(name, ""))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    more, share, first = result["added_s"], result["added_per_cent"], result["pairs"][0]
    print(f"added by protection: {more['median']:.3f} s ({more['least']:.3f} to {more['most']:.3f}), ", end="")
    print(f"{share['median']:.1f} % of the plain round ({share['least']:.1f} to {share['most']:.1f}), ", end="")
    print(f"training {result['training']:g} s in both; once, the epoch: {result['epoch_s']:.3f} s")
    for kind in ("secure", "plain"):
        print(f"{kind}: {first[kind]['up'] / 1e6:.2f} MB up, {first[kind]['down'] / 1e6:.2f} MB down, all sites together")
    print(machine_line(result["machine"]))


def whole_number(text: str) -> int:
    return int(float(text))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=whole_number, default=10**7, help="of the model (default 1e7)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of a masked and a plain round (default %(default)s)")
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--training", type=float, default=0.0, help="seconds that each site's training takes (default 0)")
    parser.add_argument("--ring-bits", type=int, choices=(16, 32), default=32)
    parser.add_argument("--threads", type=int, default=1, help="of each guard's masking (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)  # a guard's process: its home folder,
    parser.add_argument("--site", help=argparse.SUPPRESS)  # its id
    parser.add_argument("--socket", type=Path, help=argparse.SUPPRESS)  # and its socket
    options = parser.parse_args()
    if options.serve:
        serve_site(options)
        return 0
    result = measure(options)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
