"""A site's new keys on the next roster: the old key's word, the new key's word, and the fingerprint told by telephone.

The told fingerprint is asked for although the old key signed: whoever stole that key can sign too, and telephones nobody.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from consortium.documents import Signed
from consortium.errors import ConsortiumError
from consortium.identity import fingerprint
from consortium.roster import Member, Roster
from consortium.rotation import KIND, RotateRequest, verify_request
from server.enrolment import parse_told
from server.errors import ConfigError, ServerError


def read_request(path: Path) -> Signed:
    """What a site's `rotate-request.json` asks for, unverified. Raises `ConfigError`."""
    try:
        return Signed.decode(bytes.fromhex(json.loads(path.read_text(encoding="ascii"))["request"]), KIND)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ConsortiumError) as error:
        raise ConfigError(f"{path} is no request to change keys: ask for the file that `wardround-site rotate` wrote") from error


def rotate_site(
    roster: Roster, request: Signed, told: str, *, key_lost: bool, former: Mapping[str, Member] | None = None
) -> Roster:
    """The next version of `roster`, the same but for one site's keys; `roster` itself where it lists these keys already.

    `former`: who was on an earlier roster. Such a site, taken off because its key was stolen, comes back with its new keys.
    Raises `ConsortiumError` or `ServerError`.
    """
    told = parse_told(told)
    asked = request.expect(KIND).document(RotateRequest)
    before = _with_former(roster, asked.site, former or {})
    wanted = Member(asked.site, "site", asked.identity_key, asked.transport_key)
    member = wanted if wanted in roster.members else verify_request(request, before, key_lost=key_lost)
    if (found := fingerprint(member.identity_key)) != told:
        raise ServerError(f"{member.id}: the request's new key is {found}, you were told {told}: telephone the site")
    if member in roster.members:
        return roster
    members = tuple(member if other.id == member.id else other for other in before.members)
    return replace(roster, version=roster.version + 1, members=members)


def _with_former(roster: Roster, site: str, former: Mapping[str, Member]) -> Roster:
    if site not in former or site in {member.id for member in roster.members}:
        return roster
    return replace(roster, members=tuple(sorted((*roster.members, former[site]), key=lambda member: member.id)))
