"""How a hospital comes to be a site: it makes its own keys, hands out only public ones, and pins who the consortium is."""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.config import SiteConfig, load_config, write_config
from client.daemon import create_ledger
from client.errors import ConfigError
from client.files import private_folder, write_atomic
from client.home import Home
from consortium.canonical import SITE_ID
from consortium.documents import Signed
from consortium.identity import SigningKey, fingerprint
from consortium.roster import Roster, verify_roster

HUB = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}:[0-9]{1,5}")


@dataclass(frozen=True)
class JoinRequest:
    """What the consortium needs to put a site on the roster; nothing in it is secret."""

    id: str
    identity_key: str  # hex
    transport_key: str  # OpenSSH public key line
    fingerprint: str  # of the identity key; read it over the telephone


def init_site(home: Home, config: SiteConfig) -> JoinRequest:
    """Make this hospital's keys and site.yaml. Raises `ConfigError` if the folder is already a site: keys are never replaced."""
    if not SITE_ID.fullmatch(config.site):
        raise ConfigError(f"site id {config.site!r} must be 1 to 32 of a-z, 0-9 and '-'")
    if home.identity.exists():
        raise ConfigError(f"{home.root} is already a site: its keys are kept; use another folder for another site")
    private_folder(home.root)
    write_config(home, config)
    key = SigningKey.generate(os.urandom)
    key.save(home.identity)
    request = JoinRequest(config.site, key.public.hex(), _make_transport_key(home), fingerprint(key.public))
    write_atomic(home.root / "join-request.json", json.dumps(asdict(request), indent=1).encode("ascii") + b"\n", mode=0o644)
    return request


def _make_transport_key(home: Home) -> str:
    """The SuperNode's key pair (ECDSA P-384, the kind Flower authenticates with); returns the public line."""
    private = ec.generate_private_key(ec.SECP384R1())
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    line = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    private_folder(home.gateway)
    write_atomic(home.transport_key, pem)
    write_atomic(home.transport_key.with_suffix(".pub"), line + b"\n", mode=0o644)
    return line.decode("ascii")


@dataclass(frozen=True)
class Invite:
    """What the hub hands to a site, in one file: where it is, how to recognise it, and the signed roster.

    Only `founders`, compared with what the site was told out of band, makes any of it trustworthy.
    """

    hub: str
    ca: str  # PEM
    founders: str  # fingerprint
    roster: str  # hex of the signed roster


def read_invite(path: Path) -> Invite:
    try:
        invite = Invite(**json.loads(path.read_text(encoding="ascii")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is not an invite of this consortium's hub: ask the lead for a new one") from error
    if not all(isinstance(value, str) and value.isascii() for value in vars(invite).values()):
        raise ConfigError(f"{path}: everything in an invite is text: ask the lead for a new one")
    if not HUB.fullmatch(invite.hub):
        raise ConfigError(f"{path}: hub {invite.hub[:80]!r} is not host:port: ask the lead for a new invite")
    return invite


def join_site(home: Home, *, signed: Signed, trusted_founders: str, now: float) -> Roster:
    """Check and follow the roster, and open this population's ledger, once and for ever. Keys never leave.

    Nothing is written before all checks passed; the ledger comes before the roster, so a joined site without one has lost it.
    """
    config = load_config(home)
    key = home.load_identity()
    roster = verify_roster(signed, trusted_founders)
    member = roster.member(config.site)
    if member.role != "site" or member.identity_key != key.public:
        raise ConfigError(f"the roster lists another key for {config.site}: compare fingerprints with the lead")
    if not home.ledger.exists():
        if home.roster.exists():
            raise ConfigError(
                f"this site joined before, but {home.ledger} is gone: restore it from your backup, nothing is refunded"
            )
        create_ledger(home, site=config.site, key=key, roster=roster, population=config.population, now=now)
    return home.follow_roster(signed, trusted_founders)


def join_by_invite(home: Home, invite: Invite, *, told_founders: str, now: float) -> Roster:
    """`told_founders`: the fingerprint that was told out of band; an invite that names another one is refused."""
    if invite.founders != told_founders:
        raise ConfigError(
            f"the invite names founders {invite.founders}, you were told {told_founders}: do not join, telephone the consortium"
        )
    try:
        signed = Signed.decode(bytes.fromhex(invite.roster), "roster")
    except ValueError as error:
        raise ConfigError("the invite's roster is damaged: ask the lead for a new invite") from error
    roster = join_site(home, signed=signed, trusted_founders=told_founders, now=now)
    private_folder(home.gateway)
    write_atomic(home.hub_ca, invite.ca.encode("ascii"), mode=0o644)
    write_atomic(home.hub_address, f"{invite.hub}\n".encode("ascii"), mode=0o644)
    config = load_config(home)
    write_config(home, SiteConfig(**{**vars(config), "hub": invite.hub}))
    return roster
