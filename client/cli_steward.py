"""Commands of the data steward: what is asked, decide, what was spent, what left, stop."""

import argparse
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from client.cli_egress import add_egress
from client.cli_output import Output
from client.clock import utc
from client.config import load_config
from client.errors import ConfigError
from client.home import Home
from client.plans import KnownPlan, PlanStore
from client.policy_file import PolicyFile
from client.statement import make_statement
from consortium.approval import Approval
from consortium.errors import DocumentError
from consortium.identity import fingerprint
from consortium.plan import PURPOSES, Plan, body_length, header_fields
from consortium.roster import Roster
from consortium.statement import sign_statement
from privacy.entries import RunNote
from privacy.errors import LedgerError
from privacy.periods import dates
from privacy.policy import Account, Policy, accounts, approves, check_plan
from privacy.snapshot import read_snapshot
from privacy.verify import Figure, Report, verify_ledger
from secagg.numbers import honest_in_sum, limits, weakest_epoch

COUNTED = (
    "released with noise of standard deviation {:g}, drawn once for this run; sums over different sites give this noised number "
    "away, so it is charged as exposed"
)


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
    pause = verbs.add_parser("pause", help="answer no request until `pause --off`")
    pause.add_argument("--off", action="store_true")
    pause.set_defaults(handler=_pause)
    budget = verbs.add_parser("budget", help="privacy spent and left, over all runs")
    budget.add_argument("--publish", type=Path, metavar="FILE", help="write the total as a signed statement for the lead")
    budget.add_argument("--run", default="", help="with --publish: the run that shall show it; its plan's delta counts")
    budget.set_defaults(handler=_budget)
    add_egress(verbs)
    ledger = verbs.add_parser("ledger", help="the record of everything spent")
    export = ledger.add_subparsers(dest="what", required=True).add_parser("export", help="a copy for the auditor")
    export.add_argument("file", type=Path)
    export.set_defaults(handler=_export)


def _store(home: Home) -> PlanStore:
    return PlanStore(home.plans, load_config(home).site, home.load_identity().public, home.retired_keys())


def _list(home: Home, args: argparse.Namespace, out: Output) -> int:
    store = _store(home)
    left = _left(home)
    rows = [{**_row(store, known), "left": note.left if (note := left.get(known.digest)) else ""} for known in store.all()]
    out.rows("plans", rows, empty="none has reached this site")
    for known in store.all():
        if note := left.get(known.digest):
            out.say(f"run {note.run_id}: {note.text}")
    return 0


def _left(home: Home) -> Mapping[bytes, RunNote]:
    """The runs that this site left and did not come back to, by their plan. Without a ledger, none: other commands say so."""
    return read_snapshot(home.ledger, home.load_identity().public).left if home.ledger.exists() else {}


def _row(store: PlanStore, known: KnownPlan) -> dict[str, object]:
    decision = store.decision(known.digest)
    plan = known.plan
    return {
        "run": plan.run_id,
        "digest": known.digest.hex()[:16],
        "lead": plan.lead,
        "task": f"{plan.task.name} {plan.task.version}",
        "epsilon": _epsilon(plan),
        "decision": decision.decision if decision else "waiting",
    }


def _epsilon(plan: Plan) -> str:
    charged = plan.privacy.epsilon_model if plan.privacy.distributed else plan.privacy.epsilon_exposed
    return f"{charged:.3f}" if plan.private else "NOT PRIVATE"


