"""Commands that say who is in the consortium: `roster show|add-site|remove-site|rotate-site|sign|invite`.

Whatever puts a roster in force finishes the same steps: the gateways at the hub, and an invite where one is asked for.
"""

import argparse
import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from consortium import leave
from consortium import roster as rosters
from consortium.documents import Signed
from consortium.errors import ConsortiumError
from consortium.invite import shown_on_both_sides
from consortium.roster import changes
from server.cli_output import Output
from server.cli_rotate import add_rotate
from server.enrolment import (
    add_sites,
    check_notice,
    hub_authority,
    known_address,
    make_invite,
    note_removal,
    read_join_request,
    remove_site,
    roster_document,
    sign_and_follow,
    unsigned_founders,
)
from server.errors import ConfigError, ServerError
from server.folder import write_durably
from server.home import LeadHome, read_signed
from server.registrar import agree
from server.rosters import former_members

RAW = argparse.RawDescriptionHelpFormatter
ADD_EXAMPLE = """example (the fingerprint as told by telephone):
  wardround-lead roster add-site join-request.json --told 1f0c-22ab-... --hub hub.example.org:443 --out invite.json"""
REMOVE_EXAMPLE = """example:
  wardround-lead roster remove-site hospital-b --reason "left the study" --notice leave-hospital-b.signed
Runs that list it end with the old roster; its gateway is shut out at once. The id may come back with its old key."""
SIGN_EXAMPLE = """example (look first: wardround-lead roster show FILE):
  wardround-lead roster sign roster-7.partly-signed --invite invite.json --hub hub.example.org:443
The last signature that is needed puts the roster in force here and finishes what add-site or remove-site began. A roster that
has all signatures needs none: the same command puts it in force at the hub."""
INVITE_EXAMPLE = """example:
  wardround-lead roster invite --hub hub.example.org:443 --out invite.json"""
SHOW_EXAMPLE = """examples:
  wardround-lead roster show --json
  wardround-lead roster show roster-7.partly-signed       what would change, before you sign it"""


HUB_HELP = "where the sites reach the hub (default: as in the last invite)"

Actions: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_commands(verbs: Actions, common: argparse.ArgumentParser) -> None:
    roster = verbs.add_parser("roster", parents=[common], help="who is in the consortium")
    actions = roster.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="the roster in force", epilog=SHOW_EXAMPLE, parents=[common], formatter_class=RAW)
    show.add_argument("roster", type=Path, nargs="?", help="a roster that is not in force yet, compared with the one that is")
    show.set_defaults(handler=show_roster)
    _add_add(actions, common)
    _add_remove(actions, common)
    add_rotate(actions, common, _finish)
    _add_sign(actions, common)
    does = "the file a site joins with"
    invite = actions.add_parser("invite", help=does, epilog=INVITE_EXAMPLE, parents=[common], formatter_class=RAW)
    invite.add_argument("--hub", default="", metavar="HOST:PORT", help=HUB_HELP)
    invite.add_argument("--out", type=Path, required=True)
    invite.set_defaults(handler=write_invite)


def _add_add(actions: Actions, common: argparse.ArgumentParser) -> None:
    does = "put a site on the roster"
    add = actions.add_parser("add-site", help=does, epilog=ADD_EXAMPLE, parents=[common], formatter_class=RAW)
    add.add_argument("request", type=Path, nargs="+", help="join-request.json of the site (several: with as many --told)")
    add.add_argument("--told", action="append", required=True, help="fingerprint that the site's IT read out, in the same order")
    add.add_argument("--out", type=Path, help="where the invite for the sites goes")
    add.add_argument("--as-new-site", action="store_true", help="a former id with another key: the founders agree to a new ledger")
    add.add_argument("--hub", default="", metavar="HOST:PORT", help=HUB_HELP)
    _add_common(add, "sites that may collude (default: a third of them, never fewer than before)")
    add.set_defaults(handler=add_site)


def _add_remove(actions: Actions, common: argparse.ArgumentParser) -> None:
    does = "take a site off the roster"
    remove = actions.add_parser("remove-site", help=does, epilog=REMOVE_EXAMPLE, parents=[common], formatter_class=RAW)
    remove.add_argument("site", help="its id")
    remove.add_argument("--reason", required=True, help="kept with the lead, in no roster")
    remove.add_argument("--notice", type=Path, help="the leave notice that the site signed")
    remove.add_argument("--allow-too-few", action="store_true", help="also where no run can start before another site joins")
    _add_common(remove, "sites that may collude (default: as before)")
    remove.set_defaults(handler=remove_a_site, hub="", out=None)  # the other sites need no invite


def _add_sign(actions: Actions, common: argparse.ArgumentParser) -> None:
    does = "add a founder's signature to a roster"
    sign = actions.add_parser("sign", help=does, epilog=SIGN_EXAMPLE, parents=[common], formatter_class=RAW)
    sign.add_argument("roster", type=Path, help="signed roster, as another founder passed it on")
    sign.add_argument(
        "--invite", type=Path, dest="out", metavar="FILE", help="where the invite goes, if this is the last signature"
    )
    sign.add_argument("--hub", default="", metavar="HOST:PORT", help=HUB_HELP)
    sign.add_argument("--as-new-site", action="store_true", help="as for add-site: every founder says so")
    sign.set_defaults(handler=sign_roster_file)


def _add_common(command: argparse.ArgumentParser, colluders: str) -> None:
    command.add_argument("--colluders", type=int, help=colluders)
    command.add_argument("--partly", type=Path, help="where a roster goes that needs more founders' signatures")


