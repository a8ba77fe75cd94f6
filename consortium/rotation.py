"""A site asks for other keys under its old name: its old identity key says so, and the new one proves that it is there. Pure.

Where the old key is lost, the new one signs alone; then only what founders were told by telephone stands for it.
"""

from dataclasses import dataclass

from consortium.documents import Signed
from consortium.errors import SignatureError
from consortium.identity import SigningKey
from consortium.roster import Member, Roster

KIND = "rotate-request"


@dataclass(frozen=True)
class RotateRequest:
    """`old_key`: the identity key that the roster lists until now; the others are to take its and the gateway's place."""

    consortium: str
    site: str
    old_key: bytes
    identity_key: bytes
    transport_key: str


def sign_request(request: RotateRequest, new: SigningKey, old: SigningKey | None) -> Signed:
    """`old`: None where it is lost."""
    signed = Signed.of(KIND, request).sign(_by_new(request.site), new)
    return signed if old is None else signed.sign(request.site, old)


def verify_request(signed: Signed, roster: Roster, *, key_lost: bool) -> Member:
    """The site as the next roster lists it, if its key on this roster and the new key signed exactly this request.

    `key_lost`: the old key's signature is not asked for. Raises `SignatureError` or `DocumentError`.
    """
    request = signed.expect(KIND).document(RotateRequest)
    before = roster.member(request.site)
    if before.role != "site" or request.consortium != roster.consortium:
        raise SignatureError(f"the request is of {request.site} in {request.consortium}: not a site of {roster.consortium}")
    if before.identity_key != request.old_key:
        raise SignatureError(
            f"{before.id}: the request is about another key than roster version {roster.version} lists: make it again"
        )
    signers = signed.signers({before.id: before.identity_key, _by_new(before.id): request.identity_key})
    if _by_new(before.id) not in signers:
        raise SignatureError(f"{before.id}: the new key did not sign the request: make it again")
    if before.id not in signers and not key_lost:
        raise SignatureError(
            f"{before.id}: the old key did not sign the request. If it is lost, say --key-lost: then nothing but what you were "
            "told by telephone says that this is the site, and its ledger will show that to every auditor"
        )
    return Member(before.id, "site", request.identity_key, request.transport_key)


def _by_new(site: str) -> str:
    """Under which name the new key signs: no id of a member has a stroke."""
    return f"{site}/new"
