"""How a consortium begins and grows: the founders' roster, a new site on it, and the invite a site joins with.

A site is added only with the fingerprint that its IT read over the telephone: the file alone proves nothing.
"""

import json
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from consortium.documents import Signed
from consortium.errors import DocumentError
from consortium.identity import SigningKey, fingerprint, parse_fingerprint
from consortium.invite import Invite, InviteFile, check_hub, make_invite_file
from consortium.leave import LeaveNotice, verify_leave
from consortium.roster import KIND, SALT_SIZE, Founder, Member, Roster, founders_fingerprint, least_sites, sign_roster
from server.errors import ConfigError, ServerError
from server.folder import write_durably
from server.home import LeadHome, read_word
from server.migrate import code_version, forward
from server.rosters import former_members
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
    forward(home.root, code_version())
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


def add_sites(
    roster: Roster,
    requests: Sequence[tuple[Member, str]],
    *,
    colluders: int | None = None,
    former: Mapping[str, Member] | None = None,
    as_new: bool = False,
) -> Roster:
    """The next version of `roster` with these sites; each comes with the fingerprint that was told out of band.

    `colluders` defaults to a third of the sites, and never falls by itself. `former`: who was on an earlier roster; such an id
    comes back with its old key, and its ledger goes on, unless `as_new` says that it is another site. Raises `ServerError`
    naming the site.
    """
    members = {member.id: member for member in roster.members}
    for member, told in requests:
        if (found := fingerprint(member.identity_key)) != parse_told(told):
            raise ServerError(f"{member.id}: the file's key is {found}, you were told {told}: do not add it, telephone the site")
        if member.id in members and members[member.id] != member:
            raise ServerError(
                f"{member.id} is on the roster with other keys: a site that changes its keys sends rotate-request.json "
                "(`wardround-site rotate`, then `wardround-lead roster rotate-site`); another site needs another id"
            )
        members[member.id] = member
    sites = sum(member.role == "site" for member in members.values())
    tolerated = max(roster.colluders, sites // 3) if colluders is None else colluders
    ordered = tuple(members[name] for name in sorted(members))
    grown = replace(roster, version=roster.version + 1, colluders=tolerated, members=ordered)
    if not as_new:
        check_returning(grown, former or {})
    return grown


def parse_told(typed: str) -> str:
    """A fingerprint as it was told, however it was typed. Raises `ConfigError`."""
    try:
        return parse_fingerprint(typed)
    except DocumentError as error:
        raise ConfigError(f"--told {error}") from error


def check_returning(roster: Roster, former: Mapping[str, Member]) -> None:
    """A former id stands for its old key: with another one the site's privacy budget would begin anew. Raises `ServerError`."""
    for member in roster.members:
        before = former.get(member.id)
        if before is not None and before.identity_key != member.identity_key:
            raise ServerError(
                f"{member.id} was on an earlier roster with key {fingerprint(before.identity_key)}, now with "
                f"{fingerprint(member.identity_key)}: its ledger would begin anew. Take it back with its old key, give it another "
                "id, or say --as-new-site if the founders agree that it is another site, or the same with keys that it changed "
                "meanwhile (`roster rotate-site`)"
            )


def remove_site(roster: Roster, site: str, *, colluders: int | None = None, too_few: bool = False) -> Roster:
    """The next version of `roster` without `site`. Raises `ServerError` where no run could start any more, unless `too_few`.

    `colluders` stays as it is unless given: it is a promise to the others, which founders may change and no removal does.
    """
    if roster.member(site).role != "site":
        raise ServerError(f"{site} is a lead, not a site")
    left = tuple(member for member in roster.members if member.id != site)
    tolerated = roster.colluders if colluders is None else colluders
    smaller = replace(roster, version=roster.version + 1, colluders=tolerated, members=left)
    if len(smaller.sites) < (least := least_sites(smaller)) <= len(roster.sites) and not too_few:
        raise ServerError(
            f"without {site} {len(smaller.sites)} sites are left, and a run needs {least} (minimum cohort {roster.minimum_cohort}, "
            f"{tolerated} colluding tolerated): add another site first, lower --colluders if the founders agree, or say "
            "--allow-too-few to remove it at once although no run can start until another site joins"
        )
    return smaller


def check_notice(signed: Signed, roster: Roster, site: str) -> LeaveNotice:
    """A leave notice by the very site that is removed, from this consortium. Raises `ConsortiumError` or `ServerError`."""
    notice = verify_leave(signed, site, roster.member(site).identity_key)
    if notice.consortium != roster.consortium:
        raise ServerError(f"the notice is about {notice.consortium}, this is {roster.consortium}")
    return notice


def sign_and_follow(home: LeadHome, roster: Roster | Signed, *, as_new: bool = False) -> tuple[Signed, bool]:
    """Add the signature of the founder at hand; True if that was enough and the roster is now in force.

    One that has enough signatures already needs no key here. Raises `ServerError` before anything is signed that could not
    come into force.
    """
    signed = roster if isinstance(roster, Signed) else Signed.of(KIND, roster)
    document = signed.document(Roster)
    _check_next(home, document, as_new=as_new)
    keys = {founder.name: founder.key for founder in document.founders}
    if len(signed.signers(keys)) < document.founders_required:
        name, key = home.founder()
        if keys.get(name) != key.public:
            raise ServerError(f"{home.founder_key} is not the key of a founder called {name!r} on this roster")
        signed = sign_roster(signed, name, key)
    if len(signed.signatures) < document.founders_required:
        return signed, False
    home.follow(signed)
    return signed, True


def _check_next(home: LeadHome, roster: Roster, *, as_new: bool) -> None:
    if (found := founders_fingerprint(roster.founders, roster.founders_required)) != (pin := read_word(home.founders_pin)):
        raise ServerError(f"the roster names founders {found}, pinned here are {pin}: do not sign it, telephone the other founders")
    if not home.roster_file.exists():
        return
    current = home.roster()
    if roster.version < current.version:
        raise ServerError(f"roster version {roster.version} is older than the one in force, {current.version}")
    if not as_new:
        check_returning(roster, former_members(home.rosters, current))


def unsigned_founders(signed: Signed) -> tuple[str, ...]:
    """Founders who may still sign."""
    have = {name for name, _ in signed.signatures}
    return tuple(founder.name for founder in signed.document(Roster).founders if founder.name not in have)


def note_removal(home: LeadHome, roster: Roster, site: str, *, reason: str, notice: Signed | None, now: datetime) -> None:
    """Append who is removed by which roster (in force or to be signed) and why; kept with the lead, in no roster."""
    line = {
        "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "site": site,
        "roster_version": roster.version,
        "reason": reason,
        "notice": None if notice is None else notice.encode().hex(),
    }
    before = home.removed.read_bytes() if home.removed.exists() else b""
    write_durably(home.removed, before + json.dumps(line, sort_keys=True).encode("ascii") + b"\n")


def hub_authority(home: LeadHome) -> bytes:
    """The certificate of this hub's authority, DER. Raises `ConfigError`."""
    try:
        return ssl.PEM_cert_to_DER_cert(home.hub_ca.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the hub's CA certificate {home.hub_ca}: run `wardround-lead hub init`") from error


def known_address(home: LeadHome, given: str) -> str:
    """Where sites reach the hub: as given, or as the last invite said. Raises `ConfigError`."""
    if not given and not home.hub_address.exists():
        raise ConfigError("where do sites reach the hub? give --hub HOST:PORT, like --hub hub.example.org:443")
    try:
        check_hub(address := given or read_word(home.hub_address))
    except DocumentError as error:
        raise ConfigError(str(error)) from error
    return address


def make_invite(home: LeadHome, *, hub: str, now: datetime) -> InviteFile:
    """The invite of the roster in force, signed by this lead. `hub`: host:port as the sites reach it, remembered for the next."""
    roster, (lead, key) = home.roster(), home.lead()
    if lead not in {member.id for member in roster.leads if member.identity_key == key.public}:
        raise ServerError(f"{lead} is not a lead on roster version {roster.version}: an invite needs the signature of one")
    made = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    invite = Invite(roster.consortium, roster.digest, hub, hub_authority(home), made)
    write_durably(home.hub_address, f"{hub}\n".encode("ascii"))
    return make_invite_file(invite, home.signed_roster(), lead, key)


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
