"""What a hospital hands to the lead to be put on the roster, as a file: public keys alone, always those that it has now."""

import json
from dataclasses import asdict, dataclass

from client.files import write_atomic
from client.home import Home
from consortium.identity import fingerprint


@dataclass(frozen=True)
class JoinRequest:
    """What the consortium needs to put a site on the roster; nothing in it is secret."""

    id: str
    identity_key: str  # hex
    transport_key: str  # OpenSSH public key line
    fingerprint: str  # of the identity key; read it over the telephone


def write_join_request(home: Home, site: str, public: bytes, transport_key: str) -> JoinRequest:
    """`join-request.json` in the site's folder. `public`: of the identity key."""
    request = JoinRequest(site, public.hex(), transport_key, fingerprint(public))
    write_atomic(home.root / "join-request.json", json.dumps(asdict(request), indent=1).encode("ascii") + b"\n", mode=0o644)
    return request
