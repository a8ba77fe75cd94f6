"""A leave notice: a site says, signed, that it takes part no more, and how far its ledger went."""

from dataclasses import dataclass

from consortium.canonical import SITE_ID
from consortium.documents import Signed
from consortium.errors import DocumentError, SignatureError
from consortium.identity import SigningKey
from consortium.plan import TIME

KIND = "leave-notice"
MAX_REASON = 500


@dataclass(frozen=True)
class LeaveNotice:
    """`entries`, `ledger_head`: length of the site's ledger and hash of its last line. `left`: UTC, 2026-01-31T12:00:00Z."""

    consortium: str
    site: str
    roster_version: int
    entries: int
    ledger_head: bytes
    reason: str
    left: str

    def __post_init__(self) -> None:
        if not SITE_ID.fullmatch(self.site):
            raise DocumentError(f"{KIND}: site id {self.site!r} is not of a-z, 0-9 and '-'")
        if not 1 <= len(self.reason) <= MAX_REASON:
            raise DocumentError(f"{KIND}: reason of {len(self.reason)} characters, must be 1 to {MAX_REASON}")
        if not TIME.fullmatch(self.left):
            raise DocumentError(f"{KIND}: left must look like 2026-01-31T12:00:00Z")
        if self.roster_version < 1 or self.entries < 1 or len(self.ledger_head) != 32:
            raise DocumentError(f"{KIND}: roster_version and entries count from 1, ledger_head has 32 bytes")


def sign_leave(notice: LeaveNotice, key: SigningKey) -> Signed:
    return Signed.of(KIND, notice).sign(notice.site, key)


def verify_leave(signed: Signed, site: str, public: bytes) -> LeaveNotice:
    """The notice, if `site` alone signed it with the key `public`."""
    notice = signed.expect(KIND).document(LeaveNotice)
    if notice.site != site or signed.signers({site: public}) != (site,):
        raise SignatureError(f"{KIND} is not signed by {site}")
    return notice
