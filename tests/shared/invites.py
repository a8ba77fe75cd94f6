"""Invites for tests, by whoever signs them, with a real certificate in them."""

import datetime
import functools
import ssl
import tempfile
from pathlib import Path

from consortium.documents import Signed
from consortium.identity import SigningKey
from consortium.invite import Invite, InviteFile, make_invite_file
from consortium.roster import Roster
from server.tls import make_tls

MADE = "2026-02-01T08:30:00Z"
HUB = "hub.example.org:443"


@functools.cache
def authority(name: str = "hub.example.org") -> bytes:
    """A hub authority's certificate, DER; another one for another name."""
    with tempfile.TemporaryDirectory() as folder:
        files = make_tls(Path(folder) / "tls", [name], now=datetime.datetime.now(datetime.UTC))
        return ssl.PEM_cert_to_DER_cert(files.ca.read_text())


def invite_to(
    signed_roster: Signed, lead: str, key: SigningKey, *, hub: str = HUB, made: str = MADE, ca: bytes | None = None
) -> InviteFile:
    roster = signed_roster.document(Roster)
    return make_invite_file(Invite(roster.consortium, roster.digest, hub, ca or authority(), made), signed_roster, lead, key)
