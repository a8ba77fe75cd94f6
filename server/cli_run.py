"""Commands that drive runs: run, resume, stop, simulate. What they show comes from the run's journal."""

import argparse
import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from consortium.plan import KIND, sign_plan, verify_plan
from consortium.roster import HELD_OUT, MAX_SITES
from server import rounds
from server.baseline import Against, against, write_against
from server.card import NOT_PRIVATE_BANNER, epsilon_note, epsilon_words
from server.cli_arguments import add_held_out
from server.cli_output import Output
from server.cli_reports import run_path
from server.config import LeadConfig, load_config
from server.cost import cost, cost_lines
from server.errors import ConfigError, ServerError
from server.export import export_model
from server.figures import (
    AUC,
    DO_NOT_READ,
    Primary,
    doubt,
    drowned,
    evaluated,
    headline,
    newest,
    noise_of,
    number,
    primary_of,
    side_of,
    whose,
)
from server.folder import RunFolder, create_folder, open_folder
from server.home import LeadHome, read_signed
from server.journal import Journal, RunStopped, wait_for_writer
from server.keeper import Handed, handed, let_go, may_go_on, submitted, turn
from server.leaving import departure_sentences
from server.planning import make_plan
from server.progress import follow, patients_words
from server.report import status, write_report
from server.row_gap import ROW_OVERRIDE, RowGap, check_row_gap, row_gap, write_row_gap
from server.simulate import LEAD, PipeTransport, Prepared, approve, declared_sizes, prepare
from server.state import RunState, read_state
from server.tracking import MirrorHandle, start_mirror
from tasks.cis_conversion.synthetic import write_hospitals

MIRROR_WAIT_S = 60.0
MIRROR_LOOK_S = 2.0
ASK_EVERY_S = 2.0
HUB_SILENT_S = 120.0
EARLIER_END_S = 60.0  # a coordinator looks at the hub every half minute at least, and a request to it takes no longer
TURN_S = 90.0  # for somebody else who starts or stops this very run to come to an end
KEPT_S = 300.0  # for the hub to start another coordinator in the place of one that died

STOP = """End a run now. The round it is in is broken off, and what sites spent on it stays spent; `resume` goes on after the last
finished round."""

SIMULATED_POLICY = """# every simulated site allows what this plan asks; real sites write their own
version: 2
budget_epsilon: 1000.0
max_epsilon_per_plan: 1000.0
budget_exposed_epsilon: 10000.0
max_exposed_epsilon_per_plan: 10000.0
modes: [local, distributed, none]
tested_alone: true
tasks: {{"{task}": "*"}}
leads: ["*"]
"""


def simulate(
    folder: Path,
    overrides: Sequence[str],
    *,
    data: Path,
    workers: int | None = None,
    show: bool = True,
    held_out: float = HELD_OUT,
    split_salt: bytes | None = None,
) -> RunState:
    """Plan, sign and run over one simulated site per folder below `data`; everything lies in `folder` afterwards.

    `held_out`: part of the patients that nobody trains on, in [0, 1). Sites and runs with one `split_salt` part patients alike.
    """
    config = load_config(["federation=roster", *overrides])
    prepared = prepare_simulated(folder, config, data=data, held_out=held_out, split_salt=split_salt)
    run = plan_simulated(folder, config, prepared, data=data)
    if show:
        roster = prepared.roster
        for line in cost_lines(cost(run.plan(), colluders=roster.colluders, minimum_cohort=roster.minimum_cohort)):
            Console(stderr=True).print(line, highlight=False)
    return run_simulated(run, prepared, workers=workers, show=show)


def prepare_simulated(
    folder: Path, config: LeadConfig, *, data: Path, held_out: float = HELD_OUT, split_salt: bytes | None = None
) -> Prepared:
    """The simulated sites of a configuration, enrolled, with a policy that allows what it asks."""
    policy = SIMULATED_POLICY.format(task=config.task.name)
    sites, task = folder / "sites", config.task.name
    return prepare(sites, task=task, data=data, policy=policy, held_out_fraction=held_out, split_salt=split_salt)


