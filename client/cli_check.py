"""`wardround-site check`: is everything ready? One line for each problem, with what to do; sends no patient's data."""

import argparse

from client.cli_output import Output
from client.errors import ConfigError
from client.home import Home
from client.preflight.findings import NOT_TRIED, PROBLEM, Finding, run_probes, summary
from client.preflight.parts import ALL, PARTS, WHOLE_S, Asked, probes

IDLE_DEFAULT_S, IDLE_LIMIT_S = 15, 600
ABOUT = "is everything ready? sends no patient data"
EXAMPLES = """examples:
  wardround-site check
  wardround-site check --offline                 nothing is sent at all
  wardround-site check --idle 600                does a silent connection live for ten minutes?
  wardround-site check --part gateway            in the gateway's container, which has no data and no identity key
One line for each problem, with what to do. To the hub go fixed bytes, the same from every site.
exit status: 0 ready, 1 a problem, 2 usage or configuration"""


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check = verbs.add_parser(
        "check", help=ABOUT, description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    check.add_argument("--offline", action="store_true", help="leave the network out")
    check.add_argument("--part", choices=PARTS, default=ALL, help="what this machine or container runs (default %(default)s)")
    check.add_argument(
        "--idle",
        type=int,
        default=IDLE_DEFAULT_S,
        metavar="SECONDS",
        help=f"silence that a connection must survive, 1 to {IDLE_LIMIT_S} (default %(default)s)",
    )
    check.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print it as JSON")
    check.set_defaults(handler=_check)


def _check(home: Home, args: argparse.Namespace, out: Output) -> int:
    if not 1 <= args.idle <= IDLE_LIMIT_S:
        raise ConfigError(f"--idle {args.idle}: 1 to {IDLE_LIMIT_S} seconds")
    asked = Asked(args.part, args.offline, args.idle)
    found = run_probes(probes(home, asked), limit_s=WHOLE_S, told=lambda finding: out.say(finding.line))
    if out.as_json:
        out.rows("check", [_row(finding) for finding in found])
    counts = summary(found)
    out.say(f"{counts[PROBLEM]} problems, {counts[NOT_TRIED]} not tried")
    return int(counts[PROBLEM] > 0)


def _row(finding: Finding) -> dict[str, str]:
    return dict(vars(finding))
