"""The command that gives a site of the roster its new keys: `roster rotate-site`."""

import argparse
from pathlib import Path
from typing import Protocol

from consortium.documents import Signed
from consortium.roster import Roster
from server.cli_output import Output
from server.enrolment import sign_and_follow
from server.home import LeadHome
from server.rosters import former_members
from server.rotation import read_request, rotate_site

EXAMPLE = """example:
  wardround-lead roster rotate-site rotate-request.json --told 1f0c-22ab-...   (the new fingerprint, as told by telephone)"""


class Finish(Protocol):
    """How the roster commands end: what changed, what is still to be done, and that done where the roster is in force."""

    def __call__(
        self, home: LeadHome, before: Roster, signed: Signed, args: argparse.Namespace, out: Output, *, in_force: bool
    ) -> int: ...


def add_rotate(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser, finish: Finish
) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    rotate = actions.add_parser("rotate-site", parents=[common], help="a site's new keys", epilog=EXAMPLE, formatter_class=raw)
    rotate.add_argument("request", type=Path, help="rotate-request.json of the site")
    rotate.add_argument("--told", required=True, help="fingerprint of the new key that the site's IT read out")
    rotate.add_argument("--key-lost", action="store_true", help="the old key is lost and signed nothing: auditors will see that")
    rotate.add_argument("--partly", type=Path, help="where a roster goes that needs more founders' signatures")
    rotate.set_defaults(handler=lambda home, args, out: _rotate(home, args, out, finish), hub="", out=None)


def _rotate(home: LeadHome, args: argparse.Namespace, out: Output, finish: Finish) -> int:
    current = home.roster()
    former = former_members(home.rosters, current)
    args.as_new_site = False
    roster = rotate_site(current, read_request(args.request), args.told, key_lost=args.key_lost, former=former)
    if roster == current:
        signed, in_force = home.signed_roster(), True  # asked twice: no second version of the same
    else:
        args.as_new_site = len(roster.members) > len(current.members)  # a former site's: the request vouches for its new key
        signed, in_force = sign_and_follow(home, roster, as_new=args.as_new_site)
    status = finish(home, current, signed, args, out, in_force=in_force)
    if in_force:
        out.say("The site's guard switches when the roster reaches it. Runs that were planned before end with the old roster.")
    return status