def plan_simulated(folder: Path, config: LeadConfig, prepared: Prepared, *, data: Path) -> RunFolder:
    """A signed plan for them in a run folder of its own, approved by their stewards.

    Declared sizes follow from the data unless the configuration has them.
    """
    if not config.federation.sites:
        sizes = declared_sizes(data, config.task.name, prepared.roster.held_out_fraction)
        config = replace(config, federation=replace(config.federation, sites=sizes))
    nodes = {site: number for number, site in enumerate(prepared.sites, start=1)}
    plan = make_plan(config, prepared.roster, nodes, lead=LEAD, now=datetime.now(UTC))
    run = create_folder(folder / "run", sign_plan(plan, prepared.lead), prepared.signed_roster)
    approve(prepared, run.plan_file)
    return run


def run_simulated(run: RunFolder, prepared: Prepared, *, workers: int | None, show: bool) -> RunState:
    """Drive the run in a thread while its journal is shown. An error of the driver is raised here."""
    transport = PipeTransport(prepared.folder, prepared.sites, workers=workers)
    failures: list[ServerError] = []

    def drive() -> None:
        try:
            rounds.run(run.path, transport)
        except ServerError as error:
            failures.append(error)

    driver = threading.Thread(target=drive, daemon=True)
    driver.start()
    try:
        state = follow(run.path, driver.is_alive, show=show)
        driver.join(5.0)
    finally:
        transport.close()
    if failures:
        raise failures[0]
    return state


def closing_table(run_dir: Path) -> Table:
    """Rounds, the primary pooled figure, epsilon per site, bytes and seconds a round, from the journal."""
    folder, state = RunFolder(run_dir), read_state(run_dir)
    plan, colluders = folder.plan(), folder.roster().colluders
    title = f"run {plan.run_id}: {state.phase}{' ' + state.stopped if state.stopped else ''}"
    table = Table(title=title if plan.private else f"{title}  {NOT_PRIVATE_BANNER}", title_justify="left")
    for name in ("site", "rounds", "epsilon exposed", "epsilon model"):
        table.add_column(name)
    for site, count in state.participation().items():
        exposed, model = epsilon_words(plan, state, site, colluders=colluders)
        table.add_row(site, str(count), exposed, model)
    table.caption = "\n".join([epsilon_note(plan, state), *closing_facts(state, primary_of(plan))])
    table.caption_justify = "left"
    return table


def closing_facts(state: RunState, primary: Primary | None = AUC) -> list[str]:
    """One fact a line: rounds, the primary figure with the noise it was measured with, bytes and seconds."""
    facts = [f"{len(state.done)} rounds done, {len(state.failed)} lost, {state.resumes} resumed"]
    measured = newest(state)
    if (last := evaluated(state)) is not None and primary is not None and (said := headline(measured, primary)):
        noise = noise_of(measured, primary)
        facts.append(
            f"pooled {said} on {whose(last)}"
            + (f"; measured with noise of s.e. {number(noise)}" if noise else "")
            + (f". {DO_NOT_READ}" if drowned(measured) else "")
        )
        if doubts := doubt(measured, primary).removeprefix(f"{said}. "):
            facts.append(doubts)
    elif last is not None and primary is not None:
        facts.append(f"{primary.words} on {side_of(last)} patients: noise, or too few patients, leave nothing to show")
    if counted := patients_words(state):
        facts.append(f"training patients behind the last sum: {counted}")
    if state.done:
        moved = sum(done.bytes_up + done.bytes_down for done in state.done) / len(state.done)
        seconds = sum(value for done in state.done for _, value in done.seconds) / len(state.done)
        facts.append(f"{moved / 1e3:.1f} kB and {seconds:.2f} s a round, all sites together")
    return facts


# --- commands ---------------------------------------------------------------------------------------------------------

