"""Commands of the hub: `hub init` founds a consortium, `hub start` runs it, `hub register` makes its gateways the roster's."""

import argparse
import contextlib
import os
import signal
import sys
import threading
from datetime import UTC, datetime

from consortium.invite import shown_on_both_sides
from consortium.logs import FORMS
from server.cli_arguments import add_held_out
from server.cli_output import Output
from server.enrolment import Founding, hub_authority, init_hub
from server.errors import ConfigError, ServerError
from server.folder import write_durably
from server.home import LeadHome
from server.keeper import Keeper, keeping
from server.logs import FORM_VARIABLE, form_of, start_logs
from server.migrate import code_version
from server.registrar import Registrar, agree

INIT_EXAMPLE = """example:
  wardround-lead hub init --consortium ms-north --founder "board" --lead lead-a --host hub.example.org"""
START_EXAMPLE = """example:
  wardround-lead hub start --port 443 --bind 0.0.0.0
The gateways of the roster in force, and no others, may connect: also after every change of the roster."""
CHECK_EXAMPLE = """example:
  wardround-lead hub check --port 443
exit status: 0 ready, 1 a problem, 2 usage or configuration"""


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    hub = verbs.add_parser("hub", parents=[common], help="found the consortium's hub")
    hub_actions = hub.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_init(hub_actions, common)
    _add_start(hub_actions, common)


def _add_init(actions: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    init = actions.add_parser(
        "init",
        parents=[common],
        help="make keys, roster and TLS material",
        epilog=INIT_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    init.add_argument("--consortium", required=True, help="its name, for ever")
    init.add_argument("--founder", default="founder", help="name of the founding identity made here (default %(default)s)")
    init.add_argument("--lead", required=True, help="id of the lead, of a-z, 0-9 and -")
    init.add_argument("--host", action="append", required=True, help="name or address of the hub; may be repeated")
    init.add_argument("--colluders", type=int, default=1, help="sites that may collude (default %(default)s; grows to a third)")
    init.add_argument("--minimum-cohort", type=int, default=3, help="fewest sites of a round (default %(default)s)")
    add_held_out(init)
    init.set_defaults(handler=init_home)


def _add_start(actions: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    begin = actions.add_parser(
        "start", parents=[common], help="run the hub until it is stopped", epilog=START_EXAMPLE, formatter_class=raw
    )
    begin.add_argument("--port", type=int, default=8443, help="the one port that sites reach (default %(default)s)")
    begin.add_argument("--bind", default="127.0.0.1", help="address to listen on (default %(default)s; 0.0.0.0 for all)")
    begin.add_argument("--metrics-port", type=int, default=0, help="serve Prometheus metrics on this port of 127.0.0.1 (0: not)")
    begin.add_argument("--log-format", choices=FORMS, help=f"of all the hub's processes (default: ${FORM_VARIABLE}, or text)")
    begin.set_defaults(handler=start_hub)
    check = actions.add_parser(
        "check", parents=[common], help="is the hub ready? changes nothing", epilog=CHECK_EXAMPLE, formatter_class=raw
    )
    check.add_argument("--port", type=int, default=8443, help="the port that it was started on (default %(default)s)")
    check.set_defaults(handler=check_hub)
    register = actions.add_parser("register", parents=[common], help="let the roster's gateways, and no others, connect")
    register.set_defaults(handler=register_sites)


def init_home(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    founding = Founding(
        args.consortium, args.founder, args.lead, tuple(args.host), args.colluders, args.minimum_cohort, args.held_out
    )
    roster, _ = init_hub(home, founding, now=datetime.now(UTC))
    facts = {"folder": str(home.root), "consortium": roster.consortium, **shown_on_both_sides(roster, hub_authority(home))}
    out.facts("consortium founded; tell the sites the founders' fingerprint by telephone", facts)
    out.say(f"{home.founder_key} signs rosters: keep it off this machine except when a site is added, and back it up")
    return 0


def start_hub(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    """SuperLink and coordinator processes, in the foreground, until SIGTERM or Ctrl-C."""
    if threading.current_thread() is threading.main_thread():  # PID 1 of a container hears only the signals it asked for
        signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    from server.flower import Hub, HubConfig, HubControl, only_hub, read_public_key, run_hub  # where a hub is started or asked
    from server.metrics import LeadMetrics, serve_metrics

    roster = home.keep_roster()
    if not 1 <= args.port <= 65535 or not 0 <= args.metrics_port <= 65535:
        raise ConfigError(f"port {args.port} outside [1, 65535], or --metrics-port {args.metrics_port} outside [0, 65535]")
    os.environ[FORM_VARIABLE] = form_of(args.log_format)  # its processes and coordinators log alike
    start_logs("hub")
    config = HubConfig(state_dir=home.hub, port=args.port, host=args.bind)
    access = Hub(config).access
    with contextlib.ExitStack() as beside:
        beside.enter_context(only_hub(home.hub))
        write_durably(home.hub / "address", f"{access.address}\n".encode("ascii"))
        out.say(f"hub of {roster.consortium}, wardround {code_version()}, on {args.bind}:{args.port}; stop it with Ctrl-C")
        if args.metrics_port:
            beside.callback(serve_metrics(args.metrics_port, LeadMetrics(home.runs, home.root, lambda: online_sites(home))))
        beside.enter_context(Registrar(home, lambda: HubControl(access), read_public_key))
        beside.enter_context(keeping(Keeper(home.runs, lambda: HubControl(access))))
        run_hub(config)
    return 0


def online_sites(home: LeadHome) -> dict[str, bool] | None:
    """Registered gateways and whether each is connected; None where the hub does not answer."""
    from server.cli_run import hub_access
    from server.flower import HubControl

    try:
        with contextlib.closing(HubControl(hub_access(home, ""))) as hub:
            return {node.name: node.status == "online" for node in hub.nodes() if node.status != "unregistered"}
    except ServerError:
        return None


def check_hub(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    """One line for each look; exit status 1 if one found a problem."""
    from server.cli_run import hub_access
    from server.flower import HubControl, public_key_of
    from server.hub_check import NOT_TRIED, PROBLEM, HubCheck

    def nodes() -> list[bytes]:
        with contextlib.closing(HubControl(hub_access(home, f"127.0.0.1:{args.port}"))) as hub:
            return [node.public_key for node in hub.nodes() if node.status != "unregistered"]

    found = HubCheck(home, args.port, nodes, public_key_of).findings()
    lines = [f"{finding.state:<9}  {finding.check:<11}  {finding.detail}" for finding in found]
    counts = [sum(finding.state == state for finding in found) for state in (PROBLEM, NOT_TRIED)]
    out.lines([*lines, f"{counts[0]} problems, {counts[1]} not tried"], [vars(finding) for finding in found])
    return int(counts[0] > 0)


def register_sites(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    """Give every site of the roster a node id at the running hub; the hub refuses every other gateway."""
    from server.cli_run import hub_access
    from server.flower import HubControl, read_public_key

    with contextlib.closing(HubControl(hub_access(home, ""))) as hub:
        agreed = agree(home, hub, read_public_key)
    out.rows("registered gateways", [{"site": site, "node": node} for site, node in agreed.nodes.items()])
    if agreed.shut_out:
        out.say(f"shut out: {', '.join(agreed.shut_out)}")
    return 0
