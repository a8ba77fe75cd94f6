"""Is the site itself in order: settings, identity, roster, policy, ledger, tables, and who is running?"""

import contextlib
import os
from pathlib import Path

from client.cli_roster import past_changes
from client.clock import ALIVE_S, age_s
from client.config import SiteConfig, load_config
from client.daemon import code_version, data_source
from client.errors import ConfigError, Refused, SiteError
from client.home import Home
from client.patients import Patients
from client.policy_file import PolicyFile
from client.preflight.findings import NotTried, Problem
from client.status import read_display
from consortium.errors import ConsortiumError
from consortium.identity import fingerprint
from privacy.verify import verify_ledger
from tasks.errors import TaskError
from tasks.registry import available

WORDS_MOST = 300  # characters of what the gateway says


def settings(home: Home) -> SiteConfig:
    """site.yaml. Raises `Problem`."""
    if not home.root.is_dir():
        raise Problem("NO_HOME", f"there is no folder {home.root}")
    try:
        return load_config(home)
    except ConfigError as error:
        raise Problem("CONFIG", _line(error)) from error


def hub_of(home: Home) -> str:
    """host:port by site.yaml; without one, as in a gateway's container, by what lies in the gateway's folder; or nothing."""
    if home.config.exists():
        return settings(home).hub
    try:
        return home.hub_address.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def configuration(home: Home, *, guard: bool) -> str:
    """What site.yaml says, and that its tasks are installed; a gateway alone does without."""
    if not guard and not home.config.exists() and home.hub_address.exists():
        return f"no site.yaml, as in a gateway's container; version {code_version()}"
    config = settings(home)
    if missing := [task for task in config.tasks if task not in available()]:
        raise Problem("TASK", f"task {missing[0]!r} of site.yaml is not installed; installed: {', '.join(sorted(available()))}")
    return f"site {config.site}, task {', '.join(config.tasks)}, version {code_version()}"


def identity(home: Home) -> str:
    """The fingerprint that this site told by telephone, and that of a key that waits to follow it."""
    fresh = home.load_next()
    waits = "" if fresh is None else f"; {fingerprint(fresh.public)} waits for a roster that lists it"
    return f"fingerprint {fingerprint(home.load_identity().public)}{waits}"


def roster(home: Home) -> str:
    """The roster that this site follows, and that it lists this site with this key."""
    config = settings(home)
    if home.left.exists():
        raise Problem("LEFT", f"{home.left} says so")
    try:
        found = home.load_roster()
    except ConfigError as error:
        raise Problem("ROSTER_MISSING", _line(error)) from error
    try:
        member = found.member(config.site)
    except ConsortiumError as error:
        raise Problem("ROSTER_KEY", f"roster version {found.version} of {found.consortium} does not list {config.site}") from error
    if member.identity_key not in home.own_keys():
        raise Problem("ROSTER_KEY", f"roster version {found.version} of {found.consortium} lists another key for {config.site}")
    past = past_changes(home)
    changed = f"; since {past[-1]['time']}: {'; '.join(past[-1]['changes'])}" if past else ""
    return f"{found.consortium}, version {found.version}, {len(found.sites)} sites{changed}"


def policy(home: Home) -> str:
    """What the policy allows at most."""
    try:
        found = PolicyFile(home.policy).load()
    except Refused as error:
        raise Problem("POLICY_BAD", " ".join(error.detail.split())) from error
    if found is None:
        raise Problem("POLICY_MISSING", f"there is no {home.policy}")
    return f"budget epsilon {found.budget_epsilon}" + (", NOT PRIVATE runs allowed" if found.allow_non_private else "")


