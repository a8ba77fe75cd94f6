"""Fixtures: hospitals' tables, a consortium with recorded training, and one that really trains."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from guards_in_process import PATIENTS, SITES, TASK_NAME, Consortium, make_consortium

from client.daemon import InlineTrain, data_source
from client.patients import Patients
from tasks.cis_conversion.synthetic import write_hospitals


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    write_hospitals(folder, len(SITES), PATIENTS, 7)
    return folder


@pytest.fixture
def consortium(tmp_path: Path, hospitals: Path) -> Iterator[Consortium]:
    found = make_consortium(tmp_path, hospitals)
    yield found
    for site in list(found.opened):
        found.stop(site)


@pytest.fixture
def training(consortium: Consortium) -> Consortium:
    """The same, and the sites really train on their tables."""
    for site in SITES:
        source = data_source(consortium.roster, folder=consortium.data / site, tasks=(TASK_NAME,), key=bytes(32))
        consortium.train[site] = InlineTrain(Patients(source))
    return consortium
