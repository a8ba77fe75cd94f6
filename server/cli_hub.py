"""Commands that found a consortium and say who is in it: `hub init`, `roster show|add-site|sign|invite`."""

import argparse
import contextlib
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from consortium import roster as rosters
from consortium.documents import Signed
from server.cli_arguments import add_held_out
from server.cli_output import Output
from server.enrolment import Founding, add_sites, init_hub, make_invite, read_join_request, roster_document, sign_and_follow
from server.errors import ConfigError
from server.folder import write_durably
from server.home import LeadHome, read_signed
from server.keeper import Keeper, keeping
from server.tls import fingerprint as certificate_fingerprint

INIT_EXAMPLE = """example:
  wardround-lead hub init --consortium ms-north --founder "board" --lead lead-a --host hub.example.org"""
START_EXAMPLE = """example:
  wardround-lead hub start --port 443 --bind 0.0.0.0
  wardround-lead hub register                            (in another terminal, after every change of the roster)"""
ADD_EXAMPLE = """example:
  wardround-lead roster add-site join-request.json --told 1f0c-22ab-...   (fingerprint as told by telephone)"""
INVITE_EXAMPLE = """example:
  wardround-lead roster invite --hub hub.example.org:443 --out invite.json"""


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    hub = verbs.add_parser("hub", parents=[common], help="found the consortium's hub")
    hub_actions = hub.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_init(hub_actions, common)
    _add_start(hub_actions, common)
    roster = verbs.add_parser("roster", parents=[common], help="who is in the consortium")
    actions = roster.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser(
        "show", parents=[common], help="the roster in force", epilog="example:\n  wardround-lead roster show --json"
    )
    show.set_defaults(handler=show_roster)
    _add_site(actions, common)
    sign = actions.add_parser(
        "sign", parents=[common], help="add a founder's signature to a roster", epilog="example: roster sign FILE"
    )
    sign.add_argument("roster", type=Path, help="signed roster, as another founder passed it on")
    sign.set_defaults(handler=sign_roster_file)
    invite = actions.add_parser(
        "invite",
        parents=[common],
        help="the file a site joins with",
        epilog=INVITE_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    invite.add_argument("--hub", required=True, metavar="HOST:PORT", help="where the sites reach the hub")
    invite.add_argument("--out", type=Path, required=True)
    invite.set_defaults(handler=write_invite)


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
    begin.set_defaults(handler=start_hub)
    register = actions.add_parser("register", parents=[common], help="let the roster's gateways, and no others, connect")
    register.set_defaults(handler=register_sites)


def _add_site(actions: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    add = actions.add_parser(
        "add-site",
        parents=[common],
        help="put a site on the roster",
        epilog=ADD_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("request", type=Path, nargs="+", help="join-request.json of the site (several: with as many --told)")
    add.add_argument("--told", action="append", required=True, help="fingerprint that the site's IT read out, in the same order")
    add.add_argument("--colluders", type=int, help="sites that may collude (default: a third of them, never fewer than before)")
    add.add_argument("--out", type=Path, help="where a roster goes that needs more founders' signatures")
    add.set_defaults(handler=add_site)


def init_home(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    founding = Founding(
        args.consortium, args.founder, args.lead, tuple(args.host), args.colluders, args.minimum_cohort, args.held_out
    )
    roster, files = init_hub(home, founding, now=datetime.now(UTC))
    facts = {
        "folder": str(home.root),
        "consortium": roster.consortium,
        "founders": roster_document(roster)["founders_fingerprint"],
        "hub certificate authority": certificate_fingerprint(files.ca),
    }
    out.facts("consortium founded; tell the sites the founders' fingerprint by telephone", facts)
    out.say(f"{home.founder_key} signs rosters: keep it off this machine except when a site is added, and back it up")
    return 0


def start_hub(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    """SuperLink and coordinator processes, in the foreground, until SIGTERM or Ctrl-C."""
    from server.cli_run import hub_access
    from server.flower import HubConfig, HubControl, run_hub  # Flower is imported where a hub is started or asked

    roster = home.roster()
    if not 1 <= args.port <= 65535:
        raise ConfigError(f"port {args.port} outside [1, 65535]")
    write_durably(home.hub / "address", f"127.0.0.1:{args.port}\n".encode("ascii"))
    out.say(f"hub of {roster.consortium} on {args.bind}:{args.port}; stop it with Ctrl-C")
    with keeping(Keeper(home.runs, lambda: HubControl(hub_access(home, "")))):
        run_hub(HubConfig(state_dir=home.hub, port=args.port, host=args.bind))
    return 0


def register_sites(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    """Give every site of the roster a node id at the running hub; the hub refuses every other gateway."""
    from server.cli_run import hub_access
    from server.flower import HubControl

    nodes: dict[str, int] = {}
    with contextlib.closing(HubControl(hub_access(home, ""))) as hub, tempfile.TemporaryDirectory() as folder:
        for member in home.roster().sites:
            file = Path(folder) / f"{member.id}.pub"
            file.write_text(f"{member.transport_key}\n", encoding="ascii")
            nodes[member.id] = hub.register_node(file, name=member.id)
    write_durably(home.nodes_file, json.dumps(nodes, indent=1, sort_keys=True).encode("ascii"))
    out.rows("registered gateways", [{"site": site, "node": node} for site, node in nodes.items()])
    return 0


def show_roster(home: LeadHome, _: argparse.Namespace, out: Output) -> int:
    document = roster_document(home.roster())
    if out.as_json:
        out.lines((), document)
        return 0
    members = document.pop("members")
    out.facts(f"roster of {document['consortium']}", {name: value for name, value in document.items() if name != "founders"})
    out.rows("members", members if isinstance(members, list) else [])
    return 0


def add_site(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    if len(args.request) != len(args.told):
        raise ConfigError(f"{len(args.request)} join requests but {len(args.told)} --told: give one fingerprint each, in order")
    requests = [(read_join_request(path), told) for path, told in zip(args.request, args.told, strict=True)]
    roster = add_sites(home.roster(), requests, colluders=args.colluders)
    signed, in_force = sign_and_follow(home, roster)
    return _signed(home, signed, args.out, out, in_force=in_force)


def sign_roster_file(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    signed, in_force = sign_and_follow(home, read_signed(args.roster, rosters.KIND))
    return _signed(home, signed, args.roster, out, in_force=in_force)


def _signed(home: LeadHome, signed: Signed, path: Path | None, out: Output, *, in_force: bool) -> int:
    roster = signed.document(rosters.Roster)
    file = home.roster_file if in_force else path or home.root / f"roster-{roster.version}.partly-signed"
    if not in_force:
        write_durably(file, signed.encode())
    facts = {
        "version": roster.version,
        "in force": in_force,
        "signatures": f"{len(signed.signatures)} of {roster.founders_required}",
        "sites": len(roster.sites),
        "colluders": roster.colluders,
        "file": str(file),
    }
    out.facts("roster", facts)
    return 0


def write_invite(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    invite = make_invite(home, hub=args.hub, ca=home.hub / "tls" / "ca.pem")
    write_durably(args.out, invite.encode())
    out.facts(
        "invite; the site compares this fingerprint with what it is told", {"file": str(args.out), "founders": invite.founders}
    )
    return 0
