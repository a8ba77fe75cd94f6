"""One consortium in containers for the whole lane; on failure the report ends with every container's last lines."""

import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from consortium_in_containers import Consortium

LAST_LINES = "12"


@pytest.fixture(scope="session")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no container engine with compose: scripts/engine start")
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port = int(probe.getsockname()[1])
    with Consortium(tmp_path_factory.mktemp("containers"), port) as found:
        yield found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Consortium):
                for project in (value.hub, *value.sites.values()):
                    report.sections.append((project.name, project("logs", "--no-color", "--tail", LAST_LINES)))
    return report
