"""A site's keys change without a gap, whatever is killed when: the new ones lie beside the old until the roster lists them.

next/identity.pem  next/supernode.key  next/supernode.pub    made by `wardround-site rotate`; nothing else changes with it
next/key-lost                                                why the old identity key cannot sign, where it is lost
rotate-request.json                                          what the lead needs; nothing in it is secret
retired/FINGERPRINT.pub                                      keys that were in force: they verify, and sign nothing any more
join-request.json                                            has the new keys from then on: a site that comes back comes with them

The switch: (1) the ledger's `key-rotated` entry is on disk; (2) the old public key lies in `retired/`; (3) the gateway's key is
replaced, (4) its public line, (5) the identity key. Killed before (1) the old key is in force everywhere, and the next message or
start begins anew. Killed after it, the ledger names the key in `next/`, and the next start does what is left of (2) to (5).
"""

import json
import logging
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from client.errors import ConfigError
from client.files import private_folder, sync_folder, write_atomic, write_first
from client.home import Home
from client.join_request import write_join_request
from client.transport_key import make_transport_key
from consortium.identity import SigningKey, fingerprint
from consortium.roster import Roster
from consortium.rotation import RotateRequest, sign_request
from privacy.handover import check_in_force
from privacy.ledger import Ledger, Replacement, read_keys

log = logging.getLogger("wardround.guard")

REQUEST: Final = "rotate-request.json"
REASON_MOST: Final = 200


@dataclass(frozen=True)
class Asked:
    """What the steward reads out and hands over. `old`: fingerprint of the key that is replaced."""

    site: str
    old: str
    fingerprint: str
    file: Path


def prepare(home: Home, site: str, *, key_lost: str = "") -> Asked:
    """New keys beside the old ones, and the request that the lead needs; once made, they are kept and asked for again.

    `key_lost`: why the old identity key cannot sign; empty where it can. Raises `ConfigError`, `KeyFileError` or `LedgerError`.
    """
    if home.left.exists():
        raise ConfigError(f"this site left the consortium for good ({home.left}): its keys stay as they are")
    roster, keys = home.load_roster(), read_keys(home.ledger)
    old = None
    if not key_lost:
        old = home.load_identity()
        check_in_force(keys, old.public)
    elif len(key_lost) > REASON_MOST or not (key_lost.isascii() and key_lost.isprintable()):
        raise ConfigError(
            f"the reason must be printable ASCII of at most {REASON_MOST} characters: the ledger shows it to auditors"
        )
    private_folder(home.next_keys)
    new, line = _new_identity(home), _new_transport_key(home)
    if key_lost:
        write_atomic(home.next_keys / "key-lost", key_lost.encode("ascii"))
    else:  # the old key is back, and can vouch for the new one
        (home.next_keys / "key-lost").unlink(missing_ok=True)
    request = RotateRequest(roster.consortium, site, keys.in_force, new.public, line)
    shown = {"id": site, "fingerprint": fingerprint(new.public), "old_fingerprint": fingerprint(keys.in_force)}
    document = shown | {"request": sign_request(request, new, old).encode().hex()}
    write_atomic(home.root / REQUEST, json.dumps(document, indent=1).encode("ascii") + b"\n", mode=0o644)
    return Asked(site, shown["old_fingerprint"], shown["fingerprint"], home.root / REQUEST)


def _new_identity(home: Home) -> SigningKey:
    path = home.next_keys / home.identity.name
    if not path.exists():
        draft = path.with_name(f".{path.name}.draft")
        draft.unlink(missing_ok=True)  # of a command that was killed: nobody knows that key
        SigningKey.generate(os.urandom).save(draft)
        draft.rename(path)
        sync_folder(path.parent)
    return SigningKey.load(path)


def _new_transport_key(home: Home) -> str:
    path = home.next_keys / home.transport_key.name
    public = path.with_suffix(".pub")
    if not public.exists():  # written last
        make_transport_key(path)
    return public.read_text(encoding="ascii").strip()


def open_ledger(home: Home, site: str, roster: Roster, now: datetime) -> tuple[SigningKey, Ledger]:
    """The site's identity key and its open ledger, with a change of keys begun or brought to its end where there is one.

    Raises `ConfigError`, `KeyFileError` or `LedgerError`: with keys and roster that do not fit, nothing is opened.
    """
    fresh = home.load_next()
    listed = next((member.identity_key for member in roster.sites if member.id == site), None)
    if fresh is not None:
        if read_keys(home.ledger).in_force == fresh.public:
            _install(home, site)
            fresh = None
        elif listed == fresh.public and (home.next_keys / "key-lost").exists():
            _take_over(home, site, fresh, roster, now)
            fresh = None
    key = home.load_identity()
    if listed not in (None, key.public, fresh.public if fresh else b""):
        check_in_force(read_keys(home.ledger), key.public)  # says more, where an old key file was put back
        raise ConfigError(
            f"the roster lists another key for {site} than {home.identity}: ask the consortium to update the roster, and join with "
            "the invite that comes with it"
        )
    ledger = Ledger.open(home.ledger, key, now)
    try:
        return follow(home, site, key, ledger, roster, now), ledger
    except BaseException:
        ledger.close()
        raise


def follow(home: Home, site: str, key: SigningKey, ledger: Ledger, roster: Roster, now: datetime) -> SigningKey:
    """The key that signs from now on: the next one where this roster lists it and the ledger was handed over, else `key`."""
    listed = [member.identity_key for member in roster.sites if member.id == site]
    if listed == [key.public] or (fresh := home.load_next()) is None or listed != [fresh.public]:
        return key
    if ledger.key != fresh.public:  # else only the files were left to be done
        ledger.rotate(fresh, roster_version=roster.version, roster_digest=roster.digest, now=now)
    _install(home, site)
    log.warning("roster=%d state=key-rotated key=%s detail=back up this folder", roster.version, fingerprint(fresh.public))
    return fresh


def _take_over(home: Home, site: str, fresh: SigningKey, roster: Roster, now: datetime) -> None:
    reason = (home.next_keys / "key-lost").read_text(encoding="ascii")
    replaced = Replacement(roster.version, roster.digest, reason)
    Ledger.take_over(home.ledger, fresh, now, replaced).close()
    _install(home, site)
    log.warning("roster=%d state=key-replaced key=%s detail=back up this folder", roster.version, fingerprint(fresh.public))


def _install(home: Home, site: str) -> None:
    """Steps 2 to 5, those that are left. The identity key is the last: while it lies in `next/`, there is something left."""
    retired, known = private_folder(home.retired), read_keys(home.ledger).known
    for public in known[:-1]:
        write_first(retired / f"{fingerprint(public)}.pub", public.hex().encode("ascii") + b"\n", mode=0o644)
    public_line = home.transport_key.with_suffix(".pub")
    if (waiting := home.next_keys / public_line.name).exists():  # else it was written before that one went
        write_join_request(home, site, known[-1], waiting.read_text(encoding="ascii").strip())
    for target in (home.transport_key, public_line, home.identity):
        source = home.next_keys / target.name
        if source.exists():  # a copy: in containers the gateway's folder is another volume
            write_atomic(target, source.read_bytes(), mode=0o644 if target == public_line else 0o600)
            source.unlink()
    for leftover in ("key-lost", f".{home.identity.name}.draft"):
        (home.next_keys / leftover).unlink(missing_ok=True)
    (home.root / REQUEST).unlink(missing_ok=True)
    sync_folder(home.next_keys)
