"""What a container engine is told of guard and gateway, and that a gateway needs nothing of the site but its own folder."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from client import health
from client.cli import main as site_command
from client.cli_daemons import METRICS_VARIABLE, _gateway_settings, gateway_config, hub_of
from client.clock import ALIVE_S
from client.config import SiteConfig, write_config
from client.errors import ConfigError
from client.guard_rpc import serve_guard
from client.home import HOME_VARIABLE, Home
from client.logs import AUTO
from client.relay import Board

Asked = Callable[[str], tuple[int, str]]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "gateway" / "state").mkdir(parents=True)
    return Home(tmp_path)


@pytest.fixture
def ask(home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Asked:
    monkeypatch.setenv(HOME_VARIABLE, str(home.root))
    return lambda part: (health.main([part]), capsys.readouterr().out)


def test_a_guard_is_well_while_it_serves_and_not_before_or_after(home: Home, ask: Asked) -> None:
    assert ask("guard")[0] == 1
    server = serve_guard(lambda kind, control, body: (control, body), home.socket, dict)
    try:
        assert ask("guard") == (0, "the guard does its work\n")
    finally:
        server.stop()
    assert ask("guard")[0] == 1


def test_a_gateway_is_well_once_the_hub_took_it_and_says_why_not_otherwise(home: Home, ask: Asked) -> None:
    assert ask("gateway")[0] == 1
    board = Board(home.gateway / "state")
    board.show(supernode="refused", detail="this key is not registered")
    status, said = ask("gateway")
    assert status == 1
    assert "refused since" in said
    assert "this key is not registered" in said
    board.show(supernode="connected", detail=None)
    assert ask("gateway")[0] == 0
    Board(home.gateway / "state")  # started again: the earlier one's connection is no more
    assert "starting since" in ask("gateway")[1]


def test_a_gateway_that_says_nothing_any_more_is_not_well_whatever_it_said_last(home: Home, ask: Asked) -> None:
    board = Board(home.gateway / "state", now=lambda: time.time() - ALIVE_S - 5)
    board.show(supernode="connected", detail=None)
    status, said = ask("gateway")
    assert (status, "says nothing since" in said) == (1, True)


@pytest.mark.parametrize(("given", "port"), [("", 0), ("0", 0), ("9464", 9464)])
def test_a_gateway_in_a_container_takes_its_metrics_port_from_the_environment(
    home: Home, monkeypatch: pytest.MonkeyPatch, given: str, port: int
) -> None:
    monkeypatch.setenv(METRICS_VARIABLE, given)
    assert _gateway_settings(home) == ("", AUTO, port)


@pytest.mark.parametrize("given", ["-1", "65536", "x", "\u00b2"])
def test_a_metrics_port_that_is_none_is_told(home: Home, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(METRICS_VARIABLE, given)
    with pytest.raises(ConfigError, match="expected a port"):
        _gateway_settings(home)


@pytest.mark.parametrize("written", ["", "[]", "{}", '{"supernode": 7}', "not json"])
def test_a_gateways_state_that_cannot_be_read_is_no_health(home: Home, ask: Asked, written: str) -> None:
    (home.gateway / "state" / "gateway.json").write_text(written)
    assert ask("gateway")[0] == 1


def test_a_gateway_starts_from_its_own_folder_without_site_yaml_and_identity(home: Home) -> None:
    with pytest.raises(ConfigError, match="join INVITE"):
        hub_of(home)
    home.hub_address.write_text("hub.example.org:443\n")
    config = gateway_config(home)
    assert config.superlink == "hub.example.org:443"
    assert all(home.gateway in path.parents for path in (config.ca_file, config.supernode_key, config.state_dir))
    assert config.guard_socket == home.socket


def test_where_there_is_a_site_yaml_its_hub_holds(home: Home) -> None:
    home.hub_address.write_text("old.example.org:443\n")
    write_config(home, SiteConfig("new", ("cis_conversion",), home.root, "main", "new.example.org:443", 1))
    assert hub_of(home) == "new.example.org:443"


def test_init_as_json_prints_what_is_to_be_handed_over_and_the_home_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "site"))
    assert site_command(["--json", "init", "--id", "new", "--task", "cis_conversion", "--data", str(tmp_path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "site" / "join-request.json").read_text())
