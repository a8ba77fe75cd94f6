"""The gateways that the hub lets in are those of the roster in force: a new site's is registered, a removed one's shut out.

The hub does this by itself, when it starts and whenever the roster changes; commands that change the roster do it at once where
the hub runs on their machine. Doing it twice changes nothing.
"""

import contextlib
import fcntl
import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from consortium.errors import ConsortiumError
from server.errors import ServerError
from server.folder import write_durably
from server.home import LeadHome

LOOK_S = 0.5
RETRY_S = 2.0
QUIET_S = 30.0  # a hub that is just starting does not answer yet: nobody needs to read that

log = logging.getLogger("wardround.hub")


class RegisteredNode(Protocol):
    @property
    def node_id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def public_key(self) -> bytes: ...


class Registry(Protocol):
    """What is asked of a hub (`server.flower.HubControl`)."""

    def nodes(self) -> Sequence[RegisteredNode]: ...
    def register_node(self, public_key_file: Path, *, name: str) -> int: ...
    def unregister_node(self, node_id: int) -> None: ...
    def close(self) -> None: ...


ReadKey = Callable[[Path], bytes]


@dataclass(frozen=True)
class Agreement:
    """`nodes`: site -> node id, all of the roster. `shut_out`: names of gateways that were registered and are on it no more."""

    version: int
    nodes: dict[str, int]
    shut_out: tuple[str, ...]


def agree(home: LeadHome, hub: Registry, read_key: ReadKey) -> Agreement:
    """Make the hub's registered gateways those of the roster in force, and write their node ids down.

    `read_key`: a public key file as the hub transmits it. Raises `ServerError` with the hub's reason.
    """
    with _turn(home), tempfile.TemporaryDirectory() as folder:
        roster, nodes = home.keep_roster(), {}
        files = {site.id: _key_file(Path(folder), site.id, site.transport_key) for site in roster.sites}
        shut_out = _shut_out(hub, files, read_key)
        failed: list[ServerError] = []
        for name, file in files.items():
            try:
                nodes[name] = hub.register_node(file, name=name)
            except ServerError as error:  # one site's key must not keep the others out
                failed.append(ServerError(f"{name}: {error}"))
        write_durably(home.nodes_file, json.dumps(nodes, indent=1, sort_keys=True).encode("ascii"))
    if failed:
        raise failed[0]
    log.info("roster=%d state=gateways-agreed registered=%d shut_out=%s", roster.version, len(nodes), ",".join(shut_out) or "none")
    return Agreement(roster.version, nodes, shut_out)


def _shut_out(hub: Registry, files: dict[str, Path], read_key: ReadKey) -> tuple[str, ...]:
    registered = [node for node in hub.nodes() if node.status != "unregistered"]
    wanted = {read_key(file) for file in files.values()} if registered else set()
    strangers = [node for node in registered if node.public_key not in wanted]
    for node in strangers:
        hub.unregister_node(node.node_id)
    return tuple(sorted(node.name for node in strangers))


def _key_file(folder: Path, name: str, line: str) -> Path:
    file = folder / f"{name}.pub"
    file.write_text(f"{line}\n", encoding="ascii")
    return file


@contextlib.contextmanager
def _turn(home: LeadHome) -> Iterator[None]:
    """The hub itself and a command may do it at the same moment: a key that is registered twice is refused."""
    home.hub.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home.hub / "registrar.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Registrar:
    """Keeps a running hub in agreement with `home` until `stop`; what fails is told once in the log and tried again."""

    def __init__(self, home: LeadHome, connect: Callable[[], Registry], read_key: ReadKey) -> None:
        self._home, self._connect, self._read_key = home, connect, read_key
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registrar", daemon=True)

    def __enter__(self) -> "Registrar":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(RETRY_S)

    def _run(self) -> None:
        agreed, told, failing_since = b"", "", time.monotonic()
        while not self._stopped.wait(LOOK_S):
            try:
                data = self._home.roster_file.read_bytes()
                if data == agreed:
                    failing_since = time.monotonic()
                    continue
                with contextlib.closing(self._connect()) as hub:
                    agree(self._home, hub, self._read_key)
                agreed, told, failing_since = data, "", time.monotonic()
            except (ServerError, ConsortiumError, OSError) as error:
                if str(error) != told and time.monotonic() - failing_since > QUIET_S:
                    told = str(error)
                    log.warning("state=gateways-not-agreed detail=%s", told)
                self._stopped.wait(RETRY_S)
