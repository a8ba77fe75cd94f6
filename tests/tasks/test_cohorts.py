"""One way from a folder to patients: tables, consent, criteria, withdrawals; what cannot be used is an error, not a guess."""

import os
import shutil
from pathlib import Path

import pytest

from tasks.cis_conversion.synthetic import write_hospitals
from tasks.cohort_description.task import TASK as DESCRIPTION
from tasks.cohorts import ReadsTables, accepted_tables, admitted, data_state, known_patients, open_cohort, open_patients
from tasks.errors import DataError, TaskError
from tasks.registry import find_task
from tasks.simulator import Preset, Schedule, SiteSpec, simulate, write

CIS = find_task("cis_conversion")


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clinic")
    write(simulate(Preset("one", (SiteSpec("clinic", 120, Schedule.CLINNOVA, language="fr"),)), 4), folder)
    return folder / "sites" / "clinic"


@pytest.fixture
def own(clinic: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(clinic, tmp_path / "own"))


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mapped")
    write_hospitals(folder, 1, (60,), seed=1)
    return folder / "hospital-1"


def test_a_task_of_tables_and_a_task_of_a_mapping_are_opened_by_one_function(clinic: Path, mapped: Path) -> None:
    assert isinstance(DESCRIPTION, ReadsTables)
    assert not isinstance(CIS, ReadsTables)
    assert 100 < open_cohort(DESCRIPTION, clinic).size <= 120
    assert open_cohort(CIS, mapped).size == 60


def test_who_withdrew_by_scope_or_by_list_is_gone_and_still_known(own: Path) -> None:
    before = open_patients(DESCRIPTION, own)
    by_scope = before.withdrawn
    somebody = before.cohort.patient_ids[0]
    assert by_scope
    assert not by_scope & set(before.cohort.patient_ids)
    (own / "withdrawn.txt").write_text(f"{somebody}\n")
    after = open_patients(DESCRIPTION, own)
    assert after.withdrawn == by_scope | {somebody}
    assert set(before.cohort.patient_ids) - set(after.cohort.patient_ids) == {somebody}
    assert known_patients(DESCRIPTION, own) >= by_scope | {somebody}
    assert len(known_patients(DESCRIPTION, own)) == 120


def test_a_list_that_names_everybody_leaves_nothing_to_compute(own: Path, mapped: Path, tmp_path: Path) -> None:
    (own / "withdrawn.txt").write_text("\n".join(sorted(known_patients(DESCRIPTION, own))) + "\n")
    with pytest.raises(DataError, match="leave no patient"):
        open_cohort(DESCRIPTION, own)
    other = Path(shutil.copytree(mapped, tmp_path / "mapped"))
    (other / "withdrawn.txt").write_text("\n".join(sorted(known_patients(CIS, other))) + "\n")
    with pytest.raises(DataError, match="every patient of the table"):
        open_cohort(CIS, other)


def test_the_folders_criteria_decide_who_is_in(own: Path) -> None:
    everybody = set(admitted(own).patients)
    (own / "eligibility.yaml").write_text(
        "name: women\ntitle: Women\nday: 0\nrules:\n  - name: woman\n    says: women alone\n    sex: {one_of: [F]}\n"
    )
    women = admitted(own)
    assert 0 < len(women.patients) < len(everybody)
    assert set(women.tables["patients"]["sex"]) == {"F"}
    assert set(women.tables["visits"]["patient_id"]) <= set(women.patients)
    (own / "eligibility.yaml").write_text("name: women\nrules: [\n")
    with pytest.raises(TaskError, match="not valid YAML"):
        admitted(own)


def test_a_file_that_cannot_be_used_stops_everything_and_quotes_no_cell(own: Path) -> None:
    header, first, *_ = (own / "visits.csv").read_text().splitlines()
    (own / "visits.csv").write_text(f"{header.replace('edss,', 'edss_total,', 1)}\n{first}\n")
    (own / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"visits: .*Nothing is computed from a part") as caught:
        accepted_tables(own)
    assert first.split(",")[0] not in str(caught.value)
    (own / "patients.csv").unlink()
    (own / "visits.csv").unlink()
    with pytest.raises(DataError, match="patients"):
        accepted_tables(own)


def test_every_change_of_a_file_shows_in_the_folders_state(own: Path, tmp_path: Path) -> None:
    before = data_state(own)
    assert data_state(own) == before
    (own / "withdrawn.txt").write_text("P1\n")
    listed = data_state(own)
    assert listed != before
    (own / "withdrawn.txt").unlink()
    same = (own / "visits.csv").read_bytes()
    status = (own / "visits.csv").stat()
    (own / "new.csv").write_bytes(same)
    os.utime(own / "new.csv", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(own / "new.csv", own / "visits.csv")  # the same bytes, size and time: another file all the same
    assert data_state(own) != before
    with pytest.raises(DataError, match="cannot be read"):
        data_state(tmp_path / "nothing")
