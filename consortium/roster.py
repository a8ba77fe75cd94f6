"""The roster says who the consortium is: nobody outside it can start, join or approve anything.

It is signed by k of m founding identities; a site pins the founders once (their joint fingerprint, told out of band) and
follows later rosters only with k of their signatures and a higher version.
"""

from dataclasses import dataclass
from typing import Literal

from consortium.canonical import SITE_ID, pack, text
from consortium.documents import Signed
from consortium.errors import DocumentError, SignatureError
from consortium.identity import PUBLIC_SIZE, SigningKey, fingerprint

KIND = "roster"
SALT_SIZE = 16
MAX_SITES = 30  # the masked rings are sized for this (secure aggregation, 4.7)
HELD_OUT = 0.4  # unless founders choose: 60 % train, 20 % are looked at on the way, 20 % are the test
SMALLEST_COHORT = 3  # with two sites each learns the other's update by subtraction


@dataclass(frozen=True)
class Founder:
    name: str
    key: bytes  # Ed25519 public, 32 bytes


@dataclass(frozen=True)
class Member:
    """A hospital (role "site") or a consortium lead. `transport_key`: the SuperNode's public key line, sites only."""

    id: str
    role: Literal["site", "lead"]
    identity_key: bytes  # Ed25519 public, 32 bytes
    transport_key: str


@dataclass(frozen=True)
class Roster:
    """Everybody, and the numbers no coordinator may choose: colluders to tolerate, smallest cohort, who is held out.

    `split_salt` and `held_out_fraction` fix, for ever and at every site alike, which patients no run may train on.
    """

    consortium: str
    version: int
    colluders: int
    minimum_cohort: int
    founders: tuple[Founder, ...]
    founders_required: int
    split_salt: bytes
    held_out_fraction: float
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        _check_founders(self)
        _check_members(self.members)
        if not self.consortium or not self.consortium.isascii() or len(self.consortium) > 64:
            raise DocumentError("roster: the consortium's name must be 1 to 64 ASCII characters")
        if self.version < 1:
            raise DocumentError(f"roster: version {self.version}, the first is 1")
        if self.colluders < 0:
            raise DocumentError(f"roster: colluders {self.colluders}, must be 0 or more")
        if not SMALLEST_COHORT <= self.minimum_cohort <= MAX_SITES:
            raise DocumentError(f"roster: minimum_cohort {self.minimum_cohort}, must be in [{SMALLEST_COHORT}, {MAX_SITES}]")
        if len(self.split_salt) != SALT_SIZE:
            raise DocumentError(f"roster: split_salt of {len(self.split_salt)} bytes, expected {SALT_SIZE}")
        if not 0.0 <= self.held_out_fraction < 1.0:
            raise DocumentError(f"roster: held_out_fraction {self.held_out_fraction}, must be in [0, 1)")

    @property
    def digest(self) -> bytes:
        return Signed.of(KIND, self).digest

    @property
    def sites(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.role == "site")

    @property
    def leads(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.role == "lead")

    def member(self, member_id: str) -> Member:
        """Raises `DocumentError` for a stranger."""
        for member in self.members:
            if member.id == member_id:
                return member
        raise DocumentError(f"{member_id!r} is not on the roster (version {self.version})")


def _check_founders(roster: Roster) -> None:
    names = [founder.name for founder in roster.founders]
    keys = [founder.key for founder in roster.founders]
    if len(set(names)) != len(names) or len(set(keys)) != len(keys):
        raise DocumentError("roster: a founder's name or key appears twice")
    if any(len(key) != PUBLIC_SIZE for key in keys):
        raise DocumentError(f"roster: a founder's key is not {PUBLIC_SIZE} bytes")
    if not 1 <= roster.founders_required <= len(names):
        raise DocumentError(f"roster: founders_required {roster.founders_required}, must be in [1, {len(names)}]")


def _check_members(members: tuple[Member, ...]) -> None:
    for member in members:
        if not SITE_ID.fullmatch(member.id):
            raise DocumentError(f"roster: id {member.id!r} must be 1 to 32 of a-z, 0-9 and '-'")
        if len(member.identity_key) != PUBLIC_SIZE:
            raise DocumentError(f"roster: identity key of {member.id} is not {PUBLIC_SIZE} bytes")
        if (member.role == "site") != bool(member.transport_key):
            raise DocumentError(f"roster: {member.id}: a site has a transport key and a lead has none")
    ids = [member.id for member in members]
    if ids != sorted(set(ids)):
        raise DocumentError("roster: members must be in ascending order of id, each once")
    identity_keys = {member.identity_key for member in members}
    transport_keys = [member.transport_key for member in members if member.transport_key]
    if len(identity_keys) != len(members) or len(set(transport_keys)) != len(transport_keys):
        raise DocumentError("roster: two members share a key; every party makes its own")
    if (sites := sum(member.role == "site" for member in members)) > MAX_SITES:
        raise DocumentError(f"roster: {sites} sites, limit is {MAX_SITES}")


def changes(before: Roster, after: Roster) -> tuple[str, ...]:
    """What is different in `after`, in phrases for people; empty where nothing but the version is."""
    old, new = ({member.id: member for member in roster.members} for roster in (before, after))
    said = [f"joined: {name} ({new[name].role})" for name in new if name not in old]
    said += [f"removed: {name} ({old[name].role})" for name in old if name not in new]
    for name in (name for name in new if name in old and new[name] != old[name]):
        other = "other identity key" if new[name].identity_key != old[name].identity_key else "other gateway key or role"
        said.append(f"{other}: {name}")
    for field in ("consortium", "colluders", "minimum_cohort", "founders_required", "held_out_fraction"):
        if (was := getattr(before, field)) != (now := getattr(after, field)):
            said.append(f"{field.replace('_', ' ')}: {was} before, {now} now")
    if before.split_salt != after.split_salt:
        said.append("patients are split in another way")
    return tuple(said)


def least_sites(roster: Roster) -> int:
    """Participants that a run needs at least: fewer honest sites do not hide each other (secure aggregation, 4.1)."""
    return max(roster.minimum_cohort, roster.colluders + 2)


def founders_fingerprint(founders: tuple[Founder, ...], required: int) -> str:
    """What a site pins at join: names, keys and quorum of the founders, in 32 hex digits."""
    flat = [field for founder in founders for field in (text(founder.name), founder.key)]
    return fingerprint(pack(text(str(required)), *flat))


def sign_roster(roster: Roster | Signed, name: str, key: SigningKey) -> Signed:
    signed = roster if isinstance(roster, Signed) else Signed.of(KIND, roster)
    return signed.sign(name, key)


def verify_roster(signed: Signed, trusted_founders: str) -> Roster:
    """The roster, if k of the pinned founders signed exactly these bytes; raises `SignatureError` or `DocumentError`."""
    roster = signed.expect(KIND).document(Roster)
    if (found := founders_fingerprint(roster.founders, roster.founders_required)) != trusted_founders:
        raise SignatureError(
            f"roster names founders {found}, this party pinned {trusted_founders}: do not continue, telephone them"
        )
    signers = signed.signers({founder.name: founder.key for founder in roster.founders})
    if len(signers) < roster.founders_required:
        raise SignatureError(f"roster has {len(signers)} founders' signatures, needs {roster.founders_required}")
    return roster
