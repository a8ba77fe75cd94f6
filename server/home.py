"""The lead's folder: keys that only their owner may read, the roster that was verified, and where plans and runs lie.

lead.key  lead.id           this lead's identity
founder.key  founder.name   a founding identity, where this person holds one
founders.pin                the founders' joint fingerprint; no roster by others is ever taken
roster.signed               the roster in force
nodes.json                  site -> node id, as the hub registered the gateways
removed.jsonl               who was taken off the roster, when and why
hub/                        TLS material and state of the hub; in rosters/ all rosters that were in force
plans/  runs/               plans by run id, run folders
"""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path

from consortium import roster as rosters
from consortium.canonical import SITE_ID
from consortium.documents import Signed
from consortium.errors import ConsortiumError
from consortium.identity import SigningKey
from consortium.roster import Roster, verify_roster
from server.errors import ConfigError, ServerError
from server.folder import write_durably
from server.rosters import ROSTERS, keep_roster

HOME_VARIABLE = "WARDROUND_LEAD_HOME"
MAX_NODE_ID = 2**64


@dataclass(frozen=True)
class LeadHome:
    root: Path

    @property
    def lead_key(self) -> Path:
        return self.root / "lead.key"

    @property
    def lead_id(self) -> Path:
        return self.root / "lead.id"

    @property
    def founder_key(self) -> Path:
        return self.root / "founder.key"

    @property
    def founder_name(self) -> Path:
        return self.root / "founder.name"

    @property
    def founders_pin(self) -> Path:
        return self.root / "founders.pin"

    @property
    def roster_file(self) -> Path:
        return self.root / "roster.signed"

    @property
    def nodes_file(self) -> Path:
        return self.root / "nodes.json"

    @property
    def hub(self) -> Path:
        return self.root / "hub"

    @property
    def rosters(self) -> Path:
        """Every roster that was in force; see `server.rosters`."""
        return self.hub / ROSTERS

    @property
    def removed(self) -> Path:
        return self.root / "removed.jsonl"

    @property
    def hub_ca(self) -> Path:
        return self.hub / "tls" / "ca.pem"

    @property
    def hub_address(self) -> Path:
        """Where sites reach the hub, host:port, as the last invite said."""
        return self.hub / "public-address"

    @property
    def plans(self) -> Path:
        return self.root / "plans"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def tracking_store(self) -> str:
        """Default MLflow store: a database beside the hub's state."""
        return f"sqlite:///{self.hub.resolve()}/mlflow.db"

    def signed_roster(self) -> Signed:
        return read_signed(self.roster_file, rosters.KIND)

    def roster(self) -> Roster:
        """The roster in force, verified against the pinned founders."""
        pinned = read_word(self.founders_pin)
        return verify_roster(self.signed_roster(), pinned)

    def lead(self) -> tuple[str, SigningKey]:
        """This lead's id and key."""
        return read_word(self.lead_id), SigningKey.load(self.lead_key)

    def founder(self) -> tuple[str, SigningKey]:
        """The founding identity held here; `ServerError` where there is none."""
        if not self.founder_key.exists():
            raise ServerError(f"{self.root} holds no founder's key: pass the roster to somebody who does")
        return read_word(self.founder_name), SigningKey.load(self.founder_key)

    def nodes(self, path: Path | None = None) -> dict[str, int]:
        """Site -> node id, from `path` or the home's own file. Raises `ConfigError`."""
        file = path or self.nodes_file
        try:
            found = json.loads(file.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot read node ids from {file}: start the hub (it registers the gateways), or give --nodes"
            ) from error
        if not isinstance(found, dict) or not all(_is_node(site, node) for site, node in found.items()):
            raise ConfigError(f'{file}: expected {{"site-id": node id, ...}}')
        return found

    def follow(self, signed: Signed) -> Roster:
        """Put a newer roster in force, if enough of the pinned founders signed it.

        Raises `ServerError` for an older one, and for another one of the same version: sites refuse such a twin, and would then
        refuse every plan made under it. Of two commands at once, the second meets what the first put in force.
        """
        roster = verify_roster(signed, read_word(self.founders_pin))
        with (self.root / ".roster.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held for two small files
            return self._follow(roster, signed)

    def _follow(self, roster: Roster, signed: Signed) -> Roster:
        if self.roster_file.exists():
            current = self.roster()
            if roster.version < current.version:
                raise ServerError(f"roster version {roster.version} is older than the one in force, {current.version}")
            if roster.version == current.version and roster.digest != current.digest:
                raise ServerError(
                    f"two different rosters have version {roster.version}: refused; agree on one with the other founders, and "
                    "sign it with the next version"
                )
        if self.roster_file.exists():
            self.keep_roster()
        write_durably(self.roster_file, signed.encode())
        self.keep_roster()
        return roster

    def keep_roster(self) -> Roster:
        """The roster in force, verified, and kept among those that were: from there sites get it."""
        roster = self.roster()
        keep_roster(self.rosters, self.signed_roster())
        return roster


def _is_node(site: object, node: object) -> bool:
    return isinstance(site, str) and bool(SITE_ID.fullmatch(site)) and type(node) is int and 0 <= node < MAX_NODE_ID


def default_home() -> Path:
    return Path(os.environ.get(HOME_VARIABLE, "wardround-lead"))


def read_word(path: Path) -> str:
    """The one word of a small text file. Raises `ConfigError`."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: run `wardround-lead hub init` first, or give --home") from error


def read_signed(path: Path, kind: str) -> Signed:
    """A signed document from a file; nothing about it is verified yet. Raises `ConfigError`."""
    try:
        return Signed.decode(path.read_bytes(), kind)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ConsortiumError as error:
        raise ConfigError(f"{path} is not a signed {kind}: {error}") from error
