"""The one way from a hospital's folder to the patients of a computation: checked tables, consent, criteria, then the task.

A task that has `cohort_of` reads the eleven tables of the data contract; any other one its own table by `mapping.yaml`. Whoever
took consent back is in neither. pandas is imported only where tables are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import numpy as np

from tasks.base import Cohort, Contract, Task
from tasks.data import load_cohort
from tasks.errors import DataError
from tasks.imaging.task import ImageTask
from tasks.mapping import MAPPING_FILE, read_mapping
from tasks.ms.contract import CONTRACT
from tasks.ms.reading import holds_contract_tables
from tasks.sums import SumsTask
from tasks.table import read_table
from tasks.withdrawals import WITHDRAWN_FILE, read_withdrawn

if TYPE_CHECKING:
    import pandas as pd

    from tasks.eligibility.admit import Admitted
    from tasks.imaging.store import Scan

ELIGIBILITY_FILE: Final = "eligibility.yaml"


@runtime_checkable
class ReadsTables(Protocol):
    """What a task has that reads the tables of the data contract."""

    def cohort_of(self, tables: Mapping[str, pd.DataFrame]) -> Cohort:
        """The site's patients from accepted tables, consent and criteria already enforced."""
        ...


@dataclass(frozen=True)
class OpenedPatients:
    """A task's patients, and the pseudonyms of all who took consent back, whether the tables still have them or not."""

    cohort: Cohort
    withdrawn: frozenset[str] = field(repr=False)


def open_cohort(task: Task | SumsTask, folder: Path) -> Cohort:
    """The patients of `task`. Raises `TaskError`: what is wrong with tables, mapping, criteria or the list of withdrawals."""
    return open_patients(task, folder).cohort


def open_patients(task: Task | SumsTask, folder: Path) -> OpenedPatients:
    """The same, with those who are not in it since they withdrew."""
    if not folder.is_dir():
        raise DataError(f"there is no data folder {folder}: see site.yaml, or name another one")
    withdrawn = read_withdrawn(folder)
    if isinstance(task, ImageTask):
        scans, gone = usable_scans(folder)
        return OpenedPatients(task.cohort_of_scans(scans), withdrawn | gone)
    if isinstance(task, ReadsTables):
        found = admitted(folder)
        gone = frozenset(name for name, state in found.states.items() if state == "withdrawn")
        return OpenedPatients(task.cohort_of(found.tables), withdrawn | gone)
    return OpenedPatients(_mapped(folder, task.contract, withdrawn), withdrawn)


def admitted(folder: Path) -> Admitted:
    """The accepted rows of the patients who may be in a computation, by consent, by `withdrawn.txt` and by `eligibility.yaml`.

    `DataError` if a file cannot be used, or if nobody is left.
    """
    from tasks.eligibility.admit import admit
    from tasks.eligibility.criteria import load_criteria

    withdrawn = read_withdrawn(folder)
    criteria = load_criteria(folder / ELIGIBILITY_FILE) if (folder / ELIGIBILITY_FILE).exists() else None
    found = admit(accepted_tables(folder), criteria, withdrawn=withdrawn)
    if not found.patients:
        raise DataError("consent and criteria leave no patient: see `wardround-site data profile`")
    return found


def accepted_tables(folder: Path) -> Mapping[str, pd.DataFrame]:
    """The rows that keep the contract's rules, whoever's they are; `DataError` if a file cannot be used or nobody is in them."""
    from tasks.ms.validate import validate_folder

    checked = validate_folder(folder)
    if errors := [finding for finding in checked.report.of("error") if finding.about_file]:
        raise DataError(
            f"{folder}: {errors[0].table or 'the folder'}: {errors[0].rule.sentence} Nothing is computed from a part of the "
            "tables; see `wardround-site data validate`."
        )
    if "patients" not in checked.accepted:
        raise DataError(f"{folder} holds no table patients: see `wardround-site data dictionary`")
    return checked.accepted


def usable_scans(folder: Path) -> tuple[tuple[Scan, ...], frozenset[str]]:
    """The sessions of everybody who may be in a computation, by names and headers, and who of the tables took consent back.

    Images beside tables of the data contract are those of their patients: consent and criteria are asked there. Images alone
    are of whomever the folders name. `DataError` if there are no images, or nobody is left.
    """
    from tasks.eligibility.flow import INCLUDED

    scans, withdrawn, gone = all_scans(folder), read_withdrawn(folder), frozenset[str]()
    if holds_contract_tables(folder, CONTRACT):
        states = admitted(folder).states
        gone = frozenset(name for name, state in states.items() if state == "withdrawn")
        scans = tuple(scan for scan in scans if states.get(scan.patient) == INCLUDED)
    scans = tuple(scan for scan in scans if scan.patient not in withdrawn)
    if not scans:
        raise DataError("no session of images can be used: see `wardround-site data validate`")
    return scans, gone


def all_scans(folder: Path) -> tuple[Scan, ...]:
    """The usable sessions of everybody, consent not asked. Whose a folder is hangs on all accepted rows: were it on those of who
    may be in, a patient who withdraws would hand his folder to another of that name."""
    from tasks.imaging.links import links_of  # here: nibabel is for those who read images
    from tasks.imaging.store import holds_images, images_beside, open_store

    images = images_beside(folder) or (folder if holds_images(folder) else None)
    if images is None:
        raise DataError(f"{folder} has no folder of images: put `images` beside the tables, or a link to it")
    tables = accepted_tables(folder) if holds_contract_tables(folder, CONTRACT) else None
    return open_store(images, None if tables is None else links_of(tables)).scans


def known_patients(task: Task | SumsTask, folder: Path) -> frozenset[str]:
    """Every pseudonym that the tables have, whether the patient is usable or not; raises as `open_cohort` does."""
    if isinstance(task, ImageTask):
        named = frozenset(scan.patient for scan in all_scans(folder))
        return named | (frozenset(admitted(folder).states) if holds_contract_tables(folder, CONTRACT) else frozenset())
    if isinstance(task, ReadsTables):
        return frozenset(admitted(folder).states)
    mapping = read_mapping(folder / MAPPING_FILE, task.contract)
    table = read_table(folder, mapping.table)
    position = table.position(mapping.id_source)
    return frozenset(row.cells[position] for row in table.rows) - mapping.missing


def _mapped(folder: Path, contract: Contract, withdrawn: frozenset[str]) -> Cohort:
    cohort = load_cohort(folder, contract)
    kept = np.array([name not in withdrawn for name in cohort.patient_ids], dtype=bool)
    if kept.all():
        return cohort
    if not kept.any():
        raise DataError(f"every patient of the table is in {WITHDRAWN_FILE}: nothing is computed")
    ids = tuple(name for name, keep in zip(cohort.patient_ids, kept, strict=True) if keep)
    return replace(cohort, patient_ids=ids, values=cohort.values[kept], labels=cohort.labels[kept])


def data_state(folder: Path, *, images: bool = False) -> tuple[tuple[str, int, int, int], ...]:
    """What tells that the folder's files are others than before: name, size, time of change and inode of each.

    `images`: those in folders below it too, through a link `images` as well.
    """
    found = []
    try:
        linked = images and (folder / "images").is_symlink()  # which the walk does not follow
        beside = sorted((folder / "images").rglob("*")) if linked else []
        for path in sorted(folder.rglob("*") if images else folder.iterdir()) + beside:
            if path.is_file():
                status = path.stat()
                found.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns, status.st_ino))
    except OSError as error:
        raise DataError(f"the data folder {folder} cannot be read ({error.strerror}): nothing is computed before it can") from error
    return tuple(found)
