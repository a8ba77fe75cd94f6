"""Hub, gateways and guards as real processes over TLS: what a hostile hub, a stranger and a killed process can do."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from consortium_on_loopback import Consortium, Site, free_port, make_key, wait_until
from flwr.cli.build import build_fab_from_files

from server.flower import BUNDLE, HubAccess, HubControl, HubError

pytestmark = pytest.mark.e2e
CANARY = "CANARY-7f3a91-hostile-bundle"


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    before = os.environ.get("FLWR_LOG_LEVEL")
    os.environ["FLWR_LOG_LEVEL"] = "INFO"  # the SuperLink then writes down every request
    running = Consortium(tmp_path_factory.mktemp("consortium"))
    try:
        running.add_site("a")
        running.add_site("b")
        running.wait_online()
        yield running
    finally:
        running.stop()
        os.environ.pop("FLWR_LOG_LEVEL")
        if before is not None:
            os.environ["FLWR_LOG_LEVEL"] = before


def run_script(consortium: Consortium, folder: Path, limit_s: float = 120.0, **script: Any) -> dict[str, Any]:
    """What the scripted coordinator found."""
    folder.mkdir(exist_ok=True)
    (folder / "script.json").write_text(json.dumps(script))
    run_id = consortium.submit_scripted(folder)
    state = consortium.finish(run_id, limit_s)
    assert state == "finished:completed", consortium.control.run_status(run_id).details
    return dict(json.loads((folder / "out.json").read_text()))


@pytest.mark.parametrize(("kind", "length"), [("sa1_keys", 0), ("sa1_kem", 10), ("sa1_vote", 10), ("sa1_update", 3_000_000)])
def test_each_kind_goes_to_each_guard_and_back_whole(consortium: Consortium, tmp_path: Path, kind: str, length: int) -> None:
    out = run_script(consortium, tmp_path, kind=kind, body=length, messages=2, deadline_s=60.0)
    assert out["answered"] == [2, 2]
    assert out["failures"] == [{}, {}]
    assert consortium.sites["a"].requests[-1] == f"{kind} 8 {length}"


@pytest.mark.parametrize("message_type", ["train", "query.sa1_vote2", "evaluate", "query.other", "train.sa1_keys"])
def test_another_message_type_is_refused_without_asking_the_guard(
    consortium: Consortium, tmp_path: Path, message_type: str
) -> None:
    before = {name: len(site.requests) for name, site in consortium.sites.items()}
    out = run_script(consortium, tmp_path, raw_type=message_type)
    assert out == {"a": "UNKNOWN_KIND", "b": "UNKNOWN_KIND"}
    assert before == {name: len(site.requests) for name, site in consortium.sites.items()}


def test_a_known_type_with_a_strange_content_is_refused_without_asking_the_guard(consortium: Consortium, tmp_path: Path) -> None:
    before = len(consortium.sites["a"].requests)
    assert run_script(consortium, tmp_path, raw_type="train.sa1_update") == {"a": "UNDECODABLE", "b": "UNDECODABLE"}
    assert len(consortium.sites["a"].requests) == before


def hostile_bundle(marker: Path) -> bytes:
    """A bundle that leaves `marker` when it is built, installed, imported or run, and a canary wherever it is written."""
    strike = f'open({str(marker)!r}, "a").write("{CANARY}")\nprint("{CANARY}")\n'.encode()
    program = (
        strike
        + b"from flwr.clientapp import ClientApp\napp = ClientApp()\n@app.train()\ndef train(*_):\n"
        + (f'    open({str(marker)!r}, "a").write("run")\n'.encode())
    )
    pyproject = BUNDLE["pyproject.toml"].replace(b"server.flower:refuse", b"hostile:app")
    pyproject = pyproject.replace(b"server.flower:app", b"scripted_coordinator:app")
    pyproject = pyproject.replace(b"dependencies = []", b'dependencies = ["pip @ file:///hostile.whl"]')
    pyproject = pyproject.replace(b"hatchling.build", b"hostile")
    pyproject += f'canary = "{CANARY}"\n'.encode()
    files = {
        "pyproject.toml": pyproject,
        "hostile.py": program,
        "setup.py": strike,
        "sitecustomize.py": strike,
        "conftest.py": strike,
        "client/relay.py": strike,
        "client/__init__.py": strike,
        "torch.py": strike,
    }
    return bytes(build_fab_from_files(files)[0])


def test_no_byte_of_a_hostile_bundle_is_fetched_written_imported_or_run_at_a_site(consortium: Consortium, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "script.json").write_text(json.dumps({"kind": "sa1_update", "body": 100, "messages": 2, "deadline_s": 60.0}))
    settings = {"run-dir": str(tmp_path), "nodes": json.dumps(consortium.nodes)}
    run_id = consortium.control.submit_bundle(hostile_bundle(marker), settings)
    assert consortium.finish(run_id) == "finished:completed"
    assert json.loads((tmp_path / "out.json").read_text())["answered"] == [2, 2]  # the bundle's run did reach the sites
    assert not marker.exists()
    for site in consortium.sites.values():
        files = [path for path in site.folder.rglob("*") if path.is_file()]
        assert any(path.name == "gateway.json" for path in files)
        assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
        assert not (site.folder / "gateway" / "flwr" / "apps").exists()
    requests = (consortium.folder / "hub" / "superlink.log").read_text()
    assert "/v1/fleet/get-run" in requests
    assert "/v1/fleet/get-fab" not in requests


def test_a_supernode_whose_key_is_not_registered_is_refused(consortium: Consortium) -> None:
    stranger = consortium.add_site("stranger", registered=False)
    try:
        board = stranger.folder / "gateway" / "gateway.json"
        wait_until(lambda: "supernode=refused" in stranger.gateway_log, "refusal")
        assert json.loads(board.read_text())["node_id"] is None
        assert {node.name for node in consortium.control.nodes()} == {"a", "b"}
        assert stranger.gateway is not None
        assert stranger.gateway.poll() is None  # and it keeps trying: registered later, it joins by itself
        stranger.node_id = consortium.control.register_node(stranger.folder / "supernode.pub", name="stranger")
        wait_until(lambda: consortium.status_of(stranger) == "online", "joined after registration")
    finally:
        stranger.stop()
        consortium.control.unregister_node(stranger.node_id)
        del consortium.sites["stranger"]


def test_control_without_the_hubs_token_is_refused(consortium: Consortium, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0" * 64)
    access = consortium.hub.access
    control = HubControl(HubAccess(access.address, access.ca, tmp_path / "token"))
    with pytest.raises(HubError, match="403"):
        control.nodes()
    with pytest.raises(HubError, match="403"):
        control.submit_bundle(b"", {})
    control.close()


def test_registering_a_key_twice_gives_the_same_node(consortium: Consortium) -> None:
    site = consortium.sites["a"]
    assert consortium.control.register_node(site.folder / "supernode.pub", name="a") == site.node_id


def test_a_site_without_its_guard_says_so_and_comes_back(consortium: Consortium, tmp_path: Path) -> None:
    site = consortium.sites["b"]
    assert site.guard is not None
    site.guard.send_signal(signal.SIGKILL)
    site.guard.wait()
    script: dict[str, Any] = {"kind": "sa1_vote", "body": 0, "messages": 1, "deadline_s": 60.0}
    out = run_script(consortium, tmp_path / "without", **script)
    assert out["refused"] == [{"b": "GUARD_DOWN"}]
    assert out["answered"] == [1]
    site.start_guard()
    wait_until(lambda: run_script(consortium, tmp_path / "again", **script)["answered"] == [2], "guard found again")


def test_a_killed_superlink_comes_back_with_its_sites_and_takes_a_new_run(consortium: Consortium, tmp_path: Path) -> None:
    os.kill(consortium.hub.pids["superlink"], signal.SIGKILL)
    wait_until(lambda: consortium.hub.restart_dead() == ("superlink",), "death noticed")
    wait_until(consortium.control.answers, "SuperLink back")
    out = run_script(consortium, tmp_path, kind="sa1_update", body=100, messages=1, deadline_s=60.0)
    assert out["answered"] == [2]
    assert {node.node_id for node in consortium.control.nodes() if node.status == "online"} == set(consortium.nodes.values())


def test_a_superlink_killed_during_a_run_delays_that_run(consortium: Consortium, tmp_path: Path) -> None:
    script = {"kind": "sa1_update", "body": 100, "messages": 6, "deadline_s": 60.0, "pause_s": 1.0}
    (tmp_path / "script.json").write_text(json.dumps(script))
    run_id = consortium.submit_scripted(tmp_path)
    wait_until((tmp_path / "message-2.json").exists, "two messages")
    os.kill(consortium.hub.pids["superlink"], signal.SIGKILL)
    wait_until(lambda: consortium.hub.restart_dead() == ("superlink",), "death noticed")
    wait_until(consortium.control.answers, "SuperLink back")
    assert consortium.finish(run_id, 240) == "finished:completed"
    answered = json.loads((tmp_path / "out.json").read_text())["answered"]
    assert answered[:2] == [2, 2]
    assert answered[-1] == 2  # the exchange in flight may be lost, a later one is not


def connected(site: Site) -> bool:
    board = site.folder / "gateway" / "gateway.json"
    return board.exists() and '"connected"' in board.read_text()


def processes_of(site: Site) -> list[psutil.Process]:
    assert site.gateway is not None
    parent = psutil.Process(site.gateway.pid)
    return [parent, *parent.children(recursive=True)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_ended_gateway_leaves_no_process_and_its_successor_is_online_at_once(
    consortium: Consortium, tmp_path: Path, number: signal.Signals
) -> None:
    site = consortium.sites["a"]
    members = processes_of(site)
    assert len(members) == 2
    assert site.gateway is not None
    site.gateway.send_signal(number)
    site.gateway.wait(20)
    wait_until(lambda: not any(process.is_running() for process in members), "no orphan", 10)
    site.start_gateway()
    wait_until(lambda: connected(site), "connected")
    out = run_script(consortium, tmp_path, kind="sa1_vote", body=0, messages=1, deadline_s=60.0)
    assert out["answered"] == [2]


def test_a_killed_supernode_is_started_again(consortium: Consortium, tmp_path: Path) -> None:
    site = consortium.sites["a"]
    supernode = processes_of(site)[1]
    supernode.kill()
    wait_until(lambda: len(processes_of(site)) == 2 and processes_of(site)[1].pid != supernode.pid, "restarted")
    wait_until(lambda: connected(site), "connected")
    out = run_script(consortium, tmp_path, kind="sa1_vote", body=0, messages=1, deadline_s=60.0)
    assert out["answered"] == [2]


def test_a_gateway_takes_its_new_key_by_itself_and_the_hub_lets_the_old_one_in_no_more(
    consortium: Consortium, tmp_path: Path
) -> None:
    """As a change of keys ends: the hub knows the new key, and the guard puts it into the gateway's folder."""
    site = consortium.sites["a"]
    gateway, first = site.gateway, site.node_id
    private, public = make_key(tmp_path / "next")
    former = (site.folder / "supernode.pub").rename(tmp_path / "former.pub")
    consortium.control.unregister_node(first)
    site.node_id = consortium.control.register_node(public, name="a")
    assert site.node_id != first
    private.replace(site.folder / "supernode.key")
    public.replace(site.folder / "supernode.pub")
    wait_until(lambda: consortium.status_of(site) == "online", "connected with the new key", 120.0)
    assert site.gateway is gateway is not None
    assert gateway.poll() is None  # nobody restarted it
    wait_until(lambda: "state=key-changed" in site.gateway_log, "who asks for rosters has noticed too")
    out = run_script(consortium, tmp_path / "run", kind="sa1_vote", body=0, messages=1, deadline_s=60.0)
    assert out["answered"] == [2]
    again = consortium.control.register_node(former, name="a")  # as for a site that comes back with its key
    assert again not in (first, site.node_id)
    consortium.control.unregister_node(again)


