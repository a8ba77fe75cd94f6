"""A site's decision about one plan, by digest: what was approved can not be changed afterwards.

`approve-until` ends by itself; a later decision of the same site replaces an earlier one.
"""

from dataclasses import dataclass
from typing import Literal

from consortium.documents import Signed
from consortium.errors import DocumentError, SignatureError
from consortium.identity import SigningKey
from consortium.plan import TIME

KIND = "approval"


@dataclass(frozen=True)
class Approval:
    """`until` and `decided`: UTC, like 2026-01-31T12:00:00Z; `until` is empty unless the decision is approve-until."""

    plan_digest: bytes
    site: str
    decision: Literal["approve", "approve-until", "refuse"]
    until: str
    reason: str
    decided: str

    def __post_init__(self) -> None:
        if len(self.plan_digest) != 32:
            raise DocumentError("approval: plan_digest must be 32 bytes")
        if not TIME.fullmatch(self.decided):
            raise DocumentError("approval: decided must look like 2026-01-31T12:00:00Z")
        if (self.decision == "approve-until") != bool(TIME.fullmatch(self.until)) or (
            self.decision != "approve-until" and self.until
        ):
            raise DocumentError("approval: until belongs to approve-until alone, like 2026-01-31T12:00:00Z")
        if self.decision == "refuse" and not self.reason:
            raise DocumentError("approval: a refusal states its reason")
        if len(self.reason) > 500:
            raise DocumentError(f"approval: reason of {len(self.reason)} characters, limit is 500")

    def allows(self, now: str) -> bool:
        """Whether training is allowed at `now` (same format: the text order is the time order)."""
        if not TIME.fullmatch(now):  # an empty or foreign form would sort before `until` and allow
            raise DocumentError(f"approval: the time {now!r} does not look like 2026-01-31T12:00:00Z")
        return self.decision == "approve" or (self.decision == "approve-until" and now <= self.until)


def sign_approval(approval: Approval, key: SigningKey) -> Signed:
    return Signed.of(KIND, approval).sign(approval.site, key)


def verify_approval(signed: Signed, site: str, public: bytes) -> Approval:
    approval = signed.expect(KIND).document(Approval)
    if approval.site != site or signed.signers({site: public}) != (site,):
        raise SignatureError(f"approval is not signed by {site}")
    return approval
