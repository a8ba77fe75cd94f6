"""The command that begins a change of this site's keys: rotate."""

import argparse

from client.cli_output import Output
from client.config import load_config
from client.home import Home
from client.rotation import prepare

EXAMPLE = """example:
  wardround-site rotate                                   new keys beside the old; hand rotate-request.json to the lead
  wardround-site rotate --key-lost "disk broke, backup had no keys"       only where the old identity key is gone"""


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    rotate = verbs.add_parser(
        "rotate", help="change this site's keys", epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rotate.add_argument("--key-lost", default="", metavar="WHY", help="the old identity key is lost: every auditor will read why")
    rotate.set_defaults(handler=_rotate)


def _rotate(home: Home, args: argparse.Namespace, out: Output) -> int:
    asked = prepare(home, load_config(home).site, key_lost=args.key_lost)
    facts = {"new fingerprint": asked.fingerprint, "in place of": asked.old, "hand to the lead": asked.file}
    out.facts(f"site {asked.site}: new keys are made, the old ones stay in force", facts)
    out.say("1. Tell the new fingerprint to the lead by telephone, and send the file.")
    if home.identity.exists():
        out.say("2. When the lead's new roster is here, guard and gateway switch by themselves, and the ledger says so.")
    else:
        out.say("2. No guard runs without the old key: join with a new invite from the lead, then start the guard.")
    out.say("3. Back up this folder then: the old identity key is gone for good, `retired/` keeps its public half.")
    out.say("Runs of the old roster end with it, as with every new roster: let them finish first.")
    return 0
