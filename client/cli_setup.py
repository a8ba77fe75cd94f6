"""Commands to become a site: init, join."""

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from client.cli_output import Output
from client.config import SiteConfig
from client.enrol import init_site, join_by_invite, read_invite
from client.errors import ConfigError
from client.home import Home
from consortium.invite import shown_on_both_sides
from tasks.registry import available


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    init = verbs.add_parser("init", help="make this hospital's keys and site.yaml")
    init.add_argument("--id", required=True, help="short name of the site: a-z, 0-9 and '-'")
    init.add_argument(
        "--task", required=True, nargs="+", help=f"task, or several that plans may be for: {', '.join(sorted(available()))}"
    )
    init.add_argument("--data", required=True, type=Path, help="folder with this hospital's tables")
    init.add_argument("--population", default="main", help="name of the patient population the ledger is about")
    init.set_defaults(handler=_init)
    join = verbs.add_parser("join", help="check an invite against the fingerprint you were told, follow the roster")
    join.add_argument("invite", type=Path)
    join.add_argument("--founders", required=True, help="the founders' fingerprint, told by telephone or letter")
    join.set_defaults(handler=_join)


def _init(home: Home, args: argparse.Namespace, out: Output) -> int:
    for task in args.task:
        if task not in available():
            raise ConfigError(f"task {task!r} is not installed here; installed: {', '.join(sorted(available()))}")
    data = args.data.expanduser().resolve()
    config = SiteConfig(site=args.id, tasks=tuple(args.task), data=data, population=args.population, hub="", threads=1)
    request = init_site(home, config)
    if out.as_json:  # what is to be handed over, so that a container needs no folder that both can write to
        out.facts("", asdict(request))
        return 0
    out.facts(
        f"site {request.id}", {"folder": home.root, "fingerprint": request.fingerprint, "hand to the lead": "join-request.json"}
    )
    out.say("Tell the fingerprint to the consortium by telephone. The keys stay in this folder: back it up.")
    return 0


def _join(home: Home, args: argparse.Namespace, out: Output) -> int:
    invite, roster = join_by_invite(home, read_invite(args.invite), told_founders=args.founders, now=time.time())
    facts = {
        **shown_on_both_sides(roster, invite.ca),
        "hub": invite.hub,
        "roster version": roster.version,
        "members": ", ".join(member.id for member in roster.members),
        "colluders": roster.colluders,
    }
    out.facts(f"joined {roster.consortium}", facts)
    if not home.policy.exists():
        out.say(f"There is no policy yet: nothing will train until {home.policy} exists (see the README of `client`).")
    out.say("Later rosters come by themselves. A gateway that runs already must be started again to use another hub.")
    return 0
