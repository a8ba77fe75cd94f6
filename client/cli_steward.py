"""Commands of the data steward: what is asked, decide, what was spent, what left, stop."""

import argparse
import time
from pathlib import Path

from client.cli_egress import add_egress
from client.cli_output import Output
from client.clock import utc
from client.config import load_config
from client.errors import ConfigError
from client.home import Home
from client.statement import make_statement
from client.steward import (
    Decision,
    budget_rows,
    decide,
    epsilon_words,
    pause,
    plan_facts,
    plan_row,
    plan_store,
    runs_left,
    superseded,
    verified_ledger,
)
from consortium.identity import fingerprint
from consortium.statement import sign_statement


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    plans = verbs.add_parser("plans", help="what is asked of this site, at what cost; approve or refuse")
    kinds = plans.add_subparsers(dest="what", required=True)
    kinds.add_parser("list", help="all plans that reached this site").set_defaults(handler=_list)
    for name, handler in (("show", _show), ("approve", _approve), ("refuse", _refuse)):
        part = kinds.add_parser(name)
        part.add_argument("run", help="run id, or the first digits of the plan's digest")
        part.set_defaults(handler=handler)
        if name == "approve":
            part.add_argument("--until", default="", help="UTC, like 2026-12-31T18:00:00Z; without it, for the whole run")
        if name != "show":
            part.add_argument("--reason", default="", required=name == "refuse")
    withdraw = verbs.add_parser("withdraw", help="take an approval back: it holds from the next message on")
    withdraw.add_argument("run")
    withdraw.add_argument("--reason", required=True)
    withdraw.set_defaults(handler=_refuse)
    stopping = verbs.add_parser("pause", help="answer no request until `pause --off`")
    stopping.add_argument("--off", action="store_true")
    stopping.set_defaults(handler=_pause)
    budget = verbs.add_parser("budget", help="privacy spent and left, over all runs")
    budget.add_argument("--publish", type=Path, metavar="FILE", help="write the total as a signed statement for the lead")
    budget.add_argument("--run", default="", help="with --publish: the run that shall show it; its plan's delta counts")
    budget.set_defaults(handler=_budget)
    add_egress(verbs)
    ledger = verbs.add_parser("ledger", help="the record of everything spent")
    export = ledger.add_subparsers(dest="what", required=True).add_parser("export", help="a copy for the auditor")
    export.add_argument("file", type=Path)
    export.set_defaults(handler=_export)


def _list(home: Home, args: argparse.Namespace, out: Output) -> int:
    store, left = plan_store(home), runs_left(home)
    plans = store.all()
    rows = [{**plan_row(store, known), "left": note.left if (note := left.get(known.digest)) else ""} for known in plans]
    for row, known in zip(rows, plans, strict=True):
        if row["decision"] == "waiting" and superseded(known, home.load_roster()):
            row["decision"] = "over: of another roster"
    out.rows("plans", rows, empty="none has reached this site")
    for known in plans:
        if note := left.get(known.digest):
            out.say(f"run {note.run_id}: {note.text}")
    return 0


def _show(home: Home, args: argparse.Namespace, out: Output) -> int:
    known = plan_store(home).find(args.run)
    out.facts(f"plan {known.plan.run_id}", plan_facts(home, known))
    return 0


def _approve(home: Home, args: argparse.Namespace, out: Output) -> int:
    decision: Decision = "approve-until" if args.until else "approve"
    return _decide(home, args, out, decision, args.reason or "approved by the steward")


def _refuse(home: Home, args: argparse.Namespace, out: Output) -> int:
    return _decide(home, args, out, "refuse", args.reason)


def _decide(home: Home, args: argparse.Namespace, out: Output, decision: Decision, reason: str) -> int:
    known = decide(home, args.run, decision, until=getattr(args, "until", ""), reason=reason, via="command")
    facts = {"decision": decision, "reason": reason, "digest": known.digest.hex(), "epsilon": epsilon_words(known.plan)}
    out.facts(f"plan {known.plan.run_id}", facts)
    return 0


def _pause(home: Home, args: argparse.Namespace, out: Output) -> int:
    pause(home, paused=not args.off, via="command")
    out.facts("site", {"paused": not args.off})
    return 0


def _budget(home: Home, args: argparse.Namespace, out: Output) -> int:
    if args.publish:
        return _publish(home, args, out)
    if args.run:
        raise ConfigError("--run belongs to --publish FILE: without it, all runs are shown together")
    out.rows("privacy budget", budget_rows(home), empty="nothing was spent")
    for note in runs_left(home).values():
        out.say(f"run {note.run_id}: {note.text}")
    return 0


def _publish(home: Home, args: argparse.Namespace, out: Output) -> int:
    """One figure and what it is of leave this site, in a file that the steward hands over or does not."""
    known, key, (ledger, _) = plan_store(home).find(args.run), home.load_identity(), verified_ledger(home)
    plan = known.plan
    made = make_statement(
        ledger, key.public, site=load_config(home).site, plan_digest=known.digest, delta=plan.privacy.delta, made=utc()
    )
    _write_new(args.publish, sign_statement(made, key).encode())
    facts = {
        "site": made.site,
        "epsilon, all runs": f"{made.epsilon_exposed:.4f}" if made.private else "NOT PRIVATE",
        "delta": f"{made.delta:g}",
        "plan": f"{plan.run_id}, {made.plan_digest.hex()}",
        "ledger": f"{made.entries} entries, {made.ledger_head.hex()}",
        "made": made.made,
        "file": args.publish,
    }
    out.facts("statement written: this and the signature, nothing else", facts)
    out.say(f"send it to the lead, who puts it beside the run: wardround-lead publish {plan.run_id} {args.publish}")
    return 0


def _write_new(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists: name a new file") from error


def _export(home: Home, args: argparse.Namespace, out: Output) -> int:
    whole, _ = verified_ledger(home)
    _write_new(args.file, whole)
    key = home.load_identity().public
    out.facts("ledger exported", {"file": args.file, "check with": f"wardround-audit verify {args.file} --key {fingerprint(key)}"})
    out.say(f"exported at {utc(time.time())}")
    return 0
