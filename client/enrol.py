"""How a hospital comes to be a site: it makes its own keys, hands out only public ones, and pins who the consortium is."""

import os
from pathlib import Path

from client.config import SiteConfig, load_config, write_config
from client.daemon import code_version, create_ledger
from client.errors import ConfigError
from client.files import private_folder, write_atomic
from client.home import Home
from client.join_request import JoinRequest, write_join_request
from client.migrate import forward
from client.transport_key import make_transport_key
from consortium.canonical import SITE_ID
from consortium.documents import Signed
from consortium.errors import ConsortiumError, EncodingError
from consortium.identity import SigningKey, parse_fingerprint
from consortium.invite import KIND as INVITE
from consortium.invite import Invite, InviteFile
from consortium.roster import Roster, verify_roster


def init_site(home: Home, config: SiteConfig) -> JoinRequest:
    """Make this hospital's keys and site.yaml. Raises `ConfigError` if the folder is already a site: keys are never replaced."""
    if not SITE_ID.fullmatch(config.site):
        raise ConfigError(f"site id {config.site!r} must be 1 to 32 of a-z, 0-9 and '-'")
    if home.identity.exists():
        raise ConfigError(f"{home.root} is already a site: its keys are kept; use another folder for another site")
    private_folder(home.root)
    forward(home.root, code_version())
    write_config(home, config)
    key = SigningKey.generate(os.urandom)
    key.save(home.identity)
    private_folder(home.gateway)
    return write_join_request(home, config.site, key.public, make_transport_key(home.transport_key))


def read_invite(path: Path) -> InviteFile:
    """Raises `ConfigError`; nothing in it is verified yet."""
    try:
        return InviteFile.decode(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the invite {path}: {error.strerror}") from error
    except EncodingError as error:
        raise ConfigError(f"{path} is not an invite of this consortium's hub: {error}; ask the lead for a new invite") from error


def join_site(home: Home, *, signed: Signed, trusted_founders: str, now: float) -> Roster:
    """Check and follow the roster, and open this population's ledger, once and for ever. Keys never leave.

    Nothing is written before all checks passed; the ledger comes before the roster, so a joined site without one has lost it.
    """
    config = load_config(home)
    forward(home.root, code_version())
    roster = verify_roster(signed, trusted_founders)
    member = roster.member(config.site)
    if member.role != "site" or member.identity_key not in home.own_keys():
        raise ConfigError(f"the roster lists another key for {config.site}: compare fingerprints with the lead")
    if not home.ledger.exists():
        if home.roster.exists():
            raise ConfigError(
                f"this site joined before, but {home.ledger} is gone: restore it from your backup, nothing is refunded"
            )
        key = home.load_identity()
        create_ledger(home, site=config.site, key=key, roster=roster, population=config.population, now=now)
    return home.follow_roster(signed, trusted_founders)


def join_by_invite(home: Home, file: InviteFile, *, told_founders: str, now: float) -> tuple[Invite, Roster]:
    """Verify the whole invite against the fingerprint that was told out of band, then follow its roster and use its hub.

    `told_founders` may be typed in any usual way. A later invite may move the hub; an older one may not move it back.
    """
    try:
        invite, _ = file.verify(parse_fingerprint(told_founders))
    except ConsortiumError as error:
        raise ConfigError(str(error)) from error
    if home.left.exists():
        raise ConfigError(f"this site left the consortium for good ({home.left}): it cannot join again with this folder")
    _check_newer(home, invite)
    roster = join_site(home, signed=file.signed_roster, trusted_founders=parse_fingerprint(told_founders), now=now)
    private_folder(home.gateway)
    write_atomic(home.hub_ca, invite.ca_pem.encode("ascii"), mode=0o644)
    write_atomic(home.hub_address, f"{invite.hub}\n".encode("ascii"), mode=0o644)
    config = load_config(home)
    write_config(home, SiteConfig(**{**vars(config), "hub": invite.hub}))
    write_atomic(home.invite, file.signed.encode())
    return invite, roster


def _check_newer(home: Home, invite: Invite) -> None:
    if not home.invite.exists():
        return
    try:
        current = Signed.decode(home.invite.read_bytes(), INVITE).document(Invite)
    except ConsortiumError:
        return  # a damaged copy of what is only compared with: this invite was verified by itself
    if invite.made < current.made:
        raise ConfigError(
            f"the invite was made on {invite.made}, the one in use on {current.made}: use the newest, or ask the lead for a new one"
        )
