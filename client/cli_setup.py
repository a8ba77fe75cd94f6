"""Commands to become a site and to see whether it works: init, join, check."""

import argparse
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from client.cli_output import Output
from client.cli_roster import past_changes
from client.config import SiteConfig, load_config
from client.daemon import code_version, data_source
from client.enrol import init_site, join_by_invite, read_invite
from client.errors import ConfigError, SiteError
from client.home import Home
from client.patients import Patients
from client.policy_file import PolicyFile
from consortium.errors import ConsortiumError
from consortium.identity import fingerprint
from consortium.invite import shown_on_both_sides
from privacy.errors import PrivacyError
from privacy.verify import verify_ledger
from tasks.errors import TaskError
from tasks.registry import available

DISK_MIB = 512


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
    check = verbs.add_parser("check", help="is everything ready? one line for each problem; sends nothing")
    check.set_defaults(handler=_check)


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


def _check(home: Home, args: argparse.Namespace, out: Output) -> int:
    """Every check that can be made without sending anything; exit status 1 if one fails."""
    rows = []
    for name, run in CHECKS.items():
        try:
            rows.append({"check": name, "state": "ok", "detail": run(home)})
        except (SiteError, ConsortiumError, PrivacyError, TaskError, OSError) as error:
            rows.append({"check": name, "state": "PROBLEM", "detail": str(error)})
    out.rows("check", rows)
    return int(any(row["state"] != "ok" for row in rows))


def _configuration(home: Home) -> str:
    config = load_config(home)
    return f"site {config.site}, task {', '.join(config.tasks)}, version {code_version()}"


def _identity(home: Home) -> str:
    fresh = home.load_next()
    waits = "" if fresh is None else f"; {fingerprint(fresh.public)} waits for a roster that lists it"
    return f"fingerprint {fingerprint(home.load_identity().public)}{waits}"


def _roster(home: Home) -> str:
    roster, config = home.load_roster(), load_config(home)
    if home.left.exists():
        raise ConfigError(f"this site left the consortium for good: {home.left}")
    listed = {member.id: member for member in roster.sites}
    if config.site not in listed:
        raise ConfigError(f"roster version {roster.version} does not list {config.site}: the consortium removed it, ask the lead")
    if listed[config.site].identity_key not in home.own_keys():
        raise ConfigError(f"the roster lists another key for {config.site}: ask the lead for a new roster")
    past = past_changes(home)
    changed = f"; since {past[-1]['time']}: {'; '.join(past[-1]['changes'])}" if past else ""
    return f"{roster.consortium}, version {roster.version}, {len(roster.sites)} sites{changed}"


def _policy(home: Home) -> str:
    policy = PolicyFile(home.policy).load()
    if policy is None:
        raise ConfigError(f"no policy file at {home.policy}: nothing will train")
    return f"budget epsilon {policy.budget_epsilon}" + (", NOT PRIVATE runs allowed" if policy.allow_non_private else "")


def _ledger(home: Home) -> str:
    try:
        data = home.ledger.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"no ledger at {home.ledger}: join first; if there was one, restore it from your backup") from error
    report = verify_ledger(data, home.load_identity().public, accepted=home.fingerprints())
    if report.problems:
        raise ConfigError(f"the ledger does not verify: {report.problems[0]}")
    return f"{report.entries} entries, chain and signatures whole"


def _data(home: Home) -> str:
    config = load_config(home)
    patients = Patients(data_source(home.load_roster(), folder=config.data, tasks=config.tasks))
    for task in config.tasks:
        if not patients.trainer(task).sides.training.patients:
            raise ConfigError(f"no patient is left for training {task}: see `wardround-site data validate`")
    return f"fits {', '.join(config.tasks)}"


def _space(home: Home) -> str:
    free = shutil.disk_usage(home.root).free // 2**20
    if free < DISK_MIB:
        raise ConfigError(f"{free} MiB free at {home.root}, at least {DISK_MIB} are needed: the ledger must never fail to write")
    return f"{free} MiB free"


def _device(home: Home) -> str:
    return load_config(home).computed_on.told()


CHECKS: dict[str, Callable[[Home], str]] = {
    "configuration": lambda home: (
        f"site {load_config(home).site}, task {', '.join(load_config(home).tasks)}, version {code_version()}"
    ),
    "identity key": _identity,
    "roster": _roster,
    "policy": _policy,
    "ledger": _ledger,
    "data": _data,
    "device": _device,
    "disk": _space,
}