def ledger(home: Home) -> str:
    """That chain and signatures are whole."""
    try:
        data = home.ledger.read_bytes()
    except FileNotFoundError as error:
        raise Problem("LEDGER_MISSING", f"there is no {home.ledger}") from error
    if not (head := home.ledger.with_name(f"{home.ledger.name}.head")).exists():
        raise Problem("LEDGER_MISSING", f"there is no {head}")
    if held(home.ledger) and not guard_answers(home):
        raise Problem("LEDGER_HELD", f"{home.ledger} is in use, and no guard answers at {home.socket}")
    report = verify_ledger(data, home.load_identity().public, accepted=home.fingerprints())
    if report.problems:
        raise Problem("LEDGER_BAD", f"the ledger does not verify: {report.problems[0]}")
    return f"{report.entries} entries, chain and signatures whole"


def held(path: Path, locks: Path = Path("/proc/locks")) -> bool:
    """Whether some process holds a lock on the file, as far as the system shows; nothing is locked to find out."""
    try:
        lines = locks.read_text().splitlines()
    except OSError:
        return False
    inode = f":{path.stat().st_ino}"
    return any(" FLOCK " in f" {line} " and line.split()[5].endswith(inode) for line in lines if len(line.split()) > 5)


def data(home: Home) -> str:
    """That the tables can be used, by loading them as a training would; patients' values are in no word of it."""
    config = settings(home)
    _see(config.data)
    patients = Patients(data_source(home.load_roster(), folder=config.data, tasks=config.tasks))
    for task in config.tasks:
        try:
            trained = patients.trainer(task).sides.training.patients
        except TaskError as error:
            raise Problem("DATA_BAD", f"task {task} cannot use {config.data}: {_line(error)}") from error
        except PermissionError as error:
            raise Problem("DATA_MISSING", f"{error.filename} cannot be read by user {os.geteuid()}") from error
        if not trained:
            raise Problem("DATA_NOBODY", f"of {config.data} no patient is left for training {task}")
    return f"fits {', '.join(config.tasks)}"


def _see(folder: Path) -> None:
    """The folder is there, can be read, and holds something: an empty one is a mount that failed."""
    try:
        if not any(folder.iterdir()):
            raise Problem("DATA_MISSING", f"the data folder {folder} is empty: is it mounted?")
    except OSError as error:
        raise Problem(
            "DATA_MISSING", f"the data folder {folder} cannot be read by user {os.geteuid()} ({error.strerror})"
        ) from error


def device(home: Home) -> str:
    """Where models are computed."""
    try:
        return settings(home).computed_on.told()
    except ConfigError as error:
        raise Problem("DEVICE", _line(error)) from error


def guard_answers(home: Home) -> bool:
    """Whether a guard answers at the socket."""
    if not home.socket.exists():
        return False
    from client.guard_rpc import GuardClient

    with contextlib.closing(GuardClient(home.socket)) as guard:
        return guard.health()


def guard(home: Home) -> str:
    """For information: a guard that is not running is no problem of a check before the start."""
    if guard_answers(home):
        return "running"
    return "not running: `wardround-site guard` starts it"


def gateway(home: Home) -> str:
    """What the gateway last said of itself. Raises `Problem` where the hub refused it."""
    board = home.root / "gateway" / "state" / "gateway.json"
    if not os.path.lexists(board):
        return "not started yet: `wardround-site gateway` starts it"
    said = read_display(board)  # a gateway that somebody took over may plant anything there
    if not said:
        raise NotTried(f"{board} cannot be read")
    state, since = str(said.get("supernode")), str(said.get("since"))
    if age_s(said.get("beat")) > ALIVE_S:
        return f"not running: `wardround-site gateway` starts it (last it was {state}, since {since})"
    if state == "refused":
        why = "".join(letter for letter in str(said.get("detail") or "no reason") if letter.isprintable())[:WORDS_MOST]
        raise Problem("NOT_REGISTERED", f"the hub refused this site's gateway (since {since}): {why}")
    return f"{state} since {since}"


def roster_version(home: Home) -> int:
    """Of the roster here. Raises `NotTried` where there is none: the gateway's container has none."""
    if not home.roster.exists():
        raise NotTried("no roster is here")
    return home.load_roster().version


def _line(error: SiteError | TaskError | ConsortiumError) -> str:
    return " ".join(str(error).split())
