"""The gateway loads nothing that could open a bundle or a patient's table, and two never share a folder."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from client import relay
from client.relay import Board, GatewayConfig, GatewayError, run_gateway

ROOT = Path(__file__).parents[2]
FORBIDDEN = ("torch", "pandas", "sklearn", "mlflow", "opacus", "flwr.cli", "flwr.supernode.runtime", "tasks", "server")


def test_the_relay_imports_no_framework_and_no_bundle_installer() -> None:
    program = f"import sys, client.relay; print([m for m in {FORBIDDEN!r} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def config(folder: Path) -> GatewayConfig:
    for name in ("ca.pem", "key"):
        (folder / name).write_text("")
    return GatewayConfig("127.0.0.1:1", folder / "ca.pem", folder / "key", folder / "guard.sock", folder / "state")


@pytest.mark.parametrize("name", ["ca.pem", "key"])
def test_a_missing_file_is_named_before_anything_starts(tmp_path: Path, name: str) -> None:
    settings = config(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(GatewayError, match=name):
        run_gateway(settings)
    assert not settings.state_dir.exists()


def test_a_second_gateway_on_one_folder_is_refused(tmp_path: Path) -> None:
    settings = config(tmp_path)
    settings.state_dir.mkdir()
    with relay._only_one(settings.state_dir), pytest.raises(GatewayError, match="another gateway"):
        run_gateway(settings)


def test_the_hub_is_reached_through_the_proxy_and_the_gateways_own_port_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "intranet.example.org")
    exceptions = relay._proxy_exceptions()
    assert exceptions["no_proxy"] == exceptions["NO_PROXY"] == "intranet.example.org,127.0.0.1"


def test_the_boards_file_is_whole_at_any_time(tmp_path: Path) -> None:
    board = Board(tmp_path)
    threads = [threading.Thread(target=board.show, kwargs={"node_id": number}) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert '"node_id":' in (tmp_path / "gateway.json").read_text()


def test_a_waiting_supernode_never_sleeps_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slept: list[float] = []
    monkeypatch.setattr(relay.time, "sleep", slept.append)
    hub = relay._HubWatch(tmp_path / "node_id")
    hub.sleep(3)
    hub.sleep(0.5)
    assert slept == [relay.HUB_POLL_S, relay.REPLY_POLL_S]
