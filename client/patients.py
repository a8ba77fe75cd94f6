"""Who the computations of a site are about: loaded, loaded again when the data changed, and named without naming anybody.

Before every job the folder is looked at: when a table, a mapping or the list of withdrawals is another file than before, everything
that was made of the old one is thrown away. Whoever took consent back is so in no later computation, without a restart.
"""

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from client.device import PROCESSORS, DeviceChoice
from client.errors import TrainerError
from client.job import Job, Population, Result
from tasks.cohorts import data_state, open_patients
from tasks.imaging.task import ImageTask
from tasks.registry import find_task

if TYPE_CHECKING:
    from client.trainer import Trainer

MEMBER_BYTES = 16  # of each patient's keyed name: enough that no two are alike
MEMBER, POPULATION = b"wardround/population/member/1\x00", b"wardround/population/1\x00"


@dataclass(frozen=True)
class DataSource:
    """Where the patients are and which of them are held out. `tasks`: the first is the one that the data is checked with.

    `population_key`: the site's secret with which pseudonyms are hidden in the ledger.
    """

    folder: Path
    tasks: tuple[str, ...]
    salt: bytes
    held_out_fraction: float
    threads: int = 1
    audit: Path | None = None  # where the canaries of a plan write what they measured; None: they are not used
    population_key: bytes = field(default=b"", repr=False)
    cache: Path | None = None  # of prepared scans
    device: DeviceChoice = PROCESSORS  # where models are computed


class Patients:
    """The trainers of one site, one for each task that was asked for, all of the folder as it is now."""

    def __init__(self, source: DataSource) -> None:
        self._source = source
        self._seen: object = None
        self._open: dict[str, tuple[Trainer, Population]] = {}

    def trainer(self, task: str) -> "Trainer":
        """The trainer of `task`. Raises `TaskError` with the report's findings, never values."""
        return self._loaded(task)[0]

    def population(self, task: str) -> Population:
        """Who the computations of `task` are about, now."""
        return self._loaded(task)[1]

    def run(self, job: Job) -> Result:
        """Raises `TrainerError` if the patients are others than those that the guard wrote down for this job."""
        trainer, population = self._loaded(job.plan.task.name)
        if job.population and population.digest != job.population:
            raise TrainerError("the patients changed while the round was being prepared: the next round has the new ones")
        return trainer.run(job)

    def _loaded(self, task: str) -> "tuple[Trainer, Population]":
        from client.trainer import Trainer  # imports torch: in the child, and in a simulation's worker

        source = self._source
        now = data_state(source.folder, images=any(isinstance(find_task(name), ImageTask) for name in source.tasks))
        if now != self._seen:
            self._open.clear()
            self._seen = now
        if task not in self._open:
            if task not in source.tasks:
                raise TrainerError(f"this site is set up for {', '.join(source.tasks)}, not for {task}")
            found = find_task(task)
            opened = open_patients(found, source.folder)
            trainer = Trainer(
                found, opened.cohort, salt=source.salt, held_out_fraction=source.held_out_fraction, entropy=os.urandom,
                audit=source.audit, cache=source.cache, device=source.device,
            )  # fmt: skip
            self._open[task] = trainer, population_of(opened.cohort.patient_ids, opened.withdrawn, source.population_key)
        return self._open[task]


def population_of(patients: tuple[str, ...], withdrawn: frozenset[str], key: bytes) -> Population:
    """Keyed names of the patients in use and of those who withdrew, and one digest of the former."""
    members = frozenset(_hidden(name, key) for name in set(patients))
    whole = hmac.new(key, POPULATION + b"".join(sorted(members)), hashlib.sha256).digest()
    return Population(whole, members, frozenset(_hidden(name, key) for name in withdrawn))


def _hidden(name: str, key: bytes) -> bytes:
    return hmac.new(key, MEMBER + name.encode(), hashlib.sha256).digest()[:MEMBER_BYTES]
