"""`wardround-site data withdraw`: a patient takes consent back, and is in no later computation. Nothing is sent."""

import argparse
import fcntl
import os
import shutil
from pathlib import Path

from client.cli_output import Output
from client.config import load_config
from client.errors import ConfigError, Refused, SiteError
from client.files import write_atomic
from client.home import Home
from tasks.cohorts import known_patients
from tasks.errors import TaskError
from tasks.registry import find_task
from tasks.withdrawals import PSEUDONYM, WITHDRAWN_FILE, read_withdrawn

EXAMPLE = """examples:
  wardround-site data withdraw P294608
  wardround-site data withdraw P294608 --unknown                  also if no table has this patient
From the next round on the patient is in no computation; a running guard needs no restart. What was released before stays
released, with its noise: that cannot be undone. The ledger says that the population changed, without a name or a number.
Prepared scans of this site (`prepared`) are deleted: plans on images make anew what they need, without the patient.
Consent that is given anew is recorded by removing the line from withdrawn.txt in the data folder."""


def add_command(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    shape = argparse.RawDescriptionHelpFormatter
    about = "a patient took consent back: gone from every later computation"
    part = kinds.add_parser("withdraw", help=about, description=about, epilog=EXAMPLE, formatter_class=shape)
    part.add_argument("patient", metavar="PSEUDONYM", help="as the tables have it")
    part.add_argument("--folder", type=Path, help="folder with the tables (default: the site's data folder)")
    part.add_argument("--unknown", action="store_true", help="write it down also if no table has this patient")
    part.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print it as JSON")
    part.set_defaults(handler=_withdraw)


def _withdraw(home: Home, args: argparse.Namespace, out: Output) -> int:
    if not PSEUDONYM.fullmatch(args.patient):
        raise ConfigError("a pseudonym has 1 to 200 characters, none of them a control character, and no comma at its end")
    config = load_config(home)
    folder = args.folder.expanduser() if args.folder else config.data
    if not args.unknown and not _is_known(folder, config.tasks, args.patient):
        raise Refused("UNKNOWN", "no table has this pseudonym: check its spelling, or give --unknown to write it down all the same")
    before = add_withdrawn(folder, args.patient)
    new, listed = args.patient not in before, len(before | {args.patient})
    removed = home.prepared.exists()
    shutil.rmtree(home.prepared, ignore_errors=True)  # of everybody: no file in it names a patient, and what is needed is made anew
    if home.prepared.exists():
        raise SiteError(f"{home.prepared} holds prepared images and was not removed: delete it, then it is gone from there too")
    facts = {"list": folder / WITHDRAWN_FILE, "new": new, "in the list": listed}
    out.facts("withdrawn", facts | ({"prepared scans": "removed"} if removed else {}))
    out.say("From the next round on this patient is in no computation. Take the patient out of the hospital's export too.")
    return 0


def _is_known(folder: Path, tasks: tuple[str, ...], patient: str) -> bool:
    """Whether any task's patients have this pseudonym. Raises `TaskError` if no task can read the folder."""
    errors: list[TaskError] = []
    for task in tasks:
        try:
            if patient in known_patients(find_task(task), folder):
                return True
        except TaskError as error:
            errors.append(error)
    if len(errors) == len(tasks):
        raise errors[0]
    return False


def add_withdrawn(folder: Path, patient: str) -> frozenset[str]:
    """The list as it was; with the patient in it, durable, when this returns. Of several at a time none is lost."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # until it is closed
        before = read_withdrawn(folder)
        lines = "".join(f"{name}\n" for name in sorted(before | {patient}))
        write_atomic(folder / WITHDRAWN_FILE, lines.encode("utf-8"))
    finally:
        os.close(handle)
    return before
