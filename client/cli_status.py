"""`wardround-site status`: what this site is doing, what it waits for, and what somebody must see to."""

import argparse
from collections.abc import Mapping
from typing import Any

from client.cli_output import Output
from client.home import Home
from client.status import refusal_lines, site_status

EXAMPLE = """examples:
  wardround-site status                   what runs, what is waited for, what somebody must see to
  wardround-site --json status            the same for programs (keys: README of `client`)
exit status: 0 guard and gateway are up, 1 one of them is not, 2 there is no site here"""


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    shape = argparse.RawDescriptionHelpFormatter
    about = "what this site is doing and what it waits for"
    verbs.add_parser("status", help=about, description=about, epilog=EXAMPLE, formatter_class=shape).set_defaults(handler=_status)


def _status(home: Home, args: argparse.Namespace, out: Output) -> int:
    found = site_status(home)
    if out.as_json:
        out.facts("status", found.document | {"problems": found.problems})
    else:
        out.facts(f"site {found.document['site']}", lines(found.document))
        for title, told in (("last refusals", refusal_lines(found.document)), ("see to", found.problems)):
            for line in told:
                out.say(f"{title}: {line}")
    return 0 if found.well else 1


def lines(document: Mapping[str, Any]) -> dict[str, str]:
    """One line for each part, for people."""
    hub, plans, budget = document["hub"], document["plans_waiting"], document["budget"]
    facts = {
        "guard": _part(document["guard"]),
        "trainer": _part(document["trainer"]),
        "gateway": _part(document["gateway"], times=False),
        "hub": f"{hub['address']}: {_part(hub)}" + (f", last contact {hub['last_contact']}" if hub.get("last_contact") else ""),
        "roster": _roster(document["roster"]),
        "paused": f"since {document['paused_since']}" if document["paused_since"] else "no",
        "plans that wait": ", ".join(plans) or "none" if isinstance(plans, list) else "cannot be read",
        "budget": "; ".join(budget) if isinstance(budget, list) else "cannot be read",
        "disk": f"{document['disk_free_mib']} MiB free",
        "log": document["log"],
    }
    for step in document["guard"].get("waiting", []):
        round_number = f", round {step['round']}" if step.get("round") else ""
        facts[f"run {step.get('run')}"] = f"{step.get('phase')}{round_number}{_times(step)}"
    if isinstance(document["left"], list):
        facts |= {f"left {one['run']}": one["words"] for one in document["left"]}
    return facts


def _roster(roster: Mapping[str, Any]) -> str:
    if "version" not in roster:
        return "cannot be read"
    changed = f"; {roster['changed']}" if roster["changed"] else ""
    at_the_hub = f"; {roster['at_the_hub']}" if roster["at_the_hub"] else ""
    return f"version {roster['version']}: {', '.join(roster['members'])}{changed}{at_the_hub}"


def _part(part: Mapping[str, Any], *, times: bool = True) -> str:
    state, words = str(part.get("state")), str(part.get("words"))
    return (words if words.startswith(state) else f"{state}, {words}") + (_times(part) if times else "")


def _times(part: Mapping[str, Any]) -> str:
    since = f", since {part['since']}" if part.get("since") else ""
    return since + (f", until {part['until']} at the latest" if part.get("until") else "")
