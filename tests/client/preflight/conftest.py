"""A site's folder whose hub a test chooses, and no proxy in the environment."""

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checked_site import Checked
from hospital_network import FakeHub, server_context, serving

from client.config import SiteConfig
from client.enrol import init_site
from client.home import Home
from client.preflight import network
from server.tls import TlsFiles, make_tls

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def _silence_takes_its_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second and more in each test: tried by those that ask for `silent_line`, not by those about something else."""
    if "silent_line" not in request.fixturenames:
        monkeypatch.setattr(network.Talk, "idle", lambda talk: "not tried by this test")


@pytest.fixture
def silent_line() -> None:
    """This test is about silence too."""


@pytest.fixture(scope="session")
def hub_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_tls(tmp_path_factory.mktemp("hub-tls"), ["127.0.0.1", "localhost"], now=datetime.datetime.now(datetime.UTC))


@pytest.fixture
def site(tmp_path: Path, hub_files: TlsFiles, capsys: pytest.CaptureFixture[str]) -> Checked:
    """Initialised, with the hub's authority, and no hub yet."""
    home = Home(tmp_path / "site")
    (home.root / "data").mkdir(parents=True, mode=0o700)
    init_site(home, SiteConfig("site-a", ("cis_conversion",), home.root / "data", "main", "", 1))
    home.hub_ca.write_bytes(hub_files.ca.read_bytes())
    return Checked(home, hub_files, capsys)


@pytest.fixture
def hub_with(site: Checked) -> Iterator[Callable[..., FakeHub]]:
    """Starts the hub that `site` joins, with this wrong with it."""
    opened = []

    def start(**faults: object) -> FakeHub:
        hub = FakeHub(server_context(site.tls.certificate, site.tls.key), **faults)  # type: ignore[arg-type]
        running = serving(hub)
        site.joins(running.__enter__())
        opened.append(running)
        return hub

    yield start
    for running in opened:
        running.__exit__(None, None, None)
