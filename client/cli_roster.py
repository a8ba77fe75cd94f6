"""Who is in the consortium, what changed, and how to leave it: roster, leave."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.cli_output import Output
from client.clock import utc
from client.config import load_config
from client.departure import KEEP, MAY_GO, leave_consortium, read_notice
from client.errors import ConfigError, Refused
from client.files import write_atomic
from client.home import Home
from consortium.identity import fingerprint
from consortium.leave import LeaveNotice
from consortium.roster import founders_fingerprint

RAW = argparse.RawDescriptionHelpFormatter
ROSTER_EXAMPLE = """example:
  wardround-site roster                 who is in, and what changed when; `--json roster` for programs
The guard follows newer rosters by itself, once enough of the pinned founders signed them."""
LEAVE_EXAMPLE = """example:
  wardround-site leave --reason "the study ended" --out leave.signed
Nothing is answered from then on, for good: also under a roster that still lists this site. Send the file to the lead.
`wardround-site pause` stops everything too, and can be ended."""


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    roster = verbs.add_parser("roster", help="who is in the consortium, what changed", epilog=ROSTER_EXAMPLE, formatter_class=RAW)
    roster.set_defaults(handler=_roster)
    leave = verbs.add_parser("leave", help="leave the consortium, for good", epilog=LEAVE_EXAMPLE, formatter_class=RAW)
    leave.add_argument("--reason", required=True, help="why, in one line; it stands in the notice")
    leave.add_argument("--out", type=Path, help="where the notice for the lead goes (default leave-SITE.signed in this folder)")
    leave.add_argument("--yes", action="store_true", help="do not ask")
    leave.set_defaults(handler=_leave)


def _roster(home: Home, args: argparse.Namespace, out: Output) -> int:
    """The roster that is followed; members with their fingerprints, and every change since this site joined."""
    found = roster_document(home)
    if out.as_json:
        print(json.dumps(found, indent=1, sort_keys=True))
        return 0
    members, past = found.pop("members"), found.pop("changes")
    out.facts(f"roster of {found.pop('consortium')}", found)
    out.rows("members", members)
    out.rows("changes", [{**line, "changes": "; ".join(line["changes"])} for line in past], empty="none since this site joined")
    return 0


def roster_document(home: Home) -> dict[str, Any]:
    roster, site = home.load_roster(), load_config(home).site
    listed = {member.id: member.identity_key for member in roster.sites}.get(site)
    state = "left for good" if home.left.exists() else _state(home, listed)
    return {
        "consortium": roster.consortium,
        "version": roster.version,
        "this site": f"{site}, {state}",
        "founders": founders_fingerprint(roster.founders, roster.founders_required),
        "colluders": roster.colluders,
        "minimum cohort": roster.minimum_cohort,
        "members": [
            {"id": member.id, "role": member.role, "fingerprint": fingerprint(member.identity_key)} for member in roster.members
        ],
        "changes": past_changes(home),
    }


def _state(home: Home, listed: bytes | None) -> str:
    """`listed`: under which key the roster has this site's id."""
    if listed is None:
        return "NOT LISTED: the consortium removed this site"
    return "listed" if listed in home.own_keys() else f"LISTED WITH ANOTHER KEY ({fingerprint(listed)}): ask the lead"


def past_changes(home: Home) -> list[dict[str, Any]]:
    """What earlier rosters were replaced for, oldest first; a line that a crash cut off is left out."""
    found = []
    for line in home.roster_changes.read_text(encoding="ascii").splitlines() if home.roster_changes.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _leave(home: Home, args: argparse.Namespace, out: Output, ask: Callable[[str], str] = input) -> int:
    site = load_config(home).site
    if not home.left.exists() and not args.yes:
        _confirm(site, ask)
    signed = leave_consortium(home, args.reason, time=utc())
    file = args.out or home.root / f"leave-{site}.signed"
    write_atomic(file, signed.encode(), mode=0o644)
    out.facts(
        f"{site} has left the consortium, for good", _left_facts(signed.document(LeaveNotice)) | {"notice for the lead": file}
    )
    out.say(f"keep, for as long as anybody may ask: {', '.join(KEEP)}")
    out.say(f"may be deleted once guard and gateway are stopped: {', '.join(MAY_GO)}")
    out.say("the ledger can be verified as before: wardround-site ledger export FILE")
    return 0


def _confirm(site: str, ask: Callable[[str], str]) -> None:
    if not sys.stdin.isatty() and ask is input:
        raise ConfigError("leaving is for good: give --yes where nobody can be asked")
    if ask(f"{site} answers nothing any more, for good. Type {site} to go on: ").strip() != site:
        raise Refused("LEFT", "not confirmed: nothing was changed")


def left_facts(home: Home) -> dict[str, object]:
    return _left_facts(read_notice(home).document(LeaveNotice)) if home.left.exists() else {}


def _left_facts(notice: LeaveNotice) -> dict[str, object]:
    return {
        "left": notice.left,
        "reason": notice.reason,
        "roster version": notice.roster_version,
        "ledger": f"{notice.entries} entries, {notice.ledger_head.hex()}",
    }
