"""Where a site keeps what it must not lose: one folder, every path named here once.

Everything in it is plain: keys as PEM, the ledger and the egress manifests as text, plans and approvals as the signed bytes.
Two folders in it may be volumes of their own, and are all that a gateway in a container sees: `gateway` and `socket`.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from client.clock import utc
from client.errors import ConfigError
from client.files import private_folder, write_atomic
from consortium.documents import Signed
from consortium.errors import ConsortiumError
from consortium.identity import SigningKey, fingerprint
from consortium.roster import Roster, changes, verify_roster

HOME_VARIABLE = "WARDROUND_SITE_HOME"


@dataclass(frozen=True)
class Home:
    """The site's state folder (mode 0700)."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "site.yaml"

    @property
    def identity(self) -> Path:
        return self.root / "identity.pem"

    @property
    def transport_key(self) -> Path:
        return self.root / "gateway" / "supernode.key"

    @property
    def next_keys(self) -> Path:
        """Keys that wait for a roster that lists them (`client.rotation`)."""
        return self.root / "next"

    @property
    def retired(self) -> Path:
        """Public keys that this site signed with before."""
        return self.root / "retired"

    @property
    def hub_ca(self) -> Path:
        return self.root / "gateway" / "hub-ca.pem"

    @property
    def hub_address(self) -> Path:
        """Where the hub is, for a gateway that has this folder and not site.yaml."""
        return self.root / "gateway" / "hub.address"

    @property
    def gateway(self) -> Path:
        return private_folder(self.root / "gateway")

    @property
    def policy(self) -> Path:
        return self.root / "policy.yaml"

    @property
    def roster(self) -> Path:
        return self.root / "roster.signed"

    @property
    def roster_changes(self) -> Path:
        """One JSON line for each roster that replaced another: when, and what was different."""
        return self.root / "roster-changes.jsonl"

    @property
    def invite(self) -> Path:
        """The invite that hub address and certificate authority are from."""
        return self.root / "invite.signed"

    @property
    def left(self) -> Path:
        """The leave notice; while it exists, which is for good, nothing is answered."""
        return self.root / "left.signed"

    @property
    def founders_pin(self) -> Path:
        return self.root / "founders.fingerprint"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def population_key(self) -> Path:
        return self.root / "population.key"

    @property
    def populations(self) -> Path:
        return self.root / "populations"

    @property
    def paused(self) -> Path:
        return self.root / "paused"

    @property
    def socket(self) -> Path:
        return self.root / "socket" / "guard.sock"

    @property
    def plans(self) -> Path:
        return private_folder(self.root / "plans")

    @property
    def egress(self) -> Path:
        return private_folder(self.root / "egress")

    @property
    def prepared(self) -> Path:
        """Of scans, as tasks on images read them; made when the first is prepared. It can be deleted: it is made anew."""
        return self.root / "prepared"

    @property
    def log(self) -> Path:
        return private_folder(self.root / "log") / "guard.log"

    @property
    def guard_board(self) -> Path:
        """What the guard is doing: a display for the people here."""
        return self.log.with_name("guard.json")

    @property
    def actions(self) -> Path:
        """What people decided here, by command or page."""
        return self.log.with_name("steward.log")

    def load_identity(self) -> SigningKey:
        return SigningKey.load(self.identity)

    def load_next(self) -> SigningKey | None:
        """The identity key that waits for its roster; None where there is none."""
        path = self.next_keys / self.identity.name
        return SigningKey.load(path) if path.exists() else None

    def own_keys(self) -> tuple[bytes, ...]:
        """Public keys under which a roster may list this site: the one in force, and the next. Raises `KeyFileError` for none."""
        fresh = self.load_next()
        waiting = () if fresh is None else (fresh.public,)
        if waiting and not self.identity.exists():
            return waiting  # lost, and to be replaced
        return (self.load_identity().public, *waiting)

    def retired_keys(self) -> tuple[bytes, ...]:
        """Whose signatures under this site's own decisions are still known. Raises `ConfigError` for a damaged file."""
        files = sorted(self.retired.glob("*.pub"))
        try:
            return tuple(bytes.fromhex(file.read_text("ascii").strip()) for file in files)
        except (OSError, ValueError) as error:
            raise ConfigError(f"a file in {self.retired} is damaged: restore it from your backup") from error

    def fingerprints(self) -> tuple[str, ...]:
        """Of the keys that this site itself knows for its own: the one in force, and those before."""
        return tuple(map(fingerprint, (self.load_identity().public, *self.retired_keys())))

    def load_roster(self) -> Roster:
        """The roster this site follows, checked again against the founders it pinned. Raises `ConfigError`."""
        try:
            pin = self.founders_pin.read_text().strip()
            return verify_roster(Signed.decode(self.roster.read_bytes(), "roster"), pin)
        except OSError as error:
            raise ConfigError(f"no roster in {self.root}: run `wardround-site join INVITE` first") from error
        except ConsortiumError as error:
            raise ConfigError(f"the roster in {self.root} does not verify: {error}") from error

    def follow_roster(self, signed: Signed, trusted_founders: str) -> Roster:
        """Take a roster: pins the founders the first time; later ones need the same founders and a higher version.

        Guard and commands may be given one at the same time: they take turns, and the version never falls.
        """
        roster = verify_roster(signed, trusted_founders)
        if self.founders_pin.exists() and self.founders_pin.read_text("ascii").strip() != trusted_founders:
            raise ConfigError("the roster names other founders than this site pinned: refused; telephone the consortium")
        with self._roster_turn():
            before = self._check_successor(roster)
            write_atomic(self.founders_pin, f"{trusted_founders}\n".encode("ascii"))
            write_atomic(self.roster, signed.encode())
            if before is not None and before.version != roster.version:
                self._note_changes(before, roster)
        return roster

    def _check_successor(self, roster: Roster) -> Roster | None:
        """The roster in force, which `roster` may replace; None where there is none. Raises `ConfigError`."""
        if not self.roster.exists():
            return None
        current = self.load_roster()
        if roster.version < current.version:
            raise ConfigError(f"roster version {roster.version} is older than the one in force, {current.version}: refused")
        if roster.version == current.version and roster.digest != current.digest:
            raise ConfigError(f"two different rosters have version {roster.version}: refused; telephone the consortium")
        return current

    def _note_changes(self, before: Roster, after: Roster) -> None:
        line = {"time": utc(), "from": before.version, "to": after.version, "changes": changes(before, after)}
        with self.roster_changes.open("a", encoding="ascii") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")

    @contextlib.contextmanager
    def _roster_turn(self) -> Iterator[None]:
        with (self.root / "roster.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
