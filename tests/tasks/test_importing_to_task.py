"""From a hospital's export to the patients of a task: what an importer writes is what the task would have had without it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.base import Cohort
from tasks.cdp_2y.task import TASK
from tasks.cohorts import open_cohort
from tasks.eligibility.admit import admit
from tasks.importing.base import Imported
from tasks.importing.dating import pseudonym
from tasks.importing.fhir import read_fhir
from tasks.importing.omop import read_omop
from tasks.importing.writing import write_contract
from tests.shared.core_tables import Hospital, hospital
from tests.shared.fhir_bundles import Export, write_bundle
from tests.shared.omop_tables import Database, numbered, write_csv

KEY = bytes(range(32))
Way = Callable[[Hospital, Path], tuple[Imported, dict[str, str]]]


@pytest.fixture(scope="module")
def clinic() -> Hospital:
    return numbered(hospital(160, 3))


def by_fhir(clinic: Hospital, folder: Path) -> tuple[Imported, dict[str, str]]:
    """What was read, and under which name the export knows each patient."""
    made = write_bundle(folder / "bundle.json", Export(clinic).resources)
    return read_fhir(made, KEY), {name: name for name in clinic.index}


def by_omop(clinic: Hospital, folder: Path) -> tuple[Imported, dict[str, str]]:
    made = Database(clinic)
    persons = {name: str(at) for at, name in enumerate(clinic.tables["patients"]["patient_id"], 1)}
    source = {str(row["person_id"]): str(row["person_source_value"] or row["person_id"]) for row in made.tables["person"]}
    return read_omop(write_csv(folder / "omop", made.tables), KEY), {name: source[at] for name, at in persons.items()}


@pytest.mark.parametrize("way", [by_fhir, by_omop])
def test_a_task_has_the_same_patients_inputs_and_labels_as_before_the_export(clinic: Hospital, way: Way, tmp_path: Path) -> None:
    imported, exported_as = way(clinic, tmp_path)
    write_contract(imported, tmp_path / "ms-data", site="clinic")
    expected, found = TASK.cohort_of(admit(clinic.tables, None).tables), open_cohort(TASK, tmp_path / "ms-data")
    assert by_patient(found) == by_patient(expected, lambda name: pseudonym(exported_as[name], KEY))
    assert expected.size > 50
    assert 10 < expected.labels.sum() < len(expected.labels) - 10


def by_patient(cohort: Cohort, rename: Callable[[str], str] = str) -> dict[str, list[tuple[bytes, int]]]:
    """Of each patient the episodes in their order, inputs to the last bit."""
    found: dict[str, list[tuple[bytes, int]]] = {}
    values = np.where(np.isnan(cohort.values), -1e9, cohort.values)  # every missing value is the same
    for name, row, label in zip(cohort.patient_ids, values, cohort.labels, strict=True):
        found.setdefault(rename(name), []).append((row.tobytes(), int(label)))
    return found
