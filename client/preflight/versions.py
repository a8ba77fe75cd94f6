"""Whether this program and the hub's work together: the rule of `consortium.version`, in words for the check."""

from consortium.errors import DocumentError
from consortium.version import APART, parse_version


def versions_fit(ours: str, theirs: str) -> str | None:
    """None if a site of version `ours` works with a hub of version `theirs`; else which side must be updated, to what."""
    try:
        mine, hubs = parse_version(ours), parse_version(theirs)
    except DocumentError:
        return f"version {ours} here, {theirs[:40]!r} at the hub: one of them is no version"
    if mine.major == hubs.major and abs(mine.minor - hubs.minor) <= APART:
        return None
    if mine < hubs:
        return f"version {ours} here, {theirs} at the hub: update this site to {hubs.major}.{hubs.minor}"
    return f"version {ours} here, {theirs} at the hub: ask the lead to update the hub to {mine.major}.{mine.minor}"
