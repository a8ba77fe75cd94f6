"""One consortium of real programs for the whole lane; on failure the report ends with every program's last lines."""

import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from consortium_of_four import Consortium
from faulty_consortium import FaultyConsortium

LAST_LINES = 12


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyConsortium]:
    with FaultyConsortium(tmp_path_factory.mktemp("consortium") / "c") as consortium:
        yield consortium


@pytest.fixture
def consortium(founded: FaultyConsortium) -> FaultyConsortium:
    """The shared consortium with every part up, whatever the test before did to it."""
    founded.mend()
    return founded


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Consortium):
                report.sections.append(("programs", value.last_lines(LAST_LINES)))
    return report
