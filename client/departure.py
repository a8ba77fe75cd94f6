"""A site leaves for good: a signed notice for the lead, and from the moment it is on disk the guard answers nobody again."""

import contextlib

from client.config import load_config
from client.errors import ConfigError
from client.files import write_first
from client.home import Home
from consortium.documents import Signed
from consortium.errors import DocumentError, SignatureError
from consortium.leave import KIND, LeaveNotice, sign_leave, verify_leave
from privacy.ledger import read_entries

KEEP = (
    *("identity.pem", "retired/", "ledger.jsonl", "ledger.jsonl.head", "egress/", "plans/", "population.key", "populations/"),
    "left.signed",
)
MAY_GO = ("prepared/", "gateway/", "personal/", "socket/", "next/")


def leave_consortium(home: Home, reason: str, *, time: str) -> Signed:
    """Sign and keep the notice. A site that has left already gets its first notice again, whatever the reason now."""
    if home.left.exists():
        return read_notice(home)
    key, roster, site = home.load_identity(), home.load_roster(), load_config(home).site
    whole = b"".join(home.ledger.read_bytes().rpartition(b"\n")[:2])  # the guard may be writing the next line
    entries, _ = read_entries(whole, key.public)
    if not entries:
        raise ConfigError(f"no ledger at {home.ledger}: this site never joined")
    try:
        notice = LeaveNotice(roster.consortium, site, roster.version, len(entries), entries[-1].hash, reason, time)
        signed = sign_leave(notice, key)
    except DocumentError as error:
        raise ConfigError(str(error)) from error
    write_first(home.left, signed.encode())
    return read_notice(home)


def read_notice(home: Home) -> Signed:
    """The notice in force, verified. Raises `ConsortiumError` if it is damaged; the guard asks only whether there is one."""
    signed, site = Signed.decode(home.left.read_bytes(), KIND), load_config(home).site
    for public in home.retired_keys():  # of a site that changed its keys after it left
        with contextlib.suppress(SignatureError):
            verify_leave(signed, site, public)
            return signed
    verify_leave(signed, site, home.load_identity().public)
    return signed