RUN_EXAMPLE = """example:
  wardround-lead run wardround-lead/plans/RUN.plan
Ctrl-C only stops watching: the run goes on at the hub. `wardround-lead stop RUN` ends it, `resume RUN` goes on."""
SIMULATE_EXAMPLE = """example:
  wardround-lead simulate --sites 12 privacy=epsilon3 schedule.rounds=100 --out tried
  wardround-lead simulate --data hospitals/ task=cis_conversion_mlp      (one folder with mapping.yaml per site)
  wardround-lead simulate --data hospitals/ task=cdp_2y task.options.leave_out=basel --out unseen   (tested on that site alone)
  wardround-lead simulate --data hospitals/ task=cdp_2y task.options.train_until_year=2019 --out later
  wardround-lead simulate --data hospitals/ task=cdp_2y privacy=none --row-gap --out gap"""


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    run = verbs.add_parser("run", parents=[common], help="start a signed plan", epilog=RUN_EXAMPLE, formatter_class=raw)
    run.add_argument("plan", type=Path, help="signed plan")
    run.add_argument(
        "--keep-vectors", action="store_true", help="keep every masked vector, so that auditors can add up each round again"
    )
    resume = verbs.add_parser("resume", parents=[common], help="go on with a run that stopped or was killed")
    resume.add_argument("run", type=Path, help="run folder or run id")
    for part, handler in ((run, start), (resume, resume_run)):
        part.add_argument("--hub", default="", metavar="HOST:PORT", help="the hub (default: the one started from this folder)")
        part.add_argument("--detach", action="store_true", help="return as soon as the hub has the run")
        part.add_argument("--no-tracking", action="store_true", help="do not mirror to MLflow")
        part.add_argument("--store", default="", help="MLflow tracking URI (default: a database in the hub's folder)")
        part.set_defaults(handler=handler)
    stop = verbs.add_parser("stop", parents=[common], help="end a run now; it can be resumed", description=STOP)
    stop.add_argument("run", type=Path, help="run folder or run id")
    stop.add_argument("--hub", default="", metavar="HOST:PORT", help="the hub (default: the one started from this folder)")
    stop.set_defaults(handler=stop_run)
    simulated = verbs.add_parser(
        "simulate",
        parents=[common],
        help="a plan over simulated sites on this machine",
        epilog=SIMULATE_EXAMPLE,
        formatter_class=raw,
    )
    simulated.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="choices and values, as for `plan`")
    source = simulated.add_mutually_exclusive_group()
    source.add_argument("--sites", type=int, default=4, help="how many invented hospitals (default %(default)s)")
    source.add_argument("--data", type=Path, help="folder with one folder per site instead")
    simulated.add_argument("--patients", type=int, default=200, help="patients of an invented hospital (default %(default)s)")
    simulated.add_argument("--seed", type=int, default=1, help="of the invented patients; nothing secret depends on it")
    add_held_out(simulated)
    simulated.add_argument("--workers", type=int, help="processes (default: one a core)")
    simulated.add_argument(
        "--row-gap", action="store_true", help="also with rows parted instead of patients: how much that feigns (privacy=none)"
    )
    simulated.add_argument("--baseline", action="store_true", help="also what the task's card names to beat; says which is better")
    simulated.add_argument("--out", type=Path, required=True, help="folder to make; holds sites, ledgers and the run")
    simulated.set_defaults(handler=simulate_command)


