"""Opens a site: identity, roster, ledger, policy and trainer are all in order before the guard answers its first message."""

import ctypes
import importlib.metadata
import logging
import os
import resource
from datetime import UTC, datetime
from pathlib import Path

from client import migrate
from client.device import PROCESSORS, DeviceChoice
from client.errors import ConfigError
from client.guard import Site
from client.home import Home
from client.job import AskPopulation, Job, Population, Result, Train
from client.logs import Logs
from client.patients import DataSource, Patients
from client.policy_file import PolicyFile
from client.rotation import open_ledger
from consortium.identity import SigningKey
from consortium.roster import Roster
from privacy.ledger import Ledger
from privacy.terms import split_id

log = logging.getLogger("wardround.guard")


def code_version() -> str:
    """The installed distribution's, which plans are held against (`consortium.version`). Raises `ConfigError`."""
    try:
        return importlib.metadata.version("wardround")
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError("the distribution wardround is not installed: pip install it (or -e .), then try again") from error


def harden_process() -> None:
    """No core dumps, and no other process of this user may read this one's memory: protocol secrets live there only."""
    set_dumpable = 4  # PR_SET_DUMPABLE, linux/prctl.h; also forbids ptrace and /proc/PID/mem to all but root
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(set_dumpable, 0, 0, 0, 0):
        raise ConfigError(f"the system does not let the guard close its memory (errno {ctypes.get_errno()}): run it on Linux")
    os.umask(0o077)


def data_source(
    roster: Roster,
    *,
    folder: Path,
    tasks: tuple[str, ...],
    threads: int = 1,
    audit: Path | None = None,
    key: bytes = b"",
    cache: Path | None = None,
    device: DeviceChoice = PROCESSORS,
) -> DataSource:
    if not folder.is_dir():
        raise ConfigError(f"the data folder {folder} does not exist: set `data:` in site.yaml to the folder with the tables")
    return DataSource(folder, tasks, roster.split_salt, roster.held_out_fraction, threads, audit, key, cache, device)


def create_ledger(home: Home, *, site: str, key: SigningKey, roster: Roster, population: str, now: float) -> None:
    """The one ledger of this patient population; made once, at join, and never again while the file or its head exists."""
    Ledger.create(
        home.ledger,
        key,
        site=site,
        population=population,
        split_id=split_id(roster),
        consortium=roster.consortium,
        now=datetime.fromtimestamp(now, tz=UTC),
    ).close()


def open_site(
    home: Home,
    *,
    site: str,
    tasks: tuple[str, ...],
    train: Train,
    now: float,
    threads: int = 1,
    population: AskPopulation | None = None,
) -> Site:
    """`population`: whose data the next job would use; None where no patients are behind `train`.

    Raises `ConfigError`, `KeyFileError` or `LedgerError`: a guard with anything missing does not start. One that the consortium
    removed does, and refuses everything: a later roster that lists it again reaches it."""
    migrate.forward(home.root, code_version())
    roster = home.load_roster()
    if site not in {member.id for member in roster.sites}:
        log.warning("roster=%d state=not-listed site=%s detail=the consortium removed it, ask the lead", roster.version, site)
    key, ledger = open_ledger(home, site, roster, datetime.fromtimestamp(now, tz=UTC))
    return Site(
        home=home,
        id=site,
        key=key,
        roster=roster,
        policy=PolicyFile(home.policy),
        ledger=ledger,
        train=train,
        tasks=tasks,
        code_version=code_version(),
        threads=threads,
        population=population,
    )


class InlineTrain:
    """Training in this very process: for simulations, where one process plays many sites."""

    def __init__(self, patients: Patients) -> None:
        self._patients = patients

    def __call__(self, job: Job, deadline_s: float) -> Result:
        return self._patients.run(job)

    def population(self, task: str, deadline_s: float) -> Population:
        return self._patients.population(task)


def log_to(path: Path | None, *, console: bool = True) -> None:
    """Text lines to the site's own log file and, if `console`, to standard error."""
    Logs("guard", file=path, console=console).start()
