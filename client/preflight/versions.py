"""Which versions of site and hub work together: the same major, minors at most one apart."""

import re
from typing import Final

VERSION: Final = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?:[.+-]?[0-9A-Za-z.+-]{0,40})?")


def versions_fit(ours: str, theirs: str) -> str | None:
    """None if a site of version `ours` works with a hub of version `theirs`; else which side must be updated, to what."""
    mine, hubs = VERSION.fullmatch(ours), VERSION.fullmatch(theirs)
    if mine is None or hubs is None:
        return f"version {ours} here, {theirs[:40]!r} at the hub: one of them is no version"
    here, there = (int(mine[1]), int(mine[2])), (int(hubs[1]), int(hubs[2]))
    if here[0] == there[0] and abs(here[1] - there[1]) <= 1:
        return None
    if here < there:
        return f"version {ours} here, {theirs} at the hub: update this site to {there[0]}.{there[1]}"
    return f"version {ours} here, {theirs} at the hub: ask the lead to update the hub to {here[0]}.{here[1]}"