def start(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    """Submit a signed plan to the hub; sites that have not approved answer that they wait."""
    signed = read_signed(args.plan, KIND)
    plan = verify_plan(signed, home.roster())
    folder = create_folder(home.runs / plan.run_id, signed, home.signed_roster())
    if read_state(folder.path).phase != "new":
        raise ServerError(f"run {plan.run_id} was started before: wardround-lead resume {plan.run_id}")
    if args.keep_vectors:
        folder.vectors.mkdir(exist_ok=True)
    return _drive(home, folder.path, args, out)


def resume_run(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    folder = open_folder(run_path(home, args.run))
    state = read_state(folder.path)
    if state.phase == "finished":
        out.say(f"run {state.run_id} is finished: nothing to resume")
        return 0
    return _drive(home, folder.path, args, out)


def _drive(home: LeadHome, run_dir: Path, args: argparse.Namespace, out: Output) -> int:
    """Hand the run to the hub, show it until it ends, write report and model."""
    from server.flower import HubControl  # Flower is needed by the commands that reach a hub, and by no other

    plan = RunFolder(run_dir).plan()
    with contextlib.closing(HubControl(hub_access(home, args.hub))) as hub:
        with turn(run_dir, TURN_S):
            _end_earlier(hub, run_dir)
            if not _wait_for_earlier(run_dir, out):
                raise ServerError(f"an earlier coordinator of run {plan.run_id} has not ended in {EARLIER_END_S:g} s: try again")
            before = read_state(run_dir).events
            flower_run = hub.submit_run(run_dir.resolve(), {item.site: item.node_id for item in plan.participants})
            submitted(run_dir, flower_run, hub)
        mirror = None if args.no_tracking else start_mirror(run_dir, args.store or home.tracking_store, alone=args.detach)
        if args.detach:
            out.facts("handed to the hub", {"run": plan.run_id, "folder": str(run_dir)})
            return 0
        state = follow(run_dir, Driven(hub, flower_run, run_dir), since=before, show=not out.as_json)
    if mirror is not None and not _caught_up(mirror):
        mirror.stop()
        out.say(f"MLflow is behind: python -m server.tracking {run_dir} --store {mirror.store} catches up")
    return finish(run_dir, state, out)


def _caught_up(mirror: MirrorHandle) -> bool:
    """Whether MLflow has all of the run. A store that is merely busy is waited for; one that is away is not."""
    given_up = time.monotonic() + MIRROR_WAIT_S
    while not mirror.wait(MIRROR_LOOK_S):
        if mirror.process.poll() is not None or time.monotonic() > given_up or mirror.position.state == "unreachable":
            return False
    return True


class Driven:
    """Whether somebody still drives the run: asks the hub now and then; a hub that cannot be asked counts as busy for a while.

    A coordinator that ended without a last word in the journal died: the hub starts another one, and this watches that one then.
    """

    def __init__(self, hub: "HubControl", flower_run: int, run_dir: Path) -> None:  # type: ignore[name-defined]  # noqa: F821
        self._hub, self._run, self._run_dir = hub, flower_run, run_dir
        self._asked = self._answered = time.monotonic()
        self._died = 0.0
        self._ended = False

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self._ended and now - self._asked >= ASK_EVERY_S:
            self._asked = now
            with contextlib.suppress(ServerError):
                self._look(now)
                self._answered = now
        return not self._ended and now - self._answered < HUB_SILENT_S

    def _look(self, now: float) -> None:
        found = handed(self._run_dir) or Handed(self._run, kept=False)
        if found.number != self._run:
            self._run, self._died = found.number, 0.0
        if not self._hub.run_status(self._run).state.startswith("finished"):
            self._died = 0.0
            return
        self._died = self._died or now
        state = read_state(self._run_dir)
        taken_up = found.kept and state.phase != "new" and may_go_on(state)  # one that could not even begin is told at once
        self._ended = not taken_up or now - self._died >= KEPT_S


def _end_earlier(hub: "HubControl", run_dir: Path) -> None:  # type: ignore[name-defined]  # noqa: F821
    """A coordinator of this run that the hub still counts as running is ended first: one run, one driver."""
    earlier = handed(run_dir)
    if earlier is None:
        return
    with contextlib.suppress(ServerError):
        hub.stop_run(earlier.number)


def _wait_for_earlier(run_dir: Path, out: Output) -> bool:
    """Stopping is a word to the hub: the coordinator hears it when it next asks the hub, and has the journal until then."""
    events = RunFolder(run_dir).events
    if wait_for_writer(events, 0.0):
        return True
    out.say(f"waiting for the earlier coordinator to end (at most {EARLIER_END_S:g} s)")
    return wait_for_writer(events, EARLIER_END_S)


def finish(run_dir: Path, state: RunState, out: Output) -> int:
    """Closing table, report and model of a run that ended; exit status 0 only for a finished one."""
    report = write_report(run_dir)
    if state.phase == "finished":
        export_model(RunFolder(run_dir))
    if out.as_json:
        out.facts("run", status(run_dir))
    else:
        Console().print(closing_table(run_dir))
        for sentence in departure_sentences(state):
            out.say(sentence)
        out.say(f"report: {report}")
    if state.phase != "finished":
        out.say(f"the run is not finished ({state.stopped or state.phase}): wardround-lead resume {run_dir}")
    return 0 if state.phase == "finished" else 1


def stop_run(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    from server.flower import HubControl

    run_dir = open_folder(run_path(home, args.run)).path
    with turn(run_dir, TURN_S), contextlib.closing(HubControl(hub_access(home, args.hub))) as hub:
        let_go(run_dir)
        _end_earlier(hub, run_dir)
    if not _wait_for_earlier(run_dir, out):
        raise ServerError(f"the coordinator of {run_dir} was told to stop and has not ended in {EARLIER_END_S:g} s: look again")
    _say_stopped(run_dir)
    out.facts("stopped", {"run": str(run_dir), "phase": read_state(run_dir).phase})
    out.say(f"wardround-lead resume {run_dir} goes on after the last finished round")
    return 0


def _say_stopped(run_dir: Path) -> None:
    """The last word of a coordinator that died before it could say it."""
    with Journal(RunFolder(run_dir).events, wait_s=EARLIER_END_S) as journal:
        if read_state(run_dir).phase == "running":
            journal.append(RunStopped("STOPPED"))


def hub_access(home: LeadHome, address: str) -> "HubAccess":  # type: ignore[name-defined]  # noqa: F821
    """How to reach the hub of this folder. Raises `ConfigError` if none was started from it."""
    from server.flower import HubAccess

    where = address or _address(home)
    return HubAccess(where, home.hub / "tls" / "ca.pem", home.hub / "hub.token")


def _address(home: LeadHome) -> str:
    try:
        return (home.hub / "address").read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(f"no hub was started from {home.root}: wardround-lead hub start, or give --hub HOST:PORT") from error


def simulate_command(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    if args.out.exists() and any(args.out.iterdir()):
        raise ConfigError(f"{args.out} is not empty: name a new folder")
    config = load_config(["federation=roster", *args.overrides])
    if args.row_gap:
        check_row_gap(config.task.name, config.privacy.mode)
    if args.baseline and not config.task.baseline:
        raise ConfigError(f"task {config.task.name}: its configuration names no baseline, leave --baseline out")
    data = args.data
    if data is None:
        if not 3 <= args.sites <= MAX_SITES or args.patients < 20:
            raise ConfigError(f"--sites {args.sites} must be 3 to {MAX_SITES}, --patients {args.patients} at least 20")
        data = args.out / "data"
        write_hospitals(data, args.sites, [args.patients] * args.sites, args.seed)
    state = simulate(args.out, args.overrides, data=data, workers=args.workers, show=not out.as_json, held_out=args.held_out)
    if args.row_gap and state.phase == "finished":
        out.say(measured_row_gap(args.out, args.overrides, data=data, workers=args.workers).words)
    if args.baseline and state.phase == "finished":
        out.say(measured_against(args.out, config.task.baseline, args.overrides, data=data, workers=args.workers).words)
    return finish(args.out / "run", state, out)


def measured_row_gap(folder: Path, overrides: Sequence[str], *, data: Path, workers: int | None = None) -> RowGap:
    """The run in `folder` once more below `folder/rows`, with rows parted by the same salt; the gap is kept beside the run."""
    run = folder / "run"
    _again(folder / "rows", run, [*overrides, ROW_OVERRIDE], data, workers)
    gap = row_gap(run, folder / "rows" / "run")
    write_row_gap(run, gap)
    return gap


def _again(folder: Path, run: Path, overrides: Sequence[str], data: Path, workers: int | None) -> None:
    """Another simulated run in `folder`, whose patients are parted as those of `run`."""
    roster = RunFolder(run).roster()
    held_out, salt = roster.held_out_fraction, roster.split_salt
    simulate(folder, overrides, data=data, workers=workers, show=False, held_out=held_out, split_salt=salt)


def measured_against(folder: Path, baseline: str, overrides: Sequence[str], *, data: Path, workers: int | None = None) -> Against:
    """The task's baseline below `folder/baseline`, with the same terms and split; the comparison is kept beside the run."""
    run = folder / "run"
    others = [word for word in overrides if not word.lstrip("+").startswith(("task=", "task.", "modalities="))]
    _again(folder / "baseline", run, [f"task={baseline}", *others], data, workers)
    found = against(run, folder / "baseline" / "run")
    write_against(run, found)
    return found