def _show(home: Home, args: argparse.Namespace, out: Output) -> int:
    store = _store(home)
    known = store.find(args.run)
    plan, roster, policy = known.plan, home.load_roster(), PolicyFile(home.policy).load()
    lead = roster.member(plan.lead)
    facts: dict[str, object] = {
        "run": plan.run_id,
        "digest": known.digest.hex(),
        "asked by": f"{plan.lead}, fingerprint {fingerprint(lead.identity_key)}",
        "created": plan.created,
        "code version": plan.code_version,
        "task": f"{plan.task.name} {plan.task.version}",
        "columns used": ", ".join(plan.task.columns),
        "model": f"{plan.model.name}, {plan.n_parameters} parameters",
        "with": ", ".join(plan.sites),
        **_tested(plan),
        **_secrecy(plan, roster, policy.minimum_sites if policy else 0),
        "rounds": f"{plan.schedule.rounds} meant, at most {plan.schedule.max_train} answered",
        **_privacy(plan),
        **{f"leaves to {purpose}": _leaves(plan, purpose) for purpose in PURPOSES},
        "decision": _row(store, known)["decision"],
    }
    if policy is not None:
        ledger = read_snapshot(home.ledger, home.load_identity().public)
        begun, days = known.digest in ledger.plans, dates(datetime.now(UTC), plan.created)
        objections = check_plan(policy, plan, roster, spent=None if begun else ledger, dates=None if begun else days)
        facts["policy and budget"] = "; ".join(f"{item.code}: {item.detail}" for item in objections) or "nothing speaks against it"
        if not objections:
            facts["without a steward"] = approves(policy, plan, roster) or "policy approves it"
        if note := ledger.left.get(known.digest):
            facts["left"] = note.text
    else:
        facts["policy"] = "NO POLICY FILE: nothing trains"
    out.facts(f"plan {plan.run_id}", facts)
    return 0


def _tested(plan: Plan) -> dict[str, object]:
    """Said where no sum hides whose figures are looked at."""
    if not plan.left_out:
        return {}
    return {"MIND, figures": f"of {plan.left_out} alone, which trains nothing; the others add no patient to them"}


def _secrecy(plan: Plan, roster: Roster, minimum_sites: int) -> dict[str, object]:
    """What is behind every sum that can be opened, in the weakest epoch that this site would answer."""
    n, c, least = len(plan.sites), roster.colluders, max(roster.minimum_cohort, minimum_sites)
    honest = honest_in_sum(weakest_epoch(n, c, least), c)
    facts: dict[str, object] = {"summed": f"never fewer than {honest} honest sites, if at most {c} of {n} collude"}
    return facts | ({"mind": "; ".join(said)} if (said := limits(n, c, least)) else {})


def _privacy(plan: Plan) -> dict[str, object]:
    terms = plan.privacy
    if not plan.private:
        return {"privacy": "NOT PRIVATE: updates are masked, but the opened sums carry no noise"}
    return {
        "privacy": f"mode {terms.mode}, unit patient, neighbours add/remove one patient, delta {terms.delta:g}",
        **_epsilons(plan),
        **({"patient count": COUNTED.format(terms.count_noise)} if terms.counted else {}),
    }


def _epsilons(plan: Plan) -> dict[str, object]:
    terms, charged = plan.privacy, ": this is charged to the budget"
    exposed, model = ("", charged) if terms.distributed else (charged, "")
    holds = "given that secure aggregation holds"
    if terms.distributed:
        holds += f" and {terms.honest} honest sites add their share of the noise"
    return {
        "epsilon, one update exposed": f"{terms.epsilon_exposed:.3f} at most{exposed}",
        "epsilon, model and coordinator": f"{terms.epsilon_model:.3f} at most, {holds}{model}",
    }


def _leaves(plan: Plan, purpose: str) -> str:
    """What a round for `purpose` sends at most, and how often."""
    schedule = plan.schedule
    most = {"describe": schedule.max_describe, "train": schedule.max_train, "evaluate": schedule.max_evaluate}[purpose]
    parts = [f"update[{length}]"] if (length := body_length(plan, purpose)) else []
    parts += [f"{item.name}[{item.length}]" for item in header_fields(plan, schedule.evaluate_every, purpose)]
    return f"{', '.join(parts)}: masked, at most {most} times; and protocol messages (keys, shares, ballots)"


def _approve(home: Home, args: argparse.Namespace, out: Output) -> int:
    decision = "approve-until" if args.until else "approve"
    return _decide(home, args, out, decision, args.reason or "approved by the steward")


