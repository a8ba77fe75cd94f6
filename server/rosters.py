"""All rosters that were ever in force here, one file each: whose key was listed when, and which roster sites get today."""

import fcntl
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from consortium.documents import Signed
from consortium.errors import ConsortiumError
from consortium.question import bare_key
from consortium.roster import KIND, Member, Roster
from server.folder import write_durably

ROSTERS = "rosters"  # the folder's name, in the hub's own
NAME = re.compile(r"roster-([0-9]{10})\.signed")


@dataclass(frozen=True)
class Listed:
    """`keys`: SuperNode key line of every site of the roster in force -> its id; `former`: of earlier rosters alone."""

    version: int
    signed: bytes = field(repr=False)
    keys: Mapping[str, str]
    former: Mapping[str, str]


def keep_roster(folder: Path, signed: Signed) -> None:
    """Add a roster that the caller has verified. A running hub and a command may do so at the same moment: they take turns."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"roster-{signed.document(Roster).version:010d}.signed"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists() or path.read_bytes() != signed.encode():
            write_durably(path, signed.encode())


def kept_rosters(folder: Path) -> Iterator[Signed]:
    """Oldest first. A damaged file is passed by: it says nothing about who was listed."""
    for path in sorted(path for path in folder.glob("roster-*.signed") if NAME.fullmatch(path.name)):
        try:
            signed = Signed.decode(path.read_bytes(), KIND)
            signed.document(Roster)
        except (OSError, ConsortiumError):
            continue
        yield signed


def listed(folder: Path) -> Listed | None:
    """Who is on the newest roster and who was on an earlier one; None where no roster was kept yet."""
    signed = list(kept_rosters(folder))
    if not signed:
        return None
    rosters = [each.document(Roster) for each in signed]
    keys = _keys(rosters[-1])
    former = {key: name for roster in rosters[:-1] for key, name in _keys(roster).items() if key not in keys}
    return Listed(rosters[-1].version, signed[-1].encode(), keys, former)


def former_members(folder: Path, roster: Roster) -> dict[str, Member]:
    """By id, everybody of an earlier roster who is not on `roster`, as last listed."""
    found = {member.id: member for signed in kept_rosters(folder) for member in signed.document(Roster).members}
    return {name: member for name, member in found.items() if name not in {member.id for member in roster.members}}


def _keys(roster: Roster) -> dict[str, str]:
    return {bare_key(site.transport_key): site.id for site in roster.sites}
