"""A `Line` over the real transport: hub, gateways and guards as processes, TLS between them, one run of a ServerApp as hand.

The hub's SuperLink asks no site for anything that `bridging_coordinator` does not send; the script drives that one.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, Listener
from pathlib import Path

from attack_lines import Carried
from consortium_on_loopback import ROOT, free_port, start, wait_until
from flwr.cli.build import build_fab_from_files
from known_numbers import asked_record

from client.home import Home
from consortium.wire import Refusal, Reply, Request, decode_reply
from server.flower import BUNDLE, Hub, HubConfig, HubControl

HERE = Path(__file__).parent
START_S = 90.0


class OverFlower:
    """A `Line`; what it starts is gone after `close`."""

    def __init__(self, folder: Path, sites: tuple[str, ...]) -> None:
        self.folder = folder
        self.sites = sites
        self._short = Path(tempfile.mkdtemp(prefix="wr-"))  # a socket's path has 107 bytes at most
        self._short.chmod(0o700)
        self._guards: dict[str, subprocess.Popen[bytes]] = {}
        self._gateways: dict[str, subprocess.Popen[bytes]] = {}
        self._listener = Listener(str(self._short / "bridge"), "AF_UNIX")
        self._bridge: Connection | None = None
        self._hub = Hub(HubConfig(folder / "hub", free_port()))
        with _python_path(ROOT, HERE):  # where the ServerApp finds `bridging_coordinator`
            self._hub.start()
        self._control = HubControl(self._hub.access)

    def exchange(self, kind: str, requests: Mapping[str, Request]) -> dict[str, Reply]:
        given = {site: (request.control, request.body) for site, request in requests.items()}
        replies = {site: Reply(*content) for site, content in self._order("exchange", kind, given).items()}
        assert set(replies) == set(requests), f"no reply of {set(requests) - set(replies)}"
        return {site: replies[site] for site in requests}

    def volley(self, site: str, messages: Sequence[tuple[str, Request]]) -> list[Carried]:
        given = [(name, request.control, request.body) for name, request in messages]
        return [Carried(Reply(control, body), arrays) for control, body, arrays in self._order("volley", site, given)]

    def stop(self, site: str) -> None:
        """Without a chance to write anything."""
        guard = self._guards[site]
        if guard.poll() is None:
            guard.send_signal(signal.SIGKILL)
            guard.wait()

    def open(self) -> None:
        for site in self.sites:
            self._launch(site)
        self._open_gateways()
        assert all(map(self._serves, self.sites))
        self._bridge = self._listener.accept()
        for site in self.sites:  # a gateway that came before its guard tries again after a pause
            wait_until(lambda site=site: self._hears(site), f"guard of {site} behind its gateway", START_S)

    def start(self, site: str) -> bool:
        self._launch(site)
        if not self._serves(site):
            return False
        wait_until(lambda: self._hears(site), f"guard of {site} behind its gateway", START_S)
        return True

    def _launch(self, site: str) -> None:
        socket = self.socket(site)
        socket.unlink(missing_ok=True)
        self._guards[site] = start(self.folder, str(HERE / "known_numbers.py"), self.folder, site, socket)

    def _serves(self, site: str) -> bool:
        guard, socket = self._guards[site], self.socket(site)
        wait_until(lambda: socket.exists() or guard.poll() is not None, f"guard of {site}", START_S)
        return guard.poll() is None

    def asked(self, site: str) -> int:
        return len(asked_record(self.folder, site).read_text().splitlines())

    def socket(self, site: str) -> Path:
        return self._short / site / "guard.sock"

    def close(self) -> None:
        if self._bridge is not None:
            self._bridge.send(None)
            self._bridge.close()
        for process in (*self._gateways.values(), *self._guards.values()):
            process.terminate()
        for process in (*self._gateways.values(), *self._guards.values()):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._listener.close()
        self._control.close()
        self._hub.stop()
        shutil.rmtree(self._short)

    def _open_gateways(self) -> None:
        """Register and start the gateways, then the ServerApp, which calls back."""
        access = self._hub.access
        nodes = {}
        for site in self.sites:
            key = Home(self.folder / site).transport_key
            nodes[site] = self._control.register_node(key.with_suffix(".pub"), name=site)
            given = (access.address, access.ca, key, self.socket(site), self.folder / f"{site}-gateway")
            self._gateways[site] = start(self.folder, "run_gateway.py", *given)
        wait_until(lambda: self._online(set(nodes.values())), "gateways online", START_S)
        pyproject = BUNDLE["pyproject.toml"].replace(b"server.flower:app", b"bridging_coordinator:app")
        settings = {"run-dir": str(self._short), "nodes": json.dumps(nodes)}
        run_id = self._control.submit_bundle(build_fab_from_files({"pyproject.toml": pyproject})[0], settings)
        wait_until(lambda: self._control.run_status(run_id).state == "running", "ServerApp running", START_S)

    def _online(self, nodes: set[int]) -> bool:
        return nodes <= {node.node_id for node in self._control.nodes() if node.status == "online"}

    def _hears(self, site: str) -> bool:
        (reply,) = self.exchange("sa1_vote", {site: Request(b"")}).values()
        found = decode_reply(reply.control)
        return isinstance(found, Refusal) and found.code == "UNDECODABLE"

    def _order(self, what: str, to: str, given: object) -> object:
        assert self._bridge is not None
        self._bridge.send((what, to, given))
        return self._bridge.recv()


@contextlib.contextmanager
def _python_path(*folders: Path) -> Iterator[None]:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, folders))
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
