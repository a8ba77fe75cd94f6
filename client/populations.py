"""The ledger's record of whose data was used: an entry before the first computation about other patients than before.

What tells "withdrawn" from "left" is a file of keyed names beside the site's keys, one for each task; it never leaves. Where it is
lost, the entry says that it is not known how the patients changed.
"""

import json
import os
from datetime import datetime
from pathlib import Path

from client.errors import SiteError
from client.files import private_folder, write_atomic, write_first
from client.job import Population
from privacy.entries import NO_POPULATION, PopulationChanged
from privacy.ledger import Ledger

KEY_BYTES = 32


class Populations:
    """Files `<task>.json` in a folder: the keyed names of the patients that the ledger's last entry is about."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def record(self, task: str, now: Population, ledger: Ledger, time: datetime) -> tuple[str, ...]:
        """The change, in the ledger before this returns; what changed, nothing if nothing did.

        The names are written after the entry: after a crash between both the entry stands, and the next one says "unknown".
        """
        before = ledger.population_digest(task)
        if before == now.digest:
            return ()
        how = ("first",) if before == NO_POPULATION else self._how(task, before, now)
        ledger.append("population-changed", PopulationChanged(task, before, now.digest, how), time)
        names = {"digest": now.digest.hex(), "members": sorted(name.hex() for name in now.members)}
        private_folder(self._folder)
        write_atomic(self._path(task), json.dumps(names).encode("ascii"))
        return how

    def _how(self, task: str, before: bytes, now: Population) -> tuple[str, ...]:
        known = self._read(task)
        if known is None or known[0] != before:
            return ("unknown",)
        gone, new = known[1] - now.members, now.members - known[1]
        how = {"withdrawn": gone & now.withdrawn, "left": gone - now.withdrawn, "joined": new}
        return tuple(sorted(name for name, members in how.items() if members)) or ("unknown",)

    def _read(self, task: str) -> tuple[bytes, frozenset[bytes]] | None:
        try:
            found = json.loads(self._path(task).read_bytes())
            return bytes.fromhex(found["digest"]), frozenset(bytes.fromhex(name) for name in found["members"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _path(self, task: str) -> Path:
        return self._folder / f"{task}.json"


def population_key(path: Path) -> bytes:
    """The site's secret for keyed names, made with its first use. Raises `SiteError` for a file that is none.

    A key of its own, not the identity's: the process that holds patients needs it, and must never be able to sign.
    """
    try:
        if not path.exists():
            write_first(path, os.urandom(KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise SiteError(f"cannot read or make {path}: {error.strerror}; check the folder and its owner") from error
    if len(key) != KEY_BYTES:
        raise SiteError(
            f"{path} has {len(key)} bytes, expected {KEY_BYTES}: restore it, or remove it and the ledger says 'unknown'"
        )
    return key
