"""A hub, gateways and echoing guards as real processes on this machine, over TLS. For tests and measurements."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.build import build_fab_from_files

from server.flower import BUNDLE, Hub, HubConfig, HubControl

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(claim: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not claim():
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit_s} s: {what}")
        time.sleep(0.1)


def make_key(folder: Path) -> tuple[Path, Path]:
    """(private, public) OpenSSH ECDSA key files, as `wardround-site init` makes them."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = folder / "supernode.key", folder / "supernode.pub"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    )
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH))
    return private, public


def start(folder: Path, program: str, *arguments: object, **settings: str) -> subprocess.Popen[bytes]:
    with (folder / f"{Path(program).stem}.log").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, str(HERE / program), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


@dataclass
class Site:
    name: str
    folder: Path
    hub: Hub
    node_id: int = 0
    guard: subprocess.Popen[bytes] | None = None
    gateway: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "guard.sock"

    @property
    def requests(self) -> list[str]:
        record = self.folder / "requests"
        return record.read_text().splitlines() if record.exists() else []

    @property
    def gateway_log(self) -> str:
        return (self.folder / "run_gateway.log").read_text()

    def start_guard(self) -> None:
        self.guard = start(self.folder, "fake_guard.py", self.socket, self.folder / "requests")
        wait_until(self.socket.exists, f"guard of {self.name}")

    def start_gateway(self, superlink: str = "", **settings: str) -> None:
        access = self.hub.access
        key = self.folder / "supernode.key"
        state = self.folder / "gateway"
        (state / "gateway.json").unlink(missing_ok=True)  # so that a wait for "connected" is for the new one
        self.gateway = start(
            self.folder, "run_gateway.py", superlink or access.address, access.ca, key, self.socket, state, **settings
        )

    def stop(self) -> None:
        for process in (self.gateway, self.guard):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@dataclass
class Consortium:
    """`sites` registered sites with running guards and gateways, all online, under `folder`."""

    folder: Path
    hub: Hub = field(init=False)
    control: HubControl = field(init=False)
    sites: dict[str, Site] = field(default_factory=dict)

    def __post_init__(self) -> None:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HERE)])  # for scripted_coordinator
        self.hub = Hub(HubConfig(self.folder / "hub", free_port()))
        self.hub.start()
        self.control = HubControl(self.hub.access)

    def add_site(self, name: str, *, registered: bool = True) -> Site:
        site = Site(name, self.folder / name, self.hub)
        _, public = make_key(site.folder)
        if registered:
            site.node_id = self.control.register_node(public, name=name)
        self.sites[name] = site
        site.start_guard()
        site.start_gateway()
        return site

    @property
    def nodes(self) -> dict[str, int]:
        return {name: site.node_id for name, site in self.sites.items() if site.node_id}

    def status_of(self, site: Site) -> str:
        return next((node.status for node in self.control.nodes() if node.node_id == site.node_id), "absent")

    def wait_online(self, limit_s: float = 60.0) -> None:
        for site in self.sites.values():
            wait_until(lambda site=site: self.status_of(site) == "online", f"{site.name} online", limit_s)

    def submit_scripted(self, run_dir: Path) -> int:
        """A run of `scripted_coordinator` in `run_dir`, for all registered sites."""
        pyproject = BUNDLE["pyproject.toml"].replace(b"server.flower:app", b"scripted_coordinator:app")
        settings = {"run-dir": str(run_dir), "nodes": json.dumps(self.nodes)}
        return self.control.submit_bundle(build_fab_from_files({"pyproject.toml": pyproject})[0], settings)

    def finish(self, run_id: int, limit_s: float = 120.0) -> str:
        wait_until(lambda: self.control.run_status(run_id).state.startswith("finished"), f"run {run_id}", limit_s)
        return self.control.run_status(run_id).state

    def stop(self) -> None:
        for site in self.sites.values():
            site.stop()
        self.control.close()
        self.hub.stop()


def descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)