def _refuse(home: Home, args: argparse.Namespace, out: Output) -> int:
    return _decide(home, args, out, "refuse", args.reason)


def _decide(home: Home, args: argparse.Namespace, out: Output, decision: str, reason: str) -> int:
    store = _store(home)
    known = store.find(args.run)
    until = getattr(args, "until", "")
    try:
        made = Approval(known.digest, load_config(home).site, decision, until, reason, utc())  # type: ignore[arg-type]  # one of three
    except DocumentError as error:
        raise ConfigError(str(error)) from error
    store.decide(made, home.load_identity())
    facts = {"decision": decision, "reason": reason, "digest": known.digest.hex(), "epsilon": _epsilon(known.plan)}
    out.facts(f"plan {known.plan.run_id}", facts)
    return 0


def _pause(home: Home, args: argparse.Namespace, out: Output) -> int:
    if args.off:
        home.paused.unlink(missing_ok=True)
    else:
        home.paused.write_text(f"{utc()}\n", encoding="ascii")
    out.facts("site", {"paused": not args.off})
    return 0


def _verified(home: Home) -> tuple[bytes, Report]:
    """The ledger's whole lines as they stand now (the guard may be writing the next one), and what they say."""
    try:
        lines = home.ledger.read_bytes().rpartition(b"\n")
    except FileNotFoundError as error:
        raise ConfigError(f"no ledger at {home.ledger}: join first; if there was one, restore it from your backup") from error
    whole = lines[0] + lines[1]
    report = verify_ledger(whole, home.load_identity().public, accepted=home.fingerprints())
    if report.problems:
        raise LedgerError(f"the ledger does not verify: {report.problems[0]}")
    return whole, report


def _budget(home: Home, args: argparse.Namespace, out: Output) -> int:
    if args.publish:
        return _publish(home, args, out)
    if args.run:
        raise ConfigError("--run belongs to --publish FILE: without it, all runs are shown together")
    policy, (_, report) = PolicyFile(home.policy).load(), _verified(home)
    rows = [_budget_row(figure, policy) for figure in report.figures]
    if policy is not None and report.figures:
        ledger, today = read_snapshot(home.ledger, home.load_identity().public), datetime.now(UTC).date().toordinal()
        rows += [_account_row(one) for delta in ledger.deltas for one in accounts(policy, ledger, delta, today)[1:]]
    out.rows("privacy budget", rows, empty="nothing was spent")
    for note in _left(home).values():
        out.say(f"run {note.run_id}: {note.text}")
    return 0


def _budget_row(figure: Figure, policy: Policy | None) -> dict[str, object]:
    """The total, certified on the finer grid."""
    if policy is None:
        spent = f"{figure.reference:.4f}" if math.isfinite(figure.reference) else "NOT PRIVATE"
        return {"budget of": "for ever", "delta": f"{figure.delta:g}", "epsilon spent": spent, "budget": "no policy", "left": "-"}
    return _account_row(Account("for ever", figure.delta, figure.reference, policy.budget_epsilon))


def _account_row(account: Account) -> dict[str, object]:
    private = math.isfinite(account.spent)
    return {
        "budget of": account.name,
        "delta": f"{account.delta:g}",
        "epsilon spent": f"{account.spent:.4f}" if private else "NOT PRIVATE",
        "budget": account.limit,
        "left": f"{account.left:.4f}" if private else "-",
    }


def _publish(home: Home, args: argparse.Namespace, out: Output) -> int:
    """One figure and what it is of leave this site, in a file that the steward hands over or does not."""
    known, key, (ledger, _) = _store(home).find(args.run), home.load_identity(), _verified(home)
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
    whole, _ = _verified(home)
    _write_new(args.file, whole)
    key = home.load_identity().public
    out.facts("ledger exported", {"file": args.file, "check with": f"wardround-audit verify {args.file} --key {fingerprint(key)}"})
    out.say(f"exported at {utc(time.time())}")
    return 0
