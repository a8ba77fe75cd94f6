"""Where a site keeps what it must not lose: one folder, every path named here once.

Everything in it is plain: keys as PEM, the ledger and the egress manifests as text, plans and approvals as the signed bytes.
Two folders in it may be volumes of their own, and are all that a gateway in a container sees: `gateway` and `socket`.
"""

from dataclasses import dataclass
from pathlib import Path

from client.errors import ConfigError
from client.files import private_folder, write_atomic
from consortium.documents import Signed
from consortium.errors import ConsortiumError
from consortium.identity import SigningKey
from consortium.roster import Roster, verify_roster

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

    def load_identity(self) -> SigningKey:
        return SigningKey.load(self.identity)

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
        """Take a roster: pins the founders the first time; later ones need the same founders and a higher version."""
        roster = verify_roster(signed, trusted_founders)
        if self.founders_pin.exists() and self.founders_pin.read_text("ascii").strip() != trusted_founders:
            raise ConfigError("the roster names other founders than this site pinned: refused; telephone the consortium")
        if self.roster.exists():
            current = self.load_roster()
            if roster.version < current.version:
                raise ConfigError(f"roster version {roster.version} is older than the one in force, {current.version}: refused")
            if roster.version == current.version and roster.digest != current.digest:
                raise ConfigError(f"two different rosters have version {roster.version}: refused; telephone the consortium")
        write_atomic(self.founders_pin, f"{trusted_founders}\n".encode("ascii"))
        write_atomic(self.roster, signed.encode())
        return roster
