"""How a consortium begins and grows: the founders' roster, a new site on it, and the invite a site joins with.

A site is added only with the fingerprint that its IT read over the telephone: the file alone proves nothing.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from consortium.documents import Signed
from consortium.identity import SigningKey, fingerprint
from consortium.roster import KIND, SALT_SIZE, Founder, Member, Roster, founders_fingerprint, sign_roster
from server.errors import ConfigError, ServerError
from server.folder import write_durably
from server.home import LeadHome, read_word
from server.tls import TlsFiles, make_tls


@dataclass(frozen=True)
class Founding:
    """What the consortium fixes on its first day. `hosts`: names and addresses under which sites reach the hub."""

    consortium: str
    founder: str
    lead: str
    hosts: tuple[str, ...]
    colluders: int
    minimum_cohort: int
    held_out_fraction: float


def init_hub(home: LeadHome, founding: Founding, *, now: datetime) -> tuple[Roster, TlsFiles]:
    """Make founder and lead keys, roster version 1 without sites, and the hub's TLS material. Never replaces anything."""
    if home.roster_file.exists():
        raise ServerError(f"{home.root} already holds a consortium: use another folder for another one")
    home.root.mkdir(parents=True, exist_ok=True)
    founder, lead = SigningKey.generate(os.urandom), SigningKey.generate(os.urandom)
    roster = Roster(
        consortium=founding.consortium,
        version=1,
        colluders=founding.colluders,
        minimum_cohort=founding.minimum_cohort,
        founders=(Founder(founding.founder, founder.public),),
        founders_required=1,
        split_salt=os.urandom(SALT_SIZE),
        held_out_fraction=founding.held_out_fraction,
        members=(Member(founding.lead, "lead", lead.public, ""),),
    )
    founder.save(home.founder_key)
    lead.save(home.lead_key)
    write_durably(home.founder_name, founding.founder.encode("ascii") + b"\n")
    write_durably(home.lead_id, founding.lead.encode("ascii") + b"\n")
    write_durably(home.founders_pin, founders_fingerprint(roster.founders, 1).encode("ascii") + b"\n")
    names = dict.fromkeys((*founding.hosts, "127.0.0.1"))  # the hub's own processes and the lead's commands reach it there
    files = make_tls(home.hub / "tls", tuple(names), now=now)
    home.follow(sign_roster(roster, founding.founder, founder))
    return roster, files


def read_join_request(path: Path) -> Member:
    """The site that made this file. Raises `ConfigError`; whether it is who it says is for `add_sites` to check."""
    try:
        found = json.loads(path.read_text(encoding="ascii"))
        return Member(found["id"], "site", bytes.fromhex(found["identity_key"]), found["transport_key"].strip())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not a join request: ask the site for the file that `wardround-site init` wrote") from error


def add_sites(roster: Roster, requests: Sequence[tuple[Member, str]], *, colluders: int | None = None) -> Roster:
    """The next version of `roster` with these sites; each comes with the fingerprint that was told out of band.

    `colluders` defaults to a third of the sites, and never falls by itself. Raises `ServerError` naming the site.
    """
    members = {member.id: member for member in roster.members}
    for member, told in requests:
        if (found := fingerprint(member.identity_key)) != told:
            raise ServerError(f"{member.id}: the file's key is {found}, you were told {told}: do not add it, telephone the site")
        if member.id in members and members[member.id] != member:
            raise ServerError(f"{member.id} is on the roster with other keys: a changed key needs a new id")
        members[member.id] = member
    sites = sum(member.role == "site" for member in members.values())
    tolerated = max(roster.colluders, sites // 3) if colluders is None else colluders
    ordered = tuple(members[name] for name in sorted(members))
    return replace(roster, version=roster.version + 1, colluders=tolerated, members=ordered)


def sign_and_follow(home: LeadHome, roster: Roster | Signed) -> tuple[Signed, bool]:
    """Add the signature of the founder at hand; True if that was enough and the roster is now in force."""
    name, key = home.founder()
    signed = sign_roster(roster, name, key)
    if len(signed.signatures) < signed.document(Roster).founders_required:
        return signed, False
    home.follow(signed)
    return signed, True


@dataclass(frozen=True)
class Invite:
    """One file for a site: where the hub is, how to recognise it, and the roster. Only the told fingerprint makes it trusted."""

    hub: str
    ca: str  # PEM
    founders: str  # fingerprint
    roster: str  # hex of the signed roster

    def encode(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode("ascii") + b"\n"


def make_invite(home: LeadHome, *, hub: str, ca: Path) -> Invite:
    """The invite of the roster in force. `hub`: host:port as the sites reach it."""
    try:
        authority = ca.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the hub's CA certificate {ca}: run `wardround-lead hub init`") from error
    home.roster()
    return Invite(hub, authority, read_word(home.founders_pin), home.signed_roster().encode().hex())


def roster_document(roster: Roster) -> dict[str, object]:
    """The roster for people: keys as fingerprints. Kind and digest name the exact document."""
    return {
        "kind": KIND,
        "consortium": roster.consortium,
        "version": roster.version,
        "digest": roster.digest.hex(),
        "founders": [{"name": founder.name, "fingerprint": fingerprint(founder.key)} for founder in roster.founders],
        "founders_fingerprint": founders_fingerprint(roster.founders, roster.founders_required),
        "founders_required": roster.founders_required,
        "colluders": roster.colluders,
        "minimum_cohort": roster.minimum_cohort,
        "held_out_fraction": roster.held_out_fraction,
        "members": [
            {"id": member.id, "role": member.role, "fingerprint": fingerprint(member.identity_key)} for member in roster.members
        ],
    }
