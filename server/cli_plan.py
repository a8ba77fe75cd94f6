"""Commands that make a run's document: `plan` composes it, says what it and its alternatives cost, `sign` is the lead's word."""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from consortium import plan as plans
from consortium.documents import Signed
from consortium.plan import Plan, sign_plan, verify_plan
from server.cli_output import Output
from server.config import load_config
from server.cost import cost, cost_lines
from server.errors import PlanningError
from server.folder import write_durably
from server.home import LeadHome, read_signed
from server.options import ROUNDS, measured_curves, options
from server.options import lines as option_lines
from server.planning import make_plan
from server.strategy import SUMS

PLAN_EXAMPLES = """examples:
  wardround-lead plan task=cis_conversion privacy=epsilon3 federation=roster
  wardround-lead plan privacy=epsilon8 schedule.rounds=100 strategy.options.rate=0.1 --config-dir ./ours
  wardround-lead plan privacy=distributed3 --options
writes plans/RUN.plan below the lead's folder, not signed yet; nothing is sent and nothing is spent"""
SIGN_EXAMPLE = """example:
  wardround-lead sign wardround-lead/plans/RUN.plan"""


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    plan = verbs.add_parser(
        "plan", parents=[common], help="compose a plan and say what it costs", epilog=PLAN_EXAMPLES, formatter_class=raw
    )
    plan.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="choices and values, as in conf/lead.yaml")
    plan.add_argument("--config-dir", type=Path, help="your own folder of the same shape as conf/; its files win")
    plan.add_argument("--nodes", type=Path, help="JSON file site -> node id (default: the one the hub keeps)")
    plan.add_argument("--out", type=Path, help="where to write the plan")
    plan.add_argument(
        "--options", action="store_true", help="every option of epsilon, rounds and mode, and the noise of every site"
    )
    plan.set_defaults(handler=make)
    sign = verbs.add_parser("sign", parents=[common], help="sign a plan", epilog=SIGN_EXAMPLE, formatter_class=raw)
    sign.add_argument("plan", type=Path, help="file that `plan` wrote")
    sign.set_defaults(handler=sign_file)


def make(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    """Compose, calibrate, write, and print the cost and the options."""
    config = load_config(args.overrides, config_dir=args.config_dir)
    roster = home.roster()
    lead = config.lead or home.lead()[0]
    plan = make_plan(config, roster, home.nodes(args.nodes), lead=lead, now=datetime.now(UTC))
    path: Path = args.out or home.plans / f"{plan.run_id}.plan"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, Signed.of(plans.KIND, plan).encode())
    found = cost(plan, colluders=roster.colluders, minimum_cohort=roster.minimum_cohort)
    # Full batches are accounted in closed form; sampled ones cost a second for each number of rounds.
    document = {"file": str(path), "digest": plan.digest.hex(), "cost": found.document()}
    lines = cost_lines(found)
    if plan.strategy.name != SUMS:  # of sums there is nothing to choose: their rounds are their stages
        rounds = ROUNDS if args.options or plan.privacy.sample_rate == 1.0 else ()
        others = options(plan, config.privacy, roster, measured_curves(), rounds=rounds)
        document["options"] = others.document()
        lines = (*lines, *option_lines(others, whole=args.options))
    out.lines(lines, document)
    out.say(f"written to {path}, not signed; next: wardround-lead sign {path}")
    return 0


def sign_file(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    """Put this lead's signature on a plan of the roster in force."""
    plan = read_signed(args.plan, plans.KIND).document(Plan)
    lead, key = home.lead()
    if plan.lead != lead:
        raise PlanningError(
            f"the plan is {plan.lead}'s, this folder holds the key of {lead}: plan it again, or let {plan.lead} sign"
        )
    signed = sign_plan(plan, key)
    verify_plan(signed, home.roster())
    write_durably(args.plan, signed.encode())
    out.facts(f"signed {plan.run_id}", {"file": str(args.plan), "lead": lead, "digest": plan.digest.hex()})
    out.say("tell the sites this digest; next: wardround-lead run " + str(args.plan))
    return 0
