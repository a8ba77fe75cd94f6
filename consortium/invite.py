"""An invite tells a site where the hub is and how to recognise it, and the founders' fingerprint alone makes all of it trusted.

A lead signs hub, certificate authority and the roster's digest; the founders signed the roster, which names the lead; the
site was told the founders' fingerprint. No byte of the file lies outside that chain: what people read in it is written from
the signed documents, and a file that is written in any other way is refused.
"""

import hashlib
import json
import re
import ssl
from dataclasses import dataclass

from cryptography import x509

from consortium.canonical import Json
from consortium.documents import MAX_DOCUMENT, Signed
from consortium.errors import ConsortiumError, DocumentError, EncodingError, SignatureError
from consortium.identity import SigningKey
from consortium.plan import TIME
from consortium.roster import KIND as ROSTER
from consortium.roster import Roster, founders_fingerprint, verify_roster

KIND = "invite"
FORMAT = "wardround/invite/2"
HUB = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}:([0-9]{1,5})")
MAX_FILE = 4 * MAX_DOCUMENT  # two documents in hex


@dataclass(frozen=True)
class Invite:
    """`hub`: host:port as sites reach it. `ca`: certificate of the hub's own authority, DER. `made`: 2026-01-31T12:00:00Z."""

    consortium: str
    roster_digest: bytes
    hub: str
    ca: bytes
    made: str

    def __post_init__(self) -> None:
        check_hub(self.hub)
        if len(self.roster_digest) != 32:
            raise DocumentError("invite: roster_digest must be 32 bytes")
        if not TIME.fullmatch(self.made):
            raise DocumentError("invite: made must look like 2026-01-31T12:00:00Z")
        try:
            x509.load_der_x509_certificate(self.ca)
        except ValueError as error:
            raise DocumentError(f"invite: ca of {len(self.ca)} bytes is no certificate") from error

    @property
    def ca_pem(self) -> str:
        return ssl.DER_cert_to_PEM_cert(self.ca)


def check_hub(address: str) -> None:
    """Raises `DocumentError` unless `address` is host:port."""
    found = HUB.fullmatch(address)
    if found is None or not 1 <= int(found[1]) <= 65535:
        raise DocumentError(f"hub {address[:80]!r} is not host:port, like hub.example.org:443")


def certificate_fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate as pairs of hex digits, as browsers and openssl print it."""
    return ":".join(f"{byte:02X}" for byte in hashlib.sha256(der).digest())


def shown_on_both_sides(roster: Roster, ca: bytes) -> dict[str, str]:
    """The two fingerprints under the names by which every program shows them, so that two people can compare them."""
    return {
        "founders": founders_fingerprint(roster.founders, roster.founders_required),
        "hub certificate authority": certificate_fingerprint(ca),
    }


@dataclass(frozen=True)
class InviteFile:
    """Both documents of one file. Nothing in it is trusted before `verify` returned."""

    signed: Signed
    signed_roster: Signed

    def verify(self, told_founders: str) -> tuple[Invite, Roster]:
        """Hub, authority and roster, if all of it goes back to the founders that were told. Says what differs otherwise."""
        roster = self.signed_roster.expect(ROSTER).document(Roster)
        if (found := founders_fingerprint(roster.founders, roster.founders_required)) != told_founders:
            raise SignatureError(
                f"the invite names founders {found}, you were told {told_founders}: do not join, telephone the consortium"
            )
        verify_roster(self.signed_roster, told_founders)
        invite = self.signed.expect(KIND).document(Invite)
        if not self.signed.signers({lead.id: lead.identity_key for lead in roster.leads}):
            raise SignatureError("no lead signed where the hub is: do not join, ask the lead for a new invite")
        if invite.roster_digest != roster.digest or invite.consortium != roster.consortium:
            raise SignatureError(
                f"the lead signed an invite of {invite.consortium} with another roster than the one beside it (version "
                f"{roster.version}): do not join, ask the lead for a new invite"
            )
        return invite, roster

    def encode(self) -> bytes:
        """JSON that a person can read; every value is one of the signed ones."""
        invite, roster = self.signed.document(Invite), self.signed_roster.document(Roster)
        shown = shown_on_both_sides(roster, invite.ca)
        fields: dict[str, Json] = {
            "format": FORMAT,
            "consortium": invite.consortium,
            "hub": invite.hub,
            **{name.replace(" ", "_"): value for name, value in shown.items()},
            "roster_version": roster.version,
            "made": invite.made,
            "invite": self.signed.encode().hex(),
            "roster": self.signed_roster.encode().hex(),
        }
        return json.dumps(fields, indent=1).encode("ascii") + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> "InviteFile":
        """Raises `EncodingError` for anything but what `encode` writes (line ends may be those of another system)."""
        if len(data) > MAX_FILE:
            raise EncodingError(f"invite of {len(data)} bytes, limit is {MAX_FILE}")
        try:
            found = json.loads(data.decode("ascii"))
        except (ValueError, RecursionError) as error:
            raise EncodingError("not JSON in ASCII: the file is damaged, or no invite") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise EncodingError(f"not an invite in the format {FORMAT}: it was written by another version, or is none")
        try:
            signed = Signed.decode(bytes.fromhex(found["invite"]), KIND)
            made = cls(signed, Signed.decode(bytes.fromhex(found["roster"]), ROSTER))
            written = made.encode()
        except (KeyError, TypeError, ValueError, ConsortiumError) as error:
            raise EncodingError(f"the invite's documents are damaged: {error}") from error
        if data.replace(b"\r\n", b"\n").rstrip(b"\n") != written.rstrip(b"\n"):
            raise EncodingError("the invite does not read as its signed documents say: it was altered")
        return made


def make_invite_file(invite: Invite, signed_roster: Signed, lead: str, key: SigningKey) -> InviteFile:
    return InviteFile(Signed.of(KIND, invite).sign(lead, key), signed_roster)