class Proxy:
    """A CONNECT proxy that remembers which hosts it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        request = near.recv(4096).split()
        self.asked.append(request[1].decode())
        _, _, port = request[1].decode().partition(":")
        try:
            far = socket.create_connection(("127.0.0.1", int(port)))
        except OSError:
            near.close()
            return
        near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            sink.close()


def test_a_gateway_behind_a_proxy_reaches_the_hub_through_it(consortium: Consortium, tmp_path: Path) -> None:
    proxy, site = Proxy(), consortium.sites["b"]
    address = f"localhost:{consortium.hub.config.port}"
    try:
        assert site.gateway is not None
        site.gateway.terminate()
        site.gateway.wait(20)
        site.start_gateway(superlink=address, HTTPS_PROXY=f"http://127.0.0.1:{proxy.port}", NO_PROXY="")
        wait_until(lambda: connected(site), "connected")
        out = run_script(consortium, tmp_path, kind="sa1_vote", body=0, messages=1, deadline_s=60.0)
        assert out["answered"] == [2]
        assert set(proxy.asked) == {address}  # and nothing of the gateway's own loopback port
    finally:
        assert site.gateway is not None
        site.gateway.terminate()
        site.gateway.wait(20)
        proxy.close()
        site.start_gateway()  # as it was: the next test needs this site, and the old gateway knew no other way than the proxy
        wait_until(lambda: connected(site), "connected without a proxy")


def test_a_stopped_run_stops_its_coordinator(consortium: Consortium, tmp_path: Path) -> None:
    script = {"kind": "sa1_vote", "body": 0, "messages": 1000, "deadline_s": 60.0, "pause_s": 0.5}
    (tmp_path / "script.json").write_text(json.dumps(script))
    run_id = consortium.submit_scripted(tmp_path)
    wait_until((tmp_path / "message-1.json").exists, "running")
    assert consortium.control.stop_run(run_id)
    assert consortium.finish(run_id) == "finished:stopped"
    superexec = psutil.Process(consortium.hub.pids["superexec"])
    living = psutil.STATUS_ZOMBIE
    wait_until(lambda: all(child.status() == living for child in superexec.children(recursive=True)), "coordinator ended", 60)


def test_a_stopped_hub_leaves_no_process(consortium: Consortium) -> None:
    members = [psutil.Process(pid) for pid in consortium.hub.pids.values()]
    consortium.hub.stop()
    time.sleep(0.5)
    assert [process for process in members if process.is_running()] == []