def show_roster(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    current = home.roster()
    if args.roster:
        signed = read_signed(args.roster, rosters.KIND)
        roster, signers = signed.document(rosters.Roster), [name for name, _ in signed.signatures]
        document = roster_document(roster) | {"changes": changes(current, roster), "signed by (not checked)": signers}
    else:
        document = roster_document(roster := current)
    with contextlib.suppress(ConfigError):  # a founder's own machine has no hub
        document["hub certificate authority"] = shown_on_both_sides(roster, hub_authority(home))["hub certificate authority"]
    if out.as_json:
        out.lines((), document)
        return 0
    members = document.pop("members")
    document["founders"] = document.pop("founders_fingerprint")
    out.facts(f"roster of {document['consortium']}", document)
    out.rows("members", members if isinstance(members, list) else [])
    return 0


def add_site(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    if len(args.request) != len(args.told):
        raise ConfigError(f"{len(args.request)} join requests but {len(args.told)} --told: give one fingerprint each, in order")
    _check_address(home, args)
    current = home.roster()
    requests = [(read_join_request(path), told) for path, told in zip(args.request, args.told, strict=True)]
    roster = add_sites(
        current,
        requests,
        colluders=args.colluders,
        former=former_members(home.rosters, current),
        as_new=args.as_new_site,
    )
    if roster.members == current.members and roster.colluders == current.colluders:
        signed, in_force = home.signed_roster(), True  # asked twice: no second version of the same
    else:
        signed, in_force = sign_and_follow(home, roster, as_new=args.as_new_site)
    return _finish(home, current, signed, args, out, in_force=in_force)


def remove_a_site(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    current = home.roster()
    notice = None
    if args.notice:
        check_notice(notice := read_signed(args.notice, leave.KIND), current, args.site)
    roster = remove_site(current, args.site, colluders=args.colluders, too_few=args.allow_too_few)
    signed, in_force = sign_and_follow(home, roster)
    note_removal(home, roster, args.site, reason=args.reason, notice=notice, now=datetime.now(UTC))
    return _finish(home, current, signed, args, out, in_force=in_force)


def sign_roster_file(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    _check_address(home, args)
    current = home.roster()
    args.partly = args.roster
    signed, in_force = sign_and_follow(home, read_signed(args.roster, rosters.KIND), as_new=args.as_new_site)
    return _finish(home, current, signed, args, out, in_force=in_force)


def write_invite(home: LeadHome, args: argparse.Namespace, out: Output) -> int:
    out.facts("invite; the site compares these fingerprints with what it is told", _invite(home, args))
    return 0


def _check_address(home: LeadHome, args: argparse.Namespace) -> None:
    """Before anything is signed: what an invite will need."""
    if args.out or args.hub:
        known_address(home, args.hub)
        hub_authority(home)


def _finish(
    home: LeadHome, before: rosters.Roster, signed: Signed, args: argparse.Namespace, out: Output, *, in_force: bool
) -> int:
    """Say what changed and what is still to be done; do it, where the roster is in force."""
    roster = signed.document(rosters.Roster)
    facts: dict[str, object] = {
        "version": roster.version,
        "in force": in_force,
        "changes": list(changes(before, roster)) or "none",
        "signatures": f"{len(signed.signatures)} of {roster.founders_required}",
        "sites": len(roster.sites),
        "colluders": roster.colluders,
    }
    if not in_force:
        file = args.partly or home.root / f"roster-{roster.version}.partly-signed"
        write_durably(file, signed.encode())
        out.facts("roster, not in force yet", facts | _still_to_sign(signed, file, args))
        out.say("pass the file on: whoever signs it last puts it in force")
        return 0
    facts |= {"file": str(home.roster_file), "gateways at the hub": _agree(home)}
    if args.out:
        facts |= _invite(home, args)
    out.facts("roster", facts)
    if args.out:
        out.say("hand the invite to the new sites; tell them the founders' fingerprint by telephone. The other sites need nothing.")
    return 0


def _still_to_sign(signed: Signed, file: Path, args: argparse.Namespace) -> dict[str, object]:
    missing = signed.document(rosters.Roster).founders_required - len(signed.signatures)
    invite = f" --invite {args.out or 'invite.json'}" if args.out or args.hub else ""
    hub = f" --hub {args.hub}" if args.hub else ""
    as_new = " --as-new-site" if getattr(args, "as_new_site", False) else ""
    return {
        "file": str(file),
        "still to sign": f"{missing} of: {', '.join(unsigned_founders(signed))}",
        "with": f"wardround-lead roster sign {file.name}{invite}{hub}{as_new}",
    }


def _agree(home: LeadHome) -> str:
    """Register and shut out gateways at once, where the hub runs from this folder."""
    if not (home.hub / "address").exists():
        return "no hub was started from this folder: it registers them itself when it starts"
    from server.cli_run import hub_access
    from server.flower import HubControl, read_public_key

    try:
        with contextlib.closing(HubControl(hub_access(home, ""))) as hub:
            agreed = agree(home, hub, read_public_key)
    except (ServerError, ConsortiumError) as error:
        return f"not yet: {error}; a hub that runs does it by itself, when it starts or within seconds"
    return f"{len(agreed.nodes)} registered, all others shut out"  # the hub itself may have been first to do it


def _invite(home: LeadHome, args: argparse.Namespace) -> dict[str, object]:
    file = make_invite(home, hub=known_address(home, args.hub), now=datetime.now(UTC))
    write_durably(args.out, file.encode())
    shown = shown_on_both_sides(home.roster(), hub_authority(home))
    return {"invite": str(args.out), "hub": known_address(home, args.hub), **shown}
