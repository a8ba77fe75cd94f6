"""`wardround-site audit`: evidence beside the proof, from this site's own trainer or patients; nothing leaves or is charged."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import urandom
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from client.cli_output import Output
from client.config import device_choice, load_config
from client.daemon import data_source
from client.errors import ConfigError
from client.home import Home
from client.plans import PlanStore
from consortium.documents import Signed
from consortium.plan import Plan

DEFAULT_ROUNDS, DEFAULT_CANARIES = 200, 1000


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    audit = verbs.add_parser(
        "audit",
        help="measure what the trainer, or a finished model, gives away; offline",
        description="Synthetic patients go through this site's own trainer under the terms of a plan, and their traces are read. "
        "With a run that carried canaries, what that run showed is printed too. Exit status 1: a claim is refuted.",
        epilog="examples:\n  wardround-site audit                          the trainer, under terms where every defect shows\n"
        "  wardround-site audit RUN --rounds 400         under that run's terms\n"
        "  wardround-site audit --membership model/      does a finished model remember this hospital's patients?",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    audit.add_argument(
        "run", nargs="?", metavar="RUN|PLAN", help="run id, first digits of a plan's digest, or a signed plan's file"
    )
    audit.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS, help="training rounds to imitate (default %(default)s)")
    audit.add_argument("--canaries", type=int, default=DEFAULT_CANARIES, help="synthetic patients (default %(default)s)")
    audit.add_argument(
        "--membership", type=Path, metavar="MODEL", help="folder of an exported model: try it on this site's patients"
    )
    audit.set_defaults(handler=_audit)


def _audit(home: Home, args: argparse.Namespace, out: Output) -> int:
    if args.membership and args.run:
        raise ConfigError("--membership MODEL is about a finished model: name no run")
    results = [_membership(home, args, out)] if args.membership else _trainer(home, args, out)
    if out.as_json:
        out.rows("audit", results)
    else:
        for result in results:
            _show(result, out)
    return int(any(result["verdict"] == "alarm" for result in results))


def _trainer(home: Home, args: argparse.Namespace, out: Output) -> list[dict[str, object]]:
    from client.canaries import audit_folder, canary_result, read_state, state_path, write_result
    from client.trainer_audit import audit_trainer, trial_plan  # imports torch: only where something is trained

    plan = _plan(home, args.run) if args.run else None
    results = []
    if plan is not None and (state := read_state(state_path(audit_folder(home.root), plan.digest), plan)):
        results.append(canary_result(plan, state))
        write_result(audit_folder(home.root), results[0])
    with _progress("imitated rounds", args.rounds, out) as progress:
        terms = plan or trial_plan(max(args.rounds, 1))
        made = audit_trainer(
            terms,
            rounds=args.rounds,
            canaries=args.canaries,
            entropy=urandom,
            progress=progress,
            device=device_choice(home),
        )
    write_result(audit_folder(home.root), made, suffix=".trainer")
    return [*results, made]


def _membership(home: Home, args: argparse.Namespace, out: Output) -> dict[str, object]:
    from client.canaries import audit_folder, write_result
    from client.membership import REFERENCES, check_membership, read_model  # imports torch

    exported, config = read_model(args.membership), load_config(home)
    source = data_source(home.load_roster(), folder=config.data, tasks=(config.task,))
    with _progress("reference models", REFERENCES, out) as progress:
        result = check_membership(exported, source, entropy=urandom, site=config.site, progress=progress)
    write_result(audit_folder(home.root), result, suffix=".membership")
    return result


def _plan(home: Home, name: str) -> Plan:
    if (path := Path(name)).is_file():
        return Signed.decode(path.read_bytes(), "plan").document(Plan)
    return PlanStore(home.plans, load_config(home).site, home.load_identity().public, home.retired_keys()).find(name).plan


def _show(result: dict[str, object], out: Output) -> None:
    words = str(result["words"])
    out.facts(f"{result['kind']}, run {result['run_id']}: {str(result['verdict']).upper()}", {
        name: value for name, value in result.items() if name not in ("kind", "run_id", "verdict", "words")
    })  # fmt: skip
    out.say(words)


@contextmanager
def _progress(what: str, total: int, out: Output) -> Iterator[Callable[[int], None]]:
    with Progress(console=Console(stderr=True), transient=True, disable=out.as_json) as shown:
        bar = shown.add_task(what, total=total)
        yield lambda done: shown.update(bar, completed=done)
