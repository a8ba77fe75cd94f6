"""A site's new keys on the next roster: the old key's word, the new key's word, and the fingerprint told by telephone.

The told fingerprint is asked for although the old key signed: whoever stole that key can sign too, and telephones nobody.
"""

import json
from dataclasses import replace
from pathlib import Path

from consortium.documents import Signed
from consortium.errors import ConsortiumError
from consortium.identity import fingerprint
from consortium.roster import Roster
from consortium.rotation import KIND, verify_request
from server.errors import ConfigError, ServerError


def read_request(path: Path) -> Signed:
    """What a site's `rotate-request.json` asks for, unverified. Raises `ConfigError`."""
    try:
        return Signed.decode(bytes.fromhex(json.loads(path.read_text(encoding="ascii"))["request"]), KIND)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ConsortiumError) as error:
        raise ConfigError(f"{path} is no request to change keys: ask for the file that `wardround-site rotate` wrote") from error


def rotate_site(roster: Roster, request: Signed, told: str, *, key_lost: bool) -> Roster:
    """The next version of `roster`, the same but for one site's keys. Raises `ConsortiumError` or `ServerError`."""
    member = verify_request(request, roster, key_lost=key_lost)
    if (found := fingerprint(member.identity_key)) != told:
        raise ServerError(f"{member.id}: the request's new key is {found}, you were told {told}: telephone the site")
    members = tuple(member if other.id == member.id else other for other in roster.members)
    return replace(roster, version=roster.version + 1, members=members)
